"""Run the benchmark: agentguard alone, or interleaved with the peers when their scripts are at hand.

    python benchmarks/run.py            # own figures, then 5 interleaved passes with the peers
    python benchmarks/run.py --quick    # 1 short pass
    python benchmarks/run.py --own      # own figures only

The peers' scripts (`peer_*.py`, `run_all.py`) are looked for in --peers; each runs in a virtual environment of its own under .bench/.
Medians and ratios are printed as tables, and everything is left as JSON in .bench/.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
WORK = HERE.parent / ".bench"
PEERS = {
    "tenuo": ("peer_tenuo.py", ["tenuo==0.3.3", "langchain-core==1.7.2"]),
    "agt": ("peer_agt.py", ["agent-governance-toolkit-core==5.0.0", "agent-control-specification==0.3.1b1", "langchain-core==1.7.2"]),
    "invariant": ("peer_invariant.py", ["invariant-ai==0.3.5"]),
}
#: (what, our operation, the peer's operation, at most, aim)
GOALS = (
    ("allow / Tenuo allow", "allow", "allow", 1 / 4, 1 / 8),
    ("allow / Tenuo allow with receipts in a file, unsynced", "allow", "allow_receipt_file_no_fsync", 1 / 5, 1 / 8),
)


def environment(name: str, packages: list[str]) -> Path:
    """The interpreter of a peer's own environment, made on first use."""
    folder = WORK / "venvs" / name
    python = folder / "bin" / "python"
    if not (folder / ".done").exists():
        print(f"installing {name} into an environment of its own (once)", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages], check=True)
        (folder / ".done").touch()
    return python


def script(python: Path | str, path: Path, *options: str) -> dict[str, Any]:
    done = subprocess.run([str(python), str(path), *options], capture_output=True, text=True, cwd=HERE, check=False)
    if done.returncode:
        sys.exit(f"{path.name} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout)  # type: ignore[no-any-return]  # the scripts print one object


def table(title: str, rows: list[tuple[str, ...]], header: tuple[str, ...]) -> None:
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=title, title_justify="left")
    for index, name in enumerate(header):
        shown.add_column(name, justify="left" if index == 0 else "right")
    for row in rows:
        shown.add_row(*row)
    Console().print(shown)


def by_name(document: dict[str, Any]) -> dict[str, float]:
    return {row["operation"]: row["median_us"] for row in document["rows"] + document["extra_rows"] if row["median_us"]}


def median(values: list[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short pass")
    parser.add_argument("--own", action="store_true", help="without the peers")
    parser.add_argument("--peers", type=Path, default=HERE.parent.parent / "shared" / "peers", help="folder with the peers' scripts")
    parser.add_argument("--passes", type=int, default=5)
    options = parser.parse_args()
    WORK.mkdir(exist_ok=True)
    rounds = "3" if options.quick else "9"
    own = script(sys.executable, HERE / "own.py", "--full", "--rounds", rounds)
    (WORK / "own.json").write_text(json.dumps(own, indent=1) + "\n")
    figures = by_name(own)
    table("agentguard, median µs", [(name, f"{value:.1f}") for name, value in figures.items()], ("operation", "µs"))
    print(json.dumps(own["notes"], indent=1))
    internal(figures)
    if options.own:
        return
    if not (options.peers / "run_all.py").exists():
        print(f"no peers' scripts in {options.peers}: ratios to peers are left out (--peers DIR)", file=sys.stderr)
        return
    interleaved(options.peers, 1 if options.quick else options.passes)


def internal(figures: dict[str, float]) -> None:
    """Ratios within one run."""
    rows = []
    for what, left, right, most in (
        ("deny by argument / allow", "deny_constraint", "allow", 1.5),
        ("deny unknown tool / allow", "deny_unknown_tool", "allow", 1.5),
        ("depth 8 warm / depth 1 warm", "allow_depth_8_warm", "allow", 1.1),
        ("2,000 rules / 1 rule", "allow_2000_rules", "allow", 1.1),
    ):
        if left in figures and right in figures:
            rows.append((what, f"{figures[left] / figures[right]:.2f}", f"{most:.2f}"))
    table("ratios within the run", rows, ("ratio", "median", "goal: at most"))


def interleaved(peers: Path, passes: int) -> None:
    """Passes in turn with the peers; a ratio is formed inside each pass, and its median and range are shown."""
    pythons = {name: environment(name, packages) for name, (_, packages) in PEERS.items()}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in ("agentguard", *PEERS)}
    for number in range(passes):
        print(f"pass {number + 1} of {passes}", file=sys.stderr)
        for name in runs:
            path = HERE / "own.py" if name == "agentguard" else peers / PEERS[name][0]
            runs[name].append(by_name(script(sys.executable if name == "agentguard" else pythons[name], path, "--rounds", "5")))
    (WORK / "interleaved.json").write_text(json.dumps(runs, indent=1) + "\n")
    names = list(dict.fromkeys(operation for run in runs["agentguard"] for operation in run))
    rows = []
    for operation in names:
        cells = [operation]
        for name in runs:
            values = [run[operation] for run in runs[name] if operation in run]
            cells.append(f"{median(values):.1f}" if values else "-")
        rows.append(tuple(cells))
    table(f"median µs of {passes} interleaved passes", rows, ("operation", *runs))
    goals = [goal(what, mine, theirs, most, aim, runs) for what, mine, theirs, most, aim in GOALS]
    added = [
        (own["langchain_guarded"] - own["langchain_unguarded"]) / (peer["langchain_guarded"] - peer["langchain_unguarded"])
        for own, peer in zip(runs["agentguard"], runs["tenuo"], strict=True)
        if "langchain_guarded" in own
    ]
    if added:
        goals.append(_goal_row("added time of a guarded LangChain tool / Tenuo's", added, 1 / 3, 1 / 6))
    table("goals", goals, ("ratio", "median", "range", "at most", "aim"))


def goal(what: str, mine: str, theirs: str, most: float, aim: float, runs: dict[str, list[dict[str, float]]]) -> tuple[str, ...]:
    ratios = [own[mine] / peer[theirs] for own, peer in zip(runs["agentguard"], runs["tenuo"], strict=True)]
    return _goal_row(what, ratios, most, aim)


def _goal_row(what: str, ratios: list[float], most: float, aim: float) -> tuple[str, ...]:
    shown = f"{min(ratios):.3f}–{max(ratios):.3f}"
    return (what, f"{median(ratios):.3f}", shown, f"{most:.3f}", f"{aim:.3f}")


if __name__ == "__main__":
    main()
