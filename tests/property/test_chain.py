"""Chains as a whole: what a leaf permits every ancestor permits (I4), and no byte of a token can be changed (I1, I5, I6).

Lineages are drawn with a seeded generator: the same ones on every run, and thousands in a few seconds.
"""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from agentguard.artifacts.chain import Anchor, ChainError, PrefixCache, TrustAnchors, VerifiedChain, check_scope, verify_structure
from agentguard.artifacts.proof import make_proof, verify_proof
from agentguard.canonical import freeze
from agentguard.keys import PublicKey
from support.artifacts import ANCHORS, ISS, NOW, chain_of, extend, key, mint, tools, verified
from vectors.forge import HEADER, PROFILE_HEADER, ROOT_KEY, WILDCARD, child, root

FORGED = TrustAnchors([Anchor(ISS, PublicKey.from_raw(ROOT_KEY.raw))])
VALUES: list[Any] = [0, 1, 2, 3, 2.5, True, None, "a", "b", "ab", [], ["a"], ["a", "b"], ["b", "a", "a"], {"k": 1}]
SCALARS: list[Any] = [0, 1, 2, 2.5, True, None, "a", "b"]
ELEMENTS: list[Any] = ["a", "b", 1]
NAMES = ["x", "y"]
CLAIM = {"agent": "a", "initiator": {"id": "user:ann", "method": "asserted"}, "task": "t"}


