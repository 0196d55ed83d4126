"""Properties of policies: proven for all calls, refuted by a call that the policy allows, or unknown."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentguard.canonical import freeze, jcs, parse
from agentguard.errors import InvalidInput
from agentguard.policy import load
from agentguard.policy.model import Policy

pytest.importorskip("z3", reason="z3 belongs to the prove extra")

from agentguard.analysis.calls import Call, unread
from agentguard.analysis.confirm import allowed
from agentguard.analysis.diff import differences
from agentguard.analysis.properties import beside, load_properties, parse_property, parse_rules
from agentguard.analysis.prove import Proof, Verdict, chain_to, prove
from agentguard.analysis.search import Search

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(path for path in (ROOT / "policies").glob("*.yaml") if beside(path).exists())


def proof_of(policy: Policy | str, written: Any, **limits: Any) -> Proof:
    return prove(load(policy) if isinstance(policy, str) else policy, parse_property(written, "here"), Search(**limits))


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is proven here does not depend on how busy the machine is: z3's own count of steps is the limit."""
    monkeypatch.setattr("agentguard.analysis.search.QUESTION_MILLISECONDS", 60_000)


# --- the policies that are shipped ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_the_properties_of_a_shipped_policy_are_proven(file: Path) -> None:
    proofs = [prove(load(file), wanted, Search(seconds=60)) for wanted in load_properties(beside(file))]
    assert [(proof.property.text, proof.verdict) for proof in proofs if proof.verdict is not Verdict.PROVEN] == []
    assert any(not proof.notes for proof in proofs), "one of them speaks of a tool that there is"


def test_there_are_properties() -> None:
    assert {"analyst", "coding", "desktop", "finance", "refunds", "research", "support"} <= {path.stem for path in FILES}


#: One line of a policy, what it becomes, and the property (by its number) that then has a counterexample.
WEAKENINGS = [
    ("support", 0, "to: {email: {domains: [example.com]}}", 'to: {email: {domains: [example.com, "*.com"]}}'),
    ("support", 0, "to: {email: {domains: [example.com]}}", 'to: {regex: "[^@]+@example.com"}'),
    ("support", 0, "body: {max_length: 4000}", "body: {max_length: 4001}"),
    ("support", 0, "body: {max_length: 4000}", "body: {max_length: 4000, optional: true}"),
    ("support", 1, "subject: any,", "subject: any, bcc: {max_length: 100, optional: true},"),
    ("support", 2, "path: /srv/tickets}}", "path: /srv/tickets}}, send_email: {to: any}"),
    ("support", 3, "path: /srv/tickets}}", "path: /srv}}"),
    ("support", 4, "path: /srv/tickets}}", "path: /srv/tickets}}, notify: {to: any}"),
    ("research", 0, "budgets: [{calls: 20, per: task}]", "delegates: {researcher: {depth: 1}}"),
    ("research", 1, 'hosts: ["*.wikipedia.org", arxiv.org]', 'hosts: ["*.org", arxiv.org]'),
    ("research", 1, ", schemes: [https]", ", schemes: [https, http]"),
    ("research", 2, ", schemes: [https]", ", schemes: [https, http]"),
    ("research", 3, "read_note: {path: {path: /srv/research/notes}}", "read_note: {path: {path: /srv}}"),
    ("research", 4, 'regex: ".*\\\\.md"', 'regex: ".*md"'),
    ("research", 5, 'regex: ".*\\\\.md"', 'regex: ".*\\\\.(md|sh)"'),
    ("refunds", 1, "to: {exact: original payment}", "to: any"),
    ("refunds", 1, "max: 1000}}", "max: 1001}}"),
    ("refunds", 2, "min_inclusive: false, ", ""),
    ("refunds", 3, "text: {min_length: 1, max_length: 4000}", "text: any"),
    ("coding", 0, "edit_file: {path: {path: /srv/repo}", "edit_file: {path: {path: /srv}"),
    ("coding", 1, "    budgets: [{calls: 80, per: task}]", "      edit_file: {path: {path: /srv/repo}}"),
    ("coding", 2, '"npm test"]', '"npm test", "make deploy"]'),
    ("coding", 3, 'git_push: {branch: {regex: "agent/[a-z0-9-]{1,60}"}', 'git_push: {branch: {regex: "[a-z0-9/-]{1,60}"}'),
    ("coding", 4, '- not starts_with(path, "/srv/repo/.git")', '- not starts_with(path, "/srv/repo/.git/")'),
    ("finance", 0, "    budgets: [{calls: 200, per: task}]", "      pay: {supplier: any}"),
    ("finance", 1, "DE02500105170137075030]", "FR7630006000011234567890189]"),
    ("finance", 2, "min_inclusive: false, ", ""),
    ("finance", 3, "- price * quantity <= 10000", "- price + quantity <= 10000"),
    ("finance", 4, "folder: {one_of: [paid, open, disputed]}", "folder: any"),
    ("analyst", 0, "database: {exact: replica}", "database: {one_of: [replica, primary]}"),
    ("analyst", 3, "path: {path: /srv/reports/charts,", "path: {path: /srv/reports,"),
    ("desktop", 0, "mail/send: {to: {email: {domains: [example.com]}}", 'mail/send: {to: {email: {domains: [example.com, "*.com"]}}'),
    ("desktop", 1, "path: {path: /home/me/Documents/assistant}", "path: {path: /home/me}"),
    (
        "desktop",
        2,
        "files/read: {tags: [read], rerun: safe, arguments: {path: {path: /home/me/Documents}}",
        "files/read: {tags: [read], rerun: safe, arguments: {path: {path: /home/me}}",
    ),
    ("desktop", 3, "schemes: [https]", "schemes: [https, http]"),
]


