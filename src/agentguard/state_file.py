"""The SQLite file under the state store: create, open, lock, retry, fork (DESIGN §9).

Everything here is about one hazard each:

* **creation** - a store appears under its name complete or not at all, so nobody opens half of one;
* **waiting** - a locked file is retried for a bounded time, and then refused; no clock ever decides an allow;
* **fork** - SQLite keeps the locks of a process in tables that a child inherits without owning them. A child that merely opens the file
  anew believes that it holds locks, a parent that closes then deletes the write-ahead log under it, and what the child writes is lost.
  So the handle is closed before every fork and opened again on both sides;
* **deletion** - a guard that goes on counting in a deleted file would not see what a new guard counts in the new one. So the name is
  compared with the open file, at most every 50 ms.
"""

from __future__ import annotations

import fcntl
import os
import random
import sqlite3
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from agentguard.errors import StateUnavailable

Execute: TypeAlias = Callable[..., sqlite3.Cursor]
Durability: TypeAlias = Literal["fsync", "process"]

#: "agsd" in SQLite's header, so that no other database is taken for ours; raised with every change of the tables.
APPLICATION_ID: Final = 0x61677364
SCHEMA_VERSION: Final = 1

_LOOK_EVERY: Final = 0.05  # seconds between two looks at the file's name; a look costs 2 µs
_CHECKPOINT_PAGES: Final = 2000
_PAGE_SIZE: Final = 2048  # measured: the write-ahead log checksums whole pages, and below 2048 the tree gets deeper

