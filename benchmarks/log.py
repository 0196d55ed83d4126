"""Writing the log: group commit, a lone caller, CPU a record; and the peers' file sinks in the same run.

    python benchmarks/log.py                    # rounds in turn, with the peers where their environments are (benchmarks/run.py makes them)
    python benchmarks/log.py --quick            # fewer and shorter rounds
    python benchmarks/log.py --peer tenuo=PATH  # the interpreter of a peer's environment

The disk's sync time swings between 0.2 and 4 ms on one machine within minutes. So every round runs everything in turn, ratios are formed
inside a round, and only they and the sizes of groups have goals. Records are 1,000 bytes everywhere. A peer's sink is given ready-made
strings, which leaves out what making and signing a receipt costs it; ours is never left out. So a lone caller's receipt is timed in full,
too: a call with receipts that are made, signed and synced, less the same call without them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from pathlib import Path
from typing import Any, Final

from run import PEERS, WORK, environment, median, table

from agentguard import Guard, evidence
from agentguard.keys import LocalKey
from agentguard.log import Log
from agentguard.log import shard as shard_module

CALLERS: Final = 64
SIZE: Final = 1000
RECORD: Final = b'{"id":"' + b"x" * (SIZE - 9) + b'"}'
POLICY: Final = "agentguard: 1\nname: bench\nagents: {a: {tools: {tool: {x: any}, atool: {x: any}}}}\n"

#: Runs in a peer's environment: reads how many callers and calls, answers with seconds.
PEER: Final = """
import json, os, sys, tempfile, threading, time
{setup}
{callers}
for line in sys.stdin:
    print(json.dumps(concurrently(call, *json.loads(line))), flush=True)
"""
CALLERS_CODE: Final = """
def concurrently(call, callers, calls):
    def work():
        for _ in range(calls):
            call()
    threads = [threading.Thread(target=work) for _ in range(callers)]
    begin = time.perf_counter()
    if callers == 1:
        work()
    else:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return time.perf_counter() - begin
"""
TENUO_CALL: Final = """
import logging
logging.disable(logging.CRITICAL)
from tenuo import HolderIdentity, Range, Runtime, SigningKey, Warrant, configure, guard
from tenuo.receipts import FileReceiptSink
folder = tempfile.mkdtemp(dir=sys.argv[1])
root, holder = SigningKey.generate(), HolderIdentity.load_or_create(os.path.join(folder, "holder.key"))
configure(issuer_key=root, trusted_roots=[root.public_key], audit_log=False)
runtime = Runtime(identity=holder, trusted_roots=[root.public_key], receipts="{receipts}")
warrant = Warrant.mint_builder().capability("tool", x=Range.max_value(9)).holder(holder.public_key).ttl(3600).mint(root)
session, sink = runtime.session_from_wire(warrant), FileReceiptSink(os.path.join(folder, "receipts.jsonl"))
tool = guard(tool="tool")(lambda x: "ok")
def call():
    with runtime.session_scope(session):
        tool(x=1)
    if "{receipts}" == "collect":
        made = runtime.drain_receipts()
        assert len(made) == 1
        sink.handle(made[0])
        runtime.acknowledge_receipts(1)
"""
SETUP: Final = {
    "tenuo": """
from tenuo.receipts import FileReceiptSink
sink = FileReceiptSink(os.path.join(tempfile.mkdtemp(dir=sys.argv[1]), "receipts.jsonl"))
call = lambda: sink.handle("0" * 1000)
""",
    "tenuo with receipts": TENUO_CALL.format(receipts="collect"),
    "tenuo without": TENUO_CALL.format(receipts="off"),
    "agt": """
from agentmesh.governance.audit import AuditEntry
from agentmesh.governance.audit_backends import FileAuditSink
sink = FileAuditSink(os.path.join(tempfile.mkdtemp(dir=sys.argv[1]), "audit.jsonl"), secret_key=b"k" * 32)
entry = AuditEntry(event_type="policy_evaluation", agent_did="did:mesh:a", action="read_file", data={"args": "0" * 500})
call = lambda: sink.write(entry)
""",
}
ENVIRONMENTS: Final = {name.split()[0] for name in SETUP}


class Syncs:
    """Counts how often the log waits for the disk, and can leave that out."""

    def __init__(self) -> None:
        self.count, self.real = 0, True
        self._sync = shard_module.datasync
        shard_module.datasync = self  # type: ignore[misc, assignment]  # a benchmark may look inside

    def __call__(self, descriptor: int) -> None:
        self.count += 1
        if self.real:
            self._sync(descriptor)


class Peer:
    """A peer's sink in a process of its own, which waits for its turn."""

    def __init__(self, name: str, python: Path, folder: Path) -> None:
        code = PEER.format(setup=SETUP[name], callers=CALLERS_CODE)
        self._process = subprocess.Popen([python, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, callers: int, calls: int) -> float:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps([callers, calls]) + "\n")
        process.stdin.flush()
        return float(json.loads(process.stdout.readline()))

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


