"""One session of the Claude Agent SDK: what its hooks answer the program."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context
from dataclasses import replace
from typing import Any

from claude_agent_sdk import ClaudeAgentOptions, HookMatcher, PermissionResultAllow, PermissionResultDeny

from agentguard import Code, Denied, Guard, InvalidInput, ToolCall
from agentguard.context import current_task
from agentguard.decision import Reason, Stage
from agentguard.enforcement import NOBODY
from agentguard.errors import OutcomeUnrecorded, OutputRefused
from agentguard.notice import say
from agentguard.permit import Permit
from agentguard.task import Task
from agentguard.tools.integrity import type_name
from agentguard_adapters.claude_agent_runs import Runs, ToolFailed
from agentguard_adapters.claude_agent_server import Announced, GuardedServer, guarded_servers
from agentguard_adapters.seats import seat
from agentguard_adapters.stand_in import OnDeny, told

_BROKEN = "Denied (guard_error): the guard failed, so nothing may run."


class Session:
    """The hooks of one session, and what they know of it.

    context   where the latest prompt came from; None: the hooks run in a copy of it themselves
    """

    def __init__(self, guard: Guard, agent: str, task: Task | None, on_deny: OnDeny) -> None:
        self.guard, self.agent, self.task, self.on_deny = guard, agent, task, on_deny
        self.context: Context | None = None
        self._given = ClaudeAgentOptions()
        self._servers: dict[str, tuple[GuardedServer, str]] = {}
        self._callers: dict[str, str] = {}
        self.runs = Runs()
        self._denied: Denied | None = None

    def options(self, given: ClaudeAgentOptions | None) -> ClaudeAgentOptions:
        """The options with the hooks in them. Raises InvalidInput where they hold a hook that answers in the guard's place."""
        self._given = given = given if given is not None else ClaudeAgentOptions()
        if (given.hooks or {}).get("PermissionRequest"):
            raise InvalidInput("a PermissionRequest hook could allow what the guard has not judged yet", hint="use can_use_tool instead")
        servers = given.mcp_servers if isinstance(given.mcp_servers, dict) else {}
        for key, config in servers.items():
            guarded = guarded_servers.get(config.get("instance")) if config.get("type") == "sdk" else None
            for tool in guarded.tools if guarded is not None else ():
                self._servers[f"mcp__{_wire(key)}__{_wire(tool)}"] = guarded, tool  # type: ignore[assignment]  # there, as it has tools
        hooks = {event: list(matchers) for event, matchers in (given.hooks or {}).items()}
        ours: tuple[tuple[Any, Callable[..., Awaitable[Any]]], ...] = (
            ("PreToolUse", self.before),
            ("PostToolUse", self.after),
            ("PostToolUseFailure", self.failed),
        )
        for event, hook in ours:  # without on_failure the program runs the tool where a hook breaks or is late
            hooks.setdefault(event, []).append(HookMatcher(matcher=None, hooks=[hook], on_failure="block"))
        return replace(given, hooks=hooks, can_use_tool=self.permit)

    def note(self, denied: Denied) -> None:
        """A call was denied."""
        if self.on_deny == "raise":
            self._denied = self._denied or denied

    def end_if_denied(self) -> None:
        """Raise the denial that ends the session, if there is one."""
        if self._denied is not None:
            raise self._denied

    # --- what the program asks ----------------------------------------------------------------------------------------------------

    async def before(self, data: Any, tool_use_id: str | None, context: Any) -> dict[str, Any]:
        """PreToolUse. A call of a guarded server is announced there; any other one is to be brought to `permit`."""
        try:
            self.end_if_denied()
            agent = self._caller(data)
            inside = self._servers.get(data["tool_name"])
            if inside is not None:
                server, tool = inside
                server.announce(str(tool_use_id), Announced(agent, self._authority(), tool, data["tool_input"], self))
                return {}
            self._callers[str(tool_use_id)] = agent
            return _answer("ask", "agentguard")
        except Denied as denied:
            return {**_answer("deny", told(denied)), "continue_": False, "stopReason": told(denied)}
        except Exception as error:  # noqa: BLE001  # whatever broke, the program is told no
            say("the adapter failed, and the call is denied", error=type_name(error))
            return _answer("deny", _BROKEN)

    async def permit(self, name: str, arguments: dict[str, Any], context: Any) -> PermissionResultAllow | PermissionResultDeny:
        """can_use_tool: the input as it will run. The session's own `can_use_tool` comes first, since it may change the input."""
        try:
            call_id = context.tool_use_id
            answer: Any = PermissionResultAllow()
            if self._asks_owner(name):
                answer = await self._given.can_use_tool(name, arguments, context)
                if not isinstance(answer, PermissionResultAllow):
                    self._callers.pop(call_id, None)
                    return answer
            if name in self._servers:
                return answer
            given = answer.updated_input if answer.updated_input is not None else arguments
            permit = await self._check(name, given, call_id)
            await self.runs.begin(permit, call_id)
            return PermissionResultAllow(updated_input=permit.arguments, updated_permissions=answer.updated_permissions)
        except Denied as denied:
            self.note(denied)
            return PermissionResultDeny(message=told(denied), interrupt=self.on_deny == "raise")
        except Exception as error:  # noqa: BLE001  # whatever broke, the program is told no
            say("the adapter failed, and the call is denied", error=type_name(error))
            return PermissionResultDeny(message=_BROKEN)

    async def after(self, data: Any, tool_use_id: str | None, context: Any) -> dict[str, Any]:
        """PostToolUse: the tool ran, and this is what it gave."""
        try:
            inside = self._servers.get(data["tool_name"])
            came = inside is not None and inside[0].came(str(tool_use_id))
            if await self.runs.end(str(tool_use_id), output=data.get("tool_response")) or came:
                return {}
        except (OutcomeUnrecorded, OutputRefused) as error:  # the model may not have the output: end the session
            return {"continue_": False, "stopReason": str(error)}
        reason = Reason(Code.INTEGRITY_FAILURE, data["tool_name"], "a tool that the guard allowed", "one that ran past it")
        call = ToolCall(self._caller(data), data["tool_name"], data["tool_input"], tool_use_id)
        denied = self.guard.refuse(call, Stage.INTEGRITY, reason, task=self._authority())
        self.note(denied)
        return {"continue_": False, "stopReason": told(denied)}

    async def failed(self, data: Any, tool_use_id: str | None, context: Any) -> dict[str, Any]:
        """PostToolUseFailure: the tool failed, or was interrupted."""
        error = None if data.get("is_interrupt") else ToolFailed(str(data.get("error", ""))[:400])
        try:
            await self.runs.end(str(tool_use_id), error=error, interrupted=error is None)
        except OutputRefused as refused:  # nor the words
            return {"continue_": False, "stopReason": str(refused)}
        return {}

    # --- inside -------------------------------------------------------------------------------------------------------------------

    def _caller(self, data: Mapping[str, Any]) -> str:
        """The sub-agent's definition where the call comes from within one; else the session's agent."""
        return str(data.get("agent_type")) if data.get("agent_id") else self.agent

    def _authority(self) -> Task | None:
        if self.task is not None:
            return self.task
        return self.context.get(current_task) if self.context is not None else current_task.get()

    def _asks_owner(self, name: str) -> bool:
        """Whether the session's own `can_use_tool` is to be asked: not of what the options allow, for which it is not asked otherwise."""
        given = self._given
        return given.can_use_tool is not None and name not in given.allowed_tools and given.permission_mode != "bypassPermissions"

    async def _check(self, name: str, arguments: dict[str, Any], call_id: str | None) -> Permit:
        authority, caller = self._authority(), self._callers.pop(call_id or "", None)
        if caller is None:
            reason = Reason(Code.INTEGRITY_FAILURE, name, "a call that PreToolUse announced", "one that came past it")
            raise self.guard.refuse(ToolCall(NOBODY, name, arguments, call_id), Stage.INTEGRITY, reason, task=authority)
        agent, own = seat(self.guard, caller, authority)
        return await self.guard.acheck(ToolCall(agent, name, arguments, call_id), task=own)


def _answer(decision: str, reason: str) -> dict[str, Any]:
    return {"hookSpecificOutput": {"hookEventName": "PreToolUse", "permissionDecision": decision, "permissionDecisionReason": reason}}


def _wire(name: str) -> str:
    """A name as the program writes it."""
    return re.sub(r"[^a-zA-Z0-9_-]", "_", name)