@pytest.mark.parametrize(("name", "index", "before", "after"), WEAKENINGS)
def test_a_weakening_of_one_line_has_a_counterexample(name: str, index: int, before: str, after: str) -> None:
    file = ROOT / "policies" / f"{name}.yaml"
    text = file.read_text("utf-8")
    weak = text.replace(before, after, 1)
    assert sum(old != new for old, new in zip(text.splitlines(), weak.splitlines(), strict=True)) == 1
    wanted = load_properties(beside(file))[index]
    proof = prove(load(weak), wanted, Search(seconds=60))
    assert proof.verdict is Verdict.COUNTEREXAMPLE
    call = proof.example
    assert load(weak).judge(call["agent"], call["tool"], freeze(call["arguments"])) is None
    if len(call.get("chain", ())) < 2:
        assert load(file).judge(call["agent"], call["tool"], freeze(call["arguments"])) is not None


def test_a_forbid_rule_holds_whatever_a_line_adds() -> None:
    file = ROOT / "policies" / "support.yaml"
    text = file.read_text("utf-8").replace("path: /srv/tickets}}", "path: /srv/tickets}}, delete_ticket: {id: any}")
    wanted = load_properties(beside(file))[5]
    assert "delete" in wanted.text
    assert prove(load(text), wanted).verdict is Verdict.PROVEN
    assert prove(load(text.replace('forbid: [{tool: "delete_*"}]', "forbid: []")), wanted).verdict is Verdict.COUNTEREXAMPLE


# --- each kind of property ------------------------------------------------------------------------------------------------------------

BILLING = """\
agentguard: 1
name: billing
agents:
  triage:
    tools: {read: {id: any}}
    delegates: {billing: {depth: 1}}
  billing:
    tools: {send_money: {amount: {range: {min: 1, max: 100}}, note: {max_length: 10, optional: true}}}
  clerk:
    tools: {crm/send_money: {amount: {all: [{range: {max: 1}}, {range: {min: 2}}]}}}
    delegates: {triage: {depth: 1}}
"""


def test_only() -> None:
    assert proof_of(BILLING, {"only": {"tool": "send_money", "agents": ["billing"]}}).verdict is Verdict.PROVEN
    refuted = proof_of(BILLING, {"only": {"tool": "send_money", "agents": ["triage"]}})
    assert refuted.verdict is Verdict.COUNTEREXAMPLE
    assert refuted.example == {"agent": "billing", "tool": "send_money", "arguments": {"amount": 1}}
    assert refuted.place == "<policy>:8"


