"""The guarded tool of CrewAI: a copy of a tool, with the stand-in in the place of its function."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from crewai.tools.base_tool import BaseTool, Tool
from crewai.tools.tool_failure import ToolFailure
from crewai.utilities.string_utils import sanitize_tool_name
from pydantic import PrivateAttr

from agentguard import Denied, InvalidInput
from agentguard_adapters.crewai_run import Binding, reached
from agentguard_adapters.stand_in import stand_in, told


class DeniedFailure(ToolFailure):
    """A denial as CrewAI's own report of a tool that did not do what it was asked. `denied` is the denial."""

    _denied: Denied = PrivateAttr()

    @classmethod
    def of(cls, denied: Denied) -> DeniedFailure:
        """What a guarded tool returns in the place of an output."""
        failure = cls(message=told(denied))
        failure._denied = denied
        return failure

    @property
    def denied(self) -> Denied:
        """The denial, its record and its reason."""
        return self._denied


def guarded_tool(tool: BaseTool, binding: Binding, *, raises: bool = False, copy: bool = True) -> BaseTool:
    """The tool with the stand-in in the place of its function: a copy, of the same class, so that what knows the class knows it too."""
    if type(tool).run not in (BaseTool.run, Tool.run):
        raise InvalidInput(f"the tool {tool.name!r:.80} has a `run` of its own", hint="put what it does into `_run`")
    made = tool.model_copy() if copy else tool
    body = _body(tool.func if isinstance(tool, Tool) else tool._run, sanitize_tool_name(tool.name), binding, raises)

    async def arun(*args: Any, **kwargs: Any) -> Any:
        found = await asyncio.to_thread(body, *args, **kwargs)
        return await found if inspect.isawaitable(found) else found

    if isinstance(tool, Tool):
        made.func = body
    for name, way in (("_run", body), ("_arun", arun)):
        object.__setattr__(made, name, way)  # pydantic takes no methods
    return made


def _body(fn: Callable[..., Any], name: str, binding: Binding, raises: bool) -> Callable[..., Any]:
    if getattr(fn, "__agentguard_guard__", None) is binding.guard:
        fn = fn.__agentguard_body__  # type: ignore[attr-defined]  # one that `guard_tools` made: one call is one decision
    stand = stand_in(binding.guard, fn, name=name, agent=binding.agent, task=binding.task, on_deny="raise")

    def answer(denied: Denied) -> DeniedFailure:
        if raises:
            raise denied
        return DeniedFailure.of(denied)

    made: Any
    if inspect.iscoroutinefunction(stand):

        async def made(*args: Any, **kwargs: Any) -> Any:
            with reached(name, asyncio.current_task()):
                try:
                    return await stand(*args, **kwargs)
                except Denied as denied:
                    return answer(denied)

    else:

        def made(*args: Any, **kwargs: Any) -> Any:
            with reached(name):
                try:
                    return stand(*args, **kwargs)
                except Denied as denied:
                    return answer(denied)

    made.__signature__ = inspect.signature(fn)  # CrewAI compares it with the schema
    made.__agentguard_guard__, made.__agentguard_body__ = binding.guard, fn
    return made  # type: ignore[no-any-return]  # a function by construction
