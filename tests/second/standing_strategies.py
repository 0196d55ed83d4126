"""Policies with standing rules, histories of one task and calls, for hypothesis. All tools take the same arguments."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from .standing import Call
from .written_out import Document, forbidden, rules_of

AGENTS, TOOLS, TAGS = ("clerk", "helper"), ("read", "pay", "mail", "wipe"), ("egress", "inner")
#: Monday 2026-01-05 07:30 UTC, and the hours at which clocks in Berlin and New York are set forward or back.
STARTS = (1_767_598_200, 1_774_745_100, 1_792_884_000, 1_772_953_200, 1_793_509_200)
ARGUMENTS: Document = {"amount": "any", "to": {"max_length": 3}, "fee": {"range": {"min": 0, "max": 10}, "optional": True}}
CONDITIONS = (
    "amount < 5",
    "not (amount >= 5)",
    'to != "x"',
    "not has(fee) or amount * fee <= 10",
    "fee < 3",
    "amount + 0.1 == 0.3",
    "len(to) > 1",
)
AMOUNTS = (0, 1, 2, 5, 10, 0.1, 0.2, 2.5, 0.0000001, 4.9999995, -1, -0.0000001, 1e7, "1", True, None, [1])

agents, tools, tags = map(st.sampled_from, (AGENTS, TOOLS, TAGS))
several = st.lists(tools, min_size=1, max_size=2, unique=True)
about = st.one_of(tools.map(lambda t: {"tool": t}), several.map(lambda t: {"tool": t}), tags.map(lambda t: {"tag": t}))
one_about = st.one_of(tools.map(lambda t: {"tool": t}), tags.map(lambda t: {"tag": t}))
objects = st.one_of(tools, several, tags.map(lambda t: {"tag": t}))
windows = st.sampled_from([{kind: length} for kind in ("fixed", "sliding") for length in ("60s", "2m", "1h")])
pers = st.sampled_from(["task", "agent", "initiator"])


def _with(*parts: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.tuples(*parts).map(lambda dicts: {key: value for part in dicts for key, value in part.items()})


def _maybe(name: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional={name: values})


sequence_rules = _with(
    about,
    st.one_of(
        objects.map(lambda o: {"before": o}),
        objects.map(lambda o: {"never_after": o}),
        st.integers(1, 3).map(lambda n: {"at_most": n}),
        st.just({"only_after_approval": True}),
    ),
)
budgets = st.one_of(
    _with(
        st.integers(1, 4).map(lambda n: {"calls": n}), pers.map(lambda p: {"per": p}), st.just({}) | one_about, _maybe("window", windows)
    ),
    _with(
        st.just({"cost": "amount"}) | st.just({"cost": {"output": "usage.tokens", "reserve": 2}}),
        st.sampled_from([1, 5, 7.5, 0.000001, 20]).map(lambda n: {"limit": n}),
        pers.map(lambda p: {"per": p}),
        one_about,
        _maybe("window", windows),
    ),
)
approvals = _with(one_about, _maybe("when", st.sampled_from(CONDITIONS)))
times = st.sampled_from(["00:00", "02:00", "02:30", "03:00", "08:00", "08:30", "18:00", "22:00"])
days = st.lists(st.sampled_from(["mon", "tue", "wed", "thu", "fri", "sat", "sun"]), min_size=1, max_size=4, unique=True)
zones = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"])
hours = (
    _with(
        zones.map(lambda z: {"zone": z}),
        st.just({}) | st.tuples(times, times).map(lambda t: {"from": t[0], "to": t[1]}),
        _maybe("days", days),
        _maybe("tools", several),
    )
).filter(lambda window: window["from"] != window["to"] if "from" in window else "days" in window)
where = st.dictionaries(tools, st.lists(st.sampled_from(CONDITIONS), min_size=1, max_size=2, unique=True), max_size=1)
RESTRICTING: dict[str, st.SearchStrategy[Any]] = {
    "where": where,
    "hours": st.lists(hours, min_size=1, max_size=2),
    "budgets": st.lists(budgets, min_size=1, max_size=2),
    "sequence": st.lists(sequence_rules, min_size=1, max_size=2),
    "approval": st.lists(approvals, min_size=1, max_size=2),
}
forbids = st.one_of(
    _with(st.sampled_from(["wi*", "*", "read", "m*l"]).map(lambda g: {"tool": g}), _maybe("agent", st.sampled_from(["clerk", "h*", "x*"]))),
    _with(tags.map(lambda t: {"tag": t}), _maybe("agent", st.sampled_from(["clerk", "h*"]))),
)


@st.composite
def _body(draw: st.DrawFn, held: tuple[str, ...], busy: int, only: str | None) -> Document:
    """An agent or a group that restricts in `busy` ways at most, or in the one way `only`."""
    body: Document = {"tools": {tool: dict(ARGUMENTS) for tool in held}} if held else {}
    for kind in [only] if only else draw(st.lists(st.sampled_from(sorted(RESTRICTING)), max_size=busy, unique=True)):
        body[kind] = draw(RESTRICTING[kind])
    return body


@st.composite
def documents(draw: st.DrawFn, only: str | None) -> Document:
    """A policy. Some do not load (a tag that no tool has): the product says which."""
    document: Document = {"agentguard": 1, "name": "drawn", "agents": {}}
    document["agents"] = {"clerk": draw(_body(TOOLS, 3, only)), "helper": draw(_body(TOOLS, 1, only))}
    document["tools"] = {"mail": {"tags": ["egress"]}, "pay": {"tags": ["egress", "inner"]}}
    if draw(st.booleans()):
        _grouped(draw, document, only)
    if only is None and draw(st.integers(0, 3)) == 0:
        document["tools"]["wipe"] = {"approval": "required"}
    if only in (None, "sequence") and draw(st.integers(0, 1)) == 0:
        document["sequence"] = draw(RESTRICTING["sequence"])
    if only is None and draw(st.integers(0, 3)) == 0:
        document["forbid"] = [draw(forbids)]
    return document


def _grouped(draw: st.DrawFn, document: Document, only: str | None) -> None:
    """Part of what the clerk holds comes from a group, a group of that group, and a tag."""
    near, far = draw(_body(("read",), 1, only)), draw(_body(("read", "wipe"), 1, only))
    far["tools"]["read"]["to"] = "any"  # the nearer one wins
    near["groups"], near["tags"] = ["far"], ["inner"]
    document["groups"] = {"near": near, "far": far}
    document["agents"]["clerk"]["groups"] = ["near"]
    if draw(st.booleans()):
        document["agents"]["helper"]["groups"] = ["far"]
    document["agents"]["clerk"]["tools"] = {"mail": dict(ARGUMENTS)}
    document["tools"]["pay"]["arguments"] = dict(ARGUMENTS)


likely = st.fixed_dictionaries({"amount": st.sampled_from(AMOUNTS[:10]), "to": st.just("ab")}, optional={"fee": st.sampled_from([0, 2])})
unlikely = st.fixed_dictionaries(
    {"amount": st.sampled_from(AMOUNTS), "to": st.sampled_from(["ab", "x", "long"])}, optional={"fee": st.sampled_from([2, 10, 11, "2"])}
)
odd = st.sampled_from([{}, {"amount": 1}, {"amount": 1, "to": "ab", "more": 1}])
arguments = st.one_of(likely, likely, likely, likely, unlikely, unlikely, odd)


@st.composite
def worlds(draw: st.DrawFn, only: str | None = None) -> tuple[Document, list[Call], Call, bool | None]:
    """(policy, earlier calls of one task, the call, the answer to it). Time never goes back. `only` restricts to one kind of rules."""
    document = draw(documents(only))
    history: list[Call] = []
    now = draw(st.sampled_from(STARTS))
    for agent, tool, given, ok, approved, wait, times in draw(st.lists(_step(), max_size=4)):
        now += wait
        if rules_of(document, agent, tool) is not None and not forbidden(document, agent, tool):
            history += [Call(agent, tool, given, now, ok, approved)] * times
    agent, tool, given, _, _, wait, _ = draw(_step())
    agent = draw(st.sampled_from([*[agent] * 9, "nobody"]))
    return document, history, Call(agent, tool, given, now + wait), draw(st.sampled_from([None, True, True, False]))


@st.composite
def trials(draw: st.DrawFn) -> tuple[Document, list[Call], Call, bool | None]:
    """As `worlds`, with forbid rules that are about the call more often than not, in a shadow that ends about then, or in none."""
    document, history, call, answer = draw(worlds())
    about = forbids | st.just({"tool": call.tool})
    rules = [dict(rule) for rule in (*document.get("forbid", []), *draw(st.lists(about, max_size=2)))]
    for rule in rules:
        if (wait := draw(st.sampled_from([None, -1, 0, 1, 1, 3600, 3600]))) is not None:
            rule["unsafe_shadow"] = {"until": datetime.fromtimestamp(call.time + wait, UTC).isoformat()}
    return {**document, "forbid": rules}, history, call, answer


def _step() -> st.SearchStrategy[Any]:
    waits = st.sampled_from([0, 0, 1, 2, 59, 60, 61, 120, 121, 3599, 3600, 3660, 86400])
    return st.tuples(
        st.sampled_from(["clerk", "clerk", "helper"]), tools, arguments, st.booleans(), st.booleans(), waits, st.integers(1, 3)
    )  # fmt: skip


def crowded(kind: str, rule: Document) -> st.SearchStrategy[tuple[Document, list[Call], Call, bool | None]]:
    """One rule, and up to four calls of the one tool it is about, at most some minutes apart."""
    document = {"agentguard": 1, "name": "one", "agents": {"clerk": {"tools": {"pay": dict(ARGUMENTS)}, kind: [{**rule, "tool": "pay"}]}}}

    def world(waits: list[int]) -> tuple[Document, list[Call], Call, bool | None]:
        calls = [Call("clerk", "pay", {"amount": 1, "to": "ab"}, STARTS[0] + sum(waits[: n + 1])) for n in range(len(waits))]
        return document, calls[:-1], calls[-1], None

    return st.lists(st.sampled_from([0, 1, 59, 60, 61]), min_size=1, max_size=5).map(world)
