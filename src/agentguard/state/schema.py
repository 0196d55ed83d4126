"""The tables of the state store, and how a store comes to be: it appears under its name complete or not at all (DESIGN §9)."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
import uuid
from pathlib import Path
from typing import Final, Literal, TypeAlias

from agentguard.errors import StateUnavailable

Durability: TypeAlias = Literal["fsync", "process"]

#: "agsd" in SQLite's header, so that no other database is taken for ours; raised with every change of the tables.
APPLICATION_ID: Final = 0x61677364
SCHEMA_VERSION: Final = 3

_PAGE_SIZE: Final = 2048  # measured: the write-ahead log checksums whole pages, and below 2048 the tree gets deeper

#: `cell` holds everything that one admission touches, so that neighbours share a page: a row is a counter that never passes its limit
#: (that is the CHECK), and a replay id is a counter with the limit 1. `status` is NULL where a call may not be rerun, "" while a rerun is
#: possible, and then the outcome. `lease` says which life of which shard made the reservation.
#: `owner` names the tasks that are counted in a process's memory, and where `lease` is NULL those that ended there (state/owned.py).
_SCHEMA: Final = f"""
BEGIN;
CREATE TABLE meta (version INTEGER NOT NULL, domain TEXT NOT NULL, leases INTEGER NOT NULL, sweep TEXT NOT NULL);
CREATE TABLE cell (
    key TEXT PRIMARY KEY, n INTEGER NOT NULL, lim INTEGER NOT NULL, expires INTEGER NOT NULL,
    lease INTEGER, execution TEXT, status TEXT, charges TEXT, CHECK (n <= lim)
) WITHOUT ROWID;
CREATE TABLE owner (task TEXT PRIMARY KEY, lease INTEGER, expires INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX owner_expires ON owner (expires);
CREATE TABLE shard (name TEXT PRIMARY KEY, position INTEGER NOT NULL, lease INTEGER) WITHOUT ROWID;
CREATE TABLE revocation (
    seq INTEGER PRIMARY KEY, action TEXT NOT NULL, kind TEXT NOT NULL, value TEXT NOT NULL,
    by TEXT NOT NULL, reason TEXT NOT NULL, time_ns INTEGER NOT NULL, id TEXT NOT NULL UNIQUE
);
CREATE INDEX revocation_target ON revocation (kind, value, time_ns);
CREATE TABLE note (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""

HINT: Final = "move state.db, state.db-wal and state.db-shm away together: they are rebuilt from the log when a guard opens"


def create(path: Path, durability: Durability, wait: float) -> None:
    """Make sure that a complete store stands at `path`, mode 0600."""
    if path.exists():
        return
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            _flock(lock, path, wait)
            if not path.exists():
                _build(path, durability)
        finally:
            os.close(lock)
    except OSError as error:
        raise StateUnavailable(f"{path}: cannot create the state store: {error.strerror}") from error
    except sqlite3.Error as error:
        raise StateUnavailable(f"{path}: cannot create the state store: {error}") from error


def _flock(lock: int, path: Path, wait: float) -> None:
    deadline = time.monotonic() + wait
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise StateUnavailable(f"{path}: another process has been creating the store for {wait:g} s") from None
            time.sleep(2e-3)


def _build(path: Path, durability: Durability) -> None:
    """Under the creation lock: write the store beside its name, then give it the name."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    os.close(os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    connection = sqlite3.connect(new, isolation_level=None)
    try:
        connection.execute(f"PRAGMA page_size = {_PAGE_SIZE}")
        connection.execute(f"PRAGMA synchronous = {'FULL' if durability == 'fsync' else 'OFF'}")
        connection.executescript(_SCHEMA)
        connection.execute("INSERT INTO meta VALUES (0, ?, 0, '')", (uuid.uuid4().hex,))
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()
    for ending in ("-wal", "-shm"):  # left over from a store that was deleted without them: they would be taken for the new one's
        path.with_name(path.name + ending).unlink(missing_ok=True)
    os.rename(new, path)
    if durability != "fsync":
        return
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
