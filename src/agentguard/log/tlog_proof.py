"""Proofs about a log, each one text that verifies offline.

That a record is in it (C2SP tlog-proof v1):

    c2sp.org/tlog-proof@v1
    extra <base64>           here: the record itself, so that the proof shows what it proves
    index <number>
    <base64 of a hash>       the audit path, from the leaf's sibling up (RFC 6962)
                             (an empty line)
    <the signed checkpoint>

The record in `extra` needs no trust: what it hashes to must be the leaf that the path leads from.

That it only grew since it had so many records (the body of C2SP tlog-witness's add-checkpoint):

    old <number>
    <base64 of a hash>       the consistency proof (RFC 6962); none if the old number is 0 or the new one
                             (an empty line)
    <the signed checkpoint>
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from agentguard.errors import InvalidInput
from agentguard.log.checkpoint import Checkpoint, from_base64, to_base64
from agentguard.log.merkle import HASH_SIZE, leaf_hash, verify_consistency, verify_inclusion

_FIRST: Final = "c2sp.org/tlog-proof@v1"
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")
#: A tree of 2^63 leaves is this deep.
_DEEPEST: Final = 63
MAX_PROOF: Final = 1 << 21


@dataclass(frozen=True, slots=True)
class TlogProof:
    """A proof taken apart. `checkpoint` is the signed note as it stands there; nothing is proven before `proves` was asked."""

    index: int
    path: tuple[bytes, ...]
    checkpoint: bytes
    record: bytes | None = None

    def format(self) -> bytes:
        """The proof's bytes."""
        extra = [f"extra {to_base64(self.record)}"] if self.record is not None else []
        lines = [_FIRST, *extra, f"index {self.index}", *map(to_base64, self.path), "", ""]
        return "\n".join(lines).encode("ascii") + self.checkpoint

    def proves(self, record: bytes, checkpoint: Checkpoint) -> bool:
        """Whether `record` is leaf `index` of the tree under a checkpoint that the caller has verified."""
        return self.proves_leaf(leaf_hash(record), checkpoint)

    def proves_leaf(self, leaf: bytes, checkpoint: Checkpoint) -> bool:
        """The same for a record of which only the leaf hash is known."""
        return verify_inclusion(leaf, self.index, checkpoint.size, self.path, checkpoint.root)


@dataclass(frozen=True, slots=True)
class Growth:
    """A proof taken apart that the log grew from `old` records to those of `checkpoint`, a signed note as it stands there."""

    old: int
    path: tuple[bytes, ...]
    checkpoint: bytes

    def format(self) -> bytes:
        """The proof's bytes."""
        return "\n".join([f"old {self.old}", *map(to_base64, self.path), "", ""]).encode("ascii") + self.checkpoint

    def proves(self, old_root: bytes, checkpoint: Checkpoint) -> bool:
        """Whether the tree under a checkpoint that the caller has verified extends the one of `old` records under `old_root`."""
        return verify_consistency(self.old, checkpoint.size, old_root, checkpoint.root, self.path)


def parse_tlog_proof(data: bytes) -> TlogProof:
    """Take a proof apart. Raises InvalidInput unless `format` would give the same bytes."""
    first, *lines, checkpoint = _parts(data)
    if first != _FIRST or not lines:
        raise InvalidInput(f"not a tlog-proof: its first line must be {_FIRST}")
    record = None
    if lines[0].startswith("extra "):
        record = from_base64(lines.pop(0).removeprefix("extra "))
        if record is None:
            raise InvalidInput("the extra data of the proof is not base64")
    word, _, number = lines[0].partition(" ") if lines else ("", "", "")
    if word != "index" or _DECIMAL.fullmatch(number) is None:
        raise InvalidInput("the proof has no line `index <number>`")
    return TlogProof(int(number), _hashes(lines[1:]), checkpoint.encode("utf-8"), record)


def parse_growth(data: bytes) -> Growth:
    """Take a proof of growth apart. Raises InvalidInput unless `format` would give the same bytes."""
    first, *lines, checkpoint = _parts(data)
    word, _, number = first.partition(" ")
    if word != "old" or _DECIMAL.fullmatch(number) is None:
        raise InvalidInput("not a proof of growth: its first line must be `old <number>`")
    return Growth(int(number), _hashes(lines), checkpoint.encode("utf-8"))


def _parts(data: bytes) -> list[str]:
    """The lines up to the first empty one, and what follows it."""
    if len(data) > MAX_PROOF:
        raise InvalidInput(f"the proof has {len(data)} bytes, at most {MAX_PROOF} are read")
    try:
        head, separator, checkpoint = data.decode("utf-8").partition("\n\n")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the proof is not UTF-8 at byte {error.start}") from None
    if not separator:
        raise InvalidInput("not a proof: lines, an empty line and a checkpoint")
    return [*head.split("\n"), checkpoint]


def _hashes(lines: list[str]) -> tuple[bytes, ...]:
    if len(lines) > _DEEPEST:
        raise InvalidInput(f"a proof has at most {_DEEPEST} hashes, found {len(lines)}")
    hashes = [from_base64(line) or b"" for line in lines]
    for line, value in zip(lines, hashes, strict=True):
        if len(value) != HASH_SIZE:
            raise InvalidInput(f"a hash of the proof is not 32 bytes in base64: {line!r:.60}")
    return tuple(hashes)
