"""One way through an output: every text in it is shown to somebody, and it is built anew with what they say, its types kept.

What cannot be looked into (an object whose state is hidden, an iterator, bytes that are no text) ends the way with `Unreadable`: it cannot
be said that nothing is in it. Nothing of the objects' own is asked, neither serializers nor properties: their state is read.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import ipaddress
import json
import math
import pathlib
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from agentguard.canonical import MAX_DEPTH
from agentguard.constraints.values import show
from agentguard.errors import InvalidInput

#: What stands where something was taken out.
MARK: Final = "[redacted]"
#: Parts of one output, and characters of all its texts.
MAX_NODES: Final = 200_000
MAX_TEXT: Final = 16 * 1024 * 1024

#: Where a text stands, without the indexes of lists: the group of texts that may belong together. `(group above, name)`, or `()`.
Group: TypeAlias = tuple[Any, ...]
#: What is left of some paths: which one, how many of its steps are behind, whether the last of those was a name.
States: TypeAlias = tuple[tuple[int, int, bool], ...]
#: Says what becomes of a text. Given with it: the name of the member whose value it is, and its group.
Teller: TypeAlias = Callable[[str, str, Group | None], str]

_MAX_PATHS: Final = 64
_MAX_PATH: Final = 256
#: What is one word, and holds nothing else.
_WORDS: Final = (
    datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, uuid.UUID, pathlib.PurePath,
    ipaddress.IPv4Address, ipaddress.IPv6Address, ipaddress.IPv4Network, ipaddress.IPv6Network,
    ipaddress.IPv4Interface, ipaddress.IPv6Interface,
)  # fmt: skip


class Unreadable(Exception):
    """It cannot be said what all is in an output. The words are fit for a model: they hold nothing of it."""


# --- paths ---------------------------------------------------------------------------------------------------------------------------


class Paths:
    """The fields to be taken out: `user.email`, `items[].ssn`, `*.token` (one level), `**.token` (any). Lists are passed through."""

    def __init__(self, paths: tuple[str, ...]) -> None:
        self.paths = paths
        self._steps = tuple(tuple(path.split(".")) for path in paths)
        self.start: States = tuple((index, 0, True) for index in range(len(paths)))

    def enter(self, states: States, names: Iterable[str]) -> tuple[States, int | None]:
        """What is left of the paths within the member of these names, and which path ends at it, if one does."""
        reached: set[tuple[int, int, bool]] = set()
        for path, at, _ in states:
            steps = self._steps[path]
            if steps[at] == "**":
                reached.add((path, at, False))
                at += 1
            if steps[at] == "*":
                reached.add((path, at + 1, False))
            elif steps[at] in names:
                reached.add((path, at + 1, True))
        ended = [path for path, at, _ in reached if at == len(self._steps[path])]
        return tuple(reached), min(ended) if ended else None


def parse_paths(node: Any) -> tuple[str, ...]:
    """Paths of fields in one form, without the `[]` that may be written where a list stands. Raises InvalidInput."""
    if type(node) not in (list, tuple) or not 0 < len(node) <= _MAX_PATHS:
        raise InvalidInput(f"redact must be a list of 1 to {_MAX_PATHS} paths, found {show(node)}", hint="such as user.email, items[].ssn")
    return tuple(sorted({_path(path) for path in node}))


def _path(path: Any) -> str:
    what = f"the path {show(path)} in redact"
    if type(path) is not str or not 0 < len(path) <= _MAX_PATH or not path.isprintable():
        raise InvalidInput(f"{what} must be text of 1 to {_MAX_PATH} characters")
    steps = [step.removesuffix("[]") for step in path.split(".")]
    if not steps[0] and len(steps) > 1 and path.startswith("[]."):
        steps = steps[1:]  # the output itself is the list
    for step in steps:
        if not step or (step not in ("*", "**") and any(sign in step for sign in "*[]\"'\\ ")):
            raise InvalidInput(f"{what} has a step {show(step)}", hint="a step is a member's name, * for any, or ** for any depth")
    if steps == ["*"] or steps[-1] == "**":
        raise InvalidInput(f"{what} names nothing", hint="end it with a member's name")
    if any(one == two == "**" for one, two in pairwise(steps)):
        raise InvalidInput(f"{what} has ** twice in a row")
    return ".".join(steps)


# --- the way -------------------------------------------------------------------------------------------------------------------------


class Walk:
    """One way through one output.

    tell    says what becomes of each text; None where texts are as they should be, and only the fields are sought
    counts  how many things were taken out, by path; `tell` counts in it too
    """

    def __init__(self, paths: Paths, tell: Teller | None, counts: dict[str, int]) -> None:
        self._paths, self._tell, self.counts = paths, tell or _same, counts
        self._looks = bool(paths.paths or tell)
        self._nodes, self._text = MAX_NODES, MAX_TEXT

    def whole(self, output: Any) -> Any:
        """The output, built anew. Raises Unreadable."""
        return self._value(output, self._paths.start, "", (), MAX_DEPTH)

    def _value(self, value: Any, states: States, key: str, group: Group, depth: int) -> Any:
        kind = type(value)
        self._nodes -= 1
        if self._nodes < 0:
            raise Unreadable(f"it has more than {MAX_NODES} parts")
        if value is None or kind is bool:
            return value
        if kind is str:
            return self._words(value, states, key, group, depth)
        if kind is int or kind is float:
            return self._as_said(value, _digits(value), key, group)
        if depth <= 0:
            raise Unreadable(f"it is nested more than {MAX_DEPTH} deep")
        if kind is dict or kind is MappingProxyType:
            made = dict(self._members(value.items(), states, group, depth))
            return made if kind is dict else MappingProxyType(made)
        if kind is list or kind is tuple or kind is set or kind is frozenset:
            return kind([self._value(item, states, key, group, depth - 1) for item in list(value)])
        if kind is bytes:
            return self._words(_text_of(value), states, key, group, depth).encode("utf-8", "replace")
        return self._object(value, kind, states, key, group, depth)

    def _words(self, text: str, states: States, key: str, group: Group, depth: int) -> str:
        """A text, and what is in it if it is JSON. Text to which a path leads by name, and of which it wants a part, goes as a whole."""
        self._text -= len(text)
        if self._text < 0:
            raise Unreadable(f"it has more than {MAX_TEXT} characters")
        if not text.isascii():
            text = text.encode("utf-8", "replace").decode()  # lone surrogates, which no search sees across
        inner = json_in(text) if self._looks else None
        if inner is not None:
            before = sum(self.counts.values())
            said = self._value(inner, states, key, group, depth - 1)
            if sum(self.counts.values()) != before:
                text = json.dumps(said, ensure_ascii=False)
        elif named := [path for path, _, by_name in states if by_name]:
            return self._taken(min(named))
        return self._tell(text, key, group)

    def _taken(self, path: int) -> str:
        name = self._paths.paths[path]
        self.counts[name] = self.counts.get(name, 0) + 1
        return MARK

    def _as_said(self, value: Any, text: str, key: str, group: Group | None) -> Any:
        """A value that is one word, itself unless that word has to go."""
        said = self._tell(text, key, group)
        return value if said == text else said

    def _members(self, items: Iterable[tuple[Any, Any]], states: States, group: Group, depth: int) -> Iterator[tuple[Any, Any]]:
        taken: set[str] = set()
        for name, item in list(items):
            shown = _name(name)
            yield self._unlike(name, shown, taken), self._member(item, (shown,), states, group, depth)

    def _unlike(self, name: Any, shown: str, taken: set[str]) -> Any:
        """A member's name: another one where it is a secret itself, and two secrets do not become one."""
        said = self._as_said(name, shown, "", None)
        if said is name:
            return name if type(name) in (str, int, float, bool, type(None)) else shown
        first, count = said, 1
        while said in taken:
            count += 1
            said = f"{first} {count}"
        taken.add(said)
        return said

    def _member(self, item: Any, names: tuple[str, ...], states: States, group: Group, depth: int) -> Any:
        left, ended = self._paths.enter(states, names) if states else ((), None)
        if ended is not None:
            return None if item is None else self._taken(ended)
        return self._value(item, left, names[0], (group, names[0]), depth - 1)

    # --- objects ------------------------------------------------------------------------------------------------------------------------

    def _object(self, value: Any, kind: Any, states: States, key: str, group: Group, depth: int) -> Any:
        if issubclass(kind, enum.Enum):
            return self._as_said(value, str(_plain_word(value._value_)), key, group)
        if issubclass(kind, str | int | float | dict | list | tuple):
            return self._subclass(value, kind, states, key, group, depth)
        own = _vars(value)
        if (issubclass(kind, _WORDS) and not own) or kind.__module__ in ("pydantic.networks", "pydantic_core._pydantic_core"):
            return self._as_said(value, str(value), key, group)
        if kind.__module__ == "pydantic.types" and callable(reveal := getattr(kind, "get_secret_value", None)):
            return kind(self._value(reveal(value), states, key, group, depth - 1))
        model = getattr(sys.modules.get("pydantic"), "BaseModel", None)
        if model is not None and issubclass(kind, model):
            return self._rebuilt(model.__copy__(value), kind, states, group, depth)
        if dataclasses.is_dataclass(kind):
            return self._rebuilt(_copied(value, type(value)), type(value), states, group, depth)
        raise Unreadable(f"it holds a value of type {_type_name(kind)}, which cannot be looked into")

    def _rebuilt(self, copy: Any, kind: type, states: States, group: Group, depth: int) -> Any:
        """A copy of a model or a dataclass, with all that it holds shown: fields, what came beside them, private state, what it cached."""
        aliases = _aliases(kind)
        for name in aliases.keys() - getattr(kind, "__pydantic_fields__", {}).keys():  # computed from others when somebody asks
            left, ended = self._paths.enter(states, (name, *aliases[name]))
            if ended is not None or any(by_name for _, _, by_name in left):
                raise Unreadable("it holds a computed field, which cannot be taken out")
        for name, item in [*_slots(copy, kind)]:
            if name == "__pydantic_fields_set__":
                said = self._value(item, (), "", group, depth)  # the names of what came beside the fields are in it
            elif name in ("__pydantic_extra__", "__pydantic_private__"):
                said = None if item is None else dict(self._members(item.items(), states, group, depth))
            else:
                said = self._member(item, (name, *aliases.get(name, ())), states, group, depth)
            object.__setattr__(copy, name, said)
        for name, item in [*_vars(copy).items()]:
            _vars(copy)[name] = self._member(item, (name, *aliases.get(name, ())), states, group, depth)
        return copy

    def _subclass(self, value: Any, kind: type, states: States, key: str, group: Group, depth: int) -> Any:
        """A subclass of a type of JSON: read as that type, and given back as itself where content and attributes are all that it holds."""
        base = next(base for base in (str, int, float, dict, list, tuple) if issubclass(kind, base))
        content = base.__str__(value) if base is str else base(base.__iter__(value)) if base in (list, tuple) else _content(value, base)
        said = self._value(content, states, key, group, depth)
        if type(said) is not base:
            return said  # a number whose digits had to go
        made = _of_kind(kind, base, said)
        if made is None:
            return said
        for name, item in _slots(value, kind):
            object.__setattr__(made, name, self._member(item, (name,), states, group, depth))
        _vars(made).update({name: self._member(item, (name,), states, group, depth) for name, item in [*_vars(value).items()]})
        return made


