"""`agentguard log …`: the evidence. One file a verb; here they get their names."""

from __future__ import annotations

import typer

from agentguard.cli import (
    log_bundle,
    log_clock,
    log_erase,
    log_export,
    log_index,
    log_key,
    log_prove,
    log_query,
    log_retain,
    log_rotate,
    log_tiles,
    log_verify,
    log_witness,
)

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Verify the log, search and export it, print its key and its checkpoints, prove what is in it, publish it, have it witnessed.\n\n"
    "Example: `agentguard log verify`",
)

app.command("verify")(log_verify.verify)
app.command("key")(log_key.key)
app.command("checkpoint")(log_key.checkpoint)
app.command("accept-clock")(log_clock.accept_clock)
app.command("query")(log_query.query)
app.command("index")(log_index.index)
app.command("export")(log_export.export)
app.command("erase")(log_erase.erase)
app.command("retain")(log_retain.retain)
app.command("prove")(log_prove.prove)
app.command("bundle")(log_bundle.bundle)
app.command("tiles")(log_tiles.tiles)
app.command("rotate-key")(log_rotate.rotate_key)
app.add_typer(log_witness.app, name="witness")
