"""LangGraph: ToolNode, nodes of one's own, hand-offs of supervisor and swarm."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
from langchain.agents import create_agent
from langchain_core.messages import ToolMessage
from langchain_core.tools import InjectedToolCallId
from langchain_core.tools import tool as make_tool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import InjectedState, ToolNode, ToolRuntime
from langgraph.types import Command

from agentguard import Guard, InvalidInput
from agentguard.context import current_task
from agentguard.testing import AdapterConformance, Call, Mode, Reply, Scene, assert_denied, checked, records
from agentguard_adapters.langchain import GuardMiddleware
from agentguard_adapters.langchain_core import guard_tools
from agentguard_adapters.langgraph import acting_as, guard_tool_node
from support.scripted import GO, RewritingCallback, graph_of, replies, scripted

POLICY = """
agentguard: 1
name: graph
agents:
  boss:
    tools: {transfer_to_bob: {}, note: {text: any}}
    delegates: {bob: {depth: 2}}
  bob:
    tools: {transfer_to_carol: {}, note: {text: {max_length: 5}}}
    delegates: {carol: {depth: 1}}
  carol:
    tools: {note: {text: {max_length: 3}}, aware: {text: any}}
"""


class TestLangGraph(AdapterConformance):
    out_of_reach: ClassVar[Mapping[str, str]] = {"the function that was given": "whoever holds it can call it"}

    def graph(self, scene: Scene) -> tuple[Any, Any]:
        if scene.guard is None:
            return graph_of(ToolNode(list(scene.tools)), *scene.steps), {}
        node = guard_tool_node(scene.guard, scene.tools, agent=scene.agent, on_deny=scene.on_deny)
        callbacks = [RewritingCallback(scene.rewrite)] if scene.rewrite is not None else []
        return graph_of(node, *scene.steps), {"callbacks": callbacks}

    def run(self, scene: Scene, mode: Mode) -> list[Reply]:
        graph, config = self.graph(scene)
        last = graph.invoke(GO, config) if mode == "sync" else list(graph.stream(GO, config, stream_mode="values"))[-1]
        return replies(last["messages"], scene.steps)

    async def arun(self, scene: Scene, mode: Mode) -> list[Reply]:
        graph, config = self.graph(scene)
        if mode == "async":
            last = await graph.ainvoke(GO, config)
        else:
            last = [chunk async for chunk in graph.astream(GO, config, stream_mode="values")][-1]
        return replies(last["messages"], scene.steps)

    def twins(self, guard: Guard, tool: Callable[..., Any]) -> Mapping[str, Callable[[dict[str, Any]], Any]]:
        node = guard_tool_node(guard, [tool], agent="lead")
        made: Any = node.tools_by_name["note"]

        def again(arguments: dict[str, Any]) -> Any:
            """What create_supervisor does with a node: its tools go to another one, without the hooks."""
            return graph_of(ToolNode(list(node.tools_by_name.values())), [Call("note", arguments)]).invoke(GO)

        return {
            "the function that was given": lambda a: tool(**a),
            "its tool": made.invoke,
            "its tool's func": lambda a: made.func(**a),
            "its tools in another node": again,
            "its tools in another node, async": lambda a: asyncio.run(
                graph_of(ToolNode(list(node.tools_by_name.values())), [Call("note", a)]).ainvoke(GO)
            ),
        }


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[Guard]:
    with Guard.open(POLICY, home=tmp_path / "home", durability="process") as opened:
        yield opened


def note(text: str) -> str:
    """Takes a note."""
    return f"noted {text}"


def texts(result: dict[str, Any], name: str = "note") -> list[str]:
    return [str(message.content) for message in result["messages"] if isinstance(message, ToolMessage) and message.name == name]


def test_a_node_of_ones_own_acts_as_its_agent(guard: Guard) -> None:
    (made,) = guard_tools(guard, [make_tool(note)])

    def work(state: MessagesState) -> dict[str, Any]:
        with acting_as(guard, "bob"):
            return {"messages": [("ai", made.invoke({"text": "short"}))]}

    builder = StateGraph(MessagesState)
    builder.add_node("work", work)
    builder.add_edge(START, "work")
    builder.add_edge("work", END)
    with guard.task("boss", initiator="user:test") as task:
        assert builder.compile().invoke(GO)["messages"][-1].content == "noted short"
        assert current_task.get() is task
        with acting_as(guard, "bob"), acting_as(guard, "carol"), assert_denied("argument_not_allowed"):
            made.invoke({"text": "short"})


def test_a_sub_agent_is_seated_under_the_agent_that_runs_it(guard: Guard) -> None:
    """Of boss → bob → carol only bob may delegate to carol. That bob has acted before does not let a tool of the boss run carol."""

    @make_tool("note")
    def runs_carol(text: str) -> str:
        """Runs another agent."""
        with acting_as(guard, "carol"):
            return "seated"

    (made,) = guard_tools(guard, [runs_carol], agent="boss")
    with guard.task("boss", initiator="user:test"):
        with acting_as(guard, "bob"):
            pass
        with assert_denied("delegation_not_allowed"):
            made.invoke({"text": "x"})


def test_what_langgraph_injects(guard: Guard) -> None:
    """State, runtime and call id reach the tool; presented by a model they are refused, though LangGraph would drop them silently."""
    seen: list[Any] = []

    @make_tool
    def aware(
        text: str, messages: Annotated[list[Any], InjectedState("messages")], runtime: ToolRuntime, call: Annotated[str, InjectedToolCallId]
    ) -> Command[Any]:
        """Knows where it runs."""
        seen.append((len(messages), runtime.tool_call_id, call))
        return Command(update={"messages": [ToolMessage(text, tool_call_id=call)]})

    calls = [Call("aware", {"text": "hi", **more}, f"c{number}") for number, more in enumerate(({}, {"messages": []}, {"runtime": 1}))]
    node, bare = guard_tool_node(guard, [aware], agent="carol"), ToolNode(guard_tools(guard, [aware], injects=True))
    with guard.task("carol", initiator="user:test"):
        result = graph_of(node, calls).invoke(GO)
        graph_of(bare, [Call("aware", {"text": "ho"}, "c9")]).invoke(GO)
    assert [reply.code for reply in replies(result["messages"], [calls])] == [None, "malformed_call", "malformed_call"]
    assert seen == [(2, "c0", "c0"), (2, "c9", "c9")]
    (first, _) = records(guard, "decision", verdict="allow")
    assert checked(guard, first["id"]) == {"text": "hi"}
    assert {record["form"] for record in records(guard, "outcome")} == {"type"}  # a Command is no JSON: its type is committed to


def test_errors_of_a_tool_are_handled_as_the_node_was_told_to(guard: Guard) -> None:
    def note(text: str) -> str:
        """Takes a note."""
        raise OSError("the disk is gone")

    node = guard_tool_node(guard, [note], agent="boss", handle_tool_errors=True)
    with guard.task("boss", initiator="user:test"):
        assert "the disk is gone" in texts(graph_of(node, [Call("note", {"text": "x"})]).invoke(GO))[0]
    with pytest.raises(InvalidInput, match="handle_tool_errors"):
        guard_tool_node(guard, [note], agent="boss", handle_tool_errors=True, on_deny="raise")


def test_a_supervisor_hands_off_and_each_worker_has_less(guard: Guard) -> None:
    supervisor = pytest.importorskip("langgraph_supervisor")
    bob = create_agent(
        scripted([Call("note", {"text": "short"})], [Call("note", {"text": "too long"})]),
        [note],
        middleware=[GuardMiddleware(guard, "bob")],
        name="bob",
    )
    tools = guard_tools(guard, [supervisor.create_handoff_tool(agent_name="bob"), make_tool(note)], agent="boss", injects=True)
    steps = [[Call("note", {"text": "a long text of the boss"})], [Call("transfer_to_bob", {})]]
    app = supervisor.create_supervisor(
        [bob], model=scripted(*steps), tools=tools, supervisor_name="boss", output_mode="full_history"
    ).compile()
    with guard.task("boss", initiator="user:test"):
        said = texts(app.invoke(GO))
    assert [text[:6] for text in said] == ["noted ", "noted ", "Denied"]
    decisions = records(guard, "decision")
    assert [(record["agent"], record["tool"], record["verdict"]) for record in decisions] == [
        ("boss", "note", "allow"),
        ("boss", "transfer_to_bob", "allow"),
        ("bob", "note", "allow"),
        ("bob", "note", "deny"),
    ]
    assert len(records(guard, "delegation", agent="bob")) == 1


def test_a_swarm_hands_off_from_hand_to_hand(guard: Guard) -> None:
    """boss → bob → carol: carol's authority comes from bob, who may delegate to her; the boss may not."""
    swarm = pytest.importorskip("langgraph_swarm")

    def agent(name: str, tools: list[Any], *steps: list[Call]) -> Any:
        return create_agent(scripted(*steps), tools, middleware=[GuardMiddleware(guard, name)], name=name)

    boss = agent("boss", [swarm.create_handoff_tool(agent_name="bob")], [Call("transfer_to_bob", {})])
    bob = agent("bob", [swarm.create_handoff_tool(agent_name="carol")], [Call("transfer_to_carol", {})])
    carol = agent("carol", [note], [Call("note", {"text": "abc"})], [Call("note", {"text": "abcd"})])
    app = swarm.create_swarm([boss, bob, carol], default_active_agent="boss").compile()
    with guard.task("boss", initiator="user:test"):
        said = texts(app.invoke(GO))
    assert [text[:6] for text in said] == ["noted ", "Denied"]
    links = {record["agent"]: record for record in records(guard, "delegation")}
    assert links["carol"]["parent"] == links["bob"]["artifact"]


def test_a_hand_off_that_is_not_allowed_does_not_happen(guard: Guard) -> None:
    swarm = pytest.importorskip("langgraph_swarm")
    boss = create_agent(
        scripted([Call("transfer_to_carol", {})]),
        [swarm.create_handoff_tool(agent_name="carol")],
        middleware=[GuardMiddleware(guard, "boss")],
        name="boss",
    )
    carol = create_agent(scripted([Call("note", {"text": "abc"})]), [note], middleware=[GuardMiddleware(guard, "carol")], name="carol")
    app = swarm.create_swarm([boss, carol], default_active_agent="boss").compile()
    with guard.task("boss", initiator="user:test"):
        result = app.invoke(GO)
    assert "tool_not_in_scope" in texts(result, "transfer_to_carol")[0] or "tool_not_allowed" in texts(result, "transfer_to_carol")[0]
    assert texts(result) == []
