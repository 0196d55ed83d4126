"""Strands agents with a scripted model."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from strands.hooks import BeforeToolCallEvent, HookProvider
from strands.models.model import Model

from agentguard.testing import Call, Reply

Rewrite = Callable[[str, dict[str, Any]], dict[str, Any]]


class ScriptedModel(Model):
    """Makes these calls, step by step, and says "done" from then on."""

    def __init__(self, *steps: Sequence[Call]) -> None:
        self.steps = list(steps)

    def update_config(self, **config: Any) -> None:
        pass

    def get_config(self) -> Any:
        return {"model_id": "scripted"}

    def structured_output(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("no test asks the scripted model for this")

    async def stream(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        calls = self.steps.pop(0) if self.steps else ()
        yield {"messageStart": {"role": "assistant"}}
        for call in calls:
            yield {"contentBlockStart": {"start": {"toolUse": {"name": call.tool, "toolUseId": call.id}}}}
            yield {"contentBlockDelta": {"delta": {"toolUse": {"input": json.dumps(call.arguments)}}}}
            yield {"contentBlockStop": {}}
        if not calls:
            yield {"contentBlockStart": {"start": {}}}
            yield {"contentBlockDelta": {"delta": {"text": "done"}}}
            yield {"contentBlockStop": {}}
        yield {"messageStop": {"stopReason": "tool_use" if calls else "end_turn"}}


class RewritingHooks(HookProvider):
    """Changes the arguments of tool calls."""

    def __init__(self, rewrite: Rewrite) -> None:
        self._rewrite = rewrite

    def register_hooks(self, registry: Any, **kwargs: Any) -> None:
        registry.add_callback(BeforeToolCallEvent, self._before)

    def _before(self, event: Any) -> None:
        event.tool_use["input"] = self._rewrite(event.tool_use["name"], event.tool_use["input"])


def replies(agent: Any, steps: Sequence[Sequence[Call]]) -> list[Reply]:
    """What the model was told about each call. An id that stands twice is answered twice, in order."""
    said = [part["toolResult"] for message in agent.messages for part in message["content"] if "toolResult" in part]
    found = []
    for call in (call for step in steps for call in step):
        result = next(result for result in said if result["toolUseId"] == call.id)
        said.remove(result)
        found.append(Reply(" ".join(part.get("text", "") for part in result["content"]), result["status"] == "error"))
    return found
