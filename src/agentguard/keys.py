"""Ed25519 keys: public ones as they stand in tokens, private ones as they lie on disk.

One algorithm (AAT -02 §3.5, RFC 8032, RFC 9864). A public key is refused where libraries disagree about it: small order, or a `y`
that is not reduced (PITFALLS "bad keys"). A private key is a PKCS#8 PEM file that only its owner can read.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from agentguard.canonical import b64url, b64url_decode
from agentguard.errors import InvalidInput
from agentguard.private_files import private_directory, read_private, sync_directory, write_new

THUMBPRINT_URI: Final = "urn:ietf:params:oauth:jwk-thumbprint:sha-256:"  # RFC 9278
#: The log's next key, there only while it takes the place of the old one.
_NEXT_LOG: Final = "log.next.pem"
#: Agents' names: printable ASCII, compared as bytes.
AGENT_NAME: Final = re.compile(r"[!-~]{1,256}")

_PRIME: Final = 2**255 - 19
_ORDER: Final = 2**252 + 27742317777372353535851937790883648493
_SIGN_BIT: Final = 1 << 255
#: The `y` of the eight points whose order divides 8; the sign of `x` does not matter. Order 1, 2, 4 and twice 8.
_SMALL_ORDER_Y: Final = frozenset(
    {
        1,
        _PRIME - 1,
        0,
        int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"),
        int.from_bytes(bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "little"),
    }
)
#: Members of a JWK that hold private or symmetric key material (RFC 7518 §6.2.2, §6.3.2, §6.4.1; RFC 8037 §2).
_PRIVATE_MEMBERS: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


class PublicKey:
    """An Ed25519 public key, immutable, equal by its 32 bytes."""

    __slots__ = ("_key", "_thumbprint", "raw")

    raw: bytes
    _key: Ed25519PublicKey
    _thumbprint: str

    def __init__(self, raw: bytes) -> None:
        raise TypeError("use PublicKey.from_raw or PublicKey.from_jwk")

    @classmethod
    def from_raw(cls, raw: bytes) -> PublicKey:
        """From the 32 bytes of RFC 8032 §5.1.5. Raises InvalidInput for a key of small order or one that is not reduced."""
        if type(raw) is not bytes or len(raw) != 32:
            raise InvalidInput("an Ed25519 public key has 32 bytes")
        y = int.from_bytes(raw, "little") & ~_SIGN_BIT
        if y >= _PRIME:
            raise InvalidInput("the public key is not canonical: its y is not below 2^255 - 19")
        if y in _SMALL_ORDER_Y:
            raise InvalidInput("the public key is a point of small order, under which anybody can sign")
        self = object.__new__(cls)
        set_ = object.__setattr__
        set_(self, "raw", raw)
        set_(self, "_key", Ed25519PublicKey.from_public_bytes(raw))
        canonical = f'{{"crv":"Ed25519","kty":"OKP","x":"{b64url(raw)}"}}'
        set_(self, "_thumbprint", b64url(hashlib.sha256(canonical.encode("ascii")).digest()))
        return self

    @classmethod
    def from_jwk(cls, jwk: Any) -> PublicKey:
        """From a public JWK (RFC 8037 §2). Members beyond `kty`, `crv` and `x` are ignored, private ones refused. Raises InvalidInput."""
        if not isinstance(jwk, Mapping):
            raise InvalidInput("a JWK is an object")
        private = sorted(_PRIVATE_MEMBERS.intersection(jwk))
        if private:
            raise InvalidInput(f"the JWK holds private key material: {', '.join(private)}")
        if jwk.get("kty") != "OKP" or jwk.get("crv") != "Ed25519":
            raise InvalidInput("the JWK is not an Ed25519 key: kty must be OKP, and crv Ed25519")
        x = jwk.get("x")
        if type(x) is not str:
            raise InvalidInput("the JWK has no x")
        return _known(x)

    def jwk(self) -> dict[str, str]:
        """The public JWK: `{kty, crv, x}`."""
        return {"kty": "OKP", "crv": "Ed25519", "x": b64url(self.raw)}

    def thumbprint(self) -> str:
        """RFC 7638 thumbprint with SHA-256, base64url."""
        return self._thumbprint

    @property
    def uri(self) -> str:
        """The thumbprint as a URI (RFC 9278): the `iss` of every token that this key signs for others."""
        return THUMBPRINT_URI + self._thumbprint

    def verify(self, signature: bytes, data: bytes) -> bool:
        """Whether `signature` (64 bytes) is this key's over `data`. Total: anything odd is False."""
        if len(signature) != 64 or int.from_bytes(signature[32:], "little") >= _ORDER:  # RFC 8032 §5.1.7: a second s would also fit
            return False
        try:
            self._key.verify(signature, data)
        except InvalidSignature:
            return False
        return True

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a PublicKey is immutable")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a PublicKey is immutable")

    def __eq__(self, other: object) -> bool:
        return self.raw == other.raw if type(other) is PublicKey else NotImplemented

    def __hash__(self) -> int:
        return hash(self.raw)

    def __repr__(self) -> str:
        return f"<PublicKey {self._thumbprint[:12]}…>"


