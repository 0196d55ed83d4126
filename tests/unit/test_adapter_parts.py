"""What adapters build on: values as a tool gets them, live arguments of a permit, several live objects of one tool, interrupted tools."""

from __future__ import annotations

import contextvars
import dataclasses
import datetime
import decimal
import enum
import functools
import ipaddress
import pathlib
import types
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydantic
import pytest

from agentguard import Denied, Guard, InvalidInput, ToolCall
from agentguard.context import current_task
from agentguard.plain import is_json, plain
from agentguard.testing import assert_denied, records
from agentguard.tools.integrity import register
from agentguard_adapters.seats import acting_as, seat
from agentguard_adapters.stand_in import asking

POLICY = """
agentguard: 1
name: parts
agents:
  reader:
    tools: {read: {path: any}, due: {day: {one_of: ["2026-01-02"]}}}
    delegates: {helper: {depth: 1}}
  helper: {tools: {read: {path: any}}}
tools: {due: {rerun: safe}}
"""
pytestmark = pytest.mark.guard_policy(POLICY)


class Colour(enum.Enum):
    RED = "red"


class Word(enum.StrEnum):
    ONE = "one"


@dataclasses.dataclass
class Point:
    x: int
    label: tuple[str, ...]


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    name: str
    hidden: str = pydantic.Field("h", exclude=True)
    when: datetime.date | None = None

    @pydantic.field_serializer("name")
    def _lie(self, value: str) -> str:
        return "something else"


class Root(pydantic.RootModel[list[int]]):
    pass


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Colour.RED, "red"),
        (Word.ONE, "one"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (datetime.datetime(2026, 1, 2, 3, tzinfo=datetime.UTC), "2026-01-02T03:00:00+00:00"),
        (datetime.timedelta(minutes=1), 60.0),
        (decimal.Decimal("1.10"), "1.10"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (pathlib.PurePosixPath("/a/../b"), "/a/../b"),
        (ipaddress.ip_address("10.0.0.1"), "10.0.0.1"),
        (pydantic.AnyUrl("https://example.com/a"), "https://example.com/a"),
        (pydantic.SecretStr("hush"), "hush"),
        ({"b", "a"}, ["a", "b"]),
        (("a", 1), ["a", 1]),
        (Point(1, ("p",)), {"x": 1, "label": ["p"]}),
        (Model(name="n", more=1), {"name": "n", "hidden": "h", "when": None, "more": 1}),
        ({"m": [Root([1])]}, {"m": [[1]]}),
    ],
)
def test_a_value_is_shown_by_what_it_holds(value: Any, shown: Any) -> None:
    assert plain(value) == shown
    assert not is_json(value)


@pytest.mark.parametrize("value", [None, True, 1, 1.5, "a", [1, [2]], {"a": {"b": [None]}}])
def test_json_is_shown_as_it_is(value: Any) -> None:
    assert plain(value) is value
    assert is_json(value)


class Liar(str):
    __slots__ = ()


@pytest.mark.parametrize("value", [object(), b"bytes", len, Liar("x"), {1: "a"}, {"a": {Liar("b"): 1}}, 1j, float])
def test_what_cannot_be_shown_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInput):
        plain(value)


def test_a_cycle_ends() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(InvalidInput, match="nested"):
        plain(value)


def due(day: Any) -> str:
    """What is due."""
    return f"due {day!r}"


def binding(presented: Any) -> Any:
    return {"day": str(presented["day"])[:10]}


def test_live_arguments_say_what_was_checked(guard: Guard) -> None:
    """A framework's date may run in the place of the date's text, if it is that date."""
    guard.register(register(due, binder=binding))
    day = datetime.date(2026, 1, 2)
    with guard.task("reader", initiator="user:test"):
        for live in ({"day": datetime.date(2030, 1, 1)}, {"night": day}, {"day": day, "more": 1}):
            permit = guard.check(ToolCall("reader", "due", {"day": "2026-01-02"}))
            with assert_denied("integrity_failure"):
                permit.run(due, live=live)
        permit = guard.check(ToolCall("reader", "due", {"day": "2026-01-02T00:00"}))
        assert permit.run(due, live={"day": day}) == f"due {day!r}"
    assert [record["status"] for record in records(guard, "outcome")] == ["not_run"] * 3 + ["ok"]


