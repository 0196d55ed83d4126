"""The log in the forms of other tools (exports/): what they require is there, what the log says is in it, and no value is."""

from __future__ import annotations

import csv
import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from agentguard import Denied, Guard
from agentguard.errors import InvalidInput
from agentguard.exports import COLUMNS, calls, events, provenance, records, rows, write_csv, write_parquet
from agentguard.exports.ocsf import event_of
from agentguard.log.merkle import leaf_hash
from agentguard.reading.queries import Filter
from agentguard.reading.records import read_lineage
from support.logs import canonical, decision, open_log, outcome
from support.ocsf import DISPOSITIONS, problems

SECRET = "s3cr3t-value"
POLICY = """
agentguard: 1
name: exports
agents:
  triage:
    tools: {echo: {x: any}, fail: {x: any}, mail: {to: {one_of: [bob]}}}
    delegates: {writer: {depth: 1}}
  writer:
    tools: {echo: {x: any}}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A guard's home: calls that ran, failed, and were refused, a delegate."""
    home = tmp_path_factory.mktemp("exports")
    with Guard.open(POLICY, home=home, durability="process") as guard:

        @guard.tool
        def echo(x: Any) -> Any:
            return x

        @guard.tool
        def fail(x: Any) -> Any:
            raise OSError(x)

        @guard.tool
        def mail(to: str) -> None: ...

        with guard.task("triage", initiator="user:alice", trusted_input=SECRET) as task:
            echo(x=SECRET)
            with pytest.raises(OSError, match=SECRET):
                fail(x=SECRET)
            with pytest.raises(Denied):
                mail(to=SECRET)
            with task.delegate("writer"):
                echo(x=2)
        with pytest.raises(Denied):
            echo(x=3)
    return home


def task_of(home: Path) -> str:
    return next(entry.record["task"] for entry in records(home, Filter(type="delegation")))


class TestOcsf:
    def test_every_event_is_what_the_schema_wants(self, home: Path) -> None:
        found = list(events(home))
        assert [problems(event) for event in found] == [[]] * 5
        assert json.loads(json.dumps(found)) == found

    def test_what_became_of_a_call(self, home: Path) -> None:
        said = [
            (event["api"]["operation"], event["action"], event["disposition"], event["status"], event["status_code"], event["severity"])
            for event in events(home)
        ]
        assert said == [
            ("echo", "Allowed", "Allowed", "Success", "ok", "Informational"),
            ("fail", "Allowed", "Allowed", "Failure", "error", "Low"),
            ("mail", "Denied", "Blocked", "Failure", "argument_not_allowed", "Medium"),
            ("echo", "Allowed", "Allowed", "Success", "ok", "Informational"),
            ("echo", "Denied", "Blocked", "Failure", "artifact_missing", "Medium"),
        ]

    def test_who_it_was_and_where_it_stands(self, home: Path) -> None:
        by_id = {entry.record["id"]: entry for entry in records(home)}
        first = next(events(home))
        entry = by_id[first["metadata"]["uid"]]
        assert first["actor"]["user"]["uid"] == "user:alice"
        assert "idp" not in first["actor"]  # nobody stands for what was only asserted
        assert first["actor"]["app_name"] == first["src_endpoint"]["name"] == "triage"
        assert first["metadata"]["original_event_uid"] == f"{entry.shard}/{entry.number}"
        assert first["unmapped"]["agentguard"]["leaf"] == leaf_hash(entry.data).hex()
        assert first["unmapped"]["agentguard"]["arguments"] == entry.record["arguments"]
        assert first["time"] == int(entry.record["time"]) // 10**6

    @pytest.mark.parametrize(
        ("members", "ending", "said"),
        [
            ({}, None, (1, 1, 0, 2)),
            ({}, {"status": "cancelled"}, (1, 1, 99, 1)),
            ({"verdict": "ask", "code": "approval_required"}, None, (2, 23, 2, 2)),
            ({"verdict": "deny", "code": "replay_detected"}, None, (2, 2, 2, 4)),
            ({"verdict": "deny", "code": "tool_not_allowed", "enforced": False}, {"status": "ok"}, (3, 15, 1, 3)),
            ({"initiator": {"id": "a", "method": "oidc", "evidence": "x"}}, {"status": "ok"}, (1, 1, 1, 1)),
            ({"agent": None, "tool": None, "time": "soon", "initiator": 5, "policy": None}, {"status": None}, (1, 1, 0, 1)),
        ],
    )
    def test_records_of_every_kind(self, tmp_path: Path, members: dict[str, Any], ending: dict[str, Any] | None, said: tuple[int]) -> None:
        with open_log(tmp_path) as log:
            log.append(decision("e", **members))
            if ending is not None:
                log.append(outcome("e", **ending))
        (event,) = events(tmp_path)
        assert (event["action_id"], event["disposition_id"], event["status_id"], event["severity_id"]) == said
        assert event["is_alert"] is (said[3] == 4)
        assert DISPOSITIONS[event["disposition_id"]] == event["disposition"]
        wrong = [problem for problem in problems(event) if "time is not" not in problem or members.get("time") != "soon"]
        assert wrong == []

    def test_the_checker_finds_faults(self, home: Path) -> None:
        for spoil in (
            lambda event: event.pop("actor"), lambda event: event.pop("src_endpoint"), lambda event: event.update(action_id=77),
            lambda event: event.update(status="Fine"), lambda event: event.update(extra=1), lambda event: event["api"].pop("operation"),
            lambda event: event["actor"].clear(), lambda event: event.update(time=str(event["time"])),
            lambda event: event.update(type_uid=1),
        ):  # fmt: skip
            event = next(events(home))
            spoil(event)  # type: ignore[no-untyped-call]  # lambdas
            assert problems(event), event


