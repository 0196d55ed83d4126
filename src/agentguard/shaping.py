"""A tool's body under an output rule: what comes out of it, on whichever way, comes out as the rule leaves it.

An output, what an awaitable gives, an exception's words, the items of a stream. A stream is held back until its body is through: a secret
may stand across two items, and what the rule refuses it refuses whole. What the caller sends into it does not arrive.

What is refused is dropped before anything is raised: neither the exception's chain nor the frames that it passed lead to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import aclosing, closing
from types import AsyncGeneratorType, GeneratorType
from typing import Any, Final

from agentguard.errors import OutputRefused
from agentguard.policy.output_walk import Paths, Unreadable, Walk
from agentguard.policy.outputs import OutputRule, Shaped
from agentguard.tools.integrity import type_name

#: Not failures: they end a thread of control, and must go on as what they are.
_INTERRUPTS: Final = (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit)


class Shaping:
    """One run of a tool under a rule.

    passes  says of an exception that it is no failure but the framework's, and goes through as it is
    did     what the record of the outcome says of it; None while nothing happened to the output
    """

    __slots__ = ("_passes", "_rule", "did")

    def __init__(self, rule: OutputRule, passes: Callable[[BaseException], bool]) -> None:
        self._rule, self._passes = rule, passes
        self.did: dict[str, Any] | None = None

    def run(self, body: Callable[[], Any]) -> Any:
        """Call the body. An awaitable is given back as it came: `arun` awaits it. Raises OutputRefused, and what the body raises."""
        instead: BaseException | None
        try:
            output = body()
        except BaseException as error:
            instead = self._instead(error)
            if instead is None:
                raise
        else:
            output, instead = self._given(output)
        if instead is not None:
            raise instead
        return output

    async def arun(self, output: Awaitable[Any]) -> Any:
        """Await what `run` gave."""
        instead: BaseException | None
        try:
            output = await output
        except BaseException as error:
            instead = self._instead(error)
            if instead is None:
                raise
        else:
            output, instead = self._given(output)
        if instead is not None:
            raise instead
        return output

    def _given(self, output: Any) -> tuple[Any, OutputRefused | None]:
        """What the caller gets, or what is raised."""
        kind = type(output)
        if hasattr(kind, "__await__"):
            return output, None
        if issubclass(kind, GeneratorType):
            return self._stream(output), None
        if issubclass(kind, AsyncGeneratorType):
            return self._astream(output), None
        return self._passed(self._rule.apply(output))

    def _passed(self, shaped: Shaped) -> tuple[Any, OutputRefused | None]:
        if shaped.refused:
            return None, OutputRefused(shaped.refused)
        self._note(sum(shaped.redacted.values()), shaped.truncated)
        return shaped.output, None

    def _note(self, redacted: int, truncated: bool = False) -> None:
        if redacted or truncated:
            was = self.did or {"redacted": 0, "truncated": False}
            self.did = {"redacted": was["redacted"] + redacted, "truncated": was["truncated"] or truncated}

    def _instead(self, error: BaseException) -> BaseException | None:
        """What is raised in an exception's place; None where it may be raised itself."""
        why = "" if self._passes(error) else self._rule.withhold(error)
        if not why:
            return None
        self._note(1)
        for kind in _INTERRUPTS:
            if issubclass(type(error), kind):
                return kind()
        name = type_name(error)
        return OutputRefused(why, failed=name if not self._rule.finds(name) else "an exception")

    # --- streams ------------------------------------------------------------------------------------------------------------------------

    def _stream(self, source: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        held, end = _Held(), None
        error: BaseException | None = None
        try:
            with closing(source):
                while held.add(next(source)):
                    pass
        except StopIteration as stop:
            end = stop.value
        except BaseException as failure:  # noqa: BLE001  # what came before it is handed out, and then it is raised
            error = failure
        items, instead = self._items(held)
        if end is not None and instead is None:
            end, instead = self._passed(self._rule.apply(end, part=True))
        for item in items:  # noqa: UP028  # `yield from` would hand on what the caller sends
            yield item
        if error is not None and instead is None:
            instead, error = self._instead(error) or error, None
        if instead is not None:
            raise instead
        return end

    async def _astream(self, source: AsyncGenerator[Any, Any]) -> AsyncGenerator[Any, Any]:
        held = _Held()
        error: BaseException | None = None
        try:
            async with aclosing(source):
                async for item in source:
                    if not held.add(item):
                        break
                item = None
        except BaseException as failure:  # noqa: BLE001
            error = failure
        items, instead = self._items(held)
        for given in items:
            yield given
        if error is not None and instead is None:
            instead, error = self._instead(error) or error, None
        if instead is not None:
            raise instead

    def _items(self, held: _Held) -> tuple[list[Any], BaseException | None]:
        """The items that the caller gets, and what is raised then."""
        items, instead = (None, OutputRefused(held.refused)) if held.refused else self._passed(self._rule.apply(held.items, stream=True))
        held.items = []
        return items or [], instead


class _Held:
    """The items of a stream, copied as they come: a body may put out one object again and again, changed."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.refused = ""
        self._walk = Walk(Paths(()), None, {})  # one for all items: it counts how much there is

    def add(self, item: Any) -> bool:
        """Take one more; false where it cannot be handed out, and so none of them."""
        try:
            self.items.append(self._walk.whole(item))
        except Unreadable as why:
            self.refused = str(why)
        except Exception:  # noqa: BLE001  # whatever somebody's object does when it is looked at
            self.refused = "it could not be looked into"
        return not self.refused
