"""Group commit (log/group.py): many callers, one write, one wait for the disk."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from agentguard.errors import EvidenceUnavailable, InvalidInput, LogBusy
from agentguard.keys import PublicKey
from agentguard.log import Log, iter_records, verify
from agentguard.log import shard as shard_module
from agentguard.log.frames import COMMIT, read_frames
from agentguard.log.layout import head_path
from support.disks import Caller, Disk, queued, until
from support.logs import KEY, Ticking, open_log, small


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk(monkeypatch)
    yield disk
    disk.free()


def records_of(home: Path) -> list[bytes]:
    return [record for _, _, record in iter_records(home)]


def commits(home: Path) -> list[int]:
    """The number of records up to each commit frame."""
    found = []
    for path in sorted((home / "log").glob("*/*.seg")):
        descriptor = os.open(path, os.O_RDONLY)
        found += [frame.number for frame in read_frames(descriptor, str(path), 0, path.stat().st_size) if frame.kind == COMMIT]
        os.close(descriptor)
    return found


class TestThreads:
    def test_who_comes_while_the_disk_is_busy_is_written_together(self, tmp_path: Path, disk: Disk) -> None:
        with open_log(tmp_path, "fsync") as log:
            before = disk.syncs
            with disk.held():
                first = Caller(lambda: log.append(small(0)))
                until(disk.waiting.is_set)
                others = [Caller(partial(log.append, small(number))) for number in range(1, 21)]
                until(lambda: queued(log) == 20)
                assert [caller.index for caller in (first, *others)] == [None] * 21, "acknowledged before it was durable"
                assert log.size == 0
            indices = [caller.done().index for caller in (first, *others)]
            assert disk.syncs == before + 2
            assert sorted(index for index in indices if index is not None) == list(range(21))
            assert [records_of(tmp_path)[index or 0] for index in indices] == [small(number) for number in range(21)]
            assert commits(tmp_path) == [1, 21], "one commit frame for the group"
        assert verify(tmp_path, KEY.public).findings == ()

    def test_records_of_one_append_stay_together(self, tmp_path: Path, disk: Disk) -> None:
        with open_log(tmp_path, "fsync") as log:
            with disk.held():
                first = Caller(lambda: log.append(b"first"))
                until(disk.waiting.is_set)
                others = [Caller(lambda name=name: log.append(*[b"%c%d" % (name, at) for at in range(3)])) for name in b"abc"]  # type: ignore[misc]
                until(lambda: queued(log) == 3)
            first.done()
            indices = [caller.done().index or 0 for caller in others]
            records = records_of(tmp_path)
            for name, index in zip(b"abc", indices, strict=True):
                assert records[index : index + 3] == [b"%c%d" % (name, at) for at in range(3)]

    def test_a_lone_caller_writes_in_its_own_thread(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = []
        disk = Disk(monkeypatch)
        real = disk._sync
        monkeypatch.setattr("agentguard.log.shard.datasync", lambda descriptor: (seen.append(threading.get_ident()), real(descriptor)))
        with open_log(tmp_path, "fsync") as log:
            for number in range(3):
                log.append(small(number))
            assert set(seen) == {threading.get_ident()}
            assert threading.active_count() == 1 or not [one for one in threading.enumerate() if "agentguard-log" in one.name]

    def test_a_record_that_the_log_cannot_hold_harms_nobody_else(self, tmp_path: Path, disk: Disk) -> None:
        with open_log(tmp_path, "fsync") as log:
            with disk.held():
                first = Caller(lambda: log.append(b"first"))
                until(disk.waiting.is_set)
                for wrong in (b"", b"x" * 65_536):
                    with pytest.raises(InvalidInput):
                        log.append(wrong)
                with pytest.raises(InvalidInput):
                    log.append()
                good = Caller(lambda: log.append(b"good"))
                until(lambda: queued(log) == 1)
            assert (first.done().index, good.done().index) == (0, 1)

    def test_closing_answers_everybody(self, tmp_path: Path, disk: Disk) -> None:
        log = open_log(tmp_path, "fsync")
        with disk.held():
            first = Caller(lambda: log.append(b"first"))
            until(disk.waiting.is_set)
            others = [Caller(lambda: log.append(b"x")) for _ in range(5)]
            until(lambda: queued(log) == 5)
            closing = threading.Thread(target=log.close)
            closing.start()
        closing.join(10)
        assert not closing.is_alive()
        assert first.done().index == 0
        for caller in others:
            caller.done()
            assert (caller.index is None) == (type(caller.error) is EvidenceUnavailable)
        assert len(records_of(tmp_path)) == 1 + sum(caller.index is not None for caller in others)
        assert [finding for finding in verify(tmp_path, KEY.public).findings if finding.kind != "record"] == []


class TestAsyncio:
    async def test_the_loop_goes_on_while_the_disk_is_busy(self, tmp_path: Path, disk: Disk) -> None:
        with open_log(tmp_path, "fsync") as log:
            before = disk.syncs
            disk.hold()
            tasks = [asyncio.create_task(log.append_async(small(number))) for number in range(64)]
            while not disk.waiting.is_set():
                await asyncio.sleep(0.001)
            for _ in range(5):
                await asyncio.sleep(0.001)
            assert not any(task.done() for task in tasks)
            disk.free()
            indices = await asyncio.gather(*tasks)
            assert sorted(indices) == list(range(64))
            assert [records_of(tmp_path)[index] for index in indices] == [small(number) for number in range(64)]
            assert disk.syncs - before <= 3
        assert verify(tmp_path, KEY.public).findings == ()

    async def test_threads_and_tasks_share_groups(self, tmp_path: Path, disk: Disk) -> None:
        with open_log(tmp_path, "fsync") as log:
            before = disk.syncs
            disk.hold()
            callers = [Caller(partial(log.append, small(0)))]
            until(disk.waiting.is_set)
            tasks = [asyncio.create_task(log.append_async(small(number))) for number in range(1, 9)]
            await asyncio.sleep(0)
            callers += [Caller(partial(log.append, small(number))) for number in range(9, 17)]
            until(lambda: queued(log) == 16)
            disk.free()
            indices = [callers[0].done().index, *await asyncio.gather(*tasks), *[caller.done().index for caller in callers[1:]]]
            assert [records_of(tmp_path)[index or 0] for index in indices] == [small(number) for number in range(17)]
            assert disk.syncs - before == 2

    async def test_a_call_on_two_loops(self, tmp_path: Path, disk: Disk) -> None:
        with open_log(tmp_path, "fsync") as log:
            disk.hold()
            mine = asyncio.create_task(log.append_async(b'{"id":"mine"}'))
            await asyncio.sleep(0)
            other = Caller(lambda: asyncio.run(log.append_async(b'{"id":"other"}')))
            await asyncio.sleep(0.02)
            disk.free()
            assert {await mine, other.done().index} == {0, 1}

    async def test_in_process_durability_there_is_nothing_to_wait_for(self, tmp_path: Path) -> None:
        with open_log(tmp_path, "process") as log:
            assert not log.blocking
            assert await log.append_async(b"x") == 0
            assert not [one for one in threading.enumerate() if "agentguard-log" in one.name]

    async def test_a_rotation_waits_for_the_disk_in_process_durability_too(self, tmp_path: Path, disk: Disk) -> None:
        with open_log(tmp_path, "process", segment_bytes=2000) as log:
            while not log.blocking:
                log.append(b"x" * 100)
            disk.hold()
            task = asyncio.create_task(log.append_async(b"y"))
            while not disk.waiting.is_set():
                await asyncio.sleep(0.001)
            disk.free()
            assert await task == log.size - 1
            assert not log.blocking

    def test_without_a_loop_of_asyncio_it_waits(self, tmp_path: Path) -> None:
        with open_log(tmp_path, "fsync") as log:
            with pytest.raises(StopIteration) as ended:
                log.append_async(b"x").send(None)
            assert ended.value.value == 0

    def test_tasks_after_the_end_of_all_threads(self, tmp_path: Path) -> None:
        """At interpreter shutdown there is no executor any more: the caller writes."""
        with open_log(tmp_path, "fsync") as log:
            group = log._writer._group
            asyncio.run(log.append_async(b"x"))
            assert group._executor is not None
            group._executor.shutdown()
            assert asyncio.run(log.append_async(b"y")) == 1


class TestBounds:
    def log(self, home: Path, *, longest: int = 16_384, patience: float = 10.0) -> Log:
        return Log.open(home, KEY, durability="fsync", clock=Ticking(), longest_queue=longest, patience=patience)

    def test_a_full_queue_refuses_and_says_so(self, tmp_path: Path, disk: Disk) -> None:
        told: list[bool] = []
        with self.log(tmp_path, longest=4) as log:
            with disk.held():
                callers = [Caller(lambda: log.append(b'{"id":"0"}'))]
                until(disk.waiting.is_set)
                callers += [Caller(partial(log.append, small(number))) for number in range(4)]
                until(lambda: queued(log) == 4)
                with pytest.raises(LogBusy, match="4 records wait for the disk already; nothing of this one was written"):
                    log.append(b'{"id":"late"}', forsaken=told.append)
                assert told == [False]
                happened = Caller(lambda: log.append(b'{"id":"happened"}', bounded=False))  # what happened is recorded whatever it takes
                until(lambda: queued(log) == 5)
            assert all(caller.done().error is None for caller in (*callers, happened))
            assert log.poisoned is None
            assert log.append(b'{"id":"more"}') == 6
        assert b'{"id":"late"}' not in records_of(tmp_path)
        assert verify(tmp_path, KEY.public).findings == ()

    async def test_a_full_queue_refuses_tasks(self, tmp_path: Path, disk: Disk) -> None:
        told: list[bool] = []
        with self.log(tmp_path, longest=4) as log:
            disk.hold()
            first = Caller(lambda: log.append(b"x"))
            until(disk.waiting.is_set)
            tasks = [asyncio.create_task(log.append_async(small(number), forsaken=told.append)) for number in range(6)]
            await asyncio.sleep(0.01)
            assert [type(task.exception()) for task in tasks if task.done()] == [LogBusy, LogBusy]
            assert told == [False, False]
            disk.free()
            await asyncio.wait(tasks)
            assert first.done().index == 0
            assert log.size == 5

    def test_a_deadline_in_the_queue(self, tmp_path: Path, disk: Disk) -> None:
        """The record was not written, so nothing is left behind."""
        told: list[bool] = []
        with self.log(tmp_path, patience=0.02) as log:
            with disk.held():
                first = Caller(lambda: log.append(b'{"id":"0"}'))
                until(disk.waiting.is_set)
                with pytest.raises(LogBusy, match=r"did not take the record within 0\.02 s"):
                    log.append(b'{"id":"late"}', forsaken=told.append)
                patient = Caller(lambda: log.append(b'{"id":"patient"}', bounded=False))
                until(lambda: queued(log) == 2)
            assert (first.done().index, patient.done().index, told) == (0, 1, [False])
            assert log.append(b'{"id":"more"}') == 2
        assert records_of(tmp_path) == [b'{"id":"0"}', b'{"id":"patient"}', b'{"id":"more"}']

    def test_a_deadline_while_it_is_being_written(self, tmp_path: Path, disk: Disk) -> None:
        """The caller is refused, and told when the record is durable all the same."""
        told: list[bool] = []
        with self.log(tmp_path, patience=0.2) as log:
            with disk.held():
                first = Caller(lambda: log.append(b'{"id":"0"}', bounded=False))
                until(disk.waiting.is_set)
                leads = Caller(lambda: log.append(b'{"id":"1"}', bounded=False))
                until(lambda: queued(log) == 1)
                late = Caller(lambda: log.append(b'{"id":"2"}', forsaken=told.append))
                until(lambda: queued(log) == 2)
                disk.let()
                first.done()
                assert type(late.done().error) is LogBusy
                assert told == [], "nobody knows yet"
            leads.done()
            until(lambda: told)
        assert set(told) == {True}
        assert records_of(tmp_path) == [b'{"id":"0"}', b'{"id":"1"}', b'{"id":"2"}']

    async def test_a_deadline_of_a_task(self, tmp_path: Path, disk: Disk) -> None:
        told: list[bool] = []
        with self.log(tmp_path, patience=0.03) as log:
            disk.hold()
            with pytest.raises(LogBusy):
                await log.append_async(b'{"id":"0"}', forsaken=told.append)  # it is being written, by the executor
            assert told == []
            disk.free()
            until(lambda: told == [True])
            assert log.append(b'{"id":"1"}') == 1

    async def test_what_happened_outlasts_a_cancellation(self, tmp_path: Path, disk: Disk) -> None:
        with self.log(tmp_path, patience=0.01) as log:
            disk.hold()
            task = asyncio.create_task(log.append_async(b'{"id":"outcome"}', bounded=False))
            await asyncio.sleep(0.03)
            for _ in range(3):
                task.cancel()
                await asyncio.sleep(0.005)
                assert not task.done()
            disk.free()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert records_of(tmp_path) == [b'{"id":"outcome"}']

    async def test_a_cancelled_task_that_waits_in_the_queue_leaves_nothing(self, tmp_path: Path, disk: Disk) -> None:
        told: list[bool] = []
        with self.log(tmp_path) as log:
            disk.hold()
            first = Caller(lambda: log.append(b'{"id":"0"}'))
            until(disk.waiting.is_set)
            task = asyncio.create_task(log.append_async(b'{"id":"1"}', forsaken=told.append))
            await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert told == [False]
            disk.free()
            first.done()
            assert log.append(b'{"id":"2"}') == 1
        assert records_of(tmp_path) == [b'{"id":"0"}', b'{"id":"2"}']

    async def test_a_task_that_is_cancelled_while_it_is_being_written(self, tmp_path: Path, disk: Disk) -> None:
        told: list[bool] = []
        with self.log(tmp_path) as log:
            disk.hold()
            task = asyncio.create_task(log.append_async(b'{"id":"0"}', forsaken=told.append))
            while not disk.waiting.is_set():
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert told == [], "nobody knows yet"
            disk.free()
            until(lambda: told == [True])

    def test_a_loop_that_is_gone_before_the_answer(self, tmp_path: Path, disk: Disk) -> None:
        told: list[bool] = []
        with self.log(tmp_path) as log:
            loop = asyncio.new_event_loop()
            disk.hold()
            task = loop.create_task(log.append_async(b'{"id":"0"}', forsaken=told.append))
            loop.run_until_complete(asyncio.sleep(0.01))
            until(disk.waiting.is_set)
            loop.close()
            disk.free()
            until(lambda: told == [True])
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # it was destroyed on purpose
            assert log.append(b'{"id":"1"}') == 1


class TestSubmit:
    def test_the_index_is_told(self, tmp_path: Path) -> None:
        told: list[int | str] = []
        for durability in ("fsync", "process"):
            with Log.open(tmp_path / durability, KEY, durability=durability) as log:  # type: ignore[arg-type]  # one of the two
                log.append(b"x")
                log.submit(b"y", done=told.append)
                until(lambda: told)
                assert told.pop() == 1
                with pytest.raises(InvalidInput):
                    log.submit(b"", done=told.append)

    def test_so_is_that_there_will_be_none(self, tmp_path: Path) -> None:
        told: list[int | str] = []
        log = open_log(tmp_path, "fsync")
        log.poison("a test")
        log.submit(b"x", done=told.append)
        until(lambda: told)
        assert "a test" in str(told.pop())
        log.close()
        log.submit(b"y", done=told.append)
        until(lambda: told)
        assert type(told.pop()) is str

    def test_a_callback_that_breaks_harms_nobody(self, tmp_path: Path, disk: Disk) -> None:
        def broken(_: int | str) -> None:
            raise RuntimeError("broken")

        with open_log(tmp_path, "fsync") as log:
            with disk.held():
                first = Caller(lambda: log.append(b"x"))
                until(disk.waiting.is_set)
                log.submit(b"y", done=broken)
                other = Caller(lambda: log.append(b"z"))
                until(lambda: queued(log) == 2)
            assert (first.done().index, other.done().index) == (0, 2)


class Nested:
    """A signer during which somebody appends again in the same thread, as a signal handler or a finalizer may."""

    def __init__(self) -> None:
        self.during = lambda: None

    @property
    def public(self) -> PublicKey:
        return KEY.public

    def sign(self, data: bytes) -> bytes:
        during, self.during = self.during, lambda: None
        during()
        return KEY.sign(data)


def test_an_append_in_the_middle_of_an_append_is_refused_and_does_not_wait_for_itself(tmp_path: Path) -> None:
    signer = Nested()
    told: list[bool] = []
    done: list[int | str] = []
    with Log.open(tmp_path, signer, durability="fsync") as log:

        def nested() -> None:
            for bounded in (True, False):
                with pytest.raises(LogBusy, match="in the middle of writing another record"):
                    log.append(b'{"id":"nested"}', bounded=bounded, forsaken=told.append)
            with pytest.raises(EvidenceUnavailable, match="in the middle"):
                log.close()
            log.submit(b'{"id":"submitted"}', done=done.append)

        signer.during = nested
        assert log.append(b'{"id":"outer"}') == 0
        assert told == [False, False]
        until(lambda: done == [1])
        assert log.append(b'{"id":"after"}') == 2
    assert verify(tmp_path, KEY.public).findings == ()


def test_the_clock_set_back_by_an_hour_in_mid_load(tmp_path: Path) -> None:
    clock = Ticking()
    with Log.open(tmp_path, KEY, durability="fsync", clock=clock) as log:
        for number in range(5):
            log.append(small(number))
        latest = clock.now
        clock.now -= 3600 * 10**9
        callers = [Caller(partial(log.append, small(number))) for number in range(5, 15)]
        assert all(caller.done().error is None for caller in callers)
    report = verify(tmp_path, KEY.public)
    assert report.findings == ()
    with Log.open(tmp_path, KEY, clock=clock) as log:
        assert log.last_time_ns >= latest, "who opens it sees that the clock went back"


def test_a_checkpoint_is_remembered_when_it_returns_though_a_newer_one_was_signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Log.open(tmp_path, KEY, durability="process") as log:
        log.append(b"one")
        log.checkpoint()  # nothing is left for the checkpointer to do
        waits, goes_on = threading.Event(), threading.Event()
        real, slow = shard_module.datasync, []

        def datasync(descriptor: int) -> None:
            if slow and threading.current_thread() is slow[0]:
                waits.set()
                goes_on.wait(10)
            real(descriptor)

        monkeypatch.setattr(shard_module, "datasync", datasync)
        newer = threading.Thread(target=log.checkpoint)

        def older_first(descriptor: int) -> None:
            """Signs a newer checkpoint while ours waits for the disk, and keeps it waiting."""
            monkeypatch.setattr(shard_module, "datasync", datasync)
            slow.append(newer)
            newer.start()
            assert waits.wait(10)
            real(descriptor)

        monkeypatch.setattr(shard_module, "datasync", older_first)
        note = log.checkpoint()
        assert note in head_path(tmp_path, log.shard).read_bytes(), "what was promised when it returned"
        goes_on.set()
        newer.join(10)
        assert note not in head_path(tmp_path, log.shard).read_bytes(), "and then the newer one"
