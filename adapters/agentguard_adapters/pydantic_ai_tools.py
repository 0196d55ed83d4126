"""The tools of a Pydantic AI agent, guarded where they are called."""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

from pydantic_ai._function_schema import FunctionSchema
from pydantic_ai.toolsets import FunctionToolset, WrapperToolset

from agentguard import Code, Guard, ToolCall
from agentguard.canonical import freeze, jcs
from agentguard.decision import Reason, Stage
from agentguard.plain import plain
from agentguard.task import Task
from agentguard_adapters.stand_in import Asked, asking, pinned_of, stand_in

#: The exceptions by which a tool puts a call off; the framework calls it again, under the same id, once there is an answer.
_PAUSES = ("pydantic_ai.exceptions.ApprovalRequired", "pydantic_ai.exceptions.CallDeferred")
_MAX_STANDS = 500


class Calling:
    """One tool call, between the framework's hook and the tool: what the model presented, and what was asked of the guard."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.asked: Asked | None = None


_calling: ContextVar[Calling | None] = ContextVar("agentguard.pydantic_ai.calling", default=None)
#: What was checked of the output that is being put out, in canonical form.
_checked: ContextVar[bytes | None] = ContextVar("agentguard.pydantic_ai.checked", default=None)


@contextmanager
def calling(call: Any) -> Iterator[Calling]:
    """A hook's word about the call that the framework makes inside."""
    this = Calling(call)
    token = _calling.set(this)
    try:
        yield this
    finally:
        _calling.reset(token)


def presented(call: Any) -> dict[str, Any] | None:
    """What the model presented; None where it is no object."""
    try:
        arguments = call.args_as_dict()
    except (ValueError, AssertionError):
        return None
    return arguments if isinstance(arguments, dict) else None


@dataclass
class GuardedToolset(WrapperToolset):
    """A toolset whose tools are guarded when they are called: behind every wrapper."""

    tools: Any

    async def call_tool(self, name: str, tool_args: dict[str, Any], ctx: Any, tool: Any) -> Any:
        inside = self.wrapped.visit_and_replace(lambda leaf: leaf if leaf is self.wrapped else GuardedToolset(leaf, self.tools))
        if inside is not self.wrapped:  # made in the run, and known to hold others only now: each of them is guarded
            return await inside.call_tool(name, tool_args, ctx, tool)
        return await self.tools.call(self.wrapped, name, tool_args, ctx, tool)


