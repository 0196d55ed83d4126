"""Attacks on what is checked and what runs: bindings, JSON at its edges, subclasses, bombs, values that change under the guard's hands."""

from __future__ import annotations

import enum
import hashlib
import json
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from agentguard import Guard, ToolCall
from agentguard.canonical import MAX_DEPTH, MAX_NODES, MAX_TEXT, freeze, jcs
from agentguard.errors import InvalidInput
from support.guarded import POLICY, call, denied, leaves, records


@pytest.fixture
def guard(home: Path) -> Iterator[Guard]:
    with Guard.open(POLICY, home=home, durability="process") as opened:
        yield opened


@pytest.fixture
def ran() -> list[Any]:
    return []


# --- bindings ---------------------------------------------------------------------------------------------------------------------------

_UNSET = object()


def test_positional_arguments_are_checked(guard: Guard, ran: list[Any]) -> None:
    @guard.tool
    def mail(to: str) -> None:
        ran.append(to)

    with guard.task("triage", initiator="user:alice"):
        denied("argument_not_allowed", mail, "mallory")
        denied("argument_not_allowed", mail, to="mallory")
        denied("malformed_call", mail, "bob", "mallory")
        denied("malformed_call", mail, "bob", to="mallory")
        mail("bob")
    assert ran == ["bob"]


def test_absent_arguments_are_checked_after_defaults(guard: Guard, ran: list[Any]) -> None:
    @guard.tool
    def mail(to: str = "mallory") -> None:
        ran.append(to)

    with guard.task("triage", initiator="user:alice"):
        denied("argument_not_allowed", mail)
        denied("argument_not_allowed", guard.check, call("mail", {}))
        mail("bob")
    assert ran == ["bob"]


def test_a_named_argument_does_not_slip_into_the_place_before_it(guard: Guard, ran: list[Any]) -> None:
    """`a` keeps a default that is not JSON; `b`, given by name, must not land in `a`."""

    def limited(a: Any = _UNSET, b: int = 0, *rest: int) -> None:
        ran.append((a is _UNSET, b, rest))

    def only(a: Any = _UNSET, b: int = 0, /) -> None:
        ran.append((a, b))

    first: Any = guard.tool(limited)
    second: Any = guard.tool(name="pair")(only)
    with guard.task("triage", initiator="user:alice"):
        first(b=2)
        guard.check(call("limited", {"b": 1})).run(first)
        guard.check(call("pair", {"a": 1})).run(second)
    assert ran == [(True, 2, ()), (True, 1, ()), (1, 0)]


def test_positional_only_arguments_do_not_move_up(guard: Guard, ran: list[Any]) -> None:
    def limited(a: Any = _UNSET, b: int = 0, /) -> None:
        ran.append((a, b))

    guard.tool(limited)
    with guard.task("triage", initiator="user:alice"), pytest.raises(InvalidInput):
        guard.check(call("limited", {"b": 2})).run(limited)
    assert ran == []


@pytest.mark.parametrize("rest", ["ab", {"ab": 1}, 7, None])
def test_a_text_is_not_taken_apart_into_variadic_arguments(guard: Guard, ran: list[Any], rest: Any) -> None:
    @guard.tool
    def many(*rest: Any) -> None:
        ran.append(rest)

    with guard.task("triage", initiator="user:alice"):
        denied("malformed_call", guard.check, call("many", {"rest": rest}))
    assert ran == []


def test_injected_names_are_not_the_models_in_any_shape_of_call(guard: Guard, ran: list[Any]) -> None:
    @guard.tool(name="echo", injected=("runtime",))
    def body(runtime: Any, x: int, **more: Any) -> None:
        ran.append((runtime, x, more))

    with guard.task("triage", initiator="user:alice"):
        denied("malformed_call", guard.check, call("echo", {"x": 1, "runtime": 2}))
        denied("malformed_call", body, "forged", 1)
        body(x=1, runtime="real")
    assert ran == [("real", 1, {})]


def test_coercion_happens_before_the_check_or_not_at_all(guard: Guard, ran: list[Any]) -> None:
    """A tool gets the very types that were judged: "1" is not 1, True is not 1."""

    @guard.tool
    def limited(b: Any) -> None:
        ran.append(b)

    with guard.task("triage", initiator="user:alice"):
        for value in ("1", True, "1.0", [1], {"1": 1}, 1.5, None):
            denied("argument_not_allowed", limited, value)
        limited(1)
        limited(2.0)
    assert [type(value) for value in ran] == [int, float]


def test_names_are_ascii_and_never_folded(guard: Guard) -> None:
    with guard.task("triage", initiator="user:alice"):
        for name in ("Echo", "ECHO", "echo ", "есho", "echo\u200b", "ｅcho", "echo\x00"):
            assert guard.decide(call(name)).code in ("malformed_call", "tool_not_in_scope")
        for argument in ("X", "x ", "х", "x\u200b", "ｘ", ""):
            assert guard.decide(call("echo", {argument: 1})).code == "argument_not_in_scope"
        for value in ("BOB", "bob ", "bοb", "b\u006fb\u0301"):
            assert guard.decide(call("mail", {"to": value})).code == "argument_not_allowed"


