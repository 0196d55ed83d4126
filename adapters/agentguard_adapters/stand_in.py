"""One tool call in two layers: what a framework's hook knows of it, and the function that stands in the tool's place.

    body = stand_in(guard, fn, agent="triage")                # goes where the framework keeps the tool's function
    with asking("triage", "search", call_id, arguments):      # what the framework's hook says, where it has one
        ...                                                   # the framework runs the tool

The hook knows who calls, under which id, and what the model presented. The decision falls in the stand-in, with the arguments as the tool
gets them: after the framework's own coercion and after every other hook. Both are one decision. A stand-in that is called without a hook
above it asks the guard all the same.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

from agentguard import Code, Denied, Guard, InvalidInput, ToolCall
from agentguard.canonical import Frozen, freeze
from agentguard.context import current_task, restore
from agentguard.decision import Reason, Stage
from agentguard.errors import OutputRefused
from agentguard.plain import is_json, plain
from agentguard.task import Task
from agentguard.tools.bodies import awaits
from agentguard.tools.integrity import Tool, bare, register
from agentguard_adapters.seats import seat

__all__ = ["Asked", "OnDeny", "announced", "asking", "awaited", "claimed", "pinned_of", "stand_in", "told"]

#: How a denial leaves: as words to the model, or raised.
OnDeny: TypeAlias = Literal["message", "raise"]
_SCALARS = frozenset({str, int, float, bool, type(None)})


class Asked:
    """What a framework's hook knows of one call. The stand-in of that tool takes it, once.

    agent      who calls, by the name in the policy; None is whoever the current task belongs to
    tool       the tool's registered name
    call_id    the framework's id of the call
    presented  what the model presented, before the framework made anything of it; None where the hook does not see it
    task       the authority, or that of an agent which may delegate to this one; None is the current task
    denied     after the call: the denial, if there was one
    taken      after the call: whether the stand-in was reached, so that the guard was asked
    """

    __slots__ = ("_unclaimed", "agent", "call_id", "denied", "presented", "task", "tool")

    def __init__(
        self,
        agent: str | None,
        tool: str,
        call_id: str | None = None,
        presented: Mapping[str, Any] | None = None,
        task: Task | None = None,
    ) -> None:
        self.agent, self.tool, self.call_id, self.presented, self.task = agent, tool, call_id, presented, task
        self.denied: Denied | None = None
        self._unclaimed = [True]  # list.pop is atomic: of two threads, one gets it

    @property
    def taken(self) -> bool:
        return not self._unclaimed

    def take(self, tool: str) -> bool:
        """Whether this is the call of `tool` that the hook announced, and nobody took it yet."""
        if self.tool != tool:
            return False
        try:
            return self._unclaimed.pop()
        except IndexError:
            return False

    def refuse(self, guard: Guard, why: str) -> Denied:
        """The recorded denial of a call that the framework refused before the guard was asked: its arguments did not fit, or nobody knows
        the tool. `why` is kept with the record and not told to the model.
        """
        agent, task = _seated(guard, self.agent, self.task)
        call = ToolCall(agent, self.tool, dict(self.presented or {}), self.call_id)
        reason = Reason(Code.MALFORMED_CALL, self.tool, "a known tool, and arguments that it can take", why[:400])
        self.denied = guard.refuse(call, Stage.CALL, reason, task=task)
        return self.denied


_asked: ContextVar[Asked | None] = ContextVar("agentguard.asked", default=None)


class asking:  # noqa: N801  # used as a function, in `with`; a generator would cost each call a microsecond
    """Say what a framework's hook knows of the call that runs inside. Threads need `contextvars.copy_context()`, as everywhere."""

    __slots__ = ("_asked", "_token")

    def __init__(
        self,
        agent: str | None,
        tool: str,
        call_id: str | None = None,
        presented: Mapping[str, Any] | None = None,
        task: Task | None = None,
    ) -> None:
        self._asked = Asked(agent, tool, call_id, presented, task)

    def __enter__(self) -> Asked:
        self._token = _asked.set(self._asked)
        return self._asked

    def __exit__(self, *exc: object) -> None:
        restore(_asked, self._token)  # an abandoned coroutine is closed in another context, where there is nothing to restore


def announced(tool: str) -> Asked | None:
    """What a hook above said of this call of `tool`, left to be taken: for a second hook within it. None where nobody said anything."""
    asked = _asked.get()
    return asked if asked is not None and asked.tool == tool and not asked.taken else None


def claimed(tool: str) -> Asked | None:
    """What the hook above said of this call of `tool`, taken; None where there is no hook, or another layer took it."""
    asked = _asked.get()
    return asked if asked is not None and asked.take(tool) else None


