"""AutoGen agents with a scripted model: shared by the tests of its adapter."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.messages import ToolCallExecutionEvent
from autogen_core import FunctionCall
from autogen_core.code_executor import CodeExecutor
from autogen_core.models import ChatCompletionClient, CreateResult, ModelInfo, RequestUsage
from autogen_core.tools import FunctionTool, StaticStreamWorkbench, TextResultContent, ToolResult, Workbench

from agentguard.testing import Call, Reply

Rewrite = Callable[[str, dict[str, Any]], dict[str, Any]]


class ScriptedModel(ChatCompletionClient):
    """Makes these calls, step by step, and says "done" from then on. `heard` is what it was shown last."""

    component_type = "model"

    def __init__(self, *steps: Sequence[Call | FunctionCall]) -> None:
        self._steps = [list(map(function_call, calls)) for calls in steps]
        self.heard: Sequence[Any] = ()

    async def create(self, messages: Sequence[Any], **options: Any) -> CreateResult:
        self.heard = messages
        content: Any = self._steps.pop(0) if self._steps else "done"
        usage = RequestUsage(prompt_tokens=1, completion_tokens=1)
        return CreateResult(finish_reason="stop" if content == "done" else "function_calls", content=content, usage=usage, cached=False)

    async def create_stream(self, messages: Sequence[Any], **options: Any) -> AsyncGenerator[CreateResult, None]:
        yield await self.create(messages)

    async def close(self) -> None: ...

    def actual_usage(self) -> RequestUsage:
        return RequestUsage(prompt_tokens=0, completion_tokens=0)

    total_usage = actual_usage

    def count_tokens(self, *args: Any, **options: Any) -> int:
        return 0

    remaining_tokens = count_tokens

    @property
    def model_info(self) -> ModelInfo:
        return ModelInfo(vision=False, function_calling=True, json_output=False, family="unknown", structured_output=False)

    capabilities = model_info


class RewritingWorkbench(StaticStreamWorkbench):
    """Changes the arguments of tool calls."""

    def __init__(self, tools: Sequence[Callable[..., Any]], rewrite: Rewrite) -> None:
        super().__init__([FunctionTool(tool, description="") for tool in tools])
        self._rewrite = rewrite

    async def call_tool(self, name: str, arguments: Any = None, cancellation_token: Any = None, call_id: str | None = None) -> ToolResult:
        return await super().call_tool(name, self._rewrite(name, arguments), cancellation_token, call_id)

    async def call_tool_stream(
        self, name: str, arguments: Any = None, cancellation_token: Any = None, call_id: str | None = None
    ) -> AsyncGenerator[Any, None]:
        async for item in super().call_tool_stream(name, self._rewrite(name, arguments), cancellation_token, call_id):
            yield item


class HalfWorkbench(StaticStreamWorkbench):
    """Overrides one of the two ways to a tool, which is not the one that AssistantAgent takes."""

    async def call_tool(self, *args: Any, **options: Any) -> ToolResult:
        return await super().call_tool(*args, **options)


class Remote(Workbench):
    """A workbench over a tool that runs elsewhere, and keeps what it was sent."""

    def __init__(self, *, breaks: bool = False) -> None:
        self.schema: Any = {"name": "remote.pay", "parameters": {"type": "object", "properties": {"amount": {"type": "integer"}}}}
        self.got: list[Any] = []
        self._breaks = breaks

    async def list_tools(self) -> Any:
        return [self.schema]

    async def call_tool(self, name: str, arguments: Any = None, cancellation_token: Any = None, call_id: str | None = None) -> ToolResult:
        if self._breaks:
            raise OSError("the line is dead")
        self.got.append(arguments)
        return ToolResult(name=name, result=[TextResultContent(content=f"paid {arguments['amount']} elsewhere")])

    async def start(self) -> None: ...

    stop = reset = start

    async def save_state(self) -> Any:
        return {}

    async def load_state(self, state: Any) -> None: ...


class LocalExecutor(CodeExecutor):
    """Runs no code, for an agent that is never run."""

    async def execute_code_blocks(self, code_blocks: Any, cancellation_token: Any) -> Any:
        raise NotImplementedError("no test asks the scripted model for this")

    async def start(self) -> None: ...

    stop = restart = start


def function_call(call: Call | FunctionCall) -> FunctionCall:
    """A call as AutoGen writes it."""
    return FunctionCall(id=call.id, name=call.tool, arguments=json.dumps(call.arguments)) if isinstance(call, Call) else call


def scripted(name: str, *steps: Sequence[Call | FunctionCall], **options: Any) -> AssistantAgent:
    """An agent with a scripted model."""
    return AssistantAgent(name, ScriptedModel(*steps), max_tool_iterations=len(steps) + 1, **options)


def replies(messages: Sequence[Any]) -> list[Reply]:
    """What the model was told about each call, in order."""
    events = [message for message in messages if isinstance(message, ToolCallExecutionEvent)]
    return [Reply(result.content, bool(result.is_error)) for event in events for result in event.content]
