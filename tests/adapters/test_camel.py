"""CAMEL with guard_agent and guard_tools."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

pytest.importorskip("camel")

from camel.toolkits import BaseToolkit, FunctionTool
from pydantic import BaseModel

from agentguard import Denied, Guard, InvalidInput
from agentguard.testing import AdapterConformance, Call, Mode, Reply, Scene, records
from agentguard_adapters.camel import guard_agent, guard_tools
from support.camel_scripted import agent_of, replies, told

pytestmark = pytest.mark.filterwarnings("ignore")


class TestCamel(AdapterConformance):
    out_of_reach: ClassVar[Mapping[str, str]] = {
        "the tool object that was given": "whoever holds it can call it: the agent has a guarded copy in its place"
    }

    def agent(self, scene: Scene, mode: Mode) -> Any:
        stream = mode in ("stream", "astream")
        agent = agent_of(*scene.steps, tools=scene.tools, stream=stream, rewrite=scene.rewrite)
        return agent if scene.guard is None else guard_agent(scene.guard, agent, agent=scene.agent, on_deny=scene.on_deny)

    def run(self, scene: Scene, mode: Mode) -> list[Reply]:
        agent = self.agent(scene, mode)
        answer = agent.step("go")
        if mode == "stream":
            list(answer)
        return replies(agent, scene.steps)

    async def arun(self, scene: Scene, mode: Mode) -> list[Reply]:
        agent = self.agent(scene, mode)
        answer = await agent.astep("go")
        if mode == "astream":
            _ = [chunk async for chunk in answer]
        return replies(agent, scene.steps)

    def twins(self, guard: Guard, tool: Callable[..., Any]) -> Mapping[str, Callable[[dict[str, Any]], Any]]:
        made = FunctionTool(tool)
        (guarded,) = guard_tools(guard, [made], agent="lead", on_deny="raise")

        def agent(arguments: dict[str, Any], **options: Any) -> Any:
            return guard_agent(guard, agent_of([Call("note", arguments)], tools=[made], **options), agent="lead")

        def added(arguments: dict[str, Any]) -> Any:
            late = guard_agent(guard, agent_of([Call("note", arguments)]), agent="lead")
            late.add_tool(made)
            return late.step("go")

        def slipped_in(arguments: dict[str, Any]) -> Any:
            late = guard_agent(guard, agent_of([Call("note", arguments)]), agent="lead")
            late._internal_tools["note"] = made
            return late.step("go")

        return {
            "the tool object that was given": lambda arguments: made(**arguments),
            "call": lambda arguments: guarded(**arguments),
            "call by position": lambda arguments: guarded(*arguments.values()),
            "async_call": lambda arguments: asyncio.run(guarded.async_call(**arguments)),
            "func": lambda arguments: guarded.func(**arguments),
            "an agent's tool": lambda arguments: agent({})._internal_tools["note"].func(**arguments),
            "a tool made of its function": lambda arguments: FunctionTool(guarded.func).func(**arguments),
            "a clone": lambda arguments: agent(arguments).clone().step("go"),
            "a clone of a clone": lambda arguments: agent(arguments).clone().clone(with_memory=True).step("go"),
            "without a timeout": lambda arguments: agent(arguments, step_timeout=None).step("go"),
            "add_tool": added,
            "slipped in": slipped_in,
        }


POLICY = """
agentguard: 1
name: camel
agents:
  boss:
    tools: {pay: {amount: {range: {max: 10}}}, ask_clerk: {}, order: {item: any}}
    delegates: {clerk: {depth: 1}}
  clerk:
    tools: {pay: {amount: {range: {max: 5}}}}
