"""The strategies do what they promise: real chains, a good share of late stages, one verdict for one case."""

from __future__ import annotations

from collections import Counter

from hypothesis import HealthCheck, Phase, given, settings

from .strategies import Case, cases, seeded_case

SETTINGS = settings(
    max_examples=200, deadline=None, database=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)


def test_half_of_the_cases_reach_late_stages() -> None:
    stages: Counter[int] = Counter()
    verdicts: Counter[str] = Counter()

    @SETTINGS
    @given(cases())
    def collect(case: Case) -> None:
        found = case.evaluate()
        assert found["code"] != "guard_error", found
        assert case.evaluate() == found
        stages[found["stage"]] += 1
        verdicts[found["verdict"]] += 1

    collect()
    total = sum(stages.values())
    assert sum(count for stage, count in stages.items() if stage >= 8) > 0.45 * total
    assert verdicts["deny"] > 0.15 * total
    assert verdicts["allow"] > 0.3 * total


def test_seeded_cases_are_repeatable_and_reach_every_stage() -> None:
    stages = Counter(seeded_case(seed).evaluate()["stage"] for seed in range(800))
    assert set(stages) == set(range(11))
    assert sum(count for stage, count in stages.items() if stage >= 8) > 0.5 * 800
    assert seeded_case(7) == seeded_case(7)
