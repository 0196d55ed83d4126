"""Google ADK with GuardPlugin."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

pytest.importorskip("google.adk")

from google.adk.agents import SequentialAgent
from google.adk.agents.run_config import RunConfig, ToolThreadPoolConfig
from google.adk.code_executors.base_code_executor import BaseCodeExecutor
from google.adk.models.llm_response import LlmResponse
from google.adk.tools import google_search
from google.adk.tools.agent_tool import AgentTool
from google.adk.tools.base_tool import BaseTool
from google.adk.tools.base_toolset import BaseToolset
from google.adk.tools.function_tool import FunctionTool
from google.adk.tools.tool_context import ToolContext
from google.adk.workflow import START, Workflow
from google.genai import types
from pydantic import BaseModel

from agentguard import Denied, Guard, InvalidInput
from agentguard.testing import AdapterConformance, Call, Mode, Reply, Scene, records
from agentguard_adapters.google_adk import GuardPlugin, guard_tools
from support.google_adk_scripted import Conversation, agent, live_run, replies, rewriting, runner_of

POLICY = """
agentguard: 1
name: adk
agents:
  boss:
    tools:
      pay: {amount: {range: {max: 10}}}
      order: {item: {one_of: [{count: 9}]}}
      clerk: {request: {max_length: 5}}
      transfer_to_agent: {agent_name: {one_of: [clerk, stranger]}, transfer_reason: any}
      count: {upto: {range: {max: 3}}}
      remote_pay: {amount: {range: {max: 10}}}
      far_remote_pay: {amount: {range: {max: 10}}}
    delegates: {clerk: {depth: 1}, front-desk: {depth: 1}}
  clerk:
    tools: {pay: {amount: {range: {max: 3}}}, finish_task: {result: any}}
  front-desk:
    tools: {pay: {amount: {range: {max: 1}}}}
  stranger:
    tools: {pay: {amount: any}}
"""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """ADK logs each exception and each name that it does not know."""
    logger = logging.getLogger("google_adk")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    yield
    logger.setLevel(level)


def conversation(scene: Scene, mode: Mode) -> Conversation:
    """The scene's agent, guarded or, without a guard, the very same one."""
    options = {"before_tool_callback": rewriting(scene.rewrite)} if scene.rewrite is not None else {}
    plugins = [GuardPlugin(scene.guard, on_deny=scene.on_deny)] if scene.guard is not None else []
    return Conversation(runner_of(agent(scene.agent, scene.tools, *scene.steps, **options), *plugins), mode)


class TestGoogleAdk(AdapterConformance):
    out_of_reach: ClassVar[Mapping[str, str]] = {
        "run_async of a tool that no guard saw": "a guard is put into the tool object; another one over the same function is plain Python"
    }

    def run(self, scene: Scene, mode: Mode) -> list[Reply]:
        return replies(conversation(scene, mode).say(), scene.steps)

    async def arun(self, scene: Scene, mode: Mode) -> list[Reply]:
        return replies(await conversation(scene, mode).asay(), scene.steps)

    def twins(self, guard: Guard, tool: Callable[..., Any]) -> Mapping[str, Callable[[dict[str, Any]], Any]]:
        (made,) = guard_tools(guard, [FunctionTool(tool)], agent="lead")

        def by_callback(one: BaseTool) -> Callable[[dict[str, Any]], Any]:
            """A callback of the agent that runs a tool itself, in the place of ADK."""

            async def callback(tool: BaseTool, args: dict[str, Any], tool_context: ToolContext) -> Any:
                return {"ran": await one.run_async(args=args, tool_context=tool_context)}

            def way(arguments: dict[str, Any]) -> Any:
                caller = agent("lead", [made], [Call("note", arguments)], before_tool_callback=callback)
                return Conversation(runner_of(caller)).say()

            return way

        def in_runner(*plugins: Any, root: Callable[[Any], Any] = lambda lead: lead, **options: Any) -> Callable[[dict[str, Any]], Any]:
            def way(arguments: dict[str, Any]) -> Any:
                talk = Conversation(runner_of(root(agent("lead", [made], [Call("note", arguments)])), *plugins))
                talk.options["run_config"] = RunConfig(**options)
                return talk.say()

            return way

        def as_node(arguments: dict[str, Any]) -> Any:
            def arrive() -> dict[str, Any]:
                return arguments

            workflow = Workflow(name="lead", edges=[(START, arrive, FunctionTool(tool))])
            return Conversation(runner_of(workflow, GuardPlugin(guard))).say()

        return {
            "run_async of a tool that no guard saw": by_callback(FunctionTool(tool)),
            "run_async": by_callback(made),
            "func": lambda arguments: made.func(**arguments),
            "a runner without the plugin": in_runner(),
            "a runner with the plugin too": in_runner(GuardPlugin(guard)),
            "the pool of threads for tools": in_runner(GuardPlugin(guard), tool_thread_pool_config=ToolThreadPoolConfig()),
            "an agent below a sequential one": in_runner(root=lambda lead: SequentialAgent(name="all", sub_agents=[lead])),
            "a node of a workflow": as_node,
        }


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[Guard]:
    with Guard.open(POLICY, home=tmp_path / "home", durability="process") as opened:
        yield opened


