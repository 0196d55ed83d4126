"""How a stage says no, and the names of the codes."""

from __future__ import annotations

from typing import Any

# The codes that stages 0 to 10 can end with, in order (DESIGN section 7).
CODES: dict[int, tuple[str, ...]] = {
    0: ("malformed_call",),
    1: ("artifact_missing",),
    2: ("artifact_malformed", "signature_invalid", "issuer_untrusted", "delegation_invalid"),
    3: ("artifact_not_yet_valid", "artifact_expired"),
    4: ("artifact_revoked",),
    5: ("environment_mismatch",),
    6: ("policy_mismatch",),
    7: ("integrity_failure",),
    8: ("tool_not_in_scope", "argument_not_in_scope", "audience_mismatch"),
    9: ("proof_missing", "proof_invalid"),
    10: ("agent_unknown", "delegation_not_allowed", "tool_not_allowed", "argument_not_allowed"),
}
LAST_STAGE = 10
NO_STAGE = -1


class Deny(Exception):
    """The first stage that fails. ``step`` is the draft's step or a word for the rule."""

    def __init__(self, code: str, stage: int, step: str, why: str) -> None:
        super().__init__(f"{code} at stage {stage}, {step}: {why}")
        self.code = code
        self.stage = stage
        self.step = step
        self.why = why

    def as_dict(self) -> dict[str, Any]:
        return {"verdict": "deny", "code": self.code, "stage": self.stage, "step": self.step, "why": self.why}
