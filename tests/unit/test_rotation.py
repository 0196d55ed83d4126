"""Rotation of the log's key (log/rotation.py, log/handover.py): what each key proves, and a process that dies anywhere in between."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentguard import Guard
from agentguard.errors import EvidenceUnavailable, InvalidInput
from agentguard.home import Home
from agentguard.keys import KeyRing, LocalKey, PublicKey
from agentguard.log import Log, iter_records, read_record, read_shards, verify
from agentguard.log.checkpoint import parse_checkpoint, parse_note
from agentguard.log.handover import Handover, Succession, read_handover
from agentguard.log.heads import read_head
from agentguard.log.identity import LogKeys, is_log_name, parse_log_key
from agentguard.log.manifest import all_keys, keys_of, read_manifest, write_manifest
from agentguard.log.proofs import check_inclusion, prove_growth, prove_inclusion
from agentguard.log.rotation import rotate
from agentguard.log.site import check_site, write_sites
from support.logs import KEY, small
from support.transparency import KEYS, ring_with, rotated, write


def handovers(home: Path, shard: str) -> list[int]:
    return [number for _, number, record in iter_records(home, shard) if read_handover(record, KEYS.origin(shard)) is not None]


class TestTheName:
    def test_is_that_of_the_first_key_for_good(self, tmp_path: Path) -> None:
        ring = ring_with(tmp_path)
        write(tmp_path, 3)
        new = rotated(tmp_path, ring)
        assert keys_of(tmp_path, new.public) == LogKeys(KEYS.name, (new.public,))
        assert all_keys(tmp_path, new.public) == LogKeys(KEYS.name, (KEY.public, new.public))
        with Log.open(tmp_path, new) as log:
            assert log.origin == KEYS.origin(log.shard)
        assert parse_log_key(keys_of(tmp_path, new.public).verifier_key()) == LogKeys(KEYS.name, (new.public,))

    def test_of_a_log_without_a_manifest_is_made_from_the_key(self, tmp_path: Path) -> None:
        assert keys_of(tmp_path, KEY.public) == KEYS
        assert all_keys(tmp_path, KEY.public) == KEYS

    def test_of_a_shard_is_taken_for_its_log(self) -> None:
        assert parse_log_key(KEYS.verifier_key("00112233aabbccdd")) == parse_log_key(KEYS.verifier_key()) == KEYS
        assert is_log_name(KEYS.name)
        assert not is_log_name(KEYS.origin("00112233aabbccdd"))
        with pytest.raises(InvalidInput, match="no agentguard log"):
            parse_log_key(LogKeys("example.com/x", (KEY.public,)).verifier_key())


def test_each_key_there_was_proves_the_whole_log(tmp_path: Path) -> None:
    ring, keys = ring_with(tmp_path), [KEY]
    shards = write(tmp_path, 3, shards=2)
    for _ in range(3):
        keys.append(rotated(tmp_path, ring))
        write(tmp_path, 2, shards=3, key=keys[-1])
    for key in keys:
        assert verify(tmp_path, key.public).findings == ()
        assert verify(tmp_path, LogKeys(KEYS.name, (key.public,))).findings == ()
    assert all(len(handovers(tmp_path, shard)) == 3 for shard in shards)
    manifest = read_manifest(tmp_path, keys[-1].public)
    assert manifest is not None
    assert manifest.keys.keys == tuple(key.public for key in keys)
    assert manifest.version == len(read_shards(tmp_path)) + 3
    assert not verify(tmp_path, LocalKey.generate().public).ok


def test_the_record_is_signed_by_both_and_pins_all_before_it(tmp_path: Path) -> None:
    ring = ring_with(tmp_path)
    (shard,) = write(tmp_path, 7)
    before = read_head(tmp_path, shard, KEY.public)
    assert before is not None
    new = rotated(tmp_path, ring)
    (index,) = handovers(tmp_path, shard)
    record = read_record(tmp_path, shard, index)
    handover = read_handover(record, KEYS.origin(shard))
    assert handover is not None
    assert (handover.size, handover.root, handover.old, handover.new) == (7, before.root, KEY.public, new.public)
    members = json.loads(record)
    assert (members["type"], members["by"], members["detail"]["reason"]) == ("key", "ops", "test")
    with pytest.raises(InvalidInput):
        read_handover(record, KEYS.origin("0" * 16))  # of another shard


def test_the_old_key_is_gone_and_opens_nothing(tmp_path: Path) -> None:
    ring = ring_with(tmp_path)
    write(tmp_path, 3)
    new = rotated(tmp_path, ring)
    assert {path.name for path in (tmp_path / "keys").iterdir()} == {"log.pem"}
    assert KeyRing(tmp_path / "keys").log().public == new.public != KEY.public
    with pytest.raises(InvalidInput, match="not of this log: no signature by the key"):
        Log.open(tmp_path, KEY)


def test_a_log_that_is_being_written_keeps_its_key(tmp_path: Path) -> None:
    ring = ring_with(tmp_path)
    with Log.open(tmp_path, KEY) as log:
        log.append(small(1))
        with pytest.raises(InvalidInput, match=f"shard {log.shard} is being written .*stop the guards"):
            rotate(tmp_path, ring, by="ops")
        log.append(small(2))
    assert ring.log().public == KEY.public
    assert verify(tmp_path, KEY.public).findings == ()


def test_without_a_log_there_is_nothing_to_rotate(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="there is no log here"):
        rotate(tmp_path, ring_with(tmp_path), by="ops")


def test_a_damaged_log_is_not_handed_over(tmp_path: Path) -> None:
    ring = ring_with(tmp_path)
    write(tmp_path, 5)
    (segment,) = (tmp_path / "log").glob("*/*.seg")
    data = segment.read_bytes()
    segment.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    with pytest.raises(InvalidInput):
        rotate(tmp_path, ring, by="ops")
    assert ring.log().public == KEY.public  # nothing was begun


def test_shards_without_records_and_shards_never_begun_follow(tmp_path: Path) -> None:
    ring = ring_with(tmp_path)
    empty = write(tmp_path, 0, shards=2)
    never = tmp_path / "log" / empty[1]
    for path in (*never.glob("*.seg"), tmp_path / "heads" / empty[1]):
        path.unlink()  # as if its process had died right after adding it
    assert [finding.severity for finding in verify(tmp_path, KEY.public).findings] == ["warning"]
    new = rotated(tmp_path, ring)
    for key in (KEY, new):
        assert verify(tmp_path, key.public).findings == ()
    assert (len(handovers(tmp_path, empty[0])), len(handovers(tmp_path, empty[1]))) == (1, 0)


def test_records_that_a_killed_writer_left_unsigned_are_signed_by_the_old_key_first(tmp_path: Path) -> None:
    ring = ring_with(tmp_path)
    child = os.fork()
    if not child:
        log = Log.open(tmp_path, KEY, durability="process")
        log._writer._dirty = True  # no checkpoint comes by itself
        log.append(small(1), small(2))
        os._exit(0)
    os.waitpid(child, 0)
    assert [finding.kind for finding in verify(tmp_path, KEY.public).findings] == ["unsigned"]
    new = rotated(tmp_path, ring)
    for key in (KEY, new):
        assert verify(tmp_path, key.public).findings == ()


def test_guards_go_on_under_the_new_key(tmp_path: Path) -> None:
    policy = "agentguard: 1\nname: r\nagents: {triage: {tools: {search: {query: any}}}}\n"

    def run() -> None:
        with Guard.open(policy, home=tmp_path, durability="process") as guard:

            @guard.tool
            def search(query: str) -> str:
                return query

            with guard.task("triage", initiator="user:alice"):
                assert search(query="x") == "x"

    run()
    old = KeyRing(tmp_path / "keys").log().public
    new = rotated(tmp_path, KeyRing(tmp_path / "keys"))
    run()
    for key in (old, new.public):
        assert verify(tmp_path, key).findings == ()


def test_sites_and_proofs_go_on_under_the_new_key(tmp_path: Path) -> None:
    home, out = tmp_path / "home", tmp_path / "out"
    ring = ring_with(home)
    (shard,) = write(home, 5)
    list(write_sites(home, out, KEY.public))
    note = (out / shard / "checkpoint").read_bytes()
    new = rotated(home, ring)
    keys = keys_of(home, new.public)
    assert [(site.before, site.size) for site in write_sites(home, out, new.public)] == [(5, 6)]
    assert check_site(out / shard, keys).size == 6
    assert check_inclusion(prove_inclusion(home, shard, 2, new.public, read_record(home, shard, 2)).format(), keys).index == 2
    old = read_head_of(note)
    assert prove_growth(home, shard, 5, old, new.public).old == 5
    assert verify(home, KEY.public, since={"old": note}).findings == ()


def read_head_of(note: bytes) -> bytes:
    return parse_checkpoint(parse_note(note).text).root


class TestSuccession:
    """What a verifier takes for a change of keys, each condition by itself."""

    FIRST, SECOND, THIRD = (LocalKey.from_seed(bytes([number]) * 32).public for number in (1, 2, 3))
    ROOT = bytes(32)

    def succession(self) -> Succession:
        return Succession(LogKeys("agentguard/0011223344556677", (self.FIRST, self.SECOND, self.THIRD)))

    def test_goes_from_each_key_to_the_next(self) -> None:
        keys = self.succession()
        assert keys.unproven() == [self.SECOND, self.THIRD]
        assert keys.hand_over(Handover(3, self.ROOT, self.FIRST, self.SECOND), self.FIRST, 3, self.ROOT) == self.SECOND
        assert keys.unproven() == [self.THIRD]
        assert keys.hand_over(Handover(9, self.ROOT, self.SECOND, self.THIRD), self.SECOND, 9, self.ROOT) == self.THIRD
        assert keys.unproven() == []

    @pytest.mark.parametrize(
        ("handover", "in_force", "message"),
        [
            (Handover(4, ROOT, FIRST, SECOND), FIRST, "about another history"),
            (Handover(3, b"x" * 32, FIRST, SECOND), FIRST, "about another history"),
            (Handover(3, ROOT, FIRST, SECOND), SECOND, "was not in force"),
            (Handover(3, ROOT, FIRST, SECOND), None, "was not in force"),
            (Handover(3, ROOT, FIRST, THIRD), FIRST, "does not list next"),
            (Handover(3, ROOT, SECOND, FIRST), SECOND, "does not list next"),
            (Handover(3, ROOT, THIRD, FIRST), THIRD, "does not list next"),
        ],
    )
    def test_goes_no_other_way(self, handover: Handover, in_force: PublicKey | None, message: str) -> None:
        keys = self.succession()
        with pytest.raises(InvalidInput, match=message):
            keys.hand_over(handover, in_force, 3, self.ROOT)
        assert keys.unproven() == [self.SECOND, self.THIRD]


class TestTheManifest:
    @pytest.mark.parametrize("order", ["km", "mkn", "nk", "knkn", "kk"])
    def test_lists_the_keys_from_the_first_to_the_one_in_force(self, tmp_path: Path, order: str) -> None:
        """k: the first key, whose name the log has; n: the one in force; m: somebody else's."""
        new, mallory = LocalKey.from_seed(b"n" * 32), LocalKey.from_seed(b"m" * 32)
        (tmp_path / "log").mkdir()
        in_force = KEY if order[-1] == "k" else new
        named = {"k": KEY.public, "n": new.public, "m": mallory.public}
        write_manifest(tmp_path, (), in_force, LogKeys(KEYS.name, tuple(named[letter] for letter in order)))
        with pytest.raises(InvalidInput, match="not in its one form"):
            read_manifest(tmp_path, in_force.public)

    def test_of_another_name_or_key_is_not_of_this_log(self, tmp_path: Path) -> None:
        (tmp_path / "log").mkdir()
        write_manifest(tmp_path, (), KEY)
        for keys in (LogKeys("agentguard/0011223344556677", (KEY.public,)), LogKeys(KEYS.name, (LocalKey.generate().public,))):
            with pytest.raises(InvalidInput, match="not of this log"):
                read_manifest(tmp_path, keys)


