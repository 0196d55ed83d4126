"""The format of signed bundles and of lists of revocations: what is read, and each thing that is refused."""

from __future__ import annotations

from typing import Any

import pytest

from agentguard.artifacts.revocation_list import LIST_TYPE, read_list, sign_list
from agentguard.bundle import MAX_BUNDLE, is_bundle, read_bundle, sign_bundle
from agentguard.bundle_home import in_time
from agentguard.decision import Code
from agentguard.errors import InvalidInput
from agentguard.home import Trust
from agentguard.keys import LocalKey
from agentguard.policy import load
from agentguard.policy.imports import File
from agentguard.tools.integrity import Lock, register
from support.bundles import bundle, claims_of, forged, policy

KEY, ISSUER, OTHER = LocalKey.generate(), LocalKey.generate(), LocalKey.generate()
TRUST = Trust.of((), {}, None, (("support", KEY.public), ("elsewhere", OTHER.public)))
KEYS = {"anchors": [{"iss": ISSUER.public.uri, "jwk": ISSUER.public.jwk()}], "agents": {"far": OTHER.public.jwk()}}


def echo(x: int) -> int:
    return x


def revoked(signer: LocalKey, number: int = 1, issued: int = 100, expires: int = 200, *entries: tuple[str, str]) -> str:
    return sign_list(
        signer, number=number, issued=issued, expires=expires, revoked=[{"kind": kind, "value": value} for kind, value in entries]
    )


def refused(data: bytes, trust: Trust = TRUST) -> str:
    with pytest.raises(InvalidInput) as caught:
        read_bundle(data, trust, place="b")
    return str(caught.value)


def test_a_bundle_says_what_was_signed() -> None:
    lock = Lock.of({"echo": register(echo)})
    old = load(policy(1)).digest
    lists = [revoked(KEY, 3), revoked(ISSUER, 9)]
    data = bundle(KEY, 7, 1, 2, lock=lock, keys=KEYS, revocations=lists, accepts=[old], issued=1000, expires=2000)
    assert is_bundle(data)
    assert data.endswith(b"\n")
    found = read_bundle(data, TRUST)
    assert (found.name, found.version, found.issued, found.expires) == ("support", 7, 1000, 2000)
    assert found.policy.digest == load(policy(1, 2)).digest
    assert found.policy.agents["triage"].place == "support@7/support.yaml:4"
    assert found.lock is not None
    assert found.lock.digest == lock.digest
    assert found.trust.agents == {OTHER.public.thumbprint(): "far"}
    assert ISSUER.public in found.trust.anchors.by_key
    assert found.trust.authorities == TRUST.authorities
    assert [(one.by, one.issuer, one.number) for one in found.lists] == [
        (KEY.public.thumbprint(), None, 3),
        (ISSUER.public.thumbprint(), ISSUER.public.thumbprint(), 9),
    ]
    assert found.accepts == {old}
    assert found.signer == KEY.public.thumbprint()
    assert read_bundle(data.removesuffix(b"\n"), TRUST).digest == found.digest
    assert read_bundle(data, Trust.of((), {}), signer=KEY.public).name == "support"


def test_imports_come_along() -> None:
    files = [
        File("main.yaml", "agentguard: 1\nname: m\nimport: [shared/base.yaml]\nagents: {a: {groups: [g]}}\n"),
        File("shared/base.yaml", "agentguard: 1\ngroups: {g: {tools: {t: {}}}}\n"),
    ]
    data = sign_bundle(KEY, files, name="support", version=1, issued=1, expires=2)
    assert read_bundle(data, TRUST).policy.agents["a"].tools["t"].place == "support@1/shared/base.yaml:2"


