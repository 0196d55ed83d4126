"""Cosignatures and the witness protocol (log/cosignature.py, log/witness.py, log/witness_client.py, server/witness.py) against C2SP."""

from __future__ import annotations

import base64
import hashlib
import sqlite3
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from starlette.testclient import TestClient

from agentguard.errors import InvalidInput, StateUnavailable
from agentguard.keys import LocalKey
from agentguard.log import verify
from agentguard.log.checkpoint import Note, parse_note, parse_verifier_key, sign_checkpoint
from agentguard.log.cosignature import WitnessKey, cosign, cosigned_at
from agentguard.log.identity import LogKeys
from agentguard.log.merkle import EMPTY_ROOT, consistency_proof, leaf_hash, nodes_of
from agentguard.log.tlog_proof import Growth
from agentguard.log.witness import MAX_REQUEST, Answer, Logs, Witness
from agentguard.log.witness_client import WitnessRefused, WitnessUnavailable, fetch, http, submit
from agentguard.log.witnessed import cosigned_path, read_cosigned, submitted_path
from agentguard.server.witness import witness_app
from support.logs import KEY
from support.transparency import KEYS, WITNESS_KEY, WITNESS_NAME, Wire, head_of, records_of, ring_with, rotated, witness_of, write

ORIGIN = KEYS.origin("00112233aabbccdd")
NOTE, HEAD = head_of(records_of(5), ORIGIN)
WITNESS = WitnessKey(WITNESS_NAME, WITNESS_KEY.public)


def now() -> float:
    return 1_800_000_000.0


def body_of(old: int, records: list[bytes], *, origin: str = ORIGIN, key: LocalKey = KEY) -> bytes:
    leaves = [leaf_hash(record) for record in records]
    path = consistency_proof(nodes_of(leaves), old, len(leaves)) if 0 < old < len(leaves) else ()
    return Growth(old, path, head_of(records, origin, key)[0]).format()


@pytest.fixture
def witness(tmp_path: Path) -> Witness:
    return witness_of(tmp_path / "witness.db")


class TestCosignatures:
    def test_are_the_bytes_of_the_specification(self) -> None:
        text = parse_note(NOTE).text
        line = cosign(text, WITNESS_KEY, WITNESS_NAME, 1_679_315_147)
        dash, name, encoded = line[:-1].split(" ")
        raw = base64.b64decode(encoded)
        assert (dash, name, line[-1], len(raw)) == ("\u2014", WITNESS_NAME, "\n", 4 + 8 + 64)
        public = WITNESS_KEY.public.raw
        assert raw[:4] == hashlib.sha256(WITNESS_NAME.encode() + b"\n\x04" + public).digest()[:4]
        assert int.from_bytes(raw[4:12], "big") == 1_679_315_147
        Ed25519PublicKey.from_public_bytes(public).verify(raw[12:], f"cosignature/v1\ntime 1679315147\n{text}".encode())
        assert cosigned_at(parse_note(NOTE + line.encode()), WITNESS) == 1_679_315_147

    def test_of_others_are_none_and_false_ones_are_errors(self) -> None:
        text = parse_note(NOTE).text
        line = cosign(text, WITNESS_KEY, WITNESS_NAME, 5).encode()
        assert cosigned_at(parse_note(NOTE), WITNESS) is None
        assert cosigned_at(parse_note(NOTE + line), WitnessKey("witness.example/w2", WITNESS_KEY.public)) is None
        assert cosigned_at(parse_note(NOTE + line), WitnessKey(WITNESS_NAME, KEY.public)) is None
        note = parse_note(NOTE + line)
        for position in range(4, 76):  # the key id names whose it claims to be; all behind it is signed
            false = (
                note.signatures[1].value[: position - 4]
                + bytes([note.signatures[1].value[position - 4] ^ 1])
                + note.signatures[1].value[position - 3 :]
            )
            forged = Note(note.text, (note.signatures[0], type(note.signatures[1])(WITNESS_NAME, WITNESS.key_id, false)))
            with pytest.raises(InvalidInput, match="is invalid"):
                cosigned_at(forged, WITNESS)
        with pytest.raises(InvalidInput, match="has 71 bytes"):
            cosigned_at(Note(note.text, (type(note.signatures[1])(WITNESS_NAME, WITNESS.key_id, b"x" * 71),)), WITNESS)

    def test_twice_by_the_same_witness_the_latest_counts(self) -> None:
        text = parse_note(NOTE).text
        lines = [cosign(text, WITNESS_KEY, WITNESS_NAME, seconds).encode() for seconds in (7, 9, 8)]
        assert cosigned_at(parse_note(NOTE + b"".join(lines)), WITNESS) == 9

    def test_time_zero_says_nothing(self) -> None:
        with pytest.raises(InvalidInput, match="is invalid"):
            cosigned_at(parse_note(NOTE + cosign(parse_note(NOTE).text, WITNESS_KEY, WITNESS_NAME, 0).encode()), WITNESS)

    def test_keys_of_logs_and_of_witnesses_are_not_taken_for_each_other(self) -> None:
        assert WitnessKey.parse(WITNESS.verifier_key()) == WITNESS
        with pytest.raises(InvalidInput, match="the verifier key of a log, needed is one of a witness"):
            WitnessKey.parse(KEYS.verifier_key())
        with pytest.raises(InvalidInput, match="the verifier key of a witness, needed is one of a log"):
            parse_verifier_key(WITNESS.verifier_key())
        with pytest.raises(InvalidInput, match="needed is one of a log"):
            Logs([WITNESS.verifier_key()])


