"""Evidence bundles of a log whose key was rotated, and of one that witnesses cosigned: what each reader is told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentguard.cli import app
from agentguard.cli.log_common import log_keys
from agentguard.errors import InvalidInput
from agentguard.evidence_bundle.check import Report, check_bundle
from agentguard.evidence_bundle.cosignatures import Witnesses
from agentguard.keys import KeyRing, LocalKey
from agentguard.log.checkpoint import parse_checkpoint, parse_note
from agentguard.log.cosignature import WitnessKey
from agentguard.log.identity import LogKeys
from agentguard.log.manifest import read_manifest
from agentguard.log.merkle import inclusion_proof, leaf_hash, nodes_of, root_before, root_of
from agentguard.log.tlog_proof import parse_tlog_proof
from agentguard.log.witness import Logs, Witness
from agentguard.log.witness_client import submit
from support.evidence import failure, found, judged, opened, signed, taken
from support.guarded import call
from support.transparency import Wire, records_of, rotated


def worked(home: Path, *, shards: int = 1) -> list[str]:
    """One call in each of so many shards; the executions."""
    guards, ids = [opened(home) for _ in range(shards)], []
    for guard in guards:
        with guard.task("triage", initiator="user:ann"):
            permit = guard.check(call("echo", {"x": 1}))
            permit.run(guard.tools["echo"].target)
            ids.append(permit.execution)
    for guard in guards:
        guard.close()
    return ids


def turned(home: Path) -> LogKeys:
    """The log's key is rotated; the log with the new one."""
    rotated(home, KeyRing(home / "keys"))
    return log_keys(home, None)


def read(home: Path, execution: str, keys: LogKeys, witnesses: Witnesses | None = None) -> Report:
    return check_bundle(signed(home, taken(home, execution)), keys, witnesses or Witnesses())


# --- rotations ----------------------------------------------------------------------------------------------------------------------------


