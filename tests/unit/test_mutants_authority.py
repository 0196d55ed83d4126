"""Names and times that a guard's authority gives: whose key it is, and until when (authority.py)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentguard import Guard
from agentguard import authority as module
from agentguard.artifacts.chain import VerifiedChain, verify_structure
from agentguard.artifacts.link import Initiator
from agentguard.artifacts.making import Profile, derive
from agentguard.authority import Authority
from agentguard.keys import LocalKey
from support.guarded import POLICY

NOW = 1_800_000_127  # its last bits are ones, so that a sum is no `or`
SCOPE = {"echo": {"x": {"one_of": [1, 2]}}}


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[Guard]:
    with Guard.open(POLICY, home=tmp_path / "home", durability="process") as opened:
        yield opened


def authority_of(guard: Guard) -> Authority:
    return guard._enforcement.in_force.snapshot.authority


def mint(guard: Guard, task: str = "t", agent: str = "triage", **changes: Any) -> VerifiedChain:
    given = {"initiator": Initiator("user:alice"), "scope": SCOPE, "ttl": 900, "uses": None, "now": NOW} | changes
    return authority_of(guard).mint(agent, task=task, **given)


class TestNames:
    def test_a_key_that_nobody_knew_is_asked_for_again(self, guard: Guard) -> None:
        """What is remembered is a name. That there was none must not stick, or an agent added later would stay a stranger."""
        root = mint(guard)
        stranger = LocalKey.generate()
        leaf = derive(
            root.leaf,
            signer=guard.home.keys.holder("triage"),
            holder=stranger.public,
            tools=root.leaf.tools,
            now=NOW,
            profile=Profile("writer"),
        )
        chain = verify_structure((*root.tokens, leaf), guard.home.trust.anchors)
        asked: list[str] = []
        real = guard.home.keys.agent_of

        class Ring:
            def agent_of(self, thumbprint: str) -> str | None:
                asked.append(thumbprint)
                return "writer" if len(asked) > 2 and thumbprint == stranger.public.thumbprint() else real(thumbprint)

        class Home:
            keys = Ring()

        authority = authority_of(guard)
        authority._home = Home()  # type: ignore[assignment]
        assert authority._name(chain) == ("triage", None)
        assert authority._names == {}
        assert authority._name(chain) == ("triage", "writer")
        assert authority._names == {chain.digest: ("triage", "writer")}

    def test_what_is_remembered_has_a_bound(self, guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "_MEMO", 2)
        authority, held = authority_of(guard), []
        for task in ("one", "two", "three", "four", "five"):
            authority._name(mint(guard, task))
            held.append(len(authority._names))
        assert held == [1, 2, 1, 2, 1]


class TestTimes:
    @pytest.mark.parametrize(("ttl", "left"), [(100, 100), (127, 127), (1, 1), (900, 900), (901, 900), (None, 900)])
    def test_a_delegate_lives_as_long_as_it_is_given_and_no_longer_than_its_parent(self, guard: Guard, ttl: int | None, left: int) -> None:
        root, signer = mint(guard), guard.home.keys.holder("triage")
        chain = authority_of(guard).derive(root, signer, "writer", scope=SCOPE, ttl=ttl, uses=None, now=NOW)
        assert chain.exp == chain.leaf.exp == NOW + left

    def test_a_root_lives_as_long_as_it_is_given(self, guard: Guard) -> None:
        chain = mint(guard, ttl=127)
        assert (chain.iat, chain.nbf, chain.exp) == (NOW, NOW, NOW + 127)


def test_what_a_delegate_is_given_without_a_scope_is_what_the_parent_has_for_its_own_tools(guard: Guard) -> None:
    root, signer = mint(guard, scope={**SCOPE, "pair": {"a": "any"}}), guard.home.keys.holder("triage")
    chain = authority_of(guard).derive(root, signer, "writer", scope=None, ttl=None, uses=3, now=NOW)
    assert dict(chain.leaf.tools) == {"echo": root.leaf.tools["echo"]}
    assert chain.uses == ((chain.leaf.hash, 3, guard.home.state.domain),)
