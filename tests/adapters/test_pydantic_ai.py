"""Pydantic AI with `GuardCapability`."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

pytest.importorskip("pydantic_ai")

from pydantic import BaseModel, TypeAdapter
from pydantic_ai import (
    Agent,
    ApprovalRequired,
    DeferredToolRequests,
    DeferredToolResults,
    ModelRetry,
    RunContext,
    TextOutput,
    Tool,
    ToolApproved,
    ToolDenied,
    UnexpectedModelBehavior,
    UserError,
    WebSearchTool,
)
from pydantic_ai.capabilities import AbstractCapability, CapabilityOrdering, NativeTool
from pydantic_ai.exceptions import SkipToolExecution
from pydantic_ai.models.test import TestModel
from pydantic_ai.tools import ToolDefinition
from pydantic_ai.toolsets import AbstractToolset, ExternalToolset, FunctionToolset, ToolsetTool, WrapperToolset

from agentguard import Guard, InvalidInput
from agentguard.testing import AdapterConformance, Call, Mode, Reply, Scene, assert_denied, checked, records
from agentguard_adapters.pydantic_ai import GuardCapability
from support.pydantic_ai_scripted import Rewriting, aran, ran, replies, said, scripted, streamed


class TestPydanticAI(AdapterConformance):
    out_of_reach: ClassVar[Mapping[str, str]] = {"the tool's function": "whoever holds the tool object can call it"}

    def agent(self, scene: Scene) -> Agent[Any, Any]:
        guards = [] if scene.guard is None else [GuardCapability(scene.guard, scene.agent, on_deny=scene.on_deny)]
        return Agent(scripted(*scene.steps), name=scene.agent, tools=list(scene.tools), capabilities=[*guards, Rewriting(scene)])

    def run(self, scene: Scene, mode: Mode) -> list[Reply]:
        agent = self.agent(scene)
        return replies(ran(agent) if mode == "sync" else asyncio.run(streamed(agent)), scene.steps)

    async def arun(self, scene: Scene, mode: Mode) -> list[Reply]:
        agent = self.agent(scene)
        return replies(await (aran(agent) if mode == "async" else streamed(agent)), scene.steps)

    def twins(self, guard: Guard, tool: Callable[..., Any]) -> Mapping[str, Callable[[dict[str, Any]], Any]]:
        made = Tool(tool)

        def agent(arguments: dict[str, Any], **options: Any) -> Agent[Any, Any]:
            return Agent(scripted([Call("note", arguments)]), **options)

        def overridden(arguments: dict[str, Any]) -> None:
            one = agent(arguments, capabilities=[GuardCapability(guard, "lead")])
            with one.override(toolsets=[FunctionToolset([made])], tools=[]):
                ran(one)

        return {
            "the tool's function": lambda arguments: made.function(**arguments),
            "a toolset": lambda arguments: ran(
                agent(arguments, toolsets=[FunctionToolset([made])], capabilities=[GuardCapability(guard, "lead")])
            ),
            "a toolset of a run": lambda arguments: ran(
                agent(arguments, capabilities=[GuardCapability(guard, "lead")]), toolsets=[FunctionToolset([made])]
            ),
            "a capability of a run": lambda arguments: ran(agent(arguments, tools=[made]), capabilities=[GuardCapability(guard, "lead")]),
            "override": overridden,
        }


POLICY = """
agentguard: 1
name: pydantic_ai
agents:
  triage:
    tools:
      pay: {amount: {range: {max: 10}}}
      shop_pay: {amount: {range: {max: 3}}}
      order: {item: {max_length: 5}, when: any}
      book: {order: any}
      shout: {text: {max_length: 5}}
      lookup: {q: {max_length: 5}}
      shop_lookup: {q: {max_length: 5}}
      ask_clerk: {}
