"""Attacks on how a bundle's log came to its key, and on the cosignatures of witnesses on its checkpoints.

The attacker has stolen some of the log's keys, or is the log's owner; the reader knows one key of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from agentguard.canonical import jcs
from agentguard.dsse import seal
from agentguard.errors import InvalidInput
from agentguard.evidence_bundle.check import Report, check_bundle
from agentguard.evidence_bundle.contents import EvidenceBundle
from agentguard.evidence_bundle.cosignatures import Witnesses
from agentguard.keys import KeyRing, LocalKey
from agentguard.log.checkpoint import (
    Checkpoint,
    Note,
    NoteSigner,
    Signature,
    key_id,
    parse_checkpoint,
    parse_note,
    to_base64,
)
from agentguard.log.cosignature import WitnessKey, cosign
from agentguard.log.handover import compose_handover
from agentguard.log.identity import LogKeys, log_name
from agentguard.log.merkle import EMPTY_ROOT, leaf_hash, root_of
from agentguard.log.tlog_proof import parse_tlog_proof
from support.evidence import failure, opened, planted, record_in, taken
from support.guarded import call
from support.transparency import rotated

SHARD = "0" * 16


@dataclass(frozen=True)
class Case:
    """A log with three keys, oldest first, a bundle made after the last rotation, and one of before the first."""

    home: Path
    keys: tuple[LocalKey, ...]
    name: str
    bundle: EvidenceBundle
    early: EvidenceBundle

    def read(self, bundle: EvidenceBundle, knows: int, signer: LocalKey | None = None, witnesses: Witnesses | None = None) -> Report:
        """What a reader is told who knows one of the keys; `signer` seals the bundle, by default the key in force."""
        known = LogKeys(self.name, (self.keys[knows].public,))
        return check_bundle(seal(bundle.payload(), signer or self.keys[-1]), known, witnesses or Witnesses())


def case_in(home: Path) -> Case:
    with opened(home) as guard, guard.task("triage", initiator="user:ann"):
        permit = guard.check(call("echo", {"x": 1}))
        permit.run(guard.tools["echo"].target)
    ring = KeyRing(home / "keys")
    keys, early = [ring.log()], taken(home, permit.execution)
    for _ in range(2):
        keys.append(rotated(home, ring))
    return Case(home, tuple(keys), log_name(keys[0].public), taken(home, permit.execution), early)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return case_in(tmp_path_factory.mktemp("case"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return case_in(tmp_path_factory.mktemp("other"))


def handing(old: LocalKey, new: LocalKey, origin: str, size: int = 0, root: bytes = EMPTY_ROOT) -> bytes:
    return compose_handover(origin, size, root, old, new, time_ns=1, identity="f" * 24, by="ops", reason="")


def forged(case: Case, signer: LocalKey, *steps: bytes) -> EvidenceBundle:
    """The bundle's records in a tree of one's own, with these rotations before them, all under the key of the last."""
    bundle = case.bundle
    proofs = planted([*steps, *map(record_in, bundle.proofs)], signer, f"{case.name}/{SHARD}")
    rotations, (decision, outcome, *ancestors) = proofs[: len(steps)], proofs[len(steps) :]
    return replace(bundle, decision=decision, outcome=outcome, ancestors=tuple(ancestors), rotations=tuple(rotations))


# --- rotations ----------------------------------------------------------------------------------------------------------------------------


def test_the_genuine_one_holds_for_each_reader(case: Case) -> None:
    assert [case.read(case.bundle, knows).good for knows in range(3)] == [True] * 3
    assert case.read(case.early, 0, case.keys[0]).good


def test_a_thief_of_nothing_appoints_nobody(case: Case) -> None:
    """The signature of the key in force is made by the thief's own, under the other's name and key id."""
    thief, origin = LocalKey.generate(), f"{case.name}/{SHARD}"
    lies = handing(thief, thief, origin).decode()
    stolen = key_id(origin, case.keys[0].public)
    for public in (case.keys[0].public, thief.public):
        text = Checkpoint(origin, 0, EMPTY_ROOT, (f"time {1:019d}", f"key {to_base64(public.raw)} {to_base64(thief.public.raw)}")).text()
        own = parse_note(NoteSigner(thief, origin).sign(text)).signatures[0]
        note = Note(text, (Signature(origin, stolen, own.value), own)).format().decode()
        record = jcs({"by": "ops", "detail": {"handover": note, "reason": ""}, "id": "1", "time": "1", "type": "key", "v": 1})
        for step in (record, lies.encode()):
            for knows in range(3):
                assert failure(case.read(forged(case, thief, step), knows, thief)) == "rotations"


@pytest.mark.parametrize("stolen", [0, 1])
def test_a_thief_of_old_keys_convinces_nobody_who_knows_the_next(stolen: int, case: Case) -> None:
    thief, origin = LocalKey.generate(), f"{case.name}/{SHARD}"
    old = case.keys[stolen]
    root = root_of([leaf_hash(handing(case.keys[0], case.keys[1], origin))])
    to_itself = [
        forged(case, thief, handing(old, thief, origin)),
        forged(case, thief, handing(case.keys[0], case.keys[1], origin), handing(case.keys[1], thief, origin, 1, root)) if stolen else None,
        replace(forged(case, thief), rotations=case.bundle.rotations),
        replace(forged(case, thief), rotations=case.bundle.rotations[: stolen + 1]),
    ]
    for bundle in filter(None, to_itself):
        for knows in range(stolen + 1, 3):
            assert failure(case.read(bundle, knows, thief)) in ("rotations", "envelope")
    with_its_own = [forged(case, old), replace(forged(case, old), rotations=case.bundle.rotations), case.early, case.bundle]
    for bundle in with_its_own:
        for knows in range(stolen + 1, 3):
            assert failure(case.read(bundle, knows, old)) in ("rotations", "envelope")


def test_under_the_key_in_force_nothing_counts_that_an_old_one_signed(case: Case) -> None:
    """Also if the owner seals it. What was signed before the rotation is proven by what was signed since."""
    for rotations in (case.bundle.rotations, ()):
        for knows in range(3):
            assert not case.read(replace(case.early, rotations=rotations), knows).good


Change = Callable[[Case, Case], Sequence[bytes]]
CHANGES: dict[str, Change] = {
    "the other way round": lambda a, b: a.bundle.rotations[::-1],
    "the second only": lambda a, b: a.bundle.rotations[1:],
    "the first only": lambda a, b: a.bundle.rotations[:1],
    "the first twice": lambda a, b: (a.bundle.rotations[0], *a.bundle.rotations),
    "the last twice": lambda a, b: (*a.bundle.rotations, a.bundle.rotations[1]),
    "none": lambda a, b: (),
    "those of another log": lambda a, b: b.bundle.rotations,
    "one of another log behind them": lambda a, b: (*a.bundle.rotations, b.bundle.rotations[0]),
    "one of another log in the place of one": lambda a, b: (a.bundle.rotations[0], b.bundle.rotations[1]),
    "a decision": lambda a, b: (a.bundle.decision,),
    "a proof without its record": lambda a, b: (
        replace(parse_tlog_proof(a.bundle.rotations[0]), record=None).format(),
        a.bundle.rotations[1],
    ),
    "no proof at all": lambda a, b: (b"nothing",),
}


@pytest.mark.parametrize("name", CHANGES)
def test_rotations_cannot_be_changed(name: str, case: Case, other: Case) -> None:
    """By the owner, who can sign the rest: who knows the first key is told. Who knows the last needs none of them."""
    report = case.read(replace(case.bundle, rotations=tuple(CHANGES[name](case, other))), 0)
    assert failure(report) == ("envelope" if name == "none" else "rotations"), report.checks
    if name not in ("none", "the second only"):
        assert failure(case.read(replace(case.bundle, rotations=tuple(CHANGES[name](case, other))), 2)) == "rotations"


def test_each_region_of_a_rotation_matters(case: Case) -> None:
    proof = case.bundle.rotations[0]
    for at in range(0, len(proof), 3):
        changed = proof[:at] + bytes([proof[at] ^ 1]) + proof[at + 1 :]
        try:
            report = case.read(replace(case.bundle, rotations=(changed, case.bundle.rotations[1])), 0)
        except InvalidInput:
            continue
        assert not report.good, at


def test_a_step_begins_where_the_one_before_it_ended(case: Case) -> None:
    """Behind the genuine step to the second key, a thief hands over from a key of its own to another one of its own."""
    origin, (first, second, _) = f"{case.name}/{SHARD}", case.keys
    mine, thief = LocalKey.generate(), LocalKey.generate()
    there = handing(first, second, origin)
    root = root_of([leaf_hash(there)])
    for knows in range(3):
        report = case.read(forged(case, thief, there, handing(mine, thief, origin, 1, root)), knows, thief)
        assert failure(report) == "rotations"
        assert "out of order" in report.checks[-1].words


def test_a_rotation_is_proven_under_the_key_in_force(case: Case) -> None:
    """Not under one that was in force when it was written: who has stolen that could leave out what came after."""
    first, second, third = case.keys
    origin = f"{case.name}/{SHARD}"
    there = handing(first, second, origin)
    on = handing(second, third, origin, 1, root_of([leaf_hash(there)]))
    made = forged(case, third, there, on)
    assert case.read(made, 0).good
    for signer in (first, second):
        mixed = replace(made, rotations=(planted([there, on], signer, origin)[0], made.rotations[1]))
        assert failure(case.read(mixed, 0)) == "rotations"


def test_the_envelope_is_sealed_by_the_key_that_the_rotations_lead_to(case: Case) -> None:
    """All of an early bundle is under the first key; that it knows of later ones is a contradiction."""
    early = replace(case.early, rotations=case.bundle.rotations)
    assert failure(case.read(early, 0, case.keys[0])) == "rotations"


def test_a_circle_of_keys_leads_nowhere(case: Case) -> None:
    origin, (first, second, _) = f"{case.name}/{SHARD}", case.keys
    there = handing(first, second, origin)
    back = handing(second, first, origin, 1, root_of([leaf_hash(there)]))
    report = case.read(forged(case, first, there, back), 0, first)
    assert failure(report) == "rotations"
    assert "out of order" in report.checks[-1].words
    itself = handing(first, first, origin)
    assert failure(case.read(forged(case, first, itself), 0, first)) == "rotations"


def test_a_rotation_vouches_for_all_before_it_in_its_shard(case: Case) -> None:
    """Who has the new key alone takes the genuine record of the rotation, and puts another past before it."""
    first, second, _ = case.keys
    origin = f"{case.name}/{SHARD}"
    past = [b'{"genuine":%d}' % number for number in range(5)]
    step = handing(first, second, origin, 5, root_of([leaf_hash(record) for record in past]))
    rest = [record_in(proof) for proof in case.bundle.proofs]

    def told(before: Sequence[bytes]) -> str:
        proofs = planted([*before, step, *rest], second, origin)
        decision, outcome, *ancestors = proofs[len(before) + 1 :]
        made = replace(case.bundle, decision=decision, outcome=outcome, ancestors=tuple(ancestors), rotations=(proofs[len(before)],))
        report = case.read(made, 0, second)
        return "" if report.good else report.checks[-1].words

    assert told(past) == ""
    assert "another history" in told([*past[:4], b'{"forged":4}'])
    assert "another history" in told([b'{"forged":0}', *past[1:]])
    assert "counts 5 records, and stands behind 4" in told(past[:4])
    assert "counts 5 records, and stands behind 6" in told([*past, b"{}"])


def test_a_rotation_is_one_of_the_shard_that_it_is_proven_in(case: Case) -> None:
    first, second, _ = case.keys
    step = handing(first, second, f"{case.name}/{'1' * 16}")
    assert failure(case.read(forged(case, second, step), 0, second)) == "rotations"
    for origin in (f"agentguard/{'2' * 16}/{SHARD}", case.name, f"{case.name}/x"):
        own = planted([handing(first, second, origin)], second, origin)
        report = case.read(replace(forged(case, second), rotations=tuple(own)), 0, second)
        assert failure(report) == "rotations"
        assert "not of agentguard/" in report.checks[-1].words


def test_the_log_that_rotates_is_the_one_that_is_known(case: Case, other: Case) -> None:
    """A log of the same name is made by nobody who lacks the key, and one of another name is another log."""
    for knows in range(3):
        assert not case.read(other.bundle, knows, other.keys[-1]).good
        assert not check_bundle(seal(case.bundle.payload(), case.keys[-1]), LogKeys(other.name, (case.keys[knows].public,))).good


# --- witnesses ----------------------------------------------------------------------------------------------------------------------------

SIGNERS = tuple(LocalKey.from_seed(bytes([number]) * 32) for number in range(1, 4))
KNOWN = tuple(WitnessKey(f"witness.example/{number}", signer.public) for number, signer in enumerate(SIGNERS))
Lines = Callable[[Note], Sequence[Signature]]


def line(text: str, number: int, seconds: int = 1_800_000_000) -> Signature:
    """The cosignature of one witness on a text."""
    base = text.encode() + b"\n"
    return parse_note(base + cosign(text, SIGNERS[number], KNOWN[number].name, seconds).encode()).signatures[0]


def with_lines(bundle: EvidenceBundle, lines: Lines) -> EvidenceBundle:
    """The bundle with these signatures behind the log's own on each checkpoint."""

    def signed(data: bytes) -> bytes:
        proof = parse_tlog_proof(data)
        note = parse_note(proof.checkpoint)
        return replace(proof, checkpoint=Note(note.text, (*note.signatures, *lines(note))).format()).format()

    return replace(
        bundle,
        decision=signed(bundle.decision),
        outcome=signed(bundle.outcome or b""),
        ancestors=tuple(map(signed, bundle.ancestors)),
        rotations=tuple(map(signed, bundle.rotations)),
    )


