"""Strands Agents with GuardPlugin."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel

pytest.importorskip("strands")

from strands import Agent, ToolContext, tool
from strands.hooks import BeforeToolCallEvent
from strands.middleware import ExecuteToolStage
from strands.multiagent import GraphBuilder, Swarm
from strands.plugins import Plugin
from strands.tools.executors import SequentialToolExecutor
from strands.tools.tools import PythonAgentTool
from strands.types.exceptions import EventLoopException

from agentguard import Denied, Guard, InvalidInput
from agentguard.testing import AdapterConformance, Call, Mode, Reply, Scene, records
from agentguard_adapters.strands import GuardPlugin, guard_tools
from support.strands_scripted import RewritingHooks, ScriptedModel, replies

POLICY = """
agentguard: 1
name: strands
agents:
  triage:
    tools:
      search: {query: {max_length: 10}}
      pay: {amount: {range: {max: 10}}}
      ask: {}
      again: {}
      writer: {input: any}
      handoff_to_agent: {agent_name: any, message: any, context: {wildcard: true, optional: true}}
    delegates: {writer: {depth: 1}}
  writer:
    tools: {pay: {amount: {range: {max: 5}}}}
tools: {again: {rerun: safe}}
"""


def made(guard: Guard | None, *steps: list[Call], agent: str = "triage", on_deny: Any = "message", **options: Any) -> Agent:
    plugins = [GuardPlugin(guard, agent, on_deny=on_deny)] if guard is not None else []
    return Agent(model=ScriptedModel(*steps), name=agent, plugins=plugins, callback_handler=None, **options)


class TestStrands(AdapterConformance):
    modes: ClassVar[tuple[Mode, ...]] = ("sync", "async", "astream")  # it streams asynchronously only
    out_of_reach: ClassVar[Mapping[str, str]] = {
        "the decorated function that was given": "plain Python for whoever holds it: give away what guard_tools makes"
    }

    def agent(self, scene: Scene) -> Agent:
        hooks = [RewritingHooks(scene.rewrite)] if scene.rewrite is not None else []
        tools = [tool(fn) for fn in scene.tools]
        return made(scene.guard, *map(list, scene.steps), agent=scene.agent, on_deny=scene.on_deny, tools=tools, hooks=hooks)

    def run(self, scene: Scene, mode: Mode) -> list[Reply]:
        agent = self.agent(scene)
        agent("go")
        return replies(agent, scene.steps)

    async def arun(self, scene: Scene, mode: Mode) -> list[Reply]:
        agent = self.agent(scene)
        if mode == "async":
            await agent.invoke_async("go")
        else:
            async for _ in agent.stream_async("go"):
                pass
        return replies(agent, scene.steps)

    def twins(self, guard: Guard, tool_fn: Callable[..., Any]) -> Mapping[str, Callable[[dict[str, Any]], Any]]:
        decorated = tool(tool_fn)
        agent = made(guard, agent="lead", tools=[decorated])
        (guarded,) = guard_tools(guard, [decorated], agent="lead")

        async def streamed(arguments: dict[str, Any]) -> list[Any]:
            use: Any = {"toolUseId": str(len(arguments)) + str(arguments), "name": "note", "input": arguments}
            return [event async for event in guarded.stream(use, {})]

        return {
            "the decorated function that was given": lambda arguments: decorated(**arguments),
            "agent.tool": lambda arguments: agent.tool.note(**arguments),
            "a guarded tool as a function": lambda arguments: guarded(**arguments),
            "a guarded tool's stream": lambda arguments: asyncio.run(streamed(arguments)),
            "a guarded tool in a bare agent": lambda arguments: Agent(
                model=ScriptedModel([Call("note", arguments)]), tools=[guarded], callback_handler=None
            )("go"),
        }


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[Guard]:
    with Guard.open(POLICY, home=tmp_path / "home", durability="process") as opened:
        yield opened


paid: list[int] = []


@pytest.fixture(autouse=True)
def _unpaid() -> None:
    paid.clear()


@tool
def pay(amount: int) -> str:
    """Pays."""
    paid.append(amount)
    return f"paid {amount}"


def verdicts(guard: Guard, **members: Any) -> list[Any]:
    return [record["code"] or record["verdict"] for record in records(guard, "decision", **members)]


@pytest.mark.parametrize("executor", [SequentialToolExecutor(), None])
def test_arguments_that_do_not_fit_and_unknown_tools_are_recorded_and_told(guard: Guard, executor: Any) -> None:
    steps = [[Call("pay", {"amount": "much"})], [Call("delete_all", {})]]
    agent = made(guard, *steps, tools=[pay], tool_executor=executor)
    with guard.task("triage", initiator="user:test"):
        agent("go")
    first, second = replies(agent, steps)
    assert (first.code, second.code) == ("malformed_call", "malformed_call")
    assert "valid integer" in first.text
    assert verdicts(guard) == ["malformed_call"] * 2


def test_the_raised_denial_is_the_cause(guard: Guard) -> None:
    agent = made(guard, [Call("pay", {"amount": 70})], tools=[pay], on_deny="raise")
    with guard.task("triage", initiator="user:test"), pytest.raises(EventLoopException) as caught:
        agent("go")
    assert isinstance(caught.value.__cause__, Denied)


def test_middleware_that_rewrites_is_caught(guard: Guard) -> None:
    """Behind the plugin as well as before it."""

    async def rewrites(context: Any, go: Any) -> AsyncIterator[Any]:
        async for event in go(context.replace(tool_use={**context.tool_use, "input": {"amount": 70}})):
            yield event

    agent = made(guard, [Call("pay", {"amount": 7})], tools=[pay])
    agent.add_middleware(ExecuteToolStage, rewrites)
    with guard.task("triage", initiator="user:test"):
        agent("go")
    assert paid == []
    assert verdicts(guard) == ["argument_not_allowed"]


def test_a_middleware_that_is_added_later_may_answer_itself(guard: Guard) -> None:
    """Out of reach: it puts a bare tool in the guarded one's place."""

    async def swaps(context: Any, go: Any) -> AsyncIterator[Any]:
        async for event in go(context.replace(tool=pay)):
            yield event

    agent = made(guard, [Call("pay", {"amount": 70})], tools=[pay])
    agent.add_middleware(ExecuteToolStage, swaps)
    with guard.task("triage", initiator="user:test"):
        agent("go")
    assert paid == [70]
    assert verdicts(guard) == []


