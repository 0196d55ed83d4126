"""A disk that can be held up, counted, and made to fail, for tests of the log's group commit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from agentguard.log import Log, shard


class Disk:
    """Stands in for the log's `datasync`. `syncs` counts; `hold` makes them wait, `let` one pass; `failure` is raised by the next one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.syncs = 0
        self.failure: BaseException | None = None
        self.waiting = threading.Event()  # somebody waits for the disk
        self._gate = threading.Condition()
        self._passes: float = float("inf")
        self._real: Callable[[int], None] = shard.datasync
        monkeypatch.setattr(shard, "datasync", self._sync)

    def _sync(self, descriptor: int) -> None:
        with self._gate:
            self.waiting.set()
            if not self._gate.wait_for(lambda: self._passes > 0, 20):
                raise OSError(110, "a test never let the disk go")
            self._passes -= 1
            self.waiting.clear()
        self.syncs += 1
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        self._real(descriptor)

    def pretend(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Sync nothing from here on: for tests of many small logs, where it is the order of things that counts."""
        self._real = lambda _: None
        monkeypatch.setattr("os.fsync", lambda _: None)

    def hold(self) -> None:
        self._passes = 0

    def let(self, passes: float = 1) -> None:
        with self._gate:
            self._passes += passes
            self._gate.notify_all()

    def free(self) -> None:
        self.let(float("inf"))

    @contextmanager
    def held(self) -> Iterator[None]:
        self.hold()
        try:
            yield
        finally:
            self.free()


def until(ready: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait for something that other threads bring about."""
    ends = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < ends, "it never came"
        time.sleep(0.001)


def queued(log: Log) -> int:
    """How many callers wait in the log's queue."""
    return len(log._writer._group.waiting)


class Caller(threading.Thread):
    """A thread that appends once and keeps what came of it."""

    def __init__(self, append: Callable[[], int]) -> None:
        super().__init__(daemon=True)
        self._append = append
        self.index: int | None = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.index = self._append()
        except BaseException as error:  # what came of it is what the test asks
            self.error = error

    def done(self) -> Caller:
        self.join(10)
        assert not self.is_alive(), "a caller was stranded"
        return self
