"""Agno agents and teams with `guard_agent`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

os.environ["AGNO_TELEMETRY"] = "false"
pytest.importorskip("agno")

from agno.agent import Agent
from agno.exceptions import AgentRunException, StopAgentRun
from agno.run import RunContext
from agno.team import Team
from agno.tools import Toolkit, tool
from agno.tools.function import FunctionCall

from agentguard import Denied, Guard, InvalidInput
from agentguard.testing import AdapterConformance, Call, Mode, Reply, Scene, records
from agentguard_adapters.agno import RunDenied, guard_agent
from support.agno_scripted import ScriptedModel, replies, rewriting

POLICY = """
agentguard: 1
name: agno
agents:
  triage:
    tools:
      search: {query: {max_length: 10}}
      pay: {amount: {range: {max: 10}}}
      delegate_task_to_member: {member_id: any, task: any}
      delegate_task_to_members: {task: any}
    delegates: {writer: {depth: 1}}
  writer:
    tools: {pay: {amount: {range: {max: 5}}}}
"""


class TestAgno(AdapterConformance):
    out_of_reach: ClassVar[Mapping[str, str]] = {
        "the function that was given": "plain Python for whoever holds it",
        "a function call of one's own": "it is made past the agent, whose hook is not in it",
    }

    def agent(self, scene: Scene) -> tuple[Agent, ScriptedModel]:
        hooks = [rewriting(scene.rewrite)] if scene.rewrite is not None else None
        model = ScriptedModel(*scene.steps)
        agent = Agent(name=scene.agent, model=model, tools=list(scene.tools), tool_hooks=hooks, telemetry=False)
        return guard_agent(scene.guard, agent, on_deny=scene.on_deny) if scene.guard is not None else agent, model

    def run(self, scene: Scene, mode: Mode) -> list[Reply]:
        agent, model = self.agent(scene)
        try:
            if mode == "sync":
                agent.run("go")
            else:
                list(agent.run("go", stream=True, stream_events=True))
        except RunDenied as error:
            raise error.denied from error
        return replies(model, scene.steps)

    async def arun(self, scene: Scene, mode: Mode) -> list[Reply]:
        agent, model = self.agent(scene)
        try:
            if mode == "async":
                await agent.arun("go")
            else:
                async for _ in agent.arun("go", stream=True, stream_events=True):
                    pass
        except RunDenied as error:
            raise error.denied from error
        return replies(model, scene.steps)

    def twins(self, guard: Guard, tool_fn: Callable[..., Any]) -> Mapping[str, Callable[[dict[str, Any]], Any]]:
        function = tool(tool_fn)

        def agent(arguments: dict[str, Any], tools: Any) -> Agent:
            return guard_agent(guard, Agent(name="lead", model=ScriptedModel([Call("note", arguments)]), tools=tools, telemetry=False))

        return {
            "the function that was given": lambda arguments: tool_fn(**arguments),
            "a function call of one's own": lambda arguments: FunctionCall(function=function, arguments=arguments).execute(),
            "a decorated function": lambda arguments: agent(arguments, [function]).run("go"),
            "a toolkit": lambda arguments: agent(arguments, [Toolkit("kit", tools=[tool_fn])]).run("go"),
            "a factory of tools": lambda arguments: agent(arguments, lambda: [tool_fn]).run("go"),
            "a copy of the agent": lambda arguments: agent(arguments, [tool_fn]).deep_copy().run("go"),
            "a team": lambda arguments: guard_agent(
                guard, Team(name="lead", members=[], model=ScriptedModel([Call("note", arguments)]), tools=[tool_fn], telemetry=False)
            ).run("go"),
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


def pays(*amounts: int) -> list[list[Call]]:
    return [[Call("pay", {"amount": amount})] for amount in amounts]


def triage(*steps: list[Call], **options: Any) -> Agent:
    return Agent(name="triage", model=ScriptedModel(*steps), telemetry=False, **{"tools": [pay], **options})


def heard(agent: Any, steps: list[list[Call]]) -> list[Reply]:
    return replies(agent.model, steps)


def verdicts(guard: Guard, **members: Any) -> list[Any]:
    return [record["code"] or record["verdict"] for record in records(guard, "decision", **members)]


# --- what made the tool run anyway ----------------------------------------------------------------------------------------------


def test_a_pre_hook_that_raises_does_not_stop_a_tool_and_the_guard_does(guard: Guard) -> None:
    def breaks(fc: Any) -> None:
        raise PermissionError("no")

    function = tool(pre_hook=breaks)(pay)
    triage(*pays(70), tools=[function]).run("go")
    assert paid == [70]
    with guard.task("triage", initiator="user:test"):
        guard_agent(guard, triage(*pays(70), tools=[function])).run("go")
    assert paid == [70]


def test_asynchronous_hooks_are_left_out_and_the_guards_is_not(guard: Guard) -> None:
    async def denies(function_name: str, function_call: Any, arguments: dict[str, Any]) -> str:
        return "no"

    triage(*pays(70), tool_hooks=[denies]).run("go")
    assert paid == [70]
    with guard.task("triage", initiator="user:test"):
        agent = guard_agent(guard, triage(*pays(70), tool_hooks=[denies]))
        agent.run("go")
        assert [reply.code for reply in heard(agent, pays(70))] != [None]
        asyncio.run(guard_agent(guard, triage(*pays(7), tool_hooks=[denies])).arun("go"))
    assert paid == [70]
    assert verdicts(guard) == ["argument_not_allowed"]


async def test_an_asynchronous_hook_before_the_guard(guard: Guard) -> None:
    """With one in the chain Agno runs synchronous tools in it too."""

    async def doubles(function_name: str, function_call: Any, arguments: dict[str, Any]) -> Any:
        arguments["amount"] *= 2
        return await function_call(**arguments)

    with guard.task("triage", initiator="user:test"):
        await guard_agent(guard, triage(*pays(3, 7), tool_hooks=[doubles])).arun("go")
    assert paid == [6]
    assert verdicts(guard) == ["allow", "argument_not_allowed"]


def test_a_hook_behind_the_guard_changes_nothing_unseen(guard: Guard) -> None:
    def changes(function_name: str, function_call: Any, arguments: dict[str, Any]) -> Any:
        arguments["amount"] = 70  # a copy of them, which Agno does not run the tool with
        return function_call(**arguments)

    agent = guard_agent(guard, triage(*pays(7)))
    agent.tool_hooks = [*(agent.tool_hooks or []), changes]
    with guard.task("triage", initiator="user:test"):
        agent.run("go")
    assert paid == [7]
    assert verdicts(guard) == ["allow"]


def test_what_another_hook_or_the_cache_answers_goes_out_only_if_the_call_is_allowed(guard: Guard, tmp_path: Path) -> None:
    """The cache does not know who may have what is in it."""
    cached = tool(cache_results=True, cache_dir=str(tmp_path / "cache"))(pay)
    triage(*pays(7, 70), tools=[cached]).run("go")
    assert paid == [7, 70]
    steps = pays(7, 70)
    agent = guard_agent(guard, triage(*steps, tools=[cached]))
    with guard.task("triage", initiator="user:test"):
        agent.run("go")
    assert paid == [7, 70]
    assert [(reply.code, reply.error) for reply in heard(agent, steps)] == [(None, False), ("argument_not_allowed", True)]
    assert [record["status"] for record in records(guard, "outcome")] == ["not_run"]


def test_members_of_a_team_without_the_guard_run_past_it(guard: Guard) -> None:
    """Which is why guarding a team guards its members."""
    delegate = [Call("delegate_task_to_member", {"member_id": "writer", "task": "go"})]
    for guarded, amounts in ((False, [7]), (True, [])):
        paid.clear()
        writer = Agent(name="writer", model=ScriptedModel(*pays(7)), tools=[pay], telemetry=False)
        team = Team(name="triage", members=[writer], model=ScriptedModel(delegate), telemetry=False)
        if guarded:
            guard_agent(guard, team)
        else:
            team.tool_hooks = guard_agent(guard, triage()).tool_hooks
        with guard.task("triage", initiator="user:test"):
            team.run("go")
        assert paid == amounts


# --- teams ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["sync", "stream", "async", "astream"])
@pytest.mark.parametrize("to_all", [False, True])
def test_delegation_narrows(guard: Guard, way: str, to_all: bool) -> None:
    call = (
        Call("delegate_task_to_members", {"task": "go"})
        if to_all
        else Call("delegate_task_to_member", {"member_id": "writer", "task": "go"})
    )
    writer = Agent(name="writer", model=ScriptedModel(*pays(5, 7)), tools=[pay], telemetry=False)
    stranger = Agent(name="stranger", model=ScriptedModel(*pays(5)), tools=[pay], telemetry=False)
    members: list[Any] = [writer, stranger]
    model = ScriptedModel([call])
    team = Team(name="triage", members=members, model=model, telemetry=False, delegate_to_all_members=to_all)
    guard_agent(guard, team)

    async def aplay() -> None:
        if way == "async":
            await team.arun("go")
        else:
            async for _ in team.arun("go", stream=True):
                pass

    with guard.task("triage", initiator="user:test"):
        if way == "sync":
            team.run("go")
        elif way == "stream":
            list(team.run("go", stream=True))
        else:
            asyncio.run(aplay())
    assert paid == [5]
    assert verdicts(guard, agent="writer") == ["allow", "argument_not_allowed"]
    (outer,) = records(guard, "decision", tool=call.tool)
    assert {record["caused_by"] for record in records(guard, "decision", agent="writer")} == {outer["id"]}


def test_a_second_run_of_a_team_is_the_same_tool(guard: Guard) -> None:
    """Agno makes the delegation anew for each run."""
    delegate = [Call("delegate_task_to_member", {"member_id": "writer", "task": "go"})]
    for _ in range(2):
        writer = Agent(name="writer", model=ScriptedModel(*pays(5)), tools=[pay], telemetry=False)
        team = guard_agent(guard, Team(name="triage", members=[writer], model=ScriptedModel(delegate), telemetry=False))
        with guard.task("triage", initiator="user:test"):
            team.run("go", user_id="alice", session_id=str(_))
    assert paid == [5, 5]


# --- arguments, approvals, and what is refused ------------------------------------------------------------------------------------


def test_arguments_that_do_not_fit_are_recorded_and_told(guard: Guard) -> None:
    steps = [[Call("pay", {"amount": "much"})]]
    agent = guard_agent(guard, triage(*steps))
    with guard.task("triage", initiator="user:test"):
        agent.run("go")
    (reply,) = heard(agent, steps)
    assert (reply.code, reply.error) == ("malformed_call", True)
    assert "valid integer" in reply.text
    assert verdicts(guard) == ["malformed_call"]


def test_what_agno_fills_in_is_not_the_models_to_say(guard: Guard) -> None:
    seen: list[Any] = []

    def search(query: str, run_context: RunContext) -> str:
        """Searches."""
        seen.append(run_context)
        return "found"

    steps = [[Call("search", {"query": "x", "run_context": {"user_id": "eve"}})]]
    agent = guard_agent(guard, triage(*steps, tools=[search]))
    with guard.task("triage", initiator="user:test"):
        agent.run("go", user_id="alice")
    assert [context.user_id for context in seen] == ["alice"]
    assert verdicts(guard) == ["allow"]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_generators_and_toolkit_methods(guard: Guard, asynchronous: bool) -> None:
    """Each kind of tool that Agno knows, on the arguments as it gets them."""

    class Kit(Toolkit):
        def __init__(self) -> None:
            super().__init__("kit", tools=[self.pay, self.search])

        @tool
        def pay(self, amount: int = 70) -> str:
            """Pays."""
            return pay(amount)

        def search(self, query: str) -> Iterator[str]:
            """Searches."""
            yield "found "
            yield query

    steps = [*pays(7), [Call("pay", {})], [Call("search", {"query": "x"})], [Call("search", {"query": "x" * 11})]]
    agent = guard_agent(guard, triage(*steps, tools=[Kit()]))
    with guard.task("triage", initiator="user:test"):
        asyncio.run(agent.arun("go")) if asynchronous else agent.run("go")  # type: ignore[func-returns-value]
    assert paid == [7]
    replies = heard(agent, steps)
    assert [reply.code for reply in replies] == [None, "argument_not_allowed", None, "argument_not_allowed"]
    assert replies[2].text == "found x"
    assert [record["status"] for record in records(guard, "outcome")] == ["ok", "ok"]


async def test_an_asynchronous_generator(guard: Guard) -> None:
    async def search(query: str) -> AsyncIterator[str]:
        """Searches."""
        yield "found "
        yield query

    steps = [[Call("search", {"query": "x"})], [Call("search", {"query": "x" * 11})]]
    agent = guard_agent(guard, triage(*steps, tools=[search]))
    async with guard.task("triage", initiator="user:test"):
        await agent.arun("go")
    assert [(reply.code or reply.text) for reply in heard(agent, steps)] == ["found x", "argument_not_allowed"]


def test_a_confirmation_comes_before_the_decision(guard: Guard) -> None:
    """Agno pauses before the hooks; what a human confirms is judged then, and a pause uses nothing up."""
    for amount, amounts in ((7, [7]), (70, [])):
        paid.clear()
        agent = guard_agent(guard, triage(*pays(amount), tools=[tool(requires_confirmation=True)(pay)]))
        with guard.task("triage", initiator="user:test"):
            paused = agent.run("go")
            assert paused.is_paused
            assert not records(guard, "decision", task=paused.run_id)
            for requirement in paused.active_requirements:
                requirement.confirm()
            agent.continue_run(run_response=paused)
        assert paid == amounts
    assert verdicts(guard) == ["allow", "argument_not_allowed"]


@pytest.mark.parametrize("way", ["sync", "async"])
def test_the_raised_denial_ends_the_run(guard: Guard, way: str) -> None:
    agent = guard_agent(guard, triage([*pays(70)[0], *pays(7)[0]]), on_deny="raise")
    with guard.task("triage", initiator="user:test"), pytest.raises(RunDenied) as caught:
        agent.run("go") if way == "sync" else asyncio.run(agent.arun("go"))  # type: ignore[func-returns-value]
    assert isinstance(caught.value.denied, Denied)
    assert 70 not in paid


def test_tools_that_run_elsewhere_are_refused(guard: Guard) -> None:
    for elsewhere in (
        {"type": "web_search"},
        tool(external_execution=True)(pay),
        Toolkit("kit", tools=[tool(external_execution=True)(pay)]),
    ):
        with pytest.raises(InvalidInput, match="where the guard does not see its calls"):
            guard_agent(guard, triage(tools=[elsewhere]))
        guard_agent(guard, triage(tools=[elsewhere]), unsafe_provider_tools=True)


def test_hooks_that_agno_would_drop_are_refused(guard: Guard) -> None:
    """An agent's hooks take the place of its tools' own."""

    def stops(function_name: str, function_call: Any, arguments: dict[str, Any]) -> Any:
        raise StopAgentRun("no")

    with pytest.raises(InvalidInput, match="would drop the hooks of the tool pay"):
        guard_agent(guard, triage(tools=[tool(tool_hooks=[stops])(pay)]))
    guard_agent(guard, triage(tools=[pay], tool_hooks=[stops]))


def test_two_tools_of_one_name_are_denied(guard: Guard) -> None:
    def other(amount: int) -> str:
        """Pays otherwise."""
        return pay(amount)

    other.__name__ = "pay"
    steps = pays(1)
    agent = guard_agent(guard, triage(*steps, tools=[other]))
    with guard.task("triage", initiator="user:test"):
        guard_agent(guard, triage(*pays(2))).run("go")
        agent.run("go")
    assert paid == [2]
    assert [reply.code for reply in heard(agent, steps)] == ["integrity_failure"]


def test_a_hook_that_agno_calls_otherwise_denies(guard: Guard) -> None:
    """What the guard needs of a call it finds in Agno's own wrapper; where that is not there, nothing runs."""
    (hook,) = guard_agent(guard, triage()).tool_hooks or []
    with guard.task("triage", initiator="user:test"), pytest.raises(AgentRunException, match="integrity_failure"):
        hook("pay", pay, {"amount": 1})
    assert paid == []
    assert verdicts(guard) == ["integrity_failure"]


def test_guarding_twice_is_guarding_once(guard: Guard) -> None:
    agent = guard_agent(guard, guard_agent(guard, triage(*pays(7))))
    with guard.task("triage", initiator="user:test"):
        agent.run("go")
    assert verdicts(guard) == ["allow"]
    with pytest.raises(InvalidInput, match="has no name"):
        guard_agent(guard, Agent(model=ScriptedModel(), telemetry=False))
