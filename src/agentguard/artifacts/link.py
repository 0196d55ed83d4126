"""What a chain is made of: limits, trust anchors, links, and the error that says where one fails.

Format: AAT -02, plain or with our profile (DESIGN §4); docs/profile.md names the draft and every difference.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from agentguard.canonical import b64url_decode, jcs, parse
from agentguard.constraints.tokens import Entry, ToolMap
from agentguard.decision import Code, Reason
from agentguard.errors import InvalidInput
from agentguard.keys import PublicKey

#: Nesting of a token's claims. Deeper than any constraint tree that the limits allow, shallow enough for every later recursion.
MAX_CLAIM_DEPTH: Final = 256


@dataclass(frozen=True, slots=True)
class Limits:
    """Finite bounds of the verifier (AAT -02 §3.4, §4.3, §4.4, §9.10): bytes, counts and seconds."""

    max_token_size: int = 65_536
    max_chain_size: int = 262_144
    max_delegation_depth: int = 16
    max_constraint_depth: int = 32
    max_iat_skew: int = 30
    max_token_lifetime: int = 90 * 86_400
    pop_window: int = 30


DEFAULT_LIMITS: Final = Limits()


@dataclass(frozen=True, slots=True)
class Anchor:
    """Who may mint root artifacts: an issuer's URI and its key."""

    iss: str
    key: PublicKey


class TrustAnchors:
    """The anchors a verifier trusts. `digest` (32 bytes) names the set, whatever its order."""

    __slots__ = ("by_key", "digest")

    by_key: Mapping[PublicKey, frozenset[str]]
    digest: bytes

    def __init__(self, anchors: Iterable[Anchor]) -> None:
        issuers: dict[PublicKey, set[str]] = {}
        for anchor in anchors:
            issuers.setdefault(anchor.key, set()).add(anchor.iss)
        self.by_key = MappingProxyType({key: frozenset(names) for key, names in issuers.items()})
        named = sorted([key.thumbprint(), *sorted(names)] for key, names in issuers.items())
        self.digest = hashlib.sha256(jcs(named)).digest()


def word(text: str, limit: int = 64) -> str:
    """What somebody else wrote, fit for a message: printable ASCII, shortened."""
    text = text[: limit + 1]
    shown = text if text.isascii() and text.isprintable() else ascii(text)[1:-1]
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"


class ChainError(InvalidInput):
    """A chain or proof that is refused: `code` of DESIGN §7, `step` of the draft (or `profile.*`), index of the `link`, and what failed."""

    def __init__(self, code: Code, step: str, link: int, message: str, *, subject: str = "", required: str = "", found: str = "") -> None:
        self.code = code
        self.step = step
        self.link = link
        self.subject = subject
        self.required = required
        self.found = found
        super().__init__(message, place=f"link {link}, step {step}")

    def reason(self) -> Reason:
        """The same as a decision's typed reason."""
        return Reason(self.code, self.subject, self.required or self.message, self.found, self.place or "")


@dataclass(frozen=True, slots=True)
class Initiator:
    """On whose behalf a task runs. `evidence` is the digest (`sha256:<hex>`) of what proved it, or empty. `asserted` proves nothing."""

    id: str
    method: str = "asserted"
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class Uses:
    """At most `limit` calls, counted in the state store named `domain`."""

    limit: int
    domain: str


_NO_ENV: Final[Mapping[str, Entry]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Profile:
    """What one link says in its `agentguard` claim (DESIGN §4). `initiator` and `task` stand in the root only; `nbf` None means `iat`."""

    agent: str
    initiator: Initiator | None = None
    task: str | None = None
    policy: str | None = None
    env: Mapping[str, Entry] = field(default_factory=lambda: _NO_ENV)
    nbf: int | None = None
    uses: Uses | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Link:
    """One token that passed its steps, read once.

    token, hash   the exact compact JWS; lower-case hex SHA-256 of its signing input (`par_hash` is the same digest, base64url)
    nbf           seconds; `iat` unless the profile says otherwise
    signer        the key that signed: an anchor's for a root, else the holder of the link above
    tools         tool -> normalised argument map; `entry` is False where a token has no AAT entry at all
    aud           None without the claim; () where the claim is ill-typed and so names nobody
    profile       what this link says; None in a plain chain
    policy        digest of the policy that this link and those above it are bound to
    """

    token: str
    hash: str
    par_hash: str
    jti: str
    iss: str
    iat: int
    exp: int
    nbf: int
    signer: PublicKey
    holder: PublicKey
    tools: Mapping[str, ToolMap]
    entry: bool
    depth: int
    max_depth: int
    aud: tuple[str, ...] | None
    profile: Profile | None
    policy: str | None

    @property
    def claims(self) -> Mapping[str, Any]:
        """All claims of the payload, the ignored ones too. Parsed anew at each call, so the copy is the caller's."""
        return MappingProxyType(parse(b64url_decode(self.token.split(".")[1]), max_depth=MAX_CLAIM_DEPTH))
