"""What goes wrong in a case: each fault changes the plan in one place. Not every change makes the call illegal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from . import mint, universe
from .chooser import Chooser
from .plan import Plan
from .recipe import DAMAGE, with_link
from .universe import ANYTHING, NOW, TOOLS

Fault = Callable[[Chooser, Plan], None]


def _some_link(choose: Chooser, plan: Plan) -> int:
    return choose.integer(0, len(plan.recipe.links) - 1)


def _change_link(plan: Plan, index: int, **changes: Any) -> None:
    plan.recipe = with_link(plan.recipe, index, **changes)


def _presented_names(plan: Plan) -> list[str]:
    """The arguments that a second fault can still work on: presented, of this tool, with a rule map in the policy."""
    rules = plan.policy["agents"].get(plan.route[-1], {"tools": {}})["tools"]
    return [name for name in plan.presented if name in TOOLS.get(plan.tool, {})] if plan.tool in rules else []


def _damage(choose: Chooser, plan: Plan) -> None:
    index = _some_link(choose, plan)
    _change_link(plan, index, damage=(*plan.recipe.links[index].damage, choose.pick(DAMAGE)))


def _widen_constraint(choose: Chooser, plan: Plan) -> None:
    """Put any constraint of the pool in some link; often one that accepts the value, so that only narrowing can tell."""
    index = _some_link(choose, plan)
    entries = dict((plan.recipe.links[index].tools or {}).get(plan.tool, {}))
    names = [name for name in TOOLS.get(plan.tool, {}) if name in entries]
    if not names:
        return
    name = choose.pick(names)
    options = universe.pool(TOOLS[plan.tool][name][0], plan.profile)
    if choose.chance(50):
        options = universe.fitting(options, plan.bound[name])
    entries[name] = {**choose.pick(options), **({"optional": True} if entries[name].get("optional") else {})}
    _set_map(plan, index, entries)


def _set_map(plan: Plan, index: int, entries: dict[str, Any], tool: str | None = None) -> None:
    _change_link(plan, index, tools={**(plan.recipe.links[index].tools or {}), tool or plan.tool: entries})


def _widen_keys(choose: Chooser, plan: Plan) -> None:
    index = _some_link(choose, plan)
    entries = dict((plan.recipe.links[index].tools or {}).get(plan.tool, {}))
    what = choose.pick(["star", "optional", "drop", "add", "open", "nothing"])
    if what == "star":
        entries["*"] = ANYTHING
    elif what == "optional" and entries:
        name = choose.pick(entries)
        entries[name] = {**entries[name], "optional": True} if name != "*" else ANYTHING
    elif what == "drop" and entries:
        del entries[choose.pick(entries)]
    elif what == "add":
        entries["extra"] = {**ANYTHING, "optional": choose.chance(50)}
    elif what == "open":
        entries = {}
    elif what == "nothing":
        entries["nothing"] = {**universe.NOTHING, "optional": True}
    _set_map(plan, index, entries)


def _exploit_widening(choose: Chooser, plan: Plan) -> None:
    """The leaf names what the call carries, and the root forbids it: only narrowing or an ancestor's check can tell."""
    names = _presented_names(plan)
    if not names:
        return
    name = choose.pick(names)
    kind = TOOLS[plan.tool][name][0]
    value = choose.pick(kind.usual + kind.odd)
    plan.presented = {**plan.presented, name: value}
    plan.bound = {**plan.bound, name: value}
    last = len(plan.recipe.links) - 1
    entries = dict((plan.recipe.links[last].tools or {}).get(plan.tool, {}))
    entries[name] = choose.pick(universe.fitting(universe.pool(kind, plan.profile), value))
    _set_map(plan, last, entries)
    plan.policy["agents"][plan.route[-1]]["tools"][plan.tool][name] = "any"
    _reprove(plan)


def _reprove(plan: Plan) -> None:
    if plan.proof is not None:
        plan.proof = replace(plan.proof, arguments=plan.presented, tool=plan.tool)


def _other_value(choose: Chooser, plan: Plan) -> None:
    names = _presented_names(plan)
    if not names:
        return
    name = choose.pick(names)
    kind = TOOLS[plan.tool][name][0]
    value = choose.pick(kind.usual + kind.odd)
    plan.presented = {**plan.presented, name: value}
    plan.bound = {**plan.bound, name: value}
    _reprove(plan)


def _near_miss(choose: Chooser, plan: Plan) -> None:
    """Any value against any constraint of its kind, in every link or in the policy; all else about it is open."""
    names = _presented_names(plan)
    if not names:
        return
    name = choose.pick(names)
    kind = TOOLS[plan.tool][name][0]
    value = choose.pick(kind.odd + kind.usual)
    plan.presented = {**plan.presented, name: value}
    plan.bound = {**plan.bound, name: value}
    in_policy = choose.chance(50)
    constraint = choose.pick(kind.constraints if in_policy else universe.pool(kind, plan.profile))
    plan.policy["agents"][plan.route[-1]]["tools"][plan.tool][name] = universe.to_rule(constraint) if in_policy else "any"
    for index, link in enumerate(plan.recipe.links):
        entries = (link.tools or {}).get(plan.tool)
        if entries and name in entries:
            _set_map(plan, index, {**entries, name: ANYTHING if in_policy else constraint})
    _reprove(plan)


