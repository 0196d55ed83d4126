"""Policies of several files: `import: [base.yaml, shared/tools.yaml]`, merged before anything is judged.

Members of mappings (agents, groups, tools, environment) merge by name, and the same name in two files is a mistake unless both say the
same; lists (forbid, sequence) follow one another: the importing file's first, then those of its imports in their order. A file that is
named on two ways counts once. The merged policy is the policy: its digest covers every file, and each place still names the file in
which it is written.

A name in `import` is relative to the importing file and stays inside the directory of the first one, symbolic links followed: who may
write a policy decides what it imports, and a policy that reaches out of its directory would hang on what nobody reviews with it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from agentguard.canonical import Json, jcs
from agentguard.errors import InvalidInput
from agentguard.policy.file import MAX_BYTES, Document, Steps, is_text, read, read_source

#: Files of one policy, and how many imports lead to the deepest of them.
MAX_FILES: Final = 64
MAX_WAY: Final = 16
_MAX_NAME: Final = 1024
_HEAD: Final = ("agentguard", "name", "import")


class File(NamedTuple):
    """One file of a policy: its name relative to the directory of the first one, with `/`, and its text."""

    name: str
    text: str


class Sources(NamedTuple):
    """A policy as it was read: the merged document, and every file of it, the first one first."""

    document: Document
    files: tuple[File, ...]


#: Gives the text and the label of a file by its name; the second argument is the place that asks for it. Raises InvalidInput.
_Fetch = Callable[[str, str], tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Merged(Document):
    """Several documents as one. `parts` tells for each section, and for each member of one, the document and the path it came from."""

    parts: Mapping[Steps, tuple[Document, Steps]]
    order: Mapping[str, int]

    def at(self, path: Steps) -> tuple[Document, Steps]:
        for length in (2, 1):
            found = self.parts.get(path[:length]) if len(path) >= length else None
            if found is not None:
                return found[0], (*found[1], *path[length:])
        return self.parts[()]

    def locate(self, path: Steps, *, key: bool = False) -> tuple[int, int]:
        document, inner = self.at(path)
        return document.locate(inner, key=key)

    def rank(self, path: Steps, *, key: bool = False) -> tuple[int, int, int]:
        return (self.order[self.at(path)[0].label], *self.locate(path, key=key))


def read_policy(source: str | Path) -> Sources:
    """Read a policy from a path with all that it imports, or from its text, which imports nothing. Raises InvalidInput."""
    text, label = read_source(source, "<policy>")
    if text.startswith("eyJ") and text.count(".") == 2:
        hint = "Guard.open and `agentguard policy fetch` take it; they verify it"
        raise InvalidInput("this is a signed bundle, not the text of a policy", place=label, hint=hint)
    fetch = _no_files if is_text(source) else _Directory(label)
    return _assemble(File(Path(label).name, text), label, fetch)


def read_files(files: Sequence[File], prefix: str) -> Sources:
    """The same from files that are at hand, as a signed bundle carries them: the first one, and exactly those that it imports.

    `prefix` stands before each name in places. Raises InvalidInput.
    """
    texts = {file.name: file.text for file in files}
    if not files or len(texts) != len(files):
        raise InvalidInput("a policy has at least one file, and each name once", place=prefix)

    def fetch(name: str, place: str) -> tuple[str, str]:
        if name not in texts:
            raise InvalidInput(f"the bundle has no file {name!r:.120}", place=place)
        return texts[name], prefix + name

    found = _assemble(files[0], prefix + files[0].name, fetch)
    if len(found.files) != len(files):
        unused = min(texts.keys() - {file.name for file in found.files})
        raise InvalidInput(f"nothing imports the file {unused!r:.120}", place=prefix)
    return found


def _no_files(name: str, place: str) -> tuple[str, str]:
    raise InvalidInput("a policy that is given as a text cannot import", place=place, hint="give the path of the file")


class _Directory:
    """The files of one directory tree."""

    def __init__(self, first: str) -> None:
        self._directory = os.path.dirname(first)
        self._real = os.path.realpath(self._directory or ".")

    def __call__(self, name: str, place: str) -> tuple[str, str]:
        path = os.path.join(self._directory, *name.split("/"))
        real = os.path.realpath(path)
        if os.path.commonpath((self._real, real)) != self._real:
            hint = "imports stay inside the directory of the first file"
            raise InvalidInput(f"{name!r:.120} is a link that leads out of {self._directory or '.'}", place=place, hint=hint)
        try:
            regular = stat.S_ISREG(os.stat(real).st_mode)
        except OSError as error:
            raise InvalidInput(f"cannot read {name!r:.120}: {error.strerror}", place=place) from None
        if not regular:
            raise InvalidInput(f"{name!r:.120} is not a regular file", place=place)
        return read_source(Path(path), name)


def _assemble(first: File, label: str, fetch: _Fetch) -> Sources:
    assembly = _Assembly(fetch)
    assembly.read(first, label, ())
    documents = assembly.documents
    files = tuple([File(name, assembly.texts[name]) for name in documents])
    return Sources(next(iter(documents.values())) if len(documents) == 1 else _merge(list(documents.values())), files)


class _Assembly:
    """Reads files depth first, each once, in the order in which they are merged."""

    def __init__(self, fetch: _Fetch) -> None:
        self.fetch = fetch
        self.documents: dict[str, Document] = {}
        self.texts: dict[str, str] = {}
        self.size = 0

    def read(self, file: File, label: str, way: tuple[str, ...]) -> None:
        self.size += len(file.text.encode("utf-8", "surrogatepass"))
        if self.size > MAX_BYTES:
            raise InvalidInput(f"the files of the policy are larger than {MAX_BYTES} bytes together", place=label)
        document = self.documents[file.name] = read(file.text, label)
        self.texts[file.name] = file.text
        way = (*way, file.name)
        for given, place in _imports(document):
            name = _resolve(given, file.name, place)
            if name in way:
                circle = " -> ".join((*way[way.index(name) :], name))
                raise InvalidInput(f"the import leads back to where it began: {circle:.800}", place=place, hint="take one of them out")
            if name in self.documents:
                continue
            if len(way) > MAX_WAY:
                raise InvalidInput(f"imports nest deeper than {MAX_WAY} files", place=place)
            if len(self.documents) >= MAX_FILES:
                raise InvalidInput(f"the policy has more than {MAX_FILES} files", place=place)
            text, inner = self.fetch(name, place)
            self.read(File(name, text), inner, way)


def _imports(document: Document) -> Iterator[tuple[str, str]]:
    """The names that a document imports, each with its place."""
    value = document.value
    if type(value) is not dict or "import" not in value:
        return
    names = value["import"]
    if type(names) is not list or any(type(name) is not str for name in names):
        raise InvalidInput("import: expected a list of file names", place=document.place(("import",)), hint="import: [base.yaml]")
    for index, name in enumerate(names):
        place = document.place(("import", index))
        if name in names[:index]:
            raise InvalidInput(f"{name!r:.120} is imported twice", place=place, hint="take one of them out")
        yield name, place


def _resolve(given: str, importing: str, place: str) -> str:
    """The name of an imported file, relative to the directory of the first one."""
    if not given or len(given) > _MAX_NAME or given.startswith("/") or "\\" in given or not given.isprintable() or ":" in given:
        hint = "a path relative to this file, with /, such as shared/tools.yaml"
        raise InvalidInput(f"{given!r:.120} is not the name of a file to import", place=place, hint=hint)
    steps = importing.split("/")[:-1]
    for step in given.split("/"):
        if step == "..":
            if not steps:
                hint = "imports stay inside the directory of the first file"
                raise InvalidInput(f"{given!r:.120} leads out of the policy's directory", place=place, hint=hint)
            steps.pop()
        elif step not in ("", "."):
            steps.append(step)
    if not steps or given.endswith(("/", "/.", "/..")):
        raise InvalidInput(f"{given!r:.120} is a directory", place=place, hint="name the files in it")
    return "/".join(steps)


def _merge(documents: Sequence[Document]) -> Merged:
    """One document of several. The first gives version and name."""
    first = documents[0]
    parts: dict[Steps, tuple[Document, Steps]] = {(): (first, ())}
    merged: dict[str, Json] = {}
    for document in documents:
        for key, value in _sections(document, document is first):
            path: Steps = (key,)
            if key not in merged:
                merged[key] = {} if type(value) is dict else [] if type(value) is list else value
                parts[path] = (document, path)
            elif type(merged[key]) is not type(value) or (type(value) not in (dict, list) and merged[key] != value):
                raise _clash(document, path, parts)
            if type(value) is dict:
                for name, member in value.items():
                    inner = (key, name)
                    if name not in merged[key]:
                        merged[key][name], parts[inner] = member, (document, inner)
                    elif not _equal(merged[key][name], member):
                        raise _clash(document, inner, parts)
            elif type(value) is list:
                for index, member in enumerate(value):
                    parts[key, len(merged[key])] = (document, (key, index))
                    merged[key].append(member)
    return Merged(merged, first.label, first.marks, parts, {document.label: index for index, document in enumerate(documents)})


def _sections(document: Document, first: bool) -> Iterator[tuple[str, Json]]:
    """The members of a document that are merged. An imported one may leave out its name, but says which version it is written in."""
    value = document.value
    if type(value) is not dict:
        raise InvalidInput(f"expected a mapping, found {_kind(value)}", place=document.place(()))
    if not first:
        if "agentguard" not in value:
            raise InvalidInput("the key 'agentguard' is missing", place=document.place(()), hint="write agentguard: 1 in each file")
        if type(value["agentguard"]) is not int or value["agentguard"] != 1:
            message = f"agentguard: this release reads version 1 of the policy language, found {value['agentguard']!r:.40}"
            raise InvalidInput(message, place=document.place(("agentguard",)))
        if "name" in value and type(value["name"]) is not str:
            raise InvalidInput(f"name: expected a string, found {_kind(value['name'])}", place=document.place(("name",)))
    for key, member in value.items():
        if key not in _HEAD or (first and key != "import"):
            yield key, member


def _clash(document: Document, path: Steps, parts: Mapping[Steps, tuple[Document, Steps]]) -> InvalidInput:
    other, inner = parts[path]
    message = f"{'.'.join(map(str, path))}: {other.line(inner)} says something else under this name"
    hint = "give one of them another name, or write it in one file only"
    return InvalidInput(message, place=document.place(path, key=True), hint=hint)


def _equal(one: Json, two: Json) -> bool:
    """Equality of JSON values: `true` is not 1, the order of keys does not matter."""
    return jcs(one) == jcs(two)


def _kind(value: Any) -> str:
    return {dict: "a mapping", list: "a list", type(None): "nothing"}.get(type(value), f"{value!r:.60}")
