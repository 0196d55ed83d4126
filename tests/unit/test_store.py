"""The two stores beside the log (store.py)."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from agentguard import store
from agentguard.errors import EvidenceUnavailable, InvalidInput
from agentguard.store import ObjectStore, SideStore
from support.logs import START_NS, Ticking

DAY = 86_400 * 10**9


class TestObjects:
    def test_a_document_is_named_by_its_bytes(self, tmp_path: Path) -> None:
        objects = ObjectStore(tmp_path / "objects")
        name = objects.put(b"a policy")
        assert name == "sha256:" + hashlib.sha256(b"a policy").hexdigest()
        assert objects.put(b"a policy") == name
        assert name in objects
        assert objects.get(name) == b"a policy"
        assert ObjectStore(tmp_path / "objects").get(name) == b"a policy"
        assert [path.stat().st_mode & 0o077 for path in (tmp_path / "objects").rglob("*")] == [0, 0]

    @pytest.mark.parametrize("durability", ["fsync", "process"])
    def test_a_second_process_finds_it_there(self, tmp_path: Path, durability: str) -> None:
        for _ in range(2):
            assert ObjectStore(tmp_path, durability=durability).put(b"x").startswith("sha256:")  # type: ignore[arg-type]  # parametrised
        assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1

    @pytest.mark.parametrize(
        "name", ["", "sha256:", "sha256:../../etc/passwd", "sha256:" + "A" * 64, "sha256:" + "a" * 65, "md5:" + "a" * 64]
    )
    def test_names_that_are_none(self, tmp_path: Path, name: str) -> None:
        objects = ObjectStore(tmp_path)
        assert name not in objects
        with pytest.raises(InvalidInput, match="not the name of a document"):
            objects.get(name)

    def test_missing_and_changed_documents(self, tmp_path: Path) -> None:
        objects = ObjectStore(tmp_path)
        with pytest.raises(InvalidInput, match="not in the store"):
            objects.get("sha256:" + "0" * 64)
        name = objects.put(b"the truth")
        path = next(path for path in tmp_path.rglob("*") if path.is_file())
        path.write_bytes(b"a lie")
        with pytest.raises(InvalidInput, match="was changed"):
            objects.get(name)
        assert ObjectStore(tmp_path).put(b"the truth") == name  # whoever has the right bytes mends it
        assert objects.get(name) == b"the truth"

    def test_a_disk_that_refuses(self, tmp_path: Path) -> None:
        (tmp_path / "objects").write_text("a file")
        with pytest.raises(EvidenceUnavailable, match=r"errno (17|20)"):
            ObjectStore(tmp_path / "objects").put(b"x")

    def test_what_is_known_is_bounded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(store, "_KNOWN", 3)
        objects = ObjectStore(tmp_path, durability="process")
        names = {objects.put(b"%d" % number) for number in range(10)}
        assert len(names) == 10
        assert len(objects._known) <= 3

    def test_many_writers_of_the_same_document(self, tmp_path: Path) -> None:
        threads = [threading.Thread(target=lambda: ObjectStore(tmp_path).put(b"same")) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()] == [b"same"]


class TestSide:
    def test_values_come_back(self, tmp_path: Path) -> None:
        side = SideStore(tmp_path / "side", clock=Ticking())
        assert not (tmp_path / "side").exists()  # nothing is made before it is needed
        side.put("e1", "arguments", b"salt", b'{"to":"bob"}')
        side.put("e2", "arguments", b"salt2", b"\xffs\0\n")
        side.put("e1", "output", b"", b"")
        found = side.get("e1")
        assert [(item.kind, item.salt, item.value) for item in found] == [("arguments", b"salt", b'{"to":"bob"}'), ("output", b"", b"")]
        assert START_NS < found[0].time_ns < found[1].time_ns
        assert side.get("e2")[0].value == b"\xffs\0\n"
        assert side.get("e3") == ()
        assert SideStore(tmp_path / "side", clock=Ticking()).get("e1") == found
        side.close()

    def test_files_are_private(self, tmp_path: Path) -> None:
        SideStore(tmp_path / "side").put("e", "arguments", b"s", b"v")
        (file,) = (tmp_path / "side").iterdir()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE((tmp_path / "side").stat().st_mode) == 0o700

    def test_the_off_switch(self, tmp_path: Path) -> None:
        side = SideStore(tmp_path / "side", keep_seconds=0)
        side.put("e", "arguments", b"s", b"v")
        assert side.get("e") == ()
        assert not (tmp_path / "side").exists()

    def test_chunks_end_by_size_and_by_day(self, tmp_path: Path) -> None:
        clock = Ticking()
        side = SideStore(tmp_path, chunk_bytes=1000, clock=clock)
        for number in range(10):
            side.put(f"e{number}", "arguments", b"s" * 16, b"v" * 300)
        assert len(list(tmp_path.iterdir())) == 4
        clock.now += DAY
        side.put("tomorrow", "arguments", b"s", b"v")
        assert len(list(tmp_path.iterdir())) == 5
        assert [side.get(f"e{number}")[0].value for number in range(10)] == [b"v" * 300] * 10
        assert side.get("tomorrow", near_ns=clock.now)
        assert side.get("tomorrow", near_ns=clock.now - 5 * DAY) == ()

    def test_erasing_executions_leaves_nothing_of_them(self, tmp_path: Path) -> None:
        side = SideStore(tmp_path)
        for number in range(6):
            side.put(f"e{number}", "arguments", b"SALT%d" % number, b"SECRET%d" % number)
        assert side.erase({"e1", "e4", "unknown"}) == 2
        left = b"".join(path.read_bytes() for path in tmp_path.iterdir())
        for number in range(6):
            gone = number in (1, 4)
            assert (b"SECRET%d" % number not in left) == (b"SALT%d" % number not in left) == gone
            assert (side.get(f"e{number}") == ()) == gone
        side.put("e1", "output", b"new", b"more")  # and the file goes on
        assert [item.value for item in side.get("e1")] == [b"more"]
        assert side.erase({"e1", "e4"}) == 1

    def test_erasing_by_age(self, tmp_path: Path) -> None:
        clock = Ticking()
        side = SideStore(tmp_path, clock=clock)
        side.put("old", "arguments", b"s", b"OLD")
        clock.now += 3 * DAY
        side.put("young", "arguments", b"s", b"YOUNG")
        border = clock.now + 1
        side.put("younger", "arguments", b"s", b"YOUNGER")
        assert side.erase(older_than_ns=border) == 2
        assert len(list(tmp_path.iterdir())) == 1, "a file without a value goes away when its day is over"
        assert (side.get("old"), side.get("young")) == ((), ())
        assert side.get("younger")[0].value == b"YOUNGER"

    def test_retention(self, tmp_path: Path) -> None:
        clock = Ticking()
        keep = 90 * 86_400
        side = SideStore(tmp_path, clock=clock)
        side.put("old", "arguments", b"s", b"v")
        clock.now += 90 * DAY
        assert SideStore(tmp_path, keep_seconds=keep, clock=clock).get("old")
        clock.now += 2 * DAY
        assert SideStore(tmp_path, clock=clock).get("old"), "who only looks removes nothing"
        assert SideStore(tmp_path, keep_seconds=keep, clock=clock).get("old") == ()
        side.put("new", "arguments", b"s", b"v")  # the first store's file is gone, and it does not mind
        assert side.get("new")
        assert SideStore(tmp_path, keep_seconds=1, clock=lambda: clock.now + 3 * DAY).get("new") == ()

    def test_retention_in_a_process_that_goes_on_for_months(self, tmp_path: Path) -> None:
        clock = Ticking()
        side = SideStore(tmp_path, keep_seconds=30 * 86_400, clock=clock)
        for day in range(100):
            side.put(f"d{day}", "arguments", b"s", b"v")
            clock.now += DAY
        kept = [day for day in range(100) if side.get(f"d{day}")]
        assert kept == list(range(kept[0], 100))
        assert 68 <= kept[0] <= 70

    def test_a_forked_child_writes_its_own_file(self, tmp_path: Path) -> None:
        side = SideStore(tmp_path)
        side.put("parent", "arguments", b"s", b"v")
        pid = os.fork()
        if pid == 0:
            side.put("child", "arguments", b"s", b"v")
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        side.put("parent", "output", b"s", b"v")
        assert len(list(tmp_path.iterdir())) == 2
        assert side.get("child")
        assert len(side.get("parent")) == 2

    def test_fork_while_a_thread_writes(self, tmp_path: Path) -> None:
        side = SideStore(tmp_path)
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                side.put("parent", "arguments", b"s", b"v" * 100)
                time.sleep(0.0001)

        thread = threading.Thread(target=work)
        thread.start()
        for number in range(10):
            pid = os.fork()
            if pid == 0:
                side.put(f"child{number}", "arguments", b"s", b"v")
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            time.sleep(0.001)
        stop.set()
        thread.join()
        assert all(side.get(f"child{number}") for number in range(10))

    def test_half_an_entry_hides_nothing_else(self, tmp_path: Path) -> None:
        """What a process that was killed in the middle of a write leaves, and then damage in the middle."""
        side = SideStore(tmp_path)
        for number in range(4):
            side.put(f"e{number}", "arguments", b"s", b"v" * 50)
        side.close()
        (file,) = tmp_path.iterdir()
        data = file.read_bytes()
        size = len(data) // 4
        for length in range(3 * size, 4 * size):
            file.write_bytes(data[:length])
            assert [bool(side.get(f"e{number}")) for number in range(4)] == [True, True, True, False]
        file.write_bytes(data[: size + 5] + data[2 * size :])
        assert [bool(side.get(f"e{number}")) for number in range(4)] == [True, False, True, True]

    def test_threads(self, tmp_path: Path) -> None:
        side = SideStore(tmp_path, chunk_bytes=2000)

        def work(name: int) -> None:
            for number in range(50):
                side.put(f"e{name}-{number}", "arguments", b"s", b"v%d" % number)

        threads = [threading.Thread(target=work, args=(name,)) for name in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(side.get(f"e{name}-{number}")[0].value == b"v%d" % number for name in range(6) for number in (0, 25, 49))

    def test_a_disk_that_refuses(self, tmp_path: Path) -> None:
        """Space is allocated before it is mapped, so that a full disk is an error and never a signal."""
        code = """if True:
            import resource, sys
            from pathlib import Path
            from agentguard.errors import EvidenceUnavailable
            from agentguard.store import SideStore

            side = SideStore(Path(sys.argv[1]))
            side.put("e", "arguments", b"s", b"v")
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
            for number in range(2000):
                try:
                    side.put(f"e{number}", "output", b"s", b"v" * 1000)
                except EvidenceUnavailable as error:
                    print(number > 900, "errno 27" in str(error))
                    break
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            side.put("later", "output", b"s", b"v")
            print(len(side.get("e")), len(side.get("e5")), len(side.get("later")))
        """
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["True", "True", "1", "1", "1"]

    def test_a_killed_process_loses_nothing_that_was_put(self, tmp_path: Path) -> None:
        code = """if True:
            import os, signal, sys
            from pathlib import Path
            from agentguard.store import SideStore

            side = SideStore(Path(sys.argv[1]))
            for number in range(3000):
                side.put(f"e{number}", "output", b"s", b"v" * 1000)
            os.kill(os.getpid(), signal.SIGKILL)
        """
        subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
        side = SideStore(tmp_path)
        assert all(side.get(f"e{number}") for number in (0, 1, 1047, 1048, 2999))

    def test_a_directory_that_cannot_be_read_is_evidence_that_is_not_available(self, tmp_path: Path) -> None:
        """Retention looks through it before the first value of a file is kept, and a call is denied for that with the right code."""
        side = SideStore(tmp_path / "side", keep_seconds=60)
        (tmp_path / "side").write_text("")
        with pytest.raises(EvidenceUnavailable, match="cannot be read: Not a directory"):
            side.put("e1", "arguments", b"salt", b"value")
        with pytest.raises(EvidenceUnavailable, match="cannot be read: Not a directory"):
            SideStore(tmp_path / "side", keep_seconds=60)
