"""Lineage: who did what on whose behalf, as a graph of records (DESIGN §1, §8).

A pure function of values: `Lineage.of(records)` takes the records of a log as dicts, in any order and from any number of shards, and
`focus(id)` looks at one task or one execution. Nothing here says that the records are authentic; `agentguard log verify` does.

Edges of the graph, each from the later to the earlier:

    caused_by       an execution, a delegation or a task that started while an execution ran
    authorized_by   an execution, by the artifact it was judged under
    delegated_from  an artifact, from the one it was derived from
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeAlias

from agentguard.canonical import b64url_decode, parse, sha256
from agentguard.errors import InvalidInput
from agentguard.reading import lineage_show
from agentguard.reading.lineage_nodes import (
    NOTHING,
    Delegation,
    Execution,
    Node,
    Outcome,
    Task,
    delegation_of,
    execution_of,
    order,
    outcome_of,
    text_of,
)

#: No chain is longer (AAT -02 §3.4, DESIGN §4); a log that says otherwise is not followed.
_MAX_LINKS: Final = 64


class Branch(NamedTuple):
    """A line of a task's tree: the node, how deep it stands (from 0), and whether it is the last of its siblings."""

    node: Node
    depth: int
    last: bool


@dataclass(frozen=True, slots=True)
class Lineage:
    """The graph. Without a focus it stands for all tasks; `text`, `json` and `mermaid` render what is in focus, and so does a notebook."""

    executions: Mapping[str, Execution]
    delegations: Mapping[str, Delegation]
    documents: Mapping[str, Any] = field(repr=False, default_factory=lambda: NOTHING)
    subject: str | None = None
    _effects: Mapping[str, tuple[Node, ...]] = field(repr=False, default_factory=lambda: NOTHING)
    _artifacts: Mapping[str, Delegation] = field(repr=False, default_factory=lambda: NOTHING)
    _members: Mapping[str, tuple[Node, ...]] = field(repr=False, default_factory=lambda: NOTHING)

    @classmethod
    def of(cls, records: Iterable[Mapping[str, Any]], documents: Mapping[str, Any] | None = None) -> Lineage:
        """Build the graph.

        records    decoded records of a log; types other than decision, outcome and delegation are passed over
        documents  what records name by digest and somebody could look up: {"sha256:…": parsed document}. Adds issuer and facts

        Total: a record that lacks members, or a log that contradicts itself, gives a poorer graph, never an exception.
        """
        executions: dict[str, Execution] = {}
        outcomes: dict[str, Outcome] = {}
        delegations: dict[str, Delegation] = {}
        for record in records:
            kind, identity = record.get("type"), text_of(record.get("id"))
            if identity is None:
                continue
            if kind == "decision":
                executions.setdefault(identity, execution_of(identity, record))
            elif kind == "outcome":
                execution = text_of(record.get("execution"))
                if execution is not None:
                    outcomes.setdefault(execution, outcome_of(record))
            elif kind == "delegation":
                delegations.setdefault(identity, delegation_of(identity, record))
        for identity, outcome in outcomes.items():
            if identity in executions:
                executions[identity] = replace(executions[identity], outcome=outcome)
        return cls(
            MappingProxyType(executions), MappingProxyType(delegations), documents or NOTHING, None, *_indexes(executions, delegations)
        )

    def focus(self, identity: str) -> Lineage:
        """The same graph, looking at one task or one execution. Raises InvalidInput if there is none with this id."""
        if identity not in self._members and identity not in self.executions:
            raise InvalidInput(f"no task and no execution has the id {identity!r:.80}", hint="without an id, all tasks are listed")
        return replace(self, subject=identity)

    def with_documents(self, documents: Mapping[str, Any]) -> Lineage:
        """The same graph, knowing these documents by their digests."""
        return replace(self, documents=documents)

    # --- asking -----------------------------------------------------------------------------------------------------------------

    @property
    def tasks(self) -> tuple[Task, ...]:
        """All tasks, the latest first."""
        return tuple(sorted(map(self.task, self._members), key=lambda task: (-task.time, task.id)))

    def task(self, identity: str) -> Task:
        """One task in sum. Raises InvalidInput if there is none with this id."""
        members = self._members.get(identity)
        if not members:
            raise InvalidInput(f"no task has the id {identity!r:.80}")
        calls = [node for node in members if isinstance(node, Execution)]
        made = self._links_of(identity)
        root = next((link for link in made if link.parent is None), None)
        first: Node = root or members[0]
        initiator = first.record.get("initiator")
        allowed = sum(call.verdict == "allow" for call in calls)
        return Task(
            id=identity,
            agent=first.agent,
            time=first.time,
            initiator=initiator if isinstance(initiator, Mapping) else NOTHING,
            policy=text_of(first.record.get("policy")),
            caused_by=first.caused_by,
            allowed=allowed,
            refused=len(calls) - allowed,
            unknown=sum(call.status == "unknown" for call in calls),
            delegations=sum(link.parent is not None for link in made),
        )

    @property
    def homeless(self) -> tuple[Execution, ...]:
        """Calls without a task: they were refused because nothing granted them."""
        return tuple(sorted((node for node in self.executions.values() if node.task is None), key=order))

    def tree(self, task: str) -> Iterator[Branch]:
        """The nodes of a task, each under what caused it, or else under the artifact that it stood on. Every node comes exactly once."""
        nodes: list[Node] = [*self._links_of(task), *(node for node in self._members.get(task, ()) if isinstance(node, Execution))]
        here = {node.id for node in nodes}
        below: dict[str | None, list[Node]] = {}
        for node in sorted(nodes, key=order):
            below.setdefault(self._above(node, task, here), []).append(node)
        left = set(here)
        yield from _walk(below, below.get(None, []), left)
        # What is left hangs in a circle, which no honest guard writes; it is shown from its earliest member on.
        for node in sorted(nodes, key=order):
            if node.id in left:
                yield from _walk(below, [node], left)

    def _above(self, node: Node, task: str, here: set[str]) -> str | None:
        if node.caused_by in here and node.caused_by != node.id:
            return node.caused_by
        hash_ = node.artifact if isinstance(node, Execution) else node.parent
        link = self._artifacts.get(_key(task, hash_))
        return link.id if link is not None and link.id != node.id else None

    def _links_of(self, task: str) -> list[Delegation]:
        """The artifacts of a task, one delegation each: two guards may have seen the same one."""
        nodes = self._members.get(task, ())
        return [node for node in nodes if isinstance(node, Delegation) and self._artifacts.get(_key(task, node.artifact)) is node]

    def started_by(self, node: Node) -> list[str]:
        """Ids of the tasks that began while an execution ran."""
        effects = self._effects.get(node.id, ()) if isinstance(node, Execution) else ()
        roots = [made for made in effects if isinstance(made, Delegation) and made.parent is None]
        return [made.task for made in roots if made.task is not None and made.task != node.task]

    def links(self, execution: Execution) -> list[dict[str, Any]]:
        """The chain under an execution, root first: agent, artifact, issuer, tools, expiry (seconds) and who derived it."""
        document = self.documents.get(text_of(execution.record.get("chain")) or "")
        tokens = document.get("aat_chain") if isinstance(document, Mapping) else None
        found = [_link_of(token) for token in tokens[:_MAX_LINKS]] if isinstance(tokens, list) else []
        if not found:
            hash_ = execution.artifact
            while hash_ is not None and len(found) < _MAX_LINKS:
                found.insert(0, {"artifact": hash_, "agent": "", "issuer": None, "expires": None, "tools": []})
                above = self._artifacts.get(_key(execution.task, hash_))
                hash_ = above.parent if above is not None else None
        for link in found:
            made = self._artifacts.get(_key(execution.task, link["artifact"]))
            if made is not None:
                link.update(agent=made.agent, tools=list(made.tools), expires=made.expires)
            link["from_agent"] = made.from_agent if made is not None else None
            link["observed"] = made.observed if made is not None else None
        return found

    def stands_on(self, execution: Execution) -> dict[str, Any]:
        """Everything an execution stood on."""
        record, links = execution.record, self.links(execution)
        initiator = record.get("initiator")
        facts = self.documents.get(text_of(record.get("environment")) or "")
        causes: list[str] = []
        above = execution.caused_by
        while above is not None and above not in causes and above != execution.id:
            causes.append(above)
            cause = self.executions.get(above)
            above = cause.caused_by if cause is not None else None
        return {
            "initiator": dict(initiator) if isinstance(initiator, Mapping) else None,
            "issuer": links[0]["issuer"] if links else None,
            "chain": links,
            "policy": text_of(record.get("policy")),
            "environment": {
                "digest": text_of(record.get("environment")),
                "facts": dict(facts) if isinstance(facts, Mapping) else None,
            },
            "tool": {"name": execution.tool, "version": text_of(record.get("tool_version"))},
            "lock": text_of(record.get("lock")),
            "anchors": text_of(record.get("anchors")),
            "guard": text_of(record.get("guard")),
            "proof": text_of(record.get("proof")),
            "caused_by": causes,
        }

    def caused(self, execution: Execution) -> tuple[Node, ...]:
        """Everything that came of an execution, directly or not, in the order of time; each node once."""
        found: dict[str, Node] = {}
        waiting = [execution.id]
        while waiting:
            for node in self._effects.get(waiting.pop(), ()):
                if node.id != execution.id and node.id not in found:
                    found[node.id] = node
                    waiting.append(node.id)
        return tuple(sorted(found.values(), key=order))

    # --- showing ----------------------------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """What is in focus, as one JSON document. Times are strings of nanoseconds, as in the log."""
        execution = self.executions.get(self.subject or "")
        if execution is not None:
            caused = [node.to_json() for node in self.caused(execution)]
            return {"execution": execution.to_json(), "stands_on": self.stands_on(execution), "caused": caused}
        if self.subject is None:
            return {"tasks": [task.to_json() for task in self.tasks], "without_task": [node.to_json() for node in self.homeless]}
        nodes = [branch.node for branch in self.tree(self.subject)]
        return {
            "task": self.task(self.subject).to_json(),
            "nodes": [node.to_json() for node in nodes],
            "edges": [{"from": start, "to": end, "kind": kind} for start, end, kind in self.edges(nodes)],
        }

    def edges(self, nodes: Iterable[Node]) -> Iterator[tuple[str, str, str]]:
        """(from, to, kind) of every edge that leaves one of these nodes."""
        for node in nodes:
            is_call = isinstance(node, Execution)
            made = self._artifacts.get(_key(node.task, node.artifact if isinstance(node, Execution) else node.parent))
            if made is not None and made.id != node.id:
                yield node.id, made.id, "authorized_by" if is_call else "delegated_from"
            if node.caused_by is not None:
                yield node.id, node.caused_by, "caused_by"

    def text(self) -> str:
        """What is in focus, as lines of text."""
        return "\n".join("".join(part for part, _ in line) for line in lineage_show.lines(self))

    def mermaid(self) -> str:
        """What is in focus, as a mermaid flowchart."""
        return lineage_show.mermaid(self)

    def _repr_html_(self) -> str:
        return lineage_show.html(self)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/plain": self.text(), "text/html": self._repr_html_()}

    def __str__(self) -> str:
        return self.text()


