"""Conditions, hours, budgets, sequences, approvals and shadow, from the policy's text to what the guard does."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from agentguard import Denied, Guard, ToolCall
from agentguard.call import ToolCall as Call
from agentguard.canonical import freeze
from agentguard.decide import decide_policy_only
from agentguard.environment import Clock
from agentguard.errors import ApprovalRequired
from agentguard.policy import load
from agentguard.policy.model import Policy
from agentguard.premises import Answer, Binding, Facts, Usage

FINANCE = """
agentguard: 1
name: finance
groups:
  careful: {where: {pay: ["to != account"]}, budgets: [{calls: 100, per: task}]}
agents:
  clerk:
    groups: [careful]
    tools:
      pay: {amount: any, to: any, account: any, quantity: {range: {min: 1, max: 10}, optional: true}}
      balance: {account: any}
      mail: {to: any}
      read_secret: {}
      wipe: {}
      ask_model: {prompt: any}
    where: {pay: ["not has(quantity) or amount * quantity <= 1000"]}
    budgets:
      - {cost: amount, tool: pay, limit: 1000.5, per: task}
      - {calls: 2, tool: mail, per: agent}
      - {cost: {output: usage.tokens, reserve: 10}, tool: ask_model, limit: 25, per: initiator, window: {fixed: 1d}}
    sequence:
      - {tool: balance, before: pay}
      - {tool: balance, at_most: 2}
    approval: [{tool: pay, when: "amount > 500", by: ["user:carol"]}]
    delegates: {helper: {}}
  helper: {tools: {mail: {to: any}, read_secret: {}}}
tools:
  mail: {tags: [egress]}
