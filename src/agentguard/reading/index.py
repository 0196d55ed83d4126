"""A SQLite index over the log, for queries. The segments are the truth; the index can be thrown away and rebuilt at any time.

It says where records stand and what they are about, never what they say: whoever asks gets the record itself, read from its segment and
compared with the row that led there. So an index that was changed cannot make a record up. It can hide one: `check` compares it with the
log from end to end, and what must not rest on it reads the segments (`log verify`, exports) or builds an index of its own.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from agentguard.canonical import parse
from agentguard.errors import InvalidInput
from agentguard.log import Damage, Lookup, Run, iter_runs, read_shards
from agentguard.log.layout import segments, shard_directory
from agentguard.reading.index_rows import COLUMNS, INDEXES, INSERT, TABLES, VERSION, Row, row_of

#: So many records are added in one transaction: another process waits no longer, and a rebuild that was killed goes on from there.
_BATCH: Final = 20_000
_REBUILDING_WOULD_NOT_HELP: Final = frozenset(
    getattr(sqlite3, f"SQLITE_{name}") for name in ("BUSY", "LOCKED", "READONLY", "IOERR", "FULL", "CANTOPEN")
)

#: Told how many records were added, and how many bytes of the log were read of how many.
Progress = Callable[[int, int, int], None]


class Index:
    """`HOME/index.db`, or the file `path`. Opening it brings it up to the log; close it, or use it as a context manager."""

    def __init__(self, home: str | Path, progress: Progress = lambda records, done, of: None, *, path: Path | None = None) -> None:
        """Raises InvalidInput if the log is damaged, or if the index cannot be written."""
        self._home = Path(home)
        self._path = path or self._home / "index.db"
        self._progress = progress
        self._lookup = Lookup(self._home)
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
        self._lookup.close()
        self._database.close()

    # bringing it up to the log

    def refresh(self) -> int:
        """Add what the log has gained since; the number of records. An index that does not fit the log is built anew."""
        if not self._fits():
            return self._anew()
        try:
            return self._add()
        except InvalidInput:  # the log is damaged, or the index points to a place where it cannot be read on
            return self._anew()

    def rebuild(self) -> int:
        """Throw the index away and build it anew; the number of records. Raises InvalidInput as the constructor does."""
        if hasattr(self, "_database"):
            self._database.close()
        try:
            for suffix in ("", "-journal", "-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            self._database = self._open()
            return self._add()
        except (OSError, sqlite3.DatabaseError) as error:
            raise self._unusable(error) from error

    def check(self) -> int:
        """Compare every row with its record; how many rows differ, are missing or too many. Raises InvalidInput for damage."""
        wrong = done = 0
        of = self._bytes()
        statement = f"SELECT {COLUMNS} FROM record WHERE shard = ? AND typeof(number) = 'integer' ORDER BY number"  # noqa: S608  # constants only
        shards = read_shards(self._home)
        for shard, number, rows in self._query("SELECT shard, typeof(number), count(*) FROM record GROUP BY 1, 2"):
            wrong += rows if shard not in shards or number != "integer" else 0
        for shard in shards:
            size = self._reached(shard)[0]
            kept = map(Row._make, self._database.execute(statement, (shard,)))
            row = next(kept, None)
            for found in self._rows_of(shard, size):
                while row is not None and row.number < found.number:
                    wrong, row = wrong + 1, next(kept, None)
                if row is not None and row.number == found.number:
                    wrong, row = wrong + (row != found), next(kept, None)
                else:
                    wrong += 1
                if found.number % _BATCH == 0:
                    self._progress(found.number, done + self._bytes(shard, found.segment) + found.offset, of)
            wrong += sum(1 for _ in kept) + (row is not None)
            done += self._bytes(shard)
        return wrong

    @property
    def size(self) -> int:
        """How many records it knows."""
        return int(self._query("SELECT count(*) FROM record")[0][0])

    def _rows_of(self, shard: str, size: int) -> Iterator[Row]:
        """The first `size` rows that the log gives."""
        for path, run in iter_runs(self._home, shard):
            for at, record in enumerate(run.records[: max(0, size - run.first)]):
                yield row_of(shard, run.first + at, path.name, run.offsets[at], record)

    def _open(self) -> sqlite3.Connection:
        try:
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # and SQLite's files beside it likewise
        except OSError as error:
            raise self._unusable(error) from error
        database = sqlite3.connect(self._path, isolation_level=None, timeout=30)
        try:
            database.execute("PRAGMA synchronous = OFF")  # it can be rebuilt
            database.execute("PRAGMA journal_mode = WAL")  # who asks does not wait for who adds
            database.execute("BEGIN IMMEDIATE")
            version = database.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                _each(database, TABLES)
            database.execute("COMMIT")
            if version not in (0, VERSION):
                raise sqlite3.DatabaseError("the index is of another version")
        except BaseException:
            database.close()
            raise
        return database

    def _fits(self) -> bool:
        """Whether there are as many rows as there should be, the last record of each shard still stands where it stood, and the segments
        before it are the same files: retention may have taken records out of them."""
        total = 0
        shards = read_shards(self._home)
        for shard, size, segment, offset, end, digest, before in self._database.execute("SELECT * FROM progress").fetchall():
            if shard not in shards or type(segment) is not str or not all(type(n) is int and n > 0 for n in (size, offset, end)):
                return False
            total += size
            try:
                record = self._lookup.record(shard, size - 1, segment=segment, offset=offset)
            except InvalidInput:
                return False
            if (hashlib.sha256(record).hexdigest(), self._before(shard, segment)) != (digest, before):
                return False
        return bool(self._database.execute("SELECT count(*) FROM record").fetchone()[0] == total)

    def _anew(self) -> int:
        self._database.execute("BEGIN IMMEDIATE")
        for name in [line.split()[5] for line in INDEXES.split(";")]:
            self._database.execute(f"DROP INDEX IF EXISTS {name}")
        self._database.execute("DELETE FROM record")
        self._database.execute("DELETE FROM progress")
        self._database.execute("COMMIT")
        return self._add()

    def _add(self) -> int:
        added = done = 0
        of = self._bytes()
        for shard in read_shards(self._home):
            gained, read = self._add_shard(shard, added, done, of)
            added, done = added + gained, done + read
        _each(self._database, INDEXES)
        return added

    def _add_shard(self, shard: str, added: int, done: int, of: int) -> tuple[int, int]:
        """Bring one shard up to the log, batch by batch. How many records were added, and how many bytes of its log there are."""
        database, count, runs = self._database, 0, None
        at = -1  # where `runs` stands
        while True:
            database.execute("BEGIN IMMEDIATE")
            try:
                size, segment, end = self._reached(shard)
                if runs is None or size != at:  # another process was here in between
                    runs = iter_runs(self._home, shard, size, at=(segment, end) if segment else None)
                at = self._add_batch(shard, size, runs)
                database.execute("COMMIT")
            except BaseException:
                database.rollback()
                raise
            count += at - size
            _, segment, end = self._reached(shard)
            self._progress(added + count, done + self._bytes(shard, segment) + end, of)
            if at == size:
                return count, self._bytes(shard)

    def _reached(self, shard: str) -> tuple[int, str, int]:
        """How many records of a shard there are, and the segment and byte where they end."""
        found = self._database.execute("SELECT size, segment, end FROM progress WHERE shard = ?", (shard,)).fetchone()
        return found or (0, "", 0)

    def _add_batch(self, shard: str, size: int, runs: Iterator[tuple[Path, Run]]) -> int:
        """Add the records of the next runs; how many there are then."""
        rows: list[Row] = []
        record, end = b"", 0
        for path, run in runs:
            skipped = max(0, size - run.first)
            places = enumerate(zip(run.records, run.offsets, strict=True))
            rows += [row_of(shard, run.first + at, path.name, offset, record) for at, (record, offset) in places if at >= skipped]
            if run.records:
                record, end = run.records[-1], run.end
            if len(rows) >= _BATCH:
                break
        if rows:
            self._database.executemany(INSERT, rows)
            last = rows[-1]
            digest, before = hashlib.sha256(record).hexdigest(), self._before(shard, last.segment)
            values = (shard, last.number + 1, last.segment, last.offset, end, digest, before)
            self._database.execute("INSERT OR REPLACE INTO progress VALUES (?, ?, ?, ?, ?, ?, ?)", values)
            return last.number + 1
        return size

    def _before(self, shard: str, segment: str) -> str:
        """Names and sizes of the segment files before one."""
        files = [path for _, path in segments(shard_directory(self._home, shard)) if path.name < segment]
        return " ".join(f"{path.name}:{path.stat().st_size}" for path in files)

    def _bytes(self, shard: str | None = None, before: str | None = None) -> int:
        """Bytes of the log, of one shard, or of its segments before one."""
        shards = read_shards(self._home) if shard is None else (shard,)
        files = [path for name in shards for _, path in segments(shard_directory(self._home, name))]
        return sum(path.stat().st_size for path in files if before is None or path.name < before)

    def _unusable(self, error: Exception) -> InvalidInput:
        hint = "it may be deleted at any time; `log query --fresh` does without it"
        return InvalidInput(f"the index cannot be used: {error}", place=str(self._path), hint=hint)

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
        statement = f"SELECT {COLUMNS} FROM record WHERE type = ? ORDER BY time DESC, shard, number LIMIT ?"  # noqa: S608  # constants only
        return tuple(self._row(row) for row in reversed(self._query(statement, (kind, count))))

    def find(
        self,
        columns: Mapping[str, str],
        *,
        since: int | None = None,
        until: int | None = None,
        after: tuple[int, str, int] | None = None,
        newest: bool = False,
    ) -> Iterator[Row]:
        """The rows with these values, in the order of time, shard and number, or in the opposite order.

        columns       {column of Row: value}
        since, until  nanoseconds: from the one on, up to but without the other
        after         (time, shard, number) of the last row that is known already
        """
        names = [name for name in columns if name in Row._fields]
        conditions = [f"{name} = ?" for name in names]
        values: list[Any] = [columns[name] for name in names]
        for condition, bound in (("time >= ?", since), ("time < ?", until)):
            if bound is not None:
                conditions.append(condition)
                values.append(bound)
        if after is not None:
            conditions.append(f"(time, shard, number) {'<' if newest else '>'} (?, ?, ?)")
            values += after
        turn = "DESC" if newest else "ASC"
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        return self._stream(f"SELECT {COLUMNS} FROM record {where} ORDER BY time {turn}, shard {turn}, number {turn}", values)  # noqa: S608  # constants

    def authorised(self, artifact: str) -> Iterator[Row]:
        """What names an artifact, or one that was derived from it, as what it is or what it stood on; oldest first."""
        statement = f"""
            WITH RECURSIVE link (artifact) AS (
                VALUES (?)
                UNION SELECT record.artifact FROM record JOIN link ON record.parent = link.artifact WHERE record.artifact NOT NULL
            ) SELECT {COLUMNS} FROM record WHERE artifact IN link ORDER BY time, shard, number
        """  # noqa: S608  # constants only
        return self._stream(statement, (artifact,))

    def artifacts(self, beginning: str) -> tuple[str, ...]:
        """The artifacts whose hash begins so, two of them at most."""
        statement = "SELECT DISTINCT artifact FROM record WHERE artifact >= ? AND artifact < ? LIMIT 2"
        return tuple(row[0] for row in self._query(statement, (beginning, beginning + "g")))

    def of_artifact(self, artifact: str) -> tuple[Row, ...]:
        """The calls that stood on an artifact, and the links that were derived from it."""
        return (*self._rows("artifact = ? AND type = 'decision'", (artifact,)), *self._rows("parent = ?", (artifact,)))

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
        try:
            record = self._lookup.record(row.shard, row.number, segment=row.segment, offset=row.offset)
        except Damage:
            raise
        except InvalidInput as error:
            raise self._lies(f"the index leads to a record that is not there: {error.message}") from None
        found = row_of(row.shard, row.number, row.segment, row.offset, record)
        if found != row:
            names = [name for name in Row._fields if getattr(found, name) != getattr(row, name)]
            raise self._lies(f"the index says something else than record {row.number} of shard {row.shard} does: {', '.join(names)}")
        members: dict[str, Any] = parse(record)
        return members

    def _row(self, values: Sequence[Any]) -> Row:
        """A row as it was read. Raises InvalidInput if it is none that we wrote: SQLite keeps anything in any column."""
        row = Row._make(values)
        numbers, texts = (row.number, row.offset, row.time), (row.shard, row.segment)
        others = [value for value in values if type(value) is not int and type(value) is not str and value is not None]
        if others or any(type(value) is not int or value < 0 for value in numbers) or any(type(value) is not str for value in texts):
            raise self._lies("the index holds a row that is none")
        return row

    def _lies(self, message: str) -> InvalidInput:
        return InvalidInput(message, place=str(self._path), hint="`agentguard log index` compares all of it with the log, and mends it")

    def _stream(self, statement: str, values: Sequence[Any]) -> Iterator[Row]:
        try:
            for row in self._database.execute(statement, values):
                yield self._row(row)
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def _rows(self, condition: str, values: Sequence[Any]) -> tuple[Row, ...]:
        statement = f"SELECT {COLUMNS} FROM record WHERE {condition} ORDER BY time, shard, number"  # noqa: S608  # constants only
        return tuple(self._row(row) for row in self._query(statement, values))

    def _query(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._database.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise self._unusable(error) from error


def _order(row: Row) -> tuple[int, str, int]:
    return (row.time, row.shard, row.number)


def _each(database: sqlite3.Connection, statements: str) -> None:
    for statement in statements.split(";"):
        database.execute(statement)
