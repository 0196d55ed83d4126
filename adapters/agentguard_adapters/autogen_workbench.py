"""Guarded workbenches for AutoGen (autogen-core 0.7)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from agentguard import InvalidInput
from agentguard_adapters.autogen_tools import TOKEN, Caller, Guarded, guard_all
from agentguard_adapters.versions import needs

with needs("autogen-core", "0.7.5", extra="autogen"):
    from autogen_core.tools import StaticWorkbench, TextResultContent, ToolResult, Workbench


def guard_workbench(caller: Caller, workbench: Workbench) -> Workbench:
    """A workbench with guarded tools: the same one where it holds tool objects, else one that stands for it."""
    if isinstance(workbench, StaticWorkbench):
        others = {tool.caller.agent for tool in workbench._tools if isinstance(tool, Guarded)} - {caller.agent}
        if others:
            raise InvalidInput(f"the workbench is guarded for {sorted(others)[0]!r} already", hint="give each agent one of its own")
        workbench._tools = guard_all(caller, workbench._tools)
        return workbench
    return GuardWorkbench(caller, workbench.inner if isinstance(workbench, GuardWorkbench) else workbench)


class GuardWorkbench(Workbench):
    """Stands for a workbench that holds no tool objects, such as one over MCP: its calls are judged as it gets them."""

    def __init__(self, caller: Caller, inner: Workbench) -> None:
        self.caller, self.inner = caller, inner
        self._schemas: dict[str, Any] = {}
        self._stands: dict[str, tuple[Any, Callable[..., Any]]] = {}

    async def list_tools(self) -> Any:
        listed = await self.inner.list_tools()
        self._schemas = {schema["name"]: schema for schema in listed}
        return listed

    async def call_tool(
        self, name: str, arguments: Mapping[str, Any] | None = None, cancellation_token: Any = None, call_id: str | None = None
    ) -> ToolResult:
        try:
            if name not in self._schemas:
                await self.list_tools()
            with self.caller.judging(name, call_id, arguments):
                given = arguments or {}
                if not isinstance(given, Mapping):
                    raise InvalidInput("the arguments must be an object")
                stand = self._stand({"name": name, **self._schemas.get(name, {})})
                return ToolResult.model_validate(await stand(**{**given, TOKEN: (cancellation_token, call_id)}))
        except Exception as error:  # noqa: BLE001  # an exception from a workbench would hang the run
            return ToolResult(name=name, result=[TextResultContent(content=str(error))], is_error=True)

    def _stand(self, schema: dict[str, Any]) -> Callable[..., Any]:
        """Raises InvalidInput where the schema is no longer the one that was pinned."""
        known = self._stands.get(schema["name"])
        if known is None or known[0] != schema:
            call_tool, name = self.inner.call_tool, schema["name"]

            async def body(*, agentguard_token: Any, **arguments: Any) -> Any:
                return (await call_tool(name, arguments, *agentguard_token)).model_dump(mode="json")

            known = self._stands[name] = (schema, self.caller.stand_in(body, schema, TOKEN))
        return known[1]

    async def start(self) -> None:
        await self.inner.start()

    async def stop(self) -> None:
        await self.inner.stop()

    async def reset(self) -> None:
        await self.inner.reset()

    async def save_state(self) -> Any:
        return await self.inner.save_state()

    async def load_state(self, state: Mapping[str, Any]) -> None:
        await self.inner.load_state(state)

    def _to_config(self) -> NoReturn:
        raise InvalidInput("a guarded workbench cannot be written out: it would come back without its guard")
