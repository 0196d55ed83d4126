"""Cases: what is not allowed does not run, and the model is told so."""

from __future__ import annotations

import pytest

from agentguard import Guard
from agentguard.testing.cases.frame import Frame
from agentguard.testing.evidence import answered, denied_in, records
from agentguard.testing.notes import Notes, bodied, note
from agentguard.testing.scene import Call, Mode, Scene

SECRET = "s" * 41  # too long for `text`, and not to be told to the model


class Denials(Frame):
    """What is not allowed does not run, and the model is told so."""

    def test_an_allowed_call_runs(self, conforming: Guard, mode: Mode) -> None:
        notes = Notes()
        with conforming.task("lead", initiator="user:test"):
            replies = self.one(conforming, notes, mode, note(times=3))
        assert [reply.code for reply in replies] == [None]
        assert "noted hello" in replies[0].text
        assert notes.taken == [{"text": "hello", "times": 3, "tags": ["a"]}]

    def test_deny_prevents_execution(self, conforming: Guard, mode: Mode) -> None:
        notes = Notes()
        with conforming.task("lead", initiator="user:test"):
            replies = self.one(conforming, notes, mode, note(times=4))
        assert notes.taken == []
        assert [reply.code for reply in replies] == ["argument_not_allowed"]

    def test_a_denial_lets_the_model_go_on(self, conforming: Guard, mode: Mode) -> None:
        notes = Notes()
        with conforming.task("lead", initiator="user:test"):
            replies = self.one(conforming, notes, mode, note(text=SECRET), note())
        assert [reply.code for reply in replies] == ["argument_not_allowed", None]
        assert len(notes.taken) == 1

    def test_a_denial_says_nothing_that_was_found(self, conforming: Guard, mode: Mode) -> None:
        with conforming.task("lead", initiator="user:test"):
            (reply,) = self.one(conforming, Notes(), mode, note(text=SECRET))
        assert reply.code is not None
        assert SECRET not in reply.text

    def test_a_denial_may_be_raised(self, conforming: Guard, mode: Mode) -> None:
        """As it is, or as the cause or context of an exception of the framework's."""
        notes = Notes()
        with conforming.task("lead", initiator="user:test"), pytest.raises(Exception) as caught:  # the framework's own
            self.one(conforming, notes, mode, note(times=4), on_deny="raise")
        denied = denied_in(caught.value)
        assert denied is not None, f"{caught.value!r} does not come from a denial"
        assert denied.code == "argument_not_allowed"
        assert notes.taken == []

    def test_without_a_task_nothing_runs(self, conforming: Guard, mode: Mode) -> None:
        notes = Notes()
        replies = self.one(conforming, notes, mode, note())
        assert [reply.code for reply in replies] == ["artifact_missing"]
        assert notes.taken == []

    def test_a_tool_that_nobody_knows_does_not_run(self, conforming: Guard, mode: Mode) -> None:
        with conforming.task("lead", initiator="user:test"):
            self.one(conforming, Notes(), mode, Call("delete_all", {}), note())
        assert not records(conforming, "decision", tool="delete_all", verdict="allow")

    def test_an_ask_names_its_request_and_its_answer_is_good_for_one_call(self, conforming: Guard, mode: Mode) -> None:
        signed: list[str] = []

        def sign_off(text: str, times: int, tags: list[str]) -> str:
            signed.append(text)
            return "signed"

        def said() -> tuple[str | None, str]:
            call = Call("sign_off", {"text": "the budget", "times": 1, "tags": []})
            (reply,) = self.play(Scene(conforming, "lead", [bodied(mode, "sign_off", sign_off)], [[call]]), mode)
            return reply.code, reply.text

        with conforming.task("lead", initiator="user:test"):
            code, text = said()
            (request,) = answered(conforming, "user:approver")
            assert (code, signed) == ("approval_required", [])
            assert f"Request {request} was put" in text
            assert said()[0] is None
            assert signed == ["the budget"]
            assert said()[0] == "approval_required"
            assert signed == ["the budget"]
