"""Asking people: the request that an `ask` becomes, the signed answers to it, and what they come to (DESIGN §10).

A request is signed by the guard, an answer by an approver; both are compact JWS with types of their own. The id of a request is the hash
of what was signed, so who names the id names everything that was shown. All here is pure: no clock, no disk (`inbox.py` has those).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias, TypeVar

import msgspec

from agentguard.artifacts.jws import Token, read_header, sign
from agentguard.canonical import Frozen, as_mapping, freeze, jcs, parse
from agentguard.errors import InvalidInput
from agentguard.evidence import commit
from agentguard.keys import PublicKey, Signer
from agentguard.premises import Answer

REQUEST_TYPE: Final = "agentguard-request+jwt"
ANSWER_TYPE: Final = "agentguard-approval+jwt"
#: Arguments of which nobody could judge what they say are not put to anybody.
MAX_ARGUMENTS: Final = 256 << 10
MAX_REQUEST: Final = 1 << 20
MAX_ANSWER: Final = 16 << 10
MAX_WORDS: Final = 1000
#: How far ahead of the guard's clock an approver's may be, in seconds (DESIGN §7).
SKEW: Final = 30

Verdict: TypeAlias = Literal["approve", "deny"]
_SALT: Final = re.compile(r"[0-9a-f]{32}")
_Kind = TypeVar("_Kind", bound=msgspec.Struct)


class Rule(Protocol):
    """What the policy says about who may answer: see `policy.approval.ApprovalRule`."""

    @property
    def by(self) -> tuple[str, ...] | None: ...
    @property
    def of(self) -> int: ...
    @property
    def expires(self) -> int: ...
    @property
    def initiator(self) -> bool: ...


class Approver(NamedTuple):
    """Somebody whose answers count. `local`: the key lies in the home itself, so that nobody but its owner vouches for the name."""

    name: str
    key: PublicKey
    local: bool


#: Thumbprint of a key -> whose it is. Keys of agents and of the guard are never in it (`Home.approvers`).
Approvers: TypeAlias = Mapping[str, Approver]


class Terms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A rule as it stands in a request: who may answer (None: all whom the home trusts), how many must, within how many seconds, whether
    the initiator may."""

    by: tuple[str, ...] | None
    of: int
    expires: int
    initiator: bool

    @classmethod
    def of_rule(cls, rule: Rule) -> Terms:
        return cls(rule.by, rule.of, rule.expires, rule.initiator)


@dataclass(frozen=True, slots=True)
class Question:
    """Exactly one call: what is asked about, and what an answer is good for.

    task, leaf   id of the root task; hash of the leaf artifact's signing input
    arguments    bound: as the tool will get them
    followed     the same with symbolic links followed, where there are any: a link that points elsewhere is another question
    policy       digest of the policy
    """

    task: str
    leaf: str
    agent: str
    tool: str
    arguments: Mapping[str, Frozen]
    followed: Mapping[str, Frozen] | None
    policy: str

    def digest(self) -> str:
        """64 hexadecimal digits that are the same for the same call only. Not for a record: who can guess the arguments can check it."""
        parts = [self.task, self.leaf, self.agent, self.tool, self.arguments, self.followed, self.policy]
        return hashlib.sha256(jcs(parts)).hexdigest()


