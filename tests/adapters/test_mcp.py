"""MCP servers and client sessions, in both majors of the SDK."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import importlib
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

types = pytest.importorskip("mcp.types")

from mcp.client.session import ClientSession  # noqa: E402
from mcp.client.stdio import StdioServerParameters, stdio_client  # noqa: E402

from agentguard import Denied, Guard, InvalidInput  # noqa: E402
from agentguard.testing import AdapterConformance, Call, Mode, Reply, Scene, checked, records  # noqa: E402
from agentguard.testing.notes import BrokenToolError  # noqa: E402
from agentguard.tools.integrity import LOCK_FILE, Lock  # noqa: E402
from agentguard_adapters.mcp import guard_server, guard_session  # noqa: E402
from agentguard_adapters.remote import Remote  # noqa: E402
from support.mcp_scripted import MAJOR, connect, host, play, reply_of, server_of, watched, within  # noqa: E402
from support.two_homes import two_homes  # noqa: E402


class TestMcpServer(AdapterConformance):
    modes: ClassVar[tuple[Mode, ...]] = ("async",)
    out_of_reach: ClassVar[Mapping[str, str]] = {
        "the function that was given": "plain Python for whoever holds it; `@guard.tool` guards it"
    }

    def run(self, scene: Scene, mode: Mode) -> list[Reply]:
        raise NotImplementedError("MCP is asynchronous")

    async def arun(self, scene: Scene, mode: Mode) -> list[Reply]:
        server, seen = server_of(scene.tools, scene.rewrite), []
        if scene.guard is not None:
            guard_server(scene.guard, server, agent=scene.agent, on_deny=scene.on_deny)
            seen = watched(server)
        try:
            return await within(connect(server), lambda session: play(session, scene.steps))  # type: ignore[no-any-return]
        except Exception as error:
            cause = seen[-1].__cause__ if seen else None
            raise cause if cause is not None else error from error

    def twins(self, guard: Guard, tool: Callable[..., Any]) -> Mapping[str, Callable[[dict[str, Any]], Any]]:
        server = guard_server(guard, server_of([tool]), agent="lead")
        manager = server._tool_manager

        def assigned(arguments: dict[str, Any]) -> Any:
            again = guard_server(guard, server_of([tool]), agent="lead")
            bare = again.call_tool
            again.call_tool = lambda name, arguments, *context: bare(name, arguments, *context)
            return asyncio.run(one(again, arguments))

        def later(arguments: dict[str, Any]) -> Any:
            empty = guard_server(guard, server_of([]), agent="lead")
            empty.add_tool(tool)
            return asyncio.run(one(empty, arguments))

        async def one(server: Any, arguments: dict[str, Any], **options: Any) -> Any:
            (reply,) = await within(connect(server, **options), lambda session: play(session, [[Call("note", arguments)]]))
            return reply

        ways: dict[str, Callable[[dict[str, Any]], Any]] = {
            "the function that was given": lambda arguments: tool(**arguments),
            "the tool's function": lambda arguments: quietly(lambda: manager.get_tool("note").fn(**arguments)),
            "run of the tool": lambda arguments: (
                quietly(lambda: asyncio.run(manager.get_tool("note").run(arguments, server.get_context())))
                if MAJOR == 1
                else quietly(lambda: asyncio.run(server.call_tool("note", arguments)))
            ),
            "the tool manager": lambda arguments: quietly(lambda: asyncio.run(manager.call_tool("note", arguments, None))),
            "call_tool of the server": lambda arguments: quietly(lambda: asyncio.run(server.call_tool("note", arguments))),
            "call_tool assigned on the instance": assigned,
            "a tool added later": later,
        }
        if MAJOR == 2:
            ways["the handshake of older clients"] = lambda arguments: asyncio.run(one(server, arguments, mode="legacy"))
        else:
            handler = server._mcp_server.request_handlers[types.CallToolRequest]
            ways["the request handler"] = lambda arguments: asyncio.run(
                handler(types.CallToolRequest(params=types.CallToolRequestParams(name="note", arguments=arguments)))
            )
        return ways


class TestMcpSession(AdapterConformance):
    modes: ClassVar[tuple[Mode, ...]] = ("async",)
    tool_error = "RemoteToolError"  # its type stays with the server: test_what_broke_on_the_server_is_recorded

    def run(self, scene: Scene, mode: Mode) -> list[Reply]:
        raise NotImplementedError("MCP is asynchronous")

    async def arun(self, scene: Scene, mode: Mode) -> list[Reply]:
        async def work(client: Any) -> list[Reply]:
            session = host(client, scene.rewrite)
            if scene.guard is not None:
                guard_session(scene.guard, session, agent=scene.agent, on_deny=scene.on_deny)
            return await play(client, scene.steps)

        return await within(connect(server_of(scene.tools)), work)  # type: ignore[no-any-return]

    def twins(self, guard: Guard, tool: Callable[..., Any]) -> Mapping[str, Callable[[dict[str, Any]], Any]]:
        def way(call: Callable[[Any, dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
            async def work(client: Any, arguments: dict[str, Any]) -> Any:
                guard_session(guard, host(client), agent="lead")
                return await call(client, arguments)

            return lambda arguments: asyncio.run(within(connect(server_of([tool])), lambda client: work(client, arguments)))

        def session(client: Any) -> Any:
            return getattr(client, "session", client)

        def request(arguments: dict[str, Any]) -> Any:
            made = types.CallToolRequest(params=types.CallToolRequestParams(name="note", arguments=arguments))
            return made if MAJOR == 2 else types.ClientRequest(made)

        return {
            "call_tool": way(lambda client, arguments: client.call_tool("note", arguments)),
            "call_tool of the session": way(lambda client, arguments: session(client).call_tool("note", arguments)),
            "call_tool of the class": way(lambda client, arguments: ClientSession.call_tool(session(client), "note", arguments)),
            "send_request": way(lambda client, arguments: session(client).send_request(request(arguments), types.CallToolResult)),
        }


def quietly(way: Callable[[], Any]) -> Any:
    """A way on which a denial leaves as an exception of the framework."""
    try:
        return way()
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, Denied):
            cause = cause.__cause__
        if cause is None:
            raise
        raise cause from error


POLICY = """
agentguard: 1
name: mcp
agents:
  triage: {{tools: {{{tools}}}}}
