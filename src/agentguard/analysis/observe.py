"""What does an agent call? A trace of what its tools were given, written before anything is guarded (`agentguard observe`).

    with observing("trace.jsonl", agent="triage") as watch:
        tools = watch.watch([read_ticket, send_email])
        agent = create_agent(model, tools)

Nothing is judged and nothing is refused here: this is how a program runs without a guard, and it is called `UnsafeObservation` so that
nobody takes it for one. The trace holds the arguments in clear; it is made for its owner alone (mode 0600).
"""

from __future__ import annotations

import functools
import inspect
import os
import re
import stat
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

from agentguard.canonical import Frozen, freeze, jcs
from agentguard.errors import InvalidInput
from agentguard.notice import say
from agentguard.tools.parameters import Parameters

__all__ = ["UnsafeObservation", "observing"]

_NAME: Final = re.compile(r"[!-~]{1,256}")
_Fn = TypeVar("_Fn", bound=Callable[..., Any])


class UnsafeObservation:
    """Writes a line for each call of an observed tool that ends well. UNSAFE: what is observed runs unguarded.

    recorded  lines written
    unfit     calls whose arguments are not JSON, and so not recorded
    lost      calls that could not be written down; the tool ran all the same
    """

    def __init__(self, path: str | Path, *, agent: str) -> None:
        """Append to the file at `path`. Raises InvalidInput for a file that others may read, and for one that cannot be written."""
        self.agent = _named("agent", agent)
        self.path = Path(path)
        self.recorded = self.unfit = self.lost = 0
        self._lock = threading.Lock()
        self._file: int | None = _open(self.path)
        say("UNSAFE observation: calls are recorded and nothing is guarded", file=str(self.path))

    def __enter__(self) -> UnsafeObservation:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Record no more. What was observed goes on as it would have without."""
        with self._lock:
            file, self._file = self._file, None
        if file is not None:
            os.close(file)
            if self.unfit or self.lost:
                say("UNSAFE observation: calls are missing in the trace", not_json=self.unfit, not_written=self.lost)

    def observed(self, fn: _Fn, *, name: str | None = None, agent: str | None = None) -> _Fn:
        """A function that does what `fn` does, and whose calls are recorded. Plain or async; not a generator, whose end nobody sees.

        The arguments are those that a guard would judge: by name, with the defaults filled in.
        """
        parameters = Parameters.of(fn, frozenset())
        return self._wrapped(fn, parameters, _named("tool", name or getattr(fn, "__name__", "")), agent)

    def watch(self, tools: Iterable[Any], *, agent: str | None = None) -> list[Any]:
        """The same tools, observed: functions, and LangChain tools that are made from a function. Raises InvalidInput for others."""
        return [self._tool(tool, agent) for tool in tools]

    # --- how -------------------------------------------------------------------------------------------------------------------------

    def _tool(self, tool: Any, agent: str | None) -> Any:
        """A LangChain tool is known by its parts, since nothing here may import a framework."""
        ways: dict[str, Callable[..., Any]] = {way: fn for way in ("func", "coroutine") if callable(fn := getattr(tool, way, None))}
        copy = getattr(tool, "model_copy", None)
        if not ways or copy is None:
            if inspect.isroutine(tool):
                return self.observed(tool, agent=agent)
            raise InvalidInput(f"{tool!r:.80} cannot be observed", hint="give functions, or LangChain tools made from functions")
        name, shown = _named("tool", tool.name), frozenset(tool.args)
        twins: dict[str, Any] = {}
        for way, fn in ways.items():
            parameters = Parameters.of(fn, frozenset(inspect.signature(fn).parameters) - shown)  # what a framework fills in
            if not shown <= parameters.names and not parameters.var_keyword:
                raise InvalidInput(f"the schema of {name!r} names other arguments than its function", hint="observe the function instead")
            twins[way] = self._wrapped(fn, parameters, name, agent)
        return copy(update=twins)

    def _wrapped(self, fn: _Fn, parameters: Parameters, name: str, agent: str | None) -> _Fn:
        who = self.agent if agent is None else _named("agent", agent)
        if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
            raise InvalidInput(f"{name!r} is a generator, whose end is not seen")

        async def ended(awaitable: Any, line: bytes | None) -> Any:
            result = await awaitable
            self._record(line)
            return result

        @functools.wraps(fn)
        async def coroutine(*args: Any, **kwargs: Any) -> Any:
            return await ended(fn(*args, **kwargs), self._line(who, name, parameters, args, kwargs))

        @functools.wraps(fn)
        def function(*args: Any, **kwargs: Any) -> Any:
            line = self._line(who, name, parameters, args, kwargs)
            result = fn(*args, **kwargs)
            if inspect.isawaitable(result):
                return ended(result, line)
            self._record(line)
            return result

        twin: Any = coroutine if inspect.iscoroutinefunction(fn) else function
        return twin  # type: ignore[no-any-return]  # it takes what `fn` takes and gives what that gives

    def _line(self, agent: str, tool: str, parameters: Parameters, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes | None:
        """The call as a line, before the tool may change what it was given; None where it has no such form."""
        if self._file is None:
            return None
        try:
            presented = parameters.present(args, kwargs)
            known: dict[str, Any] = {name: value for name, value in presented.items() if name in parameters.names or parameters.var_keyword}
            bound: Frozen = parameters.bind(freeze(known))
            return jcs({"agent": agent, "arguments": bound, "tool": tool, "verdict": "allow"}) + b"\n"
        except (InvalidInput, RuntimeError):  # not JSON, or changed meanwhile by another thread
            with self._lock:
                self.unfit += 1
            return None

    def _record(self, line: bytes | None) -> None:
        """Append one line. The agent is not to notice: what cannot be written is counted, not raised."""
        if line is None:
            return
        with self._lock:
            if self._file is None:
                return
            try:
                _write(self._file, line)
                self.recorded += 1
            except OSError as error:
                self.lost += 1
                if self.lost == 1:
                    say("UNSAFE observation: a call could not be written", file=str(self.path), error=error.strerror)


def observing(path: str | Path, *, agent: str) -> UnsafeObservation:
    """Observe tools and append what they are called with to a file of JSON lines, for `agentguard policy learn --trace`.

    agent  who calls, unless `observed` and `watch` say otherwise

    UNSAFE: nothing is guarded.
    """
    return UnsafeObservation(path, agent=agent)


def _named(what: str, name: Any) -> str:
    if type(name) is not str or _NAME.fullmatch(name) is None:
        raise InvalidInput(f"the {what} name must be 1 to 256 printable ASCII characters without spaces, found {name!r:.60}")
    return name


def _open(path: Path) -> int:
    """The file for appending, a torn last line ended. Raises InvalidInput."""
    try:
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    except OSError as error:
        raise InvalidInput(f"cannot be written: {error.strerror}", place=str(path)) from None
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise InvalidInput("is not a regular file", place=str(path))
        if found.st_mode & 0o077 or found.st_uid != os.geteuid():
            raise InvalidInput("others may read or write it, and a trace holds arguments in clear", place=str(path), hint="chmod 600")
        if found.st_size and os.pread(file, 1, found.st_size - 1) != b"\n":
            _write(file, b"\n")
    except OSError as error:
        os.close(file)
        raise InvalidInput(f"cannot be written: {error.strerror}", place=str(path)) from None
    except InvalidInput:
        os.close(file)
        raise
    return file


def _write(file: int, data: bytes) -> None:
    """All of it, in one write wherever the system can."""
    while data:
        data = data[os.write(file, data) :]
