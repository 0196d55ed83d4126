"""Strict reading of YAML (and so of JSON) into plain values whose places are known to the line and column.

A policy is read by people, so nothing in it may mean something else than it seems to. What YAML 1.1 and YAML 1.2 read differently (`no`,
`010`, `1:30`, a bare date) is refused rather than guessed; numbers are written as in JSON. Anchors, aliases, tags, merge keys, several
documents, duplicate keys and invisible characters are refused. Values are built from the parser's event stream, so that depth is bounded
before anything recurses and no alias is ever expanded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import yaml

from agentguard.canonical import Json, is_admissible
from agentguard.errors import InvalidInput

MAX_BYTES: Final = 4 * 1024 * 1024
MAX_DEPTH: Final = 128
MAX_NODES: Final = 400_000
MAX_KEY: Final = 256

#: Where a value stands and where its key does: (line, column, key line, key column, members). Lines and columns count from 1.
Marks: TypeAlias = "tuple[int, int, int, int, dict[str, Marks] | list[Marks] | None]"
#: An event of the parser; the stubs make every mark optional, and each event of a document has one.
Event: TypeAlias = Any
Steps: TypeAlias = tuple[str | int, ...]

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C parser gives the same events, ten times as fast

_WORDS: Final[dict[str, Json]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_TWO_MEANINGS = frozenset(case for word in ("yes", "no", "on", "off") for case in (word, word.capitalize(), word.upper()))
_JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
#: Everything that YAML 1.1 or the core schema of YAML 1.2 (§10.3.2) takes for a number or a date.
_NUMBER_LIKE = re.compile(
    r"[-+]?(?:\.?[0-9][0-9_]*(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?"
    r"|0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt \t].*)?"
)
#: Control, format and direction characters: a reviewer does not see them (tab and line ends excepted).
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\uffff"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


@dataclass(frozen=True, slots=True)
class Document:
    """One document: its plain value, and where each part of it stands.

    `label` is how places name it: the file's name as it was given, or a word in angle brackets.
    """

    value: Json
    label: str
    marks: Marks

    def locate(self, path: Steps, *, key: bool = False) -> tuple[int, int]:
        """Line and column of the value at `path` (of its key, if `key`); of the nearest part that exists where the path leads nowhere."""
        marks = self.marks
        for step in path:
            members = marks[4]
            inner = members.get(step) if type(members) is dict and type(step) is str else None
            if type(members) is list and type(step) is int and step < len(members):
                inner = members[step]
            if inner is None:
                break
            marks = inner
        return (marks[2], marks[3]) if key else (marks[0], marks[1])

    def at(self, path: Steps) -> tuple[Document, Steps]:
        """The file in which `path` is written, and the path there: a policy may have several (policy/imports.py)."""
        return self, path

    def rank(self, path: Steps, *, key: bool = False) -> tuple[int, int, int]:
        """What puts paths in the order in which they are written: file, line, column."""
        return (0, *self.locate(path, key=key))

    def place(self, path: Steps, *, key: bool = False) -> str:
        """`label:line:column`."""
        document, inner = self.at(path)
        line, column = document.locate(inner, key=key)
        return f"{document.label}:{line}:{column}"

    def line(self, path: Steps) -> str:
        """`label:line` of the member at `path`, as reasons name a rule."""
        document, inner = self.at(path)
        return f"{document.label}:{document.locate(inner, key=True)[0]}"


def is_text(source: Any) -> bool:
    """Whether a source is the text itself, and not a path: a string that holds a line end or starts with `{`."""
    return isinstance(source, str) and ("\n" in source or source.startswith("{"))


def read_source(source: Any, label: str) -> tuple[str, str]:
    """The text of `source` and the label of its places.

    `source` is a `pathlib.Path`, a path as a string, or the text itself: a string that holds a line end or starts with `{`.
    Raises InvalidInput for a file that is missing, too large (4 MiB) or not UTF-8.
    """
    if is_text(source):
        if len(source) > MAX_BYTES:
            raise InvalidInput(f"the document is larger than {MAX_BYTES} bytes", place=label)
        return source, label
    if not isinstance(source, str | Path):
        raise InvalidInput(f"expected a path or a text, found {type(source).__name__}", place=label)
    name = str(source)
    try:
        with open(name, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        cause = error.strerror if isinstance(error, OSError) else "not a path"
        hint = "a text must hold a line end or start with '{'" if type(source) is str else None
        raise InvalidInput(f"cannot read the file: {cause}", place=name[:256], hint=hint) from None
    if len(data) > MAX_BYTES:
        raise InvalidInput(f"the file is larger than {MAX_BYTES} bytes", place=name)
    try:
        return data.decode("utf-8-sig"), name
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise InvalidInput("not UTF-8", place=f"{name}:{line}:{column}") from None


def read(text: str, label: str) -> Document:
    """Read one YAML document strictly. Raises InvalidInput, whose place is `label:line:column`, for anything else."""
    found = None if text.isascii() and text.isprintable() else _INVISIBLE.search(text)
    if found is not None:
        line = text.count("\n", 0, found.start()) + 1
        column = found.start() - text.rfind("\n", 0, found.start())
        raise InvalidInput(f"the invisible character U+{ord(found[0]):04X}", place=f"{label}:{line}:{column}")
    try:
        return _Reader(label, _events(text)).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{label}:{mark.line + 1}:{mark.column + 1}" if mark else label
        if "nesting depth" in (error.problem or ""):  # PyYAML's own bound, from 6.0.4 on: it looks ahead, and may come to it first
            raise InvalidInput("nested too deeply", place=where, hint=f"at most {MAX_DEPTH} levels") from None
        hint = "quote text that holds one of { } [ ] , : # & * ! | > % @ `"
        raise InvalidInput(f"not YAML: {error.problem or error.context}", place=where, hint=hint) from None
    except yaml.YAMLError as error:
        raise InvalidInput(f"not YAML: {str(error).splitlines()[0]:.200}", place=label) from None


def _events(text: str) -> Iterator[Event]:
    loader = _Loader(text)
    try:
        while True:
            event = loader.get_event()
            yield event
            if type(event) is yaml.StreamEndEvent:
                return
    finally:
        loader.dispose()


class _Reader:
    """Builds values and marks from events, recursively; the depth is bounded before the recursion is entered."""

    def __init__(self, label: str, events: Iterator[Event]) -> None:
        self.label = label
        self.next = events.__next__
        self.count = 0

    def fail(self, message: str, event: Event, hint: str | None = None) -> InvalidInput:
        mark = event.start_mark
        return InvalidInput(message, place=f"{self.label}:{mark.line + 1}:{mark.column + 1}", hint=hint)

    def document(self) -> Document:
        self.next()  # the stream starts
        event = self.next()
        if type(event) is not yaml.DocumentStartEvent:
            raise InvalidInput("the document is empty", place=self.label)
        if event.version or event.tags:
            raise self.fail("a YAML directive is not accepted", event, "take out the line that begins with '%'")
        value, marks = self.node(self.next(), None, 0)
        self.next()  # the document ends
        event = self.next()
        if type(event) is not yaml.StreamEndEvent:
            raise self.fail("a second document begins here", event, "one document a file")
        return Document(value, self.label, marks)

    def node(self, event: Event, key: Event | None, depth: int) -> tuple[Json, Marks]:
        kind = type(event)
        self.count += 1
        if self.count > MAX_NODES:
            raise self.fail(f"the document has more than {MAX_NODES} parts", event)
        mark = event.start_mark
        line, column = mark.line + 1, mark.column + 1
        key_mark = key.start_mark if key is not None else mark
        members: dict[str, Marks] | list[Marks] | None = None
        value: Json
        if kind is yaml.ScalarEvent:
            value = self.scalar(event)
        elif kind is yaml.AliasEvent:
            raise self.fail("an alias is not accepted", event, "write the value out, or quote it if it is text")
        else:
            self.check_plain(event)
            if depth >= MAX_DEPTH:
                raise self.fail("nested too deeply", event, f"at most {MAX_DEPTH} levels")
            value, members = self.mapping(depth + 1) if kind is yaml.MappingStartEvent else self.sequence(depth + 1)
        return value, (line, column, key_mark.line + 1, key_mark.column + 1, members)

    def mapping(self, depth: int) -> tuple[dict[str, Json], dict[str, Marks]]:
        value: dict[str, Json] = {}
        members: dict[str, Marks] = {}
        while type(event := self.next()) is not yaml.MappingEndEvent:
            key = self.key(event)
            if key in value:
                raise self.fail(f"the key {key!r:.80} stands twice, first at line {members[key][2]}", event)
            value[key], members[key] = self.node(self.next(), event, depth)
        return value, members

    def sequence(self, depth: int) -> tuple[list[Json], list[Marks]]:
        value: list[Json] = []
        members: list[Marks] = []
        while type(event := self.next()) is not yaml.SequenceEndEvent:
            item, marks = self.node(event, None, depth)
            value.append(item)
            members.append(marks)
        return value, members

    def check_plain(self, event: Event) -> None:
        if event.anchor is not None:
            raise self.fail("an anchor is not accepted", event, "write the value out where it is needed")
        if event.tag is not None:
            raise self.fail(f"the tag {event.tag!r:.80} is not accepted", event, "values are strings, numbers, true, false and null")

    def key(self, event: Event) -> str:
        if type(event) is not yaml.ScalarEvent:
            raise self.fail("a key must be a string", event)
        self.check_plain(event)
        key: str = event.value
        if event.implicit[0]:
            if key == "<<":
                raise self.fail("a merge key is not accepted", event, "write the members out")
            if key in _WORDS or (key[0] in "0123456789+-." and _NUMBER_LIKE.fullmatch(key)):
                raise self.fail(f"a key must be a string, found {key!r:.80}", event, "quote it")
        if len(key) > MAX_KEY:
            raise self.fail(f"a key is longer than {MAX_KEY} characters", event)
        if not key.isprintable():
            raise self.fail(f"a key holds characters that are not printable: {key!r:.80}", event)
        return key

    def scalar(self, event: Event) -> Json:
        if event.anchor is not None or event.tag is not None:
            self.check_plain(event)
        text: str = event.value
        if not event.implicit[0]:  # quoted, or a block: always a string, and its escapes may stand for anything
            if not text.isprintable() and (found := _INVISIBLE.search(text)):
                raise self.fail(f"a string holds the invisible character U+{ord(found[0]):04X}", event)
            return text
        if text in _WORDS:
            return _WORDS[text]
        if text[0] in "0123456789+-.":
            return self.number(text, event)
        if text in _TWO_MEANINGS:
            raise self.fail(
                f"{text!r} is a boolean in YAML 1.1 and a string in YAML 1.2", event, f"write true or false, or quote it: {text!r}"
            )
        return text

    def number(self, text: str, event: Event) -> Json:
        """The number that a plain scalar denotes, or the scalar itself where no reader of YAML takes it for a number or a date."""
        match = _JSON_NUMBER.fullmatch(text)
        if match is None:
            if _NUMBER_LIKE.fullmatch(text):
                raise self.fail(
                    f"{text!r:.80} is read differently by different versions of YAML", event, "write it as in JSON, or quote it"
                )
            return text
        if not is_admissible(text):
            raise self.fail(f"the number {text:.80} cannot be carried exactly by a JSON number", event, "quote it")
        return float(text) if match[1] or match[2] else int(text)
