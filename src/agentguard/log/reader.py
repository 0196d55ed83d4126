"""Reading records back. No key is needed: what is read is committed and intact; whether it is what was signed, `verify` says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from agentguard.errors import InvalidInput
from agentguard.log.frames import RECORD, Damage
from agentguard.log.layout import is_segment_name, is_shard_id, segments, shard_directories, shard_directory
from agentguard.log.scan import Run, frame_at, opened, read_segment_head
from agentguard.log.thin import Removed, read_runs

_MOST_OPEN: Final = 64


@dataclass(frozen=True, slots=True)
class Entry:
    """A committed record and where it stands: `offset` is the byte of its frame in the segment file named `segment`."""

    shard: str
    index: int
    record: bytes
    segment: str
    offset: int


def read_shards(home: Path) -> tuple[str, ...]:
    """Ids of the shards that have records, sorted."""
    return tuple(shard for shard in shard_directories(home) if segments(shard_directory(home, shard)))


def iter_records(home: Path, shard: str | None = None, start: int = 0) -> Iterator[tuple[str, int, bytes]]:
    """(shard, index, record) of every committed record from index `start` on, of one shard or of all, shard by shard; a `Removed` stands
    where retention took one out.

    The cost of starting late is one segment. A log that is being written is read up to its last commit. Raises InvalidInput for damage.
    """
    for name in read_shards(home) if shard is None else (shard,):
        for entry in iter_entries(home, name, start):
            yield entry.shard, entry.index, entry.record


def iter_entries(home: Path, shard: str, start: int = 0) -> Iterator[Entry]:
    """The committed records of a shard from index `start` on, with their places. Raises InvalidInput for damage."""
    for path, run in iter_runs(home, shard, start):
        for index in range(max(0, start - run.first), len(run.records)):
            yield Entry(shard, run.first + index, run.records[index], path.name, run.offsets[index])


def iter_runs(home: Path, shard: str, start: int = 0, *, at: tuple[str, int] | None = None) -> Iterator[tuple[Path, Run]]:
    """(segment file, committed records in it that follow one another), from the segment that holds index `start` on.

    at  where an earlier reading ended: name of the segment, and the byte behind a commit of `start` records. It saves reading what comes
        before in that segment

    Raises InvalidInput for damage, and if `at` is no such place.
    """
    files = segments(shard_directory(home, shard))
    position = max((number for number, (first, _) in enumerate(files) if first <= start), default=0)
    expected = files[position][0] if files else 0
    if at is not None and files and files[position][1].name != at[0]:
        if expected != start:  # otherwise the segment ended there, and the next one has begun
            raise InvalidInput(f"record {start} of shard {shard} is not in {at[0]!r:.40}", place=str(shard_directory(home, shard)))
        at = None
    for number, (first, path) in enumerate(files[position:]):
        if first != expected:
            raise InvalidInput(f"the records from {expected} to {first - 1} are missing", place=str(path.parent))
        with opened(path) as descriptor:
            try:
                head = read_segment_head(descriptor, path)
                begin = head.end
                if at is not None and number == 0:
                    begin, expected = at[1], start
                for run in read_runs(descriptor, path, begin, os.fstat(descriptor).st_size, expected):
                    expected = run.first + len(run.records)
                    yield path, run
            except Damage as damage:
                if not damage.torn:  # otherwise an append is under way, or never finished; a hole shows at the next segment
                    raise


def read_record(home: Path, shard: str, index: int, *, segment: str | None = None, offset: int = 0) -> bytes:
    """One committed record. `segment` and `offset` are a hint where to look first. Raises InvalidInput if there is no such record."""
    with Lookup(home) as lookup:
        return lookup.record(shard, index, segment=segment, offset=offset)


class Lookup:
    """Reads single records, and keeps the segments open that they stand in. Close it, or use it as a context manager."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._open: dict[tuple[str, str], int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    def record(self, shard: str, index: int, *, segment: str | None = None, offset: int = 0) -> bytes:
        """As `read_record`. The hint may come from an index that lies: it is followed only to a frame that is intact and carries this very
        index, in a file that is one of this shard's segments."""
        if not is_shard_id(shard):
            raise InvalidInput(f"{shard!r:.40} is not the id of a shard")
        record = self._there(shard, index, segment, offset) if segment is not None else None
        if record is not None:
            return record
        entry = next(iter_entries(self._home, shard, index), None)
        if entry is None or entry.index != index:
            raise InvalidInput(f"shard {shard} has no record {index}", place=str(shard_directory(self._home, shard)))
        if isinstance(entry.record, Removed):
            raise InvalidInput(f"record {index} of shard {shard} was removed by retention", place=str(shard_directory(self._home, shard)))
        return entry.record

    def _there(self, shard: str, index: int, segment: str, offset: int) -> bytes | None:
        if not is_segment_name(segment):
            return None
        path = shard_directory(self._home, shard) / segment
        try:
            descriptor = self._descriptor(shard, path)
            frame = frame_at(descriptor, path, offset, os.fstat(descriptor).st_size)
        except Damage:
            return None
        return frame.payload if (frame.kind, frame.number) == (RECORD, index) else None

    def _descriptor(self, shard: str, path: Path) -> int:
        """The open segment. Raises Damage."""
        key = shard, path.name
        if key not in self._open:
            if len(self._open) >= _MOST_OPEN:
                self.close()
            with opened(path) as descriptor:
                self._open[key] = os.dup(descriptor)
        return self._open[key]
