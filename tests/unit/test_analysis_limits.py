"""Proofs and differences of policies with conditions, hours, sequences, approvals and budgets."""

from __future__ import annotations

from typing import Any

import pytest

from agentguard.policy import load

pytest.importorskip("z3", reason="z3 belongs to the prove extra")

from agentguard.analysis.changes import Change
from agentguard.analysis.diff import differences
from agentguard.analysis.properties import parse_property
from agentguard.analysis.prove import Proof, Verdict, prove
from agentguard.analysis.search import Search

TOOLS = """agentguard: 1
name: finance
agents:
  clerk:
    tools:
      check_balance: {account: any}
      send_money:
        amount: {range: {min: 1, max: 5000}}
        quantity: {range: {min: 1, max: 10}}
        to: {max_length: 9}
        from: {max_length: 9}
        note: {type: string, optional: true}
"""
WHERE = TOOLS + '    where: {send_money: ["amount * quantity <= 1000", "to != from", \'not has(note) or contains(note, to)\']}\n'
HOURS = 'hours: [{days: [mon, tue, wed, thu, fri], from: "08:00", to: "18:00", zone: Europe/Berlin}]'


def proof_of(text: str, written: dict[str, Any]) -> Proof:
    return prove(load(text), parse_property(written, "here"), Search())


def never(text: str, **rules: Any) -> Proof:
    return proof_of(text, {"never": {"tool": "send_money", "arguments": rules}})


def changes(old: str, new: str) -> list[Change]:
    return list(differences(load(old), load(new)))


def change(old: str, new: str) -> Change:
    (found,) = changes(old, new)
    (other,) = changes(new, old)
    assert other == found.reversed()
    return found


# --- conditions -----------------------------------------------------------------------------------------------------------------------


def test_conditions_prove_what_the_arguments_one_by_one_do_not() -> None:
    assert never(WHERE, amount={"range": {"min": 1001}}).verdict is Verdict.PROVEN
    assert never(WHERE, amount={"range": {"min": 501}}, quantity={"range": {"min": 2}}).verdict is Verdict.PROVEN
    assert never(WHERE, to={"exact": "DE1"}, **{"from": {"exact": "DE1"}}).verdict is Verdict.PROVEN
    assert never(WHERE, to={"exact": "x"}, note={"regex": "[a-w]*"}).verdict is Verdict.PROVEN
    always = {"always": {"tool": "send_money", "arguments": {"amount": {"range": {"max": 1000}}}}}
    assert proof_of(WHERE, always).verdict is Verdict.PROVEN
    assert proof_of(TOOLS, always).verdict is Verdict.COUNTEREXAMPLE


def test_a_counterexample_fulfils_the_conditions() -> None:
    proof = never(WHERE, amount={"range": {"min": 500}}, quantity={"range": {"min": 2}})
    assert proof.verdict is Verdict.COUNTEREXAMPLE
    given = proof.example["arguments"]
    assert (given["amount"], given["quantity"]) == (500, 2)
    assert given["to"] != given["from"]


@pytest.mark.parametrize(
    "condition",
    [
        "amount * quantity <= 1001",
        "amount <= 1000",
        "amount * quantity <= 1000 or amount == 5000",
        "quantity * amount <= 1000 or note == to",
    ],
)
def test_a_weaker_condition_is_found_out(condition: str) -> None:
    weaker = WHERE.replace("amount * quantity <= 1000", condition)
    limit = never(weaker, amount={"range": {"min": 501}}, quantity={"range": {"min": 2}})
    (found,) = [each for each in changes(WHERE, weaker) if each.allowed]
    assert found.sure
    assert found.example["arguments"]["amount"] * found.example["arguments"]["quantity"] > 1000
    assert limit.verdict is (Verdict.PROVEN if condition.endswith("1001") else Verdict.COUNTEREXAMPLE)


def test_differences_of_conditions_are_told_by_meaning() -> None:
    found = change(WHERE, WHERE.replace("<= 1000", "<= 900"))
    assert not found.allowed
    assert found.summary() == "clerk send_money: was amount * quantity <= 1000, now amount * quantity <= 900"
    assert 900 < found.example["arguments"]["amount"] * found.example["arguments"]["quantity"] <= 1000
    gone = changes(WHERE, TOOLS)
    assert {each.old for each in gone} == {condition.text for condition, _ in load(WHERE).agents["clerk"].tools["send_money"].conditions}
    assert all(each.allowed and each.new == "no such condition" for each in gone)


