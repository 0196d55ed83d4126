"""`agentguard policy simulate`: recorded calls judged by another policy, and nothing said about calls that nobody knows."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from agentguard import Denied, Guard, ToolCall
from agentguard.analysis.learn import learn
from agentguard.analysis.replay import Replay
from agentguard.analysis.simulate import Simulation, simulate
from agentguard.analysis.trace import Called, from_home, from_lines
from agentguard.decision import Verdict
from agentguard.errors import InvalidInput
from agentguard.policy import load
from support.approving import answers, asks, opened, runs

OLD = """
agentguard: 1
name: old
agents:
  a:
    tools: {mail: {to: any}, drop: {}, save: {x: {range: {max: 0}}}}
    budgets: [{calls: 4, per: task}]
"""
NEW = "agentguard: 1\nname: new\nagents:\n  a:\n    tools: {mail: {to: {email: {domains: [example.com]}}}, save: {x: any}}\n"


def record(home: Path) -> None:
    """Four calls that run, one that the policy refuses, one that the budget refuses."""
    with Guard.open(OLD, home=home, durability="process") as guard, guard.task("a", initiator="user:alice"):
        for to in ("bob@example.com", "eve@evil.test", "ann@example.com"):
            guard.check(ToolCall("a", "mail", {"to": to})).run(lambda to: to)
        guard.check(ToolCall("a", "drop", {})).run(lambda: None)
        for tool, arguments in (("save", {"x": 1}), ("mail", {"to": "bob@example.com"})):
            with pytest.raises(Denied):
                guard.check(ToolCall("a", tool, arguments))


def totals(found: Simulation) -> dict[str, int]:
    return {name: found.total(name) for name in ("same", "denied", "allowed", "elsewhere", "unknown")}


def test_recorded_evidence(tmp_path: Path) -> None:
    record(tmp_path / "home")
    calls = list(from_home(tmp_path / "home"))
    assert sum(call.succeeded for call in calls) == 4
    found = simulate(calls, load(NEW))
    # eve and drop are refused now; save is allowed now, and so is the mail that the budget had no room for
    assert totals(found) == {"same": 2, "denied": 2, "allowed": 2, "elsewhere": 0, "unknown": 0}
    examples = {tool: [(example.call.arguments, example.reason) for example in tally.examples] for _, tool, tally in found.changed()}
    assert examples["mail"][0][0] == {"to": "eve@evil.test"}
    assert examples["save"][0][1] is None


def test_what_was_erased_or_forged_is_unknown(tmp_path: Path) -> None:
    home = tmp_path / "home"
    record(home)
    (file,) = (home / "side").iterdir()
    file.write_bytes(file.read_bytes().replace(b"eve@evil.test", b"bob@evil.test"))
    assert totals(simulate(from_home(home), load(NEW)))["unknown"] == 1
    file.unlink()
    assert totals(simulate(from_home(home), load(NEW))) == {"same": 0, "denied": 0, "allowed": 0, "elsewhere": 0, "unknown": 6}


def line(**members: Any) -> str:
    return json.dumps({"agent": "a", "tool": "mail", "arguments": {"to": "eve@evil.test"}, **members}) + "\n"


def test_lines_with_and_without_verdicts(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text(
        line()
        + "\n"
        + line(verdict="deny", code="argument_not_allowed")
        + line(verdict="deny", code="replay_detected")
        + line(tool="save", arguments={"x": 1}, verdict="deny", code="tool_not_allowed")
    )
    assert totals(simulate(from_lines(file), load(NEW))) == {"same": 1, "denied": 1, "allowed": 1, "elsewhere": 1, "unknown": 0}
    assert totals(simulate(from_lines(file), load(NEW), load(NEW)))["denied"] == 0  # under that policy it was refused before, too


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}\n", "trace.jsonl:1: a line is an object with agent, tool and arguments"),
        (line() + "[1]\n", "trace.jsonl:2: a line is an object"),
        (line(verdict="maybe"), "the verdict cannot be 'maybe' (allow, ask or deny)"),
        (line(extra=1), "nothing else"),
        (line(at="2026-11-23T09:00:00"), "at is no time with its zone: '2026-11-23T09:00:00' (write"),
        (line(at=7), "at is no time with its zone: 7"),
        (line(task=1), "task must be a string"),
        (line(initiator=None), "initiator must be a string"),
        (line(approved="yes"), "approved must be true or false"),
        (line(agent=1), "agent and tool must be strings"),
        (line(verdict=["deny"]), "the verdict cannot be ['deny']"),
        (line(verdict="deny", code=["x"]), "code must be a string"),
        ('{"agent": "a", "agent": "b", "tool": "t", "arguments": {}}\n', "stands twice"),
        ("{\n", "trace.jsonl:1: not JSON"),
    ],
)
def test_what_is_no_trace_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text(text)
    with pytest.raises(InvalidInput) as caught:
        list(from_lines(file))
    assert message in str(caught.value)


def test_a_missing_trace_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="No such file"):
        list(from_lines(tmp_path / "none"))


def test_examples_are_few_and_counts_are_whole() -> None:
    calls = [Called("a", "drop", {}, None, None, False, str(number)) for number in range(10)]
    ((_, _, tally),) = simulate(calls, load(NEW)).changed()
    assert (tally.denied, [example.call.place for example in tally.examples]) == (10, ["0", "1", "2"])


# --- what went before ---------------------------------------------------------------------------------------------------------------------

PAST = """
agentguard: 1
name: past
agents:
  a:
    tools: {look: {}, pay: {x: any}, mail: {}}
