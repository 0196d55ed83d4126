"""Cases: where the guard fails, no tool runs."""

from __future__ import annotations

from agentguard import Guard
from agentguard.testing.cases.frame import Frame
from agentguard.testing.evidence import records
from agentguard.testing.notes import Notes, note
from agentguard.testing.scene import Mode


class Faults(Frame):
    """Where the guard fails, no tool runs."""

    def test_a_crash_of_the_guard_prevents_execution(self, conforming: Guard, mode: Mode) -> None:
        notes = Notes()
        with conforming.task("lead", initiator="user:test"):
            self.one(conforming, Notes(), mode, note())
            conforming.home.state.close()
            replies = self.one(conforming, notes, mode, note())
        assert notes.taken == []
        assert replies[0].code in ("state_unavailable", "guard_error")

    def test_a_failing_log_prevents_execution(self, conforming: Guard, mode: Mode) -> None:
        notes = Notes()
        with conforming.task("lead", initiator="user:test"):
            self.one(conforming, Notes(), mode, note())
            conforming.poison("the disk is full")
            replies = self.one(conforming, notes, mode, note())
        assert notes.taken == []
        assert [reply.code for reply in replies] == ["evidence_unavailable"]

    def test_evidence_precedes_execution(self, conforming: Guard, mode: Mode) -> None:
        seen: list[tuple[int, int]] = []

        def look() -> None:
            allowed = records(conforming, "decision", tool="note", verdict="allow")
            seen.append((len(allowed), len(records(conforming, "outcome"))))

        with conforming.task("lead", initiator="user:test"):
            self.one(conforming, Notes(look), mode, note())
        assert seen == [(1, 0)]
        (outcome,) = records(conforming, "outcome")
        assert outcome["status"] == "ok"
