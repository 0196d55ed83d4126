"""Tasks that are counted in memory: the same answers as from the tables, and what becomes of them. The word that says the version."""

from __future__ import annotations

import sqlite3
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentguard.errors import InvalidInput, StateUnavailable
from agentguard.state.owned import CAP
from agentguard.state.store import ADMITTED, ADMITTED_AGAIN, Account, Charge, Exhausted, Replayed, Reservation, State, Superseded

FAR = 4_000_000_000
BUDGET = Charge("budget/triage/0", 3, "3 calls a task")
WIDE = Charge("budget/triage/0", 10**6, "many calls a task")


def ask(execution: str, call_id: str | None = None, *charges: Charge, **changes: Any) -> Reservation:
    account = Account(changes.pop("task", "t1"), changes.pop("agent", "triage"), charges, FAR)
    return Reservation(execution, changes.pop("shard", "s1"), account, call_id or execution, changes.pop("version", 0), **changes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def state(path: Path) -> Iterator[State]:
    store = State.open(path, durability="process")
    yield store
    store.close()


@pytest.fixture
def other(path: Path) -> Iterator[State]:
    store = State.open(path, durability="process")
    yield store
    store.close()


def rows(path: Path, sql: str) -> list[Any]:
    """What stands in the tables. Only where no other handle is open: closing this one drops the locks of the process."""
    with sqlite3.connect(path) as raw:
        found = raw.execute(sql).fetchall()
    raw.close()
    return found


# -- the same answers -------------------------------------------------------------------------------------------------------------------

_IDS = st.sampled_from(["a", "b", "c", "é"])
_CHARGES = st.lists(
    st.builds(Charge, st.sampled_from(["x", "y"]), st.integers(0, 4), st.sampled_from(["one name", "another"])), max_size=3
).map(tuple)
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("admit"), _IDS, _CHARGES, st.sampled_from(["triage", "reader"]), st.booleans()),
        st.tuples(st.just("settle"), st.integers(0, 9), st.sampled_from(["ok", "error", "paused", "not_run", "released"])),
        st.tuples(st.just("release"), st.integers(0, 9)),
        st.tuples(st.just("share")),
        st.tuples(st.just("move"), st.booleans()),
    ),
    max_size=30,
)


@settings(max_examples=150)
@given(steps=_STEPS)
def test_memory_and_table_answer_alike(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[Any, ...]]) -> None:
    """One task is owned (and shared somewhere on the way), its twin is in the tables from the start."""
    state = State.open(tmp_path_factory.mktemp("twins") / "state.db", durability="process")
    state.own("s1", "mine", FAR)
    made: list[tuple[Reservation, Reservation]] = []
    version = 0
    for number, step in enumerate(steps):
        if step[0] == "admit":
            _, call_id, charges, agent, rerun = step
            pair = [ask(f"e{number}", call_id, *charges, task=task, agent=agent, rerun=rerun, version=version) for task in ("mine", "twin")]
            answers = [state.admit(reservation) for reservation in pair]
            assert answers[0] == answers[1], (number, steps)
            made.append((pair[0], pair[1]))
        elif step[0] == "share":
            state.share("mine")
        elif step[0] == "move":
            moved = state.revoke("agent", f"nobody{number}", by="ops", time_ns=number)
            version = moved if step[1] else version
        elif step[1] < len(made):
            for reservation in made[step[1]]:
                if step[0] == "settle":
                    state.settle(reservation, step[2])
                else:
                    state.release(reservation)
    state.close()


class TestAnswers:
    def test_in_their_order(self, state: State) -> None:
        state.own("s1", "t1", FAR)
        assert [state.admit(ask(f"e{n}", None, BUDGET)) for n in range(3)] == [ADMITTED] * 3
        assert state.admit(ask("e9", "e1", BUDGET)) == Replayed("e1", None)
        assert state.admit(ask("e9", None, BUDGET)) == Exhausted("3 calls a task", 3)
        version = state.revoke("agent", "reader", by="ops", time_ns=1)
        assert state.admit(ask("e9", "e1", BUDGET)) == Superseded(version)

    def test_a_rerun_and_its_outcome(self, state: State) -> None:
        state.own("s1", "t1", FAR)
        first = ask("e1", "c", BUDGET, rerun=True)
        assert state.admit(first) is ADMITTED
        assert state.admit(ask("e2", "c", BUDGET, rerun=True)) is ADMITTED_AGAIN
        state.settle(first, "ok")
        assert state.admit(ask("e3", "c", BUDGET, rerun=True)) == Replayed("e1", "ok")

    def test_an_id_without_utf8_is_refused_as_the_table_would(self, state: State) -> None:
        state.own("s1", "t1", FAR)
        with pytest.raises(StateUnavailable):
            state.admit(ask("e1", "\ud800"))
        assert state.admit(ask("e2", "é")) is ADMITTED
        state.share("t1")
        assert state.admit(ask("e3", "é")) == Replayed("e2", None)

    def test_nothing_is_written_while_it_is_owned(self, state: State, path: Path) -> None:
        state.own("s1", "t1", FAR)
        for n in range(20):
            state.admit(ask(f"e{n}", None, WIDE))
        state.close()
        assert rows(path, "SELECT count(*) FROM cell") == [(0,)]


