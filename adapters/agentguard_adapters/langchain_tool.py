"""The guarded tool: stands for a LangChain tool at the lowest layer that every way of calling it passes."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, Tool
from langchain_core.tools.base import _get_type_hints
from langchain_core.utils.uuid import uuid7
from pydantic import PrivateAttr

from agentguard import Denied, Guard, ToolCall
from agentguard.errors import OutputRefused
from agentguard.plain import is_json
from agentguard.task import Task
from agentguard.tools.integrity import Tool as Pinned
from agentguard_adapters.langchain_inner import Inner
from agentguard_adapters.langchain_run import Backstop, OnDeny, Run, answer, node_fills, passed
from agentguard_adapters.seats import seat

_SHOWN = ("name", "description", "args_schema", "return_direct", "verbose", "callbacks", "tags", "metadata")
_HANDLING = ("handle_tool_error", "handle_validation_error", "response_format", "extras")
_TEXT_SCHEMA = {"type": "object", "properties": {"tool_input": {"type": "string"}}, "required": ["tool_input"]}
_NO_CONFIG: RunnableConfig = {}


class GuardedTool(BaseTool):
    """Stands for another tool. Made by `guard_tool`."""

    _guard: Guard = PrivateAttr()
    _inner: Inner = PrivateAttr()
    _backstop: Backstop = PrivateAttr()
    _seat: tuple[str | None, Task | None] = PrivateAttr()
    _options: tuple[OnDeny, bool] = PrivateAttr()
    _twins: dict[str, Callable[..., Any]] = PrivateAttr()

    def __init__(self, guard: Guard, tool: BaseTool, *, agent: str | None, task: Task | None, on_deny: OnDeny, injects: bool) -> None:
        shown = {name: getattr(tool, name) for name in (*_SHOWN, *_HANDLING)}
        if isinstance(tool, Tool) and tool.args_schema is None:
            shown["args_schema"] = _TEXT_SCHEMA
        super().__init__(**shown)
        self._guard, self._inner, self._seat, self._options = guard, Inner(guard, tool), (agent, task), (on_deny, injects)
        self._backstop = Backstop(guard)
        twins = [(name, getattr(tool, name, None), way) for name, way in (("func", self._run), ("coroutine", self._arun))]
        self._twins = {name: face_of(fn, way) for name, fn, way in twins if fn is not None}

    @property
    def pinned(self) -> Pinned:
        """The tool as the guard knows it."""
        return self._inner.pinned

    @property
    def hidden(self) -> frozenset[str]:
        """The arguments that only a framework may fill in."""
        return self._inner.hidden

    def run(self, tool_input: Any, *args: Any, **kwargs: Any) -> Any:
        run = Run(self._inner, self._backstop, kwargs.get("tool_call_id"))
        try:
            call = self._present(run, tool_input)
            with run.under(self._guard.check(call, task=run.task, tool=self.pinned, binder=run.bind)):
                run.run_id = kwargs["run_id"] = kwargs.get("run_id") or uuid7()
                return super().run(run.shown(call), *args, **kwargs)
        except (Denied, OutputRefused) as denied:
            return answer(denied, self._options[0], self.name, run.call_id, run.mistakes)

    async def arun(self, tool_input: Any, *args: Any, **kwargs: Any) -> Any:
        run = Run(self._inner, self._backstop, kwargs.get("tool_call_id"))
        try:
            call = self._present(run, tool_input)
            with run.under(await self._guard.acheck(call, task=run.task, tool=self.pinned, binder=run.bind)):
                run.run_id = kwargs["run_id"] = kwargs.get("run_id") or uuid7()
                return await super().arun(run.shown(call), *args, **kwargs)
        except (Denied, OutputRefused) as denied:
            return answer(denied, self._options[0], self.name, run.call_id, run.mistakes)

    def _run(self, *args: Any, config: RunnableConfig = _NO_CONFIG, run_manager: Any = None, **kwargs: Any) -> Any:
        run = passed.get()
        if run is not None and run.inner is self._inner:  # on the way from `run`
            return run.go(config, run_manager)
        run = Run(self._inner, self._backstop, None)
        call = self._present(run, self.pinned.parameters.present(args, kwargs))
        with run.under(self._guard.check(call, task=run.task, tool=self.pinned, binder=run.bind)):
            return run.go(config, run_manager)

    async def _arun(self, *args: Any, config: RunnableConfig = _NO_CONFIG, run_manager: Any = None, **kwargs: Any) -> Any:
        run = passed.get()
        if run is not None and run.inner is self._inner:
            return await run.ago(config, run_manager)
        run = Run(self._inner, self._backstop, None)
        call = self._present(run, self.pinned.parameters.present(args, kwargs))
        with run.under(await self._guard.acheck(call, task=run.task, tool=self.pinned, binder=run.bind)):
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

    def _present(self, run: Run, given: Any) -> ToolCall:
        """The call as the model presented it; what a framework filled in goes to the run. Raises Denied where there is no seat."""
        agent, run.task = seat(self._guard, *self._seat)
        arguments = {next(iter(self.args), "input"): given} if isinstance(given, str) else given
        if type(arguments) is dict:
            filled = self._options[1] or node_fills.get()
            hidden = self.hidden & arguments.keys()
            run.injected = {name: arguments[name] for name in hidden if filled or not is_json(arguments[name])}
            arguments = {name: value for name, value in arguments.items() if name not in run.injected}
        return ToolCall(agent, self.pinned.name, arguments, run.call_id)


def face_of(fn: Callable[..., Any], way: Callable[..., Any]) -> Callable[..., Any]:
    """A function that looks like `fn` and goes `way`: LangGraph reads annotations of a tool's function to see what to inject."""

    async def coroutine(*args: Any, **kwargs: Any) -> Any:
        return await way(*args, **kwargs)

    def function(*args: Any, **kwargs: Any) -> Any:
        return way(*args, **kwargs)

    twin: Any = functools.update_wrapper(coroutine if inspect.iscoroutinefunction(way) else function, fn)
    del twin.__wrapped__  # a way around the guard
    twin.__annotations__ = _get_type_hints(fn, include_extras=True) or {}
    twin.__signature__ = inspect.signature(fn)
    return twin  # type: ignore[no-any-return]  # a function by construction


for _way in (GuardedTool._run, GuardedTool._arun):  # LangChain reads both at every call, and need not work them out each time
    _way.__annotations__ = {"config": RunnableConfig}
    _way.__signature__ = inspect.signature(_way)  # type: ignore[union-attr]
