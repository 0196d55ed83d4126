"""How a guarded kernel of Semantic Kernel differs: in the model's calls, and behind the filters, where functions are judged."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from types import new_class
from typing import Any

from agentguard import Denied, Guard, InvalidInput
from agentguard.task import Task
from agentguard_adapters.stand_in import Asked, OnDeny, announced, asking, pinned_of, stand_in, told
from agentguard_adapters.versions import needs

with needs("semantic-kernel", "1.45"):
    from semantic_kernel import Kernel
    from semantic_kernel.agents import Agent
    from semantic_kernel.agents.orchestration.handoffs import HANDOFF_PLUGIN_NAME
    from semantic_kernel.contents import FunctionResultContent
    from semantic_kernel.exceptions import FunctionExecutionException, KernelException
    from semantic_kernel.filters import FilterTypes
    from semantic_kernel.functions import FunctionResult, KernelFunctionFromMethod

#: Parameters that the kernel fills in.
_FILLED_IN = ("kernel", "service", "execution_settings", "arguments")


@dataclass(frozen=True)
class Seat:
    """Whose kernel it is."""

    guard: Guard
    agent: str
    task: Task | None
    on_deny: OnDeny
    name: Callable[[Any], str]

    def __deepcopy__(self, memo: Any) -> Seat:
        return self

    def asks(self, tool: str, call_id: str | None = None, presented: dict[str, Any] | None = None) -> AbstractContextManager[Asked]:
        """What a hook says of a call."""
        return asking(self.agent, tool, call_id, presented, self.task)

    def called(self, function: Any) -> str:
        """The name that a function is judged under. One that stands in two plugins has that of the first, where it was registered."""
        pinned = pinned_of(getattr(function, "method", None))
        return pinned.name if pinned is not None else self.name(function)

    async def judge(self, function: Any, run: Callable[[Any], Awaitable[None]], context: Any) -> None:
        """Run a function of the kernel: a method by its stand-in, any other, such as a prompt, by one around its run."""
        tool, method = self.called(function), isinstance(function, KernelFunctionFromMethod)
        above = announced(tool)  # by invoke_function_call
        if above is None and not method:
            return await run(context)  # the application's own prompt; what the model calls in it comes here by itself
        with nullcontext(above) if above is not None else self.asks(tool) as asked:
            try:
                if method:
                    self.stand_before(function)
                    return await run(context)
                given = await self._stand_around(function, run)(**_declared(function, context), agentguard_context=context)
                if given is not context.result and given != str(context.result):  # the policy has a rule for its outputs
                    context.result = FunctionResult(function=function.metadata, value=given)
                return None
            except Denied as error:  # the guard's, or one that the function met itself
                denied, mistakes = error, ""
            except (FunctionExecutionException, InvalidInput) as error:  # arguments that do not fit
                if asked.taken:
                    raise
                denied, mistakes = asked.refuse(self.guard, str(error)), str(error)
        asked.denied = denied
        if self.on_deny == "raise":
            raise denied
        context.result = FunctionResult(function=function.metadata, value=told(denied, mistakes))
        return None

    def stand_before(self, function: Any) -> None:
        """Put a stand-in in the place of a function's method, once. Raises InvalidInput where that would not hold."""
        if pinned_of(function.method) is not None:
            stand_in(self.guard, function.method)  # raises where it is another guard's
            return
        name, method, streams = self.name(function), function.method, function.stream_method
        if type(function)._invoke_internal is not KernelFunctionFromMethod._invoke_internal or streams not in (None, method):
            raise InvalidInput(f"the function {name!r} has a way to run that the guard would go past", hint="let it have one method")
        for one in _agents_in(method):
            if not isinstance(one.kernel, GuardedKernel):
                raise InvalidInput(f"the agent {one.name!r} inside the function {name!r} is not guarded", hint="guard it first")
        injected = tuple([one for one in _FILLED_IN if one in inspect.signature(method).parameters])
        function.method = stand_in(self.guard, method, name=name, injected=injected, schema=_schema(function), on_deny="raise")
        if streams is not None:
            function.stream_method = function.method

    def _stand_around(self, function: Any, run: Callable[[Any], Awaitable[None]]) -> Callable[..., Any]:
        async def body(*, agentguard_context: Any, **arguments: Any) -> Any:
            agentguard_context.arguments.update(arguments)
            await run(agentguard_context)
            return agentguard_context.result if agentguard_context.is_streaming else str(agentguard_context.result)

        name, hidden = self.name(function), ("agentguard_context",)
        return stand_in(self.guard, body, name=name, injected=hidden, schema=_schema(function), on_deny="raise")


