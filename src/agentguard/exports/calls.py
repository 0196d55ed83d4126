"""What is exported: the records of a log one by one, and its calls, each with its outcome. Nothing is asked of the query index."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from agentguard.log import iter_runs, read_shards
from agentguard.log.layout import segments, shard_directory
from agentguard.reading.queries import Filter

#: Told how many bytes of the log were read, and how many there are.
Progress = Callable[[int, int], None]

_decode = msgspec.json.Decoder().decode


class Entry(NamedTuple):
    """A record: where it stands, its members, and its bytes."""

    shard: str
    number: int
    record: dict[str, Any]
    data: bytes


class Call(NamedTuple):
    """The decision about a call and, if it ran and somebody recorded how it ended, its outcome."""

    decision: Entry
    outcome: dict[str, Any] | None


def records(home: Path, wanted: Filter | None = None, progress: Progress = lambda done, of: None) -> Iterator[Entry]:
    """Every record that fits, shard by shard in the order of the log. What is no JSON object is passed over: `log verify` names it.

    Raises InvalidInput for damage.
    """
    places = [(shard, path) for shard in read_shards(home) for _, path in segments(shard_directory(home, shard))]
    sizes = {path: path.stat().st_size for _, path in places}
    of, before = sum(sizes.values()), 0
    for shard in read_shards(home):
        last = None
        for path, run in iter_runs(home, shard):
            if path != last:
                before += sizes.get(last, 0) if last is not None else 0
                last = path
            progress(before + run.end, of)
            for index, data in enumerate(run.records, run.first):
                record = _members(data)
                if record is not None and (wanted is None or wanted.matches(record)):
                    yield Entry(shard, index, record, data)
        before += sizes.get(last, 0) if last is not None else 0


def _members(data: bytes) -> dict[str, Any] | None:
    try:
        value = _decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
    return value if type(value) is dict else None


def calls(home: Path, wanted: Filter | None = None, progress: Progress = lambda done, of: None) -> Iterator[Call]:
    """Every call whose decision fits. One that ran comes when its outcome was met; one without an outcome comes at the end.

    What is held meanwhile are the calls that were under way at one time, and those whose outcome nobody recorded.
    """
    running: dict[str, Entry] = {}
    early: dict[str, dict[str, Any]] = {}  # an outcome that a process wrote into a shard that is read first
    for entry in records(home, None, progress):
        record = entry.record
        kind, identity, execution = record.get("type"), record.get("id"), record.get("execution")
        if kind == "decision" and type(identity) is str:
            runs = record.get("verdict") == "allow" or record.get("enforced") is False
            outcome = early.pop(identity, None) if runs else None
            if runs and outcome is None:
                running[identity] = entry
            elif wanted is None or wanted.matches(record):
                yield Call(entry, outcome)
        elif kind == "outcome" and type(execution) is str:
            decided = running.pop(execution, None)
            if decided is None:
                early[execution] = record
            elif wanted is None or wanted.matches(decided.record):
                yield Call(decided, record)
    for entry in running.values():
        if wanted is None or wanted.matches(entry.record):
            yield Call(entry, None)
