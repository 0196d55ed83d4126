"""The core constraint vocabulary (AAT -02 §3.4): values that accept or refuse one argument value.

Every constraint is immutable and checked when it is built. `check` is total: it never raises, and it never accepts a value that is not
admissible JSON, so that a wildcard is an upper bound of every constraint. Equality of values is equality of JCS bytes; two values are
equal exactly when their `key` is.
"""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from agentguard.canonical import Frozen, Json, freeze, jcs, number_is_admissible, thaw
from agentguard.constraints.values import ARRAYS, EXACT_INTEGER, NO_KEY, SCALARS, Key, admissible, constants, key, listed, shorten, show
from agentguard.errors import InvalidInput

LARGEST: Final = sys.float_info.max


class Constraint(ABC):
    """One constraint on one argument value.

    `kind` is its `constraint_type` in a token. Two constraints are equal when their token forms are.
    """

    __slots__ = ()
    kind: ClassVar[str]
    #: The members of the token form beside `constraint_type`: those that must be there, and those that may. Fields carry the same names.
    needs: ClassVar[frozenset[str]] = frozenset()
    takes: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def check(self, value: Frozen) -> bool:
        """Whether `value`, plain or frozen, is accepted. Total."""

    @abstractmethod
    def members(self) -> dict[str, Json]:
        """The members of the token form beside `constraint_type`."""

    @abstractmethod
    def describe(self) -> str:
        """What it asks for, in a few English words after "required"."""

    def covers(self, other: Any) -> bool:
        """Whether every value that `other`, a constraint of my own type, accepts is one of mine: sound and transitive, maybe incomplete.

        Types whose values can be listed, and `all` and `any`, have their rules in `narrowing` and leave this one.
        """
        return False

    def to_json(self) -> dict[str, Json]:
        """The token form, without `optional`."""
        return {"constraint_type": self.kind, **self.members()}

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Constraint) and jcs(self.to_json()) == jcs(other.to_json()))

    def __hash__(self) -> int:
        return hash(jcs(self.to_json()))

    def __repr__(self) -> str:
        return f"<{self.kind}: {self.describe()}>"


