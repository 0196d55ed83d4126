"""Attacks on what others hold of a log: proofs, published tiles, remembered and cosigned checkpoints, and on the change of its key
(PITFALLS: log edits, revocation rollback, parent swap, bad keys).

The attacker owns the disk, and where a test says so a key, too. What nobody can notice is written down as such.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentguard.errors import InvalidInput
from agentguard.keys import KeyRing, LocalKey
from agentguard.log import Log, VerifyReport, iter_records, read_record, verify
from agentguard.log.checkpoint import Checkpoint, Note, NoteSigner, parse_note, sign_checkpoint
from agentguard.log.cosignature import cosign
from agentguard.log.frames import CHECKPOINT, encode
from agentguard.log.handover import compose_handover, read_handover
from agentguard.log.heads import read_head
from agentguard.log.identity import LogKeys
from agentguard.log.manifest import write_manifest
from agentguard.log.merkle import Frontier, consistency_proof, leaf_hash, nodes_of
from agentguard.log.proofs import check_growth, check_inclusion, prove_growth, prove_inclusion
from agentguard.log.site import check_site, write_sites
from agentguard.log.tlog_proof import Growth, TlogProof, parse_growth, parse_tlog_proof
from agentguard.log.witness import Logs, Witness
from agentguard.log.witness_client import WitnessRefused, fetch, submit
from agentguard.log.witnessed import cosigned_path, submitted_path
from support.logs import KEY, canonical, small
from support.transparency import (
    KEYS,
    WITNESS_KEY,
    WITNESS_NAME,
    Wire,
    head_of,
    records_of,
    ring_with,
    rotated,
    witness_of,
    write,
)


def flips(data: bytes, bits: int = 8) -> Iterator[bytes]:
    """Every copy with one bit changed; with fewer than 8 bits only so many of each byte."""
    for position, value in enumerate(data):
        for bit in range(bits):
            yield data[:position] + bytes([value ^ 1 << (bit + position) % 8]) + data[position + 1 :]


def kinds(report: VerifyReport) -> set[str]:
    return {finding.kind for finding in report.findings if finding.severity == "error"}


def restore(copy: Path, home: Path) -> None:
    shutil.rmtree(home)
    shutil.copytree(copy, home)


def now() -> float:
    return 1_800_000_000.0


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


class TestMutantProofs:
    def test_no_bit_of_a_proof_can_change(self, home: Path, tmp_path: Path) -> None:
        (shard,) = write(home, 11)
        with witness_of(tmp_path / "w.db") as witness:
            submit(home, shard, KEYS, witness.key, Wire(witness), clock=now)
        proof = prove_inclusion(home, shard, 6, KEY.public, read_record(home, shard, 6)).format()
        check_inclusion(proof, KEYS, [witness.key])
        accepted = [mutant for mutant in flips(proof) if _holds(mutant, witness)]
        assert accepted == []

    def test_no_bit_of_a_proof_of_growth_can_change(self, home: Path) -> None:
        (shard,) = write(home, 5)
        head = read_head(home, shard, KEY.public)
        assert head is not None
        write(home, 6)
        growth = prove_growth(home, shard, 5, head.root, KEY.public).format()
        check_growth(growth, head.note, KEYS)
        accepted = []
        for proof, note in [*((mutant, head.note) for mutant in flips(growth)), *((growth, mutant) for mutant in flips(head.note))]:
            try:
                check_growth(proof, note, KEYS)
                accepted.append((proof, note))
            except InvalidInput:
                pass
        assert accepted == []

    def test_no_hash_can_be_left_out_doubled_swapped_or_added(self, home: Path) -> None:
        (shard,) = write(home, 11)
        whole = parse_tlog_proof(prove_inclusion(home, shard, 6, KEY.public, read_record(home, shard, 6)).format())
        growth = parse_growth(prove_growth(home, shard, 5, None, KEY.public).format())
        root = prove_root(home, shard, 5)
        head = read_head(home, shard, KEY.public)
        assert head is not None
        checkpoint = Checkpoint("", head.size, head.root)
        assert whole.record is not None
        assert whole.proves(whole.record, checkpoint)
        assert growth.proves(root, checkpoint)
        for path in rearranged(whole.path):
            assert not TlogProof(6, path, whole.checkpoint, whole.record).proves(whole.record, checkpoint)
        for path in rearranged(growth.path):
            assert not Growth(5, path, growth.checkpoint).proves(root, checkpoint)

    def test_a_proof_holds_for_its_place_only(self, home: Path) -> None:
        shards = write(home, 11, shards=2)
        for shard in shards:
            whole = parse_tlog_proof(prove_inclusion(home, shard, 6, KEY.public, read_record(home, shard, 6)).format())
            (other,) = set(shards) - {shard}
            crossed = parse_tlog_proof(prove_inclusion(home, other, 6, KEY.public, read_record(home, other, 6)).format())
            for index in range(12):
                if index != 6:
                    with pytest.raises(InvalidInput):
                        check_inclusion(TlogProof(index, whole.path, whole.checkpoint, whole.record).format(), KEYS)
            with pytest.raises(InvalidInput):  # swapped shards: the checkpoint of the other one
                check_inclusion(TlogProof(6, whole.path, crossed.checkpoint, whole.record).format(), KEYS)

    def test_an_inner_node_is_not_taken_for_a_record(self, home: Path) -> None:
        """RFC 6962's prefixes: the two children of a node, one behind the other, hash to something else when they are a leaf."""
        (shard,) = write(home, 4)
        leaves = [leaf_hash(record) for _, _, record in iter_records(home, shard)]
        pair = leaves[0] + leaves[1]
        head = read_head(home, shard, KEY.public)
        assert head is not None
        path = Frontier()
        path.extend(leaves[2:])
        assert not TlogProof(0, (path.root(),), head.note, pair).proves(pair, Checkpoint("", 2, head.root))


