"""Guards under signed bundles, and reloading: what takes effect at once, what stays, and what is remembered."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentguard import Guard
from agentguard.artifacts.revocation_list import sign_list
from agentguard.decision import Code
from agentguard.errors import EvidenceUnavailable, InvalidInput
from agentguard.keys import KeyRing, LocalKey
from agentguard.policy import load
from agentguard.tools.integrity import Lock, register
from support.bundles import bundle, policy, put, trusting
from support.guarded import call, denied, records

KEY = LocalKey.generate()


def echo(x: int) -> int:
    return x


def nothing() -> None:
    return None


def opened(home: Path, data: bytes, **options: Any) -> Guard:
    """A guard on a home that trusts the authority, under a bundle."""
    if not (home / "trust.json").exists():
        trusting(home, KEY.public)
    guard = Guard.open(put(home / "b.bundle", data), home=home, durability="process", **options)
    guard.tool(echo)
    return guard


def reload(guard: Guard, data: bytes) -> None:
    guard.reload(put(guard.home.path / "b.bundle", data))


@pytest.fixture
def guard(home: Path) -> Iterator[Guard]:
    with opened(home, bundle(KEY, 1, 1)) as guard:
        yield guard


def digest(*allowed: int) -> str:
    return load(policy(*allowed)).digest


def test_a_guard_opens_on_a_bundle(guard: Guard) -> None:
    with guard.task("triage", initiator="user:alice"):
        assert guard.check(call(arguments={"x": 1})).run(echo) == 1
        refusal = denied("argument_not_allowed", guard.check, call(arguments={"x": 2}))
    assert refusal.decision.reasons[0].place == "support@1/support.yaml:5"
    (note,) = records(guard, "open")
    found = records(guard, "decision")[-1]
    assert note["detail"]["bundle"]["version"] == 1
    assert note["detail"]["bundle"]["digest"] == found["bundle"]
    assert guard.home.objects.get(found["bundle"]) == (guard.home.path / "b.bundle").read_bytes().removesuffix(b"\n")


def test_a_plain_policy_leaves_no_bundle_in_the_record(home: Path) -> None:
    with Guard.open(policy(1), home=home, durability="process") as guard, guard.task("triage", initiator="user:alice"):
        guard.check(call())
        assert records(guard, "decision")[0]["bundle"] is None


def test_reloading_changes_what_is_allowed_and_keeps_tools(guard: Guard) -> None:
    with guard.task("triage", initiator="user:alice"):
        guard.check(call(arguments={"x": 1}))
    reload(guard, bundle(KEY, 2, 2))
    assert guard.policy.digest == digest(2)
    assert "echo" in guard.tools
    with guard.task("triage", initiator="user:alice"):
        denied("argument_not_allowed", guard.check, call(arguments={"x": 1}))
        assert guard.check(call(arguments={"x": 2})).run(echo) == 2
    (note,) = records(guard, "policy")
    assert note["detail"]["action"] == "reload"
    assert note["detail"]["policy"] == digest(2)
    assert note["detail"]["bundle"]["version"] == 2


async def test_the_async_path_is_reloaded_too(guard: Guard) -> None:
    reload(guard, bundle(KEY, 2, 2))
    async with guard.task("triage", initiator="user:alice"):
        assert await (await guard.acheck(call(arguments={"x": 2}))).arun(echo) == 2


def test_artifacts_of_an_older_policy_are_refused_unless_it_is_accepted(guard: Guard) -> None:
    with guard.task("triage", initiator="user:alice") as task:
        reload(guard, bundle(KEY, 2, 1, 2))
        refusal = denied("policy_mismatch", guard.check, call(arguments={"x": 1}))
        assert refusal.decision.policy == digest(1, 2)
        denied("policy_mismatch", task.delegate("helper").start)
        reload(guard, bundle(KEY, 3, 1, 2, accepts=[digest(1)]))
        assert guard.check(call(arguments={"x": 2})).run(echo) == 2  # by the new rules
        task.delegate("helper").issue()
        reload(guard, bundle(KEY, 4, 2, accepts=[digest(1)]))
        denied("argument_not_allowed", guard.check, call(arguments={"x": 1}))
        reload(guard, bundle(KEY, 5, 2, accepts=[digest(1, 2)]))
        denied("policy_mismatch", guard.check, call(arguments={"x": 2}))


def test_a_permit_that_is_out_keeps_what_was_checked(guard: Guard) -> None:
    with guard.task("triage", initiator="user:alice"):
        permit = guard.check(call(arguments={"x": 1}))
        reload(guard, bundle(KEY, 2, 2))
        assert permit.run(echo) == 1
    (decision,), (outcome,) = records(guard, "decision"), records(guard, "outcome")
    assert (decision["policy"], outcome["status"]) == (digest(1), "ok")


def test_nothing_that_was_remembered_of_a_task_outlives_the_policy(home: Path, tmp_path: Path) -> None:
    """Forms of records, counters and governed paths are worked out once a task: under the new policy anew."""
    text = "agentguard: 1\nname: p\nagents: {{a: {{tools: {{read: {{path: {rule}}}}}{budget}}}}}\n"
    before = text.format(rule="any", budget="")
    after = text.format(rule=f"{{path: {tmp_path}/in}}", budget=", budgets: [{calls: 1, per: task}]")
    (tmp_path / "in").mkdir()
    (tmp_path / "out").write_text("secret")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "out")
    (tmp_path / "in" / "file").write_text("x")

    def read(path: str) -> str:
        return Path(path).read_text()

    trusting(home, KEY.public)
    with opened(home, bundle(KEY, 1, text=before)) as guard:
        guard.tool(read)
        with guard.task("a", initiator="user:alice"):
            link, file = ({"path": f"{tmp_path}/in/{name}"} for name in ("link", "file"))
            for _ in range(3):
                guard.check(call("read", link, "a")).run(read)
            reload(guard, bundle(KEY, 2, text=after, accepts=[load(before).digest]))
            denied("argument_not_allowed", guard.check, call("read", link, "a"))
            guard.check(call("read", file, "a")).run(read)
            denied("budget_exhausted", guard.check, call("read", file, "a"))
        found = records(guard, "decision")
    assert [record["policy"] for record in found] == [load(before).digest] * 3 + [load(after).digest] * 3
    assert len({record["bundle"] for record in found[:3]}) == len({record["bundle"] for record in found[3:]}) == 1
    assert found[0]["bundle"] != found[3]["bundle"]


def test_the_lock_comes_with_the_bundle(guard: Guard) -> None:
    good = Lock.of({"echo": register(echo)})
    wrong = Lock.of({"echo": register(nothing, name="echo")})
    reload(guard, bundle(KEY, 2, 1, lock=good))
    assert guard.environment["tool_lock"] == good.digest
    with guard.task("triage", initiator="user:alice"):
        guard.check(call(arguments={"x": 1}))
        reload(guard, bundle(KEY, 3, 1, lock=wrong))
        denied("integrity_failure", guard.check, call(arguments={"x": 1}))
        reload(guard, bundle(KEY, 4, 1))
        assert "tool_lock" not in guard.environment
        guard.check(call(arguments={"x": 1}))
    assert [record["lock"] for record in records(guard, "decision")] == [good.digest, wrong.digest, None]


def test_keys_come_with_the_bundle(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "far" / "keys")
    issuer = ring.issuer().public
    keys = {"anchors": [{"iss": issuer.uri, "jwk": issuer.jwk()}], "agents": {"triage": ring.holder("triage").public.jwk()}}
    with (
        Guard.open(policy(1), home=tmp_path / "far", durability="process") as far,
        opened(tmp_path / "home", bundle(KEY, 1, 1)) as guard,
        far.task("triage", initiator="user:alice") as task,
    ):
        chain = task.presentation()
        denied("issuer_untrusted", guard.check, call(), task=guard.accept(chain, key=ring.holder("triage")))
        reload(guard, bundle(KEY, 2, 1, keys=keys))
        foreign = guard.accept(chain, key=ring.holder("triage"))
        assert guard.check(call(), task=foreign).decision.agent == "triage"
        reload(guard, bundle(KEY, 3, 1, keys={**keys, "agents": {"helper": ring.holder("triage").public.jwk()}}))
        denied("delegation_invalid", guard.check, call(), task=foreign)
        reload(guard, bundle(KEY, 4, 1))
        denied("issuer_untrusted", guard.check, call(), task=foreign)


def test_a_bundle_that_is_not_good_now_denies_every_call(home: Path) -> None:
    now = int(time.time())
    with opened(home, bundle(KEY, 1, 1, issued=now - 20, expires=now - 10)) as guard, guard.task("triage", initiator="user:alice") as task:
        refusal = denied("policy_mismatch", guard.check, call())
        assert refusal.decision.reasons[0].subject == "support@1"
        assert "agentguard policy fetch" in refusal.decision.explain()
        denied("policy_mismatch", task.delegate("helper").start)
        reload(guard, bundle(KEY, 2, 1, issued=now + 3000, expires=now + 4000))
        denied("policy_mismatch", guard.check, call())
        reload(guard, bundle(KEY, 3, 1, issued=now + 20, expires=now + 4000))
        guard.check(call())


def test_a_bundle_ends_while_the_guard_runs(guard: Guard) -> None:
    with guard.task("triage", initiator="user:alice", ttl="2h"):
        guard.check(call())
        guard._enforcement.clock._base += 3700 * 10**9  # an hour and more passes
        denied("policy_mismatch", guard.check, call())


def test_lists_of_revocations_come_with_the_bundle(guard: Guard) -> None:
    now = int(time.time())

    def listed(number: int, expires: int = now + 60, *agents: str) -> str:
        entries = [{"kind": "agent", "value": agent, "reason": "lost"} for agent in agents]
        return sign_list(KEY, number=number, issued=now - 100, expires=expires, revoked=entries)

    with guard.task("triage", initiator="user:alice"):
        reload(guard, bundle(KEY, 2, 1, revocations=[listed(1)]))
        guard.check(call())
        reload(guard, bundle(KEY, 3, 1, revocations=[listed(2, now + 60, "triage")]))
        refusal = denied("artifact_revoked", guard.check, call())
        assert "the agent triage was revoked by the policy authority: lost" in refusal.decision.explain()
        reload(guard, bundle(KEY, 4, 1, revocations=[listed(3, now - 1)]))
        denied("revocation_stale", guard.check, call())
        reload(guard, bundle(KEY, 5, 1))
        guard.check(call())


def test_the_list_of_the_local_issuer_is_never_stale(guard: Guard) -> None:
    ring = guard.home.keys
    issuer = ring.issuer()
    keys = {"anchors": [{"iss": issuer.public.uri, "jwk": issuer.public.jwk()}]}
    old = sign_list(issuer, number=1, issued=1, expires=2, revoked=[])
    reload(guard, bundle(KEY, 2, 1, keys=keys, revocations=[old]))
    with guard.task("triage", initiator="user:alice"):
        guard.check(call())


@pytest.mark.parametrize("broken", ["not a policy\n", "agentguard: 1\n", "/nowhere/policy.yaml"])
def test_a_reload_that_fails_leaves_the_old(guard: Guard, broken: str) -> None:
    with guard.task("triage", initiator="user:alice"):
        with pytest.raises(InvalidInput):
            guard.reload(broken)
        guard.check(call())
    assert guard.policy.digest == digest(1)
    assert not records(guard, "policy")


def test_nothing_unsigned_and_no_other_bundle_follows(guard: Guard) -> None:
    home = guard.home.path
    with pytest.raises(InvalidInput, match="runs under a signed bundle, and this is not one"):
        guard.reload(policy(1))
    both = [{"bundle": name, "jwk": KEY.public.jwk()} for name in ("support", "other")]
    (home / "trust.json").write_text(json.dumps({"policy_authorities": both}), "utf-8")
    with pytest.raises(InvalidInput, match="runs under the bundle support, and this is other"):
        reload(guard, bundle(KEY, 9, 1, name="other"))
    (home / "trust.json").write_text("{}", "utf-8")
    with pytest.raises(InvalidInput, match="nobody is trusted to sign a policy here"):
        reload(guard, bundle(KEY, 9, 1))
    assert guard.policy.digest == digest(1)


def test_a_plain_policy_is_reloaded_and_may_become_a_bundle(home: Path, tmp_path: Path) -> None:
    trusting(home, KEY.public)
    with Guard.open(policy(1), home=home, durability="process") as guard:
        guard.tool(echo)
        guard.reload(policy(2))
        with guard.task("triage", initiator="user:alice"):
            denied("argument_not_allowed", guard.check, call(arguments={"x": 1}))
            guard.reload(load(policy(2)))
            guard.check(call(arguments={"x": 2}))
        reload(guard, bundle(KEY, 1, 1))
        with guard.task("triage", initiator="user:alice"):
            guard.check(call(arguments={"x": 1}))


def test_a_reload_comes_between_the_decision_and_the_admission(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was admitted under the old policy is given back, and the call is judged by the new one."""
    admit = guard.home.state.admit
    ran = []

    def slow(self: Any, request: Any) -> Any:
        result = admit(request)
        if not ran:
            ran.append(reload(guard, bundle(KEY, 2, 2, accepts=[digest(1)])))
        return result

    with guard.task("triage", initiator="user:alice"):
        monkeypatch.setattr(type(guard.home.state), "admit", slow)
        denied("argument_not_allowed", guard.check, call(arguments={"x": 1}, call_id="c1"))
        assert guard.check(call(arguments={"x": 2}, call_id="c1")).run(echo) == 2  # the call id was given back
    assert [record["policy"] for record in records(guard, "decision")] == [digest(2)] * 2


