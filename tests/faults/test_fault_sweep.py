"""A fault at each system call by which a guard reads and writes: an error, a full disk, a kill, an interruption, a delay; and files that
may not grow.

Each fault was really put there, which the trace shows. From where it hit follows what the caller must see, mark by mark: the error's class,
a denial's code, and what goes on all the same. Of each call the log then says exactly what its caller was told, standard error holds our
notices and nothing else, and opening the home again finds everything in order and goes on.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from errno import EFBIG, EIO, ENOSPC
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from agentguard import Guard
from agentguard.errors import EvidenceUnavailable
from agentguard.recording import Pending
from support.faulty import CALLS, WHOLE, Spot, Worker, faults_of_home, watched
from support.straced import Call, needs_strace

NAMES = ("write", "pwrite64", "fdatasync", "fsync", "ftruncate", "fallocate", "openat", "rename")
#: What is put in strace's hands, and what the system says then.
FAULTS = {
    "EIO": ("error=EIO", os.strerror(EIO)),
    "ENOSPC": ("error=ENOSPC", os.strerror(ENOSPC)),
    "EINTR": ("error=EINTR", ""),
    "KILL": ("signal=SIGKILL", ""),
    "delay": ("delay_enter=20000", ""),
}
NOTICE = re.compile(r"level='warning' event='([^']*)' [^\n]*")
NOTICES = {
    "values": {"the guard failed, and the call is denied"},
    "state": {f"the state store did not take {what}" for what in ("a task", "the end of a task", "an outcome")},
}
Course = Sequence[str]


@pytest.fixture(scope="module", autouse=True)
def _imported(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What the work imports late is imported: else that would be traced too."""
    needs_strace()
    Worker.at(tmp_path_factory.mktemp("import"))()


# --- what must be seen --------------------------------------------------------------------------------------------------------------


def denied(first: int, code: str) -> list[str]:
    return [f"refused {n}: Denied {code}" for n in range(first, CALLS)]


def courses(spot: Spot, shared: bool) -> Iterator[Course]:
    """What a worker may mark when a call at this spot fails. SQLite and the library go on without some of what they ask for.

    shared  whether its task is to be shared, for which the state store has to take it
    """
    after, store, _ = spot
    done = WHOLE[: WHOLE.index(after) + 1] if after else ()
    if store in ("state", "elsewhere", "home") or (after == "closing" and store != "log"):
        yield WHOLE
    if not after:
        yield from ((f"not opened: {error}",) for error in _unopened(spot))
    elif after == "opened" and (store != "state" or shared):
        error = {"keys": "InvalidInput", "state": "StateUnavailable"}.get(store, "EvidenceUnavailable")
        yield *done, f"not begun: {error}", "closing", "closed"
    elif after == "closing" and store == "log":
        yield *done, "not closed: EvidenceUnavailable"
    elif after == "begun" or after.startswith("answered"):
        n = 0 if after == "begun" else int(after.split()[1]) + 1
        if store == "log":
            yield *done, *denied(n, "evidence_unavailable"), "ending", "closing", "closed"
        elif n < CALLS and store in ("values", "state"):
            code = "evidence_unavailable" if store == "values" else "state_unavailable"
            yield *done, denied(n, code)[0], *WHOLE[len(done) + 2 :]
    elif after.startswith("ran") and store in ("log", "values"):
        n = int(after.split()[1])
        yield *done, f"refused {n}: OutcomeUnrecorded", *denied(n + 1, "evidence_unavailable"), "ending", "closing", "closed"


def _unopened(spot: Spot) -> tuple[str, ...]:
    if spot.store == "log" and spot.reading:
        return ("InvalidInput",)
    errors = {"log": "EvidenceUnavailable", "lock": "EvidenceUnavailable", "values": "EvidenceUnavailable", "state": "StateUnavailable"}
    if spot.store == "home":  # a name in it was to be made durable: of the log, the store of documents, or the state
        return ("EvidenceUnavailable", "StateUnavailable")
    return () if spot.store == "elsewhere" else (errors.get(spot.store, "InvalidInput"),)


def expected(fault: str, name: str, spot: Spot, shared: bool) -> list[Course]:
    """Python asks again where a system answers EINTR, except when it lists a directory or renames, of which no system says so; SQLite
    not always."""
    if fault == "KILL":
        return [WHOLE[: WHOLE.index(spot.after) + 1] if spot.after else ()]
    asked_again = fault == "EINTR" and name != "rename" and spot.store != "state"
    if fault == "delay" or (asked_again and not spot.reading):
        return [WHOLE]
    return [*courses(spot, shared), *([WHOLE] if asked_again else [])]


def wrong(worker: Worker, errors: str, spot: Spot, allowed: list[Course], words: str) -> Iterator[str]:
    """What must not be seen after a fault at `spot`, and was."""
    said = worker.said()
    if said.keys() not in [set(course) for course in allowed]:
        yield f"marked {sorted(said)}"
    whys = [why for mark, why in said.items() if mark.startswith(("not", "refused"))]
    if spot.store != "state" and not all(words in why and str(worker.home) in why for why in whys):
        yield f"an error that does not say what happened ({words}), or where: {whys}"
    for line in errors.splitlines():
        notice = NOTICE.fullmatch(line)
        if notice is None or notice[1] not in NOTICES.get(spot.store, ()):
            yield f"on standard error: {errors}"
    yield from faults_of_home(worker, "unwritten" if spot.store == "log" else "recorded")


