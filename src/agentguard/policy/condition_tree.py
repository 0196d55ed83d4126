"""Conditions as trees: their nodes, what is known of a node, and the one way in which it is written."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from enum import StrEnum
from typing import Final, TypeAlias

import msgspec

from agentguard.canonical import number


class Literal(msgspec.Struct, frozen=True):
    """A constant: str, bool, None, or an exact number (int, or Decimal where it has a fraction)."""

    value: str | bool | int | Decimal | None


class Items(msgspec.Struct, frozen=True):
    """A list of constants."""

    items: tuple[Literal, ...]


class Name(msgspec.Struct, frozen=True):
    """An argument, or a member of one: the steps that lead there."""

    path: tuple[str, ...]


class Size(msgspec.Struct, frozen=True):
    """`len(x)`."""

    of: Name


class Sum(msgspec.Struct, frozen=True):
    """The first term and what is added (True) or taken away."""

    first: Term
    rest: tuple[tuple[bool, Term], ...]


class Product(msgspec.Struct, frozen=True):
    factors: tuple[Term, ...]


class Negative(msgspec.Struct, frozen=True):
    of: Term


class Compare(msgspec.Struct, frozen=True):
    """`==`, `!=`, `<`, `<=`, `>` or `>=`."""

    operator: str
    left: Term
    right: Term


class Among(msgspec.Struct, frozen=True):
    """`item in of`: an element of a list of constants, or of an argument that is an array."""

    item: Term
    of: Items | Name


class Part(msgspec.Struct, frozen=True):
    """`starts_with`, `ends_with` or `contains`: of two strings."""

    function: str
    text: Literal | Name
    part: Literal | Name


class Has(msgspec.Struct, frozen=True):
    """Whether an argument, or a member of one, is there."""

    name: Name


class Truth(msgspec.Struct, frozen=True):
    """An argument that is itself true or false."""

    name: Name


class Every(msgspec.Struct, frozen=True):
    """All hold; the first one that does not ends the evaluation."""

    parts: tuple[Test, ...]


class Some(msgspec.Struct, frozen=True):
    """One holds; the first one that does ends the evaluation."""

    parts: tuple[Test, ...]


class Not(msgspec.Struct, frozen=True):
    part: Test


Term: TypeAlias = Literal | Items | Name | Size | Sum | Product | Negative
Test: TypeAlias = Compare | Among | Part | Has | Truth | Every | Some | Not
Node: TypeAlias = Term | Test

TEXT_FUNCTIONS: Final = ("starts_with", "ends_with", "contains")
FUNCTIONS: Final = ("len", "has", "arg", *TEXT_FUNCTIONS)
WORDS: Final = ("and", "or", "not", "in", "true", "false", "null")
RESERVED: Final = frozenset({*FUNCTIONS, *WORDS})
_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Kind(StrEnum):
    """What a node is, as errors say it."""

    ANY = "an argument"
    NUMBER = "a number"
    STRING = "a string"
    LIST = "a list"
    BOOLEAN = "a boolean"
    NULL = "null"
    CONDITION = "a condition"


# --- what is known of a part ------------------------------------------------------------------------------------------------------------


def kind(node: Node) -> Kind:
    """What it is. `Kind.ANY` is known when it is evaluated only."""
    if isinstance(node, Name):
        return Kind.ANY
    if isinstance(node, Size | Sum | Product | Negative):
        return Kind.NUMBER
    if isinstance(node, Items):
        return Kind.LIST
    if not isinstance(node, Literal):
        return Kind.CONDITION
    if node.value is None:
        return Kind.NULL
    return Kind.STRING if type(node.value) is str else Kind.BOOLEAN if type(node.value) is bool else Kind.NUMBER


def factors(term: Term) -> int:
    """How many numbers may be multiplied with one another in it."""
    if isinstance(term, Product):
        return sum(map(factors, term.factors))
    if isinstance(term, Sum):
        return max(factors(term.first), *(factors(part) for _, part in term.rest))
    return factors(term.of) if isinstance(term, Negative) else 1


def names(node: Node) -> Iterator[Name]:
    """Every name in it, from left to right."""
    if isinstance(node, Name):
        yield node
    else:
        for part in parts(node):
            yield from names(part)


def parts(node: Node) -> tuple[Node, ...]:
    """The nodes right below it, from left to right."""
    if isinstance(node, Every | Some):
        return node.parts
    if isinstance(node, Not):
        return (node.part,)
    if isinstance(node, Compare):
        return (node.left, node.right)
    if isinstance(node, Among):
        return (node.item, node.of)
    if isinstance(node, Part):
        return (node.text, node.part)
    if isinstance(node, Has | Truth):
        return (node.name,)
    if isinstance(node, Sum):
        return (node.first, *(part for _, part in node.rest))
    if isinstance(node, Product):
        return node.factors
    if isinstance(node, Items):
        return node.items
    return (node.of,) if isinstance(node, Size | Negative) else ()


# --- how it is written ------------------------------------------------------------------------------------------------------------------


def write(node: Node) -> str:
    """The one text of a condition or a part of one: `write(parse(write(parse(text))))` is `write(parse(text))`. ASCII."""
    if isinstance(node, Literal):
        return _constant(node.value)
    if isinstance(node, Items):
        return f"[{', '.join(map(write, node.items))}]"
    if isinstance(node, Name):
        plain = all(map(_IDENTIFIER.fullmatch, node.path)) and node.path[0] not in RESERVED
        return ".".join(node.path) if plain else f"arg({', '.join(map(_constant, node.path))})"
    if isinstance(node, Size):
        return f"len({write(node.of)})"
    if isinstance(node, Sum):
        rest = "".join(f" {'+' if plus else '-'} {_inside(part, Sum)}" for plus, part in node.rest)
        return _inside(node.first, Sum) + rest
    if isinstance(node, Product):
        return " * ".join(_inside(factor, Sum | Product) for factor in node.factors)
    if isinstance(node, Negative):
        return "-" + _inside(node.of, Sum | Product)
    if isinstance(node, Compare):
        return f"{write(node.left)} {node.operator} {write(node.right)}"
    if isinstance(node, Among):
        return f"{write(node.item)} in {write(node.of)}"
    if isinstance(node, Part):
        return f"{node.function}({write(node.text)}, {write(node.part)})"
    if isinstance(node, Has):
        return f"has({write(node.name)})"
    if isinstance(node, Truth):
        return write(node.name)
    if isinstance(node, Not):
        if isinstance(node.part, Among):
            return f"{write(node.part.item)} not in {write(node.part.of)}"
        return f"not {_inside(node.part, Every | Some | Compare)}"
    word = " and " if isinstance(node, Every) else " or "
    return word.join(_inside(part, Every | Some) for part in node.parts)


def _inside(node: Node, kinds: object) -> str:
    return f"({write(node)})" if isinstance(node, kinds) else write(node)  # type: ignore[arg-type]  # classes


def _constant(value: str | bool | int | Decimal | None) -> str:
    if type(value) is int or type(value) is Decimal:
        return number(float(value))
    # ASCII: whoever reads it sees look-alikes, and it is the same with every version of Unicode.
    return json.dumps(value).replace("\x7f", "\\u007f")
