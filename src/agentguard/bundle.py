"""Signed bundles: a policy, the tool lock, keys and revocations that belong together, in one file (DESIGN §6).

A bundle is a compact JWS (`typ` "agentguard-policy-bundle+jwt", docs/policy-bundles.md). The policy authority signs it, with a version that
rises and a time at which it ends. What is in it takes effect together or not at all. Here is the document and its pure checks; what a home
remembers of the bundles it saw is in `bundle_home`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from agentguard.artifacts import jws
from agentguard.artifacts.revocation_list import RevocationList, read_list, whole
from agentguard.canonical import Json, jcs, parse
from agentguard.errors import InvalidInput
from agentguard.home import Trust
from agentguard.keys import PublicKey, Signer
from agentguard.policy.model import Policy
from agentguard.tools.lock import Lock

BUNDLE_TYPE: Final = "agentguard-policy-bundle+jwt"
MAX_BUNDLE: Final = 16 * 1024 * 1024
_MAX_LISTS: Final = 64
_MAX_ACCEPTS: Final = 64
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_MEMBERS: Final = frozenset({"agentguard", "name", "version", "issued", "expires", "policy", "lock", "keys", "revocations", "accepts"})


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """A bundle whose signature holds. Whether it is in time, and newer than what was there, depends on who asks.

    version    rises from bundle to bundle of one name
    issued     Unix seconds; it is good from then on
    expires    Unix seconds from which on it is not good any more
    lock       None: the home's own lock file holds
    trust      the trust file, and the keys of the bundle
    accepts    digests of older policies: artifacts that are bound to one of them are still good
    digest     "sha256:<hex>" of `data`, the exact bytes
    """

    name: str
    version: int
    issued: int
    expires: int
    policy: Policy
    lock: Lock | None
    trust: Trust
    lists: tuple[RevocationList, ...]
    accepts: frozenset[str]
    signer: str
    digest: str
    data: bytes = field(repr=False)


def is_bundle(data: bytes) -> bool:
    """Whether a file is meant to be a bundle: a policy never begins as a JWS does."""
    return data.startswith(b"eyJ")


def check_name(name: str) -> str:
    """`name`, if a bundle may have it. Raises InvalidInput."""
    if type(name) is not str or _NAME.fullmatch(name) is None:
        hint = "1 to 64 of a-z, 0-9, '.', '_' and '-', a letter or digit first"
        raise InvalidInput(f"{name!r:.80} cannot be the name of a bundle", hint=hint)
    return name


def sign_bundle(
    signer: Signer,
    files: Sequence[tuple[str, str]],
    *,
    name: str,
    version: int,
    issued: int,
    expires: int,
    lock: Lock | None = None,
    keys: Mapping[str, Json] | None = None,
    revocations: Sequence[str] = (),
    accepts: Sequence[str] = (),
) -> bytes:
    """A signed bundle, ready to be served: one line of ASCII.

    files        (name, text) of each file of the policy, the first one first (`policy.imports.read_policy`)
    keys         anchors and agents in the form of a trust file
    revocations  signed lists

    Raises InvalidInput for what no guard could use.
    """
    policy = _compiled(files, name, version)
    claims = {
        "agentguard": 1,
        "name": name,
        "version": version,
        "issued": issued,
        "expires": expires,
        "policy": {"digest": policy.digest, "files": [{"name": file, "text": text} for file, text in files]},
        "lock": parse(lock.canonical) if lock is not None else None,
        "keys": dict(keys or {}),
        "revocations": list(revocations),
        "accepts": list(accepts),
    }
    token = jws.sign(BUNDLE_TYPE, claims, signer)
    _read(token, Trust.of((), {}), signer.public)  # what nobody could read is not given out
    return f"{token}\n".encode("ascii")


def read_bundle(data: bytes, trust: Trust, *, signer: PublicKey | None = None, place: str = "bundle") -> Bundle:
    """Verify and read a bundle: caps, then signature, then a strict reading, then the policy in it. Raises InvalidInput.

    trust   the home's: who may sign which bundle, and the keys beside those of the bundle
    signer  the one key that may have signed it, whatever its name, where somebody says so instead
    """
    try:
        if len(data) > MAX_BUNDLE:
            raise InvalidInput(f"the bundle is larger than {MAX_BUNDLE} bytes")
        return _read(data.decode("ascii", "replace").removesuffix("\n"), trust, signer)
    except InvalidInput as error:
        where = f"{place}: {error.place}" if error.place else place
        raise InvalidInput(error.message, place=where, hint=error.hint) from None


def _read(text: str, trust: Trust, named: PublicKey | None) -> Bundle:
    token = jws.Token(text)
    signers = _signers(token, trust, named)
    body = parse(token.payload)
    if type(body) is not dict or body.keys() != _MEMBERS:
        raise InvalidInput(f"a bundle has the members {', '.join(sorted(_MEMBERS))}")
    if type(body["agentguard"]) is not int or body["agentguard"] != 1:
        raise InvalidInput("the bundle is of another version of the format than 1")
    name = check_name(body["name"])
    signer = signers.get(name) if named is None else named
    if signer is None:
        hint = "policy_authorities in the trust file names each key with the bundle that it may sign"
        raise InvalidInput(f"the key that signed the bundle {name!r} may sign {' and '.join(map(repr, signers)):.200} only", hint=hint)
    version, issued, expires = (whole(body, member) for member in ("version", "issued", "expires"))
    if expires <= issued:
        raise InvalidInput("the bundle expires before it is issued")
    keys = _keys(body["keys"])
    return Bundle(
        name=name,
        version=version,
        issued=issued,
        expires=expires,
        policy=_policy(body["policy"], name, version),
        lock=None if body["lock"] is None else Lock.read(jcs(body["lock"]), place="lock"),
        trust=trust.with_keys(keys),
        lists=_lists(body["revocations"], keys, signer),
        accepts=_accepts(body["accepts"]),
        signer=signer.thumbprint(),
        digest="sha256:" + hashlib.sha256(text.encode("ascii")).hexdigest(),
        data=text.encode("ascii"),
    )


def _signers(token: jws.Token, trust: Trust, named: PublicKey | None) -> dict[str, PublicKey]:
    """The keys that signed exactly these bytes, by the name of the bundle that each may sign; at least one, or it is `named`."""
    if token.header != jws.encode_header(BUNDLE_TYPE, profile=False):  # one algorithm, one type: compared as bytes
        raise InvalidInput("not a policy bundle: its header is another one", hint=f'typ must be "{BUNDLE_TYPE}", alg "Ed25519"')
    if named is not None:
        if not token.signed_by(named):
            raise InvalidInput(f"the bundle is not signed by the key {named.thumbprint()[:12]}…")
        return {}
    if not trust.authorities:
        hint = '"policy_authorities": [{"bundle": NAME, "jwk": {...}}] in the trust file, or `agentguard policy fetch --trust KEY`'
        raise InvalidInput("nobody is trusted to sign a policy here", hint=hint)
    found = {name: key for name, key in trust.authorities if token.signed_by(key)}
    if not found:
        raise InvalidInput("the bundle is not signed by a key that may sign a policy here", hint="policy_authorities in the trust file")
    return found


def _keys(body: Any) -> Trust:
    for member, what in (("policy_authorities", "signs bundles"), ("approvers", "approves")):
        if type(body) is dict and member in body:
            raise InvalidInput(f"keys: a bundle does not say who {what}", hint="the operator of each home does, in its trust file")
    try:
        return Trust.read(body)
    except InvalidInput as error:
        raise InvalidInput(f"keys: {error.message}", hint=error.hint) from None


def _policy(body: Any, name: str, version: int) -> Policy:
    if type(body) is not dict or body.keys() != {"digest", "files"} or type(body["files"]) is not list:
        raise InvalidInput("policy has the members digest and files")
    files = []
    for index, item in enumerate(body["files"]):
        if type(item) is not dict or item.keys() != {"name", "text"} or not all(type(part) is str for part in item.values()):
            raise InvalidInput(f"policy.files[{index}] has the members name and text")
        files.append((item["name"], item["text"]))
    policy = _compiled(files, name, version)
    if policy.digest != body["digest"]:
        message = f"policy: its digest is {policy.digest} here, and not the one that was signed, {body['digest']!r:.80}"
        raise InvalidInput(message, hint="sign it anew with this version of agentguard")
    return policy


def _compiled(files: Sequence[tuple[str, str]], name: str, version: int) -> Policy:
    from agentguard.policy.compile import compile_document  # YAML and pydantic are slow to import
    from agentguard.policy.imports import File, read_files

    return compile_document(read_files([File(*file) for file in files], f"{name}@{version}/").document)


def _lists(body: Any, keys: Trust, authority: PublicKey) -> tuple[RevocationList, ...]:
    if type(body) is not list or any(type(token) is not str for token in body):
        raise InvalidInput("revocations must be an array of signed lists")
    if len(body) > _MAX_LISTS:
        raise InvalidInput(f"revocations has more than {_MAX_LISTS} lists")
    signers = {key.thumbprint(): (key, False) for key in keys.anchors.by_key}
    signers[authority.thumbprint()] = (authority, True)
    lists = []
    for index, token in enumerate(body):
        try:
            lists.append(read_list(token, signers))
        except InvalidInput as error:
            raise InvalidInput(f"revocations[{index}]: {error.message}", hint=error.hint) from None
    if len({one.by for one in lists}) != len(lists):
        raise InvalidInput("revocations holds two lists of one signer", hint="the newest one says everything")
    return tuple(lists)


def _accepts(body: Any) -> frozenset[str]:
    if type(body) is not list or any(type(one) is not str or _DIGEST.fullmatch(one) is None for one in body):
        raise InvalidInput('accepts must be an array of digests of policies, "sha256:" and 64 hexadecimal digits each')
    if len(body) > _MAX_ACCEPTS:
        raise InvalidInput(f"accepts has more than {_MAX_ACCEPTS} digests")
    return frozenset(body)