@pytest.mark.parametrize(
    "other",
    [
        lambda fn: functools.partial(fn, path="/etc/passwd"),
        lambda fn: functools.partial(fn),
        lambda fn: lambda **arguments: fn(**arguments),
        lambda fn: fn.__get__(object()),
    ],
)
def test_what_is_almost_the_pinned_function_is_not(guard: Guard, other: Callable[[Any], Any]) -> None:
    """A partial of it would run with an argument that nobody checked."""

    def read(path: str = "/srv") -> str:
        return path

    guard.register(register(read))
    with guard.task("reader", initiator="user:test"):
        with assert_denied("integrity_failure"):
            guard.check(ToolCall("reader", "read", {"path": "/srv"})).run(other(read))
        assert guard.check(ToolCall("reader", "read", {"path": "/srv"})).run(read) == "/srv"


def test_several_live_objects_of_one_tool(guard: Guard) -> None:
    """Agents of one crew each have a `read` of their own, made by the same code: each runs its own, under one fingerprint."""

    def make(where: list[str]) -> Any:
        @guard.tool
        def read(path: str) -> str:
            where.append(path)
            return path

        return read

    first: list[str] = []
    second: list[str] = []
    tools = make(first), make(second)
    with guard.task("reader", initiator="user:test"):
        for tool in (*tools, *tools):
            tool(path="/srv")
    assert (first, second) == (["/srv", "/srv"], ["/srv", "/srv"])
    assert len(records(guard, "lock")) == 1

    def read(path: str) -> str:
        return "another one"

    foreign = register(read)
    with guard.task("reader", initiator="user:test"), assert_denied("integrity_failure"):
        guard.check(ToolCall("reader", "read", {"path": "/srv"}), tool=foreign)


class Pause(Exception):  # stands for a framework's interrupt
    """How this framework interrupts a tool."""


def test_an_interrupted_tool_may_go_on_if_policy_says_so(guard: Guard, tmp_path: Path) -> None:
    """Also when the state store was lost meanwhile and came back from the log."""

    def interrupted(day: str) -> str:
        if not answers:
            raise Pause
        return answers[0]

    answers: list[str] = []
    pauses = (f"{Pause.__module__}.{Pause.__qualname__}",)
    tool = register(interrupted, name="due", pauses=pauses)
    call = ToolCall("reader", "due", {"day": "2026-01-02"}, "call-1")
    guard.register(tool)
    task = guard.task("reader", initiator="user:test").issue()
    tokens = task.presentation()
    with pytest.raises(Pause):
        guard.check(call, task=task).run(interrupted)
    assert records(guard, "outcome")[0]["status"] == "paused"
    home = guard.home.path
    guard.close()
    for file in home.glob("state.db*"):
        file.unlink()
    with Guard.open(POLICY, home=home, durability="process") as again:
        again.register(register(interrupted, name="due", pauses=pauses))
        resumed = again.accept(tokens, key=again.home.keys.holder("reader"))
        answers.append("yes")
        assert again.check(call, task=resumed).run(interrupted) == "yes"
        with assert_denied("replay_detected"):
            again.check(call, task=resumed)


def test_seats(guard: Guard, tmp_path: Path) -> None:
    assert seat(guard, "reader") == ("reader", None)
    assert seat(guard, None) == ("nobody", None)
    with guard.task("reader", initiator="user:test") as task:
        assert seat(guard, None) == seat(guard, "reader") == ("reader", task)
        name, derived = seat(guard, "helper")
        assert derived is not None
        assert (name, derived.agent, derived.parent) == ("helper", "helper", task)
        assert seat(guard, "helper")[1] is derived  # once for each task and agent
        with acting_as(guard, "helper"):
            assert current_task.get() is derived
            with pytest.raises(Denied) as caught:
                seat(guard, "reader")  # authority never goes up
            assert caught.value.code == "delegation_not_allowed"
        with Guard.open(POLICY, home=tmp_path / "other", durability="process") as other:
            assert seat(other, "helper") == ("helper", task)  # another guard's task is not derived from, and is refused by the check
            with assert_denied("artifact_missing"):
                other.check(ToolCall("helper", "read", {"path": "x"}), task=task)
    derived.close()
    assert task.closed


def test_a_call_that_is_abandoned_ends_quietly() -> None:
    """A coroutine that nobody awaits to its end is closed by whoever finds it, in another context."""

    @types.coroutine
    def suspended() -> Any:
        yield

    async def hook() -> None:
        with asking("reader", "read"):
            await suspended()

    waiting = hook()
    contextvars.copy_context().run(waiting.send, None)
    waiting.close()
