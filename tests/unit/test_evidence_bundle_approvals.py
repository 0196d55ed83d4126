"""Evidence bundles of calls that people were asked about: who asked, who answered with which signature, which call used it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentguard import Guard, ToolCall
from agentguard.cli import app
from agentguard.errors import InvalidInput
from agentguard.evidence_bundle.contents import EvidenceBundle
from agentguard.keys import LocalKey
from agentguard.log.tlog_proof import parse_tlog_proof
from support.approving import CALL, answers, asks, opened, policy, runs
from support.evidence import checked, far_away, found, judged, taken
from support.guarded import denied, records

HELP = ToolCall("helper", "send_money", {"amount": 1, "to": "bob"})


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def decisions(guard: Guard) -> list[dict[str, Any]]:
    return records(guard, "decision")


def kinds(bundle: EvidenceBundle) -> list[str]:
    """What the records about an approval are, in the order in which they come along."""
    found = [json.loads(parse_tlog_proof(proof).record or b"") for proof in bundle.approval]
    return [record["detail"]["action"] if record["type"] == "approval" else record["type"] for record in found]


def test_a_call_that_was_asked_and_approved(home: Path) -> None:
    with opened(home) as guard, guard.task("clerk", initiator="user:alice"):
        request = asks(guard)
        answers(guard.home, request)
        runs(guard)
        asking, allowed = decisions(guard)
    assert sorted(kinds(taken(home, allowed["id"]))) == ["answered", "asked", "decision", "used"]
    report = far_away(home, allowed["id"])
    assert judged(report) == "reproduced: allow"
    words = found(report, "approval")
    assert f"request {request.id}; user:carol" in words
    assert "only the home vouches for" in words
    assert "approve; used by this call" in words
    assert report.outcome is not None
    assert kinds(taken(home, asking["id"])) == ["asked"]
    assert judged(far_away(home, asking["id"])) == "reproduced: ask approval_required"


def test_approvers_with_keys_of_their_own(home: Path) -> None:
    carol = LocalKey.generate()
    home.mkdir(mode=0o700)
    (home / "trust.json").write_text(json.dumps({"approvers": {"user:carol": carol.public.jwk()}}))
    with opened(home) as guard, guard.task("clerk", initiator="user:alice"):
        answers(guard.home, asks(guard), key=carol)
        runs(guard)
        allowed = decisions(guard)[-1]["id"]
    report = far_away(home, allowed)
    assert judged(report) == "reproduced: allow"
    assert "only the home" not in found(report, "approval")
    (home / "trust.json").write_text("{}")
    with pytest.raises(InvalidInput, match="the key of user:carol, who answered, is not known here any more"):
        taken(home, allowed)


def test_two_of_two_for_a_delegate(home: Path) -> None:
    with opened(home) as guard, guard.task("clerk", initiator="user:alice") as task, task.delegate("helper"):
        request = asks(guard, HELP)
        answers(guard.home, request, "user:carol")
        asks(guard, HELP)  # one is not enough; it joins the request
        answers(guard.home, request, "user:dan")
        runs(guard, HELP)
        _, joined, allowed = decisions(guard)
    report = far_away(home, allowed["id"])
    assert judged(report) == "reproduced: allow"
    assert found(report, "chain").startswith("2 links, 2 granted")
    assert "user:carol" in found(report, "approval")
    assert "user:dan" in found(report, "approval")
    assert judged(checked(home, joined["id"])) == "reproduced: ask approval_required"


def test_a_call_that_somebody_denied(home: Path) -> None:
    with opened(home) as guard, guard.task("clerk", initiator="user:alice"):
        request = asks(guard)
        answers(guard.home, request)  # she thinks better of it
        answers(guard.home, request, verdict="deny")
        denied("approval_denied", guard.check, CALL)
        refused = decisions(guard)[-1]["id"]
    report = far_away(home, refused)
    assert judged(report) == "reproduced: deny approval_denied"
    assert "deny" in found(report, "approval")
    assert sorted(kinds(taken(home, refused))) == ["answered", "answered", "asked", "decision"]


def test_an_approved_call_that_admission_refuses(home: Path) -> None:
    with opened(home) as guard, guard.task("clerk", initiator="user:alice"):
        for x in range(4):
            call = ToolCall("clerk", "plan", {"x": x})
            answers(guard.home, asks(guard, call))
            if x < 3:
                runs(guard, call)
        denied("budget_exhausted", guard.check, call)
        refused = decisions(guard)[-1]["id"]
    report = far_away(home, refused)
    assert judged(report).startswith("reproduced: stages 0 to 12 pass; budget_exhausted")
    assert "used by" not in found(report, "approval")


def test_an_approval_that_came_back_stands_for_each_call_that_used_it(home: Path) -> None:
    with opened(home) as guard, guard.task("clerk", initiator="user:alice"):
        answers(guard.home, asks(guard))
        guard.check(CALL).release()
        runs(guard)
        _, first, second = [record["id"] for record in decisions(guard)]
    for execution, status in ((first, "not_run"), (second, "ok")):
        report = far_away(home, execution)
        assert judged(report) == "reproduced: allow"
        assert report.outcome is not None
        assert report.outcome["status"] == status


def test_a_second_run_that_is_not_charged_again(home: Path) -> None:
    text = policy().replace("tools:\n  wipe: {", "tools:\n  wipe: {rerun: safe, ")
    call = ToolCall("clerk", "wipe", {}, "same")
    with opened(home, text) as guard, guard.task("clerk", initiator="user:alice"):
        answers(guard.home, asks(guard, call), "user:alice")
        guard.check(call)  # its process ends before there is an outcome
        guard.check(call)
        _, first, again = decisions(guard)
    assert [bool(record["reserved"]) for record in (first, again)] == [True, False]
    for record in (first, again):
        assert judged(far_away(home, record["id"])) == "reproduced: allow"
        assert "used by this call" in found(checked(home, record["id"]), "approval")


def test_what_went_before_may_have_been_approved(home: Path) -> None:
    rule = "    sequence: [{tool: plan, only_after_approval: true}]\n    budgets:"
    text = policy().replace("    budgets:", rule).replace(", plan], by", "], by")
    call = ToolCall("clerk", "plan", {"x": 1})
    with opened(home, text) as guard, guard.task("clerk", initiator="user:alice"):
        answers(guard.home, asks(guard, call), "user:carol")
        runs(guard, call)
        runs(guard, call)  # nobody is asked again
        _, first, second = [record["id"] for record in decisions(guard)]
    assert [judged(far_away(home, one)) for one in (first, second)] == ["reproduced: allow"] * 2
    assert [len(taken(home, one).approval) for one in (first, second)] == [4, 0]


def test_what_is_erased_is_not_judged_again_and_the_approval_is_there(home: Path) -> None:
    with opened(home) as guard, guard.task("clerk", initiator="user:alice"):
        answers(guard.home, asks(guard))
        runs(guard)
        asking, allowed = [record["id"] for record in decisions(guard)]
    erase = ["log", "erase", "--by", "ops", "--home", str(home), "--execution"]
    assert CliRunner().invoke(app, [*erase, asking]).exit_code == 0
    assert judged(far_away(home, allowed)) == "inputs not disclosed: what was asked and answered"
    assert CliRunner().invoke(app, [*erase, allowed]).exit_code == 0
    report = far_away(home, allowed)
    assert judged(report) == "inputs not disclosed: usage"
    assert "user:carol" in found(report, "approval")


def test_no_value_is_in_a_bundle_that_discloses_nothing(home: Path) -> None:
    secret = ToolCall("clerk", "send_money", {"amount": 501, "to": "hunter2"})
    with opened(home) as guard, guard.task("clerk", initiator="user:alice"):
        answers(guard.home, asks(guard, secret))
        runs(guard, secret)
        allowed = decisions(guard)[-1]["id"]
    silent = taken(home, allowed, disclose=False)
    assert all(b"hunter2" not in (parse_tlog_proof(proof).record or b"") for proof in silent.proofs)
    assert any(b"hunter2" in one.value for one in taken(home, allowed).disclosed or ())
