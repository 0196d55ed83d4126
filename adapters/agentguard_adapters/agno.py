"""Agno (3.1): one line guards an agent, or a team with all its members.

    agent = guard_agent(guard, agent)
    with guard.task("triage", initiator="user:alice"):
        agent.run("...")

It adds a tool hook, the innermost. Functions, toolkits, MCP tools, a team's delegation and the tools that Agno adds itself (memory,
knowledge) are judged before they run, on the arguments as they get them.
"""

from __future__ import annotations

from typing import Any, TypeVar

from agentguard import Guard, InvalidInput
from agentguard.task import Task
from agentguard_adapters.run_denied import RunDenied
from agentguard_adapters.stand_in import OnDeny
from agentguard_adapters.versions import needs

with needs("agno", "3.1.10"):
    from agno.agent import Agent
    from agno.team import Team
    from agno.tools import Toolkit
    from agno.tools.function import Function

    from agentguard_adapters.agno_hook import GuardHook

__all__ = ["RunDenied", "guard_agent"]

A = TypeVar("A")


def guard_agent(
    guard: Guard,
    given: A,
    *,
    agent: str | None = None,
    task: Task | None = None,
    on_deny: OnDeny = "message",
    unsafe_provider_tools: bool = False,
) -> A:
    """Put the guard before every tool of an agent, or of a team and its members. The agent itself is changed, and returned.

    agent     its name in the policy; by default, and for the members of a team, its id, or else its name
    task      the authority; by default the current task. Another agent's task is narrowed down, where the policy's `delegates` let it be
    on_deny   "message": the model is answered with an error result, and goes on; "raise": the run ends with RunDenied, since Agno turns
              every Exception into a result
    unsafe_provider_tools   let it have tools whose calls the guard does not see: those that the model's provider runs, and those that run
              outside of Agno (`external_execution`)

    An agent that is guarded already stays as it is. Raises InvalidInput where a tool cannot be guarded.
    """
    if not isinstance(given, Agent | Team):
        raise InvalidInput(f"a {type(given).__name__} is no agent and no team", hint="guard the agents in it")
    hooks = list(given.tool_hooks or [])
    for tool in given.tools if isinstance(given.tools, list) else ():
        _look_at(tool, drops_hooks=not hooks, provider_tools=unsafe_provider_tools)
    if not any(isinstance(hook, GuardHook) and hook.guard is guard for hook in hooks):
        name = agent or given.id or given.name
        if not name:
            raise InvalidInput("the agent has no name", hint='say agent="..."')
        given.tool_hooks = [*hooks, GuardHook(guard, str(name), task, on_deny)]
    for member in given.members if isinstance(given, Team) and isinstance(given.members, list) else ():
        guard_agent(guard, member, task=task, on_deny=on_deny, unsafe_provider_tools=unsafe_provider_tools)
    return given


def _look_at(tool: Any, *, drops_hooks: bool, provider_tools: bool) -> None:
    """Refuse a tool that the guard could not stand before, or whose own hooks would get lost."""
    found = ""
    if isinstance(tool, Toolkit):
        for one in (*tool.functions.values(), *tool.async_functions.values()):
            _look_at(one, drops_hooks=drops_hooks, provider_tools=provider_tools)
    elif isinstance(tool, dict) and not provider_tools:
        found = f"the tool {tool.get('name') or tool.get('type')} runs at the model's provider, where the guard does not see its calls"
    elif isinstance(tool, Function) and tool.external_execution and not provider_tools:
        found = f"the tool {tool.name} runs outside of Agno, where the guard does not see its calls"
    if found:
        raise InvalidInput(found, hint="remove it, or pass unsafe_provider_tools=True")
    if isinstance(tool, Function) and tool.tool_hooks and drops_hooks:
        raise InvalidInput(f"Agno would drop the hooks of the tool {tool.name}, now that its agent has one", hint="give them to the agent")
