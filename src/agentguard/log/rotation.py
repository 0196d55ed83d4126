"""Giving the log another key: the old one hands over in every shard, signs no more, and is gone.

The order, each step durable before the next:

 1. nobody writes: all shards and the manifest are locked
 2. the new key is made, `keys/log.next.pem`. From here on no guard opens the home until the rotation is through
 3. in every shard the old key signs a last checkpoint, then the record in which it hands over (handover.py) is written under a checkpoint
    of the new key
 4. the manifest, with both keys, signed by the new one
 5. the new key takes the place of the old, `keys/log.pem`

Interrupted anywhere, it is done again from the start and finds what it did already. It is through when the last shard has followed: then
whoever has the old key, and nothing else, can make nothing that the new key's holders would take for this log (docs/transparency.md).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentguard.errors import EvidenceUnavailable, InvalidInput
from agentguard.keys import KeyRing, LocalKey
from agentguard.log.handover import compose_handover
from agentguard.log.identity import LogKeys
from agentguard.log.layout import hold_lock, log_directory, shard_directory, try_lock
from agentguard.log.manifest import Manifest, manifest_path, read_manifest, write_manifest
from agentguard.log.recovery import recover
from agentguard.log.shard import ShardWriter

_SEGMENT_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Rotation:
    """What was done: the log with all its keys, and the shards in which the old one handed over."""

    keys: LogKeys
    shards: tuple[str, ...]


def rotate(home: Path, ring: KeyRing, *, by: str, reason: str = "", clock: Callable[[], int] = time.time_ns) -> Rotation:
    """Replace the log's key by a new one, or finish what an interrupted rotation began.

    `by` and `reason` stand in the record. Raises InvalidInput if there is no log, if somebody writes it, or if it is damaged;
    EvidenceUnavailable if the disk refuses.
    """
    try:
        with ExitStack() as locks:
            if not manifest_path(home).exists():
                raise InvalidInput("there is no log here", place=str(home), hint="a new home makes a new key by itself")
            locks.enter_context(hold_lock(log_directory(home) / "manifest.lock"))
            old, new = ring.log_succession()
            manifest = _manifest(home, old, new)
            held = {shard: _lock(home, shard, locks) for shard in manifest.shards}
            if new is None:
                for shard in held:
                    recover(home, shard, LogKeys(manifest.keys.name, (old.public,)))  # what cannot be opened is not handed over
                new = ring.begin_log_succession()
            if manifest.keys.current != new.public:
                handing = _Handing(home, old, new, manifest, by, reason, clock)
                for shard, lock in held.items():
                    handing.over(shard, lock)
                keys = LogKeys(manifest.keys.name, (*manifest.keys.keys, new.public))
                manifest = write_manifest(home, manifest.shards, new, keys)
            ring.end_log_succession()
            return Rotation(manifest.keys, manifest.shards)
    except OSError as error:
        raise EvidenceUnavailable(
            f"the log under {home} cannot be written: {error.strerror} (errno {error.errno}); mend that and rotate again"
        ) from error


def _manifest(home: Path, old: LocalKey, new: LocalKey | None) -> Manifest:
    """The manifest, which the new key may have signed already."""
    try:
        manifest = read_manifest(home, old.public)
    except InvalidInput:
        if new is None:
            raise
        manifest = read_manifest(home, new.public)
    if manifest is None:
        raise InvalidInput("the manifest of shards is missing", place=str(manifest_path(home)), hint="`agentguard log verify` says more")
    return manifest


def _lock(home: Path, shard: str, locks: ExitStack) -> int:
    """Hold a shard's lock until all is done."""
    lock = try_lock(shard_directory(home, shard) / "lock")
    if lock is None:
        hint = "stop the guards of this home first: they hold the old key"
        raise InvalidInput(f"shard {shard} is being written", place=str(home), hint=hint)
    locks.callback(os.close, lock)
    return lock


class _Handing:
    """Hands the shards over, one by one."""

    def __init__(
        self, home: Path, old: LocalKey, new: LocalKey, manifest: Manifest, by: str, reason: str, clock: Callable[[], int]
    ) -> None:
        self._home, self._old, self._new, self._manifest = home, old, new, manifest
        self._by, self._reason, self._clock = by, reason, clock
        self._either = LogKeys(manifest.keys.name, (old.public, new.public))
        self._floor = 0

    def over(self, shard: str, lock: int) -> None:
        """Raises InvalidInput, OSError, EvidenceUnavailable."""
        found = recover(self._home, shard, self._either)
        self._floor = max(self._floor, found.head.time_ns if found.head is not None else 0)
        if found.key == self._old.public:
            self._writer(shard, lock, self._old).close()
            found = recover(self._home, shard, self._either)
            record = compose_handover(
                found.origin,
                found.frontier.size,
                found.frontier.root(),
                self._old,
                self._new,
                time_ns=self._now(),
                identity=f"{os.urandom(8).hex()}00000001",
                by=self._by,
                reason=self._reason,
            )
            writer = self._writer(shard, lock, self._new)
            try:
                writer.append((record,))
            finally:
                writer.close()
        else:
            self._writer(shard, lock, self._new).close()

    def _writer(self, shard: str, lock: int, signer: LocalKey) -> ShardWriter:
        """A writer of the shard. It closes its own copy of the lock, and we keep ours."""
        mine = os.dup(lock)
        try:
            return ShardWriter(
                self._home,
                shard,
                mine,
                signer,
                recover(self._home, shard, self._either),
                self._manifest.reference,
                durability="fsync",
                segment_bytes=_SEGMENT_BYTES,
                clock=self._now,
            )
        except BaseException:
            os.close(mine)
            raise

    def _now(self) -> int:
        """The time, never before that of a checkpoint that is there."""
        return max(self._clock(), self._floor)
