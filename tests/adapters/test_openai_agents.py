"""openai-agents with `guard_agent`."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

pytest.importorskip("agents")

from agents import (
    Agent,
    ApplyPatchTool,
    CodeInterpreterTool,
    ComputerTool,
    CustomTool,
    Handoff,
    HostedMCPTool,
    LocalShellTool,
    RunContextWrapper,
    RunHooks,
    RunState,
    ShellTool,
    ToolGuardrailFunctionOutput,
    ToolInputGuardrail,
    WebSearchTool,
    function_tool,
    handoff,
    tool_namespace,
)
from agents.extensions.handoff_filters import remove_all_tools
from agents.testing import ScriptedModel, assistant_message, function_call
from agents.tool_context import ToolContext
from pydantic import BaseModel

from agentguard import Denied, Guard, InvalidInput
from agentguard.testing import AdapterConformance, Call, Mode, Reply, Scene, checked, records
from agentguard_adapters.openai_agents import RunDenied, guard_agent, guard_tools
from support.openai_agents_scripted import (
    Rewriting,
    Server,
    agent_of,
    aran,
    custom_call,
    failed,
    local_shell_call,
    patch_call,
    ran,
    replies,
    runs_of,
    said,
    scripted,
    shell_call,
    streamed,
)


def called(tool: Any, arguments: dict[str, Any]) -> Any:
    """A tool as somebody calls it who goes past the framework's loop."""
    text = json.dumps(arguments)
    context = ToolContext(None, tool_name=tool.name, tool_call_id=Call(tool.name, arguments).id, tool_arguments=text)
    return asyncio.run(tool.on_invoke_tool(context, text))


class TestOpenAIAgents(AdapterConformance):
    out_of_reach: ClassVar[Mapping[str, str]] = {
        "the tool object that was given": "whoever holds it can call it: give away the guarded agent"
    }

    def agent(self, scene: Scene) -> Any:
        agent = agent_of(scene)
        return agent if scene.guard is None else guard_agent(scene.guard, agent, on_deny=scene.on_deny)

    def run(self, scene: Scene, mode: Mode) -> list[Reply]:
        found = []
        for part in runs_of(scene):
            agent, hooks = self.agent(part), Rewriting(part)
            result = ran(agent, hooks) if mode == "sync" else asyncio.run(streamed(agent, hooks))
            found += replies(result, part.steps)
        return found

    async def arun(self, scene: Scene, mode: Mode) -> list[Reply]:
        found = []
        for part in runs_of(scene):
            agent, hooks = self.agent(part), Rewriting(part)
            result = await (aran(agent, hooks) if mode == "async" else streamed(agent, hooks))
            found += replies(result, part.steps)
        return found

    def twins(self, guard: Guard, tool: Callable[..., Any]) -> Mapping[str, Callable[[dict[str, Any]], Any]]:
        made = function_tool(tool)
        (guarded,) = guard_tools(guard, [made], agent="lead")
        return {
            "the tool object that was given": lambda arguments: called(made, arguments),
            "on_invoke_tool": lambda arguments: called(guarded, arguments),
            "a copy": lambda arguments: called(dataclasses.replace(guarded, description="another"), arguments),
        }


POLICY = """
agentguard: 1
name: openai_agents
agents:
  triage:
    tools:
      pay: {amount: {range: {max: 10}}}
      shell: {commands: {subset: [ls, pwd]}, timeout_ms: {range: {max: 1000}, optional: true}}
      local_shell: {command: {subset: [ls]}, env: any}
      apply_patch: {type: {one_of: [create_file]}, path: {path: /srv}, diff: {max_length: 100, optional: true}}
      query: {input: {max_length: 10}}
      lookup: {q: {max_length: 5}}
      ask_clerk: {input: any}
      transfer_to_clerk: {reason: {max_length: 10, optional: true}}
      transfer_to_auditor: {}
    delegates: {clerk: {depth: 2}}
  clerk:
    tools: {pay: {amount: {range: {max: 5}}}, transfer_to_auditor: {}, transfer_to_triage: {}}
    delegates: {auditor: {depth: 1}}
  auditor: {tools: {pay: {amount: {range: {max: 1}}}}}
tools: {ask_clerk: {rerun: safe}}
"""
pytestmark = pytest.mark.guard_policy(POLICY)


class Receipt(BaseModel):
    amount: int