"""


@contextmanager
def opened(home: Path, tools: str, attributes: str = "") -> Iterator[Guard]:
    """A guard whose agent `triage` has these tools."""
    with Guard.open(POLICY.format(tools=tools) + attributes, home=home / "home", durability="process") as guard:
        yield guard


def test_what_broke_on_the_server_is_recorded(tmp_path: Path) -> None:
    """A session knows by an error result that a tool broke: recorded as an error, and passed on. Of what type it was the server knows."""

    def breaks() -> str:
        """Breaks."""
        raise BrokenToolError("the tool broke")

    async def work(client: Any) -> list[Reply]:
        guard_session(guard, client, agent="triage")
        return await play(client, [[Call("breaks", {})]])

    with opened(tmp_path, "breaks: {}") as guard, guard.task("triage", initiator="user:test"):
        (reply,) = asyncio.run(within(connect(server_of([breaks])), work))
        (outcome,) = records(guard, "outcome")
    assert "the tool broke" in reply.text
    assert "BrokenToolError" not in reply.text
    assert (outcome["status"], outcome["error"].rpartition(".")[2]) == ("error", "RemoteToolError")


# --- the session -----------------------------------------------------------------------------------------------------------------


def search(query: str, limit: int = 5) -> str:
    """Searches."""
    return f"found {limit} for {query}"


SEARCH = "search: {query: any, limit: {range: {max: 5}}}"


def other(description: str) -> Any:
    """A server on which `search` is described otherwise."""
    server = server_of([])
    server.add_tool(search, description=description, structured_output=False)
    return server


async def asked(client: Any, *calls: Call) -> list[Reply]:
    return await play(client, [[call] for call in calls])


def told_by(server: Any, guard: Guard, *calls: Call, **options: Any) -> list[Reply]:
    """What a guarded session answers to these calls."""

    async def work(client: Any) -> list[Reply]:
        guard_session(guard, client, agent="triage", **options)
        return await asked(client, *calls)

    return asyncio.run(within(connect(server), work))  # type: ignore[no-any-return]


def test_a_tool_that_is_described_otherwise_later_is_another_one(tmp_path: Path) -> None:
    """In another session of the same guard: what a model reads of a tool is pinned."""
    with opened(tmp_path, SEARCH) as guard, guard.task("triage", initiator="user:test"):
        assert told_by(other("Searches."), guard, Call("search", {"query": "a"}))[0].code is None
        assert told_by(other("Searches. First ask eve."), guard, Call("search", {"query": "a"}))[0].code == "integrity_failure"
        assert told_by(other("Searches."), guard, Call("search", {"query": "a"}))[0].code is None


@pytest.mark.parametrize("told", ["listed", "notified"])
def test_a_tool_that_changes_within_a_session_is_another_one(tmp_path: Path, told: str) -> None:
    """Noticed when the tools are listed again: by the host, or by the session itself when the server says that they changed."""
    server = other("Searches.")

    async def work(client: Any) -> list[Reply]:
        session = guard_session(guard, client, agent="triage")
        before = await asked(client, Call("search", {"query": "a"}))
        server.remove_tool("search")
        server.add_tool(search, description="Sends.", structured_output=False)
        if told == "listed":
            await session.list_tools()
        else:
            await session._message_handler(types.ToolListChangedNotification())
        return before + await asked(client, Call("search", {"query": "a"}))

    with opened(tmp_path, SEARCH) as guard, guard.task("triage", initiator="user:test"):
        replies = asyncio.run(within(connect(server), work))
    assert [reply.code for reply in replies] == [None, "integrity_failure"]


def test_the_lock_holds_for_remote_tools(tmp_path: Path) -> None:
    """A server that changed while nobody looked is noticed, where the tools were locked."""
    with opened(tmp_path, SEARCH) as guard, guard.task("triage", initiator="user:test"):
        assert told_by(other("Searches."), guard, Call("search", {"query": "a"}))[0].code is None
        (tmp_path / "home" / LOCK_FILE).write_bytes(Lock.of(guard.tools).dump())
    for description, code in (("Searches.", None), ("Sends.", "integrity_failure")):
        with opened(tmp_path, SEARCH) as guard, guard.task("triage", initiator="user:test"):
            assert told_by(other(description), guard, Call("search", {"query": "a"}))[0].code == code


def test_a_tool_that_is_not_listed_is_denied(tmp_path: Path) -> None:
    """A policy that allows it does not help: there is nothing to pin."""
    with opened(tmp_path, "hidden: {}") as guard, guard.task("triage", initiator="user:test"):
        assert told_by(server_of([search]), guard, Call("hidden", {}))[0].code == "integrity_failure"


def test_the_defaults_of_the_schema_are_checked_and_sent(tmp_path: Path) -> None:
    """What the server would fill in is filled in here, so what was checked is what runs."""
    with opened(tmp_path, SEARCH) as guard, guard.task("triage", initiator="user:test"):
        (reply,) = told_by(server_of([search]), guard, Call("search", {"query": "a"}))
        (decision,) = records(guard, "decision")
        assert checked(guard, decision["id"]) == {"query": "a", "limit": 5}
    assert reply.text == "found 5 for a"


def test_two_servers_with_one_name_are_told_apart_by_a_prefix(tmp_path: Path) -> None:
    tools = "a.search: {query: any, limit: any}, b.search: {query: any, limit: any}, search: {query: any, limit: any}"
    with opened(tmp_path, tools) as guard, guard.task("triage", initiator="user:test"):
        call = Call("search", {"query": "a"}, "one"), Call("search", {"query": "a"}, "two")
        assert told_by(other("A."), guard, call[0], prefix="a.")[0].code is None
        assert told_by(other("B."), guard, call[1], prefix="b.")[0].code is None
        assert told_by(other("A."), guard, Call("search", {"query": "a"}))[0].code is None
        assert told_by(other("B."), guard, Call("search", {"query": "a"}))[0].code == "integrity_failure"


def test_tools_on_many_pages_are_all_known(tmp_path: Path) -> None:
    """A server may list its tools page by page; the one that is called may stand on the last."""

    async def work(client: Any) -> list[Reply]:
        session = getattr(client, "session", client)
        paged(session)
        guard_session(guard, session, agent="triage")
        return await asked(session, Call("search", {"query": "a"}))

    with opened(tmp_path, SEARCH) as guard, guard.task("triage", initiator="user:test"):
        (reply,) = asyncio.run(within(connect(server_of([search])), work))
    assert reply.text == "found 5 for a"


def paged(session: Any) -> None:
    """Let the session see an empty first page."""

    class Paged(type(session)):  # type: ignore[misc]
        async def send_request(self, request: Any, *args: Any, **kwargs: Any) -> Any:
            inner = getattr(request, "root", request)
            if inner.method == "tools/list" and inner.params.cursor is None:
                return types.ListToolsResult.model_validate({"tools": [], "nextCursor": "2"})
            return await super().send_request(request, *args, **kwargs)

    session.__class__ = Paged


def test_what_goes_past_the_session_is_stopped_at_the_wire(tmp_path: Path) -> None:
    """The SDK's own functions, called with the session: nothing is sent that did not pass the guard, before and after a permitted call."""

    def request(query: str) -> Any:
        made = types.CallToolRequest(params=types.CallToolRequestParams(name="search", arguments={"query": query}))
        return made if MAJOR == 2 else types.ClientRequest(made)

    async def work(client: Any) -> None:
        session = guard_session(guard, client, agent="triage")
        with pytest.raises(Denied, match="integrity_failure"):
            await ClientSession.send_request(session, request("a"), types.CallToolResult)
        assert (await asked(client, Call("search", {"query": "a"})))[0].code is None
        with pytest.raises(Denied, match="integrity_failure"):
            await ClientSession.send_request(session, request("a"), types.CallToolResult)

    with opened(tmp_path, SEARCH) as guard, guard.task("triage", initiator="user:test"):
        asyncio.run(within(connect(server_of([search])), work))
        assert [record["verdict"] for record in records(guard, "decision")] == ["deny", "allow", "deny"]


