"""What the demo says between its parts: short, for somebody who sees the project for the first time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from agentguard.cli.terminal import count, print_lines
from agentguard.log import VerifyReport
from agentguard.reading.lineage import Lineage
from agentguard.reading.lineage_show import lines, printable
from agentguard_adapters.demo.conditions import Condition
from agentguard_adapters.demo.proof import Flip
from agentguard_adapters.demo.result import Result, Runs, size
from agentguard_adapters.demo.scene import Scene

_BEGINS: Final = 60
_UNASKED: Final = "general-purpose"


class Teller:
    """Prints on one console."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def growing(self) -> Live:
        """Where a table grows for whoever watches. It leaves nothing behind: print the table when it is whole."""
        return Live(console=self.console, auto_refresh=False, transient=True, vertical_overflow="visible")

    def table(self, table: RenderableType) -> None:
        """A table that is whole."""
        self.console.print()
        self.console.print(table)

    def opening(self, stage: Scene, model: str | None) -> None:
        self._part("The work, and the attack")
        who = f"The model is {model}." if model else "The model is scripted, and believes everything that it reads."
        self._say(
            "Alice has a report written: an orchestrator (deepagents) lets a researcher read the company's documents, and a writer post "
            f"the report to the intranet. {who} Some documents hold orders that Alice never gave:"
        )
        for name, line in stage.injections():
            text = line.replace(stage.attacker.url, "http://attacker")
            self.console.print(Padding(Text.assemble((f"{name}: ", "bold"), (printable(text, 200), "red")), (0, 2)))

    def runs(self, stage: Scene) -> None:
        self._part("The same program, without the guard and with it")
        number, line = stage.guard_line()
        if number:
            self._say(f"All that differs is line {number} of {stage.story.name}, which the first run goes without:")
            self.console.print(Padding(Text(line, "bold"), (0, 2)))
        else:
            self._say(("There is no guard line in this program: both runs go without it.", "bold red"))

    def received(self, runs: Runs) -> None:
        requests, stolen = count(len(runs.leaked), "request"), count(runs.stolen(), "secret file")
        begins = next((one.body for one in runs.leaked if any(secret.strip() in one.body for secret in runs.secrets)), b"")
        self.console.print()
        unasked = any(row.agent == _UNASKED for row in runs.board.rows)
        self._say(
            "What stands on the right is read from the guard's log: allowed, or the code of the refusal, and then the tool did not run.",
            f" ({_UNASKED} is a sub-agent that deepagents adds by itself; nobody here asked for it.)" if unasked else "",
        )
        excerpt = f", one beginning {begins[:_BEGINS].decode('utf-8', 'replace')!r}" if begins else ""
        self._say(
            "The attacker's server, without the guard: ",
            (f"{requests}, {size(runs.leaked)} bytes, {stolen}", "bold red" if runs.leaked else ""),
            f"{excerpt}.",
        )
        guarded = f"{count(len(runs.leaked_guarded), 'request')}, {size(runs.leaked_guarded)} bytes"
        self._say("With it: ", (guarded, "bold red" if runs.leaked_guarded else "bold green"), ".", end="")
        self._say(f" Alice's report reached the intranet {_times(len(runs.published), len(runs.published_guarded))}.")

    @contextmanager
    def conditions(self) -> Iterator[Callable[[Condition], None]]:
        """A table that grows: call what this gives with each condition."""
        self._part("A call runs only while everything is in order")
        self._say(
            "Now the writer makes one allowed call, again and again, and each time one thing is not in order. Whether the tool ran, "
            "the servers say."
        )
        done: list[Condition] = []
        with self.growing() as live:

            def show(condition: Condition) -> None:
                done.append(condition)
                live.update(_table(done), refresh=True)

            yield show
        self.table(_table(done))

    def lineage(self, graph: Lineage) -> None:
        self._part("Who did what, on whose behalf")
        self._say("From the log. Each agent acts under an artifact of its own, which the one above derived and could only narrow.")
        self.console.print()
        print_lines(self.console, lines(graph))

    def log(self, report: VerifyReport, flip: Flip) -> None:
        self._part("The evidence, checked offline")
        errors = [finding for finding in flip.report.findings if finding.severity == "error"]
        found = f"{count(report.records, 'record')}, {count(len(report.findings), 'finding')}"
        genuine = (f"genuine, {found}", "green") if report.ok else (f"NOT GENUINE, {found}", "bold red")
        self._say("With nothing but the log's public key: ", genuine, ".")
        self._say(f"One bit of a recorded denial changed in a copy ({flip.file}, byte {flip.offset}):")
        for finding in errors[:3]:
            place = f" at byte {finding.offset}" if finding.offset is not None else ""
            self.console.print(Padding(Text(f"found{place}: {printable(finding.message, 160)}", "green"), (0, 2)))
        if not errors:
            self.console.print(Padding(Text("not found", "bold red"), (0, 2)))

    def closing(self, result: Result, kept: Path | None, seconds: float) -> None:
        self._part("In short")
        for claim in result.claims:
            mark, style = ("✓", "green") if claim.holds else ("✗ NOT TRUE:", "bold red")
            self.console.print(Text(f"{mark} {claim.sentence}", style))
        if result.ok:
            self._say(f"{seconds:.0f} s. Agents, model, tools and injections were the same in both runs; one line of middleware was not.")
        else:
            self._say(("It did not go as claimed.", "bold red"), f" {seconds:.0f} s.")
        if kept is not None:
            self._say(f"The evidence is in {kept}: agentguard lineage --home {kept}")

    def _part(self, title: str) -> None:
        self.console.print()
        self.console.print(Rule(Text(title, "bold"), align="left", style="dim"))

    def _say(self, *parts: str | tuple[str, str], end: str = "\n") -> None:
        self.console.print(Text.assemble(*parts), end=end)


def _times(without: int, guarded: int) -> str:
    if without == guarded == 1:
        return "both times"
    return f"{count(without, 'time')} without the guard, {count(guarded, 'time')} with it"


def _table(found: Sequence[Condition]) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for name in ("what is wrong", "", "answer", "ran"):
        table.add_column(name, overflow="fold")
    for one in found:
        answer = Text(one.found or "allowed", "" if not one.holds else "bold magenta" if one.found else "green")
        if not one.holds:
            answer = Text(f"{answer.plain}, expected {one.expected or 'allowed'}", "bold red")
        table.add_row(one.name, one.what, answer, Text("yes" if one.ran else "no", "" if one.holds else "bold red"))
    return table
