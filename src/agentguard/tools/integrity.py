"""Tools as the guard knows them: how arguments bind, what exactly was pinned, and whether it is still that (DESIGN §10, tool lock).

Pinned per tool: source, code, defaults, closure cells and the functions in them (what a decorator stands around), what a partial holds, the
type of a bound `self`, schema. `Tool.changed()` compares the live object by identity, so it costs a few hundred nanoseconds a call. Not
pinned: what the function reaches through its module's globals, and the inside of a mutable object that a closure holds.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import BuiltinMethodType
from typing import Any, Final, TypeAlias

from agentguard.canonical import Frozen, digest, jcs
from agentguard.errors import InvalidInput
from agentguard.tools.lock import LOCK_FILE, Lock, LockEntry
from agentguard.tools.parameters import Parameters
from agentguard.tools.pinning import Pin, bare, code_digest, mark, unwrap, value_digest

#: Presented arguments to bound ones. Raises InvalidInput where the tool could not take them.
Binder: TypeAlias = Callable[[Mapping[str, Frozen]], Mapping[str, Frozen]]

__all__ = [
    "LOCK_FILE",
    "Binder",
    "Lock",
    "LockEntry",
    "Parameters",
    "StreamOutput",
    "Tool",
    "bare",
    "commitment_bytes",
    "mark",
    "register",
    "type_name",
    "unwrap",
]


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
    binder: Binder
    pins: tuple[Pin, ...] = ()
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
        if self.pins and fn is self.pins[0].target:
            return True
        target = bare(fn)
        for pin in self.pins:
            if pin.is_target(target):
                return True
        if self.pins or not self.opaque:
            return False
        # A method of a built-in object is made anew each time it is asked for; their own comparison is by object and name.
        return target is self.target or (type(target) is type(self.target) is BuiltinMethodType and target == self.target)

    def is_the_same(self, other: Tool) -> bool:
        """Whether `other` is this very object pinned again, and all that differs is the inside of a mutable value in its closure, which is
        state and not pinned."""
        alike = replace(other.entry, closure=self.entry.closure) == self.entry
        return self.target is other.target and not self.opaque and alike and not self.changed()

    def pauses_on(self, error: BaseException) -> bool:
        """Whether this exception is the framework's way to interrupt the tool."""
        return any(f"{kind.__module__}.{kind.__qualname__}" in self.pauses for kind in type(error).__mro__)

    def bind(self, presented: Mapping[str, Frozen], binder: Binder | None = None) -> Mapping[str, Frozen]:
        """Bound arguments; InvalidInput where the tool could not take them, or a framework's own argument is presented.

        binder  in place of the tool's own, for a framework whose binding needs more than the arguments
        """
        if self.entry.injected:
            for name in self.entry.injected:
                if name in presented:
                    raise InvalidInput(f"the argument {name!r} is filled in by the framework and may not be presented")
        return (binder or self.binder)(presented)


def register(
    fn: Callable[..., Any],
    *,
    name: str | None = None,
    injected: tuple[str, ...] = (),
    schema: Mapping[str, Any] | None = None,
    binder: Binder | None = None,
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
        pins: tuple[Pin, ...] = tuple([Pin(part) for part in (fn, *twins)])
    except InvalidInput:
        pins = ()
    target = pins[0].fn if pins else fn
    sources = [_source_digest(part, pins[index : index + 1]) for index, part in enumerate([pin.fn for pin in pins] or [target])]
    cells = [[name, value_digest(content)] for pin in pins for name, _, content in pin.cells]
    cells += [["partial", value_digest(value)] for pin in pins for _, _, args, _ in pin.partials for value in args]
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
        pins=(*pins, *[Pin(part) for part in plumbing]) if pins else (),
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


def _source_digest(target: Any, pins: tuple[Pin, ...]) -> str:
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
    return digest({name: value_digest(value) for name, value in defaults.items()})


def _signature_digest(fn: Any) -> str:
    shape = [[name, p.kind.name, str(p.annotation), p.default is p.empty] for name, p in inspect.signature(fn).parameters.items()]
    return digest(shape)


def commitment_bytes(value: Any) -> tuple[bytes, str]:
    """What an output commits to: (bytes, form). `json` is its JCS form, `stream` what became of one; all else is named by its type."""
    if type(value) is StreamOutput:
        return value.commitment(), "stream"
    try:
        return jcs(value), "json"
    except (InvalidInput, RuntimeError, KeyError):  # not JSON, or changed by another thread meanwhile
        return type_name(value).encode(), "type"


def type_name(value: Any) -> str:
    """The qualified name of a value's type, short and in ASCII whatever somebody called it."""
    return f"{type(value).__module__}.{type(value).__qualname__}"[:256].encode("ascii", "backslashreplace").decode()[:256]


class StreamOutput:
    """What a stream put out: a running digest of its items, and their bytes as long as they are few."""

    LIMIT: Final = 64 * 1024

    def __init__(self) -> None:
        self._hash, self._kept, self._size = hashlib.sha256(), bytearray(), 0

    def add(self, item: Any) -> None:
        data = commitment_bytes(item)[0] + b"\n"
        self._hash.update(data)
        self._size += len(data)
        if self._size <= self.LIMIT:
            self._kept += data

    def commitment(self) -> bytes:
        """The digest of all items, and those that are kept."""
        return b"sha256:%b\n%b" % (self._hash.hexdigest().encode(), bytes(self._kept))
