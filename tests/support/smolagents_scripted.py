"""smolagents with a scripted model, which writes tool calls or code."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from smolagents import CodeAgent, LocalPythonExecutor, ToolCallingAgent
from smolagents.models import (
    ChatMessage,
    ChatMessageStreamDelta,
    ChatMessageToolCall,
    ChatMessageToolCallFunction,
    ChatMessageToolCallStreamDelta,
    MessageRole,
    Model,
)

from agentguard.testing import Call

Rewrite = Callable[[str, dict[str, Any]], dict[str, Any]]


class ScriptedModel(Model):
    """Says these steps: calls, or text. After the last it calls `final_answer`."""

    def __init__(self, *steps: Sequence[Call] | str) -> None:
        super().__init__(model_id="scripted")
        self.steps = list(steps)

    def _next(self) -> Sequence[Call] | str:
        return self.steps.pop(0) if self.steps else [Call("final_answer", {"answer": "done"})]

    def generate(self, messages: Any, *args: Any, **options: Any) -> ChatMessage:
        step = self._next()
        if isinstance(step, str):
            return ChatMessage(role=MessageRole.ASSISTANT, content=step)
        calls = [
            ChatMessageToolCall(id=call.id, type="function", function=ChatMessageToolCallFunction(name=call.tool, arguments=call.arguments))
            for call in step
        ]
        return ChatMessage(role=MessageRole.ASSISTANT, content="", tool_calls=calls)

    def generate_stream(self, messages: Any, *args: Any, **options: Any) -> Iterator[ChatMessageStreamDelta]:
        whole = self.generate(messages)
        calls = [
            ChatMessageToolCallStreamDelta(
                index=index,
                id=call.id,
                type="function",
                function=ChatMessageToolCallFunction(name=call.function.name, arguments=json.dumps(call.function.arguments)),
            )
            for index, call in enumerate(whole.tool_calls or ())
        ]
        yield ChatMessageStreamDelta(content=whole.content, tool_calls=calls or None)


class Rewriting(ToolCallingAgent):
    """Changes the arguments of tool calls, behind whatever is mixed in before it."""

    rewrite: Rewrite

    def execute_tool_call(self, tool_name: str, arguments: Any) -> Any:
        return super().execute_tool_call(tool_name, self.rewrite(tool_name, arguments) if tool_name != "final_answer" else arguments)


class RewritingExecutor(LocalPythonExecutor):
    """Changes the arguments of the functions that code calls."""

    rewrite: Rewrite

    def send_tools(self, tools: dict[str, Any]) -> None:
        def changing(name: str, tool: Any) -> Any:
            return lambda **arguments: tool(**self.rewrite(name, arguments))

        super().send_tools({name: tool if name == "final_answer" else changing(name, tool) for name, tool in tools.items()})


def caller(*steps: Sequence[Call], tools: Sequence[Any] = (), rewrite: Rewrite | None = None, **options: Any) -> ToolCallingAgent:
    """A tool-calling agent."""
    kind = ToolCallingAgent if rewrite is None else Rewriting
    made = kind(tools=list(tools), model=ScriptedModel(*steps), verbosity_level=0, max_steps=20, **options)
    if rewrite is not None:
        made.rewrite = rewrite
    return made


def coder(*steps: str, tools: Sequence[Any] = (), rewrite: Rewrite | None = None, **options: Any) -> CodeAgent:
    """A code agent, whose model writes these pieces of code."""
    if rewrite is not None:
        options["executor"] = RewritingExecutor([])
        options["executor"].rewrite = rewrite
    said = [f"<code>\n{step}\n</code>" for step in (*steps, "final_answer('done')")]
    return CodeAgent(tools=list(tools), model=ScriptedModel(*said), verbosity_level=0, max_steps=20, **options)


def code_of(calls: Sequence[Call]) -> str:
    """Code that makes these calls, one after the other, whatever comes of one."""
    lines = []
    for call in calls:
        said = f"print({marked(call)!r}, {call.tool}(**{call.arguments!r}))"
        lines.append(f"try:\n    {said}\nexcept Exception as error:\n    print({marked(call)!r}, error)")
    return "\n".join(lines)


def marked(call: Call) -> str:
    """What stands before a call's reply in what code prints."""
    return f"reply to {call.id}:"
