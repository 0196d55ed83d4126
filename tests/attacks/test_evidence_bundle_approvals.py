"""Attacks on bundles of calls that people approved. The attacker owns the log: it has the log's key, and signs any tree that it likes.

What it does not have are the keys of the approvers, whom the home's trust file names.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from agentguard import ToolCall
from agentguard.approvals import ANSWER_TYPE
from agentguard.artifacts.jws import sign
from agentguard.canonical import b64url_decode, jcs, parse
from agentguard.cli.log_common import log_keys
from agentguard.cli.trust import ring_of
from agentguard.evidence import commit
from agentguard.evidence_bundle.check import Report, check_bundle
from agentguard.evidence_bundle.contents import EvidenceBundle
from agentguard.keys import LocalKey
from agentguard.log.identity import LogKeys
from support.approving import answers, asks, opened, policy, runs
from support.evidence import failure, planted, record_in, signed, taken
from support.guarded import denied, records

SHARD = "0" * 16
Records = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """clerk asked for two payments; carol and dan approved the first (`of: 2`), and carol denied the second."""

    home: Path
    keys: LogKeys
    signer: LocalKey
    people: dict[str, LocalKey]
    allowed: EvidenceBundle
    refused: EvidenceBundle
    another: EvidenceBundle

    def check(self, bundle: EvidenceBundle) -> Report:
        return check_bundle(signed(self.home, bundle), self.keys)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    home = tmp_path_factory.mktemp("case")
    people = {name: LocalKey.generate() for name in ("user:carol", "user:dan", "user:eve", "user:alice")}
    (home / "trust.json").write_text(json.dumps({"approvers": {name: key.public.jwk() for name, key in people.items()}}))
    with opened(home, policy(of="of: 1, -> of: 2,")) as guard, guard.task("clerk", initiator="user:alice"):
        calls = [ToolCall("clerk", "send_money", {"amount": amount, "to": "bob"}) for amount in (500, 700, 600)]
        for call in calls[:2]:
            request = asks(guard, call)
            for name in ("user:carol", "user:dan"):
                answers(guard.home, request, name, key=people[name])
            runs(guard, call)
        answers(guard.home, asks(guard, calls[2]), verdict="deny", key=people["user:carol"])
        denied("approval_denied", guard.check, calls[2])
        _, first, _, second, _, last = [record["id"] for record in records(guard, "decision")]
    made = [taken(home, one) for one in (first, last, second)]
    return Case(home, log_keys(home, None), ring_of(home).log(), people, *made)


def named(bundle: EvidenceBundle) -> Records:
    """The records of a bundle by what they are; the answers by who gave them."""
    found: Records = {"decision": json.loads(record_in(bundle.decision))}
    if bundle.outcome is not None:
        found["outcome"] = json.loads(record_in(bundle.outcome))
    for at, proof in enumerate(bundle.ancestors):
        found[f"ancestor {at}"] = json.loads(record_in(proof))
    for proof in bundle.approval:
        record = json.loads(record_in(proof))
        kind = record["detail"]["action"] if record["type"] == "approval" else "asking"
        found[f"{kind} {record['by']}" if kind == "answered" else kind] = record
    return found


def rewritten(case: Case, bundle: EvidenceBundle, change: Callable[[Records], None]) -> EvidenceBundle:
    """The bundle with other records, in a tree that the owner signs for them."""
    found = copy.deepcopy(named(bundle))
    change(found)
    proofs = dict(zip(found, planted([jcs(record) for record in found.values()], case.signer, f"{case.keys.name}/{SHARD}"), strict=True))
    decision, outcome = proofs.pop("decision"), proofs.pop("outcome", None)
    ancestors = tuple(proofs.pop(name) for name in list(proofs) if name.startswith("ancestor"))
    people = {key.public for key in case.people.values()}
    answered = {case.people[name.partition(" ")[2]].public for name in found if name.startswith("answered user:")}
    keys = sorted({*bundle.keys} - people | answered, key=lambda key: key.thumbprint())
    made = replace(bundle, decision=decision, outcome=outcome, ancestors=ancestors, approval=tuple(proofs.values()))
    return replace(made, keys=tuple(keys))


def failing(case: Case, bundle: EvidenceBundle) -> str:
    """The check that fails and what it says; or what came of judging again."""
    report = case.check(bundle)
    if failure(report):
        return f"{report.checks[-1].name}: {report.checks[-1].words}"
    assert report.rerun is not None
    return f"{report.rerun.status}: {report.rerun.words}"


def test_the_genuine_ones_hold_and_so_do_they_in_a_tree_of_the_owners(case: Case) -> None:
    for bundle, words in ((case.allowed, "reproduced: allow"), (case.refused, "reproduced: deny approval_denied")):
        assert failing(case, bundle) == words
        assert failing(case, rewritten(case, bundle, lambda found: None)) == words


@pytest.mark.parametrize("left_out", ["asking", "asked", "answered user:carol", "answered user:dan", "used"])
def test_nothing_can_be_left_out(left_out: str, case: Case) -> None:
    assert failure(case.check(rewritten(case, case.allowed, lambda found: found.pop(left_out) and None))) == "approval"


def test_an_approved_call_brings_its_approval(case: Case) -> None:
    words = failing(case, replace(case.allowed, approval=()))
    assert words.startswith("approval: the call used the approval")


def test_what_was_asked_and_answered_about_another_call_is_for_that_one(case: Case) -> None:
    theirs, own = named(case.another), named(case.allowed)
    assert failure(case.check(replace(case.allowed, approval=case.another.approval))) == "approval"
    for kind in ("asking", "asked", "answered user:carol", "used"):
        mixed = rewritten(case, case.allowed, lambda found, kind=kind: found.update({kind: theirs[kind]}))  # type: ignore[misc]
        assert failure(case.check(mixed)) == "approval", kind

    def claimed(found: Records) -> None:  # the answers to the other request, said to be to this one
        for who in ("answered user:carol", "answered user:dan"):
            found[who]["detail"]["answer"] = theirs[who]["detail"]["answer"]
        found["used"]["detail"]["answers"] = theirs["used"]["detail"]["answers"]

    assert "is to another request" in failing(case, rewritten(case, case.allowed, claimed))

    def all_of_it(found: Records) -> None:  # and the request with them, down to the counter
        for kind in ("asked", "used", "asking"):
            found[kind] = copy.deepcopy(theirs[kind])
        claimed(found)
        found["used"]["detail"]["execution"] = own["decision"]["id"]
        for who in ("answered user:carol", "answered user:dan"):
            found[who]["detail"]["request"] = theirs["asked"]["detail"]["request"]
        found["decision"]["reserved"] = theirs["decision"]["reserved"]

    whole = replace(rewritten(case, case.allowed, all_of_it))
    asked = [one for one in case.another.disclosed or () if one.kind == "asked"]
    whole = replace(whole, disclosed=(*[one for one in case.allowed.disclosed or () if one.kind not in ("asked", "usage")], *asked))
    assert failing(case, whole) == "inputs not disclosed: usage"


def resigned(case: Case, name: str, key: LocalKey, **changes: Any) -> Callable[[Records], None]:
    """An answer with other claims, signed by this key, wherever the first one stood."""

    def change(found: Records) -> None:
        record = found[f"answered {name}"]
        was = record["detail"]["answer"]
        text = sign(ANSWER_TYPE, {**parse(b64url_decode(was.split(".")[1])), **changes}, key)
        record["detail"]["answer"] = text
        record["detail"]["verdict"] = changes.get("verdict", record["detail"]["verdict"])
        used = found["used"]["detail"]
        used["answers"] = [text if one == was else one for one in used["answers"]]

    return change


def test_who_lacks_the_key_answers_for_nobody(case: Case) -> None:
    thief = LocalKey.generate()
    assert "the key of user:dan did not sign it" in failing(case, rewritten(case, case.allowed, resigned(case, "user:dan", thief)))

    def owns_the_name(found: Records) -> None:
        resigned(case, "user:dan", thief)(found)
        found["answered user:dan"]["detail"]["key"] = thief.public.thumbprint()

    lies = rewritten(case, case.allowed, owns_the_name)
    assert "the key of 'user:dan', who answered, is not there" in failing(case, lies)
    keys = tuple(sorted((*case.allowed.keys, thief.public), key=lambda key: key.thumbprint()))
    assert "did not take the key of 'user:dan' for that of an approver" in failing(case, replace(lies, keys=keys))


def test_no_agent_and_no_issuer_answers(case: Case) -> None:
    """The owner has the issuer's key, and says it is dan's."""
    issuer = ring_of(case.home).issuer()

    def change(found: Records) -> None:
        resigned(case, "user:dan", issuer)(found)
        found["answered user:dan"]["detail"]["key"] = issuer.public.thumbprint()

    assert "did not take the key" in failing(case, rewritten(case, case.allowed, change))


def test_nor_do_they_where_the_home_vouches_for_the_names_itself(tmp_path: Path) -> None:
    """No trust file names approvers here. The owner can make one up, but the reader is told; the issuer's key is none in any case."""
    with opened(tmp_path) as guard, guard.task("clerk", initiator="user:alice"):
        answers(guard.home, asks(guard), "user:dan")
        runs(guard)
        allowed = records(guard, "decision")[-1]["id"]
    ring, keys = ring_of(tmp_path), log_keys(tmp_path, None)
    own = Case(tmp_path, keys, ring.log(), {"user:dan": ring.approver("user:dan")}, *[taken(tmp_path, allowed)] * 3)
    assert failing(own, own.allowed) == "reproduced: allow"
    issuer = ring.issuer()

    def change(found: Records) -> None:
        resigned(own, "user:dan", issuer)(found)
        found["answered user:dan"]["detail"]["key"] = issuer.public.thumbprint()

    assert "did not take the key" in failing(own, rewritten(own, own.allowed, change))


