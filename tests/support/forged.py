"""Forged tokens of our profile, and what the library says to them."""

from __future__ import annotations

from typing import Any

import pytest

from agentguard.artifacts.chain import Anchor, ChainError, PrefixCache, TrustAnchors, VerifiedChain, verify_structure
from agentguard.keys import PublicKey
from vectors.forge import ISSUER, PROFILE_HEADER, ROOT_KEY, Jws
from vectors.forge import child as any_child
from vectors.forge import root as any_root

ANCHORS = TrustAnchors([Anchor(ISSUER, PublicKey.from_raw(ROOT_KEY.raw))])
ROOT_CLAIM = {"agent": "alice", "initiator": {"id": "user:ann", "method": "asserted"}, "task": "t-1"}
ARGS = {"path": "/data/q3.pdf"}


def root(name: str = "root", **changes: Any) -> Jws:
    """A root of our profile."""
    return any_root(name, **{"header": PROFILE_HEADER, "agentguard": ROOT_CLAIM, **changes})


def child(parent: Jws, name: str = "child", **changes: Any) -> Jws:
    """A child of our profile."""
    return any_child(parent, name, **{"header": PROFILE_HEADER, "agentguard": {"agent": "bob"}, **changes})


def accepted(*tokens: Jws | str) -> VerifiedChain:
    return verify_structure([_text(token) for token in tokens], ANCHORS)


def refused(*tokens: Jws | str) -> ChainError:
    """The error; also with a cache that knows every honest prefix, which must not change the answer."""
    texts = tuple(_text(token) for token in tokens)
    cache = PrefixCache()
    for size in range(1, len(texts)):
        try:
            verify_structure(texts[:size], ANCHORS, cache=cache)
        except ChainError:
            break
    errors = []
    for known in (None, cache):
        with pytest.raises(ChainError) as caught:
            verify_structure(texts, ANCHORS, cache=known)
        errors.append(caught.value)
    assert errors[0].step == errors[1].step
    return errors[0]


def _text(token: Jws | str) -> str:
    return token if isinstance(token, str) else token.text
