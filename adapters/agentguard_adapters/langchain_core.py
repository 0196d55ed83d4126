"""LangChain tools (langchain-core 1.7): a guarded tool stands for each, at the lowest layer that every way of calling it passes.

    tools = guard_tools(guard, tools, agent="triage")

Name, description and schema stay; `invoke`, `batch`, `stream`, `run`, their async forms, `func`, `coroutine`, `_run` and `_arun` are judged
before the tool runs. The tool object that was given stays what it was: whoever holds it goes past the guard.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, BaseToolkit, Tool
from langchain_core.tools import tool as make_tool
from langchain_core.utils.uuid import uuid7
from pydantic import PrivateAttr

from agentguard import Denied, Guard, InvalidInput, ToolCall
from agentguard.integrity import Tool as Pinned
from agentguard.plain import is_json
from agentguard.task import Task
from agentguard_adapters.langchain_run import Inner, OnDeny, Run, answer, face_of, node_fills, passed
from agentguard_adapters.seats import seat

_SHOWN = ("name", "description", "args_schema", "return_direct", "verbose", "callbacks", "tags", "metadata")
_HANDLING = ("handle_tool_error", "handle_validation_error", "response_format", "extras")
_TEXT_SCHEMA = {"type": "object", "properties": {"tool_input": {"type": "string"}}, "required": ["tool_input"]}
_NO_CONFIG: RunnableConfig = {}


def guard_tools(
    guard: Guard,
    tools: Iterable[BaseTool | BaseToolkit | Callable[..., Any]],
    *,
    agent: str | None = None,
    task: Task | None = None,
    on_deny: OnDeny = "message",
    injects: bool = False,
) -> list[BaseTool]:
    """Guarded tools for tools, functions and toolkits, as `guard_tool` makes them."""
    given = [one for tool in tools for one in (tool.get_tools() if isinstance(tool, BaseToolkit) else [tool])]
    return [guard_tool(guard, tool, agent=agent, task=task, on_deny=on_deny, injects=injects) for tool in given]


def guard_tool(
    guard: Guard,
    tool: BaseTool | Callable[..., Any],
    *,
    agent: str | None = None,
    task: Task | None = None,
    on_deny: OnDeny = "message",
    injects: bool = False,
) -> GuardedTool:
    """A tool that stands for `tool`, and asks the guard before each run.

    agent     who calls it; by default the agent of the current task. Another agent's task is narrowed down to it, where the policy's
              `delegates` let it be
    task      the authority; by default the current task
    on_deny   "message": a model's tool call is answered with an error ToolMessage, and a direct call raises Denied; "raise": both raise
    injects   whether the caller of this tool fills in its injected arguments itself, as ToolNode does, after dropping what the model
              presented under their names. Otherwise such an argument is refused if it could have come from a model: if it is JSON

    Raises InvalidInput where the tool cannot be guarded, or another one is registered under its name.
    """
    inner = tool if isinstance(tool, BaseTool) else make_tool(tool)
    if isinstance(inner, GuardedTool):
        if inner._guard is not guard:
            raise InvalidInput(f"the tool {inner.name!r} is guarded by another guard")
        return inner
    return GuardedTool(guard, inner, agent=agent, task=task, on_deny=on_deny, injects=injects)


class GuardedTool(BaseTool):
    """Stands for another tool. Made by `guard_tool`."""

    _guard: Guard = PrivateAttr()
    _inner: Inner = PrivateAttr()
    _seat: tuple[str | None, Task | None] = PrivateAttr()
    _options: tuple[OnDeny, bool] = PrivateAttr()
    _twins: dict[str, Callable[..., Any]] = PrivateAttr()

    def __init__(self, guard: Guard, tool: BaseTool, *, agent: str | None, task: Task | None, on_deny: OnDeny, injects: bool) -> None:
        shown = {name: getattr(tool, name) for name in (*_SHOWN, *_HANDLING)}
        if isinstance(tool, Tool) and tool.args_schema is None:
            shown["args_schema"] = _TEXT_SCHEMA
        super().__init__(**shown)
        self._guard, self._inner, self._seat, self._options = guard, Inner(guard, tool), (agent, task), (on_deny, injects)
        twins = [(name, getattr(tool, name, None), way) for name, way in (("func", self._run), ("coroutine", self._arun))]
        self._twins = {name: face_of(fn, way) for name, fn, way in twins if fn is not None}

    @property
    def pinned(self) -> Pinned:
        """The tool as the guard knows it."""
        return self._inner.pinned

    def run(self, tool_input: Any, *args: Any, **kwargs: Any) -> Any:
        run = Run(self._inner, kwargs.get("tool_call_id"))
        try:
            call, tool = self._present(run, tool_input)
            with run.under(self._guard.check(call, task=run.task, tool=tool)):
                run.run_id = kwargs["run_id"] = kwargs.get("run_id") or uuid7()
                return super().run(run.shown(call), *args, **kwargs)
        except Denied as denied:
            return answer(denied, self._options[0], self.name, run.call_id, run.mistakes)

    async def arun(self, tool_input: Any, *args: Any, **kwargs: Any) -> Any:
        run = Run(self._inner, kwargs.get("tool_call_id"))
        try:
            call, tool = self._present(run, tool_input)
            with run.under(await self._guard.acheck(call, task=run.task, tool=tool)):
                run.run_id = kwargs["run_id"] = kwargs.get("run_id") or uuid7()
                return await super().arun(run.shown(call), *args, **kwargs)
        except Denied as denied:
            return answer(denied, self._options[0], self.name, run.call_id, run.mistakes)

    def _run(self, *args: Any, config: RunnableConfig = _NO_CONFIG, run_manager: Any = None, **kwargs: Any) -> Any:
        run = passed.get()
        if run is not None and run.inner is self._inner:  # on the way from `run`
            return run.go(config, run_manager)
        run = Run(self._inner, None)
        call, tool = self._present(run, run.named(args, kwargs))
        with run.under(self._guard.check(call, task=run.task, tool=tool)):
            return run.go(config, run_manager)

    async def _arun(self, *args: Any, config: RunnableConfig = _NO_CONFIG, run_manager: Any = None, **kwargs: Any) -> Any:
        run = passed.get()
        if run is not None and run.inner is self._inner:
            return await run.ago(config, run_manager)
        run = Run(self._inner, None)
        call, tool = self._present(run, run.named(args, kwargs))
        with run.under(await self._guard.acheck(call, task=run.task, tool=tool)):
            return await run.ago(config, run_manager)

    @property
    def func(self) -> Callable[..., Any] | None:
        """The tool's `func`, guarded. LangGraph reads its annotations to find injected arguments."""
        return self._twins.get("func")

    @property
    def coroutine(self) -> Callable[..., Any] | None:
        """The tool's `coroutine`, guarded."""
        return self._twins.get("coroutine")

    def get_input_schema(self, config: RunnableConfig | None = None) -> Any:
        return self._inner.tool.get_input_schema(config)

    @property
    def tool_call_schema(self) -> Any:
        return super().tool_call_schema if isinstance(self.args_schema, dict) else self._inner.tool.tool_call_schema

    @functools.cached_property
    def _injected_args_keys(self) -> frozenset[str]:
        return self._inner.tool._injected_args_keys

    def _filter_injected_args(self, tool_input: dict[str, Any]) -> dict[str, Any]:
        return tool_input  # what `run` is given holds none

    def _to_args_and_kwargs(self, tool_input: Any, tool_call_id: str | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (), {}  # the run has them, bound and checked

    def _present(self, run: Run, given: Any) -> tuple[ToolCall, Pinned]:
        """The call as the model presented it; what a framework filled in goes to the run. Raises Denied where there is no seat."""
        agent, run.task = seat(self._guard, *self._seat)
        pinned = self._inner.pinned
        arguments = {next(iter(self.args), "input"): given} if isinstance(given, str) else given
        if type(arguments) is dict:
            filled = self._options[1] or node_fills.get()
            named = [name for name in pinned.entry.injected if name in arguments]
            run.injected = {name: arguments[name] for name in named if filled or not is_json(arguments[name])}
            arguments = {name: value for name, value in arguments.items() if name not in run.injected}
        return ToolCall(agent, pinned.name, arguments, run.call_id), pinned.with_binder(run.bind)


for _way in (GuardedTool._run, GuardedTool._arun):  # LangChain reads both at every call, and need not work them out each time
    _way.__annotations__ = {"config": RunnableConfig}
    _way.__signature__ = inspect.signature(_way)  # type: ignore[union-attr]
