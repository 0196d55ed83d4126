"""Attacks with more than one guard or wrapper, and with callables of odd shapes: nothing of a body runs unchecked or unrecorded."""

from __future__ import annotations

import asyncio
import functools
import json
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentguard import Guard, InvalidInput
from support.guarded import POLICY, call, denied, records


@pytest.fixture
def guard(home: Path) -> Iterator[Guard]:
    with Guard.open(POLICY, home=home, durability="process") as opened:
        yield opened


@pytest.fixture
def ran() -> list[Any]:
    return []


# --- more than one guard, more than one wrapper ---------------------------------------------------------------------------------------


def test_a_guard_around_another_guards_tool_does_not_switch_that_guard_off(guard: Guard, tmp_path: Path, ran: list[Any]) -> None:
    with Guard.open(POLICY, home=tmp_path / "other", durability="process") as inner:

        @guard.tool
        @inner.tool
        def echo(x: Any) -> None:
            ran.append(x)

        with guard.task("triage", initiator="user:alice"):
            denied("artifact_missing", echo, 1)  # the inner guard has no task here
        assert [r["verdict"] for r in records(inner, "decision")] == ["deny"]
    assert ran == []


def test_a_tool_guarded_twice_by_one_guard_is_one_decision(guard: Guard, ran: list[Any]) -> None:
    @guard.tool
    @guard.tool
    def echo(x: Any) -> None:
        ran.append(x)

    with guard.task("triage", initiator="user:alice"):
        echo(1)
    assert ran == [1]
    assert len(records(guard, "decision")) == 1


def test_a_tool_of_one_guard_under_the_task_of_another(guard: Guard, tmp_path: Path, ran: list[Any]) -> None:
    """Same policy, same names: authority is not for every guard that happens to run in the process."""
    with Guard.open(POLICY, home=tmp_path / "other", durability="process") as other:

        @guard.tool
        def echo(x: Any) -> None:
            ran.append(x)

        with other.task("triage", initiator="user:alice") as task:
            denied("artifact_missing", echo, 1)
            denied("artifact_missing", guard.check, call(), task=task)
            assert not guard.decide(call(), task=task).allowed
    assert ran == []


def test_the_same_name_in_two_guards(guard: Guard, tmp_path: Path, ran: list[Any]) -> None:
    with Guard.open(POLICY, home=tmp_path / "other", durability="process") as other:

        @other.tool(name="echo")
        def theirs(x: Any) -> None:
            ran.append("theirs")

        @guard.tool(name="echo")
        def ours(x: Any) -> None:
            ran.append("ours")

        with guard.task("triage", initiator="user:alice"):
            denied("integrity_failure", guard.check(call()).run, theirs)
            with guard.check(call()).lend():
                denied("artifact_missing", theirs, 1)
    assert ran == []


def test_uses_are_counted_where_the_artifact_says_though_two_guards_share_a_task(guard: Guard, tmp_path: Path) -> None:
    """The other guard trusts our issuer. Two uses are two, not two a guard."""
    trust = tmp_path / "other"
    Guard.open(POLICY, home=trust, durability="process").close()
    jwk = guard.home.keys.issuer().public.jwk()
    (trust / "trust.json").write_text(json.dumps({"anchors": [{"iss": guard.home.issuer.iss, "jwk": jwk}], "agents": {}}))
    with Guard.open(POLICY, home=trust, durability="process") as other, guard.task("triage", initiator="user:alice", uses=2) as task:
        guard.check(call())
        guard.check(call())
        denied("budget_exhausted", guard.check, call())
        denied("artifact_missing", other.check, call())
        elsewhere = other.accept(task.presentation(), guard.home.keys.holder("triage"))
        denied("state_unavailable", other.check, call(), task=elsewhere)


def test_two_objects_of_one_class_stay_apart(guard: Guard, ran: list[Any]) -> None:
    class Service:
        def __init__(self, name: str) -> None:
            self.name = name

        def echo(self, x: Any) -> None:
            ran.append(self.name)

    one, two = guard.tool(Service("one").echo), guard.tool(Service("two").echo)
    with guard.task("triage", initiator="user:alice"):
        two(1)
        one(1)
    assert ran == ["two", "one"]


# --- shapes of callables: nothing of a body runs unrecorded ---------------------------------------------------------------------------


def test_a_coroutine_out_of_a_sync_tool_is_never_run(guard: Guard, ran: list[Any]) -> None:
    async def later(x: Any) -> None:
        ran.append(x)

    @guard.tool
    def echo(x: Any) -> Any:
        return later(x)

    with guard.task("triage", initiator="user:alice"), pytest.raises(InvalidInput, match="arun"):
        echo(1)
    assert ran == []
    assert records(guard, "outcome")[-1]["status"] == "error"


