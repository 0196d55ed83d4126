"""A child process under strace: what it asked of the system, call by call, and faults put in its way.

The child is forked from this process, so that nothing but the work itself is in the trace, and calls are counted from its beginning.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import pytest

_CALL = re.compile(r"(?P<pid>\d+) +(?P<name>\w+)\((?P<args>.*)\) += (?P<result>-?\d+|\?)(?P<rest>.*)")
_UNFINISHED, _RESUMED = re.compile(r"(\d+) +(.*) <unfinished \.\.\.>"), re.compile(r"(\d+) +<\.\.\. \w+ resumed>(.*)")
_HEX = re.compile(r"\\x([0-9a-f]{2})")
_LONGEST_TEXT: Final = 1 << 20
_SECONDS: Final = 60
_ALLOW_PTRACE: Final = 0x59616D61  # prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY): Linux's Yama asks for it where siblings trace each other


@dataclass(frozen=True, slots=True)
class Call:
    """One system call as it came back. `result` is None if it never did; `injected`: strace answered in the system's place, or held it up.
    Texts and names of descriptors are as strace wrote them."""

    name: str
    args: tuple[str, ...]
    result: int | None
    injected: bool
    pid: int

    @property
    def failed(self) -> bool:
        return self.result is None or self.result < 0

    def text(self, position: int) -> bytes:
        """A string argument."""
        argument = self.args[position]
        assert argument[:1] == argument[-1:] == '"', f"{self.name}: cut off or no text: {argument[:80]}"
        return _unescape(argument[1:-1])

    def path(self, position: int = 0) -> str:
        """The path that an argument names, or that a descriptor stands for."""
        argument = self.args[position]
        if argument.startswith('"'):
            return os.fsdecode(self.text(position))
        return os.fsdecode(_unescape(argument.partition("<")[2].removesuffix(">")))

    def paths(self) -> Iterator[str]:
        """Every path in it."""
        for position, argument in enumerate(self.args):
            if argument.startswith('"\\x2f') or (argument[:1].isdigit() and argument.endswith(">")):
                yield self.path(position)


@dataclass(frozen=True, slots=True)
class Traced:
    """What came of a child: its calls in the order they came back, what it wrote to standard output and error, its wait status."""

    calls: tuple[Call, ...]
    output: bytes
    errors: str
    status: int


def needs_strace() -> None:
    """Skip the test where nothing can be traced, and say why."""
    reason = _obstacle()
    if reason:
        pytest.skip(reason)


@cache
def _obstacle() -> str:
    if shutil.which("strace") is None:
        return "strace is not installed (apt-get install strace)"
    done = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"strace may trace nothing here: {done.stderr.strip()[:200]}"


def traced(work: Callable[[], None], directory: Path, *options: str) -> Traced:
    """Run `work` in a forked child under strace with these options. Whatever it raises is its standard error."""
    directory.mkdir(parents=True, exist_ok=True)
    gate, opener = os.pipe()
    child = os.fork()
    if child == 0:
        _child(work, directory, gate, opener)
    os.close(gate)
    command = ["strace", "-f", "-y", "-xx", "-s", str(_LONGEST_TEXT), "-o", str(directory / "trace"), *options, "-p", str(child)]
    try:
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
            assert strace.stderr is not None
            said = strace.stderr.readline()
            if "attached" not in said:
                os.kill(child, signal.SIGKILL)
                strace.communicate()
                raise AssertionError(f"strace cannot attach: {said}")
            os.write(opener, b"!")
            strace.communicate(timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        os.close(opener)
        status = os.waitpid(child, 0)[1]
    trace = (directory / "trace").read_text("ascii")
    return Traced(tuple(_calls(trace)), (directory / "out").read_bytes(), (directory / "err").read_text("utf-8"), status)


def _child(work: Callable[[], None], directory: Path, gate: int, opener: int) -> None:
    code = 1
    try:
        os.close(opener)
        for descriptor, name in ((1, "out"), (2, "err")):
            file = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
            os.dup2(file, descriptor)
            os.close(file)
        ctypes.CDLL(None).prctl(_ALLOW_PTRACE, ctypes.c_ulong(-1), 0, 0, 0)
        if os.read(gate, 1):
            work()
            code = 0
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def _calls(trace: str) -> Iterator[Call]:
    begun: dict[str, str] = {}
    for line in trace.splitlines():
        if (match := _UNFINISHED.fullmatch(line)) is not None:
            begun[match[1]] = match[0].removesuffix(" <unfinished ...>")
            continue
        if (match := _RESUMED.fullmatch(line)) is not None:
            line = begun.pop(match[1]) + match[2]
        if (call := _CALL.fullmatch(line)) is not None:
            result = None if call["result"] == "?" else int(call["result"])
            yield Call(
                call["name"], tuple(call["args"].split(", ")), result, call["rest"].endswith(("(INJECTED)", "(DELAYED)")), int(call["pid"])
            )


def _unescape(text: str) -> bytes:
    return _HEX.sub(lambda match: chr(int(match[1], 16)), text).encode("latin-1")
