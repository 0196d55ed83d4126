"""`agentguard policy simulate`: recorded calls judged by another policy, and nothing said about calls that nobody knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentguard import Denied, Guard, ToolCall
from agentguard.analysis.simulate import Simulation, simulate
from agentguard.analysis.trace import Called, from_home, from_lines
from agentguard.errors import InvalidInput
from agentguard.policy import load

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
    # eve and drop are refused now; save is allowed now; the budget is nobody's rule about a call
    assert totals(found) == {"same": 2, "denied": 2, "allowed": 1, "elsewhere": 1, "unknown": 0}
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
        + line(verdict="deny", code="budget_exhausted")
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
        (line(agent=1), "agent and tool must be strings"),
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