class TestOthers:
    def test_they_are_refused_and_told_why(self, state: State, other: State) -> None:
        state.own("s1", "t1", FAR)
        with pytest.raises(StateUnavailable, match="counted by the guard that opened it"):
            other.admit(ask("e1", shard="s2"))
        assert state.admit(ask("e1")) is ADMITTED
        assert other.admit(ask("e1", task="t2", shard="s2")) is ADMITTED, "another task is another matter"

    def test_a_moved_version_is_said_first(self, state: State, other: State) -> None:
        state.own("s1", "t1", FAR)
        version = state.revoke("agent", "reader", by="ops", time_ns=1)
        assert other.admit(ask("e1", shard="s2")) == Superseded(version)

    def test_they_count_on_where_it_is_shared(self, state: State, other: State) -> None:
        state.own("s1", "t1", FAR)
        state.admit(ask("e1", "c", BUDGET))
        state.admit(given_back := ask("e2", None, BUDGET))
        state.release(given_back)
        state.share("t1")
        assert other.admit(ask("e3", "c", BUDGET, shard="s2")) == Replayed("e1", None)
        assert other.admit(ask("e4", None, BUDGET, shard="s2")) is ADMITTED
        assert state.admit(ask("e5", None, BUDGET)) is ADMITTED
        assert other.admit(ask("e6", None, BUDGET, shard="s2")) == Exhausted("3 calls a task", 3)

    def test_what_was_admitted_in_memory_is_settled_in_the_table(self, state: State, other: State) -> None:
        state.own("s1", "t1", FAR)
        state.admit(again := ask("e1", "c", BUDGET, rerun=True))
        state.admit(never := ask("e2", "d", BUDGET))
        state.share("t1")
        state.settle(again, "ok")
        state.settle(never, "not_run")
        assert other.admit(ask("e3", "c", BUDGET, rerun=True, shard="s2")) == Replayed("e1", "ok")
        assert [other.admit(ask(f"f{n}", None, BUDGET, shard="s2")) for n in range(3)] == [ADMITTED] * 2 + [Exhausted(BUDGET.name, 3)]

    def test_only_the_owner_can_share_or_end(self, state: State, other: State) -> None:
        state.own("s1", "t1", FAR)
        other.share("t1")
        other.end("t1")
        other.share()
        other.end()
        with pytest.raises(StateUnavailable, match="counted by the guard"):
            other.admit(ask("e1", shard="s2"))
        assert state.admit(ask("e1")) is ADMITTED

    def test_a_task_is_owned_once(self, state: State, other: State) -> None:
        state.own("s1", "t1", FAR)
        with pytest.raises(StateUnavailable):
            other.own("s2", "t1", FAR)
        assert state.admit(ask("e1")) is ADMITTED
        with pytest.raises(StateUnavailable, match="counted by the guard"):
            other.admit(ask("e1", shard="s2"))


