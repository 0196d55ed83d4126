"""Plain values near the edges of constraints: what a reader would try first as an example, or as a counterexample."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Iterable, Iterator
from typing import Final

from agentguard.canonical import Frozen
from agentguard.constraints.addresses import Cidr, Email, Url
from agentguard.constraints.matchers import Glob, Length, Path, TypeIs
from agentguard.constraints.values import spellings
from agentguard.constraints.vocabulary import LARGEST, Constraint, Contains, Exact, NotOneOf, OneOf, Range, Subset

#: Of long lists a few are enough, and a longer text is for z3 to make.
_FEW: Final = 16
_LONG: Final = 20_000
_PLAIN: Final[tuple[Frozen, ...]] = ("x", "", 1, 0, True, None, (), ("x",), {}, 0.5, -1)


def samples(leaves: Iterable[Constraint]) -> Iterator[Frozen]:
    """Values that some of the constraints accept and others refuse, the readable ones first."""
    for leaf in leaves:
        yield from _near(leaf)
    yield from _PLAIN


def _near(leaf: Constraint) -> Iterator[Frozen]:
    if isinstance(leaf, Exact):
        yield from spellings(leaf.value)
    elif isinstance(leaf, OneOf):
        yield from leaf.values[:_FEW]
    elif isinstance(leaf, NotOneOf):
        yield from leaf.excluded[:_FEW]
    elif isinstance(leaf, Range):
        yield from _numbers(leaf)
    elif isinstance(leaf, Contains):
        yield leaf.required
    elif isinstance(leaf, Subset):
        yield from (leaf.allowed, leaf.allowed[:1], (*leaf.allowed, "other"))
    elif isinstance(leaf, TypeIs):
        yield from {"array": ((),), "object": ({},), "boolean": (True,), "null": (None,), "string": ("x",)}.get(leaf.type, (1, 0.5))
    else:
        yield from _texts(leaf)


def _numbers(leaf: Range) -> Iterator[Frozen]:
    for bound, beyond in ((leaf.low, leaf.low - 1), (leaf.high, leaf.high + 1)):
        if abs(bound) < LARGEST:
            for double in (bound, beyond, math.nextafter(bound, beyond)):
                yield from reversed(spellings(double))


def _texts(leaf: Constraint) -> Iterator[str]:
    if isinstance(leaf, Email):
        for domain in leaf.domains[:_FEW]:
            yield f"bob@{domain.replace('*', 'mail')}"
        yield "eve@evil.test"
    elif isinstance(leaf, Url):
        for host in leaf.hosts[:_FEW]:
            for scheme in leaf.schemes:
                for port in (*(f":{port}" for port in leaf.ports), ""):
                    yield f"{scheme}://{host.replace('*', 'en')}{port}{leaf.path or '/'}"
        yield from ("https://evil.test/", "http://evil.test/")
    elif isinstance(leaf, Path):
        yield from (leaf.prefix + "a", leaf.root, "/etc/passwd")
    elif isinstance(leaf, Glob):
        yield leaf.pattern.replace("*", "a").replace("?", "a")
        yield leaf.pattern.replace("*", "").replace("?", "a")
    elif isinstance(leaf, Length):
        yield from (
            "x" * length
            for length in (leaf.low, leaf.low - 1, leaf.max, (leaf.max or 0) + 1)
            if length is not None and 0 <= length <= _LONG
        )
    elif isinstance(leaf, Cidr):
        net = ipaddress.ip_network(leaf.network)
        yield from (str(net[0]), str(net[-1]), "203.0.113.7", "2001:db8::7")
