"""How a tool of Haystack is guarded: in place, since an Agent takes tools from toolsets and from `run(tools=...)` too, step by step.

Function and async function get a stand-in each, as two forms of one tool. A tool that overrides `invoke` is judged by what it is invoked
with. Who calls, and by whose authority, comes with each call: several agents may share a tool. A Tool does not learn the id of its call, so
the call is found among those that the agent's hook announced for this step.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NoReturn

from agentguard import Guard, InvalidInput
from agentguard.context import restore
from agentguard.plain import is_json
from agentguard.task import Task
from agentguard_adapters.forms import stand_ins
from agentguard_adapters.stand_in import Asked, OnDeny, asking, pinned_of, told
from agentguard_adapters.versions import needs

with needs("haystack-ai", "3.4", extra="haystack"):
    from haystack.components.agents.tool_calling import _get_func_params
    from haystack.tools import Tool
    from haystack.tools.errors import ToolInvocationError
    from haystack.tools.parameters_schema_utils import _is_state_annotation

__all__ = ["Announced", "Seat", "Step", "guard_tool", "step"]

_MARK = "__agentguard_haystack__"
_WAYS = ("invoke", "invoke_async")
_placing, _claiming = threading.Lock(), threading.Lock()


@dataclass(frozen=True)
class Seat:
    """Under whose name and authority calls are judged, and how denials leave."""

    guard: Guard
    agent: str | None = None
    task: Task | None = None
    on_deny: OnDeny = "message"


@dataclass
class Announced:
    """A call as the agent's hook saw it. The tool of that name takes it, once."""

    seat: Seat
    tool: str
    call_id: str | None = None
    presented: Mapping[str, Any] | None = None
    claimed: bool = False

    def asking(self, pinned: str) -> AbstractContextManager[Asked]:
        """What is known of the call, for what runs inside."""
        return asking(self.seat.agent, pinned, self.call_id, self.presented, self.seat.task)

    def fail(self, asked: Asked, error: Exception) -> NoReturn:
        """Raise in the place of `error`: a denial as Haystack tells a model of errors, or what is the tool's own."""
        mistakes, denied = "", asked.denied
        if denied is None:
            if asked.taken:
                raise error
            mistakes, denied = str(error), asked.refuse(self.seat.guard, f"{type(error).__name__}: {error}")
        if self.seat.on_deny == "raise":
            raise denied
        raise ToolInvocationError(told(denied, mistakes), tool_name=self.tool) from denied


@dataclass(frozen=True)
class Step:
    """The calls that an agent is about to take. Haystack runs tools in threads or asyncio tasks of their own: what is called where the hook
    ran is no part of it. It is over once its state is gone, whatever context still knows of it.
    """

    seat: Seat
    state: weakref.ref[Any]
    calls: tuple[Announced, ...]
    place: tuple[int, int] = field(default_factory=lambda: _place_of_call())

    def holds(self, guard: Guard) -> bool:
        """Whether a call here and now is part of it."""
        return self.seat.guard is guard and self.state() is not None and self.place != _place_of_call()


def _place_of_call() -> tuple[int, int]:
    try:
        return threading.get_ident(), id(asyncio.current_task())
    except RuntimeError:  # no event loop here
        return threading.get_ident(), 0


step: ContextVar[Step | None] = ContextVar("agentguard.haystack", default=None)
#: The tool whose own `invoke` is running, by which way, with which arguments: with these it may go on to its other way, once, which is no
#: other call.
_within: ContextVar[tuple[Tool, Any, dict[str, Any], list[bool]] | None] = ContextVar("agentguard.haystack.within", default=None)


def _claim(seat: Seat, tool: str, arguments: Mapping[str, Any]) -> Announced:
    """The announced call of this tool with these arguments. Haystack adds some, and another hook may have changed some; it may even have
    put a call of another tool in their place, which is the same agent's.
    """
    here = step.get()
    if here is None or not here.holds(seat.guard):
        return Announced(seat, tool)
    with _claiming:
        calls = [call for call in here.calls if call.tool == tool and not call.claimed]
        same = [call for call in calls if all(arguments.get(name) == value for name, value in (call.presented or {}).items())]
        found = next(iter(same or calls), None) or Announced(seat if seat.agent is not None else here.seat, tool)
        found.claimed = True
        return found


