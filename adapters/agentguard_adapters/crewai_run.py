"""One run of a guarded CrewAI agent: which call is on its way, and how its denial leaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NoReturn

from crewai.hooks.dispatch import HookAborted, InterceptionPoint, get_scoped_hooks, scoped_hooks
from crewai.utilities.agent_utils import extract_tool_call_info
from pydantic import ValidationError

from agentguard import Denied, Guard
from agentguard.notice import say
from agentguard.task import Task
from agentguard.tools.integrity import type_name
from agentguard_adapters.stand_in import Asked, OnDeny, asking, told


@dataclass(frozen=True, eq=False)
class Binding:
    """What guards one agent. `guarded` makes a guarded tool of a tool."""

    guard: Guard
    agent: str | None
    task: Task | None
    on_deny: OnDeny
    guarded: Callable[..., Any]


#: The native call that is on its way: its id and what the model presented.
_native: ContextVar[tuple[str | None, Any]] = ContextVar("agentguard.crewai.native", default=(None, None))
#: What the hook before a tool opened, for the one after it to close, and why it blocked the call, if it did.
_turn: ContextVar[tuple[ExitStack, Asked, str] | None] = ContextVar("agentguard.crewai.turn", default=None)
#: The async bodies that a run has started, each in an event loop of a thread of its own.
_bodies: ContextVar[set[asyncio.Task[Any]] | None] = ContextVar("agentguard.crewai.bodies", default=None)


@contextmanager
def reached(name: str, body: asyncio.Task[Any] | None = None) -> Iterator[None]:
    """Around a guarded tool's function. CrewAI runs a tool for a name that is merely like its own: what was announced is this one."""
    turn, bodies = _turn.get(), _bodies.get()
    if turn is not None and not turn[1].taken:
        turn[1].tool = name
    if body is not None and bodies is not None:
        bodies.add(body)
    try:
        yield
    finally:
        if body is not None and bodies is not None:
            bodies.discard(body)


class Asks:
    """What an executor does more when its agent is guarded: it is mixed into the agent's own class of executor."""

    @property
    def _binding(self) -> Binding:
        return self.agent.agentguard_binding  # type: ignore[attr-defined, no-any-return]

    def invoke(self, inputs: Any) -> Any:
        with _hooked(self.agent, self._binding):  # type: ignore[attr-defined]
            return super().invoke(inputs)  # type: ignore[misc]

    async def invoke_async(self, inputs: Any) -> Any:
        """The same, and a cancellation reaches the bodies in other threads."""
        bodies: set[asyncio.Task[Any]] = set()
        token = _bodies.set(bodies)
        try:
            with _hooked(self.agent, self._binding):  # type: ignore[attr-defined]
                return await super().invoke_async(inputs)  # type: ignore[misc]
        except asyncio.CancelledError:
            for body in tuple(bodies):
                body.get_loop().call_soon_threadsafe(body.cancel)
            raise
        finally:
            _bodies.reset(token)

    def _execute_single_native_tool_call(self, tool_call: Any) -> Any:
        info = extract_tool_call_info(tool_call)
        if info is None:
            return super()._execute_single_native_tool_call(tool_call)  # type: ignore[misc]
        call_id, name, given = info
        presented = _object(given)
        if presented is None:  # CrewAI asks no hook here, and breaks the run on some
            asked = Asked(self._binding.agent, name, call_id, {}, self._binding.task)
            said = _refused(self._binding, asked, "the arguments are no JSON object")
            return {"call_id": call_id, "func_name": name, "result": said, "from_cache": False, "original_tool": None}
        # Where the provider gives no id, CrewAI makes one of an address in memory, which soon is another call's.
        token = _native.set((None if call_id == f"call_{id(tool_call)}" else call_id, presented))
        try:
            return super()._execute_single_native_tool_call(tool_call)  # type: ignore[misc]
        finally:
            _native.reset(token)

    def _register_deferred_file_reader(self, reader: Any) -> None:
        self._binding.guarded(reader, self._binding, copy=False)  # in place: CrewAI looks for this very object
        super()._register_deferred_file_reader(reader)  # type: ignore[misc]


class _Hooks:
    """CrewAI's hooks before and after a tool, in one run. Nothing here lets a call pass: what they know is told to the stand-in."""

    def __init__(self, agent: Any, binding: Binding) -> None:
        self._agent, self._binding = agent, binding

    def before(self, context: Any) -> bool | None:
        """Opens the call. CrewAI swallows what a hook raises, and runs the tool: all is turned into False, which blocks."""
        if context.agent is not self._agent:
            return None
        try:
            call_id, presented = _native.get()
            shown = presented if presented is not None else dict(context.tool_input)
            stack, why = ExitStack(), self._blocked(context.tool)
            asked = stack.enter_context(asking(self._binding.agent, context.tool_name, call_id, shown, self._binding.task))
            _turn.set((stack, asked, why))
        except Exception as error:  # noqa: BLE001  # whatever it was, the tool may not run
            say("the adapter failed, and the call is blocked", error=type_name(error))
            return False
        return False if why else None

    def after(self, context: Any) -> str | None:
        """Closes the call. What CrewAI answered by itself is recorded, if it was the model's mistake."""
        turn = _turn.get()
        if context.agent is not self._agent or turn is None:
            return None
        _turn.set(None)
        stack, asked, why = turn
        stack.close()
        if asked.denied is not None:
            return _told(self._binding, asked.denied)
        if asked.taken:
            return None
        mistake = why or _mistake(context.tool, asked.presented)
        return _refused(self._binding, asked, mistake) if mistake else None

    def _blocked(self, tool: Any) -> str:
        if tool is None:
            return "there is no tool of this name"
        known = getattr(tool.func, "__agentguard_guard__", None) is self._binding.guard
        return "" if known else "the tool came from elsewhere, after the agent's tools were guarded"


@contextmanager
def _hooked(agent: Any, binding: Binding) -> Iterator[None]:
    """Both hooks, behind all others, for the time of one run. What an agent above has set for itself stays out of it."""
    hooks = _Hooks(agent, binding)
    scope = {
        point: [one for one in get_scoped_hooks(point) if not isinstance(getattr(one, "__self__", None), _Hooks)]
        for point in InterceptionPoint
    }
    scope[InterceptionPoint.PRE_TOOL_CALL].append(hooks.before)
    scope[InterceptionPoint.POST_TOOL_CALL].append(hooks.after)
    with scoped_hooks(scope):
        tokens = _turn.set(None), _native.set((None, None))  # a call of an agent above is none of this one's
        try:
            yield
        finally:
            _turn.reset(tokens[0])
            _native.reset(tokens[1])


def _refused(binding: Binding, asked: Asked, mistake: str) -> str:
    return _told(binding, asked.refuse(binding.guard, mistake), mistake)


def _told(binding: Binding, denied: Denied, mistakes: str = "") -> str:
    if binding.on_deny == "raise":
        _stop(denied)
    return told(denied, mistakes)


def _stop(denied: Denied) -> NoReturn:
    """End the run: of what a hook raises, CrewAI passes on only this."""
    raise HookAborted(told(denied), source="agentguard") from denied


def _mistake(tool: Any, presented: Any) -> str:
    """What the tool's schema has against the arguments; empty where it was not that."""
    try:
        tool.args_schema.model_validate(presented)
    except ValidationError as error:
        return "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
    return ""


def _object(given: Any) -> dict[str, Any] | None:
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            return None
    return dict(given) if isinstance(given, dict) else None
