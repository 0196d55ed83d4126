"""Reading segments fast (log/scan.py, log/records.py) says what reading them plainly says, of every log and of every damaged log."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentguard import Guard, ToolCall
from agentguard.canonical import jcs
from agentguard.errors import InvalidInput
from agentguard.log import Damage, iter_records, scan
from agentguard.log.frames import CHECKPOINT, COMMIT, FINAL, LARGEST, RECORD, SEGMENT, encode, read_frames
from agentguard.log.merkle import Frontier, leaf_hash, next_seal
from agentguard.log.records import Audit, Place, read_known, read_record_members
from agentguard.log.scan import encode_segment_head, read_segment_head
from support.guarded import POLICY
from support.logs import canonical, decision, outcome

SHARD = "00112233aabbccdd"


class Told:
    """What a reading of a segment came to."""

    def __init__(self) -> None:
        self.records: list[tuple[int, bytes, int]] = []  # index, record, byte
        self.notes: list[tuple[int, bytes, bool, int, bytes]] = []  # records before it, note, final, byte, root
        self.end: tuple[str, int, bool] | None = None  # what was wrong, where, and whether it is torn

    def __eq__(self, other: object) -> bool:
        return vars(self) == vars(other)

    def __repr__(self) -> str:
        return f"{len(self.records)} records, {len(self.notes)} notes, {self.end}"


def plainly(descriptor: int, path: Path, start: int, stop: int, first: int, frontier: Frontier) -> Told:
    """Frame by frame, record by record: what docs/log-format.md says, and nothing clever."""
    told, seal, good = Told(), frontier.seal(), start
    pending: list[tuple[int, bytes, int]] = []
    try:
        for kind, index, payload, offset, end in read_frames(descriptor, path.name, start, stop):
            here = frontier.size + len(pending)
            if kind == RECORD:
                if index != here or not payload:
                    raise Damage(f"record {index} stands where record {here} belongs", path=path.name, offset=offset)
                pending.append((index, payload, offset))
                continue
            if kind == SEGMENT:
                raise Damage("a second segment starts inside the file", path=path.name, offset=offset)
            note = payload
            if kind == COMMIT:
                if index != here or not pending or len(payload) < 32:
                    raise Damage(f"a commit of {index} records stands after {here}", path=path.name, offset=offset)
                for _, record, _ in pending:
                    frontier.append(leaf_hash(record))
                    seal = next_seal(seal, leaf_hash(record))
                if payload[:32] != seal:
                    raise Damage("the commit does not seal its records and all before them", path=path.name, offset=offset)
                told.records += pending
                pending, note = [], payload[32:]
            elif pending or index != here or not payload:
                raise Damage(f"a checkpoint of {index} records stands after {here}", path=path.name, offset=offset)
            good = end
            if note:
                told.notes.append((frontier.size, note, kind == FINAL, offset, frontier.root()))
        if pending:
            raise Damage("records without a commit", path=path.name, offset=good, torn=True)
    except Damage as damage:
        unfinished = damage.torn and pending
        told.end = ("records without a commit", good, True) if unfinished else (damage.message, damage.offset, damage.torn)
    return told


def fast(descriptor: int, path: Path, start: int, stop: int, first: int, frontier: Frontier) -> Told:
    told = Told()
    try:
        for run in scan.scan(descriptor, path, start, stop, first, frontier):
            places = zip(run.records, run.offsets, strict=True)
            told.records += [(run.first + at, record, offset) for at, (record, offset) in enumerate(places)]
            assert frontier.size == run.first + len(run.records)
            if run.note:
                told.notes.append((frontier.size, run.note, run.final, run.offset, frontier.root()))
            assert run.records or run.note
    except Damage as damage:
        told.end = damage.message, damage.offset, damage.torn
    return told


def same(path: Path) -> Told:
    """Read a segment both ways, with and without seals; what it came to."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        head = read_segment_head(descriptor, path)
        place = (descriptor, path, head.end, os.fstat(descriptor).st_size, head.first)
        slow, left = Frontier(), Frontier()
        told = plainly(*place, slow)
        assert fast(*place, left) == told
        if told.end is None or told.end[0] != "the commit does not seal its records and all before them":
            assert (left.size, left.peaks) == (slow.size, slow.peaks)
            unsealed = unharmed(*place)
            assert [record for run in unsealed for record in run.records] == [record for _, record, _ in told.records]
        return told
    finally:
        os.close(descriptor)


