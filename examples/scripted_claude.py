"""A model that says what it was told to say: a server on this machine that speaks the Messages API, for with_claude_agent.py."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from uuid import uuid4


def serve(**scripts: list[dict[str, Any]]) -> str:
    """The address of a server. Each script is the tool inputs that the agent of that name calls, one after the other: {tool: input}."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            agent = next((name for name in scripts if f"You are the {name}." in str(asked.get("system"))), "")
            turn = sum(message["role"] == "assistant" for message in asked.get("messages", ()))
            for event in _events(scripts[agent][turn] if agent and turn < len(scripts[agent]) else None):
                self.wfile.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def _events(call: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    if call is None:
        kind, block, delta = "end_turn", {"type": "text", "text": ""}, {"type": "text_delta", "text": "done"}
    else:
        ((tool, given),) = call.items()
        block = {"type": "tool_use", "id": f"toolu_{uuid4().hex}", "name": f"mcp__tools__{tool}", "input": {}}
        kind, delta = "tool_use", {"type": "input_json_delta", "partial_json": json.dumps(given)}
    message = {"id": f"msg_{uuid4().hex}", "type": "message", "role": "assistant", "model": "scripted", "content": []}
    yield {"type": "message_start", "message": {**message, "stop_reason": None, "usage": {"input_tokens": 1, "output_tokens": 1}}}
    yield {"type": "content_block_start", "index": 0, "content_block": block}
    yield {"type": "content_block_delta", "index": 0, "delta": delta}
    yield {"type": "content_block_stop", "index": 0}
    yield {"type": "message_delta", "delta": {"stop_reason": kind, "stop_sequence": None}, "usage": {"output_tokens": 1}}
    yield {"type": "message_stop"}
