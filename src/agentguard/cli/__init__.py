"""The command line: one file a verb. `agentguard --help` lists them (docs/cli.md)."""

from agentguard.cli.root import app, main

__all__ = ["app", "main"]
