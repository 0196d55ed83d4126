"""Google ADK (2.13): one plugin guards every tool call of every agent of an app.

    app = App(name="support", root_agent=triage, plugins=[GuardPlugin(guard)])
    with guard.task("triage", initiator="user:alice"):
        async for event in Runner(app=app, session_service=...).run_async(...): ...

An agent's name in ADK is its name in the policy. `transfer_to_agent` and `AgentTool` are tool calls like any other; who is called runs
under a task derived from the caller's. The decision falls where ADK calls the tool's function, after every callback and confirmation. A
tool object that was guarded once stays so, whoever calls it; the Python function that it was made of is plain Python. Not seen: tools
that run at the model's provider, and code executors. The plugin refuses to start with them.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from agentguard import Guard, InvalidInput
from agentguard.task import Task
from agentguard_adapters.google_adk_tools import Announced, Seats, announced, guard_tool, runs, whole
from agentguard_adapters.stand_in import OnDeny
from agentguard_adapters.versions import needs

with needs("google-adk", "2.13"):
    from google.adk.agents.base_agent import BaseAgent
    from google.adk.plugins.base_plugin import BasePlugin
    from google.adk.tools.agent_tool import AgentTool, _TaskAgentTool
    from google.adk.tools.base_tool import BaseTool
    from google.adk.tools.function_tool import FunctionTool
    from google.adk.tools.tool_context import ToolContext
    from google.genai import types

__all__ = ["GuardPlugin", "guard_tools"]

#: Members of a `types.Tool` whose calls come back here, to be run by ADK.
_RUN_HERE = frozenset({"function_declarations", "computer_use"})


class GuardPlugin(BasePlugin):
    """Every tool call of every agent of the runner passes the guard.

    names     for agents whose name in the policy is another one: {name in ADK: name in the policy}
    task      the authority; by default the current task. Another agent's task is narrowed down to the agent that calls, where the
              policy's `delegates` let it be
    on_deny   "message": the model is answered with {"error": ...}, and goes on; "raise": the run ends with Denied
    unsafe_provider_tools   let agents have what the guard never sees: tools that the model's provider runs, such as web search, code
                            executors, and an AgentTool that leaves plugins out
    name      the plugin's; two guards on one runner need two
    """

    def __init__(
        self,
        guard: Guard,
        *,
        names: Mapping[str, str] | None = None,
        task: Task | None = None,
        on_deny: OnDeny = "message",
        unsafe_provider_tools: bool = False,
        name: str = "agentguard",
    ) -> None:
        super().__init__(name=name)
        self._seats = Seats(guard, names=dict(names or {}), task=task, on_deny=on_deny)
        self._nobody = Seats(guard)  # for direct calls of tools that other runners may share
        self._unsafe_provider_tools = unsafe_provider_tools
        self._answers: dict[str, dict[str, str]] = {}

    async def before_agent_callback(self, *, agent: BaseAgent, callback_context: Any) -> None:
        """Refuse code executors: ADK runs what the model wrote, and no callback hears of it."""
        if getattr(agent, "code_executor", None) is not None:
            self._unseen(f"the code executor of the agent {agent.name} runs what the model writes")

    async def before_model_callback(self, *, callback_context: Any, llm_request: Any) -> None:
        """Pin the tools before the model says anything, and refuse those that no guard can stand before."""
        for given in llm_request.config.tools or ():
            parts = given.model_dump(exclude_none=True) if isinstance(given, types.Tool) else [type(given).__name__]
            for name in sorted(set(parts) - _RUN_HERE):
                self._unseen(f"the tool {name} runs at the model's provider")
        for tool in llm_request.tools_dict.values():
            self._know(tool)

    async def after_model_callback(self, *, callback_context: Any, llm_response: Any) -> None:
        """Judge calls of sub-agents of mode "task" here: ADK starts one by the mere request, past every tool callback. What was denied
        gets a name that ADK does not know, so that the model is answered and nothing starts.
        """
        if llm_response.partial or llm_response.content is None:
            return
        context = callback_context.get_invocation_context()
        delegates = {tool.name: tool for tool in getattr(context.agent, "tools", None) or () if isinstance(tool, _TaskAgentTool)}
        for call in [part.function_call for part in llm_response.content.parts or () if part.function_call is not None]:
            if (tool := delegates.get(call.name)) is not None:
                call.id = call.id or f"adk-{uuid.uuid4()}"
                arguments, own = dict(call.args or {}), ToolContext(context, function_call_id=call.id)
                with self._seats.asking(tool.name, own, arguments) as asked:
                    await whole(self._seats.guard, tool)(args=arguments, tool_context=own)
                if asked.denied is not None:
                    self._answers[call.id] = self._seats.answer(asked.denied)
                    call.name = f"denied_{call.name}"

    async def before_tool_callback(self, *, tool: BaseTool, tool_args: dict[str, Any], tool_context: Any) -> None:
        """Guard the very object that ADK is about to run, and keep what was presented."""
        self._know(tool)
        announced.set(Announced(self._seats, tool_context, copy.deepcopy(tool_args)))

    async def on_tool_error_callback(
        self, *, tool: BaseTool, tool_args: dict[str, Any], tool_context: Any, error: BaseException
    ) -> dict[str, str] | None:
        """A tool that nobody knows reaches no guard: ADK says so itself, by this callback alone."""
        if (answer := self._answers.pop(tool_context.function_call_id or "", None)) is not None:
            return answer
        if runs(tool) or not isinstance(error, Exception):
            return None
        asked = self._seats.asked(tool.name, tool_context, tool_args)
        return self._seats.answer(asked.refuse(self._seats.guard, f"{type(error).__name__}: {error}"))

    def _know(self, tool: BaseTool) -> None:
        if isinstance(tool, AgentTool) and not tool.include_plugins:
            self._unseen(f"the AgentTool {tool.name} leaves plugins out, so the tools of its agent run", "give it include_plugins=True")
        guard_tool(self._nobody, tool)

    def _unseen(self, what: str, instead: str = "remove it") -> None:
        if not self._unsafe_provider_tools:
            raise InvalidInput(f"{what} where the guard does not see it", hint=f"{instead}, or pass unsafe_provider_tools=True")


def guard_tools(
    guard: Guard,
    tools: Iterable[BaseTool | Callable[..., Any]],
    *,
    agent: str | None = None,
    task: Task | None = None,
    on_deny: OnDeny = "message",
) -> list[BaseTool]:
    """Guarded tools, for agents and workflows whose runner has no GuardPlugin: functions become tools, tools are guarded where they are.

    agent   who calls them; by default the name that the calling agent has in ADK
    """
    seats = Seats(guard, agent, task=task, on_deny=on_deny)
    made = [tool if isinstance(tool, BaseTool) else FunctionTool(tool) for tool in tools]
    for tool in made:
        guard_tool(seats, tool)
    return made
