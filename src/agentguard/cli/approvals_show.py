"""`agentguard approvals show`: everything that a request says, so that nothing in it can look like something else."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from agentguard.cli.approvals_desk import Desk, IdArgument, needs, on_behalf, span
from agentguard.cli.inputs import DEFAULT_HOME, HomeOption, JsonOption
from agentguard.cli.terminal import print_lines, result

if TYPE_CHECKING:
    from rich.console import Console

    from agentguard.approvals import Request, Weighed
    from agentguard.canonical import Frozen
    from agentguard.reading.lineage_show import Line

#: Stands before every line that an agent wrote, folded ones too: whatever such a line says, it is not ours.
_RAIL: Final = "  │ "
_FOLDED: Final = "  ┆ "


def show(identity: IdArgument, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Print a request: the exact call, on whose behalf, how the agent came to it, whose answer it needs, and the answers so far.

    Arguments are printed whole, as JSON, behind a rail. What is not a visible character is escaped; a text that is not plain ASCII is
    printed once more in ASCII, because letters of other alphabets can look like ours.

    Example: `agentguard approvals show 3f2a9c…`
    """
    desk = Desk.at(home)
    request = desk.inbox.get(identity)
    weighed = desk.weighed(request)
    result(as_json, _document(desk, request, weighed), lambda out: print_lines(out, _lines(out, desk, request, weighed)))


def _document(desk: Desk, request: Request, weighed: list[Weighed]) -> dict[str, Any]:
    from agentguard.canonical import thaw

    question = request.question
    return {
        **desk.to_json(request),
        "arguments": thaw(question.arguments),
        "followed": thaw(question.followed) if question.followed is not None else None,
        "reason": request.reason,
        "rule": request.place,
        "initiator_may_answer": request.terms.initiator,
        "agents": list(request.agents),
        "execution": request.execution,
        "caused_by": request.caused_by,
        "leaf": question.leaf,
        "policy": question.policy,
        "answers": [{name: value for name, value in one._asdict().items() if value != ""} for one in weighed],
    }


def _lines(out: Console, desk: Desk, request: Request, weighed: list[Weighed]) -> Iterator[Line]:
    from agentguard.reading.lineage_show import printable, when

    question, state = request.question, desk.state(request)
    role = {"open": "warn", "approved": "good"}.get(state, "bad")
    left = f"ends in {span(request.expires - desk.now)}" if desk.now < request.expires else "is over"
    who, authenticated = on_behalf(request.initiator)
    yield [
        ("request    ", "dim"),
        (request.id, "name"),
        ("  ", ""),
        (state, role),
        (f"  asked {when(request.asked * 10**9)}, {left}", "dim"),
    ]
    yield [("call       ", "dim"), (printable(question.agent), "name"), (" → ", ""), (printable(question.tool), "name")]
    yield [("arguments  ", "dim"), ("" if question.arguments else "none", "dim")]
    yield from ([(rail, "dim"), (part, "")] for rail, part in rendered(question.arguments, out.width))
    if question.followed is not None:
        yield [("with symbolic links followed", "dim")]
        changed = {name: value for name, value in question.followed.items() if value != question.arguments.get(name)}
        yield from ([(rail, "dim"), (part, "")] for rail, part in rendered(changed, out.width))
    yield [("on behalf  ", "dim"), (who, "" if authenticated else "warn")]
    yield [("because    ", "dim"), (printable(request.reason, 1000), "")]
    rule = f"  [{printable(request.place)}]" if request.place else ""
    yield [
        ("needs      ", "dim"),
        (needs(request), ""),
        ("; the initiator may answer" if request.terms.initiator else "", ""),
        (rule, "dim"),
    ]
    yield [
        ("lineage    ", "dim"),
        (" → ".join(["the issuer", *map(printable, request.agents)]), ""),
        (f", task {printable(question.task)}", "dim"),
    ]
    yield [("caused by  ", "dim"), (printable(request.caused_by or "nothing: it began a run"), "")]
    yield [("artifact   ", "dim"), (printable(question.leaf), ""), (f"  policy {printable(question.policy)}", "dim")]
    yield [("answers    ", "dim"), ("" if weighed else "none yet", "dim")]
    for one in weighed:
        yield _answer(one, local=one.key in desk.trust and desk.trust[one.key].local)


def _answer(one: Weighed, *, local: bool) -> Line:
    from agentguard.reading.lineage_show import printable, when

    said = f": {printable(one.reason, 1000)}" if one.reason else ""
    if one.why_not:
        name = printable(one.name or f"key {one.key}")
        return [("  does not count  ", "bad"), (name, "name"), (f"  {printable(one.why_not, 400)}", "")]
    vouched = "  (a key of this home: nobody else vouches for the name)" if local else ""
    role = "good" if one.verdict == "approve" else "bad"
    return [(f"  {one.verdict:<14}  ", role), (one.name, "name"), (f"  {when(one.time * 10**9)}{said}", ""), (vouched, "dim")]


def rendered(arguments: Mapping[str, Frozen], width: int) -> Iterator[tuple[str, str]]:
    """Arguments as (rail, text) lines that are no wider than `width` cells with the rail; each argument begins a line. Nothing is cut."""
    from agentguard.canonical import thaw

    for name, value in sorted(arguments.items()):
        label = name if name.isidentifier() and name.isascii() else _visible(json.dumps(name, ensure_ascii=False))
        lines = [_visible(line) for line in json.dumps(thaw(value), ensure_ascii=False, indent=2).split("\n")]
        for index, line in enumerate(lines):
            yield from _folded(f"{label} = {line}" if index == 0 else f"    {line}", width)
        if not "".join((label, *lines)).isascii():
            yield from _folded(f"{json.dumps(name)} in ASCII = {json.dumps(thaw(value))}", width)


def _visible(text: str) -> str:
    """JSON text with everything escaped that a terminal would not show as a character of its own."""
    return text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1].replace("\x7f", "\\u007f") for c in text)


def _folded(text: str, width: int) -> Iterator[tuple[str, str]]:
    """`text` in pieces that fit, so that a terminal never folds one itself: then every line on the screen has its rail."""
    from rich.cells import cell_len

    room = max(width - len(_RAIL) - 1, 20)
    rail, used = _RAIL, 0
    piece: list[str] = []
    for char in text:
        size = cell_len(char)
        if used + size > room:
            yield rail, "".join(piece)
            rail, piece, used = _FOLDED, [], 0
        piece.append(char)
        used += size
    yield rail, "".join(piece)
