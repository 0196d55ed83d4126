"""The tool lock: what each tool was when somebody looked at it, as a file (DESIGN §10)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from agentguard.canonical import digest, jcs, parse
from agentguard.errors import InvalidInput

if TYPE_CHECKING:
    from agentguard.tools.integrity import Tool

LOCK_FILE: Final = "tools.lock.json"


@dataclass(frozen=True, slots=True)
class LockEntry:
    """What a lock says of one tool. Every member is a digest or a name, so the file can be read and compared."""

    qualified: str
    source: str
    defaults: str
    closure: str
    schema: str
    injected: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "qualified": self.qualified,
            "source": self.source,
            "defaults": self.defaults,
            "closure": self.closure,
            "schema": self.schema,
            "injected": list(self.injected),
        }

    @property
    def fingerprint(self) -> str:
        return digest(self.to_json())

    def differs(self, other: LockEntry) -> str:
        """The first member that differs, in words; empty when nothing does."""
        for name in ("qualified", "source", "defaults", "closure", "schema", "injected"):
            if getattr(self, name) != getattr(other, name):
                return name
        return ""


@dataclass(frozen=True, slots=True)
class Lock:
    """The pinned fingerprint of each tool, as a file. `digest` is part of every decision record."""

    entries: Mapping[str, LockEntry]
    digest: str

    @classmethod
    def of(cls, tools: Mapping[str, Tool]) -> Lock:
        return cls._from({name: tool.entry for name, tool in sorted(tools.items())})

    @classmethod
    def _from(cls, entries: dict[str, LockEntry]) -> Lock:
        body = {name: entry.to_json() for name, entry in entries.items()}
        return cls(MappingProxyType(entries), digest({"agentguard": 1, "tools": body}))

    def _body(self) -> dict[str, Any]:
        return {"agentguard": 1, "tools": {name: entry.to_json() for name, entry in self.entries.items()}}

    @property
    def canonical(self) -> bytes:
        """The bytes that `digest` names."""
        return jcs(self._body())

    def dump(self) -> bytes:
        """The lock as a file, for people and for version control."""
        return json.dumps(self._body(), indent=2, sort_keys=True).encode() + b"\n"

    @classmethod
    def load(cls, path: Path) -> Lock | None:
        """The lock at `path`, or None where there is no file. Raises InvalidInput for anything that is not a lock."""
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InvalidInput(f"the tool lock cannot be read: {error.strerror}", place=str(path)) from None
        return cls.read(data, place=str(path))

    @classmethod
    def read(cls, data: bytes, *, place: str = "tool lock") -> Lock:
        try:
            body = parse(data)
            if type(body) is not dict or body.keys() != {"agentguard", "tools"} or body["agentguard"] != 1:
                raise InvalidInput("expected an object with members agentguard (1) and tools")
            if type(body["tools"]) is not dict:
                raise InvalidInput("tools must be an object")
            return cls._from({name: _entry(name, item) for name, item in sorted(body["tools"].items())})
        except InvalidInput as error:
            raise InvalidInput(f"not a tool lock: {error}", place=place, hint="write it anew with `agentguard tools lock`") from None

    def judge(self, tool: Tool) -> str:
        """Why `tool` is not the locked one, in words; empty when it is."""
        locked = self.entries.get(tool.name)
        if locked is None:
            return "the lock does not name it"
        name = locked.differs(tool.entry)
        return f"its {name} differs from the lock" if name else ""


def _entry(name: str, item: Any) -> LockEntry:
    members = ("qualified", "source", "defaults", "closure", "schema")
    if type(item) is not dict or item.keys() != {*members, "injected"} or any(type(item[member]) is not str for member in members):
        raise InvalidInput(f"tool {name!r}: expected the members {', '.join(members)} (strings) and injected (array)")
    if type(item["injected"]) is not list or any(type(part) is not str for part in item["injected"]):
        raise InvalidInput(f"tool {name!r}: injected must be an array of strings")
    return LockEntry(**{member: item[member] for member in members}, injected=tuple(item["injected"]))
