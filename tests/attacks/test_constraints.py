"""Attacks on constraints, one test a row of the pitfalls: what a check or a comparison must not be talked into."""

from __future__ import annotations

import os
import subprocess
import sys
import unicodedata
from typing import Any

import pytest

from agentguard import canonical
from agentguard.constraints.rules import parse_rule
from agentguard.constraints.tokens import Constraint, ToolMap, narrows, parse_constraint, plain_narrows
from agentguard.errors import InvalidInput


def rule(node: Any) -> Constraint:
    return parse_rule(node).constraint


# --- numbers ---


def test_booleans_are_not_numbers() -> None:
    assert not rule({"range": {"max": 5}}).check(True)
    assert not rule({"one_of": [1, 0]}).check(True)
    assert not rule({"exact": 1}).check(True)
    assert not rule({"type": "integer"}).check(True)
    assert not rule({"subset": [1]}).check([True])
    assert rule({"not_one_of": [1]}).check(True)
    assert not rule({"not_one_of": [True]}).check(True)


def test_subclasses_that_lie_about_themselves_are_refused() -> None:
    class Lies(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return hash("a")

        def startswith(self, *_: object) -> bool:
            return True

    class Small(int):
        def __le__(self, other: object) -> bool:
            return True

        __ge__ = __le__

    texts: list[Any] = [
        {"exact": "a"},
        {"one_of": ["a"]},
        {"not_one_of": ["b"]},
        {"path": "/srv"},
        {"regex": ".*"},
        "any",
        {"type": "string"},
    ]
    assert not any(rule(node).check(Lies("evil")) for node in texts)
    numbers: list[Any] = [{"range": {"max": 5}}, "any", {"type": "integer"}, {"exact": 10**6}]
    assert not any(rule(node).check(Small(10**6)) for node in numbers)


def test_numbers_that_collide_after_rounding_are_refused() -> None:
    nodes: list[Any] = ["any", {"range": {}}, {"not_one_of": [5]}, {"type": "number"}]
    for text in ("9007199254740993", "1.00000000000000001", "1e400", "1e-400", "-1e999999999999", "1" * 400):
        value = canonical.parse(text)
        assert not any(rule(node).check(value) for node in nodes)
        assert not rule("any").check({"deep": [[value]]})
        with pytest.raises(InvalidInput):
            parse_constraint({"constraint_type": "not_one_of", "excluded": [[{"x": value}]]}, extensions=False)
    assert not rule("any").check(2**53 + 1)


def test_one_number_in_two_spellings_cannot_pass_an_exclusion() -> None:
    excluded = rule({"not_one_of": [1e23]})
    assert not excluded.check(10**23)
    assert not excluded.check(1e23)
    assert not rule({"not_one_of": [[1]]}).check([1.0])
    assert not rule({"not_one_of": [{"a": 1, "b": 2}]}).check({"b": 2.0, "a": 1.0})


def test_text_is_not_coerced() -> None:
    assert not rule({"range": {"max": 5}}).check("5")
    assert not rule({"exact": "5"}).check(5)
    assert not rule({"max_length": 5}).check(["a"])
    assert not rule({"regex": "[0-9]+"}).check(5)


def test_infinities_and_not_a_number_are_in_no_range() -> None:
    nodes: list[Any] = [{"range": {}}, {"range": {"min": 0}}, {"not_one_of": []}, "any"]
    for value in (float("nan"), float("inf"), float("-inf")):
        assert not any(rule(node).check(value) for node in nodes)


# --- paths ---

PATHS = [
    "/srv/tickets/../../etc/passwd",
    "/srv/tickets/..",
    "/srv/tickets/./x",
    "/srv/tickets/.",
    "/srv/tickets//x",
    "//srv/tickets/x",
    "/srv/tickets/%2e%2e/x",
    "/srv/tickets/%2E%2E%2fx",
    "/srv/tickets/x\0.txt",
    "/srv/tickets\\..\\x",
    "/srv/tickets/x\n",
    "/srv/tickets/\u202etxt.exe",
    "/srv/tickets/\ud800",
    "/srv/tickets-old/x",
    "/srv/ticketsx",
    "/srv/Tickets/x",
    "/ѕrv/tickets/x",
    "srv/tickets/x",
    "./srv/tickets/x",
    "~/srv/tickets",
    " /srv/tickets/x",
    "file:///srv/tickets/x",
    "/srv/tickets/" + "x" * 4096,
    "",
    "/",
]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: ascii(path)[:40])
def test_paths_out_of_the_root(path: str) -> None:
    assert not rule({"path": "/srv/tickets"}).check(path)


