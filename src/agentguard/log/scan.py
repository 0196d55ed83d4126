"""Reading segments: from frames to commits. Recovery, verification and readers all go through here, so they agree on what is committed.

A segment starts with a frame that says where it stands in the shard's tree: shard, first index, length of the segment before, and the
peaks of the tree so far, so that a shard is reopened by reading its last segment only. Then come appends, each of them records and one
commit frame, and checkpoints between them. A record counts only when a commit frame behind it covers it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import Final, NamedTuple
from zlib import crc32

from agentguard.log import frames
from agentguard.log.frames import CHECKPOINT, COMMIT, END, FINAL, HEAD, MAGIC, MAX_PAYLOAD, RECORD, SEGMENT, TAIL, VERSION, Damage, Frame
from agentguard.log.merkle import HASH_SIZE, Frontier, leaf_hash, next_seal

_SEGMENT_HEAD: Final = Struct(">8sQ")
_CHUNK: Final = 1 << 17  # what is made of a chunk stays in the processor's cache


def _word(kind: int) -> int:
    """Magic, kind and version of a frame as one number, which is compared at once."""
    return int.from_bytes(HEAD.pack(MAGIC, kind, VERSION, 0, 0, 0)[:4], "big")


_RECORD_WORD, _COMMIT_WORD, _FINAL_WORD = _word(RECORD), _word(COMMIT), _word(FINAL)
_CHECKPOINT_WORDS: Final = frozenset({_word(CHECKPOINT), _FINAL_WORD})
_HEAD: Final = Struct(">IHHQ").unpack_from
#: The end of one frame and the beginning of the next, read in one step; the padding is what follows the last.
_TAIL_AND_HEAD: Final = Struct(">IBIHHQ").unpack_from
_HEAD_SIZE, _TAIL_SIZE, _PADDING = HEAD.size, TAIL.size, bytes(HEAD.size)


class Run(NamedTuple):
    """Acknowledged appends, one after the other, and the checkpoint that they end with, if they do.

    `records`: the first of them has index `first`. `offsets`: where in the file each one's frame begins. `seal`: that of the last commit
    so far. `note`: the signed checkpoint, or empty; `final`: its writer closed after it; `offset`: where its frame begins. `end`: the byte
    after the run.
    """

    first: int
    records: list[bytes]
    offsets: list[int]
    seal: bytes
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
    elif head.first != first or path.stem != f"{first:020d}":
        problem = f"the segment starts at record {head.first}, expected is {first}"
    elif head.previous != previous:
        problem = f"the segment before had {head.previous} bytes when this one was started, and has {previous} now"
    elif peaks is not None and list(head.peaks) != list(peaks):
        problem = "the segment does not go on from the tree of the segments before"
    if problem:
        raise Damage(problem, path=str(path), offset=0)


def scan(descriptor: int, path: Path, start: int, stop: int, first: int, frontier: Frontier | None = None) -> Iterator[Run]:
    """The committed records and the checkpoints of a segment, in order, from byte `start`, where record `first` comes next.

    With a frontier every seal is computed and compared, and the frontier is advanced run by run. Raises Damage where the bytes stop being a
    log; it is torn if everything before `stop` that is not yielded belongs to one append that never finished.
    """
    name = str(path)
    good, size = start, first
    seal = frontier.seal() if frontier is not None else b""
    room = _CHUNK
    while good < stop:
        begin = good
        data = _read(descriptor, name, begin, min(room, stop - begin))
        good, size, seal, halt = yield from _runs(data, begin, size, seal, frontier)
        if halt.bad or (good < stop and begin + len(data) == stop):
            raise _damage(descriptor, name, good, size, halt, stop)
        room = _CHUNK if good > begin else 2 * room  # an append that is larger than a chunk is read whole


class _Halt(NamedTuple):
    """At which byte of the file `_runs` stopped, behind how many intact records without a commit, and whether a bad frame is there."""

    offset: int
    pending: int
    bad: bool


def _runs(data: bytes, base: int, size: int, seal: bytes, frontier: Frontier | None) -> Generator[Run, None, tuple[int, int, bytes, _Halt]]:
    """The runs in `data`, which stands at byte `base` of the file and begins an append. Returns where the last commit ended (byte, number
    of records, seal), and where reading stopped.

    How long it takes to verify a log is decided here, by what is done for each of a record's two frames. So the loop only knows what is
    right; what is wrong with a frame, `_damage` finds out.
    """
    limit = len(data)
    data += _PADDING
    at = good = 0
    first = committed = number = size
    records: list[bytes] = []
    offsets: list[int] = []
    leaves: list[bytes] = []
    last_seal, bad = seal, True
    word, length, inverse, index = _HEAD(data)
    while (end := (body := at + _HEAD_SIZE) + length) + _TAIL_SIZE <= limit:
        crc, newline, next_word, next_length, next_inverse, next_index = _TAIL_AND_HEAD(data, end)
        if crc32(data[at:end]) != crc or newline != END or length ^ inverse != MAX_PAYLOAD:
            break
        after = end + _TAIL_SIZE
        if word == _RECORD_WORD:
            if index != number or not length:
                break
            record = data[body:end]
            records.append(record)
            offsets.append(base + at)
            number += 1
            if frontier is not None:
                leaves.append(leaf := leaf_hash(record))
                seal = next_seal(seal, leaf)
        else:
            note = body
            if word == _COMMIT_WORD:
                note += HASH_SIZE
                found = data[body:note]
                if index != number or number == committed or note > end or (frontier is not None and found != seal):
                    break
                committed, good, seal, last_seal = number, after, found, found
            elif word not in _CHECKPOINT_WORDS or index != number or number != committed or not length:
                break
            if note < end:
                if frontier is not None:
                    frontier.extend(leaves)
                yield Run(first, records, offsets, seal, data[note:end], word == _FINAL_WORD, base + at, base + after)
                first, good, records, offsets, leaves = number, after, [], [], []
        at, word, length, inverse, index = after, next_word, next_length, next_inverse, next_index
    else:
        bad = False
    count = committed - first
    if count:
        if frontier is not None:
            frontier.extend(leaves[:count])
        yield Run(first, records[:count], offsets[:count], last_seal, b"", False, base + good, base + good)
    return base + good, committed, last_seal, _Halt(base + at, number - committed, bad)


def _read(descriptor: int, name: str, offset: int, length: int) -> bytes:
    """Exactly these bytes. The file is read, never mapped: a mapped file that somebody shortens kills the process. Raises Damage."""
    data = os.pread(descriptor, length, offset)
    while len(data) < length:
        more = os.pread(descriptor, length - len(data), offset + len(data))
        if not more:
            raise Damage("the file became shorter while it was read", path=name, offset=offset + len(data))
        data += more
    return data


def _damage(descriptor: int, name: str, good: int, size: int, halt: _Halt, stop: int) -> Damage:
    """What is wrong behind the last commit, which ended at byte `good` with `size` records: at `halt`, or with what ends there."""
    unfinished = Damage("records without a commit", path=name, offset=good, torn=True)
    if halt.offset == stop:
        return unfinished
    try:
        _, _, payload, offset, _ = frame = next(frames.read_frames(descriptor, name, halt.offset, stop))
    except Damage as damage:
        return unfinished if damage.torn and halt.pending else damage
    expected = size + halt.pending
    if frame.kind == RECORD:
        problem = f"record {frame.number} stands where record {expected} belongs"
    elif frame.kind == COMMIT and halt.pending and frame.number == expected and len(payload) >= HASH_SIZE:
        problem = "the commit does not seal its records and all before them"
    elif frame.kind == SEGMENT:
        problem = "a second segment starts inside the file"
    else:
        what = "commit" if frame.kind == COMMIT else "checkpoint"
        problem = f"a {what} of {frame.number} records stands after {expected}"
    return Damage(problem, path=name, offset=offset)


def frame_at(descriptor: int, path: Path, offset: int, stop: int) -> Frame:
    """The one frame at `offset`. Raises Damage."""
    if not 0 <= offset < stop:
        raise Damage("there is no frame", path=str(path), offset=max(0, offset))
    return next(frames.read_frames(descriptor, str(path), offset, min(stop, offset + frames.LARGEST)))
