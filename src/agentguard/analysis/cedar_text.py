"""Cedar's expressions as text, and patterns of ours as `like` of Cedar's.

`like` knows one sign, a star for any run of characters. A pattern whose stars pass over some character says the same as `like` and a count:
a text that fits and holds that character just as often as the pattern has it in letters, has none of it under a star.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

from agentguard.analysis.regular import SURROGATES, Alt, Cat, Chars, CharSet, Loop, Node, Untranslatable, join, read_re2, without
from agentguard.values import shorten

_WORD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESERVED: Final = frozenset({"true", "false", "if", "then", "else", "in", "is", "like", "has", "__cedar"})
#: Of one regex: so many alternatives are written out, and so many characters may be what a star passes over.
_ALTERNATIVES: Final = 256
_PASSED_OVER: Final = 4


class Inexpressible(Exception):
    """Something that Cedar has no words for. The text says what and why."""


# --- expressions ----------------------------------------------------------------------------------------------------------------------


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


# --- patterns -------------------------------------------------------------------------------------------------------------------------


def glob(text: str, pattern: str) -> str:
    """The texts that a glob matches (`matchers.Glob`). Raises Inexpressible."""
    if "?" in pattern:
        raise Inexpressible(f"the glob {shorten(pattern)}: `like` of Cedar has no sign for one character")
    refused = []
    if any("*" in part and set(part) <= {"*", "."} for part in pattern.split("/")):  # else no component can be one of these
        for dots in (".", ".."):
            refused += [like(dots), like(f"{dots}/", ""), like("", f"/{dots}"), like("", f"/{dots}/", "")]
    return both((_starred(text, pattern.split("*"), "/"), *(not_(f"{text} like {each}") for each in refused)))


def _starred(text: str, letters: Sequence[str], passed_over: str) -> str:
    """The texts of these letters with a run of other characters than `passed_over` between one and the next."""
    if len(letters) == 1:
        return f"{text} == {quoted(letters[0])}"
    counts = (not_(f"{text} like {like('', *[sign] * (''.join(letters).count(sign) + 1), '')}") for sign in passed_over)
    return both((f"{text} like {like(*letters)}", *counts))


#: One way through a pattern: letters, and runs of which the characters are known.
_Way: TypeAlias = tuple[str | Loop, ...]


def regex(text: str, length: str, pattern: str) -> str:
    """The texts that a regex matches, if it is one of letters and runs of nearly any character. Raises Inexpressible."""
    try:
        ways = _ways(read_re2(pattern))
    except Untranslatable as reason:
        raise Inexpressible(f"the regex {shorten(pattern)}: {reason}") from None
    except RecursionError:
        raise Inexpressible(f"the regex {shorten(pattern)}: too many groups in one another") from None
    words = ["".join(map(str, way)) for way in ways if all(type(part) is str for part in way)]
    runs = [_run(text, length, way, pattern) for way in ways if any(type(part) is not str for part in way)]
    if not words and not runs:
        raise Inexpressible(f"the regex {shorten(pattern)} matches nothing")
    return either([*([among(text, words)] if words else []), *runs])


def _ways(node: Node) -> list[_Way]:
    """Every way through a pattern. Raises Untranslatable where they are too many."""
    ways: list[_Way] = []
    if isinstance(node, Chars):
        codes = [code for low, high in node.chars for code in range(low, min(high, low + _ALTERNATIVES) + 1)]
        ways = [(chr(code),) for code in codes] if len(codes) <= _ALTERNATIVES else [(Loop(node, 1, 1),)]
    elif isinstance(node, Cat):
        ways = [()]
        for part in node.parts:
            ways = _few([(*way, *more) for way in ways for more in _ways(part)])
    elif isinstance(node, Alt):
        ways = [way for part in node.parts for way in _ways(part)]
    elif isinstance(node, Loop):
        if isinstance(node.part, Chars) and (node.high is None or _others(node.part.chars) is not None):
            return [(node,)]
        if node.high is None:
            raise Untranslatable("Cedar has no regular expressions")
        inner = _ways(node.part)
        again: list[_Way] = [()]
        for times in range(node.high + 1):
            ways = _few([*ways, *again]) if times >= node.low else ways
            again = _few([(*way, *more) for way in again for more in inner]) if times < node.high else again
    else:
        raise Untranslatable("^ or $ inside the pattern")
    return _few(ways)


def _few(ways: list[_Way]) -> list[_Way]:
    if len(ways) > _ALTERNATIVES:
        raise Untranslatable("it stands for too many texts, and Cedar has no regular expressions")
    return ways


def _others(chars: CharSet) -> str | None:
    """The characters that are not of a set, if they are few."""
    found = without(join((*chars, SURROGATES)))
    if sum(high - low + 1 for low, high in found) > _PASSED_OVER:
        return None
    return "".join(chr(code) for low, high in found for code in range(low, high + 1))


def _run(text: str, length: str, way: _Way, pattern: str) -> str:
    loops = [part for part in way if isinstance(part, Loop)]
    others = {_others(loop.part.chars) for loop in loops if isinstance(loop.part, Chars)}
    passed_over = others.pop() if len(others) == 1 else None
    bounded = any(loop.low or loop.high is not None for loop in loops)
    if passed_over is None or (bounded and len(loops) > 1):
        raise Inexpressible(f"the regex {shorten(pattern)}: Cedar has no regular expressions")
    letters = [""]
    for part in way:
        if isinstance(part, str):
            letters[-1] += part
        else:
            letters.append("")
    size, loop = sum(map(len, letters)), loops[0]
    low = f"{length} >= {size + loop.low}" if loop.low else "true"
    high = f"{length} <= {size + loop.high}" if loop.high is not None else "true"
    return both((_starred(text, letters, passed_over), low, high))
