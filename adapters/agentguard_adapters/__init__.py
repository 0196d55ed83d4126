"""Adapters: one file a framework. Each turns the framework's tool calls into calls that the guard judges, and does nothing else.

langchain_core   guard_tools(guard, tools)
langchain        create_agent(model, tools, middleware=[..., GuardMiddleware(guard, agent="triage")]); deepagents too
langgraph        guard_tool_node(guard, tools, agent="triage"); acting_as for nodes of one's own

No framework is imported here, so that one which is not installed is not missed. docs/adapters.md says how to use each, and what stays out
of its reach.
"""


def missing(needed: str, extra: str, error: ImportError) -> ImportError:
    """What an adapter raises where its framework cannot be imported."""
    return ImportError(f"this adapter needs {needed} ({error}): pip install 'agentguard[{extra}]'", name=error.name)
