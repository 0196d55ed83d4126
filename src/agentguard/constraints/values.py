"""JSON values as constraints see them: which are admissible, when two are equal, and how one is shown in a reason."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from agentguard.canonical import Frozen, freeze, jcs, number_is_admissible
from agentguard.errors import InvalidInput

#: Hashable stand-in for a value: str, float, None or a tagged tuple. Their types never compare equal to one another.
Key: TypeAlias = Any

#: The key of what is not an admissible JSON value. It is in no set.
NO_KEY: Final = object()

EXACT_INTEGER: Final = 2**53
SCALARS: Final = frozenset({str, int, float, bool, type(None)})
ARRAYS: Final = frozenset({list, tuple})
OBJECTS: Final = frozenset({dict, MappingProxyType})
#: Deeper than any document that is parsed or frozen, shallow enough for recursion in C and Python.
_MAX_VALUE_DEPTH: Final = 256
_MAX_CONSTANT_DEPTH: Final = 96
_MAX_VALUE_NODES: Final = 1 << 20
_TRUE: Final = ("boolean", True)
_FALSE: Final = ("boolean", False)
_WIDTH: Final = 80


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def admissible(value: Frozen) -> bool:
    """Whether `value` is JSON all the way down, with numbers a double carries exactly and strings that have a UTF-8 form (AAT -02 §3.4).

    Accepts plain (dict, list) and frozen values. Total: an absurdly deep or large value is not admissible.
    """
    kind = type(value)
    if kind is str:
        return value.isascii() or _encodable(value)
    if value is None or kind is bool:
        return True
    if kind is int or kind is float:
        return -EXACT_INTEGER <= value <= EXACT_INTEGER or number_is_admissible(value)
    if kind not in ARRAYS and kind not in OBJECTS:
        return False
    return _admissible_parts(value)


def _admissible_parts(value: Frozen) -> bool:
    level, nodes = [value], 0
    for _ in range(_MAX_VALUE_DEPTH):
        deeper: list[Frozen] = []
        for part in level:
            if type(part) in OBJECTS:
                if not all(type(name) is str and (name.isascii() or _encodable(name)) for name in part):
                    return False
                part = part.values()
            nodes += len(part)
            for item in part:
                if type(item) in SCALARS:
                    if not admissible(item):
                        return False
                elif type(item) in ARRAYS or type(item) in OBJECTS:
                    deeper.append(item)
                else:
                    return False
            if nodes > _MAX_VALUE_NODES:
                return False
        if not deeper:
            return True
        level = deeper
    return False


def key(value: Frozen) -> Key:
    """What stands for `value` in a set: equal keys mean equal JCS bytes. `NO_KEY` for what is not admissible.

    An admissible number is the one its double prints as, so the double is its key; `1` and `1.0` share one, `true` has its own.
    """
    kind = type(value)
    if kind is str:
        return value if value.isascii() or _encodable(value) else NO_KEY
    if kind is int or kind is float:
        if -EXACT_INTEGER <= value <= EXACT_INTEGER or number_is_admissible(value):
            return float(value)
        return NO_KEY
    if kind is bool:
        return _TRUE if value else _FALSE
    if value is None:
        return None
    if (kind in ARRAYS or kind in OBJECTS) and _admissible_parts(value):
        try:
            return ("composite", jcs(value))
        except InvalidInput:
            return NO_KEY
    return NO_KEY


def spellings(value: Frozen) -> tuple[Frozen, ...]:
    """Every Python form of a scalar that equals it: an integral number may come as int or as float, and only `type` tells them apart."""
    if type(value) is int:
        return (value, float(value))
    if type(value) is float and value.is_integer():
        return (value, int(Decimal(repr(value))))  # int(1e23) would be another number than the one 1e23 denotes
    return (value,)


def shorten(text: str, width: int = _WIDTH) -> str:
    """`text`, cut to `width` characters with an ellipsis."""
    return text if len(text) <= width else text[: width - 1] + "…"


def show(value: Frozen, width: int = 60) -> str:
    """A value in at most `width` characters, for reasons. Composite values are named, not printed."""
    kind = type(value)
    if kind is str:
        return shorten(repr(value[:width]) if len(value) <= width else repr(value[:width])[:-1] + "…", width)
    if kind is bool:
        return "true" if value else "false"
    if value is None:
        return "null"
    if kind in ARRAYS:
        return f"an array of {len(value)}"
    if kind in OBJECTS:
        return f"an object with {len(value)} members"
    if kind is int and value.bit_length() > 1024:  # CPython refuses to print very long integers
        return "a very large integer"
    return shorten(repr(value), width)


def listed(values: Iterable[Frozen]) -> str:
    words: list[str] = []
    room = _WIDTH
    for value in values:
        word = show(value, 30)
        room -= len(word) + 2
        if room < 0:
            return ", ".join([*words, "…"])
        words.append(word)
    return ", ".join(words)


def constants(values: Any, what: str) -> tuple[Frozen, ...]:
    """An array of constants, frozen. InvalidInput where it is not an array of admissible JSON."""
    if type(values) not in ARRAYS:
        raise InvalidInput(f"{what} must be an array, found {type(values).__name__}")
    return freeze(values, max_depth=_MAX_CONSTANT_DEPTH, max_nodes=_MAX_VALUE_NODES)  # type: ignore[no-any-return]  # a tuple, for an array
