"""Every bit of a log of 200 records, one at a time, and every cut of its files: `verify` accepts none (PITFALLS: log edits)."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest

from agentguard.log import Durability, verify
from support.logs import KEY, decision, files_of, open_log, outcome

_CHUNK = 64
_copy = Path()  # in a worker process: the home that it may damage


def build(home: Path, durability: Durability, each: int) -> None:
    """Decisions and outcomes as a guard writes them, `each` with one commit, in several segments."""
    records = [record for number in range(100) for record in (decision(f"d{number}"), outcome(f"d{number}"))]
    with open_log(home, durability, segment_bytes=8000) as log:
        for start in range(0, len(records), each):
            log.append(*records[start : start + each])


def _take_copy(home: Path, place: Path) -> None:
    global _copy
    _copy = place / str(os.getpid())
    shutil.copytree(home, _copy)


def accepted(damage: tuple[str, int, bool]) -> list[tuple[str, int, int]]:
    """What `verify` accepts of the damage to a chunk of a file: each bit of it turned, or the file cut at each byte of it (bit -1)."""
    name, start, cuts = damage
    path = _copy / name
    data = path.read_bytes()
    found = []
    for position in range(start, min(start + _CHUNK, len(data))):
        for bit in (-1,) if cuts else range(8):
            if cuts:
                os.truncate(path, position)
            else:
                with path.open("r+b", buffering=0) as file:
                    os.pwrite(file.fileno(), bytes([data[position] ^ 1 << bit]), position)
            if verify(_copy, KEY.public).ok:
                found.append((name, position, bit))
            path.write_bytes(data)
    return found


@pytest.mark.soak
@pytest.mark.parametrize(("durability", "each"), [("process", 10), ("fsync", 40)])
def test_no_turned_bit_and_no_cut_is_accepted(
    tmp_path: Path, durability: Durability, each: int, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    build(home, durability, each)
    report = verify(home, KEY.public)
    assert (report.ok, report.findings, sum(shard.size for shard in report.shards)) == (True, (), 200)
    sizes = {str(path.relative_to(home)): path.stat().st_size for path in files_of(home)}
    assert len(sizes) > 4  # several segments, a head and the manifest
    work = [(name, start, cuts) for cuts in (False, True) for name, size in sizes.items() for start in range(0, size, _CHUNK)]
    with multiprocessing.get_context("fork").Pool(os.cpu_count(), _take_copy, (home, tmp_path)) as pool:
        found = [each for some in shown(pool.imap_unordered(accepted, work), len(work), capsys) for each in some]
    assert found == []


def shown(
    done: Iterable[list[tuple[str, int, int]]], total: int, capsys: pytest.CaptureFixture[str]
) -> Iterable[list[tuple[str, int, int]]]:
    """Says now and then how much is done."""
    for number, some in enumerate(done, 1):
        yield some
        if number == total or number % 50 == 0:
            with capsys.disabled():
                print(f"\r{number} of {total} chunks of {_CHUNK} bytes, each bit turned and each cut", end="", flush=True)
