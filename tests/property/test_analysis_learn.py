"""A learned policy allows every call it learned from, whatever was in it, and learns from no other; the order of the calls says nothing."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agentguard.analysis.learn import Learned, learn
from agentguard.analysis.shapes import merged, pattern_of, shape_of
from agentguard.analysis.trace import Called
from agentguard.canonical import freeze
from agentguard.constraints.matchers import Regex
from agentguard.decision import Verdict
from agentguard.errors import InvalidInput
from agentguard.policy import load

NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
WORDS = st.sampled_from(
    ["T-7", "INV42", "/srv/a/b.txt", "/srv/a", "/etc/x/", "/", "", "a b", "no", "~", "é", "\n", "a: b #", "'", '"', "\\"]
)
ADDRESSES = st.sampled_from(
    [
        "https://a.example/x/1",
        "https://b.example",
        "http://a.example:8000/x",
        "https://a.example/%2e",
        "https://a.example/?q",
        "https://[::1]/",
        "ann@example.com",
        "bob@example.org",
        "x@y@z",
        "ann@EXAMPLE.com",
        "https://a.example:bad/",
        "https://A.example/",
        "://",
        "@",
    ]
)
TEXTS = (
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
    | WORDS
    | ADDRESSES
    | st.from_regex(r"[a-f0-9]{4}-[0-9]{1,3}", fullmatch=True)
)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=2), max_leaves=4)
NAMES = st.sampled_from(["a", "b", "on", "x: y", "#c", "é", "n", "0", "*", "", "~", "optional", "a" * 300, "\u202e", "\U0001f600" * 200])
VERDICTS = st.sampled_from([Verdict.ALLOW, Verdict.ALLOW, Verdict.ALLOW, Verdict.DENY, Verdict.ASK, None])


@st.composite
def calls(draw: st.DrawFn) -> list[Called]:
    found = []
    for number in range(draw(st.integers(1, 12))):
        arguments: Any = draw(st.dictionaries(NAMES, VALUES, max_size=3) | st.none())
        verdict = draw(VERDICTS)
        agent, tool = draw(st.sampled_from(["a", "on", "x y", "[", "a:"])), draw(st.sampled_from(["t", "#t", "{t}", "*", "&t"]))
        found.append(Called(agent, tool, None if arguments is None else freeze(arguments), verdict, None, draw(st.booleans()), str(number)))
    return found


def learned(given: list[Called], **options: Any) -> Learned | None:
    try:
        return learn(lambda: given, **options)
    except InvalidInput as error:
        if "allowed and ended well" not in str(error):
            raise
        return None


@given(calls(), st.integers(0, 10), st.randoms(use_true_random=False))
def test_what_is_learned_covers_what_it_was_learned_from_and_no_more(given: list[Called], few: int, order: random.Random) -> None:
    found = learned(given, few=few)
    fit = [one for one in given if one.verdict is Verdict.ALLOW and one.succeeded and one.arguments is not None]
    if found is None:
        return
    again = load(found.text)
    assert again.digest == found.policy.digest == load(again.canonical.decode()).digest
    assert found.text.isascii()
    # every fit call, but for those whose names no policy can hold, which are counted
    refused = [one for one in fit if one.arguments is not None and again.judge(one.agent, one.tool, one.arguments) is not None]
    assert len(refused) == found.left_out.get("with names that no policy can hold", 0)
    assert found.calls + sum(found.left_out.values()) == len(given)
    # agents, tools and arguments are those of fit calls
    for agent, rules in again.agents.items():
        for tool, rule in rules.tools.items():
            assert set(rule.arguments) <= {name for one in fit if (one.agent, one.tool) == (agent, tool) for name in one.arguments or ()}
            assert not rule.map.rest
    order.shuffle(given)
    shuffled = learned(given, few=few)
    assert shuffled is not None
    assert shuffled.text == found.text
    assert repr(shuffled.tools) == repr(found.tools)
    # calls that teach nothing change nothing but the line that counts them
    only = learned(fit, few=few)
    assert only is not None
    assert only.policy.digest == found.policy.digest


@given(st.lists(st.lists(VALUES, min_size=1, max_size=40), min_size=1, max_size=2), st.integers(0, 8))
@settings(max_examples=40)
def test_many_values_of_one_argument(columns: list[list[Any]], few: int) -> None:
    given = [
        Called("a", f"t{index}", freeze({"x": value}), Verdict.ALLOW, None, True, "")
        for index, column in enumerate(columns)
        for value in column
    ]
    found = learn(lambda: given, few=few)
    assert all(found.policy.judge(one.agent, one.tool, one.arguments or {}) is None for one in given)


@given(st.lists(st.from_regex(r"\A[A-Z]{1,2}[-_.+(]?[0-9a-f]{1,4}\Z"), min_size=1, max_size=6), st.booleans())
@example(["T-7", "T-42"], True)
def test_a_shape_matches_the_texts_it_is_of(texts: list[str], fine: bool) -> None:
    shape = shape_of(texts[0], fine=fine)
    for text in texts[1:]:
        other = shape_of(text, fine=fine)
        shape = merged(shape, other) if shape is not None and other is not None else None
    if shape is not None:
        regex = Regex(pattern_of(shape))
        assert all(regex.check(text) for text in texts)
        assert not regex.check(texts[0] + "\n")
        assert not regex.check(texts[0] + "/")


def test_the_property_can_fail() -> None:
    """The check inside of `learn` is a check: a second reading with another call is found out."""
    given = [Called("a", "t", freeze({"x": 1}), Verdict.ALLOW, None, True, "1")]
    other = [Called("a", "t", freeze({"x": 2}), Verdict.ALLOW, None, True, "2")]
    for second in (other, given + given, []):
        readings = iter([given, second])
        with pytest.raises(InvalidInput, match="changed while they were read"):
            learn(lambda: next(readings))  # noqa: B023  # called twice within
