"""What ends a run with `on_deny="raise"` in frameworks that turn every Exception into a result (Agno, DSPy)."""

from __future__ import annotations

from agentguard import Denied


class RunDenied(BaseException):
    """A denial that ends the run. `denied` is the denial; it may be raised in turn."""

    def __init__(self, denied: Denied) -> None:
        self.denied = denied
        super().__init__(str(denied.code))
