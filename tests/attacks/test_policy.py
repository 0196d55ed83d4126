"""Attacks on the policy and through it; each test is named for what was observed elsewhere."""

from __future__ import annotations

import time

import pytest

from agentguard.decision import Code
from agentguard.errors import InvalidInput
from agentguard.policy import load


def policy_with(rules: str, *, tool: str = "t", rest: str = "") -> str:
    return f"agentguard: 1\nname: x\nagents:\n  a:\n    tools:\n      {tool}: {rules}\n{rest}"


def code_of(rules: str, arguments: object) -> str | None:
    reason = load(policy_with(rules)).judge("a", "t", arguments)  # type: ignore[arg-type]  # hostile on purpose
    return None if reason is None else str(reason.code)


# --- the document ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rest",
    [
        "forbid: [{tools: 'delete_*'}]\n",
        "forbid: [{tool: 'delete_*', unless: {id: 1}}]\n",
        "forbid: [{tool: 'delete_**'}]\n",
        "forbids: [{tool: 'delete_*'}]\n",
        "tools: {t: {approval: always}}\n",
        "environment: {deployment: prod}\n",
    ],
)
def test_inert_rules_a_policy_that_does_not_parse_wholly_does_not_load(rest: str) -> None:
    with pytest.raises(InvalidInput):
        load(policy_with("{}", rest=rest))


@pytest.mark.parametrize(
    "rule", ["{regex: '('}", "{regex: '(?<=x)y'}", "{cidr: 10.0.0.1/8}", "{path: ../x}", "{email: {domains: ['*']}}", "{}", "''"]
)
def test_inert_rules_a_constraint_that_cannot_be_evaluated_does_not_load(rule: str) -> None:
    with pytest.raises(InvalidInput, match=r"<policy>:6:\d+: agents\.a\.tools\.t\.p"):
        load(policy_with(f"{{p: {rule}}}"))


def test_duplicate_keys_the_last_one_does_not_win_silently() -> None:
    with pytest.raises(InvalidInput, match="the key 'p' stands twice"):
        load(policy_with("{p: {path: /srv}, p: any}"))
    with pytest.raises(InvalidInput, match="the key 'tools' stands twice"):
        load(policy_with("{p: {path: /srv}}") + "    tools: {t: {p: any}}\n")


def test_billion_laughs_no_alias_is_expanded() -> None:
    laughs = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    with pytest.raises(InvalidInput, match="an anchor is not accepted"):
        load(laughs)


def test_code_in_tags_nothing_is_constructed() -> None:
    with pytest.raises(InvalidInput, match=r"the tag .* is not accepted"):
        load("agentguard: !!python/object/apply:os.system ['true']\n")


def test_depth_and_size_bombs_end_quickly_in_one_error() -> None:
    started = time.monotonic()
    for text in ("[" * 1_000_000 + "\n", "{a: " * 200_000 + "\n", "- " * 500_000 + "\n", "{" + "\n" * 5_000_000):
        with pytest.raises(InvalidInput):
            load(text)
    assert time.monotonic() - started < 20  # each takes about 0.1 s; what this excludes is minutes


def test_hidden_characters_a_reviewer_sees_what_the_loader_reads() -> None:
    for hidden in ("\u202e", "\u2066", "\u200b", "\ufeff", "\x1b", "\x85", "\u2028"):
        with pytest.raises(InvalidInput, match="the invisible character"):
            load(policy_with(f"{{p: {{exact: 'safe{hidden}'}}}}"))
        with pytest.raises(InvalidInput, match="the invisible character"):
            load(policy_with("{}", rest=f"# {hidden}\n"))


def test_the_norway_problem_no_word_turns_into_another_type() -> None:
    with pytest.raises(InvalidInput, match=r"'no' is a boolean in YAML 1\.1"):
        load(policy_with("{country: {one_of: [se, no]}}"))
    quoted = "{country: {one_of: [se, 'no']}}"
    assert code_of(quoted, {"country": "no"}) is None
    assert code_of(quoted, {"country": False}) == Code.ARGUMENT_NOT_ALLOWED


def test_octal_and_sexagesimal_no_number_means_another_number() -> None:
    for text in ("010", "1:30", "0o17", "1_000"):
        with pytest.raises(InvalidInput, match="read differently by different versions of YAML"):
            load(policy_with(f"{{n: {{range: {{max: {text}}}}}}}"))


def test_homoglyphs_names_are_ascii() -> None:
    for name in ("\u0430", "\u212a", "a\u0301"):
        with pytest.raises(InvalidInput, match="printable ASCII"):
            load(policy_with("{}", tool=f"'{name}'"))
        with pytest.raises(InvalidInput, match="printable ASCII"):
            load(policy_with("{}", rest=f"forbid: [{{tool: 'delete_{name}'}}]\n"))


# --- the call ---------------------------------------------------------------------------------------


def test_absent_arguments_are_violations() -> None:
    rules = "{amount: {range: {max: 100}}, to: {one_of: [bob]}}"
    assert code_of(rules, {}) == Code.ARGUMENT_NOT_ALLOWED
    assert code_of(rules, {"amount": 1}) == Code.ARGUMENT_NOT_ALLOWED
    assert code_of(rules, {"amount": 1, "to": "bob"}) is None


