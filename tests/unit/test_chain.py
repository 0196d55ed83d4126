"""Verification, the cache of prefixes, and the checks that each call makes anew (artifacts/chain.py)."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest

from agentguard.artifacts import chain as chain_module
from agentguard.artifacts.chain import (
    Anchor,
    ChainError,
    Limits,
    PrefixCache,
    TrustAnchors,
    check_audience,
    check_scope,
    check_time,
    verify_structure,
)
from agentguard.artifacts.making import Initiator, Profile, Uses
from agentguard.canonical import freeze
from agentguard.constraints.tokens import parse_tool_map
from agentguard.decision import Code, Reason
from agentguard.keys import PublicKey
from support.artifacts import ANCHORS, ISS, ISSUER, NOW, POLICY, chain_of, extend, key, mint, profile, verified
from vectors.forge import HEADER, PROFILE_HEADER, ROOT_KEY, child, root

FORGED = TrustAnchors([Anchor(ISS, PublicKey.from_raw(ROOT_KEY.raw))])


def denied(*tokens: str, anchors: TrustAnchors = ANCHORS) -> ChainError:
    with pytest.raises(ChainError) as refused:
        verify_structure(tokens, anchors)
    return refused.value


class TestVerifiedChain:
    def test_a_chain_knows_what_calls_ask(self) -> None:
        env = {"deployment": parse_tool_map({"x": {"constraint_type": "exact", "value": "prod"}}, extensions=True).named["x"]}
        first = verified(mint(aud=("https://here.example",), profile=profile(env=env, uses=Uses(5, "d-1"))))
        chain = verified(*first.tokens, extend(first, "a1", profile=Profile("a1", nbf=NOW + 60, uses=Uses(2, "d-2")), exp=NOW + 600))
        assert chain.profile is True
        assert (chain.exp, chain.nbf, chain.iat) == (NOW + 600, NOW + 60, NOW)
        assert chain.agents == ("a0", "a1")
        assert chain.initiator == Initiator("user:alice")
        assert (chain.task, chain.task_id, chain.policies) == ("t-1", "t-1", (POLICY,))
        assert chain.hashes == tuple(link.hash for link in chain.links)
        assert chain.keys == (ISSUER.public.thumbprint(), key("a0").public.thumbprint(), key("a1").public.thumbprint())
        assert chain.env == ((0, "deployment", env["deployment"]),)
        assert chain.uses == ((chain.root.hash, 5, "d-1"), (chain.leaf.hash, 2, "d-2"))
        assert chain.audiences == ((0, ("https://here.example",)),)

    def test_a_plain_chain_names_nobody(self) -> None:
        chain = chain_of(2, plain=True)
        assert (chain.profile, chain.agents, chain.initiator, chain.task, chain.policies, chain.env, chain.uses) == (
            False,
            (),
            None,
            None,
            (),
            (),
            (),
        )
        assert chain.task_id == f"aat:{chain.root.hash}"

    def test_digests_tell_chains_apart(self) -> None:
        one, two = chain_of(2), chain_of(2)
        assert one.digest != two.digest
        assert verified(*one.tokens).digest == one.digest
        assert verified(one.tokens[0]).digest != one.digest

    def test_claims_of_a_link_are_the_callers_copy(self) -> None:
        link = chain_of(1).root
        link.claims["cnf"]["jwk"]["x"] = "changed"
        assert link.claims["cnf"]["jwk"]["x"] == key("a0").public.jwk()["x"]


class TestRefusals:
    def test_an_error_says_where(self) -> None:
        chain = chain_of(2)
        other = verified(mint())
        error = denied(other.tokens[0], chain.tokens[1])
        assert (error.code, error.step, error.link, error.place) == (Code.DELEGATION_INVALID, "4q", 1, "link 1, step 4q")
        assert error.reason() == Reason(Code.DELEGATION_INVALID, required=error.message, place="link 1, step 4q")

    @pytest.mark.parametrize(
        ("tokens", "anchors", "code", "step"),
        [
            ((), ANCHORS, Code.ARTIFACT_MISSING, "1"),
            (("x",), ANCHORS, Code.ARTIFACT_MALFORMED, "2c"),
            ((mint(),), TrustAnchors([]), Code.ISSUER_UNTRUSTED, "3b"),
            ((mint(iss="https://other.example"),), TrustAnchors([Anchor(ISS, key("x").public)]), Code.ISSUER_UNTRUSTED, "3b"),
            ((mint(),), TrustAnchors([Anchor(ISS, key("x").public)]), Code.SIGNATURE_INVALID, "3b"),
            ((mint(iss="https://other.example"),), ANCHORS, Code.ISSUER_UNTRUSTED, "3k"),
        ],
    )
    def test_codes(self, tokens: tuple[str, ...], anchors: TrustAnchors, code: Code, step: str) -> None:
        error = denied(*tokens, anchors=anchors)
        assert (error.code, error.step) == (code, step)

    def test_time_is_left_to_the_caller(self) -> None:
        chain = verified(mint(now=1000, ttl=1))
        assert check_time(chain, NOW) is not None

    def test_plain_and_profile_do_not_mix(self) -> None:
        claim = {"agent": "a", "initiator": {"id": "u", "method": "m"}, "task": "t"}
        plain, marked = root("plain"), root("marked", header=PROFILE_HEADER, agentguard=claim)
        assert denied(plain.text, child(plain, "x", header=PROFILE_HEADER, agentguard={"agent": "b"}).text, anchors=FORGED).step == "4a"
        assert denied(marked.text, child(marked, "x").text, anchors=FORGED).step == "4a"
        verify_structure([marked.text, child(marked, "x", header=PROFILE_HEADER, agentguard={"agent": "b"}).text], FORGED)

    @pytest.mark.parametrize(
        "header",
        [
            {**PROFILE_HEADER, "agentguard": 2},
            {**PROFILE_HEADER, "agentguard": True},
            {**PROFILE_HEADER, "agentguard": 1.0},
            {**PROFILE_HEADER, "agentguard": "1"},
            {**PROFILE_HEADER, "crit": ["agentguard", "agentguard"]},
            {**PROFILE_HEADER, "crit": ["agentguard", "exp"], "exp": 1},
            {**PROFILE_HEADER, "crit": "agentguard"},
            {**HEADER, "crit": ["agentguard"]},
        ],
    )
    def test_the_profile_header_is_exact(self, header: dict[str, Any]) -> None:
        claim = {"agent": "a", "initiator": {"id": "u", "method": "m"}, "task": "t"}
        assert denied(root("header", header=header, agentguard=claim).text, anchors=FORGED).step == "3a"

    def test_profile_chains_may_narrow_more_widely_than_plain_ones(self) -> None:
        """An exact under an `any` is sound, and only the draft's table refuses it (docs/profile.md)."""
        wide = {"export": {"format": {"constraint_type": "any", "constraints": [{"constraint_type": "one_of", "values": ["pdf", "csv"]}]}}}
        narrow = {"export": {"format": {"constraint_type": "exact", "value": "pdf"}}}
        ours = verified(mint(wide))
        assert verified(*ours.tokens, extend(ours, "a1", narrow)).leaf.tools["export"].check({"format": "pdf"}) is None
        with pytest.raises(ChainError) as refused:
            extend(verified(mint(wide, plain=True)), "a1", narrow)
        assert refused.value.step == "4p4"


