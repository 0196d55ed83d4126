"""What holds for every command: help that teaches, one JSON document, exit codes, and never a traceback."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from agentguard.cli import app
from support.cli_reference import FILE, everything, reference
from support.transcript import environment, inside

LEAVES = [(path, command) for path, command in everything() if not hasattr(command, "commands")]
GROUPS = [(path, command) for path, command in everything() if hasattr(command, "commands")]


def run(*words: str, source: bytes | None = None) -> Result:
    return CliRunner().invoke(app, list(words), input=source, catch_exceptions=False)


def process(*words: str, cwd: Path, **more: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "agentguard.cli", *words], cwd=cwd, env=environment(), capture_output=True, timeout=60, **more
    )


@pytest.fixture
def started(tmp_path: Path) -> Path:
    """A directory where `init` and its example ran."""
    with inside(tmp_path):
        assert run("init").exit_code == 0
    done = subprocess.run([sys.executable, "example.py"], cwd=tmp_path, env=environment(), capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return tmp_path


# --- help -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "command"), LEAVES, ids=[path for path, _ in LEAVES])
def test_help_teaches_with_an_example(path: str, command: Any) -> None:
    assert "Example: `" in command.help, path
    assert all(parameter.help for parameter in command.params), path
    answer = run(*path.split()[1:], "--help")
    assert answer.exit_code == 0
    assert "Example" in answer.stdout


@pytest.mark.parametrize(("path", "command"), LEAVES, ids=[path for path, _ in LEAVES])
def test_every_command_takes_home_and_json(path: str, command: Any) -> None:
    options = {option for parameter in command.params for option in parameter.opts}
    assert {"--home", "--json"} <= options, path


def test_the_reference_is_the_one_in_the_documents() -> None:
    assert FILE.read_text("utf-8") == reference(), "if this is meant: python tests/support/cli_reference.py"


@pytest.mark.parametrize(("path", "command"), GROUPS, ids=[path for path, _ in GROUPS])
def test_a_group_without_a_command_shows_its_help_and_is_wrong_usage(path: str, command: Any) -> None:
    answer = run(*path.split()[1:])
    assert answer.exit_code == 3
    assert "Usage:" in answer.stdout + answer.stderr


def test_help_is_quick(tmp_path: Path) -> None:
    """Half a second on an idle machine; only what `--help` must not load is compared here, because a busy one proves nothing."""
    code = "import sys, agentguard.cli; print(*[name for name in ('pydantic', 'yaml', 'structlog', 'rich.table') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == ""


# --- JSON -------------------------------------------------------------------------------------------------------------------------------


def test_json_is_one_document_on_standard_output(started: Path) -> None:
    with inside(started):
        call = json.dumps({"agent": "triage", "tool": "read_ticket", "arguments": {"id": "T-1"}}).encode()
        assert (
            run("artifact", "issue", "-p", "policy.yaml", "-a", "triage", "-i", "user:alice", "-o", "grant.json", "--json").exit_code == 0
        )
        task = json.loads(run("lineage", "--json").stdout)["tasks"][-1]["id"]
        execution = json.loads(run("lineage", task, "--json").stdout)["nodes"][1]["id"]
        commands: list[tuple[list[str], bytes | None]] = [
            (["policy", "check", "policy.yaml"], None),
            (["policy", "show", "policy.yaml"], None),
            (["policy", "explain", "policy.yaml", "--agent", "triage"], None),
            (["artifact", "show", "grant.json"], None),
            (["artifact", "verify", "grant.json"], None),
            (["artifact", "delegate", "-a", "grant.json", "--to", "summarizer"], None),
            (["check", "-p", "policy.yaml", "--call", "-"], call),
            (["check", "-p", "policy.yaml", "--call", "-", "-a", "grant.json"], call),
            (["tools", "lock", "example.py"], None),
            (["tools", "verify", "example.py"], None),
            (["lineage"], None),
            (["lineage", task], None),
            (["lineage", execution, "--values"], None),
            (["log", "verify"], None),
            (["log", "key"], None),
            (["log", "checkpoint"], None),
            (["log", "prove", execution], None),
            (["log", "accept-clock"], None),
            (["artifact", "revoke", "grant.json"], None),
            (["stop", "--task", task], None),
            (["stop", "--list"], None),
            (["doctor", "--policy", "policy.yaml"], None),
            (["init", "other"], None),
        ]
        for words, source in commands:
            answer = run(*words, "--json", source=source)
            assert answer.exit_code in (0, 2), (words, answer.stderr)
            json.loads(answer.stdout)


def test_a_proof_from_the_log_verifies_with_the_key_alone(started: Path) -> None:
    import base64
    import hashlib

    from agentguard.log.checkpoint import open_checkpoint, parse_verifier_key
    from agentguard.log.merkle import verify_inclusion

    with inside(started):
        task = json.loads(run("lineage", "--json").stdout)["tasks"][-1]["id"]
        execution = json.loads(run("lineage", task, "--json").stdout)["nodes"][2]["id"]
        proof = json.loads(run("log", "prove", execution, "--json").stdout)
        keys = json.loads(run("log", "key", "--json").stdout)
    name, public = parse_verifier_key(keys["shards"][proof["shard"]])
    checkpoint = open_checkpoint(proof["checkpoint"].encode(), public, name)
    leaf = hashlib.sha256(b"\x00" + proof["record"].encode()).digest()
    path = [base64.b64decode(item) for item in proof["path"]]
    assert verify_inclusion(leaf, proof["index"], checkpoint.size, path, checkpoint.root)
    assert json.loads(proof["record"])["id"] == execution


def test_a_stranger_verifies_a_copy_of_the_log_with_the_key(started: Path, tmp_path: Path) -> None:
    import shutil

    with inside(started):
        key = run("log", "key").stdout.strip()
        copy = tmp_path / "copy"
        for part in ("log", "heads"):
            shutil.copytree(f".agentguard/{part}", copy / part)
        assert run("log", "verify", "--home", str(copy), "--key", key).exit_code == 0
        other = run("artifact", "issue", "-p", "policy.yaml", "-a", "triage", "-i", "user:bob", "--home", "other").exit_code
        assert other == 0
        wrong = run("log", "key", "--home", "other").stdout.strip()
        assert run("log", "verify", "--home", str(copy), "--key", wrong).exit_code == 1
        assert run("log", "verify", "--home", str(copy), "--key", "nonsense").exit_code == 3


# --- errors -----------------------------------------------------------------------------------------------------------------------------

HOSTILE = st.one_of(
    st.binary(max_size=200),
    st.sampled_from(
        [b"", b"{", b"[]", b"null", b'{"aat_chain": []}', b'{"aat_chain": ["a.b.c"]}', b"[" * 5000, b"\xff\xfe", b'{"a": NaN}']
    ),
    st.recursive(
        st.none() | st.text() | st.integers() | st.floats(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    ).map(lambda value: json.dumps(value).encode()),
)


@settings(max_examples=40)
@given(data=HOSTILE)
def test_whatever_is_fed_to_it_the_answer_is_a_code_and_a_line(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    directory = tmp_path_factory.mktemp("hostile")
    with inside(directory):
        run("init")
        (directory / "data").write_bytes(data)
        for words in (
            ["policy", "check", "data"],
            ["artifact", "show", "data"],
            ["check", "-p", "policy.yaml", "--call", "data"],
            ["check", "-p", "data", "--call", "data"],
            ["artifact", "issue", "-p", "data", "-a", "a", "-i", "i", "--home", "none"],
        ):
            answer = run(*words)
            assert answer.exit_code in (2, 3), (words, answer.stdout)
            assert "Traceback" not in answer.stderr
            assert "fault of agentguard" not in answer.stderr, answer.stderr
            assert answer.exit_code == 2 or len(answer.stderr.splitlines()) == 1


def test_a_terminal_is_sent_letters_only(tmp_path: Path) -> None:
    """Names of a foreign artifact may hold control sequences; what is shown does not."""
    from agentguard.canonical import b64url

    header = b64url(json.dumps({"alg": "Ed25519", "typ": "aat+jwt"}).encode())
    tools = {"\x1b[31mread\x07": {"\x1b]0;owned\x07": {"constraint_type": "exact", "value": "\x1b[2J"}}}
    claims = {
        "iss": "\x1b[0m",
        "iat": 1,
        "exp": 2,
        "aud": "\x1b[1m",
        "authorization_details": [{"type": "attenuating_agent_token", "tools": tools}],
    }
    token = f"{header}.{b64url(json.dumps(claims).encode())}.AAAA"
    (tmp_path / "foreign.json").write_text(json.dumps({"aat_chain": [token]}))
    with inside(tmp_path):
        shown = run("artifact", "show", "foreign.json")
        assert shown.exit_code == 0
        refused = run("policy", "check", "\x1b[31mmissing")
    assert "read" in shown.stdout
    for text in (shown.stdout, refused.stderr):
        assert "\x1b" not in text
        assert "\x07" not in text


def test_a_key_file_that_others_can_read_is_refused(started: Path) -> None:
    os.chmod(started / ".agentguard" / "keys" / "log.pem", 0o644)
    with inside(started):
        answer = run("log", "verify")
        assert answer.exit_code == 3
        assert "chmod 600" in answer.stderr
        doctor = run("doctor")
        assert doctor.exit_code == 1
        assert "others can get at it" in doctor.stdout


# --- calls from elsewhere -------------------------------------------------------------------------------------------------------------


def test_a_call_from_elsewhere_needs_the_holders_proof(started: Path) -> None:
    """Another home issued the artifact and has the holder's key; this one trusts its issuer, and asks for a proof addressed to it."""
    from agentguard.artifacts.chain import Anchor, verify_structure
    from agentguard.artifacts.making import parse_presentation
    from agentguard.artifacts.proof import make_proof
    from agentguard.canonical import freeze
    from agentguard.keys import KeyRing

    call = {"agent": "triage", "tool": "read_ticket", "arguments": {"id": "T-1"}, "call_id": "c-1"}
    with inside(started):
        Path("call.json").write_text(json.dumps(call))
        issued = run("artifact", "issue", "-p", "policy.yaml", "-a", "triage", "-i", "user:bob", "--home", "there", "-o", "grant.json")
        assert issued.exit_code == 0
        keys = KeyRing("there/keys")
        issuer, holder = keys.issuer().public, keys.holder("triage")
        trust = {"anchors": [{"iss": issuer.uri, "jwk": issuer.jwk()}], "agents": {"triage": holder.public.jwk()}}
        Path(".agentguard/trust.json").write_text(json.dumps(trust))
        ask = ["check", "-p", "policy.yaml", "--call", "call.json", "--artifact", "grant.json"]
        missing = run(*ask)
        assert missing.exit_code == 2
        assert "proof_missing" in missing.stdout

        tokens, _ = parse_presentation(Path("grant.json").read_bytes())
        leaf = verify_structure(tokens, [Anchor(issuer.uri, issuer)]).leaf
        audience = json.loads(run("doctor", "--json").stdout)["trust"]["audience"]
        arguments = freeze(call["arguments"])
        made = make_proof(holder, leaf, "read_ticket", arguments, int(time.time()), aud=audience)
        assert run(*ask, "--proof", made).exit_code == 0
        Path("proof").write_text(made + "\n")
        assert run(*ask, "--proof", "proof", "--admit").exit_code == 0
        again = run(*ask, "--proof", made, "--admit")
        assert "replay_detected" in again.stdout
        wrong = make_proof(holder, leaf, "read_ticket", arguments, int(time.time()), aud="urn:agentguard:other")
        assert "proof_invalid" in run(*ask, "--proof", wrong).stdout
        assert run("check", "-p", "policy.yaml", "--call", "call.json", "--proof", made).exit_code == 3


