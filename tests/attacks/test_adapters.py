"""Ways around an adapter for LangChain, LangGraph and deepagents, each tried. The traps are those observed with these frameworks."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, ToolRetryMiddleware
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import ToolMessage
from langchain_core.tools import StructuredTool
from langchain_core.tools import tool as make_tool
from langgraph.prebuilt import ToolNode

from agentguard import Denied, Guard
from agentguard.testing import Call, assert_denied, records
from agentguard_adapters.langchain import GuardMiddleware
from agentguard_adapters.langchain_core import guard_tool, guard_tools
from agentguard_adapters.langchain_run import Backstop
from agentguard_adapters.langgraph import ToolCallHook, guard_tool_node
from support.scripted import GO, graph_of, scripted
from support.wires import BAD, GOOD, MODES, POLICY, Wires, answer, play


@pytest.fixture
def wires() -> Wires:
    return Wires()


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[Guard]:
    with Guard.open(POLICY, home=tmp_path / "home", durability="process") as opened, opened.task("triage", initiator="user:test"):
        yield opened


# --- hooks that are there, and do not hold --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_tool_node_has_both_hooks(guard: Guard, wires: Wires, mode: str) -> None:
    """With the async hook alone a sync graph runs the tool unguarded."""
    node = guard_tool_node(guard, [wires.tool()], agent="triage")
    assert answer(play(graph_of(node, [Call("wire", BAD)]), mode)).startswith("Denied")
    assert wires.sent == []


@pytest.mark.parametrize("mode", MODES)
def test_a_tool_node_with_one_hook_still_has_guarded_tools(guard: Guard, wires: Wires, mode: str) -> None:
    hook = ToolCallHook(guard, "triage")
    for options in ({"wrap_tool_call": hook.wrap}, {"awrap_tool_call": hook.awrap}):
        node = ToolNode(guard_tools(guard, [wires.tool()]), **options)
        assert answer(play(graph_of(node, [Call("wire", BAD)]), mode)).startswith("Denied")
    assert wires.sent == []


def test_the_backstop_is_a_callback_that_stops(guard: Guard) -> None:
    """LangChain only logs what a callback raises, unless it says raise_error; and an async run goes on without it unless it runs inline."""
    handler = Backstop(guard)
    assert handler.raise_error
    assert handler.run_inline
    assert not handler.ignore_agent  # the switch for tool events


class Before(AgentMiddleware):
    """A hook that stands behind the guard's, nearer to the tool."""

    def __init__(self, change: Callable[[Any], Any]) -> None:
        super().__init__()
        self._change = change

    def wrap_tool_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        return handler(self._change(request))

    async def awrap_tool_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        return await handler(self._change(request))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("guard_first", [True, False])
def test_a_hook_that_rewrites_arguments(guard: Guard, wires: Wires, mode: str, guard_first: bool) -> None:
    rewriting = Before(lambda request: request.override(tool_call={**request.tool_call, "args": BAD}))
    hooks = [GuardMiddleware(guard, "triage"), rewriting]
    agent = create_agent(scripted([Call("wire", GOOD)]), [wires.tool()], middleware=hooks if guard_first else hooks[::-1])
    assert answer(play(agent, mode)).startswith("Denied (argument_not_allowed)")
    assert wires.sent == []


@pytest.mark.parametrize("mode", MODES)
def test_a_hook_that_swaps_the_tool(guard: Guard, wires: Wires, mode: str) -> None:
    """A hook behind the guard's puts the bare tool, or another one, in the place of the guarded one: it starts past the guard."""
    bare = wires.tool()
    swapping = Before(lambda request: request.override(tool=bare, tool_call={**request.tool_call, "args": BAD}))
    agent = create_agent(scripted([Call("wire", GOOD)]), [bare], middleware=[GuardMiddleware(guard, "triage"), swapping])
    assert answer(play(agent, mode)).startswith("Denied (integrity_failure)")
    assert wires.sent == []


@pytest.mark.parametrize("mode", MODES)
def test_a_hook_that_brings_a_tool_of_its_own(guard: Guard, wires: Wires, mode: str) -> None:
    """For a name that nobody knows: the guard judges the name, and a tool that is put there afterwards starts past it."""
    bare = wires.tool()
    bringing = Before(lambda request: request.override(tool=bare))
    agent = create_agent(scripted([Call("wire", BAD)]), [], middleware=[GuardMiddleware(guard, "triage"), bringing])
    assert answer(play(agent, mode)).startswith("Denied")
    agent = create_agent(scripted([Call("wire", GOOD)]), [], middleware=[GuardMiddleware(guard, "triage"), bringing])
    assert answer(play(agent, mode)).startswith("Denied (integrity_failure)")
    assert wires.sent == []


