"""Erasing values (erasure.py, settings.py): they are gone, the evidence is not, and who did it is recorded."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentguard import Denied, Guard
from agentguard.environment import Clock
from agentguard.erasure import erase_execution, erase_older, erase_task
from agentguard.errors import InvalidInput
from agentguard.evidence import commit
from agentguard.home import Home
from agentguard.ledger import Ledger
from agentguard.log import iter_records, verify
from agentguard.settings import Settings
from agentguard.store import SideStore

POLICY = """
agentguard: 1
name: erasure
agents:
  triage:
    tools: {pay: {pin: {regex: "[0-9]{4}"}, note: any}}
    delegates: {writer: {depth: 1}}
  writer:
    tools: {pay: {pin: any, note: any}}
"""
WORDS = "pay with the pin of the customer"


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[Guard]:
    with Guard.open(POLICY, home=tmp_path, durability="process") as opened:
        yield opened


def work(guard: Guard, pin: str) -> str:
    """A task with a call that ran, one that was refused, and a delegate's; its id."""

    @guard.tool
    def pay(pin: str, note: str) -> str:
        return f"paid with {note}"

    with guard.task("triage", initiator="user:alice", trusted_input=f"{WORDS} <{pin}>") as task:
        pay(pin=pin, note=f"<{pin}>")
        with pytest.raises(Denied):
            pay(pin="refused", note=f"<{pin}>")
        with task.delegate("writer"):
            pay(pin="delegate's", note=f"<{pin}>")
        return str(task.id)


def everything(home: Path) -> bytes:
    """Every byte of every file of a home."""
    return b"\n".join(path.read_bytes() for path in sorted(home.rglob("*")) if path.is_file())


def decisions(home: Path, task: str) -> list[dict[str, Any]]:
    found = [json.loads(record) for _, _, record in iter_records(home)]
    return [record for record in found if record["type"] == "decision" and record["task"] == task]


def guessed(home: Path, record: dict[str, Any]) -> str | None:
    """What somebody finds who has the whole home, knows the form of the arguments, and tries every pin."""
    salts = {item.salt for item in SideStore(home / "side").values()}
    for pin, salt in itertools.product((f"{number:04d}" for number in range(10_000)), salts):
        value = json.dumps({"note": f"<{pin}>", "pin": pin}, sort_keys=True, separators=(",", ":")).encode()
        if commit(salt, value) == record["arguments"]:
            return pin
    return None


def test_a_task_that_was_erased(guard: Guard) -> None:
    home = guard.home.path
    kept, gone = work(guard, "4711"), work(guard, "8256")
    guard.home.log.checkpoint()
    salts = [item.salt for item in guard.home.side.values() if item.execution in {one["id"] for one in decisions(home, gone)}]
    before = verify(home, guard.home.keys.log().public)
    secret = b"<8256>"
    assert secret in everything(home)
    assert guessed(home, decisions(home, gone)[0]) == "8256"
    found = erase_task(guard.home, guard._recording.ledger, gone, by="operator", reason="asked for")
    assert found.records == 5  # three decisions, two links
    assert found.values == 7  # arguments of three calls, two outputs, the reasons of a refusal, the initiator's words
    left = everything(home)
    assert secret not in left
    assert not any(salt in left for salt in salts)
    assert guessed(home, decisions(home, gone)[0]) is None
    assert guessed(home, decisions(home, kept)[0]) == "4711"
    assert b"<4711>" in left
    guard.home.log.checkpoint()
    after = verify(home, guard.home.keys.log().public)
    assert (before.findings, after.findings) == ((), ())
    assert after.records == before.records + 1
    last = json.loads(list(iter_records(home))[-1][2])
    assert (last["type"], last["by"]) == ("erasure", "operator")
    assert last["detail"] == {"reason": "asked for", "records": 5, "task": gone}


def test_again_and_other_tasks_go_on(guard: Guard) -> None:
    task = work(guard, "4711")
    ledger = guard._recording.ledger
    assert erase_task(guard.home, ledger, task, by="x").values
    assert erase_task(guard.home, ledger, task, by="x").values == 0
    assert work(guard, "1111")
    assert b"<1111>" in everything(guard.home.path)


def test_one_execution(guard: Guard) -> None:
    home = guard.home.path
    first, refused, delegates = decisions(home, work(guard, "4711"))
    found = erase_execution(guard.home, guard._recording.ledger, first["id"], by="x")
    assert (found.records, found.values) == (1, 2)  # arguments and output
    assert guard.home.side.get(first["id"]) == ()
    assert guard.home.side.get(refused["id"])
    assert guard.home.side.get(delegates["id"])


@pytest.mark.parametrize("name", ["", "nobody", "*"])
def test_what_is_not_in_the_log(guard: Guard, name: str) -> None:
    work(guard, "4711")
    ledger = guard._recording.ledger
    count = guard.home.log.size
    for erase in (erase_task, erase_execution):
        with pytest.raises(InvalidInput, match="no record in the log"):
            erase(guard.home, ledger, name, by="x")
    assert guard.home.log.size == count
    assert b"<4711>" in everything(guard.home.path)


