"""agentguard: a firewall between AI agents and their tools.

from agentguard import Denied, Guard

guard = Guard.open("policy.yaml")

@guard.tool
def send_email(to: str, subject: str, body: str) -> str: ...

with guard.task("triage", initiator="user:alice"):
    send_email(to="bob@example.com", subject="Hi", body="...")
"""

from agentguard.artifacts.making import Initiator
from agentguard.call import ToolCall
from agentguard.decision import Code, Decision, Verdict
from agentguard.errors import AgentguardError, ApprovalRequired, Denied, InvalidInput, OutcomeUnrecorded
from agentguard.guard import Guard

__all__ = [
    "AgentguardError",
    "ApprovalRequired",
    "Code",
    "Decision",
    "Denied",
    "Guard",
    "Initiator",
    "InvalidInput",
    "OutcomeUnrecorded",
    "ToolCall",
    "Verdict",
]
