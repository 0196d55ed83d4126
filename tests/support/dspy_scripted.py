"""DSPy programs with a scripted model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import dspy
from dspy.utils import DummyLM
from dspy.utils.callback import BaseCallback

from agentguard.testing import Call, Reply

Rewrite = Callable[[str, dict[str, Any]], dict[str, Any]]


def scripted(calls: Sequence[Call]) -> DummyLM:
    """A model that makes these calls in ReAct, one a turn, and then says "done"."""
    turns = [{"next_thought": "t", "next_tool_name": call.tool, "next_tool_args": json.dumps(call.arguments)} for call in calls]
    last: list[dict[str, Any]] = [{"next_thought": "t", "next_tool_name": "finish", "next_tool_args": "{}"}]
    return DummyLM([*turns, *last, {"reasoning": "r", "answer": "done"}])


class RewritingCallback(BaseCallback):
    """Changes, in place, the arguments that DSPy shows it when a tool starts."""

    def __init__(self, rewrite: Rewrite) -> None:
        self._rewrite = rewrite

    def on_tool_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        given = inputs.get("kwargs", inputs)
        given.update(self._rewrite(instance.name, given))


def replies(trajectory: dict[str, Any], calls: int) -> list[Reply]:
    """What the model was told about each call."""
    return [Reply(str(trajectory[f"observation_{turn}"])) for turn in range(calls) if f"observation_{turn}" in trajectory]


def flat(steps: Sequence[Sequence[Call]]) -> list[Call]:
    """ReAct makes one call a turn."""
    return [call for step in steps for call in step]


def context(calls: Sequence[Call], rewrite: Rewrite | None = None) -> Any:
    """What DSPy is set to, as long as the block runs."""
    return dspy.context(
        lm=scripted(calls), callbacks=[RewritingCallback(rewrite)] if rewrite is not None else [], adapter=dspy.ChatAdapter()
    )
