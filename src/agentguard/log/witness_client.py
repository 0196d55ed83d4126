"""Showing a log to a witness (C2SP tlog-witness), and asking one what it has seen.

What comes back is believed only as far as it proves itself: a cosignature is verified, a number is answered by a proof. A witness that has
seen more than the log has, or another history, is how a rollback comes to light.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from agentguard.errors import AgentguardError, InvalidInput
from agentguard.log.checkpoint import Note, parse_note
from agentguard.log.cosignature import WitnessKey
from agentguard.log.heads import read_head
from agentguard.log.identity import LogKeys
from agentguard.log.manifest import all_keys
from agentguard.log.proofs import prove_growth
from agentguard.log.witnessed import Cosigned, cosigned_path, keep, open_cosigned, read_cosigned, submitted_path

_DECIMAL = re.compile(rb"(0|[1-9][0-9]{0,18})\n")
_MAX_ANSWER: Final = 1 << 17
#: A cosignature from further ahead than this, in seconds, says that one of the two clocks is wrong.
_AHEAD: Final = 300
_SECONDS: Final = 10.0
#: The size may be unknown to us, and another process may submit at the same time.
_ROUNDS: Final = 3


class WitnessRefused(AgentguardError):
    """The witness has seen another history of this log than the one it was shown. Somebody cut, rolled back or rewrote one of them."""


class WitnessUnavailable(AgentguardError):
    """The witness did not answer, or not as the protocol says. Nothing is known about the log; try again."""


class Transport(Protocol):
    """One HTTP exchange with a witness: status and body of the answer. Raises WitnessUnavailable."""

    def __call__(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]: ...


@dataclass(frozen=True, slots=True)
class Submitted:
    """A shard of which the witness cosigned the first `size` records at `seconds` since 1970."""

    shard: str
    size: int
    seconds: int


def http(url: str) -> Transport:
    """A transport to the witness at `url` (https, or http for one on the same machine). Raises InvalidInput."""
    try:
        import httpx
    except ImportError:
        raise InvalidInput("talking to a witness needs httpx", hint="pip install 'agentguard[fetch]'") from None
    try:
        base = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise InvalidInput(f"not a URL: {error}", place=url) from None
    if base.scheme not in ("https", "http") or not base.host:
        raise InvalidInput("a witness has a URL with https or http", place=url)

    def exchange(method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        try:
            with httpx.stream(method, f"{str(base).rstrip('/')}/{path}", content=body, timeout=_SECONDS) as response:
                parts, room = [], _MAX_ANSWER
                for part in response.iter_bytes():
                    room -= len(part)
                    if room < 0:
                        raise WitnessUnavailable(f"{url}: the answer is longer than {_MAX_ANSWER} bytes")
                    parts.append(part)
                return response.status_code, b"".join(parts)
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise WitnessUnavailable(f"{url}: {error or type(error).__name__}") from None

    return exchange


def submit(
    home: Path,
    shard: str,
    keys: LogKeys,
    witness: WitnessKey,
    transport: Transport,
    *,
    clock: Callable[[], float] = time.time,
) -> Submitted | None:
    """Show a shard's newest checkpoint to a witness and keep its cosignature under the home; None if the shard has no checkpoint yet.

    That it was shown is written down first, so that a cosignature which never came is missed. Raises WitnessRefused, WitnessUnavailable,
    InvalidInput if the log itself is not in order.
    """
    head = read_head(home, shard, keys)
    if head is None or head.size == 0:
        return None
    cosigned = read_cosigned(home, shard, all_keys(home, keys), witness)  # perhaps from before a rotation
    old = cosigned.checkpoint.size if cosigned is not None else 0
    keep(submitted_path(home, shard), head.note)
    for _ in range(_ROUNDS):
        head = read_head(home, shard, keys) or head
        if old > head.size:
            raise WitnessRefused(
                f"the witness {witness.name} has cosigned {old} records of shard {shard}, and the log has {head.size} under its last "
                "checkpoint: it was cut or rolled back. After a crash, first open the guard once, so that it signs what is there"
            )
        growth = prove_growth(home, shard, old, None, keys)
        status, body = transport("POST", "add-checkpoint", growth.format())
        if status == 200:
            return _accept(home, shard, keys, witness, growth.checkpoint, body, clock())
        if status == 422:
            raise WitnessRefused(
                f"the witness {witness.name} has cosigned {old} records of shard {shard} that are not those the log has now: it was "
                "rewritten. Keep a copy of the home; `agentguard log witness fetch` shows what the witness has seen"
            )
        match = _DECIMAL.fullmatch(body) if status == 409 else None
        if match is None:
            raise WitnessUnavailable(f"the witness {witness.name} answered {status}: {_words(body)}")
        old = int(match[1])
    raise WitnessUnavailable(f"the witness {witness.name} named another size each time: somebody else submits this log, too; try again")


def fetch(shard: str, keys: LogKeys, witness: WitnessKey, transport: Transport) -> Cosigned | None:
    """The last checkpoint of a shard that the witness says it cosigned, verified; None if there was none. Raises WitnessUnavailable,
    InvalidInput if what it shows is not signed by both."""
    status, body = transport("GET", f"{hashlib.sha256(keys.origin(shard).encode()).hexdigest()}/checkpoint", None)
    if status == 404:
        return None
    if status != 200:
        raise WitnessUnavailable(f"the witness {witness.name} answered {status}: {_words(body)}")
    return open_cosigned(body, shard, keys, witness)


def _accept(home: Path, shard: str, keys: LogKeys, witness: WitnessKey, note: bytes, lines: bytes, now: float) -> Submitted:
    """Verify and keep a cosignature; those of witnesses that nobody asked for are dropped."""
    try:
        text, signatures = parse_note(note).text, parse_note(note + lines).signatures
        own = tuple(item for item in signatures if item.name in (keys.origin(shard), witness.name))
        found = open_cosigned(Note(text, own).format(), shard, keys, witness)
    except InvalidInput as error:
        raise WitnessUnavailable(f"the witness {witness.name} gave no valid cosignature: {error.message}") from None
    if found.seconds > now + _AHEAD:
        raise WitnessUnavailable(f"the cosignature of {witness.name} is dated {found.seconds - now:.0f} s ahead: mend one of the clocks")
    keep(cosigned_path(home, shard, witness), found.note)
    return Submitted(shard, found.checkpoint.size, found.seconds)


def _words(body: bytes) -> str:
    return ascii(body[:200].decode("utf-8", "replace").strip())
