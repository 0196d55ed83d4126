"""Constraints as formulas: what contains what, proven or refuted by z3 alone, and what stays unknown."""

from __future__ import annotations

import builtins
import sys
from typing import Any

import pytest

from agentguard.constraints.rules import parse_rule
from agentguard.constraints.vocabulary import Constraint
from agentguard.errors import InvalidInput

pytest.importorskip("z3", reason="z3 belongs to the prove extra")

from agentguard.analysis.formulas import ANYTHING, Both, Either, Found, Not, Nothing, Unknown, holds
from agentguard.analysis.regular import Untranslatable, read_re2
from agentguard.analysis.search import Search, find, load_z3

Rule = Any


def rule(written: Rule) -> Constraint:
    return parse_rule(written).constraint


def beyond(child: Rule, parent: Rule) -> Any:
    """A value that the child accepts and the parent refuses, from z3 and not from a list of likely ones."""
    return find(Both((rule(child), Not(rule(parent)))), guess=False)


URL = {"hosts": ["a.org"]}
INSIDE = [
    ({"range": {"min": 1, "max": 50}}, {"range": {"min": 1, "max": 50.5}}),
    ({"range": {"min": 1, "min_inclusive": False}}, {"not_one_of": [1]}),
    ({"exact": 1}, {"one_of": [1.0, "x"]}),
    ({"one_of": ["a", None, [1, 2]]}, {"not_one_of": ["b", [1], {"a": 1}]}),
    ({"path": "/srv/drafts", "regex": ".*\\.md"}, {"path": "/srv"}),
    ({"path": "/srv"}, {"regex": "/srv(/[^/]+)*/?"}),
    ({"path": "/srv"}, {"not_one_of": ["/srv/..", "/srv//a", "/srv/\u202e", "/etc/passwd"]}),
    ({"url": {"hosts": ["*.wikipedia.org", "arxiv.org"]}}, {"url": {"hosts": ["*.org"]}}),
    ({"url": {**URL, "path": "/x/y"}}, {"url": {**URL, "path": "/x"}}),
    ({"url": {**URL, "path": "/x"}}, {"url": URL}),
    ({"url": {**URL, "ports": [8000]}}, {"url": {**URL, "ports": [8000, 443]}}),
    ({"url": URL}, {"regex": "https://.*"}),
    ({"url": URL}, {"max_length": 8192}),
    ({"email": {"domains": ["a.example.com"]}}, {"email": {"domains": ["*.example.com"]}}),
    ({"email": {"domains": ["example.com"]}}, {"regex": "[^@]*@example\\.com"}),
    ({"email": {"domains": ["example.com"]}}, {"max_length": 254}),
    ({"path": "/srv"}, {"max_length": 4096}),
    ({"regex": "(?i:a)b"}, {"regex": "[aA]b"}),
    ({"exact": "\0"}, {"regex": "\\x{0}"}),
    ({"regex": "\\x{0}"}, {"exact": "\0"}),
    ({"regex": "T-[0-9]{1,8}"}, {"max_length": 10}),
    ({"regex": "T-[0-9]{1,8}"}, {"glob": "T-*"}),
    ({"glob": "reports/*.csv"}, {"regex": "reports/[^/]*\\.csv"}),
    ({"regex": "(?i)select [a-z ,*]*"}, {"regex": "[^;]*"}),
    ({"regex": "[\\x{30000}-\\x{40000}]"}, {"min_length": 1, "max_length": 1}),
    ({"cidr": "10.1.0.0/16"}, {"cidr": "10.0.0.0/8"}),
    ({"cidr": "10.0.0.0/9"}, {"regex": "10\\.[0-9.]*"}),
    ({"cidr": "fd00::/16"}, {"cidr": "fd00::/8"}),
    ({"cidr": "fd00::/8"}, {"all": [{"not_one_of": ["fe80::1", "10.0.0.1"]}, {"max_length": 39}]}),
    ({"subset": ["a", "b"]}, {"subset": ["a", "b", "c"]}),
    ({"contains": ["a", "b"]}, {"contains": ["a"]}),
    ({"subset": []}, {"one_of": [[], "x"]}),
    ({"type": "integer"}, {"type": "number"}),
    ({"regex": "a\\bb"}, {"any": [{"regex": "a\\bb"}, {"exact": "c"}]}),
]
OUTSIDE = [
    ({"range": {"min": 1, "max": 50.5}}, {"range": {"min": 1, "max": 50}}),
    ({"range": {"min": 0, "max": 1, "max_inclusive": False}}, {"range": {"min": 0, "max": 0.9999999999999998}}),
    ({"exact": True}, {"exact": 1}),
    ({"type": "number"}, {"type": "integer"}),
    ("any", {"not_one_of": [[], {}]}),
    ({"contains": ["a"]}, {"not_one_of": [["a"]]}),
    ({"contains": ["a"]}, {"any": [{"subset": ["a"]}, {"contains": ["b"]}]}),
    ({"path": "/srv"}, {"path": "/srv/drafts"}),
    ({"url": {"hosts": ["*.org"]}}, {"url": {"hosts": ["*.wikipedia.org", "arxiv.org"]}}),
    ({"url": {**URL, "schemes": ["https", "http"]}}, {"url": URL}),
    ({"url": {**URL, "ports": [443, 8443]}}, {"url": URL}),
    ({"regex": "https://a.org/.*"}, {"url": URL}),
    ({"email": {"domains": ["*.example.com"]}}, {"email": {"domains": ["a.example.com"]}}),
    ({"regex": ".*@example\\.com"}, {"email": {"domains": ["example.com"]}}),
    ({"regex": "T-[0-9]{1,8}"}, {"max_length": 9}),
    ({"glob": "*"}, {"regex": "[^/\\n]*"}),
    ({"regex": ".*\\.md$"}, {"path": "/"}),
    ({"cidr": "10.0.0.0/8"}, {"cidr": "10.1.0.0/16"}),
    ({"regex": "[^\\x{0}-\\x{2FFFF}]"}, {"exact": "a"}),
]


