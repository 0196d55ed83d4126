"""The lineage graph: built from records in any order, total over records that make no sense, shown without letting a name speak."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentguard import Denied, Guard, Initiator, InvalidInput
from agentguard.reading.lineage import Lineage
from agentguard.reading.lineage_show import printable, span, when

NOW = 1_700_000_000_000_000_000


def decision(identity: str, *, at: int = 0, **members: Any) -> dict[str, Any]:
    base = {
        "type": "decision", "id": identity, "task": "t1", "agent": "triage", "tool": "search", "call_id": identity, "verdict": "allow",
        "code": None, "time": str(NOW + at), "caused_by": None, "artifact": "a0", "policy": "sha256:p",
        "initiator": {"id": "user:alice", "method": "asserted", "evidence": ""},
    }  # fmt: skip
    return {**base, **members}


def outcome(execution: str, *, at: int = 1, status: str = "ok", **members: Any) -> dict[str, Any]:
    return {"type": "outcome", "id": f"{execution}-end", "execution": execution, "status": status, "time": str(NOW + at), **members}


def delegation(identity: str, artifact: str, *, at: int = 0, **members: Any) -> dict[str, Any]:
    base = {
        "type": "delegation", "id": identity, "task": "t1", "agent": "triage", "from_agent": None, "artifact": artifact, "parent": None,
        "time": str(NOW + at), "expires": 1_800_000_000, "caused_by": None, "observed": False, "tools": ["search"], "policy": "sha256:p",
        "initiator": {"id": "user:alice", "method": "asserted", "evidence": ""},
    }  # fmt: skip
    return {**base, **members}


RUN = [
    delegation("d0", "a0"),
    decision("x1", at=10),
    outcome("x1", at=2_000_010),
    decision("x2", at=20, verdict="deny", code="argument_not_allowed", tool="send_email"),
    delegation("d1", "a1", at=30, agent="summarizer", from_agent="triage", parent="a0"),
    decision("x3", at=40, agent="summarizer", tool="read_file", artifact="a1"),
    outcome("x3", at=41, status="error", error="builtins.ValueError"),
    decision("x4", at=45, agent="summarizer", tool="stat", artifact="a1", caused_by="x3"),
    delegation("d2", "b0", at=46, task="t2", agent="helper", caused_by="x4"),
    decision("x5", at=47, task="t2", agent="helper", tool="ping", artifact="b0", caused_by="x4"),
    decision("x6", at=60, task=None, agent="nobody", verdict="deny", code="artifact_missing", artifact=None, initiator=None),
]


def test_a_task_is_a_tree_of_delegations_and_calls() -> None:
    graph = Lineage.of(RUN).focus("t1")
    shape = [(branch.depth, branch.node.id) for branch in graph.tree("t1")]
    assert shape == [(0, "d0"), (1, "x1"), (1, "x2"), (1, "d1"), (2, "x3"), (3, "x4")]
    assert graph.text().splitlines()[3:] == [
        "└─ triage  issued  [search]  artifact a0",
        "   ├─ triage → search  allow, ok in 2 ms  x1",
        "   ├─ triage → send_email  deny argument_not_allowed  x2",
        "   └─ summarizer  delegated by triage  [search]  artifact a1",
        "      └─ summarizer → read_file  allow, error builtins.ValueError in 1 ns  x3",
        "         └─ summarizer → stat  allow, outcome UNKNOWN  x4",
        "            ⇒ started task t2",
    ]


def test_the_order_of_records_makes_no_difference() -> None:
    expected = [Lineage.of(RUN).focus(name).to_json() for name in ("t1", "t2", "x3")]
    for seed in range(20):
        shuffled = random.Random(seed).sample(RUN, len(RUN))
        assert [Lineage.of(shuffled).focus(name).to_json() for name in ("t1", "t2", "x3")] == expected


def test_all_tasks_are_listed_the_latest_first() -> None:
    graph = Lineage.of(RUN)
    assert [task.id for task in graph.tasks] == ["t2", "t1"]
    first = graph.task("t1").to_json()
    assert first["calls"] == {"allowed": 3, "refused": 1, "unknown": 1}
    assert first["delegations"] == 1
    assert graph.task("t2").caused_by == "x4"
    assert [call.id for call in graph.homeless] == ["x6"]
    assert "1 call without a task was refused" in graph.text()


def test_an_execution_shows_what_it_stood_on_and_what_it_caused() -> None:
    facts = {"host": "h1", "deployment": "staging"}
    records = [{**record, "environment": "sha256:e", "lock": None, "tool_version": "sha256:v"} for record in RUN]
    graph = Lineage.of(records, {"sha256:e": facts})
    body = graph.focus("x4").to_json()
    grounds = body["stands_on"]
    assert grounds["initiator"]["method"] == "asserted"
    assert grounds["environment"] == {"digest": "sha256:e", "facts": facts}
    assert [(link["artifact"], link["agent"], link["from_agent"]) for link in grounds["chain"]] == [
        ("a0", "triage", None),
        ("a1", "summarizer", "triage"),
    ]
    assert grounds["caused_by"] == ["x3"]
    assert [node["id"] for node in body["caused"]] == ["d2", "x5"]
    assert [node["id"] for node in graph.focus("x3").to_json()["caused"]] == ["x4", "d2", "x5"]
    text = graph.focus("x4").text()
    assert "ASSERTED: nobody authenticated it" in text
    assert "deployment=staging, host=h1" in text


def test_edges_name_their_kind() -> None:
    body = Lineage.of(RUN).focus("t1").to_json()
    assert {(edge["from"], edge["to"], edge["kind"]) for edge in body["edges"]} == {
        ("x1", "d0", "authorized_by"),
        ("x2", "d0", "authorized_by"),
        ("d1", "d0", "delegated_from"),
        ("x3", "d1", "authorized_by"),
        ("x4", "d1", "authorized_by"),
        ("x4", "x3", "caused_by"),
    }


def test_an_initiator_somebody_authenticated_is_shown_so() -> None:
    who = {"id": "user:alice", "method": "oidc", "evidence": "sha256:x"}
    graph = Lineage.of([{**record, "initiator": who} for record in RUN])
    assert "user:alice (authenticated by oidc)" in graph.focus("t1").text()
    assert "ASSERTED" not in graph.focus("t1").text()


def test_an_artifact_seen_by_two_guards_stands_once() -> None:
    seen = [delegation(f"s{index}", "a0", at=5 + index, observed=True) for index in range(2)]
    graph = Lineage.of([*seen, *RUN])
    assert next(graph.tree("t1")).node.id == "d0"
    assert graph.task("t1").delegations == 1
    assert sum(branch.node.id.startswith("s") for branch in graph.tree("t1")) == 0


def test_what_has_no_id_is_refused_with_a_hint() -> None:
    with pytest.raises(InvalidInput, match="no task and no execution has the id 'x99'"):
        Lineage.of(RUN).focus("x99")


def test_circles_and_strangers_end() -> None:
    circle = [
        decision("x1", caused_by="x2"),
        decision("x2", caused_by="x3"),
        decision("x3", caused_by="x1"),
        decision("x4", caused_by="x4"),
        decision("x5", caused_by="unheard of", artifact="unheard of"),
        delegation("d1", "a1", parent="a2"),
        delegation("d2", "a2", parent="a1"),
    ]
    graph = Lineage.of(circle)
    assert sorted(branch.node.id for branch in graph.tree("t1")) == ["d1", "d2", "x1", "x2", "x3", "x4", "x5"]
    for name in ("t1", "x1", "x4", "x5"):
        look = graph.focus(name)
        assert look.text()
        assert look.mermaid()
        json.dumps(look.to_json())


def test_a_very_deep_nesting_is_no_recursion() -> None:
    chain = [decision("x0"), *(decision(f"x{index}", at=index, caused_by=f"x{index - 1}") for index in range(1, 5000))]
    graph = Lineage.of(chain).focus("t1")
    lines = graph.text().splitlines()
    assert len(lines) == 5003
    assert max(map(len, lines)) < 300
    assert len(graph.focus("x0").to_json()["caused"]) == 4999


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
_FEW = st.sampled_from(["x1", "x2", "d1", "t1", "a0", "a1", ""])
_MEMBERS = (
    "id task agent from_agent tool verdict code time caused_by artifact parent execution status error initiator policy environment chain "
    "tools expires observed tool_version lock"
)
_RECORD = st.fixed_dictionaries(
    {"type": st.sampled_from(["decision", "outcome", "delegation", "open"])}, optional=dict.fromkeys(_MEMBERS.split(), _FEW | _JSON)
)


@given(st.lists(_RECORD, max_size=12), st.dictionaries(_FEW, _JSON, max_size=3))
def test_any_records_give_a_graph_that_can_be_shown(records: list[dict[str, Any]], documents: dict[str, Any]) -> None:
    graph = Lineage.of(records, documents)
    for look in (graph, *(graph.focus(name) for name in [task.id for task in graph.tasks] + list(graph.executions))):
        assert look.text().replace("\n", "").isprintable()
        json.dumps(look.to_json())
        look.mermaid()
        look._repr_html_()
    for task in graph.tasks:
        shown = [branch.node.id for branch in graph.tree(task.id)]
        assert len(shown) == len(set(shown))


def test_a_name_cannot_speak_to_the_terminal_the_page_or_the_diagram() -> None:
    evil = 'x"]; click n0 "javascript:alert(1)"\x1b[2J<script>alert(1)</script>\n    n9["forged"]'
    graph = Lineage.of([delegation("d0", "a0", agent=evil), decision("x1", agent=evil, tool=evil)]).focus("t1")
    assert "\x1b" not in graph.text()
    assert "<script>" not in graph._repr_html_()
    diagram = graph.mermaid()
    assert "\n    n9[" not in diagram
    assert diagram.count('"') == 6  # the task, the artifact, the call: a label each
    assert all(line.lstrip().startswith(("flowchart", "t", "n", "classDef")) for line in diagram.splitlines())


def test_mermaid_points_from_cause_to_effect() -> None:
    diagram = Lineage.of(RUN).focus("t1").mermaid().splitlines()
    assert diagram[0] == "flowchart TD"
    assert '    n1["triage → search<br/>allow, ok in 2 ms"]:::good' in diagram
    assert "    n0 -.->|authorizes| n1" in diagram
    assert "    n0 -->|delegates| n3" in diagram
    assert "    n4 -->|causes| n5" in diagram
    assert "    t --> n0" in diagram


def test_a_notebook_shows_it() -> None:
    bundle = Lineage.of(RUN).focus("t1")._repr_mimebundle_()
    assert bundle["text/plain"].startswith("task t1")
    assert bundle["text/html"].startswith("<pre")


def test_words_for_times_and_names() -> None:
    assert when(NOW) == "2023-11-14 22:13:20.000Z"
    assert when(10**30) == "?"
    assert [span(value) for value in (5, 1_500, 2_000_000, 90 * 10**9)] == ["5 ns", "1.5 µs", "2 ms", "90 s"]
    assert printable("a\x1bb\u202ec") == "a\\x1bb\\u202ec"
    assert len(printable("x" * 1000)) == 256


def test_a_real_run_reads_back(tmp_path: Path) -> None:
    """The records that a guard writes: nested calls, a delegation, an authenticated initiator, a nested task."""
    from agentguard.reading.records import read_lineage

    policy = """
