"""Standing rules by themselves: what their counters are called, where they begin and end, and what a refusal says."""

from __future__ import annotations

import re
from typing import Any

import pytest

from agentguard.admission import Account, Charge, Need, counter_expiry, counter_key, replay_key
from agentguard.canonical import freeze
from agentguard.decision import Code, Reason
from agentguard.errors import InvalidInput
from agentguard.policy.approval import ApprovalRule
from agentguard.policy.budgets import Budget, Window, metered, millionths, show_millionths
from agentguard.policy.forbid import Forbid, ForbidIndex
from agentguard.policy.hours import parse_hours
from agentguard.policy.sequences import SequenceRule, Watch, watch
from agentguard.policy.standing import HoursRule, Standing

CAROL = ApprovalRule(("user:carol",), 1, 3600, False, "p:1:1")
DAVE = ApprovalRule(("user:dave",), 1, 3600, False, "p:2:1")
LARGEST = 2**53


def rule(
    kind: Any, subjects: tuple[str, ...], objects: tuple[str, ...] = (), limit: int = 0, ask: ApprovalRule | None = None
) -> SequenceRule:
    return SequenceRule(kind, subjects, objects, limit, "clerk", f"p:{kind}", ask)


def watched(tool: str, *rules: SequenceRule) -> Watch:
    found = watch("clerk", tool, rules)
    assert found is not None
    return found


class TestForbid:
    def test_of_several_rules_the_first_is_named(self) -> None:
        rules = [Forbid(tool, None, tool, "p", order) for order, tool in enumerate(["*_all", "delete_*", "delete_all", "*"])]
        for rotated in (rules, rules[::-1], rules[2:] + rules[:2]):
            first = ForbidIndex(rotated).first("clerk", "delete_all")
            assert first is not None
            assert first.reason == "*_all"

    @pytest.mark.parametrize("glob", ["send", "send*", "*send", "*send*", "s?nd", "?end", "sen?", "*", "????"])
    def test_every_form_of_a_glob_is_found(self, glob: str) -> None:
        index = ForbidIndex([Forbid(glob, None, "", "p")])
        assert index.first("clerk", "send") is not None
        assert (index.first("clerk", "xx") is not None) == (glob == "*")


