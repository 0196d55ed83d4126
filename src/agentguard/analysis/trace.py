"""Calls that were made: from the evidence of a home, or from a file of JSON lines. What `policy simulate` and `policy learn` look at.

A line of a file is `{"agent": ..., "tool": ..., "arguments": {...}}`, and may say `"verdict"` and `"code"`; and, for rules about time and
what went before, `"at"` (a time with its zone), `"task"`, `"initiator"` and `"approved"` (true or false, what was answered).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from agentguard.canonical import Frozen, freeze, parse
from agentguard.decision import Code, Verdict
from agentguard.environment import NANOSECOND
from agentguard.errors import InvalidInput
from agentguard.evidence import commit
from agentguard.log import iter_records
from agentguard.store import SideStore

#: The codes by which a policy refuses; every other denial has its reason elsewhere, and another policy would not change it.
POLICY_CODES: Final = frozenset(
    {
        Code.AGENT_UNKNOWN,
        Code.TOOL_NOT_ALLOWED,
        Code.ARGUMENT_NOT_ALLOWED,
        Code.SEQUENCE_VIOLATION,
        Code.APPROVAL_REQUIRED,
        Code.APPROVAL_DENIED,
        Code.BUDGET_EXHAUSTED,
    }
)
_MEMBERS: Final = frozenset({"agent", "tool", "arguments", "verdict", "code", "at", "task", "initiator", "approved"})

_MAY: Final = "verdict, code, at, task, initiator and approved may be given, nothing else"

#: Called with how much of the input was read, and how much there is.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Called:
    """One call that was made.

    arguments  as the tool got them; None where the values were erased, or are not what the log committed to
    verdict    what came of it, None where that is not known
    code       why it was refused
    succeeded  whether it ran and ended well
    place      execution id, or file and line
    at         when, in seconds since 1970; None where that is not known
    task       what it was part of: one name for each root task
    initiator  on whose behalf, such as `user:alice`
    approved   what humans answered about it; None where they did not, or it is not known
    enforced   False where a refusal was only recorded, because the policy shadows the rule, and it ran
    """

    agent: str
    tool: str
    arguments: Mapping[str, Frozen] | None
    verdict: Verdict | None
    code: str | None
    succeeded: bool
    place: str
    at: int | None = None
    task: str = ""
    initiator: str = ""
    approved: bool | None = None
    enforced: bool = True

    @property
    def ran(self) -> bool:
        """Whether it is known to have been let run."""
        return self.verdict is Verdict.ALLOW or not self.enforced


def from_lines(path: Path, progress: Progress = lambda done, of: None) -> Iterator[Called]:
    """The calls of a file of JSON lines. Raises InvalidInput that names the line."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            done = 0
            for number, line in enumerate(file, 1):
                done += len(line)
                if number % 4096 == 0:
                    progress(done, size)
                if line.strip():
                    yield _called(line, f"{path}:{number}")
            progress(size, size)
    except OSError as error:
        raise InvalidInput(f"cannot be read: {error.strerror}", place=str(path)) from None


def _called(line: bytes, place: str) -> Called:
    try:
        body = parse(line)
        if type(body) is not dict or not body.keys() <= _MEMBERS or not body.keys() >= {"agent", "tool", "arguments"}:
            raise InvalidInput("a line is an object with agent, tool and arguments", hint=_MAY)
        if type(body["agent"]) is not str or type(body["tool"]) is not str or type(body["arguments"]) is not dict:
            raise InvalidInput("agent and tool must be strings, and arguments an object")
        verdict = body.get("verdict")
        if verdict is not None and verdict not in [str(one) for one in Verdict]:
            raise InvalidInput(f"the verdict cannot be {verdict!r:.40}", hint="allow, ask or deny")
        for name in ("task", "initiator"):
            if type(body.get(name, "")) is not str:
                raise InvalidInput(f"{name} must be a string")
        if body.get("approved") is not None and type(body["approved"]) is not bool:
            raise InvalidInput("approved must be true or false")
        at = _time(body["at"]) if "at" in body else None
        arguments = freeze(body["arguments"])
    except InvalidInput as error:
        raise InvalidInput(error.message, place=place, hint=error.hint) from None
    known = Verdict(verdict) if verdict is not None else None
    about = (at, body.get("task", ""), body.get("initiator", ""), body.get("approved"))
    return Called(body["agent"], body["tool"], arguments, known, body.get("code"), known is Verdict.ALLOW, place, *about)


def _time(value: Any) -> int:
    try:
        moment = datetime.fromisoformat(value) if type(value) is str else None
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise InvalidInput(f"at is no time with its zone: {value!r:.40}", hint='write "2026-11-23T09:00:00+01:00"')
    return int(moment.timestamp())


def from_home(home: Path, progress: Progress = lambda done, of: None) -> Iterator[Called]:
    """The calls in the evidence of a home, by their time. Values count only where they are what the log committed to.

    Raises InvalidInput.
    """
    decisions: dict[str, dict[str, Any]] = {}
    ended: set[str] = set()
    for _, _, record in iter_records(home):
        body = msgspec.json.decode(record)
        if body.get("type") == "decision" and not body["tool"].startswith("agentguard."):
            decisions[body["id"]] = body
        elif body.get("type") == "outcome" and body.get("status") == "ok":
            ended.add(body["execution"])
    values = _values(home, decisions)
    for number, (execution, body) in enumerate(sorted(decisions.items(), key=lambda item: int(item[1]["time"])), 1):
        if number % 4096 == 0:
            progress(number, len(decisions))
        found = values.get(execution)
        yield Called(
            body["agent"],
            body["tool"],
            found,
            Verdict(body["verdict"]),
            body["code"],
            execution in ended,
            f"execution {execution}",
            int(body["time"]) // NANOSECOND,
            body["task"] or "",
            (body["initiator"] or {}).get("id", ""),
            _answer(body),
            body["enforced"],
        )
    progress(len(decisions), len(decisions))


def _answer(body: Mapping[str, Any]) -> bool | None:
    """What humans answered about a call: admission took their approval, or they denied it."""
    if any(key.startswith("approval/") for key, _ in body["reserved"]):
        return True
    return False if body["code"] == Code.APPROVAL_DENIED else None


def _values(home: Path, decisions: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Frozen]]:
    """By execution the bound arguments, or the presented ones where the tool got just these."""
    found: dict[str, Mapping[str, Frozen]] = {}
    for item in SideStore(home / "side").values():
        body = decisions.get(item.execution)
        if body is None or item.kind != ("arguments" if body["bound"] is None else "bound"):
            continue
        if commit(item.salt, item.value) == body[item.kind]:
            found[item.execution] = freeze(parse(item.value))
    return found
