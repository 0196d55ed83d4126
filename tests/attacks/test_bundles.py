"""Ways around signed bundles: tampering, keys of others, rollback, forks, swapped names, and reloading while calls run."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from agentguard import Denied, Guard, ToolCall, artifact, control, jws
from agentguard.authority import Authority
from agentguard.bundle import BUNDLE_TYPE, read_bundle
from agentguard.bundle_home import install, path_of
from agentguard.canonical import b64url, jcs
from agentguard.enforcement import Enforcement
from agentguard.environment import Clock
from agentguard.errors import InvalidInput
from agentguard.home import Home, Trust
from agentguard.integrity import Lock, register
from agentguard.keys import KeyRing, LocalKey
from agentguard.ledger import Ledger
from agentguard.log import verify
from agentguard.policy import load
from agentguard.recording import Recording
from agentguard.revocation_list import LIST_TYPE, sign_list
from agentguard.state import State
from agentguard.task import Task
from support.bundles import NAME, bundle, claims_of, forged, policy, put, trusting
from support.guarded import call, records

KEY = LocalKey.generate()
TRUST = Trust.of((), {}, None, ((NAME, KEY.public),))


def refused(data: bytes, trust: Trust = TRUST) -> str:
    with pytest.raises(InvalidInput) as caught:
        read_bundle(data, trust)
    return str(caught.value)


def installing(home: Path, data: bytes) -> bool:
    """As `policy fetch` does it."""
    with Home(home, durability="process") as opened:
        control.reconcile(opened)
        found = read_bundle(data, opened.trust)
        return install(opened, Ledger(opened, Clock()), found, now=int(time.time()), by="test")


# --- the document -------------------------------------------------------------------------------------------------------------------


def test_no_byte_of_a_bundle_can_be_changed() -> None:
    """Each position, with every kind of change that a text file may suffer. Ed25519 signatures leave no room: the last character too."""
    data = bundle(KEY, revocations=[sign_list(KEY, number=1, issued=1, expires=2**40, revoked=[])])
    rng = random.Random(5)
    accepted = []
    for index, byte in enumerate(data[:-1]):
        for other in {byte ^ 1, byte ^ 0x20, ord("A"), ord("."), ord("="), 0, rng.choice(b"-_09az")} - {byte}:
            changed = data[:index] + bytes([other]) + data[index + 1 :]
            try:
                read_bundle(changed, TRUST)
            except InvalidInput:
                continue
            accepted.append((index, bytes([other])))
    for index in range(0, len(data) - 1, 97):
        for changed in (data[:index], data[:index] + data[index + 1 :], data[:index] + data[index : index + 1] + data[index:]):
            with pytest.raises(InvalidInput):
                read_bundle(changed, TRUST)
    assert not accepted


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none", "typ": BUNDLE_TYPE},
        {"alg": "EdDSA", "typ": BUNDLE_TYPE},
        {"alg": "HS256", "typ": BUNDLE_TYPE},
        {"alg": "Ed25519", "typ": "aat+jwt"},
        {"alg": "Ed25519"},
        {"typ": BUNDLE_TYPE},
        {"alg": "Ed25519", "typ": BUNDLE_TYPE, "jwk": KEY.public.jwk()},
        {"alg": "Ed25519", "typ": BUNDLE_TYPE, "kid": "x"},
        {"alg": "Ed25519", "typ": BUNDLE_TYPE, "crit": ["agentguard"], "agentguard": 1},
        {"typ": BUNDLE_TYPE, "alg": "Ed25519", "b64": False},
    ],
)
def test_one_header_is_accepted_and_it_is_signed(header: dict[str, Any]) -> None:
    payload = bundle(KEY).decode().split(".")[1]
    signing = f"{b64url(jcs(header))}.{payload}"
    assert "its header is another one" in refused(f"{signing}.{b64url(KEY.sign(signing.encode()))}".encode())
    assert "its header is another one" in refused(f"{signing}.".encode())


def test_what_the_authority_signed_for_something_else_is_no_bundle() -> None:
    """The type is under the signature: a list, an artifact or a proof cannot be read as a bundle, nor a bundle as one of them."""
    claims = claims_of(bundle(KEY))
    for typ in (LIST_TYPE, "aat+jwt", "aat-pop+jwt", "JWT", "agentguard-policy-bundle"):
        assert "its header is another one" in refused(jws.sign(typ, claims, KEY).encode())
    with pytest.raises(InvalidInput):
        artifact.parse_presentation(bundle(KEY).strip())
    inside = forged(KEY, bundle(KEY), revocations=[bundle(KEY).decode().strip()])
    assert "revocations[0]: not a list of revocations" in refused(inside)


def test_keys_of_the_home_sign_no_policy(home: Path) -> None:
    """Issuer, log and agents have keys too, and whoever holds one would like to write the policy."""
    trusting(home, KEY.public)
    with Home(home, durability="process") as opened:
        for key in (opened.keys.issuer(), opened.keys.log(), opened.keys.holder("triage")):
            assert "not signed by a key that may sign a policy here" in refused(bundle(key, 9), opened.trust)


def test_an_anchor_of_a_bundle_signs_no_policy() -> None:
    """A bundle vouches for issuers of artifacts; they do not become authorities by that, nor does the next bundle."""
    issuer = LocalKey.generate()
    keys = {"anchors": [{"iss": issuer.public.uri, "jwk": issuer.public.jwk()}]}
    merged = read_bundle(bundle(KEY, 1, keys=keys), TRUST).trust
    assert "not signed by a key that may sign a policy here" in refused(bundle(issuer, 2), merged)


def test_an_issuer_withdraws_nothing_in_the_name_of_another() -> None:
    """A list that claims another signer, or that an issuer of another bundle signed, is refused and with it the bundle."""
    one, two = LocalKey.generate(), LocalKey.generate()
    keys = {"anchors": [{"iss": one.public.uri, "jwk": one.public.jwk()}]}
    good = sign_list(one, number=1, issued=1, expires=2, revoked=[{"kind": "all", "value": ""}])
    assert read_bundle(bundle(KEY, keys=keys, revocations=[good]), TRUST).lists[0].issuer == one.public.thumbprint()
    for body in ({"by": KEY.public.thumbprint()}, {"by": two.public.thumbprint()}):
        token = forged(one, good.encode(), LIST_TYPE, **body).decode().strip()
        assert "names another signer" in refused(forged(KEY, bundle(KEY, keys=keys), revocations=[token]))
    stranger = forged(two, good.encode(), LIST_TYPE).decode().strip()
    assert "not signed by a key that may" in refused(forged(KEY, bundle(KEY, keys=keys), revocations=[stranger]))


def test_small_order_keys_are_no_authorities() -> None:
    """Under such a key anybody can sign anything."""
    zero = {"kty": "OKP", "crv": "Ed25519", "x": b64url(b"\x01" + bytes(31))}
    with pytest.raises(InvalidInput, match="small order"):
        Trust.read({"policy_authorities": [{"bundle": NAME, "jwk": zero}]})


@pytest.mark.parametrize(
    "files",
    [
        [("p.yaml", "agentguard: 1\nname: p\nimport: [q.yaml]\nagents: {}\n")],
        [("p.yaml", "agentguard: 1\nname: p\nimport: [../q.yaml]\nagents: {}\n"), ("../q.yaml", "agentguard: 1\n")],
        [("p.yaml", "agentguard: 1\nname: p\nimport: [/etc/passwd]\nagents: {}\n"), ("/etc/passwd", "agentguard: 1\n")],
        [("p.yaml", "agentguard: 1\nname: p\nagents: {}\n"), ("q.yaml", "agentguard: 1\nagents: {eve: {}}\n")],
        [("p.yaml", "agentguard: 1\nname: p\nagents: {}\n"), ("p.yaml", "agentguard: 1\nname: p\nagents: {eve: {}}\n")],
        [("p.yaml", "agentguard: 1\nname: p\nagents: &a {}\ngroups: *a\n")],
    ],
)
def test_a_bundle_reaches_for_no_file_and_hides_none(files: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "q.yaml").write_text("agentguard: 1\nagents: {eve: {}}\n")
    body = {"digest": load(policy(1)).digest, "files": [{"name": name, "text": text} for name, text in files]}
    assert refused(forged(KEY, bundle(KEY), policy=body))


def test_the_digest_that_was_signed_is_the_digest_of_the_files() -> None:
    """What people reviewed by its digest is what takes effect, whatever the files beside it say."""
    other = claims_of(bundle(KEY, 1, 2))["policy"]["files"]
    assert "not the one that was signed" in refused(forged(KEY, bundle(KEY), policy={"digest": load(policy(1)).digest, "files": other}))


def test_depth_and_size_are_bounded() -> None:
    deep: Any = []
    for _ in range(200):
        deep = [deep]
    assert refused(forged(KEY, bundle(KEY), lock=deep))
    entries = [{"kind": "agent", "value": f"a{index}", "time": 1, "reason": "x" * 200} for index in range(6000)]
    long = forged(KEY, sign_list(KEY, number=1, issued=1, expires=2, revoked=[]).encode(), LIST_TYPE, revoked=entries).decode().strip()
    assert "longer than" in refused(forged(KEY, bundle(KEY), revocations=[long]))


# --- what a home remembers ----------------------------------------------------------------------------------------------------------


def test_no_way_back_to_an_older_bundle(home: Path) -> None:
    trusting(home, KEY.public)
    old, new = bundle(KEY, 1, 1, 2), bundle(KEY, 2, 1)
    assert installing(home, old)
    assert installing(home, new)
    assert not installing(home, new)
    for forget in ((), ("state.db", "state.db-wal", "state.db-shm", "state.gen"), ("policy/support.bundle",), ("index.db",)):
        for name in forget:
            (home / name).unlink(missing_ok=True)
        with pytest.raises(InvalidInput, match="number 1, is older than number 2, which was seen here"):
            installing(home, old)
        with pytest.raises(InvalidInput, match="is older than number 2"):
            Guard.open(put(home / "old.bundle", old), home=home, durability="process")
    with Home(home, durability="process") as opened:
        assert verify(home, opened.keys.log().public).ok


def test_a_fork_of_a_version_is_refused(home: Path) -> None:
    """The same number with other content: whoever signs twice shows different guards different policies."""
    trusting(home, KEY.public)
    installing(home, bundle(KEY, 3, 1))
    before = path_of(home, NAME).read_bytes()
    with pytest.raises(InvalidInput, match="number 3, is another one than the one that was seen here"):
        installing(home, bundle(KEY, 3, 2))
    assert path_of(home, NAME).read_bytes() == before
    with pytest.raises(InvalidInput, match="is another one"):
        Guard.open(put(home / "fork.bundle", bundle(KEY, 3, 2)), home=home, durability="process")


def test_the_list_of_revocations_does_not_go_back_in_a_newer_bundle(home: Path) -> None:
    """The bundle is new, the list in it is old: what was withdrawn would be back."""
    trusting(home, KEY.public)

    def listed(number: int, *agents: str) -> str:
        revoked = [{"kind": "agent", "value": agent} for agent in agents]
        return sign_list(KEY, number=number, issued=1, expires=2**40, revoked=revoked)

    older = listed(7)
    installing(home, bundle(KEY, 1, revocations=[listed(8, "eve")]))
    with pytest.raises(InvalidInput, match=r"the list of revocations of .*, number 7, is older than number 8"):
        installing(home, bundle(KEY, 2, revocations=[older]))
    with pytest.raises(InvalidInput, match="number 8, is another one"):
        installing(home, bundle(KEY, 2, revocations=[listed(8)]))
    for path in home.glob("state.*"):
        path.unlink()
    with pytest.raises(InvalidInput, match="is older than number 8"):
        installing(home, bundle(KEY, 2, revocations=[older]))
    assert installing(home, bundle(KEY, 2, revocations=[listed(9)]))


def test_versions_are_counted_for_each_name_whoever_signs(home: Path) -> None:
    second = LocalKey.generate()
    trusting(home, KEY.public, second.public)
    installing(home, bundle(KEY, 5, 1))
    with pytest.raises(InvalidInput, match="is older than number 5"):
        installing(home, bundle(second, 4, 1))
    with pytest.raises(InvalidInput, match="is another one"):
        installing(home, bundle(second, 5, 1))
    assert installing(home, bundle(second, 6, 1))


def test_a_bundle_for_another_place_is_not_taken(home: Path) -> None:
    """The same authority signs for development and for production: a name is part of what it says."""
    trusting(home, KEY.public, name="production")
    with pytest.raises(InvalidInput, match="the key that signed the bundle 'support' may sign 'production' only"):
        installing(home, bundle(KEY, 9, 1))


def test_an_expired_bundle_is_not_installed_and_the_old_stays(home: Path) -> None:
    trusting(home, KEY.public)
    installing(home, bundle(KEY, 1, 1))
    before, now = path_of(home, NAME).read_bytes(), int(time.time())
    for times in ({"issued": now - 20, "expires": now - 1}, {"issued": now + 3000, "expires": now + 4000}):
        with pytest.raises(InvalidInput, match="the bundle is not good now"):
            installing(home, bundle(KEY, 2, 1, **times))
    assert path_of(home, NAME).read_bytes() == before
    installing(home, bundle(KEY, 2, 1))  # what was refused was not remembered


def test_a_name_leads_nowhere_else(home: Path) -> None:
    trusting(home, KEY.public, name="../trust")
    assert "cannot be the name of a bundle" in refused(forged(KEY, bundle(KEY), name="../trust"))


def test_the_state_of_another_time_is_caught_up_from_the_log(home: Path, tmp_path: Path) -> None:
    """Only the store is put back to an earlier copy of itself."""
    trusting(home, KEY.public)
    installing(home, bundle(KEY, 1, 1))
    for path in home.glob("state.db*"):
        shutil.copy(path, tmp_path)
    with (
        Guard.open(put(home / "b.bundle", bundle(KEY, 2, 1)), home=home, durability="process") as guard,
        guard.task("triage", initiator="user:a"),
    ):
        guard.check(call())
    for path in home.glob("state.*"):
        path.unlink()
    for path in tmp_path.glob("state.db*"):
        shutil.copy(path, home)
    with pytest.raises(InvalidInput, match="is older than number 2"):
        installing(home, bundle(KEY, 1, 1))


def test_an_installation_that_is_cut_off_leaves_a_guard_that_opens(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is written last before a crash: either the old or the new one opens."""
    from agentguard import bundle_home

    trusting(home, KEY.public)
    installing(home, bundle(KEY, 1, 1))
    for step, target in enumerate(("replace_file", "take_over", "detail_of")):
        with monkeypatch.context() as patch:

            def crash(*_: Any, **__: Any) -> Any:
                raise KeyboardInterrupt

            patch.setattr(bundle_home, target, crash)
            with pytest.raises(KeyboardInterrupt):
                installing(home, bundle(KEY, step + 2, 1))
        Guard.open(path_of(home, NAME), home=home, durability="process").close()
    assert b"." in path_of(home, NAME).read_bytes()


