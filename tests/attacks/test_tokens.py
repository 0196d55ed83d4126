"""Attacks on tokens, by name (PITFALLS, AAT §14). The interoperable ones are vectors too; these go for our profile and our interfaces."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from agentguard.artifacts.chain import Anchor, ChainError, check_scope, check_time, verify_structure
from agentguard.artifacts.proof import verify_proof
from agentguard.canonical import freeze
from agentguard.decision import Code
from agentguard.errors import InvalidInput
from agentguard.keys import PublicKey
from support.forged import ARGS, ROOT_CLAIM, accepted, child, refused, root
from vectors.chains import PRIME, unsound_points
from vectors.forge import (
    ALICE,
    BOB,
    CAROL,
    HEADER,
    ISSUER,
    MALLORY,
    NOW,
    PROFILE_HEADER,
    PROOF_HEADER,
    ROOT_KEY,
    TOOLS,
    Jws,
    Key,
    b64,
    bare,
    encode,
    sign,
)  # fmt: skip
from vectors.forge import proof as any_proof
from vectors.forge import root as any_root


def test_the_honest_chain_is_accepted() -> None:
    base = root()
    assert accepted(base, child(base), child(child(base), "grandchild")).agents == ("alice", "bob", "bob")


class TestAlgorithmConfusion:
    @pytest.mark.parametrize(
        "alg", ["none", "None", "EdDSA", "HS256", "ES256", "RS256", "ed25519", "Ed448", "", None, 1, ["Ed25519"], {"Ed25519": 1}]
    )
    def test_no_other_algorithm(self, alg: Any) -> None:
        assert refused(root(header={**PROFILE_HEADER, "alg": alg})).step == "3a"
        assert refused(root(), child(root(), header={**PROFILE_HEADER, "alg": alg})).step == "4a"

    def test_mac_over_the_public_key(self) -> None:
        """The classic: the verifier's public key used as an HMAC secret."""
        head, body, _ = bare(root(header={**PROFILE_HEADER, "alg": "HS256"}))
        mac = hmac.new(ROOT_KEY.raw, f"{head}.{body}".encode(), hashlib.sha256).digest()
        assert refused(f"{head}.{body}.{b64(mac)}").step == "3a"

    def test_unsigned(self) -> None:
        head, body, _ = bare(root())
        assert refused(f"{head}.{body}.").step == "3b"
        assert refused(f"{b64(encode({'alg': 'none', 'typ': 'aat+jwt'}))}.{body}.").step == "3a"


class TestBadKeys:
    @pytest.mark.parametrize(("name", "raw"), unsound_points(), ids=[name for name, _ in unsound_points()])
    def test_unsound_points_are_refused_when_parsed(self, name: str, raw: bytes) -> None:
        with pytest.raises(InvalidInput):
            PublicKey.from_raw(raw)
        with pytest.raises(InvalidInput):
            PublicKey.from_jwk({"kty": "OKP", "crv": "Ed25519", "x": b64(raw)})
        assert refused(root(cnf={"jwk": {"kty": "OKP", "crv": "Ed25519", "x": b64(raw)}})).step == "3l"
        assert refused(root(), child(root(), cnf={"jwk": {"kty": "OKP", "crv": "Ed25519", "x": b64(raw)}})).step == "4b2"

    def test_the_list_is_complete(self) -> None:
        """Eight points have small order; with every encoding of their y below 2^255, and both signs, that is fourteen encodings."""
        points = _small_order_points()
        assert len(points) == 8
        encodings = set()
        for x, y in points:
            for form in (y, y + PRIME):
                if form < 2**255:
                    encodings.add((form | (x & 1) << 255).to_bytes(32, "little"))
                    if x == 0:  # a sign bit that says nothing
                        encodings.add((form | 1 << 255).to_bytes(32, "little"))
        assert len(encodings) == 14
        for raw in encodings:
            with pytest.raises(InvalidInput):
                PublicKey.from_raw(raw)

    def test_keyless_signature_under_the_identity(self) -> None:
        """What the refusal is for: under the identity one signature fits every message, and the backend accepts it."""
        identity = (1).to_bytes(32, "little")
        forgery = identity + bytes(32)
        fooled = True
        try:
            Ed25519PublicKey.from_public_bytes(identity).verify(forgery, b"anything at all")
        except InvalidSignature:
            fooled = False
        base = root(cnf={"jwk": {"kty": "OKP", "crv": "Ed25519", "x": b64(identity)}})
        head, body, _ = bare(child(base, key=MALLORY))
        assert refused(base, f"{head}.{body}.{b64(forgery)}").step == "3l", f"backend fooled: {fooled}"

    def test_an_anchor_cannot_be_unsound(self) -> None:
        with pytest.raises(InvalidInput):
            Anchor(ISSUER, PublicKey.from_raw((1).to_bytes(32, "little")))

    @pytest.mark.parametrize("member", ["d", "p", "q", "dp", "dq", "qi", "oth", "k"])
    def test_private_members(self, member: str) -> None:
        assert refused(root(cnf={"jwk": {**ALICE.jwk, member: "AA"}})).step == "3l"