def unharmed(*place: Any) -> list[scan.Run]:
    """The runs up to where the segment is damaged, as readers without a key see them."""
    runs = []
    try:
        for run in scan.scan(*place):
            runs.append(run)
    except Damage:
        pass
    return runs


class Writer:
    """Frames of a segment, one by one, right unless one asks for something else."""

    def __init__(self) -> None:
        self.frontier = Frontier()
        self.data = encode_segment_head(SHARD, self.frontier, 0)
        self.seal = self.frontier.seal()
        self.starts: list[int] = []

    def put(self, kind: int, index: int, payload: bytes) -> None:
        self.starts.append(len(self.data))
        self.data += encode(kind, index, payload)

    def append(self, *records: bytes, note: bytes = b"", commit: bool = True) -> None:
        for record in records:
            self.put(RECORD, self.frontier.size, record)
            self.frontier.append(leaf_hash(record))
            self.seal = next_seal(self.seal, leaf_hash(record))
        if commit:
            self.put(COMMIT, self.frontier.size, self.seal + note)

    def checkpoint(self, note: bytes = b"a note\n", final: bool = False) -> None:
        self.put(FINAL if final else CHECKPOINT, self.frontier.size, note)


def filled() -> Writer:
    writer = Writer()
    writer.append(b"one")
    writer.append(b"two", b"three", b"\xff" * 40)
    writer.checkpoint()
    writer.append(b"four", note=b"note in the commit\n")
    writer.append(b"five" * 30)
    writer.checkpoint(final=True)
    writer.checkpoint()
    writer.append(b"six", b"seven")
    return writer


