"""LangChain tools (langchain-core 1.7): a guarded tool stands for each, at the lowest layer that every way of calling it passes.

    tools = guard_tools(guard, tools, agent="triage")

The same name, description and schema; `invoke`, `batch`, `stream`, `run`, their async forms, `func`, `coroutine`, `_run` and `_arun` are
judged before the tool runs. The tool object that was given stays what it was: whoever holds it goes past the guard.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias

from agentguard import Code, Denied, Guard, InvalidInput, ToolCall
from agentguard.plain import is_json
from agentguard.task import Task
from agentguard_adapters.langchain_run import Inner, Run, TextTool, node_fills, uuid7
from agentguard_adapters.seats import seat
from langchain_core.messages import ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, BaseToolkit
from langchain_core.tools import tool as make_tool
from langchain_core.tools.base import _get_type_hints

OnDeny: TypeAlias = Literal["message", "raise"]
_SHOWN = (
    ("name", "description", "args_schema", "return_direct", "verbose", "callbacks", "tags", "metadata")
    + ("handle_tool_error", "handle_validation_error", "response_format", "extras")
)  # fmt: skip
_TEXT_SCHEMA = {"type": "object", "properties": {"tool_input": {"type": "string"}}, "required": ["tool_input"]}


class GuardedTool(BaseTool):
    """Stands for another tool. Made by `guard_tool`."""

    def __init__(self, guard: Guard, inner: BaseTool, *, agent: str | None, task: Task | None, on_deny: OnDeny, injects: bool) -> None:
        shown = {name: getattr(inner, name) for name in _SHOWN}
        if isinstance(inner, TextTool) and inner.args_schema is None:
            shown["args_schema"] = _TEXT_SCHEMA
        super().__init__(**shown)
        self._guard, self._agent, self._task, self._on_deny, self._injects = guard, agent, task, on_deny, injects
        self._inner = Inner(guard, inner)
