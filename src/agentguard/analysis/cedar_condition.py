"""Conditions over arguments (`where`) in Cedar's words: exactly, or not at all.

A condition holds, fails, or meets an error, which fails it wherever it stands (`agentguard.policy.conditions`). So each part is translated
twice: when it holds, and when it is false without an error. `not` changes the one for the other, and what is neither makes both untrue.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from agentguard.analysis.cedar_facts import compared, equal
from agentguard.analysis.cedar_text import Inexpressible, both, either, has, like, member, not_
from agentguard.canonical import is_admissible
from agentguard.policy.condition_tree import Among, Compare, Every, Has, Items, Literal, Name, Not, Part, Some, Test, Truth
from agentguard.policy.conditions import Condition

_LONGEST: Final = 50_000
_MIRRORED: Final = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_CONTRARY: Final = {"<": ">=", "<=": ">", ">": "<=", ">=": "<"}


def holds(condition: Condition, arguments: str) -> str:
    """When a condition over the facts in the record `arguments` holds. Raises Inexpressible."""
    return _Translation(arguments).both_ways(condition.tree)[0]


class _Translation:
    """The parts of one condition, each as when it holds and when it is false."""

    def __init__(self, arguments: str) -> None:
        self._arguments = arguments

    def both_ways(self, test: Test) -> tuple[str, str]:
        if isinstance(test, Not):
            true, false = self.both_ways(test.part)
            return false, true
        if isinstance(test, Every):
            false, true = self._first([self.both_ways(part)[::-1] for part in test.parts])
            return true, false
        if isinstance(test, Some):
            return self._first([self.both_ways(part) for part in test.parts])
        if isinstance(test, Has):
            there = self._there(test.name)
            return there, not_(there)
        if isinstance(test, Truth):
            return self._among(test.name, [True]), self._among(test.name, [False])
        if isinstance(test, Among) and isinstance(test.of, Items) and isinstance(test.item, Name):
            return self._either_way(test.item, self._among(test.item, [self._constant(item) for item in test.of.items]))
        if isinstance(test, Part):
            return self._part(test)
        if isinstance(test, Compare):
            return self._compare(test)
        raise Inexpressible("it is not translated")

    def _first(self, parts: list[tuple[str, str]]) -> tuple[str, str]:
        """One after the other, and the first that is so ends it: what stands before it is not so, without an error."""
        ways, before = [], list[str]()
        for is_so, is_not in parts:
            ways.append(both((*before, is_so)))
            before.append(is_not)
        if sum(map(len, ways)) > _LONGEST:  # nested ones grow with each level
            raise Inexpressible("it grows too long when it is written out")
        return either(ways), both(before)

    def _there(self, name: Name) -> str:
        if len(name.path) != 1:
            raise Inexpressible("a member of an argument is not told")
        return has(self._arguments, name.path[0])

    def _at(self, name: Name) -> str:
        self._there(name)
        return member(self._arguments, name.path[0])

    def _either_way(self, name: Name, test: str) -> tuple[str, str]:
        """A test that has an answer for every value: only a missing argument is an error."""
        return test, both((self._there(name), not_(test)))

    def _among(self, name: Name, values: list[object]) -> str:
        return both((self._there(name), equal(self._at(name), values)))

    def _constant(self, term: Literal) -> object:
        if isinstance(term.value, int | Decimal) and not isinstance(term.value, bool) and not is_admissible(str(term.value)):
            raise Inexpressible("no JSON number is equal to it")
        return float(term.value) if isinstance(term.value, Decimal) else term.value

    def _part(self, test: Part) -> tuple[str, str]:
        if not isinstance(test.text, Name) or not isinstance(test.part, Literal):
            raise Inexpressible("`like` of Cedar knows constants only")
        at, part = self._at(test.text), str(test.part.value)
        parts = {"starts_with": (part, ""), "ends_with": ("", part), "contains": ("", part, "")}[test.function]
        text, fits = both((self._there(test.text), has(at, "text"))), f"{at}.text.value like {like(*parts)}"
        return both((text, fits)), both((text, not_(fits)))

    def _compare(self, test: Compare) -> tuple[str, str]:
        left, sign, right = test.left, test.operator, test.right
        if isinstance(left, Literal) and isinstance(right, Name):
            left, sign, right = right, _MIRRORED.get(sign, sign), left
        if not isinstance(left, Name) or not isinstance(right, Name | Literal):
            raise Inexpressible("calculations are not translated")
        if sign in ("==", "!="):
            is_so, is_not = self._same(left, right)
            return (is_so, is_not) if sign == "==" else (is_not, is_so)
        if isinstance(right, Name) or isinstance(right.value, bool | str | None):
            raise Inexpressible("Cedar is told between which numbers an argument lies, and not which number it is")
        at = self._at(left)
        number = both((self._there(left), has(at, "number")))
        return tuple(both((number, compared(at, way, right.value))) for way in (sign, _CONTRARY[sign]))  # type: ignore[return-value]  # two

    def _same(self, left: Name, right: Name | Literal) -> tuple[str, str]:
        if isinstance(right, Literal):
            return self._either_way(left, self._among(left, [self._constant(right)]))
        one, other, there = self._at(left), self._at(right), both((self._there(left), self._there(right)))
        same = either(
            both((has(one, fact), has(other, fact), f"{one}.{fact}{inner} == {other}.{fact}{inner}"))
            for fact, inner in (("text", ".value"), ("json", ""))
        )
        return both((there, same)), both((there, not_(same)))
