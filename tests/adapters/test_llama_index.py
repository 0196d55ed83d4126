"""LlamaIndex agents and workflows with guard_agent."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

pytest.importorskip("llama_index.core")

from llama_index.core.agent.workflow import AgentWorkflow, CodeActAgent, FunctionAgent, ReActAgent, ToolCallResult
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.tools import AsyncBaseTool, BaseTool, FunctionTool, ToolMetadata, ToolOutput
from llama_index.core.tools.types import DefaultToolFnSchema
from llama_index.core.workflow import Context, HumanResponseEvent, InputRequiredEvent

from agentguard import Denied, Guard, InvalidInput
from agentguard.testing import AdapterConformance, Call, Mode, Reply, Scene, records
from agentguard_adapters.llama_index import guard_agent, guard_tools
from support.llama_index_scripted import agent, model, replies, results, rewriting

POLICY = """
agentguard: 1
name: llama
agents:
  boss:
    tools:
      pay: {amount: {range: {max: 10}}}
      cash: {amount: {range: {max: 10}}}
      ship: {amount: {range: {max: 10}}, to: {exact: house}}
      ask: {input: {max_length: 5}}
      order: {count: {range: {max: 10}}, item: any}
      handoff: {to_agent: {one_of: [clerk, stranger]}, reason: any}
      execute: {code: {max_length: 5}}
      once: {}
      resumable: {}
    delegates: {clerk: {depth: 1}, front-desk: {depth: 1}}
  clerk:
    tools: {pay: {amount: {range: {max: 3}}}}
  front-desk:
    tools: {pay: {amount: {range: {max: 1}}}}
  stranger:
    tools: {pay: {amount: any}}
