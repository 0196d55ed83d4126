"""Every state that a power cut can leave of a log in `fsync` durability, rebuilt from a trace of its writer and opened again.

In each of them: what was acknowledged before the cut is there; what is there was written, in that order, an append whole or not at all; a
call without an outcome is *unknown* and nothing else; the documents that a record cites can be read; `log verify` finds no fault before the
recovery, and none after it. The side store is not synced and promises nothing; reading what is left of it must not fail. The SQLite
files are not part of this: the index is rebuilt from the log, the state reconciled with it. What a disk may keep of what was not synced is
in support/power_cuts.py; writers that break their promise are in here, since a test that finds nothing must be able to.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from agentguard import store
from agentguard.errors import AgentguardError
from agentguard.log import Log, iter_records, verify
from agentguard.store import ObjectStore, SideStore
from support.logs import KEY, START_NS, Ticking, decision, outcome
from support.power_cuts import TRACED, Disk, State, power_cuts
from support.straced import needs_strace, traced

shard_module: Any = import_module("agentguard.log.shard")  # broken writers replace parts of it
PROBE = decision("probe")
HOUR = 3_600_000_000_000
Ids = tuple[str, ...]


@dataclass
class Writer:
    """Appends groups of records, and says of each record that it is safe when it is. Broken ones differ in `prepare`."""

    home: Path
    first: int = 0
    groups: int = 6
    waiting: list[str] = field(default_factory=list)  # not acknowledged yet

    def __call__(self) -> None:
        store._WINDOW = 4096  # type: ignore[misc]  # what it allocates ahead is zeros in the trace, and a megabyte of them in every state
        self.prepare()
        objects, side = ObjectStore(self.home / "objects"), SideStore(self.home / "side")
        with Log.open(self.home, KEY, durability="fsync", segment_bytes=3000, clock=Ticking(START_NS + self.first * HOUR)) as log:
            for number in range(self.first, self.first + self.groups):
                document = objects.put(b"document %d" % (number // 3))
                side.put(f"d{number}", "arguments", b"salt", b"value")
                self.waiting = list(ids_of(number))
                log.append(*records_of(number, document))
                self.acknowledge()
        side.close()

    def prepare(self) -> None:
        """In the child, before it begins."""

    def acknowledge(self) -> None:
        if self.waiting:
            os.write(1, "".join(f"{identity}\n" for identity in self.waiting).encode())
        self.waiting = []


class NeverSyncs(Writer):
    def prepare(self) -> None:
        shard_module.datasync = os.fsync = lambda _: None  # type: ignore[assignment]


class AcknowledgesTooEarly(Writer):
    def prepare(self) -> None:
        real = shard_module.datasync

        def datasync(descriptor: int) -> None:
            self.acknowledge()
            real(descriptor)

        shard_module.datasync = datasync


class ForgetsTheDirectory(Writer):
    def prepare(self) -> None:
        shard_module.sync_directory = lambda _: None


class RemembersTooEarly(Writer):
    def prepare(self) -> None:
        shard_module.datasync = lambda _: None
        remember = shard_module.ShardWriter._remember

        def remembered(writer: Any, note: bytes, turn: int, *, sync: bool = False) -> None:
            remember(writer, note, turn, sync=True)
            os.fsync(writer._descriptor)

        shard_module.ShardWriter._remember = remembered


def ids_of(number: int) -> Ids:
    """A group: the outcome of the call before, a decision, and now and then a long record that several sectors hold."""
    return (*((f"d{number - 1}-end",) if number % 3 else ()), f"d{number}", *((f"long{number}",) if number % 2 else ()))


def records_of(number: int, document: str) -> list[bytes]:
    made = {
        f"d{number - 1}-end": outcome(f"d{number - 1}"),
        f"d{number}": decision(f"d{number}", policy=document),
        f"long{number}": decision(f"long{number}", verdict="deny", detail="x" * 1500),
    }
    return [made[identity] for identity in ids_of(number)]


def found_in(home: Path) -> list[dict[str, object]]:
    return [json.loads(record) for _, _, record in iter_records(home) if record != PROBE]


class Checker:
    """Opens rebuilt homes and says what is wrong with them."""

    def __init__(self, root: Path, groups: list[Ids]) -> None:
        self._root = root
        self._ends = [0]
        for group in groups:
            self._ends.append(self._ends[-1] + len(group))
        self._written = [identity for group in groups for identity in group]

    def faults(self, state: State) -> list[str]:
        """What a power cut must not do, and did."""
        state.rebuild(self._root)
        found = []
        try:
            if (self._root / "log").is_dir():  # else nothing was begun, which `verify` says and recovery need not
                before = verify(self._root, KEY.public)
                found = [f"false alarm before recovery: {one.kind}: {one.message}" for one in before.findings if one.severity == "error"]
            with Log.open(self._root, KEY, durability="fsync", clock=Ticking(START_NS + 24 * HOUR)) as log:
                log.append(PROBE)
            records = found_in(self._root)
            objects = ObjectStore(self._root / "objects")
            for record in records:
                if "policy" in record:
                    objects.get(str(record["policy"]))
            list(SideStore(self._root / "side").values())
        except AgentguardError as error:
            return [*found, f"it does not open: {error}"]
        after = verify(self._root, KEY.public)
        found += [f"false alarm: {one.kind}: {one.message}" for one in after.findings if one.kind not in ("unknown", "foreign", "shard")]
        ids = [str(record["id"]) for record in records]
        lost = set(state.acknowledged.decode().split()).difference(ids)
        if lost:
            found.append(f"acknowledged and lost: {sorted(lost)}")
        if ids != self._written[: len(ids)] or len(ids) not in self._ends:
            found.append(f"not what was written, append by append: {ids}")
        calls = {str(record["id"]) for record in records if record.get("verdict") == "allow"} | {"probe"}
        unknown = len(calls - {record.get("execution") for record in records})
        if sum(each.kind == "unknown" for each in after.findings) != unknown:
            found.append(f"{unknown} calls have no outcome, and are not all called unknown")
        return found


@pytest.fixture
def no_sync(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Opening a rebuilt home need not wait for this machine's disk."""

    def begin() -> None:
        monkeypatch.setattr(os, "fsync", lambda _: None)
        monkeypatch.setattr(shard_module, "datasync", lambda _: None)

    return begin


