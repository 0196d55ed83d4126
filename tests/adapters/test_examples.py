"""The examples: each runs as it stands, in an interpreter of its own, and its injection fails because of the policy and nothing else."""

from __future__ import annotations

import ast
import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "examples"
EXAMPLES = sorted(FOLDER.glob("with_*.py"))
HOUSE = "domains: [example.com]"


def frameworks(example: Path) -> set[str]:
    """The modules that an example imports, and which neither Python nor this project nor its folder brings."""
    nodes = list(ast.walk(ast.parse(example.read_text("utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    here = {"agentguard", "agentguard_adapters", *(path.stem for path in FOLDER.glob("*.py"))}
    return {name for name in names if name.partition(".")[0] not in here | sys.stdlib_module_names}


def found(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


def played(example: Path) -> list[str]:
    """The lines that it prints."""
    done = subprocess.run([sys.executable, str(example)], cwd=example.parent, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", [path.stem.removeprefix("with_") for path in EXAMPLES])
def test_the_injection_fails(name: str, tmp_path: Path) -> None:
    example = FOLDER / f"with_{name}.py"
    for module in sorted(frameworks(example)):
        if not found(module):
            pytest.skip(f"could not import {module!r}")
    folder = tmp_path / "examples"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    lines = played(folder / example.name)
    assert lines[-1] == "saved 1, sent 0"
    assert any("Denied (argument_not_allowed)" in line for line in lines)
    assert not list(tmp_path.rglob(".agentguard"))
    policy = folder / "notes.yaml"
    text = policy.read_text("utf-8")
    assert HOUSE in text
    policy.write_text(text.replace(HOUSE, "domains: [example.com, evil.test]"), "utf-8")
    assert played(folder / example.name)[-1] == "saved 1, sent 1"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_examples_are_short_and_stand_alone(path: Path) -> None:
    text = path.read_text("utf-8")
    assert len(text.splitlines()) < 60
    assert not re.search(r"^\s*(from|import) (tests|support)\b", text, re.MULTILINE)


def test_every_program_is_an_example_or_the_script_of_one() -> None:
    """Nothing in the folder is left out by its name."""
    names = {path.name for path in FOLDER.glob("*.py")}
    assert {name for name in names if not name.startswith(("with_", "scripted_"))} == set()
