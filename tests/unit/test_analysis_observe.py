"""Observation: what unmodified tools were called with, as a guard would see it, and no change to the program that is watched."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from agentguard.analysis.observe import UnsafeObservation, observing
from agentguard.analysis.trace import from_lines
from agentguard.errors import InvalidInput


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "trace.jsonl"


def lines(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def send(to: str, body: str = "Hi", *more: str) -> str:
    if to == "bad":
        raise ValueError(to)
    return f"{to}:{body}"


async def fetch(url: str) -> str:
    await asyncio.sleep(0)
    if url == "bad":
        raise ValueError(url)
    return url


def test_calls_that_end_well_are_written_as_a_guard_would_judge_them(file: Path) -> None:
    with observing(file, agent="triage") as watch:
        seen = watch.observed(send)
        assert seen("ann") == "ann:Hi"
        assert seen(to="bob", body="x") == "bob:x"
        with pytest.raises(ValueError):
            seen("bad")
        with pytest.raises(TypeError):
            seen()
        other = watch.observed(send, name="mail", agent="lead")
        other("eve", "y", "z")
        assert file.read_text().count("\n") == 3  # each at once
    assert lines(file) == [
        {"agent": "triage", "tool": "send", "arguments": {"to": "ann", "body": "Hi"}, "verdict": "allow"},
        {"agent": "triage", "tool": "send", "arguments": {"to": "bob", "body": "x"}, "verdict": "allow"},
        {"agent": "lead", "tool": "mail", "arguments": {"to": "eve", "body": "y", "more": ["z"]}, "verdict": "allow"},
    ]
    assert file.stat().st_mode & 0o777 == 0o600
    assert seen("late") == "late:Hi"  # and is not recorded any more
    assert len(lines(file)) == watch.recorded == 3


async def test_async_tools(file: Path) -> None:
    with observing(file, agent="a") as watch:
        seen, partial = watch.observed(fetch), watch.observed(functools.partial(fetch), name="partial")
        plain = watch.observed(lambda url: fetch(url), name="plain")  # gives an awaitable, and does not say so
        assert await asyncio.gather(seen("x"), partial("y"), plain("z")) == ["x", "y", "z"]
        for tool in (seen, partial, plain):
            with pytest.raises(ValueError):
                await tool("bad")
        never = seen("never")
        never.close()
    assert sorted(line["arguments"]["url"] for line in lines(file)) == ["x", "y", "z"]


def test_arguments_are_those_from_before_the_call(file: Path) -> None:
    def empty(items: list[str]) -> None:
        items.clear()

    given = ["a"]
    with observing(file, agent="a") as watch:
        watch.observed(empty)(given)
    assert given == []  # the tool got the very object, as without observation
    assert lines(file)[0]["arguments"] == {"items": ["a"]}


def test_what_is_not_json_is_counted_and_runs(file: Path) -> None:
    def take(x: Any) -> Any:
        return x

    thing = object()
    with observing(file, agent="a") as watch:
        assert watch.observed(take)(thing) is thing
        assert watch.observed(take)(float("nan")) != 0
        assert watch.unfit == 2
    assert lines(file) == []


def test_a_full_disk_does_not_stop_the_program(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: Any) -> int:
        raise OSError(28, "No space left on device")

    with observing(file, agent="a") as watch:
        seen = watch.observed(send)
        monkeypatch.setattr("agentguard.analysis.observe.os.write", full)
        assert seen("ann") == "ann:Hi"
        assert (watch.recorded, watch.lost) == (0, 1)


def test_many_threads_write_whole_lines(file: Path) -> None:
    with observing(file, agent="a") as watch:
        seen = watch.observed(send)
        threads = [threading.Thread(target=lambda: [seen("x" * 500, str(n)) for n in range(50)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(lines(file)) == 400


def test_the_file_is_appended_to_and_a_torn_line_is_ended(file: Path) -> None:
    for _ in range(2):
        with observing(file, agent="a") as watch:
            watch.observed(send)("ann")
    assert len(lines(file)) == 2
    with file.open("a") as torn:
        torn.write('{"agent": "a", "to')
    with observing(file, agent="a") as watch:
        watch.observed(send)("bob")
    assert json.loads(file.read_text().splitlines()[-1])["arguments"]["to"] == "bob"
    with pytest.raises(InvalidInput, match=r"trace\.jsonl:3"):
        list(from_lines(file))


def test_files_that_are_refused(tmp_path: Path, file: Path) -> None:
    file.touch()
    for mode in (0o644, 0o640, 0o620, 0o602):
        file.chmod(mode)
        with pytest.raises(InvalidInput, match="others may read"):
            observing(file, agent="a")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("link", "pipe", ".", "none/here"):
        with pytest.raises(InvalidInput, match=r"cannot be written|not a regular file"):
            observing(tmp_path / name, agent="a")
    assert not (tmp_path / "target").exists()


def test_what_cannot_be_observed(file: Path) -> None:
    def numbers() -> Any:
        yield 1

    with pytest.raises(InvalidInput, match="agent name"):
        observing(file, agent="a b")
    with observing(file, agent="a") as watch:
        with pytest.raises(InvalidInput, match="is a generator"):
            watch.observed(numbers)
        with pytest.raises(InvalidInput, match="tool name"):
            watch.observed(send, name="a\nb")
        with pytest.raises(InvalidInput, match="cannot be observed"):
            watch.watch([object()])


def test_it_says_that_it_is_unsafe(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with observing(file, agent="a") as watch:
        assert type(watch) is UnsafeObservation
    shown = capfd.readouterr()
    assert "UNSAFE observation: calls are recorded and nothing is guarded" in shown.out + shown.err
