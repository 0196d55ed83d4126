"""`python -m mutation.run [MODULE…]`: mutants of the decision core, judged by the tests (docs/mutation.md).

cosmic-ray makes the mutants. Its own way to judge them starts pytest anew for each; here pytest collects once, a child process for each
mutant swaps the code of the changed function and runs the tests that execute the changed lines, the quickest first, until one fails. A
change of what runs at import needs the module imported anew: there the child collects by itself.
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
from itertools import accumulate
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from _pytest.runner import runtestprotocol
from hypothesis import HealthCheck, settings

from mutation.judges import JUDGES
from mutation.mutants import Finder, Mutant, mutants, replace_code

ROOT = Path(__file__).resolve().parents[2]
SRC = ROOT / "src" / "agentguard"
#: Seconds: a test that takes longer does not judge, a mutant whose tests take longer is one that never ends.
SLOW, PATIENCE = 1.5, 60
KILLED, SURVIVED, NOTHING = 1, 0, 3

settings.register_profile(
    "mutation", max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


def path_of(module: str) -> Path:
    return SRC / f"{module.replace('.', '/')}.py"


class Session:
    """A pytest plugin: in the place of running the tests, it maps them, and judges mutants by them."""

    def __init__(self, todo: list[Mutant], jobs: int) -> None:
        self.todo, self.jobs = todo, jobs
        self.done: dict[Mutant, str] = {}
        self.order: dict[str, list[str]] = {}

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            raise session.Failed("the tests could not be collected")
        items = {item.nodeid: item for item in session.items}
        taken, lines = self._mapped(items, {mutant.module for mutant in self.todo})
        for module in {mutant.module for mutant in self.todo}:
            judged = {node for (name, _), nodes in lines.items() if name == module for node in nodes}
            self.order[module] = few(sorted(judged, key=lambda node: taken[node]), taken)
        recent: Counter[str] = Counter()

        def judge(mutant: Mutant) -> tuple[int, str]:
            first, last = mutant.lines
            nodes = {node for line in range(first, last + 1) for node in lines.get((mutant.module, line), ())}
            if not nodes:
                return SURVIVED, "no test runs it"
            text = mutant.source(path_of(mutant.module).read_text("utf-8"))
            if text is None:
                return NOTHING, ""
            if not replace_code(importlib.import_module(f"agentguard.{mutant.module}"), text):
                return SURVIVED, "no living function changed"
            wanted = sorted(nodes, key=lambda node: -recent[node] * 0.002 + taken[node])
            for node in wanted:
                if _fails(items[node]):
                    return KILLED, node
            return SURVIVED, f"{len(wanted)} tests"

        self.done = in_children(self.todo, judge, self.jobs, recent)
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
        return found["taken"], lines


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


def in_children(todo: list[Mutant], judge: Any, jobs: int, recent: Counter[str]) -> dict[Mutant, str]:
    """Judge each mutant in a process of its own, `jobs` at a time. `recent` counts what killed."""
    done: dict[Mutant, str] = {}
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
        done[mutant] = verdict = _verdict(status, why)
        if verdict.startswith("killed"):
            recent[why] += 1
        elif verdict != "nothing":
            print(f"  {mutant.name}: {verdict}", flush=True)
    return done


def _judge_here(mutant: Mutant, judge: Any, write: int) -> None:
    code = KILLED
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
    return {SURVIVED: f"survived ({why})", NOTHING: "nothing"}.get(code, f"killed by {why}")


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
        return NOTHING, ""
    Finder(f"agentguard.{mutant.module}", path_of(mutant.module), text).install()
    ordered = _Ordered(wanted)
    files = sorted({node.partition("::")[0] for node in wanted})
    status = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT), *files], plugins=[ordered])
    return (SURVIVED, f"{len(wanted)} tests") if status == 0 else (KILLED, ordered.failed or "collection")


def session(todo: list[Mutant], jobs: int, out: Path) -> None:
    """In this process: collect, map, judge what needs no new import, and write down what came of it."""
    files = sorted({file for mutant in todo for file in JUDGES[mutant.module]})
    plugin = Session(todo, jobs)
    status = pytest.main(["-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT), *files], plugins=[plugin])
    out.write_text(json.dumps({"done": [(m.name, v) for m, v in plugin.done.items()], "order": plugin.order, "status": int(status)}))


def judged(todo: list[Mutant], jobs: int, scratch: Path) -> dict[str, str]:
    swapped, anew = [m for m in todo if not m.reloaded], [m for m in todo if m.reloaded]
    child = os.fork()
    if child == 0:
        try:
            # A mutant that runs at import goes along, so that the tests of its module are mapped.
            session_todo = swapped or anew[:1]
            session(session_todo, jobs, scratch)
        finally:
            sys.stdout.flush()
            os._exit(0)
    os.waitpid(child, 0)
    found = json.loads(scratch.read_text())
    done = dict(found["done"]) if swapped else {}
    later = in_children(anew, lambda mutant: judge_anew(mutant, found["order"].get(mutant.module, [])), jobs, Counter())
    return {**done, **{mutant.name: verdict for mutant, verdict in later.items()}}


def few(order: list[str], taken: dict[str, float], most: float = 5) -> list[str]:
    """As many as run in `most` seconds."""
    return [node for node, until in zip(order, accumulate(taken[node] for node in order), strict=True) if until <= most]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m mutation.run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"of {', '.join(JUDGES)}; all if none is named")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--results", type=Path, default=ROOT / ".bench" / "mutants.json", help="where the verdicts are kept")
    parser.add_argument("--survivors", action="store_true", help="judge only what survived the last time")
    options = parser.parse_args()
    os.environ["HYPOTHESIS_PROFILE"] = "mutation"
    os.chdir(ROOT)
    options.results.parent.mkdir(exist_ok=True)
    kept: dict[str, str] = json.loads(options.results.read_text()) if options.results.exists() else {}
    modules = options.modules or list(JUDGES)
    todo = [mutant for module in modules for mutant in mutants(module, path_of(module).read_text("utf-8"))]
    if options.survivors:
        todo = [mutant for mutant in todo if kept.get(mutant.name, "").startswith("survived")]
    print(f"{len(todo)} mutants", flush=True)
    if todo:
        kept |= judged(todo, options.jobs, options.results.with_suffix(".part"))
    options.results.write_text(json.dumps(kept, indent=0))
    for module in modules:
        report(module, kept)
    return 0


def report(module: str, kept: dict[str, str]) -> None:
    verdicts = [verdict for name, verdict in kept.items() if name.startswith(f"{module}:") and verdict != "nothing"]
    survived = sum(verdict.startswith("survived") for verdict in verdicts)
    rate = 100 * (1 - survived / len(verdicts)) if verdicts else 0
    print(f"{module}: {len(verdicts)} mutants, {len(verdicts) - survived} killed, {survived} survived, {rate:.1f} %", flush=True)


if __name__ == "__main__":
    sys.exit(main())
