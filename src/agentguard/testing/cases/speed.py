"""Case: what the guard adds to a call is measured. Nothing is asserted about time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

from agentguard import Guard
from agentguard.testing.cases.frame import Frame
from agentguard.testing.evidence import records
from agentguard.testing.notes import Notes, note
from agentguard.testing.scene import Mode, Scene


class Overhead(NamedTuple):
    """Microseconds from one run of a tool's body to the next, medians: the framework, its scripted model, and the guard if there is one."""

    unguarded_us: float
    guarded_us: float
    added_us: float


class Speed(Frame):
    """What the guard adds to a call is measured."""

    def overhead(self, guard: Guard, mode: Mode, *, rounds: int = 3, calls: int = 5) -> Overhead:
        """Play the same calls with the guard and without it, in turn. `guard` has the suite's policy."""
        spans: dict[Guard | None, list[float]] = {None: [], guard: []}
        for _ in range(rounds):
            for one, spent in spans.items():
                began: list[int] = []
                notes = Notes(lambda began=began: began.append(time.perf_counter_ns()))  # type: ignore[misc]  # bound in the loop
                with guard.task("lead", initiator="user:test"):
                    self.play(Scene(one, "lead", [notes.tool(mode)], [[note(text=f"note {turn}")] for turn in range(calls)]), mode)
                assert len(notes.taken) == calls
                spent += [(later - earlier) / 1000 for earlier, later in pairwise(began)]
        unguarded, guarded = (round(statistics.median(spent), 1) for spent in spans.values())
        return Overhead(unguarded, guarded, round(guarded - unguarded, 1))

    def test_overhead_is_measured(self, conforming: Guard, mode: Mode, record_property: Callable[[str, object], None]) -> None:
        """All calls run with the guard and without it, and just the guarded ones are judged."""
        found = self.overhead(conforming, mode)
        record_property("overhead", {"mode": mode, **found._asdict()})
        assert len(records(conforming, "decision", verdict="allow")) == len(records(conforming, "decision")) == 15
