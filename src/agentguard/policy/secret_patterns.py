"""What secrets look like, from the formats that their issuers publish, and how a text is searched for them.

All of it runs on RE2, so no text makes a search slow. A pattern finds what has a shape; what has none (a password in a sentence) it cannot
find, and what was encrypted, cut apart or spelled out stays what it is: a net below the policy, not a wall (docs/policy-outputs.md).
"""

from __future__ import annotations

import base64
import functools
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import re2

from agentguard.constraints.matchers import MAX_PATTERN, re2_pattern, text_member
from agentguard.constraints.values import show
from agentguard.errors import InvalidInput

#: What may stand before a token that begins like an ordinary word: no letter or digit, or one that belongs to an escape.
_LEFT: Final = r"(?:^|[^0-9A-Za-z]|\\[bfnrt]|\\u[0-9A-Fa-f]{4}|%[0-9A-Fa-f]{2})"
#: What stands between the name of a setting and its value in a header, JSON, YAML, an .ini file or a shell.
_IS: Final = r"""(?:\\?["'])?[ \t]*(?::|=>?)[ \t]*(?:\\?["'])?"""
_SLASHES: Final = r":(?:\\?/){2}"
_DATABASES: Final = (
    r"(?i:postgres(?:ql)?|mysqlx?|mariadb|mongodb|rediss?|valkeys?|amqps?|mssql|sqlserver|oracle|db2|clickhouse|cassandra|neo4j|bolt|nats"
    r"|kafka|cockroachdb|snowflake|redshift|couchbases?|elasticsearch|ldaps?|s?ftp|smtps?|imaps?)(?:\+[0-9A-Za-z+]+)?"
)
_SETTING: Final = r"(?i:password|passwd|pwd|accountkey|sharedaccesskey|sharedaccesssignature|sharedsecretvalue)"

#: By name. Where a pattern has a group, only that is the secret; otherwise all that it finds is.
PATTERNS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        # Access key ids have 4 + 16 characters of base32; secret keys 40 of base64 and no mark of their own, so their name must be near.
        "aws": (
            r"(?:AKIA|ASIA|ABIA|ACCA)[2-7A-Z]{16}",
            r"(?i:secret[_ .-]?access[_ .-]?key|aws[_ .-]?secret[_ .-]?key|session[_ .-]?token)" + _IS + r"([0-9A-Za-z/+]{40,}={0,2})",
        ),
        "github": (r"gh[opusr]_[0-9A-Za-z]{36,}", r"github_pat_[0-9A-Za-z]{22}_[0-9A-Za-z]{59}"),
        "gitlab": (r"(?:gl(?:pat|oas|dt|rt|rtr|cbt|ptt|ft|imt|agent|wt|soat|ffct)-|GR1348941)[0-9A-Za-z_.-]{20,}",),
        "slack": (
            r"xox[abceoprs](?:\.xox[bp])?-[0-9A-Za-z-]{10,}",
            r"xapp-[0-9]-[0-9A-Z]+-[0-9]+-[0-9a-f]{32,}",
            r"hooks\.slack\.com(?:\\?/)(?:services|workflows|triggers)(?:\\?/)([0-9A-Za-z/\\]{20,})",
        ),
        "google": (r"AIza[0-9A-Za-z_-]{35}", r"ya29\.[0-9A-Za-z_-]{20,}", r"GOCSPX-[0-9A-Za-z_-]{28}"),
        "stripe": (_LEFT + r"((?:sk|rk)_(?:live|test)_[0-9A-Za-z]{16,})", r"whsec_[0-9A-Za-z+/]{32,}={0,2}"),
        "openai": (r"sk-(?:[a-z]+-)?[0-9A-Za-z_-]{20,}T3BlbkFJ[0-9A-Za-z_-]{20,}",),
        "anthropic": (r"sk-ant-[a-z]+[0-9]{2}-[0-9A-Za-z_-]{20,}",),
        # RFC 7515 and 7516: what begins with `{"` is `eyJ` in base64url. A JWE's second part is no JSON, and may be empty.
        "jwt": (r"eyJ[0-9A-Za-z_-]{8,}\.(?:eyJ[0-9A-Za-z_-]{4,}\.[0-9A-Za-z_-]*|[0-9A-Za-z_-]*(?:\.[0-9A-Za-z_-]{8,}){3})",),
        # RFC 7468, and what OpenSSH, PGP and PuTTY make of it. Without its end a key goes on to the end of the text.
        "private_key": (
            r"(?s)-----BEGIN [0-9A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?-----.*?(?:-----END [0-9A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?-----|\z)",
            r"(?s)PuTTY-User-Key-File-[0-9]: .*?(?:Private-MAC: [0-9a-f]+|\z)",
        ),
        "bearer": (
            r"(?i:\bbearer)[ \t+]+([0-9A-Za-z._~+/-]{20,}=*)",
            r"(?i:\bauthorization)" + _IS + r"(?i:bearer|basic|token|digest|apikey|negotiate|ntlm|dpop)[ \t+]+([^\s\"'\\,]{8,})",
            r"(?i:\bauthorization)" + _IS + r"([^\s\"'\\,]{20,})",
        ),
        # RFC 3986 §3.2.1. Drivers of databases take a `/` or a `#` within a password, browsers do not.
        "url_password": (
            r"[A-Za-z][0-9A-Za-z+.-]{1,20}" + _SLASHES + r"[^\s/?#@:\"'<>\\]*:([^\s/?#\"'<>\\]+)@",
            _DATABASES + _SLASHES + r"[^\s/@:\"'<>\\]*:([^\s\"'<>]+)@",
        ),
        # ADO.NET, ODBC and Azure separate by `;`, libpq by spaces.
        "connection_string": (
            r";[ \t]*" + _SETTING + r"[ \t]*=[ \t]*(\{[^}\n]+\}|\\?\"[^\"\n]+\"|'[^'\n]+'|[^;\s\"'\\]+)",
            _LEFT + _SETTING + r"[ \t]*=[ \t]*(\{[^}\n]+\}|\\?\"[^\"\n]+\"|'[^'\n]+'|[^;\s\"'\\]+)[ \t]*;[ \t]*[A-Za-z]",
            r"(?i:host|hostaddr|dbname|user|port|sslmode)[ \t]*=[ \t]*\S+[ \t]+(?:[a-z_]+[ \t]*=[ \t]*\S+[ \t]+)*"
            r"(?i:password)[ \t]*=[ \t]*('[^'\n]+'|[^\s\"'\\]+)",
            _LEFT + r"(?i:password)[ \t]*=[ \t]*('[^'\n]+'|[^\s\"'\\]+)[ \t]+(?i:host|hostaddr|dbname|user|port|sslmode)[ \t]*=",
        ),
    }
)
NAMES: Final = tuple(PATTERNS)

