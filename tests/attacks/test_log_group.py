"""Attacks on group commit, and faults in mid load: what fails must deny, what is interrupted must strand nobody, and nothing may be
acknowledged that is not durable (PITFALLS: lying write, audit after the fact, fork)."""

from __future__ import annotations

import asyncio
import ctypes
import linecache
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

import pytest

from agentguard.errors import EvidenceUnavailable
from agentguard.log import Durability, Log, group, iter_records, verify
from agentguard.log.layout import shard_directory, try_lock
from support.disks import Caller, Disk, queued, until
from support.logs import KEY, fresh, open_log, small

BOTH: tuple[Durability, ...] = ("fsync", "process")


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk(monkeypatch)
    yield disk
    disk.free()


def records_of(home: Path) -> list[bytes]:
    return [record for _, _, record in iter_records(home)]


def reopened(home: Path) -> list[bytes]:
    """What is there after the next writer recovered the log; it must be able to go on."""
    with open_log(home, "fsync") as log:
        log.append(b'{"id":"recovered"}')
    assert [finding for finding in verify(home, KEY.public).findings if finding.severity == "error"] == []
    return records_of(home)


class TestFaults:
    def test_64_threads_and_a_disk_that_fails(self, tmp_path: Path, disk: Disk) -> None:
        log = open_log(tmp_path, "fsync")
        log.append(b'{"id":"before"}')
        with disk.held():
            first = Caller(lambda: log.append(b'{"id":"first"}'))
            until(disk.waiting.is_set)
            callers = [Caller(partial(log.append, small(number))) for number in range(64)]
            until(lambda: queued(log) == 64)
            disk.let()
            first.done()
            until(disk.waiting.is_set)
            disk.failure = OSError(5, "Input/output error")
        for caller in callers:
            assert caller.done().index is None
            assert type(caller.error) is EvidenceUnavailable
            assert "errno 5 EIO" in str(caller.error)
        for _ in range(3):
            with pytest.raises(EvidenceUnavailable, match="errno 5 EIO"):
                log.append(b'{"id":"later"}')
        log.close()
        assert b'{"id":"later"}' not in reopened(tmp_path)

    async def test_64_tasks_and_a_disk_that_fails(self, tmp_path: Path, disk: Disk) -> None:
        log = open_log(tmp_path, "fsync")
        disk.failure = OSError(28, "No space left on device")
        tasks = [asyncio.create_task(log.append_async(small(number))) for number in range(64)]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(result) for result in results} == {EvidenceUnavailable}
        assert all("errno 28 ENOSPC" in str(result) for result in results)
        with pytest.raises(EvidenceUnavailable, match="ENOSPC"):
            await log.append_async(b"later")
        log.close()
        assert b"later" not in reopened(tmp_path)

    def test_an_error_that_is_none_of_the_disk(self, tmp_path: Path, disk: Disk) -> None:
        """A key service that raises anything must not pass for a fault of the caller."""
        log = open_log(tmp_path, "fsync")
        disk.failure = ValueError("broken")
        with pytest.raises(EvidenceUnavailable, match=r"ValueError\('broken'\); no call runs"):
            log.append(b"x")
        with pytest.raises(EvidenceUnavailable, match="broken"):
            log.append(b"y")

    def test_poison_does_not_wait_for_the_disk(self, tmp_path: Path, disk: Disk) -> None:
        """It may come from an event loop, and from a child that was forked while somebody wrote."""
        log = open_log(tmp_path, "fsync")
        with disk.held():
            first = Caller(lambda: log.append(b'{"id":"0"}'))
            until(disk.waiting.is_set)
            waiting = Caller(lambda: log.append(b'{"id":"1"}'))
            until(lambda: queued(log) == 1)
            log.poison("an outcome is missing")
        assert first.done().index == 0, "it was durable"
        assert "an outcome is missing" in str(waiting.done().error)
        with pytest.raises(EvidenceUnavailable, match="an outcome is missing"):
            log.append(b'{"id":"2"}')


