"""The guarded tool of CAMEL at work: its function gets the context of the call, and its denial is no output."""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass
from typing import Any

from agentguard import Denied, Guard
from agentguard.task import Task
from agentguard_adapters.stand_in import Asked, OnDeny, told


@dataclass(frozen=True, eq=False)
class Binding:
    """What guards one agent. `guarded` makes a guarded tool of a tool."""

    guard: Guard
    agent: str | None
    task: Task | None
    on_deny: OnDeny
    guarded: Callable[..., Any]


class ToolDenied(Exception):
    """What a denied tool raises inside an agent, for CAMEL to make its error result of: the sentence for the model."""


#: The call that an agent has started, for what CAMEL refuses on the way to the function.
announced: ContextVar[tuple[Binding, Asked] | None] = ContextVar("agentguard.camel.call", default=None)


def carrying_class(base: Any) -> Any:
    """The class of a tool, guarded: its function gets the context of the call, in whatever thread or loop CAMEL runs it."""

    class Carries(base):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            try:
                return base.__call__(_here(self, base), *args, **kwargs)
            except Exception as error:  # noqa: BLE001  # looked at, and raised again
                return _settled(error, self.agentguard_on_deny)

        async def async_call(self, *args: Any, **kwargs: Any) -> Any:
            try:
                return await base.async_call(_here(self, base), *args, **kwargs)
            except Exception as error:  # noqa: BLE001  # looked at, and raised again
                return _settled(error, self.agentguard_on_deny)

    Carries.__name__, Carries.__qualname__, Carries.__module__ = base.__name__, base.__qualname__, base.__module__
    return Carries


def _here(tool: Any, base: Any) -> Any:
    """The tool for one call, whose function runs in the context that is current now."""
    made, context = copy.copy(tool), copy_context()
    made.__class__, made.func = base, _carried(tool.func, context)
    return made


def _carried(fn: Callable[..., Any], context: Context) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(fn):

        @functools.wraps(fn)
        async def coroutine(*args: Any, **kwargs: Any) -> Any:
            return await asyncio.get_running_loop().create_task(fn(*args, **kwargs), context=context)

        return coroutine

    @functools.wraps(fn)
    def function(*args: Any, **kwargs: Any) -> Any:
        return context.run(fn, *args, **kwargs)

    return function


def _settled(error: Exception, on_deny: OnDeny | None) -> str:
    """What becomes of an exception of a tool. CAMEL makes a ValueError of it, with the arguments in it: not of a denial."""
    denied = error if isinstance(error, Denied) else error.__context__
    mistakes = ""
    if not isinstance(denied, Denied):
        call = announced.get()
        if call is None or call[1].taken:
            raise error
        denied, mistakes = call[1].refuse(call[0].guard, str(error)), str(error)  # it did not get as far as the guard
    if on_deny == "raise":
        raise denied from None
    if on_deny == "message":
        return told(denied, mistakes)
    raise ToolDenied(told(denied, mistakes)) from None
