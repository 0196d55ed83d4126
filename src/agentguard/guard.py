"""The guard: the one enforcement point (DESIGN §2).

`check` turns a call into a permit or raises `Denied`. It verifies, decides, admits and records, in this order, and the tool has not run.
The sync and the async path share everything but the write: `check` writes, `acheck` awaits the write.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple, ParamSpec, TypeVar, overload

from agentguard import control, evidence
from agentguard.artifact import Initiator, parse_presentation
from agentguard.authority import Authority
from agentguard.call import ToolCall
from agentguard.canonical import Frozen
from agentguard.chain import ChainError, Limits, VerifiedChain
from agentguard.context import current_execution, current_task, lent_permit
from agentguard.decide import Binding, Facts, Grant, decide, from_chain_error, refuse, reservation, standing
from agentguard.decision import Code, Decision, Reason, Stage, Verdict
from agentguard.environment import NANOSECOND, Clock, measure
from agentguard.errors import AgentguardError, ApprovalRequired, Denied, EvidenceUnavailable, InvalidInput, StateUnavailable
from agentguard.home import DEFAULT, Durability, Home
from agentguard.integrity import LOCK_FILE, Lock, Tool, register
from agentguard.keys import Signer
from agentguard.ledger import Ledger
from agentguard.notice import say
from agentguard.permit import LIFETIME_NS, Permit
from agentguard.policy import Policy, load
from agentguard.state import ADMITTED, Exhausted, Replayed, Reservation, Superseded
from agentguard.task import Task, initiator_of, parse_ttl

P = ParamSpec("P")
R = TypeVar("R")
_NONE: Final[Mapping[str, Frozen]] = MappingProxyType({})
_MAX_RACES: Final = 3
#: Where there is no task there is no agent; the call is judged under this name and denied for want of an artifact.
NOBODY: Final = "nobody"


class _Pending(NamedTuple):
    """A judged call whose record is not written yet."""

    record: bytes | None
    decision: Decision
    permit: Permit | None


class Guard:
    """The guard over one home directory and one policy. Open it with `Guard.open`."""

    def __init__(
        self, home: Home, policy: Policy, lock: Lock | None, environment: Mapping[str, Any] | None, audience: str | None, unsafe_development: bool
    ) -> None:
        self._home, self.policy, self.lock = home, policy, lock
        self.clock = Clock(floor=control.clock_floor(home))
        self.environment = measure(environment, lock=lock.digest if lock is not None else None)
        self._ledger = Ledger(home, self.clock)
        self._tools: dict[str, Tool] = {}
        self._unsafe_development = unsafe_development
        self.blocking = home.durability == "fsync"
        self.audience = audience or f"urn:agentguard:{home.state.domain}"
        limits = Limits()
        self._authority = Authority(home, policy, self.environment, tuple(environment or ()), limits)
        self._facts = Facts(
            self.environment, home.state.revocations(), limits, (self.audience,), self.clock.unreliable, home.state.domain
        )
        self._policy_place = policy.digest
        self._environment_object = self._ledger.document(self.environment)
        self._anchors = home.trust.digest
        self._observed: set[str] = set()
        self._opening()

    @classmethod
    def open(
        cls,
        policy: str | Path | Policy,
        *,
        home: str | Path = DEFAULT,
        durability: Durability = "fsync",
        environment: Mapping[str, Any] | None = None,
        audience: str | None = None,
        unsafe_development: bool = False,
    ) -> Guard:
        """Open a guard.

        policy              path or text of a policy
        home                directory of keys, log and state; made on first use
        durability          "fsync": evidence survives power loss; "process": it survives a killed process
        environment         facts to add to the measured ones, for example {"deployment": "staging"}
        audience            the name under which proofs from elsewhere must address this guard
        unsafe_development  let a tool be registered anew with other code (a re-run notebook cell); recorded, and said aloud

        Raises InvalidInput where the policy, a key file, the lock or the log cannot be used; the message names the place.
        """
        rules = policy if isinstance(policy, Policy) else load(policy)
        opened = Home(home, durability=durability)
        try:
            control.reconcile(opened)
            lock = Lock.load(opened.path / LOCK_FILE)
            return cls(opened, rules, lock, environment, audience, unsafe_development)
        except BaseException:
            opened.close()
            raise

    def _opening(self) -> None:
        """Keep what later records name by digest, then say that the guard opened."""
        documents = self._home.objects
        documents.put(self.policy.canonical)
        if self.lock is not None:
            documents.put(self.lock.canonical)
        self._ledger.note(
            "open",
            {
                "anchors": self._anchors,
                "durability": self._home.durability,
                "environment": self._environment_object,
                "lock": self.lock.digest if self.lock is not None else None,
                "policy": self.policy.digest,
                "unsafe_development": self._unsafe_development,
            },
        )
        for warning in self.policy.warnings:
            say("policy warning", warning=warning)
        if self._unsafe_development:
            say("UNSAFE development mode: tools may be registered anew with other code")
        if self.clock.unreliable:
            say("the wall clock is unreliable: every call is denied", found=self.clock.unreliable, mend="agentguard log accept-clock")

    def close(self) -> None:
        """Write the last checkpoint and let go of log and state. Calls after this are denied."""
        self._home.close()

    def __enter__(self) -> Guard:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # --- tools ------------------------------------------------------------------------------------------------------------------

    @overload
    def tool(self, fn: Callable[P, R], /) -> Callable[P, R]: ...

    @overload
    def tool(self, *, name: str | None = None, injected: tuple[str, ...] = ()) -> Callable[[Callable[P, R]], Callable[P, R]]: ...

    def tool(self, fn: Any = None, /, *, name: str | None = None, injected: tuple[str, ...] = ()) -> Any:
        """Guard a function: sync, async, generator or async generator. Each call is checked before the body runs.

        name       under which policy and artifacts know it; the function's own by default
        injected   arguments that the caller's framework fills in; they are passed on unchecked, and a model may not present them
        """
        if fn is None:
            return lambda body: self.tool_wrapper(self.register(register(body, name=name, injected=injected)), body)
        return self.tool_wrapper(self.register(register(fn)), fn)

    def register(self, tool: Tool) -> Tool:
        """Make a tool known. The same tool again is fine; another one under its name is refused."""
        if ToolCall(NOBODY, tool.name, {}).defect:
            raise InvalidInput(f"the tool name {tool.name!r:.80} must be 1 to 256 printable ASCII characters")
        known = self._tools.get(tool.name)
        if known is not None and known.fingerprint != tool.fingerprint:
            if not self._unsafe_development:
                raise InvalidInput(
                    f"another tool is registered as {tool.name!r}: {known.entry.differs(tool.entry)} differs",
                    hint="give it another name, or open the guard with unsafe_development=True in a notebook",
                )
            say("UNSAFE: a tool was registered anew with other code", tool=tool.name)
        if known is None or known.fingerprint != tool.fingerprint:
            self._ledger.note("lock", {"tool": tool.name, "fingerprint": tool.fingerprint, "entry": tool.entry.to_json(), "again": known is not None})
        self._tools[tool.name] = tool
        return tool

    @property
    def tools(self) -> Mapping[str, Tool]:
        """The registered tools by name."""
        return MappingProxyType(self._tools)

    def tool_wrapper(self, tool: Tool, fn: Callable[..., Any]) -> Callable[..., Any]:
        """The function that stands in for `fn`."""
        wrapper: Any
        if inspect.iscoroutinefunction(fn):

            async def wrapper(*args: Any, **kwargs: Any) -> Any:
                call, hidden = self._called(tool, args, kwargs)
                permit = self.borrow(tool, call.arguments) or await self.acheck(call)
                return await permit.arun(fn, hidden)

            inspect.markcoroutinefunction(wrapper) if hasattr(inspect, "markcoroutinefunction") else None
        else:

            def wrapper(*args: Any, **kwargs: Any) -> Any:
                call, hidden = self._called(tool, args, kwargs)
                permit = self.borrow(tool, call.arguments) or self.check(call)
                return permit.run(fn, hidden)

        functools.update_wrapper(wrapper, fn)
        wrapper.__agentguard_tool__ = tool
        return wrapper  # type: ignore[no-any-return]  # a function by construction

    def _called(self, tool: Tool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[ToolCall, dict[str, Any]]:
        """A Python call as a ToolCall of the current agent, injected arguments set aside."""
        task = current_task.get()
        agent = task.agent if task is not None else NOBODY
        hidden = {name: kwargs.pop(name) for name in tool.entry.injected if name in kwargs}
        try:
            return ToolCall(agent, tool.name, tool.parameters.present(args, kwargs)), hidden
        except InvalidInput as error:
            return ToolCall.malformed(agent, tool.name, str(error)), hidden

    def borrow(self, tool: Tool, arguments: Mapping[str, Frozen]) -> Permit | None:
        """The permit that a framework's hook lent for exactly this call, if there is one."""
        permit = lent_permit.get()
        if permit is None:
            return None
        task = current_task.get()
        return permit if permit.covers(tool, arguments, task.id if task is not None else None) else None

    # --- tasks ------------------------------------------------------------------------------------------------------------------

    def task(
        self,
        agent: str,
        *,
        initiator: str | Initiator,
        scope: Mapping[str, Any] | None = None,
        ttl: str | int = "15m",
        trusted_input: str | None = None,
        uses: int | None = None,
    ) -> Task:
        """Start a task for `agent` on behalf of `initiator`: use it as a context manager, sync or async, or with `.start()`/`.close()`.

        scope          {tool: {argument: constraint}} as in the policy; {} grants nothing; None grants what the policy names for the agent
                       and for those it may delegate to, the policy's own constraints staying in force
        ttl            how long the artifact is valid: "90s", "15m", "2h"
        trusted_input  the initiator's own words; kept as a commitment
        uses           at most so many calls
        """
        make = {"initiator": initiator_of(initiator), "scope": scope, "ttl": parse_ttl(ttl), "trusted_input": trusted_input, "uses": uses}
        return Task(self, agent, make=make)

    def accept(self, presentation: str | bytes | Mapping[str, Any], key: Signer | None = None) -> Task:
        """Open a task under a chain received from elsewhere, judged against the configured trust anchors at every call.

        With the leaf's private `key` the guard knows that the holder is here; without it each call must bring a proof, addressed to
        `guard.audience`. A chain that does not verify opens a task in which every call is denied with the code that says why.
        """
        try:
            tokens, proof = parse_presentation(presentation)
        except InvalidInput as error:
            task = Task(self, NOBODY, presentation=(str(error),))
            return task
        task = Task(self, NOBODY, presentation=tokens)
        task.proof = proof
        grant = self._authority.grant(task)
        if grant.chain is not None:
            task.agent = grant.agents[-1] or NOBODY
            task.adopt(grant.chain.task_id)
            task.possessed = key is not None and key.public == grant.chain.leaf.holder
        return task

    def issue(self, task: Task, make: Mapping[str, Any]) -> VerifiedChain:
        """Mint or derive the artifact of a task, and record it. For `Task`; raises Denied."""
        now = self.now()
        seconds = now // NANOSECOND
        parent = task.parent
        if parent is None:
            reason = self.policy.known(task.agent)
            if reason is not None:
                raise self._refused(task, "agentguard.task", Stage.POLICY, reason)
            chain = self._authority.mint(
                task.agent,
                task=self._ledger.next_id(),
                initiator=make["initiator"],
                scope=make["scope"],
                ttl=make["ttl"],
                uses=make["uses"],
                now=seconds,
            )
        else:
            chain = self._derive(task, parent, make, seconds)
        grant = Grant(True, chain, None, (), True)
        names = (*(self._authority.grant(parent).agents if parent is not None else ()), task.agent)
        self._ledger.delegation(
            grant.chain or chain,
            len(chain.links) - 1,
            agents=names,
            caused_by=current_execution.get(),
            observed=False,
            trusted_input=make.get("trusted_input"),
        )
        return chain

    def _derive(self, task: Task, parent: Task, make: Mapping[str, Any], seconds: int) -> VerifiedChain:
        parent.issue()
        grant = self._authority.grant(parent)
        call = ToolCall(parent.agent, "agentguard.delegate", {"to": task.agent})
        failed = standing(call, grant, self.policy, self._current_facts(), seconds)
        if failed is not None:
            raise self._refused(task, call.tool, failed.stage, failed.reasons[0])
        chain = grant.chain
        path = (*(name or "" for name in grant.agents), task.agent)
        reason = self.policy.known(task.agent) or self.policy.may_delegate(path)
        if reason is None and chain is not None and not chain.profile:
            reason = Reason(Code.DELEGATION_NOT_ALLOWED, task.agent, "a chain of the agentguard profile", "a plain chain")
        if reason is not None or chain is None:
            raise self._refused(task, call.tool, Stage.POLICY, reason or Reason(Code.ARTIFACT_MISSING, parent.agent))
        try:
            ttl = make["ttl"]
            return self._authority.derive(
                chain,
                parent.agent,
                task.agent,
                scope=make["scope"],
                ttl=parse_ttl(ttl) if ttl is not None else None,
                uses=make["uses"],
                now=seconds,
            )
        except ChainError as error:
            raise self._refused(task, call.tool, Stage.CHAIN, from_chain_error(error)) from None

    def _refused(self, task: Task, what: str, stage: Stage, reason: Reason) -> Denied:
        """Record that a task or a delegation was refused, and give the exception to raise."""
        agent = task.parent.agent if task.parent is not None else task.agent
        call = ToolCall(agent, what, {"to": task.agent})
        decision = self.refusal(call, stage, reason, self._ledger.next_id())
        pending = self._pend(decision, call, call.arguments, self._authority.grant(task.parent), task.parent, None, (), self.now())
        self._write(pending)
        return Denied(decision)

    # --- checking ---------------------------------------------------------------------------------------------------------------

    def check(self, call: ToolCall, *, task: Task | None = None) -> Permit:
        """Judge a call: a single-use permit, or `Denied`. The decision is in the log when this returns or raises.

        `task` names the authority; by default it is the current one.
        """
        return self._conclude(self._write(self._pending(call, task)))

    async def acheck(self, call: ToolCall, *, task: Task | None = None) -> Permit:
        """The same for asyncio. In `fsync` durability an executor writes, so the event loop never waits on a sync."""
        pending = self._pending(call, task)
        if not self.blocking:
            return self._conclude(self._write(pending))
        work = asyncio.get_running_loop().run_in_executor(None, self._write, pending)
        try:
            return self._conclude(await asyncio.shield(work))
        except asyncio.CancelledError:
            if pending.permit is not None:
                work.add_done_callback(lambda done: _abandon(done, pending.permit))
            raise

    def decide(self, call: ToolCall, *, task: Task | None = None) -> Decision:
        """The dry run: stages 0 to 12. Nothing is admitted, nothing is written."""
        task = task if task is not None else current_task.get()
        call = call if type(call) is ToolCall else ToolCall.malformed(NOBODY, "", "not a ToolCall")
        return decide(call, self._bind(call), self._authority.grant(task), self.policy, self._current_facts(), self.now() // NANOSECOND)

    def _pending(self, call: ToolCall, task: Task | None) -> _Pending:
        """Judge and admit. Whatever breaks in here denies: a permit exists only at the end of the one path that leads to it."""
        try:
            return self._judge(call if type(call) is ToolCall else ToolCall.malformed(NOBODY, "", "not a ToolCall"), task)
        except (KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError):
            raise
        except BaseException as error:  # noqa: BLE001  # the one place: a native engine's panic is not an Exception, and it denies too
            return self._crashed(call, error)

    def _judge(self, call: ToolCall, task: Task | None) -> _Pending:
        task = task if task is not None else current_task.get()
        if task is not None and task.proof is not None and call.proof is None:
            call = call.with_proof(task.proof)
        binding = self._bind(call)
        execution = self._ledger.next_id()
        decision: Decision | None = None
        for _ in range(_MAX_RACES):
            facts, now = self._facts, self.now()
            grant = self._authority.grant(task)
            decision = decide(call, binding, grant, self.policy, facts, now // NANOSECOND)
            if decision.allowed and grant.chain is not None:
                refused = self._admit(call, grant.chain, task, facts, execution, now)
                if isinstance(refused, tuple):
                    return self._permit(decision, call, binding, grant, task, execution, refused, now)
                if refused is not None:
                    decision = refuse(call, self.policy.digest, Stage.ADMISSION, refused)
                    break
            elif not self._moved():
                break
            self._refresh()
            decision = None
        if decision is None:
            reason = Reason(Code.STATE_UNAVAILABLE, call.tool, "a state that holds still", f"{_MAX_RACES} lost races")
            decision = refuse(call, self.policy.digest, Stage.ADMISSION, reason)
        return self._pend(_executed(decision, execution), call, binding.bound, grant, task, None, (), now)

    def _bind(self, call: ToolCall) -> Binding:
        """The call as its tool sees it. An unknown tool stays unbound, to be refused by scope or policy."""
        tool = self._tools.get(call.tool)
        if tool is None:
            missing = self.lock is not None and (call.tool in self.lock.entries or self.policy.knows_tool(call.tool))
            return Binding(call.arguments, integrity="it is not registered with this guard" if missing else "")
        integrity = tool.changed() or (self.lock.judge(tool) if self.lock is not None else "")
        if call.defect:
            return Binding(_NONE, "", integrity, tool.opaque)
        try:
            return Binding(tool.bind(call.arguments), "", integrity, tool.opaque)
        except InvalidInput as error:
            return Binding(_NONE, str(error), integrity, tool.opaque)

    def _admit(
        self, call: ToolCall, chain: VerifiedChain, task: Task | None, facts: Facts, execution: str, now: int
    ) -> tuple[str, ...] | Reason | None:
        """Stage 13: the names of the charged counters; a reason; or None when the state moved and the call must be judged again."""
        charges = reservation(call, chain, self.policy, facts, now // NANOSECOND)
        if isinstance(charges, Reason):
            return charges
        request = Reservation(
            execution,
            self._home.log.shard,
            chain.task_id,
            call.agent,
            call.call_id or execution,
            facts.revocations.version,
            charges,
            self.policy.attributes(call.tool).rerun_safe,
            chain.leaf.exp,
        )
        try:
            result = self._home.state.admit(request)
        except StateUnavailable as error:
            return Reason(Code.STATE_UNAVAILABLE, "state", "a state store that answers", str(error))
        if result is ADMITTED:
            return tuple(charge.key for charge in charges)
        if isinstance(result, Superseded):
            return None
        if isinstance(result, Replayed):
            found = f"execution {result.first}" + (f" ({result.outcome})" if result.outcome else "")
            return Reason(Code.REPLAY_DETECTED, call.call_id or execution, "a call id that this task has not seen", found)
        if isinstance(result, Exhausted):
            if result.key.startswith("proof/"):
                return Reason(Code.REPLAY_DETECTED, "proof", "a proof that was not used before", "a used one")
            return Reason(Code.BUDGET_EXHAUSTED, result.name, f"at most {result.limit}", f"{result.limit} used")
        raise AgentguardError(f"unexpected answer of the state store: {result!r}")

    def _permit(
        self,
        decision: Decision,
        call: ToolCall,
        binding: Binding,
        grant: Grant,
        task: Task | None,
        execution: str,
        charged: tuple[str, ...],
        now: int,
    ) -> _Pending:
        """The end of the one path that leads to a permit. If anything breaks here, the admission is taken back."""
        try:
            decision = Decision(
                Verdict.ALLOW, None, Stage.EVIDENCE, (), call.agent, call.tool, call.call_id or execution, decision.policy, charged, execution
            )
            chain = grant.chain
            if chain is None or task is None:
                raise AgentguardError("admitted without a chain")
            self._observe(task, grant)
            expires = min(now + LIFETIME_NS, chain.leaf.exp * NANOSECOND)
            permit = Permit(
                self, self._tools.get(call.tool), call.with_arguments(binding.bound, decision.call_id), call, decision, chain.task_id, expires
            )
            return self._pend(decision, call, binding.bound, grant, task, permit, charged, now)
        except BaseException:
            self._home.state.release(execution)
            raise

    def _observe(self, task: Task, grant: Grant) -> None:
        """Record the links of a chain that was derived elsewhere, the first time this guard sees it (DESIGN §4)."""
        if task.observed or grant.chain is None:
            return
        for index, link in enumerate(grant.chain.links):
            if link.hash not in self._observed:
                self._ledger.delegation(grant.chain, index, agents=grant.agents, caused_by=None, observed=True)
                if len(self._observed) > 100_000:
                    self._observed.clear()
                self._observed.add(link.hash)
        task.observed = True

    # --- recording --------------------------------------------------------------------------------------------------------------

    def _pend(
        self,
        decision: Decision,
        call: ToolCall,
        bound: Mapping[str, Frozen],
        grant: Grant,
        task: Task | None,
        permit: Permit | None,
        charged: tuple[str, ...],
        now: int,
    ) -> _Pending:
        chain = grant.chain
        if chain is not None and task is not None and task.chain_object is None:
            task.chain_object = self._ledger.chain(chain)
        tool = self._tools.get(call.tool)
        record = self._ledger.decision(
            decision,
            call,
            bound,
            execution=decision.execution,
            task=chain.task_id if chain is not None else None,
            caused_by=current_execution.get(),
            chain=chain,
            presented=task.chain_object if task is not None else None,
            anchors=self._anchors,
            environment=self._environment_object,
            lock=self.lock.digest if self.lock is not None else None,
            revocations=self._facts.revocations.version,
            tool_version=tool.fingerprint if tool is not None else None,
            reserved=evidence.reserved(charged) if charged else evidence.EMPTY_LIST,
            now=now,
        )
        return _Pending(record, decision, permit)

    def _write(self, pending: _Pending) -> _Pending:
        """Stage 14: no evidence, no call."""
        if pending.record is None:
            return pending
        try:
            self._ledger.write(pending.record)
            return pending
        except EvidenceUnavailable as error:
            decision = pending.decision
            if pending.permit is not None:
                self._unreserve(decision.execution)
            reason = Reason(Code.EVIDENCE_UNAVAILABLE, "log", "a durable record of the decision", str(error), fix="reopen the guard")
            refused = Decision(
                Verdict.DENY, reason.code, Stage.EVIDENCE, (reason, *decision.reasons), decision.agent, decision.tool, decision.call_id, decision.policy
            )
            return _Pending(None, refused, None)

    def _unreserve(self, execution: str) -> None:
        try:
            self._home.state.release(execution)
        except StateUnavailable as error:
            say("a reservation stays until the log is reconciled", execution=execution, error=str(error))

    def _conclude(self, pending: _Pending) -> Permit:
        if pending.permit is not None:
            return pending.permit
        raise (ApprovalRequired if pending.decision.verdict is Verdict.ASK else Denied)(pending.decision)

    def _crashed(self, call: Any, error: BaseException) -> _Pending:
        """A fault inside the guard denies, and is recorded where that is still possible."""
        say("the guard failed, the call is denied", error=f"{type(error).__name__}: {error}")
        call = call if type(call) is ToolCall else ToolCall.malformed(NOBODY, "", "not a ToolCall")
        code = Code.STATE_UNAVAILABLE if isinstance(error, StateUnavailable) else Code.EVIDENCE_UNAVAILABLE
        if not isinstance(error, StateUnavailable | EvidenceUnavailable):
            code = Code.GUARD_ERROR
        stage = {Code.STATE_UNAVAILABLE: Stage.ADMISSION, Code.EVIDENCE_UNAVAILABLE: Stage.EVIDENCE}.get(code, Stage.CALL)
        reason = Reason(code, call.tool, "a guard that works", f"{type(error).__name__}: {error}"[:200])
        decision = refuse(call, self.policy.digest, stage, reason)
        try:
            decision = _executed(decision, self._ledger.next_id())
            return self._pend(decision, call, call.arguments, Grant(), None, None, (), self.now())
        except Exception:  # noqa: BLE001  # what broke the check may break its record: the denial stands without one
            return _Pending(None, decision, None)

    def refusal(self, call: ToolCall, stage: Stage, reason: Reason, execution: str) -> Decision:
        """A denial with one reason, under an execution's id."""
        return _executed(refuse(call, self.policy.digest, stage, reason), execution)

    def record_outcome(self, permit: Permit, status: str, *, output: Any = None, error: BaseException | None = None) -> None:
        """Append the outcome of a permit's run, then let the state know. For `Permit`."""
        version = permit.tool_version
        self._ledger.write(self._ledger.outcome(permit.execution, status, task=permit.task, tool_version=version, output=output, error=error))
        self._settle(permit.execution, status)

    def record_stream(self, permit: Permit, digest: str, kept: bytes) -> None:
        """The same for a generator that ended: its items are the output."""
        commitment = self._ledger.output(permit.execution, digest.encode() + b"\n" + kept)
        version = permit.tool_version
        self._ledger.write(self._ledger.outcome_of(permit.execution, "ok", commitment, "stream", task=permit.task, tool_version=version))
        self._settle(permit.execution, "ok")

    def _settle(self, execution: str, status: str) -> None:
        try:
            if status == "not_run":
                self._home.state.release(execution)
            else:
                self._home.state.settle(execution, status)
        except StateUnavailable as error:  # the log has the outcome; the state catches up when it is reconciled
            say("the state store did not take an outcome", execution=execution, error=str(error))

    # --- state of the world -----------------------------------------------------------------------------------------------------

    def now(self) -> int:
        """The guard's time, in nanoseconds since the epoch; it never goes back."""
        return self.clock.now()

    def _moved(self) -> bool:
        return self._home.state.version() != self._facts.revocations.version

    def _refresh(self) -> None:
        old = self._facts
        self._facts = Facts(old.environment, self._home.state.revocations(), old.limits, old.audience, old.clock, old.domain)

    def _current_facts(self) -> Facts:
        if self._moved():
            self._refresh()
        return self._facts

    def stop(self, kind: str, value: str = "all", *, by: str = "operator", reason: str = "") -> None:
        """Withdraw authority at once, for every guard on this home: kind is link, task, agent, initiator, key or all."""
        control.stop(self._home, self._ledger, kind, value, by=by, reason=reason)

    def poison(self, why: str) -> None:
        """Deny everything from here on: the log cannot be trusted to be complete."""
        self._home.log.poison(why)


def _executed(decision: Decision, execution: str) -> Decision:
    """The decision under its execution's id."""
    return Decision(
        decision.verdict,
        decision.code,
        decision.stage,
        decision.reasons,
        decision.agent,
        decision.tool,
        decision.call_id or execution,
        decision.policy,
        decision.reserved,
        execution,
    )


def _abandon(done: Any, permit: Permit | None) -> None:
    """The caller of `acheck` went away while its record was written: the permit was never handed out."""
    if permit is not None and not done.cancelled() and done.exception() is None and done.result().permit is permit:
        done.get_loop().run_in_executor(None, permit.release)