sequence: [{tag: egress, never_after: read_secret}]
"""


def judged(
    policy: Policy, tool: str, arguments: dict[str, Any], usage: Usage | None = None, now: int | None = None, agent: str = "clerk"
) -> str:
    call = Call(agent, tool, arguments)
    decision = decide_policy_only(call, Binding(call.arguments), policy, FACTS, now, usage or Usage())
    return str(decision.code or "allow")


@pytest.fixture(scope="module", autouse=True)
def facts(tmp_path_factory: pytest.TempPathFactory) -> None:
    global FACTS
    with Guard.open(FINANCE, home=tmp_path_factory.mktemp("facts") / "home", durability="process") as guard:
        FACTS = guard._enforcement.in_force.fresh().facts


FACTS: Facts


@pytest.fixture
def opened(home: Path) -> Guard:
    return Guard.open(FINANCE, home=home, durability="process")


def tools(guard: Guard) -> dict[str, Callable[..., Any]]:
    ran: list[str] = []

    @guard.tool
    def pay(amount: float, to: str, account: str) -> str:
        ran.append(f"pay {amount}")
        return "paid"

    @guard.tool
    def balance(account: str) -> int:
        if account == "broken":
            raise ValueError("no such account")
        return 7

    @guard.tool
    def mail(to: str) -> str:
        ran.append(f"mail {to}")
        return "sent"

    @guard.tool
    def read_secret() -> str:
        return "s"

    @guard.tool
    def ask_model(prompt: str) -> dict[str, Any]:
        return {"usage": {"tokens": int(prompt)}} if prompt else {}

    return {"pay": pay, "balance": balance, "mail": mail, "read_secret": read_secret, "ask_model": ask_model}


def refused(code: str, run: Callable[[], Any]) -> Denied:
    with pytest.raises(Denied) as caught:
        run()
    assert caught.value.code == code, caught.value
    return caught.value


class TestLanguage:
    def test_the_canonical_form_is_a_policy_with_the_same_digest(self) -> None:
        policy = load(FINANCE)
        again = load(policy.canonical.decode() + "\n")
        assert again.digest == policy.digest
        assert again.canonical == policy.canonical

    def test_groups_add_restrictions_and_do_not_replace_them(self) -> None:
        policy = load(FINANCE)
        assert {condition.text for condition, _ in policy.agents["clerk"].tools["pay"].conditions} == {
            "to != account",
            "not has(quantity) or amount * quantity <= 1000",
        }
        assert [budget.name for budget in policy.agents["clerk"].budgets if budget.tools is None] == ["calls per task"]

    def test_what_is_not_used_leaves_the_digest_alone(self) -> None:
        text = "agentguard: 1\nname: x\nagents: {a: {tools: {t: {}}}}\n"
        assert set(json.loads(load(text).canonical)) == {"agentguard", "name", "agents", "forbid", "tools", "environment"}
        assert set(json.loads(load(text).canonical)["agents"]["a"]) == {"tools", "budgets", "delegates"}

    def test_the_order_of_what_adds_up_makes_no_difference(self) -> None:
        one = "agentguard: 1\nname: x\nagents: {a: {tools: {t: {x: any}}, where: {t: ['x > 1', 'x < 9']}}}\n"
        two = "agentguard: 1\nname: x\nagents: {a: {tools: {t: {x: any}}, where: {t: ['x<9', 'x > 1']}}}\n"
        assert load(one).digest == load(two).digest


class TestConditions:
    def test_arguments_are_judged_together(self) -> None:
        policy = load(FINANCE)
        before = Usage(dict.fromkeys(policy.standing("clerk", "pay").watch.reads, 1))  # type: ignore[union-attr]
        assert judged(policy, "pay", {"amount": 10, "to": "b", "account": "a", "quantity": 10}, before) == "allow"
        assert judged(policy, "pay", {"amount": 101, "to": "b", "account": "a", "quantity": 10}, before) == "argument_not_allowed"
        assert judged(policy, "pay", {"amount": 1, "to": "a", "account": "a"}, before) == "argument_not_allowed"

    def test_the_reason_names_the_condition_and_its_line(self) -> None:
        policy = load(FINANCE)
        reason = policy.judge("clerk", "pay", freeze({"amount": 1, "to": "a", "account": "a"}))
        assert reason is not None
        assert (reason.subject, reason.required, reason.place) == ("account, to", "to != account", "<policy>:5")


class TestBudgets:
    def test_a_cost_is_taken_from_the_argument(self, opened: Guard) -> None:
        with opened as guard, guard.task("clerk", initiator="user:alice"):
            run = tools(guard)
            run["balance"]("a")
            run["pay"](500, "b", "a")
            run["pay"](499.75, "b", "a")
            assert "at most 1000.5" in str(refused("budget_exhausted", lambda: run["pay"](0.750001, "b", "a")))
            run["pay"](0.75, "b", "a")

    @pytest.mark.parametrize("amount", [-5, -0.0001, "7", None, True, float(2**53)])
    def test_a_cost_that_is_no_number_from_0_is_refused(self, opened: Guard, amount: Any) -> None:
        with opened as guard, guard.task("clerk", initiator="user:alice"):
            run = tools(guard)
            run["balance"]("a")
            with pytest.raises(Denied) as caught:
                run["pay"](amount, "b", "a")
            assert caught.value.code in ("budget_exhausted", "approval_required")

    def test_per_agent_counts_over_tasks_and_processes(self, home: Path) -> None:
        for expected in ("sent", "sent", "budget_exhausted"):
            with Guard.open(FINANCE, home=home, durability="process") as guard, guard.task("clerk", initiator="user:alice"):
                run = tools(guard)
                if expected == "sent":
                    assert run["mail"]("x") == "sent"
                else:
                    refused(expected, lambda run=run: run["mail"]("x"))

    def test_a_cost_from_the_outcome_is_set_aside_and_then_corrected(self, opened: Guard) -> None:
        with opened as guard, guard.task("clerk", initiator="user:alice"):
            run = tools(guard)
            run["ask_model"]("4")
            run["ask_model"]("9")  # 13 of 25
            run["ask_model"]("")  # tells nothing: the 10 that were set aside stay
            refused("budget_exhausted", lambda: run["ask_model"]("1"))
        with guard_again(opened) as guard, guard.task("clerk", initiator="user:bob"):
            assert tools(guard)["ask_model"]("1"), "another initiator has a budget of his own"

    def test_the_counters_come_back_from_the_log(self, home: Path) -> None:
        with Guard.open(FINANCE, home=home, durability="process") as guard, guard.task("clerk", initiator="user:alice"):
            run = tools(guard)
            run["mail"]("x")
            run["ask_model"]("15")
        for file in home.glob("state.*"):
            file.unlink()
        with Guard.open(FINANCE, home=home, durability="process") as guard, guard.task("clerk", initiator="user:alice"):
            run = tools(guard)
            run["mail"]("x")
            refused("budget_exhausted", lambda: run["mail"]("x"))
            run["ask_model"]("1")
            refused("budget_exhausted", lambda: run["ask_model"]("1"))

    def test_a_sliding_window_never_holds_more_than_its_limit(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        text = """
