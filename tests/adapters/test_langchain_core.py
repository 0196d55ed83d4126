"""LangChain tools by themselves: `guard_tools`, and every way to call a tool."""

from __future__ import annotations

import asyncio
import datetime
import enum
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
from langchain_core.messages import ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, BaseToolkit, InjectedToolArg, InjectedToolCallId, StructuredTool, Tool, ToolException
from langchain_core.tools import tool as make_tool
from pydantic import BaseModel, Field, SecretStr, field_validator

from agentguard import Guard, InvalidInput
from agentguard.testing import AdapterConformance, Call, Mode, Reply, Scene, assert_denied, checked, records
from agentguard_adapters.langchain_core import guard_tool, guard_tools
from support.scripted import RewritingCallback, tool_call

POLICY = """
agentguard: 1
name: core
agents:
  triage:
    tools:
      mail: {to: {email: {domains: [example.com]}}, body: {max_length: 20}}
      book: {day: {one_of: ["2026-01-02"]}, room: {one_of: [small]}, card: {one_of: ["4111"]}, guest: any}
      lookup: {tool_input: {max_length: 5}}
      whoami: {q: any}
      empty: {}
      raw: {x: {range: {max: 3}}, y: {range: {max: 3}, optional: true}}
      power: {base: any, exp: any, mod: any}
tools: {power: {opaque: accepted}}
"""


class TestLangChainCore(AdapterConformance):
    """A tool-calling loop of one's own over guarded tools, the calls of one step in one `batch`."""

    out_of_reach: ClassVar[Mapping[str, str]] = {
        "the tool object that was given": "whoever holds it can call it: give the guarded one away, and only that",
        "_inner.tool": "private: the guarded tool must hold the one that it stands for",
    }

    def played(self, scene: Scene) -> tuple[dict[str, BaseTool], RunnableConfig]:
        if scene.guard is None:
            return {tool.name: tool for tool in map(make_tool, scene.tools)}, {}
        tools: list[Any] = guard_tools(scene.guard, scene.tools, agent=scene.agent, on_deny=scene.on_deny)
        callbacks: Any = [RewritingCallback(scene.rewrite)] if scene.rewrite is not None else []
        return {tool.name: tool for tool in tools}, {"callbacks": callbacks}

    def run(self, scene: Scene, mode: Mode) -> list[Reply]:
        tools, config = self.played(scene)
        said: list[Reply] = []
        for step in scene.steps:
            known = [call for call in step if call.tool in tools]
            said += [Reply("no such tool", True) for call in step if call not in known]
            if mode == "stream":
                said += [reply(message) for call in known for message in tools[call.tool].stream(tool_call(call), config)]
            elif known:
                said += [reply(message) for message in tools[known[0].tool].batch([tool_call(call) for call in known], config)]
        return said

    async def arun(self, scene: Scene, mode: Mode) -> list[Reply]:
        tools, config = self.played(scene)
        said: list[Reply] = []
        for step in scene.steps:
            known = [call for call in step if call.tool in tools]
            said += [Reply("no such tool", True) for call in step if call not in known]
            if mode == "astream":
                said += [reply(message) for call in known async for message in tools[call.tool].astream(tool_call(call), config)]
            elif known:
                said += [reply(message) for message in await tools[known[0].tool].abatch([tool_call(call) for call in known], config)]
        return said

    def twins(self, guard: Guard, tool: Callable[..., Any]) -> Mapping[str, Callable[[dict[str, Any]], Any]]:
        given = make_tool(tool)
        made: Any = guard_tool(guard, given, agent="lead")
        copied = made.model_copy(update={"description": "Another description."})
        ways: dict[str, Callable[[dict[str, Any]], Any]] = {
            "the tool object that was given": given.invoke,
            "_inner.tool": lambda a: made._inner.tool.invoke(a),
            "invoke": made.invoke,
            "invoke a call": lambda a: made.invoke(tool_call(Call("note", a))),
            "run": made.run,
            "stream": lambda a: list(made.stream(a)),
            "transform": lambda a: list(made.transform(iter([a]))),
            "batch": lambda a: made.batch([a]),
            "batch_as_completed": lambda a: list(made.batch_as_completed([a])),
            "func": lambda a: made.func(**a),
            "func, positional": lambda a: made.func(*a.values()),
            "_run": lambda a: made._run(**a, config={}),
            "_run, positional": lambda a: made._run(*a.values(), config={}),
            "a copy": copied.invoke,
            "a copy's func": lambda a: copied.func(**a),
            "bound": lambda a: made.with_config(tags=["x"]).invoke(a),
            "with_retry": lambda a: made.with_retry(retry_if_exception_type=(KeyError,)).invoke(a),
            "in a sequence": lambda a: (made | str).invoke(a),
            "called": lambda a: made(a) if callable(made) else made.invoke(a),
        }
        async_ways: dict[str, Callable[[dict[str, Any]], Any]] = {
            "ainvoke": made.ainvoke,
            "arun": made.arun,
            "_arun": lambda a: made._arun(**a, config={}),
        }
        return {
            **ways,
            **{name: lambda a, way=way: asyncio.run(way(a)) for name, way in async_ways.items()},  # type: ignore[misc]
            "abatch": lambda a: asyncio.run(made.abatch([a])),
            "to_thread": lambda a: asyncio.run(asyncio.to_thread(made.invoke, a)),
        }


