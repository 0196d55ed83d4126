"""Attacks on tasks that are counted in memory: another process, a restart, a fork, a kill, a race with a stop.

The tests start their other processes first and the tasks afterwards: a fork would share what is open.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from agentguard import Denied, Guard, ToolCall, control
from agentguard.errors import StateUnavailable
from agentguard.log import read_shards
from agentguard.state.store import ADMITTED, Account, Charge, Reservation, State, Superseded
from agentguard.task import Task

FORK = multiprocessing.get_context("fork")
FAR = 4_000_000_000
POLICY = """
agentguard: 1
name: owned
agents:
  triage:
    tools: {echo: {x: any}, again: {x: any}}
    budgets: [{calls: 20, per: task}]
    delegates: {writer: {depth: 1}}
  writer:
    tools: {echo: {x: any}}
tools: {again: {rerun: safe}}
"""


def opened(home: Path) -> Guard:
    return Guard.open(POLICY, home=home, durability="process")


def call(call_id: str | None = None, agent: str = "triage", tool: str = "echo") -> ToolCall:
    return ToolCall(agent, tool, {"x": 1}, call_id)


def answer(guard: Guard, task: Task | None, call_id: str | None = None, agent: str = "triage") -> str:
    """ "allow", or the code of the denial."""
    try:
        guard.check(call(call_id, agent), task=task)
    except Denied as error:
        return str(error.code)
    return "allow"


def accepted(guard: Guard, chain: dict[str, Any], agent: str = "triage") -> Task:
    return guard.accept(chain, guard.home.keys.holder(agent))


def stored(home: Path) -> dict[str, Any]:
    """The only chain in the content store of a home, as anybody who can read it finds it."""
    documents = [
        json.loads(path.read_bytes()) for path in (home / "objects").rglob("*") if path.is_file() and b"aat_chain" in path.read_bytes()
    ]
    (chain,) = documents
    return dict(chain)


class Elsewhere:
    """A process that runs `work` on what it is asked, and answers."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        self._here, there = FORK.Pipe()

        def run() -> None:
            there.send(work(there.recv()))
            time.sleep(60)

        self.process = FORK.Process(target=run, daemon=True)
        self.process.start()

    def send(self, value: Any) -> None:
        self._here.send(value)

    def get(self) -> Any:
        assert self._here.poll(30), "no answer"
        found = self._here.recv()
        self.kill()
        return found

    def ask(self, value: Any) -> Any:
        self.send(value)
        return self.get()

    def kill(self) -> None:
        os.kill(self.process.pid or 0, signal.SIGKILL)
        self.process.join()