def _other_arguments(choose: Chooser, plan: Plan) -> None:
    """An argument too many or too few."""
    name = choose.pick([*TOOLS.get(plan.tool, {}), "extra", "*", ""])
    if name in plan.presented:
        plan.presented = {key: value for key, value in plan.presented.items() if key != name}
        if choose.chance(50):
            plan.bound = {key: value for key, value in plan.bound.items() if key != name}
    else:
        plan.presented = {**plan.presented, name: "x"}
        plan.bound = {**plan.bound, name: "x"}
    _reprove(plan)


def _other_tool(choose: Chooser, plan: Plan) -> None:
    plan.tool = choose.pick([*TOOLS, plan.tool.upper(), plan.tool + " ", plan.tool + "\u0430", ""])
    _reprove(plan)


def _times(choose: Chooser, plan: Plan) -> None:
    index = _some_link(choose, plan)
    link = plan.recipe.links[index]
    what = choose.pick(["now", "iat", "exp", "nbf"])
    if what == "now":
        plan.now = choose.pick([link.exp - 1, link.exp, link.exp + 1, link.iat - 30, link.iat - 31, NOW + 31, NOW - 31])
    elif what == "iat":
        _change_link(plan, index, iat=choose.pick([NOW + 30, NOW + 31, NOW + 3000]))
    elif what == "exp":
        _change_link(plan, index, exp=choose.pick([NOW, NOW + 1, NOW - 1, link.exp + 500]))
    elif plan.profile:
        _change_link(plan, index, nbf=choose.pick([NOW + 30, NOW + 31, NOW + 3000, 0]))


def _revoke(choose: Chooser, plan: Plan) -> None:
    index = _some_link(choose, plan)
    agent = plan.route[index]
    kind = choose.pick(["link", "task", "agent", "initiator", "key", "all", "unrelated"])
    if kind == "link":
        plan.revoked_link = index
    else:
        values = {"task": "task-1", "agent": agent, "initiator": "user:alice", "key": mint.thumbprint(agent), "all": "all"}
        plan.revoked[kind if kind in values else "agent"] = values.get(kind, "somebody")


def _facts(choose: Chooser, plan: Plan) -> None:
    plan.facts["deployment"] = choose.pick(["dev", "prod", "Staging", ["staging"], None])
    if choose.chance(50):
        del plan.facts["deployment"]


def _environment(choose: Chooser, plan: Plan) -> None:
    index = _some_link(choose, plan)
    fact, constraint = choose.pick(
        [("region", universe.exact("us")), ("cores", universe.between(8)), ("zone", ANYTHING), ("cores", universe.exact("4"))]
    )
    if plan.profile:
        _change_link(plan, index, env={**plan.recipe.links[index].env, fact: constraint})
    else:
        plan.policy["environment"] = {fact: universe.to_rule(constraint)}


def _digest(choose: Chooser, plan: Plan) -> None:
    if plan.profile:
        _change_link(plan, _some_link(choose, plan), policy="other")


def _integrity(choose: Chooser, plan: Plan) -> None:
    plan.integrity_ok = False


def _audience(choose: Chooser, plan: Plan) -> None:
    if choose.chance(50):
        plan.audience = choose.pick([None, "https://other.example", universe.AUDIENCE + "/"])
    else:
        _change_link(plan, _some_link(choose, plan), aud=choose.pick(["https://other.example", [], [universe.AUDIENCE.upper()]]))


def _proof(choose: Chooser, plan: Plan) -> None:
    """Makes sure that a proof is needed, then spoils it."""
    plan.proof_required = True
    if plan.proof is None:
        return
    what = choose.pick(
        ["gone", "signer", "late", "early", "tool", "arguments", "id", "hash", "aud", "no_hta", "typ", "crit", "alg", "garbage", "jti"],
    )
    headers: dict[str, dict[str, Any]] = {
        "typ": {"typ": "aat+jwt"},
        "alg": {"alg": "EdDSA"},
        "crit": {"crit": ["agentguard"], "agentguard": 1},
    }
    changes: dict[str, dict[str, Any]] = {
        "id": {"aat_id": "other"}, "hash": {"aat_hash": "A" * 43}, "no_hta": {"hta": None}, "aud": {"aat_aud": "https://other.example"},
        "jti": {"jti": ""}, "tool": {"aat_tool": "other"}, "arguments": {"hta": {**plan.presented, "x": 1}},
    }  # fmt: skip
    if what == "gone":
        plan.proof = None
    elif what == "signer":
        plan.proof = replace(plan.proof, signer=choose.pick(["stranger", plan.route[0] if len(plan.route) > 1 else "issuer"]))
    elif what in ("late", "early"):
        plan.proof = replace(plan.proof, iat=NOW + (31 if what == "early" else -31))
    elif what == "garbage":
        plan.proof = replace(plan.proof, garbage=True)
    else:
        plan.proof = replace(plan.proof, header={**plan.proof.header, **headers.get(what, {})}, changes=changes.get(what, {}))


