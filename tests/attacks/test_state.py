"""Attacks on the state store, and accidents that look like them (PITFALLS "replay", "revocation rollback", "fork").

Every test here ends in one of two ways: the store counted right, or it refused with StateUnavailable. No accident ends in an allow.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import resource
import shutil
import signal
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from agentguard.artifacts.revocation import Kind
from agentguard.errors import InvalidInput, StateUnavailable
from agentguard.state.store import ADMITTED, Account, Charge, Exhausted, Replayed, Reservation, State, Superseded

FAR = 4_000_000_000
FORK = multiprocessing.get_context("fork")
BUDGET = Charge("budget/triage/0", 50, "50 calls a task")


def ask(execution: str, call_id: str | None = None, *charges: Charge, shard: str = "s1", task: str = "t1", version: int = 0) -> Reservation:
    return Reservation(execution, shard, Account(task, "triage", charges, FAR), call_id or execution, version)


def in_child(work: Callable[[], Any]) -> str:
    """What `work` returned or raised, in words, in a forked process of its own."""
    here, there = FORK.Pipe()

    def run() -> None:
        try:
            there.send(repr(work()))
        except StateUnavailable as error:
            there.send(f"StateUnavailable: {error}")

    process = FORK.Process(target=run)
    process.start()
    assert here.poll(60), "the child did not answer"
    answer = here.recv()
    process.join(10)
    return str(answer)


def storm(path: Path, work: Callable[[State, int], list[Any]], *, processes: int = 4, threads: int = 8) -> list[Any]:
    """Run `work` in so many threads of so many processes at the same moment; everything that it returned."""
    results, start = FORK.Queue(), FORK.Barrier(processes)

    def process(number: int) -> None:
        with_state = State.open(path, durability="process", wait=20)
        start.wait(20)
        with ThreadPoolExecutor(threads) as pool:
            found = list(pool.map(lambda thread: work(with_state, number * threads + thread), range(threads)))
        results.put([item for part in found for item in part])
        with_state.close()

    workers = [FORK.Process(target=process, args=(number,)) for number in range(processes)]
    for worker in workers:
        worker.start()
    everything = [item for _ in workers for item in results.get(timeout=60)]
    for worker in workers:
        worker.join(20)
        assert worker.exitcode == 0
    return everything


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


class TestReplay:
    def test_one_of_32_threads_in_4_processes_wins_each_id(self, path: Path) -> None:
        def work(state: State, who: int) -> list[Any]:
            return [(n, type(state.admit(ask(f"e{who}-{n}", f"call-{n}"))).__name__) for n in range(25)]

        answers = storm(path, work)
        for n in range(25):
            assert sorted(kind for number, kind in answers if number == n) == ["Admitted"] + ["Replayed"] * 31

    def test_an_id_stays_used_after_a_restart(self, path: Path) -> None:
        for attempt in range(3):
            state = State.open(path)
            answer = state.admit(ask(f"e{attempt}", "c"))
            assert answer == (ADMITTED if attempt == 0 else Replayed("e0", None))
            state.close()

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            (("t", "c 1"), ("t c", "1")),
            (("1:t", "c"), ("t", "c")),
            (("t", "c"), ("t", "c ")),
            (("t", "C"), ("t", "c")),
            (("t", "\u00e9"), ("t", "e\u0301")),
        ],
    )
    def test_look_alike_ids_are_different_and_stay_different(self, path: Path, first: tuple[str, str], second: tuple[str, str]) -> None:
        state = State.open(path)
        for number, (task, call_id) in enumerate((first, second)):
            assert state.admit(ask(f"e{number}", call_id, task=task)) is ADMITTED
            assert state.admit(ask("again", call_id, task=task)) == Replayed(f"e{number}", None)
        state.close()


class TestBudgets:
    def test_concurrent_processes_never_exceed_a_budget(self, path: Path) -> None:
        narrow = Charge("uses/ab", 37, "uses of link ab")

        def work(state: State, who: int) -> list[Any]:
            return [state.admit(ask(f"e{who}-{n}", None, BUDGET, narrow)) for n in range(4)]

        answers = storm(path, work)
        assert answers.count(ADMITTED) == 37
        assert answers.count(Exhausted("uses of link ab", 37)) == 4 * 32 - 37
        state = State.open(path)
        more = [state.admit(ask(f"f{n}", None, BUDGET)) for n in range(20)]
        assert more.count(ADMITTED) == 50 - 37, "refused calls charged nothing"
        state.close()

    def test_releases_in_between_give_back_exactly_what_was_taken(self, path: Path) -> None:
        def work(state: State, who: int) -> list[Any]:
            kept = 0
            for n in range(30):
                if state.admit(reservation := ask(f"e{who}-{n}", None, BUDGET)) is ADMITTED:
                    if n % 3:
                        state.release(reservation)
                    else:
                        kept += 1
            return [kept]

        kept = sum(storm(path, work, processes=3, threads=3))
        state = State.open(path)
        left = [state.admit(ask(f"f{n}", None, BUDGET)) for n in range(60)].count(ADMITTED)
        assert kept + left == 50
        state.close()

    def test_a_stop_in_the_middle_lets_nothing_through_afterwards(self, path: Path) -> None:
        state = State.open(path)
        stopped = threading.Event()
        late: list[Any] = []

        def work() -> None:
            after = stopped.is_set()
            for n in range(3000):
                answer = state.admit(ask(f"{threading.get_ident()}-{n}"))
                if after and answer is ADMITTED:
                    late.append(n)
                after = stopped.is_set()
                if after and isinstance(answer, Superseded):
                    return

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        other = State.open(path, durability="process")
        other.revoke("all", by="ops", time_ns=1)
        stopped.set()
        for thread in threads:
            thread.join()
        assert not late
        other.close()
        state.close()


class TestKilled:
    def kill_after(self, path: Path, calls: int) -> None:
        """A process that admits `calls` calls, and is killed before any of them settles."""
        ready = FORK.Event()

        def run() -> None:
            state = State.open(path, durability="process")
            for n in range(calls):
                state.admit(ask(f"e{n}", f"c{n}", BUDGET))
            ready.set()
            time.sleep(60)

        process = FORK.Process(target=run)
        process.start()
        assert ready.wait(20)
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()

    def test_between_admit_and_settle_the_call_stays_used(self, path: Path) -> None:
        self.kill_after(path, 3)
        state = State.open(path, durability="process")
        assert state.admit(ask("f", "c1", BUDGET)) == Replayed("e1", None)
        records = [
            {"type": "decision", "verdict": "allow", "id": f"e{n}", "task": "t1", "agent": "triage", "call_id": f"c{n}", "time": "1"}
            | {"reserved": [[BUDGET.key, 1]]}
            for n in range(2)
        ]
        assert state.reconcile("s1", enumerate(records), 2) == 1, "the third never reached the log"
        assert state.admit(ask("f", "c1", BUDGET)) == Replayed("e1", None)
        assert state.admit(ask("f", "c2", BUDGET)) is ADMITTED
        assert [state.admit(ask(f"g{n}", None, BUDGET)) for n in range(60)].count(ADMITTED) == 50 - 3
        state.close()

    def test_in_the_middle_of_anything_nothing_is_half_done(self, path: Path) -> None:
        wide = (Charge("a", 10**6, "a"), Charge("b", 10**6, "b"))
        for round_ in range(6):
            started = FORK.Event()

            def run(round_: int = round_, started: Any = started) -> None:
                state = State.open(path, durability="process")
                started.set()
                for n in range(10**6):
                    state.admit(ask(f"{round_}-{n}", None, *wide))

            process = FORK.Process(target=run)
            process.start()
            assert started.wait(20)
            time.sleep(0.03 + 0.01 * round_)
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
            State.open(path, durability="process").close()
            with sqlite3.connect(path) as raw:
                assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
                ids = raw.execute("SELECT count(*) FROM cell WHERE execution IS NOT NULL").fetchone()[0]
                assert {n for (n,) in raw.execute("SELECT n FROM cell WHERE execution IS NULL")} == {ids}
            raw.close()


class TestDamage:
    def filled(self, path: Path) -> None:
        state = State.open(path)
        for n in range(200):
            state.admit(ask(f"e{n}", None, BUDGET))
        state.revoke("agent", "reader", by="ops", time_ns=1)
        state.close()

    @pytest.mark.parametrize(
        "damage", ["garbage", "empty", "header", "truncated", "zeros", "another database", "another schema", "no tables"]
    )
    def test_a_store_that_does_not_read_is_refused_with_a_way_out(self, path: Path, damage: str) -> None:
        self.filled(path)
        data = path.read_bytes()
        broken = {
            "garbage": os.urandom(len(data)),
            "empty": b"",
            "header": b"X" + data[1:],
            "truncated": data[: len(data) // 2],
            "zeros": data[:100] + bytes(len(data) - 100),
        }
        if damage in broken:
            path.write_bytes(broken[damage])
        else:
            with sqlite3.connect(path) as raw:
                statement = {"another database": "PRAGMA application_id = 7", "another schema": "PRAGMA user_version = 99"}
                raw.execute(statement.get(damage, "DROP TABLE cell"))
            raw.close()
        with pytest.raises(StateUnavailable, match=r"move state\.db, state\.db-wal and state\.db-shm away together"):
            State.open(path).admit(ask("e1", "e1"))

    def test_a_page_destroyed_under_a_running_guard_never_allows_twice(self, path: Path) -> None:
        self.filled(path)
        pages = path.stat().st_size // 2048
        for page in range(1, pages):
            broken = path.with_name(f"broken-{page}.db")
            data = bytearray(path.read_bytes())
            data[page * 2048 : page * 2048 + 2048] = os.urandom(2048)
            broken.write_bytes(data)
            answers = []
            for n in range(0, 200, 9):
                try:
                    state = State.open(broken)
                    answers.append(state.admit(ask("again", f"e{n}", BUDGET, version=1)))
                    state.close()
                except StateUnavailable:
                    pass
            assert ADMITTED not in answers

    def test_no_room_on_the_disk_denies_and_changes_nothing(self, path: Path) -> None:
        State.open(path).close()

        def work() -> str:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            state = State.open(path, durability="process")
            resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
            admitted = 0
            for n in range(10_000):
                try:
                    admitted += state.admit(ask(f"e{n}", None, Charge("b", 10**6, "b"))) is ADMITTED
                except StateUnavailable as error:
                    return f"{admitted} {error}"
            return "never full"

        answer = in_child(work)
        admitted = int(answer.strip("'\"").split()[0])
        state = State.open(path)
        assert isinstance(state.admit(ask("x", None, Charge("b", admitted, "b"))), Exhausted)
        assert state.admit(ask("x", None, Charge("b", admitted + 1, "b"))) is ADMITTED
        state.close()

    def test_a_store_that_may_not_be_written_is_refused(self, path: Path) -> None:
        self.filled(path)

        def work() -> Any:
            for part in (*path.parents, path):
                if part == Path(tempfile.gettempdir()):
                    break
                part.chmod(0o755 if part.is_dir() else 0o444)
            path.parent.chmod(0o555)
            if os.geteuid() == 0:
                os.setuid(65534)
            return State.open(path).admit(ask("e9999", version=1))

        answer = in_child(work)
        path.parent.chmod(0o755)
        assert answer.startswith("StateUnavailable"), answer


class TestDeletion:
    def wait_for_a_look(self) -> None:
        time.sleep(0.06)

    @pytest.mark.parametrize("endings", [("",), ("", "-wal", "-shm")])
    def test_a_deleted_store_counts_nothing_more(self, path: Path, endings: tuple[str, ...]) -> None:
        state = State.open(path)
        assert state.admit(ask("e1", "c")) is ADMITTED
        for ending in endings:
            path.with_name(path.name + ending).unlink(missing_ok=True)
        self.wait_for_a_look()
        for use in (lambda: state.admit(ask("e2", "d")), state.version, state.revocations):
            with pytest.raises(StateUnavailable, match="open the guard again"):
                use()

    def test_the_old_guard_does_not_count_beside_the_new_one(self, path: Path) -> None:
        old = State.open(path)
        old.admit(ask("e1", "c"))
        old.revoke("agent", "reader", by="ops", time_ns=1)
        path.unlink()
        new = State.open(path)
        assert new.domain != old.domain, "what was bound to the old store's counters is denied"
        assert new.version() == 0
        self.wait_for_a_look()
        with pytest.raises(StateUnavailable, match="deleted or replaced"):
            old.admit(ask("e2", "d", version=1))
        old.close()
        assert new.admit(ask("e3", "d")) is ADMITTED
        assert in_child(lambda: State.open(path).admit(ask("e4", "d", shard="s2"))) == repr(Replayed("e3", None)), "its log is still there"
        new.close()
        again = State.open(path)
        assert again.admit(ask("e5", "d")) == Replayed("e3", None)
        again.close()

    def test_the_log_brings_back_what_a_deleted_store_knew(self, path: Path) -> None:
        State.open(path).close()
        path.unlink()
        state = State.open(path)
        assert state.position("s1") == 0
        used = {"type": "decision", "verdict": "allow", "id": "e1", "task": "t1", "agent": "triage", "call_id": "c", "time": "1"}
        stop = {
            "type": "revocation",
            "action": "revoke",
            "kind": "agent",
            "value": "reader",
            "by": "ops",
            "reason": "",
            "id": "r",
            "time": "1",
        }
        state.reconcile("s1", enumerate([used | {"reserved": [[BUDGET.key, 50]]}, stop]), 2)
        assert state.revocations().holds(Kind.AGENT, "reader")
        assert state.admit(ask("e2", "c", version=1)) == Replayed("e1", None)
        assert state.admit(ask("e2", None, BUDGET, version=1)) == Exhausted("50 calls a task", 50)
        state.close()

    def test_a_store_put_back_from_a_copy_is_noticed(self, path: Path) -> None:
        state = State.open(path)
        state.admit(ask("e1", "c"))
        state.close()
        copy = shutil.copy(path, path.with_name("copy.db"))
        state = State.open(path)
        state.admit(ask("e2", "d"))
        os.replace(copy, path)
        self.wait_for_a_look()
        with pytest.raises(StateUnavailable, match="deleted or replaced"):
            state.admit(ask("e3", "d"))

    def test_creation_by_many_at_once_makes_one_store(self, path: Path) -> None:
        domains = storm(path, lambda state, who: [state.domain], processes=6, threads=1)
        assert len(set(domains)) == 1

    def test_what_a_killed_creation_left_behind_is_no_store(self, path: Path) -> None:
        for ending in (".new", "-wal", "-shm", ".lock"):
            path.with_name(path.name + ending).write_bytes(os.urandom(5000))
        state = State.open(path)
        assert state.admit(ask("e1")) is ADMITTED
        state.close()


class TestLocked:
    def test_a_locked_store_is_waited_for_and_then_refused(self, path: Path) -> None:
        state = State.open(path, wait=0.3)
        state.admit(ask("e0"))
        blocker = sqlite3.connect(path, isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        with pytest.raises(StateUnavailable, match="stayed locked"):
            state.admit(ask("e1", "c"))
        assert time.monotonic() - began >= 0.3
        for use in (lambda: state.release(ask("e0")), lambda: state.revoke("all", by="ops", time_ns=1), lambda: state.mark("s1", 1)):
            with pytest.raises(StateUnavailable, match="stayed locked"):
                use()
        assert state.version() == 0, "reading goes on"
        blocker.execute("ROLLBACK")
        blocker.close()
        assert state.admit(ask("e1", "c")) is ADMITTED, "and nothing was left behind"
        state.close()

    def test_a_lock_that_ends_in_time_costs_only_time(self, path: Path) -> None:
        state = State.open(path, wait=30)
        blocker = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        blocker.execute("BEGIN IMMEDIATE")
        timer = threading.Timer(0.1, lambda: blocker.execute("COMMIT"))
        timer.start()
        assert state.admit(ask("e1")) is ADMITTED
        timer.join()
        blocker.close()
        state.close()

    def test_a_thread_that_keeps_the_handle_is_not_waited_for_for_ever(self, path: Path) -> None:
        state = State.open(path, wait=0.1)
        holding, done = threading.Event(), threading.Event()

        def records() -> Any:
            yield 0, {"type": "open"}

        def keep() -> None:
            with state._file.transaction():
                holding.set()
                done.wait(20)

        thread = threading.Thread(target=keep)
        thread.start()
        assert holding.wait(20)
        for use in (lambda: state.admit(ask("e1")), state.version, lambda: state.reconcile("s1", records(), 1)):
            with pytest.raises(StateUnavailable, match="stayed locked"):
                use()
        done.set()
        thread.join()
        assert state.admit(ask("e1")) is ADMITTED
        state.close()


class TestRevocationRollback:
    def test_a_restart_remembers_and_the_version_never_goes_back(self, path: Path) -> None:
        versions = []
        for number in range(4):
            state = State.open(path)
            versions.append(state.version())
            if number % 2 == 0:
                state.revoke("agent", "triage", by="ops", time_ns=100 - number)
            else:
                assert state.revocations().holds(Kind.AGENT, "triage")
                state.lift("agent", "triage", by="ops", time_ns=1)
            state.close()
        assert versions == [0, 1, 2, 3]

    def test_an_older_list_cannot_be_replayed_over_a_newer_one(self, path: Path) -> None:
        state = State.open(path)
        lift = {
            "type": "revocation",
            "action": "lift",
            "kind": "agent",
            "value": "triage",
            "by": "ops",
            "reason": "",
            "id": "r1",
            "time": "50",
        }
        state.revoke("agent", "triage", by="ops", time_ns=10, record="r0")
        state.lift("agent", "triage", by="ops", time_ns=50, record="r1")
        state.revoke("agent", "triage", by="ops", time_ns=60, record="r2")
        state.reconcile("s1", [(0, lift)], 1)
        state.reconcile("s2", [(0, lift | {"id": "older", "time": "20"})], 1)
        assert state.revocations().holds(Kind.AGENT, "triage")
        state.close()

    def test_a_failed_lift_is_no_lift(self, path: Path) -> None:
        state = State.open(path, wait=0.1)
        state.revoke("all", by="ops", time_ns=1)
        blocker = sqlite3.connect(path, isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        with pytest.raises(StateUnavailable):
            state.lift("all", by="ops", time_ns=2)
        blocker.close()
        with pytest.raises(InvalidInput):
            state.lift("agent", "triage", by="ops", time_ns=2)
        assert state.revocations().match(task="t1") is not None
        state.close()


class TestFork:
    def test_what_a_child_admits_is_not_lost_when_the_parent_closes(self, path: Path) -> None:
        state = State.open(path)
        assert state.admit(ask("e1", "c")) is ADMITTED
        opened, closed = FORK.Event(), FORK.Event()
        here, there = FORK.Pipe()

        def run() -> None:
            first = state.admit(ask("child-1", "d", shard="s2"))
            opened.set()
            closed.wait(20)
            there.send([first, *[state.admit(ask(f"child-{n}", f"late-{n}", shard="s2")) for n in range(5)]])
            state.close()

        process = FORK.Process(target=run)
        process.start()
        assert opened.wait(20)
        assert state.admit(ask("e2", "d")) == Replayed("child-1", None), "both see one store"
        state.close()  # with an inherited handle, SQLite would delete the write-ahead log under the child here
        closed.set()
        assert here.poll(60)
        assert here.recv() == [ADMITTED] * 6
        process.join()
        again = State.open(path)
        assert [type(again.admit(ask("again", f"late-{n}"))) for n in range(5)] == [Replayed] * 5
        again.close()

    def test_both_sides_of_a_fork_go_on_while_threads_are_admitting(self, path: Path) -> None:
        state = State.open(path, wait=20)
        done = threading.Event()
        failures: list[BaseException] = []

        def work(who: int) -> None:
            n = 0
            try:
                while not done.is_set():
                    assert state.admit(ask(f"{who}-{n}")) is ADMITTED
                    n += 1
            except BaseException as error:  # carried to the main thread
                failures.append(error)

        threads = [threading.Thread(target=work, args=(who,)) for who in range(3)]
        for thread in threads:
            thread.start()
        for child in range(5):
            assert in_child(lambda child=child: state.admit(ask(f"child{child}", shard=f"c{child}"))) == repr(ADMITTED)
        done.set()
        for thread in threads:
            thread.join()
        assert not failures
        assert all(isinstance(state.admit(ask("again", f"child{child}")), Replayed) for child in range(5))
        state.close()

    def test_a_fork_that_python_did_not_see_refuses(self, path: Path) -> None:
        def work() -> str:
            state = State.open(path)
            state.admit(ask("e1"))
            read, write = os.pipe()
            pid = ctypes.CDLL(None).fork()
            if pid == 0:
                try:
                    state.admit(ask("e2"))
                    os.write(write, b"admitted")
                except StateUnavailable as error:
                    os.write(write, str(error).encode())
                os._exit(0)
            os.waitpid(pid, 0)
            return os.read(read, 1000).decode()

        assert "open the guard in the child" in in_child(work)

    def test_a_store_that_changed_during_a_fork_is_noticed(self, path: Path) -> None:
        state = State.open(path)
        state.admit(ask("e1"))
        path.with_name("other").mkdir()
        other = State.open(path.with_name("other") / "state.db")
        other.close()
        assert in_child(lambda: (os.replace(path.with_name("other") / "state.db", path), state.admit(ask("e2")))).startswith(
            "StateUnavailable"
        )
        with pytest.raises(StateUnavailable, match="deleted or replaced"):
            state.admit(ask("e3"))
