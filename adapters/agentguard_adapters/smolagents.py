"""smolagents (1.26): tool-calling agents, code agents, and tools by themselves.

    guard_agent(guard, agent, agent="researcher")               # after that, agent.run("...") as ever
    tools = guard_tools(guard, tools, agent="researcher")       # or tools that something else calls

Guarded are the agent's tools, the functions given to its Python executor, and the agents that it manages, as tools under their names. A
code agent's Python is no tool call: what it may import decides what else it can do, so imports beyond smolagents' own list are refused,
and so are remote executors, where tools would run as copies of their source.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakKeyDictionary

from agentguard import Denied, Guard, InvalidInput
from agentguard.task import Task
from agentguard_adapters.hosted import refuse_hosted
from agentguard_adapters.stand_in import OnDeny, stand_in, told
from agentguard_adapters.versions import needs

with needs("smolagents", "1.26"):
    from smolagents import CodeAgent, LocalPythonExecutor, MultiStepAgent, Tool
    from smolagents import tool as make

from agentguard_adapters.smolagents_run import Binding, ToolDenied, answers, asking_class, carrying_class

__all__ = ["ToolDenied", "guard_agent", "guard_tools"]

#: Guarded tools: for which agent or guard, and what they stand for.
_made: WeakKeyDictionary[Tool, tuple[Guard | Binding, Tool]] = WeakKeyDictionary()


def guard_agent(
    guard: Guard,
    member: MultiStepAgent,
    *,
    agent: str | None = None,
    task: Task | None = None,
    on_deny: OnDeny = "message",
    unsafe_imports: bool = False,
    unsafe_provider_tools: bool = False,
) -> MultiStepAgent:
    """Guard an agent in place, and those that it manages, each under its own name. Returns it.

    agent                   its name in the policy; by default the agent's own
    task                    its authority, or that of an agent which may delegate to it; None is the task that is current when it runs
    on_deny                 "message": the model is told, in code by an exception, and goes on; "raise": the run ends with Denied
    unsafe_imports          accept `additional_authorized_imports`: through a module, code does what no guard sees
    unsafe_provider_tools   let it have tools that the model's provider runs, such as web search; the guard never sees their calls

    Raises InvalidInput where it has no name, is guarded already, or could act past the guard.
    """
    name = agent or member.name
    if not name:
        raise InvalidInput("an agent without a name has no place in the policy", hint="say agent=")
    if _guarded(member):
        raise InvalidInput(f"the agent {name!r:.80} is guarded already")
    refuse_hosted(getattr(member.model, "kwargs", None), accepted=unsafe_provider_tools)
    accepted: dict[str, Any] = {"unsafe_imports": unsafe_imports, "unsafe_provider_tools": unsafe_provider_tools}
    binding = Binding(guard, name, task, on_deny, unsafe_imports, _ready)
    if member.name:
        binding.entry = _standing(binding, _Entry(member).ask, member.name, agent=None)
    member.agentguard_binding = binding
    before, member.__class__ = type(member), asking_class(type(member))
    try:
        for managed in member.managed_agents.values():
            if not _guarded(managed):
                guard_agent(guard, managed, task=task, on_deny=on_deny, **accepted)
        _ready(member)
    except InvalidInput:
        member.__class__ = before
        del member.agentguard_binding
        raise
    return member


def guard_tools(
    guard: Guard,
    tools: Iterable[Tool | Callable[..., Any]],
    *,
    agent: str | None = None,
    task: Task | None = None,
    on_deny: OnDeny = "message",
) -> list[Tool]:
    """Tools that ask the guard, for what is no guarded agent. Functions become tools as with smolagents' `@tool`.

    agent, task   who calls and by which authority; by default the current task's
    on_deny       "message": a denial's sentence is returned; "raise": Denied is raised
    """
    made = [one if isinstance(one, Tool) else make(one) for one in tools]

    def standing(tool: Tool) -> Tool:
        call = stand_in(guard, _body(tool), name=tool.name, agent=agent, task=task, on_deny=on_deny)
        return _standing_tool(tool, tool.name, call, guard)

    return [standing(tool) for tool in made]


class _Entry:
    """An agent as a tool of another: what calling it was before it was guarded. The same to the pin for any agent."""

    def __init__(self, member: Any) -> None:
        self.member, self.kind = member, type(member)

    def ask(self, task: str, **kwargs: Any) -> Any:
        return self.kind.__call__(self.member, task, **kwargs)


def _ready(member: Any) -> None:
    """Guard what came since the last time: tools may be added to an agent, and its executor replaced, whenever one likes."""
    binding = member.agentguard_binding
    for name, managed in member.managed_agents.items():
        if not _guarded(managed):
            raise InvalidInput(f"the managed agent {name!r:.80} is not guarded", hint="guard it first, with guard_agent")
    for name, tool in member.tools.items():
        by, original = _made.get(tool, (None, tool))
        if answers(name, tool) or by is binding:
            continue
        if by is binding.guard:
            tool = original  # one that `guard_tools` made: one call is one decision
        member.tools[name] = _standing_tool(tool, name, _standing(binding, _body(tool), name, agent=binding.agent), binding)
    if isinstance(member, CodeAgent):
        _ready_executor(member, binding)


def _ready_executor(member: Any, binding: Binding) -> None:
    executor = member.python_executor
    if not isinstance(executor, LocalPythonExecutor):
        hint = "a local executor in a container of its own, with the agent inside"
        raise InvalidInput(f"{type(executor).__name__} runs copies of tools elsewhere, past the guard", hint=hint)
    imports = sorted({*member.additional_authorized_imports, *executor.additional_authorized_imports})
    if imports and not binding.unsafe_imports:
        raise InvalidInput(f"through {', '.join(imports):.80} code can act past the guard", hint="accept it: unsafe_imports=True")
    if _guarded(executor):
        return
    executor.additional_functions = {  # code sees them as it sees tools
        name: _standing(binding, fn, name, agent=binding.agent) for name, fn in executor.additional_functions.items()
    }
    executor.agentguard_binding = binding
    executor.agentguard_seconds, executor.timeout_seconds = executor.timeout_seconds, None
    executor.__class__ = carrying_class(type(executor))


def _guarded(thing: Any) -> bool:
    return getattr(thing, "agentguard_binding", None) is not None


def _standing(binding: Binding, fn: Callable[..., Any], name: str, *, agent: str | None) -> Callable[..., Any]:
    """A function in the place of a tool's, for a guarded agent."""
    stand = stand_in(binding.guard, fn, name=name, agent=agent, task=binding.task, on_deny="raise")

    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return stand(*args, **kwargs)
        except Denied as denied:
            said = told(denied)
        raise ToolDenied(said)  # model's code may catch it and look inside: there is nothing but the sentence

    return call


