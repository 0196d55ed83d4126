"""A fault at each system call by which a guard writes: an error, a full disk, a kill, an interruption, a delay.

Whatever call it hits: no tool runs whose decision is not in the log after all is over, no caller gets an answer whose outcome is not there,
who is refused is refused with an error of ours, and opening the home again finds everything in order and goes on.
"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agentguard import Guard
from agentguard.cli.log_common import log_keys
from agentguard.errors import AgentguardError
from agentguard.log import iter_records, verify
from agentguard.log.identity import LogKeys
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
                os.mkdir(self.marks / f"ran {n}")
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
                except AgentguardError:
                    os.mkdir(self.marks / f"refused {n}")


def worked(worker: Worker) -> set[str]:
    return {path.name for path in worker.marks.iterdir()}


def wrong(worker: Worker, errors: str) -> Iterator[str]:
    """What a fault must not do, and did."""
    last = errors.strip().rpartition("\n")[2]
    if last and not last.startswith("agentguard.errors."):
        yield f"an error that is not ours: {last}"
    marks = worked(worker)
    before = verify(worker.home, _key(worker.home)) if (worker.home / "log").is_dir() else None
    if before is not None:
        yield from (f"false alarm: {one.kind}: {one.message}" for one in before.findings if one.severity == "error")
    ran, answered = ({mark for mark in marks if mark.startswith(word)} for word in ("ran", "answered"))
    again = Worker(worker.home, worker.marks.with_name("again"))
    again.marks.mkdir()
    again()
    if worked(again) != {f"{word} {n}" for word in ("ran", "answered") for n in range(CALLS)}:
        yield f"after opening again: {sorted(worked(again))}"
    records = [record for _, _, record in iter_records(worker.home)]
    decisions = sum(b'"type":"decision"' in record and b'"verdict":"allow"' in record for record in records)
    outcomes = sum(b'"status":"ok"' in record for record in records)
    if decisions < len(ran) + CALLS or outcomes < len(answered) + CALLS:
        yield f"{len(ran)} ran and {len(answered)} were answered before, and {decisions} and {outcomes} records tell of it"
    after = verify(worker.home, _key(worker.home))
    yield from (f"not whole: {one.kind}: {one.message}" for one in after.findings if one.severity == "error")


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
    assert (trace.status, trace.errors, len(worked(worker))) == (0, "", 2 * CALLS)
    return {name: sum(call.name == name for call in trace.calls) for name in WRITES}


def swept(place: Path, fault: str, name: str, numbers: range) -> None:
    for number in numbers:
        worker, trace = injected(place / f"{name} {number}", name, fault, number)
        assert list(wrong(worker, trace.errors)) == [], f"{fault} at {name} {number}"
        if FAULTS[fault][1] and (fault, name) != ("EINTR", "rename"):  # no system gives that answer
            assert len(worked(worker)) == 2 * CALLS, f"{fault} at {name} {number} is no reason to refuse"


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ["write", "fdatasync"])
def test_a_fault_at_the_last_calls_of_a_kind(tmp_path: Path, name: str, fault: str) -> None:
    needs_strace()
    total = counted(tmp_path / "whole")[name]
    assert total > CALLS
    swept(tmp_path, fault, name, range(total - 1, total + 1))


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
    assert f"answered {CALLS - 1}" not in worked(worker) or limit > 2000
    assert list(wrong(worker, trace.errors)) == []
