"""Loops over the tool calls of a model, without a framework."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from agentguard import Guard, InvalidInput
from agentguard.errors import OutcomeUnrecorded
from agentguard.testing import AdapterConformance, Call, Mode, Reply, Scene, assert_denied, records
from agentguard_adapters.loops import Toolbox, guard_tools
from agentguard_adapters.loops_calls import calls_of


def as_object(value: Any) -> Any:
    """The same message as a client library has it."""
    if isinstance(value, dict):
        return SimpleNamespace(**{name: as_object(item) for name, item in value.items()})
    return [as_object(item) for item in value] if isinstance(value, list) else value


def chat(*calls: Call) -> dict[str, Any]:
    """An assistant message of chat completions."""
    made = [{"id": call.id, "type": "function", "function": {"name": call.tool, "arguments": json.dumps(call.arguments)}} for call in calls]
    return {"role": "assistant", "content": None, "tool_calls": made}


def items(*calls: Call) -> list[dict[str, Any]]:
    """The output of the Responses API."""
    made = [{"type": "function_call", "call_id": call.id, "name": call.tool, "arguments": json.dumps(call.arguments)} for call in calls]
    return [{"type": "reasoning", "summary": []}, *made]


SHAPES: list[Callable[..., Any]] = [
    chat,
    items,
    lambda *calls: as_object(chat(*calls)),
    lambda *calls: {"tool_calls": [{"id": call.id, "function": {"name": call.tool, "arguments": call.arguments}} for call in calls]},
    lambda *calls: as_object(items(*calls)),
    lambda *calls: {"object": "response", "output": items(*calls)},
    lambda *calls: as_object({"object": "response", "output": items(*calls)}),
]


def text(answer: dict[str, Any]) -> str:
    return str(answer["content"] if "role" in answer else answer["output"])


class Bare:
    """The same loop without a guard."""

    def __init__(self, scene: Scene) -> None:
        self._tools = {tool.__name__: tool for tool in scene.tools}

    def handle_tool_calls(self, message: Any) -> list[dict[str, Any]]:
        return [self._answer(call, self._tools[call.name](**call.read()[0])) for call in calls_of(message)]

    async def ahandle_tool_calls(self, message: Any) -> list[dict[str, Any]]:
        calls = list(calls_of(message))
        outputs = await asyncio.gather(*[self._tools[call.name](**call.read()[0]) for call in calls])
        return [self._answer(call, output) for call, output in zip(calls, outputs, strict=True)]

    def _answer(self, call: Any, output: Any) -> dict[str, Any]:
        return call.answer(str(output))  # type: ignore[no-any-return]


class TestLoops(AdapterConformance):
    modes = ("sync", "async")  # a stream is put together before its calls are handled
    out_of_reach: ClassVar[Mapping[str, str]] = {"the function that was given": "plain Python for whoever holds it"}
    shape: Callable[..., Any] = staticmethod(chat)

    def toolbox(self, scene: Scene) -> Any:
        if scene.guard is None:
            return Bare(scene)
        return Toolbox(scene.guard, scene.tools, agent=scene.agent, on_deny=scene.on_deny)

    def messages(self, scene: Scene) -> list[Any]:
        """What the model says, changed on the way."""
        change = scene.rewrite or (lambda tool, arguments: arguments)
        steps = [[Call(call.tool, change(call.tool, call.arguments), call.id) for call in step] for step in scene.steps]
        return [self.shape(*step) for step in steps]

    def run(self, scene: Scene, mode: Mode) -> list[Reply]:
        tools = self.toolbox(scene)
        return [Reply(text(answer)) for message in self.messages(scene) for answer in tools.handle_tool_calls(message)]

    async def arun(self, scene: Scene, mode: Mode) -> list[Reply]:
        tools = self.toolbox(scene)
        return [Reply(text(answer)) for message in self.messages(scene) for answer in await tools.ahandle_tool_calls(message)]

    def twins(self, guard: Guard, tool: Callable[..., Any]) -> Mapping[str, Callable[[dict[str, Any]], Any]]:
        tools = Toolbox(guard, [tool], agent="lead")
        (one,) = guard_tools(guard, [tool], agent="lead")
        return {
            "the function that was given": lambda arguments: tool(**arguments),
            "functions": lambda arguments: tools.functions["note"](**arguments),
            "guard_tools": lambda arguments: one(**arguments),
            "guard_tools, by position": lambda arguments: one(*arguments.values()),
            "a Toolbox of guarded functions": lambda arguments: Toolbox(guard, [one], agent="lead").functions["note"](**arguments),
        }


class TestLoopsOfResponses(TestLoops):
    shape = staticmethod(items)


POLICY = """
agentguard: 1
name: loops
agents:
  triage:
    tools:
      pay: {amount: {range: {max: 10}}}
      count: {to: {range: {max: 5}}}
      shout: {input: {max_length: 5}}
      ask_clerk: {}
    delegates: {clerk: {depth: 1}}
  clerk: {tools: {pay: {amount: {range: {max: 5}}}}}
