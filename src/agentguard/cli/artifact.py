"""`agentguard artifact issue|delegate|show|verify|revoke`: signed grants as files."""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentguard.cli.exits import DENIED, leave
from agentguard.cli.inputs import (
    DEFAULT_HOME,
    ByOption,
    FactsOption,
    HomeOption,
    JsonOption,
    PolicyOption,
    ReasonOption,
    existing_home,
    facts_of,
    json_or_file,
    place_of,
    read_json,
)
from agentguard.cli.terminal import count, print_json, result, say
from agentguard.errors import InvalidInput

if TYPE_CHECKING:
    from rich.console import Console

    from agentguard.task import Task

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Make, narrow, read, verify and revoke artifacts: signed grants that say which tools, with what, for whom, until when.\n\n"
    "Example: `agentguard artifact issue --policy policy.yaml --agent triage --initiator user:alice -o triage.json`",
)

ScopeOption = Annotated[
    str | None,
    typer.Option("--scope", metavar="JSON|FILE", help="What to grant, {tool: {argument: constraint}} as in a policy; {} grants nothing."),
]
OutputOption = Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the presentation there, mode 0600.")]
UsesOption = Annotated[int | None, typer.Option("--uses", metavar="N", min=1, help="At most so many calls.")]


@app.command("issue")
def issue(
    policy: PolicyOption,
    agent: Annotated[str, typer.Option("--agent", "-a", metavar="NAME", help="The agent that is to hold it.")],
    initiator: Annotated[
        str, typer.Option("--initiator", "-i", metavar="ID", help="On whose behalf. It counts as asserted: nobody authenticated it.")
    ],
    scope: ScopeOption = None,
    ttl: Annotated[str, typer.Option("--ttl", metavar="SPAN", help="How long it is valid: 90s, 15m, 2h, 7d.")] = "15m",
    uses: UsesOption = None,
    output: OutputOption = None,
    environment: FactsOption = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Mint a root artifact with this home's issuer key, bound to the policy's digest. Issuing is recorded as evidence.

    Without --scope it names every tool of the agent and of those it may delegate to; the policy's own constraints stay in force either
    way. Facts given with --environment bind it: it is worth nothing where they differ. The result is a presentation,
    {"aat_chain": [...]}; `agentguard check --artifact` and `guard.accept` take it.

    Example: `agentguard artifact issue --policy policy.yaml --agent triage --initiator user:alice --ttl 1h -o triage.json`
    """
    from agentguard.guard import Guard

    wanted = json_or_file(scope, "--scope") if scope is not None else None
    with Guard.open(policy, home=home, environment=dict(facts_of(environment))) as guard:
        task = guard.task(agent, initiator=initiator, scope=wanted, ttl=ttl, uses=uses).issue()
        _deliver(task.presentation(), output, as_json)


@app.command("delegate")
def delegate(
    artifact: Annotated[str, typer.Option("--artifact", "-a", metavar="FILE", help="The presentation to narrow; - reads standard input.")],
    to: Annotated[str, typer.Option("--to", metavar="AGENT", help="The agent that is to hold the new link.")],
    scope: ScopeOption = None,
    ttl: Annotated[
        str | None, typer.Option("--ttl", metavar="SPAN", help="At most what is left of the parent, which is the default.")
    ] = None,
    uses: UsesOption = None,
    policy: Annotated[
        Path | None,
        typer.Option("--policy", "-p", metavar="FILE", help="Check `delegates` of this policy first, and record the delegation."),
    ] = None,
    output: OutputOption = None,
    environment: FactsOption = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Derive a narrower artifact for another agent, signed with the key of the holder of the one given, which must be in this home.

    Without --policy this is offline and keeps the parent's tools: a guard checks `delegates` when it first sees the link. With it the
    delegation is judged now (exit 2 if it is not allowed), recorded, and without --scope keeps only what the delegate's policy names.

    Example: `agentguard artifact delegate --artifact triage.json --to summarizer --ttl 5m -o summarizer.json`
    """
    from agentguard.artifacts.making import parse_presentation
    from agentguard.cli.trust import holder_of, ring_of

    presentation = read_json(artifact)
    tokens, _ = parse_presentation(presentation)
    wanted = json_or_file(scope, "--scope") if scope is not None else None
    key = holder_of(ring_of(existing_home(home)), tokens)
    if key is None:
        raise InvalidInput(
            "this home does not hold the key of the artifact's holder", place=place_of(artifact), hint="only the holder delegates"
        )
    if policy is None:
        made: Mapping[str, Any] = _derive_offline(home, tokens, to, wanted, ttl, uses)
    else:
        from agentguard.guard import Guard

        with Guard.open(policy, home=home, environment=dict(facts_of(environment))) as guard:
            parent = guard.accept(presentation, key=key)
            child: Task = parent.delegate(to, wanted, ttl=ttl, uses=uses).issue()
            made = child.presentation()
    _deliver(made, output, as_json)


def _derive_offline(
    home: Path, tokens: tuple[str, ...], to: str, scope: Mapping[str, Any] | None, ttl: str | None, uses: int | None
) -> Mapping[str, Any]:
    from agentguard.artifacts.chain import verify_structure
    from agentguard.artifacts.making import Profile, Uses, derive, dump_presentation
    from agentguard.cli.trust import holder_of, ring_of, trust_of
    from agentguard.policy.model import parse_scope
    from agentguard.spans import parse_span

    chain = verify_structure(tokens, trust_of(home).anchors)
    keys, now = ring_of(home), int(time.time())
    signer = holder_of(keys, tokens)
    if signer is None:
        raise InvalidInput("this home does not hold the key of the artifact's holder")
    counted = None if uses is None else Uses(uses, _domain(home))
    profile = Profile(agent=to, nbf=now, uses=counted) if chain.profile else None
    token = derive(
        chain,
        signer=signer,
        holder=keys.holder(to).public,
        tools=chain.leaf.tools if scope is None else parse_scope(scope, "--scope"),
        now=now,
        exp=None if ttl is None else min(chain.leaf.exp, now + parse_span(ttl)),
        profile=profile,
    )
    return dump_presentation((*tokens, token))


def _domain(home: Path) -> str:
    from agentguard.state.store import State

    state = State.open(home / "state.db")
    try:
        return state.domain
    finally:
        state.close()


def _deliver(presentation: Mapping[str, Any], output: Path | None, as_json: bool) -> None:
    """Write the presentation to a file, whole or not at all, or to standard output."""
    if output is None:
        print_json(presentation)
        return
    temporary = output.with_name(f".{output.name}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(json.dumps(presentation, indent=2) + "\n")
        os.replace(temporary, output)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    links = len(presentation["aat_chain"])
    answer = {"file": str(output), "links": links}
    result(as_json, answer, lambda out: say(out, "written to ", (str(output), "name"), f", {count(links, 'link')}"))


@app.command("show")
def show(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A presentation, {aat_chain: [...]}; - reads standard input.")],
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Show what every link of a chain says: agent, tools and arguments in words, times, hashes, and what it narrowed.

    Nothing is verified here; for that there is `agentguard artifact verify`.

    Example: `agentguard artifact show triage.json`
    """
    from agentguard.artifacts.making import parse_presentation
    from agentguard.cli.artifact_show import describe, print_chain

    tokens, proof = parse_presentation(read_json(file))
    links = [describe(token, index) for index, token in enumerate(tokens)]
    document = {"verified": False, "links": links, "proof": proof is not None}
    result(as_json, document, lambda out: print_chain(out, links, proof is not None, int(time.time())))


@app.command("verify")
def verify(
    file: Annotated[str | None, typer.Argument(metavar="FILE", help="A presentation, {aat_chain: [...]}; - reads standard input.")] = None,
    request: Annotated[
        str | None,
        typer.Option("--request", metavar="FILE", help="JSON requests, one a line, each answered with one line; - reads standard input."),
    ] = None,
    now: Annotated[
        str | None, typer.Option("--now", metavar="TIME", help="Judge as of this time: seconds since 1970, or 2026-01-31T12:00:00Z.")
    ] = None,
    trust: Annotated[
        Path | None,
        typer.Option("--trust", metavar="FILE", help="Anchors to believe instead of the home's, in the form of its trust.json."),
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Verify a chain: every signature, every narrowing, the time, and what was stopped in this home. Exit 2 names the draft's step.

    With --request the draft's plain algorithm answers requests {chain, pop, tool, args, now, trust_anchors, policy, limits}, a line each
    with {verdict, step, code}, and the exit code is 0 whatever the verdicts.

    Example: `agentguard artifact verify triage.json`, or `agentguard artifact verify --request - < requests.jsonl`
    """
    if (file is None) == (request is None):
        raise InvalidInput("give a FILE or --request FILE, one of them", place="artifact verify")
    if request is not None:
        _answer_requests(request)
        return
    answer = _verify(str(file), _moment(now), home, trust)
    result(as_json, answer, lambda out: _say_verdict(out, answer))
    if answer["verdict"] != "PERMIT":
        leave(DENIED)


def _answer_requests(name: str) -> None:
    from agentguard.artifacts.request import MAX_LINE, answer

    with sys.stdin.buffer if name == "-" else open(name, "rb") as stream:
        out = sys.stdout
        encode = json.JSONEncoder(separators=(",", ":")).encode
        for line in _lines(stream, MAX_LINE):
            out.write(encode(answer(line)) + "\n")
            out.flush()


def _lines(stream: Any, limit: int) -> Iterator[bytes]:
    """The lines of a stream. Of a line beyond the limit only the beginning is kept: it is malformed whatever follows."""
    while line := stream.readline(limit + 2):
        yield line.removesuffix(b"\n")
        while len(line) == limit + 2 and not line.endswith(b"\n"):
            line = stream.readline(limit + 2)


def _moment(text: str | None) -> float:
    """Seconds since 1970. Raises InvalidInput."""
    if text is None:
        return time.time()
    if text.isascii() and text.isdigit() and len(text) < 12:
        return float(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput(f"{text!r:.40} is not a time", place="--now", hint="seconds since 1970, or 2026-01-31T12:00:00Z") from None
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()


def _verify(file: str, now: float, home: Path, trust: Path | None) -> dict[str, Any]:
    from agentguard.artifacts.chain import ChainError, check_time, verify_structure
    from agentguard.artifacts.making import parse_presentation
    from agentguard.cli.trust import foreign_trust, trust_of

    tokens, _ = parse_presentation(read_json(file))
    believed = foreign_trust(trust) if trust is not None else trust_of(existing_home(home))
    try:
        chain = verify_structure(tokens, believed.anchors)
    except ChainError as error:
        return _refused(error)
    late = check_time(chain, now)
    if late is not None:
        return _refused(late)
    stopped = _stopped(home, chain) if trust is None else ""
    answer: dict[str, Any] = {"verdict": "DENY" if stopped else "PERMIT", "step": None, "link": None, "code": None, "message": stopped}
    if stopped:
        answer["code"] = "artifact_revoked"
    answer["profile"] = chain.profile
    answer["links"] = [
        {"agent": link.profile.agent if link.profile is not None else None, "hash": link.hash, "exp": link.exp, "tools": sorted(link.tools)}
        for link in chain.links
    ]
    return answer


def _refused(error: Any) -> dict[str, Any]:
    return {"verdict": "DENY", "step": error.step, "link": error.link, "code": str(error.code), "message": error.message}


def _stopped(home: Path, chain: Any) -> str:
    """Why the chain is revoked in this home, in words; empty where it is not."""
    from agentguard.state.store import State

    if not (home / "state.db").exists():
        return ""
    state = State.open(home / "state.db")
    try:
        hit = state.revocations().match(
            links=chain.hashes,
            keys=chain.keys,
            agents=chain.agents,
            task=chain.task_id,
            initiator=chain.initiator.id if chain.initiator is not None else None,
        )
    finally:
        state.close()
    return hit.describe() if hit is not None else ""


def _say_verdict(out: Console, answer: dict[str, Any]) -> None:
    from agentguard.reading.lineage_show import printable, when

    if answer["verdict"] != "PERMIT":
        where = f" at link {answer['link']}, step {answer['step']}" if answer["step"] else ""
        say(out, ("DENY", "bad"), f"  {answer['code']}{where}: {printable(answer['message'])}")
        return
    form = "the agentguard profile" if answer["profile"] else "a plain chain"
    say(out, ("PERMIT", "good"), f"  {form}, {count(len(answer['links']), 'link')}, every signature and every narrowing holds")
    for index, link in enumerate(answer["links"]):
        tools = ", ".join(printable(tool, 64) for tool in link["tools"]) or "no tools"
        name = printable(link["agent"] or "?")
        say(out, (f"  {index} ", "dim"), (name, "name"), f"  {tools}", (f"  until {when(link['exp'] * 10**9)}  {link['hash'][:16]}", "dim"))


@app.command("revoke")
def revoke(
    file: Annotated[
        str | None, typer.Argument(metavar="FILE", help="The presentation whose leaf to revoke; - reads standard input.")
    ] = None,
    link: Annotated[
        str | None, typer.Option("--link", metavar="HASH", help="Instead of a file: the link's hash, as `artifact show` prints it.")
    ] = None,
    root: Annotated[bool, typer.Option("--root", help="Revoke the root of the chain, and so all that was derived from it.")] = False,
    by: ByOption = None,
    reason: ReasonOption = "",
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Revoke one artifact, and with it whatever was derived from it. The next call of every guard on this home is denied.

    `agentguard stop --link HASH --lift` takes it back.

    Example: `agentguard artifact revoke summarizer.json --reason "laptop lost"`
    """
    from agentguard.artifacts.making import parse_presentation
    from agentguard.canonical import sha256
    from agentguard.cli.stop import withdraw

    if (file is None) == (link is None) or (link is not None and root):
        raise InvalidInput("give a FILE (and perhaps --root) or --link HASH, one of them", place="artifact revoke")
    existing_home(home)
    if file is not None:
        tokens, _ = parse_presentation(read_json(file))
        signing = tokens[0 if root else -1].rpartition(".")[0]
        link = sha256(signing.encode("utf-8", "replace"))
    withdraw(home, "link", str(link), lift=False, by=by, reason=reason, as_json=as_json)
