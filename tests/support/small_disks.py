"""Small disks: a child process with mounts of its own, which are gone when it ends. Where the system allows none, a skip says why."""

from __future__ import annotations

import ctypes
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

_NEW_MOUNTS: Final = 0x0002_0000  # this and the next for unshare(2)
_NEW_USER: Final = 0x1000_0000
_REMOUNT: Final = 32  # this and the next for mount(2)
_ALL_PRIVATE: Final = 16384 | 1 << 18
_FORBIDDEN: Final = 77
_libc = ctypes.CDLL(None, use_errno=True)


def apart(work: Callable[[], None], place: Path) -> str:
    """Run `work` in a forked child that may mount disks. Gives its standard error with the traceback of whatever it raised."""
    child = os.fork()
    if child == 0:
        _child(work, place)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    said = (place / "err").read_text("utf-8")
    if code == _FORBIDDEN:
        pytest.skip(f"nothing may be mounted here: {said.strip()} (needs root, or `unshare -Urm` to be allowed)")
    return said if code in (0, 1) else f"{said}the process ended with {code}"


def _child(work: Callable[[], None], place: Path) -> None:
    code = 1
    try:
        file = os.open(place / "err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        os.dup2(file, 2)
        try:
            _unshare()
            disk(place / "allowed", 64)
        except (OSError, AttributeError) as error:  # only Linux has all of it
            os.write(2, f"{error}\n".encode())
            os._exit(_FORBIDDEN)
        work()
        code = 0
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def _unshare() -> None:
    """Mounts that nobody else sees; for who is not root, as root of a user namespace. Raises OSError."""
    user, group = os.getuid(), os.getgid()
    if _libc.unshare(_NEW_MOUNTS) != 0:
        _done(_libc.unshare(_NEW_USER | _NEW_MOUNTS), "unshare")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    _mount(Path("/"), _ALL_PRIVATE, "")


def disk(place: Path, kilobytes: int) -> None:
    """Mount an empty disk of that size. Raises OSError."""
    place.mkdir(parents=True, exist_ok=True)
    _mount(place, 0, f"size={kilobytes}k,mode=700")


def resize(place: Path, kilobytes: int) -> None:
    """Give a mounted disk another size."""
    _mount(place, _REMOUNT, f"size={kilobytes}k")


def fill(place: Path) -> Path:
    """Take every byte that a disk has left; the file that holds them."""
    name = place / "ballast"
    with name.open("ab", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass
    return name


def _mount(place: Path, flags: int, options: str) -> None:
    _done(_libc.mount(b"none", os.fsencode(place), b"tmpfs", ctypes.c_ulong(flags), options.encode()), f"mount {place}")


def _done(answer: int, what: str) -> None:
    if answer != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
