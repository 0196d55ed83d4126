"""A trusted foreign issuer names its tasks as it likes; it cannot reach into the tasks of others."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from agentguard import Denied, Guard, ToolCall
from agentguard.artifacts.link import Initiator
from agentguard.artifacts.making import Profile, issue
from agentguard.keys import LocalKey
from agentguard.policy import load

POLICY = """
agentguard: 1
name: issuers
agents: {triage: {tools: {echo: {x: any}}, budgets: [{calls: 2, per: task}]}}
"""


def test_two_issuers_with_one_task_id_share_neither_budget_nor_call_ids(home: Path) -> None:
    policy = load(POLICY)
    now = int(time.time())
    issuers, holder = (LocalKey.generate(), LocalKey.generate()), LocalKey.generate()
    home.mkdir()
    anchors = [{"iss": f"https://issuer{index}.example", "jwk": key.public.jwk()} for index, key in enumerate(issuers)]
    (home / "trust.json").write_text(json.dumps({"anchors": anchors, "agents": {"triage": holder.public.jwk()}}))
    with Guard.open(policy, home=home, durability="process") as guard:
        local = guard.task("triage", initiator="user:alice").issue()
        tasks = [
            guard.accept(
                {
                    "aat_chain": [
                        issue(
                            signer=key,
                            iss=anchor["iss"],
                            holder=holder.public,
                            tools=policy.default_scope("triage"),
                            now=now,
                            ttl=600,
                            max_depth=4,
                            profile=Profile(agent="triage", initiator=Initiator("user:bob"), task=local.id, policy=policy.digest),
                        )
                    ]
                },
                holder,
            )
            for key, anchor in zip(issuers, anchors, strict=True)
        ]
        for task in (*tasks, local):
            for call_id in ("c1", "c2"):
                guard.check(ToolCall("triage", "echo", {"x": 1}, call_id), task=task)
            with pytest.raises(Denied) as caught:
                guard.check(ToolCall("triage", "echo", {"x": 1}, "c3"), task=task)
            assert caught.value.code == "budget_exhausted"
        guard.stop("task", tasks[0].id)
        for task, code in ((tasks[0], "artifact_revoked"), (tasks[1], "budget_exhausted"), (local, "budget_exhausted")):
            with pytest.raises(Denied) as caught:
                guard.check(ToolCall("triage", "echo", {"x": 1}, "c4"), task=task)
            assert caught.value.code == code
