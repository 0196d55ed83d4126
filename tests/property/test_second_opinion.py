"""Two judges, one call: whatever the second evaluator (`tests/second`, written without sight of `src/`) denies, the product denies.

The verdict is held strictly. Codes may differ where the two count the same fault under different names, or where the product is stricter
by choice: those places stand in the tables below, each with its reason, and nowhere else. The last part plants holes in the product and
wants each to be seen, so that the comparison is known to be able to fail.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import itertools
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import agentguard.decide as core
from agentguard import ToolCall
from agentguard.artifacts import steps
from agentguard.artifacts.jws import Token
from agentguard.artifacts.revocation import Revocations
from agentguard.constraints.addresses import Cidr, Email, Url
from agentguard.constraints.matchers import Glob, Regex
from agentguard.constraints.matchers import Path as PathRule
from agentguard.constraints.tokens import ToolMap
from agentguard.constraints.vocabulary import Contains, Exact, NotOneOf, OneOf, Range, Subset
from agentguard.decide import decide
from agentguard.decision import Decision, Stage
from agentguard.errors import InvalidInput
from agentguard.policy import load
from agentguard.policy.forbid import ForbidIndex
from agentguard.policy.model import Policy
from agentguard.premises import Binding
from second import universe
from second.outcome import CODES
from second.strategies import Case, cases, seeded_case
from support import opinion
from support.opinion import NO_POLICY, SAMPLES, SOAK, code_of, digest, first_opinion, sample, second_opinion, wrongly_allowed

ROOT = Path(__file__).resolve().parents[2]
GUARDS = 1000 if SOAK else 60

#: (product, second): one fault under two names.
SAME_FAULT = {
    ("artifact_malformed", "delegation_invalid"): "a mixed chain: a header that is not the chain's fails at 4a (docs/profile.md)",
    ("delegation_invalid", "artifact_malformed"): "a jti that stands twice: 2c",
    ("signature_invalid", "artifact_malformed"): "a signature that is no canonical base64url: 3b, 4b; the draft names no step for it",
    ("artifact_malformed", "artifact_missing"): "an empty chain in a presentation: there is something, and it is no chain",
}
#: What the product refuses by choice, and so earlier than the second evaluator, or where that one allows.
STRICTER = {
    "malformed_call": "stage 0: a number that a double cannot carry never comes in; names are printable ASCII; the tool's signature binds",
    "artifact_malformed": "profile.nbf: a beginning after the end (docs/profile.md §1)",
    "delegation_invalid": "narrowing that we cannot show is refused; the second evaluator refuses only what it can refute",
    "argument_not_in_scope": "paths with '.', '//' or what does not print, and ports that no rule names, are not accepted",
    "argument_not_allowed": "the same in the policy",
    "proof_invalid": "a proof that comes is verified, whether it is wanted or not",
    NO_POLICY: "the policy is not loaded, so there is no guard to ask",
}
STAGE_OF = {code: stage for stage, codes in CODES.items() for code in codes} | {NO_POLICY: -1, "allow": 99}


def encoded(decision: Decision | None) -> bytes:
    """Every byte that a decision says."""
    return msgspec.json.encode(decision)


def explained(case: Case, product: str, second: str, *, single: bool = False) -> bool:
    """Whether the tables say why two answers differ. `single`: there is one fault at most, so that no order of reading can matter."""
    if product == second or (product, second) in SAME_FAULT:
        return True
    early, late = STAGE_OF[product], STAGE_OF[second]
    if product in STRICTER and (early < late or (early == late and not single)):
        return True
    if second == "artifact_malformed" and any("aud_number" in link.damage for link in case.recipe.links):
        return early <= Stage.SCOPE  # an ill-typed aud names nobody (docs/profile.md §5, step 6c); what comes before it may fail first
    return len(case.faults) > 1 and early == late


def agree(case: Case, second: str, *, single: bool = False) -> None:
    """The property, for one case."""
    decision = first_opinion(case)
    product = code_of(decision)
    assert product != "allow" or second == "allow", _told(case, product)
    assert explained(case, product, second, single=single), _told(case, product)
    assert encoded(first_opinion(case)) == encoded(decision), "the same inputs, another decision"


def _told(case: Case, *product: str) -> str:
    return f"product {product}, second {case.evaluate()}, faults {case.faults}"


# --- the product against the second evaluator -------------------------------------------------------------------------------------------


@given(cases(digest))
def test_what_the_second_evaluator_denies_is_denied(case: Case) -> None:
    agree(case, second_opinion(case))


@pytest.mark.parametrize("name", SAMPLES)
def test_every_sample_agrees(name: str) -> None:
    judged = sample(name)
    for case, second in judged:
        agree(case, second, single=name != "seeded")
    both = [second for case, second in judged if second == code_of(first_opinion(case)) == "allow"]
    refused = [second for _, second in judged if second != "allow"]
    assert min(len(both), len(refused)) > len(judged) // 12, "a comparison over one verdict would show nothing"


def test_the_samples_reach_every_code() -> None:
    """Each code that the second evaluator can end with is one that both give, for some case."""
    found = {second for name in SAMPLES for case, second in sample(name) if second == code_of(first_opinion(case))}
    assert found == {code for codes in CODES.values() for code in codes} | {"allow"}


def test_little_is_refused_by_choice() -> None:
    """The tables are for corners: of what the second evaluator allows, all but a few in a hundred is allowed."""
    allowed = [case for case, second in sample("seeded") if second == "allow"]
    refused = [case for case in allowed if code_of(first_opinion(case)) != "allow"]
    assert len(refused) < len(allowed) // 15


def test_a_decision_does_not_depend_on_the_hash_seed() -> None:
    """The whole way from texts to the bytes of the decision, in interpreters that order their sets differently."""
    chosen = [case for case, _ in sample("seeded")[:40]]
    code = (
        "import pickle, sys; from support.opinion import first_opinion; import msgspec\n"
        "for case in pickle.load(sys.stdin.buffer): print(msgspec.json.encode(first_opinion(case)).decode())"
    )
    paths = os.pathsep.join(str(ROOT / part) for part in ("src", "adapters", "tests"))
    for seed in ("0", "1", "4711"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": paths}
        done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(chosen), capture_output=True, check=True, env=environment)
        assert done.stdout.splitlines() == [encoded(first_opinion(case)) for case in chosen]


# --- garbage ------------------------------------------------------------------------------------------------------------------------------

NUMBERS = st.integers() | st.floats() | st.sampled_from([2**53 + 1, 10**400, -0.0, 5e-324])
TEXT = st.text(max_size=20) | st.sampled_from(["", "*", "..", "\ud800", "a\x00b", "constraint_type"])
SCALARS = st.none() | st.booleans() | NUMBERS | TEXT
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=12)
NO_VALUES = st.binary(max_size=4) | st.sets(st.integers(), max_size=2) | st.just(object()) | st.just(Decision) | st.complex_numbers()
NAMES = st.sampled_from(["path", "limit", "to", "url", "*", "extra"]) | TEXT
ARGUMENTS = st.dictionaries(NAMES, VALUES, max_size=5)
SEED = st.integers(0, 199)


@functools.cache
def _world(seed: int) -> Case:
    return seeded_case(seed, digest)


@given(SEED, ARGUMENTS, ARGUMENTS, TEXT)
def test_any_json_as_arguments_and_any_text_as_proof(seed: int, presented: dict[str, Any], more: dict[str, Any], proof: str) -> None:
    world = _world(seed)
    for bound in (presented, {**presented, **more}, more):
        case = dataclasses.replace(world, call={**world.call, "presented": presented, "bound": bound}, proof=proof or None)
        product = code_of(first_opinion(case))
        assert product != "allow" or second_opinion(case) == "allow"


@given(SEED, VALUES | NO_VALUES, VALUES | NO_VALUES, VALUES | NO_VALUES | st.dictionaries(NAMES | NUMBERS, NO_VALUES), ARGUMENTS)
def test_anything_as_a_call_and_as_bound_values(seed: int, agent: Any, tool: Any, arguments: Any, bound: dict[str, Any]) -> None:
    """Names and arguments of any type; bound values as a tool's own coercion might leave them, not even frozen."""
    world = _world(seed)
    policy, grant = opinion.policy_of(world.policy_text), opinion.grant_of(world)
    if policy is None:
        return
    for call in (ToolCall(agent, tool, arguments, agent, proof=tool), ToolCall("boss", "fetch", arguments)):
        decision = decide(call, Binding(bound), grant, policy, opinion.facts_of(world), world.now)
        assert isinstance(decision, Decision)
        assert not (call.defect and decision.allowed)
    decide(opinion.call_of(world), Binding(bound), grant, policy, opinion.facts_of(world), world.now)


