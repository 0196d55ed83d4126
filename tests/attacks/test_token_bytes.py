"""Attacks on the bytes of tokens, by name: encodings, duplicate members, bombs, wrong types (PITFALLS, AAT §14)."""

from __future__ import annotations

from typing import Any

import pytest

from support.forged import accepted, child, refused, root
from vectors.forge import ALICE, BOB, ISSUER, NOW, PROFILE_HEADER, ROOT_KEY, bare, encode, sign


class TestDuplicateMembers:
    @pytest.mark.parametrize(
        "extra", [b'"exp":9999999999', b'"cnf":{}', b'"agentguard":{}', b'"\\u0065xp":1', b'"zz":1,"zz":1', b'"z":{"a":1,"a":2}']
    )
    def test_at_any_depth(self, extra: bytes) -> None:
        base = root()
        twice = encode(base.claims)[:-1] + b"," + extra + b"}"
        assert refused(sign(twice, ROOT_KEY, PROFILE_HEADER, ALICE)).step == "3b"

    def test_in_the_header(self) -> None:
        header = b'{"alg":"none","alg":"Ed25519","typ":"aat+jwt","crit":["agentguard"],"agentguard":1}'
        assert refused(root(header=header)).step == "3a"

    def test_a_second_jti_is_no_way_around_the_cycle_check(self) -> None:
        base = root()
        twice = b'{"jti":"' + base.claims["jti"].encode() + b'",' + encode(child(base).claims)[1:]
        assert refused(base, sign(twice, ALICE, PROFILE_HEADER, BOB)).step in ("2c", "4b")


class TestEncoding:
    def mutations(self, segment: str) -> list[str]:
        last = segment[-1]
        loose = segment[:-1] + chr(ord(last) + 1) if last not in "zZ9-_" else segment + "A"
        return [segment + "=", segment + "==", " " + segment, segment + "\n", segment[:5] + "\r\n" + segment[5:], segment + "\0", loose]

    @pytest.mark.parametrize("index", [0, 1, 2])
    def test_base64url_is_strict(self, index: int) -> None:
        segments = list(bare(root("enc")))
        for other in self.mutations(segments[index]):
            assert refused(".".join([*segments[:index], other, *segments[index + 1 :]])).step in ("2c", "3a", "3b")

    def test_padding_that_carries_bits(self) -> None:
        head, body, mark = bare(root("enc"))
        for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_":
            if letter != mark[-1]:
                assert refused(f"{head}.{body}.{mark[:-1]}{letter}").step == "3b"

    def test_standard_alphabet(self) -> None:
        head, body, mark = bare(root("alphabet 2"))
        other = mark.replace("-", "+").replace("_", "/")
        assert other != mark
        assert refused(f"{head}.{body}.{other}").step == "3b"

    @pytest.mark.parametrize(
        "payload",
        [b"\xef\xbb\xbf{}", b"\xff\xfe{\x00}\x00", b'{"jti":"\xed\xa0\x80"}', b'{"jti":"a"}\x00', b'{"jti":"a",}', b"{'jti':'a'}"],
    )
    def test_payloads_are_utf8_json(self, payload: bytes) -> None:
        assert refused(sign(payload, ROOT_KEY, PROFILE_HEADER, ALICE)).step in ("2c", "3b")

    @pytest.mark.parametrize("constant", [b"NaN", b"Infinity", b"-Infinity"])
    def test_no_nan(self, constant: bytes) -> None:
        claims = encode(root().claims)[:-1] + b',"x":' + constant + b"}"
        assert refused(sign(claims, ROOT_KEY, PROFILE_HEADER, ALICE)).step == "3b"


class TestBombs:
    def test_a_token_over_64_kib(self) -> None:
        assert refused(root(x="a" * 50_000)).step == "2a"

    def test_a_chain_over_256_kib(self) -> None:
        tokens = [root(x="a" * 47_000)]
        while len(tokens) < 6:
            tokens.append(child(tokens[-1], str(len(tokens)), x="a" * 47_000))
        assert refused(*tokens).step == "2b"

    def test_a_chain_of_eighteen(self) -> None:
        tokens = [root(del_max_depth=16)]
        while len(tokens) < 18:
            tokens.append(child(tokens[-1], str(len(tokens)), iat=NOW - 300, exp=NOW + 3300))
        accepted(*tokens[:17])
        assert refused(*tokens).step == "4e"

    @pytest.mark.parametrize("depth", [300, 900, 5000, 15_000])
    def test_deep_json(self, depth: int) -> None:
        for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
            inner = opening * depth + (b"1" if opening == b'{"a":' else b"") + closing * depth
            claims = encode(root().claims)[:-1] + b',"x":' + inner + b"}"
            assert refused(sign(claims, ROOT_KEY, PROFILE_HEADER, ALICE)).step in ("2a", "2c", "3b")

    def test_deep_headers(self) -> None:
        header = encode(PROFILE_HEADER)[:-1] + b',"x":' + b"[" * 20_000 + b"]" * 20_000 + b"}"
        assert refused(root(header=header)).step == "3a"

    @pytest.mark.parametrize("kind", ["all", "any"])
    def test_deep_constraints(self, kind: str) -> None:
        opening, closing = f'{{"constraint_type":"{kind}","constraints":['.encode(), b"]}"
        for depth, fine in ((32, True), (33, False), (120, False), (600, False)):
            tree = opening * (depth - 1) + b'{"constraint_type":"wildcard"}' + closing * (depth - 1)
            claims = encode(root(f"{kind} {depth}", tools={"t": {"x": "@"}}).claims).replace(b'"@"', tree)
            token = sign(claims, ROOT_KEY, PROFILE_HEADER, ALICE)
            if fine:
                accepted(token)
            else:
                assert refused(token).step in ("3n", "3b", "2c")

    def test_long_numbers(self) -> None:
        for digits in (400, 5000, 20_000):
            claims = encode(root().claims)[:-1] + b',"x":' + b"9" * digits + b"}"
            accepted(sign(claims, ROOT_KEY, PROFILE_HEADER, ALICE))
            number = encode(root().claims).replace(b'"del_max_depth":3', b'"del_max_depth":' + b"9" * digits)
            assert refused(sign(number, ROOT_KEY, PROFILE_HEADER, ALICE)).step == "3i"


class TestWrongTypes:
    @pytest.mark.parametrize(
        ("claim", "value", "step"),
        [
            ("del_depth", False, "3c"), ("del_depth", "0", "3c"), ("del_depth", None, "3c"), ("del_depth", [0], "3c"),
            ("del_max_depth", True, "3i"), ("del_max_depth", 2.5, "3i"), ("iat", True, "3b"), ("exp", "1", "3b"), ("exp", None, "3b"),
            ("par_hash", None, "3d"), ("par_hash", False, "3d"), ("jti", "", "3j"), ("iss", [ISSUER], "3k"), ("cnf", [], "3l"),
            ("authorization_details", "x", "3m"), ("authorization_details", {}, "3m"),
        ],
    )  # fmt: skip
    def test_refused_at_their_step(self, claim: str, value: Any, step: str) -> None:
        assert refused(root(**{claim: value})).step == step
