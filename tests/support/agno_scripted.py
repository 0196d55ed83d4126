"""Agno agents with a scripted model."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from agno.models.base import Model
from agno.models.response import ModelResponse

from agentguard.testing import Call, Reply

Rewrite = Callable[[str, dict[str, Any]], dict[str, Any]]


class ScriptedModel(Model):
    """Makes these calls, step by step, and says "done" from then on. `heard` is what it was told last."""

    def __init__(self, *steps: Sequence[Call]) -> None:
        super().__init__(id="scripted", name="scripted", provider="scripted")
        self.steps = list(steps)
        self.heard: list[Any] = []

    def _next(self, messages: list[Any]) -> ModelResponse:
        self.heard = list(messages)
        calls = self.steps.pop(0) if self.steps else ()
        if not calls:
            return ModelResponse(role="assistant", content="done")
        made = [
            {"id": call.id, "type": "function", "function": {"name": call.tool, "arguments": json.dumps(call.arguments)}} for call in calls
        ]
        return ModelResponse(role="assistant", tool_calls=made)

    def invoke(self, messages: list[Any], *args: Any, **kwargs: Any) -> ModelResponse:
        return self._next(messages)

    async def ainvoke(self, messages: list[Any], *args: Any, **kwargs: Any) -> ModelResponse:
        return self._next(messages)

    def invoke_stream(self, messages: list[Any], *args: Any, **kwargs: Any) -> Iterator[ModelResponse]:
        yield self._next(messages)

    async def ainvoke_stream(self, messages: list[Any], *args: Any, **kwargs: Any) -> AsyncIterator[ModelResponse]:
        yield self._next(messages)

    def _parse_provider_response(self, response: Any, **kwargs: Any) -> Any:
        return response

    def _parse_provider_response_delta(self, response: Any) -> Any:
        return response


def rewriting(rewrite: Rewrite) -> Callable[..., Any]:
    """A tool hook that changes the arguments of tool calls, in place: Agno runs tools with those."""

    def hook(function_name: str, function_call: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        changed = rewrite(function_name, arguments)
        arguments.update(changed)
        return function_call(**arguments)

    return hook


def replies(model: ScriptedModel, steps: Sequence[Sequence[Call]]) -> list[Reply]:
    """What the model was told about each call. An id that stands twice is answered twice, in order."""
    said = [message for message in model.heard if message.role == "tool"]
    found = []
    for call in (call for step in steps for call in step):
        message = next((message for message in said if message.tool_call_id == call.id), None)
        if message is not None:
            said.remove(message)
            found.append(Reply(str(message.content), bool(message.tool_call_error)))
    return found
