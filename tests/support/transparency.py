"""Trees, logs and witnesses for the tests of proofs, tiles, rotation and witnesses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from agentguard.keys import KeyRing, LocalKey
from agentguard.log import Durability, Log
from agentguard.log.checkpoint import Checkpoint, sign_checkpoint
from agentguard.log.identity import LogKeys
from agentguard.log.merkle import leaf_hash, root_of
from agentguard.log.rotation import rotate
from agentguard.log.witness import Logs, Witness
from support.logs import KEY, fresh

WITNESS_KEY = LocalKey.from_seed(bytes(range(100, 132)))
WITNESS_NAME = "witness.example/w1"
KEYS = LogKeys.first(KEY.public)
_records = fresh()


def records_of(count: int) -> list[bytes]:
    return [f"record {number}".encode() for number in range(count)]


def head_of(records: list[bytes], origin: str = "example.com/log", key: LocalKey = KEY) -> tuple[bytes, Checkpoint]:
    """The signed checkpoint of a tree over these records."""
    return head_over([leaf_hash(record) for record in records], origin, key)


def head_over(leaves: list[bytes], origin: str = "example.com/log", key: LocalKey = KEY) -> tuple[bytes, Checkpoint]:
    """The same over leaf hashes."""
    checkpoint = Checkpoint(origin, len(leaves), root_of(leaves))
    return sign_checkpoint(checkpoint, key), checkpoint


def write(home: Path, count: int, *, shards: int = 1, key: LocalKey = KEY, durability: Durability = "process") -> list[str]:
    """Append `count` fresh records to each of so many shards at once, and close; their ids."""
    logs = [Log.open(home, key, durability=durability) for _ in range(shards)]
    for log in logs:
        for at in range(0, count, 50):
            log.append(*[next(_records) for _ in range(min(50, count - at))])
        log.close()
    return [log.shard for log in logs]


def ring_with(home: Path, key: LocalKey = KEY) -> KeyRing:
    """The key ring of a home, with this log key in it."""
    ring = KeyRing(home / "keys")
    key.save(home / "keys" / "log.pem")
    return ring


def rotated(home: Path, ring: KeyRing) -> LocalKey:
    """Rotate the log's key; the new one."""
    rotate(home, ring, by="ops", reason="test")
    return ring.log()


def witness_of(state: Path, *keys: LogKeys, clock: Callable[[], int] = lambda: 1_800_000_000) -> Witness:
    return Witness(state, WITNESS_KEY, WITNESS_NAME, Logs([one.verifier_key() for one in keys or (KEYS,)]), clock=clock)


class Wire:
    """A transport to a witness in this process, with what went over it."""

    def __init__(self, witness: Witness) -> None:
        self.witness = witness
        self.requests: list[bytes] = []
        self.statuses: list[int] = []

    def __call__(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        if method == "POST":
            assert path == "add-checkpoint"
            assert body is not None
            self.requests.append(body)
            answer = self.witness.add_checkpoint(body)
        else:
            answer = self.witness.latest(path.removesuffix("/checkpoint"))
        self.statuses.append(answer.status)
        return answer.status, answer.body
