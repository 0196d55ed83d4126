"""Attacks on evidence bundles (PITFALLS: log edits, swapped records, forged evidence).

The attacker holds the file, and where a test says so the log's own key too.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from agentguard.canonical import jcs
from agentguard.cli.log_common import log_keys
from agentguard.cli.trust import ring_of
from agentguard.dsse import seal
from agentguard.errors import InvalidInput
from agentguard.evidence_bundle.check import Report, check_bundle
from agentguard.evidence_bundle.contents import Disclosed, EvidenceBundle, name_of
from agentguard.evidence_bundle.rerun import rerun
from agentguard.keys import LocalKey
from agentguard.log.checkpoint import Checkpoint, sign_checkpoint
from agentguard.log.identity import LogKeys
from agentguard.log.merkle import leaf_hash, root_of
from agentguard.log.tlog_proof import TlogProof, parse_tlog_proof
from support.evidence import failure, opened, signed, taken
from support.guarded import call, denied, records


@dataclass(frozen=True)
class Case:
    """A home in which triage called echo twice and was refused once, and the bundles of all three."""

    home: Path
    keys: LogKeys
    signer: LocalKey
    first: EvidenceBundle
    second: EvidenceBundle
    refused: EvidenceBundle

    def check(self, bundle: EvidenceBundle, signer: LocalKey | None = None) -> Report:
        return check_bundle(signed(self.home, bundle, signer), self.keys)


def case_in(home: Path) -> Case:
    with opened(home) as guard:
        with guard.task("triage", initiator="user:ann", trusted_input="words") as task:
            for x in (1, 2):
                guard.check(call("echo", {"x": x})).run(guard.tools["echo"].target)
            denied("argument_not_allowed", guard.check, call("echo", {"x": 9}))
            with task.delegate("writer"):
                guard.check(call("echo", {"x": 1}, agent="writer")).run(guard.tools["echo"].target)
        ids = [record["id"] for record in records(guard, "decision")]
    one, two, three, _ = (taken(home, identity) for identity in ids)
    return Case(home, log_keys(home, None), ring_of(home).log(), one, two, three)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return case_in(tmp_path_factory.mktemp("case"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return case_in(tmp_path_factory.mktemp("other"))


def accepted(data: bytes, keys: LogKeys) -> bool:
    try:
        return check_bundle(data, keys).good
    except InvalidInput:
        return False


def record_of(proof: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(parse_tlog_proof(proof).record or b"")
    return found


def test_the_genuine_one_holds(case: Case) -> None:
    for bundle in (case.first, case.second, case.refused):
        report = case.check(bundle)
        assert report.good, report.checks
        assert report.rerun is not None
        assert report.rerun.status == "reproduced"


def test_every_region_matters(case: Case) -> None:
    data = signed(case.home, case.first)
    assert accepted(data, case.keys)
    places = [*range(200), *range(200, len(data) - 400, 7), *range(len(data) - 400, len(data))]  # each byte outside of the payload
    wrong = [at for at in places if accepted(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :], case.keys)]
    assert wrong == []
    cuts = [at for at in range(0, len(data), 97) if accepted(data[:at], case.keys)]
    assert cuts == []
    assert not accepted(data + b"\n", case.keys)
    assert not accepted(b" " + data, case.keys)


def test_another_key_signs_nothing(case: Case, other: Case) -> None:
    stranger = LocalKey.generate()
    assert failure(case.check(case.first, stranger)) == "envelope"
    assert failure(check_bundle(signed(case.home, case.first), other.keys)) == "envelope"
    body = json.loads(seal(case.first.payload(), stranger))
    body["signatures"][0]["keyid"] = case.signer.public.thumbprint()  # the name alone does not help
    assert failure(check_bundle(jcs(body) + b"\n", case.keys)) == "envelope"


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every string, number and null in a document."""
    if isinstance(value, dict):
        return [found for name, inner in value.items() for found in leaves(inner, (*path, name))]
    if isinstance(value, list):
        return [found for at, inner in enumerate(value) for found in leaves(inner, (*path, at))]
    return [path]


