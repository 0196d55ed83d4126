"""Sites, proofs and cosignatures against Go's golang.org/x/mod/sumdb, by the program in go/ (Debian: golang-go, golang-golang-x-mod-dev).

Only `make test-foreign` and `make test-full` run this: the program is built first. It needs no network.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from agentguard.keys import KeyRing, LocalKey
from agentguard.log import Log, read_record
from agentguard.log.checkpoint import parse_checkpoint, parse_note
from agentguard.log.cosignature import WitnessKey
from agentguard.log.identity import LogKeys
from agentguard.log.manifest import keys_of
from agentguard.log.merkle import consistency_proof, inclusion_proof
from agentguard.log.proofs import prove_inclusion
from agentguard.log.site import write_sites
from agentguard.log.tiles import Tiles
from agentguard.log.witness_client import submit
from foreign.sizes import SIZES, grown
from support.logs import KEY
from support.transparency import KEYS, WITNESS_KEY, WITNESS_NAME, Wire, ring_with, rotated, witness_of, write

GO = shutil.which("go")
pytestmark = [pytest.mark.foreign, pytest.mark.skipif(GO is None, reason="go is not installed (apt-get install golang-go)")]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    binary = tmp_path_factory.mktemp("go") / "foreign"
    environment = {**os.environ, "GO111MODULE": "off", "GOFLAGS": "", "GOPATH": "/usr/share/gocode"}
    source = Path(__file__).parent / "go" / "main.go"
    done = subprocess.run([str(GO), "build", "-o", binary, source], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stderr}\n(apt-get install golang-golang-x-mod-dev)"
    return binary


def run(program: Path, *words: object) -> str:
    done = subprocess.run([program, *map(str, words)], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else f"refused: {done.stderr.strip()}"


def test_sites_of_many_sizes(program: Path, tmp_path: Path) -> None:
    """One site that grows, checked at each size: every entry, and for small trees every proof that Go makes from its tiles."""
    home, out = tmp_path / "home", tmp_path / "out"
    for shard, size in grown(home):
        list(write_sites(home, out, KEY.public))
        assert run(program, "site", KEYS.verifier_key(shard), out / shard) == f"ok {size}"
    whole = {path: path.read_bytes() for path in (out / shard).rglob("*") if path.is_file() and path.name != ".lock"}
    for path, data in whole.items():
        if ".p" in str(path) and not str(path).endswith(_right_edge(max(SIZES))):
            continue  # a partial tile of an earlier size: nobody asks for it any more
        path.write_bytes(bytes([data[0] ^ 1, *data[1:]]))
        assert run(program, "site", KEYS.verifier_key(shard), out / shard).startswith(("refused: ", "panic")), path
        path.write_bytes(data)


def _right_edge(size: int) -> tuple[str, ...]:
    return tuple(f".p/{(size >> 8 * level) % 256}" for level in range(2))


def test_every_proof_of_every_pair_of_sizes(program: Path, tmp_path: Path) -> None:
    """Ours, made from tiles, in trees of 1 to 70 records, and some of larger ones: Go holds them for true, and none with a changed bit."""
    home, lines = tmp_path / "home", tmp_path / "proofs"
    *_, (shard, _) = grown(home)
    list(write_sites(home, tmp_path / "out", KEY.public))
    tiles = Tiles(tmp_path / "out" / shard)
    text = []
    counts = [0, 0]
    for size in (*range(1, 71), 255, 256, 257, 1000):
        root = tiles.tree(size).root()
        for index in range(0, size, 1 if size <= 70 else 31):
            path = inclusion_proof(tiles.node, index, size)
            text.append(_line("record", size, index, root, tiles.node(0, index), path))
            old = index + 1
            text.append(_line("tree", size, old, root, tiles.tree(old).root(), consistency_proof(tiles.node, old, size)))
            counts = [counts[0] + 1, counts[1] + 1]
    lines.write_text("".join(text))
    ok, records, trees, refused = run(program, "proofs", lines).split()
    assert (ok, int(records), int(trees)) == ("ok", *counts)
    assert int(refused) > 20_000


def _line(kind: str, size: int, other: int, root: bytes, known: bytes, path: tuple[bytes, ...]) -> str:
    return " ".join([kind, str(size), str(other), root.hex(), known.hex(), *(item.hex() for item in path)]) + "\n"


@pytest.fixture
def witnessed(tmp_path: Path) -> tuple[Path, str]:
    home = tmp_path / "home"
    ring_with(home)
    (shard,) = write(home, 11)
    with witness_of(tmp_path / "w.db") as witness:
        submit(home, shard, KEYS, witness.key, Wire(witness), clock=lambda: 1_800_000_000)
    return home, shard


def test_exported_proofs_and_cosignatures(program: Path, tmp_path: Path, witnessed: tuple[Path, str]) -> None:
    home, shard = witnessed
    list(write_sites(home, tmp_path / "out", KEY.public))
    witness = WitnessKey(WITNESS_NAME, WITNESS_KEY.public).verifier_key()
    assert run(program, "site", KEYS.verifier_key(shard), tmp_path / "out" / shard, witness) == "ok 11"
    file = tmp_path / "proof"
    for index in range(11):
        proof = prove_inclusion(home, shard, index, KEY.public, read_record(home, shard, index))
        file.write_bytes(proof.format())
        assert run(program, "tlog-proof", KEYS.verifier_key(shard), file, witness) == f"ok {index} 11"
    other = LogKeys.first(LocalKey.generate().public).verifier_key(shard)
    assert run(program, "tlog-proof", other, file).startswith("refused")
    assert run(program, "tlog-proof", KEYS.verifier_key("0" * 16), file).startswith("refused")


def test_a_log_whose_key_was_rotated(program: Path, tmp_path: Path, witnessed: tuple[Path, str]) -> None:
    """The handover is a checkpoint that both keys signed; after it the site opens with the new key, under the name of the old."""
    home, shard = witnessed
    new = rotated(home, KeyRing(home / "keys"))
    keys = keys_of(home, new.public)
    list(write_sites(home, tmp_path / "out", new.public))
    assert run(program, "site", keys.verifier_key(shard), tmp_path / "out" / shard) == "ok 12"
    assert run(program, "site", KEYS.verifier_key(shard), tmp_path / "out" / shard).startswith("refused")
    note = (tmp_path / "out" / shard / "checkpoint").read_bytes()
    assert parse_checkpoint(parse_note(note).text).origin == KEYS.origin(shard)
    with Log.open(home, new) as log:
        assert log.shard == shard
