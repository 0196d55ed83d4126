"""What admission asks and answers, as values (DESIGN §7 stage 13, §9). The state store acts on them; `decide` only makes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

import msgspec

from agentguard.artifacts.revocation import check_text
from agentguard.errors import InvalidInput

_LARGEST: Final = 2**53


def replay_key(task: str, agent: str, call_id: str) -> str:
    """The store's name for (task, agent, call id). The length in front, and no space in an agent's name, keep different triples apart."""
    return f"{len(task)}:{task} {call_id} {agent}"


#: Counters of the whole home begin so, and end with `~` and the second at which they may be forgotten (0: never); others belong to a task.
SHARED: Final = "shared/"


def counter_key(task: str, key: str) -> str:
    """The store's name for a counter. DEL sorts it behind the task's replay ids, next to the latest if ids ascend: one page to write."""
    return f"0:\x7f{key}" if key.startswith(SHARED) else f"{len(task)}:{task}\x7f{key}"


def counter_expiry(key: str, expires: int) -> int:
    """Unix seconds after which nobody needs a counter any more: it says so itself, or it goes with its task, at `expires`."""
    return int(key.rpartition("~")[2]) or _LARGEST if key.startswith(SHARED) else expires


class Charge(msgspec.Struct, frozen=True, gc=False):  # one is made for each budget of each call, and no cycle can go through it
    """One counter that a call moves up by `amount`, if it does not pass `limit` then.

    key    the counter's name, such as `budget/<agent>/<name>` or `uses/<hash of the link>`; it stands in the evidence
    limit  0 to 2^53
    name   the counter in words, for a reason
    prior  first and last key of other counters that are part of the same limit: the parts of a sliding window
    words  the limit as people write it, where that is not the number
    """

    key: str
    limit: int
    name: str
    amount: int = 1
    prior: tuple[str, str] | None = None
    words: str = ""

    def exhausted(self) -> Exhausted:
        """That this counter has no room for it."""
        return Exhausted(self.name, self.limit, self.words)


@dataclass(frozen=True, slots=True)
class Need:
    """What a counter must be for a call to be admitted: from `low` to `high`."""

    key: str
    low: int
    high: int = _LARGEST


@dataclass(frozen=True, slots=True)
class Meter:
    """A cost that only the outcome tells, in millionths, at `path` in the output. `reserve` was charged to the counter `key` before."""

    key: str
    path: tuple[str, ...]
    reserve: int


@dataclass(frozen=True, slots=True)
class Account:
    """What calls of one agent in one task are charged to. It prepares what `admit` writes, so make it once where calls share it.

    task     id of the root task: replay ids are unique within it, and counters are counted per task unless they are shared
    agent    name of the agent that calls
    charges  every one is charged by each call, or none
    expires  Unix seconds at which the *root* artifact expires. Not the leaf's: another leaf of the task could present a call id again
    needs    what other counters must be at that moment
    earned   counters that move up by 1 when the call comes to an end without an error
    meters   costs that the outcome tells

    Raises InvalidInput for names, limits and times that nothing could count.
    """

    task: str
    agent: str
    charges: tuple[Charge, ...]
    expires: int
    needs: tuple[Need, ...] = ()
    earned: tuple[str, ...] = ()
    meters: tuple[Meter, ...] = ()
    prefix: str = field(init=False, repr=False, compare=False)
    suffix: str = field(init=False, repr=False, compare=False)
    keys: bytes | None = field(init=False, repr=False, compare=False)
    needed: tuple[str | int, ...] = field(init=False, repr=False, compare=False)
    tail: tuple[str | int, ...] = field(init=False, repr=False, compare=False)
    names: tuple[str, ...] = field(init=False, repr=False, compare=False)
    shape: tuple[int, tuple[bool, ...]] = field(init=False, repr=False, compare=False)
    local: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_text(self.task, "the task id", 1 << 16)
        agent = check_text(self.agent, "the agent's name", 256)
        if not agent.isascii() or not agent.isprintable() or " " in agent:
            raise InvalidInput(f"an agent's name is printable ASCII without spaces, found {agent!r:.60}")
        numbers = [("the expiry", self.expires), *((f"the limit of {charge.name}", charge.limit) for charge in self.charges)]
        for what, number in (*numbers, *((f"the charge to {charge.name}", charge.amount) for charge in self.charges)):
            if type(number) is not int or not 0 <= number <= _LARGEST:
                raise InvalidInput(f"{what} must be a whole number from 0 to 2^53, found {number!r:.40}")
        keys = [check_text(charge.key, "the key of a counter", 1 << 16) for charge in self.charges]
        prefix, _, suffix = replay_key(self.task, self.agent, "\n").rpartition("\n")
        tail: list[str | int] = []
        for charge in self.charges:
            prior = [counter_key(self.task, end) for end in charge.prior] if charge.prior is not None else []
            tail += (counter_key(self.task, charge.key), charge.amount, charge.limit, *prior, counter_expiry(charge.key, self.expires))
        set_ = object.__setattr__
        set_(self, "prefix", prefix)
        set_(self, "suffix", suffix)
        set_(self, "keys", msgspec.json.encode([(charge.key, charge.amount) for charge in self.charges]) if keys else None)
        set_(self, "needed", tuple([part for need in self.needs for part in (counter_key(self.task, need.key), need.low, need.high)]))
        set_(self, "tail", tuple(tail))
        set_(self, "names", tuple(keys))
        set_(self, "shape", (len(self.needs), tuple([charge.prior is not None for charge in self.charges])))
        set_(self, "local", not any(key.startswith(SHARED) for key in keys))


class Reservation(NamedTuple):
    """What one call asks of the store.

    execution  id of the execution that the permit is for
    shard      log shard that the decision will be recorded in
    account    what is charged
    call_id    the caller's id of the call: (task, agent, call id) is the replay key. Ids that ascend keep neighbours on one page
    version    `Revocations.version` that the decision was made on
    rerun      whether policy marks the tool `rerun: safe`
    """

    execution: str
    shard: str
    account: Account
    call_id: str
    version: int
    rerun: bool = False

    @property
    def key(self) -> str:
        """The replay key as the store writes it."""
        return f"{self.account.prefix}{self.call_id}{self.account.suffix}"


class Admitted(NamedTuple):
    """The call may run. `charged` is False for the repeated call of a rerun-safe tool, whose decision then records no charge."""

    charged: bool


class Replayed(NamedTuple):
    """The call id was seen. `first` is the execution that had it; `outcome` is known for rerun-safe tools only, else the log has it."""

    first: str
    outcome: str | None


class Exhausted(NamedTuple):
    """The first counter, in the order of the charges, that has no room for what a call moves it by."""

    name: str
    limit: int
    words: str = ""


class Superseded(NamedTuple):
    """What the decision stands on moved since it was read (the revocations are at `version` now): decide again."""

    version: int


Admission: TypeAlias = Admitted | Replayed | Exhausted | Superseded

ADMITTED: Final = Admitted(charged=True)
ADMITTED_AGAIN: Final = Admitted(charged=False)