class Draw(random.Random):
    """Constraints over a small universe, so that relations between them are common."""

    def constraint(self, depth: int = 2) -> dict[str, Any]:
        kind = self.choice(["exact", "range", "one_of", "not_one_of", "contains", "subset", "wildcard", "all", "any", "all", "any"])
        if kind in ("all", "any"):
            clauses = [self.constraint(depth - 1) for _ in range(self.randint(1, 3))] if depth else [WILDCARD]
            return {"constraint_type": kind, "constraints": clauses}
        members: dict[str, Any] = {
            "exact": {"value": self.choice(SCALARS)},
            "range": self.bounds(),
            "one_of": {"values": self.choices(VALUES, k=self.randint(1, 5))},
            "not_one_of": {"excluded": self.choices(VALUES, k=self.randint(0, 3))},
            "contains": {"required": self.choices(ELEMENTS, k=self.randint(0, 2))},
            "subset": {"allowed": self.choices(ELEMENTS, k=self.randint(0, 3))},
            "wildcard": {},
        }[kind]
        return {"constraint_type": kind, **members}

    def bounds(self) -> dict[str, Any]:
        low, high = sorted(self.choices([0, 1, 2, 2.5, 3], k=2))
        result: dict[str, Any] = {}
        for name, bound in (("min", low), ("max", high)):
            if self.random() < 0.7:
                result[name] = bound
                if self.random() < 0.3:
                    result[f"{name}_inclusive"] = self.random() < 0.5
        return result

    def entry(self) -> dict[str, Any]:
        return {**self.constraint(), "optional": True} if self.random() < 0.4 else self.constraint()

    def map(self) -> dict[str, Any]:
        result = {name: self.entry() for name in NAMES if self.random() < 0.7}
        return {**result, "*": WILDCARD} if self.random() < 0.3 else result

    def below(self, parent: dict[str, Any]) -> dict[str, Any]:
        """A map that often narrows `parent`, and often almost does."""
        result = dict(parent) or {"*": WILDCARD}
        for _ in range(self.randint(0, 3)):
            name = self.choice(NAMES)
            change = self.randint(0, 5)
            if change == 0:
                result.pop("*", None)
            elif change == 1:
                result.pop(name, None)
            elif change == 2 and name in result:
                result[name] = {member: value for member, value in result[name].items() if member != "optional"}
            elif name in result:
                result[name] = self.narrower(result[name])
            else:
                result[name] = self.entry()
        return result

    def narrower(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Something that may stand under `entry`: fewer values, other bounds, fewer clauses, or just anything."""
        result = dict(entry)
        for name in ("values", "constraints", "allowed"):
            if name in result and self.random() < 0.8:
                result[name] = self.sample(result[name], k=self.randint(min(1, len(result[name])), len(result[name])))
                return result
        for name, pool in (("excluded", VALUES), ("required", ELEMENTS)):
            if name in result and self.random() < 0.8:
                result[name] = [*result[name], self.choice(pool)]
                return result
        if self.random() < 0.3:
            kept = {"optional": True} if entry.get("optional") else {}
            return {**self.constraint(1), **kept}
        return self.entry()

    def call(self) -> dict[str, Any]:
        return {name: self.choice(VALUES) for name in [*NAMES, "*"] if self.random() < (0.15 if name == "*" else 0.75)}


@pytest.mark.parametrize("profile", [False, True], ids=["plain", "profile"])
def test_what_a_leaf_permits_every_ancestor_permits(profile: bool) -> None:
    draw, judged = Draw(17), 0
    for _ in range(1200):
        prefixes = _lineage(draw, profile)
        for _ in range(12 if len(prefixes) > 1 else 0):
            call = freeze(draw.call())
            if check_scope(prefixes[-1], "t", call) is None:
                judged += 1
                for prefix in prefixes:
                    assert check_scope(prefix, "t", call) is None, (prefixes[-1].leaf.tools, prefix.leaf.tools, call)
    assert judged > 300  # or the property would hold for want of cases


def _lineage(draw: Draw, profile: bool) -> list[VerifiedChain]:
    """A random chain, as the list of its prefixes, up to the first link that does not narrow."""
    cache, arguments, verified_prefixes = PrefixCache(), draw.map(), list[VerifiedChain]()
    header = PROFILE_HEADER if profile else HEADER
    tokens = [root("lineage", tools={"t": arguments}, header=header, **(_claim(CLAIM) if profile else {}))]
    while True:
        try:
            verified_prefixes.append(verify_structure([token.text for token in tokens], FORGED, cache=cache))
        except ChainError:
            return verified_prefixes
        if len(tokens) == 4:
            return verified_prefixes
        arguments = draw.below(arguments)
        extra = _claim({"agent": "b"}) if profile else {}
        tokens.append(child(tokens[-1], str(len(tokens)), tools={"t": arguments}, header=header, **extra))


def _claim(body: dict[str, Any]) -> dict[str, Any]:
    return {"agentguard": body}


def test_any_bit_flip_in_any_token_denies() -> None:
    """Every position of every token, one bit each; also with a cache that knows the untouched chain."""
    chain, chance, cache = chain_of(3), random.Random(3), PrefixCache()
    verify_structure(chain.tokens, ANCHORS, cache=cache)
    for index, token in enumerate(chain.tokens):
        for place in range(len(token)):
            flipped = chr(ord(token[place]) ^ 1 << chance.randrange(8))
            tokens = (*chain.tokens[:index], token[:place] + flipped + token[place + 1 :], *chain.tokens[index + 1 :])
            with pytest.raises(ChainError):
                verify_structure(tokens, ANCHORS, cache=cache)
    assert verify_structure(chain.tokens, ANCHORS, cache=cache).digest == chain.digest


def test_any_bit_flip_in_a_proof_denies() -> None:
    leaf, arguments, chance = chain_of(2).leaf, freeze({"path": "/data/a"}), random.Random(5)
    token = make_proof(key("a1"), leaf, "read_file", arguments, NOW)
    for place in range(len(token)):
        flipped = token[:place] + chr(ord(token[place]) ^ 1 << chance.randrange(7)) + token[place + 1 :]
        with pytest.raises(ChainError):
            verify_proof(flipped, leaf, "read_file", arguments, NOW)


def test_only_the_honest_orders_verify() -> None:
    """Of all sequences over the tokens of two chains that share a root, exactly the prefixes of the two verify."""
    trunk = chain_of(1)
    left = verified(*trunk.tokens, extend(trunk, "a1"))
    left = verified(*left.tokens, extend(left, "a2"))
    right = verified(*trunk.tokens, extend(trunk, "a1"))
    honest = {left.tokens[:size] for size in (1, 2, 3)} | {right.tokens}
    pool = sorted({*left.tokens, *right.tokens})
    found = set()
    for size in (1, 2, 3, 4):
        for order in itertools.product(pool, repeat=size):
            try:
                verify_structure(order, ANCHORS)
            except ChainError:
                continue
            found.add(order)
    assert found == honest


def test_whatever_derives_verifies() -> None:
    """`derive` and the verifier agree: a token comes out exactly where the claims narrow, and then it verifies as asked."""
    draw, made, steps = Draw(23), 0, set[str]()
    for _ in range(250):
        above = draw.map()
        chain = verified(mint({"t": above}))
        for number in (1, 2):
            arguments = draw.below(above)
            try:
                token = extend(chain, f"a{number}", tools=tools({"t": arguments}), exp=NOW + draw.randint(1, 1000))
            except ChainError as refused:
                steps.add(refused.step)
                break
            chain, above, made = verified(*chain.tokens, token), arguments, made + 1
            assert chain.leaf.tools == tools({"t": arguments})
    assert made > 80
    assert steps == {"4h", "4p2", "4p3", "4p4"}
