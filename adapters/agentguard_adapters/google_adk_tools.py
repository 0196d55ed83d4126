"""How a tool object of Google ADK is guarded: in place, since ADK looks at what a tool is, and makes FunctionTools anew for each step.

A FunctionTool gets a stand-in for its function, so that the arguments are judged as the function gets them. Any other tool is judged by
what ADK hands to its `run_async`. Who calls, and by whose authority, comes with each call: several runners may share a tool.
"""

from __future__ import annotations

import copy
import functools
import inspect
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from agentguard import Denied, Guard, InvalidInput
from agentguard.task import Task
from agentguard_adapters.stand_in import Asked, OnDeny, asking, awaited, stand_in, told
from agentguard_adapters.versions import needs

with needs("google-adk", "2.13"):
    from google.adk.tools.agent_tool import _TaskAgentTool
    from google.adk.tools.base_tool import BaseTool
    from google.adk.tools.function_tool import FunctionTool

__all__ = ["Announced", "Seats", "announced", "guard_tool", "runs", "whole"]

#: What ADK raises through a tool whose inner agent waits for a human.
_PAUSES = ("google.adk.workflow._errors.NodeInterruptedError",)
#: On a guarded `run_async`: the tool object and name that it was made for, its guard, and the tool's own function.
_MARK = "__agentguard_adk__"
_MAX_TOOLS = 4096
_placing = threading.Lock()


