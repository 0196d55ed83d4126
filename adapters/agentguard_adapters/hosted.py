"""Tools that run at a model's provider, web search and the like: no hook sees their calls. They stand in a model's options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentguard import InvalidInput


def refuse_hosted(options: Mapping[str, Any] | None, *, accepted: bool) -> None:
    """Raise InvalidInput where a model's options, as OpenAI names them, ask its provider to run tools; not if they are `accepted`."""
    if accepted or not options:
        return
    hosted = [str(tool.get("type")) for tool in options.get("tools") or () if isinstance(tool, Mapping) and tool.get("type") != "function"]
    hosted += ["web search"] if options.get("web_search_options") else []
    if hosted:
        found = f"{', '.join(hosted):.80} runs at the model's provider, where the guard does not see its calls"
        raise InvalidInput(found, hint="remove it, or pass unsafe_provider_tools=True")
