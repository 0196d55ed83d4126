"""Reading the log: verify, index, queries, exports. Records a second on one core, against the floor of the hashing alone.

    python benchmarks/log_read.py                 # a million records
    python benchmarks/log_read.py --quick         # a tenth of it
    python benchmarks/log_read.py --keep DIR      # leave the logs there, and use them again

The logs hold what a guard writes, in its own record forms: calls that were allowed, each with its outcome, and one in sixteen refused.
`process` has one append a record, as a lone caller makes them; `group` a checkpoint for 64 records, as `fsync` durability under load;
questions and exports are asked of a log of a tenth (`tenth`). Each figure is of a fresh process: CPU seconds, and the memory that it
gained over the same with a log of a hundredth.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from agentguard import evidence
from agentguard.decision import Code, Stage, Verdict
from agentguard.exports import events, write_csv, write_parquet
from agentguard.exports import records as exported
from agentguard.keys import LocalKey
from agentguard.log import Log, iter_records, read_shards, verify
from agentguard.log.merkle import leaf_hash, next_seal, node_hash
from agentguard.log.proofs import prove_growth, prove_inclusion
from agentguard.log.site import write_sites
from agentguard.reading.index import Index
from agentguard.reading.queries import Filter, Questions

KEY = LocalKey.from_seed(bytes(range(32)))
START = 1_700_000_000_000_000_000
AGENTS = ("triage", "summarizer", "billing", "research")
TOOLS = ("read_ticket", "search", "send_email", "read_file")
CALLS_A_TASK = 1000
MILLION = 1_000_000


def digest(*parts: object) -> str:
    return "sha256:" + hashlib.sha256(repr(parts).encode()).hexdigest()


def forms(agent: str, tool: str, task: str) -> tuple[evidence.Form, evidence.Form]:
    """The records of one agent, tool and task, but for what changes from call to call."""
    artifact = digest("artifact", task)[7:]
    premises = {name: digest(name) for name in ("anchors", "environment", "policy")} | {"bundle": None, "lock": None, "guard": "1.0"}
    decision = evidence.Form(
        evidence.DecisionRecord,
        evidence.DECISION_BLANKS,
        agent=agent,
        tool=tool,
        task=task,
        tool_version=digest(tool),
        artifact=artifact,
        chain=digest("chain", task),
        expires=1_795_469_593,
        initiator={"evidence": "", "id": "user:alice", "method": "asserted"},
        **premises,
    )
    return decision, evidence.Form(evidence.OutcomeRecord, evidence.OUTCOME_BLANKS, task=task, tool_version=digest(tool))


def records(count: int) -> Iterator[bytes]:
    """At least `count` records of a guard that is used by four agents."""
    stages = {verdict: json.dumps(dict.fromkeys(sorted(str(int(stage)) for stage in Stage if stage < last), "pass"), separators=(",", ":"))
              for verdict, last in ((Verdict.ALLOW, Stage.EVIDENCE), (Verdict.DENY, Stage.POLICY))}  # fmt: skip
    made = 0
    number = 0
    known: dict[tuple[str, str], tuple[evidence.Form, evidence.Form]] = {}
    null = b"null"
    while made < count:
        if number % CALLS_A_TASK == 0:
            task = f"{0xAA000000 + number:024x}"
            known = {(agent, tool): forms(agent, tool, task) for agent in AGENTS for tool in TOOLS}
        agent, tool = AGENTS[number % 4], TOOLS[number // 4 % 4]
        decision, outcome = known[agent, tool]
        name = b'"%024x"' % number
        refused = number % 16 == 15
        verdict = Verdict.DENY if refused else Verdict.ALLOW
        values = {
            "arguments": b'"%b"' % digest(number).encode(),
            "call_id": name,
            "code": b'"%b"' % Code.ARGUMENT_NOT_ALLOWED.encode() if refused else null,
            "enforced": b"true",
            "id": name,
            "reasons": b'"%b"' % digest("why", number).encode() if refused else null,
            "rerun": b"false",
            "reserved": b"[]" if refused else b'[["budget/%b/calls per task",1]]' % agent.encode(),
            "revocations": b"0",
            "stages": stages[verdict].encode(),
            "time": b'"%d"' % (START + number * 1_000_000),
            "verdict": b'"%b"' % verdict.encode(),
        }
        yield decision.fill(*[values.get(blank, null) for blank in evidence.DECISION_BLANKS])
        made += 1
        if not refused:
            ended = {"execution": name, "form": b'"json"', "id": b'"%024x.outcome"' % number, "output": values["arguments"],
                     "status": b'"ok"', "time": b'"%d"' % (START + number * 1_000_000 + 500_000)}  # fmt: skip
            yield outcome.fill(*[ended.get(blank, null) for blank in evidence.OUTCOME_BLANKS])
            made += 1
        number += 1


def make(home: Path, count: int, group: int) -> None:
    """A log of about so many records, `group` of them an append; with a checkpoint in each, if there are several."""
    if (home / "log").is_dir():
        return
    with Log.open(home, KEY, durability="process") as log:
        batch: list[bytes] = []
        for record in records(count):
            batch.append(record)
            if len(batch) == group:
                log.append(*batch)
                if group > 1:
                    log.checkpoint()
                batch.clear()
        if batch:
            log.append(*batch)


# --- what is measured, each in a process of its own -------------------------------------------------------------------------------------


def hashing(home: Path) -> int:
    """The floor: per record its leaf, one node, one seal; nothing is read."""
    sample = [record for _, (_, _, record) in zip(range(2000), iter_records(home), strict=False)]
    total = sum(1 for _ in iter_records(home)) // len(sample)
    begin = time.process_time()
    seal = bytes(32)
    for _ in range(total):
        for record in sample:
            leaf = leaf_hash(record)
            seal = next_seal(seal, leaf)
            node_hash(leaf, seal)
    hashing.seconds = time.process_time() - begin  # type: ignore[attr-defined]  # what was read to prepare does not count
    return total * len(sample)


def verifying(home: Path) -> int:
    report = verify(home, KEY.public)
    if report.findings:
        raise SystemExit(f"not genuine: {report.findings[0]}")
    return report.records


def reading(home: Path) -> int:
    return sum(1 for _ in iter_records(home))


def indexing(home: Path) -> int:
    with tempfile.TemporaryDirectory() as folder, Index(home, path=Path(folder) / "index.db") as index:
        return index.size


def ocsf(home: Path) -> int:
    with open(os.devnull, "w") as out:
        return sum(out.write(json.dumps(event)) > 0 for event in events(home))


def as_csv(home: Path) -> int:
    with open(os.devnull, "w") as out:
        return write_csv(exported(home), out)


def as_parquet(home: Path) -> int:
    with tempfile.TemporaryDirectory() as folder:
        return write_parquet(exported(home), Path(folder) / "log.parquet")


def asking(home: Path) -> int:
    """A hundred pages of 50 refusals each, through an index that is there."""
    with Questions(home) as ask:
        begin = time.process_time()
        after, count = None, 0
        for _ in range(100):
            page = list(ask.find(Filter(agent="research", verdict="deny"), after=after, limit=50, newest=True))
            count += len(page)
            after = page[-1].cursor if page else None
    asking.seconds = time.process_time() - begin  # type: ignore[attr-defined]  # bringing the index up does not count
    return count


def proving(home: Path) -> int:
    """A thousand proofs of inclusion, as many of growth, each verified before it is given out; the cache of nodes is there."""
    (shard,) = read_shards(home)
    size = sum(1 for _ in iter_records(home))
    chosen = range(0, size, max(1, size // 1000))
    known = {index: record for _, index, record in iter_records(home) if index in chosen}
    prove_growth(home, shard, 1, None, KEY.public)
    begin = time.process_time()
    for index, record in known.items():
        prove_inclusion(home, shard, index, KEY.public, record)
        prove_growth(home, shard, index + 1, None, KEY.public)
    proving.seconds = time.process_time() - begin  # type: ignore[attr-defined]  # bringing the cache up does not count
    return 2 * len(known)


def publishing(home: Path) -> int:
    with tempfile.TemporaryDirectory() as folder:
        return sum(site.size for site in write_sites(home, Path(folder), KEY.public))


#: What is measured. Exports write calls (ocsf) or records (csv, parquet); `query` reads and checks the records of its
#: answers, `prove` counts proofs.
MEASURES: dict[str, Callable[[Path], int]] = {
    "hashing": hashing, "reading": reading, "verify": verifying, "index": indexing, "query": asking, "ocsf": ocsf, "csv": as_csv,
    "parquet": as_parquet, "prove": proving, "tiles": publishing,
}  # fmt: skip


def one(what: str, home: Path) -> dict[str, Any]:
    """Measure here and now."""
    operation = MEASURES[what]
    cpu, wall = time.process_time(), time.perf_counter()
    count = operation(home)
    cpu, wall = getattr(operation, "seconds", time.process_time() - cpu), time.perf_counter() - wall
    return {"records": count, "cpu": cpu, "wall": wall, "peak_kb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}


def fresh(what: str, home: Path) -> dict[str, Any]:
    """Measure in a fresh process."""
    done = subprocess.run([sys.executable, __file__, "--one", what, str(home)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{what} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout)  # type: ignore[no-any-return]  # `one` prints it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the records, once")
    parser.add_argument("--records", type=int)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--one", nargs=2, metavar=("WHAT", "HOME"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one[0], Path(options.one[1]))))
        return
    count = options.records or (MILLION // 10 if options.quick else MILLION)
    with tempfile.TemporaryDirectory(prefix="agentguard-bench-") as folder:
        run(options.keep or Path(folder), count, 1 if options.quick else 3)


def run(folder: Path, count: int, rounds: int) -> None:
    sizes = {"small": (count // 100, 1), "tenth": (count // 10, 1), "process": (count, 1), "group": (count, 64)}
    homes = {name: folder / f"{name}-{size}" for name, (size, _) in sizes.items()}
    for name, (size, group) in sizes.items():
        make(homes[name], size, group)
    again = [("hashing", "process"), ("verify", "process"), ("verify", "group")] * rounds
    once = [
        ("reading", "process"),
        ("index", "process"),
        ("prove", "process"),
        ("tiles", "process"),
        ("query", "tenth"),
        ("ocsf", "tenth"),
        ("csv", "tenth"),
        ("parquet", "tenth"),
    ]
    samples: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for what, name in again + once:
        samples.setdefault((what, name), []).append(fresh(what, homes[name]))
    base = {what: fresh(what, homes["small"])["peak_kb"] for what in MEASURES}
    rows = [row(what, name, found, base[what]) for (what, name), found in samples.items()]
    print(json.dumps({"records": count, "rows": rows, "goals": goals(rows), "python": platform.python_version()}, indent=1))


def goals(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What was set, and the best that was measured. Ratios to the hashing tell more on a machine that others use."""
    best = {(row["operation"], row["log"]): row["records_per_cpu_second"] for row in rows}
    return {
        "verify, records a second": {"at least": 150_000, "found": best["verify", "process"]},
        "index, records a second": {"at least": 50_000, "found": best["index", "process"]},
        "a proof, milliseconds": {"below": 1, "found": round(1000 / best["prove", "process"], 3)},
        "verify / hashing, time": {"found": round(best["hashing", "process"] / best["verify", "process"], 2)},
    }


def row(what: str, log: str, found: list[dict[str, Any]], base: int) -> dict[str, Any]:
    best = min(found, key=lambda sample: sample["cpu"])
    return {
        "operation": what,
        "log": log,
        "records_per_cpu_second": round(best["records"] / best["cpu"]),
        "median_records_per_cpu_second": round(sorted(sample["records"] / sample["cpu"] for sample in found)[len(found) // 2]),
        "records_per_second": round(best["records"] / best["wall"]),
        "gained_mb": round((best["peak_kb"] - base) / 1024, 1),
    }


if __name__ == "__main__":
    main()
