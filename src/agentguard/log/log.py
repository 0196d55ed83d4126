"""The log as a process uses it: one home, one shard of it to write, however many processes and forks there are."""

from __future__ import annotations

import atexit
import errno
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from agentguard.errors import EvidenceUnavailable, InvalidInput
from agentguard.keys import Signer
from agentguard.log.group import LONGEST_QUEUE, PATIENCE, Done, Forsaken
from agentguard.log.heads import read_head, remembered
from agentguard.log.layout import (
    Durability,
    disclaim,
    head_path,
    hold_lock,
    log_directory,
    make_directory,
    new_shard_id,
    segments,
    shard_directories,
    shard_directory,
    sync_directory,
    try_lock,
)
from agentguard.log.manifest import Manifest, keys_of, manifest_path, read_manifest, write_manifest
from agentguard.log.reader import iter_entries
from agentguard.log.recovery import recover
from agentguard.log.shard import ShardWriter

SEGMENT_BYTES: Final = 64 << 20


class _Steady:
    """The clock, never behind itself or the latest checkpoint of the home: else the next opening would find a clock that went back in
    order."""

    __slots__ = ("_clock", "floor")

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self.floor = 0

    def __call__(self) -> int:
        now = self.floor = max(self._clock(), self.floor)  # two threads may see the same time
        return now


