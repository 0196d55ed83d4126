"""The tool that a guarded LangChain tool stands for: what is pinned of it, and how LangChain gives it its arguments.

LangChain's own binding is used as it is (`_to_args_and_kwargs`, `_filter_injected_args`), so that the guard judges what the tool gets.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

from langchain_core.tools import BaseTool, StructuredTool, Tool, ToolException
from langchain_core.tools.base import _get_runnable_config_param
from pydantic import ValidationError

from agentguard import Guard, InvalidInput
from agentguard.canonical import Frozen, freeze, thaw
from agentguard.plain import plain
from agentguard.tools.integrity import Tool as Pinned
from agentguard.tools.integrity import bare, register

#: The exceptions by which LangGraph suspends a tool, to call it again under the same id when the run goes on.
PAUSES = ("langgraph.errors.GraphBubbleUp",)
_WATCHED = ("name", "description", "args_schema", "func", "coroutine")


class Bound(NamedTuple):
    """The arguments of one call as the tool gets them.

    values     what the guard judges
    live       those of them that the schema made objects of
    injected   what the framework filled in
    """

    values: Mapping[str, Frozen]
    live: dict[str, Any]
    injected: dict[str, Any]


class Mistaken(InvalidInput):
    """Arguments that the tool's schema refuses. `told` says what is wrong with them in words that may go to the model, which wrote them."""

    def __init__(self, told: str) -> None:
        super().__init__(told)
        self.told = told


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


class Inner:
    """The tool that a guarded one stands for: pinned, and what is worked out about it once."""

    def __init__(self, guard: Guard, given: BaseTool) -> None:
        for name in ("run", "arun", "invoke", "ainvoke"):
            if getattr(type(given), name) not in [getattr(base, name) for base in (BaseTool, StructuredTool, Tool)]:
                found = f"the tool {given.name!r} overrides {name}, which the guard would go past"
                raise InvalidInput(found, hint="let it override _run and _arun instead")
        self.tool, known = _undecorated(given, guard)
        bodies = [fn for name in ("func", "coroutine") if (fn := getattr(self.tool, name, None)) is not None]
        if not bodies:  # a class of one's own
            bodies = [self.tool._run] if type(self.tool)._arun is BaseTool._arun else [self.tool._run, self.tool._arun]
        self.hidden = frozenset(_injected_names(self.tool, bodies)).union(known.entry.injected if known is not None else ())
        self.pinned = self._pin(bodies, known)
        if known is None or guard.tools.get(known.name) is not known:
            guard.register(self.pinned)
        self.sync_body, self.async_body = Body.of(self.tool, "func", "_run"), Body.of(self.tool, "coroutine", "_arun")

    def _pin(self, bodies: list[Callable[..., Any]], known: Pinned | None) -> Pinned:
        inner = self.tool
        schema: Any = inner.tool_call_schema
        if isinstance(schema, dict):
            shape = schema
        else:  # a model of pydantic, or of pydantic.v1
            shape = schema.model_json_schema() if hasattr(schema, "model_json_schema") else schema.schema()
        tool = register(
            bodies[0],
            name=inner.name,
            injected=tuple(self.hidden),
            schema={name: part for name, part in shape.items() if name not in ("title", "description")},
            binder=lambda presented: self.bound(presented, {}, None).values,
            watch=tuple([(inner, name) for name in _WATCHED if hasattr(inner, name)]),
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

    def bound(self, presented: Mapping[str, Frozen], injected: Mapping[str, Any], call_id: str | None) -> Bound:
        """Validated, coerced, defaults filled in, injected ones set aside. Raises InvalidInput where the tool could not take them."""
        forged = sorted(self.hidden & presented.keys())
        if forged:
            raise InvalidInput(f"the argument {forged[0]!r} is filled in by the framework and may not be presented")
        arguments = {name: thaw(value) for name, value in presented.items()}
        try:
            given, values = self.tool._to_args_and_kwargs({**arguments, **injected}, call_id)
        except ValidationError as error:
            parts = [f"{'.'.join(map(str, part['loc']))}: {part['msg']}" for part in error.errors()[:5]]
            raise Mistaken("; ".join(parts)[:400]) from None
        except (ToolException, ValueError, TypeError) as error:
            raise InvalidInput(f"{type(error).__name__}: {error}"[:400]) from None
        values = {**dict(zip(self.tool.args if given else (), given, strict=False)), **values}
        filled = {name: values.pop(name) for name in self.hidden if name in values}
        shown = {name: plain(value) for name, value in values.items()}
        frozen = {**self.pinned.parameters.defaults, **{name: freeze(value) for name, value in shown.items()}}
        return Bound(MappingProxyType(frozen), {name: value for name, value in values.items() if shown[name] is not value}, filled)


def _undecorated(given: BaseTool, guard: Guard) -> tuple[BaseTool, Pinned | None]:
    """A tool over a function that this guard's `@guard.tool` wraps, without that wrapper, so that one call is one decision; and its
    registration. Another guard's wrapper stays: that guard is asked too.
    """
    parts = {name: fn for name in ("func", "coroutine") if (fn := getattr(given, name, None)) is not None}
    ours = {
        name: fn
        for name, fn in parts.items()
        if (mark := getattr(fn, "__agentguard_mark__", None)) and mark[0] is fn and guard.serves(mark[1])
    }
    if not ours:
        return given, None
    known: Pinned = next(iter(ours.values())).__agentguard_tool__
    return given.model_copy(update={name: bare(fn, fn.__agentguard_mark__[1]) for name, fn in ours.items()}), known


def _injected_names(inner: BaseTool, bodies: list[Callable[..., Any]]) -> set[str]:
    """The arguments that LangChain and LangGraph fill in, by LangChain's own account."""
    fields = {} if isinstance(inner.args_schema, dict) else getattr(inner.get_input_schema(), "model_fields", {})
    names = {*fields, *inner._injected_args_keys, "callbacks", "run_manager"}
    hidden = names - inner._filter_injected_args(dict.fromkeys(names)).keys()
    configs = {name for body in bodies if (name := _get_runnable_config_param(body)) is not None}
    return hidden | configs | ({"config"} - fields.keys())


def _parameters(fn: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(fn).parameters
