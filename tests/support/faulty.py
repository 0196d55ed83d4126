"""A guard at work whose system calls meet faults: what its caller saw, where in the work a fault hit, and what the log says of each call.

What the caller saw stands as symbolic links in a directory of its own: no fault is put on making those, and in the trace they tell the
order of things.
"""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from agentguard import Guard, ToolCall
from agentguard.cli.log_common import log_keys
from agentguard.context import current_execution
from agentguard.errors import AgentguardError, Denied
from agentguard.evidence import NoteRecord, encode
from agentguard.log import Finding, iter_records, verify
from support.straced import Call, Traced, traced

POLICY: Final = """
agentguard: 1
name: faults
agents: {worker: {tools: {act: {n: any}}}}
"""
CALLS: Final = 3
#: What a worker marks that nothing befalls.
WHOLE: Final = ("opened", "begun", *(f"{done} {n}" for n in range(CALLS) for done in ("ran", "answered")), "ending", "closing", "closed")
_MARKING: Final = "?symlink,?symlinkat"
_UNLIMITED: Final = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


@dataclass
class Worker:
    """Opens a guard, makes calls, closes it, and marks each step: the name of a mark says what, its target why, in the library's words."""

    home: Path
    marks: Path
    name: str = "first"  # its calls have the ids "first 0", "first 1", ...
    shared: bool = False  # the task is one that other processes may use, so that the state store counts it in its file
    room: int | None = None  # bytes that the log may grow by once the guard is open, being the longest file by far

    @classmethod
    def at(cls, place: Path, **more: Any) -> Self:
        marks = place / "marks"
        marks.mkdir(parents=True)
        return cls(place / "home", marks, **more)

    def again(self) -> Worker:
        """One that comes after it, on the same home."""
        marks = self.marks.with_name("again")
        marks.mkdir()
        return Worker(self.home, marks, "again", self.shared)

    def __call__(self) -> None:
        try:
            guard = Guard.open(POLICY, home=self.home, durability="fsync")
        except AgentguardError as error:
            return self.mark(f"not opened: {_named(error)}", str(error))
        self.mark("opened")
        try:
            self.work(guard)
        finally:  # what goes wrong is to be written down
            resource.setrlimit(resource.RLIMIT_FSIZE, _UNLIMITED)
        self.mark("closing")
        try:
            guard.close()
        except AgentguardError as error:
            return self.mark(f"not closed: {_named(error)}", str(error))
        return self.mark("closed")

    def work(self, guard: Guard) -> None:
        if self.room is not None:
            for number in range(4):
                note = NoteRecord(by="nobody", detail={"padding": "x" * 60_000}, id=f"padding {number}", time="0", type="padding")
                guard.home.log.append(encode(note))
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            (segment,) = guard.home.path.glob("log/*/*.seg")
            resource.setrlimit(resource.RLIMIT_FSIZE, (segment.stat().st_size + self.room, resource.RLIM_INFINITY))
        try:
            tool = guard.tool(self.act)
            with guard.task("worker", initiator="user:ann") as task:
                if self.shared:
                    guard.export(task)
                self.mark("begun")
                for n in range(CALLS):
                    self.call(guard, tool, n)
                self.mark("ending")
        except AgentguardError as error:
            self.mark(f"not begun: {_named(error)}", str(error))

    def call(self, guard: Guard, tool: Any, n: int) -> None:
        try:
            assert guard.check(ToolCall("worker", "act", {"n": n}, f"{self.name} {n}")).run(tool) == n
        except AgentguardError as error:
            self.mark(f"refused {n}: {_named(error)}", str(error))
        else:
            self.mark(f"answered {n}")

    def act(self, n: int) -> int:
        self.mark(f"ran {n}", current_execution.get() or "")
        return n

    def mark(self, name: str, why: str = "") -> None:
        os.symlink((why or "-")[:2000], self.marks / name)

    def said(self) -> dict[str, str]:
        """What it marked, in no order."""
        return {path.name: os.readlink(path) for path in self.marks.iterdir()}


def _named(error: AgentguardError) -> str:
    """An error by its public class, and a denial's code."""
    name = next(one.__name__ for one in type(error).__mro__ if one.__module__ == "agentguard.errors")
    return f"{name} {error.code}" if isinstance(error, Denied) else name


# --- where a fault hit --------------------------------------------------------------------------------------------------------------


class Spot(NamedTuple):
    """A system call in the work: the mark before it (empty: none), what it was about, and whether it only opened something to read."""

    after: str
    store: str
    reading: bool


