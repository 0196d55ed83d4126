"""What an allowed call is charged to (DESIGN §7 stage 13): a pure function of what it was judged by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from agentguard.admission import Account, Charge, Meter
from agentguard.artifacts.chain import VerifiedChain
from agentguard.artifacts.proof import proof_id
from agentguard.call import ToolCall
from agentguard.canonical import Frozen
from agentguard.decision import Code, Reason
from agentguard.policy.model import Policy
from agentguard.premises import Facts, Usage

#: The counters that make a proof good for one call only, and an approval.
PROOF: Final = "proof of possession"
APPROVAL: Final = "approval"
#: How the name of a counter of an artifact's own `uses` begins; the first digits of the link's hash follow.
USES: Final = "uses of link "
_UNLIMITED: Final = 2**53


def account(
    call: ToolCall, bound: Mapping[str, Frozen], chain: VerifiedChain, policy: Policy, facts: Facts, now: int, usage: Usage
) -> Account | Reason:
    """The counters that a call under `chain` moves, all or none; or why they cannot be counted here (stage 13)."""
    standing = policy.standing(call.agent, call.tool)
    charges: list[Charge] = []
    meters: list[Meter] = []
    initiator = chain.initiator.id if chain.initiator is not None else ""
    for budget in standing.budgets if standing is not None else ():
        charge = budget.charge(call.agent, initiator, bound, now)
        if isinstance(charge, Reason):
            return charge
        charges.append(charge)
        meter = budget.meter(charge)
        if meter is not None:
            meters.append(meter)
    for link_hash, limit, domain in chain.uses:
        if domain != facts.domain:
            found, place = f"the domain {facts.domain}", f"link {link_hash[:12]}"
            return Reason(Code.STATE_UNAVAILABLE, "uses", f"the state domain {domain}, which counts this artifact", found, place)
        charges.append(Charge(f"uses/{link_hash}", limit, f"{USES}{link_hash[:12]}"))
    watch = standing.watch if standing is not None else None
    if watch is not None:
        charges += watch.charges
    if usage.answer is not None and usage.answer.granted:
        charges.append(Charge(f"approval/{usage.answer.request}", 1, APPROVAL))
        charges += [Charge(key, _UNLIMITED, APPROVAL) for key in (watch.approved if watch is not None else ())]
    if call.proof is not None:  # good for one call: its `jti`, read from a token that stage 9 verified
        charges.append(Charge(f"proof/{chain.leaf.hash}/{proof_id(call.proof)}", 1, PROOF))
    # What went before must still be so when the call is admitted. A sequence that is only recorded stops nothing there either.
    asked = standing.shared if standing is not None and policy.shadows(call.agent, call.tool, now) else watch
    needs, earned = asked.needs if asked is not None else (), watch.earned if watch is not None else ()
    return Account(chain.task_id, call.agent, tuple(charges), chain.root.exp, needs, earned, tuple(meters))


def fixed(call: ToolCall, policy: Policy) -> bool:
    """Whether every call of this agent to this tool is charged to the same account, so that it is made once a task."""
    standing = policy.standing(call.agent, call.tool)
    if standing is None:
        return call.proof is None
    watched = standing.watch is not None and policy.may_shadow(call.agent)  # what it needs depends on the time then
    return call.proof is None and standing.fixed and not watched
