"""One run of a guarded LangChain tool, from the permit to the body; the backstop below it; and how a denial is told."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar, Token
from typing import Any, Literal, TypeAlias
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import ToolMessage
from langchain_core.tracers.context import register_configure_hook

from agentguard import Code, Denied, Guard, ToolCall
from agentguard.canonical import Frozen, thaw
from agentguard.context import current_task
from agentguard.decision import Reason, Stage
from agentguard.enforcement import NOBODY
from agentguard.errors import OutputRefused
from agentguard.permit import Permit
from agentguard.task import Task
from agentguard_adapters.langchain_inner import Bound, Inner, Mistaken

#: How a denial leaves: as an error message to the model, or raised.
OnDeny: TypeAlias = Literal["message", "raise"]
#: The run that passed the guard and whose body has not begun.
passed: ContextVar[Run | None] = ContextVar("agentguard.langchain.passed", default=None)
#: Whether a ToolNode fills in injected arguments, having dropped what the model presented under their names.
node_fills: ContextVar[bool] = ContextVar("agentguard.langchain.node_fills", default=False)
#: Refuses every tool that starts past the guard.
backstop: ContextVar[Backstop | None] = ContextVar("agentguard.langchain.backstop", default=None)
register_configure_hook(backstop, inheritable=True)


class Backstop(BaseCallbackHandler):
    """Below a guarded agent, a tool that starts without having passed the guard is stopped: one of a sub-agent that has no guard of its
    own, or one that a hook further in put in the place of the guarded one.
    """

    raise_error = run_inline = True
    ignore_llm = ignore_chain = ignore_retriever = ignore_retry = ignore_chat_model = ignore_custom_event = True

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Backstop) and other._guard is self._guard

    def __hash__(self) -> int:
        return id(self._guard)

    def on_tool_start(self, serialized: dict[str, Any], input_str: str, *, run_id: UUID, **kwargs: Any) -> None:
        run = passed.get()
        if run is not None and run.run_id == run_id:
            return
        task, name = current_task.get(), str((serialized or {}).get("name") or kwargs.get("name"))
        call = ToolCall(task.agent if task is not None else NOBODY, name, kwargs.get("inputs") or {}, kwargs.get("tool_call_id"))
        fix = "give the inner agent GuardMiddleware, or wrap the tool with guard_tools"
        reason = Reason(Code.INTEGRITY_FAILURE, name, "a tool with the guard before it", "one that started past the guard", fix=fix)
        raise self._guard.refuse(call, Stage.INTEGRITY, reason)


class Run:
    """One run of a tool: binds its arguments; then, as a context manager, the way from the permit to the body. A permit that is unused
    at its end is given back.
    """

    permit: Permit
    bound: Bound

    def __init__(self, inner: Inner, below: Backstop, call_id: str | None) -> None:
        self.inner, self.below, self.call_id = inner, below, call_id
        self.injected: Mapping[str, Any] = {}
        self.mistakes = ""
        self.task: Task | None = None
        self.run_id: UUID | None = None
        self._tokens: list[tuple[ContextVar[Any], Token[Any]]] = []

    def bind(self, presented: Mapping[str, Frozen]) -> Mapping[str, Frozen]:
        """The arguments as the tool gets them. Raises InvalidInput."""
        try:
            self.bound = self.inner.bound(presented, self.injected, self.call_id)
        except Mistaken as error:
            self.mistakes = error.told
            raise
        return self.bound.values

    def shown(self, call: ToolCall) -> dict[str, Any]:
        """The presented arguments for callbacks: a copy of their own, which nothing reads again."""
        return {name: thaw(value) for name, value in call.arguments.items()}

    def under(self, permit: Permit) -> Run:
        """This run with its permit, to be entered."""
        self.permit = permit
        return self

    def __enter__(self) -> Run:
        state: tuple[tuple[ContextVar[Any], Any], ...] = (
            (passed, self),
            (node_fills, False),
            (current_task, self.task),
            (backstop, self.below),
        )
        self._tokens = [(var, var.set(value)) for var, value in state]
        return self

    def __exit__(self, *exc: object) -> None:
        for var, token in self._tokens:
            var.reset(token)
        self.permit.release()

    def go(self, config: Any, manager: Any) -> Any:
        """Run the body; what it starts has passed nothing yet."""
        passed.set(None)
        body, bound = self.inner.sync_body, self.bound
        return self.permit.run(body.fn, bound.injected | body.framework(config, manager), bound.live)

    async def ago(self, config: Any, manager: Any) -> Any:
        """The same for the async body."""
        passed.set(None)
        body, bound = self.inner.async_body, self.bound
        return await self.permit.arun(body.fn, bound.injected | body.framework(config, manager), bound.live)


def answer(denied: Denied | OutputRefused, on_deny: OnDeny, name: str, call_id: str | None, mistakes: str = "") -> ToolMessage:
    """A denial, or the refusal of an output, as the model is told of it. Raises it where no model called, or where that is wanted."""
    if on_deny == "raise" or call_id is None:
        raise denied
    malformed = isinstance(denied, Denied) and denied.code is Code.MALFORMED_CALL
    said = f"{denied.for_model} {mistakes}" if mistakes and malformed else denied.for_model
    return ToolMessage(said, name=name, tool_call_id=call_id, status="error")