@pytest.mark.parametrize(
    ("old", "same"),
    [
        ("amount * quantity <= 1000", "quantity * amount <= 1000"),
        ("amount * quantity <= 1000", "not (1000 < amount * quantity)"),
        ("to != from", "not (from == to)"),
        ("to != from", "to != from or amount < 1"),
    ],
)
def test_the_same_in_other_words_is_no_difference(old: str, same: str) -> None:
    assert load(WHERE).digest != load(WHERE.replace(old, same)).digest
    assert changes(WHERE, WHERE.replace(old, same)) == []


def test_what_cannot_be_decided_is_unknown_and_never_proven() -> None:
    hard = TOOLS + '    where: {send_money: ["amount * amount * quantity == 2 * quantity"]}\n'
    assert never(hard, amount={"range": {"max": 2}}).verdict is Verdict.UNKNOWN
    assert [each.sure for each in changes(TOOLS + '    where: {send_money: ["amount * amount != 2"]}\n', TOOLS)] == [False]


# --- hours ----------------------------------------------------------------------------------------------------------------------------


def test_hours_do_not_hinder_a_proof_and_a_counterexample_names_a_time() -> None:
    text = WHERE + f"    {HOURS}\n"
    assert never(text, amount={"range": {"min": 1001}}).verdict is Verdict.PROVEN
    proof = never(text, amount={"range": {"min": 999}})
    assert proof.example["at"] == "2026-01-05T07:00:00+00:00"  # a Monday, eight in Berlin
    assert "at" not in never(WHERE, amount={"range": {"min": 999}}).example


@pytest.mark.parametrize(
    ("new", "at"),
    [
        ("", "2026-01-05T00:00:00+00:00"),
        (HOURS.replace("18:00", "19:00"), "2026-01-05T17:00:00+00:00"),
        (HOURS.replace("fri]", "fri, sun]"), "2026-01-11T07:00:00+00:00"),
        (HOURS.replace("Europe/Berlin", "Europe/London"), "2026-01-05T17:00:00+00:00"),
        (HOURS[:-1] + ', {days: [sat], from: "22:00", to: "02:00", zone: Europe/Berlin}]', "2026-01-10T21:00:00+00:00"),
    ],
)
def test_more_time_is_a_difference_with_an_example(new: str, at: str) -> None:
    old = WHERE + f"    {HOURS}\n"
    found = [each for each in changes(old, WHERE + (f"    {new}\n" if new else "")) if each.allowed]
    assert {each.tool for each in found} == {"check_balance", "send_money"}
    assert all(each.kind == "hours" and each.example == {"at": at} for each in found)


def test_less_time_becomes_denied() -> None:
    old = WHERE + f"    {HOURS}\n"
    found = changes(old, old.replace("18:00", "12:00"))
    assert {(each.tool, each.allowed) for each in found} == {("check_balance", False), ("send_money", False)}
    assert found[0].summary() == (
        "clerk check_balance: was mon to fri 08:00 to 18:00 (Europe/Berlin), now mon to fri 08:00 to 12:00 (Europe/Berlin)"
    )


def test_the_same_times_are_no_difference() -> None:
    one = WHERE + '    hours: [{from: "22:00", to: "02:00", zone: UTC}]\n'
    two = WHERE + '    hours: [{from: "22:00", to: "24:00", zone: UTC}, {from: "00:00", to: "02:00", zone: UTC}]\n'
    assert changes(one, two) == []
    several = two.replace('{from: "00:00", to: "02:00", zone: UTC}', '{from: "00:00", to: "02:00", zone: Africa/Abidjan}')
    assert [each.sure for each in changes(two, several)] == [False] * 4, "the zones agree today, which proves nothing"


# --- sequences, approvals, budgets ----------------------------------------------------------------------------------------------------


def test_a_counterexample_says_what_goes_before_it() -> None:
    text = WHERE + "    sequence: [{tool: check_balance, before: send_money}]\n"
    assert never(text, amount={"range": {"min": 1001}}).verdict is Verdict.PROVEN
    proof = never(text, amount={"range": {"min": 999}})
    assert [each["tool"] for each in proof.example["after"]] == ["check_balance"]