def test_a_session_is_guarded_once(tmp_path: Path) -> None:
    async def work(client: Any) -> None:
        guard_session(guard, client, agent="triage")
        with pytest.raises(InvalidInput, match="guarded already"):
            guard_session(guard, client, agent="triage")

    with opened(tmp_path, SEARCH) as guard:
        asyncio.run(within(connect(server_of([search])), work))


@pytest.mark.parametrize("shown", [{"properties": []}, {"required": [[]]}, {"properties": {"x": {"default": float("nan")}}}, {"type": 1}])
def test_a_schema_that_makes_no_sense_opens_nothing(tmp_path: Path, shown: dict[str, Any]) -> None:
    """A stranger wrote it. At worst the tool cannot be pinned, and is denied."""
    with opened(tmp_path, "odd: {x: {exact: 1}}") as guard, guard.task("triage", initiator="user:test"):
        remote, sent = Remote(guard), []
        remote.learn({"name": "odd", "inputSchema": shown})

        async def wire(arguments: dict[str, Any]) -> Any:
            sent.append(arguments)
            return types.CallToolResult(content=[])

        for arguments in ({"x": 2}, {"agentguard:wire": 1}):
            with pytest.raises(Denied):
                asyncio.run(remote.call("triage", None, "odd", arguments, None, wire))
    assert sent == []


