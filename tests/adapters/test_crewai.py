"""CrewAI with guard_crew, guard_agent and guard_tools."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

pytest.importorskip("crewai")

from support.crewai_scripted import ScriptedLLM, crew_of, member  # isort: skip  # sets the environment before crewai is imported

from crewai import Crew, Process, Task
from crewai.agents.step_executor import StepExecutor
from crewai.hooks import (
    clear_before_tool_call_hooks,
    register_before_llm_call_hook,
    register_before_tool_call_hook,
    unregister_before_llm_call_hook,
    unregister_before_tool_call_hook,
)
from crewai.hooks.dispatch import HookAborted
from crewai.state.checkpoint_config import CheckpointConfig
from crewai.tools import BaseTool
from crewai.tools import tool as make_tool
from crewai.tools.agent_tools.deferred_tool_result_reader import DeferredToolResultReader

from agentguard import Denied, Guard, InvalidInput
from agentguard.testing import AdapterConformance, Call, Mode, Reply, Scene, records
from agentguard_adapters.crewai import guard_agent, guard_crew, guard_tools


@contextmanager
def hooked(rewrite: Any) -> Iterator[None]:
    """A hook of CrewAI's own that changes the arguments."""

    def before(context: Any) -> None:
        changed = rewrite(context.tool_name, context.tool_input)
        context.tool_input.update(changed)

    register_before_tool_call_hook(before)
    try:
        yield
    finally:
        unregister_before_tool_call_hook(before)


@contextmanager
def denial_raised() -> Iterator[None]:
    """A run ends with HookAborted, which has Denied as its cause."""
    try:
        yield
    except HookAborted as error:
        raise error.__cause__ or error from error


class TestCrewAI(AdapterConformance):
    out_of_reach: ClassVar[Mapping[str, str]] = {
        "the tool object that was given": "whoever holds it can call it: the agent gets a guarded copy when it runs"
    }

    def crew(self, scene: Scene, *, stream: bool = False) -> tuple[Any, ScriptedLLM]:
        llm = ScriptedLLM.of(*scene.steps)
        crew = crew_of(member(llm, [make_tool(tool) for tool in scene.tools], role=scene.agent), stream=stream)
        return (crew if scene.guard is None else guard_crew(scene.guard, crew, on_deny=scene.on_deny)), llm

    def run(self, scene: Scene, mode: Mode) -> list[Reply]:
        crew, llm = self.crew(scene, stream=mode == "stream")
        with denial_raised(), hooked(scene.rewrite or (lambda tool, arguments: {})):
            streamed = crew.kickoff()
            if mode == "stream":
                list(streamed)
        return llm.replies(scene.steps)

    async def arun(self, scene: Scene, mode: Mode) -> list[Reply]:
        crew, llm = self.crew(scene, stream=mode == "astream")
        with denial_raised(), hooked(scene.rewrite or (lambda tool, arguments: {})):
            streamed = await crew.akickoff()
            if mode == "astream":
                _ = [chunk async for chunk in streamed]
        return llm.replies(scene.steps)

    def twins(self, guard: Guard, tool: Callable[..., Any]) -> Mapping[str, Callable[[dict[str, Any]], Any]]:
        made = make_tool(tool)
        (guarded,) = guard_tools(guard, [made], agent="lead")
        structured = guarded.to_structured_tool()

        def llm(arguments: dict[str, Any], native: bool = True) -> ScriptedLLM:
            return ScriptedLLM.of([Call("note", arguments)], native=native)

        def agent(arguments: dict[str, Any], native: bool = True) -> Any:
            return guard_agent(guard, member(llm(arguments, native), [made]))

        return {
            "the tool object that was given": lambda arguments: made.run(**arguments),
            "run": lambda arguments: guarded.run(**arguments),
            "run by position": lambda arguments: guarded.run(*arguments.values()),
            "_run": lambda arguments: guarded._run(**arguments),
            "arun": lambda arguments: asyncio.run(guarded.arun(**arguments)),
            "_arun": lambda arguments: asyncio.run(guarded._arun(**arguments)),
            "func": lambda arguments: guarded.func(**arguments),
            "structured": lambda arguments: structured.invoke(arguments),
            "structured, func": lambda arguments: structured.func(**arguments),
            "a copy": lambda arguments: guarded.model_copy().run(**arguments),
            "text calls": lambda arguments: crew_of(agent(arguments, native=False)).kickoff(),
            "kickoff of an agent": lambda arguments: agent(arguments).kickoff("go"),
            "kickoff of an agent, text calls": lambda arguments: agent(arguments, native=False).kickoff("go"),
            "kickoff of an agent, async": lambda arguments: asyncio.run(agent(arguments).kickoff_async("go")),
            "for each": lambda arguments: crew_of(agent(arguments)).kickoff_for_each([{}]),
            "in a thread": lambda arguments: asyncio.run(crew_of(agent(arguments)).kickoff_async()),
        }