def reply(message: Any) -> Reply:
    assert isinstance(message, ToolMessage)
    return Reply(str(message.content), message.status == "error")


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[Guard]:
    with Guard.open(POLICY, home=tmp_path / "home", durability="process") as opened, opened.task("triage", initiator="user:test"):
        yield opened


def test_what_the_model_and_the_framework_see_is_unchanged(guard: Guard) -> None:
    @make_tool(return_direct=True, response_format="content_and_artifact", extras={"cache": True})
    def mail(to: str, body: str = "hi") -> tuple[str, int]:
        """Sends mail."""
        return to, 7

    mail.metadata, mail.tags = {"__handoff_destination": "bob"}, ["t"]
    made = guard_tool(guard, mail)
    for name in ("name", "description", "args", "args_schema", "return_direct", "response_format", "metadata", "tags", "extras"):
        assert getattr(made, name) == getattr(mail, name)
    assert made.tool_call_schema is mail.tool_call_schema
    message = made.invoke(tool_call(Call("mail", {"to": "ann@example.com"})))
    assert (message.content, message.artifact, message.status) == ("ann@example.com", 7, "success")


def test_the_answer_names_the_call(guard: Guard) -> None:
    made = guard_tool(guard, make_tool(mail))
    message = made.invoke(tool_call(Call("mail", {"to": "eve@evil.test", "body": "x"}, "call-x")))
    assert (message.status, message.name, message.tool_call_id) == ("error", "mail", "call-x")
    with assert_denied("argument_not_allowed"):
        made.invoke({"to": "eve@evil.test", "body": "x"})


def mail(to: str, body: str = "hi") -> str:
    """Sends mail."""
    return f"mailed {to}"


class Room(enum.Enum):
    SMALL = "small"
    LARGE = "large"


class Guest(BaseModel):
    name: str
    badge: int = Field(exclude=True)


