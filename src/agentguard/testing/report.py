"""What became of the conformance suite, as JSON: `pytest --adapter-report FILE`.

    python         the interpreter's version
    distributions  {name: version} of all that is installed
    adapters       {"tests/test_mine.py::TestMine": {"cases": {case: {mode: verdict}}, "overhead": [...], "out_of_reach": {twin: why}}};
                   a case without modes has the mode ""
    modules        {"tests/test_mine.py": {verdict: how many tests}}: of all tests that were run
    skipped        {test: reason}

A verdict is "passed", "failed" or "skipped".
"""

from __future__ import annotations

import json
import platform
import re
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from agentguard.testing.conformance import cases

_TEST = re.compile(r"(?P<adapter>(?P<module>[^:]+)::.*)::test_(?P<case>[^\[]+)(?:\[(?P<mode>.*)\])?")


class Report:
    """A pytest plugin that writes the report when the session ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._cases = {name.removeprefix("test_") for name in cases()}
        self._verdicts: dict[str, str] = {}
        self._skipped: dict[str, str] = {}
        self._found: dict[str, dict[str, Any]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test is as bad as the worst of its set-up, its call and its end."""
        if report.skipped:
            self._skipped[report.nodeid] = str(report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr)
        if report.when == "call" or not report.passed:
            worst = self._verdicts.get(report.nodeid) == "failed"
            self._verdicts[report.nodeid] = "failed" if worst else report.outcome
        if report.when == "call":
            self._found[report.nodeid] = dict(report.user_properties)

    def pytest_sessionfinish(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self.document(), indent=1, sort_keys=True) + "\n", "utf-8")

    def document(self) -> dict[str, Any]:
        """What is written."""
        adapters: dict[str, Any] = {}
        modules: dict[str, Counter[str]] = {}
        for test, verdict in self._verdicts.items():
            modules.setdefault(test.partition("::")[0], Counter())[verdict] += 1
            match = _TEST.fullmatch(test)
            if match is not None and match["case"] in self._cases:
                adapter = adapters.setdefault(match["adapter"], {"cases": {}, "overhead": [], "out_of_reach": {}})
                adapter["cases"].setdefault(match["case"], {})[match["mode"] or ""] = verdict
                found = self._found.get(test, {})
                adapter["overhead"] += [found["overhead"]] if "overhead" in found else []
                adapter["out_of_reach"] |= found.get("out_of_reach", {})
        return {
            "python": platform.python_version(),
            "distributions": {one.name.lower().replace("_", "-"): one.version for one in metadata.distributions()},
            "adapters": adapters,
            "modules": modules,
            "skipped": self._skipped,
        }
