"""What the conformance suite asks an adapter to play: one agent, its tools, and the calls that its scripted model makes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final, Literal, TypeAlias

from agentguard import Guard

Mode: TypeAlias = Literal["sync", "stream", "async", "astream"]
MODES: Final[tuple[Mode, ...]] = ("sync", "stream", "async", "astream")
ASYNC: Final[tuple[Mode, ...]] = ("async", "astream")

_CODE = re.compile(r"Denied \(([a-z_]+)\)")
_ids = count(1)


@dataclass(frozen=True)
class Call:
    """One tool call of the scripted model. Every call has an id of its own unless one is given."""

    tool: str
    arguments: dict[str, Any]
    id: str = field(default_factory=lambda: f"call-{next(_ids)}")


@dataclass(frozen=True)
class Reply:
    """What the framework told the model about one call: its text, and whether it was marked as an error (where the framework marks)."""

    text: str
    error: bool = False

    @property
    def code(self) -> str | None:
        """The code of a denial; None if it is not one."""
        match = _CODE.search(self.text)
        return match[1] if match is not None else None


@dataclass(frozen=True)
class Scene:
    """One run of one agent.

    guard     the guard to put before the tools; None: build the very same agent as if there were no agentguard
    agent     the agent's name in the policy
    tools     plain Python functions, typed and documented; async ones in async modes, or sync ones in any
    steps     what the model does: at each step it makes these calls at once, and after the last it says "done"
    on_deny   how denials leave
    rewrite   (tool, arguments) -> arguments: a hook of the framework's own, not the guard's, which is to stand as near to the tool as the
              framework lets it, behind the guard's hook if that is possible. None: there is no such hook
    """

    guard: Guard | None
    agent: str
    tools: Sequence[Callable[..., Any]]
    steps: Sequence[Sequence[Call]]
    on_deny: Literal["message", "raise"] = "message"
    rewrite: Callable[[str, dict[str, Any]], dict[str, Any]] | None = None