@pytest.mark.parametrize(
    ("member", "value", "words"),
    [
        ("agent", "helper", "is for another agent"),
        ("tool", "wipe", "is for another tool"),
        ("leaf", "0" * 64, "is for another leaf"),
        ("policy", "sha256:" + "0" * 64, "is for another policy"),
        ("task", "t", "is for another task"),
        ("arguments", "sha256:" + "0" * 64, "is for other arguments"),
        ("request", "0" * 64, "is to another request"),
        ("by", "user:carol", "is not what is recorded of it"),
        ("exp", 2**40, "is not what is recorded of it"),
        ("verdict", "deny", "let nothing run then"),
        ("iat", 2**40, "let nothing run then"),
        ("iat", 1, "what people signed does not come to the answer"),
    ],
)
def test_an_answer_that_says_something_else(member: str, value: Any, words: str, case: Case) -> None:
    """Even if dan himself signed it, another time, about something else."""
    bundle = rewritten(case, case.allowed, resigned(case, "user:dan", case.people["user:dan"], **{member: value}))
    assert words in failing(case, bundle)


def test_what_needs_no_value_to_be_seen_is_seen_without(case: Case) -> None:
    silent = replace(case.allowed, disclosed=None)
    dan = case.people["user:dan"]
    digest = parse(b64url_decode(named(silent)["answered user:dan"]["detail"]["answer"].split(".")[1]))["request"]
    assert failing(case, silent) == "inputs not disclosed: usage"
    half = rewritten(case, silent, resigned(case, "user:dan", dan, request=digest[:32] + "0" * 32))
    assert "the answers are to two requests" in failing(case, half)

    def on_nothing(found: Records) -> None:
        found["used"]["detail"] |= {"answers": [], "by": []}

    assert "not of those whom the record names" in failing(case, rewritten(case, silent, on_nothing))


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("verdict", "deny"),
        ("enforced", False),
        ("agent", "helper"),
        ("tool", "wipe"),
        ("artifact", "0" * 64),
        ("policy", "x"),
        ("task", "t"),
    ],
)
def test_the_decision_that_asked_was_about_this_call(member: str, value: Any, case: Case) -> None:
    def other(found: Records) -> None:
        found["asking"][member] = value

    assert failure(case.check(rewritten(case, case.allowed, other))) == "approval"