#: A member's name that may tell what its value is.
_TELLING: Final = re.compile("(?i)secret|token|authorization")
_INVISIBLE: Final = dict.fromkeys([0, 0xAD, *range(0x200B, 0x2010), *range(0x2060, 0x2065), 0xFEFF])
_ESCAPES: Final = re.compile(r"\\u00([0-9A-Fa-f]{2})|\\x([0-9A-Fa-f]{2})|%([0-9A-Fa-f]{2})|\\(/)")
#: A text that says less in base64 says no secret.
_SHORT: Final = 20
_BASE64: Final = re2.compile(r"[0-9A-Za-z+/_-]{20,}(?:(?:\\[nr]|\s)+[0-9A-Za-z+/_-]{4,})*={0,2}")
_FOLDS: Final = re.compile(rb"\\[nr]|\s")
_ALPHABET: Final = bytes.maketrans(b"-_", b"+/")


class Span(NamedTuple):
    """Where something was found, in bytes, and the name of what it looks like."""

    start: int
    end: int
    name: str


class Finder:
    """Finds secrets of some kinds, and what the patterns of a policy match, in UTF-8 text."""

    def __init__(self, names: Iterable[str] = (), patterns: Iterable[str] = ()) -> None:
        own = [(name, pattern) for name in names for pattern in PATTERNS[name]]
        given = [(f"patterns[{index}]", f"(?:{pattern})") for index, pattern in enumerate(patterns)]
        self._given = tuple((name, re2_pattern(pattern, "patterns")) for name, pattern in given)
        self._own = tuple((name, _compiled(pattern)) for name, pattern in own)
        try:
            self._any = _compiled("|".join(f"(?:{pattern})" for _, pattern in (*own, *given)), whole=True)
        except re2.error:
            raise InvalidInput("patterns are too large for RE2 together", hint="write fewer, or shorter ones") from None

    def found(self, data: bytes) -> bool:
        """Whether there is anything: one search for all patterns at once, which is all that most texts cost."""
        return self._any.search(data) is not None

    def spans(self, data: bytes, key: str = "") -> list[Span]:
        """All that is found, in order and without overlaps. `key`, the name of the member whose value `data` is, may tell what it is."""
        found = self._spans((*self._own, *self._given), data) if self.found(data) else []
        if self._own and _TELLING.search(key):
            before = key.encode("utf-8", "replace") + b"="
            if self._any.search(before + data) is not None:
                moved = [(start - len(before), end - len(before), name) for start, end, name in self._spans(self._own, before + data)]
                found += [Span(max(start, 0), end, name) for start, end, name in moved if end > 0]
        return _apart(found)

    def _spans(self, patterns: tuple[tuple[str, Any], ...], data: bytes) -> list[Span]:
        found: list[Span] = []
        for name, pattern in patterns:
            at = 0
            while at <= len(data) and (match := pattern.search(data, at)) is not None:
                start, at = match.span(pattern.groups)  # the group, or where there is none the whole
                if start < at:
                    found.append(Span(start, at, name))
                else:
                    at += 1
        return found

    def hidden(self, text: str) -> str:
        """The name of what a text says in another spelling (escapes, invisible characters, base64), which nobody can cut out of it."""
        plain = text if text.isascii() and "\0" not in text else text.translate(_INVISIBLE)
        if "\\" in plain or "%" in plain:
            plain = _ESCAPES.sub(lambda match: match[4] or chr(int(match[1] or match[2] or match[3], 16)), plain)
        if plain != text and (spans := self.spans(plain.encode("utf-8", "replace"))):
            return spans[0].name
        if len(text) < _SHORT:
            return ""
        data = text.encode("utf-8", "replace")
        at = 0
        while (match := _BASE64.search(data, at)) is not None:
            at = match.end()
            run = _FOLDS.sub(b"", match.group()).rstrip(b"=").translate(_ALPHABET)
            for skipped in range(4):  # what stands before it may be of the same alphabet
                part = run[skipped : len(run) - ((len(run) - skipped) % 4 == 1)]
                whole = base64.b64decode(part + b"=" * (-len(part) % 4))
                # A policy's pattern may be short, and found in any noise.
                spans = self.spans(whole) if whole.isascii() else self._spans(self._own, whole.decode("latin-1").encode())
                if spans:
                    return spans[0].name
        return ""


