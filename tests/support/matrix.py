"""The matrix of adapters and cases in docs/adapters.md, from the reports of the environments in which they were run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from agentguard.testing import MODES
from agentguard.testing.conformance import cases

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "adapters.md"
SIGNS = {"passed": "✓", "skipped": "–", "failed": "✗"}
CASES = [name.removeprefix("test_") for name in cases()]
Reports = Mapping[str, Mapping[str, Any]]


def kept(reports: Reports, distributions: Iterable[str], document: Path = DOCUMENT) -> list[str]:
    """Hold the document against what just ran; what is wrong, if anything. Where it says something else, it is written anew.

    Versions are only written along with it: they change from day to day, and by themselves make nothing wrong.
    """
    text, table = document.read_text("utf-8"), rendered(reports)
    if "| ? |" in table or f"| {SIGNS['failed']} |" in table:
        return ["a case did not pass, or did not run", *[line for line in table.splitlines() if "| ? |" in line or SIGNS["failed"] in line]]
    new = replaced(replaced(text, "matrix", table), "versions", versions(reports, distributions))
    if section(new, "matrix") == section(text, "matrix"):
        return []
    document.write_text(new, "utf-8")
    return [f"{document.name} did not say what the tests found; it was written anew: look at it, and commit it"]


def rendered(reports: Reports) -> str:
    """A row for each adapter, a column for each case, and below it what was skipped and what is out of reach."""
    found: dict[str, dict[str, Any]] = {}
    for environment, report in reports.items():
        for adapter, result in report["adapters"].items():
            one = found.setdefault(label(adapter), {"where": [], "modes": set(), "cells": {}, "notes": set()})
            one["where"].append(environment)
            one["modes"] |= {mode for modes in result["cases"].values() for mode in modes}
            for case, verdicts in result["cases"].items():
                worst = max(verdicts.values(), key=list(SIGNS).index)
                one["cells"][case] = max(one["cells"].get(case, worst), worst, key=list(SIGNS).index)
            one["notes"] |= {f"out of reach: {twin} ({why})" for twin, why in result["out_of_reach"].items()}
            one["notes"] |= {f"skipped: {case.replace('_', ' ')} ({why})" for case, why in skipped(adapter, result, report)}
    header = ["adapter", "environments", "modes", *[str(number) for number, _ in enumerate(CASES, 1)]]
    lines = [_row(header), _row(["---", *["---"] * 2, *[":-:"] * len(CASES)])]
    for name, one in sorted(found.items(), key=lambda item: item[0].lower()):
        signs = [SIGNS.get(one["cells"].get(case, ""), "?") for case in CASES]
        lines.append(_row([name, " ".join(one["where"]), ", ".join(mode for mode in MODES if mode in one["modes"]), *signs]))
    lines += ["", " · ".join(f"{number} {case.replace('_', ' ')}" for number, case in enumerate(CASES, 1)), ""]
    for name, one in sorted(found.items(), key=lambda item: item[0].lower()):
        lines += [f"- {name}, {note}" for note in sorted(one["notes"])]
    return "\n".join(lines).strip()


def skipped(adapter: str, result: Mapping[str, Any], report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The cases that were skipped, and why."""
    found = []
    for case, verdicts in result["cases"].items():
        for mode, verdict in verdicts.items():
            if verdict == "skipped":
                why = report["skipped"][f"{adapter}::test_{case}" + (f"[{mode}]" if mode else "")]
                found.append((case, why.removeprefix("Skipped: ")))
    return found


def versions(reports: Reports, distributions: Iterable[str]) -> str:
    """A row for each distribution that the environments' lists name, with its version in each environment."""
    lines = [_row(["distribution", *reports]), _row(["---"] * (len(reports) + 1))]
    lines += [_row([name, *[report["distributions"].get(name, "") for report in reports.values()]]) for name in sorted(distributions)]
    return "\n".join(lines)


def label(adapter: str) -> str:
    """`tests/adapters/test_mine.py::TestMyFrame` is called MyFrame."""
    return adapter.rpartition("::Test")[2]


def section(text: str, name: str) -> str:
    """What a document says between two of its markers."""
    match = re.search(rf"<!-- {name} -->\n(.*?)\n?<!-- end of {name} -->", text, re.DOTALL)
    if match is None:
        raise ValueError(f"the document has no section {name}")
    return match[1]


def replaced(text: str, name: str, content: str) -> str:
    """The text with another content between these markers."""
    before, rest = text.split(f"<!-- {name} -->\n")
    return f"{before}<!-- {name} -->\n{content}\n<!-- end of {name} -->{rest.split(f'<!-- end of {name} -->')[1]}"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
