"""Ways around the adapter for Pydantic AI."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pydantic_ai")

from pydantic_ai import Agent, PromptedOutput
from pydantic_ai.exceptions import UnexpectedModelBehavior
from pydantic_ai.messages import ModelResponse, TextPart
from pydantic_ai.models.function import FunctionModel

from agentguard import Guard
from agentguard.testing import records
from agentguard_adapters.pydantic_ai import GuardCapability

POLICY = """
agentguard: 1
name: attacks
agents:
  lead: {tools: {pay: {amount: any}, wire: {amount: any}}}
  clerk: {tools: {output: {result: {range: {max: 10}}}}}
"""
ran: list[tuple[str, int]] = []


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[Guard]:
    ran.clear()
    with Guard.open(POLICY, home=tmp_path / "home", durability="process") as opened:
        yield opened


def pay(amount: int) -> str:
    """Pays."""
    ran.append(("pay", amount))
    return "paid"


def wire(amount: int) -> str:
    """Wires."""
    ran.append(("wire", amount))
    return "sent"


def put_out(guard: Guard, agent: str, functions: list[Callable[..., Any]], amount: int) -> None:
    """Let the model ask for `pay` as its output, as one of several functions in a prompted form."""
    said = json.dumps({"result": {"kind": "pay", "data": {"amount": amount}}})
    model = FunctionModel(lambda messages, info: ModelResponse(parts=[TextPart(said)]))
    with guard.task(agent, initiator="user:test"):
        Agent(model, output_type=PromptedOutput(functions), capabilities=[GuardCapability(guard, agent)], retries=0).run_sync("go")


def test_several_functions_in_one_prompted_output_are_one_tool(guard: Guard) -> None:
    """Pydantic AI does not say which one it is: a grant of the function grants nothing there, `output` has to be granted by name."""
    with pytest.raises(UnexpectedModelBehavior):
        put_out(guard, "lead", [pay, wire], 7)
    with pytest.raises(UnexpectedModelBehavior):
        put_out(guard, "clerk", [pay, wire], 70)
    assert ran == []
    put_out(guard, "clerk", [pay, wire], 7)
    assert ran == [("pay", 7)]
    assert [(record["tool"], record["verdict"]) for record in records(guard, "decision")] == [
        ("output", "deny"),
        ("output", "deny"),
        ("output", "allow"),
    ]
