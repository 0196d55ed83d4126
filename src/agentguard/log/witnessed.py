"""What witnesses have cosigned, kept beside the log.

    HOME/witnessed/<shard>/submitted    the last checkpoint that was shown to a witness, written before it was shown
    HOME/witnessed/<shard>/<key id>     the last checkpoint that the witness with this key cosigned, with its cosignature

None of it has to be believed: cosignatures prove themselves. If it is lost, the witness is asked again (log/witness_client.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agentguard.errors import InvalidInput
from agentguard.log.checkpoint import Checkpoint, open_checkpoint_by, parse_note
from agentguard.log.cosignature import WitnessKey, cosigned_at
from agentguard.log.identity import LogKeys
from agentguard.log.layout import make_directory, names_in, read_small, replace_file


@dataclass(frozen=True, slots=True)
class Cosigned:
    """A verified checkpoint of a shard with the verified cosignature of one witness, given at `seconds` since 1970."""

    note: bytes
    checkpoint: Checkpoint
    seconds: int


def witnessed_directory(home: Path, shard: str) -> Path:
    return home / "witnessed" / shard


def submitted_path(home: Path, shard: str) -> Path:
    return witnessed_directory(home, shard) / "submitted"


def cosigned_path(home: Path, shard: str, witness: WitnessKey) -> Path:
    return witnessed_directory(home, shard) / witness.key_id.hex()


def keep(path: Path, note: bytes) -> None:
    """Put a checkpoint in its place, durably. Raises OSError."""
    make_directory(path.parent)
    replace_file(path, note)


def read_submitted(home: Path, shard: str, keys: LogKeys) -> Checkpoint | None:
    """The last checkpoint that was shown to a witness. Raises InvalidInput if it is damaged."""
    path = submitted_path(home, shard)
    note = read_small(path)
    if note is None:
        return None
    try:
        return open_checkpoint_by(note, keys.keys, keys.origin(shard))[0]
    except InvalidInput as error:
        raise InvalidInput(f"the checkpoint that was submitted last is damaged: {error.message}", place=str(path)) from None


def read_cosigned(home: Path, shard: str, keys: LogKeys, witness: WitnessKey) -> Cosigned | None:
    """The last checkpoint of a shard that the witness cosigned, or None. Raises InvalidInput if it is not what it should be."""
    path = cosigned_path(home, shard, witness)
    note = read_small(path)
    if note is None:
        return None
    try:
        return open_cosigned(note, shard, keys, witness)
    except InvalidInput as error:
        raise InvalidInput(error.message, place=str(path), hint="submit the log to the witness again") from None


def open_cosigned(note: bytes, shard: str, keys: LogKeys, witness: WitnessKey) -> Cosigned:
    """Verify a checkpoint that the log signed and the witness cosigned. Raises InvalidInput."""
    checkpoint, _ = open_checkpoint_by(note, keys.keys, keys.origin(shard))
    seconds = cosigned_at(parse_note(note), witness)
    if seconds is None:
        raise InvalidInput(f"the witness {witness.name} did not cosign it")
    return Cosigned(note, checkpoint, seconds)


def cosigned_notes(home: Path, shard: str) -> list[bytes]:
    """Everything that is kept of cosigned checkpoints of a shard, unverified."""
    directory = witnessed_directory(home, shard)
    return [note for name in names_in(directory) if name != "submitted" and (note := read_small(directory / name)) is not None]
