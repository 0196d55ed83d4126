r"""A disk as a power cut may leave it, worked out from the system calls of whoever wrote to it.

What counts is what POSIX promises, and no more: `fsync` and `fdatasync` of a file make its bytes durable, `fsync` of a directory the
names in it. Of what was not synced any beginning may be there: of each file the first so many writes, and of the next one a part that ends
at a sector's border, with nothing behind it or with zeros up to the length it was to have; of each directory the first so many changes.
Files and directories are independent of each other: a name may be there without its bytes, and the bytes of one file without those of
another that was written before.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Final

from support.straced import Call

SECTOR: Final = 512
#: What strace has to follow.
TRACED: Final = (
    "trace=open,openat,creat,write,pwrite64,writev,pwritev,fsync,fdatasync,sync_file_range,msync,ftruncate,truncate,fallocate,"
    "rename,renameat,renameat2,unlink,unlinkat,link,linkat,symlink,symlinkat,mkdir,mkdirat,rmdir"
)


@dataclass(slots=True, eq=False)
class _File:
    durable: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)  # (offset, bytes), or (length, None) for a change of length
    size: int = 0

    def change(self, offset: int, data: bytes | None) -> None:
        self.pending.append((offset, data))
        self.size = offset if data is None else max(self.size, offset + len(data))

    def sync(self) -> None:
        self.durable, self.pending = list(self.states())[-1], []

    def states(self) -> Iterator[bytes]:
        """What may be on the disk, from nothing unsynced to all."""
        content = self.durable
        yield content
        for offset, data in self.pending:
            if data is None:
                content = content[:offset].ljust(offset, b"\0")
            else:
                before, end = content, offset + len(data)
                content = content.ljust(offset, b"\0")
                for cut in (offset, *range(offset - offset % SECTOR + SECTOR, end, SECTOR)):
                    torn = content[:offset] + data[: cut - offset] + content[cut:]
                    if torn != before:
                        yield torn
                    if len(torn) < end:
                        yield torn.ljust(end, b"\0")
                content = content[:offset] + data + content[end:]
            yield content


@dataclass(slots=True, eq=False)
class _Directory:
    durable: dict[str, _Node] = field(default_factory=dict)
    pending: list[dict[str, _Node | None]] = field(default_factory=list)  # each takes effect as a whole
    names: dict[str, _Node] = field(default_factory=dict)  # as the processes see them

    def change(self, names: dict[str, _Node | None]) -> None:
        self.pending.append(names)
        self.names = _changed(self.names, names)

    def sync(self) -> None:
        self.durable, self.pending = dict(self.names), []

    def states(self) -> Iterator[dict[str, _Node]]:
        names = self.durable
        yield names
        for change in self.pending:
            names = _changed(names, change)
            yield names


_Node = _File | _Directory


def _changed(names: dict[str, _Node], change: dict[str, _Node | None]) -> dict[str, _Node]:
    return {name: node for name, node in {**names, **change}.items() if node is not None}


@dataclass(frozen=True, slots=True)
class State:
    """A disk after the power came back: files with their bytes, directories (None), and what had been acknowledged before it went."""

    tree: tuple[tuple[str, bytes | None], ...]
    acknowledged: bytes

    def rebuild(self, root: Path) -> None:
        """Put it under `root`, and nothing else."""
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        for name, data in self.tree:
            if data is None:
                (root / name).mkdir()
            else:
                (root / name).write_bytes(data)


class Disk:
    """What the calls did to everything below `root`, which is durable as it stands when the disk is made."""

    def __init__(self, root: Path) -> None:
        self._prefix = f"{root}/"
        self._root = _read_directory(root) if root.exists() else _Directory()
        self.acknowledged = b""  # what was written to standard output

    def apply(self, call: Call) -> None:
        """What a call did. Raises AssertionError for one that is not understood: nothing is left out silently."""
        if call.failed:
            return
        if call.name == "write" and call.args[0].startswith("1<"):
            self.acknowledged += call.text(1)
        elif any(f"{path}/".startswith(self._prefix) for path in call.paths()):
            assert call.name in _CALLS, f"no test knows what {call.name} does to a disk"
            _CALLS[call.name](self, call)

    def states(self, *, every: bool) -> Iterator[State]:
        """What a power cut may leave now. Every combination of what each file and directory may have; or each of them alone, while the
        others have nothing that was not synced, and while they have all."""
        nodes = [node for node in _reachable(self._root) if node.pending]
        choices = [list(node.states()) for node in nodes]
        picks: set[tuple[int, ...]] = {()}
        if every:
            picks = set(product(*(range(len(choice)) for choice in choices)))
        elif nodes:
            for others in ([0] * len(nodes), [len(choice) - 1 for choice in choices]):
                for at, choice in enumerate(choices):
                    picks.update((*others[:at], pick, *others[at + 1 :]) for pick in range(len(choice)))
        for pick in picks - {()} if nodes else picks:
            chosen = {id(node): choice[index] for node, choice, index in zip(nodes, choices, pick, strict=True)}
            yield State(tuple(_tree(self._root, "", chosen)), self.acknowledged)

    def _find(self, path: str) -> _Node:
        node: _Node = self._root
        for name in path.removeprefix(self._prefix.rstrip("/")).strip("/").split("/"):
            if name:
                assert isinstance(node, _Directory)
                node = node.names[name]
        return node

    def _file(self, path: str) -> _File | None:
        """The file, or None for one that has no name any more."""
        if path.endswith(" (deleted)"):
            return None
        node = self._find(path)
        assert isinstance(node, _File)
        return node

    def _parent(self, path: str) -> tuple[_Directory, str]:
        parent, _, name = path.rpartition("/")
        node = self._find(parent)
        assert isinstance(node, _Directory)
        return node, name

    def _open(self, call: Call) -> None:
        path, flags = call.path(1), call.args[2].split("|")
        assert path.startswith("/"), "a path relative to a descriptor"
        if "O_CREAT" in flags:
            parent, name = self._parent(path)
            if name not in parent.names:
                parent.change({name: _File()})
        if "O_TRUNC" in flags and (file := self._file(path)) is not None:
            file.change(0, None)

    def _write(self, call: Call) -> None:
        file, taken = self._file(call.path()), call.result or 0
        if file is not None:  # whoever writes without an offset appends: a log's segment, or a file that was just made
            file.change(int(call.args[3]) if call.name == "pwrite64" else file.size, call.text(1)[:taken])

    def _sync(self, call: Call) -> None:
        if not call.path().endswith(" (deleted)"):
            self._find(call.path()).sync()

    def _cut(self, call: Call) -> None:
        if (file := self._file(call.path())) is not None:
            file.change(int(call.args[1]), None)

    def _allocate(self, call: Call) -> None:
        if (file := self._file(call.path())) is not None:
            file.change(max(file.size, int(call.args[2]) + int(call.args[3])), None)

    def _rename(self, call: Call) -> None:
        parent, old = self._parent(call.path(0))
        other, new = self._parent(call.path(1))
        assert parent is other, "a name moves between directories"
        parent.change({new: parent.names[old], old: None})

    def _unlink(self, call: Call) -> None:
        parent, name = self._parent(call.path())
        parent.change({name: None})

    def _mkdir(self, call: Call) -> None:
        parent, name = self._parent(call.path())
        parent.change({name: _Directory()})


_CALLS: Final[dict[str, Callable[[Disk, Call], None]]] = {
    "openat": Disk._open,
    "write": Disk._write,
    "pwrite64": Disk._write,
    "fsync": Disk._sync,
    "fdatasync": Disk._sync,
    "ftruncate": Disk._cut,
    "fallocate": Disk._allocate,
    "rename": Disk._rename,
    "unlink": Disk._unlink,
    "mkdir": Disk._mkdir,
}


def _read(path: Path) -> _Node:
    if path.is_file():
        data = path.read_bytes()
        return _File(data, size=len(data))
    return _read_directory(path)


def _read_directory(path: Path) -> _Directory:
    names = {entry.name: _read(entry) for entry in path.iterdir()}
    return _Directory(names, names=dict(names))


def _reachable(root: _Node) -> Iterator[_Node]:
    """Every file and directory that is named now, or may be after a power cut."""
    seen, waiting = set[int](), [root]
    while waiting:
        node = waiting.pop()
        if id(node) not in seen:
            seen.add(id(node))
            yield node
            if isinstance(node, _Directory):
                waiting += [each for names in node.states() for each in names.values()]


def _tree(directory: _Directory, prefix: str, chosen: Mapping[int, object]) -> Iterator[tuple[str, bytes | None]]:
    names = chosen.get(id(directory), directory.durable)
    assert isinstance(names, dict)
    for name, node in sorted(names.items()):
        if isinstance(node, _Directory):
            yield f"{prefix}{name}", None
            yield from _tree(node, f"{prefix}{name}/", chosen)
        else:
            content = chosen.get(id(node), node.durable)
            assert isinstance(content, bytes)
            yield f"{prefix}{name}", content


def power_cuts(root: Path, disk: Disk, calls: Iterable[Call], *, every: bool = False) -> list[State]:
    """Each state that a power cut may leave before, between or after the calls, once, with the most that was acknowledged by then."""
    found: dict[tuple[tuple[str, bytes | None], ...], State] = {}
    for call in (None, *calls):
        if call is not None:
            disk.apply(call)
        for state in disk.states(every=every):
            found[state.tree] = state
    return list(found.values())
