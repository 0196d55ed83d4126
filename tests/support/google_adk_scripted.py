"""Google ADK agents with a scripted model."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

from google.adk.agents import LlmAgent
from google.adk.agents.live_request_queue import LiveRequestQueue
from google.adk.agents.run_config import RunConfig, StreamingMode
from google.adk.apps import App
from google.adk.models.base_llm import BaseLlm
from google.adk.models.base_llm_connection import BaseLlmConnection
from google.adk.models.llm_response import LlmResponse
from google.adk.runners import InMemoryRunner
from google.genai import types

from agentguard import Denied
from agentguard.testing import Call, Mode, Reply

GO = types.Content(role="user", parts=[types.Part(text="go")])


class ScriptedModel(BaseLlm):
    """Makes these calls, step by step, and says "done" from then on."""

    model: str = "scripted"
    steps: list[list[Call]]

    async def generate_content_async(self, llm_request: Any, stream: bool = False) -> AsyncGenerator[LlmResponse, None]:
        parts = [part(call) for call in self.steps.pop(0)] if self.steps else [types.Part(text="done")]
        yield LlmResponse(content=types.Content(role="model", parts=parts), partial=False if stream else None)


def part(call: Call) -> types.Part:
    """A call as ADK writes it."""
    return types.Part(function_call=types.FunctionCall(id=call.id, name=call.tool, args=dict(call.arguments)))


def agent(name: str, tools: Sequence[Any], *steps: Sequence[Call], model_name: str = "scripted", **options: Any) -> LlmAgent:
    """An agent whose model makes these calls."""
    model = ScriptedModel(model=model_name, steps=[list(calls) for calls in steps])
    return LlmAgent(name=name, description=name, model=model, tools=list(tools), **options)


def runner_of(root: Any, *plugins: Any, **options: Any) -> InMemoryRunner:
    """A runner over memory."""
    runner = InMemoryRunner(app=App(name="tests", root_agent=root, plugins=list(plugins), **options))
    runner.auto_create_session = True
    return runner


class Conversation:
    """One session of a runner."""

    def __init__(self, runner: InMemoryRunner, mode: Mode = "async") -> None:
        self.runner = runner
        self.options: dict[str, Any] = {"user_id": "user", "session_id": "session"}
        self.options["run_config"] = RunConfig(streaming_mode=StreamingMode.SSE if "stream" in mode else StreamingMode.NONE)

    def say(self, message: types.Content = GO) -> list[Any]:
        """What comes back, asked synchronously."""
        with chained():
            return list(self.runner.run(new_message=message, **self.options))

    async def asay(self, message: types.Content = GO) -> list[Any]:
        with chained():
            return [event async for event in self.runner.run_async(new_message=message, **self.options)]


@contextlib.contextmanager
def chained() -> Any:
    """What ADK chains to an exception of its own, as itself."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error.__cause__, Denied):
            raise error.__cause__ from error
        raise


def replies(events: Sequence[Any], steps: Sequence[Sequence[Call]]) -> list[Reply]:
    """What the model was told about each call. An id that stands twice is answered twice, in order."""
    said = [response for event in events for response in event.get_function_responses()]
    found = []
    for call in (call for step in steps for call in step):
        response = next(response for response in said if response.id == call.id)
        said.remove(response)
        answer = response.response or {}
        found.append(Reply(str(answer.get("error", answer.get("result", answer))), "error" in answer))
    return found


def rewriting(rewrite: Callable[[str, dict[str, Any]], dict[str, Any]]) -> Callable[..., None]:
    """A callback of an agent that changes the arguments of tool calls, behind every plugin."""

    def before_tool(tool: Any, args: dict[str, Any], tool_context: Any) -> None:
        changed = rewrite(tool.name, args)
        if changed is not args:
            args.clear()
            args.update(changed)

    return before_tool


class LiveConnection(BaseLlmConnection):
    """A live connection whose model makes these calls once it hears something, and hears the answers."""

    def __init__(self, calls: list[Call]) -> None:
        self.calls, self.asked, self.heard = calls, asyncio.Event(), asyncio.Queue[types.Content]()

    async def send_history(self, history: Any) -> None: ...

    async def send_realtime(self, blob: Any) -> None: ...

    async def send_content(self, content: types.Content) -> None:
        self.asked.set()
        await self.heard.put(content)

    async def receive(self) -> AsyncGenerator[LlmResponse, None]:
        await self.asked.wait()
        yield LlmResponse(content=types.Content(role="model", parts=[part(call) for call in self.calls]))
        await asyncio.sleep(60)

    async def close(self) -> None: ...


async def live_run(runner: InMemoryRunner, answers: int) -> list[str]:
    """One live session of an agent whose model makes the calls of its first step: the first so many answers that it hears."""
    (calls,) = runner.agent.model.steps  # type: ignore[union-attr]
    connection, queue = LiveConnection(calls), LiveRequestQueue()

    @contextlib.asynccontextmanager
    async def connect(llm_request: Any) -> AsyncGenerator[LiveConnection, None]:
        yield connection

    object.__setattr__(runner.agent.model, "connect", connect)  # type: ignore[union-attr]
    events = runner.run_live(user_id="user", session_id="session", live_request_queue=queue)
    queue.send_content(GO)

    async def listen() -> None:
        async for _ in events:
            pass

    session = asyncio.create_task(listen())
    told: list[str] = []
    try:
        while len(told) < answers:
            content = await asyncio.wait_for(connection.heard.get(), 20)
            told += [str(one.function_response.response) for one in content.parts or () if one.function_response is not None]
    finally:
        queue.close()
        session.cancel()
        await asyncio.gather(session, return_exceptions=True)
    return told
