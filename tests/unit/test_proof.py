"""Proof of possession and the request protocol (artifacts/proof.py, artifacts/request.py)."""

from __future__ import annotations

import json
import random
import time
from typing import Any

import pytest

from agentguard.artifacts.chain import ChainError, Limits
from agentguard.artifacts.making import dump_presentation
from agentguard.artifacts.proof import Proof, make_proof, verify_proof
from agentguard.artifacts.request import MAX_LINE, answer
from agentguard.canonical import freeze
from agentguard.decision import Code
from agentguard.errors import InvalidInput
from support.artifacts import ISS, ISSUER, NOW, chain_of, key, mint, verified
from vectors.forge import DEFAULTS, READ, Vectors, proof, request_line, root
from vectors.generate import FILES

ARGS = freeze({"path": "/data/a"})
LEAF = chain_of(2).leaf
HOLDER = key("a1")
HERE = ("https://here.example",)


def prove(tool: str = "read_file", arguments: Any = ARGS, now: int = NOW, **members: Any) -> str:
    return make_proof(HOLDER, LEAF, tool, arguments, now, **members)


def step_of(token: str, tool: str = "read_file", arguments: Any = ARGS, now: float = NOW, **members: Any) -> str:
    with pytest.raises(ChainError) as refused:
        verify_proof(token, LEAF, tool, arguments, now, **members)
    assert refused.value.code is Code.PROOF_INVALID
    assert refused.value.link == 1
    return refused.value.step


class TestProof:
    def test_round_trip(self) -> None:
        result = verify_proof(prove(jti="p-1"), LEAF, "read_file", ARGS, NOW + 30)
        assert result == Proof("p-1", NOW)

    def test_plain_and_frozen_arguments_are_the_same(self) -> None:
        assert verify_proof(prove(arguments={"path": "/data/a"}), LEAF, "read_file", ARGS, NOW)
        deep = {"a": [{"b": (1, 2.0)}], "é": None}
        assert verify_proof(prove(arguments=freeze(deep)), LEAF, "read_file", {"é": None, "a": [{"b": [1.0, 2]}]}, NOW)

    def test_every_proof_is_another(self) -> None:
        assert prove() != prove()

    def test_what_is_signed_is_what_counts(self) -> None:
        assert step_of(prove(), tool="search") == "7e"
        assert step_of(prove(), arguments=freeze({"path": "/data/b"})) == "7f"
        assert step_of(prove(), arguments=freeze({})) == "7f"
        assert step_of(prove(), now=NOW + 31) == "7g"
        assert step_of(prove(), now=NOW - 30.5) == "7g"
        assert step_of(prove(), now=NOW + 6, limits=Limits(pop_window=5)) == "7g"

    def test_audience(self) -> None:
        assert verify_proof(prove(aud=HERE[0]), LEAF, "read_file", ARGS, NOW, audience=HERE, require_aud=True)
        assert verify_proof(prove(), LEAF, "read_file", ARGS, NOW, audience=HERE)
        assert step_of(prove(), audience=HERE, require_aud=True) == "7d"
        assert step_of(prove(aud="https://other.example"), audience=HERE) == "7d"
        assert step_of(prove(aud=HERE[0])) == "7d"
        assert step_of(prove(aud="https://here"), audience=HERE[0]) == "7d"

    def test_nonce_and_seen(self) -> None:
        assert verify_proof(prove(nonce="n"), LEAF, "read_file", ARGS, NOW, nonce=["m", "n"])
        assert step_of(prove(nonce="n"), nonce=["m"]) == "7h"
        assert step_of(prove(nonce="n"), nonce="nn") == "7h"
        assert step_of(prove(), nonce=["m"]) == "7h"
        assert step_of(prove(nonce="n"), nonce=[]) == "7h"
        assert step_of(prove(jti="p-1"), seen={"p-1"}) == "7i"

    def test_another_leaf(self) -> None:
        with pytest.raises(ChainError) as refused:
            verify_proof(prove(), chain_of(2).leaf, "read_file", ARGS, NOW)
        assert refused.value.step == "7c"
        with pytest.raises(ChainError) as refused:
            verify_proof(prove(), chain_of(1).leaf, "read_file", ARGS, NOW)
        assert refused.value.step == "7b"

    def test_only_the_holder_makes_one(self) -> None:
        with pytest.raises(InvalidInput, match="holder"):
            make_proof(key("a0"), LEAF, "read_file", ARGS, NOW)

    def test_arguments_without_json_form_make_none(self) -> None:
        with pytest.raises(InvalidInput):
            prove(arguments={"x": float("nan")})

    @pytest.mark.parametrize("token", ["", ".", "..", "...", "a.b", "ä.b.c", "x" * 70_000, "\ud800.a.b", LEAF.token])
    def test_rubbish_is_step_7a(self, token: str) -> None:
        assert step_of(token) == "7a"


def a_request(**members: Any) -> dict[str, Any]:
    chain = verified(mint(plain=True))
    pop = make_proof(key("a0"), chain.leaf, "read_file", {"path": "/data/a"}, NOW)
    presentation = dump_presentation(chain.tokens, pop)
    return {
        "chain": presentation["aat_chain"],
        "pop": presentation["aat_pop"],
        "tool": "read_file",
        "args": {"path": "/data/a"},
        "now": NOW,
        "trust_anchors": [{"iss": ISS, "jwk": ISSUER.public.jwk()}],
        **members,
    }


