"""Where the log's files are, and the few file-system habits that all of its parts share.

    HOME/log/manifest                    signed list of shards (manifest.py)
    HOME/log/manifest.lock               held while a shard is added
    HOME/log/<shard>/lock                held (flock) by the shard's one writer
    HOME/log/<shard>/<first index>.seg   segments: 20 decimal digits
    HOME/log/<shard>/<first index>.thin  what is left of one after its time (thin.py)
    HOME/heads/<shard>                   the shard's last signed checkpoint, remembered outside of it (heads.py)

Directories are 0700, files 0600, segments that were sealed 0400.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Literal

from agentguard.errors import InvalidInput

#: `fsync` survives a power loss, `process` a killed process (DESIGN §8).
Durability = Literal["fsync", "process"]

_SHARD = re.compile(r"[0-9a-f]{16}")
_SEGMENT = re.compile(r"([0-9]{20})\.(seg|thin)")
_CLAIM = re.compile(r"(?P<pid>[1-9][0-9]{0,9}) (?P<started>[0-9]+) (?P<boot>[0-9a-f-]{36}) (?P<inode>[0-9]+)\n")
#: Where the system has no fdatasync, fsync does the same and a little more.
datasync: Final = getattr(os, "fdatasync", os.fsync)


def new_shard_id() -> str:
    """16 hexadecimal digits. Random, so that an id never comes back and no origin ever stands for two histories."""
    return secrets.token_hex(8)


def is_shard_id(text: str) -> bool:
    """Whether `text` could name a shard."""
    return _SHARD.fullmatch(text) is not None


def log_directory(home: Path) -> Path:
    return home / "log"


def shard_directory(home: Path, shard: str) -> Path:
    return home / "log" / shard


def head_path(home: Path, shard: str) -> Path:
    return home / "heads" / shard


def segment_name(first: int) -> str:
    return f"{first:020d}.seg"


def thinned_path(segment: Path) -> Path:
    """Where the thinned form of a segment stands (thin.py)."""
    return segment.with_suffix(".thin")


def is_segment_name(text: str) -> bool:
    """Whether `text` could name a segment's file."""
    return _SEGMENT.fullmatch(text) is not None


def names_in(directory: Path) -> list[str]:
    """Sorted names in a directory; a missing one has none. Raises InvalidInput if it cannot be read."""
    try:
        return sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InvalidInput(f"the directory cannot be read: {error.strerror}", place=str(directory)) from None


def segments(directory: Path) -> list[tuple[int, Path]]:
    """(first index, path) of every segment in a shard's directory, in order; of a segment and its thinned form the segment. A missing
    directory has none."""
    found: dict[int, Path] = {}
    for name in names_in(directory):  # sorted, so `.seg` comes before `.thin`
        match = _SEGMENT.fullmatch(name)
        if match is not None:
            found.setdefault(int(match[1]), directory / name)
    return list(found.items())


def shard_directories(home: Path) -> list[str]:
    """Ids of the shard directories that are there, whatever the manifest says."""
    return list(filter(is_shard_id, names_in(log_directory(home))))


def make_directory(path: Path, *, sync: bool = True) -> None:
    """Make a directory (0700) with its parents, and make their names durable. Raises OSError."""
    if not os.path.isdir(path):
        make_directory(path.parent, sync=sync)
        path.mkdir(mode=0o700, exist_ok=True)
        if sync:
            sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`. The system may take it in several pieces. Raises OSError."""
    written = os.write(descriptor, data)
    while written < len(data):
        more = os.write(descriptor, data[written:])
        if more <= 0:
            raise OSError(5, "the system takes no more bytes and gives no reason")
        written += more


def replace_file(path: Path, data: bytes, *, sync: bool = True, mode: int = 0o600) -> None:
    """Put a file in place whole or not at all: temporary file, fsync, rename, fsync of the directory. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        try:
            write_all(descriptor, data)
            if sync:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    if sync:
        sync_directory(path.parent)


def seal_segment(path: Path) -> None:
    """Take the right to write from a segment that is finished, against accidents; no check relies on it."""
    with suppress(OSError):  # some file systems know no such right
        os.chmod(path, 0o400)


def try_lock(path: Path) -> int | None:
    """Take the lock file at `path` without waiting: its descriptor, or None if somebody holds it. Closing the descriptor gives it up.

    A file system may grant a lock that somebody holds (some that are shared over a network do), so the claim in the file counts too.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _holder_lives(descriptor):
            raise BlockingIOError
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def claim(descriptor: int) -> None:
    """Write into a lock file who holds it: pid, when that process started (ticks since boot), which boot, and the file's inode, so that a
    copy of the file claims nothing. Raises OSError."""
    line = f"{os.getpid()} {_started(os.getpid())} {_boot()} {os.fstat(descriptor).st_ino}\n"
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, line.encode(), 0)


def disclaim(descriptor: int) -> None:
    """Empty a lock file that we hold, before giving it up."""
    with suppress(OSError):  # the claim of a process that is gone counts for nothing
        os.ftruncate(descriptor, 0)


def _holder_lives(descriptor: int) -> bool:
    """Whether the process that claimed a lock file runs still: same boot, same pid, started at the same tick."""
    match = _CLAIM.fullmatch(os.pread(descriptor, 256, 0).decode("ascii", "replace"))
    if match is None or int(match["inode"]) != os.fstat(descriptor).st_ino:
        return False
    return match["boot"] == _boot() and match["started"] == _started(int(match["pid"]))


def _boot() -> str:
    """The kernel's name for the time since it started; empty where it has none, and then no claim counts."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _started(pid: int) -> str:
    """When a process started, in ticks since boot; empty if it does not run."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return ""
    return "" if len(fields) < 20 or fields[0] in (b"Z", b"X") else fields[19].decode("ascii", "replace")


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold the lock file at `path`, waiting for it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def is_live(directory: Path) -> bool:
    """Whether a writer holds the shard now. Looking takes a shared lock for an instant, and changes nothing."""
    try:
        descriptor = os.open(directory / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def read_small(path: Path, limit: int = 1 << 20) -> bytes | None:
    """The bytes of a small file, or None if there is none. Raises InvalidInput if it cannot be read or is too large."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InvalidInput(f"cannot be read: {error.strerror}", place=str(path)) from None
    if len(data) > limit:
        raise InvalidInput(f"larger than {limit} bytes", place=str(path))
    return data
