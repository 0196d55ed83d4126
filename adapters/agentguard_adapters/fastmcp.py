"""FastMCP 4: every tool of a server is guarded, wherever it comes from: a function, a mounted server, a proxy, a transformation.

    guard_server(guard, server, agent="triage")

A tool that is a function is judged at the function, on the arguments that it gets. Any other is pinned as it is listed, and judged on the
arguments that are sent on to it. Prompts and resources are no tools. FastMCP's Client is guarded as a session: `agentguard_adapters.mcp`.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from agentguard import Denied, Guard, InvalidInput
from agentguard.task import Task
from agentguard_adapters.carried import under
from agentguard_adapters.remote import Remote
from agentguard_adapters.seats import acting_as, seat
from agentguard_adapters.stand_in import OnDeny, asking, claimed, stand_in, told
from agentguard_adapters.versions import needs

with needs("fastmcp", "4.1.2"):
    from fastmcp.exceptions import DisabledError, FastMCPError, NotFoundError, ToolError
    from fastmcp.server.middleware import Middleware, MiddlewareContext
    from fastmcp.tools import FunctionTool, Tool, ToolResult
    from pydantic import PrivateAttr

    from agentguard_adapters.mcp_client import CALL_ID
    from agentguard_adapters.mcp_server import CallIds, protocol_error, telling

__all__ = ["CALL_ID", "guard_server"]

_MAX_TOOLS = 4096


def guard_server(guard: Guard, server: Any, *, agent: str | None = None, task: Task | None = None, on_deny: OnDeny = "message") -> Any:
    """Guard a FastMCP server, in place: the tools that it has, and those that it is given later. Gives the server.

    agent     who calls: for a server with one client, as over stdio; `task` is the authority, by default the one that is current where the
              server runs. A chain in the request's `_meta` goes before both, and without `agent` each call needs one
    on_deny   "message": a denial is a result with `isError`; "raise": a JSON-RPC error
    """
    hook = _Hook(guard, agent, task, on_deny)
    server.add_middleware(hook)
    server.get_tool, server.list_tools = hook.getting(server.get_tool), hook.listing(server.list_tools)
    return server


class _Hook(Middleware):
    """Both layers: the middleware around the framework's way to a tool, and what stands in each tool's place."""

    def __init__(self, guard: Guard, agent: str | None, task: Task | None, on_deny: OnDeny) -> None:
        self._guard, self._agent, self._task, self._on_deny = guard, agent, task, on_deny
        self._ids = CallIds()
        self._known: dict[int, tuple[Any, Any]] = {}

    async def on_call_tool(self, context: MiddlewareContext[Any], call_next: Callable[[Any], Awaitable[Any]]) -> Any:
        name, arguments = context.message.name, context.message.arguments or {}
        meta, call_id = self._request(context.fastmcp_context)
        mistakes = ""
        with under(self._guard, meta, self._agent, self._task) as (agent, task), asking(agent, name, call_id, arguments, task) as asked:
            try:
                reply = await call_next(context)
            except Exception as error:
                known = asked.denied or (error.__cause__ if isinstance(error.__cause__, Denied) else None)
                if known is None and (asked.taken or not isinstance(error, (FastMCPError, NotFoundError, DisabledError))):
                    raise
                mistakes = str(error)
                denied = known or asked.refuse(self._guard, mistakes)
            else:
                if asked.denied is None:
                    return reply
                denied = asked.denied
        if self._on_deny == "raise":
            raise protocol_error(denied) from denied
        return ToolResult(content=told(denied, mistakes), is_error=True)

    def _request(self, context: Any) -> tuple[Mapping[str, Any], str | None]:
        """The `_meta` of the request and the id of the call, where there is a request."""
        request = context.request_context if context is not None else None
        if request is None:
            return {}, None
        meta = request.meta or {}
        return meta, meta.get(CALL_ID) or self._ids.of(request.session, request.request_id)

    def getting(self, inner: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def get_tool(*args: Any, **kwargs: Any) -> Any:
            tool = await inner(*args, **kwargs)
            return self.guarded(tool) if tool is not None else None

        return get_tool

    def listing(self, inner: Callable[..., Awaitable[Sequence[Any]]]) -> Callable[..., Awaitable[Sequence[Any]]]:
        async def list_tools(*args: Any, **kwargs: Any) -> Sequence[Any]:
            return [self.guarded(tool) for tool in await inner(*args, **kwargs)]

        return list_tools

    def guarded(self, tool: Any) -> Any:
        """What stands for a tool; for one that is guarded already, itself."""
        known = self._known.get(id(tool))
        if known is None:
            if len(self._known) >= _MAX_TOOLS:  # proxies and mounted servers make theirs anew each time
                self._known.clear()
            known = self._known[id(tool)] = (tool, self._made(tool))  # the tool is kept, so its id is not given to another one
            self._known[id(known[1])] = (known[1], known[1])
        return known[1]

    def _made(self, tool: Any) -> Any:
        if tool.task_config.supports_tasks():
            raise InvalidInput(f"the tool {tool.name} may run in a background worker, where no guard stands", hint="leave out task=")
        if type(tool) is not FunctionTool:
            return GuardedTool.of(tool, self._run)
        hidden = inspect.signature(tool.fn).parameters.keys() - tool.parameters.get("properties", {}).keys()
        stand = stand_in(
            self._guard,
            tool.fn,
            name=tool.name,
            injected=tuple(sorted(hidden)),
            schema={"inputSchema": tool.parameters, "description": tool.description},
            agent=self._agent,
            on_deny="raise",
        )
        return tool.model_copy(update={"fn": telling(stand, ToolError)})

    async def _run(self, tool: Any, arguments: dict[str, Any]) -> Any:
        """Run a tool that is no function of this process, or hides one: pinned as it is listed."""
        asked, remote = claimed(tool.name), Remote(self._guard)
        remote.learn(tool.to_mcp_tool().model_dump(mode="json", by_alias=True, exclude_none=True))
        agent, task, call_id = self._agent, None, None
        if asked is not None:
            agent, call_id, task = asked.agent or agent, asked.call_id, asked.task
        try:
            seated, own = seat(self._guard, agent, task)
            with acting_as(self._guard, seated, own):
                return await remote.call(seated, own, tool.name, arguments, call_id, tool._run)
        except Denied as denied:
            if asked is not None:
                asked.denied = denied
            raise ToolError(told(denied)) from denied


class GuardedTool(Tool):
    """Stands for a tool that is not a function: one of a mounted server, of a proxy, a transformed one."""

    _inner: Any = PrivateAttr()
    _way: Any = PrivateAttr()

    @classmethod
    def of(cls, tool: Any, way: Callable[[Any, dict[str, Any]], Awaitable[Any]]) -> GuardedTool:
        made = cls(**{name: getattr(tool, name) for name in Tool.model_fields})
        made._inner, made._way = tool, way
        return made

    async def run(self, arguments: dict[str, Any]) -> Any:
        return await self._way(self._inner, arguments)
