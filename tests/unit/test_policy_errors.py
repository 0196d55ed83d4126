"""What the loader says about each mistake: the place, the path, what was expected, and what may help."""

from __future__ import annotations

import pytest

from agentguard.errors import InvalidInput
from agentguard.policy import load

NAMES = "a name is 1 to 256 printable ASCII characters without spaces"
RULE = "a rule is `any` or an object such as {max_length: 80}, found"


def error_of(text: str) -> str:
    with pytest.raises(InvalidInput) as caught:
        load(text)
    assert caught.value.place is not None
    return str(caught.value)


def with_agent(body: str, rest: str = "") -> str:
    return f"agentguard: 1\nname: x\nagents:\n  a: {body}\n{rest}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]\n", "<policy>:1:1: expected a mapping, found a list"),
        ("just text\n", "<policy>:1:1: expected a mapping, found 'just text'"),
        ("name: x\nagents: {}\n", "<policy>:1:1: the key 'agentguard' is missing"),
        ("agentguard: 1\nagents: {}\n", "<policy>:1:1: the key 'name' is missing"),
        ("agentguard: 1\nname: x\n", "<policy>:1:1: the key 'agents' is missing"),
        ("agentguard: 2\nname: x\nagents: {}\n", "<policy>:1:13: agentguard: this release reads version 1 of the policy language, found 2"),
        ("agentguard: '1'\nname: x\nagents: {}\n", "<policy>:1:13: agentguard: expected a whole number, found '1'"),
        ("agentguard: true\nname: x\nagents: {}\n", "<policy>:1:13: agentguard: expected a whole number, found true"),
        ("agentguard: 1.0\nname: x\nagents: {}\n", "<policy>:1:13: agentguard: expected a whole number, found 1.0"),
        ("agentguard: 1\nname: 7\nagents: {}\n", "<policy>:2:7: name: expected a string, found 7"),
        ("agentguard: 1\nname: ''\nagents: {}\n", "<policy>:2:7: name: string should have at least 1 character, found ''"),
        ("agentguard: 1\nname: x\nagents:\n", "<policy>:3:8: agents: expected a mapping, found nothing (an empty mapping is written {})"),
        ("agentguard: 1\nname: x\nagents: [a]\n", "<policy>:3:9: agents: expected a mapping, found a list"),
        ("agentguard: 1\nname: x\nagents: {a b: {}}\n", f"<policy>:3:10: agents['a b']: {NAMES}"),
        ("agentguard: 1\nname: x\nagents: {'': {}}\n", f"<policy>:3:10: agents['']: {NAMES}"),
        ("agentguard: 1\nname: x\nagents: {аdmin: {}}\n", f"<policy>:3:10: agents.аdmin: {NAMES}"),
        ("agentguard: 1\nname: x\nagent: {}\nagents: {}\n", "<policy>:3:1: agent: unknown key 'agent' (did you mean 'agents'?)"),
        (
            "agentguard: 1\nname: x\nagents: {}\nwhatever: 1\n",
            "<policy>:4:1: whatever: unknown key 'whatever' (known here: agentguard, agents, environment, forbid, groups, import,",
        ),
        (
            "agentguard: 1\nname: x\nagents: {}\nunsafe_shadow: {until: never}\n",
            "<policy>:4:1: unsafe_shadow: unknown key 'unsafe_shadow' (known here: agentguard, agents, environment,",
        ),
        (with_agent("{tool: {}}"), "<policy>:4:7: agents.a.tool: unknown key 'tool' (did you mean 'tools'?)"),
        (
            with_agent("{approval: always}"),
            "<policy>:4:17: agents.a.approval: expected a list, found 'always'",
        ),
        (with_agent(""), "<policy>:4:5: agents.a: expected a mapping, found nothing (an empty mapping is written {})"),
        (with_agent("{tools: [t]}"), "<policy>:4:14: agents.a.tools: expected a mapping, found a list"),
        (
            with_agent("{tools: {t: }}"),
            "<policy>:4:18: agents.a.tools.t: expected a mapping, found nothing (an empty mapping is written {})",
        ),
        (with_agent("{tools: {t: any}}"), "<policy>:4:18: agents.a.tools.t: expected a mapping, found 'any'"),
        (with_agent("{tools: {t: {p: }}}"), f"<policy>:4:22: agents.a.tools.t.p: {RULE} null (write {{exact: null}})"),
        (with_agent("{tools: {t: {p: 5}}}"), f"<policy>:4:22: agents.a.tools.t.p: {RULE} 5 (write {{exact: 5}})"),
        (with_agent("{tools: {t: {p: [r, w]}}}"), f"<policy>:4:22: agents.a.tools.t.p: {RULE} an array of 2 (write {{one_of: [...]}})"),
        (
            with_agent("{tools: {t: {p: {rang: {min: 1}}}}}"),
            "<policy>:4:23: agents.a.tools.t.p.rang: a rule has no key 'rang' (did you mean range?)",
        ),
        (
            with_agent("{tools: {t: {p: {any: [{exact: 1}, {rang: {min: 1}}]}}}}"),
            "<policy>:4:42: agents.a.tools.t.p.any[1].rang: a rule has no key 'rang' (did you mean range?)",
        ),
        (
            with_agent("{tools: {t: {p: {range: {min: 5, max: 1}}}}}"),
            "<policy>:4:23: agents.a.tools.t.p.range: range.min 5 is above range.max 1",
        ),
        (
            with_agent("{tools: {t: {p: {constraint_type: magic}}}}"),
            "<policy>:4:22: agents.a.tools.t.p: constraint_type 'magic' is not one that is known here",
        ),
        (
            with_agent("{tools: {t: {p: {max_length: 5, optional: 1}}}}"),
            "<policy>:4:22: agents.a.tools.t.p: optional must be true or false, found 1",
        ),
        (
            with_agent("{tools: {t: {p: {any: [{exact: 1, optional: true}]}}}}"),
            "agents.a.tools.t.p.any: optional belongs to the whole argument, not to a part of its rule",
        ),
        (
            with_agent("{tools: {t: {'*': any}}}"),
            "<policy>:4:19: agents.a.tools.t['*']: '*' admits any argument, which this tool is not marked for "
            "(name the arguments, or say tools: {t: {unsafe_any_arguments: true}})",
        ),
        (
            with_agent("{tools: {t: {'*': {max_length: 1}}}}", "tools: {t: {unsafe_any_arguments: true}}\n"),
            "<policy>:4:24: agents.a.tools.t['*']: '*' stands for all arguments without a rule and can only be `any`",
        ),
        (
            with_agent("{delegates: {aa: {depth: 1}}}"),
            "<policy>:4:19: agents.a.delegates.aa: there is no agent 'aa' (did you mean 'a'?)",
        ),
        (with_agent("{delegates: {a: {depth: 0}}}"), "<policy>:4:30: agents.a.delegates.a.depth: must be at least 1, found 0"),
        (with_agent("{delegates: {a: {depth: 17}}}"), "<policy>:4:30: agents.a.delegates.a.depth: must be at most 16, found 17"),
        (with_agent("{delegates: [a]}"), "<policy>:4:18: agents.a.delegates: expected a mapping, found a list"),
        (with_agent("{budgets: {calls: 5}}"), "<policy>:4:16: agents.a.budgets: expected a list, found a mapping"),
        (with_agent("{budgets: [{calls: 5}]}"), "<policy>:4:17: agents.a.budgets[0]: the key 'per' is missing"),
        (with_agent("{budgets: [{calls: 0, per: task}]}"), "<policy>:4:25: agents.a.budgets[0].calls: must be at least 1, found 0"),
        (
            with_agent("{budgets: [{calls: 5.5, per: task}]}"),
            "<policy>:4:25: agents.a.budgets[0].calls: expected a whole number, found 5.5",
        ),
        (with_agent("{where: {t: ['a < 1']}}"), "agents.a.where.t: there is no rule for a tool 't' here (nothing is known here)"),
        (
            with_agent("{tools: {t: {amount: any}}, where: {t: ['amont < 1']}}"),
            "<policy>:4:46: agents.a.where.t[0]: the tool has no argument 'amont' (did you mean 'amount'?)",
        ),
        (with_agent("{tools: {t: {a: any}}, where: {t: ['a <']}}"), "agents.a.where.t[0]: expected a value, found the end, at column 4"),
        (
            with_agent("{tools: {t: {}}, budgets: [{calls: 1, limit: 2, per: task}]}"),
            "a budget is {calls: n, per: ...} or {cost: argument, limit: n, per: ...}",
        ),
        (
            with_agent("{tools: {t: {}}, budgets: [{cost: amount, limit: 2, per: task}]}"),
            "a cost needs the tool whose calls cost it (add tool: ... or tag: ...)",
        ),
        (
            with_agent("{tools: {t: {a: any}}, budgets: [{cost: amount, tool: t, limit: 2, per: task}]}"),
            "the tool 't' has no argument 'amount' that could be counted (known here: a)",
        ),
        (
            with_agent("{tools: {t: {a: any}}, budgets: [{cost: a, tool: t, limit: 0.0000001, per: task}]}"),
            "limit must be a number above 0 and up to 1000000000, with at most six decimals, found 1e-07",
        ),
        (
            with_agent("{tools: {t: {a: any}}, budgets: [{cost: {output: x}, tool: t, limit: 1, per: task}]}"),
            "a cost is the name of an argument, or {output: where it is, reserve: how much is set aside}",
        ),
        (with_agent("{budgets: [{calls: 1, per: task, window: {}}]}"), "a window is {fixed: 1d} or {sliding: 24h}"),
        (
            with_agent("{budgets: [{calls: 1, per: task, window: {fixed: fortnight}}]}"),
            '\'fortnight\' is not a span of time (write "90s", "15m", "2h" or "7d")',
        ),
        (with_agent("{budgets: [{calls: 1, per: task, window: {sliding: 30s}}]}"), "a sliding window is at least 60 s long"),
        (with_agent("{tools: {t: {}}, budgets: [{calls: 1, per: task, tool: u}]}"), "there is no rule for a tool 'u' here (known here: t)"),
        (
            with_agent("{tools: {t: {}}, sequence: [{tool: t}]}"),
            "agents.a.sequence[0]: a sequence rule says one of before, never_after, at_most and only_after_approval",
        ),
        (with_agent("{tools: {t: {}}, sequence: [{at_most: 1}]}"), "a sequence rule names a tool or a tag"),
        (with_agent("{tools: {t: {}}, sequence: [{tool: t, tag: x, at_most: 1}]}"), "a rule names tools or a tag, and not both"),
        (with_agent("{tools: {t: {}}, sequence: [{tool: t, before: u}]}"), "there is no rule for a tool 'u' here (known here: t)"),
        (with_agent("{tools: {t: {}}, sequence: [{tool: t, at_most: 0}]}"), "must be at least 1, found 0"),
        (with_agent("{tools: {t: {}}}", "sequence: [{tool: [], at_most: 1}]\n"), "must have at least one entry, found none"),
        (with_agent("{tools: {t: {}}}", "sequence: [{tag: x, at_most: 1}]\n"), "no tool has the tag 'x' (nothing is known here)"),
        (
            with_agent("{tools: {t: {}}, approval: [{tool: t, by: [x], of: 2}]}"),
            "2 must approve, and only 1 may (name more under by, or lower of)",
        ),
        (with_agent("{tools: {t: {}}, approval: [{by: [x]}]}"), "an approval rule names a tool or a tag"),
        (with_agent("{tools: {t: {}}, approval: [{tool: t, expires: soon}]}"), "'soon' is not a span of time"),
        (with_agent("{tools: {t: {}}, hours: [{zone: Mars/Base}]}"), "agents.a.hours[0]: "),
        (
            with_agent("{tools: {t: {}}, unsafe_shadow: {until: never}}"),
            "'never' is no date (write \"2026-12-31\" (its first moment, UTC), or a time with its zone)",
        ),
        (with_agent("{budgets: [{calls: 5, per: day}]}"), "agents.a.budgets[0].per: must be 'task', 'agent' or 'initiator', found 'day'"),
        (
            with_agent("{budgets: [{calls: 5, per: task}, {calls: 6, per: task}]}"),
            "<policy>:4:40: agents.a.budgets[1]: a second budget of calls per task (keep the smaller one, here or at <policy>:4)",
        ),
        (with_agent("{}", "forbid: {tool: x}\n"), "<policy>:5:9: forbid: expected a list, found a mapping"),
        (with_agent("{}", "forbid: [delete_x]\n"), "<policy>:5:10: forbid[0]: expected a mapping, found 'delete_x'"),
        (with_agent("{}", "forbid: [{agent: a}]\n"), "<policy>:5:10: forbid[0]: a forbid rule names a tool or a tag, and not both"),
        (
            with_agent("{}", "forbid: [{tool: x, arg: y}]\n"),
            "<policy>:5:20: forbid[0].arg: unknown key 'arg' (did you mean 'tag'?)",
        ),
        (with_agent("{}", "forbid: [{tool: a b}]\n"), f"<policy>:5:17: forbid[0].tool: {NAMES}, found 'a b'"),
        (
            with_agent("{}", "forbid: [{tool: '**'}]\n"),
            "<policy>:5:10: forbid[0]: glob.pattern '**' holds '**'",
        ),
        (
            with_agent("{}", "forbid: [{tool: *}]\n"),
            "<policy>:5:18: not YAML: did not find expected alphabetic or numeric character (quote text",
        ),
        (
            with_agent("{}", "tools: {t: {labels: [egress]}}\n"),
            "<policy>:5:13: tools.t.labels: 'labels' is not supported yet in this version, so nothing would enforce it (take it out)",
        ),
        (
            with_agent("{groups: [readers]}", "groups: {reader: {}}\n"),
            "<policy>:4:16: agents.a.groups[0]: there is no group 'readers' (did you mean 'reader'?)",
        ),
        (
            with_agent("{groups: [one]}", "groups: {one: {groups: [two]}, two: {groups: [one]}}\n"),
            "groups.two.groups[0]: the group 'one' contains itself",
        ),
        (
            with_agent("{groups: [one, two]}", "groups: {one: {tools: {t: {x: any}}}, two: {tools: {t: {y: any}}}}\n"),
            "the groups 'one' and 'two' say different things about 't' (write t at the agent itself: that holds, then)",
        ),
        (with_agent("{tags: [raed]}", "tools: {t: {tags: [read], arguments: {}}}\n"), "no tool has the tag 'raed' (did you mean 'read'?)"),
        (
            with_agent("{tags: [read]}", "tools: {t: {tags: [read]}}\n"),
            "the tool 't' has the tag 'read', and nothing says what may be passed to it (write tools.t.arguments",
        ),
        (with_agent("{}", "tools: {t: {tags: [read, read]}}\n"), "tools.t.tags[1]: the tag 'read' stands twice"),
        (with_agent("{}", "forbid: [{tag: read}]\n"), "forbid[0].tag: no tool has the tag 'read' (nothing is known here)"),
        (with_agent("{}", "forbid: [{tag: read, tool: t}]\n"), "a forbid rule names a tool or a tag, and not both"),
        (
            with_agent("{}", "tools: {'a*': {tags: [read]}}\nforbid: [{tag: read}]\n"),
            "the tool 'a*' has a name that would be read as a pattern (forbid it by name)",
        ),
        (with_agent("{}", "tools: {t: {rerun: true}}\n"), "<policy>:5:20: tools.t.rerun: must be 'safe', found true"),
        (with_agent("{}", "tools: {t: {proof: optional}}\n"), "<policy>:5:20: tools.t.proof: must be 'required', found 'optional'"),
        (with_agent("{}", "tools: {t: {unsafe_any_arguments: 1}}\n"), "expected true or false, found 1"),
        (with_agent("{}", "tools: {t: {unsafe_any_argument: true}}\n"), "(did you mean 'unsafe_any_arguments'?)"),
        (with_agent("{}", "environment: {stage: prod}\n"), f"<policy>:5:22: environment.stage: {RULE} 'prod' (write {{exact: 'prod'}})"),
        (with_agent("{}", "environment: {a b: any}\n"), f"<policy>:5:15: environment['a b']: {NAMES}"),
    ],
)
def test_each_mistake_has_its_sentence(text: str, message: str) -> None:
    assert message in error_of(text)


