"""The rule for a tool's outputs: how it is read, what it does to an output, and what the record of the outcome says of it."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import decimal
import enum
import json
import uuid
from collections import OrderedDict, namedtuple
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pydantic
import pytest

from agentguard import Guard
from agentguard.canonical import jcs
from agentguard.errors import InvalidInput, OutputRefused
from agentguard.evidence import commit
from agentguard.policy import load
from agentguard.policy.outputs import OutputRule, parse_output
from agentguard.testing.evidence import records

KEY = "AKIA" + "Q2R3S4T5U6V7WXYZ"
MARK = "[redacted-aws]"
SECRETS = parse_output({"secrets": "all"})

POLICY = """
agentguard: 1
name: outputs
agents:
  triage:
    tools: {free: {x: any}, ruled: {x: any}, small: {x: any}, text: {x: any}, shaped: {x: any}, fields: {x: any}}
tools:
  ruled: {output: {secrets: all}}
  small: {output: {max_bytes: 200}}
  text: {output: {max_bytes: 200, excess: truncate, secrets: all}}
  shaped: {output: {schema: {type: object, required: [id]}}}
  fields: {output: {redact: [user.email]}}
"""


@pytest.fixture
def guard(home: Path) -> Iterator[Guard]:
    with Guard.open(POLICY, home=home, durability="process") as opened, opened.task("triage", initiator="user:alice"):
        yield opened


def last(guard: Guard) -> dict[str, Any]:
    return records(guard, "outcome")[-1]


# --- reading a rule ----------------------------------------------------------------------------------------------------------------------


WHOLE = {
    "max_bytes": 20000,
    "excess": "truncate",
    "schema": {"type": "object", "required": ["id"]},
    "redact": ["items.ssn", "user.email"],
    "secrets": "all",
    "patterns": ["T-[0-9]{6}"],
}


def test_a_rule_has_one_form() -> None:
    rule = parse_output(WHOLE)
    assert rule.to_json() == WHOLE
    assert parse_output(rule.to_json()) == rule
    assert hash(parse_output(rule.to_json())) == hash(rule)
    again = parse_output(WHOLE | {"redact": ["user.email", "items[].ssn", "user.email"], "patterns": ["T-[0-9]{6}"] * 2})
    assert again == rule
    assert parse_output({"secrets": ["jwt", "aws", "jwt"]}).to_json() == {"secrets": ["aws", "jwt"]}
    assert parse_output({"max_bytes": 5, "excess": "refuse"}).to_json() == {"max_bytes": 5}


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (None, "output must be an object, found null (such as {max_bytes: 20000, secrets: all})"),
        ({}, "output must be an object, found an object with 0 members (such as {max_bytes: 20000, secrets: all})"),
        ({"max_byte": 1}, "output has no member 'max_byte' (did you mean max_bytes?)"),
        ({"x": 1}, "output has no member 'x' (known: max_bytes, excess, schema, redact, secrets, patterns)"),
        ({1: 1}, "output has no member 1 (known: max_bytes, excess, schema, redact, secrets, patterns)"),
        ({"max_bytes": 0}, "max_bytes must be a whole number from 1 to 16777216, found 0"),
        ({"max_bytes": True}, "max_bytes must be a whole number from 1 to 16777216, found true"),
        ({"max_bytes": None}, "max_bytes must be a whole number from 1 to 16777216, found null"),
        ({"max_bytes": "20k"}, "max_bytes must be a whole number from 1 to 16777216, found '20k'"),
        ({"max_bytes": 200, "excess": "cut"}, "excess must be refuse or truncate, found 'cut'"),
        ({"excess": "truncate"}, "excess says what becomes of more than max_bytes, which is missing (add max_bytes: 20000)"),
        (
            {"max_bytes": 100, "excess": "truncate"},
            "max_bytes must be at least 128 for a cut text to say that it is one, found 100 (or write excess: refuse)",
        ),
        ({"redact": "a"}, "redact must be a list of 1 to 64 paths, found 'a' (such as user.email, items[].ssn)"),
        ({"redact": []}, "redact must be a list of 1 to 64 paths, found an array of 0 (such as user.email, items[].ssn)"),
        ({"redact": [1]}, "the path 1 in redact must be text of 1 to 256 characters"),
        ({"redact": [""]}, "the path '' in redact must be text of 1 to 256 characters"),
        ({"redact": ["a" * 257]}, f"the path '{'a' * 58}… in redact must be text of 1 to 256 characters"),
        ({"redact": ["a..b"]}, "the path 'a..b' in redact has a step '' (a step is a member's name, * for any, or ** for any depth)"),
        ({"redact": ["a b"]}, "the path 'a b' in redact has a step 'a b' (a step is a member's name, * for any, or ** for any depth)"),
        (
            {"redact": ["a[0].b"]},
            "the path 'a[0].b' in redact has a step 'a[0]' (a step is a member's name, * for any, or ** for any depth)",
        ),
        ({"redact": ["a*.b"]}, "the path 'a*.b' in redact has a step 'a*' (a step is a member's name, * for any, or ** for any depth)"),
        ({"redact": ["*"]}, "the path '*' in redact names nothing (end it with a member's name)"),
        ({"redact": ["a.**"]}, "the path 'a.**' in redact names nothing (end it with a member's name)"),
        ({"redact": ["**.**.a"]}, "the path '**.**.a' in redact has ** twice in a row"),
        ({"schema": True}, "schema must be an object, found true (such as {type: object, required: [id]})"),
        (
            {"schema": {"required": ["id"]}},
            "schema needs a type (properties, required and the like hold of everything that is no object: say what the output is)",
        ),
        (
            {"schema": {"type": "objet"}},
            "schema.type is not one that can be checked: \"objet\" is not valid under any of the schemas listed in the 'anyOf' keyword",
        ),
        (
            {"schema": {"type": "object", "properties": {"a": {"minlength": 3}}}},
            "schema.properties.a is not one that can be checked: Unevaluated properties are not allowed ('minlength' was unexpected)",
        ),
        (
            {"schema": {"type": "string", "format": "shoe-size"}},
            "schema.format is not one that can be checked: Unknown format: 'shoe-size'. "
            "Adjust configuration to ignore unrecognized formats",
        ),
        ({"schema": {"type": "string", "pattern": "(?=a)"}}, 'schema.pattern is not one that can be checked: "(?=a)" is not a "regex"'),
        (
            {"schema": {"$schema": "http://json-schema.org/draft-07/schema#", "type": "string"}},
            "schema.$schema must be https://json-schema.org/draft/2020-12/schema, found 'http://json-schema.org/draft-07/schema#'",
        ),
    ],
)
def test_what_is_no_rule_says_so(node: Any, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_output(node, where="policy.yaml:7")
    assert str(caught.value) == f"policy.yaml:7: {message}"


@pytest.mark.parametrize(
    "reference", ["http://127.0.0.1:1/schema", "https://example.com/s.json", "file:///etc/passwd", "other.json", "../x"]
)
def test_a_schema_fetches_nothing_and_reads_no_file(reference: str) -> None:
    for schema in ({"type": "object", "$ref": reference}, {"type": "object", "$id": "http://127.0.0.1:1/", "$ref": reference}):
        with pytest.raises(InvalidInput, match="schema is not one that can be checked"):
            parse_output({"schema": schema})


def test_without_its_library_a_schema_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "jsonschema_rs", None)
    with pytest.raises(InvalidInput, match=r"schema needs the library jsonschema-rs.*pip install 'agentguard\[schema\]'"):
        parse_output({"schema": {"type": "object"}})
    assert parse_output({"secrets": "all"}).apply("x").output == "x"


def test_a_policy_holds_rules_and_names_their_place() -> None:
    policy = load(POLICY)
    assert policy.attributes("small").output == parse_output({"max_bytes": 200})
    assert policy.attributes("free").output is None
    assert load(policy.canonical.decode()).digest == policy.digest
    with pytest.raises(
        InvalidInput, match=r"<policy>:9:19: tools.small.output: max_bytes must be a whole number from 1 to 16777216, found -1"
    ):
        load(POLICY.replace("max_bytes: 200}", "max_bytes: -1}"))


# --- size --------------------------------------------------------------------------------------------------------------------------------


def test_what_is_too_large_is_refused_and_the_refusal_holds_none_of_it() -> None:
    rule = parse_output({"max_bytes": 10})
    assert rule.apply("x" * 10).output == "x" * 10
    assert rule.apply("é" * 5).output == "é" * 5
    assert rule.apply({"a": [1]}).output == {"a": [1]}  # {"a":[1]}
    for output in ("x" * 11, "é" * 6, ["secret word"], {"secret": "word"}, b"secret word", ("secret word",)):
        shaped = rule.apply(output)
        assert shaped.output is None
        assert shaped.refused.endswith("bytes, of which the policy hands out at most 10: ask for less of it")
        assert "secret" not in shaped.refused


def test_text_is_cut_at_a_code_point_and_says_so() -> None:
    rule = parse_output({"max_bytes": 200, "excess": "truncate"})
    for text in ("x" * 201, "é" * 101, "🂡" * 51, "e\u0301" * 100, "ab🂡" * 60):
        shaped = rule.apply(text)
        shown, _, mark = shaped.output.partition("\n")
        assert shaped.truncated
        assert text.startswith(shown)
        assert len(shown) > 20
        assert mark == f"[cut: {len(text.encode())} bytes, of which at most 200 are handed out]"
        assert 196 < len(shaped.output.encode()) <= 200


def test_only_text_is_cut() -> None:
    rule = parse_output({"max_bytes": 200, "excess": "truncate"})
    for output in ({"a": "x" * 200}, ["x"] * 200, b"x" * 201, ("x" * 200, None)):
        assert "201" in rule.apply(output).refused or "bytes, of which" in rule.apply(output).refused


def test_what_is_measured_is_what_the_caller_would_get() -> None:
    rule = parse_output({"max_bytes": 60, "secrets": "all"})
    assert rule.apply("-----BEGIN PRIVATE KEY-----" + "x" * 5000).output == "[redacted-private_key]"


def test_a_secret_at_the_cut_leaves_no_half_of_it() -> None:
    rule = parse_output({"max_bytes": 200, "excess": "truncate", "secrets": "all"})
    for before in range(100, 220):
        shown = rule.apply("x" * before + KEY + "y" * 300).output
        assert "AKIA" not in shown


# --- schema ------------------------------------------------------------------------------------------------------------------------------


def test_a_schema_holds_or_the_output_is_refused() -> None:
    rule = parse_output({"schema": {"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]}})
    assert rule.apply({"id": 1, "more": "x"}).output == {"id": 1, "more": "x"}
    for output, where in (
        ({"id": "secret"}, "properties/id/type"),
        ({}, "required"),
        (["secret"], "type"),
        ("secret", "type"),
        (None, "type"),
    ):
        shaped = rule.apply(output)
        assert shaped.refused == f"it is not what the policy's schema asks for: {where} does not hold"
        assert shaped.output is None


def test_text_may_be_what_the_schema_asks_for_or_json_that_is() -> None:
    rule = parse_output({"schema": {"type": "object", "required": ["id"]}})
    assert rule.apply('{"id": 1}').output == '{"id": 1}'
    assert rule.apply('{"other": 1}').refused
    assert rule.apply('{"id": 1, "id": 2}').refused
    text = parse_output({"schema": {"type": "string", "maxLength": 20}})
    assert text.apply('{"id": 1}').output == '{"id": 1}'
    assert text.apply("x" * 21).refused


def test_formats_are_checked() -> None:
    rule = parse_output({"schema": {"type": "string", "format": "date-time"}})
    assert not rule.apply("2026-01-01T00:00:00Z").refused
    assert rule.apply("yesterday").refused


def test_a_schema_is_asked_about_the_output_as_the_tool_gave_it() -> None:
    rule = parse_output({"schema": {"type": "object", "properties": {"ssn": {"type": "integer"}}}, "redact": ["ssn"]})
    assert rule.apply({"ssn": 123456789}).output == {"ssn": "[redacted]"}
    assert rule.apply({"ssn": "123456789"}).refused


def test_schemas_see_models_by_their_fields() -> None:
    class Order(pydantic.BaseModel):
        id: int
        when: datetime.date = datetime.date(2026, 1, 1)

    rule = parse_output({"schema": {"type": "object", "required": ["id"], "properties": {"when": {"format": "date"}}}})
    order = Order(id=1)
    assert rule.apply(order).output == order


# --- fields ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "output", "expected"),
    [
        ("a", {"a": 1, "b": 2}, {"a": "[redacted]", "b": 2}),
        ("user.email", {"user": {"email": "x", "name": "n"}}, {"user": {"email": "[redacted]", "name": "n"}}),
        ("user.email", {"email": "x"}, {"email": "x"}),
        ("items[].ssn", {"items": [{"ssn": 1}, {"n": 1}]}, {"items": [{"ssn": "[redacted]"}, {"n": 1}]}),
        ("items.ssn", [{"items": ({"ssn": 1},)}], [{"items": ({"ssn": "[redacted]"},)}]),
        ("[].ssn", [{"ssn": 1}], [{"ssn": "[redacted]"}]),
        ("a[]", {"a": [1, 2]}, {"a": "[redacted]"}),
        ("*.token", {"token": 1, "a": {"token": 1, "b": {"token": 1}}}, {"token": 1, "a": {"token": "[redacted]", "b": {"token": 1}}}),
        ("**.token", {"token": 1, "a": {"b": {"token": 1}}}, {"token": "[redacted]", "a": {"b": {"token": "[redacted]"}}}),
        ("a.**.t", {"t": 1, "a": {"t": 1, "b": [{"t": 1}]}}, {"t": 1, "a": {"t": "[redacted]", "b": [{"t": "[redacted]"}]}}),
        ("a.*", {"a": {"b": 1, "c": {"d": 2}}}, {"a": {"b": "[redacted]", "c": "[redacted]"}}),
        ("a", {"a": None}, {"a": None}),
        ("a", {"a": {"b": [1]}}, {"a": "[redacted]"}),
        ("user.email", {"user": "bob <x@example.com>"}, {"user": "[redacted]"}),
        ("user.email", {"user": '{"email": "x"}'}, {"user": '{"email": "[redacted]"}'}),
        ("user.email", {"user": 7}, {"user": 7}),
        ("*.token", {"a": "some text"}, {"a": "some text"}),
        ("user.email", '{"user": {"email": "x", "n": 1.5}}', '{"user": {"email": "[redacted]", "n": 1.5}}'),
        ("user.email", b'{"user": {"email": "x"}}', b'{"user": {"email": "[redacted]"}}'),
        ("user.email", '  \n [{"user": {"email": "x"}}]', '[{"user": {"email": "[redacted]"}}]'),
        ("user.email", '{ "other": 1.50 }', '{ "other": 1.50 }'),
        ("user.email", None, None),
        ("user.email", 5, 5),
    ],
)
def test_fields_are_taken_out_by_path(path: str, output: Any, expected: Any) -> None:
    shaped = parse_output({"redact": [path]}).apply(output)
    assert shaped.output == expected
    assert type(shaped.output) is type(expected)
    assert bool(shaped.redacted) is (output != expected)
    assert set(shaped.redacted) <= {path.replace("[]", "").lstrip(".")}


def test_text_in_which_no_field_can_be_found_is_refused() -> None:
    rule = parse_output({"redact": ["user.email"]})
    for text in ("user: bob@example.com", b"x", '{"user": 1', '{"user": 1}\n{"user": 2}', '{"a": 1, "a": 2}', '{"a": NaN}', ""):
        assert rule.apply(text).refused == "the policy takes fields out of it, and it is text that is not JSON"


def test_fields_are_counted_by_path() -> None:
    shaped = parse_output({"redact": ["items[].ssn", "**.token"]}).apply({"items": [{"ssn": 1}, {"ssn": 2, "token": "t"}], "token": "t"})
    assert shaped.redacted == {"items.ssn": 2, "**.token": 2}


# --- what is inside what -----------------------------------------------------------------------------------------------------------------


class Inner(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    text: str = ""
    other: dict[str, Any] = {}
    token: str = pydantic.Field(default="", serialization_alias="apiToken")
    _private: str = pydantic.PrivateAttr(default="")


@dataclasses.dataclass(frozen=True)
class Plain:
    text: str
    inner: Any = None


@dataclasses.dataclass(slots=True)
class Slotted:
    text: str


class Text(str):
    note: str


class Colour(enum.Enum):
    RED = "red"


Point = namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (KEY, MARK),
        ([KEY, 1], [MARK, 1]),
        ((KEY,), (MARK,)),
        ({KEY}, {MARK}),
        (frozenset([KEY]), frozenset([MARK])),
        ({"a": {"b": [KEY]}}, {"a": {"b": [MARK]}}),
        ({KEY: 1}, {MARK: 1}),
        ({KEY: 1, KEY.replace("Z", "Y"): 2}, {MARK: 1, f"{MARK} 2": 2}),
        (MappingProxyType({"a": KEY}), MappingProxyType({"a": MARK})),
        (KEY.encode(), MARK.encode()),
        (Plain(KEY, [KEY]), Plain(MARK, [MARK])),
        (Slotted(KEY), Slotted(MARK)),
        (Inner(text=KEY, other={"a": KEY}), Inner(text=MARK, other={"a": MARK})),
        (Inner(text="x", more=KEY), Inner(text="x", more=MARK)),
        (pydantic.SecretStr(KEY), pydantic.SecretStr(MARK)),
        (Point(KEY, 1), Point(MARK, 1)),
        (OrderedDict(a=KEY), {"a": MARK}),
        (f'{{"a": "{KEY}"}}', f'{{"a": "{MARK}"}}'),
        (json.dumps({"a": json.dumps({"b": KEY})}), json.dumps({"a": json.dumps({"b": MARK})})),
        (Path("/x") / KEY, f"/x/{MARK}"),
        (pydantic.AnyUrl("https://user:s3cret@example.com/"), "https://user:[redacted-url_password]@example.com/"),
    ],
)
def test_secrets_are_found_wherever_they_are(output: Any, expected: Any) -> None:
    shaped = SECRETS.apply(output)
    assert shaped.output == expected
    assert type(shaped.output) is type(expected)
    assert sum(shaped.redacted.values()) >= 1


@pytest.mark.parametrize(
    "output",
    [
        None, True, 0, -1.5, 2**70, "x", "", [], (), {}, [[]], {"a": None}, b"x", {1: "x", None: 2, False: 3}, {1, 2}, float("inf"),
        datetime.datetime(2026, 1, 1), datetime.timedelta(1), decimal.Decimal("1.50"), uuid.UUID(int=1), Path("/x"), Colour.RED,
        Plain("x"), Slotted("x"), Inner(text="x", other={"a": [1]}), Point(1, 2), pydantic.SecretStr("x"), pydantic.AnyUrl("https://x.test"),
        '{"a": 1.50}', " [1,  2] ", "[redacted-aws]", "\r\n\t", "é🂡",
    ],
    ids=repr,
)  # fmt: skip
def test_what_holds_nothing_comes_back_as_it_was(output: Any) -> None:
    rule = parse_output({"secrets": "all", "patterns": ["T-[0-9]{6}"], "max_bytes": 10_000})
    shaped = rule.apply(output)
    assert shaped.output == output
    assert type(shaped.output) is type(output)
    assert not shaped.redacted
    assert not shaped.refused


def test_an_output_is_copied_so_that_nobody_changes_it_behind_the_rule() -> None:
    output = {"a": [1]}
    given = SECRETS.apply(output).output
    output["a"].append(2)
    assert given == {"a": [1]}


def test_a_model_is_left_alone_and_its_copy_changed() -> None:
    model = Inner(text=KEY, token="x")
    given = SECRETS.apply(model).output
    assert model.text == KEY
    assert given.text == MARK
    assert given.model_fields_set == model.model_fields_set


def test_a_field_goes_by_each_name_that_it_is_shown_under() -> None:
    for path in ("token", "apiToken"):
        assert parse_output({"redact": [path]}).apply(Inner(token="t")).output.token == "[redacted]"
    assert parse_output({"redact": ["text"]}).apply(Plain("t")).output.text == "[redacted]"


@pytest.mark.parametrize("rule", [{"secrets": "all"}, {"redact": ["a.b"]}, {"max_bytes": 1000}], ids=["secrets", "redact", "max_bytes"])
@pytest.mark.parametrize(
    ("make", "why"),
    [
        (object, "it holds a value of type builtins.object, which cannot be looked into"),
        (lambda: [object()], "it holds a value of type builtins.object, which cannot be looked into"),
        (lambda: iter([KEY]), "it holds a value of type builtins.list_iterator, which cannot be looked into"),
        (lambda: map(str, [KEY]), "it holds a value of type builtins.map, which cannot be looked into"),
        (lambda: (yield), "it holds a value of type builtins.generator, which cannot be looked into"),
        (lambda: bytearray(b"x"), "it holds a value of type builtins.bytearray, which cannot be looked into"),
        (lambda: {object(): 1}, "it has members that are not named by text"),
        (lambda: {b"x": 1}, "it has members that are not named by text"),
        (lambda: [b"\xff"], "it holds bytes that are no text in UTF-8"),
        (lambda: [b"A\0K\0I\0A\0"], "it holds bytes that are no text in UTF-8"),
        (lambda: 10**5000, "it holds an integer of thousands of digits"),
        (lambda: Plain("x", object()), "it holds a value of type builtins.object, which cannot be looked into"),
    ],
)
def test_what_cannot_be_looked_into_is_refused(rule: Any, make: Any, why: str) -> None:
    shaped = parse_output(rule).apply(make())
    assert shaped.output is None
    assert shaped.refused == why


def test_outputs_without_end_are_refused() -> None:
    ring: list[Any] = []
    ring.append(ring)
    many: Any = [1] * 10
    for _ in range(20):
        many = [many] * 10  # 10 ** 21 parts in 2 kB
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    for output, why in ((ring, "nested more than 32 deep"), (many, "more than 200000 parts"), (deep, "nested more than 32 deep")):
        for rule in ({"secrets": "all"}, {"max_bytes": 10**6}, {"schema": {"type": "array"}}):
            assert parse_output(rule).apply(output).refused == f"it {'is' if 'deep' in why else 'has'} {why}"
    assert SECRETS.apply("x" * (16 * 1024 * 1024 + 1)).refused == "it has more than 16777216 characters"


# --- the guard ---------------------------------------------------------------------------------------------------------------------------


def test_the_record_is_of_what_the_caller_gets(guard: Guard) -> None:
    @guard.tool
    def ruled(x: Any) -> Any:
        return {"key": KEY, "x": x}

    given = ruled(x=1)
    assert given == {"key": MARK, "x": 1}
    outcome = last(guard)
    assert outcome["status"] == "ok"
    assert outcome["shaped"] == {"redacted": 1, "truncated": False}
    kept = {item.kind: item for item in guard.home.side.get(outcome["execution"])}["output"]
    assert kept.value == jcs(given)
    assert commit(kept.salt, jcs(given)) == outcome["output"]
    assert KEY.encode() not in kept.value


def test_nothing_is_said_where_nothing_was_done(guard: Guard) -> None:
    @guard.tool
    def ruled(x: Any) -> Any:
        return x

    @guard.tool
    def free(x: Any) -> Any:
        return KEY

    assert ruled(x="fine") == "fine"
    assert last(guard)["shaped"] is None
    assert free(x=1) == KEY
    assert last(guard)["shaped"] is None


def test_a_refused_output_is_an_error_of_its_own(guard: Guard) -> None:
    @guard.tool
    def small(x: Any) -> Any:
        return "y" * 201

    with pytest.raises(OutputRefused) as caught:
        small(x=1)
    assert str(caught.value) == caught.value.for_model
    assert str(caught.value) == (
        "the tool ran, but its output is withheld: it has 201 bytes, of which the policy hands out at most 200: ask for less of it"
    )
    outcome = last(guard)
    assert (outcome["status"], outcome["error"]) == ("error", "agentguard.errors.OutputRefused")
    assert (outcome["output"], outcome["shaped"]) == (None, None)


def test_text_that_was_cut_is_recorded_as_such(guard: Guard) -> None:
    @guard.tool
    def text(x: Any) -> Any:
        return KEY + "y" * 300

    assert text(x=1).startswith(f"{MARK}yyy")
    assert last(guard)["shaped"] == {"redacted": 1, "truncated": True}


def test_a_schema_that_does_not_hold(guard: Guard) -> None:
    @guard.tool
    def shaped(x: Any) -> Any:
        return x

    assert shaped(x={"id": 1}) == {"id": 1}
    with pytest.raises(OutputRefused, match="required does not hold"):
        shaped(x={"other": 1})


async def test_async_tools(guard: Guard) -> None:
    @guard.tool
    async def ruled(x: Any) -> Any:
        await asyncio.sleep(0)
        return [KEY]

    @guard.tool
    async def small(x: Any) -> Any:
        return "y" * 201

    assert await ruled(x=1) == [MARK]
    assert last(guard)["shaped"] == {"redacted": 1, "truncated": False}
    with pytest.raises(OutputRefused):
        await small(x=1)
    assert last(guard)["status"] == "error"


def test_a_stream_is_held_back_and_judged_as_a_whole(guard: Guard) -> None:
    seen = []

    @guard.tool
    def ruled(x: Any) -> Iterator[Any]:
        for item in x:
            seen.append(item)
            yield item
        return KEY

    halves = [KEY[:9], KEY[9:], "rest"]
    stream = ruled(x=halves)
    assert next(stream) == MARK
    assert seen == halves
    assert [*stream] == [MARK, "rest"]
    assert last(guard)["shaped"] == {"redacted": 3, "truncated": False}
    assert last(guard)["form"] == "stream"


def test_what_a_generator_returns_is_shaped_too(guard: Guard) -> None:
    @guard.tool
    def ruled(x: Any) -> Iterator[Any]:
        yield 1
        return {"key": KEY}

    stream = ruled(x=1)
    assert next(stream) == 1
    with pytest.raises(StopIteration) as stop:
        next(stream)
    assert stop.value.value == {"key": MARK}


async def test_async_streams(guard: Guard) -> None:
    @guard.tool
    async def ruled(x: Any) -> AsyncIterator[Any]:
        for item in x:
            await asyncio.sleep(0)
            yield item

    assert [item async for item in ruled(x=[KEY[:9], KEY[9:], "rest"])] == [MARK, MARK, "rest"]
    assert last(guard)["shaped"] == {"redacted": 2, "truncated": False}


def test_a_stream_of_text_is_cut_as_one(guard: Guard) -> None:
    @guard.tool
    def text(x: Any) -> Iterator[str]:
        for _ in range(100):
            yield "é" * 10

    shown = [*text(x=1)]
    assert len("".join(shown).encode()) <= 200
    assert "".join(shown).endswith("\n[cut: 2000 bytes, of which at most 200 are handed out]")
    assert shown[0] == "é" * 10
    assert last(guard)["shaped"] == {"redacted": 0, "truncated": True}


def test_a_stream_that_is_too_large_gives_nothing(guard: Guard) -> None:
    @guard.tool
    def small(x: Any) -> Iterator[Any]:
        for index in range(x):
            yield {"row": index}

    assert len([*small(x=5)]) == 5
    items = []
    with pytest.raises(OutputRefused, match="bytes, of which the policy hands out at most 200"):
        items.extend(small(x=100))
    assert items == []
    assert last(guard)["error"] == "agentguard.errors.OutputRefused"


def test_what_came_before_a_failure_is_handed_out_and_then_it_is_raised(guard: Guard) -> None:
    @guard.tool
    def ruled(x: Any) -> Iterator[Any]:
        yield KEY
        raise ValueError("no more")

    stream = ruled(x=1)
    assert next(stream) == MARK
    with pytest.raises(ValueError, match="no more"):
        next(stream)
    assert (last(guard)["status"], last(guard)["error"]) == ("error", "builtins.ValueError")


def test_an_exception_may_say_what_the_policy_lets_out(guard: Guard) -> None:
    @guard.tool
    def ruled(x: Any) -> Any:
        raise LookupError(x)

    with pytest.raises(LookupError, match="no such order"):
        ruled(x="no such order")
    with pytest.raises(OutputRefused) as caught:
        ruled(x=f"401 for {KEY}")
    assert str(caught.value) == (
        "the tool failed with builtins.LookupError, and its message is withheld: it holds what the policy takes out"
    )
    assert last(guard)["error"] == "builtins.LookupError"
    assert last(guard)["shaped"] == {"redacted": 1, "truncated": False}


def test_where_fields_are_taken_out_no_message_is_passed_on(guard: Guard) -> None:
    @guard.tool
    def fields(x: Any) -> Any:
        raise LookupError(*x)

    with pytest.raises(OutputRefused, match="fields out of its outputs, and a message is text"):
        fields(x=["no user bob@example.com"])
    with pytest.raises(LookupError):
        fields(x=[])


def test_rules_without_a_guard_are_plain_values() -> None:
    rule = OutputRule(max_bytes=5)
    assert rule.apply("12345").output == "12345"
    assert rule.apply("123456").refused