class TestAnotherProcess:
    def test_four_that_race_on_a_presented_chain_get_exactly_what_it_grants(self, home: Path) -> None:
        start = FORK.Barrier(4)

        def work(chain: dict[str, Any]) -> list[str]:
            with opened(home) as guard:
                task = accepted(guard, chain)
                start.wait(20)
                return [answer(guard, task) for _ in range(10)]

        others = [Elsewhere(work) for _ in range(4)]
        with opened(home) as guard, guard.task("triage", initiator="user:alice", uses=13) as task:
            assert [answer(guard, task) for _ in range(2)] == ["allow"] * 2
            chain = task.presentation()
            for other in others:
                other.send(chain)
            counted = Counter(word for other in others for word in other.get())
            assert counted == {"allow": 11, "budget_exhausted": 29}
            assert answer(guard, task) == "budget_exhausted"

    def test_a_chain_that_was_never_presented_is_worth_nothing_elsewhere(self, home: Path) -> None:
        def work(_: Any) -> list[str]:
            with opened(home) as guard:
                return [answer(guard, accepted(guard, stored(home)), "c") for _ in range(3)]

        other = Elsewhere(work)
        with opened(home) as guard, guard.task("triage", initiator="user:alice") as task:
            assert answer(guard, task, "c") == "allow"
            assert other.ask(None) == ["state_unavailable"] * 3
            assert answer(guard, task, "c") == "replay_detected"
            assert answer(guard, accepted(guard, stored(home)), "c") == "replay_detected", "the same guard counts it in the same memory"

    def test_nor_after_its_task_has_ended(self, home: Path) -> None:
        def work(_: Any) -> str:
            with opened(home) as guard:
                return answer(guard, accepted(guard, stored(home)))

        early, late = Elsewhere(work), Elsewhere(work)
        with opened(home) as guard:
            with guard.task("triage", initiator="user:alice") as task:
                assert answer(guard, task) == "allow"
            assert answer(guard, accepted(guard, stored(home))) == "state_unavailable"
            assert early.ask(None) == "state_unavailable"
        assert late.ask(None) == "state_unavailable"

    def test_budgets_and_ids_go_on_where_it_is_presented(self, home: Path) -> None:
        def work(chain: dict[str, Any]) -> list[str]:
            with opened(home) as guard:
                task = accepted(guard, chain)
                return [answer(guard, task, "mine"), *[answer(guard, task) for _ in range(12)]]

        other = Elsewhere(work)
        with opened(home) as guard, guard.task("triage", initiator="user:alice") as task:
            assert [answer(guard, task, call_id) for call_id in ("mine", *[None] * 9)] == ["allow"] * 10
            assert other.ask(task.presentation()) == ["replay_detected"] + ["allow"] * 10 + ["budget_exhausted"] * 2
            assert answer(guard, task) == "budget_exhausted"

    def test_presenting_a_delegated_chain_shares_the_whole_task(self, home: Path) -> None:
        def work(chain: dict[str, Any]) -> list[str]:
            with opened(home) as guard:
                task = accepted(guard, chain, "writer")
                return [answer(guard, task, "w", "writer"), answer(guard, task, "new", "writer")]

        other = Elsewhere(work)
        with opened(home) as guard, guard.task("triage", initiator="user:alice") as task, task.delegate("writer") as writer:
            assert answer(guard, writer, "w", "writer") == "allow"
            assert other.ask(writer.presentation()) == ["replay_detected", "allow"]
            assert answer(guard, writer, "new", "writer") == "replay_detected"
            assert answer(guard, task, "new") == "allow", "another agent's ids are its own"

    def test_a_presented_chain_outlives_its_task(self, home: Path) -> None:
        def work(chain: dict[str, Any]) -> list[str]:
            with opened(home) as guard:
                task = accepted(guard, chain)
                return [answer(guard, task, "c"), answer(guard, task)]

        other = Elsewhere(work)
        with opened(home) as guard:
            with guard.task("triage", initiator="user:alice") as task:
                assert answer(guard, task, "c") == "allow"
                chain = task.presentation()
            assert other.ask(chain) == ["replay_detected", "allow"]


class TestStop:
    def test_it_holds_at_the_very_next_call_of_a_task_in_memory(self, home: Path) -> None:
        def work(rounds: int) -> None:
            with opened(home) as guard:
                for number in range(rounds):
                    assert here.recv() == number
                    guard.stop("task", f"other{number}") if number % 2 else guard.stop("agent", "triage")
                    here.send("stopped")
                    assert here.recv() == "seen"
                    if number % 2 == 0:
                        control.lift(guard.home, guard._recording.ledger, "agent", "triage", by="ops")
                    here.send("lifted")

        there, here = FORK.Pipe()
        other = Elsewhere(work)
        with opened(home) as guard:
            other.send(20)
            for number in range(20):
                with guard.task("triage", initiator="user:alice") as task:
                    assert answer(guard, task) == "allow"
                    there.send(number)
                    assert there.recv() == "stopped"
                    assert answer(guard, task) == ("allow" if number % 2 else "artifact_revoked")
                    there.send("seen")
                    assert there.recv() == "lifted"
                    assert answer(guard, task) == "allow"
            other.get()

    def test_while_threads_are_calling_nothing_gets_through_after_it(self, tmp_path: Path) -> None:
        path = tmp_path / "state.db"

        def work(_: Any) -> int:
            state = State.open(path, durability="process")
            time.sleep(0.02)
            version = state.revoke("all", by="ops", time_ns=1)
            stopped.set()
            return version

        stopped = FORK.Event()
        other = Elsewhere(work)
        state = State.open(path, durability="process")
        state.own("s1", "t1", FAR)
        account = Account("t1", "triage", (), FAR)
        late: list[Any] = []

        def calls(who: int) -> None:
            for number in range(10**6):
                after = stopped.is_set()
                result = state.admit(Reservation(f"{who}-{number}", "s1", account, "c", 0))
                if after:
                    late.append(result)
                    return

        threads = [threading.Thread(target=calls, args=(who,)) for who in range(3)]
        for thread in threads:
            thread.start()
        other.ask(None)
        for thread in threads:
            thread.join()
        assert late == [Superseded(1)] * 3
        state.close()

    def test_killed_in_the_middle_it_is_either_in_force_or_not(self, tmp_path: Path) -> None:
        path = tmp_path / "state.db"

        def work(_: Any) -> None:
            state = State.open(path, durability="process")
            ready.set()
            for number in range(10**6):
                state.revoke("task", f"t{number}", by="ops", time_ns=number)

        for round_ in range(6):
            ready = FORK.Event()
            other = Elsewhere(work)
            state = State.open(path, durability="process")
            state.own("s1", f"mine{round_}", FAR)
            other.send(None)
            assert ready.wait(20)
            time.sleep(0.02 + 0.003 * round_)
            other.kill()
            version = state.revocations().version
            assert state.version() == version
            account = Account(f"mine{round_}", "triage", (), FAR)
            assert state.admit(Reservation("e1", "s1", account, "c", version - 1)) == Superseded(version)
            assert state.admit(Reservation("e1", "s1", account, "c", version)) is ADMITTED
            state.close()


