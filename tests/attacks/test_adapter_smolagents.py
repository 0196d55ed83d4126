"""Ways around the adapter for smolagents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("smolagents")

from smolagents import FinalAnswerTool
from smolagents import tool as make_tool

from agentguard import Guard
from agentguard.testing import Call, records
from agentguard_adapters.smolagents import guard_agent
from support.smolagents_scripted import caller, coder

POLICY = """
agentguard: 1
name: attacks
agents:
  lead: {tools: {pay: {amount: any}}, delegates: {helper: {depth: 1}}}
  helper: {tools: {pay: {amount: {range: {max: 1}}}}}
"""
ran: list[Any] = []


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[Guard]:
    ran.clear()
    with Guard.open(POLICY, home=tmp_path / "home", durability="process") as opened, opened.task("lead", initiator="user:test"):
        yield opened


@pytest.mark.parametrize("kind", ["calls", "code"])
@pytest.mark.parametrize("name", ["final_answer", "finish"])
def test_an_answer_that_acts_is_a_tool(guard: Guard, kind: str, name: str) -> None:
    """smolagents' own class, with another function in the object, or in another place."""
    tool = FinalAnswerTool()
    tool.forward = lambda answer: ran.append(answer) or "sent"  # type: ignore[func-returns-value]
    agent = coder(f"{name}('the notes')", name="lead") if kind == "code" else caller([Call(name, {"answer": "the notes"})], name="lead")
    agent.tools[name] = tool
    guard_agent(guard, agent).run("go")
    assert ran == []
    assert {record["verdict"] for record in records(guard, "decision", tool=name)} == {"deny"}


@pytest.mark.parametrize("kind", ["calls", "code"])
def test_a_tool_that_is_registered_under_another_name_is_the_agents(guard: Guard, kind: str) -> None:
    def send(amount: int) -> str:
        """Pays.

        Args:
            amount: how much
        """
        ran.append(amount)
        return "paid"

    tool = make_tool(send)
    type(tool).forward.__wrapped__ = guard.tool(name="pay")(send)  # as where `@tool` stands above `@guard.tool`
    agent = caller([Call("send", {"amount": 7})], tools=[tool], name="helper") if kind == "calls" else None
    agent = agent or coder("send(amount=7)", tools=[tool], name="helper")
    guard_agent(guard, agent).run("go")
    assert ran == []
    assert {(record["agent"], record["tool"], record["verdict"]) for record in records(guard, "decision")} == {("helper", "pay", "deny")}
