"""What a decision stands on cannot be changed once it is made, and carries nothing beside its fields."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import pytest

from agentguard.admission import Account, Charge, Meter, Need, counter_expiry
from agentguard.artifacts.chain import Limits
from agentguard.artifacts.revocation import Revocations
from agentguard.call import ToolCall
from agentguard.canonical import freeze
from agentguard.decide import decide_rules
from agentguard.policy import load
from agentguard.policy.approval import ApprovalRule
from agentguard.policy.budgets import Budget, Window
from agentguard.policy.forbid import Forbid
from agentguard.policy.hours import parse_hours
from agentguard.policy.sequences import SequenceRule, watch
from agentguard.policy.standing import HoursRule, Shadow, Standing
from agentguard.premises import Answer, Binding, Facts, Grant, Terms, Usage
from support.artifacts import chain_of


def values() -> list[Any]:
    """One of each, made anew."""
    rule = SequenceRule("at_most", ("mail",), (), 2, None, "p:1:1")
    watched = watch("clerk", "mail", [rule])
    assert watched is not None
    hours = parse_hours({"days": ["mon"], "from": "09:00", "to": "17:00", "zone": "UTC"})
    return [
        Charge("k", 5, "n"),
        Need("k", 1),
        Meter("k", ("usage",), 5),
        Account("t", "clerk", (), 7),
        Window(60, sliding=False),
        Budget(5, "b", "p"),
        rule,
        watched,
        watched.checks[0],
        Forbid("send", "clerk", "", "p"),
        HoursRule(hours, None, "p"),
        Shadow(5, None, "p"),
        Standing((), (), watched, ()),
        Grant(),
        Binding(freeze({"x": 1})),
        Terms("bundle", 0, 1),
        Facts({}, Revocations(), Limits()),
        Answer("r", granted=True),
        Usage(),
        ApprovalRule(("user:carol",), 1, 3600, initiator=False, place="p:1:1"),
        chain_of(1),
    ]


NAMES = [type(value).__name__ for value in values()]


def one_of(name: str) -> Any:
    return next(value for value in values() if type(value).__name__ == name)


@pytest.mark.parametrize("name", NAMES)
def test_no_field_can_be_changed_and_none_added(name: str) -> None:
    """A reload, another thread or a hook must not move what a running check was judged by."""
    value = one_of(name)
    fields = msgspec.structs.fields(value) if isinstance(value, msgspec.Struct) else dataclasses.fields(value)
    assert fields
    for field in fields:
        with pytest.raises(AttributeError):
            setattr(value, field.name, getattr(value, field.name))
    assert not hasattr(value, "__dict__")


@pytest.mark.parametrize("name", ["Account", "Watch", "Forbid"])
def test_what_is_worked_out_cannot_be_given(name: str) -> None:
    value = one_of(name)
    assert any(not field.init for field in dataclasses.fields(value))
    for field in dataclasses.fields(value):
        if not field.init:
            given = {other.name: getattr(value, other.name) for other in dataclasses.fields(value) if other.init}
            with pytest.raises(TypeError, match="unexpected keyword"):
                type(value)(**given, **{field.name: None})


def test_values_are_equal_by_what_was_said() -> None:
    rules = ("send*", "clerk", "", "p", 3, 9)
    assert Forbid(*rules) == Forbid(*rules) != Forbid("send", *rules[1:])
    assert repr(Forbid(*rules)) == "Forbid(tool='send*', agent='clerk', reason='', place='p', order=3, until=9)"
    charges = (Charge("k", 5, "n"),)
    assert Account("t", "clerk", charges, 7) == Account("t", "clerk", charges, 7) != Account("t", "clerk", charges, 8)
    assert repr(Account("t", "clerk", (), 7)) == "Account(task='t', agent='clerk', charges=(), expires=7, needs=(), earned=(), meters=())"


def test_chains_are_the_same_only_as_objects() -> None:
    one = chain_of(1)
    assert one == one
    assert one != dataclasses.replace(one)


def test_defaults_are_the_narrow_ones() -> None:
    assert Grant() == Grant(present=False, chain=None, error=None, agents=(), possessed=False)
    assert Binding({}) == Binding({}, "", "", False, None)
    assert (Forbid("a", None, "", "p").order, Forbid("a", None, "", "p").until) == (0, None)
    assert (Charge("k", 1, "n").amount, Need("k", 1).high) == (1, 2**53)
    assert (Budget(1, "b", "p").per, Budget(1, "b", "p").reserve) == ("task", 0)


def test_numbers_end_where_a_double_and_json_carry_them_exactly() -> None:
    assert counter_expiry("shared/k~0", 3) == Need("k", 0).high == 2**53


def test_without_a_time_no_shadow_is_in_force() -> None:
    """Not even one that ends at the last second that can be written."""
    policy = load("""
agentguard: 1
name: trial
agents: {a: {tools: {wipe: {x: any}}}}
forbid: [{tool: wipe, reason: soon, unsafe_shadow: {until: "9999-12-31T23:59:59Z"}}]
""")
    call = ToolCall("a", "wipe", {"x": 1})
    unknown, known = (decide_rules(call, Binding(call.arguments), policy, now) for now in (None, 0))
    assert (unknown.allowed, unknown.enforced) == (False, True)
    assert (known.allowed, known.enforced) == (False, False)
