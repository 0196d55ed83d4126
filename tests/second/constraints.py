"""One argument constraint: is it well-formed, and does it accept a value?

Sources: draft section 3.4 (core types), DESIGN section 5 (extensions). A constraint is the JSON object of the token;
the policy's shorthand is translated to the same objects (see ``rules``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import canon, lexical

MAX_CONSTRAINT_DEPTH = 32
URN = "urn:agentguard:constraint:"

TYPE_NAMES: dict[str, Callable[[Any], bool]] = {
    "string": lambda v: isinstance(v, str),
    "integer": canon.is_integer,
    "number": canon.is_number,
    "boolean": lambda v: isinstance(v, bool),
    "null": lambda v: v is None,
    "array": lambda v: isinstance(v, list),
    "object": lambda v: isinstance(v, dict),
}

# constraint type -> (required members, optional members)
CORE: dict[str, tuple[set[str], set[str]]] = {
    "exact": ({"value"}, set()),
    "range": (set(), {"min", "max", "min_inclusive", "max_inclusive"}),
    "one_of": ({"values"}, set()),
    "not_one_of": ({"excluded"}, set()),
    "contains": ({"required"}, set()),
    "subset": ({"allowed"}, set()),
    "wildcard": (set(), set()),
    "all": ({"constraints"}, set()),
    "any": ({"constraints"}, set()),
}
EXTENSIONS: dict[str, tuple[set[str], set[str]]] = {
    URN + "path": ({"root"}, set()),
    URN + "url": ({"hosts"}, {"schemes", "path", "ports"}),
    URN + "glob": ({"pattern"}, set()),
    URN + "regex": ({"pattern"}, set()),
    URN + "cidr": ({"network"}, set()),
    URN + "email": ({"domains"}, set()),
    URN + "length": (set(), {"min", "max"}),
    URN + "type": ({"type"}, set()),
}

Constraint = dict[str, Any]


class BadConstraint(ValueError):
    """A constraint that is not well-formed, or of a type that may not stand here."""


def is_wildcard(constraint: Constraint) -> bool:
    return bool(constraint["constraint_type"] == "wildcard")


def require_well_formed(constraint: Any, *, extensions: bool, top: bool = True, depth: int = 1) -> None:
    """Raises ``BadConstraint``. ``extensions``: may extension types stand here; ``top``: may it be ``optional``?"""
    if depth > MAX_CONSTRAINT_DEPTH:
        raise BadConstraint("constraint tree too deep")
    if not isinstance(constraint, dict):
        raise BadConstraint("constraint is not an object")
    kind = constraint.get("constraint_type")
    known = CORE | EXTENSIONS if extensions else CORE
    if not isinstance(kind, str) or kind not in known:
        raise BadConstraint(f"constraint type {kind!r} is not known here")
    required, optional = known[kind]
    members = set(constraint) - {"constraint_type"}
    if "optional" in members:
        if not top or not isinstance(constraint["optional"], bool):
            raise BadConstraint("misplaced or ill-typed optional")
        members -= {"optional"}
    if not required <= members <= required | optional:
        raise BadConstraint(f"members of {kind}: {sorted(members)}")
    if not canon.admissible(constraint):
        raise BadConstraint("inadmissible number")
    if kind in ("all", "any"):
        clauses = constraint["constraints"]
        if not isinstance(clauses, list) or not clauses:
            raise BadConstraint(f"{kind} without clauses")
        for clause in clauses:
            require_well_formed(clause, extensions=extensions, top=False, depth=depth + 1)
    elif not _members_fit(kind.removeprefix(URN), constraint):
        raise BadConstraint(f"ill-typed member of {kind}")


def require_map_well_formed(entries: Any, *, extensions: bool) -> None:
    """A tool's constraint map. Raises ``BadConstraint``."""
    if not isinstance(entries, dict):
        raise BadConstraint("constraint map is not an object")
    for name, constraint in entries.items():
        require_well_formed(constraint, extensions=extensions)
        if name == "*" and (not is_wildcard(constraint) or "optional" in constraint):
            raise BadConstraint('"*" is not a bare wildcard')


def _range_fits(c: Constraint) -> bool:
    for bound in ("min", "max"):
        if bound in c and not canon.is_number(c[bound]):
            return False
        flag = f"{bound}_inclusive"
        if flag in c and (bound not in c or not isinstance(c[flag], bool)):
            return False
    return not ("min" in c and "max" in c and float(c["min"]) > float(c["max"]))


def _length_fits(c: Constraint) -> bool:
    bounds = [c[name] for name in ("min", "max") if name in c]
    if not bounds or not all(canon.is_integer(bound) and bound >= 0 for bound in bounds):
        return False
    return bounds == sorted(bounds)


def _is_strings(value: Any, fits: Callable[[str], bool]) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) and fits(item) for item in value)


def _url_fits(c: Constraint) -> bool:
    if not _is_strings(c["hosts"], lexical.is_host_pattern):
        return False
    if "schemes" in c and not _is_strings(c["schemes"], lambda s: s.isascii() and s.islower()):
        return False
    if "path" in c and (not isinstance(c["path"], str) or lexical.path_components(c["path"]) is None):
        return False
    ports = c.get("ports", [443])
    return isinstance(ports, list) and bool(ports) and all(canon.is_integer(p) and 0 < p < 65536 for p in ports)


