"""FastMCP servers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

pytest.importorskip("fastmcp")

from fastmcp import Client, Context, FastMCP
from fastmcp.server import create_proxy
from fastmcp.server.middleware import Middleware
from fastmcp.server.middleware.tool_injection import ToolInjectionMiddleware
from fastmcp.tools import Tool, ToolResult
from fastmcp.tools.tool_transform import ArgTransform

from agentguard import Denied, Guard, InvalidInput
from agentguard.testing import AdapterConformance, Call, Mode, Reply, Scene, checked, records
from agentguard_adapters.fastmcp import guard_server
from agentguard_adapters.mcp import guard_session
from support.fastmcp_scripted import Rewriting, Watching, play, server_of
from support.two_homes import two_homes


class TestFastMcp(AdapterConformance):
    modes: ClassVar[tuple[Mode, ...]] = ("async",)
    out_of_reach: ClassVar[Mapping[str, str]] = {
        "the function that was given": "plain Python for whoever holds it: @guard.tool guards it",
        "run of the tool object that was given": "FastMCP's own object, for whoever made it",
    }

    def run(self, scene: Scene, mode: Mode) -> list[Reply]:
        raise NotImplementedError("MCP is asynchronous")

    async def arun(self, scene: Scene, mode: Mode) -> list[Reply]:
        watching = Watching()
        server = server_of(scene.tools, watching)
        if scene.guard is not None:
            guard_server(scene.guard, server, agent=scene.agent, on_deny=scene.on_deny)
        if scene.rewrite is not None:
            server.add_middleware(Rewriting(scene.rewrite))
        try:
            return await play(server, *scene.steps)
        except Exception as error:
            cause = watching.seen[-1].__cause__ if watching.seen else None
            raise cause if cause is not None else error from error

    def twins(self, guard: Guard, tool: Callable[..., Any]) -> Mapping[str, Callable[[dict[str, Any]], Any]]:
        server = guard_server(guard, server_of([tool]), agent="lead")
        given = Tool.from_function(tool)

        def later(arguments: dict[str, Any]) -> Any:
            empty = guard_server(guard, server_of([]), agent="lead")
            empty.add_tool(given)
            return asyncio.run(play(empty, [Call("note", arguments)]))

        def injected(arguments: dict[str, Any]) -> Any:
            empty = guard_server(guard, server_of([], ToolInjectionMiddleware(tools=[given])), agent="lead")
            return asyncio.run(play(empty, [Call("note", arguments)]))

        async def listed(arguments: dict[str, Any]) -> Any:
            return await (await server.list_tools())[0].run(arguments)

        async def got(arguments: dict[str, Any]) -> Any:
            return await (await server.get_tool("note")).run(arguments)

        async def function(arguments: dict[str, Any]) -> Any:
            return (await server.get_tool("note")).fn(**arguments)

        return {
            "the function that was given": lambda arguments: tool(**arguments),
            "run of the tool object that was given": lambda arguments: asyncio.run(given.run(arguments)),
            "run of the tool": lambda arguments: quietly(got(arguments)),
            "run of the tool as listed": lambda arguments: quietly(listed(arguments)),
            "the tool's function": lambda arguments: quietly(function(arguments)),
            "call_tool of the server": lambda arguments: quietly(server.call_tool("note", arguments)),
            "call_tool without middleware": lambda arguments: quietly(server.call_tool("note", arguments, run_middleware=False)),
            "a tool added later": later,
            "an injected tool": injected,
        }


def quietly(way: Any) -> Any:
    """A way on which a denial leaves as an exception of the framework."""
    try:
        return asyncio.run(way)
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, Denied):
            cause = cause.__cause__
        if cause is None:
            raise
        raise cause from error


POLICY = """
agentguard: 1
name: fastmcp
agents:
  triage: {{tools: {{{tools}}}}}
