"""LangChain tools (langchain-core 1): a guarded tool stands for each.

    tools = guard_tools(guard, tools, agent="triage")

Name, description and schema stay; `invoke`, `batch`, `stream`, `run`, their async forms, `func`, `coroutine`, `_run` and `_arun` are judged
before the tool runs. The tool object that was given stays what it was: whoever holds it goes past the guard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from agentguard import Guard, InvalidInput
from agentguard.task import Task
from agentguard_adapters.versions import needs

with needs("langchain-core", "1.5.4", extra="langchain"):
    from langchain_core.tools import BaseTool, BaseToolkit
    from langchain_core.tools import tool as make_tool

    from agentguard_adapters.langchain_run import OnDeny
    from agentguard_adapters.langchain_tool import GuardedTool

__all__ = ["GuardedTool", "guard_tool", "guard_tools"]


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
