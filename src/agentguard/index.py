"""A SQLite index over the log, for queries. The segments are the truth; the index can be thrown away and rebuilt at any time.

It says where records stand and what they are about, never what they say: whoever asks gets the record itself, read from its segment and
compared with the row that led there. So an index that was changed can hide a record from a query (until it is rebuilt), but cannot make
one up.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from agentguard.canonical import parse
from agentguard.errors import InvalidInput
from agentguard.log import Entry, iter_entries, read_record, read_shards

_VERSION: Final = 1
_BATCH: Final = 5_000
_SCHEMA: Final = f"""
    CREATE TABLE record (
        shard TEXT NOT NULL, number INTEGER NOT NULL, segment TEXT NOT NULL, offset INTEGER NOT NULL, type TEXT, id TEXT, execution TEXT,
        task TEXT, agent TEXT, tool TEXT, verdict TEXT, code TEXT, time INTEGER, caused_by TEXT, artifact TEXT, PRIMARY KEY (shard,
        number)
    ) WITHOUT ROWID; CREATE INDEX record_by_task ON record (task); CREATE INDEX record_by_execution ON record (execution); CREATE INDEX
    record_by_cause ON record (caused_by) WHERE caused_by IS NOT NULL; CREATE TABLE progress (shard TEXT PRIMARY KEY, size INTEGER NOT
    NULL, segment TEXT NOT NULL, offset INTEGER NOT NULL, digest TEXT NOT NULL); PRAGMA user_version = {_VERSION};
"""
_REBUILDING_WOULD_NOT_HELP: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
    }
)
_COLUMNS: Final = "shard, number, segment, offset, type, id, execution, task, agent, tool, verdict, code, time, caused_by, artifact"
_INSERT: Final = f"INSERT INTO record ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608  # constants only


@dataclass(frozen=True, slots=True)
class Row:
    """Where a record stands (shard, number, segment file, byte offset) and what it is about.

    `execution` is the id of a decision, and what an outcome names. `time` is in nanoseconds since 1970. What a record does not say is None.
    """

    shard: str
    number: int
    segment: str
    offset: int
    type: str | None
    id: str | None
    execution: str | None
    task: str | None
    agent: str | None
    tool: str | None
    verdict: str | None
    code: str | None
    time: int | None
    caused_by: str | None
    artifact: str | None


class _About(msgspec.Struct):
    """The members of a record that are indexed."""

    type: str | None = None
    id: str | None = None
    execution: str | None = None
    task: str | None = None
    agent: str | None = None
    tool: str | None = None
    verdict: str | None = None
    code: str | None = None
    time: str | None = None
    caused_by: str | None = None
    artifact: str | None = None


_decode = msgspec.json.Decoder(_About).decode


def _row(entry: Entry) -> Row:
    try:
        about = _decode(entry.record)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        about = _About()  # `log verify` says what is wrong with it
    return Row(
        entry.shard,
        entry.index,
        entry.segment,
        entry.offset,
        about.type,
        about.id,
        about.id if about.type == "decision" else about.execution,
        about.task,
        about.agent,
        about.tool,
        about.verdict,
        about.code,
        _time(about.time),
        about.caused_by,
        about.artifact,
    )


def _time(text: str | None) -> int | None:
    """Nanoseconds, if that is what the text says; SQLite's integers have 63 bits."""
    value = int(text) if text is not None and text.isascii() and text.isdigit() and len(text) <= 19 else -1
    return value if 0 <= value < 2**63 else None


def _values(row: Row) -> tuple[Any, ...]:
    return tuple(getattr(row, name) for name in Row.__slots__)


