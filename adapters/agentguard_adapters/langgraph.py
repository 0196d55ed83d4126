"""LangGraph (1.x): the hook of `ToolNode`, which `create_agent` and deepagents use too.

    node = guard_tool_node(guard, tools, agent="triage")

The hook knows the agent and sees the call before LangGraph drops what a model presented under the names of injected arguments. It puts a
guarded tool in the place of the tool; that one asks the guard, after every other hook has had its turn, so no hook can rewrite a call
that was checked. What starts below without having been checked is stopped (`Backstop`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from agentguard import Denied, Guard, InvalidInput, ToolCall
from agentguard.context import current_task
from agentguard.task import Task
from agentguard_adapters.langchain_core import GuardedTool, guard_tool, guard_tools
from agentguard_adapters.langchain_run import Backstop, OnDeny, answer, backstop, node_fills
from agentguard_adapters.seats import acting_as, seat
from agentguard_adapters.versions import needs

with needs("langgraph", "1.1.5", extra="langchain"):
    from langchain_core.messages import ToolMessage
    from langchain_core.tools import BaseTool
    from langgraph.prebuilt import ToolNode
    from langgraph.prebuilt.tool_node import ToolCallRequest

__all__ = ["ToolCallHook", "acting_as", "guard_tool_node"]

_MAX_TOOLS = 4096


def guard_tool_node(
    guard: Guard,
    tools: Iterable[BaseTool | Callable[..., Any]],
    *,
    agent: str,
    task: Task | None = None,
    on_deny: OnDeny = "message",
    **options: Any,
) -> ToolNode:
    """A ToolNode whose calls are `agent`'s. Its tools are guarded, and both hooks are set: with one, the other kind of graph is open.

    agent, task, on_deny   as in `guard_tool`
    options                ToolNode's own, but for its two hooks
    """
    if on_deny == "raise" and options.get("handle_tool_errors"):
        raise InvalidInput("handle_tool_errors would turn a denial into a message that holds what was found", hint='use on_deny="message"')
    hook = ToolCallHook(guard, agent, task=task, on_deny=on_deny)
    guarded = guard_tools(guard, tools, agent=agent, task=task, on_deny=on_deny, injects=True)
    return ToolNode(guarded, wrap_tool_call=hook.wrap, awrap_tool_call=hook.awrap, **options)


class ToolCallHook:
    """`wrap_tool_call` and `awrap_tool_call` of one agent."""

    def __init__(self, guard: Guard, agent: str, *, task: Task | None = None, on_deny: OnDeny = "message") -> None:
        self._guard, self._agent, self._task, self._on_deny = guard, agent, task, on_deny
        self._backstop = Backstop(guard)
        self._known: dict[int, tuple[BaseTool, GuardedTool]] = {}

    def wrap(self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Any]) -> Any:
        """`wrap_tool_call`: what the tool gives, or the denial, a ToolMessage. Raises Denied with on_deny="raise"."""
        try:
            task, tool, doubtful = self._look(request)
            if doubtful is not None:
                self._guard.check(doubtful, task=task, tool=None if tool is None else tool.pinned).release()
            with self._below(task):
                return handler(request if tool is None else request.override(tool=tool))
        except Denied as denied:
            return self._answer(denied, request)

    async def awrap(self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[Any]]) -> Any:
        """`awrap_tool_call`, the same."""
        try:
            task, tool, doubtful = self._look(request)
            if doubtful is not None:
                (await self._guard.acheck(doubtful, task=task, tool=None if tool is None else tool.pinned)).release()
            with self._below(task):
                return await handler(request if tool is None else request.override(tool=tool))
        except Denied as denied:
            return self._answer(denied, request)

    def know(self, tool: BaseTool) -> GuardedTool:
        """The guarded tool for a tool, which is pinned the first time."""
        known = self._known.get(id(tool))
        if known is None:
            if len(self._known) >= _MAX_TOOLS:  # an application that makes its tools anew for each run
                self._known.clear()
            guarded = guard_tool(self._guard, tool, agent=self._agent, on_deny=self._on_deny)
            known = self._known[id(tool)] = (tool, guarded)  # the tool is kept, so its id is not given to another one
        return known[1]

    def _look(self, request: ToolCallRequest) -> tuple[Task | None, GuardedTool | None, ToolCall | None]:
        """The task, the guarded tool, and the call if it must be judged here: of a tool that nobody knows, or with an argument that only
        the framework may fill in, which LangGraph would drop.
        """
        agent, task = seat(self._guard, self._agent, self._task)
        tool = self.know(request.tool) if request.tool is not None else None
        name, arguments = (tool.pinned.name if tool is not None else request.tool_call["name"]), request.tool_call["args"]
        if tool is not None and tool.hidden.isdisjoint(arguments):
            return task, tool, None
        return task, tool, ToolCall(agent, name, arguments, request.tool_call["id"])

    @contextmanager
    def _below(self, task: Task | None) -> Iterator[None]:
        tokens = current_task.set(task), backstop.set(self._backstop), node_fills.set(True)
        try:
            yield
        finally:
            current_task.reset(tokens[0])
            backstop.reset(tokens[1])
            node_fills.reset(tokens[2])

    def _answer(self, denied: Denied, request: ToolCallRequest) -> ToolMessage:
        return answer(denied, self._on_deny, request.tool_call["name"], request.tool_call["id"])
