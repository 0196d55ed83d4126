"""The function tools of an openai-agents agent, guarded: Python functions below the framework's own coercion, others on their JSON."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agents import FunctionTool, ToolGuardrailFunctionOutput, function_tool, tool_output_guardrail
from agents.agent_tool_state import get_agent_tool_state_scope, peek_agent_tool_run_result
from agents.exceptions import AgentsException
from agents.function_schema import function_schema
from agents.tool import invoke_function_tool
from agents.tool_context import ToolContext

from agentguard import Denied, Guard
from agentguard_adapters.stand_in import asking, pinned_of, stand_in, told

if TYPE_CHECKING:
    from agentguard_adapters.openai_agents_tools import Guarding

#: The argument by which a body gets the framework's context, beside what the model presents.
FRAMEWORK = ("agentguard_context",)


class RunDenied(AgentsException, Denied):
    """Ends the run. The framework tells models what exceptions say, so this one says what a model may hear; `decision` has it all."""

    def __str__(self) -> str:
        return self.for_model


class Waiting(Exception):
    """Ends a tool whose agent waits for an approval. The framework calls the tool again, under the same id, once that is there."""

    def __init__(self, output: Any) -> None:
        super().__init__("an agent used as a tool waits for an approval")
        self.output = output


def arguments_of(presented: str) -> dict[str, Any] | None:
    """Arguments as JSON; None where they are no object."""
    try:
        arguments = json.loads(presented) if presented else {}
    except (ValueError, RecursionError):
        return None
    return arguments if isinstance(arguments, dict) else None


def guarded(guarding: Guarding, tool: Any) -> Any:
    """A function tool that stands for `tool`."""
    inner, name = _behind(guarding.guard, tool)
    approval = tool.needs_approval if isinstance(tool.needs_approval, bool) else _Approval(tool)
    checks = tool.tool_output_guardrails
    if tool.output_json_schema is not None and _denial not in (checks or ()):
        checks = [_denial, *(checks or ())]
    invoke = Invoke(guarding, name, tool.on_invoke_tool, inner)
    return replace(tool, on_invoke_tool=invoke, needs_approval=approval, tool_output_guardrails=checks)


def _behind(guard: Guard, tool: Any) -> tuple[Any, str]:
    """The tool with a stand-in inside, and its registered name. A Python function is replaced below the framework's own coercion; of any
    other tool (MCP, an agent, one made by hand) the JSON is judged.
    """
    fn = getattr(tool, "__wrapped__", None)
    bare = replace(tool, timeout_seconds=None, needs_approval=False)  # both are the guarded tool's
    if fn is None:
        stand = stand_in(
            guard,
            _by_json(bare),
            name=tool.qualified_name,
            injected=FRAMEWORK,
            schema=tool.params_json_schema,
            watch=((bare, "on_invoke_tool"),),
            pauses=(f"{Waiting.__module__}.{Waiting.__qualname__}",),
        )
        return stand, tool.qualified_name
    body = fn if inspect.isroutine(fn) or inspect.isclass(fn) else fn.__call__
    stand = stand_in(guard, body, name=tool.qualified_name, injected=_context_of(body), schema=tool.params_json_schema)
    adapter = getattr(tool, "_output_type_adapter", None)
    made = function_tool(
        stand,
        name_override=tool.name,
        use_docstring_info=False,
        strict_mode=tool.strict_json_schema,
        output_type=adapter._type if adapter is not None else None,
    )
    pinned = pinned_of(stand)
    return replace(bare, on_invoke_tool=made.on_invoke_tool), pinned.name if pinned is not None else tool.qualified_name


def _by_json(tool: Any) -> Callable[..., Any]:
    async def invoke(agentguard_context: Any, **arguments: Any) -> Any:
        output = await invoke_function_tool(function_tool=tool, context=agentguard_context, arguments=json.dumps(arguments))
        call = getattr(agentguard_context, "tool_call", None)
        run = peek_agent_tool_run_result(call, scope_id=get_agent_tool_state_scope(agentguard_context)) if call is not None else None
        if getattr(run, "interruptions", None):
            raise Waiting(output)
        return output

    return invoke


def _context_of(fn: Any) -> tuple[str, ...]:
    """The argument that the framework fills in: the first one, if it is annotated as its context."""
    schema = function_schema(fn, use_docstring_info=False, strict_json_schema=False)
    return tuple(schema.signature.parameters)[:1] if schema.takes_context else ()


class Invoke:
    """What the framework calls for a guarded function tool: it knows who calls, under which id, and what was presented."""

    def __init__(self, guarding: Guarding, name: str, given: Any, inner: Any) -> None:
        self.guarding, self.given = guarding, given
        self._name, self._inner = name, inner

    async def __call__(self, context: ToolContext[Any], presented: str) -> Any:
        guarding = self.guarding
        arguments = arguments_of(presented)
        agent = guarding.agent or getattr(getattr(context, "agent", None), "name", None)
        with asking(agent, self._name, getattr(context, "tool_call_id", None), arguments, guarding.task) as asked:
            mistakes = ""
            try:
                output = await self._run(context, presented, arguments)
            except Waiting as waiting:
                return waiting.output
            except Exception as error:
                if asked.taken and asked.denied is None:
                    raise
                output, mistakes = None, str(error)
            if not asked.taken:  # the framework answered
                asked.refuse(guarding.guard, mistakes := mistakes or str(output))
        if asked.denied is None:
            return output
        if guarding.on_deny == "raise":
            raise RunDenied(asked.denied.decision) from asked.denied
        denial = told(asked.denied, mistakes)
        if isinstance(context, ToolContext):
            context.agentguard_denial = denial
        return denial

    async def _run(self, context: Any, presented: str, arguments: dict[str, Any] | None) -> Any:
        if isinstance(self._inner, FunctionTool):
            return await self._inner.on_invoke_tool(context, presented)
        return await self._inner(context, **arguments) if arguments is not None else "The arguments must be a JSON object."


@tool_output_guardrail
def _denial(data: Any) -> Any:
    """Lets a denial through where a tool declares what its output looks like."""
    denial = getattr(data.context, "agentguard_denial", None)
    return ToolGuardrailFunctionOutput.reject_content(denial) if denial is not None else ToolGuardrailFunctionOutput.allow()


class _Approval:
    """A tool's own rule about approvals, asked as the framework would ask it: what validation changes, a human has to see."""

    def __init__(self, tool: Any) -> None:
        self._tool, self._rule = tool, tool.needs_approval

    async def __call__(self, context: Any, arguments: dict[str, Any], call_id: str) -> bool:
        prepare = getattr(self._tool.on_invoke_tool, "prepare_arguments", None)
        prepared = prepare(json.dumps(arguments), self._tool.name) if prepare is not None else None
        if prepared is not None and not prepared.unchanged:
            return True
        answer = self._rule(context, arguments, call_id)
        return bool(await answer if inspect.isawaitable(answer) else answer)
