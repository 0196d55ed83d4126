"""No framework: plain functions, and loops over the tool calls of an OpenAI-style model.

    tools = Toolbox(guard, [search, send_email], agent="triage")
    with guard.task("triage", initiator="user:alice"):
        while True:
            message = client.chat.completions.create(model=..., messages=messages, tools=tools.schemas()).choices[0].message
            messages += [message, *tools.handle_tool_calls(message)]
            if not message.tool_calls:
                break

Works with chat completions and with the Responses API, dictionaries or objects, of whatever library. Nothing but the functions is needed.
Arguments reach a function as they are in the JSON: nothing is coerced.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias, cast

from pydantic import TypeAdapter
from pydantic_core import to_json

from agentguard import Guard, InvalidInput
from agentguard.errors import AgentguardError
from agentguard.task import Task
from agentguard_adapters.loops_calls import Wanted, calls_of
from agentguard_adapters.stand_in import Asked, OnDeny, asking, awaited, pinned_of, stand_in, told

__all__ = ["Toolbox", "guard_tools"]

#: How an exception of a tool leaves: it goes on to the caller, or the model is told.
OnError: TypeAlias = Literal["raise", "message"]


def guard_tools(
    guard: Guard, tools: Iterable[Callable[..., Any]], *, agent: str | None = None, task: Task | None = None, on_deny: OnDeny = "message"
) -> list[Callable[..., Any]]:
    """Functions that stand for functions, sync or async as each is, and ask the guard before each run: for a loop of one's own.

    agent     who calls, by the name in the policy; by default the agent of the current task
    task      the authority; by default the current task. Another agent's task is narrowed down, where the policy's `delegates` let it be
    on_deny   "message": the denial's sentence is returned in the place of an output; "raise": Denied is raised
    """
    return [stand_in(guard, tool, agent=agent, task=task, on_deny=on_deny) for tool in tools]


class Toolbox:
    """The tools of one agent, and how its model's calls of them are answered.

    on_error   what happens when a tool raises. "raise": it goes on to the caller; the calls after it do not run, and those beside it come
               to their end. "message": the model is told the exception
    The rest is as for `guard_tools`.
    """

    def __init__(
        self,
        guard: Guard,
        tools: Iterable[Callable[..., Any]],
        *,
        agent: str | None = None,
        task: Task | None = None,
        on_deny: OnDeny = "message",
        on_error: OnError = "raise",
    ) -> None:
        self._guard, self._agent, self._task, self._on_deny, self._on_error = guard, agent, task, on_deny, on_error
        self.functions: dict[str, Callable[..., Any]] = {}
        for tool in guard_tools(guard, tools, agent=agent, task=task, on_deny=on_deny):
            pinned = pinned_of(tool)
            name = pinned.name if pinned is not None else tool.__name__
            if name in self.functions:
                raise InvalidInput(f"two tools are called {name!r}")
            self.functions[name] = tool

    def schemas(self, api: Literal["chat", "responses"] = "chat") -> list[dict[str, Any]]:
        """The functions as the model's `tools`: name, docstring, and a schema from the annotations."""
        made = [
            {"name": name, "description": inspect.getdoc(tool) or "", "parameters": TypeAdapter(cast(Any, tool)).json_schema()}
            for name, tool in self.functions.items()
        ]
        return [{"type": "function", "function": one} if api == "chat" else {"type": "function", **one} for one in made]

    def handle_tool_calls(self, message: Any) -> list[dict[str, Any]]:
        """Run the tool calls of a message, one after the other: the messages that answer them. Async tools get a loop of their own.

        message   an assistant message of chat completions; or a response of the Responses API, its `output`, or one item of that
        """
        calls = list(calls_of(message))
        if any(_awaited(self.functions.get(call.name)) for call in calls):
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                return asyncio.run(self.ahandle_tool_calls(message))
            raise InvalidInput("an async tool cannot be awaited here", hint="use `await tools.ahandle_tool_calls(message)`")
        return [call.answer(self._run(call)) for call in calls]

    async def ahandle_tool_calls(self, message: Any) -> list[dict[str, Any]]:
        """The same side by side: async tools in this loop, others in threads."""
        calls = list(calls_of(message))
        answers = await asyncio.gather(*[self._arun(call) for call in calls], return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return [call.answer(str(answer)) for call, answer in zip(calls, answers, strict=True)]

    # --- one call ---------------------------------------------------------------------------------------------------------------

    def _run(self, call: Wanted) -> str:
        arguments = self._known(call)
        if isinstance(arguments, str):
            return arguments
        with asking(self._agent, call.name, call.id, arguments, self._task):
            try:
                output = self.functions[call.name](**arguments)
                return _text([*output] if inspect.isgenerator(output) else output)
            except Exception as error:  # noqa: BLE001  # whatever the tool raises
                return self._failed(error)

    async def _arun(self, call: Wanted) -> str:
        if not _awaited(self.functions.get(call.name)):
            return await asyncio.to_thread(self._run, call)
        arguments = self._known(call)
        if isinstance(arguments, str):
            return arguments
        with asking(self._agent, call.name, call.id, arguments, self._task):
            try:
                output = await awaited(self.functions[call.name])(**arguments)
                return _text([item async for item in output] if inspect.isasyncgen(output) else output)
            except Exception as error:  # noqa: BLE001
                return self._failed(error)

    def _known(self, call: Wanted) -> dict[str, Any] | str:
        """The arguments; or what the model is told where they cannot be read, or nobody knows the tool."""
        arguments, mistakes = call.read()
        if call.name not in self.functions:
            mistakes = f"There is no such tool; there are: {', '.join(self.functions) or 'none'}."
        if not mistakes:
            return arguments
        denied = Asked(self._agent, call.name, call.id, arguments, self._task).refuse(self._guard, mistakes)
        if self._on_deny == "raise":
            raise denied
        return told(denied, mistakes)

    def _failed(self, error: Exception) -> str:
        if self._on_error == "raise" or isinstance(error, AgentguardError):
            raise error
        return f"The tool failed. {type(error).__name__}: {error}"


def _awaited(tool: Callable[..., Any] | None) -> bool:
    return tool is not None and (inspect.iscoroutinefunction(tool) or inspect.isasyncgenfunction(inspect.unwrap(tool)))


def _text(output: Any) -> str:
    """An output as a model gets it: a text as it is, anything else as JSON."""
    return output if isinstance(output, str) else to_json(output, fallback=str).decode()
