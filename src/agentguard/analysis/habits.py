"""What was passed as one argument, in bounded memory: how often, which types, which values if they are few, what they share.

Nothing here depends on the order of the calls, and nothing grows with their number: values are kept only while there are few of them, and
what replaces them (bounds, common directory, hosts, shape) was gathered from all of them.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from typing import Final
from urllib.parse import urlsplit

from agentguard.analysis.shapes import Shape, merged, shape_of
from agentguard.canonical import Frozen, jcs
from agentguard.constraints.addresses import MAX_EMAIL, MAX_URL, Email, Url
from agentguard.constraints.matchers import is_plain_path
from agentguard.constraints.values import ARRAYS, SCALARS, Key, key
from agentguard.errors import InvalidInput

#: How many different values are counted; beyond that there are "64 or more".
MOST_COUNTED: Final = 64
#: What is longer is not an option that somebody chose from a list.
_LONGEST: Final = 64
_MAX_TREES: Final = 8
_MAX_HOSTS: Final = 32
_MAX_PLACES: Final = 8

Steps = tuple[str, ...]


class Few:
    """Different values with how often each came, as long as they are at most `limit` and a policy can hold them; else None."""

    __slots__ = ("_seen", "limit", "values")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.values: dict[Key, tuple[Frozen, int]] | None = {}
        self._seen: set[bytes] = set()

    def add(self, value: Frozen) -> None:
        if len(self._seen) < MOST_COUNTED:
            self._seen.add(hashlib.blake2b(jcs(value), digest_size=8).digest())
        if self.values is None:
            return
        name = key(value)
        if name in self.values:
            self.values[name] = (self.values[name][0], self.values[name][1] + 1)
        elif len(self.values) < self.limit and _writable(value):
            self.values[name] = (value, 1)
        else:
            self.values = None

    @property
    def different(self) -> int:
        """How many different ones there were, at most MOST_COUNTED."""
        return len(self._seen)

    def listed(self) -> list[Frozen] | None:
        """The values, in one order whatever the order they came in; None where they are too many. `1` and `1.0` are one value."""
        return None if self.values is None else sorted((value for value, _ in self.values.values()), key=jcs)

    def once(self) -> int:
        """How many values came only once, which is how many new ones to expect among as many calls again (Good and Turing)."""
        return 0 if self.values is None else sum(times == 1 for _, times in self.values.values())


def _writable(value: Frozen) -> bool:
    """Whether a policy can hold it where a reviewer sees it all: short, printable."""
    if type(value) is str:
        return len(value) <= _LONGEST and value.isprintable()
    text = jcs(value)
    return len(text) <= _LONGEST and b"\\" not in text and text.decode().isprintable()


def common(one: Steps, other: Steps) -> Steps:
    """The longest common beginning."""
    length = 0
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            break
        length += 1
    return one[:length]


def _steps(path: str) -> Steps:
    return tuple(step for step in path.split("/") if step)


class Texts:
    """What the strings have in common. A member that is None does not hold for all of them."""

    __slots__ = ("coarse", "domains", "few", "fine", "longest", "sites", "trees")

    def __init__(self, limit: int) -> None:
        self.few = Few(limit)
        self.longest = 0
        self.trees: dict[str, Steps] | None = {}  # by first component, the common directory
        self.sites: dict[tuple[str, int | None], tuple[set[str], Steps]] | None = {}  # by scheme and port, hosts and the common path
        self.domains: set[str] | None = set()
        self.fine: Shape | None = ()  # () before the first one
        self.coarse: Shape | None = ()

    def add(self, text: str) -> None:
        self.few.add(text)
        self.longest = max(self.longest, len(text))
        if self.trees is not None:
            self.trees = self._path(self.trees, text)
        if self.sites is not None:
            self.sites = self._url(self.sites, text)
        if self.domains is not None:
            self.domains = self._email(self.domains, text)
        if self.fine is not None:
            self.fine = _shape(self.fine, text, fine=True)
        if self.coarse is not None:
            self.coarse = _shape(self.coarse, text, fine=False)

    @staticmethod
    def _path(trees: dict[str, Steps], text: str) -> dict[str, Steps] | None:
        if not is_plain_path(text):
            return None
        steps = _steps(text)
        if not steps or "" in trees:
            return {"": ()}
        trees[steps[0]] = common(trees.get(steps[0], steps), steps)
        return trees if len(trees) <= _MAX_TREES else {"": ()}

    @staticmethod
    def _url(
        sites: dict[tuple[str, int | None], tuple[set[str], Steps]], text: str
    ) -> dict[tuple[str, int | None], tuple[set[str], Steps]] | None:
        if "://" not in text or len(text) > MAX_URL:
            return None
        try:
            parts = urlsplit(text)
            place, host = (parts.scheme, parts.port), parts.hostname or ""
        except ValueError:
            return None
        known = _site(*place, host)
        if known is None or not known.check(text):
            return None
        steps = _steps(parts.path) if is_plain_path(parts.path) and ";" not in parts.path else ()
        hosts, above = sites.get(place, (set(), steps))
        hosts.add(host)
        sites[place] = (hosts, common(above, steps))
        return sites if len(hosts) <= _MAX_HOSTS and len(sites) <= _MAX_PLACES else None

    @staticmethod
    def _email(domains: set[str], text: str) -> set[str] | None:
        domain = text.partition("@")[2] if len(text) <= MAX_EMAIL else ""
        known = _domain(domain) if domain else None
        if known is None or not known.check(text):
            return None
        domains.add(domain)
        return domains if len(domains) <= _MAX_HOSTS else None


def _shape(so_far: Shape, text: str, *, fine: bool) -> Shape | None:
    shape = shape_of(text, fine=fine)
    return shape if shape is None or not so_far else merged(so_far, shape)


@functools.lru_cache(256)
def _site(scheme: str, port: int | None, host: str) -> Url | None:
    try:
        return Url(hosts=(host,), schemes=(scheme,), ports=() if port is None else (port,))
    except InvalidInput:
        return None


@functools.lru_cache(256)
def _domain(domain: str) -> Email | None:
    try:
        return Email((domain,))
    except InvalidInput:
        return None


class Habit:
    """What one agent passed as one argument of one tool. `kinds` counts the types of JSON."""

    __slots__ = ("booleans", "calls", "elements", "high", "kinds", "low", "numbers", "objects", "texts")

    def __init__(self, few: int) -> None:
        self.calls = 0
        self.kinds: Counter[str] = Counter()
        self.booleans = Few(2)
        self.numbers = Few(min(few, 3))
        self.low: int | float = 0
        self.high: int | float = 0
        self.texts = Texts(few)
        self.elements = Few(2 * few)
        self.objects = Few(min(few, 3))

    def add(self, value: Frozen) -> None:
        """One more call."""
        self.calls += 1
        kind = type(value)
        if kind is str:
            self.kinds["string"] += 1
            self.texts.add(value)
        elif kind is bool:
            self.kinds["boolean"] += 1
            self.booleans.add(value)
        elif value is None:
            self.kinds["null"] += 1
        elif kind is int or kind is float:
            self.low, self.high = (min(self.low, value), max(self.high, value)) if self.kinds["number"] else (value, value)
            self.kinds["number"] += 1
            self.numbers.add(value)
        elif kind in ARRAYS:
            self.kinds["array"] += 1
            self._elements(value)
        else:
            self.kinds["object"] += 1
            self.objects.add(value)

    def _elements(self, value: Frozen) -> None:
        if all(type(item) in SCALARS for item in value):
            for item in value:
                self.elements.add(item)
        else:
            self.elements.values = None  # a rule cannot look into them
