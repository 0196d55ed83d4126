"""Making artifacts: `issue` mints a root, `derive` narrows one offline, and the presentation object carries a chain (AAT -02 §6, §7.4).

Nothing is signed that the verifier would refuse: both run the verifier's own steps over the claims first.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from agentguard.artifacts.jws import TOKEN_TYPE, encode_header
from agentguard.artifacts.link import DEFAULT_LIMITS, MAX_CLAIM_DEPTH, ChainError, Initiator, Limits, Link, Profile, Uses
from agentguard.artifacts.profile import CLAIM, profile_claim
from agentguard.artifacts.steps import ENTRY_TYPE, check_child, check_root
from agentguard.canonical import b64url, jcs, parse
from agentguard.constraints.tokens import ToolMap
from agentguard.decision import Code
from agentguard.errors import InvalidInput
from agentguard.keys import LocalKey, PublicKey, Signer

if TYPE_CHECKING:
    from agentguard.artifacts.chain import VerifiedChain

__all__ = ["Initiator", "Link", "Profile", "Uses", "derive", "dump_presentation", "issue", "new_id", "parse_presentation"]

#: A presentation holds a chain and a proof; beyond this nothing is parsed.
_MAX_PRESENTATION: Final = 1 << 20
_SIGNATURE_SIZE: Final = 86  # 64 bytes in base64url


def issue(
    *,
    signer: Signer,
    iss: str,
    holder: PublicKey,
    tools: Mapping[str, ToolMap],
    now: int,
    ttl: int,
    max_depth: int,
    profile: Profile | None,
    aud: Sequence[str] = (),
    jti: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> str:
    """A root artifact as a compact JWS.

    iss      the issuer's URI, as the verifier's trust anchor for `signer` names it
    now, ttl seconds; the artifact lives from `now` to `now + ttl`
    profile  None makes a plain AAT, which knows the draft's constraint types only

    Raises ChainError (an InvalidInput) that names the step at which the artifact would be refused.
    """
    claims = {
        "jti": jti or new_id(now),
        "iss": iss,
        "iat": now,
        "exp": now + ttl,
        "del_depth": 0,
        "del_max_depth": max_depth,
        "cnf": {"jwk": holder.jwk()},
        "authorization_details": [_entry(tools)],
        **_optional(aud, profile),
    }
    signing, read = _prepare(claims, profile)
    public = signer.public
    check_root(read, "", _digest(signing), public, frozenset({iss}), limits=limits, now=now, profile=profile is not None)
    return _finish(signing, signer, limits, 0, 0)


def derive(
    parent: VerifiedChain | Link,
    *,
    signer: Signer,
    holder: PublicKey,
    tools: Mapping[str, ToolMap],
    now: int,
    exp: int | None = None,
    max_depth: int | None = None,
    profile: Profile | None,
    aud: Sequence[str] = (),
    jti: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> str:
    """A narrower artifact under `parent`, signed by the parent's holder, as a compact JWS (AAT -02 §6.2).

    exp        seconds; the parent's if None
    max_depth  the parent's if None; the new artifact's own depth makes it terminal
    profile    None exactly if the parent is plain

    Raises ChainError (an InvalidInput) that names the step at which the artifact would be refused.
    """
    links = (parent,) if isinstance(parent, Link) else parent.links
    above, index = links[-1], links[-1].depth + 1
    if signer.public != above.holder:
        raise ChainError(Code.SIGNATURE_INVALID, "4b", index, "only the parent's holder can derive from it")
    if (profile is None) is not (above.profile is None):
        raise ChainError(Code.ARTIFACT_MALFORMED, "4a", index, "a chain is all plain or all profile")
    if jti in {link.jti for link in links}:
        raise ChainError(Code.DELEGATION_INVALID, "2c", index, "its jti stands twice in the chain")
    now = max(now, above.iat)  # a deriver whose clock lags goes by the parent's (AAT -02 §6.2 step 2)
    claims = {
        "jti": jti or new_id(now),
        "iss": above.holder.uri,
        "iat": now,
        "exp": above.exp if exp is None else exp,
        "del_depth": index,
        "del_max_depth": above.max_depth if max_depth is None else max_depth,
        "par_hash": above.par_hash,
        "cnf": {"jwk": holder.jwk()},
        "authorization_details": [_entry(tools)],
        **_optional(aud, profile),
    }
    signing, read = _prepare(claims, profile)
    check_child(read, "", _digest(signing), above, index, limits=limits, now=now)
    return _finish(signing, signer, limits, index, sum([len(link.token) for link in links]))


def dump_presentation(tokens: Sequence[str], pop: str | None = None) -> dict[str, Any]:
    """The presentation object `{aat_chain: [root … leaf], aat_pop}` (AAT -02 §7.4); without a proof, `aat_pop` is left out."""
    body: dict[str, Any] = {"aat_chain": list(tokens)}
    if pop is not None:
        body["aat_pop"] = pop
    return body


def parse_presentation(data: str | bytes | Mapping[str, Any]) -> tuple[tuple[str, ...], str | None]:
    """(tokens, proof or None) of a presentation; members beyond the two are ignored. Judges nothing else. Raises InvalidInput."""
    if isinstance(data, (str, bytes)):
        if len(data) > _MAX_PRESENTATION:
            raise InvalidInput(f"the presentation is longer than {_MAX_PRESENTATION} bytes")
        data = parse(data)
    if not isinstance(data, Mapping):
        raise InvalidInput("a presentation is an object with the members aat_chain and aat_pop")
    chain, pop = data.get("aat_chain"), data.get("aat_pop")
    if not isinstance(chain, (list, tuple)) or not chain or any(type(token) is not str for token in chain):
        raise InvalidInput("aat_chain must be a non-empty array of strings", place="presentation")
    if "aat_pop" in data and type(pop) is not str:
        raise InvalidInput("aat_pop must be a string", place="presentation", hint="leave it out if there is no proof")
    return tuple(chain), pop


def new_id(now: float) -> str:
    """A UUIDv7 (RFC 9562 §5.7) for the time `now` (seconds), lower-case."""
    stamp = int(now * 1000) & (2**48 - 1)
    noise = int.from_bytes(os.urandom(10), "big")
    value = stamp << 80 | 7 << 76 | (noise >> 64 & 0xFFF) << 64 | 2 << 62 | noise & (2**62 - 1)
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _entry(tools: Mapping[str, ToolMap]) -> dict[str, Any]:
    return {"type": ENTRY_TYPE, "tools": {name: arguments.to_json() for name, arguments in tools.items()}}


def _optional(aud: Sequence[str], profile: Profile | None) -> dict[str, Any]:
    members: dict[str, Any] = {}
    if isinstance(aud, str):
        raise InvalidInput("aud is a sequence of audiences, not one string")
    if aud:
        members["aud"] = aud[0] if len(aud) == 1 else list(aud)
    if profile is not None:
        members[CLAIM] = profile_claim(profile)
    return members


def _prepare(claims: dict[str, Any], profile: Profile | None) -> tuple[str, Mapping[str, Any]]:
    """The signing input, and the claims as a verifier will read them."""
    payload = jcs(claims)
    return f"{encode_header(TOKEN_TYPE, profile=profile is not None)}.{b64url(payload)}", parse(payload, max_depth=MAX_CLAIM_DEPTH)


def _digest(signing: str) -> bytes:
    return hashlib.sha256(signing.encode("ascii")).digest()


def _finish(signing: str, signer: Signer, limits: Limits, index: int, chain_size: int) -> str:
    data = signing.encode("ascii")
    size = len(data) + 1 + _SIGNATURE_SIZE
    if size > limits.max_token_size:
        raise ChainError(Code.ARTIFACT_MALFORMED, "2a", index, f"the artifact would be longer than {limits.max_token_size} bytes")
    if chain_size + size > limits.max_chain_size:
        raise ChainError(Code.ARTIFACT_MALFORMED, "2b", index, f"the chain would be longer than {limits.max_chain_size} bytes")
    signature = signer.sign(data)
    if type(signer) is not LocalKey and not signer.public.verify(signature, data):  # a key service may be set up wrongly
        raise ChainError(Code.SIGNATURE_INVALID, "4b" if index else "3b", index, "the signature does not verify under the signer's key")
    return f"{signing}.{b64url(signature)}"