def paying(**options: Any) -> tuple[Any, list[int]]:
    """A tool that pays, and what it paid."""
    paid: list[int] = []

    @function_tool(**options)
    def pay(amount: int) -> str:
        """Pays."""
        paid.append(amount)
        return f"paid {amount}"

    return pay, paid


def pays(*amounts: int) -> list[list[Call]]:
    return [[Call("pay", {"amount": amount})] for amount in amounts]


@pytest.fixture
def task(guard: Guard) -> Iterator[Any]:
    with guard.task("triage", initiator="user:test") as opened:
        yield opened


# --- hand-offs --------------------------------------------------------------------------------------------------------------------


def crew(
    *, clerk: Sequence[Sequence[Call]], triage: Sequence[Sequence[Call]], auditor: Sequence[Sequence[Call]] = ()
) -> tuple[Any, list[int]]:
    """triage → clerk → auditor, and clerk → triage."""
    pay, paid = paying()
    third = Agent(name="auditor", model=scripted(*auditor), tools=[pay])
    second = Agent(name="clerk", model=scripted(*clerk), tools=[pay], handoffs=[third])
    first = Agent(name="triage", model=scripted(*triage), tools=[pay], handoffs=[second, handoff(third)])
    second.handoffs.append(first)
    return first, paid


def test_a_hand_off_narrows(guard: Guard, task: Any) -> None:
    """Each agent that can be handed off to is guarded under its own name, and acts under what the giver may pass on."""
    first, paid = crew(
        triage=[*pays(10), [Call("transfer_to_clerk", {})]],
        clerk=[*pays(5, 6), [Call("transfer_to_auditor", {})]],
        auditor=pays(1, 2),
    )
    result = ran(guard_agent(guard, first))
    assert result.last_agent.name == "auditor"
    assert paid == [10, 5, 1]
    links = [(link["from_agent"], link["agent"]) for link in records(guard, "delegation") if link["from_agent"]]
    assert links == [("triage", "clerk"), ("clerk", "auditor")]


def test_a_hand_off_back(guard: Guard, task: Any) -> None:
    first, paid = crew(triage=[[Call("transfer_to_clerk", {})], *pays(10)], clerk=[*pays(6), [Call("transfer_to_triage", {})]])
    assert ran(guard_agent(guard, first)).last_agent.name == "triage"
    assert paid == [10]


@pytest.mark.parametrize("run", [ran, lambda agent: asyncio.run(streamed(agent))])
def test_a_refused_hand_off_is_told_to_the_giver(guard: Guard, task: Any, run: Any) -> None:
    """triage may call transfer_to_auditor, but not delegate to the auditor; clerk's tool is its own."""
    first, paid = crew(triage=[[Call("transfer_to_auditor", {})], *pays(2)], clerk=[], auditor=pays(1))
    result = run(guard_agent(guard, first))
    assert result.last_agent.name == "triage"
    assert ["delegation_not_allowed" in text for _, text in said(result)] == [True, False]
    assert paid == [2]


@pytest.mark.parametrize(("reason", "taker"), [("short", "clerk"), ("much too long", "triage")])
def test_the_input_of_a_hand_off_is_judged(guard: Guard, task: Any, reason: str, taker: str) -> None:
    class Why(BaseModel):
        reason: str

    heard: list[str] = []
    pay, _ = paying()
    clerk = Agent(name="clerk", model=scripted(), tools=[pay])
    given = handoff(clerk, input_type=Why, on_handoff=lambda context, why: heard.append(why.reason), input_filter=remove_all_tools)
    first = Agent(name="triage", model=scripted([Call("transfer_to_clerk", {"reason": reason})]), handoffs=[given])
    result = ran(guard_agent(guard, first))
    assert result.last_agent.name == taker
    assert heard == ([reason] if taker == "clerk" else [])
    if taker == "triage":  # what the filter would have removed
        assert "argument_not_allowed" in str(first.model.last_call.input)


def test_a_refused_hand_off_may_end_the_run(guard: Guard, task: Any) -> None:
    first, _ = crew(triage=[[Call("transfer_to_auditor", {})]], clerk=[])
    with pytest.raises(RunDenied) as caught:
        ran(guard_agent(guard, first, on_deny="raise"))
    assert caught.value.code == "delegation_not_allowed"


