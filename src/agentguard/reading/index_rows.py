"""The tables of the query index, and what a record puts into them (reading/index.py)."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

VERSION: Final = 2
TABLES: Final = f"""
    CREATE TABLE record (
        shard TEXT NOT NULL, number INTEGER NOT NULL, segment TEXT NOT NULL, offset INTEGER NOT NULL, type TEXT, id TEXT, execution TEXT,
        task TEXT, agent TEXT, tool TEXT, verdict TEXT, code TEXT, time INTEGER NOT NULL, caused_by TEXT, artifact TEXT, initiator TEXT,
        parent TEXT, PRIMARY KEY (shard, number)
    ) WITHOUT ROWID;
    CREATE TABLE progress (
        shard TEXT PRIMARY KEY, size INTEGER NOT NULL, segment TEXT NOT NULL, offset INTEGER NOT NULL, end INTEGER NOT NULL,
        digest TEXT NOT NULL, before TEXT NOT NULL
    ) WITHOUT ROWID;
    PRAGMA user_version = {VERSION}
"""
#: Made when all records are there: sorted at once they take a third of the time.
INDEXES: Final = """
    CREATE INDEX IF NOT EXISTS record_by_time ON record (time);
    CREATE INDEX IF NOT EXISTS record_by_task ON record (task, time) WHERE task IS NOT NULL;
    CREATE INDEX IF NOT EXISTS record_by_execution ON record (execution) WHERE execution IS NOT NULL;
    CREATE INDEX IF NOT EXISTS record_by_cause ON record (caused_by) WHERE caused_by IS NOT NULL;
    CREATE INDEX IF NOT EXISTS record_by_artifact ON record (artifact) WHERE artifact IS NOT NULL;
    CREATE INDEX IF NOT EXISTS record_by_parent ON record (parent) WHERE parent IS NOT NULL;
    CREATE INDEX IF NOT EXISTS record_by_code ON record (code, time) WHERE code IS NOT NULL
"""


class Row(NamedTuple):
    """Where a record stands (shard, number, segment file, byte offset) and what it is about.

    `execution` is the id of a decision, and what an outcome names. `time` is in nanoseconds since 1970. What a record does not say is None,
    or 0 for its time.
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
    time: int
    caused_by: str | None
    artifact: str | None
    initiator: str | None
    parent: str | None


COLUMNS: Final = ", ".join(Row._fields)
INSERT: Final = f"INSERT INTO record ({COLUMNS}) VALUES ({', '.join('?' * len(Row._fields))})"  # noqa: S608  # constants only


class _Who(msgspec.Struct, gc=False):
    id: str | None = None


class _About(msgspec.Struct, gc=False):
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
    initiator: _Who | None = None
    parent: str | None = None


_decode = msgspec.json.Decoder(_About).decode


def row_of(shard: str, number: int, segment: str, offset: int, record: bytes) -> Row:
    try:
        about = _decode(record)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        about = _About()  # `log verify` says what is wrong with it
    kind, who = about.type, about.initiator
    return Row(
        shard,
        number,
        segment,
        offset,
        kind,
        about.id,
        about.id if kind == "decision" else about.execution,
        about.task,
        about.agent,
        about.tool,
        about.verdict,
        about.code,
        time_of(about.time),
        about.caused_by,
        about.artifact,
        who.id if who is not None else None,
        about.parent,
    )


def time_of(text: str | None) -> int:
    """Nanoseconds, if that is what the text says and SQLite's 63 bits hold it; else 0."""
    value = int(text) if text is not None and text.isascii() and text.isdigit() and len(text) <= 19 else 0
    return value if value < 2**63 else 0
