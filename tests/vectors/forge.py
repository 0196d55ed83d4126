"""A small second implementation that makes tokens, good and bad, byte for byte the same on every run.

It shares no code with the library, so that the vectors judge the library and not the other way round.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

NOW = 1_800_000_000
ISSUER = "https://issuer.example"
AUDIENCE = "https://tools.example"
HEADER = {"alg": "Ed25519", "typ": "aat+jwt"}
PROOF_HEADER = {"alg": "Ed25519", "typ": "aat-pop+jwt"}
PROFILE_HEADER = {"alg": "Ed25519", "typ": "aat+jwt", "crit": ["agentguard"], "agentguard": 1}
WILDCARD = {"constraint_type": "wildcard"}


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def encode(value: Any) -> bytes:
    """JCS for what stands in the vectors: ASCII member names, and numbers that Python prints as JCS does. Lone surrogates are escaped."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return re.sub(r"[\ud800-\udfff]", lambda match: f"\\u{ord(match[0]):04x}", text).encode("utf-8")


class Key:
    """An Ed25519 key whose seed is the SHA-256 of its name."""

    def __init__(self, name: str) -> None:
        self.seed = hashlib.sha256(f"agentguard vector key {name}".encode()).digest()
        self.private = Ed25519PrivateKey.from_private_bytes(self.seed)
        self.raw = self.private.public_key().public_bytes_raw()
        self.jwk = {"kty": "OKP", "crv": "Ed25519", "x": b64(self.raw)}
        self.uri = "urn:ietf:params:oauth:jwk-thumbprint:sha-256:" + b64(hashlib.sha256(encode(self.jwk)).digest())


ROOT_KEY, ALICE, BOB, CAROL, MALLORY = (Key(name) for name in ("issuer", "alice", "bob", "carol", "mallory"))
NEXT = {ALICE.uri: BOB, BOB.uri: CAROL, CAROL.uri: ALICE}


@dataclass(frozen=True)
class Jws:
    """A compact JWS with what a child or a proof needs to know of it. `holder` signs the next."""

    text: str
    claims: dict[str, Any]
    holder: Key

    @property
    def hash(self) -> str:
        return b64(hashlib.sha256(self.text.rpartition(".")[0].encode("ascii")).digest())


def sign(claims: Any, key: Key, header: Any, holder: Key) -> Jws:
    """`claims` and `header` are values, or bytes that are taken as they are."""
    segments = [b64(part if isinstance(part, bytes) else encode(part)) for part in (header, claims)]
    signing = ".".join(segments)
    return Jws(f"{signing}.{b64(key.private.sign(signing.encode('ascii')))}", claims if isinstance(claims, dict) else {}, holder)


def identifier(name: str) -> str:
    """A UUIDv7 that depends on nothing but `name`."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    return f"019471f8-0000-7{digest[:3]}-8{digest[3:6]}-{digest[6:18]}"


def entry(tools: Any) -> list[dict[str, Any]]:
    return [{"type": "attenuating_agent_token", "tools": tools}]


TOOLS: dict[str, Any] = {
    "read_file": {"path": {"constraint_type": "one_of", "values": ["/data/q3.pdf", "/data/q4.pdf"]}},
    "search": {"query": WILDCARD, "limit": {"constraint_type": "range", "min": 1, "max": 100, "optional": True}},
}
READ = ("read_file", {"path": "/data/q3.pdf"})


def _changed(claims: dict[str, Any], drop: Iterable[str], changes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**claims, **changes}.items() if name not in set(drop)}


def root(
    name: str,
    *,
    tools: Any = TOOLS,
    key: Key = ROOT_KEY,
    holder: Key = ALICE,
    header: Any = HEADER,
    drop: Iterable[str] = (),
    **changes: Any,
) -> Jws:
    """A root for ALICE; `changes` replace claims, `drop` removes them."""
    claims = {
        "jti": identifier(f"root {name}"),
        "iss": ISSUER,
        "iat": NOW - 300,
        "exp": NOW + 3300,
        "del_depth": 0,
        "del_max_depth": 3,
        "cnf": {"jwk": holder.jwk},
        "authorization_details": entry(tools),
    }
    return sign(_changed(claims, drop, changes), key, header, holder)


def child(
    parent: Jws, name: str, *, tools: Any = None, key: Key | None = None, holder: Key | None = None, header: Any = HEADER,
    drop: Iterable[str] = (), **changes: Any,
) -> Jws:  # fmt: skip
    """A child with the parent's own tools unless told otherwise, for the next of ALICE, BOB and CAROL."""
    signer = key or parent.holder
    heir = holder or NEXT[parent.holder.uri]
    if tools is None:
        tools = copy.deepcopy(parent.claims["authorization_details"][0]["tools"])
    claims = {
        "jti": identifier(f"child {name} of {parent.claims['jti']}"),
        "iss": parent.holder.uri,
        "iat": parent.claims["iat"] + 60,
        "exp": parent.claims["exp"] - 60,
        "del_depth": parent.claims["del_depth"] + 1,
        "del_max_depth": parent.claims["del_max_depth"],
        "par_hash": parent.hash,
        "cnf": {"jwk": heir.jwk},
        "authorization_details": entry(tools),
    }
    return sign(_changed(claims, drop, changes), signer, header, heir)