def test_who_is_handed_off_to_at_run_time_is_guarded(guard: Guard, task: Any) -> None:
    """The framework takes whatever agent a hand-off returns."""
    pay, paid = paying()
    clerk = Agent(name="clerk", model=scripted(*pays(5, 9)), tools=[pay])

    async def choose(context: Any, arguments: str) -> Any:
        return clerk

    given = Handoff("transfer_to_clerk", "", {}, choose, "clerk")
    first = Agent(name="triage", model=scripted([Call("transfer_to_clerk", {})]), handoffs=[given])
    ran(guard_agent(guard, first))
    assert paid == [5]


def test_an_agent_may_have_another_name_in_the_policy(guard: Guard, task: Any) -> None:
    """Guarded first under that name, it stays as it is among the hand-offs."""
    pay, paid = paying()
    clerk = guard_agent(guard, Agent(name="The Clerk", model=scripted(*pays(5, 9)), tools=[pay]), agent="clerk")
    given = handoff(clerk, tool_name_override="transfer_to_clerk")
    first = Agent(name="The First", model=scripted([Call("transfer_to_clerk", {})]), handoffs=[given])
    assert ran(guard_agent(guard, first, agent="triage")).last_agent is clerk
    assert paid == [5]
    assert [record["agent"] for record in records(guard, "decision")] == ["triage", "clerk", "clerk"]


@pytest.mark.parametrize("how", ["append", "assign", "clone"])
def test_a_hand_off_that_comes_later_is_guarded(guard: Guard, task: Any, how: str) -> None:
    pay, paid = paying()
    clerk = Agent(name="clerk", model=scripted(*pays(5, 9)), tools=[pay])
    first = guard_agent(guard, Agent(name="triage", model=scripted([Call("transfer_to_clerk", {})])))
    if how == "append":
        first.handoffs.append(clerk)
    elif how == "assign":
        first.handoffs = [clerk]
    else:
        first = first.clone(handoffs=[clerk])
    assert ran(first).last_agent.name == "clerk"
    assert paid == [5]


def test_a_clone_gets_a_refused_hand_off_back(guard: Guard, task: Any) -> None:
    first, _ = crew(triage=[[Call("transfer_to_auditor", {})]], clerk=[])
    clone = guard_agent(guard, first).clone(instructions="others")
    assert ran(clone).last_agent is clone


def test_a_run_goes_on_from_its_state_as_text(guard: Guard, task: Any) -> None:
    """The framework finds the agent that waits by name, among those that can be handed off to: the guarded ones."""
    pay, paid = paying(needs_approval=True)
    clerk = Agent(name="clerk", model=scripted(*pays(9)), tools=[pay])
    first = guard_agent(guard, Agent(name="triage", model=scripted([Call("transfer_to_clerk", {})]), handoffs=[clerk]))
    text = ran(first).to_state().to_string()
    state = asyncio.run(RunState.from_string(first, text))
    state.approve(state.get_interruptions()[0])
    assert "argument_not_allowed" in str(said(ran(first, state=state)))
    assert paid == []


# --- agents as tools ---------------------------------------------------------------------------------------------------------------


def test_an_agent_used_as_a_tool_needs_a_guard(guard: Guard) -> None:
    """The hooks of a run do not reach it."""
    pay, _ = paying()
    clerk = Agent(name="clerk", model=scripted(), tools=[pay])
    outer = Agent(name="triage", model=scripted(), tools=[clerk.as_tool("ask_clerk", "Asks.")])
    with pytest.raises(InvalidInput, match="which has no guard"):
        guard_agent(guard, outer)
    with pytest.raises(InvalidInput, match="which has no guard"):
        guard_agent(guard, outer, unsafe_provider_tools=True)


@pytest.mark.parametrize("on_deny", ["message", "raise"])
def test_an_agent_used_as_a_tool(guard: Guard, task: Any, on_deny: Any) -> None:
    """Its calls are narrowed and caused by the tool's call; what ends its run, its caller's model hears without what was found."""
    pay, paid = paying()
    clerk = guard_agent(guard, Agent(name="clerk", model=scripted(*pays(5, 777_777)), tools=[pay]), on_deny=on_deny)
    outer = Agent(
        name="triage", model=scripted([Call("ask_clerk", {"input": "go"})], *pays(10)), tools=[clerk.as_tool("ask_clerk", "Asks."), pay]
    )
    result = ran(guard_agent(guard, outer))
    assert paid == [5, 10]
    assert "777777" not in str(said(result))
    (asked,) = records(guard, "decision", tool="ask_clerk")
    assert {record["caused_by"] for record in records(guard, "decision", agent="clerk")} == {asked["id"]}


