"""`python -m agentguard_adapters.demo [STORY]`: the demo, or the demo of a changed copy of story.py."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from agentguard.cli.exits import DONE, FAILED, guarded
from agentguard_adapters.demo import STORY, run


def main() -> int:
    """Play it, and give the exit code."""
    story = Path(sys.argv[1]) if len(sys.argv) > 1 else STORY
    return DONE if run(console=Console(highlight=False), story=story).ok else FAILED


if __name__ == "__main__":
    sys.exit(guarded(main))