def test_each_key_that_the_log_had_is_enough(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (first,) = worked(home)
    keys = [log_keys(home, None)]
    for _ in range(2):
        keys.append(turned(home))
        (last,) = worked(home)
    for execution in (first, last):
        assert len(taken(home, execution).rotations) == 2
        for known in keys:
            report = read(home, execution, known)
            assert judged(report) == "reproduced: allow"
            assert f"{known.current.thumbprint()[:12]}… (trusted)" in found(report, "rotations")
    assert "(trusted) → " in found(read(home, last, keys[0]), "rotations")


def test_a_bundle_from_before_the_rotation_is_for_the_old_key(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (first,) = worked(home)
    old, data = log_keys(home, None), signed(home, taken(home, first))
    new = turned(home)
    assert check_bundle(data, old).good
    assert failure(check_bundle(data, new)) == "envelope"


def test_a_call_that_stands_in_several_shards(tmp_path: Path) -> None:
    home = tmp_path / "home"
    worked(home, shards=2)
    old = log_keys(home, None)
    new = turned(home)
    late = worked(home, shards=3)  # the third shard knows nothing of the rotation
    for execution in late:
        bundle = taken(home, execution)
        assert len(bundle.rotations) == 1
        for known in (old, new):
            assert judged(read(home, execution, known)) == "reproduced: allow"
    shards = {origin_of(proof) for execution in late for proof in taken(home, execution).proofs}
    assert len(shards) == 3


def origin_of(proof: bytes) -> str:
    return parse_checkpoint(parse_note(parse_tlog_proof(proof).checkpoint).text).origin


def test_a_rotation_that_was_interrupted_makes_no_bundle(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (first,) = worked(home)
    KeyRing(home / "keys").begin_log_succession()
    with pytest.raises(InvalidInput):
        signed(home, taken(home, first))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 33])
def test_an_audit_path_shows_the_tree_before_its_leaf(size: int) -> None:
    leaves = [leaf_hash(record) for record in records_of(size)]
    for index in range(size):
        assert root_before(index, size, inclusion_proof(nodes_of(leaves), index, size)) == root_of(leaves[:index])


# --- witnesses ----------------------------------------------------------------------------------------------------------------------------


def cosigned(home: Path, directory: Path, names: Sequence[str]) -> list[WitnessKey]:
    """Show the log to so many witnesses, each of which cosigns all of it."""
    keys = log_keys(home, None)
    manifest = read_manifest(home, keys)
    known = []
    for name in names:
        signer = LocalKey.from_seed(name.encode().ljust(32)[:32])
        with Witness(
            directory / f"{name}.db", signer, f"witness.example/{name}", Logs([keys.verifier_key()]), clock=lambda: 1_800_000_000
        ) as one:
            for shard in manifest.shards if manifest is not None else ():
                submit(home, shard, keys, one.key, Wire(one), clock=lambda: 1_800_000_000)
            known.append(one.key)
    return known


def test_as_many_witnesses_as_are_wanted(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (execution,) = worked(home)
    keys = log_keys(home, None)
    first, second, third = (
        WitnessKey(f"witness.example/{n}", LocalKey.from_seed(n.encode().ljust(32)[:32]).public) for n in ("a", "b", "c")
    )
    assert found(read(home, execution, keys), "witnesses") == "none asked for"
    cosigned(home, tmp_path, ["a", "b"])
    words = found(read(home, execution, keys, Witnesses.of([first, second])), "witnesses")
    assert words.startswith("2 of 2 wanted, on each of 1 checkpoints: witness.example/a on 2027-01-15")
    assert judged(read(home, execution, keys, Witnesses.of([first, second, third], 2))) == "reproduced: allow"
    report = read(home, execution, keys, Witnesses.of([first, second, third]))
    assert failure(report) == "witnesses"
    assert "2 of 3 cosignatures that are wanted: witness.example/c did not cosign it" in report.checks[-1].words


def test_records_since_the_last_cosignature_are_not_witnessed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (before,) = worked(home)
    known = cosigned(home, tmp_path, ["a"])
    (after,) = worked(home)
    keys = log_keys(home, None)
    assert judged(read(home, before, keys, Witnesses.of(known))) == "reproduced: allow"
    assert failure(read(home, after, keys, Witnesses.of(known))) == "witnesses"


def test_after_a_rotation_the_witness_cosigns_anew(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (execution,) = worked(home)
    old, known = log_keys(home, None), cosigned(home, tmp_path, ["a"])
    turned(home)
    assert failure(read(home, execution, old, Witnesses.of(known))) == "witnesses"
    cosigned(home, tmp_path, ["a"])
    assert judged(read(home, execution, old, Witnesses.of(known))) == "reproduced: allow"


def test_the_checkpoint_that_most_witnesses_cosigned_is_taken(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (execution,) = worked(home)
    known = cosigned(home, tmp_path, ["a", "b"])
    worked(home)
    known += cosigned(home, tmp_path, ["c"])  # of more records, but alone
    assert judged(read(home, execution, log_keys(home, None), Witnesses.of(known, 2))) == "reproduced: allow"


# --- the command line ---------------------------------------------------------------------------------------------------------------------


def test_the_command_line(tmp_path: Path) -> None:
    home, file, run = tmp_path / "home", tmp_path / "call.bundle", CliRunner()
    (execution,) = worked(home)
    old = log_keys(home, None).verifier_key()
    turned(home)
    (known,) = cosigned(home, tmp_path, ["a"])
    made = run.invoke(app, ["log", "bundle", execution, "--disclose", "--out", str(file), "--home", str(home), "--json"])
    assert json.loads(made.stdout)["records"] == 4
    shown = run.invoke(app, ["verify-bundle", str(file), "--trust", old, "--witness", known.verifier_key(), "--quorum", "1"])
    assert shown.exit_code == 0, shown.stderr
    assert "1 of 1 wanted" in shown.stdout
    for more, code, words in [
        (["--quorum", "2"], 3, "--witness: 2 of 1 witnesses cannot be wanted"),
        (["--quorum", "0"], 3, "0 of 1 witnesses cannot be wanted"),
        (["--witness", known.verifier_key()], 3, "one key is named as two witnesses"),
        (["--witness", WitnessKey("witness.example/z", known.public).verifier_key()], 3, "one key is named as two witnesses"),
        (["--witness", old], 3, "it is the verifier key of a log"),
        (["--witness", WitnessKey("z", LocalKey.generate().public).verifier_key()], 1, "not genuine: witnesses: "),
    ]:
        told = run.invoke(app, ["verify-bundle", str(file), "--trust", old, "--witness", known.verifier_key(), *more])
        assert (told.exit_code, words in told.stderr) == (code, True), told.stderr
    alone = run.invoke(app, ["verify-bundle", str(file), "--trust", old, "--quorum", "1"])
    assert (alone.exit_code, "1 of 0 witnesses" in alone.stderr) == (3, True)
