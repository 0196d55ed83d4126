"""Ways around the adapter for Agno."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["AGNO_TELEMETRY"] = "false"
pytest.importorskip("agno")

from agno.agent import Agent
from agno.tools.function import Function

from agentguard import Guard
from agentguard.testing import Call, records
from agentguard_adapters.agno import guard_agent
from support.agno_scripted import ScriptedModel

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


def who(guard: Guard) -> list[tuple[str, str, str]]:
    return [(record["agent"], record["tool"], record["verdict"]) for record in records(guard, "decision")]


def test_two_tools_that_share_a_function_are_two_tools(guard: Guard) -> None:
    """The second one ran as the first one, under the authority of whoever the task belonged to."""
    tools = [Function(name=name, entrypoint=pay) for name in ("wire", "pay")]
    model = ScriptedModel([Call("wire", {"amount": 7})], [Call("pay", {"amount": 8})])
    guard_agent(guard, Agent(name="helper", model=model, tools=tools, telemetry=False)).run("go")
    assert who(guard) == [("helper", "wire", "allow"), ("helper", "pay", "deny")]
    assert paid == [7]


def test_a_tool_that_is_registered_under_another_name_is_the_agents(guard: Guard) -> None:
    model = ScriptedModel([Call("send", {"amount": 8})])
    send = Function(name="send", entrypoint=guard.tool(name="pay")(pay))
    guard_agent(guard, Agent(name="helper", model=model, tools=[send], telemetry=False)).run("go")
    assert who(guard) == [("helper", "pay", "deny")]
    assert paid == []
