"""Bundles of a home: which one was the newest, and where the fetched ones lie (DESIGN §6).

    <home>/policy/<name>.bundle     0600, put in place whole or not at all

The number of the newest bundle is remembered in the state store, and in the log by whoever took it over; the file itself proves nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from agentguard.bundle import MAX_BUNDLE, Bundle
from agentguard.decide import SKEW
from agentguard.errors import InvalidInput
from agentguard.home import Home
from agentguard.ledger import Ledger
from agentguard.log.layout import hold_lock, make_directory, read_small, replace_file
from agentguard.state.memory import Numbered

DIRECTORY: Final = "policy"


def numbered(bundle: Bundle) -> tuple[Numbered, ...]:
    """What of a bundle is numbered: itself, and the lists of revocations in it."""
    lists = [Numbered(f"revocations {one.by}", one.number, one.digest) for one in bundle.lists]
    return (Numbered(f"bundle {bundle.name}", bundle.version, bundle.digest), *lists)


def take_over(home: Home, bundle: Bundle) -> None:
    """Refuse a bundle that is older than the newest one that this home has seen, or another one with its number; else remember it, so that
    nothing older is taken again. The caller records it. Raises InvalidInput, StateUnavailable.
    """
    _refuse(bundle, home.state.advance(numbered(bundle)))


def _refuse(bundle: Bundle, newest: Numbered | None) -> None:
    if newest is None:
        return
    found = next(one for one in numbered(bundle) if one.series == newest.series)
    kind, _, name = newest.series.partition(" ")
    what = f"the bundle {name}" if kind == "bundle" else f"the list of revocations of {name[:12]}…"
    if found.number == newest.number:
        message = f"{what}, number {found.number}, is another one than the one that was seen here: {found.digest}, not {newest.digest}"
        hint = "whoever signs it must give new content a new number"
    else:
        message = f"{what}, number {found.number}, is older than number {newest.number}, which was seen here"
        hint = "nothing older is taken again: sign it anew with a higher number"
    raise InvalidInput(message, place=f"{bundle.name}@{bundle.version}", hint=hint)


def succeeds(old: Bundle | None, new: Bundle | None) -> None:
    """Refuse what may not take the place of `old` in a running guard: something unsigned, or another bundle. Raises InvalidInput."""
    if old is not None and new is None:
        raise InvalidInput("the guard runs under a signed bundle, and this is not one", place=old.name, hint="open another guard on it")
    if old is not None and new is not None and new.name != old.name:
        raise InvalidInput(f"the guard runs under the bundle {old.name}, and this is {new.name}", hint="open another guard on it")


def in_time(bundle: Bundle, now: int) -> str:
    """Why a bundle is not good at `now` (seconds), in words; empty where it is."""
    if now >= bundle.expires:
        return f"it ended {now - bundle.expires} s ago"
    return f"it begins in {bundle.issued - now} s" if now < bundle.issued - SKEW else ""


def detail_of(bundle: Bundle) -> dict[str, Any]:
    """What records say about a bundle that was taken over; the state store is rebuilt from `numbered`."""
    return {
        "bundle": {"digest": bundle.digest, "name": bundle.name, "signer": bundle.signer, "version": bundle.version},
        "numbered": [list(one) for one in numbered(bundle)],
    }


def path_of(home: Path, name: str) -> Path:
    """Where the bundle `name` lies when it was fetched."""
    return home / DIRECTORY / f"{name}.bundle"


def install(home: Home, ledger: Ledger, bundle: Bundle, *, now: int, by: str) -> bool:
    """Put a bundle in its place, for the guards that open or reload it next. False where it lies there already.

    Refused, and nothing changed: one that is not in time, older than what was seen, or a fork. Raises InvalidInput and StateUnavailable;
    and EvidenceUnavailable where it lies there, and could not be recorded: the guard that opens it does that then.
    """
    late = in_time(bundle, now)
    if late:
        raise InvalidInput(f"the bundle is not good now: {late}", place=f"{bundle.name}@{bundle.version}", hint="fetch or sign a new one")
    path, data = path_of(home.path, bundle.name), bundle.data + b"\n"
    make_directory(path.parent)
    with hold_lock(path.parent / ".lock"):
        before = read_small(path, MAX_BUNDLE + 1)
        _refuse(bundle, home.state.passed(numbered(bundle)))
        if before != data:  # before it is remembered: what is remembered must be there, or nothing could be opened after a crash
            replace_file(path, data)
        try:
            take_over(home, bundle)
        except InvalidInput:
            if before is None:  # a guard took over a newer one meanwhile
                path.unlink()
            else:
                replace_file(path, before)
            raise
        if before == data:
            return False
        ledger.note("policy", {"action": "install", "policy": bundle.policy.digest, **detail_of(bundle)}, by=by)
    return True
