"""A value as Cedar is told of it, and a constraint as Cedar asks for it: both over the same facts (docs/policy-export.md).

Cedar has no null, no floating point number, no length of a text and no parser of addresses. So the request carries, for each argument, what
the value is in terms that Cedar can compare, and the expression of a constraint compares just these. For every value, the expression is
true exactly where the constraint accepts it; what has no such expression raises `Inexpressible`. A fact that is missing never permits.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any, Final

from agentguard.analysis.cedar_pattern import glob, regex, runs_of, shape_of
from agentguard.analysis.cedar_text import Inexpressible, among, both, either, has, like, listed, member, not_, quoted
from agentguard.canonical import Frozen, jcs, number
from agentguard.constraints.addresses import DEFAULT_PORTS, Cidr, Email, Url, is_plain_host, mail_domain, plain_address, url_parts
from agentguard.constraints.matchers import Glob, Length, Path, Regex, TypeIs, is_plain_path
from agentguard.constraints.values import ARRAYS, shorten
from agentguard.constraints.vocabulary import AllOf, AnyOf, Constraint, Contains, Exact, NotOneOf, OneOf, Range, Subset, Wildcard

#: The types of the facts, as Cedar's schema declares them.
TYPES: Final = """\
type Url = {
  scheme: String,
  host: String,
  port?: Long,         // the scheme's own where the text names none
  path?: String        // where every server reads it alike
};
type Number = {        // beyond the largest that Cedar has, the largest
  floor: Long,         // the next whole number below or equal,
  ceiling: Long,       // above or equal,
  floor4: decimal,     // and the same to four places
  ceiling4: decimal
};
type Text = {
  value: String,       // itself
  length: Long,        // how many code points it has
  shape: String,       // itself with 0 for each digit, a for each small letter, A for each capital (of ASCII),
  runs: String,        // and that with one sign for each run of the same
  path?: String,       // itself, if it is a plain absolute path
  domain?: String,     // what stands behind the @, if it is one bare mail address
  address?: ipaddr,    // what it denotes, if it is an IP address in canonical form
  url?: Url            // its parts, if it is a URL that every parser reads alike
};
type Value = {
  kind: String,        // null, boolean, integer, number (written with a fraction), string, array, object
  text?: Text,         // of a string
  number?: Number,     // of a number
  items?: Set<String>, // of an array: the JCS forms (RFC 8785) of its elements
  json?: String        // of all but a string: its JCS form
};
"""
#: What a number beyond Cedar's is said to be. No bound in an expression is as large, so every comparison comes out as it should.
_LARGEST: Final = 2**63 - 1
_PLACES: Final = 4
_KINDS: Final = {str: "string", bool: "boolean", type(None): "null", int: "integer", float: "number"}
#: Names of members that Cedar's JSON form of a request reads as something else than a member.
ESCAPES: Final = frozenset({"__entity", "__extn", "__expr"})


# --- values ---------------------------------------------------------------------------------------------------------------------------


def facts(value: Frozen) -> dict[str, Any]:
    """What Cedar is told of one admissible value, in the JSON form of Cedar's requests."""
    kind = type(value)
    if kind is str:
        return {"kind": "string", "text": _text_facts(value)}
    found: dict[str, Any] = {"kind": _KINDS.get(kind) or ("array" if kind in ARRAYS else "object"), "json": _json(value)}
    if kind is int or kind is float:
        found["number"] = _number_facts(value)
    elif kind in ARRAYS:
        found["items"] = sorted(set(map(_json, value)))
    return found


def _json(value: Frozen) -> str:
    return jcs(value).decode("utf-8")


