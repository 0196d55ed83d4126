"""Cosignatures of witnesses on checkpoints (C2SP tlog-cosignature, `cosignature/v1` with Ed25519).

A witness says: at this time, this was the largest tree head of this log that I have seen, and it grew out of all that I saw before. The
signature line holds key id (4 bytes), seconds since 1970 (8 bytes, big-endian) and Ed25519 (64 bytes) over

    cosignature/v1
    time <seconds>
    <the checkpoint's text>

The message does not hold the witness's name, so a key must serve one name only.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final

from agentguard.errors import InvalidInput
from agentguard.keys import PublicKey, Signer
from agentguard.log.checkpoint import COSIGNATURE, Note, key_id, parse_verifier_key, to_base64, verifier_key

_STAMPED: Final = Struct(">Q64s")
_LATEST: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class WitnessKey:
    """A witness: its name and its public key."""

    name: str
    public: PublicKey

    @classmethod
    def parse(cls, text: str) -> WitnessKey:
        """From a verifier key of signature type 0x04. Raises InvalidInput."""
        return cls(*parse_verifier_key(text, COSIGNATURE))

    def verifier_key(self) -> str:
        """`name+key id+base64`, as others are configured with it."""
        return verifier_key(self.name, self.public, COSIGNATURE)

    @property
    def key_id(self) -> bytes:
        """SHA-256(name ‖ 0x0A ‖ 0x04 ‖ public key)[:4]."""
        return key_id(self.name, self.public, COSIGNATURE)


def cosign(text: str, signer: Signer, name: str, seconds: int) -> str:
    """The signature line, with its newline, over a checkpoint's text. `seconds` since 1970, above 0."""
    witness = WitnessKey(name, signer.public)
    stamped = _STAMPED.pack(seconds, signer.sign(_message(text, seconds)))
    return f"\u2014 {name} {to_base64(witness.key_id + stamped)}\n"


def cosigned_at(note: Note, witness: WitnessKey) -> int | None:
    """When the witness cosigned this checkpoint, in seconds since 1970 (the latest time, if it did so twice); None if it did not.

    Raises InvalidInput if a signature that claims to be its own is false. Whether the log signed the checkpoint is another question.
    """
    latest = None
    for item in note.signatures:
        if (item.name, item.key_id) != (witness.name, witness.key_id):
            continue
        if len(item.value) != _STAMPED.size:
            raise InvalidInput(f"the cosignature of {witness.name} has {len(item.value)} bytes, not {_STAMPED.size}")
        seconds, signature = _STAMPED.unpack(item.value)
        if not 0 < seconds <= _LATEST or not witness.public.verify(signature, _message(note.text, seconds)):
            raise InvalidInput(f"the cosignature of {witness.name} is invalid")
        latest = max(latest or 0, seconds)
    return latest


def _message(text: str, seconds: int) -> bytes:
    return f"cosignature/v1\ntime {seconds}\n{text}".encode()