def test_an_agent_used_as_a_tool_waits_for_an_approval(guard: Guard, task: Any) -> None:
    """The outer call is recorded as paused, and runs again under its id, which the policy marks as safe."""
    pay, paid = paying(needs_approval=True)
    clerk = guard_agent(guard, Agent(name="clerk", model=scripted(*pays(5)), tools=[pay]))
    outer = guard_agent(
        guard, Agent(name="triage", model=scripted([Call("ask_clerk", {"input": "go"})]), tools=[clerk.as_tool("ask_clerk", "Asks.")])
    )
    state = waits(ran(outer))
    assert paid == []
    assert [record["status"] for record in records(guard, "outcome")] == ["paused"]
    result = ran(outer, state=state)
    assert paid == [5]
    assert result.final_output == "done"
    assert [text for _, text in said(result)] == ["done"]


# --- approvals ---------------------------------------------------------------------------------------------------------------------


def waits(result: Any, *, approve: bool = True) -> Any:
    """The state of a run that waits, with its one call approved or not."""
    (item,) = result.interruptions
    state = result.to_state()
    (state.approve if approve else state.reject)(item)
    return state


@pytest.mark.parametrize(
    ("amount", "approve", "told"), [(3, True, "paid 3"), (30, True, "argument_not_allowed"), (3, False, "not approved")]
)
def test_a_human_approves_and_the_guard_decides(guard: Guard, task: Any, amount: int, approve: bool, told: str) -> None:
    """An approval is no permission: the decision falls after it, once."""
    pay, paid = paying(needs_approval=True)
    agent = guard_agent(guard, Agent(name="triage", model=scripted(*pays(amount)), tools=[pay]))
    waiting = ran(agent)
    assert records(guard, "decision") == []
    result = ran(agent, state=waits(waiting, approve=approve))
    assert told in said(result)[-1][1]
    assert paid == ([3] if told == "paid 3" else [])
    assert len(records(guard, "decision")) == (1 if approve else 0)


@pytest.mark.parametrize("guarded", [False, True])
@pytest.mark.parametrize(("amount", "waiting"), [(3, 0), ("3", 1), (9, 1)])
def test_a_rule_about_approvals_is_asked_as_the_framework_would(guard: Guard, task: Any, guarded: bool, amount: Any, waiting: int) -> None:
    """What validation changes (a text to a number), a human has to see, whatever the rule says of it."""

    async def rule(context: Any, arguments: dict[str, Any], call_id: str) -> bool:
        return arguments["amount"] == 9

    pay, _ = paying(needs_approval=rule)
    agent = Agent(name="triage", model=scripted(*pays(amount)), tools=[pay])
    assert len(ran(guard_agent(guard, agent) if guarded else agent).interruptions) == waiting


# --- tools that are no functions ---------------------------------------------------------------------------------------------------


def test_shell(guard: Guard, task: Any) -> None:
    """Tool guardrails do not reach it; the executor's stand-in does."""
    commands: list[Any] = []

    def execute(request: Any) -> str:
        commands.append(request.data.action.commands)
        return "done"

    calls = [
        shell_call("s1", ["ls"]),
        shell_call("s2", ["rm"]),
        shell_call("s3", ["ls"], timeout_ms=5000),
        shell_call("s4", ["pwd"], timeout_ms=500),
    ]
    model = ScriptedModel([*[[call] for call in calls], [assistant_message("done")]])
    result = ran(guard_agent(guard, Agent(name="triage", model=model, tools=[ShellTool(executor=execute)])))
    assert commands == [["ls"], ["pwd"]]
    assert ["Denied" in str(text) for _, text in said(result)] == [False, True, True, False]
    assert [record["call_id"] for record in records(guard, "decision")] == ["s1", "s2", "s3", "s4"]


def test_local_shell(guard: Guard, task: Any) -> None:
    commands: list[Any] = []
    tool = LocalShellTool(executor=lambda request: str(commands.append(request.data.action.command)))
    model = ScriptedModel([[local_shell_call("l1", ["ls"])], [local_shell_call("l2", ["rm"])], [assistant_message("done")]])
    result = ran(guard_agent(guard, Agent(name="triage", model=model, tools=[tool])))
    assert commands == [["ls"]]
    assert "argument_not_allowed" in str(said(result)[1])


