"""What becomes of a tool's output before anybody gets it: its size, its shape, and what is taken out of it (DESIGN §6).

    {max_bytes: 20000, excess: truncate, schema: {...}, redact: [user.email, "items[].ssn"], secrets: all, patterns: ["T-[0-9]{6}"]}

In this order: the output is looked into, whole; its schema is checked as the tool gave it; fields and secrets are taken out; then it is
measured. What does not pass is refused, and so is what cannot be looked into. `docs/policy-outputs.md` is the reference.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final, NamedTuple

from agentguard.canonical import Json, jcs
from agentguard.constraints.values import show
from agentguard.errors import AgentguardError, InvalidInput
from agentguard.plain import plain
from agentguard.policy.output_walk import MARK, MAX_TEXT, Group, Paths, Unreadable, Walk, json_in, parse_paths, state_of
from agentguard.policy.secret_patterns import Finder, Span, parse_names, parse_patterns

_MEMBERS: Final = ("max_bytes", "excess", "schema", "redact", "secrets", "patterns")
#: An output that is cut has room for the mark that says so.
_MIN_CUT: Final = 128
#: How an exception refers to others, and how far that is followed.
_MAX_CHAIN: Final = 32
_CUT: Final = "\n[cut: {total} bytes, of which at most {room} are handed out]"
_LESS: Final = "ask for less of it"


class Shaped(NamedTuple):
    """What became of an output.

    output     what the caller gets; None where it is refused
    redacted   how much was taken out, by path of the field, name of the secret or `patterns[n]`
    truncated  whether text was cut
    refused    why nobody gets it, in words for a model which hold nothing of it; empty where the caller gets it
    """

    output: Any
    redacted: Mapping[str, int]
    truncated: bool = False
    refused: str = ""


@dataclass(frozen=True, slots=True)
class OutputRule:
    """The rule for the outputs of one tool. Make it with `parse_output`.

    schema    the JSON Schema as JCS text
    secrets   names of kinds, see `secret_patterns`; "all" are those of this release
    """

    max_bytes: int | None = None
    excess: str = "refuse"
    schema: str | None = None
    redact: tuple[str, ...] = ()
    secrets: tuple[str, ...] | str = ()
    patterns: tuple[str, ...] = ()
    _paths: Paths = field(init=False, repr=False, compare=False)
    _finder: Finder | None = field(init=False, repr=False, compare=False)
    _schema: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        names = parse_names(self.secrets) if self.secrets else ()
        compiled = None
        if self.schema is not None:
            from agentguard.policy.output_schema import Schema

            compiled = Schema(json.loads(self.schema))
        object.__setattr__(self, "_paths", Paths(self.redact))
        object.__setattr__(self, "_finder", Finder(names, self.patterns) if names or self.patterns else None)
        object.__setattr__(self, "_schema", compiled)

    def to_json(self) -> dict[str, Json]:
        """The canonical form, which `parse_output` reads back as an equal rule."""
        members = {
            "max_bytes": self.max_bytes,
            "excess": self.excess if self.excess != "refuse" else None,
            "schema": json.loads(self.schema) if self.schema is not None else None,
            "redact": list(self.redact),
            "secrets": self.secrets if self.secrets == "all" else list(self.secrets),
            "patterns": list(self.patterns),
        }
        return {name: value for name, value in members.items() if value}

    # --- outputs ------------------------------------------------------------------------------------------------------------------------

    def apply(self, output: Any, *, stream: bool = False, part: bool = False) -> Shaped:
        """What the caller gets in place of `output`. Total.

        stream   `output` is the list of a stream's items: their texts may be pieces of one text, and are cut as one
        part     it is not all of the output, so neither its shape nor its size is asked about
        """
        counts: dict[str, int] = {}
        try:
            shaped = Shaped(self._clean(output, counts, "\n"), counts) if part else self._shape(output, counts, stream)
        except Unreadable as why:
            return Shaped(None, counts, refused=str(why) if not self.finds(str(why)) else "it could not be looked into")
        except Exception:  # noqa: BLE001  # whatever somebody's object does when it is looked at
            return Shaped(None, counts, refused="it could not be looked into")
        return shaped

    def _shape(self, output: Any, counts: dict[str, int], stream: bool) -> Shaped:
        if self._paths.paths and (found := _opaque_text(output, stream)):
            raise Unreadable(f"the policy takes fields out of it, and {found}")
        clean = self._clean(output, counts, "" if stream else "\n")
        if self._schema is not None and (failed := self._unlike_schema(output, stream)):
            raise Unreadable(f"it is not what the policy's schema asks for: {failed} does not hold")
        return self._measure(clean, counts, stream)

    def _clean(self, output: Any, counts: dict[str, int], joint: str) -> Any:
        """The output built anew, without fields and secrets. Twice where a secret reaches from one text of a group into the next."""
        finder = self._finder
        if finder is None:
            return Walk(self._paths, None, counts).whole(output)
        sweep = _Sweep(finder, counts)
        clean = Walk(self._paths, sweep, counts).whole(output)
        across = sweep.across(joint)
        if across:
            counts.clear()
            clean = Walk(self._paths, _Sweep(finder, counts, across), counts).whole(output)
        return clean

    def _unlike_schema(self, output: Any, stream: bool) -> str:
        """Where the schema does not hold of the tool's output. A text may be what the schema asks for, or be JSON that is."""
        failed = str(self._schema.failure(plain(output)))
        if failed and type(output) is str and (inner := json_in(output)) is not None:
            return str(self._schema.failure(inner))
        return failed

    def _measure(self, clean: Any, counts: dict[str, int], stream: bool) -> Shaped:
        limit = self.max_bytes
        if limit is None:
            return Shaped(clean, counts)
        texts = stream and all(type(item) is str for item in clean)
        whole = "".join(clean) if texts else clean
        size = _size(whole)
        if size <= limit:
            return Shaped(clean, counts)
        if self.excess == "refuse" or type(whole) is not str:
            raise Unreadable(f"it has {size} bytes, of which the policy hands out at most {limit}: {_LESS}")
        cut = _cut(whole, size, limit)
        return Shaped(_pieces(clean, cut) if texts else cut, counts, truncated=True)

    def finds(self, text: str) -> bool:
        """Whether the policy takes something out of a text."""
        return self._finder is not None and _Sweep(self._finder, {})(text, "", None) != text

    # --- exceptions -----------------------------------------------------------------------------------------------------------------------

    def withhold(self, error: BaseException) -> str:
        """Why nobody may get an exception of the tool, whose words reach the model as well; empty where it may be passed on. Total."""
        if self._finder is None and self.max_bytes is None and not self._paths.paths:
            return ""
        try:
            errors = _chain(error)
            words = [word for one in errors for word in _words(one)]
            if self._paths.paths and any(words) and not isinstance(error, AgentguardError):
                return "the policy takes fields out of its outputs, and a message is text"
            if self.max_bytes is not None and any(len(word.encode("utf-8", "replace")) > self.max_bytes for word in words):
                return "it is longer than the policy hands out"
            if any(map(self.finds, [*words, *(type(one).__qualname__ for one in errors)])):
                return "it holds what the policy takes out"
        except Exception:  # noqa: BLE001  # whatever somebody's exception does when it is looked at
            return "it could not be looked into"
        return ""


