"""Steps 3 and 4 of the draft: may this root stand under an anchor, may this token stand under its parent (AAT -02 §8).

Each check stands next to the id of its step, in the draft's order. Issuing, deriving and verifying all come through here, so that nothing
is signed that would be refused. `now` (seconds) None leaves the checks against the clock (3e, 3f, 4i, 4k) to the caller, because a
decision makes them at a later stage (DESIGN §7) and a cached chain must not remember them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NoReturn

from agentguard.artifacts.jws import TOKEN_TYPE, Token, read_header
from agentguard.artifacts.link import MAX_CLAIM_DEPTH, ChainError, Limits, Link, Profile, TrustAnchors, word
from agentguard.artifacts.profile import check_child_profile, check_root_profile, read_profile
from agentguard.canonical import b64url, parse
from agentguard.constraints.tokens import ToolMap, map_narrows, parse_tool_map
from agentguard.decision import Code
from agentguard.errors import InvalidInput
from agentguard.keys import PublicKey

ENTRY_TYPE: Final = "attenuating_agent_token"
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*")  # RFC 3986 §2, §3.1
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


def root_link(token: Token, hint: Any, anchors: TrustAnchors, *, limits: Limits, now: float | None, understand: bool) -> Link:
    """Step 3. `hint` is the peeked `iss`: it orders the keys to try, and words the refusal. Raises ChainError."""
    profile = _header(token, "3a", 0, understand)
    key, issuers = _anchored(token, hint, anchors)  # 3b
    claims = _claims(token, "3b", 0)
    return check_root(claims, token.text, token.digest, key, issuers, limits=limits, now=now, profile=profile)


def child_link(token: Token, parent: Link, index: int, *, limits: Limits, now: float | None, understand: bool) -> Link:
    """Step 4 for the pair (`parent`, `token`). Raises ChainError."""
    profile = _header(token, "4a", index, understand)
    if profile is not (parent.profile is not None):
        _malformed("4a", index, "a chain is all plain or all profile")
    if not token.signed_by(parent.holder):
        raise ChainError(Code.SIGNATURE_INVALID, "4b", index, "the parent's holder did not sign this token")
    claims = _claims(token, "4b", index)
    return check_child(claims, token.text, token.digest, parent, index, limits=limits, now=now)


def check_root(
    claims: Mapping[str, Any], text: str, digest: bytes, key: PublicKey, issuers: frozenset[str], *,
    limits: Limits, now: float | None, profile: bool,
) -> Link:  # fmt: skip
    """Steps 3b (after the signature) to 3n over parsed claims, then the rules of the profile. Raises ChainError.

    key, issuers   the anchor key that signed, and the issuers it is bound to
    """
    iat, exp = _seconds(claims, "3b", 0)
    depth = claims.get("del_depth")
    if type(depth) is not int or depth != 0:
        _malformed("3c", 0, "the del_depth of a root must be the integer 0")
    if "par_hash" in claims:
        _malformed("3d", 0, "a root has no par_hash")
    if now is not None:
        _not_expired(exp, now, "3e", 0)
        _not_early(iat, now, limits, "3f", 0)
    if not exp > iat:
        _malformed("3g", 0, "exp must be after iat")
    if not exp <= iat + limits.max_token_lifetime:
        _malformed("3h", 0, f"a token lives at most {limits.max_token_lifetime} seconds")
    max_depth = claims.get("del_max_depth")
    if type(max_depth) is not int or not 0 <= max_depth <= limits.max_delegation_depth:
        _malformed("3i", 0, f"del_max_depth must be an integer from 0 to {limits.max_delegation_depth}")
    jti = claims.get("jti")
    if type(jti) is not str or not jti:
        _malformed("3j", 0, "jti must be a non-empty string")
    iss = claims.get("iss")
    if type(iss) is not str or _URI.fullmatch(iss) is None:
        _malformed("3k", 0, "iss must be a URI")
    if iss not in issuers:
        raise ChainError(Code.ISSUER_UNTRUSTED, "3k", 0, "iss is not the issuer of the key that signed", found=word(iss, 256))
    holder = _holder(claims, "3l", 0)
    details = claims.get("authorization_details")
    entry = _entry(details, "3m", 0) if type(details) is list else None
    if entry is None:
        _malformed("3m", 0, f"the authorization_details of a root must hold one entry of type {ENTRY_TYPE}")
    tools = _tools(entry, "3n", 0, limits, extensions=profile)
    named = None
    if profile:
        named = read_profile(claims, 0, limits)
        check_root_profile(named)
    return _link(claims, text, digest, iat, exp, key, holder, tools, True, max_depth, named, named.policy if named else None)


def check_child(
    claims: Mapping[str, Any], text: str, digest: bytes, parent: Link, index: int, *, limits: Limits, now: float | None
) -> Link:
    """Steps 4b1 to 4q over parsed claims, then the rules of the profile. Raises ChainError."""
    jti = claims.get("jti")
    if type(jti) is not str or not jti:
        _malformed("4b1", index, "jti must be a non-empty string")
    holder = _holder(claims, "4b2", index)
    details = claims.get("authorization_details")
    if type(details) is not list:
        _malformed("4b3", index, "authorization_details must be an array")
    depth, max_depth = claims.get("del_depth"), claims.get("del_max_depth")
    if type(depth) is not int or type(max_depth) is not int or depth < 0 or max_depth < 0:
        _malformed("4b4", index, "del_depth and del_max_depth must be non-negative integers")
    iss, par_hash = claims.get("iss"), claims.get("par_hash")
    if type(iss) is not str or type(par_hash) is not str:
        _malformed("4b5", index, "iss and par_hash must be strings")
    iat, exp = _seconds(claims, "4b5", index)
    if iss != parent.holder.uri:
        _invalid("4c", index, "iss must be the thumbprint URI of the parent's holder")
    _depths(depth, max_depth, parent, index, limits)  # 4d-4g
    _times(iat, exp, parent, index, limits, now)  # 4h-4l
    if not depth <= max_depth:
        _invalid("4m", index, "del_depth is above the token's own del_max_depth")
    entry = _entry(details, "4n", index)
    tools = _tools(entry or _NOTHING, "4o", index, limits, extensions=parent.profile is not None)
    _narrowed(tools, parent, index)  # 4p1-4p4
    if par_hash != parent.par_hash:
        _invalid("4q", index, "par_hash is not the hash of the parent that is presented")
    named = None
    policy = parent.policy
    if parent.profile is not None:
        named = read_profile(claims, index, limits)
        check_child_profile(named, parent, index)
        policy = policy or named.policy
    return _link(claims, text, digest, iat, exp, parent.holder, holder, tools, entry is not None, max_depth, named, policy)


def _link(
    claims: Mapping[str, Any], text: str, digest: bytes, iat: int, exp: int, signer: PublicKey, holder: PublicKey,
    tools: Mapping[str, ToolMap], entry: bool, max_depth: int, profile: Profile | None, policy: str | None,
) -> Link:  # fmt: skip
    return Link(
        token=text,
        hash=digest.hex(),
        par_hash=b64url(digest),
        jti=claims["jti"],
        iss=claims["iss"],
        iat=iat,
        exp=exp,
        nbf=iat if profile is None or profile.nbf is None else profile.nbf,
        signer=signer,
        holder=holder,
        tools=tools,
        entry=entry,
        depth=claims["del_depth"],
        max_depth=max_depth,
        aud=_audience(claims),
        profile=profile,
        policy=policy,
    )


def _header(token: Token, step: str, link: int, understand: bool) -> bool:
    try:
        return read_header(token.header, TOKEN_TYPE, understand=understand)
    except InvalidInput as error:
        raise ChainError(Code.ARTIFACT_MALFORMED, step, link, f"protected header: {error}") from None


def _anchored(token: Token, hint: Any, anchors: TrustAnchors) -> tuple[PublicKey, frozenset[str]]:
    """The anchor key that signed the root, and the issuers it is bound to."""
    hinted = {key: issuers for key, issuers in anchors.by_key.items() if type(hint) is str and hint in issuers}
    for key, issuers in (*hinted.items(), *((key, issuers) for key, issuers in anchors.by_key.items() if key not in hinted)):
        if token.signed_by(key):
            return key, issuers
    if hinted:
        raise ChainError(Code.SIGNATURE_INVALID, "3b", 0, "the issuer that the root names did not sign it", found=word(str(hint), 256))
    raise ChainError(Code.ISSUER_UNTRUSTED, "3b", 0, "no trust anchor signed the root", found=word(str(hint), 256))


def _claims(token: Token, step: str, link: int) -> Mapping[str, Any]:
    try:
        claims = parse(token.payload, max_depth=MAX_CLAIM_DEPTH)
    except InvalidInput as error:
        raise ChainError(Code.ARTIFACT_MALFORMED, step, link, f"claims: {error}") from None
    if type(claims) is not dict:
        _malformed(step, link, "the claims are not an object")
    return claims


def _seconds(claims: Mapping[str, Any], step: str, link: int) -> tuple[int, int]:
    iat, exp = claims.get("iat"), claims.get("exp")
    if type(iat) is not int or type(exp) is not int or iat < 0 or exp < 0:
        _malformed(step, link, "iat and exp must be whole seconds, written without fraction or exponent")
    return iat, exp


def _not_expired(exp: int, now: float, step: str, link: int) -> None:
    if not exp > now:
        raise ChainError(Code.ARTIFACT_EXPIRED, step, link, "the token has expired", required=f"exp after {now}", found=str(exp))


def _not_early(iat: int, now: float, limits: Limits, step: str, link: int) -> None:
    if not iat <= now + limits.max_iat_skew:
        raise ChainError(Code.ARTIFACT_NOT_YET_VALID, step, link, "iat lies in the future", required=f"iat up to {now}", found=str(iat))


def _holder(claims: Mapping[str, Any], step: str, link: int) -> PublicKey:
    cnf = claims.get("cnf")
    try:
        return PublicKey.from_jwk(cnf.get("jwk") if type(cnf) is dict else None)
    except InvalidInput as error:
        raise ChainError(Code.ARTIFACT_MALFORMED, step, link, f"cnf.jwk: {error}") from None


def _entry(details: list[Any], step: str, link: int) -> Mapping[str, Any] | None:
    """The tools object of the one AAT entry, or None if there is no such entry."""
    entries = [item for item in details if type(item) is dict and item.get("type") == ENTRY_TYPE]
    if not entries:
        return None
    if len(entries) > 1:
        _malformed(step, link, f"authorization_details holds more than one entry of type {ENTRY_TYPE}")
    tools = entries[0].get("tools")
    if type(tools) is not dict or any(type(arguments) is not dict for arguments in tools.values()):
        _malformed(step, link, "tools must be an object of objects")
    return tools


def _tools(tools: Mapping[str, Any], step: str, link: int, limits: Limits, *, extensions: bool) -> Mapping[str, ToolMap]:
    try:
        return MappingProxyType(
            {
                tool: parse_tool_map(arguments, extensions=extensions, max_depth=limits.max_constraint_depth)
                for tool, arguments in tools.items()
            }
        )
    except InvalidInput as error:
        raise ChainError(Code.ARTIFACT_MALFORMED, step, link, f"tools: {error}") from None


def _depths(depth: int, max_depth: int, parent: Link, index: int, limits: Limits) -> None:
    if depth != parent.depth + 1:
        _invalid("4d", index, "del_depth must be one more than the parent's")
    if not depth <= parent.max_depth:
        _invalid("4e", index, "the parent is terminal: its del_max_depth is reached")
    if not depth <= limits.max_delegation_depth:
        _invalid("4f", index, f"the chain is deeper than {limits.max_delegation_depth}")
    if not max_depth <= parent.max_depth:
        _invalid("4g", index, "del_max_depth is above the parent's")


def _times(iat: int, exp: int, parent: Link, index: int, limits: Limits, now: float | None) -> None:
    if not exp <= parent.exp:
        _invalid("4h", index, "exp is after the parent's")
    if now is not None:
        _not_expired(exp, now, "4i", index)
    if not iat >= parent.iat:
        _invalid("4j", index, "iat is before the parent's")
    if now is not None:
        _not_early(iat, now, limits, "4k", index)
    if not exp > iat:
        _malformed("4l", index, "exp must be after iat")


def _narrowed(tools: Mapping[str, ToolMap], parent: Link, index: int) -> None:
    for tool in tools:
        if tool not in parent.tools:
            raise ChainError(Code.DELEGATION_INVALID, "4p1", index, f"the parent does not grant the tool {word(tool)}", subject=word(tool))
    worst: tuple[str, str, str] | None = None  # the draft goes step by step, we go tool by tool: report the earliest step
    for tool, child in tools.items():
        failure = map_narrows(child, parent.tools[tool], profile=parent.profile is not None)
        if failure is not None and (worst is None or failure[0] < worst[0]):
            worst = (*failure, tool)
    if worst is not None:
        step, why, tool = worst
        raise ChainError(Code.DELEGATION_INVALID, step, index, f"{word(tool)} is wider than in the parent: {why}", subject=word(tool))


def _audience(claims: Mapping[str, Any]) -> tuple[str, ...] | None:
    if "aud" not in claims:
        return None
    aud = claims["aud"]
    if type(aud) is str:
        return (aud,)
    if type(aud) is list and all(type(name) is str for name in aud):
        return tuple(aud)
    return ()


def _malformed(step: str, link: int, message: str) -> NoReturn:
    raise ChainError(Code.ARTIFACT_MALFORMED, step, link, message)


def _invalid(step: str, link: int, message: str) -> NoReturn:
    raise ChainError(Code.DELEGATION_INVALID, step, link, message)
