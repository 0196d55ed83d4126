"""Attacks on the rules for outputs: a secret dressed up, hidden in an object, cut in two, carried by an exception or by what it passed.

`reach` looks for a secret in everything that an attacker could read off what he was given: text, state, chains, notes, frames.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import datetime
import functools
import gc
import json
import pickle
import threading
import traceback
from collections import UserDict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pydantic
import pytest

from agentguard import Denied, Guard, ToolCall
from agentguard.errors import OutputRefused
from agentguard.log import iter_records
from agentguard.policy.outputs import parse_output
from agentguard.testing.evidence import records
from agentguard_adapters.claude_agent_runs import Runs, ToolFailed
from agentguard_adapters.remote import Remote
from agentguard_adapters.stand_in import stand_in

KEY = "AKIA" + "Q2R3S4T5U6V7WXYZ"
PEM = ["-----BEGIN PRIVATE KEY-----", "MIIEvQIBADANBgkqhkiG9w0B", "-----END PRIVATE KEY-----"]
SECRETS = parse_output({"secrets": "all"})

POLICY = """
agentguard: 1
name: outputs
agents:
  triage:
    tools: {ruled: {x: {any: [{wildcard: true}], optional: true}}, fields: {}, small: {}, cut: {}, outer: {}, Bash: {command: any}}
tools:
  ruled: {output: {secrets: all}}
  fields: {output: {redact: [user.email, "**.password"]}}
  small: {output: {max_bytes: 100}}
  cut: {output: {max_bytes: 200, excess: truncate, secrets: all}}
  outer: {output: {secrets: all}}
  Bash: {output: {secrets: all}}
