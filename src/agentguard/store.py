"""What stands beside the log: documents by content, and the values behind its commitments (DESIGN §8).

`ObjectStore` keeps chains, policies, locks and environments for as long as the log that cites them. `SideStore` keeps arguments, outputs
and salts, which may be erased at any time: every proof about the log stays valid, and without its salt not even a guessable value can be
confirmed.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import Final

from agentguard.errors import EvidenceUnavailable, InvalidInput
from agentguard.log.layout import Durability, make_directory, names_in, replace_file, sync_directory

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_KNOWN: Final = 100_000


def _unavailable(path: Path, error: OSError) -> EvidenceUnavailable:
    return EvidenceUnavailable(f"{path} cannot be written: {error.strerror} (errno {error.errno})")


class ObjectStore:
    """Documents named by `sha256:<hex>` of their bytes, one file each: `<directory>/<first two digits>/<the other 62>`."""

    def __init__(self, directory: Path, *, durability: Durability = "fsync") -> None:
        self._directory = Path(directory)
        self._sync = durability == "fsync"
        self._known: set[str] = set()

    def put(self, data: bytes) -> str:
        """Keep a document and give its name; when this returns it is as durable as the log. Idempotent. Raises EvidenceUnavailable."""
        digest = hashlib.sha256(data).hexdigest()
        name = f"sha256:{digest}"
        if digest not in self._known:
            path = self._path(digest)
            try:
                self._keep(path, data)
            except OSError as error:
                raise _unavailable(path, error) from error
            if len(self._known) >= _KNOWN:
                self._known.clear()
            self._known.add(digest)
        return name

    def get(self, name: str) -> bytes:
        """The document. Raises InvalidInput if the name is none, or if the document is missing or is not the one it was."""
        match = _DIGEST.fullmatch(name)
        if match is None:
            raise InvalidInput(f"not the name of a document: {name!r:.80}", hint="sha256: and 64 hexadecimal digits")
        path = self._path(match[1])
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise InvalidInput(f"the document {name} is not in the store", place=str(path)) from None
        except OSError as error:
            raise InvalidInput(f"the document cannot be read: {error.strerror}", place=str(path)) from None
        if hashlib.sha256(data).hexdigest() != match[1]:
            raise InvalidInput("the document was changed: its bytes do not have the digest of its name", place=str(path))
        return data

    def __contains__(self, name: str) -> bool:
        match = _DIGEST.fullmatch(name)
        return match is not None and self._path(match[1]).is_file()

    def _path(self, digest: str) -> Path:
        return self._directory / digest[:2] / digest[2:]

    def _keep(self, path: Path, data: bytes) -> None:
        try:
            present = path.read_bytes() == data  # a damaged copy is replaced
        except FileNotFoundError:
            make_directory(path.parent, sync=self._sync)
            present = False
        if not present:
            replace_file(path, data, sync=self._sync)
        elif self._sync:  # whoever wrote it may not have synced it
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            sync_directory(path.parent)


@dataclass(frozen=True, slots=True)
class SideValue:
    """A value behind a commitment: `kind` says which one, `time_ns` when it was kept (nanoseconds since 1970)."""

    execution: str
    kind: str
    salt: bytes
    value: bytes
    time_ns: int


_DAY_NS: Final = 86_400 * 10**9
_FILE = re.compile(r"([0-9]{20})-[0-9a-f]{16}\.side")
_MAGIC: Final = b"\xffs"
#: magic, state, length of the kind, of the execution id, of the salt, of the value, time
_HEAD: Final = Struct(">2sBBHHIQ")
_STATE_OFFSET: Final = 2
_KEPT, _ERASED = 1, 0
_END: Final = b"\n"
_WINDOW: Final = 1 << 20


class SideStore:
    """Erasable values and salts: append-only files of this process, `<directory>/<created, nanoseconds>-<random>.side`, mode 0600.

    A file takes entries for one day or `chunk_bytes`, whichever ends first. It is written through a mapping of space that was allocated
    before: what was put survives a killed process, costs no system call, and a full disk is an error here and never a signal. Behind
    the last entry of a file that nobody closed there are zeros. An entry is a head (`>2sBBHHIQ`: ff 73, 1 if kept or 0 if
    erased, lengths of kind, execution, salt and value, time), then kind, execution, salt, value and 0a. Erasing overwrites salt and value
    with zeros in place, which is safe while another process appends to the same file. Nothing is synced: the log must survive a power
    loss, this need not.
    """

    def __init__(
        self,
        directory: Path,
        *,
        keep_seconds: float | None = None,
        chunk_bytes: int = 16 << 20,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """keep_seconds   how long values are kept. What is older goes, a day late at most, when a store is opened that says so, and when it
                       begins a file. 0: nothing is kept, and commitments can never be opened. None: values stay until somebody erases them

        Raises EvidenceUnavailable.
        """
        self._keep = keep_seconds
        self._directory = Path(directory)
        self._chunk = chunk_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._descriptor = -1
        self._window: mmap.mmap | None = None
        self._at = self._base = self._end = 0  # in the file: where the next entry goes, and where the window begins and ends
        self._room = self._until = 0
        self._retain()
        _STORES.add(self)

    def put(self, execution: str, kind: str, salt: bytes, value: bytes) -> None:
        """Keep a value. Raises EvidenceUnavailable."""
        if self._keep == 0:
            return
        now = self._clock()
        head = _HEAD.pack(_MAGIC, _KEPT, len(kind), len(execution), len(salt), len(value), now)
        data = b"".join((head, (kind + execution).encode("ascii"), salt, value, _END))
        with self._lock:
            try:
                if self._room <= 0 or now >= self._until:
                    self._next_file(now)
                size = len(data)
                window = self._window
                if window is None or self._at + size > self._end:
                    window = self._move_window(size)
                start = self._at - self._base
                window[start : start + size] = data
                self._at += size
                self._room -= size
            except OSError as error:
                raise _unavailable(self._directory, error) from error

    def _move_window(self, size: int) -> mmap.mmap:
        """Map allocated space for at least `size` bytes from where the next entry goes."""
        base = self._at - self._at % mmap.ALLOCATIONGRANULARITY
        length = max(_WINDOW, self._at - base + size)
        os.posix_fallocate(self._descriptor, base, length)
        if self._window is not None:
            self._window.close()
        self._window = mmap.mmap(self._descriptor, length, offset=base)
        self._base, self._end = base, base + length
        return self._window

    def get(self, execution: str, *, near_ns: int | None = None) -> tuple[SideValue, ...]:
        """Every value kept for an execution, oldest first. `near_ns`, the time of its record, saves reading other days' files."""
        found: list[SideValue] = []
        for created, path in self._files():
            if near_ns is None or created - _DAY_NS <= near_ns <= created + 2 * _DAY_NS:
                found += [item for item in _read(path) if item.execution == execution]
        return tuple(found)

    def values(self) -> Iterator[SideValue]:
        """Everything that is still kept, the oldest file first."""
        for _, path in sorted(self._files()):
            yield from _read(path)

    def erase(self, executions: Collection[str] = (), *, older_than_ns: int | None = None) -> int:
        """Erase the values of these executions, and all that were kept before `older_than_ns`. Returns how many; they are gone durably.

        Raises EvidenceUnavailable if a file cannot be changed.
        """
        wanted = frozenset(executions)
        count = 0
        for _, path in self._files():
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                data = _contents(descriptor)
                for offset, size, item in _entries(data):
                    if item.execution in wanted or (older_than_ns is not None and item.time_ns < older_than_ns):
                        secret = len(item.salt) + len(item.value)
                        os.pwrite(descriptor, bytes(secret), offset + size - len(_END) - secret)
                        os.pwrite(descriptor, bytes([_ERASED]), offset + _STATE_OFFSET)
                        count += 1
                os.fsync(descriptor)
            except OSError as error:
                raise _unavailable(path, error) from error
            finally:
                os.close(descriptor)
        if older_than_ns is not None:
            self._remove_before(older_than_ns)
        return count

    def close(self) -> None:
        """Close the file that is being written. A later `put` starts another."""
        with self._lock:
            self._let_go()

    def _let_go(self, *, mine: bool = True) -> None:
        """Close the file; cut what was allocated and not used, unless the file is the parent process's."""
        if self._window is not None:
            self._window.close()
        if self._descriptor >= 0:
            if mine:
                with suppress(OSError):  # whoever reads it stops at the zeros
                    os.ftruncate(self._descriptor, self._at)
            os.close(self._descriptor)
        self._descriptor, self._window = -1, None
        self._at = self._base = self._end = self._room = 0

    def _next_file(self, now: int) -> None:
        self._let_go()
        self._retain()
        make_directory(self._directory, sync=False)
        path = self._directory / f"{now:020d}-{secrets.token_hex(8)}.side"
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._room, self._until = self._chunk, now + _DAY_NS

    def _files(self) -> list[tuple[int, Path]]:
        matches = [(name, _FILE.fullmatch(name)) for name in names_in(self._directory)]
        return [(int(match[1]), self._directory / name) for name, match in matches if match is not None]

    def _retain(self) -> None:
        if self._keep:
            self._remove_before(self._clock() - int(self._keep * 10**9))

    def _remove_before(self, cutoff_ns: int) -> None:
        """Remove the files that took their last entry before `cutoff_ns`, as their names tell."""
        try:
            for created, path in self._files():
                if created + _DAY_NS < cutoff_ns:
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise _unavailable(self._directory, error) from error
        except InvalidInput as error:  # the directory cannot be read
            raise EvidenceUnavailable(str(error)) from error

    def _in_forked_child(self) -> None:
        self._lock = threading.Lock()  # another thread of the parent may have held it
        self._let_go(mine=False)