class TestSequences:
    def test_what_is_needed_before_is_counted_for_each_rule(self) -> None:
        first, second = rule("before", ("check",), ("pay",)), rule("before", ("ask",), ("pay",))
        paying = watched("pay", first, second)
        (done,) = watched("check", first, second).earned
        assert paying.judge("pay", {}) == Reason(Code.SEQUENCE_VIOLATION, "pay", "check before pay", "no check that succeeded", "p:before")
        reason = paying.judge("pay", {done: 1})
        assert reason is not None
        assert reason.required == "ask before pay"
        assert paying.judge("pay", dict.fromkeys(paying.reads, 1)) is None

    def test_what_must_not_come_before_is_counted_for_each_rule(self) -> None:
        one, other = rule("never_after", ("mail",), ("secret",)), rule("never_after", ("post",), ("secret",))
        assert one.counter() == other.counter()
        assert rule("never_after", ("mail",), ("key",)).counter() != one.counter()
        reason = watched("mail", one).judge("mail", {one.counter(): 1})
        assert reason is not None
        assert (reason.required, reason.found) == ("mail never after secret", "1 call of secret before")
        more = watched("mail", one).judge("mail", {one.counter(): 2})
        assert more is not None
        assert more.found == "2 calls of secret before"

    def test_at_most_is_judged_before_the_call_counts(self) -> None:
        three = rule("at_most", ("mail",), limit=3)
        seen = watched("mail", three)
        assert seen.needs == (Need(three.counter(), 0, 2),)
        assert seen.judge("mail", {three.counter(): 2}) is None
        reason = seen.judge("mail", {three.counter(): 3})
        assert reason is not None
        assert (reason.required, reason.found) == ("at most 3 of mail", "3 before")

    def test_its_counter_never_fills(self) -> None:
        assert watched("mail", rule("at_most", ("mail",), limit=3)).charges[0].limit == LARGEST
        assert watched("pay", rule("before", ("check",), ("pay",))).needs[0].high == LARGEST

    def test_a_counter_is_named_by_what_it_counts(self) -> None:
        assert re.fullmatch("seq/clerk/done/[0-9a-f]{32}", rule("before", ("a",), ("b",)).counter())
        assert re.fullmatch("seq/clerk/called/[0-9a-f]{32}", rule("never_after", ("a",), ("b",)).counter())
        assert re.fullmatch("seq/clerk/approved/[0-9a-f]{32}", rule("only_after_approval", ("a",), ask=CAROL).counter())
        assert re.fullmatch("seq//called/[0-9a-f]{32}", SequenceRule("at_most", ("a",), (), 1, None, "p").counter())

    def test_only_the_first_call_asks(self) -> None:
        wipe = rule("only_after_approval", ("wipe",), ask=CAROL)
        seen = watched("wipe", wipe)
        assert seen.asks({}) == [CAROL]
        assert seen.asks({wipe.counter(): 1}) == seen.asks({wipe.counter(): 2}) == []
        assert watch("clerk", "read", [wipe]) is None

    def test_rules_about_others_are_passed_over_not_the_end(self) -> None:
        other = SequenceRule("at_most", ("mail",), (), 1, "helper", "p")
        assert watch("clerk", "mail", [other]) is None
        assert len(watched("mail", other, rule("at_most", ("mail",), limit=1)).checks) == 1

    def test_long_lists_are_cut(self) -> None:
        many = tuple(f"tool_{number:03d}" for number in range(50))
        assert len(rule("at_most", many, limit=1).words().removeprefix("at most 1 of ")) == 120
        before = rule("before", many, many)
        assert [len(part) for part in before.words().split(" before ")] == [120, 120]
        missing = watched(many[0], before).judge(many[0], {})
        assert missing is not None
        assert len(missing.found) == len("no  that succeeded") + 120
        late = rule("never_after", many, many)
        called = watched(many[0], late).judge(many[0], {late.counter(): 1})
        assert called is not None
        assert len(called.found) == len("1 call of  before") + 120

    def test_as_the_policy_has_it(self) -> None:
        assert rule("at_most", ("a",), limit=3).to_json() == {"tool": ["a"], "at_most": 3}
        assert rule("before", ("a",), ("b",)).to_json() == {"tool": ["a"], "before": ["b"]}
        asking = rule("only_after_approval", ("a",), ask=CAROL)
        assert asking.to_json() == {"tool": ["a"], "only_after_approval": CAROL.to_json()}
        assert asking.words() == "a only after approval"


