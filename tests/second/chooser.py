"""Where the choices of a case come from: hypothesis (it shrinks, but repeats itself) or a seed (uniform, no shrinking)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from hypothesis import strategies as st


class Chooser(Protocol):
    """A source of choices."""

    def integer(self, low: int, high: int) -> int:
        """One of ``low`` to ``high``, both included."""

    def pick(self, options: Iterable[Any]) -> Any:
        """One of the options."""

    def chance(self, percent: int) -> bool:
        """True in so many of a hundred."""

    def shuffled(self, options: Iterable[Any]) -> list[Any]:
        """All of the options in any order."""


class Drawn:
    """Choices drawn by hypothesis."""

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
        self._draw = draw

    def integer(self, low: int, high: int) -> int:
        return int(self._draw(st.integers(low, high)))

    def pick(self, options: Iterable[Any]) -> Any:
        return self._draw(st.sampled_from(list(options)))

    def chance(self, percent: int) -> bool:
        return self.integer(0, 99) < percent

    def shuffled(self, options: Iterable[Any]) -> list[Any]:
        return list(self._draw(st.permutations(list(options))))


class Seeded:
    """Choices from a seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def integer(self, low: int, high: int) -> int:
        return self._random.randint(low, high)

    def pick(self, options: Iterable[Any]) -> Any:
        return self._random.choice(list(options))

    def chance(self, percent: int) -> bool:
        return self._random.randrange(100) < percent

    def shuffled(self, options: Iterable[Any]) -> list[Any]:
        found = list(options)
        self._random.shuffle(found)
        return found