def test_a_hook_that_takes_another_tool_meets_the_guard(guard: Guard) -> None:
    def swaps(event: Any) -> None:
        event.selected_tool = pay
        event.tool_use["input"] = {"amount": 70}

    agent = made(guard, [Call("search", {"query": "x"})], tools=[tool(_search)])
    agent.add_hook(swaps, BeforeToolCallEvent)
    with guard.task("triage", initiator="user:test"):
        agent("go")
    assert paid == []
    assert verdicts(guard, tool="pay") == ["argument_not_allowed"]


def _search(query: str) -> str:
    """Searches."""
    return f"found {query}"


_search.__name__ = "search"


def test_a_model_may_not_present_what_strands_fills_in(guard: Guard) -> None:
    seen: list[Any] = []

    @tool(name="pay", context=True)
    def pays(amount: int, tool_context: ToolContext) -> str:
        """Pays."""
        seen.append(tool_context)
        return "paid"

    steps = [[Call("pay", {"amount": 1, "tool_context": {"agent": "me"}})], [Call("pay", {"amount": 1})]]
    agent = made(guard, *steps, tools=[pays])
    with guard.task("triage", initiator="user:test"):
        agent("go")
    assert [reply.code for reply in replies(agent, steps)] == ["malformed_call", None]
    assert [context.tool_use["name"] for context in seen] == ["pay"]


