"""`agentguard log verify`: whether the evidence is genuine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentguard.cli.exits import FAILED, leave
from agentguard.cli.inputs import DEFAULT_HOME, HomeOption, JsonOption, read_bytes
from agentguard.cli.log_common import KeyOption, WitnessOption, log_keys, witness_keys
from agentguard.cli.progress import bar
from agentguard.cli.terminal import count, result, say, table

if TYPE_CHECKING:
    from rich.console import Console

    from agentguard.log import VerifyReport


def verify(
    since: Annotated[
        list[Path] | None,
        typer.Option(
            "--since",
            metavar="CHECKPOINT",
            help="A file of checkpoints that somebody remembers: the log must have grown from each. May be repeated.",
        ),
    ] = None,
    witness: WitnessOption = None,
    key: KeyOption = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Read the whole log and check all that can be checked: every byte, record, root, signature, and the heads remembered outside of it.

    Exit 1 if anything is damaged, missing or rewritten; each finding names file and byte. Warnings, such as a call whose outcome nobody
    recorded, are for people to look at. Nothing but the public key is trusted, so a copy of the home is enough: `--key KEY`.

    What the files cannot tell is that all of them are an older copy. For that somebody else must remember: --since takes what
    `log checkpoint` printed once or `log witness fetch` prints now; with --witness, all that was submitted must be cosigned.

    Example: `agentguard log verify --since heads.txt`
    """
    from agentguard.log import verify as verify_log

    keys, witnesses = log_keys(home, key), witness_keys(witness)
    remembered = {str(file): read_bytes(str(file)) for file in since or ()}
    with bar("verifying the log") as progress:
        report = verify_log(home, keys, since=remembered, witnesses=witnesses, progress=progress)
    result(as_json, report.to_json(), lambda out: _say_report(out, report))
    if not report.ok:
        leave(FAILED)


def _say_report(out: Console, report: VerifyReport) -> None:
    rows = table("shard", "records", "checkpoints", "root", "")
    for shard in report.shards:
        rows.add_row(shard.shard, str(shard.size), str(shard.checkpoints), shard.root, "being written" if shard.live else "")
    out.print(rows)
    for finding in report.findings:
        place = finding.file if finding.offset is None else f"{finding.file}: byte {finding.offset}"
        word = (f"{finding.severity}: ", "bad" if finding.severity == "error" else "warn")
        say(out, word, f"{place}: {finding.message}", (f"  [{finding.kind}]", "dim"))
    errors = sum(finding.severity == "error" for finding in report.findings)
    warnings = len(report.findings) - errors
    if errors:
        say(out, ("NOT GENUINE", "bad"), f": {count(errors, 'error')}, {count(warnings, 'warning')} in {count(report.records, 'record')}")
    else:
        say(out, ("genuine", "good"), f": {count(report.records, 'record')}, {count(warnings, 'warning')}")
