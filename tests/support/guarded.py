"""What the attacks on the guard share: one permissive policy, so that nothing but the guard itself stands in the way."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentguard import Denied, Guard, ToolCall
from agentguard.log import iter_records

POLICY = """
agentguard: 1
name: attacks
agents:
  triage:
    tools:
      echo: {x: any}
      pair: {a: any, b: {not_one_of: ["forbidden"], optional: true}}
      limited: {b: {one_of: [1, 2]}}
      outer: {x: any}
      stream: {n: any}
      nothing: {}
      mail: {to: {one_of: [bob, ann]}, rest: {not_one_of: ["forbidden"], optional: true}}
      many: {rest: {one_of: ["ab"], optional: true}}
      proven: {x: any}
      again: {x: any}
    budgets: [{calls: 100000, per: task}]
    delegates: {writer: {depth: 1}}
  writer:
    tools: {echo: {x: {one_of: [1, 2]}}}
forbid: [{tool: "delete_*"}]
tools: {proven: {proof: required}, again: {rerun: safe}}
"""


def records(guard: Guard, kind: str) -> list[dict[str, Any]]:
    """All records of one type, oldest first."""
    found = [json.loads(record) for _, _, record in iter_records(guard.home.path)]
    return [record for record in found if record["type"] == kind]


def leaves(guard: Guard) -> bytes:
    """Every byte of every record."""
    return b"\n".join(record for _, _, record in iter_records(guard.home.path))


def call(tool: str = "echo", arguments: Any = None, agent: str = "triage", **more: Any) -> ToolCall:
    return ToolCall(agent, tool, {"x": 1} if arguments is None else arguments, **more)


def denied(code: str, run: Any, *args: Any, **kwargs: Any) -> Denied:
    """Run something that must be denied with this code."""
    with pytest.raises(Denied) as caught:
        run(*args, **kwargs)
    assert caught.value.code == code, caught.value
    return caught.value
