"""Groups and tags: what each agent has in the end, and that nothing else of them is left."""

from __future__ import annotations

from agentguard.decision import Code
from agentguard.policy import load
from agentguard.policy.model import Policy

HEAD = "agentguard: 1\nname: x\n"


def policy(agents: str, rest: str) -> Policy:
    return load(f"{HEAD}agents: {agents}\n{rest}\n")


def required(found: Policy, agent: str, tool: str) -> str:
    """What `x` must be, in words."""
    return found.agents[agent].tools[tool].arguments["x"].constraint.describe()


def test_what_is_nearer_wins() -> None:
    found = policy(
        "{a: {groups: [one, two], tools: {t: {x: {exact: own}}}}, b: {groups: [one, two]}, c: {groups: [two]}}",
        "groups:\n"
        "  one: {tools: {u: {x: {exact: one}}}}\n"
        "  two: {groups: [far], tools: {t: {x: {exact: two}}}}\n"
        "  far: {tools: {t: {x: {exact: far}}, u: {x: {exact: far}}}}\n",
    )
    assert required(found, "a", "t") == "exactly 'own'"
    assert required(found, "b", "t") == "exactly 'two'"
    assert required(found, "b", "u") == "exactly 'one'"  # `far` is one level further away, though it stands before nothing
    assert required(found, "c", "u") == "exactly 'far'"


def test_levels_count_and_not_the_order_of_groups() -> None:
    """A group of a group of the first one is further away than a group of the second."""
    found = policy(
        "{a: {groups: [one, two]}}",
        "groups: {one: {groups: [deep]}, deep: {groups: [deeper]}, deeper: {tools: {t: {x: {exact: deeper}}}}, two: {groups: [near]},"
        " near: {tools: {t: {x: {exact: near}}}}}",
    )
    assert required(found, "a", "t") == "exactly 'near'"


def test_a_group_that_is_reached_twice_is_one_group() -> None:
    found = policy(
        "{a: {groups: [one, two]}, b: {}}",
        "groups: {one: {groups: [base]}, two: {groups: [base]}, base: {tools: {t: {x: any}}, delegates: {b: {depth: 2}}}}",
    )
    assert list(found.agents["a"].tools) == ["t"]
    assert found.agents["a"].delegates["b"].depth == 2


def test_a_rule_is_named_where_it_is_written() -> None:
    found = policy("\n  a: {groups: [one]}", "groups:\n  one:\n    tools:\n      t: {x: {max_length: 1}}")
    reason = found.judge("a", "t", {"x": "too long"})
    assert reason is not None
    assert (reason.code, reason.place) == (Code.ARGUMENT_NOT_ALLOWED, "<policy>:8")


def test_arranging_it_otherwise_leaves_the_digest() -> None:
    plain = policy("{a: {tools: {t: {x: any}, u: {x: any}}}, b: {tools: {t: {x: any}}}}", "tools: {t: {tags: [read]}}")
    grouped = policy(
        "{a: {groups: [g], tags: [read]}, b: {tags: [read]}}",
        "groups: {g: {tools: {u: {x: any}}}}\ntools: {t: {tags: [read], arguments: {x: any}}}",
    )
    assert plain.digest == grouped.digest
    again = load(grouped.canonical.decode())
    assert again.digest == grouped.digest
    assert again.attributes("t").tags == {"read"}


def test_a_tag_gives_its_tools_and_a_forbidden_tag_takes_them() -> None:
    found = policy(
        "{a: {tags: [write]}, b: {tags: [write]}}",
        "tools: {save: {tags: [write], arguments: {x: any}}, wipe: {tags: [write, destructive], arguments: {}}}\n"
        "forbid: [{tag: destructive, agent: b, reason: not b}]",
    )
    assert found.judge("a", "wipe", {}) is None
    reason = found.judge("b", "wipe", {})
    assert reason is not None
    assert (reason.code, reason.found) == (Code.TOOL_NOT_ALLOWED, "forbidden by wipe: not b")
    assert load(found.canonical.decode()).judge("b", "wipe", {}) is not None
    assert found.default_scope("b").keys() >= {"save"}


def test_an_agents_own_rule_for_a_tagged_tool_holds() -> None:
    found = policy("{a: {tags: [read], tools: {t: {x: {exact: mine}}}}}", "tools: {t: {tags: [read], arguments: {x: any}}}")
    assert required(found, "a", "t") == "exactly 'mine'"


def test_a_group_that_nobody_is_in_is_said() -> None:
    found = policy("{a: {groups: [one]}}", "groups:\n  one: {groups: [two]}\n  two: {}\n  alone: {tools: {t: {}}}")
    assert found.warnings == ("<policy>:7: groups.alone: no agent is in this group",)
