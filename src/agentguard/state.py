"""The state store: one atomic `admit`, and the revocations (DESIGN §9, §7 stages 4 and 13).

`admit` is one SQL statement, so it is one transaction: it compares the version that the decision was made on, takes the replay id and
charges every counter, or changes nothing. What it refuses is then explained from one read snapshot. Outcomes live in the log; the store
keeps them only for tools that may be rerun, because only there does an outcome decide anything.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from agentguard.errors import InvalidInput
from agentguard.revocation import Event, Revocations, check_text, parse_target
from agentguard.state_file import Durability, StateFile
from agentguard.state_reconcile import NEVER_RAN, Reconciliation, add_event, counter_key, read_history, undo


class Charge(NamedTuple):
    """One counter that a call uses up by 1, if it is below `limit`.

    key    the counter's name within its task, such as `budget/<agent>/<number>` or `uses/<hash of the link>`; it stands in the evidence
    limit  calls, 0 to 2^53
    name   the counter in words, for a reason
    """

    key: str
    limit: int
    name: str


class Reservation(NamedTuple):
    """What one call asks of the store.

    execution  id of the execution that the permit is for
    shard      log shard that the decision will be recorded in
    task       id of the root task: counters are counted per task, and replay ids are unique within it
    agent      name of the agent that calls; it holds no space (stage 0)
    call_id    the caller's id of the call: (task, agent, call id) is the replay key. Ids that ascend keep neighbours on one page
    version    `Revocations.version` that the decision was made on
    charges    every one is charged, or none
    rerun      whether policy marks the tool `rerun: safe`
    expires    Unix seconds at which the *root* artifact expires. Not the leaf's: another leaf of the task could present the id again
    """

    execution: str
    shard: str
    task: str
    agent: str
    call_id: str
    version: int
    charges: tuple[Charge, ...]
    rerun: bool
    expires: int


class Admitted(NamedTuple):
    """The call may run. `charged` is False for the repeated call of a rerun-safe tool, whose decision then records no charge."""

    charged: bool


class Replayed(NamedTuple):
    """The call id was seen. `first` is the execution that had it; `outcome` is known for rerun-safe tools only, else the log has it."""

    first: str
    outcome: str | None


class Exhausted(NamedTuple):
    """The first counter, in the order of the charges, that is at its limit."""

    key: str
    name: str
    limit: int


class Superseded(NamedTuple):
    """Revocations moved on to `version` since they were read: decide again."""

    version: int


Admission: TypeAlias = Admitted | Replayed | Exhausted | Superseded

ADMITTED: Final = Admitted(charged=True)
ADMITTED_AGAIN: Final = Admitted(charged=False)

# The replay id is a counter with the limit 1, or with the limit 0 if the version has moved: the table's CHECK refuses either, and a
# statement that fails changes nothing.
_INSERT: Final = "INSERT INTO cell VALUES (?, 1, (SELECT version FROM meta) = ?, ?, ?, ?, ?, ?)"
_COUNTER: Final = ", (?, 1, ?, ?, NULL, NULL, NULL, NULL)"
_UPSERT: Final = " ON CONFLICT (key) DO UPDATE SET n = n + 1, lim = excluded.lim, expires = max(expires, excluded.expires)"
#: The statement for so many charges; longer ones are put together when they are needed.
_STATEMENTS: Final = tuple([_INSERT + _COUNTER * count + _UPSERT for count in range(40)])

_IN_FLIGHT: Final = 10_000  # admissions of this process that wait for their outcome, at most; older ones can no longer be released
_GRACE: Final = 3600  # seconds


class State:
    """The embedded state store of one home. Any number of threads and processes may have it open; see `docs/state.md`.

    Every method raises StateUnavailable if the store cannot answer, and has then changed nothing.
    """

    __slots__ = ("_file", "_in_flight", "_leases", "_rerunnable")

    def __init__(self, file: StateFile) -> None:
        self._file = file
        self._leases: dict[str, int] = {}
        self._in_flight: dict[str, str] = {}  # execution -> its replay key
        self._rerunnable: dict[str, str] = {}

    @classmethod
    def open(cls, path: Path | str, *, durability: Durability = "fsync", wait: float = 5.0) -> State:
        """Open the store at `path`, and create it (mode 0600) if there is none.

        durability  what acknowledged admissions survive: `process` a killed process, `fsync` also power loss, once the log is replayed
        wait        seconds to wait for a lock before StateUnavailable
        """
        return cls(StateFile(Path(path), durability=durability, wait=wait))

    def close(self) -> None:
        """Let go of the file. Call `mark` first, if the log is healthy; otherwise the next open reads the log since the last mark."""
        self._file.close()

    @property
    def domain(self) -> str:
        """Name of this store, drawn when it was created. `uses` of an artifact are counted in one named domain only (DESIGN §4)."""
        return self._file.domain

    # -- admission ----------------------------------------------------------------------------------------------------------------

    def admit(self, reservation: Reservation) -> Admission:
        """Take the replay id and charge every counter, or change nothing and say why. Atomic among all threads and processes."""
        execution, shard, task, agent, call_id, version, charges, rerun, expires = reservation
        head = f"{len(task)}:{task}"  # replay_key and counter_key, written out: this is the hot path
        key = f"{head} {call_id} {agent}"
        parameters: list[Any] = [key, version, expires, None, execution, "" if rerun else None, None]
        for name, limit, _ in charges:
            parameters += (f"{head}\x7f{name}", limit, expires)
        file = self._file
        if not file.acquire():
            raise file.busy()
        try:
            file.look()
            parameters[3] = self._leases.get(shard) or self._lease(shard)
            try:
                if charges:
                    parameters[6] = _encode([charge[0] for charge in charges])
                file.execute(_statement(len(charges)), parameters)
            except (sqlite3.Error, OverflowError, UnicodeEncodeError) as error:
                result = self._admit_slowly(reservation, parameters, error)
                if type(result) is not Admitted:
                    return result
            else:
                result = ADMITTED
            in_flight = self._rerunnable if rerun else self._in_flight
            in_flight[execution] = key
            if len(in_flight) > _IN_FLIGHT:
                del in_flight[next(iter(in_flight))]
            return result
        finally:
            file.lock.release()

    def _admit_slowly(self, reservation: Reservation, parameters: list[Any], error: Exception) -> Admission:
        file = self._file
        pause = file.patience()
        while True:
            if isinstance(error, sqlite3.IntegrityError):
                answer = self._explain(reservation, parameters[0])
                if answer is not None:
                    return answer
                pause(None)  # whatever refused it was released in between
            elif isinstance(error, sqlite3.Error):
                pause(error)
            else:
                raise file.unavailable(error) from error
            try:
                file.execute(_statement(len(reservation.charges)), parameters)
            except sqlite3.Error as next_error:
                error = next_error
            else:
                return ADMITTED

    def _explain(self, reservation: Reservation, key: str) -> Admission | None:
        """Why the statement was refused, from one snapshot; None if nothing in it would refuse it any more."""
        with self._file.transaction(write=False) as execute:
            (version,) = execute("SELECT version FROM meta").fetchone()
            if version != reservation.version:
                return Superseded(version)
            seen = execute("SELECT execution, status FROM cell WHERE key = ?", (key,)).fetchone()
            if seen is not None:
                first, status = seen
                return ADMITTED_AGAIN if reservation.rerun and status == "" else Replayed(first, status or None)
            for charge in reservation.charges:
                row = execute("SELECT n FROM cell WHERE key = ?", (counter_key(reservation.task, charge.key),)).fetchone()
                if (row[0] if row else 0) >= charge.limit:
                    return Exhausted(charge.key, charge.name, charge.limit)
        return None

    def _lease(self, shard: str) -> int:
        with self._file.transaction() as execute:
            row = execute("SELECT lease FROM shard WHERE name = ? AND lease IS NOT NULL", (shard,)).fetchone()
            if row is None:  # a lease that is there was never reconciled: what comes belongs to the same stretch of the log
                execute("UPDATE meta SET leases = leases + 1")
                row = execute("SELECT leases FROM meta").fetchone()
                sql = "INSERT INTO shard VALUES (?, 0, ?) ON CONFLICT (name) DO UPDATE SET lease = excluded.lease"
                execute(sql, (shard, row[0]))
        lease = self._leases[shard] = int(row[0])
        return lease

    def settle(self, execution: str, status: str) -> None:
        """The outcome of an admitted call is recorded. Writes for rerun-safe tools only, where it ends the right to a second permit.

        Does nothing for an execution that this handle did not admit.
        """
        if status in NEVER_RAN:
            return self.release(execution)
        self._in_flight.pop(execution, None)
        key = self._rerunnable.get(execution)
        if key is not None:
            with self._file.held():
                self._file.look()
                self._file.run("UPDATE cell SET status = ? WHERE key = ? AND status = ''", (status, key))
            self._rerunnable.pop(execution, None)

    def release(self, execution: str) -> None:
        """Undo the admission of a call that never ran: its charges and its call id are given back, so that it can be made again.

        Idempotent, and nothing for an execution that this handle did not admit. If its decision is in the log all the same, the log wins:
        `reconcile` charges it again, unless an outcome `not_run` follows.
        """
        key = self._in_flight.get(execution) or self._rerunnable.get(execution)
        if key is None:
            return
        with self._file.transaction() as execute:
            undo(execute, key, execution)
        self._in_flight.pop(execution, None)
        self._rerunnable.pop(execution, None)

    # -- revocation ---------------------------------------------------------------------------------------------------------------

    def version(self) -> int:
        """Number of the latest change to the revocations. One cheap read; `admit` compares it again, so only a denial needs to ask."""
        with self._file.held():
            self._file.look()
            return int(self._file.run("SELECT version FROM meta").fetchone()[0])

    def revocations(self) -> Revocations:
        """The snapshot to decide on."""
        with self._file.transaction(write=False) as execute:
            (version,) = execute("SELECT version FROM meta").fetchone()
            return Revocations.fold(version, read_history(execute))

    def history(self) -> tuple[Event, ...]:
        """Everything that was ever revoked or lifted, oldest first."""
        with self._file.transaction(write=False) as execute:
            return read_history(execute)

    def revoke(self, kind: str, value: str, *, by: str, reason: str = "", time_ns: int) -> int:
        """Withdraw what is named, for every guard on this home from its next call on. Returns the new version.

        kind, value  one of `Kind`, and what of it; `all` for all
        by           who does it, for people
        time_ns      now, in nanoseconds of Unix time, for people

        Raises InvalidInput. In `fsync` durability it is on the disk when this returns.
        """
        return self._change(False, kind, value, by, reason, time_ns)

    def lift(self, kind: str, value: str, *, by: str, reason: str = "", time_ns: int) -> int:
        """Take a revocation back; the history keeps both. Raises InvalidInput if exactly this is not revoked. Returns the new version."""
        return self._change(True, kind, value, by, reason, time_ns)

    def _change(self, lifted: bool, kind: str, value: str, by: str, reason: str, time_ns: int) -> int:
        named, value = parse_target(kind, value)
        check_text(by, "the name of who does it", 1024)
        check_text(reason, "the reason", 4096)
        with self._file.synced(), self._file.transaction() as execute:
            last = execute(
                "SELECT lifted FROM revocation WHERE kind = ? AND value = ? ORDER BY version DESC LIMIT 1", (named, value)
            ).fetchone()
            if lifted and last != (0,):
                raise InvalidInput(f"{named} {value:.200} is not revoked")
            (version,) = execute("SELECT version + 1 FROM meta").fetchone()
            add_event(execute, Event(version, lifted, named, value, by, reason, time_ns))
        return int(version)

    # -- the log ------------------------------------------------------------------------------------------------------------------

    def position(self, shard: str) -> int:
        """Index of the first record of `shard` that this store may not reflect; 0 for a shard it has never seen."""
        with self._file.transaction(write=False) as execute:
            row = execute("SELECT position FROM shard WHERE name = ?", (shard,)).fetchone()
        return int(row[0]) if row else 0

    def reconcile(self, shard: str, records: Iterable[tuple[int, Mapping[str, Any]]], upto: int, *, owned: bool = True) -> int:
        """Replay `records` of `shard`, from `position(shard)` to `upto`, forward into the store (DESIGN §9), before it admits for that shard.

        records  (index, record); decisions, outcomes and revocations are read, records of other types are skipped
        upto     size of the shard: the index after the last record
        owned    whether the caller holds the shard, so that nobody else appends to it. Only then are reservations without a record
                 released, and only then does the position move while somebody may be counting under it

        Idempotent. Returns how many reservations were released. Raises InvalidInput, naming shard and index, for a record that does not read.
        """
        self._leases.pop(shard, None)
        return Reconciliation(self._file, shard, owned=owned).run(records, upto)

    def mark(self, shard: str, upto: int) -> None:
        """Every record of `shard` below `upto` is reflected here, and none is missing: the next `reconcile` may start there.

        For a healthy log, at close and now and then in a long run, by whoever holds the shard. A reservation that waits for its record at
        this moment stays charged if the process then dies: that is the safe side.
        """
        with self._file.transaction() as execute:
            self._leases.pop(shard, None)
            sql = "INSERT INTO shard VALUES (?, ?, NULL) ON CONFLICT (name) DO UPDATE SET position = excluded.position, lease = NULL"
            execute(sql, (shard, upto))

    # -- upkeep -------------------------------------------------------------------------------------------------------------------

    def purge(self, now: int, *, rows: int = 2000) -> int:
        """Sweep the next `rows` rows and drop those that expired an hour ago; returns how many. Call it at open and every few hundred calls.

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
            execute("UPDATE meta SET sweep = ?", (last if count == rows else "",))
        return dropped

    def meta(self, name: str) -> str | None:
        """A note that somebody left with `set_meta`, or None."""
        with self._file.transaction(write=False) as execute:
            row = execute("SELECT value FROM note WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def set_meta(self, name: str, value: str) -> None:
        """Leave a note for every guard on this home, such as how far an operator accepted the clock."""
        with self._file.synced(), self._file.transaction() as execute:
            execute("INSERT INTO note VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", (name, value))


_encode: Final = msgspec.json.Encoder().encode


def _statement(charges: int) -> str:
    return _STATEMENTS[charges] if charges < len(_STATEMENTS) else _INSERT + _COUNTER * charges + _UPSERT
