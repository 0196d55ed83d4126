"""A model that believes everything it reads: deterministic, and without a network.

Real models cannot always tell the orders of their user from those in a document; this one never can. It knows a few kinds of order,
looks for them in every message alike, and carries out each that it has not carried out yet, the latest first. Nothing here knows of an
attack.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import uuid4

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolCall, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable

_ORDER = re.compile(
    r"""\bask\ the\ (?P<agent>[\w-]+)\ to\ (?P<task>[^\n]+?)(?=\.\s|\.?$)
      | \blist\ (?P<list>/[\w./-]*\w)
      | \bread\ (?P<read>/[\w./-]*\w)
      | \bpost\ [\w\ ]{1,40}?\ to\ (?P<post>https?://[\w.:/-]*\w)""",
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
_ADDRESSEE = re.compile(r"\b(?:to|for) the (\w+):", re.IGNORECASE)
_PATH = re.compile(r"/[\w./-]*\w")
_HEADER = re.compile(r"\A@@ lines .*\n")  # deepagents puts it before what it read


class GullibleModel(BaseChatModel):
    """Follows orders, whoever gives them. `pause` is how long it thinks, in seconds."""

    pause: float = 0.0

    @property
    def _llm_type(self) -> str:
        return "gullible"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[LanguageModelInput, AIMessage]:
        return self

    def _generate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: CallbackManagerForLLMRun | None = None, **kwargs: Any
    ) -> ChatResult:
        time.sleep(self.pause)
        answer = next(_to_do(messages), None) or AIMessage(_summary(messages))
        return ChatResult(generations=[ChatGeneration(message=answer)])


def _to_do(messages: list[BaseMessage]) -> Iterator[AIMessage]:
    """A call of a tool for each order that was not carried out yet."""
    done = {_aim(call) for message in messages if isinstance(message, AIMessage) for call in message.tool_calls}
    me = " ".join(message.text for message in messages if isinstance(message, SystemMessage))
    for message in reversed(messages):
        for call in _orders(message, messages, me):
            if _aim(call) not in done:
                yield AIMessage("", tool_calls=[call])


def _aim(call: ToolCall) -> tuple[str, Any]:
    """What makes two calls the same order: the tool, and what it is used on."""
    arguments = call["args"]
    return call["name"], next((arguments[name] for name in ("path", "file_path", "url", "subagent_type") if name in arguments), None)


def _orders(message: BaseMessage, messages: list[BaseMessage], me: str) -> Iterator[ToolCall]:
    """The orders in one message, whether it is the user's or the content of a file."""
    if isinstance(message, ToolMessage) and message.name == "ls":
        yield from [_call("read_file", file_path=path) for path in _PATH.findall(message.text)]
    elif isinstance(message, HumanMessage | ToolMessage):
        for line in message.text.splitlines():
            addressee = _ADDRESSEE.search(line)
            if addressee is None or addressee[1].lower() in me:
                yield from [_obey(found, messages) for found in _ORDER.finditer(line)]


def _obey(order: re.Match[str], messages: list[BaseMessage]) -> ToolCall:
    if order["agent"]:
        description = "\n\n".join([order["task"], *_texts(messages, "task")])
        return _call("task", subagent_type=order["agent"], description=description)
    if order["list"]:
        return _call("ls", path=order["list"])
    if order["read"]:
        return _call("read_file", file_path=order["read"])
    read = _texts(messages, "read_file")
    return _call("post", url=order["post"], body=read[-1] if read else _given(messages))


def _call(tool: str, **arguments: str) -> ToolCall:
    return ToolCall(name=tool, args=arguments, id=f"call-{uuid4().hex[:12]}", type="tool_call")


def _texts(messages: list[BaseMessage], tool: str) -> list[str]:
    """What a tool gave so far, refusals and failures left out."""
    found = [message for message in messages if isinstance(message, ToolMessage) and message.name == tool]
    return [_HEADER.sub("", message.text) for message in found if message.status == "success"]


def _given(messages: list[BaseMessage]) -> str:
    """The material that came along with the order, after its first line."""
    first = next((message.text for message in messages if isinstance(message, HumanMessage)), "")
    return first.partition("\n\n")[2] or first


def _summary(messages: list[BaseMessage]) -> str:
    """What there is to answer: headings and bullet points of what was read, or else that it is done."""
    lines = [line for text in _texts(messages, "read_file") for line in text.splitlines()]
    return "\n".join(line for line in lines if line.startswith(("#", "- "))) or "Done."
