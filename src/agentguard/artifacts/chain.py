"""Chains of artifacts: the draft's verification algorithm, and a cache of what was verified (AAT -02 §8).

`walk` is steps 1 to 5. `verify_structure` runs it without a clock and remembers the result; `check_time`, `check_scope` and
`check_audience` are the parts that each call is judged by anew (DESIGN §7 stages 3 and 8). `request.py` runs the same walk with a clock.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from agentguard.artifacts.jws import Token, peek
from agentguard.artifacts.link import DEFAULT_LIMITS, Anchor, ChainError, Initiator, Limits, Link, TrustAnchors, word
from agentguard.artifacts.steps import child_link, root_link
from agentguard.canonical import Frozen
from agentguard.constraints.tokens import Entry
from agentguard.decision import Code
from agentguard.errors import InvalidInput

__all__ = [
    "DEFAULT_LIMITS",
    "Anchor",
    "ChainError",
    "Limits",
    "PrefixCache",
    "TrustAnchors",
    "VerifiedChain",
    "check_audience",
    "check_scope",
    "check_time",
    "verify_structure",
    "walk",
]

#: Checks of arguments that a leaf leaves out but a link above it restricts, by tool.
_Above = Mapping[str, tuple[tuple[str, Entry], ...]]
_NOTHING: Final[_Above] = MappingProxyType({})


@dataclass(frozen=True, slots=True, eq=False)
class VerifiedChain:
    """A chain that passed steps 1 to 5, and everything a call asks of it. It says nothing about the time of day.

    digest      hexadecimal SHA-256 over the exact tokens
    exp, nbf    seconds: the earliest end, the latest beginning; `iat` is the latest `iat`
    hashes      signing-input hash of each link, root first
    keys        thumbprint of the issuer's key, then of each link's holder: entry i+1 is link i's
    agents      the name that each link gives its holder; empty for a plain chain. A claim, until a trusted binding agrees
    task_id     the task, or for a plain chain `aat:` and the root's hash; a guard puts a foreign issuer's key before it
    policies    the digests of policies it is bound to: none or one
    env         (link, fact, entry) for every environment fact that some link constrains
    uses        (link hash, limit, domain) of every link with a call limit
    audiences   (link, names) of every link with an `aud`
    """

    links: tuple[Link, ...]
    profile: bool
    digest: str
    exp: int
    nbf: int
    iat: int
    hashes: tuple[str, ...]
    keys: tuple[str, ...]
    agents: tuple[str, ...]
    initiator: Initiator | None
    task: str | None
    task_id: str
    policies: tuple[str, ...]
    env: tuple[tuple[int, str, Entry], ...]
    uses: tuple[tuple[str, int, str], ...]
    audiences: tuple[tuple[int, tuple[str, ...]], ...]
    above: _Above

    @property
    def leaf(self) -> Link:
        return self.links[-1]

    @property
    def root(self) -> Link:
        return self.links[0]

    @property
    def tokens(self) -> tuple[str, ...]:
        return tuple([link.token for link in self.links])


def verify_structure(
    tokens: Sequence[str], anchors: TrustAnchors | Sequence[Anchor], limits: Limits = DEFAULT_LIMITS, *, cache: PrefixCache | None = None
) -> VerifiedChain:
    """Steps 1 to 5 without the checks against the clock: is this chain authentic, and does it only narrow?

    Raises ChainError. With a cache, a known chain costs a lookup, and a known chain with a new leaf one signature.
    """
    known = tuple(tokens)
    if cache is None:
        trusted = anchors if isinstance(anchors, TrustAnchors) else TrustAnchors(anchors)
        return walk(known, trusted, limits, now=None, understand=True)
    trusted = cache.trusted(anchors)
    found = cache.get(trusted.digest, limits, known)
    if found is not None:
        return found
    chain = walk(known, trusted, limits, now=None, understand=True, prefix=lambda size: cache.get(trusted.digest, limits, known[:size]))
    cache.add(trusted.digest, limits, chain)
    return chain


def walk(
    tokens: tuple[str, ...],
    anchors: TrustAnchors,
    limits: Limits,
    *,
    now: float | None,
    understand: bool,
    prefix: Callable[[int], VerifiedChain | None] | None = None,
) -> VerifiedChain:
    """Steps 1 to 5 of the draft, in its order. Raises ChainError.

    now         seconds; None skips 3e, 3f, 4i and 4k
    understand  whether `crit: ["agentguard"]` is known to this verifier
    prefix      gives the verified chain of the first n tokens, if it is known
    """
    if not tokens:
        raise ChainError(Code.ARTIFACT_MISSING, "1", 0, "the chain is empty")
    _sizes(tokens, limits)  # 2a, 2b
    known = _longest(len(tokens), prefix)
    links = list(known.links) if known is not None else []
    fresh, hint = _identify(tokens, links)  # 2c
    for token in fresh:
        if not links:
            links.append(root_link(token, hint, anchors, limits=limits, now=now, understand=understand))
        else:
            links.append(child_link(token, links[-1], len(links), limits=limits, now=now, understand=understand))
    if len(links) != links[-1].depth + 1:
        raise ChainError(Code.DELEGATION_INVALID, "5", len(links) - 1, "the chain's length is not the leaf's del_depth + 1")
    return _assemble(tuple(links))


def _sizes(tokens: tuple[str, ...], limits: Limits) -> None:
    total = 0
    for index, token in enumerate(tokens):
        size = len(token) if token.isascii() else len(token.encode("utf-8", "surrogatepass"))
        if size > limits.max_token_size:
            raise ChainError(Code.ARTIFACT_MALFORMED, "2a", index, f"the token is longer than {limits.max_token_size} bytes")
        total += size
    if total > limits.max_chain_size:
        raise ChainError(Code.ARTIFACT_MALFORMED, "2b", 0, f"the chain is longer than {limits.max_chain_size} bytes")


def _longest(count: int, prefix: Callable[[int], VerifiedChain | None] | None) -> VerifiedChain | None:
    if prefix is not None:
        for size in range(count - 1, 0, -1):
            found = prefix(size)
            if found is not None:
                return found
    return None


def _identify(tokens: tuple[str, ...], links: list[Link]) -> tuple[list[Token], object]:
    """Step 2c for the tokens that are not verified yet; with them, what the first says about its issuer."""
    seen = {link.jti for link in links}
    fresh: list[Token] = []
    hint: object = None
    for index in range(len(links), len(tokens)):
        try:
            token = Token(tokens[index])
        except InvalidInput as error:
            raise ChainError(Code.ARTIFACT_MALFORMED, "2c", index, str(error)) from None
        jti, iss = peek(token, index)
        if jti in seen:
            raise ChainError(Code.DELEGATION_INVALID, "2c", index, "its jti stands twice in the chain")
        seen.add(jti)
        hint = iss if not fresh else hint
        fresh.append(token)
    return fresh, hint


def _assemble(links: tuple[Link, ...]) -> VerifiedChain:
    root, leaf = links[0], links[-1]
    profiles = [link.profile for link in links if link.profile is not None]
    task = profiles[0].task if profiles else None
    return VerifiedChain(
        links=links,
        profile=bool(profiles),
        digest=hashlib.sha256("\n".join([link.token for link in links]).encode("ascii")).hexdigest(),
        exp=leaf.exp,
        nbf=max([link.nbf for link in links]),
        iat=leaf.iat,
        hashes=tuple([link.hash for link in links]),
        keys=(root.signer.thumbprint(), *[link.holder.thumbprint() for link in links]),
        agents=tuple([profile.agent for profile in profiles]),
        initiator=profiles[0].initiator if profiles else None,
        task=task,
        task_id=f"aat:{root.hash}" if task is None else task,
        policies=() if leaf.policy is None else (leaf.policy,),
        env=tuple([(index, name, entry) for index, profile in enumerate(profiles) for name, entry in profile.env.items()]),
        uses=tuple([(link.hash, use.limit, use.domain) for link, profile in zip(links, profiles, strict=False) if (use := profile.uses)]),
        audiences=tuple([(index, link.aud) for index, link in enumerate(links) if link.aud is not None]),
        above=_above(links) if len(links) > 1 else _NOTHING,
    )


def _above(links: tuple[Link, ...]) -> _Above:
    """Per tool of the leaf, the entries of links above it for arguments that the leaf does not name.

    Such an argument may not be presented, but the tool's default for it still becomes a bound value, which the link above restricts.
    """
    result: dict[str, tuple[tuple[str, Entry], ...]] = {}
    for tool, arguments in links[-1].tools.items():
        entries = [
            (name, entry)
            for link in links[:-1]
            for name, entry in link.tools[tool].named.items()
            if name not in arguments.named
        ]  # fmt: skip
        if entries:
            result[tool] = tuple(entries)
    return MappingProxyType(result)


def check_time(chain: VerifiedChain, now: float, limits: Limits = DEFAULT_LIMITS) -> ChainError | None:
    """The checks against the clock that the walk left out (3e, 3f, 4i, 4k and the profile's `nbf`); `now` in seconds.

    `limits.max_iat_skew` is granted to `iat` and `nbf`, nothing to `exp`.
    """
    latest = now + limits.max_iat_skew
    if chain.exp > now and chain.iat <= latest and chain.nbf <= latest:
        return None
    for index, link in enumerate(chain.links):
        if not link.exp > now:
            step, required = "4i" if index else "3e", f"exp after {now}"
            return ChainError(Code.ARTIFACT_EXPIRED, step, index, "the artifact has expired", required=required, found=str(link.exp))
        for step, start in (("4k" if index else "3f", link.iat), ("profile.nbf", link.nbf)):
            if not start <= latest:
                required, found = f"a beginning up to {latest}", str(start)
                return ChainError(Code.ARTIFACT_NOT_YET_VALID, step, index, "the artifact is not valid yet", required=required, found=found)
    return None


def check_scope(
    chain: VerifiedChain,
    tool: str,
    presented: Mapping[str, Frozen],
    bound: Mapping[str, Frozen] | None = None,
    *,
    any_arguments: bool = True,
) -> ChainError | None:
    """Steps 6a and 6b: does the leaf grant this tool with these arguments? By I4 whatever the leaf admits, every link above admits.

    bound          what the tool will really get, its defaults filled in: named arguments must fit there too (DESIGN §5)
    any_arguments  whether a map with `*` will do
    """
    index = len(chain.links) - 1
    leaf = chain.links[index]
    arguments = leaf.tools.get(tool)
    if arguments is None:
        step = "6b" if leaf.entry else "6a"
        granted = ", ".join([word(name) for name in sorted(leaf.tools)[:8]]) or "no tool"
        message, found = "the artifact does not grant this tool", word(tool)
        return ChainError(Code.TOOL_NOT_IN_SCOPE, step, index, message, subject=found, required=f"one of: {granted}", found=found)
    if arguments.rest and not any_arguments:
        message, required = "the artifact admits arguments that it does not name", "every argument named"
        return ChainError(Code.ARGUMENT_NOT_IN_SCOPE, "6b", index, message, subject="*", required=required, found="*")
    failure = arguments.check(presented)
    if failure is not None:
        return _argument(index, failure.name, failure.required, failure.found)
    if bound is not None and bound is not presented:
        for name, value in bound.items():
            entry = arguments.named.get(name)
            if entry is not None and not entry.constraint.check(value):
                return _argument(index, name, entry.constraint.describe(), "the value that the tool would get")
        for name, entry in chain.above.get(tool, ()):
            if name in bound and not entry.constraint.check(bound[name]):
                return _argument(index, name, entry.constraint.describe(), "the default that the tool would get")
    return None


def _argument(link: int, name: str, required: str, found: str) -> ChainError:
    message = "the argument is outside what the artifact grants"
    return ChainError(Code.ARGUMENT_NOT_IN_SCOPE, "6b", link, message, subject=word(name), required=required, found=found)


def check_audience(chain: VerifiedChain, audience: Collection[str], *, require: bool = False) -> ChainError | None:
    """Step 6c: every `aud` in the chain names this enforcement point, known by the names in `audience`.

    `require`: at least one link must have an `aud`.
    """
    audience = (audience,) if isinstance(audience, str) else audience  # `in` would find parts of a string
    for index, names in chain.audiences:
        if not any(name in audience for name in names):
            required, found = " or ".join(sorted(audience)) or "no audience", word(", ".join(names), 256)
            return ChainError(Code.AUDIENCE_MISMATCH, "6c", index, "the artifact is for somebody else", required=required, found=found)
    if require and not chain.audiences:
        return ChainError(Code.AUDIENCE_MISMATCH, "6c", len(chain.links) - 1, "no artifact of the chain names an audience")
    return None


class PrefixCache:
    """Chains that verified, and their prefixes, bounded in bytes, the least recently used leaving first. Safe under threads.

    The key is (digest of the anchor set, limits, the exact tokens): equal bytes, not equal hashes. Only successes enter, so that nobody can
    fill it with rubbish, and nothing in it depends on the time of day. It lives in one process, under one version of this code.
    """

    def __init__(self, max_bytes: int = 16 * 2**20) -> None:
        self._max = max_bytes
        self._size = 0
        self._entries: OrderedDict[tuple[bytes, Limits, tuple[str, ...]], VerifiedChain] = OrderedDict()
        self._lock = threading.Lock()
        self._last: tuple[Sequence[Anchor], TrustAnchors] = ((), TrustAnchors(()))

    def __len__(self) -> int:
        return len(self._entries)

    def trusted(self, anchors: TrustAnchors | Sequence[Anchor]) -> TrustAnchors:
        """`anchors` as a set with a digest; the last tuple is remembered, since it is the same one call after call."""
        if isinstance(anchors, TrustAnchors):
            return anchors
        last, known = self._last
        if anchors is last:
            return known
        known = TrustAnchors(anchors)
        if type(anchors) is tuple:  # immutable, so identity is enough to know it again
            self._last = (anchors, known)
        return known

    def get(self, anchors: bytes, limits: Limits, tokens: tuple[str, ...]) -> VerifiedChain | None:
        """The chain of exactly these tokens, if it verified under these anchors and limits."""
        key = (anchors, limits, tokens)
        with self._lock:
            found = self._entries.get(key)
            if found is not None:
                self._entries.move_to_end(key)
        return found

    def add(self, anchors: bytes, limits: Limits, chain: VerifiedChain) -> None:
        """Remember a chain that verified, and each of its prefixes."""
        tokens = chain.tokens
        for size in range(1, len(tokens)):
            key = (anchors, limits, tokens[:size])
            if key not in self._entries:
                self._put(key, _assemble(chain.links[:size]))
        self._put((anchors, limits, tokens), chain)

    def _put(self, key: tuple[bytes, Limits, tuple[str, ...]], chain: VerifiedChain) -> None:
        with self._lock:
            if key not in self._entries:
                self._entries[key] = chain
                self._size += _weight(key[2])
            while self._size > self._max:
                old, _ = self._entries.popitem(last=False)
                self._size -= _weight(old[2])


def _weight(tokens: tuple[str, ...]) -> int:
    """Bytes of memory for one entry: what only it holds is its last link, whose parsed form is some ten times its text."""
    return 4096 + 128 * len(tokens) + 10 * len(tokens[-1])
