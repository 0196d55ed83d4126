"""Proofs about a home's log: that a record is in it, and that it only grew. Both are checked before they are given out.

They come from the shard's tiles (tiles.py), kept under the home and extended by what is new, so a proof costs a few hundred hashes however
long the log is. The cache is not evidence: what is wrong in it makes no proof, and it is made anew from the segments.

    HOME/tiles/<shard>/...      as in tiles.py, without the records
    HOME/tiles/<shard>/lock     held while a proof is made
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias, TypeVar

from agentguard.errors import InvalidInput
from agentguard.keys import PublicKey
from agentguard.log.checkpoint import Checkpoint, Note, open_checkpoint_by, parse_checkpoint, parse_note
from agentguard.log.cosignature import WitnessKey, cosigned_at
from agentguard.log.heads import Head, read_head
from agentguard.log.identity import LogKeys
from agentguard.log.layout import hold_lock, is_shard_id, make_directory
from agentguard.log.manifest import keys_of
from agentguard.log.merkle import consistency_proof, inclusion_proof
from agentguard.log.reader import iter_records
from agentguard.log.thin import Removed, leaf_of
from agentguard.log.tiles import Tiles
from agentguard.log.tlog_proof import Growth, TlogProof, parse_growth, parse_tlog_proof
from agentguard.log.witnessed import cosigned_notes

#: Told how many records have been read, now and then, while the cache is made.
Progress: TypeAlias = Callable[[int], None]
Proof = TypeVar("Proof", TlogProof, Growth)


def prove_inclusion(
    home: Path, shard: str, index: int, key: PublicKey | LogKeys, record: bytes, progress: Progress | None = None
) -> TlogProof:
    """Prove that `record` is number `index` of a shard, under the checkpoint that most witnesses cosigned of those that cover it, the
    newest of these; without any, under the newest of all. If retention removed the record, the proof does not bring it along. Raises
    InvalidInput if there is no signed checkpoint that covers it, or if it is not that record."""
    keys = keys_of(home, key)
    head = _head(home, shard, keys)
    if head.size <= index:
        raise InvalidInput(
            f"no signed checkpoint covers record {index} yet", place=f"shard {shard}", hint="the guard signs one when it closes"
        )
    note, checkpoint = _cosigned(home, shard, keys, index, head.size) or (head.note, Checkpoint("", head.size, head.root))

    def attempt(tiles: Tiles) -> TlogProof | None:
        shown = None if isinstance(record, Removed) else record
        proof = TlogProof(index, inclusion_proof(tiles.node, index, checkpoint.size), note, shown)
        return proof if proof.proves_leaf(leaf_of(record), checkpoint) else None

    return _with_tiles(home, shard, head, attempt, progress)


def prove_growth(
    home: Path, shard: str, old_size: int, old_root: bytes | None, key: PublicKey | LogKeys, progress: Progress | None = None
) -> Growth:
    """Prove that a shard's newest checkpoint extends the tree of its first `old_size` records; `old_root`, if it is known, is what somebody
    remembers of that tree. Raises InvalidInput if it does not."""
    keys = keys_of(home, key)
    head = _head(home, shard, keys)
    if old_size > head.size:
        raise InvalidInput(f"shard {shard} has {head.size} records under a checkpoint, and had {old_size}: it was cut or rolled back")

    def attempt(tiles: Tiles) -> Growth | None:
        path = consistency_proof(tiles.node, old_size, head.size) if 0 < old_size < head.size else ()
        growth = Growth(old_size, path, head.note)
        root = old_root if old_root is not None else tiles.tree(old_size).root()
        return growth if growth.proves(root, Checkpoint("", head.size, head.root)) else None

    return _with_tiles(home, shard, head, attempt, progress)


def newest_note(home: Path, shard: str, keys: LogKeys, head: Head) -> bytes:
    """A shard's newest checkpoint, with cosignatures where witnesses cosigned one of the same tree."""
    found = _cosigned(home, shard, keys, head.size - 1, head.size)
    return found[0] if found is not None and found[1].root == head.root else head.note


def _head(home: Path, shard: str, keys: LogKeys) -> Head:
    head = read_head(home, shard, keys)
    if head is None:
        raise InvalidInput(f"there is no shard {shard}", place=str(home))
    return head


def _cosigned(home: Path, shard: str, keys: LogKeys, index: int, most: int) -> tuple[bytes, Checkpoint] | None:
    """The checkpoint that covers record `index` and most witnesses cosigned, the largest of these, with all cosignatures on its text."""
    found: dict[str, list[Note]] = {}
    for data in cosigned_notes(home, shard):
        try:
            checkpoint, _ = open_checkpoint_by(data, keys.keys, keys.origin(shard))
            if index < checkpoint.size <= most:
                found.setdefault(checkpoint.text(), []).append(parse_note(data))
        except InvalidInput:
            continue  # damaged, or of a key that was replaced: the log's own checkpoint does as well
    if not found:
        return None
    signatures = {text: tuple(dict.fromkeys(one for note in notes for one in note.signatures)) for text, notes in found.items()}
    text = max(found, key=lambda text: (len(signatures[text]), parse_checkpoint(text).size, text))
    return Note(text, signatures[text]).format(), parse_checkpoint(text)


