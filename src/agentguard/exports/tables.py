"""Records as a table: one row each, the same columns in CSV and in Parquet.

CSV is read by spreadsheets, and agents, tools and initiators may be named by anybody: a cell that a spreadsheet would take for a formula
gets an apostrophe in front, and what is no visible character is shown as an escape. So CSV is for reading; Parquet and JSON keep every
text as it is.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final, TextIO

from agentguard.errors import InvalidInput
from agentguard.exports.calls import Entry
from agentguard.log.thin import leaf_of
from agentguard.reading.index_rows import time_of
from agentguard.reading.lineage_show import printable

#: The columns and what they hold.
COLUMNS: Final[Mapping[str, type]] = {
    "shard": str, "index": int, "type": str, "id": str, "time": datetime, "time_ns": int, "task": str, "agent": str, "tool": str,
    "verdict": str, "code": str,
    "enforced": bool, "status": str, "error": str, "execution": str, "call_id": str, "initiator": str, "initiator_method": str,
    "artifact": str, "parent": str, "root": str, "from_agent": str, "caused_by": str, "policy": str, "chain": str, "environment": str,
    "lock": str, "tool_version": str, "guard": str, "arguments": str, "bound": str, "output": str, "reasons": str, "by": str, "leaf": str,
}  # fmt: skip
#: Rows that are written to Parquet together, and held for that.
_GROUP: Final = 8192
#: What makes a formula, at the beginning of a cell or behind what another spreadsheet takes for the end of one.
_PLAIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9:._]*")
_FORMULA: Final = re.compile(r"(^[\s'\"]*|[;|][\s'\"]*)(?=[=+\-@])")


def rows(entries: Iterable[Entry]) -> Iterator[dict[str, Any]]:
    """A row for each record. `time_ns` is nanoseconds since 1970, `time` the same in UTC to the microsecond. What a record does not say, or
    says in another type, is None."""
    for shard, index, record, data in entries:
        who = record.get("initiator")
        who = who if isinstance(who, Mapping) else {}
        time = time_of(text) if type(text := record.get("time")) is str else None
        found = {
            **record,
            "shard": shard,
            "index": index,
            "time": _instant(time),
            "time_ns": time,
            "initiator": who.get("id"),
            "initiator_method": who.get("method"),
            "leaf": leaf_of(data).hex(),
        }
        yield {name: value if type(value := found.get(name)) is kind else None for name, kind in COLUMNS.items()}


def write_csv(entries: Iterable[Entry], out: TextIO) -> int:
    """Write CSV (RFC 4180, every cell quoted) with a line of column names; the number of rows. Times are RFC 3339."""
    writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    count = 0
    for row in rows(entries):
        writer.writerow([_cell(value) for value in row.values()])
        count += 1
    return count


def _instant(time: int | None) -> datetime | None:
    try:
        return datetime.fromtimestamp(time // 10**9, UTC).replace(microsecond=time // 1000 % 10**6) if time is not None else None
    except (ValueError, OverflowError, OSError):
        return None  # a time that no calendar holds


def _cell(value: Any) -> str:
    """A cell that no spreadsheet runs and no terminal obeys."""
    if value is None:
        return ""
    if type(value) is datetime:
        return value.isoformat(timespec="microseconds").replace("+00:00", "Z")
    if type(value) is not str:
        return str(value).lower() if type(value) is bool else str(value)
    return value if _PLAIN.fullmatch(value) else _FORMULA.sub(r"\1'", printable(value, len(value)))


def write_parquet(entries: Iterable[Entry], path: Path) -> int:
    """Write a Parquet file; the number of rows. Raises InvalidInput if pyarrow is not installed or the file cannot be written."""
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        raise InvalidInput("Parquet needs pyarrow", hint="pip install 'agentguard[parquet]'") from None
    kinds = {str: arrow.string(), int: arrow.int64(), bool: arrow.bool_(), datetime: arrow.timestamp("us", "UTC")}
    schema = arrow.schema([(name, kinds[kind]) for name, kind in COLUMNS.items()])
    every, count = rows(entries), 0
    try:
        with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
            while group := list(islice(every, _GROUP)):
                writer.write_table(arrow.table({name: [row[name] for row in group] for name in COLUMNS}, schema))
                count += len(group)
    except OSError as error:
        raise InvalidInput(f"cannot be written: {error.strerror or error}", place=str(path)) from None
    return count