class Till:
    """A tool that pays, and what it paid."""

    def __init__(self) -> None:
        self.paid: list[int] = []

    def pay(self, amount: int, tool_context: ToolContext) -> str:
        """Pays."""
        assert isinstance(tool_context, ToolContext)
        self.paid.append(amount)
        return f"paid {amount}"


def pay(amount: int) -> Call:
    return Call("pay", {"amount": amount})


def said(events: list[Any]) -> list[Any]:
    """What the models were told, in order."""
    answers = [response.response for event in events for response in event.get_function_responses()]
    return [answer.get("error", answer.get("result", answer)) for answer in answers]


def codes(events: list[Any]) -> list[str | None]:
    return [Reply(str(text)).code for text in said(events)]


def verdicts(guard: Guard) -> list[tuple[str, str, str]]:
    return [(record["agent"], record["tool"], record["verdict"]) for record in records(guard, "decision")]


# --- what the framework answers in the tool's place -----------------------------------------------------------------------------------


def test_what_only_the_framework_fills_in_may_not_be_presented(guard: Guard) -> None:
    till = Till()
    calls = [Call("pay", {"amount": 1, name: "x"}) for name in ("tool_context", "input_stream")]
    with guard.task("boss", initiator="user:test"):
        events = Conversation(runner_of(agent("boss", [till.pay], calls, [pay(1)]), GuardPlugin(guard))).say()
    assert codes(events) == ["malformed_call", "malformed_call", None]
    assert till.paid == [1]


def test_arguments_that_do_not_fit_are_recorded_and_told(guard: Guard) -> None:
    with guard.task("boss", initiator="user:test"):
        events = Conversation(runner_of(agent("boss", [Till().pay], [Call("pay", {})]), GuardPlugin(guard))).say()
    (text,) = said(events)
    assert text.startswith("Denied (malformed_call)")
    assert "amount" in text
    assert verdicts(guard) == [("boss", "pay", "deny")]


def test_a_name_that_the_model_made_up_is_recorded_and_told(guard: Guard) -> None:
    with guard.task("boss", initiator="user:test"):
        events = Conversation(runner_of(agent("boss", [Till().pay], [Call("steal", {"a": 1})], [pay(1)]), GuardPlugin(guard))).say()
    assert codes(events) == ["malformed_call", None]
    assert verdicts(guard) == [("boss", "steal", "deny"), ("boss", "pay", "allow")]


def test_a_callback_that_answers_in_the_place_of_the_tool_is_left_alone(guard: Guard) -> None:
    till = Till()
    caller = agent("boss", [till.pay], [pay(99)], before_tool_callback=lambda tool, args, tool_context: {"result": "from a cache"})
    with guard.task("boss", initiator="user:test"):
        assert said(Conversation(runner_of(caller, GuardPlugin(guard))).say()) == ["from a cache"]
    assert till.paid == []
    assert verdicts(guard) == []