"""
WAYS = ["step", "stream", "astep", "astream"]


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[Guard]:
    with Guard.open(POLICY, home=tmp_path / "home", durability="process") as opened:
        yield opened


taken: list[int] = []


@pytest.fixture(autouse=True)
def _nothing_taken() -> None:
    taken.clear()


def pay(amount: int) -> str:
    """Pays.

    Args:
        amount (int): How much.
    """
    taken.append(amount)
    return f"paid {amount}"


def paying(*amounts: Any) -> list[list[Call]]:
    return [[Call("pay", {"amount": amount})] for amount in amounts]


def go(way: str, agent: Any) -> list[str]:
    """Run an agent, and what it was told."""
    if way in ("step", "stream"):
        answer = agent.step("go")
        _ = list(answer) if way == "stream" else None
    else:

        async def run() -> None:
            answer = await agent.astep("go")
            _ = [chunk async for chunk in answer] if way == "astream" else None

        asyncio.run(run())
    return [text for _, text in told(agent)]


def agent(way: str, *steps: Any, **options: Any) -> Any:
    return agent_of(*steps, stream="stream" in way, **options)


def codes(guard: Guard, name: str | None = None) -> list[str]:
    found = records(guard, "decision") if name is None else records(guard, "decision", agent=name)
    return [one["code"] if one["verdict"] != "allow" else "allow" for one in found]


@pytest.mark.parametrize("way", WAYS)
def test_what_camel_refuses_is_recorded_and_told(guard: Guard, way: str) -> None:
    """A tool that nobody knows, arguments that are no object, surplus ones: in streams CAMEL leaves some without an answer."""
    calls = [[Call("delete_all", {"x": 1})], [Call("pay", {"amount": 1, "as_admin": True})]]
    with guard.task("boss", initiator="user:test"):
        heard = go(way, guard_agent(guard, agent(way, *calls, tools=[pay]), agent="boss"))
        assert "not found" in heard[0]
        assert "Denied (malformed_call)" in heard[1]
        if "stream" in way:  # without one, CAMEL reads the arguments before it looks for the tool, and fails
            (text,) = go(way, guard_agent(guard, agent(way, [Call("pay", {"raw": "[1]"})], tools=[pay]), agent="boss"))
            assert "Denied (malformed_call)" in text
    assert taken == []
    assert set(codes(guard)) == {"malformed_call"}


class Item(BaseModel):
    """What is ordered."""

    name: str
    pieces: int = 1


@pytest.mark.parametrize("way", WAYS)
def test_arguments_are_checked_as_coerced(guard: Guard, way: str) -> None:
    """CAMEL makes models of dictionaries, and refuses what does not fit before the tool is reached."""

    ordered: list[Item] = []

    def order(item: Item) -> str:
        """Orders.

        Args:
            item (Item): What.
        """
        ordered.append(item)
        return "ordered"

    order.__annotations__["item"] = Item  # CAMEL reads annotations as they stand

    calls = [[Call("order", {"item": {"name": "pen"}})], [Call("order", {"item": {"pieces": "many"}})]]
    with guard.task("boss", initiator="user:test"):
        heard = go(way, guard_agent(guard, agent(way, *calls, tools=[order]), agent="boss"))
    assert ordered == [Item(name="pen")]
    assert codes(guard) == ["allow", "malformed_call"]
    assert "Denied (malformed_call)" in heard[1]


@pytest.mark.parametrize("way", WAYS)
def test_a_denial_is_not_masked_as_a_success(guard: Guard, way: str) -> None:
    """With `mask_tool_output` CAMEL says that the tool ran, whatever it returned: so a denial is none of its outputs."""
    with guard.task("boss", initiator="user:test"):
        heard = go(way, guard_agent(guard, agent(way, *paying(70, 7), tools=[pay], mask_tool_output=True), agent="boss"))
    assert "Denied (argument_not_allowed)" in heard[0]
    assert heard[1] == "[MASKED]"
    assert taken == [7]


@pytest.mark.parametrize("way", WAYS)
def test_a_denial_ends_the_run(guard: Guard, way: str) -> None:
    """In streams CAMEL swallows what a call raises."""
    with guard.task("boss", initiator="user:test"), pytest.raises(Denied):
        go(way, guard_agent(guard, agent(way, *paying(70, 7), tools=[pay]), agent="boss", on_deny="raise"))
    assert taken == []


@pytest.mark.parametrize("way", WAYS)
def test_an_agent_in_a_tool_acts_under_a_narrower_task(guard: Guard, way: str) -> None:
    clerk = guard_agent(guard, agent(way, *paying(7, 5), tools=[pay]), agent="clerk", on_deny="message")

    def ask_clerk() -> str:
        """Asks the clerk."""
        if way in ("step", "stream"):
            answer = clerk.step("go")
            return str(len(list(answer)) if way == "stream" else answer.msg.content)
        return str(go(way, clerk))

    with guard.task("boss", initiator="user:test"):
        go(way, guard_agent(guard, agent(way, [Call("ask_clerk", {})], tools=[ask_clerk]), agent="boss"))
    assert taken == [5]
    (outer,) = records(guard, "decision", agent="boss")
    assert codes(guard, "clerk") == ["argument_not_allowed", "allow"]
    assert {one["caused_by"] for one in records(guard, "decision", agent="clerk")} == {outer["id"]}


@pytest.mark.parametrize("way", WAYS)
def test_a_denial_of_an_inner_agent_is_its_own(guard: Guard, way: str) -> None:
    """An agent inside a streamed call ends at its own denial, and not at the end of the outer one's step."""
    clerk = guard_agent(guard, agent("step", *paying(7, 5), tools=[pay]), agent="clerk", on_deny="raise")

    def ask_clerk() -> str:
        """Asks the clerk."""
        try:
            clerk.step("go")
        except Denied:
            return "it was denied"
        return "it went on"

    with guard.task("boss", initiator="user:test"):
        heard = go(way, guard_agent(guard, agent(way, [Call("ask_clerk", {})], tools=[ask_clerk]), agent="boss", on_deny="raise"))
    assert heard == ["it was denied"]
    assert taken == []