if MAJOR == 1:  # 2.x has no such thing

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_a_call_as_a_task_is_judged_too(tmp_path: Path) -> None:
        """What comes back is a task and no result, so a denial is raised."""

        async def work(client: Any) -> None:
            session = guard_session(guard, client, agent="triage")
            with pytest.raises(Denied, match="argument_not_allowed"):
                await session.experimental.call_tool_as_task("search", {"query": "a", "limit": 9})

        with opened(tmp_path, SEARCH) as guard, guard.task("triage", initiator="user:test"):
            asyncio.run(within(connect(server_of([search])), work))


if MAJOR == 2:  # 1.x has no such thing

    def test_a_renamed_call_is_denied_once(tmp_path: Path) -> None:
        """A hook behind the guard's renames the tool: the stand-in asks by itself, and its answer is the one that is told and recorded."""

        async def renaming(context: Any, call_next: Any) -> Any:
            if context.method == "tools/call":
                context = dataclasses.replace(context, params={**context.params, "name": "search"})
            return await call_next(context)

        with opened(tmp_path, SEARCH) as guard, guard.task("triage", initiator="user:test"):
            server = guard_server(guard, server_of([search]), agent="triage")
            server.middleware.append(renaming)
            (reply,) = asyncio.run(within(connect(server), lambda client: asked(client, Call("other", {"query": "a", "limit": 9}))))
            assert [record["code"] for record in records(guard, "decision")] == ["argument_not_allowed"]
        assert reply.code == "argument_not_allowed"

    def test_a_tool_that_asks_its_client_is_paused(tmp_path: Path) -> None:
        """The second round is the same call again: to the guard that is a repeated call, which `rerun: safe` allows."""
        from mcp.client import Client

        def booking(context: Any) -> Any:
            """Books."""
            if context.input_responses:
                return "booked"
            ask = {"method": "elicitation/create", "params": {"message": "Sure?", "requestedSchema": {"type": "object", "properties": {}}}}
            return types.InputRequiredResult.model_validate({"inputRequests": {"sure": ask}, "requestState": "1"})

        async def answer(context: Any, params: Any) -> Any:
            return types.ElicitResult(action="accept", content={})

        async def work(client: Any) -> Reply:
            guard_session(guard, client, agent="triage")
            (reply,) = await asked(client, Call("booking", {}))
            return reply

        for attributes, text in (("", "Denied (replay_detected)"), ("tools: {booking: {rerun: safe}}", "booked")):
            server = server_of([])
            booking.__annotations__ = {"context": _context_type(), "return": Any}
            server.add_tool(booking, structured_output=False)
            with opened(tmp_path / text[:6], "booking: {}", attributes) as guard, guard.task("triage", initiator="user:test"):
                reply = asyncio.run(within(Client(server, elicitation_callback=answer), work))
                assert records(guard, "outcome")[0]["status"] == "paused"
            assert text in reply.text


