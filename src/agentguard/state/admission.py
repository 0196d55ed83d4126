"""One admission as one SQL statement, and why it was refused (DESIGN §9)."""

from __future__ import annotations

from typing import Final

from agentguard.admission import ADMITTED_AGAIN, Account, Admission, Charge, Replayed, Reservation, Superseded, counter_key
from agentguard.state.file import Execute
from agentguard.state.owned import refuse_unshared

# The replay id is a counter with the limit 1, or with the limit 0 if the version has moved or the task is counted in somebody's memory: the
# table's CHECK refuses each, and a statement that fails changes nothing.
_INSERT: Final = "INSERT INTO cell VALUES (?, 1, (SELECT version FROM meta) = ? AND NOT EXISTS (SELECT 1 FROM owner WHERE task = ?)"
_NEED: Final = " AND coalesce((SELECT n FROM cell WHERE key = ?), 0) BETWEEN ? AND ?"
_CELL: Final = ", ?, ?, ?, ?, ?)"
_COUNTER: Final = ", (?, ?, ?, ?, NULL, NULL, NULL, NULL)"
_SLIDING: Final = ", (?, ?, ? - coalesce((SELECT sum(n) FROM cell WHERE key BETWEEN ? AND ?), 0), ?, NULL, NULL, NULL, NULL)"
_UPSERT: Final = " ON CONFLICT (key) DO UPDATE SET n = n + excluded.n, lim = excluded.lim, expires = max(expires, excluded.expires)"
#: The statements for accounts of so many needs, and charges each with or without earlier parts of its window. There are few shapes.
_STATEMENTS: Final[dict[tuple[int, tuple[bool, ...]], str]] = {}
_MAX_STATEMENTS: Final = 256


def statement(account: Account) -> str:
    """The SQL of one admission that charges `account`, with a parameter for each part of it."""
    known = _STATEMENTS.get(account.shape)
    if known is None:
        if len(_STATEMENTS) >= _MAX_STATEMENTS:
            _STATEMENTS.clear()
        needs, windows = account.shape
        counters = "".join([_SLIDING if sliding else _COUNTER for sliding in windows])
        known = _STATEMENTS[account.shape] = _INSERT + _NEED * needs + _CELL + counters + _UPSERT
    return known


def count(execute: Execute, key: str) -> int:
    """What a counter stands at."""
    row = execute("SELECT n FROM cell WHERE key = ?", (key,)).fetchone()
    return int(row[0]) if row else 0


def _prior(execute: Execute, task: str, charge: Charge) -> int:
    if charge.prior is None:
        return 0
    ends = tuple([counter_key(task, end) for end in charge.prior])
    return int(execute("SELECT coalesce(sum(n), 0) FROM cell WHERE key BETWEEN ? AND ?", ends).fetchone()[0])


def explain(execute: Execute, reservation: Reservation) -> Admission | None:
    """Why the statement was refused, from one snapshot; None if nothing in it would refuse it any more."""
    (version,) = execute("SELECT version FROM meta").fetchone()
    if version != reservation.version:
        return Superseded(version)
    refuse_unshared(execute, reservation.account.task)
    seen = execute("SELECT execution, status FROM cell WHERE key = ?", (reservation.key,)).fetchone()
    if seen is not None:
        first, status = seen
        return ADMITTED_AGAIN if reservation.rerun and status == "" else Replayed(first, status or None)
    account = reservation.account
    for need in account.needs:
        if not need.low <= count(execute, counter_key(account.task, need.key)) <= need.high:
            return Superseded(version)
    wanted: dict[str, int] = {}
    for charge in account.charges:
        counter = counter_key(account.task, charge.key)
        before = wanted.get(counter)  # one counter may stand in two charges
        wanted[counter] = (before if before is not None else count(execute, counter)) + charge.amount
        if wanted[counter] > charge.limit - _prior(execute, account.task, charge):
            return charge.exhausted()
    return None
