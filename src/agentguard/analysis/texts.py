"""What the constraints on text ask for, as conditions on one text: regular languages, lengths, and facts that stay hidden.

A hidden fact (`Hidden`) is one that no regular expression here says: a pattern that is not translated, labels of at most 63 characters. It
is true or false for each text, bounded from both sides, and the same fact is the same wherever it appears. So what follows from the bounds
is proven, and a text that is only a guess is tried on the real constraint.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from agentguard.analysis.regular import (
    ANY_TEXT,
    Alt,
    Cat,
    Chars,
    CharSet,
    Loop,
    Node,
    Untranslatable,
    either,
    join,
    maybe,
    one,
    read_re2,
    seq,
    without,
    word,
)
from agentguard.constraints.addresses import DEFAULT_PORTS, MAX_EMAIL, MAX_HOST, MAX_LOCAL, MAX_URL, Cidr, Email, Url
from agentguard.constraints.matchers import MAX_PATH, Glob, Length, Path, Regex
from agentguard.constraints.values import shorten
from agentguard.constraints.vocabulary import Constraint


@dataclass(frozen=True, slots=True)
class In:
    """The text is in a regular language."""

    language: Node


@dataclass(frozen=True, slots=True)
class Size:
    """The text has `low` to `high` characters."""

    low: int = 0
    high: int | None = None


@dataclass(frozen=True, slots=True)
class Hidden:
    """A fact named `name`. It holds at least where `under` does, and at most where `over` does. `why` it is hidden."""

    name: Hashable
    over: Condition
    under: Condition
    why: str


@dataclass(frozen=True, slots=True)
class Every:
    """All of them."""

    parts: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class Some:
    """One of them; nothing where there is none."""

    parts: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class No:
    """Not so."""

    part: Condition


Condition: TypeAlias = In | Size | Hidden | Every | Some | No

_ALNUM: Final = one("abcdefghijklmnopqrstuvwxyz0123456789")
_LABEL: Final = seq(_ALNUM, maybe(seq(Loop(one("abcdefghijklmnopqrstuvwxyz0123456789-")), _ALNUM)))
_LABELS: Final = Loop(seq(_LABEL, "."), 1)
_HEX: Final = "0123456789abcdefABCDEF"
_UPPER: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_UNRESERVED: Final = f"abcdefghijklmnopqrstuvwxyz{_UPPER}0123456789._~-"
_IN_PATH: Final = f"{_UNRESERVED}:@!$&'()*+,="
_URL_SIGN: Final = either(one(f"{_IN_PATH}/?#;"), seq("%", one(_HEX), one(_HEX)))
_LOCAL_SIGN: Final = Loop(one(f"abcdefghijklmnopqrstuvwxyz{_UPPER}0123456789#$&'*+/=?^_`{{|}}~-"), 1)
_LOCAL: Final = seq(_LOCAL_SIGN, Loop(seq(".", _LOCAL_SIGN)))
_DOTTED: Final = In(seq(maybe(seq(ANY_TEXT, "/")), either(".", ".."), maybe(seq("/", ANY_TEXT))))
_NOT_SLASH: Final = Chars(without(one("/").chars))
_HOST_SIGN: Final = one("abcdefghijklmnopqrstuvwxyz0123456789.-")
#: Counting to 253 in labels that count to 63 each is more than z3 bears. A name of at most 63 letters keeps both limits.
_NAME_SIZE: Final = f"labels of at most 63 and hosts of at most {MAX_HOST} characters"
_URL_NAMES: Final = Hidden(
    "names of a URL",
    Every(),
    In(seq(Loop(one("abcdefghijklmnopqrstuvwxyz0123456789+.-"), 1), "://", Loop(_HOST_SIGN, 1, 63), maybe(seq(one(":/"), ANY_TEXT)))),
    _NAME_SIZE,
)
_MAIL_NAMES: Final = Hidden(
    "names of a mail address", Every(), In(seq(Loop(Chars(without(one("@").chars))), "@", Loop(_HOST_SIGN, 1, 63))), _NAME_SIZE
)
_MAIL_LOCAL: Final = Hidden("local part", Every(), Size(0, MAX_LOCAL), f"local parts of at most {MAX_LOCAL} characters")


def condition(constraint: Constraint) -> Condition | None:
    """What a constraint asks of a text, or None where its type is not one on text."""
    build = _CONDITIONS.get(type(constraint))
    return None if build is None else build(constraint)


def _length(constraint: Length) -> Condition:
    return Size(constraint.low, constraint.max)


@functools.lru_cache(maxsize=512)
def _regex_of(pattern: str) -> Condition:
    try:
        return In(read_re2(pattern))
    except Untranslatable as reason:
        return Hidden(("regex", pattern), Every(), Some(), f"the regex {shorten(pattern)} is not translated: {reason}")


def _regex(constraint: Regex) -> Condition:
    return _regex_of(constraint.pattern)


def _glob(constraint: Glob) -> Condition:
    signs: dict[str, Node] = {"*": Loop(_NOT_SLASH), "?": _NOT_SLASH}
    return Every((In(Cat(tuple(signs.get(sign) or one(sign) for sign in constraint.pattern))), No(_DOTTED)))


@functools.lru_cache(maxsize=1)
def _printable() -> CharSet:
    return join((code, code) for code in range(0x110000) if chr(code).isprintable())


def _component(signs: CharSet) -> Node:
    """A component of a path out of these characters: not empty, not `.`, not `..`."""
    sign, dot = Chars(signs), word(".")
    other = Chars(tuple(_minus(signs, ord("."))))
    return either(seq(other, Loop(sign)), seq(dot, other, Loop(sign)), seq(dot, dot, Loop(sign, 1)))


def _minus(signs: CharSet, code: int) -> CharSet:
    return join(
        (low, high) for part in signs for low, high in ((part[0], min(part[1], code - 1)), (max(part[0], code + 1), part[1])) if low <= high
    )


def _under(root: str, signs: CharSet) -> Node:
    """The paths at or under `root`, of these characters and with no component `.`, `..` or empty, except behind a closing slash."""
    below = seq("/", _component(signs))
    if root == "/":
        return either("/", seq(Loop(below, 1), maybe(word("/"))))
    return seq(root, Loop(below), maybe(word("/")))


def _path(constraint: Path) -> Condition:
    signs = _printable()
    for sign in "/%\\":
        signs = _minus(signs, ord(sign))
    return Every((In(_under(constraint.root, signs)), Size(0, MAX_PATH)))


def _names(patterns: tuple[str, ...]) -> tuple[Node, Node]:
    """The hosts that are named, and those that stand below a `*.`."""
    exact = [pattern for pattern in patterns if not pattern.startswith("*.")]
    return either(*exact), either(*(seq(_LABELS, pattern[2:]) for pattern in patterns if pattern.startswith("*.")))


def _named(build: Callable[[Node], Node], patterns: tuple[str, ...], sizes: Condition) -> Condition:
    exact, below = _names(patterns)
    parts: list[Condition] = [In(build(exact))] if exact != Alt() else []
    if below != Alt():
        parts.append(Every((In(build(below)), sizes)))
    return Some(tuple(parts))


def _email(constraint: Email) -> Condition:
    named = _named(lambda names: seq(_LOCAL, "@", names), constraint.domains, _MAIL_NAMES)
    return Every((named, Size(0, MAX_EMAIL), _MAIL_LOCAL))


def _url(constraint: Url) -> Condition:
    fronts: list[tuple[str, Node]] = []
    for scheme in constraint.schemes:
        default = DEFAULT_PORTS.get(scheme)
        ports = constraint.ports or (default,)
        spelled = ["", *(f":{port}" for port in ports if port is not None)] if default in ports else [f":{port}" for port in ports]
        fronts.append((f"{scheme}://", either(*spelled)))
    rest: Node = maybe(seq("/", Loop(_URL_SIGN)))
    sizes: list[Condition] = [Size(0, MAX_URL)]
    if constraint.path is not None:
        if not set(constraint.path) <= {"/", *_IN_PATH}:
            return Some()  # no URL that is accepted holds such a path
        query = maybe(seq(one("?#"), Loop(_URL_SIGN)))
        rest = seq(_under(constraint.path, one(_IN_PATH).chars), query)
        rest = maybe(rest) if constraint.path == "/" else rest
        sizes.append(Hidden("url path", Every(), Size(0, MAX_PATH), f"paths of at most {MAX_PATH} characters in a URL"))

    def around(names: Node) -> Node:
        return either(*(seq(front, names, port, rest) for front, port in fronts))

    return Every((_named(around, constraint.hosts, _URL_NAMES), *sizes))


def _cidr(constraint: Cidr) -> Condition:
    net = ipaddress.ip_network(constraint.network)
    if net.version == 6:
        over = Every((In(Loop(one("0123456789abcdef:"))), Size(2, 39)))
        return Hidden(("cidr", str(net)), over, Some(), "texts of IPv6 addresses")
    fixed, bits = divmod(net.prefixlen, 8)
    octets = [str(octet) for octet in net.network_address.packed]
    parts: list[Node] = [word(octet) for octet in octets[:fixed]]
    if fixed < 4:
        low = net.network_address.packed[fixed]
        parts += [_numbers(low, low + (256 >> bits)), *[_numbers(0, 256)] * (3 - fixed)]
    return In(seq(parts[0], *(seq(".", part) for part in parts[1:])))


def _numbers(start: int, stop: int) -> Node:
    """Decimal numbers, those with the same digits in front together."""
    last: dict[str, str] = {}
    for digits in map(str, range(start, stop)):
        last[digits[:-1]] = last.get(digits[:-1], "") + digits[-1]
    front: dict[str, list[str]] = {}
    for digits, choice in last.items():
        front.setdefault(choice, []).append(digits)
    return either(*(seq(either(*digits), one(choice)) for choice, digits in front.items()))


_CONDITIONS: Final[dict[type[Constraint], Callable[[Any], Condition]]] = {
    Length: _length,
    Regex: _regex,
    Glob: _glob,
    Path: _path,
    Email: _email,
    Url: _url,
    Cidr: _cidr,
}


def networks(facts: list[Hidden]) -> list[tuple[Hidden, Hidden, bool]]:
    """Pairs of hidden networks of which the first lies in the second (True), or that have no address in common (False)."""
    nets = [(fact, ipaddress.ip_network(fact.name[1])) for fact in facts if isinstance(fact.name, tuple) and fact.name[0] == "cidr"]
    pairs = []
    for fact, net in nets:
        for other, around in nets:
            if fact is not other and net.network_address in around and net.prefixlen >= around.prefixlen:
                pairs.append((fact, other, True))
            elif fact is not other and not net.overlaps(around):
                pairs.append((fact, other, False))
    return pairs