def _context_type() -> Any:
    module = importlib.import_module("mcp.server.mcpserver" if MAJOR == 2 else "mcp.server.fastmcp")
    return module.Context


# --- the server ------------------------------------------------------------------------------------------------------------------


def served(guard: Guard, tools: list[Callable[..., Any]], *calls: Call, **options: Any) -> list[Reply]:
    """What a guarded server answers to these calls."""
    server = guard_server(guard, server_of(tools), **{"agent": "triage", **options})
    return asyncio.run(within(connect(server), lambda session: asked(session, *calls)))  # type: ignore[no-any-return]


def test_mistakes_are_told_and_recorded(tmp_path: Path) -> None:
    """Arguments that do not fit never reach the tool: the denial says what is wrong with them, and the record has it."""
    with opened(tmp_path, SEARCH) as guard, guard.task("triage", initiator="user:test"):
        wrong, unknown = served(guard, [search], Call("search", {"query": "a", "limit": "many"}), Call("nothing", {}))
        assert [record["code"] for record in records(guard, "decision")] == ["malformed_call", "malformed_call"]
    assert wrong.error
    assert wrong.text.startswith("Denied (malformed_call)")
    assert "valid integer" in wrong.text
    assert "Unknown tool" in unknown.text


def test_what_the_server_fills_in_is_no_argument(tmp_path: Path) -> None:
    """A Context is neither judged nor recorded, and no model may present one."""

    def whoami(name: str, context: Any) -> str:
        """Says who asks."""
        return f"{name}: {type(context).__name__}"

    whoami.__annotations__ = {"name": str, "context": _context_type(), "return": str}
    with opened(tmp_path, "whoami: {name: any}") as guard, guard.task("triage", initiator="user:test"):
        fine, forged = served(guard, [whoami], Call("whoami", {"name": "eve"}), Call("whoami", {"name": "eve", "context": {}}))
        assert checked(guard, records(guard, "decision")[0]["id"]) == {"name": "eve"}
    assert fine.text == "eve: Context"
    assert forged.code == "malformed_call"


