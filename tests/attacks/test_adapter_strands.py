"""Ways around the adapter for Strands Agents."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("strands")

from strands import Agent, tool
from strands.tools import PythonAgentTool

from agentguard import Guard
from agentguard.testing import Call, records
from agentguard_adapters.strands import GuardPlugin, guard_tools
from support.strands_scripted import ScriptedModel

POLICY = """
agentguard: 1
name: attacks
agents:
  lead: {tools: {pay: {amount: any}, wire: {amount: any}}, delegates: {helper: {depth: 1}}}
  helper: {tools: {pay: {amount: {range: {max: 1}}}, wire: {amount: any}}}
"""
paid: list[int] = []


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[Guard]:
    paid.clear()
    with Guard.open(POLICY, home=tmp_path / "home", durability="process") as opened, opened.task("lead", initiator="user:test"):
        yield opened


def pay(amount: int) -> str:
    """Pays."""
    paid.append(amount)
    return "paid"


def run(guard: Guard, tools: list[Any], *calls: Call) -> list[tuple[str, str, str]]:
    """Let the helper's model make these calls: what was decided."""
    Agent(model=ScriptedModel(list(calls)), tools=tools, plugins=[GuardPlugin(guard, agent="helper")], callback_handler=None)("go")
    return [(record["agent"], record["tool"], record["verdict"]) for record in records(guard, "decision")]


def test_a_tool_that_was_guarded_for_another_agent(guard: Guard) -> None:
    """It acted for the agent that it was made for, and under that one's authority."""
    assert run(guard, guard_tools(guard, [tool(pay)], agent="lead"), Call("pay", {"amount": 7})) == [("helper", "pay", "deny")]
    assert paid == []


def test_a_tool_that_another_guard_guards_asks_both(guard: Guard, tmp_path: Path) -> None:
    with Guard.open(POLICY, home=tmp_path / "other", durability="process") as other:
        tools = guard_tools(other, [tool(pay)], agent="helper")
        assert run(guard, tools, Call("pay", {"amount": 7})) == [("helper", "pay", "deny")]
        assert run(guard, tools, Call("pay", {"amount": 1}))[1:] == [("helper", "pay", "allow")]
        assert [record["verdict"] for record in records(other, "decision")] == ["deny"]  # the other one's task is not this one's
    assert paid == []


def test_two_tools_that_share_a_function_are_two_tools(guard: Guard) -> None:
    calls = [Call("wire", {"amount": 7}), Call("pay", {"amount": 8})]
    assert sorted(run(guard, [tool(name="wire")(pay), tool(pay)], *calls)) == [("helper", "pay", "deny"), ("helper", "wire", "allow")]
    assert paid == [7]


def test_a_tool_that_streams_shows_none_of_its_events_past_a_rule_for_outputs(tmp_path: Path) -> None:
    key = "AKIA" + "QQ22RR33SS44TT55"
    policy = POLICY + "tools: {pay: {output: {secrets: [aws]}}, wire: {output: {secrets: [aws]}}}\n"

    @tool(name="wire")
    async def streams(amount: int) -> Any:
        """Wires."""
        yield key[:9]
        yield key[9:]
        yield "wired"

    def legacy(use: Any, **more: Any) -> Any:
        status = "error" if use["input"]["amount"] == 2 else "success"
        return {"toolUseId": use["toolUseId"], "status": status, "content": [{"text": f"used {key}"}]}

    spec: Any = {
        "name": "pay",
        "description": "Pays.",
        "inputSchema": {"json": {"type": "object", "properties": {"amount": {"type": "integer"}}}},
    }
    model = ScriptedModel(*[[Call(name, {"amount": amount})] for name, amount in (("wire", 1), ("pay", 1), ("pay", 2))])
    with Guard.open(policy, home=tmp_path / "ruled", durability="process") as ruled, ruled.task("lead", initiator="user:test"):
        tools: list[Any] = [streams, PythonAgentTool("pay", spec, legacy)]
        agent = Agent(model=model, tools=tools, plugins=[GuardPlugin(ruled, agent="lead")], callback_handler=None)

        async def play() -> list[Any]:
            return [event async for event in agent.stream_async("go")]

        events = asyncio.run(play())
        assert [outcome["shaped"] is not None for outcome in records(ruled, "outcome")] == [True, True, True]
    said = repr([event for event in events if "tool_stream_event" in event or "message" in event]) + repr(agent.messages)
    assert "wired" in said
    assert "used [redacted-aws]" in said
    assert key not in said
    assert key[9:] not in said
