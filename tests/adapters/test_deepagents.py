"""deepagents: the same middleware, on the orchestrator and on each sub-agent; its own file tools pass the guard too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from langchain_core.messages import ToolMessage
from langchain_core.tools import tool as make_tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from agentguard import Guard
from agentguard.testing import AdapterConformance, Call, Mode, Reply, Scene, records
from agentguard_adapters.langchain import GuardMiddleware
from support.scripted import GO, RewritingMiddleware, replies, scripted

deepagents = pytest.importorskip("deepagents")
from deepagents.backends import FilesystemBackend  # noqa: E402  # after the skip

POLICY = """
agentguard: 1
name: deep
agents:
  orchestrator:
    tools:
      task: {description: any, subagent_type: any}
      ls: {path: any}
      glob: {pattern: any, path: any}
      grep: {pattern: any, path: any, glob: any, output_mode: any, max_count: any}
      read_file: {file_path: {path: /notes}, offset: any, limit: any}
      write_file: {file_path: {path: /drafts}, content: any}
      edit_file: {file_path: {path: /drafts}, old_string: any, new_string: any, replace_all: any}
    delegates: {researcher: {depth: 1}}
  researcher:
    tools: {read_file: {file_path: {path: /notes/public}, offset: any, limit: any}, delete: {file_path: any}}