@pytest.mark.parametrize(
    ("claims", "message"),
    [
        ({"agentguard": 2}, "b: the bundle is of another version of the format than 1"),
        ({"agentguard": True}, "b: the bundle is of another version of the format than 1"),
        ({"more": 1}, "b: a bundle has the members accepts, agentguard, expires, issued, keys, lock, name, policy, revocations, version"),
        ({"accepts": ...}, "b: a bundle has the members"),
        ({"name": "Support"}, "b: 'Support' cannot be the name of a bundle (1 to 64 of a-z"),
        ({"name": "../support"}, "cannot be the name of a bundle"),
        ({"name": 5}, "b: 5 cannot be the name of a bundle"),
        (
            {"name": "elsewhere"},
            "b: the key that signed the bundle 'elsewhere' may sign 'support' only",
        ),
        ({"version": 0}, "b: version must be a whole number from 1 to 2^53, found 0"),
        ({"version": -1}, "b: version must be a whole number"),
        ({"version": True}, "b: version must be a whole number from 1 to 2^53, found True"),
        ({"version": 1.5}, "b: version must be a whole number"),
        ({"version": 2**53 + 2}, "b: version must be a whole number"),
        ({"version": "7"}, "b: version must be a whole number from 1 to 2^53, found '7'"),
        ({"issued": None}, "b: issued must be a whole number"),
        ({"expires": 0}, "b: expires must be a whole number"),
        ({"issued": 2000, "expires": 2000}, "b: the bundle expires before it is issued"),
        ({"lock": {}}, "b: lock: not a tool lock"),
        ({"lock": "x"}, "b: lock: not a tool lock"),
        ({"keys": []}, "b: keys: the trust file must be an object"),
        ({"keys": {"anchors": {}}}, "b: keys: anchors must be an array"),
        ({"keys": {"policy_authorities": []}}, "b: keys: a bundle does not say who signs bundles"),
        ({"keys": {"approvers": {}}}, "b: keys: a bundle does not say who approves"),
        ({"revocations": {}}, "b: revocations must be an array of signed lists"),
        ({"revocations": [7]}, "b: revocations must be an array of signed lists"),
        ({"revocations": ["x"]}, "b: revocations[0]: not a compact JWS"),
        ({"revocations": ["x"] * 65}, "b: revocations has more than 64 lists"),
        ({"accepts": "sha256:x"}, "b: accepts must be an array of digests"),
        ({"accepts": ["sha256:" + "A" * 64]}, "b: accepts must be an array of digests"),
        ({"accepts": ["sha256:" + "0" * 64] * 65}, "b: accepts has more than 64 digests"),
        ({"policy": "agentguard: 1\n"}, "b: policy has the members digest and files"),
        ({"policy": {"digest": "x", "files": {}}}, "b: policy has the members digest and files"),
        ({"policy": {"digest": "x", "files": []}}, "at least one file"),
        ({"policy": {"digest": "x", "files": [{"name": "a"}]}}, "b: policy.files[0] has the members name and text"),
        ({"policy": {"digest": "x", "files": [{"name": "a", "text": 1}]}}, "b: policy.files[0] has the members name and text"),
        ({"policy": {"digest": "x", "files": [{"name": "a", "text": "agentguard: 2\n"}]}}, "b: support@1/a:1:1: the key 'name' is missing"),
        ({"policy": {"digest": "sha256:x", "files": [{"name": "a", "text": policy(1)}]}}, "not the one that was signed, 'sha256:x'"),
    ],
)
def test_a_bundle_is_read_strictly(claims: dict[str, Any], message: str) -> None:
    assert message in refused(forged(KEY, bundle(KEY), **claims))


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\n", b"eyJ", b"a.b", b"a.b.c.d", b"\xff.\xff.\xff", b"eyJ.eyJ.eyJ",
        bundle(KEY) + b"\n", b" " + bundle(KEY), bundle(KEY)[:-2], bundle(KEY)[1:],
    ],
    ids=range(11),
)  # fmt: skip
def test_what_is_no_bundle_is_refused(data: bytes) -> None:
    assert refused(data).startswith("b: ")


def test_a_bundle_is_bounded() -> None:
    assert refused(b"e" * (MAX_BUNDLE + 1)) == f"b: the bundle is larger than {MAX_BUNDLE} bytes"


def test_who_may_sign_is_said_by_the_home() -> None:
    data = bundle(KEY)
    assert "nobody is trusted to sign a policy here" in refused(data, Trust.of((), {}))
    assert "not signed by a key that may sign a policy here" in refused(bundle(LocalKey.generate()))
    assert "may sign 'elsewhere' only" in refused(bundle(OTHER))
    with pytest.raises(InvalidInput, match="not signed by the key"):
        read_bundle(data, TRUST, signer=OTHER.public)


def test_a_bundle_cannot_give_a_key_another_name() -> None:
    trust = Trust.of((), {OTHER.public.thumbprint(): "near"}, None, TRUST.authorities)
    assert "the key of far is that of near in the trust file" in refused(bundle(KEY, keys=KEYS), trust)


@pytest.mark.parametrize(
    "claims", [{"version": 0}, {"version": 2**53 + 1}, {"name": "x y"}, {"expires": 5}, {"accepts": ["x"]}, {"keys": {"x": 1}}]
)
def test_nothing_is_signed_that_nobody_could_read(claims: dict[str, Any]) -> None:
    options: dict[str, Any] = {"name": "support", "version": 1, "issued": 10, "expires": 20, **claims}
    with pytest.raises(InvalidInput):
        sign_bundle(KEY, [("p.yaml", policy(1))], **options)
    with pytest.raises(InvalidInput):
        sign_bundle(KEY, [("p.yaml", "agentguard: 1\n")], name="support", version=1, issued=10, expires=20)


def test_the_times_of_a_bundle() -> None:
    found = read_bundle(bundle(KEY, issued=1000, expires=2000), TRUST)
    assert [in_time(found, now) for now in (969, 970, 1999, 2000)] == ["it begins in 31 s", "", "", "it ended 0 s ago"]


def test_a_bundle_of_one_key_and_two_names() -> None:
    trust = Trust.of((), {}, None, (("a", KEY.public), ("support", KEY.public)))
    assert read_bundle(bundle(KEY), trust).name == "support"
    assert "may sign 'a' and 'support' only" in refused(bundle(KEY, name="c"), trust)


# --- lists of revocations -----------------------------------------------------------------------------------------------------------

