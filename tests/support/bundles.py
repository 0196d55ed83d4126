"""Signed bundles for tests: an authority, homes that trust it, and a small policy whose versions differ in one line."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from agentguard.artifacts import jws
from agentguard.bundle import BUNDLE_TYPE, sign_bundle
from agentguard.canonical import b64url_decode, parse
from agentguard.keys import LocalKey, PublicKey

NAME = "support"
POLICY = """agentguard: 1
name: support
agents:
  triage:
    tools: {{echo: {{x: {{one_of: [{allowed}]}}}}, other: {{}}}}
    delegates: {{helper: {{}}}}
  helper: {{tools: {{echo: {{x: any}}}}}}
"""


def policy(*allowed: int) -> str:
    """A policy under which `echo` takes these numbers."""
    return POLICY.format(allowed=", ".join(map(str, allowed)))


def bundle(key: LocalKey, version: int = 1, *allowed: int, name: str = NAME, text: str | None = None, **more: Any) -> bytes:
    """A bundle that is good for an hour."""
    now = int(time.time())
    times = {"issued": now, "expires": now + 3600}
    files = [("support.yaml", text if text is not None else policy(*(allowed or (1,))))]
    return sign_bundle(key, files, name=name, version=version, **{**times, **more})


def trusting(home: Path, *keys: PublicKey, name: str = NAME, **more: Any) -> Path:
    """The home, whose trust file names these keys as those that may sign the bundle."""
    home.mkdir(parents=True, exist_ok=True)
    authorities = [{"bundle": name, "jwk": key.jwk()} for key in keys]
    (home / "trust.json").write_text(json.dumps({"policy_authorities": authorities, **more}), "utf-8")
    return home


def claims_of(data: bytes) -> dict[str, Any]:
    """What a bundle says, unverified."""
    found: dict[str, Any] = parse(b64url_decode(data.decode().split(".")[1]))
    return found


def forged(key: LocalKey, data: bytes, typ: str = BUNDLE_TYPE, **claims: Any) -> bytes:
    """A bundle that says something else, signed with `key`; a member that is `...` is left out."""
    body = {name: value for name, value in {**claims_of(data), **claims}.items() if value is not ...}
    return (jws.sign(typ, body, key) + "\n").encode()


def put(path: Path, data: bytes) -> Path:
    """A file with these bytes."""
    path.write_bytes(data)
    return path