@functools.lru_cache(maxsize=1024)
def _known(x: str) -> PublicKey:
    """The same few keys stand in many tokens."""
    return PublicKey.from_raw(b64url_decode(x))


class Signer(Protocol):
    """Whatever signs with Ed25519: a local key, a hardware token, a key service. `sign` returns the 64 raw bytes."""

    @property
    def public(self) -> PublicKey: ...

    def sign(self, data: bytes) -> bytes: ...


class LocalKey:
    """A private key held by this process. It never prints itself, and does not pickle."""

    __slots__ = ("_private", "_public")

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self._public = PublicKey.from_raw(private.public_key().public_bytes_raw())

    @classmethod
    def generate(cls) -> LocalKey:
        """A fresh key from the system's randomness."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, seed: bytes) -> LocalKey:
        """From the 32 secret bytes of RFC 8032 §5.1.5; for test vectors and key services that export them."""
        if type(seed) is not bytes or len(seed) != 32:
            raise InvalidInput("an Ed25519 seed has 32 bytes")
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def load(cls, path: str | Path) -> LocalKey:
        """Read a PKCS#8 PEM file. Raises InvalidInput if it is missing, open to others, a link, somebody else's, or not such a key."""
        return _parse(read_private(Path(path)), Path(path))

    @classmethod
    def load_or_create(cls, path: str | Path) -> LocalKey:
        """`load`, or make the key if there is none. Several processes at once end up with the same key."""
        target = Path(path)
        if not os.path.lexists(target):
            key = cls.generate()
            if write_new(target, key._pem()):
                return key
        return cls.load(target)

    def save(self, path: str | Path) -> None:
        """Write a new file, mode 0600, whole or not at all. Raises InvalidInput if the file exists: a key is never overwritten."""
        if not write_new(Path(path), self._pem()):
            raise InvalidInput("a key is there already, and is not overwritten", place=str(path), hint="move it away first")

    @property
    def public(self) -> PublicKey:
        return self._public

    def sign(self, data: bytes) -> bytes:
        """The 64 bytes of RFC 8032 §5.1.6."""
        return self._private.sign(data)

    def _pem(self) -> bytes:
        return self._private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())

    def __reduce__(self) -> Any:
        raise TypeError("a private key does not pickle")

    def __repr__(self) -> str:
        return f"<LocalKey {self._public.thumbprint()[:12]}…>"


