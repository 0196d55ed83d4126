"""Frames (log/frames.py): what is written is read, and a torn end is told from damage."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agentguard.log.frames import (
    CHECKPOINT,
    COMMIT,
    FINAL,
    LARGEST,
    MAX_PAYLOAD,
    OVERHEAD,
    RECORD,
    SEGMENT,
    Damage,
    Frame,
    encode,
    read_frames,
)


def read(path: Path, start: int = 0, stop: int | None = None) -> list[Frame]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return list(read_frames(descriptor, path.name, start, path.stat().st_size if stop is None else stop))
    finally:
        os.close(descriptor)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "frames"


def damage(path: Path) -> Damage:
    with pytest.raises(Damage) as caught:
        read(path)
    return caught.value


def test_the_bytes_of_a_frame() -> None:
    assert encode(RECORD, 258, b"{}").hex(" ") == "ff 61 52 01 00 02 ff fd 00 00 00 00 00 00 01 02 7b 7d b9 73 43 bc 0a"
    assert len(encode(RECORD, 0, b"")) == OVERHEAD


def test_frames_come_back_across_chunks(file: Path) -> None:
    payloads = [bytes([number % 250]) * size for number, size in enumerate([0, 1, 2, MAX_PAYLOAD, MAX_PAYLOAD - 1, 70, *[40_000] * 60])]
    kinds = [SEGMENT, RECORD, COMMIT, CHECKPOINT, FINAL]
    file.write_bytes(b"".join(encode(kinds[number % 5], number, payload) for number, payload in enumerate(payloads)))
    frames = read(file)
    assert [frame.payload for frame in frames] == payloads
    assert [frame.number for frame in frames] == list(range(len(payloads)))
    assert [frame.end for frame in frames[:-1]] == [frame.offset for frame in frames[1:]]
    assert read(file, frames[4].offset)[0] == frames[4]
    assert read(file, stop=frames[2].end) == frames[:3]


def test_a_frame_that_is_cut_anywhere_is_torn(file: Path) -> None:
    first, second = encode(RECORD, 0, b"first"), encode(RECORD, 1, b"second \0\0")
    for length in range(1, len(second)):
        for zeros in (0, 1, 600):
            file.write_bytes(first + second[:length] + bytes(zeros))
            found = damage(file)
            assert found.torn, (length, zeros)
            assert found.offset == len(first)


def test_zeros_behind_whole_frames_are_torn(file: Path) -> None:
    first = encode(COMMIT, 1, bytes(32))
    for zeros in (1, 20, 4096, 3 << 20):
        file.write_bytes(first + bytes(zeros))
        assert (damage(file).torn, damage(file).offset) == (True, len(first))


def test_a_frame_with_any_changed_bit_is_damaged_not_torn(file: Path) -> None:
    frames = [encode(RECORD, 0, b"first"), encode(COMMIT, 1, bytes(32))]
    for number, frame in enumerate(frames):  # the last frame of the file too: this is where damage must not pass for an unfinished write
        for position in range(len(frame)):
            for bit in range(8):
                changed = bytearray(frame)
                changed[position] ^= 1 << bit
                file.write_bytes(b"".join([*frames[:number], changed, *frames[number + 1 :]]))
                assert not damage(file).torn, (number, position, bit)


def test_rubbish_is_damage(file: Path) -> None:
    first = encode(RECORD, 0, b"first")
    for rubbish in (b"\n", b"\xfe", b"\xffb", b"\xffaX", b"\xffaR\x02", b"{}" * 30, b"\0\0x", encode(RECORD, 1, b"x")[1:]):
        file.write_bytes(first + rubbish)
        assert not damage(file).torn, rubbish


def test_a_cut_frame_with_an_intact_one_behind_it_is_damage(file: Path) -> None:
    """A short write in the middle of acknowledged bytes (PITFALLS "lying write"): 34 records were lost by calling this a torn tail."""
    file.write_bytes(encode(RECORD, 0, b"a" * 500)[:200] + encode(COMMIT, 1, bytes(32)))
    assert not damage(file).torn


def test_more_than_a_frame_of_rubbish_is_damage(file: Path) -> None:
    file.write_bytes(encode(RECORD, 0, b"a" * MAX_PAYLOAD)[:-1] + b"b" * LARGEST)
    assert not damage(file).torn
    file.write_bytes(encode(RECORD, 0, b"a" * MAX_PAYLOAD)[:-1] + bytes(LARGEST) + b"b")
    assert not damage(file).torn


def test_a_record_cannot_imitate_a_frame() -> None:
    with pytest.raises(UnicodeDecodeError):
        encode(RECORD, 0, b"{}").decode("utf-8")


def test_a_file_that_shrinks_while_it_is_read(file: Path) -> None:
    file.write_bytes(encode(RECORD, 0, b"first"))
    with pytest.raises(Damage, match="shorter"):
        read(file, stop=1000)


def test_damage_names_file_and_byte(file: Path) -> None:
    file.write_bytes(encode(RECORD, 0, b"first") + b"x" * 30)
    assert str(damage(file)).startswith(f"frames: byte {OVERHEAD + 5}: not a frame of a known kind (")
