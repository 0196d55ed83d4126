"""Signed notes and checkpoints (C2SP signed-note v1.0.0 and tlog-checkpoint), strictly: `format(parse(x)) == x`.

A checkpoint is a log's signed tree head:

    agentguard/3f9a62d0c41be587/70c1a9d2e4f80b36     origin, which is the key's name too
    2                                                number of leaves
    m0UnWn9jXqv4k9wV0Qd2…                            root hash (RFC 6962), base64
    time 1700000000000000000                         extension lines, opaque here
                                                     (an empty line ends the text)
    — agentguard/3f9a62d0c41be587/70c1a9d2e4f80b36 Az3grlgt…   signature: base64(key id, 4 bytes ‖ Ed25519, 64 bytes)

The signature is over the text up to and including the newline before the empty line. Ed25519 (signature type 0x01) is the only kind made
and checked here; signatures of unknown keys, such as witnesses' (log/cosignature.py), are kept and ignored, as signed-note demands.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from agentguard.errors import InvalidInput
from agentguard.keys import PublicKey, Signer
from agentguard.log.merkle import HASH_SIZE

MAX_NOTE: Final = 1 << 20
MAX_SIGNATURES: Final = 16
#: Kinds of signatures: of a note by Ed25519, and of a checkpoint by a witness (log/cosignature.py).
ED25519: Final = b"\x01"
COSIGNATURE: Final = b"\x04"
_DASH: Final = "\u2014 "
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")
_KEY_NAME = re.compile(r"[^\s+]+")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line: the key's name, its 4-byte id, and the signature bytes."""

    name: str
    key_id: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Note:
    """A note taken apart. `text` ends with a newline; nothing of it may be believed before a signature was verified."""

    text: str
    signatures: tuple[Signature, ...]

    def format(self) -> bytes:
        """The note's bytes."""
        lines = [f"{_DASH}{item.name} {to_base64(item.key_id + item.value)}\n" for item in self.signatures]
        return (self.text + "\n" + "".join(lines)).encode("utf-8")


