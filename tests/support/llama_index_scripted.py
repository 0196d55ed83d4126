"""LlamaIndex agents with a scripted model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from llama_index.core.agent.workflow import FunctionAgent, ToolCallResult
from llama_index.core.base.llms.types import ChatMessage, TextBlock, ToolCallBlock
from llama_index.core.llms.mock import MockFunctionCallingLLM

from agentguard.testing import Call, Reply


def model(*steps: Sequence[Call]) -> MockFunctionCallingLLM:
    """Makes these calls, step by step, and says "done" from then on."""
    script = iter(steps)

    def says(messages: Any, **options: Any) -> ChatMessage:
        calls = next(script, None)
        if calls is None:
            return ChatMessage(role="assistant", blocks=[TextBlock(text="done")])
        blocks = [ToolCallBlock(tool_call_id=call.id, tool_name=call.tool, tool_kwargs=dict(call.arguments)) for call in calls]
        return ChatMessage(role="assistant", blocks=blocks)

    return MockFunctionCallingLLM(response_generator=says, is_chat_model=True)


def agent(name: str, tools: Sequence[Any], *steps: Sequence[Call], kind: Any = FunctionAgent, **options: Any) -> Any:
    """An agent whose model makes these calls."""
    return kind(name=name, description=name, tools=list(tools), llm=model(*steps), **options)


async def results(runner: Any, **options: Any) -> list[ToolCallResult]:
    """What became of each tool call of a run. A run that is cancelled takes its steps with it."""
    handler = runner.run(user_msg="go", **options)
    try:
        found = [event async for event in handler.stream_events() if isinstance(event, ToolCallResult)]
        await handler
    except asyncio.CancelledError:
        await handler.cancel_run()
        await asyncio.gather(handler, return_exceptions=True)
        raise
    return found


def replies(found: Sequence[ToolCallResult], steps: Sequence[Sequence[Call]]) -> list[Reply]:
    """What the model was told about each call. An id that stands twice is answered twice, in order."""
    said = list(found)
    told = []
    for call in (call for step in steps for call in step):
        result = next(result for result in said if result.tool_id == call.id)
        said.remove(result)
        told.append(Reply(result.tool_output.content, result.tool_output.is_error))
    return told


def rewriting(rewrite: Callable[[str, dict[str, Any]], dict[str, Any]], kind: Any = FunctionAgent) -> Any:
    """A class of agents that change the arguments of tool calls."""

    class Rewriting(kind):  # type: ignore[misc]  # any kind of agent
        async def _call_tool(self, ctx: Any, tool: Any, tool_input: dict[str, Any]) -> Any:
            return await super()._call_tool(ctx, tool, rewrite(tool.metadata.name, tool_input))

    return Rewriting
