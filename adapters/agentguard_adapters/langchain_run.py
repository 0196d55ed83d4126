"""The inside of a guarded LangChain tool: what it pins, how one run of it binds its arguments, and the backstop below it.

LangChain's own binding is used as it is (`_to_args_and_kwargs`, `_filter_injected_args`), so that the guard judges what the tool gets.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from dataclasses import replace
from types import MappingProxyType
from typing import Any
from uuid import UUID

from pydantic import ValidationError

from agentguard import Guard, InvalidInput, ToolCall
from agentguard.canonical import Frozen, freeze, thaw
from agentguard.context import current_task
from agentguard.decision import Code, Reason, Stage
from agentguard.integrity import Tool, bare, register
from agentguard.permit import Permit
from agentguard.plain import plain
from agentguard.task import Task
from agentguard_adapters.seats import NOBODY

try:
    from langchain_core.callbacks import BaseCallbackHandler
    from langchain_core.tools import BaseTool, StructuredTool, ToolException
    from langchain_core.tools import Tool as TextTool
    from langchain_core.tools.base import _get_runnable_config_param
    from langchain_core.tracers.context import register_configure_hook
    from langchain_core.utils.uuid import uuid7
except ImportError as error:
    raise ImportError(f"the LangChain adapters need langchain-core 1.7 or later ({error}): pip install 'agentguard[langchain]'") from error

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
    ignore_llm = ignore_chain = ignore_retriever = ignore_retry = ignore_chat_model = ignore_custom_event = True  # type: ignore[assignment]

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
    """The tool that a guarded one stands for, pinned, and what is worked out about it once."""

    def __init__(self, guard: Guard, given: BaseTool) -> None:
        inner, known = _undecorated(given)
        self.tool = inner
        self.pinned = pin(self, known)
        if known is None or guard.tools.get(known.name) is not known:
            guard.register(self.pinned)
        self.hidden = frozenset(self.pinned.entry.injected)
        self.backstop = Backstop(guard)
        self.sync_wants = _wants(inner._run)
        self.async_wants = _wants(inner._run if type(inner)._arun is BaseTool._arun else inner._arun)

    @property
    def bodies(self) -> list[Callable[..., Any]]:
        """The functions that are the tool: what a StructuredTool holds, or the methods of a class of one's own."""
        parts = [fn for name in ("func", "coroutine") if (fn := getattr(self.tool, name, None)) is not None]
        return parts or [self.tool._run, *([] if type(self.tool)._arun is BaseTool._arun else [self.tool._arun])]


def pin(self: Inner, known: Tool | None) -> Tool:
    """A LangChain tool as a tool of the guard. Raises InvalidInput where its class has a way to run that the guard would go past."""
    inner = self.tool
    for name in ("run", "arun", "invoke", "ainvoke"):
        if getattr(type(inner), name) not in [getattr(base, name) for base in (BaseTool, StructuredTool, TextTool)]:
            raise InvalidInput(f"the tool {inner.name!r} overrides {name}, which the guard would go past", hint="override _run and _arun instead")
    schema = inner.tool_call_schema
    shape = schema if isinstance(schema, dict) else schema.model_json_schema()
    first, *twins = self.bodies
    tool = register(
        first,
        name=inner.name,
        injected=tuple(_injected_names(inner)),
        schema={name: part for name, part in shape.items() if name not in ("title", "description")},
        binder=lambda presented: Run(self, {}, None).bind(presented),
        watch=tuple([(inner, name) for name in ("name", "description", "args_schema", "func", "coroutine") if hasattr(inner, name)]),
        twins=tuple(twins),
        plumbing=(inner._run, inner._arun),
        pauses=PAUSES,
    )
    parameters = replace(tool.parameters, simple=True)  # LangChain passes arguments by name, but for a TextTool
    if isinstance(inner, TextTool):
        parameters = replace(parameters, positional=tuple(inner.args), simple=False)
    tool = replace(tool, parameters=parameters)
    return replace(tool, name=known.name, entry=known.entry, fingerprint=known.fingerprint) if known is not None else tool


def _undecorated(given: BaseTool) -> tuple[BaseTool, Tool | None]:
    """A tool over a function that `@guard.tool` wraps, without that wrapper, so that one call is one decision; and its registration."""
    parts = {name: fn for name in ("func", "coroutine") if (fn := getattr(given, name, None)) is not None}
    known = next((fn.__agentguard_tool__ for fn in parts.values() if hasattr(fn, "__agentguard_tool__")), None)
    return (given.model_copy(update={name: bare(fn) for name, fn in parts.items()}), known) if known is not None else (given, None)


def _injected_names(inner: BaseTool) -> frozenset[str]:
    """The arguments that LangChain and LangGraph fill in, by LangChain's own account."""
    fields = {} if isinstance(inner.args_schema, dict) else getattr(inner.get_input_schema(), "model_fields", {})
    names = {*fields, *inner._injected_args_keys, "callbacks", "run_manager"}
    hidden = names - inner._filter_injected_args(dict.fromkeys(names)).keys()
    return frozenset(hidden | ({"config"} - fields.keys()))


def _wants(run: Callable[..., Any]) -> tuple[str | None, bool]:
    """Under which name a tool's `_run` takes the config, and whether it takes a run manager."""
    return _get_runnable_config_param(run), "run_manager" in inspect.signature(run).parameters


class Run:
    """One run of a tool: binds its arguments, and is, as a context manager, the way from the permit to the body. An unused permit is
    given back on leaving.
    """

    permit: Permit
    task: Task | None = None

    def __init__(self, inner: Inner, injected: dict[str, Any], call_id: str | None) -> None:
        self.inner, self.injected, self.call_id = inner, injected, call_id
        self.live: dict[str, Any] = {}
        self.mistakes = ""
        self._tokens: tuple[Token[Any], ...] = ()

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
        self.injected = {name: values.pop(name) for name in self.inner.hidden if name in values}
        bound = {}
        for name, value in values.items():
            shown = plain(value)
            bound[name] = freeze(shown)
            if shown is not value:
                self.live[name] = value
        return MappingProxyType(bound)

    def __enter__(self) -> Run:
        watch = backstop.set(self.inner.backstop)
        self._tokens = (passed.set(self), current_task.set(self.task), watch)
        return self

    def __exit__(self, *exc: object) -> None:
        for var, token in zip((passed, current_task, backstop), self._tokens, strict=True):
            var.reset(token)
        self.permit.release()

    def go(self, config: Any, manager: Any) -> Any:
        """Run the body. What it calls has passed nothing yet."""
        body, injected = self._body(self.inner.tool._run, self.inner.sync_wants, config, manager)
        return self.permit.run(body, injected, self.live)

    async def ago(self, config: Any, manager: Any) -> Any:
        body, injected = self._body(self.inner.tool._arun, self.inner.async_wants, config, manager)
        return await self.permit.arun(body, injected, self.live)

    def _body(self, body: Callable[..., Any], wants: tuple[str | None, bool], config: Any, manager: Any) -> tuple[Callable[..., Any], dict[str, Any]]:
        passed.set(None)
        node_fills.set(False)
        parameter, managed = wants
        injected = self.injected
        if parameter is not None:
            injected[parameter] = config
        if managed:
            injected["run_manager"] = manager
        return body, injected