def proof(
    leaf: Jws, tool: str, args: Any, *, key: Key | None = None, header: Any = PROOF_HEADER, drop: Iterable[str] = (), **changes: Any
) -> Jws:
    """A proof by the leaf's holder, made now, that names no audience."""
    claims = {
        "jti": identifier(f"proof of {leaf.text[-40:]}"),
        "iat": NOW,
        "aat_id": leaf.claims.get("jti", ""),
        "aat_hash": leaf.hash,
        "aat_tool": tool,
        "hta": args,
    }
    return sign(_changed(claims, drop, changes), key or leaf.holder, header, leaf.holder)


def bare(jws: Jws) -> tuple[str, str, str]:
    """The three segments."""
    header, payload, signature = jws.text.split(".")
    return header, payload, signature


DEFAULTS: dict[str, Any] = {
    "now": NOW,
    "trust_anchors": [{"iss": ISSUER, "jwk": ROOT_KEY.jwk}],
    "policy": {"audience": AUDIENCE},
}


class Vectors:
    """One file of vectors. A vector's request is the file's defaults, overridden by its own members."""

    def __init__(self, about: str) -> None:
        self.about = about
        self.items: list[dict[str, Any]] = []
        self._names: set[str] = set()

    def add(
        self, name: str, section: str, step: str | None, chain: list[Any], pop: Any = ..., call: tuple[str, Any] = READ, **members: Any
    ) -> None:
        """`step` None expects PERMIT. Without `pop` the last token's holder proves the call."""
        if pop is ...:
            pop = proof(chain[-1], *call)
        request = {"chain": [getattr(token, "text", token) for token in chain], "tool": call[0], "args": call[1], **members}
        if pop is not None:
            request["pop"] = getattr(pop, "text", pop)
        self._append(name, section, step, {"request": request})

    def line(self, name: str, section: str, step: str | None, line: str) -> None:
        """A request given as text, where its very characters matter; nothing is added to it."""
        self._append(name, section, step, {"line": line})

    def _append(self, name: str, section: str, step: str | None, given: dict[str, Any]) -> None:
        if name in self._names:
            raise ValueError(f"two vectors are called {name!r}")
        self._names.add(name)
        expect = {"verdict": "PERMIT", "step": "8"} if step is None else {"verdict": "DENY", "step": step}
        self.items.append({"name": name, "section": section, **given, "expect": expect})

    def dump(self) -> str:
        """The file's text: one vector a line, so that a change shows as one line."""
        head = json.dumps({"about": self.about, "defaults": DEFAULTS}, sort_keys=True)[1:-1]
        body = ",\n".join(json.dumps(item, sort_keys=True) for item in self.items)
        return f'{{{head}, "vectors": [\n{body}\n]}}\n'


def request_line(defaults: dict[str, Any], vector: dict[str, Any]) -> str:
    """The line that a vector sends."""
    return vector["line"] if "line" in vector else json.dumps({**defaults, **vector["request"]})
