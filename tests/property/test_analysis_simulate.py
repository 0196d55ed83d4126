"""What `simulate` says of a trace is what a guard says that gets the same calls at the same times: verdict and code of each."""

from __future__ import annotations

import json
import tempfile
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentguard import Denied, Guard, ToolCall
from agentguard.analysis.replay import Replay
from agentguard.analysis.trace import Called
from agentguard.canonical import freeze
from agentguard.decision import Code, Verdict
from agentguard.policy import load
from agentguard.task import Task

AGENT, TOOLS, NANOSECOND = "a", ("look", "pay", "mail"), 10**9
#: A Monday, 08:00 UTC.
START = 1_894_003_200
WINDOWS: list[dict[str, Any]] = [{}, {"window": {"fixed": "60s"}}, {"window": {"sliding": "60s"}}]
BUDGETS = st.builds(
    lambda rule, per, window: {**rule, "per": per, **window},
    st.one_of(
        st.builds(lambda calls: {"calls": calls}, st.integers(1, 4)),
        st.builds(lambda calls, tool: {"calls": calls, "tool": tool}, st.integers(1, 3), st.sampled_from(TOOLS)),
        st.builds(lambda limit: {"cost": "x", "tool": "pay", "limit": limit}, st.integers(1, 6)),
    ),
    st.sampled_from(["task", "agent", "initiator"]),
    st.sampled_from(WINDOWS),
)
NAMED = lambda rule: (rule.get("tool"), "cost" in rule, rule["per"], str(rule.get("window")))  # noqa: E731
SEQUENCES = st.sampled_from(
    [
        {"tool": "look", "before": "pay"},
        {"tool": "mail", "never_after": "pay"},
        {"tool": "mail", "at_most": 2},
        {"tool": "look", "never_after": "mail"},
    ]
)
HOURS = st.sampled_from([[], [{"days": ["mon", "tue", "wed"], "from": "09:00", "to": "17:00", "zone": "UTC"}]])
#: Seconds that pass before a call, who makes it in which task, what it does, and whether it ends well.
STEPS = st.lists(
    st.tuples(st.sampled_from([0, 1, 30, 61, 20_000]), st.integers(0, 2), st.sampled_from(TOOLS), st.integers(0, 4), st.booleans()),
    min_size=1,
    max_size=14,
)


class Failed(Exception):
    """What a tool raises that does not end well."""


def said(guard: Guard, task: Task, call: ToolCall, ok: bool) -> Code | None:
    """What the guard says; the call is run, well or not, where it may."""

    def tool(**_: object) -> int:
        if not ok:
            raise Failed
        return 1

    try:
        guard.check(call, task=task).run(tool)
    except Denied as denied:
        return denied.code
    except Failed:
        pass
    return None


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(budgets=st.lists(BUDGETS, max_size=3, unique_by=NAMED), sequence=st.lists(SEQUENCES, max_size=2), hours=HOURS, steps=STEPS)
def test_a_trace_is_judged_as_a_guard_judges_it(
    budgets: list[Any], sequence: list[Any], hours: list[Any], steps: list[tuple[int, int, str, int, bool]]
) -> None:
    rules: dict[str, Any] = {"tools": {"look": {"x": "any"}, "pay": {"x": {"range": {"max": 3}}}, "mail": {"x": "any"}}, "budgets": budgets}
    rules |= {name: value for name, value in (("sequence", sequence), ("hours", hours)) if value}
    text = json.dumps({"agentguard": 1, "name": "p", "agents": {AGENT: rules}}, indent=1) + "\n"
    policy = load(text)
    replay, moment = Replay(policy), START
    with tempfile.TemporaryDirectory() as home, Guard.open(policy, home=home, durability="process") as guard:
        clock = guard._enforcement.clock
        clock._wall, clock._elapsed, clock._base = (lambda: moment * NANOSECOND), (lambda: 0), 0
        whose = ("user:alice", "user:bob", "user:alice")
        tasks = [guard.task(AGENT, initiator=who, ttl="30d").issue() for who in whose]
        for number, (passes, task, tool, x, ok) in enumerate(steps):
            moment += passes
            call = Called(AGENT, tool, freeze({"x": x}), Verdict.ALLOW, None, ok, str(number), moment, str(task), whose[task])
            reason = replay.judge(call)
            assert (reason.code if reason is not None else None) == said(guard, tasks[task], ToolCall(AGENT, tool, {"x": x}), ok)