class TestHeaderSuppliedKeys:
    @pytest.mark.parametrize("parameter", [{"jwk": MALLORY.jwk}, {"kid": "mallory"}, {"jku": "https://evil.example"}, {"x5c": ["AA=="]}])
    def test_are_not_used(self, parameter: dict[str, Any]) -> None:
        assert refused(root(key=MALLORY, header={**PROFILE_HEADER, **parameter})).step == "3b"
        assert refused(root(), child(root(), key=MALLORY, header={**PROFILE_HEADER, **parameter})).step == "4b"
        accepted(root(header={**PROFILE_HEADER, **parameter}))


class TestCrit:
    @pytest.mark.parametrize(
        "crit", [[], None, True, "agentguard", ["exp"], ["agentguard", "x"], ["agentguard", "agentguard"], [["agentguard"]], {}]
    )
    def test_only_ours_is_understood(self, crit: Any) -> None:
        assert refused(root(header={**PROFILE_HEADER, "crit": crit, "x": 1, "exp": 1})).step == "3a"

    def test_dropping_crit_turns_the_profile_off_and_is_seen(self) -> None:
        """Without `crit` a child is plain, and under a profile root that is a mixed chain."""
        plain = child(root(), header={**HEADER, "agentguard": 1})
        assert refused(root(), plain).step == "4a"

    def test_a_plain_root_cannot_carry_a_profile_child(self) -> None:
        base = any_root("plain")
        assert refused(base, child(base)).step == "4a"


class TestParentSwap:
    def test_another_parent_of_the_same_holder(self) -> None:
        narrow, wide = root("narrow", tools={"search": TOOLS["search"]}), root("wide")
        stolen = child(narrow)
        assert accepted(narrow, stolen)
        error = refused(wide, stolen)
        assert (error.step, error.code) == ("4q", Code.DELEGATION_INVALID)

    def test_another_task_of_the_same_holder(self) -> None:
        one, two = root("one"), root("two", agentguard={**ROOT_CLAIM, "task": "t-2"})
        assert refused(two, child(one)).step == "4q"

    def test_a_resigned_parent(self) -> None:
        """The same claims with one space more are another token."""
        base = root("base")
        again = Jws(sign(b" " + encode(base.claims), ROOT_KEY, PROFILE_HEADER, ALICE).text, base.claims, ALICE)
        assert accepted(again)
        assert refused(again, child(base)).step == "4q"

    def test_splices(self) -> None:
        base = root()
        first, second = child(base, "one"), child(base, "two")
        below = child(first, "below")
        assert accepted(base, first, below)
        assert refused(base, second, below).step == "4q"
        assert refused(base, below).step == "4b"
        assert refused(first, below).step == "3b"
        assert refused(base, base).step == "2c"
        assert refused(base, first, first).step == "2c"
        assert refused(base, first, below, child(base, "three")).step == "4b"

    def test_a_terminal_token_extended(self) -> None:
        base = root()
        end = child(base, "end", del_max_depth=1)
        assert refused(base, end, child(end, "beyond")).step == "4e"

    def test_a_duplicate_jti(self) -> None:
        base = root()
        assert refused(base, child(base, jti=base.claims["jti"])).step == "2c"