def test_objects_that_the_schema_makes_are_judged_by_what_they_hold(guard: Guard) -> None:
    taken: list[Any] = []

    class Item(BaseModel):
        count: int

    def order(item: Item) -> str:
        """Orders."""
        taken.append(item)
        return "ordered"

    order.__annotations__["item"] = Item  # ADK resolves annotations by the module's names
    calls = [[Call("order", {"item": {"count": count}})] for count in (9, 11)]
    with guard.task("boss", initiator="user:test"):
        assert codes(Conversation(runner_of(agent("boss", [order], *calls), GuardPlugin(guard))).say()) == [None, "argument_not_allowed"]
    assert taken == [Item(count=9)]


# --- confirmation -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("needed", [True, lambda amount, tool_context: 1], ids=["always", "by ADK's second gate"])
@pytest.mark.parametrize(("amount", "confirmed", "told"), [(5, True, "paid 5"), (50, True, "Denied"), (5, False, "rejected")])
def test_a_human_confirms_first_and_the_guard_decides_then(guard: Guard, needed: Any, amount: int, confirmed: bool, told: str) -> None:
    till = Till()
    tool = FunctionTool(till.pay, require_confirmation=needed)
    talk = Conversation(runner_of(agent("boss", [tool], [pay(amount)]), GuardPlugin(guard)))
    with guard.task("boss", initiator="user:test"):
        events = talk.say()
        assert verdicts(guard) == []
        (request,) = [call for event in events for call in event.get_function_calls() if call.name == "adk_request_confirmation"]
        answer = types.FunctionResponse(id=request.id, name=request.name, response={"confirmed": confirmed})
        (text,) = said(talk.say(types.Content(role="user", parts=[types.Part(function_response=answer)])))
    assert told in text
    assert till.paid == ([5] if told == "paid 5" else [])
    assert [verdict for _, _, verdict in verdicts(guard)] == {"paid 5": ["allow"], "Denied": ["deny"], "rejected": []}[told]


# --- other agents -----------------------------------------------------------------------------------------------------------------------


def team(till: Till, mode: str, request: str = "do it") -> Any:
    """A boss whose clerk pays 3 and tries to pay 4: handed over to, called as a tool, or delegated to in ADK's three ways."""
    steps = [[pay(3), pay(4)]] + ([[Call("finish_task", {"result": "ok"})]] if mode == "task" else [])
    options = {} if mode in ("chat", "tool") else {"mode": mode}
    clerk = agent("clerk", [till.pay], *steps, **options)
    if mode == "tool":
        return agent("boss", [AgentTool(clerk)], [Call("clerk", {"request": request})])
    call = Call("transfer_to_agent", {"agent_name": "clerk"}) if mode == "chat" else Call("clerk", {"request": request})
    return agent("boss", [], [call], sub_agents=[clerk])


@pytest.mark.parametrize("mode", ["tool", "chat", "single_turn", "task"])
def test_the_next_agent_acts_under_a_narrower_task(guard: Guard, mode: str) -> None:
    till = Till()
    with guard.task("boss", initiator="user:test"):
        Conversation(runner_of(team(till, mode), GuardPlugin(guard))).say()
    assert till.paid == [3]
    outer = "transfer_to_agent" if mode == "chat" else "clerk"
    assert verdicts(guard)[:3] == [("boss", outer, "allow"), ("clerk", "pay", "allow"), ("clerk", "pay", "deny")]
    (link,) = records(guard, "delegation", agent="clerk")
    assert {record["artifact"] for record in records(guard, "decision", agent="clerk")} == {link["artifact"]}


@pytest.mark.parametrize("mode", ["tool", "single_turn", "task"])
def test_a_delegation_that_is_denied_starts_nobody_and_is_told(guard: Guard, mode: str) -> None:
    """ADK starts an agent of mode "task" by the mere request, past every tool callback."""
    till = Till()
    with guard.task("boss", initiator="user:test"):
        events = Conversation(runner_of(team(till, mode, "much too long"), GuardPlugin(guard))).say()
    assert codes(events) == ["argument_not_allowed"]
    assert events[-1].content.parts[0].text == "done"
    assert {event.author for event in events} == {"boss"}
    assert till.paid == []


def test_a_delegation_that_is_denied_may_be_raised(guard: Guard) -> None:
    till = Till()
    talk = Conversation(runner_of(team(till, "task", "much too long"), GuardPlugin(guard, on_deny="raise")))
    with guard.task("boss", initiator="user:test"), pytest.raises(Denied):
        talk.say()
    assert till.paid == []


