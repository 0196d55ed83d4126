"""Parsing and checking of constraints in token form (AAT -02 §3.3, §3.4)."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest

from agentguard import canonical
from agentguard.constraints.tokens import MAX_DEPTH, parse_constraint, parse_tool_map
from agentguard.errors import InvalidInput

URN = "urn:agentguard:constraint:"
WILDCARD = {"constraint_type": "wildcard"}


def core(kind: str, **members: Any) -> dict[str, Any]:
    return {"constraint_type": kind, **members}


def accepts(tree: Any, value: Any) -> bool:
    return parse_constraint(tree, extensions=True).check(value)


def nested(levels: int, kind: str = "all") -> Any:
    tree: Any = WILDCARD
    for _ in range(levels - 1):
        tree = core(kind, constraints=[tree])
    return tree


MALFORMED = [
    None,
    [],
    "wildcard",
    {},
    {"constraint_type": 1},
    {"constraint_type": None},
    core("regexp"),
    core("Exact", value=1),
    core(URN + "regexp", pattern="a"),
    core("wildcard", value=1),
    core("wildcard", optional=True),
    core("wildcard", optional=False),
    core("exact"),
    core("exact", value=[1]),
    core("exact", value={}),
    core("exact", value=canonical.parse("9007199254740993")),
    core("exact", value=float("nan")),
    core("exact", value=2**53 + 1),
    core("exact", value="\ud800"),
    core("exact", value=b"a"),
    core("exact", value=1, values=[1]),
    core("one_of"),
    core("one_of", values=[]),
    core("one_of", values="ab"),
    core("one_of", values={"a": 1}),
    core("one_of", values=None),
    core("one_of", values=[[{"a": canonical.parse("1e400")}]]),
    core("not_one_of"),
    core("not_one_of", excluded=None),
    core("not_one_of", values=[1]),
    core("contains", required="a"),
    core("contains", elements=[]),
    core("subset", allowed={"a": 1}),
    core("subset"),
    core("range", min=2, max=1),
    core("range", min="1"),
    core("range", min=True),
    core("range", min=None),
    core("range", max=[]),
    core("range", max=canonical.parse("1e400")),
    core("range", max=float("inf")),
    core("range", min_inclusive=True),
    core("range", max_inclusive=False),
    core("range", min=1, max_inclusive=True),
    core("range", min=1, min_inclusive=1),
    core("range", min=1, min_inclusive=None),
    core("range", minimum=1),
    core("all"),
    core("all", constraints=[]),
    core("any", constraints=[]),
    core("any", constraints={}),
    core("any", constraints="a"),
    core("any", constraints=[WILDCARD, {}]),
    core("any", constraints=[core("exact", value=1, optional=False)]),
    core("all", constraints=[core("exact", value=1, optional=True)]),
    nested(MAX_DEPTH + 1),
    nested(MAX_DEPTH + 1, "any"),
    core(URN + "path"),
    core(URN + "path", root="srv"),
    core(URN + "path", root="/srv/"),
    core(URN + "path", root="/srv/../etc"),
    core(URN + "path", root="/srv/%2e"),
    core(URN + "path", root=["/srv"]),
    core(URN + "url", hosts=[]),
    core(URN + "url", hosts="example.com"),
    core(URN + "url", hosts=["*"]),
    core(URN + "url", hosts=["*.*.example.com"]),
    core(URN + "url", hosts=["Example.com"]),
    core(URN + "url", hosts=["example.com."]),
    core(URN + "url", hosts=["*.127.0.0.1"]),
    core(URN + "url", hosts=["2130706433"]),
    core(URN + "url", hosts=["example.com"], schemes=[]),
    core(URN + "url", hosts=["example.com"], schemes=["HTTPS"]),
    core(URN + "url", hosts=["example.com"], path="api"),
    core(URN + "url", hosts=["example.com"], ports=[0]),
    core(URN + "url", hosts=["example.com"], ports=[True]),
    core(URN + "url", hosts=["example.com"], ports=443),
    core(URN + "url", hosts=["example.com"], query="x"),
    core(URN + "glob", pattern=""),
    core(URN + "glob", pattern="/srv/**"),
    core(URN + "glob", pattern="/srv/../*"),
    core(URN + "glob", pattern="a" * 257),
    core(URN + "regex", pattern="("),
    core(URN + "regex", pattern="(?=a)"),
    core(URN + "regex", pattern=r"(a)\1"),
    core(URN + "regex", pattern="a" * 1001),
    core(URN + "regex", pattern=r"\pL{1,1000}"),
    core(URN + "regex", pattern=1),
    core(URN + "cidr", network="10.0.0.1/8"),
    core(URN + "cidr", network="10.0.0.0"),
    core(URN + "cidr", network="2001:DB8::/32"),
    core(URN + "cidr", network="fe80::%1/64"),
    core(URN + "cidr", network="example.com"),
    core(URN + "email", domains=[]),
    core(URN + "email", domains=["@example.com"]),
    core(URN + "email", domains=["10.0.0.1"]),
    core(URN + "email", domains="example.com"),
    core(URN + "length"),
    core(URN + "length", max=-1),
    core(URN + "length", max=1.0),
    core(URN + "length", max=True),
    core(URN + "length", min=2, max=1),
    core(URN + "type", type="float"),
    core(URN + "type", type=["string"]),
]


@pytest.mark.parametrize("tree", MALFORMED, ids=lambda tree: repr(tree)[:70])
def test_malformed_constraints_are_refused(tree: Any) -> None:
    with pytest.raises(InvalidInput):
        parse_constraint(tree, extensions=True)
    with pytest.raises(InvalidInput):
        parse_tool_map(
            {"x": tree} if not (type(tree) is dict and "optional" in tree) else {"x": core("all", constraints=[tree])}, extensions=True
        )


ODD = [
    core("not_one_of", excluded=[]),
    core("contains", required=[]),
    core("subset", allowed=[]),
    core("range"),
    core("range", min=1, max=1, max_inclusive=False),
    core("range", min=1, max=1.0),
    core("one_of", values=[[], {}, None, 1, 1.0, 1]),
    nested(MAX_DEPTH),
]


@pytest.mark.parametrize("tree", ODD, ids=lambda tree: repr(tree)[:70])
def test_odd_constraints_are_well_formed(tree: Any) -> None:
    assert parse_constraint(tree, extensions=False).to_json()["constraint_type"] == tree["constraint_type"]


def test_plain_chains_know_no_extension() -> None:
    tree = core(URN + "path", root="/srv")
    assert accepts(tree, "/srv/a")
    with pytest.raises(InvalidInput, match="not one that is known"):
        parse_constraint(tree, extensions=False)
    with pytest.raises(InvalidInput, match="not one that is known"):
        parse_constraint(core("any", constraints=[tree]), extensions=False)


def test_depth_counts_as_the_draft_counts() -> None:
    assert parse_constraint(nested(3), extensions=False, max_depth=3)
    with pytest.raises(InvalidInput, match="nested too deeply"):
        parse_constraint(nested(4), extensions=False, max_depth=3)


def test_frozen_documents_parse_like_plain_ones() -> None:
    tree = core("any", constraints=[core("one_of", values=["a", [1]]), core("range", min=1)])
    assert parse_constraint(canonical.freeze(tree), extensions=False) == parse_constraint(tree, extensions=False)


CHECKS = [
    (core("exact", value=1), [1, 1.0], [True, "1", 2, None, [1]]),
    (core("exact", value=None), [None], [0, False, "", []]),
    (core("exact", value=True), [True], [1, 1.0, "true"]),
    (core("exact", value=-0.0), [0, 0.0, -0.0], [False, "0"]),
    (core("exact", value=1e23), [1e23, 10**23], [99999999999999991611392]),
    (core("range", min=1, max=5), [1, 5, 1.0, 4.5], [0, 6, 0.999, 5.0000001, True, "3", None, [3]]),
    (core("range", min=0, max=1, min_inclusive=False), [1, 0.5, 5e-324], [0, 0.0, -0.0, False]),
    (core("range", min=0, max=0, max_inclusive=False), [], [0, -1, 1]),
    (core("range", max=1e23), [10**23, 1e23, -(10**300)], [10**24]),
    (core("range"), [0, -1e308, 10**300], [True, float("inf"), float("nan"), 10**309, 2**53 + 1, "1"]),
    (
        core("one_of", values=["a", 1, [1, "b"], {"x": 1}]),
        ["a", 1.0, [1.0, "b"], ("b",)[:0] or "a", {"x": 1.0}],
        ["b", True, ["b", 1], {"x": 2}, {}],
    ),
    (core("one_of", values=["a"]), ["a"], ["A", "а", "a\n", ["a"], None]),
    (core("not_one_of", excluded=["a", 1]), ["b", True, None, [1], {"a": 1}], ["a", 1, 1.0]),
    (core("not_one_of", excluded=[]), ["b", 1, []], [float("nan"), "\ud800"]),
    (core("contains", required=["a", 1]), [["a", 1.0, "c"], (1, "a")], [["a"], ["a", True], "a1", {"a": 1}, None]),
    (core("contains", required=[]), [[], ["x"]], ["", {}, None, [float("nan")]]),
    (core("subset", allowed=["a", 1]), [[], ["a", "a"], [1.0]], [["b"], [True], "a", {"a": 1}]),
    (core("subset", allowed=[]), [[]], [["a"], None]),
    (WILDCARD, [None, True, 1, "x", [], {"a": [1]}], [float("inf"), object(), {1: 2}, b"x", {"a": {"b": 2**53 + 1}}]),
    (core("all", constraints=[core("range", min=1), core("range", max=3)]), [1, 2, 3], [0, 4]),
    (core("any", constraints=[core("exact", value="a"), core("range", max=3)]), ["a", 1], ["b", 4]),
    (
        core(URN + "path", root="/srv/t"),
        ["/srv/t", "/srv/t/", "/srv/t/a b/é..x", "/srv/t/..."],
        ["/srv/tx", "/srv", "srv/t", "/srv/t/..", None, ["/srv/t"]],
    ),
    (core(URN + "path", root="/"), ["/", "/etc"], ["", "etc", "//", "/.."]),
    (
        core(URN + "glob", pattern="/a/*/?.txt"),
        ["/a/b/c.txt", "/a//c.txt", "/a/\n/é.txt"],
        ["/a/b/c/d.txt", "/a/b/.txt", "/a/../c.txt", "x/a/b/c.txt", None],
    ),
    (core(URN + "glob", pattern="*"), ["", "x", "..."], ["a/b", ".", ".."]),
    (core(URN + "glob", pattern="a.[b]"), ["a.[b]"], ["axb", "a.b"]),
    (core(URN + "regex", pattern="T-[0-9]{1,8}|x"), ["T-1", "x"], ["T-1\n", "xT-1", "T-123456789", "x|", 1, None, "T-١"]),
    (core(URN + "regex", pattern="(?s).*"), ["", "\0\n", "é😀"], ["\ud800", 1]),
    (
        core(URN + "cidr", network="10.0.0.0/8"),
        ["10.0.0.0", "10.255.1.2"],
        ["11.0.0.0", "10.0.0.01", "10.1", "167772161", "10.0.0.1/32", " 10.0.0.1", "::ffff:10.0.0.1", 167772161],
    ),
    (
        core(URN + "cidr", network="2001:db8::/32"),
        ["2001:db8::1"],
        ["2001:DB8::1", "2001:db8:0::1", "2001:db8::1%eth0", "2001:db9::1", "10.0.0.1"],
    ),
    (core(URN + "cidr", network="::/0"), ["::1"], ["::ffff:10.0.0.1", "::ffff:a00:1"]),
    (core(URN + "length", max=3), ["", "abc", "é😀x"], ["abcd", ["a"], None, 3]),
    (core(URN + "length", min=1, max=1), ["a"], ["", "ab"]),
    (core(URN + "type", type="integer"), [1, -5, 10**23], [1.0, True, "1", 2**53 + 1]),
    (core(URN + "type", type="number"), [1, 1.5], [True, "1", float("nan")]),
    (core(URN + "type", type="string"), ["", "a"], [None, 1, "\ud800"]),
    (core(URN + "type", type="boolean"), [True, False], [0, 1, None]),
    (core(URN + "type", type="null"), [None], [False, 0, ""]),
    (core(URN + "type", type="array"), [[], ("a",)], ["", {}, None, [b""]]),
    (core(URN + "type", type="object"), [{}, MappingProxyType({"a": 1})], [[], None, {1: 1}]),
]


@pytest.mark.parametrize(("tree", "good", "bad"), CHECKS, ids=lambda tree: repr(tree)[:60].split(" object at ")[0])
def test_checks(tree: Any, good: list[Any], bad: list[Any]) -> None:
    constraint = parse_constraint(tree, extensions=True)
    for value in good:
        assert constraint.check(value), value
    for value in bad:
        assert not constraint.check(value), value


URLS = core(URN + "url", hosts=["example.com", "*.example.org", "192.0.2.1"], path="/api", ports=[443, 8443])


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/api",
        "https://example.com:443/api/",
        "https://example.com:8443/api/v1?q=%2e%2e#x",
        "https://a.example.org/api/x",
        "https://a.b.example.org/api",
        "https://192.0.2.1/api",
        "https://xn--bcher-kva.example.org/api/a@b:c",
    ],
)
def test_urls_that_are_accepted(url: str) -> None:
    assert accepts(URLS, url)


def test_ports_are_the_schemes_own_or_exactly_those_listed() -> None:
    own = core(URN + "url", hosts=["example.com"], schemes=["https", "gopher"])
    assert accepts(own, "https://example.com/")
    assert accepts(own, "https://example.com:443/")
    assert accepts(own, "gopher://example.com/")
    assert not accepts(own, "https://example.com:8443/")
    assert not accepts(own, "gopher://example.com:70/")
    listed = core(URN + "url", hosts=["example.com"], schemes=["https", "gopher"], ports=[8443, 70])
    assert accepts(listed, "https://example.com:8443/")
    assert accepts(listed, "gopher://example.com:70/")
    assert not accepts(listed, "https://example.com/")
    assert not accepts(listed, "gopher://example.com/")


def test_equal_constraints_compare_by_their_token_form() -> None:
    one, other = (parse_constraint(core("exact", value=value), extensions=False) for value in (1, True))
    assert one != other
    assert one == parse_constraint(core("exact", value=1.0), extensions=False)
    assert len({one, other, parse_constraint(core("exact", value=1), extensions=False)}) == 2
    assert one != "exact"


def test_descriptions_are_short() -> None:
    assert parse_constraint(core("one_of", values=["a", "b"]), extensions=False).describe() == "one of 'a', 'b'"
    assert parse_constraint(core(URN + "length", max=4000), extensions=True).describe() == "at most 4000 characters"
    assert parse_constraint(core(URN + "path", root="/srv/tickets"), extensions=True).describe() == "a path under /srv/tickets"
    assert (
        parse_constraint(core("range", min=1, max=5, max_inclusive=False), extensions=False).describe()
        == "a number at least 1 and less than 5"
    )
    huge = core("any", constraints=[core("one_of", values=["x" * 500] * 500)] * 50)
    assert len(parse_constraint(huge, extensions=False).describe()) <= 80
