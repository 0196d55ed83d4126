"""The state store: one atomic `admit`, and the revocations (DESIGN §9, §7 stages 4 and 13).

`admit` is one SQL statement, so it is one transaction: it compares the version that the decision was made on, takes the replay id and
charges every counter, or changes nothing. What it refuses is then explained from one read snapshot. Outcomes live in the log; the store
keeps them only for tools that may be rerun, because only there does an outcome decide anything. A task that only this process can use is
counted in memory instead, until it is shared (state/owned.py).
"""

from __future__ import annotations

import sqlite3
import time
import uuid
import weakref
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from agentguard.admission import (
    ADMITTED,
    ADMITTED_AGAIN,
    Account,
    Admission,
    Admitted,
    Charge,
    Exhausted,
    Replayed,
    Reservation,
    Superseded,
    counter_key,
)
from agentguard.artifacts.revocation import Action, Event, Revocations, check_text, parse_target
from agentguard.errors import InvalidInput, StateUnavailable
from agentguard.state.admission import count, explain, statement
from agentguard.state.file import StateFile
from agentguard.state.memory import Numbered, advance, passed
from agentguard.state.owned import CAP, Owned, OwnedTask
from agentguard.state.reconcile import NEVER_RAN, PAUSED, Reconciliation, add_event, finish, prolong, read_history, undo
from agentguard.state.schema import Durability

_VERSION: Final = "SELECT version FROM meta"

_GRACE: Final = 3600  # seconds
_PURGE_EVERY: Final = 256  # rows; each sweep looks at four times as many rows as were added, so the file stops growing
_PURGE_ROWS: Final = 1024

__all__ = [
    "ADMITTED",
    "ADMITTED_AGAIN",
    "Account",
    "Admission",
    "Admitted",
    "Charge",
    "Exhausted",
    "Replayed",
    "Reservation",
    "State",
    "Superseded",
]


