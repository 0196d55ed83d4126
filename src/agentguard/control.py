"""What an operator does to a home: stop and lift authority, accept the clock; and what a guard does on opening it (DESIGN §9)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from agentguard.home import Home
from agentguard.revocation import KINDS
from agentguard.errors import InvalidInput

if TYPE_CHECKING:
    from agentguard.ledger import Ledger

_ACCEPTED = "clock_accepted_until"


def stop(home: Home, ledger: Ledger, kind: str, value: str, *, by: str, reason: str = "") -> int:
    """Withdraw authority. It takes effect on the next call of every guard on this home, before the record of it is written."""
    _known(kind, value)
    version = home.state.revoke(kind, value, by=by, reason=reason, time_ns=time.time_ns())
    ledger.note("revocation", {"kind": kind, "value": value, "reason": reason, "version": version, "lifted": False}, by=by)
    return version


def lift(home: Home, ledger: Ledger, kind: str, value: str, *, by: str, reason: str = "") -> int:
    """Take a stop back. Evidence first: nothing is allowed again without a record of who said so."""
    _known(kind, value)
    ledger.note("revocation", {"kind": kind, "value": value, "reason": reason, "version": home.state.version() + 1, "lifted": True}, by=by)
    return home.state.lift(kind, value, by=by, reason=reason, time_ns=time.time_ns())


def _known(kind: str, value: str) -> None:
    if kind not in KINDS:
        raise InvalidInput(f"{kind!r:.40} cannot be stopped", hint=f"one of {', '.join(KINDS)}")
    if not value:
        raise InvalidInput(f"which {kind} should be stopped?")


def clock_floor(home: Home) -> int:
    """Nanoseconds below which the wall clock cannot be right: the last checkpoint's time, unless an operator accepted the clock since."""
    last = home.log.last_time_ns
    accepted = int(home.state.meta(_ACCEPTED) or "0")
    return 0 if last <= accepted else last


def accept_clock(home: Home, ledger: Ledger, *, by: str, reason: str = "") -> None:
    """Accept a wall clock that is behind the last checkpoint; recorded as evidence, with who said so."""
    last = home.log.last_time_ns
    ledger.note("clock", {"accepted": str(time.time_ns()), "last_checkpoint": str(last), "reason": reason}, by=by)
    home.state.set_meta(_ACCEPTED, str(last))


def reconcile(home: Home) -> None:
    """Bring the state store up to the log: replay what it missed, release what was reserved and never recorded."""
    shard = home.log.shard
    home.state.reconcile(shard, _decisions(home, shard, home.state.position(shard)), upto=home.log.size)


def _decisions(home: Home, shard: str, start: int) -> Iterator[tuple[int, dict[str, Any]]]:
    for index, record in home.log.records(start=start):
        body = msgspec.json.decode(record)
        if body.get("type") in ("decision", "outcome"):
            yield index, body
