"""Live functions, pinned by identity, and what a digest can say of them (DESIGN §10)."""

from __future__ import annotations

import dis
import functools
import hashlib
from collections.abc import Mapping
from types import CodeType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any, Final

from agentguard.canonical import digest, freeze
from agentguard.errors import InvalidInput

if TYPE_CHECKING:
    from agentguard.tools.integrity import Tool

_MAX_INNER: Final = 16


def code_digest(code: CodeType) -> str:
    """SHA-256 over what a code object does: bytecode, constants (nested code included), names. Line numbers do not count."""
    hasher = hashlib.sha256()

    def feed(part: CodeType) -> None:
        hasher.update(part.co_code)
        fields = (part.co_names, part.co_varnames, part.co_freevars, part.co_cellvars, part.co_argcount, part.co_kwonlyargcount)
        hasher.update(repr((fields, part.co_posonlyargcount, part.co_flags)).encode())
        for constant in part.co_consts:
            if isinstance(constant, CodeType):
                feed(constant)
            else:
                shown = sorted(map(repr, constant)) if isinstance(constant, frozenset) else repr(constant)
                hasher.update(repr((type(constant).__name__, shown)).encode())

    feed(code)
    return "sha256:" + hasher.hexdigest()


def value_digest(value: Any) -> str:
    """Name a default or a cell's content: by value where it is JSON, by code where it is a function, else by type alone."""
    function = unwrap(value) if callable(value) else None
    if isinstance(function, FunctionType):
        return code_digest(function.__code__)
    try:
        return digest(freeze(value))
    except InvalidInput:
        return f"type:{type(value).__module__}.{type(value).__qualname__}"


def mark(wrapper: Any, tool: Tool, guard: object) -> None:
    """Make `wrapper` known as the one by which `guard` stands before `tool`."""
    wrapper.__agentguard_tool__ = tool
    wrapper.__agentguard_mark__ = (wrapper, guard)


def _is_ours(fn: Any, guard: object = None) -> bool:
    """Whether `fn` is a wrapper of a guard, or of this one. `functools.wraps` copies marks, so a mark names whose it is."""
    found = fn.__dict__.get("__agentguard_mark__") if isinstance(fn, FunctionType) else None
    return found is not None and found[0] is fn and (guard is None or found[1] is guard)


def unwrap(fn: Any) -> Any:
    """The function underneath our own wrapper, a partial or a bound method; anything else as it is."""
    while True:
        if _is_ours(fn):
            fn = fn.__wrapped__
        elif isinstance(fn, functools.partial):
            fn = fn.func
        elif isinstance(fn, MethodType):
            fn = fn.__func__
        else:
            return fn


def bare(fn: Any, guard: object = None) -> Any:
    """The callable that a wrapper stands for: of any guard, or of this one, since no guard may skip another. Anything else as it is."""
    while _is_ours(fn, guard):
        fn = fn.__wrapped__
    return fn


class Pin:
    """One live function, by identity."""

    __slots__ = ("called", "cells", "code", "defaults", "fn", "inner", "kwdefaults", "owner", "partials", "self_type", "target")

    def __init__(self, target: Any, within: tuple[FunctionType, ...] = ()) -> None:
        self.target = bare(target)
        self.owner = target.__self__ if isinstance(target, MethodType) else None
        self.self_type = type(self.owner)
        self.partials = tuple((part, part.func, part.args, dict(part.keywords)) for part in partials(target))
        self.called = False  # whether the function is the `__call__` of an object's type
        fn = unwrap(target)
        if not isinstance(fn, FunctionType):
            call = type(fn).__call__
            if not isinstance(call, FunctionType):
                raise InvalidInput(
                    f"{target!r:.80} is not written in Python, so there is nothing to pin", hint="the policy may accept it as opaque"
                )
            self.owner, self.self_type, self.called, fn = fn, type(fn), True, call
        self.fn: FunctionType = fn
        self.code = fn.__code__
        self.defaults = fn.__defaults__
        self.kwdefaults = dict(fn.__kwdefaults__ or {})
        # A cell that the function itself rebinds (nonlocal) is its state, not its definition.
        own = _rebound(self.code)
        names = zip(self.code.co_freevars, fn.__closure__ or (), strict=True)
        cells = [(name, cell, _content(cell)) for name, cell in names if name not in own]
        # A local function that calls itself finds itself in a cell which is filled once it is defined.
        self.cells = tuple([cell for cell in cells if cell[0] != fn.__name__ or cell[2] is not _pin_missing])
        # What a decorator stands around is in a cell: pinned as deep as it goes, unless a function holds itself.
        if within:  # of those further in only what is a function: the rest may be state that a neighbour rebinds
            self.cells = tuple([cell for cell in self.cells if isinstance(cell[2], FunctionType)])
        seen = (*within, fn)
        held = [content for _, _, content in self.cells if isinstance(content, FunctionType) and content not in seen]
        self.inner: tuple[Pin, ...] = tuple([Pin(content, seen) for content in held]) if len(seen) < _MAX_INNER else ()

    def is_target(self, fn: Any) -> bool:
        """Whether `fn` is what was pinned. A partial of it, or it bound to another object, would run with something unchecked."""
        target = self.target
        if isinstance(fn, MethodType) and isinstance(target, MethodType):
            return fn.__func__ is target.__func__ and fn.__self__ is target.__self__
        return fn is target

    def changed(self) -> str:
        fn = self.fn
        if fn.__code__ is not self.code:
            return "its code was replaced"
        if fn.__defaults__ is not self.defaults:
            return "its defaults were replaced"
        if (fn.__kwdefaults__ or self.kwdefaults) and not _same(fn.__kwdefaults__ or {}, self.kwdefaults):
            return "its keyword defaults were replaced"
        for name, cell, content in self.cells:
            if _content(cell) is not content:
                return f"its closure variable {name} was rebound"
        if self.owner is not None and type(self.owner) is not self.self_type:
            return "the type of its bound object was changed"
        if self.called and self.self_type.__call__ is not fn:
            return "the method by which it is called was replaced"
        for part, function, args, keywords in self.partials:
            if part.func is not function or part.args is not args or not _same(part.keywords, keywords):
                return "what its partial holds was replaced"
        for inner in self.inner:
            if why := inner.changed():
                return f"in the function {inner.fn.__name__} that it holds, {why}"
        return ""


@functools.lru_cache(4096)
def _rebound(code: CodeType) -> frozenset[str]:
    """The closure variables that code binds anew itself."""
    return frozenset(step.argval for step in dis.get_instructions(code) if step.opname in ("STORE_DEREF", "DELETE_DEREF"))


def _same(current: Mapping[str, Any], pinned: Mapping[str, Any]) -> bool:
    return current.keys() == pinned.keys() and all(current[name] is value for name, value in pinned.items())


def partials(fn: Any) -> list[functools.partial[Any]]:
    """The partials around the function underneath, the outermost first."""
    found = []
    while isinstance(fn := bare(fn), functools.partial):
        found.append(fn)
        fn = fn.func
    return found


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # an empty cell: the name is not bound yet
        return _pin_missing


_pin_missing: Final = object()
