"""What a test asks a guard's evidence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from agentguard import Code, Denied, Guard, control
from agentguard.canonical import parse
from agentguard.environment import NANOSECOND, Clock
from agentguard.ledger import Ledger
from agentguard.log import iter_records


def records(guard: Guard, kind: str | None = None, **members: Any) -> list[dict[str, Any]]:
    """The records in the guard's log, in the order in which they were written: of one type, and with these members, where given."""
    found = [parse(record) for _, _, record in iter_records(guard.home.path)]
    wanted = members if kind is None else {"type": kind, **members}
    return [record for record in found if all(record.get(name) == value for name, value in wanted.items())]


def checked(guard: Guard, execution: str) -> Any:
    """The arguments of an execution as they were checked: bound to the tool, where that made a difference."""
    values = {item.kind: item.value for item in guard.home.side.get(execution)}
    return parse(values.get("bound", values["arguments"]))


def answered(guard: Guard, approver: str) -> list[str]:
    """Approve every request that waits in the guard's home, as `approver` would on the command line. The ids of the requests."""
    home, clock = guard.home, Clock()
    requests = [filed.request for filed in home.inbox.all() if filed.request is not None]
    for request in requests:
        moment, key = clock.now() // NANOSECOND, home.keys.approver(approver)
        control.answer(home, Ledger(home, clock), request, approver, key, "approve", now=moment, operator="a test")
    return [request.id for request in requests]


def denied_in(error: BaseException) -> Denied | None:
    """The denial that an exception is or comes from: along causes and contexts, and inside exception groups."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop(0)
        if isinstance(one, Denied):
            return one
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            waiting += [one.__cause__, one.__context__, *(one.exceptions if isinstance(one, BaseExceptionGroup) else ())]
    return None


@contextmanager
def assert_denied(code: Code | str | None = None) -> Iterator[pytest.ExceptionInfo[Denied]]:
    """Pass if the block raises Denied with this code, or with any if none is given. Its `.value.decision` tells the rest."""
    with pytest.raises(Denied) as caught:
        yield caught
    decision = caught.value.decision
    if code is not None and decision.code != code:
        pytest.fail(f"denied with {decision.code} instead of {code}: {decision.explain()}")
