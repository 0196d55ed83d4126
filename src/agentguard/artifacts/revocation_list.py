"""Lists of revocations that come from elsewhere: signed, numbered, and good for a while only (DESIGN §4, §7 stage 4).

A list is a compact JWS (`typ` "agentguard-revocations+jwt") whose payload is

    {"agentguard": 1, "by": thumbprint of the signer, "number": n, "issued": seconds, "expires": seconds,
     "revoked": [{"kind": ..., "value": ..., "time": seconds, "reason": ...}, ...]}

It says everything that is revoked, so the newest one is the only one that counts. An issuer's list is about the chains that it issued; the
policy authority's is about every chain. Once it has expired nobody knows what was revoked since, and what it is about is denied.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from agentguard.artifacts import jws
from agentguard.artifacts.revocation import Action, Event, Revocations, check_text, parse_target
from agentguard.canonical import parse
from agentguard.decision import Code, Reason
from agentguard.errors import InvalidInput
from agentguard.keys import PublicKey, Signer

LIST_TYPE: Final = "agentguard-revocations+jwt"
MAX_LIST: Final = 1 << 20
_MEMBERS: Final = frozenset({"agentguard", "by", "number", "issued", "expires", "revoked"})
_ENTRY: Final = frozenset({"kind", "value", "time", "reason"})
_LARGEST: Final = 2**53


@dataclass(frozen=True, slots=True)
class RevocationList:
    """A list whose signature holds.

    by        thumbprint of the key that signed it
    issuer    the same where the list is about that issuer's chains only; None where it is about every chain
    number    rises from list to list of one signer
    expires   Unix seconds from which on it says nothing any more
    digest    "sha256:<hex>" of the token
    """

    by: str
    issuer: str | None
    number: int
    issued: int
    expires: int
    digest: str
    revocations: Revocations

    def judge(
        self, *, links: Sequence[str], keys: Sequence[str], agents: Sequence[str], task: str, initiator: str | None, now: int
    ) -> Reason | None:
        """None where a chain stands under this list at `now` (seconds). `keys[0]` is the key of the chain's issuer. Total."""
        if self.issuer is not None:
            if self.issuer != keys[0]:
                return None
            task = task.removeprefix(f"{self.issuer}/")  # as its issuer named it
        hit = self.revocations.match(links=links, keys=keys, agents=agents, task=task, initiator=initiator)
        if hit is not None:
            place = f"link {hit.link}" if hit.link is not None else ""
            return Reason(Code.ARTIFACT_REVOKED, str(hit.kind), "an artifact that nobody withdrew", hit.describe(), place)
        if now < self.expires:
            return None
        required = "a list of revocations that is still good"
        found = f"list {self.number} of {self.by[:12]}…, which ended {now - self.expires} s ago"
        return Reason(Code.REVOCATION_STALE, "revocations", required, found, fix="agentguard policy fetch")


def sign_list(signer: Signer, *, number: int, issued: int, expires: int, revoked: Iterable[Mapping[str, Any]]) -> str:
    """A signed list. `revoked` holds `{"kind", "value"}` and, if known, `time` (seconds) and `reason`. Raises InvalidInput."""
    entries = [
        {"kind": str(entry["kind"]), "value": entry["value"], "time": entry.get("time", issued), "reason": entry.get("reason", "")}
        for entry in revoked
    ]
    claims = {"agentguard": 1, "by": signer.public.thumbprint(), "number": number, "issued": issued, "expires": expires, "revoked": entries}
    token = jws.sign(LIST_TYPE, claims, signer)
    read_list(token, {signer.public.thumbprint(): (signer.public, True)})  # what nobody could read is not given out
    return token


def read_list(token: str, signers: Mapping[str, tuple[PublicKey, bool]]) -> RevocationList:
    """Verify and read a list. Raises InvalidInput.

    signers  by thumbprint the keys that may sign one, and whether it is then about every chain
    """
    if len(token) > MAX_LIST:
        raise InvalidInput(f"the list of revocations is longer than {MAX_LIST} bytes")
    parts = jws.Token(token)
    if parts.header != jws.encode_header(LIST_TYPE, profile=False):
        raise InvalidInput("not a list of revocations: the header is another one")
    signed = [name for name, (key, _) in signers.items() if parts.signed_by(key)]
    if not signed:
        hint = "an issuer among the keys of the bundle, or the policy authority"
        raise InvalidInput("the list of revocations is not signed by a key that may", hint=hint)
    body = parse(parts.payload)
    if type(body) is not dict or body.keys() != _MEMBERS:
        raise InvalidInput(f"a list of revocations has the members {', '.join(sorted(_MEMBERS))}")
    if type(body["agentguard"]) is not int or body["agentguard"] != 1:
        raise InvalidInput("the list of revocations is of another version than 1")
    if body["by"] != signed[0]:
        raise InvalidInput("the list of revocations names another signer than its key")
    number, issued, expires = (whole(body, name) for name in ("number", "issued", "expires"))
    if expires <= issued:
        raise InvalidInput("the list of revocations expires before it is issued")
    everyone = signers[signed[0]][1]
    who = "the policy authority" if everyone else f"the issuer {signed[0][:12]}…"
    return RevocationList(
        by=signed[0],
        issuer=None if everyone else signed[0],
        number=number,
        issued=issued,
        expires=expires,
        digest="sha256:" + hashlib.sha256(token.encode("ascii")).hexdigest(),
        revocations=Revocations.fold(number, _events(body["revoked"], who)),
    )


def whole(body: Mapping[str, Any], name: str) -> int:
    """The member `name`, a whole number from 1 to 2^53. Raises InvalidInput."""
    value = body[name]
    if type(value) is not int or not 0 < value <= _LARGEST:
        raise InvalidInput(f"{name} must be a whole number from 1 to 2^53, found {value!r:.40}")
    return value


def _events(revoked: Any, who: str) -> list[Event]:
    if type(revoked) is not list:
        raise InvalidInput("revoked must be an array")
    events: dict[tuple[str, str], Event] = {}
    for index, entry in enumerate(revoked):
        if type(entry) is not dict or entry.keys() != _ENTRY:
            raise InvalidInput(f"revoked[{index}] has the members {', '.join(sorted(_ENTRY))}")
        try:
            kind, value = parse_target(entry["kind"], entry["value"])
            reason, time = check_text(entry["reason"], "the reason", 4096), whole(entry, "time")
        except InvalidInput as error:
            raise InvalidInput(f"revoked[{index}]: {error.message}", hint=error.hint) from None
        if (kind, value) in events:
            raise InvalidInput(f"revoked[{index}]: the same stands there already")
        events[kind, value] = Event(Action.REVOKE, kind, value, who, reason, time * 10**9, f"{index}")
    return list(events.values())
