"""What the guard left behind: lineage from the log, and whether the log is genuine, checked with its public key alone."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from agentguard.keys import PublicKey
from agentguard.log import VerifyReport, iter_records, verify
from agentguard.reading.lineage import Lineage

_DENIAL: Final = b'"verdict":"deny"'


@dataclass(frozen=True, slots=True)
class Flip:
    """One bit of a copy of the log was changed, at this byte of this file; and what verification said to that."""

    file: str
    offset: int
    report: VerifyReport

    @property
    def found(self) -> bool:
        return not self.report.ok


def lineage(home: Path, agent: str) -> Lineage:
    """The lineage of the task that `agent` began, read from the log."""
    graph = Lineage.of(msgspec.json.decode(data) for _, _, data in iter_records(home))
    task = next((task for task in graph.tasks if task.agent == agent), None)
    return graph.focus(task.id) if task is not None else graph


def verified(home: Path, key: PublicKey) -> VerifyReport:
    """Every byte, record, root and signature of the log."""
    return verify(home, key)


def flip(home: Path, key: PublicKey, copy: Path) -> Flip:
    """Copy the home without its private keys, change one bit of a denial in the copied log, and verify the copy."""
    shutil.copytree(home, copy, ignore=shutil.ignore_patterns("keys"))
    segment = max((path for path in (copy / "log").rglob("*") if path.is_file()), key=lambda path: path.read_bytes().count(_DENIAL))
    data = bytearray(segment.read_bytes())
    offset = data.find(_DENIAL) + len(_DENIAL) - 2 if _DENIAL in data else len(data) // 2
    data[offset] ^= 1
    segment.write_bytes(data)
    return Flip(str(segment.relative_to(copy)), offset, verify(copy, key))
