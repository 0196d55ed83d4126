"""Speed of the policy: load, policy time of one call (bound arguments to verdict), and what rules about the past cost.

python benchmarks/policy.py [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from agentguard.admission import Account, Charge, Need, Reservation
from agentguard.analysis.properties import beside, load_properties
from agentguard.analysis.prove import prove
from agentguard.analysis.search import Search
from agentguard.analysis.simulate import simulate
from agentguard.analysis.trace import Called, from_lines
from agentguard.canonical import freeze
from agentguard.policy import load
from agentguard.policy.model import Policy
from agentguard.state.store import State


def text(rules: int) -> str:
    """A policy of so many tool rules, of 20 to an agent, with conditions, budgets and sequences at the one that is asked about."""
    lines = ["agentguard: 1", "name: big", "agents:"]
    for agent in range(max(1, rules // 20)):
        lines += [f"  agent{agent}:", "    tools:"]
        lines += [f"      tool{tool}: {{path: {{path: /srv}}, limit: {{range: {{min: 1, max: 50}}}}, note: any}}" for tool in range(20)]
        if agent == 0:
            lines += ['    where: {tool3: ["limit * 2 <= 100"]}']
            lines += ["    sequence: [{tool: tool1, before: tool3}, {tool: tool3, never_after: tool2}, {tool: tool3, at_most: 1000000}]"]
    return "\n".join(lines) + "\n"


def timed(run: Callable[[], object], times: int) -> float:
    """Microseconds of one run."""
    start = time.perf_counter()
    for _ in range(times):
        run()
    return (time.perf_counter() - start) / times * 1e6


def judged(policy: Policy) -> Callable[[], object]:
    arguments = freeze({"path": "/srv/a", "limit": 7, "note": "x"})
    standing = policy.standing("agent0", "tool3")
    assert standing is not None
    counters = {key: 1 if "/done/" in key else 0 for key in (standing.watch.reads if standing.watch is not None else ())}

    def run() -> object:
        refused = (
            policy.judge("agent0", "tool3", arguments) or standing.judge("tool3", 0, counters) or standing.approval((arguments,), counters)
        )
        assert refused is None
        return refused

    return run


def admitted(state: State, task: str, history: int) -> Callable[[], object]:
    """One admission with a rule about the past, after so many calls of the same task."""
    account = Account(task, "a", (Charge("seq//called/x", 2**53, "x"),), 2**40, (Need("seq//called/y", 0, 0),), ("seq//done/x",))
    version, count = state.version(), 0

    def run() -> object:
        nonlocal count
        count += 1
        state.counts(task, ("seq//called/y", "seq//done/x"))
        reservation = Reservation(f"{task}{count:08x}", "s", account, f"c{count:08x}", version)
        answer = state.admit(reservation)
        state.settle(reservation, "ok", (("seq//done/x", 1),))
        return answer

    for _ in range(history):
        run()
    return run


SIMULATED = """agentguard: 1
name: simulated
agents:
  a:
    tools: {look: {}, pay: {x: {range: {max: 50}}, to: {email: {domains: [example.com]}}}}
"""
HISTORY = """    budgets:
    - {calls: 1000000, per: task}
    - {cost: x, tool: pay, limit: 1000000000, per: agent, window: {sliding: 24h}}
    sequence: [{tool: look, before: pay}, {tool: pay, at_most: 1000000}]
