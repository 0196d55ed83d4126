"""Strands Agents (strands-agents 1.62): one plugin guards every tool call of an agent.

    agent = Agent(model=model, tools=tools, plugins=[GuardPlugin(guard, agent="triage")])
    with guard.task("triage", initiator="user:alice"):
        agent("...")

Functions, classes of one's own, MCP tools, agents as tools, swarm hand-offs and `agent.tool.search()` are judged before they run, in any
place of the plugin. Each agent of a swarm, a graph, or inside a tool gets a plugin of its own. What a middleware that is added to the agent
later puts in a tool's place, no guard sees.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

from agentguard import Denied, Guard
from agentguard.task import Task
from agentguard_adapters.stand_in import Asked, OnDeny, told
from agentguard_adapters.versions import needs

with needs("strands-agents", "1.62", extra="strands"):
    from strands.hooks import AfterToolCallEvent, AgentInitializedEvent
    from strands.middleware import ExecuteToolStage
    from strands.plugins import Plugin
    from strands.tools.structured_output.structured_output_tool import StructuredOutputTool
    from strands.types.tools import AgentTool

    from agentguard_adapters.strands_tool import GuardedTool, failed

__all__ = ["GuardPlugin", "GuardedTool", "guard_tools"]

_MAX_TOOLS = 4096


def guard_tools(guard: Guard, tools: Iterable[Any], *, agent: str | None = None, task: Task | None = None) -> list[GuardedTool]:
    """A guarded tool for each tool: what `@strands.tool` makes, or an AgentTool. An agent needs no plugin for these, but may have one.

    agent, task   who calls, and by which authority; by default the current task's
    """
    return [tool if isinstance(tool, GuardedTool) else GuardedTool(guard, tool, agent=agent, task=task) for tool in tools]


class GuardPlugin(Plugin):
    """Every tool call of the agent passes the guard.

    agent     its name in the policy
    task      the authority; by default the current task. Another agent's task is narrowed down, where the policy's `delegates` let it be
    on_deny   "message": the model is answered with an error result, and goes on; "raise": the run ends with an EventLoopException, whose
              cause is Denied
    """

    def __init__(self, guard: Guard, agent: str, *, task: Task | None = None, on_deny: OnDeny = "message") -> None:
        super().__init__()
        self._guard, self._agent, self._task, self._on_deny = guard, agent, task, on_deny
        self._known: dict[int, tuple[AgentTool, GuardedTool]] = {}

    @property
    def name(self) -> str:
        """Its name among the agent's plugins."""
        return "agentguard"

    def init_agent(self, agent: Any) -> None:
        """Strands calls this when the agent is made."""
        agent.add_hook(self._made, AgentInitializedEvent)
        agent.add_hook(self._after, AfterToolCallEvent)

    def _made(self, event: Any) -> None:
        """Every plugin has put its middleware in by now, and the last one is the nearest to the tool."""
        event.agent.add_middleware(ExecuteToolStage, self._around)

    async def _around(self, context: Any, go: Callable[[Any], AsyncIterator[Any]]) -> AsyncIterator[Any]:
        """The middleware nearest to the tool: a guarded tool takes its place."""
        if context.tool is None:  # nobody knows it
            asked = Asked(self._agent, context.tool_use["name"], context.tool_use["toolUseId"], context.tool_use["input"], self._task)
            denied = asked.refuse(self._guard, "no such tool")
            yield failed(context.tool_use, told(denied), denied)
            return
        async for event in go(
            context if isinstance(context.tool, StructuredOutputTool) else context.replace(tool=self._known_as(context.tool))
        ):
            yield event

    def _known_as(self, tool: AgentTool) -> GuardedTool:
        if isinstance(tool, GuardedTool):  # whoever it was made for, this agent's call is this agent's
            tool = tool.given(self._guard)
        known = self._known.get(id(tool))
        if known is None:
            if len(self._known) >= _MAX_TOOLS:  # an application that makes its tools anew for each run
                self._known.clear()
            known = self._known[id(tool)] = (tool, GuardedTool(self._guard, tool, agent=self._agent, task=self._task))
        return known[1]

    def _after(self, event: Any) -> None:
        """What is raised here leaves the run; what a tool raises becomes an error result."""
        if self._on_deny == "raise" and isinstance(event.exception, Denied):
            raise event.exception
