"""Waiting for something that another process does: a bell in a directory, which whoever changes something there rings.

A bell is a named pipe that its owner reads: no port, no thread, nothing to poll, and the event loop can wait for it as well. Whoever waits
also looks by itself once a second, for changes by those who ring no bell (a file that was copied in).
"""

from __future__ import annotations

import asyncio
import os
import secrets
import select
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

PREFIX: Final = "bell-"
_LOOK: Final = 1.0  # seconds
_LOOK_WITHOUT_BELL: Final = 0.05  # on a file system that has no pipes


class Bell:
    """A bell in `directory`, as long as the `with` lasts. In a directory that is gone, or cannot hold pipes, it never rings."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / f"{PREFIX}{secrets.token_hex(8)}"
        self._descriptor = -1

    def __enter__(self) -> Self:
        with suppress(OSError):
            os.mkfifo(self._path, 0o600)
            # read and write: there is always a writer, so the pipe never ends
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        with suppress(OSError):
            self._path.unlink()

    def wait(self, over: Callable[[], bool], until: float) -> bool:
        """Wait until `over()`, which is asked at once and at each ring; False at the time `until` (of `time.monotonic`)."""
        while not over():
            left = until - time.monotonic()
            if left <= 0:
                return False
            self._rung_within(min(left, self._pause))
            self._hush()
        return True

    async def await_(self, over: Callable[[], bool], until: float) -> bool:
        """The same for asyncio."""
        while not over():
            left = until - time.monotonic()
            if left <= 0:
                return False
            await self._rung(min(left, self._pause))
            self._hush()
        return True

    @property
    def _pause(self) -> float:
        return _LOOK if self._descriptor >= 0 else _LOOK_WITHOUT_BELL

    def _rung_within(self, seconds: float) -> None:
        if self._descriptor < 0:
            return time.sleep(seconds)
        poll = select.poll()  # `select` refuses descriptors above 1023
        poll.register(self._descriptor, select.POLLIN)
        poll.poll(seconds * 1000)
        return None

    async def _rung(self, seconds: float) -> None:
        if self._descriptor < 0:
            return await asyncio.sleep(seconds)
        loop, rung = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._descriptor, rung.set)
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(rung.wait(), seconds)
        finally:
            loop.remove_reader(self._descriptor)

    def _hush(self) -> None:
        if self._descriptor >= 0:
            with suppress(BlockingIOError):
                os.read(self._descriptor, 4096)


def ring(directory: Path) -> None:
    """Ring every bell in a directory, and remove those whose owner is gone."""
    with suppress(OSError):
        for name in os.listdir(directory):
            if name.startswith(PREFIX):
                _ring(directory / name)


def _ring(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # nobody listens
        with suppress(OSError):
            path.unlink()
        return
    try:
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            with suppress(OSError):  # a full pipe has rung already
                os.write(descriptor, b"!")
    finally:
        os.close(descriptor)
