"""`agentguard log verify`: everything about a home's log that can be checked without trusting whoever wrote it, but for one public key.

The argument, in order:

 1. every remembered head, and the manifest of shards, is signed by the log key; the manifest is no older than any head knew it
 2. the manifest's shards, the directories and the heads name the same shards
 3. per shard, segment by segment: the first frame names this shard, this index, the length of the segment before and the tree so far; every
    byte belongs to an intact frame; every commit seals the tree of all records so far
 4. every checkpoint is signed, for this shard, this size and this root, by the key in force; one key follows another only through a record
    in which both say so (handover.py); manifests cited never get older
 5. the remembered head is one of these checkpoints; nothing is shorter than it says; it is not older than a final checkpoint allows
 6. every record is canonical JSON, no id stands twice, and every allowed call has an outcome (else it is *unknown*)
 7. every checkpoint that somebody remembers, or that a witness cosigned, has the root that the log had at its size (memory.py)

It streams: memory does not grow with the segments. A log that is being written is verified up to its last commit. What it cannot see is a
consistent older copy of everything, heads and manifest included: for that somebody else must remember a checkpoint.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from agentguard.errors import InvalidInput
from agentguard.keys import PublicKey
from agentguard.log.cosignature import WitnessKey
from agentguard.log.frames import Damage
from agentguard.log.handover import Succession, read_handover
from agentguard.log.heads import Head, open_head, read_head, remembered
from agentguard.log.identity import LogKeys
from agentguard.log.layout import (
    head_path,
    is_live,
    log_directory,
    names_in,
    read_small,
    segments,
    shard_directories,
    shard_directory,
)
from agentguard.log.manifest import Manifest, claimed_keys, manifest_path, read_manifest
from agentguard.log.memory import Memory
from agentguard.log.merkle import EMPTY_ROOT, Frontier
from agentguard.log.reader import iter_entries
from agentguard.log.records import Audit, Place
from agentguard.log.removals import Removals
from agentguard.log.scan import Run, check_segment_head, opened, read_segment_head
from agentguard.log.thin import is_thinned, read_runs, whole_length

Severity = Literal["error", "warning"]
#: Told how many bytes were read, and of how many.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be. An `error` means that evidence was damaged, lost or rewritten.

    kind     damage cut rollback head manifest shard signature key fork witness record duplicate retention (errors; a shard that was
             never begun is a warning); tail unsigned unknown orphan clock behind foreign removed (warnings)
    file     the file it is about; `offset` is the byte in it, or None if it is about the whole file
    """

    severity: Severity
    kind: str
    message: str
    file: str
    offset: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {"severity": self.severity, "kind": self.kind, "message": self.message, "file": self.file, "offset": self.offset}


