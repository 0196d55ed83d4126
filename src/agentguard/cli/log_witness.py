"""`agentguard log witness serve|key|submit|fetch`: somebody else who remembers the log."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentguard.cli.exits import FAILED, complain, leave
from agentguard.cli.inputs import DEFAULT_HOME, HomeOption, JsonOption
from agentguard.cli.log_common import KeyOption, log_keys, witness_keys
from agentguard.cli.terminal import count, result, say
from agentguard.errors import AgentguardError, InvalidInput

if TYPE_CHECKING:
    from rich.console import Console

    from agentguard.keys import LocalKey

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Have a witness cosign the log, ask it what it has seen, or be one (C2SP tlog-witness).\n\n"
    "Example: `agentguard log witness submit https://witness.example --witness VKEY`",
)

OwnHomeOption = Annotated[
    Path,
    typer.Option(
        "--home", metavar="DIR", help="Where the witness keeps its key and its memory; not the home of a guard.", show_default=True
    ),
]
NameOption = Annotated[
    str, typer.Option("--name", metavar="NAME", help="The witness's name, a URL without its scheme: `witness.example/w1`.")
]
UrlArgument = Annotated[str, typer.Argument(metavar="URL", help="Where the witness is.")]
OneWitness = Annotated[str, typer.Option("--witness", metavar="VKEY", help="Its verifier key, as `log witness key` prints it there.")]
_OWN_HOME = Path("witness")


def _key(home: Path) -> LocalKey:
    from agentguard.keys import LocalKey
    from agentguard.log.layout import make_directory

    if (home / "keys").exists():
        raise InvalidInput("this is the home of a guard", place=str(home), hint="a witness is somebody else, with a home of its own")
    make_directory(home)
    return LocalKey.load_or_create(home / "witness.pem")


@app.command("key")
def key(name: NameOption, home: OwnHomeOption = _OWN_HOME, as_json: JsonOption = False) -> None:
    """Print the verifier key of the witness that runs here, and make one if there is none. Logs and verifiers need it.

    Example: `agentguard log witness key --name witness.example/w1`
    """
    from agentguard.log.cosignature import WitnessKey

    text = WitnessKey(name, _key(home).public).verifier_key()
    result(as_json, {"key": WitnessKey.parse(text).verifier_key()}, lambda out: print(text))


@app.command("serve")
def serve(
    name: NameOption,
    log: Annotated[
        list[str], typer.Option("--log", metavar="VKEY", help="The verifier key of a log, as `log key` prints it there. May be repeated.")
    ],
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="The port.", min=1, max=65535)] = 8650,
    home: OwnHomeOption = _OWN_HOME,
    as_json: JsonOption = False,
) -> None:
    """Be a witness: cosign the checkpoints of these logs, each only if it grew out of the one before, and refuse rollback and fork.

    It speaks HTTP; put a server with TLS in front of it. What it remembers is one SQLite file: lose it, and a log can be rolled back once
    without anybody noticing. When a log rotates its key, add the new one, and take the old one away once the log was submitted under the
    new.

    Example: `agentguard log witness serve --name witness.example/w1 --log VKEY`
    """
    try:
        import uvicorn

        from agentguard.server.witness import witness_app
    except ImportError as error:
        raise AgentguardError(f"a witness needs starlette and uvicorn ({error}): pip install 'agentguard[server]'") from None
    from agentguard.log.witness import Logs, Witness

    try:
        logs = Logs(log)
    except InvalidInput as error:
        raise InvalidInput(error.message, place="--log", hint=error.hint) from None
    with Witness(home / "witness.db", _key(home), name, logs) as witness:
        text = witness.key.verifier_key()
        result(as_json, {"key": text, "host": host, "port": port}, lambda out: print(text))
        sys.stdout.flush()
        config = uvicorn.Config(
            witness_app(witness),
            host=host,
            port=port,
            log_level="warning",
            limit_concurrency=256,
            timeout_keep_alive=15,
            h11_max_incomplete_event_size=16384,
        )
        server = uvicorn.Server(config)
        with contextlib.suppress(KeyboardInterrupt):
            server.run()


@app.command("submit")
def submit(url: UrlArgument, witness: OneWitness, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Show the newest checkpoint of every shard to a witness, with proof that it grew, and keep the cosignatures in the home.

    Exit 1 if the witness has seen another history than the log has now: then one of the two was cut, rolled back or rewritten.
    `log verify --witness VKEY` asks for the cosignatures, `log prove` gives them out, `log tiles` publishes them. Run it from a timer.

    Example: `agentguard log witness submit https://witness.example --witness VKEY`
    """
    from agentguard.log import witness_client
    from agentguard.log.manifest import read_manifest

    keys, (known,) = log_keys(home, None), witness_keys([witness])
    transport = witness_client.http(url)
    manifest = read_manifest(home, keys)
    answer: list[dict[str, Any]] = []
    for shard in manifest.shards if manifest is not None else ():
        done = witness_client.submit(home, shard, keys, known, transport)
        if done is not None:
            answer.append({"shard": shard, "size": done.size, "time": done.seconds})
    result(as_json, {"witness": known.name, "cosigned": answer}, lambda out: _say(out, answer))


def _say(out: Console, cosigned: list[dict[str, Any]]) -> None:
    for item in cosigned:
        say(out, ("cosigned", "good"), f": {item['shard']}, {count(item['size'], 'record')}")


@app.command("fetch")
def fetch(
    url: UrlArgument, witness: OneWitness, key: KeyOption = None, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False
) -> None:
    """Print the last checkpoint of every shard that the witness cosigned, as it tells now. `log verify --since` holds the log against them.

    That is how a stranger with a copy of the log notices that it was cut, whatever its owner did: with `--key KEY` nothing in the copy is
    trusted. Exit 1 if the witness knows nothing of the log.

    Example: `agentguard log witness fetch https://witness.example --witness VKEY > seen.txt`
    """
    from agentguard.log import witness_client
    from agentguard.log.manifest import claimed_keys, manifest_path, read_manifest

    keys, (known,) = log_keys(home, key), witness_keys([witness])
    transport = witness_client.http(url)
    manifest = read_manifest(home, claimed_keys(home, keys))
    if manifest is None:
        raise InvalidInput("there is no log here", place=str(manifest_path(home)))
    seen = [
        (shard, found) for shard in manifest.shards if (found := witness_client.fetch(shard, manifest.keys, known, transport)) is not None
    ]
    if not seen:
        complain(f"the witness {known.name} knows nothing of {keys.name}")
        leave(FAILED)
    answer = [{"shard": shard, "size": found.checkpoint.size, "time": found.seconds, "note": found.note.decode()} for shard, found in seen]
    result(as_json, {"witness": known.name, "seen": answer}, lambda out: print("\n".join(found.note.decode() for _, found in seen), end=""))
