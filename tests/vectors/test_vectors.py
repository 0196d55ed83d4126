"""Every vector gets its verdict and step, and the files are what the generator writes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentguard.artifacts.request import answer
from vectors.forge import request_line
from vectors.generate import FILES

HERE = Path(__file__).parent
DOCUMENTS: dict[str, dict[str, Any]] = {name: json.loads((HERE / name).read_text(encoding="utf-8")) for name in FILES}
VECTORS = [(document["defaults"], vector) for document in DOCUMENTS.values() for vector in document["vectors"]]

#: All steps of AAT -02 §8. 4f and 5 cannot be reached: 3i and 4g bound every depth, 3c and 4d fix it to the position.
STEPS = set(
    re.findall(
        r"\S+",
        "1 2a 2b 2c 3a 3b 3c 3d 3e 3f 3g 3h 3i 3j 3k 3l 3m 3n 4a 4b 4b1 4b2 4b3 4b4 4b5 4c 4d 4e 4g 4h 4i 4j 4k 4l 4m 4n 4o 4p1"
        " 4p2 4p3 4p4 4q 6a 6b 6c 7a 7b 7c 7d 7e 7f 7g 7h 7i 8",
    )
)


@pytest.mark.parametrize(("defaults", "vector"), VECTORS, ids=[vector["name"] for _, vector in VECTORS])
def test_verdict_and_step(defaults: dict[str, Any], vector: dict[str, Any]) -> None:
    given = answer(request_line(defaults, vector).encode("utf-8", "surrogatepass"))
    assert {"verdict": given["verdict"], "step": given["step"]} == vector["expect"], vector["section"]
    assert (given["code"] is None) == (given["verdict"] == "PERMIT")


@pytest.mark.parametrize("name", FILES)
def test_files_are_regenerable(name: str) -> None:
    """In an interpreter of its own, so that nothing which other tests did is in it."""
    code = f"import sys; from vectors.generate import FILES; sys.stdout.buffer.write(FILES[{name!r}]().dump().encode())"
    path = os.pathsep.join([str(HERE.parent), *sys.path])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env={**os.environ, "PYTHONPATH": path})
    assert (HERE / name).read_bytes() == done.stdout


def test_every_step_has_a_vector() -> None:
    assert {vector["expect"]["step"] for _, vector in VECTORS} >= STEPS


def test_every_pair_of_types_has_a_vector() -> None:
    names = {vector["name"] for vector in DOCUMENTS["pairs.json"]["vectors"]}
    kinds = ("exact", "range", "one_of", "not_one_of", "contains", "subset", "all", "any", "wildcard")
    assert names >= {f"pair: {child} under {parent}" for child in kinds for parent in kinds}


def test_a_vector_is_judged_on_its_own() -> None:
    """The same request twice, in any order, gets the same verdict: nothing is remembered."""
    first = [answer(request_line(defaults, vector)) for defaults, vector in VECTORS[:40]]
    again = [answer(request_line(defaults, vector)) for defaults, vector in reversed(VECTORS[:40])]
    assert first == again[::-1]


def test_the_documentation_counts_them() -> None:
    page = (HERE.parents[1] / "docs" / "profile.md").read_text(encoding="utf-8")
    assert f"holds {len(VECTORS)} requests" in page
