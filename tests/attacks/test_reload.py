"""Reloading while calls run: no check sees parts of two policies, and nothing is permitted by the old one afterwards."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from agentguard import Denied, Guard, ToolCall
from agentguard.artifacts.revocation_list import sign_list
from agentguard.authority import Authority
from agentguard.enforcement import Enforcement
from agentguard.environment import Clock
from agentguard.keys import KeyRing, LocalKey
from agentguard.policy import load
from agentguard.recording import Recording
from agentguard.state.store import State
from agentguard.task import Task
from agentguard.tools.integrity import Lock, register
from support.bundles import bundle, policy, put, trusting
from support.guarded import call, records

KEY = LocalKey.generate()


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
