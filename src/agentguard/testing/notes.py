"""The conformance suite's tool: it takes notes, and keeps what it was given."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from agentguard.testing.scene import ASYNC, Call, Mode


class BrokenToolError(Exception):
    """What a broken tool raises."""


class Notes:
    """What the tool was given, call by call. `before` runs in its body, and may look or raise."""

    def __init__(self, before: Callable[[], object] = lambda: None) -> None:
        self.before = before
        self.taken: list[dict[str, Any]] = []

    def tool(self, mode: Mode) -> Callable[..., Any]:
        """A function `note(text, times, tags)`, async in async modes."""
        return bodied(mode, "note", self._take)

    def _take(self, text: str, times: int, tags: list[str]) -> str:
        self.before()
        self.taken.append({"text": text, "times": times, "tags": list(tags)})
        return f"noted {text}"


def bodied(mode: Mode, name: str, body: Callable[[str, int, list[str]], Any], *, times: int = 1) -> Callable[..., Any]:
    """A tool function over a body; `times` is the default of its argument of that name."""
    default = times

    def tool(text: str, times: int = default, tags: list[str] = []) -> str:  # noqa: B006  # a JSON default, which nothing changes
        """Takes a note."""
        return str(body(text, times, tags))

    async def async_tool(text: str, times: int = default, tags: list[str] = []) -> str:  # noqa: B006
        """Takes a note."""
        await asyncio.sleep(0)
        return str(body(text, times, tags))

    return named(name, async_tool if mode in ASYNC else tool)


def named(name: str, fn: Callable[..., Any]) -> Callable[..., Any]:
    """The function under a name, which frameworks take for the tool's."""
    fn.__name__ = fn.__qualname__ = name
    return fn


def note(*, id: str | None = None, **arguments: Any) -> Call:
    """A call of `note` that is allowed as it stands."""
    full = {"text": "hello", "times": 1, "tags": ["a"], **arguments}
    return Call("note", full) if id is None else Call("note", full, id)
