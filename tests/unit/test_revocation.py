"""The value of what is revoked: folding a history, and asking it about a chain."""

from __future__ import annotations

import pytest

from agentguard.artifacts.revocation import KINDS, Action, Event, Kind, Revocations, parse_target
from agentguard.errors import InvalidInput

LINKS = ("a" * 64, "b" * 64, "c" * 64)
KEYS = ("issuer", "holder-0", "holder-1", "holder-2")
AGENTS = ("triage", "summarizer", "reader")
CHAIN = {"links": LINKS, "keys": KEYS, "agents": AGENTS, "task": "t1", "initiator": "user:alice"}


def event(kind: Kind, value: str = "", action: Action = Action.REVOKE, *, reason: str = "") -> Event:
    return Event(action, kind, value, "ops", reason, 1, f"{action}-{kind}-{value}")


def test_nothing_revoked_matches_nothing() -> None:
    assert Revocations().match(**CHAIN) is None
    assert not Revocations().active


@pytest.mark.parametrize(
    ("kind", "value", "link"),
    [
        (Kind.ALL, "", None),
        (Kind.INITIATOR, "user:alice", None),
        (Kind.TASK, "t1", None),
        (Kind.AGENT, "triage", 0),
        (Kind.AGENT, "summarizer", 1),
        (Kind.KEY, "issuer", 0),
        (Kind.KEY, "holder-0", 0),
        (Kind.KEY, "holder-2", 2),
        (Kind.LINK, LINKS[0], 0),
        (Kind.LINK, LINKS[2], 2),
    ],
)
def test_every_kind_is_found_anywhere_in_the_chain(kind: Kind, value: str, link: int | None) -> None:
    found = Revocations.fold(1, [event(kind, value)]).match(**CHAIN)
    assert found is not None
    assert (found.kind, found.value, found.link) == (kind, value, link)


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.ALL])
def test_a_value_counts_only_for_its_own_kind(kind: Kind) -> None:
    values = {Kind.INITIATOR: "t1", Kind.TASK: "user:alice", Kind.AGENT: "issuer", Kind.KEY: "triage", Kind.LINK: "t1"}
    assert Revocations.fold(1, [event(kind, values[kind])]).match(**CHAIN) is None


def test_a_plain_chain_has_neither_task_nor_initiator() -> None:
    revoked = Revocations.fold(1, [event(Kind.TASK, "None"), event(Kind.INITIATOR, "None")])
    assert revoked.match(links=LINKS, keys=KEYS) is None


def test_a_revocation_holds_until_it_is_lifted_and_again_after_it_is_renewed() -> None:
    history = [event(Kind.AGENT, "triage"), event(Kind.AGENT, "triage", Action.LIFT), event(Kind.AGENT, "triage")]
    assert [Revocations.fold(n, history[:n]).holds(Kind.AGENT, "triage") for n in range(4)] == [False, True, False, True]
    assert not Revocations.fold(2, history[:2]).active, "what is lifted leaves nothing to look through"


def test_lifting_all_leaves_the_single_ones() -> None:
    history = [event(Kind.TASK, "t1"), event(Kind.ALL), event(Kind.ALL, "", Action.LIFT)]
    found = Revocations.fold(3, history).match(**CHAIN)
    assert found is not None
    assert found.kind is Kind.TASK


def test_the_widest_reason_is_told_first_and_says_who_and_why() -> None:
    history = [event(Kind.LINK, LINKS[0]), event(Kind.AGENT, "triage", reason="it leaked"), event(Kind.ALL, reason="incident 7")]
    found = Revocations.fold(3, history).match(**CHAIN)
    assert found is not None
    assert found.describe() == "everything was revoked by ops: incident 7"
    found = Revocations.fold(2, history[:2]).match(**CHAIN)
    assert found is not None
    assert found.describe() == "the agent triage was revoked by ops: it leaked"


def test_a_snapshot_cannot_be_changed() -> None:
    snapshot = Revocations.fold(1, [event(Kind.AGENT, "triage")])
    with pytest.raises(TypeError):
        snapshot.active[Kind.AGENT]["reader"] = event(Kind.AGENT, "reader")  # type: ignore[index]


def test_targets_are_parsed_strictly() -> None:
    assert parse_target("agent", "triage") == (Kind.AGENT, "triage")
    assert parse_target("all", "") == parse_target("all", "all") == (Kind.ALL, "")
    assert parse_target("initiator", "\u202euser") == (Kind.INITIATOR, "\u202euser"), "a foreign issuer may have written anything"
    assert set(KINDS) == {"all", "initiator", "task", "agent", "key", "link"}


@pytest.mark.parametrize(
    ("kind", "value", "says"),
    [
        ("everything", "", "one of all"),
        ("Agent", "triage", "one of all"),
        (7, "x", "must be text"),
        ("agent", "", "revokes nothing"),
        ("agent", None, "must be text"),
        ("all", "triage", "takes no value"),
        ("task", "\ud800", "surrogate"),
        ("task", "x" * 5000, "too long"),
    ],
)
def test_a_target_that_names_nothing_is_refused(kind: object, value: object, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        parse_target(kind, value)