POLICY = """
agentguard: 1
name: crewai
agents:
  boss:
    tools: {pay: {amount: {range: {max: 10}}}, delegate_work_to_coworker: {coworker: {one_of: [clerk]}, task: any, context: any}}
    delegates: {clerk: {depth: 1}}
  clerk:
    tools: {pay: {amount: {range: {max: 5}}}}
  stranger:
    tools: {pay: {amount: any}}
"""


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[Guard]:
    with Guard.open(POLICY, home=tmp_path / "home", durability="process") as opened:
        yield opened


class Pay(BaseTool):
    """A tool as a class, which keeps what it was given."""

    name: str = "Pay"
    description: str = "Pays."
    taken: list[int]

    def _run(self, amount: int) -> str:
        self.taken.append(amount)
        return f"paid {amount}"


@pytest.fixture
def pay() -> Pay:
    return Pay(taken=[])


def paying(*amounts: Any, native: bool = True) -> ScriptedLLM:
    return ScriptedLLM.of(*[[Call("pay", {"amount": amount})] for amount in amounts], native=native)


def delegating(coworker: str) -> ScriptedLLM:
    return ScriptedLLM.of([Call("delegate_work_to_coworker", {"coworker": coworker, "task": "pay", "context": "all"})])


def codes(guard: Guard, agent: str | None = None) -> list[str]:
    found = records(guard, "decision") if agent is None else records(guard, "decision", agent=agent)
    return [one["code"] if one["verdict"] != "allow" else "allow" for one in found]


@pytest.mark.parametrize("native", [True, False])
def test_tools_as_classes_and_both_ways_of_calling(guard: Guard, pay: Pay, native: bool) -> None:
    llm = paying(7, 70, native=native)
    with guard.task("boss", initiator="user:test"):
        guard_crew(guard, crew_of(member(llm, [pay], role="boss"))).kickoff()
    assert pay.taken == [7]
    assert codes(guard) == ["allow", "argument_not_allowed"]
    assert any("Denied (argument_not_allowed)" in text for text in llm.heard())


@pytest.mark.parametrize("native", [True, False])
def test_mistakes_are_recorded_and_told(guard: Guard, pay: Pay, native: bool) -> None:
    """What fails at the schema never reaches the stand-in; the hook behind the tool records it."""
    llm = paying("much", native=native)
    with guard.task("boss", initiator="user:test"):
        guard_crew(guard, crew_of(member(llm, [pay], role="boss"))).kickoff()
    assert pay.taken == []
    assert codes(guard) == ["malformed_call"]
    assert any("Denied (malformed_call)" in text and "amount: Input should be a valid integer" in text for text in llm.heard())


def test_arguments_that_are_no_json_are_recorded_and_told(guard: Guard, pay: Pay) -> None:
    llm = ScriptedLLM.of([Call("pay", {"raw": "{amount"})], [Call("pay", {"raw": "[1]"})])
    with guard.task("boss", initiator="user:test"):
        guard_crew(guard, crew_of(member(llm, [pay], role="boss"))).kickoff()
    assert pay.taken == []
    assert codes(guard) == ["malformed_call", "malformed_call"]
    assert all("Denied (malformed_call)" in text for text in llm.heard())
    assert len(llm.heard()) == 2