class TestCalls:
    def test_an_outcome_may_stand_in_another_shard_and_before_its_decision(self, tmp_path: Path) -> None:
        with open_log(tmp_path) as first, open_log(tmp_path) as second:
            for one, other, name in ((first, second, "a"), (second, first, "b")):
                one.append(decision(name))
                other.append(outcome(name))
            first.append(decision("c"), decision("d", verdict="deny"), decision("s", verdict="deny", enforced=False), outcome("s"))
        found = {call.decision.record["id"]: call.outcome for call in calls(tmp_path)}
        assert {name: end is not None for name, end in found.items()} == {"a": True, "b": True, "c": False, "d": False, "s": True}

    def test_what_fits_is_judged_by_the_decision(self, home: Path) -> None:
        assert [call.decision.record["tool"] for call in calls(home, Filter(agent="writer"))] == ["echo"]
        assert [call.decision.record["tool"] for call in calls(home, Filter(verdict="deny"))] == ["mail", "echo"]
        assert [entry.record["type"] for entry in records(home, Filter(agent="writer"))] == ["delegation", "decision"]

    def test_progress_reaches_the_end(self, tmp_path: Path) -> None:
        with open_log(tmp_path, segment_bytes=900) as first, open_log(tmp_path) as second:
            for number in range(20):
                first.append(decision(f"a{number}"))
                second.append(decision(f"b{number}"))
        seen: list[tuple[int, int]] = []
        assert len(list(records(tmp_path, progress=lambda done, of: seen.append((done, of))))) == 40
        assert seen == sorted(seen)
        size = sum(path.stat().st_size for path in (tmp_path / "log").glob("*/*.seg"))
        assert size - 3000 < seen[-1][0] <= seen[-1][1] == size

    def test_what_is_no_record_is_passed_over(self, tmp_path: Path) -> None:
        with open_log(tmp_path) as log:
            log.append(b"rubbish", b"[1]", b'{"type":"decision","id":7}', b'{"type":5,"id":"x"}', decision("a"), b"\xff")
        assert len(list(records(tmp_path))) == 3
        assert len(list(events(tmp_path))) == 1
        assert write_csv(records(tmp_path), io.StringIO()) == 3