def guard_tool(seat: Seat, tool: Tool) -> None:
    """Put a guard into the tool object, once. Raises InvalidInput where that cannot be.

    seat   for calls that no agent announced
    """
    with _placing:
        _place(seat, tool)


def _place(seat: Seat, tool: Tool) -> None:
    marked = tool.__dict__.get(_MARK)
    if marked is not None:
        whose, name, guard, forms = marked
        if guard is not seat.guard:
            raise InvalidInput(f"the tool {tool.name!r} is guarded by another guard")
        if whose is tool and name == tool.name:
            return
        tool.function, tool.async_function = forms  # a copy, which carries what its original was given
        for way in _WAYS:
            tool.__dict__.pop(way, None)
    forms = (tool.function, tool.async_function)
    plain = all(getattr(getattr(tool, way), "__func__", None) is getattr(Tool, way) for way in _WAYS)
    injected = {name for name, kind in _get_func_params(tool).items() if _is_state_annotation(kind)} | {"streaming_callback"}
    ways = (tool.invoke, tool.invoke_async)
    bodies = forms if plain else _whole(tool, *ways)
    made = stand_ins(seat.guard, *bodies, name=tool.name, injected=tuple(sorted(injected)), schema=tool.parameters)
    if plain:
        tool.function, tool.async_function = made
    pinned = next(found.name for found in map(pinned_of, made) if found is not None)
    called = [None if one is None else way if plain else one for one, way in zip(made, ways, strict=True)]
    _put(tool, _Way(seat, tool, pinned, frozenset(injected)), ways, called)
    tool.__dict__[_MARK] = (tool, tool.name, seat.guard, forms)


def _whole(tool: Tool, run: Callable[..., Any], run_async: Callable[..., Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The tool's own ways of being invoked, one of which may be made of the other."""

    def body(**arguments: Any) -> Any:
        token = _within.set((tool, run, arguments, [True]))
        try:
            return run(**arguments)
        finally:
            _within.reset(token)

    async def async_body(**arguments: Any) -> Any:
        token = _within.set((tool, run_async, arguments, [True]))
        try:
            return await run_async(**arguments)
        finally:
            _within.reset(token)

    return body, async_body


@dataclass(frozen=True)
class _Way:
    """What a guarded tool knows when it is invoked."""

    seat: Seat
    tool: Tool
    pinned: str
    injected: frozenset[str]

    @contextmanager
    def taken(self, kwargs: Mapping[str, Any]) -> Iterator[None]:
        call = _claim(self.seat, self.tool.name, kwargs)
        token = step.set(None)  # the other calls of the step are not the tool's, whatever it invokes
        with call.asking(self.pinned) as asked:
            try:
                forged = sorted(name for name in self.injected & kwargs.keys() if kwargs[name] is not None and is_json(kwargs[name]))
                if forged:
                    raise InvalidInput(f"the argument {forged[0]!r} is filled in by the framework and may not be presented")
                yield
            except Exception as error:  # noqa: BLE001  # the tool's own goes on
                call.fail(asked, error)
            finally:
                restore(step, token)


def _is_within(tool: Tool, way: Any, kwargs: dict[str, Any]) -> bool:
    """Whether this is the tool's own way on; the call of an agent that the tool runs is none."""
    within = _within.get()
    if within is None or step.get() is not None or within[0] is not tool or within[1] is way or within[2] != kwargs:
        return False
    try:
        return within[3].pop()  # atomic: of two calls, one gets it
    except IndexError:
        return False


def _put(tool: Tool, way: _Way, own: tuple[Any, Any], bodies: Sequence[Any]) -> None:
    """Give the object its guarded ways of being invoked."""
    sync_body, async_body = bodies

    @functools.wraps(own[0])
    def invoke(**kwargs: Any) -> Any:
        if _is_within(tool, own[0], kwargs):
            return own[0](**kwargs)
        with way.taken(kwargs):
            return sync_body(**kwargs)

    @functools.wraps(own[1])
    async def invoke_async(**kwargs: Any) -> Any:
        if _is_within(tool, own[1], kwargs):
            return await own[1](**kwargs)
        with way.taken(kwargs):
            return await async_body(**kwargs)

    for name, made, body in zip(_WAYS, (invoke, invoke_async), bodies, strict=True):
        if body is not None:  # a form that the tool has not: Haystack takes the other one, or refuses
            tool.__dict__[name] = made