_FITS: dict[str, Callable[[Constraint], bool]] = {
    "exact": lambda c: not isinstance(c["value"], (list, dict)),
    "range": _range_fits,
    "one_of": lambda c: isinstance(c["values"], list) and bool(c["values"]),
    "not_one_of": lambda c: isinstance(c["excluded"], list),
    "contains": lambda c: isinstance(c["required"], list),
    "subset": lambda c: isinstance(c["allowed"], list),
    "wildcard": lambda c: True,
    "path": lambda c: isinstance(c["root"], str) and lexical.path_components(c["root"]) is not None,
    "url": _url_fits,
    "glob": lambda c: isinstance(c["pattern"], str),
    "regex": lambda c: isinstance(c["pattern"], str) and lexical.regex_compiles(c["pattern"]),
    "cidr": lambda c: isinstance(c["network"], str) and lexical.network(c["network"]) is not None,
    "email": lambda c: _is_strings(c["domains"], lexical.is_host),
    "length": _length_fits,
    "type": lambda c: isinstance(c["type"], str) and c["type"] in TYPE_NAMES,
}


def _members_fit(kind: str, constraint: Constraint) -> bool:
    return _FITS[kind](constraint)


def accepts(constraint: Constraint, value: Any) -> bool:
    """Does a well-formed constraint accept the value? A value with an inadmissible number is accepted by none."""
    return canon.admissible(value) and _accepts(constraint, value)


def _accepts(c: Constraint, v: Any) -> bool:
    kind = c["constraint_type"].removeprefix(URN)
    if kind == "all":
        return all(_accepts(clause, v) for clause in c["constraints"])
    if kind == "any":
        return any(_accepts(clause, v) for clause in c["constraints"])
    return _CHECKS[kind](c, v)


def _in_range(c: Constraint, v: Any) -> bool:
    if not canon.is_number(v):
        return False
    number = float(v)
    if "min" in c:
        low = float(c["min"])
        if number < low or (number == low and not c.get("min_inclusive", True)):
            return False
    if "max" in c:
        high = float(c["max"])
        if number > high or (number == high and not c.get("max_inclusive", True)):
            return False
    return True


def _url_accepts(c: Constraint, v: Any) -> bool:
    url = lexical.parse_url(v) if isinstance(v, str) else None
    if url is None or url.scheme not in c.get("schemes", ["http", "https"]):
        return False
    if not any(lexical.host_matches(pattern, url.host) for pattern in c["hosts"]):
        return False
    if "ports" in c and url.port not in c["ports"]:
        return False
    return "path" not in c or lexical.path_under(c["path"], url.path)


def _email_accepts(c: Constraint, v: Any) -> bool:
    domain = lexical.email_domain(v) if isinstance(v, str) else None
    return domain is not None and domain.lower() in {item.lower() for item in c["domains"]}


def _length_accepts(c: Constraint, v: Any) -> bool:
    """In code points, so of strings only."""
    return isinstance(v, str) and len(v) >= c.get("min", 0) and ("max" not in c or len(v) <= c["max"])


_CHECKS: dict[str, Callable[[Constraint, Any], bool]] = {
    "exact": lambda c, v: canon.same(c["value"], v),
    "range": _in_range,
    "one_of": lambda c, v: canon.jcs(v) in canon.keys(c["values"]),
    "not_one_of": lambda c, v: canon.jcs(v) not in canon.keys(c["excluded"]),
    "contains": lambda c, v: isinstance(v, list) and canon.keys(c["required"]) <= canon.keys(v),
    "subset": lambda c, v: isinstance(v, list) and canon.keys(v) <= canon.keys(c["allowed"]),
    "wildcard": lambda c, v: True,
    "path": lambda c, v: isinstance(v, str) and lexical.path_under(c["root"], v),
    "url": _url_accepts,
    "glob": lambda c, v: isinstance(v, str) and lexical.glob_matches(c["pattern"], v),
    "regex": lambda c, v: isinstance(v, str) and lexical.regex_matches(c["pattern"], v),
    "cidr": lambda c, v: isinstance(v, str) and lexical.address_in(c["network"], v),
    "email": _email_accepts,
    "length": _length_accepts,
    "type": lambda c, v: TYPE_NAMES[c["type"]](v),
}


OPEN_MAP: dict[str, Constraint] = {"*": {"constraint_type": "wildcard"}}


def normalized(entries: dict[str, Constraint]) -> dict[str, Constraint]:
    """``{}`` equals ``{"*": wildcard}`` (draft section 3.3)."""
    return entries or OPEN_MAP


def named(entries: dict[str, Constraint]) -> dict[str, Constraint]:
    """The entries that name an argument; an argument literally called ``*`` counts as unnamed."""
    return {name: constraint for name, constraint in entries.items() if name != "*"}


def is_required(constraint: Constraint) -> bool:
    return not constraint.get("optional", False)


def argument_problem(entries: dict[str, Constraint], arguments: dict[str, Any]) -> str | None:
    """The closed-world check of draft step 6b: the first argument that stands against it, or ``None``."""
    entries = normalized(entries)
    by_name = named(entries)
    for name, value in arguments.items():
        constraint = by_name.get(name, entries.get("*"))
        if constraint is None:
            return f"{name} is not named"
        if not accepts(constraint, value):
            return f"{name} is not accepted"
    for name, constraint in by_name.items():
        if is_required(constraint) and name not in arguments:
            return f"{name} is absent"
    return None
