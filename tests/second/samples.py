"""Values worth trying against some constraints: their constants, the neighbours of these, and a few of every type."""

from __future__ import annotations

import ipaddress
import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any

from . import canon, lexical, regex_samples
from .constraints import URN, Constraint

GENERIC: list[Any] = [None, True, False, 0, 1, -1, 1.5, 10**6, "", "x", "zz", "1", "/", "é", "x" * 5000, [], ["x"], [[]], {}, {"a": 1}]
MAX_SET = 6
FRESH = "fresh-value"


def leaves(constraint: Constraint) -> Iterator[Constraint]:
    """The constraint and every clause in it."""
    yield constraint
    for clause in constraint.get("constraints", []):
        yield from leaves(clause)


def probes(*constraints: Constraint) -> list[Any]:
    """Distinct admissible values (distinct in type too: ``1`` and ``1.0`` are both tried)."""
    parts = [leaf for constraint in constraints for leaf in leaves(constraint)]
    values = list(itertools.chain(GENERIC, *(_of_one(part) for part in parts), _urls(parts), _lists(parts)))
    values += _resized(values, parts)
    found: dict[tuple[bytes, bool], Any] = {}
    for value in values:
        if canon.admissible(value):
            found.setdefault((canon.jcs(value), isinstance(value, float)), value)
    return list(found.values())


def _near(value: Any) -> Iterator[Any]:
    """A constant and the values just beside it."""
    yield value
    if canon.is_number(value):
        double = float(value)
        yield from (double, double + 1, double - 1, double / 2, math.nextafter(double, math.inf), math.nextafter(double, -math.inf))
        if double.is_integer():
            yield from (int(double), int(double) + 1, int(double) - 1)
    elif isinstance(value, str):
        yield from (value + "x", value + "/x", "x" + value, value.upper(), value[:-1])
    elif isinstance(value, list):
        yield from ([*value, FRESH], value[:-1])


def _of_one(part: Constraint) -> Iterator[Any]:
    kind = part["constraint_type"].removeprefix(URN)
    if kind == "exact":
        yield from _near(part["value"])
    elif kind == "range":
        bounds = [part[name] for name in ("min", "max") if name in part]
        yield from itertools.chain.from_iterable(_near(bound) for bound in bounds)
        yield sum(float(bound) / 2 for bound in bounds)
    elif kind in ("one_of", "not_one_of"):
        yield from itertools.chain.from_iterable(_near(value) for value in part["values" if kind == "one_of" else "excluded"])
    elif kind == "path":
        root = part["root"].rstrip("/")
        yield from (
            "/" + "/".join(root.split("/")[1:-1]),
            root + "/x",
            root + "/a/b.txt",
            root + "/a//b",
            root + "x",
            root or "/",
            "/other/x",
        )
    elif kind == "glob":
        for filling in ("", "x", "a.b", "x" * 40, "..", "%2e", "\\", "\0", "secret"):
            yield part["pattern"].replace("*", filling)
    elif kind == "regex":
        yield from regex_samples.samples(part["pattern"])
    elif kind == "cidr":
        yield from _addresses(part["network"])
    elif kind == "email":
        for domain in part["domains"]:
            yield from (f"a@{domain}", f"a.b+c@{domain}", f"a@x.{domain}", f"a@x{domain}", "x" * 60 + f"@{domain}")
    elif kind == "length":
        yield from ("y" * length for length in _lengths([part]))
    elif kind == "type":
        yield from (0, 0.5, 1.0)


def _addresses(text: str) -> Iterator[str]:
    net = lexical.network(text)
    if net is None:
        return
    kind = ipaddress.IPv4Address if net.version == 4 else ipaddress.IPv6Address
    first, last = int(net.network_address), int(net.broadcast_address)
    for number in (first, last, first - 1, last + 1, (first + last) // 2):
        if 0 <= number < 2**net.max_prefixlen:
            yield str(kind(number))


def _lengths(parts: Iterable[Constraint]) -> list[int]:
    bounds = {part[name] for part in parts if part["constraint_type"] == URN + "length" for name in ("min", "max") if name in part}
    return sorted({length for bound in bounds for length in (bound - 1, bound, bound + 1) if 0 <= length <= 20_000})


def _urls(parts: list[Constraint]) -> list[str]:
    """Every scheme with every host, port and path that occurs in any of the constraints, and neighbours of these."""
    urls = [part for part in parts if part["constraint_type"] == URN + "url"]
    if not urls:
        return []
    schemes = {scheme for part in urls for scheme in part.get("schemes", [])} | {"https", "http", "ftp"}
    ports = {port for part in urls for port in part.get("ports", [])} | {8443}
    hosts: set[str] = {"other.test"}
    for pattern in {pattern for part in urls for pattern in part["hosts"]}:
        bare = pattern.removeprefix("*.")
        hosts |= {bare, f"a.{bare}", f"a.b.{bare}", f"x{bare}"}
    paths: set[str] = {"", "/", "/other"}
    for root in {part["path"].rstrip("/") for part in urls if "path" in part}:
        paths |= {root, f"{root}/x", f"{root}x", f"{root}/x?q=1"}
    endings = sorted({"", *(f":{port}" for port in ports)})
    combined = itertools.product(sorted(schemes), sorted(hosts), endings, sorted(paths))
    return [f"{scheme}://{host}{port}{path}" for scheme, host, port, path in combined]


def _lists(parts: list[Constraint]) -> list[Any]:
    """Every subset of the elements that ``contains`` and ``subset`` mention, with and without a fresh one."""
    elements: dict[bytes, Any] = {}
    whole: list[Any] = []
    for part in parts:
        for member in ("required", "allowed"):
            if member in part:
                whole += [part[member], [*part[member], FRESH], part[member][1:], part[member][:-1]]
                elements.update((canon.jcs(value), value) for value in part[member])
    some = list(elements.values())[:MAX_SET]
    for size in range(len(some) + 1):
        for chosen in itertools.combinations(some, size):
            whole += [list(chosen), [*chosen, FRESH]]
    return whole


def _resized(values: list[Any], parts: list[Constraint]) -> list[str]:
    """Strings cut or drawn out to the lengths that ``length`` constraints mention."""
    lengths = _lengths(parts)
    texts = [value for value in values if isinstance(value, str) and value and len(value) < 200]
    return [text[:length] + text[-1] * (length - len(text)) for text in texts[:150] for length in lengths]
