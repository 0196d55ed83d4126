"""Attacks on the tool lock, and on what counts as the body of a tool."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentguard import Guard
from agentguard.tools.integrity import register
from support.guarded import POLICY, call, denied, records


@pytest.fixture
def guard(home: Path) -> Iterator[Guard]:
    with Guard.open(POLICY, home=home, durability="process") as opened:
        yield opened


@pytest.fixture
def ran() -> list[Any]:
    return []


def refused(guard: Guard, tool: Any, *args: Any, **kwargs: Any) -> None:
    """The tool changed after it was registered: neither a check nor a permit from before lets it run."""
    with guard.task("triage", initiator="user:alice"):
        denied("integrity_failure", tool, *args, **kwargs)


# --- what was pinned is exchanged -------------------------------------------------------------------------------------------------------


def test_code_is_exchanged(guard: Guard, ran: list[Any]) -> None:
    def echo(x: Any) -> None:
        ran.append(x)

    def evil(x: Any) -> None:
        ran.append("evil")

    guarded = guard.tool(echo)
    echo.__code__ = evil.__code__
    refused(guard, guarded, 1)
    assert ran == []


def test_code_is_exchanged_between_check_and_run(guard: Guard, ran: list[Any]) -> None:
    def echo(x: Any) -> None:
        ran.append(x)

    def evil(x: Any) -> None:
        ran.append("evil")

    guarded = guard.tool(echo)
    with guard.task("triage", initiator="user:alice"):
        permit = guard.check(call())
        echo.__code__ = evil.__code__
        denied("integrity_failure", permit.run, guarded)
    assert ran == []
    assert records(guard, "outcome")[-1]["status"] == "not_run"


def test_defaults_are_exchanged(guard: Guard) -> None:
    def pair(a: int, b: str = "safe") -> None: ...

    guarded = guard.tool(pair)
    pair.__defaults__ = ("evil",)
    refused(guard, guarded, 1)


@pytest.mark.parametrize("exchanged", [{"b": "evil"}, {}, None, {"c": 1}, {"b": "safe", "c": 1}], ids=str)
def test_keyword_defaults_are_exchanged(guard: Guard, exchanged: Any) -> None:
    def pair(a: int, *, b: Any = "safe") -> None: ...

    guarded = guard.tool(pair)
    with guard.task("triage", initiator="user:alice"):
        permit = guard.check(call("pair", {"a": 1}))
        pair.__kwdefaults__ = exchanged
        denied("integrity_failure", guarded, 1)
        denied("integrity_failure", permit.run, guarded)
    assert records(guard, "outcome")[-1]["status"] == "not_run"


def test_a_default_is_changed_in_place(guard: Guard, ran: list[Any]) -> None:
    """The guard fills in what the default was when it was registered, and that is what runs."""
    shared: dict[str, Any] = {"to": ["bob"]}

    @guard.tool(name="pair")
    def pair(a: int, b: dict[str, Any] = shared) -> None:
        ran.append(b)

    shared["to"].append("mallory")
    with guard.task("triage", initiator="user:alice"):
        pair(1)
        ran[0]["to"].append("from inside")
        pair(1)
    assert ran == [{"to": ["bob", "from inside"]}, {"to": ["bob"]}]


def test_a_closure_cell_is_exchanged(guard: Guard, ran: list[Any]) -> None:
    target = "safe"

    def echo(x: Any) -> None:
        ran.append(target)

    guarded = guard.tool(echo)
    assert echo.__closure__ is not None
    cell = next(cell for cell in echo.__closure__ if cell.cell_contents == "safe")
    cell.cell_contents = "evil"
    refused(guard, guarded, 1)
    assert ran == []


def test_the_code_of_a_function_in_a_closure_is_exchanged(guard: Guard, ran: list[Any]) -> None:
    """What every decorator does: the body is in a closure cell of the function that is registered."""

    def twice(fn: Any) -> Any:
        @functools.wraps(fn)
        def around(*args: Any, **kwargs: Any) -> Any:
            return fn(*args, **kwargs)

        return around

    def echo(x: Any) -> None:
        ran.append(x)

    def evil(x: Any) -> None:
        ran.append("evil")

    guarded = guard.tool(twice(twice(echo)))
    with guard.task("triage", initiator="user:alice"):
        guarded(1)
    echo.__code__ = evil.__code__
    refused(guard, guarded, 1)
    assert ran == [1]


def test_the_self_of_a_method_is_exchanged(guard: Guard, ran: list[Any]) -> None:
    class Service:
        def echo(self, x: Any) -> None:
            ran.append((type(self).__name__, x))

    class Other(Service):
        pass

    service = Service()
    guarded = guard.tool(service.echo)
    with guard.task("triage", initiator="user:alice"):
        permit = guard.check(call())
        denied("integrity_failure", permit.run, Service().echo)
        denied("integrity_failure", guard.check(call()).run, Service.echo)
        guarded(1)
        service.__class__ = Other  # type: ignore[assignment]  # the point of the test
        denied("integrity_failure", guarded, 1)
    assert ran == [("Service", 1)]


def test_the_call_of_a_callable_object_is_exchanged(guard: Guard, ran: list[Any]) -> None:
    class Echo:
        def __call__(self, x: Any) -> None:
            ran.append(x)

    def evil(self: Any, x: Any) -> None:
        ran.append("evil")

    guarded: Any = guard.tool(name="echo")(Echo())
    with guard.task("triage", initiator="user:alice"):
        guarded(1)
        Echo.__call__ = evil  # type: ignore[method-assign]  # the point of the test
        denied("integrity_failure", guarded, 1)
    assert ran == [1]


def _sent(account: Any, x: Any, *, box: Any) -> Any:
    return (account, x, box)


def _evil(account: Any, x: Any, *, box: Any) -> Any:
    return "evil"


@pytest.mark.parametrize(
    "exchange",
    [
        lambda part: part.keywords.update(box=[2]),
        lambda part: part.keywords.clear(),
        lambda part: part.__setstate__((_evil, part.args, part.keywords, {})),
        lambda part: part.__setstate__((_sent, ("mallory",), part.keywords, {})),
    ],
    ids=["keyword", "keywords", "function", "argument"],
)
def test_the_inside_of_a_partial_is_exchanged(guard: Guard, exchange: Any) -> None:
    part = functools.partial(_sent, "bob", box={"a", "set"})
    guarded: Any = guard.tool(name="echo")(part)
    with guard.task("triage", initiator="user:alice"):
        assert guarded(1) == ("bob", 1, {"a", "set"})
        exchange(part)
        denied("integrity_failure", guarded, 1)


def test_a_local_tool_that_calls_itself_is_not_taken_for_changed(guard: Guard) -> None:
    @guard.tool
    def echo(x: int) -> int:
        return echo(x - 1) + 1 if x else 0

    with guard.task("triage", initiator="user:alice"):
        assert echo(2) == 2
    assert len(records(guard, "decision")) == 3


# --- what a lock says --------------------------------------------------------------------------------------------------------------------


def test_partials_of_one_function_with_other_arguments_are_other_tools() -> None:
    def send(to: str, x: Any) -> None: ...

    bob, eve = (register(functools.partial(send, name), name="echo") for name in ("bob", "eve"))
    assert bob.fingerprint != eve.fingerprint
    assert bob.fingerprint == register(functools.partial(send, "bob"), name="echo").fingerprint


def test_a_borrowed_wrapped_does_not_borrow_the_fingerprint() -> None:
    """`inspect.getsource` and `inspect.signature` believe `__wrapped__`; a lock may not."""

    def honest(x: Any) -> Any:
        return x

    def evil(x: Any) -> Any:
        return ("evil", x)

    wanted = register(honest, name="echo").fingerprint
    functools.update_wrapper(evil, honest)
    assert register(evil, name="echo").fingerprint != wanted


def test_a_decorator_is_part_of_the_fingerprint() -> None:
    def body(x: Any) -> Any:
        return x

    def first(fn: Any) -> Any:
        @functools.wraps(fn)
        def around(*args: Any, **kwargs: Any) -> Any:
            return fn(*args, **kwargs)

        return around

    def second(fn: Any) -> Any:
        @functools.wraps(fn)
        def around(*args: Any, **kwargs: Any) -> Any:
            return ("evil", fn(*args, **kwargs))

        return around

    assert register(first(body)).fingerprint != register(second(body)).fingerprint
    assert register(first(body)).fingerprint == register(first(body)).fingerprint


def test_lambdas_on_one_line_are_different_tools() -> None:
    one, two = (lambda x: x), (lambda x: -x)  # fmt: skip
    assert register(one, name="echo").fingerprint != register(two, name="echo").fingerprint


def test_a_decoy_that_answers_every_attribute_does_not_hang_or_pass(guard: Guard) -> None:
    class Decoy:
        def __getattr__(self, name: str) -> Any:
            return self

        def __call__(self, x: Any) -> Any:
            return x

    decoy = Decoy()
    with guard.task("triage", initiator="user:alice"):
        guard.register(register(lambda x: x, name="echo"))
        denied("integrity_failure", guard.check(call()).run, decoy)
