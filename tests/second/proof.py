"""The proof-of-possession JWT: draft section 7.2 and step 7 of section 8, without nonces and without a ``jti`` store."""

from __future__ import annotations

from typing import Any

from . import canon, keys
from .outcome import Deny
from .tokens import Link, is_date, is_profile, parsed_claims, split

WINDOW = 30


def _invalid(step: str, why: str) -> Deny:
    return Deny("proof_invalid", 9, step, why)


def check_proof(
    proof: str, leaf: Link, tool: str, presented: dict[str, Any], now: int, *, audience: str | None, audience_required: bool
) -> None:
    """Raises ``Deny(proof_invalid)``. ``presented`` are the arguments as presented; ``now`` is in seconds."""
    try:
        raw = split(proof, "7a")
        if is_profile(raw.header, "aat-pop+jwt", "7a"):
            raise _invalid("7a", "no crit is understood in a proof")
        if not keys.verifies(leaf.holder, raw.signature, raw.signing_input):
            raise _invalid("7b", "not signed by the leaf's holder")
        claims = parsed_claims(raw, "7b")
    except Deny as deny:
        raise _invalid(deny.step, deny.why) from deny
    if not all(isinstance(claims.get(name), str) and claims[name] for name in ("jti", "aat_id", "aat_hash", "aat_tool")):
        raise _invalid("7c", "a claim is missing")
    if not is_date(claims.get("iat")) or not isinstance(claims.get("hta"), dict):
        raise _invalid("7c", "iat or hta")
    if claims["aat_id"] != leaf.claims["jti"] or claims["aat_hash"] != keys.b64(leaf.raw.hash):
        raise _invalid("7c", "proof of another leaf")
    if "aat_aud" in claims and (audience is None or claims["aat_aud"] != audience):
        raise _invalid("7d", "aat_aud names another party")
    if "aat_aud" not in claims and audience_required:
        raise _invalid("7d", "aat_aud is required")
    if claims["aat_tool"] != tool:
        raise _invalid("7e", "proof for another tool")
    try:
        equal = canon.same(claims["hta"], presented)
    except canon.NotJson as error:
        raise _invalid("7f", str(error)) from error
    if not equal:
        raise _invalid("7f", "proof for other arguments")
    if abs(claims["iat"] - now) > WINDOW:
        raise _invalid("7g", "outside the window")