_namespace: dict[str, Any] = {"threading": threading, "time": time}
exec(CALLERS_CODE, _namespace)
concurrently: Callable[[Callable[[], object], int, int], float] = _namespace["concurrently"]


def tasks(call: Callable[[], Any], callers: int, calls: int) -> float:
    """Seconds for so many asyncio tasks that await so many calls each."""

    async def work() -> None:
        for _ in range(calls):
            await call()

    async def main() -> float:
        begin = time.perf_counter()
        await asyncio.gather(*[work() for _ in range(callers)])
        return time.perf_counter() - begin

    return asyncio.run(main())


class Plain:
    """What one would write by hand: a line appended to a file, under a lock."""

    def __init__(self, path: Path, *, sync: bool) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._sync, self._lock = sync, threading.Lock()

    def append(self) -> None:
        with self._lock:
            os.write(self._descriptor, RECORD + b"\n")
            if self._sync:
                os.fdatasync(self._descriptor)


class Rows:
    """Everything that takes its turn in a round: name -> (microseconds a record or call, records a sync)."""

    def __init__(self, folder: Path, peers: dict[str, Peer], scale: int) -> None:
        self.peers, self.scale = peers, scale
        self.syncs = Syncs()
        key = LocalKey.generate()
        self.fsync, self.process = (Log.open(folder / name, key, durability=name) for name in ("fsync", "process"))  # type: ignore[arg-type]
        self.plain = {sync: Plain(folder / f"plain-{sync}", sync=sync) for sync in (True, False)}
        self.lock = threading.Lock()
        self.guard = guard = Guard.open(POLICY, home=folder / "guard")

        @guard.tool
        def tool(x: int) -> str:
            return "ok"

        @guard.tool
        async def atool(x: int) -> str:
            return "ok"

        self.tool, self.atool = tool, atool
        self.task = guard.task("a", initiator="user:bench", ttl="2h").start()

    def singly(self) -> None:
        """The log without groups: one at a time, each with a sync of its own."""
        with self.lock:
            self.fsync.append(RECORD)

    def run(self) -> dict[str, tuple[float, float]]:
        few, many, quick = 4 * self.scale, 10 * self.scale, 500 * self.scale

        def in_context(callers: int, calls: int) -> float:
            return concurrently(lambda context=copy_context(): context.copy().run(self.tool, x=1), callers, calls)  # type: ignore[misc]

        rows: dict[str, tuple[Callable[[], float], int, int]] = {
            "fsync, 1 caller: log": (lambda: concurrently(lambda: self.fsync.append(RECORD), 1, many), many, 1),
            "fsync, 1 caller: plain file": (lambda: concurrently(self.plain[True].append, 1, many), many, 0),
            "fsync, 64 threads: log": (lambda: concurrently(lambda: self.fsync.append(RECORD), CALLERS, many), CALLERS * many, 1),
            "fsync, 64 tasks: log": (lambda: tasks(lambda: self.fsync.append_async(RECORD), CALLERS, many), CALLERS * many, 1),
            "fsync, 64 threads: log, one sync a record": (lambda: concurrently(self.singly, CALLERS, few), CALLERS * few, 1),
            "fsync, 64 threads: plain file": (lambda: concurrently(self.plain[True].append, CALLERS, few), CALLERS * few, 0),
            "fsync, 64 threads: guarded call": (lambda: in_context(CALLERS, few), CALLERS * few, 2),
            "fsync, 64 tasks: guarded call": (lambda: tasks(lambda: self.atool(x=1), CALLERS, few), CALLERS * few, 2),
            "process, 1 caller: log": (lambda: concurrently(lambda: self.process.append(RECORD), 1, quick), quick, 0),
            "process, 1 caller: plain file": (lambda: concurrently(self.plain[False].append, 1, quick), quick, 0),
        }
        if tenuo := self.peers.get("tenuo"):
            rows["fsync, 1 caller: Tenuo's receipts in a file"] = (lambda: tenuo.run(1, many), many, 0)
            rows["fsync, 64 threads: Tenuo's receipts in a file"] = (lambda: tenuo.run(CALLERS, few), CALLERS * few, 0)
        if (made := self.peers.get("tenuo with receipts")) and (bare := self.peers.get("tenuo without")):
            rows["fsync, 1 caller: Tenuo's receipt, made too"] = (lambda: made.run(1, many) - bare.run(1, many), many, 0)
        if agt := self.peers.get("agt"):
            rows["process, 1 caller: AGT's file sink"] = (lambda: agt.run(1, quick // 5), quick // 5, 0)
        found = {}
        for name, (operation, count, records) in rows.items():
            self.syncs.count = 0
            spent = operation()
            found[name] = (spent / count * 1e6, count * records / self.syncs.count if records else 0.0)
        return found | self.cpu()

    def cpu(self) -> dict[str, tuple[float, float]]:
        """CPU of this thread for groups of several sizes, the record's encoding included, without the sync."""
        made = evidence.NoteRecord(by="bench", detail={"text": "x" * (SIZE - 120)}, id="0" * 24, time="1" * 19, type="bench")
        commit = self.fsync._writer._commit
        spent = {}
        self.syncs.real = False
        try:
            for size in (1, 64, 512):
                begin = time.thread_time()
                for _ in range(max(4, 512 // size)):
                    commit([evidence.encode(made) for _ in range(size)])
                spent[size] = (time.thread_time() - begin) / max(4, 512 // size) * 1e6
        finally:
            self.syncs.real = True
        record = (spent[512] - spent[64]) / (512 - 64)
        return {"CPU a record in a group": (record, 0.0), "CPU a group": (spent[1] - record, 0.0)}

    def close(self) -> None:
        self.task.close()
        self.guard.close()
        self.fsync.close()
        self.process.close()


#: (what, row, row to divide by, at most). A row alone: microseconds.
GOALS: Final[tuple[tuple[str, str, str | None, float], ...]] = (
    ("64 threads: log / one sync a record", "fsync, 64 threads: log", "fsync, 64 threads: log, one sync a record", 1 / 3),
    ("64 callers: tasks / threads", "fsync, 64 tasks: log", "fsync, 64 threads: log", 2),
    ("64 guarded calls: tasks / threads", "fsync, 64 tasks: guarded call", "fsync, 64 threads: guarded call", 2),
    ("64 threads: log / Tenuo's receipts", "fsync, 64 threads: log", "fsync, 64 threads: Tenuo's receipts in a file", 1),
    ("1 caller: log / Tenuo's receipts", "fsync, 1 caller: log", "fsync, 1 caller: Tenuo's receipts in a file", 1),
    ("1 caller: log / Tenuo's receipt, made too", "fsync, 1 caller: log", "fsync, 1 caller: Tenuo's receipt, made too", 1),
    ("1 caller, unsynced: log / AGT's file sink", "process, 1 caller: log", "process, 1 caller: AGT's file sink", 1),
    ("process, 1 caller: µs a record", "process, 1 caller: log", None, 15),
    ("CPU: µs a record", "CPU a record in a group", None, 15),
    ("CPU: µs a group, with its checkpoint", "CPU a group", None, 60),
)
#: Records a sync, at least.
GROUPS: Final = (("fsync, 64 threads: log", 16), ("fsync, 64 tasks: log", 16))


def show(rounds: list[dict[str, tuple[float, float]]]) -> None:
    names = list(rounds[0])
    cells = []
    for name in names:
        groups = median([one[name][1] for one in rounds])
        cells.append((name, f"{median([one[name][0] for one in rounds]):.1f}", f"{groups:.1f}" if groups else "-"))
    table(f"median of {len(rounds)} rounds", cells, ("operation", "µs a record or call", "records a sync"))
    goals = []
    for what, row, divisor, most in GOALS:
        if row in names and (divisor is None or divisor in names):
            values = [one[row][0] / (one[divisor][0] if divisor is not None else 1) for one in rounds]
            goals.append(_goal(what, values, f"≤ {most:.2f}", median(values) <= most))
    for row, least in GROUPS:
        values = [one[row][1] for one in rounds]
        goals.append(_goal(f"records a sync, {row}", values, f"≥ {least}", median(values) >= least))
    table("goals", goals, ("", "median", "range", "wanted", ""))


def _goal(what: str, values: list[float], wanted: str, reached: bool) -> tuple[str, ...]:
    return what, f"{median(values):.2f}", f"{min(values):.2f}–{max(values):.2f}", wanted, "" if reached else "not reached"


def pythons(given: list[str]) -> dict[str, Path]:
    """The peers' interpreters: those that are named, and those that benchmarks/run.py made."""
    found = {name: Path(path) for name, _, path in (one.partition("=") for one in given)}
    for name in ENVIRONMENTS:
        if name not in found and (WORK / "venvs" / name / ".done").exists():
            found[name] = environment(name, PEERS[name][1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON", help="a peer's interpreter: tenuo, agt")
    options = parser.parse_args()
    found = pythons(options.peer)
    for name in sorted(ENVIRONMENTS - found.keys()):
        print(f"{name} is left out: benchmarks/run.py makes its environment, or give --peer {name}=PYTHON", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="agentguard-bench-") as folder:
        peers = {name: Peer(name, found[of], Path(folder)) for name in SETUP if (of := name.split()[0]) in found}
        rows = Rows(Path(folder), peers, 1 if options.quick else 5)
        try:
            rows.run()  # warm
            rounds = [rows.run() for _ in range(3 if options.quick else options.rounds)]
        finally:
            rows.close()
            for peer in peers.values():
                peer.close()
    WORK.mkdir(exist_ok=True)
    (WORK / "log.json").write_text(json.dumps(rounds, indent=1) + "\n")
    show(rounds)


if __name__ == "__main__":
    main()
