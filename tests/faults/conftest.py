"""A place in memory: these tests write thousands of small homes, and what a disk does is told to them by a trace."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

_MEMORY = Path("/dev/shm")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory that is gone afterwards: in memory where there is room, else on the disk."""
    if not os.access(_MEMORY, os.W_OK) or shutil.disk_usage(_MEMORY).free < 32 << 20:
        yield tmp_path
        return
    with TemporaryDirectory(prefix="agentguard-faults-", dir=_MEMORY) as directory:
        yield Path(directory)
