"""Subsumption: may one constraint stand under another (AAT -02 §4.5)?

`plain_narrows` is the draft's table, pair by pair, for plain chains. `narrows` is ours, between profile links: it permits all that the
table permits, and more, up to `MAX_WORK`. Both are sound (what the child accepts, the parent accepts), reflexive, transitive, polynomial.
"""

from __future__ import annotations

import math
from typing import Final

from agentguard.canonical import Frozen
from agentguard.constraints.addresses import Cidr, Email, Url
from agentguard.constraints.matchers import Glob, Length, Path, Regex, TypeIs
from agentguard.constraints.values import spellings
from agentguard.constraints.vocabulary import (
    LARGEST,
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

#: Steps one comparison of ours may take (about a second); beyond, a constraint narrows only its equal. Real ones take tens.
MAX_WORK: Final = 300_000

_PLAIN_SETS: Final = frozenset({OneOf, NotOneOf, Contains, Subset})
_COMPOSITE: Final = frozenset({AllOf, AnyOf})
#: Types that are another leaf in all but name, so that the table has one row for both.
_SAME_AS: Final[dict[str, Constraint]] = {"number": Range(), "array": Contains(()), "string": Length(min=0)}
_STRINGS: Final = frozenset({Path, Url, Glob, Regex, Cidr, Email})


def plain_narrows(child: Constraint, parent: Constraint) -> bool:
    """The draft's exact table. Pairs that it does not list are denied, even where the child would be narrower.

    Clauses meet only clauses of the same depth, so each pair is looked at once: the work is at most the product of the two sizes.
    """
    if type(parent) is Wildcard:
        return True
    if type(child) is AllOf and type(parent) is AllOf:  # each clause of the parent is met by some clause of the child
        return all(any(plain_narrows(mine, theirs) for mine in child.constraints) for theirs in parent.constraints)
    if type(child) is AnyOf and type(parent) is AnyOf:  # each alternative of the child lies in some alternative of the parent
        return all(any(plain_narrows(mine, theirs) for theirs in parent.constraints) for mine in child.constraints)
    if type(child) is Exact and type(parent) in (Exact, Range, OneOf):
        return parent.check(child.value)
    if isinstance(child, Range) and isinstance(parent, Range):
        return _lower(child) >= _lower(parent) and _upper(child) <= _upper(parent)
    return type(child) is type(parent) and type(parent) in _PLAIN_SETS and parent.covers(child)


def _lower(bounds: Range) -> tuple[float, bool]:
    """The lower bound, ordered from loose to tight: no bound, then by value, at one value the exclusive one last."""
    return (-math.inf, False) if bounds.min is None else (float(bounds.min), not bounds.min_inclusive)


def _upper(bounds: Range) -> tuple[float, bool]:
    return (math.inf, True) if bounds.max is None else (float(bounds.max), bounds.max_inclusive)


def narrows(child: Constraint, parent: Constraint) -> bool:
    """Whether `child` is narrower than `parent` by a rule we can prove.

    1. A child with finitely many values (`_Comparison.finite`) is compared value by value, which is exact. A parent with finitely many
       values has only such children.
    2. Under `not_one_of` a child stands when it refuses each excluded value, which is exact too.
    3. Otherwise the rules are those of the free lattice (Whitman): a parent `all` needs each of its clauses, a child `any` each of its
       own; a parent `any` needs one of its clauses, or a child `all` one of its own. On leaves there is a table of pairs.

    The exact rules and Whitman's are each transitive, and they do not undercut one another: what stands under something finite is finite.
    """
    if child is parent:
        return True
    try:
        return _Comparison().under(child, parent)
    except _TooMuchWork:
        return child == parent


def is_empty(constraint: Constraint) -> bool:
    """Whether the constraint provably accepts nothing."""
    try:
        return _Comparison().finite(constraint) == ()
    except _TooMuchWork:
        return False


class _TooMuchWork(Exception):
    """A comparison outgrew `MAX_WORK`."""


class _Comparison:
    """One comparison. What was found for two constraints is kept, so that nesting costs no more than the product of the sizes."""

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
        if not isinstance(constraint, AllOf | AnyOf):
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
        if type(child) not in _COMPOSITE and type(parent) not in _COMPOSITE:
            self.spend(1)
            return self._under(child, parent)
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
        self.spend(_weight(child) + _weight(parent))
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


def _weight(constraint: Constraint) -> int:
    """Steps beyond the first that a comparison of two leaves takes."""
    if isinstance(constraint, Contains | Subset):
        return len(constraint.keys) // 16
    if isinstance(constraint, Glob):
        return len(constraint.pattern)
    if isinstance(constraint, Email):
        return len(constraint.domains)
    return len(constraint.hosts) + len(constraint.ports) if isinstance(constraint, Url) else 0


def _leaf(child: Constraint, parent: Constraint) -> bool:
    """The table for two leaves, neither of them finite, the parent neither wildcard nor not_one_of."""
    child, parent = _as_leaf(child), _as_leaf(parent)
    if type(child) is type(parent):
        return parent.covers(child)
    if isinstance(parent, Range):
        return isinstance(child, TypeIs) and child.type == "integer" and parent.low == -LARGEST and parent.high == LARGEST
    if isinstance(parent, Contains):
        return isinstance(child, Subset) and not parent.keys
    if isinstance(parent, Length):
        return type(child) in _STRINGS and parent.low == 0 and parent.high == math.inf
    return False


def _as_leaf(constraint: Constraint) -> Constraint:
    return _SAME_AS.get(constraint.type, constraint) if isinstance(constraint, TypeIs) else constraint
