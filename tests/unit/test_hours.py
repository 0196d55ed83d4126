"""Windows of time: what is open when, over midnight and over changes of clocks, and what each mistake is answered."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from agentguard.errors import InvalidInput
from agentguard.policy.hours import DAYS, Hours, parse_hours

WEEK = list(DAYS[:5])
BERLIN, NEW_YORK = "Europe/Berlin", "America/New_York"


def hours(start: str, end: str, zone: str = "UTC", days: list[str] | None = None) -> Hours:
    return parse_hours({"from": start, "to": end, "zone": zone, **({} if days is None else {"days": days})})


def at(text: str, zone: str = "UTC", *, second: bool = False) -> int:
    """The second since the epoch of a time in a zone; `second` for the later one of two that a clock shows alike."""
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=int(second)).timestamp())


def openings(window: Hours, start: int, end: int) -> list[tuple[str, str]]:
    """From when to when it is open between two seconds, in UTC."""
    edges, before = [], False
    for moment in range(start, end + 60, 60):
        now = window.open(moment)
        if now != before:
            edges.append(datetime.fromtimestamp(moment, UTC).strftime("%d %H:%M"))
            before = now
    return list(zip(edges[::2], edges[1::2], strict=True))


def test_a_window_holds_its_first_second_and_not_its_last() -> None:
    window = hours("08:00", "18:00", days=WEEK)  # 2026-01-05 is a Monday
    assert not window.open(at("2026-01-05T07:59:59"))
    assert window.open(at("2026-01-05T08:00:00"))
    assert window.open(at("2026-01-05T17:59:59"))
    assert not window.open(at("2026-01-05T18:00:00"))
    assert not window.open(at("2026-01-04T12:00:00"))
    assert not window.open(at("2026-01-10T12:00:00"))


@pytest.mark.parametrize("end", ["24:00", "00:00"])
def test_a_day_ends_at_24_00(end: str) -> None:
    window = hours("22:00", end, days=["mon"])
    assert openings(window, at("2026-01-05"), at("2026-01-07")) == [("05 22:00", "06 00:00")]
    assert window == hours("22:00", "24:00", days=["mon"])


def test_a_window_over_midnight_belongs_to_the_day_it_begins() -> None:
    window = hours("22:00", "06:00", days=["fri"])
    assert openings(window, at("2026-01-05"), at("2026-01-12")) == [("09 22:00", "10 06:00")]
    assert openings(hours("22:00", "06:00", days=["sun"]), at("2026-01-04T12:00"), at("2026-01-06")) == [("04 22:00", "05 06:00")]
    every = hours("22:00", "06:00")
    assert openings(every, at("2026-01-05T12:00"), at("2026-01-07T12:00")) == [("05 22:00", "06 06:00"), ("06 22:00", "07 06:00")]


def test_days_alone_are_whole_days() -> None:
    window = parse_hours({"days": ["tue"], "zone": BERLIN})
    assert openings(window, at("2026-01-05"), at("2026-01-08")) == [("05 23:00", "06 23:00")]


@pytest.mark.parametrize(
    ("zone", "day", "opened"),
    [
        (BERLIN, "2026-03-28", [("28 07:00", "28 17:00"), ("29 06:00", "29 16:00")]),  # forward on the 29th
        (BERLIN, "2026-10-24", [("24 06:00", "24 16:00"), ("25 07:00", "25 17:00")]),  # back on the 25th
        (NEW_YORK, "2026-03-07", [("07 13:00", "07 23:00"), ("08 12:00", "08 22:00")]),
        (NEW_YORK, "2026-10-31", [("31 12:00", "31 22:00"), ("01 13:00", "01 23:00")]),
    ],
)
def test_office_hours_keep_to_the_clock_on_the_wall(zone: str, day: str, opened: list[tuple[str, str]]) -> None:
    start = at(f"{day}T00:00", zone)
    assert openings(hours("08:00", "18:00", zone), start, start + 47 * 3600) == opened


@pytest.mark.parametrize(("zone", "day", "offset", "hour"), [(BERLIN, "2026-03-29", 1, 2), (NEW_YORK, "2026-03-08", -5, 2)])
def test_the_hour_that_is_left_out_is_in_no_window(zone: str, day: str, offset: int, hour: int) -> None:
    start = at(f"{day}T00:00", zone)
    inside = hours(f"{hour:02}:00", f"{hour + 1:02}:00", zone)
    assert openings(inside, start, start + 22 * 3600) == []
    around = hours(f"{hour - 1:02}:30", f"{hour + 1:02}:30", zone)  # two hours on other days
    ((opened, closed),) = openings(around, start, start + 22 * 3600)
    assert (opened[3:], closed[3:]) == (f"{hour - 1 - offset:02}:30", f"{hour - offset:02}:30")


@pytest.mark.parametrize(("zone", "day", "hour"), [(BERLIN, "2026-10-25", 2), (NEW_YORK, "2026-11-01", 1)])
def test_the_hour_that_comes_twice_counts_twice(zone: str, day: str, hour: int) -> None:
    for second in (False, True):
        assert hours(f"{hour:02}:00", f"{hour:02}:30", zone).open(at(f"{day}T{hour:02}:15", zone, second=second))
        assert not hours(f"{hour:02}:00", f"{hour:02}:30", zone).open(at(f"{day}T{hour:02}:45", zone, second=second))
    start = at(f"{day}T00:00", zone)
    assert sum(hours(f"{hour:02}:00", f"{hour + 1:02}:00", zone).open(start + minute * 60) for minute in range(25 * 60)) == 120


def test_a_night_that_is_an_hour_longer_is_open_all_through() -> None:
    window = hours("22:00", "06:00", BERLIN, ["sat"])
    assert openings(window, at("2026-10-24T12:00", BERLIN), at("2026-10-26T12:00", BERLIN)) == [("24 20:00", "25 05:00")]


def test_a_zone_with_odd_minutes_and_a_day_that_never_was() -> None:
    assert hours("09:00", "09:01", "Asia/Kathmandu").open(at("2026-01-05T03:15:00"))
    apia = hours("00:00", "12:00", "Pacific/Apia", ["fri"])  # 2011-12-30, a Friday, was left out
    assert openings(apia, at("2011-12-28T12:00"), at("2012-01-02T12:00")) == []


@pytest.mark.parametrize("now", [10**18, -(10**18), 10**400, 253_402_300_800])
def test_it_is_closed_when_there_is_no_calendar(now: int) -> None:
    assert not hours("00:01", "24:00").open(now)


def test_it_is_as_a_calendar_says_all_year_long() -> None:
    """Against the calendar of Python's own zones, every 17 minutes."""
    window = hours("20:30", "03:15", NEW_YORK, ["mon", "wed", "sun"])
    for moment in range(at("2026-01-01"), at("2027-01-01"), 17 * 60):
        local = datetime.fromtimestamp(moment, ZoneInfo(NEW_YORK))
        late = local.strftime("%a %H:%M") >= local.strftime("%a") + " 20:30" and local.strftime("%a").lower() in ("mon", "wed", "sun")
        evening = (local.replace(tzinfo=None) - timedelta(days=1)).strftime("%a").lower()
        early = local.strftime("%H:%M") < "03:15" and evening in ("mon", "wed", "sun")
        assert window.open(moment) == (late or early), local


