"""What a token says about itself, for `agentguard artifact show`. Nothing is verified here, so nothing is assumed either."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from agentguard.canonical import b64url_decode, parse, sha256
from agentguard.cli.terminal import say
from agentguard.errors import InvalidInput
from agentguard.reading.lineage_show import printable, when

if TYPE_CHECKING:
    from rich.console import Console


def describe(token: str, index: int) -> dict[str, Any]:
    """One link as a plain document. Raises InvalidInput where a token cannot even be read."""
    try:
        signing, _, _ = token.rpartition(".")
        header, _, payload = signing.partition(".")
        head, claims = parse(b64url_decode(header)), parse(b64url_decode(payload), max_depth=256)
    except InvalidInput as error:
        raise InvalidInput(f"the token cannot be read: {error.message}", place=f"link {index}") from None
    if type(head) is not dict or type(claims) is not dict:
        raise InvalidInput("the token's header and claims must be objects", place=f"link {index}")
    profile = claims.get("agentguard")
    profile = profile if type(profile) is dict else None
    return {
        "hash": sha256(signing.encode("ascii")),
        "profile": profile is not None,
        "agent": profile.get("agent") if profile else None,
        "initiator": profile.get("initiator") if profile else None,
        "task": profile.get("task") if profile else None,
        "policy": profile.get("policy") if profile else None,
        "environment": _arguments(profile.get("env")) if profile and "env" in profile else {},
        "uses": profile.get("uses") if profile else None,
        "issuer": claims.get("iss"),
        "holder": _holder(claims.get("cnf")),
        "audience": claims.get("aud"),
        "issued": claims.get("iat"),
        "expires": claims.get("exp"),
        "depth": claims.get("del_depth"),
        "max_depth": claims.get("del_max_depth"),
        "tools": _tools(claims.get("authorization_details")),
    }


def _holder(cnf: Any) -> str | None:
    from agentguard.keys import PublicKey

    try:
        return PublicKey.from_jwk(cnf["jwk"]).thumbprint()
    except (InvalidInput, TypeError, LookupError):
        return None


def _tools(details: Any) -> dict[str, Any]:
    """Tool -> argument -> words. A part that does not read is shown as malformed, not left out."""
    entries = [item for item in details if type(item) is dict and "tools" in item] if type(details) is list else []
    tools = entries[0]["tools"] if entries else {}
    if type(tools) is not dict:
        return {}
    return {tool: _arguments(arguments) for tool, arguments in tools.items()}


def _arguments(value: Any) -> dict[str, str]:
    from agentguard.constraints.tokens import parse_tool_map

    try:
        arguments = parse_tool_map(value, extensions=True)
    except InvalidInput as error:
        return {"?": f"malformed: {error.message}"}
    words = {name: entry.constraint.describe() + (", or left out" if entry.optional else "") for name, entry in arguments.named.items()}
    if arguments.rest:
        words["*"] = "any other argument, with any value"
    return words


def print_chain(out: Console, links: list[dict[str, Any]], proof: bool, now: int) -> None:
    """The chain for people, root first."""
    for index, link in enumerate(links):
        name = link["agent"] if type(link["agent"]) is str else "a plain chain's holder"
        say(out, ("root" if index == 0 else f"link {index}", "dim"), "  ", (printable(name), "name"), f"  {printable(link['hash'])}")
        _print_facts(out, link, now)
        above = links[index - 1]["tools"] if index else None
        for tool, arguments in link["tools"].items():
            say(out, "  may call ", (printable(tool), "name"), "" if arguments else ("  with nothing known of its arguments", "warn"))
            before = above.get(tool) if above is not None else None
            for argument, words in arguments.items():
                was = before.get(argument) if before is not None else None
                narrowed = f"  (narrowed from: {printable(was)})" if was is not None and was != words else ""
                say(out, f"    {printable(argument)}: {printable(words)}", (narrowed, "dim"))
        dropped = sorted(above.keys() - link["tools"].keys()) if above is not None else []
        if dropped:
            say(out, ("  no longer: ", "dim"), ", ".join(map(printable, dropped)))
    say(out, (f"{'with' if proof else 'without'} a proof of possession; nothing was verified (`agentguard artifact verify` does)", "dim"))


def _print_facts(out: Console, link: Mapping[str, Any], now: int) -> None:
    expires = link["expires"]
    if type(expires) is int:
        left = expires - now
        relative = f"expires in {_span(left)}" if left > 0 else f"EXPIRED {_span(-left)} ago"
        say(out, (f"  {relative}", "" if left > 0 else "warn"), (f"  {when(expires * 10**9)}", "dim"))
    initiator = link["initiator"]
    if type(initiator) is dict:
        method = initiator.get("method")
        known = "ASSERTED: nobody authenticated it" if method == "asserted" else f"authenticated by {printable(method)}"
        say(out, "  for ", (printable(initiator.get("id")), "name"), f" ({known})", f", task {printable(link['task'])}")
    if link["policy"] is not None:
        say(out, f"  only under the policy {printable(link['policy'])}")
    for fact, words in link["environment"].items():
        say(out, f"  only where {printable(fact)} is {printable(words)}")
    uses = link["uses"]
    if type(uses) is dict:
        say(out, f"  at most {printable(uses.get('limit'))} calls, counted in {printable(uses.get('domain'))}")
    if link["audience"] is not None:
        say(out, f"  only for {printable(link['audience'])}")
    if link["depth"] == link["max_depth"]:
        say(out, "  cannot be delegated further")


def _span(seconds: int) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
