"""The version of the revocations as one word of shared memory, so that asking for it costs no system call (DESIGN §9).

`state.gen` lies beside `state.db`: 8 bytes in the machine's order, mapped by every process that has the store open. The word is twice the
version, or odd, and odd means: ask the store. Whoever moves the version makes the word odd before it commits, and even afterwards; both
only while it holds SQLite's write lock. So an even word is always the version that is committed, a crash in between leaves it odd, and
the next one who opens the store or moves the version mends it. It is no evidence and needs no sync: opening compares it with the store.
"""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path
from typing import Final

from agentguard.errors import StateUnavailable

#: What a word says that cannot be trusted.
ODD: Final = 1
#: Stands in for the word while the store is not open.
UNKNOWN: Final = memoryview(ODD.to_bytes(8, sys.byteorder)).cast("Q")


def word_path(path: Path) -> Path:
    """Where the word of the store at `path` lies."""
    return path.with_suffix(".gen")


def map_word(path: Path) -> tuple[memoryview, int]:
    """The word in the file at `path`, which is made (mode 0600) if there is none, and the file's inode. Raises StateUnavailable.

    An aligned load of 8 bytes is whole on every machine that Python runs on; a torn one would equal no version that anybody decided on.
    The mapping goes with the last view of it.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if os.fstat(descriptor).st_size < 8:
                os.posix_fallocate(descriptor, 0, 8)  # a mapped hole on a full disk would be a signal, not an error
            return memoryview(mmap.mmap(descriptor, 8)).cast("Q"), os.fstat(descriptor).st_ino
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        raise StateUnavailable(f"{path}: cannot be mapped: {error}") from error
