"""A chain of tokens: draft section 8, steps 1 to 5, apart from the checks against the clock (3e, 3f, 4i, 4k)."""

from __future__ import annotations

import json
from typing import Any

from . import canon, keys, narrowing, refute
from .outcome import Deny
from .tokens import (
    MAX_DELEGATION_DEPTH,
    Link,
    Raw,
    audiences,
    holder_key,
    is_date,
    is_profile,
    is_uri,
    malformed,
    parsed_claims,
    profile_of,
    split,
    tools_of,
)

MAX_TOKEN_SIZE = 65_536
MAX_CHAIN_SIZE = 262_144
MAX_TOKEN_LIFETIME = 90 * 24 * 3600

Anchor = tuple[str, bytes]


def _invalid(step: str, why: str) -> Deny:
    return Deny("delegation_invalid", 2, step, why)


def verify_chain(chain: list[str], anchors: list[Anchor]) -> list[Link]:
    """The verified links, root first. Raises ``Deny`` of stage 2."""
    _check_sizes(chain)
    raws = [split(token, "2c") for token in chain]
    _check_distinct(raws)
    links = [_verify_root(raws[0], anchors)]
    for raw in raws[1:]:
        links.append(_verify_child(raw, links[-1]))
    _check_policies(links)
    if len(links) != links[-1].claims["del_depth"] + 1:
        raise _invalid("5", "length")
    return links


def _check_sizes(chain: list[str]) -> None:
    if len(chain) > MAX_DELEGATION_DEPTH + 1:
        raise malformed("2b", "too many tokens")
    sizes = [len(token.encode("utf-8", "surrogatepass")) if isinstance(token, str) else 0 for token in chain]
    if any(size > MAX_TOKEN_SIZE for size in sizes):
        raise malformed("2a", "token too large")
    if sum(sizes) > MAX_CHAIN_SIZE:
        raise malformed("2b", "chain too large")


def _check_distinct(raws: list[Raw]) -> None:
    """Step 2c peeks at ``jti`` before any signature is checked."""
    seen: set[str] = set()
    for raw in raws:
        jti = _peek(raw, "jti")
        if not isinstance(jti, str):
            raise malformed("2c", "jti")
        if jti in seen:
            raise malformed("2c", "jti twice")
        seen.add(jti)


def _peek(raw: Raw, name: str) -> Any:
    """One claim of an unverified payload, ``None`` where there is none; the strict parse waits for the signature."""
    try:
        claims = json.loads(raw.payload)
    except (ValueError, RecursionError) as error:
        raise malformed("2c", str(error)) from error
    return claims.get(name) if isinstance(claims, dict) else None


def _verify_root(raw: Raw, anchors: list[Anchor]) -> Link:
    profile = is_profile(raw.header, "aat+jwt", "3a")
    issuers = [iss for iss, key in anchors if keys.verifies(key, raw.signature, raw.signing_input)]
    if not issuers:
        known = _peek(raw, "iss") in [iss for iss, _ in anchors]
        raise Deny("signature_invalid" if known else "issuer_untrusted", 2, "3b", "no anchor verifies the root")
    claims = parsed_claims(raw, "3b")
    if not is_date(claims.get("iat")) or not is_date(claims.get("exp")):
        raise malformed("3b", "iat or exp")
    if not canon.is_integer(claims.get("del_depth")) or claims["del_depth"] != 0:
        raise malformed("3c", "del_depth")
    if "par_hash" in claims:
        raise malformed("3d", "par_hash in a root")
    if claims["exp"] <= claims["iat"]:
        raise malformed("3g", "exp is not after iat")
    if claims["exp"] > claims["iat"] + MAX_TOKEN_LIFETIME:
        raise malformed("3h", "lifetime")
    if not canon.is_integer(claims.get("del_max_depth")) or not 0 <= claims["del_max_depth"] <= MAX_DELEGATION_DEPTH:
        raise malformed("3i", "del_max_depth")
    if not isinstance(claims.get("jti"), str) or not claims["jti"]:
        raise malformed("3j", "jti")
    if not is_uri(claims.get("iss")):
        raise malformed("3k", "iss is not a URI")
    if claims["iss"] not in issuers:
        raise Deny("issuer_untrusted", 2, "3k", "iss is not the anchor's")
    return _link(raw, claims, holder_key(claims, "3l"), profile, root=True)