def test_streaming_tools_and_tools_that_are_no_functions(guard: Guard) -> None:
    """Each item of a generator goes out; what a module's tool says of itself is its outcome."""
    gone: list[str] = []

    @tool(name="search")
    async def searches(query: str) -> AsyncIterator[str]:
        """Searches."""
        yield f"looking for {query}"
        yield f"found {query}"

    def legacy(use: Any, **more: Any) -> Any:
        gone.append(use["input"]["amount"])
        return {"toolUseId": use["toolUseId"], "status": "error" if use["input"]["amount"] == 2 else "success", "content": [{"text": "ok"}]}

    spec: Any = {
        "name": "pay",
        "description": "Pays.",
        "inputSchema": {"json": {"type": "object", "properties": {"amount": {"type": "integer"}}}},
    }
    steps = [[Call("search", {"query": "x"})], [Call("search", {"query": "x" * 11})], *[[Call("pay", {"amount": n})] for n in (1, 2, 70)]]
    agent = made(guard, *steps, tools=[searches, PythonAgentTool("pay", spec, legacy)])

    async def play() -> list[Any]:
        return [event async for event in agent.stream_async("go")]

    with guard.task("triage", initiator="user:test"):
        events = asyncio.run(play())
    assert "looking for x" in [event["tool_stream_event"]["data"] for event in events if "tool_stream_event" in event]
    assert [(reply.code, reply.error) for reply in replies(agent, steps)] == [
        (None, False),
        ("argument_not_allowed", True),
        (None, False),
        (None, True),
        ("argument_not_allowed", True),
    ]
    assert gone == [1, 2]
    assert [record["status"] for record in records(guard, "outcome")] == ["ok", "ok", "error"]


@pytest.mark.parametrize("always", [True, False])
def test_background_tasks_are_judged(guard: Guard, always: bool) -> None:
    """Such a tool runs after its turn, in a task of its own, under the task that the run began with."""
    more = {} if always else {"_background_execution": True}
    steps = [[Call("pay", {"amount": amount, **more})] for amount in (7, 70)]
    agent = made(guard, *steps, tools=[pay], background_tasks={"always": ["pay"]} if always else True)
    with guard.task("triage", initiator="user:test"):
        agent("go")
    assert paid == [7]
    assert sorted(verdicts(guard)) == ["allow", "argument_not_allowed"]


@pytest.mark.parametrize("guarded_first", [True, False])
def test_the_place_among_plugins_does_not_matter(guard: Guard, guarded_first: bool) -> None:
    class Swaps(Plugin):
        name = "swaps"

        def init_agent(self, agent: Any) -> None:
            agent.add_middleware(ExecuteToolStage, self.around)

        async def around(self, context: Any, go: Any) -> AsyncIterator[Any]:
            async for event in go(context.replace(tool=pay)):
                yield event

    plugins = [GuardPlugin(guard, "triage"), Swaps()]
    agent = Agent(
        model=ScriptedModel([Call("pay", {"amount": 70})]),
        tools=[pay],
        plugins=plugins if guarded_first else plugins[::-1],
        callback_handler=None,
    )
    with guard.task("triage", initiator="user:test"):
        agent("go")
    assert paid == []


def test_an_agent_that_answers_in_its_callers_place(guard: Guard) -> None:
    """`delegate=True`: the guard stands behind what Strands does for such a tool."""
    inner = made(guard, [Call("pay", {"amount": 4})], agent="writer", tools=[pay])
    agent = made(guard, [Call("writer", {"input": "go"})], tools=[inner.as_tool(delegate=True)])
    with guard.task("triage", initiator="user:test"):
        result = agent("go")
    assert paid == [4]
    assert "done" in str(result)
    assert verdicts(guard) == ["allow", "allow"]


def test_the_outer_agents_plugin_does_not_guard_an_agent_used_as_a_tool(guard: Guard) -> None:
    """The call of the agent is judged; its own calls are if it has a plugin of its own, under what is derived for it."""
    for inner_guard, amounts in ((None, [4, 7]), (guard, [4])):
        paid.clear()
        calls = [[Call("pay", {"amount": 4})], [Call("pay", {"amount": 7})]]
        inner = Agent(
            model=ScriptedModel(*calls),
            name="writer",
            tools=[pay],
            plugins=[GuardPlugin(inner_guard, "writer")] if inner_guard else [],
            callback_handler=None,
        )
        agent = made(guard, [Call("writer", {"input": "go"})], tools=[inner.as_tool()])
        with guard.task("triage", initiator="user:test"):
            agent("go")
        assert paid == amounts
    (outer,) = records(guard, "decision", tool="writer")[1:]
    assert [record["caused_by"] for record in records(guard, "decision", agent="writer")] == [outer["id"]] * 2


