"""What a path, a URL, an e-mail address, a glob and a network are, lexically. Sources: DESIGN section 5, PITFALLS."""

from __future__ import annotations

import importlib
import ipaddress
import re
from dataclasses import dataclass
from typing import Any

re2: Any = importlib.import_module("re2")

DEFAULT_PORTS = {"http": 80, "https": 443}

_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_NUMERIC_LABEL = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^?#]*)(\?[^#]*)?(#.*)?")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LOCAL = re.compile(rf"{_ATOM}(?:\.{_ATOM})*")


def path_components(text: str) -> list[str] | None:
    """The components of an absolute path; ``None`` where it must be refused. ``//`` and ``.`` count as nothing."""
    if not text.startswith("/") or any(c in text for c in "\0%\\"):
        return None
    parts = [part for part in text.split("/") if part not in ("", ".")]
    return None if ".." in parts else parts


def path_under(root: str, text: str) -> bool:
    """Is the path the root itself, or below it, by whole components?"""
    above, below = path_components(root), path_components(text)
    return above is not None and below is not None and below[: len(above)] == above


def is_host(text: str) -> bool:
    """A DNS name in ASCII: no empty label (so no trailing dot), and not a number in any spelling."""
    labels = text.split(".")
    return len(text) <= 253 and all(_LABEL.fullmatch(label) for label in labels) and not _NUMERIC_LABEL.fullmatch(labels[-1])


def is_host_pattern(text: str) -> bool:
    """A host, or ``*.`` and a host."""
    return is_host(text.removeprefix("*."))


def host_matches(pattern: str, host: str) -> bool:
    """``*.`` stands for one or more whole labels. Case does not count, as in DNS."""
    pattern, host = pattern.lower(), host.lower()
    if pattern.startswith("*."):
        return host.endswith(pattern[1:]) and len(host) > len(pattern[1:])
    return host == pattern


@dataclass(frozen=True)
class Url:
    """A parsed absolute URL; ``port`` is the explicit one, else the scheme's default, else nothing."""

    scheme: str
    host: str
    port: int | None
    path: str


def parse_url(text: str) -> Url | None:
    """Strict: ASCII, no blanks, controls or backslashes, no userinfo, no IP literal, no numeric host, canonical port."""
    if any(not 0x20 < ord(c) < 0x7F or c == "\\" for c in text):
        return None
    match = _URL.fullmatch(text)
    if match is None:
        return None
    scheme, authority, path = match[1].lower(), match[2], match[3]
    if "@" in authority or "[" in authority:
        return None
    host, colon, port_text = authority.partition(":")
    port = DEFAULT_PORTS.get(scheme)
    if colon:
        if not _PORT.fullmatch(port_text) or int(port_text) > 65535:
            return None
        port = int(port_text)
    return Url(scheme, host, port, path or "/") if is_host(host) else None


def email_domain(text: str) -> str | None:
    """The domain of a bare ``local@domain`` address in ASCII; ``None`` for everything else (names, lists, quotes)."""
    local, at, domain = text.rpartition("@")
    if not at or len(local) > 64 or not _LOCAL.fullmatch(local) or not is_host(domain):
        return None
    return domain


def glob_matches(pattern: str, text: str) -> bool:
    """``*`` is any run of characters without ``/``; everything else stands for itself."""
    body = "[^/]*".join(re.escape(piece) for piece in re.split(r"\*+", pattern))
    return re.fullmatch(body, text, re.DOTALL) is not None


def regex_compiles(pattern: str) -> bool:
    """Is it an RE2 expression?"""
    try:
        compile_regex(pattern)
    except Exception:  # re2.error, and whatever else a native engine may throw
        return False
    return True


def compile_regex(pattern: str) -> Any:
    """A compiled RE2 expression, quiet about errors."""
    options = re2.Options()
    options.log_errors = False
    return re2.compile(pattern, options)


def regex_matches(pattern: str, text: str) -> bool:
    """RE2, the whole text."""
    return compile_regex(pattern).fullmatch(text) is not None


def network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """A network without host bits."""
    try:
        return ipaddress.ip_network(text, strict=True)
    except ValueError:
        return None


def address_in(network_text: str, text: str) -> bool:
    """Is the text one address (no prefix, no zone) of the network's family, inside it?"""
    net = network(network_text)
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return net is not None and "%" not in text and address.version == net.version and address in net
