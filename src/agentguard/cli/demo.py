"""`agentguard demo`: a real multi-agent run, attacked, without the guard and with it. The demo itself is in `agentguard_adapters.demo`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from agentguard.cli.exits import FAILED, leave
from agentguard.cli.inputs import JsonOption
from agentguard.cli.terminal import print_json
from agentguard.errors import AgentguardError, InvalidInput

if TYPE_CHECKING:
    from rich.console import Console

#: A pipe has no width. The demo is prose and tables, made for 80 columns and more.
_PIPED: Final = 100


def demo(
    keep: Annotated[
        Path | None, typer.Option("--keep", metavar="DIR", help="Leave the guard's .agentguard in DIR, to look at afterwards.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", metavar="PROVIDER:NAME", help="Use this chat model of LangChain instead of the scripted one; it needs its key."
        ),
    ] = None,
    home: Annotated[
        Path | None,
        typer.Option("--home", metavar="DIR", help="Leave the guard's home as DIR itself; without it and --keep it is removed."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Watch agents being attacked: the same program without the guard and with it, then every condition on which a call must not run.

    A deepagents orchestrator with two sub-agents reads documents that hold injections, and posts to real HTTP servers on loopback, one
    of which plays the attacker's. Exit 0 only if everything went as claimed. Nothing is left outside of a temporary directory, which is
    gone at the end. It needs `pip install 'agentguard[demo]'`, no key, and no network unless --model is given.

    Example: `agentguard demo --keep here && agentguard lineage --home here/.agentguard`
    """
    if keep is not None and home is not None:
        raise InvalidInput("give one of them", place="--keep, --home")
    left = keep / ".agentguard" if keep is not None else home
    result = _play()(console=_console(quiet=as_json), keep=left, model=model)
    if as_json:
        print_json(result.to_json())
    if not result.ok:
        leave(FAILED)


def _play() -> Any:
    """The demo is part of the adapters and needs their frameworks, so it is imported here, by name. Raises AgentguardError."""
    try:
        return importlib.import_module("agentguard_adapters.demo").run
    except ImportError as error:
        raise AgentguardError(f"the demo needs deepagents and httpx ({error}): pip install 'agentguard[demo]'") from None


def _console(*, quiet: bool) -> Console:
    from rich.console import Console

    width = None if sys.stdout.isatty() else _PIPED
    return Console(file=sys.stdout, quiet=quiet, highlight=False, markup=False, emoji=False, width=width)
