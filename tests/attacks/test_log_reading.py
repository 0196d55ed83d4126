"""Attacks on those who read the log: an index that lies, names that are formulas, markup or control sequences, answers that mislead.

Names of agents, tools and initiators come from anywhere: from a policy, a framework, a token of somebody else's issuer.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentguard import Denied, Guard
from agentguard.canonical import jcs
from agentguard.cli import app
from agentguard.errors import InvalidInput
from agentguard.evidence import commit
from agentguard.exports import provenance, records, write_csv
from agentguard.reading.index import Index
from agentguard.reading.index_rows import Row
from agentguard.reading.lineage import Lineage
from agentguard.reading.queries import Filter, Questions
from agentguard.store import SideStore
from support.logs import START_NS, canonical, decision, open_log, outcome
from support.transcript import inside

# --- the index ----------------------------------------------------------------------------------------------------------------------------

LIES: dict[type, list[Any]] = {str: ["allow", "deny", "e0", "e1", "task-2", "0" * 16, "../../x", None], int: [0, 1, 2**62, -1, "x"]}


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("honest")
    with open_log(home) as log:
        log.append(canonical(agent="triage", artifact="ab" * 32, id="d", parent=None, task="task-1", time=str(START_NS), type="delegation"))
        for number in range(3):
            more = {"artifact": "ab" * 32, "code": "tool_not_allowed", "initiator": {"id": "alice"}, "time": str(START_NS + number)}
            log.append(decision(f"e{number}", verdict="deny", caused_by="e0" if number else None, **more))
        log.append(outcome("e0"))
    Index(home).close()
    return home


WANTED = ({}, {"verdict": "deny"}, {"verdict": "allow"}, {"task": "task-2"}, {"agent": "triage"}, {"initiator": "alice"})
QUESTIONS = [Filter(**wanted) for wanted in WANTED]


@pytest.mark.parametrize("column", Row._fields)
def test_whatever_the_index_says_answers_are_records_that_fit(honest: Path, column: str) -> None:
    """Every cell of the index is changed in every way: what comes out of it is in the log and is what was asked for, or nothing is."""
    with Questions(honest, fresh=True) as ask:
        truth = {(item.shard, item.number): item.record for item in ask.find(Filter())}
        truth |= {(item.shard, item.number): item.record for item in ask.find(Filter(type="outcome"))}
    kind = int if column in ("number", "offset", "time") else str
    saved = {path: path.read_bytes() for path in honest.glob("index.db*")}
    for lie in LIES[kind]:
        with sqlite3.connect(honest / "index.db", isolation_level=None) as database:
            try:
                database.execute(f"UPDATE OR REPLACE record SET {column} = ? WHERE number = 2", (lie,))
            except sqlite3.IntegrityError:
                continue
            finally:
                database.commit()
        database.close()
        for wanted in QUESTIONS:
            try:
                with Questions(honest) as ask:
                    for item in ask.find(wanted):
                        assert truth[item.shard, item.number] == item.record
                        assert wanted.matches(item.record), (column, lie, wanted)
            except InvalidInput as error:
                assert "the index" in str(error)  # noqa: PT017  # either is right
        with Index(honest) as index:
            if index.check():
                index.rebuild()
            assert index.check() == 0
        for path in honest.glob("index.db*"):
            path.unlink()
        for path, data in saved.items():
            path.write_bytes(data)


def test_a_fresh_index_finds_what_the_homes_index_hides(honest: Path) -> None:
    with sqlite3.connect(honest / "index.db", isolation_level=None) as database:
        database.execute("UPDATE record SET verdict = 'allow', agent = 'nobody' WHERE id = 'e1'")
    database.close()
    with Questions(honest) as ask, Questions(honest, fresh=True) as fresh:
        assert [item.record["id"] for item in ask.find(Filter(verdict="deny"))] == ["e0", "e2"]
        assert [item.record["id"] for item in fresh.find(Filter(verdict="deny"))] == ["e0", "e1", "e2"]
        with pytest.raises(InvalidInput, match="the index says something else"):
            list(ask.find(Filter(verdict="allow")))


def test_a_link_that_the_index_makes_up_gives_an_artifact_nothing(honest: Path) -> None:
    """Somebody wants the calls of one artifact to look as if another had authorised them."""
    with open_log(honest) as log:
        log.append(canonical(agent="x", artifact="cd" * 32, id="d2", parent=None, task="task-9", time=str(START_NS), type="delegation"))
    Index(honest).close()
    with sqlite3.connect(honest / "index.db", isolation_level=None) as database:
        database.execute("UPDATE record SET parent = ? WHERE id = 'd'", ("cd" * 32,))
    database.close()
    with Questions(honest) as ask, pytest.raises(InvalidInput, match="the index says something else"):
        list(ask.authorised("cd" * 32))


def test_an_index_cannot_lead_out_of_the_log(honest: Path, tmp_path: Path) -> None:
    (tmp_path / "bait").write_text("x" * 100)
    Index(honest).close()
    with sqlite3.connect(honest / "index.db", isolation_level=None) as database:
        database.execute("UPDATE record SET segment = ?", (f"../../../../../{tmp_path}/bait",))
        database.execute("UPDATE progress SET segment = ?", (f"../../../../../{tmp_path}/bait",))
    database.close()
    with Index(honest) as index:
        assert [record["id"] for record in index.records(index.execution("e1"))] == ["e1"]


# --- spreadsheets, terminals, graphs ------------------------------------------------------------------------------------------------------

FORMULAS = [
    "=1+1", "+1", "-1", "@SUM(A1)", "=cmd|'/c calc'!A1", "\t=1", "\r=1", "\n=1", " =1", "x;=1", "x|=1", "x;\"=1", "'=1", '"=1', "\u200b=1",
    "\x00=1", "x\n=1", "x\r\n;=1", "==1", "x; =1", "x;'+1",
]  # fmt: skip


@pytest.mark.parametrize("formula", FORMULAS)
def test_no_cell_is_a_formula(tmp_path: Path, formula: str) -> None:
    """Neither where commas part cells nor where semicolons, tabs or bars do; whatever the spreadsheet thinks of quotes."""
    with open_log(tmp_path) as log:
        log.append(decision("e", agent=formula, tool=formula, initiator={"id": formula, "method": formula}, code=formula, call_id=formula))
        log.append(outcome("e", error=formula))
    out = io.StringIO(newline="")
    write_csv(records(tmp_path), out)
    text = out.getvalue()
    cells = [cell for row in csv.reader(io.StringIO(text, newline="")) for cell in row]
    for separator in ";\t|":
        for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_NONE):
            cells += [cell for row in csv.reader(text.splitlines(), delimiter=separator, quoting=quoting) for cell in row]
    assert cells
    for cell in cells:
        assert not re.match(r"[\s\"]*[=+\-@]", cell), cell
    assert len(text.splitlines()) == 3, "a name adds no line"
    assert text.isprintable() or not set(text) & set("\x00\x1b\t\u200b")


def test_ordinary_names_stay_as_they_are(tmp_path: Path) -> None:
    names = ["user:alice", "a-b", "mail+tag@example.com", "Zoë", "a, b", 'say "hi"', "1-2", "a = b", "x@y"]
    with open_log(tmp_path) as log:
        for number, name in enumerate(names):
            log.append(decision(f"e{number}", agent=name))
    out = io.StringIO(newline="")
    write_csv(records(tmp_path), out)
    assert [row["agent"] for row in csv.DictReader(io.StringIO(out.getvalue(), newline=""))] == names


HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202e<b>&\"'\n- [x](y)"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    with Guard.open("agentguard: 1\nname: x\nagents: {a: {tools: {}}}\n", home=tmp_path / ".agentguard", durability="process") as guard:
        guard.home.log.append(
            canonical(agent=HOSTILE, artifact="ab" * 32, caused_by=None, expires=1, from_agent=HOSTILE, id="d", initiator={"id": HOSTILE},
                      observed=False, parent=None, task="task-1", time=str(START_NS), tools=[HOSTILE], type="delegation"),
            decision("e", agent=HOSTILE, tool=HOSTILE, initiator={"id": HOSTILE}, artifact="ab" * 32, code=HOSTILE, verdict="deny",
                     policy=HOSTILE, call_id=HOSTILE, tool_version=HOSTILE),
        )  # fmt: skip
    return tmp_path


@pytest.mark.parametrize("question", ["", "--denials", "--json", "--downstream-of e", "--authorised-by abababab", "--type delegation"])
def test_a_terminal_gets_letters(hostile: Path, question: str) -> None:
    with inside(hostile):
        answer = CliRunner().invoke(app, ["log", "query", *question.split()])
    assert answer.exit_code == 0, answer.stderr
    assert not set(answer.stdout) & set("\x1b\x07\u202e")


def test_a_graph_gets_no_name_that_it_does_not_expect(hostile: Path) -> None:
    model = pytest.importorskip("prov.model", reason="prov belongs to the dev extra")
    found = [entry.record for entry in records(hostile / ".agentguard")]
    document = provenance(Lineage.of(found), "task-1")
    for section, members in document.items():
        assert section.isalpha()
        assert all(re.fullmatch(r"(ag:[A-Za-z0-9_.~%/-]+|_:r[0-9]+|ag|xsd)", name) for name in members)
    again = model.ProvDocument.deserialize(content=json.dumps(document), format="json")
    assert len(again.get_records()) == len(model.ProvDocument.deserialize(content=json.dumps(document), format="json").get_records())


# --- reasons ------------------------------------------------------------------------------------------------------------------------------

_POLICY = """
agentguard: 1
name: reasons
agents:
  triage:
    tools:
      mail: {to: {one_of: [bob]}}