def grown_by(text: str, number: int) -> str:
    checkpoint = parse_checkpoint(text)
    return replace(checkpoint, size=checkpoint.size + number).text()


def under_anothers_name(note: Note) -> list[Signature]:
    """The first witness signs, and the line says it was the second: a cosignature does not hold the name."""
    genuine = line(note.text, 0)
    return [genuine, replace(genuine, name=KNOWN[1].name, key_id=KNOWN[1].key_id)]


COSIGNED: dict[str, tuple[Lines, str]] = {
    "stripped": (lambda note: [line(note.text, 0)], "witness.example/1 did not cosign it"),
    "stripped of all": (lambda note: [], "0 of 2 cosignatures that are wanted: witness.example/0, witness.example/1 did not"),
    "the same twice": (lambda note: [line(note.text, 0), line(note.text, 0, 1_800_000_001)], "witness.example/1 did not cosign it"),
    "one flipped": (
        lambda note: [line(note.text, 0), flipped(line(note.text, 1), 40)],
        "the cosignature of witness.example/1 is invalid, on the checkpoint of",
    ),
    "the time changed": (
        lambda note: [line(note.text, 0), flipped(line(note.text, 1), 7)],
        "the cosignature of witness.example/1 is invalid",
    ),
    "cut": (lambda note: [line(note.text, 0), replace(line(note.text, 1), value=line(note.text, 1).value[:-1])], "has 71 bytes, not 72"),
    "of another checkpoint": (
        lambda note: [line(note.text, 0), line(grown_by(note.text, -1), 1)],
        "the cosignature of witness.example/1 is invalid",
    ),
    "of a note that is no cosignature": (
        lambda note: [
            line(note.text, 0),
            Signature(KNOWN[1].name, KNOWN[1].key_id, bytes(8) + SIGNERS[1].sign(note.text.encode())),
        ],
        "the cosignature of witness.example/1 is invalid",
    ),
    "under another's name": (under_anothers_name, "the cosignature of witness.example/1 is invalid"),
    "by a stranger under its name": (
        lambda note: [line(note.text, 0), replace(line(note.text, 2), name=KNOWN[1].name)],
        "witness.example/1 did not cosign it",
    ),
    "by a stranger under its name and key id": (
        lambda note: [line(note.text, 0), replace(line(note.text, 2), name=KNOWN[1].name, key_id=KNOWN[1].key_id)],
        "the cosignature of witness.example/1 is invalid",
    ),
}