@dataclass(frozen=True, slots=True)
class ShardReport:
    """One shard as verified: number of records, root over them, and whether a writer holds it now."""

    shard: str
    origin: str
    size: int
    root: str
    checkpoints: int
    live: bool


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was found. `ok`: no errors; warnings are for a human to look at."""

    findings: tuple[Finding, ...]
    shards: tuple[ShardReport, ...]

    @property
    def ok(self) -> bool:
        return all(finding.severity != "error" for finding in self.findings)

    @property
    def records(self) -> int:
        return sum(shard.size for shard in self.shards)

    def to_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "records": self.records,
            "shards": [{name: getattr(shard, name) for name in ShardReport.__slots__} for shard in self.shards],
            "findings": [finding.to_json() for finding in self.findings],
        }


def verify(
    home: str | Path,
    key: PublicKey | LogKeys,
    *,
    since: Mapping[str, bytes] | None = None,
    witnesses: Sequence[WitnessKey] = (),
    progress: Progress = lambda done, of: None,
) -> VerifyReport:
    """Check the whole log of a home against the log's public key.

    since      file -> its bytes: checkpoints that somebody remembers, which the log must have grown from
    witnesses  each must have cosigned every shard, and no less of it than was submitted
    progress   told how many bytes were read, and of how many

    Raises InvalidInput only if there is no log there at all, or if what is remembered was not signed by this log.
    """
    return _Verifier(Path(home), key, since or {}, witnesses, progress).run()


@dataclass(slots=True)
class _Walk:
    """How far one shard was read."""

    frontier: Frontier = field(default_factory=Frontier)
    checkpoints: int = 0
    last: Head | None = None
    found: int | None = None  # which checkpoint the remembered head is; 0 is the one from before the first record
    closed: int = 0  # the last final checkpoint
    intact: bool = True
    key: PublicKey | None = None  # the key in force


class _Verifier:
    def __init__(
        self, home: Path, key: PublicKey | LogKeys, since: Mapping[str, bytes], witnesses: Sequence[WitnessKey], progress: Progress
    ) -> None:
        self._home = home
        self._progress, self._read, self._of = progress, 0, 0
        self._keys = claimed_keys(home, key)
        self._succession = Succession(self._keys)
        self._memory = Memory(self._keys, self._error)
        self._since, self._witnesses = since, witnesses
        self._findings: list[Finding] = []
        self._heads: dict[str, Head] = {}
        self._manifest: Manifest | None = None
        self._audit = Audit(self._about_record)
        self._removals = Removals(self._error, self._warn)

    def run(self) -> VerifyReport:
        if not os.path.isdir(log_directory(self._home)) and not remembered(self._home):
            raise InvalidInput(
                "there is no log here", place=str(self._home), hint="give the directory that was passed to the guard as home"
            )
        for file, data in self._since.items():
            self._memory.remember(data, file)
        listed = self._listings()
        for witness in self._witnesses:
            self._memory.remember_witness(self._home, listed, witness)
        files = [path for shard in listed for _, path in segments(shard_directory(self._home, shard))]
        self._of = sum(path.lstat().st_size for path in files)
        reports = [self._shard(shard) for shard in listed]
        self._memory.finish({report.shard: report.size for report in reports})
        for missing in self._succession.unproven():
            message = f"the manifest lists the key {missing.thumbprint()}, but no record in the log hands over to it"
            self._error("key", message, manifest_path(self._home))
        self._removals.finish()
        self._audit.forgetful = self._removals.any
        self._audit.finish(lambda: self._records_again(listed))
        return VerifyReport(tuple(self._findings), tuple(reports))

    def _error(self, kind: str, message: str, file: Path | str, offset: int | None = None) -> None:
        self._findings.append(Finding("error", kind, message, str(file), offset))

    def _warn(self, kind: str, message: str, file: Path | str, offset: int | None = None) -> None:
        self._findings.append(Finding("warning", kind, message, str(file), offset))

    def _about_record(self, severity: str, kind: str, message: str, place: Place) -> None:
        self._findings.append(Finding("error" if severity == "error" else "warning", kind, message, place.file, place.offset))

    # steps 1 and 2

    def _listings(self) -> list[str]:
        """Heads, then directories, then the manifest: in the opposite order of that in which a writer makes them."""
        names = remembered(self._home)
        for shard in names:
            try:
                head = read_head(self._home, shard, self._keys)
            except InvalidInput as error:
                self._error("head", error.message, head_path(self._home, shard))
            else:
                if head is not None:
                    self._heads[shard] = head
        written = [shard for shard in shard_directories(self._home) if segments(shard_directory(self._home, shard))]
        place = manifest_path(self._home)
        try:
            self._manifest = read_manifest(self._home, self._keys)
            if self._manifest is None and (names or written):
                self._error("manifest", "the manifest of shards is missing", place)
        except InvalidInput as error:
            self._error("manifest", error.message, place)
        listed = self._manifest.shards if self._manifest else ()
        if self._manifest is not None:
            for shard in sorted({*names, *written}.difference(listed)):
                self._error("shard", f"shard {shard} has left traces, but the manifest does not list it", place)
            for shard, head in self._heads.items():
                if not self._manifest.follows(head.manifest):
                    message = (
                        f"the manifest has version {self._manifest.version}, shard {shard} has seen another of version {head.manifest[0]}"
                    )
                    self._error("rollback", message, place)
        for shard in listed:
            if not os.path.isdir(shard_directory(self._home, shard)):
                self._error("shard", f"the directory of shard {shard} is gone", shard_directory(self._home, shard))
        return sorted({*listed, *names, *written})

    # steps 3 to 5

    def _shard(self, shard: str) -> ShardReport:
        directory = shard_directory(self._home, shard)
        live = is_live(directory)
        walk = _Walk()
        head = self._heads.get(shard)
        if head is not None and head.size == 0 and head.root == EMPTY_ROOT:
            walk.found = 0
        files = segments(directory)
        previous = 0
        for position, (_, path) in enumerate(files):
            stop = 0
            try:
                with opened(path) as descriptor:
                    stop = os.fstat(descriptor).st_size
                    self._segment(shard, path, descriptor, stop, previous, walk, head)
                    self._read += stop
                    previous = whole_length(path) if is_thinned(path) else stop
            except Damage as damage:
                if not damage.torn or position < len(files) - 1:
                    self._error("damage", damage.message, path, damage.offset)
                    walk.intact = False
                    break
                live = live or is_live(directory)
                if not live:
                    message = f"{stop - damage.offset} unacknowledged bytes at the end will be dropped when the shard is opened next"
                    self._warn("tail", message, path, damage.offset)
        self._removals.end()
        if walk.intact:
            self._against_head(shard, directory, walk, head, bool(files), live)
            last = walk.key or (head.key if head is not None else None)
            if last is not None and last != self._keys.current:
                message = f"shard {shard} ends under a log key that was replaced: its rotation was not finished, or it was rolled back"
                self._error("key", message, directory)
        for name in set(names_in(directory)).difference({"lock"}, (path.name for _, path in segments(directory))):
            self._warn("foreign", "this file does not belong to the log", directory / name)
        root = walk.frontier.root().hex()
        return ShardReport(shard, self._keys.origin(shard), walk.frontier.size, root, walk.checkpoints, live)

    def _segment(self, shard: str, path: Path, descriptor: int, stop: int, previous: int, walk: _Walk, head: Head | None) -> None:
        """Read one segment to its end. Raises Damage."""
        frontier = walk.frontier
        start = read_segment_head(descriptor, path)
        check_segment_head(start, path, shard=shard, first=frontier.size, previous=previous, peaks=frontier.peaks)
        name = str(path)
        add = self._audit.add
        self._removals.begin(shard, start.first, path)
        for run in read_runs(descriptor, path, start.end, stop, start.first, frontier):
            if run.records:
                notes = add(run.records, run.offsets, name)
                self._removals.read(path, run.records if is_thinned(path) else notes)
            if run.note:
                self._checkpoint(shard, path, run, walk, head)
                self._removals.sign()
            self._progress(self._read + run.end, self._of)

    def _checkpoint(self, shard: str, path: Path, event: Run, walk: _Walk, head: Head | None) -> None:
        walk.checkpoints += 1
        if event.final:
            walk.closed = walk.checkpoints
        if head is not None and event.note == head.note:
            walk.found = walk.checkpoints
        size, root = walk.frontier.size, walk.frontier.root()
        self._memory.meet(shard, size, root)
        try:
            if event.records and (handover := read_handover(event.records[-1], self._keys.origin(shard))) is not None:
                before = (walk.last.size, walk.last.root) if walk.last is not None and walk.last.size == size - 1 else (-1, b"")
                walk.key = self._succession.hand_over(handover, walk.key, *before)
            signed = open_head(event.note, self._keys, shard)
            walk.key = walk.key or signed.key
            if signed.key != walk.key:
                raise InvalidInput("it is signed by another log key than the one in force")
        except InvalidInput as error:
            self._error("signature", f"the checkpoint cannot be believed: {error.message}", path, event.offset)
            return
        if (signed.size, signed.root, signed.final) != (size, root, event.final):
            message = f"the checkpoint signs {signed.size} records, but stands after {size}, or has another root or state"
            self._error("signature", message, path, event.offset)
        if self._manifest is not None and not self._follows(signed.manifest):
            self._error("rollback", f"the checkpoint cites another manifest of version {signed.manifest[0]}", path, event.offset)
        if walk.last is not None:
            if signed.manifest[0] < walk.last.manifest[0]:
                self._error("rollback", "the checkpoint cites an older manifest than the one before it", path, event.offset)
            if signed.time_ns < walk.last.time_ns:
                self._warn("clock", "the checkpoint is dated before the one before it: the clock was set back", path, event.offset)
        walk.last = signed

    def _follows(self, reference: tuple[int, str]) -> bool:
        """Whether a checkpoint may cite `reference`. A shard may have been added since the manifest was read, so look again first."""
        if self._manifest is not None and not self._manifest.follows(reference):
            with suppress(InvalidInput):
                self._manifest = read_manifest(self._home, self._keys) or self._manifest
        return self._manifest is None or self._manifest.follows(reference)

    def _settled(self, shard: str, head: Head) -> bool:
        """Whether nobody writes the shard, nor did since its head was read: segments are read after heads, and may have gone on."""
        return not is_live(shard_directory(self._home, shard)) and read_small(head_path(self._home, shard)) == head.note

    def _against_head(self, shard: str, directory: Path, walk: _Walk, head: Head | None, written: bool, live: bool) -> None:
        place = head_path(self._home, shard)
        size = walk.frontier.size
        if head is None:
            if written and not os.path.lexists(place):
                self._error("head", f"shard {shard} has records, but no remembered head", place)
            elif not written and not os.path.lexists(place) and not live and not is_live(directory):
                self._warn("shard", f"shard {shard} is listed, but nothing was ever written to it", directory)
            return
        if head.size > size:
            message = (
                f"shard {shard} held {head.size} records when its head was remembered, and holds {size} now: it was cut or rolled back"
            )
            self._error("cut", message, directory)
        elif walk.found is None:
            message = (
                f"the remembered head ({head.size} records) is none of the checkpoints of shard {shard}: log or head was cut or rolled back"
            )
            self._error("rollback", message, place)
        elif walk.found < walk.closed - 1 and read_small(place) == head.note:
            message = f"the remembered head ({head.size} records) is older than the writer left it when it closed: it was rolled back"
            self._error("rollback", message, place)
        elif walk.found < walk.checkpoints and not live and self._settled(shard, head):
            message = (
                f"the remembered head is {walk.checkpoints - walk.found} checkpoints behind, as after a crash; opening the log brings it up"
            )
            self._warn("behind", message, place)
        signed = walk.last.size if walk.last is not None else 0
        if signed < size and not live and self._settled(shard, head):
            self._warn("unsigned", f"the last {size - signed} records are under no signed checkpoint: their writer was killed", directory)

    def _records_again(self, shards: list[str]) -> Iterator[tuple[bytes, Place]]:
        for shard in shards:
            try:
                for entry in iter_entries(self._home, shard):
                    yield entry.record, Place(str(shard_directory(self._home, shard) / entry.segment), entry.offset)
            except InvalidInput:
                continue  # reported already
