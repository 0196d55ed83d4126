"""The query index (reading/index.py): follows the log, is rebuilt when it does not fit, and cannot make records up."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from agentguard.errors import InvalidInput
from agentguard.log.thin import thin_segment
from agentguard.reading.index import Index
from support.logs import START_NS, canonical, decision, open_log, outcome


def ids(rows: object) -> list[str | None]:
    return [row.id for row in rows]  # type: ignore[attr-defined]  # rows of the index


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Two shards, two tasks; e3 of task-2 was caused by e1 of task-1."""
    with open_log(tmp_path, segment_bytes=900) as first, open_log(tmp_path) as second:
        first.append(
            canonical(agent="triage", artifact="aa", caused_by=None, id="d1", task="task-1", time=str(START_NS), type="delegation")
        )
        first.append(
            decision("e1", time=str(START_NS + 10)), decision("e2", verdict="deny", code="tool_not_allowed", time=str(START_NS + 20))
        )
        second.append(decision("e3", task="task-2", caused_by="e1", time=str(START_NS + 15)))
        second.append(outcome("e3", task="task-2", time=str(START_NS + 16)))
        first.append(outcome("e1", time=str(START_NS + 30)))
        first.append(canonical(id="k", time="soon", type="key"), b"not json")
        for number in range(20):
            first.append(decision(f"x{number}", task="task-3", time=str(START_NS + 100 + number)))
    return tmp_path


def test_queries(home: Path) -> None:
    with Index(home) as index:
        assert index.tasks() == ("task-3", "task-2", "task-1")
        assert ids(index.task("task-1")) == ["d1", "e1", "e2", "e1-end"]
        assert [(row.type, row.verdict, row.code, row.agent, row.tool) for row in index.execution("e2")] == [
            ("decision", "deny", "tool_not_allowed", "triage", "search")
        ]
        assert ids(index.execution("e1")) == ["e1", "e1-end"]
        assert ids(index.children("e1")) == ["e3"]
        assert index.task("nobody") == index.execution("nobody") == index.children("nobody") == ()
        assert index.task("task-1")[0].artifact == "aa"


def test_related_follows_causes_across_tasks(home: Path) -> None:
    with Index(home) as index:
        everything = ["d1", "e1", "e3", "e3-end", "e2", "e1-end"]
        for identity in ("task-1", "task-2", "e1", "e3"):
            assert ids(index.related(identity)) == everything
        assert index.related("nobody") == ()
        assert [record["id"] for record in index.records(index.related("task-2"))] == everything


