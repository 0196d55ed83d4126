"""MCP, client and server, for both majors of the SDK (1.30 and 2.x): every `tools/call` passes the guard.

    guard_server(guard, server, agent="triage")     # a FastMCP (1.x) or MCPServer (2.x): each tool is guarded where it stands
    guard_session(guard, session, agent="triage")   # a ClientSession: each call is judged before it leaves the process

On the server the decision falls at the tool's function, on the arguments that it gets. In the client there is no function: a tool is
pinned as its server lists it, and a call is judged as it is sent, with the defaults that the schema names. Where client and server have
a guard each, the chain can travel in the request's `_meta` (`audience=`), and the server needs no authority of its own. Prompts and
resources are no tools.
"""

from __future__ import annotations

from agentguard_adapters.versions import needs

with needs("mcp", "1.23"):
    from agentguard_adapters.mcp_client import CALL_ID, guard_session
    from agentguard_adapters.mcp_server import guard_server

__all__ = ["CALL_ID", "guard_server", "guard_session"]
