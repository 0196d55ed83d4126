"""Questions to the log: which records, what an artifact authorised, what came of an execution, which rules refused what.

The query index only says where to look. Each record of an answer is read from its segment and compared with the row that led there; a row
that says something else ends the answer with InvalidInput. `fresh` asks an index that is built from the segments on the spot, and rests on
nothing else.

    with Questions(home) as ask:
        for found in ask.find(Filter(agent="triage", verdict="deny"), limit=20):
            print(found.record["tool"], found.record["code"])
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from agentguard.errors import InvalidInput
from agentguard.evidence import commit
from agentguard.reading.index import Index, Progress
from agentguard.reading.index_rows import Row, time_of
from agentguard.store import SideStore

_CURSOR: Final = re.compile(r"([0-9]{1,19})-([0-9a-f]{16})-([0-9]{1,15})")
_HASH: Final = re.compile(r"[0-9a-f]{8,64}")
#: How `Reason.sentence` ends: the place of the rule, and perhaps what would allow the call. Neither holds a value of the call.
_PLACE: Final = re.compile(r".* \[([^\[\]]+)\](?:; to allow it: (?:(?!; to allow it: ).)*)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which records. None does not matter; of the others all must hold.

    artifact      hash of a leaf's signing input
    initiator     id of the person or service on whose behalf
    type          decision, outcome, delegation, ... By default everything but outcomes, which come with their decisions
    since, until  nanoseconds since 1970: from the one on, up to but without the other
    """

    agent: str | None = None
    tool: str | None = None
    initiator: str | None = None
    task: str | None = None
    artifact: str | None = None
    verdict: str | None = None
    code: str | None = None
    type: str | None = None
    since: int | None = None
    until: int | None = None

    def columns(self) -> dict[str, str]:
        """What is asked of the members that are texts."""
        names = [item.name for item in fields(self) if item.name not in ("since", "until")]
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def matches(self, record: Mapping[str, Any]) -> bool:
        """Whether a record is one of these. Times are compared only where a bound is given."""
        who = record.get("initiator")
        found = {**record, "initiator": who.get("id") if isinstance(who, Mapping) else None}
        if any(found.get(name) != value for name, value in self.columns().items()):
            return False
        time = time_of(text) if type(text := record.get("time")) is str else 0
        return (self.since is None or time >= self.since) and (self.until is None or time < self.until)


class Found(NamedTuple):
    """A record and where it stands. `outcome`: for the decision about a call that ran, the record of how it ended, where there is one."""

    shard: str
    number: int
    record: dict[str, Any]
    outcome: dict[str, Any] | None = None

    @property
    def cursor(self) -> str:
        """Names this place in the order of answers; `find` goes on behind it."""
        return f"{time_of(self.record.get('time'))}-{self.shard}-{self.number}"

    def to_json(self) -> dict[str, Any]:
        return {"cursor": self.cursor, "shard": self.shard, "index": self.number, "record": self.record, "outcome": self.outcome}


class Refused(NamedTuple):
    """The refusals of one rule: how many, when first and last (nanoseconds), and the execution of the last one.

    `place` is where the rule stands, as the reason said; empty if it named none. None: the reason is not in the side store any more, or is
    not the one that was recorded.
    """

    code: str
    place: str | None
    agent: str
    tool: str
    times: int
    first: int
    last: int
    execution: str

    def to_json(self) -> dict[str, Any]:
        return {**self._asdict(), "first": str(self.first), "last": str(self.last)}


