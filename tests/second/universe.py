"""The small world that the strategies draw from: agents, tools, values that nearly collide, constraints that nearly hold."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from . import narrowing, refute
from .constraints import CORE, URN, Constraint, accepts
from .samples import leaves

AGENTS = ("boss", "writer", "reader", "helper")
NOW = 1_800_000_000
ISSUER = "https://issuer.example"
AUDIENCE = "https://guard.example"
REQUIRED = object()

ANYTHING: Constraint = {"constraint_type": "wildcard"}
NOTHING: Constraint = {"constraint_type": "range", "min": 0, "max": 0, "max_inclusive": False}


def ext(kind: str, **members: Any) -> Constraint:
    return {"constraint_type": URN + kind, **members}


def exact(value: Any) -> Constraint:
    return {"constraint_type": "exact", "value": value}


def between(low: Any = None, high: Any = None, **flags: bool) -> Constraint:
    bounds = {name: value for name, value in (("min", low), ("max", high)) if value is not None}
    return {"constraint_type": "range", **bounds, **flags}


def one_of(*values: Any) -> Constraint:
    return {"constraint_type": "one_of", "values": list(values)}


def none_of(*values: Any) -> Constraint:
    return {"constraint_type": "not_one_of", "excluded": list(values)}


def both(*clauses: Constraint) -> Constraint:
    return {"constraint_type": "all", "constraints": list(clauses)}


def either(*clauses: Constraint) -> Constraint:
    return {"constraint_type": "any", "constraints": list(clauses)}


@dataclass(frozen=True)
class Kind:
    """A kind of argument: values that calls carry as a rule, values that they carry rarely, constraints on it."""

    usual: tuple[Any, ...]
    odd: tuple[Any, ...]
    constraints: tuple[Constraint, ...]


_LONG = "/srv/tickets/" + "a" * 5000
_PATH = "/srv/tickets/a.txt"
PATH = Kind(
    (_PATH, "/srv/tickets", "/srv/tickets/sub/b.txt", "/srv/tickets/secret"),
    (
        "/srv/tickets/../etc/passwd", "/srv/ticketsx", "/srv", "/srv/tickets/%2e%2e/x", "/srv/tickets\\a", "/srv/tickets/\0",
        "srv/tickets/a",
        "/srv/tickets/\u00e9", "/srv/tickets/e\u0301", "/srv//tickets/a.txt", "/srv/tickets/./a.txt", "", _LONG, 5, None, [_PATH],
        "/srv/tickets/a.txt\n",
    ),
    (
        ANYTHING, ext("path", root="/srv/tickets"), ext("path", root="/srv"), ext("path", root="/srv/tickets/sub"), ext("path", root="/"),
        exact(_PATH), one_of(_PATH, "/srv/tickets", "/srv/tickets/sub/b.txt"), one_of(_PATH, "/etc/passwd"),
        ext("glob", pattern="/srv/tickets/*"),
        ext("glob", pattern="/srv/*"), ext("regex", pattern="/srv/tickets/[a-z]+\\.txt"), ext("regex", pattern="/srv/.*"),
        both(ext("path", root="/srv"), ext("length", max=30)), either(exact(_PATH), ext("path", root="/srv/tickets/sub")),
        either(exact(_PATH), exact("/srv/tickets")), none_of("/srv/tickets/secret"), none_of("/srv/tickets/secret", "/srv"),
        ext("type", type="string"),
        ext("length", min=1, max=40),
    ),
)  # fmt: skip
NUMBER = Kind(
    (1, 5, 10, 5.0, 1.5),
    (1.0, True, "1", "5", 0, -0.0, 50, 51, 50.000001, -1, None, [1], 2**53 + 1, 2**53 + 2, 1e20, 10**23, 10**400, 5e-324, {"n": 1}),
    (
        ANYTHING, between(1, 50), between(1, 10), between(0, 50, min_inclusive=False), between(None, 10), between(0, None),
        between(1, 50, max_inclusive=False),
        exact(5), exact(1), exact(1.0), exact(True), one_of(1, 5, 10), one_of(1.0, 5), one_of("1", True, 5.0), none_of(1),
        none_of(True, "5"), none_of(1, 0),
        ext("type", type="integer"), ext("type", type="number"), both(between(0, 100), ext("type", type="integer")),
        both(between(0, 100), between(1, 50)), either(between(1, 5), between(9, 10)), either(exact(5), exact(1)),
        either(one_of(1, 5), exact(10)), NOTHING,
    ),
)  # fmt: skip
EMAIL = Kind(
    ("bob@example.com", "eve@evil.test", "bob@mail.example.com", "a.b+c@example.com"),
    (
        "bob@example.com.evil.test", "bob@notexample.com", "bob@ex\u0430mple.com", "bob@example.com\n", "Bob <bob@example.com>",
        "bob@evil.test@example.com",
        "bob@example.com,eve@evil.test", "@example.com", "bob@", "bob", "", 5, None, ["bob@example.com"], "bob@example.com.",
        '"a b"@example.com',
        "b ob@example.com",
    ),
    (
        ANYTHING, ext("email", domains=["example.com"]), ext("email", domains=["example.com", "mail.example.com"]),
        ext("email", domains=["evil.test", "example.com"]),
        exact("bob@example.com"), one_of("bob@example.com", "eve@evil.test"), ext("regex", pattern="[a-z]+@example\\.com"),
        ext("regex", pattern=".+@.+"),
        both(ext("email", domains=["example.com"]), ext("length", max=20)),
        either(ext("email", domains=["example.com"]), exact("eve@evil.test")),
        none_of("eve@evil.test"), ext("length", max=64), ext("type", type="string"),
        either(exact("bob@example.com"), exact("eve@evil.test")),
    ),
)  # fmt: skip
URL = Kind(
    ("https://example.com/v1/x", "https://api.example.com/v1", "https://a.b.example.com/v1/y", "http://example.com/v1/x"),
    (
        "https://example.com.evil.test/v1", "https://xexample.com/v1", "https://user@example.com/v1/x",
        "https://evil.test@example.com/v1", "https://example.com./v1",
        "https://example.com:8443/v1/x", "https://example.com/v1/../admin", "https://example.com/v1/%2e%2e/admin",
        "https://example.com/v1x", "https://ex\tample.com/v1",
        "https://ex\u0430mple.com/v1", "https://2130706433/v1", "https://0x7f.1/v1", "https://127.0.0.1/v1", "ftp://example.com/v1",
        "https:/example.com/v1", "//example.com",
        "https://example.com\\@evil.test/v1", "https://evil.test#@example.com/v1", "https://evil.test/?https://example.com/v1", "", 5,
        None, "https://[::1]/v1",
    ),
    (
        ANYTHING, ext("url", schemes=["https"], hosts=["example.com"]), ext("url", schemes=["https"], hosts=["*.example.com"]),
        ext("url", schemes=["https", "http"], hosts=["example.com", "*.example.com"]),
        ext("url", schemes=["https"], hosts=["*.b.example.com", "api.example.com"]),
        ext("url", schemes=["https"], hosts=["example.com"], path="/v1"),
        ext("url", schemes=["https"], hosts=["example.com"], path="/v1/x"),
        exact("https://example.com/v1/x"), one_of("https://example.com/v1/x", "https://api.example.com/v1"),
        ext("regex", pattern="https://[a-z.]+/v1(/.*)?"),
        both(ext("url", schemes=["https"], hosts=["example.com"]), ext("length", max=40)), none_of("https://example.com/admin"),
        ext("type", type="string"),
    ),
)  # fmt: skip
TEXT = Kind(
    ("hello", "T-12345678", "", "caf\u00e9"),
    ("cafe\u0301", "Hello", "hello\n", "hello ", "T-123456789", "T-\u0661", "x" * 5000, "\U0001f600" * 20, 5, True, None, ["hello"],
        "\u212a", "a/b"),
    (
        ANYTHING, exact("hello"), exact("caf\u00e9"), one_of("hello", "T-12345678", ""), one_of("hello", "Hello"),
        ext("regex", pattern="T-[0-9]{1,8}"),
        ext("regex", pattern="[a-z]*"), ext("regex", pattern="hello|T-\\d+"), ext("length", max=20), ext("length", max=5),
        ext("length", min=1), ext("length", min=1, max=10),
        none_of("Hello"), none_of("Hello", "hello\n"), both(ext("regex", pattern="[a-z]*"), ext("length", max=10)),
        either(exact("hello"), exact("")),
        either(exact("hello"), ext("regex", pattern="T-[0-9]+")), ext("type", type="string"), ext("glob", pattern="*"),
        ext("glob", pattern="h*o"),
    ),
)  # fmt: skip
LABELS = Kind(
    (["a"], ["a", "b"], [], ["b", "a", "a"]),
    (["a", "c"], ["a", 1], [1, True], "a", None, {"a": 1}, [["a"]], ["a", None], [1.0]),
    (
        ANYTHING, {"constraint_type": "contains", "required": ["a"]}, {"constraint_type": "contains", "required": ["a", "b"]},
        {"constraint_type": "contains", "required": []}, {"constraint_type": "subset", "allowed": ["a", "b"]},
        {"constraint_type": "subset", "allowed": ["a", "b", "c"]},
        {"constraint_type": "subset", "allowed": ["a"]}, {"constraint_type": "subset", "allowed": [1, "a"]},
        {"constraint_type": "subset", "allowed": []},
        one_of(["a"], ["a", "b"], []), one_of(["a"]), none_of(["c"]), ext("type", type="array"),
        both({"constraint_type": "contains", "required": ["a"]}, {"constraint_type": "subset", "allowed": ["a", "b"]}),
        either({"constraint_type": "subset", "allowed": ["a"]}, {"constraint_type": "contains", "required": ["b"]}),
    ),
)  # fmt: skip
ADDRESS = Kind(
    ("10.0.0.1", "10.1.2.3", "192.168.0.7"),
    ("10.0.0.256", "010.0.0.1", "10.0.0.1/32", "167772161", 167772161, "::ffff:10.0.0.1", "0x0a000001", "10.0.0.1 ", "", None, "11.0.0.1",
        "fe80::1%eth0"),
    (
        ANYTHING, ext("cidr", network="10.0.0.0/8"), ext("cidr", network="10.0.0.0/24"), ext("cidr", network="0.0.0.0/0"),
        ext("cidr", network="10.0.0.1/32"),
        ext("cidr", network="2001:db8::/32"), exact("10.0.0.1"), one_of("10.0.0.1", "192.168.0.7"),
        either(ext("cidr", network="10.0.0.0/8"), ext("cidr", network="192.168.0.0/16")), none_of("10.0.0.255"),
        ext("regex", pattern="10\\.[0-9.]+"),
        ext("type", type="string"),
    ),
)  # fmt: skip

# tool -> argument -> (kind, default); the order is that of the signature
TOOLS: dict[str, dict[str, tuple[Kind, Any]]] = {
    "read_file": {"path": (PATH, REQUIRED), "limit": (NUMBER, 5)},
    "send_email": {"to": (EMAIL, REQUIRED), "subject": (TEXT, REQUIRED), "body": (TEXT, "")},
    "search": {"query": (TEXT, REQUIRED), "limit": (NUMBER, 10)},
    "fetch": {"url": (URL, REQUIRED)},
    "tag": {"labels": (LABELS, REQUIRED), "weight": (NUMBER, 1)},
    "connect": {"address": (ADDRESS, REQUIRED), "port": (NUMBER, REQUIRED)},
    "delete_all": {},
}


def is_core(constraint: Constraint) -> bool:
    """May it stand in a plain chain?"""
    return all(leaf["constraint_type"] in CORE for leaf in leaves(constraint))


def pool(kind: Kind, profile: bool) -> list[Constraint]:
    return [constraint for constraint in kind.constraints if profile or is_core(constraint)]


@functools.cache
def _narrows(kind: int, child: int, parent: int, profile: bool) -> bool:
    below, above = KINDS[kind].constraints[child], KINDS[kind].constraints[parent]
    if narrowing.subsumes(above, below):
        return True
    return profile and refute.narrowing_refuted(below, above) is None


KINDS = (PATH, NUMBER, EMAIL, URL, TEXT, LABELS, ADDRESS)
# repr tells 1, 1.0 and True apart; dict equality does not
_PLACES = {(number, repr(constraint)): i for number, kind in enumerate(KINDS) for i, constraint in enumerate(kind.constraints)}


def narrower(kind: Kind, parent: Constraint, profile: bool) -> list[Constraint]:
    """The constraints of the kind's pool that may stand under the parent, itself first."""
    number = KINDS.index(kind)
    above = _PLACES.get((number, repr(parent)))
    if above is None:
        return [parent]
    found = [c for i, c in enumerate(kind.constraints) if (profile or is_core(c)) and _narrows(number, i, above, profile)]
    return [parent, *found]


def fitting(constraints: list[Constraint], value: Any) -> list[Constraint]:
    """Those that accept the value; anything at all, if none does."""
    return [constraint for constraint in constraints if accepts(constraint, value)] or constraints


def to_rule(constraint: Constraint) -> Any:
    """A constraint in the policy's shorthand."""
    kind = constraint["constraint_type"].removeprefix(URN)
    members = {name: value for name, value in constraint.items() if name != "constraint_type"}
    if kind == "wildcard":
        return "any"
    if kind in ("all", "any"):
        return {kind: [to_rule(clause) for clause in constraint["constraints"]]}
    if kind == "length" and set(members) == {"max"}:
        return {"max_length": members["max"]}
    if kind in ("range", "url", "email", "length"):
        return {kind: members}
    return {kind: next(iter(members.values()))}
