"""Tools as the guard knows them: how arguments bind, what exactly was pinned, and whether it is still that (DESIGN §10, tool lock).

Pinned per tool: source, code, defaults, closure cells and the functions in them (what a decorator stands around), what a partial holds, the
type of a bound `self`, schema. `Tool.changed()` compares the live object by identity, so it costs a few hundred nanoseconds a call. Not
pinned: what the function reaches through its module's globals, and the inside of a mutable object that a closure holds.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import BuiltinMethodType, CodeType, FunctionType, MappingProxyType, MethodType
from typing import Any, Final

from agentguard.canonical import Frozen, digest, freeze, jcs, parse, thaw
from agentguard.errors import InvalidInput

LOCK_FILE: Final = "tools.lock.json"
_MAX_INNER: Final = 16
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


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


def _value_digest(value: Any) -> str:
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


class _Pin:
    """One live function, by identity."""

    __slots__ = ("called", "cells", "code", "defaults", "fn", "inner", "kwdefaults", "owner", "partials", "self_type", "target")

    def __init__(self, target: Any, within: tuple[FunctionType, ...] = ()) -> None:
        self.target = bare(target)
        self.owner = target.__self__ if isinstance(target, MethodType) else None
        self.self_type = type(self.owner)
        self.partials = tuple((part, part.func, part.args, dict(part.keywords)) for part in _partials(target))
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
        own = {step.argval for step in dis.get_instructions(self.code) if step.opname in ("STORE_DEREF", "DELETE_DEREF")}
        names = zip(self.code.co_freevars, fn.__closure__ or (), strict=True)
        cells = [(name, cell, _content(cell)) for name, cell in names if name not in own]
        # A local function that calls itself finds itself in a cell which is filled once it is defined.
        self.cells = tuple([cell for cell in cells if cell[0] != fn.__name__ or cell[2] is not _pin_missing])
        # What a decorator stands around is in a cell: pinned as deep as it goes, unless a function holds itself.
        if within:  # of those further in only what is a function: the rest may be state that a neighbour rebinds
            self.cells = tuple([cell for cell in self.cells if isinstance(cell[2], FunctionType)])
        seen = (*within, fn)
        held = [content for _, _, content in self.cells if isinstance(content, FunctionType) and content not in seen]
        self.inner: tuple[_Pin, ...] = tuple([_Pin(content, seen) for content in held]) if len(seen) < _MAX_INNER else ()

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


def _same(current: Mapping[str, Any], pinned: Mapping[str, Any]) -> bool:
    return current.keys() == pinned.keys() and all(current[name] is value for name, value in pinned.items())


def _partials(fn: Any) -> list[functools.partial[Any]]:
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


@dataclass(frozen=True, slots=True)
class LockEntry:
    """What a lock says of one tool. Every member is a digest or a name, so the file can be read and compared."""

    qualified: str
    source: str
    defaults: str
    closure: str
    schema: str
    injected: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "qualified": self.qualified,
            "source": self.source,
            "defaults": self.defaults,
            "closure": self.closure,
            "schema": self.schema,
            "injected": list(self.injected),
        }

    @property
    def fingerprint(self) -> str:
        return digest(self.to_json())

    def differs(self, other: LockEntry) -> str:
        """The first member that differs, in words; empty when nothing does."""
        for name in ("qualified", "source", "defaults", "closure", "schema", "injected"):
            if getattr(self, name) != getattr(other, name):
                return name
        return ""


@dataclass(frozen=True, slots=True)
class Parameters:
    """How a tool takes its arguments."""

    positional: tuple[str, ...]
    names: frozenset[str]
    required: frozenset[str]
    defaults: Mapping[str, Frozen]
    var_positional: str = ""
    var_keyword: str = ""
    simple: bool = True
    positional_only: frozenset[str] = frozenset()

    @classmethod
    def of(cls, fn: Any, injected: frozenset[str]) -> Parameters:
        """Read a signature. A default that is not JSON stays with the function, where the pin holds it."""
        try:
            signature = inspect.signature(fn)
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"{fn!r:.80} has no readable signature: {error}") from None
        positional, names, required, defaults = [], set(), set(), {}
        var_positional = var_keyword = ""
        only: set[str] = set()
        for name, parameter in signature.parameters.items():
            if name in injected:
                continue
            if parameter.kind is parameter.VAR_POSITIONAL:
                var_positional = name
                continue
            if parameter.kind is parameter.VAR_KEYWORD:
                var_keyword = name
                continue
            if parameter.kind in _POSITIONAL:
                positional.append(name)
            if parameter.kind is parameter.POSITIONAL_ONLY:
                only.add(name)
            names.add(name)
            if parameter.default is parameter.empty:
                required.add(name)
            else:
                try:
                    defaults[name] = freeze(parameter.default)
                except InvalidInput:
                    continue
        if var_positional:
            names.add(var_positional)
        return cls(
            tuple(positional),
            frozenset(names),
            frozenset(required),
            MappingProxyType(defaults),
            var_positional,
            var_keyword,
            not (only or var_positional),
            frozenset(only),
        )

    def present(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Name the positional arguments of a Python call. Raises InvalidInput where Python would raise TypeError."""
        if not args:
            return kwargs
        named = dict(zip(self.positional, args, strict=False))
        rest = args[len(self.positional) :]
        if rest and not self.var_positional:
            raise InvalidInput(f"takes {len(self.positional)} positional arguments, found {len(args)}")
        twice = named.keys() & kwargs.keys()
        if twice:
            raise InvalidInput(f"got two values for the argument {sorted(twice)[0]}")
        if rest:
            named[self.var_positional] = list(rest)
        return {**named, **kwargs}

    def bind(self, presented: Mapping[str, Frozen]) -> Mapping[str, Frozen]:
        """Presented arguments with the tool's defaults filled in. Raises InvalidInput where the tool could not take them."""
        keys = presented.keys()
        if not keys <= self.names and not self.var_keyword:
            extra = sorted(keys - self.names)
            raise InvalidInput(f"the tool has no argument {extra[0]!r}", hint=f"it takes {', '.join(sorted(self.names)) or 'none'}")
        if not self.required <= keys:
            raise InvalidInput(f"the argument {sorted(self.required - keys)[0]!r} is missing")
        if self.var_positional in keys and type(presented[self.var_positional]) is not tuple:  # a text would come apart into its letters
            raise InvalidInput(f"the argument {self.var_positional!r} must be an array")
        if not self.defaults or self.defaults.keys() <= keys:
            return presented
        return MappingProxyType({**self.defaults, **presented})

    def apply(
        self, fn: Callable[..., Any], bound: Mapping[str, Frozen], injected: Mapping[str, Any], live: Mapping[str, Any] | None = None
    ) -> Any:
        """Call `fn` with a private copy of the bound arguments, those in `live` as the objects given there."""
        arguments = {name: thaw(value) for name, value in bound.items()}
        if live:
            arguments.update(live)
        if self.simple:
            return fn(**arguments, **injected)
        given = []
        for name in self.positional:  # up to the first that is left to its default; those behind it go by name
            if name not in arguments:
                break
            given.append(arguments.pop(name))
        rest = arguments.pop(self.var_positional, []) if self.var_positional else []
        if rest and len(given) < len(self.positional):
            raise InvalidInput("variadic arguments were given while a positional one before them is missing")
        if len(given) < len(self.positional) and any(name in arguments for name in self.positional_only):
            raise InvalidInput("a positional argument was given while one before it is missing")
        return fn(*given, *rest, **arguments, **injected)