def told(refused: Denied | OutputRefused, mistakes: str = "") -> str:
    """A denial, or the refusal of an output, as a model hears it. `mistakes` are the framework's own words about arguments that do not fit,
    which the model wrote."""
    malformed = isinstance(refused, Denied) and refused.code is Code.MALFORMED_CALL
    return f"{refused.for_model} {mistakes[:400]}" if mistakes and malformed else refused.for_model


def stand_in(
    guard: Guard,
    fn: Callable[..., Any],
    *,
    name: str | None = None,
    injected: tuple[str, ...] = (),
    schema: Mapping[str, Any] | None = None,
    watch: tuple[tuple[Any, str], ...] = (),
    pauses: tuple[str, ...] = (),
    tool: Tool | None = None,
    agent: str | None = None,
    task: Task | None = None,
    on_deny: OnDeny = "message",
) -> Callable[..., Any]:
    """A function that stands for `fn`, sync or async as it is, and asks the guard before each run.

    name, injected, schema, watch, pauses   as in `agentguard.tools.integrity.register`, which pins the function. One that is registered
                  already keeps the name that it has there; a hook may announce it under either
    tool          in their place: the registered tool that `fn` is a form of (one of its `twins`)
    agent, task   who calls and by which authority, where no hook says so; by default the current task's
    on_deny       "message": the denial's sentence is returned in the place of an output, as is that of an output that the policy refuses;
                  "raise": Denied is raised, or OutputRefused

    A function that this guard's `@guard.tool` wraps, or that is a stand-in already, is unwrapped first: one call is one decision.
    Raises InvalidInput where the function cannot be pinned, or another tool is registered under its name.
    """
    body, known = _undecorated(fn, guard)
    tool = tool if tool is not None else known
    if tool is None:
        tool = guard.register(register(body, name=name, injected=injected, schema=schema, watch=watch, pauses=pauses))
    stand = _StandIn(guard, tool, name or tool.name, body, agent, task)

    async def asynchronous(*args: Any, **kwargs: Any) -> Any:
        turn = stand.turn()
        try:
            call, live, hidden = turn.bind(args, kwargs)
            permit = await guard.acheck(call, task=turn.task, tool=tool, binder=turn.bound)
            token = current_task.set(turn.task)
            try:
                return await permit.arun(body, hidden, live)
            finally:
                restore(current_task, token)
        except (Denied, OutputRefused) as refused:
            return turn.answer(refused, on_deny)

    def synchronous(*args: Any, **kwargs: Any) -> Any:
        turn = stand.turn()
        try:
            call, live, hidden = turn.bind(args, kwargs)
            permit = guard.check(call, task=turn.task, tool=tool, binder=turn.bound)
            token = current_task.set(turn.task)
            try:
                return permit.run(body, hidden, live)
            finally:
                restore(current_task, token)
        except (Denied, OutputRefused) as refused:
            return turn.answer(refused, on_deny)

    return _announced(asynchronous if awaits(body) else synchronous, body, guard, tool, asynchronous)


def _announced(made: Any, body: Any, guard: Guard, tool: Tool, asynchronous: Callable[..., Any]) -> Callable[..., Any]:
    """`made`, which looks like `body` and says for which guard it stands before which tool."""
    functools.update_wrapper(made, body)
    made.__agentguard_stand_in__ = (made, guard)
    made.__agentguard_tool__ = tool
    made.__agentguard_awaited__ = asynchronous
    return made  # type: ignore[no-any-return]  # a function by construction


