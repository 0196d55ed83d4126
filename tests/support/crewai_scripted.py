"""CrewAI agents with a scripted model."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from typing import Any

os.environ.update(
    CREWAI_DISABLE_TELEMETRY="true",
    CREWAI_DISABLE_TRACKING="true",
    CREWAI_TESTING="true",
    CREWAI_TRACING_ENABLED="false",
    OTEL_SDK_DISABLED="true",
    CREWAI_STORAGE_DIR=tempfile.mkdtemp(),
)
from crewai import Agent, Crew, Task
from crewai.llms.base_llm import BaseLLM
from pydantic import PrivateAttr

from agentguard.testing import Call, Reply

atexit.register(shutil.rmtree, os.environ["CREWAI_STORAGE_DIR"], ignore_errors=True)


class ScriptedLLM(BaseLLM):
    """Makes these calls, step by step, and says "done" from then on. It remembers what it was told.

    With `native=False` it writes its calls as text (ReAct), one a step.
    """

    native: bool = True
    _steps: list[list[Call]] = PrivateAttr(default_factory=list)
    _told: list[Any] = PrivateAttr(default_factory=list)

    @classmethod
    def of(cls, *steps: Sequence[Call], native: bool = True) -> ScriptedLLM:
        made = cls(model="scripted", native=native)
        made._steps.extend(list(step) for step in steps)
        return made

    def supports_function_calling(self) -> bool:
        return self.native

    def supports_stop_words(self) -> bool:
        return False

    def call(self, messages: Any, *args: Any, **options: Any) -> Any:
        self._told = list(messages) if isinstance(messages, list) else [{"content": messages}]
        calls = self._steps.pop(0) if self._steps else []
        if not self.native:
            return f"Thought: so\nAction: {calls[0].tool}\nAction Input: {_json(calls[0])}" if calls else "Thought: so\nFinal Answer: done"
        return [{"id": call.id, "type": "function", "function": {"name": call.tool, "arguments": _json(call)}} for call in calls] or "done"

    async def acall(self, *args: Any, **options: Any) -> Any:
        return self.call(*args, **options)

    def heard(self) -> list[str]:
        """What the model was told about its calls, in order. Of text calls, everything that was said."""
        return [str(message["content"]) for message in self._told if not self.native or message.get("role") == "tool"]

    def replies(self, steps: Sequence[Sequence[Call]]) -> list[Reply]:
        """One for each call, in order. An id that stands twice is answered twice."""
        said = [message for message in self._told if message.get("role") == "tool"]
        found = []
        for call in (call for step in steps for call in step):
            message = next(message for message in said if message["tool_call_id"] == call.id)
            said.remove(message)
            found.append(Reply(str(message["content"])))
        return found


def member(llm: ScriptedLLM, tools: Sequence[Any] = (), *, role: str = "lead", **options: Any) -> Agent:
    """An agent."""
    return Agent(role=role, goal="g", backstory="b", llm=llm, tools=list(tools), verbose=False, **options)


def crew_of(*agents: Agent, **options: Any) -> Crew:
    """A crew with one task, which is the first agent's."""
    return Crew(agents=list(agents), tasks=[Task(description="go", expected_output="it", agent=agents[0])], verbose=False, **options)


def _json(call: Call) -> str:
    return call.arguments["raw"] if list(call.arguments) == ["raw"] else json.dumps(call.arguments)
