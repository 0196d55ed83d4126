"""Whom a home believes and whose keys it holds, without opening its log or its state: what commands that only look need."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agentguard.canonical import b64url_decode, parse
from agentguard.cli.inputs import existing_home
from agentguard.errors import InvalidInput
from agentguard.keys import KeyRing, LocalKey, PublicKey

if TYPE_CHECKING:
    from agentguard.home import Trust
    from agentguard.policy.model import Policy


def ring_of(home: Path) -> KeyRing:
    """The key ring of an existing home."""
    return KeyRing(home / "keys")


def trust_of(home: Path, file: Path | None = None) -> Trust:
    """The anchors of a home: its own issuer, and those of its trust file, or of `file` instead. Raises InvalidInput."""
    from agentguard.artifacts.link import Anchor
    from agentguard.home import Trust

    issuer = ring_of(home).issuer().public
    if file is not None and not file.exists():
        raise InvalidInput("cannot be read: no such file", place=str(file))
    return Trust.load(file or home / "trust.json", Anchor(issuer.uri, issuer))


def policy_of(home: Path, file: Path) -> Policy:
    """The policy in a file, or in a signed bundle that this home believes. Raises InvalidInput."""
    from agentguard.bundle import read_bundle
    from agentguard.snapshot import given_by

    given = given_by(file)
    return read_bundle(given, trust_of(existing_home(home)), place=str(file)).policy if isinstance(given, bytes) else given


def foreign_trust(file: Path) -> Trust:
    """The anchors of a trust file alone, for a verifier that has no home. Raises InvalidInput."""
    from agentguard.home import Trust

    nobody = LocalKey.generate().public  # a throw-away anchor under which nothing was ever signed
    from agentguard.artifacts.link import Anchor

    if not file.exists():
        raise InvalidInput("cannot be read: no such file", place=str(file))
    return Trust.load(file, Anchor(nobody.uri, nobody))


def holder_of(keys: KeyRing, tokens: Sequence[str]) -> LocalKey | None:
    """The private key of the leaf's holder, where this ring has it. The guard compares it with the verified chain once more."""
    try:
        claims = parse(b64url_decode(tokens[-1].split(".")[1]), max_depth=256)
        agent = keys.agent_of(PublicKey.from_jwk(claims["cnf"]["jwk"]).thumbprint())
    except (InvalidInput, LookupError, TypeError, AttributeError):
        return None
    return keys.holder(agent) if agent is not None else None
