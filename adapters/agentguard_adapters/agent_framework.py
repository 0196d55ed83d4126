"""Microsoft Agent Framework (agent-framework-core 1.23): one line guards every tool call of an agent.

    triage = guard_agent(guard, Agent(client, name="triage", tools=[...]))
    with guard.task("triage", initiator="user:alice"):
        await triage.run("...")

The agent itself gets two middlewares. The tool objects that it holds, or comes to hold, get a guarded function, each before the model hears
of it: the decision falls there, behind every other middleware. What a middleware answers in the place of a tool, no guard sees. Each agent
is guarded under its own name; one that is not, used as a tool, is refused. For one run, or a chat client:
`middleware=guard_middleware(guard, "triage")`; for tools that no agent runs: `guard_tools(guard, tools)`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import MethodType
from typing import Any

from pydantic import BaseModel, ConfigDict

from agentguard import Denied, Guard, InvalidInput
from agentguard.plain import plain
from agentguard.task import Task
from agentguard_adapters.seats import acting_as
from agentguard_adapters.stand_in import OnDeny, asking, pinned_of, stand_in, told
from agentguard_adapters.versions import needs

with needs("agent-framework-core", "1.23", extra="agent-framework"):
    from agent_framework import (
        AgentMiddlewareLayer,
        ChatMiddleware,
        FunctionMiddleware,
        FunctionTool,
        MiddlewareFailure,
        RawAgent,
        normalize_tools,
    )

#: Types of tools given as dictionaries that the model's provider does not run itself.
_RUN_HERE = (None, "function", "custom")
_WAYS = ("invoke", "__call__", "_invoke_function")


class RunDenied(Denied, MiddlewareFailure):
    """A denial that ends the run: the framework lets nothing else through."""


def guard_agent(
    guard: Guard,
    assistant: Any,
    *,
    agent: str | None = None,
    task: Task | None = None,
    on_deny: OnDeny = "message",
    unsafe_provider_tools: bool = False,
) -> Any:
    """Guard an agent, in place, and give it back.

    agent     its name in the policy; by default the name that it has
    task      the authority; by default the current task. Another agent's task is narrowed down, where the policy's `delegates` let it be
    on_deny   "message": the model is told, and goes on; "raise": the run ends with RunDenied, which is a Denied
    unsafe_provider_tools   let the model have tools that its provider runs, such as web search; the guard never sees their calls

    Raises InvalidInput where it takes no middleware, or a tool of it cannot be guarded.
    """
    name = agent or assistant.name
    if not isinstance(assistant, AgentMiddlewareLayer) or not name:
        raise InvalidInput(f"the {type(assistant).__name__} {name or 'without a name'} cannot be guarded", hint="an Agent with a name can")
    if _is_guarded(assistant):
        raise InvalidInput(f"the agent {name!r} is guarded already")
    hooks = guard_middleware(guard, name, task=task, on_deny=on_deny, unsafe_provider_tools=unsafe_provider_tools)
    hooks[1].look(getattr(assistant, "default_options", {}))
    assistant.middleware = [*(assistant.middleware or ()), *hooks]
    return assistant


def guard_middleware(
    guard: Guard, agent: str, *, task: Task | None = None, on_deny: OnDeny = "message", unsafe_provider_tools: bool = False
) -> list[Any]:
    """The two middlewares, for `run(middleware=...)` or a chat client: the one without the other is not enough. As for `guard_agent`."""
    return [_ToolHook(guard, agent, task, on_deny), _ModelHook(guard, unsafe_provider_tools)]


def guard_tools(guard: Guard, tools: Any) -> list[Any]:
    """The tools, each with a guard before its function from now on, whoever runs it; functions become tools. Called by no guarded agent, a
    denied one raises Denied, and acts for the agent of the current task.
    """
    given: list[Any] = normalize_tools(tools)
    for tool in given:
        if not isinstance(tool, FunctionTool):
            raise InvalidInput(f"{type(tool).__name__} is no FunctionTool", hint="give it to a guarded agent")
        _guard(guard, tool)
    return given


class _ToolHook(FunctionMiddleware):
    """What the framework knows of a call, and how a denial leaves."""

    def __init__(self, guard: Guard, agent: str, task: Task | None, on_deny: OnDeny) -> None:
        self._guard, self._agent, self._task, self._on_deny = guard, agent, task, on_deny

    async def process(self, context: Any, call_next: Callable[[], Awaitable[None]]) -> None:
        tool = context.function
        with asking(self._agent, tool.name, context.metadata.get("call_id"), _shown(context.arguments), self._task) as asked:
            try:
                _guard(self._guard, tool)  # one that was added while the run goes on
                with acting_as(self._guard, self._agent, self._task):  # whatever runs inside, and is not announced, acts for this agent
                    await call_next()
            except Denied as error:  # the guard's, or one that the tool met itself
                denied, mistakes = error, ""
            except (TypeError, InvalidInput) as error:  # the framework's word for arguments that do not fit
                if asked.taken:
                    raise
                denied, mistakes = asked.refuse(self._guard, str(error)), str(error)
            else:
                return
        if self._on_deny == "raise":
            raise RunDenied(denied.decision) from denied
        context.result = told(denied, mistakes)


class _ModelHook(ChatMiddleware):
    """Guards the tools before the model hears of them, and refuses those that no guard can stand before."""

    def __init__(self, guard: Guard, unsafe_provider_tools: bool) -> None:
        self._guard, self._unsafe_provider_tools = guard, unsafe_provider_tools

    async def process(self, context: Any, call_next: Callable[[], Awaitable[None]]) -> None:
        self.look(context.options or {})
        await call_next()

    def look(self, options: Mapping[str, Any]) -> None:
        for tool in normalize_tools(options.get("tools")):
            if isinstance(tool, FunctionTool):
                _guard(self._guard, tool)
            elif not self._unsafe_provider_tools and not (isinstance(tool, Mapping) and tool.get("type") in _RUN_HERE):
                name = (tool.get("name") or tool.get("type")) if isinstance(tool, Mapping) else type(tool).__name__
                found = f"the tool {name} runs at the model's provider, where the guard does not see its calls"
                raise InvalidInput(found, hint="remove it, or pass unsafe_provider_tools=True")


def _guard(guard: Guard, tool: Any) -> None:
    """Put a stand-in in the place of the tool's function, once. Raises InvalidInput where that would not hold."""
    if pinned_of(tool.func) is not None:
        stand_in(guard, tool.func)  # raises where it is another guard's
    if tool.func is None or pinned_of(tool.func) is not None:
        return
    overridden = [way for way in _WAYS if getattr(type(tool), way) is not getattr(FunctionTool, way)]
    if overridden:
        raise InvalidInput(
            f"the tool {tool.name!r} overrides {overridden[0]}, which the guard would go past", hint="let it have a function"
        )
    for agent in _agents_in(tool.func):
        if not _is_guarded(agent):
            raise InvalidInput(f"the agent {agent.name!r} inside the tool {tool.name!r} is not guarded", hint="guard it first")
    body, schema = _body(tool), tool.parameters()
    injected = (tool._context_parameter_name,) if tool._context_parameter_name else ()
    tool.func, tool._instance = stand_in(guard, body, name=tool.name, injected=injected, schema=schema, on_deny="raise"), None
    if tool.input_model is not None:
        tool.input_model = _strict(tool.input_model)


