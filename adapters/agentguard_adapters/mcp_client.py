"""MCP, the client's side: every `tools/call` of a session is judged before it leaves the process."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import mcp.types as types
from mcp.client.session import ClientSession
from pydantic import BaseModel

from agentguard import Code, Denied, Guard, InvalidInput, ToolCall
from agentguard.decision import Reason, Stage
from agentguard.errors import OutputRefused
from agentguard.task import Task
from agentguard_adapters.carried import KEY, presented
from agentguard_adapters.remote import Remote
from agentguard_adapters.seats import acting_as
from agentguard_adapters.stand_in import OnDeny, told

#: The member of a request's `_meta` that names the model's tool call.
CALL_ID = "agentguard/call_id"
#: Whose call is on its way to the wire with a permit; taken there.
_passing: ContextVar[list[_Calls] | None] = ContextVar("agentguard.mcp.passing", default=None)


def guard_session(
    guard: Guard,
    session: Any,
    *,
    agent: str,
    task: Task | None = None,
    on_deny: OnDeny = "message",
    prefix: str = "",
    audience: str | None = None,
) -> Any:
    """Guard a client session, in place; a Client (2.x or fastmcp's) once it is entered. Gives the session. Do it before tools are listed.

    agent     who calls; `task` is the authority, by default the current one
    on_deny   "message": a denial is a result with `isError`; "raise": Denied is raised
    prefix    stands before the tools' names in policy and log, to tell servers apart
    audience  the name of the server's guard, if it has one: chain and proof are sent along in `_meta`, for it to judge by

    A call id may be given as `meta={CALL_ID: ...}`. Tools that the server does not list, or lists differently than before, are denied.
    """
    own = session if isinstance(session, ClientSession) else session.session
    if hasattr(own, "_agentguard"):
        raise InvalidInput("the session is guarded already")
    if prefix and audience:
        raise InvalidInput("a chain that travels must name the tools as the server does", hint="leave out prefix or audience")
    own._agentguard = _Calls(guard, own, agent, task, on_deny, prefix, audience)
    kind: Any = type(own)
    own.__class__ = _guarded(kind)
    return own


@functools.cache
def _guarded(kind: Any) -> Any:
    """The class of a guarded session: everything that it sends goes through `send_request`."""

    class Guarded(kind):
        async def send_request(self, request: Any, *args: Any, **kwargs: Any) -> Any:
            return await self._agentguard.send(lambda one: super(Guarded, self).send_request(one, *args, **kwargs), request)

        async def call_tool(self, *args: Any, **kwargs: Any) -> Any:
            try:
                return await super().call_tool(*args, **kwargs)
            except (Denied, OutputRefused) as denied:
                return self._agentguard.answer(denied)

    Guarded.__name__ = Guarded.__qualname__ = f"Guarded{kind.__name__}"
    return Guarded


class _Calls:
    """What a guarded session knows."""

    def __init__(
        self, guard: Guard, session: Any, agent: str, task: Task | None, on_deny: OnDeny, prefix: str, audience: str | None
    ) -> None:
        self._guard, self._session, self._seat, self._on_deny, self._audience = guard, session, (agent, task), on_deny, audience
        self._remote = Remote(guard, prefix)
        self._stale = False
        self._inner = session._message_handler
        session._message_handler = self._heard
        for way in ("_write_stream", "_dispatcher"):  # 1.x, 2.x
            if hasattr(session, way):
                setattr(session, way, _Wire(getattr(session, way), self))

    def answer(self, denied: Denied | OutputRefused) -> Any:
        if self._on_deny == "raise":
            raise denied
        return error_result(told(denied))

    async def send(self, forward: Callable[[Any], Awaitable[Any]], request: Any) -> Any:
        """Send a request: a `tools/call` only with a permit. What a listing shows is learned."""
        inner = getattr(request, "root", request)  # 1.x wraps it
        method = getattr(inner, "method", None)
        if method == "tools/list":
            listed = await forward(request)
            for tool in listed.tools:
                self._remote.learn(tool.model_dump(mode="json", by_alias=True, exclude_none=True))
            return listed
        if method != "tools/call":
            return await forward(request)
        data = inner.model_dump(mode="json", by_alias=True)["params"]
        name, meta = str(data["name"]), data.get("_meta") or {}
        if self._stale or not self._remote.knows(name):
            await self._list()
        agent, task = self._seat
        with acting_as(self._guard, agent, task) as own:

            async def wire(arguments: dict[str, Any]) -> Any:
                carried = {KEY: presented(self._guard, own, name, arguments, self._audience)} if self._audience is not None else {}
                whole = {**data, "arguments": arguments, **({"_meta": {**meta, **carried}} if carried else {})}
                params = type(inner.params).model_validate(whole) if isinstance(inner.params, BaseModel) else whole
                sent = inner.model_copy(update={"params": params})
                token = _passing.set([self])
                try:
                    return await forward(sent if inner is request else request.model_copy(update={"root": sent}))
                finally:
                    _passing.reset(token)

            return await self._remote.call(agent, own, name, data.get("arguments") or {}, meta.get(CALL_ID), wire)

    def let_by(self, method: Any) -> None:
        """Stop a `tools/call` that comes to the wire on another way than through `send`: past the session, by the SDK's own functions."""
        passing = _passing.get()
        if method == "tools/call" and (not passing or passing.pop() is not self):
            agent, task = self._seat
            reason = Reason(Code.INTEGRITY_FAILURE, method, "a call that passed the guard", "one past it", fix="use session.call_tool")
            raise self._guard.refuse(ToolCall(agent, method, {}), Stage.INTEGRITY, reason, task=task)

    async def _list(self) -> None:
        self._stale, cursor = False, None
        while True:
            page = await self._session.list_tools(params=types.PaginatedRequestParams(cursor=cursor))
            cursor = page.next_cursor if hasattr(page, "next_cursor") else page.nextCursor  # 2.x, 1.x
            if cursor is None:
                return

    async def _heard(self, message: Any) -> None:
        if getattr(getattr(message, "root", message), "method", None) == "notifications/tools/list_changed":
            self._stale = True
        await self._inner(message)


class _Wire:
    """What a session writes to, with the guard before it: the second layer."""

    def __init__(self, inner: Any, calls: _Calls) -> None:
        self._inner, self._calls = inner, calls

    async def send(self, message: Any) -> Any:
        """1.x: a stream."""
        self._calls.let_by(getattr(message.message.root, "method", None))
        return await self._inner.send(message)

    async def send_raw_request(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """2.x: a dispatcher."""
        self._calls.let_by(method)
        return await self._inner.send_raw_request(method, *args, **kwargs)

    async def __aenter__(self) -> _Wire:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> Any:
        return await self._inner.__aexit__(*error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def error_result(text: str) -> Any:
    """A result that says that the call failed, and why."""
    return types.CallToolResult.model_validate({"content": [{"type": "text", "text": text}], "isError": True})
