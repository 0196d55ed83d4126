"""Bringing the state store and the log back together (DESIGN §9).

The log is the truth about what was decided, the store about what was counted; admission writes the store first. So after a crash the
store may hold reservations whose decision never reached the log (they are released), and after a power loss or a deleted store it may lack
some that did (they are charged again, beyond their limits if need be: what ran, ran).

A reservation carries the *lease* of its shard: the number of the shard's life since the position from which it is reconciled. That tells
a reservation that must have a record from here on from one whose record stands further back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, Final

import msgspec

from agentguard.admission import counter_expiry, counter_key, replay_key
from agentguard.artifacts.revocation import Action, Event, Kind, check_text, parse_target
from agentguard.errors import InvalidInput
from agentguard.state.file import Execute, StateFile
from agentguard.state.memory import advance, numbered_in

#: Outcomes of permits whose tool never started: they are released, with their charges.
NEVER_RAN: Final = frozenset({"not_run", "released"})
#: Outcome of a tool that its framework interrupted and will call again: the right to a second permit, where there is one, stays.
PAUSED: Final = "paused"

_CHUNK: Final = 5000  # records a transaction, so that a long replay lets other processes in between
_LONGEST: Final = (
    90 * 86400
)  # seconds: no artifact lives longer (Limits.max_token_lifetime), so a record without `expires` is kept that long
_LARGEST: Final = 2**53


def undo(execute: Execute, key: str, execution: str) -> bool:
    """Give back the replay id `key` and what `execution` was charged for it; False if that is not there any more."""
    row = execute("SELECT execution, charges FROM cell WHERE key = ?", (key,)).fetchone()
    if row is None or row[0] != execution:
        return False
    length, _, rest = key.partition(":")
    execute("DELETE FROM cell WHERE key = ?", (key,))
    for counter, amount in msgspec.json.decode(row[1]) if row[1] else ():
        execute("UPDATE cell SET n = max(n - ?, 0) WHERE key = ?", (amount, counter_key(rest[: int(length)], counter)))
    return True


def finish(execute: Execute, key: str, execution: str, status: str, expires: int, counted: Iterable[tuple[str, int]]) -> None:
    """Note the first outcome of a call that may be rerun, or whose outcome counts, and move its counters: once, however often told."""
    sql = "UPDATE cell SET status = ? WHERE key = ? AND (status = '' OR (status IS NULL AND execution = ?))"
    if execute(sql, (status, key, execution)).rowcount == 0:
        return
    length, _, rest = key.partition(":")
    for counter, amount in counted:
        execute(
            "INSERT INTO cell VALUES (?1, max(?2, 0), max(?2, 0), ?3, NULL, NULL, NULL, NULL) ON CONFLICT (key) DO UPDATE SET "
            "n = max(n + ?2, 0), lim = max(lim, n + ?2), expires = max(expires, excluded.expires)",
            (counter_key(rest[: int(length)], counter), amount, counter_expiry(counter, expires)),
        )


def prolong(execute: Execute, task: str, expires: int) -> None:
    """Keep all that was counted for `task` until `expires` at least. Its keys begin with its length and name, then a space or a DEL."""
    name = f"{len(task)}:{task}"
    execute("UPDATE cell SET expires = max(expires, ?) WHERE key > ? AND key < ?", (expires, f"{name} ", f"{name}\x80"))
    execute("UPDATE owner SET expires = max(expires, ?) WHERE task = ?", (expires, task))


def read_history(execute: Execute) -> tuple[Event, ...]:
    """Every change to the revocations, oldest first."""
    rows = execute("SELECT action, kind, value, by, reason, time_ns, id FROM revocation ORDER BY time_ns, seq").fetchall()
    return tuple([Event(Action(action), Kind(kind), *rest) for action, kind, *rest in rows])


def add_event(execute: Execute, event: Event) -> None:
    """Write one change, unless its record is there already, and move the version, so that every guard decides anew."""
    values = (event.action, event.kind, event.value, event.by, event.reason, event.time_ns, event.id)
    if execute("INSERT INTO revocation VALUES (NULL, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING", values).rowcount:
        execute("UPDATE meta SET version = version + 1")


class Reconciliation:
    """One run of `State.reconcile` over one shard."""

    def __init__(self, file: StateFile, shard: str, *, owned: bool) -> None:
        self._file = file
        self._shard = shard
        self._owned = owned
        self._lease: int | None = None
        self._recorded: set[str] = set()  # executions that have a record, where reservations must be matched with them
        #: execution without an outcome so far -> replay key, whether it may be rerun, when its task expires
        self._open: dict[str, tuple[str, bool, int]] = {}
        self._clock = 0  # records of one shard happened in their order, whatever the clock said

    def run(self, records: Iterable[tuple[int, Mapping[str, Any]]], upto: int | None) -> int:
        with self._file.transaction(write=False) as execute:
            row = execute("SELECT position, lease FROM shard WHERE name = ?", (self._shard,)).fetchone()
        position, lease = row or (0, None)
        self._lease, end = lease, position
        stream = iter(records)
        while chunk := list(islice(stream, _CHUNK)):  # read before the transaction: the log's disk must not lengthen it
            moves = any(record.get("type") == "revocation" for _, record in chunk)
            end = max(end, chunk[-1][0] + 1)
            with self._file.moving() if moves else self._file.transaction() as execute:
                for index, record in chunk:
                    if index >= position:
                        self._apply(execute, index, record, match=lease is not None)
        with self._file.transaction() as execute:
            released = self._release_unrecorded(execute, lease) if self._owned and lease is not None else 0
            sql = "INSERT INTO shard VALUES (?, ?, NULL) ON CONFLICT (name) DO UPDATE SET position = excluded.position, lease = NULL"
            execute(sql if self._owned else sql + " WHERE lease IS NULL", (self._shard, end if upto is None else upto))
        return released

    def _release_unrecorded(self, execute: Execute, lease: int) -> int:
        execute("DELETE FROM owner WHERE lease = ?", (lease,))  # what was counted in the memory that is gone has just been replayed
        rows = execute("SELECT key, execution FROM cell WHERE lease = ?", (lease,)).fetchall()
        return sum([undo(execute, key, execution) for key, execution in rows if execution not in self._recorded])

    def _apply(self, execute: Execute, index: int, record: Mapping[str, Any], *, match: bool) -> None:
        try:
            kind = record["type"]
            if kind == "decision" and (record["verdict"] == "allow" or record.get("enforced") is False):
                self._decision(execute, record, match=match)
            elif kind == "outcome":
                self._outcome(execute, record)
            elif kind == "revocation":
                self._revocation(execute, record)
            elif kind == "delegation" and record.get("task") is not None and record["parent"] is None:
                prolong(execute, check_text(record["task"], "task", 1 << 16), _count(record["expires"]))  # renewed, unless it is the first
            elif kind in ("open", "policy"):  # shards are read one after the other: an older one of a series is no news
                for document in numbered_in(record):
                    advance(execute, [document])
        except InvalidInput as error:
            raise InvalidInput(error.message, place=f"shard {self._shard}, record {index}", hint=error.hint) from None
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(f"not a record of this log: {error!r:.100}", place=f"shard {self._shard}, record {index}") from None

    def _decision(self, execute: Execute, record: Mapping[str, Any], *, match: bool) -> None:
        execution, task = check_text(record["id"], "id", 1024), check_text(record["task"], "task", 1 << 16)
        if match:
            self._recorded.add(execution)
        owner = execute("SELECT lease FROM owner WHERE task = ?", (task,)).fetchone()
        if owner is not None and not (self._owned and owner[0] is not None and owner[0] == self._lease):
            return  # ended, so that nobody can use it; or counted in the memory of a process that lives
        key = replay_key(task, check_text(record["agent"], "agent", 1024), check_text(record["call_id"], "call_id", 4096))
        charges = [(check_text(name, "reserved", 1 << 16), _count(times)) for name, times in record["reserved"]]
        row = execute("SELECT execution, status, charges FROM cell WHERE key = ?", (key,)).fetchone()
        if row is None or (row[0] != execution and row[2] is None and charges):
            # Missing; or a repeated call, which was not charged, was replayed before the first one, which was.
            rerun = record.get("rerun") is True
            self._insert(execute, record, key, charges, "" if rerun else None)
        else:
            rerun = row[1] == ""
        self._open[execution] = (key, rerun, _expires(record))

    def _insert(self, execute: Execute, record: Mapping[str, Any], key: str, charges: list[tuple[str, int]], status: str | None) -> None:
        expires = _expires(record)
        names = msgspec.json.encode(charges) if charges else None
        execute(
            "INSERT INTO cell VALUES (?, 1, 1, ?, NULL, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET "
            "execution = excluded.execution, charges = excluded.charges, expires = max(expires, excluded.expires)",
            (key, expires, record["id"], status, names),
        )
        for name, times in charges:
            execute(
                "INSERT INTO cell VALUES (?1, ?2, ?2, ?3, NULL, NULL, NULL, NULL) ON CONFLICT (key) DO UPDATE SET "
                "n = n + ?2, lim = max(lim, n + ?2), expires = max(expires, excluded.expires)",
                (counter_key(record["task"], name), times, counter_expiry(name, expires)),
            )

    def _outcome(self, execute: Execute, record: Mapping[str, Any]) -> None:
        execution, status = check_text(record["execution"], "execution", 1024), check_text(record["status"], "status", 64)
        key, rerun, expires = self._open.pop(execution, ("", False, 0))
        counted = [(check_text(name, "counted", 1 << 16), _change(amount)) for name, amount in record.get("counted") or ()]
        if key and status in NEVER_RAN:
            undo(execute, key, execution)
        elif key and (counted or (rerun and status != PAUSED)):
            finish(execute, key, execution, status, expires, counted)

    def _revocation(self, execute: Execute, record: Mapping[str, Any]) -> None:
        kind, value = parse_target(record["kind"], record["value"])
        by, reason = check_text(record["by"], "by", 1024), check_text(record["reason"], "reason", 4096)
        self._clock = max(int(record["time"]), self._clock + 1)
        add_event(execute, Event(Action(record["action"]), kind, value, by, reason, self._clock, check_text(record["id"], "id", 1024)))


def _expires(record: Mapping[str, Any]) -> int:
    return _count(record["expires"]) if "expires" in record else int(record["time"]) // 10**9 + _LONGEST


def _change(value: object) -> int:
    return -_count(-value) if type(value) is int and value < 0 else _count(value)


def _count(value: object) -> int:
    if type(value) is int and 0 <= value <= _LARGEST:
        return value
    raise InvalidInput(f"{value!r:.40} is not a count")
