"""Extension constraints on addresses: url, email, cidr (DESIGN §5).

They accept only what every parser reads alike (PITFALLS "URLs, SSRF"): lower-case ASCII hosts of whole labels, no user information, no
number in disguise, no white space. Nothing is folded, decoded or resolved; redirects and name resolution are for the place that connects.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from agentguard.canonical import Frozen, Json
from agentguard.constraints.matchers import PREFIX, Path, plain_root, text_member
from agentguard.constraints.values import ARRAYS, shorten, show
from agentguard.constraints.vocabulary import Constraint, put
from agentguard.errors import InvalidInput

MAX_URL: Final = 8192
MAX_EMAIL: Final = 254  # RFC 5321 §4.5.3.1.3, less the angle brackets
MAX_LOCAL: Final = 64  # RFC 5321 §4.5.3.1.1
MAX_HOST: Final = 253

_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
#: The URL standard reads a host whose last label is a number as an IPv4 address: 2130706433, 0x7f.1, 127.1.
_NUMERIC_LABEL: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]{0,31}")
DEFAULT_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443, "ftp": 21}
_URL: Final = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]{0,31})://(?P<host>[a-z0-9.-]{1,253})(?::(?P<port>[1-9][0-9]{0,4}))?(?:(?P<path>/[^?#]*)(?:[?#].*)?)?"
)
#: RFC 3986 §2 without the brackets, which only IPv6 literals need: what is missing here, some parser rewrites or drops.
_URL_CHARACTERS: Final = re.compile(r"[A-Za-z0-9._~:/?#@!$&'()*+,;=%-]+")
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
#: RFC 5321 §4.1.2 dot-string, less `%` and `!`, by which old relays route to a second address inside the first.
_LOCAL: Final = re.compile(r"[A-Za-z0-9#$&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9#$&'*+/=?^_`{|}~-]+)*")


def is_plain_host(text: str) -> bool:
    """Whether `text` is a lower-case ASCII host name (RFC 1123 §2.1) that no parser takes for an address."""
    return len(text) <= MAX_HOST and _HOST.fullmatch(text) is not None and _NUMERIC_LABEL.fullmatch(text.rpartition(".")[2]) is None


def _is_ipv4(text: str) -> bool:
    try:
        return str(ipaddress.IPv4Address(text)) == text
    except ValueError:
        return False


def url_parts(value: Frozen) -> tuple[str, str, int | None, str | None] | None:
    """(scheme, host, port, path) of a text that every parser reads as the same URL; None for any other value.

    The port is the scheme's own where the text names none, None where the scheme has none. The path is None where a server may read it
    in another way than it looks (`;`); whether it is plain is for `Path` to say.
    """
    if type(value) is not str or len(value) > MAX_URL or _URL_CHARACTERS.fullmatch(value) is None:
        return None
    match = _URL.fullmatch(value)
    if match is None or ("%" in value and _BAD_ESCAPE.search(value) is not None):
        return None
    scheme, host, port, path = match.groups()
    return scheme, host, DEFAULT_PORTS.get(scheme) if port is None else int(port), "/" if path is None else None if ";" in path else path


def mail_domain(value: Frozen) -> str | None:
    """What stands behind the `@` of one bare mail address; None for any other value. Whether it is a host is for `HostSet` to say."""
    if type(value) is not str or len(value) > MAX_EMAIL:
        return None
    local, _, domain = value.partition("@")
    return domain if len(local) <= MAX_LOCAL and _LOCAL.fullmatch(local) is not None else None


def plain_address(value: Frozen) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address that a text in canonical form is; None for any other value, also for IPv4-mapped addresses and zones."""
    if type(value) is not str or len(value) > 45 or "%" in value:
        return None
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        return None
    if type(address) is ipaddress.IPv6Address and address.ipv4_mapped is not None:
        return None
    return address if str(address) == value else None


def _texts(value: Any, what: str) -> tuple[str, ...]:
    if type(value) not in ARRAYS or not value or not all(type(item) is str for item in value):
        raise InvalidInput(f"{what} must be a non-empty array of strings, found {show(value)}")
    return tuple(value)


