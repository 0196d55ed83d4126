"""The edges of budgets: the largest cost, the first second, the shortest window (policy/budgets.py)."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest

from agentguard.admission import Charge
from agentguard.policy.budgets import Budget, Window, millionths

LARGEST = 2**53


@pytest.mark.parametrize(
    ("now", "index"), [(-1, 0), (0, 0), (1, 1), (2, 2)], ids=["before 1970", "the first second", "the second one", "the third one"]
)
def test_a_window_of_a_second_moves_on_each_second(now: int, index: int) -> None:
    fixed = Budget(5, "b", "p", window=Window(1, sliding=False)).charge("clerk", "u", {}, now)
    assert fixed == Charge(f"budget/clerk/b@{index:012d}~{index + 1}", 5, "b")
    sliding = Budget(5, "b", "p", window=Window(1, sliding=True)).charge("clerk", "u", {}, now)
    prior = (f"budget/clerk/b@{max(index - 1, 0):012d}", f"budget/clerk/b@{index:012d}")
    assert sliding == Charge(f"budget/clerk/b@{index:012d}~{index + 2}", 5, "b", 1, prior)


def test_a_cost_is_rounded_up_and_never_beyond_what_can_be_counted() -> None:
    """A cost that is counted too low, or not at all, would let an agent spend more than its limit."""
    edge = LARGEST / 1_000_000
    for value in (edge, math.nextafter(edge, 0), 0.1, 1e-300, 5e-324, 1234.5678915, 9007199254.0):
        counted = millionths(value)
        assert counted is not None
        assert counted - 1 < Fraction(repr(value)) * 1_000_000 <= counted <= LARGEST
    for value in (math.nextafter(edge, math.inf), edge * 2, 1e16, 1e22, 1e300, math.inf, -5e-324, -math.inf):
        assert millionths(value) is None