class _Sweep:
    """Takes secrets out of texts, one after the other, and remembers them: in a second look at all together, what was cut apart is seen.

    whole   texts to be taken out as a whole, by their number, and the name of what reaches into them
    """

    def __init__(self, finder: Finder, counts: dict[str, int], whole: Mapping[int, str] | None = None) -> None:
        self._finder, self._counts, self._whole = finder, counts, whole or {}
        self._groups: dict[Group, list[tuple[int, str]]] = {}
        self._number = -1

    def __call__(self, text: str, key: str, group: Group | None) -> str:
        self._number += 1
        if group is not None:
            self._groups.setdefault(group, []).append((self._number, text))
        if self._number in self._whole:
            return self._marked(self._whole[self._number])
        data = text.encode("utf-8", "replace")
        spans = self._finder.spans(data, key)
        left = _left(data, spans)
        hidden = self._finder.hidden(b" ".join(left).decode("utf-8", "replace") if spans else text)
        if hidden:
            return self._marked(hidden)
        marks = [self._marked(name).encode() for _, _, name in spans]
        return b"".join([*chain.from_iterable(zip(left, marks, strict=False)), left[-1]]).decode() if spans else text

    def _marked(self, name: str) -> str:
        self._counts[name] = self._counts.get(name, 0) + 1
        return f"{MARK[:-1]}-{name}]"  # one word, which no pattern takes apart

    def across(self, joint: str) -> dict[int, str]:
        """The texts that hold what is only seen when those of a group are read as one, or part of it: by number."""
        cut: dict[int, str] = {}
        for texts in self._groups.values():
            if len(texts) < 2:
                continue
            data = [text.encode("utf-8", "replace") for _, text in texts]
            if not joint and (hidden := self._finder.hidden("".join([text for _, text in texts]))):
                cut.update(dict.fromkeys([number for number, _ in texts], hidden))
                continue
            for start, end, name in self._finder.spans(joint.encode().join(data)):
                at = 0
                for (number, _), part in zip(texts, data, strict=True):
                    if start < at + len(part) and end > at and not self._seen(part, start - at, end - at):
                        cut[number] = name
                    at += len(part) + len(joint)
        return cut

    def _seen(self, part: bytes, start: int, end: int) -> bool:
        """Whether what lies there is taken out of a text by itself."""
        return any(span.start <= start and end <= span.end for span in self._finder.spans(part))


def _left(data: bytes, spans: Iterable[Span]) -> list[bytes]:
    """What stands before, between and behind."""
    ends = [0, *chain.from_iterable((start, end) for start, end, _ in spans), len(data)]
    return [data[start:end] for start, end in zip(ends[::2], ends[1::2], strict=True)]


def _opaque_text(output: Any, stream: bool) -> str:
    """What is said of an output that is text without fields; empty where fields can be sought in it."""
    texts = [item for item in output if isinstance(item, str | bytes)] if stream else [output] if isinstance(output, str | bytes) else []
    for text in texts:
        shown = text.decode("utf-8", "replace") if isinstance(text, bytes) else str.__str__(text)
        if json_in(shown) is None:
            return "it is text that is not JSON"
    return ""


