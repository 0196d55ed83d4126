"""Who signs for a log: a name that never changes, and the keys that had or have the right to it.

The name is made from the log's first key and outlives it (rotation.py), so a witness that remembers the log goes on remembering it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from agentguard.canonical import b64url_decode
from agentguard.errors import InvalidInput
from agentguard.keys import PublicKey
from agentguard.log.checkpoint import parse_verifier_key, verifier_key

_NAME = re.compile(r"(agentguard/[0-9a-f]{16})(?:/[0-9a-f]{16})?")


def log_name(first: PublicKey) -> str:
    """The name of a log, given its first key: `agentguard/` and the first 8 bytes of the key's thumbprint in hexadecimal."""
    return f"agentguard/{b64url_decode(first.thumbprint())[:8].hex()}"


@dataclass(frozen=True, slots=True)
class LogKeys:
    """`name` is `agentguard/` and 16 hexadecimal digits; `keys` are oldest first and not empty. The last is in force."""

    name: str
    keys: tuple[PublicKey, ...]

    @classmethod
    def first(cls, public: PublicKey) -> LogKeys:
        """Of a log whose first and only key is `public`."""
        return cls(log_name(public), (public,))

    @property
    def current(self) -> PublicKey:
        """The key in force."""
        return self.keys[-1]

    def first_is(self, public: PublicKey) -> bool:
        """Whether the name is made from this key."""
        return self.name == log_name(public)

    def origin(self, shard: str) -> str:
        """The origin of a shard's checkpoints, and the name under which they are signed."""
        return f"{self.name}/{shard}"

    def verifier_key(self, shard: str | None = None) -> str:
        """The key in force as verifiers are configured with it: for all of the log, or for the checkpoints of one shard."""
        return verifier_key(self.name if shard is None else self.origin(shard), self.current)


def is_log_name(text: str) -> bool:
    """Whether `text` could name a log (not a shard of one)."""
    match = _NAME.fullmatch(text)
    return match is not None and match[0] == match[1]


def parse_log_key(text: str) -> LogKeys:
    """The log of a verifier key, as `agentguard log key` prints it, for the log or for one of its shards. Raises InvalidInput."""
    name, public = parse_verifier_key(text)
    match = _NAME.fullmatch(name)
    if match is None:
        raise InvalidInput(
            f"the key is named {name!r:.80}, which is no agentguard log", hint="`agentguard log key` prints the key of a log"
        )
    return LogKeys(match[1], (public,))