def test_globs_do_not_cross_components() -> None:
    glob = rule({"glob": "/srv/*/notes.txt"})
    assert glob.check("/srv/a/notes.txt")
    for path in ("/srv/a/b/notes.txt", "/srv/notes.txt", "/srv/../notes.txt", "/srv/./notes.txt", "/srv/a/notes.txt\n", "/srv/a/notesxtxt"):
        assert not glob.check(path)
    assert not rule({"glob": "[a-z]?"}).check("ab")


# --- addresses ---

URLS = [
    "https://user@example.com/api",
    "https://user:pw@example.com/api",
    "https://example.com@evil.test/api",
    "https://example.com:443@evil.test/api",
    "https://exam\tple.com/api",
    "https://example.com\n/api",
    " https://example.com/api",
    "https://example.com/api ",
    "https://example.com\\@evil.test/api",
    "https:\\\\example.com/api",
    "https:/example.com/api",
    "https:example.com/api",
    "//example.com/api",
    "HTTPS://example.com/api",
    "https://EXAMPLE.com/api",
    "https://еxample.com/api",
    "https://example。com/api",
    "https://example.com./api",
    "https://.example.com/api",
    "https://a..example.org/api",
    "https://-a.example.org/api",
    "https://example.org/api",
    "https://badexample.org/api",
    "https://example.com.evil.test/api",
    "https://exa%6dple.com/api",
    "https://2130706433/api",
    "https://0x7f.1/api",
    "https://127.1/api",
    "https://127.0.0.1/api",
    "https://0177.0.0.1/api",
    "https://[::1]/api",
    "https://[::ffff:127.0.0.1]/api",
    "https://169.254.169.254/api",
    "https://example.com:80/api",
    "https://example.com:0443/api",
    "https://example.com:/api",
    "https://example.com:99999/api",
    "https://example.com?x=/api",
    "https://example.com#/api",
    "https://example.com",
    "https://example.com/",
    "https://example.com/api/../admin",
    "https://example.com/api/%2e%2e/admin",
    "https://example.com/api/..;/admin",
    "https://example.com/api;x=1/v1",
    "https://example.com//api",
    "https://example.com/apix",
    "https://example.com/api/%zz",
    "https://example.com/api?q=%zz",
    "https://example.com/api?q=\u00e9",
    "https://example.com/api?q={x}",
    "http://example.com/api",
    "ftp://example.com/api",
    "javascript://example.com/api",
    "https://example.com/api/" + "x" * 9000,
]


@pytest.mark.parametrize("url", URLS, ids=lambda url: ascii(url)[:50])
def test_urls_to_somewhere_else(url: str) -> None:
    assert not rule({"url": {"hosts": ["example.com", "*.example.org"], "path": "/api"}}).check(url)


def test_numeric_hosts_pass_only_as_the_listed_literal() -> None:
    listed = rule({"url": {"hosts": ["127.0.0.1", "*.example.org"], "schemes": ["http"]}})
    assert listed.check("http://127.0.0.1/")
    for host in ("127.1", "0x7f.0.0.1", "2130706433", "127.0.0.1.", "127.0.0.01", "0.127.0.0.1"):
        assert not listed.check(f"http://{host}/")


