"""The inside of a guarded LangChain tool: what it pins, how one run of it binds its arguments, and the backstop below it.

LangChain's own binding is used as it is (`_to_args_and_kwargs`, `_filter_injected_args`), so that the guard judges what the tool gets.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from contextvars import ContextVar, Token
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeAlias
from uuid import UUID

from pydantic import ValidationError

from agentguard import Denied, Guard, InvalidInput, ToolCall
from agentguard.canonical import Frozen, freeze, thaw
from agentguard.context import current_task
from agentguard.decision import Code, Reason, Stage
from agentguard.enforcement import NOBODY
from agentguard.integrity import Tool as Pinned
from agentguard.integrity import bare, register
from agentguard.permit import Permit
from agentguard.plain import plain
from agentguard.task import Task

try:
    from langchain_core.callbacks import BaseCallbackHandler
    from langchain_core.messages import ToolMessage
    from langchain_core.tools import BaseTool, StructuredTool, Tool, ToolException
    from langchain_core.tools.base import _get_runnable_config_param, _get_type_hints
    from langchain_core.tracers.context import register_configure_hook
    from langchain_core.utils.pydantic import model_json_schema
except ImportError as error:
    raise ImportError(f"the LangChain adapters need langchain-core 1.7 or later ({error}): pip install 'agentguard[langchain]'") from error

#: How a denial leaves: as an error message to the model, or raised.
OnDeny: TypeAlias = Literal["message", "raise"]
#: The exceptions by which LangGraph suspends a tool, to call it again under the same id when the run goes on.
PAUSES = ("langgraph.errors.GraphBubbleUp",)
#: The argument of a tool that takes one text and has no schema.
TEXT = "tool_input"
#: The run that passed the guard and whose body has not begun.
passed: ContextVar[Run | None] = ContextVar("agentguard.langchain.passed", default=None)
#: Whether a ToolNode fills in injected arguments, having dropped what the model presented under their names.
node_fills: ContextVar[bool] = ContextVar("agentguard.langchain.node_fills", default=False)
#: Refuses every tool that starts past the guard.
backstop: ContextVar[Backstop | None] = ContextVar("agentguard.langchain.backstop", default=None)
register_configure_hook(backstop, inheritable=True)


class Backstop(BaseCallbackHandler):
    """Below a guarded agent, a tool that starts without having passed the guard is stopped: one of a sub-agent that has no guard of its
    own, or one that a hook further in put in the place of the guarded one.
    """

    raise_error = run_inline = True
    ignore_llm = ignore_chain = ignore_retriever = ignore_retry = ignore_chat_model = ignore_custom_event = True

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Backstop) and other._guard is self._guard

    def __hash__(self) -> int:
        return id(self._guard)

    def on_tool_start(self, serialized: dict[str, Any], input_str: str, *, run_id: UUID, **kwargs: Any) -> None:
        run = passed.get()
        if run is not None and run.run_id == run_id:
            return
        task, name = current_task.get(), str((serialized or {}).get("name") or kwargs.get("name"))
        call = ToolCall(task.agent if task is not None else NOBODY, name, kwargs.get("inputs") or {}, kwargs.get("tool_call_id"))
        fix = "give the inner agent GuardMiddleware, or wrap the tool with guard_tools"
        reason = Reason(Code.INTEGRITY_FAILURE, name, "a tool with the guard before it", "one that started past the guard", fix=fix)
        raise self._guard.refuse(call, Stage.INTEGRITY, reason)


class Inner:
    """The tool that a guarded one stands for: pinned, and what is worked out about it once."""

    def __init__(self, guard: Guard, given: BaseTool) -> None:
        for name in ("run", "arun", "invoke", "ainvoke"):
            if getattr(type(given), name) not in [getattr(base, name) for base in (BaseTool, StructuredTool, Tool)]:
                found = f"the tool {given.name!r} overrides {name}, which the guard would go past"
                raise InvalidInput(found, hint="let it override _run and _arun instead")
        self.tool, known = _undecorated(given)
        self.pinned = self._pin(known)
        if known is None or guard.tools.get(known.name) is not known:
            guard.register(self.pinned)
        self.backstop = Backstop(guard)
        self.sync_body, self.async_body = Body.of(self.tool, "func", "_run"), Body.of(self.tool, "coroutine", "_arun")

    def _pin(self, known: Pinned | None) -> Pinned:
        inner = self.tool
        bodies = [fn for name in ("func", "coroutine") if (fn := getattr(inner, name, None)) is not None]
        if not bodies:  # a class of one's own
            bodies = [inner._run] if type(inner)._arun is BaseTool._arun else [inner._run, inner._arun]
        schema = inner.tool_call_schema
        shape = schema if isinstance(schema, dict) else model_json_schema(schema)
        tool = register(
            bodies[0],
            name=inner.name,
            injected=tuple(_injected_names(inner, bodies)),
            schema={name: part for name, part in shape.items() if name not in ("title", "description")},
            binder=lambda presented: Run(self, None).bind(presented),
            watch=tuple([(inner, name) for name in ("name", "description", "args_schema", "func", "coroutine") if hasattr(inner, name)]),
            twins=tuple(bodies[1:]),
            plumbing=(inner._run, inner._arun),
            pauses=PAUSES,
        )
        parameters = replace(tool.parameters, simple=True)  # LangChain passes arguments by name, but for a Tool, which takes one text
        if isinstance(inner, Tool):
            others = {name: value for name, value in parameters.defaults.items() if name not in parameters.positional[:1]}
            parameters = replace(parameters, positional=tuple(inner.args), defaults=others, simple=False)
        tool = replace(tool, parameters=parameters)
        return replace(tool, name=known.name, entry=known.entry, fingerprint=known.fingerprint) if known is not None else tool


class Body(NamedTuple):
    """The function that a run ends in, and under which names it takes LangChain's config and callbacks."""

    fn: Callable[..., Any]
    config: str | None
    manager: str | None

    @classmethod
    def of(cls, inner: BaseTool, name: str, method: str) -> Body:
        """The function that the tool holds, for LangChain's own classes; the method of a class of one's own."""
        fn = getattr(inner, name, None)
        if fn is not None and getattr(type(inner), method) in (getattr(StructuredTool, method), getattr(Tool, method)):
            return cls(fn, _get_runnable_config_param(fn), "callbacks" if "callbacks" in _parameters(fn) else None)
        asked = inner._run if type(inner)._arun is BaseTool._arun else getattr(inner, method)
        manager = "run_manager" if "run_manager" in _parameters(asked) else None
        return cls(getattr(inner, method), _get_runnable_config_param(asked), manager)

    def framework(self, config: Any, manager: Any) -> dict[str, Any]:
        """What LangChain passes beside the arguments."""
        passing = {self.config: config} if self.config is not None else {}
        if self.manager == "run_manager":
            passing[self.manager] = manager
        elif self.manager is not None and manager is not None:
            passing[self.manager] = manager.get_child()
        return passing


