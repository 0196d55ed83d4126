"""Claude Agent SDK (0.2.187): every tool call of a session passes the guard, those of its sub-agents too.

    async for message in query(guard, prompt="...", options=options, agent="triage"): ...
    async with GuardedClient(guard, options, agent="triage") as client: ...

Either takes the options as they are, and puts two hooks in (`guard_options`). The program asks the first one, PreToolUse, before every
tool call; it answers "ask", which stands above every rule and mode that would allow. So the program asks the second one, `can_use_tool`,
with the input that will run, after every other hook: there the decision falls. The tool then runs in that program, and PostToolUse tells
how it went.

Tools that run in this process get a stand-in of their own: `mcp_servers={"notes": guard_server(guard, "notes", [tool, ...])}`.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from contextlib import aclosing
from contextvars import copy_context
from typing import Any

from agentguard import Guard
from agentguard.task import Task
from agentguard_adapters.stand_in import OnDeny
from agentguard_adapters.versions import needs

with needs("claude-agent-sdk", "0.2.187"):
    import claude_agent_sdk as sdk
    from claude_agent_sdk import ClaudeAgentOptions, ClaudeSDKClient, Message, Transport

    from agentguard_adapters.claude_agent_server import guard_server
    from agentguard_adapters.claude_agent_session import Session

__all__ = ["GuardedClient", "guard_options", "guard_server", "query"]


def guard_options(guard: Guard, options: ClaudeAgentOptions | None = None, *, agent: str, task: Task | None = None) -> ClaudeAgentOptions:
    """The options with the guard's hooks in them: for code of one's own that starts sessions from options. Denials go to the model.

    agent   the session's name in the policy; a sub-agent has the name of its definition
    task    the authority; by default the task that is current when the session connects

    Raises InvalidInput where the options have a PermissionRequest hook, which could answer in the guard's place.
    """
    return Session(guard, agent, task, "message").options(options)


async def query(
    guard: Guard,
    *,
    prompt: str | AsyncIterable[dict[str, Any]],
    options: ClaudeAgentOptions | None = None,
    agent: str,
    task: Task | None = None,
    on_deny: OnDeny = "message",
    transport: Transport | None = None,
) -> AsyncIterator[Message]:
    """The SDK's `query`, guarded.

    agent, task   as in `guard_options`
    on_deny       "message": the model is told, and goes on; "raise": the session ends with Denied
    """
    session = Session(guard, agent, task, on_deny)
    messages: Any = sdk.query(prompt=prompt, options=session.options(options), transport=transport)
    try:
        async with aclosing(messages):
            async for message in messages:
                session.end_if_denied()
                yield message
        session.end_if_denied()
    finally:
        await session.runs.close()


class GuardedClient(ClaudeSDKClient):
    """The SDK's client, guarded. Each `query` runs under the task that is current where it is called; the rest is as in `query` above."""

    def __init__(
        self,
        guard: Guard,
        options: ClaudeAgentOptions | None = None,
        transport: Transport | None = None,
        *,
        agent: str,
        task: Task | None = None,
        on_deny: OnDeny = "message",
    ) -> None:
        self._session = Session(guard, agent, task, on_deny)
        super().__init__(self._session.options(options), transport)

    async def connect(self, prompt: str | AsyncIterable[dict[str, Any]] | None = None) -> None:
        self._session.context = copy_context()
        await super().connect(prompt)

    async def query(self, prompt: str | AsyncIterable[dict[str, Any]], session_id: str = "default") -> None:
        self._session.context = copy_context()
        await super().query(prompt, session_id)

    async def disconnect(self) -> None:
        await super().disconnect()
        await self._session.runs.close()

    async def receive_messages(self) -> AsyncIterator[Message]:
        async for message in super().receive_messages():
            self._session.end_if_denied()
            yield message
        self._session.end_if_denied()
