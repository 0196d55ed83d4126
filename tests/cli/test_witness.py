"""`agentguard log witness` over HTTP on this machine: a server in its own process, a log that grows, is rolled back, gets another key."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentguard.cli import app
from support.transcript import environment, inside
from support.transparency import ring_with, write

NAME = "witness.example/w1"


def run(*words: str) -> Any:
    return CliRunner().invoke(app, list(words), catch_exceptions=False)


@contextmanager
def serving(directory: Path, *logs: str) -> Iterator[str]:
    """A witness of these logs; its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", "agentguard.cli", "log", "witness", "serve", "--name", NAME, "--port", str(port)]
    server = subprocess.Popen([*words, *(part for log in logs for part in ("--log", log))], cwd=directory, env=environment(), stdout=-3)
    try:
        ends = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert server.poll() is None, "the witness ended"
                assert time.monotonic() < ends, "the witness does not answer"
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        assert server.wait(30) in (0, -15)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory with a home in which there is a log."""
    ring_with(tmp_path / ".agentguard")
    write(tmp_path / ".agentguard", 5)
    with inside(tmp_path):
        yield tmp_path


def test_a_log_is_witnessed_found_rolled_back_and_rotated(place: Path) -> None:
    key = run("log", "key").stdout.strip()
    witness = run("log", "witness", "key", "--name", NAME).stdout.strip()
    with serving(place, key) as url:
        assert run("log", "witness", "fetch", url, "--witness", witness).exit_code == 1  # it knows nothing yet
        first = run("log", "witness", "submit", url, "--witness", witness, "--json")
        assert [item["size"] for item in json.loads(first.stdout)["cosigned"]] == [5]
        shutil.copytree(".agentguard", "old")
        write(place / ".agentguard", 5)
        assert "10 records" in run("log", "witness", "submit", url, "--witness", witness).stdout
        assert run("log", "verify", "--witness", witness).exit_code == 0

        proof = run("log", "prove", "7").stdout
        assert NAME in proof
        Path("proof").write_text(proof)
        assert run("log", "prove", "--check", "proof", "--key", key, "--witness", witness).exit_code == 0

        # A stranger holds the copy that was rolled back against what the witness says.
        assert run("log", "verify", "--home", "old", "--witness", witness).exit_code == 0
        seen = run("log", "witness", "fetch", url, "--witness", witness, "--home", "old", "--key", key)
        Path("seen").write_text(seen.stdout)
        found = run("log", "verify", "--home", "old", "--key", key, "--since", "seen")
        assert (found.exit_code, "[cut]" in found.stdout) == (1, True)
        refused = run("log", "witness", "submit", url, "--witness", witness, "--home", "old")
        assert (refused.exit_code, "it was cut or rolled back" in refused.stderr) == (1, True)

        assert run("log", "rotate-key", "--by", "ops").exit_code == 0
        unknown = run("log", "witness", "submit", url, "--witness", witness)
        assert (unknown.exit_code, "403" in unknown.stderr) == (1, True)
    new = run("log", "key").stdout.strip()
    with serving(place, key, new) as url:
        assert "11 records" in run("log", "witness", "submit", url, "--witness", witness).stdout
        assert run("log", "verify", "--witness", witness, "--key", key).exit_code == 0


def test_a_witness_is_not_at_home_with_a_guard(place: Path) -> None:
    answer = run("log", "witness", "key", "--name", NAME, "--home", ".agentguard")
    assert (answer.exit_code, "the home of a guard" in answer.stderr) == (3, True)
    assert run("log", "witness", "key", "--name", "with space").exit_code == 3


def test_without_the_extras_it_says_what_to_install(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    witness = run("log", "witness", "key", "--name", NAME).stdout.strip()
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    answer = run("log", "witness", "serve", "--name", NAME, "--log", run("log", "key").stdout.strip())
    assert (answer.exit_code, "agentguard[server]" in answer.stderr) == (1, True)
    monkeypatch.setitem(sys.modules, "httpx", None)
    answer = run("log", "witness", "submit", "http://127.0.0.1:9", "--witness", witness)
    assert (answer.exit_code, "agentguard[fetch]" in answer.stderr) == (3, True)
