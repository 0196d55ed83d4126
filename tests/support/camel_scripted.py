"""CAMEL agents with a scripted model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from camel.agents import ChatAgent
from camel.models.stub_model import StubModel
from camel.toolkits import FunctionTool
from camel.types import ModelType
from openai import AsyncStream, Stream
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from agentguard.testing import Call, Reply

Rewrite = Callable[[str, dict[str, Any]], dict[str, Any]]


class ScriptedModel(StubModel):
    """Makes these calls, step by step, and says "done" from then on: at once, or in a stream."""

    def __init__(self, *steps: Sequence[Call], stream: bool = False) -> None:
        super().__init__(ModelType.STUB)
        self.steps = [list(step) for step in steps]
        self.model_config_dict = {**(self.model_config_dict or {}), "stream": stream}

    def _run(self, *args: Any, **options: Any) -> Any:
        calls = self.steps.pop(0) if self.steps else []
        return _Chunks(calls) if self.model_config_dict["stream"] else _whole(calls)

    async def _arun(self, *args: Any, **options: Any) -> Any:
        calls = self.steps.pop(0) if self.steps else []
        return _AsyncChunks(calls) if self.model_config_dict["stream"] else _whole(calls)


class _Chunks(Stream[Any]):
    def __init__(self, calls: Sequence[Call]) -> None:
        self._chunks = iter(_pieces(calls))

    def __iter__(self) -> Any:
        return self._chunks

    def __next__(self) -> Any:
        return next(self._chunks)


class _AsyncChunks(AsyncStream[Any]):
    def __init__(self, calls: Sequence[Call]) -> None:
        self._chunks = iter(_pieces(calls))

    def __aiter__(self) -> Any:
        return self

    async def __anext__(self) -> Any:
        for chunk in self._chunks:
            return chunk
        raise StopAsyncIteration


def _whole(calls: Sequence[Call]) -> ChatCompletion:
    message: dict[str, Any] = {"role": "assistant", "content": None if calls else "done"}
    if calls:
        message["tool_calls"] = [_call(call) for call in calls]
    choice = {"index": 0, "finish_reason": "tool_calls" if calls else "stop", "message": message}
    usage = {"completion_tokens": 1, "prompt_tokens": 1, "total_tokens": 2}
    return ChatCompletion.model_validate(
        {"id": "1", "model": "scripted", "object": "chat.completion", "created": 1, "choices": [choice], "usage": usage}
    )


def _pieces(calls: Sequence[Call]) -> list[ChatCompletionChunk]:
    said: dict[str, Any] = {"role": "assistant", "content": None if calls else "done"}
    if calls:
        said["tool_calls"] = [{"index": index, **_call(call)} for index, call in enumerate(calls)]
    deltas = [(said, None), ({}, "tool_calls" if calls else "stop")]
    return [
        ChatCompletionChunk.model_validate(
            {
                "id": "1",
                "model": "scripted",
                "object": "chat.completion.chunk",
                "created": 1,
                "choices": [{"index": 0, "delta": delta, "finish_reason": reason}],
            }
        )
        for delta, reason in deltas
    ]


def _call(call: Call) -> dict[str, Any]:
    arguments = call.arguments["raw"] if list(call.arguments) == ["raw"] else json.dumps(call.arguments)
    return {"id": call.id, "type": "function", "function": {"name": call.tool, "arguments": arguments}}


class Rewriting(ChatAgent):
    """Changes the arguments of tool calls, behind whatever class is made of it."""

    rewrite: Rewrite

    def _execute_tool(self, request: Any) -> Any:
        request.args = self.rewrite(request.tool_name, request.args)
        return super()._execute_tool(request)

    async def _aexecute_tool(self, request: Any) -> Any:
        request.args = self.rewrite(request.tool_name, request.args)
        return await super()._aexecute_tool(request)

    def _execute_tool_from_stream_data(self, data: Any) -> Any:
        return super()._execute_tool_from_stream_data(self._changed(data))

    async def _aexecute_tool_from_stream_data(self, data: Any) -> Any:
        return await super()._aexecute_tool_from_stream_data(self._changed(data))

    def _changed(self, data: Any) -> Any:
        name, arguments = data["function"]["name"], json.loads(data["function"]["arguments"])
        return {**data, "function": {"name": name, "arguments": json.dumps(self.rewrite(name, arguments))}}


def agent_of(
    *steps: Sequence[Call], tools: Sequence[Any] = (), stream: bool = False, rewrite: Rewrite | None = None, **options: Any
) -> Any:
    """An agent."""
    made = [tool if isinstance(tool, FunctionTool) else FunctionTool(tool) for tool in tools]
    kind = ChatAgent if rewrite is None else Rewriting
    agent = kind("You help.", model=ScriptedModel(*steps, stream=stream), tools=made, **options)
    if rewrite is not None:
        agent.rewrite = rewrite
    return agent


def told(agent: ChatAgent) -> list[tuple[str, str]]:
    """What the model was told: the id of each call, and the reply."""
    messages, _ = agent.memory.get_context()
    return [(str(one["tool_call_id"]), str(one["content"])) for one in messages if one["role"] == "tool"]


def replies(agent: ChatAgent, steps: Sequence[Sequence[Call]]) -> list[Reply]:
    """One for each call, in order. An id that stands twice is answered twice."""
    said, found = told(agent), []
    for call in (call for step in steps for call in step):
        one = next(one for one in said if one[0] == call.id)
        said.remove(one)
        found.append(Reply(one[1]))
    return found
