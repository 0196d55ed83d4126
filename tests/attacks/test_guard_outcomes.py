"""Attacks on what is kept: outputs and errors that defy recording, and a memory that could be made to grow."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentguard import Denied, Guard, OutcomeUnrecorded, ToolCall
from agentguard import call as calls
from agentguard.context import current_execution
from agentguard.tools.integrity import commitment_bytes
from support.guarded import POLICY, call, records


@pytest.fixture
def guard(home: Path) -> Iterator[Guard]:
    with Guard.open(POLICY, home=home, durability="process") as opened:
        yield opened


class Unprintable(Exception):
    """Whoever looks at it breaks."""

    def __str__(self) -> str:
        raise KeyError("looked at")

    __repr__ = __str__


class Panic(BaseException):
    """What a native engine's panic looks like."""

    def __str__(self) -> str:
        raise Panic


# --- outputs and outcomes ----------------------------------------------------------------------------------------------------------------


class Odd:
    def __getattribute__(self, name: str) -> Any:
        raise Panic

    __repr__ = __str__ = __eq__ = __hash__ = __len__ = __iter__ = lambda *_: 1 / 0  # type: ignore[assignment]  # an odd one


class OddText(str):
    __slots__ = ()
    __str__ = __repr__ = encode = lambda *_: 1 / 0  # type: ignore[assignment]  # an odd one


def _ring() -> Any:
    ring: list[Any] = []
    ring.append({"ring": ring})
    return ring


def _deep() -> Any:
    value: Any = []
    for _ in range(100_000):
        value = [value]
    return value


OUTPUTS: list[Any] = [
    Odd,
    OddText,
    _ring,
    _deep,
    lambda: 10**5000,
    lambda: float("nan"),
    lambda: "\ud800",
    lambda: {"\ud800": 1},
    lambda: {1: 2},
    lambda: b"bytes",
    lambda: type("T", (), {"__module__": "\ud800"})(),
    lambda: type("x" * 100_000, (), {})(),
    lambda: map(str, [1]),
    lambda: "x" * 20_000_000,
]


@pytest.mark.parametrize("make", OUTPUTS, ids=range(len(OUTPUTS)))
def test_any_output_has_an_outcome_and_poisons_nothing(guard: Guard, make: Any) -> None:
    @guard.tool
    def echo(x: Any) -> Any:
        return make()

    @guard.tool
    def stream(n: int) -> Iterator[Any]:
        yield make()

    with guard.task("triage", initiator="user:alice"):
        echo(1)
        for _ in stream(1):
            pass
        echo(1)
    assert [r["status"] for r in records(guard, "outcome")] == ["ok"] * 3


ERRORS: list[Any] = [
    Unprintable,
    Panic,
    lambda: type("E", (Exception,), {"__module__": "\ud800"})(),
    lambda: type("E", (Exception,), {"__module__": None})(),
    lambda: type("x" * 100_000, (Exception,), {})(),
    lambda: ExceptionGroup("\ud800", [Unprintable()]),
    RecursionError,
    MemoryError,
]


@pytest.mark.parametrize("make", ERRORS, ids=range(len(ERRORS)))
def test_any_error_has_an_outcome_and_poisons_nothing(guard: Guard, make: Any) -> None:
    @guard.tool
    def echo(x: Any) -> Any:
        raise make()

    with guard.task("triage", initiator="user:alice"):
        for _ in range(2):
            with pytest.raises(BaseException) as caught:
                echo(1)
            assert not isinstance(caught.value, OutcomeUnrecorded | Denied)
    assert [r["status"] for r in records(guard, "outcome")] == ["error"] * 2


def test_an_output_that_another_thread_changes_has_an_outcome() -> None:
    shared: dict[str, Any] = {str(index): [index] for index in range(200)}
    stop = threading.Event()

    def mutate() -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            shared.pop(str(turn % 200), None)
            shared[str((turn + 100) % 200)] = [turn]

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=mutate)
    thread.start()
    try:
        for _ in range(500):
            commitment_bytes(shared)
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)


# --- ends in odd places ------------------------------------------------------------------------------------------------------------------


async def test_an_outcome_is_recorded_though_the_body_ends_in_another_context(guard: Guard) -> None:
    """Some drivers send into one coroutine from several contexts."""

    @guard.tool
    async def echo(x: Any) -> Any:
        await asyncio.sleep(0)
        return x

    with guard.task("triage", initiator="user:alice"):
        running = echo(1)
        contextvars.copy_context().run(running.send, None)
        with pytest.raises(StopIteration) as stop:
            contextvars.copy_context().run(running.send, None)
    assert stop.value.value == 1
    assert records(guard, "outcome")[-1]["status"] == "ok"
    assert current_execution.get() is None


def test_a_stream_that_fails_while_it_is_closed_has_an_outcome(guard: Guard) -> None:
    @guard.tool
    def stream(n: int) -> Iterator[int]:
        try:
            yield n
        finally:
            raise ValueError("while closing")

    with guard.task("triage", initiator="user:alice"):
        source: Any = stream(1)
        next(source)
        with pytest.raises(ValueError, match="while closing"):
            source.close()
    assert records(guard, "outcome")[-1]["status"] in ("cancelled", "error")


