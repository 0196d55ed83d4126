"""A witness: remembers the largest tree head of each log that it was shown, and cosigns only what grew out of it (C2SP tlog-witness).

It is somebody else's memory: whoever owns a log's disk can rewrite all of it, but not what a witness has seen. This is the whole of it but
for HTTP (server/witness.py): bytes of a request in, status and bytes of the answer out.

State is one SQLite file. The comparison with the last head, the signature and the new head are one transaction, durable before the answer,
so no two answers contradict each other, whatever runs at once and wherever the power fails.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from agentguard.errors import InvalidInput, StateUnavailable
from agentguard.keys import PublicKey, Signer
from agentguard.log.checkpoint import Checkpoint, Note, key_id, parse_checkpoint, parse_note, parse_verifier_key
from agentguard.log.cosignature import WitnessKey, cosign
from agentguard.log.identity import is_log_name
from agentguard.log.layout import is_shard_id
from agentguard.log.merkle import EMPTY_ROOT
from agentguard.log.tlog_proof import Growth, parse_growth

MAX_REQUEST: Final = 1 << 17
_LARGEST: Final = 1 << 63
_TEXT: Final = "text/plain; charset=utf-8"
_SIZE: Final = "text/x.tlog.size"
_SCHEMA: Final = """
    CREATE TABLE IF NOT EXISTS witness (only INTEGER PRIMARY KEY CHECK (only = 1), key TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS head (
        hash TEXT PRIMARY KEY, origin TEXT NOT NULL, size INTEGER NOT NULL, root BLOB NOT NULL, seconds INTEGER NOT NULL, note BLOB NOT NULL
    ) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer: status, content type, body."""

    status: int
    body: bytes = b""
    content_type: str = _TEXT


class _Refusal(Exception):
    """Ends a request with a status of the protocol."""

    def __init__(self, status: int, message: str, content_type: str = _TEXT) -> None:
        self.answer = Answer(status, f"{message}\n".encode(), content_type)
        super().__init__(message)


class Logs:
    """Which logs a witness knows: origin -> keys. The key of an agentguard log stands for each of its shards."""

    def __init__(self, verifier_keys: Sequence[str]) -> None:
        """`verifier_keys` as `agentguard log key` prints them, or those of any C2SP log. Raises InvalidInput."""
        self._known: dict[str, list[PublicKey]] = {}
        for text in verifier_keys:
            name, public = parse_verifier_key(text)
            self._known.setdefault(name, []).append(public)

    def keys(self, origin: str) -> Sequence[PublicKey]:
        """Whose signatures count for `origin`; none if it is unknown."""
        name, _, shard = origin.rpartition("/")
        own = self._known.get(origin, [])
        return own + self._known.get(name, []) if is_log_name(name) and is_shard_id(shard) else own


class Witness:
    """Answers the requests of logs. Safe under threads, and for several processes on one file."""

    def __init__(
        self, state: Path | str, signer: Signer, name: str, logs: Logs, *, clock: Callable[[], int] = lambda: int(time.time())
    ) -> None:
        """
        state   the SQLite file, made if it is not there. It belongs to one witness key for good
        signer  the witness's key, which serves this name only and no log
        clock   seconds since 1970

        Raises StateUnavailable if the file cannot be used, InvalidInput if it belongs to another witness.
        """
        self.key = WitnessKey(name, signer.public)
        self._key_text = WitnessKey.parse(self.key.verifier_key()).verifier_key()
        self._signer, self._logs, self._clock = signer, logs, clock
        self._mutex = threading.Lock()
        try:
            self._db = sqlite3.connect(state, isolation_level=None, check_same_thread=False, timeout=10)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(_SCHEMA)
            self._db.execute("INSERT INTO witness VALUES (1, ?) ON CONFLICT DO NOTHING", (self._key_text,))
            (owner,) = self._db.execute("SELECT key FROM witness").fetchone()
        except sqlite3.Error as error:
            raise StateUnavailable(f"the witness cannot use {state}: {error}") from None
        if owner != self._key_text:
            self.close()
            raise InvalidInput(f"it is the memory of another witness, {owner}", place=str(state))

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add_checkpoint(self, body: bytes) -> Answer:
        """POST /add-checkpoint: a proof of growth and a signed checkpoint in, a cosignature out.

        400 malformed · 403 not signed by the log · 404 unknown log · 409 the old size is not the last one cosigned, which is in the body ·
        422 it does not extend what was cosigned · 503 nothing can be remembered now
        """
        try:
            growth, note, checkpoint = _read(body)
            signed = self._signed(note, checkpoint.origin)
            return Answer(200, self._cosign(growth, signed, checkpoint).encode("utf-8"))
        except _Refusal as refusal:
            return refusal.answer
        except sqlite3.Error as error:
            return _unavailable(error)

    def latest(self, origin_hash: str) -> Answer:
        """GET /<SHA-256 of the origin, hexadecimal>/checkpoint: the last one that was cosigned."""
        try:
            with self._mutex:
                row = self._db.execute("SELECT note FROM head WHERE hash = ?", (origin_hash,)).fetchone()
        except sqlite3.Error as error:
            return _unavailable(error)
        return Answer(200, row[0]) if row is not None else Answer(404, b"nothing was cosigned for this log\n")

    def _signed(self, note: Note, origin: str) -> Note:
        """The note with those signatures that count."""
        keys = self._logs.keys(origin)
        if not keys:
            raise _Refusal(404, "the witness does not know this log")
        ids = {key_id(origin, public): public for public in keys}
        counting = tuple(item for item in note.signatures if item.name == origin and item.key_id in ids)
        if not counting or not all(ids[item.key_id].verify(item.value, note.text.encode("utf-8")) for item in counting):
            raise _Refusal(403, "the checkpoint is not signed by a key of this log, or not validly")
        return Note(note.text, counting)

    def _cosign(self, growth: Growth, note: Note, checkpoint: Checkpoint) -> str:
        """Compare, sign and remember, in one transaction; the signature line."""
        origin_hash = hashlib.sha256(checkpoint.origin.encode("utf-8")).hexdigest()
        with self._mutex:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                row = self._db.execute("SELECT size, root, seconds FROM head WHERE hash = ?", (origin_hash,)).fetchone()
                size, root, seconds = row or (0, EMPTY_ROOT, 1)
                if growth.old != size:
                    raise _Refusal(409, str(size), _SIZE)
                if (checkpoint.size == 0 and checkpoint.root != EMPTY_ROOT) or not growth.proves(root, checkpoint):
                    raise _Refusal(422, f"the checkpoint does not extend the {size} records that were cosigned")
                seconds = max(seconds, self._clock())
                line = cosign(note.text, self._signer, self.key.name, seconds)
                values = (origin_hash, checkpoint.origin, checkpoint.size, checkpoint.root, seconds, note.format() + line.encode("utf-8"))
                self._db.execute("INSERT OR REPLACE INTO head VALUES (?, ?, ?, ?, ?, ?)", values)
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
        return line


def _read(body: bytes) -> tuple[Growth, Note, Checkpoint]:
    if len(body) > MAX_REQUEST:
        raise _Refusal(400, f"the request is longer than {MAX_REQUEST} bytes")
    try:
        growth = parse_growth(body)
        note = parse_note(growth.checkpoint)
        checkpoint = parse_checkpoint(note.text)
    except InvalidInput as error:
        raise _Refusal(400, error.message) from None
    if not growth.old <= checkpoint.size < _LARGEST:
        raise _Refusal(400, "the old size is above that of the checkpoint, or that is none")
    return growth, note, checkpoint


def _unavailable(error: sqlite3.Error) -> Answer:
    return Answer(503, f"the witness cannot remember anything now: {error}\n".encode())
