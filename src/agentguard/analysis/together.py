"""Arguments that fulfil constraints one by one and conditions together: found, proven not to exist, or unknown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, product
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from agentguard.analysis.conditions import Path, Translation, plain
from agentguard.analysis.formulas import ANYTHING, Formula, holds, leaves
from agentguard.analysis.samples import samples
from agentguard.analysis.symbolic import NUMBER
from agentguard.canonical import Frozen
from agentguard.policy.condition_tree import Literal, Node, names, parts
from agentguard.policy.conditions import Condition

_FEW: Final = 12  # guesses for one argument, and for all of them together
_MANY: Final = 4_000
_WHOLE: Final = 2**53
_DEEPEST: Final = 33


@dataclass(frozen=True, slots=True)
class Slot:
    """What one argument may be. `formula` is None where it cannot be there."""

    formula: Formula | None
    optional: bool


#: Conditions, and whether each shall hold.
Wanted: TypeAlias = tuple[tuple[Condition, bool], ...]


def confirmed(slots: Mapping[str, Slot], wanted: Wanted, arguments: Mapping[str, Frozen]) -> bool:
    """Whether constraints and conditions themselves say so."""
    for name, slot in slots.items():
        there = slot.optional if name not in arguments else slot.formula is not None and holds(slot.formula, arguments[name])
        if not there:
            return False
    return all((condition.failure(arguments) is None) is right for condition, right in wanted)


def guesses(slots: Mapping[str, Slot], wanted: Wanted) -> Iterator[Mapping[str, Frozen]]:
    """Arguments that are right, made of plain values."""
    near = [*{(type(value), value): value for condition, _ in wanted for value in _near(condition.tree)}.values()]
    choices: list[list[tuple[str, Any]]] = []
    for name, slot in slots.items():
        found: list[tuple[str, Any]] = [(name, _ABSENT)] if slot.optional else []
        if slot.formula is not None:
            inside = [path for condition, _ in wanted for path in _paths(condition) if path[0] == name and len(path) > 1]
            values: Iterator[Frozen] = iter([_object(inside, value) for value in (1, 0, "x", True, *near)] if inside else ())
            tried = (value for group in (values, samples(leaves(slot.formula)), near) for value in group)
            found += islice(((name, value) for value in tried if holds(slot.formula, value)), _FEW)
        choices.append(found)
    for each in islice(product(*choices), _MANY):
        arguments = {name: value for name, value in each if value is not _ABSENT}
        if confirmed(slots, wanted, arguments):
            yield MappingProxyType(arguments)


_ABSENT: Final = object()


def _near(node: Node) -> Iterator[Frozen]:
    """The constants of a condition, and what lies beside them."""
    if isinstance(node, Literal):
        value = plain(node)
        yield value
        if type(value) is int or type(value) is float:
            yield from (value + 1, value - 1)
    for part in parts(node):
        yield from _near(part)


def _object(paths: list[Path], value: Frozen) -> Frozen:
    """An object that has this value at the end of each path, without the first step."""
    result: dict[str, Any] = {}
    for path in paths:
        inner = result
        for step in path[1:-1]:
            inner = inner.setdefault(step, {}) if isinstance(inner.get(step, {}), dict) else {}
        if not isinstance(inner.get(path[-1]), dict):
            inner[path[-1]] = value
    return result


def _paths(condition: Condition) -> Iterator[Path]:
    return (name.path for name in names(condition.tree))


class Together:
    """The arguments of one call as z3 sees them."""

    def __init__(self, z3: Any, slots: Mapping[str, Slot], wanted: Wanted) -> None:
        self.z3, self.slots, self.wanted = z3, slots, wanted
        formulas = {name: slot.formula or ANYTHING for name, slot in slots.items()}
        self.asked = asked = Translation(z3, formulas, [condition.tree for condition, _ in wanted])
        self.facts: list[Any] = []
        for name, slot in slots.items():
            place = asked.place((name,))
            self.facts.append(z3.Implies(place.present, place.value.goal))
            if slot.formula is None:
                self.facts.append(z3.Not(place.present))
            elif not slot.optional:
                self.facts.append(place.present)
        for condition, right in wanted:
            holding, _ = asked.test(condition.tree)
            self.facts.append(holding if right else z3.Not(holding))
        self.facts += asked.facts()

    def candidates(self, model: Any) -> Iterator[Mapping[str, Frozen]]:
        """The arguments that a model stands for, as far as constraints and conditions confirm them."""
        reader = _Reader(self, model)
        there = [name for name in self.slots if reader.so(self.asked.places[name,].present)]
        for values in islice(product(*(reader.values((name,)) for name in there)), _FEW):
            arguments = dict(zip(there, values, strict=True))
            if confirmed(self.slots, self.wanted, arguments):
                yield MappingProxyType(arguments)

    def preferences(self) -> Iterator[Any]:
        """Whole numbers, which doubles carry; short texts."""
        z3 = self.z3
        values = [place.value for place in self.asked.places.values()]
        limits = [z3.And(z3.IsInt(value.number), value.number <= _WHOLE, value.number >= -_WHOLE) for value in values]
        yield z3.And(*(z3.Implies(value.kind == NUMBER, limit) for value, limit in zip(values, limits, strict=True)))
        if any(value.hidden for value in values):
            yield z3.And(*(z3.Length(value.text) <= 63 for value in values if value.hidden))

    def other_than(self, model: Any) -> Any:
        terms = [term for place in self.asked.places.values() for term in (place.value.text, place.value.number)]
        return self.z3.Or(*(term != model.eval(term, model_completion=True) for term in terms))

    def guesses(self) -> list[str]:
        return [fact.why for place in self.asked.places.values() for _, fact in place.value.hidden.values()]


class _Reader:
    """Reads arguments out of a model."""

    def __init__(self, question: Together, model: Any) -> None:
        self.question, self.model = question, model
        self.places = question.asked.places
        self.equal = self._groups(question.asked.equal())
        self.choice = self._groups(question.asked.joined())

    def so(self, term: Any) -> bool:
        return bool(self.question.z3.is_true(self.model.eval(term, model_completion=True)))

    def values(self, path: Path, depth: int = 0) -> list[Frozen]:
        """The values that stand there."""
        if depth > _DEEPEST:
            return [None]  # a value that holds itself: there is none
        path = self.equal[path]
        place, choice = self.places[path], [*self.places].index(self.choice[path])
        members = {name: self.values(inner.path, depth + 1)[0] for name, inner in place.members.items() if self.so(inner.present)}
        more = [self.values(item, depth + 1)[0] for so, item in self.question.asked.held(path) if item is not None and self.so(so)]
        return [*place.value.examples(self.model, choice, members, more)]

    def _groups(self, pairs: Iterable[tuple[Any, Path, Path]]) -> dict[Path, Path]:
        """For each path one that stands for all that it is joined with."""
        first = {path: path for path in self.places}
        for so, one, two in pairs:
            if self.so(so):
                old, new = first[one], first[two]
                first = {path: new if other == old else other for path, other in first.items()}
        return first
