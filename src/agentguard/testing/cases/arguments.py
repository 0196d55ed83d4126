"""Cases: what was checked is what runs."""

from __future__ import annotations

from typing import Any

from agentguard import Guard
from agentguard.testing.cases.frame import Frame
from agentguard.testing.evidence import checked, records
from agentguard.testing.notes import Notes, bodied, note
from agentguard.testing.scene import Call, Mode, Scene


class Arguments(Frame):
    """What was checked is what runs."""

    def test_the_tool_gets_the_checked_arguments(self, conforming: Guard, mode: Mode) -> None:
        notes = Notes()
        with conforming.task("lead", initiator="user:test"):
            self.one(conforming, notes, mode, note(times=2, tags=["a", "b"]))
        (decision,) = records(conforming, "decision", verdict="allow")
        assert notes.taken == [checked(conforming, decision["id"])]

    def test_rewriting_by_another_hook_is_caught(self, conforming: Guard, mode: Mode) -> None:
        """What was checked runs, or nothing does."""
        notes = Notes()
        with conforming.task("lead", initiator="user:test"):
            self.one(conforming, notes, mode, note(), rewrite=lambda tool, arguments: {**arguments, "times": 4})
        assert notes.taken in ([], [note().arguments])

    def test_rewriting_in_place_is_caught(self, conforming: Guard, mode: Mode) -> None:
        """A hook that keeps the arguments it saw and changes a nested one later changes nothing that runs."""
        notes = Notes()

        def tamper(tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
            notes.before = lambda: arguments["tags"].append("c")
            return arguments

        with conforming.task("lead", initiator="user:test"):
            self.one(conforming, notes, mode, note(tags=["a"]), rewrite=tamper)
        for taken, decision in zip(notes.taken, records(conforming, "decision", verdict="allow"), strict=True):
            assert taken == checked(conforming, decision["id"])

    def test_defaults_are_checked(self, conforming: Guard, mode: Mode) -> None:
        taken: list[int] = []
        tool = bodied(mode, "note", lambda text, times, tags: taken.append(times), times=9)
        with conforming.task("lead", initiator="user:test"):
            replies = self.play(Scene(conforming, "lead", [tool], [[Call("note", {"text": "hello", "tags": ["a"]})]]), mode)
        assert taken == []
        assert [reply.code for reply in replies] == ["argument_not_allowed"]

    def test_nested_arguments_are_checked(self, conforming: Guard, mode: Mode) -> None:
        notes = Notes()
        with conforming.task("lead", initiator="user:test"):
            replies = self.one(conforming, notes, mode, note(tags=["a", "z"]), note(tags=[["a"]]))
        assert notes.taken == []
        assert all(reply.code for reply in replies)

    def test_coerced_arguments_are_checked_as_the_tool_gets_them(self, conforming: Guard, mode: Mode) -> None:
        notes = Notes()
        with conforming.task("lead", initiator="user:test"):
            self.one(conforming, notes, mode, note(times="2"), note(times="4"), note(times=4.0), note(times=True))
        for taken, decision in zip(notes.taken, records(conforming, "decision", verdict="allow"), strict=True):
            assert 1 <= taken["times"] <= 3
            assert taken == checked(conforming, decision["id"])

    def test_surplus_arguments_are_refused(self, conforming: Guard, mode: Mode) -> None:
        notes = Notes()
        with conforming.task("lead", initiator="user:test"):
            replies = self.one(conforming, notes, mode, note(as_admin=True))
        assert notes.taken == []
        assert replies[0].code is not None