def _same(text: str, key: str, group: Group | None) -> str:
    return text


def json_in(text: str) -> Any:
    """The object or array that a text is, whole, in JSON without repeated members; None for any other text."""
    text = text.strip(" \t\r\n\ufeff")
    if not text.startswith(("{", "[")) or not text.endswith(("}", "]")):
        return None
    try:
        return json.loads(text, object_pairs_hook=_pairs, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError):
        return None


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member stands twice")
    return members


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError("no number of JSON")
    return value


def _digits(value: float) -> str:
    try:
        return repr(value)
    except ValueError:  # CPython prints no integer of more than 4,300 digits
        raise Unreadable("it holds an integer of thousands of digits") from None


def _text_of(value: bytes) -> str:
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise Unreadable("it holds bytes that are no text in UTF-8")
    return text


def _name(name: Any) -> str:
    if isinstance(name, str):
        text = str.__str__(name)
        return text if text.isascii() else text.encode("utf-8", "replace").decode()
    if name is None or type(name) in (int, float, bool):
        return _digits(name)
    raise Unreadable("it has members that are not named by text")


def _plain_word(value: Any) -> Any:
    if value is not None and type(value) not in (str, int, float, bool):
        raise Unreadable("it holds an enumeration of values that are not words")
    return value


