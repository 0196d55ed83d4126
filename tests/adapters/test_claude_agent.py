"""Claude Agent SDK: the real program, with a scripted model on this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

pytest.importorskip("claude_agent_sdk")

import claude_agent_sdk as sdk
from claude_agent_sdk import AgentDefinition, ClaudeSDKClient, HookMatcher, PermissionResultAllow, PermissionResultDeny

from agentguard import Denied, Guard, InvalidInput
from agentguard.testing import AdapterConformance, Call, Mode, Reply, Scene, records
from agentguard_adapters.claude_agent import GuardedClient, guard_options, guard_server, query
from support.claude_agent_scripted import (
    SERVER,
    block,
    forget_environment,
    options,
    prompt,
    replies,
    rewriting,
    served,
    steps_of,
    text,
    tool_of,
)

POLICY = """
agentguard: 1
name: claude
agents:
  lead:
    tools:
      Bash: {command: {one_of: [echo hi, echo edited, "false", sleep 1; echo woke, sleep 20]}}
      Agent: {description: any, prompt: any, subagent_type: any}
      say: {word: any}
    delegates: {reviewer: {depth: 1}}
  reviewer:
    tools: {Bash: {command: {one_of: [echo hi]}}, say: {word: {max_length: 3}}}
  stranger:
    tools: {Bash: {command: any}, say: {word: any}}
"""


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_environment(monkeypatch)


class TestClaudeAgent(AdapterConformance):
    modes: ClassVar[tuple[Mode, ...]] = ("async", "astream")  # the SDK has no synchronous form
    out_of_reach: ClassVar[Mapping[str, str]] = {
        "the tool object that was given": "whoever holds it can call its handler: give it away through guard_server only"
    }

    @pytest.fixture(autouse=True)
    def _home(self, tmp_path: Path) -> None:
        self.home = tmp_path / "claude"
        self.home.mkdir()

    def run(self, scene: Scene, mode: Mode) -> list[Reply]:
        raise NotImplementedError("the SDK is asynchronous")

    async def arun(self, scene: Scene, mode: Mode) -> list[Reply]:
        tools = [tool_of(fn) for fn in scene.tools]
        server = guard_server(scene.guard, SERVER, tools) if scene.guard is not None else sdk.create_sdk_mcp_server(SERVER, tools=tools)
        hooks = {"PreToolUse": [rewriting(scene.rewrite)]} if scene.rewrite is not None else None
        with served(steps_of(scene.steps, lambda name: f"mcp__{SERVER}__{name}")) as url:
            given = options(url, self.home, mcp_servers={SERVER: server}, hooks=hooks, allowed_tools=[f"mcp__{SERVER}"])
            run = self.client if mode == "async" else self.query
            return replies(await asyncio.wait_for(run(scene, given), 60), scene.steps)

    async def client(self, scene: Scene, given: Any) -> list[Any]:
        client = (
            GuardedClient(scene.guard, given, agent=scene.agent, on_deny=scene.on_deny)
            if scene.guard is not None
            else ClaudeSDKClient(given)
        )
        async with client:
            await client.query("go")
            return [message async for message in client.receive_response()]

    async def query(self, scene: Scene, given: Any) -> list[Any]:
        given.include_partial_messages = True
        if scene.guard is None:
            return [message async for message in sdk.query(prompt=prompt(), options=given)]
        stream = query(scene.guard, prompt=prompt(), options=given, agent=scene.agent, on_deny=scene.on_deny)
        return [message async for message in stream]

    def twins(self, guard: Guard, tool: Callable[..., Any]) -> Mapping[str, Callable[[dict[str, Any]], Any]]:
        made = tool_of(tool)
        return {"the tool object that was given": lambda arguments: asyncio.run(made.handler(arguments))}


# --- tools that run in the program --------------------------------------------------------------------------------------------------


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[Guard]:
    with Guard.open(POLICY, home=tmp_path / "home", durability="process") as opened:
        yield opened


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = tmp_path / "claude"
    made.mkdir()
    return made


def bash(command: str) -> Call:
    return Call("Bash", {"command": command})


async def played(guard: Guard, home: Path, *calls: Call, on_deny: Any = "message", **given: Any) -> list[Reply]:
    """What the model is told about calls of the program's own tools."""
    steps = [[call] for call in calls]
    with served(steps_of(steps)) as url:
        stream = query(guard, prompt=prompt(), options=options(url, home, **given), agent="lead", on_deny=on_deny)
        return replies([message async for message in stream], steps)


