"""Constraints that accept nothing, and parts of constraints that change nothing: seen without a solver, in little time.

What is said here is so: `contradiction` is never given for a constraint that accepts some value. Not everything that is so is seen; for
that there is `agentguard policy prove`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import combinations
from typing import Any, Final

from agentguard.analysis.regular import SURROGATES, Alt, Cat, Chars, Loop, Node, Untranslatable, join, read_re2, without
from agentguard.canonical import Frozen
from agentguard.constraints.addresses import Cidr, Email, Url
from agentguard.constraints.matchers import Glob, Length, Path, Regex, TypeIs
from agentguard.constraints.narrowing import narrows
from agentguard.constraints.values import ARRAYS, OBJECTS, key, listed, show
from agentguard.constraints.vocabulary import AllOf, AnyOf, Constraint, Contains, Exact, OneOf, Range, Subset, Wildcard

_EVERY_KIND: Final = frozenset({"null", "boolean", "number", "string", "array", "object"})
_TEXTS: Final = (Length, Regex, Glob, Path, Email, Url, Cidr)
#: How many alternatives within an AND are looked into.
_MOST: Final = 64


def contradiction(constraint: Constraint) -> str:
    """Why no value at all is accepted, in words; empty where that is not so, or not seen."""
    return _against(list(_parts(constraint)), _MOST)


def idle(constraint: Constraint) -> Iterator[str]:
    """Parts that change nothing: listed values that never pass, alternatives that accept nothing or what another one accepts anyway."""
    parts = list(_parts(constraint))
    for part in parts:
        others = [other for other in parts if other is not part]
        if isinstance(part, OneOf):
            yield from _idle_values(part, others)
        elif isinstance(part, AnyOf):
            yield from _idle_alternatives(part, others)


def _parts(constraint: Constraint) -> Iterator[Constraint]:
    """What all must hold."""
    if isinstance(constraint, AllOf):
        for clause in constraint.constraints:
            yield from _parts(clause)
    else:
        yield constraint


def _idle_values(part: OneOf, others: list[Constraint]) -> Iterator[str]:
    seen = set()
    for value in part.values:
        if key(value) in seen:
            yield f"the value {show(value)} stands twice"
        seen.add(key(value))
        against = next((other for other in others if not other.check(value)), None)
        if against is not None:
            yield f"the value {show(value)} never passes: it would have to be {against.describe()}"


def _idle_alternatives(part: AnyOf, others: list[Constraint]) -> Iterator[str]:
    for index, clause in enumerate(part.constraints):
        why = _against([*_parts(clause), *others], _MOST)
        if why:
            yield f"the alternative {clause.describe()} accepts nothing: {why}"
            continue
        for at, other in enumerate(part.constraints):
            if at != index and narrows(clause, other) and (at < index or not narrows(other, clause)):
                yield f"the alternative {clause.describe()} adds nothing to {other.describe()}"
                break
        yield from idle(clause)


# --- contradictions -------------------------------------------------------------------------------------------------------------------


def _against(parts: list[Constraint], budget: int) -> str:
    parts = [part for part in parts if not isinstance(part, Wildcard)]
    for look in (_alone, _listed, _kinds, _pairs, _numbers, _lengths):
        if why := look(parts):
            return why
    for part in parts:
        if isinstance(part, AnyOf) and len(part.constraints) <= budget:
            others = [other for other in parts if other is not part]
            found = [_against([*_parts(clause), *others], budget // len(part.constraints)) for clause in part.constraints]
            if all(found):
                return found[0] if len(found) == 1 else f"no alternative can be met: {found[0]}"
    return ""


def _alone(parts: list[Constraint]) -> str:
    for part in parts:
        if isinstance(part, Range) and part.low > part.high:
            return f"there is no number {part.describe().removeprefix('a number ')}"
        if isinstance(part, Regex):
            node = _tree(part.pattern)
            if node is not None and _sizes(node) is None:
                return f"no text matches {part.pattern}"
    return ""


def _listed(parts: list[Constraint]) -> str:
    for part in parts:
        if isinstance(part, Exact | OneOf):
            values = (part.value,) if isinstance(part, Exact) else part.values
            others = [other for other in parts if other is not part]
            if not any(all(other.check(value) for other in others) for value in values):
                against = next(other for other in others if not other.check(values[0]))
                return f"{listed(values)} would have to be {against.describe()}"
    return ""


def _kinds(parts: list[Constraint]) -> str:
    for one, other in combinations(parts, 2):
        if not _kinds_of(one) & _kinds_of(other):
            return f"nothing is {one.describe()} and {other.describe()}"
    return ""


def _kinds_of(part: Constraint) -> frozenset[str]:
    if isinstance(part, Exact):
        return frozenset({_kind(part.value)})
    if isinstance(part, OneOf):
        return frozenset(map(_kind, part.values))
    if isinstance(part, AnyOf):
        return frozenset().union(*map(_kinds_of, part.constraints))
    if isinstance(part, AllOf):
        return frozenset(_EVERY_KIND).intersection(*map(_kinds_of, part.constraints))
    if isinstance(part, TypeIs):
        return frozenset({"number" if part.type == "integer" else part.type})
    if isinstance(part, Range):
        return frozenset({"number"})
    if isinstance(part, Contains | Subset):
        return frozenset({"array"})
    return frozenset({"string"}) if isinstance(part, _TEXTS) else _EVERY_KIND


def _kind(value: Frozen) -> str:
    named = {str: "string", bool: "boolean", int: "number", float: "number", type(None): "null"}.get(type(value))
    return named or ("array" if type(value) in ARRAYS else "object" if type(value) in OBJECTS else "")


def _pairs(parts: list[Constraint]) -> str:
    for one, other in combinations(parts, 2):
        apart = _APART.get(type(one)) if type(one) is type(other) else None
        if isinstance(one, Contains) and isinstance(other, Subset):
            apart = _not_allowed
        elif isinstance(one, Subset) and isinstance(other, Contains):
            one, other, apart = other, one, _not_allowed
        if (apart is not None and apart(one, other)) or _start_apart(one, other):
            return f"nothing is {one.describe()} and {other.describe()}"
    return ""


def _not_allowed(one: Contains, other: Subset) -> bool:
    return not one.keys <= other.keys


def _hosts_apart(mine: Iterable[str], theirs: Iterable[str]) -> bool:
    return not any(_hosts_meet(one, other) for one in mine for other in theirs)


def _hosts_meet(one: str, other: str) -> bool:
    """Whether some host is of both patterns. A `*.` stands for one or more labels."""
    if one == other or (one.startswith("*.") and other.endswith(one[1:])):
        return True
    return other.startswith("*.") and one.endswith(other[1:])


def _urls_apart(one: Url, other: Url) -> bool:
    return _hosts_apart(one.hosts, other.hosts) or not set(one.schemes) & set(other.schemes)


def _nets_apart(one: Any, other: Any) -> bool:
    from ipaddress import ip_network

    mine, theirs = ip_network(one.network), ip_network(other.network)
    return mine.version != theirs.version or not mine.overlaps(theirs)


_APART: Final[dict[type[Constraint], Callable[[Any, Any], bool]]] = {
    Email: lambda one, other: _hosts_apart(one.domains, other.domains),
    Url: _urls_apart,
    Cidr: _nets_apart,
    Path: lambda one, other: not (one.covers(other) or other.covers(one)),
}


def _start_apart(one: Constraint, other: Constraint) -> bool:
    mine, theirs = _start(one), _start(other)
    return not (mine.startswith(theirs) or theirs.startswith(mine))


def _start(part: Constraint) -> str:
    """What every text begins with."""
    if isinstance(part, Path):
        return part.root
    if isinstance(part, Url):
        return f"{part.schemes[0]}://" if len(set(part.schemes)) == 1 else ""
    if isinstance(part, Glob):
        return part.pattern.replace("?", "*").partition("*")[0]
    node = _tree(part.pattern) if isinstance(part, Regex) else None
    return _letters(node)[0] if node is not None else ""


def _numbers(parts: list[Constraint]) -> str:
    ranges = [part for part in parts if isinstance(part, Range)]
    if not ranges:
        return ""
    low, high = max(ranges, key=lambda part: part.low), min(ranges, key=lambda part: part.high)
    if low.low > high.high:
        return f"no number is {low.describe().removeprefix('a number ')} and {high.describe().removeprefix('a number ')}"
    whole = any(isinstance(part, TypeIs) and part.type == "integer" for part in parts)
    if whole and math.ceil(low.low) > math.floor(high.high):
        return f"no whole number is {low.describe().removeprefix('a number ')}"
    return ""


def _lengths(parts: list[Constraint]) -> str:
    """Texts that would have to be longer and shorter at once."""
    longest: tuple[float, Constraint] | None = None
    shortest: tuple[float, Constraint] | None = None
    for part in parts:
        low, high = _size(part)
        if shortest is None or low > shortest[0]:
            shortest = low, part
        if longest is None or high < longest[0]:
            longest = high, part
    if shortest is None or longest is None or shortest[0] <= longest[0]:
        return ""
    return f"no text is {shortest[1].describe()} and {longest[1].describe()}"


def _size(part: Constraint) -> tuple[float, float]:
    """How many characters there are at least and at most."""
    if isinstance(part, Length):
        return part.low, part.high
    if isinstance(part, Path):
        return len(part.root), math.inf
    if isinstance(part, Glob):
        return len(part.pattern.replace("*", "")), math.inf if "*" in part.pattern else len(part.pattern)
    if isinstance(part, Email):
        return min(len(domain.replace("*", "x")) for domain in part.domains) + 2, math.inf
    if isinstance(part, Url):
        return min(map(len, part.schemes)) + 3 + min(len(host.replace("*", "x")) for host in part.hosts), math.inf
    node = _tree(part.pattern) if isinstance(part, Regex) else None
    sizes = _sizes(node) if node is not None else None
    return sizes if sizes is not None else (0, math.inf)


# --- patterns -------------------------------------------------------------------------------------------------------------------------


def _tree(pattern: str) -> Node | None:
    try:
        return read_re2(pattern)
    except Untranslatable:
        return None


def _sizes(node: Node) -> tuple[float, float] | None:
    """The shortest and the longest text of a language; None where it has none."""
    if isinstance(node, Chars):
        return (1, 1) if without(join((*without(node.chars), SURROGATES))) else None
    if isinstance(node, Cat):
        parts = [_sizes(part) for part in node.parts]
        if None in parts:
            return None
        given = [part for part in parts if part is not None]
        return sum(low for low, _ in given), sum(high for _, high in given)
    if isinstance(node, Alt):
        ways = [way for part in node.parts if (way := _sizes(part)) is not None]
        return (min(low for low, _ in ways), max(high for _, high in ways)) if ways else None
    if isinstance(node, Loop):
        inner = _sizes(node.part)
        if inner is None:
            return (0, 0) if node.low == 0 else None
        most = math.inf if node.high is None else node.high
        return inner[0] * node.low, inner[1] * most if inner[1] and most else 0
    return (0, 0)


def _letters(node: Node) -> tuple[str, bool]:
    """What every text of a language begins with, and whether that is the whole text."""
    if isinstance(node, Chars):
        one = len(node.chars) == 1 and node.chars[0][0] == node.chars[0][1]
        return (chr(node.chars[0][0]), True) if one else ("", False)
    if isinstance(node, Cat):
        text = ""
        for part in node.parts:
            more, whole = _letters(part)
            text += more
            if not whole:
                return text, False
        return text, True
    if isinstance(node, Loop) and node.low:
        return _letters(node.part)[0], False
    return "", False
