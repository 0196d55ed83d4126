"""AutoGen's AssistantAgent with guard_agent."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

pytest.importorskip("autogen_agentchat")

from autogen_agentchat.agents import (
    AssistantAgent,
    CodeExecutorAgent,
    MessageFilterAgent,
    MessageFilterConfig,
    SocietyOfMindAgent,
    UserProxyAgent,
)
from autogen_agentchat.base import Handoff
from autogen_agentchat.conditions import MaxMessageTermination, TextMentionTermination
from autogen_agentchat.messages import TextMessage
from autogen_agentchat.teams import RoundRobinGroupChat, Swarm
from autogen_agentchat.tools import AgentTool, TeamTool
from autogen_core import AgentId, CancellationToken, FunctionCall, SingleThreadedAgentRuntime
from autogen_core.tool_agent import ToolAgent
from autogen_core.tools import (
    BaseTool,
    FunctionTool,
    StaticStreamWorkbench,
    StaticWorkbench,
    TextResultContent,
    ToolOverride,
    ToolResult,
)
from pydantic import BaseModel, field_validator

from agentguard import Denied, Guard, InvalidInput
from agentguard.testing import AdapterConformance, Call, Mode, Reply, Scene, records
from agentguard_adapters.autogen import guard_agent, guard_team, guard_tools
from support.autogen_scripted import HalfWorkbench, LocalExecutor, Remote, RewritingWorkbench, ScriptedModel, replies, scripted


class TestAutogen(AdapterConformance):
    """AutoGen is asynchronous; "sync" and "stream" are an event loop of their own over sync tools, which it runs in threads."""

    out_of_reach: ClassVar[Mapping[str, str]] = {
        "the tool object that was given": "whoever holds it can call it: give away what guard_tools makes"
    }

    def agent(self, scene: Scene) -> Any:
        bench: dict[str, Any] = {"tools": list(scene.tools)}
        if scene.rewrite is not None:
            bench = {"workbench": RewritingWorkbench(scene.tools, scene.rewrite)}
        made = scripted("assistant", *scene.steps, **bench)
        return made if scene.guard is None else guard_agent(scene.guard, made, agent=scene.agent, on_deny=scene.on_deny)

    def run(self, scene: Scene, mode: Mode) -> list[Reply]:
        return asyncio.run(self.arun(scene, mode))

    async def arun(self, scene: Scene, mode: Mode) -> list[Reply]:
        agent = self.agent(scene)
        async with asyncio.timeout(30):  # a run that hangs is a fault that AutoGen invites
            if mode in ("sync", "async"):
                return replies((await agent.run(task="go")).messages)
            return replies([event async for event in agent.run_stream(task="go")])

    def twins(self, guard: Guard, tool: Callable[..., Any]) -> Mapping[str, Callable[[dict[str, Any]], Any]]:
        given = FunctionTool(tool, description="")

        def agent(arguments: dict[str, Any]) -> Any:
            return guard_agent(guard, scripted("lead", [Call("note", arguments)], tools=[given]))

        def guarded() -> Any:
            return guard_tools(guard, [given], agent="lead")[0]

        async def streamed(arguments: dict[str, Any]) -> Any:
            return [item async for item in agent({})._workbench[0].call_tool_stream("note", arguments)]

        async def message(arguments: dict[str, Any]) -> Any:
            return await agent(arguments).on_messages([TextMessage(content="go", source="user")], CancellationToken())

        token = CancellationToken()
        return {
            "the tool object that was given": lambda arguments: asyncio.run(given.run_json(arguments, token)),
            "run_json": lambda arguments: asyncio.run(guarded().run_json(arguments, token)),
            "run": lambda arguments: asyncio.run(guarded().run(given.args_type()(**arguments), token)),
            "_func": lambda arguments: asyncio.run(guarded()._func(**arguments)),
            "call_tool": lambda arguments: asyncio.run(agent({})._workbench[0].call_tool("note", arguments)),
            "call_tool_stream": lambda arguments: asyncio.run(streamed(arguments)),
            "on_messages": lambda arguments: asyncio.run(message(arguments)),
            "a guarded tool in an agent of its own": lambda arguments: asyncio.run(
                scripted("lead", [Call("note", arguments)], tools=[guarded()]).run(task="go")
            ),
            "as a tool": lambda arguments: asyncio.run(AgentTool(agent(arguments)).run_json({"task": "go"}, token)),
            "in a team": lambda arguments: asyncio.run(
                RoundRobinGroupChat([agent(arguments)], termination_condition=MaxMessageTermination(2)).run(task="go")
            ),
        }


POLICY = """
agentguard: 1
name: autogen
agents:
  alice:
    tools:
      pay: {amount: {range: {max: 10}}}
      refund: {amount: {range: {max: 10}}}
      bob: {task: {max_length: 20}}
      shift: {hours: {range: {max: 3}}, label: {one_of: [early, late]}}
      transfer_to_bob: {}
      crew: {task: any}
      "remote.pay": {amount: {range: {max: 10}}}
      waits: {amount: {range: {max: 10}}}
    delegates: {bob: {depth: 1}}
  bob:
    tools: {pay: {amount: {range: {max: 5}}}}
  carol:
    tools: {transfer_to_bob: {}, transfer_to_dave: {}}
