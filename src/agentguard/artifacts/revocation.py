"""What has been withdrawn, as a value (DESIGN §4 "Revocation", §7 stage 4).

`Revocations` is one immutable snapshot: the state store folds its history into it, `decide` asks it, and neither knows the other.
A revocation cascades because every link of a chain is asked for: whoever stands under a revoked link, key or agent is revoked too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from agentguard.errors import InvalidInput


class Kind(StrEnum):
    """What a revocation names, from the widest to the narrowest; `match` reports the widest that applies."""

    ALL = "all"
    INITIATOR = "initiator"
    TASK = "task"
    AGENT = "agent"
    KEY = "key"
    LINK = "link"


#: The kinds as words, for a command line.
KINDS: Final = tuple([str(kind) for kind in Kind])


class Action(StrEnum):
    REVOKE = "revoke"
    LIFT = "lift"


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the history: something was revoked, or a revocation was lifted.

    value    what is named: signing-input hash of a link, task id, agent name, initiator id, thumbprint of a key; empty for `all`
    by       who did it, for people
    time_ns  when
    id       id of the evidence record, so that replaying the log applies nothing twice
    """

    action: Action
    kind: Kind
    value: str
    by: str
    reason: str
    time_ns: int
    id: str


@dataclass(frozen=True, slots=True)
class Revoked:
    """Why a chain is revoked. `link` is the number of the link that is hit (0 = root), None when it is not about one link."""

    kind: Kind
    value: str
    link: int | None
    by: str
    reason: str
    time_ns: int

    def describe(self) -> str:
        """Words for a reason: what was withdrawn, by whom and why."""
        what = "everything" if self.kind is Kind.ALL else f"the {self.kind} {self.value}"
        return f"{what} was revoked by {self.by}" + (f": {self.reason}" if self.reason else "")


_NONE: Final[Mapping[str, Event]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Revocations:
    """Everything that is revoked at `version` of one state store.

    version  the number of changes so far; it never goes back, and admission refuses a call that was decided on another one
    active   kind -> value -> the event that revoked it; empty when nothing is revoked
    """

    version: int = 0
    active: Mapping[Kind, Mapping[str, Event]] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def fold(cls, version: int, history: Iterable[Event]) -> Revocations:
        """The snapshot that a history comes to, oldest event first. A revocation holds until it is lifted."""
        active: dict[Kind, dict[str, Event]] = {}
        for event in history:
            if event.action is Action.LIFT:
                active.get(event.kind, {}).pop(event.value, None)
            else:
                active.setdefault(event.kind, {})[event.value] = event
        active = {kind: values for kind, values in active.items() if values}
        return cls(version, MappingProxyType({kind: MappingProxyType(values) for kind, values in active.items()}))

    def match(
        self,
        *,
        links: Sequence[str] = (),
        keys: Sequence[str] = (),
        agents: Sequence[str] = (),
        task: str | None = None,
        initiator: str | None = None,
    ) -> Revoked | None:
        """Why a chain may not be used, or None.

        links   signing-input hash of each link, root first
        keys    thumbprint of the issuer's key, then of each link's holder key: entry i+1 is link i's
        agents  name of each link's holder, root first
        """
        if not self.active:
            return None
        everything = self.active.get(Kind.ALL, _NONE).get("")
        if everything is not None:
            return _revoked(everything, None)
        for kind, value in ((Kind.INITIATOR, initiator), (Kind.TASK, task)):
            event = None if value is None else self.active.get(kind, _NONE).get(value)
            if event is not None:
                return _revoked(event, None)
        for kind, values, first in ((Kind.AGENT, agents, 0), (Kind.KEY, keys, -1), (Kind.LINK, links, 0)):
            named = self.active.get(kind)
            if named is None or named.keys().isdisjoint(values):
                continue
            number = next(number for number, value in enumerate(values) if value in named)
            return _revoked(named[values[number]], max(number + first, 0))
        return None

    def holds(self, kind: Kind, value: str) -> bool:
        """Whether exactly this is revoked."""
        return value in self.active.get(kind, _NONE)


def _revoked(event: Event, link: int | None) -> Revoked:
    return Revoked(event.kind, event.value, link, event.by, event.reason, event.time_ns)


def parse_target(kind: object, value: object) -> tuple[Kind, str]:
    """The (kind, value) of a revocation as somebody wrote it, checked. For `all` the value is empty (or `all`, which is read as empty).

    Any other text can be revoked, because a foreign issuer may have put any text into a claim.
    Raises InvalidInput for an unknown kind, an empty value, a value for `all`, or what is no text of at most 4096 bytes.
    """
    if type(kind) is not str and type(kind) is not Kind:
        raise InvalidInput(f"the kind of a revocation must be text, found {type(kind).__name__}")
    if kind not in KINDS:
        raise InvalidInput(f"{kind!r:.40} cannot be revoked", hint=f"one of {', '.join(KINDS)}")
    named, text = Kind(kind), check_text(value, f"the {kind} to revoke", 4096)
    if named is Kind.ALL:
        if text not in ("", "all"):
            raise InvalidInput("`all` takes no value", hint="revoke one kind at a time")
        return named, ""
    if not text:
        raise InvalidInput(f"which {named}? An empty value revokes nothing")
    return named, text


def check_text(value: object, what: str, limit: int) -> str:
    """`value`, if it is text that has a UTF-8 form of at most `limit` bytes; otherwise InvalidInput that names `what`."""
    if type(value) is not str:
        raise InvalidInput(f"{what} must be text, found {type(value).__name__}")
    try:
        size = len(value.encode("utf-8"))
    except UnicodeEncodeError:
        raise InvalidInput(f"{what} holds a lone surrogate, which has no UTF-8 form") from None
    if size > limit:
        raise InvalidInput(f"{what} is too long", hint=f"at most {limit} bytes")
    return value
