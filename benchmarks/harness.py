"""Round-robin timing: in every round each operation runs one batch, so that a slow phase of the machine falls on all of them."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

Operation = Callable[[], Any]


def batch_size(operation: Operation, milliseconds: float) -> int:
    """How many calls fill a batch of about so many milliseconds."""
    for _ in range(10):
        operation()
    count = 1
    while count < 1 << 20:
        begin = time.perf_counter()
        for _ in range(count):
            operation()
        spent = (time.perf_counter() - begin) * 1e3
        if spent >= milliseconds / 4:
            return max(1, round(count * milliseconds / spent))
        count *= 2
    return count


def measure(operations: Mapping[str, Operation | None], rounds: int, milliseconds: float) -> list[dict[str, Any]]:
    """Rows of {operation, median_us, best_us, repeats}; an operation that is None gives an empty row."""
    live = {name: operation for name, operation in operations.items() if operation is not None}
    sizes = {name: batch_size(operation, milliseconds) for name, operation in live.items()}
    samples: dict[str, list[float]] = {name: [] for name in live}
    for _ in range(rounds):
        for name, operation in live.items():
            count = sizes[name]
            gc.collect()
            gc.disable()
            begin = time.perf_counter()
            for _ in range(count):
                operation()
            spent = time.perf_counter() - begin
            gc.enable()
            samples[name].append(spent / count * 1e6)
    return [_row(name, samples.get(name, [])) for name in operations]


def _row(name: str, samples: list[float]) -> dict[str, Any]:
    if not samples:
        return {"operation": name, "median_us": None, "best_us": None, "repeats": 0}
    return {
        "operation": name,
        "median_us": round(statistics.median(samples), 3),
        "best_us": round(min(samples), 3),
        "repeats": len(samples),
    }
