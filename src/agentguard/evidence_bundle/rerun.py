"""A recorded decision, made again from what its record names: `reproduced`, `differs`, or `inputs not disclosed`.

Only stages 0 to 12 can be: admission (13) counts in a state store. What the guard saw of live code (why a call does not bind, what changed
in a tool) and a chain that did not verify are not kept, so a denial for one of them is `inputs not disclosed`. Nothing is ever guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import msgspec

from agentguard.approvals import Question
from agentguard.artifacts.chain import Anchor, ChainError, Limits, TrustAnchors, verify_structure
from agentguard.artifacts.revocation import Action, Event, Revocations, parse_target
from agentguard.call import ToolCall
from agentguard.canonical import as_mapping, freeze, parse
from agentguard.decide import decide
from agentguard.decision import Code, Decision, Stage, Verdict
from agentguard.environment import NANOSECOND
from agentguard.errors import InvalidInput
from agentguard.evidence import stage_results
from agentguard.evidence_bundle.answers import Approval
from agentguard.keys import PublicKey
from agentguard.policy.model import Policy
from agentguard.premises import NO_GRANT, NO_USAGE, Answer, Binding, Facts, Grant, Terms, Usage
from agentguard.tools.lock import Lock

Status = Literal["reproduced", "differs", "inputs not disclosed"]
_ADMISSION: Final = str(int(Stage.ADMISSION))


@dataclass(frozen=True, slots=True)
class Rerun:
    """What came of judging again: `words` say what, or which input is missing."""

    status: Status
    words: str


class _Undisclosed(Exception):
    """An input is missing; the message names it."""


def rerun(
    record: Mapping[str, Any],
    values: Mapping[str, bytes],
    documents: Mapping[str, bytes],
    keys: Sequence[PublicKey],
    revocations: Sequence[Mapping[str, Any]],
    approval: Approval | None = None,
) -> Rerun:
    """Judge a recorded call again.

    record       of the decision, proven to be in the log
    values       what opens its commitments, by member
    documents    what it names, by digest
    keys         of issuers, and of the signer of the policy bundle
    revocations  records of stops and lifts, in any order
    approval     what people were asked about the call and signed: what that comes to is not believed either, but judged again

    Whatever an input does is an answer here; InvalidInput is never raised.
    """
    try:
        decision, usage = _Inputs(record, values, documents, keys, revocations, approval).judge()
        return _compared(record, decision, usage)
    except _Undisclosed as error:
        return Rerun("inputs not disclosed", str(error))
    except (InvalidInput, KeyError, TypeError, ValueError, AttributeError) as error:  # a log whose owner wrote what no guard writes
        return Rerun("differs", f"an input is not what a guard records: {type(error).__name__}: {error}"[:200])


def _compared(record: Mapping[str, Any], decision: Decision, usage: Usage) -> Rerun:
    stages, code = record["stages"], record["code"]
    if stages.get(str(int(Stage.INTEGRITY))) == "fail" and decision.stage is not Stage.INTEGRITY:
        raise _Undisclosed("what the guard found in the tool's live code")
    if code == Code.APPROVAL_DENIED and decision.code is Code.APPROVAL_REQUIRED and usage.answer is None:
        raise _Undisclosed("why the call could not be put to humans")
    if stages.get(_ADMISSION) == "fail":
        if decision.runs:
            return Rerun("reproduced", f"stages 0 to 12 pass; {code} came of admission, which counts in a state store")
        return Rerun("differs", f"recorded: {code} at admission; judged again: {_words(decision)}")
    again = (decision.verdict, decision.code, decision.enforced, msgspec.json.decode(stage_results(decision)))
    if again != (record["verdict"], code, record["enforced"], stages):
        return Rerun("differs", f"recorded: {record['verdict']} {code or ''}".rstrip() + f"; judged again: {_words(decision)}")
    return Rerun("reproduced", _words(decision))


def _words(decision: Decision) -> str:
    return str(decision.verdict) if decision.verdict is Verdict.ALLOW else f"{decision.verdict} {decision.code}"


class _Inputs:
    """What one decision rested on."""

    def __init__(
        self,
        record: Mapping[str, Any],
        values: Mapping[str, bytes],
        documents: Mapping[str, bytes],
        keys: Sequence[PublicKey],
        revocations: Sequence[Mapping[str, Any]],
        approval: Approval | None,
    ) -> None:
        self._record, self._values, self._documents, self._approval = record, values, documents, approval
        self._keys, self._revocations = {key.thumbprint(): key for key in keys}, revocations

    def judge(self) -> tuple[Decision, Usage]:
        """The decision, and what went before."""
        record = self._record
        if record["measured"] is None:
            raise _Undisclosed("no check came to this decision: the guard refused what broke it, or what was tried with a permit")
        if record["stages"].get(str(int(Stage.CALL))) == "fail":
            raise _Undisclosed("the call as it was presented, which its tool cannot take")
        measured = parse(self._document("measured"))
        policy = _policy(self._document("policy"))
        terms, lock = self._terms(policy, measured["issuer"])
        now = int(record["time"]) // NANOSECOND
        facts = Facts(
            as_mapping(freeze(parse(self._document("environment"))), "environment"),
            self._withdrawn(),
            Limits(),
            (measured["audience"],),
            measured["clock"],
            "",
            terms,
        )
        grant, usage = self._grant(measured), self._usage()
        proof = self._value("proof")
        call = ToolCall(
            record["agent"],
            record["tool"],
            parse(self._value("arguments") or b""),
            record["call_id"],
            proof=proof.decode("utf-8") if proof is not None else None,
        )
        binding = self._binding(call, measured, policy, lock)
        if usage.answer is not None:
            self._hear(usage, usage.answer, call, binding, grant, policy, facts.revocations)
        return decide(call, binding, grant, policy, facts, now, usage), usage

    def _hear(
        self, usage: Usage, given: Answer, call: ToolCall, binding: Binding, grant: Grant, policy: Policy, withdrawn: Revocations
    ) -> None:
        """Whether what people signed comes to the answer that is recorded. Raises InvalidInput if it does not."""
        approval, chain = self._approval, grant.chain
        if approval is None or approval.salt is None:
            raise _Undisclosed("what was asked and answered")
        standing = policy.standing(call.agent, call.tool)
        rule = standing.approval(binding.views, usage.counters) if standing is not None else None
        if rule is None or chain is None:
            raise InvalidInput("an answer is recorded to what nobody had to ask")
        question = Question(chain.task_id, chain.leaf.hash, call.agent, call.tool, binding.bound, binding.followed, policy.digest)
        heard = approval.heard(given, question, chain, grant.agents, rule, withdrawn, int(self._record["time"]))
        if heard != given:
            raise InvalidInput("what people signed does not come to the answer that is recorded")

    def _value(self, kind: str) -> bytes | None:
        """None where the record has none."""
        if self._record[kind] is None:
            return None
        try:
            return self._values[kind]
        except KeyError:
            raise _Undisclosed(kind) from None

    def _document(self, member: str) -> bytes:
        return self._documents[self._record[member]]

    def _binding(self, call: ToolCall, measured: Mapping[str, Any], policy: Policy, lock: Lock | None) -> Binding:
        bound, followed = self._value("bound"), self._value("followed")
        return Binding(
            call.arguments if bound is None else as_mapping(freeze(parse(bound)), "bound"),
            "",
            self._integrity(policy, lock),
            measured["opaque"],
            None if followed is None else as_mapping(freeze(parse(followed)), "followed"),
        )

    def _integrity(self, policy: Policy, lock: Lock | None) -> str:
        """Why the tool is not the pinned one, as far as the lock tells."""
        tool, version = self._record["tool"], self._record["tool_version"]
        if lock is None:
            return ""
        if version is None:
            return "it is not registered with this guard" if tool in lock.entries or policy.knows_tool(tool) else ""
        entry = lock.entries.get(tool)
        return "the lock does not name it" if entry is None else "" if entry.fingerprint == version else "it differs from the lock"

    def _usage(self) -> Usage:
        data = self._value("usage")
        if data is None:
            return NO_USAGE
        body = parse(data)
        answer = body["answer"]
        given = None if answer is None else Answer(answer["request"], answer["granted"], tuple(answer["by"]))
        return Usage(dict(body["counters"]), given)

    def _grant(self, measured: Mapping[str, Any]) -> Grant:
        record = self._record
        if record["chain"] is None:
            if measured["present"]:
                raise _Undisclosed("the chain as it was presented, which did not verify")
            return NO_GRANT
        tokens = tuple(parse(self._document("chain"))["aat_chain"])
        try:
            chain = verify_structure(tokens, self._anchors())
        except ChainError as error:
            return Grant(present=True, error=error)
        if record["task"] not in (chain.task_id, f"{chain.keys[0]}/{chain.task_id}"):
            raise InvalidInput("the chain is of another task")
        return Grant(True, replace(chain, task_id=record["task"]), None, tuple(measured["agents"]), measured["possessed"])

    def _anchors(self) -> TrustAnchors:
        anchors = []
        for iss, thumbprint in parse(self._document("anchors"))["anchors"]:
            key = self._keys.get(thumbprint)
            if key is None:
                raise _Undisclosed(f"the key of the issuer {iss}, which the guard trusted")
            anchors.append(Anchor(iss, key))
        return TrustAnchors(anchors)

    def _terms(self, policy: Policy, own: str) -> tuple[Terms | None, Lock | None]:
        """What the signed policy bundle adds, and the lock that was in force."""
        record = self._record
        lock = None if record["lock"] is None else Lock.read(self._document("lock"))
        if record["bundle"] is None:
            return None, lock
        from agentguard.bundle import read_bundle
        from agentguard.home import Trust
        from agentguard.snapshot import Orders

        for key in self._keys.values():
            try:
                bundle = read_bundle(self._document("bundle"), Trust.of((), {}), signer=key)
            except InvalidInput:
                continue  # another key signed it
            if bundle.policy.digest != policy.digest:
                raise InvalidInput("the policy bundle holds another policy")
            return Orders(policy, lock, bundle.trust, bundle).terms(own), lock
        raise _Undisclosed("the key that signed the policy bundle")

    def _withdrawn(self) -> Revocations:
        """What was revoked by then. Each event counts the version up by one."""
        version = self._record["revocations"]
        if type(version) is not int or version < 0:
            raise InvalidInput("the version of the revocations is no number")
        events = sorted((_event(record) for record in self._revocations), key=lambda event: event.time_ns)
        if len(events) < version:
            raise _Undisclosed(f"{version - len(events)} of {version} revocations that were known then")
        return Revocations.fold(version, events[:version])


def _policy(canonical: bytes) -> Policy:
    """A policy from its canonical bytes and nothing else: no file of this machine is read, whatever they say."""
    from agentguard.policy.compile import compile_document  # YAML and pydantic are slow to import
    from agentguard.policy.imports import File, read_files

    policy = compile_document(read_files([File("policy", canonical.decode("utf-8"))], "").document)
    if policy.canonical != canonical:
        raise InvalidInput("the policy is not in its canonical form")
    return policy


def _event(record: Mapping[str, Any]) -> Event:
    detail = record["detail"]
    kind, value = parse_target(detail["kind"], detail["value"])
    return Event(Action(detail["action"]), kind, value, record["by"], detail["reason"], int(record["time"]), record["id"])