"""


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[Guard]:
    with Guard.open(POLICY, home=tmp_path / "home", durability="process") as opened:
        yield opened


@pytest.fixture
def paid() -> list[int]:
    return []


@pytest.fixture
def pay(paid: list[int]) -> Callable[[int], str]:
    def pay(amount: int) -> str:
        """Pays."""
        paid.append(amount)
        return f"paid {amount}"

    return pay


def go(guard: Guard, agent: Any, name: str = "alice") -> list[Any]:
    """What a run of the agent gives, within ten seconds: a run that hangs is the fault that some of these tests are about."""

    async def within_time() -> list[Any]:
        return list((await asyncio.wait_for(agent.run(task="go"), 10)).messages)

    with guard.task(name, initiator="user:test"):
        return asyncio.run(within_time())


def swarm(*agents: Any) -> Swarm:
    return Swarm(list(agents), termination_condition=TextMentionTermination("done") | MaxMessageTermination(12))


def kinds(messages: list[Any]) -> list[tuple[str, str]]:
    return [(type(message).__name__, message.source) for message in messages]


# --- hand-offs ------------------------------------------------------------------------------------------------------------------------


def test_a_hand_off_runs_under_a_narrower_task(guard: Guard, paid: list[int], pay: Any) -> None:
    alice = guard_agent(guard, scripted("alice", [Call("transfer_to_bob", {})], tools=[pay], handoffs=["bob"]))
    bob = guard_agent(guard, scripted("bob", [Call("pay", {"amount": 5}), Call("pay", {"amount": 7})], tools=[pay]))
    messages = go(guard, swarm(alice, bob))
    assert ("HandoffMessage", "alice") in kinds(messages)
    assert [reply.code for reply in replies(messages)] == [None, None, "argument_not_allowed"]
    assert paid == [5]
    (link,) = records(guard, "delegation", agent="bob")
    assert {record["artifact"] for record in records(guard, "decision", tool="pay")} == {link["artifact"]}


def test_a_denied_hand_off_does_not_happen(guard: Guard, paid: list[int], pay: Any) -> None:
    """AutoGen makes a HandoffMessage of the request, whatever the tool answered: the message is replaced."""
    dave = guard_agent(guard, scripted("dave", [Call("pay", {"amount": 1})], tools=[pay]))
    alice = scripted("alice", [Call("pay", {"amount": 1}), Call("transfer_to_dave", {})], tools=[pay], handoffs=["dave"])
    messages = go(guard, swarm(guard_agent(guard, alice), dave))
    assert "HandoffMessage" not in [kind for kind, _ in kinds(messages)]
    assert [reply.code for reply in replies(messages)] == [None, "tool_not_in_scope"]
    assert paid == [1]
    assert kinds(messages)[-2:] == [("ToolCallSummaryMessage", "alice"), ("TextMessage", "alice")]
    assert "Denied (tool_not_in_scope)" in messages[-2].content


def test_a_hand_off_denied_under_the_id_of_another_one_does_not_happen(guard: Guard) -> None:
    """AutoGen takes the first request; that a second one of the same id was allowed says nothing about it."""
    calls = [Call("transfer_to_dave", {}, "same"), Call("transfer_to_bob", {}, "same")]
    alice = guard_agent(guard, scripted("alice", calls, handoffs=["dave", "bob"]))
    with pytest.warns(UserWarning, match="Multiple handoffs"):
        messages = go(guard, alice)
    assert [reply.code for reply in replies(messages)] == ["tool_not_in_scope", None]
    assert "HandoffMessage" not in [kind for kind, _ in kinds(messages)]


def test_a_hand_off_to_an_agent_that_may_not_be_delegated_to_leaves_it_without_authority(guard: Guard, paid: list[int], pay: Any) -> None:
    carol = guard_agent(guard, scripted("carol", [Call("transfer_to_bob", {})], handoffs=["bob"]))
    bob = guard_agent(guard, scripted("bob", [Call("pay", {"amount": 1})], tools=[pay]))
    messages = go(guard, swarm(carol, bob), "carol")
    assert [reply.code for reply in replies(messages)] == [None, "delegation_not_allowed"]
    assert paid == []


def test_a_hand_off_whose_tool_fails_does_not_hang_and_does_not_happen(guard: Guard) -> None:
    class Failing(Handoff):
        @property
        def handoff_tool(self) -> Any:
            def fails() -> str:
                raise OSError("no line")

            return FunctionTool(fails, name=self.name, description="", strict=True)

    messages = go(guard, guard_agent(guard, scripted("alice", [Call("transfer_to_bob", {})], handoffs=[Failing(target="bob")])))
    assert [(reply.text, reply.error) for reply in replies(messages)] == [("no line", True)]
    assert "HandoffMessage" not in [kind for kind, _ in kinds(messages)]


# --- agents in agents, and teams ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [True, False])
def test_an_agent_as_a_tool(guard: Guard, paid: list[int], pay: Any, streaming: bool) -> None:
    """It is judged by its own arguments, what it does by its own narrower task; and its events still stream."""
    bob = guard_agent(guard, scripted("bob", [Call("pay", {"amount": 5})], [Call("pay", {"amount": 6})], tools=[pay]))
    calls = [Call("bob", {"task": "pay the rent"})], [Call("bob", {"task": "x" * 21})]
    tools: dict[str, Any] = {"tools": [AgentTool(bob)]} if streaming else {"workbench": StaticWorkbench([AgentTool(bob)])}
    messages = go(guard, guard_agent(guard, scripted("alice", *calls, **tools)))
    told = {reply.text.partition(" (")[0]: reply.code for reply in replies([message for message in messages if message.source == "alice"])}
    assert list(told.values()) == [None, "argument_not_allowed"]
    assert paid == [5]
    assert ("bob" in [message.source for message in messages]) is streaming
    (outer,) = records(guard, "decision", tool="bob", verdict="allow")
    assert {record["caused_by"] for record in records(guard, "decision", agent="bob")} == {outer["id"]}
    assert [record["status"] for record in records(guard, "outcome")] == ["ok", "ok"]


def test_an_agent_as_a_tool_must_be_guarded_itself(guard: Guard, pay: Any) -> None:
    bare = scripted("bob", tools=[pay])
    team = RoundRobinGroupChat([guard_agent(guard, scripted("alice")), bare], name="crew")

    async def crew(task: str) -> str:
        """Asks a crew."""
        return str(await bare.run(task=task))

    for tool in (AgentTool(bare), TeamTool(team, "crew", ""), crew):
        with pytest.raises(InvalidInput, match=r"'bob' inside the tool '(bob|crew)' is not guarded"):
            guard_agent(guard, scripted("alice", tools=[tool]))
        with pytest.raises(InvalidInput, match="is not guarded"):
            guard_tools(guard, [tool], agent="alice")


def test_a_whole_team(guard: Guard, paid: list[int], pay: Any) -> None:
    alice = scripted("alice", [Call("pay", {"amount": 9})], tools=[pay])
    bob = scripted("bob", [Call("pay", {"amount": 9})], tools=[pay])
    inner = RoundRobinGroupChat([bob], name="inner", termination_condition=MaxMessageTermination(2))
    team = guard_team(guard, RoundRobinGroupChat([alice, inner], termination_condition=MaxMessageTermination(6)))
    assert [reply.code for reply in replies(go(guard, team))] == [None, "argument_not_allowed"]
    assert paid == [9]
    guard_team(guard, team)  # once more is fine


def test_agents_within_agents_of_a_team(guard: Guard, paid: list[int], pay: Any) -> None:
    alice = scripted("alice", [Call("pay", {"amount": 11})], tools=[pay])
    bob = scripted("bob", [Call("pay", {"amount": 9})], tools=[pay])
    inner = RoundRobinGroupChat([bob], name="inner", termination_condition=MaxMessageTermination(6))
    society = SocietyOfMindAgent("society", inner, ScriptedModel())
    only = MessageFilterAgent("only", alice, MessageFilterConfig(per_source=[]))
    team = guard_team(guard, RoundRobinGroupChat([only, society], termination_condition=MaxMessageTermination(4)))
    go(guard, team)
    assert paid == []
    assert {(record["agent"], record["verdict"]) for record in records(guard, "decision")} == {("alice", "deny"), ("bob", "deny")}


@pytest.mark.filterwarnings("ignore:No approval function")
def test_agents_whose_acts_no_guard_sees_are_refused(guard: Guard) -> None:
    coder = CodeExecutorAgent("coder", LocalExecutor())
    team = RoundRobinGroupChat([scripted("alice"), UserProxyAgent("human"), coder])
    with pytest.raises(InvalidInput, match="'coder' is a CodeExecutorAgent, whose acts no guard sees"):
        guard_team(guard, team)
    guard_team(guard, team, unsafe_agents=["coder"])
    with pytest.raises(InvalidInput, match="CodeExecutorAgent is no AssistantAgent"):
        guard_agent(guard, coder)


def test_in_a_team_a_raised_denial_ends_the_run(guard: Guard, paid: list[int], pay: Any) -> None:
    alice = guard_agent(guard, scripted("alice", [Call("pay", {"amount": 11})], tools=[pay]), on_deny="raise")
    with pytest.raises(RuntimeError, match="argument_not_allowed"):
        go(guard, RoundRobinGroupChat([alice], termination_condition=MaxMessageTermination(4)))
    assert paid == []


def test_a_runtime_of_ones_own_knows_no_task(guard: Guard, paid: list[int], pay: Any) -> None:
    """It was started elsewhere, and what runs in it has no authority; but for an agent with a task of its own."""

    async def codes(agent: Any) -> list[str | None]:
        runtime = SingleThreadedAgentRuntime()
        runtime.start()
        team = RoundRobinGroupChat([agent], runtime=runtime, termination_condition=MaxMessageTermination(2))
        async with guard.task("alice", initiator="user:test"):
            messages = (await team.run(task="go")).messages
        await runtime.stop()
        return [reply.code for reply in replies(messages)]

    bare = scripted("alice", [Call("pay", {"amount": 1})], tools=[pay])
    assert asyncio.run(codes(guard_agent(guard, bare))) == ["artifact_missing"]
    own = guard.task("alice", initiator="user:test").issue()
    bare = scripted("alice", [Call("pay", {"amount": 1})], tools=[pay])
    assert asyncio.run(codes(guard_agent(guard, bare, task=own))) == [None]
    assert paid == [1]


# --- tools and workbenches ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [StaticWorkbench, StaticStreamWorkbench, HalfWorkbench])
def test_every_workbench_that_holds_tools(guard: Guard, paid: list[int], pay: Any, kind: Any) -> None:
    """Also one that overrides only `call_tool`: AssistantAgent goes past it, and past no guard."""
    bench = kind([FunctionTool(pay, description="")])
    alice = guard_agent(guard, scripted("alice", [Call("pay", {"amount": 1}), Call("pay", {"amount": 11})], workbench=bench))
    assert [(reply.code, reply.error) for reply in replies(go(guard, alice))] == [(None, False), ("argument_not_allowed", True)]
    assert paid == [1]
    with guard.task("alice", initiator="user:test"):  # the workbench that was given is the one that is guarded
        assert "argument_not_allowed" in asyncio.run(bench.call_tool("pay", {"amount": 11})).to_text()


def test_a_workbench_belongs_to_one_agent(guard: Guard, pay: Any) -> None:
    bench = StaticWorkbench([FunctionTool(pay, description="")])
    guard_agent(guard, scripted("alice", workbench=bench))
    with pytest.raises(InvalidInput, match="guarded for 'alice' already"):
        guard_agent(guard, scripted("bob", workbench=bench))


def test_a_tool_shown_under_another_name(guard: Guard, paid: list[int], pay: Any) -> None:
    bench = StaticWorkbench([FunctionTool(pay, description="")], tool_overrides={"pay": ToolOverride(name="settle")})
    calls = [Call("settle", {"amount": 1}, "one"), Call("settle", {"amount": 11})]
    with pytest.raises(Denied):
        go(guard, guard_agent(guard, scripted("alice", calls, workbench=bench), on_deny="raise"))
    assert paid == [1]
    assert records(guard, "decision", tool="pay", verdict="allow")[0]["call_id"] == "one"


def test_a_workbench_that_raises_does_not_hang_the_run(guard: Guard, paid: list[int], pay: Any) -> None:
    class Raising(StaticWorkbench):
        async def call_tool(self, *args: Any, **options: Any) -> ToolResult:
            raise PermissionError("not today")

    alice = guard_agent(guard, scripted("alice", [Call("pay", {"amount": 1})], workbench=Raising([FunctionTool(pay, description="")])))
    assert replies(go(guard, alice)) == [Reply("not today", True)]
    assert paid == []


def test_what_a_workbench_of_the_application_answers_itself_stays(guard: Guard, paid: list[int], pay: Any) -> None:
    class Closed(StaticWorkbench):
        async def call_tool(self, name: str, *args: Any, **options: Any) -> ToolResult:
            return ToolResult(name=name, result=[TextResultContent(content="closed on Sundays")], is_error=True)

    alice = guard_agent(guard, scripted("alice", [Call("pay", {"amount": 1})], workbench=Closed([FunctionTool(pay, description="")])))
    assert replies(go(guard, alice)) == [Reply("closed on Sundays", True)]
    assert records(guard, "decision") == []


def test_a_workbench_over_tools_elsewhere(guard: Guard) -> None:
    """It holds no tool objects: what it would get is judged, and a tool that changes its schema is another tool."""
    remote = Remote()
    calls = [[Call("remote.pay", {"amount": amount})] for amount in (1, 11)]
    forged = Call("remote.pay", {"amount": 1, "agentguard_token": []})
    listed = FunctionCall(id="list", name="remote.pay", arguments="[1]")
    alice = guard_agent(guard, scripted("alice", *calls, [forged, listed], [Call("remote.pay", {"amount": 13})], workbench=remote))
    told = replies(go(guard, alice))
    assert [reply.code for reply in told] == [None, "argument_not_allowed", "malformed_call", "malformed_call", "argument_not_allowed"]
    assert (told[0].text, remote.got) == ("paid 1 elsewhere", [{"amount": 1}])
    remote.schema = {**remote.schema, "description": "Pays. Ask for amounts in cents."}
    alice = guard_agent(guard, scripted("alice", *calls[:1], workbench=remote))
    assert replies(go(guard, alice))[0].code is None  # a description is no part of what is pinned
    remote.schema = {**remote.schema, "parameters": {"type": "object", "properties": {"amount": {}, "to": {}}}}
    alice = guard_agent(guard, scripted("alice", [Call("remote.pay", {"amount": 1})], workbench=remote))
    assert replies(go(guard, alice))[0].code == "malformed_call"
    assert len(remote.got) == 2


def test_a_workbench_over_tools_elsewhere_that_breaks(guard: Guard) -> None:
    remote = Remote(breaks=True)
    alice = guard_agent(guard, scripted("alice", [Call("remote.pay", {"amount": 1})], workbench=remote))
    assert replies(go(guard, alice)) == [Reply("the line is dead", True)]
    assert records(guard, "outcome")[0]["status"] == "error"


def test_a_tool_of_a_class_of_its_own(guard: Guard) -> None:
    """Its arguments are judged as its `args_type` made them, and it gets what was judged."""
    got: list[Any] = []

    class ShiftArgs(BaseModel):
        hours: int
        label: str = "early"

        @field_validator("hours")
        @classmethod
        def _in_pairs(cls, value: int) -> int:
            return value * 2

    class ShiftTool(BaseTool[ShiftArgs, str]):  # type: ignore[type-arg]
        def __init__(self) -> None:
            super().__init__(ShiftArgs, str, "shift", "Takes a shift.")

        async def run(self, args: ShiftArgs, cancellation_token: Any) -> str:
            got.append(args)
            return f"{args.hours} hours"

    calls = [Call("shift", {"hours": 1}), Call("shift", {"hours": 2}), Call("shift", {"hours": "x"}), Call("shift", {"hours": 1, "pay": 2})]
    alice = guard_agent(guard, scripted("alice", calls, tools=[ShiftTool()]))
    told = replies(go(guard, alice))
    assert [reply.code for reply in told] == [None, "argument_not_allowed", "malformed_call", "malformed_call"]
    assert "valid integer" in told[2].text
    assert got == [ShiftArgs.model_construct(hours=2, label="early")]
    with guard.task("alice", initiator="user:test"), pytest.raises(Denied):
        asyncio.run(guard_tools(guard, [ShiftTool()], agent="alice")[0].run(ShiftArgs(hours=9), CancellationToken()))


def test_a_tool_that_the_guard_would_go_past_is_refused(guard: Guard, pay: Any) -> None:
    class Own(FunctionTool):
        async def run_json(self, *args: Any, **options: Any) -> str:
            return "ran"

    with pytest.raises(InvalidInput, match="overrides run_json"):
        guard_agent(guard, scripted("alice", tools=[Own(pay, description="")]))


def test_the_cancellation_token_is_autogens(guard: Guard) -> None:
    seen: list[Any] = []

    def waits(amount: int, cancellation_token: CancellationToken) -> str:
        """Waits."""
        seen.append(cancellation_token)
        return "waited"

    calls = [Call("waits", {"amount": 1}), Call("waits", {"amount": 1, "cancellation_token": {}})]
    told = replies(go(guard, guard_agent(guard, scripted("alice", calls, tools=[waits]))))
    assert [reply.code for reply in told] == [None, "malformed_call"]
    assert [type(token) for token in seen] == [CancellationToken]


def test_a_cancelled_run_is_recorded(guard: Guard) -> None:
    """By AutoGen's own token."""
    started = asyncio.Event()

    async def pay(amount: int) -> str:
        """Pays."""
        started.set()
        await asyncio.sleep(60)
        return "never"

    async def cancelled() -> None:
        token = CancellationToken()
        run = asyncio.create_task(
            guard_agent(guard, scripted("alice", [Call("pay", {"amount": 1})], tools=[pay])).run(cancellation_token=token)
        )
        await asyncio.wait_for(started.wait(), 10)
        token.cancel()
        with contextlib.suppress(asyncio.CancelledError, TimeoutError):  # AutoGen 0.7.5 waits for ever for a call that was cancelled
            await asyncio.wait_for(run, 1)

    with guard.task("alice", initiator="user:test"):
        asyncio.run(cancelled())
    assert [record["status"] for record in records(guard, "outcome")] == ["cancelled"]


