"""The application: three agents read a company's documents and publish a report. One line of it is agentguard's.

Without that line everything runs as before, only nobody asks whether it may. The tools are the framework's own and a plain function, and
all agents have all of them, as deepagents has it by default.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from deepagents import SubAgent, create_deep_agent
from deepagents.backends import FilesystemBackend
from langchain.agents.middleware import AgentMiddleware, ModelCallLimitMiddleware
from langchain_core.language_models import BaseChatModel

from agentguard import Guard
from agentguard_adapters.langchain import GuardMiddleware

Middleware = list[AgentMiddleware[Any, Any]]


def post(url: str, body: str) -> str:
    """Post a text to a URL."""
    answer = httpx.post(url, content=body, timeout=10, trust_env=False)
    return f"{answer.status_code} {answer.reason_phrase}"


def middleware(guard: Guard, agent: str) -> Middleware:
    """What stands around each agent."""
    layers: Middleware = [ModelCallLimitMiddleware(run_limit=40)]
    layers.append(GuardMiddleware(guard, agent=agent))  # this line is agentguard
    return layers


def build(guard: Guard, model: BaseChatModel, files: Path) -> Any:
    """An orchestrator with two sub-agents, over a directory of files."""
    researcher: SubAgent = {
        "name": "researcher",
        "description": "Reads files and sums them up.",
        "system_prompt": "You are the researcher. You read files, and answer with a summary of what they say.",
        "middleware": middleware(guard, "researcher"),
    }
    writer: SubAgent = {
        "name": "writer",
        "description": "Publishes reports.",
        "system_prompt": "You are the writer. You publish the report that you are given.",
        "middleware": middleware(guard, "writer"),
    }
    return create_deep_agent(
        model,
        tools=[post],
        system_prompt="You are the orchestrator. You give each part of the work to the sub-agent that it suits.",
        subagents=[researcher, writer],
        middleware=middleware(guard, "orchestrator"),
        backend=FilesystemBackend(files, virtual_mode=True),
        name="orchestrator",
    )


def run(guard: Guard, model: BaseChatModel, files: Path, order: str, watch: Callable[[Any], None]) -> None:
    """Carry out Alice's order; `watch` sees each step of each agent."""
    agent = build(guard, model, files)
    with guard.task("orchestrator", initiator="user:alice", trusted_input=order):
        for _, step in agent.stream({"messages": [("user", order)]}, stream_mode="updates", subgraphs=True):
            watch(step)
