"""A disk that is really full: a small file system of its own, filled up under a running guard, and given room again."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from agentguard import Denied, Guard
from agentguard.cli.log_common import log_keys
from agentguard.context import current_execution
from agentguard.errors import EvidenceUnavailable, OutcomeUnrecorded
from agentguard.log import verify
from agentguard.testing import records

POLICY = """
agentguard: 1
name: full
agents: {worker: {tools: {act: {text: any}}}}
"""
MEGABYTES = 12


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no file system may be mounted here: {done.stderr.strip()[:200]}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path) -> Path:
    """Take all the room that is left."""
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return filler


@dataclass
class Work:
    """Calls of one guard, and what became of them."""

    ran: list[str] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def tool(self, guard: Guard) -> Callable[[str], str]:
        @guard.tool
        def act(text: str) -> str:
            self.ran.append(current_execution.get() or "")
            return text

        return act

    def calls(self, act: Callable[[str], str], count: int = 200) -> None:
        for _ in range(count):
            before = len(self.ran)
            try:
                act("x" * 2000)
            except Denied as denied:
                self.refused.append(denied.decision.code or "")
                assert len(self.ran) == before, "what was refused ran"
            except OutcomeUnrecorded:
                self.refused.append("outcome unrecorded")
                assert len(self.ran) == before + 1
            else:
                self.answered.append(self.ran[-1])


@pytest.mark.parametrize("durability", ["fsync", "process"])
def test_nothing_runs_on_a_full_disk_and_nothing_is_lost(disk: Path, durability: Literal["fsync", "process"]) -> None:
    home, work = disk / "home", Work()
    guard = Guard.open(POLICY, home=home, durability=durability)
    act = work.tool(guard)
    with guard.task("worker", initiator="user:ann"):
        work.calls(act)
        assert (len(work.answered), work.refused) == (200, [])
        filler = fill(disk)
        work.calls(act)
    assert work.refused[-1] == "evidence_unavailable"
    assert set(work.refused) <= {"evidence_unavailable", "outcome unrecorded"}
    with suppress(EvidenceUnavailable):  # the last checkpoint finds no room either
        guard.close()

    filler.unlink()
    before = len(work.answered)
    with Guard.open(POLICY, home=home, durability=durability) as guard:
        with guard.task("worker", initiator="user:ann"):
            work.calls(work.tool(guard))
        assert len(work.answered) == before + 200
        allowed = {record["id"] for record in records(guard, "decision", verdict="allow")}
        ended = {record["execution"] for record in records(guard, "outcome", status="ok")}
    assert set(work.ran) <= allowed
    assert set(work.answered) <= ended <= set(work.ran)
    assert not [found for found in verify(home, log_keys(home, None)).findings if found.severity == "error"]
