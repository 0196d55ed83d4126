"""Strings that a simple regular expression matches: literals, classes, groups, alternation, repetition.

No completeness is claimed. What this reader does not know it gives up on (no samples); what it yields is only a
suggestion, as the caller tries every sample with RE2 itself.
"""

from __future__ import annotations

import itertools

LIMIT = 60

_CLASSES = {"d": "05", "w": "a_Z7", "s": " ", "D": "x", "W": "-/", "S": "x"}
_CONTROL = {"n": "\n", "t": "\t", "r": "\r"}
_ANY = "x/."


class _GaveUp(Exception):
    """Syntax that the reader does not know."""


def samples(pattern: str) -> list[str]:
    """Up to ``LIMIT`` strings that the pattern probably matches whole."""
    reader = _Reader(pattern)
    try:
        found = reader.alternatives()
        if reader.at < len(pattern):
            raise _GaveUp
    except (_GaveUp, ValueError):
        return []
    return found


def _limited(texts: itertools.chain[str] | list[str]) -> list[str]:
    return list(itertools.islice(dict.fromkeys(texts), LIMIT))


class _Reader:
    """A recursive descent over the pattern; each method returns samples of what it read."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.at = 0

    def peek(self) -> str:
        return self.pattern[self.at : self.at + 1]

    def take(self) -> str:
        char = self.peek()
        if not char:
            raise _GaveUp
        self.at += 1
        return char

    def alternatives(self) -> list[str]:
        branches = [self.sequence()]
        while self.peek() == "|":
            self.take()
            branches.append(self.sequence())
        return _limited(itertools.chain.from_iterable(zip_longest_texts(branches)))

    def sequence(self) -> list[str]:
        found = [""]
        while self.peek() not in ("", "|", ")"):
            piece = self.repeated(self.atom())
            found = _limited([left + right for left in found for right in piece])
        return found

    def atom(self) -> list[str]:
        char = self.take()
        if char == "(":
            if self.peek() == "?":
                self.take()
                if self.take() != ":":
                    raise _GaveUp
            inner = self.alternatives()
            if self.take() != ")":
                raise _GaveUp
            return inner
        if char == "[":
            return self.char_class()
        if char == ".":
            return list(_ANY)
        if char == "\\":
            return self.escape()
        if char in "*+?{^$":
            raise _GaveUp
        return [char]

    def escape(self) -> list[str]:
        char = self.take()
        if char in _CLASSES:
            return list(_CLASSES[char])
        if char in _CONTROL:
            return [_CONTROL[char]]
        if char.isalnum():
            raise _GaveUp
        return [char]

    def char_class(self) -> list[str]:
        negated = self.peek() == "^"
        if negated:
            self.take()
        members: list[str] = []
        while self.peek() != "]":
            char = self.take()
            if char == "[":
                raise _GaveUp
            first = self.escape() if char == "\\" else [char]
            if self.peek() == "-" and self.pattern[self.at + 1 : self.at + 2] not in ("]", ""):
                self.take()
                last = self.take()
                middle = chr((ord(first[0]) + ord(last)) // 2)
                first = [first[0], last, middle]
            members.extend(first)
        self.take()
        if negated:
            return [char for char in "x/.-0 " if char not in members]
        return members[:8]

    def repeated(self, piece: list[str]) -> list[str]:
        char = self.peek()
        if char not in ("*", "+", "?", "{"):
            return piece
        self.take()
        low, high = {"*": (0, 40), "+": (1, 40), "?": (0, 1)}.get(char, (0, 0))
        if char == "{":
            text = ""
            while self.peek() != "}":
                text += self.take()
            self.take()
            low_text, comma, high_text = text.partition(",")
            low = int(low_text)
            high = int(high_text) if high_text else (low + 40 if comma else low)
        if self.peek() == "?":
            self.take()
        counts = sorted({n for n in (low, low + 1, low + 2, 4, 8, 20, high) if low <= n <= high})
        return _limited([text * count for count in counts for text in piece])


def zip_longest_texts(branches: list[list[str]]) -> list[list[str]]:
    """Round robin, so that a limit keeps something of every branch."""
    return [[text for text in row if text is not None] for row in itertools.zip_longest(*branches)]