def test_a_refused_call_without_a_task_is_related_to_itself(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        log.append(decision("e1", task=None, verdict="deny"))  # type: ignore[arg-type]  # a record may hold null there
    with Index(tmp_path) as index:
        assert ids(index.related("e1")) == ["e1"]


def test_it_follows_the_log(home: Path) -> None:
    with Index(home) as index, open_log(home) as log:
        assert index.refresh() == 0
        log.append(decision("e9", task="task-9"))
        log.append(outcome("e9", task="task-9"))
        assert index.refresh() == 2
        assert ids(index.task("task-9")) == ["e9", "e9-end"]
        assert index.refresh() == 0
    with Index(home) as index:
        assert ids(index.task("task-9")) == ["e9", "e9-end"]
        assert index.rebuild() == 30
        assert ids(index.task("task-9")) == ["e9", "e9-end"]


@pytest.mark.parametrize("damage", [b"", b"SQLite format 3\0 and then rubbish" * 100, b"x" * 5000])
def test_a_damaged_index_is_rebuilt(home: Path, damage: bytes) -> None:
    Index(home).close()
    (home / "index.db").write_bytes(damage)
    with Index(home) as index:
        assert ids(index.task("task-1")) == ["d1", "e1", "e2", "e1-end"]


@pytest.mark.parametrize(
    "tamper",
    [
        "DELETE FROM record WHERE id = 'e2'",
        "UPDATE progress SET size = size - 1",
        "UPDATE progress SET digest = 'x'",
        "UPDATE progress SET end = end + 1",
        "UPDATE progress SET end = end - 60",
        "UPDATE progress SET end = 0",
        "UPDATE progress SET before = 'x'",
        "UPDATE progress SET size = 'x', offset = 'y'",
        "UPDATE progress SET segment = '00000000000000000009.seg'",
        "UPDATE progress SET segment = '../../keys/log.pem'",
        "INSERT INTO progress VALUES ('0000000000000000', 1, 'x', 0, 0, 'x', '')",
        "PRAGMA user_version = 99",
        "DROP TABLE progress",
    ],
)
def test_an_index_that_does_not_fit_the_log_is_rebuilt(home: Path, tamper: str) -> None:
    Index(home).close()
    with sqlite3.connect(home / "index.db", isolation_level=None) as database:
        database.execute(tamper)
    database.close()
    with open_log(home) as first, open_log(home) as second:  # so that there is something to go on from
        first.append(decision("after", task="task-9"))
        second.append(outcome("after", task="task-9"))
    with Index(home) as index:
        assert ids(index.task("task-1")) == ["d1", "e1", "e2", "e1-end"]
        assert sorted(row.id or "" for row in index.task("task-9")) == ["after", "after-end"]
        assert index.check() == 0


def test_a_log_that_was_replaced_is_indexed_anew(home: Path, tmp_path: Path) -> None:
    Index(home).close()
    other = tmp_path / "other"
    with open_log(other) as log:
        log.append(decision("other"))
    (home / "index.db").rename(other / "index.db")
    with Index(other) as index:
        assert index.tasks() == ("task-1",)
        assert ids(index.task("task-1")) == ["other"]


@pytest.mark.parametrize(
    "lie",
    [
        "UPDATE record SET verdict = 'allow' WHERE id = 'e2'",
        "UPDATE record SET task = 'task-1' WHERE id = 'e3'",
        "UPDATE record SET agent = 'somebody' WHERE id = 'e1'",
        "UPDATE record SET id = 'e77', execution = 'e77' WHERE id = 'e2'",
    ],
)
def test_an_index_that_lies_is_caught(home: Path, lie: str) -> None:
    """What it says of a record is compared with the record. An index can hide, but it cannot make up."""
    Index(home).close()
    with sqlite3.connect(home / "index.db", isolation_level=None) as database:
        assert database.execute(lie).rowcount == 1
    database.close()
    with Index(home) as index, pytest.raises(InvalidInput, match="the index says something else than record"):
        list(index.records(index.task("task-1")))


@pytest.mark.parametrize(
    ("lie", "rows"),
    [
        ("UPDATE record SET task = 'task-7' WHERE id = 'e2'", 1),
        ("UPDATE record SET agent = NULL, time = 0 WHERE task = 'task-3'", 20),
        ("UPDATE record SET number = number + 100 WHERE id = 'x19'", 2),
        ("UPDATE record SET offset = offset + 1 WHERE id = 'e3'", 1),
        ("UPDATE record SET shard = '0000000000000000' WHERE id = 'e3'", 2),
    ],
)
def test_an_index_that_hides_is_found_by_looking(home: Path, lie: str, rows: int) -> None:
    Index(home).close()
    with sqlite3.connect(home / "index.db", isolation_level=None) as database:
        database.execute(lie)
    database.close()
    with Index(home) as index:
        assert index.check() == rows
        index.rebuild()
        assert index.check() == 0


def test_records_that_retention_took_out_leave_the_index(home: Path) -> None:
    Index(home).close()
    finished = next(path for path in sorted((home / "log").glob("*/*.seg")) if len(list(path.parent.glob("*.seg"))) > 1)
    thin_segment(finished, lambda record: b'"e2"' in record)
    finished.unlink()
    with Index(home) as index:
        assert (index.size, index.check()) == (28, 0)
        assert ids(index.task("task-1"))[0] == "e2"
        assert "e1" not in ids(index.task("task-1"))
        assert [record["id"] for record in index.records(index.execution("e2"))] == ["e2"]
    with Index(home) as index:
        assert index.refresh() == 0


def test_a_rebuild_that_was_killed_goes_on(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentguard.reading.index._BATCH", 2)
    monkeypatch.setattr("agentguard.log.scan._CHUNK", 300)
    told: list[int] = []

    def killed(records: int, done: int, of: int) -> None:
        assert 0 < done <= of
        told.append(records)
        if records >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Index(home, killed)
    with Index(home) as index:
        assert index.refresh() == 0
        assert (index.size, index.check()) == (28, 0)
        assert told == sorted(told)


def test_many_processes_bring_it_up_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a writer appends: nobody waits for long, nobody adds a record twice, and nobody misses one."""
    monkeypatch.setattr("agentguard.reading.index._BATCH", 50)
    children = []
    with open_log(tmp_path) as log:
        log.append(decision("first"))
        for _ in range(4):
            if (pid := os.fork()) == 0:
                code = 1
                try:
                    with Index(tmp_path) as index:
                        for _ in range(15):
                            index.refresh()
                    code = 0
                finally:
                    os._exit(code)
            children.append(pid)
        for number in range(1500):
            log.append(decision(f"e{number}"))
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4
    with Index(tmp_path) as index:
        assert (index.size, index.check()) == (1501, 0)


def test_a_wrong_place_is_only_slower(home: Path) -> None:
    Index(home).close()
    with sqlite3.connect(home / "index.db", isolation_level=None) as database:
        database.execute("UPDATE record SET offset = offset + 1, segment = 'elsewhere' WHERE task = 'task-2'")
    database.close()
    with Index(home) as index:
        assert [record["id"] for record in index.records(index.task("task-2"))] == ["e3", "e3-end"]


def test_a_damaged_log_is_not_indexed(home: Path) -> None:
    segment = sorted((home / "log").glob("*/*.seg"))[0]
    data = segment.read_bytes()
    segment.write_bytes(data[:100] + b"X" + data[101:])
    with pytest.raises(InvalidInput, match="checksum"):
        Index(home)


def test_its_files_are_private(home: Path) -> None:
    before = os.umask(0)
    try:
        with Index(home):
            files = list(home.glob("index.db*"))
            assert len(files) >= 2
            assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    finally:
        os.umask(before)


def test_an_index_that_cannot_be_written(home: Path) -> None:
    (home / "index.db").mkdir()
    with pytest.raises(InvalidInput, match=r"index\.db.*may be deleted"):
        Index(home)


def test_more_records_than_one_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentguard.reading.index._BATCH", 300)
    with open_log(tmp_path) as log:
        for number in range(200):
            log.append(*[decision(f"e{number}-{at}") for at in range(5)])
    with Index(tmp_path) as index:
        assert len(index.task("task-1")) == 1000
