"""Reading segments: from frames to commits. Recovery, verification and readers all go through here, so they agree on what is committed.

A segment starts with a frame that says where it stands in the shard's tree: shard, first index, length of the segment before, and the
peaks of the tree so far, so that a shard is reopened by reading its last segment only. Then come appends, each of them records and one
commit frame, and checkpoints between them. A record counts only when a commit frame behind it covers it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import Final, NamedTuple

from agentguard.log import frames
from agentguard.log.frames import CHECKPOINT, COMMIT, FINAL, RECORD, SEGMENT, Damage, Frame
from agentguard.merkle import HASH_SIZE, Frontier, leaf_hash, next_seal

_SEGMENT_HEAD: Final = Struct(">8sQ")


class Batch(NamedTuple):
    """One acknowledged append.

    `records`: (file offset of the record's frame, record). `note`: the checkpoint in the commit frame, or empty. `offset` and `end` are
    those of the commit frame, `seal` is its seal.
    """

    first: int
    records: list[tuple[int, bytes]]
    seal: bytes
    note: bytes
    offset: int
    end: int


class Signed(NamedTuple):
    """A checkpoint frame. `final`: the writer closed after it."""

    note: bytes
    final: bool
    offset: int
    end: int


@dataclass(frozen=True, slots=True)
class SegmentHead:
    """What a segment's first frame says. `previous` is the length in bytes of the segment before, `end` where the first append starts."""

    shard: str
    first: int
    previous: int
    peaks: tuple[bytes, ...]
    end: int


def encode_segment_head(shard: str, frontier: Frontier, previous: int) -> bytes:
    """The first frame of a segment that goes on where `frontier` stands."""
    return frames.encode(SEGMENT, frontier.size, _SEGMENT_HEAD.pack(bytes.fromhex(shard), previous) + b"".join(frontier.peaks))


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A descriptor for reading. Raises Damage if the file cannot be opened, or not be read on."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Damage("the segment is not a regular file", path=str(path), offset=0)
            yield descriptor
        finally:
            os.close(descriptor)
    except OSError as error:
        raise Damage(f"the segment cannot be read: {error.strerror}", path=str(path), offset=0) from error


def read_segment_head(descriptor: int, path: Path) -> SegmentHead:
    """The segment's first frame. Raises Damage; torn if the file was only just made."""
    stop = os.fstat(descriptor).st_size
    name = str(path)
    if stop == 0:
        raise Damage("the segment is empty", path=name, offset=0, torn=True)
    frame = next(frames.read_frames(descriptor, name, 0, stop))
    peaks = frame.payload[_SEGMENT_HEAD.size :]
    if frame.kind != SEGMENT or len(peaks) != frame.number.bit_count() * HASH_SIZE:
        raise Damage("the file does not start with a segment frame", path=name, offset=0)
    shard, previous = _SEGMENT_HEAD.unpack_from(frame.payload)
    split = tuple(peaks[at : at + HASH_SIZE] for at in range(0, len(peaks), HASH_SIZE))
    return SegmentHead(shard.hex(), frame.number, previous, split, frame.end)


def check_segment_head(
    head: SegmentHead, path: Path, *, shard: str, first: int, previous: int, peaks: Sequence[bytes] | None = None
) -> None:
    """Compare a segment's first frame with its place in the shard. Raises Damage."""
    problem = ""
    if head.shard != shard:
        problem = f"the segment belongs to shard {head.shard}, not to {shard}"
    elif head.first != first or path.name != f"{first:020d}.seg":
        problem = f"the segment starts at record {head.first}, expected is {first}"
    elif head.previous != previous:
        problem = f"the segment before had {head.previous} bytes when this one was started, and has {previous} now"
    elif peaks is not None and list(head.peaks) != list(peaks):
        problem = "the segment does not go on from the tree of the segments before"
    if problem:
        raise Damage(problem, path=str(path), offset=0)


def scan(descriptor: int, path: Path, start: int, stop: int, first: int, frontier: Frontier | None = None) -> Iterator[Batch | Signed]:
    """The commits and checkpoints of a segment, in order, from byte `start`, where record `first` comes next.

    With a frontier every seal is computed and compared, and the frontier is advanced commit by commit. Raises Damage where the bytes stop
    being a log; it is torn if everything before `stop` that is not yielded belongs to one append that never finished.
    """
    name = str(path)
    size = first
    seal = frontier.seal() if frontier is not None else b""
    pending: list[tuple[int, bytes]] = []
    good = start
    try:
        for kind, index, payload, offset, end in frames.read_frames(descriptor, name, start, stop):
            if kind == RECORD:
                if index != size + len(pending) or not payload:
                    raise Damage(f"record {index} stands where record {size + len(pending)} belongs", path=name, offset=offset)
                pending.append((offset, payload))
            elif kind == COMMIT:
                if not pending or index != size + len(pending) or len(payload) < HASH_SIZE:
                    raise Damage(f"a commit of {index} records stands after {size + len(pending)}", path=name, offset=offset)
                if frontier is not None:
                    for _, record in pending:
                        leaf = leaf_hash(record)
                        frontier.append(leaf)
                        seal = next_seal(seal, leaf)
                    if seal != payload[:HASH_SIZE]:
                        raise Damage("the commit does not seal its records and all before them", path=name, offset=offset)
                yield Batch(size, pending, payload[:HASH_SIZE], payload[HASH_SIZE:], offset, end)
                size, pending, good = index, [], end
            elif kind in (CHECKPOINT, FINAL):
                if pending or index != size or not payload:
                    raise Damage(f"a checkpoint of {index} records stands after {size + len(pending)}", path=name, offset=offset)
                yield Signed(payload, kind == FINAL, offset, end)
                good = end
            else:
                raise Damage("a second segment starts inside the file", path=name, offset=offset)
    except Damage as damage:
        if damage.torn and pending:
            raise Damage("records without a commit", path=name, offset=good, torn=True) from damage
        raise
    if pending:
        raise Damage("records without a commit", path=name, offset=good, torn=True)


def frame_at(descriptor: int, path: Path, offset: int, stop: int) -> Frame:
    """The one frame at `offset`. Raises Damage."""
    if not 0 <= offset < stop:
        raise Damage("there is no frame", path=str(path), offset=max(0, offset))
    return next(frames.read_frames(descriptor, str(path), offset, min(stop, offset + frames.LARGEST)))
