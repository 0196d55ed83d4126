"""Segments that were thinned: retention took records out, and their leaf hashes stand in for them (docs/decisions/0010).

A thinned segment has the name of the one it replaces, with the ending `.thin`. It is the same sequence of frames, but for

    L   in place of the `R` frame of a record that was removed; its payload is the record's leaf hash (32 bytes)
    T   last: number of records so far; payload is the length of the whole segment in bytes (8) and its SHA-256 (32)

So every seal, root, checkpoint and proof is what it was, and is checked as before. Only that nobody can read the records any more, and
whether that is as it should be, a record of type `retention` says: it names the file's digest.
"""

from __future__ import annotations

import hashlib
import os
from binascii import hexlify, unhexlify
from collections.abc import Callable, Iterator
from pathlib import Path
from struct import Struct
from typing import Final, NamedTuple

from agentguard.log.frames import CHECKPOINT, COMMIT, LEAF, OVERHEAD, RECORD, SEGMENT, THINNED, Damage, encode, read_frames
from agentguard.log.layout import replace_file, thinned_path
from agentguard.log.merkle import HASH_SIZE, Frontier, leaf_hash, next_seal
from agentguard.log.scan import Run, frame_at, opened, scan

_END: Final = Struct(">Q32s")
_BEFORE, _AFTER = b'{"leaf":"', b'","type":"removed"}'


class Removed(bytes):
    """What is read in place of a record that was removed: `{"leaf":"<hex>","type":"removed"}`. Its type tells, not what it says: a record
    in the log may have the same bytes."""

    @classmethod
    def of(cls, leaf: bytes) -> Removed:
        return cls(_BEFORE + hexlify(leaf) + _AFTER)

    @property
    def leaf(self) -> bytes:
        """The leaf hash of the record that was here."""
        return unhexlify(self[len(_BEFORE) : -len(_AFTER)])


def leaf_of(record: bytes) -> bytes:
    """The leaf hash of a record, or of the one that was there."""
    return record.leaf if isinstance(record, Removed) else leaf_hash(record)


def is_thinned(path: Path) -> bool:
    return path.suffix == ".thin"


def whole_length(path: Path) -> int:
    """How many bytes a segment has, or had before it was thinned. Raises Damage."""
    if not is_thinned(path):
        return path.stat().st_size
    with opened(path) as descriptor:
        stop = os.fstat(descriptor).st_size
        frame = frame_at(descriptor, path, stop - OVERHEAD - _END.size, stop)
        if frame.kind != THINNED or len(frame.payload) != _END.size:
            raise Damage("the thinned segment has no end", path=str(path), offset=stop)
        return int(_END.unpack(frame.payload)[0])


def read_runs(descriptor: int, path: Path, start: int, stop: int, first: int, frontier: Frontier | None = None) -> Iterator[Run]:
    """As `scan`, for segments of both kinds; in one that was thinned, `Removed` stands where records were."""
    if not is_thinned(path):
        yield from scan(descriptor, path, start, stop, first, frontier)
        return
    try:
        yield from _scan_thinned(descriptor, str(path), start, stop, first, frontier)
    except Damage as damage:  # it was put in place whole, so it is never torn
        raise Damage(damage.message, path=str(path), offset=damage.offset) from None


def _scan_thinned(descriptor: int, name: str, start: int, stop: int, first: int, frontier: Frontier | None) -> Iterator[Run]:
    records: list[bytes] = []
    offsets: list[int] = []
    committed = size = first  # up to the last commit; up to here
    seal = last = frontier.seal() if frontier is not None else b""
    ended = False
    for kind, number, payload, offset, end in read_frames(descriptor, name, start, stop):
        note, wrong = b"", ended
        if kind in (RECORD, LEAF):
            wrong |= number != size or not payload or (kind == LEAF and len(payload) != HASH_SIZE)
            record = Removed.of(payload) if kind == LEAF else payload
            records.append(record)
            offsets.append(offset)
            size += 1
            if frontier is not None:
                seal = next_seal(seal, leaf_of(record))
        elif kind == COMMIT:
            last, note = payload[:HASH_SIZE], payload[HASH_SIZE:]
            wrong |= number != size or size == committed or (frontier is not None and last != seal)
            committed = size
        elif kind == THINNED:
            ended, wrong = True, wrong or number != committed or bool(records) or len(payload) != _END.size
        else:
            note = payload
            wrong |= kind == SEGMENT or number != committed or size != committed or not payload
        if wrong:
            raise Damage("the frame does not belong there", path=name, offset=offset)
        if note:
            if frontier is not None:
                frontier.extend([leaf_of(record) for record in records])
            yield Run(size - len(records), records, offsets, last, note, kind not in (COMMIT, CHECKPOINT), offset, end)
            records, offsets = [], []
    if not ended:
        raise Damage("the thinned segment has no end", path=name, offset=stop)


class Thinned(NamedTuple):
    """A segment that is ready to be replaced: by which file, of what digest, how many records that leaves out, and how many bytes."""

    path: Path
    digest: str
    removed: int
    saved: int


def thin_segment(path: Path, keep: Callable[[bytes], bool]) -> Thinned:
    """Write the thinned form of a finished segment beside it, durably. `path` itself is left alone. Raises Damage, OSError."""
    parts: list[bytes] = []
    removed = size = 0
    whole = hashlib.sha256()
    with opened(path) as descriptor:
        stop = os.fstat(descriptor).st_size
        for kind, number, payload, _, _ in read_frames(descriptor, str(path), 0, stop):
            frame = encode(kind, number, payload)
            whole.update(frame)
            if kind == RECORD:
                size = number + 1
                if not keep(payload):
                    removed += 1
                    frame = encode(LEAF, number, leaf_hash(payload))
            parts.append(frame)
    parts.append(encode(THINNED, size, _END.pack(stop, whole.digest())))
    data = b"".join(parts)
    target = thinned_path(path)
    replace_file(target, data, mode=0o400)
    return Thinned(target, "sha256:" + hashlib.sha256(data).hexdigest(), removed, stop - len(data))


def digest_of(path: Path) -> str:
    """The digest of a thinned segment's file, as its `retention` record names it. Raises Damage."""
    state = hashlib.sha256()
    with opened(path) as descriptor:
        at = 0
        while data := os.pread(descriptor, 1 << 20, at):
            state.update(data)
            at += len(data)
    return "sha256:" + state.hexdigest()
