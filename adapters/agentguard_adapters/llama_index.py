"""LlamaIndex (llama-index-core 0.14): one line guards an agent, or a workflow of agents and their hand-offs.

    workflow = guard_agent(guard, AgentWorkflow(agents=[triage, billing], root_agent="triage"))
    with guard.task("triage", initiator="user:alice"):
        await workflow.run(user_msg="...")

An agent's name is its name in the policy. All tools that the agent is ever given pass the guard: its own, those that a retriever finds, and
`handoff`, which the policy names like any other. For tools without an agent (`llm.predict_and_call`, query engines): `guard_tools`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from agentguard import Denied, Guard, InvalidInput
from agentguard.task import Task
from agentguard_adapters.llama_index_tools import Announced, Seats, announced, refusal
from agentguard_adapters.stand_in import Asked, OnDeny
from agentguard_adapters.versions import needs

with needs("llama-index-core", "0.14.25", extra="llama-index"):
    from llama_index.core.agent.workflow import AgentWorkflow
    from llama_index.core.agent.workflow.base_agent import BaseWorkflowAgent
    from llama_index.core.tools import AsyncBaseTool, BaseTool

__all__ = ["guard_agent", "guard_tools"]

#: Where models keep tools that their provider runs.
_HOSTED = ("built_in_tools", "built_in_tool", "mcp_servers", "tools")

A = TypeVar("A")


def guard_tools(
    guard: Guard,
    tools: Iterable[BaseTool | Callable[..., Any]],
    *,
    agent: str | None = None,
    task: Task | None = None,
    on_deny: OnDeny = "message",
) -> list[AsyncBaseTool]:
    """Guarded tools, which stand for tools and functions.

    agent     who calls them; by default the agent of the current task. Another agent's task is narrowed down to it, where the policy's
              `delegates` let it be
    task      the authority; by default the current task
    on_deny   "message": a call is answered with an error ToolOutput; "raise": it raises Denied. An agent or model that calls such a tool
              makes an error of either
    """
    seats = Seats(guard, agent, task, on_deny)
    return [seats.tool(tool) for tool in tools]


def guard_agent(
    guard: Guard,
    agent: A,
    *,
    names: Mapping[str, str] | None = None,
    task: Task | None = None,
    on_deny: OnDeny = "message",
    unsafe_provider_tools: bool = False,
) -> A:
    """Guard an agent, or an AgentWorkflow and each agent in it: in place, and the same object is given back.

    names     for agents whose name in the policy is another one: {name in LlamaIndex: name in the policy}
    task      the authority; by default the current task. Another agent's task is narrowed down to the agent that calls, where the
              policy's `delegates` let it be
    on_deny   "message": the model is answered with an error ToolOutput, and goes on; "raise": the run ends with Denied
    unsafe_provider_tools   let models have tools that their provider runs, such as web search; the guard never sees their calls

    Raises InvalidInput where it cannot be guarded.
    """
    if not isinstance(agent, BaseWorkflowAgent | AgentWorkflow):
        raise InvalidInput(f"{type(agent).__name__} is no agent of LlamaIndex", hint="guard_tools guards what is called without one")
    for one in agent.agents.values() if isinstance(agent, AgentWorkflow) else [agent]:
        hosted = [name for name in _HOSTED if getattr(one.llm, name, None)]
        if hosted and not unsafe_provider_tools:
            found = f"the model of {one.name} has {hosted[0]}, which run at its provider, where the guard does not see their calls"
            raise InvalidInput(found, hint="remove them, or pass unsafe_provider_tools=True")
        _guard(Seats(guard, None, task, on_deny), one, dict(names or {}))
        if one.tools:  # for workflows without a guard, which do not ask the agent
            one.tools = guard_tools(guard, one.tools, agent=(names or {}).get(one.name, one.name))
    if isinstance(agent, AgentWorkflow):
        _guard(Seats(guard, None, task, on_deny), agent, dict(names or {}))
    return agent


def _guard(seats: Seats, agent: Any, names: Mapping[str, str]) -> None:
    """Give the object a class of its own, below its class: copies of it stay guarded, and its own overrides keep their place."""
    guarding: Guard | None = getattr(type(agent), "__agentguard__", None)
    if guarding is not None:
        if guarding is not seats.guard:
            raise InvalidInput(f"the agent {getattr(agent, 'name', agent)!r:.80} is guarded by another guard")
        return
    base: Any = type(agent)

    async def get_tools(self: Any, *args: Any, **kwargs: Any) -> list[AsyncBaseTool]:
        tools = await base.get_tools(self, *args, **kwargs)
        if (call := announced.get()) is not None:
            call.known = frozenset(tool.metadata.get_name() for tool in tools)
        return [seats.tool(tool) for tool in tools]

    @functools.wraps(base.call_tool)  # and with it what makes it a step
    async def call_tool(self: Any, ctx: Any, ev: Any) -> Any:
        name = await ctx.store.get("current_agent_name") if isinstance(self, AgentWorkflow) else self.name
        call = Announced(seats, names.get(name, name), ev.tool_name, ev.tool_id, ev.tool_kwargs)
        token = announced.set(call)
        try:
            result = await base.call_tool(self, ctx, ev)
        finally:
            announced.reset(token)
        if not call.claimed and ev.tool_name not in call.known:
            asked = Asked(call.agent, call.tool, call.call_id, call.presented, seats.task)
            said = result.tool_output.content
            result.tool_output = refusal(asked.refuse(seats.guard, said), ev.tool_name, ev.tool_kwargs, said)
        denied = result.tool_output.exception
        if seats.on_deny == "raise" and isinstance(denied, Denied):
            raise denied
        return result

    members = {"get_tools": get_tools, "call_tool": call_tool, "__agentguard__": seats.guard, "__module__": base.__module__}
    made = type(base)(base.__name__, (base,), members)
    made._step_functions = dict(base._step_functions)
    object.__setattr__(agent, "__class__", made)