"""


@pytest.fixture
def guard(home: Path) -> Iterator[Guard]:
    with Guard.open(POLICY, home=home, durability="process") as opened, opened.task("triage", initiator="user:alice"):
        yield opened


def last(guard: Guard) -> dict[str, Any]:
    return records(guard, "outcome")[-1]


def kept(guard: Guard) -> bytes:
    """Everything that was written down, values too."""
    logged = [record for _, _, record in iter_records(guard.home.path)]
    return b"\n".join([*logged, *(path.read_bytes() for path in Path(guard.home.path).rglob("*") if path.is_file())])


def spoken(error: BaseException) -> str:
    """All that an exception leads to: words, chain, notes, and the locals of the frames of ours that it passed."""
    parts = [*traceback.format_exception(error), repr(error), str(vars(error)), repr(error.args)]
    for one in (error, error.__cause__, error.__context__):
        parts += [repr(one), str(getattr(one, "__notes__", ""))]
        frame = one.__traceback__ if one is not None else None
        while frame is not None:
            if "agentguard" in frame.tb_frame.f_code.co_filename and "/tests/" not in frame.tb_frame.f_code.co_filename:
                parts += [repr(value) for value in frame.tb_frame.f_locals.values()]
            frame = frame.tb_next
    return "\n".join(parts)


# --- texts that are dressed up -----------------------------------------------------------------------------------------------------------


def escaped(text: str) -> str:
    return "".join(f"\\u{ord(letter):04x}" for letter in text)


DRESSED: dict[str, Any] = {
    "json escapes": json.dumps({"a": KEY}).replace("AKIA", escaped("AKIA")),
    "json escapes, a member twice": '{"a": "' + escaped("AKIA") + KEY[4:] + '", "a": 1}',
    "json escapes in a log line": 'got {"a": "' + escaped("AKIA") + KEY[4:] + '"} from it',
    "hexadecimal escapes": "".join(f"\\x{ord(letter):02X}" for letter in KEY),
    "percent": "".join(f"%{ord(letter):02x}" for letter in KEY),
    "escaped slashes": "https:\\/\\/user:s3cr3tPassw0rd@example.com",
    "zero width": "\u200b".join(KEY),
    "soft hyphens": "\xad".join(KEY),
    "nul": "\0".join(KEY),
    "byte order mark": "\ufeff" + KEY,
    "base64": base64.b64encode(f"key: {KEY}".encode()).decode(),
    "base64, no padding": base64.b64encode(f"key: {KEY}".encode()).decode().rstrip("="),
    "base64, url": base64.urlsafe_b64encode(b"\xff\xfe?" + KEY.encode()).decode(),
    "base64, behind something": "x/y/" + base64.b64encode(KEY.encode()).decode(),
    "base64, wrapped": base64.encodebytes(("some lines before it\n" * 5 + KEY + "\nand behind\n").encode()).decode(),
    "base64, a secret of kubernetes": "data:\n  key: " + base64.b64encode(KEY.encode()).decode(),
    "json in json in json": json.dumps({"a": json.dumps({"b": json.dumps([KEY.replace("A", "\u0041")])})}),
    "json behind white space": " \n" * 100 + json.dumps({"a": escaped(KEY)}).replace("\\\\", "\\"),
    "a key that is cut off": PEM[0] + "\n" + PEM[1],
    "a lone surrogate within a key": "\n".join([PEM[0], PEM[1] + "\ud800", PEM[2]]),
    "crlf": "\r\n".join(PEM),
    "a key in lines": PEM,
    "a key in lines, deep": {"files": [{"lines": ["x", *PEM, "y"]}]},
    "a key in parts of a message": {"content": [{"type": "text", "text": part} for part in PEM]},
    "name of a member": {KEY: 1},
    "name of a member, deep": [{"a": {KEY: 1}}],
    "name of a member, in json": json.dumps({KEY: 1}),
    "bytes": KEY.encode(),
    "among others": ["x" * 1000, {"a": [None, 1.5, (True, {"b": f"…{KEY}…"})]}],
    "twice": f"{KEY}{KEY}",
    "behind a decoy": f"AKIA{KEY}",
    "in a url": f"https://example.com/?key={KEY}&x=1",
    "in an address": f"https://{KEY}:x@example.com",
}


@pytest.mark.parametrize("output", DRESSED.values(), ids=DRESSED)
def test_a_secret_that_is_dressed_up_is_taken_out(output: Any) -> None:
    shaped = SECRETS.apply(output)
    shown = repr(shaped.output)
    assert shaped.redacted
    assert not shaped.refused
    for part in (KEY, KEY[4:], escaped("AKIA"), PEM[1], "s3cr3tPassw0rd", base64.b64encode(KEY.encode()).decode()[:20]):
        assert part not in shown
    assert SECRETS.apply(shaped.output).output == shaped.output


NUMBERS = parse_output({"patterns": ["[0-9]{16}"]})


CARD = 4111111111111111


@pytest.mark.parametrize("output", [CARD, {"card": CARD}, {CARD: "x"}, str(CARD), [CARD + 0.5]])
def test_numbers_are_searched_as_they_are_written(output: Any) -> None:
    shaped = NUMBERS.apply(output)
    assert "4111111111111111" not in repr(shaped.output)
    assert shaped.redacted == {"patterns[0]": 1}


@pytest.mark.parametrize(
    "output",
    [
        '{"user": {"email": "bob@example.com"}',  # no JSON, by a brace
        '{"user": {"email": "x", "email": "bob@example.com"}}',
        '{"user": {"email": "bob@example.com"}} trailing',
        "user.email = bob@example.com",
        '[{"user": {"email": "bob@example.com"}}]\n[]',
        '{"user": {"email": "bob@example.com"}, "n": 1e400}',
        "\ufeff \t" * 50 + '{"user": {"\\u0065mail": "bob@example.com"}}',
        {"user": {"email": "bob@example.com"}},
        [[({"user": [{"email": ["bob@example.com"]}]},)]],
        {"user": '{"email": "bob@example.com"}'},
        {"user": "bob <bob@example.com>"},
        {"user": ["bob@example.com"]},
        {"user": b"bob@example.com"},
        {"user": b'{"email": "bob@example.com"}'},
        {"user": UserDict(email="bob@example.com")},
        {"user": SimpleNamespace(email="bob@example.com")},
        {"user": [("email", "bob@example.com")]},
        SimpleNamespace(user="bob@example.com"),
    ],
    ids=range(18),
)
def test_a_field_does_not_get_out_in_another_shape(output: Any) -> None:
    shaped = parse_output({"redact": ["user.email"]}).apply(output)
    assert "bob@example.com" not in repr(shaped.output)
    assert "bob@example.com" not in shaped.refused
    assert shaped.refused or shaped.redacted


# --- objects -----------------------------------------------------------------------------------------------------------------------------


class Liar(str):
    """Says something else to each who asks."""

    note = ""

    def __str__(self) -> str:
        return "nothing"

    __repr__ = __format__ = encode = __str__  # type: ignore[assignment]


class Ledger(dict[str, Any]):
    def items(self) -> Any:
        return []

    def __iter__(self) -> Any:
        return iter(())

    keys = values = items


class Rows(list[Any]):
    def __iter__(self) -> Any:
        return iter(())

    def __len__(self) -> int:
        return 0


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow", arbitrary_types_allowed=True)
    text: Any = ""
    _private: Any = pydantic.PrivateAttr(default=None)

    @functools.cached_property
    def shout(self) -> str:
        return f"{self.text}!"

    @pydantic.model_serializer
    def blank(self) -> dict[str, Any]:
        return {}


class Named(pydantic.BaseModel):
    name: str

    @pydantic.computed_field(alias="mail")  # type: ignore[prop-decorator]
    @property
    def email(self) -> str:
        return f"{self.name}@example.com"


@dataclasses.dataclass
class Record:
    text: Any = ""

    def __iter__(self) -> Any:
        return iter(())


class Mangled:
    __slots__ = ("__hidden",)


@dataclasses.dataclass(slots=True)
class Hiding(Mangled):
    text: str = ""


class Day(datetime.date):
    note = ""


class Proxy:
    """Answers for another."""

    __class__ = str  # type: ignore[assignment]

    def __str__(self) -> str:
        return KEY


def with_(made: Any, **more: Any) -> Any:
    for name, value in more.items():
        object.__setattr__(made, name, value)
    return made


def cached() -> Model:
    model = Model(text=KEY)
    model.shout  # noqa: B018  # keeps what it says
    model.text = "x"
    return model


HIDDEN: dict[str, Callable[[], Any]] = {
    "a text that lies": lambda: Liar(KEY),
    "attribute of a text": lambda: with_(Liar("x"), note=KEY),
    "a dict that shows nothing": lambda: Ledger(a=KEY),
    "attribute of a dict": lambda: with_(Ledger(), note=KEY),
    "a list that shows nothing": lambda: Rows([KEY]),
    "member of a model": lambda: Model(text=[KEY]),
    "extra of a model": lambda: Model(more=KEY),
    "name of an extra": lambda: Model(**{KEY: 1}),
    "private state of a model": lambda: with_(Model(), _private=KEY),
    "what a model keeps": cached,
    "attribute of a dataclass": lambda: with_(Record(), more=KEY),
    "slot with a hidden name": lambda: with_(Hiding(), _Mangled__hidden=KEY),
    "a model in a model": lambda: Model(text=Model(text=Record(KEY))),
    "a secret of pydantic": lambda: pydantic.SecretStr(KEY),
    "an object": lambda: SimpleNamespace(a=KEY),
    "an iterator": lambda: iter([KEY]),
    "a lazy one": lambda: map(str, [KEY]),
    "an exception": lambda: ValueError(KEY),
    "a function": lambda: lambda: KEY,
    "a proxy": Proxy,
    "attribute of a day": lambda: with_(Day(2026, 1, 1), note=KEY),
    "a type by that name": lambda: type(KEY, (), {})(),
    "bytes of another encoding": lambda: KEY.encode("utf-16"),
    "bytes that are changed later": lambda: bytearray(KEY.encode()),
    "a dict that fills itself": lambda: with_(UserDict(), a=KEY),
}


def state(value: Any, depth: int = 6) -> str:
    """What is in an object, whoever it says that it is."""
    kind = type(value)
    if kind in (str, bytes) or depth == 0:
        return repr(value)
    parts: list[Any] = [kind.__name__] if kind.__name__ == KEY else []
    if issubclass(kind, str):
        parts.append(str.__str__(value))
    if issubclass(kind, dict):
        parts += [*dict.keys(value), *dict.values(value)]
    elif issubclass(kind, list | tuple | set):
        parts += [*list.__iter__(value)] if issubclass(kind, list) else [*value]
    for name in (
        "__dict__",
        "__pydantic_extra__",
        "__pydantic_private__",
        "__pydantic_fields_set__",
        "_Mangled__hidden",
        "text",
        "_secret_value",
        "data",
    ):
        with suppress(AttributeError):
            parts.append(dict(found) if type(found := object.__getattribute__(value, name)) is dict else found)
    return " ".join(state(part, depth - 1) for part in parts if part is not None)


@pytest.mark.parametrize("make", HIDDEN.values(), ids=HIDDEN)
def test_a_secret_in_an_object_is_taken_out_or_the_object_refused(make: Callable[[], Any]) -> None:
    shaped = SECRETS.apply([make()])
    assert KEY not in state(shaped.output)
    assert KEY not in shaped.refused
    assert shaped.refused or shaped.redacted


def test_the_test_above_sees_what_it_looks_for() -> None:
    blind = {"an iterator", "a lazy one", "an exception", "a function", "a proxy"}
    blind |= {"bytes of another encoding", "bytes that are changed later"}
    assert {name for name, make in HIDDEN.items() if KEY not in state([make()])} == blind


def test_a_field_that_a_model_works_out_when_it_is_asked_cannot_be_taken_out() -> None:
    for path in ("email", "mail", "**.email", "email.host"):
        assert parse_output({"redact": [path]}).apply(Named(name="bob")).refused == "it holds a computed field, which cannot be taken out"
    assert parse_output({"redact": ["name"]}).apply(Named(name="bob")).output.email == "[redacted]@example.com"


def test_what_a_tool_keeps_hold_of_it_cannot_change_behind_the_rule(guard: Guard) -> None:
    inner: dict[str, Any] = {}
    output = {"a": inner, "b": Record([inner])}

    @guard.tool
    def ruled() -> Any:
        return output

    given = ruled()
    inner["key"] = KEY
    assert given == {"a": {}, "b": Record([{}])}


def test_an_item_that_is_put_out_again_and_again_is_taken_as_it_was(guard: Guard) -> None:
    @guard.tool
    def ruled() -> Iterator[Any]:
        row: dict[str, Any] = {}
        for index in range(3):
            row["n"] = index
            yield row
        row["key"] = KEY

    assert [*ruled()] == [{"n": 0}, {"n": 1}, {"n": 2}]


# --- streams -----------------------------------------------------------------------------------------------------------------------------


def pieces(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


STREAMS: dict[str, list[Any]] = {
    "letters": [*KEY],
    "halves": [KEY[:10], KEY[10:]],
    "bytes": [KEY[:10].encode(), KEY[10:].encode()],
    "empty ones between": [KEY[:10], "", "", KEY[10:]],
    "parts of events": [{"delta": {"text": part}} for part in pieces(KEY, 3)],
    "parts of events, others between": [event for part in pieces(KEY, 3) for event in ({"text": part}, {"ping": 1})],
    "parts of models": [Model(text=part) for part in pieces(KEY, 7)],
    "lists": [[KEY[:10]], [KEY[10:]]],
    "lines": PEM,
    "base64": pieces(base64.b64encode(f"some text and the key {KEY} and more".encode()).decode(), 5),
    "json": pieces(json.dumps({"password": "x", "url": "https://u:s3cr3tPassw0rd@h.example"}), 4),
}


@pytest.mark.parametrize("items", STREAMS.values(), ids=STREAMS)
@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_secret_that_is_cut_in_pieces_does_not_stream_out(guard: Guard, items: list[Any], way: str) -> None:
    @guard.tool
    def ruled() -> Iterator[Any]:
        yield from items

    async def all_of(stream: AsyncIterator[Any]) -> list[Any]:
        return [item async for item in stream]

    if way == "async":

        async def body() -> AsyncIterator[Any]:
            for item in items:
                yield item

        permit = guard.check(ToolCall("triage", "outer", {}))
        given = asyncio.run(all_of(permit.run(body)))
    else:
        given = [*ruled()]
    shown = "".join(state(item) for item in given).replace("'", "").replace(" b", "").replace(" ", "")
    for part in (KEY, KEY[4:], PEM[1], "s3cr3tPassw0rd", KEY[:9], KEY[11:]):
        assert part not in shown
    assert last(guard)["shaped"]["redacted"] >= 1


def test_a_stream_without_end_is_ended_and_refused(guard: Guard) -> None:
    closed = []

    @guard.tool
    def ruled() -> Iterator[Any]:
        try:
            while True:
                yield "x" * 100_000
        finally:
            closed.append(True)

    with pytest.raises(OutputRefused, match="more than 16777216 characters"):
        next(ruled())
    assert closed == [True]
    assert last(guard)["status"] == "error"


def test_a_stream_of_what_cannot_be_looked_into_gives_not_even_its_first_item(guard: Guard) -> None:
    @guard.tool
    def ruled() -> Iterator[Any]:
        yield "fine"
        yield object()

    with pytest.raises(OutputRefused, match=r"builtins\.object"):
        next(ruled())


def test_what_is_sent_into_a_stream_does_not_bring_anything_out(guard: Guard) -> None:
    @guard.tool
    def ruled() -> Any:
        got = yield "ready"
        yield f"got {got}"

    stream = ruled()
    assert next(stream) == "ready"
    assert stream.send(KEY) == "got None"


def test_a_stream_that_is_closed_or_thrown_into_ends_as_any(guard: Guard) -> None:
    @guard.tool
    def ruled() -> Any:
        yield 1
        yield 2

    stream = ruled()
    next(stream)
    stream.close()
    assert last(guard)["status"] == "cancelled"
    stream = ruled()
    next(stream)
    with pytest.raises(KeyError):
        stream.throw(KeyError("x"))
    assert last(guard)["status"] == "error"


async def test_a_stream_that_is_cancelled_ends_its_body(guard: Guard) -> None:
    ended = []

    @guard.tool
    async def ruled() -> AsyncIterator[Any]:
        try:
            yield KEY
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    async def read() -> list[Any]:
        return [item async for item in ruled()]

    reading = asyncio.create_task(read())
    await asyncio.sleep(0.05)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    gc.collect()
    assert ended == [True]
    assert last(guard)["status"] in ("cancelled", "error")


# --- exceptions --------------------------------------------------------------------------------------------------------------------------


class Odd(Exception):
    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args)
        vars(self).update(more)


class Quiet(Exception):
    def __str__(self) -> str:
        return "no more to say"

    __repr__ = __str__


class Loud(Exception):
    def __str__(self) -> str:
        return KEY


class Unprintable(Exception):
    def __str__(self) -> str:
        raise KeyError(KEY)


class Panic(BaseException):
    pass


def chained(kind: str) -> BaseException:
    try:
        try:
            raise ValueError(KEY)
        except ValueError as inner:
            if kind == "cause":
                raise KeyError("x") from inner
            if kind == "suppressed":
                raise KeyError("x") from None
            raise KeyError("x")  # noqa: B904  # the point
    except KeyError as error:
        return error


def noted() -> Exception:
    error = ValueError("x")
    error.add_note(f"the key was {KEY}")
    return error


def ring() -> Exception:
    error = ValueError(KEY)
    other = KeyError("x")
    other.__cause__, error.__cause__ = error, other
    return other


THROWN: dict[str, Callable[[], BaseException]] = {
    "message": lambda: ValueError(f"401 for {KEY}"),
    "second argument": lambda: ValueError("x", KEY),
    "argument that is no text": lambda: ValueError({"headers": {"key": [KEY]}}),
    "bytes": lambda: ValueError(KEY.encode()),
    "quiet, with an argument": lambda: Quiet(KEY),
    "loud": Loud,
    "attribute": lambda: Odd("x", body={"key": KEY}),
    "attribute beside an object": lambda: Odd("x", client=object(), body=KEY),
    "its name tells": lambda: Odd("x", secret_access_key="aB3dE5gH7jK9mN1pQ2sT4vW6yZ8aB3dE5gH7jK9mN"),
    "note": noted,
    "cause": lambda: chained("cause"),
    "context": lambda: chained("context"),
    "context that is not shown": lambda: chained("suppressed"),
    "in a ring": ring,
    "group": lambda: ExceptionGroup("x", [KeyError("y"), ExceptionGroup("z", [ValueError(KEY)])]),
    "class": lambda: type(KEY, (Exception,), {})(),
    "unprintable": Unprintable,
    "operating system": lambda: OSError(2, "no such file", f"/run/{KEY}"),
    "key": lambda: KeyError(KEY),
    "unicode": lambda: UnicodeDecodeError("utf-8", KEY.encode(), 0, 1, "x"),
    "exit": lambda: SystemExit(KEY),
    "interrupt": lambda: KeyboardInterrupt(KEY),
    "cancelled": lambda: asyncio.CancelledError(KEY),
    "panic": lambda: Panic(KEY),
    "stop": lambda: StopIteration(KEY),
    "base64": lambda: ValueError(base64.b64encode(KEY.encode()).decode()),
}


@pytest.mark.parametrize("make", THROWN.values(), ids=THROWN)
@pytest.mark.parametrize("way", ["sync", "async", "awaited", "stream"])
def test_what_a_tool_throws_brings_nothing_out(guard: Guard, make: Callable[[], BaseException], way: str) -> None:
    def body() -> Any:
        raise make()

    async def abody() -> Any:
        raise make()

    async def later() -> Any:
        await asyncio.sleep(0)
        raise make()

    def stream() -> Any:
        yield 1
        raise make()

    permit = guard.check(ToolCall("triage", "ruled", {}))
    runs: dict[str, Callable[[], Any]] = {
        "sync": lambda: permit.run(body),
        "async": lambda: drive(permit.arun(abody)),
        "awaited": lambda: drive(permit.arun(lambda: later())),
        "stream": lambda: [*permit.run(stream)],
    }
    with pytest.raises(BaseException) as caught:
        runs[way]()
    error = caught.value
    assert KEY not in spoken(error)
    assert "secret_access_key" not in spoken(error) or isinstance(error, OutputRefused)
    thrown = make()
    if isinstance(thrown, asyncio.CancelledError | KeyboardInterrupt | SystemExit):
        assert type(error) is type(thrown)
        assert not error.args
    else:
        assert isinstance(error, OutputRefused)
    assert last(guard)["status"] == ("cancelled" if isinstance(thrown, asyncio.CancelledError | KeyboardInterrupt) else "error")
    assert last(guard)["shaped"] == {"redacted": 1, "truncated": False}


def drive(awaitable: Any) -> Any:
    """Await it here, without an event loop that makes something of its own of an interrupt."""
    coroutine = awaitable.__await__()
    while True:
        next(coroutine)


HARMLESS = [lambda: ValueError("no such order"), lambda: Odd("x", n=1), KeyError, Quiet, lambda: chained("none")]


@pytest.mark.parametrize("make", HARMLESS, ids=range(5))
def test_what_says_nothing_of_it_is_thrown_as_it_is(guard: Guard, make: Callable[[], BaseException]) -> None:
    thrown = make()
    if thrown.__context__ is not None:
        thrown.__context__.args = ("fine",)

    @guard.tool
    def ruled() -> Any:
        raise thrown

    with pytest.raises(type(thrown)) as caught:
        ruled()
    assert caught.value is thrown


def test_a_long_message_is_an_output_too(guard: Guard) -> None:
    @guard.tool
    def small() -> Any:
        raise ValueError("row " * 100)

    with pytest.raises(OutputRefused, match="it is longer than the policy hands out"):
        small()


def test_many_exceptions_behind_one_another_are_not_followed_for_ever(guard: Guard) -> None:
    error: Exception = ValueError(KEY)
    for _ in range(100_000):
        error, behind = ValueError("x"), error
        error.__cause__ = behind

    @guard.tool
    def ruled() -> Any:
        raise error

    with pytest.raises(OutputRefused, match="could not be looked into"):
        ruled()
    while (behind := error.__cause__) is not None:  # or their deletion would recurse
        error.__cause__, error = None, behind  # type: ignore[assignment]  # they are all alike


def test_a_field_does_not_get_out_by_an_exception(guard: Guard) -> None:
    @guard.tool
    def fields() -> Any:
        raise LookupError("no order of bob@example.com")

    with pytest.raises(OutputRefused) as caught:
        fields()
    assert "bob@example.com" not in spoken(caught.value)


def test_a_denial_inside_a_tool_is_still_one(guard: Guard) -> None:
    @guard.tool
    def outer() -> Any:
        return guard.check(ToolCall("triage", "nothing", {}))

    with pytest.raises(Denied) as caught:
        outer()
    assert caught.value.code == "tool_not_in_scope"


# --- what is refused leaves no trace -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["run", "arun", "stream"])
def test_a_refusal_leads_to_nothing_of_what_was_refused(guard: Guard, way: str) -> None:
    secret = "the-secret-of-this-test"

    def plain() -> Any:
        return [secret] * 50

    async def late() -> Any:
        return [secret] * 50

    def stream() -> Any:
        for _ in range(50):
            yield secret

    bodies: dict[str, Any] = {"run": plain, "arun": late, "stream": stream}
    runs: dict[str, Callable[[Any], Any]] = {"run": lambda out: out, "arun": lambda out: asyncio.run(out), "stream": lambda out: [*out]}
    small = guard.tool(name="small")(bodies[way])
    with pytest.raises(OutputRefused) as caught:
        runs[way](small())
    assert secret not in spoken(caught.value)
    assert secret.encode() not in kept(guard)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.why, again.failed) == (str(caught.value), caught.value.why, caught.value.failed)


def test_what_is_taken_out_is_nowhere_on_the_disk(guard: Guard) -> None:
    @guard.tool
    def ruled(x: bool) -> Any:
        if x:
            raise ValueError(KEY)
        return {"key": KEY, "lines": PEM}

    @guard.tool
    def cut() -> Any:
        return KEY + "x" * 500

    ruled(x=False)
    cut()
    with pytest.raises(OutputRefused):
        ruled(x=True)
    written = kept(guard)
    assert b"[redacted-aws]" in written
    assert KEY.encode() not in written
    assert PEM[1].encode() not in written


def test_an_awaitable_that_nobody_may_await_is_stopped_as_without_a_rule(guard: Guard) -> None:
    async def late() -> Any:
        return KEY

    @guard.tool
    def ruled() -> Any:
        return late()

    with pytest.raises(Exception, match="awaitable, which was stopped"):
        ruled()


async def test_what_an_awaited_awaitable_gives_is_shaped(guard: Guard) -> None:
    def soon() -> Any:
        future = asyncio.get_running_loop().create_future()
        future.set_result([KEY])
        return future

    assert await guard.check(ToolCall("triage", "ruled", {})).arun(soon) == ["[redacted-aws]"]


def test_the_rule_holds_in_every_thread_at_once(guard: Guard) -> None:
    @guard.tool
    def ruled(x: Any) -> Any:
        return {"n": x, "key": KEY}

    results = []

    def work(number: int) -> None:
        with guard.task("triage", initiator="user:alice"):
            results.extend(ruled(x=number) for _ in range(20))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 80
    assert all(result["key"] == "[redacted-aws]" for result in results)


def test_a_nested_tools_output_is_shaped_by_both_rules(guard: Guard) -> None:
    @guard.tool
    def fields() -> Any:
        return {"user": {"email": "bob@example.com"}, "key": KEY}

    @guard.tool
    def outer() -> Any:
        return {"found": fields()}

    assert outer() == {"found": {"user": {"email": "[redacted]"}, "key": "[redacted-aws]"}}


# --- adapters ----------------------------------------------------------------------------------------------------------------------------


def test_a_stand_in_tells_of_a_refused_output_as_it_tells_of_a_denial(guard: Guard) -> None:
    def small() -> Any:
        return "y" * 200

    said = stand_in(guard, small)()
    assert said.startswith("the tool ran, but its output is withheld: it has 200 bytes")
    with pytest.raises(OutputRefused):
        stand_in(guard, small, on_deny="raise")()


class Answer(pydantic.BaseModel):
    content: list[dict[str, Any]]
    isError: bool = False


REMOTE = """
agentguard: 1
name: remote
agents: {triage: {tools: {there: {}}}}
tools: {there: {output: {secrets: all, max_bytes: 500}}}
"""


@pytest.mark.parametrize("failed", [False, True])
async def test_what_a_remote_tool_answers_is_shaped(home: Path, failed: bool) -> None:
    with Guard.open(REMOTE, home=home, durability="process") as guard:
        remote = Remote(guard)
        remote.learn({"name": "there", "inputSchema": {"type": "object"}})
        text = "x"

        async def wire(arguments: dict[str, Any]) -> Answer:
            return Answer(content=[{"type": "text", "text": text}], isError=failed)

        async with guard.task("triage", initiator="user:alice") as task:
            assert await remote.call("triage", task, "there", {}, "1", wire) == await wire({})
            for text in (KEY, "x" * 600):
                if failed or text != KEY:
                    with pytest.raises(OutputRefused) as caught:
                        await remote.call("triage", task, "there", {}, None, wire)
                    assert KEY not in spoken(caught.value)
                else:
                    answer = await remote.call("triage", task, "there", {}, None, wire)
                    assert answer == Answer(content=[{"type": "text", "text": "[redacted-aws]"}])


async def test_what_a_program_has_already_cannot_be_shaped_and_is_refused(guard: Guard) -> None:
    """The Claude program runs its tools itself: all that is left is to end the session."""
    runs = Runs()
    ends = [("fine", None), (KEY, None), (object(), None), (None, ToolFailed("x")), (None, ToolFailed(KEY))]
    for number, (output, error) in enumerate(ends):
        await runs.begin(await guard.acheck(ToolCall("triage", "Bash", {"command": "ls"})), str(number))
        if number in (0, 3):
            assert await runs.end(str(number), output=output, error=error)
        else:
            with pytest.raises(OutputRefused):
                await runs.end(str(number), output=output, error=error)
