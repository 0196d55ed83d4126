"""The tool hook of a guarded Agno agent."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pydantic
from agno.exceptions import AgentRunException
from agno.tools import decorator, function
from agno.tools.function import Function, FunctionCall

from agentguard import Code, Denied, Guard, ToolCall
from agentguard.decision import Reason, Stage
from agentguard.task import Task
from agentguard_adapters.run_denied import RunDenied
from agentguard_adapters.seats import seat
from agentguard_adapters.stand_in import Asked, OnDeny, asking, stand_in, told

#: The name under which a tool that Agno makes anew for each run reaches its body.
_ENTRY = "_agno_entry"
_MAX_TOOLS = 4096
#: Where the wrappers come from that Agno puts around functions.
_WRAPPERS = (str(Path(pydantic.__file__).parent), function.__file__, decorator.__file__)


class GuardHook:
    """A tool hook for one agent. It says who calls, and puts a stand-in in the place of the tool's function.

    It must be synchronous: Agno leaves asynchronous hooks out where it runs synchronously.
    """

    def __init__(self, guard: Guard, agent: str, task: Task | None = None, on_deny: OnDeny = "message") -> None:
        self.guard, self._agent, self._task, self._on_deny = guard, agent, task, on_deny
        self._known: dict[tuple[int, str], tuple[Any, Callable[..., Any]]] = {}
        self.__name__ = "agentguard"

    def __call__(self, function_name: str, function_call: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        """Agno calls this around each tool call. Raises AgentRunException, with what the model is told, or RunDenied."""
        try:
            call = _call_of(function_call)
            self._stand_before(call)
        except Exception as error:  # noqa: BLE001  # whatever broke, the call must not run
            self._end(self._unguardable(function_name, arguments, f"{type(error).__name__}: {error}"))
        if inspect.iscoroutinefunction(function_call):
            return self._later(call, function_call, arguments)
        with asking(self._agent, call.function.name, call.call_id, arguments, self._task) as asked:
            try:
                result = function_call(**arguments)
                self._settle(asked)
            except Exception as error:
                self._ended(asked, error)
                raise
        return result

    async def _later(self, call: FunctionCall, function_call: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        with asking(self._agent, call.function.name, call.call_id, arguments, self._task) as asked:
            try:
                result = await function_call(**arguments)
                self._settle(asked)
            except Exception as error:
                self._ended(asked, error)
                raise
        return result

    def _settle(self, asked: Asked) -> None:
        """What came without the tool, from Agno's cache or another hook, goes out if the call would be allowed."""
        if not asked.taken:
            agent, own = seat(self.guard, asked.agent, asked.task)
            call = ToolCall(agent, asked.tool, dict(asked.presented or {}), asked.call_id)
            self.guard.check(call, task=own).release()

    def _ended(self, asked: Asked, error: Exception) -> None:
        """Tell of a denial, and of a call that never came to the tool, because its arguments do not fit."""
        if isinstance(error, Denied):
            self._end(error)
        if not asked.taken and not isinstance(error, AgentRunException):
            self._end(asked.refuse(self.guard, str(error)), str(error))

    def _unguardable(self, name: str, arguments: dict[str, Any], why: str) -> Denied:
        reason = Reason(Code.INTEGRITY_FAILURE, name, "a tool that can be guarded", why[:400])
        return self.guard.refuse(ToolCall(self._agent, name, dict(arguments)), Stage.INTEGRITY, reason, task=self._task)

    def _end(self, denied: Denied, mistakes: str = "") -> NoReturn:
        if self._on_deny == "raise":
            raise RunDenied(denied) from denied
        raise AgentRunException(told(denied, mistakes)) from denied

    def _stand_before(self, call: FunctionCall) -> None:
        """Let this call run a stand-in of its tool; the tool itself stays as it is."""
        entry = call.function.entrypoint
        key = (id(entry), call.function.name)  # two tools may share a function; the policy may not say the same of them
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _MAX_TOOLS:  # an application that makes its tools anew for each run
                self._known.clear()
            known = self._known[key] = (entry, self._stand_for(call, entry))  # kept, so the id is not given to another one
        call.function = call.function.model_copy()
        call.function.entrypoint = known[1]

    def _stand_for(self, call: FunctionCall, entry: Any) -> Callable[..., Any]:
        name, injected = call.function.name, tuple(sorted(call._build_entrypoint_args()))
        body = _inside(entry)
        if not (str(body.__module__).startswith("agno.") and getattr(body, "__closure__", None)) or body.__module__.startswith(
            "agno.tools."
        ):
            stand = stand_in(self.guard, body, name=name, injected=injected, on_deny="raise")
            return Function._wrap_callable_uncached(stand) if getattr(entry, "_wrapped_for_validation", False) else stand
        # Agno made it for this run around its state: there is nothing in it to pin, and it is validated behind the stand-in.
        runs = _run_async if inspect.iscoroutinefunction(entry) else _run
        return partial(stand_in(self.guard, runs, name=name, injected=(*injected, _ENTRY), on_deny="raise"), **{_ENTRY: entry})


def _run(*, _agno_entry: Callable[..., Any], **arguments: Any) -> Any:
    return _agno_entry(**arguments)


async def _run_async(*, _agno_entry: Callable[..., Any], **arguments: Any) -> Any:
    return await _agno_entry(**arguments)


def _call_of(function_call: Any) -> FunctionCall:
    """The call that a hook's `function_call` goes on with: Agno gives hooks neither its id nor its function."""
    inner = _cells(function_call)["inner_func"]
    call = _cells(inner)["self"]
    if type(call) is not FunctionCall:
        raise TypeError(f"a {type(call).__name__} is no FunctionCall")
    return call


def _cells(function: Any) -> dict[str, Any]:
    return {name: cell.cell_contents for name, cell in zip(function.__code__.co_freevars, function.__closure__, strict=True)}


def _inside(entry: Any) -> Any:
    """The function in the wrappers that Agno put around it, to validate arguments and to log."""
    inner, code = getattr(entry, "__wrapped__", None), getattr(entry, "__code__", None)
    if inner is None or code is None or not code.co_filename.startswith(_WRAPPERS):
        return entry
    if inspect.iscoroutinefunction(inner) != inspect.iscoroutinefunction(entry):  # Agno asks what it is before it runs it
        return entry
    return _inside(inner)
