"""Evidence bundles: what goes in, what a stranger is told, and whether the decision comes out the same a second time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentguard import Denied, Guard, ToolCall
from agentguard.artifacts.chain import verify_structure
from agentguard.artifacts.proof import make_proof
from agentguard.cli import app
from agentguard.cli.log_common import log_keys
from agentguard.context import current_task
from agentguard.control import lift, stop
from agentguard.errors import InvalidInput
from agentguard.evidence_bundle.check import Report
from agentguard.evidence_bundle.contents import read_payload
from agentguard.keys import LocalKey
from agentguard.tools.lock import Lock
from support.bundles import bundle, put, trusting
from support.evidence import POLICY, checked, failure, far_away, found, judged, opened, taken
from support.guarded import records
from support.two_homes import two_homes

AS = {"initiator": "user:ann", "trusted_input": "echo what I say"}


def tool(guard: Guard, name: str) -> Callable[..., Any]:
    found: Callable[..., Any] = guard.tools[name].target
    return lambda **arguments: guard.check(_call(guard, name, arguments)).run(found)


def _call(guard: Guard, name: str, arguments: dict[str, Any]) -> Any:
    task = current_task.get()
    return ToolCall(task.agent if task is not None else "nobody", name, arguments)


def made(home: Path, work: Callable[[Guard], None], policy: str = POLICY) -> list[dict[str, Any]]:
    """The decisions that came of `work`; the guard is closed."""
    guard = opened(home, policy)
    with guard:
        work(guard)
        return records(guard, "decision")


def attempt(guard: Guard, name: str, **arguments: Any) -> None:
    try:
        tool(guard, name)(**arguments)
    except Denied:
        return


def everything(guard: Guard) -> None:
    """One call for each way a decision can go that can be judged again."""
    with guard.task("triage", **AS) as task:
        attempt(guard, "echo", x=1)
        attempt(guard, "echo", x=9)
        attempt(guard, "pair", a=1)  # bound arguments differ from the presented ones
        attempt(guard, "proven", x=1)  # with a proof of possession
        attempt(guard, "after")  # sequence_violation: what went before counts
        with task.delegate("writer"):
            attempt(guard, "echo", x=2)
            attempt(guard, "echo", x=3)
            attempt(guard, "outer", x=1)
        for _ in range(5):
            attempt(guard, "echo", x=1)  # until the budget is used up
    with guard.task("tried", initiator="user:ann"):
        attempt(guard, "echo", x=2)  # denied in the shadow: it runs
    attempt(guard, "echo", x=1)  # no task


def test_every_decision_is_reproduced(tmp_path: Path) -> None:
    found = made(tmp_path, everything)
    reports = [checked(tmp_path, record["id"]) for record in found]
    assert {failure(report) for report in reports} == {""}
    assert [(report.rerun.status if report.rerun else "", record["code"]) for report, record in zip(reports, found, strict=True)] == [
        ("reproduced", record["code"]) for record in found
    ]
    assert {record["code"] for record in found} == {
        None, "argument_not_allowed", "artifact_missing", "budget_exhausted", "sequence_violation", "tool_not_in_scope",
    }  # fmt: skip
    assert any(record["proof"] for record in found)
    assert any(record["bound"] for record in found)
    assert any(not record["enforced"] for record in found)
    ran = [report.outcome["status"] for report in reports if report.outcome is not None]
    assert set(ran) == {"ok"}
    assert len(ran) == sum(record["verdict"] == "allow" or not record["enforced"] for record in found)


def test_a_nested_call_brings_what_caused_it(tmp_path: Path) -> None:
    with opened(tmp_path) as guard:
        with guard.task("triage", **AS) as task:

            @guard.tool
            def nest(x: int) -> Any:
                with task.delegate("writer"):
                    return tool(guard, "echo")(x=x)

            nest(x=1)
        inner = records(guard, "decision")[-1]
    bundle = taken(tmp_path, inner["id"])
    report = checked(tmp_path, inner["id"])
    assert report.good, report.checks
    assert len(bundle.ancestors) == 3  # two grants, and the call of `nest`
    assert "1 execution" in next(check.words for check in report.checks if check.name == "ancestors")


def test_without_values_nothing_is_guessed(tmp_path: Path) -> None:
    (record, *_) = made(tmp_path, everything)
    report = checked(tmp_path, record["id"], disclose=False)
    assert report.genuine
    assert report.rerun is not None
    assert (report.rerun.status, report.rerun.words) == ("inputs not disclosed", "usage")


def test_what_was_erased_is_not_disclosed(tmp_path: Path) -> None:
    (record, *_) = made(tmp_path, everything)
    answer = CliRunner().invoke(app, ["log", "erase", "--execution", record["id"], "--home", str(tmp_path)])
    assert answer.exit_code == 0, answer.stderr
    report = checked(tmp_path, record["id"])
    assert report.genuine
    assert report.rerun is not None
    assert report.rerun.status == "inputs not disclosed"
    assert taken(tmp_path, record["id"]).disclosed is not None
    assert {one.kind for one in taken(tmp_path, record["id"]).disclosed or ()} == {"trusted_input"}


def test_a_call_that_does_not_bind_is_not_judged_again(tmp_path: Path) -> None:
    def work(guard: Guard) -> None:
        with guard.task("triage", **AS):
            attempt(guard, "echo", y=1)

    (record,) = made(tmp_path, work)
    report = checked(tmp_path, record["id"])
    assert record["code"] == "malformed_call"
    assert report.genuine
    assert report.rerun is not None
    assert report.rerun.status == "inputs not disclosed"
    assert "cannot take" in report.rerun.words


def test_stops_and_lifts_are_brought_along(tmp_path: Path) -> None:
    def work(guard: Guard) -> None:
        ledger = guard._recording.ledger
        with guard.task("triage", **AS):
            attempt(guard, "echo", x=1)
            stop(guard.home, ledger, "agent", "triage", by="ops")
            attempt(guard, "echo", x=1)
            lift(guard.home, ledger, "agent", "triage", by="ops")
            attempt(guard, "echo", x=1)

    found = made(tmp_path, work)
    assert [record["code"] for record in found] == [None, "artifact_revoked", None]
    reports = [checked(tmp_path, record["id"]) for record in found]
    assert [report.rerun.status for report in reports if report.rerun is not None] == ["reproduced"] * 3
    assert [len(taken(tmp_path, record["id"]).revocations) for record in found] == [0, 1, 2]


def test_under_a_signed_policy_bundle(tmp_path: Path) -> None:
    key = LocalKey.generate()
    home = trusting(tmp_path / "home", key.public)
    found = made(home, _one_call, str(put(tmp_path / "p.bundle", bundle(key, 1, 1))))
    report = checked(home, found[0]["id"])
    assert found[0]["bundle"] is not None
    assert report.good, report.checks
    assert report.rerun is not None
    assert report.rerun.status == "reproduced", report.rerun


def _one_call(guard: Guard) -> None:
    with guard.task("triage", **AS):
        attempt(guard, "echo", x=1)


@contextmanager
def two_guards(place: Path) -> Iterator[tuple[Guard, Guard, Callable[..., int]]]:
    """One that grants, one that receives, and the tool of that one."""
    policy = "agentguard: 1\nname: p\nagents:\n  triage: {tools: {echo: {x: any}}, delegates: {writer: {depth: 1}}}\n"
    policy += "  writer: {tools: {echo: {x: any}}}\n"
    with two_homes(place, policy, here="triage", there="writer") as (here, there):

        @there.tool
        def echo(x: int) -> int:
            return x

        yield here, there, echo


def test_a_chain_from_another_home(tmp_path: Path) -> None:
    with two_guards(tmp_path) as (here, there, echo):
        with here.task("triage", **AS) as task:
            chain = {"aat_chain": list(task.tokens or ())}
        accepted = there.accept(json.dumps(chain))
        with accepted, pytest.raises(Denied):
            echo(x=1)
        (record,) = records(there, "decision")
    report = checked(tmp_path / "there", record["id"])
    assert report.good, (report.checks, report.rerun)
    assert report.rerun is not None
    assert (report.rerun.status, record["code"]) == ("reproduced", "proof_missing")


def test_a_call_by_a_chain_from_another_home_that_ran(tmp_path: Path) -> None:
    with two_guards(tmp_path) as (here, there, echo):
        with here.task("triage", **AS) as task:
            leaf, key = verify_structure(task.issue().tokens, here.home.trust.anchors).leaf, here.home.keys.holder("triage")
            proof = make_proof(key, leaf, "echo", {"x": 1}, int(time.time()), aud=there.audience)
            with there.accept(task.presentation(proof)):
                assert echo(x=1) == 1
        (record,) = records(there, "decision")
        (grant,) = records(there, "delegation")
    report = far_away(tmp_path / "there", record["id"])
    assert judged(report) == "reproduced: allow"
    assert grant["observed"]
    assert "1 link, 1 granted on record" in found(report, "chain")
    assert found(report, "keys") == "2 of 2 trusted issuers"


def test_a_delegated_call(tmp_path: Path) -> None:
    (_, ran, *_) = made(tmp_path / "home", everything_of_a_delegate)
    report = far_away(tmp_path / "home", ran["id"])
    assert judged(report) == "reproduced: allow"
    assert found(report, "chain") == "2 links, 2 granted on record"
    assert found(report, "ancestors").startswith("2 grants up to the root")


def everything_of_a_delegate(guard: Guard) -> None:
    with guard.task("triage", **AS) as task:
        attempt(guard, "echo", x=1)
        with task.delegate("writer"):
            attempt(guard, "echo", x=2)


def test_a_shadowed_denial_ran_and_is_one(tmp_path: Path) -> None:
    def work(guard: Guard) -> None:
        with guard.task("tried", initiator="user:ann"):
            attempt(guard, "echo", x=2)

    (record,) = made(tmp_path / "home", work)
    assert (record["verdict"], record["enforced"]) == ("deny", False)
    report = far_away(tmp_path / "home", record["id"])
    assert judged(report) == "reproduced: deny argument_not_allowed"
    assert found(report, "outcome") == "ok, of the same execution"


def test_under_a_tool_lock(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with opened(home) as guard:
        lock = Lock.of(guard.tools)
    (home / "tools.lock.json").write_bytes(lock.dump())
    (record,) = made(home, _one_call)
    assert record["lock"] is not None
    report = far_away(home, record["id"])
    assert judged(report) == "reproduced: allow"
    assert "lock" in found(report, "documents")


def test_what_cannot_be_bundled(tmp_path: Path) -> None:
    made(tmp_path, _one_call)
    with pytest.raises(InvalidInput, match="there is no decision of an execution 'nothing'"):
        taken(tmp_path, "nothing")
    with opened(tmp_path) as guard:
        with guard.task("triage", **AS):
            attempt(guard, "echo", x=1)
        last = records(guard, "decision")[-1]["id"]
        with pytest.raises(InvalidInput, match="no signed checkpoint covers"):
            taken(tmp_path, last)


def test_a_statement_has_one_form(tmp_path: Path) -> None:
    (record,) = made(tmp_path, _one_call)
    payload = taken(tmp_path, record["id"]).payload()
    assert read_payload(payload).payload() == payload
    body = json.loads(payload)
    assert body["_type"] == "https://in-toto.io/Statement/v1"
    with pytest.raises(InvalidInput, match="one form"):
        read_payload(payload + b" ")


def test_the_command_line(tmp_path: Path) -> None:
    (record,) = made(tmp_path / "home", _one_call)
    run, file, key = CliRunner(), tmp_path / "call.bundle", tmp_path / "log.key"
    key.write_text(log_keys(tmp_path / "home", None).verifier_key() + "\n")
    done = run.invoke(app, ["log", "bundle", record["id"], "--disclose", "--out", str(file), "--home", str(tmp_path / "home")])
    assert done.exit_code == 0, done.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    shown = run.invoke(app, ["verify-bundle", str(file), "--trust", str(key)])
    assert shown.exit_code == 0, shown.stderr
    assert "reproduced: allow" in shown.stdout
    told = run.invoke(app, ["verify-bundle", str(file), "--trust", key.read_text().strip(), "--json"])
    assert json.loads(told.stdout)["rerun"] == {"status": "reproduced", "words": "allow"}
    other = log_keys_of_another(tmp_path)
    refused = run.invoke(app, ["verify-bundle", str(file), "--trust", other])
    assert refused.exit_code == 1
    assert "not genuine: envelope" in refused.stderr
    for bad in (b"", b"{", b"[]", b"{}", b'{"payload":1,"payloadType":2,"signatures":[]}', b"\xff\xfe", b"[" * 5000):
        wrong = put(tmp_path / "bad", bad)
        answer = run.invoke(app, ["verify-bundle", str(wrong), "--trust", str(key)])
        assert answer.exit_code == 3, (bad, answer.stderr)
        assert answer.stderr.startswith("error: ")
        assert len(answer.stderr.splitlines()) == 1
    assert run.invoke(app, ["verify-bundle", str(file), "--trust", "no key"]).exit_code == 3


def log_keys_of_another(tmp_path: Path) -> str:
    made(tmp_path / "other", _one_call)
    return log_keys(tmp_path / "other", None).verifier_key()


def test_a_report_without_a_rerun_is_not_good() -> None:
    assert not Report(()).genuine
    assert not Report(()).good