@given(SEED, st.data())
def test_anything_as_tokens(seed: int, data: st.DataObject) -> None:
    """Real tokens cut, joined, repeated and overwritten, and texts that are none: a chain is refused by its own error, or verifies."""
    world = _world(seed)
    real = world.chain or ["x"]
    pieces = st.sampled_from(sorted({part for token in real for part in token.split(".")})) | st.text(max_size=12) | st.just("e30")
    joined = st.lists(pieces, max_size=4).map(".".join)
    tokens = data.draw(st.lists(st.sampled_from(real) | joined | st.text(max_size=30), max_size=5))
    place, letter = data.draw(st.integers(0, len(real[0]) - 1)), data.draw(st.characters())
    for chain in (tokens, [*real, *tokens], [real[0][:place] + letter + real[0][place + 1 :], *real[1:]]):
        case = dataclasses.replace(world, chain=chain)
        product = code_of(first_opinion(case))
        assert product != "allow" or second_opinion(case) == "allow"


PARTS = [
    "agentguard: 1",
    "name: x",
    "agents:",
    "  a:",
    "    tools:",
    "      t: {x: any}",
    "forbid:",
    "- {tool: '*'}",
    "{}",
    "[]",
    "&a",
    "*a",
    "? b",
    "!!x",
]


@given(st.text(max_size=60) | st.lists(st.sampled_from(PARTS) | st.text(max_size=8), max_size=12).map("\n".join))
def test_any_text_as_policy(text: str) -> None:
    try:
        policy = load(text + "\n")
    except InvalidInput:
        return
    assert isinstance(policy, Policy)