def _contents(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def _read(path: Path) -> Iterator[SideValue]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:  # retention of another process was here first
        return
    except OSError as error:
        raise InvalidInput(f"cannot be read: {error.strerror}", place=str(path)) from None
    yield from (item for _, _, item in _entries(data))


def _entries(data: bytes) -> Iterator[tuple[int, int, SideValue]]:
    """(offset, size, value) of every entry that was not erased. A damaged one is skipped: values are checked against commitments."""
    at = 0
    while len(data) - at >= _HEAD.size:
        magic, state, kind, execution, salt, value, when = _HEAD.unpack_from(data, at)
        size = _HEAD.size + kind + execution + salt + value + len(_END)
        if magic != _MAGIC or at + size > len(data) or data[at + size - 1 : at + size] != _END:
            at = data.find(_MAGIC, at + 1)
            if at < 0:
                return
            continue
        if state == _KEPT:
            parts, start = [], at + _HEAD.size
            for length in (kind, execution, salt, value):
                parts.append(data[start : start + length])
                start += length
            yield at, size, SideValue(parts[1].decode("ascii", "replace"), parts[0].decode("ascii", "replace"), parts[2], parts[3], when)
        at += size


_STORES: weakref.WeakSet[SideStore] = weakref.WeakSet()


def _after_fork() -> None:
    for store in list(_STORES):
        store._in_forked_child()


os.register_at_fork(after_in_child=_after_fork)
