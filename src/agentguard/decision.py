"""What a check comes to: verdict, code, stage and typed reasons (DESIGN §7).

The enums are complete from the start. A stage that is not built yet is listed in `NOT_BUILT`, and `agentguard doctor` says so.
"""

from __future__ import annotations

import html
from enum import IntEnum, StrEnum
from typing import Any

import msgspec


class Verdict(StrEnum):
    ALLOW = "allow"
    ASK = "ask"
    DENY = "deny"


class Stage(IntEnum):
    """The stages in the order in which they are judged; the first that fails ends the decision."""

    CALL = 0
    PRESENCE = 1
    CHAIN = 2
    TIME = 3
    REVOCATION = 4
    ENVIRONMENT = 5
    POLICY_DIGEST = 6
    INTEGRITY = 7
    SCOPE = 8
    PROOF = 9
    POLICY = 10
    PROVENANCE = 11
    APPROVAL = 12
    ADMISSION = 13
    EVIDENCE = 14


class Code(StrEnum):
    MALFORMED_CALL = "malformed_call"
    ARTIFACT_MISSING = "artifact_missing"
    ARTIFACT_MALFORMED = "artifact_malformed"
    SIGNATURE_INVALID = "signature_invalid"
    ISSUER_UNTRUSTED = "issuer_untrusted"
    DELEGATION_INVALID = "delegation_invalid"
    ARTIFACT_NOT_YET_VALID = "artifact_not_yet_valid"
    ARTIFACT_EXPIRED = "artifact_expired"
    CLOCK_UNRELIABLE = "clock_unreliable"
    ARTIFACT_REVOKED = "artifact_revoked"
    REVOCATION_STALE = "revocation_stale"
    ENVIRONMENT_MISMATCH = "environment_mismatch"
    POLICY_MISMATCH = "policy_mismatch"
    INTEGRITY_FAILURE = "integrity_failure"
    TOOL_NOT_IN_SCOPE = "tool_not_in_scope"
    ARGUMENT_NOT_IN_SCOPE = "argument_not_in_scope"
    AUDIENCE_MISMATCH = "audience_mismatch"
    PROOF_MISSING = "proof_missing"
    PROOF_INVALID = "proof_invalid"
    AGENT_UNKNOWN = "agent_unknown"
    DELEGATION_NOT_ALLOWED = "delegation_not_allowed"
    TOOL_NOT_ALLOWED = "tool_not_allowed"
    ARGUMENT_NOT_ALLOWED = "argument_not_allowed"
    SEQUENCE_VIOLATION = "sequence_violation"
    PROVENANCE_UNTRUSTED = "provenance_untrusted"
    APPROVAL_REQUIRED = "approval_required"
    APPROVAL_DENIED = "approval_denied"
    REPLAY_DETECTED = "replay_detected"
    BUDGET_EXHAUSTED = "budget_exhausted"
    STATE_UNAVAILABLE = "state_unavailable"
    EVIDENCE_UNAVAILABLE = "evidence_unavailable"
    GUARD_ERROR = "guard_error"


#: What each stage cannot do yet. `doctor` prints it; nothing reads it to decide.
NOT_BUILT: dict[Stage, str] = {
    Stage.PROVENANCE: "provenance of values (provenance_untrusted)",
}

_MODEL_SENTENCES: dict[Code, str] = {
    Code.ARGUMENT_NOT_ALLOWED: "The argument {subject} is outside what the policy allows for this tool.",
    Code.ARGUMENT_NOT_IN_SCOPE: "The argument {subject} is outside the scope granted for this task.",
    Code.TOOL_NOT_ALLOWED: "The policy does not let this agent use the tool {tool}.",
    Code.TOOL_NOT_IN_SCOPE: "The tool {tool} is not part of what was granted for this task.",
    Code.BUDGET_EXHAUSTED: "What was granted for calls like this is used up.",
    Code.SEQUENCE_VIOLATION: "After what was called before, the tool {tool} may not be called now.",
    Code.REPLAY_DETECTED: "This very call was made before; it does not run twice.",
    Code.ARTIFACT_EXPIRED: "The permission for this task has expired.",
    Code.ARTIFACT_REVOKED: "The permission for this task was withdrawn.",
    Code.DELEGATION_NOT_ALLOWED: "This hand-over between agents is not allowed.",
    Code.MALFORMED_CALL: "The call is malformed.",
    Code.APPROVAL_REQUIRED: "This call needs a human's approval first.",
    Code.APPROVAL_DENIED: "A human was asked about this call and said no.",
}


