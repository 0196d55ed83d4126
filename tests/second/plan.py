"""What a case is made from, before anything is signed; the faults change it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .chain import Anchor
from .recipe import ChainRecipe, ProofRecipe
from .universe import AUDIENCE, NOW


def _facts() -> dict[str, Any]:
    return {"deployment": "staging", "region": "eu", "cores": 4}


@dataclass
class Plan:
    """``route``: the agents that hold the links, root first. ``cut`` and ``first``: tokens left out at the ends."""

    route: tuple[str, ...]
    tool: str
    presented: dict[str, Any]
    bound: dict[str, Any]
    profile: bool
    recipe: ChainRecipe = field(default_factory=lambda: ChainRecipe("issuer", "", "", "", ()))
    policy: dict[str, Any] = field(default_factory=dict)
    anchors: list[Anchor] = field(default_factory=list)
    bindings: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=_facts)
    proof: ProofRecipe | None = None
    proof_required: bool | None = None
    audience: str | None = AUDIENCE
    integrity_ok: bool = True
    now: int = NOW
    revoked: dict[str, str] = field(default_factory=dict)
    revoked_link: int | None = None
    caller: str | None = None
    no_chain: bool = False
    cut: int = 0
    first: int = 0
