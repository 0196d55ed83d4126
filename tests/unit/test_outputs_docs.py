"""Every block and table of docs/policy-outputs.md does what the page says."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path

import pytest

from agentguard.errors import InvalidInput
from agentguard.policy import load
from agentguard.policy.outputs import _MEMBERS, parse_output
from agentguard.policy.secret_patterns import NAMES

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "policy-outputs.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(.*?)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def rows(header: str) -> list[list[str]]:
    """The cells of a table's rows."""
    table = PAGE.partition(header)[2].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in table]


def test_policies_load_code_runs_and_prints_what_is_shown() -> None:
    names: dict[str, object] = {}
    printed = io.StringIO()
    error = ""
    for kind, text in BLOCKS:
        if kind == "yaml":
            names["policy"] = load(text)
        elif kind == "yaml error":
            with pytest.raises(InvalidInput) as caught:
                load(text)
            error = str(caught.value)
        elif kind == "python":
            with contextlib.redirect_stdout(printed):
                exec(compile(text, "docs/policy-outputs.md", "exec"), names)
        else:
            assert text.strip() == (error if kind == "text error" else printed.getvalue().strip())
    assert printed.getvalue()
    assert error


@pytest.mark.parametrize(("path", "output", "becomes"), rows("| path | output | becomes |"))
def test_fields_become_what_the_table_says(path: str, output: str, becomes: str) -> None:
    shaped = parse_output({"redact": [path.strip("`")]}).apply(json.loads(output.strip("`")))
    assert shaped.output == json.loads(becomes.strip("`"))


def test_the_tables_are_complete() -> None:
    assert {row[0].strip("`") for row in rows("| member | meaning |")} == set(_MEMBERS)
    assert {name for row in rows("| kind | what is found |") for name in re.findall(r"`(\w+)`", row[0])} == set(NAMES)
