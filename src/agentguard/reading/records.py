"""Reading the records that a question needs: through the query index, or from the segments where there can be none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agentguard.errors import AgentguardError, InvalidInput
from agentguard.log import iter_records
from agentguard.notice import say
from agentguard.reading.lineage import Lineage
from agentguard.store import ObjectStore

if TYPE_CHECKING:
    from agentguard.reading.index import Index
    from agentguard.reading.index_rows import Row

#: How many tasks are listed at most, the latest ones.
MAX_TASKS: Final = 200


def decoded(home: Path) -> Iterator[dict[str, Any]]:
    """Every record of the log, shard by shard. Raises InvalidInput for damage."""
    for _, _, record in iter_records(home):
        body = msgspec.json.decode(record)
        if type(body) is dict:
            yield body


def read_lineage(home: Path, subject: str | None) -> Lineage:
    """The lineage of a home, looking at `subject` if it is given, with the documents that one execution names.

    Raises InvalidInput for an id that nothing has, and for damage.
    """
    graph = Lineage.of(_relevant(home, subject))
    if subject is None:
        return graph
    execution = graph.executions.get(subject)
    if execution is None:
        return graph.focus(subject)
    names = [execution.record.get(member) for member in ("chain", "environment")]
    return graph.with_documents(documents(home, [name for name in names if isinstance(name, str)])).focus(subject)


def _relevant(home: Path, subject: str | None) -> list[dict[str, Any]]:
    from agentguard.reading.index import Index

    try:
        index = Index(home)
    except InvalidInput:
        return list(decoded(home))  # a home that only lets itself be read; and damage is named there as well
    with index:
        if subject is not None:
            return list(index.records(index.related(subject)))
        tasks = index.tasks()
        if len(tasks) > MAX_TASKS:
            say("only the latest tasks are listed", listed=MAX_TASKS, of=len(tasks))
        rows = [row for task in tasks[:MAX_TASKS] for row in index.task(task)]
        return [_about(index, row) for row in (*rows, *index.without_task()[-MAX_TASKS:])]


def _about(index: Index, row: Row) -> dict[str, Any]:
    """What a list of tasks needs of a record. Calls are only counted there, so the index's row is enough, at a tenth of the cost."""
    if row.type == "delegation":
        return index.record(row)
    names = ("type", "id", "execution", "task", "agent", "tool", "verdict", "code", "caused_by", "artifact")
    return {**{name: getattr(row, name) for name in names}, "time": str(row.time), "status": "recorded"}


def documents(home: Path, names: list[str]) -> Mapping[str, Any]:
    """The documents of these digests, as far as the content store has them."""
    from agentguard.canonical import parse

    store = ObjectStore(home / "objects")
    found: dict[str, Any] = {}
    for name in names:
        try:
            found[name] = parse(store.get(name))
        except AgentguardError:
            continue  # what is shown says that it is not known here
    return found
