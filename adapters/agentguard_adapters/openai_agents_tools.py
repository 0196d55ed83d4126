"""The tools of an openai-agents agent, guarded: which kind is guarded how, and which cannot be."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Final

from agents import FunctionTool, ToolSearchTool

from agentguard import Guard, InvalidInput
from agentguard.task import Task
from agentguard_adapters.openai_agents_function import Invoke, guarded
from agentguard_adapters.openai_agents_special import SPECIAL, Special
from agentguard_adapters.stand_in import OnDeny

_MAX_MADE: Final = 500


@dataclass(frozen=True, eq=False)
class Guarding:
    """What the guarded tools of one agent share. `agent` is None where the framework is to say who calls; `crew` guards its hand-offs."""

    guard: Guard
    agent: str | None
    task: Task | None
    on_deny: OnDeny
    unsafe: bool
    crew: Any = None
    _made: dict[int, tuple[Any, Any]] = field(default_factory=dict)  # by id, beside the function tool that has it

    def tool(self, tool: Any) -> Any:
        """The guarded tool for a tool. Raises InvalidInput where no guard can stand before it."""
        for place in ("on_invoke_tool", "executor", "editor"):
            standing = getattr(tool, place, None)
            if not isinstance(standing, Invoke | Special):
                continue
            if standing.guarding.guard is not self.guard:
                raise InvalidInput(f"the tool {tool.name!r} is guarded by another guard")
            return tool if standing.guarding is self else self.tool(replace(tool, **{place: standing.given}))
        if isinstance(tool, FunctionTool):
            return self._function(tool)
        for kind, (place, make) in SPECIAL.items():
            if isinstance(tool, kind) and getattr(tool, place) is not None:  # a shell without an executor is the provider's
                return replace(tool, **{place: make(self, tool.name, getattr(tool, place))})
        if isinstance(tool, ToolSearchTool) or self.unsafe:  # a search among the agent's own tools
            return tool
        name = getattr(tool, "name", type(tool).__name__)
        found = f"the tool {name!r} runs at the model's provider, or where the guard cannot judge what it does"
        raise InvalidInput(found, hint="remove it, or pass unsafe_provider_tools=True")

    def _function(self, tool: Any) -> Any:
        """The framework asks for the tools at each turn; the same one gets the same answer."""
        known = self._made.get(id(tool))
        if known is not None and known[1].on_invoke_tool.given is tool.on_invoke_tool:
            return known[1]
        runs = getattr(tool, "_agent_instance", None)
        if runs is not None and not isinstance(getattr(runs, "guarding", None), Guarding):
            found = f"the tool {tool.name!r} runs the agent {runs.name!r}, which has no guard"
            raise InvalidInput(found, hint="use guard_agent(guard, agent).as_tool(...)")
        if len(self._made) >= _MAX_MADE:  # those of MCP servers are made anew for each turn
            self._made.clear()
        self._made[id(tool)] = (tool, guarded(self, tool))
        return self._made[id(tool)][1]
