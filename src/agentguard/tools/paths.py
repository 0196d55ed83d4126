"""Where a path really leads: symbolic links, followed before the decision (DESIGN §5; PITFALLS, "paths").

A path constraint is lexical, so that a decision needs no disk. The shell adds what the disk says as a fact: arguments that a path
constraint governs, with every link on the way followed. Both must fit. What exists when the tool opens it may have changed meanwhile; a
tool that needs more opens with O_NOFOLLOW below a directory that nobody else writes.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from agentguard.canonical import Frozen
from agentguard.constraints.matchers import Path
from agentguard.constraints.tokens import Entry
from agentguard.constraints.vocabulary import AllOf, AnyOf, Constraint

#: What is under no root: a path that the disk gives no answer about.
NOWHERE = "//"
_SHORT = 64


def governed(maps: Iterable[Mapping[str, Entry]]) -> Mapping[str, tuple[str, ...]]:
    """The arguments that some path constraint governs, each with the roots."""
    found: dict[str, list[str]] = {}
    for entries in maps:
        for name, entry in entries.items():
            roots = list(_roots(entry.constraint))
            if roots:
                found.setdefault(name, []).extend(roots)
    return MappingProxyType({name: tuple(dict.fromkeys(roots)) for name, roots in found.items()})


def _roots(constraint: Constraint) -> Iterable[str]:
    waiting = [constraint]
    while waiting:
        part = waiting.pop()
        if type(part) is Path:
            yield part.root
        elif type(part) is AllOf or type(part) is AnyOf:
            waiting += part.constraints


def followed(bound: Mapping[str, Frozen], governed: Mapping[str, tuple[str, ...]]) -> Mapping[str, Frozen] | None:
    """The arguments with every symbolic link followed, or None where there is none.

    A path that stays under what its root leads to is written below that root again: `/tmp` may well be a link itself.
    """
    changed: dict[str, Frozen] = {}
    for name, roots in governed.items():
        value = bound.get(name)
        if type(value) is str and value.startswith("/"):
            real = leads_to(value)
            if real is not None:
                changed[name] = _below(real, roots)
    return MappingProxyType({**bound, **changed}) if changed else None


def leads_to(path: str) -> str | None:
    """The real path where a symbolic link is on the way; None where there is none. What does not exist yet leads where it says."""
    end = path.find("/", 1)
    top = path if end < 0 else path[:end]
    try:
        # As below, without the cost of an exception: a tool's paths need not be this machine's. A longer name may be more than it can have.
        if len(top) < _SHORT and not os.access(top, os.F_OK, follow_symlinks=False):
            return None
        end = 0
        while end >= 0:
            end = path.find("/", end + 1)
            if stat.S_ISLNK(os.lstat(path if end < 0 else path[:end]).st_mode):
                real = os.path.realpath(path)
                return NOWHERE if os.path.islink(real) else real  # links in a circle
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    except (OSError, ValueError):
        return NOWHERE
    return None


def _below(real: str, roots: tuple[str, ...]) -> str:
    for root in roots:
        base = os.path.realpath(root)
        if real == base or real.startswith(base.rstrip("/") + "/"):
            return root.rstrip("/") + real[len(base.rstrip("/")) :] or "/"
    return real
