"""LangChain `create_agent` with GuardMiddleware."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.messages import ToolMessage
from langchain_core.tools import tool as make_tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt

from agentguard import Guard, InvalidInput
from agentguard.testing import AdapterConformance, Call, Mode, Reply, Scene, records
from agentguard_adapters.langchain import GuardMiddleware
from support.scripted import GO, RewritingMiddleware, graph_of, replies, scripted

POLICY = """
agentguard: 1
name: langchain
agents:
  triage:
    tools: {search: {query: {max_length: 20}}, pay: {amount: {range: {max: 10}}}, resumable: {}, once: {}}
    budgets: [{calls: 5, per: task}]
tools: {resumable: {rerun: safe}}
"""


class TestLangChain(AdapterConformance):
    out_of_reach: ClassVar[Mapping[str, str]] = {
        "the tool object that was given": "whoever holds it can call it: give away what guard_tools makes"
    }

    def agent(self, scene: Scene) -> Any:
        behind = [RewritingMiddleware(scene.rewrite)] if scene.rewrite is not None else []
        guarded = [GuardMiddleware(scene.guard, scene.agent, on_deny=scene.on_deny)] if scene.guard is not None else []
        return create_agent(scripted(*scene.steps), list(scene.tools), middleware=[*guarded, *behind])

    def run(self, scene: Scene, mode: Mode) -> list[Reply]:
        agent = self.agent(scene)
        last = agent.invoke(GO) if mode == "sync" else list(agent.stream(GO, stream_mode="values"))[-1]
        return replies(last["messages"], scene.steps)

    async def arun(self, scene: Scene, mode: Mode) -> list[Reply]:
        agent = self.agent(scene)
        last = await agent.ainvoke(GO) if mode == "async" else [chunk async for chunk in agent.astream(GO, stream_mode="values")][-1]
        return replies(last["messages"], scene.steps)

    def twins(self, guard: Guard, tool: Callable[..., Any]) -> Mapping[str, Callable[[dict[str, Any]], Any]]:
        made = make_tool(tool)

        def agent(arguments: dict[str, Any]) -> Any:
            return create_agent(scripted([Call(made.name, arguments)]), [made], middleware=[GuardMiddleware(guard, "lead")])

        return {
            "the tool object that was given": made.invoke,
            "batch": lambda arguments: agent(arguments).batch([GO]),
            "abatch": lambda arguments: asyncio.run(agent(arguments).abatch([GO])),
            "updates": lambda arguments: list(agent(arguments).stream(GO, stream_mode="updates")),
            "its tool node in another graph": lambda arguments: graph_of(
                agent({}).nodes["tools"].bound, [Call(made.name, arguments)]
            ).invoke(GO),
        }


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[Guard]:
    with Guard.open(POLICY, home=tmp_path / "home", durability="process") as opened:
        yield opened


def pay(amount: int) -> str:
    """Pays."""
    return f"paid {amount}"


def search(query: str) -> str:
    """Searches."""
    return f"found {query}"


def said(result: dict[str, Any]) -> list[str]:
    return [str(message.content) for message in result["messages"] if isinstance(message, ToolMessage)]


def test_a_decorated_function_is_decided_once(guard: Guard) -> None:
    """`@guard.tool` and the middleware are two layers of one decision: one record, one charge."""
    taken: list[int] = []

    @guard.tool
    def pay(amount: int) -> str:
        """Pays."""
        taken.append(amount)
        return f"paid {amount}"

    agent = create_agent(
        scripted([Call("pay", {"amount": "7"})], [Call("pay", {"amount": 70})]), [pay], middleware=[GuardMiddleware(guard, "triage")]
    )
    with guard.task("triage", initiator="user:test"):
        assert [text[:6] for text in said(agent.invoke(GO))] == ["paid 7", "Denied"]
        with pytest.raises(Exception, match="argument_not_allowed"):
            pay(amount=70)
    assert taken == [7]
    assert [record["verdict"] for record in records(guard, "decision", tool="pay")] == ["allow", "deny", "deny"]


def test_a_task_of_its_own(guard: Guard) -> None:
    """`task=` gives the authority where nothing is current."""
    task = guard.task("triage", initiator="user:test").issue()
    agent = create_agent(scripted([Call("pay", {"amount": 1})]), [pay], middleware=[GuardMiddleware(guard, "triage", task=task)])
    assert said(agent.invoke(GO)) == ["paid 1"]
    task.close()
    agent = create_agent(scripted([Call("pay", {"amount": 1})]), [pay], middleware=[GuardMiddleware(guard, "triage", task=task)])
    assert "artifact_missing" in said(agent.invoke(GO))[0]


def test_mistakes_are_told_so_that_the_model_can_mend_them(guard: Guard) -> None:
    agent = create_agent(scripted([Call("pay", {"amount": "much"})]), [pay], middleware=[GuardMiddleware(guard, "triage")])
    with guard.task("triage", initiator="user:test"):
        (text,) = said(agent.invoke(GO))
    assert text.startswith("Denied (malformed_call)")
    assert "amount: Input should be a valid integer" in text


def test_a_budget_holds_across_parallel_calls(guard: Guard) -> None:
    calls = [Call("pay", {"amount": 1}) for _ in range(9)]
    agent = create_agent(scripted(calls), [pay], middleware=[GuardMiddleware(guard, "triage")])
    with guard.task("triage", initiator="user:test"):
        codes = [reply.code for reply in replies(agent.invoke(GO)["messages"], [calls])]
    assert codes.count(None) == 5
    assert codes.count("budget_exhausted") == 4


def test_tools_of_the_provider_are_refused(guard: Guard) -> None:
    provider: Any = {"type": "web_search_20250305", "name": "web_search"}
    agent = create_agent(scripted(), [pay, provider], middleware=[GuardMiddleware(guard, "triage")])
    with guard.task("triage", initiator="user:test"), pytest.raises(InvalidInput, match="web_search runs at the model's provider"):
        agent.invoke(GO)
    agent = create_agent(scripted(), [pay, provider], middleware=[GuardMiddleware(guard, "triage", unsafe_provider_tools=True)])
    with guard.task("triage", initiator="user:test"):
        assert agent.invoke(GO)["messages"][-1].content == "done"


@pytest.mark.parametrize("guard_first", [True, False])
@pytest.mark.parametrize("mode", ["batched", "per_call"])
def test_human_in_the_loop_may_edit_and_the_edit_is_checked(guard: Guard, guard_first: bool, mode: Any) -> None:
    """An approval that edits the call comes before the decision, wherever the guard stands; and it does not use the call up."""
    options: Any = {"interrupt_mode": mode} if mode != "batched" else {}
    if not options.keys() <= inspect.signature(HumanInTheLoopMiddleware).parameters.keys():
        pytest.skip(f"this version of LangChain has no {mode} approvals")
    for edited, outcome in ((8, "paid 8"), (80, "Denied (argument_not_allowed)")):
        human = HumanInTheLoopMiddleware(interrupt_on={"pay": True}, **options)
        middleware = [GuardMiddleware(guard, "triage"), human] if guard_first else [human, GuardMiddleware(guard, "triage")]
        agent = create_agent(scripted([Call("pay", {"amount": 3})]), [pay], middleware=middleware, checkpointer=InMemorySaver())
        config: Any = {"configurable": {"thread_id": "1"}}
        answer = {"type": "edit", "edited_action": {"name": "pay", "args": {"amount": edited}}}
        with guard.task("triage", initiator="user:test"):
            assert agent.invoke(GO, config)["__interrupt__"]
            (text,) = said(agent.invoke(Command(resume={"decisions": [answer]} if mode == "batched" else answer), config))
        assert outcome in text


@pytest.mark.parametrize(("name", "status"), [("resumable", "went on"), ("once", "Denied (replay_detected)")])
def test_a_tool_that_interrupts_itself(guard: Guard, name: str, status: str) -> None:
    """The interrupt passes through and is recorded. The second run of the same call needs `rerun: safe`."""

    @make_tool(name)
    def asks() -> str:
        """Asks a human."""
        return f"went on with {interrupt('may I?')}"

    agent = create_agent(scripted([Call(name, {})]), [asks], middleware=[GuardMiddleware(guard, "triage")], checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    with guard.task("triage", initiator="user:test"):
        assert agent.invoke(GO, config)["__interrupt__"][0].value == "may I?"
        assert [record["status"] for record in records(guard, "outcome")] == ["paused"]
        (text,) = said(agent.invoke(Command(resume="yes"), config))
    assert status in text
