"""Guarded tools and workbenches for AutoGen (autogen-core 0.7): the layer in the tool's place.

A tool that is denied raises `ToolDenied`: AutoGen tells the model the text of a tool's exception, marked as an error, and goes on.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, aclosing, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from pydantic import BaseModel, ValidationError

from agentguard import Denied, Guard, InvalidInput
from agentguard.decision import Decision
from agentguard.task import Task
from agentguard_adapters.stand_in import Asked, announced, asking, awaited, stand_in, told
from agentguard_adapters.versions import needs

with needs("autogen-core", "0.7.5", extra="autogen"):
    from autogen_core.tools import BaseStreamTool, BaseTool, FunctionTool

_PLAIN: Final = (BaseTool.run_json, BaseStreamTool.run_json_stream)
ARGS, TOKEN = "agentguard_args", "agentguard_token"  # what a body gets beside the arguments of the call


class ToolDenied(Denied):
    """A denial whose text is what a model may read."""

    def __init__(self, decision: Decision, mistakes: str = "") -> None:
        super().__init__(decision)
        self._told = told(self, mistakes)

    def __str__(self) -> str:
        return self._told


@dataclass(frozen=True)
class Caller:
    """Whose calls they are: the guard before them, the agent's name in the policy, and its authority where that is not the current task."""

    guard: Guard
    agent: str
    task: Task | None = None

    def asks(self, tool: str, call_id: str | None, presented: Any) -> AbstractContextManager[Asked]:
        """What a hook says of a call."""
        return asking(self.agent, tool, call_id, presented if isinstance(presented, Mapping) else None, self.task)

    @contextmanager
    def judging(self, tool: str, call_id: str | None, presented: Any) -> Iterator[None]:
        """Around AutoGen's way to the tool's body: a denial leaves as ToolDenied, and so do arguments that do not fit."""
        above = announced(tool)  # by the agent's hook
        with nullcontext(above) if above is not None else self.asks(tool, call_id, presented) as asked:
            try:
                yield
            except Denied as denied:
                raise ToolDenied(denied.decision) from denied
            except (ValidationError, InvalidInput) as error:
                if asked.taken:
                    raise
                raise ToolDenied(asked.refuse(self.guard, str(error)).decision, str(error)) from error

    def stand_in(self, body: Callable[..., Any], schema: Mapping[str, Any], *injected: str) -> Callable[..., Any]:
        """What goes in the place of the body of a tool with this schema."""
        shape = schema.get("parameters", {})
        return stand_in(
            self.guard, body, name=schema["name"], injected=injected, schema=shape, agent=self.agent, task=self.task, on_deny="raise"
        )


class Guarded:
    """What guarded tools have in common."""

    name: str
    caller: Caller
    inner: BaseTool

    async def run_json(self, args: Mapping[str, Any], cancellation_token: Any, call_id: str | None = None) -> Any:
        with self.caller.judging(self.name, call_id, args):
            return await super().run_json(args, cancellation_token, call_id=call_id)  # type: ignore[misc]  # a BaseTool stands behind this

    def _to_config(self) -> NoReturn:
        raise InvalidInput(f"the guarded tool {self.name!r} cannot be written out: it would come back without its guard")


class GuardedFunctionTool(Guarded, FunctionTool):
    """Stands for a FunctionTool. A sync function runs in a thread, as AutoGen has it, and takes its context along."""

    def __init__(self, caller: Caller, inner: FunctionTool) -> None:
        self.__dict__.update(inner.__dict__)  # what AutoGen worked out about the function
        self.caller, self.inner = caller, inner
        stand = caller.stand_in(inner._func, inner.schema, *["cancellation_token"] * inner._has_cancellation_support)
        self._func = stand if inspect.iscoroutinefunction(stand) else _in_thread(stand)