# --- indexes ----------------------------------------------------------------------------------------------------------------------------


def _key(task: str | None, artifact: str | None) -> str:
    return f"{artifact} {task}"


_Indexes: TypeAlias = tuple[Mapping[str, tuple[Node, ...]], Mapping[str, Delegation], Mapping[str, tuple[Node, ...]]]


def _indexes(executions: Mapping[str, Execution], delegations: Mapping[str, Delegation]) -> _Indexes:
    """Effects by cause, delegations by artifact, members by task."""
    effects: dict[str, list[Node]] = {}
    artifacts: dict[str, Delegation] = {}
    members: dict[str, list[Node]] = {}
    nodes: list[Node] = [*executions.values(), *delegations.values()]
    for node in sorted(nodes, key=order):
        if node.caused_by is not None:
            effects.setdefault(node.caused_by, []).append(node)
        if node.task is not None:
            members.setdefault(node.task, []).append(node)
        if isinstance(node, Delegation):
            known = artifacts.get(_key(node.task, node.artifact))
            if known is None or (known.observed and not node.observed):  # who made it knows more than who saw it
                artifacts[_key(node.task, node.artifact)] = node
    return (
        MappingProxyType({cause: tuple(found) for cause, found in effects.items()}),
        MappingProxyType(artifacts),
        MappingProxyType({task: tuple(found) for task, found in members.items()}),
    )


