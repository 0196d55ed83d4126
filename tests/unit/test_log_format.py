"""The worked example of docs/log-format.md is what the code writes, byte for byte. Run this file as a script to print it anew."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from agentguard.log import verify
from agentguard.log.frames import CHECKPOINT, FINAL, HEAD, TAIL, Frame, read_frames
from agentguard.log.identity import LogKeys
from agentguard.log.layout import head_path, make_directory, shard_directory, try_lock
from agentguard.log.manifest import manifest_path, write_manifest
from agentguard.log.recovery import recover
from agentguard.log.shard import ShardWriter
from support.logs import KEY, Ticking

SHARD = "00112233aabbccdd"
KEYS = LogKeys.first(KEY.public)
DOCUMENT = Path(__file__).resolve().parent.parent.parent / "docs" / "log-format.md"


def write(home: Path) -> Path:
    """One append of two records, and a proper close, with a fixed key, shard and clock; the segment's path."""
    directory = shard_directory(home, SHARD)
    make_directory(directory)
    make_directory(head_path(home, "x").parent)
    manifest = write_manifest(home, (SHARD,), KEY)
    lock = try_lock(directory / "lock")
    assert lock is not None
    found = recover(home, SHARD, KEY.public)
    writer = ShardWriter(home, SHARD, lock, KEY, found, manifest.reference, durability="process", segment_bytes=1 << 20, clock=Ticking())
    writer._dirty = True  # so that no background thread comes between append and close
    writer.append((b'{"id":"a"}', b'{"id":"b"}'))
    writer.close()
    return directory / f"{0:020d}.seg"


def describe(frame: Frame, data: bytes) -> str:
    """One frame: its head in hexadecimal, its payload (text where it is text), its tail."""
    head = data[frame.offset : frame.offset + HEAD.size].hex(" ")
    tail = data[frame.end - TAIL.size : frame.end].hex(" ")
    if frame.kind in (CHECKPOINT, FINAL):
        payload = [f"        {line}".rstrip() for line in frame.payload.decode().splitlines()]
    else:
        payload = [f"        {frame.payload[at : at + 16].hex(' ')}" for at in range(0, len(frame.payload), 16)]
    return "\n".join([f"{frame.offset:5}   {head}   {chr(frame.kind)} {frame.number}", *payload, f"        {tail}"])


def blocks(home: Path) -> dict[str, str]:
    segment = write(home)
    data = segment.read_bytes()
    descriptor = os.open(segment, os.O_RDONLY)
    frames = list(read_frames(descriptor, segment.name, 0, len(data)))
    os.close(descriptor)
    return {
        "verifier keys": f"{KEYS.verifier_key()}\n{KEYS.verifier_key(SHARD)}",
        "manifest": manifest_path(home).read_text("utf-8").rstrip("\n"),
        "segment": "\n".join(describe(frame, data) for frame in frames),
        "head": head_path(home, SHARD).read_text("utf-8").rstrip("\n"),
    }


def test_the_document_shows_what_is_written(tmp_path: Path) -> None:
    text = DOCUMENT.read_text("utf-8")
    for name, block in blocks(tmp_path).items():
        assert f"```text\n{block}\n```" in text, f"docs/log-format.md: {name}; run {Path(__file__).name} as a script"
    assert verify(tmp_path, KEY.public).findings == ()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        for name, block in blocks(Path(scratch)).items():
            print(f"{name}\n```text\n{block}\n```\n")
