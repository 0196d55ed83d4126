"""What people do to a home: stop and lift authority, answer requests, accept the clock; what a guard does on opening it (DESIGN §9)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from agentguard.approvals import Request, Verdict, judge, make_answer, weigh
from agentguard.artifacts.revocation import parse_target
from agentguard.errors import InvalidInput, StateUnavailable
from agentguard.home import Home
from agentguard.keys import Signer
from agentguard.log import iter_records, read_shards
from agentguard.log.layout import shard_directory, try_lock
from agentguard.notice import say
from agentguard.premises import Answer

if TYPE_CHECKING:
    from agentguard.ledger import Ledger

_ACCEPTED = "clock_accepted_until"


def stop(home: Home, ledger: Ledger, kind: str, value: str = "", *, by: str, reason: str = "") -> int:
    """Withdraw authority. It takes effect on the next call of every guard on this home, before the record of it is written.

    Raises InvalidInput for a kind that does not exist or a value that names nothing. Returns the version of the revocations.
    """
    record, now = ledger.next_id(), time.time_ns()
    version = home.state.revoke(kind, value, by=by, reason=reason, time_ns=now, record=record)
    ledger.note("revocation", {"action": "revoke", "kind": kind, "reason": reason, "value": value}, by=by, identity=record)
    return version


def lift(home: Home, ledger: Ledger, kind: str, value: str = "", *, by: str, reason: str = "") -> int:
    """Take a stop back. Evidence first: nothing is allowed again without a record of who said so."""
    named, value = parse_target(kind, value)
    if not home.state.revocations().holds(named, value):
        raise InvalidInput(f"{named} {value}".strip() + " is not stopped", hint="`agentguard stop --list` shows what is")
    record, now = ledger.next_id(), time.time_ns()
    ledger.note("revocation", {"action": "lift", "kind": kind, "reason": reason, "value": value}, by=by, identity=record)
    return home.state.lift(kind, value, by=by, reason=reason, time_ns=now, record=record)


def answer(
    home: Home, ledger: Ledger, request: Request, name: str, signer: Signer, verdict: Verdict, *, now: int, operator: str, reason: str = ""
) -> Answer | None:
    """Answer a request as the approver `name`, who holds `signer`. Returns what the answers come to by now (seconds); None: still open.

    Evidence first where it lets something run; where it refuses, it holds before it is recorded. Raises InvalidInput for an answer that
    would count for nothing, StateUnavailable for a request that is gone, EvidenceUnavailable.
    """
    trust, key = home.approvers(), signer.public.thumbprint()
    token = make_answer(request, signer, name, verdict, now=now, reason=reason)
    weighed = weigh(request, key, token, request.terms, trust, now)
    if weighed.why_not:
        raise InvalidInput(f"{name} cannot answer {request.id}: {weighed.why_not}")
    before = judge(request, home.inbox.answers(request), request.terms, trust, now)
    if before is not None and not before.granted:
        hint = "the call may be asked about anew when this request has expired"
        raise InvalidInput(f"{request.id} was denied by {', '.join(before.by)}, and that stands", hint=hint)
    detail = {
        "action": "answered",
        "answer": token,
        "key": key,
        "local": trust[key].local,
        "operator": operator,
        "reason": reason,
        "request": request.id,
        "verdict": verdict,
    }
    if verdict == "deny":
        home.inbox.reply(request, key, token)
    ledger.note("approval", detail, by=name)
    if verdict == "approve":
        home.inbox.reply(request, key, token)
    return judge(request, home.inbox.answers(request), request.terms, trust, now)


def clock_floor(home: Home) -> int:
    """Nanoseconds below which the wall clock cannot be right: the last checkpoint's time, unless an operator accepted the clock since."""
    last = home.log.last_time_ns
    if last > int(home.state.meta(_ACCEPTED) or "0"):
        return last
    home.log.accept_clock()
    return 0


def accept_clock(home: Home, ledger: Ledger, *, by: str, reason: str = "") -> None:
    """Accept a wall clock that is behind the last checkpoint; recorded as evidence, with who said so."""
    last = home.log.last_time_ns
    ledger.note("clock", {"accepted": str(time.time_ns()), "last_checkpoint": str(last), "reason": reason}, by=by)
    home.state.set_meta(_ACCEPTED, str(last))
    home.log.accept_clock()


def reconcile(home: Home) -> None:
    """Bring the state store up to the log: replay what it missed, release what was reserved and never recorded.

    Every shard that nobody holds is reconciled as its owner would. One that somebody holds is read only where the store has never seen it:
    it is new, or was lost. A shard under which nobody counted since it was last reconciled or marked is not read at all.
    """
    state, seen = home.state, home.state.shards()
    for shard in read_shards(home.path):
        if shard == home.log.shard:
            state.reconcile(shard, _records(home, shard, state.position(shard)), upto=home.log.size)
        elif seen.get(shard, True):
            lock = _lock(home, shard)
            try:
                if lock is not None or shard not in seen:
                    state.reconcile(shard, _records(home, shard, state.position(shard)), upto=None, owned=lock is not None)
            finally:
                if lock is not None:
                    os.close(lock)
    state.purge(time.time_ns() // 10**9)
    with suppress(StateUnavailable):  # what waits for an answer has no say in whether a guard opens
        home.inbox.sweep(time.time_ns() // 10**9)


def _lock(home: Home, shard: str) -> int | None:
    try:
        return try_lock(shard_directory(home.path, shard) / "lock")
    except OSError as error:
        raise StateUnavailable(f"shard {shard} cannot be locked to count what it says: {error.strerror}") from error


def own(home: Home, task: str, expires: int) -> None:
    """Count the calls of a new root task in memory: nobody else has its artifact yet (docs/decisions/0006)."""
    try:
        home.state.own(home.log.shard, task, expires)
    except StateUnavailable as error:  # its calls are counted in the store, or refused there
        say("the state store did not take a task", task=task, error=str(error))


def end(home: Home, task: str) -> None:
    """A root task is over. If its artifact never left this process, nobody may use it any more."""
    try:
        home.state.end(task)
    except StateUnavailable as error:
        say("the state store did not take the end of a task", task=task, error=str(error))


def mark(home: Home) -> None:
    """Note that the state holds all that the log says, so that the next open need not read it again. At close: tasks that are open end, and
    a sick log is left alone."""
    with suppress(StateUnavailable):
        home.state.end()
    if home.log.poisoned is None:
        with suppress(StateUnavailable):
            home.state.mark(home.log.shard, home.log.size)


def _records(home: Home, shard: str, start: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """What the state cares about."""
    for _, index, record in iter_records(home.path, shard, start):
        body = msgspec.json.decode(record)
        if type(body) is dict and body.get("type") in ("decision", "outcome", "delegation", "revocation", "open", "policy"):
            detail = body.get("detail")
            yield index, {**detail, **body} if type(detail) is dict else body