def awaited(stand: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """A stand-in as a coroutine function. One that streams gives its stream: calling it decides at once, and where a decision waits for the
    disk, the event loop would wait with it.
    """
    made: Callable[..., Awaitable[Any]] = stand.__agentguard_awaited__  # type: ignore[attr-defined]  # every stand-in has it
    return made


def pinned_of(fn: Any) -> Tool | None:
    """The tool as the guard knows it, of a stand-in; None for anything else."""
    found = getattr(fn, "__agentguard_stand_in__", None)
    return fn.__agentguard_tool__ if found is not None and found[0] is fn else None


class _StandIn:
    """What one stand-in knows. `alias` is what the framework calls a tool that is registered under another name already."""

    __slots__ = ("agent", "alias", "guard", "places", "task", "tool")

    def __init__(self, guard: Guard, tool: Tool, alias: str, body: Callable[..., Any], agent: str | None, task: Task | None) -> None:
        self.guard, self.tool, self.alias, self.agent, self.task = guard, tool, alias, agent, task
        names = inspect.signature(body).parameters if tool.entry.injected else ()
        self.places = {at: one for at, one in enumerate(names) if one in tool.entry.injected}  # of arguments that come by position

    def turn(self) -> _Turn:
        # Missed, the call would be anybody's: the current task's agent's, where the hook says that it is another one's.
        return _Turn(self, claimed(self.tool.name) or claimed(self.alias))


class _Turn:
    """One call of a stand-in."""

    __slots__ = ("_asked", "_bound", "_stand", "task")

    def __init__(self, stand: _StandIn, asked: Asked | None) -> None:
        self._stand, self._asked = stand, asked
        self.task: Task | None = None
        self._bound: Mapping[str, Frozen] | None = None

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[ToolCall, dict[str, Any], dict[str, Any]]:
        """The call as the model presented it; checked arguments that are live objects; the framework's own. Raises Denied."""
        stand, asked = self._stand, self._asked
        agent, task, call_id = stand.agent, stand.task, None
        if asked is not None:
            if asked.denied is not None:  # the hook gave up on the call and told so; a thread that it left behind comes late
                raise asked.denied
            agent, call_id = asked.agent or agent, asked.call_id
            task = asked.task if asked.task is not None else task
        agent, self.task = seat(stand.guard, agent, task)
        given, hidden = kwargs, {}
        if stand.tool.entry.injected:
            given = dict(kwargs)
            hidden = {one: given.pop(one) for one in stand.tool.entry.injected if one in given}
            hidden.update({stand.places[at]: value for at, value in enumerate(args) if at in stand.places})
            args = tuple([value for at, value in enumerate(args) if at not in stand.places])
        try:
            given = stand.tool.parameters.present(args, given)
            shown = {one: value if type(value) in _SCALARS else plain(value) for one, value in given.items()}
            if asked is not None and asked.presented is not None and not _alike(asked.presented, shown):
                self._bound = stand.tool.parameters.bind(MappingProxyType({one: freeze(value) for one, value in shown.items()}))
        except InvalidInput as error:
            return ToolCall.malformed(agent, stand.tool.name, str(error)), {}, hidden
        live = {one: value for one, value in given.items() if shown[one] is not value}
        if asked is not None and asked.presented is not None:
            presented = dict(asked.presented)
        else:
            presented = shown
            if hidden:  # nobody saw what the model presented: a framework's own argument that could be a model's is taken for one
                presented = shown | {one: value for one, value in hidden.items() if one in kwargs and is_json(value)}
        return ToolCall(agent, stand.tool.name, presented, call_id), live, hidden

    def bound(self, presented: Mapping[str, Frozen]) -> Mapping[str, Frozen]:
        """What the tool gets; refused where the model presented an argument that the framework dropped on the way."""
        parameters = self._stand.tool.parameters
        extra = sorted(presented.keys() - parameters.names)
        if extra and not parameters.var_keyword:
            raise InvalidInput(f"the tool has no argument {extra[0]!r}", hint=f"it takes {', '.join(sorted(parameters.names)) or 'none'}")
        return self._bound if self._bound is not None else parameters.bind(presented)

    def answer(self, refused: Denied | OutputRefused, on_deny: OnDeny) -> str:
        if self._asked is not None and isinstance(refused, Denied):
            self._asked.denied = refused
        if on_deny == "raise":
            raise refused
        return told(refused)


def _alike(presented: Mapping[str, Any], shown: Mapping[str, Any]) -> bool:
    """Whether the tool gets just what the model presented: the same names and scalars. (`True == 1`, so types count. What has parts may be
    changed meanwhile, so it is not compared here.)"""
    if presented.keys() != shown.keys():
        return False
    for one, value in shown.items():
        kind = type(value)
        if kind is not type(presented[one]) or kind not in _SCALARS or value != presented[one]:
            return False
    return True


def _undecorated(fn: Callable[..., Any], guard: Guard) -> tuple[Callable[..., Any], Tool | None]:
    """The function below this guard's own wrapper, and its registration. Another guard's wrapper stays: that guard is asked too."""
    stood = getattr(fn, "__agentguard_stand_in__", None)
    if stood is not None and stood[0] is fn:
        if stood[1] is not guard:
            raise InvalidInput(f"{getattr(fn, '__name__', fn)!r:.80} is guarded by another guard")
        return fn.__wrapped__, fn.__agentguard_tool__
    found = getattr(fn, "__agentguard_mark__", None)
    if found is not None and found[0] is fn and guard.serves(found[1]):
        return bare(fn, found[1]), fn.__agentguard_tool__
    return fn, None


def _seated(guard: Guard, agent: str | None, task: Task | None) -> tuple[str, Task | None]:
    """The seat, or where there is none the name under which that is refused."""
    try:
        return seat(guard, agent, task)
    except Denied:
        return agent or "nobody", task if task is not None else current_task.get()