class TestKilled:
    def test_the_log_says_what_was_counted(self, home: Path) -> None:
        def work(_: Any) -> list[Any]:
            guard = opened(home)
            task = guard.task("triage", initiator="user:alice").start()
            answers = [answer(guard, task, f"c{number}") for number in range(7)]
            guard.check(call("unused")).release()
            return answers

        other = Elsewhere(work)
        assert other.ask(None) == ["allow"] * 7  # and killed
        with opened(home) as guard:
            task = accepted(guard, stored(home))
            assert [answer(guard, task, f"c{number}") for number in range(7)] == ["replay_detected"] * 7
            assert answer(guard, task, "unused") == "allow", "it never ran"
            assert [answer(guard, task) for _ in range(13)] == ["allow"] * 12 + ["budget_exhausted"]

    def test_whoever_opens_next_reads_every_shard_that_was_left(self, home: Path) -> None:
        """The dead process's shard is not the one that the next guard takes."""

        def work(_: Any) -> str:
            guard = opened(home)
            return answer(guard, guard.task("triage", initiator="user:alice").start(), "c")

        first = opened(home)  # takes the shard that a single next guard would get
        other = Elsewhere(work)
        assert other.ask(None) == "allow"
        first.close()
        assert len(read_shards(home)) == 2
        with opened(home) as guard:
            assert answer(guard, accepted(guard, stored(home)), "c") == "replay_detected"

    def test_idle_shards_cost_an_opening_guard_next_to_nothing(self, home: Path) -> None:
        guards = [opened(home) for _ in range(21)]
        for guard in guards:
            with guard.task("triage", initiator="user:alice") as task:
                assert answer(guard, task) == "allow"
        for guard in guards:
            guard.close()
        with opened(home) as guard:
            assert len(read_shards(home)) == 21
            began = time.thread_time()
            control.reconcile(guard.home)
            assert time.thread_time() - began < 0.05


