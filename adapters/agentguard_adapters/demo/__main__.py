"""`python -m agentguard_adapters.demo [STORY]`: the demo, or the demo of a changed copy of story.py."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from agentguard_adapters.demo import STORY, run

if __name__ == "__main__":
    sys.exit(not run(console=Console(highlight=False), story=Path(sys.argv[1]) if len(sys.argv) > 1 else STORY).ok)