def test_others_cannot_read_or_replace_an_installed_bundle(home: Path) -> None:
    trusting(home, KEY.public)
    installing(home, bundle(KEY, 1, 1))
    assert path_of(home, NAME).stat().st_mode & 0o777 == 0o600
    assert path_of(home, NAME).parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("listed", [{}, [{"jwk": {}}], [{"bundle": 1, "jwk": KEY.public.jwk()}], ["support"]])
def test_a_trust_file_that_is_wrong_refuses(home: Path, listed: Any) -> None:
    home.mkdir()
    (home / "trust.json").write_text(json.dumps({"policy_authorities": listed}))
    with pytest.raises(InvalidInput, match="policy_authorities"):
        Home(home)


# --- while calls run ----------------------------------------------------------------------------------------------------------------


def one() -> str:
    return "one"


def two() -> str:
    return "two"


BOTH = "agentguard: 1\nname: p\nagents: {{a: {{tools: {{{tools}}}}}, b: {{tools: {{{tools}}}}}}}\nforbid: [{{tool: {never}}}]\n"
POLICIES = [BOTH.format(tools="one: {}, two: {}", never=never) for never in ("nothing_1", "nothing_2")]
LOCKS = [
    Lock.of({"one": register(one), "two": register(one, name="two")}),  # knows `one`; takes `two` for something else
    Lock.of({"one": register(two, name="one"), "two": register(two)}),
]


