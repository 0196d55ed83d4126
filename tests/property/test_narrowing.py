"""Narrowing is sound, reflexive and transitive, and covers the draft's table; checks are total (AAT -02 §4.5 and §5.1, DESIGN §5).

Constraints are drawn from a small universe of constants, so that relations between them are common, and values from the constants of the
constraints at hand, so that boundaries are hit.
"""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agentguard.canonical import Inadmissible, freeze, number_is_admissible
from agentguard.constraints.narrowing import is_empty
from agentguard.constraints.rules import parse_rule
from agentguard.constraints.tokens import (
    NO_ARGUMENTS,
    Constraint,
    Entry,
    ToolMap,
    admissible,
    map_narrows,
    narrows,
    parse_constraint,
    parse_tool_map,
    plain_narrows,
)
from agentguard.errors import InvalidInput

URN = "urn:agentguard:constraint:"
Json = Any

TEXTS = [
    "",
    "a",
    "b",
    "ab",
    "1",
    "/srv",
    "/srv/a",
    "/srv/a/b",
    "/srv/ab",
    "/srv/../etc",
    "bob@example.com",
    "bob@a.example.com",
    "https://example.com/api",
    "https://a.example.com:8443/api/v1",
    "http://example.com:443/",
    "10.0.0.1",
    "10.1.0.1",
    "2001:db8::1",
    "\n",
    "é",
]
NUMBERS = [-1, 0, 1, 2, 1.0, 1.5, 2.0, 10**23, 1e23, 2**53]
SCALARS = [None, True, False, *NUMBERS, *TEXTS]
COMPOSITES = [[], ["a"], ["a", "b"], [1], [1.0, "a"], [[]], {}, {"a": 1}]
CONSTANTS = [*SCALARS, *COMPOSITES]
WEIRD = [
    object(),
    Inadmissible("1e400"),
    [Inadmissible("1e400")],
    float("nan"),
    float("inf"),
    2**53 + 1,
    10**400,
    "\ud800",
    {1: 2},
    {"\ud800": 1},
    b"a",
]

constants = st.lists(st.sampled_from(CONSTANTS), max_size=3)


def _core(kind: str, **members: st.SearchStrategy[Json]) -> st.SearchStrategy[Json]:
    return st.fixed_dictionaries({"constraint_type": st.just(kind), **members})


@st.composite
def ranges(draw: st.DrawFn) -> Json:
    low, high = sorted(draw(st.lists(st.sampled_from(NUMBERS), min_size=2, max_size=2)))
    result: dict[str, Json] = {"constraint_type": "range"}
    for name, bound in (("min", low), ("max", high)):
        if draw(st.booleans()):
            result[name] = bound
            if draw(st.booleans()):
                result[f"{name}_inclusive"] = draw(st.booleans())
    return result


core_leaves = st.one_of(
    _core("exact", value=st.sampled_from(SCALARS)),
    ranges(),
    _core("one_of", values=st.lists(st.sampled_from(CONSTANTS), min_size=1, max_size=3)),
    _core("not_one_of", excluded=constants),
    _core("contains", required=constants),
    _core("subset", allowed=constants),
    _core("wildcard"),
)


def _some(items: list[Json]) -> st.SearchStrategy[Json]:
    return st.lists(st.sampled_from(items), min_size=1, max_size=2)


@st.composite
def urls(draw: st.DrawFn) -> Json:
    optional = {
        "schemes": _some(["https", "http"]),
        "path": st.sampled_from(["/", "/api", "/api/v1"]),
        "ports": _some([443, 80, 8443]),
    }
    return draw(
        st.fixed_dictionaries(
            {"constraint_type": st.just(URN + "url"), "hosts": _some(["example.com", "*.example.com", "a.example.com", "10.0.0.1"])},
            optional=optional,
        )
    )


@st.composite
def lengths(draw: st.DrawFn) -> Json:
    low, high = sorted(draw(st.lists(st.integers(0, 3), min_size=2, max_size=2)))
    chosen = draw(st.sampled_from([{"min": low}, {"max": high}, {"min": low, "max": high}]))
    return {"constraint_type": URN + "length", **chosen}