@pytest.mark.parametrize("mode", MODES)
def test_a_hook_that_calls_twice(guard: Guard, wires: Wires, mode: str) -> None:
    """A retry with the same call id is a replay."""

    def fails(amount: int, to: str) -> str:
        """Fails after it has sent."""
        wires.sent.append((amount, to))
        raise ConnectionError("lost")

    failing = StructuredTool.from_function(fails, name="wire")
    retry = ToolRetryMiddleware(max_retries=2, initial_delay=0, jitter=False, retry_on=(ConnectionError,))
    agent = create_agent(scripted([Call("wire", GOOD)]), [failing], middleware=[retry, GuardMiddleware(guard, "triage")])
    assert answer(play(agent, mode)).startswith("Denied (replay_detected)")
    assert wires.sent == [(5, "ann")]


class Meddling(BaseCallbackHandler):
    """Changes what it is shown when a tool starts."""

    run_inline = True

    def on_tool_start(self, serialized: Any, input_str: str, *, inputs: Any = None, **kwargs: Any) -> None:
        inputs.clear()
        inputs.update(BAD)


@pytest.mark.parametrize("mode", ["invoke", "ainvoke"])
def test_a_callback_that_meddles_with_the_arguments(guard: Guard, wires: Wires, mode: str) -> None:
    made, config = guard_tool(guard, wires.tool()), {"callbacks": [Meddling()]}
    if mode == "invoke":
        made.invoke(dict(GOOD), config)  # type: ignore[arg-type]
    else:
        asyncio.run(made.ainvoke(dict(GOOD), config))  # type: ignore[arg-type]
    assert wires.sent == [(5, "ann")]


def test_a_callback_that_breaks_leaves_no_open_permit(guard: Guard, wires: Wires) -> None:
    class Breaks(BaseCallbackHandler):
        raise_error = run_inline = True

        def on_tool_start(self, *args: Any, **kwargs: Any) -> None:
            raise RuntimeError("no tracing today")

    with pytest.raises(RuntimeError):
        guard_tool(guard, wires.tool()).invoke(GOOD, {"callbacks": [Breaks()]})
    assert wires.sent == []
    assert [record["status"] for record in records(guard, "outcome")] == ["not_run"]


@pytest.mark.parametrize("mode", ["invoke", "arun"])
def test_arguments_that_change_while_they_are_checked(guard: Guard, wires: Wires, mode: str) -> None:
    """The caller keeps the dictionary and changes it from another thread."""
    made, stop = guard_tool(guard, wires.tool()), threading.Event()
    arguments: dict[str, Any] = dict(GOOD)

    def flip() -> None:
        while not stop.is_set():
            arguments["amount"], arguments["to"] = 5000, "eve"
            arguments["amount"], arguments["to"] = 5, "ann"

    flipping = threading.Thread(target=flip)
    flipping.start()
    try:
        for _ in range(150):
            try:
                made.invoke(arguments) if mode == "invoke" else asyncio.run(made.arun(arguments))
            except Denied:
                continue
    finally:
        stop.set()
        flipping.join()
    assert set(wires.sent) <= {(5, "ann")}


# --- nested agents --------------------------------------------------------------------------------------------------------------


def inner_agent(wires: Wires, *middleware: Any) -> Any:
    return create_agent(scripted([Call("wire", BAD)]), [wires.tool()], middleware=middleware)


@pytest.mark.parametrize("mode", MODES)
def test_a_sub_agent_inside_a_tool_without_a_guard_of_its_own(guard: Guard, wires: Wires, mode: str) -> None:
    def run_inner() -> str:
        """Runs another agent."""
        return str(play(inner_agent(wires), "sync" if mode in ("sync", "stream") else "stream")["messages"][-2].content)

    agent = create_agent(scripted([Call("run_inner", {})]), [run_inner], middleware=[GuardMiddleware(guard, "triage")])
    assert answer(play(agent, mode)).startswith("Denied (integrity_failure)")
    assert wires.sent == []
    (stopped,) = records(guard, "decision", tool="wire")
    (outer,) = records(guard, "decision", tool="run_inner")
    assert (stopped["code"], stopped["caused_by"]) == ("integrity_failure", outer["id"])