def test_apply_patch(guard: Guard, task: Any) -> None:
    done: list[Any] = []

    class Editor:
        async def create_file(self, operation: Any) -> str:
            done.append((operation.type, operation.path, operation.diff))
            return "created"

        update_file = delete_file = create_file

    calls = [
        patch_call("p1", {"type": "create_file", "path": "/srv/a", "diff": "+a"}),
        patch_call("p2", {"type": "create_file", "path": "/etc/a", "diff": "+a"}),
        patch_call("p3", {"type": "delete_file", "path": "/srv/a"}),
    ]
    model = ScriptedModel([*[[call] for call in calls], [assistant_message("done")]])
    result = ran(guard_agent(guard, Agent(name="triage", model=model, tools=[ApplyPatchTool(editor=Editor())])))
    assert done == [("create_file", "/srv/a", "+a")]
    assert ["argument_not_allowed" in text for _, text in said(result)] == [False, True, True]


def test_a_custom_tool(guard: Guard, task: Any) -> None:
    asked: list[str] = []

    async def query(context: Any, input: str) -> str:
        asked.append(input)
        return "found"

    model = ScriptedModel([[custom_call("c1", "short")], [custom_call("c2", "much too long")], [assistant_message("done")]])
    tool = CustomTool(name="query", description="Asks.", on_invoke_tool=query)
    result = ran(guard_agent(guard, Agent(name="triage", model=model, tools=[tool]), on_deny="raise"))
    assert asked == ["short"]
    assert "argument_not_allowed" in said(result)[1][1]  # told in any case: the framework makes words of what it raises


def test_tools_that_the_guard_cannot_judge_are_refused(guard: Guard) -> None:
    """They run at the model's provider, or do what no argument says."""
    hosted = [
        WebSearchTool(),
        CodeInterpreterTool({"type": "code_interpreter", "container": {"type": "auto"}}),
        HostedMCPTool({"type": "mcp", "server_label": "x", "server_url": "https://example.com"}),
        ShellTool(environment={"type": "container_auto"}),
        ComputerTool(None),
    ]
    for tool in hosted:
        with pytest.raises(InvalidInput, match="at the model's provider"):
            guard_agent(guard, Agent(name="triage", model=scripted(), tools=[tool]))
        assert guard_agent(guard, Agent(name="triage", model=scripted(), tools=[tool]), unsafe_provider_tools=True).tools == [tool]


# --- ways past it ------------------------------------------------------------------------------------------------------------------


def test_tools_of_mcp_servers(guard: Guard, task: Any) -> None:
    """They are made anew for each turn, after the agent was guarded."""
    server = Server()
    calls = [Call("lookup", {"q": "short"}), Call("lookup", {"q": "too long"}), Call("lookup", {"agentguard_context": 1, "q": "short"})]
    result = ran(guard_agent(guard, Agent(name="triage", model=scripted(*[[call] for call in calls]), mcp_servers=[server])))
    assert server.asked == [{"q": "short"}]
    assert [reply.code for reply in replies(result, [calls])] == [None, "argument_not_allowed", "malformed_call"]


def test_a_tool_that_comes_later_is_guarded(guard: Guard, task: Any) -> None:
    pay, paid = paying()
    agent = guard_agent(guard, Agent(name="triage", model=scripted(*pays(99))))
    agent.tools.append(pay)
    assert "argument_not_allowed" in said(ran(agent))[0][1]
    agent = guard_agent(guard, Agent(name="triage", model=scripted(*pays(99)))).clone(tools=[pay])
    assert "argument_not_allowed" in said(ran(agent))[0][1]
    assert paid == []


def test_a_tool_that_gets_another_body_is_another_tool(guard: Guard, task: Any) -> None:
    """Even between two turns."""
    pay, _ = paying()
    agent = guard_agent(guard, Agent(name="triage", model=scripted(*pays(1), *pays(99)), tools=[pay]))
    ran_instead: list[str] = []

    async def other(context: Any, arguments: str) -> str:
        ran_instead.append(arguments)
        return "paid"

    class Patches(RunHooks[Any]):
        async def on_tool_end(self, context: Any, agent: Any, tool: Any, result: Any) -> None:
            agent.tools[0].on_invoke_tool = other

    with pytest.raises(InvalidInput, match="another tool is registered as 'pay'"):
        ran(agent, Patches())
    assert ran_instead == []


