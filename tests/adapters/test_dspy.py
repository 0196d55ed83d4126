"""DSPy programs with guarded tools."""

from __future__ import annotations

import asyncio
import copy
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

os.environ.setdefault("DSPY_CACHEDIR", tempfile.mkdtemp())
pytest.importorskip("dspy")

import dspy
from dspy.utils.callback import BaseCallback
from dspy.utils.exceptions import AdapterParseError

from agentguard import Denied, Guard, InvalidInput
from agentguard.testing import AdapterConformance, Call, Mode, Reply, Scene, records
from agentguard_adapters.dspy import RunDenied, guard_tools
from support.dspy_scripted import context, flat, replies

POLICY = """
agentguard: 1
name: dspy
agents:
  triage:
    tools: {search: {query: {max_length: 10}}, pay: {amount: {range: {max: 10}}}}
"""


class TestDspy(AdapterConformance):
    out_of_reach: ClassVar[Mapping[str, str]] = {"the function that was given": "plain Python for whoever holds it"}
    names_calls = False  # test_dspy_gives_tools_no_call_id

    def tools(self, scene: Scene) -> list[Any]:
        if scene.guard is None:
            return list(scene.tools)
        return guard_tools(scene.guard, scene.tools, agent=scene.agent, on_deny=scene.on_deny)  # type: ignore[return-value]

    def run(self, scene: Scene, mode: Mode) -> list[Reply]:
        calls = flat(scene.steps)
        with context(calls, scene.rewrite):
            agent = dspy.ReAct("question -> answer", tools=self.tools(scene), max_iters=len(calls) + 1)
            try:
                last = agent(question="q") if mode == "sync" else list(dspy.streamify(agent, async_streaming=False)(question="q"))[-1]
            except RunDenied as error:
                raise error.denied from error
            except AdapterParseError:  # a tool that nobody knows: DSPy ends the run
                return []
        return replies(last.trajectory, len(calls))

    async def arun(self, scene: Scene, mode: Mode) -> list[Reply]:
        calls = flat(scene.steps)
        with context(calls, scene.rewrite):
            agent = dspy.ReAct("question -> answer", tools=self.tools(scene), max_iters=len(calls) + 1)
            try:
                if mode == "async":
                    last = await agent.acall(question="q")
                else:
                    stream = dspy.streamify(agent, is_async_program=True)(question="q")
                    last = [chunk async for chunk in stream][-1]
            except RunDenied as error:
                raise error.denied from error
            except AdapterParseError:  # a tool that nobody knows: DSPy ends the run
                return []
        return replies(last.trajectory, len(calls))

    def twins(self, guard: Guard, tool: Callable[..., Any]) -> Mapping[str, Callable[[dict[str, Any]], Any]]:
        (guarded,) = guard_tools(guard, [tool], agent="lead")

        def act(module: Any, arguments: dict[str, Any]) -> Any:
            with context([Call("note", arguments)]):
                return module(question="q")

        def executed(arguments: dict[str, Any]) -> Any:
            call = dspy.ToolCalls.ToolCall(name="note", args=arguments)
            try:
                return call.execute([guarded])
            except RuntimeError as error:
                raise error.__cause__ or error from error

        return {
            "the function that was given": lambda arguments: tool(**arguments),
            "a call": lambda arguments: guarded(**arguments),
            "acall": lambda arguments: asyncio.run(guarded.acall(**arguments)),
            "func": lambda arguments: guarded.func(**arguments),
            "a tool call that is executed": executed,
            "guarded twice": lambda arguments: guard_tools(guard, [guarded])[0](**arguments),
            "a copy": lambda arguments: copy.deepcopy(guarded)(**arguments),
            "a copy of a program": lambda arguments: act(dspy.ReAct("question -> answer", tools=[guarded]).deepcopy(), arguments),
        }


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[Guard]:
    with Guard.open(POLICY, home=tmp_path / "home", durability="process") as opened:
        yield opened


paid: list[int] = []


@pytest.fixture(autouse=True)
def _unpaid() -> None:
    paid.clear()


def pay(amount: int) -> str:
    """Pays."""
    paid.append(amount)
    return f"paid {amount}"


def verdicts(guard: Guard) -> list[Any]:
    return [record["code"] or record["verdict"] for record in records(guard, "decision")]


def test_a_callback_that_raises_does_not_stop_a_tool_and_the_guard_does(guard: Guard) -> None:
    class Stops(BaseCallback):
        def on_tool_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
            raise PermissionError("no")

    (guarded,) = guard_tools(guard, [pay], agent="triage")
    with dspy.context(callbacks=[Stops()]), guard.task("triage", initiator="user:test"):
        dspy.Tool(pay)(amount=70)
        assert paid == [70]
        assert guarded(amount=70).startswith("Denied (argument_not_allowed)")
    assert paid == [70]


