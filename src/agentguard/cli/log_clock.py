"""`agentguard log accept-clock`: an operator vouches for a clock that is behind the log."""

from __future__ import annotations

from agentguard.cli.inputs import DEFAULT_HOME, ByOption, HomeOption, JsonOption, ReasonOption, existing_home, operator
from agentguard.cli.terminal import result, say


def accept_clock(by: ByOption = None, reason: ReasonOption = "", home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Accept a wall clock that is behind the log's last checkpoint. Until then every call is denied with `clock_unreliable`.

    First make sure that the clock is right now: whoever can set it back can make an expired artifact look valid. It is recorded, with who
    accepted it.

    Example: `agentguard log accept-clock --reason "battery was empty, NTP is back"`
    """
    from agentguard import control
    from agentguard.environment import Clock
    from agentguard.home import Home
    from agentguard.ledger import Ledger

    who = operator(by)
    with Home(existing_home(home)) as opened:
        behind = Clock(floor=control.clock_floor(opened)).unreliable
        if behind:
            control.accept_clock(opened, Ledger(opened, Clock()), by=who, reason=reason)
    answer = {"accepted": bool(behind), "was": behind or "at or after the last checkpoint", "by": who, "reason": reason}
    words = f"accepted a clock {behind}, by {who}" if behind else "the clock is not behind: there is nothing to accept"
    result(as_json, answer, lambda out: say(out, words))
