"""Constraints as tokens carry them: parsing, and the argument map of a tool (AAT -02 §3.3 and §3.4).

The constraint types live in `vocabulary` (the draft's), `matchers` and `addresses` (ours), subsumption in `narrowing`, the policy's short
forms in `rules`. This module is the door to all but the last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from agentguard.canonical import Frozen, Json, as_mapping, jcs
from agentguard.constraints import addresses, matchers, vocabulary
from agentguard.constraints.narrowing import is_empty, narrows, plain_narrows
from agentguard.constraints.values import admissible, show
from agentguard.constraints.vocabulary import AllOf, AnyOf, Constraint, Range, Wildcard
from agentguard.errors import InvalidInput

__all__ = [
    "NO_ARGUMENTS",
    "ArgumentFailure",
    "Constraint",
    "Entry",
    "ToolMap",
    "admissible",
    "map_narrows",
    "narrows",
    "parse_constraint",
    "parse_entry",
    "parse_tool_map",
    "plain_narrows",
]

#: The draft's suggestion (§12). No setting reaches beyond the second: checks and comparisons recurse.
MAX_DEPTH: Final = 32
_DEEPEST: Final = 64

_CORE: Final[dict[str, type[Constraint]]] = {
    build.kind: build
    for build in (
        vocabulary.Exact,
        vocabulary.Range,
        vocabulary.OneOf,
        vocabulary.NotOneOf,
        vocabulary.Contains,
        vocabulary.Subset,
        vocabulary.Wildcard,
        vocabulary.AllOf,
        vocabulary.AnyOf,
    )
}
_EXTENSIONS: Final[dict[str, type[Constraint]]] = {
    build.kind: build
    for build in (
        matchers.Path,
        addresses.Url,
        matchers.Glob,
        matchers.Regex,
        addresses.Cidr,
        addresses.Email,
        matchers.Length,
        matchers.TypeIs,
    )
}
_WILDCARD: Final = Wildcard()


def parse_constraint(obj: Json, *, extensions: bool, max_depth: int = MAX_DEPTH) -> Constraint:
    """A constraint from its token form, plain or frozen. `extensions=False` knows the draft's types only.

    Raises InvalidInput for everything the draft calls malformed (§3.4), `optional` included: that belongs to an entry of an argument map.
    """
    return _parse(obj, extensions, min(max_depth, _DEEPEST))


def _parse(obj: Json, extensions: bool, depth: int) -> Constraint:
    if depth <= 0:
        raise InvalidInput("the constraint is nested too deeply")
    given = as_mapping(obj, "a constraint")
    kind = given.get("constraint_type")
    build = (_CORE.get(kind) or (_EXTENSIONS.get(kind) if extensions else None)) if type(kind) is str else None
    if build is None:
        raise InvalidInput(f"constraint_type {show(kind)} is not one that is known here")
    names = given.keys() - {"constraint_type"}
    for name in names - build.needs - build.takes:
        raise InvalidInput(f"a constraint of type {build.kind} has no member {show(name)}")
    for name in build.needs - names:
        raise InvalidInput(f"a constraint of type {build.kind} needs the member {name}")
    members = {name: given[name] for name in names}
    if build is Range:
        _refuse_loose_bounds(members)
    if build is AllOf or build is AnyOf:
        clauses = members["constraints"]
        if type(clauses) is not list and type(clauses) is not tuple:
            raise InvalidInput(f"{build.kind}.constraints must be an array, found {type(clauses).__name__}")
        members["constraints"] = tuple([_parse(clause, extensions, depth - 1) for clause in clauses])
    return build(**members)


def _refuse_loose_bounds(members: Mapping[str, Json]) -> None:
    """`null` is not an absent bound, and a switch needs its bound even where it says what holds anyway."""
    for name in ("min", "max"):
        if name in members and members[name] is None:
            raise InvalidInput(f"range.{name} must be a number, found null")
        if f"{name}_inclusive" in members and name not in members:
            raise InvalidInput(f"range.{name}_inclusive stands without range.{name}")


@dataclass(frozen=True, slots=True)
class Entry:
    """One named argument of a tool: its constraint, and whether it may be absent."""

    constraint: Constraint
    optional: bool = False

    def to_json(self) -> dict[str, Json]:
        """The token form, with `optional` only where it is true."""
        result = self.constraint.to_json()
        if self.optional:
            result["optional"] = True
        return result


def parse_entry(obj: Json, *, extensions: bool, max_depth: int = MAX_DEPTH) -> Entry:
    """An entry of an argument map from its token form: a constraint that may also say `optional`."""
    given = as_mapping(obj, "a constraint")
    optional = given.get("optional", False)
    if type(optional) is not bool:
        raise InvalidInput(f"optional must be true or false, found {show(optional)}")
    members = {name: item for name, item in given.items() if name != "optional"}
    return Entry(parse_constraint(members, extensions=extensions, max_depth=max_depth), optional)


@dataclass(frozen=True, slots=True)
class ArgumentFailure:
    """Why a map refuses a call: the argument, what would have passed, and what was there (shortened, or "nothing")."""

    name: str
    required: str
    found: str


class ToolMap:
    """The normalised argument map of a tool: entries by argument name, and whether unnamed arguments are admitted (`rest`, the `*`).

    A map without either cannot be written in a token, where `{}` means "anything" (AAT -02 §3.3): use `NO_ARGUMENTS`.
    """

    __slots__ = ("_plan", "named", "rest")

    named: Mapping[str, Entry]
    rest: bool
    _plan: tuple[tuple[str, Callable[[Frozen], bool], bool], ...]

    def __init__(self, named: Mapping[str, Entry], rest: bool) -> None:
        if "*" in named:
            raise InvalidInput("'*' names no argument", hint="say rest=True for arguments without an entry")
        if not named and not rest:
            raise InvalidInput("an empty argument map would admit every argument", hint="use NO_ARGUMENTS")
        set_ = object.__setattr__
        set_(self, "named", MappingProxyType(dict(named)))
        set_(self, "rest", bool(rest))
        set_(self, "_plan", tuple((name, entry.constraint.check, entry.optional) for name, entry in named.items()))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a ToolMap is frozen: {name} cannot be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a ToolMap is frozen: {name} cannot be deleted")

    def check(self, args: Mapping[str, Frozen]) -> ArgumentFailure | None:
        """None where the map admits `args`, else the first failure: named arguments in the map's order, then unnamed ones. Total."""
        seen = 0
        for name, check, optional in self._plan:
            try:
                value = args[name]
            except KeyError:
                if optional:
                    continue
                return ArgumentFailure(name, self.named[name].constraint.describe(), "nothing")
            if not check(value):
                return ArgumentFailure(name, self.named[name].constraint.describe(), show(value))
            seen += 1
        return None if seen == len(args) else self._check_unnamed(args)

    def _check_unnamed(self, args: Mapping[str, Frozen]) -> ArgumentFailure | None:
        for name, value in args.items():
            if name not in self.named:
                if not self.rest:
                    return ArgumentFailure(name, "no argument of this name", show(value))
                if not admissible(name) or not admissible(value):
                    return ArgumentFailure(name, _WILDCARD.describe(), show(value))
        return None

    def failures(self, args: Mapping[str, Frozen]) -> Iterator[ArgumentFailure]:
        """Every failure, the one that `check` gives first."""
        for name, entry in self.named.items():
            if name not in args:
                if not entry.optional:
                    yield ArgumentFailure(name, entry.constraint.describe(), "nothing")
            elif not entry.constraint.check(args[name]):
                yield ArgumentFailure(name, entry.constraint.describe(), show(args[name]))
        for name in args:
            unnamed = self._check_unnamed({name: args[name]})
            if unnamed is not None:
                yield unnamed

    def to_json(self) -> dict[str, Json]:
        """The token form; `*` is always written out."""
        result: dict[str, Json] = {name: entry.to_json() for name, entry in self.named.items()}
        if self.rest:
            result["*"] = _WILDCARD.to_json()
        return result

    def __eq__(self, other: object) -> bool:
        return type(other) is ToolMap and jcs(self.to_json()) == jcs(other.to_json())

    def __hash__(self) -> int:
        return hash(jcs(self.to_json()))

    def __repr__(self) -> str:
        return f"ToolMap({', '.join([*self.named, '*'] if self.rest else self.named)})"


