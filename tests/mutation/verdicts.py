"""The verdicts, kept in a file of JSON lines as they come, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from mutation.mutants import Mutant

SURVIVED = "survived"
#: A change that is no Python, or that means the same: counted nowhere.
NOTHING = "nothing"


def digest_of(files: Iterable[Path]) -> str:
    """A digest over the names and bytes of files."""
    found = sha256()
    for file in sorted(set(files)):
        found.update(f"{file.name} {file.stat().st_size}\n".encode())
        found.update(file.read_bytes())
    return found.hexdigest()[:16]


class Verdicts:
    """What was said of each mutant. A verdict holds for one text of its module and one text of the tests that judged.

    source  a digest of each module's text
    tests   a digest of the tests that judge each module, as they are now
    """

    def __init__(self, file: Path, source: dict[str, str], tests: dict[str, str]) -> None:
        self._file, self._source, self._tests = file, source, tests
        self._now: dict[str, str] = {}
        self._before: dict[str, str] = {}
        for line in file.read_text("utf-8").splitlines() if file.exists() else ():
            try:
                module, name, verdict, of, by = json.loads(line)
            except ValueError:  # the last line of a run that was killed while it wrote
                continue
            if of == source.get(module):
                (self._now if by == tests[module] else self._before)[name] = verdict

    def read_again(self) -> Verdicts:
        """With what other processes have kept."""
        return Verdicts(self._file, self._source, self._tests)

    def keep(self, mutant: Mutant, verdict: str) -> None:
        self._now[mutant.name] = verdict
        line = json.dumps([mutant.module, mutant.name, verdict, self._source[mutant.module], self._tests[mutant.module]])
        with self._file.open("a", encoding="utf-8") as out:
            out.write(line + "\n")

    def of(self, mutant: Mutant, *, by_any_tests: bool) -> str | None:
        """What was said of a mutant by the tests as they are now. With `by_any_tests`, a kill by tests that have changed since counts
        too: it holds as long as tests were only added."""
        verdict = self._now.get(mutant.name)
        if verdict is None and by_any_tests:
            verdict = self._before.get(mutant.name)
            if verdict is not None and verdict.startswith(SURVIVED):
                return None
        return verdict
