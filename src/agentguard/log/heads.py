"""Signed tree heads of a shard, and the file outside the log that remembers the last one.

Besides origin, size and root each checkpoint says when it was signed, which manifest of shards its writer knew, and whether it is the last
word of a writer that closed properly:

    time <nanoseconds since 1970>
    manifest <version> <base64 SHA-256 of the manifest file>
    state open | state final

The remembered head is written after the checkpoint is durable in the segment, so after an accident it may be behind, never ahead: a
segment that holds less than the head says was cut or rolled back. A head is final only when the segment ends with that final checkpoint,
so a head that is older than a final checkpoint was rolled back itself. It binds accidents, not the owner of the disk: only a witness does
(DESIGN §11).
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentguard.checkpoint import Checkpoint, open_checkpoint
from agentguard.errors import InvalidInput
from agentguard.keys import PublicKey
from agentguard.log.layout import head_path, is_shard_id, origin_of, read_small, write_all

_EXTENSIONS = re.compile(
    r"time (?P<time>0|[1-9][0-9]{0,18})\nmanifest (?P<version>[1-9][0-9]{0,8}) (?P<digest>[A-Za-z0-9+/]{43}=)\nstate (?P<state>open|final)"
)
_READ_AGAIN: Final = 5


@dataclass(frozen=True, slots=True)
class Head:
    """A verified checkpoint of a shard. `note` is its bytes as signed; times are nanoseconds; `manifest` is (version, base64 digest)."""

    note: bytes
    size: int
    root: bytes
    time_ns: int
    manifest: tuple[int, str]
    final: bool


def compose(origin: str, size: int, root: bytes, *, time_ns: int, manifest: tuple[int, str], final: bool) -> Checkpoint:
    """The checkpoint to sign."""
    version, digest = manifest
    return Checkpoint(origin, size, root, (f"time {time_ns}", f"manifest {version} {digest}", "state final" if final else "state open"))


def open_head(note: bytes, public: PublicKey, origin: str) -> Head:
    """Verify a shard's checkpoint. Raises InvalidInput."""
    checkpoint = open_checkpoint(note, public, origin)
    match = _EXTENSIONS.fullmatch("\n".join(checkpoint.extensions))
    if match is None:
        raise InvalidInput("the checkpoint's extension lines are not time, manifest and state")
    return Head(
        note,
        checkpoint.size,
        checkpoint.root,
        int(match["time"]),
        (int(match["version"]), match["digest"]),
        match["state"] == "final",
    )


def read_head(home: Path, shard: str, public: PublicKey) -> Head | None:
    """The remembered head of a shard, or None if there is none. Raises InvalidInput if it is damaged or signed by another key.

    A live writer overwrites the file in place, so a reader may meet it half written, and looks again before it complains.
    """
    path = head_path(home, shard)
    problem, before = "", None
    for _ in range(_READ_AGAIN):
        note = read_small(path)
        if note is None:
            return None
        try:
            return open_head(note, public, origin_of(public, shard))
        except InvalidInput as error:
            problem = error.message
            if note == before:
                break
            before = note
            time.sleep(0.001)
    raise InvalidInput(f"the remembered head is damaged or not of this log: {problem}", place=str(path))


def remembered(home: Path) -> list[str]:
    """Ids of all shards that a head is remembered of."""
    try:
        return sorted(filter(is_shard_id, os.listdir(head_path(home, ""))))
    except FileNotFoundError:
        return []


class HeadFile:
    """The file of one shard's remembered head, kept open by its writer."""

    __slots__ = ("_descriptor", "_length")

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._length = os.fstat(self._descriptor).st_size

    def write(self, note: bytes, *, sync: bool = False) -> None:
        """Replace the head in place. It fits one disk sector, so a power cut leaves the old or the new one. Raises OSError."""
        if os.pwrite(self._descriptor, note, 0) != len(note):
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            write_all(self._descriptor, note)
        if len(note) < self._length:
            os.ftruncate(self._descriptor, len(note))
        self._length = len(note)
        if sync:
            os.fsync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)
