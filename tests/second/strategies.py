"""``cases()`` (hypothesis) and ``seeded_case(seed)`` yield a policy, a signed chain, a call and its surroundings.

The strategy first draws a call and then a world that allows it; half of the cases are left so, the others suffer one
or two faults (``faults``). So about half of the cases get past stage 8, and the rest fail for one reason, mostly.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import yaml
from hypothesis import strategies as st

from . import mint, universe
from .chain import Anchor
from .chooser import Chooser, Drawn, Seeded
from .constraints import Constraint, normalized
from .evaluator import evaluate
from .faults import FAULTS
from .plan import Plan
from .recipe import ChainRecipe, LinkRecipe, ProofRecipe, Tools, mint_chain, mint_proof
from .universe import ANYTHING, AUDIENCE, ISSUER, NOW, REQUIRED, TOOLS, Kind


@dataclass(frozen=True)
class Case:
    """All inputs of ``evaluate``, by its parameters' names, and how they came about (``recipe``, ``faults``)."""

    policy_text: str
    chain: list[str] | None
    call: dict[str, Any]
    anchors: list[Anchor]
    bindings: dict[str, str]
    now: int
    revoked: dict[str, set[str]]
    facts: dict[str, Any]
    integrity_ok: bool
    proof: str | None
    audience: str | None
    proof_required: bool | None
    policy_digest: str
    recipe: ChainRecipe
    faults: tuple[str, ...]

    def inputs(self) -> dict[str, Any]:
        """The keyword arguments of ``evaluate``."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in ("recipe", "faults")}

    def evaluate(self) -> dict[str, Any]:
        return evaluate(**self.inputs())


def text_digest(policy_text: str) -> str:
    """A stand-in for the product's policy digest: any function of the text with this shape will do."""
    return "sha256:" + hashlib.sha256(policy_text.encode()).hexdigest()


def mint_all(recipe: ChainRecipe, policy_digest: str) -> list[str]:
    """Real, signed tokens for a recipe, root first."""
    return mint_chain(recipe, policy_digest)


def _value(choose: Chooser, kind: Kind) -> Any:
    return choose.pick(kind.usual if choose.chance(88) else kind.odd)


