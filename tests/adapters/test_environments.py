"""No adapter is left out: each has an environment where its tests must run, and a row in the matrix, which says what was found."""

from __future__ import annotations

import ast
import copy
from pathlib import Path
from typing import Any

import pytest

from support import matrix
from support.environments import OLDEST, PROJECT, ROOT, Environment, listed

TESTS = sorted(path for path in (ROOT / "tests" / "adapters").glob("test_*.py") if "AdapterConformance" in path.read_text("utf-8"))
TESTS.remove(Path(__file__).resolve())
EXAMPLES = sorted((ROOT / "examples").glob("with_*.py"))
NAMED = {name for environment in listed() for name in environment.tests}

REPORT: dict[str, Any] = {
    "python": "3.11.0",
    "distributions": {"frame": "1.0"},
    "adapters": {
        "tests/adapters/test_one.py::TestOne": {
            "cases": {case: {"sync": "passed", "async": "passed"} for case in matrix.CASES},
            "overhead": [],
            "out_of_reach": {"the function": "it was given"},
        }
    },
    "modules": {"tests/adapters/test_one.py": {"passed": 60}},
    "skipped": {},
}


def classes(path: Path) -> set[str]:
    """The conformance classes of a module."""
    nodes = [
        node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.ClassDef) and node.name.startswith("Test")
    ]
    return {node.name for node in nodes if any("AdapterConformance" in ast.unparse(base) for base in node.bases)}


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_every_adapter_runs_somewhere_and_is_in_the_matrix(path: Path) -> None:
    assert path.stem.removeprefix("test_") in NAMED
    rows = matrix.section(matrix.DOCUMENT.read_text("utf-8"), "matrix").splitlines()
    for name in classes(path):
        assert any(row.startswith(f"| {name.removeprefix('Test')} |") for row in rows), f"{name}: run make test-adapters"


def test_rows_of_the_matrix_have_names_of_their_own() -> None:
    names = [name for path in TESTS for name in classes(path)]
    assert len(names) == len(set(names))


def test_every_name_is_a_test() -> None:
    assert {name for name in NAMED if not (ROOT / "tests" / "adapters" / f"test_{name}.py").exists()} == set()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_runs_somewhere(path: Path) -> None:
    assert path.stem.removeprefix("with_") in NAMED


def test_every_case_is_in_the_matrix() -> None:
    text = matrix.section(matrix.DOCUMENT.read_text("utf-8"), "matrix")
    for number, case in enumerate(matrix.CASES, 1):
        assert f"{number} {case.replace('_', ' ')}" in text, f"{case}: run make test-adapters"


@pytest.mark.parametrize("extra", OLDEST)
def test_the_oldest_versions_are_the_bounds_of_the_extra(extra: str) -> None:
    oldest = Environment.oldest(extra)
    assert len(oldest.requirements) == len(PROJECT["optional-dependencies"][extra])
    assert all("==" in requirement and ">" not in requirement for requirement in oldest.requirements)


def test_what_did_not_run_is_missed() -> None:
    environment = Environment("x", (), ("one",))
    assert list(environment.missed(REPORT)) == []
    skipped = copy.deepcopy(REPORT)
    skipped["skipped"]["tests/adapters/test_one.py::test_more"] = "could not import 'frame'"
    assert [what for what in environment.missed(skipped) if "test_more" in what]
    absent = {**REPORT, "modules": {"tests/adapters/test_one.py": {"skipped": 3}}}
    assert [what for what in environment.missed(absent) if "nothing in tests/adapters/test_one.py passed" in what]


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "adapters.md"
    path.write_text("# A\n\n<!-- matrix -->\n<!-- end of matrix -->\n\nB\n\n<!-- versions -->\n<!-- end of versions -->\n\nC\n", "utf-8")
    return path


def test_the_matrix_is_written_when_it_says_something_else(document: Path) -> None:
    assert matrix.kept({"a": REPORT}, {"frame"}, document)
    text = document.read_text("utf-8")
    assert "| One | a | sync, async | ✓ | ✓ |" in text
    assert "- One, out of reach: the function (it was given)" in text
    assert "| frame | 1.0 |" in text
    assert all(part in text for part in ("# A\n", "\nB\n", "\nC\n"))
    assert matrix.kept({"a": {**REPORT, "distributions": {"frame": "2.0"}}}, {"frame"}, document) == []
    assert document.read_text("utf-8") == text
    assert matrix.kept({"a": REPORT, "b": REPORT}, {"frame"}, document)


def test_a_skip_is_told_and_a_failure_is_not_written(document: Path) -> None:
    report = copy.deepcopy(REPORT)
    (adapter,) = report["adapters"].values()
    adapter["cases"]["a_hand_off_narrows"] = {"sync": "skipped", "async": "skipped"}
    for mode in ("sync", "async"):
        report["skipped"][f"tests/adapters/test_one.py::TestOne::test_a_hand_off_narrows[{mode}]"] = "Skipped: it has no hand-offs"
    matrix.kept({"a": report}, {"frame"}, document)
    text = document.read_text("utf-8")
    assert "- One, skipped: a hand off narrows (it has no hand-offs)" in text
    adapter["cases"]["a_hand_off_narrows"] = {"sync": "passed", "async": "failed"}
    assert matrix.kept({"a": report}, {"frame"}, document)
    del adapter["cases"]["a_hand_off_narrows"]
    assert matrix.kept({"a": report}, {"frame"}, document)
    assert document.read_text("utf-8") == text
