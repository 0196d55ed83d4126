"""Agent Framework agents with a scripted model: shared by the tests of its adapter."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from agent_framework import (
    Agent,
    BaseChatClient,
    ChatMiddlewareLayer,
    ChatResponse,
    ChatResponseUpdate,
    Content,
    FunctionInvocationLayer,
    FunctionMiddleware,
    Message,
    ResponseStream,
)

from agentguard.testing import Call, Reply

Rewrite = Callable[[str, dict[str, Any]], dict[str, Any]]


class ScriptedClient(FunctionInvocationLayer, ChatMiddlewareLayer, BaseChatClient):  # type: ignore[type-arg]
    """Makes these calls, step by step, and says "done" from then on."""

    def __init__(self, *steps: Sequence[Call], **options: Any) -> None:
        super().__init__(**options)
        self._steps = [
            [Content.from_function_call(call.id, call.tool, arguments=dict(call.arguments)) for call in calls] for calls in steps
        ]

    def _inner_get_response(self, *, messages: Any, stream: bool, options: Any, **rest: Any) -> Any:
        contents = self._steps.pop(0) if self._steps else [Content.from_text("done")]

        async def updates() -> AsyncIterator[ChatResponseUpdate]:
            yield ChatResponseUpdate(role="assistant", contents=contents)

        async def response() -> ChatResponse:
            return ChatResponse(messages=[Message(role="assistant", contents=contents)])

        return ResponseStream(updates(), finalizer=ChatResponse.from_updates) if stream else response()


class RewritingMiddleware(FunctionMiddleware):
    """Changes the arguments of tool calls."""

    def __init__(self, rewrite: Rewrite) -> None:
        self._rewrite = rewrite

    async def process(self, context: Any, call_next: Any) -> None:
        context.arguments = self._rewrite(context.function.name, context.arguments)
        await call_next()


def scripted(name: str, *steps: Sequence[Call], **options: Any) -> Agent:
    """An agent with a scripted model."""
    return Agent(ScriptedClient(*steps), name=name, **options)


def replies(messages: Sequence[Any]) -> list[Reply]:
    """What came of each call, in order: what the model was told, and what the framework keeps beside it of an exception."""
    contents = [content for message in messages for content in message.contents if content.type == "function_result"]
    texts = [f"{content.result} [{content.exception}]" if content.exception else str(content.result) for content in contents]
    return [Reply(text, content.exception is not None) for text, content in zip(texts, contents, strict=True)]