def _size(value: Any) -> int:
    """Bytes of text; of anything else, those of its JSON form without spaces."""
    if isinstance(value, str):
        return len(str.__str__(value).encode("utf-8", "replace"))
    if type(value) is bytes:
        return len(value)
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_json).encode("utf-8", "replace"))


def _json(value: Any) -> Json:
    """About what a value that is no JSON comes to in it."""
    if type(value) is bytes:
        return value.decode("utf-8", "replace")
    if isinstance(value, set | frozenset):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else state_of(value) or str(value)


def _cut(text: str, size: int, limit: int) -> str:
    """The beginning of a text and a mark that says that it is no more than that, in `limit` bytes together."""
    mark = _CUT.format(total=size, room=limit)
    return str.encode(text, "utf-8", "replace")[: limit - len(mark)].decode("utf-8", "ignore") + mark


def _pieces(items: list[str], cut: str) -> list[str]:
    """A text that was cut, in pieces as long as the stream's items were."""
    pieces, at = [], 0
    for item in items:
        if at >= len(cut):
            break
        pieces.append(cut[at : at + len(item)])
        at += len(item)
    return [piece for piece in [*pieces, cut[at:]] if piece]


def _chain(error: BaseException) -> list[BaseException]:
    """An exception and those behind it: causes, contexts, members of groups."""
    waiting: list[BaseException | None] = [error]
    seen: list[BaseException] = []
    while waiting:
        one = waiting.pop()
        if one is None or any(one is other for other in seen):
            continue
        seen.append(one)
        if len(seen) > _MAX_CHAIN:
            raise Unreadable("too many exceptions behind it")
        waiting += [one.__cause__, one.__context__, *(one.exceptions if isinstance(one, BaseExceptionGroup) else ())]
    return seen


def _words(error: BaseException) -> Iterable[str]:
    """All that an exception says: message, arguments, notes, and attributes that are words."""
    yield str(error)
    yield repr(error) if error.args or str(error) else ""
    for value in (*error.args, *({name: value} for name, value in vars(error).items())):
        yield from _spoken(value)


def _spoken(value: Any) -> list[str]:
    """The texts in what an exception carries, as far as it is plain: more than its words no framework shows to a model."""
    found: list[str] = []

    def hear(text: str, key: str, group: Group | None) -> str:
        found.append(f"{key}={text}" if key else text)
        return text

    with suppress(Unreadable):
        Walk(Paths(()), hear, {}).whole(value)
    return found


# --- parsing -------------------------------------------------------------------------------------------------------------------------


def parse_output(node: Any, *, where: str | None = None) -> OutputRule:
    """The rule that `output:` stands for. Raises InvalidInput that names the member, with `where` as its place."""
    try:
        return _parse(node)
    except InvalidInput as error:
        raise InvalidInput(error.message, place=where or error.place, hint=error.hint) from None


def _parse(node: Any) -> OutputRule:
    if not isinstance(node, Mapping) or not node:
        raise InvalidInput(f"output must be an object, found {show(node)}", hint="such as {max_bytes: 20000, secrets: all}")
    for name in node:
        if name not in _MEMBERS:
            near = difflib.get_close_matches(str(name)[:40], _MEMBERS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(_MEMBERS)}"
            raise InvalidInput(f"output has no member {show(name)}", hint=hint)
    limit, excess = _limit(node)
    secrets: tuple[str, ...] | str = ()
    if "secrets" in node:
        names = parse_names(node["secrets"])
        secrets = "all" if node["secrets"] == "all" else names
    return OutputRule(
        max_bytes=limit,
        excess=excess,
        schema=_schema(node["schema"]) if "schema" in node else None,
        redact=parse_paths(node["redact"]) if "redact" in node else (),
        secrets=secrets,
        patterns=parse_patterns(node["patterns"]) if "patterns" in node else (),
    )


def _limit(node: Mapping[str, Any]) -> tuple[int | None, str]:
    limit, excess = node.get("max_bytes"), node.get("excess", "refuse")
    if "max_bytes" in node and (type(limit) is not int or not 0 < limit <= MAX_TEXT):
        raise InvalidInput(f"max_bytes must be a whole number from 1 to {MAX_TEXT}, found {show(limit)}")
    if excess not in ("refuse", "truncate"):
        raise InvalidInput(f"excess must be refuse or truncate, found {show(excess)}")
    if "excess" in node and limit is None:
        raise InvalidInput("excess says what becomes of more than max_bytes, which is missing", hint="add max_bytes: 20000")
    if excess == "truncate" and limit is not None and limit < _MIN_CUT:
        hint = "or write excess: refuse"
        raise InvalidInput(f"max_bytes must be at least {_MIN_CUT} for a cut text to say that it is one, found {limit}", hint=hint)
    return limit, excess


def _schema(node: Any) -> str:
    from agentguard.policy.output_schema import Schema  # its library is an extra

    return jcs(Schema(node).json).decode()
