"""The record in which one log key hands over to the next, and who may sign when.

It is a leaf of every shard, of type `key`, and holds a checkpoint of all records before it, which both keys signed:

    agentguard/<log>/<shard>
    <number of records>
    <root>
    time <nanoseconds since 1970, 19 digits>
    key <old, base64> <new, base64>

So it stands for itself: the old key names its successor, the new one accepts, and both vouch for everything that was written until then. A
checkpoint that covers this record is signed by the new key. Whoever has the old one can neither add a record to a shard nor change one.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Final

from agentguard.canonical import parse
from agentguard.errors import InvalidInput
from agentguard.evidence import NoteRecord, encode
from agentguard.keys import PublicKey, Signer
from agentguard.log.checkpoint import Checkpoint, NoteSigner, open_checkpoint, parse_note, to_base64
from agentguard.log.identity import LogKeys

TYPE: Final = "key"
_MARK: Final = b'"type":"key"'
_EXTENSIONS = re.compile(r"time [0-9]{19}\nkey (?P<old>[A-Za-z0-9+/]{43}=) (?P<new>[A-Za-z0-9+/]{43}=)")


@dataclass(frozen=True, slots=True)
class Handover:
    """Verified: `old` hands over to `new` after `size` records under `root`."""

    size: int
    root: bytes
    old: PublicKey
    new: PublicKey


def compose_handover(
    origin: str, size: int, root: bytes, old: Signer, new: Signer, *, time_ns: int, identity: str, by: str, reason: str
) -> bytes:
    """The record."""
    keys = f"key {to_base64(old.public.raw)} {to_base64(new.public.raw)}"
    text = Checkpoint(origin, size, root, (f"time {time_ns:019d}", keys)).text()
    note = NoteSigner(old, origin).sign(text) + NoteSigner(new, origin).sign(text)[len(text.encode()) + 1 :]
    detail = {"handover": note.decode("utf-8"), "reason": reason}
    return encode(NoteRecord(by=by, detail=detail, id=identity, time=str(time_ns), type=TYPE))


def read_handover(record: bytes, origin: str) -> Handover | None:
    """What a record hands over, or None if it is no such record. Raises InvalidInput if it is one and not both keys signed it."""
    if _MARK not in record:
        return None
    members = parse(record)
    detail = members.get("detail") if type(members) is dict and members.get("type") == TYPE else None
    text = detail.get("handover") if type(detail) is dict else None
    if type(text) is not str:
        return None
    note = text.encode("utf-8", "replace")
    match = _EXTENSIONS.search(parse_note(note).text)
    if match is None:
        raise InvalidInput("the handover names no keys")
    old, new = (PublicKey.from_raw(base64.b64decode(match[name])) for name in ("old", "new"))
    checkpoint = open_checkpoint(note, old, origin)
    open_checkpoint(note, new, origin)
    if _EXTENSIONS.fullmatch("\n".join(checkpoint.extensions)) is None or old == new:
        raise InvalidInput("the handover is not in its one form")
    return Handover(checkpoint.size, checkpoint.root, old, new)


class Succession:
    """Which of a log's claimed keys are proven, as its shards are read."""

    def __init__(self, keys: LogKeys) -> None:
        self._keys = keys.keys
        self._proven: set[int] = set()

    def hand_over(self, handover: Handover, in_force: PublicKey | None, size: int, root: bytes) -> PublicKey:
        """The key in force after a handover that stands behind `size` records under `root`. Raises InvalidInput if it must not stand
        there."""
        if (handover.size, handover.root) != (size, root):
            raise InvalidInput(f"the handover is about another history: {handover.size} records, and it stands after {size}")
        if handover.old != in_force:
            raise InvalidInput("the handover is from a key that was not in force")
        position = self._keys.index(handover.old)
        if self._keys[position + 1 : position + 2] != (handover.new,):
            raise InvalidInput("the handover is to a key that the manifest does not list next")
        self._proven.add(position)
        return handover.new

    def unproven(self) -> list[PublicKey]:
        """Keys that the manifest lists, but that no record hands over to."""
        return [key for position, key in enumerate(self._keys[1:]) if position not in self._proven]
