"""Spans of time as people write them: "90s", "15m", "2h", "7d"."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from agentguard.errors import InvalidInput

_SPAN: Final = re.compile(r"([1-9][0-9]{0,8})([smhd])?")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, None: 1}


def parse_span(text: object) -> int:
    """Seconds of "15m", "90s", "2h", "7d" or a plain number. Raises InvalidInput."""
    match = _SPAN.fullmatch(str(text)) if type(text) in (str, int) else None
    if match is None:
        raise InvalidInput(f"{text!r:.40} is not a span of time", hint='write "90s", "15m", "2h" or "7d"')
    return int(match[1]) * _UNITS[match[2]]


def show_span(seconds: int) -> str:
    """The span in its largest whole unit: "2h", "90s"."""
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds % length == 0:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def show_moment(second: int) -> str:
    """A second since 1970 to the minute: "2026-12-31 00:00 UTC"."""
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%d %H:%M UTC")