@dataclass(frozen=True, slots=True, eq=False)
class Tool:
    """A registered tool: its name, how it binds, what is locked, and what is pinned.

    `binder` turns presented into bound arguments, the tool's own coercion included; an adapter brings its framework's.
    `watch` are further live objects (a wrapper's attributes) that must stay what they were: triples of owner, attribute, value.
    `pauses` are the qualified names of exceptions by which the framework interrupts the tool, to call it again later.
    """

    name: str
    entry: LockEntry
    parameters: Parameters
    binder: Callable[[Mapping[str, Frozen]], Mapping[str, Frozen]]
    pins: tuple[_Pin, ...] = ()
    watch: tuple[tuple[Any, str, Any], ...] = ()
    opaque: bool = False
    fingerprint: str = field(default="")
    pauses: tuple[str, ...] = ()
    target: Any = None

    def changed(self) -> str:
        """What is no longer as it was registered, in words; empty when nothing changed."""
        for pin in self.pins:
            if why := pin.changed():
                return why
        for owner, attribute, value in self.watch:
            if getattr(owner, attribute, None) is not value:
                return f"its {attribute} was replaced"
        return ""

    def is_body(self, fn: Any) -> bool:
        """Whether `fn` is the tool: a pinned callable, or our wrapper around it. Of an opaque tool only which object it is, is known."""
        target = bare(fn)
        for pin in self.pins:
            if pin.is_target(target):
                return True
        if self.pins or not self.opaque:
            return False
        # A method of a built-in object is made anew each time it is asked for; their own comparison is by object and name.
        return target is self.target or (type(target) is type(self.target) is BuiltinMethodType and target == self.target)

    def pauses_on(self, error: BaseException) -> bool:
        """Whether this exception is the framework's way to interrupt the tool."""
        return any(f"{kind.__module__}.{kind.__qualname__}" in self.pauses for kind in type(error).__mro__)

    def with_binder(self, binder: Callable[[Mapping[str, Frozen]], Mapping[str, Frozen]]) -> Tool:
        """The same tool, its arguments bound by `binder`: for a framework whose binding needs more than the arguments."""
        return replace(self, binder=binder)

    def bind(self, presented: Mapping[str, Frozen]) -> Mapping[str, Frozen]:
        """Bound arguments; InvalidInput where the tool could not take them, or a framework's own argument is presented."""
        if self.entry.injected:
            for name in self.entry.injected:
                if name in presented:
                    raise InvalidInput(f"the argument {name!r} is filled in by the framework and may not be presented")
        return self.binder(presented)


