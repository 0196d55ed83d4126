"""`agentguard policy fetch`: a signed bundle from elsewhere, verified and put in place."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from agentguard.cli.exits import FAILED, complain, leave
from agentguard.cli.inputs import DEFAULT_HOME, ByOption, HomeOption, JsonOption, existing_home, operator, read_bytes, read_json
from agentguard.cli.policy_sign import say_bundle, summary
from agentguard.cli.terminal import result, say
from agentguard.errors import InvalidInput

if TYPE_CHECKING:
    from rich.console import Console

    from agentguard.bundle import Bundle
    from agentguard.keys import PublicKey

_TIMEOUT: Final = 30.0  # seconds without a byte
_WHOLE: Final = 300.0  # seconds for all of it


def fetch(
    source: Annotated[str, typer.Argument(metavar="URL|FILE", help="Where the bundle is: an https URL, or a file.")],
    trust: Annotated[
        Path | None,
        typer.Option(
            "--trust",
            metavar="FILE",
            help="The policy authority's public key, a JWK: from now on this home believes it for bundles of this name. "
            "Without it, those of the trust file.",
        ),
    ] = None,
    dry: Annotated[bool, typer.Option("--dry", help="Verify it and say what it holds; change nothing.")] = False,
    by: ByOption = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Fetch a signed bundle, verify it, and put it in place for the guards of this home: `Guard.open(HOME/policy/NAME.bundle)`.

    Refused are a bundle of another signer, one that has expired, one that is older than the newest that this home has seen, and another one
    with the same version; what was there stays. A running guard takes it over with `guard.reload`. Exit 1 if it cannot be reached.

    Example: `agentguard policy fetch https://policies.example.com/support.bundle --trust authority.jwk`
    """
    key = _key(trust) if trust is not None else None
    data = _download(source) if "://" in source else read_bytes(source, _limit())
    bundle, changed, path = _dry(home, data, key, source) if dry else _install(home, data, key, source, operator(by))
    answer = {"source": source, "file": str(path), "installed": not dry, "changed": changed, **summary(bundle)}
    result(as_json, answer, lambda out: _show(out, answer, bundle, dry))


def _limit() -> int:
    from agentguard.bundle import MAX_BUNDLE

    return MAX_BUNDLE + 1  # with its line end


def _dry(home: Path, data: bytes, key: PublicKey | None, place: str) -> tuple[Bundle, bool, Path]:
    from agentguard.bundle import read_bundle
    from agentguard.bundle_home import in_time, path_of
    from agentguard.cli.trust import trust_of
    from agentguard.home import Trust
    from agentguard.log.layout import read_small

    trust = Trust.of((), {}) if key is not None and not home.exists() else trust_of(existing_home(home))
    bundle = read_bundle(data, trust, signer=key, place=place)
    late = in_time(bundle, int(time.time()))
    if late:
        raise InvalidInput(f"the bundle is not good now: {late}", place=place)
    path = path_of(home, bundle.name)
    return bundle, read_small(path, _limit()) != bundle.data + b"\n", path


def _install(home: Path, data: bytes, key: PublicKey | None, place: str, by: str) -> tuple[Bundle, bool, Path]:
    from agentguard import control
    from agentguard.bundle import read_bundle
    from agentguard.bundle_home import install, path_of
    from agentguard.environment import Clock
    from agentguard.home import Home, Trust
    from agentguard.ledger import Ledger

    if key is not None:  # before a home is made for it
        read_bundle(data, Trust.of((), {}), signer=key, place=place)
    elif not (home / "trust.json").exists():
        existing_home(home)
    with Home(home) as opened:
        control.reconcile(opened)  # what the log remembers of earlier bundles
        ledger = Ledger(opened, Clock())
        bundle = read_bundle(data, opened.trust, signer=key, place=place)
        changed = install(opened, ledger, bundle, now=int(time.time()), by=by)
        if key is not None and (bundle.name, key) not in opened.trust.authorities:
            _believe(home, bundle.name, key)
            ledger.note("key", {"action": "policy_authority", "bundle": bundle.name, "key": key.thumbprint()}, by=by)
        return bundle, changed, path_of(home, bundle.name)


def _key(file: Path) -> PublicKey:
    from agentguard.keys import PublicKey

    try:
        return PublicKey.from_jwk(read_json(str(file)))
    except InvalidInput as error:
        raise InvalidInput(error.message, place=error.place or str(file), hint="a public JWK; `agentguard policy sign` prints it") from None


def _believe(home: Path, name: str, key: PublicKey) -> None:
    """Write into the trust file that this key may sign bundles of this name. What else is in it stays."""
    from agentguard.log.layout import replace_file

    path = home / "trust.json"
    body: dict[str, Any] = dict(read_json(str(path))) if path.exists() else {}
    body["policy_authorities"] = [*body.get("policy_authorities", []), {"bundle": name, "jwk": key.jwk()}]
    replace_file(path, json.dumps(body, indent=2).encode() + b"\n")


def _download(url: str) -> bytes:
    """The bytes behind an https URL, bounded in size and time. No redirects: where a policy comes from is said, not found out."""
    try:
        import httpx
    except ImportError:
        raise InvalidInput("fetching over https needs httpx", hint="pip install 'agentguard[fetch]', or give a file") from None
    if not url.startswith("https://"):
        raise InvalidInput("only https URLs are fetched", place=url, hint="or give a file")
    data, until = bytearray(), time.monotonic() + _WHOLE
    try:
        with httpx.stream("GET", url, timeout=_TIMEOUT) as response:
            if response.status_code != 200:
                complain(f"{url}: the answer is {response.status_code} {response.reason_phrase}; the bundle that was there stays")
                leave(FAILED)
            for piece in response.iter_bytes():
                data += piece
                if len(data) > _limit():
                    raise InvalidInput(f"longer than {_limit() - 1} bytes", place=url)
                if time.monotonic() > until:
                    raise httpx.ReadTimeout(f"not complete after {_WHOLE:g} s")
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
        complain(f"{url}: cannot be fetched: {str(error) or type(error).__name__}; the bundle that was there stays")
        leave(FAILED)
    return bytes(data)


def _show(out: Console, answer: dict[str, Any], bundle: Bundle, dry: bool) -> None:
    word = "verified: " if dry else "installed: " if answer["changed"] else "unchanged: "
    say(out, (word, "good"), (f"{bundle.name}, version {bundle.version}", "name"), "" if dry else f"  {answer['file']}")
    say_bundle(out, bundle)