def parse_tool_map(obj: Json, *, extensions: bool, max_depth: int = MAX_DEPTH) -> ToolMap:
    """A tool's argument map from its token form, normalised: `{}` is the same as `{"*": wildcard}`. InvalidInput where malformed."""
    given = as_mapping(obj, "an argument map")
    named: dict[str, Entry] = {}
    for name, item in given.items():
        if type(name) is not str or not admissible(name):
            raise InvalidInput(f"the argument name {show(name)} is not a string with a UTF-8 form")
        try:
            if name == "*":
                if dict(as_mapping(item, "a constraint")) != {"constraint_type": "wildcard"}:
                    raise InvalidInput("the entry must be a wildcard and nothing else")
            else:
                named[name] = parse_entry(item, extensions=extensions, max_depth=max_depth)
        except InvalidInput as error:
            raise InvalidInput(error.message, place=f"argument {show(name)}", hint=error.hint) from None
    return ToolMap(named, rest="*" in given or not given)


def map_narrows(child: ToolMap, parent: ToolMap, *, profile: bool) -> tuple[str, str] | None:
    """None where every call that `child` admits is one that `parent` admits, else the draft's step and what is wrong (AAT -02 §4.5).

    Between profile links (`profile=True`) constraints compare by `narrows`, and an entry that accepts nothing may have any name.
    """
    compare: Any = narrows if profile else plain_narrows
    for name, entry in child.named.items():
        if name not in parent.named and not parent.rest and not (profile and is_empty(entry.constraint)):
            return ("4p2", f"{show(name)} is not an argument of the parent's map")
    for name, entry in parent.named.items():
        if name not in child.named and (child.rest or not entry.optional):
            return ("4p2", f"{show(name)} is left out, but the parent {'restricts' if entry.optional else 'requires'} it")
    if child.rest and not parent.rest:
        return ("4p2", "'*' is not in the parent's map")
    for name, entry in child.named.items():
        above = parent.named.get(name)
        if above is not None and entry.optional and not above.optional:
            return ("4p3", f"{show(name)} is required by the parent and optional here")
    for name, entry in child.named.items():
        above = parent.named.get(name)
        if above is not None and not compare(entry.constraint, above.constraint):
            return ("4p4", f"{show(name)}: {entry.constraint.describe()} does not stand under {above.constraint.describe()}")
    return None


#: "No arguments", as a token can say it: one optional entry that accepts nothing.
NO_ARGUMENTS: Final = ToolMap({"_": Entry(Range(min=0, max=0, max_inclusive=False), optional=True)}, rest=False)
