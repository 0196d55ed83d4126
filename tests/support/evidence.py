"""Evidence bundles for tests: made from a home, taken apart, and put together again by somebody."""

from __future__ import annotations

from pathlib import Path

from agentguard import Guard
from agentguard.cli.log_common import log_keys
from agentguard.cli.trust import ring_of, trust_of
from agentguard.dsse import seal
from agentguard.evidence_bundle.check import Report, check_bundle
from agentguard.evidence_bundle.contents import EvidenceBundle, make_bundle
from agentguard.keys import LocalKey

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
