"""Attacks on the log, and accidents that look like them (PITFALLS: log edits, SQLite as evidence, lying write, audit after the fact, fork,
stdout as log).

Two questions about each: does `verify` find it, and does `Log.open` refuse rather than go on from it?
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from agentguard.errors import EvidenceUnavailable, InvalidInput
from agentguard.keys import LocalKey
from agentguard.log import Durability, Log, verify
from agentguard.log.checkpoint import NoteSigner, parse_checkpoint, parse_note
from agentguard.log.frames import COMMIT, RECORD, Frame, encode, read_frames
from agentguard.log.heads import read_head
from agentguard.log.manifest import read_manifest, write_manifest
from agentguard.log.merkle import Frontier, leaf_hash
from support.logs import KEY, decision, files_of, fresh, open_log, outcome, segments_of

BOTH: tuple[Durability, ...] = ("fsync", "process")


def build(home: Path, durability: Durability, *, shards: int = 1, appends: int = 12, each: int = 5, segment_bytes: int = 64 << 20) -> None:
    """A log that was closed properly."""
    records = fresh()
    with ExitStack() as stack:
        logs = [stack.enter_context(open_log(home, durability, segment_bytes=segment_bytes)) for _ in range(shards)]
        for _ in range(appends):
            for log in logs:
                log.append(*[next(records) for _ in range(each)])


def sound(home: Path) -> bool:
    return verify(home, KEY.public).ok


def opens(home: Path) -> bool:
    """Whether every shard of the home can be taken over."""
    try:
        with ExitStack() as stack:
            for _ in (home / "heads").iterdir():
                stack.enter_context(open_log(home))
        return True
    except InvalidInput:
        return False


def frames_of(path: Path) -> list[Frame]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return list(read_frames(descriptor, path.name, 0, path.stat().st_size))
    finally:
        os.close(descriptor)


@pytest.fixture(params=BOTH)
def durability(request: pytest.FixtureRequest) -> Durability:
    return request.param  # type: ignore[no-any-return]  # BOTH


class TestExhaustively:
    @pytest.fixture
    def home(self, tmp_path: Path, durability: Durability) -> Path:
        """60 records in two segments; in fsync durability half as many, because a checkpoint with each append makes it as large."""
        build(tmp_path, durability, appends=6 if durability == "process" else 3, each=10, segment_bytes=1100)
        assert len(segments_of(tmp_path)) == 2
        assert verify(tmp_path, KEY.public).findings == ()
        return tmp_path

    def test_every_changed_byte_is_found(self, home: Path, durability: Durability) -> None:
        accepted = []
        for path in files_of(home):
            data = path.read_bytes()
            with path.open("r+b", buffering=0) as file:
                for position in range(len(data)):
                    for flip in (0x01, 0x80) if durability == "process" else (1 << position % 8,):
                        os.pwrite(file.fileno(), bytes([data[position] ^ flip]), position)
                        if sound(home):
                            accepted.append((path.name, position, flip))
                    os.pwrite(file.fileno(), data[position : position + 1], position)
        assert accepted == []
        assert sound(home)

    def test_every_cut_is_found(self, home: Path) -> None:
        accepted = []
        for path in files_of(home):
            data = path.read_bytes()
            for length in reversed(range(len(data))):
                os.truncate(path, length)
                if sound(home):
                    accepted.append((path.name, length))
            path.write_bytes(data)
        assert accepted == []
        assert sound(home)

    def test_no_changed_or_cut_byte_of_the_last_segment_is_opened_as_if_nothing_were(self, home: Path) -> None:
        """Recovery may drop an unfinished append only; with a remembered head, nothing that was acknowledged can pass for one."""
        path = segments_of(home)[-1]
        data = path.read_bytes()
        head = next((home / "heads").iterdir())
        head_bytes = head.read_bytes()
        for position in range(0, len(data), 5):
            path.write_bytes(data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :])
            assert not opens(home), position
            path.write_bytes(data[:position])
            assert not opens(home), position
        path.write_bytes(data)
        assert head.read_bytes() == head_bytes
        assert opens(home)


class TestStructure:
    @pytest.fixture
    def home(self, tmp_path: Path, durability: Durability) -> Path:
        """Two shards of several segments."""
        home = tmp_path / "home"
        build(home, durability, shards=2, segment_bytes=1200)
        assert all(len(segments_of(home, shard.name)) >= 3 for shard in (home / "heads").iterdir())
        assert sound(home)
        return home

    def shards(self, home: Path) -> list[str]:
        return sorted(path.name for path in (home / "heads").iterdir())

    def test_a_deleted_shard(self, home: Path) -> None:
        shutil.rmtree(home / "log" / self.shards(home)[0])
        assert not sound(home)
        assert not opens(home)

    def test_a_deleted_shard_with_its_head(self, home: Path) -> None:
        shard = self.shards(home)[0]
        shutil.rmtree(home / "log" / shard)
        (home / "heads" / shard).unlink()
        assert not sound(home)
        assert not opens(home)

    def test_a_shard_emptied(self, home: Path) -> None:
        for path in segments_of(home, self.shards(home)[1]):
            path.unlink()
        assert not sound(home)

    def test_any_deleted_segment(self, home: Path) -> None:
        for path in segments_of(home):
            data = path.read_bytes()
            path.unlink()
            assert not sound(home), path.name
            path.write_bytes(data)
        assert sound(home)

    def test_a_deleted_head_or_manifest(self, home: Path) -> None:
        for path in (home / "log" / "manifest", *(home / "heads").iterdir()):
            data = path.read_bytes()
            path.unlink()
            assert not sound(home), path.name
            assert not opens(home), path.name
            path.write_bytes(data)
        assert sound(home)

    def test_segments_swapped_or_renamed(self, home: Path) -> None:
        first, second = self.shards(home)
        mine, other = segments_of(home, first), segments_of(home, second)
        for left, right in ((mine[0], mine[1]), (mine[1], mine[2]), (mine[-1], other[-1]), (mine[0], other[0]), (mine[1], other[1])):
            a, b = left.read_bytes(), right.read_bytes()
            left.write_bytes(b)
            right.write_bytes(a)
            assert not sound(home), (left.name, right.name)
            left.write_bytes(a)
            right.write_bytes(b)
        mine[1].rename(mine[1].with_name(f"{10**6:020d}.seg"))
        assert not sound(home)

    def test_shards_swapped(self, home: Path) -> None:
        first, second = (home / "log" / shard for shard in self.shards(home))
        first.rename(home / "aside")
        second.rename(first)
        (home / "aside").rename(second)
        assert not sound(home)
        for name in ("a", "b"):
            shutil.copytree(home, home.parent / name)
        heads = [home / "heads" / shard for shard in self.shards(home)]
        a, b = (path.read_bytes() for path in heads)
        heads[0].write_bytes(b)
        heads[1].write_bytes(a)
        assert not sound(home)

    def test_a_shard_of_another_home_put_in(self, home: Path, tmp_path: Path, durability: Durability) -> None:
        other = tmp_path / "other"
        build(other, durability)
        shard = next((other / "heads").iterdir()).name
        shutil.copytree(other / "log" / shard, home / "log" / shard)
        assert not sound(home)
        shutil.copy(other / "heads" / shard, home / "heads" / shard)
        assert not sound(home)
        assert not opens(home)

    def test_any_two_frames_swapped_any_frame_dropped_any_frame_doubled(self, home: Path) -> None:
        path = segments_of(home)[1]
        data = path.read_bytes()
        parts = [data[frame.offset : frame.end] for frame in frames_of(path)]
        for at in range(len(parts) - 1):
            for changed in (
                [*parts[:at], parts[at + 1], parts[at], *parts[at + 2 :]],
                [*parts[:at], *parts[at + 1 :]],
                [*parts[:at], parts[at], *parts[at:]],
            ):
                path.write_bytes(b"".join(changed))
                assert not sound(home), at
        path.write_bytes(data)
        assert sound(home)


class TestRollback:
    """An older copy of a file, put back in place of the present one."""

    @pytest.fixture
    def copies(self, tmp_path: Path, durability: Durability) -> Path:
        """A home, and older copies of it: while it was written, and after each of its writers closed."""
        home = tmp_path / "home"
        build(home, durability, segment_bytes=1500)
        shutil.copytree(home, tmp_path / "1-closed")
        with open_log(home, durability, segment_bytes=1500) as first, open_log(home, durability, segment_bytes=1500) as second:
            records = fresh()
            for log in (first, second):
                log.append(next(records))
                log.checkpoint()
            shutil.copytree(home, tmp_path / "2-live")
            for log in (first, second):
                for _ in range(8):
                    log.append(next(records))
                log.checkpoint()
        assert sound(home)
        return tmp_path

    def test_any_single_file(self, copies: Path) -> None:
        home = copies / "home"
        tried = 0
        files_of(home)  # an attacker may write to them
        for copy in sorted(copies.glob("?-*")):
            for old in files_of(copy):
                path = home / old.relative_to(copy)
                present, past = path.read_bytes(), old.read_bytes()
                if past != present:
                    tried += 1
                    path.write_bytes(past)
                    assert not sound(home), (copy.name, path.name)
                    path.write_bytes(present)
        assert tried >= 6
        assert sound(home)

    def test_a_whole_shard(self, copies: Path) -> None:
        home = copies / "home"
        for copy in sorted(copies.glob("?-*")):
            for shard in sorted(path.name for path in (copy / "heads").iterdir()):
                shutil.move(home / "log" / shard, copies / "aside")
                shutil.copytree(copy / "log" / shard, home / "log" / shard)
                assert not sound(home), (copy.name, shard)
                assert not opens(home), (copy.name, shard)
                shutil.rmtree(home / "log" / shard)
                shutil.move(copies / "aside", home / "log" / shard)
        assert sound(home)

    def test_the_log_directory(self, copies: Path) -> None:
        home = copies / "home"
        shutil.rmtree(home / "log")
        shutil.copytree(copies / "1-closed" / "log", home / "log")
        assert not sound(home)
        assert not opens(home)

    def test_all_heads(self, copies: Path) -> None:
        home = copies / "home"
        for old in (copies / "2-live" / "heads").iterdir():
            shutil.copy(old, home / "heads" / old.name)
        assert not sound(home)

    def test_the_numbers_are_named(self, copies: Path) -> None:
        home = copies / "home"
        shard = next((copies / "1-closed" / "heads").iterdir()).name
        shutil.rmtree(home / "log" / shard)
        shutil.copytree(copies / "1-closed" / "log" / shard, home / "log" / shard)
        with pytest.raises(InvalidInput, match="held 69 records when its head was remembered, and holds 60 now"):
            open_log(home)
        assert any("69 records" in finding.message and "60 now" in finding.message for finding in verify(home, KEY.public).findings)


class TestForgery:
    """Somebody who knows the format and mends every checksum, but does not have the key."""

    def rewrite(self, path: Path, change: Callable[[Frame], bytes | None]) -> None:
        """Write the segment anew, frame by frame, with commits that fit."""
        parts = []
        frontier = Frontier()
        for frame in frames_of(path):
            payload = change(frame)
            if payload is None:
                continue
            if frame.kind == RECORD:
                frontier.append(leaf_hash(payload))
                parts.append(encode(RECORD, frontier.size - 1, payload))
            elif frame.kind == COMMIT:
                parts.append(encode(COMMIT, frontier.size, frontier.root() + payload[32:]))
            else:
                parts.append(encode(frame.kind, frame.number if frame.kind == ord("S") else frontier.size, payload))
        path.write_bytes(b"".join(parts))

    @pytest.fixture
    def home(self, tmp_path: Path, durability: Durability) -> Path:
        with open_log(tmp_path, durability) as log:
            for number in range(20):
                log.append(decision(f"e{number}", verdict="deny"))
        return tmp_path

    def test_a_deny_turned_into_an_allow(self, home: Path) -> None:
        """A peer's chain stayed valid after such an edit: the field was not hashed."""
        self.rewrite(
            segments_of(home)[0], lambda frame: frame.payload.replace(b'"deny"', b'"allow"') if frame.number == 7 else frame.payload
        )
        assert not sound(home)
        assert not opens(home)

    def test_records_left_out(self, home: Path) -> None:
        self.rewrite(
            segments_of(home)[0],
            lambda frame: None if (frame.kind, frame.number) in ((RECORD, 7), (COMMIT, 8)) else frame.payload,
        )
        assert not sound(home)
        assert not opens(home)

    def test_records_put_in(self, home: Path) -> None:
        path = segments_of(home)[0]
        with path.open("ab") as file:
            frontier = Frontier()
            for frame in frames_of(path):
                if frame.kind == RECORD:
                    frontier.append(leaf_hash(frame.payload))
            record = outcome("e0")
            frontier.append(leaf_hash(record))
            file.write(encode(RECORD, frontier.size - 1, record) + encode(COMMIT, frontier.size, frontier.root()))
        # In process durability such a tail is what a killed writer leaves, and only the missing signature shows.
        assert [finding.kind for finding in verify(home, KEY.public).findings] != []

    def test_checkpoints_signed_by_another_key(self, home: Path) -> None:
        thief = LocalKey.generate()
        shard = next((home / "heads").iterdir())

        def resign(note: bytes) -> bytes:
            text = parse_note(note).text
            return NoteSigner(thief, parse_checkpoint(text).origin).sign(text)

        self.rewrite(
            segments_of(home)[0],
            lambda frame: (
                frame.payload
                if frame.kind in (RECORD, ord("S"))
                else frame.payload[:32] + (resign(frame.payload[32:]) if len(frame.payload) > 32 else b"")
                if frame.kind == COMMIT
                else resign(frame.payload)
            ),
        )
        assert not sound(home)
        shard.write_bytes(resign(shard.read_bytes()))
        assert not sound(home)
        assert not opens(home)

    def test_a_checkpoint_of_another_shard_or_another_moment(self, home: Path, durability: Durability) -> None:
        """Every one of these is signed by the right key."""
        head = next((home / "heads").iterdir())
        present = head.read_bytes()
        with open_log(home, durability) as log:
            log.append(decision("later"))
            later = log.checkpoint()
        with open_log(home, durability) as first, open_log(home, durability) as second:
            assert first.shard == head.name
            elsewhere = second.checkpoint()
        for note in (present, later, elsewhere):
            now = head.read_bytes()
            head.write_bytes(note)
            assert not sound(home)
            head.write_bytes(now)
        assert sound(home)

    def test_a_manifest_that_forgets_a_shard(self, tmp_path: Path, durability: Durability) -> None:
        """Even one that the right key signed: some head has seen more."""
        build(tmp_path, durability, shards=3, appends=1)
        manifest = read_manifest(tmp_path, KEY.public)
        assert manifest is not None
        gone = manifest.shards[0]
        write_manifest(tmp_path, manifest.shards[1:], KEY)
        shutil.rmtree(tmp_path / "log" / gone)
        (tmp_path / "heads" / gone).unlink()
        assert not sound(tmp_path)
        assert not opens(tmp_path)


