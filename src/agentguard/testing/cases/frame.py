"""What the cases stand on: what an adapter's tests define, and how a case plays its scene."""

from __future__ import annotations

import abc
import asyncio
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

import pytest

from agentguard import Guard
from agentguard.testing.notes import BrokenToolError, Notes
from agentguard.testing.scene import ASYNC, MODES, Call, Mode, Reply, Scene

POLICY: Final = """
agentguard: 1
name: conformance
agents:
  lead:
    tools:
      note: {text: {max_length: 40}, times: {range: {min: 1, max: 3}}, tags: {subset: [a, b, c]}}
      ask_helper: {}
      ask_stranger: {}
      confide: {text: any, times: any, tags: any}
      sign_off: {text: any, times: any, tags: any}
    delegates: {helper: {depth: 1}}
  helper:
    tools:
      note: {text: {max_length: 40}, times: {range: {min: 1, max: 2}}, tags: {subset: [a]}}
  stranger:
    tools:
      note: {text: any, times: any, tags: any}
tools:
  confide: {output: {max_bytes: 1500, secrets: [aws]}}
  sign_off: {approval: {by: ["user:approver"]}}
"""


class Frame(abc.ABC):
    """The three methods that an adapter's tests define, and the frame around the cases."""

    modes: ClassVar[tuple[Mode, ...]] = MODES
    out_of_reach: ClassVar[Mapping[str, str]] = {}
    names_calls: ClassVar[bool] = True
    tool_error: ClassVar[str] = BrokenToolError.__name__

    @abc.abstractmethod
    def run(self, scene: Scene, mode: Mode) -> list[Reply]:
        """Play a scene in "sync" or "stream" mode: one reply for each call, in order. What the framework raises goes through."""

    @abc.abstractmethod
    async def arun(self, scene: Scene, mode: Mode) -> list[Reply]:
        """The same in "async" or "astream" mode."""

    @abc.abstractmethod
    def twins(self, guard: Guard, tool: Callable[..., Any]) -> Mapping[str, Callable[[dict[str, Any]], Any]]:
        """Every way to reach a tool function other than through the agent, once it is guarded: its name, and how to go it with arguments
        given by name. `run`, `batch`, `func`, attributes that hold the original, and so on. An async way runs its own event loop.
        """

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        cls: type[Frame] = metafunc.cls or type(self)
        if "mode" in metafunc.fixturenames:
            metafunc.parametrize("mode", cls.modes)
        if "async_mode" in metafunc.fixturenames:
            found: list[Any] = [mode for mode in cls.modes if mode in ASYNC]
            metafunc.parametrize("async_mode", found or [pytest.param(None, marks=pytest.mark.skip("the framework has no async mode"))])

    @pytest.fixture
    def conforming(self, tmp_path: Path) -> Iterator[Guard]:
        """A guard over the suite's own policy."""
        with Guard.open(POLICY, home=tmp_path / "agentguard", durability="process") as guard:
            yield guard

    def play(self, scene: Scene, mode: Mode) -> list[Reply]:
        """A scene in any mode."""
        return asyncio.run(self.arun(scene, mode)) if mode in ASYNC else self.run(scene, mode)

    def one(self, guard: Guard, notes: Notes, mode: Mode, *calls: Call, agent: str = "lead", **options: Any) -> list[Reply]:
        """Play calls of `note`, one a step."""
        return self.play(Scene(guard, agent, [notes.tool(mode)], [[call] for call in calls], **options), mode)
