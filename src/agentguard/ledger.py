"""The guard's pen: turns what happened into evidence, values into the side store, documents into the content store."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from agentguard import evidence
from agentguard.artifacts.chain import VerifiedChain
from agentguard.call import ToolCall
from agentguard.canonical import jcs
from agentguard.decision import Decision, Verdict
from agentguard.environment import Clock, version
from agentguard.errors import OutputRefused
from agentguard.home import Home
from agentguard.premises import NO_USAGE, Binding, Usage
from agentguard.tools.integrity import commitment_bytes, type_name

#: A longer output is committed to, and not kept: nobody can show it later, nor does it fill the disk.
_MAX_OUTPUT: Final = 1 << 20
#: A verifier reads no longer one (Limits.max_token_size).
_MAX_PROOF: Final = 65_536
_NULL: Final = b"null"
_VERDICTS: Final = {verdict: b'"%b"' % verdict.encode() for verdict in Verdict}
_encode: Final = msgspec.json.Encoder().encode


class Ledger:
    """Writes one record at a time. Whatever fails leaves as `EvidenceUnavailable`, and the caller denies."""

    def __init__(self, home: Home, clock: Clock) -> None:
        self._side, self._objects, self._clock = home.side, home.objects, clock
        #: Make records durable together (see `Log`): waiting for it, awaiting it, or not waiting at all.
        self.write, self.awrite, self.submit = home.log.append, home.log.append_async, home.log.submit
        self._version = version()
        self._pid = -1
        self._prefix, self._count = "", 0
        self._salts: list[bytes] = []

    def next_id(self) -> str:
        """A new id of an execution or a note: unique without asking anyone. The random part makes processes and forks differ."""
        if self._pid != os.getpid():
            self._pid, self._prefix, self._count, self._salts = os.getpid(), os.urandom(8).hex(), 0, []
        self._count += 1
        return f"{self._prefix}{self._count:08x}"

    def _salt(self) -> bytes:
        """16 random bytes, drawn a page at a time. A forked child draws its own: every check begins with `next_id`."""
        try:
            return self._salts.pop()
        except IndexError:
            page = os.urandom(4096)
            self._salts = [page[at : at + 16] for at in range(0, len(page), 16)]
            return self._salts.pop()

    def decision_form(
        self,
        *,
        agent: str,
        tool: str,
        chain: VerifiedChain | None,
        presented: str | None,
        anchors: str,
        bundle: str | None,
        environment: str,
        lock: str | None,
        measured: str | None,
        policy: str,
        tool_version: str | None,
    ) -> evidence.Form:
        """What the decisions on all calls of one task and tool share; the rest is filled in by `decision`."""
        return evidence.Form(
            evidence.DecisionRecord,
            evidence.DECISION_BLANKS,
            agent=agent,
            anchors=anchors,
            artifact=chain.leaf.hash if chain is not None else None,
            bundle=bundle,
            chain=presented,
            environment=environment,
            expires=chain.root.exp if chain is not None else None,
            guard=self._version,
            initiator=_initiator(chain),
            lock=lock,
            measured=measured,
            policy=policy,
            task=chain.task_id if chain is not None else None,
            tool=tool,
            tool_version=tool_version,
        )

    def decision(
        self,
        form: evidence.Form,
        decision: Decision,
        call: ToolCall,
        binding: Binding,
        caused_by: str | None,
        revocations: int,
        rerun: bool,
        now: int,
        usage: Usage = NO_USAGE,
        reserved: bytes | None = None,
    ) -> bytes:
        """The bytes of a decision record. The values behind its commitments are in the side store when this returns."""
        execution = decision.execution
        salt = self._salt()
        arguments = self._kept(execution, "arguments", salt, jcs(call.arguments))
        bound = reasons = links = proof = before = _NULL
        if binding.bound is not call.arguments:
            bound = self._kept(execution, "bound", salt, jcs(binding.bound))
        if binding.followed is not None:
            links = self._kept(execution, "followed", salt, jcs(binding.followed))
        if decision.reasons:
            reasons = self._kept(execution, "reasons", salt, jcs([reason.sentence() for reason in decision.reasons]))
        if call.proof is not None:
            proof = self._proof(execution, call.proof.encode("utf-8", "replace"))
        if usage is not NO_USAGE:
            before = self._kept(execution, "usage", salt, usage.canonical())
        name = b'"%b"' % execution.encode()  # hexadecimal
        return form.fill(
            arguments,
            bound,
            _encode(call.call_id) if call.call_id else name,
            _encode(caused_by) if caused_by is not None else _NULL,
            _encode(decision.code) if decision.code is not None else _NULL,
            b"true" if decision.enforced else b"false",
            links,
            name,
            proof,
            reasons,
            b"true" if rerun else b"false",
            reserved or b"[]",
            b"%d" % revocations,
            evidence.stage_results(decision),
            b'"%d"' % now,
            before,
            _VERDICTS[decision.verdict],
        )

    def _proof(self, execution: str, proof: bytes) -> bytes:
        """The digest of a proof, which nobody can guess. What is longer than one can be is not kept."""
        return self._kept(execution, "proof", b"", proof) if len(proof) <= _MAX_PROOF else evidence.commitment(b"", proof)

    def _kept(self, execution: str, kind: str, salt: bytes, value: bytes) -> bytes:
        """The commitment to a value, as JSON; the value is kept in the side store."""
        self._side.put(execution, kind, salt, value)
        return evidence.commitment(salt, value)

    def outcome_form(self, task: str | None, tool_version: str | None) -> evidence.Form:
        """What the outcomes of all calls of one task and tool share; the rest is filled in by `outcome`."""
        return evidence.Form(evidence.OutcomeRecord, evidence.OUTCOME_BLANKS, task=task, tool_version=tool_version)

    def outcome(
        self,
        form: evidence.Form,
        execution: str,
        status: str,
        *,
        output: Any = None,
        error: BaseException | None = None,
        counted: Sequence[tuple[str, int]] = (),
        shaped: Mapping[str, Any] | None = None,
    ) -> bytes:
        """The bytes of an outcome record. An output without a JSON form is named by its type."""
        if status != "ok":
            failed = _encode(_class_of(error)) if error is not None else _NULL
            return self._outcome(form, execution, status, _NULL, _NULL, failed, counted, shaped)
        data, kind = commitment_bytes(output)
        salt = self._salt()
        commitment = self._kept(execution, "output", salt, data) if len(data) <= _MAX_OUTPUT else evidence.commitment(salt, data)
        return self._outcome(form, execution, status, commitment, _encode(kind), _NULL, counted, shaped)

    def _outcome(
        self,
        form: evidence.Form,
        execution: str,
        status: str,
        output: bytes,
        kind: bytes,
        error: bytes,
        counted: Sequence[tuple[str, int]],
        shaped: Mapping[str, Any] | None,
    ) -> bytes:
        name = execution.encode()  # hexadecimal
        now = b'"%d"' % self._clock.now()
        moved = _encode(counted) if counted else _NULL
        done = _encode(shaped) if shaped else _NULL
        return form.fill(moved, error, b'"%b"' % name, kind, b'"%b.outcome"' % name, output, done, b'"%b"' % status.encode(), now)

    def delegation(
        self,
        chain: VerifiedChain,
        index: int,
        *,
        agents: Sequence[str | None],
        caused_by: str | None,
        observed: bool,
        trusted_input: str | None = None,
    ) -> None:
        """Record that link `index` of a chain exists: who passed what on to whom. The chain itself goes to the content store first."""
        link = chain.links[index]
        identity = self.next_id()
        words = None
        if trusted_input is not None:
            salt, data = os.urandom(16), trusted_input.encode("utf-8", "replace")
            self._side.put(identity, "trusted_input", salt, data)
            words = evidence.commit(salt, data)
        record = evidence.DelegationRecord(
            agent=agents[index] or "",
            artifact=link.hash,
            caused_by=caused_by,
            chain=self.chain(chain),
            expires=link.exp,
            from_agent=agents[index - 1] if index else None,
            id=identity,
            initiator=_initiator(chain),
            observed=observed,
            parent=chain.links[index - 1].hash if index else None,
            policy=chain.policies[0] if chain.policies else None,
            root=chain.root.hash,
            task=chain.task_id,
            time=str(self._clock.now()),
            tools=sorted(link.tools),
            trusted_input=words,
        )
        self.write(evidence.encode(record))

    def chain(self, chain: VerifiedChain) -> str:
        """Keep the exact tokens of a chain, and give the digest that records name it by."""
        return self.document({"aat_chain": [link.token for link in chain.links]})

    def document(self, value: Any) -> str:
        """Keep a JSON document by content, durably, and give its digest."""
        return self._objects.put(jcs(value))

    def note(self, kind: str, detail: dict[str, Any], *, by: str = "guard", identity: str | None = None) -> None:
        """Record something that is not about one call: revocation, policy, lock, key, clock, open, approval."""
        self.write(self.noted(kind, detail, by=by, identity=identity))

    def noted(self, kind: str, detail: dict[str, Any], *, by: str = "guard", identity: str | None = None) -> bytes:
        """The bytes of such a record, to be written together with another one."""
        now = str(self._clock.now())
        return evidence.encode(evidence.NoteRecord(by=by, detail=detail, id=identity or self.next_id(), time=now, type=kind))


def _class_of(error: BaseException) -> str:
    """The class of the tool's exception, also where another one goes on in its place."""
    return (error.failed if isinstance(error, OutputRefused) else "") or type_name(error)


def _initiator(chain: VerifiedChain | None) -> dict[str, str] | None:
    initiator = chain.initiator if chain is not None else None
    return {"evidence": initiator.evidence, "id": initiator.id, "method": initiator.method} if initiator is not None else None