def _standing_tool(tool: Tool, name: str, call: Callable[..., Any], by: Guard | Binding) -> Tool:
    """A tool with that function. It is of a class of its own and keeps the tool nowhere: model's code may ask for `type(tool).forward`."""
    generic = any(one.kind is one.VAR_POSITIONAL for one in inspect.signature(_body(tool)).parameters.values())
    inputs = tuple(tool.inputs)

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if generic:  # tools made from other frameworks' take anything; their inputs say what is meant
            args, kwargs = args[len(inputs) :], {**dict(zip(inputs, args, strict=False)), **kwargs}
        return call(*args, **kwargs)

    def setup(self: Any) -> None:
        tool.setup()
        self.is_initialized = True

    shown = {one: getattr(tool, one) for one in ("name", "description", "output_type", "output_schema") if hasattr(tool, one)}
    members = {
        **shown,
        "inputs": dict(tool.inputs),
        "forward": forward,
        "skip_forward_signature_validation": True,
        "__module__": __name__,
    }
    made = type(type(tool).__name__, (Tool,), members if tool.is_initialized else {**members, "setup": setup})()
    made.is_initialized = tool.is_initialized
    _made[made] = (by, tool)
    return made


def _body(tool: Tool) -> Callable[..., Any]:
    if type(tool).__call__ is not Tool.__call__:
        raise InvalidInput(f"the tool {tool.name!r:.80} has a `__call__` of its own", hint="put what it does into `forward`")
    # `@tool` gives the function a `self` that it does not have.
    simple = type(tool).__name__ == "SimpleTool" and tool not in _made
    return tool.forward.__wrapped__ if simple else tool.forward  # type: ignore[no-any-return]
