"""`agentguard log rotate-key`: another key for the log."""

from __future__ import annotations

from agentguard.cli.inputs import DEFAULT_HOME, ByOption, HomeOption, JsonOption, ReasonOption, existing_home, operator
from agentguard.cli.terminal import count, result, say


def rotate_key(by: ByOption = None, reason: ReasonOption = "", home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Give the log another key. In every shard the old one hands over in a record that both sign; then it is deleted.

    Stop all guards of the home first: they hold the old key. If it is interrupted, no guard opens the home until it was done again. The log
    keeps its name. Give the new key to whoever verifies the log, witnesses above all, and have the old one forgotten: whoever stole it can
    still fool those who know no other (docs/transparency.md).

    Example: `agentguard log rotate-key --reason "a backup of the keys was lost"`
    """
    from agentguard.keys import KeyRing
    from agentguard.log.rotation import rotate

    who = operator(by)
    rotation = rotate(home, KeyRing(existing_home(home) / "keys"), by=who, reason=reason)
    answer = {"key": rotation.keys.verifier_key(), "shards": list(rotation.shards), "keys": len(rotation.keys.keys), "by": who}
    words = f": the old key handed over in {count(len(rotation.shards), 'shard')}; the new one is {answer['key']}"
    result(as_json, answer, lambda out: say(out, ("rotated", "good"), words))
