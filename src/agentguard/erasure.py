"""Erasing the values behind the log's commitments: for a task, for an execution, or by age (DESIGN §8).

The log stays as it is, and so does every proof about it: leaves hold commitments, SHA-256 of a random salt and the value. Once salt and
value are gone from the side store, a commitment says nothing any more, not even about a value that could be guessed. That somebody erased,
and what, is evidence; it is recorded first, so no value is ever missing without a record that says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import msgspec

from agentguard.errors import InvalidInput
from agentguard.home import Home
from agentguard.ledger import Ledger
from agentguard.log import iter_runs, read_shards

#: Told how many records were read.
Progress = Callable[[int], None]
_NANOSECOND: Final = 10**9


class Erased(NamedTuple):
    """What was erased: how many records of the log it is about (0: by age), how many values, how many open requests for approval."""

    records: int
    values: int
    requests: int


class _About(msgspec.Struct, gc=False):
    type: str | None = None
    id: str | None = None
    task: str | None = None


_decode = msgspec.json.Decoder(_About).decode


def erase_task(home: Home, ledger: Ledger, task: str, *, by: str, reason: str = "", progress: Progress = lambda done: None) -> Erased:
    """Erase the values of all calls and links of a task, those of its delegates too, and withdraw its open requests for approval.

    What a task that still runs keeps after this is kept. Raises InvalidInput if no record is of this task, EvidenceUnavailable.
    """
    found = set()
    for about in _records(home, progress):
        if about.task == task and about.id is not None and about.type != "outcome":
            found.add(about.id)
    if not found:
        raise InvalidInput(f"no record in the log is of a task {task!r:.80}", hint="`agentguard lineage` lists the tasks")
    _record(ledger, {"records": len(found), "task": task}, by, reason)
    filed = [item.request for item in home.inbox.all() if item.request is not None and item.request.question.task == task]
    for request in filed:
        home.inbox.retire(request)
    return Erased(len(found), home.side.erase(found), len(filed))


def erase_execution(
    home: Home, ledger: Ledger, execution: str, *, by: str, reason: str = "", progress: Progress = lambda done: None
) -> Erased:
    """Erase the values of one call, or of one link. Raises InvalidInput if no record has this id, EvidenceUnavailable."""
    if not any(about.id == execution for about in _records(home, progress)):
        raise InvalidInput(f"no record in the log has the id {execution!r:.80}", hint="`agentguard lineage TASK` shows those of a task")
    _record(ledger, {"execution": execution, "records": 1}, by, reason)
    return Erased(1, home.side.erase({execution}), 0)


def erase_older(home: Home, ledger: Ledger, seconds: int, now: int, *, by: str, reason: str = "") -> Erased:
    """Erase all values that were kept more than `seconds` before `now` (nanoseconds since 1970). Raises EvidenceUnavailable."""
    before = now - seconds * _NANOSECOND
    _record(ledger, {"before": str(before)}, by, reason)
    return Erased(0, home.side.erase(older_than_ns=before), 0)


def _record(ledger: Ledger, detail: dict[str, object], by: str, reason: str) -> None:
    ledger.note("erasure", {**detail, "reason": reason}, by=by)


def _records(home: Home, progress: Progress) -> Iterable[_About]:
    """Every record, from the segments: an index that hides one must not save its values."""
    done = 0
    for shard in read_shards(home.path):
        for _, run in iter_runs(home.path, shard):
            for record in run.records:
                try:
                    yield _decode(record)
                except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
                    continue  # `log verify` names it; a guard writes no such record, so no value is kept under its id
            done += len(run.records)
            progress(done)
