"""Windows of time in which calls are allowed: days of the week and hours of the day, as a clock on the wall of some zone shows them.

    {days: [mon, tue, wed, thu, fri], from: "08:00", to: "18:00", zone: Europe/Berlin}

A window that ends before it begins goes over midnight, and belongs to the day it begins on. Where a zone sets its clocks forward,
the hour that is left out is in no window; where it sets them back, the hour that comes twice is in or out of a window both times.

Rules of zones come from the package `tzdata`, not from the machine, whose files and variables (`PYTHONTZPATH`) may say anything; they are
read when a window is parsed. Asking whether one is open looks at nothing but the second that is asked about.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from importlib import resources
from itertools import groupby
from typing import Any, Final
from zoneinfo import ZoneInfo

from agentguard.canonical import Json
from agentguard.constraints.values import ARRAYS, show
from agentguard.errors import InvalidInput

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MEMBERS: Final = ("days", "from", "to", "zone")
_TIME: Final = re.compile(r"([01][0-9]|2[0-4]):([0-5][0-9])")
_DAY: Final = 24 * 60
_EXAMPLE: Final = '{days: [mon, tue], from: "08:00", to: "18:00", zone: Europe/Berlin}'
_FORTNIGHT: Final = 15 * _DAY * 60  # seconds; two of each weekday, since a change of clocks may leave out what one of them has


@dataclass(frozen=True, slots=True)
class Hours:
    """One window. Make it with `parse_hours`.

    days   the days on which it begins, 0 for Monday to 6 for Sunday
    start  the minute of the day at which it opens
    end    the minute of the day at which it closes, up to 1440; below `start`: of the day after
    zone   the zone's name in the IANA database
    """

    days: frozenset[int]
    start: int
    end: int
    zone: str
    _rules: ZoneInfo = field(compare=False, repr=False)

    def open(self, now: int) -> bool:
        """Whether the window is open at this second since the epoch. Pure; False for a second that no calendar of Python has."""
        try:
            there = datetime.fromtimestamp(now, self._rules)
        except (ValueError, OverflowError, OSError):
            return False
        minute, day = there.hour * 60 + there.minute, there.weekday()
        if self.start < self.end:
            return day in self.days and self.start <= minute < self.end
        return (day in self.days and minute >= self.start) or ((day - 1) % 7 in self.days and minute < self.end)

    def opens(self, after: int) -> int | None:
        """The first full minute from `after` on, in seconds, at which it is open. None where there is none within two weeks."""
        start = -(-after // 60) * 60
        return next((at for at in range(start, start + _FORTNIGHT, 60) if self.open(at)), None)

    def describe(self) -> str:
        """In words: `mon to fri 08:00 to 18:00 (Europe/Berlin)`."""
        hours = "" if (self.start, self.end) == (0, _DAY) else f" {_clock(self.start)} to {_clock(self.end)}"
        return f"{_days(self.days)}{hours} ({self.zone})"

    def to_json(self) -> dict[str, Json]:
        """The canonical form, which `parse_hours` reads: every member, days in the order of the week."""
        days = [DAYS[day] for day in sorted(self.days)]
        return {"days": days, "from": _clock(self.start), "to": _clock(self.end), "zone": self.zone}


def parse_hours(node: Any) -> Hours:
    """The window that an object stands for. Without `days` it is every day, without `from` and `to` all day. Raises InvalidInput."""
    if not isinstance(node, Mapping):
        raise InvalidInput(f"a window of hours must be an object, found {show(node)}", hint=f"for example {_EXAMPLE}")
    for name in node:
        if name not in _MEMBERS:
            raise InvalidInput(f"a window of hours has no member {show(name)}", hint=_near(str(name), _MEMBERS))
    if "zone" not in node:
        raise InvalidInput("the window names no zone", hint="for example zone: Europe/Berlin, or zone: UTC")
    days = _parse_days(node["days"]) if "days" in node else frozenset(range(7))
    start, end = _parse_clock("from", node.get("from", "00:00")), _parse_clock("to", node.get("to", "24:00"))
    if start == _DAY:
        raise InvalidInput("from cannot be 24:00", hint="write 00:00, and the day that begins then")
    if start == end:
        raise InvalidInput(f"from and to are both {_clock(start)}", hint="all day is from 00:00 to 24:00")
    end = end or _DAY
    if len(days) == 7 and (start, end) == (0, _DAY):
        raise InvalidInput("the window is always open", hint="leave it out, or name days or hours")
    zone = node["zone"]
    return Hours(days, start, end, zone, _zone(zone))


def _parse_days(node: Any) -> frozenset[int]:
    if type(node) not in ARRAYS or not node:
        raise InvalidInput(f"days must be a list of {', '.join(DAYS)}, found {show(node)}")
    days: list[int] = []
    for day in node:
        if type(day) is not str or day not in DAYS:
            raise InvalidInput(f"{show(day)} is not a day of the week", hint=_near(str(day).lower()[:3], DAYS))
        if DAYS.index(day) in days:
            raise InvalidInput(f"the day {day} stands twice")
        days.append(DAYS.index(day))
    return frozenset(days)


def _parse_clock(name: str, text: Any) -> int:
    match = _TIME.fullmatch(text) if type(text) is str else None
    minute = int(match[1]) * 60 + int(match[2]) if match is not None else _DAY + 1
    if minute > _DAY:
        raise InvalidInput(f"{name} must be a time of the day, found {show(text)}", hint='two digits each, quoted: "08:00" to "24:00"')
    return minute


@lru_cache(64)
def _rules(zone: str) -> ZoneInfo:
    with resources.files("tzdata").joinpath("zoneinfo", *zone.split("/")).open("rb") as file:
        return ZoneInfo.from_file(file, key=zone)


@lru_cache(1)
def _zones() -> tuple[str, ...]:
    return tuple(resources.files("tzdata").joinpath("zones").read_text("ascii").split())


def _zone(name: Any) -> ZoneInfo:
    if type(name) is not str or name not in _zones():  # only these: a name becomes the path of a file
        near = _near_zones(str(name)[:64].lower().replace(" ", "_"))
        hint = f"did you mean {' or '.join(near)}?" if near else "a name of the IANA database, such as Europe/Berlin or UTC"
        raise InvalidInput(f"there is no time zone {show(name)}", hint=hint)
    return _rules(name)


def _near_zones(wanted: str) -> tuple[str, ...]:
    """Zones by their name or their place, without Etc/GMT+2 and the like, which lie west where people mean east."""
    known: dict[str, str] = {}
    for zone in (zone for zone in _zones() if not zone.startswith("Etc/")):
        known.setdefault(zone.rpartition("/")[2].lower(), zone)
        known[zone.lower()] = zone
    if wanted in known:
        return (known[wanted],)
    return tuple(dict.fromkeys(known[word] for word in difflib.get_close_matches(wanted, known, n=2)))


def _near(word: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(word[:64], known, n=1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


def _days(days: frozenset[int]) -> str:
    """`every day`, or runs of days: `mon to fri, sun`."""
    if len(days) == 7:
        return "every day"
    runs = [[day for _, day in run] for _, run in groupby(enumerate(sorted(days)), lambda each: each[1] - each[0])]
    words = [" to ".join(DAYS[day] for day in (run[0], run[-1])) if len(run) > 2 else ", ".join(DAYS[day] for day in run) for run in runs]
    return ", ".join(words)