#: Whether the model's call that runs now came as far as the filters.
_came_through: ContextVar[list[bool] | None] = ContextVar("agentguard.semantic_kernel.came_through", default=None)


class GuardedKernel(Kernel):
    """How a guarded kernel differs."""

    async def invoke_function_call(self, function_call: Any, chat_history: Any, **options: Any) -> Any:
        """A model's call. What the kernel turns down before any filter is recorded, and told in the place of the kernel's own words."""
        seat: Seat = self._agentguard
        came_through: list[bool] = []
        before, why, ended = len(chat_history.messages), "", None
        with seat.asks(self._tool(function_call), function_call.id, _parsed(function_call)) as asked:
            token = _came_through.set(came_through)
            try:
                ended = await super().invoke_function_call(function_call, chat_history, **options)
            except Exception as error:
                if came_through:
                    raise
                why = f"{type(error).__name__}: {error}"  # the kernel stumbled over what the model presented
            finally:
                _came_through.reset(token)
        if not came_through:
            answer = _answer_to(function_call, chat_history, before)
            answer.result = told(asked.refuse(seat.guard, why or str(answer.result)), why or str(answer.result))
        if asked.denied is None:
            return ended
        if seat.on_deny == "raise":
            raise asked.denied
        return ended if function_call.plugin_name != HANDOFF_PLUGIN_NAME else None  # a hand-off that was denied does not end the turn

    def construct_call_stack(self, filter_type: Any, inner_function: Any) -> Any:
        """Every call of every function asks for this: behind the filters stands the guard."""
        seat: Seat = self._agentguard
        if filter_type == FilterTypes.AUTO_FUNCTION_INVOCATION and (came_through := _came_through.get()) is not None:
            came_through.append(True)
        elif filter_type == FilterTypes.FUNCTION_INVOCATION:
            inner_function = partial(seat.judge, inner_function.__self__, inner_function)
        return super().construct_call_stack(filter_type, inner_function)

    def clone(self) -> Kernel:
        return seated(super().clone(), self._agentguard)

    def _tool(self, function_call: Any) -> str:
        try:
            seat: Seat = self._agentguard
            return seat.called(self.get_function(function_call.plugin_name, function_call.function_name))
        except KernelException:
            return str(function_call.name)


def seated(kernel: Kernel, seat: Seat) -> Kernel:
    kind = type(kernel)
    if not issubclass(kind, GuardedKernel):
        guarded = GuardedKernel if kind is Kernel else new_class(kind.__name__, (GuardedKernel, kind))
        object.__setattr__(kernel, "__class__", guarded)  # pydantic's own would look for a field of that name
    object.__setattr__(kernel, "_agentguard", seat)
    return kernel


def _answer_to(function_call: Any, chat_history: Any, since: int) -> Any:
    """The result that the model is told, in the history from `since` on; a new one where there is none."""
    for message in reversed(chat_history.messages[since:]):
        for item in message.items:
            if isinstance(item, FunctionResultContent) and item.id == function_call.id:
                return item
    made = FunctionResultContent.from_function_call_content_and_result(function_call_content=function_call, result="")
    chat_history.add_message(message=made.to_chat_message_content())
    return _answer_to(function_call, chat_history, since)


def _parsed(function_call: Any) -> dict[str, Any] | None:
    """The arguments as the model presented them; None where they are no JSON object."""
    try:
        return dict(function_call.parse_arguments() or {})
    except (KernelException, TypeError, ValueError):
        return None


def _declared(function: Any, context: Any) -> dict[str, Any]:
    return {one.name: context.arguments[one.name] for one in function.parameters if one.name in context.arguments}


def _schema(function: Any) -> dict[str, Any]:
    return {one.name: one.schema_data or one.type_ for one in function.parameters}


def _agents_in(method: Any) -> Iterator[Any]:
    """The agents in a function's closure: an agent among the plugins comes as such a function."""
    for cell in getattr(method, "__closure__", None) or ():
        try:
            held = cell.cell_contents
        except ValueError:  # it is empty as yet
            continue
        if isinstance(held, Agent):
            yield held