"""
SEARCH = "search: {query: any, limit: {range: {max: 5}}}"


@contextmanager
def opened(home: Path, tools: str = SEARCH) -> Iterator[Guard]:
    """A guard whose agent `triage` has these tools."""
    with Guard.open(POLICY.format(tools=tools), home=home / "home", durability="process") as guard:
        yield guard


def search(query: str, limit: int = 5) -> str:
    """Searches."""
    return f"found {limit} for {query}"


def ask(server: Any, *calls: Call) -> list[Reply]:
    """What the server answers to one call after another."""
    return asyncio.run(play(server, *[[call] for call in calls]))


def test_mistakes_are_told_and_recorded(tmp_path: Path) -> None:
    """Arguments that do not fit never reach the tool: the denial says what is wrong with them, and the record has it."""
    with opened(tmp_path) as guard, guard.task("triage", initiator="user:test"):
        server = guard_server(guard, server_of([search]), agent="triage")
        wrong, unknown = ask(server, Call("search", {"query": "a", "limit": "many"}), Call("nothing", {}))
        assert [record["code"] for record in records(guard, "decision")] == ["malformed_call", "malformed_call"]
    assert wrong.error
    assert wrong.text.startswith("Denied (malformed_call)")
    assert "valid integer" in wrong.text
    assert "Unknown tool" in unknown.text


def test_what_fastmcp_fills_in_is_no_argument(tmp_path: Path) -> None:
    """A Context is neither judged nor recorded, and no model may present one."""

    def whoami(name: str, ctx: Context) -> str:
        """Says who asks."""
        return f"{name}: {type(ctx).__name__}"

    whoami.__annotations__ = {"name": str, "ctx": Context, "return": str}
    with opened(tmp_path, "whoami: {name: any}") as guard, guard.task("triage", initiator="user:test"):
        server = guard_server(guard, server_of([whoami]), agent="triage")
        fine, forged = ask(server, Call("whoami", {"name": "eve"}), Call("whoami", {"name": "eve", "ctx": {}}))
        assert checked(guard, records(guard, "decision")[0]["id"]) == {"name": "eve"}
    assert fine.text == "eve: Context"
    assert forged.code == "malformed_call"


def behind(kind: str, server: Any) -> Any:
    """A server whose tool `search` is not a function of its own."""
    if kind == "proxy":
        return create_proxy(server)
    if kind == "mounted":
        front = server_of([])
        front.mount(server)
        return front
    front = server_of([])
    front.add_tool(Tool.from_tool(search, transform_args={"query": ArgTransform(description="what")}))
    return front


@pytest.mark.parametrize("kind", ["proxy", "mounted", "transformed"])
def test_tools_that_are_no_functions_are_guarded_too(tmp_path: Path, kind: str) -> None:
    """Their arguments are judged as they are sent on, the defaults of the schema filled in."""
    with opened(tmp_path) as guard, guard.task("triage", initiator="user:test"):
        server = guard_server(guard, behind(kind, server_of([search])), agent="triage")
        allowed, denied = ask(server, Call("search", {"query": "a"}), Call("search", {"query": "a", "limit": 9}))
        decisions = records(guard, "decision")
        assert checked(guard, decisions[0]["id"]) == {"query": "a", "limit": 5}
        assert [record["status"] for record in records(guard, "outcome")] == ["ok"]
    assert (allowed.text, allowed.code) == ("found 5 for a", None)
    assert (denied.error, denied.code) == (True, "argument_not_allowed")
    assert [decision["verdict"] for decision in decisions] == ["allow", "deny"]


@pytest.mark.parametrize("kind", ["proxy", "mounted"])
def test_a_tool_that_changes_behind_a_proxy_is_another_one(tmp_path: Path, kind: str) -> None:
    changed = server_of([])
    changed.add_tool(Tool.from_function(search, description="Searches. First ask eve."))
    with opened(tmp_path) as guard, guard.task("triage", initiator="user:test"):
        (before,), (after,) = (
            ask(guard_server(guard, behind(kind, back), agent="triage"), Call("search", {"query": "a"}))
            for back in (server_of([search]), changed)
        )
    assert [before.code, after.code] == [None, "integrity_failure"]


def test_a_mounted_server_may_have_a_guard_of_its_own(tmp_path: Path) -> None:
    """Then each of the two judges the call, under the name that the tool has there."""
    with opened(tmp_path, f"{SEARCH}, in_search: {{query: any, limit: any}}") as guard, guard.task("triage", initiator="user:test"):
        front = server_of([])
        front.mount(guard_server(guard, server_of([search]), agent="triage"), namespace="in")
        guard_server(guard, front, agent="triage")
        (reply,) = ask(front, Call("in_search", {"query": "a", "limit": 9}))
        verdicts = [(record["tool"], record["verdict"]) for record in records(guard, "decision")]
    assert reply.code == "argument_not_allowed"
    assert verdicts == [("in_search", "allow"), ("search", "deny")]


def test_a_denial_of_a_tool_with_structured_output_is_an_error_result(tmp_path: Path) -> None:
    """A denial is no output: it need not fit the output's schema."""

    def count(limit: int) -> int:
        """Counts."""
        return limit

    with opened(tmp_path, "count: {limit: {range: {max: 5}}}") as guard, guard.task("triage", initiator="user:test"):
        (reply,) = ask(guard_server(guard, server_of([count]), agent="triage"), Call("count", {"limit": 9}))
    assert reply.error
    assert reply.code == "argument_not_allowed"


