"""`agentguard log prove`: that a record is in the log, or that the log only grew; and the check of such a proof."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentguard.cli.exits import FAILED, complain, leave
from agentguard.cli.inputs import DEFAULT_HOME, HomeOption, JsonOption, read_bytes
from agentguard.cli.log_common import KeyOption, WitnessOption, counting, log_keys, witness_keys
from agentguard.cli.terminal import result, say
from agentguard.errors import InvalidInput

if TYPE_CHECKING:
    from rich.console import Console

    from agentguard.log.identity import LogKeys
    from agentguard.log.proofs import Proven

_INDEX = re.compile(r"0|[1-9][0-9]{0,15}")


def prove(
    what: Annotated[
        str | None, typer.Argument(metavar="EXECUTION|INDEX", help="The id of an execution, or the number of a record in its shard.")
    ] = None,
    outcome: Annotated[bool, typer.Option("--outcome", help="Prove its outcome instead of its decision.")] = False,
    shard: Annotated[
        str | None, typer.Option("--shard", metavar="ID", help="Which shard INDEX or CHECKPOINT is about, if there are several.")
    ] = None,
    since: Annotated[
        Path | None,
        typer.Option(
            "--since", metavar="CHECKPOINT", help="Prove that the log only grew since this checkpoint, a file. No EXECUTION then."
        ),
    ] = None,
    check: Annotated[
        str | None,
        typer.Option("--check", metavar="FILE", help="Check a proof instead (`-`: standard input). One of growth needs --since too."),
    ] = None,
    record: Annotated[
        str | None,
        typer.Option("--record", metavar="FILE", help="With --check: the record's bytes, if the proof does not bring them along."),
    ] = None,
    witness: WitnessOption = None,
    key: KeyOption = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Prove that a record is in the log, as text that anybody can check offline: a C2SP tlog-proof (the record, its index, the audit path,
    the signed checkpoint, with cosignatures of witnesses where there are any).

    With --since CHECKPOINT prove instead that all that was there then is there still, unchanged: a consistency proof, in the form in which
    witnesses take it.

    With --check FILE nothing but the log's key is needed, which `--key KEY` gives, and no home. Exit 1 if the proof does not hold.

    Example: `agentguard log prove EXECUTION > decision.tlog-proof`, elsewhere `agentguard log prove --check decision.tlog-proof --key KEY`
    """
    if check is not None:
        if what is not None:
            raise InvalidInput("--check needs no EXECUTION: the proof says what it proves")
        old = _one(since, shard)[1] if since is not None else None
        _check(check, old, read_bytes(record) if record is not None else None, log_keys(home, key), witness, as_json)
        return
    if witness or key or record:
        raise InvalidInput("--witness, --record and --key are for --check", hint="the log's own key is in the home")
    keys = log_keys(home, None)
    if since is not None:
        if what is not None:
            raise InvalidInput("either EXECUTION, or --since CHECKPOINT")
        answer = _growth(home, keys, since, shard)
    elif what is not None:
        answer = _inclusion(home, keys, *_find(home, what, shard, "outcome" if outcome else "decision"))
    else:
        raise InvalidInput("what is to be proven?", hint="an EXECUTION, an INDEX, or --since CHECKPOINT")
    text = answer.pop("text")
    result(as_json, answer, lambda out: print(text, end=""))


def _find(home: Path, what: str, shard: str | None, kind: str) -> tuple[str, int, bytes]:
    """(shard, index, record) of what is to be proven."""
    from agentguard.log import read_record, read_shards
    from agentguard.reading.index import Index

    if _INDEX.fullmatch(what):
        shards = read_shards(home)
        if shard is None and len(shards) != 1:
            raise InvalidInput(f"the log has {len(shards)} shards", place="--shard", hint=f"one of {', '.join(shards) or 'none'}")
        chosen = shard if shard is not None else shards[0]
        if chosen not in shards:
            raise InvalidInput(f"there is no shard {chosen!r:.40}", place="--shard", hint=f"one of {', '.join(shards) or 'none'}")
        return chosen, int(what), read_record(home, chosen, int(what))
    with Index(home) as index:
        row = next((row for row in index.execution(what) if row.type == kind), None)
    if row is None:
        raise InvalidInput(f"there is no {kind} of an execution {what!r:.80}", place=str(home))
    return row.shard, row.number, read_record(home, row.shard, row.number, segment=row.segment, offset=row.offset)


