"""Disks that are really full: that of the log, of the values beside it, of the state. Nothing runs without evidence, nothing that was
acknowledged is lost, the error says what is wrong, and when there is room again the work goes on."""

from __future__ import annotations

import os
from contextlib import suppress
from errno import ENOSPC
from pathlib import Path

import pytest

from agentguard import Denied, Guard, ToolCall
from agentguard.decision import Code
from agentguard.errors import AgentguardError, EvidenceUnavailable, OutcomeUnrecorded, StateUnavailable
from agentguard.log import Durability
from agentguard.state.store import State
from agentguard.task import Task
from support.faulty import POLICY, findings, read
from support.small_disks import apart, disk, fill, resize

FULL = os.strerror(ENOSPC)


class Caller:
    """Makes calls until one is refused, and knows what became of each. A value is as long as `size` says."""

    def __init__(self, home: Path, size: int = 1) -> None:
        self.home, self.size = home, size
        self.ran: list[str] = []
        self.answered: list[str] = []
        self.refused: dict[str, AgentguardError] = {}
        self._made = 0

    def act(self, n: str) -> int:
        self.ran.append(n[:8].strip())
        return 1

    def call(self, guard: Guard) -> AgentguardError | None:
        """One call: None if it was answered."""
        self._made += 1
        name, tool = f"call {self._made:03}", guard.tool(self.act)
        try:
            guard.check(ToolCall("worker", "act", {"n": name.ljust(self.size)}, name)).run(tool)
        except AgentguardError as error:
            self.refused[name] = error
            return error
        self.answered.append(name)
        return None

    def until_refused(self, guard: Guard) -> AgentguardError:
        for _ in range(500):
            error = self.call(guard)
            if error is not None:
                return error
        raise AssertionError("the disk never got full")

    def judge(self) -> None:
        """What the log says of each call is what its caller was told."""
        records = read(self.home)
        decisions = {one["call_id"]: one for one in records if one["type"] == "decision"}
        assert len(decisions) == sum(one["type"] == "decision" for one in records), "one decision for each call"
        outcomes = {one["execution"]: one["status"] for one in records if one["type"] == "outcome"}
        for name in self.answered:
            assert decisions[name]["verdict"] == "allow"
            assert outcomes[decisions[name]["id"]] == "ok"
        for name, error in self.refused.items():
            assert (name in self.ran) == isinstance(error, OutcomeUnrecorded)
            if name not in self.ran and name in decisions:
                assert decisions[name]["verdict"] == "deny" or decisions[name]["id"] not in outcomes
        assert set(self.ran) <= decisions.keys()
        found = findings(self.home)
        assert [one for one in found if one.severity == "error"] == []
        allowed = {one["id"] for one in decisions.values() if one["verdict"] == "allow"}
        assert sum(one.kind == "unknown" for one in found) == len(allowed - outcomes.keys())


def opened(home: Path, durability: Durability = "fsync") -> Guard:
    return Guard.open(POLICY, home=home, durability=durability)


def task_of(guard: Guard) -> Task:
    return guard.task("worker", initiator="user:ann")


def code_of(error: AgentguardError | None) -> Code | None:
    assert isinstance(error, Denied)
    return error.code


@pytest.mark.parametrize("durability", ["fsync", "process"])
def test_one_disk_for_everything(place: Path, durability: Durability) -> None:
    home = place / "home"

    def work() -> None:
        disk(home, 12 << 10)
        caller = Caller(home, size=2000)
        guard = opened(home, durability)
        with task_of(guard):
            assert [caller.call(guard) for _ in range(100)] == [None] * 100
            ballast = fill(home)
            assert FULL in str(caller.until_refused(guard))
            for _ in range(3):
                assert code_of(caller.call(guard)) is Code.EVIDENCE_UNAVAILABLE
        with suppress(EvidenceUnavailable):  # the last checkpoint finds no room either
            guard.close()
        ballast.unlink()
        caller.judge()
        with opened(home, durability) as guard, task_of(guard):
            assert [caller.call(guard) for _ in range(100)] == [None] * 100
        caller.judge()

    errors = apart(work, place)
    assert all("level='warning' event='" in line for line in errors.splitlines()), errors


