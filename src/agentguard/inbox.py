"""Where requests for approval wait for their answers: a directory of the home (DESIGN §10).

    <home>/approvals/                       0700
      <task>-<question>/                    one exact call: 16 and 64 hexadecimal digits
        request                             0600, signed by the guard; it holds the arguments
        <thumbprint of a key>.answer        0600, signed by that key
        bell-*                              of calls that wait (bell.py)

Nothing here is believed because it lies here: a file that is not signed by whom it must be is no request, or no answer. Nothing here is
evidence either: the log is, and what is lost here is asked again. A request goes when it was used or has expired.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from agentguard.approvals import MAX_ANSWER, MAX_REQUEST, Question, Request, read_request
from agentguard.bell import Bell, ring
from agentguard.errors import InvalidInput, StateUnavailable
from agentguard.keys import PublicKey
from agentguard.log.layout import names_in, replace_file, try_lock

#: One task, or all together, may have so many open requests. People who are asked too often stop reading.
MAX_OF_TASK: Final = 64
MAX_OPEN: Final = 4096

_PLACE = re.compile(r"[0-9a-f]{16}-[0-9a-f]{64}")
_ANSWER = re.compile(r"([A-Za-z0-9_-]{43})\.answer")
_REQUEST: Final = "request"
#: What comes or goes, and is not there for anybody.
_HIDDEN: Final = ".hidden-"
_SWEEP_EVERY: Final = 60.0  # seconds
_DAMAGED: Final = 86_400  # seconds for which a request that cannot be read stays to be looked at
_PATIENCE: Final = 5.0  # seconds for the lock


class Filed(NamedTuple):
    """What lies at one place. `request` is None where it cannot be believed, and `problem` says why."""

    place: Path
    request: Request | None
    problem: str


class Inbox:
    """The requests of one home. Any number of threads and processes use it at once; see the module for what lies where."""

    def __init__(self, directory: Path, guard: PublicKey) -> None:
        """guard   the key that signs this home's requests"""
        self._directory, self._guard = directory, guard
        self._swept = float("-inf")

    def find(self, question: Question) -> Request | None:
        """The request about exactly this call, answered or not. None if there is none that can be believed."""
        return self._filed(self._place(question)).request

    def open(self, request: Request, now: int, usable: Callable[[Request], bool]) -> tuple[Request, bool]:
        """File a request, or join the one about the same call that is there already: (the one that stands, whether it is new).

        usable   whether a request that is there may still be answered; one that may not makes way

        Raises StateUnavailable where it cannot be kept, or where too many wait already.
        """
        place = self._place(request.question)
        try:
            with self._locked():
                self._sweep(now, force=False)
                found = self.find(request.question)
                if found is not None and usable(found):
                    return found, False
                self._remove(place)
                self._make_room(place, now)
                made = self._directory / f"{_HIDDEN}{secrets.token_hex(8)}"
                made.mkdir(mode=0o700)
                replace_file(made / _REQUEST, request.token.encode("ascii"), sync=False)  # lost with the power, it is asked again
                os.rename(made, place)
        except OSError as error:
            raise StateUnavailable(f"{place}: the request for approval cannot be kept: {error.strerror}") from error
        return request, True

    def answers(self, request: Request) -> dict[str, str]:
        """Thumbprint of a key -> the answer that lies there under it, unverified. What cannot be read is none."""
        place = self._place(request.question)
        matches = [_ANSWER.fullmatch(name) for name in names_in(place)]
        return {match[1]: _text(place / match[0]) for match in matches if match is not None}

    def reply(self, request: Request, key: str, answer: str) -> None:
        """File an answer under the thumbprint of the key that signed it, durably, and wake who waits. Raises StateUnavailable."""
        place = self._place(request.question)
        try:
            with self._locked():
                found = self.find(request.question)
                if found is None or found.id != request.id:
                    raise StateUnavailable(f"the request {request.id} is gone: it was used, or has expired, meanwhile")
                replace_file(place / f"{key}.answer", answer.encode("ascii"))
        except OSError as error:
            raise StateUnavailable(f"{place}: the answer cannot be kept: {error.strerror}") from error
        ring(place)

    def retire(self, request: Request) -> None:
        """Remove a request that was used or can no longer be, with its answers. Raises StateUnavailable."""
        try:
            with self._locked():
                found = self.find(request.question)
                if found is not None and found.id == request.id:
                    self._remove(self._place(request.question))
        except OSError as error:
            raise StateUnavailable(f"the request {request.id} cannot be removed: {error.strerror}") from error

    def stands(self, request: Request) -> bool:
        """Whether this request, and no later one, is still there."""
        found = self.find(request.question)
        return found is not None and found.id == request.id

    def bell(self, request: Request) -> Bell:
        """A bell that rings when something about the request changes."""
        return Bell(self._place(request.question))

    def all(self) -> list[Filed]:
        """Everything that lies here, the oldest first; what cannot be believed comes last."""
        filed = [self._filed(self._directory / name) for name in self._places()]
        return sorted(filed, key=lambda one: (one.request is None, one.request.asked if one.request is not None else 0, one.place.name))

    def get(self, identity: str) -> Request:
        """The request with this id. Raises InvalidInput."""
        for one in self.all():
            if one.request is not None and one.request.id == identity:
                return one.request
        raise InvalidInput(
            f"no request has the id {identity!r:.80}",
            hint="`agentguard approvals list` shows those that wait; one that was used or has expired is gone, and stands in the log",
        )

    def sweep(self, now: int) -> None:
        """Remove what has expired by `now` (seconds). Raises StateUnavailable."""
        if self._places():
            try:
                with self._locked():
                    self._sweep(now, force=True)
            except OSError as error:
                raise StateUnavailable(f"{self._directory} cannot be swept: {error.strerror}") from error

    # -- inside -------------------------------------------------------------------------------------------------------------------

    def _place(self, question: Question) -> Path:
        task = hashlib.sha256(question.task.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        return self._directory / f"{task}-{question.digest()}"

    def _places(self) -> list[str]:
        return [name for name in names_in(self._directory) if _PLACE.fullmatch(name)]

    def _filed(self, place: Path) -> Filed:
        try:
            text = _read(place / _REQUEST, MAX_REQUEST)
            if text is None:
                return Filed(place, None, "there is no request in it")
            request = read_request(text, self._guard)
        except InvalidInput as error:
            return Filed(place, None, error.message)
        if self._place(request.question) != place:  # moved: for the call that looks here it is none
            return Filed(place, None, "the request is about another call than the directory it lies in")
        return Filed(place, request, "")

    def _make_room(self, place: Path, now: int) -> None:
        names = self._places()
        of_task = sum(name[:16] == place.name[:16] for name in names)
        if of_task >= MAX_OF_TASK or len(names) >= MAX_OPEN:
            self._sweep(now, force=True)
            names = self._places()
            of_task = sum(name[:16] == place.name[:16] for name in names)
        if of_task >= MAX_OF_TASK:
            raise StateUnavailable(f"{of_task} requests of this task wait for an answer, and no more are put")
        if len(names) >= MAX_OPEN:
            raise StateUnavailable(f"{len(names)} requests wait for an answer, and no more are put")

    def _sweep(self, now: int, *, force: bool) -> None:
        if not force and time.monotonic() < self._swept + _SWEEP_EVERY:
            return
        self._swept = time.monotonic()
        for name in names_in(self._directory):
            if name.startswith(_HIDDEN):  # somebody died over it
                _erase(self._directory / name)
        for one in self.all():
            if one.request.expires <= now if one.request is not None else _changed(one.place) + _DAMAGED < now:
                self._remove(one.place)

    def _remove(self, place: Path) -> None:
        """Take a place away at once, for everybody, and then what was in it. Those who wait there are woken."""
        gone = self._directory / f"{_HIDDEN}{secrets.token_hex(8)}"
        try:
            os.rename(place, gone)
        except FileNotFoundError:
            return
        ring(gone)
        _erase(gone)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One at a time changes what lies here. Raises StateUnavailable where somebody does not let go, and OSError."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        status = os.lstat(self._directory)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise StateUnavailable(f"{self._directory} must be a directory that nobody else can get at (chmod 700)")
        until, nap = time.monotonic() + _PATIENCE, 1e-4
        while (descriptor := try_lock(self._directory / "lock")) is None:
            if time.monotonic() > until:
                raise StateUnavailable(f"{self._directory} stayed locked for {_PATIENCE:g} s by another process")
            time.sleep(nap)
            nap = min(nap * 2, 0.01)
        try:
            yield
        finally:
            os.close(descriptor)


def _erase(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):  # not a directory
        path.unlink()


def _text(path: Path) -> str:
    """An answer's text; empty where it cannot be read, which no signature fits."""
    try:
        return _read(path, MAX_ANSWER) or ""
    except InvalidInput:
        return ""


def _changed(path: Path) -> float:
    try:
        return os.lstat(path).st_mtime
    except OSError:
        return 0.0


def _read(path: Path, limit: int) -> str | None:
    """The text of a small regular file, which no link leads to; None if there is none. Raises InvalidInput."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        what = "it is a symbolic link" if error.errno == errno.ELOOP else f"it cannot be read: {error.strerror}"
        raise InvalidInput(what, place=str(path)) from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InvalidInput("it is not a regular file", place=str(path))
        with os.fdopen(os.dup(descriptor), "rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise InvalidInput(f"it cannot be read: {error.strerror}", place=str(path)) from None
    finally:
        os.close(descriptor)
    if len(data) > limit:
        raise InvalidInput(f"it is longer than {limit} bytes", place=str(path))
    try:
        return data.decode("ascii")
    except UnicodeDecodeError:
        raise InvalidInput("it is not ASCII text", place=str(path)) from None
