"""Ways around rules that are not about one argument: by another name of the same file, and by somebody's shadow."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentguard import Denied, Guard
from agentguard.errors import ApprovalRequired


def test_an_approval_is_asked_for_what_a_symbolic_link_leads_to(home: Path, tmp_path: Path) -> None:
    folder = tmp_path.resolve() / "work"
    folder.mkdir()
    (folder / "run.sh").write_text("echo")
    (folder / "notes.txt").symlink_to(folder / "run.sh")
    policy = f"""
agentguard: 1
name: links
agents:
  a:
    tools: {{write: {{path: {{path: {folder}}}}}}}
    approval: [{{tool: write, when: 'ends_with(path, ".sh")'}}]
"""
    with Guard.open(policy, home=home, durability="process") as guard, guard.task("a", initiator="user:alice"):

        @guard.tool
        def write(path: str) -> str:
            return "written"

        for name in ("run.sh", "notes.txt"):
            with pytest.raises(ApprovalRequired):
                write(str(folder / name))
        assert write(str(folder / "other.txt")) == "written"


SHADOWED = """
agentguard: 1
name: trial
agents:
  a:
    tools: {secret: {x: any}, mail: {x: {exact: 1}}, wipe: {x: {exact: 1}}, delete_all: {x: any}}
    unsafe_shadow: {until: "2999-01-01"}
tools: {mail: {tags: [egress]}, wipe: {approval: required}}
sequence: [{tag: egress, never_after: secret}]
forbid: [{tool: "delete_*"}]
"""


@pytest.mark.parametrize(
    ("tool", "before", "code"),
    [
        ("mail", "", None),
        ("mail", "secret", "sequence_violation"),
        ("wipe", "", "approval_required"),
        ("delete_all", "", "tool_not_allowed"),
        ("unknown", "", "tool_not_in_scope"),
    ],
)
@pytest.mark.parametrize("x", [1, 2])
def test_a_shadow_softens_only_what_is_the_agents_own(home: Path, tool: str, before: str, code: str | None, x: int) -> None:
    with Guard.open(SHADOWED, home=home, durability="process") as guard, guard.task("a", initiator="user:alice"):

        def body(x: int) -> str:
            return "ran"

        tools = {name: guard.tool(name=name)(body) for name in ("secret", "mail", "wipe", "delete_all", "unknown")}
        if before:
            assert tools[before](x=x) == "ran"
        if code is None:
            assert tools[tool](x=x) == "ran"
        else:
            with pytest.raises(Denied) as caught:
                tools[tool](x=x)
            assert caught.value.code == code