def register(
    fn: Callable[..., Any],
    *,
    name: str | None = None,
    injected: tuple[str, ...] = (),
    schema: Mapping[str, Any] | None = None,
    binder: Callable[[Mapping[str, Frozen]], Mapping[str, Frozen]] | None = None,
    watch: tuple[tuple[Any, str], ...] = (),
    twins: tuple[Callable[..., Any], ...] = (),
    plumbing: tuple[Callable[..., Any], ...] = (),
    pauses: tuple[str, ...] = (),
) -> Tool:
    """Pin a callable as a tool. Raises InvalidInput where it has no usable signature.

    twins      other implementations of the same tool (its async form): pinned, and part of what is locked
    plumbing   the framework's functions through which the tool is run: pinned, but not locked, since they are no part of the tool
    """
    hidden = frozenset(injected)
    parameters = Parameters.of(fn, hidden)
    try:
        pins: tuple[_Pin, ...] = tuple([_Pin(part) for part in (fn, *twins)])
    except InvalidInput:
        pins = ()
    target = pins[0].fn if pins else fn
    sources = [_source_digest(part, pins[index : index + 1]) for index, part in enumerate([pin.fn for pin in pins] or [target])]
    cells = [[name, _value_digest(content)] for pin in pins for name, _, content in pin.cells]
    cells += [["partial", _value_digest(value)] for pin in pins for _, _, args, _ in pin.partials for value in args]
    entry = LockEntry(
        qualified=f"{_module_of(target)}.{getattr(target, '__qualname__', type(target).__qualname__)}",
        source=sources[0] if len(sources) == 1 else digest(sources),
        defaults=_defaults_digest(fn),
        closure=digest(cells) if pins else "none",
        schema=digest(_plain(schema)) if schema is not None else _signature_digest(fn),
        injected=tuple(sorted(hidden)),
    )
    return Tool(
        name=name or getattr(fn, "__name__", "") or type(fn).__name__,
        entry=entry,
        parameters=parameters,
        binder=binder or parameters.bind,
        pins=(*pins, *[_Pin(part) for part in plumbing]) if pins else (),
        watch=tuple((owner, attribute, getattr(owner, attribute, None)) for owner, attribute in watch),
        opaque=not pins,
        fingerprint=entry.fingerprint,
        pauses=pauses,
        target=bare(fn),
    )


def _module_of(target: Any) -> str:
    """The module's name; for a script the one under which it is imported, so that a lock made by importing it holds when it runs."""
    name = getattr(target, "__module__", None) or "?"
    main = sys.modules.get("__main__")
    if name != "__main__" or main is None:
        return str(name)
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    return str(spec.name) if spec is not None else Path(file).stem if file else str(name)


def _plain(schema: Mapping[str, Any]) -> Any:
    """A schema as plain JSON; a default that is not JSON is named by its repr-free type."""
    return json.loads(json.dumps(schema, default=lambda value: f"type:{type(value).__qualname__}"))