# --- through a whole guard ----------------------------------------------------------------------------------------------------------------


def test_a_guard_agrees(tmp_path: Path) -> None:
    """Trust file, accepted chain, registered tools, operator's stops: the same answers as from bare values, in the dry run too."""
    expressible = (case for case in (seeded_case(seed, digest) for seed in itertools.count()) if opinion.expressible(case))
    verdicts = []
    for number, drawn in enumerate(itertools.islice(expressible, GUARDS)):
        said = opinion.through_a_guard(drawn, tmp_path / str(number))
        second = second_opinion(said.case)
        told = _told(said.case, said.dry, said.checked)
        assert said.checked != "allow" or second == "allow", told
        assert explained(drawn, said.dry, second), told
        if said.checked != said.dry:  # stage 13 is behind the dry run: uses counted in a state domain that is not this guard's
            assert (said.dry, said.checked) == ("allow", "state_unavailable"), told
            assert any(link.uses is not None for link in drawn.recipe.links), told
        verdicts.append(said.checked)
    assert verdicts.count("allow") > GUARDS // 3
    assert len(set(verdicts)) > 8


def test_a_plain_chain_is_proven_at_home_too(tmp_path: Path) -> None:
    """DESIGN §4: plain chains always need the proof. A guard that holds the leaf's key makes it; without the key there is no call."""
    plain = (case for case, second in sample("seeded") if second == "allow" and not case.recipe.links[0].profile)
    case = next(case for case in plain if case.proof is not None and case.proof_required is not True and opinion.expressible(case))
    bare = dataclasses.replace(case, proof=None)
    assert code_of(first_opinion(bare)) == second_opinion(bare) == "proof_missing"
    said = opinion.through_a_guard(bare, tmp_path / "holder")
    assert (said.dry, said.checked) == ("allow", "allow")
    away = dataclasses.replace(bare, proof_required=True)
    said = opinion.through_a_guard(away, tmp_path / "stranger")
    assert (said.dry, said.checked) == ("proof_missing", "proof_missing")


def test_the_tools_are_those_of_the_second_evaluators_world() -> None:
    for name, fn in opinion.tools().items():
        defaults = {name: default for name, (_, default) in universe.TOOLS[name].items() if default is not universe.REQUIRED}
        code = fn.__code__
        assert code.co_varnames[: code.co_argcount] == tuple(universe.TOOLS[name])
        assert dict(zip(reversed(code.co_varnames[: code.co_argcount]), reversed(fn.__defaults__ or ()), strict=False)) == defaults
    assert opinion.tools().keys() == universe.TOOLS.keys()


# --- holes --------------------------------------------------------------------------------------------------------------------------------


def _no(*_: Any, **__: Any) -> None:
    return None


def _yes(*_: Any, **__: Any) -> bool:
    return True


def _under(self: Any, value: Any) -> bool:
    return type(value) is str and value.startswith(self.root)


def _anywhere(self: Any, value: Any) -> bool:
    return type(value) is str and re.search(self.pattern, value) is not None


