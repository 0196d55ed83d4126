"""The product's answer to a case of the second evaluator (`tests/second`), which knows nothing of the product.

Each input of a case is turned into the product's own values in the one obvious way, so that both judge the same call in the same world.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Final

import yaml

from agentguard import Denied, Guard, ToolCall
from agentguard.artifacts.chain import Anchor, ChainError, Limits, TrustAnchors, VerifiedChain, verify_structure
from agentguard.artifacts.revocation import Action, Event, Kind, Revocations
from agentguard.canonical import b64url_decode, freeze, jcs, parse
from agentguard.decide import decide
from agentguard.decision import Decision
from agentguard.environment import NANOSECOND, Clock
from agentguard.errors import InvalidInput
from agentguard.keys import LocalKey, PublicKey
from agentguard.policy import load
from agentguard.policy.model import Policy
from agentguard.premises import NO_GRANT, Binding, Facts, Grant
from agentguard.task import Task
from agentguard.tools.integrity import register
from second import corpus, mint, universe
from second.strategies import Case, build, seeded_case, text_digest

#: What stands for the code where a policy does not load: there is no guard then, so nothing runs.
NO_POLICY = "policy does not load"


class _Flat(yaml.SafeDumper):
    """Writes every value out where it stands."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def flat(text: str) -> str:
    """The same policy without YAML's anchors, which ours refuses: the second evaluator's writer shares equal parts by them."""
    return text if "&id" not in text else yaml.dump(yaml.safe_load(text), Dumper=_Flat, sort_keys=False, allow_unicode=True, width=200)


@lru_cache(4096)
def policy_of(text: str) -> Policy | None:
    """The policy, or None where it does not load."""
    try:
        return load(flat(text))
    except InvalidInput:
        return None


def digest(text: str) -> str:
    """The product's digest of a policy text: the `digest` of the second evaluator's strategies."""
    policy = policy_of(text)
    return policy.digest if policy is not None else text_digest(text)


def rebound(case: Case) -> Case:
    """A case of the corpora, whose tokens name no policy, with the product's digest."""
    return replace(case, policy_digest=digest(case.policy_text))


def anchors_of(case: Case) -> TrustAnchors:
    return TrustAnchors([Anchor(iss, PublicKey.from_raw(raw)) for iss, raw in case.anchors])


def call_of(case: Case) -> ToolCall:
    call = case.call
    return ToolCall(call["agent"], call["tool"], call["presented"], call["call_id"], proof=case.proof)


def binding_of(case: Case) -> Binding:
    """What the tool would make of the call. A tool that drops an argument does not take it, and says so."""
    integrity = "" if case.integrity_ok else "its source differs"
    presented, bound = case.call["presented"], case.call["bound"]
    if not presented.keys() <= bound.keys():
        return Binding({}, "an argument that the tool does not have", integrity)
    try:
        return Binding(freeze(bound), "", integrity)
    except InvalidInput as error:
        return Binding({}, str(error), integrity)


def grant_of(case: Case, limits: Limits = Limits()) -> Grant:
    """The chain as the guard verifies it. Where no process boundary is crossed, the guard holds the leaf's key."""
    if case.chain is None:
        return NO_GRANT
    try:
        chain = verify_structure(case.chain, anchors_of(case), limits)
    except ChainError as error:
        return Grant(present=True, error=error)
    return Grant(True, chain, None, names_of(chain, case.bindings), case.proof_required is not True)


def names_of(chain: VerifiedChain, bindings: dict[str, str]) -> tuple[str | None, ...]:
    """Which agent holds each link: a trusted binding says it, and the issuer's word counts for the root (as in `Authority`)."""
    bound = [bindings.get(link.holder.thumbprint()) for link in chain.links]
    profile = chain.root.profile
    return (bound[0] if bound[0] is not None or profile is None else profile.agent, *bound[1:])


def revocations_of(case: Case) -> Revocations:
    events = [
        Event(Action.REVOKE, Kind(kind), "" if kind == "all" else value, "operator", "", case.now * 10**9, f"{kind}-{value}")
        for kind, values in case.revoked.items()
        for value in values
    ]
    return Revocations.fold(len(events), events)