def test_a_guarded_tool_among_the_tools_is_guarded_for_this_agent(guard: Guard, task: Any) -> None:
    """One call is one decision, whoever the tool was guarded for before."""
    pay, paid = paying()
    tools = guard_tools(guard, guard_tools(guard, [pay], agent="clerk"), agent="triage")
    ran(guard_agent(guard, Agent(name="triage", model=scripted(*pays(10)), tools=tools)))
    assert paid == [10]
    assert [record["agent"] for record in records(guard, "decision")] == ["triage"]


def test_a_tool_of_another_guard(guard: Guard, task: Any, tmp_path: Path) -> None:
    pay, _ = paying()
    with Guard.open(POLICY, home=tmp_path / "other", durability="process") as other, pytest.raises(InvalidInput, match="another guard"):
        guard_tools(guard, guard_tools(other, [pay]))
    with Guard.open(POLICY, home=tmp_path / "other", durability="process") as other, pytest.raises(InvalidInput, match="another guard"):
        guard_agent(guard, guard_agent(other, Agent(name="triage", tools=[pay])))


def test_an_agent_of_a_class_of_ones_own(guard: Guard, task: Any) -> None:
    """What a class adds to the tools is guarded like the rest."""
    pay, paid = paying()

    @dataclasses.dataclass
    class Own(Agent[Any]):
        more: int = 0

        async def get_all_tools(self, run_context: Any) -> Any:
            return [*await super().get_all_tools(run_context), pay]

    made = guard_agent(guard, Own(name="triage", model=scripted(*pays(1, 99)), more=7))
    assert isinstance(made, Own)
    assert made.more == 7
    ran(made)
    assert paid == [1]


def test_a_tool_in_a_namespace(guard: Guard, task: Any) -> None:
    """The policy names it in full."""
    pay, paid = paying()
    (named,) = tool_namespace(name="shop", description="A shop.", tools=[pay])
    call = function_call("pay", {"amount": 1}, call_id="p1", namespace="shop")
    model = ScriptedModel([[call], [assistant_message("done")]])
    ran(guard_agent(guard, Agent(name="triage", model=model, tools=[named])))
    assert paid == []
    assert [(record["tool"], record["code"]) for record in records(guard, "decision")] == [("shop.pay", "tool_not_in_scope")]


def test_an_agent_of_another_guard_takes_over_nothing(guard: Guard, task: Any, tmp_path: Path) -> None:
    pay, paid = paying()
    with Guard.open(POLICY, home=tmp_path / "other", durability="process") as other:
        clerk = guard_agent(other, Agent(name="clerk", model=scripted(*pays(1)), tools=[pay]))
        result = ran(guard_agent(guard, Agent(name="triage", model=scripted([Call("transfer_to_clerk", {})]), handoffs=[clerk])))
    assert "delegation_not_allowed" in said(result)[0][1]
    assert paid == []


def test_a_decorated_function_is_decided_once(guard: Guard, task: Any) -> None:
    paid: list[int] = []

    def pay(amount: int) -> str:
        """Pays."""
        paid.append(amount)
        return f"paid {amount}"

    tool = function_tool(guard.tool(pay))
    result = ran(guard_agent(guard, Agent(name="triage", model=scripted(*pays(7), *pays(70)), tools=[tool])))
    assert ["argument_not_allowed" in text for _, text in said(result)] == [False, True]
    assert paid == [7]
    assert [record["verdict"] for record in records(guard, "decision")] == ["allow", "deny"]


@pytest.mark.parametrize("kind", [RunContextWrapper, ToolContext])
def test_the_context_is_no_argument(guard: Guard, task: Any, kind: Any) -> None:
    """It is passed on, and a model cannot present it."""
    seen: list[Any] = []

    def pay(context: Any, amount: int) -> str:
        """Pays."""
        seen.append((type(context), amount))
        return "paid"

    pay.__annotations__["context"] = kind[Any]
    calls = [[Call("pay", {"amount": 3})], [Call("pay", {"amount": 3, "context": {}})]]
    result = ran(guard_agent(guard, Agent(name="triage", model=scripted(*calls), tools=[function_tool(pay)])))
    assert seen == [(ToolContext, 3)]
    assert "malformed_call" in said(result)[1][1]
    (decision,) = records(guard, "decision", verdict="allow")
    assert checked(guard, decision["id"]) == {"amount": 3}


