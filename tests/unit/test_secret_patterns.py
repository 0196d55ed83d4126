"""Each kind of secret is found in the forms that its issuer publishes, and what only looks a little like one is left alone.

The values are made up here, piece by piece: none of them was ever one.
"""

from __future__ import annotations

import json

import pytest

from agentguard.errors import InvalidInput
from agentguard.policy.outputs import parse_output
from agentguard.policy.secret_patterns import NAMES, Finder, parse_names, parse_patterns
from support.secrets_made_up import FOUND, JWT, UPPER, b64, made

#: Kind, and what is none of it.
LEFT = [
    ("aws", "AKIA"),
    ("aws", f"AKIA{UPPER[:15]}"),
    ("aws", f"akia{UPPER.lower()}"),
    ("aws", "AKIA0189AKIA0189AKIA0189"),  # no base32
    ("aws", made(40, "0123456789abcdef")),  # the hash of a commit
    ("aws", f"secret access keys are {made(40, '0123456789abcdef ')}"),
    ("github", "ghp_short"),
    ("github", f"ghx_{made(36)}"),
    ("github", "github_pat_is the prefix of fine-grained tokens"),
    ("gitlab", "glpat-"),
    ("gitlab", "the glpat-prefix of tokens"),
    ("slack", "xoxb-"),
    ("slack", "https://hooks.slack.com/services/"),
    ("slack", "https://api.slack.com/messaging/webhooks"),
    ("google", "AIza is how such keys begin"),
    ("google", f"AIza{made(20)}"),
    ("google", "ya29.short"),
    ("stripe", "task_test_integration_of_payments"),
    ("stripe", "disk_live_0123456789abcdef"),
    ("stripe", f"pk_live_{made(24)}"),  # publishable
    ("stripe", "sk_test_short"),
    ("openai", "sk-learn and scikit-learn"),
    ("openai", f"task-{made(48)}"),
    ("openai", "sk-0123456789"),
    ("anthropic", "sk-ant-"),
    ("anthropic", "sk-ant-api03-short"),
    ("jwt", "eyJ is how every JWT begins"),
    ("jwt", b64(json.dumps({"alg": "HS256", "typ": "JWT"}))),
    ("jwt", "a.b.c"),
    ("jwt", "package.module.function_with_a_long_name"),
    ("private_key", "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----"),
    ("private_key", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----"),
    ("private_key", "keep your PRIVATE KEY private"),
    ("bearer", "the bearer of this letter"),
    ("bearer", "Authorization: Bearer <token>"),
    ("bearer", '{"authorization": "required"}'),
    ("bearer", "Authorization: none"),
    ("url_password", "https://example.com:8080/a"),
    ("url_password", "https://user@example.com/"),
    ("url_password", "https://registry.example.com:4873/@scope/package"),
    ("url_password", "https://example.com/?to=a:b@example.com"),
    ("url_password", "mailto:a@example.com and 10:30@noon"),
    ("url_password", "postgres://db:5432/x"),
    ("connection_string", "Server=db;Database=x;Integrated Security=true;"),
    ("connection_string", "the password = what you type"),
    ("connection_string", "password=hunter2"),  # a setting of its own: `redact` takes fields out
    ("connection_string", "host=localhost port=5432 dbname=x user=u"),
]


@pytest.mark.parametrize(("kind", "around", "secret"), FOUND, ids=[f"{kind}-{index}" for index, (kind, _, _) in enumerate(FOUND)])
def test_a_secret_is_found_by_its_own_kind_and_taken_out(kind: str, around: str, secret: str) -> None:
    text = f"before {around.format(secret)} after"
    assert [span.name for span in Finder((kind,)).spans(text.encode())] == [kind]
    for rule in ({"secrets": [kind]}, {"secrets": "all"}):
        shaped = parse_output(rule).apply(text)
        assert secret not in shaped.output
        assert shaped.output.startswith("before ")
        assert sum(shaped.redacted.values()) >= 1


@pytest.mark.parametrize(("kind", "text"), LEFT, ids=[f"{kind}-{index}" for index, (kind, _) in enumerate(LEFT)])
def test_what_only_looks_like_a_secret_is_left_alone(kind: str, text: str) -> None:
    assert Finder((kind,)).spans(text.encode()) == []
    assert parse_output({"secrets": "all"}).apply(text).output == text


def test_every_kind_has_both() -> None:
    assert {kind for kind, _, _ in FOUND} == set(NAMES) == {kind for kind, _ in LEFT}


def test_only_the_secret_goes_where_a_pattern_says_which_part_it_is() -> None:
    found = parse_output({"secrets": "all"}).apply("postgres://anna:s3cret@db.example.com/orders")
    assert found.output == "postgres://anna:[redacted-url_password]@db.example.com/orders"
    assert found.redacted == {"url_password": 1}


def test_one_secret_may_be_of_several_kinds_and_is_counted_once() -> None:
    shaped = parse_output({"secrets": "all"}).apply(f"Authorization: Bearer {JWT}")
    assert shaped.output == "Authorization: Bearer [redacted-bearer]"
    assert shaped.redacted == {"bearer": 1}


def test_the_name_of_a_member_tells_what_its_value_is() -> None:
    value = made(40)
    assert parse_output({"secrets": ["aws"]}).apply({"SecretAccessKey": value, "Other": value}).output == {
        "SecretAccessKey": "[redacted-aws]",
        "Other": value,
    }


def test_several_of_one_kind_side_by_side() -> None:
    keys = [f"AKIA{UPPER[index:]}{UPPER[:index]}" for index in range(16)]
    for between in (" ", ",", "_", "", "\n"):
        shaped = parse_output({"secrets": "all"}).apply(between.join(keys))
        assert shaped.redacted == {"aws": 16}
        assert "AKIA" not in shaped.output


@pytest.mark.parametrize("piece", ["eyJ", "sk-", "https://a:", "host=a ", "-----BEGIN ", "%41", "A=", "Bearer ", ";pwd="])
def test_a_text_of_beginnings_only_comes_to_an_end(piece: str) -> None:
    """What would take hours if the search were quadratic."""
    assert not parse_output({"secrets": "all"}).apply(piece * 200_000).refused


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ("some", "secrets must be all or a list of names, found 'some' (names: aws, github,"),
        ([], "secrets must be all or a list of names, found an array of 0"),
        (["aws", "azure"], "secrets knows no kind 'azure' (names: aws, github,"),
        ([1], "secrets knows no kind 1"),
    ],
)
def test_names_that_are_none(node: object, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_names(node)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ("T-[0-9]+", "patterns must be a list of 1 to 64 regular expressions, found 'T-[0-9]+'"),
        ([], "patterns must be a list of 1 to 64 regular expressions, found an array of 0"),
        (["a"] * 65, "patterns must be a list of 1 to 64 regular expressions, found an array of 65"),
        ([1], "patterns[0] must be a string of 1 to 1000 characters, found 1"),
        ([""], "patterns[0] must be a string of 1 to 1000 characters, found ''"),
        (["ok", "(?=a)"], "patterns[1] '(?=a)' is not one that RE2 takes: invalid perl operator: (?="),
        (["(a)\\1"], "patterns[0] '(a)\\\\1' is not one that RE2 takes: invalid escape sequence: \\1"),
        (["a*"], "patterns[0] 'a*' matches the empty text, and so everything (use + or {1,} in place of *)"),
        (["a{1000}{1000}"], "patterns[0] 'a{1000}{1000}' is not one that RE2 takes: "),
    ],
)
def test_patterns_that_are_none(node: object, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_patterns(node)
    assert str(caught.value).startswith(message)


def test_a_pattern_that_finds_nothing_long_ends() -> None:
    assert parse_output({"patterns": ["\\b"]}).apply("some words").output == "some words"
    assert parse_output({"patterns": ["T-[0-9]+|\\b"]}).apply("a T-12 b").output == "a [redacted-patterns[0]] b"
