"""An A2A server and client in memory, for with_a2a.py: nothing here knows of the guard."""

from __future__ import annotations

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

CARD = AgentCard(
    name="writer",
    description="Writes down what it is told.",
    version="1",
    supported_interfaces=[AgentInterface(url="http://writer.test/", protocol_binding="JSONRPC", protocol_version="1.0")],
    capabilities=AgentCapabilities(streaming=False),
    default_input_modes=["text"],
    default_output_modes=["text"],
)


class Agent(AgentExecutor):
    """An agent whose model is a function from what it hears to the calls that it makes, and whose tools are given by name."""

    def __init__(self, model: Any, tools: dict[str, Any]) -> None:
        self.model, self.tools = model, tools

    async def execute(self, context: Any, event_queue: Any) -> None:
        for name, arguments in self.model(context.get_user_input()):
            print(f"{name}:", self.tools[name](**arguments))
        await event_queue.enqueue_event(said("written", Role.ROLE_AGENT))

    async def cancel(self, context: Any, event_queue: Any) -> None:
        return


def said(text: str, role: Any) -> Message:
    return Message(message_id=uuid4().hex, role=role, parts=[Part(text=text)])


async def ask(text: str, card: AgentCard, executor: AgentExecutor, interceptors: list[Any]) -> str:
    """Send a message to the agent of a card, and give what it answers."""
    handler = DefaultRequestHandler(agent_executor=executor, task_store=InMemoryTaskStore(), agent_card=card)
    transport = httpx.ASGITransport(app=Starlette(routes=create_jsonrpc_routes(handler, rpc_url="/")))
    async with httpx.AsyncClient(transport=transport) as http:
        client = ClientFactory(ClientConfig(httpx_client=http, streaming=False)).create(card, interceptors=interceptors)
        events = [event async for event in client.send_message(SendMessageRequest(message=said(text, Role.ROLE_USER)))]
    return str(events[-1].message.parts[0].text)