agentguard: 1
name: x
agents: {a: {tools: {t: {}}, budgets: [{calls: 3, per: agent, window: {sliding: 1h}}]}}
"""
        start, admitted = time.time_ns(), []
        with Guard.open(text, home=home, durability="process") as guard:

            @guard.tool
            def t() -> None: ...

            for minute in range(0, 400, 7):
                monkeypatch.setattr(Clock, "now", lambda self, at=start + minute * 60 * 10**9: at)
                with guard.task("a", initiator="user:alice", ttl="1d"), suppress(Denied):
                    t()
                    admitted.append(minute)
        assert all(sum(at <= other < at + 60 for other in admitted) <= 3 for at in admitted)
        assert len(admitted) >= 3 * 5, "what left the window is free again"

    def test_a_fixed_window_begins_anew(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        text = "agentguard: 1\nname: x\nagents: {a: {tools: {t: {}}, budgets: [{calls: 1, per: task, window: {fixed: 1m}}]}}\n"
        start = time.time_ns() // (60 * 10**9) * (60 * 10**9)
        with Guard.open(text, home=home, durability="process") as guard:

            @guard.tool
            def t() -> None: ...

            for second, code in ((0, ""), (59, "budget_exhausted"), (60, ""), (61, "budget_exhausted")):
                monkeypatch.setattr(Clock, "now", lambda self, at=start + (120 + second) * 10**9: at)
                if not second:
                    task = guard.task("a", initiator="user:alice", ttl="1d").start()
                if code:
                    refused(code, t)
                else:
                    t()
            task.close()


def guard_again(guard: Guard) -> Guard:
    return Guard.open(FINANCE, home=guard.home.path, durability="process")


class TestSequences:
    def test_before_needs_a_success(self, opened: Guard) -> None:
        with opened as guard, guard.task("clerk", initiator="user:alice"):
            run = tools(guard)
            refused("sequence_violation", lambda: run["pay"](1, "b", "a"))
            with pytest.raises(ValueError, match="no such account"):
                run["balance"]("broken")
            denied = refused("sequence_violation", lambda: run["pay"](1, "b", "a"))
            assert "required balance before pay, found no balance that succeeded [<policy>:22]" in str(denied)
            run["balance"]("a")
            assert run["pay"](1, "b", "a") == "paid"

    def test_a_success_of_another_task_does_not_count(self, opened: Guard) -> None:
        with opened as guard:
            run = tools(guard)
            with guard.task("clerk", initiator="user:alice"):
                run["balance"]("a")
            with guard.task("clerk", initiator="user:alice"):
                refused("sequence_violation", lambda: run["pay"](1, "b", "a"))

    def test_at_most(self, opened: Guard) -> None:
        with opened as guard, guard.task("clerk", initiator="user:alice"):
            run = tools(guard)
            run["balance"]("a")
            run["balance"]("a")
            assert "at most 2 of balance" in str(refused("sequence_violation", lambda: run["balance"]("a")))

    def test_never_after_holds_for_all_agents_of_the_task(self, opened: Guard) -> None:
        with opened as guard, guard.task("clerk", initiator="user:alice") as task:
            run = tools(guard)
            run["mail"]("x")
            with task.delegate("helper"):
                run["read_secret"]()
                refused("sequence_violation", lambda: run["mail"]("x"))
            refused("sequence_violation", lambda: run["mail"]("x"))

    def test_never_after_holds_for_a_call_that_failed(self, opened: Guard) -> None:
        with opened as guard, guard.task("clerk", initiator="user:alice"):
            permit = guard.check(ToolCall("clerk", "read_secret", {}))
            refused("sequence_violation", lambda: guard.check(ToolCall("clerk", "mail", {"to": "x"})))
            permit.release()  # it never ran
            guard.check(ToolCall("clerk", "mail", {"to": "x"})).release()

    def test_what_admission_finds_decides_not_what_was_read_before(self, opened: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
        with opened as guard, guard.task("clerk", initiator="user:alice") as task:
            for shared in (False, True):
                if shared:
                    guard.home.state.share(task.id)
                state, counts = type(guard.home.state), type(guard.home.state).counts
                run, meanwhile = tools(guard), []

                def stale(
                    self: Any, task: str, keys: Any, run: Any = run, meanwhile: list[Any] = meanwhile, counts: Any = counts
                ) -> dict[str, int]:
                    before: dict[str, int] = counts(self, task, keys)
                    if not meanwhile:
                        meanwhile.append(None)
                        run["read_secret"]()
                    return before

                monkeypatch.setattr(state, "counts", stale)
                refused("sequence_violation", lambda run=run: run["mail"]("x"))
                assert meanwhile
                monkeypatch.undo()


class TestApprovals:
    def test_a_call_that_needs_one_asks(self, opened: Guard) -> None:
        with opened as guard, guard.task("clerk", initiator="user:alice"):
            run = tools(guard)
            run["balance"]("a")
            denied = refused("approval_required", lambda: run["pay"](501, "b", "a"))
            assert isinstance(denied, ApprovalRequired)
            assert denied.decision.verdict == "ask"
            assert "approval by user:carol" in str(denied)

    def test_decided_with_the_answer(self) -> None:
        policy = load(FINANCE)
        reads = policy.standing("clerk", "pay").watch.reads  # type: ignore[union-attr]
        arguments = {"amount": 501, "to": "b", "account": "a"}
        for answer, code in (
            (None, "approval_required"),
            (Answer("r", True, ("user:carol",)), "allow"),
            (Answer("r", False, ("user:carol",)), "approval_denied"),
        ):
            assert judged(policy, "pay", arguments, Usage(dict.fromkeys(reads, 1), answer)) == code

    def test_what_cannot_be_told_asks(self) -> None:
        policy = load(FINANCE)
        reads = policy.standing("clerk", "pay").watch.reads  # type: ignore[union-attr]
        assert judged(policy, "pay", {"amount": "much", "to": "b", "account": "a"}, Usage(dict.fromkeys(reads, 1))) == "approval_required"

    def test_the_strictest_of_several_rules(self) -> None:
        policy = load("""