def test_calls_that_autogen_turns_down_are_recorded_and_told(guard: Guard, pay: Any) -> None:
    """Arguments that are no JSON, no object, or do not fit, and tools that nobody knows."""
    calls = [
        FunctionCall(id="1", name="pay", arguments="{"),
        FunctionCall(id="2", name="pay", arguments="[1]"),
        FunctionCall(id="3", name="pay", arguments='{"amount": "much"}'),
        FunctionCall(id="4", name="delete_all", arguments="{}"),
        FunctionCall(id="5", name="\N{SNOWMAN}" * 300, arguments="{}"),
    ]
    agent = guard_agent(guard, scripted("alice", calls, tools=[pay]))
    told = replies(go(guard, agent))
    assert [(reply.code, reply.error) for reply in told] == [("malformed_call", True)] * 5
    assert "valid integer" in told[2].text
    assert "not found in any workbench" in told[3].text
    heard = next(message for message in agent._model_client.heard if message.type == "FunctionExecutionResultMessage")
    assert [result.content for result in heard.content] == [reply.text for reply in told]
    assert [record["verdict"] for record in records(guard, "decision")] == ["deny"] * 5


def test_a_decorated_function_is_decided_once(guard: Guard, paid: list[int]) -> None:
    @guard.tool
    def pay(amount: int) -> str:
        """Pays."""
        paid.append(amount)
        return "paid"

    tool = FunctionTool(pay, description="")
    told = replies(
        go(guard, guard_agent(guard, scripted("alice", [Call("pay", {"amount": 1}), Call("pay", {"amount": 11})], tools=[tool])))
    )
    assert [reply.code for reply in told] == [None, "argument_not_allowed"]
    assert sorted(record["verdict"] for record in records(guard, "decision")) == ["allow", "deny"]


