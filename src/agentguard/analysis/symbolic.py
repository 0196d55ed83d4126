"""Constraints as formulas of z3 over one JSON value.

A value is a kind and what its kind needs: a number is a real between decimals, a text a text of z3, an array the set of the constants that
it holds and how many elements it has. A number's decimal is what its double prints as; the bounds of numbers are such decimals, and
rounding keeps their order, so each real that fits stands for a double that fits.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from itertools import count
from types import MappingProxyType
from typing import Any, Final

from agentguard.analysis.alphabet import Alphabet
from agentguard.analysis.formulas import Both, Either, Formula, Not, leaves
from agentguard.analysis.regular import CharSet, one, sets
from agentguard.analysis.texts import Condition, Every, Hidden, In, No, Size, Some, condition, networks
from agentguard.canonical import Frozen
from agentguard.constraints.matchers import TypeIs
from agentguard.constraints.values import ARRAYS, OBJECTS, Key, key, spellings
from agentguard.constraints.vocabulary import LARGEST, AllOf, AnyOf, Constraint, Contains, Exact, NotOneOf, OneOf, Range, Subset, Wildcard

_MAX_SHAPES: Final = 50_000  # arrays among the constants, times their elements
_MOST_ITEMS: Final = 2_000  # of an array or object that is made as an example
NULL, BOOLEAN, NUMBER, STRING, ARRAY, OBJECT = range(6)
_KINDS: Final = {"null": NULL, "boolean": BOOLEAN, "number": NUMBER, "string": STRING, "array": ARRAY, "object": OBJECT}


class Unsupported(Exception):
    """Something that has no translation."""


class Language:
    """The texts of one question: the constants among them, and the classes of characters that nothing in the question tells apart."""

    def __init__(self, z3: Any, formulas: Iterable[Formula], constants: Iterable[Frozen] = ()) -> None:
        asked = dict.fromkeys(leaf for formula in formulas for leaf in leaves(formula))
        self.conditions = {leaf: condition(leaf) for leaf in asked}
        named = (value for values in (constants, *map(constants_of, asked)) for value in values)
        self.texts = sorted({value for value in named if type(value) is str})
        letters = [one(letter).chars for letter in sorted({c for text in self.texts for c in text})]
        self.alphabet = Alphabet(z3, [*letters, *(chars for each in self.conditions.values() if each is not None for chars in _sets(each))])


class Value:
    """One JSON value that is looked for, and the formula that it must fulfil (`goal`, under `facts`).

    `name` sets its variables apart from those of other values of the question. `constants` and `elements` are what it and, if it is an
    array, its elements are compared with beside the formula's own.
    """

    def __init__(
        self,
        z3: Any,
        language: Language,
        formula: Formula,
        name: str = "",
        constants: Iterable[Frozen] = (),
        elements: Iterable[Frozen] = (),
    ) -> None:
        self.z3, self.language, self.formula, self.name = z3, language, formula, name
        self.kind, self.truth = z3.Int(f"{name} kind"), z3.Bool(f"{name} truth")
        self.number, self.whole, self.integer = z3.Real(f"{name} number"), z3.Bool(f"{name} whole"), z3.Int(f"{name} integer")
        self.text = z3.String(f"{name} text")
        self.other = z3.Bool(f"{name} other")
        self.size: Any = None  # elements of an array or members of an object, where the question asks for them
        self.members: dict[Key, tuple[Any, Frozen]] = {}  # by key of an element: whether the array holds it, and the element
        self.wholes: dict[Key, tuple[Any, Frozen]] = {}  # by key of an array or object: whether the value is that one
        self.hidden: dict[Hashable, tuple[Any, Hidden]] = {}
        self.facts: list[Any] = []
        asked = dict.fromkeys(leaves(formula))
        self._declare(
            [*constants, *(value for leaf in asked for value in constants_of(leaf))],
            [*elements, *(item for leaf in asked for item in elements_of(leaf))],
        )
        self.conditions = {leaf: self._condition(each) for leaf in asked if (each := language.conditions[leaf]) is not None}
        self.goal = self._formula(formula)
        self._relate()

    # --- constraints ----------------------------------------------------------------------------------------------------------------

    def _bool(self, word: str) -> Any:
        return self.z3.Bool(f"{self.name} {word}")

    def _declare(self, constants: list[Frozen], elements: list[Frozen]) -> None:
        z3 = self.z3
        composite = [value for value in constants if type(value) in ARRAYS or type(value) in OBJECTS]
        for item in (*elements, *(item for value in composite if type(value) in ARRAYS for item in value)):
            self.members.setdefault(key(item), (self._bool(f"holds {len(self.members)}"), item))
        for value in composite:
            self.wholes.setdefault(key(value), (self._bool(f"is {len(self.wholes)}"), value))
        if len(self.wholes) * len(self.members) > _MAX_SHAPES:
            raise Unsupported(f"{len(self.wholes)} arrays and objects as constants are too many")
        self.facts += [self.kind >= NULL, self.kind <= OBJECT, z3.Implies(self.whole, self.number == z3.ToReal(self.integer))]
        self._bound(-LARGEST, LARGEST)
        if len(self.wholes) > 1:
            self.facts.append(z3.AtMost(*(choice for choice, _ in self.wholes.values()), 1))
        for choice, value in self.wholes.values():
            if type(value) in OBJECTS:
                self.facts.append(z3.Implies(choice, self.kind == OBJECT))
                continue
            held = {key(item) for item in value}
            shape = [mark if item in held else z3.Not(mark) for item, (mark, _) in self.members.items()]
            self.facts.append(z3.Implies(choice, z3.And(self.kind == ARRAY, z3.Not(self.other), *shape)))
            if not value:  # the one array that its set of elements determines
                self.facts.append(z3.Implies(z3.And(self.kind == ARRAY, z3.Not(self.other), *shape), choice))

    def _bound(self, low: float, high: float) -> Any:
        """The number lies between two doubles, as every real of this question does or does not with a double's distance."""
        z3 = self.z3
        below, above = self.number >= real(z3, low), self.number <= real(z3, high)
        if low > -LARGEST:
            self.facts.append(z3.Or(below, self.number <= real(z3, math.nextafter(low, -math.inf))))
        if high < LARGEST:
            self.facts.append(z3.Or(above, self.number >= real(z3, math.nextafter(high, math.inf))))
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
            return z3.And(self.kind == STRING, self.conditions[leaf])
        if type(leaf) is Wildcard:
            return z3.BoolVal(True)
        if type(leaf) is Exact:
            return self.equals(leaf.value)
        if type(leaf) is OneOf:
            return z3.Or(*map(self.equals, leaf.values))
        if type(leaf) is NotOneOf:
            return z3.Not(z3.Or(*map(self.equals, leaf.excluded)))
        if type(leaf) is Range:
            return z3.And(self.kind == NUMBER, self._bound(leaf.low, leaf.high)) if leaf.low <= leaf.high else z3.BoolVal(False)
        if type(leaf) is TypeIs:
            return z3.And(self.kind == NUMBER, self.whole) if leaf.type == "integer" else self.kind == _KINDS[leaf.type]
        if type(leaf) is Contains:
            return z3.And(self.kind == ARRAY, *(self.members[item][0] for item in leaf.keys))
        if type(leaf) is Subset:
            others = (z3.Not(mark) for item, (mark, _) in self.members.items() if item not in leaf.keys)
            return z3.And(self.kind == ARRAY, z3.Not(self.other), *others)
        raise Unsupported(f"constraints of type {leaf.kind} are not translated")

    def equals(self, value: Frozen) -> Any:
        """It is this constant, one that the question named when the value was made."""
        z3 = self.z3
        if value is None:
            return self.kind == NULL
        if type(value) is bool:
            return z3.And(self.kind == BOOLEAN, self.truth if value else z3.Not(self.truth))
        if type(value) is str:
            return z3.And(self.kind == STRING, self.text == self.language.alphabet.literal(value))
        if type(value) is int or type(value) is float:
            return z3.And(self.kind == NUMBER, self._bound(float(value), float(value)))
        return self.wholes[key(value)][0]

    def sized(self) -> Any:
        """The number of elements of an array, or of members of an object."""
        if self.size is None:
            z3 = self.z3
            size = self.size = z3.Int(f"{self.name} size")
            held = z3.Sum(*(z3.If(mark, 1, 0) for mark, _ in self.members.values()), z3.If(self.other, 1, 0))
            self.facts += [
                size >= 0,
                z3.Implies(self.kind == ARRAY, z3.And(size >= held, z3.Implies(size > 0, held > 0))),
                *(z3.Implies(choice, size == len(value)) for choice, value in self.wholes.values()),
            ]
        return self.size

    # --- texts ----------------------------------------------------------------------------------------------------------------------

    def _condition(self, asked: Condition) -> Any:
        z3 = self.z3
        if isinstance(asked, In):
            return z3.InRe(self.text, self.language.alphabet.expression(asked.language))
        if isinstance(asked, Size):
            length = z3.Length(self.text)
            return z3.And(length >= asked.low, *(() if asked.high is None else (length <= asked.high,)))
        if isinstance(asked, No):
            return z3.Not(self._condition(asked.part))
        if isinstance(asked, Every | Some):
            return (z3.And if isinstance(asked, Every) else z3.Or)(*map(self._condition, asked.parts))
        if asked.name not in self.hidden:
            mark = self._bool(f"hidden {len(self.hidden)}")
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
            for text in self.language.texts:
                for leaf, meaning in self.conditions.items():
                    said = meaning if leaf.check(text) else z3.Not(meaning)
                    self.facts.append(z3.Implies(self.text == self.language.alphabet.literal(text), said))

    # --- examples -------------------------------------------------------------------------------------------------------------------

    def examples(
        self, model: Any, choice: int = 0, members: Mapping[str, Frozen] = MappingProxyType({}), more: Sequence[Frozen] = ()
    ) -> Iterator[Frozen]:
        """The values that a model stands for. `choice` picks among those that z3 does not tell apart.

        `members` are those of the object that the question knows, `more` the elements of the array beside constants.
        """

        def value_of(term: Any) -> Any:
            return model.eval(term, model_completion=True)

        z3 = self.z3
        for chosen, value in self.wholes.values():
            if z3.is_true(value_of(chosen)):
                yield value
                return
        kind = value_of(self.kind).as_long()
        size = min(value_of(self.size).as_long(), _MOST_ITEMS) if self.size is not None else 0
        if kind == NULL:
            yield None
        elif kind == BOOLEAN:
            yield z3.is_true(value_of(self.truth))
        elif kind == NUMBER:
            exact = value_of(self.number)
            exact = exact.approx(40) if z3.is_algebraic_value(exact) else exact
            double = float(Fraction(exact.numerator_as_long(), exact.denominator_as_long()))
            yield from reversed(spellings(double))
        elif kind == STRING:
            yield self.language.alphabet.text(value_of(self.text), choice)
        elif kind == OBJECT:
            yield self._unlike({**{f"x{index}": choice for index in range(size - len(members))}, **members})
        else:
            items = [item for mark, item in self.members.values() if z3.is_true(value_of(mark))]
            items += more
            if not more and z3.is_true(value_of(self.other)):
                items.append(next(name for name in map("other{}".format, count(choice)) if name not in self.members))
            yield self._unlike((*items, *items[:1] * (size - len(items))))

    def _unlike(self, value: Any) -> Frozen:
        """An object, or an array with the same elements, that is none of the question's constants."""
        while key(value) in self.wholes and value != ():
            value = {**value, f"x{len(value)}": 0} if type(value) is dict else (*value, value[0])
        return value


def constants_of(leaf: Constraint) -> Iterable[Frozen]:
    """What a constraint compares values with."""
    if isinstance(leaf, Exact):
        return (leaf.value,)
    return leaf.values if isinstance(leaf, OneOf) else leaf.excluded if isinstance(leaf, NotOneOf) else ()


def elements_of(leaf: Constraint) -> Iterable[Frozen]:
    """What a constraint compares the elements of an array with."""
    return leaf.required if isinstance(leaf, Contains) else leaf.allowed if isinstance(leaf, Subset) else ()


def _sets(asked: Condition) -> Iterator[CharSet]:
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


def real(z3: Any, value: int | float | Decimal) -> Any:
    """A number as z3 has it: the decimal that it prints as."""
    exact = Fraction(value) if type(value) is not float else Fraction(Decimal(repr(value)))
    return z3.RealVal(f"{exact.numerator}/{exact.denominator}")
