"""A log that grows through sizes at which trees and tiles change shape."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from support.logs import open_log, small

SIZES = (*range(71), 255, 256, 257, 1000)


def grown(home: Path) -> Iterator[tuple[str, int]]:
    """(shard, size) each time the log has one of the sizes, under a signed checkpoint."""
    with open_log(home) as log:
        for size in SIZES:
            log._writer._dirty = True  # no other checkpoint comes in between
            if size > log.size:
                log.append(*map(small, range(log.size, size)))
            log.checkpoint()
            yield log.shard, size
