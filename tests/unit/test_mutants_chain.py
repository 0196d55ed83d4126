"""The edges of a chain's verification: what exactly fits, which link an error names, and what the cache holds (artifacts/chain.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from agentguard.artifacts import chain as chain_module
from agentguard.artifacts.chain import (
    ChainError,
    Limits,
    PrefixCache,
    VerifiedChain,
    check_audience,
    check_scope,
    check_time,
    verify_structure,
    walk,
)
from agentguard.decision import Code
from support.artifacts import ANCHORS, NOW, chain_of, extend, mint, profile, verified

WILDCARD = {"constraint_type": "wildcard"}


def refused(check: Callable[[], object]) -> ChainError:
    with pytest.raises(ChainError) as error:
        check()
    return error.value


class TestSizes:
    def test_a_chain_as_long_as_the_limit_fits_and_a_byte_more_does_not(self) -> None:
        tokens = chain_of(3).tokens
        total = sum(map(len, tokens))
        assert len(verify_structure(tokens, ANCHORS, Limits(max_chain_size=total)).links) == 3
        error = refused(lambda: verify_structure(tokens, ANCHORS, Limits(max_chain_size=total - 1)))
        assert (error.code, error.step, error.link) == (Code.ARTIFACT_MALFORMED, "2b", 0)

    def test_a_token_as_long_as_the_limit_fits_and_a_byte_more_does_not(self) -> None:
        tokens = chain_of(2).tokens
        longest = max(map(len, tokens))
        assert len(verify_structure(tokens, ANCHORS, Limits(max_token_size=longest)).links) == 2
        error = refused(lambda: verify_structure(tokens, ANCHORS, Limits(max_token_size=longest - 1)))
        assert (error.code, error.step, error.link) == (Code.ARTIFACT_MALFORMED, "2a", [len(token) for token in tokens].index(longest))

    @pytest.mark.parametrize("text", ["\u00e9" * 20_000, "\U0001f600" * 10_000, "\udc80" * 14_000])
    def test_bytes_count_and_not_characters(self, text: str) -> None:
        """Otherwise text of four bytes a character brings four times what the limit says."""
        error = refused(lambda: verify_structure((text,), ANCHORS, Limits(max_token_size=39_999)))
        assert (error.step, error.link) == ("2a", 0)

    def test_an_empty_chain_is_a_fault_of_the_root(self) -> None:
        error = refused(lambda: verify_structure((), ANCHORS))
        assert (error.code, error.step, error.link) == (Code.ARTIFACT_MISSING, "1", 0)


class TestLinks:
    @pytest.mark.parametrize("by", [1, -1])
    def test_a_length_that_the_leaf_does_not_say_is_refused_whatever_the_link_said(self, by: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Step 5 stands on its own: each link's depth was compared with the one above, and here that comparison is gone."""
        real = vars(chain_module)["child_link"]

        def moved(token: Any, parent: Any, index: int, **options: Any) -> Any:
            link = real(token, parent, index, **options)
            return replace(link, depth=link.depth + by) if index == 3 else link

        tokens = chain_of(4).tokens
        monkeypatch.setattr(chain_module, "child_link", moved)
        error = refused(lambda: verify_structure(tokens, ANCHORS))
        assert (error.code, error.step, error.link) == (Code.DELEGATION_INVALID, "5", 3)

    def test_the_longest_known_prefix_is_asked_for_first_and_the_root_last(self) -> None:
        asked: list[int] = []

        def prefix(size: int) -> VerifiedChain | None:
            asked.append(size)
            return None

        walk(chain_of(4).tokens, ANCHORS, Limits(), now=None, understand=True, prefix=prefix)
        assert asked == [3, 2, 1]

    def test_an_unverified_token_is_named_by_its_place_behind_a_known_prefix(self) -> None:
        cache, chain = PrefixCache(), chain_of(3)
        verify_structure(chain.tokens, ANCHORS, cache=cache)
        error = refused(lambda: verify_structure((*chain.tokens, "x"), ANCHORS, cache=cache))
        assert (error.step, error.link) == ("2c", 3)

    @pytest.mark.parametrize("length", [1, 2, 4])
    def test_a_chain_without_the_audience_that_is_required_is_a_fault_of_the_leaf(self, length: int) -> None:
        error = check_audience(chain_of(length), ("https://here.example",), require=True)
        assert error is not None
        assert (error.code, error.step, error.link) == (Code.AUDIENCE_MISMATCH, "6c", length - 1)


