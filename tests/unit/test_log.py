"""The log as its writer sees it (log/log.py, log/shard.py, log/recovery.py, log/reader.py)."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agentguard.errors import EvidenceUnavailable, InvalidInput
from agentguard.keys import LocalKey, PublicKey
from agentguard.log import Durability, Log, iter_records, read_record, read_shards, verify
from agentguard.log.checkpoint import open_checkpoint
from agentguard.log.heads import read_head
from agentguard.log.manifest import read_manifest
from agentguard.log.merkle import leaf_hash, root_of
from support.logs import KEY, START_NS, Ticking, fresh, open_log, small

BOTH: tuple[Durability, ...] = ("fsync", "process")


def in_child(work: Callable[[], None]) -> None:
    """Run `work` in a forked child, which leaves without cleaning up, and wait for it."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


def records_of(home: Path) -> list[bytes]:
    return [record for _, _, record in iter_records(home)]


@pytest.mark.parametrize("durability", BOTH)
class TestAppend:
    def test_what_is_appended_is_read_back_in_order(self, tmp_path: Path, durability: Durability) -> None:
        with open_log(tmp_path, durability) as log:
            assert log.size == 0
            assert log.append(b"one") == 0
            assert log.append(b"two", b"three") == 1
            assert (log.size, log.poisoned) == (3, None)
            assert list(iter_records(tmp_path)) == [(log.shard, index, text) for index, text in enumerate([b"one", b"two", b"three"])]
            assert list(log.records(start=2)) == [(2, b"three")]
            shard = log.shard
        assert read_shards(tmp_path) == (shard,)
        assert read_record(tmp_path, shard, 1) == b"two"

    def test_the_root_is_that_of_rfc_6962(self, tmp_path: Path, durability: Durability) -> None:
        with open_log(tmp_path, durability) as log:
            for number in range(21):
                log.append(small(number))
            checkpoint = open_checkpoint(log.checkpoint(), KEY.public, log.origin)
        assert checkpoint.size == 21
        assert checkpoint.root == root_of([leaf_hash(small(number)) for number in range(21)])
        assert checkpoint.origin == f"agentguard/d481b6b4c1fb276c/{log.shard}"

    def test_sizes(self, tmp_path: Path, durability: Durability) -> None:
        with open_log(tmp_path, durability) as log:
            log.append(b"x")
            log.append(b"x" * 65_535)
            for wrong in (b"", b"x" * 65_536, bytearray(b"x"), "x"):
                with pytest.raises(InvalidInput, match="1 to 65535 bytes"):
                    log.append(b"good", wrong)  # type: ignore[arg-type]  # that is the point
            with pytest.raises(InvalidInput, match="nothing"):
                log.append()
            assert log.append(b"after") == 2

    def test_threads(self, tmp_path: Path, durability: Durability) -> None:
        with open_log(tmp_path, durability, segment_bytes=3000) as log:
            acknowledged: list[tuple[int, bytes]] = []

            def work(name: int) -> None:
                for number in range(20):
                    record = small(name * 1000 + number)
                    acknowledged.append((log.append(record), record))

            threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert sorted(acknowledged) == [(index, record) for _, index, record in iter_records(tmp_path)]
        assert verify(tmp_path, KEY.public).findings == ()

    def test_segments_go_on_where_the_last_one_ended(self, tmp_path: Path, durability: Durability) -> None:
        with open_log(tmp_path, durability, segment_bytes=1500) as log:
            for number in range(40):
                log.append(small(number))
        names = sorted(path.name for path in (tmp_path / "log" / log.shard).glob("*.seg"))
        assert len(names) > 2
        assert names[0] == f"{0:020d}.seg"
        with open_log(tmp_path, durability, segment_bytes=1500) as log:
            assert log.append(small(40)) == 40
        assert records_of(tmp_path) == [small(number) for number in range(41)]
        for start in (0, 1, int(names[1][:20]) - 1, int(names[1][:20]), 39, 40, 41):
            assert [index for _, index, _ in iter_records(tmp_path, log.shard, start)] == list(range(start, 41))
            if start < 41:
                assert read_record(tmp_path, log.shard, start) == small(start)
        assert verify(tmp_path, KEY.public).findings == ()

    def test_reopening_takes_the_same_shard_and_no_other(self, tmp_path: Path, durability: Durability) -> None:
        shards = set()
        for number in range(3):
            with open_log(tmp_path, durability) as log:
                assert log.append(small(number)) == number
                shards.add(log.shard)
        assert len(shards) == 1
        size = (tmp_path / "log" / log.shard / f"{0:020d}.seg").stat().st_size
        open_log(tmp_path, durability).close()  # nothing to say, so nothing is written
        assert (tmp_path / "log" / log.shard / f"{0:020d}.seg").stat().st_size == size

    def test_several_logs_on_one_home_have_shards_of_their_own(self, tmp_path: Path, durability: Durability) -> None:
        with open_log(tmp_path, durability) as first, open_log(tmp_path, durability) as second, open_log(tmp_path, durability) as third:
            assert len({first.shard, second.shard, third.shard}) == 3
            for log in (first, second, third):
                log.append(b'{"id":"%s"}' % log.shard.encode())
            manifest = read_manifest(tmp_path, KEY.public)
            assert manifest is not None
            assert manifest.version == 3
            assert set(manifest.shards) == {first.shard, second.shard, third.shard}
            second.close()
            with open_log(tmp_path, durability) as again:
                assert again.shard == second.shard
        assert verify(tmp_path, KEY.public).findings == ()

    def test_files_are_private(self, tmp_path: Path, durability: Durability) -> None:
        home = tmp_path / "home"
        with open_log(home, durability) as log:
            log.append(b"x")
        for path in home.rglob("*"):
            assert path.stat().st_mode & 0o077 == 0, path

    def test_the_time_of_the_last_checkpoint_is_known(self, tmp_path: Path, durability: Durability) -> None:
        clock = Ticking()
        with Log.open(tmp_path, KEY, durability=durability, clock=clock) as log:
            assert log.last_time_ns == 0
            log.append(b"x")
        with Log.open(tmp_path, KEY, durability=durability, clock=Ticking(START_NS - 10**12)) as log:
            assert log.last_time_ns == clock.now

    def test_a_closed_log_refuses(self, tmp_path: Path, durability: Durability) -> None:
        log = open_log(tmp_path, durability)
        log.append(b"x")
        log.close()
        log.close()
        with pytest.raises(EvidenceUnavailable, match="closed"):
            log.append(b"y")

    def test_the_guard_can_poison_it(self, tmp_path: Path, durability: Durability) -> None:
        with open_log(tmp_path, durability) as log:
            log.append(b"x")
            log.poison("an outcome is missing")
            with pytest.raises(EvidenceUnavailable, match="an outcome is missing"):
                log.append(b"y")
            with pytest.raises(EvidenceUnavailable, match="an outcome is missing"):
                log.checkpoint()
        with open_log(tmp_path, durability) as log:
            assert log.append(b"y") == 1


