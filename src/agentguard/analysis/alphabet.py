"""The characters of one question, put into classes that no pattern of the question tells apart.

z3 knows the characters up to U+2FFFF only, and sets such as "what prints" have hundreds of ranges. So each class becomes one character of
z3, the last class all that are left: every text of z3 then stands for real ones, and no real one is missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from agentguard.analysis.regular import LAST, SURROGATES, Alt, Cat, Chars, CharSet, Loop, Node, Untranslatable

_LARGEST_CODE: Final = 0x2FFFF
_ESCAPED: Final = re.compile(r"\\u\{([0-9a-fA-F]+)\}|\\x([0-9a-fA-F]{2})|(.)", re.DOTALL)
_READABLE: Final = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ-_. /"


class Alphabet:
    """Classes of characters, numbered. `sets` are all that the question speaks of, one character sets for the letters of its constants."""

    def __init__(self, z3: Any, sets: Iterable[CharSet]) -> None:
        self._z3 = z3
        self._sets = {chars: index for index, chars in enumerate(dict.fromkeys(sets))}
        self._classes = _classes(list(self._sets))
        self._order = [signature for signature, _ in self._classes]
        self._letters = [_readable(ranges) for _, ranges in self._classes]

    def literal(self, text: str) -> Any:
        """A constant of the question as a text of z3."""
        z3 = self._z3
        return z3.StringVal("".join(_escape(self._code(((ord(c), ord(c)),))) for c in text))

    def text(self, value: Any, choice: int = 0) -> str:
        """A text of z3 as a real one that it stands for. With another `choice` it is another one, if there are several."""
        codes = [int(match[1] or match[2], 16) if match[3] is None else ord(match[3]) for match in _ESCAPED.finditer(value.as_string())]
        return "".join(self._letter(min(code, len(self._letters) - 1), choice) for code in codes)

    def _letter(self, code: int, choice: int) -> str:
        return self._letters[code] if choice == 0 else _nth(self._classes[code][1], self._letters[code], choice)

    def varied(self) -> Any:
        """The texts with a character that stands for several."""
        z3 = self._z3
        codes = [code for code, (_, ranges) in enumerate(self._classes) if sum(high - low + 1 for low, high in ranges) > 1]
        parts = [z3.Range(_literal(z3, code), _literal(z3, code)) for code in codes[:-1]]
        parts.append(z3.Range(_literal(z3, codes[-1]), z3.StringVal(_escape(_LARGEST_CODE))))  # the last class is never a single letter
        anything = z3.Star(z3.AllChar(z3.ReSort(z3.StringSort())))
        return z3.Concat(anything, parts[0] if len(parts) == 1 else z3.Union(*parts), anything)

    def expression(self, node: Node) -> Any:
        """A regular expression of z3."""
        z3 = self._z3
        if isinstance(node, Chars):
            return self._one_of(node.chars)
        if isinstance(node, Cat):
            parts = [self.expression(part) for part in node.parts]
            return z3.Re("") if not parts else parts[0] if len(parts) == 1 else z3.Concat(*parts)
        if isinstance(node, Alt):
            parts = [self.expression(part) for part in node.parts]
            return z3.Empty(z3.ReSort(z3.StringSort())) if not parts else parts[0] if len(parts) == 1 else z3.Union(*parts)
        if not isinstance(node, Loop):
            raise Untranslatable("^ or $ inside the pattern")
        part = self.expression(node.part)
        if node.high is None:
            return (
                z3.Star(part)
                if node.low == 0
                else z3.Plus(part)
                if node.low == 1
                else z3.Concat(z3.Loop(part, node.low, node.low), z3.Star(part))
            )
        if node.high == 0:
            return z3.Re("")
        return z3.Option(part) if (node.low, node.high) == (0, 1) else z3.Loop(part, node.low, node.high)

    def _one_of(self, chars: CharSet) -> Any:
        z3, bit = self._z3, 1 << self._sets[chars]
        codes = [code for code, signature in enumerate(self._order) if signature & bit]
        ranges: list[list[int]] = []
        for code in codes:
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
        if not ranges:
            return z3.Empty(z3.ReSort(z3.StringSort()))
        if ranges[-1][1] == len(self._order) - 1:
            ranges[-1][1] = _LARGEST_CODE
        parts = [z3.Range(z3.StringVal(_escape(low)), z3.StringVal(_escape(high))) for low, high in ranges]
        return parts[0] if len(parts) == 1 else z3.Union(*parts)

    def _code(self, chars: CharSet) -> int:
        bit = 1 << self._sets[chars]
        return next(code for code, signature in enumerate(self._order) if signature & bit)


def _literal(z3: Any, code: int) -> Any:
    return z3.StringVal(_escape(code))


def _nth(ranges: list[tuple[int, int]], first: str, choice: int) -> str:
    """A letter of the class beside its first one, another for each `choice` as long as there are some."""
    others = [code for low, high in ranges for code in range(low, min(high, low + 2 * choice + 64) + 1) if chr(code) != first]
    plain = [code for code in others if chr(code) in _READABLE] or others
    return chr(plain[(choice - 1) % len(plain)]) if plain else first


def _escape(code: int) -> str:
    return f"\\u{{{code:x}}}"


def _classes(sets: list[CharSet]) -> list[tuple[int, list[tuple[int, int]]]]:
    """(which sets hold it, as bits; its ranges) for each class, by its first character."""
    turns: dict[int, int] = {0: 0, SURROGATES[0]: 0, SURROGATES[1] + 1: 0}
    for index, chars in enumerate(sets):
        for low, high in chars:
            turns[low] = turns.get(low, 0) ^ 1 << index
            turns[high + 1] = turns.get(high + 1, 0) ^ 1 << index
    classes: dict[int, list[tuple[int, int]]] = {}
    places = sorted(turns)
    holding = 0
    for start, after in zip(places, [*places[1:], LAST + 1], strict=True):
        holding ^= turns[start]
        if start < after and start <= LAST and not SURROGATES[0] <= start <= SURROGATES[1]:
            classes.setdefault(holding, []).append((start, after - 1))
    # The last class also stands for what z3 has beyond them, so it must not be that of a single letter: the largest one is not.
    last = max(classes, key=lambda signature: sum(high - low for low, high in classes[signature]))
    return [*((signature, ranges) for signature, ranges in classes.items() if signature != last), (last, classes[last])]


def _readable(ranges: list[tuple[int, int]]) -> str:
    for letter in _READABLE:
        if any(low <= ord(letter) <= high for low, high in ranges):
            return letter
    for low, high in ranges:
        for code in range(low, min(high, low + 64) + 1):
            if chr(code).isprintable():
                return chr(code)
    return chr(ranges[0][0])
