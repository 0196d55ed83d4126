"""LangChain agents (1.x) and deepagents: one middleware guards every tool call of an agent.

    agent = create_agent(model, tools, middleware=[..., GuardMiddleware(guard, agent="triage")])
    with guard.task("triage", initiator="user:alice"):
        agent.invoke(...)

Put it last. It holds in any place, since the decision falls when the tool starts; but what a middleware behind it answers in the place of a
tool, no guard sees. Each sub-agent gets a GuardMiddleware of its own, with its own name; a sub-agent without one can run no tool.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from agentguard import Guard, InvalidInput
from agentguard.task import Task
from agentguard_adapters.langgraph import ToolCallHook
from agentguard_adapters.versions import needs

with needs("langchain", "1.2.11"):
    from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
    from langchain_core.tools import BaseTool
    from langgraph.prebuilt.tool_node import ToolCallRequest

    from agentguard_adapters.langchain_run import OnDeny

#: Types of tools given as dictionaries that the model's provider does not run itself.
_RUN_HERE = (None, "function", "custom")


class GuardMiddleware(AgentMiddleware):
    """Every tool call of the agent passes the guard.

    agent     its name in the policy
    task      the authority; by default the current task. Another agent's task is narrowed down to this agent, where the policy's
              `delegates` let it be
    on_deny   "message": the model is answered with an error ToolMessage, and goes on; "raise": the run ends with Denied
    unsafe_provider_tools   let the model have tools that its provider runs, such as web search; the guard never sees their calls
    """

    def __init__(
        self, guard: Guard, agent: str, *, task: Task | None = None, on_deny: OnDeny = "message", unsafe_provider_tools: bool = False
    ) -> None:
        super().__init__()
        self._hook = ToolCallHook(guard, agent, task=task, on_deny=on_deny)
        self._unsafe_provider_tools = unsafe_provider_tools

    def wrap_tool_call(self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Any]) -> Any:
        return self._hook.wrap(request, handler)

    async def awrap_tool_call(self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[Any]]) -> Any:
        return await self._hook.awrap(request, handler)

    def wrap_model_call(self, request: ModelRequest, handler: Callable[[ModelRequest], ModelResponse]) -> ModelResponse:
        self._pin(request)
        return handler(request)

    async def awrap_model_call(self, request: ModelRequest, handler: Callable[[ModelRequest], Awaitable[ModelResponse]]) -> ModelResponse:
        self._pin(request)
        return await handler(request)

    def _pin(self, request: ModelRequest) -> None:
        """Pin the tools before the model says anything, and refuse those that no guard can stand before."""
        for tool in request.tools:
            if isinstance(tool, BaseTool):
                self._hook.know(tool)
            elif tool.get("type") not in _RUN_HERE and not self._unsafe_provider_tools:
                found = (
                    f"the tool {tool.get('name') or tool.get('type')} runs at the model's provider, where the guard does not see its calls"
                )
                raise InvalidInput(found, hint="remove it, or pass unsafe_provider_tools=True")