def test_with_a_lock_the_applications_tools_must_be_there(started: Path) -> None:
    call = json.dumps({"agent": "summarizer", "tool": "summarize", "arguments": {"text": "a b"}}).encode()
    with inside(started):
        assert run("tools", "lock", "example.py").exit_code == 0
        assert run("artifact", "issue", "-p", "policy.yaml", "-a", "summarizer", "-i", "user:bob", "-o", "grant.json").exit_code == 0
        ask = ["check", "-p", "policy.yaml", "--call", "-", "--artifact", "grant.json"]
        refused = run(*ask, source=call)
        assert "integrity_failure" in refused.stdout
        assert "--tools MODULE" in refused.stdout
        assert run(*ask, "--tools", "example.py", source=call).exit_code == 0  # `words` is bound to its default
        alone = run("check", "-p", "policy.yaml", "--call", "-", source=call)
        assert "argument_not_allowed: words" in alone.stdout
        assert run("check", "-p", "policy.yaml", "--call", "-", "--tools", "example.py", source=call).exit_code == 0


# --- as a process -----------------------------------------------------------------------------------------------------------------------


def test_as_a_process_it_gives_the_same_codes(tmp_path: Path) -> None:
    assert process("init", cwd=tmp_path).returncode == 0
    assert process("init", cwd=tmp_path).returncode == 3
    call = json.dumps({"agent": "summarizer", "tool": "send_email", "arguments": {}}).encode()
    denied = process("check", "-p", "policy.yaml", "--call", "-", cwd=tmp_path, input=call)
    assert denied.returncode == 2
    assert b"tool_not_allowed" in denied.stdout
    assert process("log", "verify", cwd=tmp_path).returncode == 3
    assert process("--version", cwd=tmp_path).stdout.startswith(b"agentguard ")


