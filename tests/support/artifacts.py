"""Small chains for tests: fixed keys, one issuer, agents a0, a1, a2 …"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from agentguard.artifacts.chain import Anchor, TrustAnchors, VerifiedChain, verify_structure
from agentguard.artifacts.making import Initiator, Profile, derive, issue
from agentguard.constraints.tokens import ToolMap, parse_tool_map
from agentguard.keys import LocalKey

NOW = 1_800_000_000
ISS = "https://issuer.example"
POLICY = "sha256:" + "ab" * 32

TOOLS: dict[str, Any] = {
    "read_file": {"path": {"constraint_type": "one_of", "values": ["/data/a", "/data/b"]}},
    "search": {"query": {"constraint_type": "wildcard"}, "limit": {"constraint_type": "range", "min": 1, "max": 50, "optional": True}},
}


def key(name: str) -> LocalKey:
    """The key called `name`, the same on every run."""
    return LocalKey.from_seed(hashlib.sha256(name.encode()).digest())


ISSUER = key("issuer")
ANCHORS = TrustAnchors([Anchor(ISS, ISSUER.public)])


def tools(maps: Mapping[str, Any] = TOOLS, *, extensions: bool = True) -> dict[str, ToolMap]:
    return {name: parse_tool_map(arguments, extensions=extensions, max_depth=32) for name, arguments in maps.items()}


def profile(agent: str = "a0", **members: Any) -> Profile:
    """A root's profile; say `initiator=None, task=None` for a child's."""
    base = Profile(agent=agent, initiator=Initiator("user:alice"), task="t-1", policy=POLICY)
    return replace(base, **members)


def mint(maps: Mapping[str, Any] = TOOLS, *, plain: bool = False, holder: str = "a0", **changes: Any) -> str:
    """A root token for `holder`."""
    given: dict[str, Any] = {
        "signer": ISSUER,
        "iss": ISS,
        "holder": key(holder).public,
        "tools": tools(maps),
        "now": NOW,
        "ttl": 900,
        "max_depth": 16,
        "profile": None if plain else profile(holder),
    }
    return issue(**{**given, **changes})


def extend(chain: VerifiedChain, holder: str, maps: Mapping[str, Any] | None = None, **changes: Any) -> str:
    """A token under `chain` for `holder`, signed by the holder that `chain` names."""
    leaf = chain.leaf
    signer = next(candidate for candidate in map(key, _NAMES) if candidate.public == leaf.holder)
    given: dict[str, Any] = {
        "signer": signer,
        "holder": key(holder).public,
        "tools": leaf.tools if maps is None else tools(maps),
        "now": NOW,
        "profile": Profile(agent=holder) if chain.profile else None,
    }
    return derive(chain, **{**given, **changes})


_NAMES = [f"a{number}" for number in range(20)]


def verified(*tokens: str) -> VerifiedChain:
    return verify_structure(tokens, ANCHORS)


def chain_of(length: int, *, plain: bool = False) -> VerifiedChain:
    """A chain of `length` links, none narrower than the one above."""
    chain = verified(mint(plain=plain))
    for number in range(1, length):
        chain = verified(*chain.tokens, extend(chain, f"a{number}"))
    return chain
