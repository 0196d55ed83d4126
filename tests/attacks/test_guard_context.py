"""Attacks on the current task: copied contexts, threads, loops, tasks that outlive others, are entered twice or closed out of order."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from agentguard import Denied, Guard
from agentguard.context import current_task
from support.guarded import POLICY, call, denied, records


@pytest.fixture
def guard(home: Path) -> Iterator[Guard]:
    with Guard.open(POLICY, home=home, durability="process") as opened:
        yield opened


@pytest.fixture
def echo(guard: Guard) -> Any:
    @guard.tool
    def echo(x: Any) -> Any:
        return x

    return echo


def in_thread(work: Callable[[], Any], context: contextvars.Context | None = None) -> Any:
    """What `work` gives or raises, in a thread and a context of its own."""
    answers: list[Any] = []

    def run() -> None:
        try:
            answers.append(work())
        except Denied as error:
            answers.append(str(error.code))

    chosen = context if context is not None else contextvars.Context()
    thread = threading.Thread(target=chosen.run, args=(run,))
    thread.start()
    thread.join()
    return answers[0]


# --- a context that outlives its task ---------------------------------------------------------------------------------------------------


def test_a_copied_context_is_worth_nothing_after_the_task(guard: Guard, echo: Any) -> None:
    with guard.task("triage", initiator="user:alice"):
        kept = contextvars.copy_context()
        assert kept.run(echo, 1) == 1
    denied("artifact_missing", kept.run, echo, 1)
    assert in_thread(lambda: echo(1), kept) == "artifact_missing"


async def test_an_asyncio_task_that_outlives_its_task(guard: Guard) -> None:
    @guard.tool(name="outer")
    async def slow(x: Any) -> Any:
        return x

    go = asyncio.Event()

    async def later() -> Any:
        await go.wait()
        return await slow(1)

    async with guard.task("triage", initiator="user:alice"):
        running = asyncio.create_task(later())
        await asyncio.sleep(0)
    go.set()
    with pytest.raises(Denied) as caught:
        await running
    assert caught.value.code == "artifact_missing"


async def test_a_callback_scheduled_inside_a_task_runs_after_it(guard: Guard, echo: Any) -> None:
    codes: list[Any] = []

    def fire() -> None:
        try:
            codes.append(echo(1))
        except Denied as error:
            codes.append(str(error.code))

    async with guard.task("triage", initiator="user:alice"):
        asyncio.get_running_loop().call_soon(fire)
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(fire)
    await asyncio.sleep(0)
    assert codes == [1, "artifact_missing"]


def test_a_pools_worker_does_not_keep_the_task_of_an_earlier_job(guard: Guard, echo: Any) -> None:
    with ThreadPoolExecutor(1) as pool:
        with guard.task("triage", initiator="user:alice"):
            assert pool.submit(contextvars.copy_context().run, echo, 1).result() == 1
            with pytest.raises(Denied):
                pool.submit(echo, 1).result()
        with pytest.raises(Denied):
            pool.submit(echo, 1).result()


def test_a_delegate_in_a_thread_does_not_change_the_parents_context(guard: Guard, echo: Any) -> None:
    with guard.task("triage", initiator="user:alice") as task:

        def work() -> Any:
            with task.delegate("writer"):
                return echo(9)

        assert in_thread(work, contextvars.copy_context()) == "argument_not_allowed"
        assert echo(9) == 9


# --- tasks entered twice, from two threads, closed out of order ---------------------------------------------------------------------------


def test_a_task_entered_twice_is_closed_once(guard: Guard, echo: Any) -> None:
    task = guard.task("triage", initiator="user:alice")
    with task:
        with task:
            assert echo(1) == 1
        denied("artifact_missing", echo, 1)
    denied("artifact_missing", echo, 1)
    assert current_task.get() is None


def test_a_closed_task_is_not_opened_again(guard: Guard, echo: Any) -> None:
    task = guard.task("triage", initiator="user:alice")
    with task:
        pass
    task.start()
    denied("artifact_missing", echo, 1)
    denied("artifact_missing", guard.check, call(), task=task)
    denied("artifact_missing", task.delegate("writer").start)
    task.close()


def test_a_task_entered_by_two_threads_mixes_no_contexts(guard: Guard, echo: Any) -> None:
    """Each thread has a task of its own outside; whoever closes the shared one gets its own back, or nothing."""
    shared = guard.task("writer", initiator="user:shared").issue()
    wide = guard.task("triage", initiator="user:wide").issue()
    turns = [threading.Event() for _ in range(2)]

    def first() -> Any:
        shared.start()
        turns[0].set()
        assert turns[1].wait(10)
        shared.close()
        return current_task.get()

    answer: list[Any] = []
    thread = threading.Thread(target=contextvars.Context().run, args=(lambda: answer.append(first()),))
    thread.start()
    assert turns[0].wait(10)

    def second() -> None:
        current_task.set(wide)
        shared.start()
        turns[1].set()
        thread.join(10)

    in_thread(second)
    assert answer == [None]


def test_closing_a_shared_task_elsewhere_does_not_hand_over_the_task_around_it(guard: Guard, echo: Any) -> None:
    """The closer stands in a third context, where the shared task is current and nothing was around it."""
    shared = guard.task("writer", initiator="user:shared").issue()
    with guard.task("triage", initiator="user:wide"):
        shared.start()
        third = contextvars.Context()
        third.run(current_task.set, shared)

        def close() -> Any:
            shared.close()
            return echo(9)

        assert in_thread(close, third) == "artifact_missing"


def test_closing_an_outer_task_first_does_not_widen_the_inner_one(guard: Guard, echo: Any) -> None:
    """triage opens a narrow task, then a narrower one; closing the one in the middle must not make triage current under the last."""
    with guard.task("triage", initiator="user:alice"):
        middle = guard.task("writer", initiator="user:bob").start()
        last = guard.task("writer", initiator="user:carol", scope={}).start()
        middle.close()
        denied("tool_not_in_scope", echo, 1)
        with pytest.raises(Denied):
            guard.check(call(arguments={"x": 9}))
        last.close()
        with pytest.raises(Denied):
            guard.check(call(agent="writer"))


def test_leaving_a_task_whose_delegate_was_left_open_restores_the_outer(guard: Guard, echo: Any) -> None:
    with guard.task("triage", initiator="user:alice"):
        with guard.task("triage", initiator="user:bob") as inner:
            inner.delegate("writer").start()
        assert echo(9) == 9


def test_one_task_issued_by_racing_threads_is_one_task(guard: Guard) -> None:
    """Two artifacts under one handle: stopping the one that shows would leave the other."""
    for _ in range(5):
        task = guard.task("triage", initiator="user:alice")
        barrier = threading.Barrier(8)
        ids: list[str] = []

        def work(task: Any = task, barrier: Any = barrier, ids: list[str] = ids) -> None:
            barrier.wait()
            permit = guard.check(call(), task=task.issue())
            ids.append(permit.task)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(ids) == {task.id}
    assert len(records(guard, "delegation")) == 5


# --- streams in another context -----------------------------------------------------------------------------------------------------------


def test_a_stream_goes_on_under_the_task_it_began_in(guard: Guard, echo: Any) -> None:
    """writer's stream, resumed by triage, has not become triage's: nor triage's writer's."""

    @guard.tool
    def stream(n: int) -> Iterator[Any]:
        for _ in range(n):
            try:
                yield echo(9)
            except Denied as error:
                yield str(error.code)

    with guard.task("triage", initiator="user:alice") as task:
        source: Any = stream(3)
        assert next(source) == 9
        with task.delegate("writer"):
            assert next(source) == 9
            denied("argument_not_allowed", echo, 9)
    with guard.task("triage", initiator="user:bob"):
        assert next(source) == "artifact_missing"  # its own task is over
        assert echo(9) == 9
        source.close()


async def test_an_async_stream_goes_on_under_the_task_it_began_in(guard: Guard, echo: Any) -> None:
    @guard.tool
    async def stream(n: int) -> Any:
        for _ in range(n):
            yield echo(9)

    async with guard.task("triage", initiator="user:alice") as task:
        source: Any = stream(3)
        assert await anext(source) == 9
        async with task.delegate("writer"):
            assert await anext(source) == 9
    async with guard.task("triage", initiator="user:bob"):
        with pytest.raises(Denied):
            await anext(source)


def test_calls_in_a_stream_are_caused_by_it_and_others_are_not(guard: Guard, echo: Any) -> None:
    @guard.tool
    def stream(n: int) -> Iterator[Any]:
        for index in range(n):
            yield echo(index)

    with guard.task("triage", initiator="user:alice"):
        source: Any = stream(2)
        next(source)
        echo(7)
        assert [*source] == [1]
    first, inside, outside, again = records(guard, "decision")
    assert inside["caused_by"] == again["caused_by"] == first["id"]
    assert outside["caused_by"] is None


# --- nested agents ------------------------------------------------------------------------------------------------------------------------


def test_a_sub_agent_inside_a_tool_is_guarded_in_every_way_it_may_run(guard: Guard, echo: Any) -> None:
    @guard.tool
    def outer(x: Any) -> list[Any]:
        def sub() -> Any:
            try:
                return echo(9)
            except Denied as error:
                return str(error.code)

        async def asub() -> Any:
            return sub()

        with ThreadPoolExecutor(1) as pool:
            return [
                sub(),
                pool.submit(sub).result(),
                pool.submit(contextvars.copy_context().run, sub).result(),
                pool.submit(asyncio.run, asub()).result(),
            ]

    with guard.task("triage", initiator="user:alice"):
        assert outer(1) == [9, "artifact_missing", 9, "artifact_missing"]
    causes = [r["caused_by"] for r in records(guard, "decision") if r["verdict"] == "allow"]
    assert causes[0] is None
    assert set(causes[1:]) == {records(guard, "decision")[0]["id"]}