def flipped(one: Signature, at: int) -> Signature:
    return replace(one, value=one.value[:at] + bytes([one.value[at] ^ 1]) + one.value[at + 1 :])


@pytest.mark.parametrize("name", COSIGNED)
def test_a_cosignature_that_is_none_is_named(name: str, case: Case) -> None:
    lines, words = COSIGNED[name]
    report = case.read(with_lines(case.bundle, lines), 0, witnesses=Witnesses.of(KNOWN[:2]))
    assert failure(report) == "witnesses"
    assert words in report.checks[-1].words


def test_a_false_cosignature_is_not_outvoted(case: Case) -> None:
    wanted = Witnesses.of(KNOWN, 2)
    assert case.read(with_lines(case.bundle, lambda note: [line(note.text, 0), line(note.text, 1)]), 0, witnesses=wanted).good
    three = with_lines(case.bundle, lambda note: [line(note.text, 0), line(note.text, 1), flipped(line(note.text, 2), 30)])
    assert failure(case.read(three, 0, witnesses=wanted)) == "witnesses"


def test_each_checkpoint_needs_its_own(case: Case) -> None:
    """Whatever proof the one bare checkpoint is of."""
    lines: Lines = lambda note: [line(note.text, 0)]  # noqa: E731
    full, wanted = with_lines(case.bundle, lines), Witnesses.of(KNOWN[:1])
    assert case.read(full, 0, witnesses=wanted).good
    bare = case.bundle
    for mixed in (
        replace(full, decision=bare.decision),
        replace(full, outcome=bare.outcome),
        replace(full, ancestors=bare.ancestors),
        replace(full, rotations=(full.rotations[0], bare.rotations[1])),
    ):
        report = case.read(mixed, 0, witnesses=wanted)
        assert failure(report) == "witnesses"
        assert "witness.example/0 did not cosign it" in report.checks[-1].words