class HostSet:
    """Host patterns: a name, or `*.` and a name for one or more whole labels in front of it; an IPv4 literal only as itself."""

    __slots__ = ("_exact", "_suffixes")

    def __init__(self, patterns: Iterable[str], what: str, *, addresses: bool) -> None:
        exact, suffixes = set(), set()
        for pattern in patterns:
            name = pattern.removeprefix("*.")
            if not is_plain_host(name) and not (addresses and name == pattern and _is_ipv4(name)):
                raise InvalidInput(f"{what}: {show(pattern)} is not a host", hint="lower-case ASCII such as example.com or *.example.com")
            if name == pattern:
                exact.add(name)
            else:
                suffixes.add(pattern[1:])
        self._exact = frozenset(exact)
        self._suffixes = frozenset(suffixes)

    def holds(self, host: str) -> bool:
        return host in self._exact or (self._under(host) and is_plain_host(host))

    def _under(self, name: str) -> bool:
        """Whether `name` ends in one of the suffixes, at a dot. As many look-ups as dots, however many suffixes there are."""
        if self._suffixes:
            dot = name.find(".")
            while dot >= 0:
                if name[dot:] in self._suffixes:
                    return True
                dot = name.find(".", dot + 1)
        return False

    def covers(self, other: HostSet) -> bool:
        """Whether every host that `other` holds is one of mine."""
        return all(name in self._exact or self._under(name) for name in other._exact) and all(map(self._under, other._suffixes))


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Url(Constraint):
    """An absolute URL with one of `schemes`, a host of `hosts`, one of `ports` and a path under `path`.

    Without `schemes` only https, without `ports` only the scheme's own port, without `path` every path.

    Refused whatever the members say: user information, upper case in scheme or host, a host that reads as a number or ends in a dot, IPv6
    literals, a query or fragment right behind the host, characters outside RFC 3986. With `path` the path is compared by components, and
    `%`, `;`, `//` and dot components are refused in it, since servers differ in what they make of them.
    """

    kind = PREFIX + "url"
    needs = frozenset({"hosts"})
    takes = frozenset({"schemes", "path", "ports"})
    hosts: tuple[str, ...]
    schemes: tuple[str, ...] = ("https",)
    path: str | None = None
    ports: tuple[int, ...] = ()
    _hosts: HostSet = field(init=False)
    _path: Path | None = field(init=False)
    _ports: dict[str, frozenset[int | None]] = field(init=False)

    def __post_init__(self) -> None:
        put(self, "hosts", _texts(self.hosts, "url.hosts"))
        put(self, "schemes", _texts(self.schemes, "url.schemes"))
        for scheme in self.schemes:
            if _SCHEME.fullmatch(scheme) is None:
                raise InvalidInput(f"url.schemes: {show(scheme)} is not a lower-case scheme")
        if type(self.ports) not in ARRAYS or not all(type(port) is int and 0 < port < 65536 for port in self.ports):
            raise InvalidInput("url.ports must be an array of port numbers")
        put(self, "ports", tuple(self.ports))
        put(self, "_ports", {scheme: frozenset(self.ports or (DEFAULT_PORTS.get(scheme),)) for scheme in self.schemes})
        put(self, "_hosts", HostSet(self.hosts, "url.hosts", addresses=True))
        put(self, "_path", None if self.path is None else Path(plain_root(self.path, "url.path")))

    def check(self, value: Frozen) -> bool:
        parts = url_parts(value)
        if parts is None:
            return False
        scheme, host, port, path = parts
        ports = self._ports.get(scheme)
        if ports is None or port not in ports or not self._hosts.holds(host):
            return False
        return self._path is None or (path is not None and self._path.check(path))

    def members(self) -> dict[str, Json]:
        result: dict[str, Json] = {"schemes": list(self.schemes), "hosts": list(self.hosts)}
        if self.path is not None:
            result["path"] = self.path
        if self.ports:
            result["ports"] = list(self.ports)
        return result

    def describe(self) -> str:
        where = f", port {' or '.join(map(str, self.ports))}" if self.ports else ""
        where += "" if self.path is None else f", path under {self.path}"
        return shorten(f"a URL with scheme {' or '.join(self.schemes)}, host {' or '.join(self.hosts)}{where}")

    def covers(self, other: Url) -> bool:
        """Whether every URL that `other` accepts is one of mine."""
        if not self._hosts.covers(other._hosts):
            return False
        if not all(ports <= self._ports.get(scheme, frozenset()) for scheme, ports in other._ports.items()):
            return False
        return self._path is None or (other._path is not None and self._path.covers(other._path))


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Email(Constraint):
    """One bare mail address (RFC 5321 dot-string local part) whose domain is one of `domains`: no quotes, no display name, no list."""

    kind = PREFIX + "email"
    needs = frozenset({"domains"})
    domains: tuple[str, ...]
    _hosts: HostSet = field(init=False)

    def __post_init__(self) -> None:
        put(self, "domains", _texts(self.domains, "email.domains"))
        put(self, "_hosts", HostSet(self.domains, "email.domains", addresses=False))

    def check(self, value: Frozen) -> bool:
        domain = mail_domain(value)
        return domain is not None and self._hosts.holds(domain)

    def members(self) -> dict[str, Json]:
        return {"domains": list(self.domains)}

    def describe(self) -> str:
        return shorten(f"an e-mail address at {' or '.join(self.domains)}")

    def covers(self, other: Email) -> bool:
        """Whether every address that `other` accepts is one of mine."""
        return self._hosts.covers(other._hosts)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Cidr(Constraint):
    """An IP address in canonical text form (RFC 5952 for IPv6) that lies in `network`.

    IPv4-mapped IPv6 addresses and zones are refused: what such a text reaches is not what it says.
    """

    kind = PREFIX + "cidr"
    needs = frozenset({"network"})
    network: str
    _net: ipaddress.IPv4Network | ipaddress.IPv6Network = field(init=False)

    def __post_init__(self) -> None:
        text = text_member(self.network, "cidr.network", 64)
        try:
            net = ipaddress.ip_network(text)
        except ValueError as error:
            raise InvalidInput(f"cidr.network: {error}") from None
        if str(net) != text or "%" in text:
            raise InvalidInput(f"cidr.network {show(text)} is not in canonical form", hint=f"write {net}")
        put(self, "_net", net)

    def check(self, value: Frozen) -> bool:
        address = plain_address(value)
        return address is not None and address in self._net

    def members(self) -> dict[str, Json]:
        return {"network": self.network}

    def describe(self) -> str:
        return f"an address in {self.network}"

    def covers(self, other: Cidr) -> bool:
        """Whether `other` is a subnet of mine."""
        mine, theirs = self._net, other._net
        return mine.version == theirs.version and theirs.network_address in mine and theirs.prefixlen >= mine.prefixlen
