"""What `verify` says of logs that nobody attacked: live, crashed, half made; and of what records say (log/verify.py, log/records.py)."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from agentguard.errors import InvalidInput
from agentguard.keys import LocalKey
from agentguard.log import Durability, Log, iter_records, verify
from agentguard.log.records import read_record_members
from support.logs import KEY, START_NS, Ticking, canonical, decision, files_of, fresh, open_log, outcome, small

BOTH: tuple[Durability, ...] = ("fsync", "process")


def kinds(home: Path) -> list[tuple[str, str]]:
    return sorted((finding.severity, finding.kind) for finding in verify(home, KEY.public).findings)


def crash(home: Path, durability: Durability, *appends: tuple[bytes, ...], tail: bytes = b"") -> None:
    """A process that appends and dies without closing."""
    pid = os.fork()
    if pid == 0:
        log = open_log(home, durability)
        for records in appends:
            log.append(*records)
        if tail:
            os.write(log._writer._descriptor, tail)
        os._exit(0)
    os.waitpid(pid, 0)


@pytest.mark.parametrize("durability", BOTH)
class TestStates:
    def test_an_empty_log(self, tmp_path: Path, durability: Durability) -> None:
        open_log(tmp_path, durability).close()
        report = verify(tmp_path, KEY.public)
        assert (report.ok, report.findings, report.records) == (True, (), 0)

    def test_a_live_log_is_verified_up_to_its_last_commit(self, tmp_path: Path, durability: Durability) -> None:
        with open_log(tmp_path, durability) as log:
            log.append(small(0))
            os.write(log._writer._descriptor, b"\xffaR\x01")  # an append that is under way
            report = verify(tmp_path, KEY.public)
            assert report.findings == ()
            assert report.shards[0].live
            assert report.records == 1
            log.poison("the test wrote into the file")
        assert ("warning", "tail") in kinds(tmp_path)

    def test_a_crash_leaves_warnings_and_the_next_writer_mends_them(self, tmp_path: Path, durability: Durability) -> None:
        crash(tmp_path, durability, (small(0),), (small(1), small(2)), tail=b"\xffaR\x01\x00")
        found = kinds(tmp_path)
        assert found == ([("warning", "tail")] if durability == "fsync" else [("warning", "tail"), ("warning", "unsigned")])
        with open_log(tmp_path, durability) as log:
            assert log.size == 3
        assert kinds(tmp_path) == []

    def test_a_shard_that_was_listed_but_never_begun(self, tmp_path: Path, durability: Durability) -> None:
        with open_log(tmp_path, durability) as log:
            shard = log.shard
        (tmp_path / "heads" / shard).unlink()
        (tmp_path / "log" / shard / f"{0:020d}.seg").unlink()
        assert kinds(tmp_path) == [("warning", "shard")]
        with open_log(tmp_path, durability) as log:
            assert log.shard == shard
        assert kinds(tmp_path) == []

    def test_a_shard_whose_first_segment_was_never_made(self, tmp_path: Path, durability: Durability) -> None:
        crash(tmp_path, durability)
        (path,) = (tmp_path / "log").glob("*/*.seg")
        path.unlink()
        assert kinds(tmp_path) == []
        with open_log(tmp_path, durability) as log:
            assert log.append(small(0)) == 0
        assert kinds(tmp_path) == []

    def test_a_shard_that_was_begun_but_not_listed_is_taken_over(self, tmp_path: Path, durability: Durability) -> None:
        (tmp_path / "log" / ("ab" * 8)).mkdir(parents=True)
        with open_log(tmp_path, durability) as log:
            assert log.shard == "ab" * 8
            log.append(small(0))
        assert kinds(tmp_path) == []

    @pytest.mark.parametrize("length", [0, 1, 20])
    def test_a_segment_whose_first_frame_never_finished(self, tmp_path: Path, durability: Durability, length: int) -> None:
        with open_log(tmp_path, durability, segment_bytes=600) as log:
            for number in range(9):
                log.append(small(number))
            files = sorted((tmp_path / "log" / log.shard).glob("*.seg"))
            log.poison("the test plays a crash right after the file was made")
        first = 9
        (files[0].parent / f"{first:020d}.seg").write_bytes(files[1].read_bytes()[:length])
        found = kinds(tmp_path)
        assert ("warning", "tail") in found
        assert not [item for item in found if item[0] == "error"]
        with open_log(tmp_path, durability, segment_bytes=600) as log:
            assert log.append(small(9)) == 9
        assert kinds(tmp_path) == []

    def test_the_clock_was_set_back(self, tmp_path: Path, durability: Durability) -> None:
        Log.open(tmp_path, KEY, durability=durability).close()
        with Log.open(tmp_path, KEY, durability=durability, clock=Ticking(START_NS)) as log:
            log.append(small(0))
        assert not kinds(tmp_path)  # what is signed is never older than what was signed before
        with Log.open(tmp_path, KEY, durability=durability, clock=Ticking(START_NS)) as log:
            log.accept_clock()
            log.append(small(1))
        assert set(kinds(tmp_path)) == {("warning", "clock")}

    def test_the_report_as_json(self, tmp_path: Path, durability: Durability) -> None:
        with open_log(tmp_path, durability) as log:
            log.append(b"rubbish")
        report = json.loads(json.dumps(verify(tmp_path, KEY.public).to_json()))
        assert (report["ok"], report["records"]) == (False, 1)
        assert report["shards"][0]["origin"] == log.origin
        assert report["findings"][0]["kind"] == "record"
        assert report["findings"][0]["offset"] == 37


def test_shards_that_are_added_opened_and_closed_meanwhile_raise_no_alarm(tmp_path: Path) -> None:
    children = []
    for number in range(6):
        pid = os.fork()
        if pid == 0:
            try:
                for round_ in range(4):
                    with open_log(tmp_path, BOTH[number % 2], segment_bytes=2500) as log:
                        for at in range(25):
                            log.append(small(number * 10_000 + round_ * 100 + at))
            except BaseException:
                os._exit(1)
            os._exit(0)
        children.append(pid)
    while not (tmp_path / "log" / "manifest").exists():
        time.sleep(0.001)
    while children:
        assert verify(tmp_path, KEY.public).findings == ()
        for pid in list(children):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                assert status == 0
                children.remove(pid)
    report = verify(tmp_path, KEY.public)
    assert (report.findings, report.records) == ((), 600)


@pytest.mark.parametrize("what", ["link", "pipe", "directory"])
def test_a_segment_that_is_no_file(tmp_path: Path, what: str) -> None:
    with open_log(tmp_path) as log:
        log.append(small(0))
    (path,) = (tmp_path / "log").glob("*/*.seg")
    path.rename(tmp_path / "aside")
    if what == "link":
        path.symlink_to(tmp_path / "aside")
    elif what == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(InvalidInput, match=r"regular file|cannot be read"):
        list(iter_records(tmp_path))
    report = verify(tmp_path, KEY.public)
    assert not report.ok
    with pytest.raises(InvalidInput):
        open_log(tmp_path)


class TestRecords:
    def write(self, home: Path, *records: bytes) -> list[tuple[str, str]]:
        with open_log(home) as log:
            for record in records:
                log.append(record)
        return kinds(home)

    def test_calls_with_outcomes(self, tmp_path: Path) -> None:
        assert self.write(tmp_path, decision("a"), decision("b", verdict="deny"), outcome("a")) == []

    def test_a_call_without_an_outcome_is_unknown(self, tmp_path: Path) -> None:
        assert self.write(tmp_path, decision("a"), decision("b"), outcome("b")) == [("warning", "unknown")]
        report = verify(tmp_path, KEY.public)
        assert report.ok
        assert "execution a was allowed" in report.findings[0].message
        assert report.findings[0].offset == 37

    def test_an_outcome_may_be_in_another_shard(self, tmp_path: Path) -> None:
        with open_log(tmp_path) as first, open_log(tmp_path) as second:
            first.append(decision("a"))
            second.append(outcome("a"))
            second.append(decision("b"))
            first.append(outcome("b"))
        assert kinds(tmp_path) == []

    def test_an_outcome_without_a_decision(self, tmp_path: Path) -> None:
        assert self.write(tmp_path, outcome("a")) == [("warning", "orphan")]

    def test_two_outcomes_and_outcomes_of_refused_calls(self, tmp_path: Path) -> None:
        assert self.write(tmp_path, decision("a"), outcome("a"), outcome("a", id="again")) == [("error", "duplicate")]
        assert self.write(tmp_path, decision("d", verdict="deny"), outcome("d")) == [("error", "duplicate")] * 2

    def test_an_execution_that_stands_twice(self, tmp_path: Path) -> None:
        with open_log(tmp_path) as first, open_log(tmp_path) as second:
            first.append(decision("a"))
            first.append(outcome("a"))
            second.append(decision("b", verdict="deny"))
            second.append(decision("a", verdict="deny"))
        report = verify(tmp_path, KEY.public)
        assert [(finding.severity, finding.kind) for finding in report.findings] == [("error", "duplicate")]
        assert "the id a stands at" in report.findings[0].message

    @pytest.mark.parametrize(
        ("record", "problem"),
        [
            (b'{"id":"a"', "not JSON"),
            (b'{"id": "a"}', "not canonical"),
            (b'{"id":"a","id":"b"}', "stands twice"),
            (b'{"b":1,"a":1}', "not canonical"),
            (b'{"a":1.0}', "no integer"),
            (b'{"a":1e3}', "no integer"),
            (b'{"a":9007199254740992}', "no integer"),
            (b'{"a":{"b":[-9007199254740993]}}', "no integer"),
            (b'{"a":NaN}', "not JSON"),
            (b'{"\xc3\xa9":1}', "not ASCII"),
            (b'{"a":"\xff"}', "UTF-8"),
            (b'{"a":"\\u0041"}', "not canonical"),
            (b'["a"]', "not an object"),
            (b"7", "not an object"),
            (b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}", "nested too deeply"),
        ],
    )
    def test_records_that_are_not_canonical(self, tmp_path: Path, record: bytes, problem: str) -> None:
        assert self.write(tmp_path, record) == [("error", "record")]
        assert problem in verify(tmp_path, KEY.public).findings[0].message

    @pytest.mark.parametrize(
        "members",
        [
            {"a": None, "b": True, "c": [1, {"x": -5}]},
            {"name": "Zoë \u007f \u2028 \x1f"},
            {"time": str(2**80)},
            {"n": 9007199254740991},
            {},
        ],
    )
    def test_records_that_are(self, members: dict[str, object]) -> None:
        assert read_record_members(canonical(**members)) == members

    def test_the_fast_way_accepts_nothing_that_the_strict_one_refuses(self) -> None:
        for text in (
            b'{"a":1.0}',
            b'{"a":1e400}',
            b'{"a":-0}',
            b'{"a":9007199254740992}',
            b'{"a":1}\n',
            b'{"a":"\\/"}',
            b'{"a":"\\u001F"}',
        ):
            with pytest.raises(InvalidInput):
                read_record_members(text)


def test_another_key_believes_nothing(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        log.append(small(0))
    report = verify(tmp_path, LocalKey.generate().public)
    assert not report.ok
    assert {finding.kind for finding in report.findings} >= {"head", "manifest", "signature"}


def test_files_that_do_not_belong(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        log.append(small(0))
    (tmp_path / "log" / log.shard / "notes.txt").write_text("x")
    assert kinds(tmp_path) == [("warning", "foreign")]


def test_memory_does_not_grow_with_the_log(tmp_path: Path) -> None:
    """Frames are streamed: ten times the bytes, the same peak."""
    import tracemalloc

    def peak(home: Path, appends: int) -> int:
        with open_log(home) as log:
            for number in range(appends):
                log.append(*[canonical(id=f"{number}-{at}", x="x" * 2000) for at in range(20)])
        tracemalloc.start()
        assert verify(home, KEY.public).findings == ()
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    few, many = peak(tmp_path / "few", 50), peak(tmp_path / "many", 500)  # 2 MB, 20 MB
    assert many < few + 1_000_000


def test_every_file_of_evidence_is_known_to_these_tests(tmp_path: Path) -> None:
    records = fresh()
    with open_log(tmp_path) as first, open_log(tmp_path, segment_bytes=500) as second:
        for _ in range(10):
            first.append(next(records))
            second.append(next(records))
    present = {path for path in tmp_path.rglob("*") if path.is_file() and not path.name.endswith("lock")}
    assert set(files_of(tmp_path)) == present