class TestKeyConfusion:
    def test_the_issuer_does_not_speak_for_the_holder(self) -> None:
        assert refused(root(), child(root(), key=ROOT_KEY)).step == "4b"

    def test_a_holder_does_not_speak_for_its_child(self) -> None:
        base = root()
        first = child(base)
        assert refused(base, first, child(first, "x", key=ALICE)).step == "4b"

    def test_an_issuer_uri_of_another_anchor(self) -> None:
        other = Key("other issuer")
        anchors = [Anchor(ISSUER, PublicKey.from_raw(ROOT_KEY.raw)), Anchor("https://other.example", PublicKey.from_raw(other.raw))]
        verify_structure([root(key=other, iss="https://other.example").text], anchors)
        with pytest.raises(ChainError) as caught:
            verify_structure([root(key=other, iss=ISSUER).text], anchors)
        assert (caught.value.step, caught.value.code) == ("3k", Code.ISSUER_UNTRUSTED)

    def test_iss_that_is_not_the_thumbprint_uri(self) -> None:
        for iss in (ISSUER, BOB.uri, ALICE.uri.upper(), ALICE.uri.replace("sha-256", "sha-512"), ALICE.uri + "="):
            assert refused(root(), child(root(), iss=iss)).step == "4c"


class TestTypeConfusion:
    def test_a_proof_is_no_token(self) -> None:
        base = root()
        assert refused(any_proof(base, "read_file", ARGS, **root("p").claims)).step == "3a"
        assert refused(base, sign(child(base).claims, ALICE, PROOF_HEADER, BOB)).step == "4a"

    def test_a_token_is_no_proof(self) -> None:
        base = root()
        leaf = accepted(base).leaf
        claims = any_proof(base, "read_file", ARGS).claims
        for header in (HEADER, PROFILE_HEADER):
            with pytest.raises(ChainError) as caught:
                verify_proof(sign(claims, ALICE, header, ALICE).text, leaf, "read_file", freeze(ARGS), NOW)
            assert caught.value.step == "7a"

    @pytest.mark.parametrize("typ", [None, "JWT", "aat-pop+jwt", "application/aat+jwt", "AAT+JWT", "aat+jwt ", ["aat+jwt"]])
    def test_typ_is_exact(self, typ: Any) -> None:
        assert refused(root(header={**PROFILE_HEADER, "typ": typ})).step == "3a"


class TestProfileClaims:
    """A holder that tries to change what only the root may say, or to shed what binds it."""

    @pytest.mark.parametrize(
        ("claim", "step"),
        [
            ({"agent": "bob", "task": "t-2"}, "profile.task"),
            ({"agent": "bob", "task": "t-1"}, "profile.task"),
            ({"agent": "bob", "initiator": {"id": "user:root", "method": "mtls"}}, "profile.initiator"),
            ({"agent": "bob", "policy": "sha256:" + "ff" * 32}, "profile.policy"),
            ({"agent": "bob", "admin": True}, "profile"),
            ({"agent": "bob\u202e"}, "profile.agent"),
            ({}, "profile.agent"),
        ],
    )
    def test_refused(self, claim: dict[str, Any], step: str) -> None:
        base = root(agentguard={**ROOT_CLAIM, "policy": "sha256:" + "00" * 32})
        assert refused(base, child(base, agentguard=claim)).step == step

    def test_nothing_is_shed(self) -> None:
        """Leaving a member out keeps what the links above said: policy, environment, begin, uses and audience."""
        env = {"deployment": {"constraint_type": "exact", "value": "prod"}}
        bound = {**ROOT_CLAIM, "policy": "sha256:" + "00" * 32, "env": env, "nbf": NOW + 100, "uses": {"limit": 1, "domain": "d"}}
        base = root(agentguard=bound, aud="https://here.example")
        chain = accepted(base, child(base))
        assert chain.policies == (bound["policy"],)
        assert [(link, name) for link, name, _ in chain.env] == [(0, "deployment")]
        assert chain.uses == ((chain.root.hash, 1, "d"),)
        assert chain.audiences == ((0, ("https://here.example",)),)
        early = check_time(chain, NOW)
        assert early is not None
        assert early.step == "profile.nbf"

    def test_environments_and_uses_add_up(self) -> None:
        fact = {"constraint_type": "exact", "value": "prod"}
        base = root(agentguard={**ROOT_CLAIM, "env": {"deployment": fact}, "uses": {"limit": 5, "domain": "d"}})
        wide = {"agent": "bob", "env": {"deployment": {"constraint_type": "wildcard"}}, "uses": {"limit": 500, "domain": "e"}, "nbf": 0}
        chain = accepted(base, child(base, agentguard=wide))
        assert [link for link, _, _ in chain.env] == [0, 1]
        assert [limit for _, limit, _ in chain.uses] == [5, 500]
        assert chain.nbf == base.claims["iat"]