@pytest.mark.parametrize(("child", "parent"), INSIDE)
def test_what_lies_inside_is_proven(child: Rule, parent: Rule) -> None:
    assert beyond(child, parent) == Nothing()


@pytest.mark.parametrize(("child", "parent"), OUTSIDE)
def test_what_lies_outside_is_found(child: Rule, parent: Rule) -> None:
    answer = beyond(child, parent)
    assert isinstance(answer, Found)
    assert rule(child).check(answer.value)
    assert not rule(parent).check(answer.value)


@pytest.mark.parametrize(
    ("written", "inside", "outside"),
    [
        ({"email": {"domains": ["a.org"]}}, "b" * 64 + "@a.org", "b" * 65 + "@a.org"),
        ({"email": {"domains": ["*.a.org"]}}, "b@" + "c" * 63 + ".a.org", "b@" + "c" * 64 + ".a.org"),
        ({"url": {"hosts": ["*.a.org"]}}, "https://" + "c" * 63 + ".a.org", "https://" + "c" * 64 + ".a.org"),
        ({"path": "/srv"}, "/srv/" + "a" * 4091, "/srv/" + "a" * 4092),
        ({"url": {**URL, "path": "/x"}}, "https://a.org/x/" + "a" * 4093, "https://a.org/x/" + "a" * 4094),
        ({"url": {**URL, "path": "/"}}, "https://a.org", "https://a.org?x"),
        ({"url": {**URL, "path": "/x"}}, "https://a.org/x?;%41", "https://a.org/x;?"),
        ({"cidr": "fd00::/8"}, "fd00::1", "fd00:0::1"),
    ],
)
def test_the_limits_of_constraints_are_those_of_their_formulas(written: Rule, inside: str, outside: str) -> None:
    leaf = rule(written)
    assert leaf.check(inside)
    assert not leaf.check(outside)
    for text, formula in ((inside, leaf), (outside, Not(leaf))):
        here = rule({"exact": text})
        assert find(Both((here, formula)), guess=False) == Found(text)
        assert find(Both((here, Not(formula))), guess=False) == Nothing()


