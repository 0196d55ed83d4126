"""Vectors about constraints: every pair of types of §4.5, the key rules, and what is malformed (§3.3, §3.4; steps 3n, 4o, 4p)."""

from __future__ import annotations

from typing import Any

from vectors.forge import WILDCARD, Vectors, child, proof, root

Constraint = dict[str, Any]


def exact(value: Any) -> Constraint:
    return {"constraint_type": "exact", "value": value}


def ranged(**members: Any) -> Constraint:
    return {"constraint_type": "range", **members}


def one_of(*values: Any) -> Constraint:
    return {"constraint_type": "one_of", "values": list(values)}


def not_one_of(*values: Any) -> Constraint:
    return {"constraint_type": "not_one_of", "excluded": list(values)}


def contains(*values: Any) -> Constraint:
    return {"constraint_type": "contains", "required": list(values)}


def subset(*values: Any) -> Constraint:
    return {"constraint_type": "subset", "allowed": list(values)}


def all_of(*clauses: Constraint) -> Constraint:
    return {"constraint_type": "all", "constraints": list(clauses)}


def any_of(*clauses: Constraint) -> Constraint:
    return {"constraint_type": "any", "constraints": list(clauses)}


#: A value that passes each constraint below, so that a refusal can only come from the pair.
CHILDREN: dict[str, tuple[Constraint, Any]] = {
    "exact": (exact(5), 5),
    "range": (ranged(min=4, max=6), 5),
    "one_of": (one_of(5, 6), 5),
    "not_one_of": (not_one_of(1, 2, 3), 5),
    "contains": (contains("a", "b"), ["a", "b"]),
    "subset": (subset("a"), ["a"]),
    "all": (all_of(exact(5), WILDCARD), 5),
    "any": (any_of(exact(5)), 5),
    "wildcard": (WILDCARD, 5),
}
#: Parents that admit at least what the child of their own type admits; most admit the others too, and still refuse them by type.
PARENTS: dict[str, Constraint] = {
    "exact": exact(5),
    "range": ranged(min=0, max=10),
    "one_of": one_of(4, 5, 6),
    "not_one_of": not_one_of(1),
    "contains": contains("a"),
    "subset": subset("a", "b"),
    "all": all_of(WILDCARD),
    "any": any_of(WILDCARD),
    "wildcard": WILDCARD,
}
ALLOWED = {(kind, kind) for kind in PARENTS} | {("range", "exact"), ("one_of", "exact")} | {("wildcard", kind) for kind in PARENTS}