def _source_digest(target: Any, pins: tuple[_Pin, ...]) -> str:
    """The source of the code itself: asked for a function's, `inspect` would give that of its `__wrapped__`, which anybody can set."""
    code = pins[0].code if pins else None
    if code is None:
        return f"type:{type(target).__module__}.{type(target).__qualname__}"
    if code.co_name == "<lambda>":  # several may stand on one line
        return code_digest(code)
    try:
        return "sha256:" + hashlib.sha256(inspect.getsource(code).encode()).hexdigest()
    except (OSError, TypeError):
        return code_digest(code)


def _defaults_digest(fn: Any) -> str:
    defaults = {name: p.default for name, p in inspect.signature(fn).parameters.items() if p.default is not p.empty}
    return digest({name: _value_digest(value) for name, value in defaults.items()})


def _signature_digest(fn: Any) -> str:
    shape = [[name, p.kind.name, str(p.annotation), p.default is p.empty] for name, p in inspect.signature(fn).parameters.items()]
    return digest(shape)


@dataclass(frozen=True, slots=True)
class Lock:
    """The pinned fingerprint of each tool, as a file. `digest` is part of every decision record."""

    entries: Mapping[str, LockEntry]
    digest: str

    @classmethod
    def of(cls, tools: Mapping[str, Tool]) -> Lock:
        return cls._from({name: tool.entry for name, tool in sorted(tools.items())})

    @classmethod
    def _from(cls, entries: dict[str, LockEntry]) -> Lock:
        body = {name: entry.to_json() for name, entry in entries.items()}
        return cls(MappingProxyType(entries), digest({"agentguard": 1, "tools": body}))

    def _body(self) -> dict[str, Any]:
        return {"agentguard": 1, "tools": {name: entry.to_json() for name, entry in self.entries.items()}}

    @property
    def canonical(self) -> bytes:
        """The bytes that `digest` names."""
        return jcs(self._body())

    def dump(self) -> bytes:
        """The lock as a file, for people and for version control."""
        return json.dumps(self._body(), indent=2, sort_keys=True).encode() + b"\n"

    @classmethod
    def load(cls, path: Path) -> Lock | None:
        """The lock at `path`, or None where there is no file. Raises InvalidInput for anything that is not a lock."""
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InvalidInput(f"the tool lock cannot be read: {error.strerror}", place=str(path)) from None
        return cls.read(data, place=str(path))

    @classmethod
    def read(cls, data: bytes, *, place: str = "tool lock") -> Lock:
        try:
            body = parse(data)
            if type(body) is not dict or body.keys() != {"agentguard", "tools"} or body["agentguard"] != 1:
                raise InvalidInput("expected an object with members agentguard (1) and tools")
            if type(body["tools"]) is not dict:
                raise InvalidInput("tools must be an object")
            return cls._from({name: _entry(name, item) for name, item in sorted(body["tools"].items())})
        except InvalidInput as error:
            raise InvalidInput(f"not a tool lock: {error}", place=place, hint="write it anew with `agentguard tools lock`") from None

    def judge(self, tool: Tool) -> str:
        """Why `tool` is not the locked one, in words; empty when it is."""
        locked = self.entries.get(tool.name)
        if locked is None:
            return "the lock does not name it"
        name = locked.differs(tool.entry)
        return f"its {name} differs from the lock" if name else ""


def _entry(name: str, item: Any) -> LockEntry:
    members = ("qualified", "source", "defaults", "closure", "schema")
    if type(item) is not dict or item.keys() != {*members, "injected"} or any(type(item[member]) is not str for member in members):
        raise InvalidInput(f"tool {name!r}: expected the members {', '.join(members)} (strings) and injected (array)")
    if type(item["injected"]) is not list or any(type(part) is not str for part in item["injected"]):
        raise InvalidInput(f"tool {name!r}: injected must be an array of strings")
    return LockEntry(**{member: item[member] for member in members}, injected=tuple(item["injected"]))


def commitment_bytes(value: Any) -> tuple[bytes, str]:
    """What an output commits to: (bytes, form). `json` is its JCS form; anything else is named by type only."""
    try:
        return jcs(value), "json"
    except (InvalidInput, RuntimeError, KeyError):  # not JSON, or changed by another thread meanwhile
        return type_name(value).encode(), "type"


def type_name(value: Any) -> str:
    """The qualified name of a value's type, short and in ASCII whatever somebody called it."""
    return f"{type(value).__module__}.{type(value).__qualname__}"[:256].encode("ascii", "backslashreplace").decode()[:256]
