"""A log shown to the world: one C2SP tlog-tiles site for each shard, static files that any web server can serve.

    DIR/<shard>/checkpoint, DIR/<shard>/tile/...      as in tiles.py, with the records

A shard is a log of its own (one origin, one tree), so it is a site of its own. Records hold commitments, never values; who must not know
which agents call which tools must not see them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from agentguard.errors import InvalidInput
from agentguard.keys import PublicKey
from agentguard.log.checkpoint import Checkpoint, open_checkpoint_by, parse_checkpoint, parse_note
from agentguard.log.heads import read_head
from agentguard.log.identity import LogKeys
from agentguard.log.layout import hold_lock, is_shard_id, names_in
from agentguard.log.manifest import keys_of, manifest_path, read_manifest
from agentguard.log.merkle import Frontier, leaf_hash, root_of
from agentguard.log.proofs import newest_note
from agentguard.log.reader import iter_records
from agentguard.log.tiles import ENTRIES, WIDTH, Tiles, tile_path, width_of


@dataclass(frozen=True, slots=True)
class Site:
    """One shard's site: how many records it had, and has now."""

    shard: str
    directory: Path
    before: int
    size: int


def write_sites(home: Path, directory: Path, key: PublicKey | LogKeys, progress: Callable[[int], None] | None = None) -> Iterator[Site]:
    """Bring the site of each shard under `directory` up to the shard's last checkpoint; only what is new is written.

    A checkpoint that witnesses cosigned is preferred to one of the same size without. `progress` is told how many records a site has.
    Raises InvalidInput if a site belongs to another log or has seen more than this one, and if the log is damaged; OSError if nothing can
    be written.
    """
    keys = keys_of(home, key)
    manifest = read_manifest(home, keys)
    if manifest is None:
        raise InvalidInput("there is no log here", place=str(manifest_path(home)))
    for shard in manifest.shards:
        head = read_head(home, shard, keys)
        if head is None:
            continue  # it was added, and nothing was ever written to it
        place = directory / shard
        place.mkdir(parents=True, exist_ok=True)
        with hold_lock(place / ".lock"):
            tiles = Tiles(place, site=True)
            if tiles.note is not None:
                _own(tiles.note, manifest.keys, shard, place)  # perhaps from before a rotation
            before = tiles.size
            note = newest_note(home, shard, keys, head)
            records = (record for _, _, record in iter_records(home, shard, before))
            tiles.extend(note, Checkpoint("", head.size, head.root), records, progress)
        yield Site(shard, place, before, head.size)


def check_site(directory: Path, keys: LogKeys, progress: Callable[[int], None] | None = None) -> Checkpoint:
    """Check all of one shard's site against the checkpoint in it, with nothing but the log's key: every tile, every record.

    Raises InvalidInput at the first thing that does not fit. Partial tiles of earlier sizes are not looked at.
    """
    tiles = Tiles(directory, site=True)
    if tiles.note is None:
        raise InvalidInput("there is no checkpoint", place=str(directory))
    checkpoint = _own(tiles.note, keys, None, directory)
    frontier = Frontier()
    above: list[bytes] = []
    for number in range(-(-tiles.size // WIDTH)):
        leaves = [leaf_hash(record) for record in tiles.bundle(number)]
        if leaves != tiles.tile(0, number):
            raise InvalidInput("the records are not those of the tile", place=str(directory / _name(tiles, ENTRIES, number)))
        frontier.extend(leaves)
        if len(leaves) == WIDTH:
            above.append(root_of(leaves))
        if progress is not None:
            progress(frontier.size)
    if frontier.root() != checkpoint.root:
        raise InvalidInput("the records do not give the root of the checkpoint", place=str(directory))
    level = 1
    while above:
        next_above = []
        for number in range(-(-len(above) // WIDTH)):
            hashes = above[number * WIDTH : (number + 1) * WIDTH]
            if hashes != tiles.tile(level, number):
                raise InvalidInput("it is not what the tiles below it come to", place=str(directory / _name(tiles, level, number)))
            if len(hashes) == WIDTH:
                next_above.append(root_of(hashes))
        above, level = next_above, level + 1
    return checkpoint


def site_shards(directory: Path) -> list[str]:
    """The shards that have a site under `directory`."""
    return [name for name in names_in(directory) if is_shard_id(name)]


def _own(note: bytes, keys: LogKeys, shard: str | None, place: Path) -> Checkpoint:
    """The checkpoint of a site, if it is one of this log. Raises InvalidInput."""
    try:
        origin = parse_checkpoint(parse_note(note).text).origin
        name, _, found = origin.rpartition("/")
        if name != keys.name or not is_shard_id(found) or shard not in (None, found):
            raise InvalidInput(f"the site is of {origin!r:.100}")
        return open_checkpoint_by(note, keys.keys, origin)[0]
    except InvalidInput as error:
        raise InvalidInput(error.message, place=str(place / "checkpoint")) from None


def _name(tiles: Tiles, level: int | str, number: int) -> str:
    return tile_path(level, number, width_of(tiles.size, level if isinstance(level, int) else 0, number))