def test_a_parents_token_does_not_serve_the_childs_holder() -> None:
    """A prefix verifies as a chain of its own, but only for its own holder."""
    base = root()
    prefix = accepted(base)
    assert check_scope(prefix, "read_file", freeze(ARGS)) is None
    with pytest.raises(ChainError) as caught:
        verify_proof(any_proof(base, "read_file", ARGS, key=BOB).text, prefix.leaf, "read_file", freeze(ARGS), NOW)
    assert caught.value.step == "7b"


def test_a_sibling_leaf_with_the_same_jti() -> None:
    base = root()
    mine, other = child(base), child(base, exp=base.claims["exp"] - 120)
    assert mine.claims["jti"] == other.claims["jti"]
    with pytest.raises(ChainError) as caught:
        verify_proof(any_proof(mine, "read_file", ARGS).text, accepted(base, other).leaf, "read_file", freeze(ARGS), NOW)
    assert caught.value.step == "7c"


def test_errors_do_not_repeat_what_an_attacker_wrote_at_length() -> None:
    base = root(iss="https://" + "x" * 30_000)
    error = refused(base)
    assert len(str(error)) < 1000
    assert len(json.dumps(error.reason().found)) < 1000
    assert len(str(refused(root(), child(root(), tools={"t" * 30_000: {}}, holder=CAROL)))) < 1000


def _small_order_points() -> set[tuple[int, int]]:
    """The points of order 1, 2, 4 and 8, computed: the multiples of a point of order 8."""
    d = -121665 * pow(121666, -1, PRIME) % PRIME
    y = int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little")
    square = (y * y - 1) * pow(d * y * y + 1, -1, PRIME) % PRIME
    x = pow(square, (PRIME + 3) // 8, PRIME)
    if (x * x - square) % PRIME:
        x = x * pow(2, (PRIME - 1) // 4, PRIME) % PRIME
    point, points = (0, 1), set()
    for _ in range(8):
        points.add(point)
        (a, b), k = point, d * point[0] * x * point[1] * y
        point = (a * y + b * x) * pow(1 + k, -1, PRIME) % PRIME, (b * y + a * x) * pow(1 - k, -1, PRIME) % PRIME
    assert point == (0, 1)
    return points


@pytest.mark.parametrize("name", ["\x1b[31mred", "a\nb", "\ud800", "x" * 30_000, "рay", "\u202egnp.exe"])
def test_names_in_errors_are_printable(name: str) -> None:
    """What an attacker wrote cannot steer a terminal or a log."""
    base = root(tools={name: {}, "t": {}})
    wider = refused(root(tools={"t": {}}), child(root(tools={"t": {}}), tools={name: {}}))
    missing = check_scope(accepted(base), name + "2", freeze({}))
    assert missing is not None
    for error in (wider, missing, refused(root(iss=f"https://{name}")), refused(root(key=MALLORY, iss=f"https://{name}"))):
        for text in (str(error), error.subject, error.required, error.found):
            assert text.replace("…", "").isascii()
            assert text.isprintable()
            assert len(text) < 1200