class Log:
    """An append-only Merkle log (DESIGN §8). `append` returns when the records are durable, or raises and nothing may run.

    Each open log holds one shard of its home, an idle one or a new one, so writers never wait for each other. A forked child gets a shard
    of its own with its first append. Use it as a context manager, or `close` it; a log that is dropped or open at exit signs its last
    checkpoint too, but correctness does not rest on that.
    """

    def __init__(
        self,
        home: Path,
        signer: Signer,
        durability: Durability,
        segment_bytes: int,
        clock: Callable[[], int],
        longest_queue: int,
        patience: float,
    ) -> None:
        self.home = home
        self.durability: Durability = durability
        self._signer = signer
        self._segment_bytes, self._longest_queue, self._patience = segment_bytes, longest_queue, patience
        self._clock = _Steady(clock)
        #: The latest time in any remembered checkpoint of this home when it was opened, in nanoseconds; 0 if there was none.
        self.last_time_ns = 0
        self._writer = self._take_shard()
        _OPEN.add(self)

    @classmethod
    def open(
        cls,
        home: str | Path,
        signer: Signer,
        *,
        durability: Durability = "fsync",
        segment_bytes: int = SEGMENT_BYTES,
        clock: Callable[[], int] = time.time_ns,
        longest_queue: int = LONGEST_QUEUE,
        patience: float = PATIENCE,
    ) -> Log:
        """Take an idle shard of `home` (and recover it) or add one.

        signer         the log key; every process on a home uses the same
        segment_bytes  a segment that has reached this size is sealed, and the next one started
        clock          nanoseconds since 1970
        longest_queue  at most so many appends wait for the disk in `fsync` durability; one more is refused
        patience       seconds that each may wait

        Raises InvalidInput if the log was damaged, cut or rolled back, EvidenceUnavailable if the disk refuses.
        """
        if durability not in ("fsync", "process"):
            raise InvalidInput(f"durability is 'fsync' or 'process', found {durability!r:.40}")
        return cls(Path(home), signer, durability, segment_bytes, clock, longest_queue, patience)

    @property
    def shard(self) -> str:
        """Id of the shard that this log writes."""
        return self._writer.shard

    @property
    def origin(self) -> str:
        """Origin line of the shard's checkpoints."""
        return self._writer.origin

    @property
    def size(self) -> int:
        """Number of acknowledged records in the shard."""
        return self._writer.size

    @property
    def poisoned(self) -> str | None:
        """Why every append is refused, or None."""
        return self._writer.poisoned

    def accept_clock(self) -> None:
        """Sign the wall clock's time again though it is behind `last_time_ns`: an operator vouches for it."""
        self._clock.floor = 0

    @property
    def blocking(self) -> bool:
        """Whether an append waits for the disk, so that an event loop must not call it: `append_async` is for that."""
        return self._current().blocking

    def append(self, *records: bytes, bounded: bool = True, forsaken: Forsaken | None = None) -> int:
        """Make records (1 to 65,535 bytes each) durable together and give the index of the first.

        bounded   whether it is refused when too many wait for the disk or for too long. False for what happened already, which has to be
                  recorded whatever it takes; then a cancellation waits, too
        forsaken  is told what became of records whose caller gave up, by a deadline, a cancellation or an interrupt: True, they are
                  durable after all; False, they were never written. Perhaps twice, in any thread; it must not wait for the log

        Raises EvidenceUnavailable if that failed, and from then on until the log is opened anew; LogBusy if only these found no room;
        InvalidInput for a record it cannot hold.
        """
        writer = self._writer
        if os.getpid() != writer.pid:
            writer = self._after_fork()
        return writer.append(records, bounded, forsaken)

    async def append_async(self, *records: bytes, bounded: bool = True, forsaken: Forsaken | None = None) -> int:
        """The same for a coroutine of asyncio: where an append waits for the disk, its event loop does not."""
        return await self._current().append_async(records, bounded, forsaken)

    def submit(self, *records: bytes, done: Done) -> None:
        """Have records made durable without waiting. `done` is told the index of the first, or in words why they will not be.

        It may be called in any thread, and must not wait for the log.
        """
        self._current().submit(records, done)

    def checkpoint(self) -> bytes:
        """Sign, make durable and remember the shard's tree head now: a C2SP checkpoint. Raises EvidenceUnavailable."""
        return self._current().checkpoint()

    def poison(self, why: str) -> None:
        """Refuse every append from here on: something outside knows that this log cannot be complete. Waits for nothing."""
        self._writer.poison(why)

    def records(self, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """(index, record) of this shard's committed records from index `start` on. Raises InvalidInput for damage."""
        for entry in iter_entries(self.home, self.shard, start):
            yield entry.index, entry.record

    def close(self) -> None:
        """Sign the final checkpoint and give the shard up for others. A second call does nothing. Raises EvidenceUnavailable."""
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        writer = getattr(self, "_writer", None)
        if writer is not None:
            writer.abandon()

    def _current(self) -> ShardWriter:
        """The writer of this process."""
        return self._writer if self._writer.pid == os.getpid() else self._after_fork()

    def _after_fork(self) -> ShardWriter:
        """The parent keeps its shard; this process takes another, and only closes its copies of the parent's descriptors."""
        with _reopening:
            writer = self._writer
            if writer.pid != os.getpid():
                why = writer.poisoned
                writer.close()
                writer = self._writer = self._take_shard()
                if why is not None:
                    writer.poison(why)
            return writer

    def _take_shard(self) -> ShardWriter:
        try:
            make_directory(log_directory(self.home))
            make_directory(head_path(self.home, "x").parent)
            manifest = self._survey()
            if manifest is not None:
                for shard in manifest.shards:
                    lock = try_lock(shard_directory(self.home, shard) / "lock")
                    if lock is not None:
                        return self._writer_of(shard, lock, manifest)
            return self._add_shard()
        except OSError as error:
            raise EvidenceUnavailable(
                f"the log under {self.home} cannot be opened: {error.strerror} (errno {error.errno}); mend that and open the guard anew"
            ) from error

    def _survey(self) -> Manifest | None:
        """Hold manifest, heads and directories against each other. Raises InvalidInput where they contradict.

        What the manifest promises is written after it (and checked against what was read before it), so a shard that is being added by
        another process at this moment is no contradiction.
        """
        keys = keys_of(self.home, self._signer.public)
        found = [shard for shard in shard_directories(self.home) if segments(shard_directory(self.home, shard))]
        known = {shard: head for shard in remembered(self.home) if (head := read_head(self.home, shard, keys)) is not None}
        manifest = read_manifest(self.home, keys)
        listed = manifest.shards if manifest else ()
        place = str(manifest_path(self.home))
        for shard in sorted({*found, *known}.difference(listed)):
            raise InvalidInput(f"shard {shard} has left traces, but the manifest of shards does not list it", place=place, hint=_VERIFY)
        for shard in sorted(set(found).difference(known)):
            raise InvalidInput(f"shard {shard} has records, but no remembered head", place=str(head_path(self.home, shard)), hint=_VERIFY)
        for shard, head in known.items():
            if manifest is not None and not manifest.follows(head.manifest):
                raise InvalidInput(
                    f"the manifest has version {manifest.version}, but shard {shard} has seen another of version {head.manifest[0]}: "
                    "it was rolled back",
                    place=place,
                    hint=_VERIFY,
                )
            self.last_time_ns = max(self.last_time_ns, head.time_ns)
        self._clock.floor = self.last_time_ns
        for shard in listed:
            if not os.path.isdir(shard_directory(self.home, shard)):
                raise InvalidInput(f"shard {shard} is in the manifest, but its directory is gone", place=place, hint=_VERIFY)
        return manifest

    def _add_shard(self) -> ShardWriter:
        """Directory and lock first, then the manifest, then head and segment: a crash in between leaves nothing that looks like a loss."""
        with hold_lock(log_directory(self.home) / "manifest.lock"):
            manifest = read_manifest(self.home, self._signer.public)
            listed = manifest.shards if manifest else ()
            # A directory that is not listed while we hold the manifest's lock is one that somebody could not finish adding.
            lock = None
            for shard in (*(name for name in shard_directories(self.home) if name not in listed), new_shard_id()):
                directory = shard_directory(self.home, shard)
                directory.mkdir(mode=0o700, exist_ok=True)
                lock = try_lock(directory / "lock")
                if lock is not None:
                    break
            if lock is None:
                raise OSError(errno.EAGAIN, "the new shard's lock is taken", str(directory))
            sync_directory(log_directory(self.home))
            manifest = write_manifest(self.home, (*listed, shard), self._signer, manifest.keys if manifest else None)
        return self._writer_of(shard, lock, manifest)

    def _writer_of(self, shard: str, lock: int, manifest: Manifest) -> ShardWriter:
        """A writer for a shard whose lock we hold; the lock is given up if there can be none."""
        writer = None
        try:
            writer = ShardWriter(
                self.home,
                shard,
                lock,
                self._signer,
                recover(self.home, shard, self._signer.public),
                manifest.reference,
                durability=self.durability,
                segment_bytes=self._segment_bytes,
                clock=self._clock,
                longest_queue=self._longest_queue,
                patience=self._patience,
            )
        finally:
            if writer is None:
                disclaim(lock)
                os.close(lock)
        return writer


_VERIFY: Final = "`agentguard log verify` lists what is missing; keep a copy of the home for inquiry"
_OPEN: weakref.WeakSet[Log] = weakref.WeakSet()
_reopening = threading.Lock()


def _in_forked_child() -> None:
    global _reopening
    _reopening = threading.Lock()  # another thread of the parent may have held it when it forked


@atexit.register
def _close_all() -> None:
    for log in list(_OPEN):
        with suppress(EvidenceUnavailable):  # the records are safe; `log verify` shows that their last checkpoint is missing
            log.close()


os.register_at_fork(after_in_child=_in_forked_child)
