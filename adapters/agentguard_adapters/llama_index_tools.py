"""Guarded tools of LlamaIndex: each stands for a tool, with its name, description and schema.

A FunctionTool gets a stand-in for its function, so that the arguments are judged as the function gets them, partial parameters included.
Any other tool (a query engine, a retriever, a class of one's own) is judged by what it is called with.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from inspect import getattr_static
from typing import Any

from agentguard import Denied, Guard, InvalidInput
from agentguard.task import Task
from agentguard_adapters.forms import stand_ins
from agentguard_adapters.stand_in import Asked, OnDeny, asking, pinned_of, stand_in, told
from agentguard_adapters.versions import needs

with needs("llama-index-core", "0.14.25", extra="llama-index"):
    from llama_index.core.async_utils import asyncio_run
    from llama_index.core.tools import AsyncBaseTool, BaseTool, FunctionTool, ToolMetadata, ToolOutput
    from llama_index.core.tools.function_tool import async_to_sync, sync_to_async
    from llama_index.core.tools.types import adapt_to_async_tool
    from llama_index.core.workflow import Context

__all__ = ["Announced", "GuardedFunctionTool", "GuardedTool", "Seats", "announced"]

#: What the workflow raises through a tool that waits for an event, to run it again later.
_PAUSES = ("workflows.runtime.types.results.WaitingForEvent",)
#: The ways of calling a tool.
_WAYS = ("__call__", "call", "acall")
_MAX_TOOLS = 4096


@dataclass(frozen=True)
class Seats:
    """Under whose name and authority calls are judged, and how denials leave."""

    guard: Guard
    agent: str | None = None
    task: Task | None = None
    on_deny: OnDeny = "message"
    kept: dict[tuple[int, str], tuple[Any, Any]] = field(default_factory=dict)

    def tool(self, given: BaseTool | Callable[..., Any]) -> AsyncBaseTool:
        """The guarded tool for a tool or function. Raises InvalidInput where it cannot be guarded."""
        tool = given if isinstance(given, BaseTool) else FunctionTool.from_defaults(given)
        if isinstance(tool, GuardedFunctionTool | GuardedTool):
            if tool.seats.guard is not self.guard:
                raise InvalidInput(f"the tool {tool.metadata.name!r} is guarded by another guard")
            return tool
        plain = isinstance(tool, FunctionTool) and all(getattr_static(tool, way) is getattr_static(FunctionTool, way) for way in _WAYS)
        return GuardedFunctionTool(self, tool) if plain else GuardedTool(self, tool)

    def once(self, what: Any, name: str, make: Callable[[], Any]) -> Any:
        """What `make` gives for `what`, made once: LlamaIndex makes tools anew for each call."""
        key = (id(what), name)
        if key not in self.kept:
            if len(self.kept) >= _MAX_TOOLS:  # an application that makes its functions anew for each run
                self.kept.clear()
            self.kept[key] = (what, make())  # it is kept, so its id is not given to another one
        return self.kept[key][1]

    def claim(self, tool: str) -> Announced:
        """The call of this tool that an agent announced. Other calls below an announced one are the same agent's, if nobody says whose."""
        call = announced.get()
        if call is None:
            return Announced(self, self.agent, tool)
        if call.tool != tool or call.claimed:
            return Announced(self, self.agent, tool) if self.agent is not None else Announced(call.seats, call.agent, tool)
        call.claimed = True
        return call


@dataclass
class Announced:
    """A tool call as an agent's hook knows it. The tool of that name takes it, once."""

    seats: Seats
    agent: str | None
    tool: str
    call_id: str | None = None
    presented: Mapping[str, Any] | None = None
    known: frozenset[str] = frozenset()
    claimed: bool = False

    def asking(self, pinned: str) -> AbstractContextManager[Asked]:
        """What is known of the call, for what runs inside."""
        return asking(self.agent, pinned, self.call_id, self.presented, self.seats.task)

    def answer(self, asked: Asked, error: Exception, kwargs: Mapping[str, Any]) -> ToolOutput:
        """The error result for a denial, or for arguments that never reached the guard. Raises what is the tool's own."""
        mistakes, denied = "", asked.denied
        if denied is None or denied is not error:
            if asked.taken:
                raise error
            mistakes, denied = str(error), asked.refuse(self.seats.guard, f"{type(error).__name__}: {error}")
        if self.seats.on_deny == "raise":
            raise denied
        return refusal(denied, self.tool, {name: value for name, value in kwargs.items() if not isinstance(value, Context)}, mistakes)


announced: ContextVar[Announced | None] = ContextVar("agentguard.llama_index", default=None)


