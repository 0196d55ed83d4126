"""Search for a call that a child admits and its parent refuses.

DESIGN lets the product accept more narrowings between profile links than the draft's table does, if they are sound.
Which, is the product's business; so this module judges the other way round: it denies only with a counterexample in
hand. Finding none proves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .constraints import Constraint, accepts, argument_problem, is_required, named, normalized
from .samples import probes

FRESH_ARGUMENT = "fresh_argument"


@dataclass(frozen=True)
class Witness:
    """A counterexample: a value for ``narrowing_refuted``, the arguments of a call for ``map_refuted``. Always true."""

    value: Any


def narrowing_refuted(child: Constraint, parent: Constraint) -> Witness | None:
    """A value that the child accepts and the parent does not, if one is found."""
    for value in probes(child, parent):
        if accepts(child, value) and not accepts(parent, value):
            return Witness(value)
    return None


def _some_value(constraint: Constraint, *others: Constraint) -> Witness | None:
    """A value that the constraint accepts, preferably one that the others accept as well."""
    accepted = [value for value in probes(constraint, *others) if accepts(constraint, value)]
    accepted.sort(key=lambda value: sum(not accepts(other, value) for other in others))
    return Witness(accepted[0]) if accepted else None


def map_refuted(child: dict[str, Constraint], parent: dict[str, Constraint]) -> Witness | None:
    """The arguments of a call that the child's map admits and the parent's refuses, if found."""
    child, parent = normalized(child), normalized(parent)
    below, above = named(child), named(parent)
    smallest: dict[str, Any] = {}
    for name, constraint in below.items():
        if is_required(constraint):
            found = _some_value(constraint, *([above[name]] if name in above else []))
            if found is None:  # as far as we can see, the child's map admits no call at all
                return None
            smallest[name] = found.value
    if argument_problem(parent, smallest):
        return Witness(smallest)
    for name in [*below, *(name for name in above if name not in below), FRESH_ARGUMENT]:
        own = below.get(name, child.get("*"))
        if own is None:
            continue
        parents = above.get(name, parent.get("*"))
        for value in probes(own, *([parents] if parents else [])):
            if accepts(own, value) and (parents is None or not accepts(parents, value)):
                return Witness({**smallest, name: value})
    return None