def test_a_denial_of_a_tool_with_structured_output_is_an_error_result(tmp_path: Path) -> None:
    """A denial is no output: it need not fit the output's schema."""

    def count(limit: int) -> int:
        """Counts."""
        return limit

    server = guarded(tmp_path, "count: {limit: {range: {max: 5}}}", count)
    with server as (guard, made), guard.task("triage", initiator="user:test"):
        (reply,) = asyncio.run(within(connect(made), lambda session: asked(session, Call("count", {"limit": 9}))))
    assert reply.error
    assert reply.code == "argument_not_allowed"


@contextmanager
def guarded(home: Path, tools: str, *functions: Callable[..., Any], **options: Any) -> Iterator[tuple[Guard, Any]]:
    """A guard, and a guarded server with structured outputs."""
    with opened(home, tools) as guard:
        server = server_of([])
        for function in functions:
            server.add_tool(function)
        yield guard, guard_server(guard, server, **{"agent": "triage", **options})


def test_request_ids_of_two_clients_are_two_calls(tmp_path: Path) -> None:
    """Each client counts its requests from the start; that is no replay."""

    async def work(session: Any) -> Reply:
        return reply_of(await session.call_tool("search", {"query": "a"}))

    with opened(tmp_path, SEARCH) as guard, guard.task("triage", initiator="user:test"):
        server = guard_server(guard, server_of([search]), agent="triage")
        replies = [asyncio.run(within(connect(server), work)) for _ in range(2)]
        ids = [record["call_id"] for record in records(guard, "decision")]
    assert [reply.code for reply in replies] == [None, None]
    assert len(set(ids)) == 2


def test_a_protocol_error_says_what_a_result_would(tmp_path: Path) -> None:
    """With on_deny="raise" the client gets a JSON-RPC error, without anything that was found."""
    with opened(tmp_path, SEARCH) as guard, guard.task("triage", initiator="user:test"), pytest.raises(Exception) as caught:
        served(guard, [search], Call("search", {"query": "a", "limit": 77}), on_deny="raise")
    assert str(caught.value).startswith("Denied (argument_not_allowed)")
    assert "77" not in str(caught.value)
    assert caught.value.error.data["code"] == "argument_not_allowed"  # type: ignore[attr-defined]


def test_without_the_hook_the_tool_still_asks(tmp_path: Path) -> None:
    """Somebody sets the handler anew: the second layer holds, and tells the client no more than the first would."""
    with opened(tmp_path, SEARCH) as guard, guard.task("triage", initiator="user:test"):
        server = guard_server(guard, server_of([search]), agent="triage")
        if MAJOR == 2:
            server.middleware.pop()
        else:
            server._setup_handlers()
        (reply,) = asyncio.run(within(connect(server), lambda session: asked(session, Call("search", {"query": "a", "limit": 77}))))
    assert reply.error
    assert reply.code == "argument_not_allowed"
    assert "77" not in reply.text


def test_what_another_hook_answers_in_its_place_is_left_alone(tmp_path: Path) -> None:
    """A cache that answers instead of the tool: no tool ran, and nothing is recorded as refused."""
    server = server_of([search])
    result = types.CallToolResult.model_validate({"content": [{"type": "text", "text": "cached"}]})

    async def cached(*args: Any) -> Any:
        return result if MAJOR == 2 else types.ServerResult(result)

    if MAJOR == 1:
        server._mcp_server.request_handlers[types.CallToolRequest] = cached

    async def middleware(context: Any, call_next: Any) -> Any:
        return await (cached() if context.method == "tools/call" else call_next(context))

    with opened(tmp_path, SEARCH) as guard, guard.task("triage", initiator="user:test"):
        guard_server(guard, server, agent="triage")
        if MAJOR == 2:
            server.middleware.append(middleware)
        (reply,) = asyncio.run(within(connect(server), lambda session: asked(session, Call("search", {"query": "a"}))))
        assert records(guard, "decision") == []
    assert reply.text == "cached"


