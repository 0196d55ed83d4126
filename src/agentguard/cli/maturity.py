"""How far governance goes here, from 0 to 5, graded from what is configured and what the log shows. A pure function of observations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

LEVELS: Final = ("untrusted", "observable", "reactive", "policy-aware", "governed", "cryptographically governed")


@dataclass(frozen=True, slots=True)
class Observed:
    """What grading looks at. Everything is at its worst by default.

    decisions         there is a record of at least one decision
    log_sound         manifest and remembered heads are signed and fit
    enforced          a guard was opened on a policy: refusals refuse
    policy_known      the policy in force is in the content store, or was given and is the same
    unsafe            unsafe modes in use, in words
    locked            the last guard that opened had a tool lock, and it is the file's
    asserted          recent tasks whose initiator nobody authenticated
    authenticated     recent tasks whose initiator somebody authenticated
    bound             the policy, in force, names facts of the environment
    durable           the last guard that opened survives power loss
    not_built         what this version cannot do yet, and the highest level needs
    """

    decisions: bool = False
    log_sound: bool = False
    enforced: bool = False
    policy_known: bool = False
    unsafe: tuple[str, ...] = ()
    locked: bool = False
    asserted: int = 0
    authenticated: int = 0
    bound: bool = False
    durable: bool = False
    not_built: tuple[str, ...] = ()


def grade(seen: Observed) -> dict[str, Any]:
    """`{level, name, next: [what to do for the next level]}`. A level needs all of those below it."""
    for level, todo in enumerate((_observable(seen), _reactive(seen), _policy_aware(seen), _governed(seen), _cryptographic(seen))):
        if todo:
            return {"level": level, "name": LEVELS[level], "next": todo}
    return {"level": 5, "name": LEVELS[5], "next": []}


def _observable(seen: Observed) -> list[str]:
    todo = []
    if not seen.decisions:
        todo.append("let a guard see a call: `agentguard init && python example.py` shows how")
    elif not seen.log_sound:
        todo.append("mend the evidence: `agentguard log verify` says what is wrong with it")
    return todo


def _reactive(seen: Observed) -> list[str]:
    return [] if seen.enforced else ["open the guard on a policy: Guard.open('policy.yaml')"]


def _policy_aware(seen: Observed) -> list[str]:
    todo = [f"do without: {mode}" for mode in seen.unsafe]
    if not seen.policy_known:
        todo.append("run under the policy that you keep: `agentguard doctor --policy FILE` compares it with the one in force")
    return todo


def _governed(seen: Observed) -> list[str]:
    todo = []
    if not seen.locked:
        todo.append("pin the tools: `agentguard tools lock MODULE`, then open the guard anew")
    if seen.asserted:
        todo.append(
            f"authenticate initiators: {seen.asserted} recent tasks name one that nobody authenticated (pass an Initiator with its method)"
        )
    elif not seen.authenticated:
        todo.append("start tasks for initiators that somebody authenticated (pass an Initiator with its method)")
    if not seen.bound:
        todo.append("bind the policy to its place: `environment:` in the policy, Guard.open(..., environment={...})")
    return todo


def _cryptographic(seen: Observed) -> list[str]:
    todo = [] if seen.durable else ["let evidence survive a power loss: durability='fsync'"]
    return todo + [f"not reachable in this version, which has no {what}" for what in seen.not_built]
