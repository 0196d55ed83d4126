"""Combinations of constraints on one JSON value, and what a search for a value can answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from agentguard.canonical import Frozen
from agentguard.constraints.values import admissible
from agentguard.constraints.vocabulary import AllOf, AnyOf, Constraint, Wildcard


@dataclass(frozen=True, slots=True)
class Not:
    """Every admissible value for which the part does not hold."""

    part: Formula


@dataclass(frozen=True, slots=True)
class Both:
    """All parts hold."""

    parts: tuple[Formula, ...]


@dataclass(frozen=True, slots=True)
class Either:
    """Some part holds."""

    parts: tuple[Formula, ...]


Formula: TypeAlias = Constraint | Not | Both | Either
ANYTHING: Final = Wildcard()


@dataclass(frozen=True, slots=True)
class Found:
    """A value for which the formula holds, as the constraints themselves say."""

    value: Frozen


@dataclass(frozen=True, slots=True)
class Nothing:
    """No value: proven."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """Neither shown nor refuted."""

    why: str


Answer: TypeAlias = Found | Nothing | Unknown
NOTHING: Final = Nothing()


def holds(formula: Formula, value: Frozen) -> bool:
    """Whether the constraints themselves say so."""
    if isinstance(formula, Not):
        return admissible(value) and not holds(formula.part, value)
    if isinstance(formula, Both):
        return all(holds(part, value) for part in formula.parts)
    if isinstance(formula, Either):
        return any(holds(part, value) for part in formula.parts)
    return formula.check(value)


def leaves(formula: Formula) -> Iterator[Constraint]:
    """Every constraint in it but `all` and `any`."""
    if isinstance(formula, Not):
        yield from leaves(formula.part)
    elif isinstance(formula, Both | Either):
        for part in formula.parts:
            yield from leaves(part)
    elif isinstance(formula, AllOf | AnyOf):
        for clause in formula.constraints:
            yield from leaves(clause)
    else:
        yield formula
