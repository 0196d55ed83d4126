"""What the operator should hear at once. Never on standard output: that may be a protocol's channel (PITFALLS, "stdout as log")."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any


def say(event: str, **details: Any) -> None:
    """A warning through structlog: the application's configuration where there is one, else one line on standard error.

    Never raises: what cannot be said is left unsaid, since no decision may hang on it.
    """
    with suppress(Exception):
        _say(event, details)


def _say(event: str, details: dict[str, Any]) -> None:
    import structlog  # 0.1 s to import, which a guard that has nothing to say need not pay

    if structlog.is_configured():
        structlog.get_logger("agentguard").warning(event, **details)
        return
    if sys.stderr is None:  # a process without one: structlog would take standard output instead
        return
    structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr),
        processors=[structlog.processors.add_log_level, structlog.processors.KeyValueRenderer(key_order=["level", "event"])],
    ).warning(event, **details)
