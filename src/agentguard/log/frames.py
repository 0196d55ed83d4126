"""The bytes of a segment: frames, one after the other, from the first byte of the file to the last (docs/log-format.md).

    offset  size  field
    0       2     magic     ff 61. The byte ff occurs in no UTF-8 text, so no record can imitate a frame
    2       1     kind      S segment, R record, C commit, K checkpoint, F final checkpoint; in thinned segments L leaf, T end
    3       1     version   1
    4       2     length    of the payload, big-endian
    6       2     inverse   length xor ffff: a damaged length is told from a write that stopped in the middle
    8       8     index     S: index of the segment's first record; R, L: of this record; C, K, F, T: number of records so far
    16      n     payload
    16+n    4     crc32     of everything before it (zlib's)
    20+n    1     end       0a: a frame never ends in a zero byte, so a tail that was never written is told from damage

`read_frames` trusts nothing: whatever is not a whole, intact frame ends it with `Damage`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Final, NamedTuple
from zlib import crc32

from agentguard.errors import InvalidInput

MAGIC: Final = b"\xffa"
VERSION: Final = 1
END: Final = 0x0A
SEGMENT, RECORD, COMMIT, CHECKPOINT, FINAL, LEAF, THINNED = (ord(letter) for letter in "SRCKFLT")
_KINDS: Final = frozenset({SEGMENT, RECORD, COMMIT, CHECKPOINT, FINAL, LEAF, THINNED})
_BEGIN: Final = {kind: MAGIC + bytes([kind, VERSION]) for kind in _KINDS}
_RECORD, _COMMIT = _BEGIN[RECORD], _BEGIN[COMMIT]

HEAD: Final = Struct(">2sBBHHQ")
TAIL: Final = Struct(">IB")
_pack_head, _pack_tail = Struct(">4sHHQ").pack, TAIL.pack  # magic, kind and version are one constant for each kind
OVERHEAD: Final = HEAD.size + TAIL.size
MAX_PAYLOAD: Final = 0xFFFF
LARGEST: Final = OVERHEAD + MAX_PAYLOAD
_CHUNK: Final = 1 << 20


class Damage(InvalidInput):
    """A segment cannot be read on from `offset` of `path`.

    `torn`: what stands there is what an append leaves behind that never finished: the beginning of frames without a commit, at the very
    end of the file. Nobody was told that it is durable. Everything else is damage to acknowledged bytes.
    """

    def __init__(self, message: str, *, path: str, offset: int, torn: bool = False) -> None:
        self.path = path
        self.offset = offset
        self.torn = torn
        hint = "the writer stopped in the middle of an append" if torn else "keep a copy of the home for inquiry before anything is mended"
        super().__init__(message, place=f"{path}: byte {offset}", hint=hint)


class Frame(NamedTuple):
    """One frame as read: its payload and the file offsets of its first byte and of the byte after its last."""

    kind: int
    number: int  # what the field `index` holds
    payload: bytes
    offset: int
    end: int


def encode_append(first: int, records: Sequence[bytes], commit: bytes) -> bytes:
    """The bytes of one append: the records from index `first` on, and the commit frame that makes them count."""
    if len(records) == 1:  # nearly always: no list, and one join
        (record,) = records
        size = len(record)
        body = _pack_head(_RECORD, size, size ^ MAX_PAYLOAD, first) + record
        size = len(commit)
        end = _pack_head(_COMMIT, size, size ^ MAX_PAYLOAD, first + 1) + commit
        return b"".join((body, _pack_tail(crc32(body), END), end, _pack_tail(crc32(end), END)))
    parts = [encode(RECORD, first + at, record) for at, record in enumerate(records)]
    return b"".join((*parts, encode(COMMIT, first + len(records), commit)))


def encode(kind: int, index: int, payload: bytes) -> bytes:
    """The frame's bytes. `payload` has at most 65,535 bytes."""
    length = len(payload)
    body = _pack_head(_BEGIN[kind], length, length ^ MAX_PAYLOAD, index) + payload
    return body + _pack_tail(crc32(body), END)


def read_frames(descriptor: int, path: str, start: int, stop: int) -> Iterator[Frame]:
    """Every frame from byte `start` up to `stop`. Raises Damage at the first byte that is not part of an intact frame.

    The file is read in chunks, never mapped: a mapped file that somebody shortens kills the process.
    """
    buffer, at, base = b"", 0, start  # `base` is the file offset of buffer[0]
    while base + at < stop:
        missing = stop - base - len(buffer)
        if missing and len(buffer) - at < LARGEST:
            fresh = os.pread(descriptor, min(_CHUNK, missing), base + len(buffer))
            if not fresh:
                raise Damage("the file became shorter while it was read", path=path, offset=base + at)
            buffer, base, at = buffer[at:] + fresh, base + at, 0
            continue
        problem = ""
        if len(buffer) - at < OVERHEAD:
            problem = "not a whole frame"
        else:
            magic, kind, version, length, inverse, index = HEAD.unpack_from(buffer, at)
            end = at + OVERHEAD + length
            if magic != MAGIC or kind not in _KINDS or version != VERSION or length ^ inverse != MAX_PAYLOAD:
                problem = "not a frame of a known kind"
            elif end > len(buffer):
                problem = "not a whole frame"
            else:
                body = buffer[at : end - TAIL.size]
                if TAIL.unpack_from(buffer, end - TAIL.size) != (crc32(body), END):
                    problem = "the checksum of the frame is wrong"
        if problem:
            offset = base + at
            raise Damage(problem, path=path, offset=offset, torn=_never_finished(descriptor, offset, stop))
        yield Frame(kind, index, body[HEAD.size :], base + at, base + end)
        at = end


def _never_finished(descriptor: int, offset: int, stop: int) -> bool:
    """Whether the bytes from `offset` to `stop` are the beginning of one frame that was cut off, perhaps followed by unwritten zeros.

    Cut off means: nothing intact follows, and what is there is consistent with a frame that reaches beyond it. A frame that is there in
    full and does not match its checksum was changed, not cut.
    """
    rest = os.pread(descriptor, LARGEST, offset)[: stop - offset]
    position = offset + len(rest)
    while position < stop:  # beyond one frame's length only zeros may follow
        chunk = os.pread(descriptor, min(_CHUNK, stop - position), position)
        if chunk.strip(b"\0") or not chunk:
            return False
        position += len(chunk)
    rest = rest.rstrip(b"\0")
    if _holds_a_frame(rest):
        return False
    if len(rest) < HEAD.size:
        known = HEAD.pack(MAGIC, 0, VERSION, 0, 0, 0)
        return rest[:2] == known[: len(rest[:2])] and (len(rest) < 3 or rest[2] in _KINDS) and (len(rest) < 4 or rest[3] == VERSION)
    magic, kind, version, length, inverse, _ = HEAD.unpack_from(rest)
    consistent = magic == MAGIC and kind in _KINDS and version == VERSION and length ^ inverse == MAX_PAYLOAD
    return consistent and len(rest) < OVERHEAD + length


def _holds_a_frame(data: bytes) -> bool:
    """Whether an intact frame starts anywhere in `data`."""
    at = data.find(MAGIC)
    while at >= 0:
        if len(data) - at >= OVERHEAD:
            length = HEAD.unpack_from(data, at)[3]
            body = data[at : at + HEAD.size + length]
            if len(data) - at >= OVERHEAD + length and TAIL.unpack_from(data, at + len(body)) == (crc32(body), END):
                return True
        at = data.find(MAGIC, at + 1)
    return False
