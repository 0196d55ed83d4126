"""FastMCP servers in memory, and a model that makes scripted calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from fastmcp import Client, FastMCP
from fastmcp.server.middleware import Middleware

from agentguard.testing import Call, Reply
from agentguard_adapters.fastmcp import CALL_ID

Rewrite = Callable[[str, dict[str, Any]], dict[str, Any]]


class Rewriting(Middleware):
    """Changes the arguments of tool calls."""

    def __init__(self, rewrite: Rewrite) -> None:
        self._rewrite = rewrite

    async def on_call_tool(self, context: Any, call_next: Any) -> Any:
        arguments = self._rewrite(context.message.name, context.message.arguments)
        return await call_next(context.copy(message=context.message.model_copy(update={"arguments": arguments})))


class Watching(Middleware):
    """Keeps what leaves a server as an exception: on the wire only its text goes on."""

    def __init__(self) -> None:
        self.seen: list[Exception] = []

    async def on_call_tool(self, context: Any, call_next: Any) -> Any:
        try:
            return await call_next(context)
        except Exception as error:
            self.seen.append(error)
            raise


def server_of(tools: Sequence[Callable[..., Any]], *middleware: Middleware) -> Any:
    """A server with these functions as its tools."""
    server = FastMCP("scripted", middleware=list(middleware))
    for tool in tools:
        server.tool(tool)
    return server


async def play(server: Any, *steps: Sequence[Call]) -> list[Reply]:
    """What a server answers to each call of the script; the calls of a step are made at once."""
    said = []
    async with Client(server) as client:
        for step in steps:
            calls = [client.call_tool(call.tool, dict(call.arguments), raise_on_error=False, meta={CALL_ID: call.id}) for call in step]
            said += [Reply(" ".join([part.text for part in result.content]), result.is_error) for result in await asyncio.gather(*calls)]
    return said