def facts_of(case: Case, limits: Limits = Limits()) -> Facts:
    audience = () if case.audience is None else (case.audience,)
    return Facts(freeze(case.facts), revocations_of(case), limits, audience)


def first_opinion(case: Case) -> Decision | None:
    """What `decide` says of the case; None where the policy does not load."""
    policy = policy_of(case.policy_text)
    return None if policy is None else decide(call_of(case), binding_of(case), grant_of(case), policy, facts_of(case), case.now)


def code_of(decision: Decision | None) -> str:
    """The code of a refusal, "allow" of an approval."""
    if decision is None:
        return NO_POLICY
    return "allow" if decision.allowed else str(decision.code)


def second_opinion(case: Case) -> str:
    """The same of the second evaluator."""
    found = case.evaluate()
    return "allow" if found["verdict"] == "allow" else str(found["code"])


def wrongly_allowed(cases: Iterable[tuple[Case, str]]) -> Iterator[Case]:
    """The cases (with the second evaluator's answer) that the product allows and the second evaluator denies."""
    return (case for case, second in cases if second != "allow" and code_of(first_opinion(case)) == "allow")


# --- samples ------------------------------------------------------------------------------------------------------------------------

SOAK = os.environ.get("HYPOTHESIS_PROFILE") == "soak"
SEEDS = 5000 if SOAK else 360
STEP = 1 if SOAK else 9  # of the corpora: coprime to the lengths of their inner loops

Judged = tuple[Case, str]  # with the second evaluator's answer


def _seeded(count: int) -> Iterator[Case]:
    for seed in range(count):
        case = seeded_case(seed, digest)
        yield case
        if seed % 4 == 0 and case.proof is not None:  # and without the proof, from inside and outside the process
            yield replace(case, proof=None, proof_required=bool(seed % 8) or None)
        if case.call["tool"] == "delete_all":  # and with an argument that cannot even be carried, where none is taken
            argument = {"extra": 10**400}
            yield replace(case, call={**case.call, "presented": argument, "bound": argument})


def _unknown_agent() -> Iterator[Case]:
    """A root for an agent that the policy does not know; where a delegate is unknown, ours does not even load."""
    plan = corpus.plan_of(("boss",), "delete_all", {}, [{}], profile=True)
    plan.policy["agents"] = {"reader": plan.policy["agents"].pop("boss")}
    plan.policy["tools"]["delete_all"]["unsafe_any_arguments"] = True
    yield build(plan, (), digest)


def _part(found: Iterator[Any]) -> Iterator[Case]:
    """Every `STEP`th case of a corpus, with our digest of its policy."""
    return (rebound(item[-1]) for item in itertools.islice(found, 0, None, STEP))


SAMPLES: dict[str, Callable[[], Iterator[Case]]] = {
    "seeded": lambda: itertools.chain(_seeded(SEEDS), _unknown_agent()),
    "damage": lambda: (rebound(case) for _, _, case in corpus.damage_cases()),
    "narrowing": lambda: _part(corpus.narrowing_cases()),
    "values": lambda: _part(corpus.value_cases()),
}


@cache
def sample(name: str) -> list[Judged]:
    """One sample, judged by the second evaluator once."""
    return [(case, second_opinion(case)) for case in SAMPLES[name]()]


# --- the same through a whole guard ---------------------------------------------------------------------------------------------------

#: The names whose keys the second evaluator signs with; their seeds are known.
SIGNERS: Final = (*universe.AGENTS, "issuer", "second issuer", "stranger")


def signing_key(name: str) -> LocalKey:
    """The private key that the second evaluator calls `name`."""
    key = LocalKey.from_seed(hashlib.sha256(b"second evaluator, key " + name.encode()).digest())
    if key.public.raw != mint.public_key(name):
        raise AssertionError(f"the second evaluator makes the key {name} in another way")
    return key