@pytest.mark.parametrize("kilobytes", [60, 64, 68, 72])
def test_the_disk_of_the_log(place: Path, kilobytes: int) -> None:
    home = place / "home"

    def work() -> None:
        disk(home / "log", kilobytes)
        caller = Caller(home)
        guard = opened(home)
        with task_of(guard):
            first = caller.until_refused(guard)
            assert type(first) is OutcomeUnrecorded or code_of(first) is Code.EVIDENCE_UNAVAILABLE
            assert FULL in str(first)
            resize(home / "log", 1024)  # too late for this guard: it cannot know what is on the disk
            for _ in range(3):
                assert code_of(caller.call(guard)) is Code.EVIDENCE_UNAVAILABLE
        guard.close()
        assert len(caller.answered) > 10
        resize(home / "log", kilobytes)
        fill(home / "log").rename(home / "log" / "ballast")
        with pytest.raises(EvidenceUnavailable, match=FULL):
            opened(home)
        resize(home / "log", 1024)
        caller.judge()
        with opened(home) as guard, task_of(guard):
            assert [caller.call(guard) for _ in range(3)] == [None] * 3
        (home / "log" / "ballast").unlink()
        caller.judge()

    assert apart(work, place) == ""


def test_the_disk_of_the_values(place: Path) -> None:
    """Only what cannot be kept is refused; with room again the same guard goes on. Of such a refusal there is no record: it would name
    values that nobody could show."""
    home = place / "home"

    def work() -> None:
        disk(home / "side", 64)
        caller = Caller(home, size=300_000)
        with opened(home) as guard, task_of(guard):
            for _ in range(3):
                error = caller.call(guard)
                assert code_of(error) is Code.EVIDENCE_UNAVAILABLE
                assert FULL in str(error)
            assert caller.ran == []
            resize(home / "side", 4096)
            assert caller.call(guard) is None
            assert code_of(caller.until_refused(guard)) is Code.EVIDENCE_UNAVAILABLE
            resize(home / "side", 16384)
            assert caller.call(guard) is None
            kept = {value.execution for value in guard.home.side.values() if value.kind == "arguments" and len(value.value) > caller.size}
        assert len(caller.answered) > 5
        decisions = [one for one in read(home) if one["type"] == "decision"]
        assert [one["call_id"] for one in decisions if one["verdict"] == "allow"] == caller.answered
        assert kept >= {one["id"] for one in decisions if one["verdict"] == "allow"}
        caller.judge()

    errors = apart(work, place)
    assert all("event='the guard failed, and the call is denied'" in line for line in errors.splitlines()), errors


def state_apart(home: Path, kilobytes: int) -> None:
    """A disk for the home, with the state in it, and larger ones for everything else."""
    disk(home, kilobytes)
    for name in ("log", "heads", "side", "objects", "keys"):
        disk(home / name, 16384)


def test_the_disk_of_the_state(place: Path) -> None:
    """A task that other processes share is counted on the disk. What cannot be counted is refused, and recorded as refused."""
    home = place / "home"

    def work() -> None:
        state_apart(home, 512)
        caller = Caller(home)
        with opened(home) as guard, task_of(guard) as task:
            guard.export(task)
            assert caller.call(guard) is None
            ballast = fill(home)
            assert code_of(caller.until_refused(guard)) is Code.STATE_UNAVAILABLE
            for _ in range(3):
                error = caller.call(guard)
                assert code_of(error) is Code.STATE_UNAVAILABLE
                assert "database or disk is full" in str(error)
            ballast.unlink()
            assert caller.call(guard) is None
        denied = [one for one in read(home) if one["type"] == "decision" and one["verdict"] == "deny"]
        assert [(one["call_id"], one["code"]) for one in denied] == [(name, "state_unavailable") for name in caller.refused]
        caller.judge()

    assert apart(work, place) == ""


def test_a_state_that_finds_no_room_is_an_error_and_no_signal(place: Path) -> None:
    """The word that says the version of the revocations is mapped memory: on a disk without room, touching it would kill the process."""
    home = place / "home"

    def work() -> None:
        state_apart(home, 512)
        caller = Caller(home)
        with opened(home) as guard, task_of(guard):
            assert caller.call(guard) is None
            ballast = fill(home)
            with pytest.raises(StateUnavailable, match="full"):
                guard.stop("all")
            assert caller.call(guard) is None  # nothing was withdrawn, which the caller of `stop` was told
            ballast.unlink()
            guard.stop("all")
            assert code_of(caller.call(guard)) is Code.ARTIFACT_REVOKED
            (home / "state.gen").unlink()
            ballast = fill(home)
            with pytest.raises(StateUnavailable, match=FULL):
                State.open(home / "state.db")
            ballast.unlink()
            State.open(home / "state.db").close()
        with opened(home) as guard, task_of(guard):
            assert code_of(caller.call(guard)) is Code.ARTIFACT_REVOKED
        caller.judge()

    assert apart(work, place) == ""
