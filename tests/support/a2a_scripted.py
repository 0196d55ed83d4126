"""An A2A agent whose model makes scripted calls, on a server in memory: the message that it is sent is the script."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

import httpx
from a2a.client import ClientConfig, ClientFactory
from a2a.server.agent_execution import AgentExecutor
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_jsonrpc_routes
from a2a.server.tasks import InMemoryTaskStore
from a2a.types import AgentCapabilities, AgentCard, AgentInterface, Message, Part, Role, SendMessageRequest
from starlette.applications import Starlette

from agentguard import Denied, Guard
from agentguard.testing import Call, Reply
from agentguard_adapters.stand_in import OnDeny, asking, stand_in

Rewrite = Callable[[str, dict[str, Any]], dict[str, Any]]


class Scripted(AgentExecutor):
    """Makes the calls of a message, and answers with what its tools said. Its tools are stand-ins, where there is a guard."""

    def __init__(
        self,
        guard: Guard | None,
        agent: str,
        tools: Sequence[Callable[..., Any]],
        *,
        on_deny: OnDeny = "message",
        rewrite: Rewrite | None = None,
    ) -> None:
        self.agent, self.rewrite = agent, rewrite
        self.tools = {tool.__name__: stand_in(guard, tool, agent=agent, on_deny=on_deny) if guard else tool for tool in tools}
        self.heard: list[str] = []
        self.raised: list[Exception] = []
        self.running: asyncio.Task[Any] | None = None

    async def execute(self, context: Any, event_queue: Any) -> None:
        self.heard.append(context.get_user_input())
        self.running = asyncio.current_task()
        said: list[str] = []
        for step in json.loads(context.get_user_input()):
            try:
                said += await asyncio.gather(*[self._call(*call) for call in step])
            except Exception as error:
                self.raised.append(error)
                raise
        await event_queue.enqueue_event(message(json.dumps(said), role=Role.ROLE_AGENT))

    async def cancel(self, context: Any, event_queue: Any) -> None:
        self.heard.append("cancel")

    async def _call(self, name: str, arguments: dict[str, Any], call_id: str) -> str:
        tool = self.tools.get(name)
        if tool is None:
            return f"no tool {name}"
        try:
            with asking(self.agent, name, call_id, arguments):
                result = tool(**(self.rewrite(name, arguments) if self.rewrite is not None else arguments))
                return str(await result if asyncio.iscoroutine(result) else result)
        except TypeError as error:
            return str(error)


def script(steps: Sequence[Sequence[Call]]) -> str:
    """A script as the text of a message."""
    return json.dumps([[[call.tool, call.arguments, call.id] for call in step] for step in steps])


def message(text: str, *, role: Any = Role.ROLE_USER) -> Message:
    return Message(message_id=uuid4().hex, role=role, parts=[Part(text=text)])


def card_of(name: str, *, streaming: bool = False) -> AgentCard:
    """A card for a server that is reached in memory."""
    return AgentCard(
        name=name,
        description="scripted",
        version="1",
        supported_interfaces=[AgentInterface(url="http://test/rpc", protocol_binding="JSONRPC", protocol_version="1.0")],
        capabilities=AgentCapabilities(streaming=streaming),
        default_input_modes=["text"],
        default_output_modes=["text"],
    )


def handler_of(executor: AgentExecutor, card: AgentCard) -> DefaultRequestHandler:
    return DefaultRequestHandler(agent_executor=executor, task_store=InMemoryTaskStore(), agent_card=card)


async def send(handler: Any, card: AgentCard, sent: Message, *interceptors: Any, streaming: bool = False) -> list[str]:
    """What the agent answers to a message: the text of each message that comes."""
    app = Starlette(routes=create_jsonrpc_routes(handler, rpc_url="/rpc"))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test", timeout=30) as http:
        client = ClientFactory(ClientConfig(httpx_client=http, streaming=streaming)).create(card, interceptors=list(interceptors))
        return [event.message.parts[0].text async for event in client.send_message(SendMessageRequest(message=sent)) if event.message.parts]


async def ending_with_its_sender(executor: Scripted, sending: Any) -> Any:
    """Await what is sent. If its sender is cancelled, so is the agent, as the server would on a request to cancel: by itself an A2A agent
    goes on whether its sender waits or not.
    """
    work = asyncio.ensure_future(sending)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        if executor.running is not None:
            executor.running.cancel()
        await asyncio.wait([work], timeout=1)
        work.cancel()
        raise


def replies(texts: Sequence[str]) -> list[Reply]:
    """The answer of a scripted agent, or what was told in its place."""
    (text,) = texts
    try:
        return [Reply(said, said.startswith("Denied")) for said in json.loads(text)]
    except ValueError:
        return [Reply(text, True)]


def denial_in(error: BaseException, seen: Sequence[Exception]) -> Denied | None:
    """The denial that ended a run, of which only words come over the wire."""
    return next((one for one in (*seen, error) if isinstance(one, Denied)), None)
