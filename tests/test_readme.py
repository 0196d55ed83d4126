"""The README and the documents do what they say: their code runs, their commands exist, their links lead somewhere."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
ADAPTERS = [ROOT / "docs" / "adapters.md", *sorted((ROOT / "docs" / "adapters").glob("*.md"))]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / ".github").glob("*.md")])


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_the_quickstart_works_when_pasted(tmp_path: Path) -> None:
    code = blocks(README, "python")[0]
    assert len([line for line in code.splitlines() if line.strip()]) < 15
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (shown,) = blocks(README, "text")
    for line in shown.splitlines():
        assert line.rstrip("…") in done.stdout


def test_the_one_line_protects_an_agent(home: Path) -> None:
    from langchain.agents import create_agent
    from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
    from langchain_core.messages import AIMessage, ToolMessage
    from langchain_core.tools import tool

    from agentguard import Guard

    class Scripted(GenericFakeChatModel):
        def bind_tools(self, tools: Any, **options: Any) -> Any:
            return self

    ran = []

    @tool
    def send_email(to: str) -> str:
        """Send an e-mail."""
        ran.append(to)
        return "sent"

    addresses = ("bob@example.com", "eve@evil.test")
    calls = [{"name": "send_email", "args": {"to": to}, "id": to, "type": "tool_call"} for to in addresses]
    model = Scripted(messages=iter([AIMessage("", tool_calls=calls), AIMessage("done")]))
    policy = "agentguard: 1\nname: r\nagents: {triage: {tools: {send_email: {to: {email: {domains: [example.com]}}}}}}\n"
    with Guard.open(policy, home=home, durability="process") as guard:
        names = {"create_agent": create_agent, "model": model, "tools": [send_email], "guard": guard}
        exec(blocks(README, "python")[1], names)
        with guard.task("triage", initiator="user:alice"):
            answer: Any = names["agent"]
            messages = answer.invoke({"messages": [("user", "go")]})["messages"]
    assert ran == ["bob@example.com"]
    assert [message.status for message in messages if isinstance(message, ToolMessage)] == ["success", "error"]


def test_the_two_commands_are_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for line in blocks(README, "sh")[0].splitlines():
        target = line.split("#")[0].split()[1]
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", path.read_text("utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_in_documents_exist(path: Path) -> None:
    import typer

    from agentguard.cli.root import app

    root: Any = typer.main.get_command(app)
    for verb, word in re.findall(r"`agentguard ([a-z][a-z-]*)(?: ([a-z][a-z-]*))?", path.read_text("utf-8")):
        assert verb in root.commands, f"{path.name} speaks of `agentguard {verb}`"
        if word and hasattr(root.commands[verb], "commands"):
            assert word in root.commands[verb].commands, f"{path.name} speaks of `agentguard {verb} {word}`"


@pytest.mark.parametrize("path", ADAPTERS, ids=lambda path: path.stem)
def test_code_in_the_adapters_pages_names_what_is_there(path: Path) -> None:
    """It is Python, and what it imports from here exists; the frameworks need not be installed."""
    for block in blocks(path.read_text("utf-8"), "python"):
        tree = compile(block, path.name, "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        for node in (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)):
            if (node.module or "").startswith("agentguard_adapters."):
                module = ROOT / "adapters" / f"{node.module.replace('.', '/')}.py"
                assert {alias.name for alias in node.names} <= defined(module), f"{path.name}: {ast.unparse(node)}"


def defined(module: Path) -> set[str]:
    """The names that a module defines or imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


@pytest.mark.parametrize("notebook", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.name)
def test_notebooks_run_twice_over(notebook: Path, tmp_path: Path) -> None:
    """Every cell runs, and runs again in the same kernel, as people do."""
    nbformat = pytest.importorskip("nbformat", reason="nbformat belongs to the dev extra")
    from nbclient import NotebookClient

    document = nbformat.read(notebook, as_version=4)
    cells = list(document.cells)
    document.cells = cells + [nbformat.from_dict(dict(cell)) for cell in cells]
    for index, cell in enumerate(document.cells):
        cell["id"] = f"cell-{index}"
    NotebookClient(document, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = str([cell.get("outputs") for cell in document.cells if cell.cell_type == "code"])
    assert "text/html" in outputs
    assert "argument_not_allowed" in outputs
