"""DSPy (3.4): guarded tools for ReAct, ReActV2, RLM, and for tool calls of one's own.

    agent = dspy.ReAct("question -> answer", tools=guard_tools(guard, [search, send_email], agent="triage"))
    with guard.task("triage", initiator="user:alice"):
        agent(question="...")

Name, description and arguments stay. DSPy gives tools no call id, so a call that is made twice is two calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from pydantic import PrivateAttr

from agentguard import Denied, Guard, InvalidInput
from agentguard.task import Task
from agentguard_adapters.run_denied import RunDenied
from agentguard_adapters.stand_in import Asked, OnDeny, asking, stand_in, told
from agentguard_adapters.versions import needs

with needs("dspy", "3.4.1"):
    import dspy

__all__ = ["GuardedTool", "RunDenied", "guard_tools"]


def guard_tools(
    guard: Guard,
    tools: Iterable[dspy.Tool | Callable[..., Any]],
    *,
    agent: str | None = None,
    task: Task | None = None,
    on_deny: OnDeny = "message",
) -> list[GuardedTool]:
    """A guarded tool for each tool or function.

    agent     who calls; by default the agent of the current task
    task      the authority; by default the current task. Another agent's task is narrowed down, where the policy's `delegates` let it be
    on_deny   "message": a denial is the observation, and the model goes on; "raise": the run ends with RunDenied, since DSPy tells
              the model of every Exception, and goes on

    Raises InvalidInput where a tool cannot be guarded, or another one is registered under its name.
    """
    return [
        tool
        if isinstance(tool, GuardedTool) and tool._guard is guard
        else GuardedTool(guard, tool, agent=agent, task=task, on_deny=on_deny)
        for tool in tools
    ]


class GuardedTool(dspy.Tool):
    """Stands for a tool, and asks the guard before each run, on the arguments as DSPy parsed them.

    Its `func` is guarded too, and raises Denied. It is no plain function, so that CodeAct does not take it: that one would send the source
    of the tool into its interpreter, and run it there.
    """

    _guard: Any = PrivateAttr()
    _caller: Any = PrivateAttr()

    def __init__(
        self,
        guard: Guard,
        tool: dspy.Tool | Callable[..., Any],
        *,
        agent: str | None = None,
        task: Task | None = None,
        on_deny: OnDeny = "message",
    ) -> None:
        given = tool if isinstance(tool, dspy.Tool) else dspy.Tool(tool)
        if type(given) is not dspy.Tool:
            found = f"a {type(given).__name__} may run its tool in ways that the guard would go past"
            raise InvalidInput(found, hint="give the function, or a dspy.Tool over it")
        stand = stand_in(guard, given.func, name=given.name, agent=agent, task=task, on_deny="raise")
        super().__init__(partial(stand), given.name, given.desc, given.args, given.arg_types)
        self.has_kwargs = given.has_kwargs
        self._guard, self._caller = guard, (agent, task, on_deny)

    def __call__(self, **kwargs: Any) -> Any:
        """Run the tool as DSPy does, or give the denial as its observation."""
        agent, task, on_deny = self._caller
        with asking(agent, str(self.name), None, kwargs, task) as asked:
            try:
                return super().__call__(**kwargs)
            except (Denied, ValueError) as error:
                return self._answer(asked, error, on_deny)

    async def acall(self, **kwargs: Any) -> Any:
        """The same."""
        agent, task, on_deny = self._caller
        with asking(agent, str(self.name), None, kwargs, task) as asked:
            try:
                return await super().acall(**kwargs)
            except (Denied, ValueError) as error:
                return self._answer(asked, error, on_deny)

    def _answer(self, asked: Asked, error: Denied | ValueError, on_deny: OnDeny) -> str:
        if not isinstance(error, Denied):
            if asked.taken:  # the tool's own
                raise error
            error, mistakes = asked.refuse(self._guard, str(error)), str(error)
        else:
            mistakes = ""
        if on_deny == "raise":
            raise RunDenied(error) from error
        return told(error, mistakes)

    def __deepcopy__(self, memo: Any) -> GuardedTool:
        """Optimizers copy programs; what stands before a tool is not theirs to copy."""
        return self
