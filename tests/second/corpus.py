"""Cases without chance, for a differential test that is the same every time: all damages, all pairs of constraints."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from . import mint, refute, universe
from .constraints import Constraint, accepts
from .plan import Plan
from .recipe import DAMAGE, ChainRecipe, LinkRecipe, ProofRecipe, with_link
from .strategies import Case, build, text_digest
from .universe import AUDIENCE, ISSUER, NOW, TOOLS

ROUTE = ("boss", "writer", "reader")
# where each kind of constraint is put to the test: (tool, argument)
PLACES = [
    ("read_file", "path"),
    ("connect", "port"),
    ("send_email", "to"),
    ("fetch", "url"),
    ("search", "query"),
    ("tag", "labels"),
    ("connect", "address"),
]

Digest = Callable[[str], str]


def plan_of(route: tuple[str, ...], tool: str, arguments: dict[str, Any], maps: list[dict[str, Constraint]], *, profile: bool) -> Plan:
    """An ordinary plan: the agents of the route, one tool, the same map (or these maps) along the chain, any policy."""
    links = tuple(
        LinkRecipe(agent, agent, {tool: entries}, NOW - 60 + i, NOW + 600 - i, profile)
        for i, (agent, entries) in enumerate(zip(route, maps, strict=True))
    )
    plan = Plan(route, tool, arguments, dict(arguments), profile)
    plan.recipe = ChainRecipe("issuer", ISSUER, "user:alice", "task-1", links)
    agents: dict[str, Any] = {agent: {"tools": {}, "delegates": {}} for agent in route}
    agents[route[-1]]["tools"][tool] = dict.fromkeys(arguments, "any")
    for i, (parent, child) in enumerate(itertools.pairwise(route)):
        agents[parent]["delegates"][child] = {"depth": len(route) - 1 - i}
    plan.policy = {"agentguard": 1, "name": "corpus", "agents": agents, "tools": {tool: {"plain_chains": "accepted"}}}
    plan.bindings = {mint.thumbprint(agent): agent for agent in route}
    plan.anchors = [(ISSUER, mint.public_key("issuer"))]
    if not profile:
        plan.proof = ProofRecipe(route[-1], tool, arguments, NOW, AUDIENCE)
    return plan


def damage_cases(digest: Digest = text_digest) -> Iterator[tuple[str, int, Case]]:
    """``(damage, link, case)`` for every damage at every link of a chain of three and of a lone root, plain and profile."""
    arguments = {"path": "/srv/tickets/a.txt", "limit": 5}
    entries: dict[str, Constraint] = {"path": universe.exact("/srv/tickets/a.txt"), "limit": universe.between(1, 50)}
    for profile, route, name in itertools.product((True, False), (ROUTE, ROUTE[:1]), DAMAGE):
        if name.startswith("profile_") and not profile:
            continue
        for index in range(len(route)):
            plan = plan_of(route, "read_file", arguments, [entries] * len(route), profile=profile)
            plan.recipe = with_link(plan.recipe, index, damage=(name,))
            yield name, index, build(plan, (name,), digest)


def narrowing_cases(digest: Digest = text_digest) -> Iterator[tuple[Constraint, Constraint, Case]]:
    """``(parent, child, case)`` for every pair of constraints of a kind, plain and profile.

    The call carries a counterexample to the narrowing where there is one, else a value that the child accepts, if any.
    """
    for (tool, argument), profile in ((place, profile) for place in PLACES for profile in (True, False)):
        kind = TOOLS[tool][argument][0]
        others = {name: own.usual[0] for name, (own, _) in TOOLS[tool].items() if name != argument}
        base = dict.fromkeys(others, universe.ANYTHING)
        for parent in universe.pool(kind, profile):
            for child in universe.pool(kind, profile):
                values = [value for value in kind.usual + kind.odd if accepts(child, value)]
                witness = refute.narrowing_refuted(child, parent) or refute.Witness(values[0] if values else kind.usual[0])
                maps: list[dict[str, Constraint]] = [{**base, argument: parent}, {**base, argument: child}]
                plan = plan_of(ROUTE[:2], tool, {**others, argument: witness.value}, maps, profile=profile)
                yield parent, child, build(plan, (), digest)


def value_cases(digest: Digest = text_digest) -> Iterator[tuple[Constraint, Any, Case]]:
    """``(constraint, value, case)``: every value of a kind against every constraint, in the token and in the policy."""
    for tool, argument in PLACES:
        kind = TOOLS[tool][argument][0]
        others = {name: own.usual[0] for name, (own, _) in TOOLS[tool].items() if name != argument}
        for constraint in kind.constraints:
            for value in kind.usual + kind.odd:
                for in_token in (True, False):
                    entries = dict.fromkeys(others, universe.ANYTHING) | {argument: constraint if in_token else universe.ANYTHING}
                    plan = plan_of(ROUTE[:1], tool, {**others, argument: value}, [entries], profile=True)
                    if not in_token:
                        plan.policy["agents"][ROUTE[0]]["tools"][tool][argument] = universe.to_rule(constraint)
                    yield constraint, value, build(plan, (), digest)