def outcomes(guard: Guard) -> list[str]:
    return [record["status"] for record in records(guard, "outcome")]


@pytest.mark.parametrize("mode", ["default", "bypassPermissions", "acceptEdits", "dontAsk", "plan"])
async def test_tools_of_the_program_pass_the_guard_in_every_mode(guard: Guard, home: Path, mode: Any) -> None:
    """Whatever the mode and the rules allow, the guard decides; the outcome is what PostToolUse tells."""
    with guard.task("lead", initiator="user:test"):
        replies = await played(guard, home, bash("echo hi"), bash("touch ran"), bash("false"), permission_mode=mode, allowed_tools=["Bash"])
    assert [reply.code for reply in replies] == [None, "argument_not_allowed", None]
    assert (replies[0].text, replies[2].error) == ("hi", True)
    assert not (home / "ran").exists()
    assert outcomes(guard) == ["ok", "error"]


@pytest.mark.parametrize(("decision", "code"), [({}, "argument_not_allowed"), ({"permissionDecision": "allow"}, None)])
async def test_what_another_hook_rewrites_is_what_is_judged(guard: Guard, home: Path, decision: Any, code: Any) -> None:
    """The decision falls behind the other hooks. (Beside an "ask" the program drops what a hook that says "allow" rewrites.)"""

    async def late(data: Any, tool_use_id: Any, context: Any) -> dict[str, Any]:
        await asyncio.sleep(0.3)
        return {"hookSpecificOutput": {"hookEventName": "PreToolUse", "updatedInput": {"command": "touch ran"}, **decision}}

    with guard.task("lead", initiator="user:test"):
        (reply,) = await played(guard, home, bash("echo hi"), hooks={"PreToolUse": [HookMatcher(hooks=[late])]}, allowed_tools=["Bash"])
    assert reply.code == code
    assert not (home / "ran").exists()


async def test_a_hook_that_breaks_opens_nothing(guard: Guard, home: Path) -> None:
    """The program runs the tool where a hook breaks, unless the hook says on_failure="block", as the guard's do."""

    async def breaks(data: Any, tool_use_id: Any, context: Any) -> dict[str, Any]:
        raise RuntimeError("broken")

    hooks: Any = {"PreToolUse": [HookMatcher(hooks=[breaks])]}
    with served(steps_of([[bash("touch unguarded")]])) as url:
        async for _ in sdk.query(prompt=prompt(), options=options(url, home, hooks=hooks, allowed_tools=["Bash"])):
            pass
    assert (home / "unguarded").exists()
    with guard.task("lead", initiator="user:test"):
        (reply,) = await played(guard, home, bash("touch ran"), hooks=hooks, allowed_tools=["Bash"])
    assert reply.code == "argument_not_allowed"
    given = guard_options(guard, agent="lead").hooks or {}
    assert all(matcher.on_failure == "block" for event in ("PreToolUse", "PostToolUse") for matcher in given[event])


async def test_the_owner_is_asked_first_and_what_he_edits_is_judged(guard: Guard, home: Path) -> None:
    asked: list[str] = []

    async def owner(name: str, given: dict[str, Any], context: Any) -> Any:
        asked.append(given["command"])
        if given["command"] == "echo no":
            return PermissionResultDeny(message="not today")
        return PermissionResultAllow(updated_input={"command": "echo edited" if given["command"] == "echo hi" else "touch ran"})

    with guard.task("lead", initiator="user:test"):
        replies = await played(guard, home, bash("echo hi"), bash("echo no"), bash("echo evil"), can_use_tool=owner)
    assert asked == ["echo hi", "echo no", "echo evil"]
    assert (replies[0].text, replies[2].code) == ("edited", "argument_not_allowed")
    assert "not today" in replies[1].text
    assert not (home / "ran").exists()