def test_a_cosignature_from_another_checkpoint_of_the_bundle_is_recognised(case: Case) -> None:
    """The owner has a witness cosign one tree, and signs another one, in which the decision stands."""
    own = forged(case, case.keys[-1])
    text = parse_note(parse_tlog_proof(case.bundle.rotations[0]).checkpoint).text
    mixed = replace(with_lines(replace(own, rotations=case.bundle.rotations), lambda note: [line(text, 0)]))
    report = case.read(mixed, 0, witnesses=Witnesses.of(KNOWN[:1]))
    assert failure(report) == "witnesses"
    assert "the cosignature of witness.example/0 on" in report.checks[-1].words
    assert "is that on another checkpoint, of" in report.checks[-1].words


def test_a_cosignature_proves_nothing_by_itself(case: Case) -> None:
    """A checkpoint that a witness cosigned and the log did not sign."""
    thief = LocalKey.generate()
    made = with_lines(forged(case, thief), lambda note: [line(note.text, 0)])
    report = case.read(made, 2, witnesses=Witnesses.of(KNOWN[:1]))
    assert failure(report) == "records"


def test_one_key_is_one_witness() -> None:
    twin = WitnessKey("witness.example/twin", KNOWN[0].public)
    with pytest.raises(InvalidInput, match="one key is named as two witnesses"):
        Witnesses.of((KNOWN[0], twin))
    for keys, wanted in ((KNOWN, 0), (KNOWN, 4), (KNOWN, -1), ((), 1)):
        with pytest.raises(InvalidInput, match="cannot be wanted"):
            Witnesses.of(keys, wanted)


