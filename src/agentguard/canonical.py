"""JSON as this library reads, keeps and signs it.

Reading is strict (no duplicate members, no NaN, bounded depth). Values are kept frozen (`freeze`), so that what was checked is what
runs. Equality and digests are over JCS bytes (RFC 8785): `1` equals `1.0`, `true` does not equal `1`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import re
from collections.abc import Mapping
from json.encoder import encode_basestring  # the C implementation; its escapes are those of RFC 8785 §3.2.2.2
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import msgspec

from agentguard.errors import InvalidInput

#: None, bool, int, float, str, tuple of Frozen, MappingProxyType of str to Frozen. (Recursive aliases say less than this sentence.)
Frozen: TypeAlias = Any
#: None, bool, int, float, str, list, dict: what `json` gives.
Json: TypeAlias = Any

MAX_DEPTH: Final = 32
MAX_NODES: Final = 10_000
#: Code points in all long strings of one value together; short ones are bounded by MAX_NODES.
MAX_TEXT: Final = 4 * 1024 * 1024
_LONG: Final = 1024
_SAFE_INTEGER: Final = 2**53
_NUMBER = re.compile(r"(-?)([0-9]+)(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]+))?")


class Inadmissible:
    """A number whose digits a double cannot carry (AAT -02 §3.4). It equals nothing, and no constraint accepts it."""

    __slots__ = ("lexeme",)

    def __init__(self, lexeme: str) -> None:
        self.lexeme = lexeme[:64]

    def __repr__(self) -> str:
        return f"<inadmissible number {self.lexeme}>"


def _exact(lexeme: str) -> tuple[str, str, int] | None:
    """The number that `lexeme` denotes as (sign, digits without outer zeros, exponent); zero is ("", "", 0)."""
    match = _NUMBER.fullmatch(lexeme)
    if match is None or len(lexeme) > 1100:  # 5e-324 has 751 significant digits at the very most; beyond that nothing is admissible
        return None
    sign, whole, fraction, exponent = match[1], match[2], match[3] or "", match[4] or "0"
    digits = (whole + fraction).lstrip("0")
    if not digits:
        return ("", "", 0)
    stripped = digits.rstrip("0")
    return (sign, stripped, int(exponent) - len(fraction) + len(digits) - len(stripped))


def is_admissible(lexeme: str) -> bool:
    """Whether the JCS form of the double denotes the number that `lexeme` denotes, exactly (AAT -02 §3.4)."""
    wanted = _exact(lexeme)
    if wanted is None:
        return False
    value = float(lexeme)
    return math.isfinite(value) and _exact(number(value)) == wanted


def number_is_admissible(value: int | float) -> bool:
    """The same for a Python number, whose digits are `str(int)` or `repr(float)`."""
    if type(value) is int:
        return -_SAFE_INTEGER <= value <= _SAFE_INTEGER or (value.bit_length() < 1024 and is_admissible(str(value)))
    return math.isfinite(value)


def number(value: float) -> str:
    """The ECMAScript form of a finite double (RFC 8785 §3.2.2.3)."""
    if value == 0:
        return "0"
    if value.is_integer() and abs(value) < _SAFE_INTEGER:
        return str(int(value))
    sign = "-" if value < 0 else ""
    mantissa, _, exponent = repr(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    fraction = "" if fraction == "0" else fraction
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    count = len(digits)
    if count <= point <= 21:
        return sign + digits + "0" * (point - count)
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    tail = f".{digits[1:]}" if count > 1 else ""
    return f"{sign}{digits[0]}{tail}e{'+' if point > 0 else '-'}{abs(point - 1)}"


def freeze(value: Any, *, max_depth: int = MAX_DEPTH, max_nodes: int = MAX_NODES) -> Frozen:
    """A private, immutable copy of a JSON value. Exact types only: a subclass of `int` or `str` may lie about itself.

    Raises InvalidInput for anything that is not JSON, not admissible, too deep or too large.
    """
    budget = [max_nodes, MAX_TEXT]
    return _freeze(value, max_depth, budget)


def _freeze(value: Any, depth: int, budget: list[int]) -> Frozen:
    kind = type(value)
    if kind is str:
        if len(value) > _LONG:
            _long(value, budget)
        if not value.isascii():
            _utf8(value)
        return value
    if kind is bool or value is None:
        return value
    if kind is int or kind is float:
        if not number_is_admissible(value):
            raise _inexact(value)
        return value
    budget[0] -= 1
    if depth <= 0:
        raise InvalidInput("the value is nested too deeply", hint=f"at most {MAX_DEPTH} levels")
    if kind is dict or kind is MappingProxyType:
        members = list(value.items())  # one moment of it: another thread may be writing
        budget[0] -= len(members)
        if budget[0] < 0:
            raise InvalidInput("the value has too many parts", hint=f"at most {MAX_NODES}")
        copy: dict[str, Frozen] = {}
        for key, item in members:
            if type(key) is not str:
                raise InvalidInput(f"an object's member name is {type(key).__name__}, not a string")
            if len(key) > _LONG:
                _long(key, budget)
            if not key.isascii():
                _utf8(key)
            if type(item) is str and len(item) <= _LONG and item.isascii():  # most are, and a call costs more than this
                copy[key] = item
            else:
                copy[key] = _freeze(item, depth - 1, budget)
        return MappingProxyType(copy)
    if kind is list or kind is tuple:
        items = tuple(value)
        budget[0] -= len(items)
        if budget[0] < 0:
            raise InvalidInput("the value has too many parts", hint=f"at most {MAX_NODES}")
        return tuple([_freeze(item, depth - 1, budget) for item in items])
    if kind is Inadmissible:
        raise InvalidInput(f"the number {value.lexeme} cannot be carried exactly by a JSON number", hint="pass it as a string")
    raise InvalidInput(f"{kind.__module__}.{kind.__qualname__} is not a JSON value")


def _long(text: str, budget: list[int]) -> None:
    budget[1] -= len(text)
    if budget[1] < 0:
        raise InvalidInput("the value has too much text", hint=f"at most {MAX_TEXT} characters")


def _inexact(value: int | float) -> InvalidInput:
    # Printing a huge integer is slow, and past 4,300 digits Python refuses.
    shown = "of more than 300 digits" if type(value) is int and value.bit_length() > 1024 else f"{value!r:.40}"
    return InvalidInput(f"the number {shown} cannot be carried exactly by a JSON number", hint="pass it as a string")


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidInput("a string holds a lone surrogate, which has no UTF-8 form") from None


def thaw(value: Frozen) -> Json:
    """A mutable copy of a frozen value, for the tool."""
    kind = type(value)
    if kind is MappingProxyType:
        return {key: thaw(item) for key, item in value.items()}
    if kind is tuple:
        return [thaw(item) for item in value]
    return value


def jcs(value: Any) -> bytes:
    """The JCS bytes of a JSON value, frozen or not (RFC 8785). Raises InvalidInput where there are none."""
    if type(value) is MappingProxyType and _is_flat(value):
        return _encode_flat(dict(value))
    try:
        return (encode_basestring(value) if type(value) is str else _jcs(value)).encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidInput("a string holds a lone surrogate, which has no UTF-8 form") from None
    except RecursionError:
        raise InvalidInput("the value is nested too deeply") from None


#: A C encoder whose strings are those of JCS; of numbers and nesting it knows nothing, so it gets neither (tests/unit/test_canonical.py).
_encode_flat: Final = msgspec.json.Encoder(order="deterministic").encode


def _is_flat(value: Mapping[str, Frozen]) -> bool:
    """Whether a frozen object, whose strings have a UTF-8 form, holds scalars that every encoder writes alike, under ASCII names."""
    for name, item in value.items():
        kind = type(item)
        if not name.isascii() or not (
            kind is str or kind is bool or item is None or (kind is int and -_SAFE_INTEGER <= item <= _SAFE_INTEGER)
        ):
            return False
    return True


def _jcs(value: Any) -> str:
    kind = type(value)
    if kind is str:
        return encode_basestring(value)
    if kind is int:
        if -_SAFE_INTEGER <= value <= _SAFE_INTEGER:
            return str(value)
        if value.bit_length() > 1023 or not is_admissible(str(value)):
            raise _inexact(value)
        return number(float(value))
    if value is True:
        return "true"
    if value is False:
        return "false"
    if value is None:
        return "null"
    if kind is dict or kind is MappingProxyType:
        keys = list(value)
        for key in keys:
            if type(key) is not str:
                raise InvalidInput(f"an object's member name is {type(key).__name__}, not a string")
        if all(map(str.isascii, keys)):
            keys.sort()
        else:  # RFC 8785 §3.2.3 sorts by UTF-16 code units, Python by code points
            keys.sort(key=lambda key: key.encode("utf-16-be", "surrogatepass"))
        return "{" + ",".join([f"{encode_basestring(key)}:{_jcs(value[key])}" for key in keys]) + "}"
    if kind is list or kind is tuple:
        return "[" + ",".join([_jcs(item) for item in value]) + "]"
    if kind is float:
        if not math.isfinite(value):
            raise InvalidInput(f"{value!r} is not a JSON number")
        return number(value)
    raise InvalidInput(f"{kind.__qualname__} has no JSON form")


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]  # set.add is the point
        raise InvalidInput(f"the member {twice[:64]!r} stands twice in one object")
    return members


def _integer(lexeme: str) -> int | Inadmissible:
    if len(lexeme) <= 15 or is_admissible(lexeme):
        return int(lexeme)
    return Inadmissible(lexeme)


def _float(lexeme: str) -> float | Inadmissible:
    return float(lexeme) if is_admissible(lexeme) else Inadmissible(lexeme)


def _constant(name: str) -> Any:
    raise InvalidInput(f"{name} is not JSON")


_decode: Final = json.JSONDecoder(object_pairs_hook=_pairs, parse_int=_integer, parse_float=_float, parse_constant=_constant).decode


def parse(data: bytes | str, *, max_depth: int = 64) -> Json:
    """Read one JSON document strictly: UTF-8, no duplicate members at any depth, no NaN.

    A number that a double cannot carry exactly comes back as `Inadmissible`. Raises InvalidInput.
    """
    try:
        text = data if type(data) is str else bytes(data).decode("utf-8")  # type: ignore[arg-type]  # bytes by elimination
        value = _decode(text)
    except UnicodeDecodeError as error:
        raise InvalidInput(f"not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise InvalidInput(f"not JSON: {error.msg}", place=f"line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise InvalidInput("the document is nested too deeply") from None
    if text.count("{") + text.count("[") > max_depth and _depth_exceeds(value, max_depth):  # what opens little is not deep
        raise InvalidInput("the document is nested too deeply", hint=f"at most {max_depth} levels")
    return value


def _depth_exceeds(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit + 1):
        level = [item for part in level if type(part) in (dict, list) for item in (part.values() if type(part) is dict else part)]
        if not level:
            return False
    return True


def b64url(data: bytes) -> str:
    """Base64url without padding (RFC 7515 §2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def b64url_decode(text: str) -> bytes:
    """The inverse, strict: the text must be what `b64url` would print, so no padding, no white space, no loose trailing bits."""
    try:
        data = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error, ValueError):
        raise InvalidInput("not base64url") from None
    if b64url(data) != text:
        raise InvalidInput("not canonical base64url")
    return data


def sha256(data: bytes) -> str:
    """Lower-case hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()


def digest(value: Any) -> str:
    """`sha256:` and the hexadecimal SHA-256 of the value's JCS bytes: how this library names documents by content."""
    return "sha256:" + hashlib.sha256(jcs(value)).hexdigest()


def as_mapping(value: Any, what: str) -> Mapping[str, Any]:
    """`value` as a JSON object, or InvalidInput that names `what`."""
    if type(value) is dict or type(value) is MappingProxyType:
        return value
    raise InvalidInput(f"{what} must be an object, found {type(value).__name__}")
