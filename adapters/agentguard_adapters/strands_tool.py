"""The tool that stands for a Strands tool."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, NamedTuple

from strands.tools.decorator import DecoratedFunctionTool
from strands.types._events import ToolInterruptEvent, ToolResultEvent, ToolStreamEvent
from strands.types.tools import AgentTool

from agentguard import Denied, Guard
from agentguard.errors import OutputRefused
from agentguard.task import Task
from agentguard_adapters.stand_in import asking, awaited, pinned_of, stand_in, told

#: The name under which a tool that is no function gets what Strands passes beside the arguments.
_RUN = "_strands_run"


class Paused(Exception):
    """A tool waits for a human, and will be called again."""


class ToolFailed(Exception):
    """A tool that is no function said that it failed."""


class _Run(NamedTuple):
    """What Strands passes to a tool beside the arguments."""

    tool_use: Mapping[str, Any]
    invocation_state: dict[str, Any]
    more: dict[str, Any]


class GuardedTool(AgentTool):
    """Stands for a tool, and asks the guard before each run. A denial is an error result; a direct call raises it.

    Raises InvalidInput where the tool cannot be guarded, or another one is registered under its name.
    """

    def __init__(self, guard: Guard, tool: AgentTool, *, agent: str | None = None, task: Task | None = None) -> None:
        super().__init__()
        self._guard, self._tool, self._agent, self._task = guard, tool, agent, task
        if isinstance(tool, DecoratedFunctionTool):
            self._stand = _function(guard, tool)
            self._inner: AgentTool | None = DecoratedFunctionTool(tool.tool_name, tool.tool_spec, self._stand, tool._metadata)
        else:
            self._stand, self._inner = _streaming(guard, tool), None

    def given(self, guard: Guard) -> AgentTool:
        """What this tool stands for, to be guarded for somebody else: one call is one decision. Another guard is asked as well."""
        return self._tool if guard is self._guard else self

    @property
    def tool_name(self) -> str:
        return str(self._tool.tool_name)

    @property
    def tool_spec(self) -> Any:
        return self._tool.tool_spec

    @property
    def tool_type(self) -> str:
        return str(self._tool.tool_type)

    @property
    def supports_hot_reload(self) -> bool:
        return bool(self._tool.supports_hot_reload)

    def get_display_properties(self) -> dict[str, str]:
        """What the tool shows of itself."""
        return dict(self._tool.get_display_properties())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The tool as a function, where it is one. Raises Denied."""
        if self._inner is None:
            raise TypeError(f"the tool {self.tool_name} is no function")
        if self._agent is None:
            return self._stand(*args, **kwargs)
        with asking(self._agent, self.tool_name, task=self._task):
            return self._stand(*args, **kwargs)

    async def stream(self, tool_use: Any, invocation_state: dict[str, Any], **kwargs: Any) -> AsyncIterator[Any]:
        """Run the tool as Strands does, once the guard allows it."""
        with asking(self._agent, self.tool_name, tool_use["toolUseId"], tool_use["input"], self._task) as asked:
            events = self._start(tool_use, invocation_state, kwargs)
            first = await anext(events, None)  # nothing is given out in here, where the caller would find itself announced as the tool
        if first is not None and not asked.taken:
            said = str(first.get("tool_result", {}).get("content", ""))  # the arguments do not fit
            asked.refuse(self._guard, said)
            yield failed(tool_use, told(asked.denied, said), asked.denied)  # type: ignore[arg-type]  # just refused
        elif asked.denied is not None:
            yield failed(tool_use, told(asked.denied), asked.denied)
        elif first is not None:
            yield first
            async for event in events:
                yield event

    async def _start(self, tool_use: Any, invocation_state: dict[str, Any], more: dict[str, Any]) -> AsyncIterator[Any]:
        if self._inner is not None:
            async for event in self._inner.stream(tool_use, invocation_state, **more):
                yield event
            return
        last: list[Any] = []  # held back until the body is through: Strands asks for no more after it, as if the tool had been stopped
        try:
            async for event in await awaited(self._stand)(**tool_use["input"], **{_RUN: _Run(tool_use, invocation_state, more)}):
                if isinstance(event, ToolStreamEvent):
                    yield event
                else:
                    last.append(event)
        except (Denied, OutputRefused) as refused:
            last = [failed(tool_use, told(refused), refused)]
        except (Paused, ToolFailed):
            pass  # recorded as such, and it said so itself
        for event in last:
            yield event


def failed(tool_use: Any, text: str, denied: Denied | OutputRefused) -> Any:
    """A denial, or the refusal of an output, as Strands tells a model about a call that failed."""
    return ToolResultEvent({"toolUseId": str(tool_use["toolUseId"]), "status": "error", "content": [{"text": text}]}, exception=denied)


def _function(guard: Guard, tool: Any) -> Callable[..., Any]:
    """The stand-in for a decorated function: it gets the arguments after Strands made of them what the function takes."""
    metadata, fn = tool._metadata, tool._tool_func
    injected = tuple(name for name in metadata.signature.parameters if metadata._is_special_parameter(name))
    stand = stand_in(
        guard,
        fn,
        name=tool.tool_name,
        injected=injected,
        schema=tool.tool_spec["inputSchema"].get("json"),
        watch=((tool, "_tool_func"), (tool, "_metadata")),
        pauses=("strands.interrupt.InterruptException",),
        on_deny="raise",
    )
    if not inspect.isasyncgenfunction(fn):
        return stand

    async def streamed(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        async for item in await awaited(stand)(*args, **kwargs):
            yield item

    streamed.__agentguard_tool__ = pinned_of(stand)  # type: ignore[attr-defined]
    return streamed


def _streaming(guard: Guard, tool: AgentTool) -> Callable[..., Any]:
    """The stand-in for any other tool: its body is the tool's own stream of events."""

    async def body(*, _strands_run: _Run, **arguments: Any) -> AsyncIterator[Any]:
        use = {**_strands_run.tool_use, "input": arguments}
        ended: Exception | None = None
        async for event in tool.stream(use, _strands_run.invocation_state, **_strands_run.more):
            yield event
            if isinstance(event, ToolInterruptEvent):
                ended = Paused(tool.tool_name)
            elif isinstance(event, ToolResultEvent) and event.tool_result.get("status") == "error":
                ended = ToolFailed(tool.tool_name)
        if ended is not None:
            raise ended

    schema = tool.tool_spec.get("inputSchema", {}).get("json")
    pauses = (f"{Paused.__module__}.{Paused.__qualname__}",)
    return stand_in(guard, body, name=tool.tool_name, injected=(_RUN,), schema=schema, pauses=pauses, on_deny="raise")
