"""The guard's home directory: one place that knows what lies where.

.agentguard/
  keys/          issuer.pem, log.pem, holder-*.pem       0600, never leave
  log/           shards of the transparency log          the truth
  heads/         remembered heads, outside the log
  witnessed/     what witnesses cosigned                 proves itself
  tiles/         tree nodes, to make proofs from         rebuilt from the log at any time
  objects/       chains, policies, locks, environments   by content
  side/          salts and values behind commitments     0600, erasable
  state.db       replay ids, counters, revocations       rebuilt from the log where it is behind
  state.gen      the version of the revocations, mapped  rebuilt from state.db
  index.db       for queries                             rebuilt from the log at any time
  settings.json  how long values are kept                optional, written by the operator
  trust.json     foreign issuers, keys of agents, approvers, policy authorities   optional, written by the operator
  policy/        signed bundles                          optional, `agentguard policy fetch`
  approvals/     what waits for a human's answer         0600, goes when it was used or has expired
  tools.lock.json                                        optional, `agentguard tools lock`
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

from agentguard.approvals import Approver, Approvers
from agentguard.artifacts.chain import Anchor, TrustAnchors
from agentguard.artifacts.revocation import Kind
from agentguard.canonical import as_mapping, digest, jcs, parse
from agentguard.errors import InvalidInput
from agentguard.inbox import Inbox
from agentguard.keys import AGENT_NAME, KeyRing, PublicKey
from agentguard.log import Log
from agentguard.settings import Settings
from agentguard.state.store import State
from agentguard.store import ObjectStore, SideStore

DEFAULT: Final = ".agentguard"
Durability = Literal["fsync", "process"]


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom the guard believes: issuers of root artifacts, which agent holds which key, who answers requests for approval, and who may sign
    which bundle."""

    anchors: TrustAnchors
    agents: Mapping[str, str]  # key thumbprint -> agent
    canonical: bytes  # JCS: {"agents": ..., "anchors": [[iss, thumbprint], ...]}, and "approvers" where they are named
    digest: str  # of `canonical`
    approvers: Approvers | None = None  # by key thumbprint; None: whoever has an approver's key in the home
    authorities: tuple[tuple[str, PublicKey], ...] = ()  # name of a bundle, key that may sign it

    @classmethod
    def of(
        cls,
        anchors: tuple[Anchor, ...],
        agents: Mapping[str, str],
        approvers: Approvers | None = None,
        authorities: tuple[tuple[str, PublicKey], ...] = (),
    ) -> Trust:
        body: dict[str, Any] = {"agents": dict(agents), "anchors": sorted([anchor.iss, anchor.key.thumbprint()] for anchor in anchors)}
        if approvers is not None:
            body["approvers"] = {thumbprint: approver.name for thumbprint, approver in approvers.items()}
        return cls(TrustAnchors(anchors), MappingProxyType(dict(agents)), jcs(body), digest(body), approvers, authorities)

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
            hint = (
                'expected {"anchors": [{"iss": ..., "jwk": {...}}], "agents": {"name": {jwk}}, "approvers": {"name": {jwk}}, '
                '"policy_authorities": [{"bundle": ..., "jwk": {...}}]}'
            )
            raise InvalidInput(str(error), place=str(path), hint=hint) from None

    @classmethod
    def read(cls, body: Any, own: Anchor | None = None) -> Trust:
        """From the form of a trust file; without the local issuer for the keys of a bundle. Raises InvalidInput."""
        members = as_mapping(body, "the trust file")
        unknown = sorted(members.keys() - {"anchors", "agents", "approvers", "policy_authorities"})
        if unknown:
            raise InvalidInput(f"unknown member {unknown[0]!r}")
        anchors = [own] if own is not None else []
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
        taken = {**{anchor.key.thumbprint(): f"the issuer {anchor.iss}" for anchor in anchors}, **agents}
        approvers = _approvers(members["approvers"], taken) if "approvers" in members else None
        return cls.of(tuple(anchors), agents, approvers, _authorities(members.get("policy_authorities", [])))

    def with_keys(self, more: Trust) -> Trust:
        """This trust and the anchors and agents of a bundle. Raises InvalidInput where one key gets two names."""
        for thumbprint, name in more.agents.items():
            if self.agents.get(thumbprint, name) != name:
                raise InvalidInput(f"the key of {name} is that of {self.agents[thumbprint]} in the trust file")
        anchors = [Anchor(iss, key) for trust in (self, more) for key, names in trust.anchors.by_key.items() for iss in sorted(names)]
        return Trust.of(tuple(anchors), {**self.agents, **more.agents}, self.approvers, self.authorities)


