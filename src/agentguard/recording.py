"""What a guard writes down about each call, before it runs and after: the recording half of the pipeline (DESIGN §8).

Where nothing can be written any more, `unable` says why, and nothing runs: no evidence, no call.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from msgspec import structs

from agentguard.call import ToolCall
from agentguard.context import current_execution
from agentguard.decide import NO_GRANT, Binding, Grant, refuse
from agentguard.decision import Code, Decision, Reason, Stage, Verdict
from agentguard.environment import Clock
from agentguard.errors import EvidenceUnavailable, StateUnavailable
from agentguard.evidence import Form
from agentguard.home import Home
from agentguard.integrity import Lock, Tool
from agentguard.ledger import Ledger
from agentguard.notice import say
from agentguard.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentguard.canonical import Frozen
    from agentguard.chain import VerifiedChain
    from agentguard.permit import Permit
    from agentguard.task import Task

_MAX_FORMS: Final = 256


class Pending(NamedTuple):
    """A judged call. `record` is None where nothing is left to write; `permit` is None where the call is refused."""

    record: bytes | None
    decision: Decision
    permit: Permit | None


class Forms(NamedTuple):
    """The records of one agent, task and tool with blanks for what changes from call to call, and what they were made for."""

    tool: Tool | None
    chain: VerifiedChain | None
    agent: str
    decision: Form
    outcome: Form


class Recording:
    """The records of one guard's decisions and outcomes.

    tools   the registered tools by name, as the guard goes on to fill them in
    unable  why no outcome can be recorded any more: no body runs. Empty while all is well
    revocations  the latest version of them that the guard has seen
    """

    def __init__(
        self, home: Home, clock: Clock, policy: Policy, lock: Lock | None, environment: Mapping[str, Frozen], tools: Mapping[str, Tool]
    ) -> None:
        self.home, self.clock, self.tools = home, clock, tools
        self.revocations = 0
        self.ledger = Ledger(home, clock)
        self.unable = ""
        self._policy, self._lock = policy, lock
        self._environment = self.ledger.document(environment)

    def keep_documents(self) -> dict[str, Any]:
        """Keep what later records name by digest; returns those names, for the record of opening."""
        self.home.objects.put(self._policy.canonical)
        if self._lock is not None:
            self.home.objects.put(self._lock.canonical)
        return {
            "anchors": self.home.trust.digest,
            "environment": self._environment,
            "lock": self._lock.digest if self._lock is not None else None,
            "policy": self._policy.digest,
        }

    # --- decisions --------------------------------------------------------------------------------------------------------------

    def forms(self, call: ToolCall, grant: Grant, task: Task | None) -> Forms:
        """What the records of all calls of one agent, task and tool share, remembered with the task."""
        tool = self.tools.get(call.tool)
        known = task.forms.get(call.tool) if task is not None else None
        if known is not None and known.tool is tool and known.chain is grant.chain and known.agent == call.agent:
            return known
        chain = grant.chain
        if chain is not None and task is not None and task.chain_object is None:
            task.chain_object = self.ledger.chain(chain)
        version = tool.fingerprint if tool is not None else None
        decision = self.ledger.decision_form(
            agent=call.agent[:256],
            tool=call.tool[:256],
            chain=chain,
            presented=task.chain_object if task is not None else None,
            anchors=self.home.trust.digest,
            environment=self._environment,
            lock=self._lock.digest if self._lock is not None else None,
            policy=self._policy.digest,
            tool_version=version,
        )
        made = Forms(tool, chain, call.agent, decision, self.ledger.outcome_form(chain.task_id if chain is not None else None, version))
        if task is not None:
            if len(task.forms) >= _MAX_FORMS:
                task.forms.clear()
            task.forms[call.tool] = made
        return made

    def pend(
        self,
        decision: Decision,
        call: ToolCall,
        binding: Binding,
        forms: Forms,
        now: int,
        revocations: int,
        *,
        permit: Permit | None = None,
        rerun: bool = False,
        cause: str | None = None,
    ) -> Pending:
        """The record of a decision, ready to be written. What it names by digest is kept before."""
        caused_by = cause or current_execution.get()
        record = self.ledger.decision(forms.decision, decision, call, binding, caused_by, revocations, rerun, now)
        return Pending(record, decision, permit)

    def write(self, pending: Pending) -> Pending:
        """Stage 14: no evidence, no call. What was reserved stays reserved until the log is reconciled: the record may be there."""
        if pending.record is None:
            return pending
        try:
            self.ledger.write(pending.record)
        except EvidenceUnavailable as error:
            self.unable = self.unable or str(error)
            reason = Reason(Code.EVIDENCE_UNAVAILABLE, "log", "a durable record of the decision", str(error), fix="reopen the guard")
            was = pending.decision
            refused = structs.replace(
                was, verdict=Verdict.DENY, code=reason.code, stage=Stage.EVIDENCE, reasons=(reason, *was.reasons), reserved=(), execution=""
            )
            return Pending(None, refused, None)
        return pending

    def refused(self, call: ToolCall, stage: Stage, reason: Reason, grant: Grant, task: Task | None, cause: str | None = None) -> Pending:
        """A denial that no check came to, ready to be written."""
        decision = executed(refuse(call, self._policy.digest, stage, reason), self.ledger.next_id())
        forms = self.forms(call, grant, task)
        return self.pend(decision, call, Binding(call.arguments), forms, self.now(), self.revocations, cause=cause)

    def refusal(self, call: ToolCall, stage: Stage, reason: Reason, cause: str) -> Decision:
        """A denial of what somebody tried with the permit of execution `cause`: recorded, where that is still possible."""
        pending = Pending(None, refuse(call, self._policy.digest, stage, reason), None)
        with suppress(EvidenceUnavailable):
            pending = self.write(self.refused(call, stage, reason, NO_GRANT, None, cause))
        return pending.decision

    # --- outcomes ---------------------------------------------------------------------------------------------------------------

    def record_outcome(self, permit: Permit, status: str, *, output: Any = None, error: BaseException | None = None) -> None:
        """Append the outcome of a permit's run, then let the state know."""
        self.ledger.write(self.ledger.outcome(permit.form, permit.execution, status, output=output, error=error))
        self._settle(permit, status)

    def record_stream(self, permit: Permit, digest: str, kept: bytes) -> None:
        """The same for a generator that ended: its items are the output."""
        self.ledger.write(self.ledger.stream_outcome(permit.form, permit.execution, digest.encode() + b"\n" + kept))
        self._settle(permit, "ok")

    def _settle(self, permit: Permit, status: str) -> None:
        try:
            self.home.state.settle(permit.reservation, status)
        except StateUnavailable as error:  # the log has the outcome; the state catches up when it is reconciled
            say("the state store did not take an outcome", execution=permit.execution, error=str(error))

    def poison(self, why: str) -> None:
        """Deny everything from here on: the log cannot be trusted to be complete."""
        self.unable = self.unable or why
        self.home.log.poison(why)

    # --- the world --------------------------------------------------------------------------------------------------------------

    @property
    def blocking(self) -> bool:
        """Whether a write waits for the disk."""
        return self.home.durability == "fsync"

    def now(self) -> int:
        """Nanoseconds since the epoch; never goes back."""
        return self.clock.now()


def executed(decision: Decision, execution: str) -> Decision:
    """The decision under its execution's id."""
    return structs.replace(decision, call_id=decision.call_id or execution, execution=execution)
