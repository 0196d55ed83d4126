"""``evaluate``: stages 0 to 10 of the decision, in order; the first that fails ends it (DESIGN section 7).

Deny is the initial state. A call that passes stage 10 is answered ``allow``: provenance, approval, admission and
evidence (11 to 14) are not judged here, so the property to test is "the product never allows what this denies".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import canon, lexical
from .chain import Anchor, verify_chain
from .constraints import Constraint, accepts, argument_problem, is_required, named, normalized
from .outcome import LAST_STAGE, NO_STAGE, Deny
from .proof import check_proof
from .rules import Policy, parse_policy
from .tokens import Link, Tools, audiences

SKEW = 30
MAX_ARGUMENT_DEPTH = 32
MAX_ARGUMENT_NODES = 10_000
MAX_ARGUMENT_BYTES = 1 << 20

Revoked = Mapping[str, set[str]]


@dataclass(frozen=True)
class Inputs:
    """The call and everything it is judged by."""

    agent: str
    tool: str
    presented: dict[str, Any]
    bound: dict[str, Any]
    policy: Policy
    policy_digest: str
    anchors: list[Anchor]
    bindings: dict[str, str]
    now: int
    revoked: Revoked
    facts: dict[str, Any]
    integrity_ok: bool
    proof: str | None
    audience: str | None
    proof_required: bool | None


def evaluate(
    policy_text: str,
    chain: list[str] | None,
    call: dict[str, Any],
    *,
    anchors: list[Anchor],
    bindings: dict[str, str],
    now: int,
    revoked: Revoked,
    facts: dict[str, Any],
    integrity_ok: bool,
    proof: str | None,
    audience: str | None,
    proof_required: bool | None,
    policy_digest: str,
) -> dict[str, Any]:
    """``{verdict, code, stage, step, why}``; ``step`` and ``why`` are for people. ``now`` is in seconds. Never raises."""
    try:
        _stage_0(call)
        _stage_1(chain)
        given = Inputs(
            call["agent"], call["tool"], call["presented"], call["bound"], parse_policy(policy_text), policy_digest, anchors, bindings,
            now, revoked, facts, integrity_ok, proof, audience, proof_required,
        )  # fmt: skip
        links = verify_chain(chain or [], anchors)
        names = _stage_2(links, given)
        _stage_3(links, given)
        _stage_4(links, names, given)
        _stage_5(links, given)
        _stage_6(links, given)
        _stage_7(given)
        _stage_8(links, given)
        _stage_9(links, given)
        _stage_10(names, given)
    except Deny as deny:
        return deny.as_dict()
    except Exception as error:
        return Deny("guard_error", NO_STAGE, "exception", repr(error)).as_dict()
    return {"verdict": "allow", "code": None, "stage": LAST_STAGE, "step": "", "why": ""}


def _stage_0(call: dict[str, Any]) -> None:
    """The call is well-formed, bound and bounded."""

    def refuse(why: str) -> Deny:
        return Deny("malformed_call", 0, "call", why)

    agent, tool, call_id = call.get("agent"), call.get("tool"), call.get("call_id")
    if not isinstance(agent, str) or not agent or not isinstance(tool, str) or not tool:
        raise refuse("agent or tool")
    if not all(0x20 < ord(c) < 0x7F for c in tool):
        raise refuse("a tool's name is printable ASCII")
    if call_id is not None and (not isinstance(call_id, str) or not call_id):
        raise refuse("call_id")
    for name in ("presented", "bound"):
        arguments = call.get(name)
        if not isinstance(arguments, dict):
            raise refuse(f"{name} is not an object")
        nodes = list(canon.walk(arguments))
        if len(nodes) > MAX_ARGUMENT_NODES or any(depth > MAX_ARGUMENT_DEPTH + 1 for _, depth in nodes):
            raise refuse(f"{name} is too large or too deep")
        try:
            # Numbers beyond a double are inadmissible (stage 8), not malformed: leave them out here.
            size = len(canon.jcs(_without_large_numbers(arguments)))
        except canon.NotJson as error:
            raise refuse(str(error)) from error
        if size > MAX_ARGUMENT_BYTES:
            raise refuse(f"{name} is too large")
    if not call["presented"].keys() <= call["bound"].keys():
        raise refuse("an argument is not bound")


def _without_large_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_large_numbers(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_large_numbers(item) for item in value]
    if canon.is_integer(value) and not canon.admissible_number(value):
        return 0
    return value


def _stage_1(chain: list[str] | None) -> None:
    if not chain:
        raise Deny("artifact_missing", 1, "1", "no chain")


def _stage_2(links: list[Link], given: Inputs) -> list[str | None]:
    """The name that a trusted binding gives each link's key; the leaf's is the caller's.

    A root's ``agent`` is itself a trusted binding, as a trusted issuer signed it.
    """
    names: list[str | None] = []
    for index, link in enumerate(links):
        claimed = link.profile.agent if link.profile else None
        name = given.bindings.get(link.thumbprint, claimed if index == 0 else None)
        if name is not None and claimed is not None and name != claimed:
            raise Deny("delegation_invalid", 2, "agent", f"link {index} claims {claimed}, its key is {name}'s")
        names.append(name)
    if names[-1] != given.agent:
        raise Deny("delegation_invalid", 2, "agent", f"the leaf's key is bound to {names[-1]}")
    return names


def _stage_3(links: list[Link], given: Inputs) -> None:
    """Steps 3e, 3f, 4i, 4k and ``nbf``: 30 s of skew at the start, none at the end."""
    for link in links:
        if max(link.claims["iat"], link.not_before) > given.now + SKEW:
            raise Deny("artifact_not_yet_valid", 3, "3f", "not yet")
    for link in links:
        if link.claims["exp"] <= given.now:
            raise Deny("artifact_expired", 3, "3e", "expired")


def _stage_4(links: list[Link], names: list[str | None], given: Inputs) -> None:
    """Revocation of any link cascades to the leaf."""
    found: set[tuple[str, str]] = set()
    for link, name in zip(links, names, strict=True):
        found |= {("link", link.raw.hash.hex()), ("key", link.thumbprint)}
        found |= {("agent", own) for own in (name, link.profile and link.profile.agent) if own}
    root = links[0].profile
    if root is not None and root.initiator is not None and root.task is not None:
        found |= {("task", root.task), ("initiator", root.initiator["id"])}
    hits = [f"{kind} {value}" for kind, value in sorted(found) if value in given.revoked.get(kind, set())]
    if given.revoked.get("all"):
        hits.append("all")
    if hits:
        raise Deny("artifact_revoked", 4, "revocation", ", ".join(hits))


def _stage_5(links: list[Link], given: Inputs) -> None:
    wanted = [link.profile.env for link in links if link.profile] + [given.policy.environment]
    for entries in wanted:
        for fact, constraint in entries.items():
            if not _fact_holds(constraint, fact, given.facts):
                raise Deny("environment_mismatch", 5, "environment", fact)


def _fact_holds(constraint: Constraint, fact: str, facts: dict[str, Any]) -> bool:
    if fact not in facts:
        return not is_required(constraint)
    return accepts(constraint, facts[fact])


def _stage_6(links: list[Link], given: Inputs) -> None:
    for link in links:
        bound = link.profile.policy if link.profile else None
        if bound not in (None, given.policy_digest):
            raise Deny("policy_mismatch", 6, "policy", "bound to another policy")


def _stage_7(given: Inputs) -> None:
    if not given.integrity_ok:
        raise Deny("integrity_failure", 7, "integrity", "the tool differs from its lock")


def _stage_8(links: list[Link], given: Inputs) -> None:
    """Scope of every link (the draft asks the leaf alone, which is the same if narrowing is sound), then audience."""
    leaf = links[-1]
    for link in reversed(links):
        if given.tool not in (link.tools or {}):
            raise Deny("tool_not_in_scope", 8, "6b", "the chain does not name the tool")
    if leaf.profile is None and given.tool not in given.policy.plain_accepted:
        raise Deny("tool_not_in_scope", 8, "profile", "policy does not accept a plain chain")
    for link in reversed(links):
        _check_arguments(link.tools or {}, given)
    entries = (leaf.tools or {})[given.tool]
    if leaf.profile is not None and "*" in normalized(entries) and given.tool not in given.policy.unsafe_any_arguments:
        raise Deny("argument_not_in_scope", 8, "profile", "an open map")
    for link in links:
        values = audiences(link.claims)
        if values is not None and (given.audience is None or given.audience not in values):
            raise Deny("audience_mismatch", 8, "6c", "for another enforcement point")


def _check_arguments(tools: Tools, given: Inputs) -> None:
    entries = tools[given.tool]
    if not canon.admissible(given.presented):
        raise Deny("argument_not_in_scope", 8, "6b", "inadmissible number")
    problem = argument_problem(entries, given.presented)
    if problem is not None:
        raise Deny("argument_not_in_scope", 8, "6b", problem)
    for name, constraint in named(entries).items():
        if name in given.bound and not accepts(constraint, given.bound[name]):
            raise Deny("argument_not_in_scope", 8, "bound", f"{name} is not accepted as bound")


def _stage_9(links: list[Link], given: Inputs) -> None:
    leaf = links[-1]
    crosses = given.proof_required is True
    if not (crosses or leaf.profile is None or given.tool in given.policy.proof_required):
        return
    if given.proof is None:
        raise Deny("proof_missing", 9, "7", "no proof")
    check_proof(
        given.proof, leaf, given.tool, given.presented, given.now,
        audience=given.audience, audience_required=crosses and given.audience is not None,
    )  # fmt: skip


def _stage_10(names: list[str | None], given: Inputs) -> None:
    policy = given.policy
    if given.agent not in policy.agents:
        raise Deny("agent_unknown", 10, "policy", "no such agent")
    for index in range(len(names) - 1):
        parent = policy.agents.get(names[index] or "")
        depth = parent.delegates.get(names[index + 1] or "", 0) if parent else 0
        hops = len(names) - 1 - index
        if hops > depth:
            raise Deny("delegation_not_allowed", 10, "delegates", f"{names[index]} to {names[index + 1]}, {hops} hops down")
    if any(lexical.glob_matches(pattern, given.tool) for pattern in policy.forbid):
        raise Deny("tool_not_allowed", 10, "forbid", "forbidden")
    entries = policy.agents[given.agent].tools.get(given.tool)
    if entries is None:
        raise Deny("tool_not_allowed", 10, "tools", "the agent has no such tool")
    if not canon.admissible(given.bound):
        raise Deny("argument_not_allowed", 10, "arguments", "inadmissible number")
    problem = _policy_problem(entries, given.bound)
    if problem is not None:
        raise Deny("argument_not_allowed", 10, "arguments", problem)


def _policy_problem(entries: dict[str, Constraint], bound: dict[str, Any]) -> str | None:
    """Closed world: an empty map of the policy admits no argument, unlike a token's, and ``*`` is a plain name."""
    for name, value in bound.items():
        if name not in entries:
            return f"{name} has no rule"
        if not accepts(entries[name], value):
            return f"{name} is not accepted"
    for name, constraint in entries.items():
        if is_required(constraint) and name not in bound:
            return f"{name} is absent"
    return None
