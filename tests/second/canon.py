"""Strict JSON, the JSON canonicalization scheme, and which numbers are admissible.

Sources: RFC 8259, RFC 8785; draft section 3.4 ("A JSON number is admissible when ...").
A value is ``None | bool | int | float | str | list | dict`` with ``str`` keys, written ``Any`` here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

MAX_NUMBER_TEXT = 1024
MAX_EXPONENT = 2000

_NUMBER = re.compile(r"-?(?P<int>[0-9]+)(?:\.(?P<frac>[0-9]+))?(?:[eE](?P<exp>[+-]?[0-9]+))?")


class NotJson(ValueError):
    """The bytes or the value are not JSON as this package accepts it."""


class WrittenFloat(float):
    """A number with a fraction or an exponent, with its digits as they stood in the text."""

    text: str

    def __new__(cls, text: str) -> WrittenFloat:
        self = super().__new__(cls, text)
        self.text = text
        return self


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise NotJson(f"member {name!r} appears twice")
        found[name] = value
    return found


def _constant(text: str) -> Any:
    raise NotJson(f"{text} is not JSON")


def parse(data: bytes) -> Any:
    """Parse UTF-8 JSON. Refuses duplicate members at any depth, NaN, lone surrogates. Raises ``NotJson``."""
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_object, parse_constant=_constant, parse_float=WrittenFloat)
    except NotJson:
        raise
    except (ValueError, RecursionError) as error:
        raise NotJson(str(error)) from error
    for text in strings(value):
        if any(0xD800 <= ord(c) <= 0xDFFF for c in text):
            raise NotJson("lone surrogate")
    return value


def walk(value: Any) -> Iterator[tuple[Any, int]]:
    """Every node of a value with its depth; a scalar at the top has depth 1. Iterative, so that depth can't hurt."""
    todo = [(value, 1)]
    while todo:
        node, depth = todo.pop()
        yield node, depth
        if isinstance(node, dict):
            todo.extend((child, depth + 1) for child in node.values())
        elif isinstance(node, list):
            todo.extend((child, depth + 1) for child in node)


def strings(value: Any) -> Iterator[str]:
    """Every string of a value, member names included."""
    for node, _ in walk(value):
        if isinstance(node, str):
            yield node
        elif isinstance(node, dict):
            yield from (name for name in node if isinstance(name, str))


def is_number(value: Any) -> bool:
    """A JSON number; ``True`` is none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_integer(value: Any) -> bool:
    """A number without fraction or exponent part."""
    return isinstance(value, int) and not isinstance(value, bool)


def _double_text(double: float) -> str:
    """ECMAScript's Number::toString (RFC 8785 section 3.2.2.3)."""
    if math.isnan(double) or math.isinf(double):
        raise NotJson("not a finite number")
    if double == 0:
        return "0"
    sign = "-" if double < 0 else ""
    _, digit_tuple, exponent = Decimal(repr(abs(double))).as_tuple()
    assert isinstance(exponent, int)
    digits = "".join(map(str, digit_tuple))
    stripped = digits.rstrip("0")
    exponent += len(digits) - len(stripped)
    digits = stripped.lstrip("0")
    point = len(digits) + exponent  # the value is 0.digits times ten to the power of point
    if len(digits) <= point <= 21:
        return sign + digits + "0" * (point - len(digits))
    if 0 < point <= 21:
        return sign + digits[:point] + "." + digits[point:]
    if -6 < point <= 0:
        return sign + "0." + "0" * -point + digits
    power = point - 1
    mantissa = digits[0] + ("." + digits[1:] if len(digits) > 1 else "")
    return f"{sign}{mantissa}e{'+' if power > 0 else '-'}{abs(power)}"


def _text(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        try:
            return _double_text(float(value))
        except OverflowError as error:
            raise NotJson("number too large") from error
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return "[" + ",".join(_text(item) for item in value) + "]"
    if isinstance(value, dict):
        if not all(isinstance(name, str) for name in value):
            raise NotJson("a member name is not a string")
        names = sorted(value, key=lambda name: name.encode("utf-16-be"))
        return "{" + ",".join(json.dumps(name, ensure_ascii=False) + ":" + _text(value[name]) for name in names) + "}"
    raise NotJson(f"{type(value).__name__} is not a JSON type")


def jcs(value: Any) -> bytes:
    """The canonical bytes of a value. Raises ``NotJson``."""
    try:
        return _text(value).encode("utf-8")
    except UnicodeEncodeError as error:
        raise NotJson("lone surrogate") from error


def same(left: Any, right: Any) -> bool:
    """Equality of values is equality of their JCS bytes."""
    return jcs(left) == jcs(right)


def keys(values: list[Any]) -> set[bytes]:
    """A JSON array as a set."""
    return {jcs(value) for value in values}


def _exact(text: str) -> Fraction | None:
    """The number that a text denotes, exactly; ``None`` where it is absurd or no number."""
    match = _NUMBER.fullmatch(text)
    if match is None or len(text) > MAX_NUMBER_TEXT:
        return None
    fraction = match["frac"] or ""
    digits = int(match["int"] + fraction)
    if digits == 0:
        return Fraction(0)
    exponent = int(match["exp"] or "0")
    if abs(exponent) > MAX_EXPONENT:
        return None
    magnitude = Fraction(digits) * Fraction(10) ** (exponent - len(fraction))
    return -magnitude if text.startswith("-") else magnitude


def admissible_text(text: str) -> bool:
    """Does the JCS form of the double that this text rounds to denote the same number as the text?"""
    wanted = _exact(text)
    if wanted is None:
        return False
    if wanted == 0:
        return True
    try:
        canonical = _double_text(float(text))
    except NotJson:
        return False
    return _exact(canonical) == wanted


def admissible_number(value: int | float) -> bool:
    """Admissibility of a number, its digits being those read, else ``str(int)`` or ``repr(float)``."""
    if isinstance(value, WrittenFloat):
        return admissible_text(value.text)
    if isinstance(value, int):
        return abs(value) < 10**400 and admissible_text(str(value))
    return admissible_text(repr(value))


def admissible(value: Any) -> bool:
    """Every number in the value, at any depth, is admissible."""
    return all(admissible_number(node) for node, _ in walk(value) if is_number(node))
