"""What people were asked about a call and what they answered, as the log has it: each record, and each signature by itself.

A call that was approved stands on these records, and a bundle brings them along:

    decision    of the execution that asked: `ask`, about the same agent, tool, task, artifact and policy
    asked       the request: its id, the arguments by commitment, who must answer and until when
    answered    one for each answer: the statement that the approver signed
    used        written with the decision: the answers that counted

`read_approval` holds them against each other without knowing a value. `Approval.heard` comes to the answer again, by the same function as
the guard, from what was signed; for that the request's salt must be disclosed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from agentguard.approvals import SKEW, Approver, Question, Request, SignedAnswer, Terms, judge, read_answer
from agentguard.artifacts.chain import VerifiedChain
from agentguard.artifacts.revocation import Kind, Revocations
from agentguard.environment import NANOSECOND
from agentguard.errors import InvalidInput
from agentguard.evidence import put_to_humans, ran
from agentguard.evidence_bundle.contents import approval_of
from agentguard.keys import PublicKey
from agentguard.policy.approval import ApprovalRule
from agentguard.premises import Answer

Record: TypeAlias = Mapping[str, Any]
#: What the decision that asked and the one that was asked about have in common; what an answer repeats of it, under its own names.
_SAME: Final = ("agent", "artifact", "policy", "task", "tool")
_REPEATED: Final = {"agent": "agent", "leaf": "artifact", "policy": "policy", "task": "task", "tool": "tool"}


@dataclass(frozen=True, slots=True)
class Given:
    """One answer, whose signature holds. `time_ns` is when it was recorded, `text` the signed statement."""

    who: Approver
    text: str
    answer: SignedAnswer
    time_ns: int


@dataclass(frozen=True, slots=True)
class Approval:
    """Verified, as far as it can be without values.

    asked    what was recorded of the request; `since` and its `expires` are seconds
    answers  in the order of the log
    used     what was recorded when the call stood on it, or None
    salt     what opens the request's commitment to the arguments, or None
    """

    asked: Record
    since: int
    answers: tuple[Given, ...]
    used: Record | None
    salt: bytes | None = None

    def words(self) -> str:
        """What was asked and answered."""
        local = " (a name that only the home vouches for)"
        said = [f"{one.who.name}{local if one.who.local else ''}: {one.answer.verdict}" for one in self.answers]
        return f"request {self.asked['request']}; {'; '.join(said) or 'no answer'}{'; used by this call' if self.used is not None else ''}"

    def heard(
        self,
        given: Answer,
        question: Question,
        chain: VerifiedChain,
        agents: Sequence[str | None],
        rule: ApprovalRule,
        revocations: Revocations,
        time_ns: int,
    ) -> Answer | None:
        """What the answers come to once more, by the guard's own rule, when it was decided. Without the salt none is for these arguments.

        given  what is recorded that they came to. Of who approved those count whom it names; who denied by then counts in any case
        """
        asked, needs, initiator = self.asked, self.asked["needs"], chain.initiator
        request = Request(
            token="",  # is not kept; what it said is here, and answers name its hash
            id=asked["request"],
            digest=self.answers[-1].answer.request if self.answers else "",
            question=question,
            terms=Terms(
                None if needs["by"] is None else tuple(needs["by"]), needs["of"], asked["expires"] - self.since, needs["initiator"]
            ),
            agents=tuple([name or "" for name in agents]),
            keys=chain.keys,
            initiator={"id": initiator.id} if initiator is not None else None,
            execution=asked["execution"],
            caused_by=None,
            reason="",
            place=asked["place"],
            asked=self.since,
            expires=asked["expires"],
            salt=self.salt or b"",
        )
        stood = [one for one in self.answers if (one.text in self.used["answers"] if self.used is not None else one.who.name in given.by)]
        against = [one for one in self.answers if one.answer.verdict == "deny" and one.time_ns <= time_ns]
        counted = {one.who.key.thumbprint(): one for one in (*stood, *against)}
        trusted = {key: one.who for key, one in counted.items() if not revocations.holds(Kind.KEY, key)}
        return judge(request, {key: one.text for key, one in counted.items()}, rule, trusted, time_ns // NANOSECOND)


def read_approval(decision: Record, records: Sequence[Record], anchors: Record, keys: Mapping[str, PublicKey]) -> Approval | None:
    """What the records about an approval say together; None where there are none, and the decision names none. Raises InvalidInput.

    decision  that of the call, proven
    records   proven, in the order in which a bundle has them
    anchors   the document of whom the guard trusted
    keys      by thumbprint
    """
    charged = approval_of(decision)
    if not records:
        if charged is not None:
            raise InvalidInput(f"the call used the approval {charged}, and what was asked and answered is not there")
        return None
    by_kind: dict[str, list[Record]] = {"decision": [], "asked": [], "answered": [], "used": []}
    for record in records:
        kind = record["detail"]["action"] if record["type"] == "approval" else record["type"]
        if kind not in by_kind:
            raise InvalidInput(f"a record of the kind {kind!r:.40} has nothing to do with an approval")
        by_kind[kind].append(record)
    if len(by_kind["asked"]) != 1 or len(by_kind["used"]) != ran(decision) or len(by_kind["decision"]) > 1:
        raise InvalidInput("an approval is asked for once, and used once by a call that ran")
    asked = by_kind["asked"][0]["detail"]
    asking = by_kind["decision"][0] if by_kind["decision"] else decision
    _check_asking(decision, asking, asked)
    answers = tuple(_given(decision, record, asked, anchors, keys) for record in by_kind["answered"])
    if len({one.answer.request for one in answers}) > 1:
        raise InvalidInput("the answers are to two requests")
    used = by_kind["used"][0]["detail"] if by_kind["used"] else None
    if used is not None:
        _check_used(decision, used, asked, answers)
        if charged != asked["request"] and (charged is not None or not decision["rerun"]):  # a second run is not charged again
            raise InvalidInput("the call was charged to another approval than the one that is there")
    return Approval(asked, int(asking["time"]) // NANOSECOND, answers, used)


def _check_asking(decision: Record, asking: Record, asked: Record) -> None:
    """It asked: this call itself, or an earlier one that was the same."""
    if asking["id"] != asked["execution"] or not put_to_humans(asking):
        raise InvalidInput("the decision that asked is not there")
    for member in _SAME:
        if asking[member] != decision[member] or asked.get(member, decision[member]) != decision[member]:
            raise InvalidInput(f"what was asked is about another {member}")


def _given(decision: Record, record: Record, asked: Record, anchors: Record, keys: Mapping[str, PublicKey]) -> Given:
    """One answer, by somebody whom the guard trusted, to this request, about this call."""
    detail, name, named = record["detail"], record["by"], anchors.get("approvers")
    key = detail["key"]
    if key not in keys:
        raise InvalidInput(f"the key of {name!r:.80}, who answered, is not there")
    barred = {*anchors["agents"], *(thumbprint for _, thumbprint in anchors["anchors"])}
    if key in barred or (named is not None and named.get(key) != name):
        raise InvalidInput(f"the guard did not take the key of {name!r:.80} for that of an approver")
    answer = read_answer(detail["answer"], Approver(name, keys[key], local=named is None))
    for member, of_call in _REPEATED.items():
        if getattr(answer, member) != decision[of_call]:
            raise InvalidInput(f"the answer of {name} is for another {member}")
    if detail["request"] != asked["request"] or answer.request[:32] != asked["request"]:
        raise InvalidInput(f"the answer of {name} is to another request")
    if answer.arguments != asked["arguments"]:
        raise InvalidInput(f"the answer of {name} is for other arguments")
    if answer.by != name or answer.verdict != detail["verdict"] or answer.exp != asked["expires"]:
        raise InvalidInput(f"the answer of {name} is not what is recorded of it")
    return Given(Approver(name, keys[key], local=named is None), detail["answer"], answer, int(record["time"]))


def _check_used(decision: Record, used: Record, asked: Record, answers: Sequence[Given]) -> None:
    """What the call stood on is among the answers, and they are approvals that were good then."""
    now = int(decision["time"]) // NANOSECOND
    if used["execution"] != decision["id"] or used["request"] != asked["request"]:
        raise InvalidInput("the approval was used by another call")
    signed = {one.text: one.answer for one in answers}
    for text in used["answers"]:
        answer = signed.get(text)
        if answer is None:
            raise InvalidInput("the call stands on an answer that is not there")
        if answer.verdict != "approve" or now >= answer.exp or answer.iat > now + SKEW:
            raise InvalidInput(f"the answer of {answer.by} let nothing run then")
    if not used["answers"] or sorted({signed[text].by for text in used["answers"]}) != used["by"]:
        raise InvalidInput("the answers that were used are not of those whom the record names")
