"""The command itself: what verbs there are, and the one place that turns what they raise into exit codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from agentguard.cli import exits
from agentguard.cli.approvals import app as approvals_app
from agentguard.cli.artifact import app as artifact_app
from agentguard.cli.check import check
from agentguard.cli.demo import demo
from agentguard.cli.doctor import doctor
from agentguard.cli.init import init
from agentguard.cli.lineage import lineage
from agentguard.cli.log import app as log_app
from agentguard.cli.observe import observe
from agentguard.cli.policy import app as policy_app
from agentguard.cli.stop import stop
from agentguard.cli.tools import app as tools_app
from agentguard.cli.verify_bundle import verify_bundle


class Cli(TyperGroup):
    """The root group. Its `main` is where every way of calling the command line meets: console script, `python -m`, tests."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = "agentguard",
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError, ValueError):  # a stream of a test, or one that was read from already
                stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # TextIOWrapper has it, and suppress the rest
        run = super().main
        code = exits.guarded(lambda: run(args, prog_name, complete_var, False, windows_expand_args, **extra))
        if standalone_mode:
            sys.exit(code)
        return code


app = typer.Typer(
    name="agentguard",
    cls=Cli,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="A firewall between AI agents and their tools: no call without a signed grant, a policy that permits it, and durable evidence.\n\n"
    "**Start here:** `agentguard init && python example.py`, then `agentguard lineage` and `agentguard log verify`.",
    epilog="Exit codes: 0 done or allowed, 1 failure (damage found, not available), 2 denied or ask, 3 invalid input or usage.",
)


def _version(wanted: bool) -> None:
    if wanted:
        from agentguard.environment import version

        print(f"agentguard {version()}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")] = False,
) -> None:
    """Options of the command as a whole."""


app.command("demo")(demo)
app.command("init")(init)
app.command("observe")(observe)
app.add_typer(policy_app, name="policy")
app.add_typer(artifact_app, name="artifact")
app.command("check")(check)
app.add_typer(tools_app, name="tools")
app.add_typer(approvals_app, name="approvals")
app.command("stop")(stop)
app.command("lineage")(lineage)
app.add_typer(log_app, name="log")
app.command("verify-bundle")(verify_bundle)
app.command("doctor")(doctor)


def main() -> None:
    """The console script."""
    typer.main.get_command(app).main()