SIGNERS = {KEY.public.thumbprint(): (KEY.public, True), ISSUER.public.thumbprint(): (ISSUER.public, False)}
CHAIN = {"links": ("l0", "l1"), "keys": (ISSUER.public.thumbprint(), "k0", "k1"), "agents": ("a", "b"), "initiator": "user:x"}


def code(token: str, now: int = 150, **chain: Any) -> str | None:
    given: dict[str, Any] = {**CHAIN, "task": f"{ISSUER.public.thumbprint()}/t1", **chain}
    reason = read_list(token, SIGNERS).judge(now=now, **given)
    return str(reason.code) if reason is not None else None


@pytest.mark.parametrize("entry", [("all", ""), ("task", "t1"), ("agent", "b"), ("initiator", "user:x"), ("key", "k1"), ("link", "l0")])
def test_an_issuer_withdraws_what_it_issued_and_nothing_else(entry: tuple[str, str]) -> None:
    token = revoked(ISSUER, 1, 100, 200, entry)
    assert code(token) == "artifact_revoked"
    assert code(token, keys=("another", "k0", "k1")) is None


def test_the_authority_withdraws_from_everybody() -> None:
    token = revoked(KEY, 1, 100, 200, ("agent", "b"))
    assert code(token) == "artifact_revoked"
    assert code(token, keys=("another", "k0", "k1")) == "artifact_revoked"
    assert code(token, agents=("a",)) is None
    ours = revoked(KEY, 1, 100, 200, ("task", f"{ISSUER.public.thumbprint()}/t1"))
    assert code(ours) == "artifact_revoked"


def test_a_list_that_ended_says_nothing_any_more() -> None:
    token = revoked(ISSUER, 4, 100, 200, ("agent", "c"))
    assert [code(token, now) for now in (99, 199, 200, 10**9)] == [None, None, "revocation_stale", "revocation_stale"]
    assert code(token, 10**9, keys=("another",)) is None
    assert code(revoked(KEY, 4), 200, keys=("another",)) == "revocation_stale"
    assert code(revoked(ISSUER, 4, 100, 200, ("agent", "b")), 10**9) == "artifact_revoked"  # what is known is told
    reason = read_list(token, SIGNERS).judge(now=260, task="t", **CHAIN)  # type: ignore[arg-type]
    assert reason is not None
    assert reason.code is Code.REVOCATION_STALE
    assert reason.found.startswith("list 4 of ")
    assert reason.found.endswith("…, which ended 60 s ago")


@pytest.mark.parametrize(
    ("claims", "message"),
    [
        ({"agentguard": 2}, "another version than 1"),
        ({"by": "x"}, "names another signer than its key"),
        ({"by": KEY.public.thumbprint()}, "names another signer than its key"),
        ({"more": 1}, "has the members agentguard, by, expires, issued, number, revoked"),
        ({"number": 0}, "number must be a whole number from 1 to 2^53, found 0"),
        ({"number": True}, "number must be a whole number"),
        ({"expires": 100}, "expires before it is issued"),
        ({"revoked": {}}, "revoked must be an array"),
        ({"revoked": [[]]}, "revoked[0] has the members kind, reason, time, value"),
        ({"revoked": [{"kind": "agent", "value": "a", "time": 1}]}, "revoked[0] has the members"),
        ({"revoked": [{"kind": "agnet", "value": "a", "time": 1, "reason": ""}]}, "revoked[0]: 'agnet' cannot be revoked"),
        ({"revoked": [{"kind": "agent", "value": "", "time": 1, "reason": ""}]}, "revoked[0]: which agent?"),
        ({"revoked": [{"kind": "all", "value": "x", "time": 1, "reason": ""}]}, "revoked[0]: `all` takes no value"),
        ({"revoked": [{"kind": "agent", "value": "a", "time": 0, "reason": ""}]}, "revoked[0]: time must be a whole number"),
        ({"revoked": [{"kind": "agent", "value": "a", "time": 1, "reason": 5}]}, "revoked[0]: the reason must be text"),
        ({"revoked": [{"kind": "agent", "value": "a", "time": 1, "reason": ""}] * 2}, "revoked[1]: the same stands there already"),
    ],
)
def test_a_list_is_read_strictly(claims: dict[str, Any], message: str) -> None:
    token = forged(ISSUER, revoked(ISSUER).encode(), LIST_TYPE, **claims).decode().strip()
    with pytest.raises(InvalidInput) as caught:
        read_list(token, SIGNERS)
    assert message in str(caught.value)


def test_a_bundle_carries_lists_of_those_whom_it_names() -> None:
    assert "revocations[0]: the list of revocations is not signed by a key that may" in refused(
        forged(KEY, bundle(KEY), revocations=[revoked(ISSUER)])
    )
    twice = [revoked(KEY, 1), revoked(KEY, 2)]
    assert "revocations holds two lists of one signer" in refused(forged(KEY, bundle(KEY), revocations=twice))
    assert claims_of(bundle(KEY, revocations=[revoked(KEY)]))["revocations"] == [revoked(KEY)]
