"""What goes wrong in a case: each fault changes the plan in one place. Not every change makes the call illegal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from . import mint, universe
from .plan import Plan
from .recipe import DAMAGE, with_link
from .universe import ANYTHING, NOW, TOOLS

Draw = Callable[[st.SearchStrategy[Any]], Any]
Fault = Callable[[Draw, Plan], None]


def _pick(draw: Draw, options: Any) -> Any:
    return draw(st.sampled_from(list(options)))


def _some_link(draw: Draw, plan: Plan) -> int:
    return int(draw(st.integers(0, len(plan.recipe.links) - 1)))


def _change_link(plan: Plan, index: int, **changes: Any) -> None:
    plan.recipe = with_link(plan.recipe, index, **changes)


def _damage(draw: Draw, plan: Plan) -> None:
    index = _some_link(draw, plan)
    _change_link(plan, index, damage=(*plan.recipe.links[index].damage, _pick(draw, DAMAGE)))


def _widen_constraint(draw: Draw, plan: Plan) -> None:
    """Put any constraint of the pool in some link; often one that accepts the value, so that only narrowing can tell."""
    index = _some_link(draw, plan)
    entries = dict((plan.recipe.links[index].tools or {}).get(plan.tool, {}))
    names = [name for name in TOOLS[plan.tool] if name in entries]
    if not names:
        return
    name = _pick(draw, names)
    options = universe.pool(TOOLS[plan.tool][name][0], plan.profile)
    if draw(st.booleans()):
        options = universe.fitting(options, plan.bound[name])
    entries[name] = {**_pick(draw, options), **({"optional": True} if entries[name].get("optional") else {})}
    _set_map(plan, index, entries)


def _set_map(plan: Plan, index: int, entries: dict[str, Any], tool: str | None = None) -> None:
    _change_link(plan, index, tools={**(plan.recipe.links[index].tools or {}), tool or plan.tool: entries})


def _widen_keys(draw: Draw, plan: Plan) -> None:
    index = _some_link(draw, plan)
    entries = dict((plan.recipe.links[index].tools or {}).get(plan.tool, {}))
    what = _pick(draw, ["star", "optional", "drop", "add", "open", "nothing"])
    if what == "star":
        entries["*"] = ANYTHING
    elif what == "optional" and entries:
        name = _pick(draw, entries)
        entries[name] = {**entries[name], "optional": True} if name != "*" else ANYTHING
    elif what == "drop" and entries:
        del entries[_pick(draw, entries)]
    elif what == "add":
        entries["extra"] = {**ANYTHING, "optional": draw(st.booleans())}
    elif what == "open":
        entries = {}
    elif what == "nothing":
        entries["nothing"] = {**universe.NOTHING, "optional": True}
    _set_map(plan, index, entries)


def _exploit_widening(draw: Draw, plan: Plan) -> None:
    """The leaf names what the call carries, and the root forbids it: only narrowing or an ancestor's check can tell."""
    names = [name for name in TOOLS[plan.tool] if name in plan.presented]
    if not names:
        return
    name = _pick(draw, names)
    kind = TOOLS[plan.tool][name][0]
    value = _pick(draw, kind.usual + kind.odd)
    plan.presented = {**plan.presented, name: value}
    plan.bound = {**plan.bound, name: value}
    last = len(plan.recipe.links) - 1
    entries = dict((plan.recipe.links[last].tools or {}).get(plan.tool, {}))
    entries[name] = _pick(draw, universe.fitting(universe.pool(kind, plan.profile), value))
    _set_map(plan, last, entries)
    plan.policy["agents"][plan.route[-1]]["tools"][plan.tool][name] = "any"
    _reprove(plan)


def _reprove(plan: Plan) -> None:
    if plan.proof is not None:
        plan.proof = replace(plan.proof, arguments=plan.presented, tool=plan.tool)


def _other_value(draw: Draw, plan: Plan) -> None:
    names = list(plan.presented)
    if not names:
        return
    name = _pick(draw, names)
    kind = TOOLS[plan.tool][name][0]
    value = _pick(draw, kind.usual + kind.odd)
    plan.presented = {**plan.presented, name: value}
    plan.bound = {**plan.bound, name: value}
    _reprove(plan)


