"""Authority that travels with a message: the chain, and for each call the holder's proof (draft §7.4), under one key of its metadata."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from agentguard import Code, Guard, ToolCall
from agentguard.artifacts.chain import ChainError, Limits, PrefixCache, VerifiedChain, verify_structure
from agentguard.artifacts.proof import make_proof
from agentguard.canonical import freeze
from agentguard.context import current_task
from agentguard.decision import Reason, Stage
from agentguard.enforcement import NOBODY
from agentguard.keys import Signer
from agentguard.task import Task

__all__ = ["KEY", "Holding", "presented", "under"]

#: Under which member of a message's metadata the presentation stands.
KEY: Final = "agentguard"
_prefixes: Final = PrefixCache()


class Holding:
    """A task whose key is in this process, and its verified chain: what can be shown elsewhere. Raises Denied where there is none."""

    def __init__(self, guard: Guard, task: Task | None, tool: str) -> None:
        reason = Reason(Code.ARTIFACT_MISSING, tool, "a task whose chain and key are here", "none")
        if task is not None and not task.closed and task.issue().key is not None:
            self.task: Task = task
            self.key: Signer = task.key  # type: ignore[assignment]  # issued, so it is what was just looked at
            try:
                self.chain: VerifiedChain = verify_structure(task.tokens or (), guard.home.trust.anchors, Limits(), cache=_prefixes)
            except ChainError as error:
                reason = error.reason()
            else:
                return
        call = ToolCall(task.agent if task is not None else NOBODY, tool, {})
        raise guard.refuse(call, Stage.PRESENCE, reason, task=task)

    def proof(self, tool: str, arguments: Mapping[str, Any], audience: str) -> str:
        """The holder's proof for one call."""
        frozen = {name: freeze(value) for name, value in arguments.items()}
        return make_proof(self.key, self.chain.leaf, tool, frozen, int(time.time()), aud=audience)


@contextmanager
def under(guard: Guard, metadata: Mapping[str, Any], agent: str | None, task: Task | None) -> Iterator[tuple[str | None, Task | None]]:
    """Who calls, and by which authority: what the metadata of the call shows, or else `agent` and `task`. What was shown is current inside,
    so that nothing there falls back on an authority of this process.
    """
    if KEY not in metadata:
        yield agent, task
        return
    own = guard.accept(metadata[KEY])
    token = current_task.set(own)
    try:
        yield own.agent, own
    finally:
        current_task.reset(token)
        own.close()  # what the call leaves running has no authority


def presented(guard: Guard, task: Task | None, tool: str, arguments: Mapping[str, Any], audience: str) -> dict[str, Any]:
    """The presentation of one call, to be carried to the guard that is known as `audience`: good once, for that guard and that call."""
    held = Holding(guard, task, tool)
    return held.task.presentation(held.proof(tool, arguments, audience))
