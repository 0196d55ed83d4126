"""The tools of an openai-agents agent that are no functions: shell, apply_patch, custom. Each answers a denial with words in any case: what
their executors raise, the framework turns into words by itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from agents import ApplyPatchTool, CustomTool, LocalShellTool, ShellTool

from agentguard_adapters.stand_in import asking, stand_in

if TYPE_CHECKING:
    from agentguard_adapters.openai_agents_tools import Guarding


class Special:
    """What the framework calls in the place of a tool's executor or editor (`given`)."""

    def __init__(self, guarding: Guarding, name: str, given: Any, body: Callable[..., Any]) -> None:
        self.guarding, self.given = guarding, given
        self._name = name
        self._stand = stand_in(guarding.guard, body, name=name, injected=("request",))

    async def ask(self, context: Any, call_id: str | None, arguments: dict[str, Any], request: Any) -> Any:
        guarding = self.guarding
        agent = guarding.agent or getattr(getattr(context, "agent", None), "name", None)
        presented = {name: value for name, value in arguments.items() if value is not None}
        with asking(agent, self._name, call_id, presented, guarding.task):
            return await self._stand(**presented, request=request)


class _Shell(Special):
    """`shell` takes commands, timeout_ms and max_output_length."""

    def __init__(self, guarding: Guarding, name: str, given: Any) -> None:
        async def shell(commands: list[str], *, request: Any, **limits: Any) -> Any:
            action = replace(request.data.action, **{"timeout_ms": None, "max_output_length": None, **limits}, commands=commands)
            return await _settled(given(replace(request, data=replace(request.data, action=action))))

        super().__init__(guarding, name, given, shell)

    async def __call__(self, request: Any) -> Any:
        action = request.data.action
        arguments = {"commands": action.commands, "timeout_ms": action.timeout_ms, "max_output_length": action.max_output_length}
        return await self.ask(request.ctx_wrapper, request.data.call_id, arguments, request)


class _LocalShell(Special):
    """`local_shell` takes command and env, and timeout_ms, user and working_directory where the model gives them."""

    def __init__(self, guarding: Guarding, name: str, given: Any) -> None:
        async def local_shell(command: list[str], *, request: Any, **others: Any) -> Any:
            action = request.data.action.model_copy(update={"command": command, **others})
            return await _settled(given(replace(request, data=request.data.model_copy(update={"action": action}))))

        super().__init__(guarding, name, given, local_shell)

    async def __call__(self, request: Any) -> Any:
        arguments = request.data.action.model_dump(exclude={"type"})
        return await self.ask(request.ctx_wrapper, request.data.call_id, arguments, request)


class _Custom(Special):
    """A custom tool takes one text, `input`."""

    def __init__(self, guarding: Guarding, name: str, given: Any) -> None:
        async def custom(input: str, *, request: Any) -> Any:
            return await _settled(given(request, input))

        super().__init__(guarding, name, given, custom)

    async def __call__(self, context: Any, input: str) -> Any:
        return await self.ask(context, context.tool_call_id, {"input": input}, context)


class _ApplyPatch(Special):
    """`apply_patch` takes type (create_file, update_file, delete_file), path, and diff and move_to where the model gives them."""

    def __init__(self, guarding: Guarding, name: str, given: Any) -> None:
        async def apply_patch(type: str, path: str, *, request: Any, **others: Any) -> Any:
            return await _settled(getattr(given, type)(replace(request, **{"diff": None, "move_to": None, **others}, type=type, path=path)))

        super().__init__(guarding, name, given, apply_patch)

    async def create_file(self, operation: Any) -> Any:
        return await self._apply("create_file", operation)

    async def update_file(self, operation: Any) -> Any:
        return await self._apply("update_file", operation)

    async def delete_file(self, operation: Any) -> Any:
        return await self._apply("delete_file", operation)

    async def _apply(self, type: str, operation: Any) -> Any:
        arguments = {"type": type, "path": operation.path, "diff": operation.diff, "move_to": operation.move_to}
        return await self.ask(operation.ctx_wrapper, None, arguments, operation)


async def _settled(output: Any) -> Any:
    return await output if inspect.isawaitable(output) else output


#: The kinds of tools that are no functions: where each keeps what it runs, and what stands there instead.
SPECIAL: Final[dict[Any, tuple[str, Callable[..., Special]]]] = {
    ShellTool: ("executor", _Shell),
    LocalShellTool: ("executor", _LocalShell),
    CustomTool: ("on_invoke_tool", _Custom),
    ApplyPatchTool: ("editor", _ApplyPatch),
}
