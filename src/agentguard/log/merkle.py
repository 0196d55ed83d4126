"""The Merkle tree of RFC 6962 §2.1: hashes, the compact form a writer needs, and the two proofs.

A tree of `size` leaves is kept as its *peaks*: the roots of the perfect subtrees that its leaves split into, largest first, one for each
set bit of `size` (RFC 9162 calls what is folded here the tree's decomposition). Appending costs one hash on average and folding the peaks
to the root one for each of them, so a writer never reads its leaves again.

Everything here is pure. Hashes are 32 raw bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from agentguard.errors import InvalidInput

_sha256 = hashlib.sha256

#: The root of a tree without leaves: the hash of nothing (RFC 6962 §2.1).
EMPTY_ROOT: Final = _sha256(b"").digest()
HASH_SIZE: Final = 32
_FEW: Final = 8


def leaf_hash(record: bytes) -> bytes:
    """SHA-256(0x00 ‖ record)."""
    return _sha256(b"\x00" + record).digest()


def next_seal(seal: bytes, leaf: bytes) -> bytes:
    """SHA-256(0x03 ‖ seal ‖ leaf): ties a leaf to all before it for one hash, where the root costs one for each peak. A log that seals
    every append pays for the tree only where it signs."""
    return _sha256(b"\x03" + seal + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 ‖ left ‖ right)."""
    return _sha256(b"\x01" + left + right).digest()


def fold(peaks: Sequence[bytes]) -> bytes:
    """The root over peaks given largest first."""
    if not peaks:
        return EMPTY_ROOT
    node = peaks[-1]
    for peak in peaks[-2::-1]:
        node = node_hash(peak, node)
    return node


class Frontier:
    """The compact form of a tree of `size` leaves; `peaks` must not be changed from outside."""

    __slots__ = ("peaks", "size")

    size: int
    peaks: list[bytes]

    def __init__(self, size: int = 0, peaks: Sequence[bytes] = ()) -> None:
        """Raises InvalidInput unless there is one 32-byte peak for each set bit of `size`."""
        if size < 0 or len(peaks) != size.bit_count() or any(len(peak) != HASH_SIZE for peak in peaks):
            raise InvalidInput(f"a tree of {size} leaves does not have {len(peaks)} such peaks")
        self.size = size
        self.peaks = list(peaks)

    def append(self, leaf: bytes) -> None:
        """Add a leaf hash at the right end."""
        peaks, size = self.peaks, self.size
        self.size = size + 1
        while size & 1:
            leaf = _sha256(b"\x01" + peaks.pop() + leaf).digest()
            size >>= 1
        peaks.append(leaf)

    def extend(self, leaves: Sequence[bytes]) -> None:
        """Add many leaf hashes at the right end: what `append` does for each, level by level and so for half the time."""
        if len(leaves) < _FEW:
            for leaf in leaves:
                self.append(leaf)
            return
        peaks, size, level = self.peaks, self.size, list(leaves)
        self.size = size + len(level)
        made = []
        while level:
            if size & 1:
                level.insert(0, peaks.pop())
            if len(level) & 1:
                made.append(level.pop())
            pairs = iter(level)
            level = [_sha256(b"\x01" + left + right).digest() for left, right in zip(pairs, pairs, strict=True)]
            size >>= 1
        peaks.extend(reversed(made))

    def root(self) -> bytes:
        """The tree's root hash."""
        return fold(self.peaks)

    def seal(self) -> bytes:
        """SHA-256(0x02 ‖ peaks, largest first): where a chain of seals starts."""
        return _sha256(b"\x02" + b"".join(self.peaks)).digest()

    def copy(self) -> Frontier:
        """An independent copy."""
        return Frontier(self.size, self.peaks)


def root_of(leaves: Sequence[bytes]) -> bytes:
    """The root over a sequence of leaf hashes."""
    frontier = Frontier()
    frontier.extend(leaves)
    return frontier.root()


def next_level(hashes: Sequence[bytes]) -> list[bytes]:
    """The nodes above each two of these. One that is left over has none."""
    pairs = iter(hashes)
    return [_sha256(b"\x01" + left + right).digest() for left, right in zip(pairs, pairs, strict=False)]


#: Gives the root of a perfect subtree: the one over the leaves `number * 2**level` up to `(number + 1) * 2**level`.
Nodes: TypeAlias = Callable[[int, int], bytes]


def nodes_of(leaves: Sequence[bytes]) -> Nodes:
    """The subtrees over a sequence of leaf hashes, computed each time."""
    return lambda level, number: root_of(leaves[number << level : number + 1 << level])