@functools.lru_cache(maxsize=256)
def _compiled(pattern: str, *, whole: bool = False) -> Any:
    options = re2.Options()
    options.never_capture = whole
    options.max_mem = 1 << 24  # for the automaton of a hundred patterns at once
    return re2.compile(pattern, options)


def _apart(spans: list[Span]) -> list[Span]:
    """The spans in order, those that overlap made one under the first one's name."""
    merged: list[Span] = []
    for span in sorted(spans):
        if merged and span.start < merged[-1].end:
            merged[-1] = merged[-1]._replace(end=max(merged[-1].end, span.end))
        else:
            merged.append(span)
    return merged


def parse_names(node: Any) -> tuple[str, ...]:
    """The kinds of secrets that `secrets: all` or a list of names stands for. Raises InvalidInput."""
    if node == "all":
        return NAMES
    if type(node) not in (list, tuple) or not node:
        raise InvalidInput(f"secrets must be all or a list of names, found {show(node)}", hint=f"names: {', '.join(NAMES)}")
    for name in node:
        if type(name) is not str or name not in PATTERNS:
            raise InvalidInput(f"secrets knows no kind {show(name)}", hint=f"names: {', '.join(NAMES)}")
    return tuple(sorted(set(node)))


def parse_patterns(node: Any) -> tuple[str, ...]:
    """The patterns of a policy, as RE2 takes them. Raises InvalidInput, also for one that matches the empty text."""
    if type(node) not in (list, tuple) or not 0 < len(node) <= 64:
        raise InvalidInput(f"patterns must be a list of 1 to 64 regular expressions, found {show(node)}")
    for index, pattern in enumerate(node):
        what = f"patterns[{index}]"
        if re2_pattern(text_member(pattern, what, MAX_PATTERN), what).search(b"") is not None:
            raise InvalidInput(f"{what} {show(pattern)} matches the empty text, and so everything", hint="use + or {1,} in place of *")
    return tuple(dict.fromkeys(node))