def states_of(writer: Writer, place: Path, *, every: bool = False, after: State | None = None) -> list[State]:
    """Every state that a power cut leaves of this writer's work, begun on an empty disk or on what another power cut left."""
    needs_strace()
    writer.home.mkdir(exist_ok=True)
    if after is not None:
        after.rebuild(writer.home)
    disk = Disk(writer.home)
    if after is not None:
        disk.acknowledged = after.acknowledged
    trace = traced(writer, place, "-e", TRACED)
    assert (trace.status, trace.errors) == (0, "")
    return power_cuts(writer.home, disk, trace.calls, every=every)


def test_nothing_acknowledged_is_lost_and_nothing_else_is_believed(place: Path, no_sync: Callable[[], None]) -> None:
    states = states_of(Writer(place / "home"), place)
    no_sync()
    checker = Checker(place / "rebuilt", [ids_of(number) for number in range(6)])
    assert len(states) > 150
    assert {len(state.acknowledged.split()) for state in states} == {0, *checker._ends}
    for state in states:
        assert checker.faults(state) == [], [name for name, _ in state.tree]


@pytest.mark.soak
def test_nor_in_any_combination_of_what_files_may_have(place: Path, no_sync: Callable[[], None]) -> None:
    states = states_of(Writer(place / "home", groups=12), place, every=True)
    no_sync()
    checker = Checker(place / "rebuilt", [ids_of(number) for number in range(12)])
    assert len(states) > 1000
    for state in states:
        assert checker.faults(state) == [], [name for name, _ in state.tree]


def torn(states: list[State]) -> list[State]:
    """Those in which a segment ends with an append that never finished: no frame ends there."""
    return [each for each in states if any(name.endswith(".seg") and data and data[-1:] != b"\n" for name, data in each.tree)]


@pytest.mark.parametrize("which", [-1, pytest.param(slice(None, None, 4), marks=pytest.mark.soak)])
def test_a_second_power_cut_while_the_first_is_recovered_from(place: Path, which: int | slice, no_sync: Callable[[], None]) -> None:
    first = torn(states_of(Writer(place / "first", groups=4), place))
    chosen = first[which] if isinstance(which, slice) else [first[which]]
    again = []
    for number, state in enumerate(chosen):
        present = [len(found_in_copy(state, place / "copy")), number]
        again.append((present[0], states_of(Writer(place / f"again{number}", first=9, groups=1), place, after=state)))
    no_sync()
    for kept, states in again:
        written = [ids_of(number) for number in range(4)]
        while sum(map(len, written)) > kept:
            written.pop()
        checker = Checker(place / "rebuilt", [*written, ids_of(9)])
        for after in states:
            assert checker.faults(after) == [], [name for name, _ in after.tree]


def found_in_copy(state: State, place: Path) -> list[dict[str, object]]:
    state.rebuild(place)
    return found_in(place)


@pytest.mark.parametrize(
    ("broken", "symptom"),
    [
        (NeverSyncs, "acknowledged and lost"),
        (AcknowledgesTooEarly, "acknowledged and lost"),
        (ForgetsTheDirectory, "acknowledged and lost"),
        (RemembersTooEarly, "false alarm"),
    ],
)
def test_writers_that_break_the_promise_are_caught(place: Path, broken: type[Writer], symptom: str, no_sync: Callable[[], None]) -> None:
    states = states_of(broken(place / "home"), place)
    no_sync()
    checker = Checker(place / "rebuilt", [ids_of(number) for number in range(6)])
    states.sort(key=promising)
    assert any(symptom in fault for state in states for fault in checker.faults(state))


def promising(state: State) -> tuple[int, int]:
    """Puts those states first in which the most is acknowledged and the least is there."""
    return -len(state.acknowledged), sum(len(data) for _, data in state.tree if data is not None)