def forget_dan(found: Records) -> None:
    """The call is said to stand on carol alone."""
    dan = found.pop("answered user:dan")["detail"]["answer"]
    used = found["used"]["detail"]
    used["answers"], used["by"] = [one for one in used["answers"] if one != dan], ["user:carol"]


def usage(bundle: EvidenceBundle, **changes: Any) -> tuple[EvidenceBundle, str]:
    """The bundle with another answer in what went before, and the commitment to it."""
    one = next(one for one in bundle.disclosed or () if one.kind == "usage")
    body = json.loads(one.value)
    value = jcs({**body, "answer": {**body["answer"], **changes}})
    disclosed = tuple(replace(other, value=value) if other is one else other for other in bundle.disclosed or ())
    return replace(bundle, disclosed=disclosed), commit(one.salt, value)


def test_one_where_two_are_needed(case: Case) -> None:
    """The rule is the policy's, whatever the records claim that was enough."""
    bundle, commitment = usage(case.allowed, by=["user:carol"])

    def change(found: Records) -> None:
        forget_dan(found)
        found["decision"]["usage"] = commitment

    assert "what people signed does not come to the answer" in failing(case, rewritten(case, bundle, change))

    def lowered(found: Records) -> None:
        change(found)
        found["asked"]["detail"]["needs"]["of"] = 1

    assert "what people signed does not come to the answer" in failing(case, rewritten(case, bundle, lowered))
    assert failure(case.check(rewritten(case, case.allowed, forget_dan))) == ""  # the recorded answer names both: it is judged, and
    assert "what people signed does not come to the answer" in failing(case, rewritten(case, case.allowed, forget_dan))


