"""Regular languages as trees: sets of characters, and patterns of RE2 read into a tree.

What one character of a pattern stands for (`\\d`, `[[:alpha:]]`, `(?i)k`) is asked of RE2 itself: only the grammar around it is read here.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

#: Sorted, disjoint, inclusive ranges of code points.
CharSet: TypeAlias = tuple[tuple[int, int], ...]

LAST: Final = 0x10FFFF
#: No admissible string holds a surrogate.
SURROGATES: Final = (0xD800, 0xDFFF)
_REPEAT: Final = re.compile(r"\{([0-9]+)(,([0-9]*))?\}")
_FLAGS: Final = re.compile(r"\?([imsU]*)(?:-([imsU]+))?([:)])")
_NAME: Final = re.compile(r"\?P?<[^>]+>")
_ESCAPE: Final = re.compile(r"\\(?:x\{[0-9A-Fa-f]+\}|x[0-9A-Fa-f]{2}|[pP]\{[^}]*\}|[pP].|0[0-7]{0,2}|[1-7][0-7]{1,2}|.)", re.DOTALL)
_POSIX: Final = re.compile(r"\[:\^?[a-z]+:\]")


class Untranslatable(Exception):
    """A pattern that is not read here. The text says what stands in the way."""


@dataclass(frozen=True, slots=True)
class Chars:
    """One character of a set."""

    chars: CharSet


@dataclass(frozen=True, slots=True)
class Cat:
    """One part after the other; the empty text where there is none."""

    parts: tuple[Node, ...] = ()


@dataclass(frozen=True, slots=True)
class Alt:
    """One of the parts; no text at all where there is none."""

    parts: tuple[Node, ...] = ()


@dataclass(frozen=True, slots=True)
class Loop:
    """`low` to `high` times, without end where `high` is None."""

    part: Node
    low: int = 0
    high: int | None = None


@dataclass(frozen=True, slots=True)
class Edge:
    """The beginning (`at_end` False) or the end of the whole text."""

    at_end: bool


Node: TypeAlias = Chars | Cat | Alt | Loop | Edge


def one(characters: str) -> Chars:
    """One of these characters."""
    return Chars(join((ord(c), ord(c)) for c in characters))


def word(text: str) -> Cat:
    """Exactly this text."""
    return Cat(tuple(one(c) for c in text))


def seq(*parts: Node | str) -> Cat:
    """Parts and texts one after the other."""
    return Cat(tuple(word(part) if isinstance(part, str) else part for part in parts))


def either(*parts: Node | str) -> Alt:
    """One of these parts and texts."""
    return Alt(tuple(word(part) if isinstance(part, str) else part for part in parts))


def maybe(part: Node) -> Loop:
    """The part or nothing."""
    return Loop(part, 0, 1)


def join(ranges: Iterable[tuple[int, int]]) -> CharSet:
    """Ranges in any order as a set."""
    result: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if result and low <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(result[-1][1], high))
        else:
            result.append((low, high))
    return tuple(result)


def without(chars: CharSet) -> CharSet:
    """Every other character."""
    result, start = [], 0
    for low, high in chars:
        if start < low:
            result.append((start, low - 1))
        start = high + 1
    if start <= LAST:
        result.append((start, LAST))
    return tuple(result)


def sets(node: Node) -> Iterator[CharSet]:
    """Every set of characters in the tree."""
    if isinstance(node, Chars):
        yield node.chars
    elif isinstance(node, Cat | Alt):
        for part in node.parts:
            yield from sets(part)
    elif isinstance(node, Loop):
        yield from sets(node.part)


ANY: Final = Chars(((0, LAST),))
ANY_TEXT: Final = Loop(ANY)


# --- RE2 ------------------------------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def _universe() -> bytes:
    return "".join(map(chr, (*range(SURROGATES[0]), *range(SURROGATES[1] + 1, LAST + 1)))).encode()


@functools.lru_cache(maxsize=512)
def members(atom: str, flags: str) -> CharSet:
    """The characters that RE2 takes for a pattern of one character, by trying all of them at once."""
    import re2

    options: Any = re2.Options()
    options.log_errors = False
    options.max_mem = 1 << 24
    try:
        compiled = re2.compile(f"(?{flags}:{atom})+" if flags else f"(?:{atom})+", options)
    except re2.error:
        raise Untranslatable(f"RE2 does not take {atom} by itself") from None
    found = []
    for match in compiled.finditer(_universe()):
        text = match.group().decode()
        if text:
            found.append((ord(text[0]), ord(text[-1])))
    return join(found)


def read_re2(pattern: str) -> Node:
    """The language of a pattern that RE2 takes, matched as a whole. Raises Untranslatable."""
    try:
        return _without_edges(_Reader(pattern).whole())
    except RecursionError:
        raise Untranslatable("too many groups in one another") from None


class _Reader:
    """A recursive descent through one pattern. `flags` are those in force at the place."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.at = 0
        self.flags: frozenset[str] = frozenset()

    def whole(self) -> Node:
        node = self.alternatives()
        if self.at != len(self.pattern):
            raise Untranslatable(f"not understood at character {self.at}")
        return node

    def ahead(self, text: str) -> bool:
        return self.pattern.startswith(text, self.at)

    def take(self, sign: re.Pattern[str]) -> re.Match[str] | None:
        match = sign.match(self.pattern, self.at)
        if match is not None:
            self.at = match.end()
        return match

    def alternatives(self) -> Node:
        before = self.flags
        parts = [self.sequence()]
        while self.ahead("|"):
            self.at += 1
            parts.append(self.sequence())
        self.flags = before
        return parts[0] if len(parts) == 1 else Alt(tuple(parts))

    def sequence(self) -> Node:
        parts: list[Node] = []
        while self.at < len(self.pattern) and not self.ahead("|") and not self.ahead(")"):
            if self.ahead("\\Q"):
                end = self.pattern.find("\\E", self.at + 2)
                quoted = self.pattern[self.at + 2 : end if end >= 0 else None]
                self.at = len(self.pattern) if end < 0 else end + 2
                letters = [self.letter(c) for c in quoted]
                parts += [*letters[:-1], self.repeated(letters[-1])] if letters else []
                continue
            atom = self.atom()
            if atom is not None:
                parts.append(self.repeated(atom))
        return parts[0] if len(parts) == 1 else Cat(tuple(parts))

    def repeated(self, atom: Node) -> Node:
        while self.at < len(self.pattern):
            sign = self.pattern[self.at]
            if sign in "*+?":
                self.at += 1
                low, high = {"*": (0, None), "+": (1, None), "?": (0, 1)}[sign]
            elif sign == "{" and (match := self.take(_REPEAT)) is not None:
                low = int(match[1])
                high = low if match[2] is None else int(match[3]) if match[3] else None
            else:
                break
            if self.ahead("?"):
                self.at += 1  # lazy: another order of search, the same texts
            if isinstance(atom, Edge):
                raise Untranslatable("a repeated ^ or $")
            atom = Loop(atom, low, high)
        return atom

    def atom(self) -> Node | None:
        sign = self.pattern[self.at]
        if sign == "(":
            return self.group()
        if sign == "[":
            return Chars(self.ask(self.bracket()))
        if sign == "\\":
            return self.escape()
        self.at += 1
        if sign in "^$":
            if "m" in self.flags:
                raise Untranslatable(f"{sign} under (?m)")
            return Edge(sign == "$")
        return Chars(self.ask(".")) if sign == "." else self.letter(sign)

    def letter(self, sign: str) -> Node:
        return Chars(self.ask(re.escape(sign) if sign.isascii() else sign)) if "i" in self.flags else one(sign)

    def ask(self, atom: str) -> CharSet:
        return members(atom, "".join(sorted(self.flags & {"i", "s"})))

    def group(self) -> Node | None:
        self.at += 1
        before = self.flags
        if self.ahead("?") and self.take(_NAME) is None:
            match = self.take(_FLAGS)
            if match is None:
                raise Untranslatable(f"a group at character {self.at}")
            self.flags = (self.flags | set(match[1])) - set(match[2] or "")
            if match[3] == ")":
                return None  # in force to the end of the group around it, whose reader restores them
        node = self.alternatives()
        if not self.ahead(")"):
            raise Untranslatable("a group that does not end")
        self.at += 1
        self.flags = before
        return node

    def bracket(self) -> str:
        start = self.at
        self.at += 2 if self.pattern.startswith("[^", self.at) else 1
        first = True
        while self.at < len(self.pattern):
            if self.ahead("]") and not first:
                self.at += 1
                return self.pattern[start : self.at]
            first = False
            if self.take(_POSIX) is None and self.take(_ESCAPE) is None:
                self.at += 1
        raise Untranslatable("a class that does not end")

    def escape(self) -> Node:
        match = self.take(_ESCAPE)
        if match is None:
            raise Untranslatable("an escape that does not end")
        if match[0] in ("\\A", "\\z"):
            return Edge(match[0] == "\\z")
        if match[0] in ("\\b", "\\B"):
            raise Untranslatable(f"the word boundary {match[0]}")
        if match[0] == "\\C":
            raise Untranslatable("the byte \\C")
        return Chars(self.ask(match[0]))


def _without_edges(node: Node) -> Node:
    """`^` in front and `$` at the end say nothing where the whole text must match; anywhere else they are not read here."""
    node = _strip(_strip(node, at_end=False), at_end=True)
    if _has_edge(node):
        raise Untranslatable("^ or $ inside the pattern")
    return node


def _strip(node: Node, *, at_end: bool) -> Node:
    if isinstance(node, Edge):
        return Cat() if node.at_end == at_end else node
    if isinstance(node, Alt):
        return Alt(tuple(_strip(part, at_end=at_end) for part in node.parts))
    if isinstance(node, Cat):
        parts = list(node.parts)
        index = -1 if at_end else 0
        while parts and isinstance(parts[index], Edge) and parts[index] == Edge(at_end):
            parts.pop(index)
        if parts:
            parts[index] = _strip(parts[index], at_end=at_end)
        return Cat(tuple(parts))
    return node


def _has_edge(node: Node) -> bool:
    if isinstance(node, Cat | Alt):
        return any(map(_has_edge, node.parts))
    return isinstance(node, Edge) or (isinstance(node, Loop) and _has_edge(node.part))