def _walk(below: Mapping[str | None, list[Node]], roots: list[Node], left: set[str]) -> Iterator[Branch]:
    """Depth first, without recursion: calls may nest deeper than Python's stack. Takes what it yields out of `left`."""
    stack = [Branch(node, 0, node is roots[-1]) for node in reversed(roots)]
    while stack:
        branch = stack.pop()
        if branch.node.id not in left:
            continue
        left.discard(branch.node.id)
        yield branch
        children = [child for child in below.get(branch.node.id, ()) if child.id in left]
        stack.extend(Branch(child, branch.depth + 1, child is children[-1]) for child in reversed(children))


def _link_of(token: Any) -> dict[str, Any]:
    """What a token says about itself, unverified: the guard verified it before it wrote the record that names it."""
    link: dict[str, Any] = {"artifact": None, "agent": "", "issuer": None, "expires": None, "tools": []}
    try:
        signing, _, _ = token.rpartition(".")
        claims = parse(b64url_decode(signing.partition(".")[2]), max_depth=256)
        link["artifact"] = sha256(signing.encode("ascii"))
        profile, expires = claims.get("agentguard"), claims.get("exp")
        link["issuer"] = text_of(claims.get("iss"))
        link["agent"] = text_of(profile.get("agent")) or "" if isinstance(profile, Mapping) else ""
        link["expires"] = expires if type(expires) is int else None
    except (InvalidInput, AttributeError, UnicodeEncodeError):
        return link
    return link
