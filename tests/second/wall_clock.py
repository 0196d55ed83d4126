"""Hours (docs/policy-conditions.md, "Hours"): is a window open at a moment, by the clock on the wall of its zone?"""

from __future__ import annotations

import functools
import importlib.resources
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


@functools.cache
def zone(name: str) -> ZoneInfo:
    """From the package `tzdata`, not from the machine."""
    with importlib.resources.files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as file:
        return ZoneInfo.from_file(file, name)


def minutes(text: str) -> int:
    hour, minute = text.split(":")
    return int(hour) * 60 + int(minute)


def is_open(window: dict[str, Any], now: int) -> bool:
    """`now` in seconds since 1970."""
    local = datetime.fromtimestamp(now, zone(window["zone"]))
    at = local.hour * 60 + local.minute
    today, yesterday = DAYS[local.weekday()], DAYS[local.weekday() - 1]
    days = window.get("days", DAYS)
    begin, end = minutes(window.get("from", "00:00")), minutes(window.get("to", "24:00"))
    if begin < end:
        return today in days and begin <= at < end
    return (today in days and at >= begin) or (yesterday in days and at < end)