def _inclusion(home: Path, keys: LogKeys, shard: str, index: int, record: bytes) -> dict[str, Any]:
    from agentguard.log.checkpoint import parse_checkpoint, parse_note, to_base64
    from agentguard.log.proofs import prove_inclusion

    with counting("reading the log") as progress:
        proof = prove_inclusion(home, shard, index, keys, record, progress)
    return {
        "shard": shard,
        "index": index,
        "size": parse_checkpoint(parse_note(proof.checkpoint).text).size,
        "record": proof.record.decode("utf-8") if proof.record is not None else None,
        "path": [to_base64(item) for item in proof.path],
        "checkpoint": proof.checkpoint.decode("utf-8"),
        "text": proof.format().decode("utf-8"),
    }


def _growth(home: Path, keys: LogKeys, since: Path, shard: str | None) -> dict[str, Any]:
    from agentguard.log.checkpoint import open_checkpoint_by, parse_checkpoint, parse_note, to_base64
    from agentguard.log.manifest import all_keys
    from agentguard.log.proofs import prove_growth

    chosen, note = _one(since, shard)
    origin = keys.origin(chosen)
    try:
        old, _ = open_checkpoint_by(note, all_keys(home, keys).keys, origin)
    except InvalidInput as error:
        raise InvalidInput(error.message, place=str(since)) from None
    with counting("reading the log") as progress:
        growth = prove_growth(home, chosen, old.size, old.root, keys, progress)
    return {
        "shard": chosen,
        "old": growth.old,
        "size": parse_checkpoint(parse_note(growth.checkpoint).text).size,
        "path": [to_base64(item) for item in growth.path],
        "checkpoint": growth.checkpoint.decode("utf-8"),
        "text": growth.format().decode("utf-8"),
    }


def _one(file: Path, shard: str | None) -> tuple[str, bytes]:
    """The one checkpoint of a file that is meant, and its shard."""
    from agentguard.log.checkpoint import parse_checkpoint, parse_note, split_notes

    found = []
    for note in split_notes(read_bytes(str(file))):
        try:
            named = parse_checkpoint(parse_note(note).text).origin.rpartition("/")[2]
        except InvalidInput as error:
            raise InvalidInput(error.message, place=str(file)) from None
        if shard in (None, named):
            found.append((named, note))
    if len(found) != 1:
        raise InvalidInput(f"{len(found)} checkpoints in it are meant, needed is one", place=str(file), hint="--shard ID says which")
    return found[0]


def _check(file: str, old: bytes | None, record: bytes | None, keys: LogKeys, witness: list[str] | None, as_json: bool) -> None:
    from agentguard.log.proofs import check_growth, check_inclusion
    from agentguard.log.tlog_proof import MAX_PROOF

    data = read_bytes(file, MAX_PROOF)
    witnesses = witness_keys(witness)
    try:
        proven = check_inclusion(data, keys, witnesses, record) if old is None else check_growth(data, old, keys, witnesses)
    except InvalidInput as error:
        complain(f"{file}: not proven: {error.message}")
        leave(FAILED)
    answer = {
        "proven": True,
        "origin": proven.checkpoint.origin,
        "size": proven.checkpoint.size,
        "index": proven.index,
        "record": _record(proven.record),
        "witnesses": [{"name": name, "time": seconds} for name, seconds in proven.witnesses],
    }
    result(as_json, answer, lambda out: _say(out, proven))


def _record(record: bytes | None) -> Any:
    try:
        return json.loads(record) if record is not None else None
    except ValueError:
        return None


def _say(out: Console, proven: Proven) -> None:
    from agentguard.reading.lineage_show import when

    size = f"{proven.checkpoint.size} records of {proven.checkpoint.origin}"
    if proven.index is None:
        say(out, ("proven", "good"), f": the log only grew, to {size}")
    else:
        say(out, ("proven", "good"), f": record {proven.index} of {size}")
    for name, seconds in proven.witnesses:
        say(out, f"cosigned by {name}, {when(seconds * 10**9)}")
    if proven.record is not None:
        text = proven.record.decode("utf-8", "replace")
        print("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text))