@pytest.mark.parametrize("way", ["invoke", "run", "batch", "ainvoke", "to_thread", "executor"])
def test_a_bare_tool_inside_a_tool(guard: Guard, wires: Wires, way: str) -> None:
    bare = wires.tool()
    ways: dict[str, Callable[[], Any]] = {
        "invoke": lambda: bare.invoke(BAD),
        "run": lambda: bare.run(BAD),
        "batch": lambda: bare.batch([BAD, BAD]),
        "ainvoke": lambda: asyncio.run(bare.ainvoke(BAD)),
        "to_thread": lambda: asyncio.run(asyncio.to_thread(bare.invoke, BAD)),
        "executor": lambda: asyncio.run(StructuredTool.from_function(bare.func, name="wire").ainvoke(BAD)),
    }

    def run_inner() -> str:
        """Uses another tool."""
        return str(ways[way]())

    with assert_denied("integrity_failure"):
        guard_tool(guard, make_tool(run_inner)).invoke({})
    assert wires.sent == []


def test_a_bare_tool_in_a_raw_thread_inside_a_tool_is_out_of_reach(guard: Guard, wires: Wires) -> None:
    """A raw thread starts without context: no guard, and no authority either, so that only what is guarded itself is stopped there."""
    bare = wires.tool()
    made = guard_tool(guard, wires.tool())
    denied: list[Denied] = []

    def in_thread() -> None:
        bare.invoke({"amount": 1, "to": "out of reach"})
        try:
            made.invoke(GOOD)
        except Denied as error:
            denied.append(error)

    def run_inner() -> str:
        """Starts a thread."""
        thread = threading.Thread(target=in_thread)
        thread.start()
        thread.join()
        return "done"

    guard_tool(guard, make_tool(run_inner)).invoke({})
    assert wires.sent == [(1, "out of reach")]
    assert [error.code for error in denied] == ["artifact_missing"]


@pytest.mark.parametrize("start", ["raw thread", "new context"])
def test_lost_context_denies(guard: Guard, wires: Wires, start: str) -> None:
    """A context variable does not reach a raw thread. The tool brings its guard along, and finds no authority."""
    made, codes = guard_tool(guard, wires.tool(), agent="triage"), []

    def attempt() -> None:
        try:
            made.invoke(GOOD)
        except Denied as error:
            codes.append(error.code)

    if start == "raw thread":
        thread = threading.Thread(target=attempt)
        thread.start()
        thread.join()
    else:
        contextvars.Context().run(attempt)
    assert codes == ["artifact_missing"]
    assert wires.sent == []


@pytest.mark.parametrize("mode", MODES)
def test_the_permit_of_the_outer_tool_is_no_permit_for_the_inner_one(guard: Guard, wires: Wires, mode: str) -> None:
    """The same tool inside itself is another call: judged again, under its own arguments."""
    made: list[Any] = []
    reached: list[str] = []

    def wire(amount: int, to: str) -> str:
        """Sends money, and tries to send more."""
        wires.sent.append((amount, to))
        with pytest.raises(Denied) as caught:
            made[0]._run(**BAD, config={})
        reached.append(str(caught.value.code))
        return "sent"

    made.append(guard_tool(guard, StructuredTool.from_function(wire)))
    agent = create_agent(scripted([Call("wire", GOOD)]), made, middleware=[GuardMiddleware(guard, "triage")])
    assert answer(play(agent, mode)) == "sent"
    assert wires.sent == [(5, "ann")]
    assert reached == ["argument_not_allowed"]


def test_two_middlewares_are_not_two_identities(guard: Guard, wires: Wires) -> None:
    """An agent cannot be given a second guard with another name: create_agent refuses two of a kind."""
    with pytest.raises(AssertionError, match="duplicate"):
        create_agent(scripted(), [wires.tool()], middleware=[GuardMiddleware(guard, "triage"), GuardMiddleware(guard, "helper")])


def test_a_supervisor_drops_the_hooks_of_a_node_but_not_its_tools(guard: Guard, wires: Wires) -> None:
    """create_supervisor takes a ToolNode apart and makes its own, without the hooks. The tools in it are guarded themselves; the hand-off
    tools that it adds are not: bring guarded ones, as the adapter's page says.
    """
    supervisor = pytest.importorskip("langgraph_supervisor")
    node = guard_tool_node(guard, [wires.tool()], agent="triage")
    helper = create_agent(scripted([Call("wire", BAD)]), [wires.tool()], middleware=[GuardMiddleware(guard, "helper")], name="helper")
    model = scripted([Call("wire", BAD)], [Call("transfer_to_helper", {})])
    app = supervisor.create_supervisor([helper], model=model, tools=node, output_mode="full_history").compile()
    said = [str(message.content) for message in app.invoke(GO)["messages"] if isinstance(message, ToolMessage) and message.name == "wire"]
    assert [text[:6] for text in said] == ["Denied", "Denied"]
    assert wires.sent == []
    assert records(guard, "decision", tool="transfer_to_helper") == []  # out of reach: the supervisor's own hand-off tool
