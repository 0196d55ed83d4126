"""Cases: however a call ends, it is recorded, and what the policy withholds reaches nobody."""

from __future__ import annotations

import asyncio
import traceback
from typing import Final

import pytest

from agentguard import Guard
from agentguard.testing.cases.frame import Frame
from agentguard.testing.evidence import records
from agentguard.testing.notes import BrokenToolError, Notes, bodied, named, note
from agentguard.testing.scene import Call, Mode, Scene

#: In the form of an access key.
SECRET: Final = "AKIA" + "QQ22RR33SS44TT55"


class Outcomes(Frame):
    """However a call ends, it is recorded, and what the policy withholds reaches nobody."""

    def test_an_exception_of_the_tool_is_recorded_and_passed_on(self, conforming: Guard, mode: Mode) -> None:
        def breaks() -> None:
            raise BrokenToolError("the tool broke")

        try:
            with conforming.task("lead", initiator="user:test"):
                said = self.one(conforming, Notes(breaks), mode, note())[0].text
        except Exception as error:  # noqa: BLE001  # frameworks wrap it in exceptions of their own
            said = f"{error!r} {error.__cause__!r}"
        assert "the tool broke" in said
        (outcome,) = records(conforming, "outcome")
        assert (outcome["status"], outcome["error"].rpartition(".")[2]) == ("error", self.tool_error)

    def _confided(self, guard: Guard, mode: Mode, answer: str, *, broken: bool = False) -> str:
        """All that is said of a call of a tool whose outputs are under a rule: to the model, or by what the framework raises."""

        def body(text: str, times: int, tags: list[str]) -> str:
            if broken:
                raise BrokenToolError(answer)
            return answer

        scene = Scene(guard, "lead", [bodied(mode, "confide", body)], [[Call("confide", {"text": "hello", "times": 1, "tags": []})]])
        try:
            with guard.task("lead", initiator="user:test"):
                return self.play(scene, mode)[0].text
        except Exception as error:  # noqa: BLE001  # frameworks wrap it in exceptions of their own
            return "".join(traceback.format_exception(error))

    def test_an_output_is_redacted_before_the_model_has_it(self, conforming: Guard, mode: Mode) -> None:
        said = self._confided(conforming, mode, f"the key is {SECRET}")
        assert SECRET not in said
        assert "the key is [redacted-aws]" in said
        (outcome,) = records(conforming, "outcome")
        assert (outcome["status"], outcome["shaped"]["truncated"]) == ("ok", False)

    def test_what_the_policy_withholds_reaches_nobody(self, conforming: Guard, mode: Mode) -> None:
        for answer, broken in (("too much of it " * 200, False), (f"401 for {SECRET}", True)):
            said = self._confided(conforming, mode, answer, broken=broken)
            assert answer[:30] not in said
            assert SECRET not in said
            assert "withheld" in said
        assert [outcome["status"] for outcome in records(conforming, "outcome")] == ["error", "error"]

    def test_a_cancelled_call_is_recorded(self, conforming: Guard, async_mode: Mode) -> None:
        async def cancelled() -> None:
            started = asyncio.Event()

            async def endless(text: str, times: int, tags: list[str]) -> str:
                """Takes a note."""
                started.set()
                await asyncio.sleep(60)
                return "never"

            scene = Scene(conforming, "lead", [named("note", endless)], [[note()]])
            run = asyncio.create_task(self.arun(scene, async_mode))
            await asyncio.wait_for(started.wait(), 30)
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run

        with conforming.task("lead", initiator="user:test"):
            asyncio.run(cancelled())
        (outcome,) = records(conforming, "outcome")
        assert outcome["status"] == "cancelled"

    def test_a_replayed_call_id_is_refused(self, conforming: Guard, mode: Mode) -> None:
        notes = Notes()
        with conforming.task("lead", initiator="user:test"):
            replies = self.one(conforming, notes, mode, note(id="same"), note(id="same"))
        ids = [decision["call_id"] for decision in records(conforming, "decision", tool="note")]
        if self.names_calls:
            assert [reply.code for reply in replies] == [None, "replay_detected"]
            assert ids == ["same", "same"]
        else:  # nobody tells the guard an id: each call is an execution of its own
            assert [reply.code for reply in replies] == [None, None]
            assert len(set(ids)) == 2
            assert "same" not in ids
        assert len(notes.taken) == (1 if self.names_calls else 2)

    def test_parallel_calls_are_judged_one_by_one(self, conforming: Guard, mode: Mode) -> None:
        notes = Notes()
        with conforming.task("lead", initiator="user:test"):
            scene = Scene(conforming, "lead", [notes.tool(mode)], [[note(times=1), note(times=4), note(times=2)]])
            replies = self.play(scene, mode)
        assert [reply.code for reply in replies] == [None, "argument_not_allowed", None]
        assert sorted(taken["times"] for taken in notes.taken) == [1, 2]
