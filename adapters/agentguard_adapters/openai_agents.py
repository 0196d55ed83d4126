"""OpenAI Agents SDK (openai-agents 0.24): one line guards an agent, and every agent that it can hand off to.

    agent = guard_agent(guard, agent)
    with guard.task("triage", initiator="user:alice"):
        Runner.run_sync(agent, "...")

The result is a copy of the agent. Its function tools, MCP tools, agents as tools, shell, apply_patch and custom tools are judged before
they run, and so are its hand-offs: `transfer_to_x` is a tool, and the next agent's calls run under what is derived for it. Agents that are
used as tools must be guarded before `as_tool`; tools that run at the model's provider, and computer use, are refused.
"""

from __future__ import annotations

import json
from contextvars import ContextVar
from dataclasses import field, fields, make_dataclass
from functools import lru_cache, partial
from typing import Any
from weakref import ref

from agentguard import Code, Denied, Guard, InvalidInput, ToolCall
from agentguard.decision import Reason, Stage
from agentguard.task import Task
from agentguard_adapters.seats import seat
from agentguard_adapters.stand_in import Asked, OnDeny, asking, stand_in, told
from agentguard_adapters.versions import needs

with needs("openai-agents", "0.22.3"):
    from agents import Handoff, handoff

    from agentguard_adapters.openai_agents_function import FRAMEWORK, RunDenied, arguments_of
    from agentguard_adapters.openai_agents_tools import Guarding

__all__ = ["RunDenied", "guard_agent", "guard_tools"]

#: Why the hand-off that is being made is refused: it is asked for its transfer message next, in the same context.
_refused: ContextVar[Denied | None] = ContextVar("agentguard.openai_agents.refused", default=None)


def guard_agent(
    guard: Guard,
    given: Any,
    *,
    agent: str | None = None,
    task: Task | None = None,
    on_deny: OnDeny = "message",
    unsafe_provider_tools: bool = False,
) -> Any:
    """A guarded copy of an agent, and of each that it can hand off to.

    agent     its name in the policy; by default, and for those that it can hand off to, the name that it has
    task      the authority; by default the current task. Another agent's task is narrowed down, where the policy's `delegates` let it be
    on_deny   "message": the model is told, and goes on; "raise": the run ends with RunDenied, which is a Denied
    unsafe_provider_tools   let it have tools that the guard cannot judge: those that run at the model's provider, and computer use

    An agent that is guarded already stays as it is. Raises InvalidInput where a tool cannot be guarded, or another guard stands there.
    """
    guarding = getattr(given, "guarding", None)
    if isinstance(guarding, Guarding) and guarding.guard is not guard:
        raise InvalidInput(f"the agent {given.name!r} is guarded by another guard")
    return _Crew(guard, task, on_deny, unsafe_provider_tools).guarded(given, agent)


def guard_tools(
    guard: Guard,
    tools: list[Any],
    *,
    agent: str | None = None,
    task: Task | None = None,
    on_deny: OnDeny = "message",
    unsafe_provider_tools: bool = False,
) -> list[Any]:
    """Guarded tools for tools: for an agent without hand-offs and MCP servers. By default the caller is the agent that runs them."""
    guarding = Guarding(guard, agent, task, on_deny, unsafe_provider_tools)
    return [guarding.tool(tool) for tool in tools]


class _Guarded:
    """What makes a guarded agent of an agent's class: tools and hand-offs that come later (of MCP servers, by `append`) are guarded too."""

    guarding: Any
    _handoffs: list[Any]

    async def get_all_tools(self, run_context: Any) -> list[Any]:
        return [self.guarding.tool(tool) for tool in await super().get_all_tools(run_context)]  # type: ignore[misc]

    @property
    def handoffs(self) -> list[Any]:
        for at, given in enumerate(self._handoffs):
            if not (isinstance(given, _GuardedHandoff) and given.giver is self):
                self._handoffs[at] = self.guarding.crew.handoff(self, given)
        return self._handoffs

    @handoffs.setter
    def handoffs(self, given: list[Any]) -> None:
        self._handoffs = list(given)


