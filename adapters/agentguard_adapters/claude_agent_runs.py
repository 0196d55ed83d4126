"""Tools that run in the program of the Claude Agent SDK: an execution of the guard waits here for what the program tells of each."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from agentguard.errors import OutputRefused
from agentguard.permit import Permit


class ToolFailed(Exception):
    """A tool in the program failed; the words are the program's."""


class _Run(NamedTuple):
    """The execution, and where its end is told."""

    execution: asyncio.Task[Any]
    end: asyncio.Future[Any]


class Runs:
    """The tools of one session that the program runs, by call id."""

    def __init__(self) -> None:
        self._runs: dict[str, _Run] = {}

    async def begin(self, permit: Permit, call_id: str) -> None:
        """Use the permit up now, since the tool may take longer than a permit lives. Raises Denied where it does not hold any more."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # the SDK runs under trio as well
            permit.release()
            raise
        begun, end = loop.create_future(), loop.create_future()

        async def tool(**arguments: Any) -> Any:
            begun.set_result(None)
            return await end

        execution = asyncio.create_task(permit.arun(tool))
        self._runs[call_id] = _Run(execution, end)  # from here on `close` finds it
        await asyncio.wait([execution, begun], return_when=asyncio.FIRST_COMPLETED)
        if execution.done():
            del self._runs[call_id]
            execution.result()

    async def end(self, call_id: str, *, output: Any = None, error: ToolFailed | None = None, interrupted: bool = False) -> bool:
        """Record how a tool ended, before the program goes on with its output; whether it is one that began here.

        Raises OutcomeUnrecorded; and OutputRefused where the policy's rule for outputs would change it, since the program has it already.
        """
        run = self._runs.pop(call_id, None)
        if run is None:
            return False
        if interrupted:
            run.end.cancel()
        elif error is not None:
            run.end.set_exception(error)
        else:
            run.end.set_result(output)
        await asyncio.wait([run.execution])
        failed = None if run.execution.cancelled() else run.execution.exception()
        if failed is not None and failed is not error:
            raise failed
        if error is None and not interrupted and not run.execution.cancelled() and run.execution.result() != output:
            raise OutputRefused("the policy takes something out of it, and it cannot be changed any more")
        return True

    async def close(self) -> None:
        """The session is over: what still ran is recorded as cancelled."""
        executions = [run.execution for run in self._runs.values()]
        self._runs.clear()
        for execution in executions:
            execution.cancel()
        if executions:
            await asyncio.wait(executions)