# --- JSON at its edges ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (-0.0, "-0.0"),
        (1.0, "1.0"),
        (2**53, str(2**53)),
        (-(2**53), str(-(2**53))),
        (1e308, "1e+308"),
        (5e-324, "5e-324"),
        ("", "''"),
        ({"": {"": []}}, "{'': {'': []}}"),
        ("\U0001f600\u0000\u2028", repr("\U0001f600\u0000\u2028")),
        ([[], {}, [{}]], "[[], {}, [{}]]"),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_the_tool_gets_exactly_the_value_that_was_checked(guard: Guard, ran: list[Any], value: Any, kept: str) -> None:
    @guard.tool
    def echo(x: Any) -> None:
        ran.append(x)

    with guard.task("triage", initiator="user:alice"):
        echo(value)
    assert repr(ran[0]) == kept


@pytest.mark.parametrize(
    "value",
    [2**53 + 1, 10**400, 10**5000, float("nan"), float("inf"), -float("inf"), "\ud800", b"x", {1}, 1j, object(), ..., {1: 2}, {None: 1}],
    ids=lambda value: type(value).__name__,
)
def test_what_has_no_exact_json_form_is_no_argument(guard: Guard, value: Any) -> None:
    with guard.task("triage", initiator="user:alice"):
        denied("malformed_call", guard.check, call("echo", {"x": value}))
        denied("malformed_call", guard.check, call("echo", {"x": [{"deep": value}]}))
    assert [r["code"] for r in records(guard, "decision")] == ["malformed_call"] * 2


def test_depth_is_bounded_at_exactly_the_limit(guard: Guard, ran: list[Any]) -> None:
    @guard.tool
    def echo(x: Any) -> None:
        ran.append(x)

    def nested(levels: int) -> Any:
        value: Any = 1
        for _ in range(levels):
            value = [value]
        return value

    with guard.task("triage", initiator="user:alice"):
        echo(nested(MAX_DEPTH - 1))  # the arguments themselves are one level
        denied("malformed_call", echo, nested(MAX_DEPTH))
        denied("malformed_call", echo, nested(100_000))
    assert len(ran) == 1


