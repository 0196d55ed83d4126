"""Haystack agents with GuardHook."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

pytest.importorskip("haystack")

from haystack import Pipeline
from haystack.components.agents import Agent
from haystack.components.agents.state.state import State
from haystack.components.builders import PromptBuilder
from haystack.dataclasses import ChatMessage
from haystack.hooks.human_in_the_loop import ConfirmationHook, ConfirmationUIResult
from haystack.hooks.human_in_the_loop.policies import AlwaysAskPolicy
from haystack.hooks.human_in_the_loop.strategies import BlockingConfirmationStrategy
from haystack.tools import AgentTool, ComponentTool, PipelineTool, SearchableToolset, Tool, Toolset, create_tool_from_function
from haystack.tools.errors import ToolInvocationError

from agentguard import Denied, Guard, InvalidInput
from agentguard.testing import AdapterConformance, Call, Mode, Reply, Scene, records
from agentguard_adapters.haystack import GuardHook, guard_agent, guard_tools
from support.haystack_scripted import GO, Rewriting, Scripted, agent, replies

POLICY = """
agentguard: 1
name: haystack
agents:
  boss:
    tools:
      pay: {amount: {range: {max: 10}}}
      cash: {amount: {range: {max: 10}}}
      ship: {amount: {range: {max: 10}}, to: {exact: house}}
      clerk: {messages: {one_of: [[{role: user, content: do it}]]}}
      fill: {word: {max_length: 5}}
      search_tools: {tool_keywords: any, k: any}
    delegates: {clerk: {depth: 1}}
  clerk:
    tools: {pay: {amount: {range: {max: 3}}}}
"""
AMOUNT = {"type": "object", "properties": {"amount": {"type": "integer"}}, "required": ["amount"]}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Haystack logs each error of a tool."""
    logger = logging.getLogger("haystack")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    yield
    logger.setLevel(level)


