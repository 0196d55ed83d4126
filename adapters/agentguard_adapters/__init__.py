"""Adapters: one for each framework. Each turns the framework's tool calls into calls that the guard judges, and does nothing else.

    from agentguard_adapters.langchain import GuardMiddleware

No framework is imported here, so that one which is not installed is not missed. docs/adapters.md says how to use each, and what stays out
of its reach.
"""