agentguard: 1
name: nested
agents:
  lead: {tools: {outer: {}, inner: {}}, delegates: {helper: {depth: 1}}}
  helper: {tools: {inner: {}}}
"""
    with Guard.open(policy, home=tmp_path / "home", durability="process") as guard:

        @guard.tool
        def inner() -> str:
            return "in"

        @guard.tool
        def outer() -> str:
            with guard.task("helper", initiator="service:outer"):
                inner()
            return inner()

        with guard.task("lead", initiator=Initiator("user:alice", "oidc")) as task:
            outer()
            with task.delegate("helper"):
                inner()
                with pytest.raises(Denied):
                    outer()
        first = task.id
    graph = read_lineage(tmp_path / "home", first)
    assert [(branch.depth, getattr(branch.node, "tool", "delegation")) for branch in graph.tree(first)] == [
        (0, "delegation"), (1, "outer"), (2, "inner"), (1, "delegation"), (2, "inner"), (2, "outer"),
    ]  # fmt: skip
    assert "⇒ started task" in graph.text()
    assert "authenticated by oidc" in graph.text()
    call = next(node for node in graph.executions.values() if node.tool == "outer" and node.verdict == "allow")
    look = read_lineage(tmp_path / "home", call.id)
    grounds = look.stands_on(call)
    assert grounds["issuer"].startswith("urn:ietf:params:oauth:jwk-thumbprint:")
    assert grounds["environment"]["facts"]["python"]
    assert [link["agent"] for link in grounds["chain"]] == ["lead"]
    assert {getattr(node, "tool", "delegation") for node in look.caused(call)} == {"inner", "delegation"}
