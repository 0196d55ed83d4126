"""The tokens of a condition's text, and what its constants denote."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Final

import msgspec

from agentguard.canonical import is_admissible
from agentguard.constraints.values import admissible, shorten
from agentguard.errors import InvalidInput

_BLANK: Final = re.compile(r"[ \t\n]*")
_TOKEN: Final = re.compile(
    r"(?P<number>[0-9](?:[eE][+-](?=[0-9])|[0-9A-Za-z_.])*)"
    r'|(?P<word>[A-Za-z_][A-Za-z0-9_]*)|(?P<string>"(?:[^"\\\n]|\\[^\n])*")|(?P<sign>==|!=|<=|>=|[<>+*().,\[\]-])'
)
_JSON_NUMBER: Final = re.compile(r"(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
#: What people write that know another language.
_ELSEWHERE: Final = {
    "=": "== compares",
    "&": "write and",
    "|": "write or",
    "!": "write not, or !=",
    "/": "there is no division: multiply the other side",
    "%": "there is no remainder",
    "#": "a condition has no comments",
    "'": 'strings stand in "double quotes"',
    "≤": "write <=",
    "≥": "write >=",
    "≠": "write !=",
}


class Token(msgspec.Struct, frozen=True, gc=False):
    """A piece of the text, and the column where it begins, from 1. `mark` is the text of a word or a sign, and empty for others."""

    kind: str  # "number", "word", "string", "sign" or "end"
    text: str
    column: int
    mark: str = ""


def wrong(message: str, column: int, hint: str | None = None) -> InvalidInput:
    """The error of what stands at a column."""
    return InvalidInput(f"{message}, at column {column}", hint=hint)


def tokens(text: str) -> Iterator[Token]:
    """The tokens of a text; the last one is its end. Raises InvalidInput."""
    at = 0
    while (at := _BLANK.match(text, at).end()) < len(text):  # type: ignore[union-attr]  # it matches the empty text
        match = _TOKEN.match(text, at)
        if match is None:
            if text[at] == '"':
                raise wrong("a string that does not end", at + 1, 'a " in a string is written \\"')
            hint = _ELSEWHERE.get(text[at]) or ('names are ASCII; others are written arg("name")' if text[at].isalpha() else None)
            raise wrong(f"the character {text[at]!a} has no meaning here", at + 1, hint)
        kind, word = str(match.lastgroup), match[0]
        yield Token(kind, word, at + 1, word if kind in ("word", "sign") else "")
        at = match.end()
    yield Token("end", "the end", len(text) + 1)


def number_of(token: Token) -> int | Decimal:
    """The number that a token denotes. Raises InvalidInput where no JSON number does."""
    if _JSON_NUMBER.fullmatch(token.text) is None:
        raise wrong(f"{shorten(token.text, 40)!a} is not a number", token.column, "numbers are written as in JSON: 10, 0.5, 1e6")
    if len(token.text) <= 15 and token.text.isdigit():
        return int(token.text)
    if not is_admissible(token.text):
        raise wrong(f"the number {shorten(token.text, 40)} cannot be carried exactly by a JSON number", token.column)
    return exact(float(token.text))


def exact(value: float) -> int | Decimal:
    """The number that a finite double prints as."""
    digits = Decimal(repr(value))
    return int(digits) if value.is_integer() else digits


def string_of(token: Token) -> str:
    """The string that a token denotes. Raises InvalidInput where it is not written as in JSON."""
    try:
        text = json.loads(token.text)
    except ValueError:
        raise wrong("a string that is not written as in JSON", token.column, 'for example "line\\n", "\\u00fc"') from None
    if not admissible(text):
        raise wrong("a string that holds a lone surrogate, which has no UTF-8 form", token.column)
    return str(text)
