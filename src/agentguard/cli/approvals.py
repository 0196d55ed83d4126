"""`agentguard approvals list|show|approve|deny`: what waits for a human, and the answers. One file a verb."""

from __future__ import annotations

import typer

from agentguard.cli import approvals_approve, approvals_deny, approvals_list, approvals_show

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Answer what agents may not do without a human. A request is about one exact call; its id stands for all that `show` prints.\n\n"
    "Example: `agentguard approvals list`, `agentguard approvals show ID`, `agentguard approvals approve ID --as user:carol`",
)
app.command("list")(approvals_list.list_)
app.command("show")(approvals_show.show)
app.command("approve")(approvals_approve.approve)
app.command("deny")(approvals_deny.deny)
