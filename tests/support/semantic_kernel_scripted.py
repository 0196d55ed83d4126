"""Semantic Kernel agents with a scripted model: shared by the tests of its adapter."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, ClassVar

from pydantic import Field
from semantic_kernel import Kernel
from semantic_kernel.agents import ChatCompletionAgent
from semantic_kernel.connectors.ai.chat_completion_client_base import ChatCompletionClientBase
from semantic_kernel.connectors.ai.function_choice_behavior import FunctionChoiceBehavior
from semantic_kernel.connectors.ai.prompt_execution_settings import PromptExecutionSettings
from semantic_kernel.contents import (
    AuthorRole,
    ChatHistory,
    ChatMessageContent,
    FunctionCallContent,
    FunctionResultContent,
    StreamingChatMessageContent,
    StreamingTextContent,
    TextContent,
)
from semantic_kernel.functions import kernel_function

from agentguard.testing import Call, Reply

Rewrite = Callable[[str, dict[str, Any]], dict[str, Any]]


class ScriptedService(ChatCompletionClientBase):
    """Makes these calls, step by step, and says "done" from then on. `told` is the history that it saw last."""

    SUPPORTS_FUNCTION_CALLING: ClassVar[bool] = True
    steps: list[list[Any]]
    told: list[Any] = Field(default_factory=list)

    def get_prompt_execution_settings_class(self) -> type[PromptExecutionSettings]:
        return PromptExecutionSettings

    async def _inner_get_chat_message_contents(self, chat_history: ChatHistory, settings: Any) -> list[ChatMessageContent]:
        return [ChatMessageContent(role=AuthorRole.ASSISTANT, items=self._next(chat_history) or [TextContent(text="done")])]

    async def _inner_get_streaming_chat_message_contents(
        self, chat_history: ChatHistory, settings: Any, function_invoke_attempt: int = 0
    ) -> AsyncIterator[list[StreamingChatMessageContent]]:
        items = self._next(chat_history) or [StreamingTextContent(text="done", choice_index=0)]
        yield [StreamingChatMessageContent(role=AuthorRole.ASSISTANT, items=items, choice_index=0)]

    def _next(self, chat_history: ChatHistory) -> list[Any]:
        self.told = list(chat_history.messages)
        return self.steps.pop(0) if self.steps else []

    def _update_function_choice_settings_callback(self) -> Any:
        return lambda *args, **options: None

    def _reset_function_choice_settings(self, settings: Any) -> None: ...


def content(call: Call | FunctionCallContent, index: int) -> FunctionCallContent:
    """A call as Semantic Kernel writes it."""
    if isinstance(call, FunctionCallContent):
        return call
    return FunctionCallContent(id=call.id, index=index, name=call.tool, arguments=json.dumps(call.arguments))


def service(*steps: Sequence[Call | FunctionCallContent]) -> ScriptedService:
    written = [[content(call, index) for index, call in enumerate(calls)] for calls in steps]
    return ScriptedService(ai_model_id="scripted", steps=written)


def kernel_of(functions: Iterable[Callable[..., Any]]) -> Kernel:
    """A kernel with one plugin of these functions."""
    kernel = Kernel()
    for function in functions:
        kernel.add_function(
            "desk", function if hasattr(function, "__kernel_function__") else kernel_function(name=function.__name__)(function)
        )
    return kernel


def scripted(name: str, *steps: Sequence[Call | FunctionCallContent], **options: Any) -> ChatCompletionAgent:
    """An agent with a scripted model."""
    behavior = FunctionChoiceBehavior.Auto(maximum_auto_invoke_attempts=len(steps) + 1)
    return ChatCompletionAgent(service=service(*steps), name=name, function_choice_behavior=behavior, **options)


def replies(messages: Iterable[Any], steps: Iterable[Sequence[Call | FunctionCallContent]]) -> list[Reply]:
    """What the model was told about each call. An id that stands twice is answered twice, in order."""
    said = [item for message in messages for item in message.items if isinstance(item, FunctionResultContent)]
    found = []
    for call in (call for step in steps for call in step):
        item = next(item for item in said if item.id == call.id)
        said.remove(item)
        found.append(Reply(str(item.result)))
    return found
