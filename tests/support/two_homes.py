"""Two guards that do not share a home: the second believes what the first one's issuer signs, and nothing else of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agentguard import Guard
from agentguard.keys import KeyRing


@contextmanager
def two_homes(directory: Path, policy: str, *, here: str = "", there: str = "") -> Iterator[tuple[Guard, Guard]]:
    """(here, there). `there` trusts the issuer of `here`; `here` knows the key of the agent named by `there`, and the other way round for
    the agent named by `here`, where they are given.
    """
    homes = directory / "here", directory / "there"
    rings = [KeyRing(home / "keys") for home in homes]
    issuer = rings[0].issuer().public
    trusted = [
        {"agents": {there: rings[1].holder(there).public.jwk()} if there else {}},
        {
            "anchors": [{"iss": issuer.uri, "jwk": issuer.jwk()}],
            "agents": {here: rings[0].holder(here).public.jwk()} if here else {},
        },
    ]
    for home, trust in zip(homes, trusted, strict=True):
        (home / "trust.json").write_text(json.dumps(trust))
    with (
        Guard.open(policy, home=homes[0], durability="process", audience="urn:here") as first,
        Guard.open(policy, home=homes[1], durability="process", audience="urn:there") as second,
    ):
        yield first, second
