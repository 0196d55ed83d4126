"""Subsumption: may one constraint stand under another (AAT -02 §4.5)?

`plain_narrows` is the draft's table, pair by pair, for plain chains. `narrows` is ours, between profile links: it permits all that the
table permits, and more. Both are sound (what the child accepts, the parent accepts), reflexive, transitive, and polynomial.
"""

from __future__ import annotations

from typing import Final

from agentguard.canonical import Frozen
from agentguard.addresses import Cidr, Email, Url
from agentguard.matchers import Glob, Length, Path, Regex, TypeIs
from agentguard.values import spellings
from agentguard.vocabulary import (
    AllOf,
    AnyOf,
    Constraint,
    Contains,
    Exact,
    NotOneOf,
    OneOf,
    Range,
    Subset,
    Wildcard,
)

#: Steps one comparison may take. Two constraints of the largest token stay under it in the plain table.
MAX_WORK: Final = 4_000_000


class _TooMuchWork(Exception):
    """A comparison outgrew `MAX_WORK`."""


# --- the draft's table ---


def plain_narrows(child: Constraint, parent: Constraint) -> bool:
    """The draft's exact table. Pairs that it does not list are denied, even where the child would be narrower."""
    try:
        return _Plain().under(child, parent)
    except _TooMuchWork:
        return False


class _Plain:
    """One comparison: what was found for a pair of clauses is kept, so that nesting costs no more than the product of the sizes."""

    __slots__ = ("known", "work")

    def __init__(self) -> None:
        self.known: dict[tuple[int, int], bool] = {}
        self.work = 0

    def under(self, child: Constraint, parent: Constraint) -> bool:
        self.work += 1
        if self.work > MAX_WORK:
            raise _TooMuchWork
        if type(parent) is Wildcard:
            return True
        if type(child) is AllOf and type(parent) is AllOf:
            return self.clauses(child, parent)
        if type(child) is AnyOf and type(parent) is AnyOf:
            return self.clauses(child, parent)
        return _plain_leaf(child, parent)

    def clauses(self, child: AllOf | AnyOf, parent: AllOf | AnyOf) -> bool:
        pair = (id(child), id(parent))
        if pair not in self.known:
            if type(child) is AllOf:  # each clause of the parent is met by some clause of the child
                answer = all(any(self.under(mine, theirs) for mine in child.constraints) for theirs in parent.constraints)
            else:  # each alternative of the child lies in some alternative of the parent
                answer = all(any(self.under(mine, theirs) for theirs in parent.constraints) for mine in child.constraints)
            self.known[pair] = answer
        return self.known[pair]


def _plain_leaf(child: Constraint, parent: Constraint) -> bool:
    if type(parent) is Exact:
        return type(child) is Exact and parent.check(child.value)
    if type(parent) is Range:
        if type(child) is Exact:
            return parent.check(child.value)
        return type(child) is Range and _bounds_present(child, parent) and _within(child, parent)
    if type(parent) is OneOf:
        if type(child) is Exact:
            return parent.check(child.value)
        return type(child) is OneOf and child.keys <= parent.keys
    if type(parent) is NotOneOf:
        return type(child) is NotOneOf and child.keys >= parent.keys
    if type(parent) is Contains:
        return type(child) is Contains and child.keys >= parent.keys
    return type(parent) is Subset and type(child) is Subset and child.keys <= parent.keys


def _bounds_present(child: Range, parent: Range) -> bool:
    return not (parent.min is not None and child.min is None) and not (parent.max is not None and child.max is None)


def _within(child: Range, parent: Range) -> bool:
    return child.low >= parent.low and child.high <= parent.high


# --- the profile's relation ---


def narrows(child: Constraint, parent: Constraint) -> bool:
    """Whether `child` is narrower than `parent` by a rule we can prove.

    1. A child with finitely many values (`_finite`) is compared value by value, which is exact. A parent with finitely many values has
       only such children.
    2. Under `not_one_of` a child stands when it refuses each excluded value, which is exact too.
    3. Otherwise the rules are those of the free lattice (Whitman): a parent `all` needs each of its clauses, a child `any` each of its
       own; a parent `any` needs one of its clauses, or a child `all` one of its own. On leaves there is a table of pairs.

    The exact rules and Whitman's are each transitive, and they do not undercut one another: what stands under something finite is finite.
    """
    try:
        return _Profile().under(child, parent)
    except _TooMuchWork:
        return False


def is_empty(constraint: Constraint) -> bool:
    """Whether the constraint provably accepts nothing."""
    try:
        return _Profile().finite(constraint) == ()
    except _TooMuchWork:
        return False


