"""Files that hold secrets: 0600, in a directory of mode 0700, of the user who reads them, and never half written."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from pathlib import Path

from agentguard.errors import InvalidInput


def read_private(path: Path) -> bytes:
    """The bytes of a file that only its owner can read, and that is no symbolic link. Raises InvalidInput."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InvalidInput("a key file must not be a symbolic link", place=str(path), hint="put the file itself there") from None
        raise InvalidInput(f"the key cannot be read: {error.strerror}", place=str(path)) from None
    try:
        only_mine(os.fstat(descriptor), path, directory=False)
        return os.read(descriptor, 65536)
    finally:
        os.close(descriptor)


def only_mine(status: os.stat_result, path: Path, *, directory: bool) -> None:
    """Raises InvalidInput where a file or directory is another kind of thing, somebody else's, or open to others."""
    kind = stat.S_ISDIR if directory else stat.S_ISREG
    if not kind(status.st_mode):
        raise InvalidInput(f"not a {'directory' if directory else 'regular file'}", place=str(path))
    if status.st_uid != os.geteuid():
        raise InvalidInput("it belongs to another user", place=str(path), hint=f"chown {os.geteuid()} {path}")
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise InvalidInput(f"others can get at it (mode {mode:04o})", place=str(path), hint=f"chmod {'700' if directory else '600'} {path}")


def private_directory(path: Path) -> None:
    """Make sure that there is a directory which is only ours. Raises InvalidInput."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = os.lstat(path)
    except OSError as error:
        raise InvalidInput(f"the key directory cannot be made: {error.strerror}", place=str(path)) from None
    if stat.S_ISLNK(status.st_mode):
        raise InvalidInput("the key directory must not be a symbolic link", place=str(path))
    only_mine(status, path, directory=True)


def write_new(path: Path, data: bytes) -> bool:
    """Make the file with all of `data`, durably, or find that somebody else was first (False). Nobody ever sees half a key."""
    temporary = path.with_name(f".{secrets.token_hex(12)}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, path)
        finally:
            os.unlink(temporary)
        sync_directory(path.parent)
    except FileExistsError:
        return False
    except OSError as error:
        raise InvalidInput(f"the key cannot be written: {error.strerror}", place=str(path)) from None
    return True


def sync_directory(path: Path) -> None:
    """Make durable what was renamed or made in a directory. Raises OSError."""
    directory = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
