"""Questions to the log (reading/queries.py): what a guard recorded is found by every one of them, and the answers are records."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from agentguard import Denied, Guard
from agentguard.cli.log_options import moment
from agentguard.context import current_task
from agentguard.errors import InvalidInput
from agentguard.reading.index import Index
from agentguard.reading.queries import Filter, Found, Questions
from support.logs import START_NS, canonical, decision, open_log, outcome

POLICY = """
agentguard: 1
name: queries
agents:
  triage:
    tools:
      echo: {x: any}
      outer: {x: any}
      mail:
        to: {one_of: [bob]}
        body: {max_length: 5}
    delegates: {writer: {depth: 1}}
  writer:
    tools: {echo: {x: any}}
  clerk:
    tools: {echo: {x: any}}
"""


class Run:
    """What a guard recorded: two tasks of different initiators, one of which began while a call of the other ran."""

    def __init__(self, home: Path) -> None:
        self.home = home
        with Guard.open(POLICY, home=home, durability="process") as guard:

            @guard.tool
            def echo(x: Any) -> Any:
                return x

            @guard.tool
            def mail(to: str, body: str) -> str:
                return "sent"

            @guard.tool
            def outer(x: Any) -> Any:
                with guard.task("clerk", initiator="service:batch"):
                    echo(x="inner")
                with current_task.get().delegate("writer"):  # type: ignore[union-attr]  # a task is current here
                    echo(x="handed over")
                return x

            with guard.task("triage", initiator="user:alice"):
                echo(x=1)
                for to, body in (("eve", "hi"), ("eve", "hi"), ("bob", "too long")):
                    with pytest.raises(Denied):
                        mail(to=to, body=body)
                outer(x=2)
        with Questions(home) as ask:
            self.every = list(ask.find(Filter()))
        self.calls = {(item.record["agent"], item.record["tool"], item.record["verdict"]): item for item in self.every if called(item)}
        self.links = {item.record["agent"]: item.record for item in self.every if item.record["type"] == "delegation"}
        self.task = self.links["triage"]["task"]


def called(item: Found) -> bool:
    return item.record["type"] == "decision"


def told(found: Any) -> list[str]:
    """Records in short."""
    names = {"decision": "{agent} {tool} {verdict}", "delegation": "=> {agent}"}
    return [names.get(item.record["type"], "{type}").format(**item.record) for item in found]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("queries"))


@pytest.fixture(params=[False, True], ids=["index", "fresh"])
def ask(run: Run, request: pytest.FixtureRequest) -> Any:
    with Questions(run.home, fresh=request.param) as questions:
        yield questions


EVERYTHING = [
    "open", "lock", "lock", "lock", "=> triage", "triage echo allow", "triage mail deny", "triage mail deny", "triage mail deny",
    "triage outer allow", "=> clerk", "clerk echo allow", "=> writer", "writer echo allow",
]  # fmt: skip


def test_everything(ask: Questions) -> None:
    found = list(ask.find(Filter()))
    assert told(found) == EVERYTHING
    ran = [item for item in found if called(item) and item.record["verdict"] == "allow"]
    assert [item.outcome is not None and item.outcome["status"] for item in ran] == ["ok"] * 4
    assert all(item.outcome is None for item in found if item not in ran)
    assert told(ask.find(Filter(type="outcome"))) == ["outcome"] * 4


@pytest.mark.parametrize(
    ("wanted", "answer"),
    [
        ({"agent": "clerk"}, ["=> clerk", "clerk echo allow"]),
        ({"tool": "echo"}, ["triage echo allow", "clerk echo allow", "writer echo allow"]),
        ({"tool": "echo", "agent": "writer"}, ["writer echo allow"]),
        ({"initiator": "service:batch"}, ["=> clerk", "clerk echo allow"]),
        ({"verdict": "deny", "tool": "mail"}, ["triage mail deny"] * 3),
        ({"code": "argument_not_allowed"}, ["triage mail deny"] * 3),
        ({"type": "delegation"}, ["=> triage", "=> clerk", "=> writer"]),
        ({"code": "tool_not_allowed"}, []),
        ({"agent": "nobody"}, []),
        ({"agent": "' OR 1=1 --"}, []),
    ],
)
def test_by_what_a_record_says(ask: Questions, wanted: dict[str, str], answer: list[str]) -> None:
    assert told(ask.find(Filter(**wanted))) == answer
    assert told(ask.find(Filter(**wanted), newest=True)) == answer[::-1]


def test_by_task_artifact_and_time(ask: Questions, run: Run) -> None:
    assert told(ask.find(Filter(task=run.links["clerk"]["task"]))) == ["=> clerk", "clerk echo allow"]
    assert told(ask.find(Filter(artifact=run.links["writer"]["artifact"]))) == ["=> writer", "writer echo allow"]
    middle = int(run.calls["triage", "outer", "allow"].record["time"])
    assert told(ask.find(Filter(since=middle))) == EVERYTHING[9:]
    assert told(ask.find(Filter(until=middle))) == EVERYTHING[:9]
    assert told(ask.find(Filter(since=middle, until=middle + 1))) == ["triage outer allow"]


def test_the_filter_says_of_a_record_what_the_index_says(run: Run) -> None:
    """Exports judge records, questions ask the index: the same."""
    middle = int(run.calls["triage", "outer", "allow"].record["time"])
    for wanted in (
        Filter(agent="triage"), Filter(initiator="user:alice"), Filter(since=middle), Filter(until=middle), Filter(verdict="deny"),
        Filter(task=run.task, tool="echo"), Filter(artifact=run.links["writer"]["artifact"]), Filter(type="lock"),
    ):  # fmt: skip
        with Questions(run.home) as ask:
            assert list(ask.find(wanted)) == [item for item in run.every if wanted.matches(item.record)]


@pytest.mark.parametrize("newest", [False, True])
@pytest.mark.parametrize("size", [1, 3, 50])
def test_page_by_page(ask: Questions, newest: bool, size: int) -> None:
    pages: list[Found] = []
    after = None
    while page := list(ask.find(Filter(), after=after, limit=size, newest=newest)):
        assert len(page) <= size
        pages += page
        after = page[-1].cursor
    assert told(pages) == (EVERYTHING[::-1] if newest else EVERYTHING)


def test_pages_of_records_of_one_time_and_of_none(tmp_path: Path) -> None:
    with open_log(tmp_path) as first, open_log(tmp_path) as second:
        for number in range(5):
            for name, log in (("a", first), ("b", second)):
                log.append(decision(f"{name}{number}", verdict="deny"))
        first.append(canonical(id="c", type="key"))
        first.append(b"rubbish")
    with Questions(tmp_path) as ask:
        whole = [(item.shard, item.number) for item in ask.find(Filter(type="decision"))]
        assert len(whole) == len(set(whole)) == 10
        paged: list[tuple[str, int]] = []
        after = None
        while page := list(ask.find(Filter(type="decision"), after=after, limit=3)):
            paged += [(item.shard, item.number) for item in page]
            after = page[-1].cursor
        assert paged == whole
        assert told(ask.find(Filter(type="key"))) == ["key"]


@pytest.mark.parametrize("cursor", ["", "1", "1-x-2", "-1-0123456789abcdef-3", "1-0123456789abcdef-3;"])
def test_cursors_that_are_none(ask: Questions, cursor: str) -> None:
    with pytest.raises(InvalidInput, match="not a cursor"):
        list(ask.find(Filter(), after=cursor))


def test_what_an_artifact_authorised(ask: Questions, run: Run) -> None:
    links = run.links
    below = ["=> triage", *EVERYTHING[5:10], "=> writer", "writer echo allow"]
    assert told(ask.authorised(links["triage"]["artifact"])) == below
    assert told(ask.authorised(links["triage"]["artifact"][:12])) == below
    assert told(ask.authorised(links["writer"]["artifact"])) == ["=> writer", "writer echo allow"]
    assert told(ask.authorised(links["clerk"]["artifact"])) == ["=> clerk", "clerk echo allow"]
    for beginning in ("", "abc", "f" * 64, links["triage"]["artifact"][:7], "%", links["triage"]["artifact"] + "0"):
        with pytest.raises(InvalidInput, match="no artifact in the log begins"):
            ask.authorised(beginning)


def test_artifacts_that_begin_alike(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        for end in ("00", "01"):
            log.append(canonical(artifact="ab" * 31 + end, id=end, type="delegation", time=str(START_NS)))
    with Questions(tmp_path) as ask:
        with pytest.raises(InvalidInput, match="several artifacts begin"):
            ask.authorised("abababab")
        assert [item.record["id"] for item in ask.authorised("ab" * 31 + "01")] == ["01"]


def test_links_that_go_in_a_circle(tmp_path: Path) -> None:
    """No honest guard writes that. It must not keep a question from ending."""
    with open_log(tmp_path) as log:
        for one, other in (("a" * 64, "b" * 64), ("b" * 64, "a" * 64)):
            log.append(canonical(artifact=one, parent=other, id=one[:4], type="delegation", caused_by="e", time=str(START_NS)))
        log.append(decision("e", artifact="a" * 64, caused_by="e"), outcome("e"))
    with Questions(tmp_path) as ask:
        assert len(list(ask.authorised("a" * 64))) == 3
        assert [item.record["id"] for item in ask.downstream("e")] == ["aaaa", "bbbb"]


def test_what_came_of_an_execution(ask: Questions, run: Run) -> None:
    outer = run.calls["triage", "outer", "allow"].record["id"]
    assert told(ask.downstream(outer)) == ["=> clerk", "clerk echo allow", "=> writer", "writer echo allow"]
    assert told(ask.downstream(run.calls["triage", "echo", "allow"].record["id"])) == []
    for unknown in ("", "nobody", run.task):
        with pytest.raises(InvalidInput, match="no execution has the id"):
            ask.downstream(unknown)


def test_denials_by_rule(ask: Questions, run: Run) -> None:
    rules = ask.denials()
    assert [(rule.times, rule.code, rule.agent, rule.tool) for rule in rules] == [
        (2, "argument_not_allowed", "triage", "mail"),
        (1, "argument_not_allowed", "triage", "mail"),
    ]
    assert [rule.place for rule in rules] == ["<policy>:10", "<policy>:11"]
    assert rules[0].first < rules[0].last
    assert ask.denials(Filter(agent="clerk")) == ()
    assert ask.denials(Filter(until=rules[0].first)) == ()


def test_progress_and_a_damaged_log(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        log.append(*[decision(f"e{number}") for number in range(10)])
    seen: list[tuple[int, int, int]] = []
    Questions(tmp_path, lambda *progress: seen.append(progress), fresh=True).close()
    assert not (tmp_path / "index.db").exists()
    size = next((tmp_path / "log").glob("*/*.seg")).stat().st_size
    assert seen[-1][0] == 10
    assert 0 < seen[-1][1] <= seen[-1][2] == size
    segment = next((tmp_path / "log").glob("*/*.seg"))
    data = bytearray(segment.read_bytes())
    data[200] ^= 1
    segment.write_bytes(data)
    for fresh in (False, True):
        with pytest.raises(InvalidInput, match="checksum"):
            Questions(tmp_path, fresh=fresh)


def test_a_home_that_only_lets_itself_be_read_is_asked_afresh(run: Run) -> None:
    with Questions(run.home, fresh=True) as ask, Index(run.home) as index:
        assert ask._index.size == index.size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-05-04T10:00:00Z", 1_777_888_800),
        ("2026-05-04T10:00:00", 1_777_888_800),
        ("2026-05-04T12:00:00+02:00", 1_777_888_800),
        ("2026-05-04", 1_777_852_800),
        ("1969-12-31", -86_400),
    ],
)
def test_times_as_people_write_them(text: str, seconds: int) -> None:
    assert moment(text, "--since") == seconds * 10**9


def test_spans_end_now() -> None:
    assert abs((moment("2h", "--since") or 0) - (time.time_ns() - 7200 * 10**9)) < 60 * 10**9
    assert moment(None, "--since") is None
    for wrong in ("", "yesterday", "2026-13-01", "-2h", "9" * 30 + "d"):
        with pytest.raises(InvalidInput, match=r"--until: .* is no time"):
            moment(wrong, "--until")