def test_only_through_delegates_follows_chains_as_deep_as_they_go() -> None:
    through = {"only": {"tool": "send_money", "agents": ["billing"], "with_delegates": True}}
    refuted = proof_of(BILLING, through)
    assert refuted.verdict is Verdict.COUNTEREXAMPLE
    assert refuted.example["chain"] == ["triage", "billing"]
    through["only"]["agents"] = ["billing", "triage"]
    assert proof_of(BILLING, through).verdict is Verdict.PROVEN, "clerk reaches triage, but no further"
    deeper = BILLING.replace("{triage: {depth: 1}}", "{triage: {depth: 2}}")
    assert proof_of(deeper, through).example["chain"] == ["clerk", "triage", "billing"]


def test_a_tool_whose_arguments_nothing_satisfies_cannot_be_called() -> None:
    assert proof_of(BILLING, {"never": {"tool": "crm/*"}}).verdict is Verdict.PROVEN


def test_a_bare_star_is_every_tool_and_other_globs_stop_at_a_slash() -> None:
    text = BILLING.replace("{all: [{range: {max: 1}}, {range: {min: 2}}]}", "any")
    nobody = {"agents": ["clerk"]}
    assert proof_of(text, {"never": {"tool": "*", **nobody}}).verdict is Verdict.COUNTEREXAMPLE
    assert proof_of(text, {"never": {"tool": "*_money", **nobody}}).verdict is Verdict.PROVEN


@pytest.mark.parametrize(
    ("written", "verdict"),
    [
        ({"always": {"tool": "send_money", "arguments": {"amount": {"range": {"max": 100}}}}}, "proven"),
        ({"always": {"tool": "send_money", "arguments": {"amount": {"range": {"max": 99}}}}}, "counterexample"),
        ({"always": {"tool": "send_money", "arguments": {"note": {"max_length": 10}}}}, "counterexample"),  # it may be left out
        ({"always": {"tool": "send_money", "arguments": {"note": {"max_length": 10, "optional": True}}}}, "proven"),
        ({"always": {"tool": "send_money", "arguments": {"note": {"max_length": 9, "optional": True}}}}, "counterexample"),
        ({"always": {"tool": "send_money", "arguments": {"to": "any"}}}, "counterexample"),  # there is no such argument
        ({"always": {"tool": "send_money", "arguments": {"to": {"exact": "x", "optional": True}}}}, "proven"),
        ({"never": {"tool": "send_money", "arguments": {"amount": {"not": {"range": {"max": 100}}}}}}, "proven"),
        ({"never": {"tool": "send_money", "arguments": {"amount": {"range": {"min": 100}}}}}, "counterexample"),
        ({"never": {"tool": "send_money", "arguments": {"amount": {"range": {"min": 50}}, "to": "any"}}}, "proven"),
        ({"never": {"tool": "send_money", "arguments": {"amount": {"any": [{"exact": 0}, {"not": {"type": "number"}}]}}}}, "proven"),
        ({"never": {"tool": "send_money", "agents": ["triage"]}}, "proven"),
        ({"never": {"tool": "send_money", "agents": ["triage"], "with_delegates": True}}, "counterexample"),
    ],
)
def test_always_and_never(written: Any, verdict: str) -> None:
    assert proof_of(BILLING, written).verdict == verdict


def test_the_environment_is_part_of_what_is_allowed() -> None:
    never = {"never": {"tool": "send_money"}}
    where = "environment: {region: {one_of: [eu]}, test: {exact: true, optional: true}}\n"
    refuted = proof_of(BILLING + where, never)
    assert refuted.example["environment"] == {"region": "eu"}
    nowhere = "environment: {region: {all: [{exact: eu}, {exact: us}]}}\n"
    proof = proof_of(BILLING + nowhere, never)
    assert proof.verdict is Verdict.PROVEN
    assert "nothing is allowed anywhere" in proof.notes[0]


