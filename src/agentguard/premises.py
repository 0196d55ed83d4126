"""What a decision is made on beside the call and the policy: authority, binding, facts, and what went before, as values (DESIGN §7)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from agentguard.artifacts.chain import ChainError, Limits, VerifiedChain
from agentguard.artifacts.revocation import Revocations
from agentguard.artifacts.revocation_list import RevocationList
from agentguard.canonical import Frozen, jcs


class Grant(msgspec.Struct, frozen=True):
    """The authority that came with a call, verified as far as it could be.

    present    whether there was an artifact at all
    chain      the verified chain, or None with `error`
    agents     per link, the agent that a trusted binding gives its holder's key; None where there is none
    possessed  the guard itself holds the leaf's key, so possession needs no proof unless the policy wants one
    """

    present: bool = False
    chain: VerifiedChain | None = None
    error: ChainError | None = None
    agents: tuple[str | None, ...] = ()
    possessed: bool = False


class Binding(msgspec.Struct, frozen=True, gc=False):  # no cycle can go through it
    """The call seen through its tool: bound arguments, or why they do not bind; and whether the tool is the pinned one."""

    bound: Mapping[str, Frozen]
    defect: str = ""
    integrity: str = ""
    opaque: bool = False
    followed: Mapping[str, Frozen] | None = None  # bound arguments with symbolic links followed, where there are any

    @property
    def views(self) -> tuple[Mapping[str, Frozen], ...]:
        """Every form of the arguments that a rule about them is held against."""
        return (self.bound,) if self.followed is None else (self.bound, self.followed)


class Terms(msgspec.Struct, frozen=True):
    """What a signed bundle says beside the policy: when it is good, which older policies are still accepted, what its issuers withdrew.

    name      the bundle and its version, as reasons name it
    issued    seconds; from then on it is good (30 s of skew)
    expires   seconds; from then on it is not
    accepts   digests of older policies that artifacts may be bound to
    lists     signed lists of revocations
    """

    name: str
    issued: int
    expires: int
    accepts: frozenset[str] = frozenset()
    lists: tuple[RevocationList, ...] = ()


class Facts(msgspec.Struct, frozen=True):
    """Everything else a decision stands on; one immutable snapshot."""

    environment: Mapping[str, Frozen]
    revocations: Revocations
    limits: Limits
    audience: tuple[str, ...] = ()
    clock: str = ""
    domain: str = ""
    terms: Terms | None = None


class Answer(msgspec.Struct, frozen=True):
    """What came of asking humans about this very call, verified.

    request  id of the request
    granted  approved by as many as were needed; else somebody who may answer denied it
    by       who answered so
    """

    request: str
    granted: bool
    by: tuple[str, ...] = ()


class Usage(msgspec.Struct, frozen=True):
    """What went before, as far as a call is judged by it.

    counters  what sequence rules ask for, by key
    answer    the answer that humans gave about this very call
    """

    counters: Mapping[str, int] = MappingProxyType({})
    answer: Answer | None = None

    def canonical(self) -> bytes:
        """Its JCS bytes, for the evidence."""
        answer = (
            None if self.answer is None else {"by": list(self.answer.by), "granted": self.answer.granted, "request": self.answer.request}
        )
        return jcs({"answer": answer, "counters": dict(self.counters)})


NO_GRANT: Final = Grant()
NO_USAGE: Final = Usage()
