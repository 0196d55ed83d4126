"""Records that retention removed, and records that somebody else did: the first leave every proof valid, the second are found."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from agentguard import Guard
from agentguard.environment import Clock
from agentguard.errors import InvalidInput
from agentguard.home import Home
from agentguard.ledger import Ledger
from agentguard.log import Log, iter_records, read_record, verify
from agentguard.log.checkpoint import open_checkpoint
from agentguard.log.frames import LEAF, RECORD, encode, read_frames
from agentguard.log.identity import LogKeys
from agentguard.log.merkle import root_of
from agentguard.log.proofs import check_inclusion, prove_inclusion
from agentguard.log.site import write_sites
from agentguard.log.thin import Removed, leaf_of, thin_segment
from agentguard.reading.index import Index
from agentguard.retention import Kept, retain

POLICY = "agentguard: 1\nname: keep\nagents: {a: {tools: {t: {x: any}}}}\n"
DAY = 86_400


def keys_of(home: Path) -> LogKeys:
    with Home(home) as opened:
        return LogKeys.first(opened.keys.log().public)


def run(home: Path, monkeypatch: pytest.MonkeyPatch, calls: int = 30, segment_bytes: int = 8000) -> None:
    """A guard at work, on segments that are small."""
    real = Log.open
    monkeypatch.setattr(Log, "open", lambda *args, **options: real(*args, **{**options, "segment_bytes": segment_bytes}))
    with Guard.open(POLICY, home=home, durability="process") as guard:

        @guard.tool
        def t(x: int) -> int:
            return x

        with guard.task("a", initiator="user:a", ttl="1m"):
            for number in range(calls):
                t(x=number)
        guard.stop("agent", "nobody", reason="a test")
    monkeypatch.setattr(Log, "open", real)


def remove(home: Path, *, days: int = 400, later: int = 500, seconds: int | None = None) -> Kept:
    """What an operator does `later` days from now."""
    with Home(home) as opened:
        now = time.time_ns() + later * DAY * 10**9
        keys = LogKeys.first(opened.keys.log().public)
        return retain(opened, Ledger(opened, Clock()), keys, days * DAY if seconds is None else seconds, now, by="ops", reason="a rule")


@pytest.fixture
def worked(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    run(home, monkeypatch)
    return home


def thinned(home: Path) -> list[Path]:
    return sorted((home / "log").glob("*/*.thin"))


def kinds(home: Path) -> list[str]:
    return sorted({finding.kind for finding in verify(home, keys_of(home)).findings})


class TestRemoved:
    def test_the_calls_go_and_the_tree_stays(self, worked: Path) -> None:
        before = list(iter_records(worked))
        whole = sorted(path.name for path in (worked / "log").glob("*/*.seg"))
        note = next((worked / "heads").iterdir()).read_bytes()
        kept = remove(worked)
        assert kept.segments == len(whole) - 1 == len(thinned(worked)) > 2
        assert kept.bytes > 0
        after = list(iter_records(worked))
        assert [place for *place, _ in after[: len(before)]] == [place for *place, _ in before], "each has its place still"
        for (_, _, old), (_, _, new) in zip(before, after, strict=False):
            assert leaf_of(new) == leaf_of(old)
            if isinstance(new, Removed):
                assert json.loads(old)["type"] in ("decision", "outcome", "delegation")
                assert json.loads(new) == {"type": "removed", "leaf": leaf_of(old).hex()}
            else:
                assert new == old
        assert sum(isinstance(record, Removed) for *_, record in after) == kept.records > 30
        types = [json.loads(record)["type"] for *_, record in after]
        assert {"open", "lock", "removed", "retention"} <= set(types)
        keys = keys_of(worked)
        checkpoint = open_checkpoint(note, keys.current, keys.origin(before[0][0]))
        assert root_of([leaf_of(record) for *_, record in after[: checkpoint.size]]) == checkpoint.root

    def test_the_log_verifies_and_says_what_was_removed(self, worked: Path) -> None:
        kept = remove(worked)
        report = verify(worked, keys_of(worked))
        assert report.ok
        said = [finding for finding in report.findings if finding.kind == "removed"]
        assert len(said) == kept.segments
        assert all("retention removed" in finding.message and "as record" in finding.message for finding in said)
        assert [finding for finding in report.findings if finding.kind not in ("removed",)] == []

    def test_old_proofs_hold_and_new_ones_can_be_made(self, worked: Path) -> None:
        keys = keys_of(worked)
        shard, index, record = next(one for one in iter_records(worked) if json.loads(one[2])["type"] == "decision")
        old = prove_inclusion(worked, shard, index, keys, record).format()
        remove(worked)
        shutil.rmtree(worked / "tiles")  # a cache: it is made anew, from the leaf hashes
        assert check_inclusion(old, keys, record=record)
        assert check_inclusion(prove_inclusion(worked, shard, index, keys, record).format(), keys, record=record)
        with pytest.raises(InvalidInput, match="was removed by retention"):
            read_record(worked, shard, index)
        without = prove_inclusion(worked, shard, index, keys, Removed.of(leaf_of(record)))
        assert without.record is None
        assert check_inclusion(without.format(), keys, record=record)
        for other in (Removed.of(bytes(32)), bytes(Removed.of(leaf_of(record)))):  # the second only says that it is one
            with pytest.raises(InvalidInput):
                prove_inclusion(worked, shard, index, keys, other)

    def test_a_guard_works_on(self, worked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        remove(worked)
        run(worked, monkeypatch, calls=3)
        assert kinds(worked) == ["removed"]
        with Index(worked) as index:
            assert index.check() == 0
            size = index.size
        assert size == len(list(iter_records(worked)))
        (worked / "state.db").unlink()
        run(worked, monkeypatch, calls=3)
        assert kinds(worked) == ["removed"]

    def test_again_and_later(self, worked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first = remove(worked)
        assert remove(worked).segments == 0, "nothing is left to remove"
        run(worked, monkeypatch)
        assert remove(worked, days=1, later=2).segments > 0
        assert first.segments
        assert kinds(worked) == ["removed"]

    def test_a_site_that_is_there_keeps_the_records_and_goes_on(
        self, worked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keys = keys_of(worked)
        list(write_sites(worked, tmp_path / "site", keys))
        remove(worked)
        run(worked, monkeypatch, calls=3)
        list(write_sites(worked, tmp_path / "site", keys))
        with pytest.raises(InvalidInput, match="removed from the log by retention"):
            list(write_sites(worked, tmp_path / "new", keys))


class TestNotYet:
    def test_what_is_young_stays(self, worked: Path) -> None:
        assert remove(worked, later=0).segments == 0
        assert thinned(worked) == []

    def test_what_an_artifact_in_force_needs_stays(self, worked: Path) -> None:
        assert remove(worked, later=0, seconds=-10).segments == 0

    def test_what_the_state_has_not_counted_stays(self, worked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with Home(worked) as opened:
            monkeypatch.setattr(type(opened.state), "position", lambda *_: 0)
        assert remove(worked).segments == 0

    def test_a_log_that_does_not_verify_stays(self, worked: Path) -> None:
        path = sorted((worked / "log").glob("*/*.seg"))[0]
        path.chmod(0o600)
        data = bytearray(path.read_bytes())
        data[500] ^= 1
        path.write_bytes(data)
        with pytest.raises(InvalidInput, match="does not verify"):
            remove(worked)
        assert thinned(worked) == []


class TestWithoutARight:
    def test_records_that_somebody_else_removed(self, worked: Path) -> None:
        """Whoever can write to the disk can thin a segment; only a signed record makes it right."""
        path = sorted((worked / "log").glob("*/*.seg"))[0]
        thin_segment(path, lambda _: False)
        assert kinds(worked) == ["foreign"]
        path.unlink()
        assert kinds(worked) == ["retention"]
        assert not verify(worked, keys_of(worked)).ok

    def test_more_than_the_record_says(self, worked: Path) -> None:
        remove(worked)
        path = thinned(worked)[0]
        frames = []
        descriptor = os.open(path, os.O_RDONLY)
        for kind, number, payload, _, _ in read_frames(descriptor, str(path), 0, path.stat().st_size):
            frames.append(encode(LEAF, number, leaf_of(payload)) if kind == RECORD else encode(kind, number, payload))
        os.close(descriptor)
        path.chmod(0o600)
        path.write_bytes(b"".join(frames))
        assert "retention" in kinds(worked)

    def test_a_record_that_nobody_signed(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """In `process` durability whoever can write to the disk can put records behind the last checkpoint."""
        run(home, monkeypatch)
        keys = keys_of(home)
        path = sorted((home / "log").glob("*/*.seg"))[0]
        made = thin_segment(path, lambda _: False)
        detail = {"reason": "", "segments": [{"digest": made.digest, "first": 0, "removed": made.removed, "shard": path.parent.name}]}
        with Home(home, durability="process") as opened:
            Ledger(opened, Clock()).note("retention", detail, by="eve")
            opened.log.poison("no checkpoint follows")
        path.unlink()
        assert {finding.kind for finding in verify(home, keys).findings} >= {"retention", "unsigned"}

    def test_every_changed_byte_is_found(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        run(home, monkeypatch, calls=2, segment_bytes=2500)
        assert remove(home).segments
        keys = keys_of(home)
        path = thinned(home)[0]
        path.chmod(0o600)
        data = path.read_bytes()
        accepted = []
        with path.open("r+b", buffering=0) as file:
            for position in range(len(data)):
                os.pwrite(file.fileno(), bytes([data[position] ^ 1 << position % 8]), position)
                if verify(home, keys).ok:
                    accepted.append(position)
                os.pwrite(file.fileno(), data[position : position + 1], position)
            for length in range(0, len(data), 7):
                os.ftruncate(file.fileno(), length)
                if verify(home, keys).ok:
                    accepted.append(-length)
                os.pwrite(file.fileno(), data, 0)
        assert accepted == []
        assert verify(home, keys).ok

    def test_a_thinned_segment_gone_or_of_another_place(self, worked: Path) -> None:
        remove(worked)
        keys = keys_of(worked)
        first, second = thinned(worked)[:2]
        first.chmod(0o600)
        a, b = first.read_bytes(), second.read_bytes()
        first.write_bytes(b)
        assert not verify(worked, keys).ok
        first.write_bytes(a)
        second.unlink()
        assert not verify(worked, keys).ok
        with pytest.raises(InvalidInput):
            list(iter_records(worked))


def test_a_crash_at_any_step_loses_nothing(worked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole and thinned files side by side, with the record or without: the whole ones count."""
    before = list(iter_records(worked))

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for step in ("agentguard.ledger.Ledger.note", "pathlib.Path.unlink"):  # before the record, and behind it
        with monkeypatch.context() as patched:
            patched.setattr(step, crash)
            with pytest.raises(KeyboardInterrupt):
                remove(worked)
        assert len(thinned(worked)) > 2
        assert list(iter_records(worked))[: len(before)] == before
        assert kinds(worked) == ["foreign"]
    assert remove(worked).segments > 2
    assert kinds(worked) == ["removed"]
