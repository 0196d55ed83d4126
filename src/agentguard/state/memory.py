"""What may only rise: the number of the newest bundle of each name, and of the newest list of revocations of each signer.

Numbered documents come from elsewhere, and an older one is as well signed as the newest. So the newest is remembered, in `state.db` and in
the log, from which the store is rebuilt; and the same number with other bytes is a fork, which is no better than an older one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from agentguard.artifacts.revocation import check_text
from agentguard.state.file import Execute

_PREFIX: Final = "newest "
_LARGEST: Final = 2**53


class Numbered(NamedTuple):
    """A document of a series. `series` names it, such as "bundle support"; `digest` names its exact bytes."""

    series: str
    number: int
    digest: str


def recall(execute: Execute, series: str) -> Numbered | None:
    """The newest of a series, as far as it is remembered."""
    row = execute("SELECT value FROM note WHERE name = ?", (_PREFIX + series,)).fetchone()
    if row is None:
        return None
    number, _, digest = str(row[0]).partition(" ")
    return Numbered(series, int(number), digest)


def passed(execute: Execute, documents: Sequence[Numbered]) -> Numbered | None:
    """What is remembered, of the first document that is older than that, or a fork; None where there is none."""
    for document in documents:
        newest = recall(execute, document.series)
        if newest is not None and (document.number < newest.number or (document.number == newest.number and document != newest)):
            return newest
    return None


def advance(execute: Execute, documents: Sequence[Numbered]) -> Numbered | None:
    """Remember documents, all or none. None where that is done, else as `passed`."""
    newest = passed(execute, documents)
    if newest is not None:
        return newest
    for series, number, digest in documents:
        sql = "INSERT INTO note VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
        execute(sql, (_PREFIX + series, f"{number} {digest}"))
    return None


def numbered_in(record: Mapping[str, Any]) -> list[Numbered]:
    """The documents that a record of the log says were taken over. Raises TypeError, ValueError or InvalidInput for a record of another."""
    found = []
    for series, number, digest in record.get("numbered") or ():
        if type(number) is not int or not 0 < number <= _LARGEST:
            raise ValueError(f"{number!r:.40} is not a number of a series")
        found.append(Numbered(check_text(series, "series", 4096), number, check_text(digest, "digest", 256)))
    return found