@dataclass(frozen=True)
class Seats:
    """Under whose name and authority calls are judged, and how denials leave."""

    guard: Guard
    agent: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    task: Task | None = None
    on_deny: OnDeny = "message"
    pinned: dict[tuple[int, str], tuple[Any, Callable[..., Any]]] = field(default_factory=dict)

    def stand_in(self, tool: FunctionTool) -> Callable[..., Any]:
        """The stand-in for a tool's function, pinned once: ADK makes a FunctionTool anew for each step of a model."""
        key = (id(tool.func), tool.name)
        if key not in self.pinned:
            if len(self.pinned) >= _MAX_TOOLS:  # an application that makes its functions anew for each run
                self.pinned.clear()
            body = stand_in(self.guard, tool.func, name=tool.name, injected=tuple(tool._ignore_params), pauses=_PAUSES)
            self.pinned[key] = (tool.func, body)  # the function is kept, so its id is not given to another one
        return self.pinned[key][1]

    def asked(self, tool: str, context: Any, presented: Mapping[str, Any]) -> Asked:
        """What ADK knows of a call."""
        agent = context._invocation_context.agent  # none is in a workflow's own node: the current task says who calls
        name = self.agent or (self.names.get(agent.name, agent.name) if agent is not None else None)
        return Asked(name, tool, context.function_call_id, presented, self.task)

    def asking(self, tool: str, context: Any, presented: Mapping[str, Any]) -> AbstractContextManager[Asked]:
        """The same, for what runs inside."""
        asked = self.asked(tool, context, presented)
        return asking(asked.agent, tool, asked.call_id, presented, asked.task)

    def answer(self, denied: Denied, mistakes: str = "") -> dict[str, str]:
        """A denial as ADK tells a model of errors. Raises it where that is wanted."""
        if self.on_deny == "raise":
            raise denied
        return {"error": told(denied, mistakes)}

    async def streamed(self, way: AbstractContextManager[Asked], items: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
        """What a stream brings: its body begins with the first item, long after ADK called it."""
        with way as asked:
            async for item in items:
                yield item if asked.denied is None else self.answer(asked.denied)


@dataclass(frozen=True)
class Announced:
    """A call as the plugin saw it, before other callbacks had their turn."""

    seats: Seats
    context: Any
    presented: Mapping[str, Any]


announced: ContextVar[Announced | None] = ContextVar("agentguard.google_adk", default=None)


def runs(tool: BaseTool) -> bool:
    """Whether there is anything to run: not so for tools of the provider, and for a name that the model made up."""
    return getattr(tool.run_async, "__func__", None) is not BaseTool.run_async


def guard_tool(seats: Seats, tool: BaseTool) -> None:
    """Put a guard into the tool object, once. Raises InvalidInput where that cannot be.

    seats   for calls that no plugin announced
    """
    with _placing:
        _place(seats, tool)


def _place(seats: Seats, tool: BaseTool) -> None:
    marked = getattr(tool.__dict__.get("run_async"), _MARK, None)
    if marked is not None:
        whose, name, guard, function = marked
        if guard is not seats.guard:
            raise InvalidInput(f"the tool {tool.name!r} is guarded by another guard")
        if whose is tool and name == tool.name:
            return
        del tool.__dict__["run_async"]  # a copy under another name, as toolsets with a prefix make them
        if function is not None:
            tool.func = function
    if not runs(tool) or isinstance(tool, _TaskAgentTool):
        return
    run, function, known = tool.run_async, None, tool.name
    if all(getattr(getattr(tool, way), "__func__", None) is getattr(FunctionTool, way, ()) for way in ("run_async", "_invoke_callable")):
        function, body = tool.func, seats.stand_in(tool)
        tool.func, called = _alike(function, body), run
        known = body.__agentguard_tool__.name  # type: ignore[attr-defined]  # every stand-in has it
    else:
        called = whole(seats.guard, tool)

    @functools.wraps(run)
    async def run_async(*, args: dict[str, Any], tool_context: Any) -> Any:
        call = announced.get()
        if call is None or call.context is not tool_context:
            call = Announced(seats, tool_context, copy.deepcopy(args))
        here, presented = call.seats, call.presented
        with here.asking(known, tool_context, presented) as asked:
            result = await called(args=args, tool_context=tool_context)
        if asked.denied is not None:
            return here.answer(asked.denied)
        if asked.taken or _waits(tool_context):
            return result
        if inspect.isasyncgen(result):
            return here.streamed(here.asking(known, tool_context, presented), result)
        mistakes = str(result.get("error", "")) if isinstance(result, dict) else ""
        return here.answer(asked.refuse(here.guard, mistakes or "ADK answered in the place of the tool"), mistakes)

    setattr(run_async, _MARK, (tool, tool.name, seats.guard, function))
    tool.run_async = run_async


def whole(guard: Guard, tool: BaseTool) -> Callable[..., Any]:
    """A stand-in for a tool that is more than a function: its arguments are those that ADK hands to `run_async`."""
    run = tool.run_async

    async def body(*, tool_context: Any, **arguments: Any) -> Any:
        return await run(args=arguments, tool_context=tool_context)

    declared = tool._get_declaration()
    schema = declared.model_dump(mode="json", include={"parameters", "parameters_json_schema"}, exclude_none=True) if declared else None
    made = stand_in(guard, body, name=tool.name, injected=("tool_context",), schema=schema, pauses=_PAUSES)

    async def called(*, args: dict[str, Any], tool_context: Any) -> Any:
        return await made(**{**args, "tool_context": tool_context})

    return called


def _alike(fn: Callable[..., Any], body: Callable[..., Any]) -> Callable[..., Any]:
    """The stand-in as what `fn` is to ADK, which takes generators another way: it looks at the function for that."""
    made: Any = body
    kind = fn if inspect.isroutine(fn) else type(fn).__call__
    if inspect.isasyncgenfunction(kind):

        @functools.wraps(body)
        async def made(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
            given = await awaited(body)(*args, **kwargs)
            if not inspect.isasyncgen(given):  # a denial
                yield given
                return
            try:
                async for item in given:
                    yield item
            finally:
                await given.aclose()

    elif inspect.isgeneratorfunction(kind):

        @functools.wraps(body)
        def made(*args: Any, **kwargs: Any) -> Any:
            given = body(*args, **kwargs)
            if inspect.isgenerator(given):
                return (yield from given)
            yield given
            return None

    return made  # type: ignore[no-any-return]


def _waits(context: Any) -> bool:
    """Whether ADK holds the call back until a human has answered, or because one said no."""
    confirmation = context.tool_confirmation
    asked = context.actions.requested_tool_confirmations or {}
    return context.function_call_id in asked or (confirmation is not None and not confirmation.confirmed)