def parse_note(data: bytes) -> Note:
    """Take a signed note apart. Raises InvalidInput unless `format` would give the same bytes."""
    if len(data) > MAX_NOTE:
        raise InvalidInput(f"the note has {len(data)} bytes, at most {MAX_NOTE} are read")
    try:
        whole = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the note is not UTF-8 at byte {error.start}") from None
    if _CONTROL.search(whole) is not None:
        raise InvalidInput("the note holds a control character")
    text, separator, tail = whole.rpartition("\n\n")
    if not separator or not text or not tail.endswith("\n"):
        raise InvalidInput("not a signed note: text, an empty line and signature lines")
    lines = tail[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise InvalidInput(f"the note has {len(lines)} signatures, at most {MAX_SIGNATURES} are read")
    note = Note(text + "\n", tuple(map(_signature, lines)))
    if note.format() != data:
        raise InvalidInput("the note is not in its one form")
    return note


def split_notes(data: bytes) -> Iterator[bytes]:
    """The notes in a file that holds one or more, an empty line between each two. They are not looked at any further."""
    note: list[bytes] = []
    signed = False
    for line in data.splitlines(keepends=True):
        if line == b"\n" and signed:
            yield b"".join(note)
            note, signed = [], False
        else:
            note.append(line)
            signed = line.startswith(_DASH.encode())
    if note:
        yield b"".join(note)


def _signature(line: str) -> Signature:
    dash, name, encoded = line[:2], *line[2:].partition(" ")[::2]
    value = from_base64(encoded)
    if dash != _DASH or _KEY_NAME.fullmatch(name) is None or value is None or len(value) <= 4:
        raise InvalidInput(f"not a signature line: {line!r:.80}")
    return Signature(name, value[:4], value[4:])


def key_id(name: str, public: PublicKey, kind: bytes = ED25519) -> bytes:
    """SHA-256(name ‖ 0x0A ‖ kind of signature ‖ public key)[:4]."""
    return hashlib.sha256(name.encode("utf-8") + b"\n" + kind + public.raw).digest()[:4]


def verifier_key(name: str, public: PublicKey, kind: bytes = ED25519) -> str:
    """The key as verifiers are configured with it: `name+hex(key id)+base64(kind of signature ‖ public key)`."""
    return f"{name}+{key_id(name, public, kind).hex()}+{to_base64(kind + public.raw)}"


def parse_verifier_key(text: str, kind: bytes = ED25519) -> tuple[str, PublicKey]:
    """Name and key of a verifier key for this kind of signature. Raises InvalidInput."""
    parts = text.split("+", 2)  # base64 may hold a plus, so only the first two separate
    raw = from_base64(parts[2]) if len(parts) == 3 else None
    if raw is None or raw[:1] not in (ED25519, COSIGNATURE) or _KEY_NAME.fullmatch(parts[0]) is None:
        raise InvalidInput("not an Ed25519 verifier key", hint="name+key id+base64, as `agentguard log key` prints it")
    if raw[:1] != kind:
        words = ("a witness", "a log") if kind == ED25519 else ("a log", "a witness")
        raise InvalidInput(f"it is the verifier key of {words[0]}, needed is one of {words[1]}")
    public = PublicKey.from_raw(raw[1:])
    if verifier_key(parts[0], public, kind) != text:
        raise InvalidInput("the verifier key's id is not that of its key")
    return parts[0], public


class NoteSigner:
    """Signs notes under one key name; the key id is computed once."""

    __slots__ = ("_id", "_prefix", "_signer", "name")

    def __init__(self, signer: Signer, name: str) -> None:
        if _KEY_NAME.fullmatch(name) is None:
            raise InvalidInput(f"a key name has neither spaces nor plus signs: {name!r:.80}")
        self.name = name
        self._signer = signer
        self._id = key_id(name, signer.public)
        self._prefix = f"\n{_DASH}{name} ".encode()

    def sign(self, text: str) -> bytes:
        """The signed note over `text`, which ends with a newline."""
        body = text.encode("utf-8")
        return body + self._prefix + base64.b64encode(self._id + self._signer.sign(body)) + b"\n"


def open_note(data: bytes, public: PublicKey, name: str) -> str:
    """The text of a note that `public` signed under `name`. Raises InvalidInput if it did not."""
    return open_note_by(data, (public,), name)[0]


def open_note_by(data: bytes, keys: Sequence[PublicKey], name: str) -> tuple[str, PublicKey]:
    """The text of a note, and the last of `keys` that signed it under `name`. Raises InvalidInput if none did, or any signature is
    false."""
    note = parse_note(data)
    body = note.text.encode("utf-8")
    signer = None
    for public in keys:
        wanted = key_id(name, public)
        for item in note.signatures:
            if item.name == name and item.key_id == wanted:
                if not public.verify(item.value, body):
                    raise InvalidInput(f"the signature by the key {name}+{wanted.hex()} is invalid")
                signer = public
    if signer is None:
        raise InvalidInput(f"no signature by the key {name}+{key_id(name, keys[-1]).hex()}")
    return note.text, signer


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A tree head. `root` is 32 bytes; `extensions` are further lines of the text, without newlines."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def text(self) -> str:
        """The note text, ending with a newline."""
        return "\n".join([self.origin, str(self.size), to_base64(self.root), *self.extensions, ""])


def parse_checkpoint(text: str) -> Checkpoint:
    """Read a checkpoint's note text. Raises InvalidInput unless `text()` would give the same."""
    lines = text.split("\n")
    if len(lines) < 4 or lines[-1] or not all(lines[:-1]):
        raise InvalidInput("a checkpoint has at least three lines, none of them empty")
    origin, size, encoded, *extensions = lines[:-1]
    root = from_base64(encoded)
    if _DECIMAL.fullmatch(size) is None:
        raise InvalidInput(f"the checkpoint's size is no decimal number: {size!r:.40}")
    if root is None or len(root) != HASH_SIZE:
        raise InvalidInput(f"the checkpoint's root is not 32 bytes in base64: {encoded!r:.60}")
    return Checkpoint(origin, int(size), root, tuple(extensions))


def sign_checkpoint(checkpoint: Checkpoint, signer: Signer) -> bytes:
    """The signed note. The key's name is the origin, as tlog-checkpoint recommends."""
    return NoteSigner(signer, checkpoint.origin).sign(checkpoint.text())


def open_checkpoint(data: bytes, public: PublicKey, origin: str) -> Checkpoint:
    """The checkpoint that `public` signed for the log `origin`. Raises InvalidInput."""
    return open_checkpoint_by(data, (public,), origin)[0]


def open_checkpoint_by(data: bytes, keys: Sequence[PublicKey], origin: str) -> tuple[Checkpoint, PublicKey]:
    """The checkpoint of the log `origin`, and the last of `keys` that signed it. Raises InvalidInput."""
    text, signer = open_note_by(data, keys, origin)
    checkpoint = parse_checkpoint(text)
    if checkpoint.origin != origin:
        raise InvalidInput(f"the checkpoint is of {checkpoint.origin!r:.100}, not of {origin}")
    return checkpoint, signer


def to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def from_base64(text: str) -> bytes | None:
    """Strict standard base64 (RFC 4648 §4): the text must be what `to_base64` would print."""
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        return None
    return data if to_base64(data) == text else None
