"""A LangChain agent whose calls need a human: told what to do, it goes on once somebody approved; in a task that waits, it just goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent

from agentguard import Guard
from agentguard.testing import Call
from agentguard_adapters.langchain import GuardMiddleware
from support.approving import answers
from support.scripted import GO, replies, scripted

POLICY = """
agentguard: 1
name: langchain-approvals
agents:
  lead: {tools: {}, delegates: {clerk: {depth: 1}}}
  clerk:
    tools: {pay: {amount: any}}
    approval: [{tool: pay, when: "amount > 100", by: ["user:carol"]}]
"""


def pay(amount: int) -> str:
    """Pay."""
    return f"paid {amount}"


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[Guard]:
    with Guard.open(POLICY, home=tmp_path / "home", durability="process") as opened:
        yield opened


def agent_of(guard: Guard, *steps: list[Call]) -> Any:
    return create_agent(scripted(*steps), [pay], middleware=[GuardMiddleware(guard, "clerk")])


def only_request(guard: Guard) -> Any:
    (filed,) = guard.home.inbox.all()
    return filed.request


@pytest.mark.parametrize("starter", ["clerk", "lead"])
def test_an_approval_between_two_calls_lets_the_second_through(guard: Guard, starter: str) -> None:
    steps = [[Call("pay", {"amount": 500}, "c1")], [Call("pay", {"amount": 500}, "c2")], [Call("pay", {"amount": 500}, "c3")]]
    with guard.task(starter, initiator="user:alice"):
        (first,) = replies(agent_of(guard, steps[0]).invoke(GO)["messages"], steps[:1])
        request = only_request(guard)
        assert first.code == "approval_required"
        assert f"Request {request.id} was put: once it is approved, make exactly this call again." in first.text
        answers(guard.home, request)
        second, third = replies(agent_of(guard, *steps[1:]).invoke(GO)["messages"], steps[1:])
    assert (second.text, second.error) == ("paid 500", False)
    assert third.code == "approval_required", "an approval is good for one call"


def test_a_denial_is_told(guard: Guard) -> None:
    steps = [[Call("pay", {"amount": 500}, "c1")], [Call("pay", {"amount": 500}, "c2")]]
    with guard.task("clerk", initiator="user:alice"):
        agent_of(guard, steps[0]).invoke(GO)
        answers(guard.home, only_request(guard), verdict="deny")
        (reply,) = replies(agent_of(guard, steps[1]).invoke(GO)["messages"], steps[1:])
    assert reply.code == "approval_denied"


async def test_in_a_task_that_waits_the_agent_notices_nothing(guard: Guard) -> None:
    steps = [[Call("pay", {"amount": 500}, "c1")]]
    async with guard.task("lead", initiator="user:alice", wait="1h"):
        running = asyncio.create_task(agent_of(guard, *steps).ainvoke(GO))
        while not guard.home.inbox.all():
            await asyncio.sleep(0.005)
        answers(guard.home, only_request(guard))
        (reply,) = replies((await running)["messages"], steps)
    assert (reply.text, reply.error) == ("paid 500", False)