def test_dspy_gives_tools_no_call_id(guard: Guard) -> None:
    """The model's id of a call does not reach its tool, so the same call made twice is two calls."""
    seen: list[Any] = []

    class Sees(BaseCallback):
        def on_tool_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
            seen.append((call_id, inputs))

    (guarded,) = guard_tools(guard, [pay], agent="triage")
    calls = dspy.ToolCalls(tool_calls=[dspy.ToolCalls.ToolCall(id="same", name="pay", args={"amount": 1})] * 2)
    with guard.task("triage", initiator="user:test"), dspy.context(callbacks=[Sees()]):
        dspy.ReActV2("question -> answer", tools=[guarded])._execute_tool_calls(calls)
    assert paid == [1, 1]
    assert [inputs for _, inputs in seen] == [{"kwargs": {"amount": 1}}] * 2 or [inputs for _, inputs in seen] == [{"amount": 1}] * 2
    assert "same" not in [call_id for call_id, _ in seen]


def test_arguments_that_do_not_fit_are_recorded_and_told(guard: Guard) -> None:
    (guarded,) = guard_tools(guard, [pay], agent="triage")
    with guard.task("triage", initiator="user:test"):
        said = [guarded(amount="much"), asyncio.run(guarded.acall(amount="much")), guarded(amounts=1), guarded()]
    assert all(text.startswith("Denied (malformed_call)") for text in said)
    assert "Arg amount is invalid" in said[0]
    assert verdicts(guard) == ["malformed_call"] * 4


def test_an_error_of_the_tools_own_goes_on(guard: Guard) -> None:
    def search(query: str) -> str:
        """Searches."""
        raise ValueError("nothing there")

    (guarded,) = guard_tools(guard, [search], agent="triage")
    with guard.task("triage", initiator="user:test"), pytest.raises(ValueError, match="nothing there"):
        guarded(query="x")
    assert [record["status"] for record in records(guard, "outcome")] == ["error"]


def test_react_v2_runs_guarded_tools(guard: Guard) -> None:
    calls = dspy.ToolCalls(tool_calls=[dspy.ToolCalls.ToolCall(name="pay", args={"amount": amount}) for amount in (1, 70)])
    agent = dspy.ReActV2("question -> answer", tools=guard_tools(guard, [pay], agent="triage"))
    with guard.task("triage", initiator="user:test"):
        for results, _ in (agent._execute_tool_calls(calls), asyncio.run(agent._aexecute_tool_calls(calls))):
            first, second = results.tool_call_results
            assert (first.value, second.value[:29]) == ("paid 1", "Denied (argument_not_allowed)")
    assert paid == [1, 1]


def test_rlm_runs_guarded_tools(guard: Guard) -> None:
    """What its interpreter is given is the guarded tool."""
    module = dspy.RLM("question -> answer", tools=guard_tools(guard, [pay], agent="triage"))
    given = module._prepare_execution_tools()["pay"]
    with guard.task("triage", initiator="user:test"):
        assert (given(amount=1), given(amount=70)[:29]) == ("paid 1", "Denied (argument_not_allowed)")
    assert paid == [1]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_code_act_does_not_take_guarded_tools(guard: Guard) -> None:
    """It would run the source of the tool in its interpreter, where no guard is."""
    with pytest.raises(ValueError, match="only accepts functions"):
        dspy.CodeAct("question -> answer", tools=guard_tools(guard, [pay], agent="triage"))


def test_an_asynchronous_tool_in_a_synchronous_call(guard: Guard) -> None:
    async def search(query: str) -> str:
        """Searches."""
        return f"found {query}"

    (guarded,) = guard_tools(guard, [search], agent="triage")
    with guard.task("triage", initiator="user:test"), dspy.context(allow_tool_async_sync_conversion=True):
        assert guarded(query="x") == "found x"
        assert guarded(query="x" * 11).startswith("Denied")


def test_programs_that_run_in_parallel(guard: Guard) -> None:
    """DSPy's own threads: without a task in their context nothing runs; `task=` gives one."""
    task = guard.task("triage", initiator="user:test").issue()
    steps = [Call("pay", {"amount": 1})]
    for given, codes in ((None, [["artifact_missing"] * 2]), (task, [[None, None]])):
        tools = guard_tools(guard, [pay], agent="triage", task=given)

        class Program(dspy.Module):
            def forward(self, question: str, tools: Any = tools) -> Any:
                with context(steps):
                    return dspy.ReAct("question -> answer", tools=tools)(question=question)

        with guard.task("triage", initiator="user:test"):
            found = dspy.Parallel(num_threads=2)([(Program(), {"question": "a"}), (Program(), {"question": "b"})])
        assert [replies(one.trajectory, 1)[0].code for one in found] in codes


def test_the_raised_denial_ends_the_run(guard: Guard) -> None:
    (guarded,) = guard_tools(guard, [pay], agent="triage", on_deny="raise")
    with guard.task("triage", initiator="user:test"), pytest.raises(RunDenied) as caught:
        guarded(amount=70)
    assert isinstance(caught.value.denied, Denied)


def test_tools_of_ones_own_class_are_refused(guard: Guard) -> None:
    class Own(dspy.Tool):
        pass

    with pytest.raises(InvalidInput, match="a Own may run its tool"):
        guard_tools(guard, [Own(pay)])