def _with_tiles(home: Path, shard: str, head: Head, attempt: Callable[[Tiles], Proof | None], progress: Progress | None) -> Proof:
    """What `attempt` makes of the shard's tiles; if it makes nothing of them, they are made anew once."""
    with _cache(home, shard) as directory, hold_lock(directory / "lock"):
        for last_try in (False, True):
            try:
                tiles = Tiles(directory)
                if tiles.size < head.size:
                    records = (record for _, _, record in iter_records(home, shard, tiles.size))
                    tiles.extend(head.note, Checkpoint("", head.size, head.root), records, progress)
                proof = attempt(tiles)
                if proof is not None:
                    return proof
            except InvalidInput:
                if last_try:
                    raise
            if not last_try:
                shutil.rmtree(directory / "tile", ignore_errors=True)
                (directory / "checkpoint").unlink(missing_ok=True)
    hint = "`agentguard log verify` says more"
    raise InvalidInput("the log's records are not those that its checkpoint was signed for", place=f"shard {shard}", hint=hint)


@contextmanager
def _cache(home: Path, shard: str) -> Iterator[Path]:
    """The directory of a shard's tiles; one for this time only where nothing can be written under the home."""
    directory = home / "tiles" / shard
    try:
        make_directory(directory, sync=False)
        writable = os.access(directory, os.W_OK)
    except OSError:
        writable = False
    if writable:
        yield directory
    else:
        with TemporaryDirectory(prefix="agentguard-") as scratch:
            yield Path(scratch)


@dataclass(frozen=True, slots=True)
class Proven:
    """A proof that held.

    checkpoint  of the shard `origin`; `note` is the whole of it, as signed
    index       of the proven `record`; None if the proof was about growth
    witnesses   (name, seconds since 1970) of each witness that was asked for, and when it cosigned
    """

    checkpoint: Checkpoint
    note: bytes
    index: int | None
    record: bytes | None
    witnesses: tuple[tuple[str, int], ...]


def check_inclusion(data: bytes, keys: LogKeys, witnesses: Sequence[WitnessKey] = (), record: bytes | None = None) -> Proven:
    """Check a tlog-proof with nothing but the log's key; each of `witnesses` must have cosigned its checkpoint.

    `record` is what must have been proven; by default that which comes along with the proof. Raises InvalidInput if anything does not hold.
    """
    proof = parse_tlog_proof(data)
    shown = record if record is not None else proof.record
    if shown is None:
        raise InvalidInput("the proof does not bring its record along", hint="give the record too")
    checkpoint, seen = _open(proof.checkpoint, keys, witnesses)
    if not proof.proves(shown, checkpoint):
        raise InvalidInput(f"the proof does not lead from the record to the root: it is not record {proof.index} of this log")
    return Proven(checkpoint, proof.checkpoint, proof.index, shown, seen)


def check_growth(data: bytes, old: bytes, keys: LogKeys, witnesses: Sequence[WitnessKey] = ()) -> Proven:
    """Check a proof that the log grew from the checkpoint `old`, which the log must have signed, too. Raises InvalidInput."""
    growth = parse_growth(data)
    checkpoint, seen = _open(growth.checkpoint, keys, witnesses)
    before, _ = _open(old, keys, ())
    if before.origin != checkpoint.origin:
        raise InvalidInput(f"the checkpoints are of two shards, {before.origin} and {checkpoint.origin}")
    if before.size != growth.old or not growth.proves(before.root, checkpoint):
        raise InvalidInput(f"the proof does not show that the log grew from these {before.size} records")
    return Proven(checkpoint, growth.checkpoint, None, None, seen)


def _open(note: bytes, keys: LogKeys, witnesses: Sequence[WitnessKey]) -> tuple[Checkpoint, tuple[tuple[str, int], ...]]:
    taken = parse_note(note)
    origin = parse_checkpoint(taken.text).origin
    name, _, shard = origin.rpartition("/")
    if name != keys.name or not is_shard_id(shard):
        raise InvalidInput(f"the checkpoint is of {origin!r:.100}, not of {keys.name}")
    checkpoint, _ = open_checkpoint_by(note, keys.keys, origin)
    seen = []
    for witness in witnesses:
        seconds = cosigned_at(taken, witness)
        if seconds is None:
            raise InvalidInput(f"the witness {witness.name} did not cosign the checkpoint")
        seen.append((witness.name, seconds))
    return checkpoint, tuple(seen)