@pytest.mark.parametrize("durability", BOTH)
class TestProcesses:
    def test_a_forked_child_writes_a_shard_of_its_own(self, tmp_path: Path, durability: Durability) -> None:
        log = open_log(tmp_path, durability)
        mine = log.shard
        log.append(b'{"id":"before"}')

        def child() -> None:
            assert log.append(b'{"id":"child"}') == 0
            assert log.shard != mine
            log.close()

        in_child(child)
        in_child(lambda: log.close())  # a child that never wrote: closing must not touch the parent's shard
        in_child(lambda: None)
        with open_log(tmp_path, durability) as other:
            assert other.shard != mine, "the parent's lock was lost"
        assert log.append(b'{"id":"after"}') == 1
        log.close()
        assert sorted(records_of(tmp_path)) == [b'{"id":"after"}', b'{"id":"before"}', b'{"id":"child"}']
        assert verify(tmp_path, KEY.public).findings == ()

    def test_fork_while_threads_append(self, tmp_path: Path, durability: Durability) -> None:
        log = open_log(tmp_path, durability)
        stop = threading.Event()
        records = fresh()
        lock = threading.Lock()

        def work() -> None:
            while not stop.is_set():
                with lock:
                    record = next(records)
                log.append(record)

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for number in range(5):

            def child(number: int = number) -> None:
                for at in range(5):
                    log.append(b'{"id":"c%d-%d"}' % (number, at))
                log.close()

            in_child(child)
        stop.set()
        for thread in threads:
            thread.join()
        log.close()
        report = verify(tmp_path, KEY.public)
        assert report.findings == ()
        assert sum(b'"c' in record for record in records_of(tmp_path)) == 25

    def test_kill_9_loses_nothing_that_was_acknowledged(self, tmp_path: Path, durability: Durability) -> None:
        for round_ in range(4):
            reader, writer = os.pipe()
            pid = os.fork()
            if pid == 0:
                log = open_log(tmp_path, durability, segment_bytes=20_000)
                number = 0
                while True:
                    record = b'{"id":"%d-%d"}' % (round_, number)
                    log.append(record)
                    os.write(writer, record + b"\n")
                    number += 1
            os.close(writer)
            time.sleep(0.15)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            with os.fdopen(reader, "rb") as pipe:
                acknowledged = pipe.read().splitlines()
            open_log(tmp_path, durability).close()
            present = set(records_of(tmp_path))
            assert acknowledged
            assert present.issuperset(acknowledged[:-1])  # the last line may be half written
            assert len([record for record in present if record.startswith(b'{"id":"%d-' % round_)]) <= len(acknowledged) + 1
        assert verify(tmp_path, KEY.public).ok

    def test_a_log_that_is_dropped_or_open_at_exit_is_closed_properly(self, tmp_path: Path, durability: Durability) -> None:
        log = open_log(tmp_path, durability)
        shard = log.shard
        log.append(b'{"id":"a"}')
        del log
        gc.collect()
        deadline = time.monotonic() + 5
        while (head := read_head(tmp_path, shard, KEY.public)) is None or not head.final:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        code = (
            "import sys; from pathlib import Path; from agentguard.keys import LocalKey; from agentguard.log import Log\n"
            f"log = Log.open(Path({str(tmp_path)!r}), LocalKey.from_seed(bytes(range(32))), durability={durability!r})\n"
            'log.append(b\'{"id":"b"}\')'
        )
        subprocess.run([sys.executable, "-c", code], check=True)
        assert verify(tmp_path, KEY.public).findings == ()
        assert records_of(tmp_path) == [b'{"id":"a"}', b'{"id":"b"}']


