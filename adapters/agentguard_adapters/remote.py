"""Tools that run elsewhere: nothing of their code can be pinned, so what their server shows of them is (name, description, schemas).

A tool that is shown differently later (a "rug pull") is another tool: its calls are denied with `integrity_failure`, whether it was pinned
by this guard's first look or by the lock file. Shared by the adapters whose tools are behind a wire.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, Final

from agentguard import Code, Guard, InvalidInput, ToolCall
from agentguard.canonical import Frozen, freeze
from agentguard.decision import Reason, Stage
from agentguard.errors import OutputRefused
from agentguard.task import Task
from agentguard.tools.integrity import Tool, register

__all__ = ["Remote", "RemotePaused", "RemoteToolError"]

#: What of a listed tool is pinned: all that a model reads or fills in. Icons and `_meta` are not.
_SHOWN: Final = ("name", "title", "description", "inputSchema", "outputSchema", "annotations")
#: How the wire is handed to `elsewhere`; a call in which a model presents it is refused.
_WIRE: Final = "agentguard:wire"


class RemoteToolError(Exception):
    """The remote tool answered with an error. Recorded as the outcome; the answer itself is passed on."""


class RemotePaused(Exception):  # no error: the call goes on later
    """The remote tool asks for something before it goes on. Recorded as `paused`."""


async def elsewhere(**arguments: Any) -> Any:
    """The body of every remote tool: the checked arguments go over the wire that the adapter brought."""
    return await arguments.pop(_WIRE)(arguments)


class Remote:
    """The remote tools of one server, as one guard knows them.

    prefix   stands before each tool's name in policy, artifacts and log, to tell servers apart
    """

    def __init__(self, guard: Guard, prefix: str = "") -> None:
        self._guard, self._prefix = guard, prefix
        self._tools: dict[str, Tool] = {}

    def knows(self, name: str) -> bool:
        """Whether the server has shown this tool."""
        return name in self._tools

    def learn(self, tool: Mapping[str, Any]) -> None:
        """Pin a tool as its server shows it (JSON, as in `tools/list`). One that was pinned otherwise before stays that, and is denied."""
        shown = {part: tool[part] for part in _SHOWN if tool.get(part) is not None}
        name, pauses = tool["name"], (f"{RemotePaused.__module__}.{RemotePaused.__qualname__}",)
        self._tools.pop(name, None)
        with suppress(InvalidInput):  # what cannot be pinned counts as not listed
            binder = _binder(shown.get("inputSchema"))
            made = register(elsewhere, name=self._prefix + name, injected=(_WIRE,), schema=shown, binder=binder, pauses=pauses)
            self._tools[name] = made
            self._guard.register(made)  # raises where another one is registered: then each call of this one will be denied for that

    async def call(
        self,
        agent: str,
        task: Task | None,
        name: str,
        arguments: Mapping[str, Any],
        call_id: str | None,
        wire: Callable[[dict[str, Any]], Awaitable[Any]],
    ) -> Any:
        """Judge a call, send it with the arguments that were checked, and record what came of it. Gives what `wire` gives, a pydantic
        model, as the policy's rule for outputs leaves it. Raises Denied and OutputRefused.
        """
        call = ToolCall(agent, self._prefix + name, dict(arguments), call_id)
        tool = self._tools.get(name)
        if tool is None:
            reason = Reason(Code.INTEGRITY_FAILURE, call.tool, "a tool that its server lists", "one that it does not list")
            raise self._guard.refuse(call, Stage.INTEGRITY, reason, task=task)
        permit = await self._guard.acheck(call, task=task, tool=tool)
        came: list[Any] = []

        async def send(checked: dict[str, Any]) -> Any:
            came.append(await wire(checked))
            came.append(_output(came[0]))
            return came[1]

        try:
            shaped = await permit.arun(elsewhere, {_WIRE: send})
        except (RemoteToolError, RemotePaused):
            return came[0]
        except OutputRefused:
            came.clear()  # the refusal leads nowhere
            raise
        return came[0] if shaped == came[1] else type(came[0]).model_validate(shaped)


def _output(result: Any) -> Any:
    """A result as JSON, to be committed to. Raises what tells an error or a pause, for the outcome to say so."""
    shown = result.model_dump(mode="json", by_alias=True, exclude_none=True)
    if shown.get("isError") or shown.get("is_error"):
        raise RemoteToolError(json.dumps(shown))  # a rule for outputs looks at the words
    if shown.get("resultType") == "input_required" or "input_required" in shown:
        raise RemotePaused
    return shown


def _binder(schema: Any) -> Callable[[Mapping[str, Frozen]], Mapping[str, Frozen]]:
    """How a remote tool takes its arguments, as far as its schema says: a stranger wrote it. The defaults that it names are filled in,
    checked, and sent.
    """
    schema = schema if isinstance(schema, dict) else {}
    found, wanted = schema.get("properties"), schema.get("required")
    properties = found if isinstance(found, dict) else {}
    defaults = {name: freeze(part["default"]) for name, part in properties.items() if isinstance(part, dict) and "default" in part}
    required = frozenset([name for name in wanted if isinstance(name, str)] if isinstance(wanted, list) else [])
    closed = schema.get("additionalProperties") is False

    def bind(presented: Mapping[str, Frozen]) -> Mapping[str, Frozen]:
        if closed and not presented.keys() <= properties.keys():
            raise InvalidInput(f"the tool has no argument {sorted(presented.keys() - properties.keys())[0]!r}")
        if not required <= presented.keys():
            raise InvalidInput(f"the argument {sorted(required - presented.keys())[0]!r} is missing")
        return MappingProxyType({**defaults, **presented})

    return bind