async def test_hooks_that_answer_in_the_guards_place_are_refused(guard: Guard, home: Path) -> None:
    """While an owner takes his time, a PermissionRequest hook that allows is enough for the program."""

    async def allows(data: Any, tool_use_id: Any, context: Any) -> dict[str, Any]:
        return {"hookSpecificOutput": {"hookEventName": "PermissionRequest", "decision": {"behavior": "allow"}}}

    async def slow(name: str, given: dict[str, Any], context: Any) -> Any:
        await asyncio.sleep(1)
        return PermissionResultDeny(message="too late")

    with served(steps_of([[bash("touch ran")]])) as url:
        given = options(url, home, hooks={"PermissionRequest": [HookMatcher(hooks=[allows])]}, can_use_tool=slow)
        async for _ in sdk.query(prompt=prompt(), options=given):
            pass
    assert (home / "ran").exists()
    with pytest.raises(InvalidInput, match="PermissionRequest"):
        guard_options(guard, given, agent="lead")


async def test_what_ran_past_the_guard_ends_the_session_and_is_recorded(guard: Guard, home: Path) -> None:
    """PostToolUse of a call that nobody allowed. Nothing is known that brings it about, so the hook is called as the program would."""
    given = guard_options(guard, agent="lead").hooks or {}
    (hook,) = given["PostToolUse"][-1].hooks
    with guard.task("lead", initiator="user:test"):
        answer: Any = await hook({"tool_name": "Bash", "tool_input": {"command": "echo hi"}}, "toolu_1", {})  # type: ignore[typeddict-item, arg-type]
    assert answer["continue_"] is False
    assert [record["code"] for record in records(guard, "decision")] == ["integrity_failure"]


async def test_a_denial_of_a_program_tool_may_be_raised(guard: Guard, home: Path) -> None:
    with guard.task("lead", initiator="user:test"), pytest.raises(Denied) as caught:
        await played(guard, home, bash("touch ran"), bash("echo hi"), on_deny="raise", allowed_tools=["Bash"])
    assert caught.value.code == "argument_not_allowed"
    assert outcomes(guard) == []


async def test_a_cancelled_session_is_recorded(guard: Guard, home: Path) -> None:
    with guard.task("lead", initiator="user:test"):
        run = asyncio.create_task(played(guard, home, bash("sleep 20")))
        while not records(guard, "decision"):
            await asyncio.sleep(0.05)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
    assert outcomes(guard) == ["cancelled"]


async def test_tools_of_the_models_provider_are_seen_by_no_hook(guard: Guard, home: Path) -> None:
    """Out of reach: the call and its result come in one answer of the model."""
    ran = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}}
    with served(lambda asked: [ran, text("done")]) as url, guard.task("lead", initiator="user:test"):
        stream = query(guard, prompt=prompt(), options=options(url, home), agent="lead")
        blocks = [
            part for message in [one async for one in stream] if isinstance(message, sdk.AssistantMessage) for part in message.content
        ]
    assert any(isinstance(part, sdk.ServerToolUseBlock) for part in blocks)
    assert records(guard, "decision") == []


async def test_an_output_whose_outcome_cannot_be_recorded_does_not_reach_the_model(guard: Guard, home: Path) -> None:
    heard: list[str] = []

    def script(asked: dict[str, Any]) -> list[dict[str, Any]]:
        heard.append(str(asked["messages"]))
        return steps_of([[bash("sleep 1; echo woke")]])(asked)

    async def play() -> None:
        async for _ in query(guard, prompt=prompt(), options=options(url, home), agent="lead"):
            pass

    with guard.task("lead", initiator="user:test"), served(script) as url:
        run = asyncio.create_task(play())
        while not records(guard, "decision"):
            await asyncio.sleep(0.05)
        guard.poison("the disk is full")
        await run
    assert outcomes(guard) == []
    assert not any("sleep 1" in said for said in heard)  # it is not asked what comes after the call


# --- sub-agents, servers, and tasks -------------------------------------------------------------------------------------------------


def delegating(calls: Sequence[Call], to: str) -> Any:
    """A lead that starts a sub-agent, and that one makes these calls."""

    def script(asked: dict[str, Any]) -> list[dict[str, Any]]:
        inner = "You review." in str(asked.get("system", ""))
        steps = [[call] for call in calls] if inner else [[Call("Agent", {"description": "d", "prompt": "p", "subagent_type": to})]]
        return steps_of(steps)(asked) if asked.get("tools") else [text("done")]

    return script


