"""What an agent holds once groups and tags are written out (docs/policy.md, "Groups and tags"). A document is parsed YAML: dicts and lists.

What grants is nearest first, tool by tool: the agent's own, its groups, groups of groups, then tags. What restricts adds up.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from .lexical import glob_matches

Document = dict[str, Any]


def bodies(document: Document, agent: str) -> Iterator[Document]:
    """The agent's own entry, then those of its groups, nearest first; each once."""
    level, seen = [document["agents"][agent]], set()
    while level:
        yield from level
        names = [name for body in level for name in body.get("groups", []) if name not in seen]
        seen.update(names)
        level = [document["groups"][name] for name in dict.fromkeys(names)]


def tags_of(document: Document, tool: str) -> set[str]:
    return set(document.get("tools", {}).get(tool, {}).get("tags", []))


def rules_of(document: Document, agent: str, tool: str) -> dict[str, Any] | None:
    """`{argument: rule}` of a tool as the agent has it; None where it has no such tool."""
    for body in bodies(document, agent):
        if tool in body.get("tools", {}):
            return dict(body["tools"][tool])
    wanted = {tag for body in bodies(document, agent) for tag in body.get("tags", [])}
    if wanted & tags_of(document, tool):
        return dict(document["tools"][tool].get("arguments", {}))
    return None


def restrictions(document: Document, agent: str, kind: str) -> Iterator[Any]:
    """Every entry of a list that only restricts: the agent's own and those of all its groups."""
    for body in bodies(document, agent):
        yield from body.get(kind, [])


def conditions(document: Document, agent: str, tool: str) -> Iterator[str]:
    for body in bodies(document, agent):
        yield from body.get("where", {}).get(tool, [])


def names(document: Document, entry: Any, tool: str) -> bool:
    """Whether an entry is about a tool: `{tool: name or list}`, `{tag: t}`, or the name or list by itself."""
    if isinstance(entry, str):
        return entry == tool
    if isinstance(entry, list):
        return any(names(document, one, tool) for one in entry)
    if "tag" in entry:
        return entry["tag"] in tags_of(document, tool)
    return "tool" not in entry or names(document, entry["tool"], tool)


def forbidden(document: Document, agent: str, tool: str, now: int | None = None) -> bool:
    """Whether a forbid rule is about this; with `now`, whether one is whose shadow, if it has one, is over by then."""
    for rule in document.get("forbid", []):
        if now is not None and "unsafe_shadow" in rule and now < datetime.fromisoformat(rule["unsafe_shadow"]["until"]).timestamp():
            continue
        about = rule["tag"] in tags_of(document, tool) if "tag" in rule else glob_matches(rule["tool"], tool)
        if about and glob_matches(rule.get("agent", "*"), agent):
            return True
    return False
