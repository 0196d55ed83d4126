"""Ways around the adapter for Semantic Kernel."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path

import pytest

pytest.importorskip("semantic_kernel")

from semantic_kernel import Kernel
from semantic_kernel.functions import kernel_function

from agentguard import Guard
from agentguard.testing import Call, records
from agentguard_adapters.semantic_kernel import guard_kernel
from support.semantic_kernel_scripted import replies, scripted, service

POLICY = """
agentguard: 1
name: attacks
agents:
  lead: {tools: {bank-pay: {amount: any}, pay: {amount: any}}, delegates: {helper: {depth: 1}}}
  helper: {tools: {bank-pay: {amount: {range: {max: 1}}}, pay: {amount: {range: {max: 1}}}}}
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


def test_a_function_of_two_kernels_acts_for_the_one_that_calls_it(guard: Guard) -> None:
    """In another plugin it has another name, and its stand-in did not hear what was announced under that."""
    name, first, second = attrgetter("fully_qualified_name"), Kernel(), Kernel()
    first.add_function("bank", kernel_function(name="pay")(pay))
    guard_kernel(guard, first, agent="lead", name=name)
    second.add_function("shop", first.get_function("bank", "pay"))
    guard_kernel(guard, second, agent="helper", name=name)
    answer = asyncio.run(second.invoke(plugin_name="shop", function_name="pay", amount=7))
    assert "Denied (argument_not_allowed)" in str(answer)
    assert [(record["agent"], record["tool"]) for record in records(guard, "decision")] == [("helper", "bank-pay")]
    assert paid == []


def test_a_function_that_is_registered_under_another_name_is_the_agents(guard: Guard) -> None:
    kernel = Kernel()
    kernel.add_function("bank", kernel_function(name="send")(guard.tool(pay)))
    guard_kernel(guard, kernel, agent="helper")
    asyncio.run(kernel.invoke(plugin_name="bank", function_name="send", amount=7))
    assert [(record["agent"], record["tool"], record["verdict"]) for record in records(guard, "decision")] == [("helper", "pay", "deny")]
    assert paid == []


@pytest.mark.parametrize("stream", [False, True])
def test_what_a_prompt_gives_is_under_the_rule_for_outputs(tmp_path: Path, stream: bool) -> None:
    """The kernel takes it from the context, and not from what the stand-in gives back."""
    policy = """
agentguard: 1
name: attacks
agents: {lead: {tools: {slogan: {topic: any}}}}
tools: {slogan: {output: {patterns: ["d[o]ne"]}}}
"""
    kernel = Kernel()
    kernel.add_function("desk", function_name="slogan", prompt="A slogan for {{$topic}}.")
    kernel.add_service(service())
    with Guard.open(policy, home=tmp_path / "ruled", durability="process") as ruled, ruled.task("lead", initiator="user:test"):
        guard_kernel(ruled, kernel, agent="lead")
        calls = [Call("slogan", {"topic": "bread"})]
        agent = scripted("lead", calls, kernel=kernel)

        async def play() -> list[object]:
            said: list[object] = []

            async def listen(message: object) -> None:
                said.append(message)

            async with asyncio.timeout(10):
                async for _ in (agent.invoke_stream if stream else agent.invoke)(messages="go", on_intermediate_message=listen):
                    pass
            return said

        (reply,) = replies(asyncio.run(play()), [calls])
        assert reply.text == "[redacted-patterns[0]]"
        assert [record["shaped"] for record in records(ruled, "outcome")] == [{"redacted": 1, "truncated": False}]