async def test_an_async_stream_that_fails_while_it_is_closed_has_an_outcome(guard: Guard) -> None:
    @guard.tool
    async def stream(n: int) -> Any:
        try:
            yield n
        finally:
            raise ValueError("while closing")

    async with guard.task("triage", initiator="user:alice"):
        source: Any = stream(1)
        await anext(source)
        with pytest.raises(ValueError, match="while closing"):
            await source.aclose()
    assert records(guard, "outcome")[-1]["status"] in ("cancelled", "error")


async def test_an_outcome_is_recorded_when_the_executor_is_gone(home: Path) -> None:
    """In `fsync` durability an executor writes; a loop that is shutting down has none any more."""
    with Guard.open(POLICY, home=home) as guard:

        @guard.tool
        async def echo(x: Any) -> Any:
            await asyncio.get_running_loop().shutdown_default_executor()
            return x

        async with guard.task("triage", initiator="user:alice"):
            assert await echo(1) == 1
            assert records(guard, "outcome")[-1]["status"] == "ok"
            assert await echo(2) == 2
        assert [r["status"] for r in records(guard, "outcome")] == ["ok", "ok"]


def test_fsync_durability_without_an_asyncio_loop(home: Path) -> None:
    """Another event loop drives the coroutine: there is no executor to write in."""
    with Guard.open(POLICY, home=home) as guard:

        @guard.tool
        async def echo(x: Any) -> Any:
            return x

        with guard.task("triage", initiator="user:alice"), pytest.raises(StopIteration) as stop:
            echo(1).send(None)
        assert stop.value.value == 1
        assert [r["status"] for r in records(guard, "outcome")] == ["ok"]


@pytest.mark.parametrize("error", [Panic("x"), SystemExit(1), KeyboardInterrupt(), GeneratorExit()], ids=lambda e: type(e).__name__)
def test_whatever_a_body_raises_has_an_outcome(guard: Guard, error: BaseException) -> None:
    @guard.tool
    def echo(x: Any) -> None:
        raise error

    with guard.task("triage", initiator="user:alice"), pytest.raises(type(error)):
        echo(1)
    assert records(guard, "outcome")[-1]["status"] in ("error", "cancelled")


# --- memory ------------------------------------------------------------------------------------------------------------------------------


def _sizes(guard: Guard) -> dict[str, int]:
    """Every container that hangs on the guard, by the way to it."""
    found: dict[str, int] = {}
    todo: list[tuple[str, Any]] = [("guard", guard)]
    seen: set[int] = set()
    while todo:
        name, value = todo.pop()
        if id(value) in seen or len(name) > 160:
            continue
        seen.add(id(value))
        if isinstance(value, dict | set | list | frozenset):
            found[name] = len(value)
        parts: dict[str, Any] = dict(getattr(value, "__dict__", {})) if not isinstance(value, type) else {}
        for kind in type(value).__mro__:
            for slot in getattr(kind, "__slots__", ()) if type(value).__module__.startswith("agentguard") else ():
                if hasattr(value, slot):
                    parts[slot] = getattr(value, slot)
        if type(value).__module__.startswith("agentguard"):
            todo += [(f"{name}.{part}", item) for part, item in parts.items()]
    return found


def test_what_a_guard_remembers_is_bounded(guard: Guard) -> None:
    """Distinct names, ids, values and lengths by the thousands, under one task: nothing grows with them."""
    with guard.task("triage", initiator="user:alice") as task:
        guard.check(call()).release()
        before = _sizes(guard)
        for index in range(6000):
            with pytest.raises(Denied):
                guard.check(ToolCall("triage", f"tool-{index}", {f"x{index}": index}, call_id=f"id-{index}"))
            if index % 6 == 0:
                ToolCall(f"agent-{index}", "t" * 100_000 + str(index), {})
                guard.check(call(call_id=f"call-{index}")).run(lambda x: x)
        assert task.memo is not None
        assert len(task.memo.forms) <= 256
        after = _sizes(guard)
    grown = {name: (before.get(name, 0), size) for name, size in after.items() if size > before.get(name, 0) + 4200}
    assert not grown
    assert calls._is_name.cache_info().maxsize == 4096


def test_names_that_are_too_long_are_not_remembered() -> None:
    calls._is_name.cache_clear()
    for index in range(100):
        assert ToolCall("triage", "t" * 1_000_000 + str(index), {}).defect
        assert ToolCall("a" * 1_000_000 + str(index), "t", {}).defect
    assert calls._is_name.cache_info().currsize <= 1


def test_the_constructor_of_a_call_never_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Any) -> Any:
        raise RuntimeError("dictionary changed size during iteration")

    monkeypatch.setattr(calls, "freeze", broken)
    assert ToolCall("a", "t", {"x": 1}).defect
