"""A task that only this process can use is counted in its memory (docs/decisions/0006-a-task-is-counted-where-it-runs.md).

An `OwnedTask` answers as the tables would, in the same order. In the store one row of `owner` stands for it, which refuses everybody else:

* **own** - the row is written, with the lease of the owner's shard, when the root artifact is minted;
* **share** - the memory becomes cells and the row goes, before anything of the task can leave the process;
* **end** - the row stays without a lease until the artifact has expired: an artifact that nobody was shown dies with its task;
* **crash** - the row goes when the shard is reconciled, and the log says what was counted (state/reconcile.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

import msgspec

from agentguard.admission import ADMITTED, ADMITTED_AGAIN, Account, Admission, Charge, Replayed, Superseded, counter_key, replay_key
from agentguard.errors import StateUnavailable
from agentguard.state.file import Execute, StateFile

#: Call ids that a task may hold in memory; the one after that is counted in the file, where all of them go.
CAP: Final = 4096

_OWN: Final = "INSERT INTO owner VALUES (?, ?, ?)"
_END: Final = "UPDATE owner SET lease = NULL WHERE task = ?"
_DROP: Final = "DELETE FROM owner WHERE task = ?"
# What stands there already can only be what another guard read in our log meanwhile: the memory is complete, and wins.
_CELL: Final = "INSERT OR REPLACE INTO cell VALUES (?, ?, ?, ?, ?, ?, ?, ?)"


class Counted(Protocol):
    """Counters by key."""

    def get(self, key: str, default: int, /) -> int: ...
    def __getitem__(self, key: str, /) -> int: ...
    def __setitem__(self, key: str, count: int, /) -> None: ...


def take(charges: Sequence[Charge], counts: Counted, prior: Callable[[str, str], int]) -> Charge | None:
    """Charge every counter; or none, and the first charge that its counter has no room for. `prior` sums the counters between two keys."""
    for index, charge in enumerate(charges):
        count = counts.get(charge.key, 0) + charge.amount
        if count > (charge.limit if charge.prior is None else charge.limit - prior(*charge.prior)):
            give_back(counts, [(taken.key, taken.amount) for taken in charges[:index]])
            return charge
        counts[charge.key] = count
    return None


def give_back(counts: Counted, charged: Iterable[tuple[str, int]]) -> None:
    """Take back what was charged."""
    for key, amount in charged:
        counts[key] = max(0, counts[key] - amount)


class OwnedTask:
    """The replay ids and counters of one task. Whoever calls holds the store's lock.

    seen    (call id, agent) -> execution that had it, its status as in the table, the counters that it charged and how much, as JSON
    counts  key of a counter -> what it stands at
    """

    __slots__ = ("counts", "expires", "lease", "seen", "shard", "task")

    def __init__(self, shard: str, lease: int, task: str, expires: int) -> None:
        self.shard, self.lease, self.task, self.expires = shard, lease, task, expires
        self.seen: dict[tuple[str, str], tuple[str, str | None, bytes | None]] = {}
        self.counts: dict[str, int] = {}

    def admit(self, execution: str, account: Account, call_id: str, rerun: bool, version: int) -> Admission:
        """Take the replay id and charge every counter, or change nothing and say why."""
        key = (call_id, account.agent)
        known = self.seen.get(key)
        if known is not None:
            first, status, _ = known
            return ADMITTED_AGAIN if rerun and status == "" else Replayed(first, status or None)
        counts = self.counts
        for need in account.needs:
            if not need.low <= counts.get(need.key, 0) <= need.high:
                return Superseded(version)
        full = take(account.charges, counts, self._prior)
        if full is not None:
            return full.exhausted()
        self.seen[key] = (execution, "" if rerun else None, account.keys)
        return ADMITTED

    def _prior(self, first: str, last: str) -> int:
        return sum([count for key, count in self.counts.items() if first <= key <= last])

    def settle(self, agent: str, call_id: str, execution: str, status: str, counted: Iterable[tuple[str, int]]) -> None:
        """Note the first outcome of a call that may be rerun, or whose outcome counts."""
        known = self.seen.get((call_id, agent))
        if known is not None and (known[1] == "" or (known[1] is None and known[0] == execution)):
            self.seen[call_id, agent] = (known[0], status, known[2])
            for key, amount in counted:
                self.counts[key] = max(0, self.counts.get(key, 0) + amount)

    def release(self, agent: str, call_id: str, execution: str) -> None:
        """Give back the call id and what `execution` was charged, if it still has them."""
        known = self.seen.get((call_id, agent))
        if known is not None and known[0] == execution:
            del self.seen[call_id, agent]
            give_back(self.counts, msgspec.json.decode(known[2]) if known[2] else ())

    def write(self, execute: Execute) -> None:
        """Write what was counted into the tables. From the commit on, everybody counts there.

        Where the row is gone, the log has been replayed in our place, or the artifact expired long ago: then the tables know better.
        """
        if execute(_DROP, (self.task,)).rowcount == 0:
            return
        for (call_id, agent), (execution, status, keys) in self.seen.items():
            execute(_CELL, (replay_key(self.task, agent, call_id), 1, 1, self.expires, self.lease, execution, status, keys))
        for key, count in self.counts.items():
            execute(_CELL, (counter_key(self.task, key), count, count, self.expires, None, None, None, None))


class Owned:
    """The tasks that one process owns through one open store."""

    __slots__ = ("__weakref__", "_file", "_pid", "_tasks")

    def __init__(self, file: StateFile) -> None:
        self._file = file
        self._tasks: dict[str, OwnedTask] = {}
        self._pid = os.getpid()

    def get(self, task: str) -> OwnedTask | None:
        """The task, if it is owned here. Whoever calls holds the store's lock."""
        owned = self._tasks.get(task)
        return owned if owned is None or self._pid == os.getpid() else None

    def begin(self, owned: OwnedTask) -> None:
        """Tell everybody else that the task is counted here."""
        with self._file.transaction() as execute:
            execute(_OWN, (owned.task, owned.lease, owned.expires))
            if self._pid != os.getpid():  # a fork's copy of its parent's memory is nobody's
                self._tasks, self._pid = {}, os.getpid()
        self._tasks[owned.task] = owned

    def prolong(self, task: str, expires: int) -> None:
        """What is counted here for the task is kept until `expires` at least."""
        owned = self.get(task)
        if owned is not None:
            owned.expires = max(owned.expires, expires)

    def share(self, task: str | None = None) -> None:
        """Write one task, or all, into the tables. Where that fails, they are still owned."""
        with self._file.held():
            leaving = self._named(task)
            if leaving:
                with self._file.transaction() as execute:
                    for owned in leaving:
                        owned.write(execute)
                self._forget(leaving)

    def end(self, task: str | None = None) -> None:
        """Nobody counts this task, or any of them, from here on."""
        with self._file.held():
            leaving = self._named(task)
            if leaving:
                self._forget(leaving)
                with self._file.transaction() as execute:
                    for owned in leaving:
                        execute(_END, (owned.task,))

    def _named(self, task: str | None) -> list[OwnedTask]:
        if self._pid != os.getpid():
            return []
        if task is None:
            return list(self._tasks.values())
        return [self._tasks[task]] if task in self._tasks else []

    def _forget(self, leaving: list[OwnedTask]) -> None:
        for owned in leaving:
            del self._tasks[owned.task]


def refuse_unshared(execute: Execute, task: str) -> None:
    """Raise StateUnavailable if `task` is counted in somebody's memory, or ended there."""
    row = execute("SELECT lease FROM owner WHERE task = ?", (task,)).fetchone()
    if row is not None and row[0] is None:
        raise StateUnavailable(f"task {task:.64} has ended, and its artifact was never presented to anybody")
    if row is not None:
        raise StateUnavailable(f"task {task:.64} is counted by the guard that opened it until its artifact is presented to others")