class TestFork:
    def test_both_sides_count_one_task(self, home: Path) -> None:
        with opened(home) as guard, guard.task("triage", initiator="user:alice") as task:
            assert answer(guard, task, "before") == "allow"
            here, there = FORK.Pipe()

            def run() -> None:
                there.send([answer(guard, task, call_id) for call_id in ("before", "child", *[None] * 9)])
                os._exit(0)

            process = FORK.Process(target=run)
            process.start()
            assert here.poll(30)
            assert here.recv() == ["replay_detected"] + ["allow"] * 10
            process.join()
            assert answer(guard, task, "child") == "replay_detected"
            assert [answer(guard, task) for _ in range(10)] == ["allow"] * 9 + ["budget_exhausted"]

    def test_a_fork_that_python_did_not_see_counts_nothing(self, tmp_path: Path) -> None:
        state = State.open(tmp_path / "state.db", durability="process")
        state.own("s1", "t1", FAR)
        account = Account("t1", "triage", (), FAR)
        assert state.admit(Reservation("e1", "s1", account, "c", 0)) is ADMITTED
        read, write = os.pipe()
        pid = ctypes.CDLL(None).fork()
        if pid == 0:
            try:
                state.admit(Reservation("e2", "s1", account, "d", 0))
                os.write(write, b"admitted")
            except StateUnavailable as error:
                os.write(write, str(error).encode())
            os._exit(0)
        os.waitpid(pid, 0)
        assert b"open the guard in the child" in os.read(read, 1000)
        assert state.admit(Reservation("e3", "s1", account, "d", 0)) is ADMITTED
        state.close()

    def test_while_threads_are_calling_no_call_is_counted_twice_or_never(self, tmp_path: Path) -> None:
        state = State.open(tmp_path / "state.db", durability="process", wait=20)
        budget = (Charge("b", 10**6, "b"),)
        done = threading.Event()
        admitted: Counter[str] = Counter()
        failures: list[BaseException] = []

        def work(who: int) -> None:
            number = 0
            try:
                while not done.is_set():
                    task = f"t{who}-{number // 50}"
                    if number % 50 == 0:
                        state.own("s1", task, FAR)
                    assert (
                        state.admit(Reservation(f"{who}-{number}", "s1", Account(task, "triage", budget, FAR), f"c{number}", 0)) is ADMITTED
                    )
                    admitted[task] += 1
                    number += 1
            except BaseException as error:  # carried to the main thread
                failures.append(error)

        threads = [threading.Thread(target=work, args=(who,)) for who in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(10):
            child = os.fork()
            if child == 0:
                os._exit(0)
            os.waitpid(child, 0)
        done.set()
        for thread in threads:
            thread.join()
        assert not failures
        state.share()
        other = State.open(tmp_path / "state.db", durability="process")
        for task, count in admitted.items():
            short = (Charge("b", count, "b"),)
            assert type(other.admit(Reservation("x", "s2", Account(task, "triage", short, FAR), "x", 0))).__name__ == "Exhausted"
            exact = (Charge("b", count + 1, "b"),)
            assert other.admit(Reservation("x", "s2", Account(task, "triage", exact, FAR), "x", 0)) is ADMITTED
        other.close()
        state.close()


class TestThreads:
    def test_one_of_eight_gets_each_id(self, home: Path) -> None:
        with opened(home) as guard, guard.task("triage", initiator="user:alice") as task, ThreadPoolExecutor(8) as pool:
            for number in range(20):
                start = threading.Barrier(8)

                def work(_: int, number: int = number, start: threading.Barrier = start) -> str:
                    start.wait(20)
                    return answer(guard, task, f"c{number}")

                assert Counter(pool.map(work, range(8))) == {"allow": 1, "replay_detected": 7}

    def test_presenting_in_the_middle_loses_nothing(self, home: Path) -> None:
        """Calls go on while the task moves from memory to the tables."""
        with opened(home) as guard, ThreadPoolExecutor(8) as pool:
            for _ in range(10):
                with guard.task("triage", initiator="user:alice") as task:
                    start = threading.Barrier(8)

                    def work(who: int, task: Task = task, start: threading.Barrier = start) -> list[str]:
                        start.wait(20)
                        if who == 0:
                            task.presentation()
                        return [answer(guard, task, f"c{number}") for number in range(8)]

                    counted = Counter(word for words in pool.map(work, range(8)) for word in words)
                    assert counted == {"allow": 8, "replay_detected": 56}


def test_a_rerun_goes_on_where_it_is_presented(home: Path) -> None:
    def work(chain: dict[str, Any]) -> list[str]:
        with opened(home) as guard:
            task, found = accepted(guard, chain), []
            for call_id in ("open", "done"):
                try:
                    guard.check(call(call_id, tool="again"), task=task)
                    found.append("allow")
                except Denied as error:
                    found.append(str(error.code))
            return found

    other = Elsewhere(work)
    with opened(home) as guard, guard.task("triage", initiator="user:alice") as task:
        guard.check(call("open", tool="again"))
        guard.check(call("done", tool="again")).run(lambda x: x)
        assert other.ask(task.presentation()) == ["allow", "replay_detected"]


@pytest.mark.parametrize("close", [False, True])
def test_a_task_left_open_ends_with_its_guard(home: Path, close: bool) -> None:
    guard = opened(home)
    task = guard.task("triage", initiator="user:alice").issue()
    assert answer(guard, task, "c") == "allow"
    guard.close()
    if close:
        task.close()
    with opened(home) as again:
        assert answer(again, accepted(again, stored(home)), "d") == "state_unavailable"
