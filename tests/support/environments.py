"""The environments in which the adapters are tested, since their frameworks cannot all be installed together.

    python -m support.environments            # every adapter in the environments where it can live; then the matrix in docs/adapters.md
    python -m support.environments --oldest   # some of them with the oldest versions that their extras allow

Each is made with uv under .venvs/, and kept as long as what it is made of stays the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from support import matrix

ROOT = Path(__file__).resolve().parents[2]
LISTS = ROOT / "tests" / "adapters" / "environments"
WORK = ROOT / ".venvs"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
#: Extras whose oldest versions are tried, and the tests that use them.
OLDEST = {
    "langchain": ("langchain_core", "langchain", "langgraph"),
    "mcp": ("mcp",),
    "openai-agents": ("openai_agents",),
    "pydantic-ai": ("pydantic_ai",),
}


class Environment(NamedTuple):
    """What is installed in an environment, and the names of the tests that must run there: test_NAME.py, and the example with_NAME.py."""

    name: str
    requirements: tuple[str, ...]
    tests: tuple[str, ...]
    complete: bool = True  # whether all is installed that these tests look for

    @classmethod
    def listed(cls, path: Path) -> Environment:
        """What a file in tests/adapters/environments says: a requirement a line, and behind it the tests that it brings. Tests that need no
        framework stand behind `#:`.
        """
        lines = [line for line in path.read_text("utf-8").splitlines() if line.startswith("#:") or not line.startswith("#")]
        parts = [line.partition("#") for line in lines]
        requirements = [requirement.strip() for requirement, _, _ in parts]
        return cls(path.stem, tuple(filter(None, requirements)), tuple(name for _, _, tests in parts for name in tests.strip(":").split()))

    @classmethod
    def oldest(cls, extra: str) -> Environment:
        """The lower bounds of an extra, as the versions to install."""
        bounds = [requirement.partition(",")[0] for requirement in PROJECT["optional-dependencies"][extra]]
        return cls(f"oldest-{extra}", tuple(bound.replace(">=", "==") for bound in bounds), OLDEST[extra], complete=False)

    @property
    def python(self) -> Path:
        return WORK / self.name / "bin" / "python"

    @property
    def report(self) -> Path:
        return WORK / f"{self.name}.json"

    def made_of(self) -> str:
        """The digest of what the environment is made of: its list, the project's own dependencies and entry points, this Python."""
        parts = [sys.version, list(self.requirements), {name: value for name, value in PROJECT.items() if name != "description"}]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def make(self) -> None:
        """Install it, if it is not there as it should be."""
        stamp = WORK / self.name / ".made-of"
        if stamp.exists() and stamp.read_text() == self.made_of():
            return
        say(f"{self.name}: installing {len(self.requirements)} frameworks (once)")
        uv = [sys.executable, "-m", "uv"]
        own = ["--editable", f"{ROOT}[test]"]
        subprocess.run([*uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(WORK / self.name)], check=True)
        subprocess.run([*uv, "pip", "install", "--quiet", "--python", str(self.python), *self.requirements, *own], check=True)
        stamp.write_text(self.made_of())

    def targets(self) -> list[str]:
        """The tests that must run here, as pytest is told."""
        examples = [name for name in self.tests if (ROOT / "examples" / f"with_{name}.py").exists()]
        return [
            *[f"tests/adapters/test_{name}.py" for name in self.tests],
            *[f"tests/adapters/test_examples.py::test_the_injection_fails[{name}]" for name in examples],
        ]

    def run(self, options: list[str]) -> list[str]:
        """Run its tests, and say what is wrong: a failure, or something that should have run and did not (unless pytest has options)."""
        begin = time.monotonic()
        say(f"{self.name}: {', '.join(self.tests)}")
        self.report.unlink(missing_ok=True)
        command = [str(self.python), "-m", "pytest", "-q", "-n", "auto", "--dist", "worksteal", "-p", "no:cacheprovider"]
        code = subprocess.run([*command, "--adapter-report", str(self.report), *options, *self.targets()], cwd=ROOT, check=False).returncode
        say(f"{self.name}: {time.monotonic() - begin:.0f} s")
        wrong = [f"{self.name}: pytest ended with {code}"] if code else []
        if options or not self.report.exists():
            return wrong
        return [*wrong, *self.missed(json.loads(self.report.read_text("utf-8")))]

    def missed(self, report: dict[str, Any]) -> Iterator[str]:
        """A framework that is not there makes pytest skip its tests; here that is a failure."""
        for target in self.targets():
            module = target.partition("::")[0]
            if not report["modules"].get(module, {}).get("passed"):
                yield f"{self.name}: nothing in {module} passed"
        for test, reason in report["skipped"].items():
            if self.complete and "could not import" in reason:
                yield f"{self.name}: {test} was skipped: {reason}"


def listed() -> list[Environment]:
    """The environments of tests/adapters/environments."""
    return [Environment.listed(path) for path in sorted(LISTS.glob("*.txt"))]


def say(what: str) -> None:
    print(f"== {what}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oldest", action="store_true", help="the oldest versions that the extras allow")
    parser.add_argument("--only", nargs="*", help="names of environments")
    parser.add_argument("--make", action="store_true", help="make the environments, and run nothing")
    options, rest = parser.parse_known_args()
    WORK.mkdir(exist_ok=True)
    environments = [Environment.oldest(extra) for extra in OLDEST] if options.oldest else listed()
    environments = [one for one in environments if not options.only or one.name in options.only]
    for environment in environments:
        environment.make()
    if options.make:
        return
    wrong = [what for environment in environments for what in environment.run(rest)]
    if not (wrong or rest or options.oldest or options.only):
        wrong = matrix.kept({one.name: json.loads(one.report.read_text("utf-8")) for one in environments}, _named(environments))
    for what in wrong:
        say(what)
    sys.exit(bool(wrong))


def _named(environments: Iterable[Environment]) -> set[str]:
    """The distributions that the lists name."""
    return {re.split(r"[\[<>=!~ ]", requirement)[0] for one in environments for requirement in one.requirements}


if __name__ == "__main__":
    main()