class TestHaystack(AdapterConformance):
    out_of_reach: ClassVar[Mapping[str, str]] = {
        "invoke of a tool that no guard saw": "a guard is put into the tool object; another one over the same function is plain Python"
    }

    def agent(self, scene: Scene) -> Any:
        hooks = [GuardHook(scene.guard, scene.agent, on_deny=scene.on_deny)] if scene.guard is not None else []
        behind = [Rewriting(scene.rewrite)] if scene.rewrite is not None else []
        return agent(scene.tools, *scene.steps, hooks={"before_tool": [*hooks, *behind]})

    def run(self, scene: Scene, mode: Mode) -> list[Reply]:
        options = {"streaming_callback": lambda chunk: None} if mode == "stream" else {}
        return replies(self.agent(scene).run(messages=GO, **options), scene.steps)

    async def arun(self, scene: Scene, mode: Mode) -> list[Reply]:
        async def hear(chunk: Any) -> None: ...

        options = {"streaming_callback": hear} if mode == "astream" else {}
        return replies(await self.agent(scene).run_async(messages=GO, **options), scene.steps)

    def twins(self, guard: Guard, tool: Callable[..., Any]) -> Mapping[str, Callable[[dict[str, Any]], Any]]:
        (made,) = guard_tools(guard, [tool], agent="lead")

        def lead(arguments: dict[str, Any], *tools: Any) -> Agent:
            return guard_agent(guard, agent(tools, [Call("note", arguments)]), agent="lead")

        def piped(arguments: dict[str, Any]) -> Any:
            pipeline = Pipeline()
            pipeline.add_component("agent", lead(arguments, made))
            return pipeline.run({"agent": {"messages": GO}})

        def raised(way: Callable[..., Any]) -> Callable[[dict[str, Any]], Any]:
            """A direct call: a denial is what has gone wrong in the tool."""

            def run(arguments: dict[str, Any]) -> Any:
                try:
                    return way(**arguments)
                except ToolInvocationError as error:
                    raise (error.__cause__ or error) from error

            return run

        return {
            "invoke of a tool that no guard saw": lambda arguments: create_tool_from_function(tool).invoke(**arguments),
            "function": lambda arguments: made.function(**arguments),
            "invoke": raised(made.invoke),
            "invoke_async": raised(lambda **arguments: asyncio.run(made.invoke_async(**arguments))),
            "a copy": raised(copy.copy(made).invoke),
            "a copy of its fields": raised(dataclasses.replace(made).invoke),
            "an agent without the hook": lambda arguments: agent([made], [Call("note", arguments)]).run(messages=GO),
            "tools of one run": lambda arguments: lead(arguments).run(messages=GO, tools=[create_tool_from_function(tool)]),
            "tools named for one run": lambda arguments: lead(arguments, tool).run(messages=GO, tools=["note"]),
            "a toolset": lambda arguments: lead(arguments, Toolset([create_tool_from_function(tool)])).run(messages=GO),
            "a clone of the agent": lambda arguments: lead(arguments, tool).clone(system_prompt="hi").run(messages=GO),
            "a pipeline": piped,
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


def pay(amount: Any) -> Call:
    return Call("pay", {"amount": amount})


def ways(guard: Guard, make: Callable[[], Agent], **options: Any) -> list[dict[str, Any]]:
    """The results of two runs of an agent, sync and async, each within a task of its own."""
    found = []
    for run in (lambda made: made.run(messages=GO, **options), lambda made: asyncio.run(made.run_async(messages=GO, **options))):
        with guard.task("boss", initiator="user:test"):
            found.append(run(make()))
    return found


def codes(result: dict[str, Any]) -> list[str | None]:
    return [Reply(str(message.tool_call_result.result)).code for message in result["messages"] if message.tool_call_result]


def verdicts(guard: Guard) -> list[tuple[str, str, str]]:
    return [(record["agent"], record["tool"], record["verdict"]) for record in records(guard, "decision")]


def boss(guard: Guard, tools: list[Any], *steps: list[Call], **options: Any) -> Agent:
    return guard_agent(guard, agent(tools, *steps, **options), agent="boss")


# --- the call and its id ------------------------------------------------------------------------------------------------------------------


def test_calls_of_one_step_keep_their_ids(guard: Guard) -> None:
    """A tool does not learn the id of its call: it is found by the arguments, and two that are alike get one each."""
    calls = [pay(amount) for amount in (1, 2, 2, 11)]
    for result in ways(guard, lambda: boss(guard, [Till().pay], calls)):
        assert codes(result) == [None, None, None, "argument_not_allowed"]
    for seen in (records(guard, "decision")[:4], records(guard, "decision")[4:]):
        assert {one["call_id"] for one in seen} == {call.id for call in calls}
        assert [one["call_id"] for one in seen if one["verdict"] == "deny"] == [calls[3].id]


class Reverses:
    """A hook that changes the order of calls."""

    def run(self, state: Any) -> None:
        *before, last = state.data["messages"]
        state.data["messages"] = [*before, ChatMessage.from_assistant(tool_calls=last.tool_calls[::-1])]


def test_calls_in_another_order_keep_their_ids(guard: Guard) -> None:
    calls = [pay(11), pay(1), pay(2)]
    hooks = {"before_tool": [GuardHook(guard, "boss"), Reverses()]}
    ways(guard, lambda: agent([Till().pay], calls, hooks=hooks))
    for seen in (records(guard, "decision")[:3], records(guard, "decision")[3:]):
        assert [one["call_id"] for one in seen if one["verdict"] == "deny"] == [calls[0].id]


def test_a_name_that_the_model_made_up_is_recorded_and_told(guard: Guard) -> None:
    """Beside calls that are allowed, and alone."""
    till = Till()
    steal = [Call("steal", {"a": 1}) for _ in range(2)]
    for result in ways(guard, lambda: boss(guard, [till.pay], [steal[0], pay(1)], [steal[1]])):
        assert codes(result) == ["malformed_call", None, "malformed_call"]
        assert "The tools are: pay." in result["messages"][2].tool_call_result.result
        assert result["messages"][-1].text == "done"
    assert till.paid == [1, 1]
    assert verdicts(guard) == [("boss", "steal", "deny"), ("boss", "pay", "allow"), ("boss", "steal", "deny")] * 2


class Hides:
    """A hook that shows nobody the tools of the step, which Haystack runs all the same."""

    def run(self, state: Any) -> None:
        state.data["tools"] = []


def test_a_tool_that_was_hidden_from_the_guard_does_not_run(guard: Guard) -> None:
    till = Till()
    hooks = {"before_tool": [Hides(), GuardHook(guard, "boss")]}
    for result in ways(guard, lambda: agent([till.pay], [pay(1)], hooks=hooks)):
        assert codes(result) == ["malformed_call"]
    assert till.paid == []


def test_arguments_that_do_not_fit_are_recorded_and_told(guard: Guard) -> None:
    for result in ways(guard, lambda: boss(guard, [Till().pay], [Call("pay", {})], [Call("pay", {"amount": 1, "as_admin": True})])):
        assert codes(result) == ["malformed_call", "malformed_call"]
        assert all(message.tool_call_result.error for message in result["messages"] if message.tool_call_result)


def test_a_hook_that_fails_ends_the_run(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    till = Till()
    monkeypatch.setattr("agentguard_adapters.haystack.guard_tool", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ways(guard, lambda: boss(guard, [till.pay], [pay(1)]))
    assert till.paid == []


def test_an_agent_that_raises_what_goes_wrong_raises_denials(guard: Guard) -> None:
    till = Till()
    with pytest.raises(ToolInvocationError, match="argument_not_allowed") as caught:
        ways(guard, lambda: boss(guard, [till.pay], [pay(11)], raise_on_tool_invocation_failure=True))
    assert isinstance(caught.value.__cause__, Denied)
    assert till.paid == []


def test_what_an_agent_announced_is_over_when_its_run_failed(guard: Guard) -> None:
    """Even while somebody holds the exception, and with it the run."""
    till = Till()
    tool = create_tool_from_function(till.pay)
    made = agent([tool], [pay(11), pay(3)], hooks={"before_tool": [GuardHook(guard, "clerk"), Renames()]})
    with guard.task("boss", initiator="user:test"):
        made.raise_on_tool_invocation_failure = True
        with pytest.raises(Exception, match="cash") as caught:
            made.run(messages=GO)
        tool.invoke(amount=9)
    assert caught.value.__traceback__ is not None
    assert verdicts(guard) == [("boss", "pay", "allow")]


def test_a_direct_call_may_raise_the_denial_itself(guard: Guard) -> None:
    till = Till()
    (tool,) = guard_tools(guard, [till.pay], on_deny="raise")
    with guard.task("boss", initiator="user:test"), pytest.raises(Denied):
        tool.invoke(amount=11)
    assert till.paid == []


def test_a_denied_tool_does_not_end_the_run_and_writes_no_state(guard: Guard) -> None:
    till = Till()
    tool = create_tool_from_function(till.pay, outputs_to_state={"receipt": {}})
    schema = {"receipt": {"type": dict}}
    for result in ways(guard, lambda: boss(guard, [tool], [pay(11)], exit_conditions=["text", "pay"], state_schema=schema)):
        assert result["exit_reason"] == "text"
        assert "receipt" not in result
    assert till.paid == []


# --- what Haystack fills in ---------------------------------------------------------------------------------------------------------------


def test_only_the_framework_fills_in_the_state(guard: Guard) -> None:
    till = Till()

    def spend(amount: int, state: State, streaming_callback: Any = None) -> str:
        """Pays."""
        assert isinstance(state, State)
        return till.pay(amount)

    tool = Tool(name="pay", description="Pays.", parameters=AMOUNT, function=spend)
    forged = [Call("pay", {"amount": 1, name: {"a": 1}}) for name in ("state", "streaming_callback")]
    for result in ways(guard, lambda: boss(guard, [tool], [pay(9), *forged])):
        assert codes(result) == [None, "malformed_call", "malformed_call"]
    assert till.paid == [9, 9]
    with guard.task("boss", initiator="user:test"), pytest.raises(ToolInvocationError, match="malformed_call"):
        tool.invoke(amount=1, state={"a": 1})


def test_what_comes_from_the_state_is_judged_with_what_replaces_it(guard: Guard) -> None:
    """Haystack lets a model overwrite such an argument, although it does not show it."""
    shipped: list[str] = []

    class Yard:
        def ship(self, amount: int, to: str) -> str:
            """Ships."""
            shipped.append(to)
            return "shipped"

    tool = create_tool_from_function(Yard().ship, inputs_from_state={"address": "to"})
    calls = [Call("ship", {"amount": 1}), Call("ship", {"amount": 1, "to": "eve"})]
    schema = {"address": {"type": str}}
    for result in ways(guard, lambda: boss(guard, [tool], calls, state_schema=schema), address="house"):
        assert codes(result) == [None, "argument_not_allowed"]
    assert shipped == ["house", "house"]


# --- kinds of tools -----------------------------------------------------------------------------------------------------------------------


def test_a_function_with_an_async_form(guard: Guard) -> None:
    """Each way of running takes its own form; both are one tool."""
    till = Till()
    tool = Tool(name="pay", description="Pays.", parameters=AMOUNT, function=till.pay, async_function=till.apay)
    for result in ways(guard, lambda: boss(guard, [tool], [pay(9)], [pay(11)])):
        assert codes(result) == [None, "argument_not_allowed"]
    assert till.paid == [9, 9]
    with guard.task("boss", initiator="user:test"):
        for way in (tool.function, lambda **arguments: asyncio.run(tool.async_function(**arguments))):
            with pytest.raises(Denied):
                way(amount=11)
    assert till.paid == [9, 9]


class Overrides(Tool):
    """A tool that is invoked in a way of its own, and whose async way is made of the other."""

    def invoke(self, **kwargs: Any) -> Any:
        return self.function(**kwargs) + "!"  # type: ignore[misc]  # it has one

    async def invoke_async(self, **kwargs: Any) -> Any:
        await asyncio.sleep(0)
        return self.invoke(**kwargs)


def test_a_tool_that_overrides_invoke_is_guarded_as_a_whole(guard: Guard) -> None:
    till = Till()
    tool = Overrides(name="pay", description="Pays.", parameters=AMOUNT, function=till.pay)
    for result in ways(guard, lambda: boss(guard, [tool], [pay(9)], [pay(11)])):
        assert codes(result) == [None, "argument_not_allowed"]
        assert result["messages"][2].tool_call_result.result == "paid 9!"
    assert till.paid == [9, 9]
    assert [verdict for _, _, verdict in verdicts(guard)] == ["allow", "deny"] * 2


def test_a_tool_that_invokes_itself_with_other_arguments_makes_another_call(guard: Guard) -> None:
    till = Till()

    class More(Overrides):
        async def invoke_async(self, **kwargs: Any) -> Any:
            return self.invoke(amount=kwargs["amount"] + 2)

    tool = More(name="pay", description="Pays.", parameters=AMOUNT, function=till.pay)
    with guard.task("boss", initiator="user:test"):
        assert codes(asyncio.run(boss(guard, [tool], [pay(8)], [pay(9)]).run_async(messages=GO))) == [None, "argument_not_allowed"]
    assert till.paid == [10]
    assert [verdict for _, _, verdict in verdicts(guard)] == ["allow", "allow", "allow", "deny"]


def test_components_and_pipelines_as_tools(guard: Guard) -> None:
    pipeline = Pipeline()
    pipeline.add_component("builder", PromptBuilder("hello {{word}}", required_variables=["word"]))
    tools = [
        lambda: ComponentTool(PromptBuilder("hello {{word}}", required_variables=["word"]), name="fill"),
        lambda: PipelineTool(pipeline, name="fill", description="Fills.", input_mapping={"word": ["builder.word"]}),
    ]
    for tool in tools:
        calls = [Call("fill", {"word": word}) for word in ("world", "worlds")]
        with Guard.open(POLICY, home=guard.home.path.parent / str(id(tool)), durability="process") as own:
            for result in ways(own, lambda tool=tool, calls=calls, own=own: boss(own, [tool()], *[[call] for call in calls])):
                assert codes(result) == [None, "argument_not_allowed"]
                assert "hello world" in str(result["messages"][2].tool_call_result.result)


def test_tools_that_are_found_later_are_guarded(guard: Guard) -> None:
    till = Till()
    catalog = [create_tool_from_function(till.pay, name=name) for name in ("pay", "cash")]

    def make() -> Agent:
        toolset = SearchableToolset(catalog=catalog, search_threshold=1)
        return guard_agent(
            guard,
            Agent(
                chat_generator=Scripted(
                    [Call("search_tools", {"tool_keywords": "cash"})], [Call("cash", {"amount": 11})], [Call("cash", {"amount": 9})]
                ),
                tools=toolset,
            ),
            agent="boss",
        )

    for result in ways(guard, make):
        assert codes(result) == [None, "argument_not_allowed", None]
    assert till.paid == [9, 9]


def test_copies_under_another_name_are_guarded_under_that(guard: Guard) -> None:
    till = Till()
    tool = create_tool_from_function(till.pay)
    ways(guard, lambda: boss(guard, [tool], [pay(9)]))
    other = copy.copy(tool)
    other.name = "cash"
    for result in ways(guard, lambda: boss(guard, [other], [Call("cash", {"amount": 9})], [Call("cash", {"amount": 11})])):
        assert codes(result) == [None, "argument_not_allowed"]
    assert [tool for _, tool, _ in verdicts(guard)] == ["pay", "pay", "cash", "cash", "cash", "cash"]


def test_a_decorated_function_is_decided_once(guard: Guard) -> None:
    till = Till()

    @guard.tool
    def pay(amount: int) -> str:
        """Pays."""
        return till.pay(amount)

    calls = [Call("till", {"amount": amount}) for amount in (7, 70)]
    (result, _) = ways(guard, lambda: boss(guard, [create_tool_from_function(pay, name="till")], *[[call] for call in calls]))
    assert codes(result) == [None, "argument_not_allowed"]
    assert till.paid == [7, 7]
    found = [(one["tool"], one["verdict"], one["call_id"]) for one in records(guard, "decision")]
    assert found == [("pay", "allow", calls[0].id), ("pay", "deny", calls[1].id)] * 2


# --- several agents -----------------------------------------------------------------------------------------------------------------------


def test_an_agent_as_a_tool_acts_under_a_narrower_task(guard: Guard) -> None:
    till = Till()

    def make() -> Agent:
        clerk = guard_agent(guard, agent([till.pay], [pay(3), pay(4)]), agent="clerk")
        steps = [[Call("clerk", {"messages": [{"role": "user", "content": words}]})] for words in ("do it", "do more")]
        return boss(guard, [AgentTool(clerk, name="clerk", description="Pays.")], *steps)

    for result in ways(guard, make):
        assert codes(result) == [None, "argument_not_allowed"]
    assert till.paid == [3, 3]
    one_run = [("boss", "clerk", "allow"), ("boss", "clerk", "deny"), ("clerk", "pay", "allow"), ("clerk", "pay", "deny")]
    assert sorted(verdicts(guard)) == sorted(one_run * 2)
    links = {link["artifact"] for link in records(guard, "delegation", agent="clerk")}
    assert {record["artifact"] for record in records(guard, "decision", agent="clerk")} == links


def test_an_agent_as_a_tool_without_a_guard_is_refused(guard: Guard) -> None:
    """Its tools would run: hooks of the outer agent do not reach them."""
    till = Till()
    pipeline = Pipeline()
    pipeline.add_component("agent", agent([till.pay], [pay(99)]))
    for tool in (
        AgentTool(agent([till.pay], [pay(99)]), name="clerk", description="Pays."),
        PipelineTool(pipeline, name="clerk", description="Pays."),
    ):
        with pytest.raises(InvalidInput, match="is not guarded"):
            ways(guard, lambda tool=tool: boss(guard, [tool], [Call("clerk", {"messages": [{"role": "user", "content": "do it"}]})]))
    assert till.paid == []


def test_agents_that_share_a_tool_do_not_share_authority(guard: Guard) -> None:
    till = Till()
    tool = create_tool_from_function(till.pay)
    task = guard.task("boss", initiator="user:test").issue()
    assert codes(guard_agent(guard, agent([tool], [pay(1)]), agent="boss", task=task).run(messages=GO)) == [None]
    assert codes(boss(guard, [tool], [pay(2)]).run(messages=GO)) == ["artifact_missing"]
    assert codes(agent([tool], [pay(3)]).run(messages=GO)) == ["artifact_missing"]
    assert till.paid == [1]


class Renames:
    """A hook that puts calls of another tool in the place of those that were asked for."""

    def run(self, state: Any) -> None:
        *before, last = state.data["messages"]
        calls = [dataclasses.replace(call, tool_name="cash") for call in last.tool_calls]
        state.data["messages"] = [*before, ChatMessage.from_assistant(tool_calls=calls)]


def test_a_call_that_another_hook_puts_in_is_the_same_agents(guard: Guard) -> None:
    """It was not announced, and must not run by the authority of the agent further out."""
    till = Till()
    tools = [till.pay, create_tool_from_function(till.pay, name="cash")]
    for result in ways(guard, lambda: agent(tools, [pay(9)], hooks={"before_tool": [GuardHook(guard, "clerk"), Renames()]})):
        assert codes(result) == ["tool_not_in_scope"]
    assert till.paid == []
    assert {(agent, tool, verdict) for agent, tool, verdict in verdicts(guard)} == {("clerk", "cash", "deny")}


def test_what_an_agent_announced_is_over_with_its_run(guard: Guard) -> None:
    """A call that a human rejected is not taken later by somebody else."""
    till = Till()
    strategy = BlockingConfirmationStrategy(confirmation_policy=AlwaysAskPolicy(), confirmation_ui=Says("reject"))  # type: ignore[arg-type]
    tool = create_tool_from_function(till.pay)
    call = pay(3)
    made = agent([tool], [call], hooks={"before_tool": [GuardHook(guard, "clerk"), ConfirmationHook({"*": strategy})]})
    with guard.task("boss", initiator="user:test"):
        made.run(messages=GO)
        assert verdicts(guard) == []
        tool.invoke(amount=3)
    assert [(one["agent"], one["call_id"] == call.id) for one in records(guard, "decision")] == [("boss", False)]


# --- a human in the loop ------------------------------------------------------------------------------------------------------------------


class Says:
    """A human who answers always the same."""

    def __init__(self, action: str, amount: int = 0) -> None:
        self.answer = ConfirmationUIResult(action=action, new_tool_params={"amount": amount} if amount else None)

    def get_user_confirmation(self, *args: Any) -> ConfirmationUIResult:
        return self.answer


@pytest.mark.parametrize("guard_first", [True, False])
@pytest.mark.parametrize(
    ("answer", "code", "paid"), [(("modify", 8), None, 8), (("modify", 80), "argument_not_allowed", 0), (("reject",), None, 0)]
)
def test_a_human_may_change_the_call_and_the_change_is_judged(
    guard: Guard, guard_first: bool, answer: Any, code: str | None, paid: int
) -> None:
    till = Till()
    strategy = BlockingConfirmationStrategy(confirmation_policy=AlwaysAskPolicy(), confirmation_ui=Says(*answer))  # type: ignore[arg-type]
    hooks = [GuardHook(guard, "boss"), ConfirmationHook({"*": strategy})]
    for result in ways(guard, lambda: agent([till.pay], [pay(3)], hooks={"before_tool": hooks if guard_first else hooks[::-1]})):
        assert codes(result) == [code]
    assert till.paid == [paid] * 2 if paid else till.paid == []
    assert len(verdicts(guard)) == (0 if answer == ("reject",) else 2)


# --- what cannot be guarded ---------------------------------------------------------------------------------------------------------------


def test_tools_of_the_provider_are_refused(guard: Guard) -> None:
    for name, value in (("tools", [{"type": "web_search"}]), ("generation_kwargs", {"tools": [{"type": "web_search"}]})):
        made = agent([Till().pay])
        setattr(made.chat_generator, name, value)
        with pytest.raises(InvalidInput, match="model's provider"):
            guard_agent(guard, made, agent="boss")
        guard_agent(guard, made, agent="boss", unsafe_provider_tools=True)


def test_a_guard_cannot_be_written_out(guard: Guard) -> None:
    """What is read back would have no guard."""
    with pytest.raises(InvalidInput, match="written out"):
        boss(guard, []).to_dict()
    with pytest.raises(InvalidInput, match="from a file"):
        GuardHook.from_dict({})


def test_what_is_guarded_already_or_is_no_agent_is_refused(guard: Guard, tmp_path: Path) -> None:
    till = Till()
    tool = create_tool_from_function(till.pay)
    made = boss(guard, [tool], [pay(1)])
    with pytest.raises(InvalidInput, match="already"):
        guard_agent(guard, made, agent="clerk")
    with pytest.raises(InvalidInput, match="no Agent of Haystack"):
        guard_agent(guard, ChatMessage.from_user("hi"), agent="boss")
    guard_tools(guard, [tool])
    with Guard.open(POLICY, home=tmp_path / "other", durability="process") as other, pytest.raises(InvalidInput, match="another guard"):
        ways(other, lambda: boss(other, [tool], [pay(1)]))
    assert till.paid == []
