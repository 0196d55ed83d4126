"""The guard's home directory: one place that knows what lies where.

.agentguard/
  keys/          issuer.pem, log.pem, holder-*.pem       0600, never leave
  log/           shards of the transparency log          the truth
  heads/         remembered heads, outside the log
  objects/       chains, policies, locks, environments   by content
  side/          salts and values behind commitments     0600, erasable
  state.db       replay ids, counters, revocations       rebuilt from the log where it is behind
  state.gen      the version of the revocations, mapped  rebuilt from state.db
  index.db       for queries                             rebuilt from the log at any time
  trust.json     foreign issuers and agents' keys        optional, written by the operator
  tools.lock.json                                        optional, `agentguard tools lock`
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

from agentguard.canonical import as_mapping, digest, parse
from agentguard.chain import Anchor, TrustAnchors
from agentguard.errors import InvalidInput
from agentguard.keys import KeyRing, PublicKey
from agentguard.log import Log
from agentguard.state import State
from agentguard.store import ObjectStore, SideStore

DEFAULT: Final = ".agentguard"
Durability = Literal["fsync", "process"]


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom the guard believes: issuers of root artifacts, and which agent holds which key."""

    anchors: TrustAnchors
    agents: Mapping[str, str]  # key thumbprint -> agent
    digest: str

    @classmethod
    def of(cls, anchors: tuple[Anchor, ...], agents: Mapping[str, str]) -> Trust:
        body = {"agents": dict(agents), "anchors": sorted([anchor.iss, anchor.key.thumbprint()] for anchor in anchors)}
        return cls(TrustAnchors(anchors), MappingProxyType(dict(agents)), digest(body))

    @classmethod
    def load(cls, path: Path, own: Anchor) -> Trust:
        """The local issuer, and what `path` adds. Raises InvalidInput that names the member."""
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return cls.of((own,), {})
        except OSError as error:
            raise InvalidInput(f"cannot be read: {error.strerror}", place=str(path)) from None
        try:
            return cls.read(parse(data), own)
        except InvalidInput as error:
            hint = 'expected {"anchors": [{"iss": ..., "jwk": {...}}], "agents": {"name": {jwk}}}'
            raise InvalidInput(str(error), place=str(path), hint=hint) from None

    @classmethod
    def read(cls, body: Any, own: Anchor) -> Trust:
        members = as_mapping(body, "the trust file")
        unknown = sorted(members.keys() - {"anchors", "agents"})
        if unknown:
            raise InvalidInput(f"unknown member {unknown[0]!r}")
        anchors = [own]
        listed = members.get("anchors", [])
        if type(listed) is not list:
            raise InvalidInput("anchors must be an array")
        for index, item in enumerate(listed):
            anchor = as_mapping(item, f"anchors[{index}]")
            if type(anchor.get("iss")) is not str or anchor.keys() != {"iss", "jwk"}:
                raise InvalidInput(f"anchors[{index}] needs the members iss (string) and jwk")
            anchors.append(Anchor(anchor["iss"], PublicKey.from_jwk(anchor["jwk"])))
        agents: dict[str, str] = {}
        for name, jwk in as_mapping(members.get("agents", {}), "agents").items():
            thumbprint = PublicKey.from_jwk(jwk).thumbprint()
            if thumbprint in agents:
                raise InvalidInput(f"agents.{name}: the same key as {agents[thumbprint]}")
            agents[thumbprint] = name
        return cls.of(tuple(anchors), agents)


class Home:
    """Everything under one home directory, opened. Close it, or use it as a context manager."""

    def __init__(self, path: Path | str = DEFAULT, *, durability: Durability = "fsync") -> None:
        if durability not in ("fsync", "process"):
            raise InvalidInput(f"durability must be 'fsync' or 'process', found {durability!r}")
        self.path = Path(path)
        self.durability: Durability = durability
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise InvalidInput(f"cannot be created: {error.strerror}", place=str(path)) from None
        self.keys = KeyRing(self.path / "keys")
        issuer = self.keys.issuer().public
        self.issuer = Anchor(issuer.uri, issuer)
        self.trust = Trust.load(self.path / "trust.json", self.issuer)
        self.objects = ObjectStore(self.path / "objects", durability=durability)
        self.side = SideStore(self.path / "side")
        self.log = Log.open(self.path, self.keys.log(), durability=durability)
        try:
            self.state = State.open(self.path / "state.db", durability=durability)
        except BaseException:
            self.log.close()
            raise

    def close(self) -> None:
        """Write the last checkpoint and let go of everything. May be called twice."""
        self.state.close()
        self.log.close()
        self.side.close()

    def __enter__(self) -> Home:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