def test_text_calls_keep_what_crewai_would_drop(guard: Guard, pay: Pay) -> None:
    llm = ScriptedLLM.of([Call("pay", {"amount": 1, "as_admin": True})], native=False)
    with guard.task("boss", initiator="user:test"):
        guard_crew(guard, crew_of(member(llm, [pay], role="boss"))).kickoff()
    assert pay.taken == []
    assert codes(guard) == ["malformed_call"]


def test_a_name_that_is_nearly_a_tools_is_that_tools_call(guard: Guard) -> None:
    """CrewAI runs the tool whose name is most like the one that the model wrote."""
    taken = []

    def pay_invoices(amount: int) -> str:
        """Pays."""
        taken.append(amount)
        return "paid"

    llm = ScriptedLLM.of([Call("pay_invoice", {"amount": 1})], native=False)
    with guard.task("boss", initiator="user:test"):
        guard_crew(guard, crew_of(member(llm, [make_tool(pay_invoices)], role="boss"))).kickoff()
    assert taken == []
    assert [one["tool"] for one in records(guard, "decision")] == ["pay_invoices"]


@pytest.mark.parametrize("native", [True, False])
def test_another_hook_that_raises_opens_nothing(guard: Guard, pay: Pay, native: bool) -> None:
    """CrewAI swallows what a hook raises, and runs the tool."""

    def broken(context: Any) -> None:
        raise PermissionError("no")

    register_before_tool_call_hook(broken)
    try:
        with guard.task("boss", initiator="user:test"):
            guard_crew(guard, crew_of(member(paying(70, native=native), [pay], role="boss"))).kickoff()
    finally:
        unregister_before_tool_call_hook(broken)
    assert pay.taken == []


