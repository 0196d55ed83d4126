"""The permit: the single-use, short-lived right to run exactly the call that was checked (DESIGN §10)."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from types import AsyncGeneratorType, GeneratorType
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol

from agentguard.call import ToolCall
from agentguard.canonical import Frozen, freeze, jcs, thaw
from agentguard.context import current_task, inside, lent_permit, restore
from agentguard.decision import Code, Decision, Reason, Stage
from agentguard.errors import Denied, EvidenceUnavailable, InvalidInput, OutcomeUnrecorded
from agentguard.plain import plain
from agentguard.tools.bodies import is_async, unawaited
from agentguard.tools.integrity import StreamOutput, Tool, bare

if TYPE_CHECKING:
    from agentguard.evidence import Form
    from agentguard.policy.outputs import OutputRule
    from agentguard.shaping import Shaping
    from agentguard.state.store import Reservation
    from agentguard.task import Task

#: A permit that was not used for this long is worth nothing.
LIFETIME_NS: Final = 30 * 1_000_000_000
_NOTHING: Final[Mapping[str, Any]] = {}


class Recorder(Protocol):
    """What a permit needs of the guard that gave it."""

    unable: str
    now: Callable[[], int]

    def poison(self, why: str) -> None: ...

    def refusal(self, call: ToolCall, stage: Stage, reason: Reason, cause: str) -> Decision: ...

    def record_outcome(self, permit: Permit, status: str, *, output: Any = None, error: BaseException | None = None) -> None: ...

    def arecord_outcome(
        self, permit: Permit, status: str, *, output: Any = None, error: BaseException | None = None
    ) -> Awaitable[None]: ...

    def forsake(self, permit: Permit, written: bool) -> None: ...


class Permit:
    """Given by `guard.check`. Run the tool with `permit.run(fn)` or `await permit.arun(fn)`, once.

    bound      the arguments as the tool will get them, immutable
    execution  the id under which the decision stands in the log
    decision   the decision that allowed it
    """

    __slots__ = (
        "_expires",
        "_pid",
        "_recorder",
        "_shaping",
        "_tool",
        "_under",
        "_unused",
        "bound",
        "counted",
        "decision",
        "execution",
        "form",
        "presented",
        "reservation",
        "task",
    )

    def __init__(
        self,
        recorder: Recorder,
        tool: Tool | None,
        bound: Mapping[str, Frozen],
        presented: ToolCall,
        decision: Decision,
        reservation: Reservation,
        expires: int,
        under: Task,
        form: Form,
        output: OutputRule | None = None,
    ) -> None:
        self._recorder, self._tool, self._expires, self._under = recorder, tool, expires, under
        self._pid, self.form = os.getpid(), form
        self._unused = [True]  # list.pop is atomic: of two threads, one gets it
        self.bound, self.presented, self.decision, self.reservation = bound, presented, decision, reservation
        self.task = reservation.account.task
        self.counted: tuple[tuple[str, int], ...] = ()  # what the outcome moves
        self._shaping: Shaping | None = None
        if output is not None:
            from agentguard.shaping import Shaping  # what searches texts is loaded where a policy has a rule for outputs

            self._shaping = Shaping(output, self._pauses_on)
        self.execution = decision.execution

    # --- running ----------------------------------------------------------------------------------------------------------------

    def run(self, fn: Callable[..., Any], injected: Mapping[str, Any] = _NOTHING, live: Mapping[str, Any] = _NOTHING) -> Any:
        """Run `fn` with exactly the checked arguments, and record the outcome whatever happens.

        injected   arguments that the framework fills in and the model may not present
        live       checked arguments as the objects that a framework's schema made of them (a model, a date)

        Raises Denied where the permit does not cover this (used, expired, another function, another process, live arguments that say
        something else than what was checked), whatever the tool raises, and OutcomeUnrecorded.
        """
        if is_async(fn):
            raise InvalidInput("the tool is async, and the permit was asked to run it synchronously", hint="use `await permit.arun(fn)`")
        self._begin(fn, injected, live)
        try:
            with inside(self.execution):
                output = self._body(fn, injected, live)
                if hasattr(type(output), "__await__"):
                    raise unawaited(output)
        except BaseException as error:
            self._finish(_status(error, self._tool), error=error)
            raise
        if (stream := self._streamed(output)) is not None:
            return stream
        self._finish("ok", output=output)
        return output

    async def arun(self, fn: Callable[..., Any], injected: Mapping[str, Any] = _NOTHING, live: Mapping[str, Any] = _NOTHING) -> Any:
        """The same for a tool that may be async. Where recording the outcome waits for the disk, the event loop does not."""
        self._begin(fn, injected, live)
        try:
            with inside(self.execution):
                output = self._body(fn, injected, live)
                if hasattr(type(output), "__await__"):
                    output = await (output if self._shaping is None else self._shaping.arun(output))
                    if hasattr(type(output), "__await__"):
                        raise unawaited(output)
        except BaseException as error:
            await self._afinish(_status(error, self._tool), error=error)
            raise
        if (stream := self._streamed(output)) is not None:
            return stream
        await self._afinish("ok", output=output)
        return output

    def release(self) -> None:
        """Give the permit back unused: `not_run` is recorded. A permit that was used, or released before, is left alone."""
        if self._take():
            self._finish("not_run")

    def forsaken(self, written: bool) -> None:
        """For the log: whoever asked for this permit gave up before it came. `written`: the decision is durable all the same."""
        if self._take():
            self._recorder.forsake(self, written)

    @contextmanager
    def lend(self) -> Generator[Permit]:
        """Lend the permit to the wrapped tool below a framework's hook. What is not taken by then is released."""
        token = lent_permit.set(self)
        try:
            yield self
        finally:
            restore(lent_permit, token)
            self.release()

    def covers(self, tool: Tool, call: ToolCall, task: str | None) -> bool:
        """Whether this permit was given for this very tool object, this agent, these presented arguments, this task and this process."""
        return (
            self._tool is tool
            and self.task == task
            and self.presented.agent == call.agent  # a delegate's task has the same id
            and not call.defect
            and self._pid == os.getpid()
            and bool(self._unused)
            and jcs(call.arguments) in (jcs(self.presented.arguments), jcs(self.bound))
        )

    @property
    def call(self) -> ToolCall:
        """The call as it will run: bound arguments, in an immutable copy."""
        return self.presented.with_arguments(self.bound, self.reservation.call_id)

    @property
    def arguments(self) -> dict[str, Any]:
        """A mutable copy of the checked arguments."""
        return {name: thaw(value) for name, value in self.bound.items()}

    @property
    def shaped(self) -> Mapping[str, Any] | None:
        """What the policy's rule for outputs did to this one, for the record of the outcome."""
        return None if self._shaping is None else self._shaping.did

    # --- inside -----------------------------------------------------------------------------------------------------------------

    def _take(self) -> bool:
        try:
            return self._unused.pop()
        except IndexError:
            return False

    def _begin(self, fn: Callable[..., Any], injected: Mapping[str, Any], live: Mapping[str, Any]) -> None:
        """Use the permit up, or deny. Whatever is wrong, a permit that was taken here never runs again."""
        if self._pid != os.getpid():
            self._refuse(Code.INTEGRITY_FAILURE, "a permit of this process", "one of the process that forked it")
        tool = self._tool
        if injected or live:
            self._fits(injected, live)
        if not self._take():
            self._refuse(Code.REPLAY_DETECTED, "a permit that was not used", "one that was used or released")
        self._still_stands("a permit younger than 30 s and an artifact in force", "an expired one")
        if tool is None:
            return
        why = "" if tool.is_body(fn) else f"the function {getattr(fn, '__qualname__', type(fn).__qualname__)}"
        if why or (why := tool.changed()):
            self._finish("not_run")
            self._refuse(Code.INTEGRITY_FAILURE, f"the function that was pinned as {tool.name}", why)

    def _fits(self, injected: Mapping[str, Any], live: Mapping[str, Any]) -> None:
        """Deny where what is passed beside the checked arguments would change them."""
        tool = self._tool
        for name in injected:
            if name in self.bound or (tool is not None and name in tool.parameters.names - set(tool.entry.injected)):
                self.release()
                self._refuse(Code.INTEGRITY_FAILURE, "injected arguments that no call may present", name)
        for name, value in live.items():
            if name not in self.bound or jcs(freeze(plain(value))) != jcs(self.bound[name]):
                self.release()
                self._refuse(Code.INTEGRITY_FAILURE, "live arguments that say what was checked", f"another {name}")

    def _still_stands(self, in_time: str, late: str) -> None:
        """Deny where the world moved on since the check: the log is sick, the task is closed, the time is over."""
        if self._recorder.unable:
            self._refuse(Code.EVIDENCE_UNAVAILABLE, "a log that can take the outcome", self._recorder.unable)
        if self._under.closed:
            self._finish("not_run")
            self._refuse(Code.ARTIFACT_MISSING, "a task that is open", "one that was closed since")
        if self._recorder.now() >= self._expires:
            self._finish("not_run")
            self._refuse(Code.ARTIFACT_EXPIRED, in_time, late)

    def _refuse(self, code: Code, required: str, found: str) -> NoReturn:
        reason = Reason(code, self.presented.tool, required, found)
        raise Denied(self._recorder.refusal(self.call, _STAGES[code], reason, self.execution))

    def _body(self, fn: Callable[..., Any], injected: Mapping[str, Any], live: Mapping[str, Any]) -> Any:
        """What the body gives, as the policy's rule for outputs leaves it, where there is one."""
        if self._shaping is not None:
            return self._shaping.run(functools.partial(self._apply, fn, injected, live))
        return self._apply(fn, injected, live)

    def _apply(self, fn: Callable[..., Any], injected: Mapping[str, Any], live: Mapping[str, Any]) -> Any:
        if self._tool is not None:
            return self._tool.parameters.apply(bare(fn, self._recorder), self.bound, injected, live)
        return fn(**{**self.arguments, **live}, **injected)  # nobody's body: if a guard stands before it, that guard is asked too

    def _pauses_on(self, error: BaseException) -> bool:
        return self._tool is not None and self._tool.pauses_on(error)

    def _finish(self, status: str, *, output: Any = None, error: BaseException | None = None) -> None:
        """Record the outcome, or withhold it: poison the log and raise OutcomeUnrecorded."""
        try:
            self._recorder.record_outcome(self, status, output=output, error=error)
        except BaseException as failure:  # noqa: BLE001  # whatever it was, the output may not be handed out
            self._withhold(failure)

    async def _afinish(self, status: str, *, output: Any = None, error: BaseException | None = None) -> None:
        """The same, and await that the record stands."""
        try:
            written = self._recorder.arecord_outcome(self, status, output=output, error=error)
        except BaseException as failure:  # noqa: BLE001  # whatever it was, the output may not be handed out
            self._withhold(failure)
        try:
            await written
        except (asyncio.CancelledError, GeneratorExit):  # it stands, or is on its way and nobody gets the output
            raise
        except BaseException as failure:  # noqa: BLE001
            self._withhold(failure)

    def _withhold(self, failure: BaseException) -> NoReturn:
        self._recorder.poison(f"the outcome of execution {self.execution} could not be recorded")
        cause = str(failure) if isinstance(failure, EvidenceUnavailable | InvalidInput) else type(failure).__name__
        raise OutcomeUnrecorded(self.execution, cause) from failure

    # --- streams ----------------------------------------------------------------------------------------------------------------

    def _streamed(self, output: Any) -> Generator[Any, Any, Any] | AsyncGenerator[Any, Any] | None:
        """The stream that stands for a generator of the body's; None where it gave none."""
        kind = type(output)  # not isinstance, which asks the object: a proxy may answer for another, or break
        if issubclass(kind, GeneratorType):
            return self._stream(output, current_task.get())
        return self._astream(output, current_task.get()) if issubclass(kind, AsyncGeneratorType) else None

    def _stream(self, source: Generator[Any, Any, Any], task: Task | None) -> Generator[Any, Any, Any]:
        """Drive a generator tool: its body runs inside the execution and in the task it was called in, its items are the output."""
        items = StreamOutput()
        self._stream_begins(source)
        step: Callable[[Any], Any] = source.send
        value: Any = None
        try:
            while True:
                with inside(self.execution, task):
                    item = step(value)
                items.add(item)
                try:
                    step, value = source.send, (yield item)
                except GeneratorExit:
                    raise
                except BaseException as thrown:  # noqa: BLE001  # what the caller throws goes to the body
                    step, value = source.throw, thrown
        except StopIteration as stop:
            self._finish("ok", output=items)
            return stop.value
        except BaseException as error:
            try:
                with inside(self.execution, task):
                    source.close()
            finally:
                self._finish(_status(error, self._tool), error=error)
            raise

    async def _astream(self, source: AsyncGenerator[Any, Any], task: Task | None) -> AsyncGenerator[Any, Any]:
        items = StreamOutput()
        self._stream_begins(source)
        step: Callable[[Any], Any] = source.asend
        value: Any = None
        try:
            while True:
                with inside(self.execution, task):
                    item = await step(value)
                items.add(item)
                try:
                    step, value = source.asend, (yield item)
                except GeneratorExit:
                    raise
                except BaseException as thrown:  # noqa: BLE001  # what the caller throws goes to the body
                    step, value = source.athrow, thrown
        except StopAsyncIteration:
            await self._afinish("ok", output=items)
        except BaseException as error:
            try:
                with inside(self.execution, task):
                    await source.aclose()
            finally:
                await self._afinish(_status(error, self._tool), error=error)
            raise

    def _stream_begins(self, source: Any) -> None:
        """A stream's body starts with its first item, which may be long after the call: what held then must hold now."""
        if self._pid != os.getpid():
            self._refuse(Code.INTEGRITY_FAILURE, "a stream of this process", "one of the process that forked it")
        try:
            self._still_stands("a stream that begins within 30 s of its permit", "one that begins later")
        except BaseException:
            if inspect.isgenerator(source):
                source.close()
            raise

    # --- not to be passed on -------------------------------------------------------------------------------------------------------

    def __copy__(self) -> NoReturn:
        raise TypeError("a permit cannot be copied: ask the guard again")

    def __deepcopy__(self, memo: object) -> NoReturn:
        raise TypeError("a permit cannot be copied: ask the guard again")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a permit cannot leave its process: ask the guard again")

    def __repr__(self) -> str:
        return f"<Permit {self.execution} for {self.presented.agent} → {self.presented.tool}, {'unused' if self._unused else 'used'}>"


#: At which stage a permit that does not cover a run fails.
_STAGES: Final = {
    Code.ARTIFACT_EXPIRED: Stage.TIME,
    Code.ARTIFACT_MISSING: Stage.PRESENCE,
    Code.EVIDENCE_UNAVAILABLE: Stage.EVIDENCE,
    Code.INTEGRITY_FAILURE: Stage.INTEGRITY,
    Code.REPLAY_DETECTED: Stage.ADMISSION,
}


def _status(error: BaseException, tool: Tool | None) -> str:
    if isinstance(error, asyncio.CancelledError | GeneratorExit | KeyboardInterrupt):
        return "cancelled"
    return "paused" if tool is not None and tool.pauses_on(error) else "error"
