"""An evidence bundle: everything about one execution that a stranger needs to check it and to judge it again, in one file.

It is a DSSE envelope (dsse.py), signed by the log's key, around an in-toto Statement v1 whose subject is the leaf hash of the decision's
record. The predicate:

    execution    id of the execution
    records      {"decision": proof, "outcome": proof or null, "ancestors": [proof, ...], "approval": [...], "revocations": [...],
                 "rotations": [...]}, each a C2SP tlog-proof that brings its record along. Ancestors: who granted what to whom down to this
                 call, and what caused it. Approval: what people were asked about it and what they answered (`answers.py`). Rotations: how
                 the log came to its key (`rotations.py`)
    documents    {digest: base64}: what the decision's record names: chain, policy, lock, environment, anchors, policy bundle, and what
                 was measured
    keys         public keys (JWK) of the issuers that were trusted, of whoever signed the policy bundle, and of who answered
    disclosed    [{"id", "kind", "salt", "value"}, ...], values behind commitments, in base64; null if nobody asked for them

Here is the document. `making.py` makes one from a home, `check.py` checks it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from agentguard.artifacts.jws import Token
from agentguard.canonical import jcs, parse
from agentguard.errors import InvalidInput
from agentguard.keys import PublicKey
from agentguard.log.checkpoint import from_base64, to_base64
from agentguard.log.merkle import leaf_hash
from agentguard.log.tlog_proof import parse_tlog_proof

STATEMENT: Final = "https://in-toto.io/Statement/v1"
PREDICATE: Final = "urn:agentguard:evidence-bundle:1"
MAX_BUNDLE: Final = 64 << 20
#: A bundle with more records is not made: each costs a proof, and a signature to check.
MAX_RECORDS: Final = 2000
#: Members of a decision record that name documents. Each of them that is not null must be there.
DOCUMENTS: Final = ("anchors", "bundle", "chain", "environment", "lock", "measured", "policy")
_APPROVAL = re.compile(r"approval/([0-9a-f]{32})")
#: Members of `records` that hold any number of proofs.
_LISTS: Final = ("ancestors", "approval", "revocations", "rotations")


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
    approval: tuple[bytes, ...]
    revocations: tuple[bytes, ...]
    rotations: tuple[bytes, ...]
    documents: Mapping[str, bytes]
    keys: tuple[PublicKey, ...]
    disclosed: tuple[Disclosed, ...] | None

    @property
    def proofs(self) -> tuple[bytes, ...]:
        """All but the rotations: the decision's, the outcome's, then the rest."""
        first = (self.decision, *([self.outcome] if self.outcome is not None else []))
        return (*first, *self.ancestors, *self.approval, *self.revocations)

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
                "decision": self.decision.decode("utf-8"),
                "outcome": self.outcome.decode("utf-8") if self.outcome is not None else None,
                **{name: [proof.decode("utf-8") for proof in getattr(self, name)] for name in _LISTS},
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
    records = _members(predicate["records"], "records", {"decision", "outcome", *_LISTS})
    documents = predicate["documents"]
    if type(documents) is not dict:
        raise InvalidInput("documents must be an object")
    disclosed = predicate["disclosed"]
    found = EvidenceBundle(
        execution=_text(predicate["execution"], "execution"),
        decision=_proof(records["decision"]),
        outcome=None if records["outcome"] is None else _proof(records["outcome"]),
        **{name: tuple(map(_proof, _list(records[name], name))) for name in _LISTS},
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
    try:
        return _text(value, "a proof").encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidInput("a proof must be text, found half of a surrogate pair") from None


def _base64(value: Any, what: str) -> bytes:
    data = from_base64(value) if type(value) is str else None
    if data is None:
        raise InvalidInput(f"{what} must be base64")
    return data


def _disclosed(value: Any) -> Disclosed:
    body = _members(value, "what is disclosed", {"id", "kind", "salt", "value"})
    salt, data = _base64(body["salt"], "a salt"), _base64(body["value"], "a disclosed value")
    return Disclosed(_text(body["id"], "id"), _text(body["kind"], "kind"), salt, data)


def name_of(document: bytes) -> str:
    """The digest that records name a document by."""
    return f"sha256:{hashlib.sha256(document).hexdigest()}"


def links_of(chain: bytes) -> list[str]:
    """The hash of each link of a chain that a record names, root first. Raises InvalidInput for tokens that cannot be read."""
    return [Token(token).digest.hex() for token in parse(chain)["aat_chain"]]  # else KeyError, TypeError


def approval_of(decision: Mapping[str, Any]) -> str | None:
    """The request whose approval an admitted call was charged to, if any."""
    names = [_APPROVAL.fullmatch(name) for name, _ in decision["reserved"]]
    return next((match[1] for match in names if match is not None), None)


def above(record: Mapping[str, Any]) -> list[tuple[str, str | None]]:
    """What a decision or a delegation stood on directly: a grant, and the execution that caused it."""
    grant = record["artifact"] if record["type"] == "decision" else record["parent"]
    return [("delegation", grant), ("decision", record["caused_by"])]