def test_no_wider_than(tmp_path: Path) -> None:
    old = tmp_path / "old.yaml"
    old.write_text(BILLING)
    (tmp_path / "new.properties.yaml").write_text("- no_wider_than: old.yaml\n")
    (wanted,) = load_properties(tmp_path / "new.properties.yaml")
    assert prove(load(BILLING.replace("max: 100", "max: 99").replace("name: billing", "name: b")), wanted).verdict is Verdict.PROVEN
    for wider in (
        BILLING.replace("max: 100", "max: 101"),
        BILLING.replace("{triage: {depth: 1}}", "{triage: {depth: 2}}"),
        BILLING + "tools: {send_money: {rerun: safe}}\n",
    ):
        assert prove(load(wider), wanted).verdict is Verdict.COUNTEREXAMPLE


def test_what_nobody_has_is_proven_with_a_note() -> None:
    proof = proof_of(BILLING, {"always": {"tool": "send_mony", "agents": ["biling"], "arguments": {"to": "any"}}})
    assert proof.verdict is Verdict.PROVEN
    assert proof.notes == ("no agent may call a tool named send_mony", "the policy has no agent biling")


# --- what is not proven ---------------------------------------------------------------------------------------------------------------


def test_what_the_analysis_does_not_read_makes_a_proof_unknown_but_not_a_counterexample() -> None:
    policy = load(BILLING)
    document = parse(policy.canonical)
    document["agents"]["billing"]["quota"] = [{"before": "read"}]
    document["conditions"] = {"a": "b"}
    strange = replace(policy, canonical=jcs(document))
    assert unread(policy) == ()
    assert set(unread(strange)) == {"agents.billing.quota", "conditions"}
    proof = proof_of(strange, {"only": {"tool": "send_money", "agents": ["billing"]}})
    assert proof.verdict is Verdict.UNKNOWN
    assert "agents.billing.quota" in proof.why
    assert proof_of(strange, {"never": {"tool": "send_money"}}).verdict is Verdict.COUNTEREXAMPLE


def test_an_entry_that_says_more_than_its_constraint_is_not_read() -> None:
    policy = load(BILLING)
    document = parse(policy.canonical)
    document["agents"]["triage"]["tools"]["read"]["id"]["ask"] = True
    assert unread(replace(policy, canonical=jcs(document))) == ("agents.triage.tools.read",)


def test_a_counterexample_that_the_policy_refuses_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentguard.analysis.prove.allowed", lambda policy, call, search: None)
    proof = proof_of(BILLING, {"never": {"tool": "send_money"}})
    assert proof.verdict is Verdict.UNKNOWN
    assert "no way was found in which the policy allows billing send_money" in proof.why


def test_a_property_out_of_limits_is_unknown() -> None:
    text = BILLING.replace("note: {max_length: 10", 'note: {regex: "[a-z]{1,5}"')
    written = {"always": {"tool": "send_money", "arguments": {"note": {"regex": "[a-z]*", "optional": True}}}}
    assert proof_of(text, written).verdict is Verdict.PROVEN
    for limits in ({"steps": 0}, {"steps": 50}, {"seconds": 0}):
        assert proof_of(text, written, **limits).verdict is Verdict.UNKNOWN


def test_a_pattern_that_is_not_translated_is_proven_only_against_itself() -> None:
    text = BILLING.replace("note: {max_length: 10", 'note: {regex: "a\\\\bb"')
    same = {"always": {"tool": "send_money", "arguments": {"note": {"regex": "a\\bb", "optional": True}}}}
    assert proof_of(text, same).verdict is Verdict.PROVEN
    other = {"always": {"tool": "send_money", "arguments": {"note": {"regex": "b\\ba", "optional": True}}}}
    assert proof_of(text, other).verdict is Verdict.UNKNOWN