@pytest.mark.parametrize(
    "written",
    [
        {"all": [{"range": {"min": 0.1, "max": 0.9}}, {"type": "integer"}]},
        {"all": [{"range": {"min": 1, "max": 1.0000000000000002}}, {"not_one_of": [1, 1.0000000000000002]}]},
        {"all": [{"subset": ["a"]}, {"contains": ["b"]}]},
        {"all": [{"cidr": "fd00::/8"}, {"cidr": "fe80::/10"}]},
        {"all": [{"cidr": "fd00::/8"}, {"cidr": "10.0.0.0/8"}]},
        {"all": [{"regex": "a\\bb"}, {"type": "number"}]},
        {"all": [{"url": URL}, {"email": {"domains": ["a.org"]}}]},
        {"all": [{"regex": "[a-z]{3,64}"}, {"min_length": 65}]},
        {"all": [{"glob": "?"}, {"exact": "."}]},
        {"all": [{"type": "array"}, {"subset": []}, {"not_one_of": [[]]}]},
    ],
)
def test_what_nothing_satisfies_is_proven_empty(written: Rule) -> None:
    assert find(rule(written), guess=False) == Nothing()


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ({"all": [{"regex": "a\\bb"}, {"not_one_of": ["b"]}]}, "the word boundary"),
        ({"all": [{"regex": "(a|b^)c"}, {"min_length": 1}]}, "inside the pattern"),
        ({"all": [{"cidr": "fd00::/8"}, {"not_one_of": ["fd00::"]}]}, "IPv6"),
    ],
)
def test_what_is_not_translated_is_unknown_and_says_why(written: Rule, why: str) -> None:
    answer = find(rule(written), guess=False)
    assert isinstance(answer, Unknown)
    assert why in answer.why


def test_what_is_not_translated_may_still_be_found_among_likely_values() -> None:
    answer = find(rule({"all": [{"cidr": "fd00::/8"}, {"not_one_of": ["fd00::"]}]}))
    assert isinstance(answer, Found)


def test_limits_give_unknown_and_never_an_answer() -> None:
    contrary = Both((rule({"path": "/srv/a"}), Not(rule({"path": "/srv"}))))
    assert Search(steps=0).find(contrary) == Unknown("the limit of this property is used up")
    assert Search(seconds=0).find(contrary) == Unknown("the limit of this property is used up")
    few = Search(steps=50).find(contrary)
    assert isinstance(few, Unknown)
    assert "limits" in few.why
    assert Search().find(contrary) == Nothing()


def test_steps_are_shared_by_the_questions_of_a_search_and_answers_are_kept() -> None:
    search = Search(guess=False)
    before = search.steps
    first = search.find(rule({"regex": "ab+"}))
    assert search.steps < before
    assert search.asked == 1
    assert search.find(rule({"regex": "ab+"})) == first
    assert search.asked == 1


def test_a_constraint_of_an_unknown_type_is_unknown() -> None:
    class Odd(type(ANYTHING)):  # type: ignore[misc]
        kind = "odd"

        def to_json(self) -> dict[str, Any]:
            return {"constraint_type": "odd"}

        check = staticmethod(lambda value: False)

    assert find(Odd(), guess=False) == Unknown("constraints of type odd are not translated")


def test_formulas_hold_as_their_constraints_say() -> None:
    small, text = rule({"range": {"max": 3}}), rule({"type": "string"})
    assert holds(Either((small, text)), "x")
    assert not holds(Both((small, text)), "x")
    assert holds(Not(small), "x")
    assert not holds(Not(small), 1)
    assert not holds(Not(small), float("nan")), "what is no JSON is no value at all"


def test_too_many_arrays_as_constants_are_refused_not_waited_for() -> None:
    answer = find(rule({"not_one_of": [[number] for number in range(400)]}), guess=False)
    assert isinstance(answer, Unknown)
    assert "too many" in answer.why


def test_without_z3_there_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "z3")
    real = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name == "z3":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(InvalidInput, match=r"pip install 'agentguard\[prove\]'"):
        load_z3()


@pytest.mark.parametrize("pattern", ["a\\bb", "\\C", "(a|b^)c", "a$b", "(?m)^a", "(^)*a", "(" * 490 + "a" + ")" * 490])
def test_patterns_that_are_not_read_say_so(pattern: str) -> None:
    with pytest.raises(Untranslatable):
        read_re2(pattern)
