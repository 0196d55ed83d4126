"""Where artifacts of tasks are made: minted, derived, renewed, and handed over to another process (DESIGN §4, §9).

Whatever is refused here is recorded as a call would be: of `agentguard.task`, `agentguard.delegate`, `agentguard.renew`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from agentguard import control
from agentguard.artifacts.chain import ChainError, VerifiedChain
from agentguard.artifacts.link import DEFAULT_LIMITS
from agentguard.artifacts.proof import check_proof, make_proof, open_proof
from agentguard.call import ToolCall
from agentguard.context import current_execution
from agentguard.decide import standing
from agentguard.decision import Code, Reason, Stage
from agentguard.enforcement import Enforcement
from agentguard.environment import NANOSECOND
from agentguard.errors import Denied, InvalidInput
from agentguard.snapshot import Snapshot
from agentguard.spans import parse_span

if TYPE_CHECKING:
    from agentguard.task import Task

_DELEGATE: Final = "agentguard.delegate"
_RENEW: Final = "agentguard.renew"
#: What an exported task proves to be made for. No tool is called so, because no policy lets one be.
_RESUME: Final = "agentguard.resume"
_SKEW: Final = 30  # seconds


class Issuing:
    """The artifacts of one guard's tasks."""

    def __init__(self, enforcement: Enforcement) -> None:
        self._enforcement, self._recording, self._home = enforcement, enforcement.recording, enforcement.home

    def issue(self, task: Task, make: Mapping[str, Any]) -> VerifiedChain:
        """Mint the artifact of a root task, or derive that of a delegate, and record it. Raises Denied."""
        snapshot, seconds = self._enforcement.in_force.fresh(), self._seconds()
        if task.parent is not None:
            chain = self._derive(snapshot, task, task.parent, make, seconds)
        else:
            reason = snapshot.policy.known(task.agent)
            if reason is not None:
                raise self._refused(snapshot, task, "agentguard.task", Stage.POLICY, reason)
            chain = snapshot.authority.mint(
                task.agent,
                task=self._recording.ledger.next_id(),
                initiator=make["initiator"],
                scope=make["scope"],
                ttl=make["ttl"],
                uses=make["uses"],
                now=seconds,
            )
            control.own(self._home, chain.task_id, chain.root.exp)
        task.key = self._home.keys.holder(task.agent)
        self._record(snapshot, task, chain, make.get("trusted_input"))
        return chain

    def renew(self, task: Task, make: Mapping[str, Any], ttl: str | int | None) -> VerifiedChain:
        """A fresh artifact for a task, expired or not, with the same id and tools; recorded. Raises Denied, InvalidInput."""
        snapshot, seconds = self._enforcement.in_force.fresh(), self._seconds()
        grant = snapshot.authority.grant(task)
        old = grant.chain
        if old is not None and task.key is not None and old.leaf.profile is not None and old.leaf.profile.uses is not None:
            raise InvalidInput("a task with a limit of uses is not renewed: a new artifact would be counted from 0", place="renew")
        if old is not None and task.parent is not None:
            chain = self._derive(snapshot, task, task.parent, {**make, "ttl": ttl or make["ttl"]}, seconds)
            self._record(snapshot, task, chain, None)
            return chain
        # Time alone may be over, and the policy another one: a new artifact is bound to the new one.
        moment = seconds if old is None else min(seconds, old.exp - 1)
        call = ToolCall(task.agent, _RENEW, {})
        failed = standing(call, grant, snapshot.policy, snapshot.facts, moment)
        if failed is not None and failed.code is not Code.POLICY_MISMATCH:
            raise self.refuse(snapshot, call, failed.stage, failed.reasons[0], task)
        if old is None or len(old.links) > 1 or old.initiator is None or old.task is None or task.key is None or not self._ours(old):
            what = "only who issued an artifact, or derived it, can renew it"
            raise InvalidInput(what, place="renew", hint="renew it where the task was started, or its delegate was derived")
        span = parse_span(ttl) if ttl is not None else old.root.exp - old.root.iat
        chain = snapshot.authority.mint(
            task.agent, task=old.task, initiator=old.initiator, scope=None, tools=old.root.tools, ttl=span, uses=None, now=seconds
        )
        # What was counted must not be forgotten before the new artifact ends, so this comes first.
        self._home.state.prolong(chain.task_id, chain.root.exp)
        self._record(snapshot, task, chain, None)
        return chain

    def export(self, task: Task) -> str:
        """The task as text: its chain, and a proof that who exported it held the leaf's key, good for resuming it and nothing else."""
        task.issue()
        chain = self._enforcement.in_force.fresh().authority.grant(task).chain
        if chain is None or task.key is None:
            raise InvalidInput("the task's key is not in this process, so it cannot be handed over", place="export")
        proof = make_proof(task.key, chain.leaf, _RESUME, {}, self._seconds(), aud=self._enforcement.audience)
        return json.dumps(task.presentation(proof))

    def resume(self, task: Task) -> Task:
        """Give a task that was accepted the key of its leaf's holder, which is in this home, if it was exported here."""
        proof, task.proof = task.proof, None
        chain = self._enforcement.in_force.fresh().authority.grant(task).chain
        if chain is None:
            return task
        if proof is None:
            raise InvalidInput("a chain without the proof that `guard.export` adds", place="resume", hint="guard.accept opens such a chain")
        try:
            claims = open_proof(proof, chain.leaf, DEFAULT_LIMITS)
            made = claims.get("iat")
            check_proof(
                claims, chain.leaf, _RESUME, {}, made if type(made) is int else 0, limits=DEFAULT_LIMITS,
                audience=(self._enforcement.audience,), require_aud=True, nonce=None, seen=(),
            )  # fmt: skip
        except ChainError as error:
            raise InvalidInput(f"no guard on this home exported it: {error.message}", place="resume") from None
        if type(made) is not int or made > self._seconds() + _SKEW:
            raise InvalidInput("it was exported in the future", place="resume")
        name = self._home.keys.agent_of(chain.leaf.holder.thumbprint())
        if name is None or name != task.agent:
            raise InvalidInput(f"the key of {task.agent} is not in this home", place="resume")
        task.key, task.possessed, task.memo = self._home.keys.holder(name), True, None  # possession is part of the grant
        task.observed = self._ours(chain)  # its links are in the log already
        detail = {"action": "resumed", "artifact": chain.leaf.hash, "exported": made, "task": chain.task_id}
        self._recording.ledger.note("task", detail)
        return task

    def _derive(self, snapshot: Snapshot, task: Task, parent: Task, make: Mapping[str, Any], seconds: int) -> VerifiedChain:
        """Delegation is judged as a call is: the parent's grant must stand, and the policy must let it delegate."""
        parent.issue()
        policy, grant = snapshot.policy, snapshot.authority.grant(parent)
        failed = standing(ToolCall(parent.agent, _DELEGATE, {"to": task.agent}), grant, policy, snapshot.facts, seconds)
        if failed is not None or grant.chain is None:
            reason = failed.reasons[0] if failed is not None else Reason(Code.ARTIFACT_MISSING, parent.agent)
            raise self._refused(snapshot, task, _DELEGATE, failed.stage if failed is not None else Stage.PRESENCE, reason)
        if parent.key is None:  # tokens are no secret: who only has them may call nothing, and delegate nothing either
            reason = Reason(Code.PROOF_MISSING, parent.agent, "the leaf's key", "a chain without it")
            raise self._refused(snapshot, task, _DELEGATE, Stage.PROOF, reason)
        refused = policy.known(task.agent) or policy.may_delegate((*(name or "" for name in grant.agents), task.agent))
        if refused is None and not grant.chain.profile:
            refused = Reason(Code.DELEGATION_NOT_ALLOWED, task.agent, "a chain of the agentguard profile", "a plain chain")
        if refused is not None:
            raise self._refused(snapshot, task, _DELEGATE, Stage.POLICY, refused)
        ttl = parse_span(make["ttl"]) if make["ttl"] is not None else None
        try:
            return snapshot.authority.derive(
                grant.chain, parent.key, task.agent, scope=make["scope"], ttl=ttl, uses=make["uses"], now=seconds
            )
        except ChainError as error:
            raise self._refused(snapshot, task, _DELEGATE, Stage.CHAIN, error.reason()) from None

    def _record(self, snapshot: Snapshot, task: Task, chain: VerifiedChain, trusted_input: str | None) -> None:
        above = snapshot.authority.grant(task.parent).agents if task.parent is not None else ()
        self._recording.ledger.delegation(
            chain,
            len(chain.links) - 1,
            agents=(*above, task.agent),
            caused_by=current_execution.get(),
            observed=False,
            trusted_input=trusted_input,
        )

    def _refused(self, snapshot: Snapshot, task: Task, what: str, stage: Stage, reason: Reason) -> Denied:
        """Record that a task or a delegation was refused, and give the exception to raise."""
        parent = task.parent
        call = ToolCall(parent.agent if parent is not None else task.agent, what, {"to": task.agent})
        return self.refuse(snapshot, call, stage, reason, parent)

    def refuse(self, snapshot: Snapshot, call: ToolCall, stage: Stage, reason: Reason, task: Task | None) -> Denied:
        """Record a refusal that no check came to, and give the exception to raise."""
        recording, grant = self._recording, snapshot.authority.grant(task)
        return Denied(recording.write(recording.refused(call, stage, reason, grant, task, snapshot.stamp)).decision)

    def _ours(self, chain: VerifiedChain) -> bool:
        return chain.keys[0] == self._home.issuer.key.thumbprint()

    def _seconds(self) -> int:
        return self._enforcement.clock.now() // NANOSECOND
