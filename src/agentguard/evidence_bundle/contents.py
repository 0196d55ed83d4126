"""An evidence bundle: everything about one execution that a stranger needs to check it and to judge it again, in one file.

It is a DSSE envelope (dsse.py), signed by the log's key, around an in-toto Statement v1 whose subject is the leaf hash of the decision's
record. The predicate:

    execution    id of the execution
    records      {"decision": proof, "outcome": proof or null, "ancestors": [proof, ...], "revocations": [proof, ...]}, each a C2SP
                 tlog-proof that brings its record along. Ancestors: who granted what to whom down to this call, and what caused it
    documents    {digest: base64}: what the decision's record names: chain, policy, lock, environment, anchors, policy bundle, and what
                 was measured
    keys         public keys (JWK) of the issuers that were trusted, and of whoever signed the policy bundle
    disclosed    [{"id", "kind", "salt", "value"}, ...], values behind commitments, in base64; null if nobody asked for them

Here is the document and how a home makes one. `evidence_bundle_check` checks it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agentguard.artifacts.jws import Token
from agentguard.canonical import jcs, parse
from agentguard.errors import InvalidInput
from agentguard.evidence import commit
from agentguard.keys import PublicKey
from agentguard.log.checkpoint import from_base64, to_base64
from agentguard.log.merkle import leaf_hash
from agentguard.log.tlog_proof import parse_tlog_proof

if TYPE_CHECKING:
    from agentguard.home import Trust
    from agentguard.log.identity import LogKeys
    from agentguard.reading.index import Index
    from agentguard.reading.index_rows import Row

STATEMENT: Final = "https://in-toto.io/Statement/v1"
PREDICATE: Final = "urn:agentguard:evidence-bundle:1"
MAX_BUNDLE: Final = 64 << 20
#: A bundle with more records is not made: each costs a proof, and a signature to check.
MAX_RECORDS: Final = 2000
#: Members of a decision record that name documents. Each of them that is not null must be there.
DOCUMENTS: Final = ("anchors", "bundle", "chain", "environment", "lock", "measured", "policy")


@dataclass(frozen=True, slots=True)
class Disclosed:
    """A value behind a commitment: `kind` is the member of the record `id` that commits to it."""

    id: str
    kind: str
    salt: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class EvidenceBundle:
    """What is in a bundle, nothing of it checked. Proofs are bytes as `tlog_proof` writes them."""

    execution: str
    decision: bytes
    outcome: bytes | None
    ancestors: tuple[bytes, ...]
    revocations: tuple[bytes, ...]
    documents: Mapping[str, bytes]
    keys: tuple[PublicKey, ...]
    disclosed: tuple[Disclosed, ...] | None

    @property
    def proofs(self) -> tuple[bytes, ...]:
        """All of them: the decision's, the outcome's, then the rest."""
        return (self.decision, *([self.outcome] if self.outcome is not None else []), *self.ancestors, *self.revocations)

    def payload(self) -> bytes:
        """The in-toto Statement, JCS. Raises InvalidInput for a decision's proof without its record."""
        record = parse_tlog_proof(self.decision).record
        if record is None:
            raise InvalidInput("the proof of the decision does not bring its record along")
        disclosed = None
        if self.disclosed is not None:
            disclosed = [
                {"id": one.id, "kind": one.kind, "salt": to_base64(one.salt), "value": to_base64(one.value)} for one in self.disclosed
            ]
        predicate = {
            "disclosed": disclosed,
            "documents": {name: to_base64(data) for name, data in self.documents.items()},
            "execution": self.execution,
            "keys": [key.jwk() for key in self.keys],
            "records": {
                "ancestors": [proof.decode("utf-8") for proof in self.ancestors],
                "decision": self.decision.decode("utf-8"),
                "outcome": self.outcome.decode("utf-8") if self.outcome is not None else None,
                "revocations": [proof.decode("utf-8") for proof in self.revocations],
            },
        }
        subject = [{"digest": {"sha256": leaf_hash(record).hex()}, "name": f"execution {self.execution}"}]
        return jcs({"_type": STATEMENT, "predicate": predicate, "predicateType": PREDICATE, "subject": subject})


def read_payload(payload: bytes) -> EvidenceBundle:
    """Take a Statement apart. Raises InvalidInput unless `payload()` would give the same bytes, the subject's digest among them."""
    body = _members(parse(payload), "the statement", {"_type", "predicate", "predicateType", "subject"})
    if body["_type"] != STATEMENT or body["predicateType"] != PREDICATE:
        raise InvalidInput(f"not an evidence bundle: _type must be {STATEMENT}, predicateType {PREDICATE}")
    predicate = _members(body["predicate"], "predicate", {"disclosed", "documents", "execution", "keys", "records"})
    records = _members(predicate["records"], "records", {"ancestors", "decision", "outcome", "revocations"})
    documents = predicate["documents"]
    if type(documents) is not dict:
        raise InvalidInput("documents must be an object")
    disclosed = predicate["disclosed"]
    found = EvidenceBundle(
        execution=_text(predicate["execution"], "execution"),
        decision=_proof(records["decision"]),
        outcome=None if records["outcome"] is None else _proof(records["outcome"]),
        ancestors=tuple(map(_proof, _list(records["ancestors"], "ancestors"))),
        revocations=tuple(map(_proof, _list(records["revocations"], "revocations"))),
        documents={name: _base64(data, f"documents {name}") for name, data in documents.items()},
        keys=tuple(map(PublicKey.from_jwk, _list(predicate["keys"], "keys"))),
        disclosed=None if disclosed is None else tuple(map(_disclosed, _list(disclosed, "disclosed"))),
    )
    if found.payload() != payload:
        raise InvalidInput("the statement is not in its one form, or its subject is not the decision that it brings along")
    return found


