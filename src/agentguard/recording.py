"""What a guard writes down about each call, before it runs and after: the recording half of the pipeline (DESIGN §8).

Where nothing can be written any more, `unable` says why, and nothing runs: no evidence, no call.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from msgspec import structs

from agentguard.call import ToolCall
from agentguard.canonical import freeze
from agentguard.context import current_execution
from agentguard.decide import refuse
from agentguard.decision import Code, Decision, Reason, Stage, Verdict
from agentguard.environment import Clock
from agentguard.errors import EvidenceUnavailable, LogBusy, StateUnavailable
from agentguard.evidence import Form
from agentguard.home import Home, Trust
from agentguard.ledger import Ledger
from agentguard.notice import say
from agentguard.plain import plain
from agentguard.policy.budgets import metered
from agentguard.policy.model import Policy
from agentguard.premises import NO_GRANT, NO_USAGE, Binding, Grant, Usage
from agentguard.state.reconcile import NEVER_RAN, PAUSED
from agentguard.tools.integrity import Lock, Tool

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from agentguard.approvals import Request
    from agentguard.canonical import Frozen
    from agentguard.permit import Permit
    from agentguard.task import Memo, Task

_MAX_FORMS: Final = 256


class Pending(NamedTuple):
    """A judged call. `records` is empty where nothing is left to write; `permit` is None where the call is refused."""

    records: tuple[bytes, ...]
    decision: Decision
    permit: Permit | None


class Stamp(NamedTuple):
    """How records name what a check was judged by: digests of documents that are kept."""

    anchors: str
    bundle: str | None
    environment: str
    lock: str | None
    policy: str


class Forms(NamedTuple):
    """The records of one agent, task and tool with blanks for what changes from call to call, and what they were made for."""

    tool: Tool | None
    grant: Grant
    agent: str
    decision: Form
    outcome: Form


class Recording:
    """The records of one guard's decisions and outcomes.

    tools   the registered tools by name, as the guard goes on to fill them in
    audience  the name under which proofs from elsewhere must address the guard
    now     nanoseconds since the epoch; never goes back
    unable  why no outcome can be recorded any more: no body runs. Empty while all is well
    revocations  the latest version of them that the guard has seen
    approved  the requests that executions without an outcome so far stand on
    stamp    how records name what the guard judges by now
    """

    stamp: Stamp

    def __init__(self, home: Home, clock: Clock, tools: Mapping[str, Tool], audience: str) -> None:
        self.home, self.clock, self.tools, self.audience = home, clock, tools, audience
        self.now = clock.now
        self.revocations = 0
        self.ledger = Ledger(home, clock)
        self.approved: dict[str, Request] = {}
        self.unable = ""

    def keep(self, policy: Policy, lock: Lock | None, trust: Trust, environment: Mapping[str, Frozen], bundle: bytes | None) -> Stamp:
        """Keep what later records name by digest. Raises EvidenceUnavailable."""
        objects = self.home.objects
        return Stamp(
            anchors=objects.put(trust.canonical),
            bundle=objects.put(bundle) if bundle is not None else None,
            environment=self.ledger.document(environment),
            lock=objects.put(lock.canonical) if lock is not None else None,
            policy=objects.put(policy.canonical),
        )

    # --- decisions --------------------------------------------------------------------------------------------------------------

    def forms(self, call: ToolCall, grant: Grant, task: Task | None, stamp: Stamp, memo: Memo | None, *, judged: bool = True) -> Forms:
        """What the records of all calls of one agent, task and tool under one snapshot share, remembered with the task.

        judged  False where no check came to the decision, so that nobody need try to run it again
        """
        tool = self.tools.get(call.tool)
        known = memo.forms.get(call.tool) if memo is not None else None
        if known is not None and known.tool is tool and known.grant is grant and known.agent == call.agent:
            return known
        chain = grant.chain
        presented = memo.chain if memo is not None else None
        if presented is None and chain is not None and task is not None:
            presented = self.ledger.chain(chain)
            if memo is not None:
                memo.chain = presented
        version = tool.fingerprint if tool is not None else None
        decision = self.ledger.decision_form(
            agent=call.agent[:256],
            tool=call.tool[:256],
            chain=chain,
            presented=presented,
            tool_version=version,
            measured=self.ledger.document(self._measured(grant, tool)) if judged else None,
            **stamp._asdict(),
        )
        made = Forms(tool, grant, call.agent, decision, self.ledger.outcome_form(chain.task_id if chain is not None else None, version))
        if memo is not None:
            if len(memo.forms) >= _MAX_FORMS:
                memo.forms.clear()
            memo.forms[call.tool] = made
        return made

    def _measured(self, grant: Grant, tool: Tool | None) -> dict[str, Any]:
        """What a decision rests on and no other member of its record names."""
        return {
            "agents": list(grant.agents),
            "audience": self.audience,
            "clock": self.clock.unreliable,
            "issuer": self.home.issuer.key.thumbprint(),
            "opaque": tool is not None and tool.opaque,
            "possessed": grant.possessed,
            "present": grant.present,
        }

    def pend(
        self,
        decision: Decision,
        call: ToolCall,
        binding: Binding,
        forms: Forms,
        now: int,
        revocations: int,
        usage: Usage = NO_USAGE,
        *,
        permit: Permit | None = None,
        rerun: bool = False,
        cause: str | None = None,
        note: bytes | None = None,
    ) -> Pending:
        """The record of a decision, ready to be written, behind a note that belongs to it. What it names by digest is kept before."""
        caused_by = cause or current_execution.get()
        reserved = permit.reservation.account.keys if permit is not None else None
        record = self.ledger.decision(forms.decision, decision, call, binding, caused_by, revocations, rerun, now, usage, reserved)
        return Pending((record,) if note is None else (note, record), decision, permit)

    def write(self, pending: Pending) -> Pending:
        """Stage 14: no evidence, no call."""
        records, _, permit = pending
        if records:
            try:
                self.ledger.write(*records, forsaken=permit.forsaken if permit is not None else None)
            except EvidenceUnavailable as error:
                return self._unwritten(pending.decision, error)
        return pending

    async def awrite(self, pending: Pending) -> Pending:
        """The same for asyncio: where it waits for the disk, the event loop does not."""
        records, _, permit = pending
        if records:
            try:
                await self.ledger.awrite(*records, forsaken=permit.forsaken if permit is not None else None)
            except EvidenceUnavailable as error:
                return self._unwritten(pending.decision, error)
        return pending

    def _unwritten(self, was: Decision, error: EvidenceUnavailable) -> Pending:
        """The denial of a call whose record is not durable. If the log is sick, so is the guard from now on, and what was reserved stays so
        until it is opened anew, since the record may be there. If only this record found no room, `forsake` is told."""
        busy = isinstance(error, LogBusy)
        if not busy:
            self.unable = self.unable or str(error)
        fix = "try again later" if busy else "reopen the guard"
        reason = Reason(Code.EVIDENCE_UNAVAILABLE, "log", "a durable record of the decision", str(error), fix=fix)
        refused = structs.replace(
            was, verdict=Verdict.DENY, code=reason.code, stage=Stage.EVIDENCE, reasons=(reason, *was.reasons), reserved=(), execution=""
        )
        return Pending((), refused, None)

    def forsake(self, permit: Permit, written: bool) -> None:
        """What becomes of an admitted call that nobody waits for any more: `not_run` behind a decision that stands; where it was never
        written, what was reserved is given back. Waits for nothing."""
        if written:
            self._submit_outcome(permit, "not_run", self.ledger.outcome(permit.form, permit.execution, "not_run"))
        else:
            self._settle(permit, "released")

    def refused(
        self, call: ToolCall, stage: Stage, reason: Reason, grant: Grant, task: Task | None, stamp: Stamp, cause: str | None = None
    ) -> Pending:
        """A denial that no check came to, ready to be written."""
        decision = executed(refuse(call, stamp.policy, stage, reason), self.ledger.next_id())
        forms = self.forms(call, grant, task, stamp, None, judged=False)
        return self.pend(decision, call, Binding(call.arguments), forms, self.now(), self.revocations, cause=cause)

    def refusal(self, call: ToolCall, stage: Stage, reason: Reason, cause: str) -> Decision:
        """A denial of what somebody tried with the permit of execution `cause`: recorded, where that is still possible."""
        stamp = self.stamp
        pending = Pending((), refuse(call, stamp.policy, stage, reason), None)
        with suppress(EvidenceUnavailable):
            pending = self.write(self.refused(call, stage, reason, NO_GRANT, None, stamp, cause))
        return pending.decision

    # --- outcomes ---------------------------------------------------------------------------------------------------------------

    def record_outcome(self, permit: Permit, status: str, *, output: Any = None, error: BaseException | None = None) -> None:
        """Append the outcome of a permit's run, then let the state know."""
        record = self._outcome(permit, status, output, error)
        try:
            self.ledger.write(record, bounded=False)
        except LogBusy:
            # This thread is writing a record already, and what it was interrupted by (a stream that the garbage collector closes) cannot
            # wait for it. It need not where there is no output to hand out.
            if status == "ok":
                raise
            self._submit_outcome(permit, status, record)
        else:
            self._settle(permit, status)

    def arecord_outcome(self, permit: Permit, status: str, *, output: Any = None, error: BaseException | None = None) -> Awaitable[None]:
        """The same for asyncio. Makes the record now; what is to be awaited writes it, and a cancellation waits until it stands."""
        return self._awrite_outcome(permit, status, self._outcome(permit, status, output, error))

    def _outcome(self, permit: Permit, status: str, output: Any, error: BaseException | None) -> bytes:
        permit.counted = _counted(permit, status, output)
        return self.ledger.outcome(
            permit.form, permit.execution, status, output=output, error=error, counted=permit.counted, shaped=permit.shaped
        )

    async def _awrite_outcome(self, permit: Permit, status: str, record: bytes) -> None:
        try:
            await self.ledger.awrite(record, bounded=False)
        except asyncio.CancelledError:  # comes through when the record stands
            self._settle(permit, status)
            raise
        self._settle(permit, status)

    def _submit_outcome(self, permit: Permit, status: str, record: bytes) -> None:
        def done(answer: int | str) -> None:
            if type(answer) is int:
                self._settle(permit, status)

        self.ledger.submit(record, done=done)

    def _settle(self, permit: Permit, status: str) -> None:
        try:
            self.home.state.settle(permit.reservation, status, permit.counted)
        except StateUnavailable as error:  # the log has the outcome; the state catches up when it is reconciled
            say("the state store did not take an outcome", execution=permit.execution, error=str(error))
        if self.approved:
            self._settle_approval(permit.execution, status)

    def _settle_approval(self, execution: str, status: str) -> None:
        """A request has served when its call ran. If the tool never started, or was interrupted to be called again, it still stands."""
        request = self.approved.pop(execution, None)
        if request is not None and status not in NEVER_RAN and status != PAUSED:
            try:
                self.home.inbox.retire(request)
            except StateUnavailable as error:  # it goes when it has expired, and is good for no other call until then
                say("a used request for approval was not removed", request=request.id, error=str(error))

    def poison(self, why: str) -> None:
        """Deny everything from here on: the log cannot be trusted to be complete."""
        self.unable = self.unable or why
        self.home.log.poison(why)


def _counted(permit: Permit, status: str, output: Any) -> tuple[tuple[str, int], ...]:
    """The counters that an outcome moves: those that a success earns, and what it cost against what was set aside."""
    account = permit.reservation.account
    if status != "ok" or not (account.earned or account.meters):
        return ()
    plainly = _plainly(output) if account.meters else None
    costs = [(meter.key, metered(meter, plainly)) for meter in account.meters]
    return (*((key, 1) for key in account.earned), *((key, cost) for key, cost in costs if cost))


def _plainly(output: Any) -> Any:
    """An output as JSON; None where it has no such form, and so tells no cost."""
    try:
        return freeze(plain(output))
    except BaseException:  # noqa: BLE001  # whatever somebody's object does, what was set aside stays charged
        return None


def executed(decision: Decision, execution: str) -> Decision:
    """The decision under its execution's id."""
    return structs.replace(decision, call_id=decision.call_id or execution, execution=execution)
