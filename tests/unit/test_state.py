"""The state store: admission, revocations, reconciliation with the log, upkeep."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentguard.admission import Need, counter_key, replay_key
from agentguard.artifacts.revocation import Action, Kind
from agentguard.errors import InvalidInput, StateUnavailable
from agentguard.state.admission import statement
from agentguard.state.store import ADMITTED, ADMITTED_AGAIN, Account, Charge, Exhausted, Replayed, Reservation, State, Superseded

FAR = 4_000_000_000
BUDGET = Charge("budget/triage/0", 3, "3 calls a task")


@pytest.fixture
def durability() -> str:
    return "process"


@pytest.fixture
def state(durability: Literal["fsync", "process"], tmp_path: Path) -> Iterator[State]:
    store = State.open(tmp_path / "state.db", durability=durability)
    yield store
    store.close()


def ask(execution: str, call_id: str | None = None, *charges: Charge, **changes: Any) -> Reservation:
    account = Account(changes.pop("task", "t1"), changes.pop("agent", "triage"), charges, changes.pop("expires", FAR))
    return Reservation(execution, changes.pop("shard", "s1"), account, call_id or execution, changes.pop("version", 0), **changes)


def count(state: State, key: str = BUDGET.key, task: str = "t1") -> int:
    """What is left of a counter, asked the way a call asks: by trying limits."""
    for limit in range(200):
        if not isinstance(
            state.admit(probe := ask("probe", "probe", Charge(key, limit, ""), task=task, version=state.version())), Exhausted
        ):
            state.release(probe)
            return limit - 1
    raise AssertionError("more than 200")


@pytest.mark.parametrize("durability", ["process", "fsync"])
class TestAdmission:
    def test_an_id_is_good_once(self, state: State) -> None:
        assert state.admit(ask("e1", "c")) is ADMITTED
        assert state.admit(ask("e2", "c")) == Replayed("e1", None)

    def test_ids_are_kept_apart_by_task_and_agent(self, state: State) -> None:
        assert state.admit(ask("e1", "c")) is ADMITTED
        assert state.admit(ask("e2", "c", task="t2")) is ADMITTED
        assert state.admit(ask("e3", "c", agent="reader")) is ADMITTED

    def test_a_budget_ends_and_says_its_name(self, state: State) -> None:
        answers = [state.admit(ask(f"e{n}", None, BUDGET)) for n in range(5)]
        assert answers == [ADMITTED, ADMITTED, ADMITTED, Exhausted("3 calls a task", 3), Exhausted("3 calls a task", 3)]

    def test_budgets_are_counted_per_task(self, state: State) -> None:
        assert [state.admit(ask(f"e{n}", None, BUDGET)) for n in range(3)] == [ADMITTED] * 3
        assert state.admit(ask("f", None, BUDGET, task="t2")) is ADMITTED

    def test_all_charges_or_none(self, state: State) -> None:
        narrow = Charge("uses/ab", 1, "uses of link ab")
        assert state.admit(ask("e1", None, BUDGET, narrow)) is ADMITTED
        assert state.admit(ask("e2", "again", BUDGET, narrow)) == Exhausted("uses of link ab", 1)
        assert count(state) == 1, "the first charge was taken back with the second"
        assert state.admit(ask("e3", "again", BUDGET)) is ADMITTED, "and so was the id"

    def test_a_refused_call_leaves_its_id_free(self, state: State) -> None:
        assert state.admit(ask("e1", "c", Charge("b", 0, "nothing"))) == Exhausted("nothing", 0)
        assert state.admit(ask("e2", "c")) is ADMITTED

    def test_a_replay_charges_nothing(self, state: State) -> None:
        state.admit(ask("e1", "c", BUDGET))
        for n in range(5):
            assert state.admit(ask(f"r{n}", "c", BUDGET)) == Replayed("e1", None)
        assert count(state) == 1

    def test_a_lower_limit_counts_what_was_used_before(self, state: State) -> None:
        for n in range(3):
            state.admit(ask(f"e{n}", None, BUDGET))
        lower = Charge(BUDGET.key, 2, "2 calls")
        assert state.admit(ask("f", None, lower)) == Exhausted("2 calls", 2)
        assert state.admit(ask("f", None, Charge(BUDGET.key, 4, "4 calls"))) is ADMITTED

    def test_one_counter_in_two_charges_is_charged_twice(self, state: State) -> None:
        assert state.admit(ask("e1", None, BUDGET, BUDGET)) is ADMITTED
        assert state.admit(ask("e2", None, BUDGET, BUDGET)) == Exhausted("3 calls a task", 3)
        assert state.admit(ask("e3", None, BUDGET)) is ADMITTED

    def test_many_charges(self, state: State) -> None:
        charges = tuple([Charge(f"uses/{n}", 1 if n == 77 else 9, f"link {n}") for n in range(80)])
        assert state.admit(ask("e1", None, *charges)) is ADMITTED
        assert state.admit(ask("e2", None, *charges)) == Exhausted("link 77", 1)

    def test_a_moved_version_refuses_before_anything_else(self, state: State) -> None:
        state.admit(ask("e1", "c", BUDGET))
        version = state.revoke("agent", "reader", by="ops", time_ns=1)
        assert state.admit(ask("e2", "c", BUDGET)) == Superseded(version)
        assert state.admit(ask("e3", "d", BUDGET)) == Superseded(version)
        assert count(state) == 1
        assert state.admit(ask("e3", "d", BUDGET, version=version)) is ADMITTED

    def test_a_version_from_the_future_is_no_better(self, state: State) -> None:
        assert state.admit(ask("e1", version=1)) == Superseded(0)

    @pytest.mark.parametrize("call_id", ["\ud800", "x\udfff"])
    def test_an_id_without_utf8_is_an_error_of_ours(self, state: State, call_id: str) -> None:
        with pytest.raises(StateUnavailable):
            state.admit(ask("e1", call_id))
        assert state.admit(ask("e2", "fine")) is ADMITTED

    def test_the_cost_does_not_grow_with_the_rows(self, state: State, tmp_path: Path) -> None:
        state.admit(ask("e1", None, BUDGET))
        with sqlite3.connect(tmp_path / "state.db") as raw:
            for account in (
                Account("t1", "a", (BUDGET,), 0),
                Account("t1", "a", (BUDGET, Charge("w5", 9, "w", prior=("w1", "w4"))), 0, needs=(Need("seq", 1),)),
            ):
                values = ("k", 0, "t1", *account.needed, 0, 0, "", None, None, *account.tail)
                plan = [line[3] for line in raw.execute("EXPLAIN QUERY PLAN " + statement(account), values).fetchall()]
                wrong = [line for line in plan if "cell" in line and "USING PRIMARY KEY" not in line]
                assert wrong == [], "the table is reached by its key alone"
        raw.close()


class TestRerun:
    def test_a_rerun_safe_call_gets_a_second_permit_without_a_second_charge(self, state: State) -> None:
        assert state.admit(ask("e1", "c", BUDGET, rerun=True)) is ADMITTED
        assert state.admit(ask("e2", "c", BUDGET, rerun=True)) is ADMITTED_AGAIN
        assert count(state) == 1

    def test_not_once_there_is_an_outcome(self, state: State) -> None:
        first, second = ask("e1", "c", BUDGET, rerun=True), ask("e2", "c", BUDGET, rerun=True)
        state.admit(first)
        state.admit(second)
        state.settle(second, "error")
        state.settle(first, "ok")
        assert state.admit(ask("e3", "c", BUDGET, rerun=True)) == Replayed("e1", "error"), "the first outcome stays"

    def test_not_after_a_revocation(self, state: State) -> None:
        state.admit(ask("e1", "c", rerun=True))
        version = state.revoke("all", by="ops", time_ns=1)
        assert state.admit(ask("e2", "c", rerun=True)) == Superseded(version)

    @pytest.mark.parametrize(("first", "second"), [(True, False), (False, True), (False, False)])
    def test_only_if_both_calls_were_marked(self, state: State, first: bool, second: bool) -> None:
        state.admit(ask("e1", "c", rerun=first))
        assert state.admit(ask("e2", "c", rerun=second)) == Replayed("e1", None)

    def test_releasing_the_second_permit_gives_nothing_back(self, state: State) -> None:
        state.admit(ask("e1", "c", BUDGET, rerun=True))
        again = ask("e2", "c", BUDGET, rerun=True)
        state.admit(again)
        state.settle(again, "not_run")
        assert count(state) == 1
        assert state.admit(ask("e3", "c", BUDGET, rerun=True)) is ADMITTED_AGAIN


class TestRelease:
    def test_it_gives_back_charges_and_id_once(self, state: State) -> None:
        state.admit(kept := ask("e0", None, BUDGET))
        state.admit(taken := ask("e1", "c", BUDGET))
        for _ in range(3):
            state.release(taken)
        assert count(state) == 1
        assert state.admit(ask("e2", "c", BUDGET)) is ADMITTED
        state.release(taken)
        assert state.admit(ask("e3", "c", BUDGET)) == Replayed("e2", None), "the id is somebody else's by now"
        state.settle(kept, "ok")
        assert count(state) == 2

    @pytest.mark.parametrize("status", ["not_run", "released"])
    def test_a_permit_that_never_ran_is_released(self, state: State, status: str) -> None:
        state.admit(taken := ask("e1", "c", BUDGET))
        state.settle(taken, status)
        assert count(state) == 0
        assert state.admit(ask("e2", "c")) is ADMITTED

    @pytest.mark.parametrize("status", ["ok", "error", "cancelled"])
    def test_a_permit_that_ran_is_not(self, state: State, status: str) -> None:
        state.admit(taken := ask("e1", "c", BUDGET))
        state.settle(taken, status)
        assert count(state) == 1
        assert state.admit(ask("e2", "c")) == Replayed("e1", None)


class TestAccount:
    @pytest.mark.parametrize(
        "change",
        [
            {"agent": "two words"},
            {"agent": "tab\t"},
            {"agent": "аgent"},
            {"task": "\ud800"},
            {"task": None},
            {"expires": -1},
            {"expires": True},
            {"expires": 2**60},
            {"charges": (Charge("b", -1, "b"),)},
            {"charges": (Charge("b", 1.5, "b"),)},  # type: ignore[arg-type]
            {"charges": (Charge("b", True, "b"),)},
            {"charges": (Charge("\ud800", 1, "b"),)},
        ],
    )
    def test_what_nothing_could_count_is_refused(self, change: dict[str, Any]) -> None:
        with pytest.raises(InvalidInput):
            replace(Account("t", "a", (), FAR), **change)

    names = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=6)
    anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    printable = st.text(st.sampled_from("a 1:\x7fé"), min_size=1, max_size=8)

    @given(anything | printable, names, anything | printable, anything | printable, names, anything | printable)
    def test_keys_of_different_things_differ(self, task1: str, agent1: str, id1: str, task2: str, agent2: str, id2: str) -> None:
        assert (replay_key(task1, agent1, id1) == replay_key(task2, agent2, id2)) == ((task1, agent1, id1) == (task2, agent2, id2))
        assert (counter_key(task1, id1) == counter_key(task2, id2)) == ((task1, id1) == (task2, id2))
        assert replay_key(task1, agent1, id1) != counter_key(task2, id2)


@pytest.mark.parametrize("durability", ["process", "fsync"])
class TestRevocations:
    def test_they_are_seen_by_every_handle_at_once(self, state: State, tmp_path: Path) -> None:
        other = State.open(tmp_path / "state.db", durability="process")
        assert state.revoke("task", "t1", by="alice", reason="stop", time_ns=5) == 1
        assert other.version() == 1
        snapshot = other.revocations()
        assert snapshot.version == 1
        assert snapshot.holds(Kind.TASK, "t1")
        assert other.lift("task", "t1", by="bob", time_ns=6) == 2
        assert not state.revocations().active
        assert [(event.action, event.by) for event in state.history()] == [(Action.REVOKE, "alice"), (Action.LIFT, "bob")]
        other.close()

    def test_lifting_what_is_not_revoked_changes_nothing(self, state: State) -> None:
        state.revoke("agent", "triage", by="ops", time_ns=1)
        for kind, value in (("agent", "reader"), ("task", "triage"), ("all", "")):
            with pytest.raises(InvalidInput, match="is not revoked"):
                state.lift(kind, value, by="ops", time_ns=2)
        state.lift("agent", "triage", by="ops", time_ns=2)
        with pytest.raises(InvalidInput, match="is not revoked"):
            state.lift("agent", "triage", by="ops", time_ns=3)
        assert state.version() == 2

    def test_a_clock_that_went_back_does_not_undo_a_revocation(self, state: State) -> None:
        state.revoke("agent", "triage", by="ops", time_ns=100)
        state.lift("agent", "triage", by="ops", time_ns=50)
        assert not state.revocations().holds(Kind.AGENT, "triage")
        state.revoke("agent", "triage", by="ops", time_ns=10)
        assert state.revocations().holds(Kind.AGENT, "triage")

    @pytest.mark.parametrize(
        ("kind", "value", "by"), [("agent", "", "ops"), ("nobody", "x", "ops"), ("all", "x", "ops"), ("task", "t", "\ud800")]
    )
    def test_bad_input_is_refused(self, state: State, kind: str, value: str, by: str) -> None:
        with pytest.raises(InvalidInput):
            state.revoke(kind, value, by=by, time_ns=1)
        assert state.version() == 0


def decision(execution: str, call_id: str | None = None, *reserved: str, **changes: Any) -> dict[str, Any]:
    record = {"type": "decision", "verdict": "allow", "id": execution, "task": "t1", "agent": "triage", "call_id": call_id or execution}
    return {**record, "reserved": [[key, 1] for key in reserved], "time": str(10**18), **changes}


def outcome(execution: str, status: str = "ok") -> dict[str, Any]:
    return {"type": "outcome", "execution": execution, "status": status}


def revocation(number: int, action: str, kind: str, value: str, time: int) -> dict[str, Any]:
    return {
        "type": "revocation",
        "id": f"r{number}",
        "action": action,
        "kind": kind,
        "value": value,
        "by": "ops",
        "reason": "",
        "time": str(time),
    }


class TestReconciliation:
    def replay(self, state: State, *records: dict[str, Any], shard: str = "s1", start: int = 0, owned: bool = True) -> int:
        return state.reconcile(shard, enumerate(records, start), start + len(records), owned=owned)

    def test_what_the_store_lacks_is_charged_again(self, state: State) -> None:
        self.replay(state, decision("e1", "c", BUDGET.key), outcome("e1"), decision("e2", None, BUDGET.key))
        assert state.admit(ask("e3", "c", BUDGET)) == Replayed("e1", None)
        assert count(state) == 2
        assert state.position("s1") == 3

    def test_what_the_store_has_is_not(self, state: State) -> None:
        state.admit(ask("e1", "c", BUDGET))
        for _ in range(3):
            self.replay(state, decision("e1", "c", BUDGET.key), outcome("e1"))
        assert count(state) == 1

    def test_replaying_twice_is_replaying_once(self, state: State) -> None:
        records = (decision("e1", None, BUDGET.key), outcome("e1"), decision("e2", None, BUDGET.key), outcome("e2", "not_run"))
        for _ in range(2):
            self.replay(state, *records)
            state.reconcile("s2", enumerate(records), len(records), owned=False)
        assert count(state) == 1

    def test_what_ran_counts_even_beyond_the_limit(self, state: State) -> None:
        self.replay(state, *[decision(f"e{n}", None, BUDGET.key) for n in range(5)])
        assert state.admit(ask("f", None, BUDGET)) == Exhausted("3 calls a task", 3)
        assert count(state) == 5

    def test_reservations_without_a_record_are_released(self, state: State) -> None:
        state.admit(ask("e1", "c", BUDGET))
        state.admit(ask("e2", "d", BUDGET))
        assert self.replay(state, decision("e1", "c", BUDGET.key)) == 1
        assert count(state) == 1
        assert state.admit(ask("e3", "d")) is ADMITTED

    def test_reservations_of_others_are_not(self, state: State) -> None:
        state.admit(ask("e1", "c", BUDGET, shard="s2"))
        assert self.replay(state) == 0
        assert state.reconcile("s2", [], 0, owned=False) == 0, "somebody is about to write that record"
        assert count(state) == 1
        assert state.reconcile("s2", [], 0) == 1
        assert count(state) == 0

    def test_older_records_are_not_missed_in_a_later_life(self, state: State) -> None:
        state.admit(ask("e1", "c", BUDGET))
        self.replay(state, decision("e1", "c", BUDGET.key))
        state.admit(ask("e2", "d", BUDGET))
        assert self.replay(state, start=1) == 1, "e2 has no record; e1 has one, before the position"
        assert count(state) == 1

    def test_a_mark_moves_the_start(self, state: State) -> None:
        state.admit(ask("e1", "c", BUDGET))
        state.mark("s1", 1)
        assert state.position("s1") == 1
        state.admit(ask("e2", "d", BUDGET))
        assert self.replay(state, outcome("e1"), start=1) == 1
        assert count(state) == 1

    def test_a_shard_that_was_never_reconciled_keeps_its_lease(self, state: State, tmp_path: Path) -> None:
        state.admit(ask("e1", None, BUDGET))
        later = State.open(tmp_path / "state.db", durability="process")
        later.admit(ask("e2", None, BUDGET))
        assert self.replay(later, decision("e2", None, BUDGET.key)) == 1
        assert count(later) == 1
        later.close()

    def test_foreign_shards_keep_their_position_while_somebody_counts(self, state: State) -> None:
        state.admit(ask("e1", None, BUDGET, shard="s2"))
        self.replay(state, decision("e1", None, BUDGET.key), shard="s2", owned=False)
        assert state.position("s2") == 0
        self.replay(state, decision("e9", None, BUDGET.key), shard="s3", owned=False)
        assert state.position("s3") == 1

    def test_a_released_call_that_was_made_again_counts_once(self, state: State) -> None:
        records = (decision("e1", "c", BUDGET.key), outcome("e1", "not_run"), decision("e2", "c", BUDGET.key), outcome("e2"))
        state.admit(first := ask("e1", "c", BUDGET))
        state.settle(first, "not_run")
        state.admit(ask("e2", "c", BUDGET))
        self.replay(state, *records)
        assert count(state) == 1
        assert state.admit(ask("e3", "c", BUDGET)) == Replayed("e2", None)

    def test_a_release_that_the_crash_prevented_is_made_up_for(self, state: State) -> None:
        state.admit(ask("e1", "c", BUDGET))
        self.replay(state, decision("e1", "c", BUDGET.key), outcome("e1", "not_run"))
        assert count(state) == 0

    @pytest.mark.parametrize("order", [("s1", "s2"), ("s2", "s1")])
    def test_a_rerun_in_another_shard_is_charged_once_in_either_order(self, state: State, order: tuple[str, str]) -> None:
        logs = {"s1": [decision("e1", "c", BUDGET.key, rerun=True)], "s2": [decision("e2", "c", rerun=True)]}
        for shard in order * 2:
            self.replay(state, *logs[shard], shard=shard)
        assert count(state) == 1
        assert state.admit(ask("e3", "c", BUDGET, rerun=True)) is ADMITTED_AGAIN
        self.replay(state, decision("e3", "c", rerun=True), outcome("e3"), shard="s3")
        assert state.admit(ask("e4", "c", BUDGET, rerun=True)) == Replayed("e1", "ok")

    def test_denials_and_other_records_count_nothing(self, state: State) -> None:
        denied = decision("e1", "c", verdict="deny", task=None, reserved=None)
        self.replay(state, denied, {"type": "delegation"}, {"type": "open"}, outcome("unknown"))
        assert state.admit(ask("e2", "c", BUDGET)) is ADMITTED

    def test_revocations_come_back_with_the_log(self, state: State) -> None:
        records = [
            revocation(1, "revoke", "agent", "triage", 100),
            revocation(2, "revoke", "task", "t1", 50),
            revocation(3, "lift", "task", "t1", 40),
        ]
        for _ in range(2):
            self.replay(state, *records)
        snapshot = state.revocations()
        assert snapshot.holds(Kind.AGENT, "triage")
        assert not snapshot.holds(Kind.TASK, "t1"), "records of one shard happened in their order"
        assert snapshot.version == 3
        assert state.lift("agent", "triage", by="ops", time_ns=1) == 4
        assert not state.revocations().active

    def test_a_revocation_is_not_applied_a_second_time(self, state: State) -> None:
        state.revoke("agent", "triage", by="ops", time_ns=100, record="r1")
        state.lift("agent", "triage", by="ops", time_ns=200, record="r2")
        self.replay(state, revocation(1, "revoke", "agent", "triage", 500))
        assert not state.revocations().active
        assert state.version() == 2

    @pytest.mark.parametrize(
        "record",
        [
            {},
            {"type": "decision"},
            decision("e1", reserved=None),
            decision("e1", reserved=[["b"]]),
            decision("e1", reserved=[["b", -1]]),
            decision("e1", reserved=[["b", True]]),
            decision("e1", reserved=[[1, 1]]),
            decision("e1", task=None),
            decision("e1", call_id=7),
            decision("e1", time="soon"),
            decision("e1", expires="never"),
            {"type": "outcome", "execution": "e1"},
            revocation(1, "undo", "agent", "x", 1),
            revocation(1, "revoke", "nobody", "x", 1),
        ],
    )
    def test_a_malformed_record_is_named_and_nothing_moves(self, state: State, record: dict[str, Any]) -> None:
        with pytest.raises(InvalidInput, match="shard s1, record 1"):
            self.replay(state, decision("e0", "c", BUDGET.key), record)
        assert state.position("s1") == 0
        assert count(state) == 0

    def test_a_long_log_is_replayed_in_pieces(self, state: State) -> None:
        self.replay(state, *[decision(f"e{n}", None, "b") for n in range(5_001)])
        assert state.admit(ask("f", None, Charge("b", 5_001, "b"))) == Exhausted("b", 5_001)
        assert state.admit(ask("f", None, Charge("b", 5_002, "b"))) is ADMITTED


class TestUpkeep:
    def test_expired_rows_go_an_hour_later_and_in_pieces(self, state: State) -> None:
        for n in range(10):
            state.admit(ask(f"e{n}", None, expires=1000))
        state.admit(ask("live", "live", BUDGET))
        assert state.purge(4600) == 0
        assert [state.purge(4601, rows=4) for _ in range(4)] == [4, 4, 2, 0]
        assert state.admit(ask("f", "live", BUDGET)) == Replayed("live", None)
        assert count(state) == 1
        assert state.admit(ask("e0 again", "e0")) is ADMITTED

    def test_a_long_run_sweeps_by_itself(self, state: State, tmp_path: Path) -> None:
        for n in range(3000):
            state.admit(ask(f"e{n}", None, BUDGET, task=f"t{n}", expires=1000))
        with sqlite3.connect(tmp_path / "state.db") as raw:
            assert raw.execute("SELECT count(*) FROM cell").fetchone()[0] < 1200
        raw.close()

    def test_a_counter_lives_as_long_as_its_longest_call(self, state: State) -> None:
        state.admit(ask("e1", None, BUDGET, expires=FAR))
        state.admit(ask("e2", None, BUDGET, expires=10))
        assert state.purge(10_000) == 1
        assert count(state) == 2

    def test_notes(self, state: State) -> None:
        assert state.meta("clock") is None
        state.set_meta("clock", "1")
        state.set_meta("clock", "2")
        assert state.meta("clock") == "2"

    def test_the_files_are_the_owners_alone(self, state: State, tmp_path: Path) -> None:
        state.admit(ask("e1"))
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
        assert modes == dict.fromkeys(("state.db", "state.db-wal", "state.db-shm", "state.db.lock", "state.gen"), 0o600)

    def test_the_domain_is_the_stores_own(self, tmp_path: Path) -> None:
        with_domain = State.open(tmp_path / "one" / "state.db")
        again = State.open(tmp_path / "one" / "state.db")
        other = State.open(tmp_path / "two" / "state.db")
        assert with_domain.domain == again.domain
        assert with_domain.domain != other.domain
        assert len(other.domain) == 32
        for store in (with_domain, again, other):
            store.close()

    def test_a_closed_store_admits_nothing(self, state: State) -> None:
        state.close()
        state.close()
        for use in (lambda: state.admit(ask("e1")), state.version, state.revocations, lambda: state.purge(1)):
            with pytest.raises(StateUnavailable, match="is closed"):
                use()

    def test_a_second_open_is_the_same_store(self, state: State, tmp_path: Path) -> None:
        state.admit(ask("e1", "c", BUDGET))
        state.close()
        again = State.open(tmp_path / "state.db")
        assert again.admit(ask("e2", "c", BUDGET)) == Replayed("e1", None)
        again.close()


class Model:
    """What the store should answer, in twenty lines."""

    def __init__(self) -> None:
        self.version = 0
        self.used: dict[str, int] = {}
        self.seen: dict[str, tuple[str, tuple[Charge, ...], bool, str | None]] = {}

    def admit(self, execution: str, call_id: str, charges: tuple[Charge, ...], version: int, rerun: bool) -> object:
        if version != self.version:
            return Superseded(self.version)
        if call_id in self.seen:
            first, _, marked, status = self.seen[call_id]
            return ADMITTED_AGAIN if rerun and marked and status is None else Replayed(first, status)
        for charge in charges:
            if self.used.get(charge.key, 0) >= charge.limit:
                return Exhausted(charge.name, charge.limit)
        for charge in charges:
            self.used[charge.key] = self.used.get(charge.key, 0) + 1
        self.seen[call_id] = (execution, charges, rerun, None)
        return ADMITTED

    def settle(self, execution: str, call_id: str, status: str) -> None:
        first, charges, marked, before = self.seen.get(call_id, ("", (), False, None))
        if status == "not_run":
            if first == execution:
                del self.seen[call_id]
                for charge in charges:
                    self.used[charge.key] -= 1
        elif marked and before is None:
            self.seen[call_id] = (first, charges, marked, status)


_STEP = st.one_of(
    st.tuples(st.just("admit"), st.sampled_from("abc"), st.sets(st.sampled_from("xyz")), st.integers(0, 3), st.booleans(), st.booleans()),
    st.tuples(st.just("settle"), st.integers(0, 30), st.sampled_from(["ok", "error", "not_run"])),
    st.tuples(st.just("revoke")),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(_STEP, max_size=30))
def test_it_answers_as_the_model_does(tmp_path_factory: pytest.TempPathFactory, steps: list[Any]) -> None:
    store, model = State.open(tmp_path_factory.mktemp("model") / "state.db", durability="process"), Model()
    made: list[tuple[Reservation, str]] = []
    for number, (verb, *rest) in enumerate(steps):
        if verb == "admit":
            call_id, keys, limit, rerun, stale = rest
            charges = tuple([Charge(key, limit, f"budget {key}") for key in sorted(keys)])
            reservation = ask(f"e{number}", call_id, *charges, version=model.version - stale, rerun=rerun)
            answer = store.admit(reservation)
            assert answer == model.admit(reservation.execution, call_id, charges, reservation.version, rerun)
            if answer in (ADMITTED, ADMITTED_AGAIN):
                made.append((reservation, call_id))
        elif verb == "settle" and rest[0] < len(made):
            reservation, call_id = made[rest[0]]
            if reservation.rerun or rest[1] == "not_run" or model.seen.get(call_id, ("",))[0] == reservation.execution:
                store.settle(reservation, rest[1])
                model.settle(reservation.execution, call_id, rest[1])
        elif verb == "revoke":
            model.version = store.revoke("agent", "nobody", by="ops", time_ns=number)
    store.close()
