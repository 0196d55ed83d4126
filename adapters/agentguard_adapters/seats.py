"""Which authority an agent acts under: shared by all adapters (DESIGN §4, "in process").

An adapter knows the name of the agent that calls. The task that is current may be that agent's, or the one of an agent above it: a
sub-agent inside a tool, a worker under a supervisor, the next agent of a swarm. Then a narrower task is derived, if the policy's
`delegates` let it be, once for each parent task and agent.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from agentguard import Guard
from agentguard.context import current_execution, current_task
from agentguard.enforcement import NOBODY
from agentguard.task import Task

_deriving = threading.Lock()


def seat(guard: Guard, agent: str | None, task: Task | None = None) -> tuple[str, Task | None]:
    """The agent's name and the task that its calls are judged under.

    agent   the agent's name in the policy; None is whoever the task belongs to
    task    its authority, or that of an agent which may delegate to it; None is the task that is current

    Raises Denied (`delegation_not_allowed`) where the task is another agent's and the policy has no way from there to `agent`.
    """
    current = task if task is not None else current_task.get()
    if current is None:
        return agent or NOBODY, None
    if agent is None or agent == current.agent:
        return current.agent, current
    if current.guard is not guard:
        return agent, current  # not ours to derive from: the check will say so
    return agent, _derived(guard, current, agent)


@contextmanager
def acting_as(guard: Guard, agent: str, task: Task | None = None) -> Iterator[Task | None]:
    """What runs inside acts as `agent`: for a node of one's own making. Raises Denied as `seat` does."""
    _, own = seat(guard, agent, task)
    token = current_task.set(own)
    try:
        yield own
    finally:
        current_task.reset(token)


def _derived(guard: Guard, current: Task, agent: str) -> Task:
    """The task of `agent` below `current`. Where agents hand off to each other, the giver may be one that acts in the same execution:
    of a → b → c only b need have c among its delegates. The latest comes first.
    """
    here = current_execution.get()
    with _deriving:
        made, _ = current.derived.pop(agent, (None, None))
        if made is None or made.closed:
            others = [one for one, where in reversed(current.derived.values()) if where == here]
            giver = next((one for one in (current, *others) if guard.policy.may_delegate((*_path(one), agent)) is None), current)
            made = giver.delegate(agent).issue()
        current.derived[agent] = (made, here)
        return made


def _path(task: Task) -> tuple[str, ...]:
    return (*_path(task.parent), task.agent) if task.parent is not None else (task.agent,)
