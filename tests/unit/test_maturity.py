"""Grading: a level needs all below it, and says what is missing for the next."""

from __future__ import annotations

from dataclasses import replace

from agentguard.cli.maturity import LEVELS, Observed, grade

BEST = Observed(decisions=True, log_sound=True, enforced=True, policy_known=True, locked=True, authenticated=3, bound=True, durable=True)


def test_nothing_is_level_zero() -> None:
    assert grade(Observed())["level"] == 0
    assert grade(Observed())["name"] == "untrusted"


def test_everything_is_level_five() -> None:
    assert grade(BEST) == {"level": 5, "name": LEVELS[5], "next": []}


def test_each_thing_missing_caps_the_level() -> None:
    caps = {
        0: [{"decisions": False}, {"log_sound": False}],
        1: [{"enforced": False}],
        2: [{"unsafe": ("shadow",)}, {"policy_known": False}],
        3: [{"locked": False}, {"asserted": 1}, {"authenticated": 0}, {"bound": False}],
        4: [{"durable": False}, {"not_built": ("witness",)}],
    }
    for level, cases in caps.items():
        for missing in cases:
            answer = grade(replace(BEST, **missing))
            assert answer["level"] == level, missing
            assert len(answer["next"]) == 1
