"""The tree of a shard as tiles (C2SP tlog-tiles): what a proof is made from, and what a web server can show to the world.

    DIR/checkpoint                       the signed tree head; it is written last
    DIR/tile/<L>/<N>[.p/<W>]             256 hashes of level 8·L, or W of them while there are no more
    DIR/tile/entries/<N>[.p/<W>]         the records below tile <N> of level 0, each behind its length (2 bytes, big-endian)

A tile holds the roots of full tiles one level down, and below level 0 the leaf hashes. A full tile never changes. Partial tiles stay until
the full one is there, because somebody may still hold a checkpoint that needs them.

Nothing here is believed: the right edge of what is there must give the root of the checkpoint beside it, and with the new leaves that of
the new checkpoint. So a site only ever grows; one that was damaged or belongs to another history is refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Final

from agentguard.errors import InvalidInput
from agentguard.log.checkpoint import Checkpoint, parse_checkpoint, parse_note
from agentguard.log.layout import names_in, read_small, replace_file, sync_directory
from agentguard.log.merkle import HASH_SIZE, Frontier, leaf_hash, next_level, peaks_between, root_of
from agentguard.log.thin import Removed, leaf_of

WIDTH: Final = 256
_BITS: Final = 8
_MAX_TILE: Final = WIDTH * HASH_SIZE
_MAX_BUNDLE: Final = WIDTH * (2 + 0xFFFF)
ENTRIES: Final = "entries"
#: How many tiles are kept at hand, of about 40 KiB each.
_KEPT: Final = 64


def tile_path(level: int | str, number: int, width: int = WIDTH) -> str:
    """`tile/0/x001/x234/067`, and `.p/<width>` behind it for a partial one."""
    digits = f"{number:03d}"
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    parts = [digits[at : at + 3] for at in range(0, len(digits), 3)]
    path = "/".join([*(f"x{part}" for part in parts[:-1]), parts[-1]])
    return f"tile/{level}/{path}" if width == WIDTH else f"tile/{level}/{path}.p/{width}"


def width_of(size: int, level: int, number: int) -> int:
    """How many hashes tile `number` of `level` has in a tree of `size` leaves."""
    return max(0, min(WIDTH, (size >> _BITS * level) - number * WIDTH))


class Tiles:
    """A directory of tiles. `size` is the number of leaves that its own checkpoint covers; 0 if there is none.

    site   made for others: with the records, readable by everybody, and durable before the checkpoint says that it is there. Otherwise
           it is a cache of our own, which is made anew when in doubt
    """

    def __init__(self, directory: Path, *, site: bool = False) -> None:
        """Raises InvalidInput if the checkpoint that is there cannot be read."""
        self.directory = directory
        self._site = site
        self._mode = 0o644 if site else 0o600
        self._written: list[Path] = []
        self._seen: dict[tuple[int, int], list[list[bytes]]] = {}
        self.note = read_small(directory / "checkpoint")
        self.checkpoint: Checkpoint | None = None
        if self.note is not None:
            try:
                self.checkpoint = parse_checkpoint(parse_note(self.note).text)
            except InvalidInput as error:
                raise InvalidInput(error.message, place=str(directory / "checkpoint")) from None
        self.size = self.checkpoint.size if self.checkpoint is not None else 0

    def node(self, level: int, number: int) -> bytes:
        """The root of a perfect subtree, as `merkle.inclusion_proof` asks for it. Raises InvalidInput if its tile is not there."""
        tile_level, rest = divmod(level, _BITS)
        first = number << rest
        levels = self._levels(tile_level, first >> _BITS)
        while len(levels) <= rest:
            levels.append(next_level(levels[-1]))
        at = first % WIDTH >> rest
        if at >= len(levels[rest]):
            raise self._refusal(f"tile {first >> _BITS} of level {tile_level} does not reach that far")
        return levels[rest][at]

    def tile(self, level: int, number: int) -> list[bytes]:
        """The hashes of a tile. Raises InvalidInput."""
        return self._levels(level, number)[0]

    def _levels(self, level: int, number: int) -> list[list[bytes]]:
        """The hashes of a tile, and the levels above them as far as somebody needed them."""
        levels = self._seen.get((level, number))
        if levels is None:
            width = width_of(self.size, level, number)
            data = self._read(tile_path(level, number, width), _MAX_TILE) if width else b""
            if len(data) != width * HASH_SIZE or not width:
                raise self._refusal(f"tile {number} of level {level} is not there, or not whole")
            if len(self._seen) >= _KEPT:
                self._seen.clear()
            levels = self._seen[level, number] = [[data[at : at + HASH_SIZE] for at in range(0, len(data), HASH_SIZE)]]
        return levels

    def bundle(self, number: int) -> list[bytes]:
        """The records of an entry bundle. Raises InvalidInput."""
        width = width_of(self.size, 0, number)
        data = self._read(tile_path(ENTRIES, number, width), _MAX_BUNDLE)
        records, at = [], 0
        while at < len(data):
            length = int.from_bytes(data[at : at + 2], "big")
            records.append(data[at + 2 : at + 2 + length])
            at += 2 + length
        if at != len(data) or len(records) != width:
            raise self._refusal(f"the entries {number} are damaged")
        return records

    def tree(self, size: int) -> Frontier:
        """The tree of the first `size` leaves, which must be here. Raises InvalidInput."""
        return Frontier(size, [self.node(level, number) for level, number in peaks_between(0, size)])

    def edge(self) -> Frontier:
        """The tree of all leaves. Raises InvalidInput if its root is not that of the checkpoint."""
        frontier = self.tree(self.size)
        if self.checkpoint is not None and frontier.root() != self.checkpoint.root:
            raise self._refusal("the tiles do not give the root of the checkpoint beside them")
        return frontier

    def extend(self, note: bytes, checkpoint: Checkpoint, records: Iterable[bytes], progress: Callable[[int], None] | None = None) -> None:
        """Add the records from `size` up to the checkpoint's size, then the checkpoint, which the caller has verified.

        Raises InvalidInput, and leaves the old checkpoint and its tiles in place, if the new one does not belong to the tree that these
        records make of the old: what is there was damaged, or the log has another history than it had. Raises OSError.
        """
        before, after = self.size, checkpoint.size
        if after < before:
            raise self._refusal(f"{before} records are here already, and the log has {after}: it was cut or rolled back")
        frontier = self.edge()
        levels, bundle = self._right_edge()
        coming = iter(records)
        full: list[tuple[int | str, int]] = []
        while frontier.size < after:
            more = list(islice(coming, min(after, (frontier.size // WIDTH + 1) * WIDTH) - frontier.size))
            if not more:
                raise self._refusal(f"the log has {frontier.size} records, and its checkpoint speaks of {after}")
            if self._site and any(isinstance(record, Removed) for record in more):
                raise self._refusal("records that are not here yet were removed from the log by retention")
            leaves = [leaf_of(record) for record in more]
            frontier.extend(leaves)
            bundle += more
            levels[0] += leaves
            if not frontier.size % WIDTH:
                full += self._carry(levels, bundle, frontier.size)
                bundle = []
                if progress is not None:
                    progress(frontier.size)
        if frontier.root() != checkpoint.root:
            raise self._refusal("what is here and the records of the log together do not give the root of the log's checkpoint")
        for level, hashes in enumerate(levels):
            if hashes and width_of(before, level, number := after >> _BITS * (level + 1)) != len(hashes):
                self._put(level, number, b"".join(hashes), len(hashes))
        if bundle and self._site and width_of(before, 0, after // WIDTH) != len(bundle):
            self._put(ENTRIES, after // WIDTH, _encode_bundle(bundle), len(bundle))
        self._finish(note, checkpoint)
        for level_name, number in full:
            self._drop_partials(level_name, number)

    def _right_edge(self) -> tuple[list[list[bytes]], list[bytes]]:
        """The partial tile of each level, and the records below that of level 0."""
        levels: list[list[bytes]] = [[]]
        while count := self.size >> _BITS * (len(levels) - 1):
            levels[-1] = list(self.tile(len(levels) - 1, count // WIDTH)) if count % WIDTH else []
            levels.append([])
        bundle = self.bundle(self.size // WIDTH) if self._site and self.size % WIDTH else []
        if self._site and [leaf_hash(record) for record in bundle] != levels[0]:
            raise self._refusal(f"the entries {self.size // WIDTH} are not those of their tile")
        return levels, bundle

    def _carry(self, levels: list[list[bytes]], bundle: list[bytes], size: int) -> Iterator[tuple[int | str, int]]:
        """Write the tiles that are full, level by level, and put the root of each where it belongs."""
        level = 0
        if self._site:
            yield self._put(ENTRIES, size // WIDTH - 1, _encode_bundle(bundle))
        while len(levels[level]) == WIDTH:
            if level + 1 == len(levels):
                levels.append([])
            yield self._put(level, (size >> _BITS * (level + 1)) - 1, b"".join(levels[level]))
            levels[level + 1].append(root_of(levels[level]))
            levels[level] = []
            level += 1

    def _put(self, level: int | str, number: int, data: bytes, width: int = WIDTH) -> tuple[int | str, int]:
        place = self.directory / tile_path(level, number, width)
        place.parent.mkdir(parents=True, exist_ok=True)
        replace_file(place, data, sync=False, mode=self._mode)
        self._written.append(place)
        return level, number

    def _settle(self) -> None:
        """Make durable what was written."""
        for place in self._written:
            descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        for directory in {parent for place in self._written for parent in place.parents if parent.is_relative_to(self.directory)}:
            sync_directory(directory)

    def _finish(self, note: bytes, checkpoint: Checkpoint) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        if self._site:
            self._settle()
        self._written.clear()
        if note != self.note:
            replace_file(self.directory / "checkpoint", note, sync=self._site, mode=self._mode)
        self._seen.clear()
        self.note, self.checkpoint, self.size = note, checkpoint, checkpoint.size

    def _drop_partials(self, level: int | str, number: int) -> None:
        """Remove the partial tiles of one that is full now."""
        directory = self.directory / f"{tile_path(level, number)}.p"
        for name in names_in(directory):
            (directory / name).unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            directory.rmdir()

    def _read(self, path: str, limit: int) -> bytes:
        return read_small(self.directory / path, limit) or b""

    def _refusal(self, what: str) -> InvalidInput:
        hint = "take it away and make it anew, once it is clear how that came" if self._site else None
        return InvalidInput(what, place=str(self.directory), hint=hint)


def _encode_bundle(records: Iterable[bytes]) -> bytes:
    return b"".join(len(record).to_bytes(2, "big") + record for record in records)