tools: {resumable: {rerun: safe}}
"""


class TestLlamaIndex(AdapterConformance):
    modes: ClassVar[tuple[Mode, ...]] = ("async", "astream")  # agents run in an event loop only
    out_of_reach: ClassVar[Mapping[str, str]] = {
        "the tool object that was given": "whoever holds it can call it: give away what guard_tools makes"
    }

    def run(self, scene: Scene, mode: Mode) -> list[Reply]:
        raise NotImplementedError("agents run in an event loop only")

    async def arun(self, scene: Scene, mode: Mode) -> list[Reply]:
        kind = rewriting(scene.rewrite) if scene.rewrite is not None else FunctionAgent
        made = agent(scene.agent, scene.tools, *scene.steps, kind=kind, streaming=mode == "astream")
        if scene.guard is not None:
            guard_agent(scene.guard, made, on_deny=scene.on_deny)
        return replies(await results(made), scene.steps)

    def twins(self, guard: Guard, tool: Callable[..., Any]) -> Mapping[str, Callable[[dict[str, Any]], Any]]:
        made = FunctionTool.from_defaults(tool)
        (guarded,) = guard_tools(guard, [made], agent="lead")

        def through(wrap: Callable[[Any], Any]) -> Callable[[dict[str, Any]], Any]:
            """A run of what `wrap` makes of a guarded agent."""

            async def run(arguments: dict[str, Any]) -> Any:
                return await results(wrap(guard_agent(guard, agent("lead", [made], [Call("note", arguments)]))))

            return lambda arguments: asyncio.run(run(arguments))

        return {
            "the tool object that was given": lambda arguments: made.call(**arguments),
            "__call__": lambda arguments: guarded(**arguments),
            "call": lambda arguments: guarded.call(**arguments),
            "acall": lambda arguments: asyncio.run(guarded.acall(**arguments)),
            "fn": lambda arguments: guarded.fn(**arguments),
            "async_fn": lambda arguments: asyncio.run(guarded.async_fn(**arguments)),
            "real_fn": lambda arguments: guarded.real_fn(*arguments.values()),
            "predict_and_call": lambda arguments: model([Call("note", arguments)]).predict_and_call([guarded], "go"),
            "apredict_and_call": lambda arguments: asyncio.run(model([Call("note", arguments)]).apredict_and_call([guarded], "go")),
            "an agent": through(lambda lead: lead),
            "a copy of an agent": through(lambda lead: lead.model_copy()),
            "an agent in a workflow without a guard": through(lambda lead: AgentWorkflow(agents=[lead])),
            "an agent in a workflow with its own": through(lambda lead: guard_agent(guard, AgentWorkflow(agents=[lead]))),
        }


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[Guard]:
    with Guard.open(POLICY, home=tmp_path / "home", durability="process") as opened:
        yield opened


class Till:
    """A tool that pays, and what it paid."""

    def __init__(self) -> None:
        self.paid: list[int] = []

    def pay(self, amount: int) -> str:
        """Pays."""
        self.paid.append(amount)
        return f"paid {amount}"

    async def apay(self, amount: int) -> str:
        """Pays."""
        await asyncio.sleep(0)
        return self.pay(amount)


def pay(amount: int) -> Call:
    return Call("pay", {"amount": amount})


def played(guard: Guard, runner: Any, *, of: str = "boss") -> list[ToolCallResult]:
    """A run within a task."""

    async def run() -> list[ToolCallResult]:
        async with guard.task(of, initiator="user:test"):
            return await results(runner)

    return asyncio.run(run())


def codes(found: list[ToolCallResult]) -> list[str | None]:
    return [Reply(result.tool_output.content).code for result in found]


def verdicts(guard: Guard) -> list[tuple[str, str, str]]:
    return [(record["agent"], record["tool"], record["verdict"]) for record in records(guard, "decision")]


# --- workflows and hand-offs --------------------------------------------------------------------------------------------------------


def team(till: Till, to: str, *calls: Call, kind: Any = FunctionAgent) -> AgentWorkflow:
    """A boss who hands off to another agent."""
    boss = agent("boss", [till.pay], [Call("handoff", {"to_agent": to, "reason": "x"})], can_handoff_to=["clerk", "stranger", "thief"])
    other = agent(to, [till.pay], *[[call] for call in calls], kind=kind, can_handoff_to=[])
    return AgentWorkflow(agents=[boss, other], root_agent="boss")


def test_a_hand_off_narrows(guard: Guard) -> None:
    till = Till()
    found = played(guard, guard_agent(guard, team(till, "clerk", pay(3), pay(4))))
    assert codes(found) == [None, None, "argument_not_allowed"]
    assert till.paid == [3]
    assert verdicts(guard) == [("boss", "handoff", "allow"), ("clerk", "pay", "allow"), ("clerk", "pay", "deny")]
    (link,) = records(guard, "delegation", agent="clerk")
    assert {record["artifact"] for record in records(guard, "decision", agent="clerk")} == {link["artifact"]}


def test_a_hand_off_that_is_denied_does_not_happen(guard: Guard) -> None:
    till = Till()
    workflow = guard_agent(guard, team(till, "thief", pay(1)))
    found = played(guard, workflow)
    assert codes(found) == ["argument_not_allowed"]
    assert till.paid == []


def test_a_hand_off_to_an_agent_without_a_grant_gives_it_nothing(guard: Guard) -> None:
    till = Till()
    assert codes(played(guard, guard_agent(guard, team(till, "stranger", pay(1))))) == [None, "delegation_not_allowed"]
    assert till.paid == []


def test_an_agents_own_override_is_ignored_in_a_workflow_and_the_guard_is_not(guard: Guard) -> None:
    """`_call_tool` of an agent is not used inside a workflow, which has its own."""
    till = Till()

    class Refusing(FunctionAgent):
        async def _call_tool(self, ctx: Any, tool: Any, tool_input: Any) -> Any:
            raise AssertionError("a workflow calls its own")

    assert codes(played(guard, guard_agent(guard, team(till, "clerk", pay(4), kind=Refusing)))) == [None, "argument_not_allowed"]
    assert till.paid == []


def test_members_of_a_guarded_workflow_are_guarded_by_themselves(guard: Guard) -> None:
    till = Till()
    boss = agent("boss", [till.pay], [pay(11)])
    guard_agent(guard, AgentWorkflow(agents=[boss]))
    assert codes(played(guard, boss)) == ["argument_not_allowed"]
    assert till.paid == []


def test_a_denial_in_a_workflow_may_be_raised(guard: Guard) -> None:
    till = Till()
    with pytest.raises(Denied):
        played(guard, guard_agent(guard, team(till, "clerk", pay(4)), on_deny="raise"))
    assert till.paid == []


def test_agents_may_have_other_names_in_the_policy(guard: Guard) -> None:
    till = Till()
    desk = guard_agent(guard, FunctionAgent(tools=[till.pay], llm=model([pay(1)], [pay(2)])), names={"Agent": "front-desk"})
    assert codes(played(guard, desk, of="front-desk")) == [None, "argument_not_allowed"]
    assert till.paid == [1]


# --- kinds of agents ------------------------------------------------------------------------------------------------------------------


def speaker(*texts: str) -> MockFunctionCallingLLM:
    """A model that says these texts."""
    script = iter(texts)
    return MockFunctionCallingLLM(
        response_generator=lambda messages, **options: ChatMessage(role="assistant", content=next(script)), is_chat_model=True
    )


def test_agents_whose_calls_are_text(guard: Guard) -> None:
    till = Till()
    said = [f'Thought: x\nAction: pay\nAction Input: {{"amount": {amount}}}' for amount in (9, 11)]
    boss = ReActAgent(name="boss", tools=[till.pay], llm=speaker(*said, "Thought: I can answer\nAnswer: done"))
    assert codes(played(guard, guard_agent(guard, boss))) == [None, "argument_not_allowed"]
    assert till.paid == [9]


def test_agents_that_write_code(guard: Guard) -> None:
    """The code is an argument of `execute`, and the functions that it may call are guarded if the executor is given guarded ones."""
    ran: list[str] = []

    def execute(code: str) -> str:
        """Runs code."""
        ran.append(code)
        return "ok"

    said = ["<execute>1 + 1</execute>", "<execute>1 + 1 + 1</execute>", "done"]
    boss = CodeActAgent(execute, name="boss", tools=[Till().pay], llm=speaker(*said))
    assert codes(played(guard, guard_agent(guard, boss))) == [None, "argument_not_allowed"]
    assert ran == ["1 + 1"]


def test_tools_that_come_later_are_guarded(guard: Guard) -> None:
    """Tools that are added to a guarded agent, and those that a retriever finds for it."""
    till = Till()

    class Finds:
        async def aretrieve(self, query: str) -> list[BaseTool]:
            return [FunctionTool.from_defaults(till.pay, name="cash")]

    boss = guard_agent(guard, agent("boss", [], [pay(11)], [Call("cash", {"amount": 12})], [Call("cash", {"amount": 1})]))
    boss.tools = [FunctionTool.from_defaults(till.pay)]
    object.__setattr__(boss, "tool_retriever", Finds())
    assert codes(played(guard, boss)) == ["argument_not_allowed", "argument_not_allowed", None]
    assert till.paid == [1]


def test_copies_of_an_agent_stay_guarded(guard: Guard) -> None:
    till = Till()
    boss = guard_agent(guard, agent("boss", [], [pay(11)], [pay(1)]))
    other = copy.copy(boss).model_copy(update={"tools": [FunctionTool.from_defaults(till.pay)]})
    assert codes(played(guard, other)) == ["argument_not_allowed", None]
    assert till.paid == [1]


def test_an_override_that_answers_in_the_place_of_the_tool_is_left_alone(guard: Guard) -> None:
    till = Till()

    class Caching(FunctionAgent):
        async def _call_tool(self, ctx: Any, tool: Any, tool_input: Any) -> Any:
            return ToolOutput(tool_name=tool.metadata.name, raw_input={}, content="from a cache")

    (result,) = played(guard, guard_agent(guard, agent("boss", [till.pay], [pay(99)], kind=Caching)))
    assert result.tool_output.content == "from a cache"
    assert till.paid == []
    assert verdicts(guard) == []


def test_a_call_that_an_override_puts_in_is_the_same_agents(guard: Guard) -> None:
    """It was not announced, and must not run by the authority of the agent further out."""
    till = Till()

    class Swapping(FunctionAgent):
        async def _call_tool(self, ctx: Any, tool: Any, tool_input: Any) -> Any:
            (cash,) = [one for one in await self.get_tools() if one.metadata.name == "cash"]
            return await super()._call_tool(ctx, cash, tool_input)

    tools = [FunctionTool.from_defaults(till.pay), FunctionTool.from_defaults(till.pay, name="cash")]
    clerk = guard_agent(guard, agent("clerk", [], [pay(9)], kind=Swapping))
    clerk.tools = tools
    assert codes(played(guard, clerk)) == ["tool_not_in_scope"]
    assert till.paid == []
    assert [(agent, verdict) for agent, _, verdict in verdicts(guard)] == [("clerk", "deny")]


def test_a_name_that_the_model_made_up_is_recorded_and_told(guard: Guard) -> None:
    (result,) = played(guard, guard_agent(guard, agent("boss", [Till().pay], [Call("steal", {"a": 1})])))
    assert result.tool_output.content.startswith("Denied (malformed_call)")
    assert "not found" in result.tool_output.content
    assert verdicts(guard) == [("boss", "steal", "deny")]


# --- kinds of tools -------------------------------------------------------------------------------------------------------------------


class Asks(AsyncBaseTool):
    """A tool that is no FunctionTool, as query engines and retrievers are."""

    metadata = ToolMetadata("Asks.", name="ask", fn_schema=DefaultToolFnSchema)  # type: ignore[assignment]

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def call(self, *args: Any, **kwargs: Any) -> ToolOutput:
        self.asked.append(kwargs.get("input", args))
        return ToolOutput(tool_name="ask", raw_input={}, content="answered")

    async def acall(self, *args: Any, **kwargs: Any) -> ToolOutput:
        return self.call(*args, **kwargs)


class AsksSync(BaseTool):
    """A tool that can be called in one way only."""

    metadata = Asks.metadata  # type: ignore[assignment]

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def __call__(self, input: Any) -> ToolOutput:
        self.asked.append(input)
        return ToolOutput(tool_name="ask", raw_input={}, content="answered")


@pytest.mark.parametrize("kind", [Asks, AsksSync])
def test_tools_that_are_no_function_tools(guard: Guard, kind: Any) -> None:
    tool = kind()
    calls = [Call("ask", {"input": text}) for text in ("hello", "hello!")] + [Call("ask", {"input": "a", "as_admin": True})]
    found = played(guard, guard_agent(guard, agent("boss", [tool], *[[call] for call in calls])))
    assert codes(found) == [None, "argument_not_allowed", "argument_not_in_scope"]
    assert tool.asked == ["hello"]
    (guarded,) = guard_tools(guard, [tool])
    with guard.task("boss", initiator="user:test"):
        for call in calls[:2]:  # a single argument is given without its name
            model([call]).predict_and_call([guarded], "go")
        assert guarded("hello!").is_error
        assert guarded("a", "b").is_error
    assert tool.asked == ["hello", "hello"]


def test_a_subclass_that_runs_the_function_its_own_way_is_guarded_as_a_whole(guard: Guard) -> None:
    till = Till()

    class Retrying(FunctionTool):
        async def acall(self, *args: Any, **kwargs: Any) -> ToolOutput:
            return ToolOutput(tool_name="pay", raw_input=kwargs, content=till.pay(**kwargs))

    tool = Retrying.from_defaults(till.pay)
    assert codes(played(guard, guard_agent(guard, agent("boss", [tool], [pay(9)], [pay(11)])))) == [None, "argument_not_allowed"]
    assert till.paid == [9]


def test_a_function_with_an_async_form(guard: Guard) -> None:
    """Each way of calling it takes its own form; both are one tool."""
    till, other = Till(), Till()
    (tool,) = guard_tools(guard, [FunctionTool.from_defaults(fn=till.pay, async_fn=other.apay)])
    with guard.task("boss", initiator="user:test"):
        assert [Reply(tool.call(amount=amount).content).code for amount in (1, 11)] == [None, "argument_not_allowed"]
        assert [Reply(asyncio.run(tool.acall(amount=amount)).content).code for amount in (2, 12)] == [None, "argument_not_allowed"]
    assert (till.paid, other.paid) == ([1], [2])
    assert codes(played(guard, guard_agent(guard, agent("boss", [tool], [pay(3)], [pay(13)])))) == [None, "argument_not_allowed"]
    assert other.paid == [2, 3]


def test_partial_parameters_are_judged_with_what_replaces_them(guard: Guard) -> None:
    """LlamaIndex lets a model overwrite them, although it does not show them."""
    shipped: list[str] = []

    def ship(amount: int, to: str) -> str:
        """Ships."""
        shipped.append(to)
        return "shipped"

    tool = FunctionTool.from_defaults(ship, partial_params={"to": "house"})
    calls = [Call("ship", {"amount": 1}), Call("ship", {"amount": 1, "to": "eve"})]
    (guarded,) = guard_tools(guard, [tool])
    with guard.task("boss", initiator="user:test"):
        for call in calls:
            model([call]).predict_and_call([guarded], "go")
        assert guarded(amount=2, to="eve").is_error
    assert shipped == ["house"]


def test_only_the_framework_fills_in_a_context(guard: Guard) -> None:
    till = Till()

    async def order(ctx: Context, count: int, item: str = "pen") -> str:
        """Orders."""
        assert isinstance(ctx, Context)
        return await till.apay(count)

    order.__annotations__["ctx"] = Context  # LlamaIndex looks at the annotation itself
    tool = FunctionTool.from_defaults(async_fn=order)
    good, forged = Call("order", {"count": 9}), Call("order", {"count": 9, "ctx": {"state": 1}})
    found = played(guard, guard_agent(guard, agent("boss", [tool], [good], [forged], [Call("order", {"count": 11})])))
    assert codes(found) == [None, "malformed_call", "argument_not_allowed"]
    (guarded,) = guard_tools(guard, [tool])
    with guard.task("boss", initiator="user:test"):
        for call in (good, forged):
            assert "Denied (malformed_call)" in str(model([call]).predict_and_call([guarded], "go"))
    assert till.paid == [9]


def test_a_callback_of_a_tool_does_not_see_a_denial(guard: Guard) -> None:
    seen: list[Any] = []
    tool = FunctionTool.from_defaults(Till().pay, callback=lambda result: seen.append(result))
    assert codes(played(guard, guard_agent(guard, agent("boss", [tool], [pay(11)], [pay(1)])))) == ["argument_not_allowed", None]
    assert seen == ["paid 1"]


def test_a_denied_tool_that_returns_directly_does_not_end_the_run(guard: Guard) -> None:
    till = Till()
    tool = FunctionTool.from_defaults(till.pay, return_direct=True)
    assert codes(played(guard, guard_agent(guard, agent("boss", [tool], [pay(11)], [pay(1)])))) == ["argument_not_allowed", None]
    assert till.paid == [1]


def test_a_decorated_function_is_decided_once(guard: Guard) -> None:
    """Under the name that it was registered by, and under the id that the model gave, whatever the tool is called."""
    taken: list[int] = []

    @guard.tool
    def pay(amount: int) -> str:
        """Pays."""
        taken.append(amount)
        return "paid"

    tool = FunctionTool.from_defaults(pay, name="till")
    calls = [Call("till", {"amount": amount}) for amount in (7, 70)]
    assert codes(played(guard, guard_agent(guard, agent("boss", [tool], *[[call] for call in calls])))) == [None, "argument_not_allowed"]
    assert taken == [7]
    found = [(one["tool"], one["verdict"], one["call_id"]) for one in records(guard, "decision")]
    assert found == [("pay", "allow", calls[0].id), ("pay", "deny", calls[1].id)]


def test_a_tool_that_calls_a_guarded_tool_of_its_own_name_is_another_call(guard: Guard) -> None:
    """The id that the model gave is used up by the outer one."""
    till = Till()
    (inner,) = guard_tools(guard, [FunctionTool.from_defaults(till.apay, name="cash")])

    async def pay(amount: int) -> str:
        """Pays."""
        return str(await inner.acall(amount=amount))

    call = Call("pay", {"amount": 9})
    played(guard, guard_agent(guard, agent("boss", [pay], [call])))
    assert till.paid == [9]
    assert [(one["tool"], one["call_id"] == call.id) for one in records(guard, "decision")] == [("pay", True), ("cash", False)]


# --- a human in the loop ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "code"), [("resumable", None), ("once", "replay_detected")])
def test_a_tool_that_waits_for_a_human(guard: Guard, name: str, code: str | None) -> None:
    """It is recorded as paused, and runs again from its beginning. That needs `rerun: safe`."""
    answers: list[str] = []

    async def asks(ctx: Context) -> str:
        """Asks a human."""
        event = await ctx.wait_for_event(HumanResponseEvent, waiter_event=InputRequiredEvent(prefix="may I?"))
        answers.append(event.response)
        return "went on"

    asks.__annotations__["ctx"] = Context
    boss = guard_agent(guard, agent("boss", [FunctionTool.from_defaults(async_fn=asks, name=name)], [Call(name, {})]))

    async def run() -> list[ToolCallResult]:
        async with guard.task("boss", initiator="user:test"):
            handler = boss.run(user_msg="go")
            found = []
            async for event in handler.stream_events():
                if isinstance(event, InputRequiredEvent):
                    handler.ctx.send_event(HumanResponseEvent(response="yes"))
                if isinstance(event, ToolCallResult):
                    found.append(event)
            await handler
            return found

    assert codes(asyncio.run(run())) == [code]
    assert answers == (["yes"] if code is None else [])
    assert [outcome["status"] for outcome in records(guard, "outcome")] == (["paused", "ok"] if code is None else ["paused"])


# --- what cannot be guarded ---------------------------------------------------------------------------------------------------------------


class Hosting(MockFunctionCallingLLM):
    built_in_tools: list[dict[str, Any]] = [{"type": "web_search_preview"}]  # noqa: RUF012  # a field


def test_tools_of_the_provider_are_refused(guard: Guard) -> None:
    boss = FunctionAgent(name="boss", tools=[Till().pay], llm=Hosting())
    for one in (boss, AgentWorkflow(agents=[boss])):
        with pytest.raises(InvalidInput, match="built_in_tools"):
            guard_agent(guard, one)
        guard_agent(guard, one, unsafe_provider_tools=True)


def test_what_another_guard_guards_is_refused(guard: Guard, tmp_path: Path) -> None:
    till = Till()
    boss = guard_agent(guard, agent("boss", guard_tools(guard, [till.pay]), [pay(11)]))
    assert guard_agent(guard, boss) is boss
    assert codes(played(guard, boss)) == ["argument_not_allowed"]
    with Guard.open(POLICY, home=tmp_path / "other", durability="process") as other:
        for refused in (lambda: guard_agent(other, boss), lambda: guard_tools(other, boss.tools)):
            with pytest.raises(InvalidInput, match="guarded by another guard"):
                refused()


def test_what_is_no_agent_is_refused(guard: Guard) -> None:
    with pytest.raises(InvalidInput, match="no agent of LlamaIndex"):
        guard_agent(guard, object())