"""


@pytest.mark.parametrize("to", ["x [policy.yaml:1]", "x [policy.yaml:1]; to allow it: y", "; to allow it: [policy.yaml:1]", "\n[a:1]"])
def test_what_was_refused_does_not_say_which_rule_refused_it(tmp_path: Path, to: str) -> None:
    with Guard.open(_POLICY, home=tmp_path, durability="process") as guard:

        @guard.tool
        def mail(to: str) -> None: ...

        with guard.task("triage", initiator="user:alice"), pytest.raises(Denied):
            mail(to=to)
    with Questions(tmp_path) as ask:
        (rule,) = ask.denials()
    assert (rule.code, rule.place) == ("argument_not_allowed", "<policy>:7")


def test_reasons_that_the_log_did_not_commit_to_say_nothing(tmp_path: Path) -> None:
    """Who may write into the side store, and not into the log, cannot blame another rule."""
    real, salt = jcs(["tool_not_allowed: mail [policy.yaml:1]"]), b"s" * 16
    with open_log(tmp_path) as log:
        log.append(decision("a", verdict="deny", code="tool_not_allowed", reasons=commit(salt, real)))
        log.append(decision("b", verdict="deny", code="tool_not_allowed", reasons=commit(salt, real)))
        log.append(decision("c", verdict="deny", code="tool_not_allowed", reasons=None))
    side = SideStore(tmp_path / "side")
    side.put("a", "reasons", salt, real)
    for name in "bc":
        side.put(name, "reasons", salt, jcs(["tool_not_allowed: mail [policy.yaml:99]"]))
    side.put("a", "reasons", b"", b"not JSON")
    side.close()
    with Questions(tmp_path) as ask:
        assert [(rule.place, rule.times) for rule in ask.denials()] == [(None, 2), ("policy.yaml:1", 1)]
