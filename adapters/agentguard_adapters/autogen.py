"""AutoGen (autogen-agentchat 0.7): one line guards an AssistantAgent, its tools, its workbenches and its hand-offs.

    triage = guard_agent(guard, AssistantAgent("triage", model, tools=[...], handoffs=["billing"]))
    with guard.task("triage", initiator="user:alice"):
        await triage.run(task="...")

The agent itself is changed, so that none without a guard is left; teams, `run_stream` and `AgentTool` use it as ever. A hand-off is a tool
of the policy, `transfer_to_billing`; when it is denied, no HandoffMessage leaves. Each agent is guarded under its own name; one without a
guard runs its tools. A whole team at once: `guard_team(guard, team)`. Tools for a ToolAgent of autogen-core, or for a workbench of one's
own: `guard_tools`.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, NoReturn

from agentguard import Denied, Guard, InvalidInput
from agentguard.task import Task
from agentguard_adapters.autogen_tools import Caller, ToolDenied, guard_all
from agentguard_adapters.autogen_workbench import GuardWorkbench, guard_workbench
from agentguard_adapters.stand_in import OnDeny, told
from agentguard_adapters.versions import needs

with needs("autogen-agentchat", "0.7.5", extra="autogen"):
    from autogen_agentchat.agents import AssistantAgent, UserProxyAgent
    from autogen_agentchat.base import ChatAgent, Response, Team
    from autogen_agentchat.messages import HandoffMessage, ToolCallExecutionEvent, ToolCallRequestEvent, ToolCallSummaryMessage
    from autogen_core.models import FunctionExecutionResult
    from autogen_core.tools import BaseTool

__all__ = ["GuardWorkbench", "ToolDenied", "guard_agent", "guard_team", "guard_tools"]


def guard_tools(guard: Guard, tools: Iterable[BaseTool | Callable[..., Any]], *, agent: str, task: Task | None = None) -> list[BaseTool]:
    """A guarded tool for each tool or function. A denied one raises ToolDenied, of which AutoGen makes an error result."""
    given = list(tools)
    _refuse_bare_agents(given)
    return guard_all(Caller(guard, agent, task), given)


def guard_agent(
    guard: Guard, assistant: AssistantAgent, *, agent: str | None = None, task: Task | None = None, on_deny: OnDeny = "message"
) -> AssistantAgent:
    """Guard an agent, in place, and give it back.

    agent     its name in the policy; by default the name that it has
    task      the authority; by default the current task. Another agent's task is narrowed down, where the policy's `delegates` let it be
    on_deny   "message": the model gets an error result, and goes on; "raise": the run ends with Denied (a team makes a RuntimeError of it)

    Raises InvalidInput where it is not an AssistantAgent, or a tool of it cannot be guarded.
    """
    if not isinstance(assistant, AssistantAgent):
        raise InvalidInput(
            f"{type(assistant).__name__} is no AssistantAgent: how it acts is not known", hint="use guard_tools for its tools"
        )
    if isinstance(assistant, _Guarded):
        raise InvalidInput(f"the agent {assistant.name!r} is guarded already")
    for workbench in assistant._workbench:
        _refuse_bare_agents(getattr(workbench, "_tools", ()))
    seat = _Seat(Caller(guard, agent or assistant.name, task), on_deny)
    assistant._handoff_tools, assistant._workbench = (
        guard_all(seat.caller, assistant._handoff_tools),
        [guard_workbench(seat.caller, workbench) for workbench in assistant._workbench],
    )
    kind = type(assistant)  # a class of its own: AutoGen runs tools in class methods, which know no instance
    assistant.__class__ = type(kind.__name__, (_Guarded, kind), {"__module__": kind.__module__, "_agentguard": seat})
    return assistant


def guard_team(
    guard: Guard, team: Any, *, task: Task | None = None, on_deny: OnDeny = "message", unsafe_agents: Collection[str] = ()
) -> Any:
    """Guard each agent of a team, in place and under its own name, and give the team back; teams within it too.

    unsafe_agents   names of agents that are no AssistantAgents, and may act all the same: the guard never sees what they do
    """
    for one in _agents(team):
        if isinstance(one, AssistantAgent):
            if not isinstance(one, _Guarded):
                guard_agent(guard, one, task=task, on_deny=on_deny)
        elif not isinstance(one, UserProxyAgent) and one.name not in unsafe_agents:
            raise InvalidInput(f"{one.name!r} is a {type(one).__name__}, whose acts no guard sees", hint="or name it in unsafe_agents")
    return team


def _agents(runner: Any) -> Iterator[Any]:
    """The agents that act when this one runs: those of a team, the one within a wrapper, or itself."""
    within = [
        *getattr(runner, "_participants", ()),
        *[getattr(runner, name) for name in ("_team", "_wrapped_agent") if hasattr(runner, name)],
    ]
    for one in within:
        yield from _agents(one)
    if not within:
        yield runner


def _refuse_bare_agents(tools: Iterable[Any]) -> None:
    """What an agent or a team as a tool does inside, or one that a function holds, passes the guard only if it is guarded itself."""
    for tool in tools:
        fn = getattr(tool, "_func", tool)
        held = inspect.getclosurevars(fn).nonlocals.values() if inspect.isfunction(fn) else ()
        runners = [one for one in (getattr(tool, "_task_runner", None), *held) if isinstance(one, ChatAgent | Team)]
        for one in [agent for runner in runners for agent in _agents(runner)]:
            if isinstance(one, AssistantAgent) and not isinstance(one, _Guarded):
                name = getattr(tool, "name", "") or tool.__name__
                raise InvalidInput(f"the agent {one.name!r} inside the tool {name!r} is not guarded", hint="guard it first")


@dataclass
class _Seat:
    """What a guarded agent knows of itself, and of the turn that it is at.

    granted   the calls that ran, by name and id: two calls may come under one id
    denied    the denials of the tool calls that are under way
    """

    caller: Caller
    on_deny: OnDeny
    granted: set[tuple[str, str]] = field(default_factory=set)
    denied: list[Denied] = field(default_factory=list)


class _Guarded(AssistantAgent):
    """How a guarded agent differs."""

    _agentguard: _Seat

    @classmethod
    async def _execute_tool_call(cls, tool_call: Any, workbench: Any, handoff_tools: Any, **rest: Any) -> Any:
        """AutoGen's way to the tool, each call in an asyncio task of its own. An exception that left this would hang the run."""
        seat, name = cls._agentguard, tool_call.name
        for one in workbench:  # a tool that is shown under another name is registered under its own
            name = getattr(one, "_override_name_to_original", {}).get(name, name)
        arguments = _parsed(tool_call.arguments)
        with seat.caller.asks(name, tool_call.id, arguments) as asked:
            try:
                way = super()._execute_tool_call(tool_call=tool_call, workbench=workbench, handoff_tools=handoff_tools, **rest)
                result = (await way)[1]
                if result.is_error and not asked.taken and asked.denied is None:
                    known = {tool.name for tool in handoff_tools} | {tool["name"] for one in workbench for tool in await one.list_tools()}
                    if arguments is None or tool_call.name not in known:  # else a hook of the application answered
                        result = _error(tool_call, told(asked.refuse(seat.caller.guard, result.content), result.content))
            except Exception as error:  # noqa: BLE001
                result = _error(tool_call, str(error))
        if asked.denied is not None:
            seat.denied.append(asked.denied)
        elif asked.taken and not result.is_error:
            seat.granted.add((tool_call.name, tool_call.id))
        return tool_call, result

    async def on_messages_stream(self, messages: Any, cancellation_token: Any) -> AsyncGenerator[Any, None]:
        """The turn's events. A hand-off counts only if its call ran: AutoGen makes a HandoffMessage of each request for one."""
        seat = self._agentguard
        seat.granted.clear()
        seat.denied.clear()
        requested: list[Any] = []
        async with aclosing(super().on_messages_stream(messages, cancellation_token)) as events:
            async for event in events:
                if isinstance(event, ToolCallRequestEvent):
                    requested = event.content
                elif isinstance(event, ToolCallExecutionEvent) and seat.denied and seat.on_deny == "raise":
                    raise seat.denied[0]
                if isinstance(event, Response) and isinstance(event.chat_message, HandoffMessage):
                    chosen = next(((call.name, call.id) for call in requested if call.name in self._handoffs), None)
                    yield event if chosen in seat.granted else _not_handed_off(event, requested)
                else:
                    yield event

    def _to_config(self) -> NoReturn:
        raise InvalidInput(f"the guarded agent {self.name!r} cannot be written out: it would come back without its guard")


def _not_handed_off(response: Response, requested: list[Any]) -> Response:
    """The turn's end as of calls that did not hand off: the agent stays the one to speak."""
    results = next(event.content for event in reversed(response.inner_messages) if isinstance(event, ToolCallExecutionEvent))
    text = "\n".join(result.content for result in results)
    message = ToolCallSummaryMessage(content=text, source=response.chat_message.source, tool_calls=requested, results=results)
    return Response(chat_message=message, inner_messages=response.inner_messages)


def _parsed(arguments: str) -> Any:
    """The arguments as JSON; None where they are none."""
    try:
        return json.loads(arguments)
    except ValueError:
        return None


def _error(tool_call: Any, text: str) -> FunctionExecutionResult:
    return FunctionExecutionResult(content=text, call_id=tool_call.id, is_error=True, name=tool_call.name)
