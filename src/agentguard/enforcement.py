"""The pipeline of one check: verify, decide, admit, record (DESIGN §2). The guard's inside; `guard.py` is its face.

Deny is where every path ends that does not reach the end of `_permit`: there is no other place that makes a permit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from time import monotonic
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from msgspec import structs

from agentguard import control
from agentguard.artifacts.chain import VerifiedChain
from agentguard.artifacts.proof import make_proof
from agentguard.asking import Asking, Heard, asked
from agentguard.call import ToolCall
from agentguard.canonical import Frozen
from agentguard.charging import APPROVAL, PROOF, account, fixed
from agentguard.context import current_task
from agentguard.decide import decide, proof_wanted, refuse
from agentguard.decision import Code, Decision, Reason, Stage, Verdict
from agentguard.environment import NANOSECOND, Clock
from agentguard.errors import AgentguardError, EvidenceUnavailable, InvalidInput, StateUnavailable
from agentguard.home import Home
from agentguard.notice import say
from agentguard.permit import LIFETIME_NS, Permit
from agentguard.policy.model import Policy
from agentguard.premises import NO_GRANT, NO_USAGE, Binding, Facts, Grant, Usage
from agentguard.recording import Pending, Recording, executed
from agentguard.snapshot import InForce, Orders, Snapshot
from agentguard.state.store import Account, Admitted, Exhausted, Replayed, Reservation, Superseded
from agentguard.task import Memo, Task
from agentguard.tools.integrity import Binder, Tool, type_name
from agentguard.tools.paths import followed
from agentguard.tools.paths import governed as governed_arguments

#: Where there is no task there is no agent; the call is judged under this name and denied for want of an artifact.
NOBODY: Final = "nobody"
_NONE: Final[Mapping[str, Frozen]] = MappingProxyType({})
#: Not faults: somebody wants this thread of control to end.
_INTERRUPTS: Final = (KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError)
_MAX_RACES: Final = 3
_MAX_OBSERVED: Final = 100_000
_MAX_PREMISES: Final = 256


class _Judged(NamedTuple):
    """A call that may run as far as stages 0 to 12 say, and everything that said so. `now` is nanoseconds."""

    snapshot: Snapshot
    facts: Facts
    memo: Memo
    call: ToolCall
    binding: Binding
    grant: Grant
    task: Task
    now: int
    decision: Decision
    usage: Usage
    heard: Heard | None


class Enforcement:
    """Everything that one guard judges by, and the steps from a call to a permit."""

    def __init__(self, home: Home, orders: Orders, environment: Mapping[str, Any], audience: str | None) -> None:
        self.home = home
        self.clock = Clock(floor=control.clock_floor(home))
        self.audience = audience or f"urn:agentguard:{home.state.domain}"
        self.tools: dict[str, Tool] = {}
        self.recording = Recording(home, self.clock, self.tools, self.audience)
        self.asking = Asking(home, self.clock)
        self.in_force = InForce(home, self.recording, orders, environment, self.audience)
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
            snapshot, now = self.in_force.snapshot, self.clock.now()
            facts = snapshot.facts
            memo = task.recall(snapshot.authority) if task is not None else None
            grant = snapshot.authority.grant(task, memo)
            call = self.proven(snapshot, call, grant, task, now)
            binding = self.bind(snapshot, memo, call, grant, task, tool, binder)
            decision, usage, heard = self.judged(snapshot, call, binding, grant, facts, now // NANOSECOND)
            if decision.runs and task is not None and memo is not None:
                judged = _Judged(snapshot, facts, memo, call, binding, grant, task, now, decision, usage, heard)
                answer = self._admit(judged, execution)
                if type(answer) is Reservation:
                    if self.in_force.snapshot is snapshot:
                        return self._permit(judged, answer, tool)
                    self.home.state.release(answer)  # superseded by a reload: judged again, by the new one
                    continue
                if type(answer) is Reason:
                    decision = refuse(call, snapshot.policy.digest, Stage.ADMISSION, answer)
                    break
            elif not self.in_force.moved(snapshot):
                break
            self.in_force.refresh(snapshot)
        else:
            reason = Reason(Code.STATE_UNAVAILABLE, call.tool, "a state that holds still", f"{_MAX_RACES} lost races")
            decision = refuse(call, snapshot.policy.digest, Stage.ADMISSION, reason)
        decision, note = executed(decision, execution), None
        if decision.verdict is Verdict.ASK:
            decision, note = self._ask(snapshot, call, binding, grant, usage, decision, now // NANOSECOND)
        forms = self.recording.forms(call, grant, task, snapshot.stamp, memo)
        return self.recording.pend(decision, call, binding, forms, now, facts.revocations.version, usage, note=note)

    def judged(
        self, snapshot: Snapshot, call: ToolCall, binding: Binding, grant: Grant, facts: Facts, now: int
    ) -> tuple[Decision, Usage, Heard | None]:
        """Stages 0 to 12 at `now` (seconds), with what humans said about this very call where they have to be asked."""
        policy = snapshot.policy
        usage = self.usage(policy, call, grant)
        decision, heard = decide(call, binding, grant, policy, facts, now, usage), None
        if decision.verdict is Verdict.ASK and decision.enforced:
            heard = self.asking.heard(policy, call, binding, grant, usage, now)
            if heard is not None:
                usage = structs.replace(usage, answer=heard.answer)
                decision = decide(call, binding, grant, policy, facts, now, usage)
        return decision, usage, heard

    def _ask(
        self, snapshot: Snapshot, call: ToolCall, binding: Binding, grant: Grant, usage: Usage, decision: Decision, now: int
    ) -> tuple[Decision, bytes | None]:
        """Put the call to humans: the decision that names the request, and the record that it was put. Denies where that cannot be."""
        try:
            request, new = self.asking.ask(snapshot.policy, call, binding, grant, usage, decision, now)
        except InvalidInput as error:
            reason = Reason(Code.APPROVAL_DENIED, call.tool, "a call that humans can be asked about", str(error))
            return structs.replace(decision, verdict=Verdict.DENY, code=reason.code, reasons=(reason, *decision.reasons)), None
        reasons = tuple([structs.replace(reason, fix=f"agentguard approvals show {request.id}") for reason in decision.reasons])
        note = self.recording.ledger.noted("approval", asked(request)) if new else None
        return structs.replace(decision, reasons=reasons, request=request.id), note

    def patience(self, pending: Pending, task: Task | None, until: float) -> float:
        """Until when (of `time.monotonic`) a refused call waits for an answer: until then, or as its task says; 0: it does not."""
        own = self.own(task) if pending.decision.request else None
        return 0.0 if own is None or own.wait is None else until or monotonic() + own.wait

    def usage(self, policy: Policy, call: ToolCall, grant: Grant) -> Usage:
        """What went before, as far as the policy's rules about this call ask for it."""
        standing = policy.standing(call.agent, call.tool)
        if standing is None or standing.watch is None or grant.chain is None:
            return NO_USAGE
        return Usage(self.home.state.counts(grant.chain.task_id, standing.watch.reads))

    def proven(self, snapshot: Snapshot, call: ToolCall, grant: Grant, task: Task | None, now: int) -> ToolCall:
        """The call with its proof: the one that came beside the chain, or, where one is wanted and the leaf's key is in this process, one
        that the holder signs here (draft §7)."""
        chain = grant.chain
        if call.proof is not None or call.defect or task is None or chain is None:
            return call
        if task.proof is not None:
            return call.with_proof(task.proof)
        wanted = proof_wanted(chain, grant, snapshot.policy.attributes(call.tool))
        if not wanted or task.key is None or task.key.public != chain.leaf.holder:
            return call
        return call.with_proof(make_proof(task.key, chain.leaf, call.tool, call.arguments, now // NANOSECOND, aud=self.audience))

    def bind(
        self,
        snapshot: Snapshot,
        memo: Memo | None,
        call: ToolCall,
        grant: Grant,
        task: Task | None,
        live: Tool | None = None,
        binder: Binder | None = None,
    ) -> Binding:
        """The call as its tool and the disk see it."""
        binding = self._bind(snapshot, call, live, binder)
        governed = self._governed(snapshot, memo, call, grant, task)
        if governed and not binding.defect:
            links = followed(binding.bound, governed)
            if links is not None:
                return structs.replace(binding, followed=links)
        return binding

    def _governed(
        self, snapshot: Snapshot, memo: Memo | None, call: ToolCall, grant: Grant, task: Task | None
    ) -> Mapping[str, tuple[str, ...]]:
        """The arguments that a path constraint of the policy or of the chain governs; remembered with the task."""
        known = memo.governed.get(call.tool) if memo is not None else None
        if known is not None:
            return known
        rules = snapshot.policy.agents.get(call.agent)
        rule = rules.tools.get(call.tool) if rules is not None else None
        maps = [rule.arguments] if rule is not None else []
        links = grant.chain.links if grant.chain is not None else ()
        maps += [link.tools[call.tool].named for link in links if call.tool in link.tools]
        found = governed_arguments(maps)
        if memo is not None and task is not None and grant.chain is not None and call.agent == task.agent:
            if len(memo.governed) >= _MAX_PREMISES:
                memo.governed.clear()
            memo.governed[call.tool] = found
        return found

    def _bind(self, snapshot: Snapshot, call: ToolCall, live: Tool | None, binder: Binder | None) -> Binding:
        """The call as its tool sees it. An unknown tool stays unbound, to be refused by scope or policy."""
        known, lock = self.tools.get(call.tool), snapshot.lock
        tool = live if live is not None else known
        if tool is None:
            missing = lock is not None and (call.tool in lock.entries or snapshot.policy.knows_tool(call.tool))
            return Binding(call.arguments, integrity="it is not registered with this guard" if missing else "")
        integrity = tool.changed() or (lock.judge(tool) if lock is not None else "")
        if tool is not known and (known is None or known.fingerprint != tool.fingerprint):
            integrity = "another tool is registered under its name"
        if call.defect:
            return Binding(_NONE, "", integrity, tool.opaque)
        try:
            return Binding(tool.bind(call.arguments, binder), "", integrity, tool.opaque)
        except InvalidInput as error:
            return Binding(_NONE, str(error), integrity, tool.opaque)

    def _admit(self, judged: _Judged, execution: str) -> Reservation | Reason | None:
        """Stage 13: what was reserved; a reason; or None when the state moved and the call must be judged again."""
        charged = self._account(judged)
        if isinstance(charged, Reason):
            return charged
        call, version = judged.call, judged.facts.revocations.version
        rerun = judged.snapshot.policy.attributes(call.tool).rerun_safe
        request = Reservation(execution, self.home.log.shard, charged, call.call_id or execution, version, rerun)
        try:
            result = self.home.state.admit(request)
        except StateUnavailable as error:
            return Reason(Code.STATE_UNAVAILABLE, "state", "a state store that answers", str(error))
        if type(result) is Admitted:
            return request if result.charged else request._replace(account=replace(charged, charges=(), earned=(), meters=()))
        if type(result) is Superseded:
            return None
        if type(result) is Exhausted and result.name == APPROVAL and judged.heard is not None:
            self.home.inbox.retire(judged.heard.request)  # it was good for one call, which another one was: ask anew
            return None
        return _not_admitted(result, request.call_id)

    def _account(self, judged: _Judged) -> Account | Reason:
        """What a call is charged to; made once for each tool of a task where all its calls are charged alike."""
        snapshot, facts, memo, call, binding, grant, task, now, _, usage, _ = judged
        known = memo.accounts.get(call.tool)
        if known is not None and call.proof is None:
            return known
        made = account(call, binding.bound, _chain_of(grant), snapshot.policy, facts, now // NANOSECOND, usage)
        if isinstance(made, Account) and fixed(call, snapshot.policy) and call.agent == task.agent:
            if len(memo.accounts) >= _MAX_PREMISES:
                memo.accounts.clear()
            memo.accounts[call.tool] = made
        return made

    def _permit(self, judged: _Judged, reservation: Reservation, tool: Tool | None) -> Pending:
        """The end of the one path that leads to a permit. If anything breaks here, the admission is taken back."""
        snapshot, _, memo, call, binding, grant, task, now, found, usage, heard = judged
        try:
            chain = _chain_of(grant)
            decision = Decision(
                found.verdict,
                found.code,
                Stage.EVIDENCE if found.enforced else found.stage,
                found.reasons,
                call.agent,
                call.tool,
                reservation.call_id,
                snapshot.policy.digest,
                reservation.account.names,
                reservation.execution,
                found.enforced,
            )
            if not task.observed:
                self._observe(task, grant, chain)
            expires = min(now + LIFETIME_NS, chain.leaf.exp * NANOSECOND)
            forms = self.recording.forms(call, grant, task, snapshot.stamp, memo)
            output = snapshot.policy.attributes(call.tool).output
            permit = Permit(
                self.recording, tool or forms.tool, binding.bound, call, decision, reservation, expires, task, forms.outcome, output
            )
            note = None
            if heard is not None:
                note = self.recording.ledger.noted("approval", heard.used(reservation.execution))
                self.recording.approved[reservation.execution] = heard.request
            version, rerun = reservation.version, reservation.rerun
            return self.recording.pend(decision, call, binding, forms, now, version, usage, permit=permit, rerun=rerun, note=note)
        except BaseException:
            self.home.state.release(reservation)
            raise

    def _observe(self, task: Task, grant: Grant, chain: VerifiedChain) -> None:
        """Record the links of a chain that was derived elsewhere, the first time this guard sees them (DESIGN §4)."""
        for index, link in enumerate(chain.links):
            if link.hash not in self._observed:
                if index == 0:  # perhaps a fresh artifact of a task that is known
                    self.home.state.prolong(chain.task_id, link.exp)
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
        reason, stamp = Reason(code, call.tool, "a guard that works", _words(error)), self.recording.stamp
        try:
            return self.recording.refused(call, stage, reason, NO_GRANT, None, stamp)
        except _INTERRUPTS:
            raise
        except BaseException:  # noqa: BLE001  # what broke the check may break its record: the denial stands without one
            return Pending((), refuse(call, stamp.policy, stage, reason), None)


def readable(call: object) -> ToolCall:
    """The call, or one that says that it is none. A subclass could answer differently each time it is asked."""
    return call if type(call) is ToolCall else ToolCall.malformed(NOBODY, "", f"a {type(call).__name__} is not a ToolCall")


def _words(error: BaseException) -> str:
    """An error in words. One that somebody else's code raised may break when it is looked at."""
    try:
        return f"{type_name(error)}: {error}"[:400]
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
    found = "not enough left for this call" if result.words else f"{result.limit} used"
    return Reason(Code.BUDGET_EXHAUSTED, result.name, f"at most {result.words or result.limit}", found)