@pytest.mark.parametrize("native", [True, False])
def test_the_hook_itself_fails_closed(guard: Guard, pay: Pay, native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What our own hook raises would be swallowed as well."""
    monkeypatch.setattr("agentguard_adapters.crewai_run.asking", None)
    with guard.task("boss", initiator="user:test"):
        guard_crew(guard, crew_of(member(paying(1, native=native), [pay], role="boss"))).kickoff()
    assert pay.taken == []


def test_cleared_hooks_open_nothing(guard: Guard, pay: Pay) -> None:
    crew = guard_crew(guard, crew_of(member(paying(70, 7), [pay], role="boss")))
    clear_before_tool_call_hooks()
    with guard.task("boss", initiator="user:test"):
        crew.kickoff()
    assert pay.taken == [7]


@pytest.mark.parametrize("native", [True, False])
def test_a_user_who_says_no_is_not_a_denial(guard: Guard, pay: Pay, native: bool) -> None:
    """CrewAI's way to have a human approve is a hook that returns False: then nobody asks the guard, and its words stay."""

    def no(context: Any) -> bool:
        return False

    llm = paying(1, native=native)
    register_before_tool_call_hook(no)
    try:
        with guard.task("boss", initiator="user:test"):
            guard_crew(guard, crew_of(member(llm, [pay], role="boss"))).kickoff()
    finally:
        unregister_before_tool_call_hook(no)
    assert pay.taken == []
    assert codes(guard) == []
    assert any("Tool execution blocked by hook" in text for text in llm.heard())


@pytest.mark.parametrize("native", [True, False])
def test_a_denial_ends_the_run_once(guard: Guard, pay: Pay, native: bool) -> None:
    """CrewAI tries a tool that raises again, and a task whose agent raises: HookAborted is neither."""
    with guard.task("boss", initiator="user:test"), pytest.raises(HookAborted) as caught:
        guard_crew(guard, crew_of(member(paying(70, 1, native=native), [pay], role="boss")), on_deny="raise").kickoff()
    assert isinstance(caught.value.__cause__, Denied)
    assert pay.taken == []
    assert codes(guard) == ["argument_not_allowed"]


def test_tools_of_a_task_are_guarded(guard: Guard, pay: Pay) -> None:
    """A task keeps its agent's tools from the time it was made, and may have some of its own."""
    boss = member(paying(70, 7), role="boss")
    task = Task(description="go", expected_output="it", agent=boss, tools=[pay])
    guard_agent(guard, boss)
    with guard.task("boss", initiator="user:test"):
        Crew(agents=[boss], tasks=[task]).kickoff()
    assert pay.taken == [7]


def test_an_agent_that_ran_before_is_guarded(guard: Guard, pay: Pay) -> None:
    """It has an executor already, which CrewAI uses again."""
    boss = member(paying(70), [pay], role="boss")
    crew_of(boss).kickoff()
    assert pay.taken == [70]
    guard_agent(guard, boss)
    boss.llm._steps.extend([[Call("pay", {"amount": 71})], [Call("pay", {"amount": 7})]])
    with guard.task("boss", initiator="user:test"):
        crew_of(boss).kickoff()
    assert pay.taken == [70, 7]


@pytest.mark.parametrize("run", ["kickoff_for_each", "copy", "agent"])
def test_copies_are_guarded(guard: Guard, pay: Pay, run: str) -> None:
    boss = guard_agent(guard, member(paying(70, 7), [pay], role="boss"))
    assert boss.copy().executor_class is boss.executor_class
    with guard.task("boss", initiator="user:test"):
        if run == "kickoff_for_each":
            crew_of(boss).kickoff_for_each([{}])
        elif run == "copy":
            crew_of(boss).copy().kickoff()
        else:
            boss.copy().kickoff("go")
    assert pay.taken == [7]


@pytest.mark.parametrize("native", [True, False])
def test_no_result_comes_from_a_cache(guard: Guard, pay: Pay, native: bool) -> None:
    """A crew's cache would give one agent what another was allowed to see."""
    boss, clerk = member(paying(7, native=native), [pay], role="boss"), member(paying(7, native=native), [pay], role="clerk")
    tasks = [Task(description="go", expected_output="it", agent=one) for one in (boss, clerk)]
    with guard.task("boss", initiator="user:test"):
        guard_crew(guard, Crew(agents=[boss, clerk], tasks=tasks, cache=True)).kickoff()
    assert codes(guard) == ["allow", "argument_not_allowed"]
    assert not any("paid 7" in text for text in clerk.llm.heard()[-1:])


@pytest.mark.parametrize("native", [True, False])
def test_a_coworker_acts_under_a_narrower_task(guard: Guard, pay: Pay, native: bool) -> None:
    boss = member(delegating("clerk"), role="boss", allow_delegation=True)
    clerk = member(paying(7, 5, native=native), [pay], role="clerk")
    with guard.task("boss", initiator="user:test"):
        guard_crew(guard, crew_of(boss, clerk)).kickoff()
    assert pay.taken == [5]
    (outer,) = records(guard, "decision", agent="boss")
    assert codes(guard, "clerk") == ["argument_not_allowed", "allow"]
    assert {one["caused_by"] for one in records(guard, "decision", agent="clerk")} == {outer["id"]}


def test_a_coworker_without_a_grant_never_starts(guard: Guard, pay: Pay) -> None:
    boss, stranger = member(delegating("stranger"), role="boss", allow_delegation=True), member(paying(1), [pay], role="stranger")
    with guard.task("boss", initiator="user:test"):
        guard_crew(guard, crew_of(boss, stranger)).kickoff()
    assert pay.taken == []
    assert len(stranger.llm._steps) == 1
    assert codes(guard) == ["argument_not_allowed"]


def test_the_manager_of_a_hierarchical_crew_is_guarded(guard: Guard, pay: Pay) -> None:
    """CrewAI would make it at the first kickoff, when nobody looks any more."""
    clerk, stranger = member(paying(7, 5), [pay], role="clerk"), member(paying(1), [pay], role="stranger")
    llm = delegating("clerk")
    llm._steps.extend(delegating("stranger")._steps)
    tasks = [Task(description="go", expected_output="it", agent=clerk)]
    crew = Crew(agents=[clerk, stranger], tasks=tasks, process=Process.hierarchical, manager_llm=llm)
    manager = "Crew Manager"
    with guard.task("boss", initiator="user:test"):
        guard_crew(guard, crew, agents={manager: "boss"}).kickoff()
    assert crew.manager_agent.role == manager
    assert pay.taken == [5]
    assert codes(guard, "boss") == ["allow", "argument_not_allowed"]


def test_steps_of_a_plan_are_guarded(guard: Guard, pay: Pay) -> None:
    """With planning, CrewAI runs tools in another class, which is given what the executor has."""
    boss = guard_agent(guard, member(paying(), [pay], role="boss"))
    boss.create_agent_executor()
    executor = boss.agent_executor
    executor._setup_native_tools()
    steps = executor._ensure_step_executor()
    assert isinstance(steps, StepExecutor)
    for amount in (70, 7):
        calls = [{"id": f"call-{amount}", "type": "function", "function": {"name": "pay", "arguments": f'{{"amount": {amount}}}'}}]
        with guard.task("boss", initiator="user:test"):
            steps._execute_native_tool_calls(calls, [], type("Todo", (), {"step_number": 1, "description": "go"})(), [], {})
    assert pay.taken == [7]
    assert codes(guard) == ["argument_not_allowed", "allow"]


def test_a_tool_that_crewai_adds_on_the_way_is_guarded(guard: Guard) -> None:
    """It gives an agent a tool to read results that are too long, in the middle of a run."""
    boss = guard_agent(guard, member(paying(), role="boss"))
    boss.create_agent_executor()
    reader = DeferredToolResultReader()
    boss.agent_executor._register_deferred_file_reader(reader)
    with guard.task("boss", initiator="user:test"):
        assert "Denied" in str(reader.run(file_path="results.txt"))
    assert codes(guard) == ["tool_not_in_scope"]


@pytest.mark.parametrize(("native", "structured"), [(True, True), (True, False), (False, True)])
def test_a_tool_from_elsewhere_is_blocked(guard: Guard, pay: Pay, native: bool, structured: bool) -> None:
    """One that was put into the executor itself, past the agent."""

    @make_tool
    def look() -> str:
        """Looks."""
        return "seen"

    boss = guard_agent(guard, member(paying(1, native=native), [look], role="boss"))

    def slip_in(context: Any) -> None:
        context.executor.tools[:] = [pay.to_structured_tool()] if structured else []
        context.executor.original_tools[:] = [pay]
        context.executor._setup_native_tools()

    register_before_llm_call_hook(slip_in)
    try:
        with guard.task("boss", initiator="user:test"):
            crew_of(boss).kickoff()
    finally:
        unregister_before_llm_call_hook(slip_in)
    assert pay.taken == []
    assert codes(guard) == ["malformed_call"]


def test_an_id_that_crewai_made_up_is_none(guard: Guard, pay: Pay) -> None:
    """Some providers give none, and CrewAI takes an address in memory, which a later call may have again."""
    boss = guard_agent(guard, member(paying(), [pay], role="boss"))
    boss.create_agent_executor()
    boss.agent_executor._setup_native_tools()
    call = type("Call", (), {"function_call": type("Function", (), {"name": "pay", "args": {"amount": 1}})()})()
    with guard.task("boss", initiator="user:test"):
        for _ in range(2):
            assert boss.agent_executor._execute_single_native_tool_call(call)["result"] == "paid 1"


@pytest.mark.parametrize("options", [{"max_execution_time": 30}, {}])
def test_authority_reaches_threads(guard: Guard, pay: Pay, options: dict[str, Any]) -> None:
    boss = member(paying(7), [pay], role="boss", **options)
    task = Task(description="go", expected_output="it", agent=boss, async_execution=not options)
    with guard.task("boss", initiator="user:test"):
        guard_crew(guard, Crew(agents=[boss], tasks=[task])).kickoff()
    assert pay.taken == [7]


def test_without_context_a_tool_is_denied(guard: Guard, pay: Pay) -> None:
    """`CrewStructuredTool.ainvoke` starts a thread without it; no agent of CrewAI goes that way."""
    (guarded,) = guard_tools(guard, [pay], agent="boss")
    with guard.task("boss", initiator="user:test"):
        denied = asyncio.run(guarded.to_structured_tool().ainvoke({"amount": 1}))
    assert denied.denied.code == "artifact_missing"
    assert pay.taken == []


def test_tools_by_themselves(guard: Guard, pay: Pay) -> None:
    told, raising = guard_tools(guard, [pay], agent="boss")[0], guard_tools(guard, [pay], agent="boss", on_deny="raise")[0]
    assert isinstance(told, Pay)
    with guard.task("boss", initiator="user:test"):
        assert told.run(amount=3) == "paid 3"
        assert "argument_not_allowed" in told.run(amount=70).message
        with pytest.raises(Denied):
            raising.run(amount=70)
    assert pay.taken == [3]


def test_what_cannot_be_guarded_is_refused(guard: Guard, pay: Pay) -> None:
    class Runs(Pay):
        def run(self, *args: Any, **kwargs: Any) -> Any:
            return "ran"

    with pytest.raises(InvalidInput, match="a `run` of its own"):
        guard_tools(guard, [Runs(taken=[])])
    boss = guard_agent(guard, member(paying(), role="boss"))
    with pytest.raises(InvalidInput, match="guarded already"):
        guard_agent(guard, boss)
    stranger: Any = object()
    with pytest.raises(InvalidInput, match="none of CrewAI's"):
        guard_agent(guard, stranger)


def test_an_agent_may_work_in_two_crews(guard: Guard, pay: Pay) -> None:
    boss = member(paying(7), [pay], role="boss")
    guard_crew(guard, crew_of(boss))
    crew = guard_crew(guard, crew_of(boss))
    with pytest.raises(InvalidInput, match="guarded already"):
        guard_crew(guard, crew_of(boss), agents={"boss": "stranger"})
    with guard.task("boss", initiator="user:test"):
        crew.kickoff()
    assert codes(guard) == ["allow"]


def test_a_crew_from_a_checkpoint_is_refused(guard: Guard, pay: Pay) -> None:
    """`kickoff(from_checkpoint=...)` makes a new crew with new agents, and runs it at once."""
    crew = guard_crew(guard, crew_of(member(paying(70), [pay], role="boss")))
    with guard.task("boss", initiator="user:test"), pytest.raises(InvalidInput, match="from a checkpoint"):
        crew.kickoff(from_checkpoint=CheckpointConfig(restore_from="anywhere.json"))
    with guard.task("boss", initiator="user:test"), pytest.raises(InvalidInput, match="from a checkpoint"):
        crew.agents[0].kickoff("go", from_checkpoint=CheckpointConfig(restore_from="anywhere.json"))
    assert pay.taken == []


def test_tools_of_the_provider_are_refused(guard: Guard) -> None:
    llm = paying()
    llm.additional_params["tools"] = [{"type": "web_search"}]
    with pytest.raises(InvalidInput, match="web_search runs at the model's provider"):
        guard_crew(guard, crew_of(member(llm, role="boss")))
    guard_crew(guard, crew_of(member(llm, role="boss")), unsafe_provider_tools=True)


def test_guarded_tools_of_a_guarded_agent_are_decided_once(guard: Guard, pay: Pay) -> None:
    with guard.task("boss", initiator="user:test"):
        guard_crew(guard, crew_of(member(paying(7), guard_tools(guard, [pay]), role="boss"))).kickoff()
    assert codes(guard) == ["allow"]
    assert pay.taken == [7]


def test_tools_of_another_guard_are_asked_about_by_both(guard: Guard, pay: Pay, tmp_path: Path) -> None:
    with Guard.open(POLICY, home=tmp_path / "other", durability="process") as other:
        crew = guard_crew(guard, crew_of(member(paying(7), guard_tools(other, [pay], agent="boss"), role="boss")))
        with guard.task("boss", initiator="user:test"):
            crew.kickoff()
        assert (codes(guard), codes(other)) == (["allow"], ["artifact_missing"])
    assert pay.taken == []
