"""Agents of Pydantic AI with a scripted model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

from pydantic_ai import Agent, UserError
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.messages import ModelMessage, ModelResponse, RetryPromptPart, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import DeltaToolCall, FunctionModel

from agentguard.testing import Call, Reply, Scene


def scripted(*steps: Sequence[Call], last: str = "done") -> FunctionModel:
    """A model that makes these calls, step by step, and says "done" from then on."""
    left = [list(step) for step in steps]

    def answer(messages: list[ModelMessage], info: Any) -> ModelResponse:
        calls = left.pop(0) if left else []
        parts = [ToolCallPart(call.tool, dict(call.arguments), tool_call_id=call.id) for call in calls]
        return ModelResponse(parts=parts or [TextPart(last)])

    async def stream(messages: list[ModelMessage], info: Any) -> AsyncIterator[Any]:
        calls = left.pop(0) if left else []
        for at, call in enumerate(calls):
            text = json.dumps(call.arguments)
            yield {at: DeltaToolCall(name=call.tool, json_args=text[:5], tool_call_id=call.id)}
            yield {at: DeltaToolCall(json_args=text[5:])}
        if not calls:
            yield last

    return FunctionModel(answer, stream_function=stream)


class Rewriting(AbstractCapability):
    """Changes the arguments of tool calls just before the tool."""

    def __init__(self, scene: Scene) -> None:
        self._rewrite = scene.rewrite

    async def before_tool_execute(self, ctx: Any, *, call: Any, tool_def: Any, args: Any) -> Any:
        return args if self._rewrite is None else self._rewrite(call.tool_name, args)


def ran(agent: Agent[Any, Any], **options: Any) -> list[ModelMessage]:
    """The messages of a run in this thread. Inside a sync tool the framework wants a loop of one's own."""
    try:
        return agent.run_sync("go", **options).all_messages()
    except UserError:
        return asyncio.run(aran(agent, **options))


async def aran(agent: Agent[Any, Any], **options: Any) -> list[ModelMessage]:
    """The same in an event loop."""
    return (await agent.run("go", **options)).all_messages()


async def streamed(agent: Agent[Any, Any], **options: Any) -> list[ModelMessage]:
    """The messages of a streamed run."""
    async with agent.run_stream("go", **options) as result:
        async for _ in result.stream_output(debounce_by=None):
            pass
        return result.all_messages()


def said(messages: Sequence[ModelMessage]) -> list[tuple[str, str, bool]]:
    """What the model was told of its calls: ids, words, and whether it is told as something that failed."""
    parts = [part for message in messages for part in message.parts]
    return [
        (part.tool_call_id, str(part.content), isinstance(part, RetryPromptPart) or part.outcome != "success")
        for part in parts
        if isinstance(part, ToolReturnPart | RetryPromptPart) and part.tool_name
    ]


def replies(messages: Sequence[ModelMessage], steps: Sequence[Sequence[Call]]) -> list[Reply]:
    """What the model was told about each call. An id that stands twice is answered twice, in order."""
    told = said(messages)
    found = []
    for call in (call for step in steps for call in step):
        answer = next(one for one in told if one[0] == call.id)
        told.remove(answer)
        found.append(Reply(answer[1], answer[2]))
    return found
