"""`agentguard log tiles`: the log as static files for the world, and the check of such a site."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentguard.cli.exits import FAILED, complain, leave
from agentguard.cli.inputs import DEFAULT_HOME, HomeOption, JsonOption
from agentguard.cli.log_common import KeyOption, counting, log_keys
from agentguard.cli.terminal import count, result, say
from agentguard.errors import InvalidInput

if TYPE_CHECKING:
    from rich.console import Console

    from agentguard.log.identity import LogKeys


def tiles(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where the sites are: one for each shard, in DIR/<shard>.")],
    check: Annotated[bool, typer.Option("--check", help="Write nothing: check every tile and every record of the sites in DIR.")] = False,
    key: KeyOption = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Write the log as C2SP tlog-tiles: static files that any web server can show, from which anybody can check every record and proof.

    Each shard is a log with an origin and a site of its own. A second run writes only what is new. A site never shrinks: if it has seen
    more than the log has now, or another history, that is an error. The records in it hold commitments, never values; all else in them can
    be read by whoever can read the site.

    With --check nothing but the log's key is needed, which `--key KEY` gives, and no home. Exit 1 if anything does not fit.

    Example: `agentguard log tiles /srv/www/log`
    """
    if check:
        _check(directory, log_keys(home, key), as_json)
        return
    if key is not None:
        raise InvalidInput("--key is for --check", hint="the log's own key is in the home")
    from agentguard.log.site import write_sites

    keys = log_keys(home, None)
    try:
        with counting("writing tiles") as progress:
            sites = list(write_sites(home, directory, keys, progress))
    except InvalidInput as error:  # site and log do not fit together: something was found, not given
        complain(str(error))
        leave(FAILED)
    answer = [{"shard": site.shard, "directory": str(site.directory), "before": site.before, "size": site.size} for site in sites]
    result(as_json, {"sites": answer}, lambda out: _say(out, answer))


def _say(out: Console, sites: list[dict[str, Any]]) -> None:
    for site in sites:
        new = site["size"] - site["before"]
        say(out, (site["directory"], "name"), f": {count(site['size'], 'record')}, {new} of them new")


def _check(directory: Path, keys: LogKeys, as_json: bool) -> None:
    from agentguard.log.site import check_site, site_shards

    answer: list[dict[str, Any]] = []
    shards = site_shards(directory)
    if not shards:
        raise InvalidInput("there is no site of a shard in it", place=str(directory))
    for shard in shards:
        try:
            with counting("checking tiles") as progress:
                checkpoint = check_site(directory / shard, keys, progress)
            if checkpoint.origin != keys.origin(shard):
                raise InvalidInput(f"it is the site of {checkpoint.origin}", place=str(directory / shard))
        except InvalidInput as error:
            complain(str(error))
            leave(FAILED)
        answer.append({"shard": shard, "size": checkpoint.size, "root": checkpoint.root.hex()})
    result(as_json, {"ok": True, "sites": answer}, lambda out: _say_genuine(out, answer))


def _say_genuine(out: Console, sites: list[dict[str, Any]]) -> None:
    for site in sites:
        say(out, ("genuine", "good"), f": {site['shard']}, {count(site['size'], 'record')}")
