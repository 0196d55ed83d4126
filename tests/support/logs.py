"""Small logs for tests: a fixed key, a clock that counts, records as the guard would write them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from agentguard.keys import LocalKey
from agentguard.log import Durability, Log

KEY = LocalKey.from_seed(bytes(range(32)))
START_NS = 1_700_000_000_000_000_000


class Ticking:
    """A clock that gains a millisecond each time somebody looks."""

    def __init__(self, start: int = START_NS) -> None:
        self.now = start

    def __call__(self) -> int:
        self.now += 1_000_000
        return self.now


def canonical(**members: object) -> bytes:
    return json.dumps(members, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def decision(identity: str, *, verdict: str = "allow", task: str = "task-1", **more: object) -> bytes:
    defaults: dict[str, object] = {"agent": "triage", "caused_by": None, "time": str(START_NS), "tool": "search"}
    return canonical(**{**defaults, "id": identity, "type": "decision", "task": task, "verdict": verdict, "v": 1, **more})


def outcome(execution: str, *, task: str = "task-1", **more: object) -> bytes:
    members = {
        "execution": execution,
        "id": f"{execution}-end",
        "status": "ok",
        "task": task,
        "time": str(START_NS + 1),
        "type": "outcome",
        "v": 1,
    }
    return canonical(**{**members, **more})


def small(number: int) -> bytes:
    return canonical(id=f"r{number}")


_numbers = count()


def fresh() -> Iterator[bytes]:
    """Small records, no two alike."""
    for number in _numbers:
        yield small(number)


def open_log(home: Path, durability: Durability = "process", *, segment_bytes: int = 64 << 20) -> Log:
    return Log.open(home, KEY, durability=durability, segment_bytes=segment_bytes)


def files_of(home: Path) -> list[Path]:
    """Every file that carries evidence: manifest, heads and segments, which an attacker may write to."""
    return sorted([home / "log" / "manifest", *(home / "heads").iterdir(), *segments_of(home)])


def segments_of(home: Path, shard: str = "*") -> list[Path]:
    """The segments, which an attacker may write to, sealed or not."""
    found = sorted((home / "log").glob(f"{shard}/*.seg"))
    for path in found:
        path.chmod(0o600)
    return found