def _body(tool: Any) -> Callable[..., Any]:
    """The function that the tool ends in: a method is bound to its object, and a tool that holds another one is taken apart."""
    fn = tool.func
    while isinstance(fn, FunctionTool):
        tool, fn = fn, fn.func
    return MethodType(fn, tool._instance) if tool._instance is not None else fn


def _is_guarded(agent: Any) -> bool:
    return any(isinstance(one, _ToolHook) for one in agent.middleware or ())


def _agents_in(fn: Any) -> Iterable[Any]:
    """The agents in a function's closure: what `agent.as_tool()` makes has one."""
    for cell in getattr(fn, "__closure__", None) or ():
        try:
            held = cell.cell_contents
        except ValueError:  # it is empty as yet
            continue
        if isinstance(held, RawAgent):
            yield held


class _Lenient(type(BaseModel)):  # type: ignore[misc]  # pydantic's metaclass, by its public way
    """For a model that stands for another: instances of that one are as good."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, cls.__mro__[1])


def _strict(model: Any) -> Any:
    """The tool's model, which refuses arguments that it does not know where it would have dropped them: a model that presents one is up to
    something. What the schema says of the tool was worked out before.
    """
    if model.model_config.get("extra", "ignore") != "ignore":
        return model
    return _Lenient(model.__name__, (model,), {"__module__": model.__module__, "model_config": ConfigDict(extra="forbid")})


def _shown(arguments: Any) -> dict[str, Any] | None:
    """The arguments as the framework shows them to its hooks; None where they are not to be had as JSON."""
    try:
        return {name: plain(value) for name, value in dict(arguments).items()}
    except (InvalidInput, TypeError, ValueError):
        return None