def _undecorated(given: BaseTool) -> tuple[BaseTool, Pinned | None]:
    """A tool over a function that `@guard.tool` wraps, without that wrapper, so that one call is one decision; and its registration."""
    parts = {name: fn for name in ("func", "coroutine") if (fn := getattr(given, name, None)) is not None}
    known = next((fn.__agentguard_tool__ for fn in parts.values() if hasattr(fn, "__agentguard_tool__")), None)
    return (given.model_copy(update={name: bare(fn) for name, fn in parts.items()}), known) if known is not None else (given, None)


def _injected_names(inner: BaseTool, bodies: list[Callable[..., Any]]) -> set[str]:
    """The arguments that LangChain and LangGraph fill in, by LangChain's own account."""
    fields = {} if isinstance(inner.args_schema, dict) else getattr(inner.get_input_schema(), "model_fields", {})
    names = {*fields, *inner._injected_args_keys, "callbacks", "run_manager"}
    hidden = names - inner._filter_injected_args(dict.fromkeys(names)).keys()
    configs = {"config", *[name for body in bodies if (name := _get_runnable_config_param(body)) is not None]}
    return hidden | (configs - fields.keys())


def _parameters(fn: Callable[..., Any]) -> Collection[str]:
    return inspect.signature(fn).parameters