def _authorities(body: Any) -> tuple[tuple[str, PublicKey], ...]:
    """Who may sign which bundle. A key signs the bundles that it is named with, so that nobody can put one in the place of another."""
    if type(body) is not list:
        raise InvalidInput("policy_authorities must be an array")
    found = []
    for index, item in enumerate(body):
        authority = as_mapping(item, f"policy_authorities[{index}]")
        if authority.keys() != {"bundle", "jwk"} or type(authority["bundle"]) is not str:
            raise InvalidInput(f"policy_authorities[{index}] needs the members bundle (string) and jwk")
        found.append((authority["bundle"], PublicKey.from_jwk(authority["jwk"])))
    return tuple(found)


def _approvers(body: Any, taken: Mapping[str, str]) -> Approvers:
    """Those who may answer. One key is one person, and no agent or issuer is one."""
    found: dict[str, Approver] = {}
    for name, jwk in as_mapping(body, "approvers").items():
        if AGENT_NAME.fullmatch(name) is None:
            raise InvalidInput(f"approvers: a name is 1 to 256 printable ASCII characters, found {name!r:.60}")
        key = PublicKey.from_jwk(jwk)
        other = taken.get(key.thumbprint()) or (found[key.thumbprint()].name if key.thumbprint() in found else None)
        if other is not None:
            raise InvalidInput(f"approvers.{name}: the same key as {other}")
        found[key.thumbprint()] = Approver(name, key, local=False)
    return MappingProxyType(found)


def approvers(trust: Trust, keys: KeyRing) -> Approvers:
    """Who may answer requests: those whom the trust file names, or, where it has no `approvers`, whoever has an approver's key in the ring.
    A key of the guard, of an issuer or of an agent never answers."""
    found = trust.approvers
    if found is None:
        found = {key.thumbprint(): Approver(name, key, local=True) for name, key in keys.approvers().items()}
    barred = {keys.log().public.thumbprint(), *trust.agents, *(key.thumbprint() for key in trust.anchors.by_key)}
    return {one: who for one, who in found.items() if one not in barred and keys.agent_of(one) is None}


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
        self.trust = self.read_trust()
        self.inbox = Inbox(self.path / "approvals", issuer)
        self.objects = ObjectStore(self.path / "objects", durability=durability)
        self.settings = Settings.load(self.path)
        self.side = SideStore(self.path / "side", keep_seconds=self.settings.seconds())
        self.log = Log.open(self.path, self.keys.log(), durability=durability)
        try:
            self.state = State.open(self.path / "state.db", durability=durability)
        except BaseException:
            self.log.close()
            raise

    def read_trust(self) -> Trust:
        """What the trust file says now. Raises InvalidInput."""
        return Trust.load(self.path / "trust.json", self.issuer)

    def approvers(self) -> Approvers:
        """Who may answer requests, as of now: a key that was withdrawn answers nothing any more. Raises StateUnavailable."""
        revoked = self.state.revocations()
        return {one: who for one, who in approvers(self.trust, self.keys).items() if not revoked.holds(Kind.KEY, one)}

    def close(self) -> None:
        """Write the last checkpoint and let go of everything. May be called twice."""
        self.state.close()
        self.log.close()
        self.side.close()

    def __enter__(self) -> Home:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