class TestInterrupted:
    #: Whatever changes the disk. A process that dies, dies at one of these.
    CALLS = ("write", "fsync", "fdatasync", "replace", "link", "ftruncate", "open")

    @pytest.fixture
    def prepared(self, tmp_path: Path) -> Path:
        home = tmp_path / "prepared"
        ring_with(home)
        write(home, 3, shards=2)
        return home

    @staticmethod
    def _dying(home: Path, at: int, torn: bool) -> int:
        """Rotate in a process that dies at its `at`-th call; its exit status, 0 if it came to its end before."""
        child = os.fork()
        if child:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        calls = 0

        def fatal(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == at:
                    if torn and name == "write":
                        real(arguments[0], arguments[1][: len(arguments[1]) // 2])
                    os._exit(9)
                return real(*arguments, **options)

            return call

        try:
            for name in TestInterrupted.CALLS:
                setattr(os, name, fatal(name, getattr(os, name)))
            from agentguard.log import layout, shard

            layout.datasync = os.fdatasync  # type: ignore[misc]
            shard.datasync = os.fdatasync
            rotate(home, KeyRing(home / "keys"), by="ops")
            os._exit(0)
        except BaseException:
            os._exit(1)

    @pytest.mark.parametrize("stride", [5, pytest.param(1, marks=pytest.mark.soak)])
    def test_anywhere_it_is_finished_by_doing_it_again(self, prepared: Path, tmp_path: Path, stride: int) -> None:
        steps: set[str] = set()
        at, status = 0, 9
        while status == 9:
            at += stride
            home = tmp_path / str(at)
            shutil.copytree(prepared, home)
            status = self._dying(home, at, torn=bool(at % 2))
            assert status in (0, 9)
            steps.add(self._state(home))
            self._finish(home)
            shutil.rmtree(home)
        assert at > 40  # it changes the disk so often
        assert steps == {"not begun", "begun", "done"}

    @staticmethod
    def _state(home: Path) -> str:
        """Where it stands, and that nobody takes it for something else."""
        ring = KeyRing(home / "keys")
        current, following = ring.log_succession()
        kinds = {finding.kind for finding in verify(home, current.public).findings}
        if following is not None:
            with pytest.raises(InvalidInput, match=r"the rotation was not finished .*rotate-key"):
                Home(home)
            assert kinds <= {"head", "manifest", "signature", "key", "tail", "behind", "unsigned"}
            return "begun"
        assert kinds <= {"tail", "behind"}
        return "not begun" if current.public == KEY.public else "done"

    @staticmethod
    def _finish(home: Path) -> None:
        ring = KeyRing(home / "keys")
        current, _ = ring.log_succession()
        if current.public == KEY.public:
            rotate(home, ring, by="ops")
        new = ring.log()
        for key in (KEY, new):
            report = verify(home, key.public)
            assert {finding.kind for finding in report.findings} <= {"behind"}  # a warning: the last head was not written any more
            assert [shard.size for shard in report.shards] == [4, 4]  # three records and one handover
        with Log.open(home, new) as one, Log.open(home, new) as other:
            one.append(small(1))
            other.append(small(2))
        assert verify(home, KEY.public).findings == verify(home, new.public).findings == ()

    def test_by_a_full_disk_it_says_so(self, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        home = tmp_path / "home"
        shutil.copytree(prepared, home)

        def full(*_: Any, **__: Any) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("agentguard.log.shard.datasync", full)
            with pytest.raises(EvidenceUnavailable, match="No space left"):
                rotate(home, KeyRing(home / "keys"), by="ops")
        self._finish(home)