class TestTime:
    def test_windows(self) -> None:
        chain = chain_of(2)
        for now, expected in (
            (NOW - 31, Code.ARTIFACT_NOT_YET_VALID),
            (NOW - 30, None),
            (NOW + 899, None),
            (NOW + 900, Code.ARTIFACT_EXPIRED),
        ):
            error = check_time(chain, now)
            assert (error.code if error else None) == expected
        assert check_time(chain, NOW + 899.9) is None

    def test_steps_name_the_link(self) -> None:
        chain = verified(mint())
        longer = verified(*chain.tokens, extend(chain, "a1", now=NOW + 100, exp=NOW + 200))
        early, late, over = check_time(longer, NOW), check_time(longer, NOW + 200), check_time(longer, NOW + 900)
        assert early is not None
        assert (early.step, early.link) == ("4k", 1)
        assert late is not None
        assert (late.step, late.link) == ("4i", 1)
        assert over is not None
        assert (over.step, over.link) == ("3e", 0)

    def test_not_before_has_the_skew(self) -> None:
        chain = verified(mint(profile=profile(nbf=NOW + 100)))
        assert check_time(chain, NOW + 70) is None
        error = check_time(chain, NOW + 69)
        assert error is not None
        assert (error.step, error.code) == ("profile.nbf", Code.ARTIFACT_NOT_YET_VALID)
        assert check_time(chain, NOW + 69, Limits(max_iat_skew=31)) is None


