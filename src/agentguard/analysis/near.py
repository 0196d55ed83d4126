"""Values near a refused one that a constraint accepts: what somebody meant to pass, or may pass instead.

Every value that is given was accepted by the constraint itself; what is near is only guessed, never decided by.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher
from typing import Any, Final

from agentguard.analysis.formulas import leaves
from agentguard.analysis.samples import samples
from agentguard.canonical import Frozen
from agentguard.constraints.addresses import DEFAULT_PORTS, Email, Url
from agentguard.constraints.matchers import Length, Path, TypeIs
from agentguard.constraints.values import ARRAYS, admissible, key, spellings
from agentguard.constraints.vocabulary import Constraint, Contains, Exact, NotOneOf, OneOf, Range, Subset

_MOST: Final = 3
#: How many constants of a long list are compared, and how much of a long text.
_FEW: Final = 500
_READ: Final = 200


def near(constraint: Constraint, value: Frozen, most: int = _MOST) -> tuple[Frozen, ...]:
    """Up to `most` values that `constraint` accepts, the nearest to `value` first; any that it accepts where none is near."""
    found: dict[Any, Frozen] = {}
    for guess in _guesses(list(leaves(constraint)), value):
        if constraint.check(guess):
            found.setdefault(key(guess), guess)
    return tuple(sorted(found.values(), key=lambda guess: _distance(value, guess))[:most]) or example(constraint)


def example(constraint: Constraint) -> tuple[Frozen, ...]:
    """One value that it accepts; none where none is easily found."""
    return next(((value,) for value in samples(leaves(constraint)) if constraint.check(value)), ())


def _guesses(parts: list[Constraint], value: Frozen) -> Iterator[Frozen]:
    if type(value) is int or type(value) is float:
        yield from (*spellings(value), str(value))  # `1` where `1.0` is refused by its type
    elif type(value) is str and not any(isinstance(leaf, NotOneOf) for leaf in parts):  # nobody is told to write ROOT for root
        yield from _tidied(value)
    for leaf in parts:
        yield from _toward(leaf, value)


def _tidied(text: str) -> Iterator[Frozen]:
    """What a text may have been meant to be."""
    plain = text.strip()
    yield from (plain, plain.lower(), plain.upper())
    for number in (int, float):
        try:
            found = number(plain)
        except ValueError:
            continue
        if admissible(found):
            yield found


def _toward(leaf: Constraint, value: Frozen) -> Iterator[Frozen]:
    """The value, brought nearer to what one constraint asks for."""
    if isinstance(leaf, Exact):
        yield leaf.value
    elif isinstance(leaf, OneOf):
        yield from leaf.values[:_FEW]
    elif isinstance(leaf, Range):
        yield from _bounds(leaf)
    elif isinstance(leaf, Email) and type(value) is str:
        local = value.strip().partition("@")[0]
        yield from (f"{local}@{domain}" for domain in leaf.domains if not domain.startswith("*."))
    elif isinstance(leaf, Path) and type(value) is str:
        yield from (leaf.prefix + value.lstrip("/"), leaf.prefix + value.rstrip("/").rpartition("/")[2], leaf.root)
    elif isinstance(leaf, Url) and type(value) is str:
        yield from _urls(leaf, value)
    elif isinstance(leaf, Length) and type(value) is str and leaf.max is not None:
        yield value[: leaf.max]
    elif isinstance(leaf, TypeIs) and leaf.type == "array" and type(value) not in ARRAYS:
        yield (value,)
    elif isinstance(leaf, Subset):
        items = value if type(value) in ARRAYS else (value,)
        yield tuple(item for item in items if key(item) in leaf.keys)
    elif isinstance(leaf, Contains):
        items = value if type(value) in ARRAYS else (value,)
        there = {key(item) for item in items}
        yield (*items, *(item for item in leaf.required if key(item) not in there))


def _bounds(leaf: Range) -> Iterator[Frozen]:
    for bound, inclusive, inward in ((leaf.min, leaf.min_inclusive, 1), (leaf.max, leaf.max_inclusive, -1)):
        if bound is not None:
            yield bound if inclusive else bound + inward


def _urls(leaf: Url, value: str) -> Iterator[str]:
    """The URL with what of it is refused changed: scheme, host, port, and the path if need be."""
    rest = value.strip().partition("://")[2] or value.strip()
    authority, slash, tail = rest.partition("/")
    hosts = [authority.rpartition("@")[2].partition(":")[0].lower(), *(host for host in leaf.hosts if not host.startswith("*."))]
    for host in hosts:
        for scheme in leaf.schemes:
            for port in leaf.ports or (DEFAULT_PORTS.get(scheme),):
                where = f"{scheme}://{host}" + ("" if port in (None, DEFAULT_PORTS.get(scheme)) else f":{port}")
                yield where + slash + tail
                yield f"{where}{leaf.path or '/'}"


def _distance(value: Frozen, guess: Frozen) -> tuple[int, float]:
    if type(value) is str and type(guess) is str:
        return (0, 1 - SequenceMatcher(None, value[:_READ].lower(), guess[:_READ].lower(), autojunk=False).ratio())
    if type(value) in (int, float) and type(guess) in (int, float):
        return (0, abs(float(value) - float(guess)))
    if type(value) in ARRAYS and type(guess) in ARRAYS:
        mine, theirs = set(map(key, value)), set(map(key, guess))
        return (0, len(mine ^ theirs))
    return (0 if type(value) is type(guess) else 1, 0.0)


def closest(name: str, known: Iterable[str]) -> str:
    """The name that is spelled most like it, or nothing."""
    from difflib import get_close_matches

    return next(iter(get_close_matches(name[:64], list(known), n=1)), "")
