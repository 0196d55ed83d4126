"""What an operator sets for a home, in `HOME/settings.json`. There is one setting, and without the file it has its default.

{"keep_values": "90d"}      values behind the log's commitments are kept for 90 days (the default); "30d", "12h", ... likewise
{"keep_values": "forever"}  until somebody erases them
{"keep_values": "none"}     never: commitments can then not be opened by anybody
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentguard.canonical import as_mapping, parse
from agentguard.errors import InvalidInput
from agentguard.spans import parse_span

FILE: Final = "settings.json"


@dataclass(frozen=True, slots=True)
class Settings:
    """`keep_values` as it stands in the file."""

    keep_values: str = "90d"

    @classmethod
    def load(cls, home: Path) -> Settings:
        """The settings of a home. Raises InvalidInput that names file and member: what cannot be read is not taken for a default."""
        path = home / FILE
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return cls()
        except OSError as error:
            raise InvalidInput(f"cannot be read: {error.strerror}", place=str(path)) from None
        try:
            members = as_mapping(parse(data), "the settings")
            unknown = sorted(members.keys() - {"keep_values"})
            if unknown:
                raise InvalidInput(f"unknown member {unknown[0]!r:.60}")
            made = cls(members.get("keep_values", cls().keep_values))
            made.seconds()
        except InvalidInput as error:
            raise InvalidInput(error.message, place=str(path), hint='for example {"keep_values": "30d"}, "none" or "forever"') from None
        return made

    def seconds(self) -> int | None:
        """How long values are kept; 0: not at all, None: until somebody erases them. Raises InvalidInput."""
        if self.keep_values in ("none", "forever"):
            return 0 if self.keep_values == "none" else None
        if type(self.keep_values) is not str:
            raise InvalidInput('keep_values is a span of time, "none" or "forever"')
        return parse_span(self.keep_values)
