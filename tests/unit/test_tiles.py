"""Tiles (log/tiles.py, log/site.py) against C2SP tlog-tiles: paths, widths, what a second run writes, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentguard.errors import InvalidInput
from agentguard.keys import LocalKey
from agentguard.log.identity import LogKeys
from agentguard.log.merkle import inclusion_proof, leaf_hash, nodes_of, verify_inclusion
from agentguard.log.site import check_site, site_shards, write_sites
from agentguard.log.tiles import Tiles, tile_path, width_of
from support.logs import KEY, open_log, small
from support.transparency import KEYS, head_of, head_over, records_of, write


def extend(directory: Path, records: list[bytes], *, site: bool = True) -> Tiles:
    tiles = Tiles(directory, site=site)
    note, checkpoint = head_of(records)
    tiles.extend(note, checkpoint, records[tiles.size :])
    return Tiles(directory, site=site)


def files(directory: Path) -> dict[str, int]:
    """Every file and its inode: a file that was replaced has another."""
    return {str(path.relative_to(directory)): path.stat().st_ino for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("level", "number", "width", "path"),
    [
        (0, 0, 256, "tile/0/000"),
        (0, 999, 256, "tile/0/999"),
        (1, 1000, 256, "tile/1/x001/000"),
        (0, 1234067, 256, "tile/0/x001/x234/067"),  # the specification's own example
        (3, 5, 7, "tile/3/005.p/7"),
        ("entries", 1234067, 255, "tile/entries/x001/x234/067.p/255"),
    ],
)
def test_paths(level: int | str, number: int, width: int, path: str) -> None:
    assert tile_path(level, number, width) == path


def test_widths_are_those_of_the_specifications_examples() -> None:
    assert [width_of(70_000, 0, number) for number in (0, 272, 273, 274)] == [256, 256, 112, 0]
    assert [width_of(70_000, 1, number) for number in (0, 1, 2)] == [256, 17, 0]
    assert [width_of(70_000, 2, number) for number in (0, 1)] == [1, 0]
    assert [width_of(256, 0, 0), width_of(256, 1, 0), width_of(255, 1, 0)] == [256, 1, 0]


def test_a_tree_grows_tile_by_tile(tmp_path: Path) -> None:
    records = records_of(70_000)
    leaves = [leaf_hash(record) for record in records]
    for size in (0, 1, 2, 255, 256, 257, 511, 512, 513, 65_535, 65_536, 70_000):
        note, checkpoint = head_over(leaves[:size])
        tiles = Tiles(tmp_path, site=True)
        tiles.extend(note, checkpoint, records[tiles.size : size])
        tiles = Tiles(tmp_path, site=True)
        assert (tiles.size, tiles.edge().root()) == (size, checkpoint.root)
        partial = {f"tile/{level}/{width_of_last}" for level, width_of_last in _partials(size)}
        assert partial <= set(files(tmp_path))
        for index in {0, size // 2, size - 2, size - 1} & set(range(size)):
            proof = inclusion_proof(tiles.node, index, size)
            assert verify_inclusion(leaves[index], index, size, proof, checkpoint.root)
    assert len(files(tmp_path)) == 1 + 2 * 273 + 2 + 1 + 1 + 1  # checkpoint, full and partial tiles with entries, levels 1 and 2


def _partials(size: int) -> list[tuple[str, str]]:
    found = []
    for level in range(3):
        count = size >> 8 * level
        if count % 256:
            found.append((str(level), f"{tile_path(level, count // 256, count % 256)}".removeprefix(f"tile/{level}/")))
    return found


@pytest.mark.parametrize("size", [1, 3, 70, 256, 300])
def test_proofs_from_tiles_are_those_from_leaves(tmp_path: Path, size: int) -> None:
    records = records_of(size)
    tiles = extend(tmp_path, records)
    nodes = nodes_of([leaf_hash(record) for record in records])
    for index in range(0, size, 7):
        assert inclusion_proof(tiles.node, index, size) == inclusion_proof(nodes, index, size)


def test_a_second_run_writes_only_what_is_new_and_drops_partial_tiles_once_the_full_one_is_there(tmp_path: Path) -> None:
    records = records_of(600)
    extend(tmp_path, records[:300])
    before = files(tmp_path)
    assert "tile/0/001.p/44" in before
    extend(tmp_path, records[:300])
    assert files(tmp_path) == before  # nothing new: nothing written
    extend(tmp_path, records[:310])
    more = files(tmp_path)
    assert set(more) - set(before) == {"tile/0/001.p/54", "tile/entries/001.p/54"}  # the earlier partial tile stays: a client may need it
    assert all(more[name] == inode for name, inode in before.items() if name != "checkpoint")
    extend(tmp_path, records)
    last = files(tmp_path)
    assert {"tile/0/001", "tile/entries/001", "tile/0/002.p/88", "tile/1/000.p/1", "tile/1/000.p/2"} <= set(last)
    assert not [name for name in last if name.startswith(("tile/0/001.p", "tile/entries/001.p"))]
    assert last["tile/0/000"] == before["tile/0/000"]


def test_entry_bundles_hold_the_records_behind_their_lengths(tmp_path: Path) -> None:
    records = [b"a", b"bb" * 300, b"\xff" * 65_535]
    extend(tmp_path, records)
    data = (tmp_path / "tile/entries/000.p/3").read_bytes()
    assert data == b"\x00\x01a" + b"\x02\x58" + b"bb" * 300 + b"\xff\xff" + records[2]
    assert (tmp_path / "tile/0/000.p/3").read_bytes() == b"".join(leaf_hash(record) for record in records)


def test_a_site_can_be_served_and_a_cache_is_private(tmp_path: Path) -> None:
    for site, mode in ((True, 0o644), (False, 0o600)):
        directory = tmp_path / str(site)
        extend(directory, records_of(3), site=site)
        assert {path.stat().st_mode & 0o777 for path in directory.rglob("*") if path.is_file()} == {mode}
        assert (directory / "tile/entries").exists() is site


def test_what_does_not_grow_out_of_what_is_there_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    records = records_of(300)
    extend(tmp_path, records)
    before = files(tmp_path)
    other = [*records[:299], b"another", *records_of(400)[300:]]
    cases = {
        "cut or rolled back": (head_of(records[:200]), []),
        "do not give the root": (head_of(other), other[300:]),
        "its checkpoint speaks of 310": (head_of(records_of(310)), []),
    }
    for message, ((note, checkpoint), more) in cases.items():
        with pytest.raises(InvalidInput, match=message):
            Tiles(tmp_path, site=True).extend(note, checkpoint, more)
        assert before.items() <= files(tmp_path).items()
    extend(tmp_path, records_of(700))  # and it goes on as if nothing had been


@pytest.mark.parametrize("path", ["tile/0/001.p/44", "tile/1/000.p/1", "tile/entries/001.p/44"])
@pytest.mark.parametrize("change", ["flip", "cut", "gone"])
def test_a_damaged_edge_is_refused(tmp_path: Path, path: str, change: str) -> None:
    records = records_of(400)
    extend(tmp_path, records[:300])
    place = tmp_path / path
    data = bytearray(place.read_bytes())
    data[-1] ^= 1
    if change == "gone":
        place.unlink()
    else:
        place.write_bytes(data if change == "flip" else data[:-1])
    before = files(tmp_path)
    message = "not those of their tile" if "entries" in path else "do not give the root of the checkpoint beside them"
    with pytest.raises(InvalidInput, match=message if change == "flip" else r"not there|damaged"):
        extend(tmp_path, records)
    assert files(tmp_path) == before


def test_a_checkpoint_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    extend(tmp_path, records_of(3))
    (tmp_path / "checkpoint").write_bytes(b"nonsense")
    with pytest.raises(InvalidInput, match="checkpoint: not a signed note"):
        extend(tmp_path, records_of(4))


class TestSites:
    def test_each_shard_has_one_and_they_are_whole(self, tmp_path: Path) -> None:
        home, out = tmp_path / "home", tmp_path / "out"
        shards = sorted(write(home, 40, shards=2))
        assert [(site.before, site.size) for site in write_sites(home, out, KEYS)] == [(0, 40), (0, 40)]
        assert site_shards(out) == shards
        write(home, 300)
        grown = {site.shard: (site.before, site.size) for site in write_sites(home, out, KEYS)}
        assert sorted(grown.values()) == [(40, 40), (40, 340)]
        for shard in shards:
            assert check_site(out / shard, KEYS).origin == KEYS.origin(shard)

    def test_a_log_that_is_being_written_is_shown_up_to_its_last_checkpoint(self, tmp_path: Path) -> None:
        home, out = tmp_path / "home", tmp_path / "out"
        with open_log(home, "fsync") as log:
            log.append(small(1))
            assert [site.size for site in write_sites(home, out, KEYS)] == [1]
            log.append(small(2))
            assert [site.size for site in write_sites(home, out, KEYS)] == [2]
        note = (out / log.shard / "checkpoint").read_bytes()
        assert [site.size for site in write_sites(home, out, KEYS)] == [2]
        assert note != (out / log.shard / "checkpoint").read_bytes()  # the final checkpoint, of the same tree

    def test_of_another_log_is_left_alone(self, tmp_path: Path) -> None:
        home, out = tmp_path / "home", tmp_path / "out"
        (shard,) = write(home, 5)
        list(write_sites(home, out, KEYS))
        other = LogKeys.first(LocalKey.generate().public)
        with pytest.raises(InvalidInput, match="the site is of"):
            check_site(out / shard, other)
        note, _ = head_of(records_of(3), origin=KEYS.origin("0" * 16))
        (out / shard / "checkpoint").write_bytes(note)
        with pytest.raises(InvalidInput, match="the site is of"):
            list(write_sites(home, out, KEYS))

    def test_without_a_log_there_is_nothing_to_show(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidInput, match="no log here"):
            list(write_sites(tmp_path, tmp_path / "out", KEY.public))
        with pytest.raises(InvalidInput, match="no checkpoint"):
            check_site(tmp_path, KEYS)