def test_a_delegation_beside_another_call_is_judged_once(guard: Guard) -> None:
    till = Till()
    clerk = agent("clerk", [till.pay], [pay(3)], [Call("finish_task", {"result": "ok"})], mode="task")
    boss = agent("boss", [till.pay], [Call("clerk", {"request": "do"}), pay(7)], sub_agents=[clerk])
    with guard.task("boss", initiator="user:test"):
        Conversation(runner_of(boss, GuardPlugin(guard))).say()
    assert sorted(till.paid) == [3, 7]
    assert [record["verdict"] for record in records(guard, "decision", tool="clerk")] == ["allow"]


def test_a_transfer_that_is_denied_does_not_happen(guard: Guard) -> None:
    till = Till()
    thief = agent("thief", [till.pay], [pay(1)])
    boss = agent("boss", [], [Call("transfer_to_agent", {"agent_name": "thief"})], sub_agents=[thief])
    with guard.task("boss", initiator="user:test"):
        events = Conversation(runner_of(boss, GuardPlugin(guard))).say()
    assert codes(events) == ["argument_not_allowed"]
    assert {event.author for event in events} == {"boss"}
    assert till.paid == []


def test_a_transfer_to_an_agent_without_a_grant_gives_it_nothing(guard: Guard) -> None:
    till = Till()
    stranger = agent("stranger", [till.pay], [pay(1)])
    boss = agent("boss", [], [Call("transfer_to_agent", {"agent_name": "stranger"})], sub_agents=[stranger])
    with guard.task("boss", initiator="user:test"):
        assert codes(Conversation(runner_of(boss, GuardPlugin(guard))).say())[-1] == "delegation_not_allowed"
    assert till.paid == []


def test_an_agent_may_have_another_name_in_the_policy(guard: Guard) -> None:
    till = Till()
    desk = agent("front_desk", [till.pay], [pay(1), pay(2)])
    with guard.task("front-desk", initiator="user:test"):
        talk = Conversation(runner_of(desk, GuardPlugin(guard, names={"front_desk": "front-desk"})))
        assert codes(talk.say()) == [None, "argument_not_allowed"]
    assert till.paid == [1]


def test_runners_that_share_a_tool_do_not_share_authority(guard: Guard) -> None:
    """A tool object is guarded in place; by whose task it is called is each runner's own."""
    till = Till()
    tool = FunctionTool(till.pay)
    task = guard.task("boss", initiator="user:test").issue()
    assert codes(Conversation(runner_of(agent("boss", [tool], [pay(1)]), GuardPlugin(guard, task=task))).say()) == [None]
    assert codes(Conversation(runner_of(agent("boss", [tool], [pay(2)]), GuardPlugin(guard))).say()) == ["artifact_missing"]
    assert codes(Conversation(runner_of(agent("boss", [tool], [pay(3)]))).say()) == ["artifact_missing"]
    assert till.paid == [1]


def test_a_tool_of_another_guard_is_refused(guard: Guard, tmp_path: Path) -> None:
    tool = FunctionTool(Till().pay)
    guard_tools(guard, [tool])
    with (
        Guard.open(POLICY, home=tmp_path / "other", durability="process") as other,
        other.task("boss", initiator="user:test"),
        pytest.raises(RuntimeError, match="guarded by another guard"),
    ):
        Conversation(runner_of(agent("boss", [tool], [pay(1)]), GuardPlugin(other))).say()


# --- kinds of tools ---------------------------------------------------------------------------------------------------------------------


class Remote(BaseTool):
    """A tool that is more than a function."""

    def __init__(self, till: Till) -> None:
        super().__init__(name="remote_pay", description="Pays.")
        self.till = till

    def _get_declaration(self) -> Any:
        return types.FunctionDeclaration(name=self.name, description=self.description)

    async def run_async(self, *, args: dict[str, Any], tool_context: ToolContext) -> Any:
        return self.till.pay(**args, tool_context=tool_context)


class Remotes(BaseToolset):
    """A toolset that keeps its tools, and hands out copies under a prefix."""

    def __init__(self, tools: list[BaseTool], prefix: str | None) -> None:
        super().__init__(tool_name_prefix=prefix)
        self.tools = tools

    async def get_tools(self, readonly_context: Any = None) -> list[BaseTool]:
        return self.tools


