"""The nodes of the lineage graph, and how they are read from records (see `agentguard.reading.lineage`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, TypeAlias

NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an execution ended: ok, error, cancelled or not_run. `time` is nanoseconds, `output` the commitment to what it gave."""

    status: str
    time: int
    error: str | None
    output: str | None = None


@dataclass(frozen=True, slots=True)
class Execution:
    """One decision, with its outcome when there is one. `record` is the whole decision record; `time` is nanoseconds."""

    id: str
    task: str | None
    agent: str
    tool: str
    verdict: str
    code: str | None
    time: int
    caused_by: str | None
    artifact: str | None
    record: Mapping[str, Any] = field(repr=False, default_factory=lambda: NOTHING)
    outcome: Outcome | None = None

    @property
    def status(self) -> str:
        """The code of a refusal, the outcome of a run, or `unknown`: allowed, and nobody recorded how it ended."""
        if self.verdict != "allow":
            return self.code or self.verdict
        return self.outcome.status if self.outcome is not None else "unknown"

    @property
    def duration_ns(self) -> int | None:
        """Nanoseconds from decision to outcome; None where there is no outcome."""
        return max(0, self.outcome.time - self.time) if self.outcome is not None else None

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": "execution",
            "id": self.id,
            "task": self.task,
            "agent": self.agent,
            "tool": self.tool,
            "call_id": text_of(self.record.get("call_id")),
            "verdict": self.verdict,
            "code": self.code,
            "status": self.status,
            "error": self.outcome.error if self.outcome is not None else None,
            "time": str(self.time),
            "duration_ns": self.duration_ns,
            "caused_by": self.caused_by,
            "artifact": self.artifact,
        }


@dataclass(frozen=True, slots=True)
class Delegation:
    """One artifact that was made or first seen: a root, or a link under `parent`. `time` is nanoseconds, `expires` seconds."""

    id: str
    task: str | None
    agent: str
    from_agent: str | None
    artifact: str
    parent: str | None
    time: int
    expires: int
    caused_by: str | None
    observed: bool
    tools: tuple[str, ...]
    record: Mapping[str, Any] = field(repr=False, default_factory=lambda: NOTHING)

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": "delegation",
            "id": self.id,
            "task": self.task,
            "agent": self.agent,
            "from_agent": self.from_agent,
            "artifact": self.artifact,
            "parent": self.parent,
            "time": str(self.time),
            "expires": self.expires,
            "caused_by": self.caused_by,
            "observed": self.observed,
            "tools": list(self.tools),
        }


Node: TypeAlias = Execution | Delegation


@dataclass(frozen=True, slots=True)
class Task:
    """One task in sum. `initiator` is {id, method, evidence}; `caused_by` the execution that was running when it began."""

    id: str
    agent: str
    time: int
    initiator: Mapping[str, Any]
    policy: str | None
    caused_by: str | None
    allowed: int
    refused: int
    unknown: int
    delegations: int

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": "task",
            "id": self.id,
            "agent": self.agent,
            "time": str(self.time),
            "initiator": dict(self.initiator) or None,
            "policy": self.policy,
            "caused_by": self.caused_by,
            "calls": {"allowed": self.allowed, "refused": self.refused, "unknown": self.unknown},
            "delegations": self.delegations,
        }


def text_of(value: Any) -> str | None:
    return value if type(value) is str else None


def time_of(record: Mapping[str, Any]) -> int:
    value = record.get("time")
    return int(value) if type(value) is str and value.isascii() and value.isdigit() and len(value) < 20 else 0


def order(node: Node) -> tuple[int, str]:
    return node.time, node.id


def execution_of(identity: str, record: Mapping[str, Any]) -> Execution:
    return Execution(
        id=identity,
        task=text_of(record.get("task")),
        agent=text_of(record.get("agent")) or "",
        tool=text_of(record.get("tool")) or "",
        verdict=text_of(record.get("verdict")) or "deny",
        code=text_of(record.get("code")),
        time=time_of(record),
        caused_by=text_of(record.get("caused_by")),
        artifact=text_of(record.get("artifact")),
        record=record,
    )


def outcome_of(record: Mapping[str, Any]) -> Outcome:
    return Outcome(text_of(record.get("status")) or "unknown", time_of(record), text_of(record.get("error")), text_of(record.get("output")))


def delegation_of(identity: str, record: Mapping[str, Any]) -> Delegation:
    tools, expires = record.get("tools"), record.get("expires")
    return Delegation(
        id=identity,
        task=text_of(record.get("task")),
        agent=text_of(record.get("agent")) or "",
        from_agent=text_of(record.get("from_agent")),
        artifact=text_of(record.get("artifact")) or "",
        parent=text_of(record.get("parent")),
        time=time_of(record),
        expires=expires if type(expires) is int else 0,
        caused_by=text_of(record.get("caused_by")),
        observed=record.get("observed") is True,
        tools=tuple([tool for tool in tools if type(tool) is str]) if isinstance(tools, list | tuple) else (),
        record=record,
    )