class Reason(msgspec.Struct, frozen=True, gc=False):
    """Why a stage failed, as data. `found` may hold values of the call: it goes to the erasable side store, never into a leaf.

    code      the stage's code
    subject   what it is about: an argument, a tool, an agent, a link
    required  what would have passed, in words
    found     what was there instead, shortened
    place     where the rule stands: "policy.yaml:12", or "link 1, step 4p4"
    fix       where it helps: the line that would allow it
    """

    code: Code
    subject: str = ""
    required: str = ""
    found: str = ""
    place: str = ""
    fix: str = ""

    def sentence(self) -> str:
        """One sentence for an engineer."""
        parts = [f"{self.code}: {self.subject}" if self.subject else str(self.code)]
        if self.required:
            parts.append(f"required {self.required}")
        if self.found:
            parts.append(f"found {self.found}")
        text = ", ".join(parts)
        if self.place:
            text += f" [{self.place}]"
        if self.fix:
            text += f"; to allow it: {self.fix}"
        return text


class Decision(msgspec.Struct, frozen=True, gc=False):
    """The answer to one call. `code` is None exactly when the verdict is allow.

    stage      the last stage that was judged (the one that failed, or the last one that passed)
    call       (agent, tool, call id) of the call that was judged
    reserved   what admission will charge: counter names
    execution  id of the execution in the log; empty in a dry run
    enforced   False for a denial that is only recorded, because the policy shadows the rule: the call runs all the same
    request    where humans are asked: the id of the request
    """

    verdict: Verdict
    code: Code | None
    stage: Stage
    reasons: tuple[Reason, ...] = ()
    agent: str = ""
    tool: str = ""
    call_id: str = ""
    policy: str = ""
    reserved: tuple[str, ...] = ()
    execution: str = ""
    enforced: bool = True
    request: str = ""

    @property
    def allowed(self) -> bool:
        return self.verdict is Verdict.ALLOW

    @property
    def runs(self) -> bool:
        """Whether the call may run: it is allowed, or its denial is not enforced."""
        return self.verdict is Verdict.ALLOW or not self.enforced

    def explain(self) -> str:
        """For an engineer: every reason in a sentence of its own."""
        if self.allowed:
            return f"allowed: {self.agent} may call {self.tool}"
        detail = "; ".join(reason.sentence() for reason in self.reasons) or str(self.code)
        if not self.enforced:
            return f"UNSAFE, not enforced: {self.agent} may not call {self.tool}: {detail}"
        return f"{self.agent or '?'} may not call {self.tool or '?'}: {detail}"

    def for_model(self) -> str:
        """For a model: one short sentence without values, so that a denial leaks nothing and invites no guessing."""
        if self.runs:
            return "Allowed."
        code = self.code or Code.GUARD_ERROR
        subject = self.reasons[0].subject if self.reasons else ""
        sentence = _MODEL_SENTENCES.get(code, "This call was refused.").format(subject=subject, tool=self.tool)
        if self.request:
            sentence += f" Request {self.request} was put: once it is approved, make exactly this call again."
        return f"Denied ({code}). {sentence} The tool did not run."

    def to_json(self) -> dict[str, Any]:
        """JSON form for the CLI and the notebook."""
        return {
            "verdict": str(self.verdict),
            "code": str(self.code) if self.code else None,
            "stage": int(self.stage),
            "agent": self.agent,
            "tool": self.tool,
            "call_id": self.call_id,
            "policy": self.policy,
            "execution": self.execution,
            "reserved": list(self.reserved),
            "enforced": self.enforced,
            **({"request": self.request} if self.request else {}),
            "reasons": [
                {name: str(getattr(reason, name)) for name in Reason.__struct_fields__ if getattr(reason, name)} for reason in self.reasons
            ],
            "explain": self.explain(),
        }

    def _repr_html_(self) -> str:
        colour = {"allow": "#1a7f37", "ask": "#9a6700", "deny": "#cf222e"}[self.verdict]
        rows = "".join(
            f"<tr><td><code>{html.escape(str(reason.code))}</code></td><td>{html.escape(reason.subject)}</td>"
            f"<td>{html.escape(reason.required)}</td><td>{html.escape(reason.found)}</td><td>{html.escape(reason.place)}</td></tr>"
            for reason in self.reasons
        )
        head = "<tr><th>code</th><th>what</th><th>required</th><th>found</th><th>where</th></tr>" if rows else ""
        return (
            f'<div><b style="color:{colour}">{self.verdict}</b> {html.escape(self.agent)} → <code>{html.escape(self.tool)}</code>'
            f" (stage {int(self.stage)})<table>{head}{rows}</table></div>"
        )