def answer(denied: Denied, on_deny: OnDeny, name: str, call_id: str | None, mistakes: str = "") -> ToolMessage:
    """A denial as the model is told of it. Raises it where there is no call of a model, or where that is wanted."""
    if on_deny == "raise" or call_id is None:
        raise denied
    said = f"{denied.for_model} {mistakes}" if mistakes and denied.code is Code.MALFORMED_CALL else denied.for_model
    return ToolMessage(said, name=name, tool_call_id=call_id, status="error")


def face_of(fn: Callable[..., Any], way: Callable[..., Any]) -> Callable[..., Any]:
    """A function that looks like `fn` and goes `way`: LangGraph reads annotations of a tool's function to see what to inject."""

    async def coroutine(*args: Any, **kwargs: Any) -> Any:
        return await way(*args, **kwargs)

    def function(*args: Any, **kwargs: Any) -> Any:
        return way(*args, **kwargs)

    twin: Any = functools.update_wrapper(coroutine if inspect.iscoroutinefunction(way) else function, fn)
    del twin.__wrapped__  # a way around the guard
    twin.__annotations__ = _get_type_hints(fn, include_extras=True) or {}
    twin.__signature__ = inspect.signature(fn)
    return twin  # type: ignore[no-any-return]  # a function by construction


class Run:
    """One run of a tool: binds its arguments; then, as a context manager, the way from the permit to the body. A permit that is unused
    at its end is given back.
    """

    permit: Permit

    def __init__(self, inner: Inner, call_id: str | None) -> None:
        self.inner, self.call_id = inner, call_id
        self.injected: dict[str, Any] = {}
        self.live: dict[str, Any] = {}
        self.mistakes = ""
        self.task: Task | None = None
        self.run_id: UUID | None = None
        self._tokens: list[tuple[ContextVar[Any], Token[Any]]] = []

    def bind(self, presented: Mapping[str, Frozen]) -> Mapping[str, Frozen]:
        """The arguments as LangChain gives them to the tool: validated, coerced, defaults filled in, injected ones set aside."""
        tool = self.inner.tool
        arguments = {name: thaw(value) for name, value in presented.items()}
        try:
            given, values = tool._to_args_and_kwargs({**arguments, **self.injected}, self.call_id)
        except ValidationError as error:
            self.mistakes = "; ".join(f"{'.'.join(map(str, part['loc']))}: {part['msg']}" for part in error.errors()[:5])[:400]
            raise InvalidInput(self.mistakes) from None
        except (ToolException, ValueError, TypeError) as error:
            raise InvalidInput(f"{type(error).__name__}: {error}"[:400]) from None
        values = {**dict(zip(tool.args if given else (), given, strict=False)), **values}
        self.injected = {name: values.pop(name) for name in self.inner.pinned.entry.injected if name in values}
        bound = {name: value for name, value in self.inner.pinned.parameters.defaults.items() if name not in values}
        for name, value in values.items():
            shown = plain(value)
            bound[name] = freeze(shown)
            if shown is not value:
                self.live[name] = value
        return MappingProxyType(bound)

    def named(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a direct call by name. Raises InvalidInput where the tool could not take them."""
        return self.inner.pinned.parameters.present(args, kwargs)

    def shown(self, call: ToolCall) -> dict[str, Any]:
        """The presented arguments for callbacks: a copy of their own, which nothing reads again."""
        return {name: thaw(value) for name, value in call.arguments.items()}

    def under(self, permit: Permit) -> Run:
        """This run with its permit, to be entered."""
        self.permit = permit
        return self

    def __enter__(self) -> Run:
        values: tuple[tuple[ContextVar[Any], Any], ...] = (
            (passed, self),
            (node_fills, False),
            (current_task, self.task),
            (backstop, self.inner.backstop),
        )
        self._tokens = [(var, var.set(value)) for var, value in values]
        return self

    def __exit__(self, *exc: object) -> None:
        for var, token in self._tokens:
            var.reset(token)
        self.permit.release()

    def go(self, config: Any, manager: Any) -> Any:
        """Run the body; what it starts has passed nothing yet."""
        passed.set(None)
        body = self.inner.sync_body
        return self.permit.run(body.fn, self.injected | body.framework(config, manager), self.live)

    async def ago(self, config: Any, manager: Any) -> Any:
        """The same for the async body."""
        passed.set(None)
        body = self.inner.async_body
        return await self.permit.arun(body.fn, self.injected | body.framework(config, manager), self.live)
