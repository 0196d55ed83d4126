"""A guarded agent of smolagents at work: which call is on its way, and how its denial leaves."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any, cast

from smolagents.default_tools import FinalAnswerTool
from smolagents.local_python_executor import ExecutionTimeoutError, InterpreterError, nodunder_getattr
from smolagents.utils import AgentError, AgentToolCallError, AgentToolExecutionError

from agentguard import Denied, Guard
from agentguard.task import Task
from agentguard_adapters.stand_in import OnDeny, asking, told


class ToolDenied(Exception):
    """What a denied tool raises inside an agent: the sentence for the model, and nothing else."""


@dataclass(eq=False)
class Binding:
    """What guards one agent.

    ready     guards what was added to the agent
    entry     the agent as a tool of another: what stands for its `__call__`
    denials   of this step, where they are to be raised
    """

    guard: Guard
    agent: str
    task: Task | None
    on_deny: OnDeny
    unsafe_imports: bool
    ready: Callable[[Any], None]
    entry: Callable[..., Any] | None = None
    denials: list[Denied] = field(default_factory=list)


_FRAMES = {f"{kind}_{one}" for kind in ("gi", "cr", "ag") for one in ("frame", "code", "await", "yieldfrom")} | {
    *("tb_frame", "tb_next", "f_back", "f_builtins", "f_code", "f_globals", "f_locals"),
}


class _Given(dict[str, Any]):
    """Arguments with the id of their call, which smolagents does not hand on; never empty to it, so that it keeps this very object."""

    def __init__(self, arguments: dict[str, Any], call_id: str) -> None:
        super().__init__(arguments)
        self.call_id = call_id

    def __bool__(self) -> bool:
        return True


def answers(name: str, tool: Any) -> bool:
    """Whether this is the agent's answer, and no act: smolagents' own tool for it, in its place, and as it came."""
    return name == "final_answer" and type(tool) is FinalAnswerTool and "forward" not in vars(tool)


def asking_class(base: Any) -> Any:
    """The class of an agent, guarded: `agentguard_binding` on an instance says by what."""

    class Asks(base):
        agentguard_binding: Binding

        def run(self, *args: Any, **kwargs: Any) -> Any:
            self.agentguard_binding.ready(self)
            return super().run(*args, **kwargs)

        def __call__(self, task: str, **kwargs: Any) -> Any:
            """As a managed agent: a tool call of whoever asks."""
            entry = self.agentguard_binding.entry
            return super().__call__(task, **kwargs) if entry is None else entry(task, **kwargs)

        def process_tool_calls(self, chat_message: Any, memory_step: Any) -> Iterator[Any]:
            for call in chat_message.tool_calls or ():
                given = call.function.arguments
                if not given or isinstance(given, dict):
                    call.function.arguments = _Given(given or {}, call.id)
            yield from super().process_tool_calls(chat_message, memory_step)

        def execute_tool_call(self, tool_name: str, arguments: Any) -> Any:
            """One call of a tool-calling agent. What smolagents refuses itself is recorded."""
            binding, parent = self.agentguard_binding, cast(Any, super())
            if answers(tool_name, self.tools.get(tool_name)):
                return parent.execute_tool_call(tool_name, arguments)
            binding.ready(self)
            presented, call_id = dict(arguments) if isinstance(arguments, dict) else None, getattr(arguments, "call_id", None)
            with asking(binding.agent, tool_name, call_id, presented, binding.task) as asked:
                try:
                    return parent.execute_tool_call(tool_name, arguments if presented is None else presented)
                except (AgentToolCallError, AgentToolExecutionError) as error:
                    if asked.denied is None and asked.taken:
                        raise
                    denied, mistakes = asked.denied or asked.refuse(binding.guard, str(error)), str(error)
            if binding.on_deny == "raise":
                raise denied
            return told(denied, mistakes)

        def _step_stream(self, memory_step: Any) -> Iterator[Any]:
            """One step. smolagents makes an observation of what a tool raises: a denial that is to end the run is raised again."""
            denials = self.agentguard_binding.denials
            denials.clear()
            try:
                yield from super()._step_stream(memory_step)
            except AgentError as error:
                if denials:
                    raise denials[0] from error
                raise
            if denials:
                raise denials[0]

    Asks.__name__, Asks.__qualname__, Asks.__module__ = base.__name__, base.__qualname__, base.__module__
    return Asks


def carrying_class(base: Any) -> Any:
    """The class of a local executor, guarded: code runs in a thread, and the authority has to get there."""

    class Carries(base):
        agentguard_binding: Binding
        agentguard_seconds: float | None  # the executor's own timeout, whose thread would know no task

        def __call__(self, code_action: str) -> Any:
            _no_frames(code_action)
            with ThreadPoolExecutor(max_workers=1) as pool:
                try:
                    return pool.submit(copy_context().run, super().__call__, code_action).result(self.agentguard_seconds)
                except Late:
                    raise ExecutionTimeoutError(f"the code ran for more than {self.agentguard_seconds} seconds") from None

        def send_tools(self, tools: dict[str, Any]) -> None:
            """Code gets functions: from a tool or an agent it could go on to what belongs to them."""
            faces = {name: tool if answers(name, tool) else self._face(name, tool) for name, tool in tools.items()}
            super().send_tools(faces)
            self.static_tools["getattr"] = _getattr

        def _face(self, name: str, tool: Any) -> Callable[..., Any]:
            binding = self.agentguard_binding

            def face(*args: Any, **kwargs: Any) -> Any:
                with asking(binding.agent, name, task=binding.task) as asked:
                    try:
                        return tool(*args, **kwargs)
                    finally:
                        if asked.denied is not None and binding.on_deny == "raise":
                            binding.denials.append(asked.denied)

            return face

    Carries.__name__, Carries.__qualname__, Carries.__module__ = base.__name__, base.__qualname__, base.__module__
    return Carries


def _no_frames(code: str) -> None:
    """Refuse code that looks into frames: from there it would climb to the executor, and to the guard. smolagents lets it."""
    with suppress(SyntaxError):  # smolagents says it better
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Attribute) and node.attr in _FRAMES:
                raise InterpreterError(f"Forbidden access to attribute: {node.attr}")


def _getattr(thing: Any, name: str, *default: Any) -> Any:
    """`getattr` as smolagents gives it to code, without frames, and for names that are what they say."""
    if type(name) is not str or name in _FRAMES:
        raise InterpreterError(f"Forbidden access to attribute: {name!r:.80}")
    return nodunder_getattr(thing, name, *default)