extension_leaves = st.one_of(
    _core(URN + "path", root=st.sampled_from(["/", "/srv", "/srv/a"])),
    urls(),
    _core(URN + "glob", pattern=st.text("ab*?/", min_size=1, max_size=5).filter(lambda text: "**" not in text)),
    _core(URN + "regex", pattern=st.sampled_from(["a", "a|b", ".*", "(?s).*", "[ab]*"])),
    _core(URN + "cidr", network=st.sampled_from(["10.0.0.0/8", "10.0.0.0/24", "10.0.0.1/32", "2001:db8::/32"])),
    _core(URN + "email", domains=_some(["example.com", "*.example.com", "a.example.com"])),
    lengths(),
    _core(URN + "type", type=st.sampled_from(["string", "integer", "number", "boolean", "null", "array", "object"])),
)


def _trees(leaves: st.SearchStrategy[Json]) -> st.SearchStrategy[Json]:
    return st.recursive(
        leaves,
        lambda inner: st.builds(
            lambda kind, clauses: {"constraint_type": kind, "constraints": clauses},
            st.sampled_from(["all", "any"]),
            st.lists(inner, min_size=1, max_size=3),
        ),
        max_leaves=5,
    )


def _parsed(tree: Json) -> Constraint:
    return parse_constraint(tree, extensions=True)


plain_constraints = _trees(core_leaves).map(_parsed)
constraints = _trees(st.one_of(core_leaves, extension_leaves)).map(_parsed)

near_texts = st.text("ab/", max_size=4)
values = st.one_of(
    st.sampled_from(CONSTANTS), near_texts, st.lists(st.sampled_from(SCALARS), max_size=3), st.integers(-3, 3), st.floats(-3, 3)
)


def _values_of(tree: Json) -> list[Json]:
    """Every scalar and array inside a constraint: the values at which it may change its mind."""
    if isinstance(tree, dict):
        return [found for name, item in tree.items() if name != "constraint_type" for found in _values_of(item)]
    if isinstance(tree, list):
        return [tree, *(found for item in tree for found in _values_of(item))]
    return [tree]


def _probes(*known: Constraint) -> list[Json]:
    found = [value for constraint in known for value in _values_of(constraint.to_json())]
    numbers = [value for value in found if type(value) in (int, float) and number_is_admissible(value)]
    found += [float(number) for number in numbers] + [int(number) for number in numbers if abs(number) < 2**53]
    return [*found, *CONSTANTS]


@given(constraints, values)
def test_a_constraint_survives_its_token_form(constraint: Constraint, value: Json) -> None:
    again = _parsed(constraint.to_json())
    assert again == constraint
    assert again.to_json() == constraint.to_json()
    assert again.check(value) == constraint.check(value)
    assert constraint.describe() == again.describe()
    assert len(constraint.describe()) <= 200


@given(constraints, values)
def test_frozen_and_plain_values_are_judged_alike(constraint: Constraint, value: Json) -> None:
    assert constraint.check(freeze(value)) is constraint.check(value)


@given(constraints, st.sampled_from(WEIRD))
def test_checks_are_total_and_accept_nothing_inadmissible(constraint: Constraint, value: Any) -> None:
    assert constraint.check(value) is False
    assert constraint.check([value]) is False
    assert constraint.check({"a": (value,)}) is False


@given(constraints, constraints, values)
def test_narrowing_is_sound(child: Constraint, parent: Constraint, value: Json) -> None:
    if narrows(child, parent):
        for probe in [*_probes(child, parent), value]:
            assert not child.check(probe) or parent.check(probe), probe


@given(plain_constraints, plain_constraints, values)
def test_the_drafts_table_is_sound_and_ours_permits_all_of_it(child: Constraint, parent: Constraint, value: Json) -> None:
    if plain_narrows(child, parent):
        assert narrows(child, parent)
        for probe in [*_probes(child, parent), value]:
            assert not child.check(probe) or parent.check(probe), probe


@given(constraints)
def test_narrowing_is_reflexive(constraint: Constraint) -> None:
    assert narrows(_parsed(constraint.to_json()), constraint)  # a copy, since a constraint under itself is not even compared


@given(plain_constraints)
def test_the_drafts_table_is_reflexive(constraint: Constraint) -> None:
    assert plain_narrows(constraint, constraint)


def _transitive(below: list[list[bool]]) -> bool:
    places = range(len(below))
    return all(below[a][c] for a, b, c in itertools.product(places, repeat=3) if below[a][b] and below[b][c])


