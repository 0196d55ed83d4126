"""One token: compact JWS, its header, its claims, its tools, and the profile's claim object.

Sources: draft sections 3.2, 3.3, 3.5 and the steps of section 8; DESIGN section 4.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any

from . import canon, keys
from .constraints import BadConstraint, Constraint, require_map_well_formed
from .outcome import Deny

MAX_DELEGATION_DEPTH = 16
PROFILE = "agentguard"
AAT = "attenuating_agent_token"

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]*")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

Tools = dict[str, dict[str, Constraint]]


@dataclass(frozen=True)
class Raw:
    """A token split into its parts; nothing is verified yet."""

    signing_input: bytes
    header: dict[str, Any]
    payload: bytes
    signature: bytes

    @property
    def hash(self) -> bytes:
        return hashlib.sha256(self.signing_input).digest()


@dataclass(frozen=True)
class Profile:
    """The claim object ``agentguard``."""

    agent: str
    initiator: dict[str, Any] | None
    task: str | None
    policy: str | None
    env: dict[str, Constraint]
    nbf: int | None


@dataclass(frozen=True)
class Link:
    """A token whose signature holds and whose claims are well-formed. ``tools`` is ``None`` where it has no entry."""

    raw: Raw
    claims: dict[str, Any]
    holder: bytes
    tools: Tools | None
    profile: Profile | None

    @property
    def thumbprint(self) -> str:
        return keys.thumbprint(self.holder)

    @property
    def not_before(self) -> int:
        own = self.profile.nbf if self.profile else None
        return int(self.claims["iat"] if own is None else own)


def malformed(step: str, why: str) -> Deny:
    return Deny("artifact_malformed", 2, step, why)


def split(token: Any, step: str) -> Raw:
    """Take a compact JWS apart. Raises ``Deny(artifact_malformed)``."""
    if not isinstance(token, str) or token.count(".") != 2:
        raise malformed(step, "not a compact JWS")
    try:
        header_text, payload_text, signature_text = token.split(".")
        header = canon.parse(keys.unb64(header_text))
        raw = Raw(token.rpartition(".")[0].encode("ascii"), header, keys.unb64(payload_text), keys.unb64(signature_text))
    except ValueError as error:
        raise malformed(step, str(error)) from error
    if not isinstance(header, dict):
        raise malformed(step, "header is not an object")
    return raw


def is_profile(header: dict[str, Any], typ: str, step: str) -> bool:
    """Steps 3a and 4a: ``alg``, ``typ`` and ``crit``. Returns whether the token is of our profile."""
    if header.get("alg") != "Ed25519" or header.get("typ") != typ:
        raise malformed(step, "alg or typ")
    if "crit" not in header:
        return False
    version = header.get(PROFILE)
    if header["crit"] != [PROFILE] or not canon.is_integer(version) or version != 1:
        raise malformed(step, "crit lists what is not understood")
    return True


def parsed_claims(raw: Raw, step: str) -> dict[str, Any]:
    """The claims, after the signature was found good."""
    try:
        claims = canon.parse(raw.payload)
    except canon.NotJson as error:
        raise malformed(step, str(error)) from error
    if not isinstance(claims, dict):
        raise malformed(step, "claims are not an object")
    return claims


def is_date(value: Any) -> bool:
    return canon.is_integer(value) and value >= 0


def is_uri(value: Any) -> bool:
    return isinstance(value, str) and _URI.fullmatch(value) is not None


def holder_key(claims: dict[str, Any], step: str) -> bytes:
    """Steps 3l and 4b2."""
    cnf = claims.get("cnf")
    if not isinstance(cnf, dict):
        raise malformed(step, "cnf")
    try:
        return keys.public_key(cnf.get("jwk"))
    except keys.BadKey as error:
        raise malformed(step, str(error)) from error


def audiences(claims: dict[str, Any]) -> list[str] | None:
    """The values of ``aud``, ``None`` where there is none. Raises for anything but a string or strings."""
    if "aud" not in claims:
        return None
    values = [claims["aud"]] if isinstance(claims["aud"], str) else claims["aud"]
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise malformed("6c", "aud")
    return values


def tools_of(claims: dict[str, Any], *, root: bool, extensions: bool) -> Tools | None:
    """Steps 3m, 3n (root) or 4n, 4o (child): the tools map, ``None`` where a child has no AAT entry."""
    step, step_constraints = ("3m", "3n") if root else ("4n", "4o")
    details = claims.get("authorization_details")
    if not isinstance(details, list) or not all(isinstance(entry, dict) for entry in details):
        raise malformed(step, "authorization_details")
    entries = [entry for entry in details if entry.get("type") == AAT]
    if len(entries) > 1 or (root and not entries):
        raise malformed(step, "not exactly one AAT entry")
    if not entries:
        return None
    tools = entries[0].get("tools")
    if not isinstance(tools, dict) or not all(isinstance(entry, dict) for entry in tools.values()):
        raise malformed(step, "tools")
    for entry in tools.values():
        try:
            require_map_well_formed(entry, extensions=extensions)
        except BadConstraint as error:
            raise malformed(step_constraints, str(error)) from error
    return tools


def profile_of(claims: dict[str, Any], *, root: bool) -> Profile:
    """DESIGN section 4, the table of members. ``initiator`` and ``task`` belong to the root alone."""
    claim = claims.get(PROFILE)
    if not isinstance(claim, dict) or not claim.keys() <= {"agent", "initiator", "task", "policy", "env", "nbf", "uses"}:
        raise malformed("profile", "claim object")
    if not root and claim.keys() & {"initiator", "task"}:
        raise Deny("delegation_invalid", 2, "profile", "initiator and task are the root's")
    if not _is_name(claim.get("agent")) or (root and not _is_name(claim.get("task"))):
        raise malformed("profile", "agent or task")
    if root:
        _require_initiator(claim.get("initiator"))
    policy = claim.get("policy")
    if "policy" in claim and (not isinstance(policy, str) or not _DIGEST.fullmatch(policy)):
        raise malformed("profile", "policy")
    if "nbf" in claim and not is_date(claim["nbf"]):
        raise malformed("profile", "nbf")
    if "uses" in claim:
        _require_uses(claim["uses"])
    env = claim.get("env", {})
    try:
        require_map_well_formed(env, extensions=True)
    except BadConstraint as error:
        raise malformed("profile", f"env: {error}") from error
    return Profile(claim["agent"], claim.get("initiator"), claim.get("task"), policy, env, claim.get("nbf"))


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _require_initiator(initiator: Any) -> None:
    if not isinstance(initiator, dict) or not initiator.keys() <= {"id", "method", "evidence"}:
        raise malformed("profile", "initiator")
    if not _is_name(initiator.get("id")) or not _is_name(initiator.get("method")):
        raise malformed("profile", "initiator id or method")
    if not isinstance(initiator.get("evidence"), (str, type(None))):
        raise malformed("profile", "initiator evidence")


def _require_uses(uses: Any) -> None:
    if not isinstance(uses, dict) or uses.keys() != {"limit", "domain"} or not _is_name(uses["domain"]):
        raise malformed("profile", "uses")
    if not canon.is_integer(uses["limit"]) or uses["limit"] < 1:
        raise malformed("profile", "uses limit")
