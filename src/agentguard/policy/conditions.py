"""Conditions over several arguments of one call: `where` and `when` of a policy (docs/policy-conditions.md).

A condition is total: it holds or it fails, for any arguments, and an error fails it. A missing argument or a value of the wrong type is an
error wherever it is evaluated, so neither `a < 5` nor `not (a < 5)` holds where `a` is a string. `and` and `or` go from left to right and
stop where the answer is known, so `not has(a) or a < 5` looks at `a` only where it is there.

Numbers are exact: whole ones, and decimals with the digits that a JSON number prints as. Equality is that of the constraint `exact`: of JCS
bytes, `1` equals `1.0`, and `true` equals neither.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow
from math import isfinite
from typing import Any, Final

from agentguard.canonical import Frozen, number_is_admissible
from agentguard.constraints.values import ARRAYS, EXACT_INTEGER, NO_KEY, OBJECTS, Key, admissible, key, shorten, show
from agentguard.errors import InvalidInput
from agentguard.policy.condition_parser import MAX_TEXT, parse
from agentguard.policy.condition_tokens import exact as exact_decimal
from agentguard.policy.condition_tree import (
    Among,
    Compare,
    Every,
    Has,
    Items,
    Literal,
    Name,
    Negative,
    Not,
    Part,
    Product,
    Size,
    Some,
    Sum,
    Term,
    Test,
    names,
    write,
)

Arguments = Mapping[str, Frozen]
_Number = Callable[[Arguments], Any]
_Holds = Callable[[Arguments], bool]

#: Room for 8 factors of up to 309 digits before the point and 324 behind it, and some hundred such products added: nothing is rounded.
_EXACT: Final = Context(prec=8000, Emin=-999_999, Emax=999_999, traps=[Inexact, InvalidOperation, Overflow])
_FOUND: Final = 160
_ABSENT: Final = object()
_ORDER: Final = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_TEXT: Final[dict[str, Callable[[str, str], bool]]] = {
    "starts_with": str.startswith,
    "ends_with": str.endswith,
    "contains": str.__contains__,
}


class _Fault(Exception):
    """What makes a condition fail by error, in words."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition. Make it with `parse_condition`.

    text   the canonical text, ASCII; two conditions are equal when their texts are
    names  the arguments that it asks about
    tree   as `agentguard.policy.condition_tree` reads it
    """

    text: str
    names: frozenset[str] = field(compare=False)
    tree: Test = field(compare=False, repr=False)
    _holds: _Holds = field(compare=False, repr=False)

    def failure(self, bound: Arguments) -> str | None:
        """None where it holds for these bound arguments, plain or frozen; else what was found, in words. Total."""
        try:
            if self._holds(bound):
                return None
        except _Fault as fault:
            return shorten(str(fault), _FOUND)
        return shorten(", ".join(_shown(name, bound) for name in dict.fromkeys(names(self.tree))), _FOUND)


def parse_condition(text: str) -> Condition:
    """The condition that a text is. Raises InvalidInput, whose message ends in the column where it counts from 1."""
    tree = parse(text)
    written = write(tree)
    if len(written) > MAX_TEXT:
        raise InvalidInput(f"the condition has {len(written)} characters when written out", hint=f"at most {MAX_TEXT}: {written[:40]}...")
    return Condition(written, frozenset(name.path[0] for name in names(tree)), tree, _test(tree))


# --- values -----------------------------------------------------------------------------------------------------------------------------


def _at(name: Name, arguments: Arguments) -> Frozen:
    """What stands there, or `_ABSENT`."""
    value: Frozen = arguments
    for depth, step in enumerate(name.path):
        if depth and type(value) not in OBJECTS:
            raise _Fault(f"{write(Name(name.path[:depth]))} is {show(value, 40)}, not an object")
        if step not in value:
            return _ABSENT
        value = value[step]
    return value


def _shown(name: Name, arguments: Arguments) -> str:
    try:
        value = _at(name, arguments)
    except _Fault as fault:
        return str(fault)
    return f"{write(name)} is {'missing' if value is _ABSENT else show(value, 40)}"


def _value(name: Name) -> Callable[[Arguments], Frozen]:
    def value(arguments: Arguments) -> Frozen:
        found = _at(name, arguments)
        if found is _ABSENT:
            raise _Fault(f"{write(name)} is missing")
        return found

    if len(name.path) > 1:
        return value
    (only,) = name.path

    def argument(arguments: Arguments) -> Frozen:
        try:
            return arguments[only]
        except KeyError:
            return value(arguments)

    return argument


def _wrong(name: Name, value: Frozen, wanted: str) -> _Fault:
    but = f"not {wanted}" if admissible(value) else "which JSON does not carry exactly"
    return _Fault(f"{write(name)} is {show(value, 40)}, {but}")


def _number_at(name: Name) -> _Number:
    value = _value(name)

    def number(arguments: Arguments) -> int | Decimal:
        found = value(arguments)
        if type(found) is int and -EXACT_INTEGER <= found <= EXACT_INTEGER:
            return found
        exact = _exact(found)
        if exact is None:
            raise _wrong(name, found, "a number")
        return exact

    return number


def _exact(value: Frozen) -> int | Decimal | None:
    """The number that a value is. None for what is none, or one that no JSON number carries exactly."""
    if type(value) is float:
        return exact_decimal(value) if isfinite(value) else None
    return value if type(value) is int and number_is_admissible(value) else None


def _string_at(term: Literal | Name) -> Callable[[Arguments], str]:
    if isinstance(term, Literal):
        constant = str(term.value)
        return lambda _: constant
    value = _value(term)

    def text(arguments: Arguments) -> str:
        found = value(arguments)
        if type(found) is str and (found.isascii() or admissible(found)):
            return found
        raise _wrong(term, found, "a string")

    return text


def _size(term: Size) -> _Number:
    value = _value(term.of)

    def size(arguments: Arguments) -> int:
        found = value(arguments)
        if type(found) is str:
            if found.isascii() or admissible(found):
                return len(found)
        elif type(found) in ARRAYS or type(found) in OBJECTS:
            return len(found)
        raise _wrong(term.of, found, "a string, an array or an object")

    return size


def _number(term: Term) -> _Number:
    if isinstance(term, Name):
        return _number_at(term)
    if isinstance(term, Size):
        return _size(term)
    if isinstance(term, Negative):
        inner = _number(term.of)
        return lambda arguments: _EXACT.copy_negate(found) if type(found := inner(arguments)) is Decimal else -found
    if isinstance(term, Sum):
        return _sum(term)
    if isinstance(term, Product):
        first, second, *others = map(_number, term.factors)
        product = _twice(first, second)
        for other in others:
            product = _twice(product, other)  # at most 8 of them
        return product
    constant = term.value if isinstance(term, Literal) else 0
    return lambda _: constant


def _twice(left: _Number, right: _Number) -> _Number:
    def product(arguments: Arguments) -> int | Decimal:
        a, b = left(arguments), right(arguments)
        found: int | Decimal = a * b if type(a) is int and type(b) is int else _EXACT.multiply(a, b)
        return found

    return product


def _sum(term: Sum) -> _Number:
    first = _number(term.first)
    rest = [(plus, _number(part)) for plus, part in term.rest]

    def total(arguments: Arguments) -> int | Decimal:
        found: int | Decimal = first(arguments)
        for plus, part in rest:
            more = part(arguments)
            if type(found) is int and type(more) is int:
                found = found + more if plus else found - more
            else:
                found = _EXACT.add(found, more) if plus else _EXACT.subtract(found, more)
        return found

    return total


# --- equality ---------------------------------------------------------------------------------------------------------------------------


def _key(value: Frozen) -> Key:
    """As `values.key`, but a number is itself, exactly: it may have come from a calculation. `NO_KEY` for what is not admissible."""
    if type(value) is int or type(value) is float:
        exact = _exact(value)
        return NO_KEY if exact is None else exact
    return key(value)


def _key_of(term: Term) -> Callable[[Arguments], Key]:
    if isinstance(term, Items):
        written = key([float(item.value) if type(item.value) is Decimal else item.value for item in term.items])
        return lambda _: written
    if isinstance(term, Literal):
        constant = term.value if type(term.value) is Decimal else _key(term.value)
        return lambda _: constant
    if not isinstance(term, Name):
        return _number(term)
    value = _value(term)

    def found(arguments: Arguments) -> Key:
        it = value(arguments)
        if type(it) is str and it.isascii():
            return it
        stands_for = _key(it)
        if stands_for is NO_KEY:
            raise _wrong(term, it, "a JSON value")
        return stands_for

    return found


# --- conditions -------------------------------------------------------------------------------------------------------------------------


def _test(test: Test) -> _Holds:
    if isinstance(test, Compare):
        return _compare(test)
    if isinstance(test, Every | Some):
        return _joined([_test(part) for part in test.parts], isinstance(test, Some))
    if isinstance(test, Not):
        inner = _test(test.part)
        return lambda arguments: not inner(arguments)
    if isinstance(test, Among):
        return _among(test)
    if isinstance(test, Part):
        text, part, holds = _string_at(test.text), _string_at(test.part), _TEXT[test.function]
        return lambda arguments: holds(text(arguments), part(arguments))
    if isinstance(test, Has):
        return lambda arguments: _at(test.name, arguments) is not _ABSENT
    value = _value(test.name)

    def true(arguments: Arguments) -> bool:
        found = value(arguments)
        if type(found) is not bool:
            raise _wrong(test.name, found, "true or false")
        return found

    return true


def _compare(test: Compare) -> _Holds:
    if test.operator in ("==", "!="):
        first, second = _key_of(test.left), _key_of(test.right)
        if test.operator == "==":
            return lambda arguments: bool(first(arguments) == second(arguments))
        return lambda arguments: bool(first(arguments) != second(arguments))
    holds, left, right = _ORDER[test.operator], _number(test.left), _number(test.right)
    if isinstance(test.right, Literal):
        bound: Any = test.right.value
        return lambda arguments: holds(left(arguments), bound)
    return lambda arguments: holds(left(arguments), right(arguments))


def _among(test: Among) -> _Holds:
    item, of = _key_of(test.item), test.of
    if isinstance(of, Items):
        constants = frozenset(_key_of(each)({}) for each in of.items)
        return lambda arguments: item(arguments) in constants
    value = _value(of)

    def among(arguments: Arguments) -> bool:
        wanted, found = item(arguments), value(arguments)
        if type(found) not in ARRAYS or not admissible(found):
            raise _wrong(of, found, "an array")
        return wanted in {_key(each) for each in found}

    return among


def _joined(parts: list[_Holds], enough: bool) -> _Holds:
    """`or` (the first that holds is enough) or `and` (the first that fails is)."""
    if len(parts) == 2:
        first, second = parts
        if enough:
            return lambda arguments: first(arguments) or second(arguments)
        return lambda arguments: first(arguments) and second(arguments)

    def joined(arguments: Arguments) -> bool:
        for part in parts:
            if part(arguments) is enough:
                return enough
        return not enough

    return joined
