"""The narrowest policy that covers what was done: proposed from calls that were allowed and ended well (`agentguard policy learn`).

A learned policy says what agents did, not what they should be allowed to do: whoever fooled an agent while it was watched has taught it. So
it is a proposal, each rule says what it stands on, and nothing is learned from a call that was refused, failed, or is not wholly known.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from agentguard.analysis.habits import Habit
from agentguard.analysis.proposals import Proposal, flow, propose, quoted
from agentguard.analysis.trace import Called
from agentguard.decision import Verdict
from agentguard.errors import InvalidInput
from agentguard.policy import load
from agentguard.policy.model import MAX_DEPTH, Policy
from agentguard.reading.records import decoded

#: Of one set of agents nobody would review more.
MAX_TOOLS: Final = 5_000
MAX_ARGUMENTS: Final = 20_000
#: How many values are listed one by one rather than generalised.
FEW: Final = 8
MAX_FEW: Final = 64

_NAME: Final = re.compile(r"[!-~]{1,256}")
_PLAIN_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*(?:[./][A-Za-z0-9_-]+)*")
_TWO_MEANINGS: Final = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
#: What YAML takes as a key on one line.
_MAX_KEY: Final = 1000

#: Root first.
Chain = tuple[str, ...]


@dataclass(slots=True)
class Seen:
    """The calls of one agent to one tool: how many, and by argument what was passed."""

    calls: int = 0
    habits: dict[str, Habit] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ToolProposal:
    """The rules for one tool of one agent, by argument, and the number of calls that they stand on."""

    calls: int
    arguments: Mapping[str, Proposal]


@dataclass(frozen=True, slots=True)
class Learned:
    """A proposed policy.

    text      the policy file, with a comment on every rule
    policy    the same, loaded
    tools     by agent and tool, what is proposed
    depths    by delegating agent and delegate, how many hops there were below the delegating one
    calls     how many calls it was learned from; `policy` allows each of them
    left_out  by reason, how many calls nothing was learned from
    """

    text: str
    policy: Policy
    tools: Mapping[tuple[str, str], ToolProposal]
    depths: Mapping[tuple[str, str], int]
    calls: int
    left_out: Mapping[str, int]


def learn(read: Callable[[], Iterable[Called]], *, name: str = "learned", few: int = FEW, chains: Iterable[Chain] = ()) -> Learned:
    """Propose the narrowest policy that covers the calls that `read` gives, each time anew: it is asked twice, to learn and to check.

    few     up to how many different values of an argument are listed one by one; with 0 all are generalised
    chains  the delegations under which such calls were made, see `chains_of`

    The same calls in another order give the same text. Raises InvalidInput where there is nothing to learn from, or where the calls of the
    second reading are not those of the first.
    """
    if not 0 <= few <= MAX_FEW:
        raise InvalidInput(f"few must be 0 to {MAX_FEW}, found {few}")
    seen, left_out = gather(read(), few)
    total = sum(one.calls for one in seen.values())
    if not total:
        raise InvalidInput("there is no call that was allowed and ended well", hint=_sentence(left_out) or "there are no calls at all")
    agents = {agent for agent, _ in seen}
    known = [chain for chain in chains if chain[-1] in agents and all(map(_NAME.fullmatch, chain)) and len(chain) <= MAX_DEPTH + 1]
    depths: dict[tuple[str, str], int] = {}
    for chain in known:
        for index, hop in enumerate(pairwise(chain)):
            depths[hop] = max(depths.get(hop, 0), len(chain) - 1 - index)
    tools = {
        place: ToolProposal(one.calls, {argument: propose(habit, one.calls) for argument, habit in sorted(one.habits.items())})
        for place, one in sorted(seen.items())
    }
    text = _text(name, tools, dict(sorted(depths.items())), total, left_out)
    policy = load(text)
    _check(policy, read(), total, known)
    return Learned(text, policy, tools, dict(sorted(depths.items())), total, left_out)


def gather(calls: Iterable[Called], few: int = FEW) -> tuple[dict[tuple[str, str], Seen], dict[str, int]]:
    """By agent and tool what was passed in the calls that something may be learned from, and by reason how many others there were.

    Bounded in memory however many calls there are. Raises InvalidInput for more tools or arguments than anybody would review.
    """
    seen: dict[tuple[str, str], Seen] = {}
    left_out: Counter[str] = Counter()
    arguments = 0
    for call in calls:
        why = _unfit(call)
        if why:
            left_out[why] += 1
            continue
        one = seen.setdefault((call.agent, call.tool), Seen())
        one.calls += 1
        for name, value in (call.arguments or {}).items():
            habit = one.habits.get(name)
            if habit is None:
                habit = one.habits[name] = Habit(few)
                arguments += 1
            habit.add(value)
        if len(seen) > MAX_TOOLS or arguments > MAX_ARGUMENTS:
            raise InvalidInput(
                f"more than {MAX_TOOLS} tools or {MAX_ARGUMENTS} arguments", place=call.place, hint="learn from fewer agents at a time"
            )
    return seen, dict(sorted(left_out.items()))


def _unfit(call: Called) -> str:
    """Why nothing may be learned from a call; empty where something may."""
    if call.verdict is None:
        return "of unknown verdict"
    if call.verdict is not Verdict.ALLOW:
        return "refused"
    if not call.succeeded:
        return "failed or without a known end"
    if call.arguments is None:
        return "with arguments that are not known any more"
    if _NAME.fullmatch(call.agent) is None or _NAME.fullmatch(call.tool) is None or not all(map(_is_key, call.arguments)):
        return "with names that no policy can hold"
    return ""


def _is_key(name: str) -> bool:
    """Whether a rule can be written for an argument of this name. `*` would stand for all of them."""
    return name != "*" and len(name) <= 256 and name.isprintable() and len(quoted(name)) <= _MAX_KEY


def _check(policy: Policy, calls: Iterable[Called], total: int, chains: Iterable[Chain]) -> None:
    """What was learned from is allowed: each call, and each delegation."""
    again = 0
    for call in calls:
        if _unfit(call) or call.arguments is None:
            continue
        again += 1
        reason = policy.judge(call.agent, call.tool, call.arguments)
        if reason is not None:
            raise _changed(call.place, reason.sentence())
    if again != total:
        raise _changed(None, f"{total} calls, then {again}")
    for chain in chains:
        reason = policy.may_delegate(chain)
        if reason is not None:
            raise _changed(None, reason.sentence())


def _changed(place: str | None, what: str) -> InvalidInput:
    return InvalidInput(f"the calls changed while they were read: {what}", place=place, hint="learn again when nothing writes to them")


def chains_of(home: Path) -> Iterator[Chain]:
    """The agents, root first, of every chain under which a call was allowed and ended well. Raises InvalidInput for damage."""
    parents: dict[str, tuple[str, str | None]] = {}
    waiting: dict[str, str] = {}
    used: set[str] = set()
    for record in decoded(home):
        kind = record.get("type")
        if kind == "delegation":
            parents[record["artifact"]] = (record["agent"], record["parent"])
        elif (
            kind == "decision"
            and record["verdict"] == Verdict.ALLOW
            and record["artifact"]
            and not record["tool"].startswith("agentguard.")
        ):
            waiting[record["id"]] = record["artifact"]
        elif kind == "outcome" and record["execution"] in waiting:
            artifact = waiting.pop(record["execution"])
            if record["status"] == "ok":
                used.add(artifact)
    for chain in sorted({chain for artifact in used if (chain := _chain(artifact, parents))}):
        yield chain


def _chain(artifact: str, parents: Mapping[str, tuple[str, str | None]]) -> Chain:
    """Empty where a link is not known."""
    agents: list[str] = []
    link: str | None = artifact
    while link is not None and len(agents) <= MAX_DEPTH:
        if link not in parents:
            return ()
        agent, link = parents[link]
        agents.append(agent)
    return tuple(reversed(agents)) if link is None else ()


# --- the file -----------------------------------------------------------------------------------------------------------------------------


def _text(
    name: str, tools: Mapping[tuple[str, str], ToolProposal], depths: Mapping[tuple[str, str], int], calls: int, left_out: Mapping[str, int]
) -> str:
    lines = [
        f"# Learned from {_count(calls)} that ended well. It says what was done, not what should be allowed: review every rule.",
        f"# Left out: {_sentence(left_out)}." if left_out else "# No call was left out.",
        "# Not learned, and yours to add: budgets, forbid rules, environment, attributes of tools (proof, rerun, opaque).",
        "agentguard: 1",
        f"name: {quoted(name)}",
        "agents:",
    ]
    for agent in sorted({agent for agent, _ in tools} | {agent for hop in depths for agent in hop}):
        body = [*_tools(agent, tools), *_delegates(agent, depths)]
        lines += [f"  {_key(agent)}:", *body] if body else [f"  {_key(agent)}: {{}}"]
    return "\n".join(lines) + "\n"


def _tools(agent: str, tools: Mapping[tuple[str, str], ToolProposal]) -> Iterator[str]:
    mine = [(tool, proposal) for (who, tool), proposal in tools.items() if who == agent]
    if mine:
        yield "    tools:"
    for tool, proposal in mine:
        yield f"      # {_count(proposal.calls)}"
        yield f"      {_key(tool)}:" + ("" if proposal.arguments else " {}")
        for argument, rule in proposal.arguments.items():
            yield f"        # {_comment(rule)}"
            yield f"        {_key(argument)}: {flow(written(rule))}"


def _delegates(agent: str, depths: Mapping[tuple[str, str], int]) -> Iterator[str]:
    mine = [(to, depth) for (who, to), depth in depths.items() if who == agent]
    if mine:
        yield "    delegates:"
    for to, depth in mine:
        yield f"      {_key(to)}: {{depth: {depth}}}"


def written(proposal: Proposal) -> dict[str, Any]:
    """The rule as it stands in the file."""
    return {**proposal.rule, "optional": True} if proposal.optional else proposal.rule


def _comment(rule: Proposal) -> str:
    parts = [f"{_count(rule.calls)}, {rule.sure} (may refuse {rule.share} of further ones): {rule.found}"]
    if rule.optional:
        parts.append("sometimes left out")
    if rule.wider is not None:
        parts.append(f"if others are meant too: {flow(rule.wider)}")
    return "; ".join(parts)


def _key(name: str) -> str:
    return name if _PLAIN_KEY.fullmatch(name) and name.lower() not in _TWO_MEANINGS else quoted(name)


def _count(calls: int) -> str:
    return f"{calls} call{'' if calls == 1 else 's'}"


def _sentence(left_out: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {why}" for why, number in left_out.items())