def test_tools_for_the_core(guard: Guard, paid: list[int], pay: Any) -> None:
    """A ToolAgent gets function calls as messages, and answers a denial with its own error."""

    async def asked(*calls: FunctionCall) -> list[Any]:
        runtime = SingleThreadedAgentRuntime()
        tools = guard_tools(guard, [pay], agent="alice")
        await ToolAgent.register(runtime, "tools", lambda: ToolAgent("", tools))
        runtime.start()
        answers = [runtime.send_message(call, AgentId("tools", "1")) for call in calls]
        found = await asyncio.gather(*answers, return_exceptions=True)
        await runtime.stop()
        return found

    with guard.task("alice", initiator="user:test"):
        calls = [FunctionCall(id=str(amount), name="pay", arguments=f'{{"amount": {amount}}}') for amount in (1, 11)]
        allowed, denied = asyncio.run(asked(*calls))
    assert allowed.content == "paid 1"
    assert Reply(denied.content).code == "argument_not_allowed"
    assert "11" not in denied.content
    assert {record["call_id"] for record in records(guard, "decision")} == {"1", "11"}


def test_a_denial_that_a_tool_meets_tells_the_model_nothing_that_was_found(guard: Guard, pay: Any) -> None:
    """A guarded function inside a tool raises Denied, with what was found, for engineers."""
    inner = guard.tool(pay)

    def refund(amount: int) -> str:
        """Refunds."""
        return str(inner(amount=amount * 1000))

    (reply,) = replies(go(guard, guard_agent(guard, scripted("alice", [Call("refund", {"amount": 7})], tools=[refund]))))
    assert reply.code == "argument_not_allowed"
    assert "7000" not in reply.text


