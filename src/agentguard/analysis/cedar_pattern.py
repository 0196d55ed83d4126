"""Globs and regular expressions in Cedar's words: exactly, or not at all.

`like` of Cedar knows one sign, a star for any run of characters. Three things are said with it and with the facts of a text:

- a pattern whose stars pass over some character says the same as `like` and a count: a text that fits and holds that character just as
  often as the pattern has it in letters, has none of it under a star;
- a pattern of letters and of characters of one class each (a digit, a small letter, a capital) is a set of shapes (`shape_of`), beside what
  the letters in front of the first class and behind the last one say;
- where such a class may come any number of times, it is a shape without repetitions, and a length.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from agentguard.analysis.cedar_text import Inexpressible, among, both, either, like, not_, quoted
from agentguard.analysis.regular import SURROGATES, Alt, Cat, Chars, CharSet, Loop, Node, Untranslatable, join, one, read_re2, without
from agentguard.constraints.values import shorten

#: Of one regex: so many alternatives are written out, and so many characters may be what a star passes over.
_ALTERNATIVES: Final = 256
_PASSED_OVER: Final = 16
_CLASSES: Final = {"0": "0123456789", "a": "abcdefghijklmnopqrstuvwxyz", "A": "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}
_SIGNS: Final = {one(letters).chars: sign for sign, letters in _CLASSES.items()}
_SHAPE: Final = str.maketrans({letter: sign for sign, letters in _CLASSES.items() for letter in letters})
_REPEATED: Final = re.compile("0+|a+|A+")


def shape_of(text: str) -> str:
    """The text with `0` for each digit, `a` for each small letter and `A` for each capital of ASCII."""
    return text.translate(_SHAPE)


def runs_of(text: str) -> str:
    """The shape of the text, with one sign for each run of the same class."""
    return _REPEATED.sub(lambda run: run[0][0], shape_of(text))


@dataclass(frozen=True, slots=True)
class _Class:
    """`low` or more characters of the class of a sign; just one, where `low` is None."""

    sign: str
    low: int | None = None


#: One way through a pattern: letters, characters of a class, and runs of nearly any character.
_Way: TypeAlias = tuple["str | _Class | Loop", ...]


def glob(text: str, pattern: str) -> str:
    """The texts that a glob matches (`matchers.Glob`). Raises Inexpressible."""
    if "?" in pattern:
        raise Inexpressible(f"the glob {shorten(pattern)}: `like` of Cedar has no sign for one character")
    refused, value = [], f"{text}.value"
    if any("*" in part and set(part) <= {"*", "."} for part in pattern.split("/")):  # else no component can be one of these
        for dots in (".", ".."):
            refused += [like(dots), like(f"{dots}/", ""), like("", f"/{dots}"), like("", f"/{dots}/", "")]
    return both((_starred(value, pattern.split("*"), "/"), *(not_(f"{value} like {each}") for each in refused)))


def regex(text: str, pattern: str) -> str:
    """The texts that a regex matches. Raises Inexpressible."""
    try:
        ways = _few([each for way in _ways(read_re2(pattern)) for each in _spelled(way)])
        words = ["".join(map(str, way)) for way in ways if all(type(part) is str for part in way)]
        found = [among(f"{text}.value", words)] if words else []
        found += _shapes(text, [way for way in ways if any(type(part) is _Class and part.low is None for part in way)])
        found += [_repeated(text, way) for way in ways if any(type(part) is _Class and part.low is not None for part in way)]
        found += [_run(text, way) for way in ways if any(isinstance(part, Loop) for part in way)]
    except Untranslatable as reason:
        raise Inexpressible(f"the regex {shorten(pattern)}: {reason}") from None
    except RecursionError:
        raise Inexpressible(f"the regex {shorten(pattern)}: too many groups in one another") from None
    if not found:
        raise Inexpressible(f"the regex {shorten(pattern)} matches nothing")
    return either(found)


# --- ways through a pattern -----------------------------------------------------------------------------------------------------------


def _ways(node: Node) -> list[_Way]:
    """Every way through a pattern. Raises Untranslatable where they are too many."""
    ways: list[_Way] = []
    if isinstance(node, Chars):
        sign = _SIGNS.get(node.chars)
        codes = [code for low, high in node.chars for code in range(low, min(high, low + _ALTERNATIVES) + 1)]
        if sign is not None:
            ways = [(_Class(sign),)]
        else:
            ways = [(chr(code),) for code in codes] if len(codes) <= _ALTERNATIVES else [(Loop(node, 1, 1),)]
    elif isinstance(node, Cat):
        ways = [()]
        for part in node.parts:
            ways = _few([(*way, *more) for way in ways for more in _ways(part)])
    elif isinstance(node, Alt):
        ways = [way for part in node.parts for way in _ways(part)]
    elif isinstance(node, Loop):
        ways = _loop(node)
    else:
        raise Untranslatable("^ or $ inside the pattern")
    return _few(ways)


def _loop(node: Loop) -> list[_Way]:
    if isinstance(node.part, Chars):
        sign = _SIGNS.get(node.part.chars)
        if sign is not None and node.high is None:
            return [(_Class(sign, max(node.low, 1)),), *([()] if node.low == 0 else [])]
        if _others(node.part.chars) is not None:
            return [(node,)]
    if node.high is None:
        raise Untranslatable("Cedar has no regular expressions")
    inner, ways = _ways(node.part), list[_Way]()
    again: list[_Way] = [()]
    for times in range(node.high + 1):
        ways = _few([*ways, *again]) if times >= node.low else ways
        again = _few([(*way, *more) for way in again for more in inner]) if times < node.high else again
    return ways


def _spelled(way: _Way) -> list[_Way]:
    """Beside a run of nearly any character, a class is one letter after the other."""
    if not any(isinstance(part, Loop) for part in way):
        return [way]
    spelled: list[_Way] = [()]
    for part in way:
        parts = _CLASSES[part.sign] if isinstance(part, _Class) and part.low is None else (part,)
        spelled = _few([(*so_far, each) for so_far in spelled for each in parts])
    return spelled


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


# --- what a way asks for --------------------------------------------------------------------------------------------------------------


def _starred(value: str, letters: Sequence[str], passed_over: str) -> str:
    """The texts of these letters with a run of other characters than `passed_over` between one and the next."""
    if len(letters) == 1:
        return f"{value} == {quoted(letters[0])}"
    counts = (not_(f"{value} like {like('', *[sign] * (''.join(letters).count(sign) + 1), '')}") for sign in passed_over)
    return both((f"{value} like {like(*letters)}", *counts))


def _run(text: str, way: _Way) -> str:
    """Letters, and runs of nearly any character."""
    loops = [part for part in way if isinstance(part, Loop)]
    others = {_others(loop.part.chars) for loop in loops if isinstance(loop.part, Chars)}
    passed_over = others.pop() if len(others) == 1 else None
    bounded = any(loop.low or loop.high is not None for loop in loops)
    if passed_over is None or (bounded and len(loops) > 1) or any(isinstance(part, _Class) for part in way):
        raise Untranslatable("Cedar has no regular expressions")
    letters = [""]
    for part in way:
        if isinstance(part, str):
            letters[-1] += part
        else:
            letters.append("")
    size, loop, length = sum(map(len, letters)), loops[0], f"{text}.length"
    low = f"{length} >= {size + loop.low}" if loop.low else "true"
    high = f"{length} <= {size + loop.high}" if loop.high is not None else "true"
    return both((_starred(f"{text}.value", letters, passed_over), low, high))


def _letters(way: _Way) -> tuple[str, str]:
    """The letters in front of the first class and behind the last one. Between them none may be of a class."""
    classes = [index for index, part in enumerate(way) if not isinstance(part, str)]
    between = "".join(part for part in way[classes[0] : classes[-1]] if isinstance(part, str))
    if _of_a_class(between):
        raise Untranslatable("a letter or a digit between classes of them, and Cedar has no regular expressions")
    return "".join(map(str, way[: classes[0]])), "".join(map(str, way[classes[-1] + 1 :]))


def _around(text: str, front: str, back: str) -> str:
    """The text begins and ends so. Where its shape says it anyway, that need not be asked."""
    return f"{text}.value like {like(front, back)}" if _of_a_class(front + back) else "true"


def _of_a_class(text: str) -> bool:
    """Whether the shape of a text says less than the text."""
    return any(ord(letter) in _SHAPE for letter in text)


def _shape(way: _Way) -> str:
    return "".join(part.sign if isinstance(part, _Class) else shape_of(str(part)) for part in way)


def _shapes(text: str, ways: list[_Way]) -> list[str]:
    """Letters and single characters of classes."""
    if any(type(part) is not str and (type(part) is not _Class or part.low is not None) for way in ways for part in way):
        raise Untranslatable("Cedar has no regular expressions")
    found = [(_around(text, *_letters(way)), _shape(way)) for way in ways]
    groups = itertools.groupby(sorted(found), key=lambda pair: pair[0])
    return [both((around, among(f"{text}.shape", sorted({shape for _, shape in group})))) for around, group in groups]


def _repeated(text: str, way: _Way) -> str:
    """Letters and classes that come any number of times."""
    classes = [part for part in way if isinstance(part, _Class)]
    if any(part.low is None for part in classes) or any(isinstance(part, Loop) for part in way):
        raise Untranslatable("Cedar has no regular expressions")
    front, back = _letters(way)
    size = sum(len(part) for part in way if isinstance(part, str)) + sum(part.low or 0 for part in classes)
    shape = _shape(way)
    if len(classes) > 1 and (any(part.low != 1 for part in classes) or runs_of(shape) != shape):
        raise Untranslatable("Cedar has no regular expressions")
    return both(
        (
            _around(text, front, back),
            # A letter of another class next to a run would hide more letters like itself: the class begins and ends just there.
            f"{text}.shape like {like(shape_of(front) + classes[0].sign, '')}" if _of_a_class(front[-1:]) else "true",
            f"{text}.shape like {like('', classes[-1].sign + shape_of(back))}" if _of_a_class(back[:1]) else "true",
            f"{text}.runs == {quoted(runs_of(shape))}",
            f"{text}.length >= {size}",
        )
    )