def _link(raw: Raw, claims: dict[str, Any], holder: bytes, profile: bool, *, root: bool) -> Link:
    tools = tools_of(claims, root=root, extensions=profile)
    audiences(claims)
    return Link(raw, claims, holder, tools, profile_of(claims, root=root) if profile else None)


def _verify_child(raw: Raw, parent: Link) -> Link:
    profile = is_profile(raw.header, "aat+jwt", "4a")
    if not keys.verifies(parent.holder, raw.signature, raw.signing_input):
        raise Deny("signature_invalid", 2, "4b", "not signed by the parent's holder")
    if profile != (parent.profile is not None):
        raise _invalid("profile", "a chain is all plain or all profile")
    claims = parsed_claims(raw, "4b")
    if not isinstance(claims.get("jti"), str) or not claims["jti"]:
        raise malformed("4b1", "jti")
    holder = holder_key(claims, "4b2")
    if not isinstance(claims.get("authorization_details"), list):
        raise malformed("4b3", "authorization_details")
    if not all(canon.is_integer(claims.get(name)) and claims[name] >= 0 for name in ("del_depth", "del_max_depth")):
        raise malformed("4b4", "depths")
    if not all(isinstance(claims.get(name), str) for name in ("iss", "par_hash")):
        raise malformed("4b5", "iss or par_hash")
    if not all(is_date(claims.get(name)) for name in ("iat", "exp")):
        raise malformed("4b5", "iat or exp")
    _check_against_parent(claims, parent)
    link = _link(raw, claims, holder, profile, root=False)
    _check_narrowing(link, parent)
    if claims["par_hash"] != keys.b64(parent.raw.hash):
        raise _invalid("4q", "par_hash")
    return link


def _check_against_parent(claims: dict[str, Any], parent: Link) -> None:
    above = parent.claims
    rules = [
        ("4c", claims["iss"] == keys.thumbprint_uri(parent.holder)),
        ("4d", claims["del_depth"] == above["del_depth"] + 1),
        ("4e", claims["del_depth"] <= above["del_max_depth"]),
        ("4f", claims["del_depth"] <= MAX_DELEGATION_DEPTH),
        ("4g", claims["del_max_depth"] <= above["del_max_depth"]),
        ("4h", claims["exp"] <= above["exp"]),
        ("4j", claims["iat"] >= above["iat"]),
        ("4l", claims["exp"] > claims["iat"]),
        ("4m", claims["del_depth"] <= claims["del_max_depth"]),
    ]
    for step, holds in rules:
        if not holds:
            raise _invalid(step, "the child exceeds its parent")


def _check_narrowing(child: Link, parent: Link) -> None:
    """Step 4p. Plain chains by the draft's table; profile chains by searching for a counterexample."""
    above = parent.tools or {}
    for tool, entries in (child.tools or {}).items():
        if tool not in above:
            raise _invalid("4p1", f"tool {tool} is new")
        if child.profile is None:
            problem = narrowing.map_problem(above[tool], entries)
            if problem is not None:
                raise _invalid(problem[:3], f"{tool}: {problem}")
        else:
            witness = refute.map_refuted(entries, above[tool])
            if witness is not None:
                raise _invalid("4p", f"{tool}: the child admits {witness.value!r}")


def _check_policies(links: list[Link]) -> None:
    """A link's ``policy`` is equal to the one above it, or newly added."""
    bound: str | None = None
    for link in links:
        own = link.profile.policy if link.profile else None
        if bound is not None and own not in (None, bound):
            raise _invalid("profile", "another policy")
        bound = bound or own