def consistent(home: Path, version: int) -> Path:
    """Odd: agent `a` calls `one`, `b` is withdrawn. Even: agent `b` calls `two`, and the key of `a` is that of somebody else. Policy, lock,
    keys and revocations of the two fit only their own."""
    side = 1 - version % 2
    lists = [sign_list(KEY, number=version, issued=1, expires=2**40, revoked=[{"kind": "agent", "value": "b"}] if side == 0 else [])]
    keys = {"agents": {"z": KeyRing(home / "keys").holder("a").public.jwk()}} if side else {}
    accepts = [load(POLICIES[1 - side]).digest]
    data = bundle(KEY, version, text=POLICIES[side], lock=LOCKS[side], keys=keys, revocations=lists, accepts=accepts)
    return put(home / f"{version}.bundle", data)


CALLS = (("a", "one"), ("b", "two"), ("a", "two"), ("b", "one"))
DIGESTS = [load(text).digest for text in POLICIES]


def judged(guard: Guard, task: Task, agent: str, tool: str) -> tuple[int, str]:
    """Make a call: which of the two bundles judged it, and what is wrong with the answer for that one."""
    try:
        decision = guard.check(ToolCall(agent, tool, {}), task=task).decision
    except Denied as error:
        decision = error.decision
    side = DIGESTS.index(decision.policy)
    fits = decision.code == expected(side, agent, tool)
    return side, "" if fits else f"{agent} {tool} under {side}: {decision.code} {decision.explain()}"