class TestScope:
    def test_tools_and_arguments(self) -> None:
        chain = chain_of(2)
        assert check_scope(chain, "read_file", freeze({"path": "/data/a"})) is None
        for tool, arguments, code, subject in (
            ("delete", {}, Code.TOOL_NOT_IN_SCOPE, "delete"),
            ("read_file", {"path": "/etc/shadow"}, Code.ARGUMENT_NOT_IN_SCOPE, "path"),
            ("read_file", {}, Code.ARGUMENT_NOT_IN_SCOPE, "path"),
            ("read_file", {"path": "/data/a", "mode": "w"}, Code.ARGUMENT_NOT_IN_SCOPE, "mode"),
        ):
            error = check_scope(chain, tool, freeze(arguments))
            assert error is not None
            assert (error.code, error.subject, error.link, error.step) == (code, subject, 1, "6b")

    def test_a_leaf_without_entry_is_step_6a(self) -> None:
        base = root("base")
        chain = verify_structure([base.text, child(base, "leaf", authorization_details=[]).text], FORGED)
        error = check_scope(chain, "read_file", {})
        assert error is not None
        assert error.step == "6a"

    def test_bound_values_of_named_arguments_count(self) -> None:
        chain = chain_of(1)
        presented = freeze({"query": "x"})
        assert check_scope(chain, "search", presented, freeze({"query": "x", "limit": 50, "page": 1})) is None
        error = check_scope(chain, "search", presented, freeze({"query": "x", "limit": 1000}))
        assert error is not None
        assert error.subject == "limit"

    def test_a_default_is_held_to_the_links_above(self) -> None:
        """A leaf that leaves `limit` out forbids it; the tool's own default must still be one that the parent admits."""
        base = chain_of(1)
        chain = verified(*base.tokens, extend(base, "a1", {"search": {"query": {"constraint_type": "wildcard"}}}))
        presented = freeze({"query": "x"})
        assert check_scope(chain, "search", presented, freeze({"query": "x", "limit": 50})) is None
        assert check_scope(chain, "search", presented, freeze({"query": "x", "limit": 51})) is not None
        assert check_scope(chain, "search", freeze({"query": "x", "limit": 5})) is not None

    def test_open_maps_need_leave(self) -> None:
        chain = verified(mint({"any": {}, "star": {"a": {"constraint_type": "wildcard"}, "*": {"constraint_type": "wildcard"}}}))
        for tool, arguments in (("any", {}), ("star", {"a": 1})):
            assert check_scope(chain, tool, arguments) is None
            error = check_scope(chain, tool, arguments, any_arguments=False)
            assert error is not None
            assert error.subject == "*"


class TestAudience:
    def test_every_audience_must_name_us(self) -> None:
        one = verified(mint(aud=("https://a.example", "https://b.example")))
        two = verified(*one.tokens, extend(one, "a1", aud=("https://b.example",)))
        assert check_audience(two, ("https://b.example",)) is None
        assert check_audience(two, ("https://a.example",)) is not None
        assert check_audience(two, ()) is not None
        assert check_audience(chain_of(1), ()) is None
        assert check_audience(chain_of(1), ("x",), require=True) is not None
        assert check_audience(two, "https://b.example") is None
        assert check_audience(two, "https://b.example/more") is not None


