"""The shadow of one forbid rule: what it must not soften, how nobody gets one for another's rule, and when it ends."""

from __future__ import annotations

import json
from contextlib import suppress
from contextvars import copy_context
from pathlib import Path
from threading import Barrier, BrokenBarrierError, Thread
from typing import Any

import pytest

from agentguard import Denied, Guard
from agentguard.analysis.cedar import export
from agentguard.analysis.diff import differences
from agentguard.analysis.properties import parse_property
from agentguard.analysis.prove import Verdict, prove
from agentguard.artifacts.chain import Limits
from agentguard.artifacts.revocation import Revocations
from agentguard.call import ToolCall
from agentguard.canonical import freeze
from agentguard.charging import fixed
from agentguard.cli.examination import _unsafe_rules
from agentguard.decide import decide
from agentguard.decision import Decision
from agentguard.errors import InvalidInput
from agentguard.policy import load
from agentguard.policy.model import Policy
from agentguard.premises import Answer, Binding, Facts, Grant, Usage
from agentguard.state.store import Reservation
from agentguard.testing import records
from support.artifacts import NOW, mint, profile, verified

END = "2027-01-15T08:00:00Z"  # NOW
LATER = "2027-01-15T09:00:00Z"
SCOPE = {tool: {"x": {"constraint_type": "wildcard", "optional": True}} for tool in ("wipe", "wipe_log", "read", "other")}


def policy(forbid: str, agent: str = "", more: str = "") -> Policy:
    return load(f"""
agentguard: 1
name: trial
agents:
  a:
    tools: {{wipe: {{x: {{exact: 1}}}}, wipe_log: {{x: any}}, read: {{x: any}}}}
{agent}
forbid:
{forbid}
{more}
""")


def judged(given: Policy, tool: str = "wipe", x: int = 1, now: int = NOW - 1, usage: Usage = Usage()) -> Decision:
    chain = verified(mint(SCOPE, profile=profile("a", policy=given.digest), now=NOW - 5))
    call = ToolCall("a", tool, freeze({"x": x}))
    grant, facts = Grant(True, chain, None, ("a",), possessed=True), Facts({}, Revocations(), Limits())
    return decide(call, Binding(call.arguments), grant, given, facts, now, usage)


TRIAL = f'  - {{tool: "wipe*", reason: soon, unsafe_shadow: {{until: "{END}"}}}}'


def test_what_only_this_rule_refuses_runs_and_is_told_until_its_second() -> None:
    given = policy(TRIAL)
    told = judged(given)
    assert (told.allowed, told.runs, told.enforced, told.code) == (False, True, False, "tool_not_allowed")
    assert told.reasons[0].found == "forbidden by wipe*: soon"
    assert judged(given, "read").allowed
    for now in (NOW, NOW + 1):
        held = judged(given, now=now)
        assert (held.runs, held.enforced, held.reasons) == (False, True, told.reasons)


@pytest.mark.parametrize(
    ("agent", "more", "code"),
    [
        ("    hours: [{days: [sat], zone: UTC}]", "", "tool_not_allowed"),
        ("    sequence: [{tool: read, before: wipe}]", "", "sequence_violation"),
        ("    where: {wipe: ['x > 1']}", "", "argument_not_allowed"),
        ("    approval: [{tool: wipe}]", "", "approval_required"),
        ("", "tools: {wipe: {approval: required}}", "approval_required"),
        ("", "sequence: [{tool: read, before: wipe}]", "sequence_violation"),
    ],
)
def test_what_anything_else_refuses_stays_refused(agent: str, more: str, code: str) -> None:
    refused = judged(policy(TRIAL, agent, more))
    assert (refused.enforced, refused.runs, refused.code) == (True, False, code)
    assert refused.reasons[0].found != "forbidden by wipe*: soon"


def test_neither_arguments_nor_tools_that_the_agent_does_not_have() -> None:
    given = policy(TRIAL + f'\n  - {{tool: other, unsafe_shadow: {{until: "{END}"}}}}')
    assert judged(given, x=2).code == "argument_not_allowed"
    assert not judged(given, x=2).runs
    assert not judged(given, "other").runs
    assert "no rule for it" in judged(given, "other").reasons[0].found


def test_an_approval_that_is_wanted_too_is_asked_for_and_heard() -> None:
    given = policy(TRIAL, "    approval: [{tool: wipe}]")
    granted, denied = (judged(given, usage=Usage(answer=Answer("r", yes, ("user:carol",)))) for yes in (True, False))
    assert (granted.runs, granted.enforced, granted.code) == (True, False, "tool_not_allowed")
    assert (denied.runs, denied.code) == (False, "approval_denied")