def test_nothing_guarded_is_written_out(guard: Guard, pay: Any) -> None:
    """What AutoGen wrote out and read in again would have no guard."""
    agent = guard_agent(guard, scripted("alice", workbench=[StaticWorkbench([FunctionTool(pay, description="")]), Remote()]))
    for component in (agent, *agent._workbench, *guard_tools(guard, [pay, AgentTool(agent)], agent="alice")):
        with pytest.raises(InvalidInput, match="would come back without its guard"):
            component.dump_component()


def test_an_agent_of_a_class_of_its_own(guard: Guard, paid: list[int], pay: Any) -> None:
    class Own(AssistantAgent):
        async def on_messages(self, messages: Any, cancellation_token: Any) -> Any:
            return await super().on_messages(messages, cancellation_token)

    model = ScriptedModel([Call("pay", {"amount": 11}), Call("transfer_to_dave", {})])
    agent = guard_agent(guard, Own("alice", model, tools=[pay], handoffs=["dave"]))
    assert isinstance(agent, Own)
    messages = go(guard, agent)
    assert [reply.code for reply in replies(messages)] == ["argument_not_allowed", "tool_not_in_scope"]
    assert kinds(messages)[-1] == ("ToolCallSummaryMessage", "alice")
    assert paid == []


def test_an_agent_is_guarded_once(guard: Guard, pay: Any) -> None:
    agent = guard_agent(guard, scripted("alice", tools=[pay]))
    with pytest.raises(InvalidInput, match="'alice' is guarded already"):
        guard_agent(guard, agent)
    again = guard_tools(guard, guard_tools(guard, [pay], agent="bob"), agent="alice")
    assert again[0].caller.agent == "alice"
