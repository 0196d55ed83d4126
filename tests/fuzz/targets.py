"""What is fuzzed: `TARGETS[name](data)` reads any bytes. Only the documented errors may leave a reader; anything else is a finding."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

from agentguard.artifacts.chain import verify_structure
from agentguard.artifacts.link import Anchor, ChainError, TrustAnchors
from agentguard.artifacts.making import parse_presentation
from agentguard.canonical import freeze
from agentguard.cli.check import read_call
from agentguard.errors import InvalidInput
from agentguard.keys import PublicKey
from agentguard.policy import load
from agentguard.policy.conditions import parse_condition

CORPUS = Path(__file__).parent / "corpus"
_KNOWN = json.loads((Path(__file__).parents[1] / "vectors" / "valid.json").read_bytes())["defaults"]["trust_anchors"]
ANCHORS = TrustAnchors([Anchor(item["iss"], PublicKey.from_jwk(item["jwk"])) for item in _KNOWN])


def policy(data: bytes) -> None:
    """A policy loads to a fixpoint of its canonical form, or is InvalidInput."""
    try:
        loaded = load(data.decode("utf-8", "surrogateescape") + "\n")
    except InvalidInput:
        return
    if load(loaded.canonical.decode() + "\n").digest != loaded.digest:
        raise AssertionError("the canonical form means something else")


def artifact(data: bytes) -> None:
    """A presentation, and the chain in it, against the issuer that the vectors trust."""
    try:
        tokens, _ = parse_presentation(data)
        verify_structure(tokens, ANCHORS)
    except (InvalidInput, ChainError):
        return


def call(data: bytes) -> None:
    """A call as `agentguard check --call -` reads it."""
    with patch.object(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data))):
        try:
            asked = read_call("-")
        except InvalidInput:
            return
    if asked.defect is None:
        freeze(asked.arguments)


def condition(data: bytes) -> None:
    """A condition's text is a fixpoint, and it is judged for any arguments."""
    try:
        parsed = parse_condition(data.decode("utf-8", "surrogateescape"))
    except InvalidInput:
        return
    if parse_condition(parsed.text).text != parsed.text:
        raise AssertionError("the canonical text is another one")
    for arguments in ({}, {"a": 1, "b": "x"}, {name: [1.5, {}] for name in parsed.names}, dict.fromkeys(parsed.names, "ü")):
        parsed.failure(arguments)


TARGETS: dict[str, Callable[[bytes], None]] = {"policy": policy, "artifact": artifact, "call": call, "condition": condition}
