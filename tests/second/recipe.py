"""A chain and a proof written down before they are signed, and the damage that can be done to a token on the way."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from . import keys, mint
from .constraints import Constraint

Tools = dict[str, dict[str, Constraint]]
Claims = dict[str, Any]


@dataclass(frozen=True)
class LinkRecipe:
    """One token to be. ``policy`` is ``this`` (the case's digest), ``other`` or ``None``; ``damage`` names of ``DAMAGE``."""

    holder: str
    agent: str
    tools: Tools | None
    iat: int
    exp: int
    profile: bool
    max_depth: int = 8
    aud: str | list[str] | None = None
    policy: str | None = None
    env: dict[str, Constraint] = field(default_factory=dict)
    nbf: int | None = None
    uses: dict[str, Any] | None = None
    damage: tuple[str, ...] = ()


@dataclass(frozen=True)
class ChainRecipe:
    """Root first. ``swapped`` names a link that is replaced, after its child was signed, by a twin with another ``jti``."""

    issuer_key: str
    iss: str
    initiator: str
    task: str
    links: tuple[LinkRecipe, ...]
    swapped: int | None = None


@dataclass
class Token:
    """What a damage may change before the token is signed."""

    index: int
    header: dict[str, Any]
    claims: Claims
    signer: str
    parent: Claims
    payload: bytes | None = None


def jti(index: int) -> str:
    return f"01957a3f-4e23-7b01-a9d1-{index:012d}"


OTHER_DIGEST = "sha256:" + "0" * 64


def mint_chain(recipe: ChainRecipe, policy_digest: str) -> list[str]:
    """The signed tokens, root first."""
    tokens: list[str] = []
    built: list[Token] = []
    for index, link in enumerate(recipe.links):
        token = _token(recipe, index, tokens, built, policy_digest)
        for name in link.damage:
            DAMAGE[name](token)
        built.append(token)
        tokens.append(_signed(token, link.damage))
    if recipe.swapped is not None:
        twin = built[recipe.swapped]
        twin.claims = {**twin.claims, "jti": jti(99)}
        tokens[recipe.swapped] = _signed(twin, ())
    return tokens


def _token(recipe: ChainRecipe, index: int, tokens: list[str], built: list[Token], policy_digest: str) -> Token:
    link = recipe.links[index]
    if index == 0:
        claims = mint.root_claims(link.holder, link.tools, iat=link.iat, exp=link.exp, iss=recipe.iss, jti=jti(0), max_depth=link.max_depth)
    else:
        claims = mint.child_claims(
            tokens[-1], recipe.links[index - 1].holder, link.holder, link.tools,
            iat=link.iat, exp=link.exp, jti=jti(index), depth=index, max_depth=link.max_depth,
        )  # fmt: skip
    if link.aud is not None:
        claims["aud"] = link.aud
    if link.profile:
        claims["agentguard"] = _profile(recipe, index, policy_digest)
    signer = recipe.issuer_key if index == 0 else recipe.links[index - 1].holder
    header = mint.PROFILE_HEADER if link.profile else mint.HEADER
    return Token(index, dict(header), claims, signer, built[-1].claims if built else {})


def _profile(recipe: ChainRecipe, index: int, policy_digest: str) -> Claims:
    link = recipe.links[index]
    claim: Claims = {"agent": link.agent}
    if index == 0:
        claim["initiator"] = {"id": recipe.initiator, "method": "asserted", "evidence": "sha256:" + "1" * 64}
        claim["task"] = recipe.task
    if link.policy is not None:
        claim["policy"] = policy_digest if link.policy == "this" else OTHER_DIGEST
    if link.env:
        claim["env"] = link.env
    if link.nbf is not None:
        claim["nbf"] = link.nbf
    if link.uses is not None:
        claim["uses"] = link.uses
    return claim


def _signed(token: Token, damage: tuple[str, ...]) -> str:
    if token.payload is not None:
        header = json.dumps(token.header, separators=(",", ":")).encode()
        text = mint.compact(header, token.payload, token.signer)
    else:
        text = mint.token(token.header, token.claims, token.signer)
    for name in damage:
        if name in AFTER_SIGNING:
            text = AFTER_SIGNING[name](text)
    return text


def _set(name: str, value: Any) -> Callable[[Token], None]:
    def damage(token: Token) -> None:
        token.claims[name] = value

    return damage


def _header(**members: Any) -> Callable[[Token], None]:
    def damage(token: Token) -> None:
        token.header.update(members)

    return damage


def _drop(name: str) -> Callable[[Token], None]:
    def damage(token: Token) -> None:
        token.claims.pop(name, None)

    return damage


def _shift(name: str, by: int, *, of_parent: bool = False) -> Callable[[Token], None]:
    def damage(token: Token) -> None:
        start = token.parent.get(name, token.claims[name]) if of_parent else token.claims[name]
        if isinstance(start, int):
            token.claims[name] = start + by

    return damage


def _constraint(value: Any) -> Callable[[Token], None]:
    """Put one bad entry into the map of a tool that the call does not use."""

    def damage(token: Token) -> None:
        for entry in token.claims.get("authorization_details") or []:
            entry["tools"] = {**entry["tools"], "delete_all": {"oddity": value}}

    return damage


def _raw(change: Callable[[bytes], bytes]) -> Callable[[Token], None]:
    def damage(token: Token) -> None:
        token.payload = change(json.dumps(token.claims, separators=(",", ":"), ensure_ascii=False).encode())

    return damage


def _profile_member(name: str, value: Any) -> Callable[[Token], None]:
    def damage(token: Token) -> None:
        if isinstance(token.claims.get("agentguard"), dict):
            token.claims["agentguard"] = {**token.claims["agentguard"], name: value}

    return damage


def _private_jwk(token: Token) -> None:
    token.claims["cnf"] = {"jwk": {**token.claims["cnf"]["jwk"], "d": keys.b64(b"1" * 32)}}


def _wrong_signer(token: Token) -> None:
    token.signer = "stranger"


def _drop_crit(token: Token) -> None:
    token.header.pop("crit", None)
    token.header.pop("agentguard", None)


def _two_entries(token: Token) -> None:
    token.claims["authorization_details"] = token.claims["authorization_details"] * 2


_DEEP: Constraint = {"constraint_type": "wildcard"}
for _ in range(32):
    _DEEP = {"constraint_type": "all", "constraints": [_DEEP]}
_BIG = {"constraint_type": "one_of", "values": [2**53 + 1], "optional": True}
_SMALL_ORDER = {"jwk": {"kty": "OKP", "crv": "Ed25519", "x": keys.b64((1).to_bytes(32, "little"))}}
_SMALL_ORDER_8 = {
    "jwk": {
        "kty": "OKP",
        "crv": "Ed25519",
        "x": keys.b64(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05")),
    }
}

DAMAGE: dict[str, Callable[[Token], None]] = {
    "alg_none": _header(alg="none"),
    "alg_eddsa": _header(alg="EdDSA"),
    "typ_proof": _header(typ="aat-pop+jwt"),
    "crit_unknown": _header(crit=["agentguard", "else"], **{"else": 1}),
    "crit_empty": _header(crit=[]),
    "version_2": _header(crit=["agentguard"], agentguard=2),
    "version_true": _header(crit=["agentguard"], agentguard=True),
    "crit_dropped": _drop_crit,
    "header_jwk": _header(jwk=mint.jwk("stranger")),
    "wrong_signer": _wrong_signer,
    "iss_other": _set("iss", "https://other.example"),
    "depth_more": _shift("del_depth", 1),
    "depth_true": _set("del_depth", True),
    "max_depth_more": _shift("del_max_depth", 1, of_parent=True),
    "max_depth_99": _set("del_max_depth", 99),
    "max_depth_0": _set("del_max_depth", 0),
    "par_hash_other": _set("par_hash", keys.b64(b"2" * 32)),
    "par_hash_null": _set("par_hash", None),
    "exp_later": _shift("exp", 1, of_parent=True),
    "exp_float": lambda token: token.claims.update(exp=float(token.claims["exp"])),
    "exp_at_iat": lambda token: token.claims.update(exp=token.claims["iat"]),
    "exp_years": _shift("exp", 91 * 86400),
    "iat_earlier": _shift("iat", -1, of_parent=True),
    "iat_float": lambda token: token.claims.update(iat=float(token.claims["iat"])),
    "jti_same": _set("jti", jti(0)),
    "jti_empty": _set("jti", ""),
    "no_cnf": _drop("cnf"),
    "private_jwk": _private_jwk,
    "small_order": _set("cnf", _SMALL_ORDER),
    "small_order_8": _set("cnf", _SMALL_ORDER_8),
    "two_entries": _two_entries,
    "no_entry": _set("authorization_details", []),
    "details_null": _set("authorization_details", None),
    "unknown_type": _constraint({"constraint_type": "prefix", "value": "/"}),
    "extra_member": _constraint({"constraint_type": "wildcard", "value": 1, "optional": True}),
    "optional_null": _constraint({"constraint_type": "wildcard", "optional": None}),
    "inadmissible": _constraint(_BIG),
    "too_deep": _constraint({**_DEEP, "optional": True}),
    "any_empty": _constraint({"constraint_type": "any", "constraints": [], "optional": True}),
    "nested_optional": _constraint(
        {"constraint_type": "all", "constraints": [{"constraint_type": "wildcard", "optional": False}], "optional": True}
    ),
    "range_reversed": _constraint({"constraint_type": "range", "min": 2, "max": 1, "optional": True}),
    "not_re2": _constraint({"constraint_type": "urn:agentguard:constraint:regex", "pattern": "(", "optional": True}),
    "aud_number": _set("aud", 5),
    "unknown_claim": _set("sub", "somebody"),
    "duplicate_member": _raw(lambda payload: payload[:-1] + b',"jti":"other"}'),
    "duplicate_tool": _raw(lambda payload: payload.replace(b'"tools":{', b'"tools":{"delete_all":{},"delete_all":{},', 1)),
    "not_a_number": _raw(lambda payload: payload[:-1] + b',"x":NaN}'),
    "profile_unknown": _profile_member("scope", "all"),
    "profile_initiator": _profile_member("initiator", {"id": "user:mallory", "method": "asserted", "evidence": "sha256:" + "1" * 64}),
    "profile_task": _profile_member("task", "another-task"),
    "profile_agent_number": _profile_member("agent", 5),
    "profile_policy_text": _profile_member("policy", "latest"),
    "profile_env_list": _profile_member("env", ["deployment"]),
    "profile_uses_zero": _profile_member("uses", {"limit": 0, "domain": "main"}),
    "signature_flipped": lambda token: None,
    "signature_empty": lambda token: None,
    "padded": lambda token: None,
}


def _flip(text: str) -> str:
    body, _, signature = text.rpartition(".")
    raw = bytearray(keys.unb64(signature))
    raw[40] ^= 1
    return f"{body}.{keys.b64(bytes(raw))}"


AFTER_SIGNING: dict[str, Callable[[str], str]] = {
    "signature_flipped": _flip,
    "signature_empty": lambda text: text.rpartition(".")[0] + ".",
    "padded": lambda text: text + "==",
}
# What must not change the verdict.
HARMLESS = frozenset({"header_jwk", "unknown_claim"})


@dataclass(frozen=True)
class ProofRecipe:
    """A proof to be. ``changes`` overrides claims; ``None`` as a value drops the claim."""

    signer: str
    tool: str
    arguments: dict[str, Any]
    iat: int
    audience: str | None
    changes: dict[str, Any] = field(default_factory=dict)
    header: dict[str, Any] = field(default_factory=lambda: dict(mint.PROOF_HEADER))
    garbage: bool = False


def mint_proof(recipe: ProofRecipe, chain: list[str], leaf: int) -> str:
    """The signed proof for the leaf at this index of the chain."""
    if recipe.garbage:
        return "not.a.proof"
    claims = mint.proof_claims(chain[leaf], jti(leaf), recipe.tool, recipe.arguments, iat=recipe.iat, audience=recipe.audience)
    claims.update(recipe.changes)
    return mint.proof({name: value for name, value in claims.items() if value is not None}, recipe.signer, recipe.header)


def with_link(recipe: ChainRecipe, index: int, **changes: Any) -> ChainRecipe:
    """The recipe with one link changed."""
    links = list(recipe.links)
    links[index] = replace(links[index], **changes)
    return replace(recipe, links=tuple(links))