def changed(body: Any, path: tuple[Any, ...]) -> Any:
    """A copy in which what stands at `path` is another value of the same kind."""
    made = json.loads(json.dumps(body))
    inner = made
    for step in path[:-1]:
        inner = inner[step]
    was = inner[path[-1]]
    inner[path[-1]] = "x" if was is None else ("B" if was[:1] == "A" else "A") + was[1:] if isinstance(was, str) else 1
    return made


def test_each_field_of_the_payload_even_when_the_owner_signs_it(case: Case) -> None:
    body = json.loads(case.first.payload())
    paths = leaves(body)
    assert len(paths) > 30
    passed = [path for path in paths if accepted(seal(jcs(changed(body, path)), case.signer), case.keys)]
    assert passed == []


def test_each_member_left_out_or_added(case: Case) -> None:
    body = json.loads(case.first.payload())
    for inner in (body, body["predicate"], body["predicate"]["records"]):
        for name in list(inner):
            was = inner.pop(name)
            assert not accepted(seal(jcs(body), case.signer), case.keys), name
            inner[name] = was
        inner["more"] = 1
        assert not accepted(seal(jcs(body), case.signer), case.keys)
        del inner["more"]
    assert accepted(seal(jcs(body), case.signer), case.keys)


Swap = Callable[[Case, Case], tuple[EvidenceBundle, str]]
SWAPS: dict[str, Swap] = {
    "the outcome of another execution": lambda a, b: (replace(a.first, outcome=a.second.outcome), "outcome"),
    "an outcome for a refused call": lambda a, b: (replace(a.refused, outcome=a.first.outcome), "outcome"),
    "a decision as the outcome": lambda a, b: (replace(a.first, outcome=a.second.decision), "outcome"),
    "another execution's decision": lambda a, b: (replace(a.first, decision=a.second.decision), "records"),
    "an outcome as the decision": lambda a, b: (replace(a.first, decision=a.second.outcome or b""), "records"),
    "the whole of another log": lambda a, b: (b.first, "records"),
    "an outcome of another log": lambda a, b: (replace(a.first, outcome=b.first.outcome), "records"),
    "ancestors of another log": lambda a, b: (replace(a.first, ancestors=b.first.ancestors), "records"),
    "no ancestors": lambda a, b: (replace(a.first, ancestors=()), "chain"),
    "an ancestor twice": lambda a, b: (replace(a.first, ancestors=a.first.ancestors * 2), "records"),
    "an ancestor that is none": lambda a, b: (replace(a.first, ancestors=(*a.first.ancestors, a.second.decision)), "ancestors"),
    "a revocation that is none": lambda a, b: (replace(a.first, revocations=(a.second.decision,)), "records"),
    "another key": lambda a, b: (replace(a.first, keys=b.first.keys), "keys"),
    "no documents": lambda a, b: (replace(a.first, documents={}), "documents"),
    "values of another execution": lambda a, b: (replace(a.first, disclosed=a.second.disclosed), "disclosed"),
    "values of another call under this one's name": lambda a, b: (replace(a.first, disclosed=renamed(a)), "disclosed"),
}


def renamed(case: Case) -> tuple[Disclosed, ...]:
    return tuple(replace(one, id=case.first.execution) for one in case.second.disclosed or () if one.kind == "arguments")


@pytest.mark.parametrize("name", SWAPS)
def test_nothing_can_be_swapped(name: str, case: Case, other: Case) -> None:
    bundle, expected = SWAPS[name](case, other)
    assert failure(case.check(bundle)) == expected


@pytest.mark.parametrize("member", ["policy", "environment", "anchors", "measured", "chain"])
def test_a_document_is_that_of_the_record(member: str, case: Case) -> None:
    """Neither other bytes under the name, nor another document under its own."""
    documents = dict(case.first.documents)
    name = record_of(case.first.decision)[member]
    wrong = jcs({**json.loads(documents[name]), "more": 1})
    assert failure(case.check(replace(case.first, documents={**documents, name: wrong}))) == "documents"
    del documents[name]
    assert failure(case.check(replace(case.first, documents={**documents, name_of(wrong): wrong}))) == "documents"
    assert failure(case.check(replace(case.first, documents=documents))) == "documents"


