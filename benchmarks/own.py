"""Time agentguard on the workload that the peers run too, and print one JSON object.

The workload: a tool `read_file(path, max_size, mode)` that returns a constant; allowed when the path is under /data, max_size is at most
1000 and mode is "read" or "stat". Every decision is checked once before anything is timed. One budget counts every call.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable
from contextvars import copy_context
from pathlib import Path
from typing import Any

from harness import measure

from agentguard import Denied, Guard, ToolCall
from agentguard.context import current_task
from agentguard.environment import version
from agentguard.policy import load

ARGS = {"path": "/data/reports/q3.txt", "max_size": 500, "mode": "read"}
BAD = {**ARGS, "path": "/etc/passwd"}
RULES = "{path: {path: /data}, max_size: {range: {max: 1000}}, mode: {one_of: [read, stat]}}"
CHAIN = [f"agent{i}" for i in range(8)]


def policy_text(extra: int = 0) -> str:
    """One agent per link of the longest chain, and `extra` rules that never match."""
    lines = ["agentguard: 1", "name: bench", "agents:"]
    for index, agent in enumerate(CHAIN):
        lines += [f"  {agent}:", "    tools:", f"      read_file: {RULES}", f"      proven: {RULES}"]
        lines += ["    budgets: [{calls: 1000000000, per: task}]"]
        if index + 1 < len(CHAIN):
            lines += [f"    delegates: {{{CHAIN[index + 1]}: {{depth: 8}}}}"]
    for index in range(extra):
        lines += [f"  other{index}: {{tools: {{tool{index}: {{path: {{path: /data/{index}}}}}}}}}"]
    lines += ["tools: {proven: {proof: required}}"]
    return "\n".join(lines) + "\n"


def denied(operation: Callable[[], Any], code: str) -> Callable[[], Any]:
    """The operation, which must be refused with `code`."""

    def call() -> None:
        try:
            operation()
        except Denied as error:
            if str(error.code) != code:
                raise SystemExit(f"denied with {error.code} instead of {code}") from None
            return
        raise SystemExit("a call that must be refused was let through")

    return call


class Bench:
    """One guard with its guarded functions."""

    def __init__(self, home: Path, *, durability: str = "process", extra: int = 0) -> None:
        self.guard = Guard.open(policy_text(extra), home=home, durability=durability)  # type: ignore[arg-type]  # one of the two words

        @self.guard.tool
        def read_file(path: str, max_size: int, mode: str) -> str:
            return "ok"

        @self.guard.tool
        def proven(path: str, max_size: int, mode: str) -> str:
            return "ok"

        @self.guard.tool
        def delete_file(path: str, max_size: int, mode: str) -> str:
            return "ok"

        self.read_file, self.proven, self.delete_file = read_file, proven, delete_file
        self.tasks: list[Any] = []
        self.depth = 0

    def enter(self, depth: int) -> None:
        """Make a chain of `depth` links current."""
        self.leave()
        self.tasks = [self.guard.task(CHAIN[0], initiator="user:bench", ttl="2h").start()]
        for agent in CHAIN[1:depth]:
            self.tasks.append(self.tasks[-1].delegate(agent).start())
        self.depth = depth

    def leave(self) -> None:
        for task in reversed(self.tasks):
            task.close()
        self.tasks = []

    def on(self, depth: int, operation: Callable[[], Any]) -> Callable[[], Any]:
        """The operation under a chain of `depth` links of its own. The task is entered anew every 1,000 calls, inside the timing."""
        tasks: list[Any] = []
        count = 0

        def call() -> Any:
            nonlocal count
            if count % 1000 == 0:
                for task in reversed(tasks):
                    task.close()
                tasks[:] = [self.guard.task(CHAIN[0], initiator="user:bench", ttl="2h").start()]
                for agent in CHAIN[1:depth]:
                    tasks.append(tasks[-1].delegate(agent).start())
            elif current_task.get() is not tasks[-1]:  # another operation had its turn
                current_task.set(tasks[-1])
            count += 1
            return operation()

        return call

    def cold(self, depth: int, tool: str) -> Callable[[], Any]:
        """A chain as it arrives from elsewhere: parsed, every signature verified, the call checked. Nothing of it is cached."""
        self.enter(depth)
        presentation = json.dumps(self.tasks[-1].presentation())
        key = self.guard.home.keys.holder(CHAIN[depth - 1])
        call = ToolCall(CHAIN[depth - 1], tool, ARGS)

        def run() -> None:
            self.guard.forget_chains()
            decision = self.guard.decide(call, task=self.guard.accept(presentation, key))
            if not decision.allowed:
                raise SystemExit(decision.explain())

        return run


def plain(path: str, max_size: int, mode: str) -> str:
    return "ok"


def langchain(bench: Bench) -> dict[str, Callable[[], Any] | None]:
    try:
        from langchain_core.tools import StructuredTool

        from agentguard_adapters.langchain_core import guard_tools
    except ImportError:
        return {"langchain_unguarded": None, "langchain_guarded": None}

    def read_file(path: str, max_size: int, mode: str) -> str:
        """Read a file."""
        return "ok"

    guard = Guard.open(policy_text(), home=Path(tempfile.mkdtemp(dir=bench.guard.home.path.parent)), durability="process")
    inner = StructuredTool.from_function(read_file)
    (guarded,) = guard_tools(guard, [StructuredTool.from_function(read_file)])
    task = guard.task(CHAIN[0], initiator="user:bench", ttl="2h").issue()

    def call() -> Any:
        token = current_task.set(task)
        try:
            return guarded.invoke(ARGS)
        finally:
            current_task.reset(token)

    if call() != "ok":
        raise SystemExit("the guarded LangChain tool did not run")
    return {"langchain_unguarded": lambda: inner.invoke(ARGS), "langchain_guarded": call}


def threads(bench: Bench, count: int) -> Callable[[], Any]:
    """1,000 calls over `count` threads; the figure is per call."""

    def run() -> None:
        bench.enter(1)
        share = 1000 // count

        def work() -> None:
            for _ in range(share):
                bench.read_file(**ARGS)

        workers = [threading.Thread(target=copy_context().run, args=(work,)) for _ in range(count)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    return run


def memory(bench: Bench, count: int = 10_000) -> float:
    """Bytes per live artifact: tasks that are open, with their verified chains."""
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    tasks = [bench.guard.task(CHAIN[0], initiator="user:bench").issue() for _ in range(count)]
    for task in tasks:
        bench.guard.decide(ToolCall(CHAIN[0], "read_file", ARGS), task=task)
    gc.collect()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return (after - before) / count


def import_seconds() -> float:
    """The best of five: a new interpreter that imports agentguard, less one that imports nothing."""

    def best(code: str) -> float:
        spans = []
        for _ in range(5):
            begin = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            spans.append(time.perf_counter() - begin)
        return min(spans)

    return best("import agentguard") - best("pass")


def load_seconds(rules: int) -> float:
    text = policy_text(rules)
    spans = []
    for _ in range(5):
        begin = time.perf_counter()
        load(text)
        spans.append(time.perf_counter() - begin)
    return min(spans)


def growth(bench: Bench, rounds: int) -> dict[str, float]:
    """The cost of a call, early and after 50,000 more of them; the task is entered anew every 1,000 calls."""
    call = bench.on(1, lambda: bench.read_file(**ARGS))

    def batch() -> float:
        best = 1e9
        for _ in range(max(3, rounds)):
            begin = time.perf_counter()
            for _ in range(500):
                call()
            best = min(best, (time.perf_counter() - begin) / 500 * 1e6)
        return best

    early = batch()
    for _ in range(50_000):
        call()
    return {"early_us": round(early, 2), "after_50000_calls_us": round(batch(), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch-ms", type=float, default=20.0)
    parser.add_argument("--full", action="store_true", help="also memory, threads, import and load time, growth")
    parser.add_argument("--out")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="agentguard-bench-") as folder:
        document = run(Path(folder), options)
    text = json.dumps(document, indent=1)
    print(text)
    if options.out:
        Path(options.out).write_text(text + "\n", "utf-8")


def run(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    bench, durable = Bench(folder / "process"), Bench(folder / "fsync", durability="fsync")
    big = Bench(folder / "big", extra=2000)
    rows: dict[str, Callable[[], Any] | None] = {
        "allow": bench.on(1, lambda: bench.read_file(**ARGS)),
        "deny_constraint": bench.on(1, denied(lambda: bench.read_file(**BAD), "argument_not_allowed")),
        "deny_unknown_tool": bench.on(1, denied(lambda: bench.delete_file(**ARGS), "tool_not_in_scope")),
    }
    for depth in (1, 3, 8):
        rows[f"chain_{depth}"] = bench.cold(depth, "read_file")
    rows |= langchain(bench)
    rows["allow_durable_receipt"] = durable.on(1, lambda: durable.read_file(**ARGS))
    extra: dict[str, Callable[[], Any] | None] = {
        "plain_call": lambda: plain(**ARGS),
        "allow_depth_3_warm": bench.on(3, lambda: bench.read_file(**ARGS)),
        "allow_depth_8_warm": bench.on(8, lambda: bench.read_file(**ARGS)),
        "allow_with_proof": bench.on(1, lambda: bench.proven(**ARGS)),
        "allow_depth_8_with_proof": bench.on(8, lambda: bench.proven(**ARGS)),
        "allow_2000_rules": big.on(1, lambda: big.read_file(**ARGS)),
    }
    for operation in (*rows.values(), *extra.values()):
        if operation is not None:
            operation()
    result = measure({**rows, **extra}, options.rounds, options.batch_ms)
    notes: dict[str, Any] = {
        "allow": "decision and outcome both recorded, durability process, one budget, task entered once per 1,000 calls",
        "chain_N": "presentation parsed, every signature verified, the call decided (dry); the holder's key is at hand",
        "allow_durable_receipt": "as allow, durability fsync: decision and outcome synced to disk before the call returns",
    }
    if options.full:
        notes["threads_us_per_call"] = {
            str(count): round(measure({"t": threads(bench, count)}, 3, 1.0)[0]["median_us"] / 1000, 2) for count in (1, 8)
        }
        notes["growth"] = growth(bench, options.rounds)
        notes["memory_bytes_per_live_artifact"] = round(memory(bench))
        notes["import_seconds"] = round(import_seconds(), 3)
        notes["load_seconds"] = {str(rules): round(load_seconds(rules), 4) for rules in (10, 2000)}
    return {
        "peer": "agentguard",
        "version": version(),
        "rows": [row for row in result if row["operation"] in rows],
        "extra_rows": [row for row in result if row["operation"] in extra],
        "notes": notes,
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    main()
