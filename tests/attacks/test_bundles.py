"""Ways around signed bundles: tampering, keys of others, rollback, forks, swapped names, and reloading while calls run."""

from __future__ import annotations

import json
import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from agentguard import Guard, control
from agentguard.artifacts import jws
from agentguard.artifacts import making as artifact
from agentguard.artifacts.revocation_list import LIST_TYPE, sign_list
from agentguard.bundle import BUNDLE_TYPE, read_bundle
from agentguard.bundle_home import install, path_of
from agentguard.canonical import b64url, jcs
from agentguard.environment import Clock
from agentguard.errors import InvalidInput
from agentguard.home import Home, Trust
from agentguard.keys import LocalKey
from agentguard.ledger import Ledger
from agentguard.log import verify
from agentguard.policy import load
from support.bundles import NAME, bundle, claims_of, forged, policy, put, trusting
from support.guarded import call

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
