"""The table of tool calls: what became of each without the guard, and with it. It fills while the agents run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from langchain_core.messages import AIMessage, ToolCall, ToolMessage
from rich.box import SIMPLE_HEAD
from rich.live import Live
from rich.table import Table
from rich.text import Text

from agentguard.log import iter_records
from agentguard.reading.lineage_show import printable
from agentguard_adapters.demo.loopback import Listener
from agentguard_adapters.demo.scene import Scene

#: Ways to end, and how each is shown.
RUNNING, RAN, FAILED, LEAKED, ALLOWED, UNGUARDED = "…", "ran", "failed", "LEAKED", "allowed", "NOT GUARDED"
_STYLES: Final = {RUNNING: "dim", RAN: "", FAILED: "yellow", LEAKED: "bold red", ALLOWED: "green", UNGUARDED: "red"}
#: Any other word is the code of a refusal.
_REFUSED: Final = "bold magenta"
_AIMS: Final = ("file_path", "path", "url", "subagent_type")


@dataclass(slots=True)
class End:
    """What became of one call: one of the words above, or the code of its refusal; and how many bytes leaked."""

    call_id: str
    word: str = RUNNING
    leaked: int = 0

    @property
    def judged(self) -> bool:
        """Whether a decision about it stands in the log, and nothing leaked."""
        return self.word == ALLOWED or self.word not in _STYLES

    def __str__(self) -> str:
        return f"{self.word} {self.leaked} B" if self.leaked else self.word

    def shown(self) -> Text:
        return Text(str(self), _STYLES.get(self.word, _REFUSED))


@dataclass(slots=True)
class Row:
    """One call of a tool: who, which, on what; and its end in each run that got so far."""

    agent: str
    tool: str
    aim: str
    ends: dict[bool, End] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        ends = {("guarded" if guarded else "unguarded"): str(end) for guarded, end in self.ends.items()}
        return {"agent": self.agent, "tool": self.tool, "aim": self.aim, **ends}


class Board:
    """Both runs side by side. `begin` names the run, then `watch` takes its steps."""

    def __init__(self, live: Live, scene: Scene) -> None:
        self.rows: list[Row] = []
        self._live, self._scene = live, scene
        self._guarded = self._over = False
        self._open: dict[str, tuple[Row, Mapping[str, Any]]] = {}

    def begin(self, *, guarded: bool) -> None:
        self._guarded = guarded
        self._open.clear()
        self._show()

    def end(self) -> None:
        """Both runs are over: what the second never came to, it never will."""
        self._over = True
        self._show()

    def watch(self, step: Mapping[str, Any]) -> None:
        """One step of one agent, as LangGraph streams it: {node: {"messages": [...]}}."""
        for update in step.values():
            messages = update.get("messages") if isinstance(update, Mapping) else None
            for message in messages if isinstance(messages, list) else []:
                if isinstance(message, AIMessage):
                    for call in message.tool_calls:
                        self._asked(message.name or "?", call)
                elif isinstance(message, ToolMessage):
                    self._answered(message)
        self._show()

    def calls(self, *, guarded: bool) -> list[End]:
        return [row.ends[guarded] for row in self.rows if guarded in row.ends]

    def _asked(self, agent: str, call: ToolCall) -> None:
        aim = next((str(call["args"][name]) for name in _AIMS if call["args"].get(name)), "")
        same = [row for row in self.rows if (row.agent, row.tool, row.aim) == (agent, call["name"], aim)]
        row = next((row for row in same if self._guarded not in row.ends), None)
        if row is None:
            row = Row(agent, call["name"], aim)
            self.rows.append(row)
        row.ends[self._guarded] = End(call["id"] or "")
        self._open[call["id"] or ""] = row, call["args"]

    def _answered(self, message: ToolMessage) -> None:
        row, arguments = self._open.pop(message.tool_call_id, (None, {}))
        if row is None:
            return
        end = row.ends[self._guarded]
        end.leaked = self._scene.attacker.size_at(str(arguments.get("url")))
        if end.leaked:
            end.word = LEAKED
        elif self._guarded:
            end.word = self._verdict(end.call_id)
        else:
            end.word = RAN if message.status == "success" else FAILED

    def _verdict(self, call_id: str) -> str:
        """What the log says of a call: the decision stands there before the tool runs."""
        for _, _, data in iter_records(self._scene.home):
            record = msgspec.json.decode(data)
            if record["type"] == "decision" and record["call_id"] == call_id:
                return ALLOWED if record["verdict"] == "allow" else str(record["code"])
        return UNGUARDED

    def _show(self) -> None:
        self._live.update(self, refresh=True)

    def __rich__(self) -> Table:
        table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
        table.add_column("agent", overflow="ellipsis")  # the one that gives way where 80 columns are not enough
        for name in ("call", "without guard", "with guard"):
            table.add_column(name, no_wrap=True, overflow="ellipsis")
        for row in self.rows:
            ends = [row.ends[guarded].shown() if guarded in row.ends else self._never(guarded) for guarded in (False, True)]
            table.add_row(printable(row.agent), f"{printable(row.tool)} {self._named(row.aim)}", *ends)
        return table

    def _named(self, aim: str) -> str:
        """An aim for people: a server by its part in the story rather than by its port."""
        for name, server in (("attacker", self._scene.attacker), ("intranet", self._scene.intranet)):
            aim = _renamed(aim, name, server)
        return printable(aim, 40)

    def _never(self, guarded: bool) -> Text:
        return Text("not reached" if self._over or self._guarded > guarded else "", "dim")


def _renamed(aim: str, name: str, server: Listener) -> str:
    return aim.replace(server.url, f"{name}:")
