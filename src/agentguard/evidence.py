"""What is written to the log: one record each for decision, outcome, delegation, revocation, policy, lock, clock and key (DESIGN §8).

A record is canonical JSON (ASCII member names in order, no floats, integers below 2^53, times as strings of nanoseconds), so its bytes are
its identity: the leaf. Leaves hold commitments, never values: `commit(salt, value)`; salt and value are in the erasable side store.

The input of each stage is a member of the record (`STAGE_INPUTS`), named by digest, and `stages` tells what each stage came to.
"""

from __future__ import annotations

import hashlib
from binascii import hexlify
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from agentguard.canonical import jcs
from agentguard.decision import Code, Decision, Stage, Verdict
from agentguard.errors import InvalidInput

FORMAT: Final = 1
MAX_RECORD: Final = 64 * 1024 - 1

#: Which members of a decision record are the input of which stage.
STAGE_INPUTS: Final[Mapping[Stage, tuple[str, ...]]] = {
    Stage.CALL: ("agent", "tool", "call_id", "arguments", "bound"),
    Stage.PRESENCE: ("chain", "measured"),
    Stage.CHAIN: ("chain", "anchors", "agent", "measured"),
    Stage.TIME: ("chain", "measured", "time"),
    Stage.REVOCATION: ("chain", "revocations", "bundle", "time"),
    Stage.ENVIRONMENT: ("chain", "environment", "policy"),
    Stage.POLICY_DIGEST: ("chain", "policy", "bundle", "time"),
    Stage.INTEGRITY: ("tool_version", "lock", "measured"),
    Stage.SCOPE: ("chain", "tool", "arguments", "bound", "followed", "measured"),
    Stage.PROOF: ("chain", "proof", "measured"),
    Stage.POLICY: ("policy", "agent", "tool", "bound", "followed", "chain", "time", "usage"),
    Stage.PROVENANCE: (),
    Stage.APPROVAL: ("policy", "agent", "tool", "bound", "usage"),
    Stage.ADMISSION: ("reserved", "revocations"),
    Stage.EVIDENCE: (),
}


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    """Members are declared in alphabetical order, so the encoder writes them sorted."""


class DecisionRecord(_Record, frozen=True, kw_only=True):
    agent: str
    anchors: str
    arguments: str  # commitment to the presented arguments
    artifact: str | None  # hash of the leaf's signing input
    bound: str | None  # commitment to the bound arguments, where they differ from the presented ones
    bundle: str | None  # the signed bundle that policy, lock and keys came in
    call_id: str
    caused_by: str | None
    chain: str | None
    code: Code | None
    enforced: bool  # false for a denial that is only recorded: the policy shadows the rule, and the call runs
    environment: str
    expires: int | None  # seconds; when the root artifact ends, and with it the need to remember the call id
    followed: str | None  # commitment to the bound arguments with symbolic links followed, where there are any
    guard: str
    id: str
    initiator: dict[str, str] | None  # members in order
    lock: str | None
    measured: str | None = None  # what the guard measured for stages 1 to 9; None where no check came to the decision
    policy: str
    proof: str | None
    reasons: str | None  # commitment to the reasons, which may quote values
    rerun: bool  # whether the tool may be run again where no outcome is known
    reserved: list[tuple[str, int]]  # counter, how much
    revocations: int
    stages: dict[str, str]
    task: str | None
    time: str
    tool: str
    tool_version: str | None
    type: str = "decision"
    usage: str | None  # commitment to what went before, where the policy asks for it: counters, and what humans answered
    v: int = FORMAT
    verdict: Verdict


class OutcomeRecord(_Record, frozen=True, kw_only=True):
    counted: list[tuple[str, int]] | None  # counters that the outcome moves, and by how much
    error: str | None  # the class of the exception
    execution: str
    form: str | None  # "json", or "type" where the output has no JSON form
    id: str
    output: str | None  # commitment to what the caller got
    shaped: dict[str, Any] | None  # what the policy's rule for outputs did: how much was redacted, whether text was cut
    status: str  # ok, error, cancelled, paused, not_run
    task: str | None
    time: str
    tool_version: str | None
    type: str = "outcome"
    v: int = FORMAT


class DelegationRecord(_Record, frozen=True, kw_only=True):
    agent: str  # to whom
    artifact: str
    caused_by: str | None
    chain: str
    expires: int  # seconds
    from_agent: str | None  # None: the issuer
    id: str
    initiator: dict[str, str] | None
    observed: bool  # first seen with a call, derived elsewhere
    parent: str | None  # the parent link's hash
    policy: str | None
    root: str | None  # hash of the root link
    task: str | None
    time: str
    tools: list[str]
    trusted_input: str | None  # commitment to the initiator's words
    type: str = "delegation"
    v: int = FORMAT