def test_the_first_moment_at_which_it_is_open() -> None:
    window = hours("08:00", "18:00", BERLIN, WEEK)
    assert window.opens(at("2026-01-03T12:34:56")) == at("2026-01-05T08:00", BERLIN)
    assert window.opens(at("2026-01-05T09:00:01", BERLIN)) == at("2026-01-05T09:01", BERLIN)
    left_out = hours("02:10", "02:20", BERLIN, ["sun"])
    assert left_out.opens(at("2026-03-29T00:00", BERLIN)) == at("2026-04-05T02:10", BERLIN)


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ({"days": WEEK, "from": "08:00", "to": "18:00", "zone": BERLIN}, "mon to fri 08:00 to 18:00 (Europe/Berlin)"),
        ({"days": ["sun", "sat"], "zone": "UTC"}, "sat, sun (UTC)"),
        ({"days": ["mon", "tue", "wed", "sat"], "zone": "UTC"}, "mon to wed, sat (UTC)"),
        ({"from": "22:00", "to": "06:00", "zone": "UTC"}, "every day 22:00 to 06:00 (UTC)"),
    ],
)
def test_words_and_canonical_form(node: dict[str, Any], words: str) -> None:
    window = parse_hours(node)
    assert window.describe() == words
    assert parse_hours(window.to_json()) == window
    assert parse_hours(window.to_json()).to_json() == window.to_json()
    assert list(window.to_json()) == ["days", "from", "to", "zone"]