def test_another_awaitable_out_of_a_sync_tool_is_not_handed_out(guard: Guard, ran: list[Any]) -> None:
    class Later:
        def __await__(self) -> Any:
            ran.append("awaited")
            yield

    @guard.tool
    def echo(x: Any) -> Any:
        return Later()

    @guard.tool
    @types.coroutine
    def outer(x: Any) -> Any:
        ran.append("generator")
        yield

    with guard.task("triage", initiator="user:alice"):
        with pytest.raises(InvalidInput, match="arun"):
            echo(1)
        source = outer(1)
        assert "generator" not in ran
        list(source)  # a generator of the old kind is a stream, recorded as such
    assert ran == ["generator"]
    assert [r["status"] for r in records(guard, "outcome")] == ["error", "ok"]


async def test_a_future_out_of_a_sync_tool_is_not_handed_out(guard: Guard, ran: list[Any]) -> None:
    async def later() -> None:
        await asyncio.sleep(0)
        ran.append("later")

    @guard.tool
    def echo(x: Any) -> Any:
        return asyncio.ensure_future(later())

    async with guard.task("triage", initiator="user:alice"):
        with pytest.raises(InvalidInput, match="arun"):
            echo(1)
        await asyncio.sleep(0.01)
    assert ran == []
    assert records(guard, "outcome")[-1]["status"] == "error"


async def test_an_awaitable_out_of_an_async_tool_is_not_handed_out(guard: Guard, ran: list[Any]) -> None:
    async def later() -> None:
        ran.append("later")

    @guard.tool
    async def echo(x: Any) -> Any:
        return later()

    async with guard.task("triage", initiator="user:alice"):
        with pytest.raises(InvalidInput):
            await echo(1)
    assert ran == []
    assert records(guard, "outcome")[-1]["status"] == "error"


async def test_async_callables_of_every_shape(guard: Guard, ran: list[Any]) -> None:
    class Echo:
        async def __call__(self, x: Any) -> Any:
            ran.append(x)
            return x

    async def two(a: Any, x: Any) -> Any:
        ran.append(x)
        return x

    async with guard.task("triage", initiator="user:alice"):
        partial: Any = guard.tool(name="outer")(functools.partial(two, 0))
        assert await partial(1) == 1
        guarded: Any = guard.tool(name="echo")(Echo())
        assert await guarded(2) == 2
    assert ran == [1, 2]
    assert [r["status"] for r in records(guard, "outcome")] == ["ok", "ok"]


def test_descriptors_and_classes_are_denied_or_refused(guard: Guard, ran: list[Any]) -> None:
    class Echo:
        def __init__(self, x: Any) -> None:
            ran.append(x)

        @guard.tool
        def outer(self, x: Any) -> None:
            ran.append(x)

    guarded: Any = guard.tool(name="echo")(Echo)
    static: Any = guard.tool(name="nothing")(staticmethod(lambda: ran.append("static")))
    with pytest.raises(InvalidInput):
        guard.tool(name="stream")(classmethod(lambda cls: None))
    with guard.task("triage", initiator="user:alice"):
        denied("integrity_failure", guarded, 1)
        denied("integrity_failure", static)
        denied("malformed_call", Echo.outer, object(), 1)
    assert ran == []


def test_static_methods_and_lambdas(guard: Guard, ran: list[Any]) -> None:
    class Service:
        @staticmethod
        @guard.tool
        def echo(x: Any) -> None:
            ran.append(x)

        @classmethod
        @guard.tool(name="outer", injected=("cls",))
        def made(cls, x: Any) -> None:
            ran.append(x)

    guarded: Any = guard.tool(name="nothing")(lambda: ran.append("lambda"))
    with guard.task("triage", initiator="user:alice"):
        Service.echo(1)
        Service().echo(2)
        guarded()
        denied("malformed_call", Service.made, 1)
    assert ran == [1, 2, "lambda"]


def test_an_object_that_looks_like_ours(guard: Guard, ran: list[Any]) -> None:
    """Marks can be copied to anything."""

    @guard.tool
    def echo(x: Any) -> None:
        ran.append(x)

    class Forged:
        def __call__(self, x: Any) -> None:
            ran.append("forged")

    forged: Any = Forged()
    vars(forged).update(vars(echo))
    with guard.task("triage", initiator="user:alice"):
        denied("integrity_failure", guard.check(call()).run, forged)
    assert ran == []