tools: {task: {rerun: safe}}
"""


class TestDeepAgents(AdapterConformance):
    out_of_reach: ClassVar[Mapping[str, str]] = {
        "the tool object that was given": "whoever holds it can call it: give away what guard_tools makes"
    }

    def agent(self, scene: Scene) -> Any:
        behind = [RewritingMiddleware(scene.rewrite)] if scene.rewrite is not None else []
        guarded = [GuardMiddleware(scene.guard, scene.agent, on_deny=scene.on_deny)] if scene.guard is not None else []
        return deepagents.create_deep_agent(scripted(*scene.steps), list(scene.tools), middleware=[*guarded, *behind])

    def run(self, scene: Scene, mode: Mode) -> list[Reply]:
        agent = self.agent(scene)
        last = agent.invoke(GO) if mode == "sync" else list(agent.stream(GO, stream_mode="values"))[-1]
        return replies(last["messages"], scene.steps)

    async def arun(self, scene: Scene, mode: Mode) -> list[Reply]:
        agent = self.agent(scene)
        last = await agent.ainvoke(GO) if mode == "async" else [chunk async for chunk in agent.astream(GO, stream_mode="values")][-1]
        return replies(last["messages"], scene.steps)

    def twins(self, guard: Guard, tool: Callable[..., Any]) -> Mapping[str, Callable[[dict[str, Any]], Any]]:
        made = make_tool(tool)

        def agent(arguments: dict[str, Any]) -> Any:
            model = scripted([Call(made.name, arguments)])
            return deepagents.create_deep_agent(model, [made], middleware=[GuardMiddleware(guard, "lead")])

        return {
            "the tool object that was given": made.invoke,
            "batch": lambda arguments: agent(arguments).batch([GO]),
            "abatch": lambda arguments: asyncio.run(agent(arguments).abatch([GO])),
        }


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[Guard]:
    with Guard.open(POLICY, home=tmp_path / "home", durability="process") as opened:
        yield opened


@pytest.fixture
def files(tmp_path: Path) -> Path:
    root = tmp_path / "files"
    for name, text in (("notes/public/a.md", "a public note"), ("notes/private.md", "a private note"), ("secret.txt", "the secret")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def crew(guard: Guard, files: Path, orchestrator: list[Call], researcher: list[Call], **options: Any) -> Any:
    """An orchestrator with one sub-agent over a directory, each with its guard."""
    helper = {
        "name": "researcher",
        "description": "Reads notes.",
        "system_prompt": "Read.",
        "model": scripted(*[[call] for call in researcher]),
        "middleware": [GuardMiddleware(guard, agent="researcher")],
        **options.pop("helper", {}),
    }
    return deepagents.create_deep_agent(
        scripted(*[[call] for call in orchestrator]),
        backend=FilesystemBackend(root_dir=files, virtual_mode=True),
        middleware=[GuardMiddleware(guard, agent="orchestrator")],
        subagents=[helper],
        **options,
    )


def answers(result: dict[str, Any]) -> dict[str, str]:
    return {message.tool_call_id: str(message.content) for message in result["messages"] if isinstance(message, ToolMessage)}


def ask(whom: str, id: str = "ask") -> Call:
    return Call("task", {"description": "Read the notes.", "subagent_type": whom}, id)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_its_own_file_tools_pass_the_guard(guard: Guard, files: Path, mode: str) -> None:
    allowed = [
        Call("ls", {"path": "/"}, "ls"),
        Call("glob", {"pattern": "**/*.md", "path": "/"}, "glob"),
        Call("grep", {"pattern": "note", "path": "/"}, "grep"),
        Call("read_file", {"file_path": "/notes/private.md"}, "read"),
        Call("write_file", {"file_path": "/drafts/d.md", "content": "one"}, "write"),
        Call("edit_file", {"file_path": "/drafts/d.md", "old_string": "one", "new_string": "two"}, "edit"),
    ]
    denied = [
        Call("read_file", {"file_path": "/secret.txt"}, "read secret"),
        Call("read_file", {"file_path": "/notes/../secret.txt"}, "read up"),
        Call("write_file", {"file_path": "/notes/d.md", "content": "x"}, "write note"),
        Call("edit_file", {"file_path": "/secret.txt", "old_string": "the", "new_string": "no"}, "edit secret"),
        Call("delete", {"file_path": "/secret.txt"}, "delete"),
        Call("execute", {"command": "id"}, "execute"),
    ]
    agent = crew(guard, files, [*allowed, *denied], [])
    with guard.task("orchestrator", initiator="user:test"):
        said = answers(agent.invoke(GO) if mode == "sync" else asyncio.run(agent.ainvoke(GO)))
    for call in allowed:
        assert not said[call.id].startswith("Denied"), said[call.id]
    for call in denied:
        assert said[call.id].startswith("Denied"), said[call.id]
    assert "a private note" in said["read"]
    assert (files / "drafts/d.md").read_text() == "two"
    assert (files / "secret.txt").read_text() == "the secret"
    assert not (files / "notes/d.md").exists()
    assert len(records(guard, "decision")) == len(allowed) + len(denied)
    assert {record["status"] for record in records(guard, "outcome")} == {"ok"}


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_sub_agent_has_less_and_its_calls_have_a_cause(guard: Guard, files: Path, mode: str) -> None:
    reads = [Call("read_file", {"file_path": path}, path) for path in ("/notes/public/a.md", "/notes/private.md")]
    agent = crew(guard, files, [ask("researcher", "1"), ask("researcher", "2")], reads)
    with guard.task("orchestrator", initiator="user:test"):
        agent.invoke(GO) if mode == "sync" else asyncio.run(agent.ainvoke(GO))
    (first, _) = records(guard, "decision", agent="orchestrator", tool="task")
    inner = records(guard, "decision", agent="researcher")
    assert [(record["tool"], record["verdict"], record["caused_by"]) for record in inner] == [
        ("read_file", "allow", first["id"]),
        ("read_file", "deny", first["id"]),
    ]
    assert len(records(guard, "delegation", agent="researcher")) == 1  # once for the task, however often it is asked


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_the_general_purpose_sub_agent_has_no_guard_and_runs_nothing(guard: Guard, files: Path, mode: str) -> None:
    """deepagents adds it, and does not pass the middleware on. Its tools start past the guard, and are stopped."""
    spoken = [ask("general-purpose"), Call("read_file", {"file_path": "/secret.txt"})]  # the second is said by the sub-agent's model
    agent = crew(guard, files, spoken, [])
    with guard.task("orchestrator", initiator="user:test"):
        result = agent.invoke(GO) if mode == "sync" else asyncio.run(agent.ainvoke(GO))
    assert answers(result)["ask"].startswith("Denied (integrity_failure)")
    assert "the secret" not in str(result)
    (stopped,) = records(guard, "decision", tool="read_file")
    assert stopped["verdict"] == "deny"
    (outer,) = records(guard, "decision", tool="task")
    assert stopped["caused_by"] == outer["id"]


def test_a_general_purpose_sub_agent_of_ones_own_is_guarded(guard: Guard, files: Path) -> None:
    helper = {"name": "general-purpose", "middleware": [GuardMiddleware(guard, agent="researcher")]}
    agent = crew(guard, files, [ask("general-purpose")], [Call("read_file", {"file_path": "/notes/public/a.md"})], helper=helper)
    with guard.task("orchestrator", initiator="user:test"):
        assert answers(agent.invoke(GO)) == {"ask": "done"}
    assert [record["verdict"] for record in records(guard, "decision", agent="researcher")] == ["allow"]


def test_a_sub_agent_that_waits_for_a_human(guard: Guard, files: Path) -> None:
    """`task` is interrupted inside, recorded as paused, and runs again under the same id because policy marks it `rerun: safe`."""
    helper = {"interrupt_on": {"read_file": True}}
    reads = [Call("read_file", {"file_path": "/notes/public/a.md"})]
    agent = crew(guard, files, [ask("researcher")], reads, helper=helper, checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    with guard.task("orchestrator", initiator="user:test"):
        assert agent.invoke(GO, config)["__interrupt__"]
        assert records(guard, "decision", agent="researcher") == []
        result = agent.invoke(Command(resume={"decisions": [{"type": "approve"}]}), config)
    assert answers(result) == {"ask": "done"}
    assert [record["status"] for record in records(guard, "outcome")] == ["paused", "ok", "ok"]
    assert [record["verdict"] for record in records(guard, "decision", tool="task")] == ["allow", "allow"]