def test_parts_and_text_are_bounded(guard: Guard, ran: list[Any]) -> None:
    @guard.tool
    def echo(x: Any) -> None:
        ran.append(len(x))

    with guard.task("triage", initiator="user:alice"):
        echo([0] * (MAX_NODES - 10))
        denied("malformed_call", echo, [0] * MAX_NODES)
        denied("malformed_call", echo, {str(index): 0 for index in range(MAX_NODES)})
        echo("x" * (MAX_TEXT // 2))
        denied("malformed_call", echo, "x" * (MAX_TEXT + 1))
        denied("malformed_call", echo, ["x" * (MAX_TEXT // 4)] * 5)
        denied("malformed_call", echo, {"x" * (MAX_TEXT + 1): 1})
    assert ran == [MAX_NODES - 10, MAX_TEXT // 2]
    assert max(map(len, leaves(guard).splitlines())) < 4096


def test_a_value_that_holds_itself(guard: Guard) -> None:
    loop: list[Any] = []
    loop.append(loop)
    ring: dict[str, Any] = {}
    ring["ring"] = ring
    with guard.task("triage", initiator="user:alice"):
        denied("malformed_call", guard.check, call("echo", {"x": loop}))
        denied("malformed_call", guard.check, call("echo", {"x": ring}))
        denied("malformed_call", guard.check, call("echo", ring))


def test_astral_names_are_committed_in_the_order_of_jcs_and_reach_the_tool(guard: Guard, ran: list[Any]) -> None:
    """JCS orders by UTF-16 units, others by code points: the same value would have two digests."""
    value = {"\ufb33": 1, "\U0001f600": 2, "a": 3}

    @guard.tool
    def echo(x: Any) -> None:
        ran.append(x)

    with guard.task("triage", initiator="user:alice"):
        echo(value)
    execution = records(guard, "decision")[-1]
    kept = {item.kind: item for item in guard.home.side.get(execution["id"])}["arguments"]
    assert kept.value == '{"x":{"a":3,"\U0001f600":2,"\ufb33":1}}'.encode()
    assert execution["arguments"] == "sha256:" + hashlib.sha256(kept.salt + kept.value).hexdigest()
    assert all(name.isascii() for name in execution)
    assert ran == [value]


# --- subclasses and other liars -----------------------------------------------------------------------------------------------------------


class Panic(BaseException):
    """What a native engine's panic looks like."""


def _explode(*_: Any, **__: Any) -> Any:
    raise Panic("asked")


class Text(str):
    __slots__ = ()
    __eq__ = __hash__ = __len__ = encode = isascii = __repr__ = __str__ = __format__ = _explode  # type: ignore[assignment]  # a liar


class Number(int):
    __eq__ = __hash__ = __lt__ = __index__ = __repr__ = __str__ = bit_length = _explode  # type: ignore[assignment]  # a liar


class Table(dict[str, Any]):
    items = keys = values = __iter__ = __len__ = __getitem__ = __repr__ = _explode  # type: ignore[assignment]  # a liar


class Row(list[Any]):
    __iter__ = __len__ = __getitem__ = __repr__ = _explode  # type: ignore[assignment]  # a liar


class Colour(enum.StrEnum):
    RED = "red"


LIARS: list[Any] = [Text("x"), Number(1), Table(x=1), Row([1]), Colour.RED, OrderedDict(x=1), type("Any", (), {"__repr__": _explode})()]


@pytest.mark.parametrize("liar", LIARS, ids=lambda liar: type(liar).__name__)
def test_subclasses_are_not_asked_anything(guard: Guard, liar: Any) -> None:
    with guard.task("triage", initiator="user:alice"):
        denied("malformed_call", guard.check, call("echo", {"x": liar}))
        denied("malformed_call", guard.check, call("echo", {"x": [{"y": liar}]}))
        denied("malformed_call", guard.check, ToolCall("triage", "echo", {"x": 1}, call_id=liar))
        denied("malformed_call", guard.check, ToolCall("triage", "echo", {"x": 1}, proof=liar))
        denied("malformed_call", guard.check, ToolCall(liar, "echo", {"x": 1}))
        denied("malformed_call", guard.check, ToolCall("triage", liar, {"x": 1}))
        denied("malformed_call", guard.check, liar)
        if type(liar) is not OrderedDict:
            denied("malformed_call", guard.check, ToolCall("triage", "echo", liar))
    assert {r["verdict"] for r in records(guard, "decision")} == {"deny"}


def test_keys_that_explode(guard: Guard) -> None:
    class Key(str):
        __slots__ = ()
        armed = False

        def __hash__(self) -> int:
            return super().__hash__()

        def __eq__(self, other: object) -> bool:
            if Key.armed:
                raise Panic
            return super().__eq__(other)

    arguments: dict[Any, Any] = {Key("x"): 1}
    Key.armed = True
    with guard.task("triage", initiator="user:alice"):
        denied("malformed_call", guard.check, call("echo", arguments))
        denied("malformed_call", guard.check, call("echo", MappingProxyType({"x": arguments})))


def test_arguments_changed_by_another_thread_while_they_are_read(guard: Guard) -> None:
    """Whatever is read, one copy is checked and that copy runs."""

    @guard.tool
    def echo(x: Any) -> Any:
        return json.dumps(x, sort_keys=True)

    shared: dict[str, Any] = {"a": [1] * 50, "b": {str(index): index for index in range(50)}}
    stop = threading.Event()

    def mutate() -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            shared["b"][f"n{turn % 60}"] = turn
            shared["b"].pop(f"n{(turn + 30) % 60}", None)
            shared["a"] = [turn] * (turn % 60)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=mutate)
    thread.start()
    try:
        with guard.task("triage", initiator="user:alice"):
            for _ in range(300):
                permit = guard.check(call("echo", {"x": shared}))
                assert permit.run(echo) == json.dumps(permit.arguments["x"], sort_keys=True)
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)


def test_a_list_that_grows_while_it_is_copied_ends(guard: Guard) -> None:
    growing: list[Any] = [1]
    stop = threading.Event()

    def grow() -> None:
        while not stop.is_set() and len(growing) < 3_000_000:
            growing.append(1)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=grow)
    thread.start()
    try:
        for _ in range(50):
            try:
                assert len(freeze(growing)) <= MAX_NODES
            except InvalidInput:
                break
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)


def test_equal_under_jcs_is_not_the_same_bytes_for_another_permit(guard: Guard, ran: list[Any]) -> None:
    """1 and 1.0 are equal; a permit lent for 1 runs with 1, whatever spelling the wrapper was called with."""

    @guard.tool
    def echo(x: Any) -> None:
        ran.append(repr(x))

    with guard.task("triage", initiator="user:alice"), guard.check(call("echo", {"x": 1})).lend():
        echo(1.0)
        echo(True)
    assert ran == ["1", "True"]
    assert jcs(1.0) == jcs(1) != jcs(True)


def test_no_decision_depends_on_how_long_it_takes(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under load a decision is slow; slow is not denied (PITFALLS, "Biscuit time limit")."""
    judge = type(guard.policy).judge

    def slowly(self: Any, *args: Any) -> Any:
        time.sleep(0.3)
        return judge(self, *args)

    monkeypatch.setattr(type(guard.policy), "judge", slowly)
    with guard.task("triage", initiator="user:alice"):
        assert guard.check(call()).decision.allowed
