"""The text of conditions: how it is read, what may stand where, and the one way in which it is written.

    amount * quantity <= 1000        to != from        len(items) <= 3 and currency in ["EUR", "USD"]        ends_with(to, domain)

Operators from the loosest to the tightest: `or`; `and`; `not`; `== != < <= > >= in`, `not in` (one of them, never a chain); `+ -`; `*`;
the sign `-`. A name is an argument; `order.total` is the member of an object, and `arg("x-y")` or `arg("order", "x-y")` names what is no
identifier. A comparison that asks for no argument is refused: its answer is the same for every call.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from decimal import Decimal
from typing import Final

from agentguard.constraints.values import shorten
from agentguard.errors import InvalidInput
from agentguard.policy.condition_tokens import Token, number_of, string_of, tokens, wrong
from agentguard.policy.condition_tree import (
    FUNCTIONS,
    TEXT_FUNCTIONS,
    WORDS,
    Among,
    Compare,
    Every,
    Has,
    Items,
    Kind,
    Literal,
    Name,
    Negative,
    Node,
    Not,
    Part,
    Product,
    Size,
    Some,
    Sum,
    Term,
    Test,
    Truth,
    factors,
    kind,
    names,
)

MAX_TEXT: Final = 1000
MAX_NESTING: Final = 32
#: Factors of one product, constants included. It bounds the digits of every result, and so what an evaluation can cost.
MAX_FACTORS: Final = 8

_CONSTANTS: Final[dict[str, bool | None]] = {"true": True, "false": False, "null": None}
_COMPARISONS: Final = ("==", "!=", "<", "<=", ">", ">=")


def parse(text: str) -> Test:
    """The condition that `text` is. Raises InvalidInput, whose message ends in the column (from 1)."""
    if type(text) is not str:
        raise InvalidInput(f"a condition is a text, found {type(text).__name__}", hint='for example "amount <= 1000"')
    if len(text) > MAX_TEXT:
        raise InvalidInput(f"the condition has {len(text)} characters", hint=f"at most {MAX_TEXT}; several conditions all hold together")
    return _Parser(text).whole()


class _Parser:
    """Recursive descent. What recurses asks `deeper` first."""

    def __init__(self, text: str) -> None:
        self._tokens = list(tokens(text))
        self._index = 0
        self._depth = 0

    # --- tokens -----------------------------------------------------------------------------------------------------------------------

    @property
    def here(self) -> Token:
        return self._tokens[self._index]

    def ahead(self, *texts: str) -> bool:
        return self._tokens[self._index].mark in texts

    def next(self) -> Token:
        token = self.here
        self._index += token.kind != "end"
        return token

    def take(self, *texts: str) -> bool:
        found = self.ahead(*texts)
        if found:
            self.next()
        return found

    def expect(self, text: str, hint: str | None = None) -> None:
        if not self.take(text):
            raise self.unexpected(repr(text), hint)

    def unexpected(self, wanted: str, hint: str | None = None) -> InvalidInput:
        token = self.here
        found = token.text if token.kind == "end" else ascii(shorten(token.text, 40))
        return wrong(f"expected {wanted}, found {found}", token.column, hint)

    def deeper(self, inner: Callable[[], Node]) -> Node:
        self._depth += 1
        if self._depth > MAX_NESTING:
            raise wrong("nested too deeply", self.here.column, f"at most {MAX_NESTING} levels")
        node = inner()
        self._depth -= 1
        return node

    # --- conditions -------------------------------------------------------------------------------------------------------------------

    def whole(self) -> Test:
        if self.here.kind == "end":
            raise InvalidInput("the condition is empty", hint='for example "amount <= 1000"')
        start = self.here.column
        tree = self.test(self.either(), start)
        if self.here.kind != "end":
            raise self.unexpected("an operator or the end", _after(self.here))
        return tree

    def either(self) -> Node:
        return self.chain("or", self.both, Some)

    def both(self) -> Node:
        return self.chain("and", self.negation, Every)

    def chain(self, word: str, inner: Callable[[], Node], build: Callable[[tuple[Test, ...]], Node]) -> Node:
        start = self.here.column
        first = inner()
        if not self.ahead(word):
            return first
        parts = [self.test(first, start)]
        while self.take(word):
            start = self.here.column
            parts.append(self.test(inner(), start))
        return build(tuple(parts))

    def negation(self) -> Node:
        if not self.take("not"):
            return self.comparison()
        start = self.here.column
        return Not(self.test(self.deeper(self.negation), start))

    def comparison(self) -> Node:
        start = self.here.column
        left = self.sum()
        sign = self.here
        negated = self.take("not")
        if not self.ahead("in", *(() if negated else _COMPARISONS)):
            if negated:
                raise self.unexpected("'in'", "not in is one operator")
            return left
        operator = self.next().text
        where = self.here.column
        right = self.sum()
        if self.ahead(*_COMPARISONS, "in", "not"):
            raise wrong("one comparison follows another", self.here.column, "join them with and: 0 < x and x < 5")
        if operator == "in":
            found = self.among(left, start, right, where)
            return Not(found) if negated else found
        self.comparable(operator, (left, start), (right, where), sign.column)
        return Compare(operator, left, right)  # type: ignore[arg-type]  # both are terms: `comparable` looked

    def among(self, item: Node, start: int, of: Node, where: int) -> Test:
        if not isinstance(of, Items | Name):
            hint = "contains(text, part) looks into strings" if kind(of) == Kind.STRING else 'for example currency in ["EUR", "USD"]'
            raise wrong(f"expected a list behind in, found {kind(of)}", where, hint)
        if kind(item) == Kind.CONDITION or isinstance(item, Items):
            raise wrong(f"expected a value before in, found {kind(item)}", start)
        if isinstance(of, Items) and not of.items:
            raise wrong("nothing is in an empty list", where)
        if isinstance(of, Items) and not _asks(item):
            raise wrong("this is the same whatever the call", start, "name an argument")
        kinds = {kind(each) for each in of.items} if isinstance(of, Items) else {Kind.ANY}
        if kind(item) != Kind.ANY and not kinds & {kind(item), Kind.ANY}:
            raise wrong(f"{kind(item)} is never in this list", start)
        return Among(item, of)  # type: ignore[arg-type]  # a term: it is no condition

    def comparable(self, operator: str, left: tuple[Node, int], right: tuple[Node, int], column: int) -> None:
        for node, where in (left, right):
            if kind(node) == Kind.CONDITION:
                raise wrong(f"{operator} compares values, found a condition", where, "join conditions with and, or, not")
            if operator not in ("==", "!="):
                self.numeric(node, where, f"{operator} compares numbers")
        if not _asks(left[0]) and not _asks(right[0]):
            raise wrong("this is the same whatever the call", column, "name an argument")
        if left[0] == right[0]:
            raise wrong("both sides are the same", column)
        kinds = {kind(left[0]), kind(right[0])}
        if len(kinds) == 2 and Kind.ANY not in kinds:
            raise wrong(f"{kind(left[0])} is never {kind(right[0])}", column)

    def test(self, node: Node, column: int) -> Test:
        if isinstance(node, Name):
            return Truth(node)
        if kind(node) != Kind.CONDITION:
            raise wrong(f"expected a condition, found {kind(node)}", column, "compare it: ==, !=, <, <=, >, >=, in")
        return node  # type: ignore[return-value]  # no term has this kind

    # --- terms ------------------------------------------------------------------------------------------------------------------------

    def sum(self) -> Node:
        start = self.here.column
        first = self.product()
        if not self.ahead("+", "-"):
            return first
        rest: list[tuple[bool, Term]] = []
        head = self.numeric(first, start, f"{self.here.text} takes numbers")
        while self.ahead("+", "-"):
            sign = self.next().text
            start = self.here.column
            rest.append((sign == "+", self.numeric(self.product(), start, f"{sign} takes numbers")))
        return Sum(head, tuple(rest))

    def product(self) -> Node:
        start = column = self.here.column
        first = self.signed()
        if not self.ahead("*"):
            return first
        parts = [self.numeric(first, start, "* takes numbers")]
        while self.take("*"):
            start = self.here.column
            parts.append(self.numeric(self.signed(), start, "* takes numbers"))
        product = Product(tuple(parts))
        if factors(product) > MAX_FACTORS:
            raise wrong(f"a product of more than {MAX_FACTORS} factors", column)
        return product

    def signed(self) -> Node:
        if not self.take("-"):
            return self.value()
        start = self.here.column
        term = self.numeric(self.deeper(self.signed), start, "- takes numbers")
        if not isinstance(term, Literal):
            return Negative(term)
        return Literal(term.value.copy_negate() if isinstance(term.value, Decimal) else -(term.value or 0))  # type: ignore[operator]  # a number

    def numeric(self, node: Node, column: int, why: str) -> Term:
        if kind(node) not in (Kind.NUMBER, Kind.ANY):
            raise wrong(f"{why}, found {kind(node)}", column)
        return node  # type: ignore[return-value]  # no condition has these kinds

    def value(self) -> Node:
        token = self.here
        if token.kind == "number":
            return Literal(number_of(self.next()))
        if token.kind == "string":
            return Literal(string_of(self.next()))
        if self.take("("):
            node = self.deeper(self.either)
            self.expect(")")
            return node
        if self.take("["):
            return self.items()
        if token.kind == "word" and token.text not in ("and", "or", "not", "in"):
            return self.word()
        raise self.unexpected("a value")

    def items(self) -> Items:
        found: list[Literal] = []
        while not self.take("]"):
            if found:
                self.expect(",", "a list ends in ]")
            column = self.here.column
            item = self.deeper(self.signed)
            if not isinstance(item, Literal):
                raise wrong("a list holds constants only", column)
            found.append(item)
        return Items(tuple(found))

    def word(self) -> Node:
        token = self.next()
        if token.text in _CONSTANTS:
            return Literal(_CONSTANTS[token.text])
        if self.ahead("("):
            return self.call(token)
        if token.text in FUNCTIONS:
            raise wrong(f"{token.text} is a function", token.column, f'the argument of this name is written arg("{token.text}")')
        path = [token.text]
        while self.take("."):
            if self.here.kind != "word":
                raise self.unexpected("the name of a member")
            path.append(self.next().text)
        return self.name(path, token)

    # --- functions --------------------------------------------------------------------------------------------------------------------

    def call(self, token: Token) -> Node:
        if token.text not in FUNCTIONS:
            near = difflib.get_close_matches(token.text[:40], FUNCTIONS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(FUNCTIONS)}"
            raise wrong(f"there is no function {shorten(token.text, 40)}", token.column, hint)
        self.expect("(")
        if token.text == "arg":
            return self.arg(token)
        if token.text in TEXT_FUNCTIONS:
            text = self.given(token)
            self.expect(",", f"{token.text} takes two: {token.text}(text, part)")
            part = self.given(token)
            self.expect(")", f"{token.text} takes two: {token.text}(text, part)")
            if isinstance(text, Literal) and isinstance(part, Literal):
                raise wrong("this is the same whatever the call", token.column, "name an argument")
            if text == part:
                raise wrong("both are the same", token.column)
            return Part(token.text, text, part)
        name = self.given(token)
        if not isinstance(name, Name):
            hint = f'{token.text}(x), or {token.text}(arg("x-y")) for what is no identifier'
            raise wrong(f"{token.text} takes the name of an argument, found {kind(name)}", token.column, hint)
        self.expect(")", f"{token.text} takes one")
        return Size(name) if token.text == "len" else Has(name)

    def given(self, token: Token) -> Literal | Name:
        """One value that is handed to a function: no more than a name or a constant, so nothing recurses."""
        if self.here.kind == "string":
            return Literal(string_of(self.next()))
        if self.here.kind == "word" and self.here.text not in WORDS and self.here.text not in (*TEXT_FUNCTIONS, "len", "has"):
            return self.word()  # type: ignore[return-value]  # a name, for these words
        raise self.unexpected("the name of an argument" if token.text in ("len", "has") else "a name or a string")

    def arg(self, token: Token) -> Name:
        path: list[str] = []
        while not path or self.take(","):
            if self.here.kind != "string":
                raise self.unexpected("a string", 'arg("x-y") is the argument of that name, arg("order", "x-y") a member of order')
            path.append(string_of(self.next()))
        self.expect(")")
        return self.name(path, token)

    def name(self, path: list[str], token: Token) -> Name:
        if len(path) > MAX_NESTING:
            raise wrong(f"a name of {len(path)} steps", token.column, f"at most {MAX_NESTING}, as deep as arguments are")
        return Name(tuple(path))


def _after(token: Token) -> str | None:
    lower = token.text.lower()
    if token.text != lower and lower in WORDS:
        return f"write {lower} in small letters"
    return {
        ".": 'a member is written arg("order", "x-y")',
        ")": "it closes nothing",
        "]": "it closes nothing",
        ",": "several conditions stand in a list of their own",
    }.get(token.text)


def _asks(node: Node) -> bool:
    """Whether it depends on the call."""
    return next(names(node), None) is not None
