"""Taking old calls out of the log, and leaving every proof about it valid (docs/decisions/0010).

What goes are records about calls: decisions, outcomes, links. What says who could do what, and who changed that - keys, revocations,
policies, tools, erasures, removals - stays for as long as the log. In place of a record its leaf hash stays, so roots, checkpoints and
proofs are what they were; that it was removed, and by whom, is itself a record, written before the first byte goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from agentguard.errors import EvidenceUnavailable, InvalidInput
from agentguard.home import Home
from agentguard.ledger import Ledger
from agentguard.log import iter_runs, read_shards, verify
from agentguard.log.identity import LogKeys
from agentguard.log.layout import hold_lock, log_directory, segments, shard_directory, sync_directory
from agentguard.log.removals import TYPE
from agentguard.log.thin import Thinned, is_thinned, thin_segment

#: Told how many segments were looked at, and of how many.
Progress = Callable[[int, int], None]
_CALLS: Final = frozenset({"decision", "outcome", "delegation"})
_NANOSECOND: Final = 10**9
_NAMED_AT_ONCE: Final = 200  # segments in one record, which has to fit into 64 KiB


class Kept(NamedTuple):
    """What retention came to: segments that were thinned, records that went, bytes that the disk got back."""

    segments: int
    records: int
    bytes: int


class _About(msgspec.Struct, gc=False):
    type: str | None = None
    time: str | None = None
    expires: int | None = None


_decode = msgspec.json.Decoder(_About).decode


def retain(
    home: Home,
    ledger: Ledger,
    keys: LogKeys,
    seconds: int,
    now: int,
    *,
    by: str,
    reason: str = "",
    progress: Progress = lambda done, of: None,
) -> Kept:
    """Remove the calls of whole segments whose last record is more than `seconds` older than `now` (nanoseconds since 1970).

    A segment stays whole as long as an artifact that it speaks of is in force, as the state store has not counted what it says, and as a
    segment before it does; and the last one of each shard always does. Raises InvalidInput if the log does not verify: what is removed
    cannot be looked into any more. Raises EvidenceUnavailable.
    """
    with hold_lock(log_directory(home.path) / "retention.lock"):
        errors = [finding for finding in verify(home.path, keys).findings if finding.severity == "error"]
        if errors:
            problem = f"the log does not verify: {errors[0].message}"
            raise InvalidInput(problem, place=errors[0].file, hint="`agentguard log verify` says more")
        due = list(_due(home, now - seconds * _NANOSECOND, now // _NANOSECOND, progress))
        done: list[Thinned] = []
        try:
            for at in range(0, len(due), _NAMED_AT_ONCE):
                done += _replace(ledger, due[at : at + _NAMED_AT_ONCE], by, reason)
        except OSError as error:
            raise EvidenceUnavailable(f"{error.filename}: {error.strerror} (errno {error.errno}); what is not removed is whole") from error
        if done:
            for suffix in ("", "-wal", "-shm"):
                (home.path / f"index.db{suffix}").unlink(missing_ok=True)  # it points into what is gone; the next question makes it anew
    return Kept(len(done), sum(one.removed for one in done), sum(one.saved for one in done))


def _due(home: Home, before: int, now: int, progress: Progress) -> Iterator[tuple[str, int, Path]]:
    """(shard, first index, file) of the segments whose time has come."""
    shards = {shard: segments(shard_directory(home.path, shard))[:-1] for shard in read_shards(home.path)}
    of, looked = sum(map(len, shards.values())), 0
    for shard, files in shards.items():
        counted = home.state.position(shard)
        for first, path in files:
            if not is_thinned(path):
                if not _is_past(home.path, shard, first, path, before, now, counted):
                    break
                yield shard, first, path
            looked += 1
            progress(looked, of)


def _is_past(home: Path, shard: str, first: int, path: Path, before: int, now: int, counted: int) -> bool:
    for file, run in iter_runs(home, shard, first):
        if file != path:
            return True
        if run.first + len(run.records) > counted:
            return False
        for record in run.records:
            about = _about(record)
            if about is None or about.time is None or int(about.time) >= before or (about.expires is not None and about.expires >= now):
                return False
    return False  # it is the last one by now


def _about(record: bytes) -> _About | None:
    try:
        about = _decode(record)
        return about if about.time is None or about.time.isdecimal() else None
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None  # no guard wrote it, so nobody knows what it is


def _replace(ledger: Ledger, due: list[tuple[str, int, Path]], by: str, reason: str) -> list[Thinned]:
    """The thinned files first, then the record that names them, then the whole ones go: a crash in between leaves both."""
    made = [(shard, first, path, thin_segment(path, _stays)) for shard, first, path in due]
    named: list[dict[str, Any]] = [
        {"digest": thinned.digest, "first": first, "removed": thinned.removed, "shard": shard} for shard, first, _, thinned in made
    ]
    ledger.note(TYPE, {"reason": reason, "segments": named}, by=by)
    for _, _, path, _ in made:
        path.unlink()
    for directory in {path.parent for _, _, path, _ in made}:
        sync_directory(directory)
    return [thinned for _, _, _, thinned in made]


def _stays(record: bytes) -> bool:
    about = _about(record)
    return about is None or about.type not in _CALLS