def test_all_problems_are_told_at_once_in_the_order_of_the_file() -> None:
    message = error_of("""\
agentguard: 1
name: x
agents:
  a:
    tools: {t: {p: {rang: 1}, q: {path: relative}}}
    delegates: {b: {depth: 1}}
forbid: [{tool: "**"}]
""")
    places = ["<policy>:5:21: agents.a.tools.t.p.rang", "<policy>:5:35: agents.a.tools.t.q.path", "<policy>:6:17: ", "<policy>:7:10: "]
    assert message.startswith(places[0])
    positions = [message.index(place) for place in places]
    assert positions == sorted(positions)


def test_very_many_problems_are_counted() -> None:
    many = "".join(f"  key{number}: 1\n" for number in range(5000))
    message = error_of(f"agentguard: 1\nname: x\nagents:\n  a: {{}}\ntools:\n  t:\n{many}".replace("  key", "    key"))
    assert "and 4990 more" in message
    assert len(message) < 4000
    rules = "".join(f"        p{number}: {{no: 1}}\n" for number in range(5000))
    message = error_of(f"agentguard: 1\nname: x\nagents:\n  a:\n    tools:\n      t:\n{rules}")
    assert "and 40 more" in message


def test_a_problem_in_a_file_names_the_file(tmp_path: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        load("no/such/policy.yaml")
    assert str(caught.value).startswith("no/such/policy.yaml: cannot read the file: No such file or directory")