class NoteRecord(_Record, frozen=True, kw_only=True):
    """Everything that is not about one call: revocation, policy, lock, key, clock, open."""

    by: str
    detail: dict[str, Any]
    id: str
    time: str
    type: str
    v: int = FORMAT


Record = DecisionRecord | OutcomeRecord | DelegationRecord | NoteRecord

_encode = msgspec.json.Encoder(order="sorted").encode
_encode_struct = msgspec.json.Encoder().encode


def encode(record: Record) -> bytes:
    """The record's bytes. Raises InvalidInput for a record that the log cannot hold."""
    return _bounded(_encode(record) if type(record) in (DelegationRecord, NoteRecord) else _encode_struct(record))


def _bounded(data: bytes) -> bytes:
    if len(data) > MAX_RECORD:
        raise InvalidInput(f"the record has {len(data)} bytes, at most {MAX_RECORD} fit")
    return data


#: What changes from call to call of one agent, task and tool, in the order of the record.
DECISION_BLANKS: Final = (
    "arguments", "bound", "call_id", "caused_by", "code", "enforced", "followed", "id", "proof", "reasons", "rerun", "reserved",
    "revocations", "stages", "time", "usage", "verdict",
)  # fmt: skip
OUTCOME_BLANKS: Final = ("counted", "error", "execution", "form", "id", "output", "shaped", "status", "time")
_BLANK: Final = b"\xff"  # stands in no UTF-8 text


class Form:
    """Records that differ in a few members only, encoded once but for these blanks."""

    __slots__ = ("_parts",)

    def __init__(self, kind: type[DecisionRecord | OutcomeRecord], blanks: tuple[str, ...], **premises: Any) -> None:
        """blanks    the members that change, in the order of the record
        premises  the other ones
        """
        members: dict[str, Any] = {**premises, **dict.fromkeys(blanks, msgspec.Raw(_BLANK))}
        printed = _encode_struct(kind(**members)).split(_BLANK)
        self._parts = [part for pair in zip(printed, [b""] * len(printed), strict=True) for part in pair][:-1]

    def fill(self, *blanks: bytes) -> bytes:
        """The record's bytes, given the JSON of each blank. Raises InvalidInput for a record that the log cannot hold."""
        parts = self._parts.copy()
        parts[1::2] = blanks
        return _bounded(b"".join(parts))


def ran(decision: Mapping[str, Any]) -> bool:
    """Whether the call of a decision's record might run."""
    return decision["verdict"] == Verdict.ALLOW or not decision["enforced"]


def put_to_humans(decision: Mapping[str, Any]) -> bool:
    """Whether the call of a decision's record was put to humans."""
    return decision["verdict"] == Verdict.ASK and bool(decision["enforced"])


def commit(salt: bytes, value: bytes) -> str:
    """A commitment that neither reveals the value nor lets anyone guess it: SHA-256 of a 16-byte random salt and the value."""
    return "sha256:" + hashlib.sha256(salt + value).hexdigest()


def commitment(salt: bytes, value: bytes) -> bytes:
    """The same as a JSON string."""
    return b'"sha256:' + hexlify(hashlib.sha256(salt + value).digest()) + b'"'


def _stages(last: Stage, outcome: str) -> bytes:
    names = {str(int(stage)): "pass" for stage in Stage if stage < (Stage.EVIDENCE if outcome == "shadow" else last)}
    names[str(int(last))] = outcome
    return jcs({name: "none" if int(name) == Stage.PROVENANCE and state == "pass" else state for name, state in names.items()})


#: All stage results that a record can hold, encoded once: the last stage judged, and what it came to. "none": nothing is judged there yet;
#: "shadow": it failed, and the call went on.
_STAGE_RESULTS: Final = {(stage, outcome): _stages(stage, outcome) for stage in Stage for outcome in ("pass", "fail", "ask", "shadow")}


def stage_results(decision: Decision) -> bytes:
    """How far the decision came. An allowed call passed everything up to admission; stage 14 is the record's own existence."""
    if decision.verdict is Verdict.ALLOW:
        return _STAGE_RESULTS[Stage.ADMISSION, "pass"]
    if not decision.enforced:
        return _STAGE_RESULTS[decision.stage, "shadow"]
    return _STAGE_RESULTS[decision.stage, "ask" if decision.verdict is Verdict.ASK else "fail"]
