"""One intended tool invocation, frozen (DESIGN §1)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from agentguard.canonical import Frozen, freeze
from agentguard.errors import InvalidInput

#: Names compare as bytes, so they are printable ASCII: no homoglyphs, no folding (PITFALLS "case and homoglyphs").
_NAME = re.compile(r"[!-~]{1,256}")
_EMPTY: Final[Mapping[str, Frozen]] = MappingProxyType({})


class ToolCall:
    """A tool call as presented: `ToolCall(agent, tool, arguments, call_id=None)`.

    The constructor never raises: a call that is not well-formed carries a `defect`, and the guard denies it with `malformed_call`.
    `arguments` is a private, deeply immutable copy, so nobody can change it between check and run.
    `proof` is the holder's PoP JWT where a call crosses a process boundary.
    """

    __slots__ = ("agent", "arguments", "call_id", "defect", "proof", "tool")

    agent: str
    tool: str
    arguments: Mapping[str, Frozen]
    call_id: str | None
    proof: str | None
    defect: str

    def __init__(self, agent: Any, tool: Any, arguments: Any, call_id: Any = None, *, proof: Any = None) -> None:
        defect = ""
        frozen: Mapping[str, Frozen] = _EMPTY
        for what, name in (("agent", agent), ("tool", tool)):
            if type(name) is not str or _NAME.fullmatch(name) is None:
                defect = defect or f"the {what} name must be 1 to 256 printable ASCII characters, found {name!r:.60}"
        if call_id is not None and (type(call_id) is not str or not 0 < len(call_id) <= 256 or not call_id.isprintable()):
            defect = defect or f"the call id must be 1 to 256 printable characters, found {call_id!r:.60}"
        if proof is not None and type(proof) is not str:
            defect = defect or "the proof must be a compact JWS string"
        if type(arguments) is not dict and type(arguments) is not MappingProxyType:
            defect = defect or f"the arguments must be an object, found {type(arguments).__name__}"
        elif not defect:
            try:
                frozen = freeze(arguments)
            except InvalidInput as error:
                defect = f"arguments: {error}"
        _fill(
            self,
            agent if type(agent) is str else "",
            tool if type(tool) is str else "",
            frozen,
            call_id if type(call_id) is str else None,
            proof if type(proof) is str else None,
            defect,
        )

    @classmethod
    def malformed(cls, agent: str, tool: str, defect: str) -> ToolCall:
        """A call that could not be read; the guard denies it with this defect."""
        return _made(agent, tool, _EMPTY, None, None, defect)

    def with_proof(self, proof: str) -> ToolCall:
        """The same call with the proof that travelled beside it."""
        return _made(self.agent, self.tool, self.arguments, self.call_id, proof, self.defect)

    def with_arguments(self, arguments: Mapping[str, Frozen], call_id: str) -> ToolCall:
        """The same call as it will run: bound arguments, already frozen, and its id."""
        return _made(self.agent, self.tool, arguments, call_id, self.proof, self.defect)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a ToolCall is frozen: {name} cannot be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a ToolCall is frozen: {name} cannot be deleted")

    def __repr__(self) -> str:
        return f"ToolCall({self.agent!r}, {self.tool!r}, <{len(self.arguments)} arguments>, call_id={self.call_id!r})"


# The slots' own descriptors: `__setattr__` does not stand before them.
_set_agent = ToolCall.agent.__set__  # type: ignore[misc, attr-defined]
_set_tool = ToolCall.tool.__set__  # type: ignore[misc, attr-defined]
_set_arguments = ToolCall.arguments.__set__  # type: ignore[misc, attr-defined]
_set_call_id = ToolCall.call_id.__set__  # type: ignore[misc, union-attr]
_set_proof = ToolCall.proof.__set__  # type: ignore[misc, union-attr]
_set_defect = ToolCall.defect.__set__  # type: ignore[misc, attr-defined]


def _fill(
    call: ToolCall, agent: str, tool: str, arguments: Mapping[str, Frozen], call_id: str | None, proof: str | None, defect: str
) -> None:
    _set_agent(call, agent)
    _set_tool(call, tool)
    _set_arguments(call, arguments)
    _set_call_id(call, call_id)
    _set_proof(call, proof)
    _set_defect(call, defect)


def _made(agent: str, tool: str, arguments: Mapping[str, Frozen], call_id: str | None, proof: str | None, defect: str) -> ToolCall:
    call = object.__new__(ToolCall)
    _fill(call, agent, tool, arguments, call_id, proof, defect)
    return call
