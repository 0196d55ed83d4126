"""A fault at each system call by which a guard writes: an error, a full disk, a kill, an interruption, a delay.

Whatever call it hits: no tool runs whose decision is not in the log after all is over, no caller gets an answer whose outcome is not there,
who is refused is refused with an error of ours, and opening the home again finds everything in order and goes on.
"""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agentguard import Guard
from agentguard.cli.log_common import log_keys
from agentguard.context import current_execution
from agentguard.errors import Denied, EvidenceUnavailable, OutcomeUnrecorded
from agentguard.log import iter_records, verify
from agentguard.log.identity import LogKeys
from agentguard.recording import Pending
from support.straced import Traced, needs_strace, traced

POLICY = """
agentguard: 1
name: faults
agents: {worker: {tools: {act: {n: any}}}}
"""
CALLS = 3
WRITES = ("write", "pwrite64", "fdatasync", "fsync", "ftruncate", "openat", "rename")
#: What the system answers, and whether the work goes on as if nothing had been (Python asks again where a system may answer EINTR).
FAULTS = {
    "EIO": ("error=EIO", False),
    "ENOSPC": ("error=ENOSPC", False),
    "EINTR": ("error=EINTR", True),
    "KILL": ("signal=SIGKILL", False),
    "delay": ("delay_enter=20000", True),
}


#: What a call is refused with, by the system call that failed: SQLite writes with `pwrite64`, and opens what it writes.
REFUSALS = {name: {"evidence_unavailable"} for name in WRITES}
REFUSALS |= {name: {"evidence_unavailable", "state_unavailable"} for name in ("pwrite64", "openat")}
UNRECORDED = "OutcomeUnrecorded"


@dataclass
class Worker:
    """Opens a guard and makes calls. What ran and what was answered stands as directories in `marks`, which no fault is put on."""

    home: Path
    marks: Path
    limit: int | None = None  # bytes that a file may have

    def __call__(self) -> None:
        with Guard.open(POLICY, home=self.home, durability="fsync") as guard:

            @guard.tool
            def act(n: int) -> int:
                os.mkdir(self.marks / f"ran {n} {current_execution.get()}")
                return n

            if self.limit is not None:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit, resource.RLIM_INFINITY))
            try:
                self.call(guard, act)
            finally:  # what goes wrong is to be written down
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    def call(self, guard: Guard, act: Callable[..., int]) -> None:
        with guard.task("worker", initiator="user:ann"):
            for n in range(CALLS):
                try:
                    act(n=n)
                    os.mkdir(self.marks / f"answered {n}")
                except Denied as denied:
                    os.mkdir(self.marks / f"refused {n} {denied.decision.code}")
                except OutcomeUnrecorded:
                    os.mkdir(self.marks / f"refused {n} {UNRECORDED}")

    def marked(self, word: str) -> dict[int, str]:
        """By the call's number what was noted of it."""
        found = [path.name.split(" ") for path in self.marks.iterdir()]
        return {int(number): "".join(rest) for first, number, *rest in found if first == word}

    @property
    def undisturbed(self) -> bool:
        return set(self.marked("ran")) == set(self.marked("answered")) == set(range(CALLS)) and not self.marked("refused")


@dataclass
class Broken(Worker):
    """The same in a guard that goes on where its record of a `broken` could not be written. It runs in a child, so nobody else sees it."""

    broken: str = ""

    def call(self, guard: Guard, act: Callable[..., int]) -> None:
        recording: Any = guard._recording
        write, record_outcome = recording.ledger.write, recording.record_outcome

        def written(pending: Pending) -> Pending:
            with suppress(EvidenceUnavailable):
                write(*pending.records)
            return pending

        def recorded(*arguments: Any, **more: Any) -> None:
            with suppress(EvidenceUnavailable):
                record_outcome(*arguments, **more)

        if self.broken == "decision":
            recording.write = written
        else:
            recording.record_outcome = recorded
        super().call(guard, act)


def wrong(worker: Worker, errors: str, name: str) -> Iterator[str]:
    """What a fault at system calls of this name must not do, and did."""
    last = errors.strip().rpartition("\n")[2]
    if last and not last.startswith("agentguard.errors."):
        yield f"an error that is not ours: {last}"
    if "Exception ignored" in errors or "Fatal Python error" in errors:
        yield f"not only the error that was raised: {errors}"
    before = verify(worker.home, _key(worker.home)) if (worker.home / "log").is_dir() else None
    if before is not None:
        yield from (f"false alarm: {one.kind}: {one.message}" for one in before.findings if one.severity == "error")
    yield from _misjudged(worker, name)
    again = Worker(worker.home, worker.marks.with_name("again"))
    again.marks.mkdir()
    again()
    if not again.undisturbed:
        yield f"after opening again: {sorted(path.name for path in again.marks.iterdir())}"
    yield from _untold(worker, again)
    after = verify(worker.home, _key(worker.home))
    yield from (f"not whole: {one.kind}: {one.message}" for one in after.findings if one.severity == "error")