"""
pytestmark = pytest.mark.guard_policy(POLICY)


def pay(amount: int, note: str = "") -> str:
    """Pays."""
    return f"paid {amount}"


def paying() -> tuple[Callable[..., Any], list[int]]:
    paid: list[int] = []

    def pay(amount: int) -> str:
        """Pays."""
        paid.append(amount)
        return f"paid {amount}"

    return pay, paid


@pytest.fixture
def task(guard: Guard) -> Iterator[Any]:
    with guard.task("triage", initiator="user:test") as opened:
        yield opened


@pytest.mark.parametrize("shape", SHAPES)
def test_the_answers_fit_the_message(guard: Guard, task: Any, shape: Callable[..., Any]) -> None:
    """Whatever API, whatever library: one answer for each call, under its id, in order."""
    tool, paid = paying()
    tools = Toolbox(guard, [tool])
    answers = tools.handle_tool_calls(shape(Call("pay", {"amount": 1}, "a"), Call("pay", {"amount": 99}, "b")))
    if "role" in answers[0]:
        assert answers[0] == {"role": "tool", "tool_call_id": "a", "content": "paid 1"}
    else:
        assert answers[0] == {"type": "function_call_output", "call_id": "a", "output": "paid 1"}
    assert text(answers[1]).startswith("Denied (argument_not_allowed)")
    assert paid == [1]
    assert [record["call_id"] for record in records(guard, "decision")] == ["a", "b"]
    assert tools.handle_tool_calls({"role": "assistant", "content": "done"}) == []
    assert tools.handle_tool_calls([]) == []


@pytest.mark.usefixtures("no_garbage")
@pytest.mark.parametrize("given", ["{", "[1]", "1", "null", '{"amount": 1, "amount": 99}', "[" * 100_000, 7, '{"amount": NaN}'])
def test_arguments_that_cannot_be_read(guard: Guard, task: Any, given: Any) -> None:
    """Recorded under the message's id, and told, so that the model can mend them."""
    tool, paid = paying()
    call = {"id": "c1", "type": "function", "function": {"name": "pay", "arguments": given}}
    (answer,) = Toolbox(guard, [tool]).handle_tool_calls({"role": "assistant", "tool_calls": [call]})
    assert answer["content"].startswith("Denied (malformed_call)")
    assert paid == []
    assert [record["code"] for record in records(guard, "decision")] == ["malformed_call"]
    with assert_denied("malformed_call"):
        Toolbox(guard, [tool], on_deny="raise").handle_tool_calls({"role": "assistant", "tool_calls": [call]})


def test_no_arguments_are_none(guard: Guard, task: Any) -> None:
    def ask_clerk() -> str:
        return "asked"

    for given in ("", None, "{}"):
        call = {"id": f"c{given}", "type": "function", "function": {"name": "ask_clerk", "arguments": given}}
        assert text(Toolbox(guard, [ask_clerk]).handle_tool_calls({"tool_calls": [call]})[0]) == "asked"


def test_a_tool_that_nobody_knows_is_told_and_recorded(guard: Guard, task: Any) -> None:
    for name in ("delete_all", "functions", "", None, "x" * 9999, 7):
        call = {"id": "c1", "type": "function", "function": {"name": name, "arguments": "{}"}}
        (answer,) = Toolbox(guard, [pay]).handle_tool_calls({"tool_calls": [call]})
        assert answer["content"].startswith("Denied (malformed_call)")
    assert "There is no such tool; there are: pay." in answer["content"]
    assert len(records(guard, "decision", code="malformed_call")) == 6


@pytest.mark.parametrize("id", [None, "", 7, "x" * 300])
def test_an_id_that_is_none(guard: Guard, task: Any, id: Any) -> None:
    """No id gets one; what can be none is refused."""
    tool, paid = paying()
    call = {"id": id, "type": "function", "function": {"name": "pay", "arguments": '{"amount": 1}'}}
    (answer,) = Toolbox(guard, [tool]).handle_tool_calls({"tool_calls": [call]})
    assert ("paid 1" if id is None else "malformed_call") in answer["content"]
    assert paid == ([1] if id is None else [])


@pytest.mark.parametrize("shape", ["chat", "responses"])
def test_custom_tools_take_a_text(guard: Guard, task: Any, shape: str) -> None:
    def shout(input: str) -> str:
        return input.upper()

    for given, told in (("hey", "HEY"), ("far too long", "argument_not_allowed")):
        chat_call = {"id": given, "type": "custom", "custom": {"name": "shout", "input": given}}
        item = {"type": "custom_tool_call", "call_id": given, "name": "shout", "input": given}
        (answer,) = Toolbox(guard, [shout]).handle_tool_calls({"tool_calls": [chat_call]} if shape == "chat" else item)
        assert told in text(answer)
        assert answer.get("type") == (None if shape == "chat" else "custom_tool_call_output")