def test_by_age(guard: Guard) -> None:
    work(guard, "4711")
    border = time.time_ns()
    work(guard, "8256")
    found = erase_older(guard.home, guard._recording.ledger, 60, border + 60 * 10**9, by="x")
    assert found.values == 7  # arguments of three calls, two outputs, the reasons of a refusal, the initiator's words
    left = everything(guard.home.path)
    assert b"<4711>" not in left
    assert b"<8256>" in left
    last = json.loads(list(iter_records(guard.home.path))[-1][2])
    assert last["detail"] == {"before": str(border), "reason": ""}


def test_an_index_that_hides_a_record_does_not_save_its_values(guard: Guard) -> None:
    """What is erased is looked up in the segments."""
    import sqlite3

    from agentguard.reading.index import Index

    task = work(guard, "8256")
    Index(guard.home.path).close()
    with sqlite3.connect(guard.home.path / "index.db", isolation_level=None) as database:
        database.execute("UPDATE record SET task = 'other'")
    database.close()
    (guard.home.path / "index.db").unlink()
    erase_task(guard.home, guard._recording.ledger, task, by="x")
    assert b"<8256>" not in everything(guard.home.path)


def test_no_value_goes_without_a_record(guard: Guard) -> None:
    task = work(guard, "4711")
    guard.home.log.poison("the test's disk is full")
    with pytest.raises(Exception, match="disk is full"):
        erase_task(guard.home, guard._recording.ledger, task, by="x")
    assert b"<4711>" in everything(guard.home.path)


def test_while_another_process_works(guard: Guard) -> None:
    """Somebody erases an old task in another process; the one that runs keeps what it keeps, and its files stay whole."""
    import os

    old = work(guard, "4711")
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with Home(guard.home.path, durability="process") as home:
                erase_task(home, Ledger(home, Clock()), old, by="x")
            code = 0
        finally:
            os._exit(code)
    young = [work(guard, f"{number:04d}") for number in range(1000, 1015)]
    assert os.waitpid(pid, 0)[1] == 0
    assert b"<4711>" not in everything(guard.home.path)
    for task in young:
        assert all(guard.home.side.get(record["id"]) for record in decisions(guard.home.path, task))
    guard.home.log.checkpoint()
    assert verify(guard.home.path, guard.home.keys.log().public).ok


class TestSettings:
    def put(self, home: Path, text: str) -> Path:
        home.mkdir(exist_ok=True)
        (home / "settings.json").write_text(text)
        return home

    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("{}", 90 * 86_400),
            ('{"keep_values": "30d"}', 30 * 86_400),
            ('{"keep_values": "none"}', 0),
            ('{"keep_values": "forever"}', None),
        ],
    )
    def test_how_long(self, tmp_path: Path, text: str, seconds: int | None) -> None:
        assert Settings.load(self.put(tmp_path, text)).seconds() == seconds
        assert Settings.load(tmp_path / "nowhere").seconds() == 90 * 86_400

    @pytest.mark.parametrize(
        "text",
        ["", "[]", '{"keep_value": "1d"}', '{"keep_values": ""}', '{"keep_values": "0d"}', '{"keep_values": "-1d"}',
         '{"keep_values": null}', '{"keep_values": 0}', '{"keep_values": ["none"]}', '{"keep_values": "None"}',
         '{"keep_values": "none", "keep_values": "1d"}'],
    )  # fmt: skip
    def test_what_cannot_be_read_is_not_taken_for_a_default(self, tmp_path: Path, text: str) -> None:
        with pytest.raises(InvalidInput, match=r"settings\.json"):
            Home(self.put(tmp_path, text))

    def test_the_off_switch(self, tmp_path: Path) -> None:
        self.put(tmp_path, '{"keep_values": "none"}')
        with Guard.open(POLICY, home=tmp_path, durability="process") as guard:
            task = work(guard, "8256")
            assert decisions(tmp_path, task)[0]["arguments"].startswith("sha256:")
            assert guessed(tmp_path, decisions(tmp_path, task)[0]) is None
        assert b"<8256>" not in everything(tmp_path)
        assert verify(tmp_path, guard.home.keys.log().public).findings == ()
        opened = json.loads(next(iter(iter_records(tmp_path)))[2])
        assert opened["detail"]["keep_values"] == "none"

    def test_what_was_kept_before_stays_until_it_is_erased(self, tmp_path: Path) -> None:
        with Guard.open(POLICY, home=tmp_path, durability="process") as guard:
            work(guard, "4711")
        self.put(tmp_path, '{"keep_values": "none"}')
        with Home(tmp_path, durability="process") as home:
            assert b"<4711>" in everything(tmp_path)
            erase_older(home, Ledger(home, Clock()), 0, time.time_ns() + 1, by="x")
        assert b"<4711>" not in everything(tmp_path)
