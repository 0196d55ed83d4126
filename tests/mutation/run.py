"""`python -m mutation.run [MODULE…]`: mutants of the decision core, judged by the tests (docs/mutation.md).

cosmic-ray makes the mutants. Its own way to judge them starts pytest anew for each; here pytest collects once, a child process for each
mutant swaps the code of the changed function and runs the tests that execute the changed lines, the quickest first, until one fails. A
change of what runs at import needs the module imported anew: there the child collects by itself. Each verdict is kept as it comes: a run
that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from _pytest.runner import runtestprotocol
from hypothesis import HealthCheck, settings

from mutation.judges import JUDGES
from mutation.mutants import Finder, Mutant, mutants, replace_code
from mutation.verdicts import NOTHING, SURVIVED, Verdicts, digest_of

ROOT = Path(__file__).resolve().parents[2]
SRC = ROOT / "src" / "agentguard"
#: Seconds: a test that takes longer does not judge, a mutant whose tests take longer is one that never ends.
SLOW, PATIENCE = 1.5, 60
KILLED_STATUS, SURVIVED_STATUS, NOTHING_STATUS = 1, 0, 3

Keep = Callable[[Mutant, str], None]

settings.register_profile(
    "mutation", max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


def path_of(module: str) -> Path:
    return SRC / f"{module.replace('.', '/')}.py"


class Session:
    """A pytest plugin: in the place of running the tests, it maps them, and judges mutants by them."""

    def __init__(self, todo: list[Mutant], jobs: int, keep: Keep) -> None:
        self.todo, self.jobs, self.keep = todo, jobs, keep
        self.order: dict[str, list[str]] = {}

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            raise session.Failed("the tests could not be collected")
        items = {item.nodeid: item for item in session.items}
        taken, lines = self._mapped(items, {mutant.module for mutant in self.todo})
        for module in {mutant.module for mutant in self.todo}:
            judged = {node for (name, _), nodes in lines.items() if name == module for node in nodes}
            # What is said of a class may be tested without any line of its module run.
            beside = sorted(set(taken) - judged, key=lambda node: taken[node])
            self.order[module] = few(sorted(judged, key=lambda node: taken[node]), taken) + few(beside, taken, most=2)
        recent: Counter[str] = Counter()

        def judge(mutant: Mutant) -> tuple[int, str]:
            first, last = mutant.lines
            nodes = {node for line in range(first, last + 1) for node in lines.get((mutant.module, line), ())}
            if not nodes:
                return SURVIVED_STATUS, "no test runs it"
            text = mutant.source(path_of(mutant.module).read_text("utf-8"))
            if text is None:
                return NOTHING_STATUS, ""
            if not replace_code(importlib.import_module(f"agentguard.{mutant.module}"), text):
                return SURVIVED_STATUS, "no living function changed"
            wanted = sorted(nodes, key=lambda node: -recent[node] * 0.002 + taken[node])
            for node in wanted:
                if _fails(items[node]):
                    return KILLED_STATUS, node
            return SURVIVED_STATUS, f"{len(wanted)} tests"

        in_children([mutant for mutant in self.todo if not mutant.reloaded], judge, self.jobs, recent, self.keep)
        return True

    def _mapped(self, items: dict[str, pytest.Item], modules: set[str]) -> tuple[dict[str, float], dict[tuple[str, int], set[str]]]:
        """Per test the seconds that it takes, and per line of a module the tests that run it; made in a child process."""
        read, write = os.pipe()
        if os.fork() == 0:
            os.close(read)
            quiet()
            with os.fdopen(write, "w") as out:
                json.dump(_map(items, modules), out)
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as text:
            found = json.load(text)
        os.wait()
        for node in found["failed"]:
            print(f"  fails without any mutant, so does not judge: {node}", flush=True)
        for node in found["slow"]:
            print(f"  takes over {SLOW} s, so does not judge: {node}", flush=True)
        lines: dict[tuple[str, int], set[str]] = {}
        for module, line, node in found["lines"]:
            lines.setdefault((module, line), set()).add(node)
        return {node: seconds for node, seconds in found["taken"].items() if node not in found["failed"]}, lines


def _map(items: dict[str, pytest.Item], modules: set[str]) -> dict[str, Any]:
    for module in modules:  # the same code, compiled anew: what fails now fails by the way of judging
        replace_code(importlib.import_module(f"agentguard.{module}"), path_of(module).read_text("utf-8") + "\n")
    names = {str(path_of(module)): module for module in modules}
    seen: set[tuple[str, int]] = set()

    def local(frame: FrameType, event: str, _: Any) -> Any:
        seen.add((names[frame.f_code.co_filename], frame.f_lineno))
        return local

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        return local(frame, event, _) if frame.f_code.co_filename in names else None

    taken: dict[str, float] = {}
    failed, slow, lines = [], [], []
    import threading

    for node, item in items.items():
        seen.clear()
        began = time.monotonic()
        sys.settrace(trace)
        threading.settrace(trace)
        bad = _fails(item)
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]
        taken[node] = time.monotonic() - began
        if bad:
            failed.append(node)
        elif seen and taken[node] > SLOW * 2:
            slow.append(node)
        else:
            lines += [(module, line, node) for module, line in seen]
    return {"taken": taken, "failed": failed, "slow": slow, "lines": lines}


def _fails(item: pytest.Item) -> bool:
    return any(report.failed for report in runtestprotocol(item, log=False, nextitem=None))


def quiet() -> None:
    sink = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(sink, stream)


def in_children(todo: list[Mutant], judge: Any, jobs: int, recent: Counter[str], keep: Keep) -> None:
    """Judge each mutant in a process of its own, `jobs` at a time, and keep each verdict as it comes. `recent` counts what killed."""
    began, done = time.monotonic(), 0
    running: dict[int, tuple[Mutant, int]] = {}
    waiting = list(reversed(todo))
    while waiting or running:
        while waiting and len(running) < jobs:
            mutant = waiting.pop()
            read, write = os.pipe()
            child = os.fork()
            if child == 0:
                _judge_here(mutant, judge, write)
            os.close(write)
            running[child] = mutant, read
        child, status = os.wait()
        if child not in running:
            continue
        mutant, read = running.pop(child)
        with os.fdopen(read) as text:
            why = text.read()
        verdict = _verdict(status, why)
        keep(mutant, verdict)
        if verdict.startswith("killed"):
            recent[why] += 1
        done += 1
        if done % 25 == 0 or done == len(todo):
            left = (time.monotonic() - began) / done * (len(todo) - done)
            print(f"  [{mutant.module}] {done} of {len(todo)} judged, about {left / 60:.0f} min left", flush=True)


def _judge_here(mutant: Mutant, judge: Any, write: int) -> None:
    code = KILLED_STATUS
    try:
        resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(PATIENCE)
        quiet()
        code, why = judge(mutant)
        os.write(write, why.encode()[:4000])
    except BaseException as error:  # whatever a mutant does to its process, it was seen
        os.write(write, f"{type(error).__name__}".encode())
    os._exit(code)


def _verdict(status: int, why: str) -> str:
    if os.WIFSIGNALED(status):
        return "killed: never ends" if os.WTERMSIG(status) == signal.SIGALRM else "killed: ends the process"
    code = os.WEXITSTATUS(status)
    return {SURVIVED_STATUS: f"{SURVIVED} ({why})", NOTHING_STATUS: NOTHING}.get(code, f"killed by {why}")


class _Ordered:
    """A pytest plugin: the wanted tests in this order, and which one failed."""

    def __init__(self, wanted: list[str]) -> None:
        self.wanted = {node: index for index, node in enumerate(wanted)}
        self.failed = ""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((item for item in items if item.nodeid in self.wanted), key=lambda item: self.wanted[item.nodeid])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed = report.nodeid


def judge_anew(mutant: Mutant, wanted: list[str]) -> tuple[int, str]:
    """Import everything with the mutant in its place, and run the tests."""
    text = mutant.source(path_of(mutant.module).read_text("utf-8"))
    if text is None:
        return NOTHING_STATUS, ""
    Finder(f"agentguard.{mutant.module}", path_of(mutant.module), text).install()
    ordered = _Ordered(wanted)
    files = sorted({node.partition("::")[0] for node in wanted})
    status = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT), *files], plugins=[ordered])
    return (SURVIVED_STATUS, f"{len(wanted)} tests") if status == 0 else (KILLED_STATUS, ordered.failed or "collection")


def session(todo: list[Mutant], jobs: int, keep: Keep, out: Path) -> None:
    """In this process: collect, map, judge what needs no new import, and write down which tests run each module."""
    files = sorted({file for mutant in todo for file in JUDGES[mutant.module]})
    plugin = Session(todo, jobs, keep)
    status = pytest.main(["-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT), *files], plugins=[plugin])
    if status == 0:
        out.write_text(json.dumps(plugin.order))


def judged(todo: list[Mutant], jobs: int, keep: Keep, scratch: Path) -> bool:
    """Judge the mutants of one module. False where its tests could not be collected."""
    scratch.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        try:
            session(todo, jobs, keep, scratch)
        finally:
            sys.stdout.flush()
            os._exit(0)
    os.waitpid(child, 0)
    if not scratch.exists():
        return False
    order = json.loads(scratch.read_text())
    scratch.unlink()
    anew = [mutant for mutant in todo if mutant.reloaded]
    in_children(anew, lambda mutant: judge_anew(mutant, order.get(mutant.module, [])), jobs, Counter(), keep)
    return True


def few(order: list[str], taken: dict[str, float], most: float = 5) -> list[str]:
    """As many as run in `most` seconds."""
    return [node for node, until in zip(order, accumulate(taken[node] for node in order), strict=True) if until <= most]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m mutation.run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"of {', '.join(JUDGES)}; all if none is named")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--results", type=Path, default=ROOT / ".bench" / "mutants.jsonl", help="where the verdicts are kept")
    parser.add_argument(
        "--survivors", action="store_true", help="let a kill stand when the tests have changed since: right where tests were only added"
    )
    parser.add_argument("--inside", action="store_true", help="not what runs at import, where each change takes seconds")
    options = parser.parse_args()
    modules = options.modules or list(JUDGES)
    unknown = [module for module in modules if module not in JUDGES]
    if unknown:
        parser.error(f"no such module: {', '.join(unknown)}; these are judged: {', '.join(JUDGES)}")
    os.environ["HYPOTHESIS_PROFILE"] = "mutation"
    os.chdir(ROOT)
    os.nice(max(0, 19 - os.nice(0)))
    options.results.parent.mkdir(exist_ok=True)
    verdicts = Verdicts(
        options.results,
        {module: digest_of([path_of(module)]) for module in modules},
        {module: digest_of(ROOT / file.partition("::")[0] for file in JUDGES[module]) for module in modules},
    )
    complete = True
    for module in modules:
        made = [mutant for mutant in mutants(module, path_of(module).read_text("utf-8")) if not (options.inside and mutant.reloaded)]
        todo = [mutant for mutant in made if verdicts.of(mutant, by_any_tests=options.survivors) is None]
        print(f"{module}: {len(made)} changes, {len(todo)} to judge", flush=True)
        if todo and not judged(todo, options.jobs, verdicts.keep, options.results.with_suffix(".part")):
            print(f"{module}: its tests could not be collected", file=sys.stderr)
            return 1
        verdicts = verdicts.read_again()
        complete &= report(module, [(mutant, verdicts.of(mutant, by_any_tests=options.survivors)) for mutant in made])
    return 0 if complete else 1


def report(module: str, verdicts: list[tuple[Mutant, str | None]]) -> bool:
    """Print the survivors and the rates; False where a mutant has no verdict."""
    for mutant, verdict in verdicts:
        if verdict is not None and verdict.startswith(SURVIVED):
            print(f"  {mutant.name}: {verdict}")
    for what, reloaded in (("inside of functions", False), ("run at import", True)):
        counted = [verdict for mutant, verdict in verdicts if mutant.reloaded == reloaded and verdict not in (None, NOTHING)]
        if counted:
            survived = sum(verdict.startswith(SURVIVED) for verdict in counted if verdict is not None)
            rate = 100 * (1 - survived / len(counted))
            print(
                f"{module}, {what}: {len(counted)} mutants, {len(counted) - survived} killed, {survived} survived, {rate:.1f} %", flush=True
            )
    missing = sum(verdict is None for _, verdict in verdicts)
    if missing:
        print(f"{module}: {missing} were not judged", flush=True)
    return not missing


if __name__ == "__main__":
    sys.exit(main())
