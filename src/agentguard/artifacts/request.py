"""`artifact verify --request -`: one JSON request a line, one verdict a line (DESIGN §12).

The draft's algorithm and nothing else: plain chains, no `crit` understood, the draft's order with the clock, every request on its own.
`answer` is total: whatever the line, it gives a verdict, and DENY unless every step passed.

Requests that are not of the form have the step "0" and the code `malformed_call`. Of steps 6 and 7 the order is 6a, 7a, 7b, 6b, 6c, 7c–7i:
the draft asks for the proof's signature before constraints are evaluated (§8, notes).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, Final

from agentguard.artifacts.chain import VerifiedChain, check_audience, check_scope, walk
from agentguard.artifacts.link import DEFAULT_LIMITS, Anchor, ChainError, Limits, TrustAnchors
from agentguard.artifacts.proof import check_proof, open_proof
from agentguard.canonical import parse
from agentguard.constraints.tokens import admissible
from agentguard.decision import Code
from agentguard.errors import InvalidInput
from agentguard.keys import PublicKey

#: Nesting of a request, arguments included. Deeper ones are malformed, so that no later step can run out of stack.
MAX_DEPTH: Final = 128
#: A chain, a proof and arguments fit well; beyond it nothing is read.
MAX_LINE: Final = 4 * 2**20

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})
_POLICY_MEMBERS: Final = frozenset({"audience", "require_pop_aud", "require_chain_aud", "nonce", "track_jti"})


@dataclass(frozen=True, slots=True)
class _Request:
    chain: tuple[str, ...]
    pop: str | None
    tool: str
    args: Mapping[str, Any]
    now: float
    anchors: TrustAnchors
    limits: Limits
    audience: tuple[str, ...]
    require_pop_aud: bool
    require_chain_aud: bool
    nonce: tuple[str, ...] | None
    seen: frozenset[str]


def answer(line: bytes | str) -> dict[str, str | None]:
    """Judge one request: `{verdict: "PERMIT", step: "8", code: None}`, or DENY with the step that failed and its code. Never raises."""
    try:
        request = _read(line)
    except InvalidInput:
        return {"verdict": "DENY", "step": "0", "code": str(Code.MALFORMED_CALL)}
    try:
        _verify(request)
    except ChainError as error:
        return {"verdict": "DENY", "step": error.step, "code": str(error.code)}
    return {"verdict": "PERMIT", "step": "8", "code": None}


def _verify(request: _Request) -> None:
    chain = walk(request.chain, request.anchors, request.limits, now=request.now, understand=False)  # 1-5
    leaf = chain.leaf
    index = len(chain.links) - 1
    if not leaf.entry:
        raise ChainError(Code.TOOL_NOT_IN_SCOPE, "6a", index, "the leaf has no entry that grants tools")
    if request.pop is None:
        raise ChainError(Code.PROOF_MISSING, "7a", index, "there is no proof of possession")
    claims = open_proof(request.pop, leaf, request.limits)  # 7a, 7b
    _scope(chain, request)  # 6b
    elsewhere = check_audience(chain, request.audience, require=request.require_chain_aud)  # 6c
    if elsewhere is not None:
        raise elsewhere
    check_proof(
        claims, leaf, request.tool, request.args, request.now,
        limits=request.limits, audience=request.audience, require_aud=request.require_pop_aud, nonce=request.nonce, seen=request.seen,
    )  # fmt: skip


def _scope(chain: VerifiedChain, request: _Request) -> None:
    failure = check_scope(chain, request.tool, request.args)
    if failure is None and not admissible(request.args):
        failure = ChainError(Code.ARGUMENT_NOT_IN_SCOPE, "6b", len(chain.links) - 1, "an argument holds what JSON cannot carry exactly")
    if failure is not None:
        raise failure


def _read(line: bytes | str) -> _Request:
    """The request, or InvalidInput. Members that are not known are ignored at the top, and refused where they could be requirements."""
    if len(line) > MAX_LINE:
        raise InvalidInput(f"the request is longer than {MAX_LINE} bytes")
    body = parse(line, max_depth=MAX_DEPTH)
    if type(body) is not dict:
        raise InvalidInput("a request is an object")
    chain, pop, tool, args, now = (body.get(name) for name in ("chain", "pop", "tool", "args", "now"))
    if type(chain) is not list or any(type(token) is not str for token in chain):
        raise InvalidInput("chain must be an array of strings")
    if pop is not None and type(pop) is not str:
        raise InvalidInput("pop must be a string")
    if type(tool) is not str:
        raise InvalidInput("tool must be a string")
    if type(args) is not dict:
        raise InvalidInput("args must be an object")
    if (type(now) is not int and type(now) is not float) or not math.isfinite(now):
        raise InvalidInput("now must be a number of seconds")
    policy = _members(body, "policy", _POLICY_MEMBERS)
    return _Request(
        chain=tuple(chain),
        pop=pop,
        tool=tool,
        args=args,
        now=now,
        anchors=_anchors(body.get("trust_anchors")),
        limits=_limits(body),
        audience=_strings(policy, "audience") or (),
        require_pop_aud=_switch(policy, "require_pop_aud"),
        require_chain_aud=_switch(policy, "require_chain_aud"),
        nonce=_nonce(policy),
        seen=frozenset(() if type(policy.get("track_jti")) is bool else _strings(policy, "track_jti") or ()),
    )


def _members(body: Mapping[str, Any], name: str, known: frozenset[str]) -> Mapping[str, Any]:
    value = body.get(name)
    if value is None:
        return _NOTHING
    if type(value) is not dict or not known >= value.keys():
        raise InvalidInput(f"{name} must be an object with members among {', '.join(sorted(known))}")
    return value


def _anchors(value: Any) -> TrustAnchors:
    if type(value) is not list:
        raise InvalidInput("trust_anchors must be an array")
    anchors: list[Anchor] = []
    for item in value:
        if type(item) is not dict or type(item.get("iss")) is not str or type(item.get("jwk")) is not dict:
            raise InvalidInput("a trust anchor has the members iss and jwk")
        try:
            anchors.append(Anchor(item["iss"], PublicKey.from_jwk(item["jwk"])))
        except InvalidInput:
            continue  # a key of another algorithm, or one that is not sound, vouches for nothing
    return TrustAnchors(anchors)


def _limits(body: Mapping[str, Any]) -> Limits:
    names = frozenset(field.name for field in fields(Limits))
    given = {name: value for name, value in _members(body, "limits", names).items() if value is not None}
    if any(type(value) is not int or value < 0 for value in given.values()):
        raise InvalidInput("limits are non-negative integers")
    return Limits(**given) if given else DEFAULT_LIMITS


def _strings(policy: Mapping[str, Any], name: str) -> tuple[str, ...] | None:
    value = policy.get(name)
    if value is None:
        return None
    if type(value) is str:
        return (value,)
    if type(value) is list and all(type(item) is str for item in value):
        return tuple(value)
    raise InvalidInput(f"policy.{name} must be a string or an array of strings")


def _nonce(policy: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The accepted nonces. `true` requires one though none was issued, so nothing can meet it."""
    value = policy.get("nonce")
    if type(value) is bool:
        return () if value else None
    return _strings(policy, "nonce")


def _switch(policy: Mapping[str, Any], name: str) -> bool:
    value = policy.get(name)
    if value is not None and type(value) is not bool:
        raise InvalidInput(f"policy.{name} must be true or false")
    return value is True