class _Profile:
    __slots__ = ("known", "sizes", "values", "work")

    def __init__(self) -> None:
        self.known: dict[tuple[int, int], bool] = {}
        self.values: dict[int, tuple[Frozen, ...] | None] = {}
        self.sizes: dict[int, int] = {}
        self.work = 0

    def spend(self, steps: int) -> None:
        self.work += steps
        if self.work > MAX_WORK:
            raise _TooMuchWork

    def size(self, constraint: Constraint) -> int:
        """The number of clauses in the tree: what one check may cost."""
        if type(constraint) is not AllOf and type(constraint) is not AnyOf:
            return 1
        known = self.sizes.get(id(constraint))
        if known is None:
            known = self.sizes[id(constraint)] = 1 + sum(map(self.size, constraint.constraints))
        return known

    def finite(self, constraint: Constraint) -> tuple[Frozen, ...] | None:
        """All values that the constraint accepts, in every spelling, or None where it is not seen to be finite."""
        mark = id(constraint)
        if mark not in self.values:
            self.spend(1)
            if type(constraint) is AllOf:
                self.values[mark] = self._finite_all(constraint)
            elif type(constraint) is AnyOf:
                self.values[mark] = self._finite_any(constraint)
            else:
                self.values[mark] = _finite_leaf(constraint)
        return self.values[mark]

    def _finite_all(self, constraint: AllOf) -> tuple[Frozen, ...] | None:
        found = [values for values in map(self.finite, constraint.constraints) if values is not None]
        if not found:
            return None
        fewest = min(found, key=len)
        self.spend(len(fewest) * self.size(constraint))
        return tuple(value for value in fewest if constraint.check(value))

    def _finite_any(self, constraint: AnyOf) -> tuple[Frozen, ...] | None:
        every: list[Frozen] = []
        for clause in constraint.constraints:
            values = self.finite(clause)
            if values is None:
                return None
            self.spend(len(values))
            every += values
        return tuple(every)

    def under(self, child: Constraint, parent: Constraint) -> bool:
        pair = (id(child), id(parent))
        answer = self.known.get(pair)
        if answer is None:
            self.spend(1)
            answer = self.known[pair] = self._under(child, parent)
        return answer

    def _under(self, child: Constraint, parent: Constraint) -> bool:
        if type(parent) is Wildcard:
            return True
        values = self.finite(child)
        if values is not None:
            self.spend(len(values) * self.size(parent))
            return all(map(parent.check, values))
        if self.finite(parent) is not None:
            return False
        if type(parent) is NotOneOf:
            self.spend(len(parent.excluded) * self.size(child))
            return not any(child.check(form) for value in parent.excluded for form in spellings(value))
        if type(parent) is AllOf:
            return all(self.under(child, clause) for clause in parent.constraints)
        if type(child) is AnyOf:
            return all(self.under(clause, parent) for clause in child.constraints)
        if type(parent) is AnyOf and any(self.under(child, clause) for clause in parent.constraints):
            return True
        if type(child) is AllOf:
            return any(self.under(clause, parent) for clause in child.constraints)
        return _leaf(child, parent)


def _finite_leaf(constraint: Constraint) -> tuple[Frozen, ...] | None:
    if type(constraint) is Exact:
        return spellings(constraint.value)
    if type(constraint) is OneOf:
        return tuple(form for value in constraint.values for form in spellings(value))
    if type(constraint) is Range and constraint.low >= constraint.high:
        return spellings(constraint.low) if constraint.low == constraint.high else ()
    if type(constraint) is Subset and not constraint.allowed:
        return ((),)
    if type(constraint) is Length and constraint.high == 0:
        return ("",)
    if type(constraint) is TypeIs:
        return {"boolean": (True, False), "null": (None,)}.get(constraint.type)
    return None


#: Types that are another leaf in all but name, so that the table below has one row for both.
_AS_LEAF: Final[dict[str, Constraint]] = {"number": Range(), "array": Contains(()), "string": Length(min=0)}
_STRINGS: Final = frozenset({Path, Url, Glob, Regex, Cidr, Email, Length})


def _leaf(child: Constraint, parent: Constraint) -> bool:
    """The table for two leaves, neither of them finite, the parent neither wildcard nor not_one_of."""
    if type(child) is TypeIs:
        child = _AS_LEAF.get(child.type, child)
    if type(parent) is TypeIs:
        parent = _AS_LEAF.get(parent.type, parent)
    if type(child) is TypeIs and type(parent) is TypeIs:
        return child.type == parent.type
    if type(parent) is Range:
        full = parent.low == _AS_LEAF["number"].low and parent.high == _AS_LEAF["number"].high  # type: ignore[attr-defined]
        return _within(child, parent) if type(child) is Range else type(child) is TypeIs and child.type == "integer" and full
    if type(parent) is Contains:
        return child.keys >= parent.keys if type(child) is Contains else type(child) is Subset and not parent.keys
    if type(parent) is Subset:
        return type(child) is Subset and child.keys <= parent.keys
    if type(parent) is Length:
        if type(child) is Length:
            return child.low >= parent.low and child.high <= parent.high
        return type(child) in _STRINGS and parent.low == 0 and parent.high == float("inf")
    return type(child) is type(parent) and type(child) in _STRINGS and parent.covers(child)  # type: ignore[attr-defined]