def _holds(proof: bytes, witness: Witness) -> bool:
    try:
        check_inclusion(proof, KEYS, [witness.key])
    except InvalidInput:
        return False
    return True


def prove_root(home: Path, shard: str, size: int) -> bytes:
    frontier = Frontier()
    frontier.extend([leaf_hash(record) for _, number, record in iter_records(home, shard) if number < size])
    return frontier.root()


def rearranged(path: tuple[bytes, ...]) -> Iterator[tuple[bytes, ...]]:
    for at in range(len(path)):
        yield path[:at] + path[at + 1 :]
        yield (*path[:at], path[at], *path[at:])
        yield (*path[:at], bytes(32), *path[at + 1 :])
        if at:
            yield (*path[: at - 1], path[at], path[at - 1], *path[at + 1 :])
    yield (*path, path[-1])
    yield (path[0], *path)


class TestMutantSites:
    @staticmethod
    def _accepted(site: Path, step: int, bits: int) -> list[tuple[str, int]]:
        accepted = []
        for place in sorted(path for path in site.rglob("*") if path.is_file() and path.name != ".lock"):
            data = place.read_bytes()
            with place.open("r+b", buffering=0) as file:
                for number, mutant in enumerate(flips(data, bits)):
                    position = number // bits
                    if position % step:
                        continue
                    os.pwrite(file.fileno(), mutant[position : position + 1], position)
                    try:
                        check_site(site, KEYS)
                        accepted.append((str(place), position))
                    except InvalidInput:
                        pass
                    os.pwrite(file.fileno(), data[position : position + 1], position)
            for cut in {0, 1, len(data) // 2, len(data) - 1}:
                place.write_bytes(data[:cut])
                try:
                    check_site(site, KEYS)
                    accepted.append((str(place), -cut))
                except InvalidInput:
                    pass
            place.write_bytes(data + b"\0")
            try:
                check_site(site, KEYS)
                accepted.append((str(place), len(data)))
            except InvalidInput:
                pass
            place.write_bytes(data)
        check_site(site, KEYS)
        return accepted

    def test_no_bit_of_a_small_site_can_change(self, home: Path, tmp_path: Path) -> None:
        (shard,) = write(home, 6)
        list(write_sites(home, tmp_path / "out", KEYS))
        assert self._accepted(tmp_path / "out" / shard, 1, 8) == []

    @pytest.mark.parametrize(("step", "bits"), [(151, 1), pytest.param(1, 8, marks=pytest.mark.soak)])
    def test_nor_of_one_with_two_levels(self, home: Path, tmp_path: Path, step: int, bits: int) -> None:
        (shard,) = write(home, 260)
        list(write_sites(home, tmp_path / "out", KEYS))
        assert self._accepted(tmp_path / "out" / shard, step, bits) == []

    def test_swapped_and_older_tiles_are_noticed(self, home: Path, tmp_path: Path) -> None:
        first, second = write(home, 300, shards=2)
        out = tmp_path / "out"
        list(write_sites(home, out, KEYS))
        for path in ("tile/0/000", "tile/entries/000", "tile/0/001.p/44", "tile/1/000.p/1"):
            good = (out / first / path).read_bytes()
            (out / first / path).write_bytes((out / second / path).read_bytes())
            with pytest.raises(InvalidInput):
                check_site(out / first, KEYS)
            (out / first / path).write_bytes(good)
        (out / first / "checkpoint").write_bytes((out / second / "checkpoint").read_bytes())
        with pytest.raises(InvalidInput):
            check_site(out / first, KEYS)

    def test_a_site_is_not_rolled_back_with_the_log(self, home: Path, tmp_path: Path) -> None:
        write(home, 20)
        shutil.copytree(home, tmp_path / "old")
        write(home, 20)
        list(write_sites(home, tmp_path / "out", KEYS))
        restore(tmp_path / "old", home)
        with pytest.raises(InvalidInput, match="40 records are here already, and the log has 20"):
            list(write_sites(home, tmp_path / "out", KEYS))
        write(home, 50)
        with pytest.raises(InvalidInput, match="do not give the root"):
            list(write_sites(home, tmp_path / "out", KEYS))


class TestTheOwnerOfTheDisk:
    """Everything in the home is an older copy, or was made anew with the log's own key."""

    @pytest.fixture
    def witness(self, tmp_path: Path) -> Witness:
        return witness_of(tmp_path / "w.db")

    @pytest.fixture
    def shard(self, home: Path, tmp_path: Path, witness: Witness) -> str:
        """A log whose first 10 records are witnessed and remembered; an older copy of it; 10 more records that are witnessed."""
        (shard,) = write(home, 10)
        submit(home, shard, KEYS, witness.key, Wire(witness), clock=now)
        shutil.copytree(home, tmp_path / "old")
        write(home, 10)
        submit(home, shard, KEYS, witness.key, Wire(witness), clock=now)
        return shard

    def remembered(self, home: Path, shard: str) -> bytes:
        head = read_head(home, shard, KEY.public)
        assert head is not None
        return head.note

    def test_a_rollback_is_found_by_who_remembers(self, home: Path, tmp_path: Path, shard: str, witness: Witness) -> None:
        note = self.remembered(home, shard)
        restore(tmp_path / "old", home)
        assert verify(home, KEY.public, witnesses=[witness.key]).findings == ()  # nobody can see it in the files alone
        assert kinds(verify(home, KEY.public, since={"note": note})) == {"cut"}
        seen = fetch(shard, KEYS, witness.key, Wire(witness))
        assert seen is not None
        assert kinds(verify(home, KEY.public, since={"seen": seen.note})) == {"cut"}
        with pytest.raises(WitnessRefused, match=r"has cosigned 20 .* the log has 10"):
            submit(home, shard, KEYS, witness.key, Wire(witness), clock=now)

    @pytest.mark.parametrize("more", [10, 15])
    def test_a_fork_is_found_by_who_remembers(self, home: Path, tmp_path: Path, shard: str, witness: Witness, more: int) -> None:
        note = self.remembered(home, shard)
        restore(tmp_path / "old", home)
        write(home, more)
        assert verify(home, KEY.public).findings == ()
        assert kinds(verify(home, KEY.public, since={"note": note})) == {"fork"}
        with pytest.raises(WitnessRefused, match="it was rewritten"):
            submit(home, shard, KEYS, witness.key, Wire(witness), clock=now)
        assert kinds(verify(home, KEY.public, witnesses=[witness.key])) == {"witness"}  # and what was submitted stays uncosigned

    def test_a_fork_that_has_no_checkpoint_of_that_size_is_found(self, home: Path, tmp_path: Path, shard: str) -> None:
        note = self.remembered(home, shard)
        restore(tmp_path / "old", home)
        with Log.open(home, KEY, durability="process") as log:
            log._writer._dirty = True  # no checkpoint comes by itself
            log.append(*[small(number) for number in range(900, 930)])
        assert kinds(verify(home, KEY.public, since={"note": note})) == {"fork"}

    def test_reordered_records_are_found(self, home: Path, tmp_path: Path, shard: str) -> None:
        """With the log's key and the shard's name the owner makes the very same log, with two records in another order."""
        note = self.remembered(home, shard)
        records = [record for _, _, record in iter_records(home, shard)]
        records[3], records[4] = records[4], records[3]
        again = tmp_path / "again"
        self._make(again, shard, records)
        assert verify(again, KEY.public).findings == ()
        assert kinds(verify(again, KEY.public, since={"note": note})) == {"fork"}

    @staticmethod
    def _make(home: Path, shard: str, records: list[bytes]) -> None:
        (home / "log" / shard).mkdir(parents=True)
        write_manifest(home, (shard,), KEY)
        (home / "heads").mkdir()
        with Log.open(home, KEY) as log:
            assert log.shard == shard
            log.append(*records)

    def test_a_log_that_begins_anew_is_found(self, home: Path, tmp_path: Path, shard: str) -> None:
        note = self.remembered(home, shard)
        shutil.rmtree(home)
        write(home, 30)
        assert verify(home, KEY.public).findings == ()
        assert kinds(verify(home, KEY.public, since={"note": note})) == {"cut"}  # the shard is gone

    def test_what_was_witnessed_cannot_be_forgotten(self, home: Path, tmp_path: Path, shard: str, witness: Witness) -> None:
        good, submitted = cosigned_path(home, shard, witness.key), submitted_path(home, shard)
        note = good.read_bytes()
        older = cosigned_path(tmp_path / "old", shard, witness.key).read_bytes()
        for change in ("gone", "older", "plain", "another witness"):
            if change == "gone":
                good.unlink()
            else:
                other = cosign_by_another(note)
                good.write_bytes({"older": older, "plain": submitted.read_bytes(), "another witness": other}[change])
            assert kinds(verify(home, KEY.public, witnesses=[witness.key])) == {"witness"}, change
        good.write_bytes(note)
        assert verify(home, KEY.public, witnesses=[witness.key]).findings == ()

    def test_no_bit_of_what_is_remembered_can_change(self, home: Path, shard: str, witness: Witness) -> None:
        place = cosigned_path(home, shard, witness.key)
        note = place.read_bytes()
        accepted = []
        for mutant in flips(note, 1):
            place.write_bytes(mutant)
            if verify(home, KEY.public, witnesses=[witness.key]).ok:
                accepted.append(mutant)
        place.write_bytes(note)
        remembered = self.remembered(home, shard)
        for mutant in flips(remembered, 1):
            try:
                if verify(home, KEY.public, since={"note": mutant}).ok:
                    accepted.append(mutant)
            except InvalidInput:
                pass
        assert accepted == []

    def test_the_cosignature_of_one_shard_is_none_of_another(self, home: Path, shard: str, witness: Witness) -> None:
        with Log.open(home, KEY), Log.open(home, KEY) as second:
            second.append(small(1))
            other = second.shard
        submit(home, other, KEYS, witness.key, Wire(witness), clock=now)
        places = [cosigned_path(home, name, witness.key) for name in (shard, other)]
        notes = [place.read_bytes() for place in places]
        for place, note in zip(places, reversed(notes), strict=True):
            place.write_bytes(note)
        assert kinds(verify(home, KEY.public, witnesses=[witness.key])) == {"witness"}

    def test_a_checkpoint_of_another_log_is_not_remembered_as_ones_own(self, home: Path, shard: str) -> None:
        stranger = LocalKey.generate()
        forged, _ = head_of(records_of(20), KEYS.origin(shard), stranger)
        foreign, _ = head_of(records_of(20), LogKeys.first(stranger.public).origin(shard), stranger)
        for note in (forged, foreign, b"", b"nonsense"):
            with pytest.raises(InvalidInput, match="note"):
                verify(home, KEY.public, since={"note": note})

    def test_several_checkpoints_in_one_file_all_count(self, home: Path, tmp_path: Path, shard: str) -> None:
        notes = [self.remembered(tmp_path / "old", shard), self.remembered(home, shard)]
        assert verify(home, KEY.public, since={"notes": b"\n".join(notes)}).findings == ()
        restore(tmp_path / "old", home)
        for order in (notes, notes[::-1]):
            assert kinds(verify(home, KEY.public, since={"notes": b"\n".join(order)})) == {"cut"}


def cosign_by_another(note: bytes) -> bytes:
    """The same checkpoint, cosigned under the witness's name by somebody else."""
    taken = parse_note(note)
    line = cosign(taken.text, LocalKey.generate(), WITNESS_NAME, 1_800_000_000)
    return Note(taken.text, taken.signatures[:1]).format() + line.encode()


class TestWhoHasAnOldKey:
    """The log's key was stolen, then rotated. `KEY` is the stolen one."""

    @pytest.fixture
    def before(self, home: Path, tmp_path: Path) -> Path:
        """The home as it was before the rotation."""
        ring_with(home)
        write(home, 10, shards=2)
        shutil.copytree(home, tmp_path / "before")
        return tmp_path / "before"

    @pytest.fixture
    def new(self, home: Path, before: Path) -> LocalKey:
        new = rotated(home, KeyRing(home / "keys"))
        write(home, 5, key=new, shards=2)
        return new

    def both(self, home: Path, new: LocalKey) -> tuple[set[str], set[str]]:
        """What the holders of the old and of the new key find."""
        return kinds(verify(home, KEY.public)), kinds(verify(home, LogKeys(KEYS.name, (new.public,))))

    def test_cannot_go_on_with_one_shard_as_if_it_had_not_been_rotated(self, home: Path, before: Path, new: LocalKey) -> None:
        write(before, 30, shards=2)  # with the old key
        for shard in [path.name for path in (before / "heads").iterdir()]:
            for part in (f"log/{shard}", f"heads/{shard}"):
                target = home / part
                shutil.rmtree(target) if target.is_dir() else target.unlink()
                (shutil.copytree if (before / part).is_dir() else shutil.copy)(before / part, target)
            old, now_ = self.both(home, new)
            assert "key" in old & now_
        with pytest.raises(InvalidInput):
            Log.open(home, new)

    def test_cannot_sign_what_comes_after_the_handover(self, home: Path, new: LocalKey) -> None:
        """Appends to the segment of a rotated shard: the frames, seals and roots are right, only the key is the old one."""
        shard = sorted(path.name for path in (home / "heads").iterdir())[0]
        (segment,) = (home / "log" / shard).glob("*.seg")
        frontier = Frontier()
        frontier.extend([leaf_hash(record) for _, _, record in iter_records(home, shard)])
        head = read_head(home, shard, new.public)
        assert head is not None
        text = parse_note(head.note).text.replace("state shut", "state open")
        note = NoteSigner(KEY, KEYS.origin(shard)).sign(text)
        with segment.open("ab") as file:
            file.write(encode(CHECKPOINT, frontier.size, note))
        (home / "heads" / shard).write_bytes(note)
        assert all("signature" in found for found in self.both(home, new))
        with pytest.raises(InvalidInput):
            Log.open(home, new)

    def test_cannot_add_a_shard(self, home: Path, before: Path, new: LocalKey) -> None:
        with Log.open(before, KEY), Log.open(before, KEY), Log.open(before, KEY) as third:
            third.append(small(1))
        for part in (f"log/{third.shard}", f"heads/{third.shard}"):
            (shutil.copytree if (before / part).is_dir() else shutil.copy)(before / part, home / part)
        assert all(found for found in self.both(home, new))
        (home / "log" / "manifest").write_bytes((before / "log" / "manifest").read_bytes())
        assert all(found for found in self.both(home, new))

    def test_cannot_undo_the_rotation_for_who_knows_the_new_key(self, home: Path, before: Path, new: LocalKey) -> None:
        restore(before, home)
        write(home, 30)
        old, now_ = self.both(home, new)
        assert now_ >= {"manifest"}
        assert old == set()  # who knows the old key only cannot see it: docs/transparency.md

    def test_cannot_undo_it_for_who_remembers(self, home: Path, before: Path, new: LocalKey) -> None:
        remembered = {path.name: path.read_bytes() for path in (home / "heads").iterdir()}
        restore(before, home)
        write(home, 30)
        with pytest.raises(InvalidInput, match="no signature by the key"):
            verify(home, KEY.public, since=remembered)

    def test_cannot_appoint_another_successor(self, home: Path, before: Path, new: LocalKey) -> None:
        restore(before, home)
        own = rotated(home, KeyRing(home / "keys"))
        assert kinds(verify(home, LogKeys(KEYS.name, (new.public,)))) >= {"manifest"}
        assert verify(home, own.public).ok  # for those who know this one, or the stolen one only, it is a log

    def test_cannot_list_keys_that_nobody_handed_over_to(self, home: Path, new: LocalKey) -> None:
        mallory = LocalKey.generate()
        shards = tuple(sorted(path.name for path in (home / "heads").iterdir()))
        for keys in ((KEY, mallory), (KEY, new, mallory), (mallory, KEY, new), (new, KEY)):
            listed = LogKeys(KEYS.name, tuple(key.public for key in keys))
            write_manifest(home, shards, keys[-1], listed)
            assert all(found for found in self.both(home, new))

    def test_who_never_had_a_key_cannot_make_a_log_in_its_name(self, home: Path) -> None:
        """Everything is signed by a key that the manifest lists behind the real one. Only that this one ever handed over is missing."""
        mallory = LocalKey.generate()
        (home / "log").mkdir(parents=True)
        write_manifest(home, (), mallory, LogKeys(KEYS.name, (KEY.public, mallory.public)))
        write(home, 5, key=mallory, shards=2)
        for key in (KEY.public, KEYS, LogKeys(KEYS.name, (mallory.public,))):
            assert kinds(verify(home, key)) == {"key"}


class TestForgedHandovers:
    SHARD = "00112233aabbccdd"
    ORIGIN = KEYS.origin(SHARD)

    def record(self, old: LocalKey = KEY, new: LocalKey = WITNESS_KEY, origin: str | None = None, size: int = 3) -> bytes:
        return compose_handover(
            origin or self.ORIGIN, size, bytes(32), old, new, time_ns=1_700_000_000 * 10**9, identity="x", by="ops", reason=""
        )

    def test_without_both_signatures_are_errors(self) -> None:
        assert read_handover(self.record(), self.ORIGIN) is not None
        members = json.loads(self.record())
        lines = members["detail"]["handover"].split("\n")
        signed = [number for number, line in enumerate(lines) if line.startswith("\u2014")]
        assert len(signed) == 2
        for number in signed:
            members["detail"]["handover"] = "\n".join(line for at, line in enumerate(lines) if at != number)
            with pytest.raises(InvalidInput, match="no signature by the key"):
                read_handover(canonical(**members), self.ORIGIN)

    def test_to_the_same_key_or_of_another_form_are_errors(self) -> None:
        with pytest.raises(InvalidInput, match="one form"):
            read_handover(self.record(new=KEY), self.ORIGIN)
        for change in ("key", "time", "nonsense"):
            members = json.loads(self.record())
            text = parse_note(members["detail"]["handover"].encode()).text
            changed = {"key": text.replace("\nkey ", "\nkey  "), "time": text.replace("time ", "TIME "), "nonsense": "a\n1\n"}[change]
            note = NoteSigner(KEY, self.ORIGIN).sign(changed)
            members["detail"]["handover"] = note.decode()
            with pytest.raises(InvalidInput):
                read_handover(canonical(**members), self.ORIGIN)

    @pytest.mark.parametrize(
        "record",
        [
            canonical(id="x", type="decision", tool='"type":"key"'),
            canonical(id="x", type="decision", detail={"type": "key", "handover": "x"}),
            canonical(id="x", type="key", detail={"reason": "x"}),
            canonical(id="x", type="key"),
        ],
    )
    def test_what_only_looks_like_one_is_none(self, record: bytes) -> None:
        assert read_handover(record, self.ORIGIN) is None

    def test_in_a_log_where_they_do_not_belong_are_found(self, home: Path) -> None:
        """The log's owner writes handovers of his own making among the records, each in an append of its own."""
        with Log.open(home, KEY, durability="fsync") as log:
            log.append(small(1))
            log.append(self.record(origin=log.origin, size=1))  # the root is another one
        assert kinds(verify(home, KEY.public)) == {"signature"}

    def test_cannot_be_repeated(self, home: Path) -> None:
        ring = ring_with(home)
        (shard,) = write(home, 3)
        new = rotated(home, ring)
        (record,) = [data for _, _, data in iter_records(home, shard) if read_handover(data, KEYS.origin(shard)) is not None]
        with Log.open(home, new) as log:
            log.append(record.replace(b'"id":"', b'"id":"again-'))
        assert kinds(verify(home, new.public)) == {"signature"}


class TestTheWitnessItself:
    ORIGIN = KEYS.origin("00112233aabbccdd")

    def test_does_not_take_one_log_for_another(self, tmp_path: Path) -> None:
        """Two logs that it knows: each signs for itself, even if it signs under the other's name."""
        other = LocalKey.generate()
        known = [KEYS.verifier_key(), LogKeys.first(other.public).verifier_key()]
        with Witness(tmp_path / "w.db", WITNESS_KEY, WITNESS_NAME, Logs(known)) as witness:
            checkpoint = head_of(records_of(3), self.ORIGIN)[1]
            assert witness.add_checkpoint(Growth(0, (), sign_checkpoint(checkpoint, other)).format()).status == 403
            own = LogKeys.first(other.public).origin("00112233aabbccdd")
            crossed = NoteSigner(other, own).sign(checkpoint.text())  # the other log's key under its own name, on the first one's text
            assert witness.add_checkpoint(Growth(0, (), crossed).format()).status == 403
            assert witness.add_checkpoint(Growth(0, (), head_of(records_of(3), self.ORIGIN)[0]).format()).status == 200

    def test_does_not_give_out_signatures_that_it_did_not_check(self, tmp_path: Path) -> None:
        with witness_of(tmp_path / "w.db") as witness:
            note = head_of(records_of(3), self.ORIGIN)[0]
            stuffed = note + cosign_by_another(note)[len(note) :]
            assert witness.add_checkpoint(Growth(0, (), stuffed).format()).status == 200
            latest = parse_note(witness.latest(hashlib.sha256(self.ORIGIN.encode()).hexdigest()).body)
            assert [item.name for item in latest.signatures] == [self.ORIGIN, WITNESS_NAME]

    def test_takes_no_more_signatures_than_it_can_look_at(self, tmp_path: Path) -> None:
        with witness_of(tmp_path / "w.db") as witness:
            note = head_of(records_of(3), self.ORIGIN)[0]
            line = cosign_by_another(note)[len(note) :]
            assert witness.add_checkpoint(Growth(0, (), note + line * 16).format()).status == 400
            assert witness.add_checkpoint(Growth(0, (), note + line * 15).format()).status == 200

    def test_no_bit_of_a_request_can_change(self, tmp_path: Path) -> None:
        leaves = records_of(5)
        with witness_of(tmp_path / "w.db") as witness:
            assert witness.add_checkpoint(Growth(0, (), head_of(leaves[:3], self.ORIGIN)[0]).format()).status == 200
            path = consistency_proof(nodes_of([leaf_hash(leaf) for leaf in leaves]), 3, 5)
            request = Growth(3, path, head_of(leaves, self.ORIGIN)[0]).format()
            answers = {witness.add_checkpoint(mutant).status for mutant in flips(request)}
            assert answers <= {400, 403, 404, 409, 422}
            assert witness.add_checkpoint(request).status == 200