@pytest.fixture(params=[60, 1 << 17])
def path(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the segment is; chunks are so small that every border falls everywhere, or as they are."""
    monkeypatch.setattr(scan, "_CHUNK", request.param)
    return tmp_path / f"{0:020d}.seg"


def test_a_sound_segment(path: Path) -> None:
    path.write_bytes(filled().data)
    told = same(path)
    assert [record for _, record, _ in told.records] == [
        b"one", b"two", b"three", b"\xff" * 40, b"four", b"five" * 30, b"six", b"seven",
    ]  # fmt: skip
    assert [(size, note, final) for size, note, final, _, _ in told.notes] == [
        (4, b"a note\n", False), (5, b"note in the commit\n", False), (6, b"a note\n", True), (6, b"a note\n", False),
    ]  # fmt: skip
    assert told.end is None


def test_every_cut(path: Path) -> None:
    writer = filled()
    for length in range(len(Writer().data), len(writer.data)):
        path.write_bytes(writer.data[:length] + bytes(length % 2 * 70))
        told = same(path)
        assert told.end is None or told.end[2], length


def test_every_changed_byte(path: Path) -> None:
    writer = filled()
    for position in range(len(Writer().data), len(writer.data)):
        data = bytearray(writer.data)
        data[position] ^= 1 << position % 8
        path.write_bytes(data)
        told = same(path)
        assert told.end is not None, position
        assert not told.end[2], position


def test_frames_that_are_intact_and_wrong(path: Path) -> None:
    def told(change: Any) -> str:
        writer = filled()
        change(writer)
        path.write_bytes(writer.data)
        found = same(path)
        assert found.end is not None
        return found.end[0]

    assert told(lambda w: w.put(RECORD, 9, b"x")) == "record 9 stands where record 8 belongs"
    assert told(lambda w: w.put(RECORD, 8, b"")) == "record 8 stands where record 8 belongs"
    assert told(lambda w: w.put(COMMIT, 8, w.seal)) == "a commit of 8 records stands after 8"
    assert told(lambda w: (w.append(b"x", commit=False), w.put(COMMIT, 10, w.seal))) == "a commit of 10 records stands after 9"
    assert told(lambda w: (w.append(b"x", commit=False), w.put(COMMIT, 9, w.seal[:31]))) == "a commit of 9 records stands after 9"
    wrong = "the commit does not seal its records and all before them"
    assert told(lambda w: (w.append(b"x", commit=False), w.put(COMMIT, 9, bytes(32)))) == wrong
    assert told(lambda w: w.put(CHECKPOINT, 7, b"n")) == "a checkpoint of 7 records stands after 8"
    assert told(lambda w: w.put(FINAL, 8, b"")) == "a checkpoint of 8 records stands after 8"
    assert told(lambda w: (w.append(b"x", commit=False), w.put(CHECKPOINT, 9, b"n"))) == "a checkpoint of 9 records stands after 9"
    assert told(lambda w: w.put(SEGMENT, 8, b"")) == "a second segment starts inside the file"
    assert told(lambda w: w.append(b"x", commit=False)) == "records without a commit"


def test_appends_that_are_larger_than_a_chunk(path: Path) -> None:
    writer = Writer()
    for size in (1, 3, 40):
        writer.append(*[bytes([1 + number]) * (LARGEST - 60) for number in range(size)])
        writer.append(b"small")
    path.write_bytes(writer.data)
    assert len(same(path).records) == 47


def test_a_file_that_shrinks(path: Path) -> None:
    path.write_bytes(filled().data)
    descriptor = os.open(path, os.O_RDONLY)
    with pytest.raises(Damage, match="became shorter") as caught:
        list(scan.scan(descriptor, path, len(Writer().data), 10_000, 0))
    assert caught.value.offset <= len(filled().data)
    os.close(descriptor)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_rearranged_segments(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Any frames of two sound segments, in any order, with any bytes in between."""
    writer = filled()
    frames = [writer.data[start:end] for start, end in zip(writer.starts, [*writer.starts[1:], len(writer.data)], strict=True)]
    picked = data.draw(st.lists(st.sampled_from([*range(len(frames)), -1]), max_size=12))
    rubbish = data.draw(st.binary(max_size=30))
    keep = data.draw(st.integers(0, len(frames)))
    path = tmp_path_factory.mktemp("scan") / f"{0:020d}.seg"
    whole = [*frames[:keep], *(frames[at] if at >= 0 else rubbish for at in picked)]
    path.write_bytes(Writer().data + b"".join(whole))
    before = scan._CHUNK
    scan._CHUNK = data.draw(st.sampled_from([30, 80, 1 << 17]))  # type: ignore[misc]  # put back below
    try:
        same(path)
    finally:
        scan._CHUNK = before  # type: ignore[misc]  # as it was


# --- records -----------------------------------------------------------------------------------------------------------------------------


def test_what_a_guard_writes_is_read_the_fast_way(tmp_path: Path) -> None:
    """A member that evidence.py gains and the fast form does not know makes `log verify` slow: it shows here."""
    with Guard.open(POLICY, home=tmp_path, durability="process") as guard:

        @guard.tool
        def echo(x: Any) -> Any:
            return x

        with guard.task("triage", initiator="user:alice", trusted_input="go") as task:
            echo(x=1)
            guard.decide(ToolCall("triage", "limited", {"b": 9}))
            with task.delegate("writer"):
                echo(x=2)
    records = [record for _, _, record in iter_records(tmp_path)]
    assert len(records) >= 8
    known = read_known(records)
    assert known is not None
    for item, record in zip(known, records, strict=True):
        members = read_record_members(record)
        assert (item.id, item.type) == (members["id"], members["type"])


def found_in(*records: bytes) -> list[str]:
    """What the audit says is wrong with each of the records, read together."""
    found: list[str] = []
    audit = Audit(lambda severity, kind, message, place: found.append(f"{place.offset} {kind}"))
    audit.add(records, range(len(records)), "x")
    audit.finish(lambda: [(record, Place("x", at)) for at, record in enumerate(records)])
    return found


GOOD = canonical(id="g", type="decision", verdict="deny")


@pytest.mark.parametrize(
    "records",
    [
        (b'{"id":"a"}', b'{"id": "b"}'),
        (b'{"type":"x","id":"a"}',),
        (b'{"id":"a","id":"b"}',),
        (b'{"expires":9007199254740992}',),
        (b'{"expires":1.0}',),
        (b'{"expires":-0}',),
        (b'{"agent":"\\u0041"}',),
        (b'{"agent":"\\/"}',),
        (b'{"agent":"\xc3"}',),
        (b'{"initiator":{"method":"a","id":"b"}}',),
        (b'{"stages":{"10":"pass","0":"pass"}}',),
        (b'{"stages":{"0":"pass","0":"pass"}}',),
        (b'{"detail":{"b":1,"a":2},"type":"note"}',),
        (b'{"detail":{"a":1.5},"type":"note"}',),
        (b'{"detail":{"a":{"n":9007199254740993}},"type":"decision"}',),
        (b'{"detail":[1, 2],"type":"outcome"}',),
        (b'{"id":"a"}\n',),
        (b'{"id":"a"}\n{"id":"b"}',),
        (b'{"reserved":[1', b"2]}"),
        (b'{"reserved":[1', b'2]}\n{"id":"b"}'),
        (b'{"detail":[1', b'2]}\n{"id":"b"}'),
        (b'{"detail":[1', b'2],"type":"a"}', b'{"id":"b"}\n{"id":"c"}'),
        (b'{"id":"a"}{"id":"b"}',),
        (b"[]",),
        (b"7",),
        (b'{"detail":' + b"[" * 3000 + b"]" * 3000 + b"}",),
    ],
    ids=lambda records: b" | ".join(records).decode("utf-8", "replace")[:60],
)
def test_records_that_only_look_canonical_among_others(records: tuple[bytes, ...]) -> None:
    """Many records are parsed as one text: none can hide in it, and none can make its neighbour look bad."""
    wrong = []
    for at, record in enumerate(records):
        try:
            read_record_members(record)
        except InvalidInput:
            wrong.append(at)
    assert wrong
    assert found_in(*records) == [f"{at} record" for at in wrong]
    assert found_in(GOOD, *records) == [f"{at + 1} record" for at in wrong]
    assert found_in(*records, GOOD) == [f"{at} record" for at in wrong]


@pytest.mark.parametrize("record", [b'{"new":{"member":1}}', '{"agent":"Zoë"}'.encode(), b'{"detail":{"a":[1,"x",null]}}', b"{}"])
def test_records_of_another_form_are_fine(record: bytes) -> None:
    assert found_in(GOOD, record) == []


_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**54), 2**54) | st.text(max_size=4) | st.sampled_from(["pass", "\x7f", "\u2028", 0.5]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["0", "1", "10", "id", "é", "method"]), inner, max_size=3),
    max_leaves=5,
)
_members = st.dictionaries(
    st.sampled_from(["id", "type", "detail", "stages", "initiator", "reserved", "agent", "expires", "verdict", "other"]),
    _values,
    max_size=5,
)


@settings(max_examples=80, deadline=None)
@given(st.lists(_members, min_size=1, max_size=4), st.data())
def test_fast_and_careful_agree(bodies: list[dict[str, Any]], data: st.DataObject) -> None:
    """Whatever records hold, written canonically or with a byte too many, the two ways say the same of each."""
    records = []
    for body in bodies:
        try:
            record = jcs(body)
        except InvalidInput:
            record = b'{"a":1.5}'
        at = data.draw(st.integers(0, len(record)))
        records.append(record[:at] + data.draw(st.sampled_from([b"", b"", b"", b" ", b"\n", b","])) + record[at:])
    if read_known(records) is not None:
        for record in records:
            try:
                read_record_members(record)
            except InvalidInput:
                assert b'"detail"' in record


def test_ids_across_runs() -> None:
    assert found_in(decision("a"), outcome("a"), decision("a", verdict="deny")) == ["2 duplicate"]
    assert found_in(*[decision(f"e{at}", verdict="deny") for at in range(300)]) == []
