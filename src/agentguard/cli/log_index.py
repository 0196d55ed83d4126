"""`agentguard log index`: whether the query index says what the log says."""

from __future__ import annotations

from typing import Annotated

import typer

from agentguard.cli.exits import FAILED, leave
from agentguard.cli.inputs import DEFAULT_HOME, HomeOption, JsonOption, existing_home
from agentguard.cli.progress import bar
from agentguard.cli.terminal import count, result, say


def index(
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Throw it away and build it anew, whatever it says.")] = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Compare the query index with the log, row by row, and build it anew if it says anything else.

    The index is a help for questions and no evidence: it follows the log by itself, and may be deleted at any time. A changed one cannot
    make up a record, but it could hide one from a question; this finds that. Exit 1 if it had to be mended.

    Example: `agentguard log index`
    """
    from agentguard.reading.index import Index

    place = existing_home(home)
    with bar("comparing the index with the log") as progress, Index(place, lambda records, done, of: progress(done, of)) as opened:
        wrong = 0 if rebuild else opened.check()
        records = opened.rebuild() if rebuild or wrong else opened.size
    answer = {"records": records, "wrong": wrong, "rebuilt": bool(rebuild or wrong)}
    if wrong:
        words = ("MENDED", "warn"), f": {count(wrong, 'row')} did not say what the log says; built anew from {count(records, 'record')}"
    elif rebuild:
        words = ("rebuilt", "good"), f" from {count(records, 'record')}"
    else:
        words = ("right", "good"), f": {count(records, 'record')}, each as the log says"
    result(as_json, answer, lambda out: say(out, *words))
    if wrong:
        leave(FAILED)
