"""One intended tool invocation, frozen (DESIGN §1)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

from agentguard.canonical import Frozen, freeze
from agentguard.errors import InvalidInput

#: Names compare as bytes, so they are printable ASCII: no homoglyphs, no folding (PITFALLS "case and homoglyphs").
_NAME = re.compile(r"[!-~]{1,256}")
_EMPTY: Final[Mapping[str, Frozen]] = MappingProxyType({})


@lru_cache(4096)
def _is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


def _misnamed(what: str, name: object) -> str:
    return f"the {what} name must be 1 to 256 printable ASCII characters, found {_shown(name)}"


def _shown(value: object) -> str:
    """What was found, short and safe to print: a number's repr may be refused, an object's may run code."""
    return ascii(value[:60]) if type(value) is str else type(value).__name__


def _safe(name: object) -> str:
    """A name as a record can hold it, when it is not one that a call may have."""
    return ascii(name[:64])[1:-1][:256] if type(name) is str else ""


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
        if type(agent) is not str or len(agent) > 256 or not _is_name(agent):  # what is too long would stay in the cache of names
            defect = _misnamed("agent", agent)
        elif type(tool) is not str or len(tool) > 256 or not _is_name(tool):
            defect = _misnamed("tool", tool)
        if call_id is not None and (type(call_id) is not str or not 0 < len(call_id) <= 256 or not call_id.isprintable()):
            defect = defect or f"the call id must be 1 to 256 printable characters, found {_shown(call_id)}"
            call_id = None
        if proof is not None and type(proof) is not str:
            defect = defect or "the proof must be a compact JWS string"
        if type(arguments) is not dict and type(arguments) is not MappingProxyType:
            defect = defect or f"the arguments must be an object, found {type(arguments).__name__}"
        elif not defect:
            try:
                frozen = freeze(arguments)
            except InvalidInput as error:
                defect = f"arguments: {error}"
            except RuntimeError:  # at the end of the stack, or a finalizer changed them meanwhile
                defect = "arguments: they cannot be copied"
        if defect:
            _fill(self, _safe(agent), _safe(tool), frozen, call_id, proof if type(proof) is str else None, defect)
        else:
            _fill(self, agent, tool, frozen, call_id, proof, "")

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