"""


def codes(tmp_path: Path, rules: str, *lines: str) -> list[str | None]:
    """By line, the code of its refusal under `PAST` with these rules."""
    file = tmp_path / "trace.jsonl"
    file.write_text("".join(lines))
    replay = Replay(load(PAST + rules))
    return [reason.code if (reason := replay.judge(call)) is not None else None for call in from_lines(file)]


def pay(x: float = 1, **members: Any) -> str:
    return line(tool="pay", arguments={"x": x}, **members)


def look(**members: Any) -> str:
    return line(tool="look", arguments={}, **members)


def test_a_budget_of_calls_is_counted_by_task_and_initiator(tmp_path: Path) -> None:
    calls = [pay(task="1", initiator="u"), pay(task="2", initiator="u"), pay(task="2", initiator="w"), pay(task="1", initiator="w")]
    full = "budget_exhausted"
    assert codes(tmp_path, "    budgets: [{calls: 1, per: task}]\n", *calls) == [None, None, full, full]
    assert codes(tmp_path, "    budgets: [{calls: 1, per: agent}]\n", *calls) == [None, full, full, full]
    assert codes(tmp_path, "    budgets: [{calls: 1, per: initiator}]\n", *calls) == [None, full, None, full]


def test_a_cost_is_counted_and_what_is_refused_costs_nothing(tmp_path: Path) -> None:
    rules = "    budgets: [{cost: x, tool: pay, limit: 5, per: task}]\n"
    assert codes(tmp_path, rules, pay(3), pay(2.5), pay(2), pay(0.1)) == [None, "budget_exhausted", None, "budget_exhausted"]


@pytest.mark.parametrize(("window", "third"), [("fixed", None), ("sliding", "budget_exhausted")])
def test_windows_are_those_of_the_time_of_each_call(tmp_path: Path, window: str, third: str | None) -> None:
    times = ("2026-11-23T09:00:50+01:00", "2026-11-23T09:00:55+01:00", "2026-11-23T09:01:05+01:00", "2026-11-23T09:02:30+01:00")
    rules = f"    budgets: [{{calls: 1, per: agent, window: {{{window}: 60s}}}}]\n"
    assert codes(tmp_path, rules, *(pay(at=time) for time in times)) == [None, "budget_exhausted", third, None]


def test_without_a_time_none_passes_and_hours_are_not_judged(tmp_path: Path) -> None:
    hours = '    hours: [{days: [mon], from: "09:00", to: "17:00", zone: UTC}]\n'
    night = pay(at="2026-11-23T03:00:00Z")
    assert codes(tmp_path, hours, pay(), night, pay(), pay(at="2026-11-23T10:00:00Z")) == [
        None,
        "tool_not_allowed",
        "tool_not_allowed",
        None,
    ]
    windows = "    budgets: [{calls: 1, per: agent, window: {fixed: 1s}}]\n"
    assert codes(tmp_path, windows, pay(), pay()) == [None, "budget_exhausted"]


def test_sequences_are_those_of_one_task(tmp_path: Path) -> None:
    rules = "    sequence: [{tool: look, before: pay}]\n"
    assert codes(tmp_path, rules, pay(), look(task="2"), pay(), look(), pay()) == [
        "sequence_violation", None, "sequence_violation", None, None
    ]  # fmt: skip


def test_what_failed_then_fulfils_nothing_and_a_refused_call_breaks_nothing(tmp_path: Path) -> None:
    replay = Replay(load(PAST + "    sequence: [{tool: look, before: pay}, {tool: mail, never_after: pay}]\n"))
    calls = [Called("a", tool, {"x": 1} if tool == "pay" else {}, Verdict.ALLOW, None, ok, "") for tool, ok in (
        ("look", False), ("pay", True), ("mail", True), ("look", True), ("pay", False), ("mail", True),
    )]  # fmt: skip
    found = [reason.code if (reason := replay.judge(call)) is not None else None for call in calls]
    assert found == [None, "sequence_violation", None, None, None, "sequence_violation"]


def test_an_approval_is_the_answer_that_was_given(tmp_path: Path) -> None:
    rules = "    approval: [{tool: pay, when: x > 5}]\n"
    assert codes(tmp_path, rules, pay(1), pay(9), pay(9, approved=True), pay(9, approved=False)) == [
        None, "approval_required", None, "approval_denied"
    ]  # fmt: skip
    once = '    sequence: [{tool: pay, only_after_approval: {by: "user:carol"}}]\n'
    assert codes(tmp_path, once, pay(), pay(approved=True), pay(), pay(task="2")) == [
        "approval_required", None, None, "approval_required"
    ]  # fmt: skip


def test_a_forbid_rule_on_trial_is_judged_at_the_time_of_each_call(tmp_path: Path) -> None:
    """Also for a tool of which nothing but its arguments is asked otherwise: what the rule forbids runs until its shadow ends."""
    trial = 'forbid: [{tool: pay, unsafe_shadow: {until: "2026-06-01T00:00:00Z"}}]\n'
    calls = (pay(at="2026-05-31T23:59:59Z"), pay(at="2026-06-01T00:00:00Z"))
    assert codes(tmp_path, trial, *calls) == [None, "tool_not_allowed"]


def test_the_report_says_which_codes(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text(look() + pay() + pay() + pay())
    policy = load(PAST + "    budgets: [{calls: 1, tool: pay, per: task}]\n    sequence: [{tool: look, never_after: pay}]\n")
    ((agent, tool, tally),) = simulate(from_lines(file), policy).changed()
    assert (agent, tool, tally.denied, dict(tally.codes)) == ("a", "pay", 2, {"budget_exhausted": 2})
    assert totals(simulate(from_lines(file), policy, policy))["same"] == 4  # both count, each by itself


def test_recorded_evidence_under_its_own_policy_changes_nothing(tmp_path: Path) -> None:
    record(tmp_path / "home")
    assert totals(simulate(from_home(tmp_path / "home"), load(OLD)))["same"] == 6
    tighter = load(OLD.replace("calls: 4", "calls: 2"))
    found = simulate(from_home(tmp_path / "home"), tighter)
    assert totals(found) == {"same": 4, "denied": 2, "allowed": 0, "elsewhere": 0, "unknown": 0}
    assert sum((tally.codes for _, _, tally in found.changed()), Counter()) == {"budget_exhausted": 2}


def test_what_is_only_recorded_ran_and_nothing_is_learned_from_it(tmp_path: Path) -> None:
    shadowed = OLD + '    unsafe_shadow: {until: "2999-01-01"}\n'
    with Guard.open(shadowed, home=tmp_path / "home", durability="process") as guard, guard.task("a", initiator="user:alice"):
        guard.check(ToolCall("a", "save", {"x": 1})).run(lambda x: x)
    (call,) = from_home(tmp_path / "home")
    assert (call.verdict, call.ran) == (Verdict.DENY, True)
    assert totals(simulate([call], load(shadowed)))["same"] == 1
    assert totals(simulate([call], load(OLD)))["denied"] == 1
    with pytest.raises(InvalidInput, match="no call that was allowed"):
        learn(lambda: [call])


# --- what the evidence says beside a verdict --------------------------------------------------------------------------------------------

ASKING = """
agentguard: 1
name: asking
agents:
  clerk:
    tools: {send_money: {amount: any, to: any}}
    budgets: [{calls: 9, per: task}]
    approval: [{tool: send_money, by: ["user:carol"], expires: 1h}]