def _near_miss(draw: Draw, plan: Plan) -> None:
    """Any value against any constraint of its kind, in every link or in the policy; all else about it is open."""
    names = list(plan.presented)
    if not names:
        return
    name = _pick(draw, names)
    kind = TOOLS[plan.tool][name][0]
    value = _pick(draw, kind.odd + kind.usual)
    plan.presented = {**plan.presented, name: value}
    plan.bound = {**plan.bound, name: value}
    in_policy = draw(st.booleans())
    constraint = _pick(draw, kind.constraints if in_policy else universe.pool(kind, plan.profile))
    plan.policy["agents"][plan.route[-1]]["tools"][plan.tool][name] = universe.to_rule(constraint) if in_policy else "any"
    for index, link in enumerate(plan.recipe.links):
        entries = (link.tools or {}).get(plan.tool)
        if entries and name in entries:
            _set_map(plan, index, {**entries, name: ANYTHING if in_policy else constraint})
    _reprove(plan)


def _other_arguments(draw: Draw, plan: Plan) -> None:
    """An argument too many or too few."""
    name = _pick(draw, [*TOOLS[plan.tool], "extra", "*", ""])
    if name in plan.presented:
        plan.presented = {key: value for key, value in plan.presented.items() if key != name}
        if draw(st.booleans()):
            plan.bound = {key: value for key, value in plan.bound.items() if key != name}
    else:
        plan.presented = {**plan.presented, name: "x"}
        plan.bound = {**plan.bound, name: "x"}
    _reprove(plan)


def _other_tool(draw: Draw, plan: Plan) -> None:
    plan.tool = _pick(draw, [*TOOLS, plan.tool.upper(), plan.tool + " ", plan.tool + "\u0430", ""])
    _reprove(plan)


def _times(draw: Draw, plan: Plan) -> None:
    index = _some_link(draw, plan)
    link = plan.recipe.links[index]
    what = _pick(draw, ["now", "iat", "exp", "nbf"])
    if what == "now":
        plan.now = _pick(draw, [link.exp - 1, link.exp, link.exp + 1, link.iat - 30, link.iat - 31, NOW + 31, NOW - 31])
    elif what == "iat":
        _change_link(plan, index, iat=_pick(draw, [NOW + 30, NOW + 31, NOW + 3000]))
    elif what == "exp":
        _change_link(plan, index, exp=_pick(draw, [NOW, NOW + 1, NOW - 1, link.exp + 500]))
    elif plan.profile:
        _change_link(plan, index, nbf=_pick(draw, [NOW + 30, NOW + 31, NOW + 3000, 0]))


def _revoke(draw: Draw, plan: Plan) -> None:
    index = _some_link(draw, plan)
    agent = plan.route[index]
    kind = _pick(draw, ["link", "task", "agent", "initiator", "key", "all", "unrelated"])
    if kind == "link":
        plan.revoked_link = index
    else:
        values = {"task": "task-1", "agent": agent, "initiator": "user:alice", "key": mint.thumbprint(agent), "all": "all"}
        plan.revoked[kind if kind in values else "agent"] = values.get(kind, "somebody")


def _facts(draw: Draw, plan: Plan) -> None:
    plan.facts["deployment"] = _pick(draw, ["dev", "prod", "Staging", ["staging"], None])
    if draw(st.booleans()):
        del plan.facts["deployment"]


def _environment(draw: Draw, plan: Plan) -> None:
    index = _some_link(draw, plan)
    fact, constraint = _pick(
        draw, [("region", universe.exact("us")), ("cores", universe.between(8)), ("zone", ANYTHING), ("cores", universe.exact("4"))]
    )
    if plan.profile:
        _change_link(plan, index, env={**plan.recipe.links[index].env, fact: constraint})
    else:
        plan.policy["environment"] = {fact: universe.to_rule(constraint)}


def _digest(draw: Draw, plan: Plan) -> None:
    if plan.profile:
        _change_link(plan, _some_link(draw, plan), policy="other")


def _integrity(draw: Draw, plan: Plan) -> None:
    plan.integrity_ok = False


def _audience(draw: Draw, plan: Plan) -> None:
    if draw(st.booleans()):
        plan.audience = _pick(draw, [None, "https://other.example", universe.AUDIENCE + "/"])
    else:
        _change_link(plan, _some_link(draw, plan), aud=_pick(draw, ["https://other.example", [], [universe.AUDIENCE.upper()]]))


