"""LangChain tools: what observation records is what the guard judges later, without what the framework fills in."""

# No postponed annotations: LangChain reads those of the tools below.

import asyncio
import json
import os
from pathlib import Path
from typing import Annotated, Any

import pytest

pytest.importorskip("langchain_core", reason="langchain-core belongs to the langchain extra")

from langchain_core.messages import ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, InjectedToolArg, Tool, tool

from agentguard import Guard
from agentguard.analysis.learn import learn
from agentguard.analysis.observe import observing
from agentguard.analysis.trace import from_lines
from agentguard.errors import InvalidInput
from agentguard_adapters.langchain_core import guard_tools


def test_langchain_tools_from_observation_to_enforcement(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"

    @tool
    def send_email(to: str, config: RunnableConfig, key: Annotated[str, InjectedToolArg] = "secret", copies: int = 1) -> str:
        """Send."""
        return f"{to} {copies}"

    @tool
    async def look_up(name: str) -> str:
        """Look up."""
        return name

    class Own(BaseTool):
        name: str = "own"
        description: str = "own"

        def _run(self, x: str) -> str:
            return x

    with observing(file, agent="triage") as watch:
        sender, looker = watch.watch([send_email, look_up])
        assert send_email.func is not sender.func
        assert (sender.name, sender.args, sender.description) == (send_email.name, send_email.args, send_email.description)
        sender.invoke({"to": "ann@example.com"})
        sender.invoke({"to": "bob@example.com", "copies": 2, "key": "other"})
        asyncio.run(looker.ainvoke({"name": "ann"}))
        with pytest.raises(InvalidInput, match="cannot be observed"):
            watch.watch([Own()])
        with pytest.raises(InvalidInput, match="names other arguments"):
            watch.watch([Tool("text", lambda text: text, "text")])
    assert json.loads(file.read_text().splitlines()[0])["arguments"] == {"to": "ann@example.com", "copies": 1}
    assert "secret" not in file.read_text()
    assert "other" not in file.read_text()

    found = learn(lambda: from_lines(file))
    with Guard.open(found.text, home=tmp_path / "home", durability="process") as guard, guard.task("triage", initiator="user:alice"):
        (guarded,) = guard_tools(guard, [send_email], agent="triage")

        def ask(**arguments: Any) -> ToolMessage:
            answer = guarded.invoke({"name": "send_email", "args": arguments, "id": os.urandom(4).hex(), "type": "tool_call"})
            assert isinstance(answer, ToolMessage)
            return answer

        assert ask(to="ann@example.com").status == "success"
        assert ask(to="bob@example.com", copies=2).status == "success"
        assert ask(to="eve@evil.test").status == "error"
