"""Extension constraints on text and type: path, regex, glob, length, type (DESIGN §5). Those on addresses are in `addresses`.

They are lexical: nothing here touches a file system or a clock.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import re2

from agentguard.canonical import Frozen, Json
from agentguard.constraints.values import OBJECTS, admissible, shorten, show
from agentguard.constraints.vocabulary import Constraint, put
from agentguard.errors import InvalidInput

PREFIX: Final = "urn:agentguard:constraint:"
MAX_PATH: Final = 4096  # PATH_MAX of Linux
MAX_PATTERN: Final = 1000
MAX_GLOB: Final = 256
#: Bytes for one program and its automaton: some ten thousand instructions, a few milliseconds to compile.
_PATTERN_MEMORY: Final = 1 << 18
_SMALL_PROGRAM: Final = 2000
_DOTS: Final = frozenset({".", ".."})


def text_member(value: Any, what: str, limit: int) -> str:
    """A member that is a string of 1 to `limit` characters. InvalidInput names `what` otherwise."""
    if type(value) is not str or not 0 < len(value) <= limit or not admissible(value):
        raise InvalidInput(f"{what} must be a string of 1 to {limit} characters, found {show(value)}")
    return value


def is_plain_path(text: str) -> bool:
    """Whether `text` is an absolute POSIX path that every parser reads alike: no `.` or `..` component, no empty one except behind a
    closing slash, no `%`, no backslash, nothing that does not print (so no NUL, no line break, no direction mark, no lone surrogate)."""
    if not text.startswith("/") or len(text) > MAX_PATH or not text.isprintable() or "%" in text or "\\" in text or "//" in text:
        return False
    return "/." not in text or not ("/./" in text or "/../" in text or text.endswith(("/.", "/..")))


def plain_root(value: Any, what: str) -> str:
    """A member that is a plain path without a closing slash, or `/`. InvalidInput names `what` otherwise."""
    root = text_member(value, what, MAX_PATH)
    if not is_plain_path(root) or (root != "/" and root.endswith("/")):
        hint = "no '..', '.', '//', '%' or backslash, no slash at the end"
        raise InvalidInput(f"{what} {show(root)} is not a plain absolute path", hint=hint)
    return root


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Path(Constraint):
    """A path at or under `root`, compared by components. Symbolic links are the shell's business: it adds the resolved path as a fact."""

    kind = PREFIX + "path"
    needs = frozenset({"root"})
    root: str
    prefix: str = field(init=False)

    def __post_init__(self) -> None:
        put(self, "root", plain_root(self.root, "path.root"))
        put(self, "prefix", self.root if self.root == "/" else self.root + "/")

    def check(self, value: Frozen) -> bool:
        return type(value) is str and (value.startswith(self.prefix) or value == self.root) and is_plain_path(value)

    def members(self) -> dict[str, Json]:
        return {"root": self.root}

    def describe(self) -> str:
        return shorten(f"a path under {self.root}")

    def covers(self, other: Path) -> bool:
        """Whether `other` is at or under my root."""
        return other.root == self.root or other.root.startswith(self.prefix)


def re2_pattern(pattern: str, what: str) -> Any:
    """A compiled pattern, linear in what it is asked about. InvalidInput where RE2 refuses it."""
    try:
        return re2.compile(pattern, _options())
    except re2.error as error:
        reason = error.args[0] if error.args else ""
        reason = reason.decode("utf-8", "replace") if type(reason) is bytes else str(reason)
        hint = "bound the length with a length constraint" if "too large" in reason else None
        raise InvalidInput(f"{what} {show(pattern)} is not one that RE2 takes: {shorten(reason)}", hint=hint) from None


def _options() -> Any:
    options = re2.Options()
    options.max_mem = _PATTERN_MEMORY
    options.log_errors = False  # RE2 would write to stderr
    options.never_capture = True
    return options


@functools.lru_cache(maxsize=128)
def _compile(pattern: str, what: str) -> Callable[[str], bool]:
    """A matcher of whole strings, linear in the string. InvalidInput where RE2 refuses the pattern."""
    slow = re2_pattern(pattern, what)
    fast = _set_of(pattern) if slow.programsize < _SMALL_PROGRAM else None

    def match(text: str) -> bool:
        try:
            if fast is not None and fast.Match(text):
                return True
            return slow.fullmatch(text.encode("utf-8")) is not None
        except UnicodeEncodeError:
            return False

    return match