EXAMPLE = '{days: [mon, tue], from: "08:00", to: "18:00", zone: Europe/Berlin}'
TIME = 'two digits each, quoted: "08:00" to "24:00"'


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (
            5,
            f"a window of hours must be an object, found 5 (for example {EXAMPLE})",
        ),
        ({"zone": "UTC", "day": ["mon"]}, "a window of hours has no member 'day' (did you mean days?)"),
        ({"zone": "UTC", "x": 1}, "a window of hours has no member 'x' (there are days, from, to, zone)"),
        ({"days": ["mon"]}, "the window names no zone (for example zone: Europe/Berlin, or zone: UTC)"),
        ({"zone": "UTC"}, "the window is always open (leave it out, or name days or hours)"),
        ({"zone": "UTC", "days": list(DAYS), "to": "24:00"}, "the window is always open (leave it out, or name days or hours)"),
        ({"zone": "UTC", "days": []}, "days must be a list of mon, tue, wed, thu, fri, sat, sun, found an array of 0"),
        ({"zone": "UTC", "days": "mon"}, "days must be a list of mon, tue, wed, thu, fri, sat, sun, found 'mon'"),
        ({"zone": "UTC", "days": ["Monday"]}, "'Monday' is not a day of the week (did you mean mon?)"),
        ({"zone": "UTC", "days": [1]}, "1 is not a day of the week (there are mon, tue, wed, thu, fri, sat, sun)"),
        ({"zone": "UTC", "days": ["mon", "mon"]}, "the day mon stands twice"),
        ({"zone": "UTC", "from": "8:00"}, f"from must be a time of the day, found '8:00' ({TIME})"),
        ({"zone": "UTC", "from": 800}, f"from must be a time of the day, found 800 ({TIME})"),
        ({"zone": "UTC", "to": "24:30"}, f"to must be a time of the day, found '24:30' ({TIME})"),
        ({"zone": "UTC", "to": "١٨:00"}, f"to must be a time of the day, found '١٨:00' ({TIME})"),
        ({"zone": "UTC", "to": "18:00\n"}, f"to must be a time of the day, found '18:00\\n' ({TIME})"),
        ({"zone": "UTC", "from": "24:00", "to": "08:00"}, "from cannot be 24:00 (write 00:00, and the day that begins then)"),
        ({"zone": "UTC", "from": "08:00", "to": "08:00"}, "from and to are both 08:00 (all day is from 00:00 to 24:00)"),
        ({"zone": "berlin", "days": ["mon"]}, "there is no time zone 'berlin' (did you mean Europe/Berlin?)"),
        ({"zone": "america/new york", "days": ["mon"]}, "there is no time zone 'america/new york' (did you mean America/New_York?)"),
        (
            {"zone": "Europe/Berlni", "days": ["mon"]},
            "there is no time zone 'Europe/Berlni' (did you mean Europe/Berlin or Europe/Dublin?)",
        ),
        ({"zone": 1, "days": ["mon"]}, "there is no time zone 1 (a name of the IANA database, such as Europe/Berlin or UTC)"),
    ],
)
def test_a_mistake_is_named(node: Any, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_hours(node)
    assert str(caught.value) == message
