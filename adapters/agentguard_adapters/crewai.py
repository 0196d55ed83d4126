"""CrewAI (1.15): crews, single agents, and tools by themselves.

    guard_crew(guard, crew, agents={"Senior Researcher": "researcher"})     # after that, crew.kickoff() as ever
    guard_agent(guard, member, agent="researcher")                          # or one agent
    tools = guard_tools(guard, tools, agent="researcher")                   # or tools that something else calls

Guarded is whatever an agent starts as a tool: its own tools, those of its tasks, and those that CrewAI adds on the way (delegation to
co-workers, memory, files, MCP, skills). Not guarded: the model itself, knowledge and memory that CrewAI puts into prompts, and tools that
your own code calls without a guarded agent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from agentguard import Guard, InvalidInput
from agentguard.task import Task
from agentguard_adapters.hosted import refuse_hosted
from agentguard_adapters.stand_in import OnDeny
from agentguard_adapters.versions import needs

with needs("crewai", "1.15.30"):
    from crewai import Agent, Crew, Process
    from crewai.agents.tools_handler import ToolsHandler
    from crewai.tools import BaseTool
    from crewai.tools import tool as make

from agentguard_adapters.crewai_run import Asks, Binding
from agentguard_adapters.crewai_tool import DeniedFailure, guarded_tool

__all__ = ["DeniedFailure", "guard_agent", "guard_crew", "guard_tools"]


def guard_crew(
    guard: Guard,
    crew: Crew,
    *,
    agents: Mapping[str, str] | None = None,
    task: Task | None = None,
    on_deny: OnDeny = "message",
    unsafe_provider_tools: bool = False,
) -> Crew:
    """Guard all agents of a crew, its manager included, in place; returns the crew.

    agents     the agents' names in the policy, by their roles; a role that is not there is its own name. Agents that the guard knows
               already, by that name, stay as they are
    the rest   as in `guard_agent`

    A hierarchical crew's manager is made now instead of at the first kickoff. Raises InvalidInput as `guard_agent` does.
    """
    if crew.process is Process.hierarchical and crew.manager_agent is None:
        crew._create_manager_agent()
    others = [one.agent for one in crew.tasks if one.agent is not None]
    everyone = {id(one): one for one in (*crew.agents, crew.manager_agent, *others) if one is not None}
    for member in everyone.values():
        name, known = (agents or {}).get(member.role, member.role), getattr(member, "agentguard_binding", None)
        if known is not None and (known.guard, known.agent) == (guard, name):
            continue  # it works in another crew as well
        guard_agent(guard, member, agent=name, task=task, on_deny=on_deny, unsafe_provider_tools=unsafe_provider_tools)
    crew.__class__ = type(type(crew).__name__, (_NoCheckpoint, type(crew)), {"__module__": __name__})
    return crew


def guard_agent(
    guard: Guard,
    member: Agent,
    *,
    agent: str | None = None,
    task: Task | None = None,
    on_deny: OnDeny = "message",
    unsafe_provider_tools: bool = False,
) -> Agent:
    """Guard one agent in place, wherever it works: in crews, by `kickoff`, as a co-worker, and its copies. Returns it.

    agent                   its name in the policy; by default its role, as it was written
    task                    its authority, or that of an agent which may delegate to it; None is the task that is current when it runs
    on_deny                 "message": the model is told and goes on; "raise": the run ends with HookAborted, and Denied is its __cause__
    unsafe_provider_tools   let it have tools that the model's provider runs, such as web search; the guard never sees their calls

    CrewAI's cache of tool results is off for it: what another agent was allowed to see would come out of it without a question.
    Raises InvalidInput for an agent of another framework, one that talks to remote agents (`a2a`), or one that is guarded already.
    """
    if not isinstance(member, Agent):
        hint = "guard its tools, with guard_tools, or it, with the adapter of its own framework"
        raise InvalidInput(f"{type(member).__name__} is none of CrewAI's `Agent`s", hint=hint)
    if getattr(type(member), "agentguard_binding", None) is not None:
        raise InvalidInput(f"the agent {member.role!r:.80} is guarded already")
    if getattr(member, "a2a", None):
        raise InvalidInput("what an agent sends over A2A passes no hook of CrewAI", hint="give it a tool that calls the remote agent")
    hosted = [{"type": name} for name in getattr(member.llm, "builtin_tools", None) or ()]
    refuse_hosted({"tools": hosted, **(getattr(member.llm, "additional_params", None) or {})}, accepted=unsafe_provider_tools)
    binding = Binding(guard, agent or getattr(member, "_original_role", None) or member.role, task, on_deny, guarded_tool)
    member.executor_class = _executor_of(member.executor_class)
    member.agent_executor = None  # one that ran before is not ours
    member.tools_handler = ToolsHandler()
    # CrewAI copies agents by their class (kickoff_for_each, train, test): so that is where the guard has to stay.
    member.__class__ = _class_of(type(member), binding)
    return member


def guard_tools(
    guard: Guard,
    tools: Iterable[BaseTool | Callable[..., Any]],
    *,
    agent: str | None = None,
    task: Task | None = None,
    on_deny: OnDeny = "message",
) -> list[BaseTool]:
    """Copies of tools that ask the guard, for what is no guarded agent. Functions become tools as with CrewAI's `@tool`.

    agent, task   who calls and by which authority; by default the current task's
    on_deny       "message": a denial is returned, as a `DeniedFailure`; "raise": Denied is raised, which CrewAI's agents retry
    """
    binding = Binding(guard, agent, task, on_deny, guarded_tool)
    return [guarded_tool(one if isinstance(one, BaseTool) else make(one), binding, raises=on_deny == "raise") for one in tools]


class _NoCheckpoint:
    @classmethod
    def from_checkpoint(cls, config: Any) -> Any:
        """Refused: `kickoff(from_checkpoint=...)` would run what was made anew, and nobody guards."""
        raise InvalidInput(
            "what comes from a checkpoint is not guarded", hint="guard what CrewAI's `from_checkpoint` gives, then `kickoff()`"
        )


def _executor_of(base: Any) -> Any:
    """The class of executor with the guard's part in it. CrewAI does not find the steps of a flow in a class above: they are handed on."""
    return type(base.__name__, (Asks, base), {"__module__": __name__, "_flow_definition": base.flow_definition()})


def _class_of(base: type[Agent], binding: Binding) -> type[Agent]:
    """The class of one guarded agent."""

    class GuardedAgent(_NoCheckpoint, base):
        def set_cache_handler(self, cache_handler: Any) -> None:
            """Nothing: a result from a cache is one that nobody was asked about."""
            self.tools_handler = ToolsHandler()

        def _add_skill_loader_tool(self, tools: Any, task: Any = None) -> Any:
            # Each way to run an agent brings its tools through here last, those of tasks and those that CrewAI adds included.
            self.tools_handler = ToolsHandler()
            return [guarded_tool(one, binding) for one in super()._add_skill_loader_tool(tools, task=task)]

        def _prepare_kickoff(self, *args: Any, **kwargs: Any) -> Any:
            executor, *rest = super()._prepare_kickoff(*args, **kwargs)
            if not isinstance(executor, Asks):  # `kickoff` knows nothing of `executor_class`
                executor = self.executor_class(**{name: getattr(executor, name) for name in executor.model_fields_set})
            executor.tools_handler = self.tools_handler
            return executor, *rest

    GuardedAgent.__name__, GuardedAgent.__qualname__ = base.__name__, base.__qualname__
    GuardedAgent.agentguard_binding = binding
    return GuardedAgent
