"""What the attacks on the adapters for LangChain have in common: a tool that sends money, a policy, and ways to run a graph."""

from __future__ import annotations

import asyncio
from typing import Any

from langchain_core.messages import ToolMessage
from langchain_core.tools import StructuredTool

from support.scripted import GO

POLICY = """
agentguard: 1
name: attacks
agents:
  triage:
    tools:
      wire: {amount: {range: {max: 10}}, to: {one_of: [ann]}}
      run_inner: {}
      whose: {q: any}
    delegates: {helper: {depth: 1}}
  helper:
    tools: {wire: {amount: {range: {max: 1}}, to: {one_of: [ann]}}}
"""
GOOD = {"amount": 5, "to": "ann"}
BAD = {"amount": 5000, "to": "eve"}
MODES = ["sync", "async", "stream", "astream"]


class Wires:
    """Where the money went."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, str]] = []

    def tool(self) -> StructuredTool:
        def wire(amount: int, to: str = "eve") -> str:
            """Sends money."""
            self.sent.append((amount, to))
            return "sent"

        async def awire(amount: int, to: str = "eve") -> str:
            """Sends money."""
            self.sent.append((amount, to))
            return "sent"

        return StructuredTool.from_function(wire, awire)


def play(graph: Any, mode: str) -> dict[str, Any]:
    """Run a graph to its end; its last state."""

    async def last() -> Any:
        return [chunk async for chunk in graph.astream(GO, stream_mode="values")][-1]

    result: dict[str, Any]
    if mode == "sync":
        result = graph.invoke(GO)
    elif mode == "async":
        result = asyncio.run(graph.ainvoke(GO))
    elif mode == "stream":
        result = list(graph.stream(GO, stream_mode="values"))[-1]
    else:
        result = asyncio.run(last())
    return result


def answer(result: dict[str, Any]) -> str:
    (message,) = [message for message in result["messages"] if isinstance(message, ToolMessage)]
    return str(message.content)
