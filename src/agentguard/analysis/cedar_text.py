"""Cedar's expressions as text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

_WORD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESERVED: Final = frozenset({"true", "false", "if", "then", "else", "in", "is", "like", "has", "__cedar"})


class Inexpressible(Exception):
    """Something that Cedar has no words for. The text says what and why."""


def quoted(text: str) -> str:
    """A string literal."""
    return f'"{_escaped(text)}"'


def like(*parts: str) -> str:
    """What stands behind `like`: the parts as they are, and any run of characters between one and the next."""
    return '"' + "*".join(_escaped(part, '"\\*') for part in parts) + '"'


def _escaped(text: str, signs: str = '"\\') -> str:
    return "".join(f"\\{c}" if c in signs else c if c.isascii() and c.isprintable() else f"\\u{{{ord(c):x}}}" for c in text)


def has(record: str, name: str) -> str:
    """Whether a record has a member."""
    return f"{record} has {name if _is_word(name) else quoted(name)}"


def member(record: str, name: str) -> str:
    """A member of a record."""
    return f"{record}.{name}" if _is_word(name) else f"{record}[{quoted(name)}]"


def _is_word(name: str) -> bool:
    return _WORD.fullmatch(name) is not None and name not in _RESERVED


def both(parts: Iterable[str]) -> str:
    """All of them; what was said already is not said again."""
    return " && ".join(part for part in dict.fromkeys(parts) if part != "true") or "true"


def either(parts: Iterable[str]) -> str:
    """One of them."""
    given = list(dict.fromkeys(parts))
    return given[0] if len(given) == 1 else f"({' || '.join(given)})"


def not_(part: str) -> str:
    """The contrary."""
    return f"!({part})"


def listed(texts: Iterable[str]) -> str:
    """A set of strings, sorted. Cedar gives the empty set no type, so there must be one."""
    return f"[{', '.join(map(quoted, sorted(set(texts))))}]"


def among(this: str, texts: Sequence[str]) -> str:
    """Whether it is one of these strings."""
    return f"{this} == {quoted(texts[0])}" if len(texts) == 1 else f"{listed(texts)}.contains({this})"
