"""Measured facts of the place where the guard runs, and its clock (DESIGN §4 environment binding, §7 time).

Facts are read once, when the guard opens, from the machine and never from environment variables.
"""

from __future__ import annotations

import platform
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from agentguard.canonical import Frozen, as_mapping, freeze
from agentguard.errors import InvalidInput

NANOSECOND: Final = 1_000_000_000
#: A wall clock this far behind the last checkpoint denies every call until an operator accepts it. Within it, time simply does not go back.
CLOCK_TOLERANCE_NS: Final = 30 * NANOSECOND
MEASURED: Final = ("host", "os", "arch", "python", "agentguard", "image", "revision", "tool_lock")


def version() -> str:
    """The installed version of agentguard."""
    try:
        return metadata.version("agentguard")
    except metadata.PackageNotFoundError:
        return "0+unknown"


def measure(given: Mapping[str, Any] | None, *, lock: str | None) -> Mapping[str, Frozen]:
    """The environment: what was given (`deployment` and the like) beside what was measured. Measured names may not be given."""
    extra = as_mapping(freeze(dict(given or {})), "environment")
    clash = sorted(extra.keys() & set(MEASURED))
    if clash:
        raise InvalidInput(f"the fact {clash[0]!r} is measured and cannot be given", place="environment", hint="choose another name")
    facts: dict[str, Frozen] = {
        "host": socket.gethostname(),
        "os": platform.system().lower(),
        "arch": platform.machine(),
        "python": platform.python_version(),
        "agentguard": version(),
        **extra,
    }
    for name, value in (("image", _container_image()), ("revision", _code_revision()), ("tool_lock", lock)):
        if value:
            facts[name] = value
    return MappingProxyType(facts)


def _container_image() -> str | None:
    """The container's image or id where the runtime leaves it in a well-known file."""
    for path in (Path("/run/.containerenv"), Path("/run/secrets/agentguard/image")):
        try:
            for line in path.read_text("utf-8", "strict").splitlines():
                key, _, value = line.partition("=")
                if key in ("imageid", "image") and value:
                    return value.strip('"')[:256]
        except (OSError, UnicodeDecodeError):
            continue
    return None


def _code_revision() -> str | None:
    """The commit of the checkout that holds the main program, read from its `.git` without running git."""
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    start = Path(main).resolve().parent if main else Path.cwd()
    for folder in (start, *start.parents):
        git = folder / ".git"
        if not git.is_dir():
            continue
        try:
            head = (git / "HEAD").read_text("ascii").strip()
            if not head.startswith("ref: "):
                return head[:64]
            name = head.removeprefix("ref: ")
            loose = git / name
            if loose.is_file():
                return loose.read_text("ascii").strip()[:64]
            for line in (git / "packed-refs").read_text("ascii").splitlines():
                if line.endswith(f" {name}"):
                    return line.split(" ", 1)[0][:64]
        except (OSError, UnicodeDecodeError):
            return None
        return None
    return None


class Clock:
    """Time that never goes back within a process, and never below `floor`: the last checkpoint's time.

    `now()` is nanoseconds since the epoch: the wall clock, or what the boot-time clock says has passed since it was last ahead.
    """

    __slots__ = ("_base", "_elapsed", "_lock", "_wall", "unreliable")

    def __init__(
        self,
        *,
        floor: int = 0,
        wall: Callable[[], int] = time.time_ns,
        elapsed: Callable[[], int] = partial(time.clock_gettime_ns, time.CLOCK_BOOTTIME),
    ) -> None:
        self._wall, self._elapsed, self._lock = wall, elapsed, threading.Lock()
        start = wall()
        behind = floor - start
        #: Why the clock cannot be trusted, in words; empty when it can.
        self.unreliable = f"{behind // NANOSECOND} s behind the last checkpoint" if behind > CLOCK_TOLERANCE_NS else ""
        self._base = max(start, floor) - elapsed()

    def now(self) -> int:
        wall, elapsed = self._wall(), self._elapsed()
        if wall - elapsed > self._base:
            with self._lock:
                self._base = max(self._base, wall - elapsed)
        return self._base + elapsed