def _text_facts(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {"value": text, "length": len(text), "shape": shape_of(text), "runs": runs_of(text)}
    if is_plain_path(text):
        found["path"] = text
    domain = mail_domain(text)
    if domain is not None and is_plain_host(domain):
        found["domain"] = domain
    if plain_address(text) is not None:
        found["address"] = {"__extn": {"fn": "ip", "arg": text}}
    parts = url_parts(text)
    if parts is not None and (is_plain_host(parts[1]) or plain_address(parts[1]) is not None):
        scheme, host, port, path = parts
        found["url"] = {"scheme": scheme, "host": host} | ({} if port is None else {"port": port})
        if path is not None and is_plain_path(path):
            found["url"]["path"] = path
    return found


def _number_facts(value: int | float) -> dict[str, Any]:
    exact = Decimal(str(value) if type(value) is int else number(value))
    scaled = exact.scaleb(_PLACES)
    found: dict[str, Any] = {}
    for name, rounding in (("floor", ROUND_FLOOR), ("ceiling", ROUND_CEILING)):
        found[name] = _clamped(int(exact.to_integral_value(rounding)))
        places = _clamped(int(scaled.to_integral_value(rounding)))
        found[f"{name}{_PLACES}"] = {"__extn": {"fn": "decimal", "arg": _decimal(places)}}
    return found


def _clamped(whole: int) -> int:
    return max(-_LARGEST, min(_LARGEST, whole))


def _decimal(scaled: int) -> str:
    whole, rest = divmod(abs(scaled), 10**_PLACES)
    return f"{'-' if scaled < 0 else ''}{whole}.{rest:0{_PLACES}}"


# --- constraints ----------------------------------------------------------------------------------------------------------------------


def expression(constraint: Constraint, at: str) -> str:
    """What Cedar asks of the facts at `at`. Raises Inexpressible."""
    build = _EXPRESSIONS.get(type(constraint))
    if build is None:
        raise Inexpressible(f"Cedar has no word for {constraint.kind}")
    return build(constraint, at)


def equal(at: str, values: Iterable[Frozen]) -> str:
    """Whether it is one of these values."""
    given = list(values)
    texts = [value for value in given if type(value) is str]
    others = [_json(value) for value in given if type(value) is not str]
    found = [both((has(at, "text"), among(f"{at}.text.value", texts)))] if texts else []
    return either([*found, *([both((has(at, "json"), among(member(at, "json"), others)))] if others else [])])


def _not_one_of(constraint: NotOneOf, at: str) -> str:
    return not_(equal(at, constraint.excluded)) if constraint.excluded else "true"


def _contains(constraint: Contains, at: str) -> str:
    wanted = list(map(_json, constraint.required))
    return both((has(at, "items"), f"{member(at, 'items')}.containsAll({listed(wanted)})" if wanted else "true"))


def _subset(constraint: Subset, at: str) -> str:
    if not constraint.allowed:
        return equal(at, ((),))
    return both((has(at, "items"), f"{listed(map(_json, constraint.allowed))}.containsAll({member(at, 'items')})"))


def _range(constraint: Range, at: str) -> str:
    parts = [has(at, "number")]
    for bound, inclusive, sign in ((constraint.min, constraint.min_inclusive, ">"), (constraint.max, constraint.max_inclusive, "<")):
        if bound is not None:
            parts.append(compared(at, f"{sign}=" if inclusive else sign, Decimal(str(bound) if type(bound) is int else number(bound))))
    return both(parts)


def compared(at: str, sign: str, bound: int | Decimal) -> str:
    """A number against a bound, by `<`, `<=`, `>` or `>=`. Raises Inexpressible.

    `v >= b` is `floor(v) >= b`, and `v > b` is `ceiling(v) > b`: for a whole bound, and to four places for one with four places.
    """
    exact = Decimal(bound)
    name = "floor" if sign in (">=", "<") else "ceiling"
    if exact == exact.to_integral_value() and abs(exact) < _LARGEST:
        return f"{at}.number.{name} {sign} {int(exact)}"
    scaled = exact.scaleb(_PLACES)
    if scaled != scaled.to_integral_value() or abs(scaled) >= _LARGEST:
        raise Inexpressible(f"the bound {shorten(str(exact))} is no Long and no decimal of Cedar")
    method = {">=": "greaterThanOrEqual", ">": "greaterThan", "<=": "lessThanOrEqual", "<": "lessThan"}[sign]
    return f"{at}.number.{name}{_PLACES}.{method}(decimal({quoted(_decimal(int(scaled)))}))"


def _all(constraint: AllOf, at: str) -> str:
    return both(expression(clause, at) for clause in constraint.constraints)


def _any(constraint: AnyOf, at: str) -> str:
    return either(expression(clause, at) for clause in constraint.constraints)


def _type(constraint: TypeIs, at: str) -> str:
    kind = member(at, "kind")
    return f'["integer", "number"].contains({kind})' if constraint.type == "number" else f"{kind} == {quoted(constraint.type)}"


def _length(constraint: Length, at: str) -> str:
    length = f"{at}.text.length"
    low = f"{length} >= {constraint.low}" if constraint.low else "true"
    high = f"{length} <= {constraint.max}" if constraint.max is not None else "true"
    return both((has(at, "text"), low, high))


def _under(path: str, root: str) -> str:
    """A plain path at or under a root, by components."""
    return f"{path} like {like('/', '')}" if root == "/" else either((f"{path} == {quoted(root)}", f"{path} like {like(root + '/', '')}"))


def _path(constraint: Path, at: str) -> str:
    text = member(at, "text")
    return both((has(at, "text"), has(text, "path"), _under(member(text, "path"), constraint.root)))


def _host(host: str, patterns: Iterable[str]) -> str:
    """A plain host that one of the patterns names. Behind a plain host's `*.` there is one whole label at least."""
    given = sorted(set(patterns))
    exact = [pattern for pattern in given if not pattern.startswith("*.")]
    found = [among(host, exact)] if exact else []
    return either([*found, *(f"{host} like {like('', pattern[1:])}" for pattern in given if pattern.startswith("*."))])


def _email(constraint: Email, at: str) -> str:
    text = member(at, "text")
    return both((has(at, "text"), has(text, "domain"), _host(member(text, "domain"), constraint.domains)))


def _url(constraint: Url, at: str) -> str:
    text = member(at, "text")
    url = member(text, "url")
    scheme, port, path = (member(url, name) for name in ("scheme", "port", "path"))
    fronts = []
    for name in sorted(set(constraint.schemes)):
        allowed: list[int | None] = [*sorted(set(constraint.ports))] or [DEFAULT_PORTS.get(name)]
        ports = (not_(has(url, "port")) if each is None else both((has(url, "port"), f"{port} == {each}")) for each in allowed)
        fronts.append(both((f"{scheme} == {quoted(name)}", either(ports))))
    below = both((has(url, "path"), _under(path, constraint.path))) if constraint.path is not None else "true"
    return both((has(at, "text"), has(text, "url"), either(fronts), _host(member(url, "host"), constraint.hosts), below))


def _cidr(constraint: Cidr, at: str) -> str:
    network = ipaddress.ip_network(constraint.network)
    text = member(at, "text")
    return both((has(at, "text"), has(text, "address"), f"{member(text, 'address')}.isInRange(ip({quoted(str(network))}))"))


_EXPRESSIONS: Final[dict[type[Constraint], Callable[[Any, str], str]]] = {
    Exact: lambda constraint, at: equal(at, (constraint.value,)),
    OneOf: lambda constraint, at: equal(at, constraint.values),
    NotOneOf: _not_one_of,
    Range: _range,
    Contains: _contains,
    Subset: _subset,
    Wildcard: lambda constraint, at: "true",
    AllOf: _all,
    AnyOf: _any,
    TypeIs: _type,
    Length: _length,
    Path: _path,
    Email: _email,
    Url: _url,
    Glob: lambda constraint, at: both((has(at, "text"), glob(f"{at}.text", constraint.pattern))),
    Cidr: _cidr,
    Regex: lambda constraint, at: both((has(at, "text"), regex(f"{at}.text", constraint.pattern))),
}