def pairs() -> Vectors:
    """All 81 pairs, then the conditions within the permitted ones."""
    out = Vectors("Subsumption (§4.5): may this constraint stand under that one? Step 4p4 says no.")
    for parent, above in PARENTS.items():
        for kind, (below, value) in CHILDREN.items():
            _pair(out, f"{kind} under {parent}", None if (parent, kind) in ALLOWED else "4p4", above, below, value)
    for name, above, below, value in (
        ("exact, another value", exact(5), exact(6), 6),
        ("exact, true under 1", exact(1), exact(True), True),
        ("exact, a string under a number", exact(1), exact("1"), "1"),
        ("exact outside the range", ranged(min=0, max=10), exact(11), 11),
        ("exact on an exclusive bound", ranged(min=0, max=10, max_inclusive=False), exact(10), 10),
        ("exact true under a range around 1", ranged(min=0, max=10), exact(True), True),
        ("exact not among the values", one_of(4, 5), exact(6), 6),
        ("range, max raised", ranged(max=10), ranged(max=11), 5),
        ("range, min lowered", ranged(min=0), ranged(min=-1), 5),
        ("range, a bound dropped", ranged(min=0, max=10), ranged(max=10), 5),
        ("range, inclusive under exclusive", ranged(min=0, min_inclusive=False), ranged(min=0), 5),
        ("one_of, a value added", one_of(4, 5), one_of(5, 6), 5),
        ("not_one_of, an exclusion dropped", not_one_of(1, 2), not_one_of(1), 5),
        ("contains, an element dropped", contains("a", "b"), contains("a"), ["a"]),
        ("contains, all dropped", contains("a"), contains(), ["a"]),
        ("subset, an element added", subset("a"), subset("a", "b"), ["a"]),
        ("all, a clause dropped", all_of(ranged(max=10), ranged(min=0)), all_of(ranged(max=10)), 5),
        ("all, a clause widened", all_of(ranged(max=10)), all_of(ranged(max=11)), 5),
        ("any, an alternative added", any_of(exact(5), exact(6)), any_of(exact(5), exact(7)), 5),
        ("any, narrowed only as a whole", any_of(ranged(max=5), ranged(min=5)), any_of(ranged(max=9)), 5),
        ("nested, widened inside", all_of(any_of(exact(5))), all_of(any_of(exact(5), exact(6))), 5),
    ):
        _pair(out, name, "4p4", above, below, value)
    for name, above, below, value in (
        ("exact 1.0 under exact 1", exact(1), exact(1.0), 1),
        ("exact on an inclusive bound", ranged(min=0, max=10), exact(10), 10),
        ("range, an exclusive end at the same bound", ranged(max=10), ranged(max=10, max_inclusive=False), 5),
        ("range, a bound added", ranged(max=10), ranged(min=1, max=10), 5),
        ("range, a bound stated as the default", ranged(max=10), ranged(max=10, max_inclusive=True), 5),
        ("one_of, reordered with doubles", one_of(4, 5), one_of(5, 5, 4), 5),
        ("one_of under the same objects written otherwise", one_of({"a": 1, "b": 2}), one_of({"b": 2.0, "a": 1}), {"a": 1, "b": 2}),
        ("not_one_of, an exclusion added", not_one_of(1), not_one_of(2, 1), 5),
        ("contains, as sets", contains("a", "a"), contains("a"), ["b", "a"]),
        ("subset, to nothing", subset("a"), subset(), []),
        ("all, one clause for two", all_of(ranged(max=10), ranged(min=0)), all_of(ranged(min=1, max=9)), 5),
        ("all, an exact for two wildcards", all_of(WILDCARD, WILDCARD), all_of(exact(5)), 5),
        ("any, across types inside", any_of(one_of("pdf", "csv"), exact("xls")), any_of(exact("pdf")), "pdf"),
        ("nested, narrowed inside", all_of(any_of(exact(5), exact(6))), all_of(any_of(exact(5))), 5),
        ("a wildcard above, a deep tree below", WILDCARD, _deep(32), 5),
    ):
        _pair(out, name, None, above, below, value)
    return out


def _pair(out: Vectors, name: str, step: str | None, above: Constraint, below: Constraint, value: Any) -> None:
    base = root(f"pair {name}", tools={"t": {"x": above}})
    leaf = child(base, name, tools={"t": {"x": below}})
    out.add(f"pair: {name}", "4.5", step, [base, leaf], call=("t", {"x": value}))


def _deep(depth: int) -> Constraint:
    tree = exact(5)
    for _ in range(depth - 1):
        tree = all_of(tree)
    return tree


def maps() -> Vectors:
    """Key rules (4p2, 4p3) and malformed constraints (3n)."""
    out = Vectors("Argument maps: the key rules of §4.5 (steps 4p2, 4p3), and constraints that are malformed (step 3n).")
    need, may = exact("a"), {**exact("a"), "optional": True}
    closed, opened = {"x": need, "y": may}, {"x": need, "y": may, "*": WILDCARD}
    for name, step, above, below, args in (
        ("an optional argument becomes required", None, closed, {"x": need, "y": need}, {"x": "a", "y": "a"}),
        ("an optional argument is left out", None, closed, {"x": need}, {"x": "a"}),
        ("an optional argument left out is forbidden", "6b", closed, {"x": need}, {"x": "a", "y": "a"}),
        ("star is dropped", None, opened, closed, {"x": "a"}),
        ("star is dropped, and what it admitted", "6b", opened, closed, {"x": "a", "z": 1}),
        ("an argument named under star", None, opened, {**opened, "z": exact(1)}, {"x": "a", "z": 1}),
        ("an argument named under star binds", "6b", opened, {**opened, "z": exact(1)}, {"x": "a", "z": 2}),
        ("an optional argument named under star", None, opened, {**opened, "z": may}, {"x": "a"}),
        ("an empty parent is star", None, {}, {"x": need, "*": WILDCARD}, {"x": "a", "z": 1}),
        ("an empty parent, closed below", None, {}, {"x": need}, {"x": "a"}),
        ("an empty map under star", None, {"*": WILDCARD}, {}, {"q": 1}),
        ("a required argument is left out", "4p2", closed, {"y": may}, {"y": "a"}),
        ("an optional argument is left out beside star", "4p2", opened, {"x": need, "*": WILDCARD}, {"x": "a"}),
        ("dropping the last optional argument opens the map", "4p2", {"y": may}, {}, {}),
        ("star is added", "4p2", closed, opened, {"x": "a"}),
        ("a new argument", "4p2", closed, {**closed, "z": WILDCARD}, {"x": "a", "z": 1}),
        ("a required argument becomes optional", "4p3", closed, {"x": may, "y": may}, {"x": "a"}),
        ("required under star, optional later", None, opened, {**opened, "z": may}, {"x": "a", "z": "a"}),
        ("an argument named in both is compared, not starred", "4p4", opened, {**opened, "y": {**WILDCARD, "optional": True}}, {"x": "a"}),
    ):  # fmt: skip
        base = root(f"map {name}", tools={"t": above})
        out.add(f"map: {name}", "4.5", step, [base, child(base, name, tools={"t": below})], call=("t", args))
    for name, constraint in malformed().items():
        base = root(f"malformed {name}", tools={"t": {"x": WILDCARD}, "unused": {"x": constraint}})
        out.add(f"malformed: {name}", "3.4", "3n", [base], call=("t", {"x": 1}), pop=proof(base, "t", {"x": 1}))
    for name, constraint, value in (
        ("one_of with an object", one_of({"a": 1}), {"a": 1}),
        ("excluded empty", not_one_of(), 1),
        ("required empty", contains(), []),
        ("allowed empty", subset(), []),
        ("a range without bounds", ranged(), 5),
        ("exact null", exact(None), None),
        ("optional false said", {**exact(1), "optional": False}, 1),
        ("a tree of depth 32", _deep(32), 5),
    ):
        out.add(
            f"well-formed: {name}", "3.4", None, [root(f"well-formed {name}", tools={"t": {"x": constraint}})], call=("t", {"x": value})
        )
    hollow = ranged(min=5, max=5, max_inclusive=False)
    out.add("well-formed: a range that accepts nothing", "3.4", "6b", [root("hollow", tools={"t": {"x": hollow}})], call=("t", {"x": 5}))
    return out


