"""What a policy says, in words for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentguard.constraints.tokens import Entry
    from agentguard.policy.approval import ApprovalRule
    from agentguard.policy.forbid import Forbid
    from agentguard.policy.model import Policy


def rule_words(entry: Entry) -> str:
    """What an argument or a fact may be."""
    return entry.constraint.describe() + (", or left out" if entry.optional else "")


def tool_words(policy: Policy, tool: str) -> list[str]:
    """What holds for a tool whichever agent calls it."""
    attributes = policy.attributes(tool)
    words = {
        "each call needs a proof of possession": attributes.proof_required,
        "a repeated call may run again while its outcome is unknown": attributes.rerun_safe,
        "UNSAFE: artifacts may grant it with any arguments": attributes.unsafe_any_arguments,
        "runs although its code cannot be pinned": attributes.opaque,
        "plain AAT chains are enough": attributes.plain_chains,
        "its output is checked before anybody gets it": attributes.output is not None,
    }
    asked = [f"each call needs {approval_words(attributes.approval)}"] if attributes.approval is not None else []
    return [*asked, *(text for text, holds in words.items() if holds)]


def approval_words(rule: ApprovalRule) -> str:
    """Whose approval, until when, and when it is asked for."""
    from agentguard.spans import show_span

    when = f", when {rule.when.text}" if rule.when is not None else ""
    return f"{rule.words()}, within {show_span(rule.expires)}{when}"


def forbid_words(rule: Forbid) -> str:
    """Why a forbid rule stands there, and until when it is not enforced."""
    from agentguard.spans import show_moment

    why = f": {rule.reason}" if rule.reason else ""
    return why + ("" if rule.until is None else f"; UNSAFE: only recorded until {show_moment(rule.until)}")


def agent_words(policy: Policy, name: str) -> Iterator[tuple[str, str]]:
    """What restricts an agent's calls beside their arguments one by one: in words, and where."""
    agent = policy.agents[name]
    for tool, rule in agent.tools.items():
        for condition, place in rule.conditions:
            yield f"{tool} where {condition.text}", place
    for hours in agent.hours:
        yield f"{', '.join(hours.tools or ['any tool'])} only {hours.hours.describe()}", hours.place
    for sequence in agent.sequence:
        yield sequence.words(), sequence.place
    for sequence in policy.sequence:
        yield f"{sequence.words()}, by all agents of a task", sequence.place
    for tool, rules in agent.approvals.items():
        for asked in rules:
            yield f"{tool} needs {approval_words(asked)}", asked.place
    if agent.shadow is not None:
        from agentguard.spans import show_moment

        what = ", ".join(agent.shadow.tools or ["its tools"])
        yield f"UNSAFE: until {show_moment(agent.shadow.until)} refusals of {what} are recorded and not enforced", agent.shadow.place
    for budget in agent.budgets:
        yield f"at most {budget.shown()} {budget.name}", budget.place
