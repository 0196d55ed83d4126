"""What the verbs of `agentguard approvals` share: a home's requests, how they stand, and the words for it."""

from __future__ import annotations

import time
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from agentguard.cli.inputs import existing_home

if TYPE_CHECKING:
    from agentguard.approvals import Approvers, Request, Weighed
    from agentguard.inbox import Filed, Inbox

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The id of a request, as `approvals list` shows it.")]
_SPANS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


@dataclass(frozen=True)
class Desk:
    """A home's requests, with what is needed to tell how they stand. Changes nothing."""

    inbox: Inbox
    trust: Approvers
    now: int

    @classmethod
    def at(cls, home: Path) -> Desk:
        from agentguard.cli.trust import ring_of, trust_of
        from agentguard.home import approvers
        from agentguard.inbox import Inbox

        keys, withdrawn = ring_of(existing_home(home)), _withdrawn(home)
        answering = {key: who for key, who in approvers(trust_of(home), keys).items() if key not in withdrawn}
        return cls(Inbox(home / "approvals", keys.issuer().public), answering, int(time.time()))

    def weighed(self, request: Request) -> list[Weighed]:
        """Every answer that lies there, the oldest first, and whether it counts."""
        from agentguard.approvals import weigh

        answers = self.inbox.answers(request)
        found = [weigh(request, key, text, request.terms, self.trust, self.now) for key, text in answers.items()]
        return sorted(found, key=lambda one: (one.time, one.name, one.key))

    def state(self, request: Request) -> str:
        """open, approved, denied or expired."""
        from agentguard.approvals import judge

        if self.now >= request.expires:
            return "expired"
        answer = judge(request, self.inbox.answers(request), request.terms, self.trust, self.now)
        return "open" if answer is None else "approved" if answer.granted else "denied"

    def to_json(self, request: Request) -> dict[str, Any]:
        """What `list --json` says of a request, without its arguments."""
        question, counted = request.question, [one for one in self.weighed(request) if not one.why_not]
        return {
            "id": request.id,
            "state": self.state(request),
            "agent": question.agent,
            "tool": question.tool,
            "initiator": dict(request.initiator) if request.initiator is not None else None,
            "task": question.task,
            "asked": request.asked,
            "expires": request.expires,
            "needs": {"of": request.terms.of, "by": list(request.terms.by) if request.terms.by is not None else None},
            "approved_by": sorted(one.name for one in counted if one.verdict == "approve"),
            "denied_by": sorted(one.name for one in counted if one.verdict == "deny"),
        }


def _withdrawn(home: Path) -> Container[str]:
    """Thumbprints of the keys that were revoked."""
    from agentguard.artifacts.revocation import Kind
    from agentguard.state.store import State

    if not (home / "state.db").exists():
        return ()
    state = State.open(home / "state.db")
    try:
        return state.revocations().active.get(Kind.KEY, {})
    finally:
        state.close()


def damaged(filed: Filed) -> dict[str, str]:
    """What there is to say of something that is no request."""
    return {"place": str(filed.place), "problem": filed.problem}


def on_behalf(initiator: Mapping[str, str] | None) -> tuple[str, bool]:
    """The initiator in words, and whether anybody authenticated it."""
    from agentguard.reading.lineage_show import printable

    if initiator is None:
        return "nobody named", False
    asserted = initiator.get("method") == "asserted"
    how = "ASSERTED: nobody authenticated it" if asserted else f"authenticated by {printable(initiator.get('method'))}"
    return f"{printable(initiator.get('id'))} ({how})", not asserted


def needs(request: Request) -> str:
    """Whose answers a request needs, in words."""
    from agentguard.reading.lineage_show import printable

    terms = request.terms
    if terms.by is None:
        who = "an approver whom this home trusts" if terms.of == 1 else "approvers whom this home trusts"
        return who if terms.of == 1 else f"{terms.of} {who}"
    names = ", ".join(map(printable, terms.by)) or "nobody (no one may answer all rules that ask)"
    return names if terms.of == 1 and len(terms.by) == 1 else f"{terms.of} of {names}"


def span(seconds: int) -> str:
    """A number of seconds in the largest unit that it fills."""
    for size, unit in _SPANS:
        if abs(seconds) >= size:
            return f"{seconds // size} {unit}"
    return "0 s"