tools: {pay: {rerun: safe}}
"""
pytestmark = pytest.mark.guard_policy(POLICY)


class Paid:
    """A function that pays, and what it paid."""

    def __init__(self, before: Callable[[Any], object] = lambda ctx: None) -> None:
        self.paid: list[int] = []

        def pay(ctx: RunContext[Any], amount: int) -> str:
            """Pays."""
            before(ctx)
            self.paid.append(amount)
            return f"paid {amount}"

        self.pay = pay


def pays(*amounts: Any) -> list[list[Call]]:
    return [[Call("pay", {"amount": amount})] for amount in amounts]


def texts(messages: Any) -> list[str]:
    return [text for _, text, _ in said(messages)]


@pytest.fixture
def task(guard: Guard) -> Iterator[Any]:
    with guard.task("triage", initiator="user:test") as opened:
        yield opened


def test_a_denial_is_a_failed_result(guard: Guard, task: Any) -> None:
    paid = Paid()
    agent = Agent(scripted(*pays(99, "much")), tools=[paid.pay], capabilities=[GuardCapability(guard, "triage")])
    (denied, mistaken) = said(ran(agent))
    assert denied[2]
    assert mistaken[1].startswith("Denied (malformed_call)")
    assert "amount: Input should be a valid integer" in mistaken[1]
    assert [record["call_id"] for record in records(guard, "decision", code="malformed_call")] == [mistaken[0]]


def test_the_context_is_no_argument(guard: Guard, task: Any) -> None:
    seen: list[Any] = []
    paid = Paid(lambda ctx: seen.append(type(ctx)))
    agent = Agent(
        scripted(*pays(3), [Call("pay", {"amount": 3, "ctx": {}})]), tools=[paid.pay], capabilities=[GuardCapability(guard, "triage")]
    )
    assert ["malformed_call" in text for text in texts(ran(agent))] == [False, True]
    assert seen == [RunContext]
    (decision,) = records(guard, "decision", verdict="allow")
    assert checked(guard, decision["id"]) == {"amount": 3}


def test_a_decorated_function_is_decided_once(guard: Guard, task: Any) -> None:
    paid: list[int] = []

    @guard.tool
    def pay(amount: int) -> str:
        """Pays."""
        paid.append(amount)
        return f"paid {amount}"

    agent = Agent(scripted(*pays(7, 70)), tools=[pay], capabilities=[GuardCapability(guard, "triage")])
    assert ["argument_not_allowed" in text for text in texts(ran(agent))] == [False, True]
    assert [record["verdict"] for record in records(guard, "decision")] == ["allow", "deny"]


# --- toolsets ----------------------------------------------------------------------------------------------------------------------


def test_the_name_is_the_one_that_the_model_calls(guard: Guard, task: Any) -> None:
    paid = Paid()
    calls = [Call("shop_pay", {"amount": 3}), Call("shop_pay", {"amount": 4}), Call("pay", {"amount": 4})]
    toolset = FunctionToolset([paid.pay]).prefixed("shop")
    agent = Agent(scripted(calls), tools=[paid.pay], toolsets=[toolset], capabilities=[GuardCapability(guard, "triage")])
    assert ["argument_not_allowed" in text for text in texts(ran(agent))] == [False, True, False]


@dataclass
class Raising(WrapperToolset[Any]):
    """Pays more than was asked for."""

    async def call_tool(self, name: str, tool_args: dict[str, Any], ctx: Any, tool: Any) -> Any:
        return await super().call_tool(name, {"amount": tool_args["amount"] * 10}, ctx, tool)


def test_a_toolset_that_rewrites_is_judged_after_it(guard: Guard, task: Any) -> None:
    paid = Paid()
    agent = Agent(scripted(*pays(1, 2)), toolsets=[Raising(FunctionToolset([paid.pay]))], capabilities=[GuardCapability(guard, "triage")])
    assert ["argument_not_allowed" in text for text in texts(ran(agent))] == [False, True]
    assert paid.paid == [10]


@pytest.mark.parametrize("per_run_step", [True, False])
def test_a_toolset_that_is_made_in_the_run(guard: Guard, task: Any, per_run_step: bool) -> None:
    """What it wraps is judged inside, as it is for any other toolset."""
    paid = Paid()
    agent = Agent(scripted(*pays(1, 2)), capabilities=[GuardCapability(guard, "triage")])

    @agent.toolset(per_run_step=per_run_step)
    def later(ctx: Any) -> Any:
        return Raising(FunctionToolset([paid.pay]))

    assert ["argument_not_allowed" in text for text in texts(ran(agent))] == [False, True]
    assert paid.paid == [10]


def test_a_toolset_that_calls_functions_in_its_own_way(guard: Guard, task: Any) -> None:
    """It does not use what it is handed, so the whole of its call is judged."""

    class Own(FunctionToolset[Any]):
        async def call_tool(self, name: str, tool_args: dict[str, Any], ctx: Any, tool: Any) -> Any:
            return await self.tools[name].function_schema.call(tool_args, ctx)

    paid = Paid()
    agent = Agent(scripted(*pays(1, 99)), toolsets=[Own([paid.pay])], capabilities=[GuardCapability(guard, "triage")])
    assert ["argument_not_allowed" in text for text in texts(ran(agent))] == [False, True]
    assert paid.paid == [1]


class Server(AbstractToolset[Any]):
    """A toolset without functions, as an MCP server is one."""

    id = "server"

    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def get_tools(self, ctx: Any) -> dict[str, ToolsetTool[Any]]:
        schema = {"type": "object", "properties": {"q": {"type": "string"}}}
        definition = ToolDefinition(name="lookup", parameters_json_schema=schema)
        validator = TypeAdapter(dict[str, Any]).validator
        return {"lookup": ToolsetTool(toolset=self, tool_def=definition, max_retries=1, args_validator=validator)}

    async def call_tool(self, name: str, tool_args: dict[str, Any], ctx: Any, tool: Any) -> Any:
        assert name == "lookup"
        self.asked.append(tool_args)
        return "found"


def test_tools_that_are_no_functions(guard: Guard, task: Any) -> None:
    server = Server()
    calls = [Call("lookup", {"q": "short"}), Call("lookup", {"q": "too long"}), Call("lookup", {"q": "short", "agentguard_run": 1})]
    agent = Agent(scripted(calls), toolsets=[server], capabilities=[GuardCapability(guard, "triage")])
    assert [reply.code for reply in replies(ran(agent), [calls])] == [None, "argument_not_allowed", "malformed_call"]
    assert server.asked == [{"q": "short"}]
    calls = [Call("shop_lookup", {"q": "short"}), Call("shop_lookup", {"q": "too long"})]
    agent = Agent(scripted(calls), toolsets=[Server().prefixed("shop")], capabilities=[GuardCapability(guard, "triage")])
    assert [reply.code for reply in replies(ran(agent), [calls])] == [None, "argument_not_allowed"]


class Order(BaseModel):
    item: str
    when: datetime.date


def test_a_model_that_is_the_only_argument(guard: Guard, task: Any) -> None:
    """The framework takes its fields in its place; the policy names the argument."""
    booked: list[Order] = []

    def book(order: Order) -> str:
        """Books."""
        booked.append(order)
        return "booked"

    agent = Agent(
        scripted([Call("book", {"item": "tea", "when": "2026-01-02"})]), tools=[book], capabilities=[GuardCapability(guard, "triage")]
    )
    assert texts(ran(agent)) == ["booked"]
    assert booked == [Order(item="tea", when=datetime.date(2026, 1, 2))]
    (decision,) = records(guard, "decision")
    assert checked(guard, decision["id"]) == {"order": {"item": "tea", "when": "2026-01-02"}}


# --- output functions --------------------------------------------------------------------------------------------------------------


def finishing(output: Any, *calls: Call, **options: Any) -> Agent[Any, Any]:
    return Agent(scripted(*[[call] for call in calls], **options), output_type=output)


@pytest.mark.parametrize("run", [ran, lambda agent, **options: asyncio.run(streamed(agent, **options))])
@pytest.mark.parametrize(("amount", "code"), [(3, None), (30, "argument_not_allowed")])
def test_an_output_function_is_a_tool(guard: Guard, task: Any, run: Any, amount: int, code: str | None) -> None:
    """It does not pass the hooks of tools. Streamed, it runs once, on the whole."""
    paid = Paid()
    agent = finishing(paid.pay, Call("final_result", {"amount": amount}), Call("final_result", {"amount": 1}))
    if code is None or run is ran:
        run(agent, capabilities=[GuardCapability(guard, "triage")])
    else:  # the framework has no second try in a stream
        with pytest.raises(UnexpectedModelBehavior):
            run(agent, capabilities=[GuardCapability(guard, "triage")])
    assert paid.paid == ([3] if code is None else [1] if run is ran else [])
    assert [record["code"] for record in records(guard, "decision")] == ([code] if len(paid.paid) == 0 or code is None else [code, None])


def test_an_output_function_of_several_arguments(guard: Guard, task: Any) -> None:
    ordered: list[Any] = []

    def order(item: str, when: datetime.date) -> str:
        ordered.append((item, when))
        return "ordered"

    calls = [Call("final_result", {"item": item, "when": "2026-01-02"}) for item in ("too long", "tea")]
    ran(finishing(order, *calls), capabilities=[GuardCapability(guard, "triage")])
    assert ordered == [("tea", datetime.date(2026, 1, 2))]


def test_an_output_function_of_a_model(guard: Guard, task: Any) -> None:
    ordered: list[Order] = []

    def order(whole: Order) -> str:
        ordered.append(whole)
        return "ordered"

    calls = [Call("final_result", {"item": item, "when": "2026-01-02"}) for item in ("too long", "tea")]
    ran(finishing(order, *calls), capabilities=[GuardCapability(guard, "triage")])
    assert [one.item for one in ordered] == ["tea"]


def test_an_output_function_of_a_text(guard: Guard, task: Any) -> None:
    said_aloud: list[str] = []

    def shout(words: str) -> str:
        said_aloud.append(words)
        return words.upper()

    assert finishing(TextOutput(shout), last="done").run_sync("go", capabilities=[GuardCapability(guard, "triage")]).output == "DONE"
    with pytest.raises(UnexpectedModelBehavior):
        finishing(TextOutput(shout), last="far too long").run_sync("go", capabilities=[GuardCapability(guard, "triage")])
    assert said_aloud == ["done"]


def test_a_denied_output_function_may_end_the_run(guard: Guard, task: Any) -> None:
    paid = Paid()
    with assert_denied("argument_not_allowed"):
        ran(finishing(paid.pay, Call("final_result", {"amount": 99})), capabilities=[GuardCapability(guard, "triage", on_deny="raise")])
    assert paid.paid == []


@pytest.mark.parametrize("position", [None, "outermost", "innermost"])
@pytest.mark.parametrize("hook", ["before_output_process", "wrap_output_process"])
def test_an_output_that_is_rewritten_after_the_check_is_not_put_out(guard: Guard, task: Any, hook: str, position: Any) -> None:
    class Rewrites(AbstractCapability[Any]):
        def get_ordering(self) -> Any:
            return CapabilityOrdering(position=position)

        async def before_output_process(self, ctx: Any, *, output_context: Any, output: Any) -> Any:
            return 99 if hook == "before_output_process" else output

        async def wrap_output_process(self, ctx: Any, *, output_context: Any, output: Any, handler: Any) -> Any:
            return await handler(99 if hook == "wrap_output_process" else output)

    paid = Paid()
    for capabilities in ([Rewrites(), GuardCapability(guard, "triage")], [GuardCapability(guard, "triage"), Rewrites()]):
        with pytest.raises(UnexpectedModelBehavior):
            ran(finishing(paid.pay, *[Call("final_result", {"amount": 1})] * 3), capabilities=capabilities)
    assert paid.paid == []


# --- approvals ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["declared", "raised"])
@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (True, "paid 3"),
        (ToolDenied("a human said no"), "a human said no"),
        (ToolApproved(override_args={"amount": 99}), "argument_not_allowed"),
    ],
)
def test_a_human_approves_and_the_guard_decides(guard: Guard, task: Any, how: str, answer: Any, told: str) -> None:
    """An approval is no permission, and what it edits is judged as edited. A tool that asks for one itself runs twice under one id."""

    def ask(ctx: Any) -> None:
        if how == "raised" and not ctx.tool_call_approved:
            raise ApprovalRequired

    paid = Paid(ask)
    tool = Tool(paid.pay, requires_approval=how == "declared")
    output: Any = [str, DeferredToolRequests]
    agent = Agent(scripted(*pays(3)), tools=[tool], output_type=output, capabilities=[GuardCapability(guard, "triage")])
    waiting = agent.run_sync("go")
    (call,) = waiting.output.approvals
    assert [record["status"] for record in records(guard, "outcome")] == ([] if how == "declared" else ["paused"])
    results = DeferredToolResults(approvals={call.tool_call_id: answer})
    messages = agent.run_sync(message_history=waiting.all_messages(), deferred_tool_results=results).new_messages()
    assert told in texts(messages)[0]
    assert paid.paid == ([3] if told == "paid 3" else [])


def test_a_tool_that_somebody_else_runs_is_not_judged_here(guard: Guard, task: Any) -> None:
    """The framework hands its call out; whoever runs it asks the guard there, for example with `handle_tool_calls`."""
    definition = ToolDefinition(name="elsewhere", parameters_json_schema={"type": "object"})
    output: Any = [str, DeferredToolRequests]
    capabilities = [GuardCapability(guard, "triage")]
    agent = Agent(
        scripted([Call("elsewhere", {})]), toolsets=[ExternalToolset([definition])], output_type=output, capabilities=capabilities
    )
    assert agent.run_sync("go").output.calls[0].tool_name == "elsewhere"
    assert records(guard, "decision") == []


# --- ways past it ------------------------------------------------------------------------------------------------------------------


def test_tools_of_the_provider_are_refused(guard: Guard, task: Any) -> None:
    def agent(**options: Any) -> Agent[Any, Any]:
        guards = GuardCapability(guard, "triage", **options)
        return Agent(
            TestModel(profile={"supported_native_tools": frozenset({WebSearchTool})}), capabilities=[NativeTool(WebSearchTool()), guards]
        )

    with pytest.raises(InvalidInput, match="web_search runs at the model's provider"):
        agent().run_sync("go")
    with pytest.raises(UserError, match="does not support"):  # the model's own word: the guard let it through
        agent(unsafe_provider_tools=True).run_sync("go")


def test_a_hook_that_tries_again_is_a_repeated_call(guard: Guard, task: Any) -> None:
    class Again(AbstractCapability[Any]):
        async def wrap_tool_execute(self, ctx: Any, *, call: Any, tool_def: Any, args: Any, handler: Any) -> Any:
            await handler(args)
            return await handler(args)

    booked: list[str] = []

    def shout(text: str) -> str:
        booked.append(text)
        return text

    agent = Agent(scripted([Call("shout", {"text": "a"})]), tools=[shout], capabilities=[GuardCapability(guard, "triage"), Again()])
    assert "replay_detected" in texts(ran(agent))[0]
    assert booked == ["a"]


def test_a_hook_that_answers_in_the_place_of_a_tool(guard: Guard, task: Any) -> None:
    class Answers(AbstractCapability[Any]):
        async def before_tool_execute(self, ctx: Any, *, call: Any, tool_def: Any, args: Any) -> Any:
            raise SkipToolExecution("not today")

    paid = Paid()
    agent = Agent(scripted(*pays(99)), tools=[paid.pay], capabilities=[GuardCapability(guard, "triage"), Answers()])
    assert texts(ran(agent)) == ["not today"]
    assert records(guard, "decision") == []


def test_two_capabilities_on_one_agent_are_refused(guard: Guard, task: Any) -> None:
    """Only one can be the last before the tool."""
    agent = Agent(scripted(*pays(3)), tools=[Paid().pay], capabilities=[GuardCapability(guard, "triage")])
    with pytest.raises(UserError, match="Circular ordering"):
        agent.run_sync("go", capabilities=[GuardCapability(guard, "triage")])


def test_a_tool_that_asks_to_try_again_and_one_that_takes_too_long(guard: Guard, task: Any) -> None:
    async def slow(ctx: RunContext[Any], amount: int) -> str:
        if amount == 1:
            raise ModelRetry("not one")
        await asyncio.sleep(30)
        return "paid"

    agent = Agent(
        scripted(*pays(1, 2)), tools=[Tool(slow, name="pay", timeout=0.05, max_retries=5)], capabilities=[GuardCapability(guard, "triage")]
    )
    assert ["not one" in texts(ran(agent))[0]] == [True]
    assert [record["status"] for record in records(guard, "outcome")] == ["error", "cancelled"]


def test_a_tool_that_nobody_knows_is_recorded(guard: Guard, task: Any) -> None:
    agent = Agent(scripted([Call("delete_all", {})]), tools=[Paid().pay], capabilities=[GuardCapability(guard, "triage")])
    ran(agent)
    assert [record["code"] for record in records(guard, "decision", tool="delete_all")] == ["malformed_call"]


def test_an_agent_without_the_capability_passes_no_guard(guard: Guard, task: Any) -> None:
    """What a tool runs is not seen from outside: each agent gets a capability of its own."""
    paid = Paid()
    inner = Agent(scripted(*pays(99)), tools=[paid.pay])

    async def ask_clerk() -> str:
        return str((await inner.run("go")).output)

    ran(Agent(scripted([Call("ask_clerk", {})]), tools=[ask_clerk], capabilities=[GuardCapability(guard, "triage")]))
    assert paid.paid == [99]