class TestRecovery:
    def test_a_lying_write_loses_nothing(self, tmp_path: Path, durability: Durability) -> None:
        """A short write was once taken for a torn tail, and 34 acknowledged records behind it were discarded. Here it says which byte."""
        build(tmp_path, durability, appends=8)
        path = segments_of(tmp_path)[0]
        frame = frames_of(path)[7]
        data = path.read_bytes()
        path.write_bytes(data[: frame.offset + 9] + data[frame.end :])
        with pytest.raises(InvalidInput, match=rf"{path.name}: byte {frame.offset}: "):
            open_log(tmp_path, durability)
        assert not sound(tmp_path)
        assert path.stat().st_size == len(data) - (frame.end - frame.offset - 9), "nothing was cut off"

    def test_every_unfinished_append_is_dropped_and_nothing_else(self, tmp_path: Path, durability: Durability) -> None:
        home = tmp_path / "home"
        log = open_log(home, durability)
        log.append(b'{"id":"a"}')
        path = segments_of(home)[0]
        before = path.stat().st_size
        head = next((home / "heads").iterdir()).read_bytes()
        log.append(b'{"id":"b"}', b'{"id":"c"}')
        data = path.read_bytes()
        log.poison("the test plays a power cut")
        log.close()
        for length in [*range(before, len(data), 1 if durability == "process" else 11), len(data)]:
            path.write_bytes(data[:length])
            next((home / "heads").iterdir()).write_bytes(head)  # as it was when the append began
            assert sound(home), length
            with open_log(home, durability) as again:
                assert again.size == (3 if length == len(data) else 1), length
            assert sound(home)

    def test_a_cut_at_a_commit_frame_is_refused_for_the_head_remembers(self, tmp_path: Path, durability: Durability) -> None:
        build(tmp_path, durability, appends=4, each=2)
        path = segments_of(tmp_path)[0]
        data = path.read_bytes()
        for frame in frames_of(path):
            if frame.kind == COMMIT and frame.number < 8:
                path.write_bytes(data[: frame.end])
                with pytest.raises(InvalidInput, match=f"held 8 records when its head was remembered, and holds {frame.number} now"):
                    open_log(tmp_path, durability)

    def test_no_evidence_no_call(self, tmp_path: Path, durability: Durability) -> None:
        """A full outbox must not let calls run: a log that failed refuses each append until it is reopened."""
        log = open_log(tmp_path, durability)
        log.append(b'{"id":"a"}')
        os.close(log._writer._descriptor)
        log._writer._descriptor = os.open("/dev/full", os.O_WRONLY)
        for _ in range(3):
            with pytest.raises(EvidenceUnavailable, match=r"No space left on device \(errno 28 ENOSPC\)"):
                log.append(b'{"id":"b"}')
        assert log.poisoned
        log.close()

    def test_an_interrupted_append_refuses_from_then_on(self, tmp_path: Path, durability: Durability) -> None:
        class Interrupting:
            public = KEY.public
            armed = False

            def sign(self, data: bytes) -> bytes:
                if self.armed:
                    raise KeyboardInterrupt
                return KEY.sign(data)

        signer = Interrupting()
        log = Log.open(tmp_path, signer, durability=durability)
        log.append(b'{"id":"a"}')
        signer.armed = True
        with pytest.raises(KeyboardInterrupt):
            log.checkpoint()
        signer.armed = False
        with pytest.raises(EvidenceUnavailable, match="interrupted"):
            log.append(b'{"id":"b"}')
        log.close()

    def test_nothing_is_written_to_stdout(self, tmp_path: Path, durability: Durability) -> None:
        """Audit on stdout corrupts a stdio MCP session."""
        code = (
            "from pathlib import Path; from agentguard.keys import LocalKey; from agentguard.log import Log, verify\n"
            f"home, key = Path({str(tmp_path)!r}), LocalKey.generate()\n"
            f"log = Log.open(home, key, durability={durability!r}); log.append(b'x'); log.poison('test')\n"
            "try: log.append(b'y')\n"
            "except Exception: pass\n"
            "verify(home, key.public)"
        )
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        assert (done.stdout, done.stderr) == ("", "")


def test_the_lock_is_not_lost_when_a_child_closes_its_copy(tmp_path: Path) -> None:
    """PITFALLS "fork": two writers on one shard would fork its history."""
    log = open_log(tmp_path)
    pid = os.fork()
    if pid == 0:
        log.close()
        os._exit(0)
    os.waitpid(pid, 0)
    with open_log(tmp_path) as other:
        assert other.shard != log.shard
    log.close()
    head = read_head(tmp_path, log.shard, KEY.public)
    assert head is not None
    assert head.final
