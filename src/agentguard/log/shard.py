"""One shard and its one writer: appends, signs checkpoints, remembers heads, starts new segments.

The order of things is the promise. A record is acknowledged when one write has taken its frame and the commit frame behind it, and in
`fsync` durability a fdatasync returned. A head is remembered after the checkpoint it repeats is durable. The writer says that it is
*writing* before it starts and takes that back after it succeeded, so whatever interrupts it - an error, a signal, a signer that raises -
leaves it refusing. Who writes when several want to is settled in group.py.
"""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import get_ident
from typing import Final

from agentguard.errors import EvidenceUnavailable, InvalidInput, LogBusy
from agentguard.keys import Signer
from agentguard.log import heads
from agentguard.log.checkpoint import NoteSigner
from agentguard.log.frames import CHECKPOINT, FINAL, MAX_PAYLOAD, encode, encode_append
from agentguard.log.group import LONGEST_QUEUE, PATIENCE, Done, Forsaken, Group, GroupCommit
from agentguard.log.layout import (
    Durability,
    claim,
    datasync,
    disclaim,
    head_path,
    seal_segment,
    segment_name,
    segments,
    shard_directory,
    sync_directory,
    write_all,
)
from agentguard.log.merkle import Frontier, leaf_hash, next_seal
from agentguard.log.recovery import Recovered
from agentguard.log.scan import encode_segment_head

MAX_RECORD: Final = MAX_PAYLOAD
#: In `process` durability a signed checkpoint follows a record within 100 ms; the thread wakes a little earlier.
_LAG_SECONDS: Final = 0.08
_write: Final = os.write
_INTERRUPTED: Final = "an append was interrupted before it finished"
_CLOSED: Final = "the log is closed"


