"""What constraints accept, what is well-formed, what narrows: tables written by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from . import canon, keys, narrowing, refute, regex_samples, rules, universe
from .constraints import BadConstraint, accepts, argument_problem, require_map_well_formed, require_well_formed
from .universe import ANYTHING, NOTHING, between, both, either, exact, ext, none_of, one_of

ROOT = ext("path", root="/srv/tickets")
HTTPS = ext("url", schemes=["https"], hosts=["example.com", "*.corp.example"], path="/v1", ports=[443])
MAIL = ext("email", domains=["example.com"])
NET = ext("cidr", network="10.0.0.0/8")


def contains(*values: Any) -> dict[str, Any]:
    return {"constraint_type": "contains", "required": list(values)}


def subset(*values: Any) -> dict[str, Any]:
    return {"constraint_type": "subset", "allowed": list(values)}


ACCEPTED: list[tuple[dict[str, Any], Any]] = [
    (exact(1), 1.0), (exact(-0.0), 0), (exact(None), None), (exact(1e20), 10**20), (one_of([1], {"a": 1}), [1.0]),
    (one_of({"b": 1, "a": 2}), {"a": 2, "b": 1}), (none_of(1), True), (none_of(1), "1"), (none_of(1), [1]), (between(1, 5), 5),
    (between(1, 5), 1.0),
    (between(), -1e300), (contains("a", "a"), ["b", "a"]), (contains(), []), (subset("a"), ["a", "a"]), (subset(), []),
    (ANYTHING, {"x": [None]}),
    (both(between(0), between(None, 3)), 2), (either(exact(1), exact("x")), "x"), (ROOT, "/srv/tickets"), (ROOT, "/srv/tickets/"),
    (ROOT, "/srv/tickets/..a/b"),
    (HTTPS, "https://example.com/v1"), (HTTPS, "https://example.com:443/v1/x?q=%20#f"), (HTTPS, "https://a.b.corp.example/v1/"),
    (MAIL, "a.b+c@example.com"),
    (NET, "10.255.255.255"), (ext("cidr", network="2001:db8::/32"), "2001:db8::1"), (ext("glob", pattern="/a/*.txt"), "/a/.txt"),
    (ext("glob", pattern="a[b]?"), "a[b]?"), (ext("regex", pattern="a|bc"), "bc"), (ext("length", max=2), "\U0001f600\U0001f600"),
    (ext("length", min=0), ""),
    (ext("type", type="integer"), 5), (ext("type", type="number"), 5.0), (ext("type", type="null"), None),
]  # fmt: skip
REFUSED: list[tuple[dict[str, Any], Any]] = [
    (exact(1), True), (exact(1), "1"), (exact("\u00e9"), "e\u0301"), (exact("K"), "\u212a"), (one_of(True), 1), (one_of([1, 2]), [2, 1]),
    (none_of(1), 1.0),
    (between(1, 5), True), (between(1, 5), "3"), (between(1, 5, min_inclusive=False), 1), (between(1, 5, max_inclusive=False), 5.0),
    (between(), None),
    (contains("a"), "a"), (contains(1), [True]), (subset("a"), ["a", "b"]), (subset("a"), "a"), (NOTHING, 0), (NOTHING, -0.0),
    (both(exact(1), exact(2)), 1),
    (either(exact(1), exact(2)), 3), (ANYTHING, 2**53 + 1), (ANYTHING, {"x": [10**400]}),
    (ROOT, "/srv/ticketsx"), (ROOT, "/srv/tickets/../x"), (ROOT, "/srv/tickets/%2e%2e/x"), (ROOT, "/srv/tickets/a\0"),
    (ROOT, "/srv/tickets\\x"), (ROOT, "srv/tickets/x"),
    (ROOT, "/SRV/tickets/x"), (ROOT, ["/srv/tickets/x"]), (ROOT, ""),
    (HTTPS, "http://example.com/v1"), (HTTPS, "https://example.com.evil.test/v1"), (HTTPS, "https://xexample.com/v1"),
    (HTTPS, "https://corp.example/v1"),
    (HTTPS, "https://xcorp.example/v1"), (HTTPS, "https://example.com@evil.test/v1"), (HTTPS, "https://evil.test@example.com/v1"),
    (HTTPS, "https://example.com:8443/v1"),
    (HTTPS, "https://example.com/v1x"), (HTTPS, "https://example.com/v1/../x"), (HTTPS, "https://example.com/v1/%2e%2e/x"),
    (HTTPS, "https://example.com./v1"),
    (HTTPS, "https://example.com\t/v1"), (HTTPS, " https://example.com/v1"), (HTTPS, "https://example.com\\@evil.test/v1"),
    (HTTPS, "https:/example.com/v1"),
    (HTTPS, "//example.com/v1"), (HTTPS, "https://ex\u0430mple.com/v1"), (ext("url", hosts=["*.1"]), "https://127.0.0.1/"),
    (HTTPS, "https://.corp.example/v1"),
    (MAIL, "bob@mail.example.com"), (MAIL, "bob@notexample.com"), (MAIL, "Bob <bob@example.com>"), (MAIL, "a@example.com,b@evil.test"),
    (MAIL, "bob@example.com\n"),
    (MAIL, "bob@evil.test@example.com"), (MAIL, '"a b"@example.com'), (MAIL, "@example.com"), (MAIL, "b\u043eb@example.com"),
    (MAIL, "bob@example.com."),
    (NET, "11.0.0.0"), (NET, "010.0.0.1"), (NET, "10.0.0.1/32"), (NET, "::ffff:10.0.0.1"), (NET, 167772161), (NET, "10.0.0.1 "),
    (NET, "0x0a000001"),
    (ext("cidr", network="fe80::/10"), "fe80::1%eth0"), (ext("glob", pattern="/a/*"), "/a/b/c"), (ext("glob", pattern="*.txt"), "a.txt\n"),
    (ext("regex", pattern="a|bc"), "abc"), (ext("regex", pattern="[a-z]+"), "abc\n"), (ext("regex", pattern="[0-9]+"), 5),
    (ext("length", max=2), "abc"),
    (ext("length", max=2), ["a"]), (ext("length", min=1), ""), (ext("type", type="integer"), 5.0), (ext("type", type="integer"), True),
    (ext("type", type="number"), False),
]  # fmt: skip


@pytest.mark.parametrize(("constraint", "value"), ACCEPTED)
def test_accepted(constraint: dict[str, Any], value: Any) -> None:
    assert accepts(constraint, value)


@pytest.mark.parametrize(("constraint", "value"), REFUSED)
def test_refused(constraint: dict[str, Any], value: Any) -> None:
    assert not accepts(constraint, value)


ADMISSIBLE = ["0.1", "1e20", "1.10", "9007199254740994", "5e-324", "-0", "-0.0", "1E2", "0e99999", "100000000000000000000000"]
INADMISSIBLE = ["9007199254740993", "1.00000000000000001", "1e400", "1e-400", "1e999999999999", "-9007199254740993.0", "1" * 1025]


@pytest.mark.parametrize(("text", "fine"), [(text, True) for text in ADMISSIBLE] + [(text, False) for text in INADMISSIBLE])
def test_admissible_numbers(text: str, fine: bool) -> None:
    assert canon.admissible(canon.parse(text.encode())) is fine


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "1"), (-0.0, "0"), (1e21, "1e+21"), (1e20, "100000000000000000000"), (1e-6, "0.000001"), (1e-7, "1e-7"), (1.5e-9, "1.5e-9"),
        (4.5, "4.5"), (1e23, "1e+23"),
     (0.002, "0.002"), (333333333.33333329, "333333333.3333333"), ({"\U0001f600": 1, "\ufb33": 2}, '{"\U0001f600":1,"\ufb33":2}'),
     ("\x1f\n\"\\/\x7f", '"\\u001f\\n\\"\\\\/\x7f"')],
)  # fmt: skip
def test_jcs(value: Any, text: str) -> None:
    assert canon.jcs(value).decode() == text


@pytest.mark.parametrize(
    "text", ['{"a":1,"a":1}', '[{"a":{"b":1,"b":2}}]', "NaN", "[Infinity]", '"\\ud800"', "[1", "\ufeff1", "[" * 100_000, ""]
)
def test_strict_json(text: str) -> None:
    with pytest.raises(canon.NotJson):
        canon.parse(text.encode())


@pytest.mark.parametrize("text", ["YQ==", "YR", "Y Q", "Y/Q", "YQ\n", "Y"])
def test_strict_base64url(text: str) -> None:
    with pytest.raises(ValueError):
        keys.unb64(text)


MALFORMED: list[Any] = [
    [], {}, {"constraint_type": "prefix"}, {"constraint_type": ["exact"]}, {"constraint_type": "exact"}, exact([1]), exact({}),
    {**exact(1), "values": []}, one_of(),
    {"constraint_type": "one_of", "values": "ab"}, {"constraint_type": "not_one_of"}, between("1"), between(True), between(2, 1),
    {**between(None, 1), "min_inclusive": True},
    {**between(1), "min_inclusive": 1}, both(), either(), {"constraint_type": "all", "constraints": {}},
    both({**ANYTHING, "optional": False}), {**ANYTHING, "optional": 1},
    one_of(2**53 + 1), both(either(exact(2**53 + 1))), ext("path", root="srv"), ext("path", root="/a/../b"), ext("url", hosts=[]),
    ext("url", hosts=["a..b"]),
    ext("url", hosts=["a.test"], ports=[True]), ext("regex", pattern="("), ext("regex", pattern="(?=a)"),
    ext("cidr", network="10.0.0.1/8"), ext("email", domains=["@x"]),
    ext("length"), ext("length", min=2, max=1), ext("length", max=-1), ext("type", type="int"), ext("glob", pattern=1), ext("ip", x=1),
]  # fmt: skip


@pytest.mark.parametrize("constraint", MALFORMED)
def test_malformed(constraint: Any) -> None:
    with pytest.raises(BadConstraint):
        require_well_formed(constraint, extensions=True)


@pytest.mark.parametrize(
    "constraint", [none_of(), contains(), subset(), between(), between(1, 1, min_inclusive=False), {**ANYTHING, "optional": True}]
)
def test_well_formed_though_odd(constraint: dict[str, Any]) -> None:
    require_well_formed(constraint, extensions=False)


def test_depth_of_constraints() -> None:
    tree = ANYTHING
    for _ in range(31):
        tree = both(tree)
    require_well_formed(tree, extensions=False)
    with pytest.raises(BadConstraint):
        require_well_formed(both(tree), extensions=False)


@pytest.mark.parametrize("entry", [exact(1), {**ANYTHING, "optional": False}, {**ANYTHING, "optional": True}])
def test_star_is_a_bare_wildcard(entry: dict[str, Any]) -> None:
    with pytest.raises(BadConstraint):
        require_map_well_formed({"*": entry}, extensions=True)


OPTIONAL = {**exact(1), "optional": True}


@pytest.mark.parametrize(
    ("entries", "arguments", "fine"),
    [
        ({}, {"anything": 1}, True), ({}, {}, True), ({"a": exact(1)}, {"a": 1}, True), ({"a": exact(1)}, {}, False),
        ({"a": exact(1)}, {"a": 1, "b": 1}, False),
        ({"a": OPTIONAL}, {}, True), ({"a": OPTIONAL}, {"a": 2}, False), ({"a": exact(1), "*": ANYTHING}, {"a": 1, "b": 2}, True),
        ({"a": exact(1), "*": ANYTHING}, {"b": 2}, False), ({"a": exact(1)}, {"a": 1, "*": 1}, False), ({"*": ANYTHING}, {"*": 1}, True),
        ({"none": {**NOTHING, "optional": True}}, {}, True), ({"none": {**NOTHING, "optional": True}}, {"none": 0}, False),
    ],
)  # fmt: skip
def test_closed_world(entries: dict[str, Any], arguments: dict[str, Any], fine: bool) -> None:
    assert (argument_problem(entries, arguments) is None) is fine


NARROWS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (exact(1), exact(1.0)), (between(1, 5), between(1, 5, min_inclusive=False)), (between(1), between(1, 5)), (between(1, 5), exact(5)),
    (one_of(1, 2), one_of(2.0)),
    (one_of(1, 2), exact(2)), (none_of(1), none_of(2, 1)), (none_of(), none_of(1)), (contains("a"), contains("a", "b")),
    (contains(), contains("a")), (subset("a", "b"), subset("b")),
    (both(ANYTHING, ANYTHING), both(exact(5))), (both(exact(1)), both(exact(1), exact(2))),
    (either(one_of("pdf", "csv"), exact(1)), either(exact("pdf"))), (ANYTHING, either(exact(1))),
    (both(either(exact(1), exact(2))), both(either(exact(2)))),
]  # fmt: skip
DOES_NOT: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (exact(1), exact(True)), (exact(1), exact("1")), (exact(1), one_of(1)), (between(1, 5, min_inclusive=False), between(1, 5)),
    (between(1, 5), between(1)), (between(1, 5), between(0, 5)),
    (between(1, 5), one_of(1)), (between(1, 5), exact(True)), (one_of(1, 2), between(1, 2)), (one_of(1), none_of(2)),
    (none_of(1), exact(2)), (none_of(1), one_of(2)), (none_of(1), none_of(2)),
    (contains("a"), contains("b")), (subset("a"), subset("a", "b")), (both(exact(1)), exact(1)), (either(exact(1)), exact(1)),
    (either(exact(1)), both(exact(1))),
    (both(between(0)), between(1, 2)), (one_of(1), either(exact(1))), (either(exact(1)), either(exact(1), exact(2))),
    (exact(1), ANYTHING), (none_of(), ANYTHING),
    (both(exact(1), exact(2)), both(exact(1))), (both(ANYTHING), ANYTHING),
]  # fmt: skip


@pytest.mark.parametrize(("parent", "child"), NARROWS)
def test_narrows(parent: dict[str, Any], child: dict[str, Any]) -> None:
    assert narrowing.subsumes(parent, child)
    assert refute.narrowing_refuted(child, parent) is None


@pytest.mark.parametrize(("parent", "child"), DOES_NOT)
def test_does_not_narrow(parent: dict[str, Any], child: dict[str, Any]) -> None:
    assert not narrowing.subsumes(parent, child)


CORE_POOL = [c for kind in (universe.NUMBER, universe.TEXT, universe.LABELS) for c in kind.constraints]


def test_the_table_is_sound_as_far_as_the_search_sees() -> None:
    wrong = [(p, c) for p in CORE_POOL for c in CORE_POOL if narrowing.subsumes(p, c) and refute.narrowing_refuted(c, p)]
    assert wrong == []


REFUTED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (ROOT, ext("path", root="/srv")), (ROOT, ext("glob", pattern="/srv/tickets/*")),
    (ext("path", root="/srv"), ext("regex", pattern="/srv/.*")),
    (HTTPS, ext("url", schemes=["https"], hosts=["corp.example"], path="/v1", ports=[443])),
    (HTTPS, ext("url", schemes=["https"], hosts=["example.com"], ports=[443])),
    (ext("url", hosts=["a.corp.example"]), ext("url", hosts=["*.corp.example"])),
    (MAIL, ext("email", domains=["example.com", "evil.test"])),
    (ext("cidr", network="10.0.0.0/24"), ext("cidr", network="10.0.0.0/23")), (ext("length", max=5), ext("length", max=6)),
    (ext("length", max=5), ext("regex", pattern="[a-z]*")),
    (ext("regex", pattern="T-[0-9]{1,8}"), ext("regex", pattern="T-[0-9]{1,9}")), (ext("type", type="integer"), exact(5)),
    (ext("type", type="integer"), between(1, 2)),
    (none_of("a"), ANYTHING), (either(exact(1), exact(2)), one_of(1, 2, 3)),
    (both(between(0, 5), ext("type", type="integer")), between(0, 5)),
    (contains("a"), subset("a", "b")), (MAIL, ext("regex", pattern=".+@example\\.com")),
    (exact(1), either(exact(1), both(exact(2), ANYTHING))),
]  # fmt: skip


@pytest.mark.parametrize(("parent", "child"), REFUTED)
def test_refuted(parent: dict[str, Any], child: dict[str, Any]) -> None:
    witness = refute.narrowing_refuted(child, parent)
    assert witness is not None
    assert accepts(child, witness.value)
    assert not accepts(parent, witness.value)


@pytest.mark.parametrize(
    ("parent", "child", "refuted"),
    [
        ({"a": ANYTHING}, {}, True), ({}, {"a": ANYTHING}, False), ({"a": ANYTHING}, {"a": ANYTHING, "*": ANYTHING}, True),
        ({"a": ANYTHING, "*": ANYTHING}, {"a": ANYTHING}, False),
        ({"a": exact(1)}, {"a": OPTIONAL}, True), ({"a": OPTIONAL}, {"a": exact(1)}, False),
        ({"a": exact(1), "b": OPTIONAL}, {"a": exact(1)}, False),
        ({"a": exact(1), "b": exact(1)}, {"a": exact(1)}, True), ({"a": OPTIONAL, "*": ANYTHING}, {"*": ANYTHING}, True),
        ({"a": OPTIONAL}, {}, True),
        ({"a": ANYTHING}, {"a": ANYTHING, "b": {**NOTHING, "optional": True}}, False),
        ({"a": ANYTHING}, {"a": ANYTHING, "b": {**ANYTHING, "optional": True}}, True),
        ({"a": ANYTHING}, {"b": NOTHING}, False),
    ],
)  # fmt: skip
def test_maps(parent: dict[str, Any], child: dict[str, Any], refuted: bool) -> None:
    assert (refute.map_refuted(child, parent) is not None) is refuted
    if refuted:
        assert narrowing.map_problem(parent, child) is not None


@pytest.mark.parametrize("pattern", ["T-[0-9]{1,8}", "a|bc?", "(?:x|yz)+\\.txt", "[^a-z]\\d\\w", "/srv/.*", ""])
def test_regex_samples_match(pattern: str) -> None:
    found = regex_samples.samples(pattern)
    assert any(accepts(ext("regex", pattern=pattern), text) for text in found)


@pytest.mark.parametrize("kind", universe.KINDS)
def test_shorthand_of_the_policy(kind: universe.Kind) -> None:
    for constraint in kind.constraints:
        assert repr(rules.translated(universe.to_rule(constraint))) == repr(constraint)


@pytest.mark.parametrize(
    "rule",
    [
        None,
        "wildcard",
        {},
        {"optional": True},
        {"prefix": "/"},
        {"any": "x"},
        {"range": [1, 2]},
        {"max_length": "5"},
        {"one_of": []},
        ["any"],
    ],
)
def test_bad_rules(rule: Any) -> None:
    with pytest.raises(rules.BadPolicy):
        rules.translated(rule)


def test_example_policy_of_the_design() -> None:
    policy = rules.parse_policy(json.dumps({
        "agentguard": 1, "name": "support", "forbid": [{"tool": "delete_*"}], "tools": {"search": {"rerun": "safe"}},
        "agents": {
            "triage": {
                "tools": {"read_ticket": {"id": {"regex": "T-[0-9]{1,8}"}},
                    "search": {"query": "any", "limit": {"range": {"min": 1, "max": 50}, "optional": True}}},
                "budgets": [{"calls": 50, "per": "task"}], "delegates": {"summarizer": {"depth": 1}},
            },
            "summarizer": {"tools": {"read_file": {"path": {"path": "/srv/tickets"}}}},
        },
        "environment": {"deployment": {"one_of": ["prod", "staging"]}},
    }))  # fmt: skip
    assert policy.agents["triage"].delegates == {"summarizer": 1}
    assert policy.agents["summarizer"].tools["read_file"]["path"] == ROOT
