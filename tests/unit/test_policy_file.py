"""The strict reader: values by YAML's core schema, places to the column, and one error for everything else."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from agentguard.errors import InvalidInput
from agentguard.policy import file as policy_file
from agentguard.policy.file import MAX_BYTES, MAX_DEPTH, MAX_NODES, read, read_source


@pytest.fixture(params=["C", "Python"], autouse=True)
def loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both parsers of PyYAML: the one written in C is not there on every platform."""
    found = yaml.SafeLoader if request.param == "Python" else getattr(yaml, "CSafeLoader", None)
    if found is None:
        pytest.skip("PyYAML was built without libyaml")
    monkeypatch.setattr(policy_file, "_Loader", found)


def value(text: str) -> Any:
    return read(f"v: {text}\n", "t").value["v"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("abc", "abc"),
        ("T-42", "T-42"),
        ("1", 1),
        ("-7", -7),
        ("0", 0),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("-2.5E-3", -0.0025),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("'no'", "no"),
        ('"010"', "010"),
        ('"1:30"', "1:30"),
        ("10.0.0.1", "10.0.0.1"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("1.2.3", "1.2.3"),
        ("12a", "12a"),
        ("y", "y"),
        ("-a", "-a"),
        (".md", ".md"),
        ("+", "+"),
        ("yes please", "yes please"),
        ('"caf\\u00e9 \\U0001F600"', "café \U0001f600"),
        ("[]", []),
        ("{}", {}),
        ("{a: [1, {b: x}]}", {"a": [1, {"b": "x"}]}),
        ("|\n  two\n  lines", "two\nlines\n"),
        ("9007199254740994", 9007199254740994),
    ],
)
def test_values_are_those_of_the_core_schema(text: str, expected: Any) -> None:
    found = value(text)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize("text", ["yes", "No", "ON", "off"])
