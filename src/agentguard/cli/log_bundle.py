"""`agentguard log bundle`: everything about one execution in one file that a stranger can check."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from agentguard.cli.inputs import DEFAULT_HOME, HomeOption, JsonOption, existing_home
from agentguard.cli.log_common import counting, log_keys
from agentguard.cli.terminal import count, result, say
from agentguard.errors import InvalidInput


def bundle(
    execution: Annotated[str, typer.Argument(metavar="EXECUTION", help="The id of an execution, allowed or denied.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Where to; by default standard output.")] = None,
    disclose: Annotated[
        bool,
        typer.Option(
            "--disclose", help="Bring along the values behind the commitments: arguments, output, reasons, the initiator's words."
        ),
    ] = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Put the evidence of one execution into one file: the records of decision and outcome and of all that it stood on up to the root
    grant, of what people were asked and answered, and of rotations of the log's key, each with a proof that it is in the log; chain,
    policy, lock, public keys. Signed by the log's key (DSSE, in-toto). Where witnesses cosigned, their cosignatures come along.

    Whoever has the log's key checks it with `agentguard verify-bundle`, and needs nothing else. Without --disclose no value is in it;
    with it the decision can be run again. What was disclosed cannot be taken back: erasing does not reach copies.

    Example: `agentguard log bundle EXECUTION --disclose --out call.bundle`
    """
    from agentguard.cli.trust import ring_of, trust_of
    from agentguard.dsse import seal
    from agentguard.evidence_bundle.contents import MAX_BUNDLE
    from agentguard.evidence_bundle.making import make_bundle
    from agentguard.log.layout import replace_file

    ring, keys = ring_of(existing_home(home)), log_keys(home, None)
    signer = ring.log()
    with counting("reading the log") as progress:
        made = make_bundle(home, execution, keys, trust_of(home), disclose=disclose, progress=progress)
    data = seal(made.payload(), signer)
    if len(data) > MAX_BUNDLE:
        raise InvalidInput(f"the bundle would have {len(data)} bytes, at most {MAX_BUNDLE} are read", hint="leave out --disclose")
    if out is None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        try:
            replace_file(out, data)
        except OSError as error:
            raise InvalidInput(f"cannot be written: {error.strerror}", place=str(out)) from None
        kinds, records = [one.kind for one in made.disclosed or ()], len(made.proofs) + len(made.rotations)
        answer = {"execution": execution, "file": str(out), "bytes": len(data), "records": records, "disclosed": kinds}
        values = f"disclosed: {', '.join(kinds) or 'nothing'}"
        result(as_json, answer, lambda console: say(console, f"{out}: {count(records, 'record')}, {values}"))
