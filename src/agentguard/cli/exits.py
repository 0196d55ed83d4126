"""How a command ends: exit codes, and one clear line on standard error for everything that goes wrong (DESIGN §10).

0    done, allowed
1    failure: damage was found, something is not available
2    denied, or somebody has to be asked
3    invalid input or usage
130  interrupted
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn, cast

import typer

from agentguard.errors import AgentguardError, Denied, EvidenceUnavailable, InvalidInput, OutcomeUnrecorded, StateUnavailable

DONE: Final = 0
FAILED: Final = 1
DENIED: Final = 2
INVALID: Final = 3
INTERRUPTED: Final = 130

#: Typer shows only the leaf of its parser's family of errors; UsageError is its base, and that one's base is everything the parser raises.
_UsageError = cast("type[Exception]", typer.BadParameter.__base__)
_ParserError = cast("type[Exception]", _UsageError.__base__)


def leave(code: int) -> NoReturn:
    """End the command with this exit code."""
    raise typer.Exit(code)


def complain(message: str, *, word: str = "error") -> None:
    """One line on standard error: `error: place: message (hint)`. Control characters are shown, not sent."""
    line = " ".join(message.split())
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    colour = sys.stderr.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    print(f"\x1b[1;31m{word}:\x1b[0m {shown}" if colour else f"{word}: {shown}", file=sys.stderr)


def guarded(command: Callable[[], Any]) -> int:
    """Run a command and give its exit code; whatever it raises becomes one line on standard error, never a traceback."""
    try:
        code = command()
        sys.stdout.flush()
        return code if type(code) is int else DONE
    except BrokenPipeError:
        # Who read our output has seen enough (`| head`). What is still buffered must not raise again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        complain("interrupted")
        return INTERRUPTED
    except typer.Abort:
        complain("aborted")
        return INTERRUPTED
    except _ParserError as error:
        return _usage(error)
    except AgentguardError as error:
        return _ours(error)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        complain(f"{place}{error.strerror or error}")
        return FAILED
    except Exception as error:  # noqa: BLE001  # the last door: a fault of our own is still one line, which says where it happened
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(frame.filename).name}:{frame.lineno}"
        complain(f"{place}: {type(error).__name__}: {error} (this is a fault of agentguard itself: please report it)")
        return FAILED


def _usage(error: Exception) -> int:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "agentguard"
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    if message:  # a group without a command has printed its help already, and says nothing more
        message = message.rstrip(".").replace("Value error, ", "")
        complain(f"{path}: {message} (`{path} --help` shows how)")
    return INVALID


def _ours(error: AgentguardError) -> int:
    from agentguard.artifacts.link import ChainError
    from agentguard.log.frames import Damage

    if isinstance(error, Denied):
        complain(str(error), word="denied")
        return DENIED
    if isinstance(error, ChainError):
        complain(f"{error.code}: {error}", word="denied")
        return DENIED
    complain(str(error))
    if isinstance(error, EvidenceUnavailable | StateUnavailable | OutcomeUnrecorded):
        return FAILED
    return FAILED if isinstance(error, Damage) or not isinstance(error, InvalidInput) else INVALID
