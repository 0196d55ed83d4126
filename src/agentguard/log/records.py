"""What can be said about the records themselves, beyond that they are the ones that were signed: form, duplicates, calls without end.

The log holds bytes; this is the one part of it that looks inside (`type`, `id`, `execution`, `verdict`: DESIGN §8).
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Final, NamedTuple, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from agentguard import evidence
from agentguard.canonical import jcs, parse
from agentguard.decision import Stage
from agentguard.errors import InvalidInput

_MAX_INTEGER: Final = 2**53
_BUCKETS: Final = 64
_LAST_BUCKET: Final = _BUCKETS - 1
_LONG_NUMBER = re.compile(rb"[:,\[]-?[0-9]{16}")


class Place(NamedTuple):
    """Where a record stands."""

    file: str
    offset: int


class _Float:
    """Stands for a float, which no record may hold; the encoder refuses it."""

    def __init__(self, _: str) -> None: ...


_decode = msgspec.json.Decoder(float_hook=_Float).decode
_encode = msgspec.json.Encoder(order="sorted").encode

#: Everything a record may hold but for objects.
_Scalar: TypeAlias = str | bool | Annotated[int, Meta(gt=-_MAX_INTEGER, lt=_MAX_INTEGER)] | None
_Value: TypeAlias = _Scalar | list[_Scalar | list[_Scalar]]


def _form(name: str, members: Iterable[str], shapes: Mapping[str, Any]) -> Any:
    """A type of objects that have some of these members and no other; it prints them in order, whatever the order they were read in."""
    fields = {(member if member.isidentifier() else f"member_{member}"): member for member in sorted(set(members))}
    types = [(field, shapes[member] if member in shapes else _Value | UnsetType, UNSET) for field, member in fields.items()]
    return msgspec.defstruct(name, types, rename=fields, forbid_unknown_fields=True, gc=False)


_KINDS: Final = (evidence.DecisionRecord, evidence.OutcomeRecord, evidence.DelegationRecord, evidence.NoteRecord)
#: The records that the guard writes, all in one form. `detail` may hold anything, and is printed as it was read.
_Known: Final = _form(
    "_Known",
    ("leaf", *(member for kind in _KINDS for member in kind.__struct_fields__)),  # `leaf`: what is read in place of one that was removed
    {
        "initiator": _form("_Initiator", ("evidence", "id", "method"), {}) | None | UnsetType,
        "shaped": _form("_Shaped", ("redacted", "truncated"), {}) | None | UnsetType,
        "stages": _form("_Stages", (str(int(stage)) for stage in Stage), {}) | None | UnsetType,
        "detail": Any,
    },
)
_decode_known = msgspec.json.Decoder(_Known).decode_lines
_encode_known = msgspec.json.Encoder().encode_lines


def read_known(records: Sequence[bytes]) -> list[Any] | None:
    """The records as `_Known`, if each of them is canonical JSON of this form (but perhaps for its `detail`); else None.

    What is printed as it was read, whatever the order, is canonical. All are read and printed at once, a line each, which takes a fifth of
    the time. A newline is printed behind each of them and nowhere else; so if there are as many as records, no record holds one, and each
    line is a record.
    """
    text = b"\n".join((*records, b""))
    try:
        known = _decode_known(text)
        return known if len(known) == len(records) and text.isascii() and _encode_known(known) == text else None
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None


def read_record_members(record: bytes) -> dict[str, Any]:
    """The members of a canonical record. Raises InvalidInput for anything else.

    Nearly every record is proven canonical by encoding it again, which takes microseconds; the rest goes through the strict parser.
    """
    try:
        value = _decode(record)
        if type(value) is dict and record.isascii() and _encode(value) == record and _LONG_NUMBER.search(record) is None:
            return value
    except (msgspec.MsgspecError, TypeError, RecursionError, UnicodeDecodeError):
        pass  # the strict parser says what is wrong
    members = parse(record)
    if type(members) is not dict:
        raise InvalidInput("the record is not an object")
    _check(members)
    if jcs(members) != record:
        raise InvalidInput("the record is not canonical JSON")
    return members


def _check(value: Any) -> None:
    if type(value) is dict:
        for name, item in value.items():
            if not name.isascii():
                raise InvalidInput(f"the member name {name[:40]!r} is not ASCII")
            _check(item)
    elif type(value) is list:
        for item in value:
            _check(item)
    elif (
        type(value) is not str and type(value) is not bool and value is not None and not (type(value) is int and abs(value) < _MAX_INTEGER)
    ):
        raise InvalidInput(f"{value!r:.40} is no integer below 2^53")


class Audit:
    """Collects what is known of records while they stream by. Memory: 8 bytes a record, and an entry for each call without outcome."""

    def __init__(self, report: Callable[[str, str, str, Place], None]) -> None:
        """`report(severity, kind, message, place)` takes the findings."""
        self._report = report
        self.forgetful = False  # decisions were removed by retention, so an outcome without one is nothing to wonder at
        self._open: dict[str, tuple[str, int]] = {}  # plain pairs, made of two objects that are there anyway
        self._outcomes: dict[str, tuple[str, int]] = {}
        # Identifiers as 64-bit hashes, in buckets so that looking through one never copies them all. Python keys `hash` anew in every
        # process, so nobody can prepare collisions; a candidate is confirmed by a second reading.
        self._seen = [array("q") for _ in range(_BUCKETS)]

    def add(self, records: Sequence[bytes], offsets: Sequence[int], file: str) -> Sequence[bytes]:
        """Look at records, and where in the file they stand. Returns those that have a `detail`, and perhaps more."""
        known = read_known(records)
        notes: list[bytes] = []
        if known is None:
            notes += records
            known = [self._carefully(record, Place(file, offset)) for record, offset in zip(records, offsets, strict=True)]
        seen, open_, outcomes = self._seen, self._open, self._outcomes
        for at, record in enumerate(known):
            identity, kind = record.id, record.type
            if record.detail is not UNSET:
                notes.append(records[at])
                self._carefully(records[at], Place(file, offsets[at]))
            if type(identity) is str:
                code = hash(identity)
                seen[code & _LAST_BUCKET].append(code)
            if kind == "decision":
                runs = record.verdict == "allow" or record.enforced is False
                if runs and type(identity) is str and outcomes.pop(identity, None) is None:
                    open_[identity] = file, offsets[at]
            elif kind == "outcome":
                execution = record.execution
                if type(execution) is str and open_.pop(execution, None) is None:
                    if execution in outcomes:
                        self._report("error", "duplicate", f"execution {execution} has two outcomes", Place(file, offsets[at]))
                    outcomes[execution] = file, offsets[at]
        return notes

    def _carefully(self, record: bytes, place: Place) -> Any:
        """What is known of a record of any form. It is reported if it is not canonical, and nothing is known of it then."""
        try:
            members = read_record_members(record)
        except InvalidInput as error:
            self._report("error", "record", f"the record is malformed: {error.message}", place)
            return _Known()
        return _Known(**{name: members[name] for name in ("id", "type", "verdict", "enforced", "execution") if name in members})

    def finish(self, again: Callable[[], Iterable[tuple[bytes, Place]]]) -> None:
        """Report what only the end tells. `again` reads all records once more; it is called only if two ids look alike."""
        for execution, pair in self._open.items():
            message = f"execution {execution} was allowed and has no outcome: whether its tool ran is unknown"
            self._report("warning", "unknown", message, Place(*pair))
        for execution, pair in self._outcomes.items():
            place = Place(*pair)
            if self._known(execution):
                message = f"execution {execution} has an outcome, but was not allowed, or had one before"
                self._report("error", "duplicate", message, place)
            elif not self.forgetful:
                self._report("warning", "orphan", f"execution {execution} has an outcome, but no decision", place)
        alike = {code for bucket in self._seen for code in _twice(bucket)}
        if alike:
            self._name_duplicates(alike, again())

    def _known(self, identity: str) -> bool:
        code = hash(identity)
        return code in self._seen[code & _LAST_BUCKET]

    def _name_duplicates(self, alike: set[int], records: Iterable[tuple[bytes, Place]]) -> None:
        first: dict[str, Place] = {}
        for record, place in records:
            try:
                identity = read_record_members(record).get("id")
            except InvalidInput:
                continue
            if type(identity) is str and hash(identity) in alike:
                before = first.setdefault(identity, place)
                if before is not place:
                    self._report("error", "duplicate", f"the id {identity} stands at {before.file} byte {before.offset} already", place)


def _twice(codes: array[int]) -> Iterable[int]:
    return () if len(set(codes)) == len(codes) else (code for code, count in Counter(codes).items() if count > 1)
