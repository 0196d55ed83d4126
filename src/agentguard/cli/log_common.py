"""What the `log` commands share: whose log it is, who witnesses it, and what is shown while a long one is read."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentguard.cli.inputs import existing_home
from agentguard.errors import InvalidInput

if TYPE_CHECKING:
    from agentguard.log.cosignature import WitnessKey
    from agentguard.log.identity import LogKeys

KeyOption = Annotated[
    str | None,
    typer.Option("--key", metavar="KEY", help="The log's verifier key, as `log key` prints it; by default that of the home itself."),
]
WitnessOption = Annotated[
    list[str] | None,
    typer.Option(
        "--witness", metavar="VKEY", help="A witness's verifier key: it must have cosigned, else it is an error. May be repeated."
    ),
]


def log_keys(home: Path, given: str | None) -> LogKeys:
    """The key to verify with. A stranger brings it along; the owner's own is in the home. Raises InvalidInput."""
    from agentguard.keys import KeyRing
    from agentguard.log.identity import parse_log_key
    from agentguard.log.manifest import keys_of

    if given is None:
        ring = KeyRing(existing_home(home) / "keys")
        current, following = ring.log_succession()
        return keys_of(home, (current if following is None else ring.log()).public)
    try:
        return parse_log_key(given)
    except InvalidInput as error:
        raise InvalidInput(error.message, place="--key", hint=error.hint) from None


def witness_keys(given: list[str] | None) -> list[WitnessKey]:
    """The witnesses that were asked for. Raises InvalidInput."""
    from agentguard.log.cosignature import WitnessKey

    try:
        return [WitnessKey.parse(text) for text in given or ()]
    except InvalidInput as error:
        hint = "name+key id+base64, as `agentguard log witness key` prints it"
        raise InvalidInput(error.message, place="--witness", hint=hint) from None


@contextmanager
def counting(what: str) -> Iterator[Callable[[int], None]]:
    """A line on standard error, where somebody watches, that says how many records were read."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console

    with Console(stderr=True).status(f"{what}…") as status:
        yield lambda number: status.update(f"{what}: {number:,} records…")
