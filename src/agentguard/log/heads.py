"""Signed tree heads of a shard, and the file outside the log that remembers the last one.

Besides origin, size and root each checkpoint says when it was signed, which manifest of shards its writer knew, and whether it is the last
word of a writer that closed properly:

    time <nanoseconds since 1970, 19 digits>
    manifest <version> <base64 SHA-256 of the manifest file>
    state open | state shut

The remembered head is written after the checkpoint is durable in the segment, so after an accident it may be behind, never ahead: a
segment that holds less than the head says was cut or rolled back. A head is final only when the segment ends with that final checkpoint,
so a head that is older than a final checkpoint was rolled back itself. It binds accidents, not the owner of the disk: only a witness does
(DESIGN §11).
"""

from __future__ import annotations

import errno
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentguard.errors import InvalidInput
from agentguard.keys import PublicKey
from agentguard.log.checkpoint import Checkpoint, open_checkpoint_by
from agentguard.log.identity import LogKeys
from agentguard.log.layout import head_path, is_shard_id, names_in, read_small, replace_file
from agentguard.log.manifest import keys_of

_EXTENSIONS = re.compile(
    r"time (?P<time>[0-9]{19})\nmanifest (?P<version>[1-9][0-9]{0,8}) (?P<digest>[A-Za-z0-9+/]{43}=)\nstate (?P<state>open|shut)"
)
_READ_AGAIN: Final = 5


@dataclass(frozen=True, slots=True)
class Head:
    """A verified checkpoint of a shard. `note` is its bytes as signed; times are nanoseconds; `manifest` is (version, base64 digest); `key`
    is the one that signed it."""

    note: bytes
    size: int
    root: bytes
    time_ns: int
    manifest: tuple[int, str]
    final: bool
    key: PublicKey


def compose(origin: str, size: int, root: bytes, *, time_ns: int, manifest: tuple[int, str], final: bool) -> Checkpoint:
    """The checkpoint to sign."""
    version, digest = manifest
    return Checkpoint(origin, size, root, (f"time {time_ns:019d}", f"manifest {version} {digest}", "state shut" if final else "state open"))


def open_head(note: bytes, keys: LogKeys, shard: str) -> Head:
    """Verify a shard's checkpoint, which one of the log's keys signed. Raises InvalidInput."""
    checkpoint, key = open_checkpoint_by(note, keys.keys, keys.origin(shard))
    match = _EXTENSIONS.fullmatch("\n".join(checkpoint.extensions))
    if match is None:
        raise InvalidInput("the checkpoint's extension lines are not time, manifest and state")
    return Head(
        note,
        checkpoint.size,
        checkpoint.root,
        int(match["time"]),
        (int(match["version"]), match["digest"]),
        match["state"] == "shut",
        key,
    )


def read_head(home: Path, shard: str, key: PublicKey | LogKeys) -> Head | None:
    """The remembered head of a shard, or None if there is none. Raises InvalidInput if it is damaged or signed by another key.

    A live writer overwrites the file in place, so a reader may meet it half written, and looks again before it complains.
    """
    path, keys = head_path(home, shard), keys_of(home, key)
    problem, before = "", None
    for _ in range(_READ_AGAIN):
        note = read_small(path)
        if note is None:
            return None
        note = note.rstrip(b"\0")  # a power cut may leave the length that a newer, longer head was to have, and zeros for what it adds
        try:
            return open_head(note, keys, shard)
        except InvalidInput as error:
            problem = error.message
            if note == before:
                break
            before = note
            time.sleep(0.001)
    raise InvalidInput(f"the remembered head is damaged or not of this log: {problem}", place=str(path))


def remembered(home: Path) -> list[str]:
    """Ids of all shards that a head is remembered of."""
    return list(filter(is_shard_id, names_in(head_path(home, ""))))


def create_head(home: Path, shard: str, note: bytes) -> None:
    """Remember a shard's first head, whole or not at all. Raises OSError."""
    replace_file(head_path(home, shard), note)


class HeadFile:
    """The file of one shard's remembered head, kept open by its writer."""

    __slots__ = ("_descriptor",)

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)

    def write(self, note: bytes, *, sync: bool = False) -> None:
        """Replace the head in place. Raises OSError.

        No part of a head ever gets shorter, and all of it fits one disk sector: one write replaces it, and a power cut leaves old or new.
        """
        if os.pwrite(self._descriptor, note, 0) != len(note):
            raise OSError(errno.EIO, "the remembered head was written in part")
        if sync:
            os.fsync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)
