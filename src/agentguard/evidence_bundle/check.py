"""Checks an evidence bundle with nothing at hand but the log's key: no home, no network, no clock.

Each check stands on its own and is listed; all must hold. None of them believes what the bundle says of itself: records are proven
against signed checkpoints, documents by the digests that the decision's record names, values by their commitments. One key signed all
checkpoints and the envelope: the one that is trusted, or one that it came to by rotations (`rotations.py`). The envelope's signature
only says who put all together. What no bundle can show is that nothing was left out: that there is no outcome
yet, or which revocations there were, beyond that their number is the one that the decision names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from agentguard.canonical import parse
from agentguard.dsse import NotSigned, peek, unseal
from agentguard.errors import InvalidInput
from agentguard.evidence import commit, ran
from agentguard.evidence_bundle.answers import Approval, read_approval
from agentguard.evidence_bundle.contents import DOCUMENTS, MAX_BUNDLE, EvidenceBundle, above, links_of, name_of, read_payload
from agentguard.evidence_bundle.cosignatures import Witnesses, check_cosignatures
from agentguard.evidence_bundle.rerun import Rerun, rerun
from agentguard.evidence_bundle.rotations import describe, key_in_force
from agentguard.log.identity import LogKeys
from agentguard.log.proofs import Proven, check_inclusion
from agentguard.log.tlog_proof import parse_tlog_proof

_COMMITMENTS: Final = {
    "approval": ("asked",),
    "decision": ("arguments", "bound", "followed", "proof", "reasons", "usage"),
    "delegation": ("trusted_input",),
    "outcome": ("output",),
}
Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `words` say what was found."""

    name: str
    holds: bool
    words: str


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a bundle. Later checks are missing where an earlier one failed that they rest on; `rerun` is None then."""

    checks: tuple[Check, ...]
    execution: str = ""
    decision: Record | None = None
    outcome: Record | None = None
    rerun: Rerun | None = None

    @property
    def genuine(self) -> bool:
        """Whether every check holds."""
        return self.rerun is not None and all(check.holds for check in self.checks)

    @property
    def good(self) -> bool:
        """Whether it is genuine, and the decision was not judged otherwise the second time."""
        return self.genuine and self.rerun is not None and self.rerun.status != "differs"


class _Failed(Exception):
    """A check does not hold; the message says why."""


def check_bundle(data: bytes, keys: LogKeys, witnesses: Witnesses = Witnesses()) -> Report:
    """Check a bundle against a key that the log has or had, and the cosignatures that are wanted. Raises InvalidInput for what is no bundle
    at all."""
    if len(data) > MAX_BUNDLE:
        raise InvalidInput(f"the bundle has {len(data)} bytes, at most {MAX_BUNDLE} are read")
    try:
        payload, current = _unsealed(data, keys)
    except NotSigned as error:
        return Report((Check("envelope", False, error.message),))
    except _Failed as error:
        return Report((Check("rotations", False, str(error)),))
    bundle = read_payload(payload)
    reading = _Reading(bundle, keys, current, witnesses)
    checks = [Check("envelope", True, f"signed by {keys.name}"), Check("statement", True, "its subject is the leaf of the decision")]
    for name, look in reading.looks():
        try:
            checks.append(Check(name, True, look()))
        except (_Failed, InvalidInput) as error:
            checks.append(Check(name, False, error.message if isinstance(error, InvalidInput) else str(error)))
            return Report(tuple(checks), bundle.execution)
        except (KeyError, TypeError, ValueError, AttributeError) as error:  # a record that no guard writes, whoever signed it
            checks.append(Check(name, False, f"a record is not one that a guard writes: {type(error).__name__} {error}"[:200]))
            return Report(tuple(checks), bundle.execution)
    again = rerun(reading.decision, reading.values, bundle.documents, bundle.keys, reading.revocations, reading.approval)
    return Report(tuple(checks), bundle.execution, reading.decision, reading.outcome, again)


def _unsealed(data: bytes, keys: LogKeys) -> tuple[bytes, LogKeys]:
    """The payload of the envelope, and the log with its key in force, which signed it. Raises NotSigned, _Failed where the rotations that
    would lead to another key than the trusted one do not hold, InvalidInput."""
    try:
        return unseal(data, keys.current), LogKeys(keys.name, (keys.current,))
    except NotSigned as error:
        try:
            rotations = read_payload(peek(data)).rotations  # nothing of it is believed: each record proves itself
        except InvalidInput:
            raise error from None
        if not rotations:
            raise
    try:
        current = key_in_force(rotations, keys)
    except InvalidInput as error:
        raise _Failed(error.message) from None
    return unseal(data, current.current), current


class _Reading:
    """One bundle on its way through the checks; each leaves behind what the next ones rest on."""

    def __init__(self, bundle: EvidenceBundle, trusted: LogKeys, current: LogKeys, witnesses: Witnesses) -> None:
        self._bundle, self._trusted, self._current, self._witnesses = bundle, trusted, current, witnesses
        self.decision: Record = {}
        self.outcome: Record | None = None
        self.ancestors: list[Record] = []
        self.approval: Approval | None = None
        self.revocations: list[Record] = []
        self._asked: list[Record] = []
        self.values: dict[str, bytes] = {}

    def looks(self) -> Iterator[tuple[str, Callable[[], str]]]:
        """The checks in their order."""
        yield "rotations", self._rotations
        yield "witnesses", self._cosigned
        yield "records", self._records
        yield "outcome", self._outcome
        yield "documents", self._documents
        yield "chain", self._chain
        yield "ancestors", self._ancestors
        yield "approval", self._approved
        yield "keys", self._issuers
        yield "disclosed", self._disclosed

    def _rotations(self) -> str:
        current = key_in_force(self._bundle.rotations, self._trusted)
        if current != self._current:
            raise _Failed("they lead to another key than the one that signed the envelope")
        return describe(self._bundle.rotations, self._trusted)

    def _cosigned(self) -> str:
        proofs = (*self._bundle.proofs, *self._bundle.rotations)
        return check_cosignatures([parse_tlog_proof(proof).checkpoint for proof in proofs], self._witnesses)

    def _records(self) -> str:
        bundle, seen = self._bundle, set()
        proven: list[Record] = []
        sizes = set()
        for data in bundle.proofs:
            one = check_inclusion(data, self._current)
            record = _record(one)
            name = (record["type"], record["artifact"] if record["type"] == "delegation" else record["id"])
            if name in seen:
                raise _Failed(f"the {name[0]} {name[1]!r:.80} stands there twice")
            seen.add(name)
            sizes.add((one.checkpoint.origin, one.checkpoint.size))
            proven.append(record)
        self.decision, rest = proven[0], proven[1:]
        if bundle.outcome is not None:
            self.outcome, rest = rest[0], rest[1:]
        self.ancestors, rest = rest[: len(bundle.ancestors)], rest[len(bundle.ancestors) :]
        self._asked, self.revocations = rest[: len(bundle.approval)], rest[len(bundle.approval) :]
        if self.decision["type"] != "decision" or self.decision["id"] != bundle.execution:
            raise _Failed(f"its decision is not that of the execution {bundle.execution!r:.80}")
        if any(record["type"] != "revocation" for record in self.revocations):
            raise _Failed("one of the revocations is none")
        return f"{len(proven)} proven to be in the log, under {', '.join(f'{size} records of {origin}' for origin, size in sorted(sizes))}"

    def _outcome(self) -> str:
        outcome = self.outcome
        if outcome is None:
            return "none brought along"
        if outcome["type"] != "outcome" or outcome["execution"] != self._bundle.execution:
            raise _Failed("the outcome is that of another execution")
        if not ran(self.decision):
            raise _Failed("a call that was refused has an outcome")
        return f"{outcome['status']}, of the same execution"

    def _documents(self) -> str:
        named = {self.decision[member]: member for member in DOCUMENTS if self.decision[member] is not None}
        documents = self._bundle.documents
        for name, member in named.items():
            if name not in documents:
                raise _Failed(f"the {member} {name} is not there, which the decision's record names")
        for name, data in documents.items():
            if name not in named:
                raise _Failed(f"the record names no document {name!r:.80}")
            if name_of(data) != name:
                raise _Failed(f"the {named[name]} is another one than the record names")
        return f"the record names all {len(documents)}: {', '.join(sorted(named.values()))}"

    def _links(self) -> list[str]:
        name = self.decision["chain"]
        return [] if name is None else links_of(self._bundle.documents[name])

    def _chain(self) -> str:
        hashes = self._links()
        if (hashes[-1] if hashes else None) != self.decision["artifact"]:
            raise _Failed("its last link is not the artifact that the record names")
        granted = {record["artifact"]: record for record in self.ancestors if record["type"] == "delegation"}
        for parent, link in zip([None, *hashes], hashes, strict=False):
            if link not in granted:
                if ran(self.decision):
                    raise _Failed(f"the grant of the link {link} is not there")
                continue  # derived elsewhere, and nothing ever ran under it
            if granted[link]["parent"] != parent:
                raise _Failed(f"the record of the link {link} names another parent")
            if granted[link]["root"] != hashes[0]:
                raise _Failed(f"the record of the link {link} names another root")
        on_record = sum(link in granted for link in hashes)
        return (
            f"{_count(len(hashes), 'link')}, {on_record} granted on record"
            if hashes
            else "none: the call stood on no artifact that verified"
        )

    def _ancestors(self) -> str:
        """From the decision up, everything must be there that a record names, and nothing else."""
        known = {(record["type"], record["artifact" if record["type"] == "delegation" else "id"]): record for record in self.ancestors}
        reached: set[tuple[str, str]] = set()
        links = self._links()
        waiting: list[tuple[str, str | None]] = [("decision", self.decision["caused_by"]), *[("delegation", link) for link in links]]
        while waiting:
            kind, name = waiting.pop()
            if name is None or (kind, name) in reached or (kind, name) == ("decision", self._bundle.execution):
                continue
            if (kind, name) in known:
                reached.add((kind, name))
                waiting += above(known[kind, name])
            elif ran(self.decision) or name not in links:
                raise _Failed(f"the {kind} {name!r:.80} is not there")
        extra = known.keys() - reached
        if extra:
            raise _Failed(f"the {min(extra)[0]} {min(extra)[1]!r:.80} has nothing to do with the execution")
        causes = sum(1 for kind, _ in reached if kind == "decision")
        return f"{_count(len(reached) - causes, 'grant')} up to the root, {_count(causes, 'execution')} that caused them"

    def _issuers(self) -> str:
        named = {thumbprint for _, thumbprint in self._anchors()["anchors"]}
        answered = {record["detail"]["key"] for record in self._asked if record["type"] == "approval" and "key" in record["detail"]}
        found = {key.thumbprint() for key in self._bundle.keys}
        strange = found - named - answered
        if strange and self.decision["bundle"] is None:
            raise _Failed(f"the guard did not trust the key {min(strange)[:12]}…")
        return f"{len(found & named)} of {len(named)} trusted issuers"

    def _anchors(self) -> Record:
        body: Record = parse(self._bundle.documents[self.decision["anchors"]])
        return body

    def _approved(self) -> str:
        keys = {key.thumbprint(): key for key in self._bundle.keys}
        self.approval = read_approval(self.decision, self._asked, self._anchors(), keys)
        return "none brought along" if self.approval is None else self.approval.words()

    def _disclosed(self) -> str:
        disclosed = self._bundle.disclosed
        if disclosed is None:
            return "nothing was disclosed"
        outcomes = [self.outcome] if self.outcome else []
        records = {record["id"]: record for record in (self.decision, *self.ancestors, *outcomes, *self._asked)}
        for one in disclosed:
            record = records.get(one.id)
            if record is None or one.kind not in _COMMITMENTS.get(record["type"], ()):
                raise _Failed(f"no record commits to {one.kind!r:.40} of {one.id!r:.80}")
            asked = record["type"] == "approval"
            if (record["detail"].get("arguments") if asked else record[one.kind]) != commit(one.salt, one.value):
                raise _Failed(f"{one.kind} of {one.id} is not what was committed to")
            if record is self.decision:
                self.values[one.kind] = one.value
            elif asked and self.approval is not None:
                self.approval = replace(self.approval, salt=one.salt)
        return f"opened: {', '.join(one.kind for one in disclosed) or 'nothing, since nothing is kept any more'}"


def _record(proven: Proven) -> Record:
    body = parse(proven.record or b"")
    if type(body) is not dict or type(body.get("type")) is not str:
        raise _Failed(f"record {proven.index} is not a record of agentguard")
    time = body.get("time")
    if type(time) is not str or not time.isascii() or not time.isdigit() or len(time) > 19:
        raise _Failed(f"record {proven.index} has no time")
    return body


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
