"""The signed manifest of all shards, so that a shard that was deleted is missed, and of the keys that signed for the log.

It is a signed note (`agentguard/<log>` is the key's name) with this text, one line a shard in the order they were added:

    agentguard/<log>
    manifest <version>
    key <base64>                 after a rotation only: every key there was, oldest first; the last signs the manifest
    shard <id>

The version counts up by one with each shard and each rotation. Every checkpoint names the version and the digest that its writer knew, so
an older manifest put back in place is contradicted by a remembered head.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentguard.errors import InvalidInput
from agentguard.keys import PublicKey, Signer
from agentguard.log.checkpoint import NoteSigner, open_note, parse_note, to_base64
from agentguard.log.identity import LogKeys, is_log_name
from agentguard.log.layout import log_directory, read_small, replace_file

_MAX: Final = 1 << 20
_TEXT = re.compile(
    r"(?P<name>[^\n]+)\nmanifest (?P<version>[1-9][0-9]{0,8})\n"
    r"(?P<keys>(?:key [A-Za-z0-9+/]{43}=\n){2,}|)(?P<shards>(?:shard [0-9a-f]{16}\n)*)"
)


@dataclass(frozen=True, slots=True)
class Manifest:
    """Which shards there are, and who signs for them. `reference` is what checkpoints cite: (version, base64 SHA-256 of the file)."""

    version: int
    shards: tuple[str, ...]
    reference: tuple[int, str]
    keys: LogKeys

    def follows(self, reference: tuple[int, str]) -> bool:
        """Whether a checkpoint may have cited `reference` by now: an earlier version, or this very one."""
        return reference[0] < self.version or reference == self.reference


def manifest_path(home: Path) -> Path:
    return log_directory(home) / "manifest"


def keys_of(home: Path, key: PublicKey | LogKeys) -> LogKeys:
    """The log of this home that `key` signs for. Its name stands in the manifest, unproven until something is found that was signed under
    it; without one, `key` is taken for the first."""
    if isinstance(key, LogKeys):
        return key
    name = (read_small(manifest_path(home), _MAX) or b"").partition(b"\n")[0].decode("utf-8", "replace")
    return LogKeys(name, (key,)) if is_log_name(name) else LogKeys.first(key)


def claimed_keys(home: Path, key: PublicKey | LogKeys) -> LogKeys:
    """The same with all keys that the manifest lists, if `key` is one of them. None of the others is proven: a verifier believes it when it
    has found the records in which each key hands over to the next."""
    keys = keys_of(home, key)
    data = read_small(manifest_path(home), _MAX)
    try:
        match = _TEXT.fullmatch(parse_note(data).text) if data is not None else None
        listed = _keys(match) if match is not None and match["name"] == keys.name else ()
    except InvalidInput:
        listed = ()
    return LogKeys(keys.name, listed) if keys.current in listed else keys


def read_manifest(home: Path, key: PublicKey | LogKeys) -> Manifest | None:
    """The manifest, or None if there is none. Raises InvalidInput if it is damaged or signed by another key than the one in force."""
    path = manifest_path(home)
    data = read_small(path, _MAX)
    if data is None:
        return None
    keys = keys_of(home, key)
    try:
        text = open_note(data, keys.current, keys.name)
    except InvalidInput as error:
        raise InvalidInput(f"the manifest of shards is damaged or not of this log: {error.message}", place=str(path)) from None
    match = _TEXT.fullmatch(text)
    shards = tuple(line.removeprefix("shard ") for line in match["shards"].splitlines()) if match else ()
    listed = (_keys(match) if match else ()) or (keys.current,)
    version = len(shards) + len(listed) - 1
    if (
        match is None
        or match["name"] != keys.name
        or len(set(shards)) != len(shards)
        or len(set(listed)) != len(listed)
        or int(match["version"]) != version
        or listed[-1] != keys.current
        or not keys.first_is(listed[0])
    ):
        raise InvalidInput("the manifest of shards is not in its one form", place=str(path))
    return Manifest(version, shards, _reference(version, data), LogKeys(keys.name, listed))


def all_keys(home: Path, key: PublicKey | LogKeys) -> LogKeys:
    """The log's keys, with those before the one in force, as the manifest lists them under its signature. Raises InvalidInput."""
    manifest = read_manifest(home, key)
    return manifest.keys if manifest is not None else keys_of(home, key)


def write_manifest(home: Path, shards: tuple[str, ...], signer: Signer, keys: LogKeys | None = None) -> Manifest:
    """Sign and put in place, durably, the manifest that lists `shards` and all `keys` there were; `signer` holds the last. The caller holds
    the manifest's lock. Raises OSError."""
    keys = keys or LogKeys.first(signer.public)
    version = len(shards) + len(keys.keys) - 1
    former = [f"key {to_base64(public.raw)}" for public in keys.keys] if len(keys.keys) > 1 else []
    lines = [keys.name, f"manifest {version}", *former, *(f"shard {shard}" for shard in shards), ""]
    data = NoteSigner(signer, keys.name).sign("\n".join(lines))
    replace_file(manifest_path(home), data)
    return Manifest(version, shards, _reference(version, data), keys)


def _keys(match: re.Match[str]) -> tuple[PublicKey, ...]:
    """The listed keys. Raises InvalidInput."""
    return tuple(PublicKey.from_raw(base64.b64decode(line.removeprefix("key "))) for line in match["keys"].splitlines())


def _reference(version: int, data: bytes) -> tuple[int, str]:
    return version, to_base64(hashlib.sha256(data).digest())
