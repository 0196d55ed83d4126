"""Whatever an output is made of: no secret survives in it, its shape stays, fields go as a reading by hand says, a cut is a cut."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agentguard.policy.outputs import parse_output
from support.secrets_made_up import FOUND

SECRETS = parse_output({"secrets": "all"})
SECRET = st.sampled_from([(around.format(secret), secret) for _, around, secret in FOUND])
#: Ordinary text that no pattern takes for a part of a secret, nor what is next to one.
FILL = st.text(st.sampled_from(" .,\n\t(){}é🂡abc"), max_size=20)
NAMES = st.sampled_from(["a", "b", "text", "user"])
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-1000, 1000), st.just(1.5), FILL)


@st.composite
def planted(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A text with secrets in it, and the secrets."""
    chosen = draw(st.lists(SECRET, min_size=1, max_size=3))
    text = "".join(f"{draw(FILL)} {shown} " for shown, _ in chosen) + draw(FILL)
    return text, [secret for _, secret in chosen]


def nested(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.lists(inner, max_size=3).map(tuple), st.dictionaries(NAMES, inner, max_size=3)
        ),
        max_leaves=8,
    )


def shape(value: Any) -> Any:
    """The types of an output and of all in it."""
    if type(value) is dict:
        return {name: shape(item) for name, item in value.items()}
    return [type(value), *map(shape, value)] if type(value) in (list, tuple) else type(value)


def fits(shaped: Any, output: Any) -> bool:
    """Whether the shape stayed, but for leaves that a mark stands for: a key that never ends takes the number behind it in a list along."""
    if type(shaped) is str and shaped.startswith("[redacted-"):
        return type(output) not in (dict, list, tuple)
    if type(shaped) is not type(output):
        return False
    if type(shaped) is dict:
        return shaped.keys() == output.keys() and all(fits(shaped[name], output[name]) for name in output)
    if type(shaped) in (list, tuple):
        return len(shaped) == len(output) and all(map(fits, shaped, output))
    return True


def texts(value: Any) -> list[str]:
    if type(value) is dict:
        return [text for name, item in value.items() for text in (name, *texts(item))]
    return [text for item in value for text in texts(item)] if type(value) in (list, tuple) else [value] if type(value) is str else []


def test_a_key_that_never_ends_takes_along_what_is_behind_it() -> None:
    output = [[" -----BEGIN PRIVATE KEY-----\nMIIEvQ and cut off "], 0]
    assert SECRETS.apply(output).output == [["[redacted-private_key]"], "[redacted-private_key]"]


@given(st.data())
def test_no_secret_survives_and_the_shape_stays(data: st.DataObject) -> None:
    secrets: list[str] = []

    def keep(found: tuple[str, list[str]]) -> str:
        secrets.extend(found[1])
        return found[0]

    output = data.draw(nested(st.one_of(planted().map(keep), LEAVES)))
    wrapped = data.draw(
        st.sampled_from([lambda it: it, json.dumps, lambda it: json.dumps({"a": json.dumps(it)}), lambda it: [{"deep": it}]])
    )
    shaped = SECRETS.apply(wrapped(output))
    assert not shaped.refused
    everything = "\n".join(texts(shaped.output)).replace('\\\\"', '"').replace('\\"', '"').replace("\\\\", "\\").replace("\\n", "\n")
    for secret in secrets:
        if secret in "\n".join(texts(output)):  # hypothesis draws values that it drops again
            assert secret not in everything
    assert fits(SECRETS.apply(output).output, output)
    again = SECRETS.apply(shaped.output)  # what stands in a secret's place may be found for another's, and is left alone then
    assert SECRETS.apply(again.output).output == again.output


@given(nested(LEAVES))
def test_what_holds_none_is_equal_to_what_it_was(output: Any) -> None:
    shaped = SECRETS.apply(output)
    assert shaped.output == output
    assert shape(shaped.output) == shape(output)
    assert not shaped.redacted


@given(planted(), st.lists(st.integers(1, 40), min_size=1, max_size=40), st.sampled_from(["text", "event", "bytes"]))
def test_no_secret_survives_in_a_stream_however_it_is_cut(found: tuple[str, list[str]], lengths: list[int], way: str) -> None:
    text, secrets = found
    pieces, at = [], 0
    while at < len(text):
        length = lengths[len(pieces) % len(lengths)]
        pieces.append(text[at : at + length])
        at += length
    items: list[Any] = [{"delta": piece} for piece in pieces] if way == "event" else pieces
    shaped = SECRETS.apply(items, stream=True)
    assert not shaped.refused
    assert [type(item) for item in shaped.output] == [type(item) for item in items]
    together = "".join(texts([[*item.values()] if way == "event" else item for item in shaped.output]))
    for secret in secrets:
        assert secret not in together


@given(st.text(max_size=400), st.integers(128, 300), st.booleans())
def test_a_cut_text_is_a_beginning_in_as_many_bytes_as_there_may_be(text: str, limit: int, stream: bool) -> None:
    text = text.encode("utf-8", "replace").decode()
    shaped = parse_output({"max_bytes": limit, "excess": "truncate"}).apply([*text] if stream else text, stream=stream)
    shown = "".join(shaped.output)
    assert len(shown.encode()) <= limit
    assert shaped.truncated is (len(text.encode()) > limit)
    if shaped.truncated:
        beginning, _, mark = shown.rpartition("\n")
        assert text.startswith(beginning)
        assert mark.startswith("[cut: ")
    else:
        assert shown == text


def without(value: Any, steps: list[str], named: bool = True) -> Any:
    """The reading by hand: fields go, lists are passed through, and text of which a part is wanted goes as a whole if a name led to it."""
    if type(value) in (list, tuple):
        return type(value)([without(item, steps, named) for item in value])
    if type(value) is str:
        return "[redacted]" if named else value
    if type(value) is not dict:
        return value
    step, rest = steps[0], steps[1:]
    left = {}
    for name, item in value.items():
        if step not in (name, "*") or (not rest and item is None):
            left[name] = item
        else:
            left[name] = without(item, rest, step != "*") if rest else "[redacted]"
    return left


PLAIN = st.text(st.sampled_from("xyz "), max_size=5)
STEPS = st.lists(st.sampled_from(["a", "b", "text", "user", "*"]), min_size=1, max_size=3)


@given(nested(st.one_of(st.none(), st.booleans(), st.integers(-9, 9), PLAIN)), STEPS)
def test_fields_go_as_a_reading_by_hand_says(output: Any, steps: list[str]) -> None:
    if steps != ["*"] and type(output) is not str:
        assert parse_output({"redact": [".".join(steps)]}).apply(output).output == without(output, steps)


@given(nested(st.one_of(st.none(), st.integers(-9, 9), PLAIN)), NAMES)
def test_a_name_at_any_depth_goes_everywhere(output: Any, name: str) -> None:
    if type(output) is str:
        return
    shaped = parse_output({"redact": [f"**.{name}"]}).apply(output)

    def clean(value: Any) -> bool:
        if type(value) is dict:
            return all(item in (None, "[redacted]") if key == name else clean(item) for key, item in value.items())
        return all(map(clean, value)) if type(value) in (list, tuple) else True

    assert clean(shaped.output)