def test_calls_run_side_by_side(guard: Guard, task: Any) -> None:
    """Async tools in the loop, others in threads; the answers stay in order."""
    both = threading.Barrier(2, timeout=10)
    met = asyncio.Event()

    def pay(amount: int) -> int:
        both.wait()
        return amount

    async def count(to: int) -> str:
        met.set() if to == 2 else await asyncio.wait_for(met.wait(), 10)
        return f"counted {to}"

    calls = [Call("pay", {"amount": 1}), Call("count", {"to": 1}), Call("pay", {"amount": 2}), Call("count", {"to": 2})]
    answers = asyncio.run(Toolbox(guard, [pay, count]).ahandle_tool_calls(chat(*calls)))
    assert [text(answer) for answer in answers] == ["1", "counted 1", "2", "counted 2"]


def test_async_tools_from_sync_code(guard: Guard, task: Any) -> None:
    async def pay(amount: int) -> str:
        await asyncio.sleep(0)
        return f"paid {amount}"

    tools = Toolbox(guard, [pay])
    assert text(tools.handle_tool_calls(chat(Call("pay", {"amount": 1})))[0]) == "paid 1"

    async def inside() -> Any:
        return tools.handle_tool_calls(chat(Call("pay", {"amount": 1})))

    with pytest.raises(InvalidInput, match="ahandle_tool_calls"):
        asyncio.run(inside())


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_generator_is_run_to_its_end(guard: Guard, task: Any, kind: str) -> None:
    def numbers(to: int) -> Iterator[int]:
        yield from range(to)

    async def later(to: int) -> AsyncIterator[int]:
        for number in range(to):
            yield number

    tool: Any = numbers if kind == "sync" else later
    tool.__name__ = "count"
    tools = Toolbox(guard, [tool])
    assert text(tools.handle_tool_calls(chat(Call("count", {"to": 3})))[0]) == "[0,1,2]"
    assert text(asyncio.run(tools.ahandle_tool_calls(chat(Call("count", {"to": 3}))))[0]) == "[0,1,2]"
    assert [record["status"] for record in records(guard, "outcome")] == ["ok", "ok"]


def test_what_a_tool_raises(guard: Guard, task: Any) -> None:
    def pay(amount: int) -> str:
        raise ValueError("no money")

    message = chat(Call("pay", {"amount": 1}))
    with pytest.raises(ValueError, match="no money"):
        Toolbox(guard, [pay]).handle_tool_calls(message)
    message = chat(Call("pay", {"amount": 1}))
    (answer,) = Toolbox(guard, [pay], on_error="message").handle_tool_calls(message)
    assert answer["content"] == "The tool failed. ValueError: no money"
    assert [record["status"] for record in records(guard, "outcome")] == ["error", "error"]


def test_a_withheld_output_is_never_told(guard: Guard, task: Any) -> None:
    """Neither that nor a denial is a failure of the tool."""
    poison = Toolbox(guard, [lambda_named("pay", lambda amount: guard.poison("the disk is full") or "secret")], on_error="message")
    with pytest.raises(OutcomeUnrecorded):
        poison.handle_tool_calls(chat(Call("pay", {"amount": 1})))
    with assert_denied("evidence_unavailable"):
        Toolbox(guard, [poison.functions["pay"]], on_error="message", on_deny="raise").handle_tool_calls(chat(Call("pay", {"amount": 1})))


def lambda_named(name: str, fn: Callable[..., Any]) -> Callable[..., Any]:
    fn.__name__ = name
    return fn


def test_an_agent_in_a_tool(guard: Guard, task: Any) -> None:
    """Its task is derived from the caller's, across the thread that a sync tool runs in."""
    tool, paid = paying()
    clerk = Toolbox(guard, [tool], agent="clerk")

    def ask_clerk() -> list[str]:
        answers = clerk.handle_tool_calls(chat(Call("pay", {"amount": 5}), Call("pay", {"amount": 6})))
        return [text(answer)[:8] for answer in answers]

    (answer,) = asyncio.run(Toolbox(guard, [ask_clerk], agent="triage").ahandle_tool_calls(chat(Call("ask_clerk", {}))))
    assert answer["content"] == '["paid 5","Denied ("]'
    assert paid == [5]


def test_a_decorated_function_is_decided_once(guard: Guard, task: Any) -> None:
    tool, paid = paying()
    decorated = guard.tool(name="pay")(tool)
    Toolbox(guard, [decorated], agent="triage").handle_tool_calls(chat(Call("pay", {"amount": 1})))
    assert paid == [1]
    assert len(records(guard, "decision")) == 1


def test_two_tools_of_one_name(guard: Guard) -> None:
    with pytest.raises(InvalidInput, match="two tools are called 'pay'"):
        Toolbox(guard, [pay, pay])


def test_schemas(guard: Guard) -> None:
    parameters = {
        "type": "object",
        "properties": {"amount": {"title": "Amount", "type": "integer"}, "note": {"default": "", "title": "Note", "type": "string"}},
        "required": ["amount"],
        "additionalProperties": False,
    }
    function = {"name": "pay", "description": "Pays.", "parameters": parameters}
    assert Toolbox(guard, [pay]).schemas() == [{"type": "function", "function": function}]
    assert Toolbox(guard, [pay]).schemas("responses") == [{"type": "function", **function}]