def _misjudged(worker: Worker, name: str) -> Iterator[str]:
    """Calls that were refused for another reason than the fault, ran though refused, or were answered though they did not run."""
    ran, answered, refused = worker.marked("ran"), worker.marked("answered"), worker.marked("refused")
    for number, code in refused.items():
        if code not in {*REFUSALS[name], UNRECORDED}:
            yield f"call {number} was refused with {code}"
        if (number in ran) is not (code == UNRECORDED) or number in answered:
            yield f"call {number}: {code}, ran: {number in ran}, answered: {number in answered}"
    if not set(answered) <= set(ran):
        yield f"answered without having run: {set(answered) - set(ran)}"


def _untold(*workers: Worker) -> Iterator[str]:
    """Calls that the log does not tell of, one by one; and outcomes in it of what never ran."""
    records = [json.loads(record) for _, _, record in iter_records(workers[0].home)]
    allowed = {record["id"] for record in records if record["type"] == "decision" and record["verdict"] == "allow"}
    ended = {record["execution"] for record in records if record["type"] == "outcome" and record["status"] == "ok"}
    for worker in workers:
        ran, answered = worker.marked("ran"), worker.marked("answered")
        yield from (f"call {number} ran, and its decision is not there" for number, execution in ran.items() if execution not in allowed)
        yield from (f"call {number} was answered, and its outcome is not there" for number in answered if ran.get(number) not in ended)
        ended -= set(ran.values())
    if ended:
        yield f"outcomes of what never ran: {ended}"


def _key(home: Path) -> LogKeys:
    return log_keys(home, None)


def fresh(place: Path) -> Worker:
    worker = Worker(place / "home", place / "marks")
    worker.marks.mkdir(parents=True)
    return worker


def injected(place: Path, name: str, fault: str, number: int) -> tuple[Worker, Traced]:
    """A worker whose system call `name` meets a fault at its `number`th time."""
    worker = fresh(place)
    trace = traced(worker, place / "trace", "-e", f"trace={name}", "-e", f"inject={name}:{FAULTS[fault][0]}:when={number}")
    return worker, trace


def counted(place: Path) -> dict[str, int]:
    """How often a worker that meets no fault makes each of the system calls."""
    worker = fresh(place)
    trace = traced(worker, place / "trace", "-e", f"trace={','.join(WRITES)}")
    assert (trace.status, trace.errors) == (0, "")
    assert worker.undisturbed
    return {name: sum(call.name == name for call in trace.calls) for name in WRITES}


def swept(place: Path, fault: str, name: str, numbers: range) -> None:
    for number in numbers:
        worker, trace = injected(place / f"{name} {number}", name, fault, number)
        killed = os.WIFSIGNALED(trace.status) and os.WTERMSIG(trace.status) == signal.SIGKILL
        assert killed if fault == "KILL" else any(call.injected for call in trace.calls), f"{fault} did not happen at {name} {number}"
        assert list(wrong(worker, trace.errors, name)) == [], f"{fault} at {name} {number}"
        if FAULTS[fault][1] and (fault, name) != ("EINTR", "rename"):  # no system gives that answer
            assert worker.undisturbed, f"{fault} at {name} {number} is no reason to refuse"


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ["write", "fdatasync"])
def test_a_fault_while_the_last_call_is_recorded_and_at_the_end(tmp_path: Path, name: str, fault: str) -> None:
    """Its decision, its outcome, and the two checkpoints of a log that is closed."""
    needs_strace()
    total = counted(tmp_path / "whole")[name]
    assert total > 2 * CALLS
    swept(tmp_path, fault, name, range(total - 3, total + 1))


@pytest.mark.parametrize("broken", ["decision", "outcome"])
def test_a_guard_that_goes_on_without_its_record_is_found(tmp_path: Path, broken: str) -> None:
    """The sweep itself is tested: with a guard that lets a call run though its decision was not written, or answers without an outcome."""
    needs_strace()
    total = counted(tmp_path / "whole")["write"]
    found = []
    for number in range(total - 3, total + 1):
        worker = Broken(tmp_path / f"{number}" / "home", tmp_path / f"{number}" / "marks", broken=broken)
        worker.marks.mkdir(parents=True)
        trace = traced(worker, tmp_path / f"{number}" / "trace", "-e", "trace=write", "-e", f"inject=write:error=EIO:when={number}")
        found += list(wrong(worker, trace.errors, "write"))
    assert any(f"its {broken} is not there" in one for one in found), found


@pytest.mark.soak
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", WRITES)
def test_a_fault_at_every_call(tmp_path: Path, name: str, fault: str) -> None:
    needs_strace()
    swept(tmp_path, fault, name, range(1, counted(tmp_path / "whole")[name] + 1))


@pytest.mark.parametrize("limit", [0, 600, 2000, 5000, 9000])
def test_files_that_may_not_grow(tmp_path: Path, limit: int) -> None:
    """RLIMIT_FSIZE: a write ends short or fails, in the middle of a record as well."""
    needs_strace()
    worker = fresh(tmp_path)
    worker.limit = limit
    trace = traced(worker, tmp_path / "trace", "-e", "trace=write")
    assert CALLS - 1 not in worker.marked("answered") or limit > 2000
    assert list(wrong(worker, trace.errors, "pwrite64")) == []  # the limit holds for SQLite's files as well
