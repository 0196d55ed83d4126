"""The fuzz targets without atheris: every kept input, and some thousand mutations of them, the same ones at each run."""

from __future__ import annotations

import random

import pytest

from fuzz.targets import CORPUS, TARGETS

#: Policies are long, and each takes a while to load.
MUTATIONS = {"policy": 120, "artifact": 1500, "call": 2000, "condition": 2000}
PIECES = (
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b"\\",
    b":",
    b",",
    b"\n",
    b" ",
    b"-",
    b"1e400",
    b"\x00",
    b"\xff",
    b"\xed\xa0\x80",
    b"null",
    b"&a",
    b"~",
    b"(",
    b".",
    b"=",
)


def kept(target: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((CORPUS / target).iterdir())]


def mutated(data: bytes, chance: random.Random) -> bytes:
    for _ in range(chance.randint(1, 4)):
        at = chance.randint(0, len(data))
        end = min(len(data), at + chance.choice([0, 0, 1, 1, 4, 40]))
        new = chance.choice([b"", chance.choice(PIECES), bytes([chance.randrange(256)]), data[at:end] * 2])
        data = data[:at] + new + data[end:]
    return data


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_but_a_documented_error_leaves_a_reader(target: str) -> None:
    seeds, chance = kept(target), random.Random(target)
    assert seeds
    for data in seeds:
        TARGETS[target](data)
    for _ in range(MUTATIONS[target]):
        data = mutated(chance.choice(seeds), chance)
        try:
            TARGETS[target](data)
        except Exception as error:
            raise AssertionError(f"{target}: {type(error).__name__} for {data!r}") from error