class _Claims(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The payload of a request."""

    agent: str
    agents: tuple[str, ...]
    arguments: dict[str, Any]
    asked: int
    caused_by: str | None
    execution: str
    expires: int
    followed: dict[str, Any] | None
    initiator: dict[str, str] | None
    keys: tuple[str, ...]
    leaf: str
    place: str
    policy: str
    reason: str
    salt: str
    task: str
    terms: Terms
    tool: str


@dataclass(frozen=True, slots=True)
class Request:
    """A question that was put to people.

    id, digest   32 and 64 hexadecimal digits: the hash of the signing input of `token`
    agents       who holds the links of the chain, root first
    keys         thumbprints of the keys that sign or hold a link
    initiator    {id, method, evidence}, or None for a plain chain
    execution    the refused execution that asked; `caused_by` the one whose body made the call, if any
    place        where the policy has the rule
    asked, expires   seconds; from `expires` on neither answers nor the request count for anything
    commitment   to the arguments: `sha256:` with the request's own salt
    """

    token: str
    id: str
    digest: str
    question: Question
    terms: Terms
    agents: tuple[str, ...]
    keys: tuple[str, ...]
    initiator: Mapping[str, str] | None
    execution: str
    caused_by: str | None
    reason: str
    place: str
    asked: int
    expires: int
    salt: bytes

    @property
    def commitment(self) -> str:
        return commit(self.salt, jcs(self.question.arguments))


def make_request(
    guard: Signer,
    question: Question,
    terms: Terms,
    *,
    agents: Iterable[str | None],
    keys: tuple[str, ...],
    initiator: Mapping[str, str] | None,
    execution: str,
    caused_by: str | None,
    reason: str,
    place: str,
    now: int,
    salt: bytes,
) -> Request:
    """Put a question, signed with the guard's key. Raises InvalidInput for arguments that nobody could read."""
    size = len(jcs(question.arguments))
    if size > MAX_ARGUMENTS:
        raise InvalidInput(f"the arguments have {size} bytes, and nobody is asked about more than {MAX_ARGUMENTS}")
    claims = {
        "agent": question.agent,
        "agents": [name or "" for name in agents],
        "arguments": question.arguments,
        "asked": now,
        "caused_by": caused_by,
        "execution": execution,
        "expires": now + terms.expires,
        "followed": question.followed,
        "initiator": dict(initiator) if initiator is not None else None,
        "keys": list(keys),
        "leaf": question.leaf,
        "place": place[:MAX_WORDS],
        "policy": question.policy,
        "reason": reason[:MAX_WORDS],
        "salt": salt.hex(),
        "task": question.task,
        "terms": msgspec.to_builtins(terms),
        "tool": question.tool,
    }
    return read_request(sign(REQUEST_TYPE, claims, guard), guard.public)


def read_request(text: str, guard: PublicKey) -> Request:
    """A request as this guard signed it. Raises InvalidInput for anything else."""
    token, body = _opened(text, REQUEST_TYPE, guard, MAX_REQUEST, "the guard of this home did not sign this request")
    claims = _converted(body, _Claims)
    if _SALT.fullmatch(claims.salt) is None:
        raise InvalidInput("its salt is not 16 bytes in hexadecimal")
    question = Question(
        claims.task,
        claims.leaf,
        claims.agent,
        claims.tool,
        as_mapping(freeze(claims.arguments), "arguments"),
        as_mapping(freeze(claims.followed), "followed") if claims.followed is not None else None,
        claims.policy,
    )
    return Request(
        text,
        token.digest.hex()[:32],
        token.digest.hex(),
        question,
        claims.terms,
        claims.agents,
        claims.keys,
        claims.initiator,
        claims.execution,
        claims.caused_by,
        claims.reason,
        claims.place,
        claims.asked,
        claims.expires,
        bytes.fromhex(claims.salt),
    )


class SignedAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one approver signed (DESIGN §10): the request, and once more everything in it that the answer is good for.

    arguments   the request's commitment to them: an answer may be kept for ever without telling them
    by          the approver's name; `reason` is for people
    iat, exp    seconds
    """

    agent: str
    arguments: str
    by: str
    exp: int
    iat: int
    leaf: str
    policy: str
    reason: str
    request: str
    task: str
    tool: str
    verdict: Verdict


def make_answer(request: Request, approver: Signer, name: str, verdict: Verdict, *, now: int, reason: str = "") -> str:
    """An answer to a request, as a compact JWS. It ends with the request."""
    answer = SignedAnswer(
        **_bindings(request), by=name, exp=request.expires, iat=now, reason=reason[:MAX_WORDS], verdict=verdict
    )  # fmt: skip
    return sign(ANSWER_TYPE, msgspec.to_builtins(answer), approver)


def _bindings(request: Request) -> dict[str, str]:
    question = request.question
    return {
        "agent": question.agent,
        "arguments": request.commitment,
        "leaf": question.leaf,
        "policy": question.policy,
        "request": request.digest,
        "task": question.task,
        "tool": question.tool,
    }


class Weighed(NamedTuple):
    """One answer: whose, what it says, and why it counts for nothing (empty: it counts). `key` is the thumbprint that signed it."""

    key: str
    name: str
    verdict: str
    time: int
    reason: str
    why_not: str


def weigh(request: Request, key: str, text: str, rule: Rule, trust: Approvers, now: int) -> Weighed:
    """Whether an answer, filed under the thumbprint of a key, counts. Total: whatever is wrong with it is a reason for why not."""
    approver = trust.get(key)
    if approver is None:
        return Weighed(key, "", "", 0, "", "nobody who may answer holds this key")
    try:
        answer = read_answer(text, approver)
    except InvalidInput as error:
        return Weighed(key, approver.name, "", 0, "", error.message)
    return Weighed(key, approver.name, answer.verdict, answer.iat, answer.reason, _fault(answer, request, approver, rule, now))


def read_answer(text: str, approver: Approver) -> SignedAnswer:
    """What an approver signed; whether it is an answer to anything is another question. Raises InvalidInput."""
    _, body = _opened(text, ANSWER_TYPE, approver.key, MAX_ANSWER, f"the key of {approver.name} did not sign it")
    return _converted(body, SignedAnswer)


def _fault(answer: SignedAnswer, request: Request, approver: Approver, rule: Rule, now: int) -> str:
    for name, wanted in _bindings(request).items():
        if getattr(answer, name) != wanted:
            return f"it is for another {name}" if name != "arguments" else "it is for other arguments"
    if answer.by != approver.name:
        return f"the key is bound to the name {approver.name}, and the answer says {answer.by:.64}"
    if now >= answer.exp:
        return "it has expired"
    if answer.exp > request.expires:
        return "it wants to outlive its request"
    if not request.asked - SKEW <= answer.iat <= now + SKEW:
        return "it says that it was signed before it was asked, or in the future"
    return objection(request, rule, approver.name, approver.key.thumbprint())


def objection(request: Request, rule: Rule, name: str, key: str) -> str:
    """Why somebody may not answer this request, by the name that a trusted binding gives the key; empty if they may."""
    if name == request.question.agent or name in request.agents:
        return f"{name} is the agent that asks, or passed its authority on to it: never by the requester"
    if key in request.keys:
        return "the key signs or holds an artifact of this very call"
    if request.initiator is not None and name == request.initiator.get("id") and not rule.initiator:
        return f"{name} is the initiator, on whose behalf is asked (the rule would have to say `initiator: accepted`)"
    if rule.by is not None and name not in rule.by:
        return f"the rule names {', '.join(rule.by) or 'nobody'}"
    return ""


def judge(request: Request, answers: Mapping[str, str], rule: Rule, trust: Approvers, now: int) -> Answer | None:
    """What the answers come to: approved by enough, denied by one, or None as long as that is open.

    answers   thumbprint of a key -> the answer filed under it
    rule      of the policy in force. A request that was put under other terms counts for nothing
    now       seconds

    One denial by somebody who may answer denies, whatever others say. Nobody counts twice, neither by two keys nor by two names.
    """
    if Terms.of_rule(rule) != request.terms or not request.asked - SKEW <= now < request.expires <= request.asked + rule.expires:
        return None
    counted = [one for one in (weigh(request, key, text, rule, trust, now) for key, text in answers.items()) if not one.why_not]
    against = sorted({one.name for one in counted if one.verdict == "deny"})
    if against:
        return Answer(request.id, False, tuple(against))
    names = sorted({one.name for one in counted})
    return Answer(request.id, True, tuple(names)) if len(names) >= max(rule.of, 1) else None


def _opened(text: str, typ: str, key: PublicKey, limit: int, unsigned: str) -> tuple[Token, dict[str, Any]]:
    """Caps, then the signature, then a strict parse (DESIGN §4)."""
    if len(text) > limit:
        raise InvalidInput(f"it is longer than {limit} bytes")
    token = Token(text)
    read_header(token.header, typ, understand=False)
    if not token.signed_by(key):
        raise InvalidInput(unsigned)
    body = parse(token.payload)
    if type(body) is not dict:
        raise InvalidInput("its claims are not an object")
    return token, body


def _converted(body: dict[str, Any], kind: type[_Kind]) -> _Kind:
    try:
        return msgspec.convert(body, kind)
    except (msgspec.ValidationError, ValueError) as error:
        raise InvalidInput(f"its claims are not as they must be: {error}") from None