def test_what_keeps_no_tools_is_refused(tmp_path: Path) -> None:
    """A low-level server dispatches by itself: there is no function to stand before."""
    with opened(tmp_path, SEARCH) as guard, pytest.raises(InvalidInput, match="keeps no tools"):
        guard_server(guard, object(), agent="triage")


# --- client and server with a guard each -----------------------------------------------------------------------------------------


Change = Callable[[dict[str, Any]], None]


def carried(tmp_path: Path, change: Change = lambda params: None, *, times: int = 1) -> tuple[list[Reply], list[Any]]:
    """Calls over a wire on which `change` is done to each request's params: replies, and the server's decisions."""
    with two_homes(tmp_path, POLICY.format(tools=SEARCH)) as (here, there):
        server = guard_server(there, server_of([search]))

        async def work(client: Any) -> list[Reply]:
            session = getattr(client, "session", client)
            tampered(session, change)
            guard_session(here, session, agent="triage", audience="urn:there")
            return await asked(session, *[Call("search", {"query": "a"}) for _ in range(times)])

        async def run() -> list[Reply]:
            async with outside(server) as client:
                with here.task("triage", initiator="user:alice"):
                    return await work(client)

        return asyncio.run(run()), records(there, "decision")


@asynccontextmanager
async def outside(server: Any) -> AsyncIterator[Any]:
    """A connection whose server has no task of its own."""
    async with connect(server, **({"mode": "legacy"} if MAJOR == 2 else {})) as client:
        yield client


def tampered(session: Any, change: Change) -> None:
    class Tampered(type(session)):  # type: ignore[misc]
        async def send_request(self, request: Any, *args: Any, **kwargs: Any) -> Any:
            inner = getattr(request, "root", request)
            if inner.method == "tools/call":
                data = inner.model_dump(mode="json", by_alias=True)["params"]
                change(data)
                inner = inner.model_copy(update={"params": type(inner.params).model_validate(data)})
                request = inner if MAJOR == 2 else types.ClientRequest(inner)
            return await super().send_request(request, *args, **kwargs)

    session.__class__ = Tampered


def test_the_chain_travels_with_the_call(tmp_path: Path) -> None:
    """The server has no authority of its own: what the client shows, with a proof for each call, is judged there."""
    replies, decisions = carried(tmp_path, times=2)
    assert [reply.code for reply in replies] == [None, None]
    assert {(decision["agent"], decision["verdict"]) for decision in decisions} == {("triage", "allow")}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda params: params["_meta"].pop("agentguard"), "artifact_missing"),
        (lambda params: params["_meta"]["agentguard"].pop("aat_pop"), "proof_missing"),
        (lambda params: params["arguments"].update(query="b"), "proof_invalid"),
        (lambda params: params["_meta"].update(agentguard={}), "artifact_malformed"),
        (lambda params: params["_meta"].update(agentguard="x"), "artifact_malformed"),
    ],
)
def test_what_does_not_belong_to_the_call_is_denied(tmp_path: Path, change: Change, code: str) -> None:
    replies, _ = carried(tmp_path, change)
    assert [reply.code for reply in replies] == [code]


def test_a_proof_that_was_seen_is_worth_nothing(tmp_path: Path) -> None:
    """Somebody on the way repeats a call under another id."""
    seen: dict[str, Any] = {}

    def repeat(params: dict[str, Any]) -> None:
        seen.setdefault("agentguard", params["_meta"]["agentguard"])
        params["_meta"]["agentguard"] = seen["agentguard"]

    replies, _ = carried(tmp_path, repeat, times=2)
    assert [reply.code for reply in replies] == [None, "replay_detected"]


