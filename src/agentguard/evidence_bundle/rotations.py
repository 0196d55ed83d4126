"""How a log came to its key: from the one that the reader trusts to the one in force, through records that both keys of each step signed.

Every step comes as the tlog-proof of a record in which one key hands over to the next (log/handover.py). A shard may bring more than one
step, and a step may come from more than one shard. The argument:

 1. each record is one of this log, for the shard that its checkpoint is of, and both keys of the step signed it
 2. the steps follow each other: the new key of one is the old key of the next, and no key comes back
 3. the key that is trusted is one of these keys, and the last of them is in force: it alone signed all checkpoints of the bundle
 4. each record is in the log under such a checkpoint, right behind the records that it counts; the tree before it, which its own audit path
    shows, is the one that both keys signed. So nobody who got a later key wrote the past of that shard anew

Whoever has stolen an old key and nothing else fails at 3 for all who trust a later one. For somebody who knows only the stolen key, he can
sign what he likes: docs/transparency.md says what is against that.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentguard.errors import InvalidInput
from agentguard.keys import PublicKey
from agentguard.log.checkpoint import parse_checkpoint, parse_note
from agentguard.log.handover import Handover, read_handover
from agentguard.log.identity import LogKeys
from agentguard.log.merkle import root_before
from agentguard.log.proofs import check_inclusion
from agentguard.log.tlog_proof import parse_tlog_proof


def key_in_force(rotations: Sequence[bytes], trusted: LogKeys) -> LogKeys:
    """The log with the one key that its checkpoints must be signed by, given the key that is trusted. Raises InvalidInput."""
    steps = [_handover(data) for data in rotations]
    if not steps:
        return LogKeys(trusted.name, (trusted.current,))
    keys = [steps[0][1].old, steps[0][1].new]
    for origin, step in steps[1:]:
        if (step.old, step.new) == (keys[-2], keys[-1]):
            continue  # the same step in another shard
        if step.old != keys[-1] or step.new in keys:
            raise InvalidInput(f"a rotation is out of order: {origin} hands over from {_short(step.old)} to {_short(step.new)}")
        keys.append(step.new)
    if trusted.current not in keys:
        raise InvalidInput(f"none of the rotations leads from the key {_short(trusted.current)}, which is trusted, or to it")
    current = LogKeys(trusted.name, (keys[-1],))
    reached: dict[str, int] = {}
    for data, (origin, step) in zip(rotations, steps, strict=True):
        proven = check_inclusion(data, current)
        if proven.index != step.size or proven.index is None:
            raise InvalidInput(f"the rotation in {origin} counts {step.size} records, and stands behind {proven.index}")
        if root_before(step.size, proven.checkpoint.size, parse_tlog_proof(data).path) != step.root:
            raise InvalidInput(f"the rotation in {origin} is about another history than the one that stands before it")
        if proven.index <= reached.get(origin, -1):
            raise InvalidInput(f"the rotations in {origin} stand in another order, or one of them twice")
        reached[origin] = proven.index
    return current


def describe(rotations: Sequence[bytes], trusted: LogKeys) -> str:
    """The keys in words, once they hold."""
    steps = [_handover(data)[1] for data in rotations]
    if not steps:
        return "none: the key that is trusted signed all"
    keys = [steps[0].old, *dict.fromkeys(step.new for step in steps)]
    named = " → ".join(f"{_short(key)} (trusted)" if key == trusted.current else _short(key) for key in keys)
    return f"{named}: each key handed over to the next"


def _handover(data: bytes) -> tuple[str, Handover]:
    """What the record of a proof hands over, and in which shard; whether that is one of the log, and it is in it, is another question."""
    proof = parse_tlog_proof(data)
    origin = parse_checkpoint(parse_note(proof.checkpoint).text).origin
    handover = read_handover(proof.record or b"", origin)
    if handover is None:
        raise InvalidInput(f"record {proof.index} of {origin} hands no key over")
    return origin, handover


def _short(key: PublicKey) -> str:
    return f"{key.thumbprint()[:12]}…"