@pytest.mark.parametrize(
    "twin",
    [
        '  - {tool: "wipe*"}',  # the very same, without a shadow
        '  - {tool: "wipe*", agent: a}',
        "  - {tool: wipe}",
        '  - {tool: "*"}',
        '  - {tool: "wipe*", unsafe_shadow: {until: "2020-01-01"}}',  # its shadow is over
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_twin_without_a_shadow_is_never_dropped(twin: str, first: bool) -> None:
    given = policy(f"{twin}\n{TRIAL}" if first else f"{TRIAL}\n{twin}")
    assert not judged(given).runs
    assert not judged(load(given.canonical.decode() + "\n")).runs


@pytest.mark.parametrize("order", [(END, LATER), (LATER, END)])
def test_of_two_shadows_the_one_that_ends_first_counts(order: tuple[str, str]) -> None:
    rules = [f'  - {{tool: "{glob}", unsafe_shadow: {{until: "{until}"}}}}' for glob, until in zip(("wipe", "w*"), order, strict=True)]
    given = policy("\n".join(rules))
    assert judged(given).runs
    assert not judged(given, now=NOW).runs


def test_by_a_tag_each_tool_and_not_its_twin() -> None:
    tags = "tools: {wipe: {tags: [bad]}, wipe_log: {tags: [bad]}}"
    given = policy(f'  - {{tag: bad, unsafe_shadow: {{until: "{END}"}}}}\n  - {{tool: wipe_log}}', "", tags)
    assert judged(given).runs
    assert not judged(given, "wipe_log").runs


def test_an_import_cannot_give_another_files_rule_a_shadow(tmp_path: Path) -> None:
    own = "agentguard: 1\nname: x\nimport: [base.yaml]\nagents: {a: {tools: {wipe: {x: any}}}}\nforbid: [{tool: wipe%s}]\n"
    shadow = f', unsafe_shadow: {{until: "{END}"}}'
    for mine, theirs, runs in (("", shadow, False), (shadow, "", False), (shadow, shadow, True)):
        (tmp_path / "main.yaml").write_text(own % mine)
        (tmp_path / "base.yaml").write_text(f"agentguard: 1\nforbid: [{{tool: wipe{theirs}}}]\n")
        assert judged(load(tmp_path / "main.yaml")).runs is runs


def test_the_agents_own_shadow_softens_its_rules_and_not_a_forbid_rule() -> None:
    own = '    unsafe_shadow: {until: "2999-01-01"}'
    given = policy(TRIAL, own)
    assert judged(given, x=2).runs  # both are on trial
    assert not judged(given, x=2, now=NOW).runs
    assert not judged(given, now=NOW).runs
    assert not judged(policy('  - {tool: "wipe*"}', own)).runs
    assert not judged(policy(TRIAL, own, "tools: {wipe: {approval: required}}"), x=2).runs


def test_budgets_hold_and_the_record_says_what_was_not_enforced(home: Path) -> None:
    text = "agentguard: 1\nname: x\nagents: {a: {tools: {wipe: {}}, budgets: [{calls: 2, per: task}]}}\n"
    text += 'forbid: [{tool: wipe, unsafe_shadow: {until: "2999-01-01"}}]\n'
    with Guard.open(text, home=home, durability="process") as guard, guard.task("a", initiator="user:alice"):

        @guard.tool
        def wipe() -> str:
            return "ran"

        assert [wipe(), wipe()] == ["ran", "ran"]
        with pytest.raises(Denied, match="budget"):
            wipe()
    from agentguard.log import iter_records, read_shards

    records = [json.loads(record) for shard in read_shards(home) for _, _, record in iter_records(home, shard)]
    decisions = [record for record in records if record["type"] == "decision"]
    assert [(each["verdict"], each["code"], each["enforced"]) for each in decisions] == [
        ("deny", "tool_not_allowed", False),
        ("deny", "tool_not_allowed", False),
        ("deny", "budget_exhausted", True),
    ]


SEQUENCES = """
agentguard: 1
name: trial
agents:
  a:
    tools: {look: {}, pay: {}, send: {}, once: {}}
    unsafe_shadow: {until: "2999-01-01", tools: [pay, send, once]}
    sequence:
      - {tool: look, before: pay}
      - {tool: look, before: look}
      - {tool: send, never_after: look}
      - {tool: once, at_most: 1}
    budgets: [{tool: pay, calls: 2, per: task}]
sequence: [{tool: once, never_after: pay}]
"""


def test_an_agents_own_sequences_under_its_shadow_are_recorded_and_not_enforced_at_admission_either(home: Path) -> None:
    """Admission asks again what the sequences need, and once refused what the decision had let through."""
    with Guard.open(SEQUENCES, home=home, durability="process") as guard, guard.task("a", initiator="user:x"):

        def said(tool: str) -> str:
            try:
                guard.check(ToolCall("a", tool, {})).run(lambda: None)
            except Denied as error:
                return error.decision.code or ""
            last = records(guard, "decision")[-1]
            return f"runs, {last['code']}" if not last["enforced"] else "runs"

        assert said("look") == "sequence_violation"  # the shadow names other tools
        assert said("pay") == "runs, sequence_violation"
        assert said("pay") == "runs, sequence_violation"
        assert said("pay") == "budget_exhausted"  # what is only recorded counts, and a budget is no trial
        assert said("once") == "sequence_violation"  # the rule of the whole policy is nobody's own


def test_what_is_charged_follows_the_end_of_a_shadow(home: Path) -> None:
    """One task, one tool: before the end its sequence is recorded, from the end on enforced, whatever was remembered of the task."""
    text = SEQUENCES.replace("2999-01-01", END)
    with Guard.open(text, home=home, durability="process") as guard:
        clock, now = guard._enforcement.clock, (NOW - 2) * 10**9
        clock._wall, clock._elapsed, clock._base = (lambda: now), (lambda: 0), 0
        with guard.task("a", initiator="user:x"):
            guard.check(ToolCall("a", "pay", {})).release()
            now += 3 * 10**9
            with pytest.raises(Denied) as caught:
                guard.check(ToolCall("a", "pay", {}))
    assert caught.value.decision.code == "sequence_violation"
    assert caught.value.decision.enforced


@pytest.mark.parametrize("shared", [False, True])
def test_what_is_nobodys_own_holds_under_a_shadow_against_calls_at_once(home: Path, shared: bool) -> None:
    """All are decided before any is admitted, in memory or in the file: admission asks again what the whole policy's sequences need."""
    text = SEQUENCES.replace("sequence: [{tool: once, never_after: pay}]", "sequence: [{tool: send, at_most: 1}]")
    with Guard.open(text, home=home, durability="process") as guard, guard.task("a", initiator="user:x") as task:
        if shared:
            guard.export(task)
        state, together = guard.home.state, Barrier(8, timeout=20)
        admit, said = state.admit, list[str]()

        def at_once(reservation: Reservation) -> Any:
            with suppress(BrokenBarrierError):  # whoever is judged again comes alone
                together.wait()
            together.abort()
            return admit(reservation)

        class Together:
            def __getattr__(self, name: str) -> Any:
                return at_once if name == "admit" else getattr(state, name)

        guard.home.state = Together()  # type: ignore[assignment]  # it is one but for the waiting

        def call() -> None:
            try:
                guard.check(ToolCall("a", "send", {})).run(lambda: None)
                said.append("ran")
            except Denied as denied:
                said.append(denied.decision.code or "")

        threads = [Thread(target=copy_context().run, args=(call,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        guard.home.state = state
    assert sorted(said) == ["ran", *["sequence_violation"] * 7]


def test_what_a_shadow_leaves_out_is_not_remembered_with_a_task() -> None:
    assert not fixed(ToolCall("a", "pay", {}), load(SEQUENCES))
    assert fixed(ToolCall("a", "pay", {}), load(SEQUENCES.replace('unsafe_shadow: {until: "2999-01-01", tools: [pay, send, once]}', "")))


def test_it_is_said_aloud_and_nothing_is_proven() -> None:
    given = policy(TRIAL)
    hard = load(given.canonical.decode().replace(',"unsafe_shadow":{"until":"2027-01-15T08:00:00+00:00"}', "") + "\n")
    assert hard.digest != given.digest
    (aloud,) = [warning for warning in given.warnings if "UNSAFE" in warning]
    assert aloud == "<policy>:9: UNSAFE: until 2027-01-15 08:00 UTC what only this rule forbids is recorded and not enforced"
    assert _unsafe_rules(json.loads(given.canonical)) == ["forbid wipe*: is only recorded until 2027-01-15T08:00:00+00:00 (unsafe_shadow)"]
    never = parse_property({"never": {"tool": "wipe"}}, "here")
    assert [prove(each, never).verdict for each in (hard, given)] == [Verdict.PROVEN, Verdict.UNKNOWN]
    (change,) = differences(hard, given)
    assert not change.sure
    assert "forbid.0.unsafe_shadow" in change.why
    made = export(given)
    assert [line for line in made.beside if "only recorded" in line]
    assert "forbid (" in made.policies


def test_an_agents_shadow_is_said_aloud_too() -> None:
    given = policy('  - {tool: "x*"}', '    unsafe_shadow: {until: "2027-01-15", tools: [wipe]}')
    aloud = [warning for warning in given.warnings if "UNSAFE" in warning]
    assert aloud == ["<policy>:7: UNSAFE: until 2027-01-15 00:00 UTC refusals of wipe to a are recorded and not enforced"]
    (told,) = _unsafe_rules(json.loads(given.canonical))
    assert told == "agent a: refusals are only recorded until 2027-01-15T00:00:00+00:00 (unsafe_shadow)"


@pytest.mark.parametrize(
    ("shadow", "words"),
    [
        ("{until: never}", "forbid[0].unsafe_shadow.until: 'never' is no date"),
        ('{until: "9999-12-31T23:59:59-01:00"}', "forbid[0].unsafe_shadow.until: '9999-12-31T23:59:59-01:00' is no date"),
        ('{until: "0001-01-01T00:00:00+01:00"}', "is no date"),
        ('{until: "2027-01-15T08:00:00"}', "is no date"),  # without a zone
        ("{}", "forbid[0].unsafe_shadow: the key 'until' is missing"),
        ('{until: "2027-01-01", tools: [wipe]}', "forbid[0].unsafe_shadow.tools: unknown key 'tools'"),
        ("true", "forbid[0].unsafe_shadow: "),
    ],
)
def test_a_shadow_without_a_proper_end_does_not_load(shadow: str, words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        policy(f"  - {{tool: wipe, unsafe_shadow: {shadow}}}")
    assert words in str(caught.value)