def test_case_no_folding_anywhere() -> None:
    policy = load(policy_with("{action: {one_of: [drop]}}", tool="Query", rest="forbid: [{tool: delete}]\n"))
    assert policy.judge("a", "Query", {"action": "drop"}) is None
    for agent, tool, arguments in (
        ("A", "Query", {"action": "drop"}),
        ("a", "query", {"action": "drop"}),
        ("a", "Query", {"action": "Drop"}),
        ("a", "Query", {"Action": "drop"}),
        ("a", "Query", {"action": "dro\u0440"}),
    ):
        assert policy.judge(agent, tool, arguments) is not None


def test_numbers_true_is_not_one_and_text_is_not_a_number() -> None:
    rules = "{n: {range: {min: 0, max: 5}}, k: {one_of: [1]}}"
    assert code_of(rules, {"n": 1, "k": 1}) is None
    assert code_of(rules, {"n": 1.0, "k": 1.0}) is None
    for arguments in ({"n": True, "k": 1}, {"n": 1, "k": True}, {"n": "1", "k": 1}, {"n": float("nan"), "k": 1}, {"n": None, "k": 1}):
        assert code_of(rules, arguments) == Code.ARGUMENT_NOT_ALLOWED


def test_subclasses_that_lie_about_themselves_are_refused() -> None:
    class Liar(str):
        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return hash("bob")

    assert code_of("{to: {one_of: [bob]}}", {"to": Liar("mallory")}) == Code.ARGUMENT_NOT_ALLOWED


def test_globs_do_not_cross_a_slash() -> None:
    policy = load(policy_with("{}", tool="mcp/delete_all", rest="forbid: [{tool: 'delete_*'}, {tool: 'mcp/drop*'}]\n"))
    assert policy.judge("a", "mcp/delete_all", {}) is None, "a forbid for delete_* is not one for mcp/delete_*: write both"
    assert code_of("{p: {glob: 'a*'}}", {"p": "a/../b"}) == Code.ARGUMENT_NOT_ALLOWED


def test_paths_are_compared_by_components() -> None:
    for path in (
        "/data/reports/../../etc/passwd",
        "/data/reports/%2e%2e/x",
        "/data/reports\\..\\x",
        "/data/reports-old/x",
        "/data/reports/\0",
        "reports/x",
    ):
        assert code_of("{p: {path: /data/reports}}", {"p": path}) == Code.ARGUMENT_NOT_ALLOWED


def test_regexes_match_the_whole_text_in_linear_time() -> None:
    assert code_of("{p: {regex: 'T-[0-9]+'}}", {"p": "T-1\n"}) == Code.ARGUMENT_NOT_ALLOWED
    started = time.monotonic()
    assert code_of("{p: {regex: '(a+)+b'}}", {"p": "a" * 50_000}) == Code.ARGUMENT_NOT_ALLOWED
    assert time.monotonic() - started < 5  # RE2 needs milliseconds; a backtracking engine would not end


def test_an_unlisted_argument_does_not_ride_along() -> None:
    assert code_of("{to: {one_of: [bob]}}", {"to": "bob", "bcc": "eve"}) == Code.ARGUMENT_NOT_ALLOWED
    assert code_of("{to: {one_of: [bob]}}", {"to": "bob", "*": "eve"}) == Code.ARGUMENT_NOT_ALLOWED


def test_forbid_wins_over_every_permission_and_any_argument() -> None:
    rest = "forbid: [{tool: 'd*', agent: a}]\ntools: {drop: {unsafe_any_arguments: true}}\n"
    reason = load(policy_with('{"*": any}', tool="drop", rest=rest)).judge("a", "drop", {})
    assert reason is not None
    assert reason.code is Code.TOOL_NOT_ALLOWED


# --- delegation ---------------------------------------------------------------------------------------


def test_a_chain_of_delegates_does_not_outgrow_its_depth() -> None:
    policy = load(
        "agentguard: 1\nname: x\nagents:\n  a: {delegates: {b: {depth: 1}}}\n  b: {delegates: {c: {depth: 5}}}\n  c: {tools: {t: {}}}\n"
    )
    assert policy.may_delegate(("b", "c")) is None
    reason = policy.may_delegate(("a", "b", "c"))
    assert reason is not None
    assert reason.code is Code.DELEGATION_NOT_ALLOWED
    assert policy.reachable("a") == ("b",)
    assert policy.default_scope("a") == {}


def test_the_default_scope_holds_no_tool_of_an_agent_out_of_reach() -> None:
    policy = load(policy_with("{p: any}") + "  b: {tools: {wipe: {}}}\n")
    assert set(policy.default_scope("a")) == {"t"}


def test_what_is_remembered_cannot_be_changed_from_outside() -> None:
    policy = load(policy_with("{p: any}"))
    with pytest.raises(TypeError):
        policy.default_scope("a")["wipe"] = policy.default_scope("a")["t"]  # type: ignore[index]
    with pytest.raises(TypeError):
        policy.agents["mallory"] = policy.agents["a"]  # type: ignore[index]
    with pytest.raises(AttributeError):
        policy.digest = "sha256:0"  # type: ignore[misc]
