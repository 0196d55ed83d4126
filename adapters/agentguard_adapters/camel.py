"""CAMEL (0.2.90): chat agents, and tools by themselves.

    agent = guard_agent(guard, ChatAgent("...", model=model, tools=tools), agent="triage")      # after that, agent.step("...") as ever
    tools = guard_tools(guard, tools, agent="triage")                                           # or tools that something else calls

Guarded are the agent's tools, those added later, and those of its clones (a Workforce makes them); by `step`, `astep` and streams. Not
guarded: tools that CAMEL hands to your own code (`external_tools`), and agents inside tools that you do not guard themselves.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from agentguard import Guard, InvalidInput
from agentguard.task import Task
from agentguard_adapters.hosted import refuse_hosted
from agentguard_adapters.stand_in import OnDeny, stand_in
from agentguard_adapters.versions import needs

with needs("camel-ai", "0.2.90", extra="camel"):
    from camel.agents import ChatAgent
    from camel.toolkits import FunctionTool

from agentguard_adapters.camel_run import asking_class
from agentguard_adapters.camel_tool import Binding, ToolDenied, carrying_class

__all__ = ["ToolDenied", "guard_agent", "guard_tools"]


def guard_agent(
    guard: Guard,
    member: ChatAgent,
    *,
    agent: str,
    task: Task | None = None,
    on_deny: OnDeny = "message",
    unsafe_provider_tools: bool = False,
) -> ChatAgent:
    """Guard an agent in place. Returns it.

    agent                   its name in the policy
    task                    its authority, or that of an agent which may delegate to it; None is the task that is current when it runs
    on_deny                 "message": the model is told and goes on; "raise": the run ends with Denied
    unsafe_provider_tools   let it have tools that the model's provider runs, such as web search; the guard never sees their calls

    Raises InvalidInput where it is guarded already, or has a tool that cannot be guarded.
    """
    if getattr(member, "agentguard_binding", None) is not None:
        raise InvalidInput(f"the agent {agent!r:.80} is guarded already")
    for model in member.model_backend.models:
        refuse_hosted(model.model_config_dict, accepted=unsafe_provider_tools)
    binding = Binding(guard, agent, task, on_deny, _guarded)
    member._internal_tools = {name: _guarded(tool, binding) for name, tool in member._internal_tools.items()}
    member.agentguard_binding = binding
    member.__class__ = asking_class(type(member))
    return member


def guard_tools(
    guard: Guard,
    tools: Iterable[FunctionTool | Callable[..., Any]],
    *,
    agent: str | None = None,
    task: Task | None = None,
    on_deny: OnDeny = "message",
) -> list[FunctionTool]:
    """Tools that ask the guard, for what is no guarded agent. Functions become tools as CAMEL makes them.

    agent, task   who calls and by which authority; by default the current task's
    on_deny       "message": a denial's sentence is returned; "raise": Denied is raised
    """
    binding = Binding(guard, agent, task, on_deny, _guarded)
    return [_guarded(one if isinstance(one, FunctionTool) else FunctionTool(one), binding, on_deny) for one in tools]


def _guarded(tool: FunctionTool, binding: Binding, on_deny: OnDeny | None = None) -> FunctionTool:
    """A copy of the tool with the stand-in in the place of its function. `agentguard_original` leads back, for clones of the agent."""
    known = getattr(tool, "agentguard_binding", None)
    if known is binding:
        return tool
    if known is not None and known.guard is binding.guard:
        tool = tool.agentguard_original  # one that `guard_tools` made: one call is one decision
    name = tool.get_function_name()
    if known is None and (type(tool).__call__, type(tool).async_call) != (FunctionTool.__call__, FunctionTool.async_call):
        raise InvalidInput(f"the tool {name!r:.80} has a `__call__` of its own", hint="put what it does into its function")
    made = copy.copy(tool)
    made.func = stand_in(binding.guard, _body(tool.func), name=name, agent=binding.agent, task=binding.task, on_deny="raise")
    made.agentguard_original, made.agentguard_binding, made.agentguard_on_deny = tool, binding, on_deny
    made.__class__ = carrying_class(type(tool))
    return made


def _body(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The function to stand in for. MCP's carry an async twin, which CAMEL prefers: that one it is, then, for both."""
    twin = getattr(fn, "async_call", None)
    if twin is None:
        return fn

    async def body(**arguments: Any) -> Any:
        return await twin(**arguments)

    body.__name__ = body.__qualname__ = fn.__name__
    body.__doc__, body.__annotations__ = fn.__doc__, fn.__annotations__
    body.__signature__ = inspect.signature(fn)  # type: ignore[attr-defined]
    return body