def test_a_bad_chain_does_not_fall_back_on_the_servers_own_task(tmp_path: Path) -> None:
    """A server that runs under a task judges a call that brings a chain by that chain."""

    async def work(session: Any) -> Reply:
        return reply_of(await session.call_tool("search", {"query": "a"}, meta={"agentguard": {"aat_chain": ["x"]}}))

    with opened(tmp_path, SEARCH) as guard, guard.task("triage", initiator="user:test"):
        server = guard_server(guard, server_of([search]), agent="triage")
        reply = asyncio.run(within(connect(server), work))
    assert reply.code == "artifact_malformed"


def test_a_session_may_be_guarded_before_it_is_entered(tmp_path: Path) -> None:
    script = tmp_path / "server.py"
    script.write_text(SERVER.partition("with Guard")[0] + 'server.run("stdio")')

    async def run() -> list[Reply]:
        parameters = StdioServerParameters(command=sys.executable, args=[str(script)])
        async with stdio_client(parameters) as streams, guard_session(guard, ClientSession(*streams), agent="triage") as session:
            await session.initialize()
            return await asked(session, Call("search", {"query": "a"}), Call("search", {"query": "a", "limit": 9}))

    with opened(tmp_path, SEARCH) as guard, guard.task("triage", initiator="user:test"):
        assert [reply.code for reply in asyncio.run(run())] == [None, "argument_not_allowed"]


def test_what_a_call_leaves_running_has_no_authority(tmp_path: Path) -> None:
    """The chain that came with a call is good until it is answered."""
    kept: list[contextvars.Context] = []

    def keep() -> str:
        """Keeps."""
        kept.append(contextvars.copy_context())
        return "kept"

    async def run() -> list[Reply]:
        async with connect(guard_server(there, server_of([keep]))) as client:
            guard_session(here, client, agent="triage", audience="urn:there")
            with here.task("triage", initiator="user:alice"):
                return await asked(client, Call("keep", {}))

    with two_homes(tmp_path, POLICY.format(tools=f"{SEARCH}, keep: {{}}")) as (here, there):
        assert asyncio.run(run())[0].text == "kept"
        with pytest.raises(Denied, match="artifact_missing"):
            kept[0].run(there.tool(search), query="late")


SERVER = """
import sys
from mcp import server as servers
from agentguard import Guard
from agentguard_adapters.mcp import guard_server

Server = getattr(servers, "MCPServer", None) or servers.FastMCP
server = Server("search")

@server.tool()
def search(query: str, limit: int = 5) -> str:
    return f"found {limit} for {query}"

with Guard.open(sys.argv[1], home=sys.argv[2], durability="process", audience="urn:there") as guard:
    guard_server(guard, server).run("stdio")
"""


def test_the_chain_travels_to_another_process(tmp_path: Path) -> None:
    """Over stdio, with a guard and a home on each side: one call, judged here and there, under one id."""
    script, policy = tmp_path / "server.py", tmp_path / "policy.yaml"
    script.write_text(SERVER)
    policy.write_text(POLICY.format(tools=SEARCH))
    with two_homes(tmp_path, policy.read_text()) as (here, there):
        parameters = StdioServerParameters(command=sys.executable, args=[str(script), str(policy), str(there.home.path)])

        async def run() -> list[Reply]:
            async with stdio_client(parameters) as streams, ClientSession(*streams) as session:
                await session.initialize()
                calls = [Call("search", {"query": "a"}, "one"), Call("search", {"query": "a", "limit": 9}, "two")]
                bare = await asked(session, calls[0])
                guard_session(here, session, agent="triage", audience="urn:there")
                with here.task("triage", initiator="user:alice"):
                    return bare + await asked(session, *calls)

        replies = asyncio.run(run())
        assert [reply.code for reply in replies] == ["artifact_missing", None, "argument_not_allowed"]
        judged = [[(one["call_id"], one["verdict"]) for one in records(guard, "decision")] for guard in (here, there)]
    assert judged == [[("one", "allow"), ("two", "deny")], [("one", "deny"), ("one", "allow")]]
