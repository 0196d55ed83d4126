"""`agentguard log verify|key|checkpoint|prove|accept-clock`: the evidence, and whether it is genuine."""

from __future__ import annotations

import base64
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentguard.cli.exits import FAILED, leave
from agentguard.cli.inputs import DEFAULT_HOME, ByOption, HomeOption, JsonOption, ReasonOption, existing_home, operator
from agentguard.cli.terminal import count, result, say, table
from agentguard.errors import InvalidInput

if TYPE_CHECKING:
    from rich.console import Console

    from agentguard.keys import PublicKey
    from agentguard.log import VerifyReport

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Verify the log, print its key and its checkpoints, prove that an execution is in it.\n\nExample: `agentguard log verify`",
)

KeyOption = Annotated[
    str | None,
    typer.Option("--key", metavar="KEY", help="The log's verifier key, as `log key` prints it; by default that of the home itself."),
]


def _public(home: Path, given: str | None) -> PublicKey:
    """The key to verify with. A stranger brings it along; the owner's own is in the home. Raises InvalidInput."""
    from agentguard.checkpoint import parse_verifier_key
    from agentguard.keys import LocalKey
    from agentguard.log import log_name

    if given is None:
        return LocalKey.load(existing_home(home) / "keys" / "log.pem").public
    name, public = parse_verifier_key(given)
    if not (name == log_name(public) or name.startswith(f"{log_name(public)}/")):
        raise InvalidInput(f"the key is named {name!r:.80}, not {log_name(public)}", place="--key")
    return public


@app.command("verify")
def verify(key: KeyOption = None, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Read the whole log and check all that can be checked: every byte, record, root, signature, and the heads remembered outside of it.

    Exit 1 if anything is damaged, missing or rewritten; each finding names file and byte. Warnings, such as a call whose outcome nobody
    recorded, are for people to look at. Nothing but the public key is trusted, so a copy of the home is enough: `--key KEY`.

    Example: `agentguard log verify`
    """
    from agentguard.log import verify as verify_log

    public = _public(home, key)
    with _progress("verifying the log"):
        report = verify_log(home, public)
    result(as_json, report.to_json(), lambda out: _say_report(out, report))
    if not report.ok:
        leave(FAILED)


def _progress(what: str) -> Any:
    """A spinner on standard error, where somebody watches."""
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(f"{what}…")


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


@app.command("key")
def key(
    shards: Annotated[bool, typer.Option("--shards", help="Print it as a key for each shard's checkpoints, one a line.")] = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Print the log's verifier key (C2SP signed-note form). Give it to whoever is to verify, over a way that they trust.

    It is one key. Notes carry the name of what was signed, so other tools may want it under the origin of a shard: --shards.

    Example: `agentguard log key`
    """
    from agentguard.checkpoint import verifier_key
    from agentguard.log import log_name, origin_of, read_shards

    public = _public(home, None)
    text = verifier_key(log_name(public), public)
    each = {shard: verifier_key(origin_of(public, shard), public) for shard in read_shards(home)}
    answer = {"key": text, "shards": each, "jwk": public.jwk(), "thumbprint": public.thumbprint()}
    result(as_json, answer, lambda out: print("\n".join(each.values()) if shards else text))


@app.command("checkpoint")
def checkpoint(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Print the newest signed checkpoint of every shard: a C2SP note each. Whoever keeps them will notice when the log is cut later.

    Example: `agentguard log checkpoint > heads.txt`
    """
    from agentguard.log.heads import read_head, remembered

    public = _public(home, None)
    heads = [(shard, head) for shard in remembered(home) if (head := read_head(home, shard, public)) is not None]
    answer = [{"shard": shard, "size": head.size, "root": head.root.hex(), "note": head.note.decode()} for shard, head in heads]
    result(as_json, {"checkpoints": answer}, lambda out: print("\n".join(head.note.decode() for _, head in heads), end=""))


@app.command("prove")
def prove(
    execution: Annotated[str, typer.Argument(metavar="EXECUTION", help="The id of an execution.")],
    outcome: Annotated[bool, typer.Option("--outcome", help="Prove its outcome instead of its decision.")] = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Prove that the decision about an execution is in the log: a C2SP tlog-proof (index, audit path, signed checkpoint).

    With --json the record's exact bytes come along; its RFC 6962 leaf hash is what the path leads from.

    Example: `agentguard log prove EXECUTION > decision.tlog-proof`
    """
    public = _public(home, None)
    answer = _prove(home, execution, "outcome" if outcome else "decision", public)
    hashes = "".join(f"{item}\n" for item in answer["path"])
    text = f"c2sp.org/tlog-proof@v1\nindex {answer['index']}\n{hashes}\n{answer['checkpoint']}"
    result(as_json, answer, lambda out: print(text, end=""))


def _prove(home: Path, execution: str, kind: str, public: PublicKey) -> dict[str, Any]:
    from agentguard.index import Index
    from agentguard.log import iter_records, read_record
    from agentguard.log.heads import read_head
    from agentguard.merkle import inclusion_proof, leaf_hash, verify_inclusion

    with Index(home) as index:
        row = next((row for row in index.execution(execution) if row.type == kind), None)
    if row is None:
        raise InvalidInput(f"there is no {kind} of an execution {execution!r:.80}", place=str(home))
    record = read_record(home, row.shard, row.number, segment=row.segment, offset=row.offset)
    head = read_head(home, row.shard, public)
    if head is None or head.size <= row.number:
        raise InvalidInput(
            "no signed checkpoint covers this record yet", place=f"shard {row.shard}", hint="the guard signs one when it closes"
        )
    leaves = [leaf_hash(data) for _, number, data in iter_records(home, row.shard) if number < head.size]
    path = inclusion_proof(leaves, row.number)
    if not verify_inclusion(leaf_hash(record), row.number, head.size, path, head.root):
        raise InvalidInput(
            "the record is not under the remembered head", place=f"shard {row.shard}", hint="agentguard log verify says more"
        )
    return {
        "execution": execution,
        "kind": kind,
        "shard": row.shard,
        "index": row.number,
        "size": head.size,
        "record": record.decode("utf-8"),
        "path": [base64.b64encode(item).decode("ascii") for item in path],
        "checkpoint": head.note.decode("utf-8"),
    }


@app.command("accept-clock")
def accept_clock(by: ByOption = None, reason: ReasonOption = "", home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Accept a wall clock that is behind the log's last checkpoint. Until then every call is denied with `clock_unreliable`.

    First make sure that the clock is right now: whoever can set it back can make an expired artifact look valid. It is recorded, with who
    accepted it.

    Example: `agentguard log accept-clock --reason "battery was empty, NTP is back"`
    """
    from agentguard import control
    from agentguard.environment import Clock
    from agentguard.home import Home
    from agentguard.ledger import Ledger

    who = operator(by)
    with Home(existing_home(home)) as opened:
        behind = Clock(floor=control.clock_floor(opened)).unreliable
        if behind:
            control.accept_clock(opened, Ledger(opened, Clock()), by=who, reason=reason)
    answer = {"accepted": bool(behind), "was": behind or "at or after the last checkpoint", "by": who, "reason": reason}
    words = f"accepted a clock {behind}, by {who}" if behind else "the clock is not behind: there is nothing to accept"
    result(as_json, answer, lambda out: say(out, words))
