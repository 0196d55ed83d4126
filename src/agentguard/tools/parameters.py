"""How a tool takes its arguments: positions, names and defaults, bound before anything is judged (DESIGN §5)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from agentguard.canonical import Frozen, freeze, thaw
from agentguard.errors import InvalidInput

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


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
        arguments = {name: value if type(value) is str else thaw(value) for name, value in bound.items()}
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
