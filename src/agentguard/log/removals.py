"""Whether what is missing from thinned segments was removed by somebody who had the right to, and said so in the log (thin.py)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from agentguard.errors import InvalidInput
from agentguard.log.records import read_record_members
from agentguard.log.thin import Removed, digest_of, is_thinned

TYPE: Final = "retention"
_MARK: Final = b'"type":"retention"'


class Report(Protocol):
    def __call__(self, kind: str, message: str, file: Path | str, offset: int | None = None) -> None: ...


class Removals:
    """Collects what was removed and what `retention` records name, while a verifier reads the log."""

    def __init__(self, error: Report, warn: Report) -> None:
        self._error, self._warn = error, warn
        self._thinned: list[tuple[str, int, Path, str]] = []  # shard, index of the first record, file, digest
        self._counts: dict[Path, int] = {}
        self._named: dict[tuple[str, int, str], str] = {}  # shard, index, digest -> id of the record
        self._unsigned: dict[tuple[str, int, str], str] = {}

    @property
    def any(self) -> bool:
        """Whether there is a thinned segment."""
        return bool(self._thinned)

    def begin(self, shard: str, first: int, path: Path) -> None:
        """A segment is about to be read. Raises Damage."""
        if is_thinned(path):
            self._thinned.append((shard, first, path, digest_of(path)))

    def read(self, path: Path, records: Sequence[bytes]) -> None:
        """Look at records of it."""
        if is_thinned(path):
            self._counts[path] = self._counts.get(path, 0) + sum(isinstance(record, Removed) for record in records)
        for record in records:
            if _MARK in record and not isinstance(record, Removed):
                self._unsigned |= _named(record)

    def sign(self) -> None:
        """A signed checkpoint covers all that was read of this shard."""
        if self._unsigned:
            self._named |= self._unsigned
            self._unsigned = {}

    def end(self) -> None:
        """The shard was read to its end: what no checkpoint covers, anybody may have written."""
        self._unsigned = {}

    def finish(self) -> None:
        """Report what is missing, with and without a right to it."""
        for shard, first, path, digest in self._thinned:
            identity = self._named.get((shard, first, digest))
            count = self._counts.get(path, 0)
            if identity is None:
                message = f"{count} records are missing from this segment, and no signed record says that retention removed them"
                self._error(TYPE, message, path)
            else:
                message = f"retention removed {count} records from this segment, as record {identity} says; their leaf hashes are intact"
                self._warn("removed", message, path)


def _named(record: bytes) -> dict[tuple[str, int, str], str]:
    """The thinned segments that a `retention` record names. What is no such record names none."""
    try:
        members: dict[str, Any] = read_record_members(record)
        if members["type"] != TYPE:
            return {}
        return {(str(one["shard"]), int(one["first"]), str(one["digest"])): str(members["id"]) for one in members["detail"]["segments"]}
    except (InvalidInput, KeyError, TypeError, ValueError):
        return {}
