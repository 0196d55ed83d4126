"""A task: a run on behalf of an initiator, and the handle that carries an agent's authority (DESIGN §4, §9)."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextvars import Token
from typing import TYPE_CHECKING, Any, Protocol

from agentguard import control
from agentguard.artifacts.making import Initiator
from agentguard.context import current_task
from agentguard.errors import InvalidInput
from agentguard.spans import parse_span

if TYPE_CHECKING:
    from agentguard.artifacts.chain import VerifiedChain
    from agentguard.home import Home
    from agentguard.keys import Signer
    from agentguard.premises import Grant
    from agentguard.recording import Forms
    from agentguard.state.store import Account


def initiator_of(value: str | Initiator) -> Initiator:
    """A plain name is taken as asserted: nobody authenticated it, and that shows everywhere."""
    if isinstance(value, Initiator):
        return value
    if type(value) is not str or not 0 < len(value) <= 256 or not value.isprintable():
        raise InvalidInput(f"{value!r:.60} is not an initiator", place="initiator", hint='for example "user:alice"')
    return Initiator(value)


class Issuer(Protocol):
    """What a task needs of its guard."""

    @property
    def home(self) -> Home: ...

    def issue(self, task: Task, make: Mapping[str, Any]) -> VerifiedChain: ...

    def renew(self, task: Task, make: Mapping[str, Any], ttl: str | int | None) -> VerifiedChain: ...

    def serves(self, recording: object) -> bool: ...


class Memo:
    """What checks remember of a task as long as they are judged by one snapshot: `of` is that snapshot's authority.

    A check takes it once and fills in only this one, so that nothing that was worked out under one snapshot is found under another.
    """

    __slots__ = ("accounts", "chain", "forms", "governed", "grant", "of")

    def __init__(self, of: object) -> None:
        self.of = of
        self.chain: str | None = None  # the digest that records name it by
        self.grant: Grant | None = None
        self.accounts: dict[str, Account] = {}
        self.forms: dict[str, Forms] = {}
        self.governed: dict[str, Mapping[str, tuple[str, ...]]] = {}


class Task:
    """Authority of one agent in one task. Use it as a context manager, sync or async, or with `start()` and `close()`.

    Made by `guard.task`, `task.delegate` and `guard.accept`. Calls made while it is current use it; so do calls that name it.
    Closing a task closes what was delegated from it.
    """

    def __init__(
        self,
        guard: Issuer,
        agent: str,
        *,
        parent: Task | None = None,
        make: Mapping[str, Any] | None = None,
        presentation: tuple[str, ...] | None = None,
        wait: str | int | None = None,
    ) -> None:
        self.guard = guard
        self.agent = agent
        self.parent = parent
        self.wait: int | None = parse_span(wait) if wait is not None else parent.wait if parent is not None else None
        self._make = make
        self.tokens: tuple[str, ...] | None = presentation
        self.possessed = presentation is None
        self.observed = presentation is None
        self.memo: Memo | None = None
        self.proof: str | None = None
        self.key: Signer | None = None
        self._closed = False
        self._issuing = threading.Lock()
        self.derived: dict[str, tuple[Task, str | None]] = {}  # by agent, what adapters derived, and the execution it last acted in
        self._entered: list[Token[Task | None]] = []
        self._id = ""

    @property
    def id(self) -> str:
        """The id of the root task, known once the artifact is issued."""
        return self._id

    def adopt(self, task_id: str) -> None:
        """Take the id of the chain's root task."""
        self._id = task_id

    def recall(self, of: object) -> Memo:
        """What is remembered under this snapshot's authority."""
        memo = self.memo
        if memo is None or memo.of is not of:
            memo = self.memo = Memo(of)
        return memo

    @property
    def closed(self) -> bool:
        return self._closed or (self.parent is not None and self.parent.closed)

    def issue(self) -> Task:
        """Make the artifact, if it is not made yet, without making the task current. Raises Denied."""
        with self._issuing:  # two artifacts under one handle could not both be stopped by its id
            if self.tokens is None:
                if self._closed:
                    raise InvalidInput("the task is closed", hint="open a new one with guard.task")
                made = self.guard.issue(self, self._make or {})
                self.adopt(made.task_id)
                self.tokens = tuple(link.token for link in made.links)
        return self

    def renew(self, ttl: str | int | None = None) -> Task:
        """Go on under a fresh artifact: the same task, with what was counted for it, and the same tools. It may have expired already.

        ttl     how long the new artifact is valid, by default as long as the one before. A delegate's never outlives its parent's

        What stands in the way of the task stands in the way of this (a stop, the environment); a changed policy does not: the new artifact
        is bound to it. Delegates keep their artifacts until these expire; renew them after their parent. Raises Denied; InvalidInput for a
        closed task, one with a limit of uses, and one whose issuer is elsewhere.
        """
        with self._issuing:
            if self.closed:
                raise InvalidInput("the task is closed", hint="open a new one with guard.task")
            if self.tokens is None:
                raise InvalidInput("the task has no artifact yet", hint="enter it first")
            made = self.guard.renew(self, self._make or {}, ttl)
            self.tokens = tuple(link.token for link in made.links)
            self.memo = None
            self.derived.clear()  # adapters derive anew
        return self

    def start(self) -> Task:
        """Issue the artifact and make this task the current one, until `close()`. For notebooks; elsewhere prefer `with`."""
        self.issue()
        self._entered.append(current_task.set(self))
        return self

    def close(self) -> None:
        """End the task: its authority is gone, and the outer task is current again. If it is a root whose chain was never presented, nobody
        else can use that chain any more either."""
        root = self._make is not None and self.parent is None and bool(self._id) and not self._closed
        self._closed = True
        while self._entered:
            token, current = self._entered.pop(), current_task.get()
            if current is not None and not current.closed:
                continue  # a task that was entered later and goes on: what is around this one is not for it
            try:
                current_task.reset(token)
            except ValueError:  # closed from another context than it was started in: what was current there is not for this one
                if current is self:
                    current_task.set(None)
        if root:
            control.end(self.guard.home, self._id)

    def delegate(
        self, agent: str, scope: Mapping[str, Any] | None = None, *, ttl: str | int | None = None, uses: int | None = None
    ) -> Task:
        """A narrower task for another agent, derived offline from this one's artifact.

        scope   {tool: {argument: constraint}} as in the policy; {} grants nothing; None keeps this task's entries for the tools in
                the delegate's own policy and its delegates'
        ttl     at most what is left of this task's artifact, which is the default
        uses    at most so many calls

        The artifact is derived when the task is entered. Raises Denied (`delegation_not_allowed`, `delegation_invalid`) there.
        """
        return Task(self.guard, agent, parent=self, make={"scope": scope, "ttl": ttl, "uses": uses})

    def presentation(self, proof: str | None = None) -> dict[str, Any]:
        """The chain as it travels to another process (draft §7.4), with a proof when one is given. Raises StateUnavailable if the calls of
        the task cannot be counted where that process sees them."""
        self.issue()
        self.guard.home.state.share(self._id)
        body: dict[str, Any] = {"aat_chain": list(self.tokens or ())}
        if proof is not None:
            body["aat_pop"] = proof
        return body

    def __enter__(self) -> Task:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def __aenter__(self) -> Task:
        return self.start()

    async def __aexit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open" if self.tokens else "not started"
        return f"<Task {self._id or '?'} of {self.agent}, {state}>"