def test_async_and_sync_tools_get_the_context(guard: Guard) -> None:
    """CAMEL runs sync tools of async agents, and async tools of sync agents, in threads that know nothing."""

    async def pay(amount: int) -> str:
        """Pays.

        Args:
            amount (int): How much.
        """
        await asyncio.sleep(0)
        taken.append(amount)
        return f"paid {amount}"

    async def within_a_loop() -> str:
        return str(guard_tools(guard, [pay], agent="boss")[0](amount=4))

    with guard.task("boss", initiator="user:test"):
        for way in WAYS:
            assert "paid 3" in go(way, guard_agent(guard, agent(way, *paying(3), tools=[pay]), agent="boss"))[0]
        assert asyncio.run(within_a_loop()) == "paid 4"
    assert taken == [3, 3, 3, 3, 4]


class Till(BaseToolkit):
    """A toolkit that CAMEL clones with the agent."""

    def __init__(self, name: str = "first") -> None:
        super().__init__()
        self.name = name

    def pay(self, amount: int) -> str:
        """Pays.

        Args:
            amount (int): How much.
        """
        taken.append(amount)
        return f"paid {amount} from {self.name}"

    def clone_for_new_session(self, session: str) -> Till:
        return Till("another")


def test_a_clone_has_a_toolkit_of_its_own_and_is_guarded(guard: Guard) -> None:
    boss = guard_agent(guard, agent("step", *paying(7), tools=[FunctionTool(Till().pay)]), agent="boss")
    clone = boss.clone()
    assert clone.model_backend is not boss.model_backend
    with guard.task("boss", initiator="user:test"):
        assert go("step", clone) == ["paid 7 from another"]
        clone.model_backend.current_model.steps.extend(paying(70))
        assert "Denied (argument_not_allowed)" in go("step", clone)[-1]
    assert taken == [7]


@pytest.mark.parametrize("way", WAYS)
def test_functions_with_an_async_twin(guard: Guard, way: str) -> None:
    """CAMEL's tools over MCP carry one, which it calls instead of the function."""

    async def call(**arguments: Any) -> str:
        taken.append(arguments["amount"])
        return "paid"

    def pay(*, amount: int) -> str:
        """Pays."""
        raise AssertionError("not this one")

    pay.async_call = call  # type: ignore[attr-defined]
    with guard.task("boss", initiator="user:test"):
        go(way, guard_agent(guard, agent(way, *paying(70, 7), tools=[pay]), agent="boss"))
    assert taken == [7]


def test_tools_by_themselves(guard: Guard) -> None:
    told_tool, raising = guard_tools(guard, [pay], agent="boss")[0], guard_tools(guard, [pay], agent="boss", on_deny="raise")[0]
    with guard.task("boss", initiator="user:test"):
        assert told_tool(amount=3) == "paid 3"
        assert "Denied (argument_not_allowed)" in told_tool(amount=70)
        assert "Denied (argument_not_allowed)" in asyncio.run(told_tool.async_call(amount=70))
        with pytest.raises(Denied):
            raising(amount=70)
    assert taken == [3]


def test_what_cannot_be_guarded_is_refused(guard: Guard) -> None:
    class Calls(FunctionTool):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return "called"

    with pytest.raises(InvalidInput, match="a `__call__` of its own"):
        guard_tools(guard, [Calls(pay)])
    boss = guard_agent(guard, agent("step"), agent="boss")
    with pytest.raises(InvalidInput, match="guarded already"):
        guard_agent(guard, boss, agent="boss")


def test_tools_of_the_provider_are_refused(guard: Guard) -> None:
    for options in ({"tools": [{"type": "web_search"}]}, {"web_search_options": {"search_context_size": "low"}}):
        boss = agent("step", tools=[pay])
        boss.model_backend.current_model.model_config_dict.update(options)
        with pytest.raises(InvalidInput, match=r"web.search runs at the model's provider"):
            guard_agent(guard, boss, agent="boss")
        guard_agent(guard, boss, agent="boss", unsafe_provider_tools=True)


def test_external_tools_are_left_to_the_application(guard: Guard) -> None:
    """CAMEL runs none of them: their calls are in what `step` gives."""
    boss = guard_agent(guard, agent("step", *paying(7), external_tools=[pay]), agent="boss")
    with guard.task("boss", initiator="user:test"):
        answer = boss.step("go")
    assert [request.args for request in answer.info["external_tool_call_requests"]] == [{"amount": 7}]
    assert taken == []
    assert codes(guard) == []


@pytest.mark.parametrize("way", WAYS)
def test_guarded_tools_of_a_guarded_agent_are_decided_once(guard: Guard, way: str, tmp_path: Path) -> None:
    boss = guard_agent(guard, agent(way, *paying(7, 70), tools=guard_tools(guard, [pay])), agent="boss", on_deny="raise")
    with guard.task("boss", initiator="user:test"), pytest.raises(Denied):
        go(way, boss)
    assert codes(guard) == ["allow", "argument_not_allowed"]
    assert taken == [7]
    with Guard.open(POLICY, home=tmp_path / "other", durability="process") as other:
        late = agent(way, *paying(8), tools=guard_tools(other, [pay], agent="boss"))
        with pytest.raises(InvalidInput, match="guarded by another guard"):
            guard_agent(guard, late, agent="boss")
