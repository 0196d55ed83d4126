"""Ways around a stand-in, each tried: whose call it is, by which name, how often, and with which arguments."""

from __future__ import annotations

import asyncio
import copy
import functools
import pickle
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest

from agentguard import Denied, Guard, InvalidInput
from agentguard.context import current_task
from agentguard.testing import assert_denied, records
from agentguard_adapters.loops import Toolbox
from agentguard_adapters.stand_in import Asked, asking, awaited, stand_in

POLICY = """
agentguard: 1
name: attacks
agents:
  triage:
    tools: {pay: {amount: any}, wire: {amount: any}, stream: {amount: {range: {max: 10}}}, many: {rest: any}}
    delegates: {helper: {depth: 1}}
  helper:
    tools: {pay: {amount: {range: {max: 1}}}, wire: {amount: {range: {max: 1}}}}
"""
paid: list[Any] = []


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[Guard]:
    paid.clear()
    with Guard.open(POLICY, home=tmp_path / "home", durability="process") as opened, opened.task("triage", initiator="user:test"):
        yield opened


def pay(amount: int) -> str:
    """Pays."""
    paid.append(amount)
    return "paid"


async def stream(amount: int) -> AsyncIterator[str]:
    """Pays bit by bit."""
    paid.append(amount)
    yield "paid"


def who(guard: Guard) -> list[tuple[str, str, str]]:
    return [(record["agent"], record["tool"], record["verdict"]) for record in records(guard, "decision")]


def test_a_tool_that_the_framework_knows_by_another_name_is_still_its_agents(guard: Guard) -> None:
    """The hook speaks of `pay`, the function is registered as `wire`: unclaimed, the call would be the current task's agent's."""
    made = stand_in(guard, guard.tool(name="wire")(pay), name="pay", on_deny="raise")
    with asking("helper", "pay", "call-1") as asked, assert_denied("argument_not_allowed"):
        made(amount=7)
    assert asked.denied is not None
    assert who(guard) == [("helper", "wire", "deny")]
    assert paid == []


def test_a_stand_in_of_a_stand_in_is_one_decision(guard: Guard) -> None:
    made = stand_in(guard, stand_in(guard, pay), agent="helper", on_deny="raise")
    with assert_denied("argument_not_allowed"):
        made(7)
    assert made(1) == "paid"
    assert who(guard) == [("helper", "pay", "deny"), ("helper", "pay", "allow")]


def test_what_was_announced_is_taken_once(guard: Guard) -> None:
    """By parallel calls, in copies of the context that stay behind, and by a call of the same name within."""
    made = stand_in(guard, pay)
    with asking("helper", "pay", "call-1"):
        left = [copy_context() for _ in range(8)]
    threads = [threading.Thread(target=context.run, args=(made, 1)) for context in left]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(agent for agent, _, _ in who(guard)) == ["helper"] + ["triage"] * 7


def test_a_call_that_was_refused_does_not_run_later(guard: Guard) -> None:
    """The hook gave up on a call and said so; what it started in a copy of the context comes late."""
    made = stand_in(guard, pay, on_deny="raise")
    with asking("triage", "pay", "call-1", {"amount": 5}) as asked:
        left = copy_context()
    refused = asked.refuse(guard, "the framework did not wait")
    with pytest.raises(Denied) as caught:
        left.run(made, 5)
    assert caught.value is refused
    assert paid == []


def test_arguments_that_only_a_hook_saw_do_not_count(guard: Guard) -> None:
    made = stand_in(guard, pay, agent="helper", on_deny="raise")
    with asking("helper", "pay", "call-1", {"amount": 1}), assert_denied("argument_not_allowed"):
        made(70)
    with asking("helper", "pay", "call-2", {"amount": 1, "note": "dropped on the way"}), assert_denied("malformed_call"):
        made(1)
    assert paid == []


@pytest.mark.parametrize("way", ["keyword", "position"])
def test_the_frameworks_own_argument_changes_nothing_that_was_judged(guard: Guard, way: str) -> None:
    def wire(context: Any, amount: int) -> str:
        paid.append((context, amount))
        return "paid"

    made = stand_in(guard, wire, injected=("context",), agent="helper", on_deny="raise")
    with assert_denied("malformed_call"):
        made(context="made up", amount=1)
    with asking("helper", "wire", "call-1", {"amount": 1, "context": "made up"}), assert_denied("malformed_call"):
        made(object(), amount=1)
    with assert_denied("argument_not_allowed"):
        made(object(), 70) if way == "position" else made(context=object(), amount=70)
    with assert_denied("malformed_call"):
        made(object(), 1, amount=1)
    assert paid == []


