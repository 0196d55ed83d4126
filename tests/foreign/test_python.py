"""Roots, proofs and envelopes against three Python libraries: sigstore's verifier of inclusion, pymerkle's trees and proofs, and
securesystemslib's DSSE."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pymerkle
import pytest
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError as NotVerified
from securesystemslib.signer import SSlibKey
from sigstore._internal.merkle import verify_merkle_inclusion
from sigstore.errors import VerificationError

from agentguard.cli.log_common import log_keys
from agentguard.dsse import IN_TOTO
from agentguard.keys import LocalKey, PublicKey
from agentguard.log import iter_records
from agentguard.log.heads import read_head
from agentguard.log.merkle import leaf_hash
from agentguard.log.proofs import prove_growth, prove_inclusion
from foreign.sizes import grown
from support.evidence import opened, signed, taken
from support.guarded import call, records
from support.logs import KEY

pytestmark = pytest.mark.foreign
PUBLIC: PublicKey = KEY.public


def as_entry(record: bytes, index: int, size: int, path: tuple[bytes, ...], root: bytes) -> Any:
    """What sigstore's verifier looks at of an entry of Rekor."""
    proof = SimpleNamespace(log_index=index, tree_size=size, hashes=list(path), root_hash=root)
    return SimpleNamespace(_inner=SimpleNamespace(inclusion_proof=proof, canonicalized_body=record))


def holds(record: bytes, index: int, size: int, path: tuple[bytes, ...], root: bytes) -> bool:
    try:
        verify_merkle_inclusion(as_entry(record, index, size, path, root))
    except VerificationError:
        return False
    return True


def test_logs_of_many_sizes(tmp_path: Path) -> None:
    tree = pymerkle.InmemoryTree(algorithm="sha256")
    proofs = changed = grew = 0
    roots: dict[int, bytes] = {}
    for shard, size in grown(tmp_path):
        records = [record for _, _, record in iter_records(tmp_path, shard)]
        for record in records[tree.get_size() :]:
            tree.append_entry(record)
        head = read_head(tmp_path, shard, PUBLIC)
        assert head is not None
        assert (head.size, head.root, tree.get_root()) == (size, tree.get_root(), head.root)
        roots[size] = head.root
        for index in range(0, size, 1 if size <= 70 else 101):
            path = prove_inclusion(tmp_path, shard, index, PUBLIC, records[index]).path
            assert holds(records[index], index, size, path, head.root)
            assert list(path) == tree.prove_inclusion(index + 1, size).path[1:]  # pymerkle counts from one, and puts the leaf first
            if path and index % 7 == 0:
                broken = (bytes([path[0][0] ^ 1, *path[0][1:]]), *path[1:])
                assert not holds(records[index], index, size, broken, head.root)
                changed += 1
            proofs += 1
        for old in [old for old in roots if 0 < old < size][:: 1 if size <= 70 else 9]:
            prove_growth(tmp_path, shard, old, roots[old], PUBLIC)  # it verifies itself
            pymerkle.verify_consistency(roots[old], head.root, tree.prove_consistency(old, size), prior_size=old, later_size=size)
            grew += 1
    assert (proofs, changed, grew) > (2_500, 300, 2_400)


def test_the_envelope_of_an_evidence_bundle(tmp_path: Path) -> None:
    with opened(tmp_path) as guard:
        with guard.task("triage", initiator="user:ann"):
            guard.check(call("echo", {"x": 1})).run(guard.tools["echo"].target)
        (decision,) = records(guard, "decision")
    leaf = next(leaf_hash(record) for _, _, record in iter_records(tmp_path) if json.loads(record)["id"] == decision["id"])
    data = signed(tmp_path, taken(tmp_path, decision["id"]))
    envelope = Envelope.from_dict(json.loads(data))
    public = log_keys(tmp_path, None).current
    key = as_key(public)
    assert list(envelope.verify([key], 1)) == [public.thumbprint()]
    assert envelope.payload_type == IN_TOTO
    statement = json.loads(envelope.payload)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["subject"] == [{"digest": {"sha256": leaf.hex()}, "name": f"execution {decision['id']}"}]
    changed = Envelope(envelope.payload + b" ", envelope.payload_type, envelope.signatures)
    for wrong, by in ((changed, key), (envelope, as_key(LocalKey.generate().public))):
        with pytest.raises(NotVerified):
            wrong.verify([by], 1)


def as_key(public: PublicKey) -> SSlibKey:
    """Our key as theirs, under the same id."""
    return SSlibKey(public.thumbprint(), "ed25519", "ed25519", {"public": public.raw.hex()})
