"""Writes the vector files: `cd tests && python -m vectors.generate`. The same bytes on every run; `test_vectors.py` compares."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vectors import calls, chains, pairs
from vectors.forge import Vectors

FILES: dict[str, Callable[[], Vectors]] = {
    "valid.json": chains.valid,
    "invalid.json": chains.invalid,
    "pairs.json": pairs.pairs,
    "maps.json": pairs.maps,
    "stars.json": pairs.stars,
    "calls.json": calls.calls,
    "proofs.json": calls.proofs,
    "requests.json": calls.requests,
}


def main() -> None:
    here = Path(__file__).parent
    for name, build in FILES.items():
        vectors = build()
        (here / name).write_text(vectors.dump(), encoding="utf-8")
        print(f"{name}: {len(vectors.items)} vectors")


if __name__ == "__main__":
    main()