def _set_of(pattern: str) -> Any:
    """A set of one pattern answers in half the time, but gives up where its automaton outgrows the memory: only its yes counts."""
    result = re2.Set.FullMatchSet(_options())
    try:
        result.Add(pattern)
        result.Compile()
    except re2.error:
        return None
    return result


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Regex(Constraint):
    """A string that an RE2 pattern matches as a whole; `$` never stands before a newline."""

    kind = PREFIX + "regex"
    needs = frozenset({"pattern"})
    pattern: str
    _match: Callable[[str], bool] = field(init=False)

    def __post_init__(self) -> None:
        put(self, "_match", _compile(text_member(self.pattern, "regex.pattern", MAX_PATTERN), "regex.pattern"))

    def check(self, value: Frozen) -> bool:
        return type(value) is str and self._match(value)

    def members(self) -> dict[str, Json]:
        return {"pattern": self.pattern}

    def describe(self) -> str:
        return shorten(f"text that matches {self.pattern}")

    def covers(self, other: Regex) -> bool:
        """Only for the same pattern: inclusion of regular languages takes more than polynomial time."""
        return self.pattern == other.pattern


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Glob(Constraint):
    """A string that a pattern matches as a whole: `*` is any run without `/`, `?` one character but `/`. No classes, no escapes.

    A text with a component `.` or `..` is never accepted, so that `/srv/*/x` does not let `/srv/../x` in.
    """

    kind = PREFIX + "glob"
    needs = frozenset({"pattern"})
    pattern: str
    _match: Callable[[str], bool] = field(init=False)

    def __post_init__(self) -> None:
        pattern = text_member(self.pattern, "glob.pattern", MAX_GLOB)
        if "**" in pattern:
            raise InvalidInput(f"glob.pattern {show(pattern)} holds '**'", hint="'*' stops at '/'; use path for a whole tree")
        if not _DOTS.isdisjoint(pattern.split("/")):
            raise InvalidInput(f"glob.pattern {show(pattern)} has a component '.' or '..', which no glob accepts")
        signs = {"*": "[^/]*", "?": "[^/]"}
        put(self, "_match", _compile("(?s)" + "".join(signs.get(sign) or re2.escape(sign) for sign in pattern), "glob.pattern"))

    def check(self, value: Frozen) -> bool:
        return type(value) is str and self._match(value) and ("." not in value or _DOTS.isdisjoint(value.split("/")))

    def members(self) -> dict[str, Json]:
        return {"pattern": self.pattern}

    def describe(self) -> str:
        return shorten(f"text like {self.pattern}")

    def covers(self, other: Glob) -> bool:
        """Whether this pattern matches the other one, read as text in which `*` and `?` are letters.

        `*` absorbs any run of letters, `?` any one letter but `*`, both within a component. That is sound and transitive (what absorbs a
        sign absorbs all that the sign absorbs), though not complete.
        """
        mine, theirs = self.pattern.split("/"), other.pattern.split("/")
        return len(mine) == len(theirs) and all(map(_absorbs, mine, theirs))


def _absorbs(pattern: str, text: str) -> bool:
    """Match one component. Bit n of `reached` says that what was read of the pattern matches the first n letters of the text."""
    full = (1 << len(text) + 1) - 1
    places: dict[str, int] = {}
    for index, letter in enumerate(text):
        places[letter] = places.get(letter, 0) | 1 << index
    single = full & ~places.get("*", 0)
    reached = 1
    for sign in pattern:
        if sign == "*":
            reached = -(reached & -reached) & full  # every place from the first one on
            continue
        reached = (reached & (single if sign == "?" else places.get(sign, 0))) << 1 & full
    return bool(reached >> len(text))


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Length(Constraint):
    """A string of `min` to `max` code points."""

    kind = PREFIX + "length"
    takes = frozenset({"min", "max"})
    min: int | None = None
    max: int | None = None
    low: int = field(init=False)
    high: float = field(init=False)

    def __post_init__(self) -> None:
        for name, bound in (("min", self.min), ("max", self.max)):
            if bound is not None and (type(bound) is not int or not 0 <= bound < 2**53):
                raise InvalidInput(f"length.{name} must be a whole number of code points, found {show(bound)}")
        if self.min is None and self.max is None:
            raise InvalidInput("length needs min or max")
        put(self, "low", self.min or 0)
        put(self, "high", float("inf") if self.max is None else self.max)
        if self.low > self.high:
            raise InvalidInput(f"length.min {self.min} is above length.max {self.max}")

    def check(self, value: Frozen) -> bool:
        return type(value) is str and self.low <= len(value) <= self.high and admissible(value)

    def members(self) -> dict[str, Json]:
        return {name: bound for name, bound in (("min", self.min), ("max", self.max)) if bound is not None}

    def describe(self) -> str:
        if self.min is None:
            return f"at most {self.max} characters"
        return f"at least {self.min} characters" if self.max is None else f"{self.min} to {self.max} characters"

    def covers(self, other: Length) -> bool:
        return other.low >= self.low and other.high <= self.high


_TYPES: Final[dict[str, frozenset[type]]] = {
    "string": frozenset({str}),
    "integer": frozenset({int}),
    "number": frozenset({int, float}),
    "boolean": frozenset({bool}),
    "null": frozenset({type(None)}),
    "array": frozenset({list, tuple}),
    "object": OBJECTS,
}


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TypeIs(Constraint):
    """A value of one JSON type. Alone among the constraints it tells `1` from `1.0`: `integer` is a number written without a fraction."""

    kind = PREFIX + "type"
    needs = frozenset({"type"})
    type: str
    _types: frozenset[Any] = field(init=False)

    def __post_init__(self) -> None:
        types = _TYPES.get(self.type) if type(self.type) is str else None
        if types is None:
            raise InvalidInput(f"type.type must be one of {', '.join(_TYPES)}, found {show(self.type)}")
        put(self, "_types", types)

    def check(self, value: Frozen) -> bool:
        return type(value) in self._types and admissible(value)

    def members(self) -> dict[str, Json]:
        return {"type": self.type}

    def describe(self) -> str:
        return f"{'an' if self.type[0] in 'aio' else 'a'} {self.type}" if self.type != "null" else "null"

    def covers(self, other: TypeIs) -> bool:
        return self.type == other.type
