"""What can be said about the records themselves, beyond that they are the ones that were signed: form, duplicates, calls without end.

The log holds bytes; this is the one part of it that looks inside (`type`, `id`, `execution`, `verdict`: DESIGN §8).
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, Final, NamedTuple

import msgspec

from agentguard.canonical import jcs, parse
from agentguard.errors import InvalidInput

_MAX_INTEGER: Final = 2**53
_BUCKETS: Final = 64
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
        self._open: dict[str, Place] = {}
        self._outcomes: dict[str, Place] = {}
        # Identifiers as 64-bit hashes, in buckets so that sorting one never copies them all. Python keys `hash` anew in every process, so
        # nobody can prepare collisions; a candidate is confirmed by a second reading.
        self._seen = [array("q") for _ in range(_BUCKETS)]

    def add(self, record: bytes, place: Place) -> None:
        try:
            members = read_record_members(record)
        except InvalidInput as error:
            self._report("error", "record", f"the record is malformed: {error.message}", place)
            return
        identity, kind = members.get("id"), members.get("type")
        if type(identity) is str:
            code = hash(identity)
            self._seen[code & (_BUCKETS - 1)].append(code)
        if kind == "decision" and members.get("verdict") == "allow" and type(identity) is str:
            if self._outcomes.pop(identity, None) is None:
                self._open[identity] = place
        elif kind == "outcome" and type(execution := members.get("execution")) is str and self._open.pop(execution, None) is None:
            if execution in self._outcomes:
                self._report("error", "duplicate", f"execution {execution} has two outcomes", place)
            self._outcomes[execution] = place

    def finish(self, again: Callable[[], Iterable[tuple[bytes, Place]]]) -> None:
        """Report what only the end tells. `again` reads all records once more; it is called only if two ids look alike."""
        for execution, place in self._open.items():
            self._report(
                "warning", "unknown", f"execution {execution} was allowed and has no outcome: whether its tool ran is unknown", place
            )
        for execution, place in self._outcomes.items():
            if self._known(execution):
                message = f"execution {execution} has an outcome, but was not allowed, or had one before"
                self._report("error", "duplicate", message, place)
            else:
                self._report("warning", "orphan", f"execution {execution} has an outcome, but no decision", place)
        alike = {code for bucket in self._seen for code in _twice(bucket)}
        if alike:
            self._name_duplicates(alike, again())

    def _known(self, identity: str) -> bool:
        code = hash(identity)
        return code in self._seen[code & (_BUCKETS - 1)]

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
    ordered = sorted(codes)
    return (left for left, right in pairwise(ordered) if left == right)
