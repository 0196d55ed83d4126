"""What the operator should hear at once. Never on standard output: that may be a protocol's channel (PITFALLS, "stdout as log")."""

from __future__ import annotations

import sys
from typing import Any


def say(event: str, **details: Any) -> None:
    """A warning through structlog: the application's configuration where there is one, else one line on standard error."""
    import structlog  # 0.1 s to import, which a guard that has nothing to say need not pay

    if structlog.is_configured():
        structlog.get_logger("agentguard").warning(event, **details)
        return
    structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr),
        processors=[structlog.processors.add_log_level, structlog.processors.KeyValueRenderer(key_order=["level", "event"])],
    ).warning(event, **details)