class Booking(BaseModel):
    """What book takes."""

    day: datetime.date
    room: Room = Room.LARGE
    card: SecretStr
    guest: Guest

    @field_validator("room", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value


def test_objects_that_a_schema_makes_are_checked_by_what_they_hold(guard: Guard) -> None:
    """Dates, enums, models, masked and excluded fields: the policy sees what the tool gets."""
    taken: list[Any] = []

    @make_tool(args_schema=Booking)
    def book(day: datetime.date, room: Room, card: SecretStr, guest: Guest) -> str:
        """Books a room."""
        taken.append((day, room, card.get_secret_value(), guest))
        return "booked"

    made = guard_tool(guard, book)
    given = {"day": "2026-01-02", "room": "SMALL", "card": "4111", "guest": {"name": "Ann", "badge": "7"}}
    assert made.invoke(given) == "booked"
    assert taken == [(datetime.date(2026, 1, 2), Room.SMALL, "4111", Guest(name="Ann", badge=7))]
    (decision,) = records(guard, "decision", verdict="allow")
    assert checked(guard, decision["id"]) == {**given, "room": "small", "guest": {"name": "Ann", "badge": 7}}
    with assert_denied("argument_not_allowed"):  # the default room is the large one
        made.invoke({name: value for name, value in given.items() if name != "room"})
    with assert_denied("argument_not_allowed"):  # masked in its own JSON form
        made.invoke({**given, "card": "4242"})
    assert len(taken) == 1


def test_an_argument_that_cannot_be_seen_is_refused(guard: Guard) -> None:
    class Opaque:
        def __init__(self, value: str) -> None:
            self.value = value

    class Schema(BaseModel):
        q: Any

        @field_validator("q")
        @classmethod
        def _hide(cls, value: str) -> Opaque:
            return Opaque(value)

    whoami = StructuredTool.from_function(lambda q: "ran", name="whoami", description="x", args_schema=Schema)
    with assert_denied("malformed_call"):
        guard_tool(guard, whoami).invoke({"q": "x"})


def test_a_tool_of_one_text(guard: Guard) -> None:
    taken: list[str] = []
    made = guard_tool(guard, Tool("lookup", lambda text: taken.append(text), "Looks up."))
    made.invoke("short")
    made.invoke({"tool_input": "brief"})
    for way in (made.invoke, made.run, made.func):
        with assert_denied("argument_not_allowed"):
            way("too long")  # type: ignore[operator]
    assert taken == ["short", "brief"]


def test_a_tool_class_of_ones_own(guard: Guard) -> None:
    class Mail(BaseTool):
        name: str = "mail"
        description: str = "Sends mail."
        sent: list[str] = Field(default_factory=list)

        def _run(self, to: str, body: str = "hi", run_manager: Any = None, *, settings: RunnableConfig) -> str:
            self.sent.append(f"{to} {run_manager is not None} {settings['configurable']['tenant']}")
            return "sent"

    inner = Mail()
    made = guard_tool(guard, inner)
    config: RunnableConfig = {"configurable": {"tenant": "acme"}}
    assert made.invoke({"to": "ann@example.com"}, config) == "sent"
    assert asyncio.run(made.ainvoke({"to": "ann@example.com"}, config)) == "sent"
    with assert_denied("argument_not_allowed"):
        made.invoke({"to": "eve@evil.test"}, config)
    assert inner.sent == ["ann@example.com True acme", "ann@example.com True acme"]


def test_a_class_that_overrides_run_is_refused(guard: Guard) -> None:
    class Odd(BaseTool):
        name: str = "mail"
        description: str = "x"

        def _run(self, to: str) -> str:
            return to

        def run(self, *args: Any, **kwargs: Any) -> Any:
            return "not through _run"

    with pytest.raises(InvalidInput, match="overrides run, which the guard would go past"):
        guard_tool(guard, Odd())


def test_errors_that_a_tool_handles_stay_handled(guard: Guard) -> None:
    def raises(q: str) -> str:
        """Raises."""
        raise ToolException("not today")

    made = guard_tool(guard, StructuredTool.from_function(raises, name="whoami", handle_tool_error=True))
    assert made.invoke({"q": "x"}) == "not today"
    (outcome,) = records(guard, "outcome")
    assert outcome["status"] == "error"


def test_a_tool_without_arguments(guard: Guard) -> None:
    @make_tool
    def empty() -> str:
        """Takes nothing."""
        return "ran"

    assert guard_tool(guard, empty).invoke({}) == "ran"


def test_a_schema_given_as_json(guard: Guard) -> None:
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    raw = StructuredTool.from_function(lambda x: x, name="raw", description="x", args_schema=schema)
    made = guard_tool(guard, raw)
    assert made.invoke({"x": 3}) == 3
    with assert_denied("argument_not_allowed"):
        made.invoke({"x": 4})


def test_a_default_that_no_schema_names_is_checked(guard: Guard) -> None:
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    raw = StructuredTool.from_function(lambda x, y=9: x, name="raw", description="x", args_schema=schema)
    with assert_denied("argument_not_allowed") as caught:
        guard_tool(guard, raw).invoke({"x": 3})
    assert caught.value.decision.reasons[0].subject == "y"


def test_what_cannot_be_pinned_needs_the_policys_word(guard: Guard) -> None:
    power, raw = (StructuredTool(name=name, description="x", args_schema={"properties": {}}, func=pow) for name in ("power", "raw"))
    assert guard_tool(guard, power).invoke({"base": 2, "exp": 3}) == 8
    with assert_denied("integrity_failure"):
        guard_tool(guard, raw).invoke({"x": 1})
    called = StructuredTool(name="whoami", description="x", args_schema={"properties": {}}, func=Echo())
    assert guard_tool(guard, called).invoke({"q": "x"}) == "x"


class Echo:
    """A callable object: its `__call__` is what is pinned."""

    def __call__(self, q: str) -> str:
        return q


def test_toolkits_and_functions(guard: Guard) -> None:
    class Kit(BaseToolkit):
        def get_tools(self) -> list[BaseTool]:
            return [make_tool(mail)]

    @make_tool
    def empty() -> str:
        """Takes nothing."""
        return "ran"

    made = guard_tools(guard, [Kit(), empty])
    assert [tool.name for tool in made] == ["mail", "empty"]
    assert guard_tools(guard, made) == made


def test_what_the_framework_fills_in_is_no_argument_of_the_call(guard: Guard) -> None:
    """Injected arguments are passed on unchecked, are not recorded, and a model may not present them."""

    @make_tool
    def whoami(q: str, user: Annotated[str, InjectedToolArg], call: Annotated[str, InjectedToolCallId]) -> str:
        """Who am I?"""
        return f"{user} {call}"

    by_application = guard_tool(guard, whoami, injects=True)
    assert by_application.invoke(tool_call(Call("whoami", {"q": "x", "user": "ann"}, "c1"))).content == "ann c1"
    (decision,) = records(guard, "decision", verdict="allow")
    assert checked(guard, decision["id"]) == {"q": "x"}
    by_anybody = guard_tool(guard, whoami)
    assert "malformed_call" in by_anybody.invoke(tool_call(Call("whoami", {"q": "x", "user": "root"}))).content
    for name in ("config", "callbacks", "run_manager"):
        assert "malformed_call" in by_anybody.invoke(tool_call(Call("whoami", {"q": "x", name: {}}))).content


def test_registration_says_what_is_wrong(guard: Guard, tmp_path: Path) -> None:
    made = guard_tool(guard, make_tool(mail))
    with Guard.open(POLICY, home=tmp_path / "other", durability="process") as other, pytest.raises(InvalidInput, match="by another guard"):
        guard_tool(other, made)
    with pytest.raises(InvalidInput, match="another tool is registered as 'mail'"):
        guard_tool(guard, StructuredTool.from_function(lambda to: to, name="mail", description="x"))


@pytest.mark.parametrize(
    ("adapter", "module"),
    [("langchain_core", "langchain_core"), ("langchain", "langchain"), ("langgraph", "langgraph"), ("langchain", "langgraph")],
)
def test_a_missing_framework_is_named_with_what_to_install(adapter: str, module: str) -> None:
    code = f"import sys; sys.modules[{module!r}] = None; import agentguard_adapters.{adapter}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ImportError: this adapter needs lang" in done.stderr
    assert "pip install 'agentguard[langchain]'" in done.stderr