def _members(value: Any, what: str, names: set[str]) -> dict[str, Any]:
    if type(value) is not dict or value.keys() != names:
        raise InvalidInput(f"{what} has the members {', '.join(sorted(names))}")
    return value


def _text(value: Any, what: str) -> str:
    if type(value) is not str:
        raise InvalidInput(f"{what} must be text")
    return value


def _list(value: Any, what: str) -> list[Any]:
    if type(value) is not list or len(value) > MAX_RECORDS:
        raise InvalidInput(f"{what} must be an array of at most {MAX_RECORDS}")
    return value


def _proof(value: Any) -> bytes:
    return _text(value, "a proof").encode("utf-8", "surrogatepass")


def _base64(value: Any, what: str) -> bytes:
    data = from_base64(value) if type(value) is str else None
    if data is None:
        raise InvalidInput(f"{what} must be base64")
    return data


def _disclosed(value: Any) -> Disclosed:
    body = _members(value, "what is disclosed", {"id", "kind", "salt", "value"})
    salt, data = _base64(body["salt"], "a salt"), _base64(body["value"], "a disclosed value")
    return Disclosed(_text(body["id"], "id"), _text(body["kind"], "kind"), salt, data)


# --- making one -----------------------------------------------------------------------------------------------------------------------


def make_bundle(
    home: Path, execution: str, keys: LogKeys, trust: Trust, *, disclose: bool, progress: Callable[[int], None] = lambda records: None
) -> EvidenceBundle:
    """Everything about one execution of a home.

    trust     the home's: the keys of issuers and policy authorities
    disclose  bring along the values behind the commitments, as far as they are still kept

    Raises InvalidInput where the log does not have the execution, or not any more all of what it stood on.
    """
    from agentguard.reading.index import Index
    from agentguard.store import ObjectStore

    with Index(home) as index:
        rows = {row.type: row for row in index.execution(execution)}
        if "decision" not in rows:
            raise InvalidInput(f"there is no decision of an execution {execution!r:.80}", place=str(home))
        maker = _Maker(home, index, keys, progress)
        decision, outcome = maker.record(rows["decision"]), rows.get("outcome")
        store = ObjectStore(home / "objects")
        ancestors = list(maker.ancestors(decision, links_of(store.get(name)) if (name := decision["chain"]) is not None else []))
        revocations = list(maker.revocations(decision))
        documents = {name: store.get(name) for member in DOCUMENTS if (name := decision.get(member)) is not None}
        subjects = [decision, *([maker.record(outcome)] if outcome is not None else []), *map(maker.record, ancestors)]
        return EvidenceBundle(
            execution=execution,
            decision=maker.proof(rows["decision"]),
            outcome=maker.proof(outcome) if outcome is not None else None,
            ancestors=tuple(map(maker.proof, ancestors)),
            revocations=tuple(map(maker.proof, revocations)),
            documents=documents,
            keys=_keys(trust, documents, decision),
            disclosed=tuple(_values(home, decision, subjects)) if disclose else None,
        )


class _Maker:
    """Finds what an execution stood on, and proves each record once."""

    def __init__(self, home: Path, index: Index, keys: LogKeys, progress: Callable[[int], None]) -> None:
        self._home, self._index, self._keys, self._progress = home, index, keys, progress

    def record(self, row: Row) -> dict[str, Any]:
        return self._index.record(row)

    def proof(self, row: Row) -> bytes:
        from agentguard.log import read_record
        from agentguard.log.proofs import prove_inclusion

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


def _keys(trust: Trust, documents: Mapping[str, bytes], decision: Mapping[str, Any]) -> tuple[PublicKey, ...]:
    """The keys of the anchors that the record names, as far as they are known here, and of the signer of the policy bundle."""
    from agentguard.bundle import read_bundle

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
    return tuple(kept[thumbprint] for thumbprint in sorted(kept))


def _values(home: Path, decision: dict[str, Any], records: list[dict[str, Any]]) -> Iterator[Disclosed]:
    """The values that open the commitments of the decision, its outcome and the grants above it, as far as they are kept."""
    from agentguard.store import SideStore

    store, execution = SideStore(home / "side"), decision["id"]
    for record in records:
        if record["type"] == "decision" and record["id"] != execution:
            continue  # what caused the call is proven, and tells no more
        owner = record["execution"] if record["type"] == "outcome" else record["id"]
        given: set[str] = set()
        for item in store.get(owner, near_ns=int(record["time"])):
            if item.kind not in given and record.get(item.kind) == commit(item.salt, item.value):
                given.add(item.kind)
                yield Disclosed(record["id"], item.kind, item.salt, item.value)


def name_of(document: bytes) -> str:
    """The digest that records name a document by."""
    return f"sha256:{hashlib.sha256(document).hexdigest()}"


def links_of(chain: bytes) -> list[str]:
    """The hash of each link of a chain that a record names, root first. Raises InvalidInput for tokens that cannot be read."""
    return [Token(token).digest.hex() for token in parse(chain)["aat_chain"]]  # else KeyError, TypeError


def ran(decision: Mapping[str, Any]) -> bool:
    """Whether the call of a decision might run."""
    return decision["verdict"] == "allow" or not decision["enforced"]


def above(record: Mapping[str, Any]) -> list[tuple[str, str | None]]:
    """What a decision or a delegation stood on directly: a grant, and the execution that caused it."""
    grant = record["artifact"] if record["type"] == "decision" else record["parent"]
    return [("delegation", grant), ("decision", record["caused_by"])]