@pytest.mark.parametrize(("to", "codes"), [("reviewer", [None, "argument_not_allowed", None, "argument_not_allowed"]), ("stranger", None)])
async def test_a_sub_agent_has_what_is_derived_for_it(guard: Guard, home: Path, to: str, codes: Any) -> None:
    """Its definition's name is its name in the policy, for tools of the program and for tools in this process."""
    words: list[str] = []

    async def say(arguments: dict[str, Any]) -> dict[str, Any]:
        words.append(arguments["word"])
        return {"content": [text("said")]}

    server = guard_server(guard, SERVER, [sdk.SdkMcpTool("say", "Says.", {"word": str}, say)])
    said = f"mcp__{SERVER}__say"
    calls = [bash("echo hi"), bash("echo edited"), Call(said, {"word": "yes"}), Call(said, {"word": "never"})]
    agents = {to: AgentDefinition(description="d", prompt="You review.", background=False)}
    with guard.task("lead", initiator="user:test"), served(delegating(calls, to)) as url:
        given = options(url, home, agents=agents, mcp_servers={SERVER: server})
        stream = query(guard, prompt=prompt(), options=given, agent="lead")
        found = replies([message async for message in stream], [[call] for call in calls])
    assert [reply.code for reply in found] == (codes or ["delegation_not_allowed"] * 4)
    assert words == (["yes"] if codes else [])
    assert [link["agent"] for link in records(guard, "delegation")] == (["lead", "reviewer"] if codes else ["lead"])


async def test_a_guarded_server_wants_a_guarded_session(guard: Guard, home: Path) -> None:
    words: list[str] = []
    steps = [[Call(f"mcp__{SERVER}__say", {"word": "yes"})]]

    async def say(arguments: dict[str, Any]) -> dict[str, Any]:
        words.append(arguments["word"])
        return {"content": [text("said")]}

    tool = sdk.SdkMcpTool("say", "Says.", {"word": str}, say)
    with guard.task("lead", initiator="user:test"), served(steps_of(steps)) as url:
        servers = {SERVER: guard_server(guard, SERVER, [tool])}
        given = options(url, home, mcp_servers=servers, allowed_tools=[f"mcp__{SERVER}"])
        (bare,) = replies([message async for message in sdk.query(prompt=prompt(), options=given)], steps)
        plain = options(url, home, mcp_servers={SERVER: sdk.create_sdk_mcp_server(SERVER, tools=[tool])})
        (other,) = replies([message async for message in query(guard, prompt=prompt(), options=plain, agent="lead")], steps)
    assert (bare.code, other.code) == ("integrity_failure", "tool_not_in_scope")  # the other one as mcp__notes__say
    assert words == []


async def test_arguments_that_do_not_fit_are_recorded_and_told(guard: Guard, home: Path) -> None:
    server = guard_server(guard, SERVER, [tool_of(_say)])
    steps = [[Call(f"mcp__{SERVER}__say", {"word": ["much"]})]]
    with guard.task("lead", initiator="user:test"), served(steps_of(steps)) as url:
        stream = query(guard, prompt=prompt(), options=options(url, home, mcp_servers={SERVER: server}), agent="lead")
        (reply,) = replies([message async for message in stream], steps)
    assert (reply.code, reply.error) == ("malformed_call", True)
    assert "Input validation error" in reply.text
    assert [record["code"] for record in records(guard, "decision", tool="say")] == ["malformed_call"]


def _say(word: str) -> str:
    """Says."""
    return word


_say.__name__ = "say"
_say.__annotations__["word"] = "str"


async def test_a_client_runs_each_query_under_its_own_task(guard: Guard, home: Path) -> None:
    """What is current where `query` is called counts, not what was when the client connected."""
    calls = [bash("echo hi"), bash("echo hi")]

    def script(asked: dict[str, Any]) -> list[dict[str, Any]]:
        turn = sum(message["role"] == "assistant" for message in asked["messages"])
        return [block(calls[turn // 2])] if asked.get("tools") and turn in (0, 2) else [text("done")]

    with served(script) as url:
        async with GuardedClient(guard, options(url, home), agent="lead") as client:
            with guard.task("lead", initiator="user:test"):
                await client.query("first")
                first = [message async for message in client.receive_response()]
            await client.query("second")
            second = [message async for message in client.receive_response()]
    assert [replies(first, [[calls[0]]])[0].code, replies(second, [[calls[1]]])[0].code] == [None, "artifact_missing"]