@pytest.mark.parametrize("member", ["verdict", "code", "policy", "time", "agent", "tool", "arguments", "caused_by", "task"])
def test_a_forged_decision_is_in_no_tree(member: str, case: Case) -> None:
    """All hashes of the bundle are computed anew, and the log's key signs it: the record's own proof does not lead to the root."""
    proof = parse_tlog_proof(case.refused.decision)
    record = {**json.loads(proof.record or b""), member: "allow" if member == "verdict" else "1"}
    forged = replace(proof, record=jcs(record))
    assert failure(case.check(replace(case.refused, decision=forged.format()))) == "records"


def test_a_tree_of_ones_own_needs_the_logs_key(case: Case) -> None:
    """A tree with only the forged record in it: its checkpoint is signed by whom the verifier does not trust."""
    record = jcs({**record_of(case.first.decision), "tool": "mail"})
    origin = f"{case.keys.name}/{'0' * 16}"
    note = sign_checkpoint(Checkpoint(origin, 1, root_of([leaf_hash(record)])), LocalKey.generate())
    forged = replace(case.first, decision=TlogProof(0, (), note, record).format())
    assert failure(case.check(forged)) == "records"


def test_an_owner_who_forks_the_log_contradicts_what_was_decided(case: Case) -> None:
    """Whoever holds the log's key can sign another tree; only witnesses and remembered heads show that (docs/transparency.md). Yet a
    decision that the inputs do not come to is found: it `differs`."""
    record = record_of(case.refused.decision)
    allowed = {**record, "verdict": "allow", "code": None, "stages": record_of(case.first.decision)["stages"]}
    data = jcs(allowed)
    note = sign_checkpoint(Checkpoint(f"{case.keys.name}/{'0' * 16}", 1, root_of([leaf_hash(data)])), case.signer)
    report = case.check(replace(case.refused, decision=TlogProof(0, (), note, data).format()))
    assert report.genuine
    assert not report.good
    assert report.rerun is not None
    assert report.rerun.status == "differs"


@pytest.mark.parametrize("member", ["agent", "tool", "time", "task", "stages", "measured", "policy", "call_id", "revocations", "usage"])
@pytest.mark.parametrize("value", [None, 7, [], {}, "x", "9" * 5000, -1, True])
def test_a_record_that_no_guard_writes_ends_in_an_answer(member: str, value: Any, case: Case) -> None:
    data = jcs({**record_of(case.first.decision), member: value})
    note = sign_checkpoint(Checkpoint(f"{case.keys.name}/{'0' * 16}", 1, root_of([leaf_hash(data)])), case.signer)
    report = case.check(replace(case.first, decision=TlogProof(0, (), note, data).format()))
    if report.rerun is not None and report.good and report.rerun.status == "reproduced":
        assert member == "call_id" or (member, value) in (("usage", None), ("tool", "echo")), "it says nothing that a decision rests on"


@pytest.mark.parametrize("form", ["{path}", '{{"agentguard":1,"agents":{{}},"import":["secret.yaml"],"name":"x"}}', "\\n{path}"])
def test_a_policy_that_names_a_file_makes_nobody_read_it(form: str, case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log's owner may put anything where a policy was, and wait for what the verifier's machine says of its own files."""
    monkeypatch.chdir(tmp_path)
    Path("secret.yaml").write_text("hunter2")
    document = form.format(path=tmp_path / "secret.yaml").encode()
    record = {**record_of(case.first.decision), "policy": name_of(document)}
    values = {one.kind: one.value for one in case.first.disclosed or ()}
    again = rerun(record, values, {**case.first.documents, name_of(document): document}, case.first.keys, ())
    assert again.status == "differs"
    assert "hunter2" not in again.words


def test_a_rerun_takes_any_values(case: Case) -> None:
    record, documents = record_of(case.first.decision), case.first.documents
    values = {one.kind: one.value for one in case.first.disclosed or ()}
    for bad in (b"", b"null", b"[]", b"7", b'{"x":9}', b"\xff", b"[" * 4000, b'{"answer":7,"counters":8}'):
        for kind in ("arguments", "usage"):
            assert rerun(record, {**values, kind: bad}, documents, case.first.keys, ()).status != "reproduced" or kind == "usage"
    assert rerun({}, {}, {}, (), ()).status == "differs"
