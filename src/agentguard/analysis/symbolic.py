"""Constraints as formulas of z3 over one JSON value: is there a value for which a combination of constraints holds?

    Search().find(Both((constraint, Not(other))))   ->   Found(value), NOTHING, or Unknown(why)

`NOTHING` is proven for all values: the formula is exact, or where a fact stays hidden (`texts.Hidden`) it admits more than there is. A
value is found only when the constraints themselves accept it. Whatever is neither is `Unknown`, with the reason.

A value is a kind and what its kind needs: a number is a real between doubles, a text a text of z3, an array the set of the constants that
it holds. The bounds of numbers are doubles and rounding keeps their order, so each real that fits stands for a double that fits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final, TypeAlias

from agentguard.analysis.alphabet import Alphabet
from agentguard.analysis.regular import one, sets
from agentguard.analysis.samples import samples
from agentguard.analysis.texts import Condition, Every, Hidden, In, No, Size, Some, condition, networks
from agentguard.canonical import Frozen
from agentguard.errors import InvalidInput
from agentguard.matchers import TypeIs
from agentguard.values import ARRAYS, OBJECTS, Key, admissible, key, show, spellings
from agentguard.vocabulary import LARGEST, AllOf, AnyOf, Constraint, Contains, Exact, NotOneOf, OneOf, Range, Subset, Wildcard

#: Of one property: steps as z3 counts them (most questions take some ten thousand), and seconds.
STEPS: Final = 50_000_000
SECONDS: Final = 60.0
QUESTION_MILLISECONDS: Final = 5_000
_TRIES: Final = 4
_MAX_SHAPES: Final = 50_000  # arrays among the constants, times their elements
_SHORT: Final = 63  # lengths at which the hidden facts of `texts` are known

_NULL, _BOOLEAN, _NUMBER, _STRING, _ARRAY, _OBJECT = range(6)
_KINDS: Final = {"null": _NULL, "boolean": _BOOLEAN, "number": _NUMBER, "string": _STRING, "array": _ARRAY, "object": _OBJECT}


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


class Search:
    """The questions of one property. They share a limit, and an answer that was found once is kept.

    `steps` are those that z3 counts, which makes an answer repeatable; it does not count all that it does, so there is a clock behind them.
    `guess` tries plain values before z3 is asked: they read better.
    """

    def __init__(self, *, steps: int = STEPS, seconds: float = SECONDS, guess: bool = True) -> None:
        self.steps = steps
        self.until = time.monotonic() + seconds
        self.guess = guess
        self.asked = 0
        self._answers: dict[Formula, Answer] = {}

    def find(self, formula: Formula) -> Answer:
        """A value for which `formula` holds."""
        answer = self._answers.get(formula)
        if answer is None:
            answer = self._answers[formula] = self._find(formula)
        return answer

    def _find(self, formula: Formula) -> Answer:
        for value in samples(leaves(formula)) if self.guess else ():
            if holds(formula, value):
                return Found(value)
        milliseconds = min(QUESTION_MILLISECONDS, int((self.until - time.monotonic()) * 1000))
        if self.steps <= 0 or milliseconds <= 0:
            return Unknown("the limit of this property is used up")
        self.asked += 1
        try:
            question = _Question(formula)
            answer = question.answer(self.steps, milliseconds)
        except _Unsupported as reason:
            return Unknown(str(reason))
        except load_z3().Z3Exception as error:
            return Unknown(f"z3 failed: {show(str(error))}")
        self.steps -= question.steps
        return answer


def find(formula: Formula, *, guess: bool = True) -> Answer:
    """One question by itself."""
    return Search(guess=guess).find(formula)


def load_z3() -> Any:
    """The module z3. Raises InvalidInput where it is not installed."""
    try:
        import z3
    except ImportError:
        raise InvalidInput("proofs need z3, which is not installed", hint="pip install 'agentguard[prove]'") from None
    return z3


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


class _Unsupported(Exception):
    """A constraint that has no translation."""


class _Question:
    """One formula as z3 sees it."""

    def __init__(self, formula: Formula) -> None:
        self.z3 = z3 = load_z3()
        self.formula = formula
        self.steps = 0
        self.kind, self.truth = z3.Int("kind"), z3.Bool("truth")
        self.number, self.whole, self.integer = z3.Real("number"), z3.Bool("whole"), z3.Int("integer")
        self.text = z3.String("text")
        self.other = z3.Bool("other")
        self.members: dict[Key, tuple[Any, Frozen]] = {}  # by key of an element: whether the array holds it, and the element
        self.wholes: dict[Key, tuple[Any, Frozen]] = {}  # by key of an array or object: whether the value is that one
        self.hidden: dict[Hashable, tuple[Any, Hidden]] = {}
        self.facts: list[Any] = []
        conditions = {leaf: condition(leaf) for leaf in dict.fromkeys(leaves(formula))}
        constants = [value for leaf in conditions for value in _constants(leaf)]
        self.texts = sorted({value for value in constants if type(value) is str})
        letters = [one(letter).chars for letter in sorted({c for text in self.texts for c in text})]
        self.alphabet = Alphabet(z3, [*letters, *(chars for each in conditions.values() if each is not None for chars in _sets(each))])
        self._declare(constants, [leaf for leaf in conditions if isinstance(leaf, Contains | Subset)])
        self.conditions = {leaf: self._condition(each) for leaf, each in conditions.items() if each is not None}
        self.goal = self._formula(formula)
        self._relate()

    # --- constraints ----------------------------------------------------------------------------------------------------------------

    def _declare(self, constants: list[Frozen], arrays: list[Contains | Subset]) -> None:
        z3 = self.z3
        composite = [value for value in constants if type(value) in ARRAYS or type(value) in OBJECTS]
        elements = [item for leaf in arrays for item in (leaf.required if isinstance(leaf, Contains) else leaf.allowed)]
        for item in (*elements, *(item for value in composite if type(value) in ARRAYS for item in value)):
            self.members.setdefault(key(item), (z3.Bool(f"holds {len(self.members)}"), item))
        for value in composite:
            self.wholes.setdefault(key(value), (z3.Bool(f"is {len(self.wholes)}"), value))
        if len(self.wholes) * len(self.members) > _MAX_SHAPES:
            raise _Unsupported(f"{len(self.wholes)} arrays and objects as constants are too many")
        self.facts += [self.kind >= _NULL, self.kind <= _OBJECT, z3.Implies(self.whole, self.number == z3.ToReal(self.integer))]
        self._bound(-LARGEST, LARGEST)
        if len(self.wholes) > 1:
            self.facts.append(z3.AtMost(*(choice for choice, _ in self.wholes.values()), 1))
        for choice, value in self.wholes.values():
            if type(value) in OBJECTS:
                self.facts.append(z3.Implies(choice, self.kind == _OBJECT))
                continue
            held = {key(item) for item in value}
            shape = [mark if item in held else z3.Not(mark) for item, (mark, _) in self.members.items()]
            self.facts.append(z3.Implies(choice, z3.And(self.kind == _ARRAY, z3.Not(self.other), *shape)))
            if not value:  # the one array that its set of elements determines
                self.facts.append(z3.Implies(z3.And(self.kind == _ARRAY, z3.Not(self.other), *shape), choice))

    def _bound(self, low: float, high: float) -> Any:
        """The number lies between two doubles, as every real of this question does or does not with a double's distance."""
        z3 = self.z3
        below, above = self.number >= _real(z3, low), self.number <= _real(z3, high)
        if low > -LARGEST:
            self.facts.append(z3.Or(below, self.number <= _real(z3, math.nextafter(low, -math.inf))))
        if high < LARGEST:
            self.facts.append(z3.Or(above, self.number >= _real(z3, math.nextafter(high, math.inf))))
        if low == -LARGEST and high == LARGEST:
            self.facts += [below, above]
        return z3.And(below, above)

    def _formula(self, formula: Formula) -> Any:
        z3 = self.z3
        if isinstance(formula, Not):
            return z3.Not(self._formula(formula.part))
        if isinstance(formula, Both | AllOf):
            return z3.And(*map(self._formula, formula.parts if isinstance(formula, Both) else formula.constraints))
        if isinstance(formula, Either | AnyOf):
            return z3.Or(*map(self._formula, formula.parts if isinstance(formula, Either) else formula.constraints))
        return self._leaf(formula)

    def _leaf(self, leaf: Constraint) -> Any:
        z3 = self.z3
        if leaf in self.conditions:
            return z3.And(self.kind == _STRING, self.conditions[leaf])
        if type(leaf) is Wildcard:
            return z3.BoolVal(True)
        if type(leaf) is Exact:
            return self._equals(leaf.value)
        if type(leaf) is OneOf:
            return z3.Or(*map(self._equals, leaf.values))
        if type(leaf) is NotOneOf:
            return z3.Not(z3.Or(*map(self._equals, leaf.excluded)))
        if type(leaf) is Range:
            return z3.And(self.kind == _NUMBER, self._bound(leaf.low, leaf.high)) if leaf.low <= leaf.high else z3.BoolVal(False)
        if type(leaf) is TypeIs:
            return z3.And(self.kind == _NUMBER, self.whole) if leaf.type == "integer" else self.kind == _KINDS[leaf.type]
        if type(leaf) is Contains:
            return z3.And(self.kind == _ARRAY, *(self.members[item][0] for item in leaf.keys))
        if type(leaf) is Subset:
            others = (z3.Not(mark) for item, (mark, _) in self.members.items() if item not in leaf.keys)
            return z3.And(self.kind == _ARRAY, z3.Not(self.other), *others)
        raise _Unsupported(f"constraints of type {leaf.kind} are not translated")

    def _equals(self, value: Frozen) -> Any:
        z3 = self.z3
        if value is None:
            return self.kind == _NULL
        if type(value) is bool:
            return z3.And(self.kind == _BOOLEAN, self.truth if value else z3.Not(self.truth))
        if type(value) is str:
            return z3.And(self.kind == _STRING, self.text == self.alphabet.literal(value))
        if type(value) is int or type(value) is float:
            return z3.And(self.kind == _NUMBER, self._bound(float(value), float(value)))
        return self.wholes[key(value)][0]

    # --- texts ----------------------------------------------------------------------------------------------------------------------

    def _condition(self, asked: Condition) -> Any:
        z3 = self.z3
        if isinstance(asked, In):
            return z3.InRe(self.text, self.alphabet.expression(asked.language))
        if isinstance(asked, Size):
            length = z3.Length(self.text)
            return z3.And(length >= asked.low, *(() if asked.high is None else (length <= asked.high,)))
        if isinstance(asked, No):
            return z3.Not(self._condition(asked.part))
        if isinstance(asked, Every | Some):
            return (z3.And if isinstance(asked, Every) else z3.Or)(*map(self._condition, asked.parts))
        if asked.name not in self.hidden:
            mark = z3.Bool(f"hidden {len(self.hidden)}")
            self.hidden[asked.name] = mark, asked
            self.facts += [z3.Implies(mark, self._condition(asked.over)), z3.Implies(self._condition(asked.under), mark)]
        return self.hidden[asked.name][0]

    def _relate(self) -> None:
        """What is known of hidden facts: networks among each other, and every constraint on the texts that the question names."""
        z3 = self.z3
        for first, second, inside in networks([fact for _, fact in self.hidden.values()]):
            then = self.hidden[second.name][0]
            self.facts.append(z3.Implies(self.hidden[first.name][0], then if inside else z3.Not(then)))
        if self.hidden:
            for text in self.texts:
                for leaf, meaning in self.conditions.items():
                    said = meaning if leaf.check(text) else z3.Not(meaning)
                    self.facts.append(z3.Implies(self.text == self.alphabet.literal(text), said))

    # --- answers --------------------------------------------------------------------------------------------------------------------

    def answer(self, steps: int, milliseconds: int) -> Answer:
        z3 = self.z3
        solver = z3.Solver()
        solver.set("rlimit", steps)
        solver.set("timeout", milliseconds)
        solver.add(*self.facts, self.goal)
        before = _counted(solver)
        answer = self._search(solver)
        self.steps = _counted(solver) - before
        return answer

    def _search(self, solver: Any) -> Answer:
        z3 = self.z3
        for attempt in range(_TRIES):
            result = solver.check()
            if result == z3.unsat:
                return NOTHING if attempt == 0 else self._unconfirmed()
            if result != z3.sat:
                return Unknown(_gave_up(solver.reason_unknown())) if attempt == 0 else self._unconfirmed()
            model = solver.model()
            for value in self._values(model):
                if holds(self.formula, value):
                    return Found(value)
            if attempt == 0 and self.hidden:
                solver.add(z3.Length(self.text) <= _SHORT)
            else:
                solver.add(self.text != model.eval(self.text, model_completion=True))
        return self._unconfirmed()

    def _unconfirmed(self) -> Unknown:
        why = "; ".join(dict.fromkeys(fact.why for _, fact in self.hidden.values()))
        return Unknown("z3 has a value that the constraints do not confirm" + (f", since not all is translated: {why}" if why else ""))

    def _values(self, model: Any) -> Iterator[Frozen]:
        """The values that a model stands for."""

        def value_of(term: Any) -> Any:
            return model.eval(term, model_completion=True)

        z3 = self.z3
        for choice, value in self.wholes.values():
            if z3.is_true(value_of(choice)):
                yield value
                return
        kind = value_of(self.kind).as_long()
        if kind == _NULL:
            yield None
        elif kind == _BOOLEAN:
            yield z3.is_true(value_of(self.truth))
        elif kind == _NUMBER:
            exact = value_of(self.number)
            double = float(Fraction(exact.numerator_as_long(), exact.denominator_as_long()))
            yield from reversed(spellings(double))
        elif kind == _STRING:
            yield self.alphabet.text(value_of(self.text))
        elif kind == _OBJECT:
            yield self._unlike({})
        else:
            items = [item for mark, item in self.members.values() if z3.is_true(value_of(mark))]
            if z3.is_true(value_of(self.other)):
                items.append(next(name for name in map("other{}".format, range(len(self.members) + 1)) if name not in self.members))
            yield self._unlike(tuple(items))

    def _unlike(self, value: Any) -> Frozen:
        """An object, or an array with the same elements, that is none of the question's constants."""
        while key(value) in self.wholes and value != ():
            value = {**value, f"x{len(value)}": 0} if type(value) is dict else (*value, value[0])
        return value


def _constants(leaf: Constraint) -> Iterable[Frozen]:
    if isinstance(leaf, Exact):
        return (leaf.value,)
    return leaf.values if isinstance(leaf, OneOf) else leaf.excluded if isinstance(leaf, NotOneOf) else ()


def _sets(asked: Condition) -> Iterator[Any]:
    if isinstance(asked, In):
        yield from sets(asked.language)
    elif isinstance(asked, Every | Some):
        for part in asked.parts:
            yield from _sets(part)
    elif isinstance(asked, No):
        yield from _sets(asked.part)
    elif isinstance(asked, Hidden):
        yield from _sets(asked.over)
        yield from _sets(asked.under)


def _real(z3: Any, double: float) -> Any:
    exact = Fraction(double)
    return z3.RealVal(f"{exact.numerator}/{exact.denominator}")


def _counted(solver: Any) -> int:
    """Steps of this process so far."""
    return int(solver.statistics().get_key_value("rlimit count"))


def _gave_up(reason: str) -> str:
    if "canceled" in reason or "timeout" in reason or "resource" in reason:
        return f"z3 did not finish within its limits ({reason})"
    return f"z3 gave up: {show(reason)}"
