"""Makes an evidence bundle from a home: finds what an execution stood on, and proves each record that is in the log."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from agentguard.bundle import read_bundle
from agentguard.canonical import parse
from agentguard.errors import InvalidInput
from agentguard.evidence import commit, put_to_humans, ran
from agentguard.evidence_bundle.contents import DOCUMENTS, MAX_RECORDS, Disclosed, EvidenceBundle, above, approval_of, links_of
from agentguard.home import Trust
from agentguard.keys import KeyRing, PublicKey
from agentguard.log import read_record
from agentguard.log.handover import read_handover
from agentguard.log.identity import LogKeys
from agentguard.log.manifest import all_keys
from agentguard.log.proofs import prove_inclusion
from agentguard.reading.index import Index
from agentguard.reading.index_rows import Row
from agentguard.store import ObjectStore, SideStore

#: Nanoseconds after a decision within which the record that belongs to it was written.
_SOON: Final = 600 * 10**9


def make_bundle(
    home: Path, execution: str, keys: LogKeys, trust: Trust, *, disclose: bool, progress: Callable[[int], None] = lambda records: None
) -> EvidenceBundle:
    """Everything about one execution of a home.

    trust     the home's: the keys of issuers and policy authorities
    disclose  bring along the values behind the commitments, as far as they are still kept

    Raises InvalidInput where the log does not have the execution, or not any more all of what it stood on.
    """
    with Index(home) as index:
        rows = {row.type: row for row in index.execution(execution)}
        if "decision" not in rows:
            raise InvalidInput(f"there is no decision of an execution {execution!r:.80}", place=str(home))
        maker = _Maker(home, index, keys, progress)
        decision, outcome = maker.record(rows["decision"]), rows.get("outcome")
        store = ObjectStore(home / "objects")
        ancestors = list(maker.ancestors(decision, links_of(store.get(name)) if (name := decision["chain"]) is not None else []))
        approval = sorted(maker.approval(decision), key=lambda row: row.time)
        revocations = list(maker.revocations(decision))
        documents = {name: store.get(name) for member in DOCUMENTS if (name := decision.get(member)) is not None}
        outcomes = [outcome] if outcome is not None else []
        proven = [rows["decision"], *outcomes, *ancestors, *approval, *revocations]
        return EvidenceBundle(
            execution=execution,
            decision=maker.proof(rows["decision"]),
            outcome=maker.proof(outcome) if outcome is not None else None,
            ancestors=tuple(map(maker.proof, ancestors)),
            approval=tuple(map(maker.proof, approval)),
            revocations=tuple(map(maker.proof, revocations)),
            rotations=tuple(map(maker.proof, maker.rotations({row.shard for row in proven}))),
            documents=documents,
            keys=_keys(home, trust, documents, decision, list(map(maker.record, approval))),
            disclosed=tuple(_values(home, decision, list(map(maker.record, proven)))) if disclose else None,
        )


class _Maker:
    """Finds what an execution stood on, and proves each record once."""

    def __init__(self, home: Path, index: Index, keys: LogKeys, progress: Callable[[int], None]) -> None:
        self._home, self._index, self._keys, self._progress = home, index, keys, progress

    def record(self, row: Row) -> dict[str, Any]:
        return self._index.record(row)

    def proof(self, row: Row) -> bytes:
        record = read_record(self._home, row.shard, row.number, segment=row.segment, offset=row.offset)
        proof = prove_inclusion(self._home, row.shard, row.number, self._keys, record, self._progress)
        if proof.record is None:
            raise InvalidInput(f"the {row.type} {row.id} was removed by retention", place=f"shard {row.shard}, record {row.number}")
        return proof.format()

    def ancestors(self, decision: dict[str, Any], links: list[str]) -> Iterator[Row]:
        """The grants from the root down to the call, the executions that caused any of them, and what those stood on.

        links  of the decision's chain, root first. What was derived elsewhere is put on record when a call first runs under it
        """
        seen: set[tuple[str, str | None]] = {("decision", decision["id"])}
        waiting: list[tuple[str, str | None]] = [("decision", decision["caused_by"]), *[("delegation", link) for link in links]]
        while waiting:
            kind, name = one = waiting.pop()
            if name is None or one in seen:
                continue
            seen.add(one)
            if len(seen) > MAX_RECORDS:
                raise InvalidInput(f"the execution stands on more than {MAX_RECORDS} records")
            row = self._found(kind, name, needed=ran(decision) or name not in links)
            if row is not None:
                record = self._index.record(row)
                waiting += above(record)
                yield row

    def _found(self, kind: str, name: str, *, needed: bool) -> Row | None:
        column = "artifact" if kind == "delegation" else "execution"
        row = next(self._index.find({"type": kind, column: name}), None)
        if row is None and needed:
            hint = "retention removed it, or the log is not whole: `agentguard log verify` says more"
            raise InvalidInput(f"there is no {kind} {name!r:.80} in the log, on which the execution stood", hint=hint)
        return row

    def revocations(self, decision: dict[str, Any]) -> Iterator[Row]:
        """What had been stopped and lifted when it was decided: so many as the version counts."""
        version = int(decision["revocations"])
        if version > MAX_RECORDS:
            return
        for number, row in enumerate(self._index.find({"type": "revocation"})):
            if number >= version:
                return
            yield row

    def approval(self, decision: dict[str, Any]) -> Iterator[Row]:
        """What was asked about the call, and answered; and the decision that asked, where it was another one."""
        answered = _used(self._home, decision)
        if answered is None and put_to_humans(decision):
            yield from self._notes(decision, {"asked"})
            return
        if answered is None:
            return
        request = answered or next((self._detail(row)["request"] for row in self._notes(decision, {"used"})), None)
        if request is None:
            return
        for row in self._index.find({"type": "approval"}, until=int(decision["time"]) + _SOON, newest=True):
            detail = self._detail(row)
            if detail["request"] != request or (detail["action"] == "used" and detail["execution"] != decision["id"]):
                continue
            yield row
            if detail["action"] == "asked":
                if detail["execution"] != decision["id"]:
                    asking = self._found("decision", detail["execution"], needed=True)
                    yield from [asking] if asking is not None else []
                return
        raise InvalidInput(
            f"the request {request}, on which the execution stood, is not in the log", hint="`agentguard log verify` says more"
        )

    def _notes(self, decision: dict[str, Any], actions: set[str]) -> Iterator[Row]:
        """The records about approvals that were written together with a decision."""
        time = int(decision["time"])
        for row in self._index.find({"type": "approval"}, since=time, until=time + _SOON):
            detail = self._detail(row)
            if detail["action"] in actions and detail["execution"] == decision["id"]:
                yield row
                return

    def _detail(self, row: Row) -> dict[str, Any]:
        detail: dict[str, Any] = self._index.record(row)["detail"]
        return detail

    def rotations(self, shards: set[str]) -> list[Row]:
        """Every step by which the log came to its key: from each of these shards that has it, else from another one."""
        keys = all_keys(self._home, self._keys)
        steps: dict[int, dict[str, Row]] = {}
        for row in self._index.find({"type": "key"}):
            record = read_record(self._home, row.shard, row.number, segment=row.segment, offset=row.offset)
            handover = read_handover(record, keys.origin(row.shard)) if type(record) is bytes else None
            if handover is not None and handover.new in keys.keys:
                steps.setdefault(keys.keys.index(handover.new), {})[row.shard] = row
        found = []
        for position in range(1, len(keys.keys)):
            rows = steps.get(position)
            if rows is None:
                hint = "`agentguard log verify` says more"
                raise InvalidInput(f"no record in the log hands over to its key number {position + 1}", place=str(self._home), hint=hint)
            found += [rows[shard] for shard in sorted(shards & rows.keys()) or [min(rows)]]
        if len(found) > MAX_RECORDS:
            raise InvalidInput(f"the log's key was rotated in more than {MAX_RECORDS} records")
        return found


def _used(home: Path, decision: dict[str, Any]) -> str | None:
    """The request whose answer a decision rests on: None if there is none, empty if that is erased and not plain from the record."""
    charged = approval_of(decision)
    if charged is not None or decision["usage"] is None:
        return charged
    for item in SideStore(home / "side").get(decision["id"], near_ns=int(decision["time"])):
        if item.kind == "usage" and commit(item.salt, item.value) == decision["usage"]:
            answer = parse(item.value)["answer"]
            return None if answer is None else str(answer["request"])
    return ""


def _keys(
    home: Path, trust: Trust, documents: Mapping[str, bytes], decision: Mapping[str, Any], approval: list[dict[str, Any]]
) -> tuple[PublicKey, ...]:
    """The keys of the anchors that the record names, as far as they are known here, of the signer of the policy bundle, and of who
    answered. Raises InvalidInput where one of those is not known any more."""
    known = {key.thumbprint(): key for key in KeyRing(home / "keys").approvers().values()}
    known |= {thumbprint: who.key for thumbprint, who in (trust.approvers or {}).items()}
    answered = {record["detail"]["key"]: record["by"] for record in approval if record["type"] == "approval" and "key" in record["detail"]}
    for thumbprint, name in answered.items():
        if thumbprint not in known:
            hint = "put it back under `approvers` in trust.json, or into the home's keys"
            raise InvalidInput(f"the key of {name}, who answered, is not known here any more", place=str(home), hint=hint)
    found = list(trust.anchors.by_key)
    data = documents.get(decision.get("bundle") or "")
    if data is not None:
        for _, authority in trust.authorities:
            try:
                found += [authority, *read_bundle(data, trust, signer=authority).trust.anchors.by_key]
            except InvalidInput:
                continue  # it signed another one
    named = documents[decision["anchors"]].decode("utf-8")
    kept = {key.thumbprint(): key for key in found if key in dict(trust.authorities).values() or key.thumbprint() in named}
    kept |= {thumbprint: known[thumbprint] for thumbprint in answered}
    return tuple(kept[thumbprint] for thumbprint in sorted(kept))


def _values(home: Path, decision: dict[str, Any], records: list[dict[str, Any]]) -> Iterator[Disclosed]:
    """The values that open the commitments of the decision, its outcome, the grants above it and the request, as far as they are kept."""
    store, execution = SideStore(home / "side"), decision["id"]
    for record in records:
        if record["type"] == "decision" and record["id"] != execution:
            continue  # what caused the call is proven, and tells no more
        detail = record.get("detail", {})
        question = record["type"] == "approval" and detail["action"] == "asked"
        owner = record["execution"] if record["type"] == "outcome" else detail["execution"] if question else record["id"]
        given: set[str] = set()
        for item in store.get(owner, near_ns=int(record["time"])):
            commitment = record.get(item.kind) if not question else detail["arguments"] if item.kind == "asked" else None
            if item.kind not in given and commitment == commit(item.salt, item.value):
                given.add(item.kind)
                yield Disclosed(record["id"], item.kind, item.salt, item.value)