def put(target: object, name: str, value: object) -> None:
    """Set a field of a frozen dataclass while it is being built."""
    object.__setattr__(target, name, value)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Exact(Constraint):
    """Equals one string, number, boolean or null."""

    kind = "exact"
    needs = frozenset({"value"})
    value: Frozen
    _key: Key = field(init=False)

    def __post_init__(self) -> None:
        if type(self.value) not in SCALARS:
            raise InvalidInput(f"exact.value must be a string, a number, a boolean or null, found {show(self.value)}")
        put(self, "value", freeze(self.value))
        put(self, "_key", key(self.value))

    def check(self, value: Frozen) -> bool:
        same: bool = (value if type(value) is str else key(value)) == self._key
        return same

    def members(self) -> dict[str, Json]:
        return {"value": self.value}

    def describe(self) -> str:
        return f"exactly {show(self.value)}"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Range(Constraint):
    """A number within bounds; a boolean is not a number. `low` and `high` are the bounds as inclusive doubles."""

    kind = "range"
    takes = frozenset({"min", "max", "min_inclusive", "max_inclusive"})
    min: int | float | None = None
    max: int | float | None = None
    min_inclusive: bool = True
    max_inclusive: bool = True
    low: float = field(init=False)
    high: float = field(init=False)

    def __post_init__(self) -> None:
        for name in ("min", "max"):
            bound, inclusive = getattr(self, name), getattr(self, f"{name}_inclusive")
            if bound is not None and type(bound) is not int and type(bound) is not float:
                raise InvalidInput(f"range.{name} must be a number that a double carries exactly, found {show(bound)}")
            freeze(bound)
            if type(inclusive) is not bool:
                raise InvalidInput(f"range.{name}_inclusive must be true or false, found {show(inclusive)}")
            if bound is None and not inclusive:
                raise InvalidInput(f"range.{name}_inclusive stands without range.{name}")
        # Every admissible number orders as its double does, and the double next to an exclusive bound is an inclusive one.
        low = -LARGEST if self.min is None else float(self.min)
        high = LARGEST if self.max is None else float(self.max)
        if low > high:
            raise InvalidInput(f"range.min {self.min} is above range.max {self.max}")
        put(self, "low", low if self.min_inclusive else math.nextafter(low, math.inf))
        put(self, "high", high if self.max_inclusive else math.nextafter(high, -math.inf))

    def check(self, value: Frozen) -> bool:
        if type(value) is float or (type(value) is int and -EXACT_INTEGER <= value <= EXACT_INTEGER):
            within: bool = self.low <= value <= self.high
            return within
        return type(value) is int and number_is_admissible(value) and self.low <= float(value) <= self.high

    def members(self) -> dict[str, Json]:
        result: dict[str, Json] = {}
        for name in ("min", "max"):
            if getattr(self, name) is not None:
                result[name] = getattr(self, name)
                if not getattr(self, f"{name}_inclusive"):
                    result[f"{name}_inclusive"] = False
        return result

    def describe(self) -> str:
        low = "" if self.min is None else f"{'at least' if self.min_inclusive else 'more than'} {show(self.min)}"
        high = "" if self.max is None else f"{'at most' if self.max_inclusive else 'less than'} {show(self.max)}"
        return "a number " + (" and ".join(filter(None, (low, high))) or "of any size")

    def covers(self, other: Range) -> bool:
        return other.low >= self.low and other.high <= self.high


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class OneOf(Constraint):
    """Equals one of several values."""

    kind = "one_of"
    needs = frozenset({"values"})
    values: tuple[Frozen, ...]
    keys: frozenset[Key] = field(init=False)

    def __post_init__(self) -> None:
        put(self, "values", constants(self.values, "one_of.values"))
        if not self.values:
            raise InvalidInput("one_of.values is empty")
        put(self, "keys", frozenset(map(key, self.values)))

    def check(self, value: Frozen) -> bool:
        return (value if type(value) is str else key(value)) in self.keys

    def members(self) -> dict[str, Json]:
        return {"values": [thaw(value) for value in self.values]}

    def describe(self) -> str:
        return f"one of {listed(self.values)}"

    def covers(self, other: OneOf) -> bool:
        return other.keys <= self.keys


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class NotOneOf(Constraint):
    """Equals none of several values; any JSON type passes."""

    kind = "not_one_of"
    needs = frozenset({"excluded"})
    excluded: tuple[Frozen, ...]
    keys: frozenset[Key] = field(init=False)

    def __post_init__(self) -> None:
        put(self, "excluded", constants(self.excluded, "not_one_of.excluded"))
        put(self, "keys", frozenset(map(key, self.excluded)))

    def check(self, value: Frozen) -> bool:
        found = key(value)
        return found is not NO_KEY and found not in self.keys

    def members(self) -> dict[str, Json]:
        return {"excluded": [thaw(value) for value in self.excluded]}

    def describe(self) -> str:
        return f"none of {listed(self.excluded)}"

    def covers(self, other: NotOneOf) -> bool:
        return other.keys >= self.keys


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Contains(Constraint):
    """An array that holds every required element."""

    kind = "contains"
    needs = frozenset({"required"})
    required: tuple[Frozen, ...]
    keys: frozenset[Key] = field(init=False)

    def __post_init__(self) -> None:
        put(self, "required", constants(self.required, "contains.required"))
        put(self, "keys", frozenset(map(key, self.required)))

    def check(self, value: Frozen) -> bool:
        return type(value) in ARRAYS and admissible(value) and self.keys <= {key(item) for item in value}

    def members(self) -> dict[str, Json]:
        return {"required": [thaw(value) for value in self.required]}

    def describe(self) -> str:
        return f"an array that holds {listed(self.required)}" if self.required else "an array"

    def covers(self, other: Contains) -> bool:
        return other.keys >= self.keys


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Subset(Constraint):
    """An array whose elements are all allowed ones."""

    kind = "subset"
    needs = frozenset({"allowed"})
    allowed: tuple[Frozen, ...]
    keys: frozenset[Key] = field(init=False)

    def __post_init__(self) -> None:
        put(self, "allowed", constants(self.allowed, "subset.allowed"))
        put(self, "keys", frozenset(map(key, self.allowed)))

    def check(self, value: Frozen) -> bool:
        if type(value) not in ARRAYS:
            return False
        return all(map(self.keys.__contains__, map(key, value)))

    def members(self) -> dict[str, Json]:
        return {"allowed": [thaw(value) for value in self.allowed]}

    def describe(self) -> str:
        return f"an array of {listed(self.allowed)}" if self.allowed else "an empty array"

    def covers(self, other: Subset) -> bool:
        return other.keys <= self.keys


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Wildcard(Constraint):
    """Any admissible JSON value."""

    kind = "wildcard"

    check = staticmethod(admissible)

    def members(self) -> dict[str, Json]:
        return {}

    def describe(self) -> str:
        return "any value"


def _clauses(clauses: Any, what: str) -> tuple[Constraint, ...]:
    result = tuple(clauses)
    if not result or not all(isinstance(clause, Constraint) for clause in result):
        raise InvalidInput(f"{what}.constraints must be a non-empty array of constraints")
    return result


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class AllOf(Constraint):
    """Every clause accepts. Token form `all`."""

    kind = "all"
    needs = frozenset({"constraints"})
    constraints: tuple[Constraint, ...]
    _checks: tuple[Any, ...] = field(init=False)

    def __post_init__(self) -> None:
        put(self, "constraints", _clauses(self.constraints, "all"))
        put(self, "_checks", tuple(clause.check for clause in self.constraints))

    def check(self, value: Frozen) -> bool:
        for check in self._checks:  # noqa: SIM110  # a generator costs three times as much
            if not check(value):
                return False
        return True

    def members(self) -> dict[str, Json]:
        return {"constraints": [clause.to_json() for clause in self.constraints]}

    def describe(self) -> str:
        return shorten(" and ".join(clause.describe() for clause in self.constraints[:4]))


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class AnyOf(Constraint):
    """Some clause accepts. Token form `any`."""

    kind = "any"
    needs = frozenset({"constraints"})
    constraints: tuple[Constraint, ...]
    _checks: tuple[Any, ...] = field(init=False)

    def __post_init__(self) -> None:
        put(self, "constraints", _clauses(self.constraints, "any"))
        put(self, "_checks", tuple(clause.check for clause in self.constraints))

    def check(self, value: Frozen) -> bool:
        for check in self._checks:  # noqa: SIM110  # a generator costs three times as much
            if check(value):
                return True
        return False

    def members(self) -> dict[str, Json]:
        return {"constraints": [clause.to_json() for clause in self.constraints]}

    def describe(self) -> str:
        return shorten("either " + " or ".join(clause.describe() for clause in self.constraints[:4]))
