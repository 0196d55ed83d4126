"""Conditions a second time, for comparison: Python's own parser reads the text, a walk over its tree judges it with fractions.

Nothing is shared with `agentguard.policy.conditions`: where both agree, reading, precedence, arithmetic, equality and errors are what two
designs make of one description. It reads every condition but those with members named like a word of Python (`order.in`).
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

CONSTANTS = {"true": True, "false": False, "null": None}
NOTHING = object()


class Error(Exception):
    """The condition fails because something in it has no answer."""


def holds(text: str, arguments: Mapping[str, Any]) -> bool:
    """Whether the condition holds for these arguments; an error is a no."""
    try:
        return judge(ast.parse(" ".join(text.split("\n")).strip(), mode="eval").body, arguments)
    except Error:
        return False


def judge(node: ast.expr, arguments: Mapping[str, Any]) -> bool:
    match node:
        case ast.BoolOp(op=ast.And()):
            return all(judge(part, arguments) for part in node.values)
        case ast.BoolOp(op=ast.Or()):
            return any(judge(part, arguments) for part in node.values)
        case ast.UnaryOp(op=ast.Not()):
            return not judge(node.operand, arguments)
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            return compare(op, left, right, arguments)
        case ast.Call(func=ast.Name(id="has"), args=[name]):
            return reach(name, arguments) is not NOTHING
        case ast.Call(func=ast.Name(id="starts_with" | "ends_with" | "contains" as function), args=[text, part]):
            whole, piece = string(text, arguments), string(part, arguments)
            count = len(piece)
            places = {"starts_with": [0], "ends_with": [len(whole) - count], "contains": range(len(whole) - count + 1)}[function]
            return any(place >= 0 and whole[place : place + count] == piece for place in places)
        case _:
            found = reach(node, arguments)
            if found is not True and found is not False:
                raise Error
            return found is True


def compare(op: ast.cmpop, left: ast.expr, right: ast.expr, arguments: Mapping[str, Any]) -> bool:
    if isinstance(op, ast.In | ast.NotIn):
        wanted, items = plain(left, arguments), plain(right, arguments)
        if items[0] != "array":
            raise Error
        return (wanted in items[1]) is isinstance(op, ast.In)
    if isinstance(op, ast.Eq | ast.NotEq):
        return (plain(left, arguments) == plain(right, arguments)) is isinstance(op, ast.Eq)
    difference = number(left, arguments) - number(right, arguments)
    if isinstance(op, ast.Lt | ast.GtE):
        return (difference < 0) is isinstance(op, ast.Lt)
    return (difference > 0) is isinstance(op, ast.Gt)


def number(node: ast.expr, arguments: Mapping[str, Any]) -> Fraction:
    match node:
        case ast.UnaryOp(op=ast.USub()):
            return -number(node.operand, arguments)
        case ast.BinOp(left=left, op=op, right=right):
            one, other = number(left, arguments), number(right, arguments)
            return one * other if isinstance(op, ast.Mult) else one + other if isinstance(op, ast.Add) else one - other
        case ast.Call(func=ast.Name(id="len"), args=[name]):
            value = there(name, arguments)
            if isinstance(value, str):
                shape(value)
            if not isinstance(value, str | list | tuple | Mapping):
                raise Error
            return Fraction(len(value))
    kind, value = plain(node, arguments)
    if kind != "number":
        raise Error
    return Fraction(value)


def string(node: ast.expr, arguments: Mapping[str, Any]) -> str:
    kind, value = plain(node, arguments)
    if kind != "string":
        raise Error
    return str(value)


def plain(node: ast.expr, arguments: Mapping[str, Any]) -> tuple[str, Any]:
    """A value as (kind, what tells it from others of its kind)."""
    match node:
        case ast.Constant(value=str() as text):
            return ("string", text.encode("utf-16-le", "surrogatepass").decode("utf-16-le"))
        case ast.Constant(value=value):
            return shape(value)
        case ast.Name(id=word) if word in CONSTANTS:
            return shape(CONSTANTS[word])
        case ast.List(elts=items):
            return ("array", tuple(plain(item, arguments) for item in items))
        case ast.UnaryOp() | ast.BinOp():
            return ("number", number(node, arguments))
        case ast.Call(func=ast.Name(id="len")):
            return ("number", number(node, arguments))
        case _:
            return shape(there(node, arguments))


def shape(value: Any) -> tuple[str, Any]:
    if value is None or isinstance(value, bool):
        return ("word", str(value))
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Error from None
        return ("string", value)
    if isinstance(value, float):
        try:
            return ("number", Fraction(repr(value)))
        except ValueError:
            raise Error from None  # nan, inf
    if isinstance(value, int):
        try:
            printed = Fraction(repr(float(value)))
        except OverflowError:
            raise Error from None
        if printed != value:
            raise Error
        return ("number", printed)
    if isinstance(value, list | tuple):
        return ("array", tuple(map(shape, value)))
    return ("object", frozenset((shape(name), shape(member)) for name, member in value.items()))


def there(node: ast.expr, arguments: Mapping[str, Any]) -> Any:
    value = reach(node, arguments)
    if value is NOTHING:
        raise Error
    return value


def reach(node: ast.expr, arguments: Mapping[str, Any]) -> Any:
    match node:
        case ast.Name(id=name):
            return arguments.get(name, NOTHING)
        case ast.Attribute(value=inner, attr=name):
            return member(reach(inner, arguments), name)
        case ast.Call(func=ast.Name(id="arg"), args=names):
            found: Any = arguments
            for name in names:
                found = member(found, str(ast.literal_eval(name)))
            return found
    raise AssertionError(ast.dump(node))


def member(value: Any, name: str) -> Any:
    if value is NOTHING:
        return NOTHING
    if not isinstance(value, Mapping):
        raise Error
    return value.get(name, NOTHING)
