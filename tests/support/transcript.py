"""Command lines and what they print, as files that read like a terminal session (tests/cli/*.transcript).

    # a comment
    $ agentguard policy check policy.yaml
    policy.yaml: ok, starter, 2 agents, 3 tool rules, sha256:…
    $ agentguard policy check missing.yaml
    ! error: missing.yaml: cannot read the file: No such file or directory (…)
    [exit 3]

Lines of standard error begin with `! `, an empty line is `~`, an exit code other than 0 ends the answer. `< name` feeds a file to standard
input, `> name` keeps standard output, which is not shown then. `%` lines set the stage:

    % file call.json {"agent": "triage"}             write a file; further lines of it begin with `| `
    % set task lineage --json : tasks.0.id           keep a value of a command's JSON; $task stands for it from then on
    % edit example.py "bob" "carol"                  replace text in a file
    % flip .agentguard/log/*/*.seg 200               flip a bit of the byte at this offset

What differs from run to run is replaced: digests, ids, times, spans. `python tests/support/transcript.py FILE...` writes the answers anew.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from typer.testing import CliRunner

from agentguard.cli import app

_VOLATILE: list[tuple[str, str]] = [
    (r"sha256:[0-9a-f]{64}", "sha256:…"),
    (r"\b[0-9a-f]{64}\b", "<hash>"),
    (r"\b[0-9a-f]{24}\b", "<id>"),
    (r"\b[0-9a-f]{32}\b", "<hash32>"),
    (r"\b[0-9a-f]{16}\b", "<hash16>"),
    (r"(witnessed/<hash16>/|<hash16>\+)[0-9a-f]{8}\b(?!\+)", r"\1<key id>"),
    (r"\b[0-9a-f]{12}\b", "<hash12>"),
    (r"\b[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:.]{8,12}Z", "<time>"),
    (r"\btime [0-9]{19}\b", "time <ns>"),
    (r"(?m)^extra [A-Za-z0-9+/=]+$", "extra <record>"),
    (r"--after [0-9]{19}-", "--after <ns>-"),
    (r'"(time|last_checkpoint)": "[0-9]+"', r'"\1": "<ns>"'),
    (r'"(asked|duration_ns|exp|expires|issued)": [0-9]+', r'"\1": <number>'),
    (r" in [0-9.e+]+ (ns|µs|ms|s)\b", " in <span>"),
    (r"ends in [0-9]+ (min|h)\b", "ends in <span>"),
    (r"<time>  [0-9]+ (min|h) +", "<time>  <span>  "),
    (r"expires in [0-9]+ (min|s|h|d)\b", "expires in <span>"),
    (r"agentguard=[^ ]+, arch=.*?python=[0-9.]+[a-z0-9]*", "<facts>"),
    (r"agentguard [0-9]+[+.][^ \n]+", "agentguard <version>"),
    (r"thumbprint:sha-256:[A-Za-z0-9_-]{43}", "thumbprint:sha-256:<thumbprint>"),
    (r'"x": "[A-Za-z0-9_-]{43}"', '"x": "<key>"'),
    (r"\+[0-9a-f]{8}\+[A-Za-z0-9+/=]{44}", "+<key>"),
    (r"(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{43}=", "<base64>"),
    (r"(?m)^(— \S+) [A-Za-z0-9+/=]{60,}$", r"\1 <signature>"),
    (r'("x": ?")[A-Za-z0-9_-]{43}"', r'\1<key>"'),
    (r"(?<![A-Za-z0-9_-])[A-Za-z0-9_-]{12}…", "<key>…"),
    (r"eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", "<token>"),
    (r"bytes? [0-9]+\b", "byte <n>"),
]


def steady(text: str, directory: Path) -> str:
    """`text` without what differs from run to run."""
    text = text.replace(str(directory.resolve()), "DIR").replace(str(directory), "DIR")
    for pattern, word in _VOLATILE:
        text = re.sub(pattern, word, text)
    return "\n".join(line.rstrip() or "~" for line in text.splitlines())


@dataclass
class Session:
    """One transcript being played in a directory."""

    directory: Path
    values: dict[str, str] = field(default_factory=dict)

    def play(self, script: str) -> Iterator[str]:
        """The lines of the transcript with the answers that are given now."""
        lines = iter(script.splitlines())
        held: list[str] = []
        for line in lines:
            if held and line.startswith("| "):
                held.append(line)
                continue
            if held:
                yield from self._stage(held)
                held = []
            if line.startswith("% "):
                held = [line]
            elif line.startswith("$ "):
                yield line
                yield from self._command(line[2:])
            elif line.startswith("#") or not line:
                yield line
        if held:
            yield from self._stage(held)

    def _stage(self, lines: list[str]) -> Iterator[str]:
        verb, _, rest = lines[0][2:].partition(" ")
        stage: dict[str, Callable[[str, list[str]], None]] = {"file": self._file, "set": self._set, "edit": self._edit, "flip": self._flip}
        stage[verb](rest, [line[2:] for line in lines[1:]])
        yield from lines

    def _file(self, rest: str, more: list[str]) -> None:
        name, _, first = rest.partition(" ")
        text = "\n".join([*([first] if first else []), *more])
        (self.directory / name).write_text(self._filled(text) + "\n", "utf-8")

    def _set(self, rest: str, more: list[str]) -> None:
        name, _, command = rest.partition(" ")
        arguments, _, path = command.rpartition(" : ")
        _, out, _ = self._run(["agentguard", *shlex.split(self._filled(arguments))], None)
        value = json.loads(out)
        for step in path.split("."):
            value = value[int(step)] if step.lstrip("-").isdigit() else value[step]
        self.values[name] = str(value)

    def _edit(self, rest: str, more: list[str]) -> None:
        name, old, new = shlex.split(rest)
        path = self.directory / name
        text = path.read_text("utf-8")
        assert old in text, f"{name} does not hold {old!r}"
        path.write_text(text.replace(old, new), "utf-8")

    def _flip(self, rest: str, more: list[str]) -> None:
        pattern, offset = rest.split()
        (path,) = self.directory.glob(pattern)
        data = bytearray(path.read_bytes())
        data[int(offset)] ^= 1
        path.write_bytes(data)

    def _filled(self, text: str) -> str:
        for name, value in self.values.items():
            text = text.replace(f"${name}", value)
        return text

    def _command(self, line: str) -> Iterator[str]:
        words = shlex.split(self._filled(line))
        source = target = None
        while len(words) > 2 and words[-2] in "<>":
            if words[-2] == "<":
                source = (self.directory / words[-1]).read_bytes()
            else:
                target = self.directory / words[-1]
            words = words[:-2]
        code, out, errors = self._run(words, source)
        if target is not None:
            target.write_text(out, "utf-8")
        else:
            yield from steady(out, self.directory).splitlines()
        yield from (f"! {part}" for part in steady(errors, self.directory).splitlines())
        if code:
            yield f"[exit {code}]"

    def _run(self, words: list[str], source: bytes | None) -> tuple[int, str, str]:
        if words[0] == "python":
            done = subprocess.run(
                [sys.executable, *words[1:]], cwd=self.directory, env=environment(), capture_output=True, text=True, timeout=120
            )
            return done.returncode, done.stdout, done.stderr
        assert words[0] == "agentguard", words
        with inside(self.directory):
            answer = CliRunner().invoke(app, words[1:], input=source, catch_exceptions=False)
        return answer.exit_code, answer.stdout, answer.stderr


@contextmanager
def inside(directory: Path) -> Iterator[None]:
    """Work in a directory, and forget the modules that were imported from it."""
    before, modules, path = Path.cwd(), set(sys.modules), list(sys.path)
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(before)
        sys.path[:] = path
        for name in set(sys.modules) - modules:
            if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(directory)):
                del sys.modules[name]


def environment() -> dict[str, str]:
    """For a subprocess: the package under test, no colours, no terminal's width."""
    import agentguard

    source = str(Path(agentguard.__file__).parents[1])
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "FORCE_COLOR")}
    return {**kept, "PYTHONPATH": os.pathsep.join([source, kept.get("PYTHONPATH", "")]).rstrip(os.pathsep), "NO_COLOR": "1"}


def main() -> None:
    """Write the answers of transcripts anew."""
    import tempfile

    for name in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as directory:
            file = Path(name)
            file.write_text("\n".join(Session(Path(directory)).play(file.read_text("utf-8"))) + "\n", "utf-8")


if __name__ == "__main__":
    main()