def _at_the_end(self: Any, value: Any) -> bool:
    return type(value) is str and value.endswith(tuple(self.domains))


def _across(self: Any, value: Any) -> bool:
    return type(value) is str and fnmatch.fnmatchcase(value, self.pattern)


def _host_inside(self: Any, value: Any) -> bool:
    return type(value) is str and any(host.removeprefix("*.") in value for host in self.hosts)


def _inclusive(self: Any, value: Any) -> bool:
    low, high = self.min, self.max
    return type(value) in (int, float) and (low is None or low <= value) and (high is None or value <= high)


def _bool_is_a_number(self: Any, value: Any) -> bool:
    return isinstance(value, (int, float)) and self.low <= value <= self.high


def _equal(self: Any, value: Any) -> bool:
    return bool(value == self.value)


def _member(self: Any, value: Any) -> bool:
    return value in self.values


def _one_of_required(self: Any, value: Any) -> bool:
    return type(value) is tuple and (not self.required or any(item in self.required for item in value))


def _some_allowed(self: Any, value: Any) -> bool:
    return type(value) is tuple and (not value or any(item in self.allowed for item in value))


#: What is replaced, and by what: whole steps left out, and the well-known wrong ways of comparing.
HOLES: dict[str, tuple[Any, str, Any]] = {
    "links need not narrow": (steps, "map_narrows", _no),
    "scope": (core, "check_scope", _no),
    "time": (core, "check_time", _no),
    "audience": (core, "check_audience", _no),
    "proofs are not verified": (core, "verify_proof", _no),
    "no proof is wanted": (core, "proof_wanted", _no),
    "no proof at home, even of plain chains": (core, "proof_wanted", lambda chain, grant, attributes: not grant.possessed),
    "policy": (Policy, "judge", _no),
    "delegates": (Policy, "may_delegate", _no),
    "environment of the policy": (Policy, "judge_environment", _no),
    "forbid": (ForbidIndex, "first", _no),
    "revocation": (Revocations, "match", _no),
    "signatures": (Token, "signed_by", _yes),
    "depths": (steps, "_depths", _no),
    "times of links": (steps, "_times", _no),
    "unnamed arguments": (ToolMap, "_check_unnamed", _no),
    "path by letters": (PathRule, "check", _under),
    "regex anywhere": (Regex, "check", _anywhere),
    "email by its end": (Email, "check", _at_the_end),
    "glob across slashes": (Glob, "check", _across),
    "url by a part": (Url, "check", _host_inside),
    "any address": (Cidr, "check", _yes),
    "range always inclusive": (Range, "check", _inclusive),
    "true is a number": (Range, "check", _bool_is_a_number),
    "true is 1 in exact": (Exact, "check", _equal),
    "true is 1 in one_of": (OneOf, "check", _member),
    "not_one_of": (NotOneOf, "check", _yes),
    "contains one": (Contains, "check", _one_of_required),
    "subset in part": (Subset, "check", _some_allowed),
}


def _seen() -> bool:
    """Whether the samples hold a case that the product, as it is now, wrongly allows."""
    opinion.policy_of.cache_clear()
    try:
        mixed = itertools.chain.from_iterable(itertools.zip_longest(*[sample(name) for name in SAMPLES]))
        return any(True for _ in wrongly_allowed(judged for judged in mixed if judged is not None))
    finally:
        opinion.policy_of.cache_clear()


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, str, Any], None]:
    """Puts a hole into the product, once the second evaluator has judged the samples."""
    for name in SAMPLES:
        sample(name)
    return monkeypatch.setattr


def test_no_hole_is_seen_where_there_is_none() -> None:
    assert not _seen()


@pytest.mark.parametrize("name", HOLES)
def test_a_planted_hole_is_seen(name: str, plant: Callable[[Any, str, Any], None]) -> None:
    plant(*HOLES[name])
    assert _seen()


# Stage 1 is left out: where there is no chain, stage 2 says so. So is stage 12: no policy here asks (test_policy_second.py has those).
@pytest.mark.parametrize("stage", [stage for stage, _ in core._STAGES if stage not in (Stage.PRESENCE, Stage.APPROVAL)])
def test_a_missing_stage_is_seen(stage: Stage, plant: Callable[[Any, str, Any], None]) -> None:
    plant(core, "_STAGES", tuple(entry for entry in core._STAGES if entry[0] is not stage))
    if stage is Stage.CHAIN:  # what is not verified is not there for later stages to judge by
        with pytest.raises(AttributeError, match="NoneType"):
            _seen()
    else:
        assert _seen()