agentguard: 1
name: x
agents:
  a:
    tools: {t: {}}
    approval: [{tool: t, by: [x, y], of: 2, expires: 1h, initiator: accepted}, {tool: t, by: [y, z, w], expires: 5m}]
tools: {t: {approval: required}}
""")
        rule = policy.standing("a", "t").approval(({},), {})  # type: ignore[union-attr]
        assert rule is not None
        assert (rule.by, rule.of, rule.expires, rule.initiator) == (("y",), 2, 300, False)

    def test_once_for_a_task(self) -> None:
        policy = load(
            "agentguard: 1\nname: x\nagents: {a: {tools: {t: {}}, sequence: [{tool: t, only_after_approval: {by: [x], of: 1}}]}}\n"
        )
        (key,) = policy.standing("a", "t").watch.reads  # type: ignore[union-attr]
        assert judged(policy, "t", {}, agent="a") == "approval_required"
        assert judged(policy, "t", {}, Usage({key: 1}), agent="a") == "allow"


class TestHours:
    TEXT = """
agentguard: 1
name: x
agents: {a: {tools: {t: {}, u: {}}, hours: [{days: [mon], from: "08:00", to: "18:00", zone: UTC, tools: [t]}]}}
"""

    def test_outside_of_them_nothing_runs(self) -> None:
        policy = load(self.TEXT)
        monday = 1_700_467_200  # 2023-11-20 08:00 UTC
        assert judged(policy, "t", {}, now=monday, agent="a") == "allow"
        assert judged(policy, "t", {}, now=monday - 1, agent="a") == "tool_not_allowed"
        assert judged(policy, "t", {}, now=monday + 86_400, agent="a") == "tool_not_allowed"
        assert judged(policy, "u", {}, now=monday - 1, agent="a") == "allow"


class TestShadow:
    TEXT = """
