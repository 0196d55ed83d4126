"""A path that is fine to read and leads elsewhere: symbolic links below a root (PITFALLS, "paths")."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentguard import Denied, Guard, ToolCall
from agentguard.log import iter_records
from agentguard.tools.paths import NOWHERE, leads_to


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tickets"
    (root / "open").mkdir(parents=True)
    (root / "open" / "1.txt").write_text("ticket")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "key").write_text("secret")
    (root / "leak").symlink_to(tmp_path / "secrets")
    (root / "key").symlink_to(tmp_path / "secrets" / "key")
    (root / "dangling").symlink_to(tmp_path / "secrets" / "new")
    (root / "inside").symlink_to(root / "open")
    (root / "up").symlink_to("..")
    (root / "loop").symlink_to(root / "loop")
    (tmp_path / "alias").symlink_to(root)
    return root


@pytest.fixture
def guard(tree: Path, home: Path) -> Iterator[Guard]:
    policy = f"agentguard: 1\nname: p\nagents: {{a: {{tools: {{read: {{path: {{path: {tree}}}}}, any_read: {{path: any}}}}}}}}\n"
    with Guard.open(policy, home=home, durability="process") as opened:
        yield opened


def judged(guard: Guard, path: object, tool: str = "read") -> str:
    try:
        guard.check(ToolCall("a", tool, {"path": str(path)})).release()
    except Denied as denied:
        return str(denied.code)
    return "allow"


@pytest.mark.parametrize(
    "name", ["leak/key", "leak", "leak/new.txt", "key", "dangling", "up/secrets/key", "up", "loop", "inside/../../secrets/key"]
)
def test_links_that_lead_out_are_refused(guard: Guard, tree: Path, name: str) -> None:
    with guard.task("a", initiator="user:x"):
        assert judged(guard, f"{tree}/{name}") == "argument_not_allowed"


@pytest.mark.parametrize("name", ["open/1.txt", "open/not-yet.txt", "inside/1.txt", "inside/not-yet.txt", "no/such/folder", ""])
def test_what_stays_inside_is_allowed(guard: Guard, tree: Path, name: str) -> None:
    with guard.task("a", initiator="user:x"):
        assert judged(guard, f"{tree}/{name}".rstrip("/")) == "allow"


def test_a_root_may_be_a_link_itself(tree: Path, home: Path) -> None:
    alias = tree.parent / "alias"
    policy = f"agentguard: 1\nname: p\nagents: {{a: {{tools: {{read: {{path: {{path: {alias}}}}}}}}}}}\n"
    with Guard.open(policy, home=home, durability="process") as guard, guard.task("a", initiator="user:x"):
        assert judged(guard, alias / "open" / "1.txt") == "allow"
        assert judged(guard, alias / "leak" / "key") == "argument_not_allowed"


def test_links_are_followed_for_the_scope_too(guard: Guard, tree: Path) -> None:
    with guard.task("a", initiator="user:x", scope={"any_read": {"path": {"path": str(tree / "open")}}}):
        (tree / "open" / "back").symlink_to(tree / "key")
        assert judged(guard, tree / "open" / "1.txt", "any_read") == "allow"
        assert judged(guard, tree / "open" / "back", "any_read") == "argument_not_in_scope"


def test_a_link_made_later_is_seen(guard: Guard, tree: Path) -> None:
    target = tree / "open" / "1.txt"
    with guard.task("a", initiator="user:x"):
        assert judged(guard, target) == "allow"
        target.unlink()
        os.symlink(tree.parent / "secrets" / "key", target)
        assert judged(guard, target) == "argument_not_allowed"


def test_the_record_commits_to_what_was_found(guard: Guard, tree: Path) -> None:
    with guard.task("a", initiator="user:x"):
        judged(guard, tree / "key")
        judged(guard, tree / "open" / "1.txt")
    records = [json.loads(record) for _, _, record in iter_records(guard.home.path)]
    first, second = [record for record in records if record["type"] == "decision"]
    assert first["followed"].startswith("sha256:")
    assert second["followed"] is None
    kept = {item.kind: item.value.decode() for item in guard.home.side.get(first["id"])}
    assert json.loads(kept["followed"]) == {"path": str(tree.parent / "secrets" / "key")}


def test_what_the_disk_cannot_answer_is_nowhere() -> None:
    assert leads_to("/" + "x" * 5000) == NOWHERE
    assert leads_to("/no/such/place") is None