class TestCheckpoints:
    def test_in_process_durability_a_checkpoint_follows_within_100_ms(self, tmp_path: Path) -> None:
        log = open_log(tmp_path, "process")
        for number in range(3):
            log.append(small(number))
            deadline = time.monotonic() + 2  # a loaded machine may be late; the aim is 0.1
            while (head := read_head(tmp_path, log.shard, KEY.public)) is None or head.size != number + 1:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        log.close()
        head = read_head(tmp_path, log.shard, KEY.public)
        assert head is not None
        assert (head.size, head.final) == (3, True)

    def test_in_fsync_durability_every_append_is_remembered(self, tmp_path: Path) -> None:
        with open_log(tmp_path, "fsync") as log:
            for number in range(3):
                log.append(small(number))
                head = read_head(tmp_path, log.shard, KEY.public)
                assert head is not None
                assert head.size == number + 1

    def test_closing_at_the_very_moment_of_a_checkpoint(self, tmp_path: Path) -> None:
        """`close` between the end of the checkpointer's sleep and its next step; its wake-up was lost once, and `close` never returned."""

        class Unlucky(threading.Event):
            def wait(self, timeout: float | None = None) -> bool:
                slept = super().wait(timeout)
                if not slept:
                    super().wait(5)  # close comes now
                return slept

        log = open_log(tmp_path, "process")
        log._writer._stop = Unlucky()
        log.append(small(0))
        time.sleep(0.15)
        closing = threading.Thread(target=log.close, daemon=True)
        closing.start()
        closing.join(4)
        assert not closing.is_alive()
        assert verify(tmp_path, KEY.public).findings == ()

    def test_many_checkpoints_and_appends_at_once(self, tmp_path: Path) -> None:
        with open_log(tmp_path, "process", segment_bytes=4000) as log:
            thread = threading.Thread(target=lambda: [log.checkpoint() for _ in range(60)])
            thread.start()
            for number in range(300):
                log.append(small(number))
            thread.join()
        assert verify(tmp_path, KEY.public).findings == ()


class Broken:
    """A signer whose key service went away."""

    def __init__(self) -> None:
        self.fail = False

    @property
    def public(self) -> PublicKey:
        return KEY.public

    def sign(self, data: bytes) -> bytes:
        if self.fail:
            raise ConnectionError("the key service is gone")
        return KEY.sign(data)


