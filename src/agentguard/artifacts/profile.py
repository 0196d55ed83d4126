"""The claim object `agentguard` of our profile, and how it passes along a chain (DESIGN §4, docs/profile.md §3).

The draft numbers no steps for a profile; ours are called `profile.<member>` and run after the draft's steps for the same token.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from agentguard.artifacts.link import ChainError, Initiator, Limits, Link, Profile, Uses, word
from agentguard.constraints.tokens import Entry, ToolMap, parse_tool_map
from agentguard.decision import Code
from agentguard.errors import InvalidInput
from agentguard.keys import AGENT_NAME

CLAIM: Final = "agentguard"

_MEMBERS: Final = frozenset({"agent", "initiator", "task", "policy", "env", "nbf", "uses"})
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_NAME = re.compile(r"[!-~]{1,256}")
_MAX_SECONDS: Final = 2**53


def read_profile(claims: Mapping[str, Any], link: int, limits: Limits) -> Profile:
    """The claim object of one link, strictly. Raises ChainError."""
    body = claims.get(CLAIM)
    if type(body) is not dict:
        raise _malformed("profile", link, "a token of the profile has a claim object agentguard")
    unknown = sorted(set(body) - _MEMBERS)
    if unknown:
        raise _malformed("profile", link, f"the claim object has the unknown member {word(unknown[0])}")
    agent = body.get("agent")
    if type(agent) is not str or AGENT_NAME.fullmatch(agent) is None:
        raise _malformed("profile.agent", link, "agent must be 1 to 256 printable ASCII characters")
    task = body.get("task")
    if "task" in body and (type(task) is not str or _NAME.fullmatch(task) is None):
        raise _malformed("profile.task", link, "task must be 1 to 256 printable ASCII characters")
    policy = body.get("policy")
    if "policy" in body and (type(policy) is not str or _DIGEST.fullmatch(policy) is None):
        raise _malformed("profile.policy", link, "policy must be sha256: and 64 hexadecimal digits")
    nbf = body.get("nbf")
    if "nbf" in body and (type(nbf) is not int or not 0 <= nbf < claims["exp"]):
        raise _malformed("profile.nbf", link, "nbf must be whole seconds before exp")
    return Profile(
        agent=agent,
        initiator=_initiator(body["initiator"], link) if "initiator" in body else None,
        task=task,
        policy=policy,
        env=_env(body["env"], link, limits) if "env" in body else MappingProxyType({}),
        nbf=nbf,
        uses=_uses(body["uses"], link) if "uses" in body else None,
    )


def check_root_profile(profile: Profile) -> None:
    """A root says on whose behalf and for which task. Raises ChainError."""
    if profile.initiator is None:
        raise _malformed("profile.initiator", 0, "a root names the initiator")
    if profile.task is None:
        raise _malformed("profile.task", 0, "a root names the task")


def check_child_profile(profile: Profile, parent: Link, link: int) -> None:
    """Initiator and task are the root's alone; a policy is that of the links above, or new. Raises ChainError."""
    if profile.initiator is not None:
        raise ChainError(Code.DELEGATION_INVALID, "profile.initiator", link, "only a root names the initiator")
    if profile.task is not None:
        raise ChainError(Code.DELEGATION_INVALID, "profile.task", link, "only a root names the task")
    if profile.policy is not None and parent.policy is not None and profile.policy != parent.policy:
        raise ChainError(
            Code.DELEGATION_INVALID, "profile.policy", link, "bound to another policy than the links above",
            required=parent.policy, found=profile.policy,
        )  # fmt: skip


def profile_claim(profile: Profile) -> dict[str, Any]:
    """The claim object for `profile`; members that say nothing are left out."""
    body: dict[str, Any] = {"agent": profile.agent}
    if profile.initiator is not None:
        body["initiator"] = {"id": profile.initiator.id, "method": profile.initiator.method}
        if profile.initiator.evidence:
            body["initiator"]["evidence"] = profile.initiator.evidence
    if profile.task is not None:
        body["task"] = profile.task
    if profile.policy is not None:
        body["policy"] = profile.policy
    if profile.env:
        body["env"] = ToolMap(profile.env, rest=False).to_json()
    if profile.nbf is not None:
        body["nbf"] = profile.nbf
    if profile.uses is not None:
        body["uses"] = {"limit": profile.uses.limit, "domain": profile.uses.domain}
    return body


def _initiator(value: Any, link: int) -> Initiator:
    if type(value) is not dict or not {"id", "method"} <= set(value) <= {"id", "method", "evidence"}:
        raise _malformed("profile.initiator", link, "initiator has the members id and method, and may have evidence")
    who, method, evidence = value["id"], value["method"], value.get("evidence", "")
    if type(who) is not str or not 0 < len(who) <= 256 or not who.isprintable():
        raise _malformed("profile.initiator", link, "the initiator's id must be 1 to 256 printable characters")
    if type(method) is not str or _NAME.fullmatch(method) is None:
        raise _malformed("profile.initiator", link, "the initiator's method must be 1 to 256 printable ASCII characters")
    if "evidence" in value and (type(evidence) is not str or _DIGEST.fullmatch(evidence) is None):
        raise _malformed("profile.initiator", link, "the initiator's evidence must be sha256: and 64 hexadecimal digits")
    return Initiator(who, method, evidence)


def _env(value: Any, link: int, limits: Limits) -> Mapping[str, Entry]:
    try:
        facts = parse_tool_map(value, extensions=True, max_depth=limits.max_constraint_depth)
    except InvalidInput as error:
        raise _malformed("profile.env", link, str(error)) from None
    if facts.rest or not facts.named:
        raise _malformed("profile.env", link, 'env names each fact it constrains; neither empty nor "*"')
    return facts.named


def _uses(value: Any, link: int) -> Uses:
    if type(value) is not dict or set(value) != {"limit", "domain"}:
        raise _malformed("profile.uses", link, "uses has the members limit and domain")
    limit, domain = value["limit"], value["domain"]
    if type(limit) is not int or not 0 < limit < _MAX_SECONDS:
        raise _malformed("profile.uses", link, "the limit of uses must be a positive integer")
    if type(domain) is not str or _NAME.fullmatch(domain) is None:
        raise _malformed("profile.uses", link, "the domain of uses must be 1 to 256 printable ASCII characters")
    return Uses(limit, domain)


def _malformed(step: str, link: int, message: str) -> ChainError:
    return ChainError(Code.ARTIFACT_MALFORMED, step, link, message)