class TestPrefixCache:
    def test_a_known_chain_is_the_same_object(self) -> None:
        cache, chain = PrefixCache(), chain_of(3)
        first = verify_structure(chain.tokens, ANCHORS, cache=cache)
        assert verify_structure(list(chain.tokens), ANCHORS, cache=cache) is first
        assert len(cache) == 3

    def test_a_new_leaf_costs_one_signature(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cache, chain = PrefixCache(), chain_of(8)
        verify_structure(chain.tokens, ANCHORS, cache=cache)
        leaf = extend(chain, "a9")
        judged: list[int] = []
        real = vars(chain_module)["child_link"]

        def count(*args: Any, **kwargs: Any) -> Any:
            judged.append(1)
            return real(*args, **kwargs)

        monkeypatch.setattr(chain_module, "child_link", count)
        verify_structure((*chain.tokens, leaf), ANCHORS, cache=cache)
        assert len(judged) == 1

    def test_prefixes_stand_on_their_own(self) -> None:
        cache, chain = PrefixCache(), chain_of(3)
        verify_structure(chain.tokens, ANCHORS, cache=cache)
        part = verify_structure(chain.tokens[:2], ANCHORS, cache=cache)
        fresh = verify_structure(chain.tokens[:2], ANCHORS)
        assert part.leaf.token == chain.tokens[1]
        assert (part.digest, part.exp, part.agents, part.keys, part.hashes) == (
            fresh.digest,
            fresh.exp,
            fresh.agents,
            fresh.keys,
            fresh.hashes,
        )

    def test_failures_do_not_enter(self) -> None:
        cache, chain = PrefixCache(), chain_of(2)
        with pytest.raises(ChainError):
            verify_structure((*chain.tokens, "x"), ANCHORS, cache=cache)
        with pytest.raises(ChainError):
            verify_structure((chain.tokens[0], mint()), ANCHORS, cache=cache)
        assert len(cache) == 0

    def test_other_anchors_or_limits_do_not_hit(self) -> None:
        cache, chain = PrefixCache(), chain_of(2)
        verify_structure(chain.tokens, ANCHORS, cache=cache)
        with pytest.raises(ChainError):
            verify_structure(chain.tokens, TrustAnchors([Anchor(ISS, key("x").public)]), cache=cache)
        with pytest.raises(ChainError):
            verify_structure(chain.tokens, (Anchor(ISS, key("x").public),), cache=cache)
        with pytest.raises(ChainError):
            verify_structure(chain.tokens, [Anchor("https://else.example", ISSUER.public)], cache=cache)
        with pytest.raises(ChainError):
            verify_structure(chain.tokens, ANCHORS, Limits(max_delegation_depth=3), cache=cache)

    def test_anchors_given_as_a_list_may_change(self) -> None:
        cache, chain, anchors = PrefixCache(), chain_of(1), [Anchor(ISS, ISSUER.public)]
        verify_structure(chain.tokens, anchors, cache=cache)
        anchors.clear()
        with pytest.raises(ChainError):
            verify_structure(chain.tokens, anchors, cache=cache)

    def test_the_order_of_anchors_does_not_matter(self) -> None:
        one, two = Anchor(ISS, ISSUER.public), Anchor("https://b.example", key("x").public)
        assert TrustAnchors([one, two]).digest == TrustAnchors([two, one, two]).digest != TrustAnchors([one]).digest

    def test_a_repeated_jti_is_seen_across_a_cached_prefix(self) -> None:
        cache, chain = PrefixCache(), chain_of(1)
        verify_structure(chain.tokens, ANCHORS, cache=cache)
        with pytest.raises(ChainError) as refused:
            verify_structure((*chain.tokens, *chain.tokens), ANCHORS, cache=cache)
        assert refused.value.step == "2c"

    def test_is_bounded_and_forgets_the_oldest(self) -> None:
        cache = PrefixCache(max_bytes=100_000)
        chains = [verified(mint()) for _ in range(40)]
        for chain in chains:
            verify_structure(chain.tokens, ANCHORS, cache=cache)
        assert 1 < len(cache) < 40
        assert cache.get(ANCHORS.digest, Limits(), chains[-1].tokens) is not None
        assert cache.get(ANCHORS.digest, Limits(), chains[0].tokens) is None

    def test_threads(self) -> None:
        cache, chains = PrefixCache(max_bytes=60_000), [chain_of(3) for _ in range(6)]
        wrong: list[str] = []

        def work() -> None:
            for turn in range(60):
                chain = chains[turn % 6]
                if verify_structure(chain.tokens, ANCHORS, cache=cache).digest != chain.digest:
                    wrong.append(chain.digest)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong


def test_links_and_chains_are_immutable() -> None:
    chain = chain_of(1)
    with pytest.raises(AttributeError):
        chain.exp = 0  # type: ignore[misc]
    with pytest.raises(AttributeError):
        chain.leaf.exp = 0  # type: ignore[misc]
    with pytest.raises(TypeError):
        chain.leaf.tools["x"] = None  # type: ignore[index]
    assert replace(Limits(), pop_window=5).pop_window == 5
