"""What a tool's body is, and what it may not give: async or not, and an awaitable that nobody waits for."""

from __future__ import annotations

import inspect
from types import FunctionType
from typing import Any

from agentguard.errors import InvalidInput


def is_async(fn: Any) -> bool:
    """Whether this very function is one that is awaited."""
    if type(fn) is FunctionType:  # nearly always, and `inspect` takes a long way to this bit
        return bool(fn.__code__.co_flags & inspect.CO_COROUTINE)
    return inspect.iscoroutinefunction(fn)


def awaits(fn: Any) -> bool:
    """Whether what stands for a callable is awaited: for a function, or an object whose type is called so."""
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(type(fn).__call__)


def unawaited(output: Any) -> InvalidInput:
    """What a tool put off and nobody may await, since it would run outside its execution: stopped, and the error that says so."""
    for end in ("close", "cancel"):
        if callable(stop := getattr(output, end, None)):
            stop()
            break
    hint = "let the tool await it, and use `await permit.arun(fn)`"
    return InvalidInput("the tool returned an awaitable, which was stopped", hint=hint)
