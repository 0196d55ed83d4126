"""Compact JWS as AAT -02 §3.5 narrows it: one algorithm, exact types, strict base64url, signatures over the bytes received."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

from agentguard.artifacts.link import ChainError
from agentguard.canonical import b64url, b64url_decode, jcs, parse
from agentguard.decision import Code
from agentguard.errors import InvalidInput
from agentguard.keys import PublicKey, Signer

TOKEN_TYPE: Final = "aat+jwt"  # noqa: S105  # a media type, no secret
PROOF_TYPE: Final = "aat-pop+jwt"

#: Numbers are nobody's business before the signature holds, and `int` refuses very long ones: `len` gives an int for each.
_PEEK: Final = json.JSONDecoder(parse_int=len)


class Token:
    """The parts of a compact JWS, nothing verified. Raises InvalidInput unless it has three segments and a base64url payload.

    signing, digest   the signing input (ASCII), and its SHA-256
    """

    __slots__ = ("digest", "header", "payload", "signature", "signing", "text")

    def __init__(self, text: str) -> None:
        signing, _, self.signature = text.rpartition(".")
        self.header, dot, payload = signing.partition(".")
        if not text.isascii() or not dot or "." in payload:
            raise InvalidInput("not a compact JWS of three segments")
        self.payload = b64url_decode(payload)
        self.text = text
        self.signing = signing.encode("ascii")
        self.digest = hashlib.sha256(self.signing).digest()

    def signed_by(self, key: PublicKey) -> bool:
        """Whether `key` signed exactly these bytes."""
        try:
            return key.verify(b64url_decode(self.signature), self.signing)
        except InvalidInput:
            return False


def peek(token: Token, link: int) -> tuple[str, Any]:
    """The `jti` of a payload that nothing vouches for yet (step 2c), and its `iss`, which serves to word a refusal. Raises ChainError."""
    try:
        claims = _PEEK.decode(token.payload.decode("utf-8"))
    except (ValueError, RecursionError):
        claims = None
    if type(claims) is not dict or type(claims.get("jti")) is not str:
        raise ChainError(Code.ARTIFACT_MALFORMED, "2c", link, "the payload is not a JSON object with a string jti")
    return claims["jti"], claims.get("iss")


def encode_header(typ: str, *, profile: bool) -> str:
    """The protected header segment that we write."""
    members: dict[str, Any] = {"alg": "Ed25519", "typ": typ}
    if profile:
        members |= {"agentguard": 1, "crit": ["agentguard"]}
    return b64url(jcs(members))


#: Headers that need no parsing: nearly every token has exactly these bytes.
_KNOWN: Final = {
    (TOKEN_TYPE, encode_header(TOKEN_TYPE, profile=False)): False,
    (TOKEN_TYPE, encode_header(TOKEN_TYPE, profile=True)): True,
    (PROOF_TYPE, encode_header(PROOF_TYPE, profile=False)): False,
}


def read_header(segment: str, typ: str, *, understand: bool) -> bool:
    """Judge a protected header; True if it is our profile's. `understand` says whether `crit: ["agentguard"]` is known here.

    Parameters that name keys (`jwk`, `jku`, `x5c`, `x5u`, `kid`) and unknown ones count as absent. Raises InvalidInput.
    """
    profile = _KNOWN.get((typ, segment))
    if profile is not None and (understand or not profile):
        return profile
    header = parse(b64url_decode(segment))
    if type(header) is not dict:
        raise InvalidInput("the header is not an object")
    if header.get("alg") != "Ed25519":
        raise InvalidInput("alg must be Ed25519")
    if header.get("typ") != typ:
        raise InvalidInput(f"typ must be {typ}")
    if "crit" not in header:
        return False
    if not understand or typ != TOKEN_TYPE or header["crit"] != ["agentguard"]:
        raise InvalidInput("crit lists a header parameter that is not understood here")
    version = header.get("agentguard")
    if type(version) is not int or version != 1:
        raise InvalidInput("the header parameter agentguard must be 1")
    return True


def sign(typ: str, claims: dict[str, Any], signer: Signer, *, profile: bool = False) -> str:
    """A compact JWS over the JCS form of `claims`."""
    signing = f"{encode_header(typ, profile=profile)}.{b64url(jcs(claims))}"
    return f"{signing}.{b64url(signer.sign(signing.encode('ascii')))}"
