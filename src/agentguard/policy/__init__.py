"""The policy language: how a file is read, and what it says about a call (DESIGN §6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from agentguard.policy.model import Policy


def load(source: str | Path) -> Policy:
    """Read and compile a policy from a path, or from its text (a string that holds a line end or starts with `{`).

    Raises InvalidInput for everything that is wrong with it; the place is "file:line:column".
    """
    from agentguard.policy.compile import compile_source  # YAML and pydantic cost 0.1 s to import, which `import agentguard` must not

    return compile_source(source)
