"""Adapters: one file a framework. Each turns the framework's tool calls into calls that the guard judges, and does nothing else.

    langchain_core   guard_tools(guard, tools)
    langchain        create_agent(model, tools, middleware=[..., GuardMiddleware(guard, agent="triage")]), deepagents too
    langgraph        guard_tool_node(guard, tools, agent="triage"); acting_as for nodes of one's own

Nothing is imported here, so that a framework which is not installed is not missed. docs/adapters.md says how to use each, and what stays
out of its reach.
"""
