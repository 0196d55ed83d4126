"""What a condition can come to where one argument is left out: whoever reads an absent argument fails the whole condition."""

from __future__ import annotations

from typing import Literal

from agentguard.policy.condition_tree import Every, Has, Not, Some, Test, names

Outcome = Literal["true", "false", "error"]
_EITHER: frozenset[Outcome] = frozenset({"true", "false"})
_TURNED: dict[Outcome, Outcome] = {"true": "false", "false": "true", "error": "error"}


def never_holds(tree: Test, argument: str) -> bool:
    """Whether no call without this argument meets the condition. Of what is not about the argument, anything is thought possible."""
    return "true" not in _outcomes(tree, argument)


def _outcomes(tree: Test, argument: str) -> frozenset[Outcome]:
    if isinstance(tree, Every):
        return _in_order(tree.parts, argument, "true")
    if isinstance(tree, Some):
        return _in_order(tree.parts, argument, "false")
    if isinstance(tree, Not):
        return frozenset(_TURNED[each] for each in _outcomes(tree.part, argument))
    if all(name.path[0] != argument for name in names(tree)):
        return _EITHER
    return frozenset({"false" if isinstance(tree, Has) else "error"})


def _in_order(parts: tuple[Test, ...], argument: str, onward: Outcome) -> frozenset[Outcome]:
    """From left to right, as far as each part comes to `onward`."""
    found = frozenset({onward})
    for part in parts:
        if onward in found:
            found = found - {onward} | _outcomes(part, argument)
    return found
