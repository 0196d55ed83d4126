"""Semantic Kernel (semantic-kernel 1.45): one line guards an agent's kernel, and with it every function of its plugins.

    triage = guard_agent(guard, ChatCompletionAgent(name="triage", service=service, plugins=[...]))
    with guard.task("triage", initiator="user:alice"):
        await triage.get_response("...")

Without an agent: `guard_kernel(guard, kernel, agent="triage")`. The kernel itself is changed, and its clones are guarded too: what the
model calls, what `kernel.invoke`, `invoke_stream` and templates call, and functions that are added later. A filter may stand anywhere; the
decision falls behind all of them, in the function. What a filter answers in the place of a function, no guard sees. The policy names a
function by its own name, without the plugin's; `name=` says otherwise. Each agent has a kernel of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any

from agentguard import Guard, InvalidInput
from agentguard.task import Task
from agentguard_adapters.stand_in import OnDeny
from agentguard_adapters.versions import needs

with needs("semantic-kernel", "1.45"):
    from semantic_kernel import Kernel
    from semantic_kernel.agents import ChatCompletionAgent
    from semantic_kernel.functions import KernelFunctionFromMethod

    from agentguard_adapters.semantic_kernel_calls import Seat, seated

__all__ = ["guard_agent", "guard_kernel"]


def guard_agent(
    guard: Guard,
    assistant: Any,
    *,
    agent: str | None = None,
    task: Task | None = None,
    on_deny: OnDeny = "message",
    name: Callable[[Any], str] = attrgetter("name"),
    unsafe_provider_tools: bool = False,
) -> Any:
    """Guard a ChatCompletionAgent, in place, by its kernel, and give it back. As `guard_kernel`; by default under the name that it has.

    unsafe_provider_tools   let the model have tools that its provider runs, such as web search; the guard never sees their calls
    """
    if not isinstance(assistant, ChatCompletionAgent):
        raise InvalidInput(
            f"{type(assistant).__name__} may have tools that run at its provider", hint="guard_kernel guards those of its kernel"
        )
    found = "" if unsafe_provider_tools else next(_provider_tools(assistant), "")
    if found:
        raise InvalidInput(
            f"the tool {found} runs at the model's provider, where the guard does not see its calls",
            hint="remove it, or pass unsafe_provider_tools=True",
        )
    guard_kernel(guard, assistant.kernel, agent=agent or assistant.name, task=task, on_deny=on_deny, name=name)
    return assistant


def guard_kernel(
    guard: Guard,
    kernel: Kernel,
    *,
    agent: str,
    task: Task | None = None,
    on_deny: OnDeny = "message",
    name: Callable[[Any], str] = attrgetter("name"),
) -> Kernel:
    """Guard a kernel, in place, and give it back.

    agent     the name in the policy of the agent whose kernel it is
    task      the authority; by default the current task. Another agent's task is narrowed down, where the policy's `delegates` let it be
    on_deny   "message": the denial is the function's result, and the model goes on; "raise": Denied is raised, which ends the run;
              `kernel.invoke` makes a KernelInvokeException of it
    name      how the policy names a function; `attrgetter("fully_qualified_name")` is how the model does: plugin-function

    Raises InvalidInput where a function cannot be guarded, or the kernel is another agent's.
    """
    seat = Seat(guard, agent, task, on_deny, name)
    known = getattr(kernel, "_agentguard", None)
    if known is not None and (known.guard is not guard or known.agent != agent):
        raise InvalidInput(f"the kernel is guarded for {known.agent!r} already", hint="give each agent a kernel of its own: kernel.clone()")
    for plugin in kernel.plugins.values():
        for function in plugin.functions.values():
            if isinstance(function, KernelFunctionFromMethod):
                seat.stand_before(function)
    return seated(kernel, seat)


def _provider_tools(assistant: Any) -> Iterator[str]:
    """Tools in the settings that the model's provider runs."""
    every = (assistant.arguments.execution_settings or {}).values() if assistant.arguments is not None else ()
    for settings in every:
        asked = {**settings.extension_data, **settings.model_dump(include={"tools", "web_search_options"})}
        yield from ["web_search"] * (asked.get("web_search_options") is not None)
        yield from [str(tool.get("type")) for tool in asked.get("tools") or () if tool.get("type") not in (None, "function")]