_STORES: Final = {"log": "log", "heads": "log", "objects": "values", "side": "values", "keys": "keys"}


def _store(path: str, home: Path) -> str:
    """What a path belongs to."""
    if not f"{path}/".startswith(f"{home}/"):
        return "elsewhere"
    parts = path.removeprefix(f"{home}").strip("/").split("/")
    if parts[0].startswith("state."):
        return "state"
    return "lock" if parts[-1] == "lock" else _STORES.get(parts[0], "settings" if parts[0] else "home")


def watched(worker: Worker, place: Path, names: str, *options: str) -> tuple[Traced, list[tuple[Call, Spot]]]:
    """A worker at work under strace: its trace, and each of its system calls of these names with its spot."""
    trace = traced(worker, place / "trace", "-e", f"trace={names},{_MARKING}", *options)
    found, after = [], ""
    for call in trace.calls:
        if call.name.startswith("symlink"):
            after = Path(call.path(len(call.args) - 1)).name
        else:
            opening = call.name == "openat"
            flags = call.args[2].split("|") if opening else []
            reading = "O_RDONLY" in flags and ("O_NONBLOCK" in flags or "O_DIRECTORY" not in flags)  # else it is to be synced
            found.append((call, Spot(after, _store(call.path(1 if opening else 0), worker.home), reading)))
    return trace, found


# --- what the log says --------------------------------------------------------------------------------------------------------------


def faults_of_record(worker: Worker, records: Iterable[dict[str, Any]], refused: str) -> Iterator[str]:
    """What the log says of a worker's calls and should not, call by call.

    refused  "unwritten" where calls were refused because the log took no record; "recorded" where it took their denials
    """
    said, kept = worker.said(), list(records)
    unsure = True  # one decision may have been written and not acknowledged
    for n in range(CALLS):
        decisions = [one for one in kept if one["type"] == "decision" and one["call_id"] == f"{worker.name} {n}"]
        outcomes = [one["status"] for one in kept if one["type"] == "outcome" and one["execution"] in [each["id"] for each in decisions]]
        verdicts = [(one["verdict"], one["code"]) for one in decisions]
        reason = next((mark.partition(": ")[2] for mark in said if mark.startswith(f"refused {n}: ")), "")
        found = f"call {n} ({reason or 'not refused'}) has decisions {verdicts} and outcomes {outcomes}"
        if f"ran {n}" in said:
            if verdicts != [("allow", None)] or decisions[0]["id"] != said[f"ran {n}"]:
                yield f"it ran: {found}"
            if outcomes != ["ok"] and (outcomes or f"answered {n}" in said):
                yield f"it ran: {found}"
            unsure = unsure and f"answered {n}" in said
        elif outcomes:
            yield f"it never ran: {found}"
        elif reason and refused == "recorded":
            if verdicts != [("deny", reason.removeprefix("Denied "))]:
                yield f"its denial is evidence too: {found}"
        elif verdicts and not (unsure and verdicts == [("allow", None)]):
            yield f"it was not recorded: {found}"
        else:
            unsure = unsure and not reason


def read(home: Path) -> list[dict[str, Any]]:
    return [json.loads(record) for _, _, record in iter_records(home)]


def findings(home: Path) -> tuple[Finding, ...]:
    return verify(home, log_keys(home, None)).findings


def faults_of_home(worker: Worker, refused: str) -> Iterator[str]:
    """What is wrong with the home that a worker left, and with the one that a second worker leaves on it."""
    begun = (worker.home / "log").is_dir() and any((worker.home / "heads").glob("[!.]*"))
    if begun:
        yield from (f"false alarm: {one.kind}: {one.message}" for one in findings(worker.home) if one.severity == "error")
    again = worker.again()
    again()
    if again.said().keys() != set(WHOLE):
        yield f"after opening again: {again.said()}"
    records = read(worker.home)
    yield from faults_of_record(worker, records, refused)
    yield from faults_of_record(again, records, "unwritten")
    strangers = [one["call_id"] for one in records if one["type"] == "decision" and one["call_id"].split()[0] not in ("first", "again")]
    ended = {one["execution"] for one in records if one["type"] == "outcome"}
    unknown = {one["id"] for one in records if one["type"] == "decision" and one["verdict"] == "allow"} - ended
    after = findings(worker.home)
    yield from (f"not whole: {one.kind}: {one.message}" for one in after if one.severity == "error")
    if strangers or sum(one.kind == "unknown" for one in after) != len(unknown):
        yield f"calls that nobody made: {strangers}; calls without an outcome: {unknown}, and `verify` says {after}"