class KeyRing:
    """The keys of one guard: a directory (0700) with one file (0600) a key.

    `issuer.pem` mints root artifacts, `log.pem` signs checkpoints, `holder-<agent>.pem` is an agent's key, `approver-<name>.pem` that of
    somebody who answers requests here. Keys are made on first use. The file of a holder or an approver names it in the first line, so that
    a renamed file is noticed. Safe under threads and several processes.
    """

    def __init__(self, directory: str | Path) -> None:
        self._dir = Path(directory)
        self._lock = threading.Lock()
        self._named: dict[str, LocalKey] = {}
        self._holders: dict[str, LocalKey] = {}
        self._agents: dict[str, str] = {}
        self._scanned = -1
        private_directory(self._dir)

    def issuer(self) -> LocalKey:
        """The key that mints root artifacts."""
        return self._single("issuer.pem")

    def log(self) -> LocalKey:
        """The key that signs checkpoints. Raises InvalidInput while it is being replaced."""
        following = self._dir / _NEXT_LOG
        if os.path.lexists(following):
            hint = "`agentguard log rotate-key` finishes it"
            raise InvalidInput("the log gets another key, and the rotation was not finished", place=str(following), hint=hint)
        return self._single("log.pem")

    def log_succession(self) -> tuple[LocalKey, LocalKey | None]:
        """The key that signs checkpoints, and the one that is to follow it if a rotation was begun (`agentguard.log.rotation`)."""
        following = self._dir / _NEXT_LOG
        return LocalKey.load(self._dir / "log.pem"), LocalKey.load(following) if os.path.lexists(following) else None

    def begin_log_succession(self) -> LocalKey:
        """Make the key that is to follow. From here on `log` gives none."""
        return LocalKey.load_or_create(self._dir / _NEXT_LOG)

    def end_log_succession(self) -> None:
        """Put the following key in the place of the old one, which is gone then. Raises OSError."""
        os.replace(self._dir / _NEXT_LOG, self._dir / "log.pem")
        self._named.pop("log.pem", None)
        sync_directory(self._dir)

    def holder(self, agent: str) -> LocalKey:
        """The key of `agent` (1 to 256 printable ASCII characters). Raises InvalidInput."""
        key = self._holders.get(agent)
        if key is not None:
            return key
        if type(agent) is not str or AGENT_NAME.fullmatch(agent) is None:
            raise InvalidInput(f"an agent's name is 1 to 256 printable ASCII characters, found {agent!r:.60}")
        path = self._dir / _file_of("holder", agent)
        with self._lock:
            if not os.path.lexists(path):
                write_new(path, f"agent: {agent}\n".encode("ascii") + LocalKey.generate()._pem())
            return self._remember(path)

    def agent_of(self, thumbprint: str) -> str | None:
        """The agent whose holder key has this thumbprint, or None. The directory is read again only when it changed."""
        agent = self._agents.get(thumbprint)
        if agent is None:
            changed = _modified(self._dir)
            if changed != self._scanned:
                with self._lock:
                    for path in sorted(self._dir.glob("holder*.pem")):
                        self._remember(path)
                    # Directory times are coarse: one of just now may hide a file that comes in the same tick.
                    self._scanned = changed if time.time_ns() - changed > 1_000_000_000 else -1
                agent = self._agents.get(thumbprint)
        return agent

    def approver(self, name: str) -> LocalKey:
        """The key of somebody who answers requests (1 to 256 printable ASCII characters). Raises InvalidInput."""
        if type(name) is not str or AGENT_NAME.fullmatch(name) is None:
            raise InvalidInput(f"an approver's name is 1 to 256 printable ASCII characters, found {name!r:.60}")
        path = self._dir / _file_of("approver", name)
        if not os.path.lexists(path):
            write_new(path, f"approver: {name}\n".encode("ascii") + LocalKey.generate()._pem())
        return _titled(path, "approver")[1]

    def approvers(self) -> dict[str, PublicKey]:
        """Name -> key of everybody who has a key here to answer with. A file that is not what it must be makes nobody an approver."""
        found: dict[str, PublicKey] = {}
        for path in sorted(self._dir.glob("approver[-~]*.pem")):
            with suppress(InvalidInput):
                name, key = _titled(path, "approver")
                found[name] = key.public
        return found

    def _single(self, name: str) -> LocalKey:
        key = self._named.get(name)
        if key is None:
            with self._lock:
                key = self._named[name] = LocalKey.load_or_create(self._dir / name)
        return key

    def _remember(self, path: Path) -> LocalKey:
        agent, key = _titled(path, "agent")
        if agent not in self._holders:
            self._holders[agent] = key
            self._agents[key.public.thumbprint()] = agent
        return self._holders[agent]


def _titled(path: Path, title: str) -> tuple[str, LocalKey]:
    """A key whose file begins with the line `<title>: <name>`, and is called by that name. Raises InvalidInput."""
    data = read_private(path)
    first, _, _ = data.partition(b"\n")
    before, _, name = first.decode("ascii", "replace").partition(": ")
    if before != title or path.name != _file_of("holder" if title == "agent" else title, name):
        raise InvalidInput(f"the key names another {title} than its file does", place=str(path), hint="give the file its name back")
    return name, _parse(data, path)


def _file_of(kind: str, name: str) -> str:
    # Capitals are escaped too, because some file systems fold case: "Ops" and "ops" are two agents.
    safe = re.sub(r"[^a-z0-9_-]", lambda match: f"%{ord(match[0]):02X}", name)
    if len(safe) > 120:
        return f"{kind}~{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()}.pem"
    return f"{kind}-{safe}.pem"


def _modified(directory: Path) -> int:
    try:
        return directory.stat().st_mtime_ns
    except OSError as error:
        raise InvalidInput(f"the key directory cannot be read: {error.strerror}", place=str(directory)) from None


def _parse(pem: bytes, path: Path) -> LocalKey:
    try:
        private = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise InvalidInput(f"not an unencrypted PKCS#8 PEM key: {error}", place=str(path)) from None
    if not isinstance(private, Ed25519PrivateKey):
        raise InvalidInput("not an Ed25519 key", place=str(path))
    return LocalKey(private)