@lru_cache
def _guarded_class(base: Any) -> Any:
    """A field carries the guarding, so that `clone` does."""
    guarding = ("guarding", Any, field(default=None, kw_only=True, repr=False, compare=False))
    return make_dataclass(f"Guarded{base.__name__}", [guarding], bases=(_Guarded, base))


class _Crew:
    """Agents that can hand off to each other, guarded together."""

    def __init__(self, guard: Guard, task: Task | None, on_deny: OnDeny, unsafe: bool) -> None:
        self._guard, self._task, self._on_deny, self._unsafe = guard, task, on_deny, unsafe
        self._made: dict[int, tuple[Any, Any]] = {}  # by id, beside what has it: agents have no hash

    def guarded(self, given: Any, name: str | None = None) -> Any:
        if isinstance(given, _Guarded):
            return given
        if id(given) not in self._made:
            guarding = Guarding(self._guard, name or given.name, self._task, self._on_deny, self._unsafe, self)
            parts = {part.name: getattr(given, part.name) for part in fields(given) if part.init}
            tools = [guarding.tool(tool) for tool in given.tools]
            made = _guarded_class(given.__class__)(**{**parts, "tools": tools, "handoffs": [], "guarding": guarding})
            self._made[id(given)] = (given, made)  # before those that it can hand off to, which may hand back
            made.handoffs = given.handoffs
            list(made.handoffs)  # read once, so that what cannot be guarded is said now
        return self._made[id(given)][1]

    def handoff(self, giver: Any, given: Any) -> Any:
        """A hand-off that is judged. A refused one hands back to the giver, whose model is told; raising would end the run."""
        if isinstance(given, _GuardedHandoff):
            given = given.given
        elif not isinstance(given, Handoff):
            given = handoff(given)

        async def body(agentguard_context: Any, **arguments: Any) -> Any:
            return await given.on_invoke_handoff(agentguard_context, json.dumps(arguments))

        watch = ((given, "on_invoke_handoff"),)
        stand = stand_in(self._guard, body, name=given.tool_name, injected=FRAMEWORK, schema=given.input_json_schema, watch=watch)
        parts = {part.name: getattr(given, part.name) for part in fields(Handoff) if part.init}
        parts["on_invoke_handoff"] = partial(self._hand_off, giver, given.tool_name, stand)
        if given.input_filter is not None:  # meant for the next agent's eyes
            parts["input_filter"] = lambda data: data if _refused.get() is not None else given.input_filter(data)
        made = _GuardedHandoff(**parts)
        made.given, made.giver = given, giver
        taker = given._agent_ref() if given._agent_ref is not None else None
        if taker is not None:
            made.taker = self.guarded(taker)
            made._agent_ref = ref(made.taker)
        return made

    async def _hand_off(self, giver: Any, name: str, stand: Any, context: Any, presented: str = "") -> Any:
        guarding = giver.guarding
        arguments = arguments_of(presented)
        with asking(guarding.agent, name, None, arguments, guarding.task) as asked:
            if arguments is None:
                taker = asked.refuse(self._guard, "arguments that are no JSON object")
            else:
                taker = await stand(context, **arguments)
            denied = asked.denied
        if denied is None:
            taker = self.guarded(taker)
            denied = self._barred(asked, taker)
        _refused.set(denied)
        if denied is not None and guarding.on_deny == "raise":
            raise RunDenied(denied.decision) from denied
        return giver if denied is not None else taker

    def _barred(self, asked: Asked, taker: Any) -> Denied | None:
        """Why the next agent may not act for this one. Its task is derived here, so that nothing runs where it cannot be."""
        if taker.guarding.guard is not self._guard:
            call = ToolCall(asked.agent, asked.tool, dict(asked.presented or {}))
            return self._guard.refuse(call, Stage.POLICY, Reason(Code.DELEGATION_NOT_ALLOWED, taker.name, "an agent of this guard"))
        try:
            seat(self._guard, taker.guarding.agent, asked.task)
        except Denied as denied:
            return denied
        return None


class _GuardedHandoff(Handoff):
    """A hand-off whose message to the model says so where it is refused."""

    given: Any
    giver: Any
    taker: Any = None  # held, since the framework holds it by a weak reference

    def get_transfer_message(self, agent: Any) -> str:
        denied = _refused.get()
        return told(denied) if denied is not None else self.given.get_transfer_message(agent)
