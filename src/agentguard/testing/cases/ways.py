"""Cases: no way to a tool goes past the guard, and all ways agree."""

from __future__ import annotations

from collections.abc import Callable

from agentguard import Denied, Guard
from agentguard.testing.cases.frame import Frame
from agentguard.testing.notes import Notes, note
from agentguard.testing.scene import Scene

TOO_OFTEN = {"text": "hello", "times": 4, "tags": ["a"]}


class Ways(Frame):
    """No way to a tool goes past the guard, and all ways agree."""

    def test_no_twin_goes_past_the_guard(self, conforming: Guard, record_property: Callable[[str, object], None]) -> None:
        record_property("out_of_reach", dict(self.out_of_reach))
        notes = Notes()
        names = set()
        with conforming.task("lead", initiator="user:test"):
            for name, way in self.twins(conforming, notes.tool("sync")).items():
                names.add(name)
                notes.taken.clear()
                try:
                    way(dict(TOO_OFTEN))
                except Denied:
                    assert name not in self.out_of_reach
                assert bool(notes.taken) == (name in self.out_of_reach), f"{name}: unexpected, the tool ran with {notes.taken}"
        assert names >= self.out_of_reach.keys()

    def test_a_twin_that_is_allowed_runs_once(self, conforming: Guard) -> None:
        notes = Notes()
        with conforming.task("lead", initiator="user:test"):
            for name, way in self.twins(conforming, notes.tool("sync")).items():
                notes.taken.clear()
                way({**TOO_OFTEN, "times": 3})
                assert len(notes.taken) == 1, f"{name} ran the tool {len(notes.taken)} times"

    def test_all_modes_agree(self, conforming: Guard) -> None:
        outcomes = []
        for mode in self.modes:
            notes = Notes()
            steps = [[call] for call in (note(times=2), note(times=4), note(tags=["z"]), note(times="3"))]
            with conforming.task("lead", initiator="user:test"):
                replies = self.play(Scene(conforming, "lead", [notes.tool("sync")], steps), mode)
            outcomes.append(([reply.code for reply in replies], notes.taken))
        assert all(outcome == outcomes[0] for outcome in outcomes)