agentguard: 1
name: x
agents:
  a:
    tools: {t: {x: {exact: 1}}, u: {x: {exact: 1}}}
    budgets: [{calls: 3, per: task}]
    unsafe_shadow: {until: "%s", tools: [t]}
"""

    def run(self, home: Path, until: str) -> list[str]:
        with Guard.open(self.TEXT % until, home=home, durability="process") as guard, guard.task("a", initiator="user:alice"):

            @guard.tool
            def t(x: int) -> str:
                return f"ran {x}"

            @guard.tool
            def u(x: int) -> str:
                return f"ran {x}"

            got = []
            for run, x in ((t, 1), (t, 2), (u, 2), (t, 3), (t, 4)):
                try:
                    got.append(run(x))
                except Denied as denied:
                    got.append(str(denied.code))
            return got

    def test_a_shadowed_rule_is_recorded_and_not_enforced(self, home: Path) -> None:
        assert self.run(home, "2999-01-01") == ["ran 1", "ran 2", "argument_not_allowed", "ran 3", "budget_exhausted"]
        records = [json.loads(line) for line in log_records(home)]
        softened = [record for record in records if record["type"] == "decision" and not record["enforced"]]
        assert [(record["verdict"], record["code"], record["stages"]["10"]) for record in softened] == [
            ("deny", "argument_not_allowed", "shadow")
        ] * 2
        assert all(any(other["type"] == "outcome" and other["execution"] == record["id"] for other in records) for record in softened)

    def test_it_ends_with_its_date(self, home: Path) -> None:
        assert self.run(home, "2020-01-01") == ["ran 1"] + ["argument_not_allowed"] * 4

    def test_what_it_let_through_is_counted_when_the_state_is_rebuilt(self, home: Path) -> None:
        text = "agentguard: 1\nname: x\nagents: {a: {tools: {t: {x: {exact: 1}}}, budgets: [{calls: 2, per: agent}], "
        text += 'unsafe_shadow: {until: "2999-01-01"}}}\n'
        for expected in ("ran", "ran", "budget_exhausted"):
            for file in home.glob("state.*"):
                file.unlink()
            with Guard.open(text, home=home, durability="process") as guard, guard.task("a", initiator="user:alice"):

                @guard.tool
                def t(x: int) -> str:
                    return "ran"

                if expected == "ran":
                    assert t(2) == "ran"
                else:
                    refused(expected, lambda: t(2))


def log_records(home: Path) -> list[bytes]:
    from agentguard.log import iter_records, read_shards

    return [record for shard in read_shards(home) for _, _, record in iter_records(home, shard)]
