"""The tool calls in the messages of an OpenAI-style model: chat completions and the Responses API, dictionaries or objects."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple


class Wanted(NamedTuple):
    """One tool call as it stands in a message. `given` is its JSON, or the text of a custom tool; `reply` what the answer has beside it."""

    name: str
    id: str | None
    given: Any
    custom: bool
    reply: dict[str, Any]

    def read(self) -> tuple[dict[str, Any], str]:
        """The arguments, and what is wrong with them."""
        if self.custom:
            return {"input": self.given}, ""
        if isinstance(self.given, dict):  # some servers, Ollama's among them, have read it already
            return self.given, ""
        try:
            arguments = json.loads("{}" if self.given in (None, "") else self.given, object_pairs_hook=_object)
        except (ValueError, TypeError, RecursionError) as error:
            return {}, f"The arguments are no JSON: {error}"
        return (arguments, "") if isinstance(arguments, dict) else ({}, "The arguments are no JSON object.")

    def answer(self, text: str) -> dict[str, Any]:
        return {**self.reply, ("content" if "role" in self.reply else "output"): text}


def calls_of(message: Any) -> Iterator[Wanted]:
    """The calls in a message of chat completions, and in a response, items or an item of the Responses API."""
    items = message if isinstance(message, list | tuple) else _part(message, "output")
    for item in items if isinstance(items, list | tuple) else [message]:
        for call in _part(item, "tool_calls") or ():
            custom = _part(call, "type") == "custom"
            what, id = _part(call, "custom" if custom else "function"), _part(call, "id")
            reply = {"role": "tool", "tool_call_id": id}
            yield Wanted(_name(what), id, _part(what, "input" if custom else "arguments"), custom, reply)
        if (kind := _part(item, "type")) in ("function_call", "custom_tool_call"):
            custom, id = kind == "custom_tool_call", _part(item, "call_id")
            reply = {"type": f"{kind}_output", "call_id": id}
            yield Wanted(_name(item), id, _part(item, "input" if custom else "arguments"), custom, reply)


def _part(item: Any, name: str) -> Any:
    return item.get(name) if isinstance(item, dict) else getattr(item, name, None)


def _name(item: Any) -> str:
    return str(_part(item, "name") or "unnamed")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """What stands twice reads one way here and another way elsewhere."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found
