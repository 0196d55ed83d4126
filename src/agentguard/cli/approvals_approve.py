"""`agentguard approvals approve`: say yes to exactly one call."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentguard.cli.approvals_desk import IdArgument, needs
from agentguard.cli.inputs import DEFAULT_HOME, ByOption, HomeOption, JsonOption, ReasonOption, existing_home, operator
from agentguard.cli.terminal import result, say
from agentguard.errors import InvalidInput

if TYPE_CHECKING:
    from rich.console import Console

    from agentguard.approvals import Request, Verdict
    from agentguard.home import Home
    from agentguard.keys import Signer
    from agentguard.premises import Answer

AsOption = Annotated[
    str | None, typer.Option("--as", metavar="NAME", help="Who answers, by the name that the policy has; with --key it may be left out.")
]
KeyOption = Annotated[
    Path | None,
    typer.Option("--key", metavar="FILE", help="The approver's own private key (PEM, mode 0600), which trust.json binds to the name."),
]


def approve(
    identity: IdArgument,
    name: AsOption = None,
    key: KeyOption = None,
    reason: ReasonOption = "",
    by: ByOption = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Approve one exact call, once. Look at it with `approvals show ID` first: the id stands for all that is printed there.

    The answer is signed. Without --key the key is made in this home on first use, so whoever can write the home can answer under any name;
    where trust.json has `approvers`, only their own keys count. Never counts: the agent that asks and those it acts for, the initiator
    (unless the rule accepts that), anybody whom the rule does not name, and a key that answers twice. A call that waits goes on at once.

    Example: `agentguard approvals approve 3f2a9c… --as user:carol --reason "invoice 17 is right"`
    """
    respond(identity, "approve", name, key, reason, operator(by), home, as_json)


def respond(identity: str, verdict: Verdict, name: str | None, key: Path | None, reason: str, by: str, home: Path, as_json: bool) -> None:
    """Sign and file an answer, and print how the request stands then."""
    from agentguard import control
    from agentguard.environment import NANOSECOND, Clock
    from agentguard.home import Home
    from agentguard.ledger import Ledger

    with Home(existing_home(home)) as opened:
        request, clock = opened.inbox.get(identity), Clock()
        who, signer = _signer(opened, request, name, key)
        settled = control.answer(
            opened, Ledger(opened, clock), request, who, signer, verdict, now=clock.now() // NANOSECOND, operator=by, reason=reason
        )
        state = "open" if settled is None else "approved" if settled.granted else "denied"
        answer = {"request": request.id, "verdict": verdict, "as": who, "state": state, "by": list(settled.by) if settled else [who]}
        result(as_json, answer, lambda out: _say(out, request, verdict, who, settled))


def _signer(home: Home, request: Request, name: str | None, key: Path | None) -> tuple[str, Signer]:
    """Who answers, and their key. Nobody gets a key here who may not answer anyway. Raises InvalidInput."""
    from agentguard.approvals import objection
    from agentguard.keys import LocalKey

    if key is not None:
        signer = LocalKey.load(key)
        bound = home.approvers().get(signer.public.thumbprint())
        if bound is None:
            hint = f'put it into {home.path / "trust.json"}: "approvers": {{"{name or "NAME"}": {signer.public.jwk()}}}'.replace("'", '"')
            raise InvalidInput("nobody who may answer here holds this key", place=str(key), hint=hint)
        if name not in (None, bound.name):
            raise InvalidInput(f"this key is bound to {bound.name}, not to {name}", place=str(key))
        return bound.name, signer
    if name is None:
        raise InvalidInput("say who answers", place="approvals", hint="--as NAME, or --key FILE")
    if home.trust.approvers is not None:
        hint = "give --key FILE with the key that is bound there"
        raise InvalidInput("this home's trust.json names the approvers, and only their own keys count", place=name, hint=hint)
    fault = objection(request, request.terms, name, "")
    if fault:
        raise InvalidInput(f"{name} cannot answer {request.id}: {fault}")
    return name, home.keys.approver(name)


def _say(out: Console, request: Request, verdict: Verdict, who: str, settled: Answer | None) -> None:
    from agentguard.reading.lineage_show import printable

    question = request.question
    word = ("approved: ", "good") if verdict == "approve" else ("denied: ", "bad")
    say(out, word, (printable(f"{question.agent} → {question.tool}"), "name"), f"  as {who}", (f"  {request.id}", "dim"))
    if settled is None:
        say(out, (f"it still needs more: {needs(request)}", "warn"))
    elif settled.granted:
        say(out, f"the call may run once, with exactly these arguments ({', '.join(settled.by)})")
    else:
        say(out, "the call is refused until the request has expired")
