"""What the tests of approvals share: a policy that asks, and people who answer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from agentguard import ApprovalRequired, Guard, ToolCall, control
from agentguard.approvals import Request, Verdict
from agentguard.environment import NANOSECOND, Clock
from agentguard.home import Home
from agentguard.keys import Signer
from agentguard.ledger import Ledger
from agentguard.premises import Answer

POLICY = """
agentguard: 1
name: finance
agents:
  clerk:
    tools:
      send_money: {amount: any, to: any}
      read_file: {path: {path: ROOT}}
      wipe: {}
      plan: {x: any}
    budgets: [{calls: 3, per: task, tool: plan}]
    delegates: {helper: {depth: 1}}
    approval:
      - {tool: send_money, when: "amount > 100", by: ["user:carol", "user:dan"], of: 1, expires: 1h}
      - {tool: [read_file, plan], by: ["user:carol"], expires: 1h}
  helper:
    tools: {send_money: {amount: any, to: any}}
    approval: [{tool: send_money, by: ["user:carol", "user:dan"], of: 2, expires: 1h}]
tools:
  wipe: {approval: {by: ["user:carol", "user:alice"], initiator: accepted}}
"""
CALL = ToolCall("clerk", "send_money", {"amount": 500, "to": "bob"})


def policy(**changes: str) -> str:
    """The policy, with pieces of its text replaced: `policy(of="1 -> 2")`."""
    text = POLICY.replace("ROOT", "/srv")
    for change in changes.values():
        old, new = change.split(" -> ")
        assert old in text, old
        text = text.replace(old, new)
    return text


def opened(home: Path, text: str | None = None) -> Guard:
    return Guard.open(text or policy(), home=home, durability="process")


def asks(guard: Guard, call: ToolCall = CALL, **more: Any) -> Request:
    """Make a call that must be refused for want of an approval; the request it became."""
    with pytest.raises(ApprovalRequired) as caught:
        guard.check(call, **more)
    return guard.home.inbox.get(caught.value.request)


def runs(guard: Guard, call: ToolCall = CALL, **more: Any) -> list[Any]:
    """Make a call that must be allowed, and run it; what the tool got."""
    got: list[Any] = []
    guard.check(call, **more).run(lambda **arguments: got.append(arguments))
    return got


def answers(
    home: Home,
    request: Request,
    name: str = "user:carol",
    verdict: Verdict = "approve",
    *,
    key: Signer | None = None,
    now: int | None = None,
) -> Answer | None:
    """Answer as a human would on the command line."""
    clock = Clock()
    moment = clock.now() // NANOSECOND if now is None else now
    signer = key if key is not None else home.keys.approver(name)
    return control.answer(home, Ledger(home, clock), request, name, signer, verdict, now=moment, operator="tester")


def place(home: Path) -> Path:
    """Where the only request of a home lies."""
    (found,) = [path for path in (home / "approvals").iterdir() if path.is_dir()]
    return found


def rewrite(path: Path, text: str) -> None:
    """Put other text into a file that its owner may read only."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