class Tools:
    """The stand-ins of one agent's tools."""

    def __init__(self, guard: Guard, agent: str, task: Task | None) -> None:
        self._guard, self._agent, self._task = guard, agent, task
        self._stands: dict[tuple[str, Any], tuple[Any, Any, Any]] = {}  # by name and schema, beside the schema that has the id

    async def call(self, toolset: Any, name: str, arguments: dict[str, Any], ctx: Any, tool: Any) -> Any:
        """Call a toolset's tool, with a stand-in in the place of its function, or of the whole call where there is none (MCP)."""
        this = _calling.get()
        call = this.call if this is not None and this.call is not None and this.call.tool_call_id == ctx.tool_call_id else None
        known_as = call.tool_name if call is not None else ctx.tool_name or name  # with the prefix that the model calls it by
        shown = presented(call) if call is not None else None
        schema: Any = getattr(getattr(tool, "call_func", None), "__self__", None)
        if type(schema) is not FunctionSchema or type(toolset).call_tool is not FunctionToolset.call_tool:  # it might call another function
            stand = self._whole(known_as, tool.tool_def.parameters_json_schema)
            through = lambda checked: toolset.call_tool(name, checked, ctx, tool)  # noqa: E731
            return await self._ask(stand, known_as, ctx.tool_call_id, shown, lambda: stand(through, **arguments))
        stand, run = self._stand(known_as, schema)
        alone = schema.single_arg_name  # a model that is the only argument: the framework takes its fields in its place
        if alone is not None and shown is not None and [*shown] != [alone]:
            shown = {alone: shown}
        guarded = replace(tool, call_func=run)
        return await self._ask(stand, known_as, ctx.tool_call_id, shown, lambda: toolset.call_tool(name, arguments, ctx, guarded))

    async def put_out(self, ctx: Any, output_context: Any, output: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
        """Put out by the framework's way to the output function."""
        call, definition = output_context.tool_call, output_context.object_def
        name = output_context.function_name or (call.tool_name if call is not None else "output")
        arguments = _arguments(output_context, output)
        stand = self._whole(name, definition.json_schema if definition is not None else {})

        async def run(checked: dict[str, Any]) -> Any:
            token = _checked.set(_form(checked))
            try:
                return await handler(output)
            finally:
                _checked.reset(token)

        return await self._ask(stand, name, call.tool_call_id if call is not None else None, None, lambda: stand(run, **arguments))

    def unchanged(self, output_context: Any, output: Any) -> None:
        """Raises Denied where this is not the output that was checked."""
        if _form(_arguments(output_context, output)) != _checked.get():
            call = ToolCall(self._agent, output_context.function_name or "output", {})
            reason = Reason(Code.INTEGRITY_FAILURE, call.tool, "the output that was checked", "another one, from a hook behind the guard")
            raise self._guard.refuse(call, Stage.INTEGRITY, reason, task=self._task)

    async def _ask(self, stand: Any, name: str, call_id: str | None, shown: Any, run: Callable[[], Awaitable[Any]]) -> Any:
        pinned = pinned_of(stand)
        with asking(self._agent, pinned.name if pinned is not None else name, call_id, shown, self._task) as asked:
            this = _calling.get()
            if this is not None and getattr(this.call, "tool_call_id", None) == call_id:  # not a call within the tool
                this.asked = asked
            return await run()

    def _stand(self, name: str, schema: Any) -> tuple[Any, Any]:
        """The stand-in of a function, and the framework's way to call it."""
        known = self._stands.get((name, id(schema)))
        if known is None:
            injected = (next(iter(inspect.signature(schema.function).parameters)),) if schema.takes_ctx else ()
            stand = stand_in(self._guard, schema.function, name=name, injected=injected, schema=schema.json_schema, pauses=_PAUSES)
            known = self._keep((name, id(schema)), (schema, stand, replace(schema, function=stand).call))
        return known[1:]

    def _whole(self, name: str, schema: Any) -> Any:
        """A stand-in for whatever is called, by the arguments in its schema."""
        key = (name, json.dumps(schema, sort_keys=True, default=str))
        known = self._stands.get(key)
        if known is None:

            async def whole(agentguard_run: Any, **arguments: Any) -> Any:
                return await agentguard_run(arguments)

            stand = stand_in(self._guard, whole, name=name, injected=("agentguard_run",), schema=schema, pauses=_PAUSES)
            known = self._keep(key, (schema, stand, None))
        return known[1]

    def _keep(self, key: tuple[str, Any], made: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        if len(self._stands) >= _MAX_STANDS:  # functions that are made anew for each run are not kept for ever
            self._stands.clear()
        self._stands[key] = made
        return made


def _arguments(output_context: Any, output: Any) -> dict[str, Any]:
    """The output as the arguments of its function, by the names in the schema that the model has. The framework takes a single one out of
    its envelope, and leaves a model as it is.
    """
    definition = output_context.object_def
    names = [*definition.json_schema.get("properties", {})] if definition is not None else []
    shown = plain(output)
    if isinstance(shown, dict) and (type(output) is not dict or len(names) != 1):
        return dict(shown if type(output) is not dict else output)
    return {names[0] if len(names) == 1 else "text": output}


def _form(arguments: dict[str, Any]) -> bytes:
    return jcs(freeze({name: plain(value) for name, value in arguments.items()}))
