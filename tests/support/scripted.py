"""LangChain agents with a scripted model: shared by the tests of the adapters for LangChain, LangGraph and deepagents."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from langchain.agents.middleware import AgentMiddleware
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode

from agentguard.testing import Call, Reply

GO: dict[str, Any] = {"messages": [HumanMessage("go")]}
Rewrite = Callable[[str, dict[str, Any]], dict[str, Any]]


class ScriptedModel(GenericFakeChatModel):
    """Says what it was told to say, whatever tools it has."""

    def bind_tools(self, tools: Any, **options: Any) -> Any:
        return self


def scripted(*steps: Sequence[Call]) -> ScriptedModel:
    """A model that makes these calls, step by step, and says "done" from then on."""

    def messages() -> Iterator[AIMessage]:
        for calls in steps:
            yield AIMessage("", tool_calls=[tool_call(call) for call in calls])
        while True:
            yield AIMessage("done")

    return ScriptedModel(messages=messages())


def tool_call(call: Call) -> Any:
    """A call as LangChain writes it."""
    return {"type": "tool_call", "name": call.tool, "args": dict(call.arguments), "id": call.id}


def replies(messages: Sequence[BaseMessage], steps: Sequence[Sequence[Call]]) -> list[Reply]:
    """What the model was told about each call. An id that stands twice is answered twice, in order."""
    said = [message for message in messages if isinstance(message, ToolMessage)]
    found = []
    for call in (call for step in steps for call in step):
        message = next(message for message in said if message.tool_call_id == call.id)
        said.remove(message)
        found.append(Reply(str(message.content), message.status == "error"))
    return found


def graph_of(node: ToolNode, *steps: Sequence[Call]) -> Any:
    """A graph of a scripted model and a tool node."""
    model = scripted(*steps)
    builder = StateGraph(MessagesState)
    builder.add_node("model", lambda state: {"messages": [model.invoke(state["messages"])]})
    builder.add_node("tools", node)
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", lambda state: "tools" if state["messages"][-1].tool_calls else END, ["tools", END])
    builder.add_edge("tools", "model")
    return builder.compile()


class RewritingMiddleware(AgentMiddleware):
    """Changes the arguments of tool calls."""

    def __init__(self, rewrite: Rewrite) -> None:
        super().__init__()
        self._rewrite = rewrite

    def wrap_tool_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        return handler(self._changed(request))

    async def awrap_tool_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        return await handler(self._changed(request))

    def _changed(self, request: Any) -> Any:
        call = request.tool_call
        return request.override(tool_call={**call, "args": self._rewrite(call["name"], call["args"])})


class RewritingCallback(BaseCallbackHandler):
    """Changes, in place, the arguments that LangChain shows it when a tool starts."""

    run_inline = raise_error = True

    def __init__(self, rewrite: Rewrite) -> None:
        self._rewrite = rewrite

    def on_tool_start(self, serialized: dict[str, Any], input_str: str, *, inputs: Any = None, **kwargs: Any) -> None:
        inputs.update(self._rewrite(serialized["name"], inputs))
