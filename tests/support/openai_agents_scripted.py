"""Agents of openai-agents with a scripted model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from agents import Agent, RunConfig, RunHooks, Runner, function_tool, set_tracing_disabled
from agents.mcp import MCPServer
from agents.testing import ScriptedModel, assistant_message, function_call
from mcp.types import CallToolResult, TextContent
from mcp.types import Tool as MCPTool
from openai.types.responses import ResponseApplyPatchToolCall, ResponseCustomToolCall, ResponseFunctionShellToolCall
from openai.types.responses.response_output_item import LocalShellCall

from agentguard.testing import Call, Reply, Scene

set_tracing_disabled(True)
#: A call of a tool that nobody knows would end the run.
CONFIG = RunConfig(tool_not_found_behavior="return_error_to_model")


def scripted(*steps: Sequence[Call]) -> ScriptedModel:
    """A model that makes these calls, step by step, and then says "done" once."""
    calls = [[function_call(call.tool, call.arguments, call_id=call.id) for call in step] for step in steps]
    return ScriptedModel([*calls, [assistant_message("done")]])


def agent_of(scene: Scene) -> Any:
    """The scene's agent, without a guard."""
    tools = [function_tool(tool, failure_error_function=failed) for tool in scene.tools]
    return Agent(name=scene.agent, model=scripted(*scene.steps), tools=tools)


def failed(context: Any, error: Exception) -> str:
    """What the model is told of an exception, which the framework keeps from it by default."""
    return f"failed: {error}"


def runs_of(scene: Scene) -> list[Scene]:
    """The scene in as many runs as it takes: in one run, the framework itself does not let a call id come back."""
    runs: list[list[Sequence[Call]]] = [[]]
    for step in scene.steps:
        if {call.id for call in step} & {call.id for earlier in runs[-1] for call in earlier}:
            runs.append([])
        runs[-1].append(step)
    return [replace(scene, steps=steps) for steps in runs]


class Rewriting(RunHooks):
    """Changes the arguments of tool calls when the tool is about to start."""

    def __init__(self, scene: Scene) -> None:
        self._rewrite = scene.rewrite

    async def on_tool_start(self, context: Any, agent: Any, tool: Any) -> None:
        if self._rewrite is not None:
            call = context.tool_call
            call.arguments = json.dumps(self._rewrite(tool.name, json.loads(call.arguments)))


def ran(agent: Any, hooks: Any = None, *, state: Any = "go") -> Any:
    """The result of a run in this thread."""
    return Runner.run_sync(agent, state, hooks=hooks, run_config=CONFIG, max_turns=30)


async def aran(agent: Any, hooks: Any = None, *, state: Any = "go") -> Any:
    """The same in an event loop."""
    return await Runner.run(agent, state, hooks=hooks, run_config=CONFIG, max_turns=30)


async def streamed(agent: Any, hooks: Any = None) -> Any:
    """The result of a streamed run, once it is at its end."""
    result = Runner.run_streamed(agent, "go", hooks=hooks, run_config=CONFIG, max_turns=30)
    async for _ in result.stream_events():
        pass
    return result


def said(result: Any) -> list[tuple[str, str]]:
    """What the model was told: call ids and outputs, hand-offs included."""
    items = [item.raw_item for item in result.new_items if item.type in ("tool_call_output_item", "handoff_output_item")]
    return [(item["call_id"], _text(item)) for item in items]


def _text(item: dict[str, Any]) -> str:
    return str(item["output"])


def replies(result: Any, steps: Sequence[Sequence[Call]]) -> list[Reply]:
    """What the model was told about each call. An id that stands twice is answered twice, in order."""
    told = said(result)
    found = []
    for call in (call for step in steps for call in step):
        answer = next(one for one in told if one[0] == call.id)
        told.remove(answer)
        found.append(Reply(answer[1]))
    return found


def shell_call(id: str, commands: list[str], **limits: int) -> Any:
    """A call of the shell tool."""
    action = {"commands": commands, "timeout_ms": None, "max_output_length": None, **limits}
    parts = {"id": id, "call_id": id, "type": "shell_call", "status": "completed", "action": action, "environment": None}
    return ResponseFunctionShellToolCall.model_validate(parts)


def local_shell_call(id: str, command: list[str]) -> Any:
    """A call of the older shell tool."""
    action = {"type": "exec", "command": command, "env": {}}
    return LocalShellCall.model_validate({"id": id, "call_id": id, "type": "local_shell_call", "status": "completed", "action": action})


def patch_call(id: str, operation: dict[str, Any]) -> Any:
    """A call of apply_patch."""
    parts = {"id": id, "call_id": id, "type": "apply_patch_call", "status": "completed", "operation": operation}
    return ResponseApplyPatchToolCall.model_validate(parts)


def custom_call(id: str, text: str) -> Any:
    """A call of the custom tool `query`."""
    return ResponseCustomToolCall(id=id, call_id=id, type="custom_tool_call", name="query", input=text)


class Server(MCPServer):
    """An MCP server in this process, with one tool `lookup(q)`, and what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Any] = []

    name = "server"

    async def connect(self) -> None: ...

    async def cleanup(self) -> None: ...

    async def list_tools(self, run_context: Any = None, agent: Any = None) -> Any:
        return [MCPTool(name="lookup", description="Looks up.", inputSchema={"type": "object", "properties": {"q": {"type": "string"}}})]

    async def call_tool(self, tool_name: str, arguments: Any, meta: Any = None) -> Any:
        self.asked.append(arguments)
        return CallToolResult(content=[TextContent(type="text", text="found")])

    async def list_prompts(self) -> Any: ...

    async def get_prompt(self, name: str, arguments: Any = None) -> Any: ...