@pytest.mark.parametrize("name", ["user:eve", "user:alice"])
def test_whom_the_rule_does_not_name_and_the_initiator_count_for_nothing(name: str, case: Case) -> None:
    """Both are approvers of the home, and have keys."""
    bundle, commitment = usage(case.allowed, by=sorted(["user:carol", name]))

    def change(found: Records) -> None:
        resigned(case, "user:dan", case.people[name], by=name)(found)
        record = found.pop("answered user:dan")
        record["by"], record["detail"]["key"] = name, case.people[name].public.thumbprint()
        used = found.pop("used")
        used["detail"]["by"] = sorted(["user:carol", name])
        found |= {f"answered {name}": record, "used": used}
        found["decision"]["usage"] = commitment

    told = failing(case, rewritten(case, bundle, change))
    assert "what people signed does not come to the answer" in told


def test_one_answer_is_not_two(case: Case) -> None:
    def twice(found: Records) -> None:
        forget_dan(found)
        carol = copy.deepcopy(found["answered user:carol"])
        found["answered again"] = {**carol, "id": "f" * 24}
        found["used"]["detail"]["answers"] *= 2

    told = failing(case, rewritten(case, case.allowed, twice))
    assert "what people signed does not come to the answer" in told


def test_an_approval_is_worth_nothing_once_it_has_expired(case: Case) -> None:
    def late(found: Records) -> None:
        found["decision"]["time"] = str((found["asked"]["detail"]["expires"] + 1) * 10**9)

    assert "let nothing run then" in failing(case, rewritten(case, case.allowed, late))