def refusal(denied: Denied, tool: str, kwargs: Mapping[str, Any], mistakes: str) -> ToolOutput:
    """A denial as LlamaIndex tells a model of errors."""
    text = told(denied, mistakes)
    return ToolOutput(content=text, tool_name=tool, raw_input=dict(kwargs), raw_output=text, is_error=True, exception=denied)


class GuardedFunctionTool(FunctionTool):
    """Stands for a FunctionTool."""

    def __init__(self, seats: Seats, tool: FunctionTool) -> None:
        self.__dict__.update(tool.__dict__)
        self.seats = seats
        fn, async_fn = _forms(tool)
        hidden = (tool.ctx_param_name,) if tool.ctx_param_name else ()
        make = functools.partial(stand_ins, seats.guard, fn, async_fn, name=tool.metadata.get_name(), injected=hidden, pauses=_PAUSES)
        fn, async_fn = seats.once(tool.real_fn, tool.metadata.get_name(), make)
        self._real_fn = fn if fn is not None else async_fn
        self._fn, self._async_fn = fn or async_to_sync(async_fn), async_fn or sync_to_async(fn)
        self._pinned = next(found.name for found in map(pinned_of, (fn, async_fn)) if found is not None)

    def call(self, *args: Any, **kwargs: Any) -> ToolOutput:
        claimed = self.seats.claim(self.metadata.get_name())
        with claimed.asking(self._pinned) as asked:
            try:
                self._look(kwargs)
                return super().call(*args, **kwargs)
            except Exception as error:  # noqa: BLE001  # the tool's own goes on
                return claimed.answer(asked, error, kwargs)

    async def acall(self, *args: Any, **kwargs: Any) -> ToolOutput:
        claimed = self.seats.claim(self.metadata.get_name())
        with claimed.asking(self._pinned) as asked:
            try:
                self._look(kwargs)
                return await super().acall(*args, **kwargs)
            except Exception as error:  # noqa: BLE001
                return claimed.answer(asked, error, kwargs)

    def _look(self, kwargs: Mapping[str, Any]) -> None:
        """`llm.predict_and_call` passes on what a model says, and fills in nothing."""
        if self.ctx_param_name in kwargs and not isinstance(kwargs[self.ctx_param_name], Context):
            raise InvalidInput(f"the argument {self.ctx_param_name!r} is filled in by the framework and may not be presented")


def _forms(tool: FunctionTool) -> tuple[Callable[..., Any] | None, Callable[..., Any] | None]:
    """The tool's function and its async one, without those that LlamaIndex made of the other."""
    if tool.real_fn is tool.async_fn:
        return None, tool.async_fn
    derived = getattr(tool.async_fn, "__qualname__", "") == "sync_to_async.<locals>._async_wrapped_fn"
    return tool.real_fn, None if derived else tool.async_fn


class GuardedTool(AsyncBaseTool):
    """Stands for a tool that is no FunctionTool, or one that runs its function in a way of its own."""

    def __init__(self, seats: Seats, tool: BaseTool) -> None:
        self.seats, self._inner = seats, getattr(tool, "base_tool", tool)
        self._body = seats.once(self._inner, tool.metadata.get_name(), self._stand_in)

    @property
    def metadata(self) -> ToolMetadata:
        return self._inner.metadata

    def call(self, *args: Any, **kwargs: Any) -> ToolOutput:
        return asyncio_run(self.acall(*args, **kwargs))

    async def acall(self, *args: Any, **kwargs: Any) -> ToolOutput:
        claimed = self.seats.claim(self.metadata.get_name())
        with claimed.asking(claimed.tool) as asked:
            try:
                return await self._body(**self._named(args), **kwargs)
            except Exception as error:  # noqa: BLE001
                return claimed.answer(asked, error, kwargs)

    def _stand_in(self) -> Callable[..., Any]:
        run = adapt_to_async_tool(self._inner).acall
        takes_one = isinstance(self._inner, AsyncBaseTool) is False

        async def body(**arguments: Any) -> Any:
            return await run(*arguments.values()) if takes_one else await run(**arguments)

        schema = self.metadata.get_parameters_dict()
        return stand_in(self.seats.guard, body, name=self.metadata.get_name(), schema=schema, pauses=_PAUSES, on_deny="raise")

    def _named(self, args: tuple[Any, ...]) -> dict[str, Any]:
        """A single argument that was given without its name, as LlamaIndex does where the schema has just one."""
        names = list(self.metadata.get_parameters_dict().get("properties", {}))
        if len(args) > len(names):
            raise InvalidInput(f"takes {len(names)} arguments, found {len(args)}")
        return dict(zip(names, args, strict=False))
