"""What commands are given: options that many share, and documents read strictly."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from agentguard.canonical import parse
from agentguard.errors import InvalidInput

DEFAULT_HOME: Final = Path(".agentguard")
#: A presentation, a scope or a call is far smaller.
_MAX_DOCUMENT: Final = 1 << 20

HomeOption = Annotated[
    Path,
    typer.Option("--home", metavar="DIR", help="Where the guard keeps keys, log and state.", show_default=True),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
PolicyOption = Annotated[Path, typer.Option("--policy", "-p", metavar="FILE", help="The policy, a YAML file.")]
FactsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--environment",
        "-e",
        metavar="NAME=VALUE",
        help="A fact of this place, as in Guard.open(environment=...). NAME:=JSON gives a value that is not a string. May be repeated.",
    ),
]
ByOption = Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who does this, for the record; your login name by default.")]
ReasonOption = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for the record.")]


def existing_home(path: Path) -> Path:
    """`path`, if it is a guard's home. A command that only looks must not make one. Raises InvalidInput."""
    if not (path / "keys").is_dir():
        hint = "give --home DIR; a home is made when a guard is first opened on it"
        raise InvalidInput("there is no agentguard home here", place=str(path), hint=hint)
    return path


def read_bytes(name: str, limit: int = _MAX_DOCUMENT) -> bytes:
    """The bytes of a file, or of standard input for `-`. Raises InvalidInput."""
    if name == "-":
        data = sys.stdin.buffer.read(limit + 1)
    else:
        try:
            with open(name, "rb") as file:
                if stat.S_ISDIR(os.fstat(file.fileno()).st_mode):
                    raise InvalidInput("is a directory", place=name)
                data = file.read(limit + 1)
        except OSError as error:
            raise InvalidInput(f"cannot be read: {error.strerror}", place=name) from None
        except ValueError:
            raise InvalidInput("is not a path", place=repr(name)) from None
    if len(data) > limit:
        raise InvalidInput(f"is longer than {limit} bytes", place=place_of(name))
    return data


def place_of(name: str) -> str:
    """How errors name an input."""
    return "standard input" if name == "-" else name


def read_json(name: str) -> Any:
    """One JSON document, read strictly: no duplicate members, no NaN. Raises InvalidInput that names file, line and column."""
    data = read_bytes(name)
    try:
        return parse(data)
    except InvalidInput as error:
        place = f"{place_of(name)}: {error.place}" if error.place else place_of(name)
        raise InvalidInput(error.message, place=place, hint=error.hint) from None


def json_or_file(text: str, place: str) -> Any:
    """A JSON document written out (`{...}`), or the file that holds it."""
    if not text.lstrip().startswith("{"):
        return read_json(text)
    try:
        return parse(text)
    except InvalidInput as error:
        raise InvalidInput(error.message, place=f"{place}: {error.place}" if error.place else place, hint=error.hint) from None


def facts_of(given: list[str] | None) -> Mapping[str, Any]:
    """`NAME=VALUE` (a string) and `NAME:=JSON`. Raises InvalidInput."""
    facts: dict[str, Any] = {}
    for item in given or ():
        name, separator, value = item.partition("=")
        is_json = name.endswith(":")
        name = name.removesuffix(":")
        if not separator or not name:
            raise InvalidInput(f"{item!r:.60} is not NAME=VALUE", place="--environment", hint="for example deployment=staging, replicas:=3")
        if name in facts:
            raise InvalidInput(f"{name!r:.60} is given twice", place="--environment")
        try:
            facts[name] = parse(value) if is_json else value
        except InvalidInput as error:
            raise InvalidInput(error.message, place=f"--environment {name}") from None
    return facts


def operator(given: str | None) -> str:
    """Who does this: what was given, or the login name of this user. A claim, for people."""
    if given:
        return given
    try:
        import pwd

        return pwd.getpwuid(os.getuid()).pw_name
    except (ImportError, KeyError):
        return f"uid {os.getuid()}"