class TestTables:
    def test_csv(self, home: Path) -> None:
        out = io.StringIO(newline="")
        count = write_csv(records(home), out)
        read = list(csv.DictReader(io.StringIO(out.getvalue(), newline=""), strict=True))
        assert len(read) == count == len(list(records(home)))
        for row, entry in zip(read, records(home), strict=True):
            assert list(row) == list(COLUMNS)
            assert (row["id"], row["shard"], row["index"]) == (entry.record["id"], entry.shard, str(entry.number))
            assert row["time"].endswith("Z")
            assert row["time_ns"] == entry.record["time"]
            assert row["leaf"] == leaf_hash(entry.data).hex()

    def test_parquet(self, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is the extra `parquet`")
        monkeypatch.setattr("agentguard.exports.tables._GROUP", 3)
        path = tmp_path / "log.parquet"
        count = write_parquet(records(home), path)
        read = parquet.read_table(path)
        assert read.to_pylist() == list(rows(records(home)))
        assert (read.num_rows, parquet.ParquetFile(path).num_row_groups) == (count, -(-count // 3))
        with pytest.raises(InvalidInput, match="cannot be written"):
            write_parquet(records(home), tmp_path / "missing" / "log.parquet")

    def test_parquet_without_pyarrow(self, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
        with pytest.raises(InvalidInput, match=r"pip install 'agentguard\[parquet\]'"):
            write_parquet(records(home), tmp_path / "x")

    def test_members_of_another_type_are_left_out(self, tmp_path: Path) -> None:
        with open_log(tmp_path) as log:
            log.append(canonical(id="a", agent=5, enforced="no", initiator=["x"], time=7, index="x", type=None))
            log.append(canonical(id="b", time="9" * 25, index=-5, shard="x", leaf="x"))
        odd, late = rows(records(tmp_path))
        assert {name: value for name, value in odd.items() if value is not None}.keys() == {"shard", "index", "id", "leaf"}
        assert (late["index"], late["time_ns"]) == (1, 0)
        assert late["shard"] != "x"
        assert late["leaf"] != "x"


class TestProv:
    def test_another_library_reads_it(self, home: Path) -> None:
        model = pytest.importorskip("prov.model", reason="prov belongs to the dev extra")
        task = task_of(home)
        document = model.ProvDocument.deserialize(content=json.dumps(provenance(read_lineage(home, task), task)), format="json")
        kinds: dict[str, int] = {}
        for record in document.get_records():
            kinds[type(record).__name__] = kinds.get(type(record).__name__, 0) + 1
        assert kinds == {
            "ProvActivity": 6, "ProvAgent": 4, "ProvEntity": 9, "ProvAssociation": 6, "ProvUsage": 9, "ProvGeneration": 4,
            "ProvDerivation": 1, "ProvDelegation": 2, "ProvAttribution": 2,
        }  # fmt: skip
        again = model.ProvDocument.deserialize(content=document.serialize(format="json"), format="json")
        assert again == document

    def test_the_writer_acts_for_triage_and_triage_for_alice(self, home: Path) -> None:
        document = provenance(read_lineage(home, task_of(home)), task_of(home))
        pairs = {(item["prov:delegate"], item["prov:responsible"]) for item in document["actedOnBehalfOf"].values()}
        assert pairs == {("ag:agent/triage", "ag:initiator/user%3Aalice"), ("ag:agent/writer", "ag:agent/triage")}
        (derived,) = document["wasDerivedFrom"].values()
        assert {derived["prov:generatedEntity"], derived["prov:usedEntity"]} <= document["entity"].keys()

    def test_a_task_that_is_not_there(self, home: Path) -> None:
        with pytest.raises(InvalidInput, match="no task"):
            provenance(read_lineage(home, task_of(home)), "nobody")


def test_no_export_holds_a_value(home: Path, tmp_path: Path) -> None:
    out = io.StringIO()
    write_csv(records(home), out)
    text = out.getvalue() + json.dumps([*events(home), provenance(read_lineage(home, task_of(home)), task_of(home))])
    assert SECRET not in text
    assert "argument_not_allowed" in text


def test_memory_does_not_grow_with_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for reader in ("scan", "frames"):
        monkeypatch.setattr(f"agentguard.log.{reader}._CHUNK", 1 << 14)

    def peak(home: Path, appends: int) -> int:
        with open_log(home) as log:
            for number in range(appends):
                log.append(*[one for at in range(10) for one in (decision(f"{number}-{at}", x="x" * 500), outcome(f"{number}-{at}"))])
        tracemalloc.start()
        assert sum(1 for _ in events(home)) == appends * 10
        with (home / "out").open("w") as out:
            assert write_csv(records(home), out) == appends * 20
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    few, many = peak(tmp_path / "few", 15), peak(tmp_path / "many", 90)
    assert many < few + 100_000


def test_an_event_of_a_call_alone(home: Path) -> None:
    assert [event_of(call) for call in calls(home)] == list(events(home))