def tools() -> dict[str, Any]:
    """The tools of the second evaluator's world as functions, fresh ones at each call. They do nothing: no call of a test runs them."""

    def read_file(path: Any, limit: Any = 5) -> None: ...
    def send_email(to: Any, subject: Any, body: Any = "") -> None: ...
    def search(query: Any, limit: Any = 10) -> None: ...
    def fetch(url: Any) -> None: ...
    def tag(labels: Any, weight: Any = 1) -> None: ...
    def connect(address: Any, port: Any) -> None: ...
    def delete_all() -> None: ...

    return {fn.__name__: fn for fn in (read_file, send_email, search, fetch, tag, connect, delete_all)}


def expressible(case: Case) -> bool:
    """Whether a home directory can be set up as the case has it: a trust file binds one key to an agent, not two."""
    return len(set(case.bindings.values())) == len(case.bindings) and policy_of(case.policy_text) is not None


@dataclass(frozen=True, slots=True)
class Guarded:
    """What a guard said: in the dry run, at the check, and the case as that guard saw it."""

    dry: str
    checked: str
    case: Case


def through_a_guard(case: Case, home: Path) -> Guarded:
    """Set up a home as the case has it, open a guard there, and let it check the call. The case must be `expressible`."""
    home.mkdir()
    _write_trust(case, home)
    with Guard.open(flat(case.policy_text), home=home, durability="process", environment=case.facts, audience=case.audience) as guard:
        functions = tools()
        for fn in functions.values():
            guard.register(register(fn))
        fn = functions.get(case.call["tool"])
        if fn is not None and not case.integrity_ok:
            fn.__code__ = fn.__code__.replace(co_consts=(*fn.__code__.co_consts, "changed after the guard opened"))
        for kind, values in case.revoked.items():
            for value in values:
                guard.stop(kind, value)
        guard._enforcement.clock = Clock(wall=lambda: case.now * NANOSECOND, elapsed=lambda: 0)  # the cases are of another year
        task = _accepted(case, guard)
        call = ToolCall(case.call["agent"], case.call["tool"], case.call["presented"], case.call["call_id"], proof=case.proof)
        dry = code_of(guard.decide(call, task=task))
        try:
            guard.check(call, task=task).release()
            checked = "allow"
        except Denied as denied:
            checked = code_of(denied.decision)
        return Guarded(dry, checked, _as_seen(case, guard))


def _write_trust(case: Case, home: Path) -> None:
    keys = {mint.thumbprint(name): mint.jwk(name) for name in SIGNERS}
    anchors = [{"iss": iss, "jwk": PublicKey.from_raw(raw).jwk()} for iss, raw in case.anchors]
    agents = {agent: keys[thumbprint] for thumbprint, agent in case.bindings.items()}
    (home / "trust.json").write_bytes(jcs({"anchors": anchors, "agents": agents}))


def _accepted(case: Case, guard: Guard) -> Task | None:
    """The task under the case's chain; with the leaf's key, where the call does not come from another process."""
    if case.chain is None:
        return None
    return guard.accept({"aat_chain": case.chain}, None if case.proof_required is True else _leaf_key(case.chain))


def _leaf_key(chain: list[str]) -> LocalKey | None:
    """The private key of the leaf's holder, if the leaf can be read and names one of ours."""
    try:
        public = PublicKey.from_jwk(parse(b64url_decode(chain[-1].split(".")[1]))["cnf"]["jwk"])
    except (InvalidInput, LookupError, TypeError):
        return None
    return next((key for key in map(signing_key, SIGNERS) if key.public == public), None)


def _as_seen(case: Case, guard: Guard) -> Case:
    """The case with what this guard adds: its name, where none was given, and the defaults of its tools in place of those drawn."""
    presented = case.call["presented"]
    signature = universe.TOOLS.get(case.call["tool"], {})
    defaults = {name: default for name, (_, default) in signature.items() if default is not universe.REQUIRED}
    return replace(case, audience=guard.audience, call={**case.call, "bound": {**defaults, **presented}})
