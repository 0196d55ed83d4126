"""The provenance of a task in W3C PROV (PROV-DM, serialised as PROV-JSON): who did what on whose behalf, and what it stood on.

entity    an artifact, a policy, the arguments and the output of a call (by commitment: values are in no export)
activity  a call; a delegation, which makes an artifact
agent     the initiator (a person or a service: nobody knows which), the agents, and the issuer

used                 call -> artifact, arguments; delegation -> the artifact it derives from
wasGeneratedBy       artifact -> delegation, output -> call
wasDerivedFrom       artifact -> the artifact above it
wasAssociatedWith    call -> agent, with the policy as plan; delegation -> who derived it
actedOnBehalfOf      agent -> the agent that delegated to it, or the initiator
wasInformedBy        call or delegation -> the call during which it happened
wasAttributedTo      artifact -> who derived or issued it
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

from agentguard.reading.lineage import Lineage
from agentguard.reading.lineage_nodes import Delegation, Execution

_NAMESPACE: Final = "urn:agentguard:prov:"
_PREFIX: Final = "ag"


def provenance(graph: Lineage, task: str) -> dict[str, Any]:
    """The PROV-JSON document of one task. Raises InvalidInput if there is none with this id.

    graph  lineage that holds the task, for example of `read_lineage(home, task)`
    """
    summary = graph.task(task)
    document = _Document()
    who = summary.initiator.get("id")
    initiator = document.agent("initiator", who, {"method": summary.initiator.get("method")}) if who is not None else None
    links: dict[str, Delegation] = {}
    for node in (branch.node for branch in graph.tree(task)):
        if isinstance(node, Delegation):
            links[node.artifact] = node
            document.delegation(node, initiator)
    for node in (branch.node for branch in graph.tree(task)):
        if isinstance(node, Execution):
            document.execution(node)
    return document.to_json()


class _Document:
    """PROV-JSON being put together: {section: {identifier: attributes}}."""

    def __init__(self) -> None:
        self._sections: dict[str, dict[str, dict[str, Any]]] = {}
        self._relations = 0

    def to_json(self) -> dict[str, Any]:
        return {"prefix": {_PREFIX: _NAMESPACE, "xsd": "http://www.w3.org/2001/XMLSchema#"}, **self._sections}

    def agent(self, kind: str, name: str, more: Mapping[str, Any]) -> str:
        types = {"initiator": "ag:Initiator", "issuer": "ag:Issuer", "agent": "prov:SoftwareAgent"}
        return self._put("agent", f"{kind}/{name}", {"prov:type": _type(types[kind]), "prov:label": name, **_named(more)})

    def delegation(self, link: Delegation, initiator: str | None) -> None:
        """An artifact that was issued or derived."""
        tools = list(link.tools)
        artifact = self._put("entity", f"artifact/{link.artifact}", {"prov:type": _type("ag:Artifact"), **_named({"tool": tools})})
        made = {"prov:type": _type("ag:Delegation"), **_named({"observed": link.observed})}
        activity = self._activity(f"delegation/{link.id}", made, link.time, link.time)
        holder = self.agent("agent", link.agent, {})
        self._relate("wasGeneratedBy", {"prov:entity": artifact, "prov:activity": activity, "prov:time": _instant(link.time)})
        maker = self.agent("agent", link.from_agent, {}) if link.from_agent is not None else self.agent("issuer", "local", {})
        self._relate("wasAssociatedWith", {"prov:activity": activity, "prov:agent": maker})
        self._relate("wasAttributedTo", {"prov:entity": artifact, "prov:agent": maker})
        on_behalf = maker if link.from_agent is not None else initiator
        if on_behalf is not None and on_behalf != holder:
            self._relate("actedOnBehalfOf", {"prov:delegate": holder, "prov:responsible": on_behalf, "prov:activity": activity})
        if link.parent is not None:
            above = self._put("entity", f"artifact/{link.parent}", {})
            self._relate("used", {"prov:activity": activity, "prov:entity": above})
            self._relate("wasDerivedFrom", {"prov:generatedEntity": artifact, "prov:usedEntity": above, "prov:activity": activity})
        self._informed(activity, link.caused_by)

    def execution(self, call: Execution) -> None:
        """A call: allowed or not, run or not."""
        about = {name: call.record.get(name) for name in ("call_id", "code", "tool", "tool_version", "verdict")}
        made = {"prov:type": _type("ag:Call"), "prov:label": f"{call.agent} → {call.tool}", **_named({**about, "status": call.status})}
        end = call.outcome.time if call.outcome is not None else None
        activity = self._activity(f"execution/{call.id}", made, call.time, end)
        association = {"prov:activity": activity, "prov:agent": self.agent("agent", call.agent, {})}
        policy = call.record.get("policy")
        if type(policy) is str:
            association["prov:plan"] = self._put("entity", f"policy/{policy}", {"prov:type": _type("prov:Plan")})
        self._relate("wasAssociatedWith", association)
        if call.artifact is not None:
            self._relate("used", {"prov:activity": activity, "prov:entity": self._put("entity", f"artifact/{call.artifact}", {})})
        if type(arguments := call.record.get("arguments")) is str:
            kept = self._put("entity", f"arguments/{call.id}", {"prov:type": _type("ag:Arguments"), **_named({"commitment": arguments})})
            self._relate("used", {"prov:activity": activity, "prov:entity": kept})
        if call.outcome is not None and call.outcome.output is not None:
            value = _named({"commitment": call.outcome.output})
            output = self._put("entity", f"output/{call.id}", {"prov:type": _type("ag:Output"), **value})
            self._relate("wasGeneratedBy", {"prov:entity": output, "prov:activity": activity, "prov:time": _instant(call.outcome.time)})
        self._informed(activity, call.caused_by)

    def _informed(self, activity: str, cause: str | None) -> None:
        if cause is not None:
            informant = self._put("activity", f"execution/{cause}", {})
            self._relate("wasInformedBy", {"prov:informed": activity, "prov:informant": informant})

    def _activity(self, name: str, about: Mapping[str, Any], start: int, end: int | None) -> str:
        times = {"prov:startTime": _instant(start), "prov:endTime": _instant(end)}
        return self._put("activity", name, {**{key: time for key, time in times.items() if time is not None}, **about})

    def _put(self, section: str, name: str, about: Mapping[str, Any]) -> str:
        """Declare something, or add to what is known of it. A name from the log becomes a part of an IRI: nothing else fits into one."""
        identifier = f"{_PREFIX}:{quote(name, safe='/')}"
        self._sections.setdefault(section, {}).setdefault(identifier, {}).update(about)
        return identifier

    def _relate(self, kind: str, about: Mapping[str, str | None]) -> None:
        self._relations += 1
        known = {name: value for name, value in about.items() if value is not None}
        self._sections.setdefault(kind, {})[f"_:r{self._relations}"] = known


def _named(members: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of our own. PROV-JSON writes several values of one attribute as an array."""
    return {f"{_PREFIX}:{name}": value for name, value in members.items() if value is not None and value != []}


def _type(name: str) -> dict[str, str]:
    return {"$": name, "type": "prov:QUALIFIED_NAME"}


def _instant(time: int | None) -> str | None:
    """xsd:dateTime to the microsecond, as far as its readers go; None for a time that no calendar holds."""
    if time is None:
        return None
    try:
        return datetime.fromtimestamp(time // 1000 / 1_000_000, UTC).isoformat(timespec="microseconds")
    except (ValueError, OverflowError, OSError):
        return None
