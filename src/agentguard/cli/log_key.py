"""`agentguard log key` and `log checkpoint`: what a stranger needs to verify, and what he remembers."""

from __future__ import annotations

from typing import Annotated

import typer

from agentguard.cli.inputs import DEFAULT_HOME, HomeOption, JsonOption
from agentguard.cli.log_common import log_keys
from agentguard.cli.terminal import result


def key(
    shards: Annotated[bool, typer.Option("--shards", help="Print it as a key for each shard's checkpoints, one a line.")] = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Print the log's verifier key (C2SP signed-note form). Give it to whoever is to verify, over a way that they trust.

    It is one key. Notes carry the name of what was signed, so other tools may want it under the origin of a shard: --shards.

    Example: `agentguard log key`
    """
    from agentguard.log import read_shards

    keys = log_keys(home, None)
    text = keys.verifier_key()
    each = {shard: keys.verifier_key(shard) for shard in read_shards(home)}
    answer = {"key": text, "shards": each, "jwk": keys.current.jwk(), "thumbprint": keys.current.thumbprint()}
    result(as_json, answer, lambda out: print("\n".join(each.values()) if shards else text))


def checkpoint(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Print the newest signed checkpoint of every shard: a C2SP note each. Whoever keeps them will notice when the log is cut later.

    Example: `agentguard log checkpoint > heads.txt`
    """
    from agentguard.log.heads import read_head, remembered

    keys = log_keys(home, None)
    heads = [(shard, head) for shard in remembered(home) if (head := read_head(home, shard, keys)) is not None]
    answer = [{"shard": shard, "size": head.size, "root": head.root.hex(), "note": head.note.decode()} for shard, head in heads]
    result(as_json, {"checkpoints": answer}, lambda out: print("\n".join(head.note.decode() for _, head in heads), end=""))