def malformed() -> dict[str, Any]:
    """Constraints that make the whole token invalid, even on a tool that nobody calls."""
    return {
        "an unknown type": {"constraint_type": "regex", "pattern": ".*"},
        "an extension type": {"constraint_type": "urn:agentguard:constraint:glob", "pattern": "*"},
        "no type": {"value": 1},
        "a type that is a number": {"constraint_type": 1},
        "not an object": "exact",
        "null": None,
        "exact without value": {"constraint_type": "exact"},
        "exact of an array": exact([1]),
        "exact of an object": exact({}),
        "a member too many": {**exact(1), "values": [1]},
        "a misspelt bound": ranged(maximum=10),
        "one_of empty": one_of(),
        "one_of an object": {"constraint_type": "one_of", "values": {"a": 1}},
        "excluded missing": {"constraint_type": "not_one_of"},
        "required a string": {"constraint_type": "contains", "required": "a"},
        "allowed null": {"constraint_type": "subset", "allowed": None},
        "min above max": ranged(min=2, max=1),
        "a bound that is a string": ranged(max="5"),
        "a bound that is true": ranged(max=True),
        "a bound that is null": ranged(max=None),
        "inclusive without its bound": ranged(max=1, min_inclusive=True),
        "inclusive that is a number": ranged(max=1, max_inclusive=1),
        "wildcard with a member": {**WILDCARD, "value": 1},
        "all empty": all_of(),
        "any empty": any_of(),
        "all over an object": {"constraint_type": "all", "constraints": WILDCARD},
        "any without clauses": {"constraint_type": "any"},
        "a malformed clause deep inside": all_of(any_of(all_of(exact([])))),
        "a tree of depth 33": _deep(33),
        "optional that is a number": {**exact(1), "optional": 1},
        "optional that is null": {**exact(1), "optional": None},
        "optional inside all": all_of({**exact(1), "optional": True}),
        "optional false inside any": any_of({**exact(1), "optional": False}),
    }


def stars() -> Vectors:
    """Malformed `*` entries."""
    out = Vectors('The entry "*": a wildcard without `optional`, or the token is malformed (§3.3, step 3n).')
    for name, constraint in (
        ("optional", {**WILDCARD, "optional": True}),
        ("optional false", {**WILDCARD, "optional": False}),
        ("a range", ranged(max=5)),
        ("all of a wildcard", all_of(WILDCARD)),
        ("null", None),
    ):
        base = root(f"star {name}", tools={"t": {"x": WILDCARD, "*": constraint}})
        out.add(f"star: {name}", "3.3", "3n", [base], call=("t", {"x": 1}))
    return out
