"""Whether this is still the process that something was made in, without a system call for each question.

`forks()` counts how often this process descends by fork from the one that loaded the library. Python tells a forked child; a child that
was forked behind Python's back is stopped by the log and the state store, which ask the system (`Log.append`, `StateFile.look`).
"""

from __future__ import annotations

import os

_forks = 0


def forks() -> int:
    """The same number as long as this is the same process."""
    return _forks


def _in_child() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_in_child)
