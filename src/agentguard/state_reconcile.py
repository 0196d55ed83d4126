"""Bringing the state store and the log back together (DESIGN §9).

The log is the truth about what was decided, the store about what was counted; admission writes the store first. So after a crash the
store may hold reservations whose decision never reached the log (they are released), and after a power loss or a deleted store it may lack
some that did (they are charged again, beyond their limits if need be: what ran, ran).

A reservation carries the *lease* of its shard: the number of the shard's life since the position from which it is reconciled. That tells
a reservation that should have a record from here on from one whose record stands further back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, Final

from agentguard.errors import InvalidInput
from agentguard.revocation import Action, Event, check_text, parse_target
from agentguard.state_file import Execute, StateFile

#: Outcomes of permits whose tool never started.
NEVER_RAN: Final = frozenset({"not_run", "released"})

_CHUNK: Final = 5000  # records a transaction, so that a long replay lets other processes in between
_LONGEST: Final = 90 * 86400  # seconds: no artifact lives longer (AAT -02 max_token_lifetime), so a record without `expires` is kept that long


def replay_key(task: str, agent: str, call_id: str) -> str:
    """Row key of (task, agent, call id). The length in front, and no space in an agent's name, keep different triples apart."""
    return f"{len(task)}:{task} {call_id} {agent}"


def counter_key(task: str, key: str) -> str:
    """Row key of a counter. DEL sorts it behind the task's replay ids, next to the latest if ids ascend: one page to write, not two."""
    return f"{len(task)}:{task}\x7f{key}"


def undo(execute: Execute, task: str, key: str, execution: str) -> bool:
    """Give back the replay id `key` and what `execution` was charged for it; False if that is not there any more."""
    row = execute("SELECT execution, charges FROM cell WHERE key = ?", (key,)).fetchone()
    if row is None or row[0] != execution:
        return False
    execute("DELETE FROM cell WHERE key = ?", (key,))
    for counter in (row[1] or "").split("\n") if row[1] else ():
        execute("UPDATE cell SET n = n - 1 WHERE key = ? AND n > 0", (counter_key(task, counter),))
    return True


def record_event(execute: Execute, event: Event, *, not_before: int) -> bool:
    """Add a line to the history, later than `not_before`; False if the record is there already. Moves the version."""
    time_ns = max(event.time_ns, not_before + 1)
    values = (event.id, event.action, event.kind, event.value, event.by, event.reason, time_ns)
    columns = "(id, action, kind, value, by, reason, time_ns)"
    sql = f"INSERT INTO revocation {columns} VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING"  # noqa: S608  # no value in it
    if execute(sql, values).rowcount == 0:
        return False
    execute("UPDATE meta SET version = version + 1")
    return True
