"""Which version of its framework an adapter needs: said at import, before anything fails in a way that nobody understands.

    with needs("openai-agents", "0.24"):
        from agents import Agent, RunHooks

A framework that is missing, too old, or broken is an ImportError that says what was found, what is needed, and the command that brings it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata

#: Release numbers, and what makes it older than the release: PEP 440, but for epochs, which no framework has.
_VERSION = re.compile(r"v?(\d+(?:\.\d+)*)(?:[-_.]?(a|b|c|rc|alpha|beta|pre|preview|dev)[-_.]?\d*)?", re.IGNORECASE)


@contextmanager
def needs(distribution: str, at_least: str, *, extra: str | None = None) -> Iterator[None]:
    """Imports inside the block need `distribution`, in version `at_least` or a later one.

    extra   the extra of agentguard that brings it; by default it has the distribution's name
    """
    command = f"pip install 'agentguard[{extra or distribution}]'"
    needed = f"this adapter needs {distribution} {at_least} or later"
    try:
        found = metadata.version(distribution)
    except metadata.PackageNotFoundError:
        raise ImportError(f"{needed}, which is not installed: {command}", name=distribution) from None
    if _key(found) < _key(at_least):
        raise ImportError(f"{needed}, and {found} is installed: {command}", name=distribution)
    try:
        yield
    except ImportError as error:
        raise ImportError(f"{needed}, and {found} cannot be imported ({error}): {command}", name=error.name) from error


def _key(version: str) -> tuple[tuple[int, ...], bool]:
    """What orders versions: the release, without zeros at its end; before it, its pre-releases."""
    match = _VERSION.match(version)
    if match is None:
        return (), False
    release = [int(part) for part in match[1].split(".")]
    while release and release[-1] == 0:
        release.pop()
    return tuple(release), match[2] is None
