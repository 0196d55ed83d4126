"""The pipeline of one check: verify, decide, admit, record (DESIGN §2). The guard's inside; `guard.py` is its face.

Deny is where every path ends that does not reach the end of `_permit`: there is no other place that makes a permit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

from msgspec import structs

from agentguard import control
from agentguard.authority import Authority
from agentguard.call import ToolCall
from agentguard.canonical import Frozen
from agentguard.chain import Limits, VerifiedChain
from agentguard.context import current_task
from agentguard.decide import NO_GRANT, PROOF, Binding, Facts, Grant, charges, decide, proof_charge, proof_wanted, refuse
from agentguard.decision import Code, Decision, Reason, Stage, Verdict
from agentguard.environment import NANOSECOND, Clock, measure
from agentguard.errors import AgentguardError, EvidenceUnavailable, InvalidInput, StateUnavailable
from agentguard.home import Home
from agentguard.integrity import Binder, Lock, Tool, type_name
from agentguard.notice import say
from agentguard.paths import followed
from agentguard.paths import governed as governed_arguments
from agentguard.permit import LIFETIME_NS, Permit
from agentguard.policy import Policy
from agentguard.proof import make_proof
from agentguard.recording import Pending, Recording, executed
from agentguard.state import Account, Admitted, Exhausted, Replayed, Reservation, Superseded
from agentguard.task import Task

#: Where there is no task there is no agent; the call is judged under this name and denied for want of an artifact.
NOBODY: Final = "nobody"
_NONE: Final[Mapping[str, Frozen]] = MappingProxyType({})
#: Not faults: somebody wants this thread of control to end.
_INTERRUPTS: Final = (KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError)
_MAX_RACES: Final = 3
_MAX_OBSERVED: Final = 100_000
_MAX_PREMISES: Final = 256


class Enforcement:
    """Everything that one guard judges by, and the steps from a call to a permit."""

    def __init__(self, home: Home, policy: Policy, lock: Lock | None, environment: Mapping[str, Any], audience: str | None) -> None:
        self.home, self.policy, self.lock = home, policy, lock
        self.clock = Clock(floor=control.clock_floor(home))
        self.environment = measure(environment, lock=lock.digest if lock is not None else None)
        self.audience = audience or f"urn:agentguard:{home.state.domain}"
        limits = Limits()
        self.authority = Authority(home, policy, self.environment, tuple(environment), limits)
        self.tools: dict[str, Tool] = {}
        self.recording = Recording(home, self.clock, policy, lock, self.environment, self.tools)
        self._facts = Facts(self.environment, home.state.revocations(), limits, (self.audience,), self.clock.unreliable, home.state.domain)
        self.recording.revocations = self._facts.revocations.version
        self._observed: set[str] = set()

    # --- judging ----------------------------------------------------------------------------------------------------------------

    def pending(self, call: ToolCall, task: Task | None, tool: Tool | None = None, binder: Binder | None = None) -> Pending:
        """Judge and admit. Whatever breaks in here denies."""
        try:
            return self._judge(readable(call), self.own(task), tool, binder)
        except _INTERRUPTS:
            raise
        except BaseException as error:  # noqa: BLE001  # the one place: a native engine's panic is not an Exception, and it denies too
            return self._crashed(readable(call), error)

    def own(self, task: Task | None) -> Task | None:
        """The task that is meant, or the current one. Another guard's is none: it counts and records elsewhere, and `accept` is the way."""
        meant = task if task is not None else current_task.get()
        return meant if meant is not None and meant.guard.serves(self.recording) else None

    def _judge(self, call: ToolCall, task: Task | None, tool: Tool | None, binder: Binder | None) -> Pending:
        execution = self.recording.ledger.next_id()
        for _ in range(_MAX_RACES):
            facts, now = self._facts, self.clock.now()
            grant = self.authority.grant(task)
            call = self.proven(call, grant, task, now)
            binding = self.bind(call, grant, task, tool, binder)
            decision = decide(call, binding, grant, self.policy, facts, now // NANOSECOND)
            if decision.verdict is Verdict.ALLOW and task is not None:
                answer = self._admit(call, grant, task, facts, execution)
                if type(answer) is Reservation:
                    return self._permit(call, binding, grant, task, answer, now, tool)
                if type(answer) is Reason:
                    decision = refuse(call, self.policy.digest, Stage.ADMISSION, answer)
                    break
            elif not self._moved():
                break
            self._refresh()
        else:
            reason = Reason(Code.STATE_UNAVAILABLE, call.tool, "a state that holds still", f"{_MAX_RACES} lost races")
            decision = refuse(call, self.policy.digest, Stage.ADMISSION, reason)
        forms = self.recording.forms(call, grant, task)
        return self.recording.pend(executed(decision, execution), call, binding, forms, now, facts.revocations.version)

    def proven(self, call: ToolCall, grant: Grant, task: Task | None, now: int) -> ToolCall:
        """The call with its proof: the one that came beside the chain, or, where one is wanted and the leaf's key is in this process, one
        that the holder signs here (draft §7)."""
        chain = grant.chain
        if call.proof is not None or call.defect or task is None or chain is None:
            return call
        if task.proof is not None:
            return call.with_proof(task.proof)
        if not proof_wanted(chain, grant, self.policy.attributes(call.tool)) or task.key is None or task.key.public != chain.leaf.holder:
            return call
        return call.with_proof(make_proof(task.key, chain.leaf, call.tool, call.arguments, now // NANOSECOND, aud=self.audience))

    def bind(self, call: ToolCall, grant: Grant, task: Task | None, live: Tool | None = None, binder: Binder | None = None) -> Binding:
        """The call as its tool and the disk see it."""
        binding = self._bind(call, live, binder)
        governed = self._governed(call, grant, task)
        if governed and not binding.defect:
            links = followed(binding.bound, governed)
            if links is not None:
                return structs.replace(binding, followed=links)
        return binding

    def _governed(self, call: ToolCall, grant: Grant, task: Task | None) -> Mapping[str, tuple[str, ...]]:
        """The arguments that a path constraint of the policy or of the chain governs; remembered with the task."""
        known = task.governed.get(call.tool) if task is not None else None
        if known is not None:
            return known
        rules = self.policy.agents.get(call.agent)
        rule = rules.tools.get(call.tool) if rules is not None else None
        maps = [rule.arguments] if rule is not None else []
        links = grant.chain.links if grant.chain is not None else ()
        maps += [link.tools[call.tool].named for link in links if call.tool in link.tools]
        found = governed_arguments(maps)
        if task is not None and grant.chain is not None and call.agent == task.agent:
            if len(task.governed) >= _MAX_PREMISES:
                task.governed.clear()
            task.governed[call.tool] = found
        return found

    def _bind(self, call: ToolCall, live: Tool | None, binder: Binder | None) -> Binding:
        """The call as its tool sees it. An unknown tool stays unbound, to be refused by scope or policy."""
        known = self.tools.get(call.tool)
        tool = live if live is not None else known
        if tool is None:
            missing = self.lock is not None and (call.tool in self.lock.entries or self.policy.knows_tool(call.tool))
            return Binding(call.arguments, integrity="it is not registered with this guard" if missing else "")
        integrity = tool.changed() or (self.lock.judge(tool) if self.lock is not None else "")
        if tool is not known and (known is None or known.fingerprint != tool.fingerprint):
            integrity = "another tool is registered under its name"
        if call.defect:
            return Binding(_NONE, "", integrity, tool.opaque)
        try:
            return Binding(tool.bind(call.arguments, binder), "", integrity, tool.opaque)
        except InvalidInput as error:
            return Binding(_NONE, str(error), integrity, tool.opaque)

    def _admit(self, call: ToolCall, grant: Grant, task: Task, facts: Facts, execution: str) -> Reservation | Reason | None:
        """Stage 13: what was reserved; a reason; or None when the state moved and the call must be judged again."""
        account = self._account(call, grant, task, facts)
        if isinstance(account, Reason):
            return account
        rerun = self.policy.attributes(call.tool).rerun_safe
        request = Reservation(execution, self.home.log.shard, account, call.call_id or execution, facts.revocations.version, rerun)
        try:
            result = self.home.state.admit(request)
        except StateUnavailable as error:
            return Reason(Code.STATE_UNAVAILABLE, "state", "a state store that answers", str(error))
        if type(result) is Admitted:
            return request if result.charged else request._replace(account=replace(account, charges=()))
        if type(result) is Superseded:
            return None
        return _not_admitted(result, request.call_id)

    def _account(self, call: ToolCall, grant: Grant, task: Task, facts: Facts) -> Account | Reason:
        """What calls of this task are charged to; made once a task, but for calls that bring a proof, which is charged too."""
        chain = _chain_of(grant)
        account = task.account
        if account is None:
            counters = charges(call.agent, chain, self.policy, facts)
            if isinstance(counters, Reason):
                return counters
            account = task.account = Account(chain.task_id, call.agent, counters, chain.root.exp)
        if call.proof is None:
            return account
        return replace(account, charges=(*account.charges, proof_charge(call, chain)))

    def _permit(
        self, call: ToolCall, binding: Binding, grant: Grant, task: Task, reservation: Reservation, now: int, tool: Tool | None
    ) -> Pending:
        """The end of the one path that leads to a permit. If anything breaks here, the admission is taken back."""
        try:
            chain = _chain_of(grant)
            decision = Decision(
                Verdict.ALLOW,
                None,
                Stage.EVIDENCE,
                (),
                call.agent,
                call.tool,
                reservation.call_id,
                self.policy.digest,
                reservation.account.names,
                reservation.execution,
            )
            if not task.observed:
                self._observe(task, grant, chain)
            expires = min(now + LIFETIME_NS, chain.leaf.exp * NANOSECOND)
            forms = self.recording.forms(call, grant, task)
            permit = Permit(self.recording, tool or forms.tool, binding.bound, call, decision, reservation, expires, task, forms.outcome)
            version = reservation.version
            return self.recording.pend(decision, call, binding, forms, now, version, permit=permit, rerun=reservation.rerun)
        except BaseException:
            self.home.state.release(reservation)
            raise

    def _observe(self, task: Task, grant: Grant, chain: VerifiedChain) -> None:
        """Record the links of a chain that was derived elsewhere, the first time this guard sees them (DESIGN §4)."""
        for index, link in enumerate(chain.links):
            if link.hash not in self._observed:
                self.recording.ledger.delegation(chain, index, agents=grant.agents, caused_by=None, observed=True)
                if len(self._observed) >= _MAX_OBSERVED:
                    self._observed.clear()
                self._observed.add(link.hash)
        task.observed = True

    def _crashed(self, call: ToolCall, error: BaseException) -> Pending:
        """A fault inside the guard denies, and is recorded where that is still possible."""
        say("the guard failed, and the call is denied", error=type_name(error))  # its words may quote arguments
        code, stage = Code.GUARD_ERROR, Stage.CALL
        if isinstance(error, StateUnavailable):
            code, stage = Code.STATE_UNAVAILABLE, Stage.ADMISSION
        elif isinstance(error, EvidenceUnavailable):
            code, stage = Code.EVIDENCE_UNAVAILABLE, Stage.EVIDENCE
        reason = Reason(code, call.tool, "a guard that works", _words(error))
        try:
            return self.recording.refused(call, stage, reason, NO_GRANT, None)
        except _INTERRUPTS:
            raise
        except BaseException:  # noqa: BLE001  # what broke the check may break its record: the denial stands without one
            return Pending(None, refuse(call, self.policy.digest, stage, reason), None)

    # --- the world --------------------------------------------------------------------------------------------------------------

    def facts(self) -> Facts:
        """The current snapshot."""
        if self._moved():
            self._refresh()
        return self._facts

    def _moved(self) -> bool:
        return self.home.state.version() != self._facts.revocations.version

    def _refresh(self) -> None:
        self._facts = structs.replace(self._facts, revocations=self.home.state.revocations())
        self.recording.revocations = self._facts.revocations.version


def readable(call: object) -> ToolCall:
    """The call, or one that says that it is none. A subclass could answer differently each time it is asked."""
    return call if type(call) is ToolCall else ToolCall.malformed(NOBODY, "", f"a {type(call).__name__} is not a ToolCall")


def _words(error: BaseException) -> str:
    """An error in words. One that somebody else's code raised may break when it is looked at."""
    try:
        return f"{type_name(error)}: {error}"[:200]
    except BaseException:  # noqa: BLE001  # the call is being denied already, and must be
        return type_name(error)


def _chain_of(grant: Grant) -> VerifiedChain:
    if grant.chain is None:  # an allowed decision without a chain would be a fault of ours: it denies as such
        raise AgentguardError("allowed without a chain")
    return grant.chain


def _not_admitted(result: Replayed | Exhausted | Superseded | Admitted, call_id: str) -> Reason:
    if isinstance(result, Replayed):
        found = f"execution {result.first}" + (f" ({result.outcome})" if result.outcome else "")
        return Reason(Code.REPLAY_DETECTED, call_id, "a call id that this task has not seen", found)
    if not isinstance(result, Exhausted):
        raise AgentguardError(f"an unexpected answer of the state store: {type(result).__name__}")
    if result.name == PROOF:
        return Reason(Code.REPLAY_DETECTED, "proof", "a proof that was not used before", "a used one")
    return Reason(Code.BUDGET_EXHAUSTED, result.name, f"at most {result.limit}", f"{result.limit} used")
