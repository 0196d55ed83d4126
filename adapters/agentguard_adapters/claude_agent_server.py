"""In-process MCP servers of the Claude Agent SDK whose tools are stand-ins."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

from claude_agent_sdk import SdkMcpTool, create_sdk_mcp_server
from claude_agent_sdk.types import McpSdkServerConfig
from mcp.types import CallToolRequest, CallToolResult

from agentguard import Code, Denied, Guard, ToolCall
from agentguard.decision import Reason, Stage
from agentguard.enforcement import NOBODY
from agentguard.task import Task
from agentguard_adapters.stand_in import asking, stand_in, told

#: Where the program names the call in the request that it sends to a server.
_CALL_ID = "claudecode/toolUseId"
_MAX_ANNOUNCED = 4096


class Sitting(Protocol):
    """The session that a call belongs to."""

    def note(self, denied: Denied) -> None: ...


class Announced(NamedTuple):
    """What PreToolUse said of a call that is on its way here."""

    agent: str
    task: Task | None
    tool: str
    presented: Mapping[str, Any]
    session: Sitting


class GuardedServer:
    """The calls of one guarded server."""

    def __init__(self, guard: Guard, tools: frozenset[str]) -> None:
        self.guard, self.tools = guard, tools
        self._announced: dict[str, Announced] = {}

    def announce(self, call_id: str, announced: Announced) -> None:
        """A call is on its way. An id that is announced twice before it came belongs to nobody."""
        if len(self._announced) >= _MAX_ANNOUNCED:  # calls that never came, because somebody else refused them
            self._announced.pop(next(iter(self._announced)))
        if self._announced.pop(call_id, None) is None:
            self._announced[call_id] = announced

    def came(self, call_id: str) -> bool:
        """Whether the announced call came here. If not, and it ran, another server of this name took it."""
        return self._announced.pop(call_id, None) is None

    async def call(self, name: str, arguments: Mapping[str, Any], call_id: str | None, go: Callable[[], Awaitable[Any]]) -> Any:
        """One call as the program sends it. `go` is the server's own way to the tool."""
        announced = self._announced.pop(call_id or "", None)
        if announced is None or announced.tool != name:
            reason = Reason(Code.INTEGRITY_FAILURE, name, "a call that the session's hook announced", "one that came past it")
            return _failed(told(self.guard.refuse(ToolCall(NOBODY, name, dict(arguments), call_id), Stage.INTEGRITY, reason)))
        with asking(announced.agent, name, call_id, announced.presented, announced.task) as asked:
            result = await go()
        if not asked.taken:  # the arguments do not fit the tool's schema, or nobody knows the tool
            said = _texts(result)
            result = _failed(told(asked.refuse(self.guard, said), said))
        if asked.denied is not None:
            announced.session.note(asked.denied)
        return result


#: The guarded servers by the instance that a configuration holds.
guarded_servers: WeakKeyDictionary[Any, GuardedServer] = WeakKeyDictionary()


def guard_server(guard: Guard, name: str, tools: Iterable[SdkMcpTool[Any]], *, version: str = "1.0.0") -> McpSdkServerConfig:
    """`create_sdk_mcp_server` with a stand-in for each tool. The policy names the tools as they are named here, without the server.

    Who calls is what the session's hook says; a call from a session without the guard's hooks is refused. The tools that were given stay
    what they are: whoever holds one goes past the guard.
    """
    given = list(tools)
    config = create_sdk_mcp_server(name, version, [replace(tool, handler=_handler(guard, tool)) for tool in given])
    server: Any = config["instance"]
    guarded = guarded_servers[server] = GuardedServer(guard, frozenset(tool.name for tool in given))
    if hasattr(server, "request_handlers"):  # mcp 1
        inner = server.request_handlers[CallToolRequest]

        async def outer(request: Any) -> Any:
            asked = request.params
            return await guarded.call(asked.name, asked.arguments or {}, _id_in(asked.meta), lambda: inner(request))

        server.request_handlers[CallToolRequest] = outer
    else:
        entry = server.get_request_handler("tools/call")

        async def handle(context: Any, asked: Any) -> Any:
            return await guarded.call(asked.name, asked.arguments or {}, _id_in(asked.meta), lambda: entry.handler(context, asked))

        server.add_request_handler("tools/call", entry.params_type, handle)
    return config


def _handler(guard: Guard, tool: SdkMcpTool[Any]) -> Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]:
    """A handler that stands for the tool's. A denial is an error result."""
    handler = tool.handler

    async def body(**arguments: Any) -> Any:
        return await handler(arguments)

    schema = tool.input_schema if isinstance(tool.input_schema, dict) and "properties" in tool.input_schema else None
    stand = stand_in(guard, body, name=tool.name, schema=schema, on_deny="raise")

    async def guarded(arguments: dict[str, Any]) -> dict[str, Any]:
        try:
            result: dict[str, Any] = await stand(**arguments)
        except Denied as denied:
            return {"content": [{"type": "text", "text": told(denied)}], "is_error": True}
        return result

    return guarded


def _id_in(meta: Any) -> str | None:
    found = meta.get(_CALL_ID) if isinstance(meta, Mapping) else (getattr(meta, "model_extra", None) or {}).get(_CALL_ID)
    return found if isinstance(found, str) else None


def _failed(text: str) -> Any:
    return CallToolResult.model_validate({"content": [{"type": "text", "text": text}], "isError": True})


def _texts(result: Any) -> str:
    inner = getattr(result, "root", result)
    return " ".join(part.text for part in inner.content if hasattr(part, "text"))