def expected(side: int, agent: str, tool: str) -> str | None:
    """The code that a bundle gives a call."""
    if agent != "ab"[side]:
        return "delegation_invalid" if side else "artifact_revoked"
    return None if tool == ("one", "two")[side] else "integrity_failure"


def recorded_apart(guard: Guard) -> bool:
    """Whether each decision names one bundle and only what belongs to it, and is the one that this bundle gives."""
    names = ("policy", "lock", "anchors", "environment")
    installed = {note["detail"]["bundle"]["digest"]: note["detail"] for note in (*records(guard, "open"), *records(guard, "policy"))}
    found = records(guard, "decision")
    fit = all(record["code"] == expected(DIGESTS.index(record["policy"]), record["agent"], record["tool"]) for record in found)
    return fit and all(record[name] == installed[record["bundle"]][name] for record in found for name in names)


@pytest.mark.parametrize(
    ("owner", "step"),
    [
        (Clock, "now"),
        (Authority, "grant"),
        (Enforcement, "proven"),
        (Enforcement, "_bind"),
        (Enforcement, "_governed"),
        (Enforcement, "judged"),
        (Enforcement, "usage"),
        (Enforcement, "_account"),
        (Enforcement, "_permit"),
        (State, "admit"),
        (Recording, "forms"),
        (Recording, "pend"),
    ],
)
@pytest.mark.parametrize("after", [False, True])
def test_a_reload_at_each_step_of_a_check(home: Path, owner: type, step: str, after: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Just before or just after every step, another bundle comes into force; once, and at each try again."""
    trusting(home, KEY.public)
    bundles = (consistent(home, version) for version in range(1, 60))
    run, busy, wrong, reloads = getattr(owner, step), threading.Event(), [], 0
    with Guard.open(next(bundles), home=home, durability="process") as guard:
        guard.tool(one)
        guard.tool(two)
        tasks = {agent: guard.task(agent, initiator="user:x").issue() for agent in "ab"}

        def reload() -> None:
            nonlocal reloads
            if left and not busy.is_set():
                busy.set()
                left.pop()
                guard.reload(next(bundles))
                reloads += 1
                busy.clear()

        def interrupted(*args: Any, **options: Any) -> Any:
            if not after:
                reload()
            answer = run(*args, **options)
            if after:
                reload()
            return answer

        left: list[None] = []
        monkeypatch.setattr(owner, step, interrupted)
        for agent, tool in CALLS:
            left = [None] * (1 + (agent == "b"))
            wrong.append(judged(guard, tasks[agent], agent, tool)[1])
        left = []
        monkeypatch.undo()
        assert reloads >= 2
        assert recorded_apart(guard)
    assert not any(wrong), wrong


def test_no_check_ever_sees_parts_of_two(home: Path) -> None:
    """Threads check while another one reloads as fast as it can: each decision is one that the bundle it names would make."""
    trusting(home, KEY.public)
    bundles = [consistent(home, version) for version in range(1, 41)]
    wrong: list[str] = []
    allowed = [0, 0]
    switches = sys.getswitchinterval()
    with Guard.open(bundles[0], home=home, durability="process") as guard:
        guard.tool(one)
        guard.tool(two)
        tasks = {agent: guard.task(agent, initiator="user:x").issue() for agent in "ab"}
        over = threading.Event()

        def hammer() -> None:
            while not over.is_set():
                for agent, tool in CALLS:
                    side, what = judged(guard, tasks[agent], agent, tool)
                    allowed[side] += (agent, tool) == CALLS[side] and not what
                    if what:
                        wrong.append(what)

        threads = [threading.Thread(target=hammer) for _ in range(4)]
        sys.setswitchinterval(1e-5)
        for thread in threads:
            thread.start()
        try:
            for path in bundles[1:]:
                guard.reload(path)
                time.sleep(0.005)
        finally:
            over.set()
            for thread in threads:
                thread.join()
            sys.setswitchinterval(switches)
        assert recorded_apart(guard)
    assert not wrong, wrong[:3]
    assert min(allowed) > 0


def test_after_a_reload_nothing_is_permitted_by_the_old(home: Path) -> None:
    """Whoever sees `reload` return may rely on it: no permit comes from the old policy any more, however long a check was under way."""
    trusting(home, KEY.public)
    with Guard.open(put(home / "1.bundle", bundle(KEY, 1, 1)), home=home, durability="process") as guard:
        guard.tool(echo)
        digest = load(policy(1)).digest
        with guard.task("triage", initiator="user:x") as task:
            state, reached, go = guard.home.state, threading.Event(), threading.Event()
            admit = state.admit
            answers: list[Any] = []

            def slow(self: Any, request: Any) -> Any:
                reached.set()
                go.wait(10)
                return admit(request)

            def check() -> None:
                try:
                    answers.append(guard.check(call(), task=task))
                except Denied as error:
                    answers.append(error.decision.code)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(type(state), "admit", slow)
                thread = threading.Thread(target=check)
                thread.start()
                reached.wait(10)
                guard.reload(put(home / "2.bundle", bundle(KEY, 2, 2, accepts=[digest])))
                go.set()
                thread.join()
            assert answers == ["argument_not_allowed"]


def echo(x: int) -> int:
    return x


def test_a_fork_takes_the_bundle_along(home: Path) -> None:
    trusting(home, KEY.public)
    with Guard.open(put(home / "1.bundle", bundle(KEY, 1, 1)), home=home, durability="process") as guard:
        guard.tool(echo)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                guard.reload(put(home / "2.bundle", bundle(KEY, 2, 2)))
            except Exception:
                status = 0  # a log of the parent is not written by the child: no evidence, no reload
            else:
                status = 0 if guard.policy.digest == load(policy(2)).digest else 1
            os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert guard.policy.digest == load(policy(1)).digest
