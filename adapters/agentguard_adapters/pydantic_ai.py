"""Pydantic AI (pydantic-ai-slim 2.68): one capability guards every tool call of an agent.

    agent = Agent(model, tools=[...], capabilities=[GuardCapability(guard, "triage")])
    with guard.task("triage", initiator="user:alice"):
        agent.run_sync("...")

Function tools, toolsets, MCP servers and output functions are judged before they run. The decision falls below everything: after every
other capability and every wrapper of a toolset has had its turn, with the arguments as the function gets them. An agent that a tool runs
gets a capability of its own; tools that run at the model's provider are refused.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from agentguard import Guard, InvalidInput
from agentguard.task import Task
from agentguard_adapters.stand_in import Asked, OnDeny, told
from agentguard_adapters.versions import needs

with needs("pydantic-ai-slim", "2.54", extra="pydantic-ai"):
    from pydantic import ValidationError
    from pydantic_ai import ModelRetry
    from pydantic_ai.capabilities import AbstractCapability, CapabilityOrdering
    from pydantic_ai.exceptions import ToolFailed

    from agentguard_adapters.pydantic_ai_tools import Calling, GuardedToolset, Tools, calling, presented

__all__ = ["GuardCapability"]


class GuardCapability(AbstractCapability):
    """Every tool call of the agent passes the guard.

    agent     its name in the policy
    task      the authority; by default the current task. Another agent's task is narrowed down to this agent, where the policy's
              `delegates` let it be
    on_deny   "message": the model is told by a failed tool result, and goes on; "raise": the run ends with Denied
    unsafe_provider_tools   let the model have tools that its provider runs, such as web search; the guard never sees their calls
    """

    def __init__(
        self, guard: Guard, agent: str, *, task: Task | None = None, on_deny: OnDeny = "message", unsafe_provider_tools: bool = False
    ) -> None:
        self._guard, self._agent, self._task, self._on_deny = guard, agent, task, on_deny
        self._unsafe_provider_tools = unsafe_provider_tools
        self._tools = Tools(guard, agent, task)

    def get_ordering(self) -> Any:
        """The last one before the tool, whatever else wants to be."""
        return CapabilityOrdering(position="innermost", wrapped_by=(AbstractCapability,))

    def get_wrapper_toolset(self, toolset: Any) -> Any:
        """Each toolset at the end of the wrappers, behind the guard."""
        return toolset.visit_and_replace(lambda leaf: GuardedToolset(leaf, self._tools))

    def _end(self, asked: Asked, reply: type[Exception], mistakes: str = "") -> Exception:
        """How a denial leaves."""
        denied = asked.denied
        if denied is None:
            raise InvalidInput("a call that was not denied does not end as one")
        return denied if self._on_deny == "raise" else reply(told(denied, mistakes))

    # --- what the framework asks ------------------------------------------------------------------------------------------------

    async def before_model_request(self, ctx: Any, request_context: Any) -> Any:
        """Refuse the tools that no guard can stand before."""
        for tool in request_context.model_request_parameters.native_tools:
            if tool.kind != "tool_search" and not self._unsafe_provider_tools:  # a search among the agent's own tools
                found = f"the tool {tool.kind} runs at the model's provider, where the guard does not see its calls"
                raise InvalidInput(found, hint="remove it, or pass unsafe_provider_tools=True")
        return request_context

    async def after_model_request(self, ctx: Any, *, request_context: Any, response: Any) -> Any:
        """Record the calls of tools that nobody knows: the framework answers them by itself."""
        tools: Any = ctx.tool_manager.tools if ctx.tool_manager is not None else None
        for call in response.tool_calls if tools is not None else ():
            if call.tool_name not in tools:
                asked = Asked(self._agent, call.tool_name, call.tool_call_id, presented(call), self._task)
                asked.refuse(self._guard, "a tool that nobody knows")
        return response

    async def wrap_tool_validate(self, ctx: Any, *, call: Any, tool_def: Any, args: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
        """Arguments that do not fit: recorded, and told."""
        try:
            return await handler(args)
        except ValidationError as error:
            mistakes = "; ".join([f"{'.'.join(map(str, part['loc']))}: {part['msg']}" for part in error.errors()[:5]])
        asked = Asked(self._agent, call.tool_name, call.tool_call_id, presented(call), self._task)
        asked.refuse(self._guard, mistakes)
        raise self._end(asked, ToolFailed, mistakes)

    async def wrap_tool_execute(self, ctx: Any, *, call: Any, tool_def: Any, args: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
        """Say what the model presented, and turn a denial into the framework's own answer."""
        with calling(call) as this:
            output = await handler(args)
        return self._answered(this, output, ToolFailed)

    async def wrap_output_process(self, ctx: Any, *, output_context: Any, output: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
        """An output function is a tool. It does not run on the parts of an output that is streamed, which are left out of the stream."""
        if not output_context.has_function:
            return await handler(output)
        if ctx.partial_output:
            raise ModelRetry("an output function runs once, on the whole output")
        with calling(output_context.tool_call) as this:
            result = await self._tools.put_out(ctx, output_context, output, handler)
        return self._answered(this, result, ModelRetry)

    async def before_output_process(self, ctx: Any, *, output_context: Any, output: Any) -> Any:
        """The last one to see the output before its function: nothing else may have come in its place since the check."""
        if output_context.has_function:
            self._tools.unchanged(output_context, output)
        return output

    def _answered(self, this: Calling, output: Any, reply: type[Exception]) -> Any:
        if this.asked is not None and this.asked.denied is not None:
            raise self._end(this.asked, reply)
        return output