def test_tools_that_are_more_than_a_function(guard: Guard) -> None:
    till = Till()
    calls = [[Call("remote_pay", {"amount": amount})] for amount in (9, 11)] + [[Call("remote_pay", {"amount": 1, "tool_context": {}})]]
    with guard.task("boss", initiator="user:test"):
        events = Conversation(runner_of(agent("boss", [Remote(till)], *calls), GuardPlugin(guard))).say()
    assert codes(events) == [None, "argument_not_allowed", "malformed_call"]
    assert till.paid == [9]


@pytest.mark.parametrize("kind", ["more than a function", "a function"])
def test_copies_that_a_toolset_makes_are_guarded_under_their_own_name(guard: Guard, kind: str) -> None:
    till = Till()
    tool = Remote(till) if kind == "more than a function" else FunctionTool(till.pay)
    tool.name = "remote_pay"
    with guard.task("boss", initiator="user:test"):
        for prefix, name in ((None, "remote_pay"), ("far", "far_remote_pay"), (None, "remote_pay")):
            calls = [[Call(name, {"amount": amount}) for amount in (9, 11)]]
            events = Conversation(runner_of(agent("boss", [Remotes([tool], prefix)], *calls), GuardPlugin(guard))).say()
            assert codes(events) == [None, "argument_not_allowed"]
    assert till.paid == [9, 9, 9]
    assert [record["tool"] for record in records(guard, "decision", verdict="allow")] == ["remote_pay", "far_remote_pay", "remote_pay"]


def test_a_subclass_that_runs_the_function_its_own_way_is_guarded_as_a_whole(guard: Guard) -> None:
    till = Till()

    class Retrying(FunctionTool):
        async def run_async(self, *, args: dict[str, Any], tool_context: ToolContext) -> Any:
            return till.pay(**args, tool_context=tool_context)

    with guard.task("boss", initiator="user:test"):
        events = Conversation(runner_of(agent("boss", [Retrying(till.pay)], [pay(9)], [pay(11)]), GuardPlugin(guard))).say()
    assert codes(events) == [None, "argument_not_allowed"]
    assert till.paid == [9]


def test_a_decorated_function_is_decided_once(guard: Guard) -> None:
    taken: list[int] = []

    @guard.tool
    def pay(amount: int) -> str:
        """Pays."""
        taken.append(amount)
        return "paid"

    calls = [[Call("pay", {"amount": 7})], [Call("pay", {"amount": 70})]]
    with guard.task("boss", initiator="user:test"):
        assert codes(Conversation(runner_of(agent("boss", [pay], *calls), GuardPlugin(guard))).say()) == [None, "argument_not_allowed"]
    assert taken == [7]
    assert [verdict for _, _, verdict in verdicts(guard)] == ["allow", "deny"]


def counters() -> tuple[list[int], list[Callable[..., Any]]]:
    """Tools that count, as a generator, an async one, and one with several items, which only live runs take; and what they counted."""
    counted: list[int] = []

    def tick(number: int) -> int:
        counted.append(number)
        return number

    def count(upto: int) -> Iterator[int]:
        """Counts."""
        yield sum(tick(number) for number in range(upto))

    async def acount(upto: int) -> AsyncGenerator[int, None]:
        """Counts."""
        yield sum([tick(number) for number in range(upto)])

    async def count_one_by_one(upto: int) -> AsyncGenerator[int, None]:
        """Counts."""
        for number in range(upto):
            yield tick(number)

    acount.__name__ = count_one_by_one.__name__ = "count"
    return counted, [count, acount, count_one_by_one]


@pytest.mark.parametrize("kind", [0, 1])
def test_generators(guard: Guard, kind: int) -> None:
    counted, tools = counters()
    calls = [[Call("count", {"upto": upto})] for upto in (4, 3)]
    with guard.task("boss", initiator="user:test"):
        events = Conversation(runner_of(agent("boss", [tools[kind]], *calls), GuardPlugin(guard))).say()
    assert codes(events)[0] == "argument_not_allowed"
    assert counted == [0, 1, 2]
    (outcome,) = records(guard, "outcome")
    assert outcome["status"] == "ok"


