"""base64url, Ed25519 public keys and signatures, JWK thumbprints.

Sources: RFC 7515, RFC 8032, RFC 7638, RFC 9278. Small-order and non-canonical keys are refused (DESIGN section 4).
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

THUMBPRINT_URI = "urn:ietf:params:oauth:jwk-thumbprint:sha-256:"

_P = 2**255 - 19
_D = -121665 * pow(121666, -1, _P) % _P
_ROOT = pow(2, (_P - 1) // 4, _P)

_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})

Point = tuple[int, int]


class BadKey(ValueError):
    """Not an acceptable Ed25519 public key."""


def b64(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def unb64(text: str) -> bytes:
    """The bytes of a canonical base64url text. Raises ``ValueError`` for padding, foreign characters and stray bits."""
    data = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if b64(data) != text:
        raise ValueError("base64url is not canonical")
    return data


def _add(a: Point, b: Point) -> Point:
    (x1, y1), (x2, y2) = a, b
    t = _D * x1 * x2 * y1 * y2 % _P
    x = (x1 * y2 + x2 * y1) * pow(1 + t, -1, _P)
    y = (y1 * y2 + x1 * x2) * pow(1 - t, -1, _P)
    return x % _P, y % _P


def _point(raw: bytes) -> Point:
    """RFC 8032 section 5.1.3, strict."""
    number = int.from_bytes(raw, "little")
    sign, y = number >> 255, number & (2**255 - 1)
    if y >= _P:
        raise BadKey("y is not reduced")
    square = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    x = pow(square, (_P + 3) // 8, _P)
    if (x * x - square) % _P:
        x = x * _ROOT % _P
    if (x * x - square) % _P:
        raise BadKey("not on the curve")
    if x == 0 and sign:
        raise BadKey("negative zero")
    return (_P - x if x % 2 != sign else x), y


def require_good_key(raw: bytes) -> None:
    """Raises ``BadKey`` for a key that is no point, not canonical, or of small order."""
    if len(raw) != 32:
        raise BadKey("not 32 bytes")
    point = _point(raw)
    for _ in range(3):
        point = _add(point, point)
    if point == (0, 1):
        raise BadKey("small order")


def public_key(jwk: Any) -> bytes:
    """The raw key of a public Ed25519 JWK. Raises ``BadKey``."""
    if not isinstance(jwk, dict):
        raise BadKey("jwk is not an object")
    if _PRIVATE & jwk.keys():
        raise BadKey("jwk holds private parameters")
    if jwk.get("kty") != "OKP" or jwk.get("crv") != "Ed25519" or not isinstance(jwk.get("x"), str):
        raise BadKey("jwk is not an Ed25519 key")
    try:
        raw = unb64(jwk["x"])
    except ValueError as error:
        raise BadKey(str(error)) from error
    require_good_key(raw)
    return raw


def verifies(raw: bytes, signature: bytes, message: bytes) -> bool:
    """Is this the signature of the message under the key?"""
    try:
        Ed25519PublicKey.from_public_bytes(raw).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def jwk_of(raw: bytes) -> dict[str, str]:
    """The public JWK of a raw key."""
    return {"kty": "OKP", "crv": "Ed25519", "x": b64(raw)}


def thumbprint(raw: bytes) -> str:
    """RFC 7638: base64url SHA-256 of the JWK's required members in lexical order."""
    text = json.dumps({"crv": "Ed25519", "kty": "OKP", "x": b64(raw)}, separators=(",", ":"))
    return b64(hashlib.sha256(text.encode("ascii")).digest())


def thumbprint_uri(raw: bytes) -> str:
    """RFC 9278."""
    return THUMBPRINT_URI + thumbprint(raw)