class State:
    """The embedded state store of one home. Any number of threads and processes may have it open; see `docs/state.md`.

    Every method raises StateUnavailable if the store cannot answer, and has then changed nothing.
    """

    __slots__ = ("__weakref__", "_file", "_leases", "_owned", "_until_purge")

    def __init__(self, file: StateFile) -> None:
        self._file = file
        self._leases: dict[str, int] = {}
        self._owned = Owned(file)
        file.on_fork = weakref.WeakMethod(self._owned.share)
        self._until_purge = _PURGE_EVERY

    @classmethod
    def open(cls, path: Path | str, *, durability: Durability = "fsync", wait: float = 5.0) -> State:
        """Open the store at `path`, and create it (mode 0600) if there is none.

        durability  what acknowledged admissions survive: `process` a killed process, `fsync` also power loss, once the log is replayed
        wait        seconds to wait for a lock before StateUnavailable
        """
        return cls(StateFile(Path(path), durability=durability, wait=wait))

    def close(self) -> None:
        """End what is owned, and let go of the file. Call `mark` before, if the log is healthy; otherwise the next open reads the log since
        the last mark."""
        with suppress(StateUnavailable):  # the next open resolves what could not be ended
            self.end()
        self._file.close()

    @property
    def domain(self) -> str:
        """Name of this store, drawn when it was created. `uses` of an artifact are counted in one named domain only (DESIGN §4)."""
        return self._file.domain

    # -- admission ----------------------------------------------------------------------------------------------------------------

    def admit(self, reservation: Reservation) -> Admission:
        """Take the replay id and charge every counter, or change nothing and say why. Atomic among all threads and processes."""
        execution, shard, account, call_id, version, rerun = reservation
        file = self._file
        if not file.acquire():
            raise file.busy()
        try:
            file.look()
            owned = self._owned.get(account.task)
            if owned is not None:
                if len(owned.seen) < CAP and owned.shard == shard and account.local:
                    if file.word[0] != 2 * version and (now := self._version()) != version:
                        return Superseded(now)
                    if not call_id.isascii():
                        _encodable(call_id)
                    return owned.admit(execution, account, call_id, rerun, version)
                self.share(account.task)
            self._upkeep()
            parameters = (
                f"{account.prefix}{call_id}{account.suffix}",
                version,
                account.task,
                *account.needed,
                account.expires,
                self._leases.get(shard) or self._lease(shard),
                execution,
                "" if rerun else None,
                account.keys,
                *account.tail,
            )
            try:
                file.execute(statement(account), parameters)
            except (sqlite3.Error, OverflowError, UnicodeEncodeError) as error:
                return self._admit_slowly(reservation, parameters, error)
            return ADMITTED
        finally:
            file.lock.release()

    def _admit_slowly(self, reservation: Reservation, parameters: tuple[Any, ...], error: Exception) -> Admission:
        file = self._file
        pause = file.patience()
        while True:
            if isinstance(error, sqlite3.IntegrityError):
                with file.transaction(write=False) as execute:
                    answer = explain(execute, reservation)
                if answer is not None:
                    return answer
                pause(None)  # whatever refused it was released in between
            elif isinstance(error, sqlite3.Error):
                pause(error)
            else:
                raise file.unavailable(error) from error
            try:
                file.execute(statement(reservation.account), parameters)
            except sqlite3.Error as next_error:
                error = next_error
            else:
                return ADMITTED

    def counts(self, task: str, keys: Iterable[str]) -> dict[str, int]:
        """What counters of a task stand at. Only `admit` can say what they are at the moment that counts."""
        with self._file.held():
            self._file.look()
            owned = self._owned.get(task)
            if owned is not None:
                return {key: owned.counts.get(key, 0) for key in keys}
            with self._file.transaction(write=False) as execute:
                return {key: count(execute, counter_key(task, key)) for key in keys}

    def _upkeep(self) -> None:
        self._until_purge -= 1
        if self._until_purge <= 0:
            self._until_purge = _PURGE_EVERY
            self.purge(int(time.time()))

    def _lease(self, shard: str) -> int:
        # Synced: a shard without a lease is not read when a guard opens, so there must be one on the disk before what it stands for.
        with self._file.synced(), self._file.transaction() as execute:
            row = execute("SELECT lease FROM shard WHERE name = ? AND lease IS NOT NULL", (shard,)).fetchone()
            if row is None:  # a lease that is there was never reconciled: what comes belongs to the same stretch of the log
                execute("UPDATE meta SET leases = leases + 1")
                row = execute("SELECT leases FROM meta").fetchone()
                sql = "INSERT INTO shard VALUES (?, 0, ?) ON CONFLICT (name) DO UPDATE SET lease = excluded.lease"
                execute(sql, (shard, row[0]))
        lease = self._leases[shard] = int(row[0])
        return lease

    def settle(self, reservation: Reservation, status: str, counted: Sequence[tuple[str, int]] = ()) -> None:
        """The outcome of an admitted call is recorded. For a tool that may be rerun this ends the right to a second permit; otherwise
        nothing is written but what the outcome counts, once.

        status   the outcome's word; `not_run` (and `released`) means that the tool never started, and releases the reservation
        counted  counters that the outcome moves, and by how much
        """
        if status in NEVER_RAN:
            self.release(reservation)
        elif counted or (reservation.rerun and status != PAUSED):
            account = reservation.account
            with self._file.held():
                self._file.look()
                owned = self._owned.get(account.task)
                if owned is not None:
                    owned.settle(account.agent, reservation.call_id, reservation.execution, status, counted)
                else:
                    with self._file.transaction() as execute:
                        finish(execute, reservation.key, reservation.execution, status, account.expires, counted)

    def release(self, reservation: Reservation) -> None:
        """Undo the admission of a call that never ran: charges and call id are given back, so that it can be made again. Idempotent.

        If the decision is in the log all the same, the log wins: `reconcile` charges it again, unless an outcome `not_run` follows.
        """
        with self._file.held():
            owned = self._owned.get(reservation.account.task)
            if owned is not None:
                owned.release(reservation.account.agent, reservation.call_id, reservation.execution)
            else:
                with self._file.transaction() as execute:
                    undo(execute, reservation.key, reservation.execution)

    # -- tasks of this process alone ----------------------------------------------------------------------------------------------

    def own(self, shard: str, task: str, expires: int) -> None:
        """Count a task in memory from here on. Only for one that was just minted, so that nobody else can have its artifact yet.

        shard    the log shard that its decisions will be recorded in
        expires  Unix seconds at which the root artifact expires
        """
        with self._file.held():
            self._upkeep()
            self._owned.begin(OwnedTask(shard, self._leases.get(shard) or self._lease(shard), task, expires))

    def share(self, task: str | None = None) -> None:
        """Let everybody count a task (or all that are owned here), before its artifact leaves this process.

        Does nothing for one that is not owned here. It happens by itself before a fork, at `mark`, and when a task has used `CAP` call ids.
        """
        self._owned.share(task)

    def prolong(self, task: str, expires: int) -> None:
        """The task goes on until `expires` (Unix seconds), under a fresh artifact: what was counted for it is kept as long."""
        with self._file.held():
            with self._file.transaction() as execute:
                prolong(execute, task, expires)
            self._owned.prolong(task, expires)

    def end(self, task: str | None = None) -> None:
        """The root task (or every one) is over: where nobody was shown its artifact, nobody may use it any more, and that takes effect
        even where this raises. Does nothing for one that is not owned here."""
        self._owned.end(task)

    # -- revocation ---------------------------------------------------------------------------------------------------------------

    def version(self) -> int:
        """Number of the latest change to the revocations. A load from memory; `admit` compares it again, so only a denial needs to ask."""
        file = self._file
        if not file.acquire():
            raise file.busy()
        try:
            file.look()
            word = file.word[0]
            return self._version() if word & 1 else word >> 1
        finally:
            file.lock.release()

    def _version(self) -> int:
        return int(self._file.run(_VERSION).fetchone()[0])

    def revocations(self) -> Revocations:
        """The snapshot to decide on."""
        with self._file.transaction(write=False) as execute:
            (version,) = execute("SELECT version FROM meta").fetchone()
            return Revocations.fold(version, read_history(execute))

    def history(self) -> tuple[Event, ...]:
        """Everything that was ever revoked or lifted, oldest first."""
        with self._file.transaction(write=False) as execute:
            return read_history(execute)

    def revoke(self, kind: str, value: str = "", *, by: str, reason: str = "", time_ns: int, record: str | None = None) -> int:
        """Withdraw what is named, for every guard on this home from its next call on. Returns the new version. Raises InvalidInput.

        kind, value  one of `Kind`, and what of it; empty for `all`
        by           who does it, for people
        time_ns      now, in nanoseconds of Unix time. The new line takes effect even if the clock has gone back
        record       id of the evidence record about it, so that replaying the log does not apply it twice

        In `fsync` durability it is on the disk when this returns.
        """
        return self._change(Action.REVOKE, kind, value, by, reason, time_ns, record)

    def lift(self, kind: str, value: str = "", *, by: str, reason: str = "", time_ns: int, record: str | None = None) -> int:
        """Take a revocation back; the history keeps both. Raises InvalidInput if exactly this is not revoked. Returns the new version."""
        return self._change(Action.LIFT, kind, value, by, reason, time_ns, record)

    def _change(self, action: Action, kind: str, value: str, by: str, reason: str, time_ns: int, record: str | None) -> int:
        named, value = parse_target(kind, value)
        check_text(by, "the name of who does it", 1024)
        check_text(reason, "the reason", 4096)
        with self._file.synced(), self._file.moving() as execute:
            sql = "SELECT action, time_ns FROM revocation WHERE kind = ? AND value = ? ORDER BY time_ns DESC, seq DESC LIMIT 1"
            last = execute(sql, (named, value)).fetchone()
            if action is Action.LIFT and (last is None or last[0] != Action.REVOKE):
                raise InvalidInput(f"{named} {value:.200}".strip() + " is not revoked")
            effective = max(time_ns, last[1] + 1) if last else time_ns
            add_event(execute, Event(action, named, value, by, reason, effective, record or uuid.uuid4().hex))
            return int(execute("SELECT version FROM meta").fetchone()[0])

    # -- the log ------------------------------------------------------------------------------------------------------------------

    def shards(self) -> dict[str, bool]:
        """The shards that this store has seen, and whether somebody counted under them since they were last reconciled or marked."""
        with self._file.transaction(write=False) as execute:
            return {name: lease is not None for name, lease in execute("SELECT name, lease FROM shard").fetchall()}

    def position(self, shard: str) -> int:
        """Index of the first record of `shard` that this store may not reflect; 0 for a shard it has never seen."""
        with self._file.transaction(write=False) as execute:
            row = execute("SELECT position FROM shard WHERE name = ?", (shard,)).fetchone()
        return int(row[0]) if row else 0

    def reconcile(self, shard: str, records: Iterable[tuple[int, Mapping[str, Any]]], upto: int | None, *, owned: bool = True) -> int:
        """Replay `records` of `shard` from `position(shard)` on into the store (DESIGN §9), before anything is admitted for that shard.

        records  (index, record); decisions, outcomes and revocations are read, records of other types are skipped
        upto     size of the shard: the index after the last record; None for the index after the last one that is given
        owned    whether the caller holds the shard, so that nobody else appends to it. Only then are reservations without a record
                 released, and only then does the position move while somebody may be counting under it

        Idempotent. Returns how many reservations were released. Raises InvalidInput, with shard and index, for a record that is none.
        """
        self.share()
        self._leases.pop(shard, None)
        return Reconciliation(self._file, shard, owned=owned).run(records, upto)

    def mark(self, shard: str, upto: int) -> None:
        """Every record of `shard` below `upto` is reflected here, and none is missing: the next `reconcile` may start there.

        For a healthy log, at close and now and then in a long run, by whoever holds the shard. A reservation that waits for its record at
        this moment stays charged if the process then dies: that is the safe side.
        """
        with self._file.held():
            self.share()
            with self._file.transaction() as execute:
                self._leases.pop(shard, None)
                # nothing is owned under this lease any more: what is left are tasks whose end could not be written
                execute("UPDATE owner SET lease = NULL WHERE lease = (SELECT lease FROM shard WHERE name = ?)", (shard,))
                sql = "INSERT INTO shard VALUES (?, ?, NULL) ON CONFLICT (name) DO UPDATE SET position = excluded.position, lease = NULL"
                execute(sql, (shard, upto))

    # -- upkeep -------------------------------------------------------------------------------------------------------------------

    def purge(self, now: int, *, rows: int = _PURGE_ROWS) -> int:
        """Sweep the next `rows` rows and drop those that expired an hour ago; returns how many. `admit` does it now and then by itself.

        now  Unix seconds. The hour is for clocks that jump ahead and come back
        """
        with self._file.transaction() as execute:
            (sweep,) = execute("SELECT sweep FROM meta").fetchone()
            window = "SELECT key FROM cell WHERE key > ? ORDER BY key LIMIT ?"
            count, last = execute(f"SELECT count(*), max(key) FROM ({window})", (sweep, rows)).fetchone()  # noqa: S608  # no value in it
            dropped = 0
            if count:
                cut = (sweep, last, now - _GRACE)
                dropped = execute("DELETE FROM cell WHERE key > ? AND key <= ? AND expires < ?", cut).rowcount
            dropped += execute("DELETE FROM owner WHERE expires < ?", (now - _GRACE,)).rowcount
            execute("UPDATE meta SET sweep = ?", (last if count == rows else "",))
        return dropped

    def advance(self, documents: Sequence[Numbered]) -> Numbered | None:
        """Remember the newest of documents that are numbered, all or none: None where that is done, on the disk in `fsync` durability; else
        what is remembered already, where one of them is older than that or the same number with other bytes."""
        with self._file.synced(), self._file.transaction() as execute:
            return advance(execute, documents)

    def passed(self, documents: Sequence[Numbered]) -> Numbered | None:
        """What `advance` would answer; nothing is remembered."""
        with self._file.transaction(write=False) as execute:
            return passed(execute, documents)

    def meta(self, name: str) -> str | None:
        """A note that somebody left with `set_meta`, or None."""
        with self._file.transaction(write=False) as execute:
            row = execute("SELECT value FROM note WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def set_meta(self, name: str, value: str) -> None:
        """Leave a note for every guard on this home, such as how far an operator accepted the clock."""
        with self._file.synced(), self._file.transaction() as execute:
            execute("INSERT INTO note VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", (name, value))


def _encodable(call_id: str) -> None:
    try:
        call_id.encode()
    except UnicodeEncodeError as error:  # what the table could not hold is not counted in memory either
        raise StateUnavailable(f"a call id that has no UTF-8 form: {error}") from error