def test_no_evidence_no_reload(guard: Guard) -> None:
    guard.poison("the disk is gone")
    with pytest.raises(EvidenceUnavailable):
        reload(guard, bundle(KEY, 2, 2))
    assert guard.policy.digest == digest(1)


def test_the_newest_version_is_remembered_by_state_and_log(home: Path) -> None:
    opened(home, bundle(KEY, 5, 1)).close()
    for _ in range(2):
        with pytest.raises(InvalidInput, match=r"support@4: the bundle support, number 4, is older than number 5, which was seen here"):
            opened(home, bundle(KEY, 4, 1))
        for path in home.glob("state.*"):
            path.unlink()  # the second time it is the log that remembers
    with opened(home, bundle(KEY, 6, 1)) as guard, pytest.raises(InvalidInput, match="number 5, is older than number 6"):
        reload(guard, bundle(KEY, 5, 1))


def test_the_decision_alone_says_whether_a_bundle_is_good(guard: Guard) -> None:
    """No wall clock: the same facts and the same `now` give the same answer."""
    from agentguard.decide import decide
    from agentguard.premises import Binding, Terms

    with guard.task("triage", initiator="user:alice") as task:
        snapshot = guard._enforcement.in_force.fresh()
        grant, now = snapshot.authority.grant(task), int(time.time())
        ours = call(arguments={"x": 1})
        for terms, expected in [
            (None, None),
            (Terms("b@1", now, now + 1), None),
            (Terms("b@1", now - 5, now), Code.POLICY_MISMATCH),
            (Terms("b@1", now + 30, now + 60), None),
            (Terms("b@1", now + 31, now + 60), Code.POLICY_MISMATCH),
        ]:
            facts = type(snapshot.facts)(snapshot.facts.environment, snapshot.facts.revocations, snapshot.facts.limits, terms=terms)
            assert decide(ours, Binding(ours.arguments), grant, guard.policy, facts, now).code is expected


def test_a_copy_of_a_home_keeps_its_memory(home: Path, tmp_path: Path) -> None:
    opened(home, bundle(KEY, 5, 1)).close()
    shutil.copytree(home, tmp_path / "copy")
    with pytest.raises(InvalidInput, match="older than number 5"):
        opened(tmp_path / "copy", bundle(KEY, 3, 1))
