"""Ways around the adapter for the Claude Agent SDK."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("claude_agent_sdk")

from claude_agent_sdk import ClaudeAgentOptions, tool

from agentguard import Guard
from agentguard.testing import records
from agentguard_adapters.claude_agent import guard_server
from agentguard_adapters.claude_agent_session import Session

POLICY = """
agentguard: 1
name: attacks
agents:
  lead: {tools: {save: {text: any}}}
"""


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[Guard]:
    with Guard.open(POLICY, home=tmp_path / "home", durability="process") as opened, opened.task("lead", initiator="user:test"):
        yield opened


def test_another_server_under_the_name_of_a_guarded_one(guard: Guard) -> None:
    """Settings of the program may name a server as the options do. A call that never came to the guarded one, and ran, ends the session."""

    @tool("save", "Saves.", {"text": str})
    async def save(arguments: dict[str, Any]) -> dict[str, Any]:
        raise AssertionError("the call goes elsewhere")

    async def run() -> dict[str, Any]:
        session = Session(guard, "lead", None, "message")
        session.options(ClaudeAgentOptions(mcp_servers={"notes": guard_server(guard, "notes", [save])}))
        use = {"tool_name": "mcp__notes__save", "tool_input": {"text": "x"}}
        assert await session.before(use, "toolu_1", None) == {}
        return await session.after({**use, "tool_response": "saved"}, "toolu_1", None)

    answer = asyncio.run(run())
    assert answer["continue_"] is False
    assert [record["code"] for record in records(guard, "decision")] == ["integrity_failure"]
