"""Lineage for people: lines of text, a mermaid flowchart, HTML (see `agentguard.reading.lineage`).

Names in a log may come from anywhere, so everything that is shown goes through `printable`: a terminal, a diagram and a page get letters,
never control sequences or markup.
"""

from __future__ import annotations

import html as markup
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from agentguard.reading.lineage_nodes import Execution, Node, Task

if TYPE_CHECKING:
    from agentguard.reading.lineage import Lineage

#: A piece of a line and its role: "" plain, "good", "bad", "warn", "dim", "name".
Span: TypeAlias = tuple[str, str]
Line: TypeAlias = list[Span]

_COLOURS: Final = {"good": "#1a7f37", "bad": "#cf222e", "warn": "#9a6700", "dim": "#6e7781", "name": "inherit"}
_MAX_INDENT: Final = 48
_MAX_NAME: Final = 256


def printable(text: Any, limit: int = _MAX_NAME) -> str:
    """`text` with everything escaped that is not a visible character or a space, shortened to `limit` characters."""
    whole = str(text)
    short = whole if len(whole) <= limit else whole[: limit - 1] + "…"
    return short if short.isprintable() else "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in short)


def when(time_ns: int) -> str:
    """Nanoseconds since the epoch as UTC to the millisecond; `?` for a time that no calendar holds."""
    try:
        return datetime.fromtimestamp(time_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"
    except (ValueError, OverflowError, OSError):
        return "?"


def span(nanoseconds: int) -> str:
    """A duration in the unit that suits it."""
    for unit, size in (("s", 1_000_000_000), ("ms", 1_000_000), ("µs", 1_000)):
        if nanoseconds >= size:
            return f"{nanoseconds / size:.3g} {unit}" if nanoseconds < 1000 * size else f"{nanoseconds // size} {unit}"
    return f"{nanoseconds} ns"


def lines(lineage: Lineage) -> Iterator[Line]:
    """What is in focus, line by line."""
    subject = lineage.subject
    if subject is None:
        return _tasks(lineage)
    execution = lineage.executions.get(subject)
    return _task(lineage, lineage.task(subject)) if execution is None else _execution(lineage, execution)


def html(lineage: Lineage) -> str:
    """The same lines as an HTML fragment."""
    rows = "\n".join("".join(_span(part, role) for part, role in line) for line in lines(lineage))
    return f'<pre style="line-height:1.35">{rows}</pre>'


def _span(part: str, role: str) -> str:
    shown = markup.escape(part)
    return f'<span style="color:{_COLOURS[role]}">{shown}</span>' if role else shown


# --- pieces -----------------------------------------------------------------------------------------------------------------------------


def _who(initiator: Any) -> Line:
    """The initiator, and how anybody knows: `asserted` proves nothing, and that shows."""
    if not initiator:
        return [("nobody named", "warn")]
    name, method = printable(initiator.get("id")), printable(initiator.get("method"))
    if method == "asserted":
        return [(name, "name"), (" (ASSERTED: nobody authenticated it)", "warn")]
    return [(name, "name"), (f" (authenticated by {method})", "good")]


def _verdict(execution: Execution) -> Line:
    status = execution.status
    if execution.verdict != "allow":
        return [(f"{printable(execution.verdict)} {printable(status)}", "warn" if execution.verdict == "ask" else "bad")]
    if status == "unknown":
        return [("allow", "good"), (", outcome UNKNOWN", "warn")]
    tail = f" {printable(execution.outcome.error)}" if execution.outcome is not None and execution.outcome.error else ""
    ran: Line = [("allow", "good"), (f", {printable(status)}{tail}", "" if status == "ok" else "warn")]
    took = execution.duration_ns
    return [*ran, (f" in {span(took)}", "dim")] if took is not None and status != "not_run" else ran


def _node(node: Node) -> Line:
    if isinstance(node, Execution):
        call: Line = [(printable(node.agent), "name"), (" → ", ""), (printable(node.tool), "name"), ("  ", "")]
        return [*call, *_verdict(node), (f"  {printable(node.id)}", "dim")]
    source = "issued" if node.parent is None else f"delegated by {printable(node.from_agent or '?')}"
    seen = ", first seen with a call" if node.observed else ""
    tools = f"  [{', '.join(printable(tool, 64) for tool in node.tools[:8])}{', …' if len(node.tools) > 8 else ''}]"
    return [(printable(node.agent), "name"), (f"  {source}{seen}", ""), (tools, ""), (f"  artifact {printable(node.artifact[:16])}", "dim")]


# --- tasks ------------------------------------------------------------------------------------------------------------------------------


def _tasks(lineage: Lineage) -> Iterator[Line]:
    tasks = lineage.tasks
    for task in tasks:
        counts: Line = [(f"{task.allowed} allowed", "good" if task.allowed else "dim")]
        counts += [(", ", ""), (f"{task.refused} refused", "bad" if task.refused else "dim")]
        if task.unknown:
            counts += [(", ", ""), (f"{task.unknown} unknown", "warn")]
        made = f", {task.delegations} delegated" if task.delegations else ""
        yield [
            (printable(task.id), ""), (f"  {when(task.time)}  ", "dim"), (printable(task.agent), "name"), (" for ", ""),
            *_brief(task), ("  ", ""), *counts, (made, ""),
        ]  # fmt: skip
    if not tasks:
        yield [("no task is in the log yet", "dim")]
    if lineage.homeless:
        count = len(lineage.homeless)
        yield [(f"{count} call{'s' if count > 1 else ''} without a task {'were' if count > 1 else 'was'} refused:", "warn")]
        for execution in lineage.homeless[-20:]:
            yield [("  ", ""), *_node(execution)]


def _brief(task: Task) -> Line:
    if not task.initiator:
        return [("nobody named", "warn")]
    method = printable(task.initiator.get("method"))
    return [(printable(task.initiator.get("id")), "name"), (f" ({method})", "warn" if method == "asserted" else "good")]


def _task(lineage: Lineage, task: Task) -> Iterator[Line]:
    yield [("task ", ""), (printable(task.id), "name"), (f"  {when(task.time)}", "dim")]
    yield [("initiator  ", "dim"), *_who(task.initiator)]
    yield [("policy     ", "dim"), (printable(task.policy or "none"), "")]
    if task.caused_by is not None:
        yield [("caused by  ", "dim"), (printable(task.caused_by), "")]
    open_levels: list[bool] = []
    for branch in lineage.tree(task.id):
        del open_levels[branch.depth :]
        rails = "".join("│  " if going_on else "   " for going_on in open_levels[:_MAX_INDENT])
        deeper = f"({branch.depth - _MAX_INDENT} deeper) " if branch.depth > _MAX_INDENT else ""
        yield [(rails + deeper + ("└─ " if branch.last else "├─ "), "dim"), *_node(branch.node)]
        open_levels.append(not branch.last)
        for other in lineage.started_by(branch.node):
            rails = "".join("│  " if going_on else "   " for going_on in open_levels[:_MAX_INDENT])
            yield [(f"{rails}⇒ ", "dim"), ("started task ", ""), (printable(other), "name")]


# --- one execution ----------------------------------------------------------------------------------------------------------------------


def _execution(lineage: Lineage, execution: Execution) -> Iterator[Line]:
    grounds = lineage.stands_on(execution)
    yield [("execution ", ""), (printable(execution.id), "name"), ("  ", ""), *_verdict(execution)]
    call_id = printable(execution.record.get("call_id") or "")
    yield [(f"{printable(execution.agent)} → {printable(execution.tool)}", "name"), (f", call id {call_id}, {when(execution.time)}", "dim")]
    yield [("It stood on", "")]
    yield [("  initiator    ", "dim"), *_who(grounds["initiator"])]
    yield [("  issuer       ", "dim"), (printable(grounds["issuer"] or "not known here"), "")]
    if not grounds["chain"]:
        yield [("  chain        ", "dim"), ("none", "warn")]
    for index, link in enumerate(grounds["chain"]):
        yield [("  chain        " if index == 0 else "               ", "dim"), *_link(index, link)]
    yield [("  policy       ", "dim"), (printable(grounds["policy"] or "none"), "")]
    facts = grounds["environment"]["facts"] or {}
    shown = ", ".join(f"{printable(name, 64)}={printable(value, 80)}" for name, value in sorted(facts.items())) or "facts not known here"
    yield [("  environment  ", "dim"), (shown, ""), (f"  {printable(grounds['environment']['digest'])}", "dim")]
    version = grounds["tool"]["version"]
    yield [("  tool         ", "dim"), (printable(version), "") if version else ("not registered with the guard", "warn")]
    lock = grounds["lock"]
    yield [("  tool lock    ", "dim"), (printable(lock), "") if lock else ("none: what was registered is the pin", "warn")]
    yield [("  guard        ", "dim"), (f"agentguard {printable(grounds['guard'] or '?')}", "")]
    causes = ", which was caused by ".join(map(printable, grounds["caused_by"][:16]))
    yield [("  caused by    ", "dim"), (causes or "nothing: it began a run", "")]
    yield [("It caused", "")]
    caused = lineage.caused(execution)
    for node in caused:
        yield [("  ", ""), *_node(node), (f"  task {printable(node.task)}" if node.task != execution.task else "", "dim")]
    if not caused:
        yield [("  nothing that is in the log", "dim")]


def _link(index: int, link: dict[str, Any]) -> Line:
    how = f"derived by {printable(link['from_agent'] or 'the holder above')}" if index else "issued"
    until = f", expires {when(link['expires'] * 1_000_000_000)}" if link["expires"] else ""
    tools = ", ".join(printable(tool, 64) for tool in link["tools"][:8]) + (", …" if len(link["tools"]) > 8 else "")
    return [
        (f"{index} ", "dim"), (printable(link["agent"] or "?"), "name"), (f", {how}{until}", ""), (f"  [{tools}]" if tools else "", ""),
        (f"  {printable((link['artifact'] or '?')[:16])}", "dim"),
    ]  # fmt: skip


# --- mermaid ----------------------------------------------------------------------------------------------------------------------------

_CLASSES: Final = """\
    classDef good fill:#dafbe1,stroke:#1a7f37,color:#1a1a1a
    classDef bad fill:#ffebe9,stroke:#cf222e,color:#1a1a1a
    classDef warn fill:#fff8c5,stroke:#9a6700,color:#1a1a1a
    classDef artifact fill:#ddf4ff,stroke:#0969da,color:#1a1a1a"""


def mermaid(lineage: Lineage) -> str:
    """What is in focus as a flowchart: arrows run from cause to effect, from an artifact to what stands on it."""
    out = ["flowchart TD"]
    subject = lineage.subject
    if subject is None:
        out += _task_nodes(lineage)
    else:
        execution = lineage.executions.get(subject)
        nodes = [branch.node for branch in lineage.tree(subject)] if execution is None else [execution, *lineage.caused(execution)]
        names = {node.id: f"n{index}" for index, node in enumerate(nodes)}
        if execution is None:
            task = lineage.task(subject)
            out.append(f"    t{_label([f'task {task.id}', ''.join(part for part, _ in _brief(task))])}")
        for node in nodes:
            out.append(f"    {names[node.id]}{_box(node)}")
        pointed = set()
        for start, end, kind in lineage.edges(nodes):
            if end in names:
                arrow = "-.->" if kind == "authorized_by" else "-->"
                out.append(f"    {names[end]} {arrow}|{_RELATION[kind]}| {names[start]}")
                pointed.add(start)
        out += [f"    t --> {names[node.id]}" for node in nodes if execution is None and node.id not in pointed]
    return "\n".join([*out, _CLASSES])


_RELATION: Final = {"authorized_by": "authorizes", "delegated_from": "delegates", "caused_by": "causes"}


def _task_nodes(lineage: Lineage) -> Iterator[str]:
    tasks = lineage.tasks
    names = {task.id: f"t{index}" for index, task in enumerate(tasks)}
    for task in tasks:
        counts = f"{task.allowed} allowed, {task.refused} refused"
        kind = "bad" if task.refused else "warn" if task.unknown else "good"
        yield f"    {names[task.id]}{_label([task.id, f'{task.agent} for ' + ''.join(part for part, _ in _brief(task)), counts])}:::{kind}"
    for task in tasks:
        cause = lineage.executions.get(task.caused_by or "")
        if cause is not None and cause.task in names:
            yield f"    {names[cause.task]} -->|causes| {names[task.id]}"


def _box(node: Node) -> str:
    if isinstance(node, Execution):
        kind = "bad" if node.verdict != "allow" else "good" if node.status == "ok" else "warn"
        return _label([f"{node.agent} → {node.tool}", "".join(part for part, _ in _verdict(node))]) + f":::{kind}"
    return _label([node.agent, f"artifact {node.artifact[:12]}"]) + ":::artifact"


def _label(parts: list[str]) -> str:
    """A quoted label. Every character that is not a letter, a digit or harmless becomes a mermaid entity, so no name can add a node."""
    shown = (printable(part, 80) for part in parts)
    escaped = ("".join(c if c.isalnum() or c in " _-.,:→()/@" else f"#{ord(c)};" for c in part) for part in shown)
    return '["' + "<br/>".join(escaped) + '"]'
