"""The pytest plugin: `guard`, `guard_policy` and `assert_denied`, and `--adapter-report`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from agentguard import Code, Denied, Guard
from agentguard.testing import assert_denied as _assert_denied
from agentguard.testing.report import Report


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("agentguard").addoption(
        "--adapter-report", type=Path, metavar="FILE", help="write what became of the adapters' conformance suites, as JSON"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "guard_policy(policy, **options): path or text of the policy for the `guard` fixture; options of Guard.open"
    )
    report = config.getoption("adapter_report")
    if report is not None and not hasattr(config, "workerinput"):  # of several processes, the one that hears them all
        config.pluginmanager.register(Report(report.absolute()), "agentguard-adapter-report")


@pytest.fixture
def guard_policy(request: pytest.FixtureRequest) -> str | Path:
    """Path or text of the policy of the `guard` fixture: what the marker says. Override it to have one policy for a module or a class."""
    marker = request.node.get_closest_marker("guard_policy")
    if marker is None or not marker.args:
        raise pytest.UsageError(
            "the `guard` fixture needs a policy: mark the test with guard_policy(path or text), or override the fixture guard_policy"
        )
    return marker.args[0]  # type: ignore[no-any-return]  # what the marker was given; Guard.open says what is wrong with it


@pytest.fixture
def guard(request: pytest.FixtureRequest, guard_policy: str | Path, tmp_path: Path) -> Iterator[Guard]:
    """A guard with a home of its own under the test's temporary directory."""
    marker = request.node.get_closest_marker("guard_policy")
    options = {"durability": "process", **(marker.kwargs if marker is not None else {})}
    with Guard.open(guard_policy, home=tmp_path / "agentguard", **options) as opened:
        yield opened


@pytest.fixture
def assert_denied() -> Callable[[Code | str | None], AbstractContextManager[pytest.ExceptionInfo[Denied]]]:
    """`with assert_denied("argument_not_allowed"):` passes if the block is denied with that code."""
    return _assert_denied
