"""Haystack (haystack-ai 3.4): one hook guards every tool call of an Agent.

    agent = guard_agent(guard, Agent(chat_generator=..., tools=[search, pay]), agent="triage")
    with guard.task("triage", initiator="user:alice"):
        agent.run(messages=[...])

or, the same: `Agent(..., hooks={"before_tool": [GuardHook(guard, agent="triage")]})`. The hook guards each tool that the step offers,
wherever it comes from: the agent, a toolset, `run(tools=...)`. The decision falls when the tool is invoked, after every other hook.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn, TypeVar

from agentguard import Guard, InvalidInput
from agentguard.task import Task
from agentguard_adapters.haystack_tools import Announced, Seat, Step, guard_tool, step
from agentguard_adapters.stand_in import Asked, OnDeny, told
from agentguard_adapters.versions import needs

with needs("haystack-ai", "3.4", extra="haystack"):
    from haystack.components.agents import Agent
    from haystack.dataclasses import ChatMessage
    from haystack.tools import Tool, create_tool_from_function

__all__ = ["GuardHook", "guard_agent", "guard_tools"]

A = TypeVar("A")


class GuardHook:
    """A hook for `before_tool`: every tool call of the agent passes the guard.

    agent     its name in the policy; Haystack's agents have none
    task      the authority; by default the current task. Another agent's task is narrowed down to this agent, where the policy's
              `delegates` let it be
    on_deny   "message": the model is answered with an error, and goes on, unless the agent has raise_on_tool_invocation_failure; "raise":
              the run ends with Denied
    """

    allowed_hook_points = ("before_tool",)

    def __init__(self, guard: Guard, agent: str, *, task: Task | None = None, on_deny: OnDeny = "message") -> None:
        self.guard = guard
        self._seat, self._nobody = Seat(guard, agent, task, on_deny), Seat(guard)  # direct calls of a tool that other agents may share

    def run(self, state: Any) -> None:
        """Guard the tools of this step, and announce the calls that the model asks for. Raises InvalidInput where that cannot be."""
        tools = {tool.name: tool for tool in state.data.get("tools") or ()}
        for tool in tools.values():
            _look_inside(self.guard, tool)
            guard_tool(self._nobody, tool)
        messages = state.data.get("messages") or []
        asked = messages[-1].tool_calls if messages else []
        known = [call for call in asked if call.tool_name in tools]
        calls = tuple(Announced(self._seat, call.tool_name, call.id, dict(call.arguments)) for call in known)
        step.set(Step(self._seat, weakref.ref(state), calls))
        if len(known) < len(asked):
            unknown = [call for call in asked if call.tool_name not in tools]
            state.data["messages"] = [*messages[:-1], *self._without(messages[-1], unknown, known, sorted(tools))]

    def _without(self, message: Any, unknown: list[Any], known: list[Any], tools: list[str]) -> list[Any]:
        """The model's message in two, the first of which is answered, so that Haystack runs the calls of the second alone. What this hook
        was not shown may be there all the same, if another hook hides tools.
        """
        said: list[Any] = []
        for call in unknown:
            asked = Asked(self._seat.agent, call.tool_name, call.id, dict(call.arguments), self._seat.task)
            denied = asked.refuse(self.guard, "the agent has no such tool")
            if self._seat.on_deny == "raise":
                raise denied
            text = told(denied, f"The tools are: {', '.join(tools) or 'none'}.")
            said.append(ChatMessage.from_tool(tool_result=text, origin=call, error=True))
        first = ChatMessage.from_assistant(text=message.text, meta=message.meta, tool_calls=unknown, reasoning=message.reasoning)
        return [first, *said, *([ChatMessage.from_assistant(tool_calls=known)] if known else [])]

    async def run_async(self, state: Any) -> None:
        """The same. Without it Haystack would run the hook in a thread, from which nothing that it announces comes back."""
        self.run(state)

    def to_dict(self) -> NoReturn:
        """A guard stays in its process."""
        raise InvalidInput(
            "an agent with a guard cannot be written out, since it would come back without it", hint="guard it after loading"
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> NoReturn:
        """See `to_dict`."""
        raise InvalidInput("a guard cannot be read from a file", hint="guard the agent after loading")


def guard_agent(
    guard: Guard, target: A, *, agent: str, task: Task | None = None, on_deny: OnDeny = "message", unsafe_provider_tools: bool = False
) -> A:
    """Give an Agent a GuardHook: in place, as the last of its `before_tool` hooks, and the same object is given back.

    agent, task, on_deny    as in `GuardHook`
    unsafe_provider_tools   let its model have tools that the provider runs, such as web search; the guard never sees their calls

    Raises InvalidInput where it cannot be guarded.
    """
    if not isinstance(target, Agent):
        raise InvalidInput(f"{type(target).__name__} is no Agent of Haystack", hint="guard_tools guards what is invoked without one")
    if not unsafe_provider_tools and _hosted(target.chat_generator):
        found = "the chat generator has tools that run at the model's provider, where the guard does not see their calls"
        raise InvalidInput(found, hint="remove them, or pass unsafe_provider_tools=True")
    if _guards(target, guard):
        raise InvalidInput("the agent has a GuardHook of this guard already")
    hook = GuardHook(guard, agent, task=task, on_deny=on_deny)
    target.hooks["before_tool"] = [*target.hooks.get("before_tool", []), hook]
    return target


def guard_tools(
    guard: Guard,
    tools: Iterable[Tool | Callable[..., Any]],
    *,
    agent: str | None = None,
    task: Task | None = None,
    on_deny: OnDeny = "message",
) -> list[Tool]:
    """Guarded tools, for what is invoked without an Agent: functions become tools, tools are guarded where they are.

    agent     who calls them; by default the agent of the current task
    on_deny   "message": ToolInvocationError is raised, as by a tool that fails, with Denied as its cause; "raise": Denied
    """
    made = [tool if isinstance(tool, Tool) else create_tool_from_function(tool) for tool in tools]
    for tool in made:
        guard_tool(Seat(guard, agent, task, on_deny), tool)
    return made


def _look_inside(guard: Guard, tool: Tool) -> None:
    """Refuse an agent as a tool that has no guard of its own: nothing would stand before its tools."""
    for inner in _agents(getattr(tool, "_component", None)):
        if not _guards(inner, guard):
            raise InvalidInput(f"the agent in the tool {tool.name!r} is not guarded", hint="guard_agent(guard, inner, agent=...) first")


def _agents(component: Any) -> Iterator[Agent]:
    """The agents that a component is or holds."""
    if isinstance(component, Agent):
        yield component
    pipeline = getattr(component, "pipeline", None)
    for _, inner in pipeline.walk() if pipeline is not None else ():
        yield from _agents(inner)


def _guards(agent: Agent, guard: Guard) -> bool:
    return any(isinstance(hook, GuardHook) and hook.guard is guard for hook in agent.hooks.get("before_tool", ()))


def _hosted(generator: Any) -> bool:
    """Whether the model is given more than functions: a Tool of Haystack is a function, a dictionary is the provider's."""
    given = getattr(generator, "tools", None)
    options = getattr(generator, "generation_kwargs", None) or {}
    return any(isinstance(tool, dict) for tool in given or () if isinstance(given, list)) or bool(options.get("tools"))
