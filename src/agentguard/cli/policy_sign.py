"""`agentguard policy sign`: a policy, the tool lock, keys and revocations as one signed bundle."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentguard.cli.inputs import DEFAULT_HOME, HomeOption, JsonOption, read_bytes, read_json
from agentguard.cli.terminal import count, result, say
from agentguard.errors import InvalidInput

if TYPE_CHECKING:
    from rich.console import Console

    from agentguard.bundle import Bundle
    from agentguard.keys import Signer


def sign(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The policy, a YAML file; what it imports comes along.")],
    version: Annotated[int, typer.Option("--version", "-v", metavar="N", help="Higher than that of any bundle of this name before.")],
    key: Annotated[Path, typer.Option("--key", "-k", metavar="FILE", help="The policy authority's private key, a PEM file.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where to write the bundle.")],
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="Name of the bundle; the policy's by default.")] = None,
    expires: Annotated[str, typer.Option("--expires", metavar="SPAN", help="How long it is good: 12h, 30d.")] = "30d",
    lock: Annotated[
        Path | None, typer.Option("--lock", metavar="FILE", help="The tool lock, as `agentguard tools lock` writes it.")
    ] = None,
    keys: Annotated[
        Path | None, typer.Option("--keys", metavar="FILE", help="Anchors and keys of agents, in the form of a trust file.")
    ] = None,
    revocations: Annotated[
        list[str] | None,
        typer.Option(
            "--revocations",
            metavar="FILE",
            help="A signed list of an issuer; or {number, expires, revoked: [{kind, value}]} to sign with this key. May be repeated.",
        ),
    ] = None,
    accepts: Annotated[
        list[str] | None,
        typer.Option("--accepts", metavar="DIGEST", help="Artifacts bound to this older policy are still good. May be repeated."),
    ] = None,
    new_key: Annotated[bool, typer.Option("--new-key", help="Make the key, if there is none.")] = False,
    public: Annotated[
        Path | None, typer.Option("--public", metavar="FILE", help="Write the public key there, for `policy fetch --trust`.")
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Sign a policy with all that belongs to it as one bundle, which guards take over together or not at all.

    Guards believe it if their trust file names the key: it is printed, ready to be put there. The private key is best kept where no guard
    runs. Needs no home.

    Example: `agentguard policy sign policy.yaml --version 7 --key authority.pem --lock tools.lock.json -o support.bundle`
    """
    from agentguard.bundle import check_name, read_bundle, sign_bundle
    from agentguard.home import Trust
    from agentguard.keys import LocalKey
    from agentguard.policy.compile import compile_document
    from agentguard.policy.imports import read_policy
    from agentguard.spans import parse_span
    from agentguard.tools.lock import Lock

    sources = read_policy(file)
    bundle_name = check_name(compile_document(sources.document).name if name is None else name)
    now = int(time.time())
    signer = LocalKey.load_or_create(key) if new_key else LocalKey.load(key)
    data = sign_bundle(
        signer,
        sources.files,
        name=bundle_name,
        version=version,
        issued=now,
        expires=now + parse_span(expires),
        lock=Lock.read(read_bytes(str(lock)), place=str(lock)) if lock is not None else None,
        keys=read_json(str(keys)) if keys is not None else None,
        revocations=[_list(given, signer, version, now) for given in revocations or ()],
        accepts=accepts or (),
    )
    _write(output, data)
    if public is not None:
        _write(public, json.dumps(signer.public.jwk()).encode() + b"\n")
    bundle = read_bundle(data, Trust.of((), {}), signer=signer.public)
    answer = {"file": str(output), **summary(bundle), "authority": {"bundle": bundle_name, "jwk": signer.public.jwk()}}
    result(as_json, answer, lambda out: _show(out, answer, bundle))


def _list(given: str, signer: Signer, version: int, now: int) -> str:
    """A list of revocations: signed already, or to be signed here."""
    from agentguard.artifacts.revocation_list import sign_list
    from agentguard.canonical import parse
    from agentguard.spans import parse_span

    data = read_bytes(given)
    if data.startswith(b"eyJ"):
        return data.decode("ascii", "replace").strip()
    try:
        body = parse(data)
        if type(body) is not dict or not {"number", "expires", "revoked"} >= body.keys() or type(body.get("revoked")) is not list:
            raise InvalidInput("a list of revocations is {number, expires, revoked: [{kind, value, reason}]}")
        for entry in body["revoked"]:
            if type(entry) is not dict or not {"kind", "value", "time", "reason"} >= entry.keys() or not {"kind", "value"} <= entry.keys():
                raise InvalidInput("an entry of revoked is {kind, value} with reason and time (seconds) if they are known")
        expires = now + parse_span(body.get("expires", "1d"))
        return sign_list(signer, number=body.get("number", version), issued=now, expires=expires, revoked=body["revoked"])
    except InvalidInput as error:
        raise InvalidInput(error.message, place=given, hint=error.hint) from None


def _write(path: Path, data: bytes) -> None:
    """Put the file in place whole or not at all."""
    from agentguard.log.layout import replace_file

    try:
        replace_file(path, data)
        os.chmod(path, 0o644)  # it is signed, and holds no secret
    except OSError as error:
        raise InvalidInput(f"cannot be written: {error.strerror}", place=str(path)) from None


def summary(bundle: Bundle) -> dict[str, Any]:
    """What a bundle is, for JSON."""
    return {
        "name": bundle.name,
        "version": bundle.version,
        "issued": bundle.issued,
        "expires": bundle.expires,
        "digest": bundle.digest,
        "signer": bundle.signer,
        "policy": {"name": bundle.policy.name, "digest": bundle.policy.digest},
        "lock": bundle.lock.digest if bundle.lock is not None else None,
        "tools": len(bundle.lock.entries) if bundle.lock is not None else 0,
        "accepts": sorted(bundle.accepts),
        "revocations": [
            {"by": one.by, "number": one.number, "expires": one.expires, "everyone": one.issuer is None} for one in bundle.lists
        ],
    }


def say_bundle(out: Console, bundle: Bundle) -> None:
    """The same for people."""
    from agentguard.reading.lineage_show import when

    say(out, "  policy   ", (bundle.policy.name, "name"), f"  {bundle.policy.digest}")
    say(out, f"  good     from {when(bundle.issued * 10**9)} to {when(bundle.expires * 10**9)}")
    say(out, "  lock     ", count(len(bundle.lock.entries), "tool") if bundle.lock is not None else "none: that of each home holds")
    for one in bundle.lists:
        about = "every chain" if one.issuer is None else f"chains of the issuer {one.by[:12]}…"
        revoked = sum(map(len, one.revocations.active.values()))
        say(out, f"  revoked  {revoked} in list {one.number}, about {about}, good to {when(one.expires * 10**9)}")
    for digest in sorted(bundle.accepts):
        say(out, f"  accepts  {digest}")
    say(out, ("  bundle   ", ""), (bundle.digest, "dim"))


def _show(out: Console, answer: dict[str, Any], bundle: Bundle) -> None:
    from agentguard.canonical import jcs

    say(out, ("signed: ", "good"), (f"{bundle.name}, version {bundle.version}", "name"), f"  {answer['file']}")
    say_bundle(out, bundle)
    say(out, ("  for trust.json: ", "dim"), f'"policy_authorities": [{jcs(answer["authority"]).decode()}]')
