"""Shared by all tests: hypothesis profiles, and one guard with the policy of the design's example."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from agentguard import Guard
from agentguard.context import current_task

settings.register_profile("default", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("soak", max_examples=20_000, deadline=None, suppress_health_check=list(HealthCheck))
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

SUPPORT = (Path(__file__).resolve().parent.parent / "policies" / "support.yaml").read_text("utf-8")


@pytest.fixture(autouse=True)
def no_task_is_left() -> Iterator[None]:
    """A task that a test left current would be the authority of whatever test comes next in this process."""
    yield
    left = current_task.get()
    current_task.set(None)
    assert left is None, f"the test left a task of {left.agent} current: close it, or use task.issue()"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home directory of its own for each test."""
    return tmp_path / "home"


@pytest.fixture
def support(home: Path) -> Iterator[Guard]:
    """A guard over the example policy, in the deployment it asks for."""
    with Guard.open(SUPPORT, home=home, durability="process", environment={"deployment": "staging"}) as guard:
        yield guard
