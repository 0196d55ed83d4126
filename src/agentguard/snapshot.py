"""What one check is judged by, all of it: policy, lock, trust, revocations and their terms (DESIGN §2).

A check reads the guard's snapshot once and uses no other, so that it is judged wholly by the old or wholly by the new when a reload puts
another in its place. A snapshot never changes but for its facts, which are replaced as a whole when somebody withdraws something.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from msgspec import structs

from agentguard.artifacts.chain import Limits
from agentguard.authority import Authority
from agentguard.bundle import MAX_BUNDLE, Bundle, is_bundle, read_bundle
from agentguard.bundle_home import detail_of, succeeds, take_over
from agentguard.canonical import Frozen
from agentguard.environment import measure
from agentguard.errors import InvalidInput
from agentguard.home import Home, Trust
from agentguard.policy import load
from agentguard.policy.model import Policy
from agentguard.premises import Facts, Terms
from agentguard.recording import Recording, Stamp
from agentguard.tools.integrity import LOCK_FILE, Lock

_LIMITS: Final = Limits()
_PATIENCE: Final = 30.0  # seconds; a fork may leave a lock behind that nobody will ever release


@dataclass(frozen=True, slots=True)
class Orders:
    """What a guard is told to judge by. Make it with `read_orders`.

    trust   that of the home, with the keys of the bundle
    bundle  the signed bundle that all of it came in, if it did
    """

    policy: Policy
    lock: Lock | None
    trust: Trust
    bundle: Bundle | None

    def terms(self, own: str) -> Terms | None:
        """What a decision needs of the bundle. `own` is the thumbprint of the home's issuer, whose table is at hand and never stale."""
        bundle = self.bundle
        if bundle is None:
            return None
        lists = tuple([one for one in bundle.lists if one.by != own])
        return Terms(f"{bundle.name}@{bundle.version}", bundle.issued, bundle.expires, bundle.accepts, lists)


def given_by(source: str | Path | Policy) -> Policy | bytes:
    """The policy that `source` is or says, or the bytes of the bundle that lies there, which nobody has verified. Raises InvalidInput."""
    if isinstance(source, Policy):
        return source
    return _bundle_at(source) or load(source)


def read_orders(home: Home, given: Policy | bytes, place: str) -> Orders:
    """A policy, or a bundle that the home trusts, with the home's trust file and lock as they are now. Raises InvalidInput."""
    trust = home.read_trust()
    if isinstance(given, Policy):
        return Orders(given, Lock.load(home.path / LOCK_FILE), trust, None)
    bundle = read_bundle(given, trust, place=place)
    lock = bundle.lock if bundle.lock is not None else Lock.load(home.path / LOCK_FILE)
    return Orders(bundle.policy, lock, bundle.trust, bundle)


def _bundle_at(source: str | Path) -> bytes | None:
    """The bytes of a bundle, if that is what lies there; else None, and `load` says what it is."""
    if isinstance(source, str) and ("\n" in source or source.startswith("{")):
        return None  # a policy's text
    try:
        if not stat.S_ISREG(os.stat(source).st_mode):
            return None
        with open(source, "rb") as file:
            if not is_bundle(file.peek(3)[:3]):
                return None
            data = file.read(MAX_BUNDLE + 2)
    except (OSError, ValueError):
        return None
    if len(data) > MAX_BUNDLE + 1:
        raise InvalidInput(f"the bundle is larger than {MAX_BUNDLE} bytes", place=str(source))
    return data


