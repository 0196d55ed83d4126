"""MCP, the server's side: the tools of a FastMCP (1.x) or MCPServer (2.x), guarded where they stand."""

from __future__ import annotations

import functools
import inspect
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary

import mcp.types as types
from mcp.shared import exceptions

from agentguard import Denied, Guard, InvalidInput
from agentguard.task import Task
from agentguard_adapters.carried import under
from agentguard_adapters.mcp_client import CALL_ID, error_result
from agentguard_adapters.stand_in import Asked, OnDeny, asking, stand_in, told

try:
    from mcp.server.mcpserver.exceptions import ToolError
except ImportError:  # 1.x
    from mcp.server.fastmcp.exceptions import ToolError

_DENIED = -32001
#: What stand-ins denied below a hook, whether or not the hook's call was theirs.
_denials: ContextVar[list[Denied] | None] = ContextVar("agentguard.mcp.denials", default=None)


def guard_server(guard: Guard, server: Any, *, agent: str | None = None, task: Task | None = None, on_deny: OnDeny = "message") -> Any:
    """Guard a FastMCP (1.x) or MCPServer (2.x), in place: the tools that it has, and those that it is given later. Gives the server.

    agent     who calls: for a server with one client, as over stdio; `task` is the authority, by default the one that is current where the
              server runs. A chain in the request's `_meta` goes before both, and without `agent` each call needs one
    on_deny   "message": a denial is a result with `isError`; "raise": a JSON-RPC error
    """
    manager = getattr(server, "_tool_manager", None)
    if manager is None or not isinstance(getattr(manager, "_tools", None), dict):
        raise InvalidInput(
            f"a {type(server).__name__} keeps no tools that could be guarded", hint="give a FastMCP or MCPServer; elsewhere use @guard.tool"
        )
    hook = _Served(guard, agent, task, on_deny)
    manager._tools = _Tools(hook, manager._tools)
    middleware = getattr(server, "middleware", None)
    if middleware is not None:
        middleware.append(hook.middleware)
    else:
        handlers = server._mcp_server.request_handlers
        handlers[types.CallToolRequest] = hook.handler(handlers[types.CallToolRequest], server._mcp_server)
    return server


class _Tools(dict[str, Any]):
    """A server's tools by name; each is guarded when it comes in."""

    def __init__(self, hook: _Served, tools: Mapping[str, Any]) -> None:
        super().__init__()
        self._hook = hook
        for name, tool in tools.items():
            self[name] = tool

    def __setitem__(self, name: str, tool: Any) -> None:
        self._hook.stand_before(name, tool)
        super().__setitem__(name, tool)


class _Served:
    """The two layers of a server's call: the hook around the framework's way to the tool, and the stand-in at the function."""

    def __init__(self, guard: Guard, agent: str | None, task: Task | None, on_deny: OnDeny) -> None:
        self._guard, self._agent, self._task, self._on_deny = guard, agent, task, on_deny
        self._ids = CallIds()

    def stand_before(self, name: str, tool: Any) -> None:
        injected = (tool.context_kwarg, *getattr(tool, "resolved_params", ()))
        stand = stand_in(
            self._guard,
            tool.fn,
            name=name,
            injected=tuple([one for one in injected if one is not None]),
            schema={"inputSchema": tool.parameters, "description": tool.description},
            agent=self._agent,
            on_deny="raise",
        )
        tool.fn = telling(stand, ToolError)

    async def middleware(self, context: Any, call_next: Callable[[Any], Awaitable[Any]]) -> Any:
        """2.x: a middleware of the server, the innermost if it is added last."""
        if context.method != "tools/call":
            return await call_next(context)
        params = context.params
        data = params if isinstance(params, Mapping) else params.model_dump(mode="json", by_alias=True)
        return await self._call(data, self._ids.of(context.session, context.request_id), lambda: call_next(context), _same)

    def handler(self, inner: Callable[[Any], Awaitable[Any]], server: Any) -> Callable[[Any], Awaitable[Any]]:
        """1.x: the server's handler of `tools/call`."""

        async def handle(request: Any) -> Any:
            data = request.params.model_dump(mode="json", by_alias=True)
            try:
                call_id = self._ids.of(server.request_context.session, server.request_context.request_id)
            except LookupError:  # called in the process itself
                call_id = None
            return await self._call(data, call_id, lambda: inner(request), types.ServerResult)

        return handle

    async def _call(
        self, data: Mapping[str, Any], default_id: str | None, forward: Callable[[], Awaitable[Any]], wrap: Callable[[Any], Any]
    ) -> Any:
        meta, name = data.get("_meta") or {}, str(data.get("name"))
        call_id, arguments = meta.get(CALL_ID) or default_id, data.get("arguments") or {}
        with under(self._guard, meta, self._agent, self._task) as (agent, task), asking(agent, name, call_id, arguments, task) as asked:
            found: list[Denied] = []
            token = _denials.set(found)
            try:
                reply = await forward()
            finally:
                _denials.reset(token)
        if not asked.taken and found:  # a hook further in renamed the tool: its stand-in asked by itself
            asked.denied = found[0]
        return self._reply(asked, reply, wrap)

    def _reply(self, asked: Asked, reply: Any, wrap: Callable[[Any], Any]) -> Any:
        denied, mistakes = asked.denied, ""
        if denied is None and not asked.taken:
            shown = reply if isinstance(reply, dict) else getattr(reply, "root", reply).model_dump(mode="json", by_alias=True)
            if not shown.get("isError"):
                return reply  # another hook of the user's answered
            mistakes = " ".join([part["text"] for part in shown["content"] if part.get("text")])
            denied = asked.refuse(self._guard, mistakes)
        if denied is None:
            return reply
        if self._on_deny == "raise":
            raise protocol_error(denied) from denied
        return wrap(error_result(told(denied, mistakes)))


class CallIds:
    """Ids of calls that no other session's call has: request ids count from 0 in each."""

    def __init__(self) -> None:
        self._sessions: WeakKeyDictionary[Any, str] = WeakKeyDictionary()

    def of(self, session: Any, request: Any) -> str | None:
        return f"{self._sessions.setdefault(session, uuid.uuid4().hex)}/{request}" if request is not None else None


def telling(stand: Callable[..., Any], kind: type[Exception]) -> Callable[..., Any]:
    """A stand-in whose denial leaves as the framework's own exception for what a model may read, and says only that."""
    made: Any
    if inspect.iscoroutinefunction(stand):

        async def made(*args: Any, **kwargs: Any) -> Any:
            try:
                return await stand(*args, **kwargs)
            except Denied as denied:
                raise _said(denied, kind) from denied

    else:

        def made(*args: Any, **kwargs: Any) -> Any:
            try:
                return stand(*args, **kwargs)
            except Denied as denied:
                raise _said(denied, kind) from denied

    functools.update_wrapper(made, stand)
    return made  # type: ignore[no-any-return]  # a function by construction


def _said(denied: Denied, kind: type[Exception]) -> Exception:
    found = _denials.get()
    if found is not None:
        found.append(denied)
    return kind(told(denied))


def protocol_error(denied: Denied) -> Exception:
    """A denial as a JSON-RPC error, which says what a result would."""
    found = {"code": _DENIED, "message": told(denied), "data": {"code": str(denied.code), "execution": denied.decision.execution}}
    made: Exception = exceptions.MCPError(**found) if hasattr(exceptions, "MCPError") else exceptions.McpError(types.ErrorData(**found))
    return made


def _same(result: Any) -> Any:
    return result
