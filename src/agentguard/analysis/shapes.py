"""The common shape of many identifiers, as one pattern: `T-7` and `T-42` are `T-[0-9]{1,2}`.

A text is cut into pieces: runs of letters, runs of digits, and what stands between. Texts with the same pieces have a shape in common.
Where letters and digits mix differently from one to the next (a hexadecimal id), they are taken as one run. Merging is commutative and
associative, so the shape of a set does not depend on the order in which it was seen.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Final, TypeAlias

_FINE: Final = re.compile(r"[0-9]+|[A-Za-z]+|[^0-9A-Za-z]+")
_COARSE: Final = re.compile(r"[0-9A-Za-z]+|[^0-9A-Za-z]+")
_MAX_TEXT: Final = 128
_MAX_PIECES: Final = 16
#: Classes of characters, and where each letter belongs; `a` and `A` are the letters of hexadecimal numbers.
_CLASS: Final = {
    **dict.fromkeys("0123456789", "0"),
    **dict.fromkeys("abcdef", "a"),
    **dict.fromkeys("ghijklmnopqrstuvwxyz", "z"),
    **dict.fromkeys("ABCDEF", "A"),
    **dict.fromkeys("GHIJKLMNOPQRSTUVWXYZ", "Z"),
}


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of characters. `text` is what all have there, None where they differ; `classes` is empty for what is no letter or digit."""

    kind: str  # "between", "digits", "letters", "mixed"
    text: str | None
    classes: frozenset[str]
    low: int
    high: int

    def merge(self, other: Piece) -> Piece | None:
        """What holds for both; None where they have nothing in common."""
        if self.kind != other.kind or (self.kind == "between" and self.text != other.text):
            return None
        text = self.text if self.text == other.text else None
        return Piece(self.kind, text, self.classes | other.classes, min(self.low, other.low), max(self.high, other.high))

    def pattern(self) -> str:
        """As RE2 reads it."""
        if self.text is not None:
            return re.sub(r"([\\.+*?()|\[\]{}^$])", r"\\\1", self.text)
        times = f"{{{self.low}}}" if self.low == self.high else f"{{{self.low},{self.high}}}"
        return _letters(self.classes) + ("" if times == "{1}" else times)


Shape: TypeAlias = tuple[Piece, ...]


def _letters(classes: frozenset[str]) -> str:
    digits = "0-9" if "0" in classes else ""
    hexadecimal = bool(digits)  # only beside digits; `[a-f]` for five words that happen to be spelled so would say more than is known
    lower = "a-f" if hexadecimal and "a" in classes and not classes & {"z", "Z"} else "a-z" if classes & {"a", "z"} else ""
    upper = "A-F" if hexadecimal and "A" in classes and not classes & {"z", "Z"} else "A-Z" if classes & {"A", "Z"} else ""
    return f"[{digits}{upper}{lower}]"


def shape_of(text: str, *, fine: bool) -> Shape | None:
    """The shape of one text; None for one that is no identifier: empty, long, with spaces, or not printable ASCII."""
    if not 0 < len(text) <= _MAX_TEXT or not text.isascii() or not text.isprintable() or " " in text:
        return None
    pieces = (_FINE if fine else _COARSE).findall(text)
    return None if len(pieces) > _MAX_PIECES else tuple(_piece(piece, fine) for piece in pieces)


@functools.lru_cache(256)  # most pieces come again and again
def _piece(text: str, fine: bool) -> Piece:
    if text[0] not in _CLASS:
        return Piece("between", text, frozenset(), len(text), len(text))
    kind = "mixed" if not fine else "digits" if text[0].isdigit() else "letters"
    return Piece(kind, text, frozenset(map(_CLASS.__getitem__, text)), len(text), len(text))


def merged(one: Shape, other: Shape) -> Shape | None:
    """The shape of both; None where there is none."""
    if len(one) != len(other):
        return None
    pieces = [mine if mine is theirs else mine.merge(theirs) for mine, theirs in zip(one, other, strict=True)]
    return None if None in pieces else tuple(piece for piece in pieces if piece is not None)


def pattern_of(shape: Shape) -> str:
    """A pattern that matches every text of the shape, as a whole."""
    return "".join(piece.pattern() for piece in shape)
