"""Names and times that a guard's authority gives: whose key it is, and until when (authority.py)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from agentguard import Guard
from agentguard.artifacts.chain import DEFAULT_LIMITS, Anchor, VerifiedChain, verify_structure
from agentguard.artifacts.link import Initiator
from agentguard.artifacts.making import Profile, derive, issue
from agentguard.authority import Authority
from agentguard.home import Trust
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

    def test_what_is_remembered_has_a_bound(self, guard: Guard) -> None:
        authority = authority_of(guard)
        authority._names.update({str(number): () for number in range(4095)})
        held = []
        for task in ("one", "two", "three"):
            authority._name(mint(guard, task))
            held.append(len(authority._names))
        assert held == [4096, 1, 2]

    def test_the_tasks_of_every_other_issuer_are_counted_apart(self, guard: Guard) -> None:
        """Whichever way the thumbprints of the two keys sort: else half of all issuers could reach into the tasks of this guard."""
        own = guard.home.keys.issuer()
        mine = own.public.thumbprint()
        strangers = (LocalKey.from_seed(number.to_bytes(32)) for number in count())
        smaller = next(key for key in strangers if key.public.thumbprint() < mine)
        larger = next(key for key in strangers if key.public.thumbprint() > mine)
        iss = guard.home.issuer.iss
        anchors = tuple(Anchor(iss, key.public) for key in (own, smaller, larger))
        trust = Trust.of(anchors, guard.home.trust.agents)
        authority = Authority(guard.home, trust, guard._enforcement.in_force.snapshot.policy, {}, (), DEFAULT_LIMITS)
        for key in (own, smaller, larger):
            token = issue(
                signer=key,
                iss=iss,
                holder=guard.home.keys.holder("triage").public,
                tools=mint(guard).leaf.tools,
                now=NOW,
                ttl=600,
                max_depth=4,
                profile=Profile(agent="triage", initiator=Initiator("user:bob"), task="t"),
            )
            chain = authority._verify((token,), possessed=False).chain
            assert chain is not None
            assert chain.task_id == ("t" if key is own else f"{key.public.thumbprint()}/t")


def test_a_root_is_bound_to_each_simple_fact_of_the_operator_and_to_no_list(tmp_path: Path) -> None:
    facts: dict[str, Any] = {"region": "eu", "shard": 3, "spare": False, "owner": None, "zones": ["a", "b"]}
    with Guard.open(POLICY, home=tmp_path / "home", durability="process", environment=facts) as guard:
        entries = {name: entry for _, name, entry in mint(guard).env}
    assert set(entries) == {"region", "shard", "spare", "owner"}
    assert all(entry.constraint.check(facts[name]) and not entry.optional for name, entry in entries.items())
    assert not any(entry.constraint.check("other") for entry in entries.values())


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
