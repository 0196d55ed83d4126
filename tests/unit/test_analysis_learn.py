"""`agentguard policy learn`: the narrowest rule for what came, what it says about itself, and what it never learns from."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from agentguard import Denied, Guard, ToolCall
from agentguard.analysis.learn import Learned, chains_of, gather, learn
from agentguard.analysis.trace import Called, from_home, from_lines
from agentguard.canonical import freeze
from agentguard.decision import Verdict
from agentguard.errors import InvalidInput

HEAD = "# Learned from {} that ended well. It says what was done, not what should be allowed: review every rule."


def called(tool: str, arguments: Any, agent: str = "a") -> Called:
    return Called(agent, tool, freeze(arguments), Verdict.ALLOW, None, True, "")


def learned(values: Iterable[Any], **options: Any) -> Learned:
    """From one call of `t` with `x` for each value."""
    given = [called("t", {"x": value}) for value in values]
    return learn(lambda: given, **options)


def rule(values: Iterable[Any], **options: Any) -> Any:
    return learned(values, **options).tools["a", "t"].arguments["x"].rule


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["eu"], {"exact": "eu"}),
        (["prod", "staging", "prod"], {"one_of": ["prod", "staging"]}),
        ([None, "a"], {"one_of": [None, "a"]}),
        ([True], {"exact": True}),
        ([True, False, 1], {"one_of": [False, True, 1]}),
        ([3, 1, 2], {"one_of": [1, 2, 3]}),
        ([1, 1.0], {"exact": 1}),
        ([5, 1, 2.5, 4], {"range": {"min": 1, "max": 5}}),
        ([f"/srv/tickets/{n}.txt" for n in range(12)], {"path": "/srv/tickets"}),
        ([f"/srv/{n}/a" for n in range(12)] + ["/srv"], {"path": "/srv"}),
        ([f"/{root}/{n}" for n in range(6) for root in ("etc", "srv")], {"any": [{"path": "/etc"}, {"path": "/srv"}]}),
        ([f"/{n}/x" for n in range(12)], {"path": "/"}),
        ([f"/srv/{n}/../x" for n in range(12)], {"regex": r"/srv/[0-9]{1,2}/\.\./x"}),
        ([f"https://a.example/v1/{n}?q={n}" for n in range(12)], {"url": {"hosts": ["a.example"], "path": "/v1"}}),
        ([f"https://{h}.example/{n}" for n in range(6) for h in "ab"], {"url": {"hosts": ["a.example", "b.example"]}}),
        (
            [f"http://127.0.0.1:8000/{n}" for n in range(12)],
            {"url": {"hosts": ["127.0.0.1"], "schemes": ["http"], "ports": [8000]}},
        ),
        ([f"u{n}@example.com" for n in range(12)], {"email": {"domains": ["example.com"]}}),
        ([f"T-{n}" for n in range(12)], {"regex": "T-[0-9]{1,2}"}),
        ([f"{n * 7919:08x}" for n in range(12)], {"regex": "[0-9a-f]{8}"}),
        ([f"{chr(97 + n)}-x.csv" for n in range(12)], {"regex": r"[a-z]-x\.csv"}),
        ([f"Hello number {n}" for n in range(12)], {"max_length": 15}),
        (["x" * 65], {"regex": "x" * 65}),
        (["a\u202eb"], {"max_length": 3}),
        ([["a"], ["b", "a"], []], {"subset": ["a", "b"]}),
        ([[]], {"subset": []}),
        ([[["deep"]]], {"type": "array"}),
        ([[str(n)] for n in range(20)], {"type": "array"}),
        ([{"k": 1}], {"one_of": [{"k": 1}]}),
        ([{"k": n} for n in range(5)], {"type": "object"}),
        ([None, *(f"T-{n}" for n in range(12))], {"any": [{"exact": None}, {"regex": "T-[0-9]{1,2}"}]}),
    ],
    ids=lambda value: str(value)[:40],
)
def test_the_narrowest_rule(values: list[Any], expected: Any) -> None:
    assert rule(values) == expected


def test_what_is_not_like_the_others_is_refused() -> None:
    policy = learned(f"T-{n}" for n in range(12)).policy
    assert policy.judge("a", "t", {"x": "T-99"}) is None
    for x in ("T-100", "U-1", "T-1 ", "T-1\n", 1, None):
        assert policy.judge("a", "t", {"x": x}) is not None
    assert policy.judge("a", "t", {}) is not None
    assert policy.judge("a", "t", {"x": "T-1", "y": 1}) is not None
    assert policy.judge("b", "t", {"x": "T-1"}) is not None
    assert policy.judge("a", "u", {}) is not None


def test_few_decides_what_is_listed() -> None:
    values = ["/srv/a", "/srv/b"]
    assert rule(values, few=1) == rule(values, few=0) == {"path": "/srv"}
    with pytest.raises(InvalidInput, match="few must be 0 to 64"):
        learned(values, few=65)


def test_left_out_sometimes() -> None:
    given = [called("t", {"x": 1}), called("t", {}), called("none", {})]
    found = learn(lambda: given)
    assert "x: {exact: 1, optional: true}" in found.text
    assert "sometimes left out" in found.text
    assert "none: {}" in found.text


def test_every_rule_says_what_it_stands_on() -> None:
    found = learned([f"Hello number {n}" for n in range(400)])
    assert found.text.splitlines()[0] == HEAD.format("400 calls")
    assert "# 400 calls, sure (may refuse under 1% of further ones): WIDE: 64 or more different texts, so any text" in found.text
    found = learned(["ann", "bob"])
    assert "# 2 calls, few calls, so not sure (may refuse about 67% of further ones): the 2 values that came;" in found.text
    assert 'if others are meant too: {regex: "[a-z]{3}"}' in found.text
    rules = learned([*["ann"] * 10, "bob", "eve"]).tools["a", "t"].arguments["x"]
    assert (rules.sure, rules.share) == ("fairly sure", "about 15%")  # two of twelve came only once
    assert learned(["ann"] * 30).tools["a", "t"].arguments["x"].sure == "sure"


@pytest.mark.parametrize(
    ("verdict", "succeeded", "arguments", "why"),
    [
        (Verdict.DENY, False, {"x": "evil"}, "refused"),
        (Verdict.DENY, True, {"x": "evil"}, "refused"),
        (Verdict.ASK, True, {"x": "evil"}, "refused"),
        (None, True, {"x": "evil"}, "of unknown verdict"),
        (Verdict.ALLOW, False, {"x": "evil"}, "failed or without a known end"),
        (Verdict.ALLOW, True, None, "with arguments that are not known any more"),
        (Verdict.ALLOW, True, {"*": "evil"}, "with names that no policy can hold"),
        (Verdict.ALLOW, True, {"\u200b": "evil"}, "with names that no policy can hold"),
    ],
)
def test_what_nothing_is_learned_from(verdict: Verdict | None, succeeded: bool, arguments: Any, why: str) -> None:
    odd = Called("a", "t", arguments and freeze(arguments), verdict, None, succeeded, "")
    given = [called("t", {"x": "good"}), odd, odd]
    found = learn(lambda: given)
    assert found.left_out == {why: 2}
    assert f"# Left out: 2 {why}." in found.text
    assert "evil" not in found.text
    assert found.policy.digest == learned(["good"]).policy.digest
    with pytest.raises(InvalidInput, match=f"no call that was allowed and ended well.*2 {why}"):
        learn(lambda: [odd, odd])


POLICY = """agentguard: 1
name: wide
agents:
  lead: {tools: {read: {path: any}}, delegates: {helper: {depth: 2}, idle: {depth: 1}}}
  helper: {delegates: {leaf: {depth: 1}}}
  leaf: {tools: {mail: {to: any}}}
  idle: {tools: {mail: {to: any}}}