class TestInterrupts:
    """Ctrl-C, wherever it falls in the thread that writes for all."""

    def test_a_leader_that_is_interrupted_while_it_waits_for_the_disk(self, tmp_path: Path, disk: Disk) -> None:
        log = open_log(tmp_path, "fsync")
        with disk.held():
            first = Caller(lambda: log.append(b'{"id":"first"}'))
            until(disk.waiting.is_set)
            leader = Caller(lambda: log.append(b'{"id":"leader"}'))
            until(lambda: queued(log) == 1)
            followers = [Caller(partial(log.append, small(number))) for number in range(8)]
            until(lambda: queued(log) == 9)
            disk.let()
            first.done()
            until(disk.waiting.is_set)
            disk.failure = KeyboardInterrupt()
        assert type(leader.done().error) is KeyboardInterrupt
        for caller in followers:
            assert type(caller.done().error) is EvidenceUnavailable
        with pytest.raises(EvidenceUnavailable, match="interrupted"):
            log.append(b'{"id":"later"}')
        log.close()
        assert b'{"id":"later"}' not in reopened(tmp_path)

    def interrupt(self, home: Path, disk: Disk, run: Callable[[Callable[[], int]], int], then: Callable[[Caller], None]) -> Caller:
        """One group with a leader that `run` runs; `then` happens when the disk is free for it. Nobody may be stranded or deceived."""
        log = open_log(home, "fsync")
        disk.hold()
        first = Caller(lambda: log.append(b'{"id":"first"}'))
        until(disk.waiting.is_set)
        leader = Caller(lambda: run(lambda: log.append(b'{"id":"leader"}')))
        until(lambda: queued(log) == 1 or not leader.is_alive())
        followers = [Caller(partial(log.append, b'{"id":"follower-%d"}' % at)) for at in range(2)]
        until(lambda: queued(log) >= 2)
        disk.free()
        then(leader)
        callers = {b'{"id":"first"}': first, b'{"id":"leader"}': leader}
        callers |= {b'{"id":"follower-%d"}' % at: caller for at, caller in enumerate(followers)}
        for caller in callers.values():
            caller.done()
        log.close()
        found = reopened(home)
        assert first.index == 0
        for record, caller in callers.items():
            if caller.index is not None:
                assert found[caller.index] == record, "acknowledged, and not there"
            else:
                assert type(caller.error) in (EvidenceUnavailable, KeyboardInterrupt), (record, caller.error, run)
        return leader

    def test_at_every_line(self, tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(group, "_LOOK_SECONDS", 0.05)
        disk.pretend(monkeypatch)
        steps = 1
        for number in range(1000):
            tracer = Tracer(steps)
            leader = self.interrupt(tmp_path / str(number), disk, tracer.run, lambda _: None)
            if tracer.fired:
                steps += 1
            elif "_lead" in tracer.functions:  # not so if another one was faster
                assert leader.index is not None
                break
        assert steps > 50

    @pytest.mark.soak
    def test_at_any_moment(self, tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
        """As a signal does it: between two instructions, wherever the interpreter looks for one."""
        monkeypatch.setattr(group, "_LOOK_SECONDS", 0.005)
        disk.pretend(monkeypatch)
        random = Random(5)

        def soon(leader: Caller) -> None:
            time.sleep(random.uniform(0, 0.002))
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(leader.ident or 0), ctypes.py_object(KeyboardInterrupt))

        errors = [self.interrupt(tmp_path / str(number), disk, lambda body: body(), soon).error for number in range(3000)]
        assert {type(error) for error in errors} == {KeyboardInterrupt, type(None)}

    def test_a_follower_that_is_interrupted(self, tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
        """In the queue: its record is never written, and whoever stands behind it gets the lead."""
        monkeypatch.setattr(group, "_LOOK_SECONDS", 0.005)
        told: list[bool] = []
        with open_log(tmp_path, "fsync") as log:
            disk.hold()
            first = Caller(lambda: log.append(b'{"id":"0"}'))
            until(disk.waiting.is_set)
            tracer = Tracer(0)
            stopped = Caller(lambda: tracer.run(lambda: log.append(b'{"id":"1"}', forsaken=told.append)))
            until(lambda: queued(log) == 1)
            other = Caller(lambda: log.append(b'{"id":"2"}'))
            until(lambda: queued(log) == 2)
            tracer.steps = len(tracer._seen) + 1  # now
            assert type(stopped.done().error) is KeyboardInterrupt
            assert told == [False]
            disk.free()
            assert (first.done().index, other.done().index) == (0, 1)


class Tracer:
    """Raises KeyboardInterrupt at the nth different line that the writing half of the log runs in this thread."""

    FILES = ("group.py", "shard.py", "frames.py", "heads.py", "log/merkle.py", "log/checkpoint.py")

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.fired, self.last = False, ("", 0)
        self._seen: set[tuple[str, int]] = set()
        self.functions: set[str] = set()

    def __repr__(self) -> str:
        return f"interrupted at {self.last}"

    def run(self, body: Callable[[], int]) -> int:
        sys.settrace(self._trace)
        try:
            return body()
        finally:
            sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, _: Any) -> Any:
        if self.fired or not frame.f_code.co_filename.endswith(self.FILES):
            return None
        line = frame.f_code.co_filename, frame.f_lineno
        # No signal is handled at a `try` or at the end of a `with`, and raising there confuses the interpreter.
        if event == "line" and line not in self._seen and linecache.getline(*line).strip() != "try:":
            self._seen.add(line)
            self.functions.add(frame.f_code.co_name)
            if len(self._seen) == self.steps:
                self.fired = True
                self.last = line
                raise KeyboardInterrupt
        return self._trace


class TestForks:
    def test_a_child_forked_while_others_wait_for_the_disk(self, tmp_path: Path, disk: Disk) -> None:
        log = open_log(tmp_path, "fsync")
        with disk.held():
            first = Caller(lambda: log.append(b'{"id":"0"}'))
            until(disk.waiting.is_set)
            others = [Caller(partial(log.append, b'{"id":"p%d"}' % number)) for number in range(5)]
            until(lambda: queued(log) == 5)
            reader, writer = os.pipe()
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    disk.free()  # its own, in this process
                    for number in range(3):
                        log.append(b'{"id":"c%d"}' % number)
                    asyncio.run(log.append_async(b'{"id":"c3"}'))
                    log.poison("a test")  # the parent's log goes on
                    os.write(writer, log.shard.encode())
                    status = 0
                finally:
                    os._exit(status)
            os.close(writer)
            assert os.waitpid(pid, 0)[1] == 0
            assert os.read(reader, 100) != log.shard.encode()
            os.close(reader)
        assert sorted(caller.done().index or 0 for caller in (first, *others)) == list(range(6))
        log.close()
        assert len(records_of(tmp_path)) == 10
        assert verify(tmp_path, KEY.public).ok

    def test_a_child_of_a_log_with_an_executor(self, tmp_path: Path) -> None:
        """Threads do not survive a fork, so the child must not wait for the parent's."""
        log = open_log(tmp_path, "fsync")
        asyncio.run(log.append_async(b'{"id":"parent"}'))
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                signal.alarm(10)
                asyncio.run(log.append_async(b'{"id":"child"}'))
                log.close()
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        asyncio.run(log.append_async(b'{"id":"after"}'))
        log.close()
        assert verify(tmp_path, KEY.public).findings == ()


def worker(home: Path, durability: Durability) -> tuple[int, int]:
    """A process of 4 threads that append, and say what was acknowledged: its id, and the pipe to read from."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return pid, reader
    try:
        log = open_log(home, durability, segment_bytes=30_000)

        def work(name: int) -> None:
            for number in count():
                record = b'{"id":"%d-%d-%d"}' % (os.getpid(), name, number)
                log.append(record)
                os.write(writer, record + b"\n")

        for name in range(4):
            threading.Thread(target=work, args=(name,), daemon=True).start()
        signal.pause()
    finally:
        os._exit(1)


class TestKilled:
    def kill(self, home: Path, durability: Durability, rounds: int) -> None:
        """4 workers of 4 threads each on one home, killed in mid load, again and again."""
        acknowledged: set[bytes] = set()
        for _ in range(rounds):
            workers = [worker(home, durability) for _ in range(4)]
            first = [os.read(reader, 100) for _, reader in workers]  # all are at work
            for pid, _ in workers:
                os.kill(pid, signal.SIGKILL)
            for (pid, reader), begun in zip(workers, first, strict=True):
                os.waitpid(pid, 0)
                with os.fdopen(reader, "rb") as pipe:
                    acknowledged.update(line for line in (begun + pipe.read()).splitlines() if line.endswith(b"}"))
        logs = [open_log(home, durability) for _ in range(4)]  # recovers every shard
        assert len({log.shard for log in logs}) == 4
        for log in logs:
            log.close()
        present = records_of(home)
        assert len(present) == len(set(present))
        assert set(present) >= acknowledged > set()
        report = verify(home, KEY.public)
        assert report.findings == ()
        assert len(report.shards) == 4, "idle shards are reused"

    @pytest.mark.parametrize("durability", BOTH)
    def test_nothing_acknowledged_is_lost(self, tmp_path: Path, durability: Durability) -> None:
        self.kill(tmp_path, durability, 5)

    @pytest.mark.soak
    @pytest.mark.parametrize("durability", BOTH)
    def test_25_times(self, tmp_path: Path, durability: Durability) -> None:
        self.kill(tmp_path, durability, 25)


class TestShards:
    def test_a_file_system_that_grants_every_lock(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Two writers on one shard would fork its history."""
        monkeypatch.setattr("fcntl.flock", lambda *_: None)
        with open_log(tmp_path) as first, open_log(tmp_path) as second:
            assert first.shard != second.shard
            lock = shard_directory(tmp_path, first.shard) / "lock"
            assert try_lock(lock) is None
            copy = tmp_path / "copy"
            copy.write_bytes(lock.read_bytes())
            descriptor = try_lock(copy)  # a backup of a home that is written claims nothing
            assert descriptor is not None
            os.close(descriptor)
            for wrong in (b"", b"1\n", b"x" * 300, lock.read_bytes().replace(b" ", b" 1", 1), bytes(200)):
                lock.write_bytes(wrong)
                descriptor = try_lock(lock)
                assert descriptor is not None, wrong
                os.close(descriptor)
        with open_log(tmp_path) as again:
            assert again.shard in (first.shard, second.shard), "a log that was closed claims nothing"

    def test_a_killed_process_claims_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            log = open_log(tmp_path)
            os.write(writer, log.shard.encode())
            signal.pause()
            os._exit(0)
        shard = os.read(reader, 16).decode()
        monkeypatch.setattr("fcntl.flock", lambda *_: None)
        assert try_lock(shard_directory(tmp_path, shard) / "lock") is None
        os.kill(pid, signal.SIGKILL)
        until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
        with open_log(tmp_path) as log:
            assert log.shard == shard
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)

    def test_a_log_that_cannot_be_opened_claims_nothing(self, tmp_path: Path) -> None:
        shard = open_log(tmp_path).shard
        head = tmp_path / "heads" / shard
        until(lambda: b"state shut" in head.read_bytes())
        data = head.read_bytes()
        head.write_bytes(data[:-5])
        with pytest.raises(Exception, match="head"):
            open_log(tmp_path)
        head.write_bytes(data)
        with open_log(tmp_path) as log:
            assert log.shard == shard

    @pytest.mark.parametrize("durability", BOTH)
    def test_finished_segments_are_read_only(self, tmp_path: Path, durability: Durability) -> None:
        records = fresh()

        def modes() -> list[int]:
            return [path.stat().st_mode & 0o777 for path in sorted((tmp_path / "log").glob("*/*.seg"))]

        def fill(log: Log) -> None:
            for _ in range(30):
                log.append(next(records))

        with open_log(tmp_path, durability, segment_bytes=1000) as log:
            fill(log)
        found = modes()
        assert len(found) > 2
        assert found == [0o400] * (len(found) - 1) + [0o600]
        for path in (tmp_path / "log").glob("*/*.seg"):
            path.chmod(0o600)  # as a crash between the two leaves it, or a backup
        with open_log(tmp_path, durability, segment_bytes=1000) as log:
            assert modes() == found
            fill(log)
        assert verify(tmp_path, KEY.public).findings == ()


def test_an_executor_thread_ends_with_its_log(tmp_path: Path) -> None:
    log = open_log(tmp_path, "fsync")
    asyncio.run(log.append_async(b"x"))
    names = [one.name for one in threading.enumerate() if log.shard in one.name]
    assert len(names) == 1
    log.close()
    until(lambda: not [one for one in threading.enumerate() if log.shard in one.name])
