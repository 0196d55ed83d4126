"""Live values as the JSON that they amount to, so that a constraint can judge what a tool really gets.

A framework's schema may turn JSON into objects: a model, a date, an enum. Their serializers are not asked, since one may leave a field out
or mask it (`exclude`, `SecretStr`): the attributes are read instead. What cannot be read that way cannot be checked, and is refused.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import ipaddress
import operator
import pathlib
import uuid
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from agentguard.canonical import MAX_DEPTH, Json, jcs
from agentguard.errors import InvalidInput

_WORDS: Final[tuple[tuple[tuple[type, ...], Callable[[Any], Any]], ...]] = (
    ((datetime.date, datetime.time), lambda value: value.isoformat()),  # a datetime is a date
    ((datetime.timedelta,), lambda value: value.total_seconds()),
    ((decimal.Decimal, uuid.UUID, pathlib.PurePath), str),
    ((ipaddress.IPv4Address, ipaddress.IPv6Address, ipaddress.IPv4Network, ipaddress.IPv6Network), str),
)


def plain(value: Any, *, depth: int = MAX_DEPTH) -> Json:
    """The JSON form of a live value; the value itself where it is JSON already. Raises InvalidInput where no form shows all of it."""
    kind = type(value)
    if value is None or kind in (str, bool, int, float):
        return value
    if depth <= 0:
        raise InvalidInput(f"the value is nested more than {MAX_DEPTH} deep")
    if kind is list or kind is tuple:
        items = [plain(item, depth=depth - 1) for item in value]
        return value if kind is list and all(map(operator.is_, items, value)) else items
    if kind is dict or kind is MappingProxyType:
        members = _members(value, depth)
        return value if kind is dict and all(map(operator.is_, members.values(), value.values())) else members
    if kind in (set, frozenset):
        return sorted([plain(item, depth=depth - 1) for item in value], key=jcs)
    if isinstance(value, enum.Enum):
        return plain(value.value, depth=depth - 1)
    for kinds, word in _WORDS:
        if isinstance(value, kinds):
            return word(value)
    return _object(value, kind, depth)


def is_json(value: Any) -> bool:
    """Whether there is nothing in a value that JSON could not have brought, however deep: whether a model may have made it up."""
    todo = [value]
    while todo:
        item = todo.pop()
        kind = type(item)
        if kind is dict:
            todo += [*item, *item.values()]
        elif kind is list:
            todo += item
        elif item is not None and kind not in (str, bool, int, float):
            return False
    return True


def _members(value: Mapping[Any, Any], depth: int) -> dict[str, Json]:
    if any(type(name) is not str for name in value):
        raise InvalidInput("an object with members that are not named by strings cannot be checked")
    return {name: plain(item, depth=depth - 1) for name, item in value.items()}


def _object(value: Any, kind: type, depth: int) -> Json:
    """A pydantic model or secret, or a dataclass, by what it holds."""
    if dataclasses.is_dataclass(kind):
        return _members({part.name: getattr(value, part.name) for part in dataclasses.fields(kind)}, depth)
    if callable(reveal := getattr(kind, "get_secret_value", None)):
        return plain(reveal(value), depth=depth - 1)
    if kind.__module__ == "pydantic.networks":  # URLs and the like, which say all that they are
        return str(value)
    fields = getattr(kind, "model_fields", None) or getattr(kind, "__fields__", None)
    if not isinstance(fields, dict):
        raise InvalidInput(f"a value of type {kind.__module__}.{kind.__qualname__} cannot be checked, because it has no JSON form")
    extra = getattr(value, "__pydantic_extra__", None) or {}
    held = {name: getattr(value, name) for name in fields}
    shown = _members({**extra, **held}, depth)
    return shown["root"] if [*shown] == ["root"] else shown  # a RootModel is what it wraps
