"""`agentguard stop`: withdraw authority, at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentguard.cli.exits import FAILED, complain, leave
from agentguard.cli.inputs import DEFAULT_HOME, ByOption, HomeOption, JsonOption, ReasonOption, existing_home, operator
from agentguard.cli.terminal import result, say
from agentguard.errors import EvidenceUnavailable, InvalidInput

if TYPE_CHECKING:
    from rich.console import Console

    from agentguard.artifacts.revocation import Event


def stop(
    task: Annotated[str | None, typer.Option("--task", metavar="ID", help="Everything in one task, delegates included.")] = None,
    agent: Annotated[str | None, typer.Option("--agent", metavar="NAME", help="One agent, and whoever acts under its artifacts.")] = None,
    initiator: Annotated[str | None, typer.Option("--initiator", metavar="ID", help="Every task of one initiator.")] = None,
    key: Annotated[
        str | None, typer.Option("--key", metavar="THUMBPRINT", help="Every chain in which this key signs or holds a link.")
    ] = None,
    link: Annotated[str | None, typer.Option("--link", metavar="HASH", help="One artifact, and what was derived from it.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Everything.")] = False,
    lift: Annotated[bool, typer.Option("--lift", help="Take exactly this stop back.")] = False,
    listing: Annotated[bool, typer.Option("--list", help="List what is stopped, and change nothing.")] = False,
    sign: Annotated[
        str | None,
        typer.Option(
            "--sign",
            metavar="SPAN",
            help="With --list: signed by this home's issuer, good so long (12h, 7d), for `agentguard policy sign --revocations`.",
        ),
    ] = None,
    by: ByOption = None,
    reason: ReasonOption = "",
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Withdraw authority: the next call of every guard on this home is denied with `artifact_revoked`. Needs no policy.

    A stop is in force before it is recorded, a lift is recorded before it is in force. Both survive restarts.

    Example: `agentguard stop --agent summarizer --reason "sends odd mails"`, and later `agentguard stop --agent summarizer --lift`
    """
    given = {"task": task, "agent": agent, "initiator": initiator, "key": key, "link": link, "all": "" if everything else None}
    targets = [(kind, value) for kind, value in given.items() if value is not None]
    existing_home(home)
    if listing:
        if targets or lift:
            raise InvalidInput("--list changes nothing and takes no target", place="stop")
        if sign is not None:
            print(_signed(home, sign))
        else:
            _list(home, as_json)
        return
    if sign is not None:
        raise InvalidInput("--sign belongs to --list", place="stop")
    if len(targets) != 1:
        found = " and ".join(f"--{kind}" for kind, _ in targets) or "nothing"
        raise InvalidInput(
            f"name one thing to stop, found {found}", place="stop", hint="--task, --agent, --initiator, --key, --link or --all"
        )
    withdraw(home, *targets[0], lift=lift, by=by, reason=reason, as_json=as_json)


def withdraw(home: Path, kind: str, value: str, *, lift: bool, by: str | None, reason: str, as_json: bool) -> None:
    """Stop or lift one thing and print it. Exit 1 where it is in force and could not be recorded."""
    from agentguard.artifacts.revocation import parse_target

    parse_target(kind, value)
    who = operator(by)
    version, trouble = _change(home, kind, value, lift, who, reason)
    answer: dict[str, Any] = {"action": "lift" if lift else "stop", "kind": kind, "value": value, "by": who, "reason": reason}
    answer |= {"version": version, "recorded": not trouble}
    result(as_json, answer, lambda out: _say(out, answer))
    if trouble:
        complain(f"the stop is in force, but it could not be recorded: {trouble}")
        leave(FAILED)


def _change(home: Path, kind: str, value: str, lift: bool, by: str, reason: str) -> tuple[int, str]:
    """The new version, and why it could not be recorded, if so. An emergency stop does not wait for a log to be mended; a lift does."""
    from agentguard import control
    from agentguard.environment import Clock
    from agentguard.home import Home
    from agentguard.ledger import Ledger

    try:
        opened = Home(home)
    except (InvalidInput, EvidenceUnavailable) as error:
        if lift:
            raise
        return _state_only(home, kind, value, by, reason), str(error)
    with opened:
        ledger = Ledger(opened, Clock())
        if lift:
            return control.lift(opened, ledger, kind, value, by=by, reason=reason), ""
        try:
            return control.stop(opened, ledger, kind, value, by=by, reason=reason), ""
        except EvidenceUnavailable as error:
            return opened.state.version(), str(error)


def _state_only(home: Path, kind: str, value: str, by: str, reason: str) -> int:
    import time

    from agentguard.state.store import State

    state = State.open(home / "state.db")
    try:
        return state.revoke(kind, value, by=by, reason=reason, time_ns=time.time_ns())
    finally:
        state.close()


def _what(kind: str, value: str) -> str:
    return "everything" if kind == "all" else f"{kind} {value}"


def _say(out: Console, answer: dict[str, Any]) -> None:
    word = ("lifted: ", "good") if answer["action"] == "lift" else ("stopped: ", "bad")
    why = f": {answer['reason']}" if answer["reason"] else ""
    say(out, word, (_what(answer["kind"], answer["value"]), "name"), f"  by {answer['by']}{why}")


def _signed(home: Path, span: str) -> str:
    """What is stopped here as a signed list. Its number is the time in microseconds: it rises with each list, changed or only renewed."""
    import time

    from agentguard.artifacts.revocation_list import sign_list
    from agentguard.cli.trust import ring_of
    from agentguard.spans import parse_span

    now = time.time_ns()
    issued, revoked = now // 10**9, []
    for event in _stopped(home):
        revoked.append({"kind": event.kind, "value": event.value, "time": max(event.time_ns // 10**9, 1), "reason": event.reason})
    return sign_list(ring_of(home).issuer(), number=now // 1000, issued=issued, expires=issued + parse_span(span), revoked=revoked)


def _stopped(home: Path) -> list[Event]:
    from agentguard.state.store import State

    events: list[Event] = []
    if (home / "state.db").exists():
        state = State.open(home / "state.db")
        try:
            events = [event for kind in state.revocations().active.values() for event in kind.values()]
        finally:
            state.close()
    return sorted(events, key=lambda event: event.time_ns)


def _list(home: Path, as_json: bool) -> None:
    events = _stopped(home)
    answer = {
        "stopped": [
            {"kind": str(event.kind), "value": event.value, "by": event.by, "reason": event.reason, "time": str(event.time_ns)}
            for event in events
        ]
    }
    result(as_json, answer, lambda out: _say_list(out, answer["stopped"]))


def _say_list(out: Console, stopped: list[dict[str, str]]) -> None:
    from agentguard.reading.lineage_show import printable, when

    for event in stopped:
        why = f": {printable(event['reason'])}" if event["reason"] else ""
        what = printable(_what(event["kind"], event["value"]))
        say(out, (what, "name"), f"  by {printable(event['by'])}{why}", (f"  {when(int(event['time']))}", "dim"))
    if not stopped:
        say(out, ("nothing is stopped", "dim"))
