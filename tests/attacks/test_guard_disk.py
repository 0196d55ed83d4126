"""Calls while the disk is slow, full or broken: no evidence, no call; and a call that nobody waits for any more costs nothing."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest

from agentguard import Denied, Guard, ToolCall
from agentguard.decision import Code
from agentguard.errors import OutcomeUnrecorded
from agentguard.home import Home
from agentguard.log import iter_records, verify
from agentguard.log import shard as shard_module
from support.disks import Caller, Disk, queued, until

POLICY = """
agentguard: 1
name: disk
agents:
  worker: {tools: {count: {n: any}, acount: {n: any}, items: {}}, budgets: [{calls: 2, per: task}]}
  many: {tools: {count: {n: any}, acount: {n: any}}}
"""


def records(home: Path) -> list[dict[str, Any]]:
    return [json.loads(record) for _, _, record in iter_records(home)]


class World:
    """A guard in `fsync` durability with tools that keep what they were called with."""

    def __init__(self, home: Path) -> None:
        self.guard = guard = Guard.open(POLICY, home=home)
        self.ran: list[int] = []

        @guard.tool
        def count(n: int) -> int:
            self.ran.append(n)
            return n

        @guard.tool
        async def acount(n: int) -> int:
            self.ran.append(n)
            return n

        @guard.tool
        def items() -> Any:
            yield 1
            yield 2

        self.count, self.acount, self.items = count, acount, items

    def decisions(self) -> list[dict[str, Any]]:
        return [one for one in records(self.guard.home.path) if one.get("type") == "decision"]

    def statuses(self) -> list[str]:
        return [one["status"] for one in records(self.guard.home.path) if one.get("type") == "outcome"]


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk(monkeypatch)
    yield disk
    disk.free()


@pytest.fixture
def world(home: Path, disk: Disk) -> Iterator[World]:
    world = World(home)
    yield world
    disk.free()
    world.guard.close()


CALL = ToolCall("worker", "count", {"n": 1})


class TestForsaken:
    async def test_cancelled_while_the_decision_is_written(self, world: World, disk: Disk) -> None:
        with world.guard.task("worker", initiator="user:a"):
            for _ in range(4):  # more than the budget has
                disk.hold()
                check = asyncio.create_task(world.guard.acheck(CALL))
                while not disk.waiting.is_set():
                    await asyncio.sleep(0.001)
                check.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await check
                before = len(world.statuses())
                disk.free()
                until(lambda before=before: len(world.statuses()) > before)  # type: ignore[misc]
                await asyncio.sleep(0.02)  # the budget is given back behind it
            assert world.statuses() == ["not_run"] * 4
            assert world.count(n=1) == 1
        assert world.ran == [1]

    async def test_cancelled_while_it_waits_in_the_queue(self, world: World, disk: Disk) -> None:
        with world.guard.task("worker", initiator="user:a"):
            disk.hold()
            busy = Caller(lambda: world.guard.home.log.append(b'{"id":"busy"}'))
            until(disk.waiting.is_set)
            for _ in range(4):
                check = asyncio.create_task(world.guard.acheck(CALL))
                await asyncio.sleep(0.005)
                check.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await check
            disk.free()
            busy.done()
            assert world.count(n=1) == 1
            assert len(world.decisions()) == 1
            assert world.statuses() == ["ok"]

    def test_an_overflow_denies_with_words_and_takes_nothing(self, world: World, disk: Disk) -> None:
        log = world.guard.home.log
        with world.guard.task("worker", initiator="user:a"):
            log._writer._group._longest = 0
            with disk.held():
                busy = Caller(lambda: log.append(b'{"id":"busy"}'))
                until(disk.waiting.is_set)
                for _ in range(4):
                    with pytest.raises(Denied) as denied:
                        world.count(n=1)
                    assert denied.value.code is Code.EVIDENCE_UNAVAILABLE
                    assert "wait for the disk already" in str(denied.value)
                    assert "try again later" in str(denied.value)
            busy.done()
            assert world.count(n=1) == 1, "the guard is well, and the budget is whole"
            assert world.count(n=2) == 2

    def test_so_does_a_deadline(self, world: World, disk: Disk) -> None:
        log = world.guard.home.log
        log._writer._group._patience = 0.02
        with world.guard.task("worker", initiator="user:a"):
            with disk.held():
                busy = Caller(lambda: log.append(b'{"id":"busy"}'))
                until(disk.waiting.is_set)
                with pytest.raises(Denied, match=r"within 0\.02 s"):
                    world.count(n=1)
            busy.done()
            assert [world.count(n=1), world.count(n=2)] == [1, 2]


class TestOutcomes:
    async def test_a_cancellation_waits_until_the_outcome_stands(self, world: World, disk: Disk) -> None:
        with world.guard.task("worker", initiator="user:a"):
            permit = await world.guard.acheck(CALL)
            disk.hold()
            run = asyncio.create_task(permit.arun(world.count.__wrapped__))  # type: ignore[attr-defined]
            while not disk.waiting.is_set():
                await asyncio.sleep(0.001)
            for _ in range(3):
                run.cancel()
                await asyncio.sleep(0.005)
                assert not run.done()
            disk.free()
            with pytest.raises(asyncio.CancelledError):
                await run
            assert world.statuses() == ["ok"]
            assert await world.acount(n=2) == 2

    async def test_an_outcome_that_cannot_be_written_withholds_the_output(self, world: World, disk: Disk) -> None:
        with world.guard.task("worker", initiator="user:a"):
            permit = await world.guard.acheck(CALL)
            disk.failure = OSError(28, "No space left on device")
            with pytest.raises(OutcomeUnrecorded, match="ENOSPC"):
                await permit.arun(world.count.__wrapped__)  # type: ignore[attr-defined]
            with pytest.raises(Denied) as denied:
                await world.acount(n=2)
            assert denied.value.code is Code.EVIDENCE_UNAVAILABLE
        assert world.ran == [1]

    def test_a_full_queue_and_a_deadline_are_nothing_to_what_happened(self, world: World, disk: Disk) -> None:
        group = world.guard.home.log._writer._group
        with world.guard.task("worker", initiator="user:a"):
            permit = world.guard.check(CALL)
            group._longest, group._patience = 0, 0.001
            with disk.held():
                busy = Caller(lambda: world.guard.home.log.append(b'{"id":"busy"}'))
                until(disk.waiting.is_set)
                run = Caller(lambda: permit.run(world.count.__wrapped__))  # type: ignore[attr-defined]
                until(lambda: queued(world.guard.home.log) == 1)
                run.join(0.05)
                assert run.is_alive(), "the output waits for its record"
            busy.done()
            assert run.done().index == 1

    def test_a_stream_that_is_thrown_away_in_the_middle_of_an_append(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        """The garbage collector runs finalizers in whatever thread it likes, also in one that is writing a record."""
        with world.guard.task("worker", initiator="user:a"):
            stream = world.items()
            assert next(stream) == 1
            real, streams = shard_module.datasync, [stream]

            def sync(descriptor: int) -> None:
                if streams:
                    streams.pop().close()
                real(descriptor)

            monkeypatch.setattr(shard_module, "datasync", sync)
            assert world.count(n=1) == 1
            until(lambda: sorted(world.statuses()) == ["cancelled", "ok"])
        assert not world.guard.home.log.poisoned


class TestInMidLoad:
    async def test_the_loop_goes_on(self, world: World, disk: Disk) -> None:
        with world.guard.task("many", initiator="user:a"):
            disk.hold()
            calls = [asyncio.create_task(world.acount(n=number)) for number in range(64)]
            ticks = 0
            while not disk.waiting.is_set() or ticks < 5:
                await asyncio.sleep(0.001)
                ticks += 1
            assert world.ran == [], "nothing runs before its decision is durable"
            disk.free()
            assert sorted(await asyncio.gather(*calls)) == list(range(64))

    def test_64_threads_and_64_tasks_and_a_disk_that_fails(self, home: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(home)
        disk.pretend(monkeypatch)
        results: list[int | BaseException] = []

        def sync_calls(number: int) -> None:
            for at in range(100_000):  # until it hears of the failure
                try:
                    results.append(world.count(n=number * 1_000_000 + at))
                except (Denied, OutcomeUnrecorded) as error:
                    results.append(error)
                    return

        async def async_calls(number: int) -> None:
            for at in range(100_000):  # until it hears of the failure
                try:
                    results.append(await world.acount(n=number * 1_000_000 + at))
                except (Denied, OutcomeUnrecorded) as error:
                    results.append(error)
                    return

        async def tasks() -> None:
            await asyncio.gather(*[async_calls(number) for number in range(100, 164)])

        with world.guard.task("many", initiator="user:a"):
            threads = [threading.Thread(target=copy_context().run, args=(sync_calls, number)) for number in range(64)]
            threads.append(threading.Thread(target=copy_context().run, args=(asyncio.run, tasks())))
            for thread in threads:
                thread.start()
            until(lambda: len(results) > 300, 30)
            disk.failure = OSError(5, "Input/output error")
            for thread in threads:
                thread.join(30)
                assert not thread.is_alive(), "a caller was stranded"
        errors = [one for one in results if not isinstance(one, int)]
        assert len(errors) == 128, "everybody heard of it"
        world.guard.close()
        outputs = [one for one in results if isinstance(one, int)]
        assert set(outputs) <= set(world.ran)
        with Home(home) as recovered:
            key = recovered.keys.log().public
        found = [one for one in records(home) if one["type"] in ("decision", "outcome")]
        allowed = {one["id"] for one in found if one["type"] == "decision" and one["verdict"] == "allow"}
        ended = [one["execution"] for one in found if one["type"] == "outcome" and one["status"] == "ok"]
        assert len(allowed) >= len(world.ran), "nothing ran without a durable decision"
        assert len(ended) == len(set(ended)) >= len(outputs), "no output was handed out without a durable outcome"
        assert set(ended) <= allowed
        assert [finding for finding in verify(home, key).findings if finding.severity == "error"] == []
