"""Signing tokens for tests, right and wrong. Nothing here checks anything."""

from __future__ import annotations

import functools
import hashlib
import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from . import canon, keys

HEADER = {"alg": "Ed25519", "typ": "aat+jwt"}
PROFILE_HEADER = {**HEADER, "crit": ["agentguard"], "agentguard": 1}
PROOF_HEADER = {"alg": "Ed25519", "typ": "aat-pop+jwt"}


@functools.cache
def private_key(name: str) -> Ed25519PrivateKey:
    """A key that is the same in every run: its seed is the hash of a name."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"second evaluator, key " + name.encode()).digest())


@functools.cache
def public_key(name: str) -> bytes:
    """The raw public key of ``private_key(name)``."""
    return private_key(name).public_key().public_bytes_raw()


@functools.cache
def thumbprint(name: str) -> str:
    return keys.thumbprint(public_key(name))


def jwk(name: str) -> dict[str, str]:
    return keys.jwk_of(public_key(name))


def compact(header: bytes, payload: bytes, signer: str) -> str:
    """A compact JWS over exactly these bytes, signed by the named key."""
    signing_input = f"{keys.b64(header)}.{keys.b64(payload)}"
    return f"{signing_input}.{keys.b64(private_key(signer).sign(signing_input.encode()))}"


def token(header: dict[str, Any], claims: dict[str, Any], signer: str) -> str:
    """A JWS of JSON objects."""
    return compact(json.dumps(header, separators=(",", ":")).encode(), _payload(claims), signer)


def _payload(claims: dict[str, Any]) -> bytes:
    """Compact JSON; a float that is whole is written with ``.0``, as Python does, so that tests can write such dates."""
    return json.dumps(claims, separators=(",", ":"), ensure_ascii=False, sort_keys=True).encode()


def signing_hash(compact_token: str) -> bytes:
    """SHA-256 of the signing input: ``par_hash``, ``aat_hash``, the key of a revocation."""
    return hashlib.sha256(compact_token.rpartition(".")[0].encode()).digest()


def details(tools: dict[str, Any] | None) -> list[dict[str, Any]]:
    """``authorization_details`` with one entry, or none for ``None``."""
    return [] if tools is None else [{"type": "attenuating_agent_token", "tools": tools}]


def root_claims(holder: str, tools: dict[str, Any] | None, *, iat: int, exp: int, iss: str, jti: str, max_depth: int = 8) -> dict[str, Any]:
    """The claims of a plain root."""
    return {
        "jti": jti, "iss": iss, "iat": iat, "exp": exp, "del_depth": 0, "del_max_depth": max_depth,
        "cnf": {"jwk": jwk(holder)}, "authorization_details": details(tools),
    }  # fmt: skip


def child_claims(
    parent: str,
    parent_holder: str,
    holder: str,
    tools: dict[str, Any] | None,
    *,
    iat: int,
    exp: int,
    jti: str,
    depth: int,
    max_depth: int = 8,
) -> dict[str, Any]:
    """The claims of a plain child of the token ``parent``."""
    return {
        "jti": jti, "iss": keys.THUMBPRINT_URI + thumbprint(parent_holder), "iat": iat, "exp": exp, "del_depth": depth,
        "del_max_depth": max_depth, "par_hash": keys.b64(signing_hash(parent)), "cnf": {"jwk": jwk(holder)},
        "authorization_details": details(tools),
    }  # fmt: skip


def proof_claims(leaf: str, leaf_jti: str, tool: str, arguments: dict[str, Any], *, iat: int, audience: str | None) -> dict[str, Any]:
    """The claims of a proof of possession for one call."""
    claims = {
        "jti": "proof-1", "iat": iat, "aat_id": leaf_jti, "aat_hash": keys.b64(signing_hash(leaf)), "aat_tool": tool, "hta": arguments,
    }  # fmt: skip
    return claims if audience is None else {**claims, "aat_aud": audience}


def proof(claims: dict[str, Any], signer: str, header: dict[str, Any] = PROOF_HEADER) -> str:
    """A signed proof; its payload is JCS, as the draft asks of producers, unless JCS can't write it."""
    try:
        payload = canon.jcs(claims)
    except canon.NotJson:
        payload = _payload(claims)
    return compact(json.dumps(header, separators=(",", ":")).encode(), payload, signer)