def _proof(draw: Draw, plan: Plan) -> None:
    """Makes sure that a proof is needed, then spoils it."""
    plan.proof_required = True
    if plan.proof is None:
        return
    what = _pick(
        draw,
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
        plan.proof = replace(plan.proof, signer=_pick(draw, ["stranger", plan.route[0] if len(plan.route) > 1 else "issuer"]))
    elif what in ("late", "early"):
        plan.proof = replace(plan.proof, iat=NOW + (31 if what == "early" else -31))
    elif what == "garbage":
        plan.proof = replace(plan.proof, garbage=True)
    else:
        plan.proof = replace(plan.proof, header={**plan.proof.header, **headers.get(what, {})}, changes=changes.get(what, {}))


def _delegates(draw: Draw, plan: Plan) -> None:
    """Take the edge away, or allow a hop less, or leave an agent out."""
    index = _some_link(draw, plan)
    agents = plan.policy["agents"]
    own = agents[plan.route[index]]
    what = _pick(draw, ["edge", "depth", "agent"])
    if what == "agent" and index < len(plan.route):
        del agents[plan.route[index]]
    elif index + 1 < len(plan.route):
        edge = own["delegates"][plan.route[index + 1]]
        if what == "edge" or edge["depth"] == 1:
            del own["delegates"][plan.route[index + 1]]
        else:
            edge["depth"] = max(1, len(plan.route) - 2 - index)


def _forbid(draw: Draw, plan: Plan) -> None:
    plan.policy["forbid"] = [
        {"tool": _pick(draw, ["*", plan.tool, plan.tool[:3] + "*", "*" + plan.tool[-3:], "nothing", plan.tool.upper()])}
    ]


def _policy_tools(draw: Draw, plan: Plan) -> None:
    tools = plan.policy["agents"].get(plan.route[-1], {"tools": {}})["tools"]
    rules = tools.get(plan.tool, {})
    if rules and draw(st.booleans()):
        name = _pick(draw, rules)
        if name in TOOLS.get(plan.tool, {}) and draw(st.booleans()):
            rules[name] = universe.to_rule(_pick(draw, TOOLS[plan.tool][name][0].constraints))
        else:
            del rules[name]
    else:
        tools.pop(plan.tool, None)


def _identity(draw: Draw, plan: Plan) -> None:
    index = _some_link(draw, plan)
    what = _pick(draw, ["caller", "unbound", "rebound", "claim"])
    if what == "caller":
        plan.caller = _pick(draw, [agent for agent in (*universe.AGENTS, "ghost", plan.route[-1].upper()) if agent != plan.route[-1]])
    elif what == "unbound":
        plan.bindings.pop(mint.thumbprint(plan.route[index]), None)
    elif what == "rebound":
        plan.bindings[mint.thumbprint(plan.route[index])] = _pick(draw, universe.AGENTS)
    else:
        _change_link(plan, index, agent=_pick(draw, universe.AGENTS))


def _anchors(draw: Draw, plan: Plan) -> None:
    what = _pick(draw, ["none", "other key", "other issuer", "signed by the second"])
    if what == "none":
        plan.anchors = []
    elif what == "other key":
        plan.anchors = [(universe.ISSUER, mint.public_key("stranger"))]
    elif what == "other issuer":
        plan.anchors = [("https://second.example", mint.public_key("issuer"))]
    else:
        plan.recipe = replace(plan.recipe, issuer_key="second issuer")


def _mixed(draw: Draw, plan: Plan) -> None:
    _change_link(plan, _some_link(draw, plan), profile=not plan.profile)


def _plain_refused(draw: Draw, plan: Plan) -> None:
    plan.policy["tools"].get(plan.tool, {}).pop("plain_chains", None)


def _assembly(draw: Draw, plan: Plan) -> None:
    what = _pick(draw, ["none", "cut", "headless", "swapped", "holder"])
    if what == "none":
        plan.no_chain = True
    elif what == "cut":
        plan.cut = 1
    elif what == "headless":
        plan.first = 1
    elif what == "swapped" and len(plan.recipe.links) > 1:
        plan.recipe = replace(plan.recipe, swapped=draw(st.integers(0, len(plan.recipe.links) - 2)))
    elif what == "holder":
        _change_link(plan, _some_link(draw, plan), holder="stranger")


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
