"""Every block and every row of docs/policy-conditions.md does what the page says."""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from agentguard.errors import InvalidInput
from agentguard.policy import load
from agentguard.policy.condition_tree import FUNCTIONS, WORDS
from agentguard.policy.conditions import parse_condition
from agentguard.policy.file import read
from agentguard.policy.hours import parse_hours

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "policy-conditions.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(.*?)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
CELL = re.compile(r"`([^`]+)`")


def rows(head: str) -> list[tuple[str, list[str], list[str]]]:
    """The first cell of each row of a table, and what stands in the others."""
    body = PAGE.partition(head)[2].partition("\n\n")[0]
    cells = [[CELL.findall(cell) for cell in line.split(" | ")] for line in body.splitlines()[2:]]
    return [(first[0], good, bad) for first, good, bad in cells]


CONDITIONS = rows("| condition | holds for | fails for |")
WINDOWS = rows("| window | open at | closed at |")


def test_code_runs_and_errors_are_as_shown() -> None:
    pytest.importorskip("z3", reason="z3 belongs to the prove extra")
    from agentguard.analysis.properties import parse_property
    from agentguard.analysis.prove import prove

    known: dict[str, Any] = {"parse_condition": parse_condition, "prove": prove, "parse_property": parse_property}
    error = ""
    for kind, text in BLOCKS:
        if kind == "yaml":
            known["policy"] = load(text)
        elif kind == "yaml error":
            with pytest.raises(InvalidInput) as caught:
                load(text)
            error = str(caught.value)
        elif kind == "text":
            assert all(line in error for line in text.splitlines()), error
        else:
            assert kind == "python"
            exec(compile(text, "docs/policy-conditions.md", "exec"), known)
    assert error


@pytest.mark.parametrize(("text", "good", "bad"), CONDITIONS, ids=[row[0] for row in CONDITIONS])
def test_conditions_hold_and_fail_as_the_table_says(text: str, good: list[str], bad: list[str]) -> None:
    condition = parse_condition(text)
    assert condition.text == text, "the page shows canonical texts"
    assert good
    assert bad
    for value in good:
        assert condition.failure(json.loads(value)) is None, value
    for value in bad:
        assert condition.failure(json.loads(value)) is not None, value


@pytest.mark.parametrize(("text", "good", "bad"), WINDOWS, ids=[row[0] for row in WINDOWS])
def test_windows_are_open_and_closed_as_the_table_says(text: str, good: list[str], bad: list[str]) -> None:
    window = parse_hours(read(f"window: {text}\n", "row").value["window"])
    assert good
    assert bad
    for moment in good:
        assert window.open(int(datetime.fromisoformat(moment).timestamp())), moment
    for moment in bad:
        assert not window.open(int(datetime.fromisoformat(moment).timestamp())), moment


def test_every_word_of_the_language_is_in_the_table() -> None:
    shown = " ".join(row[0] for row in CONDITIONS)
    missing = {word for word in (*FUNCTIONS, *WORDS) if not re.search(rf"\b{word}\b", shown)}
    assert missing == {"true", "false"}