def _content(value: Any, base: type) -> Any:
    return dict(dict.items(value)) if base is dict else getattr(base, f"__{base.__name__}__")(value)


def _of_kind(kind: Any, base: Any, content: Any) -> Any:
    """An object of a subclass with this content, made past its own code; None where the class keeps state that Python does not show."""
    if any(part.__flags__ & _HEAP == 0 for part in kind.__mro__ if part not in (base, object)):
        return None
    if base is dict or base is list:
        made = base.__new__(kind)
        (dict.update if base is dict else list.extend)(made, content)
        return made
    return base.__new__(kind, content)


#: Of a class written in Python (`Py_TPFLAGS_HEAPTYPE`): its instances hold a dict and slots, and nothing else.
_HEAP: Final = 1 << 9


def _copied(value: Any, kind: type) -> Any:
    """A shallow copy of a dataclass, made past its own code."""
    try:
        copy: Any = object.__new__(kind)
    except TypeError:
        raise Unreadable(f"it holds a value of type {_type_name(kind)}, which cannot be looked into") from None
    for name, item in _slots(value, kind):
        object.__setattr__(copy, name, item)
    _vars(copy).update(_vars(value))
    return copy


def state_of(value: Any) -> dict[str, Any]:
    """All that an object holds, by attribute name, but for what pydantic keeps for itself."""
    held = {**dict(_slots(value, type(value))), **_vars(value)}
    extra = held.pop("__pydantic_extra__", None) or {}
    return {**extra, **{name: item for name, item in held.items() if not name.startswith("__pydantic")}}


def _vars(value: Any) -> dict[str, Any]:
    try:
        found = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}
    return found if type(found) is dict else {}


def _slots(value: Any, kind: type) -> Iterator[tuple[str, Any]]:
    """The slots that are filled, by attribute name."""
    for part in kind.__mro__:
        slots = part.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            if slot in ("__dict__", "__weakref__"):
                continue
            name = f"_{part.__name__.lstrip('_')}{slot}" if slot.startswith("__") and not slot.endswith("__") else slot
            try:
                yield name, object.__getattribute__(value, name)
            except AttributeError:
                continue


def _aliases(kind: Any) -> Mapping[str, tuple[str, ...]]:
    """The fields of a model, computed ones too, and the other names under which it shows them."""
    fields = getattr(kind, "__pydantic_fields__", None)
    if not isinstance(fields, dict):
        return {}
    computed = {name: part.info for name, part in kind.__pydantic_decorators__.computed_fields.items()}
    shown = {name: (part.alias, getattr(part, "serialization_alias", None)) for name, part in {**computed, **fields}.items()}
    return {name: tuple({one for one in names if type(one) is str}) for name, names in shown.items()}


def _type_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"[:100]
