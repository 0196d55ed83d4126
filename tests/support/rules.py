"""Rules of the policy language and values, made by hypothesis: shared by the tests that hold two evaluations against each other."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

Json = Any
NUMBERS: list[Json] = [
    *(0, -0.0, 1, 1.0, 2, 2.5, -1, -0.5, 0.3, 0.30001, 0.1234, 0.12345, 1e-7, 5e-324, 49.99999, 50, 51, 2**53, -(2**53), 1e15),
    *(922337203685477, 922337203685477.5, 922337203685478, 9.223372036854776e18, -9.3e18, 1e23, 1.7976931348623157e308),
]


def words(text: str) -> list[str]:
    """Texts without spaces, in the space of one line."""
    return text.split()


ADDRESSES = words("10.0.0.1 10.1.0.0 010.0.0.1 2001:db8::1 2001:DB8::1 ::ffff:10.0.0.1 :: 0.0.0.0 255.255.255.255 1::1%eth0")
MAIL = words("bob@example.com b@mail.example.com a@b,bob@example.com @example.com b@example.com. b@x@example.com b@.example.com")
URLS = words(
    "https://example.com/ https://example.com http://example.com:443/ https://example.com:8443/api/v1 https://a.example.com/api "
    "https://a@example.com/ https://example.com/api/../x https://example.com/api;x ssh://example.com/ ssh://example.com:22/api "
    "https://10.0.0.1/api https://EXAMPLE.com/ https://example.com/api?x=1#y https://example.com//api https://x.test/example.com"
)
PATHS = [
    *words("/srv /srv/a /srv/ab/c /srv/*/c /srv/ /srv//a /srv/../etc /srvx /srv/a/b.md / srv/a /srv/%41 /srv/."),
    "/srv/a\n",
    "/srv/\u202ea",
]
WORDS = [
    *words(r'a b ab a*b a\b a"b a/b a//b a/./b . .. a/.. * ** \ \* " é 日本 ${a} \u{61} T-7 v1 v12 x.md y/x.md'),
    *("", "'", "\n", "a\nb", "\0", "\x7f", "e\u0301", "\U0001f600", "\u2028", "a//b\nforbid(principal,action,resource);"),
]
TEXTS = [*WORDS, *ADDRESSES, *MAIL, *URLS, *PATHS]
SCALARS: list[Json] = [None, True, False, *NUMBERS, *TEXTS]
COMPOSITES: list[Json] = [
    *([], ["a"], ["a", "b"], ["b", "a", "a"], [1], [1.0], [True], [None], [["a"]], ["1"], ['"a"'], [{}]),
    *({}, {"a": 1}, {"a": 1.0}),
]
VALUES: list[Json] = [*SCALARS, *COMPOSITES]
#: What a policy may hold; a call may hold anything.
CONSTANTS = [value for value in VALUES if type(value) is not str or not set(value) & set("\0\x7f\u2028\u202e")]
NAMES = ["x", "y", "has", "a b", 'q"\\*', "é", "__extn", "__entity"]
TOOLS = ["send", "send_all", "crm/delete_user", 'q"\\*\\', "delete"]
AGENTS = ["one", 'two"\\*', "Agent::x"]

constants = st.lists(st.sampled_from(CONSTANTS), max_size=3)
hosts = st.lists(st.sampled_from(["example.com", "*.example.com", "mail.example.com"]), min_size=1, max_size=2)
bounds = st.sampled_from([None, *NUMBERS])


@st.composite
def ranges(draw: st.DrawFn) -> Json:
    low, high = draw(bounds), draw(bounds)
    if low is not None and high is not None and low > high:
        low, high = high, low
    given = {"min": low, "max": high}
    rule: Json = {name: bound for name, bound in given.items() if bound is not None}
    return {"range": rule | {f"{name}_inclusive": False for name in list(rule) if draw(st.booleans())}}


@st.composite
def urls(draw: st.DrawFn) -> Json:
    url: Json = {"hosts": draw(st.lists(st.sampled_from(["example.com", "*.example.com", "10.0.0.1"]), min_size=1, max_size=2))}
    if draw(st.booleans()):
        url["schemes"] = draw(st.lists(st.sampled_from(["https", "http", "ssh"]), min_size=1, max_size=2))
    if draw(st.booleans()):
        url["ports"] = draw(st.lists(st.sampled_from([443, 22, 8443]), min_size=1, max_size=2))
    if draw(st.booleans()):
        url["path"] = draw(st.sampled_from(["/", "/api", "/api/v1"]))
    return {"url": url}


globs = st.text('ab*/.\\"é?', min_size=1, max_size=6).filter(lambda text: "**" not in text and not {".", ".."} & set(text.split("/")))
PATTERNS = words(
    r"a a|b [ab]b? .*\.md (?s).* (?s)a.*b .+ a.{1,3} [^/]* [^/]*\.md [^/\n]*b T-[0-9]{1,8} v[0-9]{1,2} (ab|c){0,2} a* .*a.* .*a.+ (?i)a.* "
    r"\x{e9}|日.* \** a\*.* .*\*b [^a] a{0} (a|.*b) \.|\.\. ^a$ \ba .{2}a.{3}"
)
regexes = st.sampled_from(PATTERNS)
leaves = st.one_of(
    st.sampled_from([value for value in CONSTANTS if type(value) not in (list, dict)]).map(lambda value: {"exact": value}),
    constants.filter(bool).map(lambda values: {"one_of": values}),
    constants.map(lambda values: {"not_one_of": values}),
    constants.map(lambda values: {"contains": values}),
    constants.map(lambda values: {"subset": values}),
    ranges(),
    urls(),
    st.tuples(st.integers(0, 3), st.integers(0, 9)).map(lambda of: {"length": {"min": of[0], "max": of[0] + of[1]}}),
    st.sampled_from(["/", "/srv", "/srv/a", "/srv/*", '/srv/"*b']).map(lambda root: {"path": root}),
    globs.map(lambda pattern: {"glob": pattern}),
    regexes.map(lambda pattern: {"regex": pattern}),
    st.sampled_from(["10.0.0.0/8", "10.0.0.1/32", "0.0.0.0/0", "2001:db8::/32", "::/0"]).map(lambda network: {"cidr": network}),
    hosts.map(lambda names: {"email": {"domains": names}}),
    st.sampled_from(["string", "integer", "number", "boolean", "null", "array", "object"]).map(lambda kind: {"type": kind}),
    st.just({"wildcard": True}),
)
rules = st.recursive(
    leaves,
    lambda inner: st.builds(
        lambda kind, clauses: {kind: clauses}, st.sampled_from(["all", "any"]), st.lists(inner, min_size=1, max_size=3)
    ),
    max_leaves=4,
)


@st.composite
def entries(draw: st.DrawFn) -> Json:
    rule = draw(rules)
    return {**rule, "optional": True} if draw(st.booleans()) else rule