class TestEnd:
    def test_an_artifact_that_nobody_saw_dies_with_its_task(self, state: State, other: State) -> None:
        state.own("s1", "t1", FAR)
        state.admit(ask("e1"))
        state.end("t1")
        for store, shard in ((state, "s1"), (other, "s2")):
            with pytest.raises(StateUnavailable, match="has ended"):
                store.admit(ask("e2", shard=shard))

    def test_one_that_was_shared_lives_on(self, state: State, other: State) -> None:
        state.own("s1", "t1", FAR)
        state.share("t1")
        state.end("t1")
        assert other.admit(ask("e2", shard="s2")) is ADMITTED

    def test_closing_the_store_ends_what_is_left(self, state: State, other: State) -> None:
        state.own("s1", "t1", FAR)
        state.close()
        with pytest.raises(StateUnavailable, match="has ended"):
            other.admit(ask("e2", shard="s2"))
        for use in (lambda: state.admit(ask("e1")), state.version, lambda: state.own("s1", "t2", FAR)):
            with pytest.raises(StateUnavailable, match="closed"):
                use()

    def test_a_late_outcome_of_an_ended_task_is_nobodys(self, state: State) -> None:
        state.own("s1", "t1", FAR)
        state.admit(late := ask("e1", "c", BUDGET, rerun=True))
        state.end("t1")
        state.settle(late, "ok")
        state.release(late)
        with pytest.raises(StateUnavailable, match="has ended"):
            state.admit(ask("e2", "c", BUDGET, rerun=True))

    def test_the_stone_goes_when_the_artifact_has_expired(self, state: State, path: Path) -> None:
        for task, expires in (("t1", 1000), ("t2", 9000)):
            state.own("s1", task, expires)
            state.end(task)
        assert state.purge(1000 + 3600) == 0
        assert state.purge(1000 + 3601) == 1
        state.close()
        assert rows(path, "SELECT task FROM owner") == [("t2",)]

    def test_an_end_that_could_not_be_written_refuses_all_the_same(self, path: Path, other: State) -> None:
        state = State.open(path, durability="process", wait=0.1)
        state.own("s1", "t1", FAR)
        blocker = sqlite3.connect(path, isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        with pytest.raises(StateUnavailable, match="stayed locked"):
            state.end("t1")
        blocker.execute("ROLLBACK")
        for store in (state, other):
            with pytest.raises(StateUnavailable, match="counted by the guard"):
                store.admit(ask("e1"))
        state.mark("s1", 0)
        with pytest.raises(StateUnavailable, match="has ended"):
            other.admit(ask("e1", shard="s2"))
        state.close()


class TestBounds:
    def test_a_long_task_goes_to_the_file(self, state: State, other: State) -> None:
        state.own("s1", "t1", FAR)
        for n in range(CAP):
            assert state.admit(ask(f"e{n}", None, WIDE)) is ADMITTED
        with pytest.raises(StateUnavailable):
            other.admit(ask("x", shard="s2"))
        assert state.admit(ask("last", None, WIDE)) is ADMITTED
        assert other.admit(ask("x", "e7", shard="s2")) == Replayed("e7", None)
        assert other.admit(ask("x", None, Charge(WIDE.key, CAP + 1, "so many"), shard="s2")) == Exhausted("so many", CAP + 1)

    def test_where_it_cannot_it_refuses_and_forgets_nothing(self, path: Path) -> None:
        state = State.open(path, durability="process", wait=0.1)
        state.own("s1", "t1", FAR)
        for n in range(CAP):
            state.admit(ask(f"e{n}"))
        blocker = sqlite3.connect(path, isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        with pytest.raises(StateUnavailable, match="stayed locked"):
            state.admit(ask("one more"))
        blocker.close()
        assert state.admit(ask("x", "e7")) == Replayed("e7", None)
        state.close()


# -- the log ----------------------------------------------------------------------------------------------------------------------------


def decision(execution: str, call_id: str | None = None, *reserved: str, **changes: Any) -> dict[str, Any]:
    record = {"type": "decision", "verdict": "allow", "id": execution, "task": "t1", "agent": "triage", "call_id": call_id or execution}
    return {**record, "reserved": [[key, 1] for key in reserved], "time": str(10**18), **changes}


class TestLog:
    def test_a_mark_leaves_nothing_in_memory_alone(self, state: State, other: State) -> None:
        state.own("s1", "t1", FAR)
        state.admit(ask("e1", "c", BUDGET))
        state.mark("s1", 1)
        assert other.admit(ask("e2", "c", BUDGET, shard="s2")) == Replayed("e1", None)
        assert state.position("s1") == 1
        assert state.shards()["s1"] is False

    def test_a_dead_owner_is_replaced_by_its_log(self, state: State, other: State) -> None:
        state.own("s1", "t1", FAR)
        state.admit(ask("e1", "c", BUDGET))
        state.admit(ask("e2", "d", BUDGET))  # whose decision never reached the log
        assert other.shards() == {"s1": True}
        other.reconcile("s1", [(0, decision("e1", "c", BUDGET.key))], None)
        assert other.position("s1") == 1
        assert other.admit(ask("e3", "c", BUDGET, shard="s2")) == Replayed("e1", None)
        assert other.admit(ask("e3", "d", BUDGET, shard="s2")) is ADMITTED
        assert other.admit(ask("e4", None, BUDGET, shard="s2")) is ADMITTED
        assert other.admit(ask("e5", None, BUDGET, shard="s2")) == Exhausted("3 calls a task", 3)
        state.share("t1")  # somebody thought us dead: the tables, in which others count by now, are not written over
        assert other.admit(ask("e5", None, BUDGET, shard="s2")) == Exhausted("3 calls a task", 3)

    def test_a_living_owners_log_counts_nothing_twice(self, state: State, other: State) -> None:
        state.own("s1", "t1", FAR)
        state.admit(ask("e1", "c", BUDGET))
        other.reconcile("s1", [(0, decision("e1", "c", BUDGET.key))], None, owned=False)
        other.reconcile("s2", [(0, decision("e1", "c", BUDGET.key))], None)
        state.share("t1")
        assert [other.admit(ask(f"f{n}", None, BUDGET, shard="s2")) for n in range(3)] == [ADMITTED] * 2 + [Exhausted(BUDGET.name, 3)]

    def test_what_ended_is_not_counted_again(self, state: State, path: Path) -> None:
        state.own("s1", "t1", FAR)
        state.admit(ask("e1", "c", BUDGET))
        state.end("t1")
        state.reconcile("s1", [(0, decision("e1", "c", BUDGET.key))], 1)
        with pytest.raises(StateUnavailable, match="has ended"):
            state.admit(ask("e2", "c"))
        state.close()
        assert rows(path, "SELECT count(*) FROM cell") == [(0,)]


# -- the word ---------------------------------------------------------------------------------------------------------------------------


def word(path: Path) -> int:
    return int.from_bytes(path.with_name("state.gen").read_bytes(), "little")


class TestWord:
    def test_it_says_the_version(self, state: State, path: Path) -> None:
        assert (word(path), state.version()) == (0, 0)
        state.revoke("agent", "reader", by="ops", time_ns=1)
        assert (word(path), state.version()) == (2, 1)
        with pytest.raises(InvalidInput):
            state.lift("agent", "nobody", by="ops", time_ns=2)
        assert (word(path), state.version()) == (2, 1)
        state.lift("agent", "reader", by="ops", time_ns=3)
        assert (word(path), state.version()) == (4, 2)
        assert stat.S_IMODE(path.with_name("state.gen").stat().st_mode) == 0o600

    def test_it_is_odd_before_the_version_is_committed(self, state: State, other: State, path: Path) -> None:
        """So whoever is killed in between leaves a word that nobody takes for the version."""
        with state._file.moving():
            assert word(path) % 2 == 1
            assert other.version() == 0
        assert word(path) == 0

    def test_it_stays_odd_where_it_cannot_be_published(self, state: State, other: State, path: Path) -> None:
        with pytest.raises(StateUnavailable, match="closed"), state._file.moving():
            state._file.close()
        assert word(path) % 2 == 1
        assert other.version() == 0

    def test_a_replayed_revocation_moves_it(self, state: State, other: State, path: Path) -> None:
        stop = {"type": "revocation", "action": "revoke", "kind": "task", "value": "t1", "by": "ops", "reason": "", "id": "r", "time": "1"}
        other.reconcile("s2", [(0, stop)], 1)
        assert (word(path), state.version()) == (2, 1)

    def test_an_odd_word_is_asked_about_and_mended_by_the_next_who_opens(self, state: State, path: Path) -> None:
        state.own("s1", "t1", FAR)
        state.revoke("agent", "reader", by="ops", time_ns=1)
        with path.with_name("state.gen").open("r+b") as file:  # as left by a process that was killed in the middle
            file.write((1).to_bytes(8, "little"))
        assert state.version() == 1
        assert state.admit(ask("e1")) == Superseded(1)
        assert state.admit(ask("e1", version=1)) is ADMITTED
        State.open(path).close()
        assert word(path) == 2

    @pytest.mark.parametrize("found", [b"", b"\x06", (6).to_bytes(8, "little"), bytes(range(8)), b"\xff" * 8])
    def test_what_a_loss_of_power_left_is_mended(self, state: State, path: Path, found: bytes) -> None:
        state.revoke("agent", "reader", by="ops", time_ns=1)
        state.close()
        path.with_name("state.gen").write_bytes(found)
        again = State.open(path)
        assert (again.version(), word(path)) == (1, 2)
        again.close()

    @pytest.mark.parametrize("ending", [".gen", ".db"])
    def test_deletion_is_noticed_by_whoever_counts_in_memory(self, state: State, path: Path, ending: str) -> None:
        state.own("s1", "t1", FAR)
        assert state.admit(ask("e1")) is ADMITTED
        path.with_suffix(ending).unlink()
        time.sleep(0.06)
        for use in (lambda: state.admit(ask("e2")), state.version):
            with pytest.raises(StateUnavailable, match="open the guard again"):
                use()

    def test_a_new_word_beside_the_old_one_is_noticed(self, state: State, path: Path) -> None:
        state.own("s1", "t1", FAR)
        path.with_name("state.gen").unlink()
        new = State.open(path)
        new.revoke("all", by="ops", time_ns=1)
        time.sleep(0.06)
        with pytest.raises(StateUnavailable, match="deleted or replaced"):
            state.admit(ask("e2"))
        new.close()

    def test_a_link_in_its_place_is_not_followed(self, path: Path) -> None:
        path.with_name("state.gen").symlink_to(path.with_name("elsewhere"))
        with pytest.raises(StateUnavailable, match=r"state\.gen"):
            State.open(path)
        assert not path.with_name("elsewhere").exists()