class Till:
    """A tool that is an object, and one that is its method."""

    def __init__(self) -> None:
        self.paid: list[Any] = []

    async def __call__(self, context: RunContextWrapper[Any], amount: int) -> str:
        """Pays."""
        self.paid.append(amount)
        return f"paid {amount}"

    def pay(self, amount: int = 11) -> str:
        """Pays."""
        self.paid.append(amount)
        return f"paid {amount}"


@pytest.mark.parametrize("kind", ["object", "method"])
def test_tools_that_are_objects_and_methods(guard: Guard, task: Any, kind: str) -> None:
    till = Till()
    tool = function_tool(till, name_override="pay") if kind == "object" else function_tool(till.pay)
    assert tool.name == "pay"
    ran(guard_agent(guard, Agent(name="triage", model=scripted(*pays(1, 99), [Call("pay", {})]), tools=[tool])))
    assert till.paid == [1]
    assert len(records(guard, "decision")) == 3


@pytest.mark.parametrize("failing", [{}, {"failure_error_function": failed}, {"failure_error_function": None}])
@pytest.mark.parametrize("arguments", ["{", "[1]", '{"amount": "much"}', '{"amount": NaN}'])
def test_arguments_that_do_not_fit(guard: Guard, task: Any, failing: Any, arguments: str) -> None:
    """Told as a mistake and recorded, whatever the tool does with failures."""
    pay, paid = paying(**failing)
    model = ScriptedModel([[function_call("pay", arguments, call_id="p1")], [assistant_message("done")]])
    result = ran(guard_agent(guard, Agent(name="triage", model=model, tools=[pay])))
    assert said(result)[0][1].startswith("Denied (malformed_call)")
    assert paid == []
    assert [record["call_id"] for record in records(guard, "decision", code="malformed_call")] == ["p1"]


@pytest.mark.parametrize("failing", [{}, {"failure_error_function": failed}, {"failure_error_function": None}])
def test_a_denial_ends_the_run_whatever_the_tool_does_with_failures(guard: Guard, task: Any, failing: Any) -> None:
    pay, _ = paying(**failing)
    with pytest.raises(Denied) as caught:
        ran(guard_agent(guard, Agent(name="triage", model=scripted(*pays(777_777)), tools=[pay]), on_deny="raise"))
    assert "777777" not in str(caught.value)
    assert "777777" in caught.value.decision.explain()


def test_a_guardrail_comes_first(guard: Guard, task: Any) -> None:
    """What it rejects is no call; what it lets through is judged."""

    def check(data: Any) -> Any:
        rejected = json.loads(data.context.tool_arguments)["amount"] == 1
        return ToolGuardrailFunctionOutput.reject_content("not one") if rejected else ToolGuardrailFunctionOutput.allow()

    pay, paid = paying(tool_input_guardrails=[ToolInputGuardrail(guardrail_function=check)])
    result = ran(guard_agent(guard, Agent(name="triage", model=scripted(*pays(1, 2, 99)), tools=[pay])))
    assert [text[:8] for _, text in said(result)] == ["not one", "paid 2", "Denied ("]
    assert paid == [2]
    assert len(records(guard, "decision")) == 2


def test_a_tool_that_takes_too_long(guard: Guard, task: Any) -> None:
    @function_tool(timeout=0.05)
    async def pay(amount: int) -> str:
        """Pays."""
        await asyncio.sleep(30)
        return "paid"

    result = ran(guard_agent(guard, Agent(name="triage", model=scripted(*pays(1)), tools=[pay])))
    assert "timed out" in said(result)[0][1]
    assert [record["status"] for record in records(guard, "outcome")] == ["cancelled"]


def test_a_denial_that_is_no_fitting_output(guard: Guard, task: Any) -> None:
    """A tool with a declared output type answers with the denial all the same."""

    @function_tool(output_type=Receipt, failure_error_function=None)
    def pay(amount: int) -> Receipt:
        """Pays."""
        return Receipt(amount=amount)

    result = ran(guard_agent(guard, Agent(name="triage", model=scripted(*pays(1, 99)), tools=[pay])))
    assert [text[:20] for _, text in said(result)] == ['{"amount":1}', "Denied (argument_not"]