@settings(max_examples=300, deadline=None)
@given(st.lists(constraints, min_size=3, max_size=9))
def test_narrowing_is_transitive(pool: list[Constraint]) -> None:
    assert _transitive([[narrows(child, parent) for parent in pool] for child in pool])


@settings(max_examples=300, deadline=None)
@given(st.lists(plain_constraints, min_size=3, max_size=9))
def test_the_drafts_table_is_transitive(pool: list[Constraint]) -> None:
    assert _transitive([[plain_narrows(child, parent) for parent in pool] for child in pool])


@given(constraints, values)
def test_empty_constraints_accept_nothing_and_stand_under_everything(constraint: Constraint, value: Json) -> None:
    if is_empty(constraint):
        assert not any(constraint.check(probe) for probe in [*_probes(constraint), value])
        assert narrows(constraint, _parsed({"constraint_type": "exact", "value": "elsewhere"}))


@given(values)
def test_a_wildcard_accepts_exactly_what_is_admissible(value: Json) -> None:
    wildcard = _parsed({"constraint_type": "wildcard"})
    assert wildcard.check(value) is admissible(value) is True


# --- parsing ---

words = st.sampled_from(
    ["constraint_type", "value", "values", "constraints", "min", "max", "optional", "any", "range", "exact", URN + "path", "root", "*", "x"]
)
documents = st.recursive(
    st.one_of(words, st.sampled_from([*SCALARS, *WEIRD])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(words, inner, max_size=4)),
    max_leaves=12,
)


@settings(max_examples=300)
@given(documents)
def test_parsing_refuses_or_understands(document: Any) -> None:
    readers = (
        lambda: parse_constraint(document, extensions=True),
        lambda: parse_tool_map(document, extensions=True),
        lambda: parse_rule(document),
    )
    for read in readers:
        with contextlib.suppress(InvalidInput):
            read()


@st.composite
def mutants(draw: st.DrawFn) -> Json:
    """A well-formed tree with one member replaced, dropped or added, somewhere."""
    tree = draw(constraints).to_json()
    node = tree
    while "constraints" in node and draw(st.booleans()):
        node = draw(st.sampled_from(node["constraints"]))
    name = draw(st.one_of(st.sampled_from(sorted(node)), words))
    if name in node and draw(st.booleans()):
        del node[name]
    else:
        node[name] = draw(documents)
    return tree


@settings(max_examples=300)
@given(mutants(), values)
def test_what_parses_says_back_what_it_read(tree: Json, value: Json) -> None:
    with contextlib.suppress(InvalidInput):
        constraint = _parsed(tree)
        assert _parsed(constraint.to_json()) == constraint
        assert narrows(constraint, constraint)
        constraint.check(value)


# --- argument maps ---

NAMES = ["x", "y", "_"]


@st.composite
def maps(draw: st.DrawFn) -> ToolMap:
    named = {name: Entry(draw(constraints), draw(st.booleans())) for name in NAMES if draw(st.booleans())}
    rest = draw(st.booleans())
    return ToolMap(named, rest) if named or rest else NO_ARGUMENTS


arguments = st.dictionaries(st.sampled_from([*NAMES, "z", "*"]), values, max_size=3)


@given(maps())
def test_a_map_survives_its_token_form(tools: ToolMap) -> None:
    assert parse_tool_map(tools.to_json(), extensions=True) == tools


@settings(max_examples=300)
@given(maps(), maps(), st.lists(arguments, min_size=1, max_size=4), st.data())
def test_map_narrowing_is_sound(child: ToolMap, parent: ToolMap, calls: list[dict[str, Json]], data: st.DataObject) -> None:
    if map_narrows(child, parent, profile=True) is None:
        wanted = {name: st.sampled_from(_probes(entry.constraint)) for name, entry in child.named.items()}
        for call in [{}, *calls, data.draw(st.fixed_dictionaries({}, optional=wanted))]:
            assert child.check(call) is not None or parent.check(call) is None, call


@given(maps())
def test_map_narrowing_is_reflexive(tools: ToolMap) -> None:
    assert map_narrows(tools, tools, profile=True) is None


@settings(max_examples=200, deadline=None)
@given(st.lists(maps(), min_size=3, max_size=7))
def test_map_narrowing_is_transitive(pool: list[ToolMap]) -> None:
    pool = [*pool, NO_ARGUMENTS]
    assert _transitive([[map_narrows(child, parent, profile=True) is None for parent in pool] for child in pool])