MAIL = [
    "mallory@evil.test",
    "bob@example.com.evil.test",
    "bob@badexample.com",
    "bob@example.com ",
    " bob@example.com",
    "bob@example.com\n",
    "bob@example.com\nBcc: eve@evil.test",
    "bob@example.com,eve@evil.test",
    "eve@evil.test,bob@example.com",
    "bob@evil.test@example.com",
    "eve%evil.test@example.com",
    "evil.test!eve@example.com",
    '"eve@evil.test"@example.com',
    "Bob <bob@example.com>",
    "bob(comment)@example.com",
    "bob@[10.0.0.1]",
    "bob@EXAMPLE.com",
    "bob@exаmple.com",
    "bob@example.com.",
    "bob@.example.com",
    "bob@",
    "@example.com",
    "example.com",
    ".bob@example.com",
    "bob.@example.com",
    "b..ob@example.com",
    "böb@example.com",
    "b" * 65 + "@example.com",
]


@pytest.mark.parametrize("address", MAIL, ids=lambda address: ascii(address)[:50])
def test_mail_to_somebody_else(address: str) -> None:
    mail = rule({"email": {"domains": ["example.com", "*.mail.example.com"]}})
    assert mail.check("bob@example.com")
    assert mail.check("bob+tag@a.mail.example.com")
    assert not mail.check(address)


# --- text ---


def test_a_pattern_matches_the_whole_text() -> None:
    ticket = rule({"regex": "T-[0-9]{1,8}$"})
    assert ticket.check("T-1")
    for text in ("T-1\n", "T-1\nrm -rf", "x\nT-1", "T-1 ", "xT-1"):
        assert not ticket.check(text)
    assert not rule({"regex": "a|b"}).check("a|b")
    assert not rule({"regex": "(?m)^a$"}).check("a\nb")


def test_patterns_are_matched_in_linear_time() -> None:
    """Each of these takes a backtracking matcher longer than the universe has existed."""
    for pattern in ("(a+)+", "(a|a)*", "(a*)*b", "([a-z]+)*!", "(.*)*x"):
        assert rule({"regex": pattern}).check("a" * 100_000 + "\n") is False
    assert rule({"glob": "*a" * 100 + "b"}).check("a" * 100_000) is False


def test_a_pattern_that_outgrows_its_memory_is_matched_all_the_same() -> None:
    text = "".join("ab"[(index * index >> 3) & 1] for index in range(50_000)) + "a" + "b" * 18
    assert rule({"regex": "(a|b)*a(a|b){18}(c|d)*"}).check(text)


def test_nothing_is_folded_or_normalised() -> None:
    composed = unicodedata.normalize("NFC", "e\u0301")
    for wanted, given in (("drop", "Drop"), ("a", "\u0430"), ("k", "\u212a"), ("\u00e9", "e\u0301"), ("ss", "ß"), ("1", "\uff11")):
        assert not rule({"exact": wanted}).check(given)
        assert not rule({"one_of": [wanted, "x"]}).check(given)
        assert not rule({"regex": wanted}).check(given)
    assert rule({"exact": composed}).check("\u00e9")
    assert not rule({"regex": "[0-9]+"}).check("\u0661")


def test_a_lone_surrogate_is_no_text() -> None:
    nodes: list[Any] = ["any", {"not_one_of": ["a"]}, {"regex": "(?s).*"}, {"glob": "*"}, {"max_length": 9}, {"type": "string"}]
    assert not any(rule(node).check("\ud800") for node in nodes)
    assert not rule("any").check({"\udfff": 1})


# --- arguments ---


def test_absent_arguments_violate() -> None:
    tools = ToolMap({"to": parse_rule({"exact": "bob"}), "note": parse_rule({"exact": "x", "optional": True})}, rest=False)
    for call in ({}, {"note": "x"}, {"to": None}, {"to": ["bob"]}, {"TO": "bob"}, {"to ": "bob"}, {"to": "bob", "note": None}):
        assert tools.check(call) is not None
    assert tools.check({"to": "bob"}) is None


def test_additional_arguments_violate() -> None:
    tools = ToolMap({"to": parse_rule({"exact": "bob"})}, rest=False)
    for name in ("cc", "*", "", "То", "to\0"):
        assert tools.check({"to": "bob", name: "eve"}) is not None


