"""The authority that an A2A message carries, no framework in it: made by the sender's guard, opened by the receiver's.

That is a chain which ends at the receiving agent's own key, and a proof over this very message by the sender: the holder of the link
before, or of the leaf, where sender and receiver are one agent. Who has only seen a chain can neither use it nor send it on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from agentguard import Code, Denied, Guard, InvalidInput, ToolCall
from agentguard.artifacts.chain import ChainError, Limits, VerifiedChain, verify_structure
from agentguard.artifacts.making import Profile, derive, parse_presentation
from agentguard.artifacts.proof import proof_id, verify_proof
from agentguard.canonical import digest, freeze
from agentguard.decision import Reason, Stage
from agentguard.errors import AgentguardError, StateUnavailable
from agentguard.keys import PublicKey
from agentguard.task import Task
from agentguard_adapters.carried import Holding
from agentguard_adapters.seats import seat

#: What a proof says that its holder did; the name in the log of a message that was refused.
MESSAGE: Final = "a2a.message"
_LIMITS: Final = Limits()
_MAX_SEEN: Final = 100_000


class Peer(NamedTuple):
    """The agent at the other end: its name in the policy, its key, and the name of its guard."""

    agent: str
    key: PublicKey
    audience: str


def presentation(guard: Guard, peer: Peer, task: Task | None, message: Mapping[str, Any]) -> dict[str, Any]:
    """What a message to `peer` carries, under the authority of `task`. Raises Denied, recorded."""
    try:
        thumbprint = peer.key.thumbprint()
        here = guard.home.keys.agent_of(thumbprint) == peer.agent
        if not here and guard.home.trust.agents.get(thumbprint) != peer.agent:
            required = f"a key that trust.json names {peer.agent}"
            raise refusal(guard, peer.agent, Stage.POLICY, Code.DELEGATION_NOT_ALLOWED, required, "another key in its card", task)
        if here:  # derived and recorded as any other
            _, task = seat(guard, peer.agent, task)
        held = Holding(guard, task, MESSAGE)
        proof = held.proof(MESSAGE, _signed(message), peer.audience)
        shown = held.task.presentation(proof)
        if not here:
            shown["aat_chain"].append(_offline(guard, held, peer))
        return shown
    except Denied:
        raise
    except AgentguardError as error:
        raise _faulty(guard, peer.agent, error, task) from error


class _Seen:
    """The proofs that this process accepted lately, whichever guard did."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}  # the oldest first
        self._lock = threading.Lock()

    def first(self, jti: str, now: float) -> bool:
        with self._lock:
            while self._until and self._until[oldest := next(iter(self._until))] < now:
                del self._until[oldest]
            if jti in self._until or len(self._until) >= _MAX_SEEN:
                return False
            self._until[jti] = now + 2 * _LIMITS.pop_window + 1
            return True


_seen: Final = _Seen()