# --- what is read before anything is verified ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, 7, [], {}, "x", True, "\ud800", "k" * 100_000])
def test_an_envelope_of_a_stranger_ends_in_an_answer(value: Any, case: Case) -> None:
    """Its rotations are read to learn which key would have to have signed it."""
    body = json.loads(case.bundle.payload())
    step = json.loads(record_in(case.bundle.rotations[0]))
    thief = LocalKey.generate()
    known = LogKeys(case.name, (case.keys[0].public,))

    def told(payload: bytes) -> bool:
        try:
            return check_bundle(seal(payload, thief), known).good
        except InvalidInput:
            return False

    for member in body["predicate"]:
        assert not told(
            json.dumps({**body, "predicate": {**body["predicate"], member: value}}, separators=(",", ":"), sort_keys=True).encode()
        )
    for member in body["predicate"]["records"]:
        records = {**body["predicate"]["records"], member: [value] if member == "rotations" else value}
        changed = {**body, "predicate": {**body["predicate"], "records": records}}
        assert not told(json.dumps(changed, separators=(",", ":"), sort_keys=True).encode())
    for changed in ({**step, "type": value}, {**step, "detail": value}, {**step, "detail": {"handover": value}}):
        data = json.dumps(changed, separators=(",", ":"), sort_keys=True).encode()
        for record in (data, data + b' "type":"key"', b"[" * 5000 + b'"type":"key"', b'"type":"key"', b"\xff"):
            proof = replace(parse_tlog_proof(case.bundle.rotations[0]), record=record).format()
            assert not told(replace(case.bundle, rotations=(proof, case.bundle.rotations[1])).payload())