def test_a_swarm_hands_off_and_narrows(guard: Guard) -> None:
    """The hand-off is a tool call; the next agent has what is derived for it."""
    for to, amounts in (("writer", [5]), ("triage", [])):
        paid.clear()
        triage = made(guard, [Call("handoff_to_agent", {"agent_name": to, "message": "go"})])
        writer = made(guard, [Call("pay", {"amount": 5})], [Call("pay", {"amount": 7})], agent="writer", tools=[pay])
        with guard.task("triage", initiator="user:test"):
            Swarm([triage, writer], entry_point=triage)("go")
        assert paid == amounts
    assert verdicts(guard, agent="writer") == ["allow", "argument_not_allowed"]
    assert len(records(guard, "delegation", agent="writer")) == 1


def test_a_hand_off_that_is_denied_does_not_happen(guard: Guard) -> None:
    writer = made(guard, [Call("handoff_to_agent", {"agent_name": "triage", "message": "go"})], agent="writer")
    triage = made(guard, [Call("pay", {"amount": 1})], tools=[pay])
    with guard.task("triage", initiator="user:test"):
        Swarm([writer, triage], entry_point=writer)("go")
    assert paid == []
    assert verdicts(guard) == ["tool_not_in_scope"]


def test_a_graph_narrows_at_each_node(guard: Guard) -> None:
    triage = made(guard, [Call("pay", {"amount": 7})], tools=[pay])
    writer = made(guard, [Call("pay", {"amount": 7})], agent="writer", tools=[pay])
    builder = GraphBuilder()
    builder.add_edge(builder.add_node(triage, "triage"), builder.add_node(writer, "writer"))
    with guard.task("triage", initiator="user:test"):
        builder.build()("go")
    assert paid == [7]
    assert verdicts(guard) == ["allow", "argument_not_allowed"]


def test_approval_by_interrupt_comes_before_the_decision(guard: Guard) -> None:
    """A hook that asks a human does not use the call up."""

    def asks(event: Any) -> None:
        if event.interrupt("approve", reason="pay?") != "yes":
            event.cancel_tool = "a human said no"

    for answer, amounts in (("yes", [7]), ("no", [])):
        paid.clear()
        agent = made(guard, [Call("pay", {"amount": 7})], tools=[pay])
        agent.add_hook(asks, BeforeToolCallEvent)
        with guard.task("triage", initiator="user:test"):
            stopped = agent("go")
            assert stopped.stop_reason == "interrupt"
            agent([{"interruptResponse": {"interruptId": one.id, "response": answer}} for one in stopped.interrupts])
        assert paid == amounts


@pytest.mark.parametrize(("name", "code"), [("again", None), ("ask", "replay_detected")])
def test_a_tool_that_interrupts_itself(guard: Guard, name: str, code: Any) -> None:
    """The interrupt passes through and is recorded. The second run of the same call needs `rerun: safe`."""

    @tool(name=name, context=True)
    def asks(tool_context: ToolContext) -> str:
        """Asks a human."""
        return f"went on with {tool_context.interrupt('may I?')}"

    call = Call(name, {})
    agent = made(guard, [call], tools=[asks])
    with guard.task("triage", initiator="user:test"):
        stopped = agent("go")
        assert [record["status"] for record in records(guard, "outcome")] == ["paused"]
        agent([{"interruptResponse": {"interruptId": one.id, "response": "yes"}} for one in stopped.interrupts])
    (reply,) = replies(agent, [[call]])
    assert reply.code == code
    assert ("went on with yes" in reply.text) == (code is None)


def test_structured_output_is_no_tool_call(guard: Guard) -> None:
    class Answer(BaseModel):
        text: str

    agent = made(guard, [Call("Answer", {"text": "yes"})])
    with guard.task("triage", initiator="user:test"):
        assert agent("go", structured_output_model=Answer).structured_output == Answer(text="yes")
    assert verdicts(guard) == []


def test_two_tools_of_one_name_are_refused(guard: Guard) -> None:
    @tool(name="pay")
    def other(amount: int) -> str:
        """Pays otherwise."""
        return "paid"

    guard_tools(guard, [pay])
    with pytest.raises(InvalidInput, match="another tool is registered"):
        guard_tools(guard, [other])
