"""`agentguard policy learn`: the narrowest policy that covers what was done."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentguard.cli.exits import complain
from agentguard.cli.inputs import DEFAULT_HOME, HomeOption, JsonOption, existing_home
from agentguard.cli.policy_simulate import TraceOption, calls_of
from agentguard.cli.terminal import count, print_json

if TYPE_CHECKING:
    from agentguard.analysis.learn import Learned
    from agentguard.analysis.trace import Called


def learn(
    trace: TraceOption = None,
    home: HomeOption = DEFAULT_HOME,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="What the policy is called.")] = "learned",
    few: Annotated[
        int, typer.Option("--few", metavar="N", help="Up to how many different values are listed one by one; 0 generalises all.")
    ] = 8,
    as_json: JsonOption = False,
) -> None:
    """Propose the narrowest policy that covers the calls that were allowed and ended well. Every rule says what it stands on.

    Nothing is learned from calls that were refused or failed, or whose arguments are not known. The policy says what was done, not what
    should be allowed: review it, then try it with `agentguard policy simulate`. It allows every call that it was learned from; this is
    checked before it is printed. Exit 3 if there is nothing to learn from.

    Example: `agentguard policy learn --home .agentguard > learned.yaml`
    """
    from agentguard.analysis.learn import chains_of
    from agentguard.analysis.learn import learn as propose

    def read() -> Iterable[Called]:
        with calls_of(trace, home) as calls:
            yield from calls

    found = propose(read, name=name, few=few, chains=() if trace is not None else chains_of(existing_home(home)))
    if as_json:
        print_json(_document(found))
    else:
        print(found.text, end="")
    for why, number in found.left_out.items():
        complain(f"left out {count(number, 'call')} {why}", word="note")


def _document(found: Learned) -> dict[str, Any]:
    from agentguard.analysis.learn import written

    rules = [
        {
            "agent": agent,
            "tool": tool,
            "calls": proposal.calls,
            "arguments": {
                argument: {
                    "rule": written(rule),
                    "calls": rule.calls,
                    "sure": rule.sure,
                    "misses": round(rule.misses, 4),
                    "found": rule.found,
                    "wider": rule.wider,
                }
                for argument, rule in proposal.arguments.items()
            },
        }
        for (agent, tool), proposal in found.tools.items()
    ]
    delegates = [{"from": parent, "to": child, "depth": depth} for (parent, child), depth in found.depths.items()]
    return {
        "digest": found.policy.digest,
        "calls": found.calls,
        "left_out": dict(found.left_out),
        "rules": rules,
        "delegates": delegates,
        "policy": found.text,
    }
