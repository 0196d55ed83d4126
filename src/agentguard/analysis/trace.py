"""Calls that were made: from the evidence of a home, or from a file of JSON lines. What `policy simulate` and `policy learn` look at.

A line of a file is `{"agent": ..., "tool": ..., "arguments": {...}}`, and may say `"verdict"` and `"code"`; and, for rules about time and
what went before, `"at"` (a time with its zone), `"task"`, `"initiator"` and `"approved"` (true or false, what was answered).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from agentguard.canonical import Frozen, freeze, jcs, parse
from agentguard.charging import USES
from agentguard.decision import Code, Verdict
from agentguard.environment import NANOSECOND
from agentguard.errors import InvalidInput
from agentguard.evidence import commit, put_to_humans, ran
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
#: The refusal by an artifact's own limit, as its reason begins: it has the code that a budget's has, and no policy changes it.
_USES: Final = re.compile(rf"{Code.BUDGET_EXHAUSTED}: {USES}[0-9a-f]{{12}}, ")
#: What is kept of a decision, in the record's member of the same name by commitment.
_KINDS: Final = ("arguments", "bound", "followed", "reasons", "usage")
_MEMBERS: Final = frozenset({"agent", "tool", "arguments", "verdict", "code", "at", "task", "initiator", "approved"})

_VERDICTS: Final = {str(verdict): verdict for verdict in Verdict}
_MAY: Final = "verdict, code, at, task, initiator and approved may be given, nothing else"

#: Called with how much of the input was read, and how much there is.
Progress = Callable[[int, int], None]


class Called(msgspec.Struct, frozen=True, gc=False):  # there are many, and no cycle can go through one
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
    elsewhere  whether it was refused for a reason that no policy changes
    followed   the arguments with symbolic links followed, where there were any
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
    elsewhere: bool = False
    followed: Mapping[str, Frozen] | None = None

    @property
    def ran(self) -> bool:
        """Whether it is known to have been let run."""
        return self.verdict is Verdict.ALLOW or not self.enforced


def from_lines(path: Path, progress: Progress = lambda done, of: None) -> Iterator[Called]:
    """The calls of a file of JSON lines. Raises InvalidInput that names the line."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            done, name = 0, str(path)
            for number, line in enumerate(file, 1):
                done += len(line)
                if number % 4096 == 0:
                    progress(done, size)
                if not line.isspace():
                    yield _called(line, f"{name}:{number}")
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
        verdict, code, task, initiator, approved = (
            body.get("verdict"), body.get("code"), body.get("task", ""), body.get("initiator", ""), body.get("approved")
        )  # fmt: skip
        known = None
        if verdict is not None and (known := _VERDICTS.get(verdict) if type(verdict) is str else None) is None:
            raise InvalidInput(f"the verdict cannot be {verdict!r:.40}", hint="allow, ask or deny")
        if type(task) is not str or type(initiator) is not str:
            raise InvalidInput(f"{'task' if type(task) is not str else 'initiator'} must be a string")
        if code is not None and type(code) is not str:
            raise InvalidInput("code must be a string")
        if approved is not None and type(approved) is not bool:
            raise InvalidInput("approved must be true or false")
        at = _time(body["at"]) if "at" in body else None
        arguments = freeze(body["arguments"])
    except InvalidInput as error:
        raise InvalidInput(error.message, place=place, hint=error.hint) from None
    ran = known is Verdict.ALLOW
    elsewhere = known is not None and not ran and code not in POLICY_CODES
    return Called(body["agent"], body["tool"], arguments, known, code, ran, place, at, task, initiator, approved, True, elsewhere)


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

    A call that humans were asked about, and that was judged again when they had answered, is one call: the later one. Raises InvalidInput.
    """
    decisions: dict[str, dict[str, Any]] = {}
    ended: set[str] = set()
    for _, _, record in iter_records(home):
        body = msgspec.json.decode(record)
        if body.get("type") == "decision" and not body["tool"].startswith("agentguard."):
            decisions[body["id"]] = body
        elif body.get("type") == "outcome" and body.get("status") == "ok":
            ended.add(body["execution"])
    kept = _kept(home, decisions)
    made = sorted(decisions.items(), key=lambda item: int(item[1]["time"]))
    over = _asked(made, kept)
    for number, (execution, body) in enumerate(made, 1):
        if number % 4096 == 0:
            progress(number, len(made))
        if execution not in over:
            yield _recorded(execution, body, kept.get(execution, {}), execution in ended)
    progress(len(made), len(made))


def _recorded(execution: str, body: Mapping[str, Any], kept: Mapping[str, Frozen], ended: bool) -> Called:
    code = body["code"]
    return Called(
        body["agent"],
        body["tool"],
        _bound(body, kept),
        Verdict(body["verdict"]),
        code,
        ended,
        f"execution {execution}",
        int(body["time"]) // NANOSECOND,
        body["task"] or "",
        (body["initiator"] or {}).get("id", ""),
        _answer(code, kept.get("usage")),
        body["enforced"],
        not ran(body) and (code not in POLICY_CODES or (code == Code.BUDGET_EXHAUSTED and _by_artifact(kept.get("reasons", ())))),
        kept.get("followed"),
    )


def _bound(body: Mapping[str, Any], kept: Mapping[str, Frozen]) -> Mapping[str, Frozen] | None:
    """The arguments that a policy judges, the presented ones where the tool got just these; None where a part of them is not known."""
    if body["followed"] is not None and "followed" not in kept:
        return None
    return kept.get("arguments" if body["bound"] is None else "bound")


def _answer(code: str | None, usage: Mapping[str, Frozen] | None) -> bool | None:
    """What humans answered about a call, as it was judged; that nobody could be asked denies it too."""
    if usage is not None and usage["answer"] is not None:
        return bool(usage["answer"]["granted"])
    return False if code == Code.APPROVAL_DENIED else None


def _by_artifact(reasons: Sequence[str]) -> bool:
    """Whether it is the artifact that had no use left, and no budget. Where nobody knows, it may have been."""
    return not reasons or _USES.match(reasons[0]) is not None


def _asked(made: Sequence[tuple[str, Mapping[str, Any]]], kept: Mapping[str, Mapping[str, Frozen]]) -> set[str]:
    """The executions that came to no more than a question about a call that was made again, to be answered or asked about once more."""
    over: set[str] = set()
    waiting: dict[tuple[str | None, str, str], dict[bytes, str]] = {}
    for execution, body in made:
        where = (body["task"], body["agent"], body["tool"])
        asks = put_to_humans(body)
        bound = _bound(body, kept.get(execution, {})) if asks or where in waiting else None
        if bound is None:
            continue
        here, call = waiting.setdefault(where, {}), jcs(bound)
        if call in here:
            over.add(here.pop(call))
        if asks:
            here[call] = execution
    return over


def _kept(home: Path, decisions: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Frozen]]:
    """By execution and kind what is kept of the values behind the commitments of a decision, where it is what was committed to."""
    found: dict[str, dict[str, Frozen]] = {}
    for item in SideStore(home / "side").values():
        body = decisions.get(item.execution)
        if body is None or item.kind not in _KINDS or (item.kind == "arguments" and body["bound"] is not None):
            continue
        if commit(item.salt, item.value) == body[item.kind]:
            found.setdefault(item.execution, {})[item.kind] = freeze(parse(item.value))
    return found
