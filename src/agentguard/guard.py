"""The guard: the one enforcement point (DESIGN §2).

`check` turns a call into a permit or raises `Denied`; the decision is in the log by then, and the tool has not run. The sync and the async
path share everything but the write: `check` writes, `acheck` awaits the write.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from agentguard import control
from agentguard.artifacts.chain import VerifiedChain
from agentguard.artifacts.making import Initiator, parse_presentation
from agentguard.asking import in_event_loop
from agentguard.bundle_home import take_over
from agentguard.call import ToolCall
from agentguard.canonical import Frozen
from agentguard.context import current_task, lent_permit
from agentguard.decision import Decision, Reason, Stage, Verdict
from agentguard.enforcement import NOBODY, Enforcement, readable
from agentguard.environment import NANOSECOND
from agentguard.errors import ApprovalRequired, Denied, InvalidInput
from agentguard.home import DEFAULT, Durability, Home
from agentguard.issuing import Issuing
from agentguard.keys import Signer
from agentguard.notice import say
from agentguard.permit import Permit
from agentguard.policy.model import Policy
from agentguard.snapshot import Snapshot, given_by, read_orders
from agentguard.spans import parse_span
from agentguard.task import Task, initiator_of
from agentguard.tools.bodies import awaits
from agentguard.tools.integrity import Binder, Tool, mark, register

if TYPE_CHECKING:
    from agentguard.reading.lineage import Lineage

P = ParamSpec("P")
R = TypeVar("R")


class Guard:
    """The guard over one home directory and one policy. Open it with `Guard.open`; it is a context manager too."""

    def __init__(self, enforcement: Enforcement, *, unsafe_development: bool = False) -> None:
        self._enforcement, self._recording = enforcement, enforcement.recording
        self._issuing = Issuing(enforcement)
        self._unsafe_development = unsafe_development
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

        policy              path or text of a policy, or path of a signed bundle (docs/policy-bundles.md)
        home                directory of keys, log and state; made on first use
        durability          "fsync": evidence survives power loss; "process": it survives a killed process
        environment         facts to add to the measured ones, for example {"deployment": "staging"}
        audience            the name under which proofs from elsewhere must address this guard
        unsafe_development  let a tool be registered anew with other code (a re-run notebook cell); recorded, and said aloud

        Raises InvalidInput where the policy, a key file, the lock or the log cannot be used; the message names the place.
        """
        given = given_by(policy)
        opened = Home(home, durability=durability)
        try:
            control.reconcile(opened)
            orders = read_orders(opened, given, str(policy))
            if orders.bundle is not None:
                take_over(opened, orders.bundle)
            return cls(Enforcement(opened, orders, environment or {}, audience), unsafe_development=unsafe_development)
        except BaseException:
            opened.close()
            raise

    def _opening(self) -> None:
        enforcement = self._enforcement
        detail = {
            **enforcement.in_force.snapshot.named(),
            "durability": self.home.durability,
            "unsafe_development": self._unsafe_development,
        }
        self._recording.ledger.note("open", {**detail, "keep_values": self.home.settings.keep_values})
        _warn(enforcement.in_force.snapshot)
        if self._unsafe_development:
            say("UNSAFE development mode: tools may be registered anew with other code")
        if enforcement.clock.unreliable:
            say(
                "the wall clock is unreliable: every call is denied", found=enforcement.clock.unreliable, mend="agentguard log accept-clock"
            )

    def close(self) -> None:
        """Write the last checkpoint and let go of log and state. Calls after this are denied, and permits from before run nothing."""
        self._recording.unable = self._recording.unable or "the guard is closed"
        control.mark(self.home)
        self.home.close()

    def __enter__(self) -> Guard:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def reload(self, policy: str | Path | Policy) -> None:
        """Judge by another policy or bundle from now on: policy, lock, trust file, revocations and their terms change at once.

        Each check is judged wholly by the old or wholly by the new, and there is no moment without either. Permits that are out keep what
        was checked; tools stay registered; artifacts bound to the old policy are refused from now on (`policy_mismatch`), unless the new
        bundle accepts it. It is recorded before it is in force.

        Raises InvalidInput for what cannot be used, or may not follow: an older bundle, another one with the same version, one of another
        name, or an unsigned policy after a bundle; the old stays in force then. StateUnavailable, EvidenceUnavailable: likewise.
        """
        _warn(self._enforcement.in_force.reload(policy))

    def serves(self, recording: object) -> bool:
        """Whether this is the guard that records here."""
        return self._recording is recording

    @property
    def home(self) -> Home:
        """The home directory, opened."""
        return self._enforcement.home

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._enforcement.in_force.snapshot.policy

    @property
    def environment(self) -> Mapping[str, Frozen]:
        """The facts that artifacts and policy are judged by."""
        return self._enforcement.in_force.snapshot.facts.environment

    @property
    def audience(self) -> str:
        """The name under which a proof from elsewhere must address this guard."""
        return self._enforcement.audience

    @property
    def tools(self) -> Mapping[str, Tool]:
        """The registered tools by name."""
        return MappingProxyType(self._enforcement.tools)

    # --- tools ------------------------------------------------------------------------------------------------------------------

    @overload
    def tool(self, fn: Callable[P, R], /) -> Callable[P, R]: ...

    @overload
    def tool(
        self, fn: None = None, /, *, name: str | None = None, injected: tuple[str, ...] = ()
    ) -> Callable[[Callable[P, R]], Callable[P, R]]: ...

    def tool(self, fn: Callable[..., Any] | None = None, /, *, name: str | None = None, injected: tuple[str, ...] = ()) -> Any:
        """Guard a function: sync, async, generator or async generator. Each call is checked before the body runs.

        name       under which policy and artifacts know it; the function's own by default
        injected   arguments that the caller's framework fills in; they are passed on unchecked, and a model may not present them
        """
        if fn is None:
            return lambda body: self._wrap(self.register(register(body, name=name, injected=injected)), body)
        return self._wrap(self.register(register(fn)), fn)

    def register(self, tool: Tool) -> Tool:
        """Make a tool known. The same tool again is fine; another one under its name is refused."""
        if ToolCall(NOBODY, tool.name, {}).defect:
            raise InvalidInput(f"the tool name {tool.name!r:.80} must be 1 to 256 printable ASCII characters")
        known = self.tools.get(tool.name)
        if known is not None and known.is_the_same(tool):
            return known
        if known is None or known.fingerprint != tool.fingerprint:
            if known is not None and not self._unsafe_development:
                raise InvalidInput(
                    f"another tool is registered as {tool.name!r}: its {known.entry.differs(tool.entry)} differs",
                    hint="give it another name, or open the guard with unsafe_development=True in a notebook",
                )
            if known is not None:
                say("UNSAFE: a tool was registered anew with other code", tool=tool.name)
            detail = {"tool": tool.name, "fingerprint": tool.fingerprint, "entry": tool.entry.to_json(), "again": known is not None}
            self._recording.ledger.note("lock", detail)
        self._enforcement.tools[tool.name] = tool
        return tool

    def _wrap(self, tool: Tool, fn: Callable[..., Any]) -> Callable[..., Any]:
        """The function that stands in for `fn`."""
        wrapper: Any
        if awaits(fn):

            async def wrapper(*args: Any, **kwargs: Any) -> Any:
                call, hidden = self._called(tool, args, kwargs)
                permit = self.borrow(tool, call) or await self.acheck(call, tool=tool)
                return await permit.arun(fn, hidden)

        else:

            def wrapper(*args: Any, **kwargs: Any) -> Any:
                call, hidden = self._called(tool, args, kwargs)
                permit = self.borrow(tool, call) or self.check(call, tool=tool)
                return permit.run(fn, hidden)

        functools.update_wrapper(wrapper, fn)
        mark(wrapper, tool, self._recording)
        return wrapper  # type: ignore[no-any-return]  # a function by construction

    def _called(self, tool: Tool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[ToolCall, dict[str, Any]]:
        """A Python call as a ToolCall of the current agent, injected arguments set aside."""
        task = current_task.get()
        agent = task.agent if task is not None else NOBODY
        injected = tool.entry.injected
        hidden = {name: kwargs.pop(name) for name in injected if name in kwargs} if injected else {}
        try:
            return ToolCall(agent, tool.name, tool.parameters.present(args, kwargs) if args else kwargs), hidden
        except InvalidInput as error:
            return ToolCall.malformed(agent, tool.name, str(error)), hidden

    def borrow(self, tool: Tool, call: ToolCall) -> Permit | None:
        """The permit that a framework's hook lent for exactly this call, if there is one."""
        permit = lent_permit.get()
        if permit is None:
            return None
        task = current_task.get()
        return permit if permit.covers(tool, call, task.id if task is not None else None) else None

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
        wait: str | int | None = None,
    ) -> Task:
        """Start a task for `agent` on behalf of `initiator`: use it as a context manager, sync or async, or with `.start()`/`.close()`.

        scope          {tool: {argument: constraint}} as in the policy; {} grants nothing; None grants what the policy names for the agent
                       and for those it may delegate to, the policy's own constraints staying in force
        ttl            how long the artifact is valid: "90s", "15m", "2h"
        trusted_input  the initiator's own words; kept as a commitment
        uses           at most so many calls
        wait           a call that needs a human's approval waits for it so long; by default `ApprovalRequired` is raised at once
        """
        make = {"initiator": initiator_of(initiator), "scope": scope, "ttl": parse_span(ttl), "trusted_input": trusted_input, "uses": uses}
        return Task(self, agent, make=make, wait=wait)

    def accept(self, presentation: str | bytes | Mapping[str, Any], key: Signer | None = None, *, wait: str | int | None = None) -> Task:
        """Open a task under a chain received from elsewhere, judged against the configured trust anchors at every call.

        With the leaf's private `key` the guard knows that the holder is here; without it each call must bring a proof, addressed to
        `guard.audience`. A chain that does not verify opens a task in which every call is denied with the code that says why.
        """
        try:
            tokens, proof = parse_presentation(presentation)
        except InvalidInput:
            tokens, proof = ("",), None  # no token at all: stage 2 says so at each call
        task = Task(self, NOBODY, presentation=tokens, wait=wait)
        task.proof = proof
        grant = self._enforcement.in_force.snapshot.authority.grant(task)
        if grant.chain is not None:
            task.agent = grant.agents[-1] or NOBODY
            task.adopt(grant.chain.task_id)
            task.possessed = key is not None and key.public == grant.chain.leaf.holder
            task.key = key if task.possessed else None
            task.memo = None  # possession is part of the grant
        return task

    def export(self, task: Task) -> str:
        """A task as text, for `resume` in another process on this home: after a restart, through a queue. Whoever has the text has the
        task's authority there, so keep it as you would keep a key. Raises InvalidInput for a task whose key is not here."""
        return self._issuing.export(task)

    def resume(self, exported: str | bytes, *, wait: str | int | None = None) -> Task:
        """Open a task again that a guard on this home exported. Its id, its artifact, what was counted and what was approved are the same.
        A chain that does not stand any more opens a task in which every call is denied with the code that says why.

        Raises InvalidInput for what no guard on this home exported: the chain alone is no secret, and opens nothing.
        """
        return self._issuing.resume(self.accept(exported, wait=wait))

    def issue(self, task: Task, make: Mapping[str, Any]) -> VerifiedChain:
        """Mint or derive the artifact of a task, and record it. `Task` calls this; raises Denied."""
        return self._issuing.issue(task, make)

    def renew(self, task: Task, make: Mapping[str, Any], ttl: str | int | None) -> VerifiedChain:
        """Make a fresh artifact for a task, and record it. `Task.renew` calls this; raises Denied, InvalidInput."""
        return self._issuing.renew(task, make, ttl)

    # --- checking ---------------------------------------------------------------------------------------------------------------

    def check(self, call: ToolCall, *, task: Task | None = None, tool: Tool | None = None, binder: Binder | None = None) -> Permit:
        """Judge a call: a single-use permit, or `Denied`. The decision is in the log when this returns or raises.

        task   names the authority; by default it is the current one
        tool   the live tool that will run, where several objects share one registered name and fingerprint (for adapters)
        binder how this one call's arguments are bound, in place of the tool's own way (for adapters)
        """
        enforcement, until = self._enforcement, 0.0
        while True:
            pending = self._recording.write(enforcement.pending(call, task, tool, binder))
            if pending.permit is not None:
                return pending.permit
            until = 0.0 if in_event_loop() else enforcement.patience(pending, task, until)
            if not until or not enforcement.asking.wait(pending.decision.request, until):
                raise _refusal(pending.decision)

    async def acheck(self, call: ToolCall, *, task: Task | None = None, tool: Tool | None = None, binder: Binder | None = None) -> Permit:
        """The same for asyncio. Where the write waits for the disk, the event loop does not. If it is cancelled while the decision is being
        written, the log says `not_run` behind it."""
        enforcement, until = self._enforcement, 0.0
        while True:
            pending = await self._recording.awrite(enforcement.pending(call, task, tool, binder))
            if pending.permit is not None:
                return pending.permit
            until = enforcement.patience(pending, task, until)
            if not until or not await enforcement.asking.await_(pending.decision.request, until):
                raise _refusal(pending.decision)

    def wait_answer(self, request: str, timeout: str | int = "15m") -> bool:
        """Wait until the request of an `ApprovalRequired` was answered, used or has expired; False if it was not within `timeout`.

        Whatever it was, make exactly the same call again then: it is judged through all stages, and says what became of it. A thread whose
        event loop would wait as well is refused (InvalidInput).
        """
        if in_event_loop():
            raise InvalidInput("an event loop runs in this thread and would wait too", hint="await guard.await_answer(...)")
        return self._enforcement.asking.wait(request, monotonic() + parse_span(timeout))

    async def await_answer(self, request: str, timeout: str | int = "15m") -> bool:  # noqa: ASYNC109  # a span of time, as everywhere here
        """The same for asyncio."""
        return await self._enforcement.asking.await_(request, monotonic() + parse_span(timeout))

    def refuse(self, call: ToolCall, stage: Stage, reason: Reason, *, task: Task | None = None) -> Denied:
        """Record a refusal that an adapter came to, of something that no check can allow, and give the exception to raise."""
        return self._issuing.refuse(
            self._enforcement.in_force.snapshot, call, stage, reason, task if task is not None else current_task.get()
        )

    def decide(self, call: ToolCall, *, task: Task | None = None) -> Decision:
        """The dry run: stages 0 to 12. Nothing is admitted, nothing is written."""
        enforcement, call = self._enforcement, readable(call)
        task = enforcement.own(task)
        snapshot, now = enforcement.in_force.fresh(), enforcement.clock.now()
        memo = task.recall(snapshot.authority) if task is not None else None
        grant = snapshot.authority.grant(task, memo)
        call = enforcement.proven(snapshot, call, grant, task, now)
        binding = enforcement.bind(snapshot, memo, call, grant, task)
        return enforcement.judged(snapshot, call, binding, grant, snapshot.facts, now // NANOSECOND)[0]

    # --- operating --------------------------------------------------------------------------------------------------------------

    def stop(self, kind: str, value: str = "", *, by: str = "operator", reason: str = "") -> None:
        """Withdraw authority at once, for every guard on this home: kind is link, task, agent, initiator, key or all."""
        control.stop(self.home, self._recording.ledger, kind, value, by=by, reason=reason)

    def lineage(self, subject: str | None = None) -> Lineage:
        """Who caused what, read from the log: all tasks, or the task or execution with the id `subject`. Shows itself in a notebook.

        Raises InvalidInput for an id that nothing has.
        """
        from agentguard.reading.records import read_lineage  # the index is for questions; a guard that is asked none does without it

        return read_lineage(self.home.path, subject)

    def poison(self, why: str) -> None:
        """Deny everything from here on, until the guard is opened anew."""
        self._recording.poison(why)

    def forget_chains(self) -> None:
        """Drop the cache of verified chains: the next call of each task verifies every signature again."""
        self._enforcement.in_force.renew()


def _warn(snapshot: Snapshot) -> None:
    for warning in snapshot.policy.warnings:
        say("policy warning", warning=warning)


def _refusal(decision: Decision) -> Denied:
    return (ApprovalRequired if decision.verdict is Verdict.ASK else Denied)(decision)