class TestBudgets:
    @pytest.mark.parametrize(
        ("value", "millions"),
        [
            (0, 0),
            (1, 1_000_000),
            (LARGEST // 1_000_000, LARGEST // 1_000_000 * 1_000_000),
            (LARGEST // 1_000_000 + 1, None),
            (-1, None),
            (0.0, 0),
            (0.5, 500_000),
            (1e-7, 1),
            (1.0000001, 1_000_001),
            (LARGEST / 1_000_000, LARGEST),
            (9007199254.740993, None),
            (-0.5, None),
            (float("nan"), None),
            (float("inf"), None),
            (True, None),
            ("1", None),
            (None, None),
        ],
    )
    def test_millionths(self, value: object, millions: int | None) -> None:
        assert millionths(value) == millions

    @pytest.mark.parametrize(("count", "shown"), [(12_500_000, "12.5"), (5_000_000, "5"), (10_000_000, "10"), (1, "0.000001"), (0, "0")])
    def test_shown(self, count: int, shown: str) -> None:
        assert show_millionths(count) == shown

    def test_a_budget_of_a_task(self) -> None:
        assert Budget(5, "b", "p").charge("clerk", "user:a", {}, 0) == Charge("budget/clerk/b", 5, "b", 1)
        assert Budget(5, "b", "p", per="agent").charge("clerk", "user:a", {}, 0) == Charge("shared/budget/clerk/b~0", 5, "b", 1)

    def test_a_budget_of_an_initiator(self) -> None:
        by = Budget(5, "b", "p", per="initiator")
        one, other = by.charge("clerk", "user:a", {}, 0), by.charge("clerk", "user:b", {}, 0)
        assert isinstance(one, Charge)
        assert isinstance(other, Charge)
        assert re.fullmatch("shared/budget/clerk/[0-9a-f]{32}/b~0", one.key)
        assert one.key != other.key

    def test_a_fixed_window(self) -> None:
        day = Budget(5, "b", "p", window=Window(100, sliding=False))
        assert day.charge("clerk", "u", {}, 99) == Charge("budget/clerk/b@000000000000~100", 5, "b", 1)
        assert day.charge("clerk", "u", {}, 100) == Charge("budget/clerk/b@000000000001~200", 5, "b", 1)
        assert day.charge("clerk", "u", {}, -5) == Charge("budget/clerk/b@000000000000~100", 5, "b", 1)

    def test_a_sliding_window(self) -> None:
        hour = Budget(5, "b", "p", window=Window(3600, sliding=True))
        prior = ("budget/clerk/b@000000000040", "budget/clerk/b@000000000100")
        assert hour.charge("clerk", "u", {}, 6000) == Charge("budget/clerk/b@000000000100~9660", 5, "b", 1, prior)
        early = hour.charge("clerk", "u", {}, 60)
        assert isinstance(early, Charge)
        assert early.prior == ("budget/clerk/b@000000000000", "budget/clerk/b@000000000001")
        odd = Budget(5, "b", "p", window=Window(61, sliding=True)).charge("clerk", "u", {}, 200)
        assert odd == Charge("budget/clerk/b@000000000100~264", 5, "b", 1, ("budget/clerk/b@000000000069", "budget/clerk/b@000000000100"))

    def test_a_cost(self) -> None:
        cost = Budget(2_500_000, "b", "p", cost="amount")
        assert cost.charge("clerk", "u", freeze({"amount": 2}), 0) == Charge("budget/clerk/b", 2_500_000, "b", 2_000_000, words="2.5")
        for arguments, found in (({}, "nothing"), ({"amount": -1}, "-1"), ({"amount": None}, "null")):
            reason = cost.charge("clerk", "u", freeze(arguments), 0)
            assert isinstance(reason, Reason)
            assert (reason.code, reason.found) == (Code.BUDGET_EXHAUSTED, found)

    def test_a_cost_of_the_outcome(self) -> None:
        told = Budget(2_500_000, "b", "p", output=("usage", "tokens"), reserve=7)
        charge = told.charge("clerk", "u", {}, 0)
        assert charge == Charge("budget/clerk/b", 2_500_000, "b", 7, words="2.5")
        meter = told.meter(charge)
        assert meter is not None
        assert metered(meter, {"usage": {"tokens": 3}}) == 3_000_000 - 7
        for silent in ({}, {"usage": 3}, 3, None, {"usage": {"tokens": "3"}}):
            assert metered(meter, silent) == 0
        assert Budget(1, "b", "p").meter(charge) is None

    def test_what_is_charged_the_same_always(self) -> None:
        assert Budget(1, "b", "p").fixed
        assert not Budget(1, "b", "p", cost="x").fixed
        assert not Budget(1, "b", "p", window=Window(5, sliding=False)).fixed


class TestStanding:
    HOURS = tuple(
        HoursRule(parse_hours({"days": [day], "from": "09:00", "to": "17:00", "zone": "UTC"}), None, day) for day in ("mon", "tue")
    )

    def test_a_closed_hour(self) -> None:
        standing = Standing((), self.HOURS, None, ())
        assert standing.judge("mail", 4 * 86400 + 10 * 3600, {}) is None  # Monday, 1970-01-05
        assert standing.judge("mail", 5 * 86400 + 10 * 3600, {}) is None
        reason = standing.judge("mail", 3 * 86400 + 10 * 3600, {})
        assert reason is not None
        assert (reason.code, reason.found, reason.place) == (Code.TOOL_NOT_ALLOWED, "1970-01-04 10:00 UTC", "mon")
        assert " or " in reason.required

    def test_many_hours_are_cut(self) -> None:
        reason = Standing((), self.HOURS * 40, None, ()).judge("mail", 0, {})
        assert reason is not None
        assert len(reason.required) == 200

    def test_what_is_fixed(self) -> None:
        assert Standing((Budget(1, "b", "p"),), (), None, ()).fixed
        assert Standing((), (), watched("mail", rule("at_most", ("mail",), limit=1)), ()).fixed
        assert not Standing((), (), watched("wipe", rule("only_after_approval", ("wipe",), ask=CAROL)), ()).fixed
        assert not Standing((), (), None, (CAROL,)).fixed
        assert not Standing((Budget(1, "b", "p"), Budget(1, "c", "p", cost="x")), (), None, ()).fixed

    def test_who_must_approve(self) -> None:
        wipe = rule("only_after_approval", ("wipe",), ask=DAVE)
        seen = watched("wipe", wipe)
        assert Standing((), (), None, ()).approval(({},), {}) is None
        assert Standing((), (), None, (CAROL,)).approval(({},), {}) == CAROL
        assert Standing((), (), seen, ()).approval(({},), {}) == DAVE
        assert Standing((), (), seen, ()).approval(({},), {wipe.counter(): 1}) is None

    def test_what_is_everybodys(self) -> None:
        once = rule("at_most", ("wipe",), limit=1)
        both = watched("wipe", once, rule("only_after_approval", ("wipe",), ask=DAVE))
        assert Standing((), (), None, ()).everybodys("wipe", {}) is None
        assert Standing((), (), None, (), None, CAROL).everybodys("wipe", {}) == CAROL
        assert Standing((), (), both, (), both).everybodys("wipe", {}) == DAVE
        refused = Standing((), (), both, (), both, CAROL).everybodys("wipe", {once.counter(): 1})
        assert isinstance(refused, Reason)


class TestAdmission:
    def test_names(self) -> None:
        assert replay_key("t", "clerk", "c") == "1:t c clerk"
        assert counter_key("t", "k") == "1:t\x7fk"
        assert counter_key("t", "shared/k~0") == "0:\x7fshared/k~0"
        assert (counter_expiry("shared/k~7", 3), counter_expiry("shared/k~0", 3), counter_expiry("k~7", 3)) == (7, LARGEST, 3)

    @pytest.mark.parametrize(
        ("number", "good"), [(0, True), (LARGEST, True), (LARGEST + 1, False), (-1, False), (True, False), (1.0, False)]
    )
    def test_numbers(self, number: Any, good: bool) -> None:
        for made in (
            lambda: Account("t", "clerk", (), number),
            lambda: Account("t", "clerk", (Charge("k", number, "n"),), 1),
            lambda: Account("t", "clerk", (Charge("k", 1, "n", number),), 1),
        ):
            if good:
                made()
            else:
                with pytest.raises(InvalidInput, match="must be a whole number from 0 to 2\\^53"):
                    made()

    @pytest.mark.parametrize(("task", "agent", "key"), [("t" * 65536, "a", "k"), ("t", "a" * 256, "k"), ("t", "a", "k" * 65536)])
    def test_lengths(self, task: str, agent: str, key: str) -> None:
        Account(task, agent, (Charge(key, 1, "n"),), 1)
        longer = (task + "t" * (len(task) > 1), agent + "a" * (len(agent) > 1), key + "k" * (len(key) > 1))
        with pytest.raises(InvalidInput, match="is too long"):
            Account(longer[0], longer[1], (Charge(longer[2], 1, "n"),), 1)

    @pytest.mark.parametrize("agent", ["a b", "ä", "a\n", "a\x7f"])
    def test_agents(self, agent: str) -> None:
        with pytest.raises(InvalidInput, match="printable ASCII without spaces"):
            Account("t", agent, (), 1)

    def test_what_is_prepared(self) -> None:
        charges = (Charge("k", 5, "n", 2), Charge("shared/w~9", 6, "m", prior=("shared/w@1", "shared/w@2")))
        account = Account("t", "clerk", charges, 7, (Need("s", 1),))
        assert (account.prefix, account.suffix) == ("1:t ", " clerk")
        assert account.keys == b'[["k",2],["shared/w~9",1]]'
        assert account.needed == ("1:t\x7fs", 1, LARGEST)
        assert account.tail == ("1:t\x7fk", 2, 5, 7, "0:\x7fshared/w~9", 1, 6, "0:\x7fshared/w@1", "0:\x7fshared/w@2", 9)
        assert account.names == ("k", "shared/w~9")
        assert account.shape == (1, (False, True))
        assert not account.local
        plain = Account("t", "clerk", charges[:1], 7)
        assert plain.local
        assert Account("t", "clerk", (), 7).keys is None