"""


def conditions(agents: int, own: bool) -> str:
    """A policy of so many agents with a condition each: its own, or the same two for all."""
    lines = ["agentguard: 1", "name: conditions", "agents:"]
    for agent in range(agents):
        where = f'["amount * quantity <= {1000 + agent}"]' if own else '["amount * quantity <= 1000", "to != by"]'
        lines += [f"  agent{agent}:", "    tools: {pay: {amount: {range: {min: 1, max: 50}}, to: any, by: any, quantity: any}}"]
        lines += [f"    where: {{pay: {where}}}"]
    return "\n".join(lines) + "\n"


def read_and_simulated(policy: Policy, calls: int) -> float:
    """Calls a second from a file of JSON lines, one call a second of recorded time."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "trace.jsonl"
        with file.open("w") as out:
            for number in range(calls):
                made = {"tool": "pay", "arguments": {"x": 7, "to": "bob@example.com"}} if number else {"tool": "look", "arguments": {}}
                out.write(json.dumps({"agent": "a", **made, "at": (start + timedelta(seconds=number)).isoformat()}) + "\n")
        begin = time.perf_counter()
        found = simulate(from_lines(file), policy)
        seconds = time.perf_counter() - begin
    assert found.total("same") == calls
    return calls / seconds


def simulated(policy: Policy, calls: int) -> float:
    """Calls a second, one call a second of recorded time."""
    start, arguments = 1_767_225_600, freeze({"x": 7, "to": "bob@example.com"})
    made = [Called("a", "look", freeze({}), None, None, True, "0", start)]
    made += [Called("a", "pay", arguments, None, None, True, str(number), start + number) for number in range(1, calls)]
    begin = time.perf_counter()
    found = simulate(made, policy)
    seconds = time.perf_counter() - begin
    assert found.total("same") == calls
    return calls / seconds


def proven() -> tuple[int, float]:
    """How many properties the example policies have, and the seconds of the one that took longest."""
    longest, count = 0.0, 0
    for file in sorted((Path(__file__).resolve().parents[1] / "policies").glob("*.properties.yaml")):
        policy = load(file.with_name(file.name.replace(".properties", "")))
        for wanted in load_properties(beside(file.with_name(file.name.replace(".properties", "")))):
            begin = time.perf_counter()
            answer = prove(policy, wanted, Search(seconds=10))
            longest, count = max(longest, time.perf_counter() - begin), count + 1
            assert str(answer.verdict) == "proven", answer
    return count, longest


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true")
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    rounds, history = (3, 1_000) if given.quick else (9, 100_000)
    small, large = judged(load(text(20))), judged(load(text(2_000)))
    with tempfile.TemporaryDirectory() as directory, closing(State.open(Path(directory) / "state.db", durability="process")) as state:
        short, long = admitted(state, "t1", 1), admitted(state, "t2", history)
        rows: dict[str, list[float]] = {}
        for _ in range(rounds):
            for name, run, times in (
                ("policy time, 20 rules (us)", small, 5_000),
                ("policy time, 2,000 rules (us)", large, 5_000),
                ("admission with a sequence rule, no history (us)", short, 300),
                (f"the same after {history:,} calls (us)", long, 300),
            ):
                rows.setdefault(name, []).append(timed(run, times))
            for name, rules in (("without history", SIMULATED), ("with budgets and sequences", SIMULATED + HISTORY)):
                calls, policy = 5_000 if given.quick else 50_000, load(rules)
                rows.setdefault(f"simulate {name}, calls already read (calls/s)", []).append(simulated(policy, calls))
                rows.setdefault(f"simulate {name}, from JSON lines (calls/s)", []).append(read_and_simulated(policy, calls))
            for name, source in (
                ("2,000 rules", text(2_000)),
                ("2,000 agents, the same two conditions each", conditions(2_000, own=False)),
                ("2,000 agents, a condition of its own each", conditions(2_000, own=True)),
            ):
                rows.setdefault(f"load {name} (ms)", []).append(timed(partial(load, source), 1) / 1e3)
    properties, longest = proven()
    rows[f"prove, the longest of {properties} properties of the examples (s)"] = [longest]
    medians = {name: round(statistics.median(values), 2) for name, values in rows.items()}
    for name, value in medians.items():
        print(f"{name:72} {value:10.2f}")
    if given.json is not None:
        given.json.write_text(json.dumps(medians, indent=2) + "\n")


if __name__ == "__main__":
    main()
