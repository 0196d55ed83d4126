"""A signed envelope around a document (DSSE v1): one signature by one key, in one form, so that no byte of a file can be changed.

    {"payload":"<base64>","payloadType":"application/vnd.in-toto+json","signatures":[{"keyid":"<thumbprint>","sig":"<base64>"}]}

The signature (Ed25519) is over `DSSEv1 <length> <type> <length> <payload>`, which no checkpoint, note or token begins with.
"""

from __future__ import annotations

from typing import Any, Final

from agentguard.canonical import jcs, parse
from agentguard.errors import InvalidInput
from agentguard.keys import PublicKey, Signer
from agentguard.log.checkpoint import from_base64, to_base64

IN_TOTO: Final = "application/vnd.in-toto+json"


class NotSigned(InvalidInput):
    """The envelope is whole, and not signed by the key that it was to be signed by."""


def seal(payload: bytes, signer: Signer) -> bytes:
    """The envelope around a payload, one line of JSON."""
    return _envelope(payload, signer.public, signer.sign(pre_authentication_encoding(payload)))


def unseal(data: bytes, public: PublicKey) -> bytes:
    """The payload of an envelope that `public` signed. Raises NotSigned if it did not, InvalidInput for what `seal` would not write."""
    payload, keyid, signature = _parts(data)
    if keyid != public.thumbprint() or not public.verify(signature, pre_authentication_encoding(payload)):
        raise NotSigned(f"the envelope is not signed by the key {public.thumbprint()[:12]}…")
    if _envelope(payload, public, signature) != data:
        raise InvalidInput("the envelope is not in its one form")
    return payload


def peek(data: bytes) -> bytes:
    """The payload of an envelope, whoever signed it: nothing of it may be believed. Raises InvalidInput."""
    return _parts(data)[0]


def _parts(data: bytes) -> tuple[bytes, Any, bytes]:
    """Payload, key id and signature, nothing verified. Raises InvalidInput."""
    body = parse(data)
    signatures = body.get("signatures") if type(body) is dict else None
    if type(body) is not dict or body.keys() != {"payload", "payloadType", "signatures"} or type(signatures) is not list:
        raise InvalidInput("not a DSSE envelope: it has the members payload, payloadType and signatures")
    if body["payloadType"] != IN_TOTO:
        raise InvalidInput(f"the payload's type must be {IN_TOTO}, found {body['payloadType']!r:.80}")
    if len(signatures) != 1 or type(signatures[0]) is not dict or signatures[0].keys() != {"keyid", "sig"}:
        raise InvalidInput("the envelope needs exactly one signature, with the members keyid and sig")
    return _decoded(body["payload"], "the payload"), signatures[0]["keyid"], _decoded(signatures[0]["sig"], "the signature")


def pre_authentication_encoding(payload: bytes) -> bytes:
    """The bytes that are signed."""
    return b"DSSEv1 %d %b %d %b" % (len(IN_TOTO), IN_TOTO.encode(), len(payload), payload)


def _envelope(payload: bytes, public: PublicKey, signature: bytes) -> bytes:
    signatures = [{"keyid": public.thumbprint(), "sig": to_base64(signature)}]
    return jcs({"payload": to_base64(payload), "payloadType": IN_TOTO, "signatures": signatures}) + b"\n"


def _decoded(text: Any, what: str) -> bytes:
    data = from_base64(text) if type(text) is str else None
    if data is None:
        raise InvalidInput(f"{what} of the envelope is not base64")
    return data
