"""Adapters' tests run offline: frameworks are told so, and what they send all the same goes nowhere."""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

for name, value in {
    "AGNO_TELEMETRY": "false",
    "ANONYMIZED_TELEMETRY": "false",
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "LANGSMITH_TRACING": "false",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
}.items():
    os.environ.setdefault(name, value)

_connect = socket.socket.connect


def _connect_here(self: socket.socket, address: Any) -> None:
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise ConnectionRefusedError(f"tests of adapters connect to this machine only, not to {address[0]}")
    _connect(self, address)


socket.socket.connect = _connect_here  # type: ignore[method-assign]


@pytest.fixture
def no_garbage() -> Iterator[None]:
    """For tests that fill the stack: what other frameworks left behind is not collected just then, where its end would fail."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
