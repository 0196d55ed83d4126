"""What happens around a tool's body: sync and async, threads, nesting, generators, exceptions, cancellation, fork, crash."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import json
import os
import pickle
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentguard import Denied, Guard, InvalidInput, OutcomeUnrecorded, ToolCall
from agentguard.log import iter_records
from agentguard.tools.integrity import register

POLICY = """
agentguard: 1
name: runs
agents:
  triage:
    tools:
      add: {a: any, b: any}
      echo: {x: any}
      outer: {x: any}
      fail: {}
      stream: {n: any}
      slow: {x: any}
    delegates: {writer: {depth: 1}}
  writer:
    tools: {echo: {x: {one_of: [1, 2]}}}
"""


@pytest.fixture(params=["process", "fsync"])
def guard(home: Path, request: pytest.FixtureRequest) -> Iterator[Guard]:
    with Guard.open(POLICY, home=home, durability=request.param) as opened:
        yield opened


def records(guard: Guard, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(record) for _, _, record in iter_records(guard.home.path)]
    return [record for record in found if record["type"] == kind]


def last_outcome(guard: Guard) -> dict[str, Any]:
    return records(guard, "outcome")[-1]


def test_the_decision_is_on_disk_before_the_body_runs(guard: Guard) -> None:
    @guard.tool
    def echo(x: int) -> int:
        assert records(guard, "decision")[-1]["tool"] == "echo"
        assert not records(guard, "outcome")
        return x

    with guard.task("triage", initiator="user:alice"):
        assert echo(1) == 1
    outcome = last_outcome(guard)
    assert outcome["status"] == "ok"
    assert outcome["execution"] == records(guard, "decision")[-1]["id"]


def test_defaults_and_positions_are_bound_before_the_check(guard: Guard) -> None:
    seen = []

    @guard.tool
    def add(a: int, b: int = 5) -> int:
        seen.append((a, b))
        return a + b

    with guard.task("triage", initiator="user:alice"):
        assert add(1) == 6
        permit = guard.check(ToolCall("triage", "add", {"a": 1}))
        assert dict(permit.call.arguments) == {"a": 1, "b": 5}
        assert permit.run(add) == 6
    assert seen == [(1, 5), (1, 5)]


def test_what_was_checked_is_what_runs(guard: Guard) -> None:
    """The caller changes the arguments between check and run, at every level."""
    got = []

    @guard.tool
    def echo(x: Any) -> None:
        got.append(x)
        x["list"].append("by the tool")

    arguments = {"x": {"list": [1], "deep": {"a": 1}}}
    with guard.task("triage", initiator="user:alice"):
        call = ToolCall("triage", "echo", arguments)
        arguments["x"]["list"].append(2)  # type: ignore[attr-defined]  # a list, as written above
        permit = guard.check(call)
        arguments["x"]["deep"]["a"] = 2  # type: ignore[index,call-overload]  # a dict, as written above
        with pytest.raises(TypeError):
            permit.call.arguments["x"] = 3  # type: ignore[index]  # the point of the test
        with pytest.raises(AttributeError):
            permit.call.arguments["x"]["list"].append(3)
        permit.run(echo)
    assert got == [{"list": [1, "by the tool"], "deep": {"a": 1}}]
    assert permit.call.arguments["x"]["list"] == (1,)


def test_a_permit_is_for_once(guard: Guard) -> None:
    ran = []

    @guard.tool
    def echo(x: int) -> None:
        ran.append(x)

    with guard.task("triage", initiator="user:alice"):
        permit = guard.check(ToolCall("triage", "echo", {"x": 1}))
        results = []

        def work() -> None:
            try:
                permit.run(echo)
                results.append("ran")
            except Denied as denied:
                results.append(str(denied.code))

        threads = [threading.Thread(target=contextvars.copy_context().run, args=(work,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(results) == ["ran", *["replay_detected"] * 7][::-1] or sorted(results).count("ran") == 1
    assert ran == [1]


def test_a_permit_does_not_travel(guard: Guard) -> None:
    with guard.task("triage", initiator="user:alice"):
        permit = guard.check(ToolCall("triage", "echo", {"x": 1}))
        for way in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError):
                way(permit)  # type: ignore[operator]  # each takes one object
        permit.release()
        permit.release()
        with pytest.raises(Denied):
            permit.run(lambda x: x)
    assert last_outcome(guard)["status"] == "not_run"


def test_a_permit_expires(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    with guard.task("triage", initiator="user:alice"):
        permit = guard.check(ToolCall("triage", "echo", {"x": 1}))
        clock = guard._enforcement.clock
        monkeypatch.setattr(clock, "_wall", lambda: time.time_ns() + 31 * 10**9)
        with pytest.raises(Denied) as caught:
            permit.run(lambda x: x)
    assert caught.value.code == "artifact_expired"
    assert last_outcome(guard)["status"] == "not_run"


def test_exceptions_pass_and_are_recorded(guard: Guard) -> None:
    @guard.tool
    def fail() -> None:
        raise KeyError("inner")

    with guard.task("triage", initiator="user:alice"), pytest.raises(KeyError, match="inner"):
        fail()
    outcome = last_outcome(guard)
    assert (outcome["status"], outcome["error"], outcome["output"]) == ("error", "builtins.KeyError", None)


def test_nested_calls_are_checked_and_know_their_cause(guard: Guard) -> None:
    @guard.tool
    def echo(x: int) -> int:
        return x

    @guard.tool
    def outer(x: int) -> int:
        return echo(x) + 1

    with guard.task("triage", initiator="user:alice") as task:
        assert outer(1) == 2
        with task.delegate("writer"), pytest.raises(Denied):
            echo(3)
    first, second, third = records(guard, "decision")
    assert (first["tool"], first["caused_by"]) == ("outer", None)
    assert (second["tool"], second["caused_by"]) == ("echo", first["id"])
    assert third["caused_by"] is None


def test_a_nested_task_is_a_new_root_and_leaving_restores_the_outer(guard: Guard) -> None:
    @guard.tool
    def echo(x: int) -> int:
        return x

    @guard.tool
    def outer(x: int) -> int:
        with guard.task("writer", initiator="user:bob"):
            echo(1)
        return echo(9)

    with guard.task("triage", initiator="user:alice") as task:
        assert outer(1) == 9
    root, nested = records(guard, "delegation")
    assert nested["task"] != root["task"] == task.id
    assert nested["caused_by"] == records(guard, "decision")[0]["id"]
    assert [record["agent"] for record in records(guard, "decision")] == ["triage", "writer", "triage"]


async def test_async_tools(guard: Guard) -> None:
    @guard.tool
    async def slow(x: int) -> int:
        await asyncio.sleep(0)
        return x

    assert asyncio.iscoroutinefunction(slow)
    async with guard.task("triage", initiator="user:alice"):
        assert await asyncio.gather(*(slow(x) for x in range(5))) == [0, 1, 2, 3, 4]
        permit = await guard.acheck(ToolCall("triage", "slow", {"x": 1}))
        with pytest.raises(InvalidInput):
            permit.run(slow.__wrapped__)  # type: ignore[attr-defined]  # set by functools.update_wrapper
        assert await permit.arun(slow) == 1
    with pytest.raises(Denied):
        await slow(1)
    assert {record["status"] for record in records(guard, "outcome")} == {"ok"}


async def test_cancellation_is_recorded(guard: Guard) -> None:
    started = asyncio.Event()

    @guard.tool
    async def slow(x: int) -> int:
        started.set()
        await asyncio.sleep(60)
        return x

    async with guard.task("triage", initiator="user:alice"):
        running = asyncio.create_task(slow(1))
        await started.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert last_outcome(guard)["status"] == "cancelled"


async def test_a_cancelled_check_leaves_not_run(home: Path) -> None:
    with Guard.open(POLICY, home=home, durability="fsync") as guard:
        async with guard.task("triage", initiator="user:alice"):
            for delay in range(6):
                waiting = asyncio.create_task(guard.acheck(ToolCall("triage", "echo", {"x": 1})))
                for _ in range(delay):
                    await asyncio.sleep(0)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    (await waiting).release()
                    raise asyncio.CancelledError
        for _ in range(200):
            if len(records(guard, "outcome")) == len(records(guard, "decision")):
                break
            await asyncio.sleep(0.01)
        assert {record["status"] for record in records(guard, "outcome")} <= {"not_run"}
        assert len(records(guard, "outcome")) == len(records(guard, "decision"))


def test_generators(guard: Guard) -> None:
    @guard.tool
    def echo(x: int) -> int:
        return x

    @guard.tool
    def stream(n: int) -> Iterator[int]:
        for index in range(n):
            yield echo(index)

    with guard.task("triage", initiator="user:alice"):
        assert list(stream(3)) == [0, 1, 2]
        assert last_outcome(guard)["form"] == "stream"
        half = stream(3)
        assert next(half) == 0
        half.close()  # type: ignore[attr-defined]  # a generator
        assert last_outcome(guard)["status"] == "cancelled"
    decisions = records(guard, "decision")
    assert all(record["caused_by"] == decisions[0]["id"] for record in decisions[1:4])


def test_a_generator_takes_what_is_sent_and_thrown(guard: Guard) -> None:
    @guard.tool
    def stream(n: int) -> Any:
        got = yield n
        try:
            yield got
        except ValueError:
            yield "caught"
        return "done"

    with guard.task("triage", initiator="user:alice"):
        source = stream(1)
        assert next(source) == 1
        assert source.send("hello") == "hello"
        assert source.throw(ValueError()) == "caught"
        with pytest.raises(StopIteration) as stop:
            next(source)
        assert stop.value.value == "done"
    assert last_outcome(guard)["status"] == "ok"


async def test_async_generators(guard: Guard) -> None:
    @guard.tool
    async def stream(n: int) -> AsyncIterator[int]:
        for index in range(n):
            await asyncio.sleep(0)
            yield index

    async with guard.task("triage", initiator="user:alice"):
        assert [item async for item in stream(3)] == [0, 1, 2]
    assert last_outcome(guard)["status"] == "ok"


def test_two_agents_in_threads_do_not_mix(guard: Guard) -> None:
    @guard.tool
    def echo(x: int) -> int:
        return x

    results: list[tuple[str, Any]] = []
    barrier = threading.Barrier(2)

    def work(agent: str, value: int) -> None:
        with guard.task(agent, initiator=f"user:{agent}"):
            for _ in range(20):
                barrier.wait()
                try:
                    results.append((agent, echo(value)))
                except Denied as denied:
                    results.append((agent, str(denied.code)))

    threads = [threading.Thread(target=work, args=pair) for pair in (("triage", 7), ("writer", 7))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(results) == {("triage", 7), ("writer", "argument_not_allowed")}


async def test_two_agents_in_asyncio_do_not_mix(guard: Guard) -> None:
    @guard.tool
    async def echo(x: int) -> int:
        await asyncio.sleep(0)
        return x

    async def work(agent: str) -> Any:
        async with guard.task(agent, initiator="user:x"):
            await asyncio.sleep(0)
            try:
                return await echo(7)
            except Denied as denied:
                return str(denied.code)

    assert await asyncio.gather(*(work(agent) for agent in ("triage", "writer") * 5)) == [7, "argument_not_allowed"] * 5


def test_an_outcome_that_cannot_be_written_withholds_the_output(guard: Guard) -> None:
    @guard.tool
    def echo(x: int) -> int:
        guard.home.log.poison("the disk went away")
        return x

    with guard.task("triage", initiator="user:alice"):
        with pytest.raises(OutcomeUnrecorded):
            echo(1)
        with pytest.raises(Denied) as caught:
            echo(1)
    assert caught.value.code == "evidence_unavailable"


def test_a_forked_child_is_a_guard_of_its_own(guard: Guard) -> None:
    with guard.task("triage", initiator="user:alice"):
        permit = guard.check(ToolCall("triage", "echo", {"x": 1}))
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            answer = []
            try:
                permit.run(lambda x: x)
                answer.append("ran")
            except BaseException as error:
                answer.append(str(getattr(error, "code", type(error).__name__)))
            try:
                answer.append(guard.check(ToolCall("triage", "echo", {"x": 2})).run(lambda x: x))
            except BaseException as error:
                answer.append(repr(error))
            os.write(writing, json.dumps(answer).encode())
            guard.close()
            os._exit(0)
        os.waitpid(child, 0)
        assert json.loads(os.read(reading, 65536)) == ["integrity_failure", 2]
        assert permit.run(lambda x: x) == 1
    shards = {shard for shard, _, _ in iter_records(guard.home.path)}
    assert len(shards) == 2


def test_injected_arguments_are_not_the_models(guard: Guard) -> None:
    class Runtime:
        pass

    @guard.tool(name="echo", injected=("runtime",))
    def body(x: int, runtime: Any) -> Any:
        return (x, runtime)

    runtime = Runtime()
    with guard.task("triage", initiator="user:alice"):
        assert body(1, runtime=runtime) == (1, runtime)
        with pytest.raises(Denied) as caught:
            guard.check(ToolCall("triage", "echo", {"x": 1, "runtime": "forged"}))
    assert caught.value.code == "malformed_call"


def test_shapes_of_signatures(guard: Guard) -> None:
    @guard.tool(name="echo")
    def variadic(x: int, /, *rest: int, **more: Any) -> Any:
        return (x, rest, more)

    with guard.task("triage", initiator="user:alice"):
        assert variadic(1) == (1, (), {})
        with pytest.raises(Denied):
            variadic(1, 2)
        with pytest.raises(Denied):
            variadic(1, other=2)
        with pytest.raises(Denied):
            variadic(1, x=2)


def test_a_method_and_a_callable_object(guard: Guard) -> None:
    class Service:
        def __init__(self) -> None:
            self.got: list[int] = []

        def add(self, a: int, b: int) -> int:
            self.got.append(a)
            return a + b

    service = Service()
    add = guard.tool(service.add)
    with guard.task("triage", initiator="user:alice"):
        assert add(1, 2) == 3
    assert service.got == [1]


def test_another_tool_under_a_known_name(guard: Guard) -> None:
    @guard.tool
    def echo(x: int) -> int:
        return x

    with pytest.raises(InvalidInput, match="echo"):

        @guard.tool(name="echo")
        def other(x: int) -> int:
            return -x


def test_unsafe_development_says_so(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Guard.open(POLICY, home=home, durability="process", unsafe_development=True) as guard:

        @guard.tool
        def echo(x: int) -> int:
            return x

        @guard.tool(name="echo")
        def other(x: int) -> int:
            return -x

        with guard.task("triage", initiator="user:alice"):
            assert other(1) == -1
        assert [record["detail"]["again"] for record in records(guard, "lock")] == [False, True]
        assert records(guard, "open")[0]["detail"]["unsafe_development"] is True
    captured = capsys.readouterr()
    assert "UNSAFE" in captured.err
    assert not captured.out


def test_an_opaque_tool_needs_the_policys_word(home: Path) -> None:
    policy = "agentguard: 1\nname: o\nagents: {a: {tools: {len: {obj: any}}}}\n"
    for text, allowed in ((policy, False), (policy + "tools: {len: {opaque: accepted}}\n", True)):
        with Guard.open(text, home=home, durability="process") as guard:
            guard.tool(len)
            with guard.task("a", initiator="user:x"):
                assert guard.decide(ToolCall("a", "len", {"obj": "abc"})).allowed is allowed


def test_the_same_function_may_be_pinned_again_though_its_state_moved_on(guard: Guard) -> None:
    """What a mutable value in a closure holds is state; another value in its place is another tool."""

    def made(seen: list[str]) -> Any:
        def echo(x: Any) -> Any:
            seen.append("x")
            return x

        return echo

    echo = made([])
    first = guard.register(register(echo))
    echo("x")
    assert guard.register(register(echo)) is first
    with pytest.raises(InvalidInput, match="its closure differs"):
        guard.register(register(made(["other"])))
    with pytest.raises(InvalidInput, match="differs"):
        guard.register(register(echo, injected=("x",)))
