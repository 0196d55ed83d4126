"""Ways around the adapter for Strands Agents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("strands")

from strands import Agent, tool

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
