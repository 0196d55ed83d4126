"""What others remember of a log, and `verify` must find in it again: checkpoints that somebody kept, and those that witnesses cosigned.

A log that only grew still has, at the size of each such checkpoint, the root that stands in it. One that was cut has fewer records, one
that was rewritten another root. This is how a stranger notices what the log's owner could do to all files of the home together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from agentguard.errors import InvalidInput
from agentguard.log.checkpoint import Checkpoint, open_checkpoint_by, parse_checkpoint, parse_note, split_notes
from agentguard.log.cosignature import WitnessKey
from agentguard.log.identity import LogKeys
from agentguard.log.layout import is_shard_id
from agentguard.log.witnessed import cosigned_path, read_cosigned, read_submitted, submitted_path

#: `report(kind, message, file)` takes an error that was found.
Report: TypeAlias = Callable[[str, str, Path | str], None]


@dataclass(slots=True)
class _Point:
    """A remembered checkpoint, whose file it stands in, and whether the log had it."""

    checkpoint: Checkpoint
    file: str
    met: bool = False


class Memory:
    """The checkpoints that are remembered of a log's shards."""

    def __init__(self, keys: LogKeys, report: Report) -> None:
        self._keys = keys
        self._report = report
        self._points: dict[str, list[_Point]] = {}

    def remember(self, data: bytes, file: str) -> int:
        """Take in a file of one or more checkpoints; how many. Raises InvalidInput for one that this log did not sign."""
        count = 0
        for note in split_notes(data):
            count += 1
            try:
                origin = parse_checkpoint(parse_note(note).text).origin
                name, _, shard = origin.rpartition("/")
                if name != self._keys.name or not is_shard_id(shard):
                    raise InvalidInput(f"the checkpoint is of {origin!r:.100}, not of {self._keys.name}")
                self._add(shard, open_checkpoint_by(note, self._keys.keys, origin)[0], file)
            except InvalidInput as error:
                raise InvalidInput(error.message, place=f"{file}: checkpoint {count}") from None
        if not count:
            raise InvalidInput("there is no checkpoint in it", place=file, hint="`agentguard log checkpoint` prints them")
        return count

    def remember_witness(self, home: Path, shards: Iterable[str], witness: WitnessKey) -> None:
        """Take in what a witness cosigned. Every shard must have been cosigned as often as it was submitted."""
        for shard in shards:
            place = cosigned_path(home, shard, witness)
            try:
                cosigned = read_cosigned(home, shard, self._keys, witness)
            except InvalidInput as error:
                self._report("witness", error.message, place)
                continue
            if cosigned is None:
                self._report("witness", f"the witness {witness.name} has cosigned nothing of shard {shard}", place)
                continue
            self._add(shard, cosigned.checkpoint, str(place))
            try:
                submitted = read_submitted(home, shard, self._keys)
            except InvalidInput as error:
                self._report("witness", error.message, submitted_path(home, shard))
                continue
            if submitted is not None and submitted.size > cosigned.checkpoint.size:
                message = (
                    f"the last {submitted.size} records of shard {shard} that were submitted are not cosigned: the witness {witness.name} "
                    f"has cosigned {cosigned.checkpoint.size}"
                )
                self._report("witness", message, place)

    def _add(self, shard: str, checkpoint: Checkpoint, file: str) -> None:
        self._points.setdefault(shard, []).append(_Point(checkpoint, file, met=checkpoint.size == 0))

    def meet(self, shard: str, size: int, root: bytes) -> None:
        """The log's own tree has `size` records under `root` at this point."""
        for point in self._points.get(shard, ()):
            if point.checkpoint.size == size:
                point.met = True
                if point.checkpoint.root != root:
                    message = (
                        f"shard {shard} had another history when it had {size} records: the checkpoint that is remembered has another root"
                    )
                    self._report("fork", message, point.file)

    def finish(self, sizes: Mapping[str, int]) -> None:
        """`sizes`: number of records of each shard as it was found."""
        for shard, points in self._points.items():
            for point in points:
                size, found = point.checkpoint.size, sizes.get(shard, 0)
                if size > found:
                    message = f"shard {shard} had {size} records when this was remembered, and has {found} now: it was cut or rolled back"
                    self._report("cut", message, point.file)
                elif not point.met:
                    self._report("fork", f"the log has no checkpoint of the first {size} records of shard {shard}", point.file)