# --- live -------------------------------------------------------------------------------------------------------------------------------


def test_live_calls_and_streams(guard: Guard) -> None:
    """A stream begins in a task of its own, after ADK has answered that it is pending."""
    till = Till()
    counted, tools = counters()
    calls = [pay(9), pay(11), Call("count", {"upto": 4}), Call("count", {"upto": 3})]
    with guard.task("boss", initiator="user:test"):
        told = asyncio.run(live_run(runner_of(agent("boss", [till.pay, tools[2]], calls), GuardPlugin(guard)), answers=8))
    assert till.paid == [9]
    assert counted == [0, 1, 2]
    decisions = records(guard, "decision")
    assert {one["call_id"]: one["verdict"] for one in decisions} == {
        call.id: verdict for call, verdict in zip(calls, ("allow", "deny", "deny", "allow"), strict=True)
    }
    assert len(decisions) == len(calls)
    assert sum(text.startswith("{'error': 'Denied (argument_not_allowed)") for text in told) == 2


# --- what the guard does not see --------------------------------------------------------------------------------------------------------


class Executor(BaseCodeExecutor):
    def execute_code(self, invocation_context: Any, code_execution_input: Any) -> Any:
        raise AssertionError("nothing here writes code")


def unseen() -> dict[str, Any]:
    inner = agent("clerk", [])
    return {
        "google_search": agent("boss", [google_search], model_name="gemini-scripted"),
        "code executor": agent("boss", [], code_executor=Executor()),
        "leaves plugins out": agent("boss", [AgentTool(inner, include_plugins=False)]),
    }


@pytest.mark.parametrize("what", unseen())
def test_what_the_guard_does_not_see_is_refused(guard: Guard, what: str) -> None:
    with guard.task("boss", initiator="user:test"):
        with pytest.raises(RuntimeError, match=what) as caught:
            Conversation(runner_of(unseen()[what], GuardPlugin(guard))).say()
        assert isinstance(caught.value.__cause__, InvalidInput)
        events = Conversation(runner_of(unseen()[what], GuardPlugin(guard, unsafe_provider_tools=True))).say()
    assert events[-1].content.parts[0].text == "done"


# --- faults -----------------------------------------------------------------------------------------------------------------------------


def test_a_fault_in_the_plugin_stops_the_call(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    """ADK ends the run where a plugin's callback raises; the tool does not run."""
    till = Till()
    monkeypatch.setattr("agentguard_adapters.google_adk.guard_tool", lambda *args: 1 / 0)
    with guard.task("boss", initiator="user:test"), pytest.raises(RuntimeError, match="division by zero"):
        Conversation(runner_of(agent("boss", [till.pay], [pay(1)]), GuardPlugin(guard))).say()
    assert till.paid == []


def test_an_error_callback_cannot_undo_a_denial(guard: Guard) -> None:
    """ADK lets agents answer in the place of an exception: the model goes on, and the tool has not run."""
    till = Till()
    caller = agent("boss", [till.pay], [pay(99)], on_tool_error_callback=lambda tool, args, tool_context, error: {"result": "mended"})
    with guard.task("boss", initiator="user:test"):
        assert said(Conversation(runner_of(caller, GuardPlugin(guard, on_deny="raise"))).say()) == ["mended"]
    assert till.paid == []
    assert [verdict for _, _, verdict in verdicts(guard)] == ["deny"]


def test_models_that_do_not_say_ids_are_given_some(guard: Guard) -> None:
    till = Till()
    call = pay(1)
    caller = agent("boss", [till.pay], [call])

    async def without_ids(*args: Any, **kwargs: Any) -> AsyncGenerator[LlmResponse, None]:
        async for response in type(caller.model).generate_content_async(caller.model, *args, **kwargs):
            for part in response.content.parts:
                if part.function_call is not None:
                    part.function_call.id = None
            yield response

    object.__setattr__(caller.model, "generate_content_async", without_ids)
    with guard.task("boss", initiator="user:test"):
        Conversation(runner_of(caller, GuardPlugin(guard))).say()
    (decision,) = records(guard, "decision")
    assert decision["call_id"].startswith("adk-")
    assert till.paid == [1]
