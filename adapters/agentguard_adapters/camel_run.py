"""A guarded agent of CAMEL at work: which call is on its way, how its denial leaves, and how authority gets into its threads."""

from __future__ import annotations

import copy
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import Any

from agentguard import Denied
from agentguard_adapters.camel_tool import Binding, announced
from agentguard_adapters.stand_in import Asked, asking, told

#: An agent, and the denials of its stream's calls, which CAMEL would swallow if they were raised where they happen.
_denials: ContextVar[tuple[Any, list[Denied]]] = ContextVar("agentguard.camel.denials", default=(None, []))  # nobody's


def asking_class(base: Any) -> Any:
    """The class of an agent, guarded: `agentguard_binding` on an instance says by what.

    CAMEL gives some methods to threads without the context. As properties, they take it with them when they are looked up, which
    is before.
    """

    class Asks(base):
        agentguard_binding: Binding

        def add_tool(self, tool: Any) -> None:
            super().add_tool(tool)
            self._guard_tools()

        def clone(self, with_memory: bool = False) -> Any:
            """A guarded clone. It is made of the tools as they were given, so that CAMEL clones the toolkits behind them."""
            plain = copy.copy(self)
            plain.__class__ = base
            plain._internal_tools = {name: tool.agentguard_original for name, tool in self._guard_tools().items()}
            made = plain.clone(with_memory)
            made.agentguard_binding, made.__class__ = self.agentguard_binding, asking_class(type(made))
            made._guard_tools()
            return made

        @property
        def _step_impl(self) -> Callable[..., Any]:
            return _taken_along(super()._step_impl)

        @property
        def _execute_tool_from_stream_data(self) -> Callable[..., Any]:
            return _taken_along(self._streamed)

        def _execute_tool(self, request: Any) -> Any:
            with self._asking(request.tool_name, request.tool_call_id, request.args) as asked:
                record = super()._execute_tool(request)
            return self._answered(asked, record)

        async def _aexecute_tool(self, request: Any) -> Any:
            with self._asking(request.tool_name, request.tool_call_id, request.args) as asked:
                record = await super()._aexecute_tool(request)
            return self._answered(asked, record)

        def _streamed(self, data: Any) -> Any:
            name, call_id, arguments = _parts(data)
            with self._asking(name, call_id, arguments) as asked:
                record = None if arguments is None else super()._execute_tool_from_stream_data(data)
            return self._answered(asked, record)

        async def _aexecute_tool_from_stream_data(self, data: Any) -> Any:
            name, call_id, arguments = _parts(data)
            with self._asking(name, call_id, arguments) as asked:
                record = None if arguments is None else await super()._aexecute_tool_from_stream_data(data)
            return self._answered(asked, record)

        def _accumulate_tool_calls(self, deltas: Any, calls: Any) -> bool:
            """Whether a call is complete: one of a tool that nobody knows is, too, or CAMEL would end the stream without an answer."""
            known = super()._accumulate_tool_calls(deltas, calls)
            return [_settle(call) for call in calls.values()].count(True) > 0 or known

        def _execute_tools_sync_with_status_accumulator(self, calls: Any, *args: Any) -> Iterator[Any]:
            with self._together(calls):  # it yields nothing, and its calls are over when it ends
                found = list(super()._execute_tools_sync_with_status_accumulator(calls, *args))
            yield from found

        async def _execute_tools_async_with_status_accumulator(self, calls: Any, *args: Any) -> AsyncIterator[Any]:
            with self._together(calls):
                found = [one async for one in super()._execute_tools_async_with_status_accumulator(calls, *args)]
            for one in found:
                yield one

        @contextmanager
        def _together(self, calls: Mapping[str, Any]) -> Iterator[None]:
            """The calls of one streamed message. Those that CAMEL would leave unanswered are gone through as well, and refused."""
            for call in calls.values():
                _settle(call, broken=True)
            denials: list[Denied] = []
            token = _denials.set((self, denials))
            try:
                yield
            finally:
                _denials.reset(token)
            if denials:
                raise denials[0]

        def _guard_tools(self) -> dict[str, Any]:
            """What was put there since the last time is guarded too."""
            tools: dict[str, Any] = self._internal_tools
            for name, tool in tools.items():
                tools[name] = self.agentguard_binding.guarded(tool, self.agentguard_binding)
            return tools

        @contextmanager
        def _asking(self, name: str, call_id: str | None, arguments: Any) -> Iterator[Asked]:
            binding = self.agentguard_binding
            known = name in self._guard_tools() and isinstance(arguments, dict)
            with asking(binding.agent, name, call_id, arguments if known else None, binding.task) as asked:
                token = announced.set((binding, asked))
                try:
                    yield asked
                finally:
                    announced.reset(token)
            if not known:
                asked.refuse(binding.guard, "no such tool, or the arguments are no JSON object")

        def _answered(self, asked: Asked, record: Any) -> Any:
            """The record of the call; where a denial is to end the run, it is raised, or kept for the end of the stream's step."""
            if asked.denied is None:
                return record
            if self.agentguard_binding.on_deny == "message":
                said = told(asked.denied, "the arguments are no JSON object")
                return record or self._record_tool_calling(asked.tool, {}, said, asked.call_id)
            whose, denials = _denials.get()
            if whose is not self:
                raise asked.denied
            denials.append(asked.denied)
            return record

    Asks.__name__, Asks.__qualname__, Asks.__module__ = base.__name__, base.__qualname__, base.__module__
    return Asks


def _taken_along(method: Callable[..., Any]) -> Callable[..., Any]:
    context = copy_context()
    return lambda *args: context.run(method, *args)


def _settle(call: Any, *, broken: bool = False) -> bool:
    """Mark a call that came in pieces as complete, if its arguments can be read, or if it is `broken` for good."""
    if "complete" not in call or not call["id"] or not call["function"]["name"]:
        return False
    call["complete"] = call["complete"] or broken or _json(call["function"]["arguments"]) is not None
    return bool(call["complete"])


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _parts(data: Mapping[str, Any]) -> tuple[str, str | None, dict[str, Any] | None]:
    """Name, id and arguments of a call that came in pieces."""
    arguments = _json(data["function"]["arguments"])
    return data["function"]["name"], data["id"], arguments if isinstance(arguments, dict) else None
