"""Proof of possession: the holder of a leaf signs the very call it makes (AAT -02 §7, §8 step 7)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from agentguard.artifacts.jws import PROOF_TYPE, Token, read_header, sign
from agentguard.artifacts.link import DEFAULT_LIMITS, MAX_CLAIM_DEPTH, ChainError, Limits, Link
from agentguard.artifacts.making import new_id
from agentguard.canonical import Frozen, jcs, parse
from agentguard.decision import Code
from agentguard.errors import InvalidInput
from agentguard.keys import Signer

_NAMED = ("jti", "aat_id", "aat_hash", "aat_tool")


@dataclass(frozen=True, slots=True)
class Proof:
    """A proof that verified: its id, to be accepted once, and when it was made (seconds)."""

    jti: str
    iat: int


def make_proof(
    signer: Signer,
    leaf: Link,
    tool: str,
    arguments: Mapping[str, Frozen],
    now: int,
    *,
    aud: str | None = None,
    nonce: str | None = None,
    jti: str | None = None,
) -> str:
    """The PoP JWT for one call of `tool` with `arguments` as presented, in compact form.

    now    seconds
    aud    the enforcement point it is handed to; left out where a proxy in between may forward it unchanged
    nonce  the value that the enforcement point asked for

    Raises InvalidInput if `signer` does not hold the leaf, or if the arguments have no JCS form.
    """
    if signer.public != leaf.holder:
        raise InvalidInput("only the leaf's holder can prove possession of it")
    claims: dict[str, Any] = {
        "jti": jti or new_id(now),
        "iat": now,
        "aat_id": leaf.jti,
        "aat_hash": leaf.par_hash,
        "aat_tool": tool,
        "hta": arguments,
    }
    if aud is not None:
        claims["aat_aud"] = aud
    if nonce is not None:
        claims["nonce"] = nonce
    return sign(PROOF_TYPE, claims, signer)


def verify_proof(
    token: str,
    leaf: Link,
    tool: str,
    arguments: Mapping[str, Frozen],
    now: float,
    *,
    limits: Limits = DEFAULT_LIMITS,
    audience: Collection[str] = (),
    require_aud: bool = False,
    nonce: Collection[str] | None = None,
    seen: Collection[str] = (),
) -> Proof:
    """Step 7 for one call: `tool` with `arguments` as presented, at `now` (seconds). Raises ChainError, code `proof_invalid`.

    audience  the names under which this enforcement point is known; a proof that names another is refused
    nonce     the values that are accepted; None if none is required
    seen      ids of proofs that were accepted before (7i); a guard leaves that to admission, which is atomic
    """
    claims = open_proof(token, leaf, limits)
    return check_proof(
        claims, leaf, tool, arguments, now, limits=limits, audience=audience, require_aud=require_aud, nonce=nonce, seen=seen
    )  # fmt: skip


def open_proof(token: str, leaf: Link, limits: Limits) -> Mapping[str, Any]:
    """Steps 7a and 7b: the claims that the leaf's holder signed."""
    link = leaf.depth
    if len(token) > limits.max_token_size:
        raise _refused("7a", link, f"the proof is longer than {limits.max_token_size} bytes")
    try:
        proof = Token(token)
        read_header(proof.header, PROOF_TYPE, understand=False)
    except InvalidInput as error:
        raise _refused("7a", link, f"protected header: {error}") from None
    if not proof.signed_by(leaf.holder):
        raise _refused("7b", link, "the leaf's holder did not sign this proof")
    try:
        claims = parse(proof.payload, max_depth=MAX_CLAIM_DEPTH)
    except InvalidInput as error:
        raise _refused("7b", link, f"claims: {error}") from None
    if type(claims) is not dict:
        raise _refused("7b", link, "the claims are not an object")
    return claims


def check_proof(
    claims: Mapping[str, Any],
    leaf: Link,
    tool: str,
    arguments: Mapping[str, Frozen],
    now: float,
    *,
    limits: Limits,
    audience: Collection[str],
    require_aud: bool,
    nonce: Collection[str] | None,
    seen: Collection[str],
) -> Proof:
    """Steps 7c to 7i over the claims of an opened proof."""
    link = leaf.depth
    iat, hta = claims.get("iat"), claims.get("hta")
    for name in _NAMED:
        if type(claims.get(name)) is not str or not claims[name]:
            raise _refused("7c", link, f"{name} must be a non-empty string")
    if type(iat) is not int or iat < 0:
        raise _refused("7c", link, "iat must be whole seconds, written without fraction or exponent")
    if type(hta) is not dict:
        raise _refused("7c", link, "hta must be an object")
    if claims["aat_id"] != leaf.jti or claims["aat_hash"] != leaf.par_hash:
        raise _refused("7c", link, "the proof is for another artifact")
    _check_audience(claims, link, audience, require_aud)
    if claims["aat_tool"] != tool:
        raise _refused("7e", link, "the proof is for another tool")
    if not _same(hta, arguments):
        raise _refused("7f", link, "the proof is for other arguments")
    if not abs(iat - now) <= limits.pop_window:
        raise _refused("7g", link, f"iat is more than {limits.pop_window} seconds from now")
    if nonce is not None:
        accepted = (nonce,) if isinstance(nonce, str) else nonce
        given = claims.get("nonce")
        if type(given) is not str or given not in accepted:
            raise _refused("7h", link, "the nonce is missing, or not one that is accepted here")
    if claims["jti"] in seen:
        raise _refused("7i", link, "the proof was used before")
    return Proof(claims["jti"], iat)


def _check_audience(claims: Mapping[str, Any], link: int, audience: Collection[str], required: bool) -> None:
    if "aat_aud" in claims:
        mine = (audience,) if isinstance(audience, str) else audience  # `in` would find parts of a string
        aud = claims["aat_aud"]
        if type(aud) is not str or aud not in mine:
            raise _refused("7d", link, "the proof is for another enforcement point")
    elif required:
        raise _refused("7d", link, "the proof names no enforcement point")


def _same(hta: Mapping[str, Any], arguments: Mapping[str, Frozen]) -> bool:
    try:
        return jcs(hta) == jcs(arguments)
    except InvalidInput:
        return False


def _refused(step: str, link: int, message: str) -> ChainError:
    return ChainError(Code.PROOF_INVALID, step, link, message)


def proof_id(token: str) -> str:
    """The `jti` of a proof that verified, to be accepted once. Judges nothing itself."""
    return str(parse(Token(token).payload, max_depth=MAX_CLAIM_DEPTH)["jti"])