def inclusion_proof(nodes: Nodes, index: int, size: int) -> tuple[bytes, ...]:
    """The audit path of leaf `index` in the tree of `size` leaves, lowest node first (RFC 6962 §2.1.1). Raises InvalidInput if there is no
    such leaf."""
    if not 0 <= index < size:
        raise InvalidInput(f"there is no leaf {index} in a tree of {size}")
    low, high = 0, size
    path: list[bytes] = []
    while high - low > 1:
        middle = low + _split(high - low)
        if index < middle:
            path.append(_root_between(nodes, middle, high))
            high = middle
        else:
            path.append(_root_between(nodes, low, middle))
            low = middle
    return tuple(reversed(path))


def consistency_proof(nodes: Nodes, old_size: int, size: int) -> tuple[bytes, ...]:
    """That the tree of `size` leaves extends the one over the first `old_size` of them (RFC 6962 §2.1.2). Raises InvalidInput unless
    0 < old_size ≤ size."""
    if not 0 < old_size <= size:
        raise InvalidInput(f"a tree of {size} leaves cannot extend one of {old_size}")
    low, high = 0, size
    path: list[bytes] = []
    known = True  # whether the verifier holds the root between `low` and `old_size` already, as the old root
    while old_size < high:
        middle = low + _split(high - low)
        if old_size <= middle:
            path.append(_root_between(nodes, middle, high))
            high = middle
        else:
            path.append(_root_between(nodes, low, middle))
            low, known = middle, False
    if not known:
        path.append(_root_between(nodes, low, high))
    return tuple(reversed(path))


def _split(size: int) -> int:
    """The largest power of two below `size` (size ≥ 2)."""
    return 1 << ((size - 1).bit_length() - 1)


def peaks_between(low: int, high: int) -> list[tuple[int, int]]:
    """(level, number) of the perfect subtrees over the leaves from `low` up to `high`, largest first. `low` is a multiple of the smallest
    power of two that is not below `high - low`, as in every subtree of RFC 6962."""
    found = []
    while low < high:
        level = (high - low).bit_length() - 1
        found.append((level, low >> level))
        low += 1 << level
    return found


def _root_between(nodes: Nodes, low: int, high: int) -> bytes:
    return fold([nodes(level, number) for level, number in peaks_between(low, high)])


def _sides(position: int, last: int, length: int) -> list[bool] | None:
    """For each hash of a path of this length up from node `position` of a level that ends with `last`, whether it stands left of what is
    folded so far (RFC 9162 §2.1.3.2); None where a path up to the root has another length."""
    sides = []
    for _ in range(length):
        if last == 0:
            return None
        left = bool(position & 1) or position == last
        sides.append(left)
        while left and not position & 1 and position:
            position >>= 1
            last >>= 1
        position >>= 1
        last >>= 1
    return sides if last == 0 else None


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether `leaf` is leaf `index` of the tree of `size` leaves under `root` (RFC 9162 §2.1.3.2). Total."""
    sides = _sides(index, size - 1, len(proof)) if 0 <= index < size else None
    if sides is None:
        return False
    node = leaf
    for sibling, left in zip(proof, sides, strict=True):
        node = node_hash(sibling, node) if left else node_hash(node, sibling)
    return node == root


def root_before(index: int, size: int, proof: Sequence[bytes]) -> bytes:
    """The root over the leaves before leaf `index`: the verified audit path of that leaf holds all peaks of their tree. Raises InvalidInput
    for what is no such path."""
    sides = _sides(index, size - 1, len(proof)) if 0 <= index < size else None
    if sides is None:
        raise InvalidInput(f"{len(proof)} hashes are no path from leaf {index} to the root of {size}")
    return fold([sibling for sibling, left in zip(proof, sides, strict=True) if left][::-1])


def verify_consistency(old_size: int, new_size: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether the tree under `new_root` extends the one under `old_root` (RFC 9162 §2.1.4.2). Total. Anything extends the empty tree."""
    if not 0 <= old_size <= new_size:
        return False
    if old_size == 0:
        return not proof and old_root == EMPTY_ROOT
    if old_size == new_size:
        return not proof and old_root == new_root
    path = list(proof)
    if old_size & (old_size - 1) == 0:
        path.insert(0, old_root)  # a perfect subtree is its own node in the new tree
    if not path:
        return False
    position, last = old_size - 1, new_size - 1
    while position & 1:
        position >>= 1
        last >>= 1
    sides = _sides(position, last, len(path) - 1)
    if sides is None:
        return False
    old = new = path[0]
    for node, left in zip(path[1:], sides, strict=True):
        if left:
            old = node_hash(node, old)
        new = node_hash(node, new) if left else node_hash(new, node)
    return old == old_root and new == new_root
