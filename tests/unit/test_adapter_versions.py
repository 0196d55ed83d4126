"""What an adapter says about its framework's version, in an interpreter where one is installed that is none."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ADAPTERS = sorted((ROOT / "adapters" / "agentguard_adapters").rglob("*.py"))
TRY = """
from agentguard_adapters.versions import needs
with needs("agent-frame", "1.4", extra="frame"):
    import agent_frame
print("imported")
"""


def tried(folder: Path, version: str | None, module: str | None = "") -> str:
    """The last line of an import of agent-frame 1.4, with this version installed: its module has this text, or is not there."""
    if version is not None:
        info = folder / f"agent_frame-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: agent-frame\nVersion: {version}\n")
    if module is not None:
        (folder / "agent_frame.py").write_text(module)
    code = f"import sys; sys.path.insert(0, {str(folder)!r})\n{TRY}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return (done.stdout or done.stderr).splitlines()[-1]


@pytest.mark.parametrize("version", ["1.4", "1.4.0", "1.4.1rc2", "1.10.0", "2", "1.4.0+local", "1.4.post1"])
def test_a_version_that_is_new_enough(tmp_path: Path, version: str) -> None:
    assert tried(tmp_path, version) == "imported"


@pytest.mark.parametrize("version", ["1.3.9", "0.99", "1.4.0rc1", "1.4a1", "1.4.dev3", "1", "nonsense"])
def test_a_version_that_is_too_old(tmp_path: Path, version: str) -> None:
    """The framework's own code is not even started."""
    said = tried(tmp_path, version, "print('started')")
    assert said == f"ImportError: this adapter needs agent-frame 1.4 or later, and {version} is installed: pip install 'agentguard[frame]'"


def test_a_framework_that_is_missing(tmp_path: Path) -> None:
    said = tried(tmp_path, None)
    assert said == "ImportError: this adapter needs agent-frame 1.4 or later, which is not installed: pip install 'agentguard[frame]'"


def test_a_framework_that_is_broken(tmp_path: Path) -> None:
    said = tried(tmp_path, "1.5", "import not_there")
    assert "1.5 cannot be imported (No module named 'not_there'): pip install 'agentguard[frame]'" in said


def test_every_adapter_says_what_it_needs() -> None:
    """Each is registered, and where nothing is installed, names an extra that there is."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    modules = project["entry-points"]["agentguard.adapters"]
    adapters = [path.stem for path in ADAPTERS if "needs(" in path.read_text("utf-8") and path.name != "versions.py"]
    assert [name for name in adapters if not name.startswith(tuple(modules))] == []
    code = (
        "import importlib, sys\n"
        "from importlib import metadata\n"
        "def version(name): raise metadata.PackageNotFoundError(name)\n"
        "metadata.version = version\n"
        "for module in sys.argv[1:]:\n"
        "    try: importlib.import_module(module)\n"
        "    except ImportError as error: print(module, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *modules.values()], capture_output=True, text=True, check=True)
    said = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert modules.values() - said.keys() == {"agentguard_adapters.loops"}  # which needs no framework
    for module, line in said.items():
        match = re.search(r"which is not installed: pip install 'agentguard\[([a-z0-9-]+)\]'$", line)
        assert match is not None, f"{module}: {line}"
        assert match[1] in project["optional-dependencies"]


@pytest.mark.parametrize("path", ADAPTERS, ids=lambda path: path.stem)
def test_what_an_adapter_needs_is_what_its_extra_brings(path: Path) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    for distribution, version, extra in re.findall(r'\bneeds\("([^"]+)", "([^"]+)"(?:, extra="([^"]+)")?\)', path.read_text("utf-8")):
        if path.name != "versions.py":
            found = [re.sub(r"\[.*\]", "", requirement) for requirement in extras[extra or distribution]]
            wanted = rf"{distribution}>={re.escape(version)}(\.0)*(,.*)?"
            assert any(re.fullmatch(wanted, one) for one in found), f"{path.name}: the extra {extra or distribution} brings {found}"
