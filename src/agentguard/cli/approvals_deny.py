"""`agentguard approvals deny`: say no."""

from __future__ import annotations

from agentguard.cli.approvals_approve import AsOption, KeyOption, respond
from agentguard.cli.approvals_desk import IdArgument
from agentguard.cli.inputs import DEFAULT_HOME, ByOption, HomeOption, JsonOption, ReasonOption, operator


def deny(
    identity: IdArgument,
    name: AsOption = None,
    key: KeyOption = None,
    reason: ReasonOption = "",
    by: ByOption = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Refuse a call. One denial by somebody who may answer is enough, whatever others say, until the request has expired.

    Example: `agentguard approvals deny 3f2a9c… --as user:carol --reason "unknown account"`
    """
    respond(identity, "deny", name, key, reason, operator(by), home, as_json)