def test_positional_arguments_of_a_variadic_tool_are_judged(guard: Guard) -> None:
    def many(*rest: int) -> str:
        paid.append(rest)
        return "paid"

    assert stand_in(guard, many)(1, 2) == "paid"
    assert paid == [(1, 2)]


def test_copies_of_a_stand_in_ask_too(guard: Guard) -> None:
    made = stand_in(guard, pay, agent="helper", on_deny="raise")
    ways: list[Callable[[int], Any]] = [copy.copy(made), copy.deepcopy(made), functools.partial(made), functools.wraps(made)(made)]
    for way in ways:
        with assert_denied("argument_not_allowed"):
            way(7)
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):  # by name it would come back as the function itself
        pickle.dumps(made)
    assert paid == []


def test_a_mark_that_was_copied_opens_nothing(guard: Guard) -> None:
    """`functools.wraps` copies what says that a function is a stand-in."""

    def wire(amount: int) -> str:
        paid.append(amount)
        return "paid"

    functools.update_wrapper(wire, stand_in(guard, pay), assigned=())
    with assert_denied("argument_not_allowed"):
        stand_in(guard, wire, agent="helper", on_deny="raise")(70)
    assert paid == []


def test_another_guards_stand_in_is_not_taken_apart(guard: Guard, tmp_path: Path) -> None:
    with Guard.open(POLICY, home=tmp_path / "other", durability="process") as other, pytest.raises(InvalidInput, match="another guard"):
        stand_in(guard, stand_in(other, pay))


def test_a_value_that_breaks_when_it_is_looked_at_runs_nothing(guard: Guard) -> None:
    class Broken:
        model_fields = {"x": None}  # noqa: RUF012

        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(name)

    made: Any = stand_in(guard, pay)
    with pytest.raises(RuntimeError):
        made(Broken())
    assert paid == []


def test_a_stream_that_is_denied_does_not_begin(guard: Guard) -> None:
    made = stand_in(guard, stream, on_deny="raise")
    with assert_denied("argument_not_allowed"):
        made(70)

    async def first() -> None:
        items = made(7)
        assert paid == []
        async for _ in items:
            break
        await items.aclose()

    asyncio.run(first())
    assert paid == [7]
    assert [record["status"] for record in records(guard, "outcome")] == ["cancelled"]


def test_a_stream_is_judged_without_the_event_loop(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deciding at once would write to the disk in the loop, and every other agent would wait."""
    monkeypatch.setattr(guard, "check", None)
    made = awaited(stand_in(guard, stream, on_deny="raise"))

    async def run() -> list[str]:
        with assert_denied("argument_not_allowed"):
            await made(70)
        return [item async for item in await made(7)]

    assert asyncio.run(run()) == ["paid"]
    assert paid == [7]


def test_a_stream_of_a_loop_is_judged_and_told(guard: Guard) -> None:
    def call(amount: int) -> dict[str, Any]:
        return {"id": f"call-{amount}", "type": "function", "function": {"name": "stream", "arguments": {"amount": amount}}}

    tools = Toolbox(guard, [stream], agent="triage")
    bad, good = asyncio.run(tools.ahandle_tool_calls({"tool_calls": [call(70), call(7)]}))
    assert bad["content"].startswith("Denied (argument_not_allowed)")
    assert good["content"] == '["paid"]'
    assert paid == [7]


def test_a_coroutine_that_is_put_off_is_judged_when_it_runs(guard: Guard) -> None:
    """Made under one task, awaited under none."""

    async def wire(amount: int) -> str:
        paid.append(amount)
        return "paid"

    made = stand_in(guard, wire, on_deny="raise")

    async def later() -> None:
        task = guard.task("triage", initiator="user:test")
        with task:
            put_off = made(5)
        task.close()
        await put_off

    token = current_task.set(None)
    try:
        with assert_denied("artifact_missing"):
            asyncio.run(later())
    finally:
        current_task.reset(token)
    assert paid == []


def test_asked_of_another_tool_is_left_alone(guard: Guard) -> None:
    asked = Asked("helper", "wire")
    assert not asked.take("pay")
    assert not asked.taken
