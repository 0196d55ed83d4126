"""Finding an application's tools by importing it, for `tools lock|verify` and `check --tools`."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from agentguard.errors import AgentguardError, InvalidInput

if TYPE_CHECKING:
    from agentguard.guard import Guard
    from agentguard.tools.integrity import Tool


class Found:
    """What importing found: tools by name, and the homes of the guards they are registered with."""

    def __init__(self) -> None:
        self.tools: dict[str, Tool] = {}
        self.homes: list[Path] = []

    def add(self, tool: Tool, source: str) -> None:
        known = self.tools.get(tool.name)
        if known is not None and known.fingerprint != tool.fingerprint:
            raise InvalidInput(
                f"two different tools are called {tool.name!r}", place=source, hint="lock them one guard at a time: MODULE:GUARD"
            )
        self.tools[tool.name] = tool


def find_tools(sources: Sequence[str]) -> dict[str, Tool]:
    """The tools of `MODULE[:NAME]` or `FILE.py[:NAME]`, by name. Raises InvalidInput where there are none."""
    return discover(sources).tools


def discover(sources: Sequence[str]) -> Found:
    """Import each source and collect the tools of its guards, and its guarded functions.

    NAME is a guard, a function that makes one, or a guarded function; without it the whole module is searched. What the module prints goes
    to standard error. Its guards are closed: importing was for looking. Raises InvalidInput.
    """
    from agentguard.guard import Guard

    found = Found()
    for source in sources:
        module, name = _import(source)
        values = [_named(module, name, source)] if name else list(vars(module).values())
        before = len(found.tools)
        for value in values:
            if isinstance(value, Guard):
                _add_guard(found, value, source)
            elif (tool := _tool_of(value)) is not None:
                found.add(tool, source)
        if len(found.tools) == before:
            hint = "register tools at import, or name a guard: MODULE:guard, or a function that makes one: MODULE:make_guard"
            raise InvalidInput("no guarded tools were found", place=source, hint=hint)
    return found


def _add_guard(found: Found, guard: Guard, source: str) -> None:
    for tool in guard.tools.values():
        found.add(tool, source)
    found.homes.append(guard.home.path)
    guard.close()


def _tool_of(value: Any) -> Tool | None:
    from agentguard.tools.integrity import Tool

    tool = getattr(value, "__agentguard_tool__", None) if callable(value) else None
    return tool if isinstance(tool, Tool) else None


def _named(module: ModuleType, name: str, source: str) -> Any:
    from agentguard.guard import Guard

    value = getattr(module, name, None)
    if value is None:
        raise InvalidInput(f"has no {name!r}", place=source)
    if callable(value) and not isinstance(value, Guard) and _tool_of(value) is None:
        value = _foreign(source, value)
        if not isinstance(value, Guard):
            raise InvalidInput(f"{name} made {type(value).__name__}, not a Guard", place=source)
    return value


def _import(source: str) -> tuple[ModuleType, str]:
    """The module, and the name after the colon. As `python` itself would, the current directory is searched first."""
    target, _, name = source.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    if target.endswith(".py") or "/" in target:
        return _foreign(source, lambda: _load(Path(target))), name
    if not target:
        raise InvalidInput("names no module", place=repr(source))
    return _foreign(source, lambda: importlib.import_module(target)), name


def _load(path: Path) -> ModuleType:
    if not path.is_file():
        raise InvalidInput("no such file", place=str(path))
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise InvalidInput("is not a Python file", place=str(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise
    return module


def _foreign(source: str, run: Any) -> Any:
    """Run the application's own code. It may raise anything, and print; neither may look like our answer."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return run()
    except AgentguardError:
        raise
    except SystemExit:
        raise InvalidInput(
            "it ended the program while it was imported", place=source, hint='put that under if __name__ == "__main__":'
        ) from None
    except Exception as error:  # noqa: BLE001  # the application's code, which is not ours to judge
        ours = ("<frozen", __file__, importlib.__file__)
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(ours)]
        place = f"{source} ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else source
        raise InvalidInput(f"could not be imported: {type(error).__name__}: {error}", place=place) from None