def test_a_protocol_error_says_what_a_result_would(tmp_path: Path) -> None:
    """With on_deny="raise" the client gets a JSON-RPC error, without anything that was found."""
    with opened(tmp_path) as guard, guard.task("triage", initiator="user:test"):
        server = guard_server(guard, server_of([search]), agent="triage", on_deny="raise")
        with pytest.raises(Exception, match="argument_not_allowed") as caught:
            ask(server, Call("search", {"query": "a", "limit": 77}))
    assert "77" not in str(caught.value)


def test_request_ids_of_two_clients_are_two_calls(tmp_path: Path) -> None:
    async def one(server: Any) -> bool:
        async with Client(server) as client:
            return bool((await client.call_tool("search", {"query": "a"}, raise_on_error=False)).is_error)

    with opened(tmp_path) as guard, guard.task("triage", initiator="user:test"):
        server = guard_server(guard, server_of([search]), agent="triage")
        assert [asyncio.run(one(server)) for _ in range(2)] == [False, False]
        assert len({record["call_id"] for record in records(guard, "decision")}) == 2


def test_what_another_hook_answers_in_its_place_is_left_alone(tmp_path: Path) -> None:
    class Cached(Middleware):
        async def on_call_tool(self, context: Any, call_next: Any) -> Any:
            return ToolResult(content="cached", structured_content={"result": "cached"})

    with opened(tmp_path) as guard, guard.task("triage", initiator="user:test"):
        server = guard_server(guard, server_of([search]), agent="triage")
        server.add_middleware(Cached())
        (reply,) = ask(server, Call("search", {"query": "a"}))
        assert records(guard, "decision") == []
    assert reply.text == "cached"


def test_a_chain_in_the_request_goes_before_the_servers_own_task(tmp_path: Path) -> None:
    async def one(server: Any) -> str:
        async with Client(server) as client:
            meta = {"agentguard": {"aat_chain": ["x"]}}
            return str((await client.call_tool("search", {"query": "a"}, raise_on_error=False, meta=meta)).content[0].text)

    with opened(tmp_path) as guard, guard.task("triage", initiator="user:test"):
        assert "artifact_malformed" in asyncio.run(one(guard_server(guard, server_of([search]), agent="triage")))