class Snapshot:
    """What checks are judged by until the next reload.

    stamp  how records name all of it
    facts  the only member that is replaced: revocations move without a reload
    """

    __slots__ = ("authority", "facts", "lock", "orders", "policy", "stamp")

    def __init__(self, orders: Orders, authority: Authority, stamp: Stamp, facts: Facts) -> None:
        self.orders, self.policy, self.lock = orders, orders.policy, orders.lock
        self.authority, self.stamp, self.facts = authority, stamp, facts

    @classmethod
    def of(
        cls, orders: Orders, home: Home, recording: Recording, measured: Mapping[str, Frozen], given: tuple[str, ...], audience: str
    ) -> Snapshot:
        """A snapshot whose documents are kept, so that records may name them. `measured` lacks the lock's digest; `given` are the names of
        the facts that the operator gave. Raises EvidenceUnavailable, StateUnavailable."""
        environment = dict(measured)
        if orders.lock is not None:
            environment["tool_lock"] = orders.lock.digest
        facts = Facts(
            MappingProxyType(environment),
            home.state.revocations(),
            _LIMITS,
            (audience,),
            recording.clock.unreliable,
            home.state.domain,
            orders.terms(home.issuer.key.thumbprint()),
        )
        bundle = orders.bundle.data if orders.bundle is not None else None
        stamp = recording.keep(orders.policy, orders.lock, orders.trust, facts.environment, bundle)
        return cls(orders, Authority(home, orders.trust, orders.policy, facts.environment, given, _LIMITS), stamp, facts)

    def named(self) -> dict[str, Any]:
        """What a record says of it."""
        bundle = self.orders.bundle
        return self.stamp._asdict() | (detail_of(bundle) if bundle is not None else {})

    def renewed(self) -> Snapshot:
        """The same with nothing remembered of chains."""
        return Snapshot(self.orders, self.authority.renewed(), self.stamp, self.facts)


class InForce:
    """The snapshot by which one guard judges, and how another one takes its place.

    snapshot  read it once a check, and use no other
    """

    def __init__(self, home: Home, recording: Recording, orders: Orders, environment: Mapping[str, Any], audience: str) -> None:
        self._home, self._recording, self._audience = home, recording, audience
        self._measured, self._given = measure(environment, lock=None), tuple(environment)
        self._reloading = threading.Lock()
        self.snapshot = self._install(self._prepare(orders))

    def reload(self, source: str | Path | Policy) -> Snapshot:
        """See `Guard.reload`."""
        given = given_by(source)
        if not self._reloading.acquire(timeout=_PATIENCE):
            raise InvalidInput("another reload is under way", hint="try again")
        try:
            orders = read_orders(self._home, given, str(source))
            succeeds(self.snapshot.orders.bundle, orders.bundle)
            snapshot = self._prepare(orders)
            if orders.bundle is not None:
                take_over(self._home, orders.bundle)
            self._recording.ledger.note("policy", {"action": "reload", **snapshot.named()})
            self.snapshot = self._install(snapshot)
            return snapshot
        finally:
            self._reloading.release()

    def _prepare(self, orders: Orders) -> Snapshot:
        """A snapshot by which nothing is judged yet. Its documents are kept when this returns."""
        return Snapshot.of(orders, self._home, self._recording, self._measured, self._given, self._audience)

    def _install(self, snapshot: Snapshot) -> Snapshot:
        """What is not part of a check's snapshot follows it: who may answer requests now, and what refusals outside of checks are filed
        under."""
        self._home.trust = snapshot.orders.trust
        self._recording.stamp, self._recording.revocations = snapshot.stamp, snapshot.facts.revocations.version
        return snapshot

    def fresh(self) -> Snapshot:
        """The snapshot in force, with the revocations as they are now."""
        snapshot = self.snapshot
        if self.moved(snapshot):
            self.refresh(snapshot)
        return snapshot

    def moved(self, snapshot: Snapshot) -> bool:
        """Whether somebody withdrew something since."""
        return self._home.state.version() != snapshot.facts.revocations.version

    def refresh(self, snapshot: Snapshot) -> None:
        """Read the revocations anew."""
        snapshot.facts = structs.replace(snapshot.facts, revocations=self._home.state.revocations())
        self._recording.revocations = snapshot.facts.revocations.version

    def renew(self) -> None:
        """Remember nothing of chains any more."""
        with self._reloading:
            self.snapshot = self.snapshot.renewed()
