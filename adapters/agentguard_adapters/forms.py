"""A tool with two forms, sync and async: registered once, with a stand-in for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from agentguard import Guard
from agentguard.tools.integrity import register
from agentguard_adapters.stand_in import stand_in


def stand_ins(
    guard: Guard,
    sync_form: Callable[..., Any] | None,
    async_form: Callable[..., Any] | None,
    *,
    name: str,
    injected: tuple[str, ...] = (),
    schema: Mapping[str, Any] | None = None,
    pauses: tuple[str, ...] = (),
) -> tuple[Callable[..., Any] | None, Callable[..., Any] | None]:
    """Stand-ins that raise denials, for the forms that there are; at least one.

    name, injected, schema, pauses   as in `agentguard.tools.integrity.register`
    """
    if sync_form is not None and async_form is not None:
        tool = guard.register(register(sync_form, name=name, injected=injected, schema=schema, twins=(async_form,), pauses=pauses))
        return stand_in(guard, sync_form, tool=tool, on_deny="raise"), stand_in(guard, async_form, tool=tool, on_deny="raise")
    given = sync_form if sync_form is not None else async_form
    if given is None:
        raise ValueError(f"the tool {name!r} has no form")
    made = stand_in(guard, given, name=name, injected=injected, schema=schema, pauses=pauses, on_deny="raise")
    return (made, None) if sync_form is not None else (None, made)