def test_nothing_but_letters_goes_into_a_pipe(started: Path) -> None:
    for words in (["lineage"], ["policy", "show", "policy.yaml"], ["doctor"], ["log", "verify"]):
        assert b"\x1b" not in process(*words, cwd=started).stdout


def test_a_reader_that_leaves_early_is_no_fault(started: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "agentguard.cli", "lineage", "--json"],
        cwd=started,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as done:
        assert done.stdout is not None
        assert done.stderr is not None
        done.stdout.close()
        assert done.stderr.read() == b""
    assert done.returncode == 1


def test_in_a_locale_without_arrows_it_still_prints(started: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "agentguard.cli", "lineage"],
        cwd=started,
        env={**environment(), "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert b"user:alice" in done.stdout


def test_a_stop_takes_effect_in_a_running_process(tmp_path: Path) -> None:
    """The next call of a guard in another process is denied."""
    (tmp_path / "app.py").write_text(
        "import sys\n"
        "from agentguard import Denied, Guard\n"
        "guard = Guard.open('policy.yaml', durability='process')\n"
        "@guard.tool\n"
        "def read_ticket(id: str) -> str:\n"
        "    return id\n"
        "with guard.task('triage', initiator='user:alice'):\n"
        "    for line in sys.stdin:\n"
        "        try:\n"
        "            print(read_ticket(id='T-1'), flush=True)\n"
        "        except Denied as denied:\n"
        "            print(denied.decision.code, flush=True)\n"
    )
    assert process("init", cwd=tmp_path).returncode == 0
    with subprocess.Popen(
        [sys.executable, "app.py"], cwd=tmp_path, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdin is not None
        assert running.stdout is not None

        def ask() -> str:
            assert running.stdin is not None
            assert running.stdout is not None
            running.stdin.write("go\n")
            running.stdin.flush()
            return running.stdout.readline().strip()

        assert ask() == "T-1"
        assert process("stop", "--agent", "triage", cwd=tmp_path).returncode == 0
        assert ask() == "artifact_revoked"
        assert process("stop", "--agent", "triage", "--lift", cwd=tmp_path).returncode == 0
        assert ask() == "T-1"
        running.stdin.close()
    assert running.returncode == 0


# --- requests ---------------------------------------------------------------------------------------------------------------------------


def requests() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    vectors = Path(__file__).parents[1] / "vectors"
    found = []
    for name in ("valid.json", "invalid.json"):
        body = json.loads((vectors / name).read_text("utf-8"))
        found += [({**body["defaults"], **vector["request"]}, vector["expect"]) for vector in body["vectors"] if "request" in vector]
    return found


def test_requests_are_answered_a_line_each(tmp_path: Path) -> None:
    asked = requests()
    lines = b"".join(json.dumps(request).encode() + b"\n" for request, _ in asked)
    done = process("artifact", "verify", "--request", "-", cwd=tmp_path, input=lines + b"nonsense\n\n")
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(asked) + 2
    for (_, expected), answer in zip(asked, answers, strict=False):
        assert {name: answer[name] for name in expected} == expected
    assert [answer["code"] for answer in answers[-2:]] == ["malformed_call", "malformed_call"]


def test_a_request_is_answered_before_the_next_one_comes(tmp_path: Path) -> None:
    request, expected = requests()[0]
    with subprocess.Popen(
        [sys.executable, "-m", "agentguard.cli", "artifact", "verify", "--request", "-"],
        cwd=tmp_path,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        for _ in range(3):
            running.stdin.write(json.dumps(request).encode() + b"\n")
            running.stdin.flush()
            assert json.loads(running.stdout.readline())["verdict"] == expected["verdict"]
        running.stdin.close()


def test_an_interrupt_is_130_and_no_traceback(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "agentguard.cli", "artifact", "verify", "--request", "-"],
        cwd=tmp_path,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a job in the background may ignore it
    ) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdin.write(b"{}\n")
        running.stdin.flush()
        running.stdout.readline()  # it is at work
        running.send_signal(signal.SIGINT)
        assert b"Traceback" not in running.stderr.read()
    assert running.returncode == 130


def test_an_endless_line_is_one_malformed_request(tmp_path: Path) -> None:
    from agentguard.artifacts.request import MAX_LINE

    done = process("artifact", "verify", "--request", "-", cwd=tmp_path, input=b"[" * (3 * MAX_LINE) + b"\n{}\n")
    assert [json.loads(line)["verdict"] for line in done.stdout.splitlines()] == ["DENY", "DENY"]


def test_the_clock_must_be_accepted_when_it_is_behind(started: Path) -> None:
    """A log whose last checkpoint lies ahead of the wall clock: denied until somebody says so, as evidence."""
    call = json.dumps({"agent": "triage", "tool": "read_ticket", "arguments": {"id": "T-1"}}).encode()
    with inside(started):
        assert run("artifact", "issue", "-p", "policy.yaml", "-a", "triage", "-i", "user:alice", "-o", "grant.json").exit_code == 0
        ask = ["check", "-p", "policy.yaml", "--call", "-", "-a", "grant.json"]
        assert run(*ask, source=call).exit_code == 0
        _date_ahead(started / ".agentguard")
        assert run("doctor").exit_code == 1
        denied = run(*ask, source=call)
        assert denied.exit_code == 2
        assert "clock_unreliable" in denied.stdout
        _date_ahead(started / ".agentguard")
        accepted = run("log", "accept-clock", "--by", "ops", "--json")
        assert json.loads(accepted.stdout)["accepted"] is True
        assert run(*ask, source=call).exit_code == 0
        assert run("doctor").exit_code == 0


def _date_ahead(home: Path) -> None:
    """Sign a checkpoint that is an hour ahead, as a machine whose clock was wrong would have."""
    from agentguard.keys import LocalKey
    from agentguard.log import Log

    ahead = time.time_ns() + 3600 * 10**9
    with Log.open(home, LocalKey.load(home / "keys" / "log.pem"), clock=lambda: ahead) as log:
        log.append(
            json.dumps({"by": "test", "detail": {}, "id": str(ahead), "time": "1", "type": "clock", "v": 1}, separators=(",", ":")).encode()
        )
