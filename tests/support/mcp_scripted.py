"""MCP servers and clients in memory, for both majors of the SDK, and a model that makes scripted calls."""

from __future__ import annotations

import asyncio
import contextvars
import importlib.util
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import mcp.types as types
from mcp.client.session import ClientSession

from agentguard.testing import Call, Reply
from agentguard_adapters.mcp import CALL_ID

MAJOR = 2 if importlib.util.find_spec("mcp.server.mcpserver") else 1
Rewrite = Callable[[str, dict[str, Any]], dict[str, Any]]
_contexts: dict[str, contextvars.Context] = {}  # 1.x: of the calls that are under way, by call id

if MAJOR == 2:
    from mcp.client import Client
    from mcp.server.mcpserver import MCPServer as Base
    from mcp.server.mcpserver import exceptions

    UnexpectedToolError: Any = getattr(exceptions, "UnexpectedToolError", exceptions.ToolError)  # from 2.1 on
else:
    from mcp.server.fastmcp import FastMCP as Base
    from mcp.shared.memory import create_connected_server_and_client_session


class Server(Base):
    """A server that tells its clients what broke (2.x keeps that to itself), with a hook of its own that changes arguments."""

    rewrite: Rewrite | None = None

    async def call_tool(self, name: str, arguments: dict[str, Any], *context: Any) -> Any:
        if self.rewrite is not None:
            arguments = self.rewrite(name, arguments)
        sent = _contexts.pop(_call_id(self.get_context().request_context.meta), None) if _contexts else None
        try:
            if sent is not None:
                return await asyncio.create_task(super().call_tool(name, arguments), context=sent)
            return await super().call_tool(name, arguments, *context)
        except Exception as error:
            if MAJOR == 1 or not isinstance(error, UnexpectedToolError):
                raise
            raise exceptions.ToolError(f"{error}: {error.__cause__}") from error


def server_of(tools: Sequence[Callable[..., Any]], rewrite: Rewrite | None = None) -> Any:
    """A server with these functions as its tools."""
    server = Server("scripted")
    server.rewrite = rewrite
    for tool in tools:
        server.add_tool(tool, structured_output=False)
    return server


def connect(server: Any, **options: Any) -> Any:
    """A context manager that gives a session: 2.x a Client, 1.x a ClientSession."""
    if MAJOR == 2:
        return Client(server, **options)
    return create_connected_server_and_client_session(server._mcp_server)


class Host(ClientSession):
    """A session with a hook of its host's own that changes arguments. In 1.x it also leaves the context of each call for the server, which
    runs the tool in it: in 2.x the in-memory transport is a function call, so a tool in the same process runs in its caller's context.
    """

    rewrite: Rewrite | None = None

    async def call_tool(self, name: str, arguments: Any = None, *args: Any, **kwargs: Any) -> Any:
        if self.rewrite is not None:
            arguments = self.rewrite(name, arguments)
        return await super().call_tool(name, arguments, *args, **kwargs)

    async def send_request(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        if MAJOR == 1 and isinstance(request.root, types.CallToolRequest):
            _contexts[_call_id(request.root.params.meta)] = contextvars.copy_context()
        return await super().send_request(request, *args, **kwargs)


def host(client: Any, rewrite: Rewrite | None = None) -> Any:
    """The session of a connection, as a Host."""
    session = getattr(client, "session", client)
    session.__class__, session.rewrite = Host, rewrite
    return session


def _call_id(meta: Any) -> str:
    return str((getattr(meta, "model_extra", None) or {}).get(CALL_ID))


async def play(session: Any, steps: Sequence[Sequence[Call]]) -> list[Reply]:
    """What the session answers to each call of the script; the calls of a step are made at once."""
    said = []
    for step in steps:
        calls = [session.call_tool(call.tool, dict(call.arguments), meta={CALL_ID: call.id}) for call in step]
        said += [reply_of(result) for result in await asyncio.gather(*calls)]
    return said


def reply_of(result: Any) -> Reply:
    """A result as the model reads it."""
    text = " ".join([part.text for part in result.content])
    return Reply(text, bool(result.is_error if hasattr(result, "is_error") else result.isError))


async def within(connection: Any, work: Callable[[Any], Awaitable[Any]]) -> Any:
    """Work with a connection; what is raised leaves as it is, and not in a group of a task group."""
    failure: Exception | None = None
    result: Any = None
    async with connection as session:
        try:
            result = await work(session)
        except Exception as error:
            failure = error
    if failure is not None:
        raise failure
    return result


def watched(server: Any) -> list[Exception]:
    """Keeps what leaves the server's handler of `tools/call` as an exception: on the wire only its text goes on."""
    seen: list[Exception] = []

    def watch(inner: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def outer(*args: Any) -> Any:
            try:
                return await inner(*args)
            except Exception as error:
                seen.append(error)
                raise

        return outer

    if MAJOR == 2:
        server.middleware.insert(0, lambda context, call_next: watch(call_next)(context))
    else:
        handlers = server._mcp_server.request_handlers
        handlers[types.CallToolRequest] = watch(handlers[types.CallToolRequest])
    return seen
