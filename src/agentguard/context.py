"""What a running piece of code may use: its task, the execution it is part of, a permit lent to it.

Context variables, so that threads and asyncio tasks never see each other's. Every default is nothing: lost context denies.
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from agentguard.permit import Permit
    from agentguard.task import Task

#: The task whose authority calls use.
current_task: ContextVar[Task | None] = ContextVar("agentguard.task", default=None)
#: The id of the execution whose body is running; what it calls was caused by it.
current_execution: ContextVar[str | None] = ContextVar("agentguard.execution", default=None)
#: A permit that a framework's hook obtained for the wrapped tool below it.
lent_permit: ContextVar[Permit | None] = ContextVar("agentguard.permit", default=None)

V = TypeVar("V")


class inside:  # noqa: N801  # used as a function, in `with`; a generator would cost each call a microsecond
    """The context of a tool's body: this execution as the cause of what it calls, no permit lent to it. For a stream's body, which anybody
    may drive on from anywhere, also the task that it was called in."""

    __slots__ = ("_cause", "_execution", "_lent", "_outer", "_task")

    def __init__(self, execution: str, *task: Task | None) -> None:
        self._execution, self._task = execution, task

    def __enter__(self) -> None:
        self._cause, self._lent = current_execution.set(self._execution), lent_permit.set(None)
        self._outer = current_task.set(*self._task) if self._task else None

    def __exit__(self, *exc: object) -> None:
        if self._outer is not None:
            restore(current_task, self._outer)
        restore(lent_permit, self._lent)
        restore(current_execution, self._cause)


def restore(variable: ContextVar[V], token: Token[V]) -> None:
    """Undo a `set`. Code that was driven on in another context has nothing to restore there, and its outcome is recorded all the same."""
    try:  # noqa: SIM105  # `suppress` would cost each call half a microsecond
        variable.reset(token)
    except ValueError:
        pass
