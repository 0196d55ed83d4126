"""Calls as OCSF events: class API Activity (6003) with the profile `security_control`, schema 1.8.0 (schema.ocsf.io).

A call is one event. `action` and `disposition` say what the guard did with it, `status` how it ended. What the schema has no attribute for
stands under `unmapped.agentguard`, under the names of the record.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from agentguard.decision import Code
from agentguard.exports.calls import Call, Progress, calls
from agentguard.log.merkle import leaf_hash
from agentguard.reading.index_rows import time_of
from agentguard.reading.queries import Filter

SCHEMA: Final = "1.8.0"
_MILLISECOND: Final = 1_000_000

_ACTIONS: Final = {1: "Allowed", 2: "Denied", 3: "Observed"}
_DISPOSITIONS: Final = {1: "Allowed", 2: "Blocked", 15: "Detected", 23: "Challenge"}
_STATUSES: Final = {0: "Unknown", 1: "Success", 2: "Failure"}
_SEVERITIES: Final = {1: "Informational", 2: "Low", 3: "Medium", 4: "High"}
#: Refusals that an honest agent does not run into: somebody forged, replayed, tampered, or went on after a stop.
_ALARMING: Final = frozenset(
    {
        Code.SIGNATURE_INVALID,
        Code.ISSUER_UNTRUSTED,
        Code.DELEGATION_INVALID,
        Code.ARTIFACT_REVOKED,
        Code.INTEGRITY_FAILURE,
        Code.PROOF_INVALID,
        Code.REPLAY_DETECTED,
        Code.PROVENANCE_UNTRUSTED,
    }
)
#: Members of the decision that go to `unmapped` as they are.
_UNMAPPED: Final = (
    "anchors", "arguments", "artifact", "bound", "caused_by", "chain", "enforced", "environment", "expires", "followed", "lock", "proof",
    "reasons", "reserved", "revocations", "stages", "usage",
)  # fmt: skip


def events(home: Path, wanted: Filter | None = None, progress: Progress = lambda done, of: None) -> Iterator[dict[str, Any]]:
    """An event for each call whose decision fits. Raises InvalidInput where the log is damaged."""
    return map(event_of, calls(home, wanted, progress))


def event_of(call: Call) -> dict[str, Any]:
    """The event of one call. Total: what a record does not hold is left out, or unknown."""
    shard, index, record, data = call.decision
    outcome = call.outcome
    when = time_of(_text(record.get("time")))
    action, disposition = _done(record)
    severity = _severity(record, outcome)
    policy = {"uid": record.get("policy") or "none", "is_applied": record.get("enforced") is not False}
    status, label, code = _ended(record, outcome)
    return {
        "activity_id": 99,
        "activity_name": "Tool call",
        "category_uid": 6,
        "category_name": "Application Activity",
        "class_uid": 6003,
        "class_name": "API Activity",
        "type_uid": 600399,
        "type_name": "API Activity: Other",
        "time": when // _MILLISECOND,
        "timezone_offset": 0,
        "severity_id": severity,
        "severity": _SEVERITIES[severity],
        "status_id": status,
        "status": label,
        "status_code": code,
        "message": _message(record, label),
        "action_id": action,
        "action": _ACTIONS[action],
        "disposition_id": disposition,
        "disposition": _DISPOSITIONS[disposition],
        "is_alert": severity >= 4,
        "policy": policy,
        "actor": _actor(record, policy),
        "api": _api(record, outcome),
        "src_endpoint": {"name": _text(record.get("agent")) or "unknown", "svc_name": "agent"},
        "metadata": {
            "version": SCHEMA,
            "profiles": ["security_control"],
            "product": {"name": "agentguard", "vendor_name": "agentguard", "version": _text(record.get("guard")) or "unknown"},
            "uid": _text(record.get("id")) or "unknown",
            **({"correlation_uid": record["task"]} if _text(record.get("task")) else {}),
            "original_event_uid": f"{shard}/{index}",
            "original_time": _text(record.get("time")) or "0",
            "log_provider": "agentguard",
            "log_name": shard,
            "log_version": str(record.get("v")),
            "event_code": _text(record.get("code")) or _text(record.get("verdict")) or "deny",
            "sequence": index,
        },
        "unmapped": {"agentguard": _unmapped(record, outcome, data, when)},
    }


def _text(value: Any) -> str | None:
    return value if type(value) is str else None


def _done(record: Mapping[str, Any]) -> tuple[int, int]:
    """Action and disposition: what the guard did."""
    if record.get("verdict") == "allow":
        return 1, 1
    if record.get("enforced") is False:
        return 3, 15
    return (2, 23) if record.get("verdict") == "ask" else (2, 2)


def _severity(record: Mapping[str, Any], outcome: Mapping[str, Any] | None) -> int:
    if record.get("verdict") == "allow":
        return 1 if outcome is not None and outcome.get("status") != "error" else 2
    return 4 if record.get("code") in _ALARMING else 2 if record.get("verdict") == "ask" else 3


def _ended(record: Mapping[str, Any], outcome: Mapping[str, Any] | None) -> tuple[int, str, str]:
    """Status, its caption, and the word that the record has for it."""
    if record.get("verdict") != "allow" and record.get("enforced") is not False:
        return 2, _STATUSES[2], _text(record.get("code")) or "denied"
    word = (_text(outcome.get("status")) if outcome is not None else None) or "unknown"
    known = {"ok": 1, "error": 2, "unknown": 0}.get(word)
    return (99, word, word) if known is None else (known, _STATUSES[known], word)


def _message(record: Mapping[str, Any], status: str) -> str:
    agent, tool, verdict = (_text(record.get(name)) or "?" for name in ("agent", "tool", "verdict"))
    what = {"allow": f"called {tool}: {status}", "ask": f"may call {tool} only with approval"}.get(verdict, f"was refused {tool}")
    code = f" ({record['code']})" if record.get("code") else ""
    return f"{agent} {what}{code}"


def _actor(record: Mapping[str, Any], policy: Mapping[str, Any]) -> dict[str, Any]:
    actor: dict[str, Any] = {
        "app_name": _text(record.get("agent")) or "unknown",
        "authorizations": [{"decision": _text(record.get("verdict")) or "deny", "policy": policy}],
    }
    who = record.get("initiator")
    if isinstance(who, Mapping):
        actor["user"] = {"uid": _text(who.get("id")) or "unknown", "type_id": 0, "type": "Unknown"}
        if _text(who.get("method")) not in (None, "asserted"):  # nobody stands for what was only asserted
            actor["idp"] = {"name": who["method"]}
    if _text(record.get("task")):
        actor["session"] = {"uid": record["task"]}
    return actor


def _api(record: Mapping[str, Any], outcome: Mapping[str, Any] | None) -> dict[str, Any]:
    api: dict[str, Any] = {
        "operation": _text(record.get("tool")) or "unknown",
        "request": {"uid": _text(record.get("call_id")) or "unknown"},
        "service": {"name": "tools"},
    }
    if record.get("tool_version"):
        api["version"] = record["tool_version"]
    if outcome is not None:
        api["response"] = {"message": _text(outcome.get("status")) or "unknown"}
        if outcome.get("error"):
            api["response"]["error"] = outcome["error"]
    return api


def _unmapped(record: Mapping[str, Any], outcome: Mapping[str, Any] | None, data: bytes, when: int) -> dict[str, Any]:
    kept = {name: record[name] for name in _UNMAPPED if record.get(name) is not None}
    who = record.get("initiator")
    if isinstance(who, Mapping):
        kept["initiator"] = dict(who)
    if outcome is not None:
        kept["output"] = outcome.get("output")
        kept["duration_ns"] = max(0, time_of(_text(outcome.get("time"))) - when)
    return {**kept, "leaf": leaf_hash(data).hex()}
