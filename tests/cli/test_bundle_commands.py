"""`policy sign` and `policy fetch` beyond the transcript: https, what stays when it fails, and what the other commands say afterwards."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import respx
from typer.testing import CliRunner, Result

from agentguard import Guard
from agentguard.bundle import MAX_BUNDLE
from agentguard.bundle_home import path_of
from agentguard.cli import app
from agentguard.home import Home
from agentguard.keys import LocalKey
from agentguard.policy import load
from agentguard.tools.integrity import Lock, register
from support.bundles import bundle, policy, put, trusting
from support.guarded import call, denied, records
from support.transcript import inside

KEY = LocalKey.generate()
URL = "https://policies.example.com/support.bundle"


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Path]:
    """A home that believes the authority and has its first bundle."""
    with inside(tmp_path):
        home = trusting(tmp_path / ".agentguard", KEY.public, agents={"far": LocalKey.generate().public.jwk()})
        assert run("policy", "fetch", put(tmp_path / "1.bundle", bundle(KEY, 1, 1))).exit_code == 0
        yield home


@respx.mock
def test_a_bundle_comes_over_https(there: Path) -> None:
    respx.get(URL).respond(200, content=bundle(KEY, 2, 2))
    done = run("policy", "fetch", URL, "--json", "--by", "ops")
    assert done.exit_code == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["version"], answer["changed"], answer["installed"]) == (2, True, True)
    assert answer["policy"]["digest"] == load(policy(2)).digest
    with Guard.open(path_of(there, "support"), home=there, durability="process") as guard:
        assert guard.policy.digest == load(policy(2)).digest
        note = records(guard, "policy")[-1]
    assert (note["by"], note["detail"]["action"], note["detail"]["bundle"]["version"]) == ("ops", "install", 2)


FAILURES: list[tuple[dict[str, Any], int, str]] = [
    ({"return_value": httpx.Response(404)}, 1, "the answer is 404 Not Found"),
    ({"return_value": httpx.Response(302, headers={"location": "https://elsewhere.example.com/"})}, 1, "the answer is 302 Found"),
    ({"return_value": httpx.Response(500, content=b"x")}, 1, "the answer is 500"),
    ({"return_value": httpx.Response(200, content=b"")}, 3, "not a compact JWS"),
    ({"return_value": httpx.Response(200, content=b"<html>")}, 3, "not a compact JWS"),
    ({"return_value": httpx.Response(200, content=b"e" * (MAX_BUNDLE + 2))}, 3, "longer than"),
    ({"return_value": httpx.Response(200, content=bundle(LocalKey.generate(), 9, 1))}, 3, "not signed by a key that may"),
    ({"return_value": httpx.Response(200, content=bundle(KEY, 9, 1)[:-20])}, 3, "not signed by a key that may"),
    ({"side_effect": httpx.ConnectError("refused")}, 1, "cannot be fetched: refused"),
    ({"side_effect": httpx.ReadTimeout("")}, 1, "cannot be fetched: ReadTimeout"),
]


@respx.mock
def test_a_fetch_that_fails_leaves_the_old(there: Path) -> None:
    before = path_of(there, "support").read_bytes()
    for answer, code, words in FAILURES:
        respx.get(URL).mock(**answer)
        done = run("policy", "fetch", URL)
        assert (done.exit_code, words in done.stderr) == (code, True), (answer, done.stderr)
        assert path_of(there, "support").read_bytes() == before
    Guard.open(path_of(there, "support"), home=there, durability="process").close()


def test_without_httpx_it_says_what_to_install(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    done = run("policy", "fetch", URL)
    assert done.exit_code == 3
    assert "pip install 'agentguard[fetch]'" in done.stderr


def test_trust_is_added_and_the_rest_of_the_file_stays(there: Path, tmp_path: Path) -> None:
    other = LocalKey.generate()
    put(tmp_path / "other.jwk", json.dumps(other.public.jwk()).encode())
    before = json.loads((there / "trust.json").read_text())
    data = put(tmp_path / "other.bundle", bundle(other, 1, 1, name="other"))
    assert run("policy", "fetch", data).exit_code == 3
    assert run("policy", "fetch", data, "--trust", tmp_path / "other.jwk", "--dry").exit_code == 0
    assert json.loads((there / "trust.json").read_text()) == before
    assert run("policy", "fetch", data, "--trust", tmp_path / "other.jwk").exit_code == 0
    after = json.loads((there / "trust.json").read_text())
    assert after == {**before, "policy_authorities": [*before["policy_authorities"], {"bundle": "other", "jwk": other.public.jwk()}]}
    assert run("policy", "fetch", data).exit_code == 0
    again = put(tmp_path / "1.bundle", bundle(other, 2, 1))
    assert "may sign 'other' only" in run("policy", "fetch", again).stderr
    with Home(there) as home:
        assert len(home.trust.authorities) == 2


def test_a_key_that_is_none_is_refused(there: Path, tmp_path: Path) -> None:
    for jwk in (b"{}", b"x", KEY.public.raw, json.dumps({**KEY.public.jwk(), "d": "x"}).encode()):
        done = run("policy", "fetch", tmp_path / "1.bundle", "--trust", put(tmp_path / "k.jwk", jwk))
        assert done.exit_code == 3
        assert "k.jwk" in done.stderr
        assert "public JWK" in done.stderr


def test_a_bundle_that_is_not_trusted_makes_no_home(tmp_path: Path) -> None:
    with inside(tmp_path):
        data = put(tmp_path / "1.bundle", bundle(KEY, 1, 1))
        put(tmp_path / "k.jwk", json.dumps(LocalKey.generate().public.jwk()).encode())
        for more in ([], ["--trust", "k.jwk"], ["--dry"]):
            assert run("policy", "fetch", data, *more).exit_code == 3
        assert not (tmp_path / ".agentguard").exists()


def test_what_is_signed_is_what_was_given(tmp_path: Path) -> None:
    def echo(x: int) -> int:
        return x

    with inside(tmp_path):
        put(tmp_path / "policy.yaml", policy(1).encode())
        lock = Lock.of({"echo": register(echo)})
        put(tmp_path / "lock.json", lock.dump())
        issuer = LocalKey.generate()
        put(tmp_path / "keys.json", json.dumps({"anchors": [{"iss": issuer.public.uri, "jwk": issuer.public.jwk()}]}).encode())
        old = load(policy(2)).digest
        options = ["--lock", "lock.json", "--keys", "keys.json", "--accepts", old, "--expires", "12h"]
        done = run(
            *("policy", "sign", "policy.yaml", "--version", "3", "--key", "k.pem", "--new-key", "-o", "b.bundle", "--json"), *options
        )
        assert done.exit_code == 0, done.stderr
        answer = json.loads(done.stdout)
        assert answer["expires"] - answer["issued"] == 12 * 3600
        assert (answer["lock"], answer["accepts"], answer["version"]) == (lock.digest, [old], 3)
        assert (tmp_path / "k.pem").stat().st_mode & 0o777 == 0o600
        put(tmp_path / "authority.jwk", json.dumps(answer["authority"]["jwk"]).encode())
        assert run("policy", "fetch", "b.bundle", "--trust", "authority.jwk").exit_code == 0
        with Guard.open(path_of(tmp_path / ".agentguard", "support"), home=".agentguard", durability="process") as guard:
            assert guard.environment["tool_lock"] == lock.digest


def test_the_doctor_and_check_know_bundles(there: Path) -> None:
    installed = path_of(there, "support")
    with Guard.open(installed, home=there, durability="process") as guard:
        report = json.loads(run("doctor", "--policy", installed, "--json").stdout)
        assert report["policy"]["same"]
        put(installed, bundle(KEY, 2, 2))
        guard.reload(installed)
        look = json.loads(run("doctor", "--json").stdout)["policy"]
        assert look["in_force"] == load(policy(2)).digest
        assert look["words"].endswith(", from the bundle support, version 2")
    call = json.dumps({"agent": "triage", "tool": "echo", "arguments": {"x": 2}})
    asked = CliRunner().invoke(app, ["check", "--policy", str(installed), "--call", "-"], input=call)
    assert asked.exit_code == 0, asked.stderr
    stranger = put(there.parent / "s.bundle", bundle(LocalKey.generate(), 3, 2))
    assert "not signed by a key" in CliRunner().invoke(app, ["check", "--policy", str(stranger), "--call", "-"], input=call).stderr


def test_what_an_issuer_stops_reaches_the_guards_that_believe_it(tmp_path: Path) -> None:
    """One home stops an agent and signs the list; the authority puts it into a bundle; another home denies that agent's chains."""
    near = trusting(tmp_path / "near", KEY.public)
    with (
        inside(tmp_path),
        Guard.open(policy(1), home="far", durability="process") as far,
        far.task("triage", initiator="user:alice") as task,
    ):
        ring = far.home.keys
        issuer = ring.issuer().public
        keys = {"anchors": [{"iss": issuer.uri, "jwk": issuer.jwk()}], "agents": {"triage": ring.holder("triage").public.jwk()}}
        chain = task.presentation()
        assert run("stop", "--agent", "triage", "--home", "far").exit_code == 0
        signed = run("stop", "--list", "--sign", "12h", "--home", "far").stdout
        renewed = run("stop", "--list", "--sign", "12h", "--home", "far").stdout
        with Guard.open(put(near / "1.bundle", bundle(KEY, 1, 1, keys=keys)), home=near, durability="process") as guard:
            foreign = guard.accept(chain, key=ring.holder("triage"))
            guard.check(call(), task=foreign)
            guard.reload(put(near / "2.bundle", bundle(KEY, 2, 1, keys=keys, revocations=[signed.strip()])))
            denied("artifact_revoked", guard.check, call(), task=foreign)
            guard.reload(put(near / "3.bundle", bundle(KEY, 3, 1, keys=keys, revocations=[renewed.strip()])))
            denied("artifact_revoked", guard.check, call(), task=foreign)
        assert run("stop", "--sign", "12h", "--home", "far").exit_code == 3
        put(tmp_path / "policy.yaml", policy(1).encode())
        put(tmp_path / "list.jws", renewed.encode())
        put(tmp_path / "keys.json", json.dumps(keys).encode())
        words = ("policy", "sign", "policy.yaml", "--version", "4", "--key", "k.pem", "--new-key", "-o", "4.bundle", "--json")
        done = run(*words, "--revocations", "list.jws", "--keys", "keys.json")
        assert done.exit_code == 0, done.stderr
        assert json.loads(done.stdout)["revocations"][0]["everyone"] is False
