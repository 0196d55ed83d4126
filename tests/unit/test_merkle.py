"""The tree (log/merkle.py) against RFC 6962's definition and published vectors."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentguard.errors import InvalidInput
from agentguard.log import merkle
from agentguard.log.merkle import (
    Frontier,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    nodes_of,
    verify_consistency,
    verify_inclusion,
)

#: The inputs and roots that Certificate Transparency's reference implementation is tested with.
INPUTS = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def leaves_of(count: int) -> list[bytes]:
    return [leaf_hash(str(index).encode()) for index in range(count)]


def definition(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962 §2.1, as it is written there."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return node_hash(definition(leaves[:split]), definition(leaves[split:]))


def test_published_roots() -> None:
    frontier = Frontier()
    assert frontier.root() == merkle.EMPTY_ROOT == hashlib.sha256(b"").digest()
    for text, root in zip(INPUTS, ROOTS, strict=True):
        frontier.append(leaf_hash(bytes.fromhex(text)))
        assert frontier.root().hex() == root


def test_published_inclusion_proof() -> None:
    leaves = [leaf_hash(bytes.fromhex(text)) for text in INPUTS]
    assert [item.hex()[:8] for item in inclusion_proof(nodes_of(leaves), 5, 8)] == ["bc1a0643", "ca854ea1", "d37ee418"]


def test_every_size_agrees_with_the_definition_and_resumes_from_its_peaks() -> None:
    frontier, leaves = Frontier(), leaves_of(130)
    for size, leaf in enumerate(leaves):
        assert frontier.root() == definition(leaves[:size]) == merkle.fold(frontier.peaks)
        again = Frontier(size, frontier.peaks)
        frontier.append(leaf)
        again.append(leaf)
        assert again.root() == frontier.root()
        assert frontier.size == size + 1


def test_a_copy_is_independent() -> None:
    frontier = Frontier()
    for leaf in leaves_of(7):
        frontier.append(leaf)
    copy = frontier.copy()
    root = frontier.root()
    copy.append(leaf_hash(b"more"))
    assert frontier.root() == root != copy.root()


@pytest.mark.parametrize(("size", "peaks"), [(3, [b"x" * 32]), (1, []), (1, [b"short"]), (-1, []), (0, [b"x" * 32])])
def test_peaks_that_do_not_fit_the_size_are_refused(size: int, peaks: list[bytes]) -> None:
    with pytest.raises(InvalidInput, match="does not have"):
        Frontier(size, peaks)


def test_every_inclusion_proof_of_small_trees_holds_for_its_leaf_only() -> None:
    leaves = leaves_of(33)
    for size in range(1, 34):
        root = definition(leaves[:size])
        for index in range(size):
            proof = inclusion_proof(nodes_of(leaves), index, size)
            assert verify_inclusion(leaves[index], index, size, proof, root)
            assert not verify_inclusion(leaf_hash(b"other"), index, size, proof, root)
            for wrong in {index - 1, index + 1, size} - {index}:
                assert not verify_inclusion(leaves[index], wrong, size, proof, root)
            assert not verify_inclusion(leaves[index], index, size, (*proof, b"x" * 32), root)
            assert not proof or not verify_inclusion(leaves[index], index, size, proof[:-1], root)


def test_every_consistency_proof_of_small_trees_holds_for_its_sizes_only() -> None:
    leaves = leaves_of(33)
    for new in range(1, 34):
        for old in range(1, new + 1):
            before, after = definition(leaves[:old]), definition(leaves[:new])
            proof = consistency_proof(nodes_of(leaves), old, new)
            assert verify_consistency(old, new, before, after, proof)
            assert not verify_consistency(old, new, leaf_hash(b"other"), after, proof)
            assert not verify_consistency(old, new, before, leaf_hash(b"other"), proof)
            assert not verify_consistency(old, new, before, after, (*proof, b"x" * 32))
            assert not proof or not verify_consistency(old, new, before, after, proof[:-1])


@given(st.integers(2, 200), st.data())
def test_a_changed_hash_in_a_proof_is_noticed(size: int, data: st.DataObject) -> None:
    leaves = leaves_of(size)
    root = definition(leaves)
    index = data.draw(st.integers(0, size - 1))
    proof = list(inclusion_proof(nodes_of(leaves), index, size))
    position = data.draw(st.integers(0, len(proof) - 1))
    proof[position] = bytes([proof[position][0] ^ 1]) + proof[position][1:]
    assert not verify_inclusion(leaves[index], index, size, proof, root)


def test_sizes_that_cannot_be_are_refused_or_false() -> None:
    leaves = leaves_of(4)
    with pytest.raises(InvalidInput, match="no leaf 4"):
        inclusion_proof(nodes_of(leaves), 4, 4)
    with pytest.raises(InvalidInput, match="cannot extend"):
        consistency_proof(nodes_of(leaves), 5, 4)
    with pytest.raises(InvalidInput, match="cannot extend"):
        consistency_proof(nodes_of(leaves), 0, 4)
    root = definition(leaves)
    assert not verify_inclusion(leaves[0], -1, 4, (), root)
    assert not verify_inclusion(leaves[0], 0, 0, (), root)
    assert not verify_consistency(5, 4, root, root, ())
    assert not verify_consistency(2, 4, root, root, ())
    assert verify_consistency(0, 4, merkle.EMPTY_ROOT, root, ())
    assert not verify_consistency(0, 4, root, root, ())
    assert verify_consistency(4, 4, root, root, ())
