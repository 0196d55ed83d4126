"""Time one tool call through each framework, with the guard and without it, in the environments that `make test-adapters` made.

    python benchmarks/frameworks.py             # a table, and .bench/frameworks.json
    python benchmarks/frameworks.py --quick     # fewer rounds
    python benchmarks/frameworks.py --only a langchain

The agents are those of the adapters' conformance tests, so their models are scripted. The time of a call is the span from one run of the
tool's body to the next: what the framework does between two calls, its model's turn included. Guarded and unguarded agents take turns;
durability is `process`. Medians, in microseconds.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent / "tests"
WORK = HERE.parent / ".bench"
sys.path.insert(0, str(TESTS))


def measured(names: list[str], rounds: int) -> Iterator[dict[str, Any]]:
    """A row for each adapter and mode among these tests, in this interpreter."""
    import pytest

    from agentguard import Guard
    from agentguard.testing import AdapterConformance
    from agentguard.testing.cases.frame import POLICY

    loaded("conftest")
    for name in names:
        try:
            module = loaded(f"test_{name}")
        except pytest.skip.Exception as why:
            print(f"{name}: {why}", file=sys.stderr)
            continue
        suites = [one for one in vars(module).values() if isinstance(one, type) and issubclass(one, AdapterConformance)]
        for suite in (one for one in suites if one.__module__ == module.__name__ and one.__name__.startswith("Test")):
            for mode in suite.modes:
                row = {"adapter": suite.__name__.removeprefix("Test"), "mode": mode}
                with tempfile.TemporaryDirectory() as home, Guard.open(POLICY, home=Path(home) / "guard", durability="process") as guard:
                    try:
                        suite().overhead(guard, mode, rounds=1)  # warm
                        yield row | suite().overhead(guard, mode, rounds=rounds)._asdict()
                    except Exception:
                        traceback.print_exc()


def loaded(name: str) -> Any:
    """A module of tests/adapters, imported as pytest does."""
    spec = importlib.util.spec_from_file_location(f"adapters_{name}", TESTS / "adapters" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--only", nargs="+", default=[], help="names of environments or adapters' tests")
    parser.add_argument("--here", nargs="+", metavar="NAME", help="measure these in this interpreter, and print JSON")
    options = parser.parse_args()
    rounds = 4 if options.quick else 20
    if options.here:
        for row in measured(options.here, rounds):
            print("\n" + json.dumps(row), flush=True)  # frameworks print things of their own, with and without an end of line
        return
    rows = [row for name, python, tests in places(options.only) for row in elsewhere(name, python, tests, options.quick)]
    WORK.mkdir(exist_ok=True)
    (WORK / "frameworks.json").write_text(json.dumps(rows, indent=1) + "\n")
    show(rows)


def places(only: list[str]) -> Iterator[tuple[str, Path, list[str]]]:
    """The environments that are there, and which tests to take from each; without any, this one has LangChain."""
    from support.environments import listed

    made = [(one.name, one.python, list(one.tests)) for one in listed() if one.python.exists()]
    if not made:
        print("no environments: `make test-adapters` makes them", file=sys.stderr)
    for name, python, tests in made or [("here", Path(sys.executable), ["langchain_core", "langchain", "langgraph"])]:
        chosen = tests if not only or name in only else [test for test in tests if test in only]
        if chosen:
            yield name, python, chosen


def elsewhere(name: str, python: Path, tests: list[str], quick: bool) -> Iterator[dict[str, Any]]:
    """The rows of one environment. Each adapter has an interpreter of its own, so that none pays for what another one imported."""
    for test in tests:
        print(f"{name}: {test}", file=sys.stderr)
        command = [str(python), str(HERE / "frameworks.py"), "--here", test, *(["--quick"] if quick else [])]
        done = subprocess.run(command, capture_output=True, text=True, cwd=HERE, check=False)
        if done.returncode or not done.stdout:
            print(done.stderr[-1000:], file=sys.stderr)
        for line in done.stdout.splitlines():
            if line.startswith('{"adapter"'):
                yield {"environment": name, **json.loads(line)}


def show(rows: list[dict[str, Any]]) -> None:
    from run import table

    cells = [
        (
            f"{row['adapter']}, {row['mode']} ({row['environment']})",
            f"{row['unguarded_us']:.0f}",
            f"{row['guarded_us']:.0f}",
            f"{row['guarded_us'] / row['unguarded_us']:.2f}",
            f"{row['added_us']:.0f}",
        )
        for row in rows
    ]
    table("one tool call through each framework, median µs", cells, ("adapter", "unguarded", "guarded", "ratio", "added"))


if __name__ == "__main__":
    main()