class TestFailure:
    @pytest.mark.parametrize("durability", BOTH)
    def test_a_write_error_poisons_until_the_log_is_reopened(self, tmp_path: Path, durability: Durability) -> None:
        log = open_log(tmp_path, durability)
        log.append(b'{"id":"a"}')
        read_only = os.open(tmp_path / "log" / log.shard / f"{0:020d}.seg", os.O_RDONLY)
        mine = os.dup(log._writer._descriptor)
        os.dup2(read_only, log._writer._descriptor)
        for _ in range(2):
            with pytest.raises(EvidenceUnavailable, match=r"errno 9 EBADF\); no call runs until .* opened anew"):
                log.append(b'{"id":"b"}')
        os.dup2(mine, log._writer._descriptor)
        with pytest.raises(EvidenceUnavailable, match="EBADF"):
            log.append(b'{"id":"c"}')
        log.close()
        with open_log(tmp_path, durability) as log:
            assert log.append(b'{"id":"d"}') == 1
        assert verify(tmp_path, KEY.public).ok
        os.close(read_only)
        os.close(mine)

    @pytest.mark.parametrize("durability", BOTH)
    def test_a_disk_that_takes_half_an_append(self, tmp_path: Path, durability: Durability) -> None:
        """RLIMIT_FSIZE makes the system write a part and then refuse: what is left is torn, and is dropped at the next opening."""
        code = f"""
import resource, sys
sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
from pathlib import Path
from support.logs import open_log, small
from agentguard.errors import EvidenceUnavailable
log = open_log(Path({str(tmp_path)!r}), {durability!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
count = 0
try:
    while True:
        log.append(small(count), b'"' + b"x" * 300 + b'"')
        count += 2
except EvidenceUnavailable as error:
    assert "EFBIG" in str(error), error
try:
    log.append(b'{{}}')
except EvidenceUnavailable:
    print(count)
log.close()
"""
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        count = int(done.stdout)
        report = verify(tmp_path, KEY.public)
        assert [finding.kind for finding in report.findings if finding.severity == "error" and finding.kind != "record"] == []
        assert "tail" in [finding.kind for finding in report.findings]
        with open_log(tmp_path, durability) as log:
            assert log.size == count
            log.append(b'{"id":"more"}')
        assert "tail" not in [finding.kind for finding in verify(tmp_path, KEY.public).findings]

    def test_a_signer_that_fails_leaves_the_log_refusing(self, tmp_path: Path) -> None:
        signer = Broken()
        log = Log.open(tmp_path, signer, durability="fsync")
        log.append(b'{"id":"a"}')
        signer.fail = True
        with pytest.raises(EvidenceUnavailable, match="key service is gone"):
            log.append(b'{"id":"b"}')
        signer.fail = False
        with pytest.raises(EvidenceUnavailable, match="no call runs"):
            log.append(b'{"id":"c"}')
        log.close()
        with open_log(tmp_path, "fsync") as log:
            assert log.size == 1

    def test_a_home_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "log").write_text("a file")
        with pytest.raises(EvidenceUnavailable, match="cannot be opened"):
            open_log(tmp_path)

    def test_durability_has_two_values(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidInput, match="'fsync' or 'process'"):
            Log.open(tmp_path, KEY, durability="memory")  # type: ignore[arg-type]  # that is the point

    def test_another_key_does_not_open_the_log(self, tmp_path: Path) -> None:
        with open_log(tmp_path) as log:
            log.append(b"x")
        with pytest.raises(InvalidInput, match="not of this log"):
            Log.open(tmp_path, LocalKey.generate())


class TestReading:
    def test_reading_a_home_without_a_log(self, tmp_path: Path) -> None:
        assert read_shards(tmp_path) == ()
        assert list(iter_records(tmp_path)) == []
        with pytest.raises(InvalidInput, match="has no record 0"):
            read_record(tmp_path, "0" * 16, 0)
        with pytest.raises(InvalidInput, match="no log here"):
            verify(tmp_path, KEY.public)

    def test_a_hint_is_followed_only_to_the_record_itself(self, tmp_path: Path) -> None:
        with open_log(tmp_path) as log:
            log.append(b"zero", b"one")
            segment = f"{0:020d}.seg"
            for offset in (0, 5, 10**9, -3, 58):
                assert read_record(tmp_path, log.shard, 1, segment=segment, offset=offset) == b"one"
            assert read_record(tmp_path, log.shard, 1, segment="elsewhere", offset=0) == b"one"

    def test_an_append_that_is_not_committed_is_not_read(self, tmp_path: Path) -> None:
        with open_log(tmp_path) as log:
            log.append(b"zero")
            path = tmp_path / "log" / log.shard / f"{0:020d}.seg"
            committed = path.stat().st_size
            log.append(b"one", b"two")
            data = path.read_bytes()
        for length in range(committed, len(data)):
            path.write_bytes(data[:length])
            assert records_of(tmp_path) == [b"zero"], length