class TestProtocol:
    """Each status that the specification asks for, in the order in which it asks."""

    def test_cosigns_what_grows(self, witness: Witness) -> None:
        old = 0
        for size in (0, 1, 5, 5, 6, 300):
            answer = witness.add_checkpoint(body_of(old, records_of(size)))
            assert (answer.status, answer.content_type) == (200, "text/plain; charset=utf-8")
            note = parse_note(head_of(records_of(size), ORIGIN)[0] + answer.body)
            assert cosigned_at(note, WITNESS) == 1_800_000_000
            latest = witness.latest(hashlib.sha256(ORIGIN.encode()).hexdigest())
            assert (latest.status, parse_note(latest.body)) == (200, note)
            old = size

    def test_400_is_for_what_is_malformed(self, witness: Witness) -> None:
        good = body_of(0, records_of(3))
        too_large = f"{ORIGIN}\n{2**63}\n{base64.b64encode(bytes(32)).decode()}\n"
        for body in (
            b"",
            b"old 0\n",
            good.replace(b"old 0", b"old 00"),
            good.replace(b"old 0", b"old 4"),  # above the size of the checkpoint
            good.replace(b"\n\n", b"\nnonsense\n\n", 1),
            good[:-1],
            good + b"x",
            b"\xff" + good,
            b"old 0\n\n" + too_large.encode() + b"\n" + good.split(b"\n")[-2] + b"\n",
            bytes(MAX_REQUEST + 1),
        ):
            assert witness.add_checkpoint(body).status == 400, body

    def test_404_is_for_logs_that_nobody_told_it_of(self, witness: Witness) -> None:
        other = LocalKey.generate()
        for origin, key in ((LogKeys.first(other.public).origin("0" * 16), other), ("example.com/log", KEY), (KEYS.name + "/x", KEY)):
            assert witness.add_checkpoint(body_of(0, records_of(3), origin=origin, key=key)).status == 404

    def test_403_is_for_what_the_log_did_not_sign(self, witness: Witness) -> None:
        good = body_of(0, records_of(3))
        assert witness.add_checkpoint(body_of(0, records_of(3), key=LocalKey.generate())).status == 403
        foreign = sign_checkpoint(head_of(records_of(3), ORIGIN)[1], LocalKey.generate())
        both = good + foreign.split(b"\n\n")[1]
        assert witness.add_checkpoint(both).status == 200  # unknown signatures are ignored
        swapped = parse_note(head_of(records_of(4), ORIGIN)[0])
        crossed = Note(parse_note(head_of(records_of(3), ORIGIN)[0]).text, swapped.signatures)
        assert witness.add_checkpoint(Growth(0, (), crossed.format()).format()).status == 403
        assert (
            witness.add_checkpoint(Growth(0, (), crossed.format() + good.split(b"\n")[-2] + b"\n").format()).status == 403
        )  # one false is enough

    def test_409_says_what_was_cosigned_last(self, witness: Witness) -> None:
        witness.add_checkpoint(body_of(0, records_of(5)))
        for body in (body_of(0, records_of(7)), body_of(4, records_of(7)), body_of(6, records_of(7)), body_of(0, records_of(3))):
            assert witness.add_checkpoint(body) == Answer(409, b"5\n", "text/x.tlog.size")

    def test_422_is_for_what_does_not_extend_it(self, witness: Witness) -> None:
        records = records_of(9)
        fork = [b"fork", *records[1:]]
        note = head_of(records, ORIGIN)[0]
        empty = sign_checkpoint(type(HEAD)(ORIGIN, 0, b"x" * 32), KEY)
        assert witness.add_checkpoint(Growth(0, (), empty).format()).status == 422  # the root of no records is known
        assert witness.add_checkpoint(Growth(0, (EMPTY_ROOT,), note).format()).status == 422  # no proof is needed from nothing
        witness.add_checkpoint(body_of(0, records[:5]))
        for body in (
            body_of(5, fork),
            body_of(5, fork[:5]),  # the same size with another root
            Growth(5, (), note).format(),
            Growth(5, (b"x" * 32,) * 4, note).format(),
            Growth(5, (EMPTY_ROOT,), head_of(records[:5], ORIGIN)[0]).format(),
        ):
            assert witness.add_checkpoint(body).status == 422
        assert witness.add_checkpoint(body_of(5, records)).status == 200  # none of this was remembered

    def test_503_when_nothing_can_be_remembered(self, witness: Witness) -> None:
        witness.close()
        assert witness.add_checkpoint(body_of(0, records_of(3))).status == 503
        assert witness.latest("0" * 64).status == 503

    def test_of_a_log_it_never_saw_it_knows_nothing(self, witness: Witness) -> None:
        assert witness.latest(hashlib.sha256(ORIGIN.encode()).hexdigest()).status == 404
        assert witness.latest("nonsense").status == 404

    def test_each_shard_and_each_log_is_a_log_of_its_own(self, tmp_path: Path) -> None:
        other = LocalKey.generate()
        foreign = "example.com/foreign"
        vkey = f"{LogKeys(foreign, (other.public,)).verifier_key()}"
        with Witness(tmp_path / "w.db", WITNESS_KEY, WITNESS_NAME, Logs([KEYS.verifier_key(), vkey])) as witness:
            for origin, key in ((ORIGIN, KEY), (KEYS.origin("0" * 16), KEY), (KEYS.name, KEY), (foreign, other)):
                assert witness.add_checkpoint(body_of(0, records_of(3), origin=origin, key=key)).status == 200
            assert witness.add_checkpoint(body_of(0, records_of(3), origin=f"{foreign}/{'0' * 16}", key=other)).status == 404

    def test_the_clock_going_back_does_not_date_a_cosignature_before_the_last(self, tmp_path: Path) -> None:
        times = iter((100, 50))
        with witness_of(tmp_path / "w.db", clock=lambda: next(times)) as witness:
            answers = [witness.add_checkpoint(body_of(old, records_of(3))) for old in (0, 3)]
        note = head_of(records_of(3), ORIGIN)[0]
        assert [cosigned_at(parse_note(note + answer.body), WITNESS) for answer in answers] == [100, 100]


