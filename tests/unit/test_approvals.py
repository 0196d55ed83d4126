"""Requests and answers as values: what counts, what does not, and why (agentguard.approvals)."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentguard.approvals import (
    ANSWER_TYPE,
    MAX_ARGUMENTS,
    REQUEST_TYPE,
    SKEW,
    Approver,
    Question,
    Request,
    SignedAnswer,
    Terms,
    judge,
    make_answer,
    make_request,
    objection,
    read_request,
    weigh,
)
from agentguard.artifacts.jws import sign
from agentguard.canonical import freeze
from agentguard.errors import InvalidInput
from agentguard.keys import LocalKey
from agentguard.premises import Answer

GUARD, CAROL, DAN, ALICE, CLERK, EVE = (LocalKey.generate() for _ in range(6))
TRUST = {
    key.public.thumbprint(): Approver(name, key.public, local=False)
    for name, key in (("user:carol", CAROL), ("user:dan", DAN), ("user:alice", ALICE), ("clerk", EVE))
}
TERMS = Terms(("user:carol", "user:dan", "user:alice", "clerk"), 2, 600, False)
NOW = 1_800_000_000


def question(**changes: Any) -> Question:
    arguments = freeze({"amount": 500, "to": "bob"})
    made = Question("task-1", "leaf-1", "clerk", "send_money", arguments, None, "sha256:policy")  # type: ignore[arg-type]
    return replace(made, **changes)


def request(asked: Question | None = None, terms: Terms = TERMS, now: int = NOW, **changes: Any) -> Request:
    members: dict[str, Any] = {
        "agents": ("lead", "clerk"),
        "keys": (GUARD.public.thumbprint(), CLERK.public.thumbprint()),
        "initiator": {"id": "user:alice", "method": "asserted", "evidence": ""},
        "execution": "e1",
        "caused_by": None,
        "reason": "approval_required",
        "place": "policy.yaml:7",
        "salt": bytes(range(16)),
    }
    return make_request(GUARD, asked or question(), terms, now=now, **(members | changes))


def signed(asked: Request, key: LocalKey, name: str, verdict: Any = "approve", now: int = NOW + 5) -> dict[str, str]:
    return {key.public.thumbprint(): make_answer(asked, key, name, verdict, now=now)}


def verdict(asked: Request, *given_: dict[str, str], terms: Terms = TERMS, now: int = NOW + 10, trust: Any = TRUST) -> Answer | None:
    return judge(asked, {key: text for one in given_ for key, text in one.items()}, terms, trust, now)


def why(asked: Request, answer: dict[str, str], now: int = NOW + 10, terms: Terms = TERMS) -> str:
    ((key, text),) = answer.items()
    return weigh(asked, key, text, terms, TRUST, now).why_not


# --- requests ---------------------------------------------------------------------------------------------------------------------------


def test_a_request_says_what_was_asked_and_its_id_is_the_hash_of_that() -> None:
    asked = request()
    again = read_request(asked.token, GUARD.public)
    assert again == asked
    assert (len(asked.id), len(asked.digest), asked.digest[:32]) == (32, 64, asked.id)
    assert again.question.arguments == {"amount": 500, "to": "bob"}
    assert asked.expires == NOW + 600
    assert request(question(arguments=MappingProxyType({"amount": 501, "to": "bob"}))).id != asked.id


def test_a_question_is_the_same_for_the_same_call_only() -> None:
    same = question(arguments=freeze({"to": "bob", "amount": 500.0}))
    assert same.digest() == question().digest()
    for change in (
        {"task": "task-2"},
        {"leaf": "leaf-2"},
        {"agent": "helper"},
        {"tool": "send"},
        {"policy": "sha256:other"},
        {"arguments": freeze({"amount": 500, "to": "bob "})},
        {"arguments": freeze({"amount": "500", "to": "bob"})},
        {"followed": freeze({"amount": 500, "to": "bob"})},
        {"agent": "clerksend_", "tool": "money"},
    ):
        assert question(**change).digest() != question().digest(), change


def test_arguments_that_nobody_could_read_are_not_put_to_anybody() -> None:
    with pytest.raises(InvalidInput, match="nobody is asked about more than"):
        request(question(arguments=freeze({"x": "a" * MAX_ARGUMENTS})))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"typ": ANSWER_TYPE}, "typ must be"),
        ({"key": EVE}, "the guard of this home did not sign"),
        ({"salt": "zz"}, "salt"),
        ({"asked": "yesterday"}, "Expected `int`"),
        ({"more": 1}, "unknown field `more`"),
        ({"arguments": ["a"]}, "Expected `object`"),
    ],
)
def test_a_request_that_is_not_one_is_refused(change: dict[str, Any], message: str) -> None:
    claims = {**_claims(request()), **{name: value for name, value in change.items() if name not in ("typ", "key")}}
    text = sign(change.get("typ", REQUEST_TYPE), claims, change.get("key", GUARD))
    with pytest.raises(InvalidInput, match=message):
        read_request(text, GUARD.public)


@given(st.text(max_size=60) | st.from_regex(r"[A-Za-z0-9_-]{0,20}\.[A-Za-z0-9_-]{0,20}\.[A-Za-z0-9_-]{0,20}", fullmatch=True))
def test_nonsense_is_neither_a_request_nor_an_answer(text: str) -> None:
    with pytest.raises(InvalidInput):
        read_request(text, GUARD.public)
    asked = request()
    assert weigh(asked, CAROL.public.thumbprint(), text, TERMS, TRUST, NOW).why_not
    assert judge(asked, {CAROL.public.thumbprint(): text}, TERMS, TRUST, NOW) is None


def _claims(asked: Request) -> dict[str, Any]:
    from agentguard.artifacts.jws import Token
    from agentguard.canonical import parse

    return dict(parse(Token(asked.token).payload))  # type: ignore[arg-type]


# --- what answers come to ---------------------------------------------------------------------------------------------------------------


def test_enough_different_approvers_approve() -> None:
    asked = request()
    carol, dan = signed(asked, CAROL, "user:carol"), signed(asked, DAN, "user:dan")
    assert verdict(asked) is None
    assert verdict(asked, carol) is None
    assert verdict(asked, carol, dan) == Answer(asked.id, True, ("user:carol", "user:dan"))
    one = replace_terms(of=1)
    assert verdict(request(terms=one), signed(request(terms=one), CAROL, "user:carol"), terms=one) is not None


def replace_terms(**changes: Any) -> Terms:
    return msgspec.structs.replace(TERMS, **changes)


def test_one_denial_denies_whatever_the_others_say() -> None:
    asked = request(terms=(terms := replace_terms(of=1)))
    carol, dan = signed(asked, CAROL, "user:carol"), signed(asked, DAN, "user:dan", "deny")
    assert verdict(asked, carol, dan, terms=terms) == Answer(asked.id, False, ("user:dan",))
    assert verdict(asked, signed(asked, ALICE, "user:alice", "deny"), terms=terms) is None, (
        "of somebody who may not answer it counts for nothing"
    )


def test_nobody_counts_twice() -> None:
    asked = request()
    carol = signed(asked, CAROL, "user:carol")
    elsewhere = {EVE.public.thumbprint(): carol[CAROL.public.thumbprint()]}
    second_key = {**TRUST, EVE.public.thumbprint(): Approver("user:carol", EVE.public, local=True)}
    assert verdict(asked, carol, elsewhere) is None, "one answer filed under two keys"
    assert verdict(asked, carol, signed(asked, EVE, "user:carol"), trust=second_key) is None, "two keys of one name"
    assert "the key is bound to the name" in why(asked, signed(asked, CAROL, "user:dan")), "one key under another name"


def test_the_requester_never_answers() -> None:
    asked = request()
    assert "never by the requester" in why(asked, signed(asked, EVE, "clerk"))
    assert "never by the requester" in objection(asked, TERMS, "lead", "")
    assert "artifact of this very call" in objection(asked, TERMS, "user:carol", CLERK.public.thumbprint())
    assert "artifact of this very call" in objection(asked, TERMS, "user:carol", GUARD.public.thumbprint())


def test_the_initiator_answers_only_where_the_rule_accepts_it() -> None:
    asked = request()
    assert "is the initiator" in why(asked, signed(asked, ALICE, "user:alice"))
    accepting = replace_terms(initiator=True, of=1)
    kind = request(terms=accepting)
    assert verdict(kind, signed(kind, ALICE, "user:alice"), terms=accepting) == Answer(kind.id, True, ("user:alice",))


def test_only_those_whom_the_rule_names_answer_and_nobody_named_is_not_everybody() -> None:
    asked = request()
    assert objection(asked, replace_terms(by=("user:dan",)), "user:carol", "") == "the rule names user:dan"
    assert objection(asked, replace_terms(by=()), "user:carol", "") == "the rule names nobody"
    assert objection(asked, replace_terms(by=None), "user:carol", "") == ""


def test_an_answer_is_good_for_its_request_only() -> None:
    asked = request()
    for other in (
        request(question(arguments=freeze({"amount": 5, "to": "bob"}))),
        request(question(task="task-2")),
        request(question(leaf="leaf-2")),
        request(question(policy="sha256:other")),
        request(question(tool="send")),
        request(now=NOW + 1),
        request(salt=bytes(16)),
    ):
        answer = signed(other, CAROL, "user:carol")
        assert why(asked, answer).startswith("it is for "), other
        assert verdict(asked, answer, signed(asked, DAN, "user:dan")) is None


@pytest.mark.parametrize("member", ["agent", "arguments", "leaf", "policy", "request", "task", "tool"])
def test_every_member_that_is_signed_is_compared(member: str) -> None:
    asked = request()
    claims = _answer(asked) | {member: "another"}
    assert why(asked, {CAROL.public.thumbprint(): sign(ANSWER_TYPE, claims, CAROL)}).startswith("it is for ")


def _answer(asked: Request) -> dict[str, Any]:
    from agentguard.artifacts.jws import Token
    from agentguard.canonical import parse

    return dict(parse(Token(make_answer(asked, CAROL, "user:carol", "approve", now=NOW)).payload))  # type: ignore[arg-type]


def test_time_ends_everything_and_nobody_signs_for_the_future() -> None:
    asked = request(terms=(terms := replace_terms(of=1)))
    answer = signed(asked, CAROL, "user:carol")
    assert verdict(asked, answer, terms=terms, now=asked.expires - 1) is not None
    assert verdict(asked, answer, terms=terms, now=asked.expires) is None
    assert why(asked, answer, now=asked.expires) == "it has expired"
    early = signed(asked, CAROL, "user:carol", now=NOW - SKEW)
    assert verdict(asked, early, terms=terms, now=NOW - SKEW) is not None
    assert verdict(asked, early, terms=terms, now=NOW - SKEW - 1) is None, "a request from the future"
    assert "in the future" in why(asked, signed(asked, CAROL, "user:carol", now=NOW + 100))
    assert why(asked, signed(asked, CAROL, "user:carol", now=NOW + 10 + SKEW)) == ""
    assert "before it was asked" in why(asked, signed(asked, CAROL, "user:carol", now=NOW - SKEW - 1))
    longer = _answer(asked) | {"exp": asked.expires + 1}
    assert why(asked, {CAROL.public.thumbprint(): sign(ANSWER_TYPE, longer, CAROL)}) == "it wants to outlive its request"


def test_a_request_under_other_terms_counts_for_nothing() -> None:
    asked = request(terms=(terms := replace_terms(of=1)))
    answer = signed(asked, CAROL, "user:carol")
    assert verdict(asked, answer, terms=terms) is not None
    for other in ({"of": 2}, {"by": ("user:carol",)}, {"by": None}, {"expires": 599}, {"initiator": True}):
        assert verdict(asked, answer, terms=msgspec.structs.replace(terms, **other)) is None, other


def test_a_request_does_not_wait_for_longer_than_the_rule_says() -> None:
    terms = replace_terms(of=1)
    longer = read_request(sign(REQUEST_TYPE, _claims(request(terms=terms)) | {"expires": NOW + 601}, GUARD), GUARD.public)
    assert verdict(longer, signed(longer, CAROL, "user:carol"), terms=terms) is None


def test_a_verdict_is_one_of_two_words() -> None:
    asked = request()
    for word in ("allow", "Approve", "", 1, None):
        text = sign(ANSWER_TYPE, _answer(asked) | {"verdict": word}, CAROL)
        assert "claims" in why(asked, {CAROL.public.thumbprint(): text})


def test_a_request_is_no_answer_and_an_answer_is_no_request() -> None:
    asked = request()
    mine = Approver("user:carol", GUARD.public, local=False)
    weighed = weigh(asked, GUARD.public.thumbprint(), asked.token, TERMS, {GUARD.public.thumbprint(): mine}, NOW)
    assert weighed.why_not == f"typ must be {ANSWER_TYPE}"
    with pytest.raises(InvalidInput, match=f"typ must be {REQUEST_TYPE.replace('+', '.')}"):
        read_request(make_answer(asked, GUARD, "user:carol", "approve", now=NOW), GUARD.public)


@given(st.sets(st.sampled_from(["carol", "dan", "alice", "eve"])), st.sets(st.sampled_from(["carol", "dan"])), st.integers(0, 4))
def test_judge_counts_as_one_counts_by_hand(approving: set[str], denying: set[str], of: int) -> None:
    keys = {"carol": CAROL, "dan": DAN, "alice": ALICE, "eve": EVE}
    names = {"carol": "user:carol", "dan": "user:dan", "alice": "user:alice", "eve": "clerk"}
    asked = request(terms=(terms := replace_terms(of=of)))
    given_ = [signed(asked, keys[who], names[who]) for who in approving - denying]
    given_ += [signed(asked, keys[who], names[who], "deny") for who in denying]
    found = verdict(asked, *given_, terms=terms)
    count = len((approving - denying) & {"carol", "dan"})
    if denying:
        assert found is not None
        assert not found.granted
    elif count >= max(of, 1):
        assert found is not None
        assert found.granted
    else:
        assert found is None


def test_the_members_of_an_answer_are_those_of_the_design() -> None:
    assert set(SignedAnswer.__struct_fields__) == {
        *("agent", "arguments", "by", "exp", "iat", "leaf", "policy", "reason", "request", "task", "tool", "verdict"),
    }