def _arguments(choose: Chooser, tool: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments as presented, and as bound with the tool's defaults."""
    presented: dict[str, Any] = {}
    bound: dict[str, Any] = {}
    for name, (kind, default) in TOOLS[tool].items():
        if default is REQUIRED or choose.chance(50):
            presented[name] = _value(choose, kind)
        bound[name] = presented.get(name, default)
    return presented, bound


def _root_map(choose: Chooser, tool: str, presented: dict[str, Any], bound: dict[str, Any], profile: bool) -> dict[str, Constraint]:
    """A map that (where its pool can) admits the call."""
    if choose.chance(4):
        return {}
    entries: dict[str, Constraint] = {}
    for name, (kind, default) in TOOLS[tool].items():
        optional = default is not REQUIRED and (name not in presented or choose.chance(50))
        if optional and name not in presented and choose.chance(25):
            continue
        entries[name] = dict(choose.pick(universe.fitting(universe.pool(kind, profile), bound[name])))
        if optional:
            entries[name]["optional"] = True
    if choose.chance(5):
        entries["*"] = ANYTHING
    if not TOOLS[tool]:
        entries["nothing"] = {**universe.NOTHING, "optional": True}
    return entries


def _child_map(
    choose: Chooser, tool: str, parent: dict[str, Constraint], presented: dict[str, Any], bound: dict[str, Any], profile: bool
) -> dict[str, Constraint]:
    """A narrower map that still admits the call."""
    if not parent and choose.chance(50):
        return _root_map(choose, tool, presented, bound, profile)
    child: dict[str, Constraint] = {}
    for name, above in parent.items():
        optional = above.get("optional", False)
        if name == "*":
            if choose.chance(50):
                child[name] = above
            continue
        if name not in TOOLS[tool]:
            child[name] = above
            continue
        if optional and name not in presented and "*" not in parent and len(parent) > 1 and choose.chance(25):
            continue
        bare = {member: value for member, value in above.items() if member != "optional"}
        options = universe.narrower(TOOLS[tool][name][0], bare, profile)
        child[name] = dict(choose.pick(universe.fitting(options, bound[name])) if choose.chance(60) else bare)
        if optional and not (name in presented and choose.chance(20)):
            child[name]["optional"] = True
    return child or parent


def _tools_along(choose: Chooser, plan: Plan, length: int) -> list[Tools]:
    """The tools of each link: those of the call, and others that come and go."""
    extra = {tool: _arguments(choose, tool) for tool in choose.shuffled(TOOLS)[: choose.integer(0, 2)] if tool != plan.tool}
    calls = {plan.tool: (plan.presented, plan.bound), **extra}
    links: list[Tools] = [{tool: _root_map(choose, tool, *call, plan.profile) for tool, call in calls.items()}]
    while len(links) < length:
        kept = [tool for tool in links[-1] if tool == plan.tool or choose.chance(70)]
        links.append({tool: _child_map(choose, tool, links[-1][tool], *calls[tool], plan.profile) for tool in kept})
    return links


def _chain(choose: Chooser, plan: Plan) -> ChainRecipe:
    links: list[LinkRecipe] = []
    iat, exp, depth = NOW - choose.integer(0, 600), NOW + choose.integer(1, 3600), len(plan.route) + choose.integer(0, 3)
    policy = "this" if plan.profile and choose.chance(60) else None
    for index, tools in enumerate(_tools_along(choose, plan, len(plan.route))):
        iat = min(iat + choose.integer(0, 60), NOW + 30 if exp > NOW + 300 else NOW)
        exp = max(exp - choose.integer(0, 60), NOW + 1, iat + 1)
        depth = max(depth - choose.integer(0, 1), len(plan.route) - 1)
        agent = plan.route[index]
        link = LinkRecipe(agent, agent, tools, iat, min(exp, links[-1].exp) if links else exp, plan.profile, max_depth=depth)
        links.append(_decorated(choose, link, policy, plan))
        policy = policy or ("this" if plan.profile and choose.chance(20) else None)
    return ChainRecipe("issuer", ISSUER, "user:alice", "task-1", tuple(links))


def _decorated(choose: Chooser, link: LinkRecipe, policy: str | None, plan: Plan) -> LinkRecipe:
    """Optional claims, all of which the case's surroundings satisfy."""
    changes: dict[str, Any] = {}
    if choose.chance(20):
        changes["aud"] = choose.pick([AUDIENCE, [AUDIENCE], ["https://other.example", AUDIENCE]])
    if plan.profile:
        changes["policy"] = policy if choose.chance(80) else None
        if choose.chance(15):
            changes["env"] = {"deployment": choose.pick([universe.one_of("prod", "staging"), universe.exact("staging"), ANYTHING])}
        if choose.chance(15):
            changes["nbf"] = choose.pick([link.iat, NOW, NOW + 30])
        if choose.chance(10):
            changes["uses"] = {"limit": 3, "domain": "main"}
    return LinkRecipe(**{**link.__dict__, **changes})


def _rules(choose: Chooser, tool: str, bound: dict[str, Any]) -> dict[str, Any]:
    rules: dict[str, Any] = {}
    for name, (kind, _) in TOOLS[tool].items():
        rules[name] = "any" if choose.chance(40) else universe.to_rule(choose.pick(universe.fitting(list(kind.constraints), bound[name])))
    return rules


def _policy(choose: Chooser, plan: Plan) -> dict[str, Any]:
    """A policy that permits the plan's call and every hop of its route."""
    agents: dict[str, Any] = {}
    for agent in universe.AGENTS:
        if agent not in plan.route and choose.chance(50):
            continue
        others = [tool for tool in TOOLS if choose.chance(20)]
        tools = {tool: _rules(choose, tool, _arguments(choose, tool)[1]) for tool in others}
        agents[agent] = {"tools": tools, "delegates": {}}
        if choose.chance(15):
            agents[agent]["budgets"] = [{"calls": 50, "per": "task"}]
    agents[plan.route[-1]]["tools"][plan.tool] = _rules(choose, plan.tool, plan.bound)
    for hops, (parent, child) in enumerate(zip(reversed(plan.route[:-1]), reversed(plan.route[1:]), strict=True), start=1):
        agents[parent]["delegates"][child] = {"depth": hops + choose.integer(0, 1)}
    document: dict[str, Any] = {"agentguard": 1, "name": "case", "agents": agents}
    if choose.chance(30):
        document["forbid"] = [{"tool": "drop_*"}, {"tool": "*_all_of_it"}]
    if choose.chance(30):
        document["environment"] = {"deployment": {"one_of": ["prod", "staging"]}}
    attributes: dict[str, Any] = {"plain_chains": "accepted"} if not plan.profile or choose.chance(10) else {}
    if choose.chance(15):
        attributes["proof"] = "required"
    if any("*" in normalized(entries) for link in plan.recipe.links for entries in (link.tools or {}).values()) and choose.chance(85):
        attributes["unsafe_any_arguments"] = True
    document["tools"] = {plan.tool: attributes} if attributes else {}
    return document


def _plan(choose: Chooser) -> Plan:
    tool = choose.pick(TOOLS)
    presented, bound = _arguments(choose, tool)
    length = choose.pick([1, 1, 2, 2, 2, 3, 3, 4])
    route = tuple(choose.shuffled(universe.AGENTS)[:length])
    plan = Plan(route=route, tool=tool, presented=presented, bound=bound, profile=choose.chance(70))
    plan.recipe = _chain(choose, plan)
    plan.policy = _policy(choose, plan)
    plan.bindings = {mint.thumbprint(agent): agent for agent in universe.AGENTS}
    if plan.profile and choose.chance(20):
        del plan.bindings[mint.thumbprint(route[0])]  # the root issuer's word is enough for it
    plan.anchors = [(ISSUER, mint.public_key("issuer")), ("https://second.example", mint.public_key("second issuer"))]
    plan.proof_required = choose.pick([None, None, False, True])
    needed = plan.proof_required is True or not plan.profile or "proof" in plan.policy["tools"].get(tool, {})
    if needed or choose.chance(10):
        audience = AUDIENCE if plan.proof_required is True or choose.chance(50) else None
        plan.proof = ProofRecipe(route[-1], tool, presented, NOW + choose.integer(-30, 30), audience)
    return plan


def _case(choose: Chooser, digest: Callable[[str], str]) -> Case:
    plan = _plan(choose)
    chosen = [choose.pick(FAULTS) for _ in range(choose.pick([0, 0, 0, 0, 1, 1, 1, 1, 1, 2]))]
    for name in chosen:
        FAULTS[name](choose, plan)
    return build(plan, tuple(chosen), digest)


@st.composite
def cases(draw: Any, digest: Callable[[str], str] = text_digest) -> Case:
    """Cases for a differential test. ``digest`` is the product's function from a policy's text to its digest."""
    return _case(Drawn(draw), digest)


def seeded_case(seed: int, digest: Callable[[str], str] = text_digest) -> Case:
    """The case of a seed: spread evenly over the choices, where hypothesis repeats itself. For long runs."""
    return _case(Seeded(seed), digest)


def build(plan: Plan, faults: tuple[str, ...] = (), digest: Callable[[str], str] = text_digest) -> Case:
    """Sign and write out what the plan says."""
    policy_text = yaml.safe_dump(plan.policy, sort_keys=False, allow_unicode=True, width=200)
    policy_digest = digest(policy_text)
    chain = mint_chain(plan.recipe, policy_digest)
    proof = mint_proof(plan.proof, chain, len(chain) - 1) if plan.proof else None
    revoked: dict[str, set[str]] = {kind: {value} for kind, value in plan.revoked.items()}
    if plan.revoked_link is not None:
        revoked["link"] = {mint.signing_hash(chain[plan.revoked_link]).hex()}
    call = {
        "agent": plan.caller or plan.route[-1],
        "tool": plan.tool,
        "presented": plan.presented,
        "bound": plan.bound,
        "call_id": "call-1",
    }
    return Case(
        policy_text, None if plan.no_chain else chain[plan.first : len(chain) - plan.cut], call, plan.anchors, plan.bindings, plan.now,
        revoked,
        plan.facts, plan.integrity_ok, proof, plan.audience, plan.proof_required, policy_digest, plan.recipe, faults,
    )  # fmt: skip