class TestWords:
    def test_a_refused_tool_is_told_of_eight_that_are_granted(self) -> None:
        chain = verified(mint({f"tool_{number}": {"x": WILDCARD} for number in range(10)}))
        error = check_scope(chain, "delete", {})
        assert error is not None
        assert error.required == "one of: " + ", ".join(f"tool_{number}" for number in range(8))

    def test_a_foreign_audience_is_shown_up_to_256_characters(self) -> None:
        for length, shown in ((256, "a" * 256), (257, "a" * 255 + "…")):
            error = check_audience(verified(mint(aud=("a" * length,))), ("https://here.example",))
            assert error is not None
            assert error.found == shown

    def test_a_foreign_audience_is_told_who_is_here(self) -> None:
        chain = verified(mint(aud=("https://there.example",)))
        for here, required in ((("https://b.example", "https://a.example"), "https://a.example or https://b.example"), ((), "no audience")):
            error = check_audience(chain, here)
            assert error is not None
            assert (error.required, error.found) == (required, "https://there.example")

    def test_a_default_is_held_to_each_link_above_the_leaf_and_not_to_the_root_only(self) -> None:
        """The link in the middle says at most 10; the leaf leaves the argument out, and the tool's own default is 11."""
        base = chain_of(1)
        limit = {"constraint_type": "range", "min": 1, "max": 10, "optional": True}
        middle = verified(*base.tokens, extend(base, "a1", {"search": {"query": WILDCARD, "limit": limit}}))
        for length in (3, 4):
            chain = middle
            for number in range(2, length):
                chain = verified(*chain.tokens, extend(chain, f"a{number}", {"search": {"query": WILDCARD}}))
            assert check_scope(chain, "search", {"query": "x"}, {"query": "x", "limit": 10}) is None
            error = check_scope(chain, "search", {"query": "x"}, {"query": "x", "limit": 11})
            assert error is not None
            assert (error.code, error.link, error.subject) == (Code.ARGUMENT_NOT_IN_SCOPE, length - 1, "limit")

    def test_a_link_above_that_refuses_a_default_is_a_fault_of_the_leaf_that_left_it_out(self) -> None:
        base = chain_of(1)
        chain = verified(*base.tokens, extend(base, "a1", {"search": {"query": WILDCARD}}))
        error = check_scope(chain, "search", {"query": "x"}, {"query": "x", "limit": 51})
        assert error is not None
        assert (error.code, error.link, error.subject) == (Code.ARGUMENT_NOT_IN_SCOPE, 1, "limit")


class TestTime:
    @pytest.mark.parametrize("now", [NOW, NOW + 69, NOW + 70, NOW + 200])
    def test_a_token_from_the_future_is_not_valid_though_it_says_that_it_began_long_ago(self, now: int) -> None:
        """`nbf` may say an earlier time than `iat`; each of the two is held to the clock."""
        chain = verified(mint(now=NOW + 100, profile=profile(nbf=NOW - 100)))
        error = check_time(chain, now)
        if now < NOW + 70:
            assert error is not None
            assert (error.code, error.step, error.link) == (Code.ARTIFACT_NOT_YET_VALID, "3f", 0)
        else:
            assert error is None

    def test_a_link_at_the_edge_of_the_skew_is_not_the_one_that_is_blamed(self) -> None:
        first = verified(mint(now=NOW + 30))
        chain = verified(*first.tokens, extend(first, "a1", now=NOW + 50))
        error = check_time(chain, NOW)
        assert error is not None
        assert (error.step, error.link) == ("4k", 1)


def weight(tokens: tuple[str, ...]) -> int:
    """What an entry counts: 4 KiB, 128 bytes for each token of its key, ten times the text of its last link."""
    return 4096 + 128 * len(tokens) + 10 * len(tokens[-1])


def weights(tokens: tuple[str, ...]) -> int:
    return sum(weight(tokens[:size]) for size in range(1, len(tokens) + 1))


class TestCache:
    @pytest.mark.parametrize("length", [1, 2, 3, 5])
    def test_it_holds_what_fits_and_a_byte_less_does_not(self, length: int) -> None:
        chain = chain_of(length)
        exact, short = PrefixCache(weights(chain.tokens)), PrefixCache(weights(chain.tokens) - 1)
        for cache in (exact, short):
            verify_structure(chain.tokens, ANCHORS, cache=cache)
        assert (len(exact), len(short)) == (length, length - 1)

    def test_what_left_is_not_counted_any_more(self) -> None:
        chains = [chain_of(3) for _ in range(4)]
        cache = PrefixCache(max(weights(chain.tokens) for chain in chains))
        for chain in chains:
            verify_structure(chain.tokens, ANCHORS, cache=cache)
            assert len(cache) == 3
            assert cache.get(ANCHORS.digest, Limits(), chain.tokens) is not None

    def test_what_is_there_already_is_counted_once(self) -> None:
        chain = chain_of(3)
        cache = PrefixCache(weights(chain.tokens))
        for _ in range(3):
            cache.add(ANCHORS.digest, Limits(), chain)
        assert len(cache) == 3

    def test_what_was_asked_for_stays_the_longest(self) -> None:
        one, two, three = (chain_of(1) for _ in range(3))
        cache = PrefixCache(weights(one.tokens) + weights(two.tokens) + weights(three.tokens) - 1)
        for chain in (one, two, one, three):
            verify_structure(chain.tokens, ANCHORS, cache=cache)
        held = [cache.get(ANCHORS.digest, Limits(), chain.tokens) is not None for chain in (one, two, three)]
        assert held == [True, False, True]

    def test_it_holds_16_mebibytes_unless_told_otherwise(self) -> None:
        cache = PrefixCache()
        verify_structure(tokens := chain_of(1).tokens, ANCHORS, cache=cache)
        assert (len(cache), cache._size, cache._max) == (1, weights(tokens), 16 * 1024 * 1024)
