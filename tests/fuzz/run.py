"""`python -m fuzz.run TARGET [SECONDS]`: atheris on one target, from the kept corpus. What it finds new stays in a directory under /tmp."""

from __future__ import annotations

import sys
import tempfile

import atheris

with atheris.instrument_imports(include=["agentguard"]):
    from fuzz.targets import CORPUS, TARGETS


def main() -> None:
    name, seconds = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "60"
    found = tempfile.mkdtemp(prefix=f"agentguard-fuzz-{name}-")
    options = [f"-max_total_time={seconds}", "-max_len=8192", f"-artifact_prefix={found}/crash-", "-print_final_stats=1", "-verbosity=1"]
    print(f"{name}: new inputs and findings go to {found}", file=sys.stderr)
    atheris.Setup([sys.argv[0], *options, found, str(CORPUS / name)], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
