"""Proofs about a home's log (log/proofs.py, log/tlog_proof.py): each record, each growth; where they come from does not matter."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentguard.errors import InvalidInput
from agentguard.keys import LocalKey
from agentguard.log import read_record, read_shards
from agentguard.log.checkpoint import parse_checkpoint, parse_note
from agentguard.log.heads import read_head
from agentguard.log.identity import LogKeys
from agentguard.log.proofs import check_growth, check_inclusion, prove_growth, prove_inclusion
from agentguard.log.tlog_proof import Growth, TlogProof, parse_growth, parse_tlog_proof
from agentguard.log.witness_client import submit
from support.logs import KEY, open_log, small
from support.transparency import KEYS, WITNESS_NAME, Wire, head_of, records_of, witness_of, write

STRANGER = LogKeys.first(LocalKey.from_seed(bytes(32)).public)


def proof_of(home: Path, shard: str, index: int) -> bytes:
    return prove_inclusion(home, shard, index, KEY.public, read_record(home, shard, index)).format()


def test_every_record_is_proven_and_shown_again(tmp_path: Path) -> None:
    shards = write(tmp_path, 9, shards=2)
    for shard in shards:
        for index in range(9):
            proven = check_inclusion(proof_of(tmp_path, shard, index), KEYS)
            assert (proven.checkpoint.origin, proven.index, proven.checkpoint.size) == (KEYS.origin(shard), index, 9)
            assert proven.record == read_record(tmp_path, shard, index)


def test_every_growth_is_proven(tmp_path: Path) -> None:
    notes = []
    with open_log(tmp_path) as log:
        shard = log.shard
        for number in range(12):
            notes.append(log.checkpoint())
            log.append(small(number))
    for size, note in enumerate(notes):
        growth = prove_growth(tmp_path, shard, size, None, KEY.public)
        proven = check_growth(growth.format(), note, KEYS)
        assert (growth.old, proven.checkpoint.size, proven.index) == (size, 12, None)
        if size:
            with pytest.raises(InvalidInput, match="does not show"):
                check_growth(growth.format(), notes[size - 1], KEYS)
    with pytest.raises(InvalidInput, match="had 13: it was cut or rolled back"):
        prove_growth(tmp_path, shard, 13, None, KEY.public)
    with pytest.raises(InvalidInput, match="not those that its checkpoint was signed for"):
        prove_growth(tmp_path, shard, 5, b"x" * 32, KEY.public)  # somebody remembers another history


def test_shards_with_the_same_records_are_not_taken_for_each_other(tmp_path: Path) -> None:
    notes = []
    with open_log(tmp_path) as one, open_log(tmp_path) as other:
        for log in (one, other):
            log.append(small(1))
            notes.append(log.checkpoint())
        for log in (one, other):
            log.append(small(2))
    growth = prove_growth(tmp_path, one.shard, 1, None, KEY.public).format()
    assert check_growth(growth, notes[0], KEYS).checkpoint.size == 2
    with pytest.raises(InvalidInput, match="the checkpoints are of two shards"):
        check_growth(growth, notes[1], KEYS)


def test_a_log_that_is_being_written_is_proven_as_far_as_it_is_signed(tmp_path: Path) -> None:
    with open_log(tmp_path, "fsync") as log:
        for number in range(5):
            log.append(small(number))
            assert check_inclusion(proof_of(tmp_path, log.shard, number), KEYS).checkpoint.size == number + 1
            assert check_inclusion(proof_of(tmp_path, log.shard, 0), KEYS).checkpoint.size == number + 1


def test_a_record_that_no_checkpoint_covers_is_not_proven(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        log._writer._dirty = True  # no checkpoint comes by itself
        log.append(small(1))
        with pytest.raises(InvalidInput, match="no signed checkpoint covers record 0 yet"):
            proof_of(tmp_path, log.shard, 0)


def test_another_record_is_not_proven(tmp_path: Path) -> None:
    (shard,) = write(tmp_path, 5)
    for index, record in ((0, read_record(tmp_path, shard, 1)), (4, b"{}")):
        with pytest.raises(InvalidInput, match="not those that its checkpoint was signed for"):
            prove_inclusion(tmp_path, shard, index, KEY.public, record)


class TestTheCache:
    def test_is_made_once_and_extended(self, tmp_path: Path) -> None:
        (shard,) = write(tmp_path, 300)
        reads: list[int] = []
        prove_inclusion(tmp_path, shard, 7, KEY.public, read_record(tmp_path, shard, 7), reads.append)
        assert reads == [256]
        prove_inclusion(tmp_path, shard, 8, KEY.public, read_record(tmp_path, shard, 8), reads.append)
        assert reads == [256]
        write(tmp_path, 300)
        prove_inclusion(tmp_path, shard, 8, KEY.public, read_record(tmp_path, shard, 8), reads.append)
        assert reads == [256, 512]  # from where it stood, not from the beginning

    @pytest.mark.parametrize("change", ["flip", "empty", "gone", "other size"])
    def test_that_lies_makes_no_proof_and_is_made_anew(self, tmp_path: Path, change: str) -> None:
        (shard,) = write(tmp_path, 300)
        good = proof_of(tmp_path, shard, 3)
        directory = tmp_path / "tiles" / shard
        for place in [path for path in directory.rglob("*") if path.is_file() and path.name != "lock"]:
            data = place.read_bytes()
            if change == "gone":
                place.unlink()
            elif change == "other size":
                place.write_bytes(data.replace(b"\n300\n", b"\n299\n") if place.name == "checkpoint" else data[:-32])
            else:
                place.write_bytes(bytes([data[0] ^ 1, *data[1:]]) if change == "flip" else b"")
            assert proof_of(tmp_path, shard, 3) == good, place
        assert (directory / "tile/0/000").is_file()

    def test_of_a_longer_log_is_not_believed(self, tmp_path: Path) -> None:
        """The log was rolled back and went on otherwise: what is in the cache is of another history."""
        (shard,) = write(tmp_path / "a", 10)
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        write(tmp_path / "a", 300)
        proof_of(tmp_path / "a", shard, 3)
        write(tmp_path / "b", 20)
        shutil.copytree(tmp_path / "a" / "tiles", tmp_path / "b" / "tiles")
        for index in (3, 10, 29):
            assert check_inclusion(proof_of(tmp_path / "b", shard, index), KEYS).checkpoint.size == 30

    def test_that_cannot_be_made_is_done_without(self, tmp_path: Path) -> None:
        (shard,) = write(tmp_path, 3)
        (tmp_path / "tiles").write_bytes(b"in the way")
        assert check_inclusion(proof_of(tmp_path, shard, 2), KEYS).index == 2


def test_the_checkpoint_that_a_witness_cosigned_is_preferred(tmp_path: Path) -> None:
    (shard,) = write(tmp_path, 5)
    with witness_of(tmp_path / "w.db") as witness:
        submit(tmp_path, shard, KEYS, witness.key, Wire(witness), clock=lambda: 1_800_000_000)
        write(tmp_path, 5)
        old = check_inclusion(proof_of(tmp_path, shard, 4), KEYS, [witness.key])
        assert (old.checkpoint.size, old.witnesses) == (5, ((WITNESS_NAME, 1_800_000_000),))
        new = proof_of(tmp_path, shard, 5)  # not covered by what was cosigned
        assert check_inclusion(new, KEYS).checkpoint.size == 10
        with pytest.raises(InvalidInput, match="did not cosign"):
            check_inclusion(new, KEYS, [witness.key])


def test_a_proof_is_checked_against_the_key_and_the_record_that_are_asked_for(tmp_path: Path) -> None:
    (shard,) = write(tmp_path, 5)
    proof = proof_of(tmp_path, shard, 2)
    record = read_record(tmp_path, shard, 2)
    assert check_inclusion(proof, KEYS, record=record).record == record
    with pytest.raises(InvalidInput, match="it is not record 2 of this log"):
        check_inclusion(proof, KEYS, record=read_record(tmp_path, shard, 1))
    with pytest.raises(InvalidInput, match="not of agentguard/"):
        check_inclusion(proof, STRANGER)
    bare = TlogProof(**{**_members(parse_tlog_proof(proof)), "record": None}).format()
    assert b"extra" not in bare
    assert check_inclusion(bare, KEYS, record=record).index == 2
    with pytest.raises(InvalidInput, match="does not bring its record along"):
        check_inclusion(bare, KEYS)
    head = read_head(tmp_path, shard, KEYS)
    assert head is not None
    note, _ = head_of(records_of(5), origin="example.com/log")
    with pytest.raises(InvalidInput, match=r"not of agentguard/"):
        check_inclusion(proof.replace(head.note, note), KEYS)


def _members(proof: TlogProof) -> dict[str, object]:
    return {name: getattr(proof, name) for name in TlogProof.__slots__}


HASH = st.binary(min_size=32, max_size=32)
NOTE = head_of(records_of(3))[0]


@given(st.integers(0, 10**18), st.lists(HASH, max_size=63), st.none() | st.binary(max_size=300))
def test_a_proof_is_read_as_it_was_written(index: int, path: list[bytes], record: bytes | None) -> None:
    proof = TlogProof(index, tuple(path), NOTE, record)
    assert parse_tlog_proof(proof.format()) == proof
    growth = Growth(index, tuple(path), NOTE)
    assert parse_growth(growth.format()) == growth


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a proof"),
        ("c2sp.org/tlog-proof@v1\nindex 0\n", "not a proof"),
        ("c2sp.org/tlog-proof@v2\nindex 0\n\nx", "first line"),
        ("c2sp.org/tlog-proof@v1\n\nx", "first line"),
        ("c2sp.org/tlog-proof@v1\nindex 01\n\nx", "index"),
        ("c2sp.org/tlog-proof@v1\nindex -1\n\nx", "index"),
        ("c2sp.org/tlog-proof@v1\nindex  1\n\nx", "index"),
        ("c2sp.org/tlog-proof@v1\nextra a\nindex 1\n\nx", "not base64"),
        ("c2sp.org/tlog-proof@v1\nextra YQ==\n\nx", "index"),
        ("c2sp.org/tlog-proof@v1\nindex 1\nYQ==\n\nx", "32 bytes"),
        ("c2sp.org/tlog-proof@v1\r\nindex 1\r\n\nx", "first line"),
        ("c2sp.org/tlog-proof@v1\nindex 1\n" + "A" * 43 + "=\n" * 1 + ("A" * 43 + "=\n") * 63 + "\nx", "at most 63"),
    ],
)
def test_what_is_no_proof_says_so(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        parse_tlog_proof(text.encode())


@pytest.mark.parametrize("text", ["old 1", "old x\n\nx", "index 1\n\nx", "old 1\nnonsense\n\nx", "old 1 \n\nx", "old\n\nx"])
def test_what_is_no_proof_of_growth_says_so(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_growth(text.encode())


def test_bytes_that_are_no_text_and_too_many_are_refused() -> None:
    with pytest.raises(InvalidInput, match="UTF-8 at byte 0"):
        parse_tlog_proof(b"\xff\n\nx")
    with pytest.raises(InvalidInput, match="at most"):
        parse_tlog_proof(bytes((1 << 21) + 1))


def test_the_text_of_a_proof_is_that_of_the_specification(tmp_path: Path) -> None:
    (shard,) = write(tmp_path, 3)
    lines = proof_of(tmp_path, shard, 2).decode().split("\n")
    assert lines[0] == "c2sp.org/tlog-proof@v1"
    assert lines[1].startswith("extra ")
    assert lines[2] == "index 2"
    assert len(lines[3]) == 44  # one hash: the root of the two before it
    assert lines[4] == ""
    assert parse_checkpoint(parse_note("\n".join(lines[5:]).encode()).text).size == 3
    assert read_shards(tmp_path) == (shard,)
