"""`agentguard demo`, as somebody types it: what it says, what it leaves, and what it does not touch."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentguard.cli import app

pytest.importorskip("deepagents", reason="deepagents belongs to the demo extra")

#: Reports every address that a socket connects to and every file that is opened for writing, outside of the temporary directory.
WATCHED = """
import os, sys, tempfile

free = (os.path.realpath(tempfile.gettempdir()), "/dev/")

def watch(event, args):
    if event == "socket.connect" and not (isinstance(args[1], tuple) and args[1][0] == "127.0.0.1"):
        os.write(2, f"CONNECT {args[1]!r}\\n".encode())
    if event == "socket.getaddrinfo" and args[0] not in ("127.0.0.1", b"127.0.0.1"):
        os.write(2, f"LOOKUP {args[0]!r}\\n".encode())
    if event == "open" and isinstance(args[0], str) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        path = os.path.realpath(args[0])
        if not path.startswith(free):
            os.write(2, f"WRITE {path}\\n".encode())

sys.dont_write_bytecode = True
sys.addaudithook(watch)
from agentguard.cli import main
sys.argv = ["agentguard", *sys.argv[1:]]
main()
"""
CONDITIONS = {
    "missing artifact": "artifact_missing",
    "expired": "artifact_expired",
    "invalid signature": "signature_invalid",
    "policy mismatch": "policy_mismatch",
    "replay": "replay_detected",
    "integrity failure": "integrity_failure",
    "environment mismatch": "environment_mismatch",
    "revoked": "artifact_revoked",
}


def environment(scratch: Path, **more: str) -> dict[str, str]:
    """A user who traces to a service and sits behind a proxy: neither may see anything of the demo."""
    scratch.mkdir(exist_ok=True)
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"), "http://192.0.2.1:9")
    tracing = {"LANGSMITH_TRACING": "true", "LANGSMITH_API_KEY": "none", "LANGSMITH_ENDPOINT": "http://192.0.2.1:9"}
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "TMPDIR": str(scratch),
        "HOME": str(scratch),
        **proxies,
        **tracing,
        **more,
    }


def demo(*words: str, cwd: Path, code: str = "from agentguard.cli import main; main()", **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, "demo", *words],
        cwd=cwd,
        env=environment(cwd / "scratch", **more),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def played(place: Path) -> subprocess.CompletedProcess[str]:
    """The demo, once, under watch."""
    return demo("--json", "--keep", "kept", cwd=place, code=WATCHED)


@pytest.fixture(scope="module")
def facts(played: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert played.returncode == 0, played.stderr
    found: dict[str, Any] = json.loads(played.stdout)
    return found


def test_everything_goes_as_claimed(facts: dict[str, Any]) -> None:
    assert facts["ok"] is True
    assert len(facts["claims"]) == 7
    assert all(claim["holds"] for claim in facts["claims"])


def test_the_attacker_gets_the_secrets_without_the_guard_and_nothing_with_it(facts: dict[str, Any]) -> None:
    unguarded, guarded = facts["attacker"]["unguarded"], facts["attacker"]["guarded"]
    assert [request["path"] for request in unguarded["requests"]] == ["/collect", "/pay", "/mirror"]
    assert unguarded["requests"][0]["begins"].startswith("client,contact")
    assert guarded == {"bytes": 0, "requests": []}


def test_the_work_gets_done_in_both_runs(facts: dict[str, Any]) -> None:
    for run in ("unguarded", "guarded"):
        (report,) = facts["intranet"][run]["requests"]
        assert report["path"] == "/reports"
        assert report["bytes"] > 500


def test_each_injection_fails_at_the_agent_that_it_was_written_for(facts: dict[str, Any]) -> None:
    refused = [(call["agent"], call["tool"], call["guarded"]) for call in facts["calls"] if call.get("guarded") not in ("allowed", None)]
    assert refused == [
        ("researcher", "read_file", "argument_not_allowed"),
        ("researcher", "post", "tool_not_in_scope"),
        ("orchestrator", "task", "argument_not_allowed"),
        ("writer", "post", "argument_not_allowed"),
    ]


def test_each_condition_gives_its_own_code_and_the_tool_does_not_run(facts: dict[str, Any]) -> None:
    control, *conditions = facts["conditions"]
    assert control["ran"] is True
    assert control["found"] is None
    assert {condition["name"]: condition["found"] for condition in conditions} == CONDITIONS
    assert not any(condition["ran"] for condition in conditions)


def test_the_log_is_genuine_and_one_bit_is_found(facts: dict[str, Any]) -> None:
    assert facts["log"]["ok"] is True
    assert facts["log"]["findings"] == []
    assert facts["flip"]["found"] is True
    assert facts["lineage"]["task"]["initiator"]["id"] == "user:alice"


def test_it_stays_on_loopback_and_in_its_own_directory(place: Path, played: subprocess.CompletedProcess[str]) -> None:
    kept = (place / "kept").resolve()
    written = [line for line in played.stderr.splitlines() if not line.startswith(f"WRITE {kept}{os.sep}")]
    assert not written
    assert list((place / "scratch").iterdir()) == []
    assert sorted(path.name for path in place.iterdir()) == ["kept", "scratch"]


def test_what_it_leaves_can_be_looked_at(place: Path, facts: dict[str, Any]) -> None:
    home = place / "kept" / ".agentguard"
    run = CliRunner().invoke
    assert run(app, ["log", "verify", "--home", str(home)]).exit_code == 0
    shown = run(app, ["lineage", facts["lineage"]["task"]["id"], "--home", str(home)])
    assert "researcher" in shown.stdout
    assert "deny tool_not_in_scope" in shown.stdout
    again = run(app, ["demo", "--keep", str(place / "kept")])
    assert again.exit_code == 3
    assert "is there already" in again.stderr


def test_in_a_pipe_it_is_plain_text(tmp_path: Path) -> None:
    shown = demo(cwd=tmp_path, NO_COLOR="1")
    assert shown.returncode == 0, shown.stderr
    assert "\x1b" not in shown.stdout
    assert shown.stderr == ""
    for text in ("LEAKED", "argument_not_allowed", "replay_detected", "user:alice", "genuine", "✓ one changed bit of it was found"):
        assert text in shown.stdout
    tables = [line for line in shown.stdout.splitlines() if "sha256:" not in line]
    assert max(map(len, tables)) <= 100


def test_an_interrupt_leaves_nothing_behind(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "from agentguard.cli import main; main()", "demo"],
        cwd=tmp_path,
        env=environment(tmp_path / "scratch", PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a job in the background may ignore it
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        while b"the first run goes without" not in running.stdout.readline():
            assert running.poll() is None
        running.send_signal(signal.SIGINT)
        running.stdout.read()
        assert b"Traceback" not in running.stderr.read()
    assert running.returncode == 130
    assert list((tmp_path / "scratch").iterdir()) == []


def test_without_its_extra_it_says_how_to_get_it(tmp_path: Path) -> None:
    code = "import sys; sys.modules['deepagents'] = None\nfrom agentguard.cli import main; main()"
    answer = demo(cwd=tmp_path, code=code)
    assert answer.returncode == 1
    assert "pip install 'agentguard[demo]'" in answer.stderr
    assert len(answer.stderr.splitlines()) == 1


def test_a_model_that_is_not_to_be_had_is_one_line(tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, ["demo", "--model", "nobody-makes-this:x"])
    assert answer.exit_code == 1
    assert answer.stderr.startswith("error: the model nobody-makes-this:x failed: ")
    assert len(answer.stderr.splitlines()) == 1


def test_one_place_to_leave_it(tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, ["demo", "--keep", str(tmp_path), "--home", str(tmp_path / "home")])
    assert answer.exit_code == 3