#: `cell` holds everything that one admission touches, so that neighbours share a page: a row is a counter that never passes its limit
#: (that is the CHECK), and a replay id is a counter with the limit 1. `status` is NULL where a call may not be rerun, "" while a rerun is
#: possible, and then the outcome. `lease` says which life of which shard made the reservation.
_SCHEMA: Final = f"""
BEGIN;
CREATE TABLE meta (version INTEGER NOT NULL, domain TEXT NOT NULL, leases INTEGER NOT NULL, sweep TEXT NOT NULL);
CREATE TABLE cell (
    key TEXT PRIMARY KEY, n INTEGER NOT NULL, lim INTEGER NOT NULL, expires INTEGER NOT NULL,
    lease INTEGER, execution TEXT, status TEXT, charges TEXT, CHECK (n <= lim)
) WITHOUT ROWID;
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

_HINT: Final = "move state.db, state.db-wal and state.db-shm away together: they are rebuilt from the log when a guard opens"


class StateFile:
    """One open store. `execute` is the bound `execute` of a cursor; call it only while `lock` is held.

    One connection for all threads: a second one would wait for the first by sleeping in SQLite instead of in a lock.
    """

    __slots__ = ("__weakref__", "_connection", "_look_at", "_pid", "_seen", "_wait", "domain", "durability", "execute", "lock", "path")

    def __init__(self, path: Path, *, durability: Durability, wait: float) -> None:
        self.path = path
        self.durability = durability
        self.domain = ""
        self.lock = threading.RLock()
        self._wait = wait
        self._connection: sqlite3.Connection | None = None
        self._seen = (0, 0)
        self._pid = os.getpid()
        self._look_at = 0.0
        self.execute: Execute = self._execute_first
        _create(path, durability, wait)
        with self.held():
            self._connect()
        _OPEN.add(self)

    # -- opening and closing ------------------------------------------------------------------------------------------------------

    def _execute_first(self, *arguments: Any) -> sqlite3.Cursor:
        """Stands in for `execute` while the file is closed around a fork."""
        self._connect()
        return self.execute(*arguments)

    def _connect(self) -> None:
        before = self._identity()
        connection: sqlite3.Connection | None = None
        try:
            connection = sqlite3.connect(self.path, timeout=self._wait, isolation_level=None, check_same_thread=False)
            execute = connection.cursor().execute
            self._configure(execute)
            self._check_schema(execute)
            if self._identity() != before:
                raise StateUnavailable(f"{self.path} was replaced while it was being opened; open the guard again")
        except (sqlite3.Error, StateUnavailable) as error:
            if connection is not None:
                connection.close()
            raise self.unavailable(error) from error
        self._seen = before
        self._pid = os.getpid()
        self._look_at = 0.0
        self._connection = connection
        self.execute = execute

    def _configure(self, execute: Execute) -> None:
        if execute("PRAGMA application_id").fetchone() != (APPLICATION_ID,):
            raise StateUnavailable(f"{self.path} is not a state store of agentguard; {_HINT}")
        if execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
            raise StateUnavailable(f"{self.path}: this file system cannot share a write-ahead log between processes; use a local one")
        # OFF survives a killed process, because the pages are the kernel's by then. NORMAL survives power loss but for a tail, and that
        # tail is in the log, which is replayed on open.
        execute(f"PRAGMA synchronous = {'NORMAL' if self.durability == 'fsync' else 'OFF'}")
        execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        execute("PRAGMA secure_delete = OFF")
        execute("PRAGMA busy_timeout = 0")  # its naps are milliseconds; `patience` naps in microseconds

    def _check_schema(self, execute: Execute) -> None:
        (found,) = execute("PRAGMA user_version").fetchone()
        if found != SCHEMA_VERSION:
            raise StateUnavailable(f"{self.path} has schema {found}, this agentguard reads {SCHEMA_VERSION}; {_HINT}")
        row = execute("SELECT domain FROM meta").fetchone()
        if row is None:
            raise StateUnavailable(f"{self.path} is damaged; {_HINT}")
        if self.domain not in ("", row[0]):  # reopened after a fork, and meanwhile another store stands there
            raise StateUnavailable(f"{self.path} was deleted or replaced under a running guard; open the guard again")
        self.domain = row[0]

    def close(self) -> None:
        """Close the handle for good; every later use raises StateUnavailable."""
        with self.lock:
            self.execute = self._execute_closed
            connection, self._connection = self._connection, None
            _OPEN.discard(self)
            if connection is not None and self._pid == os.getpid():
                connection.close()

    def _execute_closed(self, *arguments: Any) -> sqlite3.Cursor:
        raise StateUnavailable(f"{self.path} is closed; open the guard again")

    # -- use ----------------------------------------------------------------------------------------------------------------------

    @contextmanager
    def held(self) -> Iterator[None]:
        """The lock between threads, for at most `wait` seconds."""
        if not self.lock.acquire(timeout=self._wait):
            raise self.busy()
        try:
            yield
        finally:
            self.lock.release()

    def acquire(self) -> bool:
        """The same without a `with`, for the one place that is called for every tool call."""
        return self.lock.acquire(True, self._wait)

    def look(self) -> None:
        """Refuse a handle that belongs to another process, or to a file that is gone. Cheap: looks at the disk at most every 50 ms."""
        now = time.monotonic()
        if now < self._look_at and self._pid == os.getpid():
            return
        if self._connection is not None:
            if self._pid != os.getpid():
                raise StateUnavailable("this process was forked behind Python's back; open the guard in the child")
            if self._identity() != self._seen:
                raise StateUnavailable(f"{self.path} was deleted or replaced under a running guard; open the guard again")
        self._look_at = now + _LOOK_EVERY

    def _identity(self) -> tuple[int, int]:
        # Never open and close the file to look at it: POSIX drops all locks of this process with the first descriptor that is closed.
        try:
            status = os.stat(self.path)
        except OSError as error:
            raise StateUnavailable(f"{self.path}: {error.strerror}; open the guard again") from error
        return (status.st_dev, status.st_ino)

    def patience(self) -> Callable[[sqlite3.Error | None], None]:
        """A function that naps after a busy answer, longer each time; for any other error, or when time is up, StateUnavailable."""
        deadline = time.monotonic() + self._wait
        nap = 20e-6

        def pause(error: sqlite3.Error | None) -> None:
            nonlocal nap
            if error is not None and not _is_busy(error):
                raise self.unavailable(error) from error
            if time.monotonic() > deadline:
                raise self.busy() from error
            time.sleep(nap * (0.5 + random.random()))  # noqa: S311  # jitter, not a secret
            nap = min(nap * 1.6, 5e-3)

        return pause

    def run(self, sql: str, parameters: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        """One statement, its own transaction unless one is open. The lock is held by the caller."""
        pause = self.patience()
        while True:
            try:
                return self.execute(sql, parameters)
            except sqlite3.Error as error:
                pause(error)

    @contextmanager
    def transaction(self, *, write: bool = True) -> Iterator[Execute]:
        """All or nothing. Errors of SQLite leave as StateUnavailable, others as they are; both roll back."""
        with self.held():
            self.look()
            self.run("BEGIN IMMEDIATE" if write else "BEGIN")
            try:
                yield self.execute
                self.execute("COMMIT")
            except (sqlite3.Error, OverflowError, UnicodeEncodeError) as error:
                self._roll_back()
                raise self.unavailable(error) from error
            except BaseException:
                self._roll_back()
                raise

    def _roll_back(self) -> None:
        connection = self._connection
        if connection is not None and connection.in_transaction:
            try:
                connection.rollback()
            except sqlite3.Error:  # the disk is failing: a handle with a broken transaction must not be used again
                self.close()

    @contextmanager
    def synced(self) -> Iterator[None]:
        """In `fsync` durability, transactions inside are on the disk when they return: for the rare ones that a person waits for."""
        with self.held():
            if self.durability == "fsync":
                self.run("PRAGMA synchronous = FULL")
            try:
                yield
            finally:
                if self.durability == "fsync":
                    self.run("PRAGMA synchronous = NORMAL")

    def unavailable(self, error: BaseException) -> StateUnavailable:
        """This library's error for one of SQLite's, with what to do."""
        if isinstance(error, StateUnavailable):
            return error
        if isinstance(error, sqlite3.Error) and _is_busy(error):
            return self.busy()
        # DatabaseError itself is SQLITE_CORRUPT or SQLITE_NOTADB; its subclasses are other matters, but for a table that is not there
        damaged = type(error) is sqlite3.DatabaseError or "no such" in str(error)
        return StateUnavailable(f"{self.path}: {error}" + (f"; {_HINT}" if damaged else ""))

    def busy(self) -> StateUnavailable:
        return StateUnavailable(f"{self.path} stayed locked for {self._wait:g} s by another process or thread")

    # -- fork ---------------------------------------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Let go of every lock of SQLite, so that the child inherits none."""
        if self.lock.acquire(timeout=self._wait) and self._connection is not None:
            self.execute = self._execute_first
            connection, self._connection = self._connection, None
            connection.close()

    def after_fork_in_parent(self) -> None:
        with suppress(RuntimeError):  # `before_fork` did not get it: a thread holds on to it, and keeps its handle
            self.lock.release()

    def after_fork_in_child(self) -> None:
        self.lock = threading.RLock()  # the owner of the old one may be a thread that does not exist here
        self._look_at = 0.0


def _is_busy(error: sqlite3.Error) -> bool:
    # PROTOCOL: lost the race for the write-ahead log's index too often, which is busyness too
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)


_OPEN: Final[weakref.WeakSet[StateFile]] = weakref.WeakSet()


def _for_all(step: Callable[[StateFile], None]) -> Callable[[], None]:
    def run() -> None:
        for file in tuple(_OPEN):
            step(file)

    return run


os.register_at_fork(
    before=_for_all(StateFile.before_fork),
    after_in_parent=_for_all(StateFile.after_fork_in_parent),
    after_in_child=_for_all(StateFile.after_fork_in_child),
)


# -- creation -----------------------------------------------------------------------------------------------------------------------------


def _create(path: Path, durability: Durability, wait: float) -> None:
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
