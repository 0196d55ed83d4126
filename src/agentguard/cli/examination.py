"""What `agentguard doctor` looks at. Each look gives words; `problem` where something is wrong, `attention` where it could be better."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from agentguard.cli.doctor import attempt
from agentguard.cli.maturity import Observed, grade
from agentguard.cli.terminal import count
from agentguard.decision import NOT_BUILT
from agentguard.errors import InvalidInput
from agentguard.reading.lineage_show import printable, span, when
from agentguard.reading.records import documents

Look = dict[str, Any]
_NO_HOME: Look = {"words": "nothing: there is no home yet"}


def examine(home: Path, policy: Path | None, *, not_built: Sequence[str], for_the_highest: Sequence[str], recent: int) -> dict[str, Any]:
    """The whole report, ready for JSON."""
    there = (home / "keys").is_dir()
    history = attempt(lambda: _history(home, recent)) if there else {}
    opened: Mapping[str, Any] = history.get("opened") or {}
    report: dict[str, Any] = {
        "home": _home(home, there),
        "policy": attempt(lambda: _policy(home, policy, opened, there)),
        "durability": _durability(opened),
        "lock": attempt(lambda: _lock(home, opened)),
        "trust": attempt(lambda: _trust(home)) if there else _NO_HOME,
        "keys": attempt(lambda: _keys(home)) if there else _NO_HOME,
        "clock": attempt(lambda: _clock(home)) if there else _NO_HOME,
        "log": attempt(lambda: _log(home, history)) if there else _NO_HOME,
        "initiators": _initiators(history),
        "stopped": attempt(lambda: _stopped(home)) if there else _NO_HOME,
    }
    report["problems"] = [f"{name}: {look['problem']}" for name, look in report.items() if look.get("problem")]
    report["unsafe"] = [*_unsafe_modes(opened), *report["policy"].pop("unsafe", [])]
    report["not_built"] = {
        "stages": [f"stage {int(stage)}: {what}" for stage, what in NOT_BUILT.items()],
        "commands": [f"agentguard {name}" for name in not_built],
    }
    initiators = report["initiators"]
    report["maturity"] = grade(
        Observed(
            decisions=history.get("decisions", False),
            log_sound=not report["log"].get("problem"),
            enforced=bool(opened.get("policy")),
            policy_known=bool(report["policy"].get("in_force_known")),
            unsafe=tuple(report["unsafe"]),
            locked=bool(report["lock"].get("in_force")),
            asserted=initiators.get("asserted", 0),
            authenticated=initiators.get("authenticated", 0),
            bound=bool(report["policy"].get("environment")),
            durable=opened.get("durability") == "fsync",
            not_built=tuple(for_the_highest),
        )
    )
    return report


def _home(home: Path, there: bool) -> Look:
    words = str(home) if there else f"{home}: not there yet; a guard makes it when it is first opened"
    return {"words": words, "path": str(home), "there": there, "attention": not there}


def _history(home: Path, recent: int) -> Look:
    """The last opening of a guard, and recent tasks, through the query index."""
    from agentguard.reading.index import Index

    with Index(home) as index:
        opened = next(index.records(index.latest("open", 1)), None)
        taken_over = list(index.records(index.latest("policy", recent)))
        roots = list(index.records(index.latest("delegation", recent)))
        decisions = bool(index.latest("decision", 1))
    methods = [root["initiator"]["method"] for root in roots if root["parent"] is None and root["initiator"]]
    detail = opened.get("detail") if opened is not None else None
    if opened is not None and isinstance(detail, dict):  # what a running guard took over since
        reloads = [
            note["detail"] for note in taken_over if note["detail"].get("action") == "reload" and int(note["time"]) > int(opened["time"])
        ]
        detail = {**detail, **(reloads[0] if reloads else {})}
    return {
        "words": "",
        "opened": {**detail, "time": opened["time"]} if opened is not None and isinstance(detail, dict) else {},
        "methods": methods,
        "decisions": decisions,
    }


def _policy(home: Path, given: Path | None, opened: Mapping[str, Any], there: bool) -> Look:
    from agentguard.cli.trust import policy_of

    digest, bundle = opened.get("policy"), opened.get("bundle")
    known = documents(home, [digest]) if there and isinstance(digest, str) else {}
    body = known.get(str(digest))
    look: Look = {"in_force": digest, "in_force_known": body is not None, "unsafe": _unsafe_rules(body)}
    look["environment"] = isinstance(body, dict) and bool(body.get("environment"))
    if given is None:
        words = "none was in force yet; name one with --policy" if digest is None else f"in force when a guard last opened: {digest}"
        words += f", from the bundle {printable(bundle['name'])}, version {bundle['version']}" if isinstance(bundle, dict) else ""
        return {**look, "words": words, "attention": digest is None}
    policy = policy_of(home, given)
    look |= {"file": str(given), "digest": policy.digest, "warnings": list(policy.warnings), "same": policy.digest == digest}
    same = "the one in force" if look["same"] else "NOT the one in force, which is " + str(digest or "none yet")
    warned = f"; {len(policy.warnings)} warnings (`agentguard policy check`)" if policy.warnings else ""
    return {**look, "words": f"{given}: {policy.name}, {policy.digest}, {same}{warned}", "attention": not look["same"]}


def _unsafe_rules(body: Any) -> list[str]:
    tools = body.get("tools") if isinstance(body, dict) else None
    words = {
        "unsafe_any_arguments": "artifacts may grant it with any arguments",
        "opaque": "its code cannot be pinned",
        "plain_chains": "plain chains, which name no agent and no policy, are enough for it",
    }
    found = tools.items() if isinstance(tools, dict) else ()
    of_tools = [f"tool {printable(name)}: {why} ({rule})" for name, rules in found for rule, why in words.items() if rules.get(rule)]
    return [*of_tools, *_shadows(body)] if isinstance(body, dict) else of_tools


def _shadows(body: dict[str, Any]) -> Iterator[str]:
    """Rules whose refusals are recorded for a time, and not enforced."""
    for name, agent in body.get("agents", {}).items():
        if shadow := agent.get("unsafe_shadow"):
            yield f"agent {printable(name)}: refusals are only recorded until {printable(shadow['until'])} (unsafe_shadow)"
    for rule in body.get("forbid", []):
        if shadow := rule.get("unsafe_shadow"):
            yield f"forbid {printable(rule['tool'])}: is only recorded until {printable(shadow['until'])} (unsafe_shadow)"


def _unsafe_modes(opened: Mapping[str, Any]) -> list[str]:
    return ["unsafe_development: tools may be registered anew with other code"] if opened.get("unsafe_development") else []


def _durability(opened: Mapping[str, Any]) -> Look:
    last = opened.get("durability")
    words = {"fsync": "fsync: evidence survives a power loss", "process": "process: evidence survives a killed process, not a power loss"}
    if last is None:
        return {"words": "no guard was opened yet", "last": None, "attention": True}
    return {"words": words.get(last, printable(last)), "last": last, "attention": last != "fsync"}


def _lock(home: Path, opened: Mapping[str, Any]) -> Look:
    from agentguard.tools.integrity import LOCK_FILE, Lock

    lock = Lock.load(home / LOCK_FILE)
    if lock is None:
        return {"words": "none: what a tool was when it was registered is its pin", "tools": 0, "in_force": False, "attention": True}
    in_force = opened.get("lock") == lock.digest
    late = "" if in_force else ", NOT the one in force: open the guard anew"
    look = {"tools": len(lock.entries), "digest": lock.digest, "in_force": in_force, "attention": not in_force}
    return {**look, "words": f"{count(len(lock.entries), 'tool')}, {lock.digest}{late}"}


def _trust(home: Path) -> Look:
    from agentguard.cli.trust import trust_of

    trust = trust_of(home)
    anchors = [{"iss": sorted(names), "thumbprint": key.thumbprint()} for key, names in trust.anchors.by_key.items()]
    others = len(anchors) - 1
    words = f"this home's own issuer, {count(others, 'other')}, {count(len(trust.agents), 'key')} of agents elsewhere"
    audience = _audience(home)
    if audience is not None:
        words += f"; proofs address it as {audience}"
    return {"words": words, "anchors": anchors, "agents": sorted(trust.agents.values()), "audience": audience}


def _audience(home: Path) -> str | None:
    """The name under which proofs from elsewhere address a guard that was given no other."""
    from agentguard.state.store import State

    if not (home / "state.db").exists():
        return None
    state = State.open(home / "state.db")
    try:
        return f"urn:agentguard:{state.domain}"
    finally:
        state.close()


def _keys(home: Path) -> Look:
    """Every key file: whether only its owner can read it. A missing one is made on first use."""
    from agentguard.cli.trust import ring_of
    from agentguard.keys import LocalKey

    ring_of(home)
    files = sorted(path for path in (home / "keys").iterdir() if path.suffix == ".pem")
    for path in files:
        LocalKey.load(path)
    names = [path.name for path in files]
    holders = sum(name not in ("issuer.pem", "log.pem") for name in names)
    present = [word for word, name in (("issuer", "issuer.pem"), ("log", "log.pem")) if name in names]
    return {"words": f"{' and '.join(present) or 'no issuer'}, {count(holders, 'holder')}; only their owner can read them", "files": names}


def _clock(home: Path) -> Look:
    import time

    from agentguard.cli.log_common import log_keys
    from agentguard.environment import CLOCK_TOLERANCE_NS
    from agentguard.log.heads import read_head, remembered

    keys = log_keys(home, None)
    heads = [head for shard in remembered(home) if (head := read_head(home, shard, keys)) is not None]
    last = max((head.time_ns for head in heads), default=0)
    behind = last - time.time_ns()
    look = {"last_checkpoint": str(last) if heads else None, "behind_ns": max(0, behind)}
    if behind > CLOCK_TOLERANCE_NS:
        words = f"{span(behind)} behind the last checkpoint: calls are denied until `agentguard log accept-clock`"
        return {**look, "words": words, "problem": words}
    return {**look, "words": f"ahead of the last checkpoint ({when(last)})" if heads else "no checkpoint yet"}


def _log(home: Path, history: Look) -> Look:
    """Manifest and heads against their signatures and each other; sizes against the heads. The records themselves are not read."""
    from agentguard.cli.log_common import log_keys
    from agentguard.log import read_shards
    from agentguard.log.heads import read_head, remembered
    from agentguard.log.manifest import read_manifest

    if history.get("problem"):
        raise InvalidInput(history["problem"])
    keys = log_keys(home, None)
    manifest = read_manifest(home, keys)
    listed = manifest.shards if manifest is not None else ()
    heads = {shard: head for shard in remembered(home) if (head := read_head(home, shard, keys)) is not None}
    stray = sorted({*read_shards(home), *heads} - set(listed))
    if stray:
        raise InvalidInput(f"shard {stray[0]} is not in the manifest", hint="agentguard log verify says more")
    signed = sum(head.size for head in heads.values())
    words = f"{keys.name}, {count(len(listed), 'shard')}, {count(signed, 'record')} under signed checkpoints; heads and manifest fit"
    look = {"name": keys.name, "shards": len(listed), "signed_records": signed}
    return {**look, "words": words}


def _initiators(history: Look) -> Look:
    methods = history.get("methods", [])
    asserted = methods.count("asserted")
    look = {"asserted": asserted, "authenticated": len(methods) - asserted, "attention": asserted > 0}
    if not methods:
        return {**look, "words": "no task was started yet"}
    words = f"{asserted} of {len(methods)} recent tasks name an initiator that nobody authenticated (ASSERTED)"
    return {**look, "words": words if asserted else f"authenticated in all of {len(methods)} recent tasks"}


def _stopped(home: Path) -> Look:
    from agentguard.state.store import State

    if not (home / "state.db").exists():
        return {"words": "nothing", "count": 0}
    state = State.open(home / "state.db")
    try:
        active = [(str(kind), value) for kind, values in state.revocations().active.items() for value in values]
    finally:
        state.close()
    words = ", ".join(printable(f"{kind} {value}".strip(), 80) for kind, value in active[:8]) or "nothing"
    return {"words": words, "count": len(active), "attention": bool(active), "stops": [list(stop) for stop in active]}