class Receiver:
    """Opens the messages that come for one agent."""

    def __init__(self, guard: Guard, agent: str) -> None:
        self._guard, self._agent = guard, agent
        self._key = guard.home.keys.holder(agent)

    @property
    def peer(self) -> Peer:
        """What a sender needs to know."""
        return Peer(self._agent, self._key.public, self._guard.audience)

    def open(self, shown: Any, message: Mapping[str, Any]) -> Task:
        """The task that the message carries. Raises Denied, recorded."""
        try:
            return self._open(shown, message)
        except AgentguardError as error:
            if isinstance(error, Denied):
                raise
            raise _faulty(self._guard, self._agent, error, None) from error

    def _open(self, shown: Any, message: Mapping[str, Any]) -> Task:
        if shown is None:
            raise self._refused(Stage.PRESENCE, Code.ARTIFACT_MISSING, "a message with a chain", "none")
        try:
            tokens, proof = parse_presentation(shown)
            chain = verify_structure(tokens, self._guard.home.trust.anchors, _LIMITS)
        except ChainError as error:
            reason = error.reason()
            raise self._refused(Stage.CHAIN, reason.code, reason.required, reason.found) from None
        except InvalidInput as error:
            raise self._refused(Stage.CHAIN, Code.ARTIFACT_MALFORMED, "a presentation", str(error)) from None
        if chain.leaf.holder != self._key.public:
            raise self._refused(Stage.CHAIN, Code.DELEGATION_INVALID, f"a chain that ends at {self._agent}'s key", "another key")
        self._prove(chain, proof, message)
        task = self._guard.accept({"aat_chain": list(tokens)}, self._key)
        # What this home issued and derived stands in its log already; only a stranger's links are recorded when they are first seen.
        keys = self._guard.home.keys
        own = chain.keys[0] == keys.issuer().public.thumbprint()
        task.observed = own and all(keys.agent_of(link.holder.thumbprint()) is not None for link in chain.links)
        self._in_force(task)
        return task

    def _in_force(self, task: Task) -> None:
        """Whether the chain is in force here: in time, not revoked, for this policy. What it grants is judged at each call."""
        call = ToolCall(task.agent, MESSAGE, {})
        decision = self._guard.decide(call, task=task)
        if decision.stage < Stage.SCOPE:
            raise self._guard.refuse(call, decision.stage, decision.reasons[0], task=task)

    def _prove(self, chain: VerifiedChain, proof: str | None, message: Mapping[str, Any]) -> None:
        """The sender holds the link above the leaf, or the leaf, and signed this message for this guard, once."""
        if proof is None:
            raise self._refused(Stage.PROOF, Code.PROOF_MISSING, "the sender's proof", "none")
        now = time.time()
        for link in reversed(chain.links[-2:]):
            try:
                verify_proof(
                    proof, link, MESSAGE, freeze(_signed(message)), now, limits=_LIMITS, audience=(self._guard.audience,), require_aud=True
                )
            except ChainError as error:
                found = str(error)
            else:
                return self._once(proof_id(proof), now)
        raise self._refused(Stage.PROOF, Code.PROOF_INVALID, "the sender's proof for this message and this guard", found)

    def _once(self, jti: str, now: float) -> None:
        """A proof is good for its window; for longer than that it is remembered."""
        if not _seen.first(jti, now):
            raise self._refused(Stage.ADMISSION, Code.REPLAY_DETECTED, "a message that was not heard before", "one that was")

    def _refused(self, stage: Stage, code: Code, required: str, found: str) -> Denied:
        return refusal(self._guard, self._agent, stage, code, required, found, None)


def refusal(guard: Guard, agent: str, stage: Stage, code: Code, required: str, found: str, task: Task | None) -> Denied:
    """The recorded denial of a message to `agent`."""
    caller = task.agent if task is not None else agent
    return guard.refuse(ToolCall(caller, MESSAGE, {"to": agent}), stage, Reason(code, MESSAGE, required, found[:400]), task=task)


def _faulty(guard: Guard, agent: str, error: AgentguardError, task: Task | None) -> Denied:
    """A fault on the way denies."""
    code = Code.STATE_UNAVAILABLE if isinstance(error, StateUnavailable) else Code.GUARD_ERROR
    return refusal(guard, agent, Stage.ADMISSION, code, "a guard that works", str(error), task)


def _offline(guard: Guard, held: Holding, peer: Peer) -> str:
    """The link for an agent whose key is elsewhere. Whether it may be is checked here, and again there, at each call."""
    path = (*[str(name) for name in held.chain.agents], peer.agent)
    reason = guard.policy.known(peer.agent) or guard.policy.may_delegate(path)
    if reason is not None:
        raise refusal(guard, peer.agent, Stage.POLICY, reason.code, reason.required, reason.found, held.task)
    wanted = guard.policy.default_scope(peer.agent)
    return derive(
        held.chain,
        signer=held.key,
        holder=peer.key,
        tools={name: entry for name, entry in held.chain.leaf.tools.items() if name in wanted},
        now=int(time.time()),
        profile=Profile(agent=peer.agent),
    )


def _signed(message: Mapping[str, Any]) -> dict[str, Any]:
    """What a proof covers of a message: all that the sender said. Ids of task and context may be given by the server."""
    return {"message": digest(freeze(dict(message)))}
