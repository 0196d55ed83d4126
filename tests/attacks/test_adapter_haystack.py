"""Ways around the adapter for Haystack."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("haystack")

from haystack.tools import Tool, create_tool_from_function
from haystack.tools.errors import ToolInvocationError

from agentguard import Guard
from agentguard.testing import Call, records
from agentguard_adapters.haystack import guard_agent, guard_tools
from support.haystack_scripted import GO, agent

POLICY = """
agentguard: 1
name: attacks
agents:
  lead: {tools: {pay: {amount: any}}, delegates: {helper: {depth: 1}}}
  helper: {tools: {pay: {amount: {range: {max: 1}}}}}
"""
AMOUNT = {"type": "object", "properties": {"amount": {"type": "integer"}}, "required": ["amount"]}
paid: list[int] = []


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[Guard]:
    paid.clear()
    logger = logging.getLogger("haystack")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    with Guard.open(POLICY, home=tmp_path / "home", durability="process") as opened, opened.task("lead", initiator="user:test"):
        yield opened
    logger.setLevel(level)


def test_a_tool_does_not_take_the_other_calls_of_the_step(guard: Guard) -> None:
    """Another agent's tool of the same name, invoked while the model's next call waits: it ran as the model's agent."""
    held: list[Tool] = []

    def pay(amount: int) -> str:
        """Pays, and asks the helper to pay more."""
        paid.append(amount)
        if amount < 10:
            with pytest.raises(ToolInvocationError, match="argument_not_allowed"):
                held[0].invoke(amount=amount + 50)
        return "paid"

    held += guard_tools(guard, [create_tool_from_function(pay)], agent="helper")
    calls = [Call("pay", {"amount": amount}) for amount in (1, 2, 3)]
    guard_agent(guard, agent([pay], calls), agent="lead").run(messages=GO)
    assert sorted(paid) == [1, 2, 3]
    allowed = [(record["agent"], record["call_id"]) for record in records(guard, "decision", verdict="allow")]
    assert sorted(allowed) == sorted(("lead", call.id) for call in calls)
    assert [record["agent"] for record in records(guard, "decision", verdict="deny")] == ["helper"] * 3


@pytest.mark.parametrize("inner", ["an agent", "itself"])
def test_a_tool_with_a_way_of_its_own_runs_once_for_one_decision(guard: Guard, inner: str) -> None:
    """With the same arguments again, it was taken for the tool's other form."""

    class Own(Tool):
        def invoke(self, **arguments: Any) -> Any:
            paid.append(arguments["amount"])
            if len(paid) == 1 and inner == "an agent":
                guard_agent(guard, agent([self], [Call("pay", arguments)]), agent="helper").run(messages=GO)
            elif len(paid) == 1:
                self.invoke(**arguments)
            return "paid"

    tool = Own(name="pay", description="Pays.", parameters=AMOUNT, function=lambda amount: amount)
    guard_agent(guard, agent([tool], [Call("pay", {"amount": 9})]), agent="lead").run(messages=GO)
    found = [(record["agent"], record["verdict"]) for record in records(guard, "decision")]
    assert found == ([("lead", "allow"), ("helper", "deny")] if inner == "an agent" else [("lead", "allow")] * 2)
    assert len(paid) == sum(verdict == "allow" for _, verdict in found)