def test_an_approval_that_the_call_does_not_name(case: Case) -> None:
    def uncharged(found: Records) -> None:
        found["decision"]["reserved"] = []

    assert "charged to another approval" in failing(case, rewritten(case, case.allowed, uncharged))
    issuers = tuple(set(case.allowed.keys) - {key.public for key in case.people.values()})
    silent = replace(rewritten(case, case.allowed, uncharged), approval=(), keys=issuers)
    silent = replace(silent, disclosed=tuple(one for one in silent.disclosed or () if one.kind != "asked"))
    assert failing(case, silent) == "inputs not disclosed: what was asked and answered"

    def nobody(found: Records) -> None:  # and nothing is said to have gone before
        uncharged(found)
        found["decision"]["usage"] = None

    silent = replace(rewritten(case, case.allowed, nobody), approval=(), keys=issuers)
    silent = replace(silent, disclosed=tuple(one for one in silent.disclosed or () if one.kind not in ("usage", "asked")))
    assert failing(case, silent) == "differs: recorded: allow; judged again: ask approval_required"


def test_what_was_approved_is_what_ran(case: Case) -> None:
    """The owner says that other arguments were those of the call."""
    one = next(one for one in case.allowed.disclosed or () if one.kind == "arguments")
    value = jcs({"amount": 500_000, "to": "eve"})

    def other(found: Records) -> None:
        found["decision"]["arguments"] = commit(one.salt, value)

    bundle = replace(
        case.allowed, disclosed=tuple(replace(any_, value=value) if any_ is one else any_ for any_ in case.allowed.disclosed or ())
    )
    assert "what people signed does not come to the answer" in failing(case, rewritten(case, bundle, other))


def test_a_denial_cannot_be_kept_back_where_it_is_named(case: Case) -> None:
    def silent(found: Records) -> None:
        found.pop("answered user:carol")

    assert "what people signed does not come to the answer" in failing(case, rewritten(case, case.refused, silent))


def test_who_denied_is_not_outvoted(case: Case) -> None:
    """A denial that is recorded before the call ran, beside two approvals."""

    def also(found: Records) -> None:
        record = copy.deepcopy(found["answered user:dan"])
        text = sign(
            ANSWER_TYPE, {**parse(b64url_decode(record["detail"]["answer"].split(".")[1])), "verdict": "deny"}, case.people["user:dan"]
        )
        record |= {"id": "f" * 24, "detail": {**record["detail"], "answer": text, "verdict": "deny"}, "time": found["asked"]["time"]}
        found["answered first"] = record

    told = failing(case, rewritten(case, case.allowed, also))
    assert "what people signed does not come to the answer" in told


def test_a_key_that_was_withdrawn_answers_nothing(case: Case) -> None:
    detail = {"action": "revoke", "kind": "key", "reason": "", "value": case.people["user:dan"].public.thumbprint()}
    record = jcs({"by": "ops", "detail": detail, "id": "e" * 24, "time": "1", "type": "revocation", "v": 1})

    def stopped(found: Records) -> None:
        found["decision"]["revocations"] = 1

    bundle = replace(
        rewritten(case, case.allowed, stopped), revocations=tuple(planted([record], case.signer, f"{case.keys.name}/{'1' * 16}"))
    )
    assert "what people signed does not come to the answer" in failing(case, bundle)


@pytest.mark.parametrize("kind", ["asked", "answered user:dan", "used", "asking"])
@pytest.mark.parametrize("value", [None, 7, [], {}, "x", True])
def test_a_record_that_no_guard_writes_ends_in_an_answer(kind: str, value: Any, case: Case) -> None:
    members = named(case.allowed)[kind]
    for member in members:
        if member in ("type", "id"):
            continue

        def change(found: Records, member: str = member) -> None:
            found[kind][member] = value

        case.check(rewritten(case, case.allowed, change))
    for member in members.get("detail", {}):

        def inner(found: Records, member: str = member) -> None:
            found[kind]["detail"][member] = value

        report = case.check(rewritten(case, case.allowed, inner))
        if member not in ("place", "operator", "reason", "local"):
            assert not report.good or report.rerun is None or report.rerun.status != "reproduced", member