def test_the_guards_own_decision_confirms() -> None:
    policy = load(BILLING)
    call = Call("billing", "send_money", freeze({"amount": 1}))

    def confirmed(call: Call, policy: Policy = policy) -> bool:
        return allowed(policy, call, Search()) is not None

    assert confirmed(call)
    assert not confirmed(replace(call, arguments=freeze({"amount": 101})))
    assert confirmed(replace(call, chain=("triage", "billing")))
    assert not confirmed(replace(call, chain=("clerk", "triage", "billing")))
    assert not confirmed(replace(call, agent="bill\u0456ng"))
    assert not confirmed(call, load(BILLING + "environment: {region: {exact: eu}}\n"))


def test_chains_are_found_in_a_thicket() -> None:
    names = [f"a{number}" for number in range(12)]
    every = {name: {"delegates": {other: {"depth": 3} for other in names if other != name}} for name in names}
    policy = load(jcs({"agentguard": 1, "name": "p", "agents": {**every, "far": {}}}).decode() + "\n")
    assert chain_to(policy, "a0", "a11") == ("a0", "a11")
    assert chain_to(policy, "a0", "far") is None


# --- how properties are written -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("only: {}\n", "expected a list of properties"),
        ("[]\n", "expected a list of properties"),
        ("- only\n", "a property is one of only, always, never, no_wider_than"),
        ("- sometimes: {tool: x}\n", "there is no property 'sometimes'"),
        ("- only: {tool: x}\n", "only needs agents and tool, and knows agents, tool, with_delegates"),
        ("- only: {tool: x, agents: []}\n", "agents is a list of names or globs"),
        ("- only: {tool: 1, agents: [a]}\n", "tool is a name or a glob"),
        ("- always: {tool: x}\n", "always needs arguments and tool"),
        ("- always: {tool: x, arguments: {}}\n", "arguments is {argument: rule}"),
        ("- never: {tool: x, argument: {}}\n", "never needs tool, and knows agents, arguments, tool, with_delegates"),
        ("- never: {tool: x, arguments: {to: {rnge: {}}}}\n", "arguments.to: a rule has no key 'rnge'"),
        ("- never: {tool: x, arguments: {to: {not: {not: {exakt: 1}}}}}\n", "arguments.to: a rule has no key 'exakt'"),
        ("- never: {tool: x, arguments: {to: {not: {exact: 1, optional: true}}}}\n", "optional belongs to the whole argument"),
        ('- never: {tool: x, arguments: {"*": any}}\n', "a property names its arguments"),
        ('- never: {tool: "a**"}\n', "holds '**'"),
        ("- no_wider_than: 3\n", "no_wider_than names the file of a policy"),
        ("- never: {tool: x, tool: y}\n", "tool"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "p.properties.yaml"
    file.write_text(text)
    with pytest.raises(InvalidInput) as caught:
        load_properties(file)
    assert message in str(caught.value)
    assert f"{file}:1" in str(caught.value)


def test_rules_of_the_command_line() -> None:
    assert parse_rules("send_*", "--never") == {"tool": "send_*"}
    assert parse_rules("pay: {to: any}", "--never") == {"tool": "pay", "arguments": {"to": "any"}}
    with pytest.raises(InvalidInput, match="--never: expected one tool"):
        parse_rules("{a: {}, b: {}}", "--never")


# --- the page -------------------------------------------------------------------------------------------------------------------------


def test_the_blocks_of_the_page_do_what_it_says(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "policy-prove.md").read_text("utf-8")
    names: dict[str, Any] = {"prove": prove, "parse_property": parse_property, "load": load, "differences": differences}
    kinds = []
    for kind, block in re.findall(r"^```(.*?)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        kinds.append(kind)
        if kind == "yaml":
            names["policy"] = load(block)
        elif kind == "yaml properties":
            file = tmp_path / "p.properties.yaml"
            file.write_text(block)
            assert {prove(names["policy"], wanted).verdict for wanted in load_properties(file)} == {Verdict.PROVEN}
        elif kind == "python":
            exec(compile(block, "docs/policy-prove.md", "exec"), names)
    assert kinds == ["yaml", "yaml properties", "python", "text", "python"]
