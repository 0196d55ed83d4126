"""The real program of the Claude Agent SDK against a scripted model: a server on this machine that speaks the Messages API."""

from __future__ import annotations

import inspect
import json
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from claude_agent_sdk import ClaudeAgentOptions, HookMatcher, SdkMcpTool, ToolResultBlock, UserMessage

from agentguard.testing import Call, Reply

Block = dict[str, Any]
Script = Callable[[dict[str, Any]], list[Block]]
Rewrite = Callable[[str, dict[str, Any]], dict[str, Any]]
SERVER = "notes"


def block(call: Call, name: str | None = None) -> Block:
    """A call as the model writes it."""
    return {"type": "tool_use", "id": call.id, "name": name or call.tool, "input": call.arguments}


def text(said: str) -> Block:
    return {"type": "text", "text": said}


def steps_of(steps: Sequence[Sequence[Call]], named: Callable[[str], str] = str) -> Script:
    """A model that makes these calls, step by step, and says "done" from then on."""

    def script(asked: dict[str, Any]) -> list[Block]:
        turn = sum(message["role"] == "assistant" for message in asked["messages"])
        if turn >= len(steps) or not asked.get("tools"):
            return [text("done")]
        return [block(call, named(call.tool)) for call in steps[turn]]

    return script


def events(blocks: list[Block]) -> Iterator[dict[str, Any]]:
    """The events of a streamed answer. The program takes messages with one id for one message."""
    ends = "tool_use" if any(part["type"] == "tool_use" for part in blocks) else "end_turn"
    message = {"id": f"msg_{uuid4().hex}", "type": "message", "role": "assistant", "model": "scripted", "content": [], "stop_reason": None}
    yield {"type": "message_start", "message": {**message, "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1}}}
    for index, part in enumerate(blocks):
        is_text = part["type"] == "text"
        yield {"type": "content_block_start", "index": index, "content_block": {**part, **({"text": ""} if is_text else {"input": {}})}}
        delta = (
            {"type": "text_delta", "text": part["text"]}
            if is_text
            else {"type": "input_json_delta", "partial_json": json.dumps(part["input"])}
        )
        yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    yield {"type": "message_delta", "delta": {"stop_reason": ends, "stop_sequence": None}, "usage": {"output_tokens": 1}}
    yield {"type": "message_stop"}


@contextmanager
def served(script: Script) -> Iterator[str]:
    """A model's address, as long as the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or b"{}")
            known = self.path.partition("?")[0] == "/v1/messages"
            self.send_response(200 if known else 404)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            for event in events(script(asked)) if known else ():
                self.wfile.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def environment(url: str, home: Path) -> dict[str, str]:
    """What the program is started with: this model, a home of its own, and nothing else of the machine it runs on."""
    return {
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_API_KEY": "scripted",
        "CLAUDE_CONFIG_DIR": str(home),
        "HOME": str(home),
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
        "DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
        "IS_SANDBOX": "1",  # lets root bypass permissions, which the tests want to see
    }


def forget_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program inherits the environment: leave it nothing that would send it elsewhere."""
    for name in list(os.environ):
        if name.upper().startswith(("ANTHROPIC", "CLAUDE", "HTTP", "AWS")):
            monkeypatch.delenv(name)


_SCHEMAS: Mapping[str, Any] = {
    "str": {"type": "string"},
    "int": {"type": "integer"},
    "list[str]": {"type": "array", "items": {"type": "string"}},
}


def tool_of(fn: Callable[..., Any]) -> SdkMcpTool[Any]:
    """An in-process tool over a Python function."""
    parameters = inspect.signature(fn).parameters

    async def handler(arguments: dict[str, Any]) -> dict[str, Any]:
        found = fn(**arguments)
        return {"content": [text(str(await found if inspect.isawaitable(found) else found))]}

    schema = {
        "type": "object",
        "properties": {name: _SCHEMAS[str(parameter.annotation)] for name, parameter in parameters.items()},
        "required": [name for name, parameter in parameters.items() if parameter.default is parameter.empty],
    }
    return SdkMcpTool(fn.__name__, fn.__doc__ or "", schema, handler)


def rewriting(rewrite: Rewrite) -> HookMatcher:
    """A hook of the session's own that changes what tools get."""

    async def hook(data: Any, tool_use_id: str | None, context: Any) -> dict[str, Any]:
        changed = rewrite(data["tool_name"].rpartition("__")[2], data["tool_input"])
        return {"hookSpecificOutput": {"hookEventName": "PreToolUse", "permissionDecision": "allow", "updatedInput": changed}}

    return HookMatcher(hooks=[hook])


def options(url: str, home: Path, **more: Any) -> ClaudeAgentOptions:
    """Options for a session that is cut off from everything but the scripted model."""
    return ClaudeAgentOptions(env=environment(url, home), cwd=home, setting_sources=[], strict_mcp_config=True, **more)


async def prompt() -> AsyncIterator[dict[str, Any]]:
    """What the user says."""
    yield {"type": "user", "message": {"role": "user", "content": "go"}, "parent_tool_use_id": None, "session_id": "s"}


def replies(messages: Sequence[Any], steps: Sequence[Sequence[Call]]) -> list[Reply]:
    """What the model was told about each call. An id that stands twice is answered twice, in order."""
    said = [part for message in messages if isinstance(message, UserMessage) for part in _results(message)]
    found = []
    for call in (call for step in steps for call in step):
        part = next((part for part in said if part.tool_use_id == call.id), None)
        if part is not None:
            said.remove(part)
            found.append(Reply(_words(part.content), bool(part.is_error)))
    return found


def _results(message: UserMessage) -> list[ToolResultBlock]:
    return [part for part in message.content if isinstance(part, ToolResultBlock)] if not isinstance(message.content, str) else []


def _words(content: Any) -> str:
    return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content or ())
