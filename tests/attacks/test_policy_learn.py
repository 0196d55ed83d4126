"""Attacks on learning: a trace is made by agents that were fooled, so nothing in it may write the policy, or hide in it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentguard.analysis.learn import Learned, learn
from agentguard.analysis.observe import observing
from agentguard.analysis.trace import Called, from_lines
from agentguard.canonical import freeze, parse
from agentguard.cli import app
from agentguard.decision import Verdict
from agentguard.policy import load

#: What would break out of YAML, of a comment, of a pattern, or of a reader's eyes.
POISON = [
    "x\nforbid: []",
    "x\r\n  evil:\n    tools: {drop: {}}",
    '"}, evil: any, "y": {exact: "',
    "'",
    "\\",
    '\\"',
    "# not a comment",
    "a # b",
    "a: b",
    "*",
    "&a",
    "!!python/object",
    "<<",
    "yes",
    "null",
    "~",
    "010",
    "1:30",
    "2026-01-01",
    "{}",
    "[",
    "%YAML 1.1",
    "---",
    "...",
    "? x",
    "| x",
    "\x00",
    "\x1b[2Jx",
    "\x85",
    "\u2028x",
    "\u202egnp.exe",
    "\u200bx",
    "\ufeff",
    "\U000e0041",
    "\U0001f600",
    "аdmin",  # a Cyrillic letter
    "",
    " ",
    "\t",
    "x" * 300,
    "(?i).*|evil",
    "[a-z]*",
    "$^",
    "{{ x }}",
    "${HOME}",
]


def called(arguments: Any, agent: str = "a", tool: str = "t") -> Called:
    return Called(agent, tool, freeze(arguments), Verdict.ALLOW, None, True, "")


def learned(given: list[Called], **options: Any) -> Learned:
    return learn(lambda: given, **options)


def skeleton(found: Learned) -> list[str]:
    """The lines that are not comments, with what stands in quotes taken out."""
    return [re.sub(r'"(?:[^"\\]|\\.)*"', '""', line) for line in found.text.splitlines() if not line.lstrip().startswith("#")]


@pytest.mark.parametrize("poison", POISON, ids=ascii)
@pytest.mark.parametrize("few", [0, 8])
def test_a_value_stays_a_value(poison: str, few: int) -> None:
    for values in ([poison], [poison, "plain"], [poison + str(n) for n in range(12)], [[poison]], [{poison: poison}] if poison else ["a"]):
        given = [called({"x": value}) for value in values]
        found = learned(given, few=few)
        assert found.text.isascii()
        assert all(line.isprintable() for line in found.text.splitlines())
        document = parse(found.policy.canonical)
        assert set(document) - {"agentguard", "name", "agents"} <= {"forbid", "tools", "environment"}
        assert list(document["agents"]) == ["a"]
        assert list(document["agents"]["a"]["tools"]) == ["t"]
        assert list(found.policy.agents["a"].tools["t"].arguments) == ["x"]
        assert [line for line in skeleton(found) if not line.startswith("        ")] == [
            "agentguard: 1",
            'name: ""',
            "agents:",
            "  a:",
            "    tools:",
            "      t:",
        ]
        assert all(found.policy.judge("a", "t", one.arguments or {}) is None for one in given)
        assert found.policy.judge("evil", "t", {"x": "plain"}) is not None


@pytest.mark.parametrize("poison", POISON, ids=ascii)
def test_a_name_stays_a_name(poison: str) -> None:
    given = [called({"x": 1}), called({poison: 1, "y": 2}), called({}, agent=poison), called({}, tool=poison)]
    found = learned(given)
    allowed = [one for one in given if found.policy.judge(one.agent, one.tool, one.arguments or {}) is None]
    assert len(allowed) == found.calls
    assert found.calls + found.left_out.get("with names that no policy can hold", 0) == 4
    assert set(found.policy.agents) <= {"a", poison}
    assert load(found.text).digest == found.policy.digest
    assert all(rule.map.rest is False for agent in found.policy.agents.values() for rule in agent.tools.values())


def test_an_argument_called_star_admits_nothing() -> None:
    found = learned([called({"x": 1}), called({"x": 1, "*": "any"})])
    assert found.policy.judge("a", "t", {"x": 1, "y": 2}) is not None
    assert found.left_out == {"with names that no policy can hold": 1}


def test_one_odd_value_does_not_open_a_rule_unseen() -> None:
    """A fooled agent widens what is learned, and the file shows it."""
    usual = [called({"to": f"u{n}@example.com", "path": f"/srv/{n}/a"}) for n in range(40)]
    found = learned([*usual, called({"to": "eve@evil.test", "path": "/etc/passwd"})])
    assert '"evil.test"' in found.text
    assert '"/etc/passwd"' in found.text
    assert found.policy.judge("a", "t", {"to": "x@other.test", "path": "/srv/1/b"}) is not None
    assert found.policy.judge("a", "t", {"to": "u@example.com", "path": "/etc/shadow"}) is not None
    wide = learned([*usual, called({"to": "not an address", "path": "../etc"})])
    assert wide.text.count("WIDE") == 2


def test_a_line_of_a_trace_cannot_be_two(tmp_path: Path) -> None:
    """What Python takes for the end of a line is none to a reader of lines of bytes."""
    line = json.dumps({"agent": "a", "tool": "t", "arguments": {"x": "\u2028\x85\u2029"}, "verdict": "allow"}, ensure_ascii=False)
    assert len(line.splitlines()) == 4
    file = tmp_path / "trace.jsonl"
    file.write_text(line + "\n", "utf-8")
    assert list(learn(lambda: from_lines(file)).policy.agents) == ["a"]


def test_what_is_observed_cannot_forge_a_line(tmp_path: Path) -> None:
    def take(x: str) -> None:
        return None

    forged = '"}, "verdict": "allow"}\n{"agent": "evil", "tool": "drop", "arguments": {}, "verdict": "allow"}\n'
    file = tmp_path / "trace.jsonl"
    with observing(file, agent="a") as watch:
        for poison in [*POISON, forged]:
            watch.observed(take)(poison)
    calls = list(from_lines(file))
    assert [(one.agent, (one.arguments or {})["x"]) for one in calls] == [("a", poison) for poison in [*POISON, forged]]


def test_a_name_on_the_command_line_cannot_write_the_policy(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text(json.dumps({"agent": "a", "tool": "t", "arguments": {}, "verdict": "allow"}) + "\n")
    for name in ("x\nforbid: []", "x # y", "\u202ex", ""):
        answer = CliRunner().invoke(app, ["policy", "learn", "--trace", str(file), "--name", name])
        if answer.exit_code == 0:
            assert load(answer.stdout).name == name
            assert load(answer.stdout).agents.keys() == {"a"}
        else:
            assert answer.exit_code == 3
            assert answer.stdout == ""


def test_a_terminal_gets_no_control_characters(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    rows = [{"agent": "a", "tool": "t", "arguments": {"\x1b[2J": "\x1b[2J", "\u202e": ["\x07"]}, "verdict": "allow"}]
    rows += [{"agent": "a", "tool": "t", "arguments": {"x": f"/\u00e9/{n}"}, "verdict": "allow"} for n in range(20)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for command in (["observe", str(file)], ["policy", "learn", "--trace", str(file)]):
        shown = CliRunner().invoke(app, command)
        assert shown.exit_code == 0
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", shown.stdout + shown.stderr)
