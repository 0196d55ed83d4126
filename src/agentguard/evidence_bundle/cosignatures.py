"""Whether witnesses cosigned the checkpoints of a bundle (C2SP tlog-cosignature): as many as the reader wants of those whom it names.

Each checkpoint must have them for itself. A cosignature is over the whole text of a checkpoint, so one that was taken from elsewhere is
false here, and said to be that. A false one is never outvoted: who put it there meant to deceive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentguard.errors import InvalidInput
from agentguard.log.checkpoint import Note, parse_checkpoint, parse_note
from agentguard.log.cosignature import WitnessKey, cosigned_at
from agentguard.reading.lineage_show import when


@dataclass(frozen=True, slots=True)
class Witnesses:
    """The witnesses that a reader knows, and how many of them must have cosigned."""

    keys: tuple[WitnessKey, ...] = ()
    wanted: int = 0

    @classmethod
    def of(cls, keys: Sequence[WitnessKey], wanted: int | None = None) -> Witnesses:
        """So many of these, by default all. Raises InvalidInput for a number that cannot be, or if one key is named twice: a cosignature
        does not hold the witness's name, so one could be counted as two."""
        if len({key.public for key in keys}) != len(keys):
            raise InvalidInput("one key is named as two witnesses", hint="each witness has a key of its own")
        number = len(keys) if wanted is None else wanted
        if not (1 if keys else 0) <= number <= len(keys):
            raise InvalidInput(f"{number} of {len(keys)} witnesses cannot be wanted", hint="from 1 up to as many as are named")
        return cls(tuple(keys), number)


def check_cosignatures(checkpoints: Sequence[bytes], witnesses: Witnesses) -> str:
    """What was found, in words, if each of these signed notes was cosigned by as many as are wanted. Raises InvalidInput that names the
    witness."""
    if not witnesses.keys:
        return "none asked for"
    notes = [parse_note(data) for data in dict.fromkeys(checkpoints)]
    first: dict[WitnessKey, int] = {}  # the earliest cosignature of each
    for note in notes:
        seen = {key: seconds for key in witnesses.keys if (seconds := _cosigned(note, key, notes)) is not None}
        if len(seen) < witnesses.wanted:
            missing = ", ".join(key.name for key in witnesses.keys if key not in seen)
            wanted = f"{len(seen)} of {witnesses.wanted} cosignatures that are wanted"
            raise InvalidInput(f"the checkpoint of {_of(note)} has {wanted}: {missing} did not cosign it")
        for key, seconds in seen.items():
            first[key] = min(seconds, first.get(key, seconds))
    names = ", ".join(f"{key.name} on {when(first[key] * 10**9)}" for key in witnesses.keys if key in first)
    return f"{witnesses.wanted} of {len(witnesses.keys)} wanted, on each of {len(notes)} checkpoints: {names}"


def _cosigned(note: Note, key: WitnessKey, notes: Sequence[Note]) -> int | None:
    try:
        return cosigned_at(note, key)
    except InvalidInput as error:
        for other in notes:
            if _fits(Note(other.text, note.signatures), key):
                raise InvalidInput(f"the cosignature of {key.name} on {_of(note)} is that on another checkpoint, of {_of(other)}") from None
        raise InvalidInput(f"{error.message}, on the checkpoint of {_of(note)}") from None


def _fits(note: Note, key: WitnessKey) -> bool:
    try:
        return cosigned_at(note, key) is not None
    except InvalidInput:
        return False


def _of(note: Note) -> str:
    checkpoint = parse_checkpoint(note.text)
    return f"{checkpoint.size} records of {checkpoint.origin}"
