"""The guard's pen: turns what happened into evidence, values into the side store, documents into the content store."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import structs

from agentguard import evidence
from agentguard.call import ToolCall
from agentguard.canonical import jcs
from agentguard.chain import VerifiedChain
from agentguard.decide import Binding
from agentguard.decision import Decision, Verdict
from agentguard.environment import Clock, version
from agentguard.home import Home
from agentguard.integrity import commitment_bytes, type_name

_MEMO: Final = 4096


class Ledger:
    """Writes one record at a time. Whatever fails leaves as `EvidenceUnavailable`, and the caller denies."""

    def __init__(self, home: Home, clock: Clock) -> None:
        self._log, self._side, self._objects, self._clock = home.log, home.side, home.objects, clock
        self._version = version()
        self._pid = 0
        self._prefix, self._count = "", 0
        self._salts: list[bytes] = []
        self._initiators: dict[tuple[str, str, str], msgspec.Raw] = {}
        self._reservations: dict[tuple[str, ...], msgspec.Raw] = {}

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

    def premises(
        self,
        *,
        agent: str,
        tool: str,
        chain: VerifiedChain | None,
        presented: str | None,
        anchors: str,
        environment: str,
        lock: str | None,
        policy: str,
        tool_version: str | None,
    ) -> evidence.DecisionRecord:
        """What the records of all calls of one task and tool share; the rest is filled in by `decision`."""
        return evidence.DecisionRecord(
            agent=agent,
            anchors=anchors,
            arguments="",
            artifact=chain.leaf.hash if chain is not None else None,
            bound=None,
            call_id="",
            caused_by=None,
            chain=presented,
            code=None,
            environment=environment,
            expires=chain.root.exp if chain is not None else None,
            followed=None,
            guard=self._version,
            id="",
            initiator=self._initiator(chain),
            lock=lock,
            policy=policy,
            proof=None,
            reasons=None,
            rerun=False,
            reserved=evidence.EMPTY_LIST,
            revocations=0,
            stages=evidence.EMPTY_LIST,
            task=chain.task_id if chain is not None else None,
            time="",
            tool=tool,
            tool_version=tool_version,
            verdict=Verdict.DENY,
        )

    def decision(
        self,
        premises: evidence.DecisionRecord,
        decision: Decision,
        call: ToolCall,
        binding: Binding,
        *,
        caused_by: str | None,
        revocations: int,
        rerun: bool,
        now: int,
    ) -> bytes:
        """The bytes of a decision record. The values behind its commitments are in the side store when this returns."""
        execution = decision.execution
        salt = self._salt()
        arguments = jcs(call.arguments)
        self._side.put(execution, "arguments", salt, arguments)
        bound = reasons = links = None
        if binding.bound is not call.arguments:
            data = jcs(binding.bound)
            bound = evidence.commit(salt, data)
            self._side.put(execution, "bound", salt, data)
        if binding.followed is not None:
            data = jcs(binding.followed)
            links = evidence.commit(salt, data)
            self._side.put(execution, "followed", salt, data)
        if decision.reasons:
            data = jcs([reason.sentence() for reason in decision.reasons])
            reasons = evidence.commit(salt, data)
            self._side.put(execution, "reasons", salt, data)
        return evidence.encode(
            structs.replace(
                premises,
                arguments=evidence.commit(salt, arguments),
                bound=bound,
                call_id=call.call_id or execution,
                caused_by=caused_by,
                code=decision.code,
                followed=links,
                id=execution,
                proof=evidence.commit(b"", call.proof.encode("utf-8", "replace")) if call.proof is not None else None,
                reasons=reasons,
                rerun=rerun,
                reserved=self._reserved(decision.reserved),
                revocations=revocations,
                stages=evidence.stage_results(decision),
                time=str(now),
                verdict=decision.verdict,
            )
        )

    def _reserved(self, keys: tuple[str, ...]) -> msgspec.Raw:
        """[[counter, 1], …]; the same few tuples come again and again."""
        if not keys:
            return evidence.EMPTY_LIST
        known = self._reservations.get(keys)
        if known is None:
            if len(self._reservations) >= _MEMO:
                self._reservations.clear()
            known = self._reservations[keys] = evidence.reserved(keys)
        return known

    def _initiator(self, chain: VerifiedChain | None) -> msgspec.Raw:
        initiator = chain.initiator if chain is not None else None
        if initiator is None:
            return evidence.NULL
        key = (initiator.id, initiator.method, initiator.evidence)
        known = self._initiators.get(key)
        if known is None:
            if len(self._initiators) >= _MEMO:
                self._initiators.clear()
            known = self._initiators[key] = evidence.raw({"evidence": key[2], "id": key[0], "method": key[1]})
        return known

    def outcome(
        self,
        execution: str,
        status: str,
        *,
        task: str | None,
        tool_version: str | None,
        output: Any = None,
        error: BaseException | None = None,
    ) -> bytes:
        """The bytes of an outcome record. An output without a JSON form is named by its type."""
        commitment = form = None
        if status == "ok":
            data, form = commitment_bytes(output)
            commitment = self.output(execution, data)
        return self.outcome_of(execution, status, commitment, form, task=task, tool_version=tool_version, error=error)

    def output(self, execution: str, data: bytes) -> str:
        """Commit to an output and keep it in the side store."""
        salt = self._salt()
        self._side.put(execution, "output", salt, data)
        return evidence.commit(salt, data)

    def outcome_of(
        self,
        execution: str,
        status: str,
        commitment: str | None,
        form: str | None,
        *,
        task: str | None,
        tool_version: str | None,
        error: BaseException | None = None,
    ) -> bytes:
        record = evidence.OutcomeRecord(
            error=type_name(error) if error is not None else None,
            execution=execution,
            form=form,
            id=f"{execution}.outcome",
            output=commitment,
            status=status,
            task=task,
            time=str(self._clock.now()),
            tool_version=tool_version,
        )
        return evidence.encode(record)

    def write(self, record: bytes) -> None:
        """Make a record durable. Raises EvidenceUnavailable."""
        self._log.append(record)

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
        initiator = chain.initiator
        record = evidence.DelegationRecord(
            agent=agents[index] or "",
            artifact=link.hash,
            caused_by=caused_by,
            chain=self.chain(chain),
            expires=link.exp,
            from_agent=agents[index - 1] if index else None,
            id=identity,
            initiator={"id": initiator.id, "method": initiator.method, "evidence": initiator.evidence} if initiator is not None else None,
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
        """Record something that is not about one call: revocation, policy, lock, key, clock, open."""
        now = str(self._clock.now())
        self.write(evidence.encode(evidence.NoteRecord(by=by, detail=detail, id=identity or self.next_id(), time=now, type=kind)))
