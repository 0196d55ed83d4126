"""What a writer finds when it takes over a shard that nobody holds: where the tree stands, and what an unfinished append left behind.

Only bytes after the last intact commit may be dropped, and only if they are the beginning of an append that never finished (`Damage.torn`).
Everything else refuses to open and names the file and the byte: guessing here is how acknowledged records get lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agentguard.errors import InvalidInput
from agentguard.keys import PublicKey
from agentguard.log.frames import Damage
from agentguard.log.heads import Head, open_head, read_head
from agentguard.log.identity import LogKeys
from agentguard.log.layout import head_path, segments, shard_directory
from agentguard.log.manifest import keys_of
from agentguard.log.merkle import EMPTY_ROOT, Frontier, fold
from agentguard.log.scan import SegmentHead, check_segment_head, opened, read_segment_head, scan
from agentguard.log.thin import whole_length

_INQUIRE = "keep a copy of the home for inquiry; `agentguard log verify` lists what is missing"


@dataclass(frozen=True, slots=True)
class Recovered:
    """Where a shard's writer goes on.

    `seal` is that of the last commit. `segment` is the file to append to and `end` the byte where the next append belongs; `dropped` bytes
    stand behind it. `unborn` is a segment file whose first frame was never finished. `final`: the last writer closed properly and nothing
    came after. No segment at all: a new shard. `origin` is that of its checkpoints, `key` the one that signed the last of them.
    """

    origin: str
    key: PublicKey
    frontier: Frontier
    seal: bytes
    segment: Path | None
    end: int
    dropped: int
    unborn: Path | None
    final: bool
    head: Head | None


def recover(home: Path, shard: str, key: PublicKey | LogKeys) -> Recovered:
    """Read the shard's last segment and compare it with the remembered head. Changes nothing. Raises InvalidInput."""
    keys = keys_of(home, key)
    head = read_head(home, shard, keys)
    files = segments(shard_directory(home, shard))
    if head is None and files:
        raise InvalidInput(f"shard {shard} has records, but no remembered head", place=str(head_path(home, shard)), hint=_INQUIRE)
    heads, unborn = _segment_heads(files, shard)
    if not heads:
        signer = head.key if head is not None else keys.current
        found = Recovered(keys.origin(shard), signer, Frontier(), b"", None, 0, 0, unborn, False, head)
        seen = None
    else:
        path, last = heads[-1]
        found, seen = _last_segment(path, last, unborn, head, keys, shard)
    _compare(found, seen, head, heads[-1][1] if heads else None, shard, str(head_path(home, shard)))
    return found


def _segment_heads(files: list[tuple[int, Path]], shard: str) -> tuple[list[tuple[Path, SegmentHead]], Path | None]:
    """The first frame of every segment, each compared with the file before it, and the last file if its first frame never finished."""
    heads: list[tuple[Path, SegmentHead]] = []
    previous = 0
    for position, (first, path) in enumerate(files):
        with opened(path) as descriptor:
            try:
                head = read_segment_head(descriptor, path)
            except Damage as damage:
                if damage.torn and position == len(files) - 1:
                    return heads, path
                raise
        check_segment_head(head, path, shard=shard, first=first if position else 0, previous=previous)
        heads.append((path, head))
        previous = whole_length(path)
    return heads, None


def _last_segment(
    path: Path, start: SegmentHead, unborn: Path | None, head: Head | None, keys: LogKeys, shard: str
) -> tuple[Recovered, bool]:
    """Scan the last segment; also whether the remembered head's checkpoint stands in it."""
    frontier = Frontier(start.first, start.peaks)
    seal = frontier.seal()
    end, final, seen = start.end, False, False
    signed: tuple[bytes, int, bytes, int] | None = None
    signer = head.key if head is not None else keys.current
    stop = path.stat().st_size
    with opened(path) as descriptor:
        try:
            for event in scan(descriptor, path, start.end, stop, start.first, frontier):
                end, final, seal = event.end, event.final, event.seal
                if event.note:
                    signed = event.note, frontier.size, frontier.root(), event.offset
                    seen = seen or (head is not None and event.note == head.note)
        except Damage as damage:
            if not damage.torn:
                raise
    if signed is not None:
        note, size, root, offset = signed
        try:
            last = open_head(note, keys, shard)
        except InvalidInput as error:
            raise Damage(f"the checkpoint cannot be believed: {error.message}", path=str(path), offset=offset) from None
        if (last.size, last.root) != (size, root):
            raise Damage(
                f"the checkpoint signs {last.size} records, but stands after {size} or has another root", path=str(path), offset=offset
            )
        signer = last.key
    return Recovered(keys.origin(shard), signer, frontier, seal, path, end, stop - end, unborn, final, head), seen


def _compare(found: Recovered, seen: bool | None, head: Head | None, last: SegmentHead | None, shard: str, place: str) -> None:
    """Hold what is there against what is remembered. Raises InvalidInput."""
    if head is None:
        return
    size = found.frontier.size
    if head.size > size:
        raise InvalidInput(
            f"shard {shard} held {head.size} records when its head was remembered, and holds {size} now: it was cut or rolled back",
            place=place,
            hint=_INQUIRE,
        )
    first = last.first if last is not None else 0
    known = seen or head.size < first  # a head from before this segment is compared by `log verify`
    if not known and head.size == first:
        known = head.root == (fold(last.peaks) if last is not None else EMPTY_ROOT)
    if not known:
        raise InvalidInput(
            f"the remembered head of shard {shard} ({head.size} records) is none of the checkpoints in its log",
            place=place,
            hint=_INQUIRE,
        )
