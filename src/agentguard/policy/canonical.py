"""The canonical form of a policy: groups, tags and imports written out, defaults filled in, every rule in one form (DESIGN §6).

It is a policy text itself, with the same digest. What is not said is not written, so a construct that a policy does not use leaves its
digest alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from agentguard.canonical import Json, jcs
from agentguard.constraints.tokens import Entry
from agentguard.policy.budgets import Budget, show_millionths
from agentguard.policy.forbid import Forbid, ForbidIndex
from agentguard.policy.model import AgentPolicy, ToolAttributes, ToolRule
from agentguard.policy.schema import PolicyModel, ToolModel
from agentguard.policy.sequences import SequenceRule
from agentguard.policy.standing import HoursRule, Shadow


def canonical(
    model: PolicyModel,
    agents: Mapping[str, AgentPolicy],
    forbid: ForbidIndex,
    tools: Mapping[str, ToolAttributes],
    environment: Mapping[str, Entry],
    sequence: tuple[SequenceRule, ...],
) -> bytes:
    """The JCS bytes of a compiled policy."""
    written: dict[str, Json] = {
        "agentguard": 1,
        "name": model.name,
        "agents": {name: _agent(agent) for name, agent in agents.items()},
        "forbid": [_forbid(rule) for rule in forbid.rules],
        "tools": {name: given for name, tool in model.tools.items() if (given := _tool(tool, tools[name]))},
        "environment": {name: entry.to_json() for name, entry in environment.items()},
    }
    return jcs(written | _said({"sequence": _sorted(rule.to_json() for rule in sequence)}))


def _agent(agent: AgentPolicy) -> dict[str, Json]:
    """One agent. What adds up is in an order of its own."""
    said = _said(
        {
            "where": {tool: _where(rule) for tool, rule in agent.tools.items() if rule.conditions},
            "hours": _sorted(_hours(rule) for rule in agent.hours),
            "sequence": _sorted(rule.to_json() for rule in agent.sequence),
            "approval": _sorted({"tool": [tool], **rule.to_json()} for tool, rules in agent.approvals.items() for rule in rules),
            "unsafe_shadow": _shadow(agent.shadow),
        }
    )
    return {
        "tools": {tool: rule.map.to_json() if rule.arguments or rule.map.rest else {} for tool, rule in agent.tools.items()},
        "budgets": _sorted(_budget(budget) for budget in agent.budgets),
        "delegates": {to: {"depth": delegate.depth} for to, delegate in agent.delegates.items()},
        **said,
    }


def _said(members: Mapping[str, Json]) -> dict[str, Json]:
    return {name: value for name, value in members.items() if value}


def _sorted(rules: Iterable[dict[str, Json]]) -> list[Json]:
    return [written[1] for written in sorted({jcs(rule): rule for rule in rules}.items())]


def _where(rule: ToolRule) -> list[Json]:
    return [*sorted({condition.text for condition, _ in rule.conditions})]


def _hours(rule: HoursRule) -> dict[str, Json]:
    return {**rule.hours.to_json(), **({} if rule.tools is None else {"tools": list(rule.tools)})}


def _shadow(shadow: Shadow | None) -> dict[str, Json] | None:
    if shadow is None:
        return None
    return {"until": _moment(shadow.until), **({} if shadow.tools is None else {"tools": list(shadow.tools)})}


def _moment(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat()


def _budget(budget: Budget) -> dict[str, Json]:
    written: dict[str, Json] = {"per": budget.per}
    if budget.cost is None and budget.output is None:
        written["calls"] = budget.limit
    else:
        written["limit"] = _number(budget.limit)
        written["cost"] = (
            {"argument": budget.cost} if budget.output is None else {"output": ".".join(budget.output), "reserve": _number(budget.reserve)}
        )
    if budget.tools is not None:
        written["tool"] = list(budget.tools)
    if budget.window is not None:
        written["window"] = budget.window.to_json()
    return written


def _number(count: int) -> Json:
    text = show_millionths(count)
    return float(text) if "." in text else int(text)


def _forbid(rule: Forbid) -> dict[str, Json]:
    shadow: Json = None if rule.until is None else {"until": _moment(rule.until)}
    members: dict[str, Json] = {"tool": rule.tool, "agent": rule.agent, "reason": rule.reason or None, "unsafe_shadow": shadow}
    return {name: value for name, value in members.items() if value is not None}


def _tool(model: ToolModel, attributes: ToolAttributes) -> dict[str, Json]:
    """The attributes of a tool. What its tags grant stands at the agents."""
    given: dict[str, Any] = model.model_dump(exclude_defaults=True, exclude={"arguments", "approval", "output"})
    if model.tags:
        given["tags"] = sorted(model.tags)
    if attributes.approval is not None:
        given["approval"] = attributes.approval.to_json()
    if attributes.output is not None:
        given["output"] = attributes.output.to_json()
    return given