"""
ONE, TWO = (ToolCall("clerk", "send_money", {"amount": amount, "to": "bob"}) for amount in (1, 2))


def test_a_call_that_was_asked_about_and_made_again_is_one(home: Path) -> None:
    with opened(home, ASKING) as guard:
        for _ in range(2):
            with guard.task("clerk", initiator="user:alice"):
                request = asks(guard, ONE)
                asks(guard, ONE)  # nobody has answered yet
                answers(guard.home, request)
                runs(guard, ONE)
                asks(guard, ONE)  # another call: an approval is good for one; and nobody answers it
                answers(guard.home, asks(guard, TWO), verdict="deny")
                with pytest.raises(Denied, match="approval_denied"):
                    guard.check(TWO)
    calls = list(from_home(home))
    said = [(call.arguments and call.arguments["amount"], str(call.verdict), call.approved, call.ran) for call in calls]
    assert said == [(1, "allow", True, True), (1, "ask", None, False), (2, "deny", False, False)] * 2
    assert totals(simulate(calls, load(ASKING)))["same"] == 6
    freely = load(ASKING.replace("by: [", 'when: "amount > 1", by: ['))
    assert totals(simulate(calls, freely)) == {"same": 4, "denied": 0, "allowed": 2, "elsewhere": 0, "unknown": 0}
    scarce = load(ASKING.replace("calls: 9", "calls: 1").replace("by: [", 'when: "amount > 1", by: ['))
    assert totals(simulate(calls, scarce)) == {"same": 6, "denied": 0, "allowed": 0, "elsewhere": 0, "unknown": 0}  # the first was one call


def test_an_approved_call_that_a_budget_refused_was_approved_all_the_same(home: Path) -> None:
    tight = ASKING.replace("calls: 9", "calls: 1")
    with opened(home, tight) as guard, guard.task("clerk", initiator="user:alice"):
        for call in (ONE, TWO):
            answers(guard.home, asks(guard, call))
        runs(guard, ONE)
        with pytest.raises(Denied, match="budget_exhausted"):
            guard.check(TWO)
    assert [(str(call.code), call.approved) for call in from_home(home)] == [("None", True), ("budget_exhausted", True)]
    assert totals(simulate(from_home(home), load(tight)))["same"] == 2
    assert totals(simulate(from_home(home), load(ASKING)))["allowed"] == 1


def test_what_the_artifact_refused_no_policy_allows(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with Guard.open(OLD, home=home, durability="process") as guard, guard.task("a", initiator="user:alice", uses=1):
        guard.check(ToolCall("a", "drop", {})).run(lambda: None)
        with pytest.raises(Denied, match="uses of link"):
            guard.check(ToolCall("a", "drop", {}))
    assert [(call.code, call.elsewhere) for call in from_home(home)] == [(None, False), ("budget_exhausted", True)]
    for policy in (OLD, OLD.replace("calls: 4", "calls: 9")):
        assert totals(simulate(from_home(home), load(policy))) == {"same": 1, "denied": 0, "allowed": 0, "elsewhere": 1, "unknown": 0}


def test_a_refusal_by_a_budget_whose_reason_nobody_knows_may_have_been_the_artifacts(tmp_path: Path) -> None:
    home = tmp_path / "home"
    record(home)
    assert [call.elsewhere for call in from_home(home) if call.code == "budget_exhausted"] == [False]
    (file,) = (home / "side").iterdir()
    file.write_bytes(file.read_bytes().replace(b'"budget_exhausted: ', b'"budget_exhausted; '))
    assert [call.elsewhere for call in from_home(home) if call.code == "budget_exhausted"] == [True]


@pytest.mark.parametrize("more", ["", "    budgets: [{calls: 9, per: task}]\n"])
def test_a_link_that_led_out_of_what_is_allowed_leads_out_again(tmp_path: Path, more: str) -> None:
    root, outside, home = tmp_path / "root", tmp_path / "outside", tmp_path / "home"
    for directory in (root, outside):
        directory.mkdir()
        (directory / "file").write_text("")
    (root / "link").symlink_to(outside / "file")
    text = f"agentguard: 1\nname: p\nagents:\n  a:\n    tools: {{read: {{path: {{path: {root}}}}}}}\n{more}"
    with Guard.open(text, home=home, durability="process") as guard, guard.task("a", initiator="user:alice"):
        guard.check(ToolCall("a", "read", {"path": str(root / "file")})).run(lambda path: path)
        with pytest.raises(Denied, match="argument_not_allowed"):
            guard.check(ToolCall("a", "read", {"path": str(root / "link")}))
    assert totals(simulate(from_home(home), load(text)))["same"] == 2
    assert totals(simulate(from_home(home), load(text.replace(str(root), str(tmp_path)))))["allowed"] == 1
    (file,) = (home / "side").iterdir()
    file.write_bytes(file.read_bytes().replace(str(outside).encode(), str(outside).encode()[:-1] + b"x"))
    assert totals(simulate(from_home(home), load(text))) == {"same": 1, "denied": 0, "allowed": 0, "elsewhere": 0, "unknown": 1}
