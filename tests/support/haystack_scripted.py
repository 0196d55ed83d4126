"""Haystack agents with a scripted model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from haystack import component
from haystack.components.agents import Agent
from haystack.dataclasses import ChatMessage, ToolCall
from haystack.tools import Tool, Toolset, create_tool_from_function

from agentguard.testing import Call, Reply

GO = [ChatMessage.from_user("go")]


@component
class Scripted:
    """Makes these calls, step by step, and says "done" from then on."""

    def __init__(self, *steps: Sequence[Call]) -> None:
        self.steps = list(steps)

    @component.output_types(replies=list[ChatMessage])
    def run(self, messages: list[ChatMessage], tools: Any = None, streaming_callback: Any = None) -> dict[str, Any]:
        if not self.steps:
            return {"replies": [ChatMessage.from_assistant("done")]}
        calls = [ToolCall(tool_name=call.tool, arguments=dict(call.arguments), id=call.id) for call in self.steps.pop(0)]
        return {"replies": [ChatMessage.from_assistant(tool_calls=calls)]}

    @component.output_types(replies=list[ChatMessage])
    async def run_async(self, messages: list[ChatMessage], tools: Any = None, streaming_callback: Any = None) -> dict[str, Any]:
        return self.run(messages)  # type: ignore[no-any-return]  # the decorator hides the type


def agent(tools: Sequence[Any], *steps: Sequence[Call], **options: Any) -> Agent:
    """An agent whose model makes these calls."""
    made = [tool if isinstance(tool, Tool | Toolset) else create_tool_from_function(tool) for tool in tools]
    return Agent(chat_generator=Scripted(*steps), tools=made, **options)


def replies(result: dict[str, Any], steps: Sequence[Sequence[Call]]) -> list[Reply]:
    """What the model was told about each call. An id that stands twice is answered twice, in order."""
    said = [message.tool_call_result for message in result["messages"] if message.tool_call_result]
    found = []
    for call in (call for step in steps for call in step):
        answer = next(answer for answer in said if answer.origin.id == call.id)
        said.remove(answer)
        found.append(Reply(str(answer.result), answer.error))
    return found


class Rewriting:
    """A hook that changes the arguments of tool calls."""

    def __init__(self, rewrite: Callable[[str, dict[str, Any]], dict[str, Any]]) -> None:
        self.rewrite = rewrite

    def run(self, state: Any) -> None:
        *before, last = state.data["messages"]
        calls = [
            ToolCall(tool_name=call.tool_name, arguments=self.rewrite(call.tool_name, call.arguments), id=call.id)
            for call in last.tool_calls
        ]
        state.data["messages"] = [*before, ChatMessage.from_assistant(tool_calls=calls)]