forbid: [{tool: drop}]
"""


def recorded(home: Path) -> None:
    """Two calls that run, one through two delegations; one that fails, one that is refused, and a delegate that does nothing that ends."""

    def fail(to: str) -> str:
        raise ValueError(to)

    with Guard.open(POLICY, home=home, durability="process") as guard, guard.task("lead", initiator="user:alice") as lead:
        guard.check(ToolCall("lead", "read", {"path": "/srv/a"})).run(lambda path: path)
        with pytest.raises(Denied):
            guard.check(ToolCall("lead", "drop", {}))
        with lead.delegate("helper") as helper, helper.delegate("leaf"):
            guard.check(ToolCall("leaf", "mail", {"to": "ann"})).run(lambda to: to)
        with lead.delegate("idle"), pytest.raises(ValueError):
            guard.check(ToolCall("idle", "mail", {"to": "evil"})).run(fail)


def test_from_the_evidence_of_a_home(tmp_path: Path) -> None:
    home = tmp_path / "home"
    recorded(home)
    assert list(chains_of(home)) == [("lead",), ("lead", "helper", "leaf")]
    found = learn(lambda: from_home(home), chains=chains_of(home))
    assert found.left_out == {"failed or without a known end": 1, "refused": 1}
    assert list(found.policy.agents) == ["helper", "lead", "leaf"]
    assert found.policy.may_delegate(("lead", "helper", "leaf")) is None
    assert found.depths == {("helper", "leaf"): 1, ("lead", "helper"): 2}
    assert found.policy.may_delegate(("lead", "idle")) is not None
    assert "evil" not in found.text
    # under the learned policy the same program does the same, and nothing else
    with (
        Guard.open(found.text, home=tmp_path / "next", durability="process") as guard,
        guard.task("lead", initiator="user:alice") as lead,
        lead.delegate("helper") as helper,
        helper.delegate("leaf"),
    ):
        guard.check(ToolCall("leaf", "mail", {"to": "ann"})).run(lambda to: to)
        with pytest.raises(Denied, match="argument_not_allowed"):
            guard.check(ToolCall("leaf", "mail", {"to": "eve"}))


def test_what_was_erased_teaches_nothing(tmp_path: Path) -> None:
    recorded(tmp_path)
    for file in (tmp_path / "side").iterdir():
        file.unlink()
    with pytest.raises(InvalidInput, match="2 with arguments that are not known any more"):
        learn(lambda: from_home(tmp_path), chains=chains_of(tmp_path))


def test_a_trace_without_verdicts_teaches_nothing(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text(json.dumps({"agent": "a", "tool": "t", "arguments": {}}) + "\n")
    with pytest.raises(InvalidInput, match="1 of unknown verdict"):
        learn(lambda: from_lines(file))


def test_memory_does_not_grow_with_the_trace() -> None:
    def peak(calls: int) -> int:
        def read() -> Iterable[Called]:
            for n in range(calls):
                yield called(
                    "t", {"path": f"/srv/{n}/{n}", "n": n, "text": f"{n} words " * 20, "many": [str(n)], "url": f"https://{n}.example/"}
                )

        tracemalloc.start()
        learn(read)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(4_000)  # what is imported, cached, and kept in CPython's free lists
    assert peak(8_000) < peak(1_000) + 100_000


def test_memory_does_not_grow_with_long_values() -> None:
    """Nothing long is kept, not by a cache either."""
    for value in ("a@{}.example", "https://{}.example/", "/{}", "T-{}", "{} words"):
        tracemalloc.start()
        found, _ = gather(called("t", {f"x{n}": value.format(str(n) * 10_000), "many": [str(n) * 10_000]}) for n in range(100, 300))
        kept = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert found["a", "t"].calls == 200
        assert kept < 3_000_000, value  # of 12 MB that came


def test_too_many_tools_are_said() -> None:
    given = [called(f"t{n}", {}) for n in range(5_001)]
    with pytest.raises(InvalidInput, match="more than 5000 tools"):
        learn(lambda: given)
