"""Strict reading, exact numbers and canonical bytes, held against an independent implementation of RFC 8785."""

from __future__ import annotations

import math
import struct
import threading
from types import MappingProxyType
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from agentguard import InvalidInput, ToolCall
from agentguard.canonical import (
    Inadmissible,
    b64url,
    b64url_decode,
    digest,
    freeze,
    is_admissible,
    jcs,
    number,
    number_is_admissible,
    parse,
    thaw,
)

SCALARS = st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=20
)


@given(VALUES)
def test_bytes_are_those_of_another_implementation(value: Any) -> None:
    expected = rfc8785.dumps(value)
    assert jcs(value) == expected
    assert jcs(freeze(value)) == expected
    assert jcs(parse(expected)) == expected


@given(st.dictionaries(st.text(max_size=8), SCALARS, max_size=6))
def test_flat_objects_take_the_fast_way_to_the_same_bytes(value: dict[str, Any]) -> None:
    assert jcs(freeze(value)) == rfc8785.dumps(value)


def test_every_character_is_escaped_alike() -> None:
    text = "".join(chr(code) for code in range(0x110000) if not 0xD800 <= code <= 0xDFFF)
    for at in range(0, len(text), 50_000):
        part = {"x": text[at : at + 50_000]}
        assert jcs(MappingProxyType(part)) == rfc8785.dumps(part)


@given(st.binary(min_size=8, max_size=8))
def test_numbers_print_as_ecmascript_prints_them(data: bytes) -> None:
    (value,) = struct.unpack(">d", data)
    if math.isfinite(value):
        assert number(value).encode() == rfc8785.dumps(value)
        assert is_admissible(repr(value))
        assert number_is_admissible(value)


@pytest.mark.parametrize("lexeme", ["0.1", "1e20", "1.10", "9007199254740994", "5e-324", "-0", "0e999999999999", "1E+2", "1" + "0" * 300])
def test_admissible(lexeme: str) -> None:
    assert is_admissible(lexeme)


@pytest.mark.parametrize(
    "lexeme",
    ["9007199254740993", "1.00000000000000001", "1e400", "1e-400", str(2**60), "9" * 5000, "1e999999999999999999", "1e-999999999999999999"],
)
def test_inadmissible(lexeme: str) -> None:
    assert not is_admissible(lexeme)
    assert isinstance(parse(lexeme), Inadmissible)
    with pytest.raises(InvalidInput):
        freeze(parse(lexeme))


@pytest.mark.parametrize(
    "text", ['{"a":1,"a":2}', '[{"a":{"b":1,"b":1}}]', "NaN", "[Infinity]", "{", "", "[1,]", b"\xff", "[" * 100_000, "1 2"]
)
def test_what_is_not_one_strict_document(text: str | bytes) -> None:
    with pytest.raises(InvalidInput):
        parse(text)


def test_depth_is_bounded() -> None:
    parse("[" * 64 + "]" * 64)
    with pytest.raises(InvalidInput):
        parse("[" * 66 + "]" * 66)
    deep: Any = []
    deep.append(deep)
    with pytest.raises(InvalidInput):
        freeze(deep)
    with pytest.raises(InvalidInput):
        jcs(deep)


def test_width_is_bounded() -> None:
    with pytest.raises(InvalidInput):
        freeze(list(range(10_001)))


@given(VALUES)
def test_frozen_and_back(value: Any) -> None:
    assert thaw(freeze(value)) == value


class Liar(int):
    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


@pytest.mark.parametrize(
    "value", [Liar(1), b"x", {1: 2}, {("a",): 1}, object(), float("nan"), float("-inf"), "\ud800", {"\ud800": 1}, 10**400, 1j]
)
def test_only_exact_json_types_freeze(value: Any) -> None:
    with pytest.raises(InvalidInput):
        freeze(value)
    assert ToolCall("a", "t", {"x": value}).defect


def test_a_value_that_changes_while_it_is_frozen_stays_whole() -> None:
    arguments: dict[str, Any] = {str(index): [index] for index in range(50)}
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            arguments["49"].append(1)
            if len(arguments["49"]) > 100:
                arguments["49"].clear()
            arguments.pop("0", None)
            arguments["0"] = [0]

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(300):
            frozen = freeze(arguments, max_nodes=10**9)
            assert jcs(frozen) == jcs(frozen)
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("text", ["YQ=", "YQ==", "YR", "Y", "Y Q", "YQ\n", "Y+Q", "Y/Q", "é"])
def test_base64url_is_canonical(text: str) -> None:
    with pytest.raises(InvalidInput):
        b64url_decode(text)


@given(st.binary())
def test_base64url_round_trip(data: bytes) -> None:
    assert b64url_decode(b64url(data)) == data


def test_digests_name_values() -> None:
    assert digest({"b": 1, "a": [1.0]}) == digest({"a": [1], "b": 1.0})
    assert digest(True) != digest(1) != digest("1")
