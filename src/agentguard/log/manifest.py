"""The signed manifest of all shards, so that a shard that was deleted is missed.

It is a signed note (`agentguard/<log>` is the key's name) with this text, one line a shard in the order they were added:

    agentguard/<log>
    manifest <version>
    shard <id>

The version counts up by one with each shard. Every checkpoint names the version and the digest that its writer knew, so an older manifest
put back in place is contradicted by a remembered head.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentguard.checkpoint import NoteSigner, open_note
from agentguard.errors import InvalidInput
from agentguard.keys import PublicKey, Signer
from agentguard.log.layout import log_directory, log_name, read_small, replace_file

_MAX: Final = 1 << 20
_TEXT = re.compile(r"(?P<name>[^\n]+)\nmanifest (?P<version>[1-9][0-9]{0,8})\n(?P<shards>(?:shard [0-9a-f]{16}\n)*)")


@dataclass(frozen=True, slots=True)
class Manifest:
    """Which shards there are. `reference` is what checkpoints cite: (version, base64 SHA-256 of the file)."""

    version: int
    shards: tuple[str, ...]
    reference: tuple[int, str]

    def follows(self, reference: tuple[int, str]) -> bool:
        """Whether a checkpoint may have cited `reference` by now: an earlier version, or this very one."""
        return reference[0] < self.version or reference == self.reference


def manifest_path(home: Path) -> Path:
    return log_directory(home) / "manifest"


def read_manifest(home: Path, public: PublicKey) -> Manifest | None:
    """The manifest, or None if there is none. Raises InvalidInput if it is damaged or signed by another key."""
    path = manifest_path(home)
    data = read_small(path, _MAX)
    if data is None:
        return None
    name = log_name(public)
    try:
        text = open_note(data, public, name)
    except InvalidInput as error:
        raise InvalidInput(f"the manifest of shards is damaged or not of this log: {error.message}", place=str(path)) from None
    match = _TEXT.fullmatch(text)
    shards = tuple(line.removeprefix("shard ") for line in match["shards"].splitlines()) if match else ()
    if match is None or match["name"] != name or len(set(shards)) != len(shards) or int(match["version"]) != len(shards):
        raise InvalidInput("the manifest of shards is not in its one form", place=str(path))
    return Manifest(len(shards), shards, _reference(len(shards), data))


def write_manifest(home: Path, shards: tuple[str, ...], signer: Signer) -> Manifest:
    """Sign and put in place, durably, the manifest that lists `shards`. The caller holds the manifest's lock. Raises OSError."""
    name = log_name(signer.public)
    lines = "".join(f"shard {shard}\n" for shard in shards)
    data = NoteSigner(signer, name).sign(f"{name}\nmanifest {len(shards)}\n{lines}")
    replace_file(manifest_path(home), data)
    return Manifest(len(shards), shards, _reference(len(shards), data))


def _reference(version: int, data: bytes) -> tuple[int, str]:
    return version, base64.b64encode(hashlib.sha256(data).digest()).decode("ascii")
