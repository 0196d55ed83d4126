"""The SQLite file under the state store: open, lock, retry, fork (DESIGN §9).

Everything here is about one hazard each:

* **waiting** - a locked file is retried for a bounded time, and then refused; no clock ever decides an allow;
* **fork** - SQLite keeps the locks of a process in tables that a child inherits without owning them. A child that merely opens the file
  anew believes that it holds locks, a parent that closes then deletes the write-ahead log under it, and what the child writes is lost.
  So the handle is closed before every fork and opened again on both sides;
* **deletion** - a guard that goes on counting in a deleted file would not see what a new guard counts in the new one. So the name is
  compared with the open file, at most every 50 ms. The same goes for the word that says the version (state/version.py).
"""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeAlias

from agentguard.errors import StateUnavailable
from agentguard.state.schema import APPLICATION_ID, HINT, SCHEMA_VERSION, Durability, create
from agentguard.state.version import ODD, UNKNOWN, map_word, word_path

Execute: TypeAlias = Callable[..., sqlite3.Cursor]

_LOOK_EVERY: Final = 0.05  # seconds between two looks at the file's name; a look costs 4 µs
_CHECKPOINT_PAGES: Final = 2000


class StateFile:
    """One open store. `execute` is the bound `execute` of a cursor; call it only while `lock` is held. `word[0]` is twice the version of
    the revocations, or odd.

    One connection for all threads: a second one would wait for the first by sleeping in SQLite instead of in a lock.
    """

    __slots__ = (
        "__weakref__",
        "_connection",
        "_look_at",
        "_pid",
        "_seen",
        "_wait",
        "_word_path",
        "domain",
        "durability",
        "execute",
        "lock",
        "on_fork",
        "path",
        "word",
    )

    def __init__(self, path: Path, *, durability: Durability, wait: float) -> None:
        self.path = path
        self._word_path = word_path(path)
        self.durability = durability
        self.domain = ""
        self.lock = threading.RLock()
        self._wait = wait
        self._connection: sqlite3.Connection | None = None
        self._seen = (0, 0, 0)
        self._pid = os.getpid()
        self._look_at = 0.0
        self.execute: Execute = self._execute_first
        self.word = UNKNOWN
        #: Gives what is to be done before a fork, or None.
        self.on_fork: Callable[[], Callable[[], None] | None] = lambda: None
        create(path, durability, wait)
        with self.held():
            self._connect()
        _OPEN.add(self)

    # -- opening and closing ------------------------------------------------------------------------------------------------------

    def _execute_first(self, *arguments: Any) -> sqlite3.Cursor:
        """Stands in for `execute` while the file is closed around a fork."""
        self._connect()
        return self.execute(*arguments)

    def _connect(self) -> None:
        word, number = map_word(self._word_path)
        before = (*self._identity()[:2], number)
        connection: sqlite3.Connection | None = None
        try:
            connection = sqlite3.connect(self.path, timeout=self._wait, isolation_level=None, check_same_thread=False)
            execute = connection.cursor().execute
            self._configure(execute)
            version = self._check_schema(execute)
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
        self.execute, self.word = execute, word
        if word[0] != 2 * version:  # a new file, a crash, a loss of power; or somebody is moving the version at this moment
            word[0] = ODD
            self.publish()

    def _configure(self, execute: Execute) -> None:
        if execute("PRAGMA application_id").fetchone() != (APPLICATION_ID,):
            raise StateUnavailable(f"{self.path} is not a state store of agentguard; {HINT}")
        if execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
            raise StateUnavailable(f"{self.path}: this file system cannot share a write-ahead log between processes; use a local one")
        # OFF survives a killed process, because the pages are the kernel's by then. NORMAL survives power loss but for a tail, and that
        # tail is in the log, which is replayed on open.
        execute(f"PRAGMA synchronous = {'NORMAL' if self.durability == 'fsync' else 'OFF'}")
        execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        execute("PRAGMA secure_delete = OFF")
        execute("PRAGMA busy_timeout = 0")  # its naps are milliseconds; `patience` naps in microseconds

    def _check_schema(self, execute: Execute) -> int:
        (found,) = execute("PRAGMA user_version").fetchone()
        if found != SCHEMA_VERSION:
            raise StateUnavailable(f"{self.path} has schema {found}, this agentguard reads {SCHEMA_VERSION}; {HINT}")
        row = execute("SELECT domain, version FROM meta").fetchone()
        if row is None:
            raise StateUnavailable(f"{self.path} is damaged; {HINT}")
        if self.domain not in ("", row[0]):  # reopened after a fork, and meanwhile another store stands there
            raise StateUnavailable(f"{self.path} was deleted or replaced under a running guard; open the guard again")
        self.domain = row[0]
        return int(row[1])

    def close(self) -> None:
        """Close the handle for good; every later use raises StateUnavailable."""
        with self.lock:
            self.execute, self.word = self._execute_closed, UNKNOWN
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

    def _identity(self) -> tuple[int, int, int]:
        # Never open and close the file to look at it: POSIX drops all locks of this process with the first descriptor that is closed.
        try:
            status = os.stat(self.path)
            return (status.st_dev, status.st_ino, os.stat(self._word_path).st_ino)
        except OSError as error:
            raise StateUnavailable(f"{error.filename}: {error.strerror}; open the guard again") from error

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

    @contextmanager
    def moving(self) -> Iterator[Execute]:
        """A transaction that may move the version: the word is odd before it commits, and says the version again afterwards."""
        with self.held():
            odd = False
            try:
                with self.transaction() as execute:
                    self.word[0], odd = ODD, True
                    yield execute
            finally:
                if odd:
                    self.publish()

    def publish(self) -> None:
        """Let the word say the version, under the write lock. Where that fails it stays odd, which is slower and as right."""
        with suppress(StateUnavailable), self.transaction() as execute:
            self.word[0] = 2 * execute("SELECT version FROM meta").fetchone()[0]

    def _roll_back(self) -> None:
        connection = self._connection
        if connection is not None and connection.in_transaction:
            try:
                connection.rollback()
            except sqlite3.Error:  # the disk is failing: a handle with a broken transaction must not be used again
                self.close()

    @contextmanager
    def synced(self) -> Iterator[None]:
        """In `fsync` durability, transactions inside are on the disk when they return: for the rare ones that something waits for."""
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
        return StateUnavailable(f"{self.path}: {error}" + (f"; {HINT}" if damaged else ""))

    def busy(self) -> StateUnavailable:
        return StateUnavailable(f"{self.path} stayed locked for {self._wait:g} s by another process or thread")

    # -- fork ---------------------------------------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Let go of every lock of SQLite, so that the child inherits none."""
        if self.lock.acquire(timeout=self._wait) and self._connection is not None:
            first = self.on_fork()
            if first is not None:
                with suppress(StateUnavailable):  # what could not be shared is refused in the child
                    first()
            self.execute, self.word = self._execute_first, UNKNOWN
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