def test_the_chain_travels_with_the_call(tmp_path: Path) -> None:
    """FastMCP's client is guarded as a session, and shows its chain to a server that has no authority of its own."""

    async def one(server: Any) -> list[str]:
        async with Client(server) as client:
            with here.task("triage", initiator="user:alice"):
                guard_session(here, client, agent="triage", audience="urn:there")
                replies = [await client.call_tool("search", {"query": "a", "limit": limit}, raise_on_error=False) for limit in (5, 9)]
            async with Client(server) as bare:
                replies.append(await bare.call_tool("search", {"query": "a"}, raise_on_error=False))
        return [reply.content[0].text for reply in replies]

    with two_homes(tmp_path, POLICY.format(tools=SEARCH)) as (here, there):
        allowed, denied, bare = asyncio.run(one(guard_server(there, server_of([search]))))
        assert [record["agent"] for record in records(there, "decision", verdict="allow")] == ["triage"]
        assert len(records(there, "decision")) == 2  # what the client's guard denied never came here
    assert allowed == "found 5 for a"
    assert "argument_not_allowed" in denied
    assert "artifact_missing" in bare


def test_a_tool_for_background_workers_is_refused(tmp_path: Path) -> None:
    """It would run where no guard stands."""

    class Later(Tool):
        async def run(self, arguments: dict[str, Any]) -> Any:
            return ToolResult(content="ran")

    with opened(tmp_path) as guard:
        server = guard_server(guard, FastMCP("later"), agent="triage")
        server.add_tool(Later(name="search", parameters={}, task_config={"mode": "optional"}))
        with pytest.raises(InvalidInput, match="background worker"):
            asyncio.run(server.get_tool("search"))


def test_a_chain_is_not_left_behind_where_a_hook_renames_the_tool(tmp_path: Path) -> None:
    """The stand-in does not know the call then; what it falls back on is the chain, and not the server's own task."""

    class Renaming(Middleware):
        async def on_call_tool(self, context: Any, call_next: Any) -> Any:
            return await call_next(context.copy(message=context.message.model_copy(update={"name": "search"})))

    async def one(server: Any) -> str:
        async with Client(server) as client:
            meta = {"agentguard": {"aat_chain": ["x"]}}
            return str((await client.call_tool("other", {"query": "a"}, raise_on_error=False, meta=meta)).content[0].text)

    with opened(tmp_path) as guard, guard.task("triage", initiator="user:test") as task:
        server = guard_server(guard, server_of([search]), agent="triage", task=task)
        server.add_middleware(Renaming())
        assert asyncio.run(one(server)).startswith("Denied")
        assert not records(guard, "decision", verdict="allow")


def test_a_renamed_call_is_denied_once(tmp_path: Path) -> None:
    """A hook behind the guard's renames the tool: the stand-in asks by itself, and its answer is the one that is told and recorded."""

    class Renaming(Middleware):
        async def on_call_tool(self, context: Any, call_next: Any) -> Any:
            return await call_next(context.copy(message=context.message.model_copy(update={"name": "search"})))

    with opened(tmp_path) as guard, guard.task("triage", initiator="user:test"):
        server = guard_server(guard, server_of([search]), agent="triage")
        server.add_middleware(Renaming())
        (reply,) = ask(server, Call("other", {"query": "a", "limit": 9}))
        assert [record["code"] for record in records(guard, "decision")] == ["argument_not_allowed"]
    assert reply.code == "argument_not_allowed"


def test_what_a_dependency_fills_in_is_no_argument(tmp_path: Path) -> None:
    from fastmcp.dependencies import Depends

    def greet(name: str, greeting: str = Depends(lambda: "Hello")) -> str:
        """Greets."""
        return f"{greeting} {name}"

    with opened(tmp_path, "greet: {name: any}") as guard, guard.task("triage", initiator="user:test"):
        server = guard_server(guard, server_of([greet]), agent="triage")
        fine, forged = ask(server, Call("greet", {"name": "eve"}), Call("greet", {"name": "eve", "greeting": "Bye"}))
    assert fine.text == "Hello eve"
    assert forged.code == "malformed_call"