# --- faults that strace puts there --------------------------------------------------------------------------------------------------


def swept(place: Path, fault: str, name: str, number: int, *, shared: bool = False) -> bool:
    """Put a fault at the `number`th system call of that name, and judge what follows. False if there are not that many."""
    worker = Worker.at(place / f"{name} {number}", shared=shared)
    trace, calls = watched(worker, worker.marks.parent, name, "-e", f"inject={name}:{FAULTS[fault][0]}:when={number}")
    case = f"{fault} at {name} {number}"
    if len(calls) < number:
        assert (trace.status, trace.errors) == (0, ""), case
        assert worker.said().keys() == set(WHOLE), case
        return False
    assert injected(calls, fault) == [number], f"{case}: it was not put there, or not there alone"
    assert trace.status == (signal.SIGKILL if fault == "KILL" else 0), f"{case}: {trace.errors}"
    spot = calls[number - 1][1]
    found = list(wrong(worker, trace.errors, spot, expected(fault, name, spot, shared), FAULTS[fault][1]))
    assert found == [], f"{case}, {spot}"
    shutil.rmtree(worker.marks.parent)
    return True


def injected(calls: list[tuple[Call, Spot]], fault: str) -> list[int]:
    """Which of the calls met a fault; a killed process is in a call that never came back."""
    return [at for at, (call, _) in enumerate(calls, 1) if (call.result is None if fault == "KILL" else call.injected)]


#: A decision and an outcome in the log, the head behind one, a counter in the state, room in the side store, the last checkpoint.
PLACES = {
    "decision": ("write", "answered 0", False),
    "decision synced": ("fdatasync", "answered 0", False),
    "outcome": ("write", "ran 1", False),
    "outcome synced": ("fdatasync", "ran 1", False),
    "head": ("pwrite64", "ran 1", False),
    "counted": ("pwrite64", "answered 0", True),
    "room for values": ("fallocate", "begun", False),
    "last checkpoint": ("fdatasync", "closing", False),
}


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, bool], int]:
    """The number of the first system call of a name behind a mark, in workers that meet no fault."""
    found: dict[tuple[str, str, bool], int] = {}
    for shared in (False, True):
        place = tmp_path_factory.mktemp("whole")
        worker = Worker.at(place, shared=shared)
        trace, calls = watched(worker, place, ",".join(NAMES))
        assert (trace.status, trace.errors, set(worker.said())) == (0, "", set(WHOLE))
        made = Counter[str]()
        for call, spot in calls:
            made[call.name] += 1
            found.setdefault((call.name, spot.after, shared), made[call.name])
    return found


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("where", PLACES)
def test_a_fault_where_it_matters_most(place: Path, numbers: dict[tuple[str, str, bool], int], where: str, fault: str) -> None:
    name, after, shared = PLACES[where]
    assert swept(place, fault, name, numbers[name, after, shared], shared=shared)


@dataclass
class Broken(Worker):
    """The same in a guard that goes on where its record of a `broken` could not be written. It runs in a child, so nobody else sees it."""

    broken: str = ""

    def work(self, guard: Guard) -> None:
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
        super().work(guard)


@pytest.mark.parametrize("where", ["decision", "decision synced", "outcome"])
def test_a_guard_that_goes_on_without_its_record_is_found(place: Path, numbers: dict[tuple[str, str, bool], int], where: str) -> None:
    """The sweep itself is tested: with a guard that lets a call run though its decision is not safe, or answers without an outcome."""
    name, after, shared = PLACES[where]
    worker = Broken.at(place, broken=where.split()[0])
    trace, calls = watched(worker, place, name, "-e", f"inject={name}:error=EIO:when={numbers[name, after, shared]}")
    spot = calls[numbers[name, after, shared] - 1][1]
    found = list(wrong(worker, trace.errors, spot, expected("EIO", name, spot, shared), FAULTS["EIO"][1]))
    assert any(one.startswith("marked") for one in found), found
    assert any(one.startswith("it ran: call 1") for one in found) or name == "fdatasync", found


@pytest.mark.soak
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", NAMES)
def test_a_fault_at_every_call(place: Path, name: str, fault: str, shared: bool) -> None:
    number = 1
    while swept(place, fault, name, number, shared=shared):
        number += 1
    assert number > (1 if name == "fallocate" else CALLS)


# --- files that may not grow --------------------------------------------------------------------------------------------------------


def test_a_log_that_may_not_grow(place: Path) -> None:
    """RLIMIT_FSIZE: a write ends short or fails, in the middle of a record as well. Values are not kept: they ask for more at once."""
    reached = set()
    for room in count(0, 600):  # until there is enough
        worker = Worker.at(place / f"{room}", room=room)
        worker.home.mkdir()
        (worker.home / "settings.json").write_text('{"keep_values": "none"}')
        trace, calls = watched(worker, worker.marks.parent, "write,pwrite64,ftruncate,fallocate")
        assert trace.status == 0, trace.errors
        failed = next((spot for call, spot in calls if call.failed), None)
        if failed is None:
            assert set(worker.said()) == set(WHOLE)
            break
        assert failed.store == "log"
        assert list(wrong(worker, trace.errors, failed, list(courses(failed, shared=False)), os.strerror(EFBIG))) == [], f"{room}, {failed}"
        reached.add(failed.after.split()[0])
        shutil.rmtree(worker.marks.parent)
    assert reached == {"opened", "begun", "answered", "ran"}