class TestMemory:
    def test_outlives_the_process_and_belongs_to_one_witness(self, tmp_path: Path) -> None:
        with witness_of(tmp_path / "w.db") as witness:
            witness.add_checkpoint(body_of(0, records_of(5)))
        with witness_of(tmp_path / "w.db") as witness:
            assert witness.add_checkpoint(body_of(0, records_of(3))).status == 409
        with pytest.raises(InvalidInput, match="the memory of another witness"):
            Witness(tmp_path / "w.db", LocalKey.generate(), WITNESS_NAME, Logs([]))

    def test_that_is_no_database_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "w.db").write_bytes(b"nonsense" * 100)
        with pytest.raises(StateUnavailable, match="cannot use"):
            witness_of(tmp_path / "w.db")

    def test_is_durable_before_the_answer(self, witness: Witness) -> None:
        assert witness._db.execute("PRAGMA synchronous").fetchone() == (2,)
        assert not witness._db.in_transaction
        witness.add_checkpoint(body_of(0, records_of(5)))
        assert not witness._db.in_transaction

    def test_of_a_signer_that_fails_is_unchanged(self, tmp_path: Path) -> None:
        class Broken:
            public = WITNESS_KEY.public

            def sign(self, data: bytes) -> bytes:
                raise OSError("no key")

        with Witness(tmp_path / "w.db", Broken(), WITNESS_NAME, Logs([KEYS.verifier_key()])) as witness:
            with pytest.raises(OSError, match="no key"):
                witness.add_checkpoint(body_of(0, records_of(5)))
            assert witness._db.execute("SELECT count(*) FROM head").fetchone() == (0,)

    def test_at_once_from_two_sides_never_cosigns_a_fork(self, tmp_path: Path) -> None:
        """Two witnesses on one file and many threads: of all histories that were offered, one was cosigned."""
        witnesses = [witness_of(tmp_path / "w.db") for _ in range(2)]
        offers = [body_of(0, [f"fork {number}".encode()] * 3) for number in range(12)]
        answers: list[Answer] = []
        threads = [threading.Thread(target=lambda at=at: answers.append(witnesses[at % 2].add_checkpoint(offers[at]))) for at in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(answer.status for answer in answers) == [200] + [409] * 11
        for witness in witnesses:
            witness.close()


class TestOverHttp:
    def test_the_statuses_and_bodies_are_those_of_the_protocol(self, witness: Witness) -> None:
        with TestClient(witness_app(witness)) as client:
            answer = client.post("/add-checkpoint", content=body_of(0, records_of(5)))
            assert (answer.status_code, answer.text.count("\n"), answer.text[:2]) == (200, 1, "\u2014 ")
            answer = client.post("/add-checkpoint", content=body_of(0, records_of(6)))
            assert (answer.status_code, answer.text, answer.headers["content-type"]) == (409, "5\n", "text/x.tlog.size")
            assert client.post("/add-checkpoint", content=bytes(1 << 20)).status_code == 400
            assert client.get("/add-checkpoint").status_code == 405
            shown = client.get(f"/{hashlib.sha256(ORIGIN.encode()).hexdigest()}/checkpoint")
            assert shown.text.startswith(ORIGIN)
            assert client.get("/x/checkpoint").status_code == 404
            assert client.get("/").status_code == 404


class TestClientSide:
    @pytest.fixture
    def home(self, tmp_path: Path) -> Path:
        return tmp_path / "home"

    def test_submits_with_proof_and_keeps_the_cosignature(self, home: Path, witness: Witness) -> None:
        (shard,) = write(home, 5)
        wire = Wire(witness)
        for count in (5, 9, 9):
            if count == 9 and len(wire.requests) == 1:
                write(home, 4)
            done = submit(home, shard, KEYS, WITNESS, wire, clock=now)
            assert done is not None
            assert done.size == count
            kept = read_cosigned(home, shard, KEYS, WITNESS)
            assert kept is not None
            assert (kept.checkpoint.size, kept.seconds) == (count, 1_800_000_000)
            assert kept.note.startswith(submitted_path(home, shard).read_bytes())
        assert wire.statuses == [200, 200, 200]  # it knew each time what the witness had
        assert [request.split(b"\n")[0] for request in wire.requests] == [b"old 0", b"old 5", b"old 9"]

    def test_that_forgot_asks_the_witness(self, home: Path, witness: Witness) -> None:
        (shard,) = write(home, 5)
        wire = Wire(witness)
        submit(home, shard, KEYS, WITNESS, wire, clock=now)
        cosigned_path(home, shard, WITNESS).unlink()
        write(home, 5)
        done = submit(home, shard, KEYS, WITNESS, wire, clock=now)
        assert done is not None
        assert (done.size, wire.statuses) == (10, [200, 409, 200])

    def test_of_an_empty_log_has_nothing_to_show(self, home: Path, witness: Witness) -> None:
        (shard,) = write(home, 0)
        assert submit(home, shard, KEYS, WITNESS, Wire(witness), clock=now) is None
        assert fetch(shard, KEYS, WITNESS, Wire(witness)) is None

    @pytest.mark.parametrize(
        ("status", "body", "message"),
        [
            (500, b"oops", "answered 500: 'oops'"),
            (403, b"", "answered 403"),
            (409, b"x\n", "answered 409"),
            (409, b"007\n", "answered 409"),
            (200, b"", "gave no valid cosignature"),
            (200, b"\xff\n", "gave no valid cosignature"),
            (200, cosign("other text\n", WITNESS_KEY, WITNESS_NAME, 5).encode(), "gave no valid cosignature"),
        ],
    )
    def test_that_gets_no_cosignature_says_so_and_keeps_nothing(self, home: Path, status: int, body: bytes, message: str) -> None:
        (shard,) = write(home, 5)
        with pytest.raises(WitnessUnavailable, match=message):
            submit(home, shard, KEYS, WITNESS, lambda *_: (status, body), clock=now)
        assert read_cosigned(home, shard, KEYS, WITNESS) is None
        findings = verify(home, KEY.public, witnesses=[WITNESS]).findings
        assert [finding.kind for finding in findings] == ["witness"]

    def test_of_a_witness_that_names_another_size_each_time_gives_up(self, home: Path) -> None:
        (shard,) = write(home, 5)
        sizes = iter((b"1\n", b"2\n", b"3\n", b"4\n"))
        with pytest.raises(WitnessUnavailable, match="another size each time"):
            submit(home, shard, KEYS, WITNESS, lambda *_: (409, next(sizes)), clock=now)

    def test_dated_ahead_is_not_accepted(self, home: Path, tmp_path: Path) -> None:
        (shard,) = write(home, 5)
        with witness_of(tmp_path / "w.db", clock=lambda: 1_800_000_400) as witness, pytest.raises(WitnessUnavailable, match="400 s ahead"):
            submit(home, shard, KEYS, WITNESS, Wire(witness), clock=now)

    def test_fetches_what_the_witness_has_seen_and_verifies_it(self, home: Path, witness: Witness) -> None:
        (shard,) = write(home, 5)
        submit(home, shard, KEYS, WITNESS, Wire(witness), clock=now)
        seen = fetch(shard, KEYS, WITNESS, Wire(witness))
        assert seen is not None
        assert seen.checkpoint.size == 5
        with pytest.raises(InvalidInput, match="did not cosign"):
            fetch(shard, KEYS, WITNESS, lambda *_: (200, head_of(records_of(3), KEYS.origin(shard))[0]))
        with pytest.raises(WitnessUnavailable, match="500"):
            fetch(shard, KEYS, WITNESS, lambda *_: (500, b""))

    def test_goes_on_after_a_rotation_once_the_witness_knows_the_key(self, home: Path, tmp_path: Path) -> None:
        ring = ring_with(home)
        (shard,) = write(home, 5)
        with witness_of(tmp_path / "w.db") as witness:
            submit(home, shard, KEYS, WITNESS, Wire(witness), clock=now)
        new = rotated(home, ring)
        keys = LogKeys(KEYS.name, (new.public,))
        with witness_of(tmp_path / "w.db") as witness, pytest.raises(WitnessUnavailable, match="403"):
            submit(home, shard, keys, WITNESS, Wire(witness), clock=now)
        with witness_of(tmp_path / "w.db", keys) as witness:
            wire = Wire(witness)
            done = submit(home, shard, keys, WITNESS, wire, clock=now)
        assert done is not None
        assert (done.size, wire.statuses) == (6, [200])  # the same log: it had to prove that it grew from what was witnessed before
        for key in (KEY.public, new.public):
            assert verify(home, LogKeys(KEYS.name, (key,)), witnesses=[WITNESS]).findings == ()

    @pytest.mark.parametrize("url", ["ftp://x", "witness.example", "file:///etc/passwd", "https://", "http://[::1"])
    def test_needs_a_url(self, url: str) -> None:
        with pytest.raises(InvalidInput):
            http(url)

    def test_that_cannot_reach_the_witness_says_so(self) -> None:
        with pytest.raises(WitnessUnavailable, match="127"):
            http("http://127.0.0.1:9")("GET", "x/checkpoint", None)


def test_a_rolled_back_log_is_refused_by_its_own_client(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (shard,) = write(home, 5)
    with witness_of(tmp_path / "w.db") as witness:
        write(home, 5)
        submit(home, shard, KEYS, WITNESS, Wire(witness), clock=now)
    with pytest.raises(WitnessRefused, match=r"has cosigned 12 records .* and the log has 10"):
        submit(home, shard, KEYS, WITNESS, lambda *_: (409, b"12\n"), clock=now)
    with pytest.raises(WitnessRefused, match="it was rewritten"):
        submit(home, shard, KEYS, WITNESS, lambda *_: (422, b""), clock=now)
    with sqlite3.connect(tmp_path / "w.db") as database:
        assert database.execute("SELECT size FROM head").fetchall() == [(10,)]