class GuardedTool(Guarded, BaseTool):
    """Stands for a tool of a class of its own. Its arguments are the fields of what its `args_type` made of them."""

    def __init__(self, caller: Caller, inner: BaseTool) -> None:
        super().__init__(inner.args_type(), inner.return_type(), inner.name, inner.description)
        self.caller, self.inner = caller, inner
        self._stand = caller.stand_in(self._body(), inner.schema, ARGS, TOKEN)

    async def run(self, args: BaseModel, cancellation_token: Any) -> Any:
        return await self._stand(**_fields(args), **{ARGS: args, TOKEN: cancellation_token})

    def _body(self) -> Callable[..., Any]:
        inner, run = self.inner, type(self.inner).run

        async def body(*, agentguard_args: BaseModel, agentguard_token: Any, **fields: Any) -> Any:
            return await run(inner, agentguard_args.model_copy(update=fields), agentguard_token)

        return _with_fields(body, inner.args_type())

    @property
    def schema(self) -> Any:
        return self.inner.schema

    def state_type(self) -> Any:
        return self.inner.state_type()

    def return_value_as_string(self, value: Any) -> str:
        return str(self.inner.return_value_as_string(value))

    async def save_state_json(self) -> Any:
        return await self.inner.save_state_json()

    async def load_state_json(self, state: Mapping[str, Any]) -> None:
        await self.inner.load_state_json(state)


class GuardedStreamTool(GuardedTool, BaseStreamTool):
    """Stands for a tool that streams, such as an agent or a team as a tool. By AutoGen's contract its last item is its result."""

    async def run(self, args: BaseModel, cancellation_token: Any) -> Any:
        last = None
        async with aclosing(self.run_stream(args, cancellation_token)) as items:
            async for item in items:
                last = item
        return last

    async def run_stream(self, args: BaseModel, cancellation_token: Any) -> AsyncGenerator[Any, None]:
        given = {**_fields(args), ARGS: args, TOKEN: cancellation_token}
        items = await awaited(self._stand)(**given)
        async with aclosing(items):
            async for item in items:
                yield item

    async def run_json_stream(self, args: Any, cancellation_token: Any, call_id: str | None = None) -> AsyncGenerator[Any, None]:
        async with aclosing(super().run_json_stream(args, cancellation_token, call_id=call_id)) as items:
            with self.caller.judging(self.name, call_id, args):  # not across a `yield`, where the context is somebody else's
                item = await anext(items, None)
            while item is not None:
                yield item
                item = await anext(items, None)

    def _body(self) -> Callable[..., Any]:
        inner, run_stream = self.inner, type(self.inner).run_stream

        async def body(*, agentguard_args: BaseModel, agentguard_token: Any, **fields: Any) -> AsyncIterator[Any]:
            async for item in run_stream(inner, agentguard_args.model_copy(update=fields), agentguard_token):
                yield item

        return _with_fields(body, inner.args_type())


def guard_tool(caller: Caller, given: BaseTool | Callable[..., Any]) -> BaseTool:
    """A guarded tool for a tool or a function. One that is guarded already is guarded anew, for this caller."""
    tool = given if isinstance(given, BaseTool) else FunctionTool(given, description=given.__doc__ or "")
    if isinstance(tool, Guarded):
        if tool.caller.guard is not caller.guard:
            raise InvalidInput(f"the tool {tool.name!r} is guarded by another guard")
        tool = tool.inner
    overridden = [name for name in ("run_json", "run_json_stream") if getattr(type(tool), name, _PLAIN[0]) not in _PLAIN]
    if overridden:
        raise InvalidInput(f"the tool {tool.name!r} overrides {overridden[0]}, which the guard would go past", hint="let it override run")
    if isinstance(tool, FunctionTool) and type(tool).run is FunctionTool.run:
        return GuardedFunctionTool(caller, tool)
    return (GuardedStreamTool if isinstance(tool, BaseStreamTool) else GuardedTool)(caller, tool)


def guard_all(caller: Caller, tools: Iterable[BaseTool | Callable[..., Any]]) -> list[BaseTool]:
    """A guarded tool for each."""
    return [guard_tool(caller, tool) for tool in tools]


def _in_thread(stand: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(stand)
    async def run(**arguments: Any) -> Any:
        return await asyncio.to_thread(stand, **arguments)

    return run


def _fields(args: BaseModel) -> dict[str, Any]:
    return {**(args.__pydantic_extra__ or {}), **{name: getattr(args, name) for name in type(args).model_fields}}


def _with_fields(body: Callable[..., Any], args_type: type[BaseModel]) -> Callable[..., Any]:
    """The body, with a signature that names the fields of the arguments, by which they bind."""
    names = [*args_type.model_fields, ARGS, TOKEN]
    body.__signature__ = inspect.Signature([inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in names])  # type: ignore[attr-defined]
    return body