def test_words_that_were_booleans_once_must_be_quoted(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        value(text)
    assert str(caught.value) == (
        f"t:1:4: {text!r} is a boolean in YAML 1.1 and a string in YAML 1.2 (write true or false, or quote it: {text!r})"
    )


@pytest.mark.parametrize(
    "text",
    [
        "010",
        "0x1F",
        "0o17",
        "0b11",
        "1_000",
        "+5",
        ".5",
        "5.",
        "1:30",
        "190:20:30.15",
        "2026-01-31",
        "2026-1-3 10:00:00",
        ".inf",
        "-.INF",
        ".nan",
    ],
)
def test_numbers_are_written_as_in_json(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        value(text)
    assert str(caught.value) == f"t:1:4: {text!r} is read differently by different versions of YAML (write it as in JSON, or quote it)"


@pytest.mark.parametrize("text", ["9007199254740993", "1e400", "0.1000000000000000055511151231257827", "1" * 2000])
def test_numbers_that_a_double_cannot_carry_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"t:1:4: the number .* cannot be carried exactly"):
        value(text)


def test_no_number_is_infinite() -> None:
    assert math.isfinite(value("1e308"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "t: the document is empty"),
        ("# only a comment\n", "t: the document is empty"),
        ("a: 1\nb: 2\na: 3\n", "t:3:1: the key 'a' stands twice, first at line 1"),
        ('{"a": 1,\n "\\u0061": 2}', "t:2:2: the key 'a' stands twice, first at line 1"),
        ("a: &x 1\n", "t:1:4: an anchor is not accepted (write the value out where it is needed)"),
        ("a: &x [1]\n", "t:1:4: an anchor is not accepted (write the value out where it is needed)"),
        ("&x a: 1\n", "t:1:1: an anchor is not accepted (write the value out where it is needed)"),
        ("a: *x\n", "t:1:4: an alias is not accepted (write the value out, or quote it if it is text)"),
        ("a: !!python/object:os.system x\n", "t:1:4: the tag 'tag:yaml.org,2002:python/object:os.system' is not accepted"),
        ("a: !!str 1\n", "t:1:4: the tag 'tag:yaml.org,2002:str' is not accepted"),
        ("!x {a: 1}\n", "t:1:1: the tag '!x' is not accepted"),
        ("<<: {a: 1}\n", "t:1:1: a merge key is not accepted (write the members out)"),
        ("1: a\n", "t:1:1: a key must be a string, found '1' (quote it)"),
        ("true: a\n", "t:1:1: a key must be a string, found 'true' (quote it)"),
        ("2026-01-31: a\n", "t:1:1: a key must be a string, found '2026-01-31' (quote it)"),
        ("? [a]\n: 1\n", "t:1:3: a key must be a string"),
        ("{[a]: 1}\n", "t:1:2: a key must be a string"),
        ("? " + "k" * 300 + "\n: 1\n", "t:1:3: a key is longer than 256 characters"),
        ('"a\\nb": 1\n', "t:1:1: a key holds characters that are not printable: 'a\\nb'"),
        ("%YAML 1.1\n---\na: 1\n", "a YAML directive is not accepted (take out the line that begins with '%')"),
        ("a: 1\n---\nb: 2\n", "t:2:1: a second document begins here (one document a file)"),
        ("a: [1\n", "t:2:1: not YAML: "),
        ("a: b: c\n", "t:1:5: not YAML: mapping values are not allowed"),
        ("a: \x07\n", "t:1:4: the invisible character U+0007"),
        ("a: b # \u202e evil\n", "t:1:8: the invisible character U+202E"),
        ('a: "\\u202e"\n', "t:1:4: a string holds the invisible character U+202E"),
        ('a: "\\x7f"\n', "t:1:4: a string holds the invisible character U+007F"),
        ("a: \ud800\n", "t:1:4: the invisible character U+D800"),
    ],
)
def test_everything_else_is_one_error_with_its_place(text: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(text, "t")
    assert message in str(caught.value)


def test_depth_is_bounded_before_anything_recurses() -> None:
    assert read("[" * MAX_DEPTH + "]" * MAX_DEPTH, "t").value is not None
    with pytest.raises(InvalidInput, match=f"nested too deeply \\(at most {MAX_DEPTH} levels\\)"):
        read("[" * 100_000, "t")
    with pytest.raises(InvalidInput, match="nested too deeply"):
        read("{a: " * 900, "t")


def test_the_number_of_parts_is_bounded() -> None:
    if policy_file._Loader is yaml.SafeLoader:
        pytest.skip("slow in pure Python")
    with pytest.raises(InvalidInput, match=f"more than {MAX_NODES} parts"):
        read("[" + "a," * (MAX_NODES + 1) + "]", "t")


def test_places_are_those_of_values_and_of_keys() -> None:
    document = read("top:\n  - {a: 1, bb: [x, y]}\n  - c:\n      d: 2\n", "p.yaml")
    assert document.place(("top", 0, "bb")) == "p.yaml:2:16"
    assert document.place(("top", 0, "bb"), key=True) == "p.yaml:2:12"
    assert document.place(("top", 0, "bb", 1)) == "p.yaml:2:20"
    assert document.place(("top", 1, "c", "d")) == "p.yaml:4:10"
    assert document.line(("top", 1, "c")) == "p.yaml:3"
    assert document.place(("top", 7, "nowhere")) == "p.yaml:2:3"
    assert document.place(()) == "p.yaml:1:1"


def test_a_source_is_a_path_or_a_text(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_source(file, "x") == ("a: 1\n", str(file))
    assert read_source(str(file), "x") == ("a: 1\n", str(file))
    assert read_source("a: 1\n", "x") == ("a: 1\n", "x")
    assert read_source("{}", "x") == ("{}", "x")


def test_a_source_that_cannot_be_read_names_the_file(tmp_path: Path) -> None:
    hint = "(a text must hold a line end or start with '{')"
    with pytest.raises(InvalidInput) as caught:
        read_source("nowhere.yaml", "x")
    assert str(caught.value) == f"nowhere.yaml: cannot read the file: No such file or directory {hint}"
    with pytest.raises(InvalidInput, match="cannot read the file: Is a directory"):
        read_source(tmp_path, "x")
    with pytest.raises(InvalidInput, match="cannot read the file: not a path"):
        read_source("a\0b", "x")
    for wrong in (None, 7, b"a: 1\n", ["a"]):
        with pytest.raises(InvalidInput, match="x: expected a path or a text, found"):
            read_source(wrong, "x")
    file = tmp_path / "p.yaml"
    file.write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(InvalidInput) as caught:
        read_source(file, "x")
    assert str(caught.value) == f"{file}:2:4: not UTF-8"


def test_size_is_bounded_before_anything_is_parsed(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=f"x: the document is larger than {MAX_BYTES} bytes"):
        read_source("\n" * (MAX_BYTES + 1), "x")
    file = tmp_path / "big.yaml"
    file.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(InvalidInput, match=f"the file is larger than {MAX_BYTES} bytes"):
        read_source(file, "x")