class Questions:
    """Asks the log of a home. Close it, or use it as a context manager."""

    def __init__(self, home: str | Path, progress: Progress = lambda records, done, of: None, *, fresh: bool = False) -> None:
        """Brings the query index up to the log first, or builds one of its own (`fresh`); `progress` is told how far that is.

        Raises InvalidInput if the log is damaged.
        """
        self._home = Path(home)
        self._folder = tempfile.TemporaryDirectory(prefix="agentguard-index-") if fresh else None
        path = Path(self._folder.name) / "index.db" if self._folder is not None else None
        try:
            self._index = Index(self._home, progress, path=path)
        except BaseException:
            self._tidy()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._index.close()
        self._tidy()

    def _tidy(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    def find(self, wanted: Filter, *, after: str | None = None, limit: int | None = None, newest: bool = False) -> Iterator[Found]:
        """The records that fit, oldest first, or newest first.

        after  the `cursor` of the last one that is known already
        limit  at most so many

        Raises InvalidInput for a cursor that is none, and where the index lies.
        """
        place = _place_of(after) if after is not None else None
        rows = self._index.find(wanted.columns(), since=wanted.since, until=wanted.until, after=place, newest=newest)
        kept = (row for row in rows if row.type != "outcome" or wanted.type == "outcome")
        return map(self._found, islice(kept, limit))

    def authorised(self, artifact: str) -> Iterator[Found]:
        """Everything that stood on an artifact or on one that was derived from it: links and calls, oldest first.

        `artifact` is the hash or how it begins, at least 8 digits. Raises InvalidInput if there is none, or more than one.
        """
        known = self._index.artifacts(artifact) if _HASH.fullmatch(artifact) else ()
        if len(known) != 1:
            problem = "several artifacts begin" if known else "no artifact in the log begins"
            raise InvalidInput(f"{problem} with {artifact!r:.80}", hint="give its hash, as `lineage` shows it")
        return map(self._found, self._index.authorised(known[0]))

    def downstream(self, execution: str) -> Iterator[Found]:
        """Everything that came of an execution: what ran or was derived while it ran, what stood on that, and so on; oldest first.

        Raises InvalidInput if there is no such execution.
        """
        if not any(row.type == "decision" for row in self._index.execution(execution)):
            raise InvalidInput(f"no execution has the id {execution!r:.80}", hint="`agentguard lineage TASK` shows those of a task")
        found: dict[tuple[str, int], Row] = {}
        waiting = list(self._index.children(execution))
        while waiting:
            row = waiting.pop()
            if (row.shard, row.number) in found or row.id == execution:
                continue
            found[row.shard, row.number] = row
            if row.type == "decision" and row.id is not None:
                waiting += self._index.children(row.id)
            elif row.type == "delegation" and row.artifact is not None:
                waiting += self._index.of_artifact(row.artifact)
        return map(self._found, sorted(found.values(), key=lambda row: (row.time, row.shard, row.number)))

    def denials(self, wanted: Filter | None = None) -> tuple[Refused, ...]:
        """Who was refused what by which rule, the most frequent first. A call that somebody was asked about counts too."""
        columns = {**(wanted or Filter()).columns(), "type": "decision"}
        since, until = (wanted.since, wanted.until) if wanted is not None else (None, None)
        refused: dict[str, tuple[Row, str | None]] = {}
        for row in self._index.find(columns, since=since, until=until):
            if row.code is not None and row.id is not None:
                refused[row.id] = row, self._index.record(row).get("reasons")
        places = self._places({execution: reasons for execution, (_, reasons) in refused.items() if reasons is not None})
        groups: dict[tuple[str, str | None, str, str], list[Row]] = {}
        for execution, (row, _) in refused.items():
            key = (row.code or "", places.get(execution), row.agent or "", row.tool or "")
            groups.setdefault(key, []).append(row)
        made = [Refused(*key, len(rows), rows[0].time, rows[-1].time, rows[-1].id or "") for key, rows in groups.items()]
        return tuple(sorted(made, key=lambda item: (-item.times, item.code, item.place or "", item.agent, item.tool)))

    def _places(self, commitments: Mapping[str, str]) -> dict[str, str]:
        """By execution the place that its first reason names, as far as reasons are kept and are what the log committed to."""
        found = {}
        for item in SideStore(self._home / "side").values() if commitments else ():
            if item.kind == "reasons" and commitments.get(item.execution) == commit(item.salt, item.value):
                sentences = json.loads(item.value)
                match = _PLACE.fullmatch(sentences[0]) if sentences else None
                found[item.execution] = match[1] if match is not None else ""
        return found

    def _found(self, row: Row) -> Found:
        """The record that a row leads to, and its outcome. Raises InvalidInput where the index lies."""
        record = self._index.record(row)
        outcome = None
        if row.type == "decision" and row.id is not None:
            ends = (other for other in self._index.execution(row.id) if other.type == "outcome")
            outcome = next(self._index.records(ends), None)
        return Found(row.shard, row.number, record, outcome)


def _place_of(cursor: str) -> tuple[int, str, int]:
    match = _CURSOR.fullmatch(cursor)
    if match is None:
        raise InvalidInput(f"{cursor!r:.80} is not a cursor", hint="give the one that came with the last record")
    return int(match[1]), match[2], int(match[3])
