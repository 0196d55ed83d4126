"""Every block of docs/policy.md does what the page says: policies load or fail as shown, rules accept and refuse, Python runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from agentguard.analysis.cases import cases_in, run
from agentguard.constraints.rules import KEYS
from agentguard.errors import InvalidInput
from agentguard.policy import load
from agentguard.policy.file import read
from agentguard.policy.model import parse_scope

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "policy.md").read_text("utf-8")
SUPPORT = Path(__file__).resolve().parents[2] / "policies" / "support.yaml"
BLOCKS = re.findall(r"^```(.*?)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
ROWS = re.findall(
    r"^\| `(.+?)` \| (.*?) \| ?(.*?) ?\|$", PAGE.partition("| rule | accepts | refuses |")[2].partition("\n\n")[0], re.MULTILINE
)


def test_policies_load_code_runs_and_errors_are_as_shown() -> None:
    policy: Any = None
    error = ""
    for kind, text in BLOCKS:
        if kind == "yaml":
            policy = load(text)
        elif kind == "yaml error":
            with pytest.raises(InvalidInput) as caught:
                load(text)
            error = str(caught.value)
        elif kind == "yaml cases":
            assert not run(load(SUPPORT), cases_in(read(text, "docs/policy.md"))).wrong
        elif kind == "text":
            assert text.strip() in error
        else:
            assert kind == "python"
            exec(compile(text, "docs/policy.md", "exec"), {"policy": policy, "load": load})
    assert policy is not None
    assert error


@pytest.mark.parametrize(("rule", "accepted", "refused"), ROWS, ids=[row[0] for row in ROWS])
def test_rules_accept_and_refuse_what_the_table_says(rule: str, accepted: str, refused: str) -> None:
    check = parse_scope({"t": {"p": read(f"rule: {rule}\n", "row").value["rule"]}})["t"].check
    for cell, expected in ((accepted, True), (refused, False)):
        for value in re.findall(r"`(.+?)`", cell):
            assert (check({"p": json.loads(value)}) is None) is expected, value


def test_the_table_shows_every_key_of_a_rule() -> None:
    shown = " ".join(row[0] for row in ROWS)
    assert {key for key in KEYS if not re.search(rf"\b{key}\b", shown)} <= {"optional", "wildcard", "length"}


def test_every_attribute_and_key_is_on_the_page() -> None:
    from agentguard.policy.schema import AgentModel, ForbidModel, PolicyModel, ToolModel

    for model in (PolicyModel, AgentModel, ForbidModel, ToolModel):
        for name in (field.alias or name for name, field in model.model_fields.items()):
            assert re.search(rf"`[^`\n]*\b{name}\b", PAGE), name