# --- size and depth ---


def _tree(levels: int, kind: str, leaf: Any) -> Any:
    for _ in range(levels):
        leaf = {"constraint_type": kind, "constraints": [leaf]}
    return leaf


def test_depth_bombs_are_refused_at_once() -> None:
    bomb = _tree(100_000, "any", {"constraint_type": "wildcard"})
    for depth in (32, 10**9):
        with pytest.raises(InvalidInput, match="nested too deeply"):
            parse_constraint(bomb, extensions=True, max_depth=depth)
    value: Any = []
    for _ in range(100_000):
        value = [value]
    nodes: list[Any] = ["any", {"not_one_of": []}, {"contains": []}, {"type": "array"}, {"one_of": [[]]}, {"subset": [[]]}]
    assert not any(rule(node).check(value) for node in nodes)
    with pytest.raises(InvalidInput):
        parse_constraint({"constraint_type": "one_of", "values": value}, extensions=True)
    while value:  # or the interpreter frees it recursively
        value = value[0]
    while "constraints" in bomb:
        bomb = bomb["constraints"][0]


def test_a_value_that_holds_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert not rule("any").check(loop)
    assert not rule({"not_one_of": [1]}).check({"a": loop})
    loop.clear()


HOSTILE = """
import json, sys
from agentguard.constraints.tokens import parse_constraint, narrows, plain_narrows
kind, shape = sys.argv[1:]
def clauses(kind, parts): return {"constraint_type": kind, "constraints": parts}
def least(number): return {"constraint_type": "range", "min": number}
def nest(kinds, first):
    tree = [least(first + n) for n in range(25)]
    for level in range(31):
        tree = [clauses(kinds[level % 2], tree + [least(first + level + n) for n in range(25)])]
    return tree[0]
pairs = {
    "nested": (nest(["any", "all"], 1), nest(["all", "any"], 2)),
    "crossed": (nest(["any", "all"], 1), nest(["any", "all"], 2)),
    "wide": (clauses("all", [clauses("any", [least(n)]) for n in range(800)]),
             clauses("any", [clauses("all", [least(n + 900)]) for n in range(800)])),
    "values": (clauses("all", [{"constraint_type": "one_of", "values": list(range(8000))}] + [least(-n) for n in range(400)]),
               clauses("all", [least(-n) for n in range(1200)])),
    "globs": (clauses("any", [{"constraint_type": "urn:agentguard:constraint:glob", "pattern": "*a" * 120 + "b"}] * 180 + [least(0)]),
              clauses("any", [{"constraint_type": "urn:agentguard:constraint:glob", "pattern": "*a" * 119 + "c?"}] * 180)),
}
child, parent = (parse_constraint(tree, extensions=True) for tree in pairs[shape])
assert len(json.dumps(child.to_json(), separators=(",", ":"))) < 65536
(narrows if kind == "profile" else plain_narrows)(child, parent)
(narrows if kind == "profile" else plain_narrows)(child, child)
"""


@pytest.mark.parametrize("shape", ["nested", "crossed", "wide", "values", "globs"])
@pytest.mark.parametrize("kind", ["profile", "plain"])
def test_comparing_hostile_trees_of_a_full_token_ends(kind: str, shape: str) -> None:
    """Without memory of what was compared, the first of these takes 25**31 steps. Seconds in truth; the limit allows for a slow machine."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", HOSTILE, kind, shape], env=environment, timeout=120, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_a_comparison_too_large_to_finish_denies() -> None:
    clauses = [{"constraint_type": "any", "constraints": [{"constraint_type": "range", "min": number}]} for number in range(1500)]
    child = parse_constraint({"constraint_type": "all", "constraints": clauses}, extensions=True)
    wider = parse_constraint({"constraint_type": "all", "constraints": clauses[::-1]}, extensions=True)
    assert narrows(child, child)
    assert not narrows(child, wider)
    assert plain_narrows(child, wider)