class TestRequest:
    def test_permit(self) -> None:
        assert answer(json.dumps(a_request()).encode()) == {"verdict": "PERMIT", "step": "8", "code": None}

    def test_our_profile_is_not_understood(self) -> None:
        chain = verified(mint())
        pop = make_proof(key("a0"), chain.leaf, "read_file", {"path": "/data/a"}, NOW)
        given = answer(json.dumps(a_request(chain=list(chain.tokens), pop=pop)))
        assert given == {"verdict": "DENY", "step": "3a", "code": "artifact_malformed"}

    def test_codes_of_refusals(self) -> None:
        for members, step, code in (
            ({"chain": []}, "1", "artifact_missing"),
            ({"pop": None}, "7a", "proof_missing"),
            ({"tool": "x"}, "6b", "tool_not_in_scope"),
            ({"args": {}}, "6b", "argument_not_in_scope"),
            ({"now": NOW + 900}, "3e", "artifact_expired"),
            ({"now": NOW - 31}, "3f", "artifact_not_yet_valid"),
            ({"policy": {"require_chain_aud": True}}, "6c", "audience_mismatch"),
            ({"policy": {"require_pop_aud": True}}, "7d", "proof_invalid"),
            ({"trust_anchors": []}, "3b", "issuer_untrusted"),
            ({"tool": 5}, "0", "malformed_call"),
        ):
            assert answer(json.dumps(a_request(**members))) == {"verdict": "DENY", "step": step, "code": code}

    def test_now_may_have_a_fraction(self) -> None:
        assert answer(json.dumps(a_request(now=NOW + 29.5)))["verdict"] == "PERMIT"

    def test_too_long_a_line(self) -> None:
        assert answer(b" " * (MAX_LINE + 1))["step"] == "0"

    @pytest.mark.parametrize(
        "line", [b"", b"\xff\xfe", b"\x00", "\ud800", b"5", b'"x"', b"[" * 100_000, b'{"a":' * 100_000, b"1" * 100_000]
    )
    def test_never_raises_for_rubbish(self, line: bytes) -> None:
        assert answer(line)["verdict"] == "DENY"

    def test_never_raises_for_mutated_requests(self) -> None:
        """Requests with a value, a character or a stretch of text replaced: a verdict, and no exception."""
        chance = random.Random(7)
        odd: list[Any] = [None, True, 5, -1, 1.5, "", "x", [], {}, [[]], {"a": {}}, "\ud800", 2**70, 1e300]
        for _ in range(1500):
            request = a_request() if chance.random() < 0.02 else json.loads(TEMPLATE)
            _mutate(request, chance, odd)
            assert answer(json.dumps(request))["verdict"] in ("PERMIT", "DENY")
            line = bytearray(TEMPLATE.encode())
            for _ in range(chance.randrange(1, 4)):
                line[chance.randrange(len(line))] = chance.randrange(256)
            assert answer(bytes(line))["verdict"] in ("PERMIT", "DENY")

    def test_never_raises_for_mutated_vectors(self) -> None:
        chance = random.Random(11)
        odd: list[Any] = [None, 0, "", [], {}, "\udfff", 10**25, [None]]
        vectors: list[Vectors] = [build() for name, build in FILES.items() if name in ("calls.json", "proofs.json")]
        for vector in (item for file in vectors for item in file.items if "request" in item):
            request = {**DEFAULTS, **json.loads(json.dumps(vector["request"]))}
            _mutate(request, chance, odd)
            assert answer(request_line({}, {"request": request}))["verdict"] in ("PERMIT", "DENY")

    def test_work_grows_with_the_size_of_the_request_only(self) -> None:
        """Claims of the largest token, in shapes that invite quadratic work."""
        for name, tools in (
            ("values", {"t": {"x": {"constraint_type": "one_of", "values": list(range(8000))}}}),
            (
                "clauses",
                {"t": {"x": {"constraint_type": "any", "constraints": [{"constraint_type": "exact", "value": n} for n in range(900)]}}},
            ),
            ("tools", {f"tool-{number}": {} for number in range(3500)}),
            ("arguments", {"t": {f"a{number}": {"constraint_type": "wildcard", "optional": True} for number in range(700)}}),
        ):
            token = root(name, tools=tools)
            request = {**DEFAULTS, "chain": [token.text], "pop": proof(token, *READ).text, "tool": "t", "args": {"x": 5}}
            begun = time.perf_counter()
            answer(json.dumps(request))
            assert time.perf_counter() - begun < 0.5, name


TEMPLATE = json.dumps(a_request(policy={"audience": "https://here.example"}, limits={"pop_window": 30}))


def _mutate(value: Any, chance: random.Random, odd: list[Any]) -> None:
    """Replace one member somewhere in a tree of objects and arrays."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            return
        place = chance.choice(keys)
        inner = value[place]
        if isinstance(inner, (dict, list)) and inner and chance.random() < 0.6:
            value = inner
            continue
        value[place] = chance.choice(odd)
        return