class ShardWriter:
    """Appends to one shard, whose lock the caller took. Safe under threads; another process must not use it (see `Log`)."""

    def __init__(
        self,
        home: Path,
        shard: str,
        lock: int,
        signer: Signer,
        recovered: Recovered,
        manifest: tuple[int, str],
        *,
        durability: Durability,
        segment_bytes: int,
        clock: Callable[[], int],
        longest_queue: int = LONGEST_QUEUE,
        patience: float = PATIENCE,
    ) -> None:
        """Drops what an unfinished append left behind. Raises OSError."""
        self.shard = shard
        self.origin = recovered.origin
        self.pid = os.getpid()
        self._directory = shard_directory(home, shard)
        self._lock_file = lock
        self._signer = NoteSigner(signer, self.origin)
        self._manifest = manifest
        self._fsync = durability == "fsync"
        self._limit = segment_bytes
        self._clock = clock
        self._group = GroupCommit(self._commit, name=f"agentguard-log-{shard}", longest=longest_queue, patience=patience)
        self._frontier = recovered.frontier  # up to where the tree was last needed; `_leaves` come behind it
        self._leaves: list[bytes] = []
        self._size, self._seal = recovered.frontier.size, recovered.seal
        self._writing = False
        self._poison: str | None = None
        self._closed = False
        self._dirty = False  # records that no checkpoint covers
        self._turn, self._remembered = 0, 0  # the latest checkpoint that was signed, and remembered: no older head replaces a newer one
        self._wake, self._stop = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._abandoned = False
        claim(lock)
        if recovered.unborn is not None:
            recovered.unborn.unlink()
        if recovered.head is None:
            heads.create_head(home, shard, self._sign(final=False))
        self._head = heads.HeadFile(head_path(home, shard))
        if recovered.segment is None:
            self._descriptor, self._offset = self._start_segment(0)
        else:
            self._descriptor = os.open(recovered.segment, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            self._offset = recovered.end
            if recovered.dropped:
                os.ftruncate(self._descriptor, recovered.end)
            self._seal_finished()
            if not recovered.final:  # a killed writer may have left a commit that it never synced
                os.fsync(self._descriptor)
        self._ended = self._offset if recovered.final else -1  # nothing to add at close while nothing was written

    @property
    def size(self) -> int:
        """Number of acknowledged records."""
        return self._size

    @property
    def poisoned(self) -> str | None:
        """Why nothing can be appended, or None."""
        return self._poison or (_INTERRUPTED if self._writing and not self._group.lead.locked() else None)

    @property
    def blocking(self) -> bool:
        """Whether an append waits for the disk."""
        return self._fsync or self._offset >= self._limit

    def append(self, records: tuple[bytes, ...], bounded: bool = True, forsaken: Forsaken | None = None) -> int:
        """Make records durable together; the index of the first. Raises EvidenceUnavailable, InvalidInput. See `Log.append`."""
        for record in records:  # as `_check`, which takes a tenth of a microsecond more
            if type(record) is not bytes or not 0 < len(record) <= MAX_RECORD:
                _check(records)
        group = self._group
        if group.waiting or group.leader or not records:
            _check(records)
            if group.led_here:
                if forsaken is not None:
                    forsaken(False)
                raise LogBusy("this thread is in the middle of writing another record")
            if self._fsync:
                return group.wait(records, bounded=bounded, forsaken=forsaken)
        try:
            with group.lead:
                group.leader = get_ident()
                try:
                    return self._commit(records)
                finally:
                    group.leader = 0
        finally:
            if group.waiting:
                group.pass_on()

    async def append_async(self, records: tuple[bytes, ...], bounded: bool = True, forsaken: Forsaken | None = None) -> int:
        """The same for a coroutine of asyncio: its event loop does not wait."""
        loop = _running_loop() if self.blocking else None
        if loop is None:
            return self.append(records, bounded, forsaken)
        _check(records)
        return await self._group.wait_async(records, loop, bounded=bounded, forsaken=forsaken)

    def submit(self, records: tuple[bytes, ...], done: Done) -> None:
        """Have records made durable without waiting for it."""
        _check(records)
        self._group.submit(records, done)

    def _commit(self, records: Sequence[bytes], group: Group | None = None) -> int:
        """Write records, one commit frame behind them, and wait until they are durable; the holder of the lead calls it.

        The group is answered as soon as that is certain, and before the writer is fit to go on: if an interrupt falls between the two, what
        is durable is acknowledged, and nothing more is written.
        """
        if self._poison is not None or self._writing:
            raise self._refusal()
        self._writing = True
        try:
            if self._offset >= self._limit:
                self._rotate()
            if not self._fsync and self._thread is None and not self._dirty:
                self._start_checkpointer()
            first, seal = self._size, self._seal
            for record in records:
                leaf = leaf_hash(record)
                seal = next_seal(seal, leaf)
                self._leaves.append(leaf)
            if self._fsync:
                note = self._sign(final=False)
                self._write(encode_append(first, records, seal + note))
                datasync(self._descriptor)
                self._remember(note, self._turn)
            else:
                self._write(encode_append(first, records, seal))
        except Exception as error:
            raise self._failed(error) from error
        self._size, self._seal = first + len(records), seal
        if group is not None:
            group.answer = first
        self._writing = False
        if not self._dirty:
            self._dirty = True
            self._wake.set()
        return first

    def checkpoint(self) -> bytes:
        """Sign the tree as it stands, make it durable and remember it: the signed note. Raises EvidenceUnavailable."""
        with self._group.leading():
            if self._poison is not None or self._writing:
                raise self._refusal()
            self._writing = True
            try:
                note = self._put_checkpoint(final=False)
                descriptor = os.dup(self._descriptor)  # a rotation may close ours while we wait for the disk
            except Exception as error:
                raise self._failed(error) from error
            turn = self._turn
            self._writing = False
        try:
            datasync(descriptor)
            with self._group.leading():
                if not self._closed:
                    self._remember(note, turn)
        except OSError as error:
            raise self._failed(error) from error
        finally:
            os.close(descriptor)
        return note

    def poison(self, why: str) -> None:
        """Refuse every append from here on. Does not wait for one that is under way."""
        self._poison = self._poison or why

    def close(self) -> None:
        """Sign the final checkpoint, remember it durably and give the shard up. Raises EvidenceUnavailable if that cannot be done."""
        if os.getpid() != self.pid:
            self._release()
            return
        self._stop.set()
        self._wake.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        if self._group.led_here:
            raise EvidenceUnavailable("the log cannot be closed by a thread that is in the middle of writing a record")
        try:
            self._close()
        finally:
            self._group.stop()

    def _close(self) -> None:
        with self._group.leading():
            if self._closed:
                return
            healthy = self._poison is None and not self._writing
            self._poison = _CLOSED
            try:
                if healthy and self._offset != self._ended:
                    # Twice, so that no moment exists at which a crash looks like a tampered head: the second is final only after the
                    # first is remembered.
                    for final in (False, True):
                        note = self._put_checkpoint(final=final)
                        datasync(self._descriptor)
                        self._remember(note, self._turn, sync=True)
            except Exception as error:
                raise self._failed(error) from error
            finally:
                self._release()

    def abandon(self) -> None:
        """Close without waiting for another thread, from wherever the garbage collector happens to run."""
        if self._closed:
            return
        if os.getpid() == self.pid and self._thread is not None:
            self._abandoned = True  # the checkpointer closes
            self._stop.set()
            self._wake.set()
        elif os.getpid() == self.pid and self._group.lead.locked():
            threading.Thread(target=self.close, name=f"agentguard-close-{self.shard}").start()
        else:
            self.close()

    def _release(self) -> None:
        """Close our descriptors. In a forked child these are copies: the parent's lock stays."""
        if not self._closed:
            self._closed = True
            if os.getpid() == self.pid:
                disclaim(self._lock_file)
            for descriptor in (self._descriptor, self._lock_file):
                os.close(descriptor)
            self._head.close()

    def _tree(self) -> Frontier:
        """The tree as it stands."""
        self._frontier.extend(self._leaves)
        self._leaves.clear()
        return self._frontier

    def _sign(self, *, final: bool) -> bytes:
        frontier = self._tree()
        self._turn += 1
        checkpoint = heads.compose(self.origin, frontier.size, frontier.root(), time_ns=self._clock(), manifest=self._manifest, final=final)
        return self._signer.sign(checkpoint.text())

    def _put_checkpoint(self, *, final: bool) -> bytes:
        note = self._sign(final=final)
        self._write(encode(FINAL if final else CHECKPOINT, self._size, note))
        self._dirty = False
        return note

    def _remember(self, note: bytes, turn: int, *, sync: bool = False) -> None:
        """Remember a head that is durable, unless a newer one is remembered already. Raises OSError."""
        if turn > self._remembered:
            self._head.write(note, sync=sync)
            self._remembered = turn

    def _write(self, data: bytes) -> None:
        size = len(data)
        written = _write(self._descriptor, data)
        if written != size:
            write_all(self._descriptor, data[written:])
        self._offset += size

    def _rotate(self) -> None:
        """Seal the segment behind a durable checkpoint and start the next."""
        note = self._put_checkpoint(final=False)
        datasync(self._descriptor)
        self._remember(note, self._turn)
        descriptor, offset = self._start_segment(self._offset)
        os.close(self._descriptor)
        self._descriptor, self._offset = descriptor, offset

    def _start_segment(self, previous: int) -> tuple[int, int]:
        frontier = self._tree()
        self._seal = frontier.seal()
        path = self._directory / segment_name(self._size)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        head = encode_segment_head(self.shard, frontier, previous)
        write_all(descriptor, head)
        os.fsync(descriptor)
        sync_directory(self._directory)
        self._seal_finished()
        return descriptor, len(head)

    def _seal_finished(self) -> None:
        """Every segment but the last is read-only from here on."""
        for _, path in segments(self._directory)[:-1]:
            if path.stat().st_mode & 0o222:
                seal_segment(path)

    def _failed(self, error: Exception) -> EvidenceUnavailable:
        number = error.errno or 0 if isinstance(error, OSError) else 0
        words = (
            f"{error.strerror or error} (errno {number} {errno.errorcode.get(number, 'unknown')})"
            if isinstance(error, OSError)
            else repr(error)
        )
        self._poison = f"{self._directory}: {words}"
        return self._refusal()

    def _refusal(self) -> EvidenceUnavailable:
        return EvidenceUnavailable(
            f"the log cannot promise that a record is durable: {self._poison or _INTERRUPTED}; "
            "no call runs until the cause is mended and the guard is opened anew"
        )

    def _start_checkpointer(self) -> None:
        """Raises RuntimeError where there can be no more threads; then nothing is written that would wait for its checkpoint in vain."""
        thread = threading.Thread(target=self._run, name=f"agentguard-checkpoint-{self.shard}", daemon=True)
        thread.start()
        self._thread = thread

    def _run(self) -> None:
        """The checkpointer of `process` durability: sleeps until something is uncovered, then signs once for all of it."""
        while not self._stop.is_set():  # `close` sets stop, then wake; clearing wake below must not lose it
            self._wake.wait()
            if self._stop.wait(_LAG_SECONDS):
                break
            self._wake.clear()
            try:
                self.checkpoint()
            except EvidenceUnavailable:
                break  # poisoned: the next append says so
        if self._abandoned:
            self.close()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:  # somebody else's event loop: it waits, as for anything that knows asyncio only
        return None


def _check(records: tuple[bytes, ...]) -> None:
    for record in records:
        if type(record) is not bytes or not 0 < len(record) <= MAX_RECORD:
            raise InvalidInput(f"a record is 1 to {MAX_RECORD} bytes")
    if not records:
        raise InvalidInput("there is nothing to append")