def _delegates(choose: Chooser, plan: Plan) -> None:
    """Take the edge away, or allow a hop less, or leave an agent out."""
    index = _some_link(choose, plan)
    agents = plan.policy["agents"]
    what = choose.pick(["edge", "depth", "agent"])
    if what == "agent":
        agents.pop(plan.route[index], None)
    elif index + 1 < len(plan.route):
        edges = agents.get(plan.route[index], {"delegates": {}})["delegates"]
        edge = edges.get(plan.route[index + 1], {"depth": 1})
        if what == "edge" or edge["depth"] == 1:
            edges.pop(plan.route[index + 1], None)
        else:
            edge["depth"] = max(1, len(plan.route) - 2 - index)


def _forbid(choose: Chooser, plan: Plan) -> None:
    plan.policy["forbid"] = [
        {"tool": choose.pick(["*", plan.tool, plan.tool[:3] + "*", "*" + plan.tool[-3:], "nothing", plan.tool.upper()])}
    ]


def _policy_tools(choose: Chooser, plan: Plan) -> None:
    tools = plan.policy["agents"].get(plan.route[-1], {"tools": {}})["tools"]
    rules = tools.get(plan.tool, {})
    if rules and choose.chance(50):
        name = choose.pick(rules)
        if name in TOOLS.get(plan.tool, {}) and choose.chance(50):
            rules[name] = universe.to_rule(choose.pick(TOOLS[plan.tool][name][0].constraints))
        else:
            del rules[name]
    else:
        tools.pop(plan.tool, None)


def _identity(choose: Chooser, plan: Plan) -> None:
    index = _some_link(choose, plan)
    what = choose.pick(["caller", "unbound", "rebound", "claim"])
    if what == "caller":
        plan.caller = choose.pick([agent for agent in (*universe.AGENTS, "ghost", plan.route[-1].upper()) if agent != plan.route[-1]])
    elif what == "unbound":
        plan.bindings.pop(mint.thumbprint(plan.route[index]), None)
    elif what == "rebound":
        plan.bindings[mint.thumbprint(plan.route[index])] = choose.pick(universe.AGENTS)
    else:
        _change_link(plan, index, agent=choose.pick(universe.AGENTS))


def _anchors(choose: Chooser, plan: Plan) -> None:
    what = choose.pick(["none", "other key", "other issuer", "signed by the second"])
    if what == "none":
        plan.anchors = []
    elif what == "other key":
        plan.anchors = [(universe.ISSUER, mint.public_key("stranger"))]
    elif what == "other issuer":
        plan.anchors = [("https://second.example", mint.public_key("issuer"))]
    else:
        plan.recipe = replace(plan.recipe, issuer_key="second issuer")


def _mixed(choose: Chooser, plan: Plan) -> None:
    _change_link(plan, _some_link(choose, plan), profile=not plan.profile)


def _plain_refused(choose: Chooser, plan: Plan) -> None:
    plan.policy["tools"].get(plan.tool, {}).pop("plain_chains", None)


def _assembly(choose: Chooser, plan: Plan) -> None:
    what = choose.pick(["none", "cut", "headless", "swapped", "holder"])
    if what == "none":
        plan.no_chain = True
    elif what == "cut":
        plan.cut = 1
    elif what == "headless":
        plan.first = 1
    elif what == "swapped" and len(plan.recipe.links) > 1:
        plan.recipe = replace(plan.recipe, swapped=choose.integer(0, len(plan.recipe.links) - 2))
    elif what == "holder":
        _change_link(plan, _some_link(choose, plan), holder="stranger")


FAULTS: dict[str, Fault] = {
    "damage": _damage,
    "damage again": _damage,
    "widen constraint": _widen_constraint,
    "widen another": _widen_constraint,
    "widen keys": _widen_keys,
    "exploit": _exploit_widening,
    "exploit again": _exploit_widening,
    "value": _other_value,
    "another value": _other_value,
    "near miss": _near_miss,
    "another near miss": _near_miss,
    "third near miss": _near_miss,
    "fourth near miss": _near_miss,
    "arguments": _other_arguments,
    "tool": _other_tool,
    "times": _times,
    "revocation": _revoke,
    "facts": _facts,
    "environment": _environment,
    "digest": _digest,
    "integrity": _integrity,
    "audience": _audience,
    "proof": _proof,
    "delegates": _delegates,
    "forbid": _forbid,
    "policy tools": _policy_tools,
    "identity": _identity,
    "anchors": _anchors,
    "mixed": _mixed,
    "plain refused": _plain_refused,
    "assembly": _assembly,
}