class Index:
    """`HOME/index.db`. Opening it brings it up to the log; close it, or use it as a context manager."""

    def __init__(self, home: str | Path) -> None:
        """Raises InvalidInput if the log is damaged, or if the index cannot be written."""
        self._home = Path(home)
        self._path = self._home / "index.db"
        try:
            self._database = self._open()
            self.refresh()
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _REBUILDING_WOULD_NOT_HELP:
                raise self._unusable(error) from error
            self.rebuild()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._database.close()

    # bringing it up to the log

    def refresh(self) -> int:
        """Add what the log has gained since; the number of records. An index that does not fit the log is rebuilt."""
        database = self._database
        database.execute("BEGIN IMMEDIATE")
        try:
            known = {row[0]: row[1:] for row in database.execute("SELECT shard, size, segment, offset, digest FROM progress")}
            shards = read_shards(self._home)
            fits = set(known).issubset(shards) and all(self._fits(shard, *known[shard]) for shard in known)
            if not fits:
                database.execute("DELETE FROM record")
                database.execute("DELETE FROM progress")
                known = {}
            added = sum(self._add(shard, known[shard][0] if shard in known else 0) for shard in shards)
        except BaseException:
            database.rollback()
            raise
        database.commit()
        return added

    def rebuild(self) -> int:
        """Throw the index away and build it anew; the number of records. Raises InvalidInput as the constructor does."""
        if hasattr(self, "_database"):
            self._database.close()
        try:
            for suffix in ("", "-journal", "-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            self._database = self._open()
            return self.refresh()
        except (OSError, sqlite3.DatabaseError) as error:
            raise self._unusable(error) from error

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, isolation_level=None, timeout=30)
        try:
            database.execute("PRAGMA synchronous = OFF")  # it can be rebuilt
            with closing(database.cursor()) as cursor:
                cursor.execute("BEGIN IMMEDIATE")
                version = cursor.execute("PRAGMA user_version").fetchone()[0]
                if version == 0:
                    for statement in _SCHEMA.split(";"):
                        cursor.execute(statement)
                cursor.execute("COMMIT")
            if version not in (0, _VERSION):
                raise sqlite3.DatabaseError("the index is of another version")
            self._path.chmod(0o600)
        except BaseException:
            database.close()
            raise
        return database

    def _fits(self, shard: str, size: int, segment: str, offset: int, digest: str) -> bool:
        """Whether the last record that was indexed still stands where it stood."""
        try:
            record = read_record(self._home, shard, size - 1, segment=segment, offset=offset)
        except InvalidInput:
            return False
        count = self._database.execute("SELECT count(*) FROM record WHERE shard = ?", (shard,)).fetchone()[0]
        return hashlib.sha256(record).hexdigest() == digest and count == size

    def _add(self, shard: str, start: int) -> int:
        count = 0
        last: Entry | None = None
        rows: list[tuple[Any, ...]] = []
        for entry in iter_entries(self._home, shard, start):
            rows.append(_values(_row(entry)))
            last = entry
            count += 1
            if len(rows) >= _BATCH:
                self._database.executemany(_INSERT, rows)
                rows.clear()
        self._database.executemany(_INSERT, rows)
        if last is not None:
            digest = hashlib.sha256(last.record).hexdigest()
            values = (shard, last.index + 1, last.segment, last.offset, digest)
            self._database.execute("INSERT OR REPLACE INTO progress VALUES (?, ?, ?, ?, ?)", values)
        return count

    def _unusable(self, error: Exception) -> InvalidInput:
        return InvalidInput(f"the index cannot be used: {error}", place=str(self._path), hint="it may be deleted at any time")

    # asking

    def tasks(self) -> tuple[str, ...]:
        """Ids of all tasks, the latest first."""
        rows = self._query("SELECT task FROM record WHERE task IS NOT NULL GROUP BY task ORDER BY min(time) DESC, task")
        return tuple(row[0] for row in rows)

    def task(self, task: str) -> tuple[Row, ...]:
        """Everything that was recorded under a task, oldest first."""
        return self._rows("task = ?", (task,))

    def execution(self, execution: str) -> tuple[Row, ...]:
        """The decision of an execution and its outcome."""
        return self._rows("execution = ?", (execution,))

    def latest(self, kind: str, count: int) -> tuple[Row, ...]:
        """The latest `count` records of one type, oldest first."""
        statement = f"SELECT {_COLUMNS} FROM record WHERE type = ? ORDER BY time DESC, shard, number LIMIT ?"  # noqa: S608  # constants only
        return tuple(Row(*row) for row in reversed(self._query(statement, (kind, count))))

    def without_task(self) -> tuple[Row, ...]:
        """The decisions about calls that no task granted, oldest first."""
        return self._rows("task IS NULL AND type = 'decision'", ())

    def children(self, execution: str) -> tuple[Row, ...]:
        """What names this execution as its cause, oldest first."""
        return self._rows("caused_by = ?", (execution,))

    def related(self, identity: str) -> tuple[Row, ...]:
        """Everything of the task, or of the execution's task, and of all tasks that caused it or were caused by it, oldest first.

        Empty if the log knows no task and no execution of this name.
        """
        found: dict[tuple[str, int], Row] = {}
        tasks = [identity] + [row.task for row in self.execution(identity) if row.task is not None]
        loose = list(self.execution(identity))
        seen: set[str] = set()
        while tasks:
            task = tasks.pop()
            if task in seen:
                continue
            seen.add(task)
            for row in (*self.task(task), *loose):
                found[row.shard, row.number] = row
                neighbours: tuple[Row, ...] = self.execution(row.caused_by) if row.caused_by is not None else ()
                if row.type == "decision" and row.id is not None:
                    neighbours += self.children(row.id)
                for other in neighbours:
                    found[other.shard, other.number] = other
                    if other.task is not None and other.task not in seen:
                        tasks.append(other.task)
            loose = []
        return tuple(sorted(found.values(), key=_order))

    def records(self, rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
        """The records themselves, from the segments. Raises InvalidInput where a record is not what its row says."""
        for row in rows:
            yield self.record(row)

    def record(self, row: Row) -> dict[str, Any]:
        """The record that a row leads to. Raises InvalidInput if it is not what the row says: then the index lies, and must be rebuilt."""
        record = read_record(self._home, row.shard, row.number, segment=row.segment, offset=row.offset)
        found = _row(Entry(row.shard, row.number, record, row.segment, row.offset))
        if found != row:
            names = [name for name in Row.__slots__ if getattr(found, name) != getattr(row, name)]
            message = f"the index says something else than record {row.number} of shard {row.shard} does: {', '.join(names)}"
            raise InvalidInput(message, place=str(self._path), hint="delete it; it is rebuilt from the log")
        members: dict[str, Any] = parse(record)
        return members

    def _rows(self, condition: str, values: Sequence[Any]) -> tuple[Row, ...]:
        statement = f"SELECT {_COLUMNS} FROM record WHERE {condition} ORDER BY time, shard, number"  # noqa: S608  # constants only
        return tuple(Row(*row) for row in self._query(statement, values))

    def _query(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._database.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise self._unusable(error) from error


def _order(row: Row) -> tuple[int, str, int]:
    return (row.time or 0, row.shard, row.number)
