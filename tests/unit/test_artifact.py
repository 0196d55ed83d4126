"""Issuing, deriving and the presentation object (artifacts/making.py, artifacts/profile.py)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from agentguard.artifacts.chain import Anchor, ChainError, Limits, verify_structure
from agentguard.artifacts.making import Initiator, Link, Profile, Uses, derive, dump_presentation, issue, new_id, parse_presentation
from agentguard.artifacts.profile import profile_claim
from agentguard.canonical import b64url_decode, jcs
from agentguard.constraints.tokens import NO_ARGUMENTS
from agentguard.decision import Code
from agentguard.errors import InvalidInput
from agentguard.keys import PublicKey
from support.artifacts import ANCHORS, ISS, ISSUER, NOW, POLICY, TOOLS, chain_of, extend, key, mint, profile, tools, verified
from vectors.forge import ALICE, PROFILE_HEADER, ROOT_KEY, root


class TestIssue:
    def test_a_root_says_what_was_asked(self) -> None:
        chain = verified(mint(aud=("https://one.example",), jti="j-1"))
        root = chain.root
        assert (root.iss, root.jti, root.iat, root.exp, root.depth, root.max_depth) == (ISS, "j-1", NOW, NOW + 900, 0, 16)
        assert root.holder == key("a0").public
        assert root.signer == ISSUER.public
        assert root.aud == ("https://one.example",)
        assert root.tools == tools()
        assert root.profile == profile("a0")
        assert root.nbf == NOW
        assert root.policy == POLICY

    def test_the_payload_is_canonical_and_the_header_fixed(self) -> None:
        link = verified(mint()).root
        assert jcs(link.claims).decode() in _payload(link.token)
        assert _header(link.token) == {"alg": "Ed25519", "typ": "aat+jwt", "crit": ["agentguard"], "agentguard": 1}
        assert _header(mint(plain=True)) == {"alg": "Ed25519", "typ": "aat+jwt"}

    def test_two_audiences_are_an_array(self) -> None:
        assert verified(mint(aud=["a", "b"])).root.claims["aud"] == ["a", "b"]

    @pytest.mark.parametrize(
        ("changes", "step"),
        [
            ({"ttl": 0}, "3e"),
            ({"ttl": -5}, "3e"),
            ({"ttl": 91 * 86400}, "3h"),
            ({"ttl": 1.5}, "3b"),
            ({"now": -1}, "3b"),
            ({"max_depth": 17}, "3i"),
            ({"max_depth": -1}, "3i"),
            ({"max_depth": True}, "3i"),
            ({"iss": "issuer"}, "3k"),
            ({"iss": "https://exämple"}, "3k"),
            ({"profile": profile(agent="")}, "profile.agent"),
            ({"profile": profile(agent="a b")}, "profile.agent"),
            ({"profile": profile(initiator=None)}, "profile.initiator"),
            ({"profile": profile(initiator=Initiator("", "asserted"))}, "profile.initiator"),
            ({"profile": profile(initiator=Initiator("a\nb"))}, "profile.initiator"),
            ({"profile": profile(initiator=Initiator("user:alice", "oidc", "md5:1"))}, "profile.initiator"),
            ({"profile": profile(task=None)}, "profile.task"),
            ({"profile": profile(task="")}, "profile.task"),
            ({"profile": profile(policy="sha256:XY")}, "profile.policy"),
            ({"profile": profile(nbf=NOW + 900)}, "profile.nbf"),
            ({"profile": profile(nbf=-1)}, "profile.nbf"),
            ({"profile": profile(uses=Uses(0, "d"))}, "profile.uses"),
            ({"profile": profile(uses=Uses(3, ""))}, "profile.uses"),
            ({"limits": Limits(max_token_size=500)}, "2a"),
        ],
    )
    def test_refuses_what_would_not_verify(self, changes: dict[str, Any], step: str) -> None:
        with pytest.raises(ChainError) as refused:
            mint(**changes)
        assert refused.value.step == step

    def test_a_plain_root_refuses_extension_types(self) -> None:
        maps = {"read": {"path": {"constraint_type": "urn:agentguard:constraint:path", "root": "/srv"}}}
        assert verified(mint(maps)).root.tools == tools(maps)
        with pytest.raises(ChainError) as refused:
            mint(maps, plain=True)
        assert refused.value.step == "3n"

    def test_an_audience_is_not_a_string(self) -> None:
        with pytest.raises(InvalidInput, match="sequence"):
            mint(aud="https://one.example")

    def test_nothing_and_no_arguments_can_be_granted(self) -> None:
        assert verified(mint({})).root.tools == {}
        assert verified(mint(tools={"ping": NO_ARGUMENTS})).root.tools == {"ping": NO_ARGUMENTS}

    def test_a_foreign_signer_is_checked(self) -> None:
        class Broken:
            public = ISSUER.public

            def sign(self, data: bytes) -> bytes:
                return key("a0").sign(data)

        class Remote(Broken):
            def sign(self, data: bytes) -> bytes:
                return ISSUER.sign(data)

        assert verified(mint(signer=Remote()))
        with pytest.raises(ChainError, match="does not verify"):
            mint(signer=Broken())

    def test_fresh_ids_are_ordered_uuids(self) -> None:
        ids = [new_id(NOW + number / 1000) for number in range(20)]
        assert ids == sorted(ids)
        assert all(re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", name) for name in ids)
        assert mint() != mint()


class TestDerive:
    def test_a_child_inherits_what_is_not_said(self) -> None:
        chain = chain_of(2)
        root, leaf = chain.links
        assert (leaf.iss, leaf.depth, leaf.max_depth, leaf.exp, leaf.policy) == (root.holder.uri, 1, 16, root.exp, POLICY)
        assert leaf.par_hash != root.par_hash
        assert leaf.claims["par_hash"] == root.par_hash
        assert leaf.signer == root.holder

    def test_works_on_a_link_as_on_a_chain(self) -> None:
        chain = chain_of(1)
        token = derive(chain.leaf, signer=key("a0"), holder=key("a1").public, tools={}, now=NOW, profile=Profile("a1"))
        assert verified(*chain.tokens, token).leaf.tools == {}

    def test_iat_never_runs_behind_the_parent(self) -> None:
        chain = chain_of(1)
        assert verified(*chain.tokens, extend(chain, "a1", now=NOW - 1000)).leaf.iat == NOW

    @pytest.mark.parametrize(
        ("changes", "step"),
        [
            ({"exp": NOW + 901}, "4h"),
            ({"exp": NOW}, "4i"),
            ({"now": NOW + 900}, "4i"),
            ({"max_depth": 17}, "4g"),
            ({"max_depth": 0}, "4m"),
            ({"maps": {"delete": {}}}, "4p1"),
            ({"maps": {"read_file": {}}}, "4p2"),
            ({"maps": {"read_file": {"path": {**TOOLS["read_file"]["path"], "optional": True}}}}, "4p3"),
            ({"maps": {"read_file": {"path": {"constraint_type": "wildcard"}}}}, "4p4"),
            ({"signer": key("a1")}, "4b"),
            ({"signer": ISSUER}, "4b"),
            ({"profile": None}, "4a"),
            ({"profile": Profile("a1", initiator=Initiator("user:eve"))}, "profile.initiator"),
            ({"profile": Profile("a1", task="t-2")}, "profile.task"),
            ({"profile": Profile("a1", policy="sha256:" + "cd" * 32)}, "profile.policy"),
            ({"limits": Limits(max_chain_size=1500)}, "2b"),
        ],
    )
    def test_refuses_what_would_not_verify(self, changes: dict[str, Any], step: str) -> None:
        with pytest.raises(ChainError) as refused:
            extend(chain_of(1), "a1", **changes)
        assert refused.value.step == step
        assert refused.value.link == 1

    def test_a_jti_of_the_chain_is_refused(self) -> None:
        chain = chain_of(1)
        with pytest.raises(ChainError) as refused:
            extend(chain, "a1", jti=chain.root.jti)
        assert refused.value.step == "2c"

    def test_a_terminal_link_derives_nothing(self) -> None:
        chain = verified(mint(max_depth=0))
        with pytest.raises(ChainError) as refused:
            extend(chain, "a1")
        assert refused.value.step == "4e"

    def test_a_policy_may_be_added_later_and_then_stays(self) -> None:
        chain = verified(mint(profile=profile(policy=None)))
        assert chain.policies == ()
        bound = verified(*chain.tokens, extend(chain, "a1", profile=Profile("a1", policy=POLICY)))
        assert bound.policies == (POLICY,)
        below = verified(*bound.tokens, extend(bound, "a2"))
        assert below.policies == (POLICY,)
        with pytest.raises(ChainError):
            extend(below, "a3", profile=Profile("a3", policy="sha256:" + "00" * 32))

    def test_no_arguments_stands_under_everything_of_the_profile(self) -> None:
        chain = verified(
            mint({"send": {"to": {"constraint_type": "exact", "value": "bob"}, "cc": {"constraint_type": "wildcard", "optional": True}}})
        )
        with pytest.raises(ChainError):  # `to` stays required, so this grants less than nothing: it must name what the parent requires
            extend(chain, "a1", tools={"send": NO_ARGUMENTS})
        optional = verified(mint({"list": {"page": {"constraint_type": "range", "min": 1, "optional": True}}}))
        assert verified(*optional.tokens, extend(optional, "a1", tools={"list": NO_ARGUMENTS})).leaf.tools == {"list": NO_ARGUMENTS}


class TestProfileClaim:
    def body(self, **changes: Any) -> dict[str, Any]:
        return {"agent": "a0", "initiator": {"id": "user:alice", "method": "asserted"}, "task": "t-1", **changes}

    def read(self, body: Any) -> Link:
        token = root("profile", header=PROFILE_HEADER, agentguard=body, holder=ALICE)
        return verify_structure([token.text], [Anchor("https://issuer.example", PublicKey.from_raw(ROOT_KEY.raw))]).root

    def test_every_member_is_read(self) -> None:
        env = {"deployment": {"constraint_type": "one_of", "values": ["prod"]}}
        evidence = "sha256:" + "12" * 32
        initiator = {"id": "user:älice", "method": "oidc", "evidence": evidence}
        body = self.body(initiator=initiator, policy=POLICY, env=env, nbf=1_800_000_100, uses={"limit": 3, "domain": "d"})
        read = self.read(body).profile
        assert read is not None
        assert read.initiator == Initiator("user:älice", "oidc", evidence)
        assert (read.policy, read.nbf, read.uses, read.task) == (POLICY, 1_800_000_100, Uses(3, "d"), "t-1")
        assert set(read.env) == {"deployment"}

    @pytest.mark.parametrize(
        ("changes", "step"),
        [
            ({"extra": 1}, "profile"),
            ({"agent": 5}, "profile.agent"),
            ({"agent": None}, "profile.agent"),
            ({"agent": "ägent"}, "profile.agent"),
            ({"initiator": "alice"}, "profile.initiator"),
            ({"initiator": {"id": "a"}}, "profile.initiator"),
            ({"initiator": {"id": "a", "method": "m", "more": 1}}, "profile.initiator"),
            ({"initiator": None}, "profile.initiator"),
            ({"task": None}, "profile.task"),
            ({"task": 5}, "profile.task"),
            ({"policy": None}, "profile.policy"),
            ({"policy": "ab" * 32}, "profile.policy"),
            ({"env": {}}, "profile.env"),
            ({"env": {"*": {"constraint_type": "wildcard"}}}, "profile.env"),
            ({"env": {"x": {"constraint_type": "exact"}}}, "profile.env"),
            ({"env": []}, "profile.env"),
            ({"nbf": "5"}, "profile.nbf"),
            ({"nbf": True}, "profile.nbf"),
            ({"nbf": 1_800_003_300}, "profile.nbf"),
            ({"uses": {"limit": 1}}, "profile.uses"),
            ({"uses": {"limit": 1.5, "domain": "d"}}, "profile.uses"),
            ({"uses": {"limit": True, "domain": "d"}}, "profile.uses"),
            ({"uses": {"limit": 1, "domain": "d", "per": "day"}}, "profile.uses"),
            ({"uses": None}, "profile.uses"),
        ],
    )
    def test_everything_else_is_malformed(self, changes: dict[str, Any], step: str) -> None:
        with pytest.raises(ChainError) as refused:
            self.read(self.body(**changes))
        assert (refused.value.step, refused.value.code) == (step, Code.ARTIFACT_MALFORMED)

    def test_the_example_of_the_documentation_is_read(self) -> None:
        page = (Path(__file__).resolve().parents[2] / "docs" / "profile.md").read_text(encoding="utf-8")
        body = json.loads(page.partition("```json\n")[2].partition("```")[0])
        read = self.read(body).profile
        assert read is not None
        assert profile_claim(read) == body

    @pytest.mark.parametrize("body", [None, [], "a0", {}])
    def test_the_claim_is_an_object(self, body: Any) -> None:
        with pytest.raises(ChainError):
            self.read(body)


class TestPresentation:
    def test_round_trip(self) -> None:
        chain = chain_of(3)
        assert parse_presentation(dump_presentation(chain.tokens)) == (chain.tokens, None)
        text = json.dumps({**dump_presentation(chain.tokens, "p.o.p"), "else": 1})
        assert parse_presentation(text) == parse_presentation(text.encode()) == (chain.tokens, "p.o.p")

    @pytest.mark.parametrize(
        "data",
        [
            "", "[]", "null", "5", b"\xff", '{"aat_chain": []}', '{"aat_chain": "a"}', '{"aat_chain": [1]}',
            '{"aat_chain": ["a"], "aat_pop": null}',
            '{"aat_chain": ["a"], "aat_pop": ["b"]}', '{"aat_chain": ["a"], "aat_chain": ["b"]}', "{}", {}, {"aat_chain": None}, 5, None,
            "[" * 100_000, '{"aat_chain": ["' + "a" * (1 << 20) + '"]}',
        ],
    )  # fmt: skip
    def test_refuses_everything_else(self, data: Any) -> None:
        with pytest.raises(InvalidInput):
            parse_presentation(data)


def _segment(token: str, index: int) -> bytes:
    return b64url_decode(token.split(".")[index])


def _payload(token: str) -> str:
    return _segment(token, 1).decode()


def _header(token: str) -> Any:
    return json.loads(_segment(token, 0))


def test_issue_and_verify_agree_on_limits() -> None:
    """What `issue` accepts under some limits, the verifier accepts under the same."""
    limits = Limits(max_delegation_depth=3, max_token_lifetime=60, max_constraint_depth=2)
    token = issue(
        signer=ISSUER, iss=ISS, holder=key("a0").public, tools=tools(), now=NOW, ttl=60, max_depth=3, profile=profile(), limits=limits
    )  # fmt: skip
    assert verify_structure([token], ANCHORS, limits).root.exp == NOW + 60
