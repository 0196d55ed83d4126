"""Evidence bundles for tests: made from a home, taken apart, and put together again by somebody."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agentguard import Guard
from agentguard.cli.log_common import log_keys
from agentguard.cli.trust import ring_of, trust_of
from agentguard.dsse import seal
from agentguard.evidence_bundle.check import Report, check_bundle
from agentguard.evidence_bundle.contents import EvidenceBundle
from agentguard.evidence_bundle.cosignatures import Witnesses
from agentguard.evidence_bundle.making import make_bundle
from agentguard.keys import LocalKey
from agentguard.log.checkpoint import Checkpoint, sign_checkpoint
from agentguard.log.identity import parse_log_key
from agentguard.log.merkle import inclusion_proof, leaf_hash, nodes_of, root_of
from agentguard.log.tlog_proof import TlogProof, parse_tlog_proof

POLICY = """
agentguard: 1
name: evidence
agents:
  triage:
    tools:
      echo: {x: {one_of: [1, 2, 3]}}
      outer: {x: any}
      nest: {x: any}
      proven: {x: any}
      after: {}
      pair: {a: any, b: any}
    sequence: [{tool: after, never_after: echo}]
    budgets: [{calls: 6, per: task}]
    delegates: {writer: {depth: 1}}
  writer:
    tools: {echo: {x: {one_of: [1, 2]}}}
  tried:
    tools: {echo: {x: {one_of: [1]}}}
    unsafe_shadow: {until: "2999-01-01"}
tools: {proven: {proof: required}}
"""


def opened(home: Path, policy: str = POLICY) -> Guard:
    """A guard with a few tools."""
    guard = Guard.open(policy, home=home, durability="process")

    @guard.tool
    def echo(x: int) -> str:
        return f"echo {x}"

    @guard.tool
    def outer(x: int) -> str:
        return echo(x)

    @guard.tool
    def proven(x: int) -> int:
        return x

    @guard.tool
    def after() -> None:
        return None

    @guard.tool
    def pair(a: int, b: int = 7) -> int:
        return a + b

    return guard


def taken(home: Path, execution: str, *, disclose: bool = True) -> EvidenceBundle:
    """The bundle of an execution, not yet signed."""
    return make_bundle(home, execution, log_keys(home, None), trust_of(home), disclose=disclose)


def signed(home: Path, bundle: EvidenceBundle, signer: LocalKey | None = None) -> bytes:
    """A bundle signed by the log's own key, or by another."""
    return seal(bundle.payload(), signer or ring_of(home).log())


def checked(home: Path, execution: str, *, disclose: bool = True) -> Report:
    """Make, sign and check."""
    return check_bundle(signed(home, taken(home, execution, disclose=disclose)), log_keys(home, None))


def failure(report: Report) -> str:
    """The name of the check that failed; empty where all hold."""
    return next((check.name for check in report.checks if not check.holds), "")


def found(report: Report, name: str) -> str:
    """What a check found, which must hold."""
    (check,) = [check for check in report.checks if check.name == name]
    assert check.holds, check
    return check.words


def judged(report: Report) -> str:
    """What came of judging again; every check must hold."""
    assert report.genuine, [check for check in report.checks if not check.holds]
    assert report.rerun is not None
    return f"{report.rerun.status}: {report.rerun.words}"


def far_away(home: Path, execution: str, *, witnesses: Witnesses | None = None) -> Report:
    """What a stranger is told who has the file and the text of the log's key, when there is no home any more."""
    keys = parse_log_key(log_keys(home, None).verifier_key())
    data = signed(home, taken(home, execution))
    away = home.rename(home.with_name("away"))
    try:
        return check_bundle(data, keys, witnesses or Witnesses())
    finally:
        away.rename(home)


def record_in(proof: bytes) -> bytes:
    record = parse_tlog_proof(proof).record
    assert record is not None
    return record


def planted(records: Sequence[bytes], signer: LocalKey, origin: str) -> list[bytes]:
    """Proofs of all these records in a tree of somebody's own."""
    leaves = [leaf_hash(record) for record in records]
    note = sign_checkpoint(Checkpoint(origin, len(leaves), root_of(leaves)), signer)
    return [TlogProof(at, inclusion_proof(nodes_of(leaves), at, len(leaves)), note, one).format() for at, one in enumerate(records)]
