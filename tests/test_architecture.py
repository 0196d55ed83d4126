"""The structure, held by tests: what import-linter cannot say."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted([*(ROOT / "src").rglob("*.py"), *(ROOT / "adapters").rglob("*.py")])


def _ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=_ids)
def test_no_assert_stands_where_a_check_should(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    asserts = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    if "testing" not in path.parts:
        assert not asserts, f"python -O removes asserts; lines {asserts}"


@pytest.mark.parametrize("path", SOURCES, ids=_ids)
def test_no_environment_variable_is_read(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    names = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")]
    if "cli" not in path.parts and "demo" not in path.parts:
        assert not names, f"lines {names}"


PURE = (
    *("decide", "charging", "premises"),
    *(f"artifacts/{name}" for name in ("chain", "link", "jws", "profile", "proof", "steps", "revocation", "revocation_list")),
    *(f"constraints/{name}" for name in ("addresses", "matchers", "narrowing", "rules", "tokens", "values", "vocabulary")),
    *(f"policy/{name}" for name in ("approval", "budgets", "forbid", "model", "sequences", "standing")),
    *(f"policy/{name}" for name in ("conditions", "condition_parser", "condition_tokens", "condition_tree")),
    *(f"policy/{name}" for name in ("outputs", "output_schema", "secret_patterns")),
)


@pytest.mark.parametrize("name", PURE)
def test_the_decision_imports_no_clock_and_no_io(name: str) -> None:
    path = ROOT / "src" / "agentguard" / f"{name}.py"
    tree = ast.parse(path.read_text("utf-8"))
    imported = {alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {(node.module or "").split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    forbidden = {"time", "datetime", "random", "secrets", "os", "socket", "sqlite3", "uuid", "requests", "httpx"}
    allowed_here = {"policy/standing": {"datetime"}}.get(name, set())  # to show a moment in a reason
    assert not (imported & forbidden) - allowed_here


def test_the_core_imports_no_agent_framework_and_no_command_line() -> None:
    code = (
        "import sys, agentguard; print([m for m in ('langchain_core','langchain','langgraph','typer','rich','httpx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_names_of_the_package_are_few() -> None:
    import agentguard

    assert len(agentguard.__all__) <= 12
    assert all(hasattr(agentguard, name) for name in agentguard.__all__)