@pytest.mark.parametrize(
    "rest",
    [
        "    sequence: [{tool: read_rates, before: send_money}]\n",
        "    sequence: [{tool: check_balance, before: send_money}, {tool: send_money, never_after: check_balance}]\n",
        "    sequence: [{tool: check_balance, before: send_money}, {tool: send_money, before: check_balance}]\n",
        "    sequence: [{tool: check_balance, before: send_money}]\n    budgets: [{calls: 1, per: task}]\n",
        "    budgets: [{cost: amount, tool: send_money, limit: 500, per: task}]\n",
    ],
)
def test_what_can_never_come_to_pass_is_no_counterexample(rest: str) -> None:
    if "read_rates" in rest:
        rest = rest.replace("read_rates", "delete_rates")
        text = WHERE.replace("      check_balance", "      delete_rates: {}\n      check_balance") + rest + 'forbid: [{tool: "delete_*"}]\n'
    else:
        text = WHERE + rest
    proof = never(text, amount={"range": {"min": 999}})
    assert proof.verdict is Verdict.UNKNOWN
    assert proof.why.startswith("no way was found in which the policy allows clerk send_money")


def test_an_approval_is_given_in_a_counterexample_and_said() -> None:
    text = WHERE + '    approval: [{tool: send_money, when: "amount > 100", by: "user:carol"}]\n'
    proof = never(text, amount={"range": {"min": 999}})
    assert proof.example["approved"] is True
    assert "approved" not in never(text, amount={"range": {"max": 100}}).example
    first = WHERE + '    sequence: [{tool: send_money, only_after_approval: {by: "user:carol"}}]\n'
    assert never(first, amount={"range": {"min": 999}}).example["approved"] is True


def test_an_approval_that_nobody_can_give_is_no_counterexample() -> None:
    both = '    approval: [{tool: send_money, by: "user:carol"}, {tool: send_money, by: "user:dan"}]\n'
    assert never(WHERE + both, amount={"range": {"min": 999}}).verdict is Verdict.UNKNOWN


BEFORE = "    sequence: [{tool: check_balance, before: send_money}]\n"
MOST = "    sequence: [{tool: send_money, at_most: 3}]\n"
ASK = '    approval: [{tool: send_money, when: "amount > 100", by: ["user:carol", "user:dan"], expires: 1h}]\n'


@pytest.mark.parametrize(
    ("old", "new", "summary"),
    [
        (BEFORE, "", "clerk: was check_balance before send_money, now no such rule"),
        (MOST, MOST.replace("3", "4"), "clerk: was at most 3 of send_money, now at most 4 of send_money"),
        (
            ASK,
            ASK.replace("1h", "2h"),
            "clerk send_money: was approval by user:carol or user:dan within 1h when amount > 100, "
            "now approval by user:carol or user:dan within 2h when amount > 100",
        ),
        (
            ASK,
            ASK.replace("> 100", "> 200"),
            "clerk send_money: was approval by user:carol or user:dan within 1h when amount > 100, "
            "now approval by user:carol or user:dan within 1h when amount > 200",
        ),
        (
            "    budgets: [{cost: amount, tool: send_money, limit: 500, per: agent, window: {fixed: 1d}}]\n",
            "    budgets: [{cost: amount, tool: send_money, limit: 600, per: agent, window: {fixed: 1d}}]\n",
            "clerk: was at most 500 amount of send_money per agent in 1d, now at most 600 amount of send_money per agent in 1d",
        ),
    ],
)
def test_looser_limits_become_allowed(old: str, new: str, summary: str) -> None:
    allowed = [each for each in changes(WHERE + old, WHERE + new) if each.allowed]
    assert [each.summary() for each in allowed] == [summary]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (MOST, MOST.replace("3", "2")),
        (ASK, ASK.replace('["user:carol", "user:dan"]', '"user:carol"')),
        (ASK, ASK.replace(", expires", ", of: 2, expires")),
        (ASK, ASK.replace('when: "amount > 100", ', "")),
        ("", BEFORE),
        (BEFORE, BEFORE.replace("before: send_money", "before: [send_money, check_balance]")),
    ],
)
def test_stricter_limits_only_become_denied(old: str, new: str) -> None:
    found = changes(WHERE + old, WHERE + new)
    assert found
    assert not any(each.allowed for each in found)


def test_rules_for_outputs_allow_and_deny_nothing() -> None:
    (found,) = changes(WHERE, WHERE + "tools: {check_balance: {output: {max_bytes: 100}}}\n")
    assert (found.kind, found.allowed, found.sure) == ("output", None, True)


def test_a_shadow_makes_every_proof_unknown() -> None:
    text = WHERE + '    unsafe_shadow: {until: "2026-12-31"}\n'
    proof = never(text, amount={"range": {"min": 1001}})
    assert proof.verdict is Verdict.UNKNOWN
    assert "unsafe_shadow" in proof.why
