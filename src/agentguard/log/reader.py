"""Reading records back. No key is needed: what is read is committed and intact; whether it is what was signed, `verify` says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agentguard.errors import InvalidInput
from agentguard.log.frames import RECORD, Damage
from agentguard.log.layout import segments, shard_directories, shard_directory
from agentguard.log.scan import Batch, frame_at, opened, read_segment_head, scan


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
    """(shard, index, record) of every committed record from index `start` on, of one shard or of all, shard by shard.

    The cost of starting late is one segment. A log that is being written is read up to its last commit. Raises InvalidInput for damage.
    """
    for name in read_shards(home) if shard is None else (shard,):
        for entry in iter_entries(home, name, start):
            yield entry.shard, entry.index, entry.record


def iter_entries(home: Path, shard: str, start: int = 0) -> Iterator[Entry]:
    """The committed records of a shard from index `start` on, with their places. Raises InvalidInput for damage."""
    files = segments(shard_directory(home, shard))
    position = max((number for number, (first, _) in enumerate(files) if first <= start), default=0)
    expected = files[position][0] if files else 0
    for first, path in files[position:]:
        if first != expected:
            raise InvalidInput(f"the records from {expected} to {first - 1} are missing", place=str(path.parent))
        with opened(path) as descriptor:
            try:
                head = read_segment_head(descriptor, path)
                for event in scan(descriptor, path, head.end, os.fstat(descriptor).st_size, head.first):
                    if isinstance(event, Batch):
                        expected = event.first + len(event.records)
                        for index, (offset, record) in enumerate(event.records, event.first):
                            if index >= start:
                                yield Entry(shard, index, record, path.name, offset)
            except Damage as damage:
                if not damage.torn:  # otherwise an append is under way, or never finished; a hole shows at the next segment
                    raise


def read_record(home: Path, shard: str, index: int, *, segment: str | None = None, offset: int = 0) -> bytes:
    """One committed record. `segment` and `offset` are a hint where to look first. Raises InvalidInput if there is no such record.

    The hint may come from an index that lies: it is followed only to a frame that is intact and carries this very index.
    """
    files = [(first, path) for first, path in segments(shard_directory(home, shard)) if first <= index]
    if files and files[-1][1].name == segment:
        path = files[-1][1]
        with opened(path) as descriptor:
            try:
                frame = frame_at(descriptor, path, offset, os.fstat(descriptor).st_size)
            except Damage:
                frame = None
        if frame is not None and frame.kind == RECORD and frame.number == index:
            return frame.payload
    entry = next(iter_entries(home, shard, index), None)
    if entry is None or entry.index != index:
        raise InvalidInput(f"shard {shard} has no record {index}", place=str(shard_directory(home, shard)))
    return entry.record
